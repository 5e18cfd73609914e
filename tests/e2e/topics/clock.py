"""C4: clocks that jump (three days back, forty days and ten years ahead, to 1970), leap seconds and changes of zone, on each command: nothing is deleted that the right clock would keep, a
snapshot of the future is not `latest`, and a grace period does not end because of one run with a wrong clock. The clock of the program is set by `faketime`; the times of files stay true."""
import os, shutil, time

from harness import Skip, content_of, need, need_tools, objects, remove, same, tree

DAY = 86400
# Name, what faketime takes, and by how much it is off (or what it is).
JUMPS = (("three days back", "-3d", lambda now: now - 3 * DAY), ("forty days ahead", "+40d", lambda now: now + 40 * DAY),
         ("ten years ahead", "+10y", lambda now: now + 3650 * DAY), ("1970", "@1970-01-01 12:00:00", lambda now: DAY // 2))


def fake(t, when, *words, zone="UTC", **more):
    """Runs keepwatch at another time."""
    env = dict(more.pop("env", t.env), TZ=zone, NO_FAKE_STAT="1", FAKETIME_DONT_FAKE_MONOTONIC="1", DONT_FAKE_MONOTONIC="1")
    return t.kw(*words, "--json", env=env, prefix=["faketime", "-f", when], **more)


def probe(t):
    need_tools("faketime")
    run = t.sh("faketime", "-f", "+10y", "date", "+%Y", rc=None)
    if run.code or int(run.text) < time.gmtime().tm_year + 9:
        raise Skip("faketime does not work here: %s" % run)


class History:
    """Snapshots of twelve days, one a day, the last of now; in copies for each clock."""

    def __init__(self, t):
        probe(t)
        self.t, self.src = t, t.path("src")
        repo = t.repository("good")
        self.kept = []  # (id, state, start), oldest first
        now = time.time()
        for back in range(11, -1, -1):
            for i in range(3):
                t.write("src/%d" % i, t.noise(900 + back))
            run = fake(t, "-%dd" % back, "backup", "--repo", repo, self.src)
            self.kept.append((run.json["snapshot"], tree(self.src), now - back * DAY))
        need(t.ids(repo) == [k[0] for k in self.kept], "in the order of their dates")
        self.ids = {k[0] for k in self.kept}

    def copy(self):
        """A fresh copy of repository and home: (repository, environment)."""
        t = self.t
        for name in ("repo", "home-copy"):
            remove(t.path(name))
        shutil.copytree(t.path("good"), t.path("repo"))
        shutil.copytree(t.path("home"), t.path("home-copy"), symlinks=True)
        os.chmod(t.path("home-copy"), 0o700)
        return t.path("repo"), t.home("home-copy")

    def restores(self, repo, env, ids):
        for i, state, _ in self.kept:
            if i in ids:
                self.t.must_restore(repo, i, self.src, state, env=env)

    def latest(self, now):
        """What `latest` is by a clock that shows `now`: the newest that is not more than a day ahead; if all are, the newest."""
        past = [k for k in self.kept if k[2] <= now + DAY]
        return (past or self.kept)[-1]


POLICY = ("--keep-last", "2", "--keep-daily", "3", "--keep-within", "4d")


def test_reading(t):
    """`snapshots`, `verify` and `restore` by a wrong clock change nothing and give what the rule says."""
    h = History(t)
    repo, env = h.copy()
    before = content_of(repo)
    for name, when, clock in JUMPS:
        listed = fake(t, when, "snapshots", "--repo", repo, env=env).json["snapshots"]
        need([s["id"] for s in listed] == [k[0] for k in h.kept], "%s: %s" % (name, listed))
        v = fake(t, when, "verify", "--repo", repo, "--read-data", env=env).json
        need(v["sound"], "%s: %s" % (name, v))
        out = t.path("out")
        remove(out)
        got = fake(t, when, "restore", "--no-sync", "--repo", repo, "--target", out, env=env).json
        i, state, _ = h.latest(clock(time.time()))
        need(got["snapshot"] == i, "%s: latest is %s, not %s" % (name, got["snapshot"], i))
        same(tree(out + h.src), state, "latest, %s" % name)
        out2 = t.path("out2")
        remove(out2)
        fake(t, when, "restore", "--no-sync", "--repo", repo, "--target", out2, h.kept[-1][0], env=env)
        same(tree(out2 + h.src), h.kept[-1][1], "by its id, %s" % name)
    need(content_of(repo) == before, "the repository is as it was")


def test_backup(t):
    """A backup by a wrong clock is kept and can be restored, is not `latest`, and disturbs neither the next backup nor a policy."""
    h = History(t)
    right = None
    for name, when, clock in JUMPS:
        repo, env = h.copy()
        wanted = set(t.js("forget", "--repo", repo, *POLICY, "--dry-run", env=env)["forgotten"])
        need(right is None or right == wanted, "a test that compares with itself")
        right = wanted
        t.write("src/odd", "written by a wrong clock, %s" % name)
        odd, state = fake(t, when, "backup", "--repo", repo, h.src, env=env).json["snapshot"], tree(h.src)
        os.unlink(t.path("src/odd"))
        need(set(t.ids(repo, env=env)) == h.ids | {odd}, "%s: it is there, and so are all others" % name)
        t.must_restore(repo, "latest", h.src, h.kept[-1][1], env=env)
        t.must_restore(repo, odd, h.src, state, env=env)
        gone = set(t.js("forget", "--repo", repo, *POLICY, env=env)["forgotten"])
        need(gone - {odd} <= wanted, "%s: forgotten because of it: %s" % (name, gone - wanted))
        if clock(time.time()) > time.time() + DAY:
            need(gone == wanted, "%s: one of the future counts for nothing, and is kept: %s" % (name, gone ^ wanted))
        h.restores(repo, env, h.ids - wanted)
        t.write("src/0", "the next one, %s" % name)
        i = t.backup(repo, h.src, env=env)
        t.must_restore(repo, "latest", h.src, tree(h.src), env=env)
        need(t.js("snapshots", "--repo", repo, env=env)["snapshots"] and i in t.ids(repo, env=env), "the next one")
        v = t.js("verify", "--repo", repo, "--read-data", env=env)
        need(v["sound"], v)
        same_as = h.kept[-1][1]
        t.must_restore(repo, h.kept[-1][0], h.src, same_as, env=env)


def test_forget(t):
    """A policy that is applied by a wrong clock drops nothing that it would keep by the right one."""
    h = History(t)
    for policy in (POLICY, ("--keep-hourly", "5"), ("--keep-within-daily", "6d"), ("--keep-weekly", "2", "--keep-yearly", "1"), ("--keep-within", "3d")):
        repo, env = h.copy()
        wanted = set(t.js("forget", "--repo", repo, *policy, "--dry-run", env=env)["forgotten"])
        need(wanted, "a policy that drops something")
        for name, when, clock in JUMPS:
            gone = set(fake(t, when, "forget", "--repo", repo, *policy, "--dry-run", env=env).json["forgotten"])
            need(gone <= wanted, "%s, %s: %s" % (name, policy, gone - wanted))
            if name == "1970":
                need(not gone, "all are of the future then: %s" % gone)
        # For good: in turn by every wrong clock, then by the right one.
        for name, when, clock in JUMPS:
            fake(t, when, "forget", "--repo", repo, *policy, env=env)
        need(set(t.ids(repo, env=env)) >= h.ids - wanted, "lost by %s" % (policy,))
        t.js("forget", "--repo", repo, *policy, env=env)
        h.restores(repo, env, set(t.ids(repo, env=env)))


def kinds(repo):
    return {n for n in objects(repo) if n.split("/")[0] in ("packs", "snapshots", "index", "tombstones")}


def test_prune(t):
    """A grace period does not end because one run has a wrong clock; by the right one everything goes on."""
    h = History(t)
    for name, when, clock in JUMPS:
        repo, env = h.copy()
        gone = set(t.js("forget", "--repo", repo, "--keep-last", "3", env=env)["forgotten"])
        need(len(gone) == 9, gone)
        unfinished = repo + "/tmp/of-another-run"
        with open(unfinished, "w") as f:
            f.write("being written")
        before = kinds(repo)
        for words in (["prune", "--dry-run"], ["prune"], ["prune", "--max-unused", "0%"]):
            report = fake(t, when, *words, "--repo", repo, env=env).json
            need(report["snapshots_deleted"] == report["packs_deleted"] == 0, "%s: %s" % (name, report))
            need(report["clock_ahead"] == (name in ("forty days ahead", "ten years ahead")), "%s, %s: %s" % (name, words, report))
            need(kinds(repo) == before, "%s: deleted: %s" % (name, before - kinds(repo)))
            need(os.path.exists(unfinished), "%s: what another run is writing is gone" % name)
            if report["clock_ahead"] and words == ["prune"]:
                break  # a second run by the same wrong clock believes it: it cannot know better
        # What was forgotten can still be undone, by the right clock too.
        t.kw("prune", "--repo", repo, env=env)
        h.restores(repo, env, h.ids)
        need(before <= kinds(repo), "%s: deleted afterwards: %s" % (name, before - kinds(repo)))
        # And in the end it is pruned.
        for _ in range(2):
            t.kw("prune", "--repo", repo, "--grace", "0s", env=env)
        report = t.js("prune", "--repo", repo, "--grace", "0s", env=env)
        need(report["bytes_unused"] == report["packs_marked"] == report["snapshots_waiting"] == 0, report)
        need(set(t.ids(repo, env=env)) == h.ids - gone, "the others are there")
        h.restores(repo, env, h.ids - gone)
        need(t.js("verify", "--repo", repo, "--read-data", env=env)["notes"] == [], name)


def test_zones_and_leap_seconds(t):
    """The order of snapshots is that of the instants, whatever zone the host was in; and a second that comes twice is a second."""
    probe(t)
    repo, src, kept = t.repository(), t.path("src"), []
    zones = ["Pacific/Kiritimati", "Pacific/Pago_Pago", "Asia/Kathmandu", "America/St_Johns", "UTC", "Europe/Berlin", "XXX-3:30", "nonsense/nowhere", "right/UTC", "Pacific/Kiritimati"]
    # Across the end of 2016 with its leap second, and across two changes of summer time in Berlin.
    moments = ["@2016-12-31 23:59:5%d" % n for n in range(5, 10)] + ["@2017-01-01 00:00:00"] + ["@2024-03-31 00:59:58", "@2024-03-31 01:00:02", "@2024-10-27 00:59:58", "@2024-10-27 01:00:02"]
    for n, (zone, when) in enumerate(zip(zones, moments)):
        t.write("src/f", "%d in %s" % (n, zone))
        # The moment is given in UTC; the zone is set for the program alone.
        env = dict(t.env, TZ="UTC")
        run = t.kw("backup", "--repo", repo, src, "--json", env=dict(env, NO_FAKE_STAT="1", FAKETIME_DONT_FAKE_MONOTONIC="1", FAKETIME=when, LD_PRELOAD=library(t)))
        kept.append((run.json["snapshot"], tree(src)))
        zoned = t.kw("snapshots", "--repo", repo, "--json", env=dict(t.env, TZ=zone)).json["snapshots"]
        need([s["id"] for s in zoned] == [k[0] for k in kept], "in %s: %s" % (zone, zoned))
        t.write("src/f", "%d again" % n)
        i = t.kw("backup", "--repo", repo, src, "--json", env=dict(t.env, TZ=zone, NO_FAKE_STAT="1", FAKETIME_DONT_FAKE_MONOTONIC="1", FAKETIME="+0", LD_PRELOAD=library(t))).json["snapshot"]
        t.must_restore(repo, "latest", src, tree(src), env=dict(t.env, TZ=zone))
        gone = t.kw("forget", "--repo", repo, i, "--json", env=dict(t.env, TZ=zone)).json["forgotten"]
        need(gone == [i], gone)
    # A zone that changes between two runs neither brings back nor drops anything.
    plans = {zone: t.kw("forget", "--repo", repo, "--keep-last", "2", "--keep-daily", "2", "--dry-run", "--json", env=dict(t.env, TZ=zone)).json["forgotten"] for zone in zones}
    need(len({tuple(p) for p in plans.values()}) == 1, plans)
    for i, state in kept:
        t.must_restore(repo, i, src, state)


def library(t):
    """What the faketime command preloads."""
    return t.sh("faketime", "-f", "+0", "sh", "-c", "printf %s \"$LD_PRELOAD\"").text.split(":")[-1]

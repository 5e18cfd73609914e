"""D1, D2, C3: SIGKILL anywhere in backup, forget, prune and restore. Whatever was reported as done verifies and restores; the next run needs no help."""
import json, os, signal, subprocess, time

from harness import Skip, need, need_tools, objects, remove, same, tree


class Store:
    """A repository under fire: what must be in it."""

    def __init__(self, t):
        self.t, self.repo, self.src = t, t.repository(), t.path("src")
        self.kept = {}
        self.kills = self.runs = self.checks = 0
        for i in range(12):
            t.write("src/%s/%d" % ("ab"[i % 2], i), t.noise(t.random.randrange(1, 30_000)))
        self.took = {}
        for _ in range(3):
            for verb in ("backup", "forget", "prune"):
                self.change()
                began = time.time()
                self.note(verb, self.t.kw(*self.words(verb)))
                self.took[verb] = time.time() - began
        self.check(all_of_them=True)

    def words(self, verb):
        return {"backup": ["backup", "--repo", self.repo, "--json", self.src],
                "forget": ["forget", "--repo", self.repo, "--keep-last", "2", "--json"],
                "prune": ["prune", "--repo", self.repo, "--grace", "0s", "--max-unused", "0%", "--json"]}[verb]

    def change(self):
        t = self.t
        for _ in range(3):
            path = t.write("src/%s/%d" % (t.random.choice("abc"), t.random.randrange(14)), t.noise(t.random.randrange(1, 30_000)))
        if t.random.random() < 0.3:
            os.unlink(path)

    def note(self, verb, run):
        """Learns what a run reported. What it did not report may have been done nevertheless."""
        reported = None
        try:
            reported = json.loads(run.out)
        except ValueError:
            need(run.code != 0, run)
        if verb == "backup" and reported and reported["snapshot"]:
            self.kept[reported["snapshot"]] = tree(self.src)
        if verb == "forget" and reported:
            for i in reported["forgotten"]:
                self.kept.pop(i, None)

    def attack(self, verb, seconds=None, prefix=()):
        """One run that is killed, by time or by what `prefix` does. False when it came to its end."""
        t = self.t
        if verb == "backup":
            self.change()
        candidates = list(self.kept)
        process = t.start(*self.words(verb), prefix=prefix)
        if seconds is not None:
            time.sleep(seconds)
            process.send_signal(signal.SIGKILL)
        run = t.finish(process, rc=(0, -9, 137))
        self.runs += 1
        self.kills += run.code != 0
        self.note(verb, run)
        ids = t.ids(self.repo)
        if verb == "forget":
            # All of them or none: it is one object.
            last = candidates[-2:]
            need(ids in (candidates, last), "forget: %s of %s\n%s" % (ids, candidates, run))
            need(run.code != 0 or ids == last, run)
            self.kept = {i: s for i, s in self.kept.items() if i in ids}
        else:
            need(set(self.kept) <= set(ids), "lost: %s\n%s" % (set(self.kept) - set(ids), run))
            new = set(ids) - set(self.kept)
            need(len(new) <= (verb == "backup"), "unknown snapshots %s" % new)
            for i in new:  # committed, but killed before it was said
                self.kept[i] = tree(self.src)
        self.check()
        return run.code != 0

    def check(self, all_of_them=False):
        t = self.t
        v = t.kw("verify", "--repo", self.repo, "--read-data", "--json", rc=(0, 1))
        need(v.code == 0 and v.json["sound"], "damaged after %d kills\n%s" % (self.kills, v))
        need(v.json["with_identity"], "verify opens")
        self.checks += 1
        some = list(self.kept) if all_of_them else [t.random.choice(list(self.kept))] if self.kept and self.checks % 4 == 0 else []
        for i in some:
            t.must_restore(self.repo, i, self.src, self.kept[i])

    def end(self):
        """The next runs need no help, and two prunes collect all that was left behind."""
        t = self.t
        self.change()
        self.note("backup", t.kw(*self.words("backup")))
        for _ in range(2):
            t.kw(*self.words("prune"))
        last = t.js(*self.words("prune")[:-1])
        for what in ("packs_orphaned", "packs_marked", "packs_deleted", "packs_waiting", "bytes_unused"):
            need(last[what] == 0, "%s left after two prunes: %s" % (what, last))
        v = t.js("verify", "--repo", self.repo, "--read-data")
        need(not v["notes"] and v["sound"], "notes: %s" % v)
        packs = [n for n in objects(self.repo) if n.startswith("packs/")]
        need(len(packs) == v["packs"], "packs that no index names: %d of %d" % (len(packs) - v["packs"], len(packs)))
        # Unfinished objects are swept when they are surely nobody's: after a day.
        for name in os.listdir(self.repo + "/tmp"):
            os.utime(os.path.join(self.repo, "tmp", name), (0, 0))
        t.kw(*self.words("prune"))
        left = os.listdir(self.repo + "/tmp")
        need(not left, "unfinished objects stay behind: %s" % left)
        self.check(all_of_them=True)
        print("%d kills in %d runs" % (self.kills, self.runs))


def by_time(t, verbs, kills):
    store = Store(t)
    n = 0
    while store.kills < kills:
        need(n < kills * 10, "the kills miss: %d of %d" % (store.kills, n))
        verb = verbs[n % len(verbs)]
        n += 1
        if verb == "forget" and len(store.kept) < 4 or verb == "prune" and n % 3 == 0:
            store.note("backup", t.kw(*store.words("backup")))
        store.attack(verb, seconds=t.random.random() * store.took[verb] * 1.05)
    store.end()


def test_backup_by_time(t):
    by_time(t, ["backup"], 500 if t.long else 60)


def test_forget_and_prune_by_time(t):
    by_time(t, ["forget", "prune", "prune"], 500 if t.long else 60)


# The calls that change something, with how many of them to try (in CI).
CALLS = (("write,pwrite64", 12), ("fsync,fdatasync", 8), ("link,linkat", 4), ("rename,renameat,renameat2", 4), ("unlink,unlinkat", 8), ("openat", 30), ("mkdir,mkdirat", 2))


def by_call(t, verb, tries):
    need_tools("strace")
    probe = t.sh("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=write", "-e", "inject=write:signal=KILL:when=1", "echo", "x", rc=None)
    if probe.code not in (-9, 137):
        raise Skip("strace cannot inject a signal here: " + probe.said[-200:])
    store = Store(t)
    for calls, most in CALLS:
        step = 1 if t.long or calls != "openat" else 3
        n, quiet = t.random.randrange(step) + 1, 0
        while n <= (most * 10 if t.long else most) and quiet < 2:
            if verb == "prune":  # something to do for it, in two phases
                store.change()
                store.note("backup", t.kw(*store.words("backup")))
                store.note("forget", t.kw(*store.words("forget")))
            prefix = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=" + calls, "-e", "inject=%s:signal=KILL:when=%d" % (calls, n)]
            quiet = 0 if store.attack(verb, prefix=prefix) else quiet + 1
            n += step
    need(store.kills >= tries, "only %d kills" % store.kills)
    store.end()


def test_backup_by_call(t):
    by_call(t, "backup", 25)


def test_prune_by_call(t):
    by_call(t, "prune", 20)


def test_restore_by_call(t):
    """Restore: what a kill leaves behind is never a half file under a real name, and the next run goes on."""
    need_tools("strace")
    store = Store(t)
    snapshot, state = list(store.kept.items())[-1]
    out, kills = t.path("target"), 0
    words = ["restore", "--repo", store.repo, "--target", out, snapshot]
    for calls, most in (("write,pwrite64,ftruncate", 12), ("rename,renameat,renameat2,link,linkat", 12), ("openat", 30), ("utimensat,fchmod,fchmodat,chmod,fchown,fchownat", 20), ("mkdir,mkdirat", 4), ("fsync,syncfs", 4)):
        for n in range(1, (most if not t.long else most * 5) + 1, 1 if t.long else 2):
            if t.random.random() < 0.5:
                remove(out)
            run = t.kw(*words, rc=(0, -9, 137), prefix=["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=" + calls, "-e", "inject=%s:signal=KILL:when=%d" % (calls, n)])
            kills += run.code != 0
            if os.path.exists(out + store.src):
                for name, e in tree(out + store.src).items():
                    if e["kind"] == "-" and name in state:
                        need(e["what"] == state[name]["what"], "a half file under a real name: %r after %s %d" % (name, calls, n))
            if n % 4 == 1:
                t.kw(*words)
                same(tree(out + store.src), state, "the restore that went on")
    t.kw(*words)
    same(tree(out + store.src), state, "the restore that went on")
    need(kills >= 10, "only %d kills" % kills)
    print("%d kills" % kills)

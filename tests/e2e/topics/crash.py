"""D1, D2, C3: SIGKILL anywhere in backup, forget, prune and restore. Whatever was reported as done verifies and restores; the next run needs no help.

By time, and before every single call that changes something (`killat.c`), one call later each time. Backups attack the same repository again and again, which is harder on the
program than a fresh one for each; forget and prune begin with copies of one repository, since what is left undone would make each run longer than the one before. Verified is after every
few kills and at the end."""
import json, os, shutil, signal, time

from harness import need, objects, remove, same, tree


class Store:
    """A repository under fire: what must be in it."""

    def __init__(self, t, check_every=1):
        self.check_every = check_every
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
        if self.runs % self.check_every == 0:
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


# A small run has at most so many calls that change something; every one of them is tried.
CALLS = 400


def every_call(t, verb, share):
    """Kills one run after the other, each one call later, until two came to their end. `share`: 1 or 2, the odd or the even calls."""
    t.killat(0)
    store = Store(t, check_every=8)
    if verb != "backup":  # something to do: for prune in two phases
        for _ in range(3):
            store.change()
            store.note("backup", t.kw(*store.words("backup")))
    if verb == "prune":
        store.note("forget", t.kw(*store.words("forget")))
    base, kept = t.path("base"), dict(store.kept)
    shutil.copytree(store.repo, base)
    n, quiet = share, 0
    while quiet < 2:
        need(n <= CALLS, "a small run has more than %d calls" % CALLS)
        if verb != "backup":
            remove(store.repo)
            shutil.copytree(base, store.repo)
            store.kept = dict(kept)
        killed = store.attack(verb, prefix=t.killat(n))
        quiet = 0 if killed else quiet + 1
        if not killed:
            need(t.called() < n, "call %d of %d was not hit" % (n, t.called()))
        elif verb != "backup" and store.runs % 8 == 3:  # it goes on by itself
            store.note(verb, t.kw(*store.words(verb)))
            store.check(all_of_them=True)
        n += 2
    need(store.kills >= 20, "only %d kills" % store.kills)
    store.end()
    remove(base)


def test_backup_every_odd_call(t):
    every_call(t, "backup", 1)


def test_backup_every_even_call(t):
    every_call(t, "backup", 2)


def test_prune_every_odd_call(t):
    every_call(t, "prune", 1)


def test_prune_every_even_call(t):
    every_call(t, "prune", 2)


def test_forget_every_call(t):
    every_call(t, "forget", 1)
    for left in ("repo", "src", "home"):
        remove(t.path(left))
    t.env = t.home("home")
    every_call(t, "forget", 2)


def test_restore_every_call(t):
    """Restore: what a kill leaves behind is never a half file under a real name, and the next run goes on."""
    t.killat(0)
    store = Store(t)
    snapshot, state = list(store.kept.items())[-1]
    out, kills, n, quiet = t.path("target"), 0, 1, 0
    words = ["restore", "--repo", store.repo, "--target", out, snapshot]
    while quiet < 2:
        need(n <= CALLS, "a small run has more than %d calls" % CALLS)
        # Mostly from the beginning; sometimes over what the one before left.
        if quiet or n % 5:
            remove(out)
        run = t.kw(*words, rc=(0, 137), prefix=t.killat(n))
        kills += run.code != 0
        quiet = 0 if run.code else quiet + 1
        if os.path.exists(out + store.src):
            for name, e in tree(out + store.src).items():
                if e["kind"] == "-" and name in state:
                    need(e["what"] == state[name]["what"], "a half file under a real name: %r after call %d" % (name, n))
        if n % 8 == 1:
            t.kw(*words)
            same(tree(out + store.src), state, "the restore that went on")
        n += 1
    t.kw(*words)
    same(tree(out + store.src), state, "the restore that went on")
    need(kills >= 20, "only %d kills" % kills)
    print("%d kills in %d calls" % (kills, n))

"""C1: several backups and prunes of one repository at once, real processes, no lock. What was reported as done verifies and restores."""
import json, os, random, threading, time

from harness import Skip, need, remove, tree


RESTORES = 60


def together(t, writers, rounds, graces, seconds=0):
    """`writers` backups of their own sources at once, for so many rounds and seconds, with prunes and forgets running all the while."""
    repo = t.repository()
    homes, sources = [], []
    identity = t.env["HOME"] + "/.config/keepwatch/identity.txt"
    with open(identity, "rb") as f:
        secret = f.read()
    for n in range(writers):
        # The first two share a writer key and a cache, as two jobs of one host do; the others are other hosts.
        if n < 2:
            env = t.env
        else:
            env = t.home("home-%d" % n)
            t.kw("key", "writer", "--repo", repo, "--label", "host%d" % n, "--out", t.path("writer-%d" % n))
            env = dict(env, KEEPWATCH_WRITER_KEY_FILE=t.path("writer-%d" % n))
        homes.append(env)
        for i in range(10):
            t.write("src%d/f%d" % (n, i), t.noise(20_000))
        sources.append(t.path("src%d" % n))
    common = [t.noise(15_000) for _ in range(6)]
    done, lock, stop, problems, counts = {}, threading.Lock(), threading.Event(), [], {"pruned": 0, "refused": 0, "saved": 0, "packs": 0, "longest": 0}

    def guarded(function, *args):
        def body():
            try:
                function(*args)
            except BaseException as e:
                problems.append(e)
                stop.set()
        thread = threading.Thread(target=body)
        thread.start()
        return thread

    end = time.time() + seconds

    def back_up(n, lots):
        done_here = 0
        # At least so many rounds, so long, and until the prunes came to delete something.
        while done_here < rounds or time.time() < end or (seconds and not counts["packs"] and time.time() < end + 30):
            done_here += 1
            began = time.time()
            # The same new content for all: they race to store it; and old content again that prune may just have marked.
            for i in range(3):
                with open("%s/f%d" % (sources[n], lots.randrange(10)), "wb") as f:
                    f.write(lots.choice(common) if lots.random() < 0.6 else lots.randbytes(15_000))
            state = tree(sources[n])
            run = t.kw("backup", "--repo", repo, "--host", "h%d" % n, "--json", sources[n], env=homes[n], rc=(0, 5))
            with lock:
                counts["longest"] = max(counts["longest"], time.time() - began)
                if run.code == 0:
                    done[run.json["snapshot"]] = (sources[n], state)
                    counts["saved"] += 1
                else:
                    need("grace" in run.said, run)
                    counts["refused"] += 1
            if stop.is_set():
                return

    def maintain(lots):
        while not stop.is_set():
            if lots.random() < 0.4:
                with lock:
                    gone = [i for i in list(done)[:-6 * writers] if lots.random() < 0.5][:3]
                    for i in gone:
                        del done[i]
                if gone:
                    t.kw("forget", "--repo", repo, *gone)
            run = t.kw("prune", "--repo", repo, "--grace", lots.choice(graces), "--max-unused", "0%", "--json", rc=(0, 1, 5))
            need(run.code == 0 or "what to do:" in run.said, run)
            counts["pruned"] += run.code == 0
            if run.code == 0:
                counts["packs"] += run.json["packs_deleted"]
    maintainer = guarded(maintain, random.Random(t.random.random()))
    threads = [guarded(back_up, n, random.Random(t.random.random())) for n in range(writers)]
    for thread in threads:
        thread.join()
    stop.set()
    maintainer.join()
    if counts["longest"] > 2 and seconds:
        raise Skip("the machine is too busy: a backup took %.1f s, and the grace period of this test is 3 s" % counts["longest"])
    if problems:
        raise problems[0]

    def check(share):
        need(set(done) <= set(t.ids(repo)), "lost: %s" % (set(done) - set(t.ids(repo))))
        v = t.kw("verify", "--repo", repo, "--read-data", "--json", rc=(0, 1))
        need(v.code == 0, v)
        for i, (source, state) in done.items():
            # Each restore reads all snapshot records: so many that the test ends, also where the machine made many.
            if t.random.random() < min(share, RESTORES / len(done)):
                t.must_restore(repo, i, source, state)
    check(0.2)
    for _ in range(2):
        t.kw("prune", "--repo", repo, "--grace", "0s", "--max-unused", "0%")
    check(1)
    need(counts["saved"] >= writers and counts["pruned"] > 0, counts)
    need(not seconds or counts["packs"], "the prunes deleted nothing: %s" % counts)
    print("%(saved)d saved, %(refused)d refused, %(pruned)d prunes deleted %(packs)d packs; the longest backup took %(longest).1f s" % counts)


# The promise: nothing is lost while the grace period is longer than the longest run. A run takes a tenth of a second here, so that three seconds are long.

def test_two_writers_default_grace(t):
    together(t, 2, 500 if t.long else 10, ["24h", "1h"])


def test_two_writers_short_grace(t):
    together(t, 2, 10, ["3s"], 600 if t.long else 7)


def test_four_writers_short_grace(t):
    together(t, 4, 10, ["3s"], 600 if t.long else 9)


def test_two_prunes(t):
    """Two prunes at once: both are safe, one may be refused."""
    repo, src = t.repository(), t.path("src")
    for n in range(50 if t.long else 5):
        for i in range(6):
            t.write("src/%d" % i, t.noise(20_000))
        i = t.backup(repo, src)
        t.kw("forget", "--repo", repo, "--keep-last", "1")
        state = tree(src)
        time.sleep(2.1)
        running = [t.start("prune", "--repo", repo, "--grace", "1s", "--max-unused", "0%") for _ in range(3)]
        for p in running:
            run = t.finish(p, rc=(0, 1, 5))
            need(run.code == 0 or "what to do:" in run.said, run)
        need(t.js("verify", "--repo", repo, "--read-data")["sound"], "sound")
        t.must_restore(repo, i, src, state)


def test_restore_while_pruning(t):
    """A restore beside backups, forgets and prunes brings back what it was asked for."""
    repo, src = t.repository(), t.path("src")
    for i in range(30):
        t.write("src/%d" % i, t.noise(60_000))
    i = t.backup(repo, "--tag", "kept", src)
    state = tree(src)
    for _ in range(100 if t.long else 6):
        t.write("src/%d" % t.random.randrange(30), t.noise(60_000))
        t.backup(repo, src)
        t.kw("forget", "--repo", repo, "--keep-tag", "kept", "--keep-last", "1")
        remove(t.path("out"))
        running = [t.start("restore", "--repo", repo, "--target", t.path("out"), i), t.start("prune", "--repo", repo, "--grace", "0s", "--max-unused", "0%")]
        run = t.finish(running[0], rc=(0, 1, 3))
        t.finish(running[1])
        if run.code:
            # With a grace of nothing an object may vanish under the reader: said, and right when run again.
            need("keepwatch: " in run.said, run)
        t.kw("restore", "--repo", repo, "--target", t.path("out"), i)
        need(tree(t.path("out") + src) == state, "restored beside a prune")

"""S10: copies between repositories. Twins need no identity, strangers do; a kill at any moment costs nothing that was reported; what is damaged is named."""
import os, random, shutil, signal, time

from harness import need, objects, remove, same, tree


def pair(t, twins=True):
    """A repository with two snapshots, and one to copy it to. Returns both, the source tree's states by snapshot, and the home of a machine that only copies."""
    repo, far = t.repository(), t.path("far")
    src = t.small_tree(files=10)
    kept = {}
    for n in range(2):
        t.write("src/a/new", t.noise(40_000))
        kept[t.backup(repo, "--tag", "t%d" % n, src)] = tree(src)
    identity = t.path("home/.config/keepwatch/identity.txt")
    copier = t.home("copier")
    if twins:
        t.kw("init", "--repo", far, "--from", repo, "--from-identity", identity, env=copier)
    else:
        t.kw("init", "--repo", far, env=copier)
    return repo, far, src, kept, identity, copier


def packs(repo):
    return {name for name in objects(repo) if name.startswith("packs/")}


def copies(t, far, env):
    """Original's id to the copy's."""
    return {s["original"]["snapshot"]: s["id"] for s in t.js("snapshots", "--repo", far, env=env)["snapshots"]}


def must_hold(t, far, src, kept, identity, env):
    there = copies(t, far, env)
    need(set(kept) <= set(there), "copied %s, not %s" % (there, list(kept)))
    for original, state in kept.items():
        t.must_restore(far, there[original], src, state, args=("--identity", identity), env=env)
    t.kw("verify", "--repo", far, "--read-data", env=env)


def test_twins_without_an_identity(t):
    repo, far, src, kept, identity, copier = pair(t)
    need(not os.path.exists(t.path("copier/c/keepwatch/identity.txt")), "no identity of its own")
    dry = t.js("copy", "--repo", far, "--from", repo, "--dry-run", env=copier)
    need(len(dry["copied"]) == 2 and dry["dry_run"] and not packs(far), dry)
    hidden = t.path("identity-hidden")
    os.rename(identity, hidden)
    run = t.kw("copy", "--repo", far, "--from", repo, env=copier)
    need("2 snapshots copied" in run.text, run)
    report = t.js("copy", "--repo", far, "--from", repo, env=copier)
    need(report["twins"] and len(report["skipped"]) == 2 and not report["copied"] and report["bytes_written"] == 0, report)
    need(packs(repo) >= packs(far), "whole packs keep their names")
    need(", copy" in t.kw("snapshots", "--repo", far, env=copier).text, "marked for people")
    # The copying machine cannot read; the owner can, from either.
    run = t.kw("restore", "--repo", far, "--target", t.path("no"), env=copier, rc=1)
    must_hold(t, far, src, kept, hidden, copier)
    # A backup into the copy goes on in the same chain, and prune keeps all.
    t.write("src/a/new", t.noise(40_000))
    t.backup(far, src, env=copier)
    t.kw("prune", "--repo", far, "--grace", "0", "--max-unused", "0%", env=copier)
    need(len(t.ids(far, env=copier)) == 3, "three")
    t.kw("verify", "--repo", far, "--read-data", env=copier)
    # Back to where it came from: nothing but what was made there.
    os.rename(hidden, identity)
    report = t.js("copy", "--repo", repo, "--from", far)
    need(len(report["copied"]) == 1 and len(report["skipped"]) == 2, report)


def test_strangers_need_an_identity(t):
    repo, far, src, kept, identity, copier = pair(t, twins=False)
    run = t.kw("copy", "--repo", far, "--from", repo, env=copier, rc=1)
    need("needs an identity" in run.said and "init --from" in run.said and "--from-identity" in run.said, run)
    need(not packs(far), "nothing is written")
    report = t.js("copy", "--repo", far, "--from", repo, "--from-identity", identity, env=copier)
    need(not report["twins"] and len(report["copied"]) == 2, report)
    own = t.path("copier/c/keepwatch/identity.txt")
    must_hold(t, far, src, kept, own, copier)
    run = t.kw("restore", "--repo", far, "--identity", identity, "--target", t.path("no"), env=copier, rc=1)
    t.write("src/a/newer", b"x" * 5000)
    kept[t.backup(repo, src)] = tree(src)
    again = t.js("copy", "--repo", far, "--from", repo, "--from-identity", identity, env=copier)
    need(len(again["copied"]) == 1 and again["bytes_read"] < report["bytes_read"] / 2, again)
    must_hold(t, far, src, kept, own, copier)


def test_filters_and_wrong_use(t):
    repo, far, src, kept, identity, copier = pair(t)
    words = ["copy", "--repo", far, "--from", repo]
    t.kw(*words, "--tag", "none", env=copier, rc=4)
    t.kw(*words, "abcdef99", env=copier, rc=4)
    t.kw("copy", "--repo", far, "--from", far, env=copier, rc=2)
    t.kw("copy", "--repo", far, env=copier, rc=2)
    t.kw("copy", "--repo", far, "--from", t.path("nowhere"), env=copier, rc=1)
    t.kw("copy", "--repo", far, "--from", repo, "--from-owner-key", "00" * 32, env=copier, rc=5)
    t.kw("init", "--repo", t.path("x"), "--from", repo, env=copier, rc=1)
    need(not os.path.exists(t.path("x")), "nothing is made")
    first, last = list(kept)
    report = t.js(*words, "--tag", "t0", env=copier)
    need([c["source"] for c in report["copied"]] == [first], report)
    report = t.js(*words, "--host", os.uname().nodename, "latest", env=copier)
    need([c["source"] for c in report["copied"]] == [last], report)
    report = t.js(*words, first[:8], env=copier)
    need(report["skipped"] == [first], report)
    # A repository put in the place of the source is noticed.
    shutil.move(repo, t.path("away"))
    t.kw("init", "--repo", repo, env=t.home("mallory"))
    t.kw(*words, env=copier, rc=5)


def test_a_damaged_source(t):
    repo, far, src, kept, identity, copier = pair(t)
    first, last = list(kept)
    before = packs(repo)
    t.write("src/only-here", t.noise(300_000))
    third = t.backup(repo, src)
    new = sorted(packs(repo) - before, key=lambda p: os.path.getsize(os.path.join(repo, p)))
    victim = os.path.join(repo, new[-1])
    with open(victim, "r+b") as f:
        f.seek(1000)
        byte = f.read(1)
        f.seek(1000)
        f.write(bytes([byte[0] ^ 1]))
    run = t.kw("copy", "--repo", far, "--from", repo, env=copier, rc=3)
    need("snapshot %s was not copied" % third[:8] in run.said and "damaged" in run.said, run)
    need(set(copies(t, far, copier)) == {first, last}, "the others are")
    must_hold(t, far, src, kept, identity, copier)


def test_killed_at_any_moment(t):
    repo, far, src, kept, identity, copier = pair(t)
    for n in range(3):
        t.write("src/big%d" % n, t.noise(9_000_000))
        kept[t.backup(repo, src)] = tree(src)
    whole = t.path("whole")
    shutil.copytree(far, whole)
    began = time.time()
    t.kw("copy", "--repo", whole, "--from", repo, env=copier)
    took = time.time() - began
    kills = completed = 0
    again = True
    for n in range(40 if not t.long else 400):
        if kills >= (8 if not t.long else 200):
            break
        if again:
            remove(far)
            remove(t.path("copier/k"))
            shutil.copytree(whole, far, ignore=lambda d, names: [x for x in names if len(x) == 64])
        began = time.time()
        process = t.start("copy", "--repo", far, "--from", repo, env=copier)
        time.sleep(t.random.random() * took)
        process.send_signal(signal.SIGKILL)
        run = t.finish(process, rc=(0, -9))
        kills += run.code != 0
        there = copies(t, far, copier)
        need(set(there) <= set(kept), there)
        if run.code == 0:
            # It was quicker than the first: the next is killed earlier, and begins anew.
            took = min(took, time.time() - began) * 0.9
        again = run.code == 0 or t.random.random() < 0.2
        if again and completed < 2:
            completed += 1
            t.kw("copy", "--repo", far, "--from", repo, env=copier)
            must_hold(t, far, src, kept, identity, copier)
        elif run.code:
            t.kw("verify", "--repo", far, "--read-data", env=copier)
    t.kw("copy", "--repo", far, "--from", repo, env=copier)
    must_hold(t, far, src, kept, identity, copier)
    need(kills > 3, "%d kills" % kills)
    print("%d kills" % kills)


def test_two_at_once(t):
    repo, far, src, kept, identity, copier = pair(t)
    t.write("src/big", t.noise(3_000_000))
    kept[t.backup(repo, src)] = tree(src)
    running = [t.start("copy", "--repo", far, "--from", repo, env=copier) for _ in range(2)]
    running.append(t.start("prune", "--repo", far, env=copier))
    for process in running:
        t.finish(process, rc=0)
    need(len(t.ids(far, env=copier)) in range(3, 7), "each once or twice")
    t.kw("verify", "--repo", far, "--read-data", env=copier)
    need(not t.js("copy", "--repo", far, "--from", repo, env=copier)["copied"], "nothing is left to copy")


def test_memory(t):
    """Twins and strangers, 220 MB that do not compress, below 200 MiB. (The peak is that of the backup where that is higher.)"""
    repo, src = t.repository(), t.path("src")
    noise = random.Random(1).randbytes(1 << 20)
    os.mkdir(src)
    for n in range(160):
        with open(os.path.join(src, "f%d" % n), "wb") as f:
            f.write(noise[n * 1000:] + bytes([n]) + noise[:n * 1000])
    with open(os.path.join(src, "noise"), "wb") as f:
        for _ in range(60):
            f.write(os.urandom(1 << 20))
    t.backup(repo, "--compression", "1", src)
    t.kw("init", "--repo", t.path("twin"), "--from", repo)
    t.kw("init", "--repo", t.path("far"))
    peaks = []
    for to in ("twin", "far"):
        process = t.start("copy", "--repo", t.path(to), "--from", repo)
        process.communicate(timeout=120)
        peaks.append(peak_of_children())
        need(process.returncode == 0, to)
    need(max(peaks) < 200, "%s MiB" % peaks)
    print("peaks of at most %s MiB" % peaks)


def peak_of_children():
    import resource
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024

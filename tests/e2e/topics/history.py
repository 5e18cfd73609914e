"""Random histories against plain copies: change, back up, forget, prune; every kept snapshot restores byte for byte."""
import os, shutil

from harness import need, remove, same, tree


def mutate(t, top, names):
    """One random change of a tree."""
    r = t.random
    what = r.choice(["new", "new", "change", "append", "insert", "delete", "rename", "touch", "chmod", "link", "symlink", "dir-to-file", "copy"])
    files = sorted(os.path.join(b, f) for b, _, fs in os.walk(top) for f in fs if not os.path.islink(os.path.join(b, f)))
    path = os.path.join(top, *(r.choice("pqrs") for _ in range(r.randrange(3))), "f%d" % r.randrange(40))
    size = r.choice([0, 1, 100, 5000, 70_000, 400_000, 1_500_000])
    block = t.noise(r.randrange(1, 2000))
    content = lambda: (t.noise(size) if r.random() < 0.5 else (block * (size // len(block) + 1))[:size])
    try:
        if os.path.islink(path):
            os.unlink(path)  # nothing is written through a link, which may lead out of here
        if what == "new" or not files:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as f:
                f.write(content())
        elif what in ("change", "append", "insert"):
            with open(r.choice(files), "r+b") as f:
                old = f.read()
                at = {"change": r.randrange(len(old) + 1), "append": len(old), "insert": r.randrange(len(old) + 1)}[what]
                f.seek(0)
                f.truncate()
                f.write(old[:at] + block + old[at + (len(block) if what == "change" else 0):])
        elif what == "delete":
            victim = r.choice(files)
            if r.random() < 0.8 or os.path.dirname(victim) == top:
                os.unlink(victim)
            else:
                shutil.rmtree(os.path.dirname(victim))
        elif what == "rename":
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.rename(r.choice(files), path)
        elif what == "touch":
            ns = r.randrange(-10**18, 2 * 10**18)
            os.utime(r.choice(files), ns=(ns, ns))
        elif what == "chmod":
            os.chmod(r.choice(files), r.choice([0o600, 0o644, 0o755, 0o400]))
        elif what == "link":
            os.link(r.choice(files), path)
        elif what == "symlink":
            os.symlink(r.choice(["x", "/nonexistent/y", path]), path)
        elif what == "dir-to-file":
            d = os.path.join(top, r.choice("pqrs"))
            if os.path.isdir(d):
                shutil.rmtree(d)
                with open(d, "wb") as f:
                    f.write(content())
            elif os.path.exists(d):
                os.unlink(d)
        elif what == "copy":
            shutil.copy2(r.choice(files), path)
    except (FileExistsError, NotADirectoryError, IsADirectoryError, FileNotFoundError, PermissionError, shutil.SameFileError):
        pass


def one_history(t, rounds):
    repo, src = t.repository(), t.path("src")
    os.mkdir(src)
    kept = {}
    for n in range(rounds):
        for _ in range(t.random.randrange(0, 12)):
            mutate(t, src, n)
        level = str(t.random.choice([1, 3, 9]))
        more = ["--force-read"] if t.random.random() < 0.2 else ["--no-cache"] if t.random.random() < 0.2 else []
        kept[t.backup(repo, "--compression", level, *more, src)] = tree(src)
        step = t.random.random()
        if step < 0.4:
            last = t.random.randrange(1, 5)
            gone = t.js("forget", "--repo", repo, "--keep-last", str(last))["forgotten"]
            wanted = list(kept)[:-last]
            need(sorted(gone) == sorted(wanted), "forgotten %s, not %s" % (gone, wanted))
            for i in gone:
                del kept[i]
        if step < 0.6:
            for _ in range(t.random.randrange(1, 3)):
                t.kw("prune", "--repo", repo, "--grace", "0s", "--max-unused", t.random.choice(["0%", "5%", "50%", "unlimited"]))
        if t.random.random() < 0.1:
            remove(t.env["HOME"] + "/.cache")
        need(t.ids(repo) == list(kept), "the snapshots are those that were kept")
        need(t.js("verify", "--repo", repo)["sound"], "sound")
        i = t.random.choice(list(kept))
        t.must_restore(repo, i, src, kept[i])
    need(t.js("verify", "--repo", repo, "--read-data")["sound"], "sound")
    for i, state in kept.items():
        t.must_restore(repo, i, src, state)
    for _ in range(2):
        t.kw("prune", "--repo", repo, "--grace", "0s", "--max-unused", "0%")
    last = t.js("prune", "--repo", repo, "--grace", "0s", "--max-unused", "0%")
    need(last["packs_marked"] == last["packs_deleted"] == last["packs_orphaned"] == last["bytes_unused"] == 0, "nothing unneeded remains: %s" % last)
    for i, state in kept.items():
        t.must_restore(repo, i, src, state)


def test_random(t):
    for _ in range(200 if t.long else 2):
        one_history(t, 14)
        remove(t.path("repo"))
        remove(t.path("src"))


def test_many_snapshots(t):
    """Thirty snapshots of a tree in which little changes, thinned out by a policy and pruned."""
    repo, src = t.repository(), t.path("src")
    for i in range(60):
        t.write("src/%d/%d" % (i % 7, i), t.noise(2000))
    kept = {}
    for i in range(30):
        t.write("src/%d/new" % (i % 7), t.noise(500))
        kept[t.backup(repo, "--tag", "even" if i % 2 == 0 else "odd", src)] = tree(src)
    plan = t.js("forget", "--repo", repo, "--keep-last", "4", "--keep-tag", "even", "--dry-run")["forgotten"]
    gone = t.js("forget", "--repo", repo, "--keep-last", "4", "--keep-tag", "even")["forgotten"]
    need(plan == gone and len(gone) == 13, gone)
    for i in gone:
        del kept[i]
    for _ in range(2):
        t.kw("prune", "--repo", repo, "--grace", "0s", "--max-unused", "0%")
    need(t.ids(repo) == list(kept), "kept")
    for i in list(kept)[:3] + list(kept)[-3:]:
        t.must_restore(repo, i, src, kept[i])

"""tests/recover/recover.py, written from FORMAT.md alone, restores what the binary made: the promise of no lock-in."""
import os, pathlib, shutil, sys

from harness import need, need_tools, objects, remove, same, tree
from topics.roundtrip import full_tree, without

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "recover" / "recover.py"


def recover(t, repo, target, *more, identity=None, rc=0):
    identity = identity or t.env["HOME"] + "/.config/keepwatch/identity.txt"
    return t.sh(sys.executable, SCRIPT, "--repo", repo, "--identity", identity, "--target", target, *more, rc=rc)


def test_everything(t):
    need_tools("age", "zstd")
    src, _ = full_tree(t)
    repo = t.repository()
    t.backup(repo, src)
    state = tree(src)
    recover(t, repo, t.path("out"))
    same(without(tree(t.path("out") + src), "s"), without(state, "s"), "what recover.py restored")


def test_after_forget_and_prune(t):
    need_tools("age", "zstd")
    src, repo = t.small_tree(files=20), t.repository()
    kept = {}
    for n in range(5):
        t.write("src/a/file-%d" % n, t.noise(60_000))
        kept[t.backup(repo, "--tag", "n%d" % n, src)] = tree(src)
    gone = t.js("forget", "--repo", repo, "--keep-last", "2")["forgotten"]
    for _ in range(2):
        t.kw("prune", "--repo", repo, "--grace", "0s", "--max-unused", "0%")
    listed = t.sh(sys.executable, SCRIPT, "--repo", repo, "--identity", t.env["HOME"] + "/.config/keepwatch/identity.txt", "--list").text
    for i in gone:
        del kept[i]
        need(i[:8] not in listed, listed)
    for i, state in kept.items():
        need(i[:8] in listed, listed)
        recover(t, repo, t.path("out"), "--snapshot", i[:12])
        same(tree(t.path("out") + src), state, "what recover.py restored of %s" % i)
        remove(t.path("out"))


def test_damaged(t):
    """A damaged pack: exit 3, and all other files are right."""
    need_tools("age", "zstd")
    src, repo = t.path("src"), t.repository()
    t.write("src/first", t.noise(300_000))
    t.backup(repo, src)
    first = {n for n in objects(repo) if n.startswith("packs/")}
    t.write("src/second", t.noise(300_000))
    t.backup(repo, src)
    state = tree(src)
    pack = max(first, key=lambda n: os.path.getsize(os.path.join(repo, n)))
    with open(os.path.join(repo, pack), "r+b") as f:
        f.seek(100_000)
        f.write(b"damage")
    run = recover(t, repo, t.path("out"), rc=3)
    need("first" in run.said, run)
    found = tree(t.path("out") + src)
    need(found[b"second"] == state[b"second"], "the undamaged file")
    need(found.get(b"first") != state[b"first"], "the damaged one is not passed off as whole")


def test_readers(t):
    """With an ssh key, and with a list of many chunks."""
    need_tools("age", "zstd", "ssh-keygen")
    t.sh("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", t.path("key"))
    repo = t.path("repo")
    t.kw("init", "--repo", repo, "--recipient", t.path("key.pub"))
    for i in range(1500):
        t.write("src/%d/%d" % (i % 13, i), t.noise(1 + i % 300))
    t.write("src/large", t.noise(12_000_000))
    t.backup(repo, t.path("src"))
    recover(t, repo, t.path("out"), identity=t.path("key"))
    same(tree(t.path("out") + t.path("src")), tree(t.path("src")), "what recover.py restored")

"""L1: the frozen repository of format 1 opens, verifies, restores and is continued by every later version."""
import hashlib, json, os, pathlib, shutil, stat, sys

from harness import Skip, content_of, need, need_tools, objects, remove

FIXTURE = pathlib.Path(__file__).resolve().parents[2] / "fixtures" / "repositories" / "v1"


def copy(t):
    if not FIXTURE.exists():
        raise Skip("tests/fixtures/repositories/v1 was not made yet: tests/fixtures/make-v1")
    place = t.path("v1")
    shutil.copytree(FIXTURE, place)
    for name in ("identity.txt", "id_ed25519", "writer.key"):
        os.chmod(os.path.join(place, name), 0o600)
    with open(os.path.join(place, "contents.json")) as f:
        return place, place + "/repository", json.load(f)


def compare(out, entries, what):
    """A restored tree with what was written down when the fixture was made."""
    found = set()
    for base, dirs, files in os.walk(os.fsencode(out)):
        for name in dirs + files:
            path = os.path.join(base, name)
            key = os.path.relpath(path, os.fsencode(out)).hex()
            found.add(key)
            e, s = entries.get(key), os.lstat(path)
            need(e, "%s: not expected: %r" % (what, path))
            need({"l": stat.S_ISLNK, "p": stat.S_ISFIFO, "d": stat.S_ISDIR, "f": stat.S_ISREG}[e["kind"]](s.st_mode), "%s: kind of %r" % (what, path))
            need(s.st_mtime_ns == e["mtime_ns"], "%s: time of %r: %d, not %d" % (what, path, s.st_mtime_ns, e["mtime_ns"]))
            if e["kind"] == "l":
                need(os.fsdecode(os.readlink(path)) == e["target"], "%s: target of %r" % (what, path))
            else:
                need("%04o" % stat.S_IMODE(s.st_mode) == e["mode"], "%s: mode of %r" % (what, path))
            if e["kind"] == "f":
                with open(path, "rb") as f:
                    need(hashlib.sha256(f.read()).hexdigest() == e["sha256"], "%s: content of %r" % (what, path))
                need(s.st_nlink == e["links"], "%s: links of %r" % (what, path))
    need(found == set(entries), "%s: missing %s" % (what, [bytes.fromhex(k) for k in set(entries) - found]))


def test_opens(t):
    """With either key: list, verify, restore, compare with the sums that were written down."""
    place, repo, truth = copy(t)
    before = content_of(repo)
    for key in ("identity.txt", "id_ed25519"):
        reader = ("--repo", repo, "--identity", os.path.join(place, key))
        shown = t.js("snapshots", *reader, "--forgotten")["snapshots"]
        need({s["id"]: s["forgotten"] for s in shown} == {i: s["forgotten"] for i, s in truth["snapshots"].items()}, shown)
        v = t.js("verify", *reader, "--read-data")
        need(v["sound"] and v["with_identity"] and v["envelopes_opened"] > 0, v)
        for i, s in truth["snapshots"].items():
            out = t.path("out")
            remove(out)
            t.kw("restore", *reader, "--target", out, i)
            compare(out + truth["source"], s["entries"], i[:8])
            listed = [e["path"] for e in t.js("ls", *reader, i)["entries"]]
            need(len([p for p in listed if p.lstrip("/").startswith(truth["source"].lstrip("/") + "/")]) == len(s["entries"]), listed)
    v = t.js("verify", "--repo", repo, "--writer-key", place + "/writer.key", "--read-data")
    need(v["sound"] and not v["with_identity"], v)
    need(content_of(repo) == before, "reading changed the repository")
    t.kw("restore", "--repo", repo, "--identity", place + "/identity.txt", "--target", t.path("o"), truth["pruned"], rc=4)


def test_continues(t):
    """A new backup, forget and prune in a copy; the old snapshots stay as they are."""
    place, repo, truth = copy(t)
    w = ("--repo", repo, "--writer-key", place + "/writer.key")
    r = ("--identity", place + "/identity.txt")
    src = t.small_tree()
    new = t.js("backup", *w, "--host", "fixture", src)["snapshot"]
    live = [i for i, s in truth["snapshots"].items() if not s["forgotten"]]
    need({s["id"] for s in t.js("snapshots", *w)["snapshots"]} == set(live) | {new}, "snapshots")
    t.kw("forget", *w, new)
    for _ in range(2):
        t.kw("prune", *w, "--grace", "0s", "--max-unused", "0%")
    need(t.js("verify", *w, *r, "--read-data")["sound"], "sound")
    need(not any(n.startswith("marks/") for n in objects(repo)), "the marks of the fixture were acted upon")
    for i in live:
        remove(t.path("out"))
        t.kw("restore", *w, *r, "--target", t.path("out"), i)
        compare(t.path("out") + truth["source"], truth["snapshots"][i]["entries"], i[:8])
    # A lost index is rebuilt.
    remove(repo + "/index")
    t.kw("repair", "index", *w, *r)
    need(t.js("verify", *w, *r, "--read-data")["sound"], "sound after repair")


def test_recover_script(t):
    need_tools("age", "zstd")
    place, repo, truth = copy(t)
    script = pathlib.Path(__file__).resolve().parents[2] / "recover" / "recover.py"
    for i, s in truth["snapshots"].items():
        for key in ("identity.txt", "id_ed25519"):
            if not s["forgotten"]:
                remove(t.path("out"))
                t.sh(sys.executable, script, "--repo", repo, "--identity", os.path.join(place, key), "--target", t.path("out"), "--snapshot", i[:16])
                compare(t.path("out") + truth["source"], s["entries"], i[:8])


def test_is_frozen(t):
    """Names of objects are hashes of their bytes; what git keeps is what was made."""
    place, repo, truth = copy(t)
    kinds = {n.split("/")[0] for n in objects(repo)}
    need(kinds == {"config", "keys", "writers", "packs", "index", "snapshots", "tombstones", "marks"}, kinds)
    with open(place + "/README.md") as f:
        need("test secrets" in f.read(), "README warns")

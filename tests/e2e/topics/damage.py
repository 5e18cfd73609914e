"""I1, I2, I3: every kind of damage to every kind of object is found by verify without an identity; with one, the files it hits are named,
and a restore brings back all others and names the same files."""
import os, shutil, time

from harness import need, objects, remove, same, tree


def flip(b, r):
    i = r.randrange(len(b))
    return b[:i] + bytes([b[i] ^ (1 << r.randrange(8))]) + b[i + 1:]


DAMAGES = {
    "flip": flip,
    "cut": lambda b, r: b[:r.randrange(len(b))],
    "empty": lambda b, r: b"",
    "extended": lambda b, r: b + r.randbytes(r.randrange(1, 100)),
    "zeroed": lambda b, r: (lambda i: b[:i] + bytes(min(64, len(b) - i)) + b[i + 64:])(r.randrange(max(1, len(b) - 64))),
    "deleted": None,
    "swapped": None,
}
KINDS = ["config", "keys", "writers", "index", "packs", "snapshots", "tombstones", "marks"]


class Patient:
    """A repository with all kinds of objects, and the truth about it."""

    def __init__(self, t):
        self.t, self.repo, self.src = t, t.repository("good"), t.path("src")
        t.kw("key", "generate", "-o", t.path("second"), secret=True)
        recipient = t.sh("sh", "-c", "grep -o 'age1[a-z0-9]*' second | head -n 1").text.strip()
        t.kw("key", "add", "--repo", self.repo, "--name", "second", "--recipient", recipient)
        t.kw("key", "writer", "--repo", self.repo, "--label", "other", "--out", t.path("other-writer"))
        for n in range(4):
            for i in range(5):
                t.write("src/%d/%d" % (n, i), t.noise(t.random.randrange(1, 50_000)))
            i = t.backup(self.repo, "--tag", "t%d" % n, self.src)
            if n == 0:
                for k in range(5):
                    t.write("src/0/%d" % k, t.noise(3000))
            if n == 1:
                # Deletes the forgotten one after a second of grace, and marks packs.
                t.kw("forget", "--repo", self.repo, "--keep-last", "1")
                time.sleep(2.1)
                t.kw("prune", "--repo", self.repo, "--grace", "1s", "--max-unused", "0%")
            if n == 2:
                t.kw("forget", "--repo", self.repo, "--keep-last", "1")                      # stays: a tombstone and a forgotten snapshot
        self.state = tree(self.src)
        self.live = t.ids(self.repo)
        self.names = {k: sorted(n for n in objects(self.repo) if n.split("/")[0] == k) for k in KINDS}
        for k in KINDS:
            need(self.names[k], "the repository has no %s: %s" % (k, self.names))
        # A host that can write and not read.
        self.host = t.home("home-host")
        shutil.copytree(t.env["HOME"] + "/.config", self.host["HOME"] + "/.config")
        os.unlink(self.host["HOME"] + "/.config/keepwatch/identity.txt")
        v = t.js("verify", "--repo", self.repo, "--read-data", env=self.host)
        need(v["sound"] and not v["with_identity"], v)

    def copy(self):
        """A copy at the place of the last one."""
        place = self.t.path("patient")
        remove(place)
        shutil.copytree(self.repo, place)
        return place

    def spoil(self, place, kind, damage, name=None):
        """Returns the names of the damaged objects, or nothing when there is nothing to damage in this way."""
        r = self.t.random
        name = name or r.choice(self.names[kind])
        path = os.path.join(place, name)
        with open(path, "rb") as f:
            old = f.read()
        if damage == "deleted":
            os.unlink(path)
            return [name]
        if damage == "swapped":
            others = [n for n in self.names[kind] if n != name]
            if not others:
                return []
            other = r.choice(others)
            os.rename(path, path + ".x")
            os.rename(os.path.join(place, other), path)
            os.rename(path + ".x", os.path.join(place, other))
            return [name, other]
        new = DAMAGES[damage](old, r)
        if new == old:
            return []
        with open(path, "wb") as f:
            f.write(new)
        return [name]


# What cannot be found without an identity, and why that is no loss of safety:
# - A key file is opaque to who has no identity; one of several that was deleted, or two whose names were exchanged, is no damage.
# - A mark or a tombstone that was deleted, or a snapshot that was forgotten already and is deleted, is what prune does itself; marks only delay a deletion.
# - Another writer's record that is gone: found when something that it signed is there (here there is nothing).
def is_hidden(patient, kind, damage, names):
    if kind == "keys":
        return True
    if damage == "deleted" and kind in ("marks", "tombstones"):
        return True
    if damage == "deleted" and kind == "snapshots":
        # The newest one has no successor that names it: the host's witness tells at the next backup (below).
        return names[0].split("/")[1] not in patient.live[:-1] and None
    if kind == "writers" and damage == "deleted":
        return True
    if kind in ("packs", "index") and damage == "deleted":
        # It may be one that nothing needs any more: then everything restores, which is seen below.
        return None
    return False


def one(patient, kind, damage, name=None):
    t = patient.t
    place = patient.copy()
    names = patient.spoil(place, kind, damage, name)
    if not names:
        return 0
    what = "%s of %s" % (damage, ", ".join(names))
    hidden = is_hidden(patient, kind, damage, names)
    run = t.kw("verify", "--repo", place, "--read-data", "--json", env=patient.host, rc=(0, 1, 5))
    deep = t.kw("verify", "--repo", place, "--read-data", "--json", rc=(0, 1, 5))
    found = run.code != 0
    if hidden is False:
        need(found, "verify without an identity did not find: %s\n%s" % (what, run))
        need(run.code == 1 or kind in ("config", "writers"), "exit code of verify: %s\n%s" % (what, run))
    if found and kind not in ("config",) and damage != "deleted":
        need(any(n.split("/")[-1][:12] in run.text + run.said for n in names), "verify does not name it: %s\n%s" % (what, run))
    if kind == "keys" and damage not in ("deleted", "swapped"):
        # Not damage that a host can see, but a reader: the one whose key it is.
        reader = t.path("second") if names[0].endswith("second.age") else t.env["HOME"] + "/.config/keepwatch/identity.txt"
        mine = t.kw("ls", "--repo", place, "--identity", reader, rc=(0, 1, 5))
        need(mine.code != 0 or damage == "flip", "a damaged key file opens: %s\n%s" % (what, mine))
    need(found <= (deep.code != 0) or kind == "config", "with an identity less was found: %s\n%s" % (what, deep))
    # Restore: all but the named files, and those are the files that verify named.
    out = t.path("out")
    remove(out)
    back = t.kw("restore", "--repo", place, "--target", out, "--json", patient.live[-1], rc=(0, 1, 3, 4, 5))
    if back.code in (0, 3):
        lost = {p["path"].lstrip("/") for p in back.json["problems"]}
        below = patient.src.lstrip("/") + "/"
        inside = {p[len(below):].encode() for p in lost if p.startswith(below)}
        there = tree(out + patient.src) if os.path.exists(out + patient.src) else {}
        dirs = {n for n, e in patient.state.items() if e["kind"] == "d"}
        if back.code == 3:
            need(found, "verify did not find what a restore found: %s\n%s" % (what, run))
        if back.code == 0:
            same(there, patient.state, "what was restored after: " + what)
        else:
            need(lost, back)
            if not any("entries of the snapshot after this path are lost" in p["what"] for p in back.json["problems"]):
                same({n: e for n, e in there.items() if n not in dirs}, {n: e for n, e in patient.state.items() if n not in dirs}, "what was restored after: " + what, besides=inside)
                for n in inside - dirs:
                    need(n not in there, "a damaged file stands under its name: %r after %s" % (n, what))
                need(deep.code == 1, "restore found more than verify: %s\n%s" % (what, deep))
                named = {f.lstrip("/")[len(below):].encode() for d in deep.json["damages"] for f in d["files"]}
                named |= {f.lstrip("/")[len(below):].encode() for l in deep.json["losses"] for f in l["files"]}
                # Where a part of the list of files is lost to verify, which trusts no cache, it cannot name all.
                need(inside - dirs <= named or any(l["manifest_parts"] for l in deep.json["losses"]), "verify named %s, restore %s after %s\n%s" % (named, inside, what, deep))
            else:
                for n, e in there.items():
                    if e["kind"] == "-":
                        need(patient.state[n]["what"] == e["what"], "wrong content: %r" % n)
    else:
        need(kind in ("config", "keys", "writers", "snapshots", "tombstones"), "nothing was restored after %s\n%s" % (what, back))
        need("keepwatch: " in back.said, back)
    return 1


def matrix(t, kinds, times):
    patient = Patient(t)
    n = 0
    for kind in kinds:
        for damage in DAMAGES:
            for _ in range(times):
                n += one(patient, kind, damage)
    print("%d damages" % n)


def test_packs(t):
    matrix(t, ["packs"], 200 if t.long else 6)


def test_records(t):
    matrix(t, ["index", "snapshots"], 100 if t.long else 4)


def test_others(t):
    matrix(t, ["config", "keys", "writers", "tombstones", "marks"], 60 if t.long else 2)


def test_every_byte_of_a_snapshot(t):
    """Each byte of one signed record, flipped: refused."""
    patient = Patient(t)
    name = "snapshots/" + patient.live[-1]
    place = patient.copy()
    path = os.path.join(place, name)
    with open(path, "rb") as f:
        good = f.read()
    for i in range(0, len(good), 1 if t.long else 23):
        with open(path, "wb") as f:
            f.write(good[:i] + bytes([good[i] ^ 1]) + good[i + 1:])
        t.kw("verify", "--repo", place, env=patient.host, rc=1)
        need(t.kw("restore", "--repo", place, "--target", t.path("o"), patient.live[-1], rc=(1, 4, 5)).code, "refused")


def test_cut_from_the_newest_end(t):
    """Who removes the newest snapshot is noticed by the host that made it; the one before remains restorable."""
    patient = Patient(t)
    place = patient.repo
    os.unlink(os.path.join(place, "snapshots", patient.live[-1]))
    run = t.kw("backup", "--repo", place, patient.src)
    need("rolled back or robbed" in run.said and patient.live[-1][:8] in run.said, run)
    t.must_restore(place, "latest", patient.src, patient.state)
    need("rolled back" not in t.kw("backup", "--repo", place, patient.src).said, "once")
    t.kw("forget", "--repo", place, "latest")
    for _ in range(2):
        t.kw("prune", "--repo", place, "--grace", "0s", rc=(0, 5))
    need("rolled back" not in t.kw("backup", "--repo", place, patient.src).said, "what was forgotten was not robbed")


def test_lost_index(t):
    """All of index/ gone: repair index makes everything restorable, with and without the local cache."""
    patient = Patient(t)
    for cache in (True, False):
        place = patient.copy()
        remove(place + "/index")
        os.mkdir(place + "/index")
        if not cache:
            remove(t.env["HOME"] + "/.cache")
        t.kw("verify", "--repo", place, rc=1)
        t.kw("restore", "--repo", place, "--target", t.path("out"), rc=(1, 3))
        t.kw("repair", "index", "--repo", place)
        v = t.js("verify", "--repo", place, "--read-data")
        need(v["sound"], v)
        t.must_restore(place, "latest", patient.src, patient.state)
        t.kw("backup", "--repo", place, patient.src)
        for _ in range(2):
            t.kw("prune", "--repo", place, "--grace", "0s")
        t.must_restore(place, "latest", patient.src, patient.state)


def test_prune_and_backup_beside_damage(t):
    """Prune deletes nothing when it cannot read what it must; the next backup stores anew what the source still has."""
    patient = Patient(t)
    for kind in ("index", "snapshots"):
        for damage in ("flip", "cut", "empty"):
            place = patient.copy()
            name = "snapshots/" + patient.live[-1] if kind == "snapshots" else None
            patient.spoil(place, kind, damage, name)
            # A snapshot that was forgotten may go; nothing that a living one needs.
            before = {n for n in objects(place) if not n.startswith("snapshots/") or n.split("/")[1] in patient.live}
            run = t.kw("prune", "--repo", place, "--grace", "0s", rc=(1, 5))
            need(before <= set(objects(place)), "prune deleted something beside a damaged object (%s, %s): %s\n%s" % (kind, damage, before - set(objects(place)), run))
    place = patient.copy()
    for name in patient.names["packs"]:
        patient.spoil(place, "packs", "deleted", name)
    t.kw("backup", "--repo", place, "--force-read", patient.src)
    t.kw("restore", "--repo", place, "--target", t.path("fresh"), "latest")
    same(tree(t.path("fresh") + patient.src), patient.state, "the backup after all packs were lost")

"""Power cuts: backups and removals go on and on on an ext4, and after a cut every snapshot that had been reported must come back.

What has been reported is written to the last block of the disk, past the file system and past every cache: so it is known to whoever finds
the disk. Content of the files follows from the number of the round.

    load N      goes on for N rounds, or until the power is gone; looks at what it finds first
    look N      looks at N disks that lie one after the other on the first one
"""
import json, mmap, os, random, subprocess, sys, time, types

import harness
from harness import need

# As tests/vm/run makes it.
DISK = 192 << 20
BLOCK = 4096
FILES = 12
KEPT = 4


def note(device, offset, value=None):
    """Reads or writes the last block."""
    fd = os.open(device, os.O_RDWR | os.O_DIRECT)
    try:
        buffer = mmap.mmap(-1, BLOCK)
        if value is None:
            os.preadv(fd, [buffer], offset)
            text = bytes(buffer).rstrip(b"\0")
            return json.loads(text) if text else None
        buffer[:] = json.dumps(value).encode().ljust(BLOCK, b"\0")
        os.pwritev(fd, [buffer], offset)
    finally:
        os.close(fd)


def content(round_):
    """The files of a round: most are those of earlier ones."""
    files = {}
    for n in range(FILES):
        last = max(r for r in range(n % 4, round_ + 1, 4) or [0]) if round_ >= n % 4 else 0
        lots = random.Random("%d %d" % (n, last))
        files["f%02d" % n] = lots.randbytes(lots.choice((0, 10, 5000, 70000)))
    return files


def look(t, at, known):
    """All that was reported is there and comes back, and the repository is sound."""
    repo = at + "/repo"
    t.kw("verify", "--repo", repo, "--read-data", timeout=300)
    there = t.ids(repo)
    for id_, round_ in known["stored"]:
        if id_ == known["leaving"]:
            continue
        need(id_ in there, "snapshot %s of round %d had been reported and is gone; there are %s" % (id_, round_, there))
        out = t.restored(repo, id_)
        for name, wanted in content(round_).items():
            with open(out + "/tmp/source/" + name, "rb") as f:
                need(f.read() == wanted, "%s of round %d is not what it was" % (name, round_))
    # What was stored and could not be reported any more.
    for id_ in there:
        if id_ not in [i for i, _ in known["stored"]]:
            t.restored(repo, id_)


def load(t, at, known, offset, rounds):
    repo = at + "/repo"
    if known is None:
        known = {"round": 0, "stored": [], "leaving": None}
        t.kw("init", "--repo", repo)
        os.sync()
        note("/dev/vda", offset, known)
    print("ready", flush=True)
    os.makedirs("/tmp/source", exist_ok=True)
    for _ in range(rounds):
        known["round"] += 1
        for name, what in content(known["round"]).items():
            with open("/tmp/source/" + name, "wb") as f:
                f.write(what)
        id_ = t.backup(repo, "/tmp/source")
        known["stored"].append([id_, known["round"]])
        known["leaving"] = None
        note("/dev/vda", offset, known)
        print("stored %d" % known["round"], flush=True)
        if len(known["stored"]) > KEPT:
            known["leaving"] = known["stored"][0][0]
            note("/dev/vda", offset, known)
            t.kw("forget", "--repo", repo, "--prune", known["leaving"])
            del known["stored"][0]
            known["leaving"] = None
            note("/dev/vda", offset, known)


def test(at):
    options = types.SimpleNamespace(long=False, binary="/bin/keepwatch", seed=1, keep=False, killat="/nonexistent")
    t = harness.Test("/tmp/t-%s" % time.monotonic_ns(), options, "cuts")
    # The identity and the cache lie on the disk, too.
    t.env = dict(t.env, HOME=at + "/home")
    os.makedirs(t.env["HOME"], exist_ok=True)
    return t


def mounted(device, at):
    os.makedirs(at, exist_ok=True)
    done = subprocess.run(["mount", "-t", "ext4", device, at], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    need(done.returncode == 0, done.stdout)


def main(rest):
    verb, _, number = rest.partition(",")
    if verb == "load":
        mounted("/dev/vda", "/mnt/disk")
        known = note("/dev/vda", DISK - BLOCK)
        t = test("/mnt/disk")
        if known:
            look(t, "/mnt/disk", known)
        load(t, "/mnt/disk", known, DISK - BLOCK, int(number))
        subprocess.run(["umount", "/mnt/disk"])
        print("end", flush=True)
        return
    for n in range(int(number)):
        why = ""
        known = note("/dev/vda", (n + 1) * DISK - BLOCK)
        try:
            if known:
                loop = subprocess.run(["losetup", "--find", "--show", "--offset", str(n * DISK), "--sizelimit", str(DISK), "/dev/vda"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
                mounted(loop, "/mnt/disk")
                t = test("/mnt/disk")
                look(t, "/mnt/disk", known)
                t.clean()
        except BaseException as e:
            why = "%s: %s" % (type(e).__name__, e)
        for argv in (["umount", "/mnt/disk"], ["losetup", "-D"]):
            subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        print("%s cut %d (%d snapshots) %s" % ("FAILED" if why else "ok", n, len(known["stored"]) if known else 0, why.replace("\n", "\n  ")), flush=True)
    print("end", flush=True)

#!/usr/bin/env python3
"""Restore a snapshot of a Keepwatch repository (format 1) without Keepwatch.

Written from FORMAT.md alone. Needs Python 3.9+ and the stock commands `age` and `zstd`; uses `age-keygen` and `b3sum` if present.
NOT verified: Ed25519 signatures and the owner key (Python has none), hence who wrote config, writers, index, snapshots, tombstones.
Without `b3sum` also not: names of records and chunk ids. age proves that an envelope is intact, not who made it: the repository recipient
is public, so whoever can write to the bucket could put other content of the same lengths in its place (b3sum, if it is here, finds
that), or present an older state or a whole forged repository (nothing here finds that). A lost index is not rebuilt from the packs.
The limits on age headers and scrypt are those of the installed age. Snapshots of revoked writers are shown as such, not refused.
Exit: 0 all restored (skipped devices and sockets are only reported), 1 nothing was done, 2 usage, 3 something is damaged or missing.
"""
import argparse, bisect, collections, concurrent.futures, contextlib, datetime, glob, os, resource, shutil, stat, struct, subprocess, sys, tempfile
from itertools import accumulate, islice, takewhile
MIB, KINDS, B3SUM, KEYGEN = 1 << 20, ("data", "manifest", "list"), shutil.which("b3sum"), shutil.which("age-keygen")
ROOT, OPEN, OPENDIR = os.geteuid() == 0, os.O_NOFOLLOW | os.O_CLOEXEC, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
ERRORS = (OSError, ValueError, TypeError, LookupError, AttributeError, OverflowError, struct.error)  # what damaged input can raise
def show(b):  # a text from the repository, made safe for a terminal
    text = b.decode("utf-8", "backslashreplace") if isinstance(b, bytes) else str(b)
    return "".join(c if c.isprintable() else "\\x%02x" % ord(c) for c in text)
def say(what, problem=True):
    say.problems += problem
    print("recover: " + what, file=sys.stderr)
say.problems = 0
def need(ok, what):
    if not ok: raise ValueError(what)
@contextlib.contextmanager
def guard(what):
    """What goes wrong inside is reported, and costs only what is inside."""
    try: yield
    except ERRORS as x: say("%s: %s" % (show(what), show(x)))
def pipe(cmd, data, identity="", limit=1 << 40):
    """Output of a filter. An identity goes through a pipe, never into a file or a command line."""
    r, w = os.pipe()
    with open(r, "rb"):
        with open(w, "wb") as f: f.write(identity.encode())
        p = subprocess.run(cmd + (["-i", "/dev/fd/%d" % r] if identity else []), input=data, capture_output=True, pass_fds=[r])
    need(p.returncode == 0, p.stderr.decode("utf-8", "replace").split("\n")[0] or cmd[0] + " failed")
    need(len(p.stdout) <= limit, "more than %d bytes" % limit)
    return p.stdout
def open_age(data, identity, limit, head=b""):
    """What is sealed and compressed in an age file, after a given beginning."""
    b = pipe(["age", "-d"], data, identity)
    need(b.startswith(head), "not the chunks that the index names")
    return pipe(["sh", "-c", "zstd -dcq --memory=8MB | head -c %d" % (limit + 1)], b[len(head):], limit=limit)
def b3(args, data):
    return bytes.fromhex(pipe([B3SUM, "--no-names"] + args, data).decode())
def cbor(b, i=0, depth=0):
    """One item at b[i:], and where it ends: integers, bytes, text, arrays, maps, booleans; definite lengths."""
    major, n, i, items = b[i] >> 5, b[i] & 31, i + 1, []
    need(depth <= 16 and n < 28 and (major < 6 or major == 7 and n in (20, 21)), "CBOR: not of this format")
    if n >= 24 and major < 7:
        n, i = int.from_bytes(b[i:i + (1 << n - 24)], "big"), i + (1 << n - 24)
    need(i <= len(b) and (major in (0, 1, 7) or n <= len(b) - i), "CBOR: cut")
    if major in (0, 1, 7): return (n, -1 - n)[major] if major < 2 else n == 21, i
    if major < 4: return b[i:i + n] if major == 2 else b[i:i + n].decode("utf-8", "replace"), i + n
    for _ in range(n * (major - 3)):
        v, i = cbor(b, i, depth + 1)
        items.append(v)
    return items if major == 4 else dict(zip(items[::2], items[1::2])), i
def split(b, n):
    return [b[i:i + n] for i in range(0, len(b), n)]

class Repository:
    def __init__(self, path, identity):
        self.path, self.workers, self.bad = path, min(8, os.cpu_count() or 1), set()
        self.pool = concurrent.futures.ThreadPoolExecutor(self.workers)
        self.id, _, body = self.frame("config", 1)
        config = cbor(body)[0]
        need(config[0] == 1, "config: format version %s, this script reads 1" % show(config[0]))
        for slot in self.names("keys/*.age"):
            print("recover: trying keys/" + show(slot), file=sys.stderr)  # age keeps the terminal: it may ask for something
            cmd = ["age", "-d", *(["-i", identity] if identity else []), os.path.join(path, "keys", slot)]
            words = subprocess.run(cmd, stdout=subprocess.PIPE).stdout.decode("utf-8", "replace").split()
            keys = [s for s in words if s.startswith("AGE-SECRET-KEY-1")]
            if len(keys) != 1: continue
            if self.id.hex() in words and (not KEYGEN or pipe([KEYGEN, "-y"], keys[0].encode()).decode().strip() == config[1]): break
            say("keys/%s is not of this repository: refused" % show(slot))
        else: raise ValueError("this opens none of keys/*.age")
        secrets = cbor(pipe(["age", "-d"], config[5], keys[0]))[0]
        self.ids = {0: keys[0], 1: keys[0], 2: secrets[1]}  # what opens envelopes of each kind, and what makes ids
        self.keys = {k: B3SUM and b3(["--derive-key", "keepwatch v1 chunk id " + v], secrets[0]) for k, v in enumerate(KINDS)}
    def names(self, pattern):
        return sorted(os.path.basename(p) for p in glob.glob(os.path.join(glob.escape(self.path), pattern)))
    def frame(self, name, kind):
        """(repository id, signer, body) of a record; its signature is not checked."""
        with open(os.path.join(self.path, name), "rb") as f: b = f.read(64 * MIB + 1)
        need(97 <= len(b) <= 64 * MIB and b[:5] == b"KWR1" + bytes([kind]), "not such a record")
        need(len(b) == 97 + int.from_bytes(b[29:33], "little"), "wrong length")
        need(not B3SUM or len(os.path.basename(name)) != 64 or name.endswith(b3([], b).hex()), "the name is not the hash of the object")
        return b[5:21], b[21:29], b[33:-64]
    def records(self, folder, kind, limit, only=""):
        """(name, signer, content) of each record of a folder; damaged ones are reported."""
        def read(name):
            with guard(folder + "/" + name):
                repo, signer, body = self.frame(folder + "/" + name, kind)
                need(repo == self.id, "of another repository")
                return name, signer, cbor(open_age(body, self.ids[2], limit))[0]
        for block in split(self.names(folder + "/" + glob.escape(only) + "*"), 2 * self.workers):
            yield from filter(None, self.pool.map(read, block))
    def snapshots(self, only=""):
        """[(start, name, content, remarks)], oldest first."""
        writers, gone, found = {n: c for n, _, c in self.records("writers", 2, MIB)}, set(), []
        for _, signer, c in self.records("tombstones", 5, 64 * MIB):
            every = writers.get(signer.hex(), {}).get(4) is True
            gone.update((i[0].hex(), i[1]) for i in c.get(1, []) if every or i[1] == signer)
        for name, w, c in self.records("snapshots", 4, MIB, only):
            marks = ["forgotten"] * ((name, w) in gone) + ["revoked"] * (w.hex() + ".revoked" in writers) + ["partial"] * (c.get(9) == 1)
            found.append((c[2], name, c, marks))
        return sorted(found, key=lambda s: s[:2])
    def load_index(self):
        self.envelopes, self.where = {}, {}  # (pack, offset): [length, kind, ids, lengths]; id: ((pack, offset), from, to), …
        for name, _, content in self.records("index", 3, 256 * MIB):
            with guard("index/" + name):
                for pack in content[0]:
                    for e, end in zip(pack[3], accumulate(e[0] for e in pack[3])):
                        key = (pack[0].hex(), end - e[0])
                        need(e[0] <= 32 * MIB and e[1] in range(3) and 0 < len(e[3]) <= 65536 and len(e[2]) == 32 * len(e[3])
                             and all(0 < n <= 8 * MIB for n in e[3]) and sum(e[3]) <= 16 * MIB, "beyond the limits")
                        if self.envelopes.setdefault(key, e) is e:
                            for i, end, n in zip(split(e[2], 32), accumulate(e[3]), e[3]):
                                self.where[i] = self.where.get(i, ()) + ((key, end - n, end),)
    def envelope(self, key):
        """The chunks of one envelope, one after another."""
        length, kind, ids, lengths = self.envelopes[key][:4]
        with open(os.path.join(self.path, "packs", key[0][:2], key[0]), "rb") as f:
            f.seek(key[1])
            b, n = f.read(length), len(lengths)
        need(len(b) == length, "the pack is cut")
        b = open_age(b, self.ids[kind], sum(lengths), struct.pack("<IIB3xI%dI" % n, 0x184D2A5E, 8 + 4 * n, kind, n, *lengths))
        need(len(b) == sum(lengths), "content too short")
        for i, end, n in zip(split(ids, 32), accumulate(lengths), lengths) if B3SUM else ():
            with tempfile.NamedTemporaryFile(buffering=0) as f:
                f.write(b[end - n:end])
                need(b3(["--keyed", f.name], self.keys[kind]) == i, "content has another id")
        return b
    def fetch(self, ids, kind, sink):
        """sink(id, content) for each chunk: each envelope once, in pack order, few at a time; another copy where one is damaged."""
        todo = set(ids)
        while True:
            plan, ahead = collections.defaultdict(list), collections.deque()
            for i in todo:
                copies = (w for w in self.where.get(i, ()) if w[0] not in self.bad and self.envelopes[w[0]][1] == kind)
                for key, start, end in islice(copies, 1): plan[key].append((i, start, end))
            if not plan: return todo  # lost
            for key in sorted(plan) + [None] * (self.workers + 2):
                if key: ahead.append((key, self.pool.submit(self.envelope, key)))
                if ahead and (not key or len(ahead) > self.workers + 2):
                    key, job = ahead.popleft()
                    self.bad.add(key)
                    with guard("pack %s, envelope at %d: damaged or missing" % key):
                        content = job.result()
                        self.bad.discard(key)
                        todo.difference_update(i for i, _, _ in plan[key])
                        for i, start, end in plan[key]: sink(i, content[start:end])
    def leaves(self, lst, form):
        """The leaf items of a list; for those that are lost a number each: the refs that they stand for."""
        size, cells = (40 if form else 32), [lst[1]]  # items (bytes), or what is lost here: numbers of leaf items and of refs
        need(lst[0] <= 8, "list too deep")
        for level in range(lst[0], 0, -1):
            nodes, cells, got = [n for c in cells for n in ([c] if isinstance(c, tuple) else split(c, 48))], [], {}
            self.fetch((n[:32] for n in nodes if not isinstance(n, tuple)), 2, got.__setitem__)
            for n in nodes:
                b, n = (b"", n) if isinstance(n, tuple) else (got.get(n[:32], b""), struct.unpack("<QQ", n[32:]))
                cells.append(b[2:] if b[:2] == bytes([level, form]) and (level > 1 or len(b) == 2 + n[0] * size) else n)
        need(sum(c[0] if isinstance(c, tuple) else len(c) // size for c in cells) == lst[2], "the list has another length")
        return [i for c in cells for i in ([c[1]] + [0] * (c[0] - 1) if isinstance(c, tuple) else split(c, size))]
    def entries(self, snapshot):
        """(entry, ids of its content) in order; None for an id that is lost."""
        parts, refs, got, last = self.leaves(snapshot[11], 1), self.leaves(snapshot[12], 0), {}, b"the beginning"
        refs = [r if isinstance(r, bytes) else None for r in refs]
        self.fetch((p[:32] for p in parts if isinstance(p, bytes)), 1, got.__setitem__)
        count = [struct.unpack("<II", p[32:]) if isinstance(p, bytes) else (p, None) for p in parts]  # (refs, entries) of each part
        front = list(accumulate((c[0] for c in count), initial=0))
        for k, p in enumerate(parts):
            at, b, i, out, n = front[k], got.get(p[:32], b"") if isinstance(p, bytes) else b"", 0, [], 0
            with guard("manifest part %d of %d: %s entries after %s" % (k + 1, len(parts), count[k][1] or "unknown", show(last))):
                need(b, "lost")
                while i < len(b):
                    e, i = cbor(b, i)
                    c = e.get(9, 0)
                    out.append((e, refs[at + n:at + n + c]))
                    n += c
                need((n, len(out)) == count[k], "its numbers do not fit")
                last = out[-1][0][0]
                yield from out

class Target:
    """A directory below which no symlink is followed."""
    def __init__(self, path):
        self.chain = [(b"", os.open(path, OPENDIR))]
    def at(self, path):
        """(descriptor of the parent, name); missing parents are made."""
        *up, name = path.split(b"/")
        keep = sum(1 for _ in takewhile(lambda p: p[0] == p[1][0], zip(up, self.chain[1:])))
        while len(self.chain) > keep + 1: os.close(self.chain.pop()[1])
        for part in up[keep:]:
            with contextlib.suppress(FileExistsError): os.mkdir(part, 0o700, dir_fd=self.chain[-1][1])
            self.chain.append((part, os.open(part, OPENDIR | OPEN, dir_fd=self.chain[-1][1])))
        return self.chain[-1][1], name
    def create(self, e):
        fd, name = self.at(e[0] + b"/." if e[1] == 1 else e[0])  # for a directory, being a parent is all
        if e[1] == 0:
            with open(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | OPEN, 0o600, dir_fd=fd), "wb") as f: f.truncate(e[8])  # holes
        if e[1] == 2: os.symlink(e[10], name, dir_fd=fd)
        if e[1] == 3: os.mkfifo(name, 0o600, dir_fd=fd)
    def write(self, file, at, data):
        """Data at an offset of the content of a file, which leaves out its holes."""
        fd, name = self.at(file.e[0])
        k = bisect.bisect_right(file.starts, at) - 1
        with open(os.open(name, os.O_WRONLY | OPEN, dir_fd=fd), "wb", 0) as f:
            while data:
                n = os.pwrite(f.fileno(), data[:file.starts[k + 1] - at], file.places[k] + at - file.starts[k])
                at, data, k = at + n, data[n:], k + (at + n == file.starts[k + 1])
    def attributes(self, e, fd, name):
        """Owner, extended attributes, mode, times: in this order, since each may undo a later one."""
        if ROOT: os.chown(name, e[3], e[4], dir_fd=fd, follow_symlinks=False)
        for key, value in e.get(12, []):
            try: os.setxattr(b"/proc/self/fd/%d/%s" % (fd, name), key, value, follow_symlinks=False)
            except (OSError, AttributeError) as x:  # only root may set others than user.*
                say("%s: attribute %s: %s" % (show(e[0]), show(key), show(x)), ROOT or key.startswith(b"user."))
        st = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if not stat.S_ISLNK(st.st_mode):  # no set-user-id for another user
            os.chmod(name, e[2] & (0o7777 if (st.st_uid, st.st_gid) == (e[3], e[4]) else 0o1777), dir_fd=fd)
        os.utime(name, ns=tuple(t[0] * 10**9 + t[1] for t in (e.get(16, e[7]), e[7])), dir_fd=fd, follow_symlinks=False)

class File:
    """Where the content of a file goes: what is from starts[k] on, to places[k]."""
    def __init__(self, e, length):
        self.e, self.lost, self.starts, self.places, end = e, None, [0], [], 0
        for off, n in e.get(14, []) + [[e[8], 0]]:
            need(end <= off and n >= 0, "holes out of order")
            if off > end:
                self.places.append(end)
                self.starts.append(self.starts[-1] + off - end)
            end = off + n
        need(self.starts[-1] == length, "size and content differ")

def restore(repo, snapshot, target):
    dest, source, made, links, later, uses, last = Target(target), Target(target), [], {}, [], collections.defaultdict(list), []
    for e, ids in repo.entries(snapshot):
        path, group = e.get(0, b""), tuple(e.get(13, ()))
        with guard(path):
            parts = path.split(b"/")  # an absolute path has an empty first component
            need(len(path) <= 4096 and b"\0" not in path and all(0 < len(p) < 256 and p not in (b".", b"..") for p in parts), "unsafe path")
            need(parts > last and e[1] in range(7) and (e[1] == 0 or not (ids or group)), "out of order, or malformed")
            last = parts
            if e[1] > 3: say("%s: device or socket: skipped" % show(path), 0)
            elif group in links: later.append((e, links[group]))
            else:
                need(all(i in repo.where for i in ids), "its content is lost")
                at = list(accumulate((repo.where[i][0][2] - repo.where[i][0][1] for i in ids), initial=0))
                file = File(e, at[-1]) if e[1] == 0 else None
                dest.create(e)
                made.append((e, file))
                for i, start in zip(ids, at): uses[i].append((file, start))
                if group: links[group] = file
    def sink(i, data):
        for file, start in uses[i]:
            try: dest.write(file, start, data)
            except ERRORS as x: file.lost = show(x)
    for i in repo.fetch(uses, 0, sink):
        for file, _ in uses[i]: file.lost = "part of its content is lost"
    for e, file in later:
        with guard(e[0]):
            need(not file.lost, "its content is lost")
            (old, name), (new, link) = source.at(file.e[0]), dest.at(e[0])
            os.link(name, link, src_dir_fd=old, dst_dir_fd=new, follow_symlinks=False)
    for e, file in reversed(made):  # a directory after what is in it
        with guard(e[0]):
            fd, name = dest.at(e[0])
            if file and file.lost: os.unlink(name, dir_fd=fd)
            need(not (file and file.lost), "%s: removed" % (file and file.lost))
            dest.attributes(e, fd, name)
def main():
    a = argparse.ArgumentParser(description="Restore a snapshot of a Keepwatch repository without Keepwatch.")
    who = a.add_mutually_exclusive_group(required=True)
    who.add_argument("--identity", metavar="FILE", help="for `age -i`"), who.add_argument("--passphrase", action="store_true")
    a.add_argument("--repo", required=True, metavar="DIR"), a.add_argument("--target", metavar="DIR")
    a.add_argument("--snapshot", default="latest", metavar="PREFIX|latest"), a.add_argument("--list", action="store_true")
    a = a.parse_args()
    need(a.list or a.target, "--target or --list is needed")
    repo = Repository(a.repo, a.identity)
    found = repo.snapshots("" if a.list or a.snapshot == "latest" else a.snapshot)
    if a.list:
        for (sec, _, off), name, c, marks in found:
            when = datetime.datetime.fromtimestamp(sec, datetime.timezone(datetime.timedelta(seconds=off)))
            print(name, when.isoformat(), show(c[4]), *map(show, c[8]), *("[%s]" % m for m in marks))
        return
    if a.snapshot == "latest": found = [s for s in found if not {"forgotten", "revoked"} & set(s[3])][-1:]
    need(len(found) == 1, "%d snapshots match" % len(found))
    print("recover: snapshot", found[0][1], file=sys.stderr)
    repo.load_index()
    os.makedirs(a.target, exist_ok=True)
    restore(repo, found[0][2], a.target)
if __name__ == "__main__":
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE)[1:] * 2)
    try: main()
    except ERRORS as x: sys.exit("recover: %s" % show(x))
    sys.exit(3 if say.problems else 0)

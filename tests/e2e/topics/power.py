"""D3: power loss. Runs are recorded with strace and played into a model of a file system in which only what was synced is sure to survive:
content of synced files, entries of synced directories. At many moments and by many lots (unsynced data gone, torn or kept; unsynced directory
operations done or not, each by itself) what could be left on the disk is written out, and every snapshot that had been reported must come back."""
import hashlib, os, re

from harness import Skip, need, need_tools, remove, same, tree

TRACE = "openat,open,creat,write,pwrite64,writev,pwritev,ftruncate,truncate,fallocate,copy_file_range,sendfile,fsync,fdatasync,sync_file_range,syncfs,sync,rename,renameat,renameat2,link,linkat,unlink,unlinkat,rmdir,mkdir,mkdirat,symlink,symlinkat,lseek,dup,dup2,dup3,fcntl,close,mmap"


class Inode:
    count = 0

    def __init__(self, is_dir):
        self.is_dir = is_dir
        self.now = {} if is_dir else bytearray()   # as running programs see it
        self.sure = {} if is_dir else b""          # as it survives for sure
        self.pending = []                          # directories: operations since the last sync: (operation's number, name, inode or None)
        self.dirty = False                         # files: written to since the last sync

    def sync(self):
        if self.is_dir:
            self.sure, self.pending = dict(self.now), []
        else:
            self.sure, self.dirty = bytes(self.now), False


class Disk:
    """The model. Only what lies below `root` counts."""

    def __init__(self, root):
        self.root, self.top, self.operation = root, Inode(True), 0

    def load(self):
        """What is there now is there for sure."""
        def walk(path, inode):
            for e in os.scandir(path):
                child = Inode(e.is_dir(follow_symlinks=False))
                inode.now[e.name] = child
                if child.is_dir:
                    walk(e.path, child)
                else:
                    with open(e.path, "rb") as f:
                        child.now = bytearray(f.read())
                    child.sync()
            inode.sync()
        walk(self.root, self.top)

    def inside(self, path):
        path = os.path.normpath(path)
        return path[len(self.root):].strip("/").split("/") if path.startswith(self.root + "/") else [] if path == self.root else None

    def find(self, parts):
        inode = self.top
        for p in parts:
            inode = inode.now.get(p) if inode is not None and inode.is_dir else None
        return inode

    def set(self, parts, inode, operation=None):
        parent = self.find(parts[:-1])
        need(parent is not None, "the model knows no %s" % "/".join(parts[:-1]))
        if operation is None:
            self.operation += 1
            operation = self.operation
        if inode is None:
            parent.now.pop(parts[-1], None)
        else:
            parent.now[parts[-1]] = inode
        parent.pending.append((operation, parts[-1], inode))

    def crash(self, lots, how):
        """What could be found after a power loss: {path: bytes or None for a directory}."""
        fate = {}

        def happened(operation):
            if operation not in fate:
                fate[operation] = {"drop": False, "keep": True}.get(how, lots.random() < 0.5)
            return fate[operation]
        out = {}

        def walk(inode, path):
            if not inode.is_dir:
                if not inode.dirty or how == "drop":
                    out[path] = inode.sure
                elif how == "keep":
                    out[path] = bytes(inode.now)
                else:
                    now, kind = bytes(inode.now), lots.randrange(5)
                    cut = lots.randrange(len(now) + 1)
                    out[path] = [inode.sure, now, now[:cut], now[:cut] + bytes(len(now) - cut), now[:cut] + lots.randbytes(len(now) - cut)][kind]
                return
            if path:
                out[path] = None
            entries = dict(inode.sure)
            for operation, name, child in inode.pending:
                if happened(operation):
                    if child is None:
                        entries.pop(name, None)
                    else:
                        entries[name] = child
            for name, child in entries.items():
                walk(child, path + "/" + name if path else name)
        walk(self.top, "")
        return out


# Calls that change what a descriptor shows, or promise that it stays.
BY_DESCRIPTOR = ("write", "pwrite64", "writev", "pwritev", "ftruncate", "fallocate", "fsync", "fdatasync")

LINE = re.compile(r"^(\d+)\s+(.*)$", re.S)
STRING = re.compile(r'"((?:[^"\\]|\\.)*)"(\.\.\.)?')


def unescape(text):
    return bytes.fromhex(text.replace("\\x", "")) if "\\x" in text or not text else text.encode()


def calls(log):
    """The calls of a log in the order in which they ended: (name, arguments, result)."""
    begun = {}
    with open(log, errors="surrogateescape") as f:
        for line in f:
            pid, text = LINE.match(line.rstrip("\n")).groups()
            if text.startswith(("---", "+++")):
                continue
            if text.endswith("<unfinished ...>"):
                text = text[: -len("<unfinished ...>")]
                # The number is free before the call has returned: another thread's open may be given it and be told first.
                if text.startswith("close("):
                    yield "close", text[len("close("):], 0, ""
                else:
                    begun[pid] = text
                continue
            m = re.match(r"<\.\.\. (\w+) resumed>(.*)", text, re.S)
            if m and m[1] == "close":
                continue
            if m:
                text = begun.pop(pid, "") + m[2]
            m = re.match(r"(\w+)\((.*)\)\s+(= .*)$", text, re.S)
            if not m:
                continue
            result = re.match(r"= (-?\d+|\?)", m[3])
            if result and result[1] not in ("?",):
                yield m[1], m[2], int(result[1]), m[3]


def fd_path(text):
    """The path that -y shows for a descriptor: `3</a/b>`; `(deleted)` is a mark of the kernel."""
    m = re.match(r"\s*(?:-?\d+|AT_FDCWD)<((?:[^>\\]|\\.)*)>(\(deleted\))?", text)
    return unescape(m[1]).decode("utf-8", "surrogateescape") if m else None


def strings(text):
    out = []
    for m in STRING.finditer(text):
        need(not m[2], "strace cut a string")
        out.append(unescape(m[1]))
    return out


def at(text, index):
    """The path of an *at call: the index-th string, from the index-th directory descriptor."""
    names = [s.decode("utf-8", "surrogateescape") for s in strings(text)]
    dirs = re.findall(r"((?:AT_FDCWD|\b\d+)<(?:[^>\\]|\\.)*>)", text)
    name = names[index]
    if name.startswith("/") or not dirs:
        return name
    return os.path.join(fd_path(dirs[min(index, len(dirs) - 1)]), name)


class Player:
    """Plays a log into a Disk, and calls `moment` before and after what matters."""

    def __init__(self, disk, moment):
        self.disk, self.moment = disk, moment
        self.open = {}     # (descriptor) -> [inode, position, append]

    def play(self, log):
        disk = self.disk
        for name, args, result, tail in calls(log):
            if result < 0:
                continue
            if name in ("openat", "open", "creat"):
                path = at(args, 0)
                parts = disk.inside(path)
                # Where a link was followed, the result tells the real path.
                real = fd_path(tail[2:])
                parts = disk.inside(real) if real else parts
                if parts is None:
                    self.open.pop(result, None)
                    continue
                inode = disk.find(parts)
                if inode is None:
                    need("O_CREAT" in args or name == "creat", "the model lacks %s" % path)
                    inode = Inode(False)
                    disk.set(parts, inode)
                if "O_TRUNC" in args and not inode.is_dir:
                    inode.now, inode.dirty = bytearray(), True
                self.open[result] = [inode, 0, "O_APPEND" in args]
                continue
            if name == "close":
                self.open.pop(int(re.match(r"\d+", args)[0]), None)
                continue
            fd = re.match(r"\d+", args)
            handle = self.open.get(int(fd[0])) if fd else None
            if handle is None and name in BY_DESCRIPTOR:
                need(not disk.inside(fd_path(args) or "/"), "the model lost sight of the descriptor in %s(%s" % (name, args[:200]))
            if name == "write" and fd and fd[0] == "1" and handle is None:
                self.moment("reported", b"".join(strings(args)))
            elif name in ("write", "pwrite64") and handle:
                data = strings(args)[0][:result]
                where = int(args.rsplit(",", 1)[1]) if name == "pwrite64" else len(handle[0].now) if handle[2] else handle[1]
                inode = handle[0]
                inode.now[len(inode.now):] = bytes(max(0, where - len(inode.now)))
                inode.now[where:where + len(data)] = data
                inode.dirty = True
                if name == "write":
                    handle[1] = where + len(data)
                self.moment("wrote", None)
            elif name == "lseek" and handle:
                handle[1] = result
            elif name == "ftruncate" and handle:
                n = int(args.rsplit(",", 1)[1])
                del handle[0].now[n:]
                handle[0].now.extend(bytes(n - len(handle[0].now)))
                handle[0].dirty = True
            elif name in ("fsync", "fdatasync") and handle:
                self.moment("before sync", None)
                handle[0].sync()
                self.moment("after sync", None)
            elif name in ("writev", "pwritev", "copy_file_range", "sendfile", "fallocate") and handle:
                need(False, "the model does not know %s" % name)
            elif name == "mmap" and handle:
                need("MAP_SHARED" not in args or "PROT_WRITE" not in args, "the model does not know shared maps for writing")
            elif name in ("dup", "dup2", "dup3") and handle:
                self.open[result] = handle
            elif name == "fcntl" and handle and "F_DUPFD" in args:
                self.open[result] = handle
            elif name in ("rename", "renameat", "renameat2", "link", "linkat"):
                a, b = disk.inside(at(args, 0)), disk.inside(at(args, 1))
                if a is None and b is None:
                    continue
                need(a and b, "a rename or link across the border: %s" % args)
                inode = disk.find(a)
                need(inode is not None, "the model lacks %s" % a)
                disk.set(b, inode)
                if name.startswith("rename"):
                    disk.set(a, None, disk.operation)
                self.moment("linked", None)
            elif name in ("unlink", "unlinkat", "rmdir"):
                parts = disk.inside(at(args, 0))
                if parts:
                    disk.set(parts, None)
                    self.moment("unlinked", None)
            elif name in ("mkdir", "mkdirat"):
                parts = disk.inside(at(args, 0))
                if parts:
                    disk.set(parts, Inode(True))
                    self.moment("made", None)
        self.open = {}


class Recording:
    """Commands recorded one after another, and the moments at which the power may go."""

    def __init__(self, t):
        need_tools("strace")
        self.t, self.root = t, os.path.realpath(t.path("disk"))
        os.mkdir(self.root)
        self.env = dict(t.env, HOME=self.root + "/home", TMPDIR=self.root)
        self.logs, self.states = [], {}

    def fix(self):
        """From here on it is recorded; what is there is safe."""
        self.disk = Disk(self.root)
        self.disk.load()

    def record(self, *words, drops=()):
        log = self.t.path("log-%d" % len(self.logs))
        run = self.t.kw(*words, "--json", env=self.env, prefix=["strace", "-f", "-y", "-xx", "-s", "100000000", "-o", log, "-e", "trace=" + TRACE])
        with open(log, errors="replace") as f:
            if not f.read(1):
                raise Skip("strace does not work here")
        self.logs.append((log, words[0], run.json, drops))
        return run.json

    def lose_power(self, seeds, check):
        """Plays the records again and again, and stops at as many moments as there are seeds."""
        t = self.t
        moments = []

        def count(what, data):
            moments.append(what)
        self.play(count)
        # All sync boundaries, and the rest by lot.
        weighty = [i for i, w in enumerate(moments) if w in ("before sync", "after sync", "reported", "unlinked", "linked")]
        chosen = sorted([weighty[(i * len(weighty)) // (seeds // 2)] for i in range(seeds // 2)] + [t.random.randrange(len(moments)) for _ in range(seeds - seeds // 2)])
        n = done = 0
        # What was looked at before need not be again: the same bytes under the same names, and the same promises.
        seen = set()

        def stop(what, data):
            nonlocal n, done
            while chosen and chosen[0] == n:
                chosen.pop(0)
                how = ["drop", "lots", "keep", "lots", "lots"][done % 5]
                done += 1
                left = self.disk.crash(t.random, how)
                key = hashlib.sha256(repr((sorted(self.must), self.reported)).encode())
                for path, content in sorted(left.items()):
                    key.update(b"%s\0%d\0" % (os.fsencode(path), -1 if content is None else len(content)))
                    key.update(content or b"")
                if key.digest() in seen:
                    continue
                seen.add(key.digest())
                self.materialise(left)
                try:
                    check(self, len(seen))
                except AssertionError as e:
                    raise AssertionError("power loss at moment %d of %d (%s, in %s), what was not synced: %s\n%s" % (n, len(moments), what, self.verb, how, e))
            n += 1
        self.play(stop)
        print("%d power losses at %d moments, which left %d different states" % (done, len(moments), len(seen)))

    def play(self, moment):
        """From the beginning. `self.must`: snapshots that were reported and are not to be forgotten."""
        self.must, self.reported = {}, False
        start = self.disk
        self.disk = Disk(self.root)
        copy_tree(start.top, self.disk.top)
        for log, self.verb, result, drops in self.logs:
            for d in drops:
                self.must.pop(d, None)

            def told(what, data, result=result):
                # The last line of the document is what ends the report.
                if what == "reported" and data.rstrip().endswith(b"}") and result.get("snapshot"):
                    self.must[result["snapshot"]] = self.states[result["snapshot"]]
                    self.reported = True
                moment(what, data)
            Player(self.disk, told).play(log)
            if result.get("snapshot"):
                self.must[result["snapshot"]] = self.states[result["snapshot"]]
        self.disk = start

    def materialise(self, files):
        remove(self.root)
        os.makedirs(self.root)
        for path, content in files.items():
            place = os.path.join(self.root, path)
            if content is None:
                os.makedirs(place, mode=0o700, exist_ok=True)
            else:
                os.makedirs(os.path.dirname(place), mode=0o700, exist_ok=True)
                fd = os.open(place, os.O_CREAT | os.O_WRONLY, 0o600)
                with open(fd, "wb") as f:
                    f.write(content)


def copy_tree(a, b):
    for name, child in a.now.items():
        new = Inode(child.is_dir)
        b.now[name] = new
        if child.is_dir:
            copy_tree(child, new)
        else:
            new.now = bytearray(child.now)
            new.sync()
    b.sync()


def check_snapshots(rec, n):
    t, env = rec.t, rec.env
    repo = rec.root + "/repo"
    v = t.kw("verify", "--repo", repo, "--read-data", "--json", env=env, rc=(0, 1))
    need(v.code == 0 and v.json["with_identity"], v)
    if n % 3 == 0:
        ids = t.ids(repo, env=env)
        need(set(rec.must) <= set(ids), "lost: %s" % (set(rec.must) - set(ids)))
    # Verify has opened all that is there; a restore by its id proves that a snapshot is. Forgotten ones restore too: hence the list above.
    some = list(rec.must) if n % 5 == 0 else list(rec.must)[-1:]
    for i in some:
        t.must_restore(repo, i, rec.src, rec.must[i], env=env)
    if n % 12 == 0:  # the next runs need no help
        t.kw("backup", "--repo", repo, rec.src, env=env)
        for _ in range(2):
            t.kw("prune", "--repo", repo, "--grace", "0s", env=env)
        t.kw("verify", "--repo", repo, env=env)
        for i in rec.must:
            t.must_restore(repo, i, rec.src, rec.must[i], env=env)


def losses(t, seeds):
    rec = Recording(t)
    repo, rec.src = rec.root + "/repo", t.path("src")
    t.kw("init", "--repo", repo, env=rec.env)

    def change():
        for _ in range(3):
            t.write("src/%s/%d" % (t.random.choice("ab"), t.random.randrange(6)), t.noise(t.random.randrange(1, 20_000)))

    def backup():
        change()
        i = rec.record("backup", "--repo", repo, rec.src)["snapshot"]
        rec.states[i] = tree(rec.src)
        return i
    rec.fix()
    ids = [backup() for _ in range(3)]
    rec.record("forget", "--repo", repo, "--keep-last", "1", drops=ids[:2])
    for _ in range(2):
        rec.record("prune", "--repo", repo, "--grace", "0s", "--max-unused", "0%")
    ids.append(backup())
    rec.record("forget", "--repo", repo, "--keep-last", "1", drops=ids[:3])
    rec.record("prune", "--repo", repo, "--grace", "0s", "--max-unused", "0%")
    backup()
    rec.record("prune", "--repo", repo, "--grace", "0s", "--max-unused", "0%")
    rec.lose_power(seeds, check_snapshots)


def test_model(t):
    """The model itself: a descriptor's number that is given out again before the thread that closed it has returned."""
    root = t.path("disk")
    os.mkdir(root)
    hexed = lambda path: "".join("\\x%02x" % b for b in path.encode())
    a, b, c = (hexed(root + name) for name in ("/a", "/b", ""))
    log = t.write("log", "\n".join([
        '1 openat(AT_FDCWD<%s>, "%s", O_WRONLY|O_CREAT, 0600) = 9<%s>' % (c, a, a),
        '1 close(9<%s> <unfinished ...>' % a,
        '2 openat(AT_FDCWD<%s>, "%s", O_WRONLY|O_CREAT, 0600 <unfinished ...>' % (c, b),
        '2 <... openat resumed>) = 9<%s>' % b,
        '1 <... close resumed>) = 0',
        '2 write(9<%s>, "\\x61\\x62", 2) = 2' % b,
        '2 fsync(9<%s>) = 0' % b,
        '2 close(9<%s>) = 0' % b]) + "\n")
    disk = Disk(root)
    Player(disk, lambda what, data: None).play(log)
    need(disk.find(["b"]).sure == b"ab", disk.find(["b"]).sure)
    with open(log, "a") as f:
        f.write('2 write(7<%s>, "\\x61", 1) = 1\n' % b)
    try:
        Player(Disk(root), lambda what, data: None).play(log)
    except AssertionError as e:
        need("lost sight" in str(e), e)
    else:
        need(False, "a descriptor that the model does not know was taken for one of somebody else's")


def test_losses_1(t):
    losses(t, 20_000 if t.long else 860)


def test_losses_2(t):
    losses(t, 20_000 if t.long else 860)


def test_first_use(t):
    """The first backup of all makes repository, identity and writer key: once it is reported, none of them may be lost."""
    rec = Recording(t)
    rec.src = t.small_tree()
    rec.fix()
    made = rec.record("backup", rec.src)
    rec.states[made["snapshot"]] = tree(rec.src)
    repo = rec.root + "/home/.local/share/keepwatch/repository"

    def check(rec, n):
        if not rec.must:
            # Not reported: whatever is left, the same command works, or works after what its advice says.
            for attempt in range(3):
                run = t.kw("backup", rec.src, env=rec.env, rc=(0, 1, 5))
                if run.code == 0:
                    break
                if "remove the directory and run 'init' again" in run.said:
                    need(not os.path.exists(repo + "/config"), run)
                    remove(repo)
                elif "'keepwatch key writer'" in run.said:
                    t.kw("key", "writer", env=rec.env)
                else:
                    need(False, run)
            need(run.code == 0, run)
            t.must_restore(repo, "latest", rec.src, tree(rec.src), env=rec.env)
            return
        need(os.path.exists(made["made"]["identity"]), "the identity is gone")
        need(os.path.exists(made["made"]["writer_key"]), "the writer key is gone")
        for i, state in rec.must.items():
            t.must_restore(repo, i, rec.src, state, env=rec.env)
        t.kw("verify", "--read-data", env=rec.env)
        t.kw("backup", rec.src, env=rec.env)
    rec.lose_power(2_000 if t.long else 280, check)

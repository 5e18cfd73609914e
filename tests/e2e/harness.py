"""What the tests share: a scratch home for each, runs of the binary with checks that always hold, and the state of trees as something comparable."""
import hashlib, http.client, json, os, random, re, shutil, socket, stat, subprocess, sys, time, zlib

NOBODY = 65534
# What must never be seen in any output: our own complaint about a panic, Rust's, a backtrace, a private key.
NEVER = re.compile(rb"panicked at|stopped by a mistake|RUST_BACKTRACE|stack backtrace|AGE-SECRET-KEY-1[A-Z0-9]{8}|BEGIN OPENSSH PRIVATE KEY|\(os error \d+\)")


class Skip(Exception):
    """Why a test cannot run here."""


class Run:
    """A finished run."""

    def __init__(self, argv, code, out, err):
        self.argv, self.code, self.out, self.err = argv, code, out, err

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def text(self):
        return self.out.decode("utf-8", "backslashreplace")

    @property
    def said(self):
        return self.err.decode("utf-8", "backslashreplace")

    def __str__(self):
        return "%s\n  exit %s\n  stdout: %s\n  stderr: %s" % (
            " ".join(os.fsdecode(a) for a in self.argv), self.code, self.text[-3000:].strip(), self.said[-3000:].strip())


def need(what, message):
    """An assertion that stays on whatever the options of Python."""
    if not what:
        raise AssertionError(str(message))


def until(what, tries, seconds=30):
    """The first true value of `tries`, within the time."""
    end, last = time.monotonic() + seconds, None
    while time.monotonic() < end:
        try:
            last = tries()
            if last:
                return last
        except (OSError, http.client.HTTPException) as e:
            last = e
        time.sleep(0.1)
    raise AssertionError("not within %d s: %s; the last was %r" % (seconds, what, last))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def is_root():
    return os.geteuid() == 0


def need_root():
    if not is_root():
        raise Skip("needs root")


def need_tools(*names):
    for name in names:
        if not shutil.which(name) and not os.path.exists("/usr/sbin/" + name):
            raise Skip("needs the command %s" % name)


def remove(path):
    """Removes a tree whatever is in it: paths beyond PATH_MAX, directories without rights, mounts left behind."""
    path = os.fsencode(path)
    with open("/proc/self/mounts", "rb") as f:
        inside = [line.split()[1] for line in f if line.split()[1].startswith(path + b"/")]
    for place in reversed(inside):
        subprocess.run(["umount", "-l", place], stderr=subprocess.DEVNULL)
    if os.path.lexists(path):
        subprocess.run(["chmod", "-R", "u+rwX", path], stderr=subprocess.DEVNULL)
        subprocess.run(["rm", "-rf", path], check=True)


class Test:
    """A scratch home, and the binary in it."""

    def __init__(self, scratch, options, name):
        self.dir, self.options, self.name = scratch, options, name
        self.long, self.binary = options.long, options.binary
        self.random = random.Random(zlib.crc32(name.encode()) ^ options.seed)
        os.mkdir(scratch, 0o711)
        os.chmod(scratch, 0o711)
        self.secrets = []
        self.env = self.home("home")

    def clean(self):
        if not self.options.keep:
            os.chdir("/")
            remove(self.dir)

    def path(self, *parts):
        return os.path.join(self.dir, *parts)

    def home(self, name, uid=None):
        """An environment with a home of its own. The variables are set by half, so that both ways to find places are used."""
        home = self.path(name)
        os.makedirs(home, 0o700, exist_ok=True)
        if uid is not None:
            os.chown(home, uid, uid)
        env = {"HOME": home, "PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LANG": "C.UTF-8", "TMPDIR": self.dir, "USER": "tester", "RUST_BACKTRACE": "1"}
        if not name.startswith("home"):
            env.update(XDG_CONFIG_HOME=home + "/c", XDG_DATA_HOME=home + "/d", XDG_CACHE_HOME=home + "/k", XDG_STATE_HOME=home + "/s")
        return env

    def start(self, *args, env=None, uid=None, prefix=(), **more):
        argv = list(prefix) + [self.binary] + [os.fspath(a) for a in args]
        if uid is not None and uid != os.geteuid():
            more.update(user=uid, group=uid, extra_groups=[])
        more.setdefault("stdin", subprocess.DEVNULL)
        more.setdefault("stdout", subprocess.PIPE)
        more.setdefault("stderr", subprocess.PIPE)
        more.setdefault("cwd", self.dir)
        return subprocess.Popen(argv, env=env or self.env, **more)

    def finish(self, process, rc=0, input=None, secret=False, timeout=120):
        try:
            out, err = process.communicate(input, timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError("it hangs: %s" % Run(process.args, "hang", out or b"", err or b""))
        run = Run(process.args, process.returncode, out or b"", err or b"")
        if rc is not None:
            need(run.code in (rc if isinstance(rc, (tuple, list, set)) else (rc,)), "expected exit %s\n%s" % (rc, run))
        if not secret:
            # More on standard output is the content of a dump. Lines of the log may name the error's number.
            log = re.compile(rb"^ *(WARN|ERROR|INFO|DEBUG|TRACE) .*\(os error", re.M)
            found = NEVER.search(run.out, 0, 1 << 20) or NEVER.search(log.sub(b"", run.err))
            need(not found, "never in output: %s\n%s" % (found and found[0], run))
            for s in self.secrets:
                need(s not in run.out and s not in run.err, "a secret was printed\n%s" % run)
        return run

    def killat(self, n):
        """What goes before a command to kill it before its n-th call that changes something. 0: never; `called` tells how many there were."""
        tool = self.options.killat
        if not os.path.exists(tool):
            need_tools("cc")
            source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "killat.c")
            mine = self.path("killat.new")
            self.sh("cc", "-O1", "-o", mine, source)
            shutil.copy2(mine, tool + "." + self.name)
            os.rename(tool + "." + self.name, tool)
            run = self.sh(tool, self.path("killat.count"), "1", "/bin/sh", "-c", "exit 0", rc=None)
            if run.code != 137:
                raise Skip("a process cannot be traced with a filter here: %s" % run)
        return [tool, self.path("killat.count"), str(n)]

    def called(self):
        with open(self.path("killat.count")) as f:
            return int(f.read())

    def kw(self, *args, rc=0, input=None, secret=False, timeout=120, **more):
        """Runs keepwatch and checks how it ends, and what must never be printed."""
        if input is not None:
            more["stdin"] = subprocess.PIPE
        return self.finish(self.start(*args, **more), rc, input, secret, timeout)

    def js(self, *args, **more):
        return self.kw(*args, "--json", **more).json

    def sh(self, *argv, rc=0, **more):
        more.setdefault("stdin", None if "input" in more else subprocess.DEVNULL)
        if more["stdin"] is None:
            del more["stdin"]
        done = subprocess.run([os.fspath(a) for a in argv], capture_output=True, cwd=more.pop("cwd", self.dir), env=more.pop("env", self.env), **more)
        run = Run(argv, done.returncode, done.stdout, done.stderr)
        if rc is not None:
            need(run.code == rc, "expected exit %s\n%s" % (rc, run))
        return run

    # Things that many tests make.

    def write(self, path, content=b"", mode=None):
        path = self.path(path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as f:
            f.write(content.encode() if isinstance(content, str) else content)
        if mode is not None:
            os.chmod(path, mode)
        return path

    def noise(self, n):
        return self.random.randbytes(n)

    def small_tree(self, name="src", files=8):
        """A few files that cost little: text, noise, repetition, an empty one, a directory below."""
        for i in range(files):
            content = [self.noise(self.random.randrange(1, 9000)), b"line %d\n" % i * self.random.randrange(1, 400), b""][i % 3]
            self.write("%s/%s/file-%d" % (name, "abc"[i % 2], i), content)
        os.symlink("a/file-0", self.path(name, "link"))
        return self.path(name)

    def repository(self, name="repo", **more):
        """A repository with an identity in the usual place. Returns its path."""
        self.kw("init", "--repo", self.path(name), **more)
        return self.path(name)

    def backup(self, repo, *paths, **more):
        return self.js("backup", "--repo", repo, *paths, **more)["snapshot"]

    def ids(self, repo, **more):
        return [s["id"] for s in self.js("snapshots", "--repo", repo, **more)["snapshots"]]

    def restored(self, repo, snapshot="latest", name="out", args=(), rc=0, **more):
        """Restores into a fresh directory. Returns it."""
        out = self.path(name)
        remove(out)
        # What is compared at once need not wait for the disk.
        self.kw("restore", "--no-sync", "--repo", repo, "--target", out, snapshot, *args, rc=rc, **more)
        return out

    def must_restore(self, repo, snapshot, source, state, name="out", **more):
        """The snapshot brings back exactly `state`, the former state of `source`."""
        out = self.restored(repo, snapshot, name, **more)
        same(tree(out + source), state, "snapshot %s" % snapshot)
        remove(out)


# Trees as values.

def digest(path):
    h = hashlib.sha256()
    with open(path, "rb", buffering=0) as f:
        while True:
            b = f.read(1 << 20)
            if not b:
                return h.hexdigest()
            h.update(b)


def tree(top, times=True, owners=True, links=True):
    """Everything about a tree that a backup keeps: {path: (kind, mode, owner, mtime, content, xattrs, hard links)}. Paths may be longer than PATH_MAX."""
    out, groups = {}, {}

    def entry(place, name):
        s = os.lstat(place)
        kind = stat.S_IFMT(s.st_mode)
        what = None
        if kind == stat.S_IFREG:
            what = (s.st_size, digest(place))
            if links and s.st_nlink > 1:
                groups.setdefault((s.st_dev, s.st_ino), []).append(name)
        elif kind == stat.S_IFLNK:
            what = os.readlink(place)
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            what = s.st_rdev
        try:
            xattrs = {k: os.getxattr(place, k, follow_symlinks=False) for k in os.listxattr(place, follow_symlinks=False)}
        except OSError:
            xattrs = {}
        out[name] = {"kind": stat.filemode(s.st_mode)[0], "mode": None if kind == stat.S_IFLNK else oct(stat.S_IMODE(s.st_mode)),
                     "owner": (s.st_uid, s.st_gid) if owners else None, "mtime": s.st_mtime_ns if times else None, "what": what, "xattrs": xattrs}

    def walk(fd, prefix):
        base = b"/proc/self/fd/%d/" % fd
        for name in sorted(os.listdir(base)):
            entry(base + name, prefix + name)
            if out[prefix + name]["kind"] == "d":
                sub = os.open(base + name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                try:
                    walk(sub, prefix + name + b"/")
                finally:
                    os.close(sub)

    top = os.fsencode(top)
    entry(top, b".")
    if out[b"."]["kind"] == "d":
        fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
        try:
            walk(fd, b"")
        finally:
            os.close(fd)
    for names in groups.values():
        for name in names:
            out[name]["links"] = sorted(names)
    return out


def same(found, wanted, what, besides=()):
    """Compares two states and says in which way they differ."""
    lines = []
    for name in sorted(set(found) | set(wanted)):
        if name in besides:
            continue
        a, b = wanted.get(name), found.get(name)
        if a is None or b is None:
            lines.append("%r: %s" % (name[-200:], "missing" if b is None else "not expected"))
        elif a != b:
            lines.append("%r: %s" % (name[-200:], "; ".join("%s is %r, not %r" % (k, b.get(k), a.get(k)) for k in {**a, **b} if a.get(k) != b.get(k))))
    need(not lines, "%s is not as it was:\n%s" % (what, "\n".join(lines[:20])))


def objects(repo):
    """The objects of a local repository, by name."""
    out = {}
    for base, dirs, files in os.walk(repo):
        for f in files:
            path = os.path.join(base, f)
            name = os.path.relpath(path, repo)
            if not name.startswith("tmp/"):
                out[name] = path
    return out


def content_of(repo):
    """All names and bytes of a repository, to see that nothing changed."""
    out = {}
    for name, path in objects(repo).items():
        with open(path, "rb") as f:
            out[name] = hashlib.sha256(f.read()).hexdigest()
    return out

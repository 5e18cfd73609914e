"""Views of file systems, by the real LVM and the real btrfs: a writer goes on writing while it is backed up, runs end in every way, room runs out."""
import contextlib, json, os, signal, subprocess, sys, time

from harness import need

GROUP = "kw-group_1"
WRITER = """
import os, sys, time
a, z = (os.open(os.path.join(sys.argv[1], n), os.O_RDWR | os.O_CREAT, 0o644) for n in ("aa", "zz"))
n = 0
while True:
    n += 1
    for f in (a, z):
        os.pwrite(f, b"%012d" % n, 0)
        os.fsync(f)
"""
PADDING = 8


def must(*argv, rc=0):
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    need(rc is None or done.returncode == rc, "%s\n%s%s" % (" ".join(argv), done.stdout, done.stderr))
    return done.stdout


def mounts():
    """Mount points below those of this machine itself."""
    with open("/proc/self/mounts") as f:
        return [line.split()[1] for line in f if line.split()[1].startswith(("/tmp/", "/mnt/"))]


def clean(t):
    """What a test has left, however it ended."""
    for where in reversed(mounts()):
        subprocess.run(["umount", where], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for volume in subprocess.run(["lvs", "--noheadings", "-o", "lv_full_name"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout.split():
        subprocess.run(["lvremove", "--yes", "--force", "-q", volume], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Origin:
    """A file system that is backed up through a view."""

    def __init__(self, t, at, view, views):
        self.t, self.at, self.view, self.views = t, at, view, views
        self.repo = t.path("repo")
        if not os.path.exists(self.repo):
            t.repository()

    def args(self, *more, view=None):
        return ["backup", "--repo", self.repo, "--view", view or self.view, "--scratch", self.t.scratch, *more]

    def backup(self, *more, view=None, **how):
        return self.t.kw(*self.args(*(more or [self.at]), view=view), **how)

    def content(self, name, snapshot="latest"):
        return self.t.kw("dump", "--repo", self.repo, snapshot, os.path.join(self.at, name)).out

    def gone(self, what):
        left = self.views()
        need(not left, "the view is left after %s: %s" % (what, left))
        need(not [m for m in mounts() if "keepwatch-view" in m], mounts())
        need(not os.listdir(self.t.scratch), os.listdir(self.t.scratch))


def group():
    if GROUP not in must("lvs", "--noheadings", "-o", "vg_name", rc=None):
        if not os.path.exists("/run/group"):
            must("pvcreate", "-q", "/dev/vda")
            must("vgcreate", "-q", "-s", "1M", GROUP, "/dev/vda")
            open("/run/group", "w").close()


def lvm(t, name="da-ta", at="/mnt/data", kind="ext4", size="120M", room=":64M", thin=False):
    group()
    t.scratch = t.path("scratch")
    os.makedirs(t.scratch, exist_ok=True)
    if thin:
        must("lvcreate", "-q", "-q", "--yes", "--size", "200M", "--thinpool", "pool", GROUP)
        must("lvcreate", "-q", "-q", "--yes", "--virtualsize", size, "--thin", "--name", name, GROUP + "/pool")
    else:
        must("lvcreate", "-q", "--yes", "--wipesignatures", "n", "--size", size, "--name", name, GROUP)
    device = "/dev/%s/%s" % (GROUP, name)
    must(*{"ext4": ["mkfs.ext4", "-q", "-F"], "xfs": ["mkfs.xfs", "-q", "-f"], "btrfs": ["mkfs.btrfs", "-q", "-f"]}[kind], device)
    os.makedirs(at, exist_ok=True)
    must("mount", device, at)
    views = lambda: [v for v in must("lvs", "--noheadings", "-o", "lv_name", GROUP).split() if v.startswith("keepwatch-")]
    return Origin(t, at, "lvm:%s/%s:%s%s" % (GROUP, name, at, "" if thin else room), views)


def btrfs(t, at="/mnt/btrfs"):
    t.scratch = t.path("scratch")
    os.makedirs(t.scratch, exist_ok=True)
    must("mkfs.btrfs", "-q", "-f", "/dev/vdb")
    os.makedirs(at, exist_ok=True)
    must("mount", "/dev/vdb", at)
    data = at + "/data"
    must("btrfs", "-q", "subvolume", "create", data)
    views = lambda: [line.split()[-1] for line in must("btrfs", "subvolume", "list", at).splitlines() if "keepwatch-view" in line]
    return Origin(t, data, "btrfs:" + data, views)


@contextlib.contextmanager
def writing(at):
    process = subprocess.Popen([sys.executable, "-S", "-c", WRITER, at])
    try:
        end = time.monotonic() + 30
        while not os.path.exists(at + "/zz"):
            need(time.monotonic() < end, "the writer does not begin")
            time.sleep(0.02)
        yield process
        need(process.poll() is None, "the writer has ended by itself: %s" % process.returncode)
    finally:
        process.kill()
        process.wait()


def pad(origin, megabytes=PADDING):
    """What lies between the two files when they are read one after the other."""
    for n in range(megabytes):
        with open(os.path.join(origin.at, "pad-%03d" % n), "wb") as f:
            f.write(os.urandom(1 << 20))
    os.sync()


def pair(origin):
    a, z = int(origin.content("aa")), int(origin.content("zz"))
    return a, z


def stands_still(origin):
    """With the view both files are of one moment. Without it they are not, or this test would see nothing."""
    t = origin.t
    pad(origin)
    with writing(origin.at):
        for n in range(2):
            origin.backup()
            a, z = pair(origin)
            need(a in (z, z + 1), "with the view: %d and %d" % (a, z))
            need(a > 0, "nothing was written")
            origin.gone("a backup")
        for n in range(20):
            # Anew each time, so that reading takes a while.
            t.kw("backup", "--repo", origin.repo, "--force-read", "--threads", "1", origin.at, rc=(0, 3))
            a, z = pair(origin)
            if a not in (z, z + 1):
                break
        else:
            raise AssertionError("without a view the two files agreed as well, twenty times")


def child():
    """The process that reads the view."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/cmdline" % pid, "rb") as f:
                words = f.read().split(b"\0")
            if words[0].endswith(b"keepwatch") and any(w.startswith(b"--view-root=") for w in words):
                return int(pid)
        except OSError:
            pass
    return None


@contextlib.contextmanager
def held(origin, *more, view=None):
    """A run that has taken its view and waits for its standard input."""
    process = origin.t.start(*origin.args(*(more or ["--stdin-name", "x"]), view=view), stdin=subprocess.PIPE)
    try:
        end = time.monotonic() + 20
        while not (origin.views() and child()):
            need(process.poll() is None, "it has ended: %s" % process.returncode)
            need(time.monotonic() < end, "no view was taken")
            time.sleep(0.02)
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def ends(origin):
    """However a run ends, nothing is left of the view; where it could not clean up, the next run does."""
    t = origin.t
    with open(origin.at + "/file", "w") as f:
        f.write("content")
    os.sync()
    t.kw("backup", "--repo", t.path("nowhere"), "--view", origin.view, "--scratch", t.scratch, origin.at, rc=1)
    origin.gone("a failed backup")
    for signal_ in (signal.SIGTERM, signal.SIGINT):
        with held(origin) as process:
            process.send_signal(signal_)
            run = t.finish(process, rc=None)
            need(run.code not in (0, 3), run)
        origin.gone("signal %d: %s" % (signal_, run))
    # The process that reads is killed, and the one that has taken the view is not.
    with held(origin) as process:
        os.kill(child(), signal.SIGKILL)
        run = t.finish(process, rc=1)
        need("was ended by signal 9" in run.said, run)
    origin.gone("a killed reader")
    with held(origin) as process:
        second = origin.backup(rc=(1, 5))
        need("another run has taken a view" in second.said, second)
        need(origin.views() and child(), "the second run has taken away what the first one reads")
        elsewhere = t.path("elsewhere")
        os.makedirs(elsewhere, exist_ok=True)
        second = t.kw("backup", "--repo", origin.repo, "--view", origin.view, "--scratch", elsewhere, origin.at, rc=(1, 5))
        need("another run has taken a view" in second.said, second)
        need(origin.views() and child(), "the second run has taken away what the first one reads")
        process.kill()
        # Standard input stays open: the reader need not wait for it.
        process.wait()
        end = time.monotonic() + 10
        while child() and time.monotonic() < end:
            time.sleep(0.05)
        need(child() is None, "the reader outlives its parent")
    need(origin.views(), "nothing was left, so nothing is tested")
    origin.backup()
    need(origin.content("file") == b"content", "another content")
    origin.gone("the next run")
    with held(origin) as process:
        process.kill()
    need(origin.views(), "nothing was left, so nothing is tested")
    t.kw("backup", "--repo", origin.repo, "--view", origin.view, "--scratch", elsewhere, origin.at)
    need(not origin.views(), "a run with another scratch directory left %s" % origin.views())
    origin.gone("a run with another scratch directory")


def configured(origin):
    """A configuration with a job."""
    t = origin.t
    text = 'host = "vm"\nstate_directory = "%s"\ncache_directory = "%s"\n[repositories.disk]\nbackend.local = { path = "%s" }\nrecipients = ["%s"]\ninitialize = true\n' % (
        t.path("state"), t.path("cache"), t.path("disk"), "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p")
    text += "[backups.data]\nrepositories = [\"disk\"]\nretry = { attempts = 0 }\nretention = { last = 9 }\n"
    return t.write("config.toml", text + "source.paths = { include = [%s], view = %s }\n" % (json.dumps(origin.at), json.dumps(origin.view)))


def job(origin):
    """As a job of the configuration."""
    t = origin.t
    with open(origin.at + "/file", "w") as f:
        f.write("of the job")
    os.sync()
    config = configured(origin)
    t.kw("backup", "--config", config, "--job", "data")
    origin.gone("a job")
    [entry] = [e for e in t.js("history", "--config", config)["entries"] if e["kind"] == "backup"]
    need(entry["outcome"] == "succeeded" and entry["totals"]["files"] == 1, entry)


# ---- LVM ----------------------------------------------------------------------------------------------------------------------------------


def test_lvm_stands_still(t):
    stands_still(lvm(t))


def test_lvm_ends(t):
    ends(lvm(t))


def test_lvm_job(t):
    job(lvm(t))


def test_lvm_xfs(t):
    origin = lvm(t, kind="xfs", size="320M")
    stands_still(origin)


def test_lvm_thin(t):
    origin = lvm(t, thin=True)
    stands_still(origin)
    ends(origin)


def test_lvm_names(t):
    origin = lvm(t, name="a+b_c.d--e-", at="/mnt/with space\tand tab \u00e4\\ 'x'")
    with open(origin.at + "/fi le", "w") as f:
        f.write("content")
    os.sync()
    origin.backup()
    need(origin.content("fi le") == b"content", "another content")
    origin.gone("a backup")


def overflow(origin, *argv):
    """A run during which more changes than its view has room for."""
    t = origin.t
    pad(origin, 16)
    process = t.start(*argv)
    while not child():
        need(process.poll() is None, "it has ended")
        time.sleep(0.002)
    reader = child()
    os.kill(reader, signal.SIGSTOP)
    for n in range(16):
        with open(os.path.join(origin.at, "pad-%03d" % n), "r+b") as f:
            f.write(os.urandom(1 << 20))
    os.sync()
    os.kill(reader, signal.SIGCONT)
    run = t.finish(process, rc=None)
    origin.gone("an overflow: %s" % run)
    return run


def test_lvm_overflows(t):
    """A view that has no room for what changes is an error, and is told."""
    origin = lvm(t, room=":4M")
    run = overflow(origin, *origin.args(origin.at))
    need(run.code == 1 and "ran full" in run.said, run)
    run = overflow(origin, *origin.args(origin.at), "--json")
    need(run.code == 1 and "ran full" in run.json["error"], run)
    config = configured(origin)
    overflow(origin, "backup", "--config", config, "--job", "data")
    [entry] = [e for e in t.js("history", "--config", config)["entries"] if e["kind"] == "backup"]
    need(entry["outcome"] == "failed" and "ran full" in json.dumps(entry), entry)


def test_lvm_without_room(t):
    origin = lvm(t)
    # LVM makes less of more than could ever be needed.
    must("lvcreate", "-q", "--yes", "--wipesignatures", "n", "--extents", "95%FREE", "--name", "other", GROUP)
    run = origin.backup(view="lvm:%s/da-ta:%s:100M" % (GROUP, origin.at), rc=1)
    need("insufficient free space" in run.said and "no snapshot was made" in run.said and len(run.said.splitlines()) <= 3, run)
    origin.gone("a refusal")
    run = origin.backup(view="lvm:%s/none:%s:5M" % (GROUP, origin.at), rc=(1, 2))
    need("none" in run.said, run)
    run = origin.backup(view="lvm:%s/da-ta:%s" % (GROUP, origin.at), rc=(1, 2))
    need("size" in run.said, run)
    origin.gone("refusals")


def test_lvm_of_another_volume(t):
    """What is mounted at the directory is another volume, or the directory is not where it is mounted: the paths would be wrong."""
    origin = lvm(t)
    other = lvm(t, name="other", at="/mnt/other", size="16M")
    os.makedirs(origin.at + "/sub")
    os.makedirs("/mnt/part", exist_ok=True)
    must("mount", "--bind", origin.at + "/sub", "/mnt/part")
    for at, volume, why in (
        (origin.at, "other", "is not the volume"), (origin.at + "/sub", "da-ta", "nothing is mounted at"), ("/mnt", "da-ta", "nothing is mounted at"),
        ("/mnt/part", "da-ta", "only /sub of"), ("/", "da-ta", "a view of / cannot"), ("/nonexistent", "da-ta", "No such file"), (origin.at, "none", "none"),
    ):
        run = t.kw(*origin.args(origin.at, view="lvm:%s/%s:%s:8M" % (GROUP, volume, at)), rc=(1, 2))
        need(why in run.said and len(run.said.splitlines()) <= 2, run)
        origin.gone("a refusal")
    other.gone("a refusal")


def test_lvm_btrfs(t):
    """Two file systems of one id: the kernel would show the one that changes."""
    origin = lvm(t, kind="btrfs")
    run = origin.backup(rc=(1, 2))
    need("its own snapshots are btrfs:DIR" in run.said, run)
    origin.gone("a refusal")


def test_what_is_mounted_below(t):
    """What a backup without a view would read is read with it, too."""
    origin = lvm(t)
    other = lvm(t, name="other", at=origin.at + "/below", size="16M")
    for at in (origin, other):
        with open(at.at + "/file", "w") as f:
            f.write("content")
    os.sync()
    run = origin.backup(rc=None)
    need(origin.t.kw("dump", "--repo", origin.repo, "latest", other.at + "/file").out == b"content", run)
    origin.backup("--one-file-system", origin.at)
    origin.t.kw("dump", "--repo", origin.repo, "latest", other.at + "/file", rc=4)
    need(other.at in mounts(), "it was unmounted")
    origin.gone("a backup")


def test_unchanged_files_are_not_read_again(t):
    origin = lvm(t)
    pad(origin, 4)
    origin.backup()
    got = t.js(*origin.args(origin.at))["totals"]
    need((got["bytes_read"], got["files_unmodified"]) == (0, 4), got)


def test_what_the_run_writes_lies_in_the_view(t):
    """The repository and the cache, below the files."""
    origin = lvm(t)
    with open(origin.at + "/file", "w") as f:
        f.write("content")
    env = dict(t.env, HOME=origin.at + "/home")
    os.mkdir(env["HOME"])
    repo = origin.at + "/repo"
    t.kw("init", "--repo", repo, env=env)
    for n in range(2):
        t.kw("backup", "--repo", repo, "--view", origin.view, "--scratch", t.scratch, origin.at, env=env)
        origin.gone("a backup")
    got = t.js("snapshots", "--repo", repo, env=env)["snapshots"]
    need(len(got) == 2, got)
    need(t.kw("dump", "--repo", repo, "latest", origin.at + "/file", env=env).out == b"content", "another content")
    t.kw("dump", "--repo", repo, "latest", repo + "/config", env=env, rc=4)


# ---- btrfs --------------------------------------------------------------------------------------------------------------------------------


def test_btrfs_stands_still(t):
    stands_still(btrfs(t))


def test_btrfs_ends(t):
    ends(btrfs(t))


def test_btrfs_job(t):
    job(btrfs(t))


def test_btrfs_subvolumes_below(t):
    origin = btrfs(t)
    must("btrfs", "-q", "subvolume", "create", origin.at + "/below")
    with open(origin.at + "/below/file", "w") as f:
        f.write("content")
    os.sync()
    os.makedirs(origin.at + "/dir")
    must("btrfs", "-q", "subvolume", "create", origin.at + "/dir/a path b")
    with open(origin.at + "/dir/a path b/file", "w") as f:
        f.write("content")
    os.sync()
    run = origin.backup()
    need(t.kw("dump", "--repo", origin.repo, "latest", origin.at + "/dir/a path b/file").out == b"content", run)
    need(run.said.count("is not part of the view") == 2, run)
    need(t.kw("dump", "--repo", origin.repo, "latest", origin.at + "/below/file").out == b"content", run)
    origin.gone("a backup")


def test_btrfs_of_the_top(t):
    """The top of the file system is a subvolume, too."""
    origin = btrfs(t)
    top = os.path.dirname(origin.at)
    with open(origin.at + "/file", "w") as f:
        f.write("content")
    os.sync()
    run = t.kw(*origin.args(top, view="btrfs:" + top))
    need("note: %s is another" % origin.at in run.said and origin.content("file") == b"content", run)
    origin.gone("a backup")


def test_btrfs_of_no_subvolume(t):
    origin = btrfs(t)
    os.mkdir(origin.at + "/plain")
    for at in (origin.at + "/plain", "/mnt"):
        run = t.kw(*origin.args(at, view="btrfs:" + at), rc=1)
        need("cannot take a view of" in run.said and "no snapshot was made" in run.said, run)
    origin.gone("a refusal")

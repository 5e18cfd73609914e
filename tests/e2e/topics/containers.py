"""Containers as sources, with the real podman: a container of our own, on storage of our own, with nothing of the host's."""
import io, os, re, shutil, subprocess, tarfile, time

from harness import Skip, need, need_root, need_tools
from topics.jobs import wait_for
from topics.sources import Place

# No control groups, no network, no limits that must be raised: it runs where tests may do little.
CONF = """[containers]
cgroups = "disabled"
netns = "none"
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
"""
# Where both kinds of control groups are mounted crun refuses; it sees the older one alone then.
WRAPPER = """#!/bin/sh
export CONTAINERS_CONF=AT/conf
run='exec REAL --root AT/root --runroot AT/run --tmpdir AT/tmp --storage-driver vfs "$@"'
[ -d /sys/fs/cgroup/unified ] && exec unshare --mount --propagation private /bin/sh -c "mount -t tmpfs none /sys/fs/cgroup && $run" podman "$@"
eval "$run"
"""


class Podman:
    """podman as an installation, and a container 'app' with a few files."""

    def __init__(self, t, place):
        need_root()
        need_tools("podman", "unshare")
        self.package, at = place.dir, place.dir
        os.mkdir(at + "/bin")
        for name, text in [("conf", CONF), ("bin/podman", WRAPPER.replace("AT", at).replace("REAL", shutil.which("podman")))]:
            with open(os.path.join(at, name), "w") as f:
                f.write(text)
        os.chmod(at + "/bin/podman", 0o755)
        done = subprocess.run([at + "/bin/podman", "import", "-", "kw:1"], input=image(), capture_output=True)
        if done.returncode:
            raise Skip("podman cannot import an image here: %s" % done.stderr.decode().strip())
        self.start()

    def __call__(self, *args, check=True):
        done = subprocess.run([self.package + "/bin/podman", *args], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        need(not check or done.returncode == 0, "podman %s: %s" % (" ".join(args), done.stderr))
        return done.stdout.strip()

    def start(self):
        done = subprocess.run([self.package + "/bin/podman", "run", "-d", "--name", "app", "kw:1", "/bin/sleep", "1000"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        if done.returncode:
            self("rm", "-f", "-t", "0", "app", check=False)
            raise Skip("podman cannot run a container here: %s" % done.stderr.strip().splitlines()[-1])

    def end(self):
        self("rm", "-f", "-a", "-t", "0", check=False)

    def spec(self, more, name="app"):
        return "container?container=%s&package=%s&%s" % (name, self.package, more)


def image():
    """A tar with a few programs of this host, what they are linked to, and files to back up."""
    out, linked = io.BytesIO(), set()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in ("sh", "cat", "sleep", "rm"):
            program = os.path.realpath(shutil.which(name))
            tar.add(program, "bin/" + name)
            linked |= set(re.findall(r"(/\S+) \(0x", subprocess.run(["ldd", program], capture_output=True, text=True).stdout))
        for path in sorted(linked):
            tar.add(os.path.realpath(path), path.lstrip("/"))
        for name, content in [("data/file", b"content of the container\n"), ("data/deep/empty", b""), ("data/deep/noise", bytes(range(256)) * 1000)]:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(content), 0o640, 1700000000
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def test_the_real_podman(t):
    """Paths and commands of a container that runs, is stopped, vanishes, or never was; and paths restored into it."""
    with Place() as place:
        podman = Podman(t, place)
        try:
            story(t, podman)
        finally:
            podman.end()


def story(t, podman):
    repo = t.repository()
    backup = lambda spec, rc=0: t.kw("backup", "--repo", repo, "--source", spec, rc=rc)
    backup(podman.spec("container-path=/data"))
    need("/container/app/data.tar" in t.kw("ls", "--repo", repo, "latest").text, "the path")
    archive = lambda: tarfile.open(fileobj=io.BytesIO(t.kw("dump", "--repo", repo, "latest", "/container/app/data.tar").out))
    members = {m.name.strip("./"): m for m in archive()}
    need({"data/file", "data/deep/empty", "data/deep/noise"} <= set(members) and members["data/file"].mode & 0o777 == 0o640, sorted(members))
    need(archive().extractfile(members["data/deep/noise"]).read() == bytes(range(256)) * 1000, "its bytes")
    before = t.ids(repo)[-1]
    # What a command prints; one that fails, and one that prints nothing.
    backup(podman.spec("argv=/bin/cat&argv=/data/file&name=said"))
    need(t.kw("dump", "--repo", repo, "latest", "/container/app/said").out == b"content of the container\n", "what it printed")
    for spec, said in [
        (podman.spec("argv=/bin/sh&argv=-c&argv=echo half; exit 3"), "status 3"),
        (podman.spec("argv=/bin/sh&argv=-c&argv=true"), "what the command prints in the container 'app'"),
        (podman.spec("argv=/bin/nothing"), "/bin/nothing"),
        (podman.spec("container-path=/gone"), "/gone"),
        (podman.spec("container-path=/data", name="never"), "look at the container 'never'"),
        (podman.spec("argv=/bin/cat", name="never"), "no such container"),
    ]:
        run = backup(spec, rc=1)
        need(said in run.said and "no snapshot was made" in run.said, run)
    # Vanishes in the middle.
    process = t.start("backup", "--repo", repo, "--source", podman.spec("argv=/bin/sh&argv=-c&argv=echo begun; echo x >/begun; sleep 100"))
    wait_for("the command", lambda: podman("exec", "app", "/bin/cat", "/begun", check=False) == "x", process)
    began = time.monotonic()
    podman("rm", "-f", "-t", "0", "app")
    run = t.finish(process, rc=1)
    need("no snapshot was made" in run.said and "cannot back up the source" in run.said and time.monotonic() - began < 30, run)
    need("no such container" in backup(podman.spec("container-path=/data"), rc=1).said, "it is gone")
    need(len(t.ids(repo)) == 2, t.ids(repo))
    # Back into another one of the same name.
    podman.start()
    podman("exec", "app", "/bin/rm", "-r", "/data/deep", "/data/file")
    restore = ["restore", "--repo", repo, "--source", "container", "--container", "app", "--package", podman.package, before]
    run = t.kw(*restore, rc=5)
    need("--replace" in run.said and podman("exec", "app", "/bin/cat", "/data/file", check=False) == "", run)
    t.kw(*restore, "--replace")
    need(podman("exec", "app", "/bin/cat", "/data/file") == "content of the container", "it came back")
    # Stopped: its paths are there, and no command runs in it.
    podman("stop", "-t", "0", "app")
    backup(podman.spec("container-path=/data"))
    need(archive().extractfile(members["data/file"].name).read() == b"content of the container\n", "of one that does not run")
    run = backup(podman.spec("argv=/bin/cat&argv=/data/file"), rc=1)
    need("the container 'app' does not run" in run.said, run)

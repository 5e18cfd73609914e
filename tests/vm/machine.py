"""A small virtual machine: Debian's kernel, and a memory disk with the programs of this machine that a test names. It has no network and no disk but
what it is given. What it reports comes over a serial line; what its kernel says is kept for when something goes wrong."""
import glob, lzma, os, pathlib, re, shutil, signal, stat, subprocess, sys, tempfile, threading, time

HERE = pathlib.Path(__file__).resolve().parent
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "keepwatch-tests" / "vm"
QEMU = "qemu-system-x86_64"
# Small ones first. Both have all that is asked of them.
KERNELS = ("linux-image-cloud-amd64", "linux-image-amd64")
# What the kernel asks for by name of an algorithm comes before who asks.
MODULES = ("crc32c-intel", "crc32c_generic", "blake2b_generic", "xxhash_generic", "virtio_pci", "virtio_blk", "virtio-rng", "loop", "dm-snapshot", "dm-thin-pool", "btrfs", "xfs")
PROGRAMS = ("busybox", "mount", "umount", "unshare", "losetup", "lvm", "mke2fs", "mkfs.ext4", "e2fsck", "mkfs.btrfs", "btrfs", "mkfs.xfs")
LVM = ("pvcreate", "vgcreate", "vgchange", "lvcreate", "lvremove", "lvchange", "lvs")
# There is no udev and no dmeventd.
LVM_CONF = """devices { use_devicesfile = 0 }
global { thin_check_executable = "" thin_repair_executable = "" thin_dump_executable = "" }
activation { udev_sync = 0 udev_rules = 0 verify_udev_operations = 0 monitoring = 0 }
backup { backup = 0 archive = 0 }
"""


class Missing(Exception):
    """Why there is no machine here."""


def program(name):
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/bin:/bin")


def accelerator(fast):
    # An older processor is the faster one where it is played by a program.
    return ("-accel", "kvm", "-cpu", "max") if fast else ("-accel", "tcg", "-cpu", "Westmere-v1")


def is_fast(place):
    """Whether the processor's own support works: the kernel must say something under it. A device without the processor's flag belongs to a
    hypervisor of another kind, on which Debian's kernel does not come up. Without it, all is ten times slower."""
    with open("/proc/cpuinfo") as f:
        if not re.search(r"^flags\s*:.*\b(vmx|svm)\b", f.read(), re.M) or not os.access("/dev/kvm", os.R_OK | os.W_OK):
            return False
    return comes_up(place, True, 10)


def comes_up(place, fast, seconds):
    """Whether the kernel comes as far as to miss its root."""
    argv = [QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", *accelerator(fast), "-m", "256", "-kernel", str(place / "vmlinuz"),
            "-append", "console=ttyS0 panic=-1 no_timer_check", "-serial", "stdio"]
    try:
        return b"Kernel panic" in subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=seconds).stdout
    except subprocess.TimeoutExpired:
        return False


# ---- the kernel ---------------------------------------------------------------------------------------------------------------------------


def kernel():
    """The directory of an unpacked kernel: `vmlinuz`, and its modules below."""
    for wanted in sorted(CACHE.glob("linux-image-*")):
        if (wanted / "whole").exists():
            return wanted
    if os.environ.get("KEEPWATCH_NO_INSTALL") or not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise Missing("there is no kernel in %s, and it cannot be fetched: that takes apt-get and dpkg-deb" % CACHE)
    for name in KERNELS:
        said = subprocess.run(["apt-cache", "show", "--no-all-versions", name], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
        found = re.search(r"^Depends: .*?(linux-image-[0-9][^ ,]*)", said, re.M)
        if found:
            return unpacked(found[1])
    raise Missing("no package of %s is known to apt" % " or ".join(KERNELS))


def unpacked(package):
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        got = subprocess.run(["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", package], cwd=scratch, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)
        files = glob.glob(scratch + "/*.deb")
        if not files:
            raise Missing("%s cannot be fetched: %s" % (package, got.stdout.strip()[-300:]))
        new = pathlib.Path(scratch) / "new"
        subprocess.run(["dpkg-deb", "-x", files[0], new], check=True)
        shutil.move(glob.glob(str(new / "boot/vmlinuz-*"))[0], new / "vmlinuz")
        (new / "whole").touch()
        place = CACHE / package
        shutil.rmtree(place, ignore_errors=True)
        new.rename(place)
    return place


def modules(place, wanted):
    """Files of modules in the order in which they are to be loaded; each says itself what it depends on. What a kernel has built in has no file."""
    files = {}
    for path in glob.glob(str(place / "**/kernel/**/*.ko*"), recursive=True):
        files[os.path.basename(path).split(".ko")[0].replace("-", "_")] = path
    order, contents = [], {}

    def take(name):
        name = name.replace("-", "_")
        if name not in files or name in contents:
            return
        with (lzma.open if files[name].endswith(".xz") else open)(files[name], "rb") as f:
            contents[name] = f.read()
        for needed in re.search(rb"\0depends=([^\0]*)\0", contents[name])[1].decode().split(","):
            take(needed)
        order.append(name)

    for name in wanted:
        take(name)
    return [(name, contents[name]) for name in order]


# ---- the memory disk ----------------------------------------------------------------------------------------------------------------------


class Tree:
    """What the memory disk will hold, written as the kernel unpacks it: cpio, `newc`."""

    def __init__(self):
        self.entries = {}
        for directory in ("dev", "proc", "sys", "run", "tmp", "mnt", "etc", "root"):
            self.directory(directory)

    def directory(self, path):
        if path and path not in self.entries:
            self.directory(os.path.dirname(path))
            self.entries[path] = (stat.S_IFDIR | 0o755, b"")

    def add(self, path, content, mode=stat.S_IFREG | 0o755):
        path = path.lstrip("/")
        self.directory(os.path.dirname(path))
        self.entries[path] = (mode, content.encode() if isinstance(content, str) else content)

    def link(self, path, target):
        self.add(path, target, stat.S_IFLNK | 0o777)

    def file(self, path, to=None):
        self.add(to or path, pathlib.Path(path).read_bytes())

    def run(self, path, to=None):
        """A program with what its loader will look for."""
        self.file(os.path.realpath(path), to)
        said = subprocess.run(["ldd", path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
        for library in re.findall(r"(/\S+) \(0x", said):
            if library.lstrip("/") not in self.entries:
                self.file(library)

    def write(self, path):
        with open(path, "wb") as out:
            for n, (name, (mode, content)) in enumerate(list(self.entries.items()) + [("TRAILER!!!", (0, b""))], 1):
                raw = name.encode() + b"\0"
                head = b"070701" + b"".join(b"%08X" % v for v in (n, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(raw), 0))
                out.write(head + raw + bytes(-(len(head) + len(raw)) % 4) + content + bytes(-len(content) % 4))


def python(tree, script):
    """This Python, with the modules that the script and what it imports have loaded; nothing else of the library."""
    listing = ("import sys, encodings.idna, encodings.ascii; sys.path[:0] = %r; import %s; print('\\n'.join(m.__file__ for m in list(sys.modules.values()) if getattr(m, '__file__', None)))"
               % ([str(HERE / "guest"), str(HERE.parent / "e2e")], script))
    done = subprocess.run([sys.executable, "-S", "-B", "-c", listing], stdout=subprocess.PIPE, text=True, check=True)
    real = os.path.realpath(sys.executable)
    tree.run(real)
    for path in done.stdout.split():
        if path.startswith(str(HERE.parent)):
            tree.file(path, "/story/" + os.path.basename(path))
        elif path.endswith(".so"):
            tree.run(path)
        else:
            tree.file(path)
    # It finds its library by where it lies.
    tree.file(os.__file__)
    tree.directory(os.path.join(os.path.dirname(os.__file__), "lib-dynload").lstrip("/"))
    return real


def memory_disk(path, place, keepwatch, extra=()):
    tree = Tree()
    for name in PROGRAMS:
        found = program(name)
        if not found:
            raise Missing("%s is not installed" % name)
        tree.run(found, "/bin/" + name)
    for name in LVM:
        tree.link("/bin/" + name, "lvm")
    for name in ("sh", "cat", "cp", "sleep", "sync", "insmod", "ip", "dmesg", "ls", "ps", "df", "rm", "chmod", "dd", "true", "false"):
        tree.link("/bin/" + name, "busybox")
    loaded = modules(place, MODULES)
    for name, content in loaded:
        tree.add("/modules/%s.ko" % name, content)
    # Without what only a debugger reads, where there is somebody to take it away.
    with tempfile.TemporaryDirectory() as scratch:
        small = os.path.join(scratch, "keepwatch")
        if not (program("strip") and subprocess.run([program("strip"), "-o", small, keepwatch], stderr=subprocess.DEVNULL).returncode == 0):
            small = keepwatch
        tree.run(small, "/bin/keepwatch")
    tree.add("/etc/lvm/lvm.conf", LVM_CONF)
    tree.add("/etc/passwd", "root:x:0:0::/root:/bin/sh\n")
    tree.add("/etc/group", "root:x:0:\n")
    tree.add("/etc/hostname", "vm\n")
    interpreter = python(tree, "inside")
    tree.add("/init", "\n".join(
        ["#!/bin/busybox sh", "export PATH=/bin HOME=/root PYTHONHASHSEED=0 PYTHONDONTWRITEBYTECODE=1", "busybox mount -t proc proc /proc", "busybox mount -t sysfs sysfs /sys",
         "busybox mount -t devtmpfs dev /dev", "busybox mount -t tmpfs run /run", "busybox mount -t tmpfs -o size=60% tmp /tmp", "busybox chmod 1777 /tmp"]
        + ["busybox insmod /modules/%s.ko" % name for name, _ in loaded]
        # The line carries bytes, not what a terminal makes of them.
        + ["busybox stty -F /dev/ttyS1 raw -echo 115200", "cd /tmp", "%s -S /story/inside.py </dev/null >/dev/ttyS1" % interpreter, "busybox poweroff -f", ""]))
    tree.write(path)


# ---- the machine --------------------------------------------------------------------------------------------------------------------------


class Machine:
    """A machine at work. `lines` is what it has reported."""

    # no_timer_check: without KVM the timer can be too late for the check of it, when the machine outside is busy.
    def __init__(self, place, memory_disk, story, disks, scratch, fast, megabytes=768):
        self.console = os.path.join(scratch, "console")
        self.lines, self.ended = [], None
        argv = [QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", *accelerator(fast), "-smp", "2", "-m", str(megabytes),
                "-kernel", str(place / "vmlinuz"), "-initrd", memory_disk, "-append", "console=ttyS0 panic=-1 loglevel=4 no_timer_check mitigations=off random.trust_cpu=on story=%s" % story,
                "-chardev", "file,id=console,path=" + self.console, "-serial", "chardev:console", "-chardev", "stdio,id=report,signal=off", "-serial", "chardev:report",
                "-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng"]
        for disk in disks:
            argv += ["-drive", disk]
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        for line in self.process.stdout:
            self.lines.append(line.decode("utf-8", "backslashreplace").rstrip("\r\n"))

    def kill(self):
        """As when somebody pulls the plug."""
        self.process.send_signal(signal.SIGKILL)
        self.wait(10)

    def wait(self, seconds):
        """True when it ended by itself within the time."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            self.thread.join(5)
            return False
        self.thread.join(5)
        return True

    def why(self):
        """The last that is known of it."""
        try:
            with open(self.console, "rb") as f:
                said = f.read()[-3000:].decode("utf-8", "backslashreplace")
        except OSError:
            said = ""
        return "\n".join(self.lines[-10:] + [said, (self.process.stderr.read() or b"").decode("utf-8", "backslashreplace")])

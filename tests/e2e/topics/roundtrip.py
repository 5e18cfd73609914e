"""I4: what comes back is what was backed up: content and all metadata; and the ways to restore."""
import io, os, random, shutil, signal, socket, stat, struct, subprocess, tarfile, time

from harness import Skip, is_root, need, need_root, need_tools, remove, same, tree

ACL = "system.posix_acl_access"


def acl(*entries):
    """A POSIX ACL as Linux stores it: (tag, rights, id)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *e) for e in entries)


SOME_ACL = acl((1, 6, 0xFFFFFFFF), (2, 4, 1234), (4, 4, 0xFFFFFFFF), (16, 6, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF))
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)  # cap_net_bind_service=ep


def try_xattr(path, name, value, follow=False):
    try:
        os.setxattr(path, name, value, follow_symlinks=follow)
        return True
    except OSError:
        return False


def full_tree(t, name="src", deep=True):
    """Everything of DESIGN section 5."""
    src = os.fsencode(t.path(name))
    os.mkdir(src)

    def put(name, content=b"x", mode=None):
        path = os.path.join(src, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as f:
            f.write(content)
        if mode is not None:
            os.chmod(path, mode)
        return path
    put(b"empty", b"")
    put(b"one", b"1")
    put(b"large", t.noise(3_500_000))
    put(b"repeats", b"all work and no play\n" * 200_000)
    put(b"zeros", bytes(1_000_000))
    for mode in (0o000, 0o400, 0o644, 0o755, 0o777, 0o111):
        put(b"mode-%o" % mode, b"m", mode)
    os.mkdir(os.path.join(src, b"sticky"), 0o777)
    os.chmod(os.path.join(src, b"sticky"), 0o1777)
    os.mkdir(os.path.join(src, b"closed"), 0o700)
    put(b"closed/in", b"in")
    os.chmod(os.path.join(src, b"closed"), 0o500)
    for i, ns in enumerate((0, 1, 999_999_999, -1, -500_000_001, 1_700_000_000_123_456_789, 4_000_000_000_000_000_007)):
        os.utime(put(b"time-%d" % i), ns=(ns, ns))
    # Names: not UTF-8, control characters, spaces, 255 bytes, patterns, dashes, very many.
    for n in (b"\xff\xfe\x80", b"new\nline", b"tab\tand bell\x07", b" spaces ", b"-rf", b"*?[x]{a,b}", b"back\\slash", b"'\"`$(x)", "žluťoučký 猫 🐈".encode(), "e\u0301 and é".encode(),
              b"n" * 255, b"\xc3" * 255, b"..x", b".hidden", b"con", b"CaSe", b"case"):
        put(b"names/" + n, n)
    # Links.
    for target in (b"one", b"/etc/passwd", b"nowhere", b"../../..", b"t" * 4000, b"\xff\xfe", b"loop"):
        os.symlink(target, os.path.join(src, b"names", b"to-" + target[:20].replace(b"/", b"_")))
    os.symlink(b"loop", os.path.join(src, b"loop"))
    os.utime(os.path.join(src, b"loop"), ns=(5, 1_234_567_890), follow_symlinks=False)
    for i in range(3):
        os.makedirs(os.path.join(src, b"hard", b"%d" % i), exist_ok=True)
        os.link(os.path.join(src, b"one"), os.path.join(src, b"hard", b"%d" % i, b"name"))
    os.link(os.path.join(src, b"loop"), os.path.join(src, b"hard", b"loop"), follow_symlinks=False)
    # Holes.
    with open(os.path.join(src, b"sparse"), "wb") as f:
        f.truncate(60 << 20)
        for at in (5 << 20, 50 << 20):
            f.seek(at)
            f.write(b"data" * 3000)
    with open(os.path.join(src, b"only-a-hole"), "wb") as f:
        f.truncate(20 << 20)
    os.mkfifo(os.path.join(src, b"fifo"), 0o622)
    s = socket.socket(socket.AF_UNIX)
    os.chdir(src)
    s.bind("socket")
    s.close()
    os.chdir("/")
    # Attributes.
    path = put(b"attributes", b"a")
    have = {"xattr": try_xattr(path, "user.note", b"\x00\xff value") and try_xattr(path, "user.empty", b"") and try_xattr(path, "user.long", b"v" * 2000),
            "acl": try_xattr(put(b"with-acl", b"a", 0o660), ACL, SOME_ACL)}
    if have["acl"]:
        os.mkdir(os.path.join(src, b"acl-dir"))
        try_xattr(os.path.join(src, b"acl-dir"), "system.posix_acl_default", SOME_ACL)
    if have["xattr"]:
        try_xattr(os.path.join(src, b"names"), "user.dir", b"of a directory")
    if is_root():
        os.chown(put(b"owned"), 12345, 54321)
        os.chown(os.path.join(src, b"loop"), 7, 8, follow_symlinks=False)
        os.chown(os.path.join(src, b"fifo"), 65534, 65534)
    os.utime(src, ns=(3, 1_111_111_111_111_111_111))
    if not deep:
        return os.fsdecode(src), have
    # 4,096 bytes: beyond what one system call takes. The stored path begins below the root.
    prefix = len(src.lstrip(b"/"))
    fd = os.open(src, os.O_RDONLY)
    length = prefix
    while length + 1 + 200 + 2 <= 4096:
        os.mkdir(b"d" * 200, dir_fd=fd)
        sub = os.open(b"d" * 200, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd, length = sub, length + 201
    leaf = os.open(b"l" * (4096 - length - 1), os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=fd)
    os.write(leaf, b"deep")
    os.close(leaf)
    os.close(fd)
    os.utime(src, ns=(3, 1_111_111_111_111_111_111))
    return os.fsdecode(src), have


def without(state, *kinds, xattrs=()):
    out = {}
    for name, e in state.items():
        if e["kind"] not in kinds:
            e = dict(e)
            e["xattrs"] = {k: v for k, v in e["xattrs"].items() if k not in xattrs}
            out[name] = e
    return out


def test_everything(t):
    """Mode, owner, mtime in ns, xattrs, ACLs, capabilities, hard links, symlinks, holes, FIFOs, odd and long names; devices and set-user-id when trusted."""
    src, have = full_tree(t)
    if is_root():
        for name, mode in (("setuid", 0o4755), ("setgid", 0o2755)):
            os.chmod(t.write("src/" + name, b"s"), mode)
        have["capability"] = try_xattr(t.write("src/capable", b"c", 0o755), "security.capability", CAPABILITY)
        try:
            os.mknod(t.path("src/null"), 0o666 | stat.S_IFCHR, os.makedev(1, 3))
            os.mknod(t.path("src/disk"), 0o660 | stat.S_IFBLK, os.makedev(7, 200))
        except OSError:
            have["devices"] = False
        os.utime(src, ns=(3, 1_111_111_111_111_111_111))
    state = tree(src)
    repo = t.repository()
    run = t.kw("backup", "--repo", repo, src, "--json")
    need(run.json["problems"] == [], run)
    run = t.kw("restore", "--repo", repo, "--target", t.path("out"), "--trust-source", "--verify", "--json", rc=(0, 3))
    need(not [p for p in run.json["problems"] if "socket" not in p["path"]], run)
    out = t.path("out") + src
    same(without(tree(out), "s"), without(state, "s"), "the restored tree")
    need(run.code == 0, "what is not restored on purpose is no failure\n%s" % run)
    for name in ("sparse", "only-a-hole", "zeros"):
        a, b = (os.stat(os.path.join(d, name)).st_blocks * 512 for d in (src, out))
        need(b <= a + 65536, "%s takes %d bytes, not %d" % (name, b, a))
    # Again: nothing to do, nothing changed.
    again = t.js("restore", "--repo", repo, "--target", t.path("out"), "--trust-source")
    need(again["files_restored"] == 0, again)
    same(without(tree(out), "s"), without(state, "s"), "the tree after a second restore")
    # An unchanged second backup reads nothing; a forced one stores nothing.
    second = t.js("backup", "--repo", repo, src)["totals"]
    need(second["files_new"] == second["files_changed"] == second["bytes_read"] == 0, second)
    third = t.js("backup", "--repo", repo, "--force-read", src)["totals"]
    need(third["chunks_new"] <= 1 and third["files_changed"] == 0, third)  # directories above the source may have changed
    names = {e.get("path_hex") and bytes.fromhex(e["path_hex"]) or e["path"].encode() for e in t.js("ls", "--repo", repo)["entries"]}
    below = src.lstrip("/").encode()
    wanted = {below + b"/" + n for n in state if n != b"."}
    got = {n.lstrip(b"/") for n in names if n.lstrip(b"/").startswith(below + b"/")}
    need(got == wanted, "ls lists all: %r" % list(got ^ wanted)[:5])
    print("kept here: " + ", ".join(k for k, v in have.items() if v) + "; not possible here: " + (", ".join(k for k, v in have.items() if not v) or "nothing"))


def test_untrusted(t):
    """H5: devices, set-user-id bits and security attributes are not restored unless asked for, and it is said."""
    need_root()
    src = t.small_tree()
    os.chmod(t.write("src/suid", b"s"), 0o6755)
    capable = try_xattr(t.write("src/capable", b"c", 0o755), "security.capability", CAPABILITY)
    try:
        os.mknod(t.path("src/null"), 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    except OSError:
        raise Skip("cannot make devices here")
    repo = t.repository()
    t.backup(repo, src)
    run = t.kw("restore", "--repo", repo, "--target", t.path("out"))
    out = t.path("out") + src
    need(not os.path.lexists(out + "/null"), "no device")
    need(os.stat(out + "/suid").st_mode & 0o6000 == 0, "no set-user-id")
    need(not capable or "security.capability" not in os.listxattr(out + "/capable"), "no capability")
    need(all(n in run.said for n in ("null", "suid")), "what was left out is said: %s" % run)


def test_in_place(t):
    """--in-place, the ways of overwriting, --delete, --dry-run."""
    src, repo = t.small_tree(), t.repository()
    t.write("src/keep", b"original")
    os.utime(t.path("src/keep"), ns=(10**18, 10**18))
    t.backup(repo, src)
    state = tree(src)

    def spoil():
        t.write("src/keep", b"modified")
        os.utime(t.path("src/keep"), ns=(10**18 + 5 * 10**9, 10**18 + 5 * 10**9))
        t.write("src/extra/more", b"not in the snapshot")
        shutil.rmtree(t.path("src/b"))
    keep = lambda: open(t.path("src/keep"), "rb").read()
    spoil()
    spoiled = tree(src)
    t.kw("restore", "--repo", repo, "--in-place", "--delete", "--dry-run", "latest", src)
    same(tree(src), spoiled, "a dry run changes nothing: the tree")
    t.kw("restore", "--repo", repo, "--in-place", "--overwrite", "never", "latest", src)
    need(keep() == b"modified" and os.path.exists(t.path("src/b/file-1")), "never: only what is missing")
    t.kw("restore", "--repo", repo, "--in-place", "--overwrite", "if-newer", "latest", src)
    need(keep() == b"modified", "if-newer: the one here is newer")
    t.kw("restore", "--repo", repo, "--in-place", "latest", src)
    need(keep() == b"original" and os.path.exists(t.path("src/extra/more")), "if-changed")
    run = t.js("restore", "--repo", repo, "--in-place", "--delete", "latest", src)
    need(run["deleted"] >= 1, run)
    same(tree(src), state, "the tree after --delete")
    # Older here: if-newer replaces it. Same size and time but other content: always replaces it.
    t.write("src/keep", b"older...")
    os.utime(t.path("src/keep"), ns=(10**17, 10**17))
    t.kw("restore", "--repo", repo, "--in-place", "--overwrite", "if-newer", "latest", src)
    need(keep() == b"original", "if-newer: the snapshot's is newer")
    t.write("src/keep", b"sameSIZE")
    os.utime(t.path("src/keep"), ns=(10**18, 10**18))
    t.kw("restore", "--repo", repo, "--in-place", "--overwrite", "always", "latest", src)
    same(tree(src), state, "the tree after --overwrite always")
    # Another kind of thing in the way.
    shutil.rmtree(t.path("src/a"))
    t.write("src/a", b"a file where a directory was")
    os.unlink(t.path("src/keep"))
    os.makedirs(t.path("src/keep/x"))
    run = t.kw("restore", "--repo", repo, "--in-place", "--delete", "--overwrite", "always", "latest", src, rc=(0, 3))
    if run.code == 0:
        same(tree(src), state, "the tree with other kinds in the way")
    else:
        need("keep" in run.said or "src/a" in run.said, run)
    need(os.path.exists(t.path("home")), "nothing beside it was deleted")


def test_choice(t):
    """--include, --exclude and paths; excludes of backup."""
    repo = t.repository()
    for n in ("a.txt", "b.log", "d/c.txt", "d/d.log", "e/f/g.txt", "cache/CACHEDIR.TAG", "cache/x", "big"):
        t.write("src/" + n, n)
    t.write("src/cache/CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55\n")
    t.write("src/big", b"b" * 100_000)
    src = t.path("src")

    def files(out):
        return sorted(os.path.relpath(os.path.join(b, f), out + src) for b, _, fs in os.walk(out) for f in fs)
    t.backup(repo, src)
    cases = ((["--include", "*.txt"], ["a.txt", "d/c.txt", "e/f/g.txt"]), (["--exclude", "*.txt", "--exclude", "cache"], ["b.log", "big", "d/d.log"]),
             (["--include", "*.txt", "--exclude", "g.*"], ["a.txt", "d/c.txt"]))
    for args, wanted in cases:
        out = t.restored(repo, args=args)
        need(files(out) == wanted, "%s: %s" % (args, files(out)))
    need(files(t.restored(repo, "latest", args=[src + "/d", src + "/e/f/g.txt"])) == ["d/c.txt", "d/d.log", "e/f/g.txt"], "paths")
    t.write("excludes", "# a comment\n*.log\n\n!d.log\n")
    for args, missing in ((["--exclude", "*.log"], ["b.log", "d/d.log"]), (["--exclude-file", t.path("excludes")], ["b.log"]), (["--exclude-caches"], ["cache/x"]),
                          (["--exclude-larger-than", "50k"], ["big"]), (["--exclude", src + "/d"], ["d/c.txt", "d/d.log"]), (["--exclude", "/d"], [])):
        t.backup(repo, *args, src)
        got = files(t.restored(repo))
        lost = sorted(set(files_of(src)) - set(got))
        need([m for m in lost if not m.endswith("CACHEDIR.TAG")] == missing, "%s left out %s" % (args, lost))


def files_of(src):
    return sorted(os.path.relpath(os.path.join(b, f), src) for b, _, fs in os.walk(src) for f in fs)


def test_one_file_system(t):
    need_root()
    src, repo = t.small_tree(), t.repository()
    os.mkdir(t.path("src/mounted"))
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", t.path("src/mounted")], capture_output=True).returncode:
        raise Skip("cannot mount here")
    t.write("src/mounted/inside", b"x")
    t.backup(repo, "-x", src)
    listed = [e["path"] for e in t.js("ls", "--repo", repo)["entries"]]
    need(any(p.endswith("src/mounted") for p in listed) and not any(p.endswith("inside") for p in listed), listed)
    t.backup(repo, src)
    need(any(e["path"].endswith("inside") for e in t.js("ls", "--repo", repo)["entries"]), "without -x it is in")


def test_resumed_restore(t):
    """A restore that was killed goes on when it is run again, and no half file ever stands under a real name."""
    repo, src = t.repository(), t.path("src")
    contents = {}
    for i in range(40):
        t.write("src/%d/f" % i, t.noise(t.random.randrange(100_000, 900_000)))
    t.backup(repo, src)
    state = tree(src)
    began = time.time()
    t.kw("restore", "--repo", repo, "--target", t.path("whole"))
    took = time.time() - began
    finished = 0
    for n in range(6):
        process = t.start("restore", "--repo", repo, "--target", t.path("out"))
        time.sleep(took * t.random.random() * 0.9)
        process.send_signal(signal.SIGKILL)
        run = t.finish(process, rc=(0, -9))
        finished += run.code == 0
        if os.path.exists(t.path("out") + src):
            now = tree(t.path("out") + src)
            for name, e in now.items():
                if e["kind"] == "-" and name in state:
                    need(e["what"] == state[name]["what"], "a half file under a real name: %r" % name)
    done = t.js("restore", "--repo", repo, "--target", t.path("out"))
    same(tree(t.path("out") + src), state, "the restore that went on")
    need(finished or done["files_skipped"] > 0 or done["files_restored"] > 0, done)


def test_dump(t):
    """dump of a tree as tar, against GNU tar -x; of one file, to the byte."""
    need_tools("tar")
    src, _ = full_tree(t, deep=False)  # GNU tar stops at PATH_MAX
    repo = t.repository()
    t.backup(repo, src)
    state = tree(src)
    with open(src + "/large", "rb") as f:
        need(t.kw("dump", "--repo", repo, "latest", src + "/large").out == f.read(), "one file")
    need(t.kw("dump", "--repo", repo, "latest", src + "/empty").out == b"", "an empty file")
    archive = t.kw("dump", "--repo", repo, "latest", src).out
    need(len(archive) % 512 == 0 and archive[-1024:] == bytes(1024), "it ends as a tar archive ends")
    os.mkdir(t.path("tar"))
    # GNU tar takes an ACL from its extended attribute when it is not told --acls.
    xattrs = ["--xattrs", "--xattrs-include=*"] if is_root() else []
    subprocess.run(["tar", "-x", "-p", "--numeric-owner", *xattrs, "-C", t.path("tar")], input=archive, check=is_root(), capture_output=False)
    found = tree(t.path("tar") + src)
    same(without(found, "s"), without(state, "s"), "what GNU tar unpacks")
    with tarfile.open(fileobj=io.BytesIO(archive)) as f:
        need(len(f.getnames()) >= len(without(state, "s")) - 1, "Python's tarfile lists it")
    both = t.kw("dump", "--repo", repo, "--tar", "latest", src + "/one", src + "/empty").out
    with tarfile.open(fileobj=io.BytesIO(both)) as f:
        need(sorted(n.rsplit("/", 1)[-1] for n in f.getnames() if f.getmember(n).isfile()) == ["empty", "one"], f.getnames())

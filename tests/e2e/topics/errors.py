"""Bad situations: the right exit code, one sentence that says what could not be done, advice, and nothing changed."""
import errno, os, re, shutil, socket, stat, struct, subprocess

from harness import NOBODY, Skip, content_of, need, need_root, need_tools, objects, same, tree


def fails(t, code, *words, says, repo=None, advice=True, **more):
    """It ends with this code and one sentence that matches, followed by advice; the repository is as before."""
    before = content_of(repo) if repo else None
    run = t.kw(*words, rc=code, **more)
    lines = [line for line in run.said.split("\n") if line.strip()]
    sentences = [line for line in lines if line.startswith("keepwatch: ") and not line.startswith("keepwatch: warning: ")]
    need(len(sentences) == 1, "exactly one sentence\n%s" % run)
    need(re.search(says, sentences[0]), "it says %r\n%s" % (says, run))
    if advice:
        need(any(line.startswith("  what to do: ") for line in lines), "it gives advice\n%s" % run)
    need(not re.search(r"Os \{|Error\(|\bNone\b|Some\(|RUST|unwrap|(?<![\w/.-])0x", run.said), "no inner workings\n%s" % run)
    if repo:
        need(content_of(repo) == before, "the repository was changed\n%s" % run)
    return run


def made(t):
    src, repo = t.small_tree(), t.repository()
    t.backup(repo, src)
    return src, repo


def test_identities(t):
    src, repo = made(t)
    t.kw("key", "generate", "-o", t.path("wrong"), secret=True)
    for words in (["ls"], ["restore", "--target", t.path("o")], ["dump", "latest", src], ["diff", "latest"], ["find", "*"], ["verify"]):
        fails(t, 1, *words, "--repo", repo, "--identity", t.path("wrong"), says="does not open", repo=repo)
    need(not os.path.exists(t.path("o")), "a restore that cannot begin makes no directory")
    none = t.home("home-of-nobody")
    for words in (["ls"], ["restore", "--target", t.path("o")], ["dump", "latest", src], ["key", "add", "--name", "x", "--recipient", "age1" + "q" * 58]):
        if words[0] != "key":
            fails(t, 1, *words, "--repo", repo, says="needs an identity", repo=repo, env=none)
    fails(t, 1, "ls", "--repo", repo, "--identity", t.path("not-there"), says="no such file", repo=repo)
    for mode in (0o644, 0o640, 0o604, 0o620):
        os.chmod(t.path("wrong"), mode)
        fails(t, 5, "ls", "--repo", repo, "--identity", t.path("wrong"), says=r"read or changed by other users \(mode %04o\)" % mode, repo=repo)
    fails(t, 1, "ls", "--repo", repo, "--identity", t.write("junk", b"not a key\n", 0o600), says="identity", repo=repo, advice=False)
    fails(t, 1, "ls", "--repo", repo, "--identity", t.write("empty", b"", 0o600), says="identity", repo=repo, advice=False)
    fails(t, 1, "ls", "--repo", repo, "--identity", t.path("src"), says="it is a directory", repo=repo, advice=False)
    t.write("phrase", "not the passphrase at all, no", 0o600)
    fails(t, 1, "ls", "--repo", repo, "--passphrase-file", t.path("phrase"), says="passphrase", repo=repo)


def test_recipients(t):
    t.kw("key", "generate", "-o", t.path("id"), secret=True)
    with open(t.path("id")) as f:
        secret = re.search("AGE-SECRET-KEY-1[A-Z0-9]+", f.read())[0]
    repo = t.path("repo")
    for recipient, says in ((secret, "is an identity, which is secret"), (t.path("id"), "holds an identity, which is secret"), ("age1nonsense", "recipient"),
                            ("no such thing", "neither a public key nor a file"), ("ssh-ed25519 AAAA", "recipient|key")):
        run = fails(t, (1, 2), "init", "--repo", repo, "--recipient", recipient, says=says, advice=False)
        need(secret not in run.said, "the secret is not repeated")
        need(not os.path.exists(repo), "nothing was made")
    t.write("pass", "", 0o600)
    fails(t, 1, "init", "--repo", repo, "--passphrase-file", t.path("pass"), says="is empty", advice=False)


def test_not_a_repository(t):
    src = t.small_tree()
    fails(t, 1, "snapshots", "--repo", t.path("nowhere"), says="there is no repository at .*nowhere")
    fails(t, 1, "backup", "--repo", t.path("nowhere"), src, says="there is no repository at .*nowhere")
    need(not os.path.exists(t.path("nowhere")), "nothing was made")
    fails(t, 1, "snapshots", "--repo", src, says="repository")
    fails(t, 1, "snapshots", "--repo", t.write("file", b"x"), says="not a directory")
    fails(t, 5, "init", "--repo", src, says="not empty")
    fails(t, 1, "snapshots", says="no repository yet at the default place")
    t.kw("snapshots", "--repo", "", rc=2)
    fails(t, 2, "snapshots", "--repo", "ftp://x/y", says="unknown kind")


def rewrite_config(repo, change):
    """Changes bytes of the config. Its signature is wrong from then on, which must not hide that the format is newer."""
    path = os.path.join(repo, "config")
    with open(path, "rb") as f:
        b = bytearray(f.read())
    change(b)
    os.chmod(path, 0o600)
    with open(path, "wb") as f:
        f.write(b)


def test_newer_format(t):
    src, repo = made(t)

    def magic(b):
        b[3:4] = b"2"
    shutil.copytree(repo, t.path("newer"))
    rewrite_config(t.path("newer"), magic)
    for words in (["snapshots"], ["backup", src], ["ls"], ["prune"], ["verify"], ["forget", "--keep-last", "1"]):
        run = fails(t, (1, 5), *words, "--repo", t.path("newer"), says="newer|format|version", repo=t.path("newer"))
    need(re.search("newer", run.said), run)

    def version(b):
        body = b[33:]
        need(body[1:3] == b"\x00\x01", "config begins with {0: 1")
        b[35] = 2
    shutil.copytree(repo, t.path("newer2"))
    rewrite_config(t.path("newer2"), version)
    # The version stands under the signature: that it was changed is what must be said, or that it is newer.
    fails(t, (1, 5), "backup", "--repo", t.path("newer2"), src, says="newer|sign|damaged|forged", repo=t.path("newer2"))


def test_damaged_keys_of_the_host(t):
    src, repo = made(t)
    key = t.js("key", "list", "--repo", repo)["repository_id"]
    place = t.env["HOME"] + "/.config/keepwatch/writer-keys/%s.key" % key
    with open(place, "rb") as f:
        good = f.read()
    for bad, name in ((good[: len(good) // 2], "half"), (b"", "empty"), (b"\xff\xfe\x00", "binary"), (good.replace(b"1", b"2"), "changed"), (b"x" * 70000, "long")):
        t.write("w-" + name, bad, 0o600)
        fails(t, (1, 5), "backup", "--repo", repo, "--writer-key", t.path("w-" + name), src, says="writer key|key", repo=repo, advice=False)
    t.write("w-open", good, 0o644)
    fails(t, 5, "backup", "--repo", repo, "--writer-key", t.path("w-open"), src, says="other users", repo=repo)
    t.repository("other")
    other = t.js("key", "list", "--repo", t.path("other"))["repository_id"]
    fails(t, 5, "backup", "--repo", repo, "--writer-key", t.env["HOME"] + "/.config/keepwatch/writer-keys/%s.key" % other, src, says="repository", repo=repo)
    fails(t, 1, "backup", "--repo", repo, src, env=t.home("home-without"), says="needs a writer key", repo=repo)
    fails(t, 1, "prune", "--repo", repo, "--identity", t.env["HOME"] + "/.config/keepwatch/identity.txt", env=t.home("home-without"), says="writer key", repo=repo)


def test_wrong_use(t):
    src, repo = made(t)
    for words, says in ((["backup", "--compression", "0", src], "compression"), (["backup", "--compression", "20", src], "compression"),
                        (["verify", "--read-data=0%"], "percentage"), (["verify", "--read-data=abc"], "percentage"), (["prune", "--grace", "-1d"], "grace|argument"),
                        (["prune", "--max-unused", "100%"], "percentage"), (["forget", "--keep-last", "-3"], "keep-last|argument"), (["restore", "--target", "x", "--overwrite", "maybe"], "maybe"),
                        (["backup", "--threads", "257", src], "threads"), (["snapshots", "--latest", "0"], "latest"), (["backup", "--exclude-larger-than", "big", src], "big"),
                        (["restore", "--target", "x", "--in-place"], "cannot be used with"), (["backup", "--nonsense", src], "nonsense"), (["snapshots", "--owner-key", "zz"], "owner-key")):
        run = t.kw(*words, "--repo", repo, rc=2)
        need(re.search(says, run.said) and not run.out, "%s\n%s" % (says, run))
    fails(t, 2, "forget", "--repo", repo, says="neither a policy nor snapshots", repo=repo)
    fails(t, 2, "backup", "--repo", repo, says="nothing to back up", repo=repo)
    fails(t, 2, "backup", "--repo", repo, "--exclude", "a[", src, says=r"a\[", repo=repo, advice=False)
    fails(t, 2, "backup", "--repo", repo, "--stdin-name", "../x", says="cannot be that of a file", repo=repo)
    fails(t, 4, "restore", "--repo", repo, "--target", t.path("o"), "ffffffffffffffff", says="snapshot", repo=repo)


def test_sources(t):
    src, repo = made(t)
    fails(t, 1, "backup", "--repo", repo, t.path("not-there"), says="no such file or directory.*no snapshot was made", repo=repo)
    # The repository inside of the source, and a source inside of the repository.
    inside = t.path("data")
    t.write("data/f", b"1")
    t.kw("init", "--repo", inside + "/repo")
    first = t.js("backup", "--repo", inside + "/repo", inside)
    again = t.js("backup", "--repo", inside + "/repo", inside)
    need(first["totals"]["files"] == again["totals"]["files"] == 1, "the repository is not in its own backup: %s" % again)
    paths = [e["path"] for e in t.js("ls", "--repo", inside + "/repo")["entries"]]
    need(not any("/repo/packs" in p for p in paths), paths)


def test_permissions(t):
    """As nobody: unreadable files are named and the run is partial; an unreadable or unwritable repository is refused."""
    need_root()
    env = t.home("nobody", NOBODY)
    env["TMPDIR"] = env["HOME"]
    src = t.path("src")
    for name, mode in (("open", 0o644), ("closed", 0o600), ("dir/inside", 0o644)):
        t.write("src/" + name, b"content of " + name.encode(), mode)
    os.chmod(t.path("src/dir"), 0o700)
    mine = env["HOME"] + "/repo"
    as_nobody = dict(env=env, uid=NOBODY, cwd=env["HOME"])
    t.kw("init", "--repo", mine, **as_nobody)
    run = t.kw("backup", "--repo", mine, src, "--json", rc=3, **as_nobody)
    named = sorted(p["path"].rsplit("/", 1)[-1] for p in run.json["problems"])
    need(named == ["closed", "dir"] and all("ermission denied" in p["what"] for p in run.json["problems"]), run)
    need(t.kw("dump", "--repo", mine, "latest", src + "/open", **as_nobody).out == b"content of open", "the others are there")
    human = t.kw("backup", "--repo", mine, src, rc=3, **as_nobody)
    need("closed" in human.said and "partial" in human.text, human)
    # A repository that belongs to somebody else.
    repo = t.repository()
    t.backup(repo, src)
    fails(t, 1, "snapshots", "--repo", repo, says="permission denied", repo=repo, **as_nobody)
    os.chmod(t.path("home"), 0o755)
    for base, dirs, files in os.walk(repo):
        os.chmod(base, 0o755)
        for f in files:
            os.chmod(os.path.join(base, f), 0o644)
    key = shutil.copytree(t.env["HOME"] + "/.config", env["HOME"] + "/c", dirs_exist_ok=True)
    t.sh("chown", "-R", "%d:%d" % (NOBODY, NOBODY), key)
    need(len(t.ids(repo, **as_nobody)) == 1, "readable is enough to look")
    fails(t, 1, "backup", "--repo", repo, t.path("src/open"), says="permission denied", repo=repo, **as_nobody)
    # Restore where nothing may be written.
    fails(t, (1, 3), "restore", "--repo", repo, "--target", t.path("forbidden"), says="ermission denied", repo=repo, **as_nobody)
    # Restoring as nobody cannot give files to root: said, and everything else is right.
    run = t.kw("restore", "--repo", repo, "--target", env["HOME"] + "/out", rc=(0, 3), **as_nobody)
    with open(env["HOME"] + "/out" + src + "/closed", "rb") as f:
        need(f.read() == b"content of closed", run)


def mounted(t, name, *options):
    place = t.path(name)
    os.makedirs(place, exist_ok=True)
    done = subprocess.run(["mount", *options, place], capture_output=True, text=True)
    if done.returncode:
        raise Skip("cannot mount here: " + done.stderr.strip())
    return place


def test_full_disk(t):
    """D4: a full disk fails the run clearly, at whatever point; the snapshots before are whole, and with space it goes on."""
    need_root()
    place = mounted(t, "small", "-t", "tmpfs", "-o", "size=3m", "tmpfs")
    repo = place + "/repo"
    t.kw("init", "--repo", repo)
    t.write("first/f", t.noise(500_000))
    first = t.backup(repo, t.path("first"))
    state = tree(t.path("first"))
    t.write("second/g", t.noise(6_000_000))
    run = t.kw("backup", "--repo", repo, t.path("second"), rc=1)
    need("no space left on device" in run.said.lower() and "safe; no snapshot was made" in run.said, run)
    need("what to do:" in run.said and "free some space" in run.said, run)
    # Every size of a hole: the run fails at another write each time.
    for left in range(0, 40_000, 3_000) if not t.long else range(0, 400_000, 700):
        free = os.statvfs(place)
        with open(place + "/ballast", "wb") as f:
            f.write(b"x" * max(0, free.f_bavail * free.f_frsize - left - 4096))
        t.write("third/h", t.noise(10_000))
        run = t.kw("backup", "--repo", repo, t.path("third"), rc=(0, 1))
        need(run.code == 0 or "no space left" in run.said.lower(), run)
        os.unlink(place + "/ballast")
    need(t.js("verify", "--repo", repo, "--read-data")["sound"], "sound")
    t.must_restore(repo, first, t.path("first"), state)
    subprocess.run(["mount", "-o", "remount,size=64m", place], check=True)
    second = t.backup(repo, t.path("second"))
    t.must_restore(repo, second, t.path("second"), tree(t.path("second")))
    # A full target: the restore says so, and goes on when there is space.
    target = mounted(t, "target", "-t", "tmpfs", "-o", "size=2m", "tmpfs")
    run = t.kw("restore", "--repo", repo, "--target", target + "/o", second, rc=(1, 3))
    need("no space left" in run.said.lower() or "not enough space" in run.said, run)
    subprocess.run(["mount", "-o", "remount,size=64m", target], check=True)
    t.kw("restore", "--repo", repo, "--target", target + "/o", second)
    same(tree(target + "/o" + t.path("second")), tree(t.path("second")), "the restore that went on")


def test_read_only(t):
    """A repository on a read-only file system can be read and says that it cannot be written."""
    need_root()
    src, repo = made(t)
    state = tree(src)
    place = mounted(t, "ro", "--bind", repo)
    subprocess.run(["mount", "-o", "remount,ro,bind", place], check=True)
    for words in (["backup", src], ["forget", "latest"], ["key", "add", "--name", "p", "--recipient", "age1lggyhqrw2nlhcxprm67z43rta597azn8gknawjehu9d9dl0jq3yqqvfafg"]):
        fails(t, 1, *words, "--repo", place, says="read-only file system", repo=repo)
    t.kw("prune", "--repo", place, "--grace", "0s", rc=(0, 1))
    need(len(t.ids(place)) == 1 and t.js("verify", "--repo", place, "--read-data")["sound"], "it can be read")
    t.must_restore(place, "latest", src, state)
    fails(t, 1, "init", "--repo", place + "/new", says="read-only file system", advice=True)


def test_missing_object(t):
    """A pack that is gone: what needs it is named, the rest comes back, nothing else is deleted."""
    repo = t.repository()
    a = t.write("src/a", t.noise(400_000))
    t.backup(repo, t.path("src"))
    packs = set(n for n in objects(repo) if n.startswith("packs/"))
    b = t.write("src/b", t.noise(400_000))
    t.backup(repo, t.path("src"))
    data = max(packs, key=lambda n: os.path.getsize(os.path.join(repo, n)))
    os.unlink(os.path.join(repo, data))
    run = t.kw("restore", "--repo", repo, "--target", t.path("out"), "--json", rc=3)
    need([p["path"].rsplit("/")[-1] for p in run.json["problems"]] == ["a"], run)
    same({k: v for k, v in tree(t.path("out") + t.path("src")).items() if k == b"b"}, {k: v for k, v in tree(t.path("src")).items() if k == b"b"}, "the undamaged file")
    need(not os.path.exists(t.path("out") + a), "no half file stands under the name of a whole one")
    t.kw("verify", "--repo", repo, rc=1)
    before = content_of(repo)
    t.kw("prune", "--repo", repo, "--grace", "0s", rc=(0, 1))
    need(set(content_of(repo)) >= set(before), "a prune that cannot be sure deletes nothing")
    # The next backup stores anew what the source still has.
    t.kw("backup", "--repo", repo, "--force-read", t.path("src"))
    t.must_restore(repo, "latest", t.path("src"), tree(t.path("src")), name="again")


def refused_calls(log):
    """The paths of the calls that strace let fail (it counts in each thread by itself, so there may be several)."""
    out, begun = [], {}
    with open(log, errors="replace") as f:
        for line in f:
            # A call that another thread interrupts stands in two lines, and the path in the first.
            thread = line.split()[0]
            if "<unfinished" in line:
                begun[thread] = line
            elif "(INJECTED)" in line:
                whole = begun.pop(thread, "") + line if "resumed>" in line else line
                out.append((re.search(r'"([^"]*)"', whole) or [whole, whole])[1])
    return out


def test_fsync_fails(t):
    """D4: EIO of the n-th fsync, ENOSPC of the n-th write, EMFILE of the n-th open: the run fails or is right; a failed sync is never success.
    The exit is the one that belongs to what could not be opened: a source file makes the run partial, an object of the repository ends it."""
    need_tools("strace")
    src, repo = made(t)
    state = tree(src)
    kept = t.ids(repo)
    count, seen, log = 0, set(), t.path("strace.log")
    for call, error in (("fsync", "EIO"), ("write", "ENOSPC"), ("link,linkat", "EIO"), ("openat", "EMFILE"), ("unlink,unlinkat", "EIO")):
        for n in range(1, 150 if not t.long else 400):
            t.write("src/fresh", t.noise(3000))
            prefix = ["strace", "-f", "-qq", "-o", log, "-e", "trace=" + call, "-e", "inject=%s:error=%s:when=%d" % (call, error, n)]
            run = t.kw("backup", "--repo", repo, src, "--json", prefix=prefix, rc=None)
            paths = refused_calls(log)
            what = "%s %d: %s\n%s" % (call, n, paths, run)

            def exits(path):
                if call != "openat":
                    return {0, 1, 3}
                if path.startswith(repo + "/"):
                    return {1}
                if path.startswith((src, "/proc/self/fd")) or not path.startswith("/"):
                    # A file or directory of the source, opened relative to the one above; or the way to it: no empty snapshot that is called partial.
                    return {1} if "nothing in the sources could be read" in run.said else {3}
                if path == "/" or src.startswith(path + "/"):
                    return {0, 1, 3}  # the way to the source, to the repository or to the home
                if re.search(r"\.so(\.|$)|/lib", path):
                    return {0, 127}
                return {0, 1}  # keys and state of this host, caches, files of the system
            each = [exits(p) for p in paths] or [{0}]
            wanted = set.union(*each) - (set() if all(0 in e for e in each) else {0})
            need(run.code in wanted, "exit %s, not one of %s, for %s" % (run.code, wanted, what))
            if call == "openat" and run.code == 1:
                need("too many open files" in run.said.lower(), what)
            seen |= {p[len(repo) + 1:].split("/")[0] for p in paths if call == "openat" and p.startswith(repo + "/")}
            count += 1
            now = t.ids(repo)
            need(set(kept) <= set(now), "lost a snapshot: " + what)
            if run.code == 0:
                t.must_restore(repo, run.json["snapshot"], src, tree(src)) if n % 5 == 0 else None
                kept = now
            if not paths:
                break
    need({"config", "writers", "snapshots", "tmp"} <= seen, "opened in the repository: %s" % seen)
    need(t.js("verify", "--repo", repo, "--read-data")["sound"], "sound")
    t.must_restore(repo, kept[0], src, state)
    print("%d runs" % count)


def test_restore_is_on_the_disk(t):
    """A restore that succeeded was synced: each file system once, at the end; a sync that fails is no success."""
    need_tools("strace")
    src, repo = made(t)
    log, out = t.path("strace.log"), t.path("out")
    words = ["restore", "--repo", repo, "--target", out]
    trace = ["strace", "-f", "-qq", "-y", "-o", log, "-e", "trace=syncfs,renameat,renameat2,utimensat,fchmodat,fchmod,write,pwrite64"]
    t.kw(*words, prefix=trace)
    with open(log) as f:
        calls = [line.split(" ", 1)[1].strip() for line in f if out in line]
    syncs = [n for n, c in enumerate(calls) if c.startswith("syncfs(")]
    need(len(syncs) == 1, "one file system is synced once: %s" % calls[-5:])
    need(syncs[0] == len(calls) - 1 and len(calls) > 10, "after everything else: %s" % calls[syncs[0]:])
    shutil.rmtree(out)
    t.kw(*words, "--no-sync", prefix=trace)
    with open(log) as f:
        need("syncfs" not in f.read(), "--no-sync waits for nothing")
    shutil.rmtree(out)
    run = t.kw(*words, rc=1, prefix=["strace", "-f", "-qq", "-o", log, "-e", "trace=syncfs", "-e", "inject=syncfs:error=EIO:when=1"])
    need("may not have reached the disk" in run.said and "--overwrite always" in run.said, run)
    shutil.rmtree(out)
    run = t.kw(*words, prefix=["strace", "-f", "-qq", "-o", log, "-e", "trace=syncfs", "-e", "inject=syncfs:error=ENOSYS:when=1"])
    need("not every file system could be asked" in run.said, run)
    same(tree(out + src), tree(src), "restored")


def test_passphrase(t):
    """A wrong passphrase is called that, not damage."""
    src = t.small_tree()
    for name, phrase in (("right", "correct horse battery staple"), ("wrong", "correct horse battery stable")):
        t.write(name, phrase, 0o600)
    repo = t.path("repo")
    t.kw("init", "--repo", repo, "--passphrase-file", t.path("right"))
    t.backup(repo, src)
    run = fails(t, 1, "ls", "--repo", repo, "--passphrase-file", t.path("wrong"), says="the passphrase does not open", repo=repo)
    need("damaged" not in run.said, run)
    need(t.js("ls", "--repo", repo, "--passphrase-file", t.path("right"))["entries"], "the right one opens")


def test_wrong_use_as_json(t):
    """What the parser of the command line refuses is a document too, with the exit code of the others."""
    for words, says in ((["snapshots", "--nonsense", "--json"], "nonsense"), (["prune", "--grace", "soon", "--json"], "grace"), (["--json", "bakup"], "bakup"),
                        (["forget", "--keep-last", "-3", "--json"], "-3|keep-last"), (["restore", "--json"], "target"), (["--json"], "subcommand")):
        run = t.kw(*words, rc=2)
        need(set(run.json) == {"error", "advice", "exit_code"} and run.json["exit_code"] == 2, run)
        need(re.search(says, run.json["error"]) and "\n" not in run.json["error"], run)
        need(run.said.strip(), "people are told as well")
    need(t.kw("--help", "--json", rc=0).out.startswith(b"Encrypted"), "help is no error")


def test_unusual_volume(t):
    """C5: a policy that would drop most of the snapshots, or a prune that would delete most of the data, stops and says what to type."""
    src, repo = t.path("src"), t.repository()
    for n in range(30):
        t.write("src/f", "%d" % n)
        t.backup(repo, src)
    ids = t.ids(repo)
    words = ["forget", "--repo", repo, "--keep-last", "3"]
    run = fails(t, 5, *words, says="drops 27 of 30 snapshots", repo=repo)
    command = re.search(r"if that is what you want: keepwatch (.*)", run.said)[1].split()
    need(command == words + ["--allow-many"], command)
    dry = t.kw(*words, "--dry-run", "--json")
    need(len(dry.json["forgotten"]) == 27 and "27 of 30" in dry.json["unusual"], dry)
    need("--allow-many" in t.kw(*words, "--dry-run").said, "a dry run says that it would stop")
    need(fails(t, 5, *words, "--json", says="27 of 30", repo=repo).json["exit_code"] == 5, "as JSON too")
    need(t.ids(repo) == ids, "nothing was forgotten")
    # Named one by one they are the word of a person.
    t.kw("forget", "--repo", repo, *ids[:2])
    need(sorted(t.js(*command)["forgotten"]) == sorted(ids[2:27]), "as it was told")
    # From then on the same policy drops as many as come.
    for n in range(25):
        t.write("src/f", "again %d" % n)
        t.backup(repo, src)
    need(len(t.js(*words)["forgotten"]) == 25, "steady use is not asked about")
    # A repository of more than 64 MiB that lost its newest snapshot.
    t.write("src/large", t.noise(70 << 20))
    lost = t.backup(repo, src)
    os.rename("%s/snapshots/%s" % (repo, lost), t.path("aside"))
    run = fails(t, 5, "prune", "--repo", repo, "--grace", "0s", says="more than half.*no forgotten snapshot accounts", repo=repo)
    need(re.search(r"prune --repo \S+ --grace 0s --allow-many", run.said), run)
    need(t.js("prune", "--repo", repo, "--grace", "0s", "--dry-run")["notes"], "a dry run says it")
    os.rename(t.path("aside"), "%s/snapshots/%s" % (repo, lost))
    t.must_restore(repo, lost, src, tree(src))
    # Forgotten in the right way it is pruned without a question.
    t.kw("forget", "--repo", repo, lost)
    need(t.js("prune", "--repo", repo, "--grace", "0s")["bytes_freed"] > 64 << 20, "freed")
    need(t.js("verify", "--repo", repo, "--read-data")["sound"], "sound")

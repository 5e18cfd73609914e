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


def test_fsync_fails(t):
    """D4: EIO of the n-th fsync, ENOSPC of the n-th write, EMFILE of the n-th open: the run fails or is right; a failed sync is never success."""
    need_tools("strace")
    src, repo = made(t)
    state = tree(src)
    kept = t.ids(repo)
    count = 0
    for call, error in (("fsync", "EIO"), ("write", "ENOSPC"), ("link,linkat", "EIO"), ("openat", "EMFILE"), ("unlink,unlinkat", "EIO")):
        for n in range(1, 40 if not t.long else 400):
            t.write("src/fresh", t.noise(3000))
            prefix = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=" + call, "-e", "inject=%s:error=%s:when=%d" % (call, error, n)]
            run = t.kw("backup", "--repo", repo, src, "--json", prefix=prefix, rc=None)
            need(run.code in (0, 1, 3, 127, 5) or run.code < 0, run)
            count += 1
            now = t.ids(repo)
            need(set(kept) <= set(now), "%s %d lost a snapshot\n%s" % (call, n, run))
            if run.code == 0:
                t.must_restore(repo, run.json["snapshot"], src, tree(src)) if n % 5 == 0 else None
                kept = now
                if n > 12 and call != "openat":
                    break
    need(t.js("verify", "--repo", repo, "--read-data")["sound"], "sound")
    t.must_restore(repo, kept[0], src, state)
    print("%d runs" % count)

"""S11: every verb on s3://, kills in the middle, credentials that may not delete, and no secret anywhere. The server is our own (tests/s3serve) or a real one (tests/s3/server)."""
import contextlib, json, os, pathlib, signal, subprocess, sys, time

from harness import Skip, need, tree

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent.parent


def built(t):
    """keepwatch-s3serve: beside the binary under test, else where cargo puts it."""
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    for place in (pathlib.Path(os.fsdecode(t.binary)).parent, target / "release", target / "debug"):
        if (place / "keepwatch-s3serve").exists():
            return [str(place / "keepwatch-s3serve")]
    raise Skip("keepwatch-s3serve was not built: cargo build -p keepwatch-s3serve")


@contextlib.contextmanager
def server(argv, *more):
    process = subprocess.Popen([*argv, *more, "--until-eof"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        line = process.stdout.readline()
        if not line:
            raise AssertionError("the server %s did not start" % argv)
        yield json.loads(line)
    finally:
        process.stdin.close()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()


def place(t, s, prefix, access=None, secret=None):
    """A repository's name with all that is needed to reach it. The secret is one that must never be printed."""
    access, secret = access or s["access_key"], secret or s["secret_key"]
    t.secrets.append(secret.encode())
    a = t.write("creds/%s-a" % access, access, 0o600)
    b = t.write("creds/%s-s" % access, secret + "\n", 0o600)
    return "s3://%s/%s?endpoint=%s&region=%s&access-key-file=%s&secret-key-file=%s&idle-timeout=10s" % (s["bucket"], prefix, s["endpoint"], s["region"], a, b)


def every_verb(t, s, deletes=True):
    repo = place(t, s, "hosts/a")
    src = t.small_tree(files=12)
    made = t.kw("init", "--repo", repo)
    need("s3://" in made.text + made.said, made)
    first = t.backup(repo, src)
    state1 = tree(src)
    t.write("src/a/new", t.noise(300_000))
    report = t.js("backup", "--repo", repo, src, "-vv")
    second, state2 = report["snapshot"], tree(src)
    need(report["traffic"]["puts"] >= 3 and report["traffic"]["requests"] <= 40, report["traffic"])
    need(t.ids(repo) == [first, second], "two snapshots")
    t.must_restore(repo, first, src, state1)
    t.must_restore(repo, "latest", src, state2)
    need("a/new" in t.kw("ls", "--repo", repo, "latest").text, "ls")
    need("new" in t.kw("find", "--repo", repo, "new").text, "find")
    t.kw("diff", "--repo", repo, first, second)
    dumped = t.kw("dump", "--repo", repo, "latest", src + "/a/new")
    with open(src + "/a/new", "rb") as f:
        need(dumped.out == f.read(), "dump")
    t.kw("verify", "--repo", repo, "--read-data")
    t.kw("stats", "--repo", repo)
    t.kw("key", "list", "--repo", repo)
    t.kw("repair", "index", "--repo", repo)
    doctor = t.js("doctor", "--repo", repo)
    need(doctor["bad"] == 0 and {"reachable", "repository", "writer key"} <= {f["what"] for f in doctor["findings"]}, doctor)
    # A copy on a local disk, and back from there into another prefix.
    twin = t.path("twin")
    t.kw("init", "--repo", twin, "--from", repo)
    need(len(t.js("copy", "--repo", twin, "--from", repo)["copied"]) == 2, "copied to the disk")
    t.must_restore(twin, "latest", src, state2)
    again = place(t, s, "hosts/b")
    t.kw("init", "--repo", again, "--from", twin)
    need(len(t.js("copy", "--repo", again, "--from", twin)["copied"]) == 2, "copied to S3")
    t.must_restore(again, "latest", src, state2)
    if deletes:
        t.kw("forget", "--repo", repo, "--keep-last", "1")
        t.kw("prune", "--repo", repo, "--grace", "0", "--max-unused", "0%")
        need(t.ids(repo) == [second], "one is left")
        t.must_restore(repo, "latest", src, state2)
        t.kw("verify", "--repo", repo, "--read-data")
    # A second 'init' must not touch what is there.
    run = t.kw("init", "--repo", repo, rc=5)
    need("already holds a repository" in run.said, run)
    return repo, src, state2


def test_every_verb(t):
    with server(built(t)) as s:
        every_verb(t, s)


def test_a_real_server(t):
    script = str(ROOT / "tests/s3/server")
    if not os.environ.get("KEEPWATCH_REQUIRE_S3"):
        raise Skip("no real S3 server was installed (tests/s3/server install)")
    with server([sys.executable, script, "start", "versitygw", "--object-lock"]) as s:
        repo, src, state = every_verb(t, s)
        # Wrong credentials and a bucket that is not there, told apart and without a secret.
        run = t.kw("snapshots", "--repo", place(t, s, "hosts/a", s["access_key"] + "X", "wrong-secret-0123456789"), rc=1)
        need("credentials" in run.said or "AccessDenied" in run.said or "InvalidAccessKeyId" in run.said, run)
        run = t.kw("snapshots", "--repo", place(t, dict(s, bucket="no-such-bucket-here"), "x"), rc=1)
        need("NoSuchBucket" in run.said, run)
        # Locked by us: what a thief deletes comes back.
        locked = place(t, s, "locked") + "&object-lock=governance:1"
        t.kw("init", "--repo", locked)
        t.backup(locked, src)
        writer = s.get("writer")
        if writer:
            # May put, get and list, not delete: backups, restores and verify work, prune says what it lacks.
            weak = place(t, s, "hosts/a", writer["access_key"], writer["secret_key"])
            t.write("src/a/more", t.noise(50_000))
            t.backup(weak, src)
            t.must_restore(weak, "latest", src, tree(src))
            t.kw("verify", "--repo", weak, "--read-data")
            t.kw("forget", "--repo", weak, "--keep-last", "1")
            run = t.kw("prune", "--repo", weak, "--grace", "0", rc=1)
            need("s3:DeleteObject" in run.said, run)
            need(any("not allowed" in f["text"] for f in t.js("doctor", "--repo", weak)["findings"] if f["what"] == "deleting"), "doctor")


def test_killed_at_any_moment(t):
    rounds = 400 if t.long else 60
    with server(built(t)) as s:
        repo = place(t, s, "k")
        src = t.small_tree(files=10)
        t.kw("init", "--repo", repo)
        kept = {t.backup(repo, src): tree(src)}
        kills = 0
        for n in range(rounds):
            t.write("src/a/new", t.noise(1_500_000 + n))
            if n % 3 == 2:
                t.kw("forget", "--repo", repo, "--keep-last", "2", "--allow-many")
                kept = {i: kept[i] for i in t.ids(repo)}
            words = ["prune", "--grace", "0", "--max-unused", "0%"] if n % 3 == 2 else ["backup", src]
            process = t.start(words[0], "--repo", repo, *words[1:])
            time.sleep(t.random.uniform(0.002, 0.05))
            process.kill()
            out, _ = process.communicate()
            kills += process.returncode == -signal.SIGKILL
            for i in t.ids(repo):
                if i not in kept:
                    kept[i] = tree(src)  # it was committed before the kill
        need(kills >= rounds // 3, "only %d of %d were killed" % (kills, rounds))
        kept[t.backup(repo, src)] = tree(src)
        need(set(kept) == set(t.ids(repo)), "each committed snapshot is there")
        for i, state in kept.items():
            t.must_restore(repo, i, src, state)
        t.kw("verify", "--repo", repo, "--read-data")
        print("%d kills" % kills)


def test_credentials_from_everywhere(t):
    with server(built(t)) as s:
        access, secret = s["access_key"], s["secret_key"]
        t.secrets.append(secret.encode())
        bare = "s3://%s/c" % s["bucket"]
        common = ["--s3-endpoint", s["endpoint"], "--s3-region", s["region"], "--repo", bare]
        src = t.small_tree(files=3)
        env = dict(t.env, AWS_ACCESS_KEY_ID=access, AWS_SECRET_ACCESS_KEY=secret)
        t.kw("init", *common, env=env)
        t.kw("backup", *common, src, env=env)
        f = t.write("aws", "[default]\naws_access_key_id = wrong\naws_secret_access_key = wrong\n[kw]\naws_access_key_id = %s\naws_secret_access_key = %s\n" % (access, secret), 0o600)
        t.kw("snapshots", *common, "--s3-credentials-file", f, "--s3-profile", "kw")
        run = t.kw("snapshots", *common, "--s3-credentials-file", f, rc=1)
        need("credentials" in run.said, run)
        os.makedirs(t.path("cd"))
        t.write("cd/s3-access-key", access, 0o400)
        t.write("cd/s3-secret-key", secret, 0o400)
        t.kw("snapshots", *common, env=dict(t.env, CREDENTIALS_DIRECTORY=t.path("cd")))
        # None at all, in words that help; and a file that everybody can read is refused.
        run = t.kw("snapshots", *common, rc=1, env=dict(t.env, AWS_EC2_METADATA_DISABLED="true"), timeout=200)
        need("credentials" in run.said, run)
        a, b = t.write("o/a", access, 0o600), t.write("o/s", secret, 0o644)
        run = t.kw("snapshots", *common, "--s3-access-key-file", a, "--s3-secret-key-file", b, rc=1)
        need("chmod 600" in run.said, run)


def test_progress_of_a_slow_line(t):
    with server(built(t)) as s:
        repo = place(t, s, "slow")
        src = t.path("src")
        t.write("src/noise", t.noise(3 << 20))
        t.kw("init", "--repo", repo)
        begun = time.monotonic()
        t.kw("backup", "--repo", repo + "&limit-upload=1M", src)
        need(time.monotonic() - begun > 2, "the limit was not kept")

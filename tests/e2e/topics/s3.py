"""S11: every verb on s3://, kills in the middle, credentials that may not delete, and no secret anywhere. The server is our own (tests/s3serve) or a real one (tests/s3/server)."""
import contextlib, json, os, pathlib, shutil, signal, struct, subprocess, sys, time, urllib.request

from harness import Skip, need, need_tools, tree

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


def control(s, what, body=None, method="POST"):
    """Tells our own server how to misbehave."""
    request = urllib.request.Request("%s/%s" % (s["control"], what), json.dumps(body).encode(), method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


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
        # A clock that is an hour off: the server refuses it, and its own is followed.
        if shutil.which("faketime"):
            for offset in ("+1h", "-1h"):
                t.kw("snapshots", "--repo", repo, prefix=["faketime", "-f", offset], env=dict(t.env, FAKETIME_DONT_FAKE_MONOTONIC="1", DONT_FAKE_MONOTONIC="1"))
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
    wanted = 1000 if t.long else 200
    with server(built(t)) as s:
        repo = place(t, s, "k")
        src = t.small_tree(files=10)
        t.kw("init", "--repo", repo)
        kept = {t.backup(repo, src): tree(src)}
        kills = n = 0
        while kills < wanted:
            n += 1
            need(n < 5 * wanted, "only %d of %d were killed" % (kills, n))
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
        # A session token, and the most talkative log: nothing of it is printed.
        import urllib.request
        token = "token-0123456789-very-secret"
        account = {"access_key": "AKIATOKEN", "secret_key": "secret-of-the-token-0123", "session_token": token}
        urllib.request.urlopen(urllib.request.Request(s["control"] + "/accounts", json.dumps(account).encode(), method="POST"), timeout=20).read()
        t.secrets += [token.encode(), account["secret_key"].encode()]
        files = []
        for option, name in (("--s3-access-key-file", "access_key"), ("--s3-secret-key-file", "secret_key"), ("--s3-session-token-file", "session_token")):
            files += [option, t.write("tok/" + name, account[name], 0o600)]
        t.write("src/more", "more")
        t.kw("backup", *common, *files, "-vvv", src, env=dict(t.env, KEEPWATCH_LOG="trace"))
        # None at all, in words that help; and a file that everybody can read is refused.
        run = t.kw("snapshots", *common, rc=1, env=dict(t.env, AWS_EC2_METADATA_DISABLED="true"), timeout=200)
        need("credentials" in run.said, run)
        a, b = t.write("o/a", access, 0o600), t.write("o/s", secret, 0o644)
        run = t.kw("snapshots", *common, "--s3-access-key-file", a, "--s3-secret-key-file", b, rc=1)
        need("chmod 600" in run.said, run)


def test_credentials_of_roles(t):
    """The role of an instance, from its metadata service; and of a workload, for a web identity token. Both services are played here, as their documentation says."""
    import http.server, threading, urllib.parse, urllib.request
    secrets = {"access_key": "AKIAROLE", "secret_key": "secret-of-the-role-0123456789", "session_token": "session-of-the-role-0123456789"}
    later = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
    asked = []

    class Amazon(http.server.BaseHTTPRequestHandler):
        def answer(self, status, text):
            body = text.encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            # IMDSv2 wants its token's age back.
            self.send_header("x-aws-ec2-metadata-token-ttl-seconds", "21600")
            self.end_headers()
            self.wfile.write(body)

        def do_PUT(self):
            asked.append(("PUT", self.path))
            self.answer(200 if self.path == "/latest/api/token" else 404, "imds-token")

        def do_GET(self):
            asked.append(("GET", self.path))
            if self.headers.get("x-aws-ec2-metadata-token") != "imds-token":
                return self.answer(401, "")
            if self.path.rstrip("/") == "/latest/meta-data/iam/security-credentials":
                return self.answer(200, "backup-role")
            if self.path == "/latest/meta-data/iam/security-credentials/backup-role":
                return self.answer(200, json.dumps({"Code": "Success", "Type": "AWS-HMAC", "LastUpdated": "2026-01-01T00:00:00Z", "AccessKeyId": secrets["access_key"],
                                                    "SecretAccessKey": secrets["secret_key"], "Token": secrets["session_token"], "Expiration": later}))
            return self.answer(404, "")

        def do_POST(self):
            form = dict(urllib.parse.parse_qsl(self.rfile.read(int(self.headers["content-length"])).decode()))
            asked.append((form.get("Action"), form.get("WebIdentityToken")))
            self.answer(200, "<AssumeRoleWithWebIdentityResponse xmlns='https://sts.amazonaws.com/doc/2011-06-15/'><AssumeRoleWithWebIdentityResult><Credentials>"
                        "<AccessKeyId>%s</AccessKeyId><SecretAccessKey>%s</SecretAccessKey><SessionToken>%s</SessionToken><Expiration>%s</Expiration></Credentials>"
                        "</AssumeRoleWithWebIdentityResult><ResponseMetadata><RequestId>r</RequestId></ResponseMetadata></AssumeRoleWithWebIdentityResponse>"
                        % (secrets["access_key"], secrets["secret_key"], secrets["session_token"], later))

        def log_message(self, *_):
            pass

    amazon = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Amazon)
    threading.Thread(target=amazon.serve_forever, daemon=True).start()
    at = "http://127.0.0.1:%d" % amazon.server_address[1]
    with server(built(t)) as s:
        urllib.request.urlopen(urllib.request.Request(s["control"] + "/accounts", json.dumps(secrets).encode(), method="POST"), timeout=20).read()
        t.secrets += [secrets["secret_key"].encode(), secrets["session_token"].encode(), b"imds-token", b"web-identity-token"]
        common = ["--s3-endpoint", s["endpoint"], "--s3-region", s["region"], "--repo", "s3://%s/roles" % s["bucket"], "-vvv"]
        src = t.small_tree(files=3)
        instance = dict(t.env, AWS_EC2_METADATA_SERVICE_ENDPOINT=at, KEEPWATCH_LOG="trace")
        t.kw("init", *common, env=instance)
        t.kw("backup", *common, src, env=instance)
        need(("GET", "/latest/meta-data/iam/security-credentials/backup-role") in asked, asked)
        del asked[:]
        workload = dict(t.env, AWS_WEB_IDENTITY_TOKEN_FILE=t.write("token", "web-identity-token"), AWS_ROLE_ARN="arn:aws:iam::123456789012:role/backup",
                        AWS_ENDPOINT_URL_STS=at, AWS_EC2_METADATA_DISABLED="true", KEEPWATCH_LOG="trace")
        t.kw("restore", *common, "--target", t.path("out"), env=workload)
        need(asked and set(asked) == {("AssumeRoleWithWebIdentity", "web-identity-token")}, asked)
        need(tree(t.path("out") + src) == tree(src), "restored with the credentials of a role")
    amazon.shutdown()


def test_limit_of_the_line(t):
    with server(built(t)) as s:
        repo = place(t, s, "slow")
        src = t.path("src")
        t.write("src/noise", t.noise(3 << 20))
        t.kw("init", "--repo", repo)
        begun = time.monotonic()
        t.kw("backup", "--repo", repo + "&limit-upload=1M", src)
        need(time.monotonic() - begun > 2, "the limit was not kept")


# What IAM calls the operations of S3 (https://docs.aws.amazon.com/AmazonS3/latest/API/s3-access-permissions.html).
ACTION = {"PutObject": "s3:PutObject", "GetObject": "s3:GetObject", "HeadObject": "s3:GetObject", "ListObjectsV2": "s3:ListBucket", "DeleteObject": "s3:DeleteObject",
          "ListObjectVersions": "s3:ListBucketVersions", "PutObjectRetention": "s3:PutObjectRetention", "GetBucketVersioning": "s3:GetBucketVersioning",
          "GetObjectLockConfiguration": "s3:GetBucketObjectLockConfiguration"}


def test_policies(t):
    """Each verb asks only for what the policy of its role allows, and the writer's allows no destruction."""
    import urllib.request
    policies = {}
    for role in ("writer", "reader", "pruner"):
        with open(ROOT / "docs/s3" / (role + "-policy.json")) as f:
            policy = json.load(f)
        allowed, denied = set(), set()
        for statement in policy["Statement"]:
            (allowed if statement["Effect"] == "Allow" else denied).update(statement["Action"])
        need(not allowed & denied, role)
        policies[role] = allowed
    for action in ("s3:DeleteObject", "s3:DeleteObjectVersion", "s3:BypassGovernanceRetention"):
        need(action not in policies["writer"] and action not in policies["reader"], action)
    need("s3:PutObject" not in policies["reader"], "a reader does not write")
    with server(built(t), "--object-lock") as s:
        repo = place(t, s, "p")
        src = t.small_tree(files=6)

        def asked(method="GET", path="requests"):
            with urllib.request.urlopen(urllib.request.Request(s["control"] + "/" + path, method=method), timeout=20) as answer:
                return json.loads(answer.read() or b"null")

        def as_role(role, *words, finds_out=frozenset(), **more):
            asked("DELETE", "stats")
            run = t.kw(*words, "--repo", more.pop("repo", repo), **more)
            used = set()
            for r in asked():
                action = ACTION[r["operation"]]
                used.add("s3:GetObjectVersion" if action == "s3:GetObject" and "versionId" in r["query"] else action)
            need(used and used <= policies[role] | finds_out, "%s: %s needs %s" % (role, words[0], used - policies[role]))
            return run

        as_role("pruner", "init")
        as_role("writer", "backup", src)
        first = t.ids(repo)[0]
        t.write("src/a/new", t.noise(50_000))
        as_role("writer", "backup", src)
        for role in ("writer", "reader"):
            for words in (["snapshots"], ["ls", "latest"], ["find", "new"], ["diff", first, "latest"], ["stats"], ["key", "list"], ["verify", "--read-data"], ["dump", "latest", src + "/a/new"], ["restore", "--target", t.path("out-" + role)]):
                as_role(role, *words)
        # PostgreSQL's log: a segment made by hand.
        name, system = "000000010000000000000003", "7312345678901234567"
        page = struct.pack("=HHIQIIQII", 0xD110, 2, 1, 3 << 20, 0, 0, int(system), 1 << 20, 8192)
        for _ in range(2):
            as_role("writer", "wal", "push", t.write("pg_wal/" + name, page.ljust(1 << 20, b"\0")))
        as_role("writer", "wal", "verify")
        for rc, wanted in ((0, name), (1, "000000010000000000000004")):
            as_role("reader", "wal", "fetch", "--cluster", system, wanted, t.path("fetched"), rc=rc)
        as_role("writer", "verify", "--read-data")
        time.sleep(1.1)
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        time.sleep(1.1)
        as_role("writer", "forget", "--keep-last", "1")
        as_role("pruner", "prune", "--grace", "0", "--max-unused", "0%", repo=repo + "&object-lock=governance:1")
        as_role("reader", "snapshots", repo=repo + "&as-of=" + moment)
        as_role("reader", "restore", "--target", t.path("past"), repo=repo + "&as-of=" + moment)
        # What is rare: enrolling and dismissing readers and writers, repairing, replicating.
        # It tries what it may not, to say so.
        as_role("writer", "doctor", finds_out={"s3:GetBucketVersioning", "s3:GetBucketObjectLockConfiguration", "s3:DeleteObject"})
        other = t.kw("key", "generate", "--out", t.path("other-identity"), "--json", secret=True).json["recipient"]
        as_role("writer", "key", "add", "--recipient", other, "--name", "other")
        as_role("writer", "key", "writer", "--label", "other", "--out", t.path("other-writer"))
        as_role("pruner", "key", "remove", "other")
        as_role("pruner", "repair", "index")
        as_role("reader", "repair", "snapshots")
        there = place(t, s, "copy")
        t.kw("init", "--from", repo, "--repo", there)
        as_role("writer", "copy", "--from", repo, repo=there)
        as_role("pruner", "forget", "--keep-last", "1")


def test_custom_ca(t):
    """A server with a certificate of an authority of one's own: trusted only when that is named."""
    import socket, ssl, threading
    need_tools("openssl")
    key, cert = t.path("key.pem"), t.path("cert.pem")
    ca, ca_key, request = t.path("ca.pem"), t.path("ca.key"), t.path("req.pem")
    t.sh("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", ca_key, "-out", ca, "-days", "2", "-subj", "/CN=an authority")
    t.sh("openssl", "req", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", request, "-subj", "/CN=localhost")
    names = t.write("names", "subjectAltName=DNS:localhost\n")
    t.sh("openssl", "x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "2", "-out", cert, "-extfile", names)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    with server(built(t)) as s:
        upstream = ("127.0.0.1", int(s["endpoint"].rsplit(":", 1)[1]))
        listener = socket.create_server(("127.0.0.1", 0))

        def pump(a, b):
            try:
                while True:
                    data = a.recv(1 << 16)
                    if not data:
                        break
                    b.sendall(data)
            except OSError:
                pass
            for x in (a, b):
                with contextlib.suppress(OSError):
                    x.shutdown(socket.SHUT_RDWR)

        def serve():
            while True:
                try:
                    plain, _ = listener.accept()
                except OSError:
                    return
                try:
                    secure = context.wrap_socket(plain, server_side=True)
                except (OSError, ssl.SSLError):
                    continue
                there = socket.create_connection(upstream)
                for pair in ((secure, there), (there, secure)):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        at = dict(s, endpoint="https://localhost:%d" % listener.getsockname()[1])
        repo = place(t, at, "tls")
        run = t.kw("init", "--repo", repo, rc=1)
        need("certificate" in run.said, run)
        t.kw("init", "--repo", repo + "&ca-file=" + ca)
        src = t.small_tree(files=4)
        t.backup(repo + "&ca-file=" + ca, src)
        t.must_restore(repo + "&ca-file=" + ca, "latest", src, tree(src))
        bad = t.write("bad.pem", "not a certificate")
        run = t.kw("snapshots", "--repo", repo + "&ca-file=" + bad, rc=1)
        need("bad.pem" in run.said, run)
        listener.close()


def test_headers_and_an_odd_server(t):
    """Storage class, encryption by the server, requester pays: sent as asked. The server is thirty lines that know nothing of signatures, conditions and checksums."""
    import http.server, threading, urllib.parse
    objects, puts = {}, []

    class Odd(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def answer(self, status, body=b"", **headers):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def key(self):
            return urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).split("/", 2)[-1]

        def do_PUT(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            puts.append((self.key(), dict(self.headers.items())))
            objects[self.key()] = body
            self.answer(200, ETag='"x"')

        def do_HEAD(self):
            body = objects.get(self.key())
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()

        def do_GET(self):
            query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
            if "list-type" in query:
                found = sorted(k for k in objects if k.startswith(query["prefix"][0]))
                rows = "".join("<Contents><Key>%s</Key><Size>%d</Size><LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>" % (k, len(objects[k])) for k in found)
                xml = '<?xml version="1.0"?><ListBucketResult><IsTruncated>false</IsTruncated>%s</ListBucketResult>' % rows
                return self.answer(200, xml.encode(), Content_Type="application/xml")
            body = objects.get(self.key())
            if body is None:
                return self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            wanted = self.headers.get("Range")
            if wanted:
                first, last = wanted.split("=")[1].split("-")
                return self.answer(206, body[int(first):int(last) + 1])
            return self.answer(200, body)

    odd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Odd)
    threading.Thread(target=odd.serve_forever, daemon=True).start()
    s = {"bucket": "some-bucket", "endpoint": "http://127.0.0.1:%d" % odd.server_port, "region": "r", "access_key": "AKIA", "secret_key": "some-secret-0123456789"}
    repo = place(t, s, "x") + "&storage-class=STANDARD_IA&server-side-encryption=aws:kms:key-7&requester-pays=true&object-lock=compliance:30"
    t.kw("init", "--repo", repo)
    src = t.small_tree(files=5)
    t.backup(repo, src)
    t.must_restore(repo, "latest", src, tree(src))
    t.kw("verify", "--repo", repo, "--read-data")
    for key, headers in puts:
        headers = {k.lower(): v for k, v in headers.items()}
        need(headers["x-amz-server-side-encryption"] == "aws:kms" and headers["x-amz-server-side-encryption-aws-kms-key-id"] == "key-7", headers)
        need(headers["x-amz-request-payer"] == "requester" and headers["if-none-match"] == "*", headers)
        need(headers["x-amz-object-lock-mode"] == "COMPLIANCE" and headers["x-amz-object-lock-retain-until-date"] > "2026", headers)
        need((headers.get("x-amz-storage-class") == "STANDARD_IA") == ("/packs/" in key), (key, headers))
        need(len(headers["x-amz-content-sha256"]) == 64 and "x-amz-checksum-sha256" in headers, "the body's hash is signed: %s" % headers)
    need(any("/packs/" in key for key, _ in puts), "packs were written")
    odd.shutdown()

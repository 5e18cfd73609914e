"""The daemon and jobs against what leaks and what breaks on the way to people: canaries for every secret that the configuration knows,
looked for in everything that is written, said or seen in /proc; and sinks that refuse, hang and come back."""
import base64, contextlib, http.server, json, os, pathlib, shutil, signal, socket, sqlite3, ssl, struct, subprocess, threading, time, urllib.parse

from harness import need, need_tools
from topics.agent import Service, daemon, free_port, http_check, until

# Said when nobody expects it: what a web server in front of anything says about an address that it does not know.
NOT_FOUND = "<html><title>%d</title>The requested URL %s was not found on this server. You sent: %s</html>"


class Sink(Service):
    """Takes what is posted to it, in the way that it is told to: well, refusing, hanging, or closing the door. Keeps what it accepted and what it saw."""

    def __init__(self, how=200, echo=False):
        self.how, self.echo, self.accepted, self.tries, self.heads = how, echo, [], 0, []
        outer, self.over = self, threading.Event()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                head = self.path + "\n" + str(self.headers)
                outer.heads.append(head)
                outer.tries += 1
                # Qdrant says without a key that it is ready.
                how = 200 if self.path == "/readyz" else outer.how
                if how == "hang":
                    outer.over.wait(60)
                    self.close_connection = True
                    return
                if how == "reset":
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.close_connection = True
                    return
                text = '{"ok":true,"result":{"message_id":1}}' if how == 200 else '{"ok":false,"error_code":%d,"description":"no","parameters":{"retry_after":1}}' % how
                if outer.echo:
                    text = NOT_FOUND % (how, self.path, str(self.headers).replace("\n", " "))
                if how == 200:
                    outer.accepted.append((self.path, body.decode("utf-8", "replace")))
                self.send_response(how)
                if how in (429, 503):
                    self.send_header("Retry-After", "1")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        # Who hangs up on us is none of a test's business.
        self.server.handle_error = lambda *_: None
        self.port = self.server.server_address[1]
        self.url = "http://127.0.0.1:%d/" % self.port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.over.set()
        super().close()


class Lines:
    """A server that speaks in a function of its own, a thread for each connection; `heard` is all that was said to it."""

    def __init__(self, speak, tls=None):
        self.heard, self.repeats, self.socket = b"", False, socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]

        def serve(connection):
            with contextlib.suppress(OSError, struct.error, IndexError):
                connection.settimeout(10)
                if tls:
                    connection = tls.wrap_socket(connection, server_side=True)
                speak(self, connection)
            with contextlib.suppress(OSError):
                connection.close()

        def accept():
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=(self.socket.accept()[0],), daemon=True).start()
        threading.Thread(target=accept, daemon=True).start()

    def take(self, connection):
        data = connection.recv(65536)
        self.heard += data
        if not data:
            raise OSError("it is over")
        return data

    def close(self):
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


def postgresql(server, connection):
    """Asks for the password in the clear, and refuses it."""
    data = server.take(connection)
    while struct.unpack(">I", data[4:8])[0] in (80877103, 80877104):
        connection.sendall(b"N")
        data = server.take(connection)
    connection.sendall(b"R" + struct.pack(">II", 8, 3))
    server.take(connection)
    body = b"SFATAL\0VFATAL\0C28P01\0Mpassword authentication failed for user \"kw\"\0\0"
    connection.sendall(b"E" + struct.pack(">I", len(body) + 4) + body)


def mysql(server, connection):
    """Wants the password in the clear, where there is no TLS."""
    def packet(number, body):
        connection.sendall(struct.pack("<I", len(body))[:3] + bytes([number]) + body)
    packet(0, b"\x0a8.0.36\0" + struct.pack("<I", 7) + b"abcdefgh\0" + struct.pack("<H", 0xF7FF) + b"\x21" + struct.pack("<HH", 2, 0x81FF) + b"\x15" + b"\0" * 10 + b"ijklmnopqrst\0mysql_native_password\0")
    server.take(connection)
    packet(2, b"\xfemysql_clear_password\0")
    server.take(connection)
    packet(4, b"\xff" + struct.pack("<H", 1045) + b"#28000Access denied for user 'kw'")


def smtp(server, connection):
    """Takes a name and a password, and does not believe them."""
    connection.sendall(b"220 mail ESMTP\r\n")
    while True:
        said = server.take(connection).strip()
        line = said.upper()
        if line.startswith(b"EHLO"):
            connection.sendall(b"250-mail\r\n250-AUTH PLAIN LOGIN\r\n250 8BITMIME\r\n" if isinstance(connection, ssl.SSLSocket) else b"250-mail\r\n250 AUTH PLAIN LOGIN\r\n")
        elif line.startswith(b"AUTH"):
            connection.sendall(b"535 5.7.8 authentication failed\r\n" if not server.repeats else b'500 5.5.1 Command unrecognized: "' + said + b'"\r\n')
        elif line.startswith(b"QUIT"):
            connection.sendall(b"221 bye\r\n")
            return
        else:
            connection.sendall(b"503 not now\r\n")


def fields(cbor):
    """The values of a short CBOR map of numbers, texts and byte strings."""
    out, at = [], 1
    need(cbor[0] >> 5 == 5, "a map")
    while at < len(cbor):
        major, n, at = cbor[at] >> 5, cbor[at] & 31, at + 1
        if n in (24, 25):
            size = 1 << (n - 24)
            n, at = int.from_bytes(cbor[at:at + size], "big"), at + size
        if major in (2, 3):
            out.append(cbor[at:at + n])
            at += n
        else:
            out.append(n)
    return out[1::2]


class Canaries:
    """A secret for each kind, in a directory of its own, and the forms in which each could be seen."""

    def __init__(self, t):
        self.t, self.all, self.uses = t, {}, {}
        os.mkdir(t.path("secrets"), 0o700)

    def file(self, kind, text=None, value=None):
        """The file with the secret `value`, or one that is made up, within `text`."""
        if value is None:
            value = "C4n+%s/%s" % (kind.replace("_", ""), self.t.random.randbytes(12).hex())
        self.all[kind] = value
        self.t.secrets.append(value.encode())
        return self.t.write("secrets/" + kind, (text or "%s") % value + "\n", 0o600)

    def forms(self):
        """form -> kind."""
        out = {}
        for kind, value in self.all.items():
            raw = value if isinstance(value, bytes) else value.encode()
            quoted = urllib.parse.quote(raw, safe="").encode()
            found = [raw, raw.hex().encode(), raw.hex().upper().encode(), quoted, quoted.lower(), raw.replace(b"/", b"\\/")]
            for shift in range(3):
                # Whatever stands before and after it: the middle of its base64 is the same.
                middle = base64.b64encode(b"\0" * shift + raw)[(shift * 8 + 5) // 6 + 1:][:-4]
                found += [middle, middle.replace(b"+", b"-").replace(b"/", b"_")]
            out.update((form, kind) for form in found)
        return out

    def look(self, what, data):
        data = data.encode() if isinstance(data, str) else data
        for form, kind in self.forms().items():
            at = data.find(form)
            need(at < 0, "the secret '%s' stands in %s: %r" % (kind, what, data[max(0, at - 200):at + 200]))

    def look_everywhere(self):
        """All files beneath the scratch directory, but the secrets themselves."""
        for base, dirs, names in os.walk(self.t.dir):
            dirs[:] = [d for d in dirs if os.path.join(base, d) not in (self.t.path("secrets"), self.t.path("repo-disk"))]
            for name in names:
                path = pathlib.Path(base, name)
                if path.is_file() and not path.is_symlink():
                    self.look(str(path), path.read_bytes())


class Proc(threading.Thread):
    """Looks at command line and environment of a process and of all that descend from it, again and again."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.seen, self.looks, self.over = pid, set(), 0, threading.Event()

    def below(self, pid):
        out = [pid]
        with contextlib.suppress(OSError):
            for task in os.listdir("/proc/%d/task" % pid):
                with contextlib.suppress(OSError), open("/proc/%d/task/%s/children" % (pid, task)) as f:
                    for child in f.read().split():
                        out += self.below(int(child))
        return out

    def run(self):
        while not self.over.wait(0.01):
            self.looks += 1
            for pid in self.below(self.pid):
                for name in ("cmdline", "environ"):
                    with contextlib.suppress(OSError), open("/proc/%d/%s" % (pid, name), "rb") as f:
                        self.seen.add(f.read())

    def end(self):
        self.over.set()
        self.join()
        return self.seen


def tls(t):
    """A server's side, with a certificate of its own in tls.pem."""
    need_tools("openssl")
    t.sh("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", t.path("tls.key"), "-out", t.path("tls.pem"),
         "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(t.path("tls.pem"), t.path("tls.key"))
    return context


DUMP = 'cat /proc/self/environ /proc/self/cmdline > "$0.$$"; ls -l /proc/self/fd >> "$0.$$"; env >> "$0.$$"; exit %d'


def test_no_secret_anywhere(t):
    """Every secret that a configuration can name, with services that refuse each, at the level trace."""
    c, context = Canaries(t), tls(t)
    web, people, pg, my = Sink(401, echo=True), Sink(404, echo=True), Lines(postgresql), Lines(mysql)
    mail, mail_tls, s3 = Lines(smtp), Lines(smtp, context), Sink(403, echo=True)
    fast = 'interval = "1s"\ntimeout = "800ms"\nretry_interval = "1s"\nfailure_threshold = 1\n'
    check = lambda name, probe: "[checks.%s]\n%sprobe.%s\n" % (name, fast, probe)
    checks = check("bearer", 'http = { url = "%s", bearer_token_file = "%s" }' % (web.url, c.file("http_token")))
    checks += check("basic", 'http = { url = "%s", basic_user = "kw", password_file = "%s", body_matches = ["never"], json = [{ pointer = "/x", equals = "y" }] }' % (web.url, c.file("http_password")))
    checks += check("pg", 'postgresql = { target = "127.0.0.1:%d", user = "kw", password_file = "%s" }' % (pg.port, c.file("postgresql_password")))
    checks += check("my", 'mysql = { target = "127.0.0.1:%d", user = "kw", password_file = "%s" }' % (my.port, c.file("mysql_password")))
    checks += check("qdrant", 'qdrant = { url = "%s", api_key_file = "%s" }' % (web.url.rstrip("/"), c.file("qdrant_key")))
    # A command may not see what the daemon holds.
    checks += check("child", 'command = { argv = ["/bin/sh", "-c", %s, "%s"] }' % (json.dumps(DUMP % 1), t.path("child-of-serve")))
    hook_url = c.file("webhook_url", people.url + "hook?key=%s")
    dead_url = c.file("dead_man_url", people.url + "dead/%s")
    telegram = c.file("telegram_token", value="1234567:C4n-%s" % t.random.randbytes(16).hex())
    checks += """
[notifications]
default_receiver = "hook"
group_wait = "0s"
group_interval = "1s"
dead_man_switch = { url_file = "%s", interval = "10s" }
[notifications.receivers]
hook.webhook = { url_file = "%s", bearer_token_file = "%s" }
phone.telegram = { bot_token_file = "%s", chat_id = 42, api_url = "%s" }
push.ntfy = { base_url = "%s", topic = "t", token_file = "%s" }
manager.alertmanager = { urls = ["%s"], bearer_token_file = "%s" }
letter.email = { to = ["a@example.org"], from = "b@example.org", smarthost = "localhost:%d", username = "kw", password_file = "%s", tls = "starttls" }
sealed.email = { to = ["a@example.org"], from = "b@example.org", smarthost = "localhost:%d", username = "kw", password_file = "%s", tls = "implicit", ca_file = "%s" }
""" % (dead_url, hook_url, c.file("webhook_token"), telegram, people.url.rstrip("/"), people.url.rstrip("/"), c.file("ntfy_token"), people.url.rstrip("/"),
       c.file("alertmanager_token"), mail.port, c.file("mail_password"), mail_tls.port, c.file("mail_password_tls"), t.path("tls.pem"))
    for receiver in ("phone", "push", "manager", "letter", "sealed", "hook"):
        checks += '[[notifications.routes]]\nreceiver = "%s"\ncontinue_matching = true\n' % receiver
    # Repositories and jobs.
    t.kw("init", "--repo", t.path("repo-disk"), "--writer-key-out", t.path("secrets/writer"), "--identity-out", t.path("secrets/identity"))
    key = bytes.fromhex(pathlib.Path(t.path("secrets/writer")).read_text().split("KEY-1-")[1].split()[0])[:-4]
    _, _, _, owner, c.all["hash_secret"], c.all["host_identity"], _, c.all["signing_seed"] = fields(key)
    need(len(owner) == len(c.all["hash_secret"]) == len(c.all["signing_seed"]) == 32 and c.all["host_identity"].startswith(b"AGE-SECRET-KEY-1"), "the writer key is laid out as this test knows it")
    identity = next(line for line in pathlib.Path(t.path("secrets/identity")).read_text().splitlines() if line.startswith("AGE-SECRET-KEY"))
    c.all["identity"] = identity
    recipient = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
    checks += """
[repositories.disk]
backend.local = { path = "%s" }
recipients = ["%s"]
writer_key_file = "%s"
identity_file = "%s"
[repositories.far]
recipients = ["%s"]
writer_key_file = "%s"
[repositories.far.backend.s3]
bucket = "canaries"
endpoint = "%s"
access_key_id_file = "%s"
secret_access_key_file = "%s"
session_token_file = "%s"
[backups.files]
repositories = ["disk"]
retry = { attempts = 0 }
source.paths = { include = ["%s"] }
pre_hook = ["/bin/sh", "-c", %s, "%s"]
post_hook = ["/bin/sh", "-c", %s, "%s"]
[backups.dump]
repositories = ["disk"]
retry = { attempts = 0 }
source.command = { argv = ["/bin/sh", "-c", %s, "%s"], filename = "dump" }
[backups.away]
repositories = ["far"]
retry = { attempts = 0 }
source.paths = { include = ["%s"] }
""" % (t.path("repo-disk"), recipient, t.path("secrets/writer"), t.path("secrets/identity"), recipient, t.path("secrets/writer"), s3.url.rstrip("/"),
       c.file("s3_key_id", value="C4NAKIA%s" % t.random.randbytes(8).hex().upper()), c.file("s3_secret"), c.file("s3_session"), t.small_tree(),
       json.dumps(DUMP % 0), t.path("child-of-hook"), json.dumps(DUMP % 0), t.path("child-of-hook"), json.dumps(DUMP % 0), t.path("child-of-source"), t.path("src"))
    pages = []
    metrics = 'bearer_token_file = "%s"' % c.file("metrics_token")
    t.secrets += [v if isinstance(v, bytes) else v.encode() for v in c.all.values()]
    with daemon(t, checks, '[logging]\nlevel = "trace"\n', metrics, KEEPWATCH_LOG="trace", TMPDIR=t.path("tmp")) as d:
        proc = Proc(d.process.pid)
        proc.start()
        heads = lambda server: "\n".join(server.heads)
        auth = {"Authorization": "Bearer " + c.all["metrics_token"]}
        # Each was really used: else it would be no wonder that it is nowhere.
        until("http", lambda: "Bearer " + c.all["http_token"] in heads(web))
        until("qdrant", lambda: c.all["qdrant_key"] in heads(web))
        until("basic", lambda: base64.b64encode(("kw:" + c.all["http_password"]).encode()).decode() in heads(web))
        until("postgresql", lambda: c.all["postgresql_password"].encode() in pg.heard)
        until("people", lambda: all(c.all[k] in heads(people) for k in ("webhook_url", "webhook_token", "dead_man_url", "ntfy_token")) and "/bot" + c.all["telegram_token"] in urllib.parse.unquote(heads(people)))
        until("alertmanager", lambda: c.all["alertmanager_token"] in heads(people))
        until("mail", lambda: b"AUTH" in mail_tls.heard.upper().replace(b"250-AUTH", b"") and mail.heard)
        until("commands", lambda: any(n.startswith("child-of-serve") for n in os.listdir(t.dir)))
        need(c.all["mysql_password"].encode() not in my.heard, "a password of MySQL was sent in the clear")
        need(c.all["mail_password"].encode() not in mail.heard and b"AUTH" not in mail.heard.upper(), "a mail password was sent in the clear: %r" % mail.heard)
        # The catalog is away for a while: what then lies in the spool and in memory.json.
        other = sqlite3.connect(t.path("state/catalog.sqlite"), isolation_level=None, timeout=10)
        other.execute("BEGIN EXCLUSIVE")
        time.sleep(3)
        c.look_everywhere()
        other.execute("ROLLBACK")
        other.close()
        for path in ("/metrics", "/health", "/health/live", "/health/ready?verbose", "/health/startup", "/health/detailed", "/resources/status", "/restart/status", "/none?" + c.all["metrics_token"][:3]):
            for headers in ({}, auth, {"Authorization": "Bearer wrong"}):
                pages.append(("the answer of %s" % path, d.get(path, headers)[1]))
        for argv in (("status",), ("status", "--json"), ("history",), ("history", "--json", "--limit", "5000"), ("config", "show"), ("config", "show", "--json"), ("config", "check"), ("maintenance", "list")):
            run = d.kw(*argv, secret=True)
            pages.append((" ".join(argv), run.out + run.err))
        # A file with the wrong rights, or that is gone, or that is no text: the complaint does not quote it.
        t.write("secrets/http_token", b"\xff" + c.all["http_token"].encode() + b"\n", 0o600)
        time.sleep(1.5)
        d.process.send_signal(signal.SIGHUP)
        until("reloaded", lambda: "reloaded" in d.text())
        for job, codes in (("files", (0,)), ("dump", (0,)), ("away", (1,))):
            for words in ((), ("-vvv",)):
                process = t.start("backup", "--job", job, "--config", d.file, *words, env=dict(t.env, KEEPWATCH_LOG="trace"))
                watcher = Proc(process.pid)
                watcher.start()
                run = t.finish(process, rc=codes, secret=True)
                pages += [("the job %s" % job, run.out + run.err)] + [("/proc of the job %s" % job, seen) for seen in watcher.end()]
        need(c.all["s3_key_id"] in heads(s3) and c.all["s3_session"] in heads(s3), "the S3 server was asked: %s" % heads(s3)[:2000])
        for argv in (("history", "--json", "--limit", "5000"), ("status", "--json")):
            pages.append((" ".join(argv), d.kw(*argv, secret=True).out))
        d.kw("config", "check")
        seen = proc.end()
        need(proc.looks > 100 and len(seen) > 2, "nothing was looked at")
        pages += [("/proc of the daemon and its children", s) for s in seen]
        d.stop()
    need(any(n.startswith("child-of-hook") for n in os.listdir(t.dir)) and any(n.startswith("child-of-source") for n in os.listdir(t.dir)), "hooks and sources ran")
    for what, page in pages:
        c.look(what, page)
    c.look_everywhere()
    for server in (web, people, pg, my, mail, mail_tls, s3):
        server.close()


def test_children_hold_nothing(t):
    """A command check gets a minimal environment, and no file or socket of the daemon."""
    c = Canaries(t)
    t.write("credentials/metrics", "x" * 20 + "\n", 0o600)
    checks = '[checks.child]\ninterval = "1s"\ntimeout = "800ms"\nprobe.command = { argv = ["/bin/sh", "-c", %s, "%s"] }\n' % (json.dumps(DUMP % 0), t.path("dump"))
    with daemon(t, checks, "", 'bearer_token_file = "credential:metrics"', CREDENTIALS_DIRECTORY=t.path("credentials"), KEEPWATCH_SECRET_OF_MINE=c.all.setdefault("own", "C4n+own/0123456789abcdef"), AWS_SECRET_ACCESS_KEY=c.all["own"]) as d:
        until("it ran", lambda: [n for n in os.listdir(t.dir) if n.startswith("dump.")])
        time.sleep(0.3)
        d.stop()
    for name in os.listdir(t.dir):
        if name.startswith("dump."):
            text = pathlib.Path(t.path(name)).read_bytes().decode(errors="replace")
            c.look(name, text)
            for word in ("CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "INVOCATION_ID", "socket:[", "catalog.sqlite", "eventpoll"):
                need(word not in text, "a child of the daemon sees %s: %s" % (word, text))


def test_health_is_true(t):
    """A Redis that hangs, goes on, dies and comes back: each seen within two intervals, alive all the time, and a backup disturbs no answer."""
    need_tools("redis-server")
    port, processes = free_port(), []

    def start():
        processes.append(subprocess.Popen(["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", t.dir], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    t.repository("disk")
    t.write("big", t.noise(60 << 20))
    checks = """
[checks.redis]
interval = "1s"
timeout = "500ms"
retry_interval = "1s"
failure_threshold = 1
success_threshold = 1
severity = "critical"
probe.redis = { target = "127.0.0.1:%d" }
[repositories.disk]
backend.local = { path = "%s" }
recipients = ["age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"]
[backups.big]
retry = { attempts = 0 }
source.paths = { include = ["%s"] }
""" % (port, t.path("disk"), t.path("big"))
    start()
    try:
        with daemon(t, checks) as d:
            until("ready", lambda: d.get("/health/ready")[0] == 200)
            lives, over, slowest = [], threading.Event(), [0.0]

            def look():
                while not over.wait(0.02):
                    began = time.monotonic()
                    lives.append(d.get("/health/live")[0])
                    slowest[0] = max(slowest[0], time.monotonic() - began)
            watcher = threading.Thread(target=look, daemon=True)
            watcher.start()
            job = t.start("backup", "--job", "big", "--config", d.file)
            stop, go = (lambda: processes[-1].send_signal(signal.SIGSTOP)), (lambda: processes[-1].send_signal(signal.SIGCONT))
            for what, act, code in (("hangs", stop, 503), ("goes on", go, 200), ("hangs again", stop, 503), ("goes on again", go, 200), ("dies", lambda: processes[-1].kill(), 503), ("is back", start, 200)):
                began = time.monotonic()
                act()
                until("it %s" % what, lambda: d.get("/health/ready")[0] == code, 6)
                took = time.monotonic() - began
                # Two intervals, the deadline of a run, and the pause before an answer is made anew.
                need(took <= 2 + 0.5 + 0.7, "that it %s was seen after %.1f s" % (what, took))
            t.finish(job)
            over.set()
            watcher.join()
            need(len(lives) > 100 and set(lives) == {200}, "live: %s of %d" % (set(lives), len(lives)))
            need(slowest[0] < 1, "an answer took %.2f s" % slowest[0])
            d.stop()
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_redis_repeats_a_password(t):
    """A real Redis whose AUTH is renamed says `unknown command 'AUTH', with args beginning with: '…'`: with the password."""
    need_tools("redis-server")
    c, port = Canaries(t), free_port()
    server = subprocess.Popen(["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--rename-command", "AUTH", "", "--dir", t.dir],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        checks = '[checks.redis]\ninterval = "1s"\ntimeout = "800ms"\nretry_interval = "1s"\nfailure_threshold = 1\nprobe.redis = { target = "127.0.0.1:%d", password_file = "%s" }\n' % (port, c.file("redis_password"))
        with daemon(t, checks, '[logging]\nlevel = "trace"\n') as d:
            until("refused", lambda: "Redis answers" in d.text())
            pages = [d.get(p)[1] for p in ("/metrics", "/health/ready?verbose", "/health/detailed")] + [d.kw(v, secret=True).text for v in ("status", "history")]
            d.stop()
        for page in pages:
            c.look("an answer", page)
        c.look_everywhere()
    finally:
        server.kill()
        server.wait()


def test_servers_repeat_a_secret(t):
    """Whoever is asked says back what he was told, wherever he can: reason phrase, headers, body, error."""
    c = Canaries(t)

    def web(server, connection):
        data = server.take(connection)
        token = data.lower().split(b"authorization: ")[1].split(b"\r\n")[0]
        token = data[data.lower().find(token):][:len(token)]
        body = json.dumps({"token": token.decode(), "error": token.decode()}).encode()
        connection.sendall(b"HTTP/1.1 401 " + token + b"\r\nX-Echo: " + token + b"\r\nLocation: /?" + token + b"\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)

    def broken(server, connection):
        connection.sendall(server.take(connection))

    def database(server, connection):
        server.take(connection)
        connection.sendall(b"R" + struct.pack(">II", 8, 3))
        said = server.take(connection)[5:].rstrip(b"\0")
        body = b"SFATAL\0VFATAL\0C28P01\0Mthe password is not " + said + b"\0D" + said + b"\0\0"
        connection.sendall(b"E" + struct.pack(">I", len(body) + 4) + body)
    web, broken, database, mail = Lines(web), Lines(broken), Lines(database), Lines(smtp, tls(t))
    mail.repeats = True
    more = """[notifications]
default_receiver = "letter"
group_wait = "0s"
[notifications.receivers]
letter.email = { to = ["a@example.org"], from = "b@example.org", smarthost = "localhost:%d", username = "kw", password_file = "%s", tls = "implicit", ca_file = "%s" }
[logging]
level = "trace"
""" % (mail.port, c.file("mail"), t.path("tls.pem"))
    fast = 'interval = "1s"\ntimeout = "800ms"\nretry_interval = "1s"\nfailure_threshold = 1\n'
    probes = ['http = { url = "http://127.0.0.1:%d/", bearer_token_file = "%s", body_matches = ["never"] }' % (web.port, c.file("body")),
              'http = { url = "http://127.0.0.1:%d/", bearer_token_file = "%s", status = ["401"], header_matches = { "x-echo" = "never" } }' % (web.port, c.file("header")),
              'http = { url = "http://127.0.0.1:%d/", bearer_token_file = "%s", status = ["401"], json = [{ pointer = "/token", equals = "x" }] }' % (web.port, c.file("pointer")),
              'http = { url = "http://127.0.0.1:%d/", bearer_token_file = "%s" }' % (broken.port, c.file("garbage")),
              'qdrant = { url = "http://127.0.0.1:%d", api_key_file = "%s" }' % (broken.port, c.file("qdrant_garbage")),
              'redis = { target = "127.0.0.1:%d", password_file = "%s" }' % (broken.port, c.file("redis_garbage")),
              'postgresql = { target = "127.0.0.1:%d", user = "kw", password_file = "%s" }' % (database.port, c.file("postgresql_error"))]
    checks = "".join("[checks.c%d]\n%sprobe.%s\n" % (n, fast, probe) for n, probe in enumerate(probes))
    with daemon(t, checks, more) as d:
        down = lambda: [n for n in range(len(probes)) if "an incident of check c%d begins" % n in d.text()]
        until("all are down", lambda: len(down()) == len(probes))
        until("mail was tried", lambda: "cannot deliver" in d.text())
        pages = [d.get(p)[1] for p in ("/metrics", "/health/ready?verbose", "/health/detailed")] + [d.kw(v, secret=True).text for v in ("status", "history")]
        d.stop()
    leaks = []
    for what, page in [("what is said", p.encode()) for p in pages] + [("the log", d.text().encode())] + [(n, pathlib.Path(t.path("state", n)).read_bytes()) for n in os.listdir(t.path("state"))]:
        for form, kind in c.forms().items():
            if form in page:
                leaks.append((kind, what, page[max(0, page.find(form) - 100):page.find(form) + 20]))
    need(not leaks, "secrets that a server repeated: %s" % sorted({k for k, _, _ in leaks}) + "\n" + "\n".join(map(str, leaks[:12])))
    for server in (web, broken, database, mail):
        server.close()


def sinks(t, servers):
    """Receivers of all kinds, each at its own server, and routes to all of them."""
    url = lambda name: t.write("url-" + name, servers[name].url + name + "\n", 0o600)
    token = t.write("bot", "1:abc\n", 0o600)
    text = "[notifications.receivers]\n"
    for name, server in servers.items():
        if name.startswith("hook"):
            text += '%s.webhook = { url_file = "%s" }\n' % (name, url(name))
        elif name == "telegram":
            text += '%s.telegram = { bot_token_file = "%s", chat_id = 42, api_url = "%s" }\n' % (name, token, server.url.rstrip("/"))
        elif name == "ntfy":
            text += '%s.ntfy = { base_url = "%s", topic = "t" }\n' % (name, server.url.rstrip("/"))
    return text + "".join('[[notifications.routes]]\nreceiver = "%s"\ncontinue_matching = true\n' % name for name in servers)


NOTIFY = """
[notifications]
group_wait = "0s"
group_interval = "1s"
"""


def test_sinks_that_fail(t):
    """429, 500, no answer, a closed door; the daemon is restarted meanwhile, once in good order and once by SIGKILL; then they recover."""
    service = Service()
    servers = {"hook429": Sink(429), "hook500": Sink(500), "hookhang": Sink("hang"), "hookreset": Sink("reset"), "telegram": Sink(429), "ntfy": Sink(503)}
    more = NOTIFY + sinks(t, servers)
    # A word that is only in messages about this check, whatever the form.
    told = lambda name, over: [b for _, b in servers[name].accepted if "web" in b and (("resolved" in b.lower()) == over)]
    with daemon(t, http_check("web", service), more) as d:
        until("ready", lambda: d.get("/health/ready")[0] == 200)
        service.code = 500
        until("all were tried", lambda: all(s.tries for s in servers.values()), 15)
        d.stop()
    tries = {n: s.tries for n, s in servers.items()}
    need(max(tries.values()) <= 4, "tried without a pause: %s" % tries)
    with daemon(t, http_check("web", service), more) as d:
        until("all were tried again", lambda: all(s.tries > tries[n] for n, s in servers.items()), 25)
        d.process.kill()
        d.process.wait()
    for s in servers.values():
        s.how = 200
    with daemon(t, http_check("web", service), more) as d:
        until("all know", lambda: all(told(n, False) for n in servers), 40)
        time.sleep(3)
        need(all(len(told(n, False)) == 1 for n in servers), "not once: %s" % {n: s.accepted for n, s in servers.items()})
        need(not any(told(n, True) for n in servers), "over, but it is not: %s" % {n: s.accepted for n, s in servers.items()})
        d.stop()
    # What was told is not told again, and that it is over is told once, also across a restart.
    with daemon(t, http_check("web", service), more) as d:
        until("known", lambda: d.metric('keepwatch_check_up{check="web",kind="http"}') == 0.0)
        service.code = 200
        until("all know that it is over", lambda: all(told(n, True) for n in servers), 25)
        time.sleep(2)
        d.stop()
    need(all(len(told(n, False)) == 1 and len(told(n, True)) == 1 for n in servers), "not once: %s" % {n: s.accepted for n, s in servers.items()})
    for server in list(servers.values()) + [service]:
        server.close()


def test_killed_after_telling(t):
    """The daemon is killed at once after a message was accepted."""
    service, sink = Service(), Sink()
    more = NOTIFY + sinks(t, {"hook": sink})
    firing = lambda: [b for _, b in sink.accepted if "KeepwatchCheckDown" in b and '"status":"firing"' in b.replace(" ", "")]
    with daemon(t, http_check("web", service), more) as d:
        until("ready", lambda: d.get("/health/ready")[0] == 200)
        service.code = 500
        until("told", firing)
        d.process.kill()
        d.process.wait()
    with daemon(t, http_check("web", service), more) as d:
        until("known", lambda: d.metric('keepwatch_check_up{check="web",kind="http"}') == 0.0)
        time.sleep(4)
        need(len(firing()) <= 2, "told %d times after one crash" % len(firing()))
        d.stop()
    service.close()
    sink.close()


def test_many_failures(t):
    """Forty services fail at once: with groups one message or two; without, no more than may be in an hour, and one that says so."""
    service, grouped, single = Service(), Sink(), Sink()
    checks = "".join(http_check("web%d" % n, service).replace("critical", "warning") for n in range(40))
    for name, sink, words in (("grouped", grouped, ""), ("single", single, 'group_by = ["check"]\nmax_per_hour = 5\n')):
        service.code = 200
        more = NOTIFY + words + sinks(t, {"hook": sink})
        with daemon(t, checks, more) as d:
            until("all are up", lambda: all(d.metric('keepwatch_check_up{check="web%d",kind="http"}' % n) == 1.0 for n in range(40)))
            service.code = 500
            until("all are down", lambda: all(d.metric('keepwatch_check_up{check="web%d",kind="http"}' % n) == 0.0 for n in range(40)), 25)
            until("told", lambda: sink.accepted)
            time.sleep(4)
            d.stop()
        shutil.rmtree(t.path("state"))
    need(len(grouped.accepted) <= 6, "%d messages for one outage" % len(grouped.accepted))
    need(all(any('"web%d"' % n in b for _, b in grouped.accepted) or any("web%d" % n in b for _, b in grouped.accepted) for n in range(40)), "each is named")
    need(2 <= len(single.accepted) <= 6, "%d messages, 5 and one were allowed: %s" % (len(single.accepted), [b[:200] for _, b in single.accepted]))
    held = [b for _, b in single.accepted if '"kind":"held"' in b.replace(" ", "")]
    need(len(held) == 1 and "further ones are held back" in held[0], "one says that further ones are held back: %s" % held)
    for server in (service, grouped, single):
        server.close()


def memory(d):
    """MiB of the daemon that are in memory: now, and at most so far."""
    with open("/proc/%d/status" % d.process.pid) as f:
        lines = dict(line.split(":", 1) for line in f)
    return [int(lines[key].split()[0]) / 1024 for key in ("VmRSS", "VmHWM")]


def test_slow_readers(t):
    """E1: 260 connections from as many addresses ask for page after page and take nothing: Prometheus and the probes get their answers, the
    daemon does not grow."""
    checks = "".join('[checks.check-with-a-usual-name-%d]\ninterval = "10m"\nprobe.tcp.target = "127.0.0.1:%d"\n' % (n, free_port()) for n in range(120))
    with daemon(t, checks) as d:
        until("a long page", lambda: len(d.get("/metrics")[1]) > 200_000)
        before, _ = memory(d)
        ask = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 25
        times, slow, last = {"/metrics": [], "/health/live": []}, [], 0

        def attack(count):
            nonlocal last
            for _ in range(count):
                last += 1
                connection = socket.socket()
                connection.bind(("127.0.%d.%d" % (1 + last // 200, 1 + last % 200), 0))
                connection.connect(("127.0.0.1", d.port))
                with contextlib.suppress(OSError):
                    connection.sendall(ask)
                slow.append(connection)
        attack(260)
        began = time.monotonic()
        while time.monotonic() - began < 5:
            for path, most in times.items():
                since = time.monotonic()
                status, body = d.get(path)
                took = time.monotonic() - since
                need(status == 200 and len(body) > (200_000 if path == "/metrics" else 50), (path, status, len(body), took, time.monotonic() - began))
                most.append(took)
            # As many come back as were sent away.
            for connection in slow[:5]:
                connection.close()
            del slow[:5]
            attack(5)
            time.sleep(0.05)
        for path, taken in times.items():
            taken.sort()
            need(taken[-1] < 2 and taken[len(taken) // 2] < 0.25, (path, taken))
        now, most = memory(d)
        need(most - before <= 32 and now - before <= 32, "it grew from %.1f MiB to %.1f MiB, at most %.1f MiB" % (before, now, most))
        for connection in slow:
            connection.close()
        need(d.metric('keepwatch_http_connections_refused_total{reason="pushed_out"}'), "slow readers gave up their seats")
        d.stop()


def test_strangers_need_the_token(t):
    """On an address that others can reach nothing that names a service is told without the token; on loopback Prometheus needs none."""
    t.secrets.append(b"0123456789abcdef-token")
    token = t.write("token", "0123456789abcdef-token\n", 0o600)
    service = Service()
    auth = {"Authorization": "Bearer 0123456789abcdef-token"}
    for address in ("0.0.0.0", "127.0.0.1"):
        with daemon(t, http_check("shop", service), "", 'bearer_token_file = "%s"\nlisten_address = "%s"' % (token, address)) as d:
            until("it ran", lambda: d.get("/health/ready", auth)[0] == 200)
            for headers in ({}, {"Authorization": "Bearer wrong"}):
                for path in ("/health/detailed", "/resources/status", "/restart/status"):
                    status, body = d.get(path, headers)
                    need(status == 401 and "shop" not in body, (address, path, status, body))
                status, page = d.get("/metrics", headers)
                need((status, "shop" in page) == ((401, False) if address == "0.0.0.0" else (200, True)), (address, status, page[:200]))
                for path in ("/health", "/health/live", "/health/ready", "/health/ready?verbose", "/health/startup"):
                    status, body = d.get(path, headers)
                    need(status == 200 and ("shop" not in body or address == "127.0.0.1"), (address, path, status, body))
            for path in ("/metrics", "/health/detailed", "/health/ready"):
                status, body = d.get(path, auth)
                need(status == 200 and "shop" in body, (address, path, status, body))
            d.stop()
    service.close()

"""What the tests of alerts and dashboards share: Prometheus and Alertmanager from packages, a Telegram that plays the API, an SMTP sink, a dead-man
switch, and the rules and configuration of this repository with short times."""
import contextlib, html.parser, http.client, http.server, json, os, pathlib, re, shutil, socket, socketserver, subprocess, threading, time, urllib.error, urllib.parse, urllib.request

from harness import Skip, free_port, need, until

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TOKEN = "123456:token-of-the-test"


def tool(*names):
    for name in names:
        if shutil.which(name):
            return shutil.which(name)
    raise Skip("needs the command %s (Debian: prometheus, prometheus-alertmanager)" % names[0])


class Web:
    """A small HTTP server; `answer` is a function of (method, path, body) to (code, body)."""

    def __init__(self, answer, port=0, context=None):
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def reply(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                code, text = answer(self.command, self.path, body)
                text = text.encode() if isinstance(text, str) else text
                self.send_response(code)
                self.send_header("Content-Length", str(len(text)))
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(text)

            do_GET = do_POST = do_HEAD = reply

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        # Whoever asks may go away before the answer.
        self.server.handle_error = lambda *_: None
        if context:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class Tags(html.parser.HTMLParser):
    """What Telegram minds in a text with parse_mode HTML."""
    KNOWN = {"b", "strong", "i", "em", "u", "ins", "s", "strike", "del", "a", "code", "pre", "span", "blockquote"}

    def __init__(self):
        super().__init__()
        self.open, self.why, self.text = [], None, ""

    def handle_starttag(self, tag, attrs):
        if tag not in self.KNOWN:
            self.why = "Unsupported start tag \"%s\"" % tag
        self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.why = "Unexpected end tag"

    def handle_data(self, data):
        self.text += data


class Telegram:
    """The one method of Telegram's API that matters here, as strict as the real one about text and markup."""

    def __init__(self):
        self.seen, self.refused = [], []
        self.web = Web(self.answer)
        self.url = "http://127.0.0.1:%d" % self.web.port

    def answer(self, method, path, body):
        def refuse(code, why):
            self.refused.append((path, why, body))
            return code, json.dumps({"ok": False, "error_code": code, "description": why})
        if path != "/bot%s/sendMessage" % TOKEN:
            return refuse(404, "Not Found")
        try:
            given = json.loads(body)
        except ValueError:
            given = dict(urllib.parse.parse_qsl(body.decode()))
        text = given.get("text", "")
        tags = Tags()
        tags.feed(text)
        tags.close()
        if given.get("parse_mode") != "HTML" or tags.why or tags.open:
            return refuse(400, "Bad Request: can't parse entities: %s" % (tags.why or tags.open))
        if not tags.text.strip():
            return refuse(400, "Bad Request: message text is empty")
        if len(tags.text.encode("utf-16-le")) // 2 > 4096:
            return refuse(400, "Bad Request: message is too long")
        self.seen.append({"at": time.monotonic(), "text": tags.text, "raw": text, "silent": bool(given.get("disable_notification")), "chat": str(given.get("chat_id"))})
        chat = {"id": int(given["chat_id"]), "type": "group", "title": "t"}
        return 200, json.dumps({"ok": True, "result": {"message_id": len(self.seen), "date": int(time.time()), "chat": chat, "text": tags.text}})

    def about(self, *words):
        return [m for m in self.seen if all(w in m["text"] for w in words)]


class Smtp:
    """Takes every mail, as a server on the same host does."""

    def __init__(self):
        self.seen = []
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                say = lambda line: self.wfile.write(line + b"\r\n")
                say(b"220 sink ESMTP")
                while True:
                    line = self.rfile.readline()
                    verb = line[:4].upper().strip()
                    if not line or verb == b"QUIT":
                        return say(b"221 bye") if line else None
                    if verb == b"EHLO":
                        say(b"250-sink")
                        say(b"250 8BITMIME")
                    elif verb == b"DATA":
                        say(b"354 go on")
                        data = b""
                        while not data.endswith(b"\r\n.\r\n"):
                            more = self.rfile.readline()
                            if not more:
                                return None
                            data += more
                        import email, email.policy
                        outer.seen.append(email.message_from_bytes(data[:-5].replace(b"\r\n..", b"\r\n."), policy=email.policy.default))
                        say(b"250 taken")
                    elif verb in (b"MAIL", b"RCPT", b"RSET", b"NOOP", b"HELO"):
                        say(b"250 ok")
                    else:
                        say(b"502 no")

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = daemon_threads = True

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def about(self, *words):
        return [m for m in self.seen if all(w in str(m["Subject"]) for w in words)]


class DeadMan:
    """The switch outside: overdue when nothing came for a while."""

    def __init__(self, patience):
        self.patience, self.times, self.bodies = patience, [], []
        self.web = Web(self.answer)
        self.url = "http://127.0.0.1:%d/ping/secret" % self.web.port

    def answer(self, method, path, body):
        self.times.append(time.monotonic())
        self.bodies.append(body)
        return 200, "OK"

    def overdue(self):
        return not self.times or time.monotonic() - self.times[-1] > self.patience


class Program:
    """A server in a process of its own."""

    def __init__(self, t, name, argv):
        self.t, self.name, self.argv, self.log, self.process = t, name, argv, t.path(name + ".log"), None

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.t.dir, env={**self.t.env, "GOMAXPROCS": "1"})
        return self

    def stop(self, kill=False):
        if self.process and self.process.poll() is None:
            self.process.kill() if kill else self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None

    def text(self):
        with open(self.log, errors="replace") as f:
            return f.read()


def ask(port, path, **query):
    url = "http://127.0.0.1:%d%s" % (port, path) + ("?" + urllib.parse.urlencode(query, doseq=True) if query else "")
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as e:
        # While it starts it says so in plain text.
        body = e.read()
        return json.loads(body) if body.startswith(b"{") else {"status": body.decode("utf-8", "replace"), "uptime": None}


class Prometheus(Program):
    """With the rules of this repository; the alerts in `hurry` wait for two seconds instead of minutes, and groups are evaluated often."""

    def __init__(self, t, targets, alertmanager=None, hurry=()):
        rules = t.path("rules")
        os.makedirs(rules)
        for f in sorted((ROOT / "alerts").glob("*.yml")):
            text = f.read_text()
            text = re.sub(r"(?m)^( +interval:) .*$", r"\1 5s", text)
            for name in hurry:
                text = re.sub(r"(- alert: %s\n(?:(?! +- alert:).*\n)*? +for:) .*" % name, r"\1 2s", text)
            pathlib.Path(rules, f.name).write_text(text)
        managers = "alerting: { alertmanagers: [ { static_configs: [ { targets: ['127.0.0.1:%d'] } ] } ] }\n" % alertmanager if alertmanager else ""
        jobs = "".join("""  - job_name: %s
    static_configs:
      - targets: ['127.0.0.1:%d']
        labels: { instance: %s }
""" % target for target in targets)
        config = t.write("prometheus.yml", """
global: { scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }
rule_files: ['%s/*.yml']
%sscrape_configs:
%s""" % (rules, managers, jobs))
        self.port = free_port()
        super().__init__(t, "prometheus", [
            tool("prometheus"), "--config.file=" + config, "--storage.tsdb.path=" + t.path("tsdb"), "--web.listen-address=127.0.0.1:%d" % self.port,
            "--rules.alert.resend-delay=1s", "--log.level=warn"])

    def start(self):
        super().start()
        until("Prometheus answers", lambda: ask(self.port, "/api/v1/status/buildinfo")["status"] == "success")
        return self

    def query(self, expr):
        answer = ask(self.port, "/api/v1/query", query=expr)
        need(answer["status"] == "success", (expr, answer))
        return answer["data"]["result"]

    def firing(self):
        return sorted(a["metric"]["alertname"] for a in self.query('ALERTS{alertstate="firing"}'))


class Alertmanager(Program):
    """With the example of this repository: names of servers and files are put in, and times made short."""

    def __init__(self, t, telegram, smtp, dead_man, webhook):
        place = t.path("alertmanager")
        shutil.copytree(ROOT / "alerts/alertmanager", place)
        binary = os.environ.get("KEEPWATCH_ALERTMANAGER") or tool("prometheus-alertmanager", "alertmanager")
        version = subprocess.run([binary, "--version"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout
        found = re.search(r"version (\d+)\.(\d+)", version)
        files = found and tuple(map(int, found.groups())) >= (0, 26)
        text = pathlib.Path(place, "alertmanager.yml").read_text()

        def put(pattern, new, least=1):
            nonlocal text
            text, n = re.subn(pattern, new, text, flags=re.M)
            need(n >= least, "the example has no %s" % pattern)
        put(r"smtp_smarthost: .*", "smtp_smarthost: 127.0.0.1:%d" % smtp.port)
        put(r"^  smtp_auth_.*\n", "", 2)
        put("smtp_require_tls: true", "smtp_require_tls: false")
        put(r"^( +)chat_id: .*", r"\1chat_id: -1001234567890\n\1api_url: %s" % telegram.url, 2)
        ntfy = webhook + "/ntfy?" + (ROOT / "alerts/alertmanager/ntfy-url.txt").read_text().strip().partition("?")[2]
        secrets = {"telegram-token": TOKEN, "dead-man-url": dead_man.url, "webhook-url": webhook, "ntfy-url": ntfy, "ntfy-token": "tk"}
        for name, value in secrets.items():
            path = t.write("secrets/" + name, value)
            inline = {"telegram-token": ("bot_token_file", "bot_token"), "ntfy-token": ("credentials_file", "credentials")}.get(name, ("url_file", "url"))
            if files:
                put(r"/etc/alertmanager/secrets/%s\b" % name, path)
            else:
                put(r"%s: /etc/alertmanager/secrets/%s\b" % (inline[0], name), "%s: '%s'" % (inline[1], value))
        put(r"group_wait: .*", "group_wait: 2s")
        put(r"group_interval: .*", "group_interval: 2s")
        # The watchdog comes every 3 seconds; all else is told once in these tests.
        put(r"repeat_interval: 5m", "repeat_interval: 3s")
        put(r"group_wait: 2s\n      group_interval: 2s\n      repeat_interval: 3s", "group_wait: 0s\n      group_interval: 1s\n      repeat_interval: 3s")
        config = pathlib.Path(place, "alertmanager.yml")
        config.write_text(text)
        self.port = free_port()
        super().__init__(t, "alertmanager-program", [
            binary, "--config.file=%s" % config, "--storage.path=" + t.path("am-data"), "--web.listen-address=127.0.0.1:%d" % self.port, "--cluster.listen-address=", "--log.level=info"])

    def start(self):
        super().start()

        def answers():
            need(self.process.poll() is None, "Alertmanager ended: " + self.text()[-3000:])
            return ask(self.port, "/api/v2/status")["uptime"]
        until("Alertmanager answers", answers)
        return self


@contextlib.contextmanager
def running(*programs):
    try:
        yield
    finally:
        for p in programs:
            p.stop(kill=True)

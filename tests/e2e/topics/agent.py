"""The daemon as its unit runs it: checks, endpoint, reload, stop, memory, control socket, messages. No systemd is needed."""
import contextlib, http.client, http.server, json, os, pathlib, re, signal, socket, sqlite3, subprocess, threading, time

from harness import Skip, free_port, need, need_root, until
from topics.errors import mounted

CANARY = "c4n4ry-0f-a-t0k3n-that-must-not-be-seen"


class Service:
    """A small server that is well or not, and keeps what it was sent."""

    def __init__(self):
        self.code, self.seen, self.asked = 200, [], 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.asked += 1
                self.send_response(outer.code)
                self.end_headers()

            def do_POST(self):
                outer.seen.append(self.rfile.read(int(self.headers.get("Content-Length", 0))).decode())
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = "http://127.0.0.1:%d/" % self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class Daemon:
    """`keepwatch serve` with its configuration, its log and a socket that takes what it tells systemd."""

    def __init__(self, t, checks, more="", metrics=""):
        self.t, self.port, self.more = t, free_port(), more
        self.metrics_more, self.process, self.log = metrics, None, t.path("serve.log")
        self.told, self.notify = [], None
        self.configure(checks)

    def configure(self, checks, more=None):
        if more is not None:
            self.more = more
        self.file = self.t.write("config.toml", """
host = "h"
state_directory = "%s"
cache_directory = "%s"
[health]
drain = "500ms"
startup_deadline = "5s"
[metrics]
port = %d
%s
%s
%s
""" % (self.t.path("state"), self.t.path("cache"), self.port, self.metrics_more, checks, self.more))

    def start(self, wait=True, **env):
        address = "\0keepwatch-e2e-%d-%d" % (os.getpid(), self.port)
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(address)
        self.notify.settimeout(0.05)
        environment = dict(self.t.env, NOTIFY_SOCKET="@" + address[1:], **env)
        self.log_file = open(self.log, "ab")
        self.process = self.t.start("serve", "--config", self.file, env=environment, stdout=subprocess.DEVNULL, stderr=self.log_file)
        if wait:
            until("ready", lambda: self.said("READY=1"))
            until("live", lambda: self.get("/health/live")[0] == 200)
        return self

    def said(self, word):
        """Whether systemd was told this, ever."""
        with contextlib.suppress(OSError):
            while True:
                self.told.append(self.notify.recv(4096).decode())
        need(self.process.poll() is None or word.startswith("STOPPING"), "it ended with %s: %s" % (self.process.poll(), self.text()[-3000:]))
        return any(word in text for text in self.told)

    def get(self, path, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path, headers=headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def metric(self, line):
        """The value of a series, by how its line begins; none when there is no such line."""
        for text in self.get("/metrics")[1].splitlines():
            if text.startswith(line + " ") or text.startswith(line + "{"):
                return float(text.rsplit(" ", 1)[1])
        return None

    def text(self):
        with open(self.log, "r", errors="replace") as f:
            return f.read()

    def stop(self, how=signal.SIGTERM, rc=0, seconds=10):
        began = time.monotonic()
        self.process.send_signal(how)
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError("it did not stop within %d s: %s" % (seconds, self.text()[-2000:]))
        finally:
            self.log_file.close()
            with contextlib.suppress(OSError):
                self.notify.close()
        need(rc is None or code == rc, "expected exit %s, was %s: %s" % (rc, code, self.text()[-3000:]))
        need("panicked" not in self.text() and "mistake in Keepwatch" not in self.text(), self.text()[-3000:])
        return time.monotonic() - began

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def kw(self, *args, **more):
        return self.t.kw(*args, "--config", self.file, **more)


def http_check(name, service, more=""):
    return """
[checks.%s]
interval = "1s"
timeout = "500ms"
retry_interval = "1s"
failure_threshold = 2
success_threshold = 1
severity = "critical"
probe.http = { url = "%s" }
%s
""" % (name, service.url, more)


@contextlib.contextmanager
def daemon(t, checks, more="", metrics="", **env):
    d = Daemon(t, checks, more, metrics).start(**env)
    try:
        yield d
    finally:
        d.kill()


def test_a_service_goes_down_and_comes_back(t):
    service = Service()
    with daemon(t, http_check("web", service)) as d:
        until("startup", lambda: d.get("/health/startup")[0] == 200)
        until("ready", lambda: d.get("/health/ready")[0] == 200)
        need(d.get("/health")[0] == 200, "the flat form")
        need(d.metric('keepwatch_check_up{check="web",kind="http"}') == 1.0, d.get("/metrics")[1])
        service.code = 500
        until("not ready", lambda: d.get("/health/ready")[0] == 503, seconds=8)
        for _ in range(20):
            need(d.get("/health/live")[0] == 200, "live is about the agent, not about what it watches")
        need(d.metric('keepwatch_check_up{check="web",kind="http"}') == 0.0, "up")
        need(d.metric('keepwatch_check_failures_total{check="web",kind="http",reason="status"}') >= 2.0, "failures")
        incidents = lambda: [e for e in t.js("history", "--only", "incidents", "--config", d.file, rc=(0, 4))["entries"]]
        opened = until("an incident", incidents)
        need(len(opened) == 1 and opened[0]["subject"] == "web" and "closed" not in opened[0], opened)
        table = d.kw("status").text
        need("web" in table and "unhealthy" in table and "OPEN INCIDENT" in table, table)
        service.code = 200
        until("ready again", lambda: d.get("/health/ready")[0] == 200, seconds=8)
        until("closed", lambda: "closed" in incidents()[0])
        changes = t.js("history", "web", "--only", "changes", "--config", d.file)["entries"]
        need([c["to"] for c in changes][:2] == ["healthy", "unhealthy"], changes)
        need(d.kw("history", "nobody", rc=4).code == 4, "nothing fits")
        d.stop()
    log = d.text()
    for line in log.splitlines():
        need("message" in json.loads(line), "JSON lines where there is neither journal nor terminal: %r" % line)
    need(re.search(r'"message_id":"[0-9a-f]{32}"', log), "events have ids")
    service.close()


def test_reload(t):
    one = Service()
    with daemon(t, http_check("one", one)) as d:
        until("a first run", lambda: d.metric('keepwatch_check_runs_total{check="one",kind="http"}'))
        need(d.metric("keepwatch_config_last_reload_successful") == 1.0, "as it started")
        d.t.write("config.toml", "host = \"h\"\n[checks.one]\nintervall = 3\n")
        d.told.clear()
        d.process.send_signal(signal.SIGHUP)
        until("told", lambda: d.said("RELOADING=1") and d.said("READY=1"))
        need("MONOTONIC_USEC=" in "".join(d.told), d.told)
        until("seen", lambda: d.metric("keepwatch_config_last_reload_successful") == 0.0)
        before = d.metric('keepwatch_check_runs_total{check="one",kind="http"}')
        until("the former one goes on", lambda: d.metric('keepwatch_check_runs_total{check="one",kind="http"}') > before)
        need("intervall" in d.text() and "config.toml:3" in d.text(), "the fault is named with its place")
        d.configure(http_check("two", one) + "[logging]\nformat = \"json\"\n")
        d.process.send_signal(signal.SIGHUP)
        until("the new one", lambda: d.metric('keepwatch_check_up{check="two",kind="http"}') == 1.0)
        need(d.metric("keepwatch_config_last_reload_successful") == 1.0, "well again")
        need('check="one"' not in d.get("/metrics")[1], "series vanish with their check")
        need("'logging.format' changed" in d.text(), "what needs a restart is said")
        d.stop()
    one.close()


def test_stop(t):
    service = Service()
    with daemon(t, http_check("web", service)) as d:
        until("ready", lambda: d.get("/health/ready")[0] == 200)
        codes, done = [], threading.Event()

        def look():
            while not done.is_set():
                with contextlib.suppress(OSError, http.client.HTTPException):
                    codes.append(d.get("/health/ready")[0])
                time.sleep(0.02)
        watcher = threading.Thread(target=look)
        watcher.start()
        took = d.stop()
        done.set()
        watcher.join()
        need(503 in codes, "not ready before it ends: %s" % codes[-20:])
        need(0.5 <= took < 8, "took %s" % took)
        need(not os.path.exists(t.path("state", "control")), "the socket is gone")
    # And at once after the start, and while a service hangs.
    hole = socket.socket()
    hole.bind(("127.0.0.1", 0))
    hole.listen(8)
    service.url = "http://127.0.0.1:%d/" % hole.getsockname()[1]
    with daemon(t, http_check("hung", service)) as d:
        need(d.stop() < 8, "a service that hangs does not hold it up")
    service.close()


def test_signs_of_life(t):
    service = Service()
    with daemon(t, http_check("web", service), WATCHDOG_USEC="1000000") as d:
        d.told.clear()
        time.sleep(2.2)
        d.said("")
        signs = sum(text == "WATCHDOG=1" for text in d.told)
        need(3 <= signs <= 6, "half a second apart: %s" % d.told)
        d.process.send_signal(signal.SIGTERM)
        until("stopping", lambda: d.said("STOPPING=1"))
        d.process.wait(10)
    # A number of another process is not ours.
    with daemon(t, http_check("web", service), WATCHDOG_USEC="1000000", WATCHDOG_PID="1") as d:
        d.told.clear()
        time.sleep(1.2)
        need(not d.said("WATCHDOG=1"), d.told)
        d.stop()
    service.close()


def test_no_secret_is_told(t):
    service = Service()
    token = t.write("token", CANARY + "\n", 0o600)
    check = http_check("web", service).replace('url = "%s"' % service.url, 'url = "%s", bearer_token_file = "%s"' % (service.url, token))
    metrics = 'bearer_token_file = "%s"' % token
    with daemon(t, check, '[logging]\nlevel = "trace"\n', metrics, KEEPWATCH_LOG="trace") as d:
        until("asked", lambda: service.asked > 2)
        service.code = 401
        auth = {"Authorization": "Bearer " + CANARY}
        until("noticed", lambda: "unhealthy" in d.get("/health/detailed", auth)[1])
        need(d.get("/health/detailed")[0] == 401, "it maps the host")
        pages = [d.get(p, h)[1] for p in ("/metrics", "/health", "/health/ready?verbose", "/health/detailed", "/nonsense") for h in ({}, auth)]
        pages += [d.kw("status").text, d.kw("history").text, d.kw("config", "show").text]
        proc = pathlib.Path("/proc/%d" % d.process.pid)
        pages += [(proc / name).read_bytes().decode(errors="replace") for name in ("cmdline", "environ")]
        d.stop()
    import base64
    forms = [CANARY, base64.b64encode(CANARY.encode()).decode().rstrip("="), CANARY.encode().hex()]
    for root, _, names in os.walk(t.path("state")):
        pages += [pathlib.Path(root, n).read_bytes().decode("latin-1") for n in names]
    for page in pages + [d.text()]:
        for form in forms:
            need(form not in page, "the token stands in %r" % page[max(0, page.find(form) - 200):][:400])
    service.close()


def test_the_catalog_goes_away(t):
    service = Service()
    with daemon(t, http_check("web", service)) as d:
        runs = lambda: d.metric('keepwatch_check_runs_total{check="web",kind="http"}')
        until("runs", runs)
        catalog = t.path("state", "catalog.sqlite")
        until("there", lambda: os.path.exists(catalog))
        other = sqlite3.connect(catalog, isolation_level=None, timeout=10)
        other.execute("BEGIN EXCLUSIVE")
        before = runs()
        service.code = 500
        until("judged without a catalog", lambda: d.get("/health/live")[0] == 200 and d.metric('keepwatch_check_up{check="web",kind="http"}') == 0.0)
        until("checks go on", lambda: runs() > before + 5)
        need(d.get("/health/live")[0] == 200, "alive")
        other.execute("COMMIT")
        other.close()
        seen = lambda: [e for e in t.js("history", "--only", "incidents", "--config", d.file, rc=(0, 4))["entries"] if e["subject"] == "web"]
        until("what happened meanwhile is in the history", seen, seconds=60)
        # The file is taken away altogether.
        before = runs()
        for name in os.listdir(t.path("state")):
            if name.startswith("catalog.sqlite"):
                os.remove(t.path("state", name))
        until("checks go on", lambda: runs() > before + 5)
        need(d.get("/health/live")[0] == 200, "alive")
        d.stop()
    service.close()


def test_ready_on_a_full_disk(t):
    """While records are lost the host is not ready, also in the minute between two attempts to write; with room again it is."""
    need_root()
    state = mounted(t, "state", "-t", "tmpfs", "-o", "size=8m", "tmpfs")
    service = Service()
    with daemon(t, http_check("web", service)) as d:
        def writable():
            return json.loads(d.get("/health/ready")[1])["details"]["state_database_writable"]
        until("it ran", lambda: d.metric('keepwatch_check_runs_total{check="web",kind="http"}') and writable())
        free = os.statvfs(state)
        with open(state + "/ballast", "wb", buffering=0) as f, contextlib.suppress(OSError):
            for _ in range(free.f_bavail + 1):
                f.write(b"x" * free.f_frsize)
        # Changes are written at once: the check comes and goes until one is lost.
        def lost():
            service.code = 500 if service.code == 200 else 200
            time.sleep(2.2)
            return not writable()
        until("records are lost", lost, seconds=60)
        service.code = 200
        until("the check is well", lambda: d.metric('keepwatch_check_up{check="web",kind="http"}') == 1.0)
        began, changed, seen, calm = time.monotonic(), time.monotonic(), None, 0
        while time.monotonic() - began < 34:
            status, body = d.get("/health/ready")
            details = json.loads(body)["details"]
            need(status == 503 and not details["state_database_writable"], "after %.1f s: %s" % (time.monotonic() - began, body))
            now = d.metric('keepwatch_history_dropped_total{sink="catalog"}')
            if now != seen:
                changed, seen = time.monotonic(), now
            calm = max(calm, time.monotonic() - changed)
            need(d.get("/health/live")[0] == 200, "alive")
            time.sleep(0.5)
        need(calm > 16, "at least one round in which nothing was lost, or this proves nothing: %.1f s" % calm)
        os.unlink(state + "/ballast")
        # The next record is kept: that is seen in the next round, and not a minute later.
        service.code = 500
        until("down", lambda: d.metric('keepwatch_check_up{check="web",kind="http"}') == 0.0)
        service.code = 200
        until("ready again", lambda: d.get("/health/ready")[0] == 200 and writable(), seconds=40)
        d.stop()
    service.close()


def test_it_is_told_once_across_a_restart(t):
    service, people = Service(), Service()
    url = t.write("url", people.url + "\n", 0o600)
    more = """
[notifications]
default_receiver = "hook"
group_wait = "0s"
group_interval = "1s"
[notifications.receivers.hook]
webhook = { url_file = "%s" }
""" % url
    told = lambda word: [m for m in people.seen if "KeepwatchCheckDown" in m and '"status":"%s"' % word in m.replace(" ", "")]
    with daemon(t, http_check("web", service), more) as d:
        until("ready", lambda: d.get("/health/ready")[0] == 200)
        service.code = 500
        until("told", lambda: told("firing"))
        need("docs/runbooks.md#keepwatchcheckdown" in told("firing")[0], "with what to do: %s" % told("firing"))
        d.stop()
    with daemon(t, http_check("web", service), more) as d:
        until("down still", lambda: d.metric('keepwatch_check_up{check="web",kind="http"}') == 0.0)
        time.sleep(4)
        need(len(told("firing")) == 1, "told again after a restart: %s" % people.seen)
        service.code = 200
        until("over", lambda: told("resolved"))
        d.stop()
        incidents = t.js("history", "--only", "incidents", "--config", d.file)["entries"]
        need(len(incidents) == 1 and "closed" in incidents[0], "one incident: %s" % incidents)
        need(people.url not in d.text(), "the address of a webhook is a secret")
    service.close()
    people.close()


def test_killed_and_started_again(t):
    service = Service()
    with daemon(t, http_check("web", service)) as d:
        until("ready", lambda: d.get("/health/ready")[0] == 200)
        d.process.send_signal(signal.SIGKILL)
        d.process.wait()
        d.notify.close()
        need(os.path.exists(t.path("state", "control")), "left over")
        d.told.clear()
        d.start()
        until("ready", lambda: d.get("/health/ready")[0] == 200)
        d.stop()
    service.close()


def test_what_a_person_asks(t):
    service = Service()
    checks = http_check("web", service, 'on_failure = { restart_unit = "keepwatch-no-such.service" }')
    with daemon(t, checks) as d:
        until("ready", lambda: d.get("/health/ready")[0] == 200)
        need("is open" in d.kw("maintenance", "start", "upgrade", "--for", "1h", "--note", "x").said, "opened")
        until("seen", lambda: d.metric('keepwatch_check_state{check="web",state="maintenance"}') == 1.0)
        need(d.metric('keepwatch_maintenance_active{window="upgrade"}') == 1.0, "metric")
        rows = t.js("maintenance", "list", "--config", d.file)["windows"]
        need(len(rows) == 1 and rows[0]["opened_by"] == "operator" and rows[0]["note"] == "x", rows)
        service.code = 500
        time.sleep(4)
        need(not t.js("history", "--only", "incidents", "--config", d.file, rc=4)["entries"], "nobody is told in maintenance")
        service.code = 200
        d.kw("maintenance", "end", "upgrade")
        d.kw("maintenance", "end", "upgrade", rc=4)
        d.kw("maintenance", "start", "x", "--until", "2020-01-01", rc=2)
        d.kw("maintenance", "start", "x", "--for", "1h", "--check", "nobody", rc=4)
        d.kw("restart", "sshd.service", rc=5)
        d.kw("reset", "sshd.service", rc=4)
        d.kw("reset", "keepwatch-no-such.service")
        # No such unit, or no systemd here: refused either way, and written down.
        d.kw("restart", "keepwatch-no-such.service", rc=5)
        until("written down", lambda: t.js("history", "--only", "restarts", "--config", d.file, rc=(0, 4))["entries"])
        # Nonsense on the socket harms nobody.
        for nonsense in (b"", b"\n", b"{}\n", b"x" * 100000, b'{"do":"restart"}\n', b"\xff\xfe\n"):
            with socket.socket(socket.AF_UNIX) as s:
                s.connect(t.path("state", "control"))
                with contextlib.suppress(OSError):
                    s.sendall(nonsense)
        need(len(t.js("maintenance", "list", "--config", d.file)["windows"]) == 0, "answers")
        # Another daemon on the same state directory is refused.
        second = t.kw("serve", "--config", d.file, rc=1, timeout=30)
        need("nothing was started" in second.said or "listen" in second.said, second)
        d.stop()
        gone = d.kw("maintenance", "list", rc=1)
        need("what to do" in gone.said and "nothing was done" in gone.said, gone)
    service.close()


HEARTBEAT = """
[checks.dump]
interval = "1s"
timeout = "500ms"
retry_interval = "1s"
failure_threshold = 1
success_threshold = 1
severity = "critical"
probe.heartbeat = { period = "1h", grace = "1m", run_grace = "1h" }
"""


def test_a_job_of_another_user_reports(t):
    if os.geteuid():
        raise Skip("needs root, to be two users")
    job, other = 65534, 65533
    place = t.path("run")
    os.mkdir(place)
    os.chown(place, 0, job)
    os.chmod(place, 0o2750)
    os.chmod(t.dir, 0o711)
    socket_file = os.path.join(place, "beats")
    d = Daemon(t, HEARTBEAT)
    with open(d.file) as f:
        text = f.read()
    t.write("config.toml", 'beats_socket = "%s"\n%s' % (socket_file, text))
    try:
        d.start()
        is_up = lambda value: lambda: d.metric('keepwatch_check_up{check="dump",kind="heartbeat"}') == value
        until("it is expected", is_up(1.0))
        report = lambda *words, **more: t.kw("beat", "dump", "--socket", socket_file, *words, **more)
        report("--fail", uid=job)
        until("its failure is told", is_up(0.0))
        need(report("--", "/usr/bin/id", "-u", uid=job).text == "%d\n" % job, "around a command")
        until("it is well again", is_up(1.0))
        # It takes nothing else, and of nobody else.
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(socket_file)
            s.sendall(b'{"do":"maintenance_start","name":"x","checks":[],"ends":9999999999999,"note":""}\n')
            answer = json.loads(s.makefile().readline())
        need(answer["ok"] is False and answer["exit"] == 5 and "only" in answer["message"], answer)
        need(t.js("maintenance", "list", "--config", d.file)["windows"] == [], "no window")
        need("ermission denied" in report("--fail", uid=other, rc=1).said, "not for others")
        need(is_up(1.0)(), "nothing of it was noted")
        d.kw("beat", "dump")
        d.stop()
        need(not os.path.exists(socket_file), "the socket is gone")
    finally:
        d.kill()


def test_a_job_reports(t):
    service = Service()
    checks = http_check("web", service) + HEARTBEAT
    with daemon(t, checks) as d:
        is_up = lambda value: lambda: d.metric('keepwatch_check_up{check="dump",kind="heartbeat"}') == value
        until("it is expected", is_up(1.0))
        d.kw("beat", "dump", "--fail", "--message", "no room on /srv\x1b[31m")
        until("its failure is told at once", is_up(0.0))
        until("with its words", lambda: "no room on /srv" in json.dumps(t.js("history", "--config", d.file)))
        for word in ("--start", "--alive"):
            d.kw("beat", "dump", word)
        need(is_up(0.0)(), "a start is no success")
        need("took note" in d.kw("beat", "dump").said, "noted")
        until("it is well again", is_up(1.0))
        need(t.js("beat", "dump", "--success", "--config", d.file)["ok"] is True, "a document")
        run = t.kw("beat", "nobody", "--json", "--config", d.file, rc=4)
        need(run.json["exit_code"] == 4 and "no such check" in run.json["error"], run)
        need("asks by itself" in d.kw("beat", "web", rc=2).said, "not a heartbeat check")
        # Around a command, which nothing of it touches.
        around = lambda script, **more: t.kw("beat", "dump", "--config", d.file, "--", "/bin/sh", "-c", script, **more)
        run = around("cat; echo err >&2; exit 7", rc=7, input=b"given\n")
        need(run.text == "given\n" and run.said == "err\n", run)
        until("its failure is told", is_up(0.0))
        until("with its status", lambda: "status 7" in json.dumps(t.js("history", "--config", d.file)))
        need(around("exit 0").said == "", "silent")
        until("so is its success", is_up(1.0))
        around("kill -9 $$", rc=137)
        until("and its death", is_up(0.0))
        t.kw("beat", "dump", "--config", d.file, "--", t.path("absent"), rc=127)
        process = t.start("beat", "dump", "--config", d.file, "--", "/bin/sh", "-c", "trap 'exit 9' TERM; echo $$ > %s; while :; do sleep 0.05; done" % t.path("pid"))
        until("it runs", lambda: os.path.exists(t.path("pid")) and os.path.getsize(t.path("pid")))
        process.terminate()
        t.finish(process, rc=9)
        d.stop()
    # With nobody to tell a job runs all the same.
    gone = d.kw("beat", "dump", rc=1)
    need("nothing was done" in gone.said and "keepwatch serve" in gone.said, gone)
    run = around("echo out; exit 3", rc=3)
    need(run.text == "out\n" and "was not told" in run.said, run)
    service.close()


def test_a_state_directory_that_cannot_be_written(t):
    """Watching and telling go on; the control socket comes when it can be made."""
    service = Service()
    state = mounted(t, "state", "-t", "tmpfs", "tmpfs")
    subprocess.run(["mount", "-o", "remount,ro", state], check=True)
    with daemon(t, http_check("web", service)) as d:
        until("ready", lambda: d.get("/health/ready")[0] == 200)
        service.code = 500
        until("judged", lambda: d.metric('keepwatch_check_up{check="web",kind="http"}') == 0.0)
        until("told", lambda: d.metric('keepwatch_collector_success{collector="control"}') == 0.0)
        need("cannot listen on the control socket" in d.text() and "Read-only file system" in d.text().replace("read-only", "Read-only") and "writable" in d.text(), d.text()[-3000:])
        need("only one" not in d.text(), "the advice fits")
        # A second one is refused also without a socket.
        second = t.kw("serve", "--config", d.file, rc=1, timeout=30)
        need("another 'keepwatch serve'" in second.said and "nothing was started" in second.said, second)
        need("nothing was done" in d.kw("maintenance", "list", rc=1).said, "nobody to ask")
        d.stop()
    subprocess.run(["mount", "-o", "remount,rw", state], check=True)
    d.told.clear()
    d.start()
    until("all is well", lambda: d.metric('keepwatch_collector_success{collector="control"}') == 1.0)
    d.stop()
    service.close()


def test_config(t):
    good = t.write("good.toml", "[checks.a]\nprobe.tcp = { target = \"127.0.0.1:1\" }\n")
    need("is good" in t.kw("config", "check", "--config", good).said, "good")
    shown = t.kw("config", "show", "--config", good).text
    need("interval = \"30s\"  # default" in shown, shown)
    again = t.write("shown.toml", shown)
    need(t.kw("config", "show", "--config", again).code == 0, "what is shown is taken again")
    need(t.js("config", "show", "--config", good)["checks"]["a"]["probe"]["tcp"]["target"] == "127.0.0.1:1", "as JSON")
    need(t.js("config", "schema")["title"] == "Keepwatch", "schema")
    bad = t.write("bad.toml", "[checks.a]\nprobe.tcp = { target = \"127.0.0.1:1\" }\nintervall = \"3s\"\n[check.b]\n")
    run = t.kw("config", "check", "--config", bad, rc=2)
    need("bad.toml:3" in run.said and "did you mean" in run.said, run)
    faults = t.js("config", "check", "--config", bad, rc=2)
    need(faults["ok"] is False and len(faults["faults"]) >= 2, faults)
    for verb in ("serve", "status", "history"):
        t.kw(verb, "--config", bad, rc=2)
        t.kw(verb, "--config", t.path("none.toml"), rc=2)
    t.kw("status", "--config", t.write("fresh.toml", "state_directory = \"%s\"\n" % t.path("fresh")), rc=4)
    need(not os.path.exists(t.path("fresh")), "asking makes nothing")


def test_asking_once(t):
    service = Service()
    hole = socket.socket()
    hole.bind(("127.0.0.1", 0))
    checks = http_check("web", service) + """
[checks.closed]
interval = "5s"
probe.tcp = { target = "127.0.0.1:%d" }
[checks.full]
probe.disk = { path = "/" }
limits = [{ quantity = "disk_used_ratio", side = "above", fail = 0.00001 }]
[checks.beat]
probe.heartbeat = { backup = "none" }
""" % hole.getsockname()[1]
    d = Daemon(t, checks.split("[checks.beat]")[0])
    run = d.kw("check", rc=1)
    need("web (http): success" in run.text and "closed (tcp): failure" in run.text and "connect" in run.text and "http_status 200" in run.text, run)
    need(service.asked == 1 and not os.path.exists(t.path("state")), "asked once, nothing recorded")
    rows = t.js("check", "web", "--config", d.file)["checks"]
    need(len(rows) == 1 and rows[0]["result"] == "success" and rows[0]["measures"]["http_status"] == 200 and rows[0]["reason"] is None, rows)
    service.code = 500
    [row] = t.js("check", "web", "--config", d.file, rc=1)["checks"]
    need(row["result"] == "failure" and row["reason"] == "status" and "500" in row["text"], row)
    run = d.kw("check", "wbe", rc=4)
    need("use one of: closed full web" in run.said, run)
    [row] = t.js("check", "full", "--config", d.file, rc=1)["checks"]
    need(row["result"] == "failure" and row["reason"] == "threshold" and "disk_used_ratio" in row["text"], "limits count as in the daemon: %s" % row)
    service.close()
    hole.close()


def test_a_repository_that_vanishes_is_noticed(t):
    from topics import jobs
    src = t.small_tree()
    more = '[repositories.disk]\nbackend.local = { path = "%s" }\nrecipients = ["%s"]\n' % (t.path("disk"), jobs.RECIPIENT) + jobs.paths("home", src)
    service = Service()
    with daemon(t, http_check("web", service), more) as d:
        series = 'keepwatch_repository_reachable{repository="disk"}'
        until("ready", lambda: d.get("/health/ready")[0] == 200)
        need(d.metric(series) is None, "one that was never made is no fault")
        d.kw("backup", "--job", "home")
        until("seen", lambda: d.metric(series) == 1.0, seconds=40)
        need(d.metric('keepwatch_repository_available_bytes{repository="disk"}') > 0, "room")
        need(d.metric('keepwatch_backup_last_successful{backup="home",repository="disk"}') == 1.0, "the run")
        # Marks of a prune that came no further: one of now, one that two more prunes should have carried out.
        marks = 'keepwatch_repository_locks{repository="disk"}', 'keepwatch_repository_stale_locks{repository="disk"}'
        need([d.metric(m) for m in marks] == [0, 0], "none yet")
        for name, days in (("a", 14), ("b", 16)):
            mark = t.write("disk/marks/" + name * 64, b"x")
            os.utime(mark, (time.time() - days * 86400,) * 2)
        until("both are seen", lambda: [d.metric(m) for m in marks] == [2, 1], seconds=40)
        os.rename(t.path("disk"), t.path("away"))
        until("missed", lambda: d.metric(series) == 0.0, seconds=40)
        d.stop()
    service.close()


def test_a_job_in_s3_and_what_it_asked(t):
    from topics import jobs, s3
    src = t.small_tree()
    with s3.server(s3.built(t)) as s:
        s3.place(t, s, "unused")  # writes the files of credentials
        keys = t.path("creds/%s-a" % s["access_key"]), t.path("creds/%s-s" % s["access_key"])
        more = '[repositories.far]\nrecipients = ["%s"]\nbackend.s3 = { bucket = "%s", prefix = "hosts/web1", endpoint = "%s", region = "%s", path_style = true, access_key_id_file = "%s", secret_access_key_file = "%s" }\n' % (
            jobs.RECIPIENT, s["bucket"], s["endpoint"], s["region"], *keys) + jobs.paths("home", src, repositories=("far",))
        d = Daemon(t, "", more)
        run = d.kw("backup", "--job", "home")
        need("a new repository was made at s3://" in run.said and "succeeded" in run.text, run)
        d.kw("verify", "--repository", "far")
        d.start()
        try:
            puts = until("counted", lambda: d.metric('keepwatch_repository_requests_total{repository="far",operation="put"}'))
            need(puts >= 3 and d.metric('keepwatch_repository_requests_total{repository="far",operation="get"}') >= 1, puts)
            need(d.metric('keepwatch_repository_sent_bytes_total{repository="far"}') > 1000, "bytes")
            need(d.metric('keepwatch_repository_request_errors_total{repository="far",reason="retried"}') == 0, "none failed")
            need(d.metric('keepwatch_repository_request_errors_total{repository="far",reason="failed"}') == 0, "none was given up")
            need(d.metric('keepwatch_repository_reachable{repository="far"}') == 1.0, "reachable")
            need(d.metric('keepwatch_verification_last_successful{repository="far"}') == 1.0, "verified")
            # Runs that fail say what they asked, too: one that ends in the middle, one whose first request is not answered.
            errors = lambda reason: d.metric('keepwatch_repository_request_errors_total{repository="far",reason="%s"}' % reason)
            broken = {"action": {"do": "answer", "status": 400, "code": "InvalidArgument"}}
            s3.control(s, "rules", [
                {"on": ["put"], "times": 3, "action": {"do": "answer", "status": 500, "code": "InternalError"}},
                {"on": ["put"], "key": "packs/", **broken}])
            t.write("src/a/more", t.noise(400_000))
            d.kw("backup", "--job", "home", rc=1)
            until("a failed run is counted", lambda: errors("retried") >= 3 and errors("failed") >= 1, seconds=40)
            before = errors("failed"), d.metric('keepwatch_repository_requests_total{repository="far",operation="get"}')
            s3.control(s, "rules", method="DELETE")
            s3.control(s, "rules", [{"on": ["get"], "key": "config", **broken}])
            document = d.kw("verify", "--repository", "far", rc=1)
            until("so is one that did not get far", lambda: errors("failed") > before[0], seconds=40)
            need(d.metric('keepwatch_repository_requests_total{repository="far",operation="get"}') > before[1], document)
            d.stop()
        finally:
            d.kill()

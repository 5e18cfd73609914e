"""Every panel, variable and annotation of the dashboards asks a real Prometheus that scraped a real agent, and gets an answer; those about restarts
in topics/alerting, where a real systemd restarts."""
import json, os, re, shutil, socket, sqlite3, ssl, time

from harness import need, need_tools
from monitoring import ROOT, Prometheus, Program, Web, ask, free_port, running, tool, until
from topics import s3, sources, wal

# What needs a systemd that restarts something: topics/alerting has one, and asks these there. Panels, columns of panels by their metric, annotations.
UNDER_SYSTEMD = {("restarts", "Failed restarts"), ("restarts", "Last restart")}
UNDER_SYSTEMD_COLUMNS = {"keepwatch_unit_last_restart_timestamp_seconds", "keepwatch_unit_restart_allowed_timestamp_seconds"}
UNDER_SYSTEMD_ANNOTATIONS = {"Restarts"}

CONFIG = """
host = "web1"
state_directory = "{state}"
cache_directory = "{cache}"
[metrics]
port = {port}
[health]
startup_deadline = "5s"
[repositories.disk]
backend.local = {{ path = "{disk}" }}
recipients = ["age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"]
identity_file = "{identity}"
[backups.home]
repositories = ["disk"]
retry = {{ attempts = 0 }}
retention = {{ last = 2 }}
source.paths = {{ include = ["{source}"] }}
[repositories.far]
backend.s3 = {{ bucket = "{bucket}", prefix = "web1", endpoint = "{endpoint}", region = "{region}", path_style = true, access_key_id_file = "{access}", secret_access_key_file = "{secret}" }}
recipients = ["age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"]
[backups.away]
repositories = ["far"]
retry = {{ attempts = 0 }}
source.paths = {{ include = ["{source}"] }}
[backups.broken]
repositories = ["disk"]
retry = {{ attempts = 0 }}
source.command = {{ argv = ["/bin/false"], filename = "x" }}
[drills.home]
backup = "home"
target.directory = {{}}
expect = {{ max_duration = "1h" }}
[checks.web]
interval = "1s"
timeout = "500ms"
retry_interval = "1s"
severity = "critical"
group = "shop"
probe.http = {{ url = "{web}/ok" }}
[checks.down]
interval = "1s"
timeout = "500ms"
retry_interval = "1s"
failure_threshold = 2
probe.http = {{ url = "{web}/down" }}
on_failure = {{ restart_unit = "keepwatch-no-such.service" }}
[checks.child]
interval = "1s"
timeout = "500ms"
depends_on = ["down"]
probe.http = {{ url = "{web}/down" }}
[checks.disk]
interval = "1s"
timeout = "500ms"
probe.disk = {{ path = "{scratch}" }}
limits = []
[checks.qdrant]
interval = "1s"
timeout = "500ms"
probe.qdrant = {{ url = "{web}", collections = ["docs"] }}
[checks.ollama]
interval = "1s"
timeout = "500ms"
probe.ollama = {{ url = "{web}" }}
[checks.certificate]
interval = "1s"
timeout = "500ms"
probe.tls = {{ file = "{cert}" }}
[checks.file]
interval = "1s"
timeout = "900ms"
probe.sqlite = {{ path = "{sqlite}", program = "{sqlite3}" }}
[checks.database]
interval = "1s"
timeout = "900ms"
probe.postgresql = {{ target = "unix:{postgresql}/.s.PGSQL.5432", user = "postgres" }}
[maintenance.always]
begins = "minutely"
duration = "2m"
checks = ["ollama"]
[notifications]
default_receiver = "hook"
group_wait = "0s"
group_interval = "1s"
dead_man_switch = {{ url_file = "{switch}", interval = "10s", ca_file = "{cert}" }}
[notifications.receivers.hook]
webhook = {{ url_file = "{hook}" }}
"""


def services(method, path, body):
    """A web server, a Qdrant and an Ollama, as far as their checks ask."""
    known = {
        "/ok": "{}",
        "/hook": "{}",
        "/readyz": "all shards are ready",
        "/collections": json.dumps({"result": {"collections": [{"name": "docs"}]}, "status": "ok", "time": 0.0}),
        "/collections/docs": json.dumps({"result": {"status": "green", "optimizer_status": "ok", "points_count": 3, "indexed_vectors_count": 3, "segments_count": 1}, "status": "ok", "time": 0.0}),
        "/api/tags": json.dumps({"models": [{"name": "llama3:latest", "model": "llama3:latest", "size": 1}]}),
        "/api/version": json.dumps({"version": "0.5.0"}),
    }
    return (200, known[path]) if path in known else (503, "down")


def filled(expr, span):
    """With the variables as Grafana puts them in."""
    for name, value in (("$__rate_interval", "8s"), ("$__interval", "2s"), ("$__range", span)):
        expr = expr.replace(name, value)
    expr = re.sub(r'=~"\$\w+"', '=~".+"', expr)
    need("$" not in expr, "a variable is left: %s" % expr)
    return expr


def boards():
    for f in sorted((ROOT / "dashboards").glob("*.json")):
        yield f.stem, json.loads(f.read_text())


def panels(board):
    for p in board["panels"]:
        yield p
        yield from p.get("panels", [])


def test_every_expression_parses(t):
    """As rules, by promtool: offline and strict."""
    rules = []
    for name, board in boards():
        for p in panels(board):
            for q in p.get("targets", []):
                rules.append({"record": "x:%d" % len(rules), "expr": filled(q["expr"], "5m")})
        for a in board["annotations"]["list"]:
            if "expr" in a:
                rules.append({"record": "x:%d" % len(rules), "expr": filled(a["expr"], "5m")})
        for v in board["templating"]["list"]:
            if v["type"] == "query":
                rules.append({"record": "x:%d" % len(rules), "expr": filled(re.fullmatch(r"label_values\((.*), \w+\)", v["query"]["query"])[1], "5m")})
    need(len(rules) > 150, len(rules))
    file = t.write("rules.json", json.dumps({"groups": [{"name": "x", "rules": rules}]}))
    t.sh(tool("promtool"), "check", "rules", file)
    rules[0]["expr"] += " +"
    t.write("rules.json", json.dumps({"groups": [{"name": "x", "rules": rules}]}))
    t.sh(tool("promtool"), "check", "rules", file, rc=1)
    print("%d expressions" % len(rules))


def test_every_panel_has_data(t):
    need_tools("openssl", "sqlite3")
    with sources.Place() as place, s3.server(s3.built(t)) as bucket:
        every_panel_has_data(t, sources.Pg(place), bucket)


def archived(t, postgresql, repo):
    """A base backup, and the log before and after it."""
    t.kw("wal", "backup", "--repo", repo, "--pg-host", postgresql.home, "--pg-user", "postgres", "--with-wal")
    postgresql.sql("postgres", "CREATE TABLE after_it (x int)")
    now = postgresql.sql("postgres", "SELECT pg_walfile_name(pg_switch_wal())")
    logs = os.path.join(postgresql.home, "d/pg_wal")
    for name in sorted(os.listdir(logs)):
        if len(name) == 24 and name <= now:
            wal.push(t, repo, os.path.join(logs, name))


def every_panel_has_data(t, postgresql, bucket):
    trouble = []
    web = Web(lambda method, path, body: (503, "trouble") if trouble and path == "/ok" else services(method, path, body))
    cert, key, leaf = t.path("ca.pem"), t.path("key.pem"), t.path("leaf.pem")
    t.sh("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "90", "-subj", "/CN=test", "-keyout", t.path("ca.key"), "-out", cert)
    t.sh("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=127.0.0.1", "-keyout", key, "-out", t.path("leaf.csr"))
    more = t.write("leaf.ext", "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
    t.sh("openssl", "x509", "-req", "-in", t.path("leaf.csr"), "-CA", cert, "-CAkey", t.path("ca.key"), "-CAcreateserial", "-days", "90", "-extfile", more, "-out", leaf)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(leaf, key)
    switch = Web(lambda *_: (200, "OK"), context=context)
    base = "http://127.0.0.1:%d" % web.port
    disk = t.repository("disk")
    source = t.small_tree()
    place = t.path("some.sqlite")
    sqlite3.connect(place).execute("CREATE TABLE t (x)").connection.commit()
    identity = os.path.join(t.env["HOME"], ".config/keepwatch/identity.txt")
    port = free_port()
    config = t.write("config.toml", CONFIG.format(
        state=t.path("state"), cache=t.path("cache"), port=port, disk=disk, source=source, web=base, cert=cert, sqlite=place, sqlite3=shutil.which("sqlite3"), identity=identity,
        postgresql=postgresql.home, bucket=bucket["bucket"], endpoint=bucket["endpoint"], region=bucket["region"],
        access=t.write("access", bucket["access_key"], 0o600), secret=t.write("secret", bucket["secret_key"], 0o600), scratch=t.dir, switch=t.write("switch", "https://127.0.0.1:%d/x" % switch.port, 0o600), hook=t.write("hook", base + "/hook", 0o600)))
    job = lambda *args, rc=0: t.kw(*args, "--config", config, rc=rc)
    for _ in range(2):
        job("backup", "--job", "home")
    agent = Program(t, "agent", [t.binary, "serve", "--config", config])
    prometheus = Prometheus(t, [("keepwatch", port, "web1")], hurry=["KeepwatchCheckDown"])
    with running(prometheus, agent):
        agent.start()
        prometheus.start()
        began = time.time()

        def scraped():
            need(agent.process.poll() is None, "the agent ended: " + agent.text()[-3000:])
            return prometheus.query('up{job="keepwatch"} == 1')
        until("the agent is scraped", scraped)
        # Somebody who asks and does not go on is sent away in time.
        slow = socket.create_connection(("127.0.0.1", port))
        slow.sendall(b"GET /metrics HT")
        # Things happen while it is watched.
        job("backup", "--job", "away")
        until("the store's requests are counted", lambda: prometheus.query("keepwatch_repository_requests_total > 0"))
        s3.control(bucket, "rules", {"on": ["put"], "times": 1, "action": {"do": "answer", "status": 500, "code": "InternalError"}})
        job("backup", "--job", "home")
        job("backup", "--job", "broken", rc=1)
        job("forget", "--job", "home")
        archived(t, postgresql, disk)
        job("verify", "--job", "home")
        job("prune", "--job", "home")
        job("drill", "home")
        until("a drill is seen", lambda: prometheus.query("keepwatch_restore_drill_last_successful"))
        until("a failure is seen", lambda: prometheus.query('keepwatch_backup_last_successful{backup="broken"} == 0'))
        until("a verification is seen", lambda: prometheus.query("keepwatch_verification_last_successful"))
        until("the rules are evaluated", lambda: prometheus.query("check:keepwatch_check_up:avg30d"))
        until("the switch is reached", lambda: prometheus.query("keepwatch_heartbeat_last_success_timestamp_seconds"))
        until("somebody is told", lambda: prometheus.query("keepwatch_notifications_total > 0"))
        until("something fires", lambda: prometheus.query('ALERTS{alertname=~"Keepwatch.*", alertstate="firing"}'))
        # One check goes down and comes back.
        trouble.append(True)
        until("it is down", lambda: prometheus.query('keepwatch_check_up{check="web"} == 0'))
        trouble.clear()
        until("it is back", lambda: prometheus.query('keepwatch_check_up{check="web"} == 1'))
        # The unit of which nobody knows anything: restarts are refused, and written down.
        t.kw("restart", "keepwatch-no-such.service", "--config", config, rc=5)
        job("backup", "--job", "away")
        until("one of them failed", lambda: prometheus.query('keepwatch_repository_request_errors_total{reason="retried"} > 0'))
        until("the slow one is gone", lambda: prometheus.query("keepwatch_http_connections_refused_total > 0"), 30)
        slow.close()
        time.sleep(6)
        span = "%ds" % (int(time.time() - began) + 5)
        faults, asked = [], 0
        for name, board in boards():
            for v in board["templating"]["list"]:
                if v["type"] == "query":
                    selector, label = re.fullmatch(r"label_values\((.*), (\w+)\)", v["query"]["query"]).groups()
                    if not any(label in r["metric"] for r in prometheus.query(filled(selector, span))):
                        faults.append("%s: the variable %s has no value" % (name, label))
            for a in board["annotations"]["list"]:
                if "expr" in a and a["name"] not in UNDER_SYSTEMD_ANNOTATIONS and not rows(prometheus.port, filled(a["expr"], span), began, False):
                    faults.append("%s: the annotation %s has no data" % (name, a["name"]))
            for p in panels(board):
                got = []
                for q in p.get("targets", []):
                    asked += 1
                    found = rows(prometheus.port, filled(q["expr"], span), began, q["instant"])
                    got.append(found)
                    for label in re.findall(r"\{\{(\w+)\}\}", q["legendFormat"]):
                        if found and not any(label in r["metric"] for r in found):
                            faults.append("%s / %s: no series has the label %s of its legend" % (name, p["title"], label))
                    if p["type"] == "bargauge" or p["type"] == "stat":
                        values = [r["value"][1] for r in found]
                        if any(v in ("NaN", "+Inf", "-Inf") for v in values):
                            faults.append("%s / %s: %s is no number" % (name, p["title"], values))
                if (name, p["title"]) not in UNDER_SYSTEMD and got and not all(got):
                    letters = [q["expr"] for q, g in zip(p["targets"], got) if not g and not any(m in q["expr"] for m in UNDER_SYSTEMD_COLUMNS)]
                    if letters:
                        faults.append("%s / %s: no data for %s" % (name, p["title"], letters))
        need(not faults, "\n".join(faults))
        need(asked > 150, asked)
        print("%d questions were answered" % asked)
    web.close()
    switch.close()


def answered_under_systemd(prometheus, began):
    """What the other test leaves out has data: `began`, seconds since 1970, is before something was restarted."""
    span, faults, left = "%ds" % (int(time.time() - began) + 5), [], set(UNDER_SYSTEMD) | UNDER_SYSTEMD_COLUMNS | UNDER_SYSTEMD_ANNOTATIONS
    for name, board in boards():
        for a in board["annotations"]["list"]:
            if a["name"] in UNDER_SYSTEMD_ANNOTATIONS:
                left.discard(a["name"])
                if not rows(prometheus.port, filled(a["expr"], span), began, False):
                    faults.append("%s: the annotation %s has no data" % (name, a["name"]))
        for p in panels(board):
            for q in p.get("targets", []):
                columns = {m for m in UNDER_SYSTEMD_COLUMNS if m in q["expr"]}
                if (name, p["title"]) in UNDER_SYSTEMD or columns:
                    left -= columns | {(name, p["title"])}
                    if not rows(prometheus.port, filled(q["expr"], span), began, q["instant"]):
                        faults.append("%s / %s: no data for %s" % (name, p["title"], q["expr"]))
    need(not faults, "\n".join(faults))
    need(not left, "there is no such thing on the dashboards: %s" % left)


def rows(port, expr, began, is_instant):
    if is_instant:
        answer = ask(port, "/api/v1/query", query=expr)
    else:
        answer = ask(port, "/api/v1/query_range", query=expr, start=began, end=time.time(), step=2)
    need(answer["status"] == "success", (expr, answer))
    return answer["data"]["result"]

"""Alerts from end to end: an agent under a real systemd, Prometheus and Alertmanager from packages, a Telegram, a mail server and a dead-man switch
that are played here. Things are broken and mended, and the right messages must arrive, once. Times are short; nothing is left out."""
import datetime, json, os, pathlib, re, shlex, shutil, signal, subprocess, time, urllib.parse, urllib.request

from harness import Skip, need, need_root, need_tools
from monitoring import ROOT, Alertmanager, DeadMan, Prometheus, Smtp, Telegram, Web, ask, free_port, running, until
from topics import dashboards

CONFIG = """
host = "web1"
[metrics]
port = %d
[repositories.disk]
backend.local = { path = "/srv/disk" }
recipients = ["age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"]
[repositories.far]
backend.local = { path = "/srv/far" }
recipients = ["age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"]
[backups.home]
repositories = ["disk"]
retry = { attempts = 0 }
source.paths = { include = ["/etc/systemd"] }
[backups.db]
repositories = ["disk"]
retry = { attempts = 0 }
source.command = { argv = ["/bin/sh", "-c", "test ! -e /broken && echo dump"], filename = "db.sql" }
[backups.app]
repositories = ["disk"]
retry = { attempts = 0 }
source.command = { argv = ["/bin/sh", "-c", "test ! -e /broken && echo dump"], filename = "app.sql" }
[backups.archive]
repositories = ["far"]
retry = { attempts = 0 }
source.paths = { include = ["/etc/systemd"] }
[checks.shop]
description = "The shop answers"
severity = "critical"
interval = "1s"
timeout = "900ms"
retry_interval = "1s"
failure_threshold = 2
success_threshold = 1
probe.systemd = { unit = "shop.service" }
on_failure = { restart_unit = "shop.service" }
# Always well; its unit is restarted by hand.
[checks.remote]
interval = "1s"
timeout = "900ms"
probe.systemd = { unit = "remote.service" }
on_failure = { restart_unit = "oven.service" }
[restarts."shop.service"]
max_attempts = 1
settle = "1s"
[restarts."oven.service"]
settle = "1s"
"""
# Those that are made to fire here. Others wait as long as they do everywhere, so that a busy machine does not disturb.
HURRY = ("KeepwatchBackupFailed", "KeepwatchCheckDown", "KeepwatchRepositoryUnreachable", "KeepwatchDown")
UNITS = {
    "keepwatch": "[Unit]\nAfter=dbus.service\n[Service]\nType=notify\nExecStart=/usr/local/bin/keepwatch serve\n",
    "shop": "[Service]\nExecStart=/bin/sh -c 'test -e /ok && exec sleep infinity'\n",
    # Never comes up.
    "oven": "[Service]\nType=oneshot\nExecStart=/bin/false\n",
    # Does what is put down in /do, one file after the other.
    "remote": "[Service]\nEnvironment=HOME=/root\nExecStart=/bin/sh -c 'while :; do for f in /do/*.sh; do if [ -e $f ]; then sh $f >$f.out 2>&1; echo $? >$f.rc; mv $f $f.done; fi; done; sleep 0.1; done'\n",
}


class Host:
    """A Debian in a container with a systemd of its own; it shares the network of this host."""

    def __init__(self, t, port):
        need_root()
        need_tools("systemd-nspawn")
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "keepwatch-tests/debian"
        if not (cache / "etc/debian_version").exists():
            raise Skip("there is no root tree for a container: tests/systemd/run makes it")
        self.t, self.root, self.number, self.process = t, t.path("host"), 0, None
        subprocess.run(["cp", "-a", "--reflink=auto", str(cache), self.root], check=True)
        shutil.copy2(t.binary, self.path("usr/local/bin/keepwatch"))
        for name, text in UNITS.items():
            self.write("etc/systemd/system/%s.service" % name, text)
            wants = self.path("etc/systemd/system/multi-user.target.wants")
            os.makedirs(wants, exist_ok=True)
            if name not in ("keepwatch", "oven"):
                os.symlink("../%s.service" % name, wants + "/%s.service" % name)
        self.write("etc/keepwatch/config.toml", CONFIG % port)
        self.write("ok", "")
        os.makedirs(self.path("do"))

    def path(self, name):
        return os.path.join(self.root, name)

    def write(self, name, text):
        os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
        with open(self.path(name), "w") as f:
            f.write(text)

    def start(self):
        with open(self.t.path("boot.log"), "wb") as log:
            self.process = subprocess.Popen(
                ["systemd-nspawn", "--quiet", "--directory=" + self.root, "--boot", "--register=no", "--keep-unit", "--machine=kw-alerting-%d" % os.getpid(),
                 "--setenv=SYSTEMD_LOG_LEVEL=warning", "systemd.unit=multi-user.target"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

        def booted():
            if self.process.poll() is not None:
                raise Skip("a container does not boot here: %s" % pathlib.Path(self.t.path("boot.log")).read_text(errors="replace")[-300:].strip())
            return self.run("systemctl is-active shop.service", rc=None, wait=5)[0] == 0
        try:
            until("the host is up", booted, seconds=90)
        except AssertionError:
            raise Skip("a container does not boot here within 90 s")
        return self

    def run(self, command, rc=0, wait=60):
        """Runs a command inside. Returns how it ended and what it said."""
        self.number += 1
        name = self.path("do/%04d.sh" % self.number)
        with open(name + ".new", "w") as f:
            f.write(command + "\n")
        os.rename(name + ".new", name)
        end = time.monotonic() + wait
        while not os.path.exists(name + ".done"):
            if time.monotonic() > end:
                if rc is None:
                    # Not up yet: it is not to be done later.
                    if os.path.exists(name):
                        os.remove(name)
                    return None, ""
                raise AssertionError("it hangs: %s" % command)
            time.sleep(0.05)
        code = int(pathlib.Path(name + ".rc").read_text())
        said = pathlib.Path(name + ".out").read_text(errors="replace")
        need(rc is None or code == rc, "%s ended with %s: %s" % (command, code, said))
        return code, said

    def stop(self, kill=True):
        if self.process and self.process.poll() is None:
            # The first process of the container takes all others with it; nspawn then ends by itself.
            with open("/proc/%d/task/%d/children" % (self.process.pid, self.process.pid)) as f:
                for pid in f.read().split():
                    os.kill(int(pid), signal.SIGKILL)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def test_messages_arrive_once_and_are_taken_back(t):
    agent = free_port()
    telegram, smtp, dead_man = Telegram(), Smtp(), DeadMan(patience=15)
    hooks = []
    hook = Web(lambda method, path, body: (hooks.append((path, json.loads(body))), (200, "{}"))[1])
    host = Host(t, agent)
    began, clock, marks = time.monotonic(), time.time(), []
    mark = lambda what: marks.append("%s at %d s" % (what, time.monotonic() - began))
    manager = Alertmanager(t, telegram, smtp, dead_man, "http://127.0.0.1:%d/hook" % hook.port)
    prometheus = Prometheus(t, [("keepwatch", agent, "web1")], manager.port, HURRY)
    with running(prometheus, manager, host):
        host.start()
        for repository in ("disk", "far"):
            host.run("keepwatch init --repo /srv/%s" % repository)
        for job in ("home", "db", "app", "archive"):
            host.run("keepwatch backup --job %s" % job)
        host.run("systemctl start keepwatch")
        manager.start()
        prometheus.start()
        up = lambda expr, value: any(r["value"][1] == value for r in prometheus.query(expr))
        until("the agent is scraped", lambda: up('up{job="keepwatch"}', "1"))
        until("the shop is up", lambda: up('keepwatch_check_up{check="shop"}', "1"))
        until("backups are known", lambda: len(prometheus.query("keepwatch_backup_last_successful == 1")) == 4)
        until("repositories are known", lambda: len(prometheus.query("keepwatch_repository_reachable == 1")) == 2)
        until("the watchdog is heard", lambda: len(dead_man.times) >= 3)
        ours = lambda: [a for a in prometheus.firing() if a != "Watchdog"]
        until("all is well", lambda: not ours(), seconds=20)
        need(not telegram.seen and not smtp.seen, "nobody is told when all is well: %s" % telegram.seen)
        need(b"Watchdog" in dead_man.bodies[0], dead_man.bodies[0])

        mark("well")
        # --- two jobs fail, a service is killed for good, a repository vanishes ---
        host.write("broken", "")
        os.remove(host.path("ok"))
        os.rename(host.path("srv/far"), host.path("srv/gone"))
        host.run("kill -KILL $(systemctl show -P MainPID shop.service)")
        for job in ("db", "app", "archive"):
            host.run("keepwatch backup --job %s" % job, rc=1)
        until("the service is down", lambda: telegram.about("KeepwatchCheckDown"), 40)
        until("the repository is away", lambda: telegram.about("KeepwatchRepositoryUnreachable"), 40)
        until("backups failed", lambda: telegram.about("KeepwatchBackupFailed"), 40)
        [failed] = telegram.about("KeepwatchBackupFailed")
        need(failed["text"].startswith("🟠 KeepwatchBackupFailed on web1 (2 firing)"), failed)
        for wanted in ("Backup db to disk on web1 failed", "Backup app to disk on web1 failed", "`keepwatch history db --only runs` tells why", "What to do"):
            need(wanted in failed["text"], failed)
        need("archive" not in failed["text"], "that it failed for want of its repository is said by another: %s" % failed)
        need(failed["silent"], "a warning wakes nobody")
        [away] = telegram.about("KeepwatchRepositoryUnreachable")
        need("Repository far of web1 cannot be reached" in away["text"], away)
        [down] = telegram.about("KeepwatchCheckDown")
        need(down["text"].startswith("🔴 KeepwatchCheckDown on web1 (1 firing)") and "Check shop on web1 is down" in down["text"] and "journalctl -u shop.service" in down["text"], down)
        need(not down["silent"] and down["chat"] == "-1001234567890", "a critical one wakes people")
        need("runbooks.md#keepwatchcheckdown" in down["raw"], down)
        # The same by mail, and as JSON.
        [mail] = until("a mail", lambda: smtp.about("KeepwatchCheckDown"))
        need(str(mail["Subject"]) == "[1 firing] critical: KeepwatchCheckDown on web1", mail["Subject"])
        need("Check shop on web1 is down" in mail.get_body(("plain",)).get_content() and "Check shop on web1 is down" in mail.get_body(("html",)).get_content(), mail)
        need(any(p == "/hook" and {a["labels"].get("backup") for a in b["alerts"]} == {"db", "app"} for p, b in hooks), hooks)
        # ntfy gets its templates as they stand in the file, and few alerts at once (tests/alerts/run renders them).
        asked = [(urllib.parse.parse_qs(p.partition("?")[2]), b) for p, b in hooks if p.startswith("/hook/ntfy?")]
        title, text = ((ROOT / "alerts/alertmanager" / name).read_text().rstrip("\n") for name in ("ntfy-title.txt", "ntfy-message.txt"))
        need(asked and all(q == {"template": ["yes"], "priority": ["5"], "title": [title], "message": [text]} and len(b["alerts"]) <= 5 and "truncatedAlerts" in b for q, b in asked), asked)
        mark("told")
        # After its cooldown the unit is given up.
        until("it is given up", lambda: telegram.about("KeepwatchUnitRestartGaveUp"), 120)
        [gave_up] = telegram.about("KeepwatchUnitRestartGaveUp")
        need("shop.service on web1 stays down: restarts are used up" in gave_up["text"] and "keepwatch reset shop.service" in gave_up["text"], gave_up)
        need(not telegram.about("is over") and not telegram.about("✅"), telegram.seen)

        # What the dashboards say of restarts, asked when one was of use and one was not.
        host.run("keepwatch restart oven.service", rc=1)
        until("a failed restart is counted", lambda: prometheus.query('keepwatch_unit_restart_failures_total{unit="oven.service"} > 0'), 40)
        time.sleep(3)
        dashboards.answered_under_systemd(prometheus, clock)
        mark("given up")
        # --- mended: what the runbooks say ---
        os.remove(host.path("broken"))
        host.write("ok", "")
        os.rename(host.path("srv/gone"), host.path("srv/far"))
        host.run("systemctl start shop.service && keepwatch reset shop.service")
        for job in ("db", "app", "archive"):
            host.run("keepwatch backup --job %s" % job)
        for name in ("KeepwatchCheckDown", "KeepwatchUnitRestartGaveUp", "KeepwatchRepositoryUnreachable", "KeepwatchBackupFailed"):
            until("%s is over" % name, lambda: telegram.about(name, "is over"), 60)
        until("the mails say so", lambda: smtp.about("[over]", "KeepwatchCheckDown"))
        [over] = telegram.about("KeepwatchBackupFailed", "is over")
        need("Backup db to disk" in over["text"] and "Backup app to disk" in over["text"], over)
        # Shares of an hour and restarts of a quarter of an hour take their time.
        need(set(ours()) <= {"KeepwatchCheckErrorBudgetBurn", "KeepwatchUnitRestartFailed"}, "all is well again, but for %s" % ours())

        mark("mended")
        # --- the agent is stopped: one message, and none about what nobody can know ---
        before = len(telegram.seen)
        host.run("systemctl stop keepwatch")
        until("the agent is gone", lambda: telegram.about("KeepwatchDown", "does not answer"), 40)
        time.sleep(4)
        need([m["text"].split("\n")[0] for m in telegram.seen[before:]] == ["🔴 KeepwatchDown on web1 (1 firing)"], telegram.seen[before:])
        host.run("systemctl start keepwatch")
        until("it is back", lambda: telegram.about("KeepwatchDown", "is over"), 40)

        mark("agent back")
        # --- each message came once ---
        time.sleep(4)
        heads = [m["text"].split("\n")[0] for m in telegram.seen]
        for name in ("KeepwatchBackupFailed", "KeepwatchCheckDown", "KeepwatchRepositoryUnreachable", "KeepwatchUnitRestartGaveUp", "KeepwatchDown"):
            # The repository may be seen to be back before the job that wants it has run again: a third one that nothing explains any more.
            late = lambda h: name == "KeepwatchBackupFailed" and "(3 firing)" in h
            need(len([h for h in heads if name + " on web1" in h and not late(h)]) == 2, "%s: once that it is, once that it is over: %s" % (name, heads))
        need(not telegram.refused, "Telegram took all of them: %s" % telegram.refused)
        need(not any("Watchdog" in h for h in heads) and not smtp.about("Watchdog"), "the watchdog is for the switch alone")

        mark("counted")
        # --- the way itself breaks: the switch outside notices ---
        need(not dead_man.overdue(), "the switch was content all the time")
        gaps = [b - a for a, b in zip(dead_man.times, dead_man.times[1:])]
        need(max(gaps) < dead_man.patience, "the longest pause was %s" % max(gaps))
        manager.stop()
        until("the switch notices that Alertmanager is dead", dead_man.overdue, 40)
        manager.start()
        until("the switch is content again", lambda: not dead_man.overdue(), 60)
        prometheus.stop()
        until("the switch notices that Prometheus is dead", dead_man.overdue, 60)
    for server in (telegram.web, dead_man.web, hook):
        server.close()
    mark("done")
    print("%d messages, %d mails, %d signs of life; %s" % (len(telegram.seen), len(smtp.seen), len(dead_man.times), ", ".join(marks)))


# Rules of inhibition: what inhibits, what is inhibited, and of the latter one that is about something else.
INHIBITED = {
    "the agent is away": ({"alertname": "KeepwatchDown", "severity": "critical"}, {"alertname": "KeepwatchBackupStale", "backup": "home"}, {"instance": "web2"}),
    "nobody knows of the agent": ({"alertname": "KeepwatchAbsent", "severity": "critical"}, {"alertname": "KeepwatchCheckDown", "check": "shop", "severity": "critical"}, {"instance": "web2"}),
    "the graver of two": ({"alertname": "KeepwatchCheckDown", "check": "shop", "severity": "critical"}, {"alertname": "KeepwatchCheckDown", "check": "shop"}, {"check": "mail"}),
    "a unit is given up": ({"alertname": "KeepwatchUnitRestartGaveUp", "unit": "a.service", "severity": "critical"}, {"alertname": "KeepwatchUnitRestartLoop", "unit": "a.service"}, {"unit": "b.service"}),
    "so its restarts failed": ({"alertname": "KeepwatchUnitRestartGaveUp", "unit": "a.service", "severity": "critical"}, {"alertname": "KeepwatchUnitRestartFailed", "unit": "a.service"}, {"unit": "b.service"}),
    "a repository is away": ({"alertname": "KeepwatchRepositoryUnreachable", "repository": "far"}, {"alertname": "KeepwatchBackupFailed", "backup": "home", "repository": "far"}, {"repository": "disk"}),
    "so it has errors": ({"alertname": "KeepwatchRepositoryUnreachable", "repository": "far"}, {"alertname": "KeepwatchRepositoryErrors", "repository": "far"}, {"repository": "disk"}),
    "and what is left in it": ({"alertname": "KeepwatchRepositoryUnreachable", "repository": "far"}, {"alertname": "KeepwatchRepositoryStaleLock", "repository": "far"}, {"repository": "disk"}),
    "it never succeeded": ({"alertname": "KeepwatchBackupNeverSucceeded", "backup": "home", "repository": "disk", "severity": "critical"}, {"alertname": "KeepwatchBackupFailed", "backup": "home", "repository": "disk"}, {"backup": "mail"}),
}


def test_each_inhibition(t):
    """Every rule of inhibition in a real Alertmanager: what it is for is silent, what is about something else is not, and the watchdog never is."""
    telegram, smtp, dead_man = Telegram(), Smtp(), DeadMan(patience=60)
    hook = Web(lambda *_: (200, "{}"))
    manager = Alertmanager(t, telegram, smtp, dead_man, "http://127.0.0.1:%d/hook" % hook.port)
    with running(manager):
        manager.start()
        text = pathlib.Path(t.path("alertmanager/alertmanager.yml")).read_text()
        rules = text[text.index("inhibit_rules:"):text.index("receivers:")].count("source_matchers")
        need(rules == 5, "a rule of inhibition has no case here: %d" % rules)
        for name, (source, target, other) in INHIBITED.items():
            base = {"instance": name.replace(" ", "-"), "severity": "warning", "job": "keepwatch"}
            source, target = {**base, **source}, {**base, **target}
            alerts = [source, target, {**target, **other}, {**base, "alertname": "Watchdog", "severity": "none"}]
            now = datetime.datetime.now(datetime.timezone.utc)
            sent = json.dumps([{"labels": labels, "startsAt": now.isoformat(), "endsAt": (now + datetime.timedelta(minutes=5)).isoformat()} for labels in alerts])
            request = urllib.request.Request("http://127.0.0.1:%d/api/v2/alerts" % manager.port, sent.encode(), {"Content-Type": "application/json"})
            urllib.request.urlopen(request, timeout=10).close()

            def states():
                found = ask(manager.port, "/api/v2/alerts")
                mine = [[a["status"] for a in found if a["labels"] == labels] for labels in alerts]
                return mine if all(mine) else None
            known = until("%s: all are known" % name, states)
            silent = [bool(s[0]["inhibitedBy"]) for s in known]
            need(silent == [False, True, False, False], "%s: inhibited are %s of %s" % (name, silent, alerts))
    for server in (telegram.web, dead_man.web, hook):
        server.close()


def test_runbooks_name_only_what_there_is(t):
    """Every command of ours in the runbooks, and in the texts of alerts, is a verb with these options."""
    text = (ROOT / "docs/runbooks.md").read_text() + "".join(f.read_text() for f in sorted((ROOT / "alerts").glob("*.yml")))
    text = re.sub(r"\n(?=--read-data)", " ", text)
    found = set(re.findall(r"(?:`|^ *)(keepwatch [a-z][^`\n#|]*)", text, re.M))
    need(len(found) > 40, found)
    helps = {}

    def help_of(*words):
        if words not in helps:
            helps[words] = t.kw(*words, "--help").text
        return helps[words]
    verbs = set(re.findall(r"(?m)^  ([a-z]+) ", help_of().split("Commands:")[1].split("Options:")[0]))
    need("backup" in verbs and len(verbs) > 20, verbs)
    for command in sorted(found):
        words = shlex.split(re.sub(r"\{\{.*?\}\}", "X", command).replace("'keepwatch-*'", "x").split("&&")[0].split("<")[0].split(">")[0])
        need(words[1] in verbs, "there is no verb %s: %s" % (words[1], command))
        page = help_of(words[1])
        if re.search(r"(?m)^Commands:", page) and len(words) > 2 and not words[2].startswith("-"):
            need(re.search(r"(?m)^  %s\b" % re.escape(words[2]), page), "there is no %s %s: %s" % (words[1], words[2], command))
            page = help_of(words[1], words[2])
        for option in (w.split("=")[0] for w in words[2:] if w.startswith("--")):
            need(re.search(r"(?<![\w-])%s(?![\w-])" % re.escape(option), page), "%s has no option %s: %s" % (words[1], option, command))

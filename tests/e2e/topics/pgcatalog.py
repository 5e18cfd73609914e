"""The catalog in a real PostgreSQL, which is killed and comes back: the daemon, jobs and what a person asks, as with SQLite."""
import glob, os, signal, time

from harness import need, until
from topics import agent, jobs, sources

PASSWORD = "canary-9b1e-password-of-the-catalog"


def series(name, more=""):
    return 'keepwatch_backup_%s{backup="home",repository="disk"}' % name + more


def is_over(incidents):
    """There were some, and none is open."""
    return incidents and not [e for e in incidents if "closed" not in e]


def make(t, place):
    """A server with a role that needs a password; the part of the configuration that names it."""
    pg = sources.Pg(place)
    pg.sql("postgres", "CREATE ROLE keepwatch LOGIN PASSWORD '%s'" % PASSWORD)
    pg.sql("postgres", "CREATE DATABASE keepwatch OWNER keepwatch ENCODING 'UTF8' TEMPLATE template0")
    hba = pg.home + "/d/pg_hba.conf"
    with open(hba) as f:
        before = f.read()
    with open(hba, "w") as f:
        f.write("local keepwatch keepwatch scram-sha-256\n" + before)
    pg.sql("postgres", "SELECT pg_reload_conf()")
    t.write("password", PASSWORD)
    os.chmod(t.path("password"), 0o600)
    url = "postgres://keepwatch@localhost/keepwatch?host=" + pg.home
    return pg, '[catalog]\ndatabase.postgresql = { url = "%s", password_file = "%s" }\n' % (url, t.path("password"))


def start(place, pg):
    """The same server again; the first start after a kill replays its log."""
    process = place.serve(pg.bin + "/postgres", "-D", pg.home + "/d", "-c", "listen_addresses=", "-c", "fsync=off", "-k", pg.home, cwd="/", **pg.me)
    sources.wait_for("PostgreSQL", lambda: pg.run("psql", "-h", pg.home, "-U", "postgres", "-c", "SELECT 1", check=False).returncode == 0, process)


def test_the_same_story(t):
    src = t.small_tree()
    with sources.Place() as place:
        pg, catalog = make(t, place)
        disk = '[repositories.disk]\nbackend.local = { path = "%s" }\nrecipients = ["%s"]\n' % (t.path("disk"), jobs.RECIPIENT)
        more = catalog + disk + jobs.paths("home", src)
        service = agent.Service()
        with agent.daemon(t, agent.http_check("web", service), more) as d:
            entries = lambda only: t.js("history", "--only", only, "--config", d.file, rc=(0, 4))["entries"]
            until("ready", lambda: d.get("/health/ready")[0] == 200)
            d.kw("backup", "--job", "home")
            until("the daemon sees the run", lambda: d.metric(series("last_successful")) == 1.0, seconds=40)
            need(pg.sql("keepwatch", "SELECT outcome FROM keepwatch.runs WHERE kind = 'backup'") == "succeeded", "it lies in PostgreSQL")
            need(not os.path.exists(t.path("state", "catalog.sqlite")), "and nowhere else")
            service.code = 500
            until("an incident is written down", lambda: [e for e in entries("incidents") if e["subject"] == "web"])
            need("home" in d.kw("status", rc=(0, 1)).text, "status")

            # The server is killed. Checks go on, a backup is made, and both are told afterwards.
            place.processes[-1].kill()
            place.processes[-1].wait()
            runs = lambda: d.metric('keepwatch_check_runs_total{check="web",kind="http"}')
            before = runs()
            service.code = 200
            until("checks go on", lambda: runs() > before + 3 and d.metric('keepwatch_check_up{check="web",kind="http"}') == 1.0)
            need(d.get("/health/live")[0] == 200, "alive")
            t.write("src/more", b"more")
            began = time.monotonic()
            run = d.kw("backup", "--job", "home")
            need(time.monotonic() - began < 30, "a backup does not wait for its record")
            need(PASSWORD not in run.said + run.text + d.text(), "a secret was told")
            until("it is told that the catalog is away", lambda: d.metric('keepwatch_collector_success{collector="catalog"}') == 0.0, seconds=40)

            start(place, pg)
            until("the run that nobody could write down is there", lambda: len(entries("runs")) >= 2, seconds=60)
            until("so is the end of the incident", lambda: is_over(entries("incidents")), seconds=60)
            until("all is well again", lambda: d.metric('keepwatch_collector_success{collector="catalog"}') == 1.0, seconds=40)
            need(pg.sql("keepwatch", "SELECT COUNT(*) FROM keepwatch.runs WHERE kind = 'backup' AND outcome = 'succeeded'") == "2", "each once")
            d.stop()
            # Another daemon remembers what this one knew.
            d.told.clear()
            d.start()
            until("ready", lambda: d.get("/health/ready")[0] == 200)
            need(is_over(entries("incidents")), "nothing is open")
            d.stop()

            t.write("password", "wrong" + PASSWORD)
            for verb in ("status", "history"):
                run = d.kw(verb, rc=None)
                need(run.code in (1, 3, 4) and "password" in run.said and PASSWORD not in run.said + run.text, run)
            run = d.kw("backup", "--job", "home")
            need(PASSWORD not in run.said + run.text and run.code == 0, "a backup is made all the same")
        service.close()


def test_a_server_that_hangs_costs_no_memory(t):
    """Nothing is refused, nothing is answered. What happened and what is to be remembered is there after the next start."""
    with sources.Place() as place:
        pg, catalog = make(t, place)
        service = agent.Service()
        with agent.daemon(t, agent.http_check("web", service), catalog) as d:
            entries = lambda: t.js("history", "--only", "incidents", "--config", d.file, rc=(0, 4))["entries"]
            until("ready", lambda: d.get("/health/ready")[0] == 200)
            until("it is remembered", lambda: pg.sql("keepwatch", "SELECT COUNT(*) FROM keepwatch.states") != "0")
            server = place.processes[-1].pid
            stopped = [server] + jobs.children(server)
            try:
                for pid in stopped:
                    os.kill(pid, signal.SIGSTOP)
                service.code = 500
                until("judged without a catalog", lambda: d.metric('keepwatch_check_up{check="web",kind="http"}') == 0.0)
                took = d.stop()
                need(took < 10, "took %s" % took)
            finally:
                for pid in stopped:
                    os.kill(pid, signal.SIGCONT)
            need("lost" not in d.text() and "nothing is remembered" not in d.text(), d.text()[-3000:])
            need(os.path.exists(t.path("state", "memory.json")), "what is to be remembered lies in a file")
            spooled = "".join(open(f).read() for f in glob.glob(t.path("state", "spool", "*.jsonl")))
            need('"incident"' in spooled, "what happened lies in the spool: %s" % spooled[:1000])
            d.told.clear()
            d.start()
            until("the incident is in the history", lambda: len(entries()) == 1 and "closed" not in entries()[0], seconds=60)
            need(d.metric('keepwatch_check_up{check="web",kind="http"}') == 0.0, "it is remembered as down")
            service.code = 200
            until("and ends there", lambda: len(entries()) == 1 and is_over(entries()), seconds=60)
            d.stop()
        service.close()

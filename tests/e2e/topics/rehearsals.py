"""Drills that start a server of their own on what was backed up: Qdrant (a stand-in, and the real one where it is named), and base backups of PostgreSQL."""
import glob, http.client, json, os, shutil, signal, socket, sqlite3, time

from harness import Skip, content_of, free_port, is_root, need, remove
from topics.jobs import configure, rows, wait_for
from topics.sources import Place, cmdline
from topics.wal import postgresql_17, with_server

KEY = b"qk-5f0c1d-secret"


# Qdrant.

class Qdrant:
    """A server with points, from a program that is started as Qdrant is."""

    def __init__(self, place, program):
        self.port = free_port()
        self.home = os.path.join(place.dir, "source")
        os.mkdir(self.home)
        config = os.path.join(self.home, "config.yaml")
        with open(config, "w") as f:
            f.write('service:\n  host: 127.0.0.1\n  http_port: %d\n  grpc_port: null\n  api_key: "%s"\nstorage:\n  storage_path: "%s/storage"\n  snapshots_path: "%s/snapshots"\ntelemetry_disabled: true\n'
                    % (self.port, KEY.decode(), self.home, self.home))
        self.process = place.serve(program, "--config-path", config, cwd=self.home)
        wait_for("Qdrant", lambda: self.alive(), self.process)

    def alive(self):
        try:
            return self.ask("GET", "/healthz", key=None)[0] == 200
        except OSError:
            return False

    def ask(self, method, path, body=None, key=KEY.decode()):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request(method, path, json.dumps(body) if body is not None else None, {"Content-Type": "application/json", **({"api-key": key} if key else {})})
        answer = connection.getresponse()
        return answer.status, answer.read()

    def fill(self, name, count):
        need(self.ask("PUT", "/collections/" + name, {"vectors": {"size": 4, "distance": "Cosine"}})[0] == 200, name)
        points = [{"id": i, "vector": [1.0, i / 100, 0.5, 0.1], "payload": {"n": "x" * 100}} for i in range(1, count + 1)]
        status, said = self.ask("PUT", "/collections/%s/points?wait=true" % name, {"points": points})
        need(status == 200, said)


def package(place, name, program, *wrong):
    """An installation: a directory with bin/qdrant."""
    bin = os.path.join(place.dir, name, "bin")
    os.makedirs(bin)
    path = os.path.join(bin, "qdrant")
    with open(path, "w") as f:
        f.write('#!/bin/sh\nexec %s %s "$@"\n' % (program, " ".join(wrong)))
    os.chmod(path, 0o755)
    return os.path.dirname(bin)


def stand_in(place):
    path = os.path.join(place.dir, "stand-in")
    shutil.copy(os.path.join(os.path.dirname(__file__), "../qdrant.py"), path)
    os.chmod(path, 0o755)
    return path


def of_scratch(place):
    """Processes whose command line speaks of a scratch directory here."""
    mark = ("%s/kw-scratch" % place.dir).encode()
    return [p for p in os.listdir("/proc") if p.isdigit() and p != str(os.getpid()) and mark in cmdline(p)]


def status(pid):
    """State, parent and group of a process, for messages."""
    try:
        with open("/proc/%s/stat" % pid) as f:
            return f.read().rsplit(")", 1)[1].split()[:3]
    except OSError:
        return "gone"


def nothing_left(place):
    # What was killed is not waited for, and may need a moment to be gone.
    until = time.monotonic() + 10
    while (alive := of_scratch(place)) and time.monotonic() < until:
        time.sleep(0.1)
    need(not alive, "left: %s" % [(p, cmdline(p)[:300], status(p)) for p in alive])
    left = [n for n in os.listdir(place.dir) if "scratch" in n]
    need(not left, left)


def identity_of(t, home="home"):
    return [f for f in glob.glob(t.path(home + "/.config/keepwatch/*")) if "identity" in f][0]


def rehearsed(t, place, program, drills):
    """A backup of two collections and an alias, and the drills of the configuration. Returns what runs a drill, and the server."""
    server = Qdrant(place, program)
    server.fill("kw", 50)
    server.fill("other", 7)
    need(server.ask("POST", "/collections/aliases", {"actions": [{"create_alias": {"collection_name": "kw", "alias_name": "live"}}]})[0] == 200, "an alias")
    t.repository("disk")
    t.secrets.append(KEY)
    text = '[backups.vectors]\nretry = { attempts = 0 }\nsource.qdrant = { url = "http://127.0.0.1:%d", api_key_file = "%s" }\n' % (server.port, t.write("key", KEY, 0o600))
    for name, of in drills.items():
        text += '[drills.%s]\nbackup = "vectors"\ntarget.qdrant = %s\n' % (name, '{ package = "%s" }' % of if of else "{ }")
    config = configure(t, text, more='initialize = false\nidentity_file = "%s"' % identity_of(t))
    env = dict(t.env, TMPDIR=place.dir)
    t.kw("config", "check", "--config", config)
    t.kw("backup", "--job", "vectors", "--config", config, env=env)
    need(json.loads(server.ask("GET", "/collections/kw/snapshots")[1])["result"] == [], "a snapshot stays on the server")
    return lambda *args, **more: t.kw("drill", *args, "--config", config, env=env, **more), server, config, env


def test_qdrant_is_rehearsed_in_a_server_of_its_own(t):
    with Place() as place:
        program = stand_in(place)
        kinds = {"good": (), "loses": ("--lose",), "dies": ("--die",)}
        packages = {name: package(place, name, program, *wrong) for name, wrong in kinds.items()}
        drill, server, config, env = rehearsed(t, place, program, {**packages, "none": os.path.join(place.dir, "nowhere"), "path": None})
        # The original is gone: what is counted is what was backed up.
        server.process.kill()
        server.process.wait()
        drill("good")
        nothing_left(place)
        run = drill("loses", rc=1)
        need("50 were counted when it was dumped, 49 are there" in run.said and "2 of 2" in run.said, run)
        run = drill("dies", rc=1)
        need("private server 'qdrant' of the rehearsal ended at once (exit status: 1): Panic occurred in file src/main.rs: cannot map the storage" in run.said, run)
        run = drill("none", rc=1)
        need("there is no program qdrant in %s/nowhere" % place.dir in run.said, run)
        if not any(os.path.exists(d + "/qdrant") for d in env["PATH"].split(":") + ["/usr/local/bin", "/run/current-system/sw/bin"]):
            run = drill("path", rc=1)
            need("the program qdrant is not installed" in run.said, run)
        nothing_left(place)
        found = {r["job"]: r for r in rows(t, ["drill"])}
        need(found["good"]["outcome"] == "succeeded" and found["good"]["snapshot"] and not found["good"]["error_class"], found["good"])
        for name in ("loses", "dies", "none"):
            need(found[name]["outcome"] == "failed" and KEY.decode() not in str(found[name]), found[name])
        need("49 are there" in found["loses"]["error_text"], found["loses"])
        # Questions in SQL are for databases.
        need("expect.sql" in t.kw("config", "check", "--config", with_sql(t, config), rc=(1, 2)).said, "SQL for Qdrant")
        run = t.kw("drill", "--repo", t.path("disk"), "--target", "qdrant?package=" + packages["good"], "--expect-sql", "SELECT 1", rc=(1, 2), env=env)
        need("Qdrant answers no questions in SQL" in run.said, run)
        killed(t, place, drill, packages["good"], env)


def with_sql(t, config):
    with open(config) as f:
        return t.write("sql.toml", f.read().replace("[drills.good]\n", '[drills.good]\nexpect.sql = ["SELECT 1"]\n'))


def killed(t, place, drill, installed, env):
    """Killed while its server runs: the next one ends it. Whoever is on this host cannot ask it, and finds its key nowhere."""
    argv = ["drill", "--repo", t.path("disk"), "--scratch", place.dir, "--target", "qdrant?package=" + installed]
    process = t.start(*argv, env=env)

    def ready():
        for config in glob.glob(place.dir + "/kw-scratch-*/qdrant.yaml"):
            with open(config) as f:
                text = f.read()
            # Stopped before it has written down whom it started, it leaves a server that nobody finds.
            if of_scratch(place) and glob.glob(place.dir + "/kw-scratch-*/s/storage") and glob.glob(place.dir + "/kw-scratch-*/*.server"):
                return text
    text = wait_for("the private server", ready, process)
    process.send_signal(signal.SIGSTOP)
    [port] = [line.split()[1] for line in text.splitlines() if "http_port" in line]
    [key] = [line.split('"')[1] for line in text.splitlines() if "api_key" in line]
    need(len(key) == 64, "a key of its own")
    t.secrets.append(key.encode())
    for path in glob.glob(place.dir + "/kw-scratch-*/qdrant.*"):
        need(path.endswith((".log", ".server")) or os.stat(path).st_mode & 0o077 == 0, path)
    for pid in of_scratch(place) + [str(process.pid)]:
        with open("/proc/%s/environ" % pid, "rb") as f:
            need(key.encode() not in cmdline(pid) + f.read(), "the key is seen from outside")
    for log in glob.glob(place.dir + "/kw-scratch-*/*.log"):
        with open(log, "rb") as f:
            need(key.encode() not in f.read(), "the key is logged")

    def refused():
        connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=10)
        connection.request("GET", "/collections")
        return connection.getresponse().status == 401
    wait_for("it listens", lambda: attempt(refused), process)
    process.kill()
    process.communicate()
    need(of_scratch(place), "the server went with the drill")
    document = t.js(*argv, env=env)
    asked = [(e["question"].split(" when")[0], e["holds"]) for e in document["expectations"]]
    need(document["succeeded"] and asked == [("the collection 'kw' holds its points: 50 were counted", True), ("the collection 'other' holds its points: 7 were counted", True)], document)
    nothing_left(place)


def attempt(what):
    try:
        return what()
    except OSError:
        return False


def test_qdrant_the_real_one(t):
    """The same with the program that KEEPWATCH_TEST_QDRANT_BINARY names."""
    real = os.environ.get("KEEPWATCH_TEST_QDRANT_BINARY")
    if not real:
        raise Skip("KEEPWATCH_TEST_QDRANT_BINARY names no Qdrant: only the stand-in was rehearsed")
    with Place() as place:
        program = os.path.join(place.dir, "real-qdrant")
        shutil.copy(real, program)
        os.chmod(program, 0o755)
        good = package(place, "good", program)
        drill, server, config, env = rehearsed(t, place, program, {"good": good})
        drill("good")
        nothing_left(place)
        killed(t, place, drill, good, env)


# Base backups of PostgreSQL.

def make_hostile(pg, data, marker, port):
    """Configuration, access rules and catalogs by which a server elsewhere would not start, would archive, listen, ask others, or refuse us. The one that runs has not read the files again."""
    pg.sql("CREATE ROLE boss SUPERUSER LOGIN")
    pg.sh("psql", "-X", "-q", "-U", "boss", "-c", "ALTER ROLE postgres RENAME TO chief")
    pg.env["PGUSER"] = "chief"
    pg.sql("CREATE SUBSCRIPTION away CONNECTION 'host=127.0.0.1 port=%d dbname=x user=x' PUBLICATION p WITH (connect = false, slot_name = 'away')" % port)
    pg.sql("ALTER SUBSCRIPTION away ENABLE")
    with open(data + "/postgresql.conf", "a") as f:
        f.write("shared_preload_libraries='no_such_library'\nlisten_addresses='*'\nport=%d\nssl=on\nssl_cert_file='/nowhere/cert'\nhba_file='/nowhere/hba'\nident_file='/nowhere/ident'\ndata_directory='/nowhere'\n"
                "unix_socket_directories='/nowhere'\nlogging_collector=on\nlog_directory='/nowhere'\narchive_mode=always\narchive_command='touch %s'\nlc_messages='xx_YY'\n" % (port, marker))
    with open(data + "/postgresql.auto.conf", "a") as f:
        f.write("archive_command = 'touch %s'\narchive_library = ''\nprimary_conninfo = 'host=127.0.0.1 port=%d'\nrecovery_target_time = '2000-01-01'\nrecovery_end_command = 'touch %s'\nsession_preload_libraries = 'no_such_library'\n"
                % (marker, port, marker))
    with open(data + "/pg_hba.conf", "w") as f:
        f.write("local all all reject\n")


QUESTIONS = ["SELECT count(*) = 3 FROM rows", "@postgres SELECT NOT pg_is_in_recovery()", "@app SELECT count(*) = 1 FROM pg_prepared_xacts",
             "SELECT string_agg(name || setting, ',' ORDER BY name) = 'archive_modeoff,listen_addresses,shared_preload_libraries,ssloff' FROM pg_settings WHERE name IN ('listen_addresses', 'archive_mode', 'ssl', 'shared_preload_libraries')"]


@with_server
def test_a_base_backup_is_rehearsed(t, pg):
    """A server of its own replays the log to its end, has nothing of the original's configuration, and leaves nothing; a lost segment and a wrong answer fail it."""
    marker = pg.home + "/marker"
    silent = socket.create_server(("127.0.0.1", 0))
    silent.setblocking(False)
    data = pg.create()
    with open(data + "/postgresql.conf", "a") as f:
        f.write("max_prepared_transactions=5\n")
    pg.start(data)
    version = pg.sql("SHOW server_version").split()[0].split(".")[0]
    pg.sql("CREATE DATABASE app")
    app = lambda text: pg.sh("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", "app", "-c", text)
    app("CREATE TABLE rows (n int); INSERT INTO rows VALUES (1)")
    pg.sh("psql", "-X", "-q", "-d", "app", "-c", "BEGIN", "-c", "INSERT INTO rows VALUES (99)", "-c", "PREPARE TRANSACTION 'open'")
    alone = pg.home + "/alone"
    pg.kw("init", "--repo", alone)
    pg.kw("wal", "backup", "--repo", alone, "--with-wal")
    make_hostile(pg, data, marker, silent.getsockname()[1])
    pg.js("wal", "backup", "--repo", pg.repo)
    segments = []
    for n in (2, 3):
        app("INSERT INTO rows VALUES (%d)" % n)
        segments.append(pg.archived())
    app("ALTER DATABASE app SET session_preload_libraries = 'no_such_library'")
    segments.append(pg.archived())
    pg.stop(data)
    need(asked(silent), "the original asks for what it subscribed to")
    while asked(silent):
        pass
    before = content_of(pg.repo)
    package, identity = os.path.dirname(pg.bin), pg.home + "/.config/keepwatch/identity.txt"
    with Place() as place:
        os.chmod(place.dir, 0o777)
        config = t.write("homepg/config.toml", pg.configuration(socket.gethostname(), 'identity_file = "%s"' % identity) + """
[backups.postgresql-physical]
repositories = ["disk"]
source.postgresql_cluster = { host = "%s", port = 5999 }
[drills.cluster]
backup = "postgresql-physical"
target.postgresql = { package = "%s" }
expect = { sql = %s, min_files = 500, min_bytes = "5M", max_duration = "5m" }
[drills.wrong]
backup = "postgresql-physical"
target.postgresql = { package = "%s" }
expect.sql = ["SELECT count(*) = 4 FROM rows", "@none SELECT true"]
[drills.other]
backup = "postgresql-physical"
target.postgresql = { package = "%s" }
""" % (pg.home, package, json.dumps(QUESTIONS), package, older(place)), 0o644)
        env = dict(pg.env, TMPDIR=place.dir)
        drill = lambda name, rc=0: t.kw("drill", name, "--config", config, rc=rc, env=env, uid=pg.uid, cwd=pg.home)
        t.kw("config", "check", "--config", config, env=env, uid=pg.uid, cwd=pg.home)
        drill("cluster")
        nothing_left(place)
        said = drill("wrong", rc=1).said
        need("count(*) = 4" in said and "holds no database 'none'" in said and "2 of 3" in said, said)
        said = drill("other", rc=1).said
        need("the base backup is of PostgreSQL %s, which alone can start it, and %s/older/bin/postgres is postgres (PostgreSQL) 9.6.1" % (version, place.dir) in said, said)
        nothing_left(place)
        db = sqlite3.connect("file:%s/state/catalog.sqlite?mode=ro" % pg.home, uri=True)
        runs = db.execute("SELECT job, outcome, error_text FROM runs WHERE kind = 'drill' ORDER BY started, id").fetchall()
        need([r[:2] for r in runs] == [("cluster", "succeeded"), ("wrong", "failed"), ("other", "failed")] and "count(*) = 4" in runs[1][2], runs)
        db.close()
        # By root, as the user of the server.
        argv = ["drill", "--repo", pg.repo, "--identity", identity, "--scratch", place.dir, "--target", "postgresql?package=" + package] + [w for q in QUESTIONS for w in ("--expect-sql", q)]
        more = dict(env=pg.env, cwd=pg.home)
        document = t.js(*argv, **more)
        need(document["succeeded"] and document["expectations"][0]["question"] == "the log is replayed to its end, in segment " + segments[-1], document)
        nothing_left(place)
        seen_and_killed(t, place, argv, more)
        said = t.kw(*argv[:-len(QUESTIONS) * 2 - 1], "postgresql?scratch-prefix=kwdrill", rc=2, **more).said
        need("a whole cluster" in said, said)
        # One that has its log with it, and no archive.
        document = t.js("drill", "--repo", alone, *argv[3:-len(QUESTIONS) * 2], "--expect-sql", "SELECT count(*) = 1 FROM rows", **more)
        need(document["succeeded"] and "until it is consistent" in document["expectations"][0]["question"], document)
        # It was never in touch with anybody.
        need(content_of(pg.repo) == before and not os.path.exists(marker), "it archived")
        need(not asked(silent), "it asked another server")
        # A server that ends, one that says nothing of its control file, a full disk, and a log with a hole.
        said = t.kw(*argv[:-len(QUESTIONS) * 2 - 1], "postgresql?package=" + broken(place, pg.bin), rc=1, **more).said
        need("PostgreSQL cannot be started on the restored base backup: the moon is in the way" in said, said)
        nothing_left(place)
        if is_root():
            small = os.path.join(place.dir, "small")
            os.mkdir(small)
            t.sh("mount", "-t", "tmpfs", "-o", "size=8m", "none", small)
            said = t.kw(*[small if w == place.dir else w for w in argv], rc=1, **more).said
            need("not enough space in the scratch directory" in said, said)
            need(os.listdir(small) == [], os.listdir(small))
        for path in glob.glob(pg.repo + "/wal/**/*" + segments[1] + "*", recursive=True):
            os.unlink(path)
        said = drill("cluster", rc=1).said
        need("cannot be brought to the end of its log: a segment is missing from %s to %s" % (segments[1], segments[1]) in said, said)
        nothing_left(place)
        db = sqlite3.connect("file:%s/state/catalog.sqlite?mode=ro" % pg.home, uri=True)
        last = db.execute("SELECT outcome, error_class FROM runs WHERE kind = 'drill' ORDER BY started DESC, id DESC LIMIT 1").fetchone()
        need(last == ("failed", "verify"), last)
        db.close()
    silent.close()


def asked(listener):
    """Whether somebody has connected."""
    try:
        listener.accept()[0].close()
        return True
    except BlockingIOError:
        return False


def older(place):
    bin = os.path.join(place.dir, "older", "bin")
    os.makedirs(bin)
    with open(bin + "/postgres", "w") as f:
        f.write("#!/bin/sh\necho 'postgres (PostgreSQL) 9.6.1'\n")
    os.chmod(bin + "/postgres", 0o755)
    return os.path.dirname(bin)


def broken(place, real):
    bin = os.path.join(place.dir, "broken", "bin")
    os.makedirs(bin)
    os.symlink(real + "/pg_controldata", bin + "/pg_controldata")
    with open(bin + "/postgres", "w") as f:
        f.write("#!/bin/sh\n[ \"$1\" = --version ] && exec %s/postgres --version\necho 'LOG:  starting'\necho 'FATAL:  the moon is in the way'\nexit 1\n" % real)
    os.chmod(bin + "/postgres", 0o755)
    return os.path.dirname(bin)


def seen_and_killed(t, place, argv, more):
    """While it runs: the server knows nothing of the repository or the identity, and nobody else gets in. Killed, it is swept by the next."""
    process = t.start(*argv, **more)
    home = lambda: glob.glob(place.dir + "/kw-scratch-*/s")
    wait_for("the private server", lambda: [p for p in of_scratch(place) if p != str(process.pid)] and glob.glob(place.dir + "/kw-scratch-*/s/data/postmaster.pid") and glob.glob(place.dir + "/kw-scratch-*/*.server"), process)
    process.send_signal(signal.SIGSTOP)
    servers = [p for p in of_scratch(place) if p != str(process.pid)]
    for pid in servers:
        try:
            with open("/proc/%s/environ" % pid, "rb") as f:
                seen = f.read() + cmdline(pid)
        except OSError:
            continue
        need(b"identity" not in seen and b"AGE-" not in seen and b"KEEPWATCH" not in seen and b"repo" not in seen, seen)
    need([os.stat(h).st_mode & 0o777 for h in home()] == [0o700], "others can get at the socket")
    for path in glob.glob(place.dir + "/kw-scratch-*/pg*") + glob.glob(place.dir + "/kw-scratch-*/*.conf"):
        need(os.stat(path).st_mode & 0o077 == 0, path)
    process.kill()
    process.communicate()
    document = t.js(*argv, **more)
    need(document["succeeded"], document)
    nothing_left(place)


def test_a_chain_of_base_backups_is_rehearsed(t):
    """PostgreSQL 17: the drill restores an incremental one with all that it is built on."""
    with_server(chained, postgresql_17)(t)


def chained(t, pg):
    data = pg.create(segment=16)
    with open(data + "/postgresql.conf", "a") as f:
        f.write("summarize_wal=on\n")
    pg.start(data)
    pg.sql("CREATE TABLE rows (n int); INSERT INTO rows VALUES (1)")
    made = []
    for n in (2, 3):
        made.append(pg.js("wal", "backup", "--repo", pg.repo, "--incremental", "--pg-bin", pg.bin))
        pg.sql("INSERT INTO rows VALUES (%d)" % n)
    need(made[1]["incremental"], made[1])
    before = content_of(pg.repo)
    plan = pg.js("wal", "backup", "--repo", pg.repo, "--incremental", "--pg-bin", pg.bin, "--dry-run")
    need(plan["incremental"] and plan["built_on"] == made[1]["snapshot"] and plan["server_version"].startswith("17") and plan["database_bytes"] > 1 << 20, plan)
    need("built on " + made[1]["snapshot"][:8] in pg.kw("wal", "backup", "--repo", pg.repo, "--incremental", "--pg-bin", pg.bin, "-n").text, "in words")
    need(content_of(pg.repo) == before, "a dry run stored something")
    pg.archived()
    pg.stop(data)
    remove(data)
    killed_while_combined(t, pg)
    identity = pg.home + "/.config/keepwatch/identity.txt"
    with Place() as place:
        os.chmod(place.dir, 0o777)
        argv = ["drill", "--repo", pg.repo, "--identity", identity, "--scratch", place.dir, "--target", "postgresql?package=" + os.path.dirname(pg.bin)]
        document = t.js(*argv, "--expect-sql", "SELECT count(*) = 3 FROM rows", env=pg.env, cwd=pg.home)
        need(document["succeeded"] and document["snapshot"] == made[1]["snapshot"], document)
        nothing_left(place)
        # Killed while the chain is made one: the program goes with the next.
        slow = os.path.join(place.dir, "slow", "bin")
        os.makedirs(slow)
        for name in os.listdir(pg.bin):
            script = "sleep 1000" if name == "pg_combinebackup" else 'exec %s/%s "$@"' % (pg.bin, name)
            with open(os.path.join(slow, name), "w") as f:
                f.write("#!/bin/sh\n%s\n" % script)
            os.chmod(os.path.join(slow, name), 0o755)
        process = t.start(*argv[:-1], "postgresql?package=" + os.path.dirname(slow), env=pg.env, cwd=pg.home)
        wait_for("the program", lambda: [p for p in of_scratch(place) if b"pg_combinebackup" in cmdline(p)], process)
        process.kill()
        process.communicate()
        need(t.js(*argv, env=pg.env, cwd=pg.home)["succeeded"], "the next one")
        nothing_left(place)
        for path in glob.glob(pg.repo + "/snapshots/**/*" + made[0]["snapshot"] + "*", recursive=True):
            os.unlink(path)
        said = t.kw(*argv, rc=1, env=pg.env, cwd=pg.home).said
        need("one that it is built on is not in the repository" in said, said)
        nothing_left(place)


def killed_while_combined(t, pg):
    """Killed before, while and after its base backups are made one: what is left is no cluster, is known as ours, and the second try works."""
    back, tools = pg.home + "/back", t.path("tools")
    os.mkdir(tools)
    os.chmod(tools, 0o755)

    def combine(before, after):
        with open(tools + "/pg_combinebackup", "w") as f:
            f.write("#!/bin/sh\n%s\n%s/pg_combinebackup \"$@\" || exit\n%s\n" % (before, pg.bin, after))
        os.chmod(tools + "/pg_combinebackup", 0o755)

    argv = ["wal", "restore", "--repo", pg.repo, "--target", back, "--no-archive", "--pg-bin", tools]
    whole = "/.keepwatch-parts-*/whole"
    moments = [
        ("true", "true", lambda: glob.glob(back + "/.keepwatch-parts-*/1")),
        ("touch %s/begun; sleep 2" % pg.home, "true", lambda: os.path.exists(pg.home + "/begun")),
        ("true", "sleep 2", lambda: os.path.exists(glob.glob(back + whole)[0] + "/backup_manifest") if glob.glob(back + whole) else False),
        ("true", "true", lambda: glob.glob(back + "/[a-z]*")),
    ]
    for n, (before, after, moment) in enumerate(moments):
        combine(before, after)
        process = t.start(*argv, env=pg.env, uid=pg.uid, cwd=pg.home)
        end = time.monotonic() + 60
        while not moment() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.0005)
        process.kill()
        process.communicate()
        marked, ordered = os.path.exists(back + "/.keepwatch-restore"), os.path.exists(back + "/recovery.signal")
        need(marked != ordered, "either marked or whole: %s" % sorted(os.listdir(back)))
        if ordered:
            # It was quicker than we.
            need(n == 3, "moment %d" % n)
            remove(back)
            continue
        need(not glob.glob(back + "/global/pg_control") or n == 3, "a server could start on it")
        # While another is at work nothing is removed.
        if n == 1:
            combine("sleep 2", "true")
            busy = t.start(*argv, env=pg.env, uid=pg.uid, cwd=pg.home)
            wait_for("the second", lambda: os.path.exists("%s/.keepwatch-parts-%d" % (back, busy.pid)), busy)
            need("another restore" in pg.kw(*argv, rc=5).said, "two at once")
            t.finish(busy)
        else:
            combine("true", "true")
            need("that was killed left in" in pg.kw(*argv).said, "moment %d" % n)
        if n in (1, 3):
            pg.open(back)
            need(pg.sql("SELECT count(*) FROM rows") == "3", "moment %d" % n)
            pg.stop(back)
        need("not empty" in pg.kw(*argv, rc=5).said, "what was whole is never removed")
        remove(back)

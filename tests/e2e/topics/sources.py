"""Databases and services as sources, with the real servers: dumps that come back, dumps that break off, drills that prove a restore."""
import glob, json, os, pwd, shutil, signal, socket, sqlite3, subprocess, tempfile, time, urllib.parse

from harness import Skip, is_root, need, need_root, need_tools
from topics.jobs import RECIPIENT, configure, rows, wait_for


def as_user(name):
    """Arguments for a process as another user, when we are root."""
    if not is_root():
        return {}
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        raise Skip("there is no user %s" % name)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def give(path, name):
    if is_root():
        shutil.chown(path, name, pwd.getpwnam(name).pw_gid)


class Place:
    """A directory with a short path, for sockets, that other users may enter."""

    def __enter__(self):
        self.dir = tempfile.mkdtemp(prefix="kws", dir="/tmp")
        os.chmod(self.dir, 0o755)
        self.processes = []
        return self

    def serve(self, *argv, **more):
        self.processes.append(subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **more))
        return self.processes[-1]

    def __exit__(self, *_):
        for p in self.processes:
            p.kill()
            p.wait()
        with open("/proc/self/mounts") as f:
            mounted = [line.split()[1] for line in f]
        for place in reversed([m for m in mounted if m.startswith(self.dir + "/")]):
            subprocess.run(["umount", "--lazy", place], capture_output=True)
        shutil.rmtree(self.dir, ignore_errors=True)


class Pg:
    """A PostgreSQL of our own, on a socket."""

    def __init__(self, place):
        found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb")) or list(filter(None, [shutil.which("initdb")]))
        if not found:
            raise Skip("needs PostgreSQL")
        self.bin, self.me = os.path.dirname(found[-1]), as_user("postgres")
        self.home = os.path.join(place.dir, "pg")
        os.mkdir(self.home)
        give(self.home, "postgres")
        self.run("initdb", "--username=postgres", "--auth=trust", "--no-sync", "-D", self.home + "/d")
        self.process = place.serve(self.bin + "/postgres", "-D", self.home + "/d", "-c", "listen_addresses=", "-c", "fsync=off", "-k", self.home, cwd="/", **self.me)
        wait_for("PostgreSQL", lambda: self.run("psql", "-h", self.home, "-U", "postgres", "-c", "SELECT 1", check=False).returncode == 0, self.process)

    def run(self, name, *args, check=True):
        return subprocess.run([os.path.join(self.bin, name), *args], check=check, capture_output=True, cwd="/", stdin=subprocess.DEVNULL, **self.me)

    def sql(self, database, text):
        return self.run("psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-h", self.home, "-U", "postgres", "-d", database, "-c", text).stdout.decode().strip()

    def args(self):
        return ["--source", "postgresql", "--socket", self.home, "--package", os.path.dirname(self.bin)]

    def make(self, name, rows=20000):
        self.sql("postgres", "CREATE DATABASE %s" % name)
        self.sql(name, "CREATE TABLE t AS SELECT i, md5(i::text) a FROM generate_series(1, %d) i; CREATE SEQUENCE s; SELECT setval('s', 4711)" % rows)

    def print(self, name):
        return self.sql(name, "SELECT count(*), md5(string_agg(i || a, ',' ORDER BY i)), (SELECT last_value FROM s) FROM t")


class Maria:
    """A MariaDB of our own, on a socket."""

    def __init__(self, place):
        self.home, self.dump = os.path.join(place.dir, "db"), shutil.which("mariadb-dump")
        os.makedirs(self.home, exist_ok=True)
        give(self.home, "mysql")
        self.socket = self.home + "/s"
        user = "mysql" if is_root() else pwd.getpwuid(os.geteuid()).pw_name
        subprocess.run(["mariadb-install-db", "--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db", "--user=" + user, "--tmpdir=" + self.home, "--datadir=%s/d" % self.home], check=True, capture_output=True)
        self.process = place.serve(shutil.which("mariadbd") or "/usr/sbin/mariadbd", "--no-defaults", "--skip-networking", "--user=" + user, "--tmpdir=" + self.home, "--datadir=%s/d" % self.home, "--socket=" + self.socket)
        wait_for("MariaDB", lambda: self.sql("SELECT 1") == "1", self.process)

    def sql(self, text):
        return subprocess.run(["mariadb", "--no-defaults", "-uroot", "-S", self.socket, "-NBe", text], capture_output=True, text=True).stdout.strip()


def test_postgresql_comes_back_and_is_stored_once(t):
    repo = t.repository()
    with Place() as place:
        pg = Pg(place)
        pg.make("app", 800000)
        before = pg.print("app")
        first = t.js("backup", "--repo", repo, *pg.args(), "--database", "app")
        pg.sql("app", "UPDATE t SET a = md5(a) WHERE i BETWEEN 300000 AND 316000")
        second = t.js("backup", "--repo", repo, *pg.args(), "--database", "app")
        size, added = second["totals"]["bytes"], second["totals"]["bytes_added"]
        # 2 % changed, in one place: little is stored anew.
        need(0 < added < size * 0.10, (added, size))
        names = t.kw("ls", "--repo", repo, first["snapshot"]).text
        need("postgresql/app.dump" in names and "postgresql/globals.sql" in names and "postgresql/keepwatch-source.json" in names, names)
        about = json.loads(t.kw("dump", "--repo", repo, first["snapshot"], "/postgresql/keepwatch-source.json").out)
        need(about["kind"] == "postgresql" and about["streams"][1]["of"] == "app" and about["server_version"], about)
        # What holds something is not replaced unless told.
        run = t.kw("restore", "--repo", repo, *pg.args(), first["snapshot"], rc=5)
        need("not empty" in run.said and "nothing was touched" in run.said, run)
        t.kw("restore", "--repo", repo, *pg.args(), "--database", "app=copy", first["snapshot"])
        need(pg.print("copy") == before, "the copy is another")
        t.kw("restore", "--repo", repo, *pg.args(), "--replace", first["snapshot"])
        need(pg.print("app") == before, "what was replaced is another")
        # By hand, with nothing of ours.
        dump = t.kw("dump", "--repo", repo, "latest", "/postgresql/app.dump").out
        need(dump.startswith(b"PGDMP"), dump[:20])
        # Wrong ways, each with one sentence and no snapshot.
        count = len(t.ids(repo))
        for args, said in [(["--database", "nix"], "no database 'nix'"), (["--database", "app", "--port", "1"], "cannot be reached"), (["--database", "app", "--package", t.dir], "no program")]:
            args = [a for a in pg.args() if not (a.startswith("/usr/lib") and "--package" in args)] + args
            args = [a for i, a in enumerate(args) if not (a == "--package" and i + 1 < len(args) and args[i + 1].startswith("--"))]
            run = t.kw("backup", "--repo", repo, *args, rc=1)
            need(said in run.said and "no snapshot was made" in run.said, run)
        t.kw("backup", "--repo", repo, "--source", "oracle", rc=2)
        t.kw("backup", "--repo", repo, "--source", "redis", "--command", "--", "/bin/true", rc=2)
        need(len(t.ids(repo)) == count, "a dump that failed made a snapshot")


def test_a_dump_that_breaks_off_is_never_a_snapshot(t):
    """The agent is killed, the server is killed, the dump is cut: nothing of it is ever a snapshot, and no process of ours stays."""
    repo = t.repository()
    with Place() as place:
        pg = Pg(place)
        pg.make("app", 400000)
        fake = os.path.join(place.dir, "fake")
        os.mkdir(fake)
        for name in ("psql", "pg_dumpall", "pg_restore"):
            os.symlink(os.path.join(pg.bin, name), os.path.join(fake, name))
        script = os.path.join(fake, "pg_dump")
        args = ["backup", "--repo", repo, "--source", "postgresql", "--socket", pg.home, "--package", fake, "--database", "app"]

        def replace(how):
            with open(script, "w") as f:
                f.write("#!/bin/sh\n[ \"$1\" = --version ] && exec %s/pg_dump --version\n%s\n" % (pg.bin, how.replace("REAL", pg.bin + '/pg_dump "$@"')))
            os.chmod(script, 0o755)

        for how in ["REAL | head -c 1000000", "REAL | head -c 5", "true", "REAL; exit 1", "REAL | head -c 1000000; kill -9 $$"]:
            replace(how)
            run = t.kw(*args, rc=1)
            need("no snapshot was made" in run.said, run)
        # Killed at several moments.
        replace("exec REAL")
        for delay in (0.05, 0.15, 0.3, 0.5):
            process = t.start(*args)
            time.sleep(delay)
            process.kill()
            process.communicate()
        # The server dies under the dump.
        replace("REAL | (head -c 300000; sleep 1; cat)")
        process = t.start(*args)
        time.sleep(0.8)
        pg.process.send_signal(signal.SIGQUIT)
        t.finish(process, rc=(1,))
        done = t.ids(repo)
        for id in done:
            # One that was quick enough to be done is whole.
            t.kw("verify", "--repo", repo, "--read-data")
        need(len(done) <= 4, done)
        wait_for("the end of what was started", lambda: subprocess.run(["pgrep", "-f", pg.home + " .*--format=custom"], capture_output=True).returncode != 0)


def test_sqlite_redis_and_mariadb_come_back(t):
    need_tools("redis-server", "redis-cli", "mariadbd", "mariadb-install-db")
    repo = t.repository()
    with Place() as place:
        # SQLite, while somebody writes.
        path = t.path("app.db")
        db = sqlite3.connect(path)
        db.execute("PRAGMA journal_mode=WAL")
        db.executescript("CREATE TABLE t (a INTEGER); INSERT INTO t VALUES (1), (2); BEGIN; INSERT INTO t VALUES (3)")
        t.kw("backup", "--repo", repo, "--source", "sqlite", "--database", path)
        out = t.path("back.db")
        t.kw("restore", "--repo", repo, "--source", "sqlite", "--target", out)
        need([r[0] for r in sqlite3.connect(out).execute("SELECT a FROM t ORDER BY a")] == [1, 2], "another content")
        t.kw("restore", "--repo", repo, "--source", "sqlite", "--target", out, rc=5)
        db.close()
        # Redis.
        at = os.path.join(place.dir, "r")
        redis = place.serve("redis-server", "--port", "0", "--save", "", "--unixsocket", at, "--dir", place.dir)
        cli = lambda *a: subprocess.run(["redis-cli", "-s", at, *a], capture_output=True, text=True).stdout.strip()
        wait_for("Redis", lambda: cli("PING") == "PONG", redis)
        cli("MSET", *[w for i in range(1000) for w in ("k%d" % i, "v" * i)])
        t.kw("backup", "--repo", repo, "--source", "redis", "--socket", at)
        run = t.kw("restore", "--repo", repo, "--source", "redis", "--socket", at, "--target", place.dir + "/dump.rdb", rc=5)
        need("stop it first" in run.said, run)
        redis.kill()
        redis.wait()
        # What the server wrote when it was asked for its snapshot.
        t.kw("restore", "--repo", repo, "--source", "redis", "--target", place.dir + "/dump.rdb", rc=5)
        os.unlink(place.dir + "/dump.rdb")
        t.kw("restore", "--repo", repo, "--source", "redis", "--socket", at, "--target", place.dir + "/dump.rdb")
        os.unlink(at) if os.path.exists(at) else None
        redis = place.serve("redis-server", "--port", "0", "--save", "", "--unixsocket", at, "--dir", place.dir)
        wait_for("Redis", lambda: cli("DBSIZE") == "1000", redis)
        need(cli("GET", "k999") == "v" * 999, "another value")
        # MariaDB.
        home = os.path.join(place.dir, "db")
        os.mkdir(home)
        give(home, "mysql")
        user = "mysql" if is_root() else pwd.getpwuid(os.geteuid()).pw_name
        subprocess.run(["mariadb-install-db", "--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db", "--user=" + user, "--tmpdir=" + home, "--datadir=%s/d" % home], check=True, capture_output=True)
        server = shutil.which("mariadbd") or "/usr/sbin/mariadbd"
        process = place.serve(server, "--no-defaults", "--skip-networking", "--user=" + user, "--tmpdir=" + home, "--datadir=%s/d" % home, "--socket=%s/s" % home)
        sql = lambda text: subprocess.run(["mariadb", "--no-defaults", "-uroot", "-S", home + "/s", "-NBe", text], capture_output=True, text=True)
        wait_for("MariaDB", lambda: sql("SELECT 1").returncode == 0, process)
        secret = b"s3cr'et\"pw"
        t.secrets.append(secret)
        sql("CREATE DATABASE app; CREATE TABLE app.t AS SELECT seq i, md5(seq) a FROM app.seq_1_to_10000; CREATE USER kw@localhost IDENTIFIED BY 's3cr\\'et\"pw'; GRANT ALL ON *.* TO kw@localhost WITH GRANT OPTION")
        before = sql("CHECKSUM TABLE app.t").stdout
        login = ["--source", "mysql", "--socket", home + "/s", "--user", "kw", "--password-file", t.write("pw", secret, 0o600)]
        t.kw("backup", "--repo", repo, *login)
        sql("DROP DATABASE app")
        t.kw("restore", "--repo", repo, *login)
        need(sql("CHECKSUM TABLE app.t").stdout == before, "another content")
        wrong = ["--password-file", t.write("wrong", b"hunter2", 0o600)]
        run = t.kw("backup", "--repo", repo, *login[:-2], *wrong, rc=1)
        need("refuses the user kw" in run.said and "hunter2" not in run.said, run)
        # An open password file is refused.
        os.chmod(t.path("pw"), 0o644)
        t.kw("backup", "--repo", repo, *login, rc=2)


def test_several_sources_make_one_snapshot_or_none(t):
    repo = t.repository()
    one, two = t.path("one.db"), t.path("two.db")
    for path in (one, two):
        sqlite3.connect(path).executescript("CREATE TABLE t (a); INSERT INTO t VALUES ('%s')" % path)
    both = ["--source", "sqlite?database=%s&label=first" % one, "--source", "sqlite?database=%s&label=second" % two]
    t.kw("backup", "--repo", repo, *both)
    names = t.kw("ls", "--repo", repo, "latest").text
    need("first/keepwatch-source.json" in names and "second/keepwatch-source.json" in names, names)
    run = t.kw("restore", "--repo", repo, "--source", "sqlite", "--target", t.path("x.db"), rc=2)
    need("first, second" in run.said, run)
    t.kw("restore", "--repo", repo, "--source", "sqlite", "--label", "second", "--target", t.path("x.db"))
    need(list(sqlite3.connect(t.path("x.db")).execute("SELECT a FROM t")) == [(two,)], "another database")
    # The second is known to be missing before the first is read.
    os.unlink(two)
    run = t.kw("backup", "--repo", repo, *both, rc=1)
    need("source 'second'" in run.said and len(t.ids(repo)) == 1, run)
    run = t.kw("backup", "--repo", repo, *both, "--database", one, rc=2)
    run = t.kw("backup", "--repo", repo, both[0], both[1], both[0], both[1], rc=2)
    need("label 'first'" in run.said, run)


def test_a_command_stands_beside_a_database(t):
    """What a command prints and a database are one snapshot; the one that fails takes the other with it, in either order."""
    repo = t.repository()
    with Place() as place:
        pg = Pg(place)
        pg.make("app", 2000)
        before = pg.print("app")
        base = "postgresql?socket=%s&package=%s&database=app" % (pg.home, os.path.dirname(pg.bin))
        command = lambda script, more="": "command?argv=/bin/sh&argv=-c&argv=%s%s" % (urllib.parse.quote(script), more)
        backup = lambda *specs, rc=0: t.kw("backup", "--repo", repo, *[w for s in specs for w in ("--source", s)], rc=rc)
        backup(base, command("printf 'a & b = c%%\\n'", "&name=out"), command("echo second", "&name=out&label=other"))
        names = t.kw("ls", "--repo", repo, "latest").text
        need(all(n in names for n in ("postgresql/app.dump", "command/out", "other/out", "command/keepwatch-source.json")), names)
        need(t.kw("dump", "--repo", repo, "latest", "/command/out").out == b"a & b = c%\n", "what the command printed")
        need(t.kw("dump", "--repo", repo, "latest", "/other/out").out == b"second\n", "what the other one printed")
        t.kw("restore", "--repo", repo, *pg.args(), "--database", "app=copy")
        need(pg.print("copy") == before, "another database")
        fails = command("echo half; echo why not >&2; exit 3", "&name=out")
        for specs in ((base, fails), (fails, base), (command("true", "&name=out"), base), (base, command("echo x", "&name=out"), base + "&database=none&label=gone")):
            run = backup(*specs, rc=1)
            need("no snapshot was made" in run.said, run)
        need("why not" in backup(base, fails, rc=1).said, "what it said is told")
        backup(base, command("echo x", "&name=out"), command("echo y", "&name=out"), rc=2)
        [snapshot] = t.js("snapshots", "--repo", repo)["snapshots"]
        need(snapshot["paths"] == ["postgresql", "command", "other"] or sorted(snapshot["paths"]) == ["command", "other", "postgresql"], snapshot)


def test_jobs_and_drills_of_the_configuration(t):
    with Place() as place:
        pg = Pg(place)
        pg.make("app", 1000)
        path = t.path("app.db")
        sqlite3.connect(path).executescript("CREATE TABLE t (a); INSERT INTO t VALUES (1), (2)")
        src = t.small_tree()
        t.repository("disk")
        identity = [f for f in glob.glob(t.path("home/.config/keepwatch/*")) if "identity" in f][0]
        package = os.path.dirname(pg.bin)
        jobs = ""
        for name, source in [
            ("pg", 'postgresql = { host = "%s", databases = ["app"], package = "%s" }' % (pg.home, package)),
            ("lite", 'sqlite = { databases = ["%s"] }' % path),
            ("both", 'several = { parts = [{ sqlite = { databases = ["%s"] } }, { postgresql = { host = "%s", databases = ["app"], package = "%s" } }] }' % (path, pg.home, package)),
            ("files", 'paths = { include = ["%s"] }' % src),
            ("gone", 'sqlite = { databases = ["%s"] }' % t.path("gone.db")),
        ]:
            jobs += '[backups.%s]\nretry = { attempts = 0 }\nsource.%s\n' % (name, source)
        jobs += '''
[drills.pg]
backup = "pg"
target.postgresql = { package = "%s" }
expect = { sql = ["SELECT count(*) = 1000 FROM t"], min_bytes = "10k", max_duration = "10m" }
[drills.wrong]
backup = "lite"
target.sqlite = {}
expect.sql = ["SELECT count(*) = 3 FROM t"]
[drills.few]
backup = "files"
target.directory = {}
expect.min_files = 1000
[drills.files]
backup = "files"
target.directory = {}
expect = { min_files = 3, command = ["/bin/sh", "-c", "test -d .%s"] }
''' % (package, src)
        config = configure(t, jobs)
        with open(config) as f:
            text = f.read()
        with open(config, "w") as f:
            f.write(text.replace("[repositories.disk]\n", '[repositories.disk]\nidentity_file = "%s"\n' % identity))
        env = dict(t.env, TMPDIR=place.dir)
        for name in ("pg", "lite", "both", "files"):
            t.kw("backup", "--job", name, "--config", config, env=env)
        t.kw("backup", "--job", "gone", "--config", config, env=env, rc=1)
        last = rows(t)[-1]
        need(last["outcome"] == "failed" and last["error_class"] == "source" and "gone.db" in last["error_text"], last)
        t.kw("drill", "pg", "--config", config, env=env)
        t.kw("drill", "files", "--config", config, env=env)
        t.kw("drill", "wrong", "--config", config, env=env, rc=1)
        t.kw("drill", "few", "--config", config, env=env, rc=1)
        t.kw("drill", "none", "--config", config, env=env, rc=2)
        found = {r["job"]: r for r in rows(t) if r["kind"] == "drill"}
        need(found["pg"]["outcome"] == "succeeded" and found["files"]["outcome"] == "succeeded" and found["pg"]["snapshot"], found)
        need(found["wrong"]["outcome"] == "failed" and "count(*) = 3" in found["wrong"]["error_text"], found["wrong"])
        need(found["few"]["outcome"] == "failed" and "at least 1000 files" in found["few"]["error_text"], found["few"])
        left = [n for n in os.listdir(place.dir) if "scratch" in n]
        need(not left, left)


def test_a_drill_that_is_killed_is_swept_by_the_next(t):
    repo = t.repository()
    with Place() as place:
        pg = Pg(place)
        pg.make("app", 200000)
        t.kw("backup", "--repo", repo, *pg.args(), "--database", "app")
        drill = ["drill", "--repo", repo, "--scratch", place.dir, "--target", "postgresql?package=" + os.path.dirname(pg.bin), "--expect-sql", "SELECT count(*) = 200000 FROM t"]
        servers = lambda: [p for p in os.listdir("/proc") if p.isdigit() and p != str(os.getpid()) and ("-k\0%s/kw-scratch" % place.dir).encode() in cmdline(p)]
        process = t.start(*drill)
        wait_for("the private server", servers, process)
        process.kill()
        process.communicate()
        need(servers(), "the server went with the drill")
        document = t.js(*drill)
        need(document["succeeded"] and document["restored_bytes"] > 1000 and document["restore_seconds"] > 0, document)
        need(not servers() and not [n for n in os.listdir(place.dir) if "scratch" in n], "something is left")


def cmdline(pid):
    try:
        with open("/proc/%s/cmdline" % pid, "rb") as f:
            return f.read()
    except OSError:
        return b""


def test_drills_of_files_say_what_is_missing(t):
    repo, src = t.repository(), t.small_tree()
    t.backup(repo, src)
    document = t.kw("drill", "--repo", repo, "--json", "--target", "directory", "--expect-min-files", "2", "--compare-live", "--", "/bin/sh", "-c", "test -e .%s/a/file-0" % src).json
    need(document["succeeded"] and document["restored_files"] == 8 and all(e["holds"] for e in document["expectations"]), document)
    run = t.kw("drill", "--repo", repo, "--target", "directory", "--expect-min-files", "99", "--max-duration", "1ms", "--", "/bin/false", rc=1)
    need("at least 99 files" in run.said and "false" in run.said and "it took" in run.said, run)
    # A file of now that differs although nobody changed it, as its time says.
    path = src + "/a/file-0"
    s = os.stat(path)
    with open(path, "r+b") as f:
        f.write(b"\xff")
    os.utime(path, ns=(s.st_atime_ns, s.st_mtime_ns))
    run = t.kw("drill", "--repo", repo, "--target", "directory", "--compare-live", rc=1)
    need("file-0" in run.said, run)
    # Never into what holds something.
    other = t.path("other")
    os.mkdir(other)
    t.write("other/mine", "x")
    run = t.kw("drill", "--repo", repo, "--target", "directory?path=" + other, rc=5)
    need(os.path.exists(other + "/mine"), run)
    t.kw("drill", "--repo", repo, "--target", "directory?path=%s&keep=true" % t.path("kept"))
    need(os.path.exists(t.path("kept") + src + "/link") or os.path.islink(t.path("kept") + src + "/link"), "nothing is kept")
    t.kw("drill", "--repo", repo, "--target", "directory?path=%s" % t.path("kept"))
    need(not os.path.exists(t.path("kept")), "it is left")
    # A command that takes the archive.
    t.kw("drill", "--repo", repo, "--target", "command?argv=/bin/tar&argv=-t")
    t.kw("drill", "--repo", repo, "--target", "command?argv=/bin/sh&argv=-c&argv=cat >/dev/null; exit 3", rc=1)
    # No damaged pack proves itself.
    pack = max(glob.glob(repo + "/packs/*/*"), key=os.path.getsize)
    os.chmod(pack, 0o600)
    with open(pack, "r+b") as f:
        f.seek(os.path.getsize(pack) // 3)
        f.write(b"\0" * 2000)
    t.kw("drill", "--repo", repo, "--target", "directory", "--no-cache", rc=(1, 3))


def test_a_key_is_proved_and_that_is_remembered(t):
    repo = t.repository()
    t.backup(repo, t.small_tree())
    identity = [f for f in glob.glob(t.path("home/.config/keepwatch/*")) if "identity" in f][0]
    document = t.js("key", "verify", "--repo", repo, "--identity", identity, "--name", "paper")
    need(document["key"] == "paper" and document["recorded"] and document["snapshot"], document)
    [proofs] = glob.glob(t.path("home/.local/state/keepwatch/witness/*.proofs"))
    with open(proofs) as f:
        need(json.load(f)["paper"] == document["time"], document)
    t.kw("key", "verify", "--repo", repo, rc=2)
    t.kw("key", "generate", "-o", t.path("other.txt"))
    t.kw("key", "verify", "--repo", repo, "--identity", t.path("other.txt"), rc=1)
    with open(proofs) as f:
        need(len(json.load(f)) == 1, "a proof that failed is remembered")


def test_files_are_read_from_a_view(t):
    """btrfs by a stand-in that copies: what is read is the view, paths are those of the files, and it is removed however the run ends."""
    need_root()
    need_tools("unshare")
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        raise Skip("needs mount namespaces")
    repo = t.repository()
    data = t.path("data")
    t.write("data/file", "before")
    log = t.path("log")
    t.write("bin/btrfs", '#!/bin/sh\necho "$@" >>%s\ncase $2 in snapshot) [ -e %s/fail ] && { echo no space >&2; exit 1; }; mkdir "$5" && cp -a "$4/file" "$5/" && echo from-view >"$5/file";; delete) rm -rf "$3";; esac\n' % (log, t.dir), 0o755)
    env = dict(t.env, PATH=t.path("bin") + ":" + t.env["PATH"])
    t.kw("backup", "--repo", repo, "--view", "btrfs:" + data, data, env=env)
    need(t.kw("dump", "--repo", repo, "latest", data + "/file").out == b"from-view\n", "the view was not read")
    need(os.listdir(data) == ["file"], os.listdir(data))
    with open(data + "/file") as f:
        need(f.read() == "before", "the mount was seen outside")
    # A run that fails, one that is killed, and a view that cannot be taken.
    t.kw("backup", "--repo", t.path("nowhere"), "--view", "btrfs:" + data, data, env=env, rc=1)
    need(os.listdir(data) == ["file"], os.listdir(data))
    t.write("fail")
    run = t.kw("backup", "--repo", repo, "--view", "btrfs:" + data, data, env=env, rc=1)
    need("no space" in run.said and "no snapshot was made" in run.said, run)
    os.unlink(t.path("fail"))
    leftover = [line.split()[-1] for line in open(log) if " delete " in line or line.startswith("subvolume delete")][0]
    os.mkdir(leftover)
    t.kw("backup", "--repo", repo, "--view", "btrfs:" + data, data, env=env)
    need(os.listdir(data) == ["file"] and len(t.ids(repo)) == 2, os.listdir(data))
    t.kw("backup", "--repo", repo, "--view", "nonsense", data, env=env, rc=2)

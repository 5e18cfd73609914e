"""Disks that are full, really: small file systems in memory, mounted in a namespace of the test, so that nothing of them stays."""
import ctypes, os, shutil, sqlite3, subprocess

from harness import Skip, need, need_root, need_tools
from topics.jobs import configure, rows, wait_for
from topics.several import Redis, with_identity
from topics.sources import Maria, Pg, Place, give

NEWNS = 0x00020000


def private():
    """A mount namespace for this test's process and all that it starts."""
    need_root()
    if ctypes.CDLL(None, use_errno=True).unshare(NEWNS):
        raise Skip("needs mount namespaces")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)


def small(path, size, inodes=None):
    """A file system of this size."""
    os.makedirs(path, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=1777,size=%s%s" % (size, ",nr_inodes=%d" % inodes if inodes else ""), "none", path], check=True)
    return path


def fill(path, leave=0):
    """Takes what is free, but for so many bytes."""
    s = os.statvfs(path)
    with open(os.path.join(path, "ballast"), "wb") as f:
        left = s.f_bavail * s.f_frsize - leave
        try:
            while left > 0:
                left -= f.write(b"\0" * min(left, 1 << 20))
        except OSError:
            pass


def has_room_for_nothing(text, path):
    """One sentence that names the place and says that there is no room."""
    need(("no space left" in text.lower() or "not enough space" in text) and path in text, "%s is not named, or not why:\n%s" % (path, text))
    need("panic" not in text, text)


def failed_for_space(t, run, path):
    """The run failed, says so, and that is what is recorded of it."""
    need(run.code == 1, run)
    last = rows(t)[-1]
    need(last["outcome"] == "failed" and last["error_class"] == "space" and not (last["kind"] == "backup" and last["snapshot"]), last)
    has_room_for_nothing(last["error_text"], path)
    has_room_for_nothing(run.said, path)


def jobs_of(pg, redis, lite, src, maria=None):
    """A job for each kind, and a drill of it."""
    package = os.path.dirname(pg.bin)
    kinds = [("files", 'paths = { include = ["%s"] }' % src, "directory = {}"), ("lite", 'sqlite = { databases = ["%s"] }' % lite, "sqlite = {}"),
             ("pg", 'postgresql = { host = "%s", databases = ["app"], package = "%s" }' % (pg.home, package), 'postgresql = { package = "%s" }' % package), ("redis", 'redis = { socket = "%s" }' % redis.at, "redis = {}")]
    if maria:
        kinds.append(("maria", 'mysql = { socket = "%s", databases = ["app"] }' % maria.socket, "mysql = {}"))
    text = ""
    for name, source, target in kinds:
        text += '[backups.%s]\nretry = { attempts = 0 }\nretention = { last = 100 }\nsource.%s\n[drills.%s]\nbackup = "%s"\ntarget.%s\n' % (name, source, name, name, target)
    return text, [k[0] for k in kinds]


def served(t, place, rows_of_pg=100000):
    """Files, SQLite, Redis and PostgreSQL, each of some megabytes."""
    need_tools("redis-server", "redis-cli")
    src, lite = t.path("src"), t.path("app.db")
    for i in range(12):
        t.write("src/f%d" % i, t.noise(500000))
    sqlite3.connect(lite).executescript("CREATE TABLE t (a); INSERT INTO t VALUES (randomblob(5000000))")
    pg, redis = Pg(place), Redis(place)
    pg.make("app", rows_of_pg)
    for i in range(50):
        redis.cli("SET", "k%d" % i, os.urandom(50000).hex())
    return pg, redis, lite, src


def processes(place):
    """Of ours that have to do with this directory."""
    found = []
    for pid in os.listdir("/proc"):
        if pid.isdigit():
            try:
                with open("/proc/%s/cmdline" % pid, "rb") as f:
                    line = f.read()
            except OSError:
                continue
            if place.encode() in line and int(pid) != os.getpid():
                found.append(line)
    return found


def test_drills(t):
    """However small the scratch disk is: the drill failed for space, nothing is left on it, and no server of ours runs on."""
    private()
    t.repository("disk")
    with Place() as place:
        maria = Maria(place) if shutil.which("mariadb-install-db") else None
        if maria:
            maria.sql("CREATE DATABASE app")
            maria.sql("CREATE TABLE app.t AS SELECT seq i, md5(seq) a FROM app.seq_1_to_1000")
        text, names = jobs_of(*served(t, place, 300000), maria)
        config = with_identity(t, configure(t, text))
        for name in names:
            t.kw("backup", "--job", name, "--config", config, env=dict(t.env, TMPDIR=place.dir))
        tiny = small(os.path.join(place.dir, "t"), "3m")
        # The private server starts in it, and what is restored does not fit.
        close = small(os.path.join(place.dir, "c"), "52m")
        for scratch, which in ((tiny, names), (close, ["pg"])):
            for name in which:
                run = t.kw("drill", name, "--config", config, env=dict(t.env, TMPDIR=scratch), rc=(0, 1))
                failed_for_space(t, run, scratch)
                need(os.listdir(scratch) == [], "%s: %s" % (name, os.listdir(scratch)))
                need(not processes(scratch), processes(scratch))
        fill(tiny)
        for name in names:
            run = t.kw("drill", name, "--config", config, env=dict(t.env, TMPDIR=tiny), rc=(0, 1))
            failed_for_space(t, run, tiny)
            need(os.listdir(tiny) == ["ballast"], os.listdir(tiny))
        # With room again it proves what it should.
        t.kw("drill", "lite", "--config", config, env=dict(t.env, TMPDIR=place.dir))


def test_backups(t):
    """Scratch space, the disk of a server, the cache, the state directory: what cannot be done without room fails, what can is done."""
    private()
    repo = t.repository("disk")
    with Place() as place:
        pg, redis, lite, src = served(t, place)
        text, _ = jobs_of(pg, redis, lite, src)
        tiny = small(os.path.join(place.dir, "t"), "3m")
        disk = small(os.path.join(place.dir, "d"), "1m")
        full = Redis(place, "full", disk)
        for i in range(50):
            full.cli("SET", "k%d" % i, os.urandom(50000).hex())
        secret = "canary-71bd-secret"
        t.secrets.append(secret.encode())
        full.cli("CONFIG", "SET", "requirepass", secret)
        text += '[backups.full]\nretry = { attempts = 0 }\nsource.redis = { socket = "%s", password_file = "%s" }\n' % (full.at, t.write("pw", secret.encode(), 0o600))
        config = with_identity(t, configure(t, text))
        at = lambda scratch: dict(t.env, TMPDIR=scratch)
        run = lambda name, env, rc=(0, 1), config=config: t.kw("backup", "--job", name, "--config", config, env=env, rc=rc)
        # SQLite is copied first.
        failed_for_space(t, run("lite", at(tiny)), tiny)
        need(os.listdir(tiny) == [], os.listdir(tiny))
        failed_for_space(t, run("full", at(place.dir)), disk)
        need(t.ids(repo) == [], "a snapshot was made")
        # Others stream: they need next to nothing.
        fill(tiny)
        failed_for_space(t, run("lite", at(tiny)), tiny)
        for name in ("files", "redis"):
            run(name, at(tiny), 0)
        # The cache is needed for the index; it says where it is.
        cache = small(os.path.join(place.dir, "cache"), "64k")
        with open(config) as f:
            document = f.read()
        fill(cache)
        other = t.write("cache.toml", document.replace(t.path("cache") + '"', cache + '"'))
        done = len(t.ids(repo))
        failed_for_space(t, run("files", at(place.dir), config=other), cache)
        need(len(t.ids(repo)) == done, "a snapshot was made")
        # The state directory is bookkeeping, which never costs a backup: it is told that and where nothing can be written down.
        state = small(os.path.join(place.dir, "state"), "1m")
        other = t.write("state.toml", document.replace(t.path("state") + '"', state + '"'))
        run("files", at(place.dir), 0, other)
        fill(state)
        told = run("files", at(place.dir), 0, other)
        has_room_for_nothing(told.said, state)
        need("this run is not recorded" in told.said and len(t.ids(repo)) == done + 2, told)
        os.unlink(state + "/ballast")
        told = run("files", at(place.dir), 0, other)
        need("not recorded" not in told.said, told)
        for top in (t.path("state"), state):
            for there, _, names in os.walk(top):
                for name in names:
                    with open(os.path.join(there, name), "rb") as f:
                        need(secret.encode() not in f.read(), "%s holds the password" % name)


def test_a_database_server_without_room_is_dumped_whole(t):
    """A dump only reads: a server whose disk is full can still be saved; and what is restored into it is told and leaves what was there."""
    private()
    repo = t.repository()
    with Place() as place:
        pg = Pg(place)
        pg.make("app", 200000)
        sound = pg.args() + ["--database", "app"]
        t.kw("backup", "--repo", repo, *sound, env=dict(t.env, TMPDIR=place.dir))
        disk = small(os.path.join(place.dir, "d"), "60m")
        give(disk, "postgres")
        there = os.path.join(place.dir, "s")
        os.mkdir(there)
        give(there, "postgres")
        # Its log lies elsewhere: a server that cannot write that ends at once.
        pg.run("initdb", "--username=postgres", "--auth=trust", "--no-sync", "--waldir", pg.home + "/wal", "-D", disk + "/d")
        other = Pg.__new__(Pg)
        other.bin, other.me, other.home = pg.bin, pg.me, there
        server = place.serve(pg.bin + "/postgres", "-D", disk + "/d", "-c", "listen_addresses=", "-c", "fsync=off", "-k", there, cwd="/", **pg.me)
        wait_for("PostgreSQL", lambda: other.run("psql", "-h", there, "-U", "postgres", "-c", "SELECT 1", check=False).returncode == 0, server)
        other.make("app", 20)
        before = other.print("app")
        fill(disk, 12 << 20)
        for more in (["--database", "app=again"], ["--database", "app", "--replace"]):
            run = t.kw("restore", "--repo", repo, *other.args(), "--no-globals", *more, rc=1)
            has_room_for_nothing(run.said, there)
            need(other.print("app") == before, "what was there is another")
            need(other.sql("postgres", "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database") == "app postgres template0 template1", "a half database stays")
        fill(disk)
        document = t.js("backup", "--repo", repo, *other.args(), env=dict(t.env, TMPDIR=place.dir))
        need(document["outcome"] == "succeeded", document)
        t.kw("restore", "--repo", repo, *pg.args(), "--database", "app=copy", "--no-globals", document["snapshot"])
        need(pg.print("copy") == before, "another database")


def test_restores(t):
    """Into a disk without room: said before anything is written where that can be known, else what is whole stays and nothing half is left."""
    private()
    repo = t.repository("disk")
    with Place() as place:
        pg, redis, lite, src = served(t, place, 1000)
        for name, source in (("lite", "sqlite?database=" + lite), ("redis", "redis?socket=" + redis.at)):
            t.kw("backup", "--repo", repo, "--tag", name, "--source", source)
        t.backup(repo, "--tag", "files", src)
        tiny = small(os.path.join(place.dir, "t"), "3m")
        for tag, args in (("files", ["--target", tiny]), ("lite", ["--source", "sqlite", "--target", tiny + "/x.db"]), ("redis", ["--source", "redis", "--target", tiny + "/dump.rdb"])):
            run = t.kw("restore", "--repo", repo, "--tag", tag, *args, rc=1)
            has_room_for_nothing(run.said, tiny)
            need("nothing was" in run.said and os.listdir(tiny) == [], (run, os.listdir(tiny)))
        # No room for names, which nobody can count beforehand.
        few = small(os.path.join(place.dir, "f"), "50m", 4 + len(src.split("/")))
        run = t.kw("restore", "--repo", repo, "--tag", "files", "--target", few, rc=1)
        has_room_for_nothing(run.said, few)
        for there, _, names in os.walk(few):
            for name in names:
                with open(os.path.join(there, name), "rb") as a, open("/" + os.path.relpath(os.path.join(there, name), few), "rb") as b:
                    need(a.read() == b.read(), "a half file is left: " + name)
        for tag, args in (("lite", ["--source", "sqlite", "--target"]), ("redis", ["--source", "redis", "--target"])):
            run = t.kw("restore", "--repo", repo, "--tag", tag, *args, few + "/x", rc=1)
            has_room_for_nothing(run.said, few)
            need(not os.path.exists(few + "/x") and len(os.listdir(few)) <= 1, os.listdir(few))


def test_mariadb_without_room(t):
    """A dump only reads; what is restored into it is told, and what is there stays."""
    need_tools("mariadbd", "mariadb-install-db", "mariadb-dump", "mariadb")
    private()
    repo = t.repository()
    with Place() as place:
        disk = small(os.path.join(place.dir, "db"), "260m")
        maria = Maria(place)
        maria.sql("CREATE DATABASE app")
        maria.sql("CREATE TABLE app.t AS SELECT seq i, repeat(md5(seq), 8) a FROM app.seq_1_to_60000")
        before = maria.sql("CHECKSUM TABLE app.t")
        dump = lambda: t.js("backup", "--repo", repo, "--source", "mysql?socket=%s&user=root&database=app&globals=false" % maria.socket, env=dict(t.env, TMPDIR=t.dir))
        first = dump()
        fill(disk, 6 << 20)
        run = t.kw("restore", "--repo", repo, "--source", "mysql", "--socket", maria.socket, "--user", "root", "--no-globals", "--database", "app=again", first["snapshot"], rc=1)
        has_room_for_nothing(run.said, maria.socket)
        need(maria.sql("CHECKSUM TABLE app.t") == before and "again" not in maria.sql("SHOW DATABASES"), "a half database stays")
        fill(disk)
        need(dump()["outcome"] == "succeeded" and maria.sql("CHECKSUM TABLE app.t") == before, "the dump of a server without room")

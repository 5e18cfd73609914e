"""PostgreSQL with point-in-time recovery: base backups, the log, restores to a moment, and what happens when something is missing. With a real server where there is one."""
import glob, json, os, re, shutil, signal, socket, sqlite3, struct, subprocess, time

from harness import NOBODY, Skip, content_of, free_port, is_root, need, need_tools, objects, remove

MIB = 1 << 20
SYSTEM = 7312345678901234567


# Segments made by hand: 1 MiB, with the first page that the server writes.

def segment(n, fill=b"", system=SYSTEM, size=MIB):
    page = struct.pack("=HHIQIIQII", 0xD110, 2, 1, n * size, 0, 0, system, size, 8192)
    return (page + fill).ljust(size, b"\0")


def name_of(n, timeline=1):
    return "%08X%08X%08X" % (timeline, n // 4096, n % 4096)


def put(t, n, fill=b"", **more):
    return t.write("pg_wal/" + name_of(n), segment(n, fill, **more))


def push(t, repo, path, **more):
    return t.kw("wal", "push", "--repo", repo, path, **more)


def fetch(t, repo, name, rc=0, *args, **more):
    out = t.path("fetched")
    if os.path.exists(out):
        os.unlink(out)
    run = t.kw("wal", "fetch", "--repo", repo, "--cluster", str(SYSTEM), *args, name, out, rc=rc, **more)
    need(os.path.exists(out) == (run.code == 0), run)
    need(not glob.glob(out + ".*"), "nothing is left behind")
    if run.code == 0:
        with open(out, "rb") as f:
            return f.read()
    return run


def wal_objects(repo):
    return sorted(n for n in objects(repo) if n.startswith("wal/"))


def status(t, repo, rc=0):
    (cluster,) = t.js("wal", "verify", "--repo", repo, rc=rc)["clusters"]
    return cluster


def test_push_and_fetch(t):
    repo = t.repository()
    first = put(t, 3, b"one")
    push(t, repo, first)
    need(fetch(t, repo, name_of(3)) == segment(3, b"one"), "the same comes back")
    # Twice is a success, and stores nothing.
    before = content_of(repo)
    need(t.js("wal", "push", "--repo", repo, first)["was_there"], "it is known")
    need(content_of(repo) == before, "nothing was stored")
    # Other content under the same name is loud, and overwrites nothing.
    put(t, 3, b"two")
    need("other content" in push(t, repo, first, rc=5).said, "a conflict is told")
    need(content_of(repo) == before, "nothing was overwritten")
    # What is not what its name says is refused before anything is stored.
    for path, why in [
        (t.write("pg_wal/" + name_of(9), segment(8)), "another place of the log"),
        (t.write("pg_wal/" + name_of(11), segment(11)[:4096]), "4096 bytes"),
        (t.write("pg_wal/" + name_of(12), b""), "does not begin"),
        (t.write("pg_wal/core", b"x"), "not the name of a WAL file"),
        (t.path("pg_wal", name_of(10)), "cannot read"),
    ]:
        need(why in push(t, repo, path, rc=(1, 2)).said, why)
    need("identifier" in t.kw("wal", "push", "--repo", repo, "--cluster", "5", put(t, 4), rc=1).said, "another cluster")
    need(content_of(repo) == before, "nothing was stored")
    # Histories and labels: the control file says whose they are.
    history = t.write("pg_wal/00000002.history", "1\t0/5000148\tno recovery target specified\n")
    label = t.write("pg_wal/%s.00000028.backup" % name_of(3), "START WAL LOCATION: 0/300028 (file %s)\n" % name_of(3))
    need("--cluster" in push(t, repo, history, rc=2).said, "nothing says whose it is")
    t.write("global/pg_control", struct.pack("=QI", SYSTEM, 1300).ljust(8192, b"\0"))
    for path in (history, label):
        push(t, repo, os.path.relpath(path, t.dir))
        with open(path, "rb") as f:
            need(fetch(t, repo, os.path.basename(path)) == f.read(), path)
    need(t.js("verify", "--repo", repo, "--read-data")["sound"], "sound")


def test_fetch_says_one_only_at_the_end(t):
    """From 1 to 125 PostgreSQL opens the database without the rest: only the true end of the log may look so."""
    repo = t.repository()
    for n in (3, 4, 6):
        push(t, repo, put(t, n))
    fetch(t, repo, name_of(7), 1)
    fetch(t, repo, "00000002.history", 1)
    fetch(t, repo, name_of(4, 2), 1)
    need("later segments are there" in fetch(t, repo, name_of(5), 126).said, "a gap is told")
    fetch(t, repo, name_of(5), 1, "--tolerate-gaps")
    for args in (["wal", "fetch"], ["wal", "fetch", "--nonsense", "a", "b"], ["wal", "fetch", "--repo", repo, "x", "y"], ["wal", "fetch", "--repo", repo, name_of(3), "y"]):
        t.kw(*args, rc=126)
    fetch(t, t.path("nowhere"), name_of(3), 126)
    fetch(t, repo, name_of(3), 126, "--identity", t.path("none"))
    # Who writes cannot read.
    t.write("home/.config/keepwatch/identity.txt", "")
    need("identity" in fetch(t, repo, name_of(3), 126).said, "a writer cannot read")
    push(t, repo, put(t, 7))
    need(status(t, repo, rc=1)["gaps_total"] == 1, "and sees a gap without reading")


def test_stopped_fetch(t):
    """Stopped while the repository does not answer: the status by which PostgreSQL knows its own SIGTERM, never that of the end of the log."""
    silent = socket.create_server(("127.0.0.1", 0))
    keys = [t.write(name, "x" * 20, 0o600) for name in ("access", "secret")]
    place = "s3://bucket/p?endpoint=http://127.0.0.1:%d&access-key-file=%s&secret-key-file=%s&idle-timeout=1s&retry-for=1m" % (silent.getsockname()[1], *keys)
    for stop, wanted in ((signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)):
        process = t.start("wal", "fetch", "--repo", place, "--identity", keys[0], "--cluster", "1", name_of(3), t.path("out"))
        time.sleep(0.5)
        process.send_signal(stop)
        t.finish(process, rc=wanted, timeout=30)
    silent.close()
    fetch(t, place.replace("1m", "1s"), name_of(3), 126)
    need(not os.path.exists(t.path("out")), "nothing was written")


def test_by_hand(t):
    """A segment with age and zstd alone, from what FORMAT.md says."""
    need_tools("age", "zstd")
    repo = t.repository()
    content = segment(3, t.noise(5000))
    push(t, repo, t.write("pg_wal/" + name_of(3), content))
    slot = glob.glob(repo + "/keys/*.age")[0]
    r = t.write("R.txt", t.sh("age", "-d", "-i", t.path("home/.config/keepwatch/identity.txt"), slot).out, 0o600)
    with open(t.path(repo, *wal_objects(repo)), "rb") as f:
        data = f.read()
    at = 97 + struct.unpack("<I", data[29:33])[0]
    need(data[:5] == b"KWR1\x07", "a record of kind 7")
    plain = t.sh("age", "-d", "-i", r, input=data[at:]).out
    need(t.sh("zstd", "-d", input=plain).out == content, "the segment")


def test_damage(t):
    repo = t.repository()
    for n in (3, 4, 5):
        push(t, repo, put(t, n, t.noise(1000)))
    victim = t.path(repo, next(o for o in wal_objects(repo) if name_of(4) in o))
    with open(victim, "rb") as f:
        good = f.read()
    for place in (0, 40, 200, len(good) // 2, len(good) - 1):
        os.chmod(victim, 0o600)
        with open(victim, "wb") as f:
            f.write(good[:place] + bytes([good[place] ^ 1]) + good[place + 1:])
        fetch(t, repo, name_of(4), 126)
        found = t.js("verify", "--repo", repo, "--read-data", rc=1)["damages"]
        need([d["object"] for d in found] == [os.path.relpath(victim, repo)], found)
    for size in (0, 10, 300, len(good) - 1, len(good) + 1):
        with open(victim, "wb") as f:
            f.write((good + b"x")[:size])
        fetch(t, repo, name_of(4), 126)
        need(len(t.js("verify", "--repo", repo, rc=1)["damages"]) == 1, "a wrong length is found without reading")
    # The server still has it: pushed again it is stored beside the damaged one, and serves.
    push(t, repo, t.path("pg_wal", name_of(4)))
    with open(t.path("pg_wal", name_of(4)), "rb") as f:
        need(fetch(t, repo, name_of(4)) == f.read(), "healed")
    # Under another name nothing is believed.
    with open(victim, "wb") as f:
        f.write(good)
    fifth = next(o for o in wal_objects(repo) if name_of(5) in o)
    os.unlink(t.path(repo, fifth))
    os.rename(victim, t.path(repo, fifth.replace(fifth[-64:], victim[-64:])))
    need("another file" in fetch(t, repo, name_of(5), 126).said, "a renamed object is refused")


def test_killed_push(t):
    """Killed before its n-th call, for every n: the retry succeeds, and there is one whole copy, or a second one of the same content."""
    repo = t.repository()
    path = put(t, 3, t.noise(3000))
    n = 0
    while True:
        n += 1
        remove(t.path(repo, "wal"))
        run = t.finish(t.start("wal", "push", "--repo", repo, path, prefix=t.killat(n)), rc=None)
        if run.code == 0:
            break
        need(n < 200, "it ends at last")
        push(t, repo, path)
        with open(path, "rb") as f:
            need(fetch(t, repo, name_of(3)) == f.read(), n)
        need(len(wal_objects(repo)) <= 2, wal_objects(repo))
        need(t.js("verify", "--repo", repo, "--read-data")["sound"], "sound after call %d" % n)
    need(n > 4, "some calls were killed: %d" % n)


def test_wrong_repository(t):
    """A push into another repository than the writer key's, or into none, fails and changes nothing."""
    repo, other = t.repository("repo"), t.repository("other", env=t.home("home2"))
    path = put(t, 3)
    before = content_of(other)
    t.kw("wal", "push", "--repo", other, path, rc=(1, 5))
    t.kw("wal", "push", "--repo", t.path("none"), path, rc=(1, 5))
    need(content_of(other) == before and not os.path.exists(t.path("none")), "nothing was changed")
    push(t, repo, path)


def test_gaps_and_copies(t):
    """Gaps are told exactly, also of a copy; a copy has the log of its base backups only."""
    repo = t.repository()
    for n in (3, 4, 5, 8, 9, 4097):
        push(t, repo, put(t, n, b"%d" % n))
    found = status(t, repo, rc=1)
    need([(g["first"], g["last"], g["segments"]) for g in found["gaps"]] == [(name_of(6), name_of(7), 2), (name_of(10), name_of(4096), 4087)], found["gaps"])
    need(found["segment_bytes"] == MIB and found["system"] == str(SYSTEM) and found["newest"] > 1.7e9, found)
    need("gap" in t.kw("verify", "--repo", repo, rc=1).said, "verify tells it as well")
    for n in [6, 7]:
        push(t, repo, put(t, n, b"%d" % n))
    need(status(t, repo, rc=1)["gaps_total"] == 1, "one is closed")


def test_a_configured_verification_tells_of_gaps(t):
    """By the job that a timer starts: the run fails with its class, the catalog keeps what was found, the agent exports it; and it is over when the gap is closed."""
    from topics import agent, jobs
    repo = t.repository("disk")
    more = '[repositories.disk]\nbackend.local = { path = "%s" }\nrecipients = ["%s"]\n' % (repo, jobs.RECIPIENT)
    series = lambda name: 'keepwatch_wal_%s{repository="disk",cluster="%s"}' % (name, SYSTEM)
    with agent.daemon(t, "", more) as d:
        d.kw("verify", "--repository", "disk")
        for n in (3, 4, 7):
            push(t, repo, put(t, n, b"%d" % n))
        run = d.kw("verify", "--repository", "disk", rc=1)
        need("lacks 2 segments" in run.said, run)
        [good, bad] = jobs.rows(t, ["verify"])
        need((good["outcome"], bad["outcome"], bad["error_class"], bad["damages"]) == ("succeeded", "failed", "verify", 0), bad)
        agent.until("the gap is exported", lambda: d.metric(series("gaps")) == 1, seconds=40)
        need(d.metric(series("segments_missing")) == 2 and d.metric(series("recoverable")) == 0 and d.metric(series("base_backups")) == 0, "its numbers")
        need(abs(d.metric(series("newest_segment_timestamp_seconds")) - time.time()) < 300, "the newest segment")
        need(d.metric(series("oldest_recovery_timestamp_seconds")) is None, "nothing can be recovered without a base backup")
        # Other runs of the repository say nothing of it, and take nothing away.
        d.kw("prune", "--repository", "disk")
        for n in (5, 6):
            push(t, repo, put(t, n))
        d.kw("verify", "--repository", "disk")
        agent.until("the gap is over", lambda: d.metric(series("gaps")) == 0, seconds=40)
        d.stop()


# With a real server.

class Postgres:
    """A server of its own for a test, on a socket, run by nobody when the tests are run by root."""

    def __init__(self, t, programs=None):
        found = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda p: int(re.findall(r"\d+", p)[0]))
        if not found and not programs and not shutil.which("initdb"):
            raise Skip("needs PostgreSQL")
        self.t, self.bin = t, programs or (found[-1] if found else os.path.dirname(shutil.which("initdb")))
        self.uid = NOBODY if is_root() else None
        self.env = t.home("homepg", uid=self.uid)
        self.env.update(PGHOST=t.path("homepg"), PGPORT="5999", PGUSER="postgres", PGDATABASE="postgres", PGCONNECT_TIMEOUT="10", LC_ALL="C")
        self.home, self.running = t.path("homepg"), {}
        self.repo = self.home + "/repo"
        self.kw("init", "--repo", self.repo)

    def configuration(self, host="db1", of_repository=""):
        """The part of a configuration that all jobs of this server share."""
        from topics.jobs import RECIPIENT
        own = 'host = "%s"\nstate_directory = "%s/state"\ncache_directory = "%s/cache"\n' % (host, self.home, self.home)
        return own + '[repositories.disk]\nbackend.local = { path = "%s" }\nrecipients = ["%s"]\n%s\n' % (self.repo, RECIPIENT, of_repository)

    def sh(self, program, *args, rc=0, **more):
        if self.uid is not None:
            more.update(user=self.uid, group=self.uid, extra_groups=[])
        if "/" not in program:
            program = os.path.join(self.bin, program)
        return self.t.sh(program, *args, rc=rc, env=self.env, cwd=self.home, **more)

    def kw(self, *args, **more):
        return self.t.kw(*args, env=self.env, uid=self.uid, cwd=self.home, **more)

    def js(self, *args, **more):
        return self.kw(*args, "--json", **more).json

    def create(self, name="data", segment=1):
        data = os.path.join(self.home, name)
        self.sh("initdb", "-D", data, "-U", "postgres", "--auth=trust", "--wal-segsize=%d" % segment, "--no-sync", "--locale=C", "-E", "UTF8")
        with open(data + "/postgresql.conf", "a") as f:
            f.write("listen_addresses=''\nport=5999\nunix_socket_directories='%s'\nfsync=off\narchive_mode=on\narchive_timeout=0\nmax_wal_size='64MB'\nlog_min_messages=log\n"
                    "archive_command='%s wal push --repo \"%s\" %%p'\n" % (self.home, self.t.binary, self.repo))
        return data

    def start(self, data, rc=0):
        return self.sh("pg_ctl", "-D", data, "-w", "-t", "60", "-l", data + ".log", "start", rc=rc)

    def stop(self, data, mode="immediate"):
        self.sh("pg_ctl", "-D", data, "-w", "-m", mode, "stop")

    def sql(self, text):
        return self.sh("psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", text).text.strip()

    def archived(self):
        """Ends the segment, and waits until everything is archived. Returns its name."""
        last = self.sql("SELECT pg_walfile_name(pg_switch_wal())")
        for _ in range(300):
            if self.sql("SELECT last_archived_wal >= '%s' FROM pg_stat_archiver" % last) == "t":
                return last
            time.sleep(0.1)
        raise AssertionError("nothing is archived: %s" % self.sql("SELECT * FROM pg_stat_archiver"))

    def open(self, data):
        """Starts a restored server and waits until it is open for writing."""
        run = self.start(data, rc=None)
        if run.code == 0:
            for _ in range(300):
                if self.sql("SELECT pg_is_in_recovery()") == "f":
                    return
                time.sleep(0.1)
        with open(data + ".log") as f:
            raise AssertionError("it did not open: %s\n%s" % (run, f.read()[-3000:]))

    def restored(self, *args, rows="SELECT string_agg(n::text, ',' ORDER BY n) FROM rows", name="back"):
        """Restores, starts, asks, stops, removes."""
        data = os.path.join(self.home, name)
        self.kw("wal", "restore", "--repo", self.repo, "--target", data, "--no-archive", *args)
        try:
            self.open(data)
            return self.sql(rows)
        finally:
            self.sh("pg_ctl", "-D", data, "-m", "immediate", "stop", rc=None)
            remove(data)

    def end(self):
        for pid in glob.glob(self.home + "/*/postmaster.pid"):
            self.sh("pg_ctl", "-D", os.path.dirname(pid), "-m", "immediate", "stop", rc=None)


def postgresql_17(t):
    """Its programs, where their user can reach them: those that are installed, or Debian trixie's."""
    installed = "/usr/lib/postgresql/17/bin"
    if os.path.exists(installed + "/pg_combinebackup"):
        return installed
    got = subprocess.run([os.path.join(os.path.dirname(__file__), "../../postgresql/get"), "17"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if got.returncode:
        raise Skip(got.stderr.strip().splitlines()[-1])
    bin = got.stdout.strip()
    tree = bin[:-len("/usr/lib/postgresql/17/bin")]
    t.sh("cp", "-a", "--reflink=auto", tree, t.path("postgresql"))
    return t.path("postgresql") + bin[len(tree):]


def with_server(test, programs=None):
    def run(t):
        pg = Postgres(t, programs and programs(t))
        try:
            test(t, pg)
        finally:
            pg.end()
    run.__doc__ = test.__doc__
    return run


@with_server
def test_point_in_time(t, pg):
    """Rows at known moments; the server destroyed; each moment comes back exactly."""
    data = pg.create()
    pg.start(data)
    pg.sql("CREATE TABLE rows (n int); INSERT INTO rows VALUES (1)")
    base = pg.js("wal", "backup", "--repo", pg.repo)
    need(base["version"] == re.findall(r"\d+", pg.bin)[-1] and not base["with_wal"], base)
    pg.sql("INSERT INTO rows VALUES (2)")
    time.sleep(0.05)
    moment = pg.sql("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US') || 'Z'")
    time.sleep(0.05)
    pg.sql("INSERT INTO rows VALUES (3)")
    pg.sql("SELECT pg_create_restore_point('before four')")
    lsn = pg.sql("SELECT pg_current_wal_insert_lsn()")
    pg.sql("INSERT INTO rows VALUES (4)")
    pg.archived()
    second = pg.js("wal", "backup", "--repo", pg.repo)
    pg.sql("INSERT INTO rows VALUES (5)")
    pg.archived()
    pg.stop(data)
    remove(data)
    # What is not empty is not touched.
    os.mkdir(data)
    t.write("homepg/data/precious", "x")
    need("not empty" in pg.kw("wal", "restore", "--repo", pg.repo, "--target", data, rc=5).said, "refused")
    need(os.listdir(data) == ["precious"], "untouched")
    remove(data)
    need(pg.restored() == "1,2,3,4,5", "the end of the log")
    need(pg.restored(base["snapshot"]) == "1,2,3,4,5", "also from the first base backup")
    need(pg.restored("--to-time", moment) == "1,2", "a time")
    need(pg.restored("--to-lsn", lsn) == "1,2,3", "a position")
    need(pg.restored("--to-name", "before four", base["snapshot"]) == "1,2,3", "a name")
    need(pg.restored("--to-consistent", base["snapshot"]) == "1", "a base backup by itself")
    need("after the target" in pg.kw("wal", "restore", "--repo", pg.repo, "--target", data, "--to-lsn", lsn, second["snapshot"], rc=2).said, "a base backup that is too new")
    need("after the target" in pg.kw("wal", "restore", "--repo", pg.repo, "--target", data, "--to-lsn", "0/1", rc=4).said, "too old a target")
    need("ends with" in pg.kw("wal", "restore", "--repo", pg.repo, "--target", data, "--to-lsn", "9/0", rc=5).said, "beyond the end")
    need(not os.path.exists(data), "nothing was written")
    # Without the repository and the identity within the server's reach.
    identity = pg.home + "/.config/keepwatch/identity.txt"
    pg.kw("wal", "restore", "--repo", pg.repo, "--target", data, "--no-archive", "--with-log", "--to-lsn", lsn)
    os.rename(identity, identity + ".away")
    pg.open(data)
    need(pg.sql("SELECT string_agg(n::text, ',' ORDER BY n) FROM rows") == "1,2,3", "the log was brought along")
    pg.stop(data)
    os.rename(identity + ".away", identity)
    remove(data)
    if is_root():
        # By root, for the user of the server.
        t.kw("wal", "restore", "--repo", pg.repo, "--target", data, "--no-archive", "--identity", identity, "--owner", str(NOBODY))
        need({os.lstat(p).st_uid for p in glob.glob(data + "/**", recursive=True)} == {NOBODY}, "all of it is the user's")
        need(os.stat(data).st_mode & 0o777 == 0o700, "and private")
        pg.open(data)
        pg.stop(data)
        remove(data)
    # Life goes on, on a timeline of its own, and is archived into the same repository.
    pg.kw("wal", "restore", "--repo", pg.repo, "--target", data, "--to-lsn", lsn)
    pg.open(data)
    pg.sql("INSERT INTO rows VALUES (40)")
    need(pg.archived().startswith("00000002"), "a new timeline")
    pg.stop(data)
    remove(data)
    need(pg.restored() == "1,2,3,40", "latest follows the new timeline")
    need(pg.restored("--timeline", "1") == "1,2,3,4,5", "the old one is there as well")
    # Drills: of one that leads to the new timeline, and of one that was made after that had been left.
    from topics.sources import Place
    with Place() as place:
        os.chmod(place.dir, 0o777)
        for of, rows in ((base, "1,2,3,40"), (second, "1,2,3,4,5")):
            pg.kw("drill", "--repo", pg.repo, "--snapshot", of["snapshot"], "--scratch", place.dir, "--target", "postgresql?package=" + os.path.dirname(pg.bin),
                  "--expect-sql", "SELECT string_agg(n::text, ',' ORDER BY n) = '%s' FROM rows" % rows)
    found = pg.js("wal", "verify", "--repo", pg.repo)
    need(found["sound"] and len(found["clusters"][0]["timelines"]) == 2, found)
    need(pg.js("verify", "--repo", pg.repo, "--read-data")["sound"], "sound")


@with_server
def test_under_load(t, pg):
    """A base backup while pgbench writes; server and archiver killed; what comes back satisfies pgbench's balances."""
    data = pg.create()
    pg.start(data)
    pg.sh("pgbench", "-i", "-s", "1", "-q", "postgres")
    argv = [os.path.join(pg.bin, "pgbench"), "-n", "-c", "2", "-T", "5", "postgres"]
    who = {} if pg.uid is None else {"user": pg.uid, "group": pg.uid, "extra_groups": []}
    load = subprocess.Popen(argv, env=pg.env, cwd=pg.home, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **who)
    try:
        time.sleep(1)
        pg.js("wal", "backup", "--repo", pg.repo)
    finally:
        load.wait(timeout=60)
    last = pg.sql("SELECT max(mtime) || ' ' || count(*) FROM pgbench_history")
    pg.archived()
    pg.stop(data)
    remove(data)
    need(pg.restored(rows=SUMS) == "t|" + last, "balances, and the last transaction")


@with_server
def test_gaps_retention_copies(t, pg):
    """A segment removed; a base backup forgotten; the log follows, and never more than that."""
    data = pg.create()
    pg.start(data)
    pg.sql("CREATE TABLE rows (n int); INSERT INTO rows VALUES (1)")
    first = pg.js("wal", "backup", "--repo", pg.repo)
    for n in (2, 3, 4):
        pg.sql("INSERT INTO rows VALUES (%d)" % n)
        last = pg.archived()
    second = pg.js("wal", "backup", "--repo", pg.repo)
    pg.sql("INSERT INTO rows VALUES (5)")
    pg.archived()
    # A copy by ciphertext, and one sealed anew: both restore.
    twin, stranger = pg.home + "/twin", pg.home + "/stranger"
    pg.kw("init", "--repo", twin, "--from", pg.repo)
    pg.kw("init", "--repo", stranger)
    for to in (twin, stranger):
        copied = pg.js("copy", "--repo", to, "--from", pg.repo)
        need(len(copied["copied"]) == 2 and copied["wal"]["copied"] > 4 and not copied["wal"]["failed"], copied)
        need(pg.js("copy", "--repo", to, "--from", pg.repo)["wal"]["copied"] == 0, "a second time there is nothing to do")
        need(pg.js("wal", "verify", "--repo", to)["sound"] and pg.js("verify", "--repo", to, "--read-data")["sound"], "sound")
    # Without its log a base backup is refused, unless it brings its own.
    pg.sql("ALTER SYSTEM SET archive_command = 'false'")
    pg.sql("SELECT pg_reload_conf()")
    before = pg.js("snapshots", "--repo", pg.repo)["snapshots"]
    need("for its log to be archived" in pg.kw("wal", "backup", "--repo", pg.repo, "--wait-wal", "2s", rc=1).said, "given up")
    need(pg.js("snapshots", "--repo", pg.repo)["snapshots"] == before, "no snapshot")
    own = pg.js("wal", "backup", "--repo", pg.repo, "--with-wal", "--job", "alone")
    need(own["with_wal"], own)
    pg.stop(data)
    remove(data)
    need(pg.restored(own["snapshot"], "--to-consistent") == "1,2,3,4,5", "by itself")
    # A segment between the two is lost.
    gone = next(o for o in wal_objects(pg.repo) if os.path.basename(o).startswith(last + "."))
    kept = t.path("kept")
    shutil.move(os.path.join(pg.repo, gone), kept)
    found = pg.js("wal", "verify", "--repo", pg.repo, rc=1)["clusters"][0]
    need([(g["first"], g["segments"], g["snapshots"]) for g in found["gaps"]] == [(last, 1, [first["snapshot"]])], found)
    need({b["snapshot"]: b["complete"] for b in found["bases"]}[second["snapshot"]], found["bases"])
    # Only what lies before the second is lost: a warning, since the end of the log can still be recovered.
    need(found["state"] == "gaps" and found["recoverable"], found)
    said = pg.kw("verify", "--repo", pg.repo)
    need(last + " is missing" in said.said and "older base backups only" in said.said and "can be restored up to a gap" in said.text, said)
    back = pg.home + "/back"
    need(last in pg.kw("wal", "restore", "--repo", pg.repo, "--target", back, first["snapshot"], rc=5).said, "refused beforehand")
    need(not os.path.exists(back), "nothing was written")
    need(pg.restored(first["snapshot"], "--up-to-gap") in ("1,2,3", "1,2,3,4"), "as far as it goes, when told to")
    # A time behind the gap: the server stops at the gap instead of opening without the rest.
    pg.kw("wal", "restore", "--repo", pg.repo, "--target", back, "--no-archive", "--to-time", "2037-01-01", first["snapshot"])
    pg.start(back, rc=1)
    with open(back + ".log") as f:
        log = f.read()
    need("later segments are there" in log and "ready to accept connections" not in log.split("starting PostgreSQL")[-1].replace("read-only", ""), log[-2000:])
    remove(back)
    # Forget the first: its log goes, that of the second stays, and the gap with it.
    pg.kw("forget", "--repo", pg.repo, first["snapshot"])
    count = len(wal_objects(pg.repo))
    pg.kw("prune", "--repo", pg.repo)
    need(len(wal_objects(pg.repo)) == count, "within the grace period nothing goes")
    dry = pg.js("prune", "--repo", pg.repo, "--grace", "0s", "--dry-run")
    need(len(wal_objects(pg.repo)) == count, "a dry run deletes nothing")
    done = pg.js("prune", "--repo", pg.repo, "--grace", "0s")
    need(done["wal_deleted"] == dry["wal_deleted"] == count - len(wal_objects(pg.repo)) > 0, (dry, done))
    need(pg.js("wal", "verify", "--repo", pg.repo)["sound"] and pg.js("verify", "--repo", pg.repo)["sound"], "sound again")
    need(pg.restored(second["snapshot"]) == "1,2,3,4,5", "the second restores to the end")
    # With the last base backup gone, the log is kept: in doubt, keep.
    pg.kw("forget", "--repo", pg.repo, second["snapshot"], own["snapshot"])
    count = len(wal_objects(pg.repo))
    pg.kw("prune", "--repo", pg.repo, "--grace", "0s")
    need(len(wal_objects(pg.repo)) == count, "kept")
    # The copies are whole: the machine is lost, and one of them brings all of it back.
    for to in (twin, stranger):
        pg.repo = to
        need(pg.restored() == "1,2,3,4,5", to)


@with_server
def test_in_s3(t, pg):
    """The same with a repository in S3: what was given to reach it goes into restore_command, the secrets stay in their files."""
    from topics import s3
    with s3.server(s3.built(t)) as s:
        pg.repo = s3.place(t, s, "pg")
        if pg.uid is not None:
            for path in glob.glob(t.path("creds/*")):
                os.chown(path, pg.uid, pg.uid)
        pg.kw("init", "--repo", pg.repo)
        data = pg.create()
        pg.start(data)
        pg.sql("CREATE TABLE rows (n int); INSERT INTO rows VALUES (1)")
        pg.js("wal", "backup", "--repo", pg.repo)
        pg.sql("INSERT INTO rows VALUES (2)")
        pg.archived()
        pg.stop(data)
        remove(data)
        need(pg.restored() == "1,2", "by what stands behind the place")
        place, query = pg.repo.split("?")
        options = [word for pair in query.split("&") for word in ("--s3-" + pair.split("=")[0], pair.split("=")[1])]
        pg.repo = place
        need(pg.restored(*options) == "1,2", "by options")
        need(pg.restored(*options, "--with-log") == "1,2", "with the log brought along")


@with_server
def test_broken_base_backups(t, pg):
    """A server that dies, a client that cannot connect: no snapshot, one sentence."""
    data = pg.create()
    need("no snapshot was made" in pg.kw("wal", "backup", "--repo", pg.repo, rc=1).said, "refused connection")
    need("--pg-bin" in pg.kw("wal", "backup", "--repo", pg.repo, "--pg-bin", "/none", rc=1).said, "no client")
    pg.start(data)
    # A client that ends early and calls it a success, one that is killed, one that fails at its end, one that says something else.
    for n, (script, why) in enumerate([("%s \"$@\" | head -c 900000", "ends before its end"), ("%s \"$@\" | head -c 900000; kill -9 $$", "signal 9"),
                                       ("%s \"$@\"; echo 'pg_basebackup: error: disk on fire' >&2; exit 1", "disk on fire"), ("true %s", "ends before its end"), ("echo nonsense from %s; head -c 600 /dev/zero", "malformed")]):
        wrapper = t.write("wrapper%d/pg_basebackup" % n, "#!/bin/sh\n" + script % (pg.bin + "/pg_basebackup") + "\n", 0o755)
        said = pg.kw("wal", "backup", "--repo", pg.repo, "--pg-bin", os.path.dirname(wrapper), rc=1).said
        need(why in said and "no snapshot was made" in said, said)
    need(pg.js("snapshots", "--repo", pg.repo)["snapshots"] == [], "nothing became a snapshot")
    pg.sql("CREATE TABLE big AS SELECT n, repeat(md5(n::text), 20) AS t FROM generate_series(1, 60000) n")
    process = t.start("wal", "backup", "--repo", pg.repo, env=pg.env, uid=pg.uid, cwd=pg.home, prefix=["/usr/bin/env"])
    for _ in range(500):
        if glob.glob(pg.repo + "/packs/*/*") or glob.glob(pg.repo + "/tmp/*") or process.poll() is not None:
            break
        time.sleep(0.01)
    with open(data + "/postmaster.pid") as f:
        os.kill(int(f.readline()), signal.SIGQUIT)
    run = t.finish(process, rc=(0, 1))
    made = pg.js("snapshots", "--repo", pg.repo)["snapshots"]
    need(len(made) == (run.code == 0), "only what was whole is a snapshot: %s" % run)
    need(pg.js("verify", "--repo", pg.repo, rc=(0, 1))["damages"] == [], "and nothing is damaged")


def summed(pg):
    """pgbench's balances agree, and what the last transaction was."""
    return pg.sql(SUMS)


SUMS = ("SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history) AND (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT sum(delta) FROM pgbench_history) "
        "AND (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT sum(delta) FROM pgbench_history), (SELECT max(mtime) || ' ' || count(*) FROM pgbench_history)")


def test_incremental(t):
    """PostgreSQL 17: a full base backup, two incremental ones, log after them; nothing takes one of them away; all of it comes back, also from a copy."""
    with_server(incremental, postgresql_17)(t)


def incremental(t, pg):
    backup = lambda *more: pg.js("wal", "backup", "--repo", pg.repo, "--incremental", "--pg-bin", pg.bin, *more)
    load = lambda n: pg.sh("pgbench", "-n", "-c", "2", "-t", str(n), "postgres")
    # Segments of the usual size: fewer calls of the archiver, which are what takes long here.
    data = pg.create(segment=16)
    with open(data + "/postgresql.conf", "a") as f:
        f.write("summarize_wal=on\n")
    pg.start(data)
    pg.sh("pgbench", "-i", "-s", "1", "-q", "postgres")
    full = backup()
    need(not full["incremental"] and "no manifest" in full["full_because"], full)
    load(50)
    first = backup()
    need(first["incremental"] and first["totals"]["bytes_read"] < full["totals"]["bytes_read"] / 2, (full["totals"], first["totals"]))
    at_first = summed(pg)
    load(50)
    second = backup()
    need(second["incremental"] and not second["full_because"], second)
    load(50)
    last = summed(pg)
    pg.archived()
    chain = [b["snapshot"] for b in (full, first, second)]
    found = pg.js("wal", "verify", "--repo", pg.repo)["clusters"][0]
    need([(b["snapshot"], b["incremental"], b["restorable"]) for b in found["bases"]] == list(zip(chain, (False, True, True), (True,) * 3)), found["bases"])
    # No policy, no person and no prune takes away what others are built on.
    live = lambda: [s["id"] for s in pg.js("snapshots", "--repo", pg.repo)["snapshots"]]
    done = pg.js("forget", "--repo", pg.repo, "--keep-last", "1")
    need(done["forgotten"] == [] and live() == chain, done)
    for ids in (chain[:1], chain[1:2], chain[:2]):
        need("built on" in pg.kw("forget", "--repo", pg.repo, *ids, rc=5).said, "refused")
    pg.kw("prune", "--repo", pg.repo, "--grace", "0s")
    need(live() == chain and pg.js("verify", "--repo", pg.repo, "--read-data")["sound"], "all is there")
    # A server that does not summarize, and a chain that is long enough: full ones, and the reason.
    pg.sql("ALTER SYSTEM SET summarize_wal = off")
    pg.sql("SELECT pg_reload_conf()")
    off = backup("--job", "postgresql-physical")
    need(not off["incremental"] and "the server made no incremental one" in off["full_because"], off)
    pg.sql("ALTER SYSTEM SET summarize_wal = on")
    pg.sql("SELECT pg_reload_conf()")
    again = backup()
    need(again["incremental"], again)
    need("2 base backups in a row" in backup("--full-every", "2")["full_because"], "a full one is due")
    # Of a chain that was dropped whole nothing is left, and the other one stays.
    pg.kw("forget", "--repo", pg.repo, again["snapshot"])
    need(off["snapshot"] in live() and again["snapshot"] not in live(), "the last of a chain goes alone")
    pg.stop(data)
    remove(data)
    programs = ("--pg-bin", pg.bin)
    need(summed_back(pg, first["snapshot"], "--to-consistent", *programs) == at_first, "the first incremental one by itself")
    need(summed_back(pg, again["snapshot"], *programs) == last, "a forgotten one, by its id")
    if is_root():
        back, identity = pg.home + "/byroot", pg.home + "/.config/keepwatch/identity.txt"
        t.kw("wal", "restore", "--repo", pg.repo, "--target", back, "--no-archive", "--identity", identity, "--owner", str(NOBODY), second["snapshot"], *programs)
        need({os.lstat(p).st_uid for p in glob.glob(back + "/**", recursive=True) + [back]} == {NOBODY}, "all of it is the user's")
        pg.open(back)
        need(pg.sql(SUMS) == last, "by root, for the server's user")
        pg.stop(back)
        remove(back)
    else:
        need(summed_back(pg, second["snapshot"], *programs) == last, "from the second incremental one")
    # Without the program nothing is left behind; a chain with a hole is refused beforehand, and told.
    back = pg.home + "/back"
    need("--pg-bin" in pg.kw("wal", "restore", "--repo", pg.repo, "--target", back, "--pg-bin", "/none", second["snapshot"], rc=1).said, "no program")
    need(not os.path.exists(back), "nothing is left")
    twin = pg.home + "/twin"
    pg.kw("init", "--repo", twin, "--from", pg.repo)
    pg.js("copy", "--repo", twin, "--from", pg.repo, second["snapshot"])
    source, pg.repo = pg.repo, twin
    need(len(live()) == 3, "a copy brings what it is built on")
    need(pg.js("wal", "verify", "--repo", twin)["sound"] and summed_back(pg, *programs) == last, "a copy restores")
    [middle] = [s["id"] for s in pg.js("snapshots", "--repo", twin)["snapshots"][1:2]]
    gone = next(o for o in objects(twin) if o.startswith("snapshots/") and middle in o)
    os.unlink(os.path.join(twin, gone))
    need("built on is not there" in pg.kw("verify", "--repo", twin, rc=1).said, "told")
    need("not in the repository" in pg.kw("wal", "restore", "--repo", twin, "--target", back, live()[-1], *programs, rc=5).said, "refused")
    need(not os.path.exists(back), "nothing was written")
    pg.repo = source


def summed_back(pg, *args):
    return pg.restored(*args, rows=SUMS)


@with_server
def test_incremental_where_the_server_cannot(t, pg):
    """Before 17, or without summaries of its log: a full base backup each time, and it is said why."""
    pg.start(pg.create())
    for why in ("no manifest", "the server made no incremental one"):
        made = pg.js("wal", "backup", "--repo", pg.repo, "--incremental")
        need(not made["incremental"] and why in made["full_because"], made)


@with_server
def test_a_configured_base_backup(t, pg):
    """As a job: recorded, retained by its policy, verified with its log by the repository's own job; a server that is away is a failed run of class source."""
    data = pg.create()
    config = t.write("homepg/config.toml", pg.configuration() + """
[backups.cluster]
repositories = ["disk"]
retry = { attempts = 0 }
retention = { last = 2 }
source.postgresql_cluster = { host = "%s", port = 5999, incremental = true, package = "%s" }
""" % (pg.home, os.path.dirname(pg.bin)), 0o644)
    job = lambda *args, rc=0: pg.kw(*args, "--config", config, rc=rc)
    job("backup", "--job", "cluster", rc=1)
    said = job("backup", "--job", "cluster", "--dry-run", rc=1).said
    need("cannot be reached" in said and "nothing was stored" in said, said)
    pg.start(data)
    pg.sql("CREATE TABLE rows (n int); INSERT INTO rows VALUES (1)")
    for _ in range(3):
        job("backup", "--job", "cluster")
    before = content_of(pg.repo)
    said = job("backup", "--job", "cluster", "--dry-run").text
    version = pg.sql("SHOW server_version").split()[0]
    need("PostgreSQL %s" % version in said and "its databases have" in said and "it would be a full base backup: " in said and "dry run: nothing was stored" in said, said)
    need(content_of(pg.repo) == before, "it stored something")
    job("verify", "--repository", "disk")
    db = sqlite3.connect("file:%s/state/catalog.sqlite?mode=ro" % pg.home, uri=True)
    runs = db.execute("SELECT kind, outcome, error_class, source_bytes > 1000000 AND length(snapshot) = 64 FROM runs WHERE kind <> 'forget' ORDER BY started, id").fetchall()
    need(runs == [("backup", "failed", "source", None)] + [("backup", "succeeded", None, 1)] * 3 + [("verify", "succeeded", None, None)], runs)
    [(noted,)] = db.execute("SELECT wal FROM repositories").fetchall()
    [noted] = json.loads(noted)
    need(noted["recoverable"] and noted["base_backups"] == 2 and not noted["gaps"], noted)
    db.close()
    kept = pg.js("snapshots", "--repo", pg.repo)["snapshots"]
    need([(s["job"], s["host"]) for s in kept] == [("cluster", "db1")] * 2, kept)
    pg.stop(data)
    remove(data)
    need(pg.restored(rows="SELECT n FROM rows") == "1", "it restores")


@with_server
def test_a_base_backup_by_password(t, pg):
    """A role that may replicate and no more, over TCP, by the password in a file; a wrong one, one that everybody may read, and none."""
    port, secret = free_port(), b"pw:with\\odd 'signs\""
    t.secrets.append(secret)
    data = pg.create()
    with open(data + "/postgresql.conf", "a") as f:
        f.write("listen_addresses='127.0.0.1'\nport=%d\n" % port)
    with open(data + "/pg_hba.conf", "w") as f:
        f.write("local all all trust\nhost replication keeper 127.0.0.1/32 scram-sha-256\n")
    pg.env["PGPORT"] = str(port)
    pg.start(data)
    pg.sql("CREATE ROLE keeper REPLICATION LOGIN PASSWORD '%s'" % secret.decode().replace("'", "''"))
    pg.sql("CREATE TABLE rows (n int); INSERT INTO rows VALUES (1)")
    files = {"good": secret + b"\n", "wrong": b"hunter2-wrong\n"}
    t.secrets.append(b"hunter2-wrong")
    text = pg.configuration()
    for name in ("good", "wrong", "open", "none"):
        password = "" if name == "none" else ', password_file = "%s/%s"' % (pg.home, name)
        if name != "none":
            path = t.write("homepg/" + name, files.get(name, secret), 0o644 if name == "open" else 0o600)
            if pg.uid is not None:
                os.chown(path, pg.uid, pg.uid)
        text += '[backups.%s]\nrepositories = ["disk"]\nretry = { attempts = 0 }\nsource.postgresql_cluster = { host = "127.0.0.1", port = %d, user = "keeper", package = "%s"%s }\n' % (name, port, os.path.dirname(pg.bin), password)
    config = t.write("homepg/config.toml", text, 0o644)
    env = dict(pg.env, PGPASSFILE="/nonexistent", TMPDIR=pg.home)
    job = lambda name, *more, rc=0: t.kw("backup", "--job", name, "--config", config, *more, rc=rc, env=env, uid=pg.uid, cwd=pg.home)
    said = job("good", "--dry-run").text
    need("dry run: nothing was stored" in said and "is not known" in said and "refuses the user keeper" in said, said)
    job("good")
    for name, why in (("wrong", "password authentication failed"), ("open", "everybody on the host may open it"), ("none", "no password supplied")):
        for more in ((), ("--dry-run",)):
            said = job(name, *more, rc=(1, 2)).said
            need(why in said, said)
    snapshots = pg.js("snapshots", "--repo", pg.repo)["snapshots"]
    need([s["job"] for s in snapshots] == ["good"], snapshots)
    # While it runs, nobody sees the password; and the file that was made for the client goes with the run.
    slow = t.write("slow/bin/pg_basebackup", "#!/bin/sh\ntouch %s/begun\nsleep 1\nexec %s/pg_basebackup \"$@\"\n" % (pg.home, pg.bin), 0o755)
    argv = ["wal", "backup", "--repo", pg.repo, "--pg-host", "127.0.0.1", "--pg-port", str(port), "--pg-user", "keeper", "--pg-password-file", pg.home + "/good", "--pg-bin", os.path.dirname(slow)]
    process = t.start(*argv, env=env, uid=pg.uid, cwd=pg.home)
    while not os.path.exists(pg.home + "/begun") and process.poll() is None:
        time.sleep(0.02)
    for pid in [p for p in os.listdir("/proc") if p.isdigit()]:
        try:
            for name in ("cmdline", "environ"):
                with open("/proc/%s/%s" % (pid, name), "rb") as f:
                    need(secret not in f.read(), "%s of %s has it" % (name, pid))
        except OSError:
            continue
    t.finish(process)
    need(not glob.glob(pg.home + "/kw-scratch*"), "the password file is left")
    pg.stop(data)
    remove(data)
    pg.env["PGPORT"] = "5999"

"""A dump that ends early is never a snapshot: each kind of source, cut in each way that it can be cut. Counted, so that the number is one."""
import hashlib, http.server, json, os, signal, socket, sqlite3, subprocess, threading, time

from harness import need, need_tools
from topics.jobs import wait_for
from topics.several import Redis
from topics.sources import Maria, Pg, Place
from topics.space import fill, private, small

VERSION = 'for a; do [ "$a" = --version ] && exec REAL --version; done\n'
# How a client program ends early. DIE kills the server, FULL fills its disk.
CLIENT = [
    ("it prints nothing and says that it succeeded", "exit 0"),
    ("its head alone, and success", 'REAL "$@" | head -c 40; exit 0'),
    ("half of it, and success", 'REAL "$@" | head -c 300000; exit 0'),
    ("all but the last byte, and success", 'REAL "$@" | head -c -1; exit 0'),
    ("all but the last line, and success", 'REAL "$@" | head -n -1; exit 0'),
    ("all of it, and failure", 'REAL "$@"; exit 1'),
    ("it is killed at its beginning", "kill -9 $$"),
    ("it is killed in the middle", 'REAL "$@" | head -c 300000; kill -9 $$'),
    ("it is killed after its last byte", 'REAL "$@"; kill -9 $$'),
    ("the server's disk is full", 'REAL "$@" | head -c 300000; echo "ERROR: could not write to file: No space left on device" >&2; exit 1'),
    ("it stands still in the middle", 'REAL "$@" | head -c 300000; sleep 30'),
]


class Count:
    """Tries, each of which must be refused without a snapshot."""

    def __init__(self, t):
        self.t, self.repo, self.tries, self.made, self.faults = t, t.repository(), 0, 0, []

    def refused(self, what, *args, during=None, **more):
        self.tries += 1
        process = self.t.start("backup", "--repo", self.repo, *args, **more)
        if during:
            during(process)
        run = self.t.finish(process, rc=(0, 1, 3, 5))
        before, self.made = self.made, len(self.t.ids(self.repo))
        if run.code != 1 or "no snapshot was made" not in run.said or self.made != before:
            self.faults.append("%s: exit %s: %s" % (what, run.code, run.said[:300]))

    def end(self, least):
        need(not self.faults, "\n".join(self.faults))
        need(self.tries >= least, "only %d ways were tried" % self.tries)
        print("%d/%d refused" % (self.tries, self.tries))


def stand_in(place, real, name, others, script):
    """An installation in which one program is a script."""
    top = os.path.join(place.dir, "bin-%d" % len(os.listdir(place.dir)))
    os.makedirs(top + "/bin")
    for other in others:
        os.symlink(os.path.join(real, other), os.path.join(top, "bin", other))
    with open(os.path.join(top, "bin", name), "w") as f:
        f.write("#!/bin/sh\n" + (VERSION + script + "\n").replace("REAL", os.path.join(real, name)))
    os.chmod(os.path.join(top, "bin", name), 0o755)
    return top


def writable(place):
    """A directory in which every user may write."""
    path = os.path.join(place.dir, "w")
    os.mkdir(path)
    os.chmod(path, 0o777)
    return path


def meanwhile(mark, act):
    """Acts when the dump is in its middle."""
    def during(process):
        wait_for("the middle of the dump", lambda: os.path.exists(mark), process)
        act()
        os.unlink(mark)
    return during


# Its reader waits long enough in the middle that something can happen to the server, and success is said whatever comes then.
HALTED = 'REAL "$@" | (head -c 300000; : >MARK; sleep 1; cat)'


def test_postgresql(t):
    count = Count(t)
    with Place() as place:
        pg = Pg(place)
        pg.make("app", 60000)
        dump = ("psql", "pg_dumpall", "pg_restore")
        mark = writable(place) + "/mark"
        source = lambda top, globals="&globals=false": ["--source", "postgresql?socket=%s&database=app&stall-timeout=2%s&package=%s" % (pg.home, globals, top)]
        for what, script in CLIENT:
            count.refused(what, *source(stand_in(place, pg.bin, "pg_dump", dump, script)))
        for what, script in CLIENT[:5]:
            top = stand_in(place, pg.bin, "pg_dumpall", ("psql", "pg_dump", "pg_restore"), script.replace("-c -1", "-c -40").replace("-n -1", "-n -4"))
            # Roles are short: half of them is all of them. After their last line there are others.
            if "half" not in what:
                count.refused("roles: " + what, *source(top, ""))
        halted = source(stand_in(place, pg.bin, "pg_dump", dump, HALTED.replace("MARK", mark)))
        end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = 'app' AND pid <> pg_backend_pid()"
        count.refused("its connection is ended", *halted, during=meanwhile(mark, lambda: pg.sql("postgres", end)))
        count.refused("the server is killed", *halted, during=meanwhile(mark, lambda: (pg.process.send_signal(signal.SIGQUIT), pg.process.wait())))
        count.refused("there is no server", *halted)
    count.end(18)


def test_mariadb(t):
    need_tools("mariadbd", "mariadb-install-db", "mariadb-dump", "mariadb")
    count = Count(t)
    with Place() as place:
        db = Maria(place)
        db.sql("CREATE DATABASE app")
        db.sql("CREATE TABLE app.t AS SELECT seq i, md5(seq) a FROM app.seq_1_to_60000")
        real = os.path.dirname(os.path.realpath(db.dump))
        mark = writable(place) + "/mark"
        source = lambda top: ["--source", "mysql?socket=%s&user=root&database=app&globals=false&stall-timeout=2&package=%s" % (db.socket, top)]
        for what, script in CLIENT:
            count.refused(what, *source(stand_in(place, real, "mariadb-dump", ("mariadb",), script)))
        halted = source(stand_in(place, real, "mariadb-dump", ("mariadb",), HALTED.replace("MARK", mark)))
        end = lambda: [db.sql("KILL %s" % i) for i in db.sql("SELECT id FROM information_schema.processlist WHERE db = 'app' OR info LIKE '%%`t`%%' AND id <> connection_id()").split()]
        count.refused("its connection is ended", *halted, during=meanwhile(mark, end))
        count.refused("the server is killed", *halted, during=meanwhile(mark, lambda: (db.process.kill(), db.process.wait())))
        count.refused("there is no server", *halted)
    count.end(13)


def test_redis(t):
    need_tools("redis-server", "redis-cli")
    private()
    count = Count(t)
    with Place() as place:
        home = small(os.path.join(place.dir, "disk"), "8m")
        redis = Redis(place, "r", home)
        keys = lambda n: [redis.cli("SET", "k%d" % i, os.urandom(2000).hex()) for i in range(n)]
        keys(60)
        source = ["--source", "redis?stall-timeout=3&socket=" + redis.at]
        saving = lambda process: wait_for("the snapshot", lambda: children_of(redis.process.pid), process)
        # A key takes so long to be saved that it can be disturbed.
        redis.cli("CONFIG", "SET", "rdb-key-save-delay", "30000")

        def the_child(process):
            saving(process)
            for pid in children_of(redis.process.pid):
                os.kill(pid, signal.SIGKILL)

        count.refused("what saves is killed", *source, during=the_child)
        count.refused("its connection is ended", *source, during=lambda p: (saving(p), redis.cli("CLIENT", "KILL", "TYPE", "replica")))
        redis.cli("CONFIG", "SET", "rdb-key-save-delay", "0")
        fill(home, 20000)
        count.refused("the server's disk is full", *source)
        os.unlink(home + "/ballast")
        redis.cli("CONFIG", "SET", "rdb-key-save-delay", "30000")
        count.refused("the server is killed", *source, during=lambda p: (saving(p), redis.process.kill(), redis.process.wait()))
        count.refused("there is no server", *source)
        body = b"REDIS0009\xfe\x00\x00\x01a\x01b\xff\0\0\0\0\0\0\0\0"
        mark = b"0123456789012345678901234567890123456789"
        for what, answer, hang in [
            ("it says a length and ends before", b"$%d\r\n" % len(body) + body[:10], False),
            ("it says a length and stands still", b"$%d\r\n" % len(body) + body[:10], True),
            ("it is without its checksum, and success", b"$%d\r\n" % (len(body) - 8) + body[:-8], True),
            ("it is without its end mark, and success", b"$12\r\n" + body[:12], True),
            ("it is empty, and success", b"$0\r\n", True),
            ("it comes without the mark that was promised", b"$EOF:" + mark + b"\r\n" + body, False),
            ("its middle is missing, and its mark comes", b"$EOF:" + mark + b"\r\n" + body[:12] + mark, True),
            ("it is refused", b"-ERR Background save already in progress\r\n", True),
        ]:
            at = fake_redis(place, answer, hang)
            count.refused(what, "--source", "redis?stall-timeout=1&socket=" + at)
    count.end(13)


def test_sqlite(t):
    private()
    count = Count(t)
    with Place() as place:
        path = os.path.join(place.dir, "app.db")
        source = ["--source", "sqlite?database=" + path]

        def whole():
            for name in os.listdir(place.dir):
                if name.startswith("app.db"):
                    os.unlink(os.path.join(place.dir, name))
            db = sqlite3.connect(path)
            db.executescript("CREATE TABLE t (a); INSERT INTO t SELECT randomblob(500) FROM (WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 4000) SELECT x FROM c); CREATE INDEX i ON t (a)")
            db.close()
            return os.path.getsize(path)

        def changed(what, change):
            size = whole()
            with open(path, "r+b") as f:
                change(f, size)
            count.refused(what, *source)

        changed("it is cut in the middle", lambda f, n: f.truncate(n // 2))
        changed("its last page is missing", lambda f, n: f.truncate(n - 4096))
        changed("it is cut within a page", lambda f, n: f.truncate(n // 2 + 100))
        changed("its head alone is there", lambda f, n: f.truncate(100))
        changed("it is empty", lambda f, n: f.truncate(0))
        changed("a page is overwritten", lambda f, n: (f.seek(n // 2 // 4096 * 4096), f.write(b"\xee" * 4096)))
        changed("its pages at the end are zeros", lambda f, n: (f.seek(n - 40960), f.write(b"\0" * 40960)))
        whole()
        os.unlink(path)
        count.refused("it is gone", *source)
        whole()
        tiny = small(os.path.join(place.dir, "t"), "1m")
        count.refused("there is no room for its copy", *source, "--scratch", tiny)
        few = small(os.path.join(place.dir, "f"), "50m", 3)
        fill(few, 3 << 20)
        count.refused("there is no room in the middle of its copy", *source, "--scratch", few)
        need(os.listdir(tiny) == [] and os.listdir(few) == ["ballast"], (os.listdir(tiny), os.listdir(few)))
    count.end(10)


def test_qdrant(t):
    count = Count(t)
    for what, wrong in [("half of it comes", "short"), ("all but a byte", "byte"), ("it stands still", "hangs"), ("another content comes", "other"), ("nothing comes", "empty"), ("the collection is dropped", "gone"),
                        ("the server's disk is full", "full"), ("the connection breaks at once", "breaks"), ("it fails in the middle", "error")]:
        with fake_qdrant(wrong) as (url, left):
            count.refused(what, "--source", "qdrant?stall-timeout=1&url=" + url)
            need(not left, "%s: a snapshot stays on the server" % what)
    count.end(9)


def test_command(t):
    count = Count(t)
    for what, script in [("it prints nothing", "exit 0"), ("it fails at once", "exit 1"), ("it fails after its last byte", "seq 200000; exit 7"), ("it is killed in the middle", "seq 100000; kill -9 $$"),
                         ("it is ended", "seq 100000; kill $$"), ("it stands still", "seq 1000; exec sleep 30"), ("a disk is full", "seq 100000; dd if=/dev/zero of=/dev/full count=1 2>&2"), ("it is not there", None)]:
        argv = ["/bin/sh", "-c", script] if script else ["/nonexistent/program"]
        count.refused(what, "--source", "command", "--stall-timeout", "1", "--", *argv)
        # The older way, which has no patience of its own.
        if script and "seq" in script and "sleep" not in script:
            count.refused(what + ", as --command", "--stdin-name", "x", "--command", "--", *argv)
    count.end(11)


def children_of(pid):
    with open("/proc/%d/task/%d/children" % (pid, pid)) as f:
        return [int(p) for p in f.read().split()]


def fake_redis(place, answer, hang):
    """Answers INFO, and then this to SYNC."""
    at = os.path.join(place.dir, "f%d" % len(os.listdir(place.dir)))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(at)
    listener.listen(4)

    def serve():
        stream, _ = listener.accept()
        listener.close()
        stream.recv(1000)
        info = b"redis_version:7.0\r\nloading:0\r\n"
        stream.sendall(b"$%d\r\n%s\r\n" % (len(info), info))
        stream.recv(1000)
        stream.sendall(answer)
        if hang:
            time.sleep(3)
        stream.close()

    threading.Thread(target=serve, daemon=True).start()
    return at


class fake_qdrant:
    """A Qdrant with one collection whose snapshot does not come as it should. Gives its URL, and what is left on it."""

    def __init__(self, wrong):
        content, left = os.urandom(700000), set()
        self.left = left

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def reply(self, value, status=200):
                body = value if isinstance(value, bytes) else json.dumps({"result": value, "status": "ok", "time": 0.1}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self):
                path = self.path.split("?")[0]
                if path == "/":
                    return self.reply(b'{"title":"qdrant - vector search engine","version":"1.19.0"}')
                if path == "/collections":
                    return self.reply({"collections": [{"name": "kw"}]})
                if path in ("/aliases", "/collections/kw/aliases"):
                    return self.reply({"aliases": []})
                if "/snapshots/" not in path:
                    return self.reply({"points_count": 3, "status": "green"})
                if wrong == "breaks":
                    return self.connection.close()
                if wrong == "error":
                    return self.reply(b'{"status":{"error":"Service internal error"},"time":0.0}', 500)
                if wrong == "empty":
                    return self.reply(b"")
                body = os.urandom(len(content)) if wrong == "other" else content
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[:{"short": len(body) // 2, "hangs": len(body) // 2, "byte": -1}.get(wrong, len(body))])
                self.wfile.flush()
                if wrong == "hangs":
                    time.sleep(3)
                self.close_connection = True

            def do_POST(self):
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if "/points/count" in self.path:
                    return self.reply({"count": 3})
                if wrong == "full":
                    return self.reply(b'{"status":{"error":"Service internal error: No space left on device"},"time":0.0}', 500)
                if wrong == "gone":
                    return self.reply(b'{"status":{"error":"Not found: Collection `kw` doesn\'t exist!"},"time":0.0}', 404)
                left.add("kw-1.snapshot")
                self.reply({"name": "kw-1.snapshot", "size": len(content), "checksum": hashlib.sha256(content).hexdigest()})

            def do_DELETE(self):
                left.discard(self.path.rsplit("/", 1)[1].split("?")[0])
                self.reply(True)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return "http://127.0.0.1:%d" % self.server.server_port, self.left

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

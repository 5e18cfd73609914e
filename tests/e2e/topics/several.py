"""Files, a database and a service as one job: one run, one snapshot, each part comes back by itself, and nothing less than the whole is kept."""
import glob, os, sqlite3, subprocess

from harness import need, need_tools, tree
from topics.jobs import calls, configure, rows, systemctl, wait_for
from topics.sources import Pg, Place


class Redis:
    """A Redis of our own, on a socket."""

    def __init__(self, place, name="r", home=None):
        self.at = os.path.join(place.dir, name)
        self.process = place.serve("redis-server", "--port", "0", "--save", "", "--unixsocket", self.at, "--dir", home or place.dir)
        wait_for("Redis", lambda: self.cli("PING") == "PONG", self.process)

    def cli(self, *words):
        return subprocess.run(["redis-cli", "-s", self.at, *words], capture_output=True, text=True).stdout.strip()


def job(name, parts, more="retention = { last = 100 }\n"):
    return "[backups.%s]\nretry = { attempts = 0 }\n%s%s" % (name, more, "".join("[[backups.%s.source.several.parts]]\n%s\n" % (name, p) for p in parts))


def parts(pg, redis, src, database="app", package=None):
    return [
        'paths = { include = ["%s"], exclude = ["*.log"] }' % src,
        'postgresql = { host = "%s", databases = ["%s"], package = "%s" }' % (pg.home, database, package or os.path.dirname(pg.bin)),
        'redis = { socket = "%s" }' % redis.at,
    ]


def with_identity(t, config):
    """The same configuration, whose repository can be read."""
    [identity] = [f for f in glob.glob(t.path("home/.config/keepwatch/*")) if "identity" in f]
    with open(config) as f:
        text = f.read()
    with open(config, "w") as f:
        f.write(text.replace("[repositories.disk]\n", '[repositories.disk]\nidentity_file = "%s"\n' % identity))
    return config


def test_one_job_is_one_run_and_one_snapshot(t):
    need_tools("redis-server", "redis-cli")
    repo, src = t.repository("disk"), t.small_tree()
    with Place() as place:
        pg, redis = Pg(place), Redis(place)
        pg.make("app", 3000)
        redis.cli("MSET", *[w for i in range(100) for w in ("k%d" % i, "v" * i)])
        t.write("src/a/noise.log", "not wanted")
        before, state = pg.print("app"), tree(src)
        del state[b"a/noise.log"]
        drills = """
[drills.files]
backup = "whole"
target.directory = {}
expect.min_files = 3
[drills.pg]
backup = "whole"
target.postgresql = { package = "%s" }
expect.sql = ["SELECT count(*) = 3000 FROM t"]
[drills.redis]
backup = "whole"
target.redis = {}
""" % os.path.dirname(pg.bin)
        config = with_identity(t, configure(t, job("whole", parts(pg, redis, src), "retention = { last = 1 }\n") + drills))
        t.kw("config", "check", "--config", config)
        env = dict(t.env, TMPDIR=place.dir)
        t.kw("backup", "--job", "whole", "--config", config, env=env)
        [row] = rows(t)
        [snapshot] = t.js("snapshots", "--repo", repo)["snapshots"]
        need(row["outcome"] == "succeeded" and row["snapshot"] == snapshot["id"] and row["source_errors"] == 0, row)
        need(snapshot["paths"] == [src, "postgresql", "redis"] and snapshot["source"] == "files", snapshot)
        need(src in t.kw("snapshots", "--repo", repo).text, "a person does not see what it is of")
        # A second run reads no file that is as it was; and the policy drops or keeps all of a run together.
        t.kw("backup", "--job", "whole", "--config", config, env=env)
        [second] = t.js("snapshots", "--repo", repo)["snapshots"]
        need(second["id"] != snapshot["id"] and second["totals"]["files_unmodified"] == 8 and second["paths"] == snapshot["paths"], second)
        names = t.kw("ls", "--repo", repo, second["id"]).text
        need(all(n in names for n in ("postgresql/app.dump", "postgresql/globals.sql", "redis/dump.rdb", "redis/keepwatch-source.json", src + "/a/file-0")) and "noise.log" not in names, names)
        for name in ("files", "pg", "redis"):
            t.kw("drill", name, "--config", config, env=env)
        # Each part comes back by itself.
        os.unlink(t.path("src/a/noise.log"))
        t.kw("restore", "--repo", repo, "--target", t.path("out"), "latest", src)
        need(not os.path.exists(t.path("out/postgresql")) and os.path.exists(t.path("out") + src), "the files alone were asked for")
        t.must_restore(repo, second["id"], src, state, name="out2")
        pg_args = pg.args() + ["--database", "app=copy"]
        t.kw("restore", "--repo", repo, *pg_args)
        need(pg.print("copy") == before, "another database")
        home = os.path.join(place.dir, "r2")
        os.mkdir(home)
        t.kw("restore", "--repo", repo, "--source", "redis", "--target", home + "/dump.rdb")
        again = Redis(place, "s2", home)
        need(again.cli("DBSIZE") == "100" and again.cli("GET", "k99") == "v" * 99, "another Redis")
        # To where the files were: dumps were never files there.
        os.unlink(src + "/a/file-0")
        run = t.kw("restore", "--repo", repo, "--in-place")
        need(tree(src)[b"a/file-0"] == state[b"a/file-0"] and not os.path.exists("/postgresql") and not os.path.exists("/redis"), "in place")
        need("left out: the dumps in postgresql" in run.said, run)
        # What was written as a job can be typed.
        typed = ["--source", "postgresql?socket=%s&database=app&package=%s" % (pg.home, os.path.dirname(pg.bin)), "--source", "redis?socket=" + redis.at, src]
        document = t.js("backup", "--repo", repo, *typed)
        need(document["outcome"] == "succeeded" and document["totals"]["files"] == second["totals"]["files"], document)
        t.kw("verify", "--repo", repo, "--read-data")


def test_one_source_that_fails_fails_the_run(t):
    """Whatever breaks, whenever: the run failed with its reason, there is no snapshot, and services that were stopped for it run again."""
    need_tools("redis-server", "redis-cli")
    repo, src = t.repository("disk"), t.small_tree()
    env = systemctl(t)
    units = 'stop_units = ["app.service"]\nretention = { last = 100 }\n'
    with Place() as place:
        pg, redis = Pg(place), Redis(place)
        pg.make("app", 50000)
        env["TMPDIR"] = place.dir
        fake = os.path.join(place.dir, "fake")
        os.makedirs(fake + "/bin")
        for name in ("psql", "pg_dumpall", "pg_restore"):
            os.symlink(os.path.join(pg.bin, name), os.path.join(fake, "bin", name))
        with open(fake + "/bin/pg_dump", "w") as f:
            f.write('#!/bin/sh\n[ "$1" = --version ] && exec %s/pg_dump --version\n%s/pg_dump "$@" | head -c 500000\n' % (pg.bin, pg.bin))
        os.chmod(fake + "/bin/pg_dump", 0o755)
        gone = Redis(place, "gone")
        gone.process.kill()
        gone.process.wait()
        jobs = {
            "unknown": (parts(pg, redis, src, database="nix"), "source 'postgresql'", "no database 'nix'"),
            "dead": (parts(pg, gone, src), "source 'redis'", "cannot be reached"),
            "cut": (parts(pg, redis, src, package=fake), "source 'postgresql'", "app"),
            "absent": (parts(pg, redis, t.path("absent")), t.path("absent"), "no such file"),
        }
        config = configure(t, "".join(job(name, of, units) for name, (of, *_) in jobs.items()) + job("good", parts(pg, redis, src), units))
        for name, (_, *said) in jobs.items():
            run = t.kw("backup", "--job", name, "--config", config, env=env, rc=1)
            last = rows(t)[-1]
            need(last["job"] == name and last["outcome"] == "failed" and last["error_class"] == "source" and not last["snapshot"], last)
            need(all(s in last["error_text"] for s in said), (said, last["error_text"]))
            need(t.ids(repo) == [], "%s: a part was taken for the whole" % name)
            need(calls(t) == ["stop app.service", "start app.service"] and os.path.exists(t.path("active.app.service")), run)
        t.kw("backup", "--job", "good", "--config", config, env=env)
        need(len(t.ids(repo)) == 1, "the good one")
        # Killed in the middle, at several moments: what is there is whole.
        for delay in (0.05, 0.1, 0.2, 0.4):
            process = t.start("backup", "--job", "good", "--config", config, env=env)
            try:
                process.wait(delay)
            except subprocess.TimeoutExpired:
                process.terminate()
            process.communicate()
        need(os.path.exists(t.path("active.app.service")), "a service stays stopped")
        for snapshot in t.js("snapshots", "--repo", repo)["snapshots"]:
            names = t.kw("ls", "--repo", repo, snapshot["id"]).text
            need(all(n in names for n in ("postgresql/app.dump", "redis/dump.rdb", src + "/a/file-0")), names)


def test_dumps_and_files_do_not_stand_in_each_others_way(t):
    repo, src = t.repository(), t.small_tree()
    path = t.path("app.db")
    import sqlite3
    sqlite3.connect(path).executescript("CREATE TABLE t (a); INSERT INTO t VALUES (1)")
    top = src.split("/")[1]
    run = t.kw("backup", "--repo", repo, "--source", "sqlite?database=%s&label=%s" % (path, top), src, rc=2)
    need("would stand in /%s" % top in run.said and "label=NAME" in run.said and t.ids(repo) == [], run)
    # Files that are not all there: partial, as without databases; the dump is in it.
    document = t.kw("backup", "--repo", repo, "--json", "--source", "sqlite?database=" + path, src, t.path("absent"), rc=3).json
    need(document["outcome"] == "partial" and document["problems_total"] == 1, document)
    t.kw("restore", "--repo", repo, "--source", "sqlite", "--target", t.path("back.db"))
    need(sqlite3.connect(t.path("back.db")).execute("SELECT a FROM t").fetchall() == [(1,)], "another database")

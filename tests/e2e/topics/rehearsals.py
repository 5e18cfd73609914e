"""Drills that start a server of their own on what was backed up: Qdrant (a stand-in, and the real one where it is named), and base backups of PostgreSQL."""
import glob, http.client, json, os, shutil, signal, subprocess, time

from harness import Skip, free_port, need
from topics.jobs import configure, rows, wait_for
from topics.sources import Place, cmdline

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


def nothing_left(place):
    need(not of_scratch(place), "a server is left")
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
        if not shutil.which("qdrant"):
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
            if of_scratch(place) and glob.glob(place.dir + "/kw-scratch-*/s/storage"):
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

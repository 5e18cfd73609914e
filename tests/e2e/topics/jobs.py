"""Jobs of the configuration: what is recorded of a run, however it ends; retries, hooks, units, locks; and that bookkeeping never costs a backup."""
import json, os, shutil, signal, sqlite3, time

from harness import Skip, need, tree

RECIPIENT = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
CANARY = "canary-4f1c-secret"


def configure(t, jobs, repositories=("disk",), extra="", name="config.toml", more="initialize = false"):
    """A configuration with repositories of these names beneath the scratch directory."""
    text = 'host = "web1"\nstate_directory = "%s"\ncache_directory = "%s"\n' % (t.path("state"), t.path("cache"))
    for r in repositories:
        text += '[repositories.%s]\nbackend.local = { path = "%s" }\nrecipients = ["%s"]\n%s\n' % (r, t.path(r), RECIPIENT, more)
    return t.write(name, text + jobs + extra)


ALL = "retention = { last = 100 }\n"


def keeping(more):
    """All snapshots are kept where nothing else is said: several in a day are usual here."""
    return more if "retention" in more else ALL + more


def paths(name, *include, repositories=("disk",), more="retry = { attempts = 0 }"):
    more = keeping(more)
    return "[backups.%s]\nrepositories = %s\n%s\nsource.paths = { include = %s }\n" % (name, json.dumps(repositories), more, json.dumps(include))


def command(name, script, more="retry = { attempts = 0 }", repositories=("disk",)):
    more = keeping(more)
    return '[backups.%s]\nrepositories = %s\n%s\nsource.command = { argv = ["/bin/sh", "-c", %s], filename = "dump" }\n' % (name, json.dumps(repositories), more, json.dumps(script))


def rows(t, kinds=None):
    """All runs in the catalog, in the order in which they began, but those that apply retention after each backup; or those of these kinds."""
    place = t.path("state/catalog.sqlite")
    if not os.path.exists(place):
        return []
    db = sqlite3.connect("file:%s?mode=ro" % place, uri=True, timeout=5)
    try:
        db.row_factory = sqlite3.Row
        every = [dict(r) for r in db.execute("SELECT * FROM runs ORDER BY started, id")]
        return [r for r in every if (r["kind"] in kinds if kinds else r["kind"] != "forget")]
    except sqlite3.OperationalError as e:
        # Its tables are being made.
        need("no such table" in str(e), e)
        return []
    finally:
        db.close()


def outcomes(t):
    return [r["outcome"] for r in rows(t)]


def wait_for(what, condition, process=None, seconds=30):
    end = time.time() + seconds
    while time.time() < end:
        found = condition()
        if found:
            return found
        if process is not None and process.poll() is not None:
            raise AssertionError("it ended before %s: %s" % (what, process.communicate()))
        time.sleep(0.02)
    raise AssertionError("waited in vain for %s" % what)


def lives(pid):
    try:
        with open("/proc/%d/stat" % pid) as f:
            return ") Z" not in f.read()
    except OSError:
        return False


def number(path):
    try:
        with open(path) as f:
            return int(f.read())
    except (OSError, ValueError):
        return 0


def children(pid):
    with open("/proc/%d/task/%d/children" % (pid, pid)) as f:
        return [int(p) for p in f.read().split()]


def test_success_is_recorded(t):
    repo, src = t.repository("disk"), t.small_tree()
    state = tree(src)
    config = configure(t, paths("home", src, more='tags = ["files"]'))
    run = t.kw("backup", "--job", "home", "--config", config)
    need("job home: succeeded" in run.text, run)
    [row] = rows(t)
    snapshot = t.js("snapshots", "--repo", repo)["snapshots"][0]
    need(row["outcome"] == "succeeded" and row["kind"] == "backup" and row["job"] == "home" and row["repository"] == "disk" and row["host"] == "web1", row)
    need(row["cause"] == "manual" and row["attempt"] == 1 and row["error_class"] is None and row["finished"] >= row["started"], row)
    need(row["snapshot"] == snapshot["id"] and row["files"] == snapshot["totals"]["files"] and row["source_bytes"] == snapshot["totals"]["bytes"], row)
    need(snapshot["job"] == "home" and snapshot["tags"] == ["files"] and snapshot["host"] == "web1", snapshot)
    t.must_restore(repo, snapshot["id"], src, state)
    # A timer is told from a person by what systemd says.
    document = t.js("backup", "--job", "home", "--config", config, env=dict(t.env, TRIGGER_UNIT="keepwatch-backup-home.timer"))
    need(document["runs"][0]["trigger"] == "timer" and document["runs"][0]["outcome"] == "succeeded" and document["exit_code"] == 0, document)
    need([r["cause"] for r in rows(t)] == ["manual", "timer"], rows(t))
    # What was done can be done by hand.
    run = t.kw("backup", "--job", "home", "--config", config, "-v")
    need("keepwatch backup --repo=" in run.said and "--as-job=home" in run.said, run)


def test_partial_and_fail_on_warnings(t):
    t.repository("disk")
    src = t.small_tree()
    config = configure(t, paths("home", src, t.path("absent")) + paths("strict", src, t.path("absent"), more="fail_on_warnings = true\nretry = { attempts = 2, delay = \"1s\" }"))
    t.kw("backup", "--job", "home", "--config", config, rc=3)
    t.kw("backup", "--job", "strict", "--config", config, rc=1)
    soft, strict = rows(t)
    need(soft["outcome"] == "partial" and soft["source_errors"] == 1 and soft["snapshot"] and soft["error_class"] is None, soft)
    need(strict["outcome"] == "failed" and strict["error_class"] == "source" and strict["snapshot"] and strict["snapshot"] in strict["error_text"], strict)


def test_failures_are_tried_again(t):
    src = t.small_tree()
    more = 'retry = { attempts = 2, delay = "1s" }'
    config = configure(t, paths("home", src, more=more))
    run = t.kw("backup", "--job", "home", "--config", config, rc=1)
    need("attempt 1 of 3" in run.said and "trying again in" in run.said, run)
    tried = rows(t)
    need([(r["attempt"], r["cause"], r["outcome"], r["error_class"]) for r in tried] == [(1, "manual", "failed", "repository"), (2, "retry", "failed", "repository"), (3, "retry", "failed", "repository")], tried)
    # It comes back between two attempts.
    t.repository("away")
    process = t.start("backup", "--job", "home", "--config", config)
    wait_for("the first failure", lambda: outcomes(t).count("failed") == 4, process)
    os.rename(t.path("away"), t.path("disk"))
    t.finish(process)
    last = rows(t)[-1]
    need(last["outcome"] == "succeeded" and last["attempt"] in (2, 3) and last["cause"] == "retry", last)


def test_what_does_not_pass_is_not_tried_again(t):
    t.repository("disk")
    src = t.small_tree()
    key = os.path.join(t.env["HOME"], ".config/keepwatch/writer-keys")
    shutil.move(key, t.path("keys"))
    config = configure(t, paths("home", src, more='retry = { attempts = 3, delay = "1s" }'))
    t.kw("backup", "--job", "home", "--config", config, rc=1)
    [row] = rows(t)
    need(row["outcome"] == "failed" and row["error_class"] == "auth", row)
    # Nor what the configuration cannot mean, and of that there is no run.
    bad = configure(t, paths("home", src) + '[backups.db]\nrepositories = ["disk"]\nenable = false\nsource.sqlite = { databases = ["/x"] }\n', name="other.toml")
    run = t.kw("backup", "--job", "db", "--config", bad, rc=2)
    need("switched off" in run.said, run)
    run = t.kw("backup", "--job", "hom", "--config", bad, rc=2)
    need("use one of: db home" in run.said, run)
    run = t.kw("backup", "--job", "home", "--config", t.write("bad.toml", "[backups.home]\ncolour = 1\n"), rc=2)
    need("bad.toml" in run.said and "colour" in run.said, run)
    need(len(rows(t)) == 1, rows(t))


def test_a_killed_supervisor_is_recorded_as_lost(t):
    repo = t.repository("disk")
    config = configure(t, command("db", "echo $$ > %s; exec sleep 600" % t.path("pid")))
    process = t.start("backup", "--job", "db", "--config", config)
    pid = wait_for("the command", lambda: number(t.path("pid")), process)
    need(outcomes(t) == ["started"], rows(t))
    process.kill()
    process.communicate()
    # What it began ends with it.
    wait_for("the end of the command", lambda: not lives(pid))
    need(outcomes(t) == ["started"], rows(t))
    config = configure(t, command("db", "echo dump"))

    def free():
        run = t.kw("backup", "--job", "db", "--config", config, rc=(0, 5))
        return run if run.code == 0 else None
    run = wait_for("the lock", free)
    need("recorded as lost" in run.said, run)
    first, second = rows(t)
    need(first["outcome"] == "lost" and first["error_class"] == "killed" and second["outcome"] == "succeeded", rows(t))
    need(t.ids(repo) == [second["snapshot"]], "one snapshot")


def test_a_killed_child_is_recorded_at_once(t):
    t.repository("disk")
    config = configure(t, command("db", "echo $$ > %s; exec sleep 600" % t.path("pid")))
    process = t.start("backup", "--job", "db", "--config", config)
    pid = wait_for("the command", lambda: number(t.path("pid")), process)
    [child] = children(process.pid)
    os.kill(child, signal.SIGKILL)
    run = t.finish(process, rc=1)
    need("killed by signal 9" in run.said, run)
    [row] = rows(t)
    need(row["outcome"] == "failed" and row["error_class"] == "killed", row)
    wait_for("the end of the command", lambda: not lives(pid))


def test_a_signal_is_passed_on_and_recorded(t):
    repo = t.repository("disk")
    log = t.path("log")
    more = 'retry = { attempts = 3, delay = "1s" }\npost_hook = ["/bin/sh", "-c", "echo $KEEPWATCH_RESULT > %s"]' % log
    config = configure(t, command("db", "echo $$ > %s; exec sleep 600" % t.path("pid"), more))
    process = t.start("backup", "--job", "db", "--config", config)
    pid = wait_for("the command", lambda: number(t.path("pid")), process)
    began = time.time()
    process.terminate()
    run = t.finish(process, rc=1)
    need(time.time() - began < 15, "it took long to stop")
    need("stopped by a signal" in run.said, run)
    [row] = rows(t)
    need(row["outcome"] == "failed" and row["error_class"] == "killed", row)
    need(not lives(pid) and t.ids(repo) == [], "nothing is left")
    with open(log) as f:
        need(f.read() == "failed\n", "the post_hook runs after a stop")


def holding(t, name, first=""):
    """A command whose output another process holds open; it writes both numbers."""
    return "%s echo $$ > %s; sleep 600 & echo $! > %s; echo x; wait" % (first, t.path(name + ".shell"), t.path(name + ".sleep"))


def both(t, name, process):
    return [wait_for("the command", lambda: number(t.path(name + part)), process) for part in (".shell", ".sleep")]


def test_what_a_command_started_ends_with_it(t):
    repo = t.repository("disk")
    ignoring = "trap '' TERM;"
    for name, first in (("obeys", ""), ("ignores", ignoring)):
        process = t.start("backup", "--repo", repo, "--stdin-name", "dump", "--command", "--", "/bin/sh", "-c", holding(t, name, first))
        pids = both(t, name, process)
        began = time.time()
        process.terminate()
        t.finish(process, rc=1)
        need(time.time() - began < 8, "%s: it took %s s to stop" % (name, time.time() - began))
        need(not [p for p in pids if lives(p)], "%s: it left something behind" % name)
    # One that leaves while what it started goes on, and a second request.
    process = t.start("backup", "--repo", repo, "--stdin-name", "dump", "--command", "--", "/bin/sh", "-c", ignoring + " sleep 600 & echo $! > %s" % t.path("left"))
    pid = wait_for("the command", lambda: number(t.path("left")), process)
    process.terminate()
    time.sleep(0.3)
    process.terminate()
    t.finish(process, rc=(1, -signal.SIGTERM))
    wait_for("its end", lambda: not lives(pid), seconds=8)
    need(t.ids(repo) == [], "no snapshot")


def test_nothing_outlives_a_killed_supervisor(t):
    t.repository("disk")
    for name, first in (("obeys", ""), ("ignores", "trap '' TERM;")):
        config = configure(t, command(name, holding(t, name, first)))
        process = t.start("backup", "--job", name, "--config", config)
        pids = both(t, name, process)
        [child] = children(process.pid)
        process.kill()
        process.communicate()
        wait_for("the end of all that it began", lambda: not [p for p in [child] + pids if lives(p)], seconds=15)


def test_one_run_of_a_job_at_a_time(t):
    t.repository("disk")
    config = configure(t, command("db", "echo $$ > %s; while [ ! -e %s ]; do sleep 0.05; done" % (t.path("pid"), t.path("go"))) + command("other", "echo x"))
    process = t.start("backup", "--job", "db", "--config", config)
    wait_for("the command", lambda: number(t.path("pid")), process)
    run = t.kw("backup", "--job", "db", "--config", config, rc=5)
    need("process %d since" % process.pid in run.said, run)
    need(t.kw("forget", "--job", "db", "--config", config, rc=5), "the same job")
    t.kw("backup", "--job", "other", "--config", config)
    t.write("go")
    t.finish(process)
    need(sorted((r["job"], r["outcome"]) for r in rows(t)) == [("db", "succeeded"), ("other", "succeeded")], rows(t))


def test_hooks(t):
    repo, src, log = t.repository("disk"), t.small_tree(), t.path("log")

    def hook(name, end=""):
        script = 'echo "%s $KEEPWATCH_JOB $KEEPWATCH_REPOSITORY $KEEPWATCH_RESULT $KEEPWATCH_SNAPSHOT [$KEEPWATCH_ERROR] $KEEPWATCH_DURATION_SECONDS" >> %s; env >> %s; echo said by %s; %s' % (name, log, t.path("env"), name, end)
        return '%s = ["/bin/sh", "-c", %s]' % (name, json.dumps(script))

    def lines():
        with open(log) as f:
            out = f.read().splitlines()
        os.remove(log)
        return out
    jobs = paths("good", src, more="retry = { attempts = 0 }\n" + hook("pre_hook") + "\n" + hook("post_hook"))
    jobs += paths("bad", t.path("absent"), more="retry = { attempts = 0 }\n" + hook("pre_hook") + "\n" + hook("post_hook"))
    jobs += paths("refused", src, more=hook("pre_hook", "exit 7") + "\n" + hook("post_hook"))
    jobs += paths("late", src, more="retry = { attempts = 0 }\n" + hook("post_hook", "exit 3"))
    config = configure(t, jobs)
    secret = dict(t.env, AWS_SECRET_ACCESS_KEY=CANARY, KEEPWATCH_WRITER_KEY_FILE="")
    del secret["KEEPWATCH_WRITER_KEY_FILE"]
    run = t.kw("backup", "--job", "good", "--config", config, env=secret)
    pre, post = lines()
    id = t.ids(repo)[-1]
    need(pre == "pre_hook good disk   [] ", pre)
    need(post.startswith("post_hook good disk succeeded %s [] " % id), post)
    need(float(post.split()[-1]) > 0, post)
    need("said by pre_hook" in run.said and "said by" not in run.text, run)
    with open(t.path("env")) as f:
        need(CANARY not in f.read(), "a secret reached a hook")
    t.kw("backup", "--job", "bad", "--config", config, rc=1)
    pre, post = lines()
    need(pre.startswith("pre_hook bad") and post.startswith("post_hook bad disk failed - [") and "absent" in post, post)
    before = t.ids(repo)
    run = t.kw("backup", "--job", "refused", "--config", config, rc=1)
    pre, post = lines()
    need(pre.startswith("pre_hook refused") and "post_hook refused disk failed - [the pre_hook" in post, post)
    need(t.ids(repo) == before and "nothing was backed up" in run.said, run)
    row = rows(t)[-1]
    need(row["outcome"] == "failed" and row["error_class"] == "source" and row["attempt"] == 1 and "pre_hook" in row["error_text"], row)
    # A post_hook that fails is told, and recorded beside the record of the snapshot, which stays.
    run = t.kw("backup", "--job", "late", "--config", config, rc=1)
    need("post_hook" in run.said and len(t.ids(repo)) == len(before) + 1, run)
    done, trouble = rows(t)[-2:]
    need(done["outcome"] == "succeeded" and done["snapshot"] == t.ids(repo)[-1], done)
    need(trouble["outcome"] == "failed" and trouble["kind"] == "backup" and trouble["job"] == "late" and trouble["cause"] == "run", trouble)
    need("post_hook" in trouble["error_text"] and "exit status: 3" in trouble["error_text"] and done["snapshot"] in trouble["error_text"], trouble)
    need("post_hook" in t.kw("history", "late", "--config", config).text, "the history keeps it")
    [job] = [j for j in t.js("status", "--config", config)["jobs"] if j["job"] == "late" and j["kind"] == "backup"]
    need(job["last_successful"] is False and job["last_success"] and "post_hook" in job["last_run"]["error"]["text"], job)


def test_several_repositories(t):
    src = t.small_tree()
    two = t.repository("two")
    config = configure(t, paths("home", src, repositories=("disk", "two")), repositories=("disk", "two"))
    run = t.kw("backup", "--job", "home", "--config", config, rc=1)
    need("job home to disk" in run.said and "job home to two: succeeded" in run.text, run)
    need([(r["repository"], r["outcome"]) for r in rows(t)] == [("disk", "failed"), ("two", "succeeded")], rows(t))
    t.kw("backup", "--job", "home", "--repository", "two", "--config", config)
    need(len(t.ids(two)) == 2 and len(rows(t)) == 3, rows(t))
    run = t.kw("backup", "--job", "home", "--repository", "three", "--config", config, rc=2)
    need("use one of: disk two" in run.said, run)


def systemctl(t, fail="", fail_start=""):
    """A systemctl that keeps a log and which units are active."""
    bin = t.path("bin")
    script = """#!/bin/sh
echo "$@" >> %(dir)s/calls
case "$1" in
  is-active) [ -e "%(dir)s/active.$3" ] ;;
  stop) shift; for u; do rm -f "%(dir)s/active.$u"; done; %(fail)s ;;
  start) shift; %(fail_start)s; for u; do : > "%(dir)s/active.$u"; done ;;
esac
""" % {"dir": t.dir, "fail": fail or "true", "fail_start": fail_start or "true"}
    t.write("bin/systemctl", script, 0o755)
    for unit in ("app.service", "app.timer"):
        t.write("active." + unit)
    return dict(t.env, PATH=bin + ":" + t.env["PATH"])


def calls(t):
    with open(t.path("calls")) as f:
        out = f.read().splitlines()
    os.remove(t.path("calls"))
    return [c for c in out if not c.startswith("is-active")]


def test_units_are_stopped_and_started_again(t):
    t.repository("disk")
    env = systemctl(t)
    active = lambda: [u for u in ("app.service", "app.timer", "idle.service") if os.path.exists(t.path("active." + u))]
    more = 'stop_units = ["app.service", "app.timer", "idle.service"]\nretry = { attempts = 0 }'
    seen = "ls %s/active.* > %s 2>&1; echo dump" % (t.dir, t.path("seen"))
    config = configure(t, command("db", seen, more) + command("bad", seen + "; exit 9", more) + command("slow", "echo $$ > %s; exec sleep 600" % t.path("pid"), more))
    for job, rc in (("db", 0), ("bad", 1)):
        t.kw("backup", "--job", job, "--config", config, env=env, rc=rc)
        need(calls(t) == ["stop app.service app.timer", "start app.service app.timer"], "what was not active is left alone")
        need(active() == ["app.service", "app.timer"], active())
        with open(t.path("seen")) as f:
            need("No such file" in f.read(), "they were stopped meanwhile")
        need(not os.path.exists(t.path("state/jobs/%s.stopped" % job)), "the note is gone")
    # A supervisor that is killed leaves them stopped; its next run starts them.
    process = t.start("backup", "--job", "slow", "--config", config, env=env)
    pid = wait_for("the command", lambda: number(t.path("pid")), process)
    process.kill()
    process.communicate()
    wait_for("the end of the command", lambda: not lives(pid))
    need(active() == [], active())
    config = configure(t, command("slow", "echo x", "retry = { attempts = 0 }"))
    run = t.kw("backup", "--job", "slow", "--config", config, env=env)
    need("starting app.service app.timer" in run.said and active() == ["app.service", "app.timer"], run)
    # One that does not stop: no backup, and what was stopped by then runs again.
    env = systemctl(t, fail="exit 1")
    config = configure(t, command("db", "echo x", more))
    t.kw("backup", "--job", "db", "--config", config, env=env, rc=1)
    need(rows(t)[-1]["error_class"] == "source" and active() == ["app.service", "app.timer"], rows(t)[-1])
    # One that does not start again: the snapshot is there, and that the unit is down is recorded until the next run.
    env = systemctl(t, fail_start="exit 1")
    run = t.kw("backup", "--job", "db", "--config", config, env=env, rc=1)
    done, trouble = rows(t)[-2:]
    need(done["outcome"] == "succeeded" and trouble["outcome"] == "failed" and trouble["error_class"] == "source", (done, trouble))
    need("app.service app.timer were not started again" in trouble["error_text"] and done["snapshot"] in trouble["error_text"], trouble)
    need(active() == [] and "systemctl start app.service app.timer" in run.said, run)
    t.kw("backup", "--job", "db", "--config", config, env=systemctl(t))
    need(rows(t)[-1]["outcome"] == "succeeded" and active() == ["app.service", "app.timer"], rows(t)[-1])


def test_a_catalog_that_is_away_costs_no_backup(t):
    repo, src = t.repository("disk"), t.small_tree()
    config = configure(t, paths("home", src))
    place = t.path("state/catalog.sqlite")
    run = lambda: t.kw("backup", "--job", "home", "--config", config)
    run()
    # Locked by another process: the spool takes the records, and the next run brings them in.
    db = sqlite3.connect(place, isolation_level=None)
    db.execute("BEGIN EXCLUSIVE")
    run()
    db.execute("ROLLBACK")
    db.close()
    run()
    need(outcomes(t) == ["succeeded"] * 3, rows(t))
    # No database at all: a file that is none, a directory, a place that cannot be made.
    for name in os.listdir(t.path("state")):
        if name.startswith("catalog"):
            os.remove(t.path("state", name))
    t.write("state/catalog.sqlite", b"this is no database" * 1000)
    run()
    need("succeeded" in outcomes(t), rows(t))
    shutil.rmtree(t.path("state"))
    os.makedirs(place)
    run()
    shutil.rmtree(t.path("state"))
    t.write("state", b"a file where the directory should be")
    said = run().said
    need("warning" in said, said)
    need(len(t.ids(repo)) == 6, t.ids(repo))


def test_no_secrets_are_recorded(t):
    t.repository("disk")
    src = t.small_tree()
    keys = os.path.join(t.env["HOME"], ".config/keepwatch/writer-keys")
    [key] = os.listdir(keys)
    with open(os.path.join(keys, key), "rb") as f:
        lines = [line for line in f.read().split() if len(line) > 40]
    need(lines, "a writer key has secrets")
    config = configure(t, paths("home", src) + command("bad", "echo %s >&2; exit 3" % CANARY))
    env = dict(t.env, AWS_SECRET_ACCESS_KEY=CANARY + "-env")
    t.kw("backup", "--job", "home", "--config", config, env=env)
    t.kw("backup", "--job", "bad", "--config", config, env=env, rc=1)
    for place, _, names in os.walk(t.path("state")):
        for name in names:
            with open(os.path.join(place, name), "rb") as f:
                held = f.read()
            need(CANARY.encode() not in held, "%s holds what a command printed" % name)
            for line in lines:
                need(line not in held, "%s holds a part of the writer key: %r" % (name, line))


def test_upkeep_by_configuration(t):
    repo, src = t.repository("disk"), t.small_tree()
    t.kw("init", "--repo", t.path("far"), "--from", repo)
    extra = '[copies.away]\nfrom = "disk"\nto = "far"\nbackups = ["home"]\nretry = { attempts = 0 }\n'
    config = configure(t, paths("home", src), repositories=("disk", "far"), extra=extra)
    for n in range(4):
        t.write("src/new-%d" % n, t.noise(3000))
        t.kw("backup", "--job", "home", "--config", config)
    t.kw("copy", "--copy", "away", "--config", config)
    need(len(t.ids(t.path("far"))) == 4, "copied")
    config = configure(t, paths("home", src, more="retention = { last = 2 }"), repositories=("disk", "far"), extra=extra)
    t.kw("forget", "--job", "home", "--config", config)
    need(len(t.ids(repo)) == 2, "forgotten")
    t.kw("prune", "--repository", "disk", "--config", config)
    t.kw("verify", "--job", "home", "--config", config)
    everything = ("backup", "copy", "forget", "prune", "verify")
    done = [(r["kind"], r["job"] or None, r["repository"], r["outcome"]) for r in rows(t, everything)][-4:]
    need(done == [("copy", "away", "far", "succeeded"), ("forget", "home", "disk", "succeeded"), ("prune", None, "disk", "succeeded"), ("verify", None, "disk", "succeeded")], done)
    forget = rows(t, ("forget",))[-1]
    need(forget["snapshots"] == 2 and forget["removed"] == 2 and forget["newest"] > forget["oldest"], forget)
    # Damage is a failed verification.
    packs = os.path.join(repo, "packs")
    [pack, *_] = sorted(os.path.join(d, n) for d, _, names in os.walk(packs) for n in names)
    os.chmod(pack, 0o600)
    os.remove(pack)
    t.kw("verify", "--repository", "disk", "--config", config, rc=1)
    row = rows(t)[-1]
    need(row["outcome"] == "failed" and row["error_class"] == "verify" and row["damages"] >= 1, row)


def test_a_rehearsal_writes_nothing(t):
    repo, src = t.repository("disk"), t.small_tree()
    config = configure(t, paths("home", src, more='pre_hook = ["/bin/false"]'))
    run = t.kw("backup", "--job", "home", "--dry-run", "--config", config)
    need("dry run" in run.text, run)
    need(t.ids(repo) == [] and not os.path.exists(t.path("state/catalog.sqlite")) and not os.path.exists(t.path("state/jobs")), "nothing")


def test_timeout_ends_the_whole_group(t):
    if not t.long:
        raise Skip("takes a minute, the shortest timeout of a job; the unit tests end a group after less (--long)")
    t.repository("disk")
    script = "trap '' TERM; sleep 600 & echo $! > %s; wait; sleep 600" % t.path("pid")
    config = configure(t, command("db", script, 'timeout = "1m"\nretry = { attempts = 0 }'))
    run = t.kw("backup", "--job", "db", "--config", config, rc=1)
    [row] = rows(t)
    need(row["outcome"] == "failed" and row["error_class"] == "timeout", row)
    need(not lives(number(t.path("pid"))), "the group is gone")
    need("took longer than" in run.said, run)


def places(t):
    """What is noted of repositories."""
    db = sqlite3.connect("file:%s?mode=ro" % t.path("state/catalog.sqlite"), uri=True, timeout=5)
    try:
        db.row_factory = sqlite3.Row
        return {r["name"]: dict(r) for r in db.execute("SELECT * FROM repositories")}
    finally:
        db.close()


def test_a_repository_is_made_where_there_was_none(t):
    src = t.small_tree()
    config = configure(t, paths("home", src), more="")
    run = t.kw("backup", "--job", "home", "--config", config)
    need("a new repository was made at " + t.path("disk") in run.said and "identities" in run.said, run)
    key = t.path("state/writer-keys/disk.key")
    need(os.stat(key).st_mode & 0o777 == 0o600, oct(os.stat(key).st_mode))
    first = [s["id"] for s in t.js("snapshots", "--repo", t.path("disk"), "--writer-key", key)["snapshots"]]
    need([r["snapshot"] for r in rows(t)] == first, rows(t))
    need("a new repository" not in t.kw("backup", "--job", "home", "--config", config).said, "once")
    noted = places(t)["disk"]
    need(noted["reachable"] == 1 and noted["capacity"] > noted["available"] > 0, noted)
    # The disk is gone: no new repository hides that.
    os.rename(t.path("disk"), t.path("away"))
    run = t.kw("backup", "--job", "home", "--config", config, rc=1)
    need("there is no repository" in run.said and not os.path.exists(t.path("disk")), run)
    need(places(t)["disk"]["reachable"] == 0, places(t))
    # Nor when the key is gone as well: the catalog knows.
    os.rename(key, t.path("key"))
    run = t.kw("backup", "--job", "home", "--config", config, rc=1)
    need("backups in it are on record" in run.said and not os.path.exists(t.path("disk")) and not os.path.exists(key), run)
    os.rename(t.path("key"), key)
    os.rename(t.path("away"), t.path("disk"))
    t.kw("backup", "--job", "home", "--config", config)
    need(places(t)["disk"]["reachable"] == 1, places(t))
    # A directory that must be there already, and one that is not ours.
    other = configure(t, paths("home", src, repositories=("second",)), repositories=("second",), more="backend.local.create_directory = false", name="second.toml")
    text = open(other).read().replace('backend.local = { path = "%s" }\n' % t.path("second"), 'backend.local.path = "%s"\n' % t.path("second"))
    t.write("second.toml", text)
    run = t.kw("backup", "--job", "home", "--config", other, rc=1)
    need("there is no repository" in run.said and not os.path.exists(t.path("second")), run)
    t.write("second/precious", b"x")
    run = t.kw("backup", "--job", "home", "--config", other, rc=1)
    need("cannot be made" in run.said and os.listdir(t.path("second")) == ["precious"], run)
    # By hand as well.
    need("already" in t.kw("init", "--if-absent", "--repo", t.path("disk")).said, "nothing to do")
    t.kw("init", "--repo", t.path("disk"), rc=5)


def test_retention_is_applied_after_each_backup(t):
    repo, src = t.repository("disk"), t.small_tree()
    config = configure(t, paths("home", src, more="retention = { last = 2 }\nretry = { attempts = 0 }"))
    for n in range(3):
        t.write("tree/new-%d" % n, b"x")
        document = t.js("backup", "--job", "home", "--config", config)
        need([r["kind"] for r in document["runs"]] == ["backup", "forget"], document)
    need(len(t.ids(repo)) == 2, "two are kept")
    forgets = rows(t, ("forget",))
    need([r["removed"] for r in forgets] == [0, 0, 1] and all(r["outcome"] == "succeeded" and r["job"] == "home" for r in forgets), forgets)
    # Where the backup failed, nothing is dropped.
    broken = configure(t, command("home", "exit 1", more="retention = { last = 1 }\nretry = { attempts = 0 }"))
    t.kw("backup", "--job", "home", "--config", broken, rc=1)
    need(len(t.ids(repo)) == 2 and len(rows(t, ("forget",))) == 3, "nothing dropped")
    # Stages are recorded.
    need([s["name"] for s in json.loads(rows(t)[0]["stages"])] == ["upload"], rows(t)[0])


def test_a_lost_catalog_is_made_again(t):
    t.repository("disk")
    t.repository("far")
    src = t.small_tree()
    config = configure(t, paths("home", src, t.path("absent"), repositories=("disk", "far")) + command("db", "echo dump") + command("bad", "exit 1"), repositories=("disk", "far"))
    for _ in range(2):
        t.kw("backup", "--job", "home", "--config", config, rc=3)
    t.kw("backup", "--job", "db", "--config", config)
    t.kw("backup", "--job", "bad", "--config", config, rc=1)
    known = ("kind", "job", "repository", "host", "outcome", "snapshot", "files", "source_bytes", "added_bytes")
    facts = lambda: sorted([[r[k] for k in known] for r in rows(t) if r["snapshot"]], key=str)
    before = facts()
    need(len(before) == 5, before)
    need(t.js("catalog", "rebuild", "--config", config)["recorded"] == 0, "all is known")
    for name in os.listdir(t.path("state")):
        if name.startswith("catalog.sqlite"):
            os.remove(t.path("state", name))
    done = t.js("catalog", "rebuild", "--config", config)
    need(done["snapshots"] == 5 and done["recorded"] == 5 and done["lost"] == 0, done)
    need(facts() == before, (facts(), before))
    need(t.js("catalog", "rebuild", "--config", config)["recorded"] == 0, "again adds nothing")
    # Damaged beyond use: said, and moved away it is made again; a backup needs it not at all.
    with open(t.path("state/catalog.sqlite"), "r+b") as f:
        f.write(b"nonsense" * 4096)
    t.kw("backup", "--job", "db", "--config", config)
    os.rename(t.path("disk"), t.path("gone"))
    for name in os.listdir(t.path("state")):
        if name.startswith("catalog.sqlite"):
            os.remove(t.path("state", name))
    run = t.kw("catalog", "rebuild", "--config", config, rc=3)
    need("disk was left out" in run.said and len(facts()) >= 2, run)

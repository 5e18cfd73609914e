"""H3: repositories that cost little to store and would cost much to believe (made by `keepwatch-hostile`): frames that expand to 10 GB, counts of 2^63, trees that repeat themselves, objects of 10 GB,
millions of small things, scrypt at 2^30. Every command on every one of them ends within 10 s and 256 MiB, and by a sentence where it has to refuse."""
import json, os, subprocess, time

from harness import NEVER, Skip, need, remove

MEMORY = 256 << 10  # KiB, as wait4 counts
SECONDS = 10
# Name, words, exits that are no refusal.
COMMANDS = {"snapshots": ["snapshots"], "ls": ["ls"], "verify": ["verify", "--read-data"], "prune": ["prune", "--dry-run"], "restore": ["restore", "--no-sync"], "repair": ["repair", "snapshots"]}


def measured(t, words, env):
    """Runs to its end: (exit, output, complaints, KiB at its largest, seconds)."""
    out, err = t.path("stdout"), t.path("stderr")
    began = time.monotonic()
    with open(out, "wb") as o, open(err, "wb") as e:
        process = subprocess.Popen([t.binary] + words, env=env, stdin=subprocess.DEVNULL, stdout=o, stderr=e, cwd=t.dir)
        try:
            while True:
                pid, status, usage = os.wait4(process.pid, os.WNOHANG)
                if pid:
                    break
                if time.monotonic() - began > 3 * SECONDS:
                    process.kill()
                time.sleep(0.002)
        finally:
            process.returncode = 0  # it was waited for
    with open(out, "rb") as o, open(err, "rb") as e:
        return os.waitstatus_to_exitcode(status), o.read(), e.read(), usage.ru_maxrss, time.monotonic() - began


def hostile(t, part, parts):
    if not t.options.hostile:
        raise Skip("keepwatch-hostile was built neither beside keepwatch nor by cargo test")
    t.sh(t.options.hostile, t.path("bombs"), str(part), str(parts))
    with open(t.path("bombs", "bombs.json")) as f:
        bombs = json.load(f)
    need(len(bombs) > 30 // parts, "bombs")
    worst, longest, runs, broken = (0, ""), (0, ""), 0, []
    for bomb in bombs:
        place = t.path("bombs", bomb["name"])
        env = t.home("home-" + bomb["name"])
        for verb, words in COMMANDS.items():
            if verb == "repair" and bomb["name"].startswith("pack"):
                continue
            passphrase = verb + ":passphrase" in bomb["refused"]
            key = ["--passphrase-file", place + "/passphrase"] if passphrase else ["--identity", place + "/identity.txt"]
            more = ["--target", t.path("out")] if verb == "restore" else []
            line = words + ["--repo", place + "/repo", "--writer-key", place + "/writer.key"] + more + key
            code, out, err, memory, seconds = measured(t, line, env)
            what = "%s on %s: exit %d, %d MiB, %.1f s\n%s" % (verb, bomb["name"], code, memory >> 10, seconds, err.decode("utf-8", "replace")[-600:])
            runs += 1
            worst = max(worst, (memory, "%s on %s" % (verb, bomb["name"])))
            longest = max(longest, (seconds, "%s on %s" % (verb, bomb["name"])))
            refused = code in (1, 3, 5)
            if memory > MEMORY or seconds > SECONDS:
                broken.append("too much: " + what)
            if code not in (0, 1, 3, 5) or NEVER.search(err) or NEVER.search(out):
                broken.append("not a clean end: " + what)
            elif (verb in bomb["refused"] or passphrase) and not refused:
                broken.append("not refused: " + what)
            elif refused and not any(l.startswith(b"keepwatch: ") for l in err.split(b"\n")):
                broken.append("no sentence: " + what)
            remove(t.path("out"))
        remove(place)
        remove(t.path("home-" + bomb["name"]))
    need(not broken, "%d of %d\n%s" % (len(broken), runs, "\n".join(broken)))
    print("%d runs; the largest: %s, %d MiB; the longest: %s, %.1f s" % (runs, worst[1], worst[0] >> 10, longest[1], longest[0]))


def test_odd(t):
    hostile(t, 1, 2)


def test_even(t):
    hostile(t, 0, 2)

"""The command line as people and scripts use it."""
import base64, os, re, stat, subprocess, threading, time

from harness import Skip, need, need_tools, remove, same, tree

VERBS = ["init", "backup", "snapshots", "ls", "find", "diff", "restore", "dump", "verify", "forget", "prune", "stats", "repair", "key", "completions", "man"]
KEY_VERBS = ["generate", "list", "add", "remove", "writer", "sheet"]


def test_first_command(t):
    """README's first command: the default repository and an identity are made, their places and the warning are told."""
    for name in ("home-plain", "xdg"):
        env = t.home(name)
        src = t.small_tree("src-" + name)
        run = t.kw("backup", src, env=env)
        said = run.said + run.text
        data, config = (env["XDG_DATA_HOME"], env["XDG_CONFIG_HOME"]) if name == "xdg" else (env["HOME"] + "/.local/share", env["HOME"] + "/.config")
        repo, identity = data + "/keepwatch/repository", config + "/keepwatch/identity.txt"
        need(repo in said and identity in said, "the places are told: " + said)
        need("KEEP A COPY OF THIS IDENTITY SOMEWHERE ELSE" in said, said)
        need(stat.S_IMODE(os.stat(identity).st_mode) == 0o600 and stat.S_IMODE(os.stat(os.path.dirname(identity)).st_mode) == 0o700, "the identity is private")
        need(stat.S_IMODE(os.stat(repo).st_mode) == 0o700, "the repository is private")
        summary = re.search(r"8 files: 8 new, 0 changed, 0 unmodified", run.text)
        need(summary and re.search(r"snapshot [0-9a-f]{8} saved", run.text) and re.search(r"read, .* added in ", run.text), run.text)
        again = t.kw("backup", src, env=env)
        need("KEEP A COPY" not in again.said and "8 unmodified" in again.text, again)
        t.kw("restore", "--target", t.path("back-" + name), env=env)
        same(tree(t.path("back-" + name) + src), tree(src), "the restored tree")
    made = t.js("backup", t.path("src-xdg"), env=t.home("json"))
    need(made["made"]["identity_is_new"] and os.path.exists(made["made"]["identity"]) and made["snapshot"], made)


def test_every_verb(t):
    """Every verb once as a user would, for people and as JSON."""
    src = t.small_tree()
    repo = t.path("repo")
    key = t.path("key.txt")
    recipient = t.kw("key", "generate", "-o", key, secret=True).text.strip()
    need(re.fullmatch(r"age1[a-z0-9]{58}", recipient), recipient)
    made = t.js("init", "--repo", repo, "--recipient", recipient)
    need(len(made["owner_key"]) == 64 and os.path.exists(made["writer_key"]) and made["identity"] is None, made)
    t.kw("init", "--repo", repo, "--recipient", recipient, rc=5)
    w, r = ("--repo", repo), ("--repo", repo, "--identity", key)
    a = t.js("backup", *w, "--tag", "one,two", "--host", "web1", src)
    need(a["outcome"] == "succeeded" and a["totals"]["files_new"] == 8 and a["problems"] == [], a)
    t.write("src/a/file-0", b"changed")
    t.write("src/new", b"new")
    os.unlink(t.path("src/b/file-1"))
    dry = t.js("backup", *w, "--dry-run", "--host", "web1", src)
    need(dry["snapshot"] is None and dry["totals"]["files_new"] == 1, dry)
    b = t.js("backup", *w, "--host", "web1", "--exclude", "file-3", src)
    ids = [a["snapshot"], b["snapshot"]]
    need(t.ids(repo) == ids and [s["tags"] for s in t.js("snapshots", *w)["snapshots"]] == [["one", "two"], []], "snapshots")
    need(all(i[:8] in t.kw("snapshots", *w).text for i in ids), "human snapshots")
    need([s["id"] for s in t.js("snapshots", *w, "--tag", "one")["snapshots"]] == ids[:1] and not t.js("snapshots", *w, "--host", "web2")["snapshots"], "filters")
    listed = [e["path"] for e in t.js("ls", *r)["entries"]]
    need(any(p.endswith("src/new") for p in listed) and not any(p.endswith(("file-1", "file-3")) for p in listed), listed)
    need(src + "/new" in t.kw("ls", *r, "-l").text and src + "/a/file-0" in t.kw("ls", *r, "latest", src + "/a").text, "ls")
    found = t.js("find", *r, "file-1")
    need(found["count"] == 1, found)
    need(src + "/b/file-1" in t.kw("find", *r, "file-1").text, "find")
    changes = {c["path"].rsplit("/", 1)[-1]: c["change"] for c in t.js("diff", *r, *ids)["changes"]}
    need(changes.get("file-0") == "modified" and changes.get("new") == "added" and changes.get("file-1") == "removed", changes)
    need("M %s/a/file-0" % src in t.kw("diff", *r, ids[0][:8]).text, "diff")
    need(t.kw("dump", *r, "latest", src + "/a/file-0").out == b"changed", "dump")
    done = t.js("restore", *r, "--target", t.path("out"))
    need(done["problems"] == [] and done["files_restored"] == 7, done)
    need("already right" in t.kw("restore", *r, "--target", t.path("out"), "--verify").text, "restore")
    for args in ((), ("--read-data",), ("--read-data=50%",)):
        v = t.js("verify", *w, *args)
        need(v["sound"] and not v["with_identity"], v)
    need(t.js("verify", *r, "--read-data")["envelopes_opened"] > 0, "verify with an identity opens")
    need("no damage found" in t.kw("verify", *w).text, "verify")
    need(t.js("stats", *w)["snapshots"] == 2 and "compression" in t.kw("stats", *w).text, "stats")
    plan = t.js("forget", *w, "--keep-last", "1", "--group-by", "", "--dry-run")
    need(plan["forgotten"] == ids[:1] and plan["tombstone"] is None and t.ids(repo) == ids, plan)
    need("dry run" in t.kw("forget", *w, "--keep-last", "1", "--group-by", "", "-n").text, "forget")
    t.kw("forget", *w, ids[0][:10])
    need(t.ids(repo) == ids[1:] and len(t.js("snapshots", *w, "--forgotten")["snapshots"]) == 2, "forgotten")
    need(t.js("prune", *w, "--dry-run", "--grace", "0s")["dry_run"] is True, "prune")
    for _ in range(2):
        t.kw("prune", *w, "--grace", "0s")
    need(len(t.js("snapshots", *w, "--forgotten")["snapshots"]) == 1 and t.js("verify", *r, "--read-data")["sound"], "pruned")
    need("nothing is lost" in t.kw("repair", "snapshots", *r).text and t.js("repair", "snapshots", *r)["losses"] == [], "repair snapshots")
    t.kw("repair", "index", *r)
    need(isinstance(t.js("repair", "index", *r, "--rebuild-all"), dict), "repair index")
    # Keys: a second reader, a passphrase, a second writer, taking them away.
    second = t.kw("key", "generate", "--out", t.path("second.txt"), "--json", secret=True).json["recipient"]
    t.kw("key", "add", *r, "--recipient", second, "--name", "bob")
    t.write("phrase", "seven words that nobody would ever guess\n", 0o600)
    t.kw("key", "add", *r, "--new-passphrase-file", t.path("phrase"))
    slots = t.js("key", "list", *w)
    need(sorted(k["name"] for k in slots["keys"]) == ["bob", "passphrase", "recipient-1"] and len(slots["writers"]) == 1, slots)
    for opened in (("--identity", t.path("second.txt")), ("--passphrase-file", t.path("phrase"))):
        need(len(t.js("ls", *w, *opened)["entries"]) > 5, "opened by another key")
    t.kw("key", "writer", *r, "--label", "web2", "--out", t.path("web2.key"))
    t.kw("backup", *w, "--writer-key", t.path("web2.key"), "--host", "web2", src)
    web2 = [x["id"] for x in t.js("key", "list", *w)["writers"] if x["label"] == "web2"]
    t.kw("key", "remove", *r, web2[0])
    t.kw("key", "remove", *w, "bob")
    need("bob" not in t.kw("key", "list", *w).text, "removed")
    t.kw("ls", *w, "--identity", t.path("second.txt"), rc=1)
    t.kw("backup", *w, "--writer-key", t.path("web2.key"), src, rc=(1, 5))
    need("AGE" in t.kw("key", "sheet", *w).text and t.js("key", "sheet", *w), "sheet")
    t.kw("key", "sheet", *w, "--html", t.path("sheet.html"))
    with open(t.path("sheet.html")) as f:
        page = f.read()
    need("<svg" in page or "QR" in page, "the sheet is a page")
    need("AGE-SECRET-KEY-1" not in page, "the sheet holds no identity")


def test_streams(t):
    """Standard input and commands; a command that fails leaves no snapshot."""
    repo = t.repository()
    data = t.noise(3_000_000)
    t.kw("backup", "--repo", repo, "--stdin-name", "db.sql", input=data)
    need(t.kw("dump", "--repo", repo, "latest", "db.sql").out == data, "standard input comes back")
    t.kw("backup", "--repo", repo, "--stdin-name", "x.txt", "--tag", "c", "--command", "--", "sh", "-c", "echo hello; echo there")
    need(t.kw("dump", "--repo", repo, "--tag", "c", "x.txt", rc=(0, 4)).out in (b"hello\nthere\n", b""), "a word without a slash is a snapshot")
    need(t.kw("dump", "--repo", repo, "latest", "/x.txt").out == b"hello\nthere\n", "the command's output comes back")
    before = t.ids(repo)
    for script in ("echo half; exit 3", "echo half; kill -9 $$", "exit 1"):
        run = t.kw("backup", "--repo", repo, "--stdin-name", "y", "--command", "--", "sh", "-c", script, rc=1)
        need("no snapshot was made" in run.said, run)
    t.kw("backup", "--repo", repo, "--command", "--", "/does/not/exist", rc=1)
    need(t.ids(repo) == before, "a failed command leaves no snapshot")


def test_help(t):
    """Help of each verb shows examples; man pages and completions work."""
    need("Examples:" in t.kw("--help").text and "Exit status" in t.kw("--help").text, "help")
    need(t.kw("--version").text.startswith("keepwatch "), "version")
    for words in [[v] for v in VERBS] + [["key", v] for v in KEY_VERBS] + [["repair", "index"], ["repair", "snapshots"]]:
        for flag in ("--help", "-h"):
            text = t.kw(*words, flag).text
            need("Usage:" in text and re.search(r"Examples?:\n\s+keepwatch %s" % " ".join(words), text), "%s %s shows examples:\n%s" % (words, flag, text))
    for shell, syntax in (("bash", ["bash", "-n"]), ("zsh", ["zsh", "-n"]), ("fish", ["fish", "-n"])):
        script = t.kw("completions", shell).out
        need(b"keepwatch" in script and b"snapshots" in script, shell)
        t.write("completion." + shell, script)
        try:
            t.sh(*syntax, t.path("completion." + shell))
        except FileNotFoundError:
            pass
    page = t.kw("man").text
    need(page.startswith(".") and ".TH" in page and "backup" in page, page[:200])
    t.kw("man", "--out-dir", t.path("man"), rc=(0, 2))


def test_exit_codes(t):
    """0 done, 1 failed, 2 wrong use, 3 partial, 4 nothing found, 5 refused."""
    src, repo = t.small_tree(), t.repository()
    need(t.kw("backup", "--repo", repo, src).code == 0, "done")
    for words in ([], ["nonsense"], ["backup"], ["backup", "--compression", "20", src], ["restore", "--repo", repo], ["forget", "--repo", repo],
                  ["prune", "--grace", "soon"], ["verify", "--read-data=101%"], ["backup", "--repo", "s3://b/x", src]):
        t.kw(*words, rc=2)
    t.kw("snapshots", "--repo", t.path("nowhere"), rc=1)
    t.kw("ls", "--repo", repo, "0123456789abcdef", rc=4)
    t.kw("ls", "--repo", repo, "latest", "/not/there", rc=4)
    t.kw("find", "--repo", repo, "no-such-name", rc=4)
    t.kw("restore", "--repo", repo, "--target", t.path("o"), "latest", "/not/there", rc=4)
    t.kw("dump", "--repo", repo, "latest", "/not/there", rc=4)
    t.kw("init", "--repo", repo, rc=5)
    run = t.kw("backup", "--repo", repo, src, t.path("missing"), "--json", rc=3)
    need(run.json["outcome"] == "partial" and run.json["problems"][0]["path"].endswith("missing"), run)
    need("missing" in t.kw("backup", "--repo", repo, src, t.path("missing"), rc=3).said, "what could not be read is named")
    failed = t.kw("ls", "--repo", repo, "0123456789abcdef", "--json", rc=4).json
    need(failed["error"] and failed["exit_code"] == 4, failed)


def test_changing_files(t):
    """I5: a file that changes while it is read is reported, never silently mixed."""
    repo = t.repository()
    path = t.write("src/growing", b"x" * 30_000_000)
    t.write("src/quiet", b"quiet")
    stop = threading.Event()

    def scribble():
        n = 0
        while not stop.is_set():
            with open(path, "r+b") as f:
                f.seek((n * 7919 * 4096) % 30_000_000)
                f.write(os.urandom(64))
            n += 1
    thread = threading.Thread(target=scribble)
    thread.start()
    try:
        run = t.kw("backup", "--repo", repo, t.path("src"), "--json", rc=3)
    finally:
        stop.set()
        thread.join()
    need([p["path"] for p in run.json["problems"]] == [path.lstrip("/")] or [p["path"] for p in run.json["problems"]] == [path], run)
    need(t.kw("dump", "--repo", repo, "latest", t.path("src/quiet")).out == b"quiet", "the others are whole")
    need(t.js("backup", "--repo", repo, t.path("src"))["totals"]["files_changed"] == 1, "the next run reads it again")


def test_secrets(t):
    """Secrets stand in no argument list, no output, no cache and no repository, whatever is asked and however verbosely."""
    src, repo = t.small_tree(), t.path("repo")
    t.secrets = []
    t.kw("key", "generate", "-o", t.path("id"), secret=True)
    phrase = b"canary phrase of seven words 8fa2 long"
    t.write("phrase", phrase + b"\n", 0o600)
    with open(t.path("id"), "rb") as f:
        secret = re.search(rb"AGE-SECRET-KEY-1[A-Z0-9]+", f.read())[0]
    recipient = t.sh("sh", "-c", "grep -o 'age1[a-z0-9]*' id | head -n 1").text.strip()
    canary = b"CANARY-NAME-5c1f"
    os.mkdir(os.path.join(src, canary.decode()))
    t.write("src/%s/f" % canary.decode(), b"CANARY-CONTENT-77d0 " * 40)
    seen, stop = [], threading.Event()
    made = t.kw("init", "--repo", repo, "--recipient", recipient, "--passphrase-file", t.path("phrase"), "--json").json
    with open(made["writer_key"], "rb") as f:
        key = bytes.fromhex(re.search(rb"KEEPWATCH-WRITER-KEY-1-([0-9a-f]+)", f.read())[1].decode())
    # What is secret in it: byte strings of 32 (but for the owner's public key) and the host identity.
    parts = [m for m in re.findall(rb"(?s)\x58\x20(.{32})", key) if m.hex() != made["owner_key"]]
    hosts = re.findall(rb"AGE-SECRET-KEY-1[A-Z0-9]+", key)
    need(parts and hosts, "the writer key holds secrets")
    t.secrets = [secret, phrase, key.hex().encode()] + hosts
    for part in parts:
        t.secrets += [part, part.hex().encode(), base64.b64encode(part).rstrip(b"=")]

    def poll():
        me = os.getuid()
        while not stop.is_set():
            for pid in filter(str.isdigit, os.listdir("/proc")):
                try:
                    if os.stat("/proc/" + pid).st_uid == me:
                        for what in ("cmdline", "environ"):
                            with open("/proc/%s/%s" % (pid, what), "rb") as f:
                                seen.append((what, f.read()))
                except OSError:
                    pass
            found = [x for x in seen if any(s in x[1] for s in t.secrets)]
            seen[:] = found
            time.sleep(0.01)
    thread = threading.Thread(target=poll)
    thread.start()
    try:
        v = ("-vvv", "--repo", repo)
        i = ("--identity", t.path("id"))
        t.kw("backup", *v, src)
        t.kw("backup", *v, "--stdin-name", "x", "--command", "--", "sh", "-c", "env; sleep 0.1")
        for words in (["snapshots"], ["ls", *i], ["restore", *i, "--target", t.path("out")], ["verify", "--read-data", *i], ["key", "list"], ["key", "sheet"],
                      ["key", "add", *i, "--name", "n", "--recipient", recipient], ["stats"], ["forget", "--keep-last", "1"], ["prune", "--grace", "0s"],
                      ["repair", "index", *i], ["ls", "--passphrase-file", t.path("phrase")], ["ls", "--identity", made["writer_key"]], ["ls", "--passphrase-file", t.path("id")]):
            t.kw(*words, *v, rc=None)
            t.kw(*words, *v, "--json", rc=None)
        bad = t.write("bad-id", secret[:-3] + b"QQQ\n", 0o600)
        run = t.kw("ls", *v, "--identity", bad, rc=(1, 2, 5))
        need(secret[:-3] not in run.err + run.out, "a damaged identity is not printed")
    finally:
        stop.set()
        thread.join()
    need(not seen, "in /proc: %r" % seen)
    t.sh("sh", "-c", "cp -r home/.cache home/.local all-that-was-written 2>/dev/null; mkdir -p all-that-was-written; cp -r home/.cache home/.local repo all-that-was-written/")
    written = {}
    for base, _, files in os.walk(t.path("all-that-was-written")):
        for name in files:
            with open(os.path.join(base, name), "rb") as f:
                written[os.path.relpath(os.path.join(base, name), t.path("all-that-was-written"))] = f.read()
    need(len(written) > 10 and any(n.startswith("repo/packs/") for n in written) and any("cache" in n for n in written), list(written))
    for name, content in written.items():
        for what in t.secrets + ([canary, b"CANARY-CONTENT-77d0"] if name.startswith("repo/") else []):
            need(what not in content, "%r stands in %s" % (what[:20], name))


def test_quiet_and_pipes(t):
    """-q prints nothing but the id; a reader that goes away is no failure; JSON is one document."""
    src, repo = t.small_tree(), t.repository()
    run = t.kw("backup", "-q", "--repo", repo, src)
    need(re.fullmatch(r"[0-9a-f]{64}\n", run.text) and not run.err, run)
    for words in (["ls"], ["ls", "--json"], ["snapshots"], ["find", "*"], ["stats"], ["verify"], ["key", "list"], ["man"], ["completions", "bash"], ["backup", src]):
        read, write = os.pipe()
        os.close(read)
        process = t.start(*words, "--repo", repo, stdout=write)
        os.close(write)
        run = t.finish(process, rc=(0, 1))
        need(b"panic" not in run.err and len(run.err.splitlines()) <= 2, run)
        need(run.code == 0 or words[0] == "dump", run)
    need(len(t.ids(repo)) == 2, "the backup whose output nobody read was made")
    read, write = os.pipe()
    os.close(read)
    process = t.start("dump", "--repo", repo, "latest", "/", stdout=write)
    os.close(write)
    t.finish(process, rc=1)


def test_signals(t):
    """L6: SIGTERM and SIGINT stop a backup soon, leave no snapshot, and the next run goes on."""
    repo = t.repository()
    src = t.path("src")
    for i in range(12):
        t.write("src/%d" % i, t.noise(16 << 20))
    for number in (15, 2):
        process = t.start("backup", "--repo", repo, src)
        time.sleep(0.15)
        process.send_signal(number)
        began = time.time()
        run = t.finish(process, rc=None, timeout=15)
        need(time.time() - began < 10, "it stops soon")
        if run.code == 0:
            continue
        need(run.code == 1 and "stopped on request" in run.said or run.code in (1, 130, 143), run)
        need("keepwatch: " in run.said, run)
    t.kw("backup", "--repo", repo, src)
    need(t.js("verify", "--repo", repo, "--read-data")["sound"], "sound")


def test_a_silent_input_holds_up_no_stop(t):
    repo = t.repository()
    here, there = os.pipe()
    process = t.start("backup", "--repo", repo, "--stdin-name", "x", stdin=here)
    try:
        os.write(there, b"some")
        time.sleep(0.5)
        process.terminate()
        # The pipe stays open.
        run = t.finish(process, rc=1, timeout=15)
        need("stopped on request" in run.said, run)
    finally:
        os.close(here)
        os.close(there)
    need(t.ids(repo) == [], "a snapshot of half a stream was made")

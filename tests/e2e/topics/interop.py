"""No lock-in: what we write opens with the stock age and zstd, and what the stock age writes opens with us. With X25519 and ssh keys, passphrases and plugins."""
import base64, os, pty, re, select, struct, subprocess, sys, time

from harness import Skip, need, need_tools, objects, same, tree

AGE = ("age", "age-keygen", "zstd")


def keygen(t, name):
    """An identity made by the stock age-keygen: its file and its recipient."""
    t.sh("age-keygen", "-o", t.path(name))
    os.chmod(t.path(name), 0o600)
    return t.path(name), t.sh("age-keygen", "-y", t.path(name)).text.strip()


def envelopes(pack):
    """The class of a pack and its envelopes, by its footer (FORMAT.md, section 5)."""
    need(pack[-4:] == b"KWP1", "a pack ends with its mark")
    n, kind = struct.unpack("<IB", pack[-12:-7])
    lengths = struct.unpack("<%dI" % n, pack[-12 - 4 * n:-12])
    need(sum(lengths) == len(pack) - 4 * n - 12, "the lengths fill the pack")
    out, at = [], 0
    for length in lengths:
        out.append(pack[at:at + length])
        at += length
    return kind, out


def content(t, repo, r):
    """The plaintext of all envelopes that R opens, by nothing but age and zstd."""
    plain = b""
    for name, path in objects(repo).items():
        if name.startswith("packs/"):
            with open(path, "rb") as f:
                kind, sealed = envelopes(f.read())
            for e in sealed if kind == 0 else []:
                # age -d -i R.txt envelope | zstd -d
                opened = t.sh("age", "-d", "-i", r, input=e).out
                plain += t.sh("zstd", "-dcq", input=opened).out
    return plain


def open_slot(t, repo, slot, *how):
    """Opens keys/<slot>.age with the stock age into a file that age takes as an identity."""
    out = t.sh("age", "-d", *how, os.path.join(repo, "keys", slot + ".age")).out
    need(re.search(rb"^# repository: [0-9a-f]{32}$", out, re.M) and re.search(rb"^AGE-SECRET-KEY-1[A-Z0-9]+$", out, re.M), "it is an identity file with comments")
    return t.write("R-" + slot, out, 0o600)


def test_our_objects_open_with_age(t):
    need_tools(*AGE)
    me, recipient = keygen(t, "me")
    repo = t.path("repo")
    t.kw("init", "--repo", repo, "--recipient", recipient)
    data, text = t.noise(700_000), b"a sentence that is in no other file\n" * 50
    t.write("src/data", data)
    t.write("src/text", text)
    t.write("src/small/one", b"first small file")
    t.write("src/small/two", b"second small file")
    t.backup(repo, t.path("src"))
    r = open_slot(t, repo, "recipient-1", "-i", me)
    plain = content(t, repo, r)
    need(text in plain and b"first small file" in plain and b"second small file" in plain, "the content is in the envelopes")
    need(data in plain or all(data[i:i + 1000] in plain for i in range(0, 700_000, 70_000)), "large content too")
    need(b"small/two" in plain, "and the manifest")
    with open(r) as f:
        config = t.sh("age-keygen", "-y", r).text.strip()
    need(config == t.js("key", "list", "--repo", repo)["recipient"], "R is what config says")
    # Our identities open with age, too.
    ours = t.kw("key", "generate", "-o", t.path("ours"), secret=True).text.strip()
    sealed = t.sh("age", "-r", ours, input=b"hello").out
    need(t.sh("age", "-d", "-i", t.path("ours"), input=sealed).out == b"hello", "our identity is an age identity")
    # R itself opens nothing but through a key file: as identity of keepwatch it is refused with a sentence.
    t.kw("ls", "--repo", repo, "--identity", r, rc=(0, 1))


def test_slots_written_by_age(t):
    """R sealed by the stock age to another reader is a key file for us."""
    need_tools(*AGE)
    me, recipient = keygen(t, "me")
    you, your_recipient = keygen(t, "you")
    repo, src = t.path("repo"), t.small_tree()
    t.kw("init", "--repo", repo, "--recipient", recipient)
    t.backup(repo, src)
    t.kw("ls", "--repo", repo, "--identity", you, rc=1)
    r = open_slot(t, repo, "recipient-1", "-i", me)
    t.sh("age", "-r", your_recipient, "-o", repo + "/keys/you.age", r)
    for name, more in (("you", ()), ("both", ("-r", recipient))):
        t.sh("age", "-r", your_recipient, *more, "-o", repo + "/keys/%s.age" % name, r) if name != "you" else None
        t.must_restore(repo, "latest", src, tree(src), args=["--identity", you])
    # One that a stranger sealed, with another R: refused, whatever it opens to.
    stranger, _ = keygen(t, "stranger")
    t.sh("age", "-r", your_recipient, "-o", repo + "/keys/evil.age", stranger)
    t.must_restore(repo, "latest", src, tree(src), args=["--identity", you])
    for name in ("you", "both"):
        os.unlink(repo + "/keys/%s.age" % name)
    run = t.kw("ls", "--repo", repo, "--identity", you, rc=(1, 5))
    need("keepwatch: " in run.said, run)


def test_ssh(t):
    need_tools("ssh-keygen", *AGE)
    for kind, bits in (("ed25519", None), ("rsa", "2048")):
        key = t.path("id_" + kind)
        t.sh("ssh-keygen", "-q", "-t", kind, *(["-b", bits] if bits else []), "-N", "", "-f", key)
        repo = t.path("repo-" + kind)
        t.kw("init", "--repo", repo, "--recipient", key + ".pub")
        src = t.small_tree("src-" + kind)
        t.backup(repo, src)
        t.must_restore(repo, "latest", src, tree(src), args=["--identity", key])
        r = open_slot(t, repo, "recipient-1", "-i", key)
        need(b"line 1\n" in content(t, repo, r), kind)
        # And the other way: sealed by age to the ssh key.
        os.unlink(repo + "/keys/recipient-1.age")
        t.sh("age", "-R", key + ".pub", "-o", repo + "/keys/by-age.age", r)
        t.must_restore(repo, "latest", src, tree(src), args=["--identity", key])


def with_terminal(argv, answers, env, timeout=60):
    """Runs a command on a terminal of its own and answers its questions. Returns exit code and what was shown."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execvpe(argv[0], argv, env)
    shown, end, answers = b"", time.time() + timeout, list(answers)
    asked = 0
    while time.time() < end:
        if select.select([fd], [], [], 0.1)[0]:
            try:
                b = os.read(fd, 4096)
            except OSError:
                break
            if not b:
                break
            shown += b
            if answers and shown[asked:].rstrip().endswith(b":"):
                asked = len(shown)
                time.sleep(0.05)
                os.write(fd, answers.pop(0) + b"\n")
    else:
        os.kill(pid, 9)
    os.close(fd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown


def test_passphrase(t):
    """A passphrase slot opens with age -d on a terminal; one made by age -p opens with us; and we ask on a terminal as well."""
    need_tools(*AGE)
    phrase = b"correct horse battery staple seven"
    t.write("phrase", phrase + b"\n", 0o600)
    repo, src = t.path("repo"), t.small_tree()
    t.kw("init", "--repo", repo, "--passphrase-file", t.path("phrase"))
    t.backup(repo, src)
    t.must_restore(repo, "latest", src, tree(src), args=["--passphrase-file", t.path("phrase")])
    code, shown = with_terminal(["age", "-d", "-o", t.path("R"), repo + "/keys/passphrase.age"], [phrase], t.env)
    need(code == 0, shown)
    os.chmod(t.path("R"), 0o600)
    need(b"line 1\n" in content(t, repo, t.path("R")), "R opens the envelopes")
    os.unlink(repo + "/keys/passphrase.age")
    other = b"another passphrase of some length"
    code, shown = with_terminal(["age", "-p", "-o", repo + "/keys/mine.age", t.path("R")], [other, other], t.env)
    need(code == 0, shown)
    t.write("other", other, 0o600)
    t.must_restore(repo, "latest", src, tree(src), args=["--passphrase-file", t.path("other")])
    t.kw("ls", "--repo", repo, "--passphrase-file", t.path("phrase"), rc=1)
    code, shown = with_terminal([t.binary, "ls", "--repo", repo], [other], t.env)
    need(code == 0 and b"file-0" in shown and other not in shown, shown)


# A plugin of age (https://c2sp.org/age-plugin), both state machines. Its "encryption" is an XOR with what the recipient says: it is for this test alone.
PLUGIN = r'''#!@PYTHON@
import base64, sys
CHARSET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
def polymod(values):
    chk = 1
    for v in values:
        top = chk >> 25
        chk = (chk & 0x1ffffff) << 5 ^ v
        for i, g in enumerate((0x3b6a57b2, 0x26508e6d, 0x1ea119fa, 0x3d4233dd, 0x2a1462b3)):
            chk ^= g if top >> i & 1 else 0
    return chk
def expand(hrp): return [ord(c) >> 5 for c in hrp] + [0] + [ord(c) & 31 for c in hrp]
def convert(data, a, b, pad):
    acc = bits = 0; out = []
    for v in data:
        acc = acc << a | v; bits += a
        while bits >= b:
            bits -= b; out.append(acc >> bits & (1 << b) - 1)
    if pad and bits: out.append(acc << b - bits & (1 << b) - 1)
    return out
def encode(hrp, data):
    d = convert(data, 8, 5, True)
    p = polymod(expand(hrp) + d + [0] * 6) ^ 1
    return hrp + "1" + "".join(CHARSET[x] for x in d + [p >> 5 * (5 - i) & 31 for i in range(6)])
def decode(text):
    text = text.lower(); hrp, _, rest = text.rpartition("1")
    d = [CHARSET.index(c) for c in rest]
    assert polymod(expand(hrp) + d) == 1
    return hrp, bytes(convert(d[:-6], 5, 8, False))
def b64(b): return base64.b64encode(b).rstrip(b"=").decode()
def unb64(s): return base64.b64decode(s + "=" * (-len(s) % 4))
def send(*words, body=b""):
    sys.stdout.write("-> " + " ".join(words) + "\n")
    text = b64(body)
    while len(text) >= 64:
        sys.stdout.write(text[:64] + "\n"); text = text[64:]
    sys.stdout.write(text + "\n"); sys.stdout.flush()
def receive():
    line = sys.stdin.readline()
    if not line: sys.exit(1)
    words = line.rstrip("\n")[3:].split(" "); text = ""
    while True:
        part = sys.stdin.readline().rstrip("\n"); text += part
        if len(part) < 64: return words, unb64(text)
def xor(a, b): return bytes(x ^ y for x, y in zip(a, b * 8))
machine = [a for a in sys.argv[1:] if a.startswith("--age-plugin=")]
if not machine:
    print(encode("age1test", b"sixteen  bytes!!")); print(encode("age-plugin-test-", b"sixteen  bytes!!").upper()); sys.exit()
commands = []
while True:
    words, body = receive()
    if words[0] == "done": break
    commands.append((words, body))
if machine[0].endswith("recipient-v1"):
    keys = [decode(w[1])[1] for w, b in commands if w[0] in ("add-recipient", "add-identity")]
    for i, body in enumerate(b for w, b in commands if w[0] == "wrap-file-key"):
        for key in keys:
            send("recipient-stanza", str(i), "test-xor", b64(key), body=xor(body, key)); receive()
else:
    keys = [decode(w[1])[1] for w, b in commands if w[0] == "add-identity"]
    done = set()
    for w, body in commands:
        if w[0] == "recipient-stanza" and w[2] == "test-xor" and w[1] not in done and unb64(w[3]) in keys:
            done.add(w[1]); send("file-key", w[1], body=xor(body, unb64(w[3]))); receive()
send("done")
'''


def test_plugin(t):
    """A recipient of a plugin (as hardware keys are): init, backup, restore; and the stock age with the same plugin."""
    need_tools(*AGE)
    plugin = t.write("bin/age-plugin-test", PLUGIN.replace("@PYTHON@", sys.executable), 0o755)
    t.env["PATH"] = t.path("bin") + ":" + t.env["PATH"]
    recipient, identity = t.sh(plugin).text.split()
    key = t.write("plugin-identity", "# a plugin\n%s\n" % identity, 0o600)
    repo, src = t.path("repo"), t.small_tree()
    t.kw("init", "--repo", repo, "--recipient", recipient)
    t.backup(repo, src)
    t.must_restore(repo, "latest", src, tree(src), args=["--identity", key])
    version = t.sh("age", "--version", rc=None).text
    if not re.search(r"v?1\.0\.", version):
        r = open_slot(t, repo, "recipient-1", "-i", key)
        need(b"line 1\n" in content(t, repo, r), "the stock age opens it with the plugin")
    # Without the plugin: a sentence that names it.
    env = dict(t.env, PATH=os.environ["PATH"])
    run = t.kw("ls", "--repo", repo, "--identity", key, env=env, rc=1)
    need("age-plugin-test" in run.said, run)
    run = t.kw("init", "--repo", t.path("other"), "--recipient", recipient, env=env, rc=(1, 2))
    need("age-plugin-test" in run.said and not os.path.exists(t.path("other/config")), run)

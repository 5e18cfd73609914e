#!/usr/bin/env python3
"""A stand-in for Qdrant 1.19.0, started as the real one is: qdrant --config-path CONFIG. It answers as the real one was recorded to answer, and keeps its points
in the storage that the configuration names. Beside it the tests run with the real program where KEEPWATCH_TEST_QDRANT_BINARY names one.

What goes wrong is said before the usual arguments: --lose (of what is uploaded the last point is lost), --die (with a word about why), --mute (takes connections
and never answers), --open (asks nobody for a key).
"""
import hashlib, http.server, io, json, os, re, socket, sys, tarfile, threading, time, urllib.parse


def settings(path):
    """Two levels of names, and values that are JSON or plain words: all of YAML that such a file needs."""
    out, within = {}, None
    with open(path) as f:
        for line in f:
            found = re.fullmatch(r"( *)(\w+):(?: +(.*?))?\s*", line)
            if not found:
                sys.exit("Error: cannot read the configuration: %r" % line)
            indent, name, value = found.groups()
            if value is None:
                within = out[name] = {}
                continue
            try:
                value = json.loads(value)
            except ValueError:
                pass
            (within if indent else out)[name] = value
    return out


class Store:
    """Collections {name: {"config": …, "points": {id: point}}} and aliases, as files."""

    def __init__(self, storage, snapshots):
        self.lock, self.storage, self.snapshots = threading.RLock(), storage, snapshots
        for place in (storage, snapshots):
            os.makedirs(place, exist_ok=True)
        self.path, self.made = os.path.join(storage, "all.json"), 0
        try:
            with open(self.path) as f:
                self.collections, self.aliases = json.load(f)
        except FileNotFoundError:
            self.collections, self.aliases = {}, {}

    def save(self):
        with open(self.path, "w") as f:
            json.dump([self.collections, self.aliases], f)


def packed(collection):
    """A snapshot: a tar, as the real one."""
    out, data = io.BytesIO(), json.dumps(collection).encode()
    with tarfile.open(fileobj=out, mode="w") as tar:
        entry = tarfile.TarInfo("collection.json")
        entry.size, entry.mtime = len(data), int(time.time())
        tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def say(self, status, body, kind="application/json"):
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def good(self, value):
        self.say(200, {"result": value, "status": "ok", "time": 0.001})

    def bad(self, status, why):
        self.say(status, {"status": {"error": why}, "time": 0.001})

    def body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        out = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            out += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return out

    def answer(self):
        target = urllib.parse.urlsplit(self.path)
        parts = [urllib.parse.unquote(p) for p in target.path.split("/")[1:]]
        query = dict(urllib.parse.parse_qsl(target.query))
        body = self.body()
        if target.path in ("/healthz", "/livez"):
            return self.say(200, b"healthz check passed", "text/plain")
        if target.path == "/readyz":
            return self.say(200, b"all shards are ready", "text/plain")
        key = SERVICE.get("api_key")
        if key and "--open" not in WRONG and self.headers.get("api-key") != key:
            return self.say(401, b"Must provide an API key or an Authorization bearer token", "text/plain")
        with STORE.lock:
            self.route(self.command, parts, query, body)

    do_GET = do_PUT = do_POST = do_DELETE = answer

    def route(self, method, parts, query, body):
        store, all = STORE, STORE.collections
        name = parts[1] if parts[0] == "collections" and len(parts) > 1 else None
        missing = "Not found: Collection `%s` doesn't exist!" % name
        if (method, parts) == ("GET", [""]):
            return self.say(200, {"title": "qdrant - vector search engine", "version": "1.19.0", "commit": "0" * 40})
        if (method, parts) == ("GET", ["collections"]):
            return self.good({"collections": [{"name": n} for n in all]})
        if (method, parts) == ("GET", ["aliases"]):
            return self.good({"aliases": [{"alias_name": a, "collection_name": c} for a, c in store.aliases.items()]})
        if (method, parts) == ("POST", ["collections", "aliases"]):
            for action in json.loads(body)["actions"]:
                alias = action["create_alias"]
                if alias["collection_name"] not in all:
                    return self.bad(404, missing)
                store.aliases[alias["alias_name"]] = alias["collection_name"]
            store.save()
            return self.good(True)
        if name and method == "PUT" and len(parts) == 2:
            if name in all:
                return self.bad(409, "Wrong input: Collection `%s` already exists!" % name)
            all[name] = {"config": json.loads(body), "points": {}}
            store.save()
            return self.good(True)
        if name and method == "POST" and parts[2:] == ["snapshots", "upload"]:
            boundary = re.search(r"boundary=([^;]+)", self.headers["Content-Type"])[1].strip('"').encode()
            head, data = body.split(b"\r\n\r\n", 1)
            if not head.startswith(b"--" + boundary) or b'name="snapshot"' not in head:
                return self.bad(400, "Wrong input: no field `snapshot`")
            data = data[:data.rindex(b"\r\n--" + boundary)]
            if query.get("checksum", hashlib.sha256(data).hexdigest()) != hashlib.sha256(data).hexdigest():
                return self.bad(400, "Wrong input: Checksum mismatch: expected %s" % query["checksum"])
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                all[name] = json.load(tar.extractfile("collection.json"))
            if "--lose" in WRONG and all[name]["points"]:
                all[name]["points"].popitem()
            store.save()
            return self.good(True)
        if name and name not in all:
            return self.bad(404, missing)
        if name and method == "GET" and len(parts) == 2:
            return self.good({"status": "green", "optimizer_status": "ok", "points_count": len(all[name]["points"])})
        if name and method == "DELETE" and len(parts) == 2:
            del all[name]
            store.save()
            return self.good(True)
        if name and method == "PUT" and parts[2:] == ["points"]:
            for point in json.loads(body)["points"]:
                all[name]["points"][str(point["id"])] = point
            store.save()
            return self.good({"operation_id": 1, "status": "completed"})
        if name and method == "POST" and parts[2:] == ["points", "count"]:
            return self.good({"count": len(all[name]["points"])})
        if name and parts[2:3] == ["snapshots"]:
            place = os.path.join(store.snapshots, urllib.parse.quote(name, safe=""))
            os.makedirs(place, exist_ok=True)
            if method == "POST" and len(parts) == 3:
                data, store.made = packed(all[name]), store.made + 1
                file = "%s-1234-2026-11-22-02-59-%02d.snapshot" % (name.replace("/", "_"), store.made)
                with open(os.path.join(place, file), "wb") as f:
                    f.write(data)
                return self.good({"name": file, "creation_time": "2026-11-22T02:59:55", "size": len(data), "checksum": hashlib.sha256(data).hexdigest()})
            if method == "GET" and len(parts) == 3:
                return self.good([{"name": n} for n in sorted(os.listdir(place))])
            if len(parts) == 4 and parts[3] in os.listdir(place):
                path = os.path.join(place, parts[3])
                if method == "DELETE":
                    os.unlink(path)
                    return self.good(True)
                with open(path, "rb") as f:
                    return self.say(200, f.read(), "application/octet-stream")
        self.bad(404, "Not found")


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True


at = sys.argv.index("--config-path") if "--config-path" in sys.argv else sys.exit("error: the argument '--config-path <CONFIG_PATH>' is wanted by this stand-in")
WRONG = sys.argv[1:at]
CONFIG = settings(sys.argv[at + 1])
SERVICE = CONFIG["service"]
if "--die" in WRONG:
    sys.exit("Panic occurred in file src/main.rs: cannot map the storage")
if "--mute" in WRONG:
    silent = socket.create_server((SERVICE["host"], SERVICE["http_port"]))
    time.sleep(3600)
STORE = Store(CONFIG["storage"]["storage_path"], CONFIG["storage"]["snapshots_path"])
try:
    Server((SERVICE["host"], SERVICE["http_port"]), Handler).serve_forever()
except KeyboardInterrupt:
    pass

//! Qdrant: against a server that answers as a real one (1.19.0) was recorded to answer, and against a real one where `KEEPWATCH_TEST_QDRANT`
//! names it (with `KEEPWATCH_TEST_QDRANT_KEY` the file of its key).

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::*;
use keepwatch_sources::fault::Reason;
use keepwatch_sources::qdrant::{self, Options, Server as Place};
use keepwatch_sources::secret::SecretFile;
use sha2::{Digest as _, Sha256};

const KEY: &str = "k-secret";

/// What goes wrong.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Wrong {
    Nothing,
    /// The collection is deleted before its snapshot.
    Vanishes,
    /// The checksum that is said is another.
    OtherSum,
    /// The download breaks off.
    Short,
    /// It never ends.
    Hangs,
    /// The disk of the server is full.
    Full,
    /// Only reading is allowed.
    ReadOnly,
    /// An upload is refused before it has been read.
    Refuses,
}

#[derive(Default)]
struct State {
    collections: BTreeMap<String, Vec<u8>>,
    snapshots: BTreeMap<String, Vec<u8>>,
    aliases: BTreeMap<String, String>,
    made: u32,
}

struct Fake {
    state: Arc<Mutex<State>>,
    wrong: Arc<Mutex<Wrong>>,
    url: String,
}

fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

fn plain(name: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = name.bytes();
    while let Some(b) = bytes.next() {
        if b == b'%' {
            let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
            out.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
        } else {
            out.push(b);
        }
    }
    String::from_utf8(out).unwrap()
}

impl Fake {
    fn start() -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let fake = Fake {
            state: Arc::default(),
            wrong: Arc::new(Mutex::new(Wrong::Nothing)),
            url: format!("http://{}", listener.local_addr().unwrap()),
        };
        let (state, wrong) = (fake.state.clone(), fake.wrong.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (state, wrong) = (state.clone(), *wrong.lock().unwrap());
                std::thread::spawn(move || {
                    let _ = serve(stream, &state, wrong);
                });
            }
        });
        fake
    }

    fn set(&self, wrong: Wrong) {
        *self.wrong.lock().unwrap() = wrong;
    }

    fn with(&self, names: &[&str]) {
        let mut state = self.state.lock().unwrap();
        for name in names {
            let bytes = (0..700_000u32)
                .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8 ^ name.len() as u8)
                .collect();
            state.collections.insert(name.to_string(), bytes);
        }
    }
}

fn serve(stream: TcpStream, state: &Mutex<State>, wrong: Wrong) -> std::io::Result<()> {
    let mut out = stream.try_clone()?;
    let mut input = BufReader::new(stream);
    let mut first = String::new();
    input.read_line(&mut first)?;
    let (mut length, mut key) = (0usize, String::new());
    loop {
        let mut line = String::new();
        input.read_line(&mut line)?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').unwrap();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().unwrap(),
            "api-key" => key = value.trim().to_owned(),
            _ => {}
        }
    }
    let words: Vec<&str> = first.split(' ').collect();
    let (method, target) = (words[0], words[1]);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut reply = |status: u16, kind: &str, body: &[u8], cut: usize| {
        write!(
            out,
            "HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        )?;
        out.write_all(&body[..body.len() - cut])?;
        out.flush()
    };
    let json = "application/json";
    if key != KEY && path != "/healthz" {
        return reply(
            401,
            "text/plain",
            b"Must provide an API key or an Authorization bearer token",
            0,
        );
    }
    if wrong == Wrong::Refuses && path.ends_with("/upload") {
        return reply(
            400,
            json,
            br#"{"status":{"error":"Wrong input: not this one"},"time":0.0}"#,
            0,
        );
    }
    let mut body = vec![0; length];
    input.read_exact(&mut body)?;
    let parts: Vec<String> = path.split('/').skip(1).map(plain).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let mut state = state.lock().unwrap();
    let missing = br#"{"status":{"error":"Not found: Collection doesn't exist!"},"time":0.0}"#;
    let result = |value: serde_json::Value| {
        serde_json::json!({"result": value, "status": "ok", "time": 0.1})
            .to_string()
            .into_bytes()
    };
    match (method, &parts[..]) {
        ("GET", [""]) => reply(
            200,
            json,
            br#"{"title":"qdrant - vector search engine","version":"1.19.0","commit":"abc"}"#,
            0,
        ),
        ("GET", ["collections"]) => {
            let all: Vec<_> = state
                .collections
                .keys()
                .map(|n| serde_json::json!({"name": n}))
                .collect();
            reply(
                200,
                json,
                &result(serde_json::json!({"collections": all})),
                0,
            )
        }
        ("GET", ["aliases"]) => {
            let all: Vec<_> = state
                .aliases
                .iter()
                .map(|(a, c)| serde_json::json!({"alias_name": a, "collection_name": c}))
                .collect();
            reply(200, json, &result(serde_json::json!({"aliases": all})), 0)
        }
        ("POST", ["collections", "aliases"]) => {
            let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
            for action in value["actions"].as_array().unwrap() {
                let a = &action["create_alias"];
                state.aliases.insert(
                    a["alias_name"].as_str().unwrap().into(),
                    a["collection_name"].as_str().unwrap().into(),
                );
            }
            reply(200, json, &result(true.into()), 0)
        }
        ("POST", ["collections", name, "points", "count"]) => match state.collections.get(*name) {
            Some(c) => reply(
                200,
                json,
                &result(serde_json::json!({"count": c.len() / 1000})),
                0,
            ),
            None => reply(404, json, missing, 0),
        },
        ("DELETE", ["collections", name]) => {
            state.collections.remove(*name);
            reply(200, json, &result(true.into()), 0)
        }
        ("POST", [.., "snapshots"]) => {
            match wrong {
                Wrong::ReadOnly => return reply(403, json, br#"{"status":{"error":"Forbidden: Global manage access is required"},"time":0.0}"#, 0),
                Wrong::Full => return reply(500, json, br#"{"status":{"error":"Service internal error: No space left on device"},"time":0.0}"#, 0),
                Wrong::Vanishes => {
                    state.collections.clear();
                }
                _ => {}
            }
            let bytes = match &parts[..] {
                ["collections", name, _] => match state.collections.get(*name) {
                    Some(bytes) => bytes.clone(),
                    None => return reply(404, json, missing, 0),
                },
                _ => state.collections.values().flatten().copied().collect(),
            };
            state.made += 1;
            let name = format!(
                "{}-123-{}.snapshot",
                parts[parts.len() - 2.min(parts.len())].replace('/', "_"),
                state.made
            );
            let said = if wrong == Wrong::OtherSum {
                sum(b"other")
            } else {
                sum(&bytes)
            };
            let answer = result(
                serde_json::json!({"name": name, "creation_time": "2026-11-22T02:59:55", "size": bytes.len(), "checksum": said}),
            );
            state
                .snapshots
                .insert(format!("{}/{name}", plain(path)), bytes);
            reply(200, json, &answer, 0)
        }
        ("GET", [.., "snapshots", _]) => match state.snapshots.get(&plain(path)).cloned() {
            Some(bytes) => {
                drop(state);
                match wrong {
                    Wrong::Short => reply(200, "application/octet-stream", &bytes, bytes.len() / 2),
                    Wrong::Hangs => {
                        reply(200, "application/octet-stream", &bytes, bytes.len() / 2)?;
                        std::thread::sleep(Duration::from_secs(8));
                        Ok(())
                    }
                    _ => reply(200, "application/octet-stream", &bytes, 0),
                }
            }
            None => reply(404, "text/plain", b"", 0),
        },
        ("DELETE", [.., "snapshots", _]) => match state.snapshots.remove(&plain(path)) {
            Some(_) => reply(200, json, &result(true.into()), 0),
            None => reply(404, json, missing, 0),
        },
        ("POST", ["collections", name, "snapshots", "upload"]) => {
            let at = body.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
            let boundary_line = body.iter().position(|b| *b == b'\r').unwrap();
            let end = body.len() - (boundary_line + 4 + 2);
            let bytes = body[at..end].to_vec();
            let wanted = query
                .split('&')
                .find_map(|p| p.strip_prefix("checksum="))
                .unwrap();
            if wanted != sum(&bytes) {
                return reply(400, json, br#"{"status":{"error":"Wrong input: Checksum mismatch: expected x, got y"},"time":0.0}"#, 0);
            }
            state.collections.insert(name.to_string(), bytes);
            reply(200, json, &result(true.into()), 0)
        }
        _ => reply(404, json, missing, 0),
    }
}

fn spec(url: &str, key: &Path, more: &str) -> String {
    format!("qdrant?url={url}&api-key-file={}{more}", key.display())
}

#[test]
fn collections_come_back_with_their_aliases() {
    let dir = scratch();
    let s = setting(dir.path());
    let key = secret(dir.path(), "key", KEY);
    let fake = Fake::start();
    fake.with(&["kw", "odd /näme%"]);
    fake.state
        .lock()
        .unwrap()
        .aliases
        .insert("live".into(), "kw".into());
    let (memory, about) = dumped(&spec(&fake.url, &key, ""), &s).unwrap();
    assert_eq!(about.server_version.as_deref(), Some("1.19.0"));
    let of: Vec<_> = about
        .streams
        .iter()
        .map(|i| (i.what.as_str(), i.of.as_deref().unwrap_or("")))
        .collect();
    assert_eq!(
        of,
        [
            ("aliases", ""),
            ("collection", "kw"),
            ("collection", "odd /näme%")
        ]
    );
    let before = fake.state.lock().unwrap().collections.clone();
    assert!(
        fake.state.lock().unwrap().snapshots.is_empty(),
        "snapshots stay on the server"
    );
    assert_eq!(qdrant::leftovers(&s.scratch), 0);

    let place = Place {
        url: fake.url.clone(),
        key: Some(SecretFile(key.clone())),
    };
    let mut options = Options::default();
    let e = qdrant::restore(&memory, &about, &place, &options, &s).unwrap_err();
    assert_eq!(e.reason, Reason::InTheWay, "{e}");
    {
        let mut state = fake.state.lock().unwrap();
        state.aliases.clear();
        state.collections.get_mut("kw").unwrap().truncate(5000);
        state.collections.remove("odd /näme%");
    }
    options.replace = true;
    let report = qdrant::restore(&memory, &about, &place, &options, &s).unwrap();
    assert_eq!(
        report.restored,
        ["collection kw", "collection odd /näme%", "1 aliases"]
    );
    assert_eq!(fake.state.lock().unwrap().collections, before);
    assert_eq!(fake.state.lock().unwrap().aliases["live"], "kw");
    options.collections = [("kw".to_owned(), "copy".to_owned())].into();
    qdrant::restore(&memory, &about, &place, &options, &s).unwrap();
    assert_eq!(fake.state.lock().unwrap().collections["copy"], before["kw"]);

    // A server that refuses without reading: what it says is told, and nothing is left.
    fake.set(Wrong::Refuses);
    options.collections = [("kw".to_owned(), "third".to_owned())].into();
    let e = qdrant::restore(&memory, &about, &place, &options, &s).unwrap_err();
    assert!(
        e.text.contains("not this one") || e.reason == Reason::NoConnection,
        "{e:?}"
    );
    assert!(!fake.state.lock().unwrap().collections.contains_key("third"));

    // The whole storage.
    fake.set(Wrong::Nothing);
    let (memory, about) = dumped(&spec(&fake.url, &key, "&whole=true"), &s).unwrap();
    assert!(memory.0.contains_key("storage.full"));
    assert!(about.notes[0].contains("--storage-snapshot"));
    assert_eq!(
        qdrant::restore(&memory, &about, &place, &Options::default(), &s)
            .unwrap_err()
            .reason,
        Reason::NotThere
    );
}

#[test]
fn what_is_wrong_is_said_and_nothing_stays_on_the_server() {
    let dir = scratch();
    let mut s = setting(dir.path());
    s.stall = Duration::from_secs(2);
    let key = secret(dir.path(), "key", KEY);
    for (wrong, reason, says) in [
        (Wrong::Vanishes, Reason::NotThere, "collection 'kw'"),
        (Wrong::OtherSum, Reason::NotWhole, "SHA-256"),
        (Wrong::Short, Reason::NotWhole, "in the middle"),
        (Wrong::Hangs, Reason::Stalled, "sent nothing"),
        (Wrong::Full, Reason::NoSpace, "No space left"),
        (Wrong::ReadOnly, Reason::Denied, "Global manage access"),
    ] {
        let fake = Fake::start();
        fake.with(&["kw"]);
        fake.set(wrong);
        let e = dumped(&spec(&fake.url, &key, ""), &s)
            .err()
            .unwrap_or_else(|| panic!("{wrong:?} succeeded"));
        assert_eq!(e.reason, reason, "{wrong:?}: {e}");
        assert!(e.text.contains(says), "{wrong:?}: {e}");
        assert!(!e.text.contains(KEY));
        assert!(
            fake.state.lock().unwrap().snapshots.is_empty(),
            "{wrong:?}: a snapshot stays on the server"
        );
    }
    let fake = Fake::start();
    let e = dumped(&spec(&fake.url, &key, ""), &s).err().unwrap();
    assert_eq!(e.reason, Reason::NotThere, "{e}");
    fake.with(&["kw"]);
    let e = dumped(&spec(&fake.url, &key, "&database=kv"), &s)
        .err()
        .unwrap();
    assert!(e.text.contains("no collection 'kv'"), "{e}");
    let bad = secret(dir.path(), "bad", "hunter2");
    let e = dumped(&spec(&fake.url, &bad, ""), &s).err().unwrap();
    assert_eq!(
        (e.reason, e.text.contains("hunter2")),
        (Reason::Denied, false),
        "{e}"
    );
    let e = dumped("qdrant?url=http://127.0.0.1:1", &s).err().unwrap();
    assert_eq!(e.reason, Reason::NoConnection, "{e}");
    let e = dumped(&spec("http://example.org", &key, ""), &s)
        .err()
        .unwrap();
    assert_eq!(e.reason, Reason::Parameter, "{e}");
}

#[test]
fn what_a_killed_run_left_on_the_server_is_deleted_by_the_next() {
    let dir = scratch();
    let s = setting(dir.path());
    let key = secret(dir.path(), "key", KEY);
    let fake = Fake::start();
    fake.with(&["kw"]);
    // The process is killed while it reads: nothing of it is dropped in good order.
    let source = source(&spec(&fake.url, &key, ""));
    let mut dumping = source.dump(&s).unwrap();
    let _aliases = dumping.next_stream().unwrap().unwrap();
    let stream = dumping.next_stream().unwrap().unwrap();
    std::mem::forget(stream);
    assert_eq!(fake.state.lock().unwrap().snapshots.len(), 1);
    // Somebody else's stays.
    fake.state
        .lock()
        .unwrap()
        .snapshots
        .insert("/collections/kw/snapshots/other".into(), vec![1]);
    // A note that is none of ours is not followed.
    fs::write(
        s.scratch.join("keepwatch-qdrant-snapshots/x"),
        "/collections/kw/snapshots/other",
    )
    .unwrap();
    dumped(&spec(&fake.url, &key, ""), &s).unwrap();
    let left: Vec<_> = fake
        .state
        .lock()
        .unwrap()
        .snapshots
        .keys()
        .cloned()
        .collect();
    assert_eq!(left, ["/collections/kw/snapshots/other"]);
}

#[test]
fn against_a_real_server() {
    let Ok(url) = std::env::var("KEEPWATCH_TEST_QDRANT") else {
        eprintln!("\n!!! SKIPPED: KEEPWATCH_TEST_QDRANT names no Qdrant\n");
        return;
    };
    let dir = scratch();
    let s = setting(dir.path());
    let key = std::env::var_os("KEEPWATCH_TEST_QDRANT_KEY").map(PathBuf::from);
    let more = key
        .as_ref()
        .map_or(String::new(), |k| format!("&api-key-file={}", k.display()));
    let (memory, about) = dumped(&format!("qdrant?url={url}{more}"), &s).unwrap();
    let name = about.all("collection").next().unwrap().of.clone().unwrap();
    let options = Options {
        collections: [(name, "keepwatch_test_copy".to_owned())].into(),
        replace: true,
    };
    let place = Place {
        url,
        key: key.map(SecretFile),
    };
    qdrant::restore(&memory, &about, &place, &options, &s).unwrap();
}

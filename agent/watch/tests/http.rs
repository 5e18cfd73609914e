//! The http, qdrant, ollama, tcp and tls probes against servers that answer, hang, lie, drip and never end.

mod common;

use common::{Ca, Scratch, ask, fails, net, well};
use keepwatch_model::check::Reason;
use keepwatch_watch::net::tls::TlsSettings;
use keepwatch_watch::outcome::{Outcome, Quantity};
use keepwatch_watch::probe::http::{Http, HttpSettings};
use keepwatch_watch::probe::json::JsonRule;
use keepwatch_watch::probe::ollama::{Ollama, OllamaSettings};
use keepwatch_watch::probe::qdrant::{Qdrant, QdrantSettings};
use keepwatch_watch::probe::tcp::{Tcp, TcpSettings};
use keepwatch_watch::probe::tls::{Tls, TlsProbeSettings};
use rustls::pki_types::pem::PemObject as _;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;

type Router = dyn Fn(&str, &str) -> Vec<u8> + Send + Sync;

/// What a stub does after it has read a request.
#[derive(Clone)]
enum Stub {
    /// Sends these bytes and closes.
    Say(Vec<u8>),
    /// The same, but does not wait for a whole request: a server of HTTP that is spoken to in TLS.
    SayAtOnce(Vec<u8>),
    /// Sends them and never closes.
    SayAndHang(Vec<u8>),
    /// Sends a byte now and then, for ever.
    Drip(Vec<u8>),
    /// Sends these bytes, then zeros without end.
    Flood(Vec<u8>),
    /// By the first line of the request and the API key.
    Route(Arc<Router>),
}

async fn serve(mut s: impl AsyncRead + AsyncWrite + Unpin, stub: Stub) {
    let mut request = Vec::new();
    let mut b = [0; 1024];
    while !request.windows(4).any(|w| w == b"\r\n\r\n") {
        match s.read(&mut b).await {
            Ok(n) if n > 0 => request.extend_from_slice(&b[..n]),
            _ => return,
        }
        if matches!(stub, Stub::SayAtOnce(_)) {
            break;
        }
    }
    let _ = match stub {
        Stub::Say(bytes) | Stub::SayAtOnce(bytes) => s.write_all(&bytes).await,
        Stub::SayAndHang(bytes) => {
            let _ = s.write_all(&bytes).await;
            let _ = s.flush().await;
            std::future::pending().await
        }
        Stub::Drip(bytes) => {
            for b in bytes.iter().cycle() {
                if s.write_all(&[*b]).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Ok(())
        }
        Stub::Flood(bytes) => {
            let _ = s.write_all(&bytes).await;
            loop {
                if s.write_all(&[b'0'; 65_536]).await.is_err() {
                    return;
                }
            }
        }
        Stub::Route(f) => {
            let text = String::from_utf8_lossy(&request).into_owned();
            let key = text
                .lines()
                .find_map(|l| l.strip_prefix("api-key: "))
                .unwrap_or("")
                .to_owned();
            s.write_all(&f(text.lines().next().unwrap_or(""), &key))
                .await
        }
    };
    let _ = s.shutdown().await;
}

async fn start(stub: Stub) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((s, _)) = listener.accept().await {
            tokio::spawn(serve(s, stub.clone()));
        }
    });
    port
}

fn reply(status: &str, headers: &str, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn settings(port: u16) -> HttpSettings {
    HttpSettings {
        url: format!("http://127.0.0.1:{port}/health?x=1"),
        ..HttpSettings::default()
    }
}

async fn get(stub: Stub, change: impl FnOnce(&mut HttpSettings)) -> Outcome {
    let mut s = settings(start(stub).await);
    change(&mut s);
    ask(&Http::new(s, net()).unwrap(), 1.5).await
}

#[tokio::test]
async fn answers_that_are_right() {
    let hello = || {
        Stub::Say(reply(
            "200 OK",
            "X-Version: 1.2\r\n",
            r#"{"status":"ok","n":3}"#,
        ))
    };
    let o = get(hello(), |s| {
        s.body_matches = vec![r#""status":"ok""#.into()];
        s.body_does_not_match = vec!["error".into()];
        s.header_matches = [("x-version".to_owned(), r"^1\.".to_owned())].into();
        s.json = vec![JsonRule {
            pointer: "/n".into(),
            min: Some(3.0),
            ..JsonRule::default()
        }];
    })
    .await;
    well(&o);
    assert_eq!(o.value(Quantity::HttpStatus), Some(200.0));
    assert!(o.value(Quantity::DurationSeconds).unwrap() < 1.0);
    // Without a length, ended by the end of the connection; chunked; no content.
    well(
        &get(Stub::Say(b"HTTP/1.1 200 OK\r\n\r\nabc".to_vec()), |s| {
            s.body_matches = vec!["^abc$".into()]
        })
        .await,
    );
    let chunked =
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n".to_vec();
    well(
        &get(Stub::SayAndHang(chunked), |s| {
            s.body_matches = vec!["^abc$".into()]
        })
        .await,
    );
    well(
        &get(
            Stub::SayAndHang(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()),
            |_| (),
        )
        .await,
    );
    well(&get(hello(), |s| s.method = Some("POST".into())).await);
    well(
        &get(Stub::Say(reply("404 Not Found", "", "")), |s| {
            s.status = vec!["404".into()]
        })
        .await,
    );
    well(
        &get(Stub::SayAndHang(reply("200 OK", "", "")), |s| {
            s.method = Some("HEAD".into())
        })
        .await,
    );
}

#[tokio::test]
async fn answers_that_are_wrong_are_told_apart() {
    let say = |bytes: &[u8]| Stub::Say(bytes.to_vec());
    let many = "X-H: v\r\n".repeat(2000);
    let long = format!("X-H: {}\r\n", "v".repeat(200_000));
    for (what, stub, reason, text) in [
        (
            "status",
            say(&reply("503 Unavailable", "", "")),
            Reason::Status,
            "503",
        ),
        (
            "redirect",
            say(&reply("302 Found", "Location: /login\r\n", "")),
            Reason::Status,
            "302",
        ),
        (
            "not for us",
            say(&reply("401 Unauthorized", "", "")),
            Reason::Auth,
            "401",
        ),
        (
            "garbage",
            say(b"\x00\x01\x02 this is not HTTP\r\n\r\n"),
            Reason::Protocol,
            "not HTTP",
        ),
        (
            "another protocol",
            say(b"220 mail.example ESMTP\r\n"),
            Reason::Protocol,
            "not HTTP",
        ),
        (
            "nothing",
            say(b""),
            Reason::Protocol,
            "closed the connection",
        ),
        (
            "half a head",
            say(b"HTTP/1.1 200 OK\r\nContent-Le"),
            Reason::Protocol,
            "",
        ),
        (
            "half a body",
            say(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc"),
            Reason::Protocol,
            "",
        ),
        (
            "wrong chunk",
            say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
            Reason::Protocol,
            "",
        ),
        (
            "many headers",
            say(&reply("200 OK", &many, "")),
            Reason::Protocol,
            "",
        ),
        (
            "a long header",
            say(&reply("200 OK", &long, "")),
            Reason::Protocol,
            "",
        ),
        (
            "an endless head",
            Stub::Flood(b"HTTP/1.1 200 OK\r\nX: ".to_vec()),
            Reason::Protocol,
            "",
        ),
        ("hang", Stub::SayAndHang(vec![]), Reason::Timeout, "1.5 s"),
        (
            "hang in the body",
            Stub::SayAndHang(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc".to_vec()),
            Reason::Timeout,
            "",
        ),
        (
            "slowloris",
            Stub::Drip(b"HTTP/1.1 200 OK\r\nX-A: b\r\nX-C: d\r\n".to_vec()),
            Reason::Timeout,
            "",
        ),
    ] {
        let began = Instant::now();
        let o = get(stub, |_| ()).await;
        let f = o
            .failure
            .as_ref()
            .unwrap_or_else(|| panic!("{what} succeeded"));
        assert_eq!(f.reason, reason, "{what}: {}", f.text);
        assert!(
            f.text.contains(text) && f.text.len() < 1000,
            "{what}: {}",
            f.text
        );
        assert!(began.elapsed() < Duration::from_secs(4), "{what}");
    }
}

#[tokio::test]
async fn a_body_without_end_is_cut() {
    let flood = || Stub::Flood(b"HTTP/1.1 200 OK\r\n\r\nhello ".to_vec());
    well(&get(flood(), |s| s.body_matches = vec!["^hello".into()]).await);
    fails(
        &get(flood(), |s| s.body_matches = vec!["absent".into()]).await,
        Reason::Assertion,
        "1 MiB",
    );
    fails(
        &get(flood(), |s| s.json = vec![JsonRule::default()]).await,
        Reason::Assertion,
        "too long",
    );
}

#[tokio::test]
async fn assertions_say_what_is_wrong() {
    let stub = || {
        Stub::Say(reply(
            "200 OK",
            "X-Version: 2\r\n",
            "{\"status\":\"error\"}",
        ))
    };
    fails(
        &get(stub(), |s| s.body_matches = vec!["fine".into()]).await,
        Reason::Assertion,
        "does not match fine",
    );
    fails(
        &get(stub(), |s| s.body_does_not_match = vec!["err".into()]).await,
        Reason::Assertion,
        "matches err",
    );
    let missing = get(stub(), |s| {
        drop(s.header_matches.insert("x-absent".into(), ".".into()))
    });
    fails(&missing.await, Reason::Assertion, "x-absent is missing");
    let rule = JsonRule {
        pointer: "/status".into(),
        equals: Some("ok".into()),
        ..JsonRule::default()
    };
    fails(
        &get(stub(), |s| s.json = vec![rule]).await,
        Reason::Assertion,
        "/status is \"error\", not \"ok\"",
    );
}

#[tokio::test]
async fn secrets_are_sent_and_never_said() {
    let dir = Scratch::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = tokio::spawn(async move {
        let mut all = String::new();
        for _ in 0..2 {
            let (mut s, _) = listener.accept().await.unwrap();
            let mut b = vec![0; 4096];
            let n = s.read(&mut b).await.unwrap();
            all.push_str(&String::from_utf8_lossy(&b[..n]));
            s.write_all(&reply("401 Unauthorized", "", ""))
                .await
                .unwrap();
        }
        all
    });
    let mut basic = settings(port);
    basic.basic_user = Some("me".into());
    basic.password_file = Some(dir.secret("p", "canary-password\n"));
    let mut bearer = settings(port);
    bearer.bearer_token_file = Some(dir.secret("t", "canary-token"));
    let mut said = format!("{basic:?}{bearer:?}");
    for s in [basic, bearer] {
        let o = ask(&Http::new(s, net()).unwrap(), 5.0).await;
        fails(&o, Reason::Auth, "401");
        said.push_str(&format!("{o:?}"));
    }
    let request = seen.await.unwrap();
    assert!(
        request.contains("Basic bWU6Y2FuYXJ5LXBhc3N3b3Jk\r\n")
            && request.contains("Bearer canary-token\r\n"),
        "{request}"
    );
    assert!(!said.contains("canary"), "{said}");
    // A secret that cannot be sent is not repeated either.
    let mut bad = settings(port);
    bad.bearer_token_file = Some(dir.secret("b", "canary\r\nX-Injected: 1"));
    let o = ask(&Http::new(bad, net()).unwrap(), 5.0).await;
    fails(&o, Reason::Exec, "cannot have");
    assert!(!format!("{o:?}").contains("canary"));
}

#[tokio::test]
async fn over_a_unix_socket() {
    let dir = Scratch::new();
    let path = dir.path().join("s");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        let (s, _) = listener.accept().await.unwrap();
        serve(s, Stub::Say(reply("200 OK", "", "over unix"))).await;
    });
    let s = HttpSettings {
        url: "http://docker/ping".into(),
        unix_socket: Some(path),
        body_matches: vec!["over unix".into()],
        ..HttpSettings::default()
    };
    well(&ask(&Http::new(s, net()).unwrap(), 5.0).await);
}

/// A TLS server with this certificate and key; returns its port.
async fn tls_server(pem: (String, String)) -> u16 {
    let chain = rustls::pki_types::CertificateDer::pem_slice_iter(pem.0.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .unwrap();
    let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(pem.1.as_bytes()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_no_client_auth()
    .with_single_cert(chain, key)
    .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((s, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(s) = acceptor.accept(s).await {
                    serve(s, Stub::Say(reply("200 OK", "", "secure"))).await;
                }
            });
        }
    });
    port
}

#[tokio::test]
async fn certificates_that_are_wrong_in_one_way_each() {
    let dir = Scratch::new();
    let (ca, other, impostor) = (Ca::new(), Ca::named("other ca"), Ca::new());
    let ca_file = dir.file("ca.pem", &ca.pem);
    let trust = |server_name: Option<&str>| TlsSettings {
        ca_file: Some(ca_file.clone()),
        server_name: server_name.map(str::to_owned),
    };
    let https = async |port: u16, tls: TlsSettings| {
        let s = HttpSettings {
            url: format!("https://localhost:{port}/"),
            tls,
            body_matches: vec!["secure".into()],
            ..HttpSettings::default()
        };
        ask(&Http::new(s, net()).unwrap(), 5.0).await
    };
    let good = tls_server(ca.issue(&["localhost"], 20)).await;
    let o = https(good, trust(None)).await;
    well(&o);
    let left = o.value(Quantity::TlsSecondsLeft).unwrap();
    assert!((left - 20.0 * 86_400.0).abs() < 60.0, "{left}");
    // Again: no session is resumed, the certificate is seen again.
    assert!(
        https(good, trust(None))
            .await
            .value(Quantity::TlsNotAfterSeconds)
            .is_some()
    );
    fails(
        &https(tls_server(ca.issue(&["localhost"], -1)).await, trust(None)).await,
        Reason::Tls,
        "xpired",
    );
    fails(
        &https(
            tls_server(ca.issue(&["other.example"], 20)).await,
            trust(None),
        )
        .await,
        Reason::Tls,
        "name",
    );
    well(
        &https(
            tls_server(ca.issue(&["other.example"], 20)).await,
            trust(Some("other.example")),
        )
        .await,
    );
    fails(
        &https(
            tls_server(other.issue(&["localhost"], 20)).await,
            trust(None),
        )
        .await,
        Reason::Tls,
        "UnknownIssuer",
    );
    fails(
        &https(tls_server(ca.itself()).await, trust(Some("localhost"))).await,
        Reason::Tls,
        "the certificate of an authority as its own",
    );
    // A CA of the same name, with another key.
    fails(
        &https(
            tls_server(impostor.issue(&["localhost"], 20)).await,
            trust(None),
        )
        .await,
        Reason::Tls,
        "BadSignature",
    );
    fails(&https(good, TlsSettings::default()).await, Reason::Tls, "");
    fails(
        &https(
            start(Stub::SayAtOnce(reply("400 Bad Request", "", ""))).await,
            trust(None),
        )
        .await,
        Reason::Tls,
        "handshake",
    );
    let gone = TlsSettings {
        ca_file: Some(dir.path().join("none.pem")),
        server_name: None,
    };
    fails(&https(good, gone).await, Reason::Exec, "none.pem");
    // A server that accepts and then says nothing is no TLS error but a timeout.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let s = HttpSettings {
        url: format!("https://localhost:{}/", silent.local_addr().unwrap().port()),
        tls: trust(None),
        ..HttpSettings::default()
    };
    fails(
        &ask(&Http::new(s, net()).unwrap(), 0.5).await,
        Reason::Timeout,
        "",
    );
}

#[tokio::test]
async fn the_end_of_certificates() {
    let dir = Scratch::new();
    let ca = Ca::new();
    let probe = |json: String| {
        Tls::new(
            serde_json::from_str::<TlsProbeSettings>(&json).unwrap(),
            net(),
        )
        .unwrap()
    };
    let days = |o: &Outcome| (o.value(Quantity::TlsSecondsLeft).unwrap() / 86_400.0).round();
    // Of two in a file the first to end counts.
    let chain = format!("{}{}", ca.issue(&["a"], 90).0, ca.issue(&["b"], 7).0);
    let file = dir.file("chain.pem", &chain);
    let o = ask(&probe(format!(r#"{{"file":"{}"}}"#, file.display())), 5.0).await;
    well(&o);
    assert_eq!(days(&o), 7.0);
    let old = dir.file("old.pem", &ca.issue(&["a"], -3).0);
    let o = ask(&probe(format!(r#"{{"file":"{}"}}"#, old.display())), 5.0).await;
    fails(&o, Reason::Tls, "ended at");
    assert_eq!(days(&o), -3.0);
    let none = dir.file("none.pem", "no certificate in here\n");
    let o = ask(&probe(format!(r#"{{"file":"{}"}}"#, none.display())), 5.0).await;
    fails(&o, Reason::Exec, "holds none");
    // At a host, verified and only looked at.
    let port = tls_server(ca.issue(&["localhost"], 30)).await;
    let o = ask(
        &probe(format!(r#"{{"target":"localhost:{port}","verify":false}}"#)),
        5.0,
    )
    .await;
    well(&o);
    assert_eq!(days(&o), 30.0);
    let o = ask(&probe(format!(r#"{{"target":"localhost:{port}"}}"#)), 5.0).await;
    fails(&o, Reason::Tls, "");
    for bad in [r#"{}"#, r#"{"file":"/x","target":"a:1"}"#] {
        assert!(Tls::new(serde_json::from_str(bad).unwrap(), net()).is_err());
    }
}

#[tokio::test]
async fn tcp_greetings() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut s, _)) = listener.accept().await {
            tokio::spawn(async move {
                // In pieces.
                for part in ["220 mail", ".example ES", "MTP\r\n"] {
                    let _ = s.write_all(part.as_bytes()).await;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                std::future::pending::<()>().await;
            });
        }
    });
    let probe = |expect: &str, port: u16| {
        let s: TcpSettings = serde_json::from_value(serde_json::json!({
            "target": format!("127.0.0.1:{port}"), "send": "EHLO x\r\n", "expect": expect,
        }))
        .unwrap();
        Tcp::new(s, net()).unwrap()
    };
    well(&ask(&probe("^220 .*ESMTP", port), 5.0).await);
    fails(&ask(&probe("^250", port), 0.5).await, Reason::Timeout, "");
    let http = start(Stub::Flood(b"x".to_vec())).await;
    fails(&ask(&probe("^250", http), 0.5).await, Reason::Timeout, "");
    let closing = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = closing.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut s, _) = closing.accept().await.unwrap();
        let mut b = [0; 8];
        let _ = s.read_exact(&mut b).await;
        let _ = s.write_all(b"421 busy\x1b[2J\r\n").await;
    });
    fails(
        &ask(&probe("^220", port), 5.0).await,
        Reason::Assertion,
        "421 busy",
    );
}

/// The recorded answers of Qdrant 1.19, by path and key.
fn qdrant_stub(ready: bool, status: &'static str) -> Stub {
    Stub::Route(Arc::new(move |line, key| {
        let path = line.split(' ').nth(1).unwrap_or("");
        match (path, key) {
            ("/readyz", _) if ready => reply("200 OK", "", "all shards are ready"),
            ("/readyz", _) => reply(
                "503 Service Unavailable",
                "",
                "some shards are not ready:\nkw",
            ),
            (_, "") => reply(
                "401 Unauthorized",
                "",
                "Must provide an API key or an Authorization bearer token",
            ),
            (_, k) if k != "K" => reply("403 Forbidden", "", "Forbidden"),
            ("/collections", _) => reply(
                "200 OK",
                "",
                r#"{"result":{"collections":[{"name":"kw"},{"name":"two"}]},"status":"ok","time":0.0001}"#,
            ),
            ("/collections/kw", _) => reply(
                "200 OK",
                "",
                &format!(
                    r#"{{"result":{{"status":"{status}","optimizer_status":"ok","points_count":42,"segments_count":2}},"status":"ok"}}"#
                ),
            ),
            _ => reply("404 Not Found", "", "{}"),
        }
    }))
}

#[tokio::test]
async fn qdrant_by_its_recorded_answers() {
    let dir = Scratch::new();
    let key = Some(dir.secret("key", "K\n"));
    let asked = async |stub: Stub, change: &dyn Fn(&mut QdrantSettings)| {
        let mut s = QdrantSettings {
            url: format!("http://127.0.0.1:{}", start(stub).await),
            api_key_file: key.clone(),
            min_collections: 2,
            collections: ["kw".to_owned()].into(),
            ..QdrantSettings::default()
        };
        change(&mut s);
        ask(&Qdrant::new(s, net()).unwrap(), 2.0).await
    };
    let o = asked(qdrant_stub(true, "green"), &|_| ()).await;
    well(&o);
    assert_eq!(
        (
            o.value(Quantity::QdrantCollections),
            o.value(Quantity::QdrantPoints)
        ),
        (Some(2.0), Some(42.0))
    );
    fails(
        &asked(qdrant_stub(false, "green"), &|_| ()).await,
        Reason::Status,
        "some shards are not ready: kw",
    );
    fails(
        &asked(qdrant_stub(true, "green"), &|s| s.api_key_file = None).await,
        Reason::Auth,
        "API key",
    );
    fails(
        &asked(qdrant_stub(true, "green"), &|s| s.min_collections = 3).await,
        Reason::Assertion,
        "fewer than 3",
    );
    fails(
        &asked(qdrant_stub(true, "green"), &|s| {
            s.collections.insert("no".into());
        })
        .await,
        Reason::Assertion,
        "no is missing",
    );
    fails(
        &asked(qdrant_stub(true, "red"), &|_| ()).await,
        Reason::Assertion,
        "kw is red",
    );
    let yellow = asked(qdrant_stub(true, "yellow"), &|_| ()).await;
    assert_eq!((yellow.failure, yellow.warnings.len()), (None, 1));
    fails(
        &asked(Stub::Say(reply("200 OK", "", "<html>")), &|_| ()).await,
        Reason::Protocol,
        "not the expected JSON",
    );
    fails(
        &asked(Stub::SayAndHang(vec![]), &|_| ()).await,
        Reason::Timeout,
        "",
    );
    for bad in ["../x", "", "a b", "a/b"] {
        let s = QdrantSettings {
            url: "http://h".into(),
            collections: [bad.to_owned()].into(),
            ..QdrantSettings::default()
        };
        assert!(Qdrant::new(s, net()).is_err(), "{bad}");
    }
}

#[tokio::test]
async fn ollama_by_its_described_answers() {
    let asked = async |body: &str, models: &[&str]| {
        let s = OllamaSettings {
            url: format!(
                "http://127.0.0.1:{}",
                start(Stub::Say(reply("200 OK", "", body))).await
            ),
            models: models.iter().map(|m| (*m).to_owned()).collect(),
            ..OllamaSettings::default()
        };
        ask(&Ollama::new(s, net()).unwrap(), 2.0).await
    };
    let body = r#"{"models":[{"name":"llama3:latest","model":"llama3:latest","size":1},{"name":"registry:5000/q/qwen:7b"}]}"#;
    let o = asked(body, &["llama3", "registry:5000/q/qwen:7b"]).await;
    well(&o);
    assert_eq!(o.value(Quantity::OllamaModels), Some(2.0));
    fails(
        &asked(body, &["llama3:70b", "mistral"]).await,
        Reason::Assertion,
        "missing models: llama3:70b, mistral",
    );
    well(&asked(r#"{"models":null}"#, &[]).await);
    fails(&asked("Ollama is running", &[]).await, Reason::Protocol, "");
}

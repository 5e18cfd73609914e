//! Deliveries to HTTP sinks that answer well, badly, slowly or not at all; retries, fallback, restarts, and that no error says a
//! secret.

mod common;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::*;
use keepwatch_model::check::Severity;
use keepwatch_notify::fault::Fault;
use keepwatch_notify::http::Net;
use keepwatch_notify::medium::{Medium, deadman, ntfy, telegram, webhook};
use keepwatch_notify::plan::{Message, Next, Plan, Rules, State};
use keepwatch_notify::post::{Channel, Settings, open};
use serde_json::Value;

const TOKEN: &str = "123456:AAE-canary_token";
const PATH: &str = "/hook/canary-path-0123456789";

fn message() -> Message {
    let mut p = Plan::new([("a".to_owned(), hasty())].into(), State::default());
    p.observe(now(), &[alert("web"), alert("db")]);
    match p.next("a", now()) {
        Next::Send(m) => *m,
        other => panic!("{other:?}"),
    }
}

fn telegram_to(dir: &tempfile::TempDir, port: u16) -> Medium {
    Medium::Telegram(telegram::Settings {
        token_file: secret(dir, "token", TOKEN),
        chat_id: "-100123".into(),
        thread_id: Some(7),
        api: Some(format!("http://127.0.0.1:{port}")),
        silent: false,
    })
}

fn webhook_to(dir: &tempfile::TempDir, port: u16) -> Medium {
    Medium::Webhook(webhook::Settings {
        url_file: secret(
            dir,
            &format!("url-{port}"),
            &format!("http://127.0.0.1:{port}{PATH}\n"),
        ),
        token_file: None,
        key_file: None,
        plain_http: false,
    })
}

fn ntfy_to(dir: &tempfile::TempDir, port: u16) -> Medium {
    Medium::Ntfy(ntfy::Settings {
        url_file: secret(dir, "topic", &format!("http://127.0.0.1:{port}{PATH}")),
        token_file: Some(secret(dir, "ntfy-token", "tk_canary_ntfy")),
        tags: vec!["keepwatch".into()],
        plain_http: false,
    })
}

fn channel(name: &str, medium: Medium, rules: Rules) -> Channel {
    Channel {
        name: name.into(),
        medium,
        rules,
    }
}

fn office(channels: Vec<Channel>) -> Settings {
    Settings {
        host: "h1".into(),
        channels,
        ..Settings::default()
    }
}

fn ok() -> Act {
    answer(200, "", "{\"ok\":true}")
}

#[tokio::test]
async fn what_each_sink_gets() {
    let dir = tempfile::tempdir().unwrap();
    let sink = Sink::new(vec![ok()]).await;
    let net = Net::new(None);
    let m = message();
    for medium in [
        telegram_to(&dir, sink.port),
        webhook_to(&dir, sink.port),
        ntfy_to(&dir, sink.port),
    ] {
        medium.check().unwrap();
        medium.send(&net, "hö1", &m, now()).await.unwrap();
    }
    let [t, w, n] = &sink.seen()[..] else {
        panic!()
    };
    assert!(
        t.head
            .starts_with(&format!("POST /bot{TOKEN}/sendMessage HTTP/1.1\r\n")),
        "{}",
        t.head
    );
    let v: Value = serde_json::from_str(&t.body).unwrap();
    assert_eq!(
        (
            v["chat_id"].as_str(),
            v["parse_mode"].as_str(),
            v["message_thread_id"].as_i64()
        ),
        (Some("-100123"), Some("HTML"), Some(7))
    );
    assert!(
        v["text"]
            .as_str()
            .unwrap()
            .contains("It does &lt;not&gt; answer &amp; &quot;more&quot;.")
    );
    assert_eq!(v["disable_notification"], false);
    assert!(w.head.starts_with(&format!("POST {PATH} HTTP/1.1")));
    let v: Value = serde_json::from_str(&w.body).unwrap();
    assert_eq!(
        (
            &v["version"],
            &v["status"],
            v["alerts"].as_array().unwrap().len()
        ),
        (&"4".into(), &"firing".into(), 2)
    );
    assert_eq!(v["commonLabels"]["alertname"], "KeepwatchCheckDown");
    assert!(v["commonLabels"].get("check").is_none());
    assert_eq!(n.header("authorization"), Some("Bearer tk_canary_ntfy"));
    assert_eq!(n.header("priority"), Some("5"));
    assert_eq!(n.header("tags"), Some("rotating_light,keepwatch"));
    assert!(
        n.header("title").unwrap().starts_with("=?UTF-8?B?"),
        "{:?}",
        n.header("title")
    );
    assert!(n.body.contains("web is down") && n.body.contains("db is down"));
}

#[tokio::test]
async fn bad_answers_and_what_is_said_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = Sink::new(vec![ok()]).await;
    let echo = format!(
        "{{\"ok\":false,\"description\":\"no {TOKEN} http://127.0.0.1/bot{TOKEN}/sendMessage\\r\\n\\u001b[31m\",\"parameters\":{{\"retry_after\":7}}}}"
    );
    let redirect = format!("Location: http://127.0.0.1:{}/{PATH}\r\n", elsewhere.port);
    let net = Net::new(None);
    let m = message();
    // act, may be tried again, what the error says
    let table: Vec<(Act, bool, &str)> = vec![
        (answer(429, "Retry-After: 9\r\n", &echo), true, "busy"),
        (answer(500, "", &echo), true, "not well"),
        (answer(503, "Retry-After: 9\r\n", "x"), true, "not well"),
        (answer(400, "", &echo), false, "refused the message"),
        (answer(413, "", ""), false, "refused the message"),
        (answer(401, "", &echo), true, "does not let us in"),
        (answer(404, "", &echo), true, "not there"),
        (answer(302, &redirect, ""), true, "redirect"),
        (answer(307, &redirect, ""), true, "redirect"),
        (Act::Close, true, "clos"),
        (Act::Drop, true, "closed the connection before"),
        (
            Act::Say(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
            true,
            "not HTTP",
        ),
        (Act::Say(vec![0xff; 100_000]), true, "not HTTP"),
        (
            Act::Say(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf".to_vec()),
            true,
            "broke off",
        ),
        (
            Act::Say([b"HTTP/1.1 500 X\r\nX: ".to_vec(), vec![b'y'; 1 << 20]].concat()),
            true,
            "",
        ),
        (answer(500, "", &"z".repeat(8 << 20)), true, "not well"),
    ];
    for (n, (act, later, says)) in table.into_iter().enumerate() {
        let sink = Sink::new(vec![act]).await;
        for medium in [
            telegram_to(&dir, sink.port),
            webhook_to(&dir, sink.port),
            ntfy_to(&dir, sink.port),
        ] {
            let sent =
                tokio::time::timeout(Duration::from_secs(10), medium.send(&net, "h1", &m, now()))
                    .await
                    .expect("it ends");
            let fault = sent.expect_err("it is not delivered");
            let text = fault.to_string();
            assert_eq!(matches!(fault, Fault::Later { .. }), later, "{n}: {text}");
            // Whether a connection is seen to be closed or reset is the kernel's.
            if says != "clos" {
                assert!(text.contains(says), "{n}: {text}");
            }
            assert!(
                !text.contains("canary")
                    && !text.contains(&sink.port.to_string())
                    && !text.contains("127.0.0.1:"),
                "{n}: {text}"
            );
            assert!(
                !text.contains(|c: char| c.is_control()) && text.len() < 400,
                "{n}: {text}"
            );
        }
    }
    assert!(elsewhere.seen().is_empty(), "no redirect is followed");
    let busy = Sink::new(vec![answer(429, "Retry-After: 9\r\n", &echo)]).await;
    let after = |f: Fault| match f {
        Fault::Later { after, .. } => after.map(|d| d.as_secs()),
        Fault::Refused { .. } => None,
    };
    assert_eq!(
        after(
            telegram_to(&dir, busy.port)
                .send(&net, "h", &m, now())
                .await
                .unwrap_err()
        ),
        Some(7)
    );
    assert_eq!(
        after(
            webhook_to(&dir, busy.port)
                .send(&net, "h", &m, now())
                .await
                .unwrap_err()
        ),
        Some(9)
    );
    // 200 that is not Telegram's is no delivery.
    let other = Sink::new(vec![answer(200, "", "<html>login</html>")]).await;
    assert!(
        telegram_to(&dir, other.port)
            .send(&net, "h", &m, now())
            .await
            .is_err()
    );
    // Nobody there.
    let port = { Sink::new(vec![ok()]).await.port };
    tokio::time::sleep(Duration::from_millis(50)).await;
    let text = webhook_to(&dir, port)
        .send(&net, "h", &m, now())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("refused") && !text.contains("canary"),
        "{text}"
    );
}

#[tokio::test]
async fn a_sink_that_fails_gets_it_once_it_works_and_a_restart_repeats_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let sink = Sink::new(vec![answer(500, "", ""), ok()]).await;
    let settings = office(vec![channel("hook", webhook_to(&dir, sink.port), hasty())]);
    let (post, running) =
        open(settings.clone(), State::default(), world(Net::new(None)).0).unwrap();
    post.observe(&[alert("web")]);
    post.observe(&[alert("web")]);
    sink.wait(2, Duration::from_secs(15)).await;
    until("it is counted", Duration::from_secs(5), || {
        post.tallies()["hook"].0.delivered == 1
    })
    .await;
    let (tally, waiting) = post.tallies()["hook"];
    assert_eq!((tally.delivered, tally.failures, waiting), (1, 1, 0));
    let stored = serde_json::to_string(&*post.state().borrow()).unwrap();
    let state = running.stop(Duration::from_secs(5)).await;
    assert_eq!(
        serde_json::from_str::<State>(&stored).unwrap(),
        state,
        "what was published is what is"
    );
    // After a restart: nothing new about it, then its end.
    let (post, running) = open(
        settings,
        serde_json::from_str(&stored).unwrap(),
        world(Net::new(None)).0,
    )
    .unwrap();
    post.observe(&[alert("web")]);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(sink.seen().len(), 2);
    post.observe(&[]);
    let seen = sink.wait(3, Duration::from_secs(5)).await;
    let v: Value = serde_json::from_str(&seen[2].body).unwrap();
    assert_eq!(
        (&v["status"], &v["alerts"][0]["status"]),
        (&"resolved".into(), &"resolved".into())
    );
    running.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn one_that_hangs_hinders_nobody_and_stopping_is_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let (hangs, works) = (
        Sink::new(vec![Act::Hang]).await,
        Sink::new(vec![ok()]).await,
    );
    let settings = office(vec![
        channel("hangs", webhook_to(&dir, hangs.port), hasty()),
        channel("works", webhook_to(&dir, works.port), hasty()),
    ]);
    let (post, running) = open(settings, State::default(), world(Net::new(None)).0).unwrap();
    post.observe(&[alert("web")]);
    hangs.wait(1, Duration::from_secs(5)).await;
    // Telling takes no time while a sink hangs.
    for n in 0..200 {
        let begun = Instant::now();
        post.observe(&[alert("web"), alert(&format!("c{}", n % 7))]);
        assert!(begun.elapsed() < Duration::from_millis(200));
    }
    works.wait(2, Duration::from_secs(5)).await;
    let begun = Instant::now();
    let state = running.stop(Duration::from_secs(1)).await;
    assert!(begun.elapsed() < Duration::from_secs(3));
    // What the one that hangs never took is still to be told.
    let mut plan = Plan::new([("hangs".to_owned(), hasty())].into(), state);
    assert!(matches!(plan.next("hangs", now()), Next::Send(_)));
}

#[tokio::test]
async fn what_is_refused_goes_to_the_fallback() {
    let dir = tempfile::tempdir().unwrap();
    let (bad, good) = (
        Sink::new(vec![answer(
            400,
            "",
            "{\"ok\":false,\"description\":\"chat not found\"}",
        )])
        .await,
        Sink::new(vec![ok()]).await,
    );
    let settings = office(vec![
        channel(
            "chat",
            telegram_to(&dir, bad.port),
            Rules {
                fallback: Some("hook".into()),
                ..hasty()
            },
        ),
        channel(
            "hook",
            webhook_to(&dir, good.port),
            Rules {
                min_severity: Severity::Critical,
                ..hasty()
            },
        ),
    ]);
    let (post, running) = open(settings, State::default(), world(Net::new(None)).0).unwrap();
    let warning =
        keepwatch_notify::alert::Alert::new("Slow", Severity::Warning, now()).summary("it is slow");
    post.observe(&[warning]);
    let seen = good.wait(1, Duration::from_secs(10)).await;
    assert!(
        seen[0].body.contains("chat could not deliver: it is slow"),
        "{}",
        seen[0].body
    );
    until("it is counted", Duration::from_secs(5), || {
        post.tallies()["chat"].0.undeliverable == 1
    })
    .await;
    running.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_notice_is_told_on_every_channel() {
    let dir = tempfile::tempdir().unwrap();
    let sink = Sink::new(vec![ok()]).await;
    let (post, running) = open(
        office(vec![channel("hook", webhook_to(&dir, sink.port), hasty())]),
        State::default(),
        world(Net::new(None)).0,
    )
    .unwrap();
    post.notice(&alert("restarted"));
    let seen = sink.wait(1, Duration::from_secs(5)).await;
    assert!(seen[0].body.contains("\"kind\":\"notice\""));
    running.stop(Duration::from_secs(5)).await;
    assert_eq!(sink.seen().len(), 1);
}

#[tokio::test]
async fn the_dead_man_switch_is_reached_only_while_we_are_well() {
    let dir = tempfile::tempdir().unwrap();
    let sink = Sink::new(vec![ok(), answer(500, "", "")]).await;
    let d = deadman::Settings {
        url_file: secret(
            &dir,
            "ping",
            &format!("http://127.0.0.1:{}{PATH}", sink.port),
        ),
        interval: Duration::from_secs(5),
        plain_http: false,
    };
    let settings = Settings {
        deadman: Some(d),
        ..office(vec![])
    };
    let (w, alive) = world(Net::new(None));
    let (post, running) = open(settings.clone(), State::default(), w).unwrap();
    let seen = sink.wait(1, Duration::from_secs(3)).await;
    assert!(seen[0].head.starts_with(&format!("GET {PATH} HTTP/1.1")));
    until("it is counted", Duration::from_secs(3), || {
        post.deadman().successes == 1
    })
    .await;
    assert!(post.deadman().last_success.is_some());
    sink.wait(2, Duration::from_secs(8)).await;
    until("the failure is counted", Duration::from_secs(3), || {
        post.deadman().failures == 1
    })
    .await;
    alive.store(false, Ordering::Relaxed);
    running.stop(Duration::from_secs(1)).await;
    let (w, alive) = world(Net::new(None));
    alive.store(false, Ordering::Relaxed);
    let (_, running) = open(settings, State::default(), w).unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(sink.seen().len(), 2, "not while we are not well");
    running.stop(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn certificates_are_looked_at() {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use std::sync::Arc;
    use tokio::io::AsyncWriteExt as _;
    let dir = tempfile::tempdir().unwrap();
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(vec![]).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(ca, ca_key);
    let ca_file = dir.path().join("ca.pem");
    std::fs::write(&ca_file, ca_pem).unwrap();
    let serve = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(vec![name.to_owned()])
            .unwrap()
            .signed_by(&key, &issuer)
            .unwrap();
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(
            rustls::crypto::ring::default_provider(),
        ))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![cert.der().clone()],
            rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
        tokio_rustls::TlsAcceptor::from(Arc::new(config))
    };
    for (name, trusted, says) in [
        ("localhost", true, ""),
        ("localhost", false, "nobody whom this host trusts"),
        ("canary.example.org", true, "for another name"),
    ] {
        let acceptor = serve(name);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (s, _) = listener.accept().await.unwrap();
            if let Ok(mut s) = acceptor.accept(s).await {
                read_request(&mut s).await;
                let _ = s.write_all(b"HTTP/1.1 204 X\r\n\r\n").await;
                let _ = s.shutdown().await;
            }
        });
        let medium = Medium::Webhook(webhook::Settings {
            url_file: secret(&dir, "https", &format!("https://localhost:{port}{PATH}")),
            token_file: None,
            key_file: None,
            plain_http: false,
        });
        let other = dir.path().join("other.pem");
        if !trusted {
            let key = KeyPair::generate().unwrap();
            std::fs::write(
                &other,
                CertificateParams::new(vec!["x".into()])
                    .unwrap()
                    .self_signed(&key)
                    .unwrap()
                    .pem(),
            )
            .unwrap();
        }
        let net = Net::new(Some(if trusted { ca_file.clone() } else { other }));
        let sent = medium.send(&net, "h", &message(), now()).await;
        match says {
            "" => sent.unwrap(),
            says => {
                let text = sent.unwrap_err().to_string();
                assert!(
                    text.contains(says) && !text.contains("canary") && !text.contains("localhost"),
                    "{text}"
                );
            }
        }
        server.abort();
    }
}

/// OpenSSL says what the signature must be.
#[tokio::test]
async fn signed_and_silent() {
    let dir = tempfile::tempdir().unwrap();
    let sink = Sink::new(vec![ok()]).await;
    let Medium::Webhook(hook) = webhook_to(&dir, sink.port) else {
        panic!()
    };
    let Medium::Telegram(bot) = telegram_to(&dir, sink.port) else {
        panic!()
    };
    let signed = Medium::Webhook(webhook::Settings {
        key_file: Some(secret(&dir, "key", "a key that is a canary\n")),
        ..hook
    });
    let silent = Medium::Telegram(telegram::Settings {
        silent: true,
        ..bot
    });
    let sent = now();
    for medium in [&signed, &silent] {
        medium
            .send(&Net::new(None), "h", &message(), sent)
            .await
            .unwrap();
    }
    let [hook, bot] = &sink.seen()[..] else {
        panic!()
    };
    let body = dir.path().join("body");
    std::fs::write(&body, &hook.body).unwrap();
    let said = std::process::Command::new("openssl")
        .args(["dgst", "-sha256", "-hmac", "a key that is a canary"])
        .arg(&body)
        .output()
        .unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    let (_, expected) = said.trim().rsplit_once(' ').unwrap();
    assert_eq!(
        hook.header("keepwatch-signature").unwrap(),
        format!("sha256={expected}")
    );
    let v: Value = serde_json::from_str(&hook.body).unwrap();
    assert_eq!(v["sentAt"], sent.rfc3339());
    let v: Value = serde_json::from_str(&bot.body).unwrap();
    assert_eq!(v["disable_notification"], true);
}

#[test]
fn settings_are_checked_before_anything_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let hook = |name: &str, fallback: Option<&str>| {
        channel(
            name,
            webhook_to(&dir, 1),
            Rules {
                fallback: fallback.map(Into::into),
                ..hasty()
            },
        )
    };
    assert_eq!(
        office(vec![hook("a", Some("b")), hook("b", None)]).check(),
        Ok(())
    );
    for (settings, why) in [
        (office(vec![hook("a", Some("a"))]), "no other channel"),
        (office(vec![hook("a", Some("z"))]), "no other channel"),
        (
            office(vec![hook("a", None), hook("a", None)]),
            "two channels",
        ),
        (office(vec![hook("a b", None)]), "no name"),
        (
            office(vec![channel(
                "t",
                Medium::Telegram(telegram::Settings {
                    token_file: secret(&dir, "t", "x"),
                    chat_id: "chat".into(),
                    thread_id: None,
                    api: None,
                    silent: false,
                }),
                hasty(),
            )]),
            "no Telegram chat",
        ),
        (
            office(vec![channel(
                "t",
                Medium::Telegram(telegram::Settings {
                    token_file: secret(&dir, "t", "x"),
                    chat_id: "1".into(),
                    thread_id: None,
                    api: Some("http://example.org".into()),
                    silent: false,
                }),
                hasty(),
            )]),
            "without TLS",
        ),
    ] {
        let e = settings.check().unwrap_err();
        assert!(e.contains(why), "{e}");
    }
    // As it stands in a file.
    let rules: Rules =
        serde_json::from_str("{\"repeat\": \"2h\", \"min_severity\": \"critical\"}").unwrap();
    assert_eq!(
        (rules.repeat, rules.min_severity, rules.wait),
        (
            Duration::from_secs(7200),
            Severity::Critical,
            Duration::from_secs(10)
        )
    );
    assert!(serde_json::from_str::<Rules>("{\"repeats\": \"2h\"}").is_err());
}

//! Debian's Alertmanager takes our alerts, keeps them while they are repeated, and ends them; and one that is down is asked again.

mod common;

use std::process::Stdio;
use std::time::Duration;

use common::*;
use keepwatch_model::check::Severity;
use keepwatch_notify::alert::Alert;
use keepwatch_notify::http::Net;
use keepwatch_notify::medium::alertmanager;
use keepwatch_notify::plan::State;
use keepwatch_notify::post::{Settings, open};
use keepwatch_notify::push::Push;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn pushing(urls: Vec<String>) -> Settings {
    Settings {
        host: "h1".into(),
        alertmanager: Some(alertmanager::Settings {
            urls,
            token_file: None,
            basic: None,
            resend: Duration::from_secs(5),
            min_severity: Severity::Info,
        }),
        ..Settings::default()
    }
}

async fn get(port: u16, path: &str) -> Option<Value> {
    let mut s = tokio::net::TcpStream::connect(("127.0.0.1", port))
        .await
        .ok()?;
    s.write_all(format!("GET {path} HTTP/1.0\r\nHost: x\r\n\r\n").as_bytes())
        .await
        .ok()?;
    let mut out = String::new();
    s.read_to_string(&mut out).await.ok()?;
    serde_json::from_str(out.split_once("\r\n\r\n")?.1).ok()
}

async fn names(port: u16) -> Option<Vec<String>> {
    let mut all: Vec<String> = get(port, "/api/v2/alerts")
        .await?
        .as_array()?
        .iter()
        .map(|a| a["labels"]["check"].as_str().unwrap_or_default().to_owned())
        .collect();
    all.sort();
    Some(all)
}

async fn wait_for(port: u16, what: &[&str], within: Duration) {
    let end = tokio::time::Instant::now() + within;
    loop {
        let now = names(port).await;
        if now.as_ref().is_some_and(|n| n == what) {
            return;
        }
        assert!(
            tokio::time::Instant::now() < end,
            "{now:?} instead of {what:?}"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// Debian's Alertmanager; none where it is not installed, which is an error in CI.
fn start(dir: &std::path::Path, port: u16, more: &[String]) -> Option<tokio::process::Child> {
    std::fs::write(
        dir.join("c.yml"),
        "route:\n  receiver: none\nreceivers:\n  - name: none\n",
    )
    .unwrap();
    let start = |name: &str| {
        tokio::process::Command::new(name)
            .arg(format!("--config.file={}", dir.join("c.yml").display()))
            .arg(format!("--storage.path={}", dir.join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--cluster.listen-address=")
            .args(more)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
    };
    // As Debian calls it, and as everybody else does.
    match start("prometheus-alertmanager").or_else(|_| start("alertmanager")) {
        Ok(child) => Some(child),
        Err(e) => {
            assert!(
                std::env::var_os("CI").is_none(),
                "Alertmanager is missing in CI: {e}"
            );
            eprintln!(
                "SKIPPED: Alertmanager cannot be started ({e}); install Debian's prometheus-alertmanager"
            );
            None
        }
    }
}

/// The hash of the documentation of Prometheus' exporter-toolkit, for the password `test`.
const BCRYPT: &str = "$2b$12$hNf2lSsxfm0.i4a.1kVpSOVyBCfIB51VRjgBUyv6kdnyTlgWj81Ay";

#[tokio::test]
async fn a_real_alertmanager_asks_who_we_are() {
    let dir = tempfile::tempdir().unwrap();
    let (web, port) = (dir.path().join("web.yml"), free_port());
    std::fs::write(&web, format!("basic_auth_users:\n  we: {BCRYPT}\n")).unwrap();
    let more = [format!("--web.config.file={}", web.display())];
    let Some(_child) = start(dir.path(), port, &more) else {
        return;
    };
    let mut push = Push::new(Duration::from_secs(60), Severity::Info);
    push.observe(now(), &[alert("web")]);
    let batch = push.batches(now()).remove(0);
    let url = format!("http://127.0.0.1:{port}");
    let settings = |user: &str, password: &str| {
        let mut s = pushing(vec![url.clone()]).alertmanager.unwrap();
        s.basic = Some((user.into(), secret(&dir, "password", password)));
        s
    };
    let end = tokio::time::Instant::now() + Duration::from_secs(30);
    let net = Net::new(None);
    let good = settings("we", "test\n");
    while let Err(e) = alertmanager::post(&good, &net, &url, &batch).await {
        assert!(tokio::time::Instant::now() < end, "{e}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for (user, password) in [("we", "canary"), ("they", "test")] {
        let s = settings(user, password);
        let e = alertmanager::post(&s, &net, &url, &batch)
            .await
            .unwrap_err();
        assert!(
            e.to_string().contains("401") && !e.to_string().contains("canary"),
            "{e}"
        );
    }
    let mut both = settings("we", "test");
    both.token_file = Some(secret(&dir, "token", "x"));
    assert!(alertmanager::check(&both).is_err());
    assert!(alertmanager::check(&settings("a:b", "x")).is_err());
}

#[tokio::test]
async fn a_real_alertmanager_takes_and_ends_alerts() {
    let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
    let Some(mut child) = start(dir.path(), port, &[]) else {
        return;
    };
    let end = tokio::time::Instant::now() + Duration::from_secs(30);
    while names(port).await.is_none() {
        assert!(
            tokio::time::Instant::now() < end,
            "Alertmanager does not come up"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (post, running) = open(
        pushing(vec![format!("http://127.0.0.1:{port}/")]),
        State::default(),
        world(Net::new(None)).0,
    )
    .unwrap();
    let hostile = Alert::new("Hostile\n{{ .Labels }}", Severity::Info, now())
        .label("check", "<b>\"\\'\u{202e}")
        .summary(&"ü\r\n".repeat(9000));
    post.observe(&[alert("web"), alert("db"), hostile.clone()]);
    wait_for(port, &["<b>\"\\'", "db", "web"], Duration::from_secs(10)).await;
    let all = get(port, "/api/v2/alerts").await.unwrap();
    let web = all
        .as_array()
        .unwrap()
        .iter()
        .find(|a| a["labels"]["check"] == "web")
        .unwrap();
    assert_eq!(web["annotations"]["summary"], "web is down");
    assert_eq!(web["labels"]["severity"], "critical");
    assert_eq!(web["status"]["state"], "active");
    // Resolved with its real end.
    post.observe(&[alert("db"), hostile]);
    wait_for(port, &["<b>\"\\'", "db"], Duration::from_secs(10)).await;
    // Repeated before it ends by itself: its end moves on.
    let ends = |v: &Value| {
        v.as_array()
            .unwrap()
            .iter()
            .find(|a| a["labels"]["check"] == "db")
            .unwrap()["endsAt"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let before = ends(&get(port, "/api/v2/alerts").await.unwrap());
    tokio::time::sleep(Duration::from_secs(6)).await;
    let after = ends(&get(port, "/api/v2/alerts").await.unwrap());
    assert!(after > before, "{after} after {before}");
    post.observe(&[]);
    wait_for(port, &[], Duration::from_secs(10)).await;
    assert!(
        post.alertmanager().successes >= 3 && post.alertmanager().failures == 0,
        "{:?}",
        post.alertmanager()
    );
    running.stop(Duration::from_secs(2)).await;
    child.kill().await.unwrap();
}

#[tokio::test]
async fn each_of_several_gets_everything_and_one_that_is_down_is_asked_again() {
    let (bad, good) = (
        Sink::new(vec![answer(503, "", ""), Act::Close, answer(200, "", "")]).await,
        Sink::new(vec![answer(200, "", "")]).await,
    );
    let urls = [&bad, &good]
        .map(|s| format!("http://127.0.0.1:{}", s.port))
        .into();
    let (post, running) = open(pushing(urls), State::default(), world(Net::new(None)).0).unwrap();
    let many: Vec<_> = (0..130).map(|n| alert(&format!("c{n}"))).collect();
    post.observe(&many);
    let seen = good.wait(3, Duration::from_secs(5)).await;
    let count: usize = seen[..3]
        .iter()
        .map(|r| {
            serde_json::from_str::<Value>(&r.body)
                .unwrap()
                .as_array()
                .unwrap()
                .len()
        })
        .sum();
    assert_eq!(count, 130);
    assert!(seen[0].head.starts_with("POST /api/v2/alerts HTTP/1.1"));
    until(
        "the other one is asked again",
        Duration::from_secs(25),
        || bad.seen().len() >= 4,
    )
    .await;
    assert!(post.alertmanager().failures >= 2);
    running.stop(Duration::from_secs(2)).await;
}

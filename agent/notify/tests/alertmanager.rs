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
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn pushing(urls: Vec<String>) -> Settings {
    Settings {
        host: "h1".into(),
        alertmanager: Some(alertmanager::Settings {
            urls,
            token_file: None,
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

#[tokio::test]
async fn a_real_alertmanager_takes_and_ends_alerts() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("c.yml"),
        "route:\n  receiver: none\nreceivers:\n  - name: none\n",
    )
    .unwrap();
    let port = free_port();
    let child = tokio::process::Command::new("prometheus-alertmanager")
        .arg(format!(
            "--config.file={}",
            dir.path().join("c.yml").display()
        ))
        .arg(format!(
            "--storage.path={}",
            dir.path().join("data").display()
        ))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .arg("--cluster.listen-address=")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(e) => {
            assert!(
                std::env::var_os("CI").is_none(),
                "Alertmanager is missing in CI: {e}"
            );
            eprintln!(
                "SKIPPED: Alertmanager cannot be started ({e}); install Debian's prometheus-alertmanager"
            );
            return;
        }
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

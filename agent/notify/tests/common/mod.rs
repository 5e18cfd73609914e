//! What the tests of deliveries share: HTTP sinks that answer from a script, a clock, and a world for the post office.
#![allow(dead_code)] // each test file uses a part

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use keepwatch_model::check::Severity;
use keepwatch_notify::alert::Alert;
use keepwatch_notify::http::Net;
use keepwatch_notify::plan::Rules;
use keepwatch_notify::post::World;
use keepwatch_notify::secret::SecretFile;
use keepwatch_notify::time::{At, Clock};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub struct RealClock;

impl Clock for RealClock {
    fn wall(&self) -> At {
        At(SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_millis() as i64)
    }
}

pub fn now() -> At {
    RealClock.wall()
}

pub fn world(net: Net) -> (World, Arc<AtomicBool>) {
    let alive = Arc::new(AtomicBool::new(true));
    let seen = Arc::clone(&alive);
    let world = World {
        clock: Arc::new(RealClock),
        random: Arc::new(|| 0.5),
        alive: Arc::new(move || seen.load(Ordering::Relaxed)),
        net,
    };
    (world, alive)
}

/// Tells at once.
pub fn hasty() -> Rules {
    Rules {
        wait: Duration::ZERO,
        interval: Duration::ZERO,
        cooldown: Duration::ZERO,
        ..Rules::default()
    }
}

pub fn alert(check: &str) -> Alert {
    Alert::new("KeepwatchCheckDown", Severity::Critical, now())
        .label("check", check)
        .label("instance", "h1")
        .summary(&format!("{check} is down"))
        .description("It does <not> answer & \"more\".")
}

/// A secret in a file of its own.
pub fn secret(dir: &tempfile::TempDir, name: &str, text: &str) -> SecretFile {
    let path: PathBuf = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    SecretFile(path)
}

/// What a sink does with a request.
#[derive(Clone)]
pub enum Act {
    /// Sends these bytes and closes.
    Say(Vec<u8>),
    /// Reads the request and says nothing.
    Hang,
    /// Closes before reading.
    Close,
    /// Closes after reading.
    Drop,
}

/// An answer with a JSON body.
pub fn answer(status: u16, headers: &str, body: &str) -> Act {
    Act::Say(
        format!(
            "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n{headers}\r\n{body}",
            body.len()
        )
        .into_bytes(),
    )
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    pub head: String,
    pub body: String,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|l| {
            let (n, v) = l.split_once(':')?;
            n.eq_ignore_ascii_case(name).then(|| v.trim())
        })
    }
}

/// An HTTP sink: one act for each connection, the last for all that follow.
pub struct Sink {
    pub port: u16,
    pub requests: Arc<Mutex<Vec<Request>>>,
    task: JoinHandle<()>,
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub async fn read_request<S: tokio::io::AsyncRead + Unpin>(s: &mut S) -> Option<Request> {
    let mut bytes = Vec::new();
    let mut buf = [0; 65536];
    loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let request = Request {
                head,
                body: String::new(),
            };
            let length: usize = request
                .header("content-length")
                .and_then(|n| n.parse().ok())
                .unwrap_or(0);
            if bytes.len() >= end + 4 + length {
                return Some(Request {
                    body: String::from_utf8_lossy(&bytes[end + 4..]).into_owned(),
                    ..request
                });
            }
        }
        let n = s.read(&mut buf).await.ok()?;
        if n == 0 {
            return None;
        }
        bytes.extend_from_slice(&buf[..n]);
    }
}

impl Sink {
    pub async fn new(acts: Vec<Act>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let seen = Arc::clone(&requests);
        let task = tokio::spawn(async move {
            let mut n = 0;
            loop {
                let Ok((mut s, _)) = listener.accept().await else {
                    return;
                };
                let act = acts[n.min(acts.len() - 1)].clone();
                n += 1;
                let seen = Arc::clone(&seen);
                tokio::spawn(async move {
                    if matches!(act, Act::Close) {
                        return;
                    }
                    if let Some(r) = read_request(&mut s).await {
                        seen.lock().unwrap().push(r);
                    }
                    match act {
                        Act::Say(bytes) => {
                            let _ = s.write_all(&bytes).await;
                            let _ = s.shutdown().await;
                        }
                        Act::Hang => tokio::time::sleep(Duration::from_secs(600)).await,
                        Act::Close | Act::Drop => {}
                    }
                });
            }
        });
        Self {
            port,
            requests,
            task,
        }
    }

    pub fn seen(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// Waits until so many requests came.
    pub async fn wait(&self, count: usize, within: Duration) -> Vec<Request> {
        let until = tokio::time::Instant::now() + within;
        loop {
            let seen = self.seen();
            if seen.len() >= count {
                return seen;
            }
            assert!(
                tokio::time::Instant::now() < until,
                "{} of {count} requests came",
                seen.len()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Waits until something is so.
pub async fn until(what: &str, within: Duration, mut so: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + within;
    while !so() {
        assert!(
            tokio::time::Instant::now() < end,
            "{what} within {within:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

//! What the tests of the endpoint share: a clock that is set by hand, facts of a busy host, a server on loopback, and a client
//! that speaks raw bytes.
#![allow(dead_code)] // each test file uses a part

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keepwatch_expose::counters::Counters;
use keepwatch_expose::facts::*;
use keepwatch_expose::limits::Limits;
use keepwatch_expose::server::{Listen, Order, Server, Settings};
use keepwatch_model::check::{CheckKind, Reason, Severity, State};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub const NOW: i64 = 1_760_000_000_000;

/// Monotonic time by hand (or real, from when it was made), the wall standing still.
pub struct TestClock {
    by_hand: AtomicU64,
    real: Option<std::time::Instant>,
    pub wall: Mutex<At>,
}

impl TestClock {
    pub fn by_hand(at: Duration) -> Arc<Self> {
        Arc::new(Self {
            by_hand: AtomicU64::new(at.as_millis() as u64),
            real: None,
            wall: Mutex::new(At(NOW)),
        })
    }
    pub fn real() -> Arc<Self> {
        Arc::new(Self {
            by_hand: AtomicU64::new(1_000_000),
            real: Some(std::time::Instant::now()),
            wall: Mutex::new(At(NOW)),
        })
    }
    pub fn set(&self, at: Duration) {
        self.by_hand.store(at.as_millis() as u64, Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.by_hand.load(Ordering::Relaxed))
            + self.real.map_or(Duration::ZERO, |t| t.elapsed())
    }
    fn wall(&self) -> At {
        *self.wall.lock().unwrap()
    }
}

pub fn check(name: &str, kind: CheckKind, severity: Severity, state: State) -> Check {
    let mut c = Check::new(
        name.parse().unwrap(),
        kind,
        severity,
        Duration::from_secs(30),
        Duration::from_secs(10),
    );
    c.state = state;
    c.since = Some(At(NOW - 60_000));
    c.last_run = Some(At(NOW - 1000));
    c.last_success = Some(At(NOW - 2000));
    c.last_result = Some(state.is_up());
    c.last_duration = Some(Duration::from_micros(12_345));
    c.runs = 123_456;
    c.changes = 3;
    c.failures.insert(Reason::Timeout, 7);
    if !state.is_up() {
        c.reason = Some(Reason::Status);
        c.text = "it answers 500: secret-text-of-a-service".into();
        c.failures_in_row = 4;
    }
    c
}

/// Started, well, with nothing to watch.
pub fn idle() -> Facts {
    let mut f = Facts::default();
    f.host.name = "h1".into();
    let a = &mut f.agent;
    a.version = "1.2.3".into();
    a.revision = "abcdef".into();
    a.features = "s3,sqlite".into();
    a.tick = Duration::from_secs(1000);
    a.tick_at = At(NOW);
    a.started = Duration::from_secs(900);
    a.config_loaded = true;
    a.reload_ok = true;
    a.reloaded = Some(At(NOW));
    a.database_ready = true;
    a.database_writable = true;
    f
}

/// A host with `n` checks of all kinds, 20 units, 10 backups, 3 repositories, everything that has a value set.
pub fn busy(n: usize) -> Facts {
    let mut f = idle();
    for i in 0..n {
        let kind = CheckKind::ALL[i % CheckKind::ALL.len()];
        let mut c = check(
            &format!("check-with-a-usual-name-{i}"),
            kind,
            Severity::ALL[i % 3],
            State::ALL[1 + i % 3],
        );
        c.unit = format!("unit-{i}.service");
        c.group = "web".into();
        c.skipped.insert(Skipped::Overrun, 1);
        match kind {
            CheckKind::Http => {
                c.depth.insert(Depth::HttpStatus, 200.0);
                c.tls_not_after = Some(At(NOW + 1_000_000));
            }
            CheckKind::Qdrant => {
                c.depth.insert(Depth::QdrantCollections, 3.0);
                c.depth.insert(Depth::QdrantPoints, 1e6);
            }
            CheckKind::Ollama => {
                c.depth.insert(Depth::OllamaModels, 2.0);
            }
            CheckKind::Sqlite => {
                c.depth.insert(Depth::SqliteIntegrityOk, 1.0);
            }
            CheckKind::Postgresql => {
                c.depth.insert(Depth::PostgresqlConnections, 12.0);
                c.depth.insert(Depth::PostgresqlConnectionsMax, 100.0);
            }
            CheckKind::Disk => {
                for mount in ["/", "/var", "/home"] {
                    c.disks.push(Disk {
                        mountpoint: mount.into(),
                        available: 5 << 30,
                        size: 100 << 30,
                        inodes_free: 1000,
                        inodes: 10_000,
                    });
                }
            }
            _ => {}
        }
        f.checks.push(c);
    }
    for i in 0..20 {
        f.units.push(Unit {
            name: format!("unit-{i}.service"),
            restarts: 3,
            failures: [("failed".to_owned(), 1), ("timeout".to_owned(), 2)].into(),
            suppressed: [("cooldown".to_owned(), 5), ("budget".to_owned(), 1)].into(),
            attempts: 2,
            max_attempts: 3,
            gave_up: i == 0,
            in_progress: false,
            last_restart: Some(At(NOW - 5000)),
            allowed: Some(At(NOW + 5000)),
            last_result: Some("done".into()),
        });
    }
    for i in 0..10 {
        f.backups.push(Backup {
            name: format!("backup-{i}"),
            repository: format!("repository-{}", i % 3),
            source_kind: "files".into(),
            schedule: "daily".into(),
            first_seen: Some(At(NOW - 9_000_000_000)),
            interval: Some(Duration::from_secs(86_400)),
            last_start: Some(At(NOW - 5_000_000)),
            last_completion: Some(At(NOW - 4_000_000)),
            last_success: Some(At(NOW - 4_000_000)),
            last_successful: Some(true),
            running: false,
            last_duration: Some(Duration::from_secs(1000)),
            stages: [
                (Stage::Scan, Duration::from_secs(10)),
                (Stage::Upload, Duration::from_secs(900)),
            ]
            .into(),
            expected_duration: Some(Duration::from_secs(900)),
            expected_source_size: Some(1 << 40),
            expected_added_size: Some(1 << 30),
            last_source_size: Some(1 << 40),
            last_added_size: Some(1 << 30),
            last_files: Some(1_000_000),
            last_source_errors: Some(0),
            runs: 300,
            failures: [(BackupReason::Space, 2)].into(),
            snapshots: Some(23),
            oldest_snapshot: Some(At(NOW - 9_000_000_000)),
            newest_snapshot: Some(At(NOW - 4_000_000)),
            retention: Retention {
                last_success: Some(At(NOW)),
                overdue: Some(0),
                minimum: Some(7),
                removed: Some(200),
            },
            drill: Some(Drill {
                last_success: Some(At(NOW - 600_000_000)),
                last_completion: Some(At(NOW - 600_000_000)),
                last_successful: Some(true),
                last_duration: Some(Duration::from_secs(600)),
                objective: Some(Duration::from_secs(3600)),
                interval: Some(Duration::from_secs(604_800)),
                restored_size: Some(1 << 40),
                runs: 9,
                failures: 1,
            }),
        });
    }
    for i in 0..3 {
        f.repositories.push(Repository {
            name: format!("repository-{i}"),
            reachable: Some(true),
            first_seen: Some(At(1)),
            size: Some(1 << 40),
            available: Some(1 << 41),
            capacity: Some(1 << 42),
            locks: Some(0),
            stale_locks: Some(0),
            requests: ["get", "put", "list", "head", "delete"]
                .map(|o| (o.to_owned(), 10))
                .into(),
            request_errors: ["timeout", "auth", "server"]
                .map(|o| (o.to_owned(), 1))
                .into(),
            sent: Some(1 << 40),
            received: Some(1 << 30),
            verification: Verification {
                last_success: Some(At(NOW)),
                last_completion: Some(At(NOW)),
                last_successful: Some(true),
                last_duration: Some(Duration::from_secs(60)),
                interval: Some(Duration::from_secs(604_800)),
                checked: Some(1 << 42),
                errors: [("missing".to_owned(), 0)].into(),
            },
            // The last has none.
            wal: (i..2)
                .map(|n| Wal {
                    cluster: format!("731234567890123456{n}"),
                    recoverable: n == 0,
                    gaps: n,
                    segments_missing: 7 * n,
                    base_backups: 2,
                    newest_segment: Some(At(NOW)),
                    newest_base_backup: Some(At(NOW)),
                    oldest_recovery: (n == 0).then_some(At(1)),
                })
                .collect(),
        });
    }
    f.host.memory_available = Some(4 << 30);
    f.host.memory_size = Some(16 << 30);
    f.host.load1 = Some(0.7);
    f.host.processors = Some(4);
    f.host.pressure = ["cpu", "io", "memory"]
        .map(|r| (r, Duration::from_secs(99)))
        .into();
    f.host.pressure_now = [("cpu", 0.1), ("memory", 0.0)].into();
    f.windows.push(Window {
        name: "nightly".into(),
        active: false,
        since: None,
        until: None,
    });
    f.keys.push(Key {
        name: "k1".into(),
        purpose: "writer".into(),
        not_after: Some(At(NOW + 1)),
        last_verified: None,
    });
    f.keys.push(Key {
        name: "paper".into(),
        purpose: "recovery".into(),
        not_after: None,
        last_verified: Some(At(NOW)),
    });
    f.alerts.push(Alert {
        name: "KeepwatchCheckDown".into(),
        severity: Severity::Critical,
        subject: "web".into(),
        text: "down".into(),
        since: At(NOW),
    });
    let a = &mut f.agent;
    a.score = Some(0.875);
    a.checks_running = 2;
    a.database_size = Some(1 << 20);
    a.collectors = ["catalog", "systemd", "host"]
        .map(|n| Collector {
            name: n.into(),
            success: true,
            duration: Duration::from_millis(5),
        })
        .into();
    a.history_dropped = [("catalog".to_owned(), 0), ("journal".to_owned(), 1)].into();
    a.heartbeat = Some(Heartbeat {
        last_success: Some(At(NOW)),
        interval: Duration::from_secs(60),
        failures: 0,
    });
    a.channels = ["telegram", "mail"]
        .map(|n| Channel {
            name: n.into(),
            delivered: 5,
            failures: 1,
            undeliverable: 0,
            queued: 1,
        })
        .into();
    a.process = Some(keepwatch_expose::process::sample());
    f
}

/// A running server.
pub struct Served {
    pub address: SocketAddr,
    pub facts: watch::Sender<Arc<Facts>>,
    pub orders: watch::Sender<Order>,
    pub counters: Arc<Counters>,
    pub task: JoinHandle<()>,
}

pub fn settings(limits: Limits) -> Settings {
    Settings {
        listen: vec![Listen::Tcp((Ipv4Addr::LOCALHOST, 0).into())],
        token_file: None,
        legacy_names: false,
        limits,
        beat: tokio::time::Instant::now(),
    }
}

pub fn start(settings: Settings, facts: Facts, clock: Arc<TestClock>) -> Served {
    let counters = Arc::new(Counters::new(settings.legacy_names).unwrap());
    let (facts, receiver) = watch::channel(Arc::new(facts));
    let (orders, order) = watch::channel(Order::Serve);
    let server = Server::bind(settings, receiver, clock, Arc::clone(&counters)).unwrap();
    let address = server
        .addresses()
        .first()
        .copied()
        .unwrap_or((Ipv4Addr::LOCALHOST, 0).into());
    Served {
        address,
        facts,
        orders,
        counters,
        task: tokio::spawn(server.run(order)),
    }
}

impl Served {
    pub async fn stop(self) {
        self.orders.send(Order::Stop).unwrap();
        tokio::time::timeout(Duration::from_secs(20), self.task)
            .await
            .expect("the server stops")
            .unwrap();
    }
}

/// A connection from another address of this host, so that it counts as another client.
pub async fn connect_from(from: Ipv4Addr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    socket.connect(to).await
}

/// Sends bytes and reads until the server closes. The whole takes at most 20 s.
pub async fn raw(to: SocketAddr, bytes: &[u8]) -> String {
    let run = async {
        let mut s = TcpStream::connect(to).await.unwrap();
        // The server may close while we write; what it said is what matters.
        let _ = s.write_all(bytes).await;
        let mut out = Vec::new();
        let mut buf = [0; 65536];
        loop {
            match s.read(&mut buf).await {
                Ok(0) | Err(_) => break,
                Ok(n) => out.extend_from_slice(&buf[..n]),
            }
        }
        String::from_utf8_lossy(&out).into_owned()
    };
    tokio::time::timeout(Duration::from_secs(20), run)
        .await
        .expect("the server answers or closes")
}

/// A GET on a connection of its own: status, headers, body.
pub async fn get(to: SocketAddr, path: &str, more: &str) -> (u16, String, String) {
    split(
        &raw(
            to,
            format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}\r\n").as_bytes(),
        )
        .await,
    )
}

pub fn split(answer: &str) -> (u16, String, String) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|s| s.parse().ok())
        .unwrap_or(0);
    (status, head.to_ascii_lowercase(), body.to_owned())
}

/// Reads one answer of a connection that stays open.
pub async fn one_answer(s: &mut TcpStream) -> (u16, String) {
    let run = async {
        let mut out = Vec::new();
        let mut buf = [0; 4096];
        loop {
            if let Some(end) = out.windows(4).position(|w| w == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&out[..end]).to_ascii_lowercase();
                let length: usize = head
                    .lines()
                    .find_map(|l| l.strip_prefix("content-length: "))
                    .and_then(|n| n.trim().parse().ok())
                    .unwrap_or(0);
                if out.len() >= end + 4 + length {
                    assert_eq!(out.len(), end + 4 + length, "more than one answer came");
                    return (
                        split(&head).0,
                        String::from_utf8_lossy(&out[end + 4..]).into_owned(),
                    );
                }
            }
            let n = s.read(&mut buf).await.unwrap();
            assert!(n > 0, "closed after {:?}", String::from_utf8_lossy(&out));
            out.extend_from_slice(&buf[..n]);
        }
    };
    tokio::time::timeout(Duration::from_secs(20), run)
        .await
        .expect("an answer comes")
}

//! How long answers take while many ask: 50 kept connections, each one question after the other, of which one in ten is for
//! `/metrics` of a host with 50 checks. Prints p50, p99 and the worst,
//! and what a thousand attackers cost in memory. Run by hand: `cargo bench -p keepwatch-expose`.

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use common::*;
use keepwatch_expose::limits::Limits;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const CONNECTIONS: usize = 50;
const EACH: usize = 400;

async fn ask(s: &mut TcpStream, path: &str) -> Duration {
    let begun = Instant::now();
    s.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut out = Vec::new();
    let mut buf = vec![0; 64 << 10];
    loop {
        let n = s.read(&mut buf).await.unwrap();
        assert!(n > 0, "closed");
        out.extend_from_slice(&buf[..n]);
        let Some(end) = out.windows(4).position(|w| w == b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8_lossy(&out[..end]).to_ascii_lowercase();
        let length = head
            .lines()
            .find_map(|l| l.strip_prefix("content-length: "))
            .map_or(0, |n| n.parse().unwrap());
        if out.len() >= end + 4 + length {
            assert!(head.starts_with("http/1.1 200"), "{head}");
            return begun.elapsed();
        }
    }
}

fn say(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!(
        "{what}: {} answers, p50 {:?}, p99 {:?}, worst {:?}",
        times.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let limits = Limits {
            per_minute: u32::MAX,
            burst: u32::MAX,
            ..Limits::default()
        };
        let s = start(settings(limits), busy(50), TestClock::real());
        let address = s.address;
        // Nobody else asks.
        let mut alone = TcpStream::connect(address).await.unwrap();
        let (mut live, mut metrics) = (Vec::new(), Vec::new());
        for _ in 0..2000 {
            live.push(ask(&mut alone, "/health/live").await);
        }
        for _ in 0..300 {
            metrics.push(ask(&mut alone, "/metrics").await);
        }
        say("live alone", live);
        say("metrics alone", metrics);
        let tasks: Vec<_> = (0..CONNECTIONS)
            .map(|n| {
                tokio::spawn(async move {
                    let mut c = TcpStream::connect(address).await.unwrap();
                    let (mut live, mut metrics) = (Vec::new(), Vec::new());
                    for i in 0..EACH {
                        if (i + n) % 10 == 0 {
                            metrics.push(ask(&mut c, "/metrics").await);
                        } else {
                            live.push(ask(&mut c, "/health/live").await);
                        }
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    (live, metrics)
                })
            })
            .collect();
        let (mut live, mut metrics) = (Vec::new(), Vec::new());
        for t in tasks {
            let (l, m) = t.await.unwrap();
            live.extend(l);
            metrics.extend(m);
        }
        say("live among 2,500 questions a second", live);
        say("metrics among them", metrics);
        // What attackers cost: silent ones with as much of a head as is read, from another address.
        let before = keepwatch_expose::process::sample().resident;
        let head = [
            b"GET /metrics HTTP/1.1\r\nHost: x\r\nX: ".to_vec(),
            vec![b'y'; 7000],
        ]
        .concat();
        let mut attackers = Vec::new();
        for _ in 0..1000 {
            let mut c = connect_from([127, 0, 0, 2].into(), address).await.unwrap();
            let _ = c.write_all(&head).await;
            attackers.push(c);
        }
        let after = keepwatch_expose::process::sample().resident;
        println!(
            "1000 attackers: {} KiB more (both ends)",
            after.saturating_sub(before) >> 10
        );
        drop(attackers);
        s.stop().await;
    });
}

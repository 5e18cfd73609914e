//! Attacks over real sockets: slow, many, huge, broken, silent. After and during each, an honest client gets its answer.

mod common;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use common::*;
use keepwatch_expose::limits::Limits;
use keepwatch_expose::server::Order;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const AT: Duration = Duration::from_secs(1000);
const EVIL: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

fn served(limits: Limits) -> Served {
    start(settings(limits), busy(50), TestClock::real_at(AT))
}

trait RealAt {
    fn real_at(at: Duration) -> std::sync::Arc<TestClock>;
}
impl RealAt for TestClock {
    fn real_at(at: Duration) -> std::sync::Arc<TestClock> {
        let c = TestClock::real();
        c.set(at);
        c
    }
}

/// An honest probe: how long it took.
async fn honest(s: &Served) -> Duration {
    let begun = Instant::now();
    let (status, _, body) = get(s.address, "/health/live", "").await;
    assert_eq!(status, 200, "{body}");
    begun.elapsed()
}

/// Whether the server closed (or reset) this connection within the time.
async fn closes(c: &mut TcpStream, within: Duration) -> bool {
    let mut buf = [0; 4096];
    tokio::time::timeout(within, async {
        loop {
            match c.read(&mut buf).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    })
    .await
    .is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_headers_of_500_connections() {
    let s = served(Limits {
        header: Duration::from_secs(2),
        ..Limits::default()
    });
    let mut slow = Vec::new();
    for n in 0..500 {
        // Half of them from the address of the honest client.
        let from = if n % 2 == 0 {
            EVIL
        } else {
            Ipv4Addr::LOCALHOST
        };
        let mut c = connect_from(from, s.address).await.unwrap();
        let _ = c.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n").await;
        slow.push(c);
    }
    let begun = Instant::now();
    for round in 0..6 {
        for c in &mut slow {
            let _ = c.write_all(format!("X-{round}: y\r\n").as_bytes()).await;
        }
        for _ in 0..5 {
            let took = honest(&s).await;
            assert!(took < Duration::from_secs(2), "{took:?} in round {round}");
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    // However busy they looked, the deadline of the headers ended all of them.
    assert!(begun.elapsed() >= Duration::from_secs(3));
    for c in &mut slow {
        assert!(closes(c, Duration::from_secs(2)).await);
    }
    honest(&s).await;
    s.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_silent_connections() {
    let s = served(Limits {
        header: Duration::from_secs(3),
        ..Limits::default()
    });
    let mut open = Vec::new();
    for _ in 0..1000 {
        open.push(connect_from(EVIL, s.address).await.unwrap());
        if open.len() % 100 == 0 {
            assert!(honest(&s).await < Duration::from_secs(2));
        }
    }
    for c in &mut open {
        assert!(
            closes(c, Duration::from_secs(6)).await,
            "half-open connections end"
        );
    }
    honest(&s).await;
    s.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_requests() {
    let limits = Limits {
        per_minute: 600,
        burst: 50,
        ..Limits::default()
    };
    let s = served(limits);
    let address = s.address;
    let begun = Instant::now();
    let flood: Vec<_> = (0..4)
        .map(|_| {
            tokio::spawn(async move {
                let (mut ok, mut refused) = (0u32, 0u32);
                let until = Instant::now() + Duration::from_secs(2);
                while Instant::now() < until {
                    let Ok(mut c) = connect_from(EVIL, address).await else {
                        continue;
                    };
                    let _ = c
                        .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                        .await;
                    let mut out = Vec::new();
                    let _ = c.read_to_end(&mut out).await;
                    match split(&String::from_utf8_lossy(&out)).0 {
                        200 => ok += 1,
                        429 => refused += 1,
                        _ => {}
                    }
                }
                (ok, refused)
            })
        })
        .collect();
    for _ in 0..20 {
        let took = honest(&s).await;
        assert!(took < Duration::from_secs(2), "{took:?}");
        tokio::time::sleep(Duration::from_millis(80)).await;
    }
    let (mut ok, mut refused) = (0, 0);
    for f in flood {
        let (a, b) = f.await.unwrap();
        ok += a;
        refused += b;
    }
    eprintln!("{ok} answered, {refused} refused");
    // The burst, and ten a second for as long as it lasted.
    let most = 51 + begun.elapsed().as_millis() / 100;
    assert!(ok >= 50 && u128::from(ok) <= most, "{ok} of {most}");
    assert!(refused > 50, "{refused}");
    s.stop().await;
}

#[tokio::test]
async fn who_asks_too_often_is_told_when_to_come_back() {
    let s = served(Limits {
        per_minute: 1,
        burst: 2,
        ..Limits::default()
    });
    for _ in 0..2 {
        assert_eq!(get(s.address, "/metrics", "").await.0, 200);
    }
    let (status, head, body) =
        split(&raw(s.address, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await);
    assert_eq!(status, 429, "{body}");
    assert!(head.contains("connection: close"), "{head}");
    let wait: u64 = head
        .lines()
        .find_map(|l| l.strip_prefix("retry-after: "))
        .and_then(|n| n.parse().ok())
        .unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    // Another client is not hindered.
    let mut c = connect_from(EVIL, s.address).await.unwrap();
    c.write_all(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(one_answer(&mut c).await.0, 200);
    s.stop().await;
}

#[tokio::test]
async fn heads_and_bodies_that_are_too_long() {
    let s = served(Limits::default());
    let long = "x".repeat(64 << 10);
    let many = (0..200)
        .map(|n| format!("X-{n}: y\r\n"))
        .collect::<String>();
    let mib = "b".repeat(1 << 20);
    for (what, bytes, status) in [
        ("64 KiB header", format!("GET /health/live HTTP/1.1\r\nHost: x\r\nX: {long}\r\n\r\n"), 431),
        ("200 headers", format!("GET /health/live HTTP/1.1\r\nHost: x\r\n{many}\r\n"), 431),
        ("4 KiB path", format!("GET /health/live?{} HTTP/1.1\r\nHost: x\r\n\r\n", &long[..4096]), 414),
        ("64 KiB path", format!("GET /{long} HTTP/1.1\r\nHost: x\r\n\r\n"), 431),
        ("1 MiB POST", format!("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{mib}", mib.len()), 405),
        ("1 MiB GET", format!("GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{mib}", mib.len()), 413),
        ("chunked GET", "GET /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".into(), 413),
        (
            "length and chunks",
            "GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n".into(),
            413,
        ),
    ] {
        let answer = raw(s.address, bytes.as_bytes()).await;
        assert_eq!(split(&answer).0, status, "{what}: {answer:.200}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{what}: one answer only");
    }
    for method in [
        "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "CONNECT", "FOO",
    ] {
        let target = if method == "CONNECT" {
            "host:80"
        } else {
            "/metrics"
        };
        let answer = raw(
            s.address,
            format!("{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes(),
        )
        .await;
        let (status, head, _) = split(&answer);
        assert_eq!(status, 405, "{method}");
        assert!(head.contains("allow: get, head"), "{head}");
    }
    honest(&s).await;
    s.stop().await;
}

#[tokio::test]
async fn garbage() {
    let s = served(Limits {
        header: Duration::from_secs(1),
        ..Limits::default()
    });
    let noise: Vec<u8> = (0..20_000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    for bytes in [
        &noise[..],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", // a TLS hello
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET\r\n\r\n",
        b"\r\n\r\n\r\n\r\n",
        b"\0\0\0\0\0\0",
        b"GET /health/live HTTP/1.1\r\nHost: x\r\nX\xff\xfe: \xff\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://[::1/x HTTP/1.1\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"GET /metrics HTTP/1.1\nHost: x\n",
    ] {
        let answer = raw(s.address, bytes).await;
        let status = split(&answer).0;
        assert!(
            [0, 400, 404, 413, 505].contains(&status),
            "{:?}: {answer:.100}",
            String::from_utf8_lossy(&bytes[..bytes.len().min(40)])
        );
    }
    honest(&s).await;
    s.stop().await;
}

#[tokio::test]
async fn pipelining_is_answered_in_order_and_one_by_one() {
    let s = served(Limits::default());
    let one = "GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n".repeat(40)
        + "GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let answer = raw(s.address, one.as_bytes()).await;
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 40);
    assert!(answer[answer.rfind("HTTP/1.1").unwrap()..].starts_with("HTTP/1.1 404"));
    // Far more than a burst: cut off with one 429.
    let flood = "GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n".repeat(20_000);
    let answer = raw(s.address, flood.as_bytes()).await;
    assert!(answer.matches("HTTP/1.1 200 OK").count() <= 300);
    assert_eq!(answer.matches("HTTP/1.1 429").count(), 1);
    s.stop().await;
}

#[tokio::test]
async fn one_who_does_not_read() {
    let s = served(Limits {
        write: Duration::from_secs(1),
        per_minute: 100_000,
        burst: 100_000,
        ..Limits::default()
    });
    let mut c = connect_from(EVIL, s.address).await.unwrap();
    // Asks for more than the socket buffers hold, and takes nothing.
    let ask = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(200);
    let _ = tokio::time::timeout(Duration::from_secs(2), c.write_all(&ask)).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (_, _, metrics) = get(s.address, "/metrics", "").await;
    assert!(
        metrics.contains("keepwatch_http_connections_refused_total{reason=\"write\"} 1"),
        "{:?}",
        metrics
            .lines()
            .filter(|l| l.contains("refused"))
            .collect::<Vec<_>>()
    );
    assert!(closes(&mut c, Duration::from_secs(5)).await);
    s.stop().await;
}

/// An address of this host that nobody else in these tests has.
fn stranger(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x7f01_0000 + n)
}

/// A GET from this address within this time: its status and its length.
async fn asks(from: Ipv4Addr, s: &Served, path: &str, within: Duration) -> Option<(u16, usize)> {
    let run = async {
        let mut c = connect_from(from, s.address).await.ok()?;
        let ask = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        c.write_all(ask.as_bytes()).await.ok()?;
        let mut out = Vec::new();
        c.read_to_end(&mut out).await.ok()?;
        Some((split(&String::from_utf8_lossy(&out)).0, out.len()))
    };
    tokio::time::timeout(within, run).await.ok().flatten()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_from_everywhere() {
    // More strangers than there are seats, each with a seat of its own, who ask for page after page and take nothing.
    let s = served(Limits::default());
    let ask = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(25);
    let mut slow = Vec::new();
    for n in 0..300 {
        let mut c = connect_from(stranger(n), s.address).await.unwrap();
        let _ = c.write_all(&ask).await;
        slow.push(c);
    }
    // From the first moment on, and for as long as an answer may take.
    let begun = Instant::now();
    let mut times = Vec::new();
    while begun.elapsed() < Duration::from_secs(4) {
        for (path, least) in [("/metrics", 100_000), ("/health/live", 50)] {
            let from = Instant::now();
            let got = asks(stranger(10_000), &s, path, Duration::from_secs(5)).await;
            let (status, length) = got.unwrap_or((0, 0));
            let took = from.elapsed();
            assert!(
                status == 200 && length > least && took < Duration::from_secs(2),
                "{path}: {status}, {length} bytes after {took:?}, {:?} after the attack",
                begun.elapsed()
            );
            times.push(took);
        }
        // They come back as often as they are sent away.
        slow.drain(..10);
        for n in 0..10 {
            let from = stranger(1000 + times.len() as u32 * 10 + n);
            let mut c = connect_from(from, s.address).await.unwrap();
            let _ = c.write_all(&ask).await;
            slow.push(c);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    times.sort();
    let (median, most) = (times[times.len() / 2], times[times.len() - 1]);
    eprintln!(
        "{} honest answers, half within {median:?}, the slowest after {most:?}",
        times.len()
    );
    assert!(median < Duration::from_millis(250), "{median:?}");
    drop(slow);
    honest(&s).await;
    s.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_take_a_little_now_and_then() {
    let s = served(Limits::default());
    let ask = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(25);
    let mut slow = Vec::new();
    for n in 0..300 {
        let mut c = connect_from(stranger(n), s.address).await.unwrap();
        let _ = c.write_all(&ask).await;
        slow.push(c);
    }
    let reading = tokio::spawn(async move {
        let mut buf = vec![0; 20_000];
        for _ in 0..40 {
            for c in &mut slow {
                let _ = c.try_read(&mut buf);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        let got = asks(stranger(10_000), &s, "/metrics", Duration::from_secs(2)).await;
        assert_eq!(got.map(|g| g.0), Some(200), "{:?}", begun.elapsed());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    reading.await.unwrap();
    s.stop().await;
}

#[tokio::test]
async fn one_page_for_all_who_read_it() {
    // Readers who take nothing of a page that is longer than what the kernel buffers for them.
    let s = served(Limits {
        write: Duration::from_secs(30),
        ..Limits::default()
    });
    let many = busy(500);
    s.facts.send_replace(many.clone().into());
    let ask = |from: u32| {
        let address = s.address;
        async move {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.set_recv_buffer_size(4096).unwrap();
            socket.bind((stranger(from), 0).into()).unwrap();
            let mut c = socket.connect(address).await.unwrap();
            c.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                .await
                .unwrap();
            c
        }
    };
    let page = |mut c: TcpStream| async move {
        let mut out = Vec::new();
        c.read_to_end(&mut out).await.unwrap();
        split(&String::from_utf8_lossy(&out)).2
    };
    let mut readers = Vec::new();
    for n in 0..3 {
        readers.push(ask(n).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // New facts make a new page at once, also while the old one is read.
    let mut fewer = many.clone();
    fewer.checks.truncate(499);
    s.facts.send_replace(fewer.into());
    let fresh = ask(9).await;
    let mut pages = Vec::new();
    for c in readers {
        pages.push(page(c).await);
    }
    let requests = |page: &str| {
        let line = "keepwatch_http_requests_total{path=\"/metrics\",code=\"200\"} ";
        let found = page.lines().find_map(|l| l.strip_prefix(line));
        found.map_or(0, |n| n.parse::<u64>().unwrap())
    };
    assert!(pages[0].len() > 500_000 && pages[0].contains("usual-name-499\""));
    assert!(
        pages.iter().all(|p| *p == pages[0]),
        "written once: {:?}",
        pages.iter().map(|p| requests(p)).collect::<Vec<_>>()
    );
    let fresh = page(fresh).await;
    assert!(!fresh.contains("usual-name-499\"") && requests(&fresh) == 3);
    // Nobody reads it any more: the next one is new, however soon it comes.
    for n in 4..8 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(requests(&page(ask(1).await).await), n);
    }
    s.stop().await;
}

#[tokio::test]
async fn an_idle_connection_lives_until_its_time_and_is_useful_till_then() {
    let s = served(Limits {
        idle: Duration::from_secs(2),
        header: Duration::from_millis(500),
        ..Limits::default()
    });
    let mut c = TcpStream::connect(s.address).await.unwrap();
    for _ in 0..3 {
        c.write_all(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        assert_eq!(one_answer(&mut c).await.0, 200);
        // Longer than a header may take, shorter than idleness may last.
        tokio::time::sleep(Duration::from_millis(900)).await;
    }
    let begun = Instant::now();
    assert!(closes(&mut c, Duration::from_secs(5)).await);
    let took = begun.elapsed();
    assert!(
        (Duration::from_millis(700)..Duration::from_secs(3)).contains(&took),
        "{took:?}"
    );
    // A half request on a kept connection has the deadline of headers.
    let mut c = TcpStream::connect(s.address).await.unwrap();
    c.write_all(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    one_answer(&mut c).await;
    c.write_all(b"GET /hea").await.unwrap();
    let begun = Instant::now();
    assert!(closes(&mut c, Duration::from_secs(5)).await);
    assert!(
        begun.elapsed() < Duration::from_millis(1500),
        "{:?}",
        begun.elapsed()
    );
    s.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_joins_everything_in_time() {
    let s = served(Limits {
        stop: Duration::from_secs(1),
        write: Duration::from_secs(60),
        per_minute: 100_000,
        burst: 100_000,
        ..Limits::default()
    });
    let address = s.address;
    let mut open = Vec::new();
    for n in 0..60 {
        let mut c = connect_from(EVIL, address).await.unwrap();
        match n % 3 {
            0 => {}
            1 => c.write_all(b"GET /met").await.unwrap(),
            // Never read.
            _ => {
                let _ = tokio::time::timeout(
                    Duration::from_millis(200),
                    c.write_all(&b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(100)),
                )
                .await;
            }
        }
        open.push(c);
    }
    let begun = Instant::now();
    s.orders.send(Order::Stop).unwrap();
    tokio::time::timeout(Duration::from_secs(10), s.task)
        .await
        .unwrap()
        .unwrap();
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert!(
        TcpStream::connect(address).await.is_err(),
        "nobody listens any more"
    );
    for c in &mut open {
        assert!(closes(c, Duration::from_secs(2)).await);
    }
    // Whoever gives orders is gone: it stops too.
    let s = served(Limits::default());
    drop(s.orders);
    tokio::time::timeout(Duration::from_secs(5), s.task)
        .await
        .unwrap()
        .unwrap();
}

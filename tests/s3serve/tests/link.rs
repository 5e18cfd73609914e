//! The proxy: each way to break a connection, seen by plain sockets; then a whole S3 call through it.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use common::{client_at, told};
use keepwatch_s3serve::{Cause, Link, LinkRule, Proxy, ProxyConfig, Server, Side};

/// A server that says back what it hears, and ends when it hears the end.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut buffer = vec![0; 1 << 16];
                while let Ok(n) = stream.read(&mut buffer) {
                    if n == 0 || stream.write_all(&buffer[..n]).is_err() {
                        break;
                    }
                }
                let _ = stream.shutdown(Shutdown::Write);
            });
        }
    });
    at
}

fn proxy(rules: &[LinkRule]) -> Proxy {
    let proxy = Proxy::start(ProxyConfig::to(echo())).unwrap();
    rules.iter().for_each(|r| proxy.rule(r.clone()));
    proxy
}

fn connect(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.address()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    stream
}

/// What comes back of 100 bytes, and how it ends: "end", "reset" or "silence".
fn talk(proxy: &Proxy) -> (Vec<u8>, &'static str) {
    let mut stream = connect(proxy);
    let said: Vec<u8> = (0..100).collect();
    let (mut heard, mut buffer) = (Vec::new(), [0; 1000]);
    // A connection that is reset at once refuses this, and says it once only: the next read would tell of an end.
    if stream.write_all(&said).is_err() || stream.shutdown(Shutdown::Write).is_err() {
        return (heard, "reset");
    }
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return (heard, "end"),
            Ok(n) => heard.extend_from_slice(&buffer[..n]),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return (heard, "silence");
            }
            Err(_) => return (heard, "reset"),
        }
    }
}

#[test]
fn a_good_line_passes_everything() {
    let proxy = proxy(&[]);
    for _ in 0..3 {
        let (heard, end) = talk(&proxy);
        assert_eq!((heard, end), ((0..100).collect(), "end"));
    }
    let stats = proxy.stats();
    assert_eq!((stats.connections, stats.up, stats.down), (3, 300, 300));
}

#[test]
fn each_way_to_break() {
    let whole: Vec<u8> = (0..100).collect();
    let run = |side, after, cause| talk(&proxy(&[LinkRule::new(side, after, cause)]));
    // a reset may overtake the bytes before it
    let (heard, end) = run(Side::Down, 40, Cause::Reset);
    assert_eq!(end, "reset");
    assert!(whole[..40].starts_with(&heard));
    assert_eq!(run(Side::Up, 0, Cause::Reset).1, "reset");
    let cut = (whole[..40].to_vec(), "end");
    assert_eq!(run(Side::Down, 40, Cause::HalfClose), cut);
    assert_eq!(run(Side::Up, 40, Cause::HalfClose), cut);
    let (heard, end) = run(Side::Down, 40, Cause::Close);
    assert!(whole[..40].starts_with(&heard) && end != "silence", "{end}");
    let still = (whole[..40].to_vec(), "silence");
    assert_eq!(run(Side::Down, 40, Cause::Stall(None)), still);
    assert_eq!(run(Side::Down, 40, Cause::BlackHole), still);
    assert_eq!(run(Side::Up, 0, Cause::BlackHole), (Vec::new(), "silence"));
    assert_eq!(
        run(Side::Down, 40, Cause::Stall(Some(200))),
        (whole.clone(), "end")
    );
    let mut flipped = whole.clone();
    flipped[40..43].iter_mut().for_each(|b| *b ^= 0x20);
    assert_eq!(run(Side::Up, 40, Cause::Flip(3)), (flipped, "end"));
    let lost = [&whole[..40], &whole[43..]].concat();
    assert_eq!(run(Side::Down, 40, Cause::Lose(3)), (lost, "end"));
    let twice = [&whole[..43], &whole[40..]].concat();
    assert_eq!(run(Side::Down, 40, Cause::Duplicate(3)), (twice, "end"));
}

#[test]
fn rules_choose_connections() {
    let proxy = proxy(&[LinkRule::new(Side::Up, 10, Cause::Reset).skip(1).times(1)]);
    let ends: Vec<_> = (0..3).map(|_| talk(&proxy).1).collect();
    assert_eq!(ends, ["end", "reset", "end"]);
    assert_eq!(proxy.stats().faults, 1);
    proxy.clear_rules();
    proxy.rule(
        LinkRule::new(Side::Up, 1, Cause::Reset)
            .until(99)
            .probability(0.5),
    );
    let ends: Vec<_> = (0..30).map(|_| talk(&proxy).1).collect();
    let resets = ends.iter().filter(|e| **e == "reset").count();
    assert!((5..25).contains(&resets), "{resets}");
}

#[test]
fn latency_does_not_cost_bandwidth_and_a_limit_does() {
    let proxy = proxy(&[]);
    let trip = |bytes: usize| {
        let mut stream = connect(&proxy);
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let began = Instant::now();
        let mut writer = stream.try_clone().unwrap();
        let writing = std::thread::spawn(move || writer.write_all(&vec![7; bytes]).unwrap());
        let mut heard = vec![0; bytes];
        stream.read_exact(&mut heard).unwrap();
        writing.join().unwrap();
        began.elapsed()
    };
    proxy.link(Link {
        latency_ms: 100,
        ..Link::default()
    });
    let small = trip(1);
    assert!(small >= Duration::from_millis(200), "{small:?}");
    let large = trip(8 << 20);
    assert!(large < Duration::from_secs(3), "8 MB at 200 ms: {large:?}");
    proxy.link(Link {
        down_bytes_per_second: 100_000,
        ..Link::default()
    });
    let slow = trip(50_000);
    assert!(
        (Duration::from_millis(350)..Duration::from_secs(3)).contains(&slow),
        "{slow:?}"
    );
}

#[test]
fn connections_can_be_cut_from_outside() {
    let proxy = proxy(&[]);
    let mut stream = connect(&proxy);
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    assert_eq!(proxy.stats().open, 1);
    proxy.cut_all();
    assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
    assert_eq!(talk(&proxy).1, "end", "the next one is whole");
    let began = Instant::now();
    let _open = connect(&proxy);
    drop(proxy);
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn an_upload_through_a_bad_line_fails_and_through_a_good_one_arrives() {
    let server = Server::plain().unwrap();
    let proxy = Proxy::start(ProxyConfig::to(server.address())).unwrap();
    let body = vec![3u8; 200_000];
    let put = async |key: &str| {
        // a client of its own, so that its connection is a new one
        let c = client_at(&server, &proxy.endpoint());
        let req = c.put_object().bucket("keepwatch").key(key);
        told(&req.body(body.clone().into()).send().await)
    };
    proxy.rule(LinkRule::new(Side::Up, 100_000, Cause::Reset).times(1));
    assert_eq!(put("a").await, (0, "connection".into()));
    assert!(server.keys().is_empty(), "half an upload is no object");
    // one bit: found by the signature or the checksum, whichever is looked at first
    proxy.rule(LinkRule::new(Side::Up, 100_000, Cause::Flip(1)).times(1));
    let said = put("b").await;
    assert!((400..500).contains(&said.0), "{said:?}");
    assert!(server.keys().is_empty());
    assert_eq!(put("c").await.0, 200);
    assert_eq!(server.body("c").unwrap(), body);
}

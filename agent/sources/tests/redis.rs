//! Dumps and restores of a real Redis, and servers that break off.

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::*;
use keepwatch_sources::fault::Reason;
use keepwatch_sources::redis::{self, Options, Redis};
use keepwatch_sources::secret::SecretFile;

struct Served {
    dir: tempfile::TempDir,
    server: Server,
    password: PathBuf,
}

impl Served {
    fn start(file: Option<&Path>) -> Option<Served> {
        let Some(program) = find("redis-server", &[]) else {
            skip("Redis");
            return None;
        };
        let dir = scratch();
        if let Some(file) = file {
            fs::copy(file, dir.path().join("dump.rdb")).unwrap();
        }
        let server = Server::start(
            Command::new(program)
                .args([
                    "--port",
                    "0",
                    "--save",
                    "",
                    "--appendonly",
                    "no",
                    "--requirepass",
                    "p w",
                ])
                .args(["--enable-debug-command", "yes"])
                .arg("--unixsocket")
                .arg(dir.path().join("r.sock"))
                .arg("--dir")
                .arg(dir.path()),
        );
        let password = secret(dir.path(), "pw", "p w");
        let served = Served {
            dir,
            server,
            password,
        };
        until("Redis", || {
            served.command(&["PING"]).as_deref() == Ok("PONG")
        });
        Some(served)
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("r.sock")
    }

    fn command(&self, words: &[&str]) -> Result<String, String> {
        let out = Command::new(find("redis-cli", &[]).unwrap())
            .env("REDISCLI_AUTH", "p w")
            .arg("-s")
            .arg(self.socket())
            .args(words)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        match out.status.success() {
            true => Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned()),
            false => Err(String::from_utf8_lossy(&out.stderr).into_owned()),
        }
    }

    fn spec(&self) -> String {
        format!(
            "redis?socket={}&password-file={}",
            self.socket().display(),
            self.password.display()
        )
    }

    fn place(&self) -> Redis {
        Redis {
            socket: Some(self.socket()),
            password: Some(SecretFile(self.password.clone())),
            ..Default::default()
        }
    }
}

#[test]
fn what_comes_back_is_what_was_there_under_load() {
    let Some(r) = Served::start(None) else { return };
    let s = setting(r.dir.path());
    r.command(&["EVAL", "for i=1,20000 do redis.call('SET', 'k'..i, string.rep('v', 100)..i) end redis.call('HSET', 'h', 'a', 'b') redis.call('RPUSH', 'l', '1', '2') redis.call('SELECT', 3) redis.call('SET', 'x', 'y', 'EX', 100000)", "0"]).unwrap();
    let stop = AtomicBool::new(false);
    let (memory, about) = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                // Both or neither are in a snapshot.
                n += 1;
                r.command(&[
                    "EVAL",
                    &format!("redis.call('SET', 'one', {n}) redis.call('SET', 'two', {n})"),
                    "0",
                ])
                .unwrap();
            }
        });
        until("load", || {
            r.command(&["GET", "two"]).is_ok_and(|v| !v.is_empty())
        });
        let result = dumped(&r.spec(), &s);
        stop.store(true, Ordering::Relaxed);
        result.unwrap()
    });
    assert!(
        about
            .server_version
            .as_deref()
            .unwrap()
            .starts_with(|c: char| c.is_ascii_digit())
    );
    assert_eq!(about.streams[0].details["keys"]["3"], 1);

    // It runs: it would overwrite the file.
    let home = scratch();
    let file = home.path().join("dump.rdb");
    let options = Options {
        file: file.clone(),
        replace: false,
    };
    let e = redis::restore(&memory, &about, Some(&r.place()), &options, &s).unwrap_err();
    assert_eq!(e.reason, Reason::InTheWay, "{e}");
    redis::restore(&memory, &about, None, &options, &s).unwrap();
    let e = redis::restore(&memory, &about, None, &options, &s).unwrap_err();
    assert_eq!(e.reason, Reason::InTheWay, "{e}");
    let other = Served::start(Some(&file)).unwrap();
    assert_eq!(
        other.command(&["GET", "one"]),
        other.command(&["GET", "two"])
    );
    for command in [
        &["GET", "k20000"][..],
        &["HGETALL", "h"],
        &["LRANGE", "l", "0", "-1"],
        &["-n", "3", "GET", "x"],
        &["DBSIZE"],
    ] {
        assert_eq!(other.command(command), r.command(command));
    }
    assert!(
        other
            .command(&["-n", "3", "TTL", "x"])
            .unwrap()
            .parse::<u32>()
            .unwrap()
            > 90_000
    );
    nothing_left(&s);

    // Damaged: nothing is written.
    let mut bad = memory;
    let n = bad.0["dump.rdb"].len();
    bad.0.get_mut("dump.rdb").unwrap()[n / 2] ^= 1;
    let options = Options {
        file: home.path().join("other.rdb"),
        replace: false,
    };
    let e = redis::restore(&bad, &about, None, &options, &s).unwrap_err();
    assert_eq!(e.reason, Reason::NotWhole, "{e}");
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
}

#[test]
fn what_is_wrong_is_said_in_one_sentence() {
    let Some(r) = Served::start(None) else { return };
    let mut s = setting(r.dir.path());
    let fails = |text: String, s: &_, reason: Reason, says: &str| {
        let e = dumped(&text, s)
            .err()
            .unwrap_or_else(|| panic!("{text} succeeded"));
        assert_eq!(e.reason, reason, "{e}");
        assert!(e.text.contains(says), "{e}");
        assert!(!e.text.contains("hunter2"), "{e}");
    };
    let wrong = secret(r.dir.path(), "wrong", "hunter2");
    fails(
        format!(
            "redis?socket={}&password-file={}",
            r.socket().display(),
            wrong.display()
        ),
        &s,
        Reason::Denied,
        "WRONGPASS",
    );
    fails(
        format!("redis?socket={}", r.socket().display()),
        &s,
        Reason::Denied,
        "NOAUTH",
    );
    fails(
        "redis?socket=/nonexistent".into(),
        &s,
        Reason::NoConnection,
        "cannot be reached",
    );
    fails(
        "redis?port=1".into(),
        &s,
        Reason::NoConnection,
        "cannot be reached",
    );
    s.stall = Duration::from_secs(1);
    r.server.signal(rustix::process::Signal::STOP);
    fails(r.spec(), &s, Reason::Stalled, "sent nothing");
    r.server.signal(rustix::process::Signal::CONT);
    // A user who may not take a snapshot.
    r.command(&["ACL", "SETUSER", "small", "on", ">x", "~*", "+info"])
        .unwrap();
    let small = secret(r.dir.path(), "small", "x");
    s.stall = Duration::from_secs(10);
    fails(
        format!(
            "redis?socket={}&user=small&password-file={}",
            r.socket().display(),
            small.display()
        ),
        &s,
        Reason::Denied,
        "NOPERM",
    );
}

/// A server that answers INFO, and then a script to SYNC.
fn fake(dir: &Path, name: &str, answer: Vec<u8>, hang: bool) -> PathBuf {
    let path = dir.join(name);
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        let Ok((mut stream, _)) = listener.accept() else {
            return;
        };
        let mut buffer = [0; 1000];
        let _ = stream.read(&mut buffer);
        let info = "redis_version:7.0\r\nloading:0\r\n";
        let _ = stream.write_all(format!("${}\r\n{info}\r\n", info.len()).as_bytes());
        let _ = stream.read(&mut buffer);
        let _ = stream.write_all(&answer);
        if hang {
            std::thread::sleep(Duration::from_secs(5));
        }
    });
    path
}

#[test]
fn a_snapshot_that_breaks_off_is_never_whole() {
    let dir = scratch();
    let mut s = setting(dir.path());
    s.stall = Duration::from_secs(1);
    let good = b"REDIS0009\xfe\x00\x00\x01a\x01b\xff\0\0\0\0\0\0\0\0".to_vec();
    let with_length = |body: &[u8], n: usize| [format!("\n\n${n}\r\n").as_bytes(), body].concat();
    let mark = "0123456789012345678901234567890123456789";
    let with_mark = |body: &[u8], mark: &str| {
        [
            b"$EOF:0123456789012345678901234567890123456789\r\n",
            body,
            mark.as_bytes(),
        ]
        .concat()
    };
    let mut n = 0;
    let mut go = |answer: Vec<u8>, hang: bool| {
        n += 1;
        let path = fake(dir.path(), &format!("{n}.sock"), answer, hang);
        dumped(&format!("redis?socket={}", path.display()), &s)
            .map(|(m, _)| m.0["dump.rdb"].clone())
    };
    assert_eq!(go(with_length(&good, good.len()), true).unwrap(), good);
    // What follows is no part of it.
    assert_eq!(
        go(
            [
                with_length(&good, good.len()),
                b"*1\r\n$4\r\nPING\r\n".to_vec()
            ]
            .concat(),
            true
        )
        .unwrap(),
        good
    );
    assert_eq!(go(with_mark(&good, mark), true).unwrap(), good);
    for (answer, hang, reason) in [
        (
            with_length(&good[..10], good.len()),
            false,
            Reason::NotWhole,
        ),
        (with_length(&good[..10], good.len()), true, Reason::Stalled),
        (
            with_length(&good[..good.len() - 1], good.len() - 1),
            true,
            Reason::NotWhole,
        ),
        (with_length(b"", 0), true, Reason::NotWhole),
        (with_mark(&good, ""), false, Reason::NotWhole),
        (with_mark(&good, ""), true, Reason::Stalled),
        (with_mark(&good[..12], mark), true, Reason::NotWhole),
        (b"$-1\r\n".to_vec(), true, Reason::Failed),
        (
            b"-NOMASTERLINK Can't SYNC\r\n".to_vec(),
            true,
            Reason::Failed,
        ),
        (b"".to_vec(), false, Reason::NoConnection),
        (vec![b'x'; 5000], true, Reason::Failed),
        (b"\n\n\n".to_vec(), true, Reason::Stalled),
    ] {
        let shown = String::from_utf8_lossy(&answer[..answer.len().min(60)]).into_owned();
        let e = go(answer, hang).expect_err(&shown);
        assert_eq!(e.reason, reason, "{shown}: {e}");
    }
}

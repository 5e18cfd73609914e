//! Real servers in scratch directories, ended with the test. What is not installed is skipped aloud.
#![allow(dead_code)]

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use keepwatch_model::check::Reason;
use keepwatch_watch::clock::HostClock;
use keepwatch_watch::net::Net;
use keepwatch_watch::outcome::Outcome;
use keepwatch_watch::probe::{Probe, run};
use keepwatch_watch::secret::SecretFile;

pub fn net() -> Net {
    Net::new(Arc::new(HostClock))
}

/// Says aloud that a test does not run here. With `KEEPWATCH_REQUIRE_SERVERS` set that is a failure.
pub fn skip(what: &str) {
    assert!(
        std::env::var_os("KEEPWATCH_REQUIRE_SERVERS").is_none(),
        "{what} is required and not installed"
    );
    eprintln!("\n!!! SKIPPED: {what} is not installed\n");
}

/// A program in one of these directories or on the path.
pub fn find(name: &str, places: &[&str]) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    places
        .iter()
        .copied()
        .chain(path.split(':'))
        .chain(["/usr/sbin"])
        .map(|dir| Path::new(dir).join(name))
        .find(|p| p.exists())
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// A directory that another user may enter.
pub struct Scratch {
    dir: tempfile::TempDir,
}

impl Scratch {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("kw-watch-")
            .tempdir()
            .unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self { dir }
    }
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }
    pub fn secret(&self, name: &str, text: &str) -> SecretFile {
        let path = self.file(name, text);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        SecretFile(path)
    }
}

/// A server process, ended by its id.
pub struct Server(pub Child);

impl Server {
    pub fn start(command: &mut Command) -> Self {
        Self(
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
        )
    }
    pub fn signal(&self, signal: rustix::process::Signal) {
        signal_pid(self.0.id(), signal);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn signal_pid(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

pub async fn ask(probe: &dyn Probe, secs: f64) -> Outcome {
    run(probe, Duration::from_secs_f64(secs)).await
}

/// Asks until it succeeds, for servers that start.
pub async fn until_well(probe: &dyn Probe) -> Outcome {
    until(probe, |o| o.failure.is_none()).await
}

pub async fn until(probe: &dyn Probe, good: impl Fn(&Outcome) -> bool) -> Outcome {
    let began = Instant::now();
    loop {
        let outcome = ask(probe, 5.0).await;
        if good(&outcome) {
            return outcome;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{outcome:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[track_caller]
pub fn fails(outcome: &Outcome, reason: Reason, text: &str) {
    let f = outcome
        .failure
        .as_ref()
        .unwrap_or_else(|| panic!("it succeeded: {outcome:?}"));
    assert_eq!(f.reason, reason, "{}", f.text);
    assert!(f.text.contains(text), "{:?} does not say {text:?}", f.text);
}

#[track_caller]
pub fn well(outcome: &Outcome) {
    assert_eq!(outcome.failure, None);
    assert_eq!(outcome.warnings, Vec::<String>::new());
}

pub fn ok(command: &mut Command) {
    let out = command.stdin(Stdio::null()).output().unwrap();
    assert!(
        out.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Gives a tree to a user, when we are root.
pub fn give(path: &Path, user: &str) {
    if !is_root() {
        return;
    }
    let id = |flag: &str| {
        let out = Command::new("id").args([flag, user]).output().unwrap();
        String::from_utf8(out.stdout)
            .unwrap()
            .trim()
            .parse::<u32>()
            .unwrap()
    };
    let (uid, gid) = (id("-u"), id("-g"));
    let mut todo = vec![path.to_owned()];
    while let Some(path) = todo.pop() {
        chown(&path, Some(uid), Some(gid)).unwrap();
        if path.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
    }
}

/// A CA and certificates made by it.
pub struct Ca {
    key: rcgen::KeyPair,
    params: rcgen::CertificateParams,
    pub pem: String,
}

impl Ca {
    pub fn new() -> Self {
        Self::named("test ca")
    }
    pub fn named(name: &str) -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { key, params, pem }
    }

    /// Its own certificate and key in PEM, as some use for a server.
    pub fn itself(&self) -> (String, String) {
        (self.pem.clone(), self.key.serialize_pem())
    }

    /// Certificate and key in PEM, for these names, ending so many days from now (negative: ended).
    pub fn issue(&self, names: &[&str], days: i64) -> (String, String) {
        let mut params = rcgen::CertificateParams::new(
            names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>(),
        )
        .unwrap();
        let day = 86_400;
        let now = std::time::SystemTime::UNIX_EPOCH
            .elapsed()
            .unwrap()
            .as_secs();
        let at = |days: i64| {
            let secs = now.saturating_add_signed(days * day);
            rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(secs)
        };
        params.not_before = at(-400);
        params.not_after = at(days);
        let key = rcgen::KeyPair::generate().unwrap();
        let issuer = rcgen::Issuer::from_params(&self.params, &self.key);
        (
            params.signed_by(&key, &issuer).unwrap().pem(),
            key.serialize_pem(),
        )
    }
}

pub fn append(path: &Path, text: &str) {
    fs::OpenOptions::new()
        .append(true)
        .open(path)
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
}

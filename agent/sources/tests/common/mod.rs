//! Real servers in scratch directories, ended with the test, and dumps held in memory. What is not installed is skipped aloud.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use keepwatch_sources::about::{self, About};
use keepwatch_sources::fault::{Fault, Reason};
use keepwatch_sources::restore::Stored;
use keepwatch_sources::setting::Setting;
use keepwatch_sources::source::Source;
use keepwatch_sources::spec::Spec;

/// Says aloud that a test does not run here. With `KEEPWATCH_REQUIRE_SERVERS` set that is a failure.
pub fn skip(what: &str) {
    assert!(
        std::env::var_os("KEEPWATCH_REQUIRE_SERVERS").is_none(),
        "{what} is required and not installed"
    );
    eprintln!("\n!!! SKIPPED: {what} is not installed\n");
}

/// A program on the path or in one of these directories.
pub fn find(name: &str, places: &[&str]) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let all = places
        .iter()
        .copied()
        .chain(path.split(':'))
        .chain(["/usr/sbin"]);
    all.map(|dir| Path::new(dir).join(name))
        .find(|p| p.exists())
}

/// A directory that another user may enter.
pub fn scratch() -> tempfile::TempDir {
    let dir = tempfile::Builder::new()
        .prefix("kw-src-")
        .tempdir()
        .unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Numbers of a user; our own when we are not root.
pub fn user(name: &str) -> (u32, u32) {
    let id = |flag: &str| {
        let mut command = Command::new("id");
        command.arg(flag);
        if is_root() {
            command.arg(name);
        }
        String::from_utf8(command.output().unwrap().stdout)
            .unwrap()
            .trim()
            .parse::<u32>()
            .unwrap()
    };
    (id("-u"), id("-g"))
}

pub fn me(name: &str) -> String {
    if is_root() {
        return name.to_owned();
    }
    String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout)
        .unwrap()
        .trim()
        .to_owned()
}

/// A command as this user.
pub fn as_user(program: &Path, name: &str) -> Command {
    use std::os::unix::process::CommandExt as _;
    let mut command = Command::new(program);
    if is_root() {
        let (uid, gid) = user(name);
        command.uid(uid).gid(gid);
    }
    command.stdin(Stdio::null()).current_dir("/");
    command
}

pub fn give(path: &Path, name: &str) {
    if is_root() {
        let (uid, gid) = user(name);
        chown(path, Some(uid), Some(gid)).unwrap();
    }
}

pub fn ok(command: &mut Command) -> String {
    let out = command.output().unwrap();
    assert!(
        out.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

pub fn until(what: &str, mut good: impl FnMut() -> bool) {
    let began = Instant::now();
    while !good() {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "{what} does not come about"
        );
        std::thread::sleep(Duration::from_millis(50));
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
        let pid = rustix::process::Pid::from_raw(self.0.id() as i32).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A file for a secret.
pub fn secret(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// A program that does what a script says.
pub fn program(dir: &Path, name: &str, script: &str) {
    fs::create_dir_all(dir).unwrap();
    let path = dir.join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// The streams of a dump.
pub struct Memory(pub BTreeMap<String, Vec<u8>>);

impl Stored for Memory {
    fn length(&self, name: &str) -> Option<u64> {
        self.0.get(name).map(|b| b.len() as u64)
    }
    fn write(&self, name: &str, out: &mut dyn Write) -> Result<u64, Fault> {
        let bytes = &self.0[name];
        for part in bytes.chunks(100_000) {
            out.write_all(part).map_err(Fault::from_io)?;
        }
        Ok(bytes.len() as u64)
    }
}

pub fn source(text: &str) -> Source {
    Spec::parse(text)
        .and_then(Source::new)
        .unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// Dumps into memory.
pub fn dumped(text: &str, setting: &Setting) -> Result<(Memory, About), Fault> {
    dumped_with(text, setting, |_, _| {})
}

/// The same; `each` is told of each stream when its first bytes have come.
pub fn dumped_with(
    text: &str,
    setting: &Setting,
    mut each: impl FnMut(&str, usize),
) -> Result<(Memory, About), Fault> {
    let source = source(text);
    let mut dumping = source.dump(setting)?;
    let mut all = BTreeMap::new();
    while let Some(mut stream) = dumping.next_stream()? {
        let mut bytes = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let n = stream.body.read(&mut buffer).map_err(Fault::from_io)?;
            if n == 0 {
                break;
            }
            let first = bytes.is_empty();
            bytes.extend_from_slice(&buffer[..n]);
            if first {
                each(&stream.name, n);
            }
        }
        stream.body.finish()?;
        let name = stream
            .name
            .strip_prefix(&format!("{}/", source.label))
            .unwrap()
            .to_owned();
        assert!(all.insert(name, bytes).is_none());
    }
    let about = About::parse(&all[about::NAME])?;
    for item in &about.streams {
        assert_eq!(item.bytes, all[&item.name].len() as u64, "{}", item.name);
    }
    Ok((Memory(all), about))
}

pub fn setting(dir: &Path) -> Setting {
    let scratch = dir.join("scratch");
    fs::create_dir_all(&scratch).unwrap();
    fs::set_permissions(&scratch, fs::Permissions::from_mode(0o711)).unwrap();
    let mut setting = Setting::new(scratch);
    setting.stall = Duration::from_secs(20);
    setting
}

/// Nothing of ours is left.
#[track_caller]
pub fn nothing_left(setting: &Setting) {
    let left: Vec<_> = fs::read_dir(&setting.scratch)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_none_or(|e| e != "lock"))
        .collect();
    assert_eq!(left, Vec::<PathBuf>::new());
}

/// What may come of a dump whose server dies: it may just have been done, else it is told and there is none.
pub fn whole_or_told<T>(dumped: Result<T, Fault>) {
    if let Err(e) = dumped {
        assert!(
            matches!(
                e.reason,
                Reason::Failed | Reason::NoConnection | Reason::NotWhole
            ),
            "{e:?}"
        );
    }
}

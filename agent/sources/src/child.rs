//! Programs that print a dump or take one in.
//!
//! A program runs without a shell, in a process group of its own, with no environment but what it is given. Nothing is waited for without
//! a bound: when nothing moves for the stall timeout, or somebody asks to stop, the group gets SIGTERM, and SIGKILL [`GRACE`] later. What
//! the program says on standard error is read along, so that it never blocks on it; the first [`SAID_FIRST`] and the last [`SAID_LAST`]
//! bytes are kept. One thread does it all: it waits for whichever pipe moves.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::fault::{Fault, Reason, plain};
use crate::scratch::Owner;
use crate::secret::Secret;
use crate::setting::{Setting, Stop};
use crate::text::said;

/// Between SIGTERM and SIGKILL.
pub const GRACE: Duration = Duration::from_secs(3);
/// Bytes kept of the beginning of what is said on standard error.
pub const SAID_FIRST: usize = 4 << 10;
/// Bytes kept of its end.
pub const SAID_LAST: usize = 12 << 10;
/// How often somebody who waits looks whether he is asked to stop.
const LOOK: Duration = Duration::from_millis(200);
/// How long the end of what it says is waited for after a program has ended.
const DRAIN: Duration = Duration::from_millis(300);
/// Where programs are looked for besides `$PATH`.
const PLACES: &[&str] = &[
    "/run/current-system/sw/bin",
    "/usr/local/bin",
    "/usr/bin",
    "/bin",
    "/usr/local/sbin",
    "/usr/sbin",
    "/sbin",
];

/// The first of some programs that exists: in `package/bin` (or `package` itself), else on `$PATH` and in the usual places.
///
/// # Errors
/// None of them is installed.
pub fn find(names: &[&str], package: Option<&Path>) -> Result<PathBuf, Fault> {
    let is_program = |p: &PathBuf| {
        std::fs::metadata(p).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places: Vec<PathBuf> = match package {
        Some(package) => vec![package.join("bin"), package.to_owned()],
        None => std::env::split_paths(&path)
            .chain(PLACES.iter().map(PathBuf::from))
            .collect(),
    };
    for name in names {
        let at = places
            .iter()
            .filter(|d| d.is_absolute())
            .map(|d| d.join(name));
        if let Some(found) = at.into_iter().find(is_program) {
            return Ok(found);
        }
    }
    let names = names.join(" or ");
    Err(Fault::new(
        Reason::NoProgram,
        match package {
            Some(package) => format!("there is no program {names} in {}", package.display()),
            None => format!(
                "the program {names} is not installed: it is neither on PATH nor in the usual directories"
            ),
        },
    ))
}

/// Ends a process group and whoever leads it: SIGTERM, and SIGKILL after the grace.
pub(crate) fn kill_group(pid: u32) {
    let Some(group) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return;
    };
    let _ = kill_process_group(group, Signal::TERM);
    let until = Instant::now() + GRACE;
    while crate::scratch::started(pid).is_some() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = kill_process_group(group, Signal::KILL);
}

/// A program to run.
pub struct Program {
    argv: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    user: Option<Owner>,
    directory: PathBuf,
    secrets: Vec<Arc<Secret>>,
}

impl Program {
    /// With a minimal environment, in `/`.
    pub fn new(program: &Path) -> Self {
        let mut path = OsString::new();
        for place in PLACES {
            if !path.is_empty() {
                path.push(":");
            }
            path.push(place);
        }
        Program {
            argv: vec![program.into()],
            env: vec![("PATH".into(), path), ("LC_ALL".into(), "C.UTF-8".into())],
            user: None,
            directory: "/".into(),
            secrets: Vec::new(),
        }
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, word: impl Into<OsString>) -> Self {
        self.argv.push(word.into());
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args<T: Into<OsString>>(mut self, words: impl IntoIterator<Item = T>) -> Self {
        self.argv.extend(words.into_iter().map(Into::into));
        self
    }

    /// A variable of its environment. Never a secret.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.env.retain(|(n, _)| n != OsStr::new(name));
        self.env.push((name.into(), value.into()));
        self
    }

    /// As another user; only root can.
    #[must_use]
    pub fn user(mut self, user: Option<Owner>) -> Self {
        self.user = user;
        self
    }

    /// Where it runs.
    #[must_use]
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = directory.into();
        self
    }

    /// A secret that it may repeat on standard error, to be blotted out there.
    #[must_use]
    pub fn secret(mut self, secret: Option<Arc<Secret>>) -> Self {
        self.secrets.extend(secret);
        self
    }

    /// The name of the program, for sentences.
    fn name(&self) -> String {
        let name = self.argv.first().map(Path::new).and_then(Path::file_name);
        name.unwrap_or_default().to_string_lossy().into_owned()
    }

    fn start(self, setting: &Setting, stdin: bool, stdout: bool) -> Result<Running, Fault> {
        setting.stop.check()?;
        let name = self.name();
        let piped = |wanted| {
            if wanted {
                Stdio::piped()
            } else {
                Stdio::null()
            }
        };
        let mut command = Command::new(&self.argv[0]);
        command
            .args(&self.argv[1..])
            .env_clear()
            .envs(self.env)
            .current_dir(&self.directory)
            .stdin(piped(stdin))
            .stdout(piped(stdout))
            .stderr(Stdio::piped())
            .process_group(0);
        if let Some(user) = self.user {
            command.uid(user.uid).gid(user.gid);
        }
        let mut child = command.spawn().map_err(|e| {
            let reason = match e.kind() {
                io::ErrorKind::NotFound => Reason::NoProgram,
                io::ErrorKind::PermissionDenied => Reason::Denied,
                _ => Reason::Failed,
            };
            Fault::new(
                reason,
                format!(
                    "cannot start {}: {}",
                    self.argv[0].to_string_lossy(),
                    plain(&e)
                ),
            )
        })?;
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let running = Running {
            name,
            child: Some(child),
            stdin,
            stdout,
            stderr,
            first: Vec::new(),
            last: Vec::new(),
            stall: setting.stall,
            stop: setting.stop.clone(),
            secrets: self.secrets,
        };
        // Whoever does not read must not hold us up.
        for fd in [
            running.stdin.as_ref().map(AsFd::as_fd),
            running.stderr.as_ref().map(AsFd::as_fd),
        ] {
            let Some(fd) = fd else { continue };
            fcntl_getfl(fd)
                .and_then(|flags| fcntl_setfl(fd, flags | OFlags::NONBLOCK))
                .map_err(|e| Fault::new(Reason::Failed, format!("cannot set up a pipe: {e}")))?;
        }
        Ok(running)
    }

    /// Starts it, to read what it prints.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn read(self, setting: &Setting) -> Result<Running, Fault> {
        self.start(setting, false, true)
    }

    /// Starts it, to write to it; what it prints is dropped.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn write(self, setting: &Setting) -> Result<Running, Fault> {
        self.start(setting, true, false)
    }

    /// Runs it and returns what it printed, at most `most` bytes.
    ///
    /// # Errors
    /// It cannot be started, fails, stalls, or prints more.
    pub fn output(self, setting: &Setting, most: u64) -> Result<Vec<u8>, Fault> {
        let mut running = self.read(setting)?;
        let mut out = Vec::new();
        (&mut running)
            .take(most + 1)
            .read_to_end(&mut out)
            .map_err(Fault::from_io)?;
        if out.len() as u64 > most {
            return Err(Fault::new(
                Reason::Failed,
                format!("{} answers with more than {most} bytes", running.name),
            ));
        }
        running.end()?;
        Ok(out)
    }

    /// Runs it; what it prints is dropped.
    ///
    /// # Errors
    /// It cannot be started, fails, or stalls.
    pub fn run(self, setting: &Setting) -> Result<(), Fault> {
        self.start(setting, false, false)?.end()
    }

    /// Starts a server that goes on running, and returns its process id: also that of its group. Its output goes to `log`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn serve(self, log: &Path) -> Result<Child, Fault> {
        let file = crate::scratch::create(log).map_err(|e| Fault::file("write", log, &e))?;
        let again = file
            .try_clone()
            .map_err(|e| Fault::file("write", log, &e))?;
        let mut command = Command::new(&self.argv[0]);
        command
            .args(&self.argv[1..])
            .env_clear()
            .envs(self.env)
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(again)
            .process_group(0);
        if let Some(user) = self.user {
            command.uid(user.uid).gid(user.gid);
        }
        command.spawn().map_err(|e| {
            Fault::new(
                Reason::NoProgram,
                format!(
                    "cannot start {}: {}",
                    self.argv[0].to_string_lossy(),
                    plain(&e)
                ),
            )
        })
    }
}

/// A program at work. Dropped, it is ended, with all that it started.
pub struct Running {
    name: String,
    child: Option<Child>,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    first: Vec<u8>,
    last: Vec<u8>,
    stall: Duration,
    stop: Stop,
    secrets: Vec<Arc<Secret>>,
}

/// What moved.
enum Moved {
    Stdin,
    Stdout,
    Stderr,
    Nothing,
}

impl Running {
    fn said(&self) -> String {
        let secrets: Vec<&Secret> = self.secrets.iter().map(AsRef::as_ref).collect();
        let mut all = self.first.clone();
        if !self.last.is_empty() {
            all.extend_from_slice(b"\n");
            all.extend_from_slice(&self.last);
        }
        said(&all, &secrets)
    }

    /// What it said on standard error, without secrets: beginning and end.
    pub fn complaints(&self) -> String {
        let mut all = String::from_utf8_lossy(&self.first).into_owned();
        all += &String::from_utf8_lossy(&self.last);
        for secret in &self.secrets {
            all = all.replace(secret.expose(), "***");
        }
        all
    }

    /// Takes in what is there of standard error.
    fn listen(&mut self) {
        let Some(stderr) = &mut self.stderr else {
            return;
        };
        let mut buffer = [0; 4096];
        loop {
            match stderr.read(&mut buffer) {
                Ok(0) => {
                    self.stderr = None;
                    return;
                }
                Ok(n) => {
                    let mut bytes = &buffer[..n];
                    let room = SAID_FIRST.saturating_sub(self.first.len()).min(n);
                    self.first.extend_from_slice(&bytes[..room]);
                    bytes = &bytes[room..];
                    self.last.extend_from_slice(bytes);
                    if self.last.len() > 2 * SAID_LAST {
                        self.last.drain(..self.last.len() - SAID_LAST);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.stderr = None;
                    return;
                }
            }
        }
    }

    /// Waits until a pipe moves, `most` at longest.
    fn poll(&self, most: Duration) -> io::Result<Moved> {
        let pipes = [
            (
                self.stderr.as_ref().map(AsFd::as_fd),
                PollFlags::IN,
                Moved::Stderr,
            ),
            (
                self.stdout.as_ref().map(AsFd::as_fd),
                PollFlags::IN,
                Moved::Stdout,
            ),
            (
                self.stdin.as_ref().map(AsFd::as_fd),
                PollFlags::OUT,
                Moved::Stdin,
            ),
        ];
        let (mut fds, mut what) = (Vec::new(), Vec::new());
        for (fd, flags, moved) in pipes {
            if let Some(fd) = fd {
                fds.push(PollFd::from_borrowed_fd(fd, flags));
                what.push(moved);
            }
        }
        if fds.is_empty() {
            std::thread::sleep(most);
            return Ok(Moved::Nothing);
        }
        let timeout = Timespec::try_from(most).map_err(io::Error::other)?;
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let moved = fds
            .iter()
            .zip(what)
            .find(|(fd, _)| !fd.revents().is_empty());
        Ok(moved.map_or(Moved::Nothing, |(_, moved)| moved))
    }

    /// Waits until `stdin` or `stdout` moves.
    fn ready(&mut self) -> io::Result<()> {
        let began = Instant::now();
        loop {
            match self.poll(LOOK)? {
                Moved::Stdin | Moved::Stdout => return Ok(()),
                Moved::Stderr => self.listen(),
                Moved::Nothing => {}
            }
            self.stop.check().map_err(Fault::into_io)?;
            if began.elapsed() >= self.stall {
                return Err(self.stalled().into_io());
            }
        }
    }

    fn stalled(&mut self) -> Fault {
        self.kill();
        let said = self.said();
        let said = if said.is_empty() {
            String::new()
        } else {
            format!("; it said: {said}")
        };
        Fault::new(
            Reason::Stalled,
            format!(
                "{} did nothing for {} s and was ended{said}",
                self.name,
                self.stall.as_secs()
            ),
        )
    }

    fn kill(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        self.stdin = None;
        self.stdout = None;
        if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::TERM);
            let until = Instant::now() + GRACE;
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < until {
                self.listen();
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Waits for its end, which must be a success.
    ///
    /// # Errors
    /// It failed, or does not end.
    pub fn end(&mut self) -> Result<(), Fault> {
        let status = self.wait()?;
        if status.success() {
            return Ok(());
        }
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("failed with status {code}"),
            (None, Some(signal)) => format!("was ended by signal {signal}"),
            (None, None) => "failed".to_owned(),
        };
        let said = self.said();
        let name = &self.name;
        Err(match said.is_empty() {
            true => Fault::new(Reason::Failed, format!("{name} {how} and said nothing")),
            false => Fault::new(Reason::Failed, format!("{name} {how}: {said}")),
        })
    }

    /// Waits for its end, whatever it is.
    ///
    /// # Errors
    /// It does not end.
    pub fn wait(&mut self) -> Result<ExitStatus, Fault> {
        // Its end of file.
        self.stdin = None;
        // It may still want to print.
        let mut rest = [0; 8192];
        let began = Instant::now();
        let mut ended: Option<(ExitStatus, Instant)> = None;
        loop {
            if ended.is_none() {
                let Some(child) = &mut self.child else {
                    return Err(Fault::new(
                        Reason::Failed,
                        format!("{} was ended", self.name),
                    ));
                };
                match child.try_wait() {
                    Ok(Some(status)) => ended = Some((status, Instant::now())),
                    Ok(None) => {}
                    Err(e) => {
                        return Err(Fault::new(
                            Reason::Failed,
                            format!("it cannot be told how {} ended: {}", self.name, plain(&e)),
                        ));
                    }
                }
            }
            if let Some((status, when)) = ended {
                self.listen();
                // What it started may hold its standard error open.
                if self.stderr.is_none() || when.elapsed() >= DRAIN {
                    if let Some(group) = self
                        .child
                        .as_ref()
                        .and_then(|c| i32::try_from(c.id()).ok())
                        .and_then(Pid::from_raw)
                    {
                        let _ = kill_process_group(group, Signal::KILL);
                    }
                    self.child = None;
                    return Ok(status);
                }
            }
            match self.poll(Duration::from_millis(20)) {
                Ok(Moved::Stdout) => {
                    if let Some(stdout) = &mut self.stdout {
                        if matches!(stdout.read(&mut rest), Ok(0) | Err(_)) {
                            self.stdout = None;
                        }
                    }
                }
                Ok(Moved::Stderr) => self.listen(),
                _ => {}
            }
            self.stop.check()?;
            if began.elapsed() >= self.stall {
                return Err(self.stalled());
            }
        }
    }
}

impl Read for Running {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.stdout.is_none() {
                return Ok(0);
            }
            self.ready()?;
            let Some(stdout) = &mut self.stdout else {
                return Ok(0);
            };
            match stdout.read(buffer) {
                Ok(0) if !buffer.is_empty() => {
                    self.stdout = None;
                    return Ok(0);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }
}

impl Write for Running {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        loop {
            self.ready()?;
            let Some(stdin) = &mut self.stdin else {
                return Err(io::ErrorKind::BrokenPipe.into());
            };
            match stdin.write(buffer) {
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                    ) => {}
                // It has gone: why, it has said.
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {
                    return Err(match self.end() {
                        Ok(()) => Fault::new(
                            Reason::NotWhole,
                            format!("{} ended before it had read all", self.name),
                        )
                        .into_io(),
                        Err(fault) => fault.into_io(),
                    });
                }
                other => return other,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Program {
        Program::new(Path::new("/bin/sh")).args(["-c", script])
    }

    fn setting(stall: u64) -> Setting {
        let mut setting = Setting::new("/tmp");
        setting.stall = Duration::from_millis(stall);
        setting
    }

    #[test]
    fn what_a_program_prints_is_read_and_its_end_decides() {
        let s = setting(5_000);
        assert_eq!(sh("printf abc").output(&s, 10).unwrap(), b"abc");
        assert!(
            sh("printf abcdef")
                .output(&s, 5)
                .unwrap_err()
                .text
                .contains("more than 5")
        );
        let e = sh("echo no luck >&2; exit 3").output(&s, 10).unwrap_err();
        assert_eq!(e.text, "sh failed with status 3: no luck");
        let e = sh("kill -9 $$").run(&s).unwrap_err();
        assert!(e.text.contains("signal 9"), "{e}");
        let e = Program::new(Path::new("/nonexistent/x"))
            .run(&s)
            .unwrap_err();
        assert_eq!(e.reason, Reason::NoProgram);
    }

    #[test]
    fn what_it_says_never_blocks_it_and_is_bounded() {
        let s = setting(5_000);
        let mut r = sh("head -c 3000000 /dev/zero | tr '\\0' 'e' >&2; echo the end >&2; exit 1")
            .read(&s)
            .unwrap();
        let mut out = Vec::new();
        r.read_to_end(&mut out).unwrap();
        let e = r.end().unwrap_err();
        assert!(e.text.ends_with("the end"), "{e}");
        assert!(e.text.len() < 1000);
    }

    #[test]
    fn secrets_are_blotted_out() {
        let secret = Arc::new(Secret::new("hunter2".into()));
        let e = sh("echo password hunter2 is wrong >&2; exit 1")
            .secret(Some(secret))
            .run(&setting(5_000))
            .unwrap_err();
        assert!(e.text.contains("password *** is wrong"), "{e}");
    }

    #[test]
    fn one_that_stalls_is_ended_with_all_that_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let began = Instant::now();
        let mut r = sh(&format!(
            "printf x; sleep 1000 & echo $! >{}; wait",
            pid.display()
        ))
        .read(&setting(500))
        .unwrap();
        let mut out = Vec::new();
        let e = Fault::from_io(r.read_to_end(&mut out).unwrap_err());
        assert_eq!((e.reason, &out[..]), (Reason::Stalled, &b"x"[..]), "{e}");
        assert!(began.elapsed() < Duration::from_secs(6));
        let pid: u32 = std::fs::read_to_string(pid)
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        let until = Instant::now() + Duration::from_secs(5);
        while crate::scratch::started(pid).is_some() {
            assert!(Instant::now() < until, "{pid} lives on");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    #[test]
    fn one_that_is_slow_is_not_ended() {
        let mut r = sh("for i in 1 2 3 4 5; do printf x; sleep 0.2; done")
            .read(&setting(700))
            .unwrap();
        let mut out = Vec::new();
        r.read_to_end(&mut out).unwrap();
        r.end().unwrap();
        assert_eq!(out, b"xxxxx");
    }

    #[test]
    fn a_request_to_stop_is_heard_while_waiting() {
        let s = setting(60_000);
        let stop = s.stop.clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            stop.stop();
        });
        let mut r = sh("sleep 1000").read(&s).unwrap();
        let e = Fault::from_io(r.read(&mut [0; 10]).unwrap_err());
        assert_eq!(e.reason, Reason::Stopped);
    }

    #[test]
    fn what_is_written_arrives_and_one_that_leaves_early_is_told() {
        let s = setting(5_000);
        let mut r = sh("test $(wc -c) = 1000000 || exit 4").write(&s).unwrap();
        r.write_all(&[7; 1_000_000]).unwrap();
        r.end().unwrap();
        let mut r = sh("read x; echo full >&2; exit 5").write(&s).unwrap();
        let e = Fault::from_io(r.write_all(&[b'\n'; 10_000_000]).unwrap_err());
        assert_eq!(e.text, "sh failed with status 5: full");
        let mut r = sh("sleep 1000").write(&setting(300)).unwrap();
        let e = Fault::from_io(r.write_all(&[0; 1_000_000]).unwrap_err());
        assert_eq!(e.reason, Reason::Stalled);
    }

    #[test]
    fn no_environment_is_inherited() {
        let out = sh("env | cut -d= -f1 | sort | tr '\\n' ' '")
            .output(&setting(5_000), 1000)
            .unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "LC_ALL PATH PWD ");
    }
}

//! Running a command within limits: own process group, no inherited environment, capped output, a deadline that holds.
//!
//! At the deadline the whole group gets SIGTERM, and SIGKILL [`GRACE`] later. A process that left the group (a double fork
//! with `setsid`) is found by a mark in its environment. When the command ends by itself, what it left behind is killed
//! too: a check starts nothing that outlives it.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout_at};

/// Between SIGTERM and SIGKILL.
pub const GRACE: Duration = Duration::from_secs(2);
/// Output of a command that is kept, in bytes: of both streams together. More is read and dropped.
pub const OUTPUT_MAX: usize = 4096;
/// How long output is waited for after the command itself has ended.
const DRAIN: Duration = Duration::from_millis(200);
/// The mark: this variable, with a value that no other process has.
const MARK: &str = "KEEPWATCH_COMMAND";

/// What to run.
#[derive(Clone, Debug)]
pub struct Program {
    /// The program, an absolute path, and its arguments. No shell is involved.
    pub argv: Vec<OsString>,
    /// Its whole environment besides the mark.
    pub env: Vec<(OsString, OsString)>,
    /// Where it runs.
    pub directory: PathBuf,
}

impl Program {
    /// A program with a minimal environment, in `/`.
    pub fn new<T: Into<OsString>>(argv: impl IntoIterator<Item = T>) -> Self {
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            env: vec![
                (
                    "PATH".into(),
                    "/run/current-system/sw/bin:/usr/local/bin:/usr/bin:/bin".into(),
                ),
                ("LANG".into(), "C.UTF-8".into()),
            ],
            directory: "/".into(),
        }
    }
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself, with this code.
    Exit(i32),
    /// By a signal that was not ours.
    Signal(i32),
    /// By us, at the deadline.
    Deadline,
}

/// A command that ran.
#[derive(Clone, Debug)]
pub struct Ran {
    /// How it ended.
    pub end: End,
    /// The first [`OUTPUT_MAX`] bytes of its output.
    pub output: Vec<u8>,
}

/// Runs a command until it ends or `deadline` comes; then until it is dead, at most [`GRACE`] later (and the moment that a
/// SIGKILL takes). Dropping the future kills the group at once.
///
/// # Errors
/// It could not be started.
pub async fn run(program: &Program, deadline: Instant) -> io::Result<Ran> {
    let (name, arguments) = program
        .argv
        .split_first()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "there is no command"))?;
    let mut nonce = [0; 8];
    getrandom::fill(&mut nonce).map_err(|e| io::Error::other(e.to_string()))?;
    let mark = format!("{:016x}", u64::from_ne_bytes(nonce));
    let mut child = Command::new(name)
        .args(arguments)
        .env_clear()
        .envs(program.env.iter().map(|(k, v)| (k, v)))
        .env(MARK, &mark)
        .current_dir(&program.directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let group = Group::of(&child, mark)?;
    let mut output = Vec::new();
    let end = {
        let pipes = (child.stdout.take(), child.stderr.take());
        let reading = read(pipes.0, pipes.1, &mut output);
        tokio::pin!(reading);
        let mut drained = false;
        let status = tokio::select! {
            status = wait(&mut child, deadline) => status,
            // Both streams closed before it ended.
            () = &mut reading => { drained = true; wait(&mut child, deadline).await }
        };
        match status? {
            Some(end) => {
                // What it started may hold the pipes open: take what is there, no more.
                if !drained {
                    let _ = tokio::time::timeout(DRAIN, &mut reading).await;
                }
                end
            }
            None => {
                group.signal(Signal::TERM);
                let stopped = tokio::select! {
                    status = wait(&mut child, Instant::now() + GRACE) => matches!(status, Ok(Some(_))),
                    // The pipes are drained meanwhile, else a process that writes could not end.
                    never = async {
                        if !drained {
                            reading.await;
                        }
                        std::future::pending::<bool>().await
                    } => never,
                };
                if !stopped {
                    group.signal(Signal::KILL);
                    child.wait().await?;
                }
                End::Deadline
            }
        }
    };
    let escaped = end == End::Deadline;
    group.finish(escaped).await;
    Ok(Ran { end, output })
}

async fn wait(child: &mut Child, until: Instant) -> io::Result<Option<End>> {
    match timeout_at(until, child.wait()).await {
        Err(_) => Ok(None),
        Ok(status) => {
            let status = status?;
            Ok(Some(match (status.code(), status.signal()) {
                (Some(code), _) => End::Exit(code),
                (None, Some(signal)) => End::Signal(signal),
                (None, None) => End::Exit(-1),
            }))
        }
    }
}

/// Reads both streams to their ends and keeps the first bytes of what comes.
async fn read(
    out: Option<impl AsyncRead + Unpin>,
    err: Option<impl AsyncRead + Unpin>,
    kept: &mut Vec<u8>,
) {
    let (Some(mut out), Some(mut err)) = (out, err) else {
        return;
    };
    let (mut a, mut b) = ([0; 1024], [0; 1024]);
    let (mut out_open, mut err_open) = (true, true);
    while out_open || err_open {
        let (read, buffer, open) = tokio::select! {
            read = out.read(&mut a), if out_open => (read, &a, &mut out_open),
            read = err.read(&mut b), if err_open => (read, &b, &mut err_open),
        };
        match read {
            Ok(n) if n > 0 => {
                let room = OUTPUT_MAX - kept.len().min(OUTPUT_MAX);
                kept.extend_from_slice(&buffer[..n.min(room)]);
            }
            _ => *open = false,
        }
    }
}

/// The process group of a command; killed when this is dropped.
struct Group {
    leader: Pid,
    mark: String,
    over: bool,
}

impl Group {
    fn of(child: &Child, mark: String) -> io::Result<Self> {
        let leader = child
            .id()
            .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?))
            .ok_or_else(|| io::Error::other("the command has no process id"))?;
        Ok(Self {
            leader,
            mark,
            over: false,
        })
    }

    fn signal(&self, signal: Signal) {
        // An empty group is what we want.
        let _ = kill_process_group(self.leader, signal);
    }

    /// Kills what is left of the group, and after a deadline also what left the group.
    async fn finish(mut self, escaped: bool) {
        self.signal(Signal::KILL);
        self.over = true;
        if escaped {
            let mark = format!("{MARK}={}", self.mark).into_bytes();
            // Twice: one may fork while we look.
            for _ in 0..2 {
                let mark = mark.clone();
                let found = tokio::task::spawn_blocking(move || kill_marked(&mark)).await;
                if !found.unwrap_or(false) {
                    break;
                }
                sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.over {
            self.signal(Signal::KILL);
            // Given up without a deadline, because the daemon stops: what left the group must not outlive it.
            kill_marked(format!("{MARK}={}", self.mark).as_bytes());
        }
    }
}

/// Kills processes with this mark in their environment; whether there was one. A pidfd is opened before the environment is
/// read, so the id cannot have gone to another process in between.
fn kill_marked(mark: &[u8]) -> bool {
    let mut found = false;
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return false;
    };
    for entry in processes.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|n| n.parse::<i32>().ok())
            .and_then(Pid::from_raw)
        else {
            continue;
        };
        let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else {
            continue;
        };
        // Of other users' processes we may not read it, and could not kill them.
        let Ok(env) = std::fs::read(entry.path().join("environ")) else {
            continue;
        };
        if env.split(|b| *b == 0).any(|v| v == mark) {
            found |= pidfd_send_signal(handle, Signal::KILL).is_ok();
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Program {
        Program::new(["/bin/sh", "-c", script])
    }

    async fn run_for(script: &str, secs: f64) -> (Ran, Duration) {
        let began = Instant::now();
        let ran = run(&sh(script), began + Duration::from_secs_f64(secs))
            .await
            .unwrap();
        (ran, began.elapsed())
    }

    fn alive(pid: &str) -> bool {
        // A zombie is dead.
        std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).is_ok_and(|s| {
            !s.rsplit(')')
                .next()
                .unwrap_or("")
                .trim_start()
                .starts_with('Z')
        })
    }

    async fn gone(pid: &str) -> bool {
        for _ in 0..100 {
            if !alive(pid) {
                return true;
            }
            sleep(Duration::from_millis(20)).await;
        }
        false
    }

    #[tokio::test]
    async fn ends_and_output() {
        let (ran, _) = run_for("echo out; echo err >&2; exit 7", 10.0).await;
        assert_eq!(ran.end, End::Exit(7));
        let text = String::from_utf8(ran.output).unwrap();
        assert!(text.contains("out\n") && text.contains("err\n"), "{text}");
        assert_eq!(run_for("kill -9 $$", 10.0).await.0.end, End::Signal(9));
        assert!(
            run(&Program::new(["/nonexistent"]), Instant::now())
                .await
                .is_err()
        );
        assert!(
            run(&Program::new::<&str>([]), Instant::now())
                .await
                .is_err()
        );
    }

    #[tokio::test]
    async fn output_is_capped_and_does_not_block() {
        let (ran, took) = run_for("head -c 10000000 /dev/zero", 20.0).await;
        assert_eq!(ran.end, End::Exit(0));
        assert_eq!(ran.output.len(), OUTPUT_MAX);
        assert!(took < Duration::from_secs(15), "{took:?}");
    }

    #[tokio::test]
    async fn nothing_is_inherited() {
        let (ran, _) = run_for("env; pwd; cat", 10.0).await;
        let text = String::from_utf8(ran.output).unwrap();
        let names: Vec<_> = text
            .lines()
            .filter_map(|l| l.split_once('='))
            .map(|(k, _)| k)
            .collect();
        for name in &names {
            assert!(
                ["PATH", "LANG", MARK, "PWD", "_", "SHLVL", "OLDPWD"].contains(name),
                "{name}"
            );
        }
        assert!(text.lines().any(|l| l == "/"));
    }

    #[tokio::test]
    async fn a_command_that_ignores_term_dies_in_time_with_its_group() {
        let (ran, took) = run_for(
            "trap '' TERM; echo $$; sleep 1000 & echo $!; while :; do sleep 0.1; done",
            0.5,
        )
        .await;
        assert_eq!(ran.end, End::Deadline);
        assert!(
            took >= Duration::from_millis(2400) && took < Duration::from_secs(4),
            "{took:?}"
        );
        for pid in String::from_utf8(ran.output).unwrap().lines() {
            assert!(gone(pid).await, "{pid} lives");
        }
    }

    #[tokio::test]
    async fn one_that_obeys_term_need_not_wait() {
        let (ran, took) = run_for("exec sleep 1000", 0.3).await;
        assert_eq!(ran.end, End::Deadline);
        assert!(took < Duration::from_secs(2), "{took:?}");
    }

    #[tokio::test]
    async fn a_double_fork_into_another_session_does_not_escape() {
        let (ran, _) = run_for(
            "setsid sh -c 'echo $$; trap \"\" TERM; while :; do sleep 0.1; done' & sleep 1000",
            0.7,
        )
        .await;
        let text = String::from_utf8(ran.output).unwrap();
        let pid = text.lines().next().expect("setsid is there");
        assert!(gone(pid).await, "{pid} lives");
    }

    #[tokio::test]
    async fn what_is_left_behind_is_killed_and_not_waited_for() {
        let (ran, took) = run_for("sleep 1000 & echo $!", 20.0).await;
        assert_eq!(ran.end, End::Exit(0));
        assert!(took < Duration::from_secs(5), "{took:?}");
        assert!(gone(&String::from_utf8(ran.output).unwrap()).await);
    }

    #[tokio::test]
    async fn dropping_kills_also_what_left_the_group() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let program = sh(&format!(
            "setsid sh -c 'echo $$ > {}; exec sleep 1000' & sleep 1000",
            file.display()
        ));
        let _ = tokio::time::timeout(
            Duration::from_millis(500),
            run(&program, Instant::now() + Duration::from_secs(100)),
        )
        .await;
        assert!(gone(&std::fs::read_to_string(file).unwrap()).await);
    }

    #[tokio::test]
    async fn dropping_kills() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let program = sh(&format!("echo $$ > {}; exec sleep 1000", file.display()));
        let _ = tokio::time::timeout(
            Duration::from_millis(500),
            run(&program, Instant::now() + Duration::from_secs(100)),
        )
        .await;
        assert!(gone(&std::fs::read_to_string(file).unwrap()).await);
    }
}

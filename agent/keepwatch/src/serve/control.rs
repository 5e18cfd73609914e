//! The control socket: what a person asks of the running daemon by `restart`, `reset` and `maintenance`, and what jobs report by `beat`.
//!
//! A unix socket named `control` in the state directory, mode 0600: who may enter that directory as its owner (or as root) may
//! ask, nobody else, and there is no password to lose. A question is one line of JSON, the answer another one; then the connection
//! is closed. What is asked goes the way of all other decisions, through the watcher, so the same policy holds and the same
//! history is written, whoever asks.
//!
//! ```text
//! {"do":"restart","unit":"nginx.service","wait":true}
//! {"ok":true,"message":"nginx.service was restarted","exit":0}
//! ```
//!
//! A restart is answered when its job has ended, if that is asked for: a person wants to know how it went.
//!
//! Jobs of other users have a second one, if `beats_socket` names it: mode 0660, and it takes nothing but reports to heartbeat checks, twenty a
//! second at most. Its group is the daemon's, or that of its directory where that passes it on (setgid).
//!
//! Without a socket, as on a disk that can only be read, everything else of the daemon goes on; it is tried again every minute.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keepwatch_model::check::CheckName;
use keepwatch_watch::clock::{At, Clock as _, HostClock};
use keepwatch_watch::conductor::Command;
use keepwatch_watch::maintenance::{Covers, Open, OpenError, Opener};
use keepwatch_watch::probe::heartbeat::Beat;
use keepwatch_watch::restart::Refusal;
use keepwatch_watch::restart::policy::Phase;
use keepwatch_watch::systemd::UnitName;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::scene::{Scene, Stop};
use crate::errors::plain_io;

/// The longest question or answer, in bytes.
pub const LINE_MAX: u64 = 64 << 10;
/// Connections at once; more wait in the kernel.
const CONNECTIONS: usize = 8;
/// Who connects must ask within this.
const ASKING: Duration = Duration::from_secs(5);
/// The watcher answers within this: systemd may have to be asked first.
const ANSWERING: Duration = Duration::from_secs(60);

/// The longest job of a restart (`on_failure.job_timeout`), and a little for what goes before and after it.
pub const RESTARTING: Duration = Duration::from_secs(3600 + 60);
/// From one report of a job to the next.
const BETWEEN: Duration = Duration::from_millis(50);
/// A socket that could not be made is tried again after this.
const AGAIN: Duration = Duration::from_secs(60);
/// systemd's word for a job that ended well.
const DONE: &str = "done";

/// A question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Question {
    /// Restart a unit now.
    Restart {
        /// The unit.
        unit: UnitName,
        /// Answer when its job has ended, and how.
        #[serde(default)]
        wait: bool,
    },
    /// Forget attempts, cooldown and giving up.
    Reset {
        /// The unit.
        unit: UnitName,
    },
    /// Open a maintenance window.
    MaintenanceStart {
        /// Its name.
        name: CheckName,
        /// Which checks; all when it is empty.
        checks: Vec<CheckName>,
        /// When it ends, in milliseconds since 1970.
        ends: i64,
        /// Why.
        note: String,
    },
    /// Close one.
    MaintenanceEnd {
        /// Its name.
        name: CheckName,
    },
    /// Those that are open.
    MaintenanceList,
    /// Run a check now.
    RunNow {
        /// The check.
        check: CheckName,
    },
    /// A job reports to its heartbeat check.
    Beat {
        /// The check.
        check: CheckName,
        /// What.
        beat: Beat,
    },
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// It was done.
    pub ok: bool,
    /// A sentence.
    pub message: String,
    /// The exit status of who asked.
    pub exit: u8,
    /// What to do when it was not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
    /// More, for programs.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub data: Value,
}

impl Reply {
    fn done(message: String) -> Self {
        Self {
            ok: true,
            message,
            exit: 0,
            advice: None,
            data: Value::Null,
        }
    }

    fn refused(exit: u8, message: String, advice: &str) -> Self {
        Self {
            ok: false,
            message,
            exit,
            advice: (!advice.is_empty()).then(|| advice.to_owned()),
            data: Value::Null,
        }
    }
}

/// Where it lies.
pub fn path(state_directory: &Path) -> PathBuf {
    state_directory.join("control")
}

/// What a socket takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// Every question, of its owner and root.
    All,
    /// Reports of jobs, also of its group.
    Beats,
}

impl Takes {
    fn mode(self) -> u32 {
        match self {
            Self::All => 0o600,
            Self::Beats => 0o660,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::All => "the control socket",
            Self::Beats => "the socket for reports of jobs",
        }
    }

    /// What does not work without it.
    fn verbs(self) -> &'static str {
        match self {
            Self::All => "'keepwatch restart', 'reset', 'maintenance' and 'beat' do not work",
            Self::Beats => "'keepwatch beat' works for the daemon's user and root only",
        }
    }
}

/// The socket; removed when dropped.
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
    takes: Takes,
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Why there is no socket.
#[derive(Debug)]
pub enum Unbound {
    /// Another daemon answers on it.
    Taken,
    /// It cannot be made.
    Failed(io::Error),
}

impl From<io::Error> for Unbound {
    fn from(e: io::Error) -> Self {
        Self::Failed(e)
    }
}

/// What to do when it cannot be made.
fn advice(e: &io::Error) -> &'static str {
    match e.kind() {
        io::ErrorKind::ReadOnlyFilesystem => {
            "mount the file system of the state directory writable"
        }
        io::ErrorKind::InvalidInput => {
            "choose a 'state_directory' whose path is shorter than 100 bytes"
        }
        io::ErrorKind::PermissionDenied => "give the state directory to the daemon's user",
        io::ErrorKind::NotFound => "make the state directory, and give it to the daemon's user",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "make room on the file system of the state directory"
        }
        io::ErrorKind::AddrInUse => "remove what lies there and is no socket",
        _ => "see whether the state directory can be written to",
    }
}

impl Control {
    /// Listens. One that nobody listens on any more is left from a crash, and replaced. Must be called within a runtime.
    ///
    /// # Errors
    /// Another daemon listens there, or the socket cannot be made.
    pub fn bind(path: PathBuf, takes: Takes) -> Result<Self, Unbound> {
        let is_socket = std::fs::symlink_metadata(&path).is_ok_and(|m| m.file_type().is_socket());
        if is_socket {
            match std::os::unix::net::UnixStream::connect(&path) {
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(&path)?;
                }
                _ => return Err(Unbound::Taken),
            }
        }
        let listener = UnixListener::bind(&path)?;
        let control = Self {
            listener,
            path,
            takes,
        };
        let mode = std::fs::Permissions::from_mode(takes.mode());
        std::fs::set_permissions(&control.path, mode)?;
        Ok(control)
    }

    /// Listens, or says in the log why that must wait. Must be called within a runtime.
    ///
    /// # Errors
    /// Another daemon listens there.
    pub fn open(path: &Path, takes: Takes) -> Result<Option<Self>, Unbound> {
        match Self::bind(path.to_owned(), takes) {
            Ok(control) => Ok(Some(control)),
            Err(Unbound::Failed(e)) => {
                tracing::error!(
                    "cannot listen on {} {}: {}; checks, restarts, metrics and alerts go on, {}; it is tried again every {} s; what to do: {}",
                    takes.name(),
                    path.display(),
                    plain_io(&e),
                    takes.verbs(),
                    AGAIN.as_secs(),
                    advice(&e)
                );
                Ok(None)
            }
            Err(taken) => Err(taken),
        }
    }

    /// Answers until it is told to stop; what is under way then is cut off.
    pub async fn run(self, scenes: watch::Receiver<Arc<Scene>>, mut stop: Stop) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.wait() => break,
                Some(_) = connections.join_next() => {}
                accepted = self.listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                    Ok((stream, _)) => {
                        connections.spawn(serve(stream, self.takes, scenes.clone()));
                        // Each report is judged and stored at once, and who sends them is trusted with nothing else.
                        if self.takes == Takes::Beats {
                            tokio::time::sleep(BETWEEN).await;
                        }
                    }
                    Err(e) => {
                        tracing::warn!("cannot accept a connection to the control socket: {e}");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
        connections.shutdown().await;
    }
}

/// Answers until it is told to stop. A socket that could not be made is tried again; `is_open` says whether there is one.
pub async fn keep(
    path: PathBuf,
    takes: Takes,
    first: Option<Control>,
    scenes: watch::Receiver<Arc<Scene>>,
    is_open: Arc<AtomicBool>,
    mut stop: Stop,
) {
    let control = match first {
        Some(control) => control,
        None => loop {
            tokio::select! {
                () = stop.wait() => return,
                () = tokio::time::sleep(AGAIN) => {}
            }
            if let Ok(control) = Control::bind(path.clone(), takes) {
                tracing::info!("{} {} is there now", takes.name(), path.display());
                break control;
            }
        },
    };
    is_open.store(true, Ordering::Relaxed);
    control.run(scenes, stop).await;
}

async fn serve(stream: UnixStream, takes: Takes, scenes: watch::Receiver<Arc<Scene>>) {
    let (read, mut write) = stream.into_split();
    let mut line = Vec::new();
    let mut reader = BufReader::new(read.take(LINE_MAX));
    let reply = match timeout(ASKING, reader.read_until(b'\n', &mut line)).await {
        Ok(Ok(_)) if line.ends_with(b"\n") => match serde_json::from_slice::<Question>(&line) {
            Ok(question) if takes == Takes::All || matches!(question, Question::Beat { .. }) => {
                answer(question, &scenes).await
            }
            Ok(_) => Reply::refused(
                5,
                "this socket takes reports of jobs only; nothing was done".to_owned(),
                "ask as the daemon's user or as root",
            ),
            Err(e) => Reply::refused(2, format!("the question cannot be understood: {e}"), ""),
        },
        _ => return,
    };
    let mut text = serde_json::to_vec(&reply).unwrap_or_default();
    text.push(b'\n');
    let _ = timeout(ASKING, write.write_all(&text)).await;
}

/// Asks the watcher of the present scene.
async fn ask<T>(
    scenes: &watch::Receiver<Arc<Scene>>,
    command: impl FnOnce(oneshot::Sender<T>) -> Command,
) -> Result<T, Reply> {
    let commands = scenes.borrow().commands.clone();
    let (reply, answer) = oneshot::channel();
    let asking = async {
        commands.send(command(reply)).await.ok()?;
        answer.await.ok()
    };
    let gone = || {
        Reply::refused(
            1,
            "the watcher did not answer; nothing is known to have been done".to_owned(),
            "the configuration may just be reloaded: try again in a moment",
        )
    };
    timeout(ANSWERING, asking)
        .await
        .ok()
        .flatten()
        .ok_or_else(gone)
}

async fn answer(question: Question, scenes: &watch::Receiver<Arc<Scene>>) -> Reply {
    match decide(question, scenes).await {
        Ok(reply) | Err(reply) => reply,
    }
}

async fn decide(question: Question, scenes: &watch::Receiver<Arc<Scene>>) -> Result<Reply, Reply> {
    Ok(match question {
        Question::Restart { unit, wait } => {
            let name = unit.clone();
            match ask(scenes, |reply| Command::Restart { unit: name, reply }).await? {
                Ok(_) if wait => restarted(scenes, &unit).await,
                Ok(_) => Reply::done(format!("{unit} is being restarted")),
                Err(Refusal::NotAllowed) => Reply::refused(
                    5,
                    format!("{unit} was not restarted: no check names it, so it is none of ours"),
                    "add 'on_failure.restart_unit' to a check, or use systemctl",
                ),
                Err(reason) => Reply::refused(
                    5,
                    format!("{unit} was not restarted: {reason}"),
                    "'keepwatch history' shows what was done before",
                ),
            }
        }
        Question::Reset { unit } => {
            let name = unit.clone();
            match ask(scenes, |reply| Command::Reset { unit: name, reply }).await? {
                Some(true) => Reply::done(format!("the restarts of {unit} are forgotten")),
                Some(false) => Reply::done(format!("{unit} had no restarts to forget")),
                None => Reply::refused(
                    4,
                    format!("no check restarts {unit}; nothing was changed"),
                    "'keepwatch config show' tells which units checks restart",
                ),
            }
        }
        Question::MaintenanceStart {
            name,
            checks,
            ends,
            note,
        } => start_window(scenes, name, checks, At(ends), note).await?,
        Question::MaintenanceEnd { name } => {
            let asked = name.clone();
            if ask(scenes, |reply| Command::Close { name: asked, reply }).await? {
                Reply::done(format!("the window {name} is closed"))
            } else {
                Reply::refused(
                    4,
                    format!("no window {name} was opened by hand; nothing was changed"),
                    "'keepwatch maintenance list' shows those that are open; a configured one ends by its own time",
                )
            }
        }
        Question::MaintenanceList => {
            let scene = scenes.borrow().clone();
            let windows = scene.overview.borrow().windows.clone();
            let rows: Vec<Value> = windows
                .iter()
                .map(|w| {
                    let saved = scene.saved.borrow();
                    let by_hand = saved.windows.iter().find(|o| o.name == w.name);
                    json!({
                        "name": w.name,
                        "since": w.since.to_string(),
                        "ends": w.ends.to_string(),
                        "opened_by": by_hand.map_or("configuration", |o| match o.opener {
                            Opener::Operator => "operator",
                            Opener::Job => "job",
                        }),
                        "note": by_hand.map_or("", |o| o.note.as_str()),
                    })
                })
                .collect();
            let mut reply = Reply::done(format!("{} windows are open", rows.len()));
            reply.data = rows.into();
            reply
        }
        Question::RunNow { check } => {
            let asked = check.clone();
            if ask(scenes, |reply| Command::RunNow {
                check: asked,
                reply,
            })
            .await?
            {
                Reply::done(format!("check {check} runs now"))
            } else {
                no_such_check(&check)
            }
        }
        Question::Beat { check, beat } => {
            let asked = check.clone();
            let known = ask(scenes, |reply| Command::Beat {
                check: asked,
                beat,
                reply,
            });
            let is_configured = || {
                let scene = scenes.borrow();
                scene.loaded.config.checks.contains_key(check.as_str())
            };
            if known.await? {
                Reply::done(format!("check {check} took note"))
            } else if is_configured() {
                Reply::refused(
                    2,
                    format!(
                        "check {check} asks by itself, nothing can report to it; nothing was noted"
                    ),
                    "only checks with 'probe.heartbeat' take reports",
                )
            } else {
                no_such_check(&check)
            }
        }
    })
}

/// Until the job that was just made has ended.
async fn restarted(scenes: &watch::Receiver<Arc<Scene>>, unit: &UnitName) -> Reply {
    let mut overview = scenes.borrow().overview.clone();
    let ended = overview.wait_for(|o| {
        let phase = o.units.get(unit).map(|view| view.state.phase);
        phase != Some(Phase::Working)
    });
    let unknown = |why: &str| {
        Reply::refused(
            1,
            format!("{unit} is being restarted, and how that ends is not known yet: {why}"),
            "'keepwatch history' tells it when it has ended",
        )
    };
    let result = match timeout(RESTARTING, ended).await {
        Ok(Ok(o)) => o.units.get(unit).and_then(|v| v.state.last_result.clone()),
        Ok(Err(_)) => return unknown("the configuration was reloaded meanwhile"),
        Err(_) => return unknown("its job takes very long"),
    };
    match result.as_deref() {
        Some(DONE) => Reply::done(format!("{unit} was restarted")),
        other => Reply::refused(
            1,
            format!(
                "{unit} could not be restarted: {}",
                other.unwrap_or("no result")
            ),
            &format!("'systemctl status {unit}' and 'journalctl -u {unit}' tell why"),
        ),
    }
}

fn no_such_check(check: &CheckName) -> Reply {
    Reply::refused(
        4,
        format!("there is no such check: {check}"),
        "'keepwatch status' lists the checks",
    )
}

async fn start_window(
    scenes: &watch::Receiver<Arc<Scene>>,
    name: CheckName,
    checks: Vec<CheckName>,
    ends: At,
    note: String,
) -> Result<Reply, Reply> {
    let scene = scenes.borrow().clone();
    let unknown = checks
        .iter()
        .find(|c| !scene.loaded.config.checks.contains_key(c.as_str()));
    if let Some(check) = unknown {
        return Err(no_such_check(check));
    }
    if scene.loaded.config.maintenance.contains_key(name.as_str()) {
        return Err(Reply::refused(
            5,
            format!("{name} is a window of the configuration; nothing was opened"),
            "choose another name",
        ));
    }
    let window = Open {
        name: name.clone(),
        opener: Opener::Operator,
        covers: if checks.is_empty() {
            Covers::All
        } else {
            Covers::Checks(checks)
        },
        opened: HostClock.wall(),
        ends,
        note,
    };
    let opened = ask(scenes, |reply| Command::Open { window, reply }).await?;
    Ok(match opened {
        Ok(()) => Reply::done(format!("the window {name} is open until {ends}")),
        Err(e) => {
            let exit = match e {
                OpenError::TooMany(_) => 5,
                OpenError::Past(_) | OpenError::TooLong(_) | OpenError::TooManyNames(_) => 2,
            };
            Reply::refused(exit, e.to_string(), "")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_read_back_and_others_are_refused() {
        let unit: UnitName = "web.service".parse().expect("a unit");
        for question in [
            Question::Restart {
                unit: unit.clone(),
                wait: true,
            },
            Question::Reset { unit },
            Question::MaintenanceList,
            Question::MaintenanceEnd {
                name: "w".parse().expect("a name"),
            },
            Question::Beat {
                check: "db".parse().expect("a name"),
                beat: Beat::Success,
            },
            Question::Beat {
                check: "db".parse().expect("a name"),
                beat: Beat::Failure("no room".to_owned()),
            },
        ] {
            let text = serde_json::to_string(&question).expect("JSON");
            assert_eq!(
                serde_json::from_str::<Question>(&text).expect("reads back"),
                question
            );
        }
        for text in [
            r#"{"do":"restart","unit":"../x"}"#,
            r#"{"do":"restart"}"#,
            r#"{"do":"explode"}"#,
            r#"{"do":"maintenance_end","name":"a b"}"#,
        ] {
            assert!(serde_json::from_str::<Question>(text).is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn a_socket_of_a_dead_daemon_is_replaced_and_one_of_a_living_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = path(dir.path());
        let first = Control::bind(path.clone(), Takes::All).expect("bound");
        let mode = std::fs::metadata(&path)
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(matches!(
            Control::bind(path.clone(), Takes::All),
            Err(Unbound::Taken)
        ));
        assert!(matches!(
            Control::open(&path, Takes::All),
            Err(Unbound::Taken)
        ));
        drop(first);
        assert!(!path.exists());
        drop(std::os::unix::net::UnixListener::bind(&path).expect("left over"));
        assert!(Control::bind(path, Takes::All).is_ok());
    }

    #[tokio::test]
    async fn the_one_for_jobs_is_of_their_group_also() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("beats");
        let _socket = Control::bind(path.clone(), Takes::Beats).expect("bound");
        let mode = std::fs::metadata(&path)
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o660);
    }

    #[tokio::test]
    async fn a_socket_that_cannot_be_made_is_told_with_what_helps() {
        let dir = tempfile::tempdir().expect("a directory");
        let long = dir.path().join("x".repeat(120)).join("control");
        let absent = dir.path().join("absent").join("control");
        let file = path(dir.path());
        std::fs::write(&file, "").expect("written");
        for (path, word) in [
            (long, "shorter than 100 bytes"),
            (absent, "make the state directory"),
            (file, "is no socket"),
        ] {
            let Err(Unbound::Failed(e)) = Control::bind(path.clone(), Takes::All) else {
                panic!("{} was made", path.display())
            };
            assert!(advice(&e).contains(word), "{e}: {}", advice(&e));
            assert!(matches!(Control::open(&path, Takes::All), Ok(None)));
        }
        let read_only = io::Error::from(io::ErrorKind::ReadOnlyFilesystem);
        assert!(advice(&read_only).contains("writable"));
    }
}

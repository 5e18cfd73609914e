//! The control socket: what a person asks of the running daemon by `restart`, `reset` and `maintenance`.
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

use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
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

/// The socket; removed when dropped.
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Control {
    /// Listens. One that nobody listens on any more is left from a crash, and replaced. Must be called within a runtime.
    ///
    /// # Errors
    /// Another daemon listens there, or the socket cannot be made.
    pub fn bind(path: PathBuf) -> io::Result<Self> {
        let is_socket = std::fs::symlink_metadata(&path).is_ok_and(|m| m.file_type().is_socket());
        if is_socket {
            match std::os::unix::net::UnixStream::connect(&path) {
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(&path)?;
                }
                _ => {
                    return Err(io::Error::new(
                        io::ErrorKind::AddrInUse,
                        "another keepwatch serve uses it",
                    ));
                }
            }
        }
        let listener = UnixListener::bind(&path)?;
        let control = Self { listener, path };
        std::fs::set_permissions(&control.path, std::fs::Permissions::from_mode(0o600))?;
        Ok(control)
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
                        connections.spawn(serve(stream, scenes.clone()));
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

async fn serve(stream: UnixStream, scenes: watch::Receiver<Arc<Scene>>) {
    let (read, mut write) = stream.into_split();
    let mut line = Vec::new();
    let mut reader = BufReader::new(read.take(LINE_MAX));
    let reply = match timeout(ASKING, reader.read_until(b'\n', &mut line)).await {
        Ok(Ok(_)) if line.ends_with(b"\n") => match serde_json::from_slice::<Question>(&line) {
            Ok(question) => answer(question, &scenes).await,
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
            if known.await? {
                Reply::done(format!("check {check} took note"))
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
        let first = Control::bind(path.clone()).expect("bound");
        let mode = std::fs::metadata(&path)
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(Control::bind(path.clone()).is_err());
        drop(first);
        assert!(!path.exists());
        drop(std::os::unix::net::UnixListener::bind(&path).expect("left over"));
        assert!(Control::bind(path).is_ok());
    }
}

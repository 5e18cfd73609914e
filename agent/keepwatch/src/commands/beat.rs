//! `beat`: a job reports to its heartbeat check, by itself or around a command.
//!
//! Around a command nothing of the reporting touches it: its input, output and exit status are its own, and it runs also when nobody
//! can be told.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};

use clap::Args;
use keepwatch_model::check::CheckName;
use keepwatch_watch::probe::heartbeat::Beat;
use rustix::process::Pid;

use super::settings::{self, ConfigArgs, ask_at, end};
use crate::context::Context;
use crate::errors::{Exit, Failure, Outcome, plain_io};
use crate::output::{escape, tell};
use crate::serve::control::{Question, Reply};

/// Characters of a message that are sent; the daemon keeps fewer.
const MESSAGE_MAX: usize = 1000;
/// The status for a command that cannot be started, as of shells.
const NOT_STARTED: i32 = 126;
/// The status for a command that is not there, as of shells.
const NOT_FOUND: i32 = 127;
/// Added to the number of the signal that ended a command, as by shells.
const SIGNALLED: i32 = 128;

/// Report to a heartbeat check that a job is at work, is done or failed
#[derive(Args)]
#[command(
    long_about = "Report to a heartbeat check, through the daemon, that a job begins, is at work, is done or failed. Without an option: that it is done. The check is down when no success comes in time ('period' and 'grace'), when a job that began gives no sign of life ('run_grace'), and at once when it failed.\n\nWith a command after '--' it reports that the job begins, runs the command, reports how it ended, and ends with the command's exit status (128 and the signal's number when it was killed, 127 and 126 when it cannot be started). The command runs also when the daemon cannot be told; that is a warning on standard error.\n\nIt must be run as the daemon's user or as root; for a unit of another user systemd can do that: ExecStartPost=+keepwatch beat NAME. Other users can report where the configuration names a 'beats_socket' and they are of its group.\n\nExit status: 0 noted, 1 the daemon cannot be asked, 2 wrong use or not a heartbeat check, 4 no such check.",
    after_help = "Examples:
  keepwatch beat nightly-dump                       it is done
  keepwatch beat nightly-dump --start
  keepwatch beat nightly-dump --fail --message 'no room on /srv'
  keepwatch beat nightly-dump -- /usr/local/bin/dump --all
  keepwatch beat nightly-dump --socket /run/keepwatch/beats -- /usr/local/bin/dump --all"
)]
pub struct BeatArgs {
    /// The heartbeat check
    #[arg(value_name = "CHECK")]
    pub check: CheckName,
    /// The job begins
    #[arg(long, group = "what")]
    pub start: bool,
    /// The job is at work
    #[arg(long, group = "what")]
    pub alive: bool,
    /// The job is done; so without any of these
    #[arg(long, group = "what")]
    pub success: bool,
    /// The job failed
    #[arg(long, group = "what")]
    pub fail: bool,
    /// Why it failed, for people
    #[arg(long, value_name = "TEXT", requires = "fail")]
    pub message: Option<String>,
    /// Report on this socket ('beats_socket' of the configuration), for users who cannot read the configuration
    #[arg(long, value_name = "FILE")]
    pub socket: Option<PathBuf>,
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Run this command, and report how it ends
    #[arg(last = true, value_name = "ARGV", conflicts_with = "what")]
    pub argv: Vec<OsString>,
}

/// The verb.
pub fn run(context: &Context, args: &BeatArgs) -> Outcome {
    if let Some((program, arguments)) = args.argv.split_first() {
        return around(context, args, program, arguments);
    }
    let beat = match (args.start, args.alive, args.fail) {
        (true, ..) => Beat::Start,
        (_, true, _) => Beat::Alive,
        (.., true) => failure(args.message.as_deref().unwrap_or("it gave no reason")),
        _ => Beat::Success,
    };
    end(context, send(args, beat)?)
}

fn failure(why: &str) -> Beat {
    Beat::Failure(why.chars().take(MESSAGE_MAX).collect())
}

fn send(args: &BeatArgs, beat: Beat) -> Result<Reply, Failure> {
    let check = args.check.clone();
    let question = Question::Beat { check, beat };
    match &args.socket {
        Some(socket) => ask_at(socket, &question),
        None => settings::report(&args.config.load()?.config, &question),
    }
}

/// Tells the daemon if it can be told.
fn report(args: &BeatArgs, beat: Beat) {
    let why = match send(args, beat) {
        Ok(reply) if reply.ok => return,
        Ok(reply) => reply.message,
        Err(failure) => failure.message,
    };
    let why = why.replace('\n', " ");
    tell(&format!(
        "keepwatch: warning: the check {} was not told: {}",
        args.check,
        escape(&why)
    ));
}

fn around(
    context: &Context,
    args: &BeatArgs,
    program: &OsString,
    arguments: &[OsString],
) -> Outcome {
    report(args, Beat::Start);
    if context.cancel.is_cancelled() {
        report(args, failure("it was stopped before its command began"));
        return Err(Failure::failed("it was stopped before the command began"));
    }
    let shown = escape(&program.to_string_lossy());
    let spawned = Command::new(program)
        .args(arguments)
        .env_remove("KEEPWATCH_IDENTITY_FILE")
        .env_remove("KEEPWATCH_WRITER_KEY_FILE")
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(e) => {
            let why = format!("cannot start the command '{shown}': {}", plain_io(&e));
            report(args, failure(&why));
            tell(&format!("keepwatch: {why}"));
            std::process::exit(match e.kind() {
                std::io::ErrorKind::NotFound => NOT_FOUND,
                _ => NOT_STARTED,
            });
        }
    };
    // It stays in our group: it may ask at the terminal.
    context.child.set(Some(Pid::from_child(&child)));
    if context.cancel.is_cancelled() {
        context.child.terminate();
    }
    let waited = child.wait();
    context.child.set(None);
    let (status, why) = match waited {
        Ok(ended) => of(ended),
        Err(e) => (
            1,
            Some(format!("how it ended cannot be told: {}", plain_io(&e))),
        ),
    };
    report(
        args,
        match why {
            None => Beat::Success,
            Some(why) => failure(&format!("the command '{shown}' {why}")),
        },
    );
    match status {
        0 => Ok(Exit::Done),
        status => std::process::exit(status),
    }
}

/// The exit status that tells how a command ended, and in words why that is a failure.
fn of(ended: ExitStatus) -> (i32, Option<String>) {
    match (ended.code(), ended.signal()) {
        (Some(0), _) => (0, None),
        (Some(code), _) => (code, Some(format!("failed with status {code}"))),
        (None, Some(signal)) => (
            SIGNALLED + signal,
            Some(format!("was ended by signal {signal}")),
        ),
        (None, None) => (1, Some("failed".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_that_of_the_command() {
        for (raw, status, word) in [(0, 0, ""), (7 << 8, 7, "status 7"), (9, 137, "signal 9")] {
            let (got, why) = of(ExitStatus::from_raw(raw));
            assert_eq!(got, status);
            assert_eq!(why.is_none(), word.is_empty());
            assert!(why.unwrap_or_default().contains(word));
        }
    }

    #[test]
    fn messages_are_bounded() {
        let Beat::Failure(text) = failure(&"ü".repeat(100_000)) else {
            panic!("a failure")
        };
        assert_eq!(text.chars().count(), MESSAGE_MAX);
    }
}

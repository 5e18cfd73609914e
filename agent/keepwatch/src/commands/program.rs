//! A program whose output is backed up, and all that it started.
//!
//! It gets a process group of its own, so that a request to stop reaches also what holds its output open after it: SIGTERM to the group, and
//! SIGKILL [`GRACE`] later. Two cases are otherwise:
//!
//! - Under a supervisor we lead a group that the supervisor ends, with all that is in it, also when we are killed: the program stays in it.
//! - At a terminal the program may ask there for a password, which only the group in front can. It stays in ours, which gets the
//!   terminal's Ctrl-C as a whole; a SIGTERM from elsewhere ends the program itself.

use std::io;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use keepwatch_engine::progress::Cancel;
use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid,
};
use rustix::termios::tcgetpgrp;
use std::os::unix::process::CommandExt;

use super::patient::Patient;
use crate::context::Context;
use crate::signals::{self, Reach};

/// From SIGTERM to SIGKILL.
const GRACE: Duration = Duration::from_secs(3);
/// The first look whether it has ended comes after this, and each next one after twice as long.
const FIRST_NAP: Duration = Duration::from_millis(2);
/// But no later.
const LONGEST_NAP: Duration = Duration::from_millis(100);

/// A program at work. Dropped, it is left alone: whoever has it ends it.
pub struct Program {
    child: Child,
    pid: Pid,
    /// Its group, when it is its own.
    group: Option<Pid>,
    watched: signals::Child,
    cancel: Cancel,
}

impl Program {
    /// Starts it, with its standard output as a pipe. From then on a request to stop reaches it.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(command: &mut Command, context: &Context) -> io::Result<Self> {
        let is_led = context.globals.supervised_by.is_some() && signals::leads();
        let own = !is_led && !is_at_terminal();
        if own {
            command.process_group(0);
        }
        let child = command.stdout(Stdio::piped()).spawn()?;
        let pid = Pid::from_child(&child);
        context.child.set_reach(Some(match (own, is_led) {
            (true, _) => Reach::Group(pid),
            (false, true) => Reach::OurGroup,
            (false, false) => Reach::One(pid),
        }));
        // It may have been asked before that was set.
        if context.cancel.is_cancelled() {
            context.child.terminate();
        }
        Ok(Program {
            child,
            pid,
            group: own.then_some(pid),
            watched: context.child.clone(),
            cancel: context.cancel.clone(),
        })
    }

    /// What it prints, once.
    pub fn output(&mut self) -> Option<Patient<ChildStdout>> {
        let pipe = self.child.stdout.take()?;
        Some(Patient::new(pipe, self.cancel.clone()))
    }

    /// Waits for its end; after a request to stop for no longer than [`GRACE`].
    ///
    /// # Errors
    /// How it ended cannot be told.
    pub fn wait(mut self) -> io::Result<ExitStatus> {
        self.wait_until(None)
    }

    /// Ends it because nobody wants its output any more.
    pub fn end(mut self) {
        match self.group {
            Some(group) => drop(kill_process_group(group, Signal::TERM)),
            None => drop(kill_process(self.pid, Signal::TERM)),
        }
        let _ = self.wait_until(Some(Instant::now()));
    }

    /// `ending`: since when it is being ended.
    fn wait_until(&mut self, mut ending: Option<Instant>) -> io::Result<ExitStatus> {
        let mut nap = FIRST_NAP;
        while !has_ended(self.pid) {
            if ending.is_none() && self.cancel.is_cancelled() {
                ending = Some(Instant::now());
            }
            if ending.is_some_and(|since| since.elapsed() >= GRACE) {
                self.kill();
            }
            std::thread::sleep(nap);
            nap = (nap * 2).min(LONGEST_NAP);
        }
        // What it started and left behind. It is not waited for yet, so the number of the group is still its own.
        if ending.is_some() && self.group.is_some() {
            self.kill();
        }
        self.watched.set(None);
        self.child.wait()
    }

    fn kill(&self) {
        match self.group {
            Some(group) => drop(kill_process_group(group, Signal::KILL)),
            None => drop(kill_process(self.pid, Signal::KILL)),
        }
    }
}

/// Whether our group is the one in front at a terminal.
fn is_at_terminal() -> bool {
    let front = std::fs::File::open("/dev/tty").map(|tty| tcgetpgrp(&tty));
    matches!(front, Ok(Ok(group)) if group == rustix::process::getpgrp())
}

/// Whether a child has ended. It stays a zombie, so that its number stays its own.
pub fn has_ended(pid: Pid) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    match waitid(WaitId::Pid(pid), options) {
        Ok(status) => status.is_some(),
        Err(Errno::INTR) => false,
        // There is no such child: `wait` will say so.
        Err(_) => true,
    }
}

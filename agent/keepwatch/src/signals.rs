//! The first SIGINT or SIGTERM asks the run to stop in good order; the second ends the process at once, as if nobody had caught it.
//!
//! Under a supervisor (`jobs`) that rule is its own. When it is gone, this process gets SIGTERM from the kernel, and has [`ORPHANED`] to end:
//! nobody else would end it, and the next run of the job may begin at any time.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use keepwatch_engine::progress::Cancel;
use rustix::process::{
    Pid, Signal, getpgrp, getpid, getppid, kill_process, kill_process_group,
    set_parent_process_death_signal,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::output::tell;

/// How long a process whose supervisor is gone may take to end in good order.
const ORPHANED: Duration = Duration::from_secs(8);

/// Who gets the signal.
#[derive(Clone, Copy, Debug)]
pub enum Reach {
    /// A process.
    One(Pid),
    /// A process with all that it started.
    Group(Pid),
    /// All that this process started, in the group that it leads. It gets the signal, too, and must know it already.
    OurGroup,
}

/// A child process that must end when we are asked to.
#[derive(Clone, Default)]
pub struct Child(Arc<Mutex<Option<Reach>>>);

impl Child {
    /// Takes note of it.
    pub fn set(&self, pid: Option<Pid>) {
        self.set_reach(pid.map(Reach::One));
    }
    /// Takes note of it and of what it may start.
    pub fn set_reach(&self, reach: Option<Reach>) {
        *self.0.lock().unwrap_or_else(|e| e.into_inner()) = reach;
    }
    /// Asks it to end.
    pub fn terminate(&self) {
        self.terminate_running();
    }
    /// Asks it to end; false when there is none.
    pub fn terminate_running(&self) -> bool {
        self.signal(Signal::TERM)
    }

    /// Ends it at once with what it started, if that can be told from others.
    fn kill_group(&self) {
        let reach = *self.0.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(Reach::Group(leader)) = reach {
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }

    fn signal(&self, signal: Signal) -> bool {
        match *self.0.lock().unwrap_or_else(|e| e.into_inner()) {
            Some(Reach::One(pid)) => kill_process(pid, signal).is_ok(),
            Some(Reach::Group(leader)) => kill_process_group(leader, signal).is_ok(),
            Some(Reach::OurGroup) => kill_process_group(getpid(), signal).is_ok(),
            None => false,
        }
    }
}

/// Whether this process leads its process group.
pub fn leads() -> bool {
    getpgrp() == getpid()
}

/// Whether the process that began this one is gone.
fn is_gone(supervisor: u32) -> bool {
    !getppid().is_some_and(|p| u32::try_from(p.as_raw_nonzero().get()) == Ok(supervisor))
}

/// When the process that began this one is gone, this one is asked to stop: what it does would be recorded by nobody.
pub fn end_with(supervisor: u32, cancel: &Cancel) {
    if let Err(e) = set_parent_process_death_signal(Some(Signal::TERM)) {
        tracing::warn!("the end of the supervisor is not noticed: {e}");
    }
    // It may have gone before that was said.
    if is_gone(supervisor) {
        cancel.cancel();
    }
}

/// As the last act of a process whose supervisor is gone: ends what it started and left behind. Does nothing for others.
pub fn sweep(supervisor: Option<u32>) {
    if supervisor.is_some_and(is_gone) && leads() {
        let _ = kill_process_group(getpid(), Signal::KILL);
    }
}

/// Ends a process that was told to end and did not, with all that it started.
fn end_later(supervisor: u32) {
    let work = move || {
        std::thread::sleep(ORPHANED);
        sweep(Some(supervisor));
        std::process::exit(1);
    };
    let started = std::thread::Builder::new()
        .name("orphaned".into())
        .spawn(work);
    if let Err(e) = started {
        tracing::warn!("the end of the supervisor is waited for without a bound: {e}");
    }
}

/// Listens from now on. Under a supervisor signals after the first change nothing, because systemd and the supervisor may both send one, and the
/// supervisor kills what does not end.
pub fn listen(cancel: Cancel, child: Child, supervisor: Option<u32>) {
    let mut signals = match Signals::new([SIGINT, SIGTERM, SIGHUP]) {
        Ok(s) => s,
        Err(e) => return tracing::warn!("signals are not caught: {e}"),
    };
    let listener = move || {
        let mut is_orphaned = false;
        for signal in signals.forever() {
            if let (Some(supervisor), false) = (supervisor, is_orphaned) {
                is_orphaned = is_gone(supervisor);
                if is_orphaned {
                    end_later(supervisor);
                }
            }
            if cancel.is_cancelled() && supervisor.is_some() {
                continue;
            }
            if cancel.is_cancelled() {
                child.kill_group();
                let _ = signal_hook::low_level::emulate_default_handler(signal);
                std::process::exit(1);
            }
            cancel.cancel();
            child.terminate();
            if supervisor.is_none() {
                tell("keepwatch: stopping; once more to stop at once");
            }
        }
    };
    if let Err(e) = std::thread::Builder::new()
        .name("signals".into())
        .spawn(listener)
    {
        tracing::warn!("signals are not caught: {e}");
    }
}

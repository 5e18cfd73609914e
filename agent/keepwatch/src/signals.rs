//! The first SIGINT or SIGTERM asks the run to stop in good order; the second ends the process at once, as if nobody had caught it.

use std::sync::{Arc, Mutex};

use keepwatch_engine::progress::Cancel;
use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::output::tell;

/// A child process that must end when we are asked to.
#[derive(Clone, Default)]
pub struct Child(Arc<Mutex<Option<Pid>>>);

impl Child {
    /// Takes note of it.
    pub fn set(&self, pid: Option<Pid>) {
        *self.0.lock().unwrap_or_else(|e| e.into_inner()) = pid;
    }
    /// Asks it to end.
    pub fn terminate(&self) {
        self.terminate_running();
    }
    /// Asks it to end; false when there is none.
    pub fn terminate_running(&self) -> bool {
        match *self.0.lock().unwrap_or_else(|e| e.into_inner()) {
            Some(pid) => kill_process(pid, Signal::TERM).is_ok(),
            None => false,
        }
    }
}

/// When the process that began this one is gone, this one is asked to stop: what it does would be recorded by nobody.
pub fn end_with(supervisor: u32, cancel: &Cancel) {
    if let Err(e) = set_parent_process_death_signal(Some(Signal::TERM)) {
        tracing::warn!("the end of the supervisor is not noticed: {e}");
    }
    // It may have gone before that was said.
    let is_there =
        getppid().is_some_and(|p| u32::try_from(p.as_raw_nonzero().get()) == Ok(supervisor));
    if !is_there {
        cancel.cancel();
    }
}

/// Listens from now on. `supervised`: signals after the first change nothing, because systemd and the supervisor may both send one, and the
/// supervisor kills what does not end.
pub fn listen(cancel: Cancel, child: Child, supervised: bool) {
    let mut signals = match Signals::new([SIGINT, SIGTERM, SIGHUP]) {
        Ok(s) => s,
        Err(e) => return tracing::warn!("signals are not caught: {e}"),
    };
    let listener = move || {
        for signal in signals.forever() {
            if cancel.is_cancelled() && supervised {
                continue;
            }
            if cancel.is_cancelled() {
                let _ = signal_hook::low_level::emulate_default_handler(signal);
                std::process::exit(1);
            }
            cancel.cancel();
            child.terminate();
            if !supervised {
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

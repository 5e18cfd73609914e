//! The request to stop a job. The first signal stops the child in good order, the second kills it; the supervisor itself stays until the
//! run is written down and the units are started again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::output::tell;

/// How often a person, or systemd, asked.
#[derive(Clone, Default)]
pub struct Stop(Arc<AtomicUsize>);

impl Stop {
    /// Whether anybody asked.
    pub fn asked(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }

    /// Whether somebody asked again.
    pub fn insisted(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 1
    }

    /// Asks.
    pub fn ask(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Listens to signals from now on.
    pub fn listen(&self) {
        let mut signals = match Signals::new([SIGINT, SIGTERM, SIGHUP]) {
            Ok(s) => s,
            Err(e) => return tracing::warn!("signals are not caught: {e}"),
        };
        let stop = self.clone();
        let listener = move || {
            for _ in signals.forever() {
                stop.ask();
                tell(match stop.insisted() {
                    false => "keepwatch: stopping; once more to stop at once",
                    true => "keepwatch: stopping at once",
                });
            }
        };
        if let Err(e) = std::thread::Builder::new()
            .name("signals".into())
            .spawn(listener)
        {
            tracing::warn!("signals are not caught: {e}");
        }
    }
}

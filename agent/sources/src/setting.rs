//! What surrounds a dump or a restore: how long to wait, where scratch files may lie, and the request to stop.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::fault::{Fault, Reason};

/// How long a connection may take.
pub const CONNECT: Duration = Duration::from_secs(15);
/// How long nothing may move, unless something else is asked for.
pub const STALL: Duration = Duration::from_secs(600);
/// How long a question to a server may take: a list of databases, a version.
pub const QUESTION: Duration = Duration::from_secs(60);

/// A request to stop, shared with whoever may ask.
#[derive(Clone, Default)]
pub struct Stop {
    asked: Arc<AtomicBool>,
    also: Option<Arc<dyn Fn() -> bool + Send + Sync>>,
}

impl Stop {
    /// Also when somebody else says so.
    pub fn when(also: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Stop {
            asked: Arc::default(),
            also: Some(Arc::new(also)),
        }
    }
    /// Asks.
    pub fn stop(&self) {
        self.asked.store(true, Ordering::SeqCst);
    }
    /// True when asked.
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed) || self.also.as_ref().is_some_and(|also| also())
    }
    /// For `?` where work may end.
    ///
    /// # Errors
    /// It was asked.
    pub fn check(&self) -> Result<(), Fault> {
        match self.is_asked() {
            true => Err(Fault::new(Reason::Stopped, "stopped on request")),
            false => Ok(()),
        }
    }
}

/// What surrounds a dump or a restore.
#[derive(Clone)]
pub struct Setting {
    /// Where private scratch directories are made.
    pub scratch: PathBuf,
    /// How long nothing may move.
    pub stall: Duration,
    /// Told to stop.
    pub stop: Stop,
}

impl Setting {
    /// With the usual patience.
    pub fn new(scratch: impl Into<PathBuf>) -> Self {
        Setting {
            scratch: scratch.into(),
            stall: STALL,
            stop: Stop::default(),
        }
    }
}

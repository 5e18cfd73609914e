//! How a verb tells what it is doing, and how it is told to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Something that did not stop the run, but that a person must know.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// Which file; for people, so not reversible when it is not UTF-8.
    #[serde(serialize_with = "lossy")]
    pub path: Vec<u8>,
    /// What happened to it.
    pub what: String,
}

fn lossy<S: serde::Serializer>(path: &[u8], s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&String::from_utf8_lossy(path))
}

impl Problem {
    /// About a path.
    pub fn new(path: impl Into<Vec<u8>>, what: impl ToString) -> Self {
        Problem {
            path: path.into(),
            what: what.to_string(),
        }
    }
}

/// Problems kept in a report: the first [`Problems::KEPT`], and how many there were. Cost: about 200 bytes each.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Problems {
    /// The first ones.
    pub first: Vec<Problem>,
    /// All of them.
    pub total: u64,
}

impl Problems {
    /// As many are kept.
    pub const KEPT: usize = 1000;
    /// Adds one.
    pub fn push(&mut self, p: Problem) {
        self.total += 1;
        if self.first.len() < Self::KEPT {
            self.first.push(p);
        }
    }
    /// True without any.
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }
}

/// What happens during a run.
pub enum Event<'a> {
    /// A new phase begins: "reading", "committing".
    Phase(&'static str),
    /// How much there is to do, as soon as it is known.
    Total {
        /// Files, packs or other things.
        items: u64,
        /// Bytes.
        bytes: u64,
    },
    /// A thing was begun.
    Item(&'a [u8]),
    /// So much was done since the last event.
    Done {
        /// Files, packs or other things.
        items: u64,
        /// Bytes.
        bytes: u64,
    },
    /// Something that a person must know.
    Problem(&'a Problem),
    /// Something worth knowing.
    Note(&'a str),
}

/// Receives events, from several threads.
pub trait Progress: Send + Sync {
    /// Takes one; must be quick.
    fn event(&self, event: Event<'_>);
}

/// Nobody looks.
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _: Event<'_>) {}
}

/// A request to stop, shared between the one who asks and the run.
#[derive(Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

/// The run was asked to stop, and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("stopped on request")]
pub struct Cancelled;

impl Cancel {
    /// Not asked yet.
    pub fn new() -> Self {
        Self::default()
    }
    /// Asks.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::SeqCst)
    }
    /// True when asked.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
    /// For `?` at the points where a run may stop.
    pub fn check(&self) -> Result<(), Cancelled> {
        if self.is_cancelled() {
            Err(Cancelled)
        } else {
            Ok(())
        }
    }
}

//! A message, before a medium writes it.

use keepwatch_model::check::Severity;

use super::Phase;
use crate::alert::{Alert, AlertId};
use crate::time::At;

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Something fires that was not told.
    Firing,
    /// All that is told is over.
    Resolved,
    /// Something still fires.
    Repeat,
    /// Something is told once.
    Notice,
}

/// An alert in a message.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// The alert.
    pub alert: Alert,
    /// It is over since; none while it fires.
    pub ended: Option<At>,
    /// It is told for the first time, or it is over.
    pub new: bool,
    /// It comes from a channel that could not deliver it.
    pub escalated: bool,
}

/// A message, before a medium writes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// The channel.
    pub channel: String,
    /// The group.
    pub group: String,
    /// What it is about.
    pub kind: Kind,
    /// New ones first, critical ones first.
    pub lines: Vec<Line>,
    /// What is told by it: identity, phase, since when.
    pub(super) tells: Vec<(AlertId, Phase, At)>,
}

impl Message {
    /// Alerts that fire.
    pub fn firing(&self) -> usize {
        self.lines.iter().filter(|l| l.ended.is_none()).count()
    }

    /// The worst of them.
    pub fn severity(&self) -> Severity {
        self.lines
            .iter()
            .map(|l| l.alert.severity())
            .min()
            .unwrap_or(Severity::Info)
    }
}

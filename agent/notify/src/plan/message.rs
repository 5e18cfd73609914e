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
    /// The hour's messages are used up: further ones are held back. Its lines are critical alerts that nobody knew of.
    Held,
    /// There is room again: how many messages were left out, and how everything stands.
    Summary,
}

impl Kind {
    /// About the channel and not about one group.
    pub const fn is_of_channel(self) -> bool {
        matches!(self, Self::Held | Self::Summary)
    }
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
    /// A sentence before the lines; may be empty.
    pub note: String,
    /// New ones first, critical ones first.
    pub lines: Vec<Line>,
    /// What is told by it.
    pub(super) tells: Vec<Tell>,
}

/// That a message tells something of an alert.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tell {
    /// In which group.
    pub group: String,
    /// Which.
    pub id: AlertId,
    /// How it stood.
    pub phase: Phase,
    /// Since when.
    pub changed: At,
}

impl Message {
    /// Alerts that fire.
    pub fn firing(&self) -> usize {
        self.lines.iter().filter(|l| l.ended.is_none()).count()
    }

    /// The worst of them. That messages are held back is a warning even when it names none.
    pub fn severity(&self) -> Severity {
        let none = match self.kind {
            Kind::Held => Severity::Warning,
            _ => Severity::Info,
        };
        let all = self.lines.iter().map(|l| l.alert.severity());
        all.min().unwrap_or(none)
    }
}

//! What happens when the messages of an hour are used up.
//!
//! ```text
//! free ──news, and no room──▶ held: one message says so ──half of the hour's messages are free again──▶ free: one message says how
//!                              │    ▲                                                                      many were left out, and
//!                              └────┘ critical alerts that nobody knows of are told together, every HELD   how everything stands
//! ```
//!
//! While held, ordinary messages rest, but for half as many as the hour holds about groups with a critical alert: a check that goes
//! up and down may use these up, and still hides no other. What begins is told by the messages of this module, all of it in one,
//! which do not count as messages of the hour: one when it begins, then at most one in [`HELD`]. An alert that was told within the
//! last hour does not begin when it fires again. There is room again only when half of the hour is free; else each message that
//! leaves the hour would make one that says how many were left out, and one that says that further ones are.

use std::time::Duration;

use keepwatch_model::check::Severity;
use serde::{Deserialize, Serialize};

use super::message::{Kind, Message};
use super::state::{ChannelState, Group, Member, Phase, sort};
use super::{Next, Rules};
use crate::limits::{BACKOFF_MAX, HELD, HOUR};
use crate::time::At;

/// What is remembered while messages are held back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Held {
    /// Since when.
    pub since: At,
    /// People know.
    pub announced: bool,
    /// The last message about it.
    pub last: Option<At>,
    /// Ordinary messages about critical groups since then.
    pub critical: u32,
    /// Messages that would have been sent.
    pub left_out: u64,
    /// The message that is due was due first.
    pub due_since: Option<At>,
    /// Refusals in a row of that message.
    pub attempts: u32,
    /// Not tried before.
    pub not_before: At,
}

impl Held {
    pub(super) fn new(now: At) -> Self {
        Self {
            since: now,
            ..Self::default()
        }
    }

    /// What lies in the future is of a clock that was wrong.
    pub(super) fn tidy(&mut self, now: At) {
        self.since = self.since.min(now);
        self.last = self.last.map(|at| at.min(now));
        self.due_since = self.due_since.map(|at| at.min(now));
        self.not_before = self.not_before.min(now.plus(BACKOFF_MAX));
    }

    fn done(&mut self) {
        self.due_since = None;
        self.attempts = 0;
        self.not_before = At::default();
    }
}

impl Rules {
    /// Messages in an hour.
    pub(super) fn limit(&self) -> usize {
        self.per_hour.max(1) as usize
    }

    /// Further ones about critical alerts.
    pub(super) fn extra(&self) -> usize {
        self.limit().div_ceil(2)
    }

    /// As many messages in the hour leave room again.
    fn rest(&self) -> usize {
        self.limit() - (self.limit() / 2).max(1)
    }

    fn between(&self) -> Duration {
        HELD.max(self.interval)
    }
}

/// It is critical, is due, and nobody was told of it within the hour.
fn begins(m: &Member, rules: &Rules, now: At) -> bool {
    let is_news = match m.phase {
        Phase::Firing => m.told_firing.is_none_or(|at| now.since(at) >= HOUR),
        Phase::Notice => true,
        Phase::Resolved(_) => false,
    };
    is_news
        && m.alert.severity() == Severity::Critical
        && m.due(rules).is_some_and(|due| due <= now)
}

impl Group {
    /// The newest change that is due and is not told by the messages of this module; else when one will be due.
    fn resting(&self, rules: &Rules, now: At) -> (Option<At>, Option<At>) {
        let after = self.last_sent.map(|at| at.plus(rules.interval));
        let (mut newest, mut soonest) = (None::<At>, None::<At>);
        for m in self.members.values() {
            let Some(due) = m.due(rules).map(|due| due.max(after.unwrap_or_default())) else {
                continue;
            };
            if due > now {
                soonest = Some(soonest.map_or(due, |s| s.min(due)));
            } else if !begins(m, rules, now) {
                newest = newest.max(Some(m.changed));
            }
        }
        (newest, soonest)
    }
}

impl ChannelState {
    /// What is to be done while messages are held back.
    pub(super) fn next_held(&mut self, name: &str, rules: &Rules, now: At) -> Next {
        let mut until = self.count(rules, now);
        let Some(held) = self.held.clone() else {
            return Next::Idle;
        };
        if self.not_before > now {
            return Next::Wait(self.not_before);
        }
        let mut wait = |at: At| until = Some(until.map_or(at, |u| u.min(at)));
        let may_speak = held.not_before <= now;
        if !may_speak {
            wait(held.not_before);
        }
        if may_speak && !held.announced {
            return self.speak(name, rules, now, Kind::Held);
        }
        if self.sent.len() <= rules.rest() {
            if may_speak && held.announced {
                return self.speak(name, rules, now, Kind::Summary);
            }
        } else {
            let leaves = self.sent[self.sent.len() - rules.rest() - 1];
            wait(leaves.plus(HOUR));
        }
        let is_left = (held.critical as usize) < rules.extra()
            && self.sent.len() < rules.limit() + rules.extra();
        if is_left {
            let (ready, _) = self.ready(rules, now);
            let next = ready.iter().find(|r| r.critical && r.news);
            if let Some(group) = next.and_then(|r| Some((&r.key, self.groups.get_mut(&r.key)?))) {
                return Next::Send(Box::new(group.1.message(name, group.0, rules, now)));
            }
        }
        let mut members = self.groups.values().flat_map(|g| g.members.values());
        if members.any(|m| begins(m, rules, now)) {
            let next = held
                .last
                .map_or(now, |at| at.plus(rules.between()))
                .max(held.not_before);
            if next <= now {
                return self.speak(name, rules, now, Kind::Held);
            }
            wait(next);
        }
        until.map_or(Next::Idle, |at| {
            Next::Wait(at.max(now.plus(Duration::from_secs(1))))
        })
    }

    /// Counts what is due and rests. When more of it will be due.
    fn count(&mut self, rules: &Rules, now: At) -> Option<At> {
        let mut soonest = None::<At>;
        let mut more = 0;
        for group in self.groups.values_mut() {
            let (newest, later) = group.resting(rules, now);
            if newest.is_some() && newest > group.left_out {
                group.left_out = newest;
                more += 1;
            }
            soonest = match (soonest, later) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
        if let Some(held) = &mut self.held {
            held.left_out += more;
        }
        soonest
    }

    fn speak(&mut self, name: &str, rules: &Rules, now: At, kind: Kind) -> Next {
        let (mut lines, mut tells) = (Vec::new(), Vec::new());
        let all = kind == Kind::Summary;
        for (key, group) in &mut self.groups {
            let wanted = |m: &Member| all || begins(m, rules, now);
            group.write(key, rules, now, wanted, &mut lines, &mut tells);
        }
        sort(&mut lines);
        let Some(held) = &mut self.held else {
            return Next::Idle;
        };
        held.due_since.get_or_insert(now);
        let left_out = match held.left_out {
            1 => "1 message was left out".to_owned(),
            n => format!("{n} messages were left out"),
        };
        let note = match (kind, held.announced) {
            (Kind::Summary, _) => {
                let fires = lines.iter().any(|l| l.ended.is_none());
                let rest = if fires {
                    "This"
                } else {
                    "Nothing fires now; this"
                };
                format!(
                    "{left_out} since {}. {rest} is how everything stands now.",
                    held.since.short()
                )
            }
            (_, false) => format!(
                "The {} messages that an hour may hold are used up: further ones are held back, until one says how many were left out. Critical alerts that begin are still told, every few minutes.",
                rules.limit()
            ),
            (_, true) => {
                format!("{left_out} so far. These critical alerts began meanwhile.")
            }
        };
        Next::Send(Box::new(Message {
            channel: name.into(),
            group: String::new(),
            kind,
            note,
            lines,
            tells,
        }))
    }

    /// A message was delivered, or given up: what follows for what is held back.
    pub(super) fn spoke(&mut self, kind: Kind, now: At) {
        match (kind, &mut self.held) {
            (Kind::Summary, held) => {
                *held = None;
                for group in self.groups.values_mut() {
                    group.left_out = None;
                }
            }
            (Kind::Held, Some(held)) => {
                held.announced = true;
                held.last = Some(now);
                held.done();
            }
            (_, Some(held)) => held.critical = held.critical.saturating_add(1),
            (_, None) => {}
        }
    }
}

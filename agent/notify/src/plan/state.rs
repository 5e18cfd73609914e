//! What is remembered of channels, groups and alerts. It is stored, so fields are added with defaults.

use std::collections::BTreeMap;
use std::time::Duration;

use keepwatch_model::check::Severity;
use serde::{Deserialize, Serialize};

use super::{Kind, Line, Message, Rules};
use crate::alert::{Alert, AlertId};
use crate::limits::ALERTS;
use crate::time::At;

/// The version of [`State`]. Fields are added with defaults.
pub const STATE_VERSION: u32 = 1;

/// What must survive a restart.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// [`STATE_VERSION`].
    pub version: u32,
    /// By name.
    pub channels: BTreeMap<String, ChannelState>,
}

/// What is remembered of a channel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChannelState {
    /// By their values.
    pub groups: BTreeMap<String, Group>,
    /// Messages of the last hour.
    pub sent: Vec<At>,
    /// Failures in a row of the sink.
    pub attempts: u32,
    /// Nothing is tried before.
    pub not_before: At,
    /// What happened.
    pub tally: Tally,
}

/// What happened on a channel since its state was begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tally {
    /// Messages delivered.
    pub delivered: u64,
    /// Attempts that failed.
    pub failures: u64,
    /// Messages given up.
    pub undeliverable: u64,
    /// Alerts that there was no room for.
    pub overflow: u64,
}

/// Alerts that are told together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Group {
    /// By identity.
    pub members: BTreeMap<AlertId, Member>,
    /// The last message.
    pub last_sent: Option<At>,
    /// The message that is due was due first.
    pub due_since: Option<At>,
    /// Refusals in a row of this group's message.
    pub attempts: u32,
    /// Not tried before.
    pub not_before: At,
}

/// How an alert stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It fires.
    Firing,
    /// It is over since.
    Resolved(At),
    /// It is told once.
    Notice,
}

/// What was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// Nothing.
    Nothing,
    /// That it fires.
    Firing,
    /// That it is over.
    Resolved,
}

/// An alert in a group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// The alert.
    pub alert: Alert,
    /// How it stands.
    pub phase: Phase,
    /// Since when.
    pub changed: At,
    /// What was told.
    pub told: Told,
    /// When it was last told that it fires, anew or again.
    pub told_firing: Option<At>,
    /// A message with it was due.
    pub was_due: bool,
    /// It came here because another channel could not deliver it.
    pub escalated: bool,
}

impl Member {
    pub(super) fn new(alert: Alert, phase: Phase, now: At) -> Self {
        Self {
            alert,
            phase,
            changed: now,
            told: Told::Nothing,
            told_firing: None,
            was_due: false,
            escalated: false,
        }
    }

    /// What would be told is not what was told.
    pub(super) fn is_pending(&self) -> bool {
        match (self.phase, self.told) {
            (Phase::Firing, Told::Firing) => false,
            // It fired and was over again before that could be told: still told when it should have been.
            (Phase::Resolved(_), Told::Nothing | Told::Resolved) => self.was_due,
            _ => true,
        }
    }

    pub(super) fn due(&self, rules: &Rules) -> Option<At> {
        if !self.is_pending() {
            return None;
        }
        Some(match self.phase {
            Phase::Notice => self.changed,
            Phase::Resolved(_) => self.changed.plus(rules.wait),
            Phase::Firing => {
                let cool = self.told_firing.map(|at| at.plus(rules.cooldown));
                self.changed.plus(rules.wait).max(cool.unwrap_or_default())
            }
        })
    }
}

impl ChannelState {
    fn alerts(&self) -> usize {
        self.groups.values().map(|g| g.members.len()).sum()
    }

    /// An alert fires. Whether that is news.
    pub(super) fn fires(&mut self, rules: &Rules, now: At, id: AlertId, alert: &Alert) -> bool {
        let key = group_key(rules, alert);
        let Some(member) = self
            .groups
            .get_mut(&key)
            .and_then(|g| g.members.get_mut(&id))
        else {
            return self.admit(rules, now, Member::new(alert.clone(), Phase::Firing, now));
        };
        let news = member.phase != Phase::Firing;
        if news {
            member.phase = Phase::Firing;
            member.changed = now;
        }
        member.alert = alert.clone();
        news
    }

    /// Takes a new member in, when there is room.
    pub(super) fn admit(&mut self, rules: &Rules, now: At, member: Member) -> bool {
        if self.alerts() >= ALERTS {
            self.tidy(rules, now);
        }
        if self.alerts() >= ALERTS {
            self.tally.overflow += 1;
            return false;
        }
        let mut key = group_key(rules, &member.alert);
        let mut id = member.alert.id();
        if member.phase == Phase::Notice {
            // Apart from the alert of the same labels; each notice is one of its own, the same one twice is one.
            key.push_str("\u{1}notice");
            id.0 = format!("{}-{}", id.0, member.alert.starts().0);
        }
        self.groups
            .entry(key)
            .or_default()
            .members
            .insert(id, member);
        true
    }

    /// Forgets what is over and told. Moments that lie in the future are of a clock that was wrong: they become now, or waits that
    /// are counted from them would last for years.
    pub(super) fn tidy(&mut self, rules: &Rules, now: At) {
        let hour = Duration::from_secs(3600);
        // What lies in the future is of a clock that was wrong.
        self.sent.retain(|at| *at <= now && now.since(*at) < hour);
        for group in self.groups.values_mut() {
            for at in [&mut group.last_sent, &mut group.due_since] {
                *at = at.map(|at| at.min(now));
            }
            for m in group.members.values_mut() {
                m.changed = m.changed.min(now);
                m.told_firing = m.told_firing.map(|at| at.min(now));
            }
        }
        for group in self.groups.values_mut() {
            group.members.retain(|_, m| {
                let over = matches!(m.phase, Phase::Resolved(_)) && !m.is_pending();
                let cooling = m
                    .told_firing
                    .is_some_and(|at| at <= now && now.since(at) < rules.cooldown);
                !over || cooling
            });
        }
        self.groups.retain(|_, g| {
            !g.members.is_empty()
                || g.last_sent
                    .is_some_and(|at| at <= now && now.since(at) < rules.interval)
        });
    }
}

fn group_key(rules: &Rules, alert: &Alert) -> String {
    rules
        .group_by
        .iter()
        .map(|label| alert.labels().get(label).map_or("", String::as_str))
        .collect::<Vec<_>>()
        .join("\u{1}")
}

impl Group {
    pub(super) fn is_critical(&self) -> bool {
        self.members.values().any(|m| {
            m.alert.severity() == Severity::Critical && (m.is_pending() || m.phase == Phase::Firing)
        })
    }

    /// When its next message is due; none when there is none.
    pub(super) fn due(&self, rules: &Rules) -> Option<At> {
        let pending = self.members.values().filter_map(|m| m.due(rules)).min();
        if let Some(due) = pending {
            let after = self
                .last_sent
                .map(|at| at.plus(rules.interval))
                .unwrap_or_default();
            return Some(due.max(after));
        }
        if !self.members.values().any(|m| m.phase == Phase::Firing) {
            return None;
        }
        let repeat = if self.is_critical() {
            rules.repeat_critical
        } else {
            rules.repeat
        };
        let last = self
            .last_sent
            .or_else(|| self.members.values().filter_map(|m| m.told_firing).max())?;
        Some(last.plus(repeat))
    }

    /// Writes down what there is to tell now.
    pub(super) fn message(&mut self, channel: &str, key: &str, rules: &Rules, now: At) -> Message {
        self.due_since.get_or_insert(now);
        let mut tells = Vec::new();
        let mut lines = Vec::new();
        let (mut fires, mut ends, mut notices) = (false, false, false);
        for (id, m) in &mut self.members {
            let pending = m.is_pending();
            // One that fires again and cools down is left for later.
            let cooling = m.told != Told::Nothing && m.due(rules).is_some_and(|due| due > now);
            let held = pending && m.phase == Phase::Firing && cooling;
            if held || (!pending && m.phase != Phase::Firing) {
                continue;
            }
            m.was_due = true;
            match m.phase {
                Phase::Firing => fires |= pending,
                Phase::Resolved(_) => ends |= pending,
                Phase::Notice => notices = true,
            }
            tells.push((id.clone(), m.phase, m.changed));
            lines.push(Line {
                alert: m.alert.clone(),
                ended: match m.phase {
                    Phase::Resolved(at) => Some(at),
                    Phase::Firing | Phase::Notice => None,
                },
                new: pending,
                escalated: m.escalated,
            });
        }
        lines.sort_by_cached_key(|l| {
            let a = &l.alert;
            (
                !l.new,
                l.ended.is_some(),
                a.severity(),
                a.name().to_owned(),
                a.subject(),
            )
        });
        let kind = if fires {
            Kind::Firing
        } else if ends {
            Kind::Resolved
        } else if notices {
            Kind::Notice
        } else {
            Kind::Repeat
        };
        Message {
            channel: channel.into(),
            group: key.into(),
            kind,
            lines,
            tells,
        }
    }

    /// What this message told is told. What changed since it was written is still pending.
    pub(super) fn told(&mut self, message: &Message, now: At) {
        self.last_sent = Some(now);
        self.due_since = None;
        self.attempts = 0;
        self.not_before = At::default();
        for (id, phase, changed) in &message.tells {
            if *phase == Phase::Notice {
                self.members.remove(id);
                continue;
            }
            let Some(m) = self.members.get_mut(id) else {
                continue;
            };
            m.told = match phase {
                Phase::Firing => {
                    m.told_firing = Some(now);
                    Told::Firing
                }
                _ => Told::Resolved,
            };
            if m.phase == *phase && m.changed == (*changed).min(now) {
                m.was_due = false;
            }
        }
    }
}

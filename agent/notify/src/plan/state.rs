//! What is remembered of channels, groups and alerts. It is stored, so fields are added with defaults.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use keepwatch_model::check::Severity;
use serde::{Deserialize, Serialize};

use super::held::Held;
use super::message::Tell;
use super::{Kind, Line, Message, Rules};
use crate::alert::{Alert, AlertId};
use crate::limits::{ALERTS, BACKOFF_MAX, HOUR};
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
    /// Set while the hour's messages are used up.
    pub held: Option<Held>,
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
    /// The newest change whose message was held back and counted.
    pub left_out: Option<At>,
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

/// A group that something is due of.
pub(super) struct Ready {
    /// It holds a critical alert.
    pub critical: bool,
    /// Something changed; else what fires is told again.
    pub news: bool,
    /// Since when.
    pub due: At,
    /// Which.
    pub key: String,
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
        // Whoever says what fires may not know when it began: what was known first holds for as long as people believe that it fires.
        let goes_on = !news || member.told == Told::Firing;
        let began = member.alert.starts();
        if news {
            member.phase = Phase::Firing;
            member.changed = now;
        }
        member.alert = alert.clone();
        if goes_on {
            member.alert = member.alert.clone().began(began.min(alert.starts()));
        }
        news
    }

    /// Groups that something is due of, those with a critical alert first; and when the next of the others is.
    pub(super) fn ready(&mut self, rules: &Rules, now: At) -> (Vec<Ready>, Option<At>) {
        let (mut ready, mut soonest) = (Vec::new(), None::<At>);
        for (key, group) in &mut self.groups {
            let Some((due, news)) = group.due(rules) else {
                continue;
            };
            group.not_before = group.not_before.min(now.plus(BACKOFF_MAX));
            let due = due.max(group.not_before);
            if due <= now {
                ready.push(Ready {
                    critical: group.is_critical(),
                    news,
                    due,
                    key: key.clone(),
                });
            } else {
                soonest = Some(soonest.map_or(due, |s| s.min(due)));
            }
        }
        ready.sort_by(|a, b| (!a.critical, a.due, &a.key).cmp(&(!b.critical, b.due, &b.key)));
        (ready, soonest)
    }

    /// Takes a new member in, when there is room.
    pub(super) fn admit(&mut self, rules: &Rules, now: At, member: Member) -> bool {
        if self.alerts() >= ALERTS {
            self.tidy(rules, now);
            self.forget(now, rules.cooldown);
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
        // What lies in the future is of a clock that was wrong.
        self.sent.retain(|at| *at <= now && now.since(*at) < HOUR);
        if let Some(held) = &mut self.held {
            held.tidy(now);
        }
        for group in self.groups.values_mut() {
            let moments = [
                &mut group.last_sent,
                &mut group.due_since,
                &mut group.left_out,
            ];
            for at in moments {
                *at = at.map(|at| at.min(now));
            }
            for m in group.members.values_mut() {
                m.changed = m.changed.min(now);
                m.told_firing = m.told_firing.map(|at| at.min(now));
            }
        }
        // An hour, so that one that was told lately is known from one that begins.
        self.forget(now, rules.cooldown.max(HOUR));
        self.groups.retain(|_, g| {
            !g.members.is_empty()
                || g.last_sent
                    .is_some_and(|at| at <= now && now.since(at) < rules.interval)
        });
    }
}

impl ChannelState {
    /// Forgets what is over and was told longer ago than this.
    fn forget(&mut self, now: At, after: Duration) {
        for group in self.groups.values_mut() {
            group.members.retain(|_, m| {
                let over = matches!(m.phase, Phase::Resolved(_)) && !m.is_pending();
                let lately = m
                    .told_firing
                    .is_some_and(|at| at <= now && now.since(at) < after);
                !over || lately
            });
        }
    }

    /// What this message told is told.
    pub(super) fn told(&mut self, message: &Message, now: At) {
        if message.kind.is_of_channel() {
            let groups: BTreeSet<&String> = message.tells.iter().map(|t| &t.group).collect();
            for key in groups {
                if let Some(group) = self.groups.get_mut(key) {
                    group.told(key, message, now);
                }
            }
        } else if let Some(group) = self.groups.get_mut(&message.group) {
            group.told(&message.group, message, now);
        }
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

    /// When its next message is due, and whether it is news; none when there is none.
    pub(super) fn due(&self, rules: &Rules) -> Option<(At, bool)> {
        let pending = self.members.values().filter_map(|m| m.due(rules)).min();
        if let Some(due) = pending {
            let after = self
                .last_sent
                .map(|at| at.plus(rules.interval))
                .unwrap_or_default();
            return Some((due.max(after), true));
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
        Some((last.plus(repeat), false))
    }

    /// Writes down what there is to tell now.
    pub(super) fn message(&mut self, channel: &str, key: &str, rules: &Rules, now: At) -> Message {
        self.due_since.get_or_insert(now);
        let (mut lines, mut tells) = (Vec::new(), Vec::new());
        self.write(key, rules, now, |_| true, &mut lines, &mut tells);
        sort(&mut lines);
        let is =
            |phase: fn(&Phase) -> bool| tells.iter().any(|t| phase(&t.phase) && self.is_news(t));
        let kind = if is(|p| *p == Phase::Firing) {
            Kind::Firing
        } else if is(|p| matches!(p, Phase::Resolved(_))) {
            Kind::Resolved
        } else if is(|p| *p == Phase::Notice) {
            Kind::Notice
        } else {
            Kind::Repeat
        };
        Message {
            channel: channel.into(),
            group: key.into(),
            kind,
            note: String::new(),
            lines,
            tells,
        }
    }

    fn is_news(&self, tell: &Tell) -> bool {
        self.members.get(&tell.id).is_some_and(Member::is_pending)
    }

    /// The lines of those members that are wanted, and what they tell: what is pending, and what fires.
    pub(super) fn write(
        &mut self,
        key: &str,
        rules: &Rules,
        now: At,
        wanted: impl Fn(&Member) -> bool,
        lines: &mut Vec<Line>,
        tells: &mut Vec<Tell>,
    ) {
        for (id, m) in self.members.iter_mut().filter(|(_, m)| wanted(m)) {
            let pending = m.is_pending();
            // One that fires again and cools down is left for later.
            let cooling = m.told != Told::Nothing && m.due(rules).is_some_and(|due| due > now);
            let held = pending && m.phase == Phase::Firing && cooling;
            if held || (!pending && m.phase != Phase::Firing) {
                continue;
            }
            m.was_due = true;
            tells.push(Tell {
                group: key.to_owned(),
                id: id.clone(),
                phase: m.phase,
                changed: m.changed,
            });
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
    }

    /// What this message told is told. What changed since it was written is still pending.
    fn told(&mut self, key: &str, message: &Message, now: At) {
        self.last_sent = Some(now);
        self.due_since = None;
        self.attempts = 0;
        self.not_before = At::default();
        for tell in message.tells.iter().filter(|t| t.group == key) {
            if tell.phase == Phase::Notice {
                self.members.remove(&tell.id);
                continue;
            }
            let Some(m) = self.members.get_mut(&tell.id) else {
                continue;
            };
            m.told = match tell.phase {
                Phase::Firing => {
                    m.told_firing = Some(now);
                    Told::Firing
                }
                _ => Told::Resolved,
            };
            if m.phase == tell.phase && m.changed == tell.changed.min(now) {
                m.was_due = false;
            }
        }
    }
}

/// New ones first, what fires before what is over, critical ones first.
pub(super) fn sort(lines: &mut [Line]) {
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
}

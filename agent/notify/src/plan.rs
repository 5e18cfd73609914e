//! What is told to whom, and when: a pure state machine over serialisable state.
//!
//! For each channel the state remembers, of each alert, its phase (firing, resolved, or a notice that is told once) and what was
//! told of it. What differs is *pending*. Pending alerts of one group (the same values of `group_by`) make one message:
//!
//! - not before `wait` has passed since the first of them changed, so that what breaks together is told together;
//! - not before `interval` has passed since the last message of the group;
//! - an alert that fires again is not told before `cooldown` has passed since it was told last;
//! - what still fires is told again after `repeat`;
//! - not more than `per_hour` messages of a channel in an hour; half as many again are kept for critical ones.
//!
//! An alert that resolves before it was due is never told. One that was due and could not be delivered is told as resolved, with
//! both times. A message that cannot be delivered until `deadline` has passed goes to the `fallback` channel, once, or is counted
//! as undeliverable; a sink that is down delays all messages of its channel, a message that a sink refuses delays only its group.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use keepwatch_model::check::Severity;
use serde::{Deserialize, Serialize};

use crate::alert::{Alert, AlertId};
use crate::limits::{ALERTS, BACKOFF, BACKOFF_MAX, JITTER, RETRY_AFTER_MAX};
use crate::time::At;

/// How a channel is used.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rules {
    /// Alerts that matter less are not told.
    pub min_severity: Severity,
    /// Labels whose values make a group.
    pub group_by: Vec<String>,
    /// From the first change to the message.
    pub wait: Duration,
    /// Between two messages of one group.
    pub interval: Duration,
    /// What still fires is told again.
    pub repeat: Duration,
    /// The same for groups with a critical alert.
    pub repeat_critical: Duration,
    /// From telling that an alert fires to telling it of the same alert again.
    pub cooldown: Duration,
    /// Tell also that an alert is over.
    pub resolved: bool,
    /// Messages in an hour.
    pub per_hour: u32,
    /// How long a message is tried.
    pub deadline: Duration,
    /// The channel that gets what this one cannot deliver.
    pub fallback: Option<String>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            min_severity: Severity::Warning,
            group_by: vec!["alertname".into(), "instance".into()],
            wait: Duration::from_secs(10),
            interval: Duration::from_secs(60),
            repeat: Duration::from_secs(4 * 3600),
            repeat_critical: Duration::from_secs(3600),
            cooldown: Duration::from_secs(300),
            resolved: true,
            per_hour: 60,
            deadline: Duration::from_secs(3600),
            fallback: None,
        }
    }
}

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
    fn new(alert: Alert, phase: Phase, now: At) -> Self {
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
    fn is_pending(&self) -> bool {
        match (self.phase, self.told) {
            (Phase::Firing, Told::Firing) => false,
            // It fired and was over again before that could be told: still told when it should have been.
            (Phase::Resolved(_), Told::Nothing | Told::Resolved) => self.was_due,
            _ => true,
        }
    }

    fn due(&self, rules: &Rules) -> Option<At> {
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
    tells: Vec<(AlertId, Phase, At)>,
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

/// What a channel is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// Send this, then say how it went.
    Send(Box<Message>),
    /// Nothing before this moment.
    Wait(At),
    /// Nothing until something changes.
    Idle,
}

/// How a delivery failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// The sink is down or busy; it may have said for how long.
    Sink(Option<Duration>),
    /// The sink will not have this message.
    Message,
}

/// The state machine.
#[derive(Clone, Debug)]
pub struct Plan {
    rules: BTreeMap<String, Rules>,
    state: State,
}

impl Plan {
    /// With what was remembered. Channels that are no longer configured are forgotten.
    pub fn new(rules: BTreeMap<String, Rules>, saved: State) -> Self {
        let mut state = if saved.version <= STATE_VERSION {
            saved
        } else {
            State::default()
        };
        state.version = STATE_VERSION;
        state.channels.retain(|name, _| rules.contains_key(name));
        for name in rules.keys() {
            state.channels.entry(name.clone()).or_default();
        }
        Self { rules, state }
    }

    /// What to store.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Takes over what fires now: all of it, each time. Whether anything changed.
    ///
    /// Not to be called before the checks are known after a start, or everything would be told as over.
    pub fn observe(&mut self, now: At, alerts: &[Alert]) -> bool {
        let mut changed = false;
        for (name, rules) in &self.rules {
            let Some(channel) = self.state.channels.get_mut(name) else {
                continue;
            };
            let mut present = BTreeSet::new();
            for alert in alerts.iter().filter(|a| a.severity() <= rules.min_severity) {
                let id = alert.id();
                changed |= channel.fires(rules, now, id.clone(), alert);
                present.insert(id);
            }
            for group in channel.groups.values_mut() {
                for (id, member) in &mut group.members {
                    if member.phase == Phase::Firing && !present.contains(id) {
                        member.phase = Phase::Resolved(now);
                        member.changed = now;
                        if !rules.resolved && member.told == Told::Firing {
                            member.told = Told::Resolved;
                            member.was_due = false;
                        }
                        changed = true;
                    }
                }
            }
            channel.tidy(rules, now);
        }
        changed
    }

    /// Something to be told once, on every channel whose rules let it pass.
    pub fn notice(&mut self, now: At, alert: &Alert) {
        for (name, rules) in &self.rules {
            if alert.severity() <= rules.min_severity
                && let Some(channel) = self.state.channels.get_mut(name)
            {
                let member = Member::new(alert.clone(), Phase::Notice, now);
                channel.admit(rules, now, member);
            }
        }
    }

    /// What a channel is to do now.
    pub fn next(&mut self, name: &str, now: At) -> Next {
        let Some((rules, channel)) = self.rules.get(name).zip(self.state.channels.get_mut(name))
        else {
            return Next::Idle;
        };
        channel.tidy(rules, now);
        // A clock that was set back does not stretch a wait beyond its maximum.
        channel.not_before = channel.not_before.min(now.plus(RETRY_AFTER_MAX));
        let mut ready: Vec<(bool, At, String)> = Vec::new();
        let mut soonest: Option<At> = None;
        for (key, group) in &mut channel.groups {
            let Some(due) = group.due(rules, now) else {
                continue;
            };
            group.not_before = group.not_before.min(now.plus(BACKOFF_MAX));
            let due = due.max(group.not_before);
            if due <= now {
                ready.push((!group.is_critical(), due, key.clone()));
            } else {
                soonest = Some(soonest.map_or(due, |s| s.min(due)));
            }
        }
        ready.sort();
        let Some((calm, _, key)) = ready.into_iter().next() else {
            return soonest.map_or(Next::Idle, Next::Wait);
        };
        if channel.not_before > now {
            return Next::Wait(channel.not_before);
        }
        let limit = rules.per_hour.max(1) as usize;
        let limit = if calm {
            limit
        } else {
            limit + limit.div_ceil(2)
        };
        if channel.sent.len() >= limit {
            // When the oldest of those that fill the hour leaves it.
            let oldest = channel.sent[channel.sent.len() - limit];
            return Next::Wait(
                oldest
                    .plus(Duration::from_secs(3600))
                    .max(now.plus(Duration::from_secs(1))),
            );
        }
        match channel
            .groups
            .get_mut(&key)
            .map(|g| g.message(name, &key, rules, now))
        {
            Some(message) => Next::Send(Box::new(message)),
            None => Next::Idle,
        }
    }

    /// A message was delivered.
    pub fn delivered(&mut self, message: &Message, now: At) {
        let Some(channel) = self.state.channels.get_mut(&message.channel) else {
            return;
        };
        channel.attempts = 0;
        channel.not_before = At::default();
        channel.tally.delivered += 1;
        channel.sent.push(now);
        if let Some(group) = channel.groups.get_mut(&message.group) {
            group.told(message, now);
        }
        if let Some(rules) = self.rules.get(&message.channel) {
            channel.tidy(rules, now);
        }
    }

    /// A message was not delivered. `random` is from 0 to 1. The answer: it was given up.
    pub fn failed(&mut self, message: &Message, now: At, how: Failed, random: f64) -> bool {
        let Some((rules, channel)) = self
            .rules
            .get(&message.channel)
            .zip(self.state.channels.get_mut(&message.channel))
        else {
            return false;
        };
        channel.tally.failures += 1;
        let Some(group) = channel.groups.get_mut(&message.group) else {
            return false;
        };
        let overdue = group
            .due_since
            .is_some_and(|since| now.since(since) >= rules.deadline);
        match how {
            Failed::Sink(asked) => {
                channel.attempts = channel.attempts.saturating_add(1);
                let wait = backoff(channel.attempts, random)
                    .max(asked.unwrap_or_default().min(RETRY_AFTER_MAX));
                channel.not_before = now.plus(wait);
            }
            Failed::Message => {
                group.attempts = group.attempts.saturating_add(1);
                group.not_before = now.plus(backoff(group.attempts, random));
            }
        }
        let give_up = overdue || (how == Failed::Message && rules.fallback.is_some());
        if !give_up {
            return false;
        }
        group.told(message, now);
        channel.tally.undeliverable += 1;
        channel.tidy(rules, now);
        let target = rules.fallback.clone().filter(|f| *f != message.channel);
        self.escalate(message, target, now);
        true
    }

    fn escalate(&mut self, message: &Message, target: Option<String>, now: At) {
        let Some(target) = target else { return };
        let Some((rules, channel)) = self
            .rules
            .get(&target)
            .zip(self.state.channels.get_mut(&target))
        else {
            return;
        };
        // What was handed on once is not handed on again: two channels that name each other would do so for ever.
        let own = message.lines.iter().filter(|l| !l.escalated);
        for line in own.filter(|l| l.new || message.kind == Kind::Repeat) {
            let what = match line.ended {
                None => line.alert.summary_text().to_owned(),
                Some(end) => format!("over since {}: {}", end.short(), line.alert.summary_text()),
            };
            let alert = line
                .alert
                .clone()
                .summary(&format!("{} could not deliver: {what}", message.channel));
            let mut member = Member::new(alert, Phase::Notice, now);
            member.escalated = true;
            channel.admit(rules, now, member);
        }
    }

    /// Messages of a channel that wait: groups with something that is due.
    pub fn waiting(&self, name: &str, now: At) -> usize {
        self.rules
            .get(name)
            .zip(self.state.channels.get(name))
            .map_or(0, |(rules, channel)| {
                channel
                    .groups
                    .values()
                    .filter(|g| g.due(rules, now).is_some_and(|due| due <= now))
                    .count()
            })
    }
}

/// The wait after so many failures: doubled each time, at most [`BACKOFF_MAX`], ±[`JITTER`].
fn backoff(attempts: u32, random: f64) -> Duration {
    let doubled = BACKOFF.saturating_mul(
        1u32.checked_shl(attempts.saturating_sub(1))
            .unwrap_or(u32::MAX),
    );
    let random = if (0.0..=1.0).contains(&random) {
        random
    } else {
        0.5
    };
    doubled
        .min(BACKOFF_MAX)
        .mul_f64(1.0 - JITTER + 2.0 * JITTER * random)
}

impl ChannelState {
    fn alerts(&self) -> usize {
        self.groups.values().map(|g| g.members.len()).sum()
    }

    /// An alert fires. Whether that is news.
    fn fires(&mut self, rules: &Rules, now: At, id: AlertId, alert: &Alert) -> bool {
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
    fn admit(&mut self, rules: &Rules, now: At, member: Member) -> bool {
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

    /// Forgets what is over and told.
    fn tidy(&mut self, rules: &Rules, now: At) {
        let hour = Duration::from_secs(3600);
        // What lies in the future is of a clock that was wrong.
        self.sent.retain(|at| *at <= now && now.since(*at) < hour);
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
    fn is_critical(&self) -> bool {
        self.members.values().any(|m| {
            m.alert.severity() == Severity::Critical && (m.is_pending() || m.phase == Phase::Firing)
        })
    }

    /// When its next message is due; none when there is none.
    fn due(&self, rules: &Rules, now: At) -> Option<At> {
        let pending = self.members.values().filter_map(|m| m.due(rules)).min();
        let longest = rules.wait.max(rules.cooldown).max(rules.interval);
        if let Some(due) = pending {
            let after = self
                .last_sent
                .map(|at| at.plus(rules.interval))
                .unwrap_or_default();
            return Some(due.max(after).min(now.plus(longest)));
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
        Some(last.plus(repeat).min(now.plus(repeat)))
    }

    /// Writes down what there is to tell now.
    fn message(&mut self, channel: &str, key: &str, rules: &Rules, now: At) -> Message {
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
        lines.sort_by_key(|l| (!l.new, l.ended.is_some(), l.alert.severity()));
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
    fn told(&mut self, message: &Message, now: At) {
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
            if (m.phase, m.changed) == (*phase, *changed) {
                m.was_due = false;
            }
        }
    }
}

//! What is told to whom, and when: a pure state machine over serialisable state.
//!
//! For each channel the state remembers, of each alert, its phase (firing, resolved, or a notice that is told once) and what was
//! told of it. What differs is *pending*. Pending alerts of one group (the same values of `group_by`) make one message:
//!
//! - not before `wait` has passed since the first of them changed, so that what breaks together is told together;
//! - not before `interval` has passed since the last message of the group;
//! - an alert that fires again is not told before `cooldown` has passed since it was told last;
//! - what still fires is told again after `repeat`;
//! - not more than `per_hour` messages of a channel in an hour; half as many again are kept for critical ones. What then happens
//!   says `held`.
//!
//! An alert that resolves before it was due is never told. One that was due and could not be delivered is told as resolved, with
//! both times. A message that cannot be delivered until `deadline` has passed goes to the `fallback` channel, once, or is counted
//! as undeliverable; a sink that is down delays all messages of its channel, a message that a sink refuses delays only its group.

mod held;
mod message;
mod rules;
mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::alert::Alert;
use crate::limits::{BACKOFF, BACKOFF_MAX, HOUR, JITTER, RETRY_AFTER_MAX};
use crate::time::At;

pub use held::Held;
pub use message::{Kind, Line, Message};
pub use rules::Rules;
pub use state::{ChannelState, Group, Member, Phase, STATE_VERSION, State, Tally, Told};

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
            if alert.severity() > rules.min_severity {
                continue;
            }
            if let Some(channel) = self.state.channels.get_mut(name) {
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
        if channel.held.is_none() {
            let (ready, soonest) = channel.ready(rules, now);
            let Some(first) = ready.first() else {
                return soonest.map_or(Next::Idle, Next::Wait);
            };
            if channel.not_before > now {
                return Next::Wait(channel.not_before);
            }
            let limit = if first.critical {
                rules.limit() + rules.extra()
            } else {
                rules.limit()
            };
            if channel.sent.len() < limit {
                let group = channel.groups.get_mut(&first.key);
                return group.map_or(Next::Idle, |group| {
                    Next::Send(Box::new(group.message(name, &first.key, rules, now)))
                });
            }
            if !ready.iter().any(|r| r.news) {
                // Only what is known: until the oldest of those that fill the hour leaves it.
                let leaves = channel.sent[channel.sent.len() - limit].plus(HOUR);
                let until = soonest.map_or(leaves, |s| s.min(leaves));
                return Next::Wait(until.max(now.plus(Duration::from_secs(1))));
            }
            channel.held = Some(Held::new(now));
        }
        channel.next_held(name, rules, now)
    }

    /// A message was delivered.
    pub fn delivered(&mut self, message: &Message, now: At) {
        let Some(channel) = self.state.channels.get_mut(&message.channel) else {
            return;
        };
        channel.attempts = 0;
        channel.not_before = At::default();
        channel.tally.delivered += 1;
        // What says that messages are held back is none of those that the hour holds.
        if message.kind != Kind::Held {
            channel.sent.push(now);
        }
        channel.told(message, now);
        channel.spoke(message.kind, now);
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
        let (due_since, attempts, not_before) = if message.kind.is_of_channel() {
            let Some(held) = &mut channel.held else {
                return false;
            };
            (held.due_since, &mut held.attempts, &mut held.not_before)
        } else {
            let Some(group) = channel.groups.get_mut(&message.group) else {
                return false;
            };
            (group.due_since, &mut group.attempts, &mut group.not_before)
        };
        let overdue = due_since.is_some_and(|since| now.since(since) >= rules.deadline);
        match how {
            Failed::Sink(asked) => {
                channel.attempts = channel.attempts.saturating_add(1);
                let wait = backoff(channel.attempts, random)
                    .max(asked.unwrap_or_default().min(RETRY_AFTER_MAX));
                channel.not_before = now.plus(wait);
            }
            Failed::Message => {
                *attempts = attempts.saturating_add(1);
                *not_before = now.plus(backoff(*attempts, random));
            }
        }
        let give_up = overdue || (how == Failed::Message && rules.fallback.is_some());
        if !give_up {
            return false;
        }
        channel.told(message, now);
        channel.spoke(message.kind, now);
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
                    .filter(|g| g.due(rules).is_some_and(|(due, _)| due <= now))
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

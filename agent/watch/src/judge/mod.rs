//! From results to states: a pure function `(rules, state, input, now) -> (state, actions)`.
//!
//! One wrong answer is not an outage. A check becomes unhealthy after `failure_threshold` failures in a row, or after so many
//! among its last runs (`fail_within`, which catches a service that fails every other time); it becomes healthy again after
//! `success_threshold` successes in a row. From *unknown* one success is enough, failures need as many as ever.
//!
//! ```text
//!                 1 success                    F failures in a row, or X of the last Y
//!   unknown ───────────────▶ healthy ◀──────▶ degraded ─────────────────────▶ unhealthy
//!      ▲                            S like results                                │
//!      │  no run for 5 intervals,   ◀──────────────────────────────────────────────┘
//!      └─ clock jump                              S successes in a row (2S, 4S, … 8 while flapping)
//! ```
//!
//! An *incident* is what a person is told: opened once when the check is unhealthy, closed once when it is up again, however
//! often the daemon restarts or the state becomes unknown in between. Overlays (maintenance, a parent that is down, disabled)
//! stop the opening of incidents, never the closing; and what is still down when an overlay ends is told then, unless it was
//! told before.
//!
//! A check that changes between up and down four times in an hour *flaps*: one incident stands for all of it, restarts stop,
//! and it takes more successes each time to be believed. Changes between healthy and degraded are not counted: they alert
//! nobody and have a hysteresis of their own ([`bands`]).

pub mod bands;
mod state;

use std::time::Duration;

use keepwatch_model::check::{RunResult, State};
use serde::{Deserialize, Serialize};

use crate::clock::At;
use crate::outcome::Outcome;
pub use state::{CHANGES_MAX, Cause, Flapping, Incident, JudgeState, Overlays};

/// Changes between up and down within [`FLAP_WINDOW`] that make a check flap.
pub const FLAP_CHANGES: usize = 4;
/// It ends when there are no more than this many in the window.
pub const FLAP_CALM: usize = 1;
/// The window.
pub const FLAP_WINDOW: Duration = Duration::from_secs(3600);
/// While flapping the success threshold doubles up to this.
pub const FLAP_SUCCESSES: u32 = 8;
/// Without a run for so many intervals the state is unknown.
pub const STALE_INTERVALS: u32 = 5;

/// So many failures among the last runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailWithin {
    /// Failures that are too many.
    pub failures: u32,
    /// Runs that are looked at, at most 64.
    pub of: u32,
}

/// How a check is judged.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// Time between two runs.
    pub interval: Duration,
    /// Failures in a row that make it unhealthy, at least 1.
    pub failure_threshold: u32,
    /// Successes in a row that make it healthy again, at least 1.
    pub success_threshold: u32,
    /// A second way to become unhealthy.
    pub fail_within: Option<FailWithin>,
    /// Limits on measured values.
    pub bands: Vec<bands::Band>,
}

impl Rules {
    /// The defaults: 3 failures, 2 successes.
    pub fn new(interval: Duration) -> Self {
        Self {
            interval,
            failure_threshold: 3,
            success_threshold: 2,
            fail_within: None,
            bands: Vec::new(),
        }
    }

    /// Whether the rules make sense.
    ///
    /// # Errors
    /// A sentence: a threshold of 0 or above 64, a window that can never be met, too many or wrong bands.
    pub fn check(&self) -> Result<(), String> {
        let range = 1..=64;
        if !range.contains(&self.failure_threshold) || !range.contains(&self.success_threshold) {
            return Err("a threshold must be between 1 and 64".into());
        }
        if let Some(w) = self.fail_within {
            if w.failures == 0 || w.of > 64 || w.failures > w.of {
                return Err(
                    "fail_within needs 1 to `of` failures, and `of` at most 64 runs".into(),
                );
            }
        }
        if self.bands.len() > bands::BANDS_MAX {
            return Err(format!("more than {} limits", bands::BANDS_MAX));
        }
        for (n, band) in self.bands.iter().enumerate() {
            band.check()?;
            if self.bands[..n].iter().any(|b| b.quantity == band.quantity) {
                return Err("two limits for the same quantity".into());
            }
        }
        Ok(())
    }

    fn tripped(&self, state: &JudgeState) -> bool {
        let window = self.fail_within.is_some_and(|w| {
            let len = w.of.min(state.recent_len).min(64);
            let mask = u64::MAX.checked_shr(64 - len).unwrap_or(0);
            (state.recent & mask).count_ones() >= w.failures
        });
        state.failures >= self.failure_threshold || window
    }

    /// Successes that are needed now.
    fn successes_needed(&self, state: &JudgeState) -> u32 {
        match state.flapping {
            None => self.success_threshold,
            Some(f) => {
                let doubled = self
                    .success_threshold
                    .saturating_mul(1u32.checked_shl(f.cycles).unwrap_or(u32::MAX));
                doubled.min(FLAP_SUCCESSES.max(self.success_threshold))
            }
        }
    }
}

/// What happened.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// A run ended.
    Run(&'a Outcome),
    /// A run ended while a restart settles: it is remembered and does not count.
    Uncounted(&'a Outcome),
    /// Time went by.
    Tick,
    /// The overlays are now these.
    Overlays(Overlays),
    /// The unit behind the check was restarted: successes count from here.
    Restarted,
    /// The clock jumped or the host slept: nothing is known.
    Realign,
}

/// Why an incident was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Closed {
    /// The check is up.
    Recovered,
    /// The check was switched off.
    Disabled,
    /// The check is no longer configured.
    Removed,
}

/// What follows.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// A confirmed change of state.
    Transition {
        /// Before.
        from: State,
        /// Now.
        to: State,
    },
    /// Other overlays than before.
    OverlaysChanged {
        /// Before.
        from: Overlays,
        /// Now.
        to: Overlays,
    },
    /// Tell a person.
    IncidentOpened(Incident),
    /// Tell that it is over.
    IncidentClosed {
        /// The incident.
        incident: Incident,
        /// Why.
        why: Closed,
    },
    /// It flaps from now on.
    FlappingStarted,
    /// It no longer does.
    FlappingEnded,
    /// The first failure after success: what it depends on is asked now.
    FirstFailure,
    /// It failed and is unhealthy: whoever restarts decides. Sent again with every failure.
    RestartWanted {
        /// It became unhealthy just now.
        edge: bool,
    },
}

/// One step of the judge. Pure: the same arguments give the same result.
pub fn step(
    rules: &Rules,
    mut state: JudgeState,
    input: Input<'_>,
    now: At,
) -> (JudgeState, Vec<Action>) {
    let mut actions = Vec::new();
    match input {
        Input::Run(outcome) => run(rules, &mut state, outcome, true, now, &mut actions),
        Input::Uncounted(outcome) => run(rules, &mut state, outcome, false, now, &mut actions),
        Input::Tick => {}
        Input::Overlays(to) => {
            let from = std::mem::replace(&mut state.overlays, to);
            if from != to {
                actions.push(Action::OverlaysChanged { from, to });
            }
        }
        Input::Restarted => {
            state.successes = 0;
            state.streak = 0;
        }
        Input::Realign => {
            state.clamp(now);
            state.forget_counters();
            change(&mut state, State::Unknown, now, &mut actions);
        }
    }
    let limit = rules.interval.saturating_mul(STALE_INTERVALS);
    if state.age(now).is_some_and(|age| age > limit) && state.state != State::Unknown {
        state.forget_counters();
        change(&mut state, State::Unknown, now, &mut actions);
    }
    flapping(&mut state, now, &mut actions);
    incident(&mut state, now, &mut actions);
    (state, actions)
}

fn run(
    rules: &Rules,
    state: &mut JudgeState,
    outcome: &Outcome,
    counted: bool,
    now: At,
    actions: &mut Vec<Action>,
) {
    let verdict = bands::apply(&rules.bands, &mut state.warning, outcome);
    let failed = verdict.result == RunResult::Failure;
    let same = state.last_result == Some(verdict.result);
    state.last_run = Some(now);
    state.last_result = Some(verdict.result);
    state.last_failure = verdict.failure;
    state.last_warnings = verdict.warnings;
    if !failed {
        state.last_success = Some(now);
    }
    if !counted {
        return;
    }
    state.recent = (state.recent << 1) | u64::from(failed);
    state.recent_len = (state.recent_len + 1).min(64);
    state.streak = if same {
        state.streak.saturating_add(1)
    } else {
        1
    };
    if failed {
        state.successes = 0;
        state.failures = state.failures.saturating_add(1);
        if state.failures == 1 && state.state != State::Unhealthy {
            actions.push(Action::FirstFailure);
        }
    } else {
        state.failures = 0;
        state.successes = state.successes.saturating_add(1);
    }
    let good = if verdict.result == RunResult::Degraded {
        State::Degraded
    } else {
        State::Healthy
    };
    let was = state.state;
    let to = match was {
        _ if failed && rules.tripped(state) => State::Unhealthy,
        _ if failed => was,
        State::Unknown => good,
        State::Unhealthy if state.successes >= rules.successes_needed(state) => good,
        State::Healthy | State::Degraded if state.streak >= rules.success_threshold => good,
        unchanged => unchanged,
    };
    change(state, to, now, actions);
    if state.state == State::Unhealthy && failed {
        actions.push(Action::RestartWanted {
            edge: was != State::Unhealthy,
        });
    }
}

/// Moves to a state, when it is another one.
fn change(state: &mut JudgeState, to: State, now: At, actions: &mut Vec<Action>) {
    let from = state.state;
    if from == to {
        return;
    }
    state.state = to;
    state.since = now;
    state.state_changes = state.state_changes.saturating_add(1);
    actions.push(Action::Transition { from, to });
    if from == State::Unhealthy && to.is_up() {
        // Else the failures of the outage would trip the window again at once.
        state.recent = 0;
        state.recent_len = 0;
    }
    let crossed =
        (from.is_up() && to == State::Unhealthy) || (from == State::Unhealthy && to.is_up());
    if crossed && !state.overlays.any() {
        if state.changes.len() >= CHANGES_MAX {
            state.changes.remove(0);
        }
        state.changes.push(now);
        if let Some(f) = state.flapping.as_mut().filter(|_| to == State::Unhealthy) {
            f.cycles = f.cycles.saturating_add(1);
        }
    }
}

fn flapping(state: &mut JudgeState, now: At, actions: &mut Vec<Action>) {
    state.changes.retain(|at| now.since(*at) <= FLAP_WINDOW);
    if state.flapping.is_none() && state.changes.len() >= FLAP_CHANGES {
        // While it is up the next outage is the first that needs more.
        state.flapping = Some(Flapping {
            since: now,
            cycles: u32::from(state.state == State::Unhealthy),
        });
        actions.push(Action::FlappingStarted);
    } else if state.flapping.is_some() && state.changes.len() <= FLAP_CALM {
        state.flapping = None;
        actions.push(Action::FlappingEnded);
    }
}

fn incident(state: &mut JudgeState, now: At, actions: &mut Vec<Action>) {
    if state.incident.is_some() {
        let why = if state.overlays.disabled {
            Closed::Disabled
        } else if state.state.is_up() && state.flapping.is_none() {
            Closed::Recovered
        } else {
            return;
        };
        if let Some(incident) = state.incident.take() {
            actions.push(Action::IncidentClosed { incident, why });
        }
    } else if !state.overlays.any() {
        let (cause, since) = match (state.flapping, state.state) {
            (Some(f), _) => (Cause::Flapping, f.since),
            (None, State::Unhealthy) => (Cause::Down, state.since),
            (None, _) => return,
        };
        let incident = Incident {
            opened: now,
            since,
            cause,
            failure: state.last_failure.clone(),
        };
        state.incident = Some(incident.clone());
        actions.push(Action::IncidentOpened(incident));
    }
}

#[cfg(test)]
mod tests;

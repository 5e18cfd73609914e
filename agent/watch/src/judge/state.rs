//! What the judge remembers of a check: counters, state, overlays, the open incident. It is written down and survives
//! restarts of the daemon.

use std::time::Duration;

use keepwatch_model::check::{Overlay, Reason, RunResult, State};
use serde::{Deserialize, Serialize};

use crate::clock::At;
use crate::outcome::{Failure, Quantity};
use crate::text::clean;

/// Changes between up and down that are remembered; four within an hour are flapping, so eight are plenty. 64 bytes.
pub const CHANGES_MAX: usize = 8;

/// What hides alerts and restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Overlays {
    /// Inside a maintenance window.
    pub maintenance: bool,
    /// A check that it depends on is down.
    pub suppressed: bool,
    /// Switched off.
    pub disabled: bool,
}

impl Overlays {
    /// Any of them.
    pub fn any(self) -> bool {
        self.maintenance || self.suppressed || self.disabled
    }

    /// The one to show: disabled before maintenance before suppressed.
    pub fn shown(self) -> Option<Overlay> {
        if self.disabled {
            Some(Overlay::Disabled)
        } else if self.maintenance {
            Some(Overlay::Maintenance)
        } else if self.suppressed {
            Some(Overlay::Suppressed)
        } else {
            None
        }
    }
}

/// Why an incident was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// The check is unhealthy.
    Down,
    /// The check goes up and down too often to tell each time.
    Flapping,
}

/// What a person is told about, once: from opened to closed. Together with the check's name `opened` identifies it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    /// When it was opened.
    pub opened: At,
    /// When the check's state became what the incident tells; earlier than `opened` when an overlay hid it.
    pub since: At,
    /// Why.
    pub cause: Cause,
    /// The failure of the run that led to it.
    pub failure: Option<Failure>,
}

/// A check that goes up and down too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flapping {
    /// Since when.
    pub since: At,
    /// How often the success threshold is doubled.
    pub cycles: u32,
}

/// All that the judge remembers of one check. The default is a check that never ran.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct JudgeState {
    /// The debounced state.
    pub state: State,
    /// Since when.
    pub since: At,
    /// End of the last run.
    pub last_run: Option<At>,
    /// End of the last run that did not fail.
    pub last_success: Option<At>,
    /// What the last run came to.
    pub last_result: Option<RunResult>,
    /// Why the last failed run failed; kept until a run succeeds.
    pub last_failure: Option<Failure>,
    /// Warnings of the last run.
    pub last_warnings: Vec<String>,
    /// Failures in a row.
    pub failures: u32,
    /// Runs in a row that did not fail.
    pub successes: u32,
    /// Runs in a row with the same result as the last.
    pub streak: u32,
    /// The last 64 runs, the newest in the lowest bit, 1 for a failure.
    pub recent: u64,
    /// How many of them there are.
    pub recent_len: u32,
    /// Quantities whose warning is on.
    pub warning: Vec<Quantity>,
    /// Times of the last changes between up and down, oldest first.
    pub changes: Vec<At>,
    /// Set while the check flaps.
    pub flapping: Option<Flapping>,
    /// What hides it.
    pub overlays: Overlays,
    /// The incident that is open.
    pub incident: Option<Incident>,
    /// Confirmed changes of state ever.
    pub state_changes: u64,
}

impl Default for JudgeState {
    fn default() -> Self {
        Self {
            state: State::Unknown,
            since: At(0),
            last_run: None,
            last_success: None,
            last_result: None,
            last_failure: None,
            last_warnings: Vec::new(),
            failures: 0,
            successes: 0,
            streak: 0,
            recent: 0,
            recent_len: 0,
            warning: Vec::new(),
            changes: Vec::new(),
            flapping: None,
            overlays: Overlays::default(),
            incident: None,
            state_changes: 0,
        }
    }
}

impl JudgeState {
    /// A check that never ran, as of now.
    pub fn new(now: At) -> Self {
        Self {
            since: now,
            ..Self::default()
        }
    }

    /// A stored state, brought into its bounds: it may come from another version, another clock or a damaged file. Moments
    /// in the future become now.
    pub fn restored(mut self, now: At) -> Self {
        self.clamp(now);
        self.recent_len = self.recent_len.min(64);
        self.changes.truncate(CHANGES_MAX);
        self.warning.truncate(super::bands::BANDS_MAX);
        self.last_warnings.truncate(crate::outcome::WARNINGS_MAX);
        for text in &mut self.last_warnings {
            *text = clean(text);
        }
        let incident = self.incident.as_mut().and_then(|i| i.failure.as_mut());
        for failure in self.last_failure.iter_mut().chain(incident) {
            failure.text = clean(&failure.text);
        }
        self
    }

    /// No moment lies in the future.
    pub(super) fn clamp(&mut self, now: At) {
        let past = |at: &mut At| *at = (*at).min(now);
        past(&mut self.since);
        self.last_run.iter_mut().for_each(past);
        self.last_success.iter_mut().for_each(past);
        self.changes.iter_mut().for_each(past);
        if let Some(f) = &mut self.flapping {
            past(&mut f.since);
        }
        if let Some(i) = &mut self.incident {
            past(&mut i.opened);
            past(&mut i.since);
        }
    }

    /// Whether results and state disagree: a failure that is not confirmed yet, or a recovery that is not. Then the next run
    /// comes after the retry interval.
    pub fn is_undecided(&self) -> bool {
        match self.state {
            State::Unhealthy => self.successes > 0,
            State::Unknown | State::Healthy | State::Degraded => self.failures > 0,
        }
    }

    /// The reason of the last failure, while there is one.
    pub fn reason(&self) -> Option<Reason> {
        self.last_failure.as_ref().map(|f| f.reason)
    }

    /// How long ago the last run ended.
    pub fn age(&self, now: At) -> Option<Duration> {
        self.last_run.map(|at| now.since(at))
    }

    pub(super) fn forget_counters(&mut self) {
        self.failures = 0;
        self.successes = 0;
        self.streak = 0;
        self.recent = 0;
        self.recent_len = 0;
    }
}

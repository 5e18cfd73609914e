//! What happened, for those who record it: catalog, metrics, journal, notifications.
//!
//! Events leave by one bounded channel ([`CAPACITY`]). Whoever judges never waits for whoever records: when the channel is
//! nearly full results of single runs are dropped first, and what was dropped is counted. State that must not be lost travels
//! by another way ([`crate::conductor::Saved`]), where the latest wins.

use std::time::Duration;

use keepwatch_model::check::{CheckKind, CheckName, Reason, RunResult, Severity, State};
use serde::Serialize;

use crate::clock::At;
use crate::judge::{Closed, Incident, Overlays};
use crate::outcome::{Failure, Measure};
use crate::restart::{Asker, Refusal, Step};
use crate::systemd::UnitName;

/// Events that wait to be recorded. About 1 KiB each, with texts of 300 characters: 1 MiB at worst.
pub const CAPACITY: usize = 1024;
/// Of these, places that results of single runs may not take.
pub const RESERVED: usize = 256;

/// One event.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A run of a check ended.
    Result(RunRecord),
    /// A confirmed change of state.
    Transition {
        /// The check.
        check: CheckName,
        /// Its kind.
        kind: CheckKind,
        /// When.
        at: At,
        /// Before.
        from: State,
        /// Now.
        to: State,
        /// Why, when it is unhealthy.
        failure: Option<Failure>,
    },
    /// Other overlays than before.
    Overlays {
        /// The check.
        check: CheckName,
        /// When.
        at: At,
        /// Before.
        from: Overlays,
        /// Now.
        to: Overlays,
    },
    /// Tell a person.
    IncidentOpened {
        /// The check.
        check: CheckName,
        /// How much it matters.
        severity: Severity,
        /// The incident; with the check its `opened` identifies it.
        incident: Incident,
    },
    /// Tell that it is over.
    IncidentClosed {
        /// The check.
        check: CheckName,
        /// When.
        at: At,
        /// The incident.
        incident: Incident,
        /// Why.
        why: Closed,
    },
    /// The check begins or ceases to flap.
    Flapping {
        /// The check.
        check: CheckName,
        /// When.
        at: At,
        /// It does from now on.
        on: bool,
    },
    /// Runs that did not take place because one was still going on.
    Overrun {
        /// The check.
        check: CheckName,
        /// When.
        at: At,
        /// How many.
        count: u64,
    },
    /// A step of a restart.
    Restart {
        /// The unit.
        unit: UnitName,
        /// When.
        at: At,
        /// What.
        step: RestartStep,
    },
    /// Other maintenance windows are open than before.
    Windows {
        /// When.
        at: At,
        /// Names of those that are open now.
        open: Vec<CheckName>,
    },
    /// The clock jumped, or the host slept: everything is unknown.
    ClockJump {
        /// When, by the new clock.
        at: At,
        /// How far, in milliseconds.
        by_ms: i64,
    },
}

/// One finished run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunRecord {
    /// The check.
    pub check: CheckName,
    /// Its kind.
    pub kind: CheckKind,
    /// When it ended.
    pub at: At,
    /// How long it took, without waiting for its turn.
    pub duration: Duration,
    /// What it came to, after the limits were applied.
    pub result: RunResult,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// Why it is degraded.
    pub warnings: Vec<String>,
    /// What was measured.
    pub measures: Vec<Measure>,
    /// False while a restart settles.
    pub counted: bool,
}

/// A step of a restart.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum RestartStep {
    /// Not now. Told once for each reason in a row; metrics count each.
    Refused {
        /// Who asked.
        asker: Asker,
        /// Why not.
        reason: Refusal,
    },
    /// The attempt begins.
    Started {
        /// Who asked.
        asker: Asker,
        /// The how-manieth in an hour; 0 for an operator's.
        attempt: u32,
        /// What is done.
        action: Step,
        /// Why the check is unhealthy.
        reason: Option<Reason>,
    },
    /// The job ended.
    Finished {
        /// As it should.
        ok: bool,
        /// `done`, `failed`, `timeout`, … or an error in words.
        result: String,
        /// The unit's new invocation.
        invocation: String,
    },
    /// All checks of the unit are up again.
    Recovered {
        /// How long after the attempt began.
        after: Duration,
    },
    /// Too many attempts: nothing more is done until the unit is healthy or an operator resets it.
    GaveUp,
    /// Given up no longer: it is healthy.
    Resumed,
    /// An operator forgot the attempts.
    Reset,
}

//! What others see of the conductor: the overview (probes and metrics read it from memory), what is saved, and commands.

use std::collections::BTreeMap;
use std::time::Duration;

use keepwatch_model::check::{CheckKind, CheckName, Overlay, Reason, Severity, State};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::clock::At;
use crate::judge::JudgeState;
use crate::maintenance::{Active, Open, OpenError};
use crate::outcome::Measure;
use crate::probe::heartbeat::{Beat, Pulse};
use crate::restart::{Attempt, Refusal, SavedRestarts, UnitState};
use crate::systemd::UnitName;

/// One check, as it stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CheckView {
    /// Its name.
    pub name: CheckName,
    /// Its kind.
    pub kind: CheckKind,
    /// How much it matters.
    pub severity: Severity,
    /// Configured interval.
    pub interval: Duration,
    /// Configured deadline.
    pub timeout: Duration,
    /// The unit that is restarted for it.
    pub unit: Option<UnitName>,
    /// All that the judge remembers.
    pub judge: JudgeState,
    /// Finished runs since the daemon started.
    pub runs: u64,
    /// Failed runs since then.
    pub failures: BTreeMap<Reason, u64>,
    /// Runs that did not take place because one was still going on.
    pub overruns: u64,
    /// How long the last run took.
    pub last_duration: Option<Duration>,
    /// What the last run measured.
    pub measures: Vec<Measure>,
}

impl CheckView {
    /// The overlay to show, else none.
    pub fn overlay(&self) -> Option<Overlay> {
        self.judge.overlays.shown()
    }

    /// The state and whether anything hides it.
    pub fn shown(&self) -> (State, Option<Overlay>) {
        (self.judge.state, self.overlay())
    }
}

/// One unit, as it stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct UnitView {
    /// All that the policy remembers.
    pub state: UnitState,
    /// Refusals since the daemon started, each time that one was asked for.
    pub refusals: BTreeMap<Refusal, u64>,
    /// Jobs that did not end well since then, by result.
    pub job_failures: BTreeMap<String, u64>,
}

/// Everything, as it stands. Read from memory; no check is run for it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Overview {
    /// The scheduler's last tick, on the monotonic clock: liveness.
    pub tick: Duration,
    /// The same on the wall.
    pub tick_at: At,
    /// The greatest delay of a run behind its time in the last minute.
    pub lag: Duration,
    /// In the order of configuration.
    pub checks: Vec<CheckView>,
    /// Units that may be restarted.
    pub units: BTreeMap<UnitName, UnitView>,
    /// Windows that are open.
    pub windows: Vec<Active>,
    /// Health score of the checks, 0 to 1.
    pub score: Option<f64>,
    /// Runs in progress.
    pub running: usize,
    /// Runs that wait for a place.
    pub waiting: usize,
    /// Events that were dropped because nobody took them.
    pub events_dropped: u64,
}

impl Overview {
    /// Whether each critical check has run at least once: a part of the startup probe.
    pub fn critical_checks_ran(&self) -> bool {
        self.checks
            .iter()
            .filter(|c| c.severity == Severity::Critical && !c.judge.overlays.disabled)
            .all(|c| c.judge.last_run.is_some())
    }

    /// Critical checks that are not up and not disabled: a part of the readiness probe. Unknown is not up.
    pub fn critical_down(&self) -> impl Iterator<Item = &CheckView> {
        self.checks.iter().filter(|c| {
            c.severity == Severity::Critical && !c.judge.overlays.disabled && !c.judge.state.is_up()
        })
    }
}

/// The version of [`Saved`]. Fields are added with defaults; what is removed makes a new version.
pub const SAVED_VERSION: u32 = 1;

/// What must survive a restart of the daemon.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Saved {
    /// [`SAVED_VERSION`].
    pub version: u32,
    /// When it was taken.
    pub at: At,
    /// By check.
    pub judges: BTreeMap<CheckName, JudgeState>,
    /// Heartbeats by check.
    pub pulses: BTreeMap<CheckName, Pulse>,
    /// Restarts.
    pub restarts: SavedRestarts,
    /// Ad-hoc windows.
    pub windows: Vec<Open>,
}

/// What can be asked of the conductor.
#[derive(Debug)]
pub enum Command {
    /// Restart a unit by hand. The answer comes when it is decided, not when it is done.
    Restart {
        /// The unit.
        unit: UnitName,
        /// The attempt, or why not.
        reply: oneshot::Sender<Result<Attempt, Refusal>>,
    },
    /// Forget attempts, cooldown and giving up.
    Reset {
        /// The unit.
        unit: UnitName,
        /// Whether there was anything to forget; none when the unit is not known.
        reply: oneshot::Sender<Option<bool>>,
    },
    /// Open a maintenance window.
    Open {
        /// The window.
        window: Open,
        /// Whether it was.
        reply: oneshot::Sender<Result<(), OpenError>>,
    },
    /// Close one.
    Close {
        /// Its name.
        name: CheckName,
        /// Whether it was open.
        reply: oneshot::Sender<bool>,
    },
    /// Run a check now.
    RunNow {
        /// The check.
        check: CheckName,
        /// Whether there is such a check.
        reply: oneshot::Sender<bool>,
    },
    /// A job reports.
    Beat {
        /// The heartbeat check.
        check: CheckName,
        /// What.
        beat: Beat,
        /// Whether there is such a check.
        reply: oneshot::Sender<bool>,
    },
}

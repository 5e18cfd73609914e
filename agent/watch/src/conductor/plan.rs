//! What is watched: checks with all that belongs to them, units that may be restarted, windows. Validated as a whole.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use keepwatch_model::check::{CheckKind, CheckName, Severity};
use thiserror::Error;

use crate::dependencies::{DependencyError, Graph, Node};
use crate::judge::Rules;
use crate::maintenance::Window;
use crate::probe::Probe;
use crate::probe::heartbeat::HeartbeatSettings;
use crate::probe::together::GroupSettings;
use crate::restart::UnitRules;
use crate::systemd::UnitName;

/// Checks of one host. Each costs about 4 KiB (state, view): 4 MiB.
pub const CHECKS_MAX: usize = 1000;
/// The shortest interval.
pub const INTERVAL_MIN: Duration = Duration::from_secs(1);
/// The longest.
pub const INTERVAL_MAX: Duration = Duration::from_secs(7 * 86_400);
/// The default deadline of a run, or 0.8 of the interval when that is less.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The default interval after a failure, or the interval when that is less.
const RETRY: Duration = Duration::from_secs(10);

/// How a check comes to its result.
#[derive(Clone)]
pub enum Ask {
    /// By asking something.
    Probe(Arc<dyn Probe>),
    /// By reports of a job.
    Heartbeat(HeartbeatSettings),
    /// By other checks.
    Group(GroupSettings),
}

impl Ask {
    /// The kind.
    pub fn kind(&self) -> CheckKind {
        match self {
            Self::Probe(p) => p.kind(),
            Self::Heartbeat(_) => CheckKind::Heartbeat,
            Self::Group(_) => CheckKind::Group,
        }
    }
}

impl fmt::Debug for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind().as_str())
    }
}

/// One check.
#[derive(Clone, Debug)]
pub struct Check {
    /// Its name.
    pub name: CheckName,
    /// How it comes to its result.
    pub ask: Ask,
    /// How it is judged; holds the interval.
    pub rules: Rules,
    /// Deadline of one run, shorter than the interval.
    pub timeout: Duration,
    /// When to ask again while results and state disagree.
    pub retry_interval: Duration,
    /// How much it matters; critical ones count for readiness.
    pub severity: Severity,
    /// Checks that suppress it when they are down.
    pub depends_on: Vec<CheckName>,
    /// The unit to restart when it is unhealthy.
    pub unit: Option<UnitName>,
    /// Whether it runs.
    pub enabled: bool,
}

impl Check {
    /// A check with the defaults.
    pub fn new(name: CheckName, ask: Ask, interval: Duration) -> Self {
        Self {
            name,
            ask,
            rules: Rules::new(interval),
            timeout: TIMEOUT.min(interval.mul_f64(0.8)),
            retry_interval: RETRY.min(interval),
            severity: Severity::Warning,
            depends_on: Vec::new(),
            unit: None,
            enabled: true,
        }
    }

    fn check(&self) -> Result<(), String> {
        let interval = self.rules.interval;
        if interval < INTERVAL_MIN || interval > INTERVAL_MAX {
            return Err("the interval must be between 1 s and 7 d".into());
        }
        if self.timeout.is_zero() || self.timeout >= interval {
            return Err("the timeout must be shorter than the interval".into());
        }
        if self.retry_interval < INTERVAL_MIN || self.retry_interval > interval {
            return Err("the retry interval must be between 1 s and the interval".into());
        }
        if let Ask::Group(group) = &self.ask {
            group.check().map_err(|e| e.to_string())?;
        }
        self.rules.check()
    }
}

/// All that is watched.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The host's id: spreads a fleet.
    pub host: String,
    /// The checks.
    pub checks: Vec<Check>,
    /// How units are restarted; a unit that a check names and that is not here has the defaults.
    pub units: BTreeMap<UnitName, UnitRules>,
    /// Static windows.
    pub windows: Vec<Window>,
}

/// Why a plan was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlanError {
    /// A check.
    #[error("the check {0}: {1}")]
    Check(CheckName, String),
    /// A unit.
    #[error("the unit {0}: {1}")]
    Unit(UnitName, String),
    /// A window.
    #[error("the window {0}: {1}")]
    Window(CheckName, String),
    /// Dependencies.
    #[error(transparent)]
    Dependency(#[from] DependencyError),
    /// Too many.
    #[error("more than {CHECKS_MAX} checks")]
    TooMany,
}

impl Plan {
    /// Checks the plan as a whole.
    ///
    /// # Errors
    /// Each fault, not only the first.
    pub fn check(&self) -> Result<Graph, Vec<PlanError>> {
        let mut faults = Vec::new();
        if self.checks.len() > CHECKS_MAX {
            return Err(vec![PlanError::TooMany]);
        }
        for check in &self.checks {
            if let Err(why) = check.check() {
                faults.push(PlanError::Check(check.name.clone(), why));
            }
        }
        for (unit, rules) in &self.units {
            if let Err(why) = rules.check() {
                faults.push(PlanError::Unit(unit.clone(), why));
            }
        }
        for window in &self.windows {
            if let Err(why) = window.check() {
                faults.push(PlanError::Window(window.name.clone(), why));
            }
        }
        let nodes: Vec<Node<'_>> = self
            .checks
            .iter()
            .map(|c| Node {
                name: &c.name,
                depends_on: &c.depends_on,
                members: match &c.ask {
                    Ask::Group(g) => &g.members,
                    _ => &[],
                },
            })
            .collect();
        match Graph::new(&nodes) {
            Ok(graph) if faults.is_empty() => Ok(graph),
            Ok(_) => Err(faults),
            Err(e) => {
                faults.push(e.into());
                Err(faults)
            }
        }
    }
}

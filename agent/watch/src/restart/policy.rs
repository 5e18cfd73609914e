//! When a unit may be restarted: a pure state machine over serialisable state.
//!
//! ```text
//!                    ask: Refused(reason)
//!                   ┌────────────────────┐
//!                   ▼                    │        job ended           settle over            check healthy
//!   ┌────────────▶ Idle ──ask: Go──▶ Working ──────────────▶ Settling ────────────▶ Verifying ─────────────▶ Idle
//!   │               ▲                                            ▲                      │
//!   │               └───────── check still fails: asks again ────┼──────────────────────┘
//!   └ operator's reset                                           └ found Working after a restart of the daemon
//! ```
//!
//! Limits, each with its own reason of refusal: a cooldown of 60 s × 2^(n−1) after the n-th attempt, at most 15 min, ±10 %; so
//! many attempts in a sliding hour, then the unit is *given up* (acting stops, watching goes on) until it is healthy, an
//! operator resets it, or `retry_after` has passed; and a budget over all units of the host, so that a broken host is not
//! restarted piece by piece. Attempts are remembered in the stored state *before* the job is started: a daemon that crashes
//! in a loop does not get new ones.

use std::collections::BTreeMap;
use std::time::Duration;

use keepwatch_model::check::CheckName;
pub use keepwatch_model::incidents::RestartRefusal as Refusal;
use serde::{Deserialize, Serialize};

use crate::clock::At;
use crate::systemd::{UnitName, UnitStatus};

/// Restarts over all units in [`BUDGET_WINDOW`].
pub const BUDGET: usize = 5;
/// The window of the budget.
pub const BUDGET_WINDOW: Duration = Duration::from_secs(600);
/// The window of attempts of one unit.
pub const ATTEMPTS_WINDOW: Duration = Duration::from_secs(3600);
/// The first cooldown; doubled with each attempt.
pub const COOLDOWN: Duration = Duration::from_secs(60);
/// The longest.
pub const COOLDOWN_MAX: Duration = Duration::from_secs(900);
/// How much a cooldown varies, so that hosts of a fleet do not act in step.
const JITTER: f64 = 0.1;
/// Attempts that one unit may have at most. They are remembered, 8 bytes each.
const ATTEMPTS_MAX: u32 = 20;

/// One step of the escalation: what an attempt does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Step {
    /// Restart the unit.
    Unit,
    /// Restart the unit, then these, which depend on it.
    Dependants(Vec<UnitName>),
    /// Run this command, by its name in the configuration.
    Command(String),
    /// Restart the host.
    Reboot,
}

/// How a unit is restarted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitRules {
    /// Attempts in a sliding hour.
    pub max_attempts: u32,
    /// How long results do not count after a restart.
    pub settle: Duration,
    /// After being given up for so long, attempts begin anew. By default never.
    pub retry_after: Option<Duration>,
    /// Also start a unit that an operator stopped.
    pub start_if_inactive: bool,
    /// Decide and tell, but do nothing.
    pub dry_run: bool,
    /// What the first, second, … attempt does; the last is repeated.
    pub escalation: Vec<Step>,
    /// Allows [`Step::Reboot`].
    pub allow_reboot: bool,
    /// How long a job may take: the unit's own stop and start timeouts.
    pub job_timeout: Duration,
}

impl Default for UnitRules {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            settle: Duration::from_secs(10),
            retry_after: None,
            start_if_inactive: false,
            dry_run: false,
            escalation: vec![Step::Unit],
            allow_reboot: false,
            job_timeout: Duration::from_secs(300),
        }
    }
}

impl UnitRules {
    /// Whether the rules make sense.
    ///
    /// # Errors
    /// A sentence.
    pub fn check(&self) -> Result<(), String> {
        if self.max_attempts == 0 || self.max_attempts > ATTEMPTS_MAX {
            return Err(format!("max_attempts must be between 1 and {ATTEMPTS_MAX}"));
        }
        if self.escalation.is_empty() || self.escalation.len() > 8 {
            return Err("the escalation has 1 to 8 steps".into());
        }
        if self.escalation.contains(&Step::Reboot) && !self.allow_reboot {
            return Err("the escalation reboots the host, and allow_reboot is not set".into());
        }
        if self.settle > Duration::from_secs(3600) || self.job_timeout > Duration::from_secs(3600) {
            return Err("settle and job_timeout are at most one hour".into());
        }
        Ok(())
    }

    fn step(&self, attempt: u32) -> Step {
        let at = usize::try_from(attempt.saturating_sub(1)).unwrap_or(usize::MAX);
        self.escalation
            .get(at)
            .or(self.escalation.last())
            .cloned()
            .unwrap_or(Step::Unit)
    }
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Asker {
    /// A check that is unhealthy, and what hides it.
    Check {
        /// Its name.
        check: CheckName,
        /// It is in a maintenance window.
        maintenance: bool,
        /// A parent of it is down.
        suppressed: bool,
        /// It flaps.
        flapping: bool,
    },
    /// A person. Cooldown, attempts, budget and windows do not stop him; the state of unit and system does.
    Operator,
}

/// What is known of the unit and the system when the decision is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The unit.
    pub unit: UnitStatus,
    /// The state of the system, `running`, `stopping`, …
    pub system: String,
    /// An activation of NixOS is running.
    pub activation: bool,
}

/// Where a unit stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Nothing under way.
    #[default]
    Idle,
    /// A job is under way.
    Working,
    /// The job ended; results do not count until then.
    Settling(At),
    /// Results count; the check must become healthy.
    Verifying,
}

/// What is remembered of one unit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UnitState {
    /// Attempts of the last hour, oldest first.
    pub attempts: Vec<At>,
    /// All attempts ever.
    pub attempts_total: u64,
    /// No restart before this.
    pub allowed_after: Option<At>,
    /// Given up since.
    pub gave_up: Option<At>,
    /// When the last attempt began.
    pub last: Option<At>,
    /// How the last job ended.
    pub last_result: Option<String>,
    /// Where it stands.
    pub phase: Phase,
    /// The last refusal, until one is allowed; so that a refusal is told once.
    pub refused: Option<Refusal>,
}

/// What is remembered of all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostState {
    /// Restarts in the window of the budget.
    pub restarts: Vec<At>,
}

/// An allowed attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The how-manieth in the window, from 1; 0 for an operator's.
    pub number: u32,
    /// What to do.
    pub step: Step,
}

/// The decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Do it. The state already counts it.
    Go(Attempt),
    /// Do not.
    Refused {
        /// Why.
        reason: Refusal,
        /// It was refused for the same reason before: count it, do not tell it again.
        again: bool,
        /// With this refusal the unit is given up.
        gives_up: bool,
    },
}

impl UnitState {
    /// A stored state, brought into its bounds. A job that was under way when the daemon ended is systemd's; what it does
    /// is waited for.
    pub fn restored(mut self, rules: &UnitRules, now: At) -> Self {
        self.clamp(now);
        if self.phase == Phase::Working {
            self.phase = Phase::Settling(now.plus(rules.settle));
        }
        self
    }

    /// After a jump of the clock: nothing lies in the future, no cooldown lasts longer than it may.
    pub fn clamp(&mut self, now: At) {
        let past = |at: &mut At| *at = (*at).min(now);
        self.attempts.truncate(ATTEMPTS_MAX as usize);
        self.attempts.iter_mut().for_each(past);
        self.last.iter_mut().for_each(past);
        self.gave_up.iter_mut().for_each(past);
        if let Some(after) = &mut self.allowed_after {
            *after = (*after).min(now.plus(COOLDOWN_MAX));
        }
        if let Phase::Settling(until) = &mut self.phase {
            *until = (*until).min(now.plus(Duration::from_secs(3600)));
        }
        self.last_result = self.last_result.take().map(|r| crate::text::clean(&r));
    }

    /// Attempts within the window.
    pub fn recent(&self, now: At) -> u32 {
        let n = self
            .attempts
            .iter()
            .filter(|at| now.since(**at) < ATTEMPTS_WINDOW)
            .count();
        u32::try_from(n).unwrap_or(u32::MAX)
    }

    /// Whether results of its checks count now. Ends the settling when its time is over.
    pub fn counts(&mut self, now: At) -> bool {
        match self.phase {
            Phase::Idle | Phase::Verifying => true,
            Phase::Working => false,
            Phase::Settling(until) if now < until => false,
            Phase::Settling(_) => {
                self.phase = Phase::Verifying;
                true
            }
        }
    }
}

/// What can be refused without asking systemd: a cheap first look.
pub fn look(
    rules: &UnitRules,
    state: &UnitState,
    host: &HostState,
    asker: &Asker,
    now: At,
) -> Option<Refusal> {
    let is_settling = matches!(state.phase, Phase::Settling(until) if now < until);
    // A person who has just seen the restart fail, and mended what was wrong, need not wait for checks to settle.
    if state.phase == Phase::Working || (is_settling && *asker != Asker::Operator) {
        return Some(Refusal::InProgress);
    }
    let Asker::Check {
        maintenance,
        suppressed,
        flapping,
        ..
    } = asker
    else {
        return None;
    };
    if *maintenance {
        return Some(Refusal::Maintenance);
    }
    if *suppressed {
        return Some(Refusal::ParentUnhealthy);
    }
    if *flapping {
        return Some(Refusal::Flapping);
    }
    let given_up = state.gave_up.is_some_and(|since| match rules.retry_after {
        Some(wait) => now.since(since) < wait,
        None => true,
    });
    if given_up {
        return Some(Refusal::GaveUp);
    }
    if state.allowed_after.is_some_and(|after| now < after) {
        return Some(Refusal::Cooldown);
    }
    // With `retry_after` over, the attempts before it no longer count.
    if state.gave_up.is_none() && state.recent(now) >= rules.max_attempts {
        return Some(Refusal::GaveUp);
    }
    let used = host
        .restarts
        .iter()
        .filter(|at| now.since(**at) < BUDGET_WINDOW)
        .count();
    if used >= BUDGET {
        return Some(Refusal::HostBudget);
    }
    None
}

/// What the unit and the system say.
fn facts_refuse(rules: &UnitRules, facts: &Facts, asker: &Asker) -> Option<Refusal> {
    let unit = &facts.unit;
    if facts.system == "stopping" {
        return Some(Refusal::SystemStopping);
    }
    if facts.activation {
        return Some(Refusal::Activation);
    }
    if unit.load != "loaded" {
        return Some(Refusal::NoSuchUnit);
    }
    let busy =
        ["activating", "deactivating", "reloading", "refreshing"].contains(&unit.active.as_str());
    if busy || unit.sub.starts_with("auto-restart") {
        return Some(Refusal::UnitBusy);
    }
    let stopped = unit.active == "inactive" && (unit.result.is_empty() || unit.result == "success");
    if stopped && !rules.start_if_inactive && *asker != Asker::Operator {
        return Some(Refusal::StoppedByOperator);
    }
    None
}

/// Decides, and when it allows, counts the attempt and starts the cooldown. `jitter` is a random number from −1 to 1.
pub fn decide(
    rules: &UnitRules,
    state: &mut UnitState,
    host: &mut HostState,
    asker: &Asker,
    facts: &Facts,
    now: At,
    jitter: f64,
) -> Decision {
    let refused = look(rules, state, host, asker, now)
        .or_else(|| facts_refuse(rules, facts, asker))
        .or_else(|| (rules.dry_run && *asker != Asker::Operator).then_some(Refusal::DryRun));
    if let Some(reason) = refused {
        return refuse(state, reason, now);
    }
    if *asker != Asker::Operator && state.gave_up.take().is_some() {
        state.attempts.clear();
    }
    state.attempts.retain(|at| now.since(*at) < ATTEMPTS_WINDOW);
    host.restarts.retain(|at| now.since(*at) < BUDGET_WINDOW);
    state.refused = None;
    state.last = Some(now);
    state.phase = Phase::Working;
    state.attempts_total = state.attempts_total.saturating_add(1);
    let number = match asker {
        Asker::Operator => 0,
        Asker::Check { .. } => {
            state.attempts.push(now);
            host.restarts.push(now);
            state.recent(now)
        }
    };
    state.allowed_after = Some(now.plus(cooldown(number.max(1), jitter)));
    Decision::Go(Attempt {
        number,
        step: if number == 0 {
            Step::Unit
        } else {
            rules.step(number)
        },
    })
}

/// Notes a refusal.
pub fn refuse(state: &mut UnitState, reason: Refusal, now: At) -> Decision {
    let gives_up = reason == Refusal::GaveUp && state.gave_up.is_none();
    if gives_up {
        state.gave_up = Some(now);
    }
    let again = state.refused == Some(reason) && !gives_up;
    state.refused = Some(reason);
    Decision::Refused {
        reason,
        again,
        gives_up,
    }
}

/// 60 s × 2^(n−1), at most 15 min, and a little more or less.
pub fn cooldown(attempt: u32, jitter: f64) -> Duration {
    let doubled = COOLDOWN.saturating_mul(
        1u32.checked_shl(attempt.saturating_sub(1))
            .unwrap_or(u32::MAX),
    );
    let jitter = if jitter.is_finite() {
        jitter.clamp(-1.0, 1.0)
    } else {
        0.0
    };
    doubled.min(COOLDOWN_MAX).mul_f64(1.0 + JITTER * jitter)
}

/// The job ended: results settle, and the cooldown counts from here.
pub fn finished(rules: &UnitRules, state: &mut UnitState, result: &str, now: At, jitter: f64) {
    state.last_result = Some(crate::text::clean(result));
    state.phase = Phase::Settling(now.plus(rules.settle));
    let n = state.recent(now).max(1);
    state.allowed_after = Some(now.plus(cooldown(n, jitter)));
}

/// All checks of the unit are up. Returns how long after the attempt, when there was one, and whether it had been given up.
pub fn recovered(state: &mut UnitState, now: At) -> (Option<Duration>, bool) {
    let after = (state.phase == Phase::Verifying)
        .then(|| state.last.map(|at| now.since(at)))
        .flatten();
    if matches!(state.phase, Phase::Verifying) {
        state.phase = Phase::Idle;
    }
    state.refused = None;
    (after, state.gave_up.take().is_some())
}

/// An operator resets the unit: attempts, cooldown and giving up are forgotten. False when there was nothing to forget.
pub fn reset(state: &mut UnitState) -> bool {
    let had =
        !state.attempts.is_empty() || state.gave_up.is_some() || state.allowed_after.is_some();
    state.attempts.clear();
    state.gave_up = None;
    state.allowed_after = None;
    state.refused = None;
    if state.phase == Phase::Verifying {
        state.phase = Phase::Idle;
    }
    had
}

/// All that must survive a restart of the daemon.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SavedRestarts {
    /// By unit.
    pub units: BTreeMap<UnitName, UnitState>,
    /// Over all.
    pub host: HostState,
}

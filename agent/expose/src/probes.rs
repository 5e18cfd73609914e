//! The probes of an orchestrator (live, startup, ready) and the older `/health`, as pure functions of the facts.
//!
//! | probe | says 200 when |
//! |---|---|
//! | live | the scheduler's tick is younger than [`TICK_MAX`]. Nothing else: a dependency that is down must not restart the agent |
//! | startup | configuration loaded, state database migrated, listeners bound (or nobody could ask), each critical check has run once or [`STARTUP`] passed; from then on always |
//! | ready | started, not about to stop, state database writable, and every critical check is up (unknown is not up) |
//! | health | as ready |
//!
//! Body: `{status, check_type, message, details, timestamp, duration_ms}`; `status` is `healthy`, `degraded` (well enough for
//! 200) or `unhealthy` (503). Without a token no text that came from a service is shown, only words of closed sets; and strangers on
//! other hosts who lack it get numbers instead of names ([`Shown`]). A name that they guess may still be excluded.

use std::collections::BTreeSet;
use std::time::Duration;

use keepwatch_model::check::CheckName;
use serde_json::{Map, Value, json};

use crate::facts::{At, Check, Facts};
use crate::limits::{STARTUP, TICK_MAX, rows};

/// What a probe found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// As it should be.
    Healthy,
    /// Something that is not critical is not.
    Degraded,
    /// 503.
    Unhealthy,
}

impl Status {
    /// The word in the body.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
        }
    }

    /// The code of the answer.
    pub const fn code(self) -> u16 {
        match self {
            Self::Healthy | Self::Degraded => 200,
            Self::Unhealthy => 503,
        }
    }
}

/// What who asks may see of checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Which they are and how each is.
    Names,
    /// How many.
    Numbers,
}

/// An answer, before it has a time and a form.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// What was found.
    pub status: Status,
    /// Which probe: `liveness`, `startup`, `readiness`, `detailed`.
    pub check_type: &'static str,
    /// One sentence.
    pub message: String,
    /// The rest.
    pub details: Value,
}

impl Verdict {
    /// The body.
    pub fn body(&self, now: At, took: Duration) -> Value {
        json!({
            "status": self.status.as_str(),
            "check_type": self.check_type,
            "message": self.message,
            "details": self.details,
            "timestamp": now.rfc3339(),
            // Microseconds are what it takes; three decimals show them.
            "duration_ms": (took.as_secs_f64() * 1e6).round() / 1e3,
        })
    }
}

/// Whether the agent itself runs.
pub fn live(facts: &Facts, monotonic: Duration) -> Verdict {
    let age = monotonic.saturating_sub(facts.agent.tick);
    let well = age < TICK_MAX;
    Verdict {
        status: if well {
            Status::Healthy
        } else {
            Status::Unhealthy
        },
        check_type: "liveness",
        message: if well {
            "the scheduler runs".into()
        } else {
            format!("the scheduler has not run for {} s", age.as_secs())
        },
        details: json!({ "tick_age_seconds": (age.as_secs_f64() * 1e3).round() / 1e3 }),
    }
}

/// What startup still waits for; empty when it is done.
pub fn awaited(facts: &Facts, monotonic: Duration, shown: Shown) -> Vec<String> {
    let mut out = Vec::new();
    if !facts.agent.config_loaded {
        out.push("the configuration".to_owned());
    }
    if !facts.agent.database_ready {
        out.push("the state database".to_owned());
    }
    if monotonic.saturating_sub(facts.agent.started) < STARTUP {
        let never: Vec<_> = facts
            .checks
            .iter()
            .filter(|c| c.is_critical() && c.last_run.is_none())
            .collect();
        if let Some(first) = never.first() {
            let mut what = format!("the first runs of {} critical checks", never.len());
            if shown == Shown::Names {
                what += &format!(", among them {}", first.name);
            }
            out.push(what);
        }
    }
    out
}

/// Whether the agent has started. `latched` says that it once had.
pub fn startup(facts: &Facts, monotonic: Duration, latched: bool, shown: Shown) -> Verdict {
    let waiting = if latched {
        Vec::new()
    } else {
        awaited(facts, monotonic, shown)
    };
    Verdict {
        status: if waiting.is_empty() {
            Status::Healthy
        } else {
            Status::Unhealthy
        },
        check_type: "startup",
        message: if waiting.is_empty() {
            "started".into()
        } else {
            format!("waiting for {}", waiting.join(" and for "))
        },
        details: json!({ "waiting_for": waiting }),
    }
}

/// Options of a readiness question.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// Checks that do not count.
    pub exclude: BTreeSet<CheckName>,
    /// More about each dependency.
    pub verbose: bool,
}

/// Checks that make the host not ready.
fn critical_failures<'a>(
    facts: &'a Facts,
    options: &'a Options,
) -> impl Iterator<Item = &'a Check> {
    facts
        .checks
        .iter()
        .filter(|c| c.is_critical() && !c.state.is_up() && !options.exclude.contains(&c.name))
}

/// Whether the services of this host may be asked for work.
pub fn ready(
    facts: &Facts,
    started: bool,
    draining: bool,
    options: &Options,
    shown: Shown,
) -> Verdict {
    let checks: Vec<&Check> = facts.checks.iter().take(rows::CHECKS).collect();
    let critical: Vec<&str> = critical_failures(facts, options)
        .map(|c| c.name.as_str())
        .collect();
    let others: Vec<&str> = checks
        .iter()
        .filter(|c| {
            !c.is_critical() && c.overlay.is_none() && !c.state.is_up() && c.last_run.is_some()
        })
        .filter(|c| !options.exclude.contains(&c.name))
        .map(|c| c.name.as_str())
        .collect();
    let degraded = checks
        .iter()
        .any(|c| c.overlay.is_none() && c.state == keepwatch_model::check::State::Degraded);
    let draining = draining || facts.agent.draining;
    let writable = facts.agent.database_writable;
    let mut why = Vec::new();
    if draining {
        why.push("the agent is about to stop".to_owned());
    }
    if !started {
        why.push("the agent is still starting".to_owned());
    }
    if !writable {
        why.push("the state database cannot be written".to_owned());
    }
    if let Some(first) = critical.first() {
        why.push(match (critical.len(), shown) {
            (1, Shown::Names) => format!("critical check {first} is not up"),
            (n, Shown::Names) => format!("{n} critical checks are not up, among them {first}"),
            (1, Shown::Numbers) => "a critical check is not up".into(),
            (n, Shown::Numbers) => format!("{n} critical checks are not up"),
        });
    }
    let status = if !why.is_empty() {
        Status::Unhealthy
    } else if degraded || !others.is_empty() {
        Status::Degraded
    } else {
        Status::Healthy
    };
    let message = match (status, others.len()) {
        (Status::Unhealthy, _) => why.join("; "),
        (Status::Degraded, 0) => "ready; some checks are degraded".into(),
        (Status::Degraded, n) => format!("ready; {n} checks that are not critical are down"),
        (Status::Healthy, _) => "ready".into(),
    };
    let mut details = Map::new();
    details.insert("started".into(), started.into());
    details.insert("draining".into(), draining.into());
    details.insert("state_database_writable".into(), writable.into());
    match shown {
        Shown::Names => {
            details.insert("critical_failures".into(), json!(critical));
            details.insert("non_critical_failures".into(), json!(others));
            if !options.exclude.is_empty() {
                exclusions(&mut details, facts, options);
            }
            details.insert(
                "dependencies".into(),
                checks.iter().map(|c| dependency(c, options)).collect(),
            );
        }
        Shown::Numbers => {
            details.insert("critical_failures_count".into(), critical.len().into());
            details.insert("non_critical_failures_count".into(), others.len().into());
        }
    }
    Verdict {
        status,
        check_type: "readiness",
        message,
        details: details.into(),
    }
}

fn exclusions(details: &mut Map<String, Value>, facts: &Facts, options: &Options) {
    let known: BTreeSet<&CheckName> = facts.checks.iter().map(|c| &c.name).collect();
    let names = |wanted: &dyn Fn(&CheckName) -> bool| -> Vec<&str> {
        let of = options.exclude.iter().filter(|n| wanted(n));
        of.map(CheckName::as_str).collect()
    };
    details.insert("excluded".into(), json!(names(&|_| true)));
    let unknown = names(&|n| !known.contains(n));
    details.insert("excluded_unknown".into(), json!(unknown));
}

fn dependency(c: &Check, options: &Options) -> Value {
    let mut out = Map::new();
    out.insert("name".into(), c.name.as_str().into());
    out.insert("kind".into(), c.kind.as_str().into());
    out.insert("critical".into(), c.is_critical().into());
    out.insert("status".into(), c.shown().into());
    out.insert("up".into(), c.state.is_up().into());
    if options.verbose {
        out.insert("excluded".into(), options.exclude.contains(&c.name).into());
        out.insert("reason".into(), json!(c.reason.map(|r| r.as_str())));
        out.insert("since".into(), json!(c.since.map(At::rfc3339)));
        out.insert("last_run".into(), json!(c.last_run.map(At::rfc3339)));
        out.insert("consecutive_failures".into(), c.failures_in_row.into());
    }
    out.into()
}

/// The older flat form: `{"status": "ok", "<check>": "healthy", …}`. The code is that of [`ready`].
pub fn health(facts: &Facts, started: bool, draining: bool, shown: Shown) -> (u16, Value) {
    let verdict = ready(facts, started, draining, &Options::default(), shown);
    let mut out = Map::new();
    let ok = verdict.status != Status::Unhealthy;
    out.insert(
        "status".into(),
        if ok { "ok" } else { "unavailable" }.into(),
    );
    let named = match shown {
        Shown::Names => rows::CHECKS,
        Shown::Numbers => 0,
    };
    for c in facts.checks.iter().take(named) {
        // A check of this name does not hide the answer.
        let key = match c.name.as_str() {
            "status" => "check:status",
            name => name,
        };
        out.insert(key.into(), c.shown().into());
    }
    (verdict.status.code(), out.into())
}

//! What fires now, for people who are told without Prometheus.
//!
//! The same alerts as the rules for Prometheus make of the same facts: names, severities, limits, and how long each must last.
//! What each kind of thing is looked at for is pure ([`checks`], [`backups`], [`repositories`], [`host`], [`agent`]); what was before is
//! in [`past`], and since when something is wrong in [`ledger`]. [`rules`] lists what is told, and what only somebody else can tell.
//!
//! Two differ. A check is down or flaps by its incident, which the judge opens and closes: maintenance, dependencies and debouncing
//! are already in it, so that nothing more is waited for. And a backup is stale by its own `max_age`, whose default is the rule's limit.
//!
//! Labels are those of the rules, with `job="keepwatch"`: an Alertmanager sees one alert where Prometheus' job is called so, its
//! `instance` is the host's name here, and neither Prometheus (`external_labels`) nor the check (`labels`) adds others. Alerts with
//! labels that only a metric has (`operation`) stay two. Where both tell one Alertmanager, `docs/monitoring.md` says how to be told once.

mod agent;
mod backups;
mod checks;
mod host;
mod ledger;
mod past;
mod repositories;
mod rules;

use std::time::Duration;

use keepwatch_config::Config;
use keepwatch_expose::facts::{At, Facts};
use keepwatch_model::check::Severity;
use keepwatch_notify::alert::Alert;
use keepwatch_notify::time as told;
use keepwatch_watch::conductor::Overview;

pub use ledger::Beginnings;
use ledger::Ledger;
use past::Past;
use rules::Rule;

/// Where it is written what to do; the name of the alert in small letters follows.
const RUNBOOKS: &str = "https://github.com/keepwatch/keepwatch/blob/main/docs/runbooks.md#";
/// The label `job`, as the rules have it.
const JOB: &str = "keepwatch";

/// What alerts are made from.
pub struct Known<'a> {
    /// The name of this host.
    pub host: &'a str,
    /// The configuration.
    pub config: &'a Config,
    /// Incidents and units.
    pub overview: &'a Overview,
    /// What is shown.
    pub facts: &'a Facts,
    /// Why the catalog is not used now.
    pub trouble: Option<&'a str>,
    /// Operations of the catalog that failed, since the start.
    pub errors: u64,
    /// When the configuration was refused, if the last one was.
    pub refused: Option<At>,
    /// Now.
    pub now: At,
}

/// Something that is wrong, now.
#[derive(Clone, Debug)]
pub struct Case {
    /// What would be told; it starts when this began, or now where that is not known.
    alert: Alert,
    /// How long it must last.
    wait: Duration,
    /// Not to be told unless it was before: maintenance, or what it depends on is down.
    muted: bool,
}

impl Case {
    fn label(mut self, name: &str, value: &str) -> Self {
        if !value.is_empty() {
            self.alert = self.alert.label(name, value);
        }
        self
    }

    fn since(mut self, at: Option<At>) -> Self {
        if let Some(at) = at {
            self.alert = self.alert.began(told::At(at.0));
        }
        self
    }

    fn muted(mut self, muted: bool) -> Self {
        self.muted = muted;
        self
    }

    fn says(mut self, summary: &str, description: &str) -> Self {
        self.alert = self.alert.summary(summary).description(description);
        self
    }
}

impl Known<'_> {
    fn case(&self, rule: &Rule) -> Case {
        self.case_as(rule, rule.severity)
    }

    fn case_as(&self, rule: &Rule, severity: Severity) -> Case {
        let alert = Alert::new(rule.name, severity, told::At(self.now.0))
            .label("job", JOB)
            .label("instance", self.host)
            .runbook(&format!("{RUNBOOKS}{}", rule.name.to_lowercase()));
        Case {
            alert,
            wait: rule.wait,
            muted: false,
        }
    }
}

/// So much later.
fn after(at: At, by: Duration) -> At {
    At(at
        .0
        .saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
}

/// One who looks again and again.
pub struct Lookout {
    ledger: Ledger,
    past: Past,
}

impl Lookout {
    /// With what was remembered.
    pub fn new(remembered: Beginnings, now: At) -> Self {
        Self {
            ledger: Ledger::new(remembered, told::At(now.0)),
            past: Past::default(),
        }
    }

    /// All that fires. `whole`: everything is known, so what is not wrong is over.
    pub fn look(&mut self, known: &Known<'_>, whole: bool) -> Vec<Alert> {
        self.past.note(known.facts, known.errors, known.now);
        let cases = cases(known, &self.past);
        self.ledger.judge(cases, told::At(known.now.0), whole)
    }

    /// What is to be remembered.
    pub fn beginnings(&self) -> &Beginnings {
        self.ledger.seen()
    }
}

/// All that is wrong, however short.
fn cases(known: &Known<'_>, past: &Past) -> Vec<Case> {
    let mut out = Vec::new();
    checks::cases(known, past, &mut out);
    backups::cases(known, &mut out);
    repositories::cases(known, past, &mut out);
    host::cases(known, past, &mut out);
    agent::cases(known, past, &mut out);
    out
}

#[cfg(test)]
mod tests;

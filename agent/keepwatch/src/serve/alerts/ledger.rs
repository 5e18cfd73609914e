//! Since when each thing is wrong, and whether that is long enough to be told.
//!
//! What is wrong must be so for as long as the rule of its alert says, counted from when the daemon first saw it: a backup that is
//! overdue when a host comes back has its few minutes, as with Prometheus. What the alert then says is when it truly began, where
//! that is known. What was seen is stored with the rest that survives a restart, or what must last for a day would never be told on
//! a host that starts anew each night; after a longer outage it begins anew, as with Prometheus.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use keepwatch_notify::alert::{Alert, AlertId};
use keepwatch_notify::time::At;
use serde::{Deserialize, Serialize};

use super::Case;

/// What was seen is believed for so long after the daemon ended.
const OUTAGE: Duration = Duration::from_secs(3600);
/// Things that are wrong at once and are remembered, about 100 bytes each: more than people can be told.
const MAX: usize = 4000;

/// What is wrong, by alert.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Beginnings {
    /// When this was known.
    pub at: At,
    /// By identity.
    pub of: BTreeMap<AlertId, Beginning>,
}

/// Since when something is wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Beginning {
    /// Seen since.
    pub seen: At,
    /// True since.
    pub since: At,
    /// It is told.
    pub fires: bool,
}

/// What is wrong, as far as it was seen.
#[derive(Debug, Default)]
pub struct Ledger {
    seen: Beginnings,
}

impl Ledger {
    /// With what was remembered.
    pub fn new(remembered: Beginnings, now: At) -> Self {
        let is_of_now = now.since(remembered.at) <= OUTAGE && remembered.at <= now.plus(OUTAGE);
        let seen = if is_of_now {
            remembered
        } else {
            Beginnings::default()
        };
        Self { seen }
    }

    /// What is to be remembered.
    pub fn seen(&self) -> &Beginnings {
        &self.seen
    }

    /// Those that are wrong for long enough. Unless the facts are `whole`, what is not among them is not yet over.
    pub fn judge(&mut self, cases: Vec<Case>, now: At, whole: bool) -> Vec<Alert> {
        self.seen.at = now;
        let mut present = BTreeSet::new();
        let mut ripe = Vec::new();
        for case in cases {
            let id = case.alert.id();
            if self.seen.of.len() >= MAX && !self.seen.of.contains_key(&id) {
                continue;
            }
            let began = case.alert.starts();
            let known = self.seen.of.entry(id.clone()).or_insert(Beginning {
                seen: now,
                since: began,
                fires: false,
            });
            // A clock that was set back stretches no wait.
            known.seen = known.seen.min(now);
            known.since = known.since.min(began).min(now);
            present.insert(id.clone());
            if now.since(known.seen) >= case.wait {
                ripe.push((id, case.muted, case.alert.began(known.since)));
            }
        }
        if whole {
            self.seen.of.retain(|id, _| present.contains(id));
        }
        let said: Vec<Alert> = ripe.iter().map(|(_, _, alert)| alert.clone()).collect();
        let mut out = Vec::new();
        for (id, muted, alert) in ripe {
            let Some(known) = self.seen.of.get_mut(&id) else {
                continue;
            };
            // What was told stays until it is over: to leave it out would tell that it is.
            known.fires |= !muted && !is_implied(&alert, &said);
            if known.fires {
                out.push(alert);
            }
        }
        out
    }
}

/// Of what follows from another, one is told: the same as `inhibit_rules` for Alertmanager say.
const IMPLIES: &[(&str, &[&str], &str)] = &[
    (
        "KeepwatchUnitRestartGaveUp",
        &["KeepwatchUnitRestartLoop", "KeepwatchUnitRestartFailed"],
        "unit",
    ),
    (
        "KeepwatchRepositoryUnreachable",
        &[
            "KeepwatchBackupFailed",
            "KeepwatchRepositoryErrors",
            "KeepwatchRepositoryStaleLock",
        ],
        "repository",
    ),
    (
        "KeepwatchBackupNeverSucceeded",
        &["KeepwatchBackupFailed"],
        "backup",
    ),
];

fn is_implied(alert: &Alert, said: &[Alert]) -> bool {
    let mut rules = IMPLIES
        .iter()
        .filter(|(_, targets, _)| targets.contains(&alert.name()));
    rules.any(|(source, _, label)| {
        said.iter()
            .any(|s| s.name() == *source && s.labels().get(*label) == alert.labels().get(*label))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use keepwatch_model::check::Severity;

    fn case(name: &str, wait: u64, began: i64) -> Case {
        let alert = Alert::new(name, Severity::Warning, At(began)).label("unit", "u");
        Case {
            alert,
            wait: Duration::from_secs(wait),
            muted: false,
        }
    }

    fn names(alerts: &[Alert]) -> Vec<(&str, i64)> {
        alerts.iter().map(|a| (a.name(), a.starts().0)).collect()
    }

    #[test]
    fn what_lasts_is_told_with_its_true_beginning() {
        let mut ledger = Ledger::default();
        assert!(
            ledger
                .judge(vec![case("X", 300, 5)], At(1000), true)
                .is_empty()
        );
        let almost = ledger.judge(vec![case("X", 300, 900)], At(300_999), true);
        assert!(almost.is_empty());
        let told = ledger.judge(vec![case("X", 300, 300_000)], At(301_000), true);
        assert_eq!(names(&told), [("X", 5)]);
        // An interruption begins anew; what is not known yet is none.
        ledger.judge(vec![], At(302_000), false);
        let told = ledger.judge(vec![case("X", 300, 302_500)], At(302_500), true);
        assert_eq!(names(&told), [("X", 5)]);
        assert!(ledger.judge(vec![], At(303_000), true).is_empty());
        assert!(
            ledger
                .judge(vec![case("X", 300, 304_000)], At(304_000), true)
                .is_empty()
        );
        // Who does not know when it began has the first look; a clock that is set back stretches nothing.
        let told = ledger.judge(vec![case("X", 0, 100)], At(100), true);
        assert_eq!(names(&told), [("X", 100)]);
    }

    #[test]
    fn what_was_seen_survives_a_restart_but_no_long_outage() {
        let mut ledger = Ledger::default();
        ledger.judge(vec![case("X", 600, 0)], At(0), true);
        ledger.judge(vec![case("X", 600, 0)], At(500_000), true);
        let json = serde_json::to_string(ledger.seen()).expect("JSON");
        let back = || serde_json::from_str::<Beginnings>(&json).expect("as it was");
        for (now, fires) in [(1_000_000, true), (4_100_000, true), (4_100_001, false)] {
            let mut ledger = Ledger::new(back(), At(now));
            let told = ledger.judge(vec![case("X", 600, 0)], At(now), true);
            assert_eq!(told.len(), usize::from(fires), "{now}");
        }
    }

    #[test]
    fn what_follows_from_another_is_not_told_unless_it_was_before() {
        let failed = || case("KeepwatchUnitRestartFailed", 0, 0);
        let gave_up = || case("KeepwatchUnitRestartGaveUp", 0, 0);
        let told = Ledger::default().judge(vec![failed(), gave_up()], At(0), true);
        assert_eq!(names(&told), [("KeepwatchUnitRestartGaveUp", 0)]);
        let mut ledger = Ledger::default();
        ledger.judge(vec![failed()], At(0), true);
        assert_eq!(
            ledger.judge(vec![failed(), gave_up()], At(1), true).len(),
            2
        );
        // The same with maintenance.
        let hidden = || Case {
            muted: true,
            ..failed()
        };
        let mut ledger = Ledger::default();
        assert!(ledger.judge(vec![hidden()], At(0), true).is_empty());
        assert_eq!(ledger.judge(vec![failed()], At(1), true).len(), 1);
        assert_eq!(ledger.judge(vec![hidden()], At(2), true).len(), 1);
        // Of another unit.
        let mut other = gave_up();
        other.alert = other.alert.label("unit", "v");
        assert_eq!(
            Ledger::default()
                .judge(vec![failed(), other], At(0), true)
                .len(),
            2
        );
    }
}

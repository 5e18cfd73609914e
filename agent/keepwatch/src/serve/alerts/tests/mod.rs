//! Each alert: it fires, it does not at the bound, it waits, it resolves; and none of the rules is forgotten.

mod apart;
mod table;

use std::collections::{BTreeMap, BTreeSet};

use keepwatch_config::Loaded;
use keepwatch_expose::facts::{
    Agent, Backup, Check, Collector, Disk, Drill, Heartbeat, Host, Key, Process, Repository, Unit,
    Verification, Wal, Window,
};
use keepwatch_model::check::{CheckKind, Overlay, Reason};
use keepwatch_watch::clock;
use keepwatch_watch::conductor::{CheckView, UnitView};
use keepwatch_watch::judge::{Cause, Incident, JudgeState};
use keepwatch_watch::outcome::Failure;

use super::rules::{NOT_TOLD, TOLD};
use super::*;

const NOW: At = At(20_000 * 86_400_000);
const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const GIB: u64 = 1 << 30;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn ago(millis: u64) -> Option<At> {
    Some(At(NOW.0 - millis as i64))
}

fn ahead(millis: u64) -> Option<At> {
    Some(At(NOW.0 + millis as i64))
}

fn config() -> Loaded {
    let key = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
    let text = format!(
        "[repositories.disk]\nbackend.local = {{ path = \"/mnt/b\" }}\nrecipients = [\"{key}\"]\n[backups.home]\nsource.paths = {{ include = [\"/home\"] }}\n[checks.web]\ngroup = \"shops\"\ndescription = \"The shop answers\"\nlabels = {{ team = \"shop\" }}\nprobe.tcp = {{ target = \"127.0.0.1:80\" }}\n"
    );
    keepwatch_config::parse(&text, "test").unwrap_or_else(|e| panic!("{e}"))
}

/// A host on which all is well, with one of everything.
fn well() -> Facts {
    let mut check = Check::new(
        "web".parse().expect("a name"),
        CheckKind::Tcp,
        Severity::Critical,
        ms(30 * SECOND),
        ms(10 * SECOND),
    );
    check.last_run = ago(10 * SECOND);
    check.last_duration = Some(ms(20));
    check.disks.push(Disk {
        mountpoint: "/srv".into(),
        available: 500,
        size: 1000,
        inodes_free: 50,
        inodes: 100,
    });
    Facts {
        agent: Agent {
            tick_at: NOW,
            score: Some(1.0),
            collectors: vec![Collector {
                name: "catalog".into(),
                success: true,
                duration: ms(1),
            }],
            heartbeat: Some(Heartbeat {
                last_success: ago(MINUTE),
                interval: ms(5 * MINUTE),
                failures: 0,
            }),
            process: Some(Process {
                open_fds: 80,
                max_fds: Some(100),
                ..Process::default()
            }),
            ..Agent::default()
        },
        host: Host {
            memory_available: Some(100),
            memory_size: Some(1000),
            ..Host::default()
        },
        checks: vec![check],
        windows: vec![Window {
            name: "night".into(),
            active: false,
            since: None,
            until: None,
        }],
        units: vec![Unit {
            name: "web.service".into(),
            ..Unit::default()
        }],
        backups: vec![Backup {
            name: "home".into(),
            repository: "disk".into(),
            first_seen: ago(100 * DAY),
            interval: Some(ms(DAY)),
            last_start: ago(3 * HOUR),
            last_completion: ago(2 * HOUR),
            last_success: ago(2 * HOUR),
            last_successful: Some(true),
            last_duration: Some(ms(400 * SECOND)),
            expected_duration: Some(ms(400 * SECOND)),
            expected_source_size: Some(4 << 20),
            expected_added_size: Some(GIB),
            last_source_size: Some(4 << 20),
            last_added_size: Some(GIB),
            last_source_errors: Some(0),
            snapshots: Some(7),
            retention: keepwatch_expose::facts::Retention {
                overdue: Some(0),
                minimum: Some(7),
                ..Default::default()
            },
            drill: Some(Drill {
                last_success: ago(DAY),
                last_completion: ago(DAY),
                last_successful: Some(true),
                last_duration: Some(ms(MINUTE)),
                objective: Some(ms(MINUTE)),
                interval: Some(ms(10 * DAY)),
                ..Drill::default()
            }),
            ..Backup::default()
        }],
        repositories: vec![Repository {
            name: "disk".into(),
            reachable: Some(true),
            first_seen: ago(100 * DAY),
            available: Some(100 * GIB),
            capacity: Some(200 * GIB),
            stale_locks: Some(0),
            verification: Verification {
                last_success: ago(DAY),
                last_completion: ago(DAY),
                last_successful: Some(true),
                interval: Some(ms(30 * DAY)),
                ..Verification::default()
            },
            wal: vec![Wal {
                cluster: "7312".into(),
                recoverable: true,
                base_backups: 1,
                newest_segment: ago(2 * DAY),
                ..Wal::default()
            }],
            ..Repository::default()
        }],
        keys: vec![Key {
            name: "paper".into(),
            purpose: "recovery".into(),
            not_after: ahead(30 * DAY),
            last_verified: ago(180 * DAY),
        }],
        alerts: vec![],
    }
}

struct Stage {
    loaded: Loaded,
    overview: Overview,
    trouble: Option<&'static str>,
    errors: u64,
    refused: Option<At>,
}

impl Stage {
    fn new() -> Self {
        Self {
            loaded: config(),
            overview: Overview::default(),
            trouble: None,
            errors: 0,
            refused: None,
        }
    }

    fn known<'a>(&'a self, facts: &'a Facts, now: At) -> Known<'a> {
        Known {
            host: "h",
            config: &self.loaded.config,
            overview: &self.overview,
            facts,
            trouble: self.trouble,
            errors: self.errors,
            refused: self.refused,
            now,
        }
    }

    fn wrong(&self, facts: &Facts, past: &Past, now: At) -> Vec<String> {
        let cases = cases(&self.known(facts, now), past);
        cases.iter().map(|c| c.alert.name().to_owned()).collect()
    }

    fn tells(&self, lookout: &mut Lookout, facts: &Facts, now: At) -> Vec<Alert> {
        let mut facts = facts.clone();
        facts.agent.tick_at = now;
        lookout.look(&self.known(&facts, now), true)
    }
}

fn named<'a>(alerts: &'a [Alert], name: &str) -> Option<&'a Alert> {
    alerts.iter().find(|a| a.name() == name)
}

fn drill(f: &mut Facts) -> &mut Drill {
    f.backups[0].drill.as_mut().expect("a drill")
}

fn heartbeat(f: &mut Facts) -> &mut Heartbeat {
    f.agent.heartbeat.as_mut().expect("a switch")
}

/// Those that look back or do not come from facts alone: each has a test of its own below.
const APART: &[&str] = &[
    "KeepwatchCheckDown",
    "KeepwatchCheckFlapping",
    "KeepwatchCheckSlow",
    "KeepwatchCheckErrorBudgetBurn",
    "KeepwatchRepositoryErrors",
    "KeepwatchRepositoryFilling",
    "KeepwatchHostMemoryPressure",
    "KeepwatchHostCpuPressure",
    "KeepwatchHostDiskFilling",
    "KeepwatchUnitRestartLoop",
    "KeepwatchUnitRestartFailed",
    "KeepwatchStateDatabaseErrors",
    "KeepwatchHistoryDropped",
    "KeepwatchConfigReloadFailed",
];

#[test]
fn every_rule_is_told_or_has_a_reason_not_to_be() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../alerts");
    let mut rules: BTreeMap<String, BTreeSet<(String, Duration)>> = BTreeMap::new();
    let mut runbooks = BTreeSet::new();
    for entry in std::fs::read_dir(dir).expect("the rules") {
        let file = entry.expect("an entry").path();
        if file.extension().is_none_or(|e| e != "yml") {
            continue;
        }
        let text = std::fs::read_to_string(&file).expect("a file of rules");
        let (mut name, mut wait) = (String::new(), Duration::ZERO);
        for line in text.lines().map(str::trim) {
            if let Some(alert) = line.strip_prefix("- alert: ") {
                (name, wait) = (alert.to_owned(), Duration::ZERO);
            } else if let Some(text) = line.strip_prefix("for: ") {
                wait = keepwatch_model::duration::parse_duration(text).expect("a duration");
            } else if let Some(severity) = line.strip_prefix("severity: ") {
                let of = rules.entry(name.clone()).or_default();
                of.insert((severity.to_owned(), wait));
            } else if let Some(url) = line.strip_prefix("runbook_url: ") {
                runbooks.insert(url.to_owned());
            }
        }
    }
    assert!(rules.len() > 55, "{}", rules.len());
    let mut left: BTreeSet<&str> = rules.keys().map(String::as_str).collect();
    for (name, why) in NOT_TOLD {
        assert!(left.remove(name), "{name} is no rule, or is there twice");
        assert!(why.len() > 20 && !TOLD.iter().any(|r| r.name == *name));
    }
    for rule in TOLD {
        assert!(
            left.remove(rule.name),
            "{} is no rule, or is there twice",
            rule.name
        );
        let of = &rules[rule.name];
        let severities: Vec<&str> = of.iter().map(|(s, _)| s.as_str()).collect();
        assert!(
            severities.contains(&rule.severity.as_str()),
            "{}",
            rule.name
        );
        // The judge has waited for these two.
        let is_judged = matches!(rule.name, "KeepwatchCheckDown" | "KeepwatchCheckFlapping");
        let waits = of.iter().all(|(_, wait)| *wait == rule.wait);
        assert_eq!(waits, !is_judged, "{}: {of:?}", rule.name);
        assert_eq!(of.len() > 1, is_judged, "{}", rule.name);
        let runbook = format!("{RUNBOOKS}{}", rule.name.to_lowercase());
        assert!(runbooks.contains(&runbook), "{runbook}");
        let rows = table::ROWS.iter().any(|(name, ..)| *name == rule.name);
        assert!(
            rows != APART.contains(&rule.name),
            "{} has no test",
            rule.name
        );
    }
    assert_eq!(left, BTreeSet::new(), "neither told nor in NOT_TOLD");
    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/monitoring.md");
    let docs = std::fs::read_to_string(docs).expect("the document");
    for (name, _) in NOT_TOLD {
        assert!(
            docs.contains(&format!("`{name}`")),
            "docs/monitoring.md: {name}"
        );
    }
}

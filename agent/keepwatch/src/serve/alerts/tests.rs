//! Each alert: it fires, it does not at the bound, it waits, it resolves; and none of the rules is forgotten.

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
        "[repositories.disk]\nbackend.local = {{ path = \"/mnt/b\" }}\nrecipients = [\"{key}\"]\n[backups.home]\nsource.paths = {{ include = [\"/home\"] }}\n[checks.web]\ngroup = \"shops\"\ndescription = \"The shop answers\"\nlabels = {{ team = \"shop\", check = \"no\" }}\nprobe.tcp = {{ target = \"127.0.0.1:80\" }}\n"
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

/// An alert; what makes it, at the least; what just does not; since when it says to be, in milliseconds before [`NOW`].
type Row = (&'static str, fn(&mut Facts), fn(&mut Facts), Option<u64>);

const ROWS: &[Row] = &[
    (
        "KeepwatchCheckNotRunning",
        |f| f.checks[0].last_run = ago(150 * SECOND + 1),
        |f| f.checks[0].last_run = ago(150 * SECOND),
        Some(1),
    ),
    (
        "KeepwatchCertificateExpiringSoon",
        |f| f.checks[0].tls_not_after = ahead(14 * DAY - 1),
        |f| f.checks[0].tls_not_after = ahead(14 * DAY),
        Some(1),
    ),
    (
        "KeepwatchCertificateExpiringVerySoon",
        |f| f.checks[0].tls_not_after = ahead(3 * DAY - 1),
        |f| f.checks[0].tls_not_after = ahead(3 * DAY),
        Some(1),
    ),
    (
        "KeepwatchMaintenanceTooLong",
        |f| {
            f.windows[0].active = true;
            f.windows[0].since = ago(HOUR);
        },
        |_| {},
        Some(HOUR),
    ),
    (
        "KeepwatchHealthScoreLow",
        |f| f.agent.score = Some(0.699),
        |f| f.agent.score = Some(0.7),
        None,
    ),
    (
        "KeepwatchBackupStale",
        |f| f.backups[0].last_success = ago(2 * DAY + HOUR + 1),
        |f| f.backups[0].last_success = ago(2 * DAY + HOUR),
        Some(1),
    ),
    (
        "KeepwatchBackupNeverSucceeded",
        |f| {
            f.backups[0].last_success = None;
            f.backups[0].first_seen = ago(2 * DAY + 1);
        },
        |f| {
            f.backups[0].last_success = None;
            f.backups[0].first_seen = ago(2 * DAY);
        },
        Some(1),
    ),
    (
        "KeepwatchBackupFailed",
        |f| f.backups[0].last_successful = Some(false),
        |f| f.backups[0].last_successful = None,
        Some(2 * HOUR),
    ),
    (
        "KeepwatchBackupPartial",
        |f| f.backups[0].last_source_errors = Some(1),
        |f| f.backups[0].last_source_errors = None,
        Some(2 * HOUR),
    ),
    (
        "KeepwatchBackupMissedStart",
        |f| f.backups[0].last_start = ago(31 * HOUR + 1),
        |f| f.backups[0].last_start = ago(31 * HOUR),
        Some(1),
    ),
    (
        "KeepwatchBackupRunningTooLong",
        |f| {
            f.backups[0].running = true;
            f.backups[0].expected_duration = Some(ms(30 * MINUTE));
            f.backups[0].last_start = ago(90 * MINUTE + 1);
        },
        |f| {
            f.backups[0].running = true;
            f.backups[0].expected_duration = Some(ms(30 * MINUTE));
            f.backups[0].last_start = ago(90 * MINUTE);
        },
        Some(1),
    ),
    (
        "KeepwatchBackupRunningTooLong",
        |f| {
            f.backups[0].running = true;
            f.backups[0].last_start = ago(HOUR + 1);
        },
        |f| {
            f.backups[0].running = true;
            f.backups[0].last_start = ago(HOUR);
        },
        Some(1),
    ),
    (
        "KeepwatchBackupSlow",
        |f| f.backups[0].last_duration = Some(ms(800 * SECOND + 1)),
        |f| f.backups[0].last_duration = Some(ms(800 * SECOND)),
        Some(2 * HOUR),
    ),
    (
        "KeepwatchBackupShrunk",
        |f| f.backups[0].last_source_size = Some((2 << 20) - 1),
        |f| f.backups[0].last_source_size = Some(2 << 20),
        Some(2 * HOUR),
    ),
    (
        "KeepwatchBackupGrew",
        |f| f.backups[0].last_added_size = Some(3 * GIB + 1),
        |f| f.backups[0].last_added_size = Some(3 * GIB),
        Some(2 * HOUR),
    ),
    (
        "KeepwatchBackupClockSkew",
        |f| f.backups[0].last_success = ahead(DAY + 300 * SECOND + 1),
        |f| f.backups[0].last_success = ahead(300 * SECOND),
        None,
    ),
    (
        "KeepwatchRetentionNotApplied",
        |f| f.backups[0].retention.overdue = Some(1),
        |f| f.backups[0].retention.overdue = None,
        None,
    ),
    (
        "KeepwatchRetentionTooAggressive",
        |f| f.backups[0].snapshots = Some(6),
        |f| f.backups[0].snapshots = None,
        None,
    ),
    (
        "KeepwatchRestoreDrillFailed",
        |f| drill(f).last_successful = Some(false),
        |f| drill(f).last_successful = None,
        Some(DAY),
    ),
    (
        "KeepwatchRestoreDrillStale",
        |f| drill(f).last_success = ago(15 * DAY + 1),
        |f| drill(f).last_success = ago(15 * DAY),
        Some(1),
    ),
    (
        "KeepwatchRestoreDrillStale",
        |f| drill(f).last_success = None,
        |f| {
            drill(f).last_success = None;
            f.backups[0].first_seen = ago(15 * DAY);
        },
        Some(85 * DAY),
    ),
    (
        "KeepwatchRestoreDrillTooSlow",
        |f| drill(f).last_duration = Some(ms(MINUTE + 1)),
        |f| drill(f).objective = None,
        Some(DAY),
    ),
    (
        "KeepwatchRepositoryUnreachable",
        |f| f.repositories[0].reachable = Some(false),
        |f| f.repositories[0].reachable = None,
        None,
    ),
    (
        "KeepwatchRepositoryNoRoomForNextBackup",
        |f| f.repositories[0].available = Some(2 * GIB - 1),
        |f| f.repositories[0].available = Some(2 * GIB),
        None,
    ),
    (
        "KeepwatchRepositoryStaleLock",
        |f| f.repositories[0].stale_locks = Some(1),
        |f| f.repositories[0].stale_locks = None,
        None,
    ),
    (
        "KeepwatchVerificationFailed",
        |f| f.repositories[0].verification.last_successful = Some(false),
        |f| f.repositories[0].verification.last_successful = None,
        Some(DAY),
    ),
    (
        "KeepwatchVerificationStale",
        |f| f.repositories[0].verification.last_success = ago(60 * DAY + 1),
        |f| f.repositories[0].verification.last_success = ago(60 * DAY),
        Some(1),
    ),
    (
        "KeepwatchVerificationNever",
        |f| f.repositories[0].verification.last_success = None,
        |f| {
            f.repositories[0].verification.last_success = None;
            f.repositories[0].first_seen = ago(60 * DAY);
        },
        Some(40 * DAY),
    ),
    (
        "KeepwatchWalGap",
        |f| {
            f.repositories[0].wal[0].recoverable = false;
            f.repositories[0].wal[0].gaps = 1;
        },
        |f| f.repositories[0].wal[0].gaps = 1,
        Some(DAY),
    ),
    (
        "KeepwatchWalArchiveStale",
        |f| f.repositories[0].wal[0].newest_segment = ago(9 * DAY + 1),
        |f| f.repositories[0].wal[0].newest_segment = ago(9 * DAY),
        Some(DAY + 1),
    ),
    (
        "KeepwatchWalNoBaseBackup",
        |f| {
            f.repositories[0].wal[0].base_backups = 0;
            f.repositories[0].wal[0].newest_segment = ago(9 * DAY - 1);
        },
        |f| {
            f.repositories[0].wal[0].base_backups = 0;
            f.repositories[0].wal[0].newest_segment = ago(9 * DAY);
        },
        None,
    ),
    (
        "KeepwatchKeyExpiringSoon",
        |f| f.keys[0].not_after = ahead(30 * DAY - 1),
        |f| f.keys[0].not_after = None,
        Some(1),
    ),
    (
        "KeepwatchRecoveryKeyUnverified",
        |f| f.keys[0].last_verified = ago(180 * DAY + 1),
        |f| f.keys[0].last_verified = None,
        Some(1),
    ),
    (
        "KeepwatchHostMemoryLow",
        |f| f.host.memory_available = Some(99),
        |f| f.host.memory_available = None,
        None,
    ),
    (
        "KeepwatchHostDiskAlmostFull",
        |f| f.checks[0].disks[0].available = 49,
        |f| f.checks[0].disks[0].available = 50,
        None,
    ),
    (
        "KeepwatchHostInodesLow",
        |f| f.checks[0].disks[0].inodes_free = 4,
        |f| f.checks[0].disks[0].inodes_free = 5,
        None,
    ),
    (
        "KeepwatchUnitRestartGaveUp",
        |f| f.units[0].gave_up = true,
        |_| {},
        None,
    ),
    (
        "KeepwatchEventLoopStuck",
        |f| f.agent.lag = ms(SECOND + 1),
        |f| f.agent.lag = ms(SECOND),
        None,
    ),
    (
        "KeepwatchCollectorFailing",
        |f| f.agent.collectors[0].success = false,
        |_| {},
        None,
    ),
    (
        "KeepwatchHeartbeatFailing",
        |f| heartbeat(f).last_success = ago(15 * MINUTE + 1),
        |f| heartbeat(f).last_success = ago(15 * MINUTE),
        Some(1),
    ),
    (
        "KeepwatchFileDescriptorsHigh",
        |f| {
            if let Some(p) = &mut f.agent.process {
                p.open_fds = 81;
            }
        },
        |_| {},
        None,
    ),
];

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

fn drill(f: &mut Facts) -> &mut Drill {
    f.backups[0].drill.as_mut().expect("a drill")
}

fn heartbeat(f: &mut Facts) -> &mut Heartbeat {
    f.agent.heartbeat.as_mut().expect("a switch")
}

#[test]
fn each_fires_at_its_limit_waits_and_resolves() {
    let stage = Stage::new();
    let none = Past::default();
    assert_eq!(stage.wrong(&well(), &none, NOW), [""; 0]);
    for (name, wrong, bound, since) in ROWS {
        let (mut is, mut is_not) = (well(), well());
        wrong(&mut is);
        bound(&mut is_not);
        assert_eq!(stage.wrong(&is, &none, NOW), [*name]);
        let names = stage.wrong(&is_not, &none, NOW);
        assert!(!names.iter().any(|n| n == name), "{name} at its bound");

        let rule = TOLD.iter().find(|r| r.name == *name).expect("a rule");
        let mut lookout = Lookout::new(Beginnings::default(), NOW);
        let mut tells = |facts: &Facts, now: At| stage.tells(&mut lookout, facts, now);
        let told = tells(&is, NOW);
        assert_eq!(named(&told, name).is_some(), rule.wait.is_zero(), "{name}");
        if !rule.wait.is_zero() {
            let almost = after(NOW, rule.wait - ms(1));
            assert!(named(&tells(&is, almost), name).is_none(), "{name} waits");
        }
        let told = tells(&is, after(NOW, rule.wait));
        let alert = named(&told, name).unwrap_or_else(|| panic!("{name} is not told"));
        assert_eq!(alert.severity(), rule.severity, "{name}");
        assert_eq!(alert.labels()["job"], "keepwatch");
        assert_eq!(alert.labels()["instance"], "h");
        assert_eq!(
            alert.runbook_url(),
            format!("{RUNBOOKS}{}", name.to_lowercase())
        );
        assert!(!alert.summary_text().is_empty() && !alert.description_text().is_empty());
        assert!(!alert.summary_text().ends_with('…'), "{name} is cut");
        assert!(!alert.description_text().ends_with('…'), "{name} is cut");
        let expected = NOW.0 - since.unwrap_or(0) as i64;
        assert_eq!(alert.starts().0, expected, "{name}: since");
        // Still at the next look, with the same beginning; then over.
        let told = tells(&is, after(NOW, rule.wait + ms(SECOND)));
        assert_eq!(named(&told, name).map(|a| a.starts().0), Some(expected));
        let told = tells(&is_not, after(NOW, rule.wait + ms(2 * SECOND)));
        let ages = rule.wait > Duration::ZERO && since == &Some(1);
        assert!(ages || named(&told, name).is_none(), "{name} is over");
        let mut gone = well();
        gone.checks.clear();
        gone.backups.clear();
        gone.repositories.clear();
        gone.keys.clear();
        gone.agent.heartbeat = None;
        let told = tells(&gone, after(NOW, rule.wait + ms(3 * SECOND)));
        assert!(
            named(&told, name).is_none(),
            "{name} is gone with its subject"
        );
    }
}

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
        let rows = ROWS.iter().any(|(name, ..)| *name == rule.name);
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

fn view(severity: Severity, cause: Cause) -> CheckView {
    let mut judge = JudgeState::new(clock::At(0));
    let failure = Failure::new(Reason::Connect, "connection refused");
    judge.last_failure = Some(failure.clone());
    judge.incident = Some(Incident {
        opened: clock::At(8_000),
        since: clock::At(7_000),
        cause,
        failure: Some(failure),
    });
    CheckView {
        name: "web".parse().expect("a name"),
        kind: CheckKind::Tcp,
        severity,
        interval: ms(30 * SECOND),
        timeout: ms(10 * SECOND),
        unit: Some("web.service".parse().expect("a unit")),
        judge,
        runs: 3,
        failures: Default::default(),
        overruns: 0,
        last_duration: None,
        measures: vec![],
    }
}

#[test]
fn an_incident_fires_at_once_with_the_labels_of_its_check() {
    let mut stage = Stage::new();
    stage.overview.checks = vec![view(Severity::Critical, Cause::Down)];
    let mut lookout = Lookout::new(Beginnings::default(), At(9_000));
    let facts = Facts::default();
    let told = stage.tells(&mut lookout, &facts, At(9_000));
    let alert = named(&told, "KeepwatchCheckDown").expect("told");
    for (label, value) in [
        ("check", "web"),
        ("kind", "tcp"),
        ("unit", "web.service"),
        ("group", "shops"),
        ("team", "shop"),
    ] {
        assert_eq!(alert.labels()[label], value, "{label}");
    }
    assert_eq!(alert.starts(), told::At(7_000));
    assert_eq!(
        alert.description_text(),
        "The shop answers: connection refused"
    );
    stage.overview.checks[0].judge.incident = None;
    assert!(stage.tells(&mut lookout, &facts, At(10_000)).is_empty());
    // One that flaps is never less than a warning, and a critical one stays critical.
    for (of, told) in [
        (Severity::Critical, Severity::Critical),
        (Severity::Warning, Severity::Warning),
        (Severity::Info, Severity::Warning),
    ] {
        stage.overview.checks = vec![view(of, Cause::Flapping)];
        let mut lookout = Lookout::new(Beginnings::default(), At(9_000));
        let all = stage.tells(&mut lookout, &facts, At(9_000));
        let alert = named(&all, "KeepwatchCheckFlapping").expect("told");
        assert_eq!((alert.severity(), alert.starts().0), (told, 8_000));
        stage.overview.checks = vec![view(of, Cause::Down)];
        let all = stage.tells(&mut lookout, &facts, At(9_001));
        assert_eq!(
            named(&all, "KeepwatchCheckDown").expect("told").severity(),
            of
        );
    }
}

/// Looks at what `change` makes of it, each minute, `n` times; returns what is wrong in the end.
fn after_looks(
    n: u64,
    each: u64,
    mut change: impl FnMut(u64, &mut Facts),
) -> (Vec<String>, Facts, Past, At) {
    let stage = Stage::new();
    let mut past = Past::default();
    let mut facts = well();
    let mut now = NOW;
    for i in 0..n {
        now = after(NOW, ms(i * each));
        change(i, &mut facts);
        facts.agent.tick_at = now;
        facts.checks[0].last_run = Some(now);
        facts.backups.clear();
        facts.keys.clear();
        heartbeat(&mut facts).last_success = Some(now);
        past.note(&facts, 0, now);
    }
    (stage.wrong(&facts, &past, now), facts, past, now)
}

#[test]
fn slow_checks_and_burnt_budgets() {
    let slow = |took: u64, n| {
        let look = |_, f: &mut Facts| f.checks[0].last_duration = Some(ms(took));
        after_looks(n, 30 * SECOND, look).0
    };
    assert_eq!(slow(8001, 20), ["KeepwatchCheckSlow"]);
    assert_eq!(slow(8000, 20), [""; 0]);
    assert_eq!(slow(9000, 9), [""; 0], "too few say nothing");

    let burns = |minutes, failing: fn(u64) -> bool| {
        after_looks(minutes, MINUTE, |i, f: &mut Facts| {
            f.checks[0].runs += 10;
            if failing(i) {
                *f.checks[0].failures.entry(Reason::Connect).or_default() += 10;
            }
        })
    };
    assert_eq!(burns(61, |i| i > 50).0, ["KeepwatchCheckErrorBudgetBurn"]);
    assert_eq!(burns(61, |i| i > 53).0, [""; 0], "below 14.4 %");
    assert_eq!(
        burns(61, |i| (30..50).contains(&i)).0,
        [""; 0],
        "it is over"
    );
    assert_eq!(burns(29, |_| true).0, [""; 0], "no hour is known yet");
    // Maintenance: not told, unless it was.
    let (_, mut facts, past, now) = burns(61, |i| i > 50);
    facts.checks[0].overlay = Some(Overlay::Maintenance);
    let stage = Stage::new();
    let cases = cases(&stage.known(&facts, now), &past);
    assert!(cases.iter().all(|c| c.muted), "{cases:?}");
    facts.checks[0].overlay = Some(Overlay::Disabled);
    assert_eq!(stage.wrong(&facts, &past, now), [""; 0]);
}

#[test]
fn errors_and_room_of_repositories() {
    let asks = |all: u64, bad: u64| {
        after_looks(3, MINUTE, |i, f: &mut Facts| {
            f.repositories[0].requests = BTreeMap::from([("get".into(), 1000 + all * i / 2)]);
            f.repositories[0].request_errors =
                BTreeMap::from([("failed".into(), 500 + bad * i / 2)]);
        })
        .0
    };
    assert_eq!(asks(100, 6), ["KeepwatchRepositoryErrors"]);
    assert_eq!(asks(100, 4), [""; 0]);
    assert_eq!(asks(20, 20), [""; 0], "too few");
    let fills = |hours, capacity: u64, each: u64| {
        after_looks(hours, HOUR, |i, f: &mut Facts| {
            f.repositories[0].capacity = Some(capacity);
            f.repositories[0].available = Some(1000 - each * i);
        })
        .0
    };
    // 30 hours old, at 10 an hour: 710 are left, and 960 more would be used within four days.
    assert_eq!(fills(30, 10_000, 10), ["KeepwatchRepositoryFilling"]);
    assert_eq!(fills(30, 10_000, 6), [""; 0], "not within four days");
    assert_eq!(fills(30, 1000, 10), [""; 0], "there is much room");
    assert_eq!(fills(24, 10_000, 10), [""; 0], "known for less than a day");
}

#[test]
fn the_host_waits_and_its_disks_fill() {
    for (resource, permille, name) in [
        ("memory", 101, "KeepwatchHostMemoryPressure"),
        ("cpu", 501, "KeepwatchHostCpuPressure"),
    ] {
        let waits = |permille: u64| {
            after_looks(25, 15 * SECOND, |i, f: &mut Facts| {
                f.host.pressure.insert(resource, ms(15 * permille * i));
            })
            .0
        };
        assert_eq!(waits(permille), [name]);
        assert_eq!(waits(permille - 2), [""; 0]);
    }
    let fills = |looks, each: u64| {
        after_looks(looks, 5 * MINUTE, |i, f: &mut Facts| {
            f.checks[0].disks[0].size = 10_000;
            f.checks[0].disks[0].available = 1000 - each * i;
        })
        .0
    };
    assert_eq!(fills(40, 4), ["KeepwatchHostDiskFilling"]);
    assert_eq!(fills(40, 2), [""; 0], "not within a day");
    assert_eq!(fills(36, 4), [""; 0], "known for less than three hours");
}

#[test]
fn restarts_that_do_not_help() {
    let restarts = |n: u64| {
        after_looks(4, 15 * MINUTE, |i, f: &mut Facts| {
            f.units[0].restarts = 7 + (n * i).div_ceil(3)
        })
        .0
    };
    assert_eq!(restarts(3), ["KeepwatchUnitRestartLoop"]);
    assert_eq!(restarts(2), [""; 0]);
    // Attempts of the daemon before this one.
    let mut stage = Stage::new();
    let mut unit = UnitView::default();
    unit.state.attempts = [1, 2, 3].map(|n| clock::At(NOW.0 - n * 1000)).to_vec();
    stage
        .overview
        .units
        .insert("web.service".parse().expect("a unit"), unit);
    let none = Past::default();
    assert_eq!(
        stage.wrong(&well(), &none, NOW),
        ["KeepwatchUnitRestartLoop"]
    );
    let hour = after(NOW, ms(HOUR - 2000));
    let names = stage.wrong(&well(), &none, hour);
    assert!(!names.contains(&"KeepwatchUnitRestartLoop".to_owned()));

    let fails = |f: &mut Facts, n| drop(f.units[0].failures.insert("timeout".into(), n));
    let (names, facts, past, now) = after_looks(3, MINUTE, |i, f| fails(f, i));
    assert_eq!(names, ["KeepwatchUnitRestartFailed"]);
    let stage = Stage::new();
    let told = cases(&stage.known(&facts, now), &past);
    assert_eq!(told[0].alert.labels()["reason"], "timeout");
    assert_eq!(told[0].alert.starts().0, now.0);
    for (later, is) in [(15 * MINUTE - 1, true), (15 * MINUTE, false)] {
        let names = stage.wrong(&facts, &past, after(now, ms(later)));
        assert_eq!(
            names.contains(&"KeepwatchUnitRestartFailed".to_owned()),
            is,
            "{later}"
        );
    }
}

#[test]
fn the_agent_itself() {
    let mut stage = Stage::new();
    let mut lookout = Lookout::new(Beginnings::default(), NOW);
    // A reload that failed: since then, however often it is tried, and not since the last one that worked.
    stage.refused = ago(10 * SECOND);
    assert!(stage.tells(&mut lookout, &well(), NOW).is_empty());
    let told = stage.tells(&mut lookout, &well(), after(NOW, ms(5 * MINUTE)));
    let alert = named(&told, "KeepwatchConfigReloadFailed").expect("told");
    assert_eq!(alert.starts().0, NOW.0 - 10_000);
    stage.refused = None;
    let five = after(NOW, ms(5 * MINUTE + 1));
    assert!(
        named(
            &stage.tells(&mut lookout, &well(), five),
            "KeepwatchConfigReloadFailed"
        )
        .is_none()
    );
    // A scheduler that does not tick: since a minute after its last tick.
    let mut facts = well();
    facts.agent.tick_at = At(NOW.0 - 60_000);
    assert_eq!(stage.wrong(&facts, &Past::default(), NOW), [""; 0]);
    facts.agent.tick_at = At(NOW.0 - 60_001);
    let cases = cases(&stage.known(&facts, NOW), &Past::default());
    assert_eq!(cases[0].alert.name(), "KeepwatchEventLoopStuck");
    assert_eq!(cases[0].alert.starts().0, NOW.0 - 1);
    // A catalog that is away, and one that fails now and then.
    stage.trouble = Some("the disk is full");
    let told = super::cases(&stage.known(&well(), NOW), &Past::default());
    assert_eq!(told[0].alert.name(), "KeepwatchStateDatabaseErrors");
    assert_eq!(told[0].alert.description_text(), "the disk is full");
    stage.trouble = None;
    let mut past = Past::default();
    past.note(&well(), 0, NOW);
    assert_eq!(stage.wrong(&well(), &past, NOW), [""; 0]);
    let mut lost = well();
    lost.agent.history_dropped = BTreeMap::from([("spool".into(), 9)]);
    past.note(&lost, 3, after(NOW, ms(MINUTE)));
    let later = |millis| stage.wrong(&well(), &past, after(NOW, ms(millis)));
    assert!(later(MINUTE).contains(&"KeepwatchStateDatabaseErrors".to_owned()));
    assert!(!later(11 * MINUTE).contains(&"KeepwatchStateDatabaseErrors".to_owned()));
    // What the spool had lost before is no news; what is lost now is, for an hour.
    let dropped = "KeepwatchHistoryDropped".to_owned();
    assert!(!later(MINUTE).contains(&dropped));
    lost.agent.history_dropped = BTreeMap::from([("spool".into(), 10), ("catalog".into(), 0)]);
    past.note(&lost, 3, after(NOW, ms(2 * MINUTE)));
    let later = |millis| stage.wrong(&well(), &past, after(NOW, ms(millis)));
    assert!(later(2 * MINUTE).contains(&dropped));
    assert!(!later(62 * MINUTE).contains(&dropped));
}

#[test]
fn a_chosen_age_is_the_limit() {
    let mut stage = Stage::new();
    let backup = stage.loaded.config.backups.get_mut("home").expect("it");
    backup.max_age = ms(3 * DAY);
    let mut facts = well();
    facts.backups[0].last_start = ago(HOUR);
    for (age, stale) in [(3 * DAY, false), (3 * DAY + 1, true)] {
        facts.backups[0].last_success = ago(age);
        let names = stage.wrong(&facts, &Past::default(), NOW);
        assert_eq!(names == ["KeepwatchBackupStale"], stale, "{names:?}");
    }
}

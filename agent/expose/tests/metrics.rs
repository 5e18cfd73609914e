//! The text of `/metrics`: what Debian's promtool says of it, its size with 50 checks, that every series is declared, and that
//! series vanish with what they are about.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{busy, idle};
use keepwatch_expose::counters::{Counters, DbOperation};
use keepwatch_expose::facts::{Backup, Disk, Facts, Unit};
use keepwatch_expose::limits::rows;
use keepwatch_expose::names::{self, Kind};
use keepwatch_expose::render;
use keepwatch_expose::text::Page;
use keepwatch_model::check::CheckKind;

fn text(facts: &Facts, legacy: bool) -> String {
    let mut page = Page::default();
    render::facts(&mut page, facts, legacy);
    page.finish()
}

/// All that the agent can count, counted once.
fn counted(legacy: bool) -> String {
    let c = Counters::new(legacy).unwrap();
    for kind in CheckKind::ALL {
        c.check_finished("web", *kind, Duration::from_millis(20));
    }
    for op in DbOperation::ALL {
        c.database(*op, Duration::from_micros(300), true);
    }
    for level in [
        tracing::Level::ERROR,
        tracing::Level::WARN,
        tracing::Level::INFO,
    ] {
        c.logged(&level);
    }
    c.upkeep();
    c.render(|_| true)
}

fn series(text: &str) -> Vec<&str> {
    text.lines()
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
        .collect()
}

#[test]
fn promtool_finds_nothing_to_say() {
    for (legacy, facts) in [(false, busy(50)), (true, busy(50)), (false, idle())] {
        let all = text(&facts, legacy) + &counted(legacy);
        let child = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = match child {
            Ok(child) => child,
            Err(e) => {
                assert!(
                    std::env::var_os("CI").is_none(),
                    "promtool is missing in CI: {e}"
                );
                eprintln!("SKIPPED: promtool cannot be started ({e}); install Debian's prometheus");
                return;
            }
        };
        child
            .stdin
            .take()
            .unwrap()
            .write_all(all.as_bytes())
            .unwrap();
        let out = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned()
            + &String::from_utf8_lossy(&out.stdout);
        assert!(
            out.status.success() && said.is_empty(),
            "{:?}\n{said}",
            out.status
        );
    }
}

#[test]
fn fifty_checks_fit_the_budget() {
    let all = text(&busy(50), false) + &counted(false);
    let n = series(&all).len();
    eprintln!("{n} series, {} bytes", all.len());
    assert!(n <= 3000, "{n} series");
    assert!(all.len() <= 250 << 10, "{} bytes", all.len());
    let mut alone = idle();
    alone.checks = busy(50).checks;
    let page = text(&alone, false);
    eprintln!(
        "checks alone: {} series, {} bytes",
        series(&page).len(),
        page.len()
    );
    assert!(page.len() <= 150 << 10, "{} bytes", page.len());
    assert!(n > 1000, "the facts of this test say too little: {n}");
}

/// So many backups of which everything is known, each with drills when asked for.
fn backups(n: usize, drills: bool) -> Vec<Backup> {
    let rows = busy(0).backups;
    (0..n)
        .map(|i| Backup {
            name: format!("backup-with-a-usual-name-{i}"),
            drill: rows[i % rows.len()].drill.clone().filter(|_| drills),
            ..rows[i % rows.len()].clone()
        })
        .collect()
}

/// The page of a host with these backups, 20 units, 3 repositories, everything else that has a value, and what is counted.
fn with_backups(backups: Vec<Backup>) -> String {
    let mut facts = busy(0);
    facts.backups = backups;
    let c = Counters::new(false).unwrap();
    for op in DbOperation::ALL {
        c.database(*op, Duration::from_micros(300), true);
    }
    c.logged(&tracing::Level::INFO);
    c.upkeep();
    text(&facts, false) + &c.render(|_| true)
}

#[test]
fn a_hundred_jobs_fit_the_budget() {
    for (jobs, drills, most) in [
        (rows::DETAILED, true, 2000),
        (rows::DETAILED + 1, true, 2000),
        (100, false, 2000),
        (100, true, 3000),
    ] {
        let all = with_backups(backups(jobs, drills));
        let n = series(&all).len();
        eprintln!(
            "{jobs} jobs, drills {drills}: {n} series, {} bytes",
            all.len()
        );
        assert!(n <= most, "{jobs} jobs, drills {drills}: {n} series");
        assert!(all.len() <= 250 << 10, "{} bytes", all.len());
        assert!(n > 10 * jobs, "the facts of this test say too little: {n}");
        assert!(all.contains("keepwatch_collector_success{collector=\"exporter\"} 1"));
        let of_all = "keepwatch_backup_last_success_timestamp_seconds{";
        assert_eq!(all.matches(of_all).count(), jobs);
    }
}

/// Names of metrics in the rules of alerts.
fn wanted_by_alerts() -> BTreeSet<String> {
    let alerts = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../alerts");
    let mut out = BTreeSet::new();
    for file in std::fs::read_dir(alerts).unwrap() {
        let file = file.unwrap().path();
        if file.extension().is_some_and(|e| e == "yml") {
            let text = std::fs::read_to_string(file).unwrap();
            let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            out.extend(
                words
                    .filter(|w| names::find(w).is_some())
                    .map(str::to_owned),
            );
        }
    }
    out
}

#[test]
fn with_many_jobs_alerts_see_what_they_need() {
    let mut rows = backups(rows::DETAILED + 1, true);
    // All that can be wrong is wrong with one.
    rows[7].running = true;
    rows[7].last_source_errors = Some(3);
    rows[7].retention.overdue = Some(2);
    rows[7].last_success = None;
    // Only its drill never succeeded.
    rows[8].drill.as_mut().unwrap().last_success = None;
    rows[9].drill = None;
    rows[9].failures.clear();
    rows[10].failures = [
        (keepwatch_expose::facts::BackupReason::Space, 2),
        (keepwatch_expose::facts::BackupReason::Lock, 5),
    ]
    .into();
    let page = with_backups(rows);
    let wanted = wanted_by_alerts();
    let of_backups: Vec<_> = wanted
        .iter()
        .filter(|w| w.starts_with("keepwatch_backup_") || w.starts_with("keepwatch_restore_drill_"))
        .collect();
    assert!(of_backups.len() > 20, "{of_backups:?}");
    for name in of_backups {
        assert!(page.contains(&format!("\n{name}{{")), "{name} is not there");
    }
    let value = |metric: &str, job: usize, more: &str| {
        let repository = job % 10 % 3;
        let head = format!(
            "keepwatch_backup_{metric}{{backup=\"backup-with-a-usual-name-{job}\",repository=\"repository-{repository}\"{more}}} "
        );
        let found: Vec<_> = page.lines().filter_map(|l| l.strip_prefix(&head)).collect();
        assert!(found.len() <= 1, "{metric} of {job} twice");
        found.first().map(|v| v.parse::<f64>().unwrap())
    };
    // Absence means no.
    for (metric, yes) in [
        ("running", 1.0),
        ("last_source_errors", 3.0),
        ("retention_overdue_snapshots", 2.0),
    ] {
        assert_eq!(value(metric, 7, ""), Some(yes));
        assert_eq!(value(metric, 6, ""), None, "{metric}");
    }
    // What never succeeded is seen beside when it was first configured.
    let first_seen = |job| value("first_seen_timestamp_seconds", job, "").is_some();
    assert_eq!(
        [6, 7, 8, 9].map(first_seen),
        [false, true, true, false],
        "none, the backup, the drill, none"
    );
    // One counter of failures for each, from 0 on.
    let any = ",reason=\"any\"";
    assert_eq!(value("failures_total", 9, any), Some(0.0));
    assert_eq!(value("failures_total", 10, any), Some(7.0));
    assert!(!page.contains("reason=\"space\""));
    for gone in [
        "last_files",
        "last_completion",
        "last_stage_duration",
        "runs_total",
    ] {
        assert!(
            !page.contains(&format!("keepwatch_backup_{gone}")),
            "{gone}"
        );
    }
    // With one job fewer all is there.
    let page = with_backups(backups(rows::DETAILED, true));
    for metric in names::ALL
        .iter()
        .map(|m| m.name)
        .filter(|n| n.starts_with("keepwatch_backup_"))
    {
        assert!(page.contains(&format!("\n{metric}{{")), "{metric}");
    }
    let failures = page.matches("\nkeepwatch_backup_failures_total{").count();
    assert_eq!(failures, 9 * rows::DETAILED);
}

#[test]
fn every_declared_metric_can_appear_and_no_other_does() {
    let all = text(&busy(50), true) + &counted(true);
    let mut types: BTreeMap<&str, &str> = BTreeMap::new();
    for line in all.lines().filter_map(|l| l.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        assert!(types.insert(name, kind).is_none(), "{name} twice");
    }
    for (name, kind) in &types {
        let m = names::find(name).unwrap_or_else(|| panic!("{name} is not declared"));
        assert_eq!(m.kind.as_str(), *kind, "{name}");
    }
    // Requests are counted by the server; the rest must be here.
    let missing: Vec<_> = names::ALL
        .iter()
        .map(|m| m.name)
        .filter(|n| !types.contains_key(n) && !n.starts_with("keepwatch_http_"))
        .collect();
    assert_eq!(missing, Vec::<&str>::new());
    for line in series(&all) {
        let name = line.split(['{', ' ']).next().unwrap();
        let metric = names::find(name).or_else(|| {
            ["_bucket", "_sum", "_count"].iter().find_map(|s| {
                names::find(name.strip_suffix(s)?).filter(|m| m.kind == Kind::Histogram)
            })
        });
        let metric = metric.unwrap_or_else(|| panic!("{line}"));
        let labels: BTreeSet<&str> = line
            .split_once('{')
            .map(|(_, l)| {
                l.split("\",")
                    .filter_map(|p| Some(p.split_once("=\"")?.0))
                    .collect()
            })
            .unwrap_or_default();
        let declared: BTreeSet<&str> = metric
            .labels
            .iter()
            .copied()
            .chain(labels.contains("le").then_some("le"))
            .collect();
        assert_eq!(labels, declared, "{line}");
    }
}

#[test]
fn series_vanish_with_what_they_are_about() {
    let mut facts = busy(3);
    let before = text(&facts, false);
    assert!(before.contains("check-with-a-usual-name-1") && before.contains("unit-3.service"));
    facts.checks.remove(1);
    facts.units.clear();
    let after = text(&facts, false);
    assert!(!after.contains("check-with-a-usual-name-1") && !after.contains("\"unit-3.service\""));
    assert!(after.contains("check-with-a-usual-name-2"));
    // A fact that does not exist makes no series: "never" is visible as absence.
    let mut facts = idle();
    facts.backups.push(Backup {
        name: "new".into(),
        repository: "r".into(),
        first_seen: Some(keepwatch_expose::facts::At(5)),
        ..Backup::default()
    });
    let page = text(&facts, false);
    assert!(page.contains(
        "keepwatch_backup_first_seen_timestamp_seconds{backup=\"new\",repository=\"r\"} 0.005"
    ));
    assert!(!page.contains("keepwatch_backup_last_success_timestamp_seconds{"));
    assert_eq!(text(&facts, false), page, "the same facts, the same text");
}

#[test]
fn hostile_names_and_too_many_rows() {
    let mut facts = idle();
    facts.units.push(Unit {
        name: "a\"} 1\nevil_metric{x=\"".into(),
        ..Unit::default()
    });
    facts.units.push(Unit {
        name: "long".repeat(1000),
        ..Unit::default()
    });
    facts.units.push(Unit {
        name: "long".repeat(1001),
        ..Unit::default()
    });
    facts.host.disks.push(Disk::default());
    let page = text(&facts, false);
    assert!(!page.lines().any(|l| l.starts_with("evil")));
    // Both long ones became the same, so one is left out, and that is said.
    assert!(page.contains("keepwatch_collector_success{collector=\"exporter\"} 0"));
    assert!(text(&idle(), false).contains("keepwatch_collector_success{collector=\"exporter\"} 1"));
    let many = text(&busy(rows::CHECKS + 100), false);
    assert!(many.contains("keepwatch_collector_success{collector=\"exporter\"} 0"));
    assert!(
        many.contains(&format!("usual-name-{}\"", rows::CHECKS - 1))
            && !many.contains(&format!("usual-name-{}\"", rows::CHECKS))
    );
}

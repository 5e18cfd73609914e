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

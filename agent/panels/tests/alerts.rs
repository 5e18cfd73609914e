//! The alert rules as committed: every metric and label exists, every alert says what it must, has a runbook and tests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use keepwatch_panels::{boards, lint};

const RUNBOOKS: &str = "https://github.com/keepwatch/keepwatch/blob/main/docs/runbooks.md#";
const SEVERITIES: &[&str] = &["critical", "warning", "info", "none"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A rule, as far as the tests need it.
#[derive(Debug, Default)]
struct Rule {
    file: String,
    alert: String,
    record: String,
    expr: String,
    fields: BTreeMap<String, String>,
}

/// Reads the plain form in which our rules are written: one key a line, `|` for an expression of several lines.
fn rules() -> Vec<Rule> {
    let mut out: Vec<Rule> = Vec::new();
    for file in files("alerts", "yml") {
        let text = fs::read_to_string(&file).expect("a file of rules");
        let mut is_block = false;
        for line in text.lines() {
            let depth = line.len() - line.trim_start().len();
            let bare = line.trim();
            if bare.starts_with('#') || bare.is_empty() {
                continue;
            }
            let start = bare.strip_prefix("- ").unwrap_or(bare);
            let (key, value) = start.split_once(':').unwrap_or((start, ""));
            let value = value.trim().trim_matches('\'').replace("''", "'");
            if is_block && depth >= 10 {
                let last = out.last_mut().expect("a rule");
                last.expr.push_str(bare);
                last.expr.push('\n');
                continue;
            }
            is_block = false;
            match key {
                "alert" | "record" => out.push(Rule {
                    file: file
                        .file_name()
                        .expect("a name")
                        .to_string_lossy()
                        .into_owned(),
                    alert: if key == "alert" {
                        value.clone()
                    } else {
                        String::new()
                    },
                    record: if key == "record" {
                        value
                    } else {
                        String::new()
                    },
                    ..Rule::default()
                }),
                "expr" if value == "|" => is_block = true,
                "expr" => out.last_mut().expect("a rule").expr = value,
                _ => {
                    if let Some(last) = out.last_mut() {
                        if depth >= 8 {
                            last.fields.insert(key.to_owned(), value);
                        }
                    }
                }
            }
        }
    }
    out
}

fn files(folder: &str, end: &str) -> Vec<PathBuf> {
    let mut out: Vec<PathBuf> = fs::read_dir(root().join(folder))
        .expect("a folder")
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| p.extension().is_some_and(|e| e == end))
        .collect();
    out.sort();
    assert!(!out.is_empty(), "{folder}");
    out
}

#[test]
fn every_metric_and_label_is_declared() {
    let rules = rules();
    assert!(rules.len() > 60, "{} rules", rules.len());
    for rule in &rules {
        let name = format!("{} {}{}", rule.file, rule.alert, rule.record);
        assert!(!rule.expr.is_empty(), "{name}");
        let found = lint::expression(&rule.expr);
        assert!(found.is_empty(), "{name}: {}", found.join("; "));
        // Labels that texts name: one that is not there would be an empty place in a message.
        for text in rule.fields.values() {
            for piece in text.split("$labels.").skip(1) {
                let label: String = piece
                    .chars()
                    .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                    .collect();
                let in_it = rule.expr.contains(&label)
                    || keepwatch_panels::promql::names(&rule.expr)
                        .expect("an expression")
                        .selectors
                        .iter()
                        .any(|s| {
                            lint::labels_of(&s.metric).is_some_and(|l| l.contains(&label.as_str()))
                        });
                assert!(
                    in_it || label == "instance" || label == "job",
                    "{name}: label {label} in {text}"
                );
            }
        }
    }
}

#[test]
fn recorded_series_are_known_and_all_known_ones_are_recorded() {
    let recorded: BTreeSet<String> = rules()
        .into_iter()
        .map(|r| r.record)
        .filter(|r| !r.is_empty())
        .collect();
    let known: BTreeSet<String> = lint::OTHERS
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .filter(|n| n.contains(':'))
        .collect();
    assert_eq!(recorded, known);
}

#[test]
fn every_alert_says_what_it_must() {
    let runbooks = fs::read_to_string(root().join("docs/runbooks.md")).expect("runbooks");
    let headings: BTreeSet<&str> = runbooks
        .lines()
        .filter_map(|l| l.strip_prefix("### "))
        .collect();
    let mut boards: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for board in boards::all() {
        let json = board.json();
        let variables = json["templating"]["list"].as_array().into_iter().flatten();
        boards.insert(
            board.uid.to_owned(),
            variables
                .filter_map(|v| v["name"].as_str().map(str::to_owned))
                .collect(),
        );
    }
    let mut alerts = BTreeSet::new();
    for rule in rules().iter().filter(|r| !r.alert.is_empty()) {
        let name = &rule.alert;
        alerts.insert(name.as_str().to_owned());
        let field = |key: &str| rule.fields.get(key).cloned().unwrap_or_default();
        assert!(
            SEVERITIES.contains(&field("severity").as_str()),
            "{name}: severity"
        );
        assert!(
            field("summary").len() > 10 && !field("summary").ends_with('.'),
            "{name}: summary"
        );
        assert!(
            field("description").ends_with('.') && field("description").len() > 30,
            "{name}: description"
        );
        assert_eq!(
            field("runbook_url"),
            format!("{RUNBOOKS}{}", name.to_lowercase()),
            "{name}"
        );
        assert!(
            headings.contains(name.as_str()),
            "docs/runbooks.md has no section {name}"
        );
        let dashboard = field("dashboard");
        let (path, query) = dashboard.split_once('?').unwrap_or((&dashboard, ""));
        let uid = path.strip_prefix("/d/").unwrap_or("");
        let variables = boards
            .get(uid)
            .unwrap_or_else(|| panic!("{name}: there is no dashboard {uid:?}"));
        for part in query.split('&').filter(|p| !p.is_empty()) {
            let variable = part
                .strip_prefix("var-")
                .and_then(|p| p.split('=').next())
                .unwrap_or("");
            assert!(
                variables.iter().any(|v| v == variable),
                "{name}: {uid} has no variable {variable:?}"
            );
        }
        // A number in a label would make another alert each time.
        assert!(!field("severity").contains("$value"), "{name}");
    }
    let sections: BTreeSet<String> = headings.iter().map(|h| (*h).to_owned()).collect();
    let without: Vec<_> = sections.difference(&alerts).collect();
    assert!(
        without.is_empty(),
        "sections of alerts that do not exist: {without:?}"
    );
}

#[test]
fn every_alert_has_a_test_that_fires_and_one_that_stays_silent() {
    let (mut fires, mut silent) = (BTreeSet::new(), BTreeSet::new());
    for file in files("tests/alerts", "yml") {
        let text = fs::read_to_string(file).expect("tests");
        for part in text.split("alertname: ").skip(1) {
            let name = part.lines().next().unwrap_or("").trim().to_owned();
            let rest = part.lines().nth(1).unwrap_or("").trim();
            match rest {
                "exp_alerts: []" => silent.insert(name),
                "exp_alerts:" => fires.insert(name),
                other => panic!("{name}: {other}"),
            };
        }
    }
    let all: BTreeSet<String> = rules()
        .into_iter()
        .map(|r| r.alert)
        .filter(|a| !a.is_empty())
        .collect();
    assert_eq!(all, fires, "alerts that no test makes fire");
    // The Watchdog always fires: that is what it is for.
    let quiet: Vec<_> = all.difference(&silent).collect();
    assert_eq!(quiet, ["Watchdog"], "alerts that no test finds silent");
}

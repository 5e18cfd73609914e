//! The dashboards as committed: what this crate writes, and without a fault.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use keepwatch_panels::{boards, json, lint};
use serde_json::{Value, json};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../dashboards")
}

#[test]
fn committed_dashboards_are_what_is_written_here() {
    let should_write = std::env::var_os("KEEPWATCH_WRITE_DASHBOARDS").is_some();
    let mut names = BTreeSet::new();
    for board in boards::all() {
        let name = format!("{}.json", board.uid.trim_start_matches("keepwatch-"));
        let path = folder().join(&name);
        let text = json::text(&board.json());
        if should_write {
            fs::create_dir_all(folder()).expect("the folder");
            fs::write(&path, &text).expect("write");
        }
        let committed = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == text,
            "dashboards/{name} is not what the declarations give; run: KEEPWATCH_WRITE_DASHBOARDS=1 cargo test -p keepwatch-panels"
        );
        assert!(names.insert(name));
    }
    let present: BTreeSet<String> = fs::read_dir(folder())
        .expect("the folder")
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .filter(|n| n.ends_with(".json"))
        .collect();
    assert_eq!(present, names, "a dashboard that nobody writes");
}

#[test]
fn every_dashboard_keeps_the_rules() {
    let mut findings = Vec::new();
    for board in boards::all() {
        let found = lint::dashboard(&board.json());
        findings.extend(found.into_iter().map(|f| format!("{}: {f}", board.uid)));
    }
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

#[test]
fn there_are_over_a_hundred_panels_and_no_question_twice_on_a_dashboard() {
    let all = boards::all();
    let count: usize = all.iter().map(|b| b.count()).sum();
    assert!(count > 100, "{count} panels");
    for board in &all {
        let board = board.json();
        let mut seen = BTreeSet::new();
        for panel in lint::panels(&board) {
            let questions: Vec<_> = panel["targets"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|t| t["expr"].as_str().map(str::to_owned))
                .collect();
            let key = (panel["type"].to_string(), questions.clone());
            assert!(
                questions.is_empty() || seen.insert(key),
                "{}",
                panel["title"]
            );
        }
    }
}

/// A linter that finds nothing proves nothing: each fault is found.
#[test]
fn faults_are_found() {
    let good = boards::all()[3].json();
    assert_eq!(lint::dashboard(&good), Vec::<String>::new());
    type Break = fn(&mut Value);
    let faults: &[(&str, Break)] = &[
        ("it is editable", |b| b["editable"] = json!(true)),
        ("schemaVersion", |b| b["schemaVersion"] = json!(41)),
        ("no variable job", |b| {
            b["templating"]["list"][1]["name"] = json!("jobs")
        }),
        ("not many with all", |b| {
            b["templating"]["list"][1]["allValue"] = json!(".*")
        }),
        ("not asked again", |b| {
            b["templating"]["list"][2]["refresh"] = json!(1)
        }),
        ("has no such label", |b| {
            b["templating"]["list"][3]["query"]["query"] =
                json!("label_values(keepwatch_build_info{job=~\"$job\"}, check)");
        }),
        ("not exactly one data source", |b| {
            b["templating"]["list"][0]["name"] = json!("ds")
        }),
        ("no description", |b| {
            b["panels"][1]["description"] = json!("")
        }),
        ("no title", |b| b["panels"][1]["title"] = json!("")),
        ("is not a unit", |b| {
            b["panels"][1]["fieldConfig"]["defaults"]["unit"] = json!("meters")
        }),
        ("another data source", |b| {
            b["panels"][1]["datasource"]["uid"] = json!("prom")
        }),
        ("it asks nothing", |b| b["panels"][1]["targets"] = json!([])),
        ("not a core panel", |b| {
            b["panels"][1]["type"] = json!("graph")
        }),
        ("thresholds", |b| {
            b["panels"][1]["fieldConfig"]["defaults"]["thresholds"]["steps"] = json!([{"value": 1}])
        }),
        ("lies over", |b| b["panels"][2]["gridPos"]["x"] = json!(0)),
        ("its id is taken", |b| b["panels"][2]["id"] = json!(1)),
        ("there is no metric keepwatch_nothing", |b| {
            b["panels"][1]["targets"][0]["expr"] =
                json!("keepwatch_nothing{job=~\"$job\", instance=~\"$instance\"}");
        }),
        ("has no label unit", |b| {
            b["panels"][1]["targets"][0]["expr"] =
                json!("keepwatch_check_up{job=~\"$job\", instance=~\"$instance\", unit=\"x\"}");
        }),
        ("has the label colour", |b| {
            b["panels"][1]["targets"][0]["expr"] = json!(
                "sum by (colour) (keepwatch_check_up{job=~\"$job\", instance=~\"$instance\"})"
            );
        }),
        ("not narrowed to $instance", |b| {
            b["panels"][1]["targets"][0]["expr"] = json!("keepwatch_check_up{job=~\"$job\"}");
        }),
        ("there is no variable $unit", |b| {
            b["panels"][1]["targets"][0]["expr"] = json!(
                "keepwatch_check_up{job=~\"$job\", instance=~\"$instance\", check=~\"$unit\"}"
            );
        }),
        ("rate over 5m", |b| {
            b["panels"][1]["targets"][0]["expr"] = json!(
                "rate(keepwatch_check_runs_total{job=~\"$job\", instance=~\"$instance\"}[5m])"
            );
        }),
        ("is a counter", |b| {
            b["panels"][1]["targets"][0]["expr"] =
                json!("sum(keepwatch_check_runs_total{job=~\"$job\", instance=~\"$instance\"})");
        }),
    ];
    for (wanted, break_it) in faults {
        let mut board = good.clone();
        break_it(&mut board);
        assert_ne!(board, good, "{wanted}: nothing was broken");
        let found = lint::dashboard(&board);
        assert!(
            found.iter().any(|f| f.contains(wanted)),
            "{wanted} was not found: {found:?}"
        );
    }
}

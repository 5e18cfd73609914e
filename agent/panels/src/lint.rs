//! The rules that every dashboard and every expression keeps: those of grafana/dashboard-linter, and that each metric and label is
//! one that exists.
//!
//! Two rules are narrower than the linter's: `increase(…[$__range])` is right in a panel that shows one number for all of the time,
//! and a variable of ours may stand in the place of `job` and `instance` in nothing.

use std::collections::BTreeSet;

use keepwatch_expose::names::{self, Kind};
use serde_json::Value;

use crate::promql::{self, Selector};

/// Metrics that Prometheus itself or our recording rules make, with their labels.
pub const OTHERS: &[(&str, &[&str])] = &[
    ("up", &[]),
    ("scrape_duration_seconds", &[]),
    ("scrape_samples_post_metric_relabeling", &[]),
    (
        "ALERTS",
        &[
            "alertname",
            "alertstate",
            "severity",
            "check",
            "kind",
            "backup",
            "repository",
            "unit",
        ],
    ),
    (
        "ALERTS_FOR_STATE",
        &[
            "alertname",
            "severity",
            "check",
            "kind",
            "backup",
            "repository",
            "unit",
        ],
    ),
    ("alertmanager_notifications_failed_total", &["integration"]),
    ("check:keepwatch_check_up:avg1d", &["check", "kind"]),
    ("check:keepwatch_check_up:avg7d", &["check", "kind"]),
    ("check:keepwatch_check_up:avg30d", &["check", "kind"]),
    ("instance:keepwatch_check_up:avg1d", &[]),
    (
        "check:keepwatch_check_error_budget:remaining30d",
        &["check", "kind"],
    ),
    (
        "check:keepwatch_check_failures:ratio_rate5m",
        &["check", "kind"],
    ),
    (
        "check:keepwatch_check_failures:ratio_rate30m",
        &["check", "kind"],
    ),
    (
        "check:keepwatch_check_failures:ratio_rate1h",
        &["check", "kind"],
    ),
    (
        "check:keepwatch_check_failures:ratio_rate6h",
        &["check", "kind"],
    ),
];

/// Units of Grafana that we use.
const UNITS: &[&str] = &["short", "s", "bytes", "Bps", "percentunit", "ops", "reqps"];
/// Panels that every Grafana has.
const TYPES: &[&str] = &[
    "stat",
    "gauge",
    "bargauge",
    "timeseries",
    "table",
    "state-timeline",
    "status-history",
    "heatmap",
    "alertlist",
    "row",
];

/// What the metric may be narrowed by, besides `job` and `instance`; none when there is no such metric.
pub fn labels_of(metric: &str) -> Option<Vec<&'static str>> {
    if let Some((_, labels)) = OTHERS.iter().find(|(name, _)| *name == metric) {
        return Some(labels.to_vec());
    }
    if let Some(found) = names::find(metric) {
        return (found.kind != Kind::Histogram).then(|| found.labels.to_vec());
    }
    ["_bucket", "_sum", "_count"].iter().find_map(|end| {
        let found = names::find(metric.strip_suffix(end)?)?;
        let mut labels = found.labels.to_vec();
        if *end == "_bucket" {
            labels.push("le");
        }
        (found.kind == Kind::Histogram).then_some(labels)
    })
}

/// What is wrong with the names in an expression.
pub fn expression(text: &str) -> Vec<String> {
    let found = match promql::names(text) {
        Ok(found) => found,
        Err(why) => return vec![why],
    };
    let mut out = Vec::new();
    let mut known: BTreeSet<&str> = ["job", "instance", "alertname"].into();
    for selector in &found.selectors {
        match labels_of(&selector.metric) {
            None => out.push(format!("there is no metric {}", selector.metric)),
            Some(labels) => {
                known.extend(&labels);
                for (label, _, _) in &selector.matchers {
                    if !["job", "instance"].contains(&label.as_str())
                        && !labels.contains(&label.as_str())
                    {
                        out.push(format!("{} has no label {label}", selector.metric));
                    }
                }
            }
        }
    }
    for label in &found.listed {
        if !known.contains(label.as_str()) {
            out.push(format!("no metric in it has the label {label}"));
        }
    }
    out
}

/// What is wrong with a dashboard.
pub fn dashboard(board: &Value) -> Vec<String> {
    let mut out = Vec::new();
    let mut must = |ok: bool, what: &str| {
        if !ok {
            out.push(what.to_owned());
        }
    };
    must(board["schemaVersion"] == 42, "schemaVersion is not 42");
    must(board["editable"] == false, "it is editable");
    must(
        board["uid"]
            .as_str()
            .is_some_and(|u| u.starts_with("keepwatch-")),
        "no uid of ours",
    );
    must(board["tags"] == serde_json::json!(["keepwatch"]), "no tag");
    must(board["graphTooltip"] == 1, "no shared crosshair");
    must(is_sentence(&board["description"]), "no description");
    let variables = board["templating"]["list"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    out.extend(templates(&variables));
    let declared: BTreeSet<&str> = variables
        .iter()
        .filter_map(|v| v["name"].as_str())
        .collect();
    let panels = panels(board);
    let mut ids = BTreeSet::new();
    let mut titles = BTreeSet::new();
    for panel in &panels {
        let title = panel["title"].as_str().unwrap_or("");
        if !ids.insert(panel["id"].as_u64()) {
            out.push(format!("{title}: its id is taken"));
        }
        if panel["type"] != "row" && !titles.insert(title) {
            out.push(format!("{title}: its title is taken"));
        }
        out.extend(
            self::panel(panel, &declared)
                .into_iter()
                .map(|f| format!("{title}: {f}")),
        );
    }
    for annotation in board["annotations"]["list"]
        .as_array()
        .into_iter()
        .flatten()
    {
        if let Some(expr) = annotation["expr"].as_str() {
            out.extend(
                target(expr, &declared, false)
                    .into_iter()
                    .map(|f| format!("annotation {}: {f}", annotation["name"])),
            );
        }
    }
    out.extend(overlaps(&panels));
    out
}

/// Panels and rows, and panels in closed rows.
pub fn panels(board: &Value) -> Vec<&Value> {
    let mut out = Vec::new();
    for panel in board["panels"].as_array().into_iter().flatten() {
        out.push(panel);
        out.extend(panel["panels"].as_array().into_iter().flatten());
    }
    out
}

fn is_sentence(value: &Value) -> bool {
    value
        .as_str()
        .is_some_and(|t| t.len() > 10 && t.ends_with(['.', '?']))
}

fn templates(variables: &[Value]) -> Vec<String> {
    let mut out = Vec::new();
    let sources: Vec<_> = variables
        .iter()
        .filter(|v| v["type"] == "datasource")
        .collect();
    match sources.as_slice() {
        [one]
            if one["name"] == "datasource"
                && one["label"] == "Data source"
                && one["query"] == "prometheus" => {}
        _ => out.push("not exactly one data source variable of the usual name".to_owned()),
    }
    for (name, label) in [("job", "Job"), ("instance", "Instance")] {
        if !variables
            .iter()
            .any(|v| v["name"] == name && v["label"] == label)
        {
            out.push(format!("no variable {name}"));
        }
    }
    for v in variables.iter().filter(|v| v["type"] == "query") {
        let name = v["name"].as_str().unwrap_or("");
        if v["multi"] != true || v["includeAll"] != true || v["allValue"] != ".+" {
            out.push(format!("variable {name}: not many with all"));
        }
        if v["refresh"] != 2 {
            out.push(format!(
                "variable {name}: not asked again when the time changes"
            ));
        }
        if v["datasource"]["uid"] != "${datasource}" {
            out.push(format!("variable {name}: another data source"));
        }
        let query = v["query"]["query"].as_str().unwrap_or("");
        let inner = query
            .strip_prefix("label_values(")
            .and_then(|q| q.rsplit_once(", "));
        match inner {
            Some((selector, label)) if label.trim_end_matches(')') == name => {
                out.extend(
                    expression(selector)
                        .into_iter()
                        .map(|f| format!("variable {name}: {f}")),
                );
                let metric = selector.split('{').next().unwrap_or("");
                let labels = labels_of(metric).unwrap_or_default();
                if !["job", "instance"].contains(&name) && !labels.contains(&name) {
                    out.push(format!("variable {name}: {metric} has no such label"));
                }
            }
            _ => out.push(format!("variable {name}: not values of its label")),
        }
    }
    out
}

fn panel(panel: &Value, declared: &BTreeSet<&str>) -> Vec<String> {
    let mut out = Vec::new();
    let kind = panel["type"].as_str().unwrap_or("");
    if !TYPES.contains(&kind) {
        out.push(format!("{kind} is not a core panel of ours"));
    }
    if panel["title"].as_str().is_none_or(str::is_empty) {
        out.push("no title".to_owned());
    }
    if kind == "row" {
        return out;
    }
    if !is_sentence(&panel["description"]) {
        out.push("no description".to_owned());
    }
    if kind == "alertlist" {
        return out;
    }
    if panel["datasource"]["uid"] != "${datasource}" {
        out.push("another data source".to_owned());
    }
    let field = &panel["fieldConfig"]["defaults"];
    let unit = field["unit"].as_str().unwrap_or("");
    if !UNITS.contains(&unit) {
        out.push(format!("{unit:?} is not a unit of ours"));
    }
    let steps = field["thresholds"]["steps"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    if steps.first().is_none_or(|s| !s["value"].is_null()) {
        out.push("thresholds without a base".to_owned());
    }
    let values: Vec<_> = steps.iter().filter_map(|s| s["value"].as_f64()).collect();
    if values.windows(2).any(|w| w[0] >= w[1]) {
        out.push("thresholds out of order".to_owned());
    }
    let targets = panel["targets"].as_array().cloned().unwrap_or_default();
    if targets.is_empty() {
        out.push("it asks nothing".to_owned());
    }
    let mut letters = BTreeSet::new();
    for t in &targets {
        if !letters.insert(t["refId"].as_str().unwrap_or("").to_owned()) {
            out.push("a refId is taken".to_owned());
        }
        if t["datasource"]["uid"] != "${datasource}" {
            out.push("a target with another data source".to_owned());
        }
        out.extend(target(
            t["expr"].as_str().unwrap_or(""),
            declared,
            t["instant"] == true,
        ));
    }
    out
}

/// What is wrong with an expression of a dashboard.
fn target(text: &str, declared: &BTreeSet<&str>, is_instant: bool) -> Vec<String> {
    let mut out = expression(text);
    let Ok(found) = promql::names(text) else {
        return out;
    };
    if found.selectors.is_empty() {
        out.push("it asks for no metric".to_owned());
    }
    for selector in &found.selectors {
        for label in ["job", "instance"] {
            if !has(selector, label) {
                out.push(format!("{} is not narrowed to ${label}", selector.metric));
            }
        }
        for (_, _, value) in &selector.matchers {
            if let Some(variable) = value.strip_prefix('$') {
                if !declared.contains(variable) {
                    out.push(format!("there is no variable ${variable}"));
                }
            }
        }
        let is_counter =
            selector.metric.ends_with("_total") || selector.metric.ends_with("_bucket");
        if is_counter && !["rate(", "irate(", "increase("].iter().any(|f| text.contains(&format!("{f}{}", selector.metric)))
            // The number that a table shows of a counter that survives restarts is itself worth reading.
            && !(is_instant && text.starts_with("sum by"))
        {
            out.push(format!(
                "{} is a counter and is shown as it is",
                selector.metric
            ));
        }
    }
    for (call, range) in &found.ranges {
        let is_pace = ["rate", "irate", "increase"].contains(&call.as_str());
        let is_total = is_instant && call == "increase" && range == "$__range";
        if is_pace && range != "$__rate_interval" && !is_total {
            out.push(format!("{call} over {range}"));
        }
    }
    out
}

fn has(selector: &Selector, label: &str) -> bool {
    selector
        .matchers
        .iter()
        .any(|(l, op, value)| l == label && op == "=~" && *value == format!("${label}"))
}

fn overlaps(panels: &[&Value]) -> Vec<String> {
    let place = |p: &Value| {
        let at = |k: &str| p["gridPos"][k].as_u64().unwrap_or(0);
        (at("x"), at("y"), at("x") + at("w"), at("y") + at("h"))
    };
    let mut out = Vec::new();
    for (i, a) in panels.iter().enumerate() {
        let (ax, ay, ar, ab) = place(a);
        if ar > 24 {
            out.push(format!("{}: wider than the page", a["title"]));
        }
        for b in &panels[i + 1..] {
            let (bx, by, br, bb) = place(b);
            if ax < br && bx < ar && ay < bb && by < ab {
                out.push(format!("{} lies over {}", a["title"], b["title"]));
            }
        }
    }
    out
}

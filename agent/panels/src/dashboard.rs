//! A dashboard: variables, annotations, links, and panels laid out in rows from left to right.

use serde_json::{Value, json};

use crate::panel::{Panel, source};
use crate::query::{TARGET, all};
use keepwatch_expose::names as n;

/// Columns of Grafana's grid.
const COLUMNS: u32 = 24;

/// A variable that narrows down what is shown.
#[derive(Clone, Copy, Debug)]
pub struct Variable {
    /// Its name, which is that of the label.
    pub name: &'static str,
    /// What people read.
    pub label: &'static str,
    /// The metric whose label it is.
    pub metric: &'static n::Metric,
}

/// Panels under a heading.
#[derive(Clone, Debug)]
pub struct Section {
    title: &'static str,
    collapsed: bool,
    panels: Vec<Panel>,
}

impl Section {
    /// Panels that are seen at once.
    pub const fn open(title: &'static str, panels: Vec<Panel>) -> Self {
        Self {
            title,
            collapsed: false,
            panels,
        }
    }

    /// Panels that are seen when asked for.
    pub const fn closed(title: &'static str, panels: Vec<Panel>) -> Self {
        Self {
            title,
            collapsed: true,
            panels,
        }
    }
}

/// A dashboard.
#[derive(Clone, Debug)]
pub struct Dashboard {
    /// Its address and the name of its file: `keepwatch-…`.
    pub uid: &'static str,
    /// Its title.
    pub title: &'static str,
    /// The question that it answers.
    pub description: &'static str,
    /// The time that is shown at first.
    pub from: &'static str,
    /// Variables besides data source, job and instance.
    pub variables: &'static [Variable],
    /// Panels.
    pub sections: Vec<Section>,
}

impl Dashboard {
    /// How many panels it has.
    pub fn count(&self) -> usize {
        self.sections.iter().map(|s| s.panels.len()).sum()
    }

    /// As Grafana reads it.
    pub fn json(&self) -> Value {
        json!({
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": ["keepwatch"],
            "schemaVersion": 42,
            "version": 1,
            "editable": false,
            "graphTooltip": 1,
            "refresh": "30s",
            "timezone": "browser",
            "time": { "from": self.from, "to": "now" },
            "timepicker": {},
            "fiscalYearStartMonth": 0,
            "weekStart": "",
            "links": [{
                "title": "Keepwatch", "type": "dashboards", "tags": ["keepwatch"], "asDropdown": true, "icon": "external link", "includeVars": true,
                "keepTime": true, "targetBlank": false, "tooltip": "The other dashboards", "url": "",
            }],
            "annotations": { "list": annotations() },
            "templating": { "list": self.templates() },
            "panels": self.panels(),
        })
    }

    fn templates(&self) -> Vec<Value> {
        let mut out = vec![
            json!({
                "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "regex": "", "hide": 0, "refresh": 1,
                "multi": false, "includeAll": false, "options": [], "current": {}, "description": "The Prometheus that scrapes the agents",
            }),
            variable(
                "job",
                "Job",
                &format!("label_values({}, job)", n::BUILD_INFO.name),
            ),
            variable(
                "instance",
                "Instance",
                &format!(
                    "label_values({}{{job=~\"$job\"}}, instance)",
                    n::BUILD_INFO.name
                ),
            ),
        ];
        out.extend(self.variables.iter().map(|v| {
            variable(
                v.name,
                v.label,
                &format!("label_values({}{{{TARGET}}}, {})", v.metric.name, v.name),
            )
        }));
        out
    }

    fn panels(&self) -> Vec<Value> {
        let (mut out, mut id, mut y) = (Vec::new(), 0, 0);
        for section in &self.sections {
            id += 1;
            let mut row = json!({
                "id": id, "type": "row", "title": section.title, "collapsed": section.collapsed, "panels": [],
                "gridPos": { "h": 1, "w": COLUMNS, "x": 0, "y": y },
            });
            y += 1;
            let (mut x, mut tallest, mut inner) = (0, 0, Vec::new());
            for panel in &section.panels {
                let (width, height) = panel.width_and_height();
                if x + width > COLUMNS {
                    (x, y, tallest) = (0, y + tallest, 0);
                }
                id += 1;
                inner.push(panel.json(id, x, y));
                x += width;
                tallest = tallest.max(height);
            }
            y += tallest;
            if section.collapsed {
                row["panels"] = json!(inner);
                out.push(row);
            } else {
                out.push(row);
                out.append(&mut inner);
            }
        }
        out
    }
}

fn variable(name: &str, label: &str, query: &str) -> Value {
    json!({
        "name": name, "label": label, "type": "query", "datasource": source(), "definition": query,
        "query": { "query": query, "refId": format!("variable-{name}") },
        "multi": true, "includeAll": true, "allValue": ".+", "refresh": 2, "sort": 1, "regex": "", "hide": 0, "options": [],
        "current": { "selected": true, "text": ["All"], "value": ["$__all"] },
    })
}

/// What happened, across all graphs. Times are values here, so a mark stands where it happened and not where it was scraped.
fn annotations() -> Vec<Value> {
    let at = |name: &str, color: &str, expr: String, title: &str, text: &str| {
        json!({
            "name": name, "datasource": source(), "enable": true, "hide": false, "iconColor": color, "expr": expr, "step": "60s",
            "useValueForTime": "on", "titleFormat": title, "textFormat": text, "tagKeys": "",
        })
    };
    vec![
        json!({
            "name": "Annotations & Alerts", "builtIn": 1, "datasource": { "type": "grafana", "uid": "-- Grafana --" }, "enable": true, "hide": true,
            "iconColor": "rgba(0, 211, 255, 1)", "type": "dashboard",
        }),
        at(
            "Restarts",
            "orange",
            format!("{} * 1000", all(&n::UNIT_LAST_RESTART)),
            "{{unit}} restarted",
            "on {{instance}}",
        ),
        at(
            "Agent started",
            "blue",
            format!(
                "{} * on (job, instance) group_left (version) {} * 1000",
                all(&n::PROCESS_START_TIME),
                all(&n::BUILD_INFO)
            ),
            "Keepwatch {{version}} started",
            "on {{instance}}",
        ),
        json!({
            "name": "Maintenance", "datasource": source(), "enable": true, "hide": false, "iconColor": "purple",
            "expr": format!("{} == 1", all(&n::MAINTENANCE_ACTIVE)), "step": "60s", "titleFormat": "Maintenance {{window}}", "textFormat": "on {{instance}}", "tagKeys": "",
        }),
    ]
}

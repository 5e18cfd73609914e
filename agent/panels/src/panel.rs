//! A panel: what it asks, how it shows the answer. Only panels that every Grafana has.

use serde_json::{Map, Value, json};

/// Green, then others from a value on.
pub type Steps = &'static [(f64, &'static str)];

/// The sort of a panel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// A number.
    Stat,
    /// A number on a scale.
    Gauge,
    /// A bar for each series.
    Bars,
    /// Lines over time.
    Graph,
    /// Columns over time, one above the other.
    Columns,
    /// Rows.
    Table,
    /// A coloured band for each series.
    Timeline,
    /// A coloured box for each moment of each series.
    History,
    /// Buckets over time.
    Heat,
    /// Alerts that fire.
    Alerts,
}

impl Sort {
    /// What Grafana calls it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stat => "stat",
            Self::Gauge => "gauge",
            Self::Bars => "bargauge",
            Self::Graph | Self::Columns => "timeseries",
            Self::Table => "table",
            Self::Timeline => "state-timeline",
            Self::History => "status-history",
            Self::Heat => "heatmap",
            Self::Alerts => "alertlist",
        }
    }

    /// Usual width and height, of 24 columns.
    const fn size(self) -> (u32, u32) {
        match self {
            Self::Stat | Self::Gauge => (4, 4),
            Self::Bars => (8, 8),
            Self::Graph | Self::Columns | Self::Heat | Self::History | Self::Alerts => (12, 8),
            Self::Table | Self::Timeline => (24, 9),
        }
    }
}

/// A question and what its answer is called.
#[derive(Clone, Debug)]
struct Question {
    expr: String,
    legend: String,
}

/// A column of a table.
#[derive(Clone, Debug)]
struct Column {
    title: &'static str,
    unit: &'static str,
    steps: Steps,
    mappings: Vec<(f64, &'static str, &'static str)>,
}

/// A panel.
#[derive(Clone, Debug)]
pub struct Panel {
    /// Its sort.
    pub sort: Sort,
    title: String,
    description: String,
    questions: Vec<Question>,
    unit: &'static str,
    decimals: Option<u8>,
    bounds: (Option<f64>, Option<f64>),
    steps: Steps,
    mappings: Vec<(f64, &'static str, &'static str)>,
    columns: Vec<Column>,
    absent: &'static str,
    size: (u32, u32),
    link: Option<&'static str>,
    sum: bool,
}

/// Two values of a flag.
pub const UP: &[(f64, &str, &str)] = &[(1.0, "UP", "green"), (0.0, "DOWN", "red")];
/// The same of a result.
pub const OK: &[(f64, &str, &str)] = &[(1.0, "OK", "green"), (0.0, "FAILED", "red")];
/// The same of something that should not be.
pub const BAD: &[(f64, &str, &str)] = &[(0.0, "no", "green"), (1.0, "YES", "red")];
/// Any at all is red.
pub const NONE_WANTED: Steps = &[(1.0, "red")];
/// Any at all is orange.
pub const FEW_WANTED: Steps = &[(1.0, "orange")];

impl Panel {
    /// A panel with its usual size. The description says what it is good for.
    pub fn new(sort: Sort, title: &str, description: &str) -> Self {
        Self {
            sort,
            title: title.to_owned(),
            description: description.to_owned(),
            questions: Vec::new(),
            unit: "short",
            decimals: None,
            bounds: (None, None),
            steps: &[],
            mappings: Vec::new(),
            columns: Vec::new(),
            absent: "",
            size: sort.size(),
            link: None,
            sum: false,
        }
    }

    /// Asks; the legend may name labels as `{{check}}`.
    pub fn ask(mut self, expr: impl Into<String>, legend: &str) -> Self {
        self.questions.push(Question {
            expr: expr.into(),
            legend: legend.to_owned(),
        });
        self
    }

    /// A column of a table: a question with a title and a unit.
    pub fn column(
        mut self,
        title: &'static str,
        unit: &'static str,
        expr: impl Into<String>,
    ) -> Self {
        self.columns.push(Column {
            title,
            unit,
            steps: &[],
            mappings: Vec::new(),
        });
        self.ask(expr, "")
    }

    /// Colours of the last column.
    pub fn coloured(mut self, steps: Steps) -> Self {
        if let Some(last) = self.columns.last_mut() {
            last.steps = steps;
        }
        self
    }

    /// Words of the last column.
    pub fn worded(mut self, words: &[(f64, &'static str, &'static str)]) -> Self {
        if let Some(last) = self.columns.last_mut() {
            last.mappings = words.to_vec();
        }
        self
    }

    /// The unit, in Grafana's words.
    pub const fn unit(mut self, unit: &'static str) -> Self {
        self.unit = unit;
        self
    }

    /// Digits after the point.
    pub const fn decimals(mut self, digits: u8) -> Self {
        self.decimals = Some(digits);
        self
    }

    /// Ends of the scale.
    pub const fn between(mut self, min: f64, max: f64) -> Self {
        self.bounds = (Some(min), Some(max));
        self
    }

    /// The scale begins at zero.
    pub const fn from_zero(mut self) -> Self {
        self.bounds.0 = Some(0.0);
        self
    }

    /// Green, then these.
    pub const fn steps(mut self, steps: Steps) -> Self {
        self.steps = steps;
        self
    }

    /// Words and colours instead of numbers.
    pub fn words(mut self, words: &[(f64, &'static str, &'static str)]) -> Self {
        self.mappings = words.to_vec();
        self
    }

    /// What is shown when there is nothing.
    pub const fn absent(mut self, text: &'static str) -> Self {
        self.absent = text;
        self
    }

    /// Another size, in columns of 24 and rows.
    pub const fn size(mut self, width: u32, height: u32) -> Self {
        self.size = (width, height);
        self
    }

    /// The dashboard that says more.
    pub const fn link(mut self, uid: &'static str) -> Self {
        self.link = Some(uid);
        self
    }

    /// Shows sums in the legend: for what happened, not for what is.
    pub const fn summed(mut self) -> Self {
        self.sum = true;
        self
    }

    /// Width and height.
    pub const fn width_and_height(&self) -> (u32, u32) {
        self.size
    }

    /// As Grafana reads it.
    pub fn json(&self, id: usize, x: u32, y: u32) -> Value {
        let mut out = json!({
            "id": id,
            "type": self.sort.as_str(),
            "title": self.title,
            "description": self.description,
            "gridPos": { "h": self.size.1, "w": self.size.0, "x": x, "y": y },
            "options": self.options(),
            "links": self.link.map_or_else(Vec::new, |uid| vec![json!({
                "title": "More",
                "url": format!("/d/{uid}?${{datasource:queryparam}}&${{job:queryparam}}&${{instance:queryparam}}&${{__url_time_range}}"),
            })]),
        });
        if self.sort == Sort::Alerts {
            return out;
        }
        out["datasource"] = source();
        out["targets"] = self.targets();
        out["fieldConfig"] = json!({ "defaults": self.field(), "overrides": self.overrides() });
        if self.sort == Sort::Table {
            out["transformations"] = self.transformations();
        }
        out
    }

    fn targets(&self) -> Value {
        let is_instant = matches!(
            self.sort,
            Sort::Stat | Sort::Gauge | Sort::Bars | Sort::Table
        );
        let format = match self.sort {
            Sort::Table => "table",
            Sort::Heat => "heatmap",
            _ => "time_series",
        };
        self.questions
            .iter()
            .zip('A'..='Z')
            .map(|(q, letter)| {
                json!({
                    "datasource": source(),
                    "editorMode": "code",
                    "expr": q.expr,
                    "format": format,
                    "instant": is_instant,
                    "range": !is_instant,
                    "legendFormat": if q.legend.is_empty() { "__auto" } else { &q.legend },
                    "refId": letter.to_string(),
                })
            })
            .collect()
    }

    fn field(&self) -> Value {
        let mut out = json!({
            "unit": self.unit,
            "mappings": words(&self.mappings),
            "thresholds": thresholds(self.steps),
            "color": { "mode": if self.is_coloured() { "thresholds" } else { "palette-classic" } },
            "custom": self.custom(),
        });
        if let Some(digits) = self.decimals {
            out["decimals"] = json!(digits);
        }
        if let (Some(min), _) = self.bounds {
            out["min"] = json!(min);
        }
        if let (_, Some(max)) = self.bounds {
            out["max"] = json!(max);
        }
        if !self.absent.is_empty() {
            out["noValue"] = json!(self.absent);
        }
        out
    }

    /// By what a value means, not by which series it is of.
    const fn is_coloured(&self) -> bool {
        !matches!(self.sort, Sort::Graph | Sort::Columns)
    }

    fn custom(&self) -> Value {
        match self.sort {
            Sort::Graph => json!({
                "drawStyle": "line", "lineInterpolation": "linear", "lineWidth": 1, "fillOpacity": 8, "showPoints": "auto",
                "spanNulls": false, "axisPlacement": "auto",
                "thresholdsStyle": { "mode": if self.steps.is_empty() { "off" } else { "dashed" } },
            }),
            Sort::Columns => json!({
                "drawStyle": "bars", "lineWidth": 0, "fillOpacity": 80, "showPoints": "never", "axisPlacement": "auto",
                "stacking": { "group": "A", "mode": "normal" }, "thresholdsStyle": { "mode": "off" },
            }),
            Sort::Timeline | Sort::History => json!({ "fillOpacity": 75, "lineWidth": 0 }),
            Sort::Table => {
                json!({ "align": "auto", "cellOptions": { "type": "auto" }, "filterable": true })
            }
            _ => json!({}),
        }
    }

    fn options(&self) -> Value {
        let reduce = json!({ "calcs": ["lastNotNull"], "fields": "", "values": false });
        match self.sort {
            Sort::Stat => json!({
                "reduceOptions": reduce, "colorMode": "background", "graphMode": "none", "justifyMode": "auto", "textMode": "auto",
                "orientation": "auto", "wideLayout": true,
            }),
            Sort::Gauge => {
                json!({ "reduceOptions": reduce, "orientation": "auto", "showThresholdLabels": false, "showThresholdMarkers": true })
            }
            Sort::Bars => json!({
                "reduceOptions": reduce, "displayMode": "lcd", "orientation": "horizontal", "showUnfilled": true, "valueMode": "color",
            }),
            Sort::Graph | Sort::Columns => json!({
                "legend": {
                    "calcs": if self.sum { vec!["sum"] } else { vec!["lastNotNull", "max"] },
                    "displayMode": "table", "placement": "bottom", "showLegend": true,
                },
                "tooltip": { "mode": "multi", "sort": "desc" },
            }),
            Sort::Table => {
                json!({ "cellHeight": "sm", "showHeader": true, "footer": { "show": false } })
            }
            Sort::Timeline => json!({
                "alignValue": "left", "mergeValues": true, "rowHeight": 0.85, "showValue": "auto",
                "legend": { "displayMode": "list", "placement": "bottom", "showLegend": true }, "tooltip": { "mode": "single" },
            }),
            Sort::History => json!({
                "colWidth": 0.9, "rowHeight": 0.85, "showValue": "never",
                "legend": { "displayMode": "list", "placement": "bottom", "showLegend": true }, "tooltip": { "mode": "single" },
            }),
            Sort::Heat => json!({
                "calculate": false, "cellGap": 1,
                "color": { "mode": "scheme", "scheme": "Oranges", "steps": 64, "exponent": 0.5, "fill": "dark-orange", "scale": "exponential", "reverse": false },
                "legend": { "show": true }, "tooltip": { "mode": "single", "yHistogram": false }, "yAxis": { "axisPlacement": "left", "unit": "s" },
                "cellValues": { "unit": self.unit }, "filterValues": { "le": 1e-9 },
            }),
            // No data source is named: rules of every Prometheus that Grafana knows are looked through.
            Sort::Alerts => json!({
                "viewMode": "list", "groupMode": "default", "groupBy": [], "maxItems": 20, "sortOrder": 1, "dashboardAlerts": false,
                "alertName": "Keepwatch", "alertInstanceLabelFilter": "", "showInstances": true,
                "stateFilter": { "firing": true, "pending": true, "noData": false, "normal": false, "error": true },
            }),
        }
    }

    fn overrides(&self) -> Value {
        self.columns
            .iter()
            .map(|c| {
                let mut properties = vec![json!({ "id": "unit", "value": c.unit })];
                if !c.mappings.is_empty() {
                    properties.push(json!({ "id": "mappings", "value": words(&c.mappings) }));
                }
                if !c.steps.is_empty() {
                    properties.push(json!({ "id": "thresholds", "value": thresholds(c.steps) }));
                }
                if !c.mappings.is_empty() || !c.steps.is_empty() {
                    properties
                        .push(json!({ "id": "custom.cellOptions", "value": { "type": "color-text" } }));
                }
                json!({ "matcher": { "id": "byName", "options": c.title }, "properties": properties })
            })
            .collect()
    }

    /// One row for equal labels, one column for each question.
    fn transformations(&self) -> Value {
        let mut names = Map::new();
        for (c, letter) in self.columns.iter().zip('A'..='Z') {
            // With one question Grafana does not number its values.
            let value = match self.columns.len() {
                1 => "Value".to_owned(),
                _ => format!("Value #{letter}"),
            };
            names.insert(value, json!(c.title));
        }
        json!([
            { "id": "merge", "options": {} },
            { "id": "organize", "options": { "excludeByName": { "Time": true }, "includeByName": {}, "indexByName": {}, "renameByName": names } },
        ])
    }
}

/// The data source that was chosen.
pub fn source() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}

fn thresholds(steps: Steps) -> Value {
    let first = json!({ "color": "green", "value": null });
    let rest = steps
        .iter()
        .map(|(value, color)| json!({ "color": color, "value": value }));
    // A first step at minus infinity stands for the colour at the bottom.
    let list: Vec<_> = match steps.first() {
        Some((value, color)) if *value == f64::NEG_INFINITY => {
            std::iter::once(json!({ "color": color, "value": null }))
                .chain(rest.skip(1))
                .collect()
        }
        _ => std::iter::once(first).chain(rest).collect(),
    };
    json!({ "mode": "absolute", "steps": list })
}

fn words(list: &[(f64, &str, &str)]) -> Value {
    if list.is_empty() {
        return json!([]);
    }
    let mut options = Map::new();
    for (index, (value, text, color)) in list.iter().enumerate() {
        options.insert(
            value.to_string(),
            json!({ "text": text, "color": color, "index": index }),
        );
    }
    json!([{ "type": "value", "options": options }])
}

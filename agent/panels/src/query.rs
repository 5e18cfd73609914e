//! Series of a metric as PromQL. The name comes from the declaration; every selector is narrowed to the chosen jobs and instances.

use keepwatch_expose::names::Metric;

/// What every selector has.
pub const TARGET: &str = r#"job=~"$job", instance=~"$instance""#;

/// All series of the metric.
pub fn all(metric: &Metric) -> String {
    named(metric.name, "")
}

/// Its series with more matchers.
pub fn with(metric: &Metric, more: &str) -> String {
    named(metric.name, more)
}

/// Series of the chosen backups and repositories.
pub fn backup(metric: &Metric) -> String {
    with(metric, r#"backup=~"$backup", repository=~"$repository""#)
}

/// Series of the chosen repositories.
pub fn repository(metric: &Metric) -> String {
    with(metric, r#"repository=~"$repository""#)
}

/// Series of the chosen checks.
pub fn check(metric: &Metric) -> String {
    with(metric, r#"check=~"$check""#)
}

/// Series of the chosen units.
pub fn unit(metric: &Metric) -> String {
    with(metric, r#"unit=~"$unit""#)
}

/// Series of a name that is not one of ours: recording rules, `up`, `ALERTS`.
pub fn named(name: &str, more: &str) -> String {
    let comma = if more.is_empty() { "" } else { ", " };
    format!("{name}{{{TARGET}{comma}{more}}}")
}

/// Buckets of a histogram.
pub fn buckets(metric: &Metric) -> String {
    named(&format!("{}_bucket", metric.name), "")
}

/// Its pace, over what Grafana thinks right for the width of the graph.
pub fn rate(selector: &str) -> String {
    format!("rate({selector}[$__rate_interval])")
}

/// Its growth between two points of the graph.
pub fn increase(selector: &str) -> String {
    format!("increase({selector}[$__rate_interval])")
}

/// Its growth in all of the time that is shown: for a number, not for a graph.
pub fn in_range(selector: &str) -> String {
    format!("increase({selector}[$__range])")
}

/// How long ago a time was.
pub fn age(selector: &str) -> String {
    format!("time() - {selector}")
}

/// A share of the observations, from the pace of buckets.
pub fn quantile(q: f64, metric: &Metric, by: &str) -> String {
    format!(
        "histogram_quantile({q}, sum by (le, {by}) ({}))",
        rate(&buckets(metric))
    )
}

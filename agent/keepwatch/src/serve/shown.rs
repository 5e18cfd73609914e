//! What the watcher knows, as rows that the exporter shows. Pure: the same overview gives the same rows.

use std::collections::BTreeMap;

use keepwatch_config::Config;
use keepwatch_expose::facts::{Alert, At, Check, Depth, Disk, Skipped, Unit, Window};
use keepwatch_model::check::{CheckKind, RunResult};
use keepwatch_watch::clock;
use keepwatch_watch::conductor::{CheckView, Overview};
use keepwatch_watch::outcome::Quantity;
use keepwatch_watch::restart::Phase;

use super::world::shown_at;

/// Mount points of disk checks, by check: they are settings, not measures.
pub type Mounts = BTreeMap<String, String>;

/// Mount points as configured.
pub fn mounts(effective: &serde_json::Value) -> Mounts {
    let checks = effective["checks"].as_object().into_iter().flatten();
    checks
        .filter_map(|(name, check)| {
            let path = check["probe"]["disk"]["path"].as_str()?;
            Some((name.clone(), path.to_owned()))
        })
        .collect()
}

/// Checks, in the order of configuration.
pub fn checks(overview: &Overview, config: &Config, mounts: &Mounts) -> Vec<Check> {
    overview
        .checks
        .iter()
        .map(|view| check(view, config, mounts))
        .collect()
}

fn check(view: &CheckView, config: &Config, mounts: &Mounts) -> Check {
    let judge = &view.judge;
    let declared = config.checks.get(view.name.as_str());
    let value = |quantity: Quantity| {
        let found = view.measures.iter().find(|m| m.quantity == quantity);
        found.map(|m| m.value)
    };
    let mut out = Check::new(
        view.name.clone(),
        view.kind,
        view.severity,
        view.interval,
        view.timeout,
    );
    out.group = declared.and_then(|c| c.group.clone()).unwrap_or_default();
    out.unit = view
        .unit
        .as_ref()
        .map_or(String::new(), |u| u.as_str().to_owned());
    out.state = judge.state;
    out.overlay = view.overlay();
    out.since = judge.last_run.map(|_| shown_at(judge.since));
    out.last_run = judge.last_run.map(shown_at);
    out.last_success = judge.last_success.map(shown_at);
    out.last_result = judge.last_result.map(|r| r != RunResult::Failure);
    out.last_duration = view.last_duration;
    out.reason = judge.reason();
    out.text = judge
        .last_failure
        .as_ref()
        .map_or_else(|| judge.last_warnings.join("; "), |f| f.text.clone());
    out.failures_in_row = judge.failures;
    out.flapping = judge.flapping.is_some();
    out.runs = view.runs;
    out.failures = view.failures.clone();
    out.skipped = BTreeMap::from([(Skipped::Overrun, view.overruns)]);
    out.changes = judge.state_changes;
    out.tls_not_after = value(Quantity::TlsNotAfterSeconds).map(|secs| At((secs * 1000.0) as i64));
    for (quantity, depth) in DEPTHS {
        // Connections of other servers are measured too; the metric is PostgreSQL's.
        let ours = !matches!(
            depth,
            Depth::PostgresqlConnections | Depth::PostgresqlConnectionsMax
        ) || view.kind == CheckKind::Postgresql;
        if let Some(value) = value(*quantity).filter(|_| ours) {
            out.depth.insert(*depth, value);
        }
    }
    if let (Some(available), Some(size)) = (
        value(Quantity::DiskAvailableBytes),
        value(Quantity::DiskSizeBytes),
    ) {
        let mountpoint = mounts.get(view.name.as_str()).cloned();
        out.disks.push(Disk {
            mountpoint: mountpoint.unwrap_or_default(),
            available: available as u64,
            size: size as u64,
            inodes_free: value(Quantity::InodesFree).unwrap_or(0.0) as u64,
            inodes: value(Quantity::Inodes).unwrap_or(0.0) as u64,
        });
    }
    out
}

const DEPTHS: &[(Quantity, Depth)] = &[
    (Quantity::QdrantCollections, Depth::QdrantCollections),
    (Quantity::QdrantPoints, Depth::QdrantPoints),
    (Quantity::OllamaModels, Depth::OllamaModels),
    (Quantity::SqliteIntegrityOk, Depth::SqliteIntegrityOk),
    (Quantity::Connections, Depth::PostgresqlConnections),
    (Quantity::ConnectionsMax, Depth::PostgresqlConnectionsMax),
    (Quantity::HttpStatus, Depth::HttpStatus),
];

/// Units that may be restarted.
pub fn units(overview: &Overview, config: &Config, now: clock::At) -> Vec<Unit> {
    overview
        .units
        .iter()
        .map(|(name, view)| {
            let state = &view.state;
            let suppressed = view
                .refusals
                .iter()
                .map(|(reason, n)| (reason.as_str().to_owned(), *n));
            Unit {
                name: name.as_str().to_owned(),
                restarts: state.attempts_total,
                failures: view.job_failures.clone(),
                suppressed: suppressed.collect(),
                attempts: state.recent(now),
                max_attempts: config.restarts.get(name).map_or(3, |r| r.max_attempts),
                gave_up: state.gave_up.is_some(),
                in_progress: state.phase != Phase::Idle,
                last_restart: state.last.map(shown_at),
                allowed: state.allowed_after.map(shown_at),
                last_result: state.last_result.clone(),
            }
        })
        .collect()
}

/// Windows that are configured or open.
pub fn windows(overview: &Overview, config: &Config) -> Vec<Window> {
    let open = overview.windows.iter().map(|w| Window {
        name: w.name.as_str().to_owned(),
        active: true,
        since: Some(shown_at(w.since)),
        until: Some(shown_at(w.ends)),
    });
    let is_open = |name: &str| overview.windows.iter().any(|w| w.name.as_str() == name);
    let closed = config
        .maintenance
        .keys()
        .filter(|name| !is_open(name))
        .map(|name| Window {
            name: name.clone(),
            active: false,
            since: None,
            until: None,
        });
    open.chain(closed).collect()
}

/// What fires, for `/health/detailed`.
pub fn alerts(firing: &[keepwatch_notify::alert::Alert]) -> Vec<Alert> {
    firing
        .iter()
        .map(|a| Alert {
            name: a.name().to_owned(),
            severity: a.severity(),
            subject: a.subject(),
            text: a.summary_text().to_owned(),
            since: At(a.starts().0),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use keepwatch_watch::judge::JudgeState;
    use keepwatch_watch::outcome::Measure;

    #[test]
    fn a_check_shows_what_was_measured_and_no_more() {
        let text = r#"
[checks.disk]
group = "storage"
probe.disk = { path = "/srv" }
"#;
        let loaded = keepwatch_config::parse(text, "test").expect("a configuration");
        let mounts = mounts(&loaded.to_json());
        let measure = |quantity, value| Measure { quantity, value };
        let view = CheckView {
            name: "disk".parse().expect("a name"),
            kind: CheckKind::Disk,
            severity: keepwatch_model::check::Severity::Warning,
            interval: std::time::Duration::from_secs(30),
            timeout: std::time::Duration::from_secs(10),
            unit: None,
            judge: JudgeState::new(clock::At(5)),
            runs: 3,
            failures: BTreeMap::new(),
            overruns: 2,
            last_duration: None,
            measures: vec![
                measure(Quantity::DiskAvailableBytes, 10.0),
                measure(Quantity::DiskSizeBytes, 40.0),
                measure(Quantity::Connections, 4.0),
            ],
        };
        let shown = check(&view, &loaded.config, &mounts);
        assert_eq!(shown.group, "storage");
        assert_eq!(shown.disks[0].mountpoint, "/srv");
        assert_eq!((shown.disks[0].available, shown.disks[0].size), (10, 40));
        assert!(shown.depth.is_empty(), "{:?}", shown.depth);
        assert_eq!(shown.since, None, "it never ran");
        assert_eq!(shown.skipped[&Skipped::Overrun], 2);
    }
}

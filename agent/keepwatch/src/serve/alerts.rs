//! What fires now, for people who are told without Prometheus. Pure: from what is shown and configured.
//!
//! Names and labels are those of the rules for Prometheus, so that an Alertmanager that gets both sees one alert. A check fires
//! by its incident, which the judge opens and closes: maintenance, dependencies and flapping are already in it.

use std::time::Duration;

use keepwatch_config::Config;
use keepwatch_expose::facts;
use keepwatch_model::check::Severity;
use keepwatch_model::duration::human_duration;
use keepwatch_notify::alert::Alert;
use keepwatch_notify::time::At;
use keepwatch_watch::conductor::{CheckView, Overview};
use keepwatch_watch::judge::Cause;
use keepwatch_watch::outcome::Quantity;

use super::collect::{self, Collected};

const DAY: Duration = Duration::from_secs(86_400);
/// A certificate that ends within this is told of.
const CERTIFICATE_SOON: Duration = Duration::from_secs(14 * 86_400);
/// Within this it is urgent.
const CERTIFICATE_VERY_SOON: Duration = Duration::from_secs(3 * 86_400);

/// What alerts are made from.
pub struct Known<'a> {
    /// The name of this host.
    pub host: &'a str,
    /// The configuration.
    pub config: &'a Config,
    /// Checks and units.
    pub overview: &'a Overview,
    /// Backups and repositories.
    pub collected: &'a Collected,
    /// The last reload worked.
    pub reload_ok: bool,
    /// Since when the present configuration is used.
    pub reloaded: facts::At,
    /// Now.
    pub now: facts::At,
}

/// All that fires.
pub fn firing(known: &Known<'_>) -> Vec<Alert> {
    let mut out = Vec::new();
    for view in &known.overview.checks {
        out.extend(down(known, view));
        out.extend(certificate(known, view));
    }
    for (unit, view) in &known.overview.units {
        if let Some(since) = view.state.gave_up {
            let alert = known.alert("KeepwatchUnitRestartGaveUp", Severity::Critical, since.0);
            out.push(
                alert
                    .label("unit", unit.as_str())
                    .summary(&format!("{unit} was restarted in vain and is given up"))
                    .description(&format!(
                        "Manual intervention required: look at 'journalctl -u {unit}', mend it, then 'keepwatch reset {unit}'."
                    )),
            );
        }
    }
    for backup in &known.collected.backups {
        out.extend(of_backup(known, backup));
    }
    for repository in &known.collected.repositories {
        if repository.verification.last_successful == Some(false) {
            let alert = known.alert(
                "KeepwatchVerificationFailed",
                Severity::Critical,
                known.now.0,
            );
            out.push(
                alert
                    .label("repository", &repository.name)
                    .summary(&format!("the last verification of repository {} failed", repository.name))
                    .description("Backups in it may not come back. 'keepwatch verify' names what is damaged, 'keepwatch repair' mends what can be mended."),
            );
        }
    }
    for repository in &known.collected.repositories {
        let broken = repository.wal.iter().filter(|w| is_cut_off(w));
        out.extend(broken.map(|w| wal_gap(known, repository, w)));
    }
    if let Some(why) = &known.collected.trouble {
        let alert = known.alert(
            "KeepwatchStateDatabaseErrors",
            Severity::Warning,
            known.now.0,
        );
        out.push(
            alert
                .summary("the catalog cannot be used; records go to the spool meanwhile")
                .description(why),
        );
    }
    let is_closed = |c: &facts::Collector| c.name == collect::CONTROL && !c.success;
    if known.collected.collectors.iter().any(is_closed) {
        let alert = known.alert("KeepwatchCollectorFailing", Severity::Warning, known.now.0);
        out.push(
            alert
                .label("collector", collect::CONTROL)
                .summary("the agent cannot be asked anything: it has no control socket")
                .description("Checks, restarts and alerts go on. The log says why it cannot be made; it is tried again every minute."),
        );
    }
    if !known.reload_ok {
        let alert = known.alert(
            "KeepwatchConfigReloadFailed",
            Severity::Warning,
            known.reloaded.0,
        );
        out.push(
            alert
                .summary("the configuration was not reloaded; the former one is in effect")
                .description("'keepwatch config check' names what is wrong with it."),
        );
    }
    out
}

fn is_cut_off(w: &facts::Wal) -> bool {
    !w.recoverable && w.gaps > 0
}

fn wal_gap(known: &Known<'_>, repository: &facts::Repository, w: &facts::Wal) -> Alert {
    known
        .alert("KeepwatchWalGap", Severity::Critical, known.now.0)
        .label("repository", &repository.name)
        .label("cluster", &w.cluster)
        .summary(&format!(
            "PostgreSQL cluster {} cannot be recovered to the latest moment from repository {}",
            w.cluster, repository.name
        ))
        .description(&format!(
            "{} segments of its log are missing after the newest base backup. 'keepwatch wal backup' makes a new one, from which on everything can be recovered again.",
            w.segments_missing
        ))
}

impl Known<'_> {
    fn alert(&self, name: &str, severity: Severity, since: i64) -> Alert {
        Alert::new(name, severity, At(since)).label("instance", self.host)
    }
}

/// With the labels that the configuration gives its check.
fn of_check(known: &Known<'_>, view: &CheckView, alert: Alert) -> Alert {
    let mut alert = alert
        .label("check", view.name.as_str())
        .label("kind", view.kind.as_str());
    if let Some(unit) = &view.unit {
        alert = alert.label("unit", unit.as_str());
    }
    let labels = known
        .config
        .checks
        .get(view.name.as_str())
        .map(|c| &c.labels);
    for (name, value) in labels.into_iter().flatten() {
        // What identifies an alert is not to be overwritten.
        if !alert.labels().contains_key(name) {
            alert = alert.label(name, value);
        }
    }
    alert
}

fn down(known: &Known<'_>, view: &CheckView) -> Option<Alert> {
    let incident = view.judge.incident.as_ref()?;
    let name = &view.name;
    let about = known.config.checks.get(name.as_str());
    let promise = about.map_or("", |c| c.description.as_str());
    let why = view
        .judge
        .last_failure
        .as_ref()
        .or(incident.failure.as_ref())
        .map_or("", |f| f.text.as_str());
    let alert = match incident.cause {
        Cause::Down => known
            .alert("KeepwatchCheckDown", view.severity, incident.since.0)
            .summary(&format!("check {name} is down")),
        Cause::Flapping => {
            let severity = view.severity.max(Severity::Warning);
            known
                .alert("KeepwatchCheckFlapping", severity, incident.opened.0)
                .summary(&format!("check {name} goes up and down"))
        }
    };
    let text = [promise, why].into_iter().filter(|t| !t.is_empty());
    let text = text.collect::<Vec<_>>().join(": ");
    Some(of_check(known, view, alert).description(&text))
}

fn certificate(known: &Known<'_>, view: &CheckView) -> Option<Alert> {
    if view.overlay().is_some() {
        return None;
    }
    let ends = view
        .measures
        .iter()
        .find(|m| m.quantity == Quantity::TlsNotAfterSeconds)?
        .value;
    let left = ends - known.now.as_secs_f64();
    let (name, severity, limit) = if left < CERTIFICATE_VERY_SOON.as_secs_f64() {
        (
            "KeepwatchCertificateExpiringVerySoon",
            Severity::Critical,
            CERTIFICATE_VERY_SOON,
        )
    } else if left < CERTIFICATE_SOON.as_secs_f64() {
        (
            "KeepwatchCertificateExpiringSoon",
            Severity::Warning,
            CERTIFICATE_SOON,
        )
    } else {
        return None;
    };
    let since = ((ends - limit.as_secs_f64()) * 1000.0) as i64;
    let alert = known.alert(name, severity, since);
    let text = format!(
        "the certificate that check {} sees ends within {} days",
        view.name,
        limit.as_secs() / DAY.as_secs()
    );
    Some(of_check(known, view, alert).summary(&text))
}

fn of_backup(known: &Known<'_>, backup: &facts::Backup) -> Vec<Alert> {
    let mut out = Vec::new();
    let Some(declared) = known.config.backups.get(&backup.name) else {
        return out;
    };
    let what = format!("backup {} to {}", backup.name, backup.repository);
    let make = |name: &str, severity, since: facts::At| {
        known
            .alert(name, severity, since.0)
            .label("backup", &backup.name)
            .label("repository", &backup.repository)
    };
    let limit = i64::try_from(declared.max_age.as_millis()).unwrap_or(i64::MAX);
    let due = |from: facts::At| facts::At(from.0.saturating_add(limit));
    let age = human_duration(declared.max_age);
    match (backup.last_success, backup.first_seen) {
        (Some(last), _) if known.now > due(last) => out.push(
            make("KeepwatchBackupStale", Severity::Critical, due(last))
                .summary(&format!("{what} did not succeed for longer than {age}"))
                .description(
                    "Run it by hand and see why: 'keepwatch history' tells what happened.",
                ),
        ),
        (None, Some(first)) if known.now > due(first) => out.push(
            make(
                "KeepwatchBackupNeverSucceeded",
                Severity::Critical,
                due(first),
            )
            .summary(&format!("{what} never succeeded since it was configured"))
            .description("Run it by hand and see why: 'keepwatch history' tells what happened."),
        ),
        _ => {}
    }
    let ended = backup.last_completion.unwrap_or(known.now);
    if backup.last_successful == Some(false) {
        out.push(
            make("KeepwatchBackupFailed", Severity::Warning, ended)
                .summary(&format!("the last run of {what} failed"))
                .description("'keepwatch history' tells why; what was backed up before is safe."),
        );
    } else if backup.last_source_errors.is_some_and(|n| n > 0) {
        let n = backup.last_source_errors.unwrap_or(0);
        out.push(
            make("KeepwatchBackupPartial", Severity::Warning, ended)
                .summary(&format!("{what} could not read {n} files")),
        );
    }
    if let Some(drill) = &backup.drill {
        if drill.last_successful == Some(false) {
            out.push(
                make("KeepwatchRestoreDrillFailed", Severity::Critical, known.now)
                    .summary(&format!("the last rehearsed restore of {what} failed")),
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use keepwatch_model::check::{CheckKind, Reason};
    use keepwatch_watch::clock;
    use keepwatch_watch::judge::{Incident, JudgeState};
    use keepwatch_watch::outcome::Failure;

    fn known<'a>(
        config: &'a Config,
        overview: &'a Overview,
        collected: &'a Collected,
        now: facts::At,
    ) -> Known<'a> {
        Known {
            host: "h",
            config,
            overview,
            collected,
            reload_ok: true,
            reloaded: facts::At(0),
            now,
        }
    }

    #[test]
    fn an_incident_fires_with_the_labels_of_its_check() {
        let text = "[checks.web]\ndescription = \"The shop answers\"\nlabels = { team = \"shop\" }\nprobe.tcp = { target = \"127.0.0.1:80\" }\n";
        let loaded = keepwatch_config::parse(text, "test").unwrap_or_else(|e| panic!("{e}"));
        let mut judge = JudgeState::new(clock::At(0));
        let failure = Failure::new(Reason::Connect, "connection refused");
        judge.last_failure = Some(failure.clone());
        judge.incident = Some(Incident {
            opened: clock::At(7_000),
            since: clock::At(7_000),
            cause: Cause::Down,
            failure: Some(failure),
        });
        let view = CheckView {
            name: "web".parse().expect("a name"),
            kind: CheckKind::Tcp,
            severity: Severity::Critical,
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(10),
            unit: None,
            judge,
            runs: 3,
            failures: Default::default(),
            overruns: 0,
            last_duration: None,
            measures: vec![],
        };
        let overview = Overview {
            checks: vec![view],
            ..Overview::default()
        };
        let collected = Collected::default();
        let known = known(&loaded.config, &overview, &collected, facts::At(9_000));
        let alerts = firing(&known);
        assert_eq!(alerts.len(), 1);
        let alert = &alerts[0];
        assert_eq!(alert.name(), "KeepwatchCheckDown");
        assert_eq!(alert.labels()["check"], "web");
        assert_eq!(alert.labels()["team"], "shop");
        assert_eq!(alert.labels()["instance"], "h");
        assert_eq!(alert.severity(), Severity::Critical);
        assert_eq!(alert.starts(), At(7_000));
        assert!(alert.description_text().contains("connection refused"));
    }

    #[test]
    fn a_daemon_that_cannot_be_asked_fires() {
        let loaded = keepwatch_config::parse("", "test").unwrap_or_else(|e| panic!("{e}"));
        let overview = Overview::default();
        for (success, fires) in [(false, 1), (true, 0)] {
            let collectors = vec![collect::collector(
                collect::CONTROL,
                success,
                Duration::ZERO,
            )];
            let collected = Collected {
                collectors,
                ..Collected::default()
            };
            let known = known(&loaded.config, &overview, &collected, facts::At(9_000));
            let fired = firing(&known);
            assert_eq!(fired.len(), fires);
            if let Some(alert) = fired.first() {
                assert_eq!(alert.name(), "KeepwatchCollectorFailing");
                assert_eq!(alert.labels()["collector"], "control");
            }
        }
    }

    #[test]
    fn a_log_that_is_cut_off_fires() {
        let loaded = keepwatch_config::parse("", "test").unwrap_or_else(|e| panic!("{e}"));
        let overview = Overview::default();
        for (recoverable, gaps, fires) in [(false, 1, true), (true, 1, false), (false, 0, false)] {
            let collected = Collected {
                repositories: vec![facts::Repository {
                    name: "disk".into(),
                    wal: vec![facts::Wal {
                        cluster: "7312".into(),
                        recoverable,
                        gaps,
                        ..facts::Wal::default()
                    }],
                    ..facts::Repository::default()
                }],
                ..Collected::default()
            };
            let known = known(&loaded.config, &overview, &collected, facts::At(9_000));
            let fired = firing(&known);
            assert_eq!(fired.len(), usize::from(fires), "{recoverable} {gaps}");
            if let Some(a) = fired.first() {
                assert_eq!(a.name(), "KeepwatchWalGap");
                assert_eq!(a.labels()["cluster"], "7312");
                assert_eq!(a.labels()["repository"], "disk");
            }
        }
    }

    #[test]
    fn a_backup_fires_when_it_is_older_than_it_may_be() {
        let key = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
        let text = format!(
            "[repositories.disk]\nbackend.local = {{ path = \"/mnt/b\" }}\nrecipients = [\"{key}\"]\n[backups.home]\nmax_age = \"2d\"\nsource.paths = {{ include = [\"/home\"] }}\n"
        );
        let loaded = keepwatch_config::parse(&text, "test").unwrap_or_else(|e| panic!("{e}"));
        let overview = Overview::default();
        let names = |last: Option<i64>, first: Option<i64>, ok: Option<bool>, now: i64| {
            let days = |d: i64| facts::At(d * 86_400_000);
            let collected = Collected {
                backups: vec![facts::Backup {
                    name: "home".into(),
                    repository: "disk".into(),
                    last_success: last.map(days),
                    first_seen: first.map(days),
                    last_successful: ok,
                    ..facts::Backup::default()
                }],
                ..Collected::default()
            };
            let known = known(&loaded.config, &overview, &collected, days(now));
            let fired = firing(&known);
            fired
                .iter()
                .map(|a| a.name().to_owned())
                .collect::<Vec<_>>()
        };
        assert!(names(None, Some(0), None, 2).is_empty());
        assert_eq!(
            names(None, Some(0), None, 3),
            ["KeepwatchBackupNeverSucceeded"]
        );
        assert!(names(Some(0), Some(0), Some(true), 2).is_empty());
        assert_eq!(
            names(Some(0), Some(0), Some(true), 3),
            ["KeepwatchBackupStale"]
        );
        assert_eq!(
            names(Some(0), Some(0), Some(false), 1),
            ["KeepwatchBackupFailed"]
        );
    }
}

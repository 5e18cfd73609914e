//! What the catalog knows of backups, verifications and drills, as rows that the exporter shows. Pure: from facts and configuration.
//!
//! Only what is configured is shown: a job that was taken out of the configuration takes its series with it.

use std::collections::BTreeMap;
use std::time::Duration;

use keepwatch_catalog::counters::{self, Counter};
use keepwatch_catalog::facts::{JobFacts, RetentionFacts};
use keepwatch_config::sections::backups::Source;
use keepwatch_config::{Config, longest_gap};
use keepwatch_expose::facts::{
    At, Backup, BackupReason, Collector, Drill, Host, Key, Process, Repository, Retention, Stage,
    Verification, Wal,
};
use keepwatch_model::runs::{RepositoryState, RunKind, WalState};
use keepwatch_model::time::Moment;

use super::world::shown_moment;

/// The collector that tells whether the control socket is there.
pub const CONTROL: &str = "control";

/// What is collected every few seconds. What could not be asked keeps its last value.
#[derive(Clone, Debug, Default)]
pub struct Collected {
    /// Backups.
    pub backups: Vec<Backup>,
    /// Repositories.
    pub repositories: Vec<Repository>,
    /// Keys that somebody proved to hold.
    pub keys: Vec<Key>,
    /// The host.
    pub host: Host,
    /// This process.
    pub process: Option<Process>,
    /// Whether asking worked.
    pub collectors: Vec<Collector>,
    /// The catalog was opened, or its records go to the spool.
    pub ready: bool,
    /// No record was lost since the catalog or its spool last took one.
    pub writable: bool,
    /// Why the catalog is not used now.
    pub trouble: Option<String>,
    /// Bytes of the catalog.
    pub size: Option<u64>,
    /// Records that wait to be written.
    pub queued: u64,
    /// Records that were lost, by where.
    pub dropped: BTreeMap<String, u64>,
    /// Operations of the catalog that failed, since the start.
    pub errors: u64,
    /// The catalog has answered since the start: what is not among these rows is not.
    pub answered: bool,
}

/// Answers of the catalog.
pub struct Answers {
    /// Backups.
    pub backups: Vec<JobFacts>,
    /// Verifications.
    pub verifications: Vec<JobFacts>,
    /// Drills.
    pub drills: Vec<JobFacts>,
    /// Retention.
    pub retention: Vec<RetentionFacts>,
    /// Sums that only grow.
    pub counters: Vec<Counter>,
    /// Repositories, with when each was first seen.
    pub repositories: Vec<(RepositoryState, Moment)>,
}

/// The jobs of a configuration, so that the catalog can tell "never ran" from "not configured".
pub fn jobs(config: &Config) -> Vec<(RunKind, &str, &str)> {
    let backups = config
        .backups
        .iter()
        .filter(|(_, b)| b.enable)
        .flat_map(|(name, b)| {
            let to = b.repositories.iter();
            to.map(move |r| (RunKind::Backup, name.as_str(), r.as_str()))
        });
    let verifications = config
        .repositories
        .iter()
        .filter(|(_, r)| r.verify.enable)
        .map(|(name, _)| (RunKind::Verify, "", name.as_str()));
    let drills = config
        .drills
        .iter()
        .filter(|(_, d)| d.enable)
        .map(|(name, d)| (RunKind::Drill, name.as_str(), d.repository.as_str()));
    backups.chain(verifications).chain(drills).collect()
}

/// Backups as configured, with what is known of each.
pub fn backups(config: &Config, answers: &Answers) -> Vec<Backup> {
    let mut out = Vec::new();
    for (name, backup) in config.backups.iter().filter(|(_, b)| b.enable) {
        for repository in &backup.repositories {
            let mut row = Backup {
                name: name.clone(),
                repository: repository.clone(),
                source_kind: source_kind(&backup.source).to_owned(),
                schedule: backup
                    .start_at
                    .iter()
                    .map(|c| c.as_str())
                    .collect::<Vec<_>>()
                    .join("; "),
                interval: longest_gap(&backup.start_at),
                ..Backup::default()
            };
            let is_ours = |job: &str, at: &str| job == name && at == repository;
            if let Some(facts) = find(&answers.backups, is_ours) {
                fill_backup(&mut row, facts);
            }
            let retention = answers
                .retention
                .iter()
                .find(|f| is_ours(&f.job, &f.repository));
            if let Some(facts) = retention {
                fill_retention(&mut row, facts);
            }
            row.drill = drill(config, answers, name, repository);
            if !config.metrics.per_source_labels {
                row.stages.clear();
            }
            out.push(row);
        }
    }
    out
}

fn find(facts: &[JobFacts], is_it: impl Fn(&str, &str) -> bool) -> Option<&JobFacts> {
    facts.iter().find(|f| is_it(&f.job, &f.repository))
}

fn fill_backup(row: &mut Backup, facts: &JobFacts) {
    let at = |m: Option<Moment>| m.map(shown_moment);
    row.first_seen = Some(shown_moment(facts.first_seen));
    row.last_start = at(facts.last_start);
    row.last_completion = at(facts.last_completion());
    row.last_success = at(facts.last_success_at());
    row.last_successful = facts.last_successful();
    row.running = facts.running > 0;
    row.expected_duration = facts.usual.duration;
    row.expected_source_size = facts.usual.source_bytes;
    row.expected_added_size = facts.usual.added_bytes;
    row.runs = facts.runs_total;
    for (class, n) in &facts.failures_total {
        let reason = BackupReason::ALL.iter().find(|r| r.as_str() == class);
        *row.failures
            .entry(*reason.unwrap_or(&BackupReason::Internal))
            .or_default() += n;
    }
    if let Some(run) = &facts.last_ended {
        row.last_duration = run.duration;
        for stage in &run.stages {
            let known = [
                Stage::Dump,
                Stage::Scan,
                Stage::Upload,
                Stage::Verify,
                Stage::Retention,
            ];
            if let Some(known) = known.into_iter().find(|k| k.as_str() == stage.name) {
                row.stages.insert(known, stage.duration);
            }
        }
    }
    if let Some(run) = &facts.last_success {
        row.last_source_size = run.totals.source_bytes;
        row.last_added_size = run.totals.added_bytes;
        row.last_files = run.totals.files;
        row.last_source_errors = run.totals.source_errors;
    }
}

fn fill_retention(row: &mut Backup, facts: &RetentionFacts) {
    row.retention = Retention {
        last_success: facts.last_applied.map(shown_moment),
        removed: Some(facts.removed_total),
        ..Retention::default()
    };
    if let Some((counts, _)) = &facts.counts {
        row.snapshots = Some(counts.snapshots);
        row.oldest_snapshot = counts.oldest.map(shown_moment);
        row.newest_snapshot = counts.newest.map(shown_moment);
        row.retention.overdue = Some(counts.overdue);
        row.retention.minimum = Some(counts.minimum);
    }
}

fn drill(config: &Config, answers: &Answers, backup: &str, repository: &str) -> Option<Drill> {
    let (name, declared) = config
        .drills
        .iter()
        .find(|(_, d)| d.enable && d.backup == backup && d.repository == repository)?;
    let mut out = Drill {
        objective: declared.expect.max_duration,
        interval: longest_gap(&declared.start_at),
        ..Drill::default()
    };
    if let Some(facts) = find(&answers.drills, |job, at| job == name && at == repository) {
        out.last_success = facts.last_success_at().map(shown_moment);
        out.last_completion = facts.last_completion().map(shown_moment);
        out.last_successful = facts.last_successful();
        out.last_duration = facts.last_ended.as_ref().and_then(|run| run.duration);
        out.restored_size = facts
            .last_success
            .as_ref()
            .and_then(|run| run.totals.restored_bytes);
        out.runs = facts.runs_total;
        out.failures = facts.failures_total.iter().map(|(_, n)| n).sum();
    }
    Some(out)
}

/// Repositories as configured, with what is known of each.
pub fn repositories(config: &Config, answers: &Answers) -> Vec<Repository> {
    let one = |(name, declared): (
        &String,
        &keepwatch_config::sections::repositories::Repository,
    )| {
        let mut row = Repository {
            name: name.clone(),
            ..Repository::default()
        };
        let seen = answers
            .repositories
            .iter()
            .find(|(state, _)| state.repository == *name);
        if let Some((state, first)) = seen {
            row.reachable = Some(state.reachable);
            row.first_seen = Some(shown_moment(*first));
            row.size = state.size_bytes;
            row.available = state.available_bytes;
            row.capacity = state.capacity_bytes;
            row.wal = state.wal.iter().flatten().map(wal).collect();
        }
        fill_traffic(&mut row, &answers.counters);
        row.verification.interval = longest_gap(&declared.verify.start_at);
        let of_it = answers
            .verifications
            .iter()
            .filter(|f| f.repository == *name);
        let mut first = row.first_seen;
        for facts in of_it {
            let seen = shown_moment(facts.first_seen);
            first = Some(first.map_or(seen, |f: At| f.min(seen)));
            merge_verification(&mut row.verification, facts);
        }
        row.first_seen = first;
        row
    };
    config.repositories.iter().map(one).collect()
}

fn wal(state: &WalState) -> Wal {
    Wal {
        cluster: state.cluster.clone(),
        recoverable: state.recoverable,
        gaps: state.gaps,
        segments_missing: state.segments_missing,
        base_backups: state.base_backups,
        newest_segment: state.newest_segment.map(shown_moment),
        newest_base_backup: state.newest_base_backup.map(shown_moment),
        oldest_recovery: state.oldest_recovery.map(shown_moment),
    }
}

/// Only repositories behind a network have it.
fn fill_traffic(row: &mut Repository, all: &[Counter]) {
    for counter in all.iter().filter(|c| c.place == row.name) {
        let (reason, value) = (counter.reason.clone(), counter.value);
        match counter.name.as_str() {
            counters::REQUESTS => {
                row.requests.insert(reason, value);
            }
            counters::REQUEST_ERRORS => {
                row.request_errors.insert(reason, value);
            }
            counters::SENT_BYTES => row.sent = Some(value),
            counters::RECEIVED_BYTES => row.received = Some(value),
            _ => {}
        }
    }
}

/// Verifications by the timer and by hand are of one repository: the later one tells how it is.
fn merge_verification(row: &mut Verification, facts: &JobFacts) {
    let success = facts.last_success_at().map(shown_moment);
    let is_later = match (row.last_success, success) {
        (_, None) => row.last_successful.is_none(),
        (Some(before), Some(now)) => now >= before,
        (None, Some(_)) => true,
    };
    if is_later {
        row.last_successful = facts.last_successful().or(row.last_successful);
        let completion = facts.last_completion().map(shown_moment);
        row.last_completion = completion.or(row.last_completion);
        let ended = facts.last_ended.as_ref();
        row.last_duration = ended.and_then(|run| run.duration).or(row.last_duration);
    }
    row.last_success = row.last_success.max(success);
    *row.checked.get_or_insert(0) += facts.checked_bytes_total;
    *row.errors.entry("damaged".to_owned()).or_default() += facts.damages_total;
}

const fn source_kind(source: &Source) -> &'static str {
    match source {
        Source::Paths(_) => "paths",
        Source::Postgresql(_) => "postgresql",
        Source::PostgresqlCluster(_) => "postgresql_cluster",
        Source::Mysql(_) => "mysql",
        Source::Sqlite(_) => "sqlite",
        Source::Redis(_) => "redis",
        Source::Qdrant(_) => "qdrant",
        Source::Command(_) => "command",
        Source::Container(_) => "container",
        Source::Several(_) => "several",
    }
}

/// A row about one collection.
pub fn collector(name: &str, success: bool, duration: Duration) -> Collector {
    Collector {
        name: name.to_owned(),
        success,
        duration,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keepwatch_catalog::facts::Usual;

    fn config() -> keepwatch_config::Loaded {
        let key = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
        let text = format!(
            "[repositories.disk]\nbackend.local = {{ path = \"/mnt/b\" }}\nrecipients = [\"{key}\"]\n[backups.home]\nsource.paths = {{ include = [\"/home\"] }}\n"
        );
        keepwatch_config::parse(&text, "test").unwrap_or_else(|e| panic!("{e}"))
    }

    fn nothing() -> Answers {
        Answers {
            backups: vec![],
            verifications: vec![],
            drills: vec![],
            retention: vec![],
            repositories: vec![],
            counters: vec![],
        }
    }

    #[test]
    fn what_is_configured_is_shown_and_nothing_else() {
        let loaded = config();
        assert_eq!(
            jobs(&loaded.config),
            [
                (RunKind::Backup, "home", "disk"),
                (RunKind::Verify, "", "disk")
            ]
        );
        let row = &backups(&loaded.config, &nothing())[0];
        assert_eq!(
            (row.name.as_str(), row.source_kind.as_str()),
            ("home", "paths")
        );
        assert_eq!(row.interval, Some(Duration::from_secs(86_400)));
        assert_eq!((row.last_success, row.first_seen), (None, None));

        let seen: Moment = "2026-11-22T04:20:24Z".parse().expect("a time");
        let facts = |job: &str| JobFacts {
            kind: RunKind::Backup,
            job: job.into(),
            repository: "disk".into(),
            first_seen: seen,
            running: 1,
            last_start: Some(seen),
            last_ended: None,
            last_success: None,
            usual: Usual::default(),
            runs_total: 4,
            failures_total: vec![("space".into(), 2), ("novel".into(), 1)],
            checked_bytes_total: 0,
            damages_total: 0,
        };
        let answers = Answers {
            backups: vec![facts("gone"), facts("home")],
            ..nothing()
        };
        let rows = backups(&loaded.config, &answers);
        assert_eq!(rows.len(), 1);
        assert!(rows[0].running && rows[0].runs == 4);
        assert_eq!(rows[0].failures[&BackupReason::Space], 2);
        assert_eq!(
            rows[0].failures[&BackupReason::Internal],
            1,
            "no foreign word becomes a label"
        );
    }

    #[test]
    fn logs_are_shown_as_they_were_last_found() {
        let at: Moment = "2026-11-22T04:20:24Z".parse().expect("a time");
        let state = |wal| RepositoryState {
            host: "h".into(),
            repository: "disk".into(),
            at,
            reachable: true,
            size_bytes: None,
            available_bytes: None,
            capacity_bytes: None,
            wal,
        };
        let found = WalState {
            cluster: "7312345678901234567".into(),
            recoverable: false,
            gaps: 1,
            segments_missing: 4,
            base_backups: 2,
            newest_segment: Some(at),
            newest_base_backup: None,
            oldest_recovery: None,
        };
        for (wal, rows) in [(None, 0), (Some(vec![]), 0), (Some(vec![found]), 1)] {
            let answers = Answers {
                repositories: vec![(state(wal), at)],
                ..nothing()
            };
            let row = &repositories(&config().config, &answers)[0];
            assert_eq!(row.wal.len(), rows);
            if let Some(w) = row.wal.first() {
                assert_eq!((w.gaps, w.segments_missing, w.recoverable), (1, 4, false));
                assert_eq!(w.newest_segment, Some(shown_moment(at)));
            }
        }
    }

    #[test]
    fn traffic_is_of_its_repository() {
        let one = |name: &str, place: &str, reason: &str, value: u64| Counter {
            name: name.to_owned(),
            kind: String::new(),
            subject: String::new(),
            place: place.to_owned(),
            reason: reason.to_owned(),
            value,
        };
        let answers = Answers {
            counters: vec![
                one(counters::REQUESTS, "disk", "put", 7),
                one(counters::REQUESTS, "other", "put", 9),
                one(counters::REQUEST_ERRORS, "disk", "retried", 2),
                one(counters::SENT_BYTES, "disk", "", 70),
                one(counters::RUNS, "disk", "", 1),
            ],
            ..nothing()
        };
        let row = &repositories(&config().config, &answers)[0];
        assert_eq!(row.requests, [("put".to_owned(), 7)].into());
        assert_eq!(row.request_errors, [("retried".to_owned(), 2)].into());
        assert_eq!((row.sent, row.received), (Some(70), None));
    }
}

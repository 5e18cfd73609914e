//! Every metric that the agent shows: name, type, labels, unit, help and, for a histogram, its buckets.
//!
//! The one place where a metric is named. The exporter writes from these declarations, and alert rules and dashboards are
//! generated from them, so that a renamed metric fails to compile instead of silently matching nothing.
//!
//! Rules (prometheus.io): one prefix, base units, `_total` on counters and on nothing else, timestamps instead of ages, total
//! and failures as two counters, ratios from 0 to 1. Labels are never `job`, `instance`, `service`, `type`, `env`, `le` or
//! `quantile`, which clash with labels of the target or of the format. Values of labels are names of the configuration,
//! words of closed sets, or the identifiers that PostgreSQL gives its clusters: never URLs, snapshot ids, error texts.

/// The type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, until the agent or its records start anew.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Observations counted in buckets.
    Histogram,
}

impl Kind {
    /// As the exposition format says it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// What a value counts, for axes of dashboards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A number of things.
    Count,
    /// 0 or 1.
    Bool,
    /// Seconds.
    Seconds,
    /// Seconds since 1970-01-01T00:00:00Z.
    Timestamp,
    /// Bytes.
    Bytes,
    /// 0 to 1.
    Ratio,
    /// Always 1; the labels are what it says.
    Info,
}

/// Where the values come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// Written from the facts for each scrape.
    Facts,
    /// Counted as it happens, in the recorder.
    Counted,
}

/// One metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metric {
    /// The full name.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Its labels, in the order in which they are written.
    pub labels: &'static [&'static str],
    /// Its unit.
    pub unit: Unit,
    /// One sentence for people.
    pub help: &'static str,
    /// Upper bounds of a histogram's buckets, without +Inf; empty for the other types.
    pub buckets: &'static [f64],
    /// Who writes it.
    pub from: From,
}

/// Buckets of durations of checks, in seconds.
pub const CHECK_BUCKETS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// Buckets of answers to HTTP requests and of operations of the state database, in seconds.
pub const FAST_BUCKETS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0];

const NONE: &[&str] = &[];
const C: &[&str] = &["check", "kind"];
const CHECK: &[&str] = &["check"];
const MOUNT: &[&str] = &["check", "mountpoint"];
const U: &[&str] = &["unit"];
const B: &[&str] = &["backup", "repository"];
const R: &[&str] = &["repository"];
const W: &[&str] = &["repository", "cluster"];

macro_rules! metrics {
    ($($(#[$doc:meta])* $id:ident = $kind:ident $from:ident $unit:ident $name:literal, $labels:expr, $buckets:expr, $help:literal;)+) => {
        $(
            #[doc = $help]
            pub const $id: Metric = Metric {
                name: $name,
                kind: Kind::$kind,
                labels: $labels,
                unit: Unit::$unit,
                help: $help,
                buckets: $buckets,
                from: From::$from,
            };
        )+

        /// All of them.
        pub const ALL: &[&Metric] = &[$(&$id,)+];
    };
}

metrics! {
    // --- checks ---
    CHECK_UP = Gauge Facts Bool "keepwatch_check_up", C, &[], "Whether the check's debounced state is healthy or degraded.";
    CHECK_STATE = Gauge Facts Bool "keepwatch_check_state", &["check", "state"], &[], "Shown state of the check: the row of the present one is 1, the others are 0.";
    CHECK_LAST_RESULT_SUCCESS = Gauge Facts Bool "keepwatch_check_last_result_success", C, &[], "Whether the last run of the check did not fail, before any debouncing.";
    CHECK_RUNS = Counter Facts Count "keepwatch_check_runs_total", C, &[], "Finished runs of the check.";
    CHECK_FAILURES = Counter Facts Count "keepwatch_check_failures_total", &["check", "kind", "reason"], &[], "Failed runs of the check by reason.";
    CHECK_DURATION = Histogram Counted Seconds "keepwatch_check_duration_seconds", &["kind"], CHECK_BUCKETS, "Durations of all runs of checks of a kind.";
    CHECK_LAST_DURATION = Gauge Facts Seconds "keepwatch_check_last_duration_seconds", C, &[], "Duration of the last run of the check.";
    CHECK_INTERVAL = Gauge Facts Seconds "keepwatch_check_interval_seconds", C, &[], "Configured interval of the check.";
    CHECK_TIMEOUT = Gauge Facts Seconds "keepwatch_check_timeout_seconds", C, &[], "Configured deadline of a run of the check.";
    CHECK_LAST_RUN = Gauge Facts Timestamp "keepwatch_check_last_run_timestamp_seconds", C, &[], "End of the last run of the check.";
    CHECK_LAST_SUCCESS = Gauge Facts Timestamp "keepwatch_check_last_success_timestamp_seconds", C, &[], "End of the last run of the check that did not fail.";
    CHECK_LAST_STATE_CHANGE = Gauge Facts Timestamp "keepwatch_check_last_state_change_timestamp_seconds", C, &[], "When the check came into its present state.";
    CHECK_CONSECUTIVE_FAILURES = Gauge Facts Count "keepwatch_check_consecutive_failures", C, &[], "Failed runs of the check in a row.";
    CHECK_FLAPPING = Gauge Facts Bool "keepwatch_check_flapping", C, &[], "Whether the check goes up and down too often.";
    CHECK_STATE_CHANGES = Counter Facts Count "keepwatch_check_state_changes_total", C, &[], "Confirmed changes of the check's state.";
    CHECK_RUNS_SKIPPED = Counter Facts Count "keepwatch_check_runs_skipped_total", &["check", "kind", "reason"], &[], "Runs of the check that did not take place, by reason.";
    CHECK_INFO = Gauge Facts Info "keepwatch_check_info", &["check", "kind", "severity", "unit", "group"], &[], "Severity, unit and group of the check.";
    CHECK_TLS_NOT_AFTER = Gauge Facts Timestamp "keepwatch_check_tls_not_after_timestamp_seconds", C, &[], "When the first certificate in the chain that the check saw ends.";
    CHECK_HTTP_STATUS = Gauge Facts Count "keepwatch_check_http_status_code", C, &[], "Status code of the last answer to the check.";
    QDRANT_COLLECTIONS = Gauge Facts Count "keepwatch_qdrant_collections", CHECK, &[], "Collections of the Qdrant server.";
    QDRANT_POINTS = Gauge Facts Count "keepwatch_qdrant_points", CHECK, &[], "Points in the collections of the Qdrant server.";
    OLLAMA_MODELS = Gauge Facts Count "keepwatch_ollama_models", CHECK, &[], "Models of the Ollama server.";
    SQLITE_INTEGRITY_OK = Gauge Facts Bool "keepwatch_sqlite_integrity_ok", CHECK, &[], "Whether the SQLite file passed its own integrity check.";
    POSTGRESQL_CONNECTIONS = Gauge Facts Count "keepwatch_postgresql_connections", CHECK, &[], "Connections to the PostgreSQL server.";
    POSTGRESQL_CONNECTIONS_MAX = Gauge Facts Count "keepwatch_postgresql_connections_max", CHECK, &[], "Connections that the PostgreSQL server allows.";

    // --- the host ---
    DISK_AVAILABLE = Gauge Facts Bytes "keepwatch_disk_available_bytes", MOUNT, &[], "Bytes available to unprivileged users.";
    DISK_SIZE = Gauge Facts Bytes "keepwatch_disk_size_bytes", MOUNT, &[], "Size of the file system.";
    DISK_INODES_FREE = Gauge Facts Count "keepwatch_disk_inodes_free", MOUNT, &[], "Free inodes.";
    DISK_INODES = Gauge Facts Count "keepwatch_disk_inodes", MOUNT, &[], "Inodes of the file system; 0 where it has no fixed number.";
    HOST_MEMORY_AVAILABLE = Gauge Facts Bytes "keepwatch_host_memory_available_bytes", NONE, &[], "Memory that can be had without swapping.";
    HOST_MEMORY_SIZE = Gauge Facts Bytes "keepwatch_host_memory_size_bytes", NONE, &[], "Memory of the host.";
    HOST_PRESSURE_WAITING = Counter Facts Seconds "keepwatch_host_pressure_waiting_seconds_total", &["resource"], &[], "Time in which some task waited for the resource.";
    HOST_LOAD1 = Gauge Facts Count "keepwatch_host_load1", NONE, &[], "Load average over one minute.";
    HEALTH_SCORE = Gauge Facts Ratio "keepwatch_health_score_ratio", NONE, &[], "Weighted share of checks and backups that are well; a summary, not to page on.";
    MAINTENANCE_ACTIVE = Gauge Facts Bool "keepwatch_maintenance_active", &["window"], &[], "Whether the maintenance window is open.";

    // --- restarts ---
    UNIT_RESTARTS = Counter Facts Count "keepwatch_unit_restarts_total", U, &[], "Attempts to restart the unit.";
    UNIT_RESTART_FAILURES = Counter Facts Count "keepwatch_unit_restart_failures_total", &["unit", "reason"], &[], "Attempts whose job did not end well, by its result.";
    UNIT_RESTARTS_SUPPRESSED = Counter Facts Count "keepwatch_unit_restarts_suppressed_total", &["unit", "reason"], &[], "Restarts that were asked for and refused, by reason.";
    UNIT_RESTART_ATTEMPTS = Gauge Facts Count "keepwatch_unit_restart_attempts", U, &[], "Attempts in the present window.";
    UNIT_RESTART_GAVE_UP = Gauge Facts Bool "keepwatch_unit_restart_gave_up", U, &[], "Whether all attempts are used up: a person must act.";
    UNIT_LAST_RESTART = Gauge Facts Timestamp "keepwatch_unit_last_restart_timestamp_seconds", U, &[], "When the unit was last restarted by the agent.";
    UNIT_RESTART_ALLOWED = Gauge Facts Timestamp "keepwatch_unit_restart_allowed_timestamp_seconds", U, &[], "End of the cooldown after the last attempt.";

    // --- backups ---
    BACKUP_INFO = Gauge Facts Info "keepwatch_backup_info", &["backup", "repository", "source_kind", "schedule"], &[], "Kind of source and schedule of the backup.";
    BACKUP_FIRST_SEEN = Gauge Facts Timestamp "keepwatch_backup_first_seen_timestamp_seconds", B, &[], "When the backup was first configured.";
    BACKUP_INTERVAL = Gauge Facts Seconds "keepwatch_backup_interval_seconds", B, &[], "Longest gap between two runs that the schedule allows.";
    BACKUP_LAST_START = Gauge Facts Timestamp "keepwatch_backup_last_start_timestamp_seconds", B, &[], "Start of the last run.";
    BACKUP_LAST_COMPLETION = Gauge Facts Timestamp "keepwatch_backup_last_completion_timestamp_seconds", B, &[], "End of the last run.";
    BACKUP_LAST_SUCCESS = Gauge Facts Timestamp "keepwatch_backup_last_success_timestamp_seconds", B, &[], "End of the last run that succeeded.";
    BACKUP_LAST_SUCCESSFUL = Gauge Facts Bool "keepwatch_backup_last_successful", B, &[], "Whether the last finished run succeeded.";
    BACKUP_RUNNING = Gauge Facts Bool "keepwatch_backup_running", B, &[], "Whether a run is going on.";
    BACKUP_LAST_DURATION = Gauge Facts Seconds "keepwatch_backup_last_duration_seconds", B, &[], "Duration of the last finished run.";
    BACKUP_LAST_STAGE_DURATION = Gauge Facts Seconds "keepwatch_backup_last_stage_duration_seconds", &["backup", "repository", "stage"], &[], "Duration of a stage of the last finished run.";
    BACKUP_EXPECTED_DURATION = Gauge Facts Seconds "keepwatch_backup_expected_duration_seconds", B, &[], "Median duration of the last ten runs that succeeded.";
    BACKUP_EXPECTED_SOURCE_SIZE = Gauge Facts Bytes "keepwatch_backup_expected_source_size_bytes", B, &[], "Median size of the source over the last ten runs that succeeded.";
    BACKUP_EXPECTED_ADDED_SIZE = Gauge Facts Bytes "keepwatch_backup_expected_added_size_bytes", B, &[], "Median of what the last ten runs that succeeded added to the repository.";
    BACKUP_LAST_SOURCE_SIZE = Gauge Facts Bytes "keepwatch_backup_last_source_size_bytes", B, &[], "Size of the source in the last finished run.";
    BACKUP_LAST_ADDED_SIZE = Gauge Facts Bytes "keepwatch_backup_last_added_size_bytes", B, &[], "What the last finished run added to the repository.";
    BACKUP_LAST_FILES = Gauge Facts Count "keepwatch_backup_last_files", B, &[], "Files in the last finished run.";
    BACKUP_LAST_SOURCE_ERRORS = Gauge Facts Count "keepwatch_backup_last_source_errors", B, &[], "Files that the last finished run could not read.";
    BACKUP_RUNS = Counter Facts Count "keepwatch_backup_runs_total", B, &[], "Finished runs of the backup, from the catalog.";
    BACKUP_FAILURES = Counter Facts Count "keepwatch_backup_failures_total", &["backup", "repository", "reason"], &[], "Runs of the backup that did not succeed, by reason, from the catalog.";
    BACKUP_SNAPSHOTS = Gauge Facts Count "keepwatch_backup_snapshots", B, &[], "Snapshots of the backup in the repository.";
    BACKUP_OLDEST_SNAPSHOT = Gauge Facts Timestamp "keepwatch_backup_oldest_snapshot_timestamp_seconds", B, &[], "Time of the oldest snapshot.";
    BACKUP_NEWEST_SNAPSHOT = Gauge Facts Timestamp "keepwatch_backup_newest_snapshot_timestamp_seconds", B, &[], "Time of the newest snapshot.";
    RETENTION_LAST_SUCCESS = Gauge Facts Timestamp "keepwatch_backup_retention_last_success_timestamp_seconds", B, &[], "When retention was last applied.";
    RETENTION_OVERDUE = Gauge Facts Count "keepwatch_backup_retention_overdue_snapshots", B, &[], "Snapshots that the policy no longer keeps and that are still there.";
    RETENTION_MINIMUM = Gauge Facts Count "keepwatch_backup_retention_minimum_snapshots", B, &[], "Snapshots that there must be at least by the policy.";
    RETENTION_REMOVED = Counter Facts Count "keepwatch_backup_retention_removed_snapshots_total", B, &[], "Snapshots that retention removed.";

    // --- repositories ---
    REPOSITORY_REACHABLE = Gauge Facts Bool "keepwatch_repository_reachable", R, &[], "Whether the repository answered last time.";
    REPOSITORY_FIRST_SEEN = Gauge Facts Timestamp "keepwatch_repository_first_seen_timestamp_seconds", R, &[], "When the repository was first configured.";
    REPOSITORY_SIZE = Gauge Facts Bytes "keepwatch_repository_size_bytes", R, &[], "Bytes stored in the repository.";
    REPOSITORY_AVAILABLE = Gauge Facts Bytes "keepwatch_repository_available_bytes", R, &[], "Bytes that can still be stored, where that is known.";
    REPOSITORY_CAPACITY = Gauge Facts Bytes "keepwatch_repository_capacity_bytes", R, &[], "Bytes that the place of the repository holds, where that is known.";
    REPOSITORY_LOCKS = Gauge Facts Count "keepwatch_repository_locks", R, &[], "Marks of prune in a local repository: packs that will be deleted. It has no other locks.";
    REPOSITORY_STALE_LOCKS = Gauge Facts Count "keepwatch_repository_stale_locks", R, &[], "Of these, those that a prune should have carried out by now.";
    REPOSITORY_REQUESTS = Counter Facts Count "keepwatch_repository_requests_total", &["repository", "operation"], &[], "Requests to the store by operation.";
    REPOSITORY_REQUEST_ERRORS = Counter Facts Count "keepwatch_repository_request_errors_total", &["repository", "reason"], &[], "Requests to the store that failed, by reason.";
    REPOSITORY_SENT = Counter Facts Bytes "keepwatch_repository_sent_bytes_total", R, &[], "Bytes sent to the store.";
    REPOSITORY_RECEIVED = Counter Facts Bytes "keepwatch_repository_received_bytes_total", R, &[], "Bytes received from the store.";
    VERIFICATION_LAST_SUCCESS = Gauge Facts Timestamp "keepwatch_verification_last_success_timestamp_seconds", R, &[], "When the repository was last verified without a finding.";
    VERIFICATION_LAST_SUCCESSFUL = Gauge Facts Bool "keepwatch_verification_last_successful", R, &[], "Whether the last verification found nothing wrong.";
    VERIFICATION_LAST_DURATION = Gauge Facts Seconds "keepwatch_verification_last_duration_seconds", R, &[], "Duration of the last verification.";
    VERIFICATION_INTERVAL = Gauge Facts Seconds "keepwatch_verification_interval_seconds", R, &[], "Longest gap between two verifications that the schedule allows.";
    VERIFICATION_CHECKED = Counter Facts Bytes "keepwatch_verification_checked_bytes_total", R, &[], "Bytes that verifications read and checked.";
    VERIFICATION_ERRORS = Counter Facts Count "keepwatch_verification_errors_total", &["repository", "reason"], &[], "Findings of verifications by reason.";

    // --- PostgreSQL's log in repositories, as the last verification found it ---
    WAL_RECOVERABLE = Gauge Facts Bool "keepwatch_wal_recoverable", W, &[], "Whether the newest base backup can be brought to the end of the log.";
    WAL_GAPS = Gauge Facts Count "keepwatch_wal_gaps", W, &[], "Gaps in the log after the oldest base backup.";
    WAL_SEGMENTS_MISSING = Gauge Facts Count "keepwatch_wal_segments_missing", W, &[], "Segments that are missing in these gaps.";
    WAL_NEWEST_SEGMENT = Gauge Facts Timestamp "keepwatch_wal_newest_segment_timestamp_seconds", W, &[], "When the newest segment was stored.";
    WAL_BASE_BACKUPS = Gauge Facts Count "keepwatch_wal_base_backups", W, &[], "Base backups that can be restored.";
    WAL_NEWEST_BASE_BACKUP = Gauge Facts Timestamp "keepwatch_wal_newest_base_backup_timestamp_seconds", W, &[], "When the newest base backup that can be restored was done.";
    WAL_OLDEST_RECOVERY = Gauge Facts Timestamp "keepwatch_wal_oldest_recovery_timestamp_seconds", W, &[], "Since when every moment can be recovered.";

    // --- drills and keys ---
    DRILL_LAST_SUCCESS = Gauge Facts Timestamp "keepwatch_restore_drill_last_success_timestamp_seconds", B, &[], "When a restore was last rehearsed with proof.";
    DRILL_LAST_SUCCESSFUL = Gauge Facts Bool "keepwatch_restore_drill_last_successful", B, &[], "Whether the last rehearsed restore succeeded.";
    DRILL_LAST_DURATION = Gauge Facts Seconds "keepwatch_restore_drill_last_duration_seconds", B, &[], "Duration of the last rehearsed restore: the measured recovery time.";
    DRILL_OBJECTIVE = Gauge Facts Seconds "keepwatch_restore_drill_objective_seconds", B, &[], "Recovery time that is aimed at.";
    DRILL_INTERVAL = Gauge Facts Seconds "keepwatch_restore_drill_interval_seconds", B, &[], "Longest gap between two drills that the schedule allows.";
    DRILL_RESTORED_SIZE = Gauge Facts Bytes "keepwatch_restore_drill_last_restored_size_bytes", B, &[], "Bytes that the last rehearsed restore brought back.";
    DRILL_RUNS = Counter Facts Count "keepwatch_restore_drill_runs_total", B, &[], "Finished rehearsed restores.";
    DRILL_FAILURES = Counter Facts Count "keepwatch_restore_drill_failures_total", B, &[], "Rehearsed restores that failed.";
    KEY_NOT_AFTER = Gauge Facts Timestamp "keepwatch_key_not_after_timestamp_seconds", &["key", "purpose"], &[], "When the key ends.";
    RECOVERY_KEY_LAST_VERIFIED = Gauge Facts Timestamp "keepwatch_recovery_key_last_verified_timestamp_seconds", &["key"], &[], "When somebody last proved to hold the recovery key.";

    // --- the agent ---
    BUILD_INFO = Gauge Facts Info "keepwatch_build_info", &["version", "revision", "features"], &[], "Version of the agent.";
    RUNTIME_TICK = Gauge Facts Timestamp "keepwatch_runtime_tick_timestamp_seconds", NONE, &[], "Last tick of the scheduler.";
    RUNTIME_LAG = Gauge Facts Seconds "keepwatch_runtime_lag_seconds", NONE, &[], "Greatest delay of a run behind its time in the last minute.";
    CONFIG_RELOAD_SUCCESSFUL = Gauge Facts Bool "keepwatch_config_last_reload_successful", NONE, &[], "Whether the configuration was accepted last time.";
    CONFIG_RELOAD_SUCCESS = Gauge Facts Timestamp "keepwatch_config_last_reload_success_timestamp_seconds", NONE, &[], "When a configuration was last accepted.";
    CHECKS_CONFIGURED = Gauge Facts Count "keepwatch_checks_configured", &["kind"], &[], "Configured checks by kind.";
    CHECKS_RUNNING = Gauge Facts Count "keepwatch_checks_running", NONE, &[], "Runs of checks in progress.";
    DB_OPERATIONS = Counter Counted Count "keepwatch_state_db_operations_total", &["operation"], &[], "Operations of the state database.";
    DB_ERRORS = Counter Counted Count "keepwatch_state_db_errors_total", &["operation"], &[], "Operations of the state database that failed.";
    DB_OPERATION_DURATION = Histogram Counted Seconds "keepwatch_state_db_operation_duration_seconds", &["operation"], FAST_BUCKETS, "Durations of operations of the state database.";
    DB_SIZE = Gauge Facts Bytes "keepwatch_state_db_size_bytes", NONE, &[], "Size of the state database.";
    DB_WRITES_QUEUED = Gauge Facts Count "keepwatch_state_db_writes_queued", NONE, &[], "Records that wait to be written.";
    HISTORY_DROPPED = Counter Facts Count "keepwatch_history_dropped_total", &["sink"], &[], "Records that were dropped because their sink did not take them.";
    COLLECTOR_SUCCESS = Gauge Facts Bool "keepwatch_collector_success", &["collector"], &[], "Whether facts of the collector are fresh; at 0 they are those of the last success.";
    COLLECTOR_DURATION = Gauge Facts Seconds "keepwatch_collector_duration_seconds", &["collector"], &[], "Duration of the collector's last round.";
    HTTP_REQUESTS = Counter Counted Count "keepwatch_http_requests_total", &["path", "code"], &[], "Requests to the agent by path and status.";
    HTTP_DURATION = Histogram Counted Seconds "keepwatch_http_request_duration_seconds", &["path"], FAST_BUCKETS, "Time from a request's headers to its answer.";
    HTTP_REFUSED = Counter Counted Count "keepwatch_http_connections_refused_total", &["reason"], &[], "Connections to the agent that were refused or cut off, by reason.";
    LOG_MESSAGES = Counter Counted Count "keepwatch_log_messages_total", &["level"], &[], "Messages that the agent logged, by level.";
    HEARTBEAT_LAST_SUCCESS = Gauge Facts Timestamp "keepwatch_heartbeat_last_success_timestamp_seconds", NONE, &[], "When the outside dead-man switch was last reached.";
    HEARTBEAT_INTERVAL = Gauge Facts Seconds "keepwatch_heartbeat_interval_seconds", NONE, &[], "How often it is to be reached.";
    HEARTBEAT_FAILURES = Counter Facts Count "keepwatch_heartbeat_failures_total", NONE, &[], "Attempts to reach it that failed.";
    NOTIFICATIONS = Counter Facts Count "keepwatch_notifications_total", &["channel"], &[], "Messages to people that a channel delivered.";
    NOTIFICATION_FAILURES = Counter Facts Count "keepwatch_notification_failures_total", &["channel"], &[], "Attempts to deliver a message that failed.";
    NOTIFICATIONS_UNDELIVERABLE = Counter Facts Count "keepwatch_notifications_undeliverable_total", &["channel"], &[], "Messages that a channel could not deliver in time and gave up.";
    NOTIFICATIONS_QUEUED = Gauge Facts Count "keepwatch_notifications_queued", &["channel"], &[], "Messages that wait to be delivered.";

    // --- the process: names that every exporter has ---
    PROCESS_CPU = Counter Facts Seconds "process_cpu_seconds_total", NONE, &[], "User and system time of the agent.";
    PROCESS_RESIDENT_MEMORY = Gauge Facts Bytes "process_resident_memory_bytes", NONE, &[], "Resident memory of the agent.";
    PROCESS_VIRTUAL_MEMORY = Gauge Facts Bytes "process_virtual_memory_bytes", NONE, &[], "Virtual memory of the agent.";
    PROCESS_OPEN_FDS = Gauge Facts Count "process_open_fds", NONE, &[], "Open file descriptors of the agent.";
    PROCESS_MAX_FDS = Gauge Facts Count "process_max_fds", NONE, &[], "File descriptors that the agent may open.";
    PROCESS_START_TIME = Gauge Facts Timestamp "process_start_time_seconds", NONE, &[], "When the agent started.";

    // --- other names in use: duplicates of three of the above, written only when asked for ---
    LEGACY_CHECK_TOTAL = Counter Facts Count "health_check_total", C, &[], "Finished runs of the check (also keepwatch_check_runs_total).";
    LEGACY_CHECK_DURATION = Histogram Counted Seconds "health_check_duration_seconds", &["kind"], CHECK_BUCKETS, "Durations of runs of checks (also keepwatch_check_duration_seconds).";
    LEGACY_SERVICE_STATUS = Gauge Facts Bool "service_health_status", C, &[], "Whether the check is up (also keepwatch_check_up).";
}

/// The three duplicates.
pub const LEGACY: &[&Metric] = &[
    &LEGACY_CHECK_TOTAL,
    &LEGACY_CHECK_DURATION,
    &LEGACY_SERVICE_STATUS,
];

/// Labels that clash with those of a target or of the format.
pub const FORBIDDEN_LABELS: &[&str] = &[
    "job", "instance", "service", "type", "env", "le", "quantile",
];

/// The metric of this name, for those who check rules and dashboards.
pub fn find(name: &str) -> Option<&'static Metric> {
    ALL.iter().find(|m| m.name == name).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn declarations_keep_the_rules() {
        let mut seen = BTreeSet::new();
        for m in ALL {
            assert!(seen.insert(m.name), "{} twice", m.name);
            assert_eq!(find(m.name), Some(*m));
            let legacy = LEGACY.contains(m);
            assert!(
                legacy || m.name.starts_with("keepwatch_") || m.name.starts_with("process_"),
                "{}",
                m.name
            );
            assert!(
                m.name
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
                "{}",
                m.name
            );
            assert_eq!(
                m.kind == Kind::Counter,
                m.name.ends_with("_total"),
                "{}",
                m.name
            );
            assert_eq!(
                m.kind == Kind::Histogram,
                !m.buckets.is_empty(),
                "{}",
                m.name
            );
            assert!(m.buckets.windows(2).all(|w| w[0] < w[1]), "{}", m.name);
            let stem = m.name.trim_end_matches("_total");
            match m.unit {
                Unit::Timestamp => assert!(
                    stem.ends_with("_timestamp_seconds") || stem == "process_start_time_seconds",
                    "{}",
                    m.name
                ),
                Unit::Seconds => assert!(stem.ends_with("_seconds"), "{}", m.name),
                Unit::Bytes => assert!(stem.ends_with("_bytes"), "{}", m.name),
                Unit::Ratio => assert!(stem.ends_with("_ratio"), "{}", m.name),
                Unit::Info => assert!(stem.ends_with("_info"), "{}", m.name),
                Unit::Bool | Unit::Count => assert!(
                    ![
                        "_seconds", "_bytes", "_ratio", "_info", "_count", "_sum", "_bucket"
                    ]
                    .iter()
                    .any(|s| stem.ends_with(s)),
                    "{}",
                    m.name
                ),
            }
            assert!(m.help.ends_with('.') || m.help.ends_with(')'), "{}", m.help);
            assert!(
                m.help.len() < 120 && !m.help.contains(['\n', '\\']),
                "{}",
                m.help
            );
            let labels: BTreeSet<_> = m.labels.iter().collect();
            assert_eq!(labels.len(), m.labels.len(), "{}", m.name);
            for l in m.labels {
                assert!(!FORBIDDEN_LABELS.contains(l), "{} has label {l}", m.name);
                assert!(
                    l.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                    "{l}"
                );
            }
        }
        assert_eq!(find("keepwatch_nonsense"), None);
    }
}

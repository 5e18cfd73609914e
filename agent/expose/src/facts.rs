//! What is known now: plain rows that the daemon puts down and everything here is said from.
//!
//! Nothing in them asks anything, and a row says only what was found: an absent value makes no series, so that "never" is
//! visible as absence. Texts may come from anywhere; they are shortened and escaped where they are shown.

use std::collections::BTreeMap;
use std::time::Duration;

use keepwatch_model::check::{CheckKind, CheckName, Overlay, Reason, Severity, State};

/// A moment on the wall clock: milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct At(pub i64);

impl At {
    /// Seconds since 1970, for metrics.
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1000.0
    }

    /// How long ago `earlier` was; zero when it lies in the future.
    pub fn since(self, earlier: At) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// RFC 3339 in UTC, to the millisecond.
    pub fn rfc3339(self) -> String {
        jiff::Timestamp::from_millisecond(self.0).map_or_else(|_| String::new(), |t| t.to_string())
    }
}

/// The two clocks of the host, as an argument.
pub trait Clock: Send + Sync {
    /// Never goes back. The same clock as that of [`Agent::tick`].
    fn monotonic(&self) -> Duration;
    /// What a clock on the wall shows.
    fn wall(&self) -> At;
}

/// Everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// The agent itself.
    pub agent: Agent,
    /// The host.
    pub host: Host,
    /// Checks, in the order of configuration.
    pub checks: Vec<Check>,
    /// Maintenance windows that are configured or open.
    pub windows: Vec<Window>,
    /// Units that may be restarted.
    pub units: Vec<Unit>,
    /// Backups.
    pub backups: Vec<Backup>,
    /// Repositories.
    pub repositories: Vec<Repository>,
    /// Keys.
    pub keys: Vec<Key>,
    /// Alerts that fire now.
    pub alerts: Vec<Alert>,
}

/// The agent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Agent {
    /// Version.
    pub version: String,
    /// Revision of the source.
    pub revision: String,
    /// What was built in.
    pub features: String,
    /// The scheduler's last tick, on the monotonic clock.
    pub tick: Duration,
    /// The same on the wall.
    pub tick_at: At,
    /// Greatest delay of a run in the last minute.
    pub lag: Duration,
    /// When the daemon started, on the monotonic clock.
    pub started: Duration,
    /// The configuration is loaded.
    pub config_loaded: bool,
    /// The last reload was accepted.
    pub reload_ok: bool,
    /// When a configuration was last accepted.
    pub reloaded: Option<At>,
    /// The state database is open and migrated.
    pub database_ready: bool,
    /// Nothing was lost since the last record that it, or the spool in its stead, took.
    pub database_writable: bool,
    /// Its size.
    pub database_size: Option<u64>,
    /// Records that wait to be written.
    pub writes_queued: u64,
    /// The daemon is about to stop.
    pub draining: bool,
    /// Runs of checks in progress.
    pub checks_running: u64,
    /// Health score, 0 to 1.
    pub score: Option<f64>,
    /// Those who gather facts.
    pub collectors: Vec<Collector>,
    /// Records dropped, by sink.
    pub history_dropped: BTreeMap<String, u64>,
    /// The outside dead-man switch, when one is configured.
    pub heartbeat: Option<Heartbeat>,
    /// Ways to reach people.
    pub channels: Vec<Channel>,
    /// The process.
    pub process: Option<Process>,
}

/// One who gathers facts.
#[derive(Clone, Debug, PartialEq)]
pub struct Collector {
    /// Its name.
    pub name: String,
    /// Its last round succeeded; at false the facts are those of the last success.
    pub success: bool,
    /// How long that round took.
    pub duration: Duration,
}

/// The outside dead-man switch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Heartbeat {
    /// Last reached.
    pub last_success: Option<At>,
    /// How often it is to be reached.
    pub interval: Duration,
    /// Attempts that failed.
    pub failures: u64,
}

/// A way to reach people.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Channel {
    /// Its name.
    pub name: String,
    /// Messages delivered.
    pub delivered: u64,
    /// Attempts that failed.
    pub failures: u64,
    /// Messages given up.
    pub undeliverable: u64,
    /// Messages that wait.
    pub queued: u64,
}

/// The process, from the kernel's books.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    /// User and system time.
    pub cpu: Duration,
    /// Resident memory, in bytes.
    pub resident: u64,
    /// Virtual memory, in bytes.
    pub virtual_memory: u64,
    /// Open file descriptors.
    pub open_fds: u64,
    /// How many there may be; none when there is no limit.
    pub max_fds: Option<u64>,
    /// When it started.
    pub started: At,
}

/// The host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Memory that can be had without swapping, in bytes.
    pub memory_available: Option<u64>,
    /// Memory, in bytes.
    pub memory_size: Option<u64>,
    /// Load average over one minute.
    pub load1: Option<f64>,
    /// Processors.
    pub processors: Option<u32>,
    /// Time waited for `cpu`, `memory`, `io`.
    pub pressure: BTreeMap<&'static str, Duration>,
    /// Share of time waited for each in the last minute, 0 to 1.
    pub pressure_now: BTreeMap<&'static str, f64>,
    /// File systems that nobody checks, for `/resources/status`.
    pub disks: Vec<Disk>,
}

/// A file system.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Disk {
    /// Where it is mounted.
    pub mountpoint: String,
    /// Bytes available to unprivileged users.
    pub available: u64,
    /// Bytes.
    pub size: u64,
    /// Free inodes.
    pub inodes_free: u64,
    /// Inodes; 0 where there is no fixed number.
    pub inodes: u64,
}

/// Why a run did not take place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Skipped {
    /// The one before was still going on.
    Overrun,
    /// Maintenance.
    Maintenance,
    /// Switched off.
    Disabled,
}

impl Skipped {
    /// The label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Overrun => "overrun",
            Self::Maintenance => "maintenance",
            Self::Disabled => "disabled",
        }
    }
}

/// A value that only one kind of check has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// Collections of Qdrant.
    QdrantCollections,
    /// Points of Qdrant.
    QdrantPoints,
    /// Models of Ollama.
    OllamaModels,
    /// Integrity of an SQLite file, 0 or 1.
    SqliteIntegrityOk,
    /// Connections to PostgreSQL.
    PostgresqlConnections,
    /// How many there may be.
    PostgresqlConnectionsMax,
    /// Status code of an answer.
    HttpStatus,
}

/// A check.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// Its name.
    pub name: CheckName,
    /// Its kind.
    pub kind: CheckKind,
    /// How much it matters.
    pub severity: Severity,
    /// Its group.
    pub group: String,
    /// The unit that is restarted for it.
    pub unit: String,
    /// Interval.
    pub interval: Duration,
    /// Deadline of a run.
    pub timeout: Duration,
    /// Debounced state.
    pub state: State,
    /// What hides it.
    pub overlay: Option<Overlay>,
    /// In its state since; none when it never ran.
    pub since: Option<At>,
    /// End of the last run.
    pub last_run: Option<At>,
    /// End of the last run that did not fail.
    pub last_success: Option<At>,
    /// Whether the last run did not fail.
    pub last_result: Option<bool>,
    /// Duration of the last run.
    pub last_duration: Option<Duration>,
    /// Why the last failed run failed; cleared by a success.
    pub reason: Option<Reason>,
    /// What it said; for [`crate::answer`]s that need a token only.
    pub text: String,
    /// Failures in a row.
    pub failures_in_row: u32,
    /// Goes up and down too often.
    pub flapping: bool,
    /// Finished runs.
    pub runs: u64,
    /// Failed runs.
    pub failures: BTreeMap<Reason, u64>,
    /// Runs that did not take place.
    pub skipped: BTreeMap<Skipped, u64>,
    /// Confirmed changes of state.
    pub changes: u64,
    /// First end of a certificate.
    pub tls_not_after: Option<At>,
    /// Values of its kind.
    pub depth: BTreeMap<Depth, f64>,
    /// File systems, of a disk check.
    pub disks: Vec<Disk>,
}

impl Check {
    /// A check that never ran.
    pub fn new(
        name: CheckName,
        kind: CheckKind,
        severity: Severity,
        interval: Duration,
        timeout: Duration,
    ) -> Self {
        Self {
            name,
            kind,
            severity,
            group: String::new(),
            unit: String::new(),
            interval,
            timeout,
            state: State::Unknown,
            overlay: None,
            since: None,
            last_run: None,
            last_success: None,
            last_result: None,
            last_duration: None,
            reason: None,
            text: String::new(),
            failures_in_row: 0,
            flapping: false,
            runs: 0,
            failures: BTreeMap::new(),
            skipped: BTreeMap::new(),
            changes: 0,
            tls_not_after: None,
            depth: BTreeMap::new(),
            disks: Vec::new(),
        }
    }

    /// Counts for readiness.
    pub fn is_critical(&self) -> bool {
        self.severity == Severity::Critical && self.overlay != Some(Overlay::Disabled)
    }

    /// What is shown: the overlay, else the state.
    pub fn shown(&self) -> &'static str {
        self.overlay.map_or(self.state.as_str(), Overlay::as_str)
    }
}

/// A maintenance window.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// Its name.
    pub name: String,
    /// It is open.
    pub active: bool,
    /// Since when.
    pub since: Option<At>,
    /// Until when.
    pub until: Option<At>,
}

/// A unit that may be restarted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Unit {
    /// Its name.
    pub name: String,
    /// Attempts ever.
    pub restarts: u64,
    /// Jobs that did not end well, by result.
    pub failures: BTreeMap<String, u64>,
    /// Refusals, by reason.
    pub suppressed: BTreeMap<String, u64>,
    /// Attempts in the present window.
    pub attempts: u32,
    /// How many there may be.
    pub max_attempts: u32,
    /// All are used up.
    pub gave_up: bool,
    /// A restart is going on, or what came of it is awaited.
    pub in_progress: bool,
    /// The last attempt.
    pub last_restart: Option<At>,
    /// End of the cooldown.
    pub allowed: Option<At>,
    /// What came of the last attempt.
    pub last_result: Option<String>,
}

/// A stage of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// A dump was made.
    Dump,
    /// Files were looked for.
    Scan,
    /// Data were stored.
    Upload,
    /// What was stored was verified.
    Verify,
    /// Retention was applied.
    Retention,
}

impl Stage {
    /// The label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dump => "dump",
            Self::Scan => "scan",
            Self::Upload => "upload",
            Self::Verify => "verify",
            Self::Retention => "retention",
        }
    }
}

/// Why a backup did not succeed: a closed set, because it is a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BackupReason {
    /// The source could not be read.
    Source,
    /// The repository did not do what it should.
    Repository,
    /// Another run held what it needed.
    Lock,
    /// Credentials.
    Auth,
    /// No room.
    Space,
    /// A deadline.
    Timeout,
    /// The process was killed.
    Killed,
    /// What was stored did not verify.
    Verify,
    /// A fault in Keepwatch itself.
    Internal,
}

impl BackupReason {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::Source,
        Self::Repository,
        Self::Lock,
        Self::Auth,
        Self::Space,
        Self::Timeout,
        Self::Killed,
        Self::Verify,
        Self::Internal,
    ];

    /// The label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Repository => "repository",
            Self::Lock => "lock",
            Self::Auth => "auth",
            Self::Space => "space",
            Self::Timeout => "timeout",
            Self::Killed => "killed",
            Self::Verify => "verify",
            Self::Internal => "internal",
        }
    }
}

/// A backup: a job and the repository that it goes to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Backup {
    /// The job.
    pub name: String,
    /// The repository.
    pub repository: String,
    /// What kind of source.
    pub source_kind: String,
    /// The schedule, as configured.
    pub schedule: String,
    /// When first configured.
    pub first_seen: Option<At>,
    /// Longest gap that the schedule allows.
    pub interval: Option<Duration>,
    /// Start of the last run.
    pub last_start: Option<At>,
    /// End of the last run.
    pub last_completion: Option<At>,
    /// End of the last success.
    pub last_success: Option<At>,
    /// Whether the last finished run succeeded.
    pub last_successful: Option<bool>,
    /// A run is going on.
    pub running: bool,
    /// Duration of the last finished run.
    pub last_duration: Option<Duration>,
    /// Its stages.
    pub stages: BTreeMap<Stage, Duration>,
    /// Median duration.
    pub expected_duration: Option<Duration>,
    /// Median size of the source.
    pub expected_source_size: Option<u64>,
    /// Median of what was added.
    pub expected_added_size: Option<u64>,
    /// Size of the source in the last run.
    pub last_source_size: Option<u64>,
    /// What it added.
    pub last_added_size: Option<u64>,
    /// Its files.
    pub last_files: Option<u64>,
    /// Files that it could not read.
    pub last_source_errors: Option<u64>,
    /// Finished runs ever.
    pub runs: u64,
    /// Those that did not succeed.
    pub failures: BTreeMap<BackupReason, u64>,
    /// Snapshots.
    pub snapshots: Option<u64>,
    /// The oldest.
    pub oldest_snapshot: Option<At>,
    /// The newest.
    pub newest_snapshot: Option<At>,
    /// Retention.
    pub retention: Retention,
    /// Rehearsed restores, when they are configured.
    pub drill: Option<Drill>,
}

impl Backup {
    /// Fresh: there is a success not older than two intervals and an hour. None when nothing is expected of it.
    pub fn is_fresh(&self, now: At) -> Option<bool> {
        let allowed = self.interval?.saturating_mul(2) + Duration::from_secs(3600);
        let from = self.last_success.or(self.first_seen)?;
        // New and not yet due: neither fresh nor stale.
        if self.last_success.is_none() && now.since(from) <= allowed {
            return None;
        }
        Some(self.last_success.is_some() && now.since(from) <= allowed)
    }
}

/// Retention of a backup.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Retention {
    /// Last applied.
    pub last_success: Option<At>,
    /// Snapshots that should be gone.
    pub overdue: Option<u64>,
    /// Snapshots that there must be.
    pub minimum: Option<u64>,
    /// Snapshots removed ever.
    pub removed: Option<u64>,
}

/// Rehearsed restores of a backup.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Drill {
    /// Last success.
    pub last_success: Option<At>,
    /// End of the last one.
    pub last_completion: Option<At>,
    /// The last succeeded.
    pub last_successful: Option<bool>,
    /// How long it took.
    pub last_duration: Option<Duration>,
    /// What is aimed at.
    pub objective: Option<Duration>,
    /// Longest gap that the schedule allows.
    pub interval: Option<Duration>,
    /// Bytes brought back.
    pub restored_size: Option<u64>,
    /// Finished ever.
    pub runs: u64,
    /// Failed ever.
    pub failures: u64,
}

/// A repository.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Repository {
    /// Its name in the configuration.
    pub name: String,
    /// It answered last time.
    pub reachable: Option<bool>,
    /// When first configured.
    pub first_seen: Option<At>,
    /// Bytes stored.
    pub size: Option<u64>,
    /// Bytes that can still be stored.
    pub available: Option<u64>,
    /// Bytes that its place holds.
    pub capacity: Option<u64>,
    /// Marks of prune.
    pub locks: Option<u64>,
    /// Of these, those that a prune should have carried out by now.
    pub stale_locks: Option<u64>,
    /// Requests by operation.
    pub requests: BTreeMap<String, u64>,
    /// Failed ones by reason.
    pub request_errors: BTreeMap<String, u64>,
    /// Bytes sent.
    pub sent: Option<u64>,
    /// Bytes received.
    pub received: Option<u64>,
    /// Verification.
    pub verification: Verification,
    /// PostgreSQL's logs in it, by cluster, as the last verification found them.
    pub wal: Vec<Wal>,
}

/// The log of a PostgreSQL cluster in a repository.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wal {
    /// The cluster's system identifier.
    pub cluster: String,
    /// The newest base backup can be brought to the end of the log.
    pub recoverable: bool,
    /// Runs of segments that are missing.
    pub gaps: u64,
    /// Segments that are missing.
    pub segments_missing: u64,
    /// Base backups that can be restored.
    pub base_backups: u64,
    /// When the newest segment was stored.
    pub newest_segment: Option<At>,
    /// When the newest base backup was done.
    pub newest_base_backup: Option<At>,
    /// From when on every moment can be recovered.
    pub oldest_recovery: Option<At>,
}

/// Verification of a repository.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verification {
    /// Last one without a finding.
    pub last_success: Option<At>,
    /// End of the last one.
    pub last_completion: Option<At>,
    /// The last one had none.
    pub last_successful: Option<bool>,
    /// How long it took.
    pub last_duration: Option<Duration>,
    /// Longest gap that the schedule allows.
    pub interval: Option<Duration>,
    /// Bytes checked ever.
    pub checked: Option<u64>,
    /// Findings ever by reason.
    pub errors: BTreeMap<String, u64>,
}

/// A key.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// Its name.
    pub name: String,
    /// What for.
    pub purpose: String,
    /// Its end.
    pub not_after: Option<At>,
    /// When somebody proved to hold it; recovery keys.
    pub last_verified: Option<At>,
}

/// An alert that fires.
#[derive(Clone, Debug, PartialEq)]
pub struct Alert {
    /// Its name, such as `KeepwatchCheckDown`.
    pub name: String,
    /// How bad.
    pub severity: Severity,
    /// What it is about: a check, a backup, a unit.
    pub subject: String,
    /// One sentence.
    pub text: String,
    /// Since when.
    pub since: At,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freshness_of_backups() {
        let hour = 3_600_000;
        let day = Some(Duration::from_secs(86_400));
        let table = [
            // interval, first seen, last success, now -> fresh
            (None, Some(0), Some(0), 1000 * hour, None),
            (day, Some(0), None, 48 * hour, None),
            (day, Some(0), None, 50 * hour, Some(false)),
            (day, Some(0), Some(0), 49 * hour, Some(true)),
            (day, Some(0), Some(0), 50 * hour, Some(false)),
            // A success in the future (clock skew) is not stale here; another alert tells of it.
            (day, Some(0), Some(100 * hour), 50 * hour, Some(true)),
            (day, None, None, 50 * hour, None),
        ];
        for (interval, first_seen, last_success, now, expected) in table {
            let b = Backup {
                interval,
                first_seen: first_seen.map(At),
                last_success: last_success.map(At),
                ..Backup::default()
            };
            assert_eq!(b.is_fresh(At(now)), expected, "{b:?}");
        }
        assert_eq!(At(1_500).rfc3339(), "1970-01-01T00:00:01.5Z");
        assert_eq!(At(i64::MAX).rfc3339(), "");
    }
}

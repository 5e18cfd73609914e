//! Runs: one execution of a backup, a verification, a drill and so on, from started to its outcome.
//!
//! A record is written twice under one id: when the run starts, and whole again when it ends. The second replaces the first,
//! in whichever order they arrive ([`RunOutcome::rank`]), so that a record can be kept aside and delivered later or twice.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::RunId;
use crate::time::Moment;
use crate::words::{micros, micros_opt, words};

words! {
    /// What a run does.
    RunKind, "a kind of run", {
        /// Reads a source and writes a snapshot.
        Backup = "backup",
        /// Checks the integrity of a repository.
        Verify = "verify",
        /// Deletes what no snapshot needs.
        Prune = "prune",
        /// Rehearses a restore and measures it.
        Drill = "drill",
        /// Copies snapshots into another repository.
        Copy = "copy",
        /// Drops snapshots by the retention policy.
        Forget = "forget",
        /// Brings data back.
        Restore = "restore",
    }
}

words! {
    /// What came of a run.
    RunOutcome, "the outcome of a run", {
        /// Not known yet: it runs, or its end was never told.
        Started = "started",
        /// All that was asked was done.
        Succeeded = "succeeded",
        /// Done, but some of the source could not be read.
        Partial = "partial",
        /// Not done.
        Failed = "failed",
        /// The process went away without a word: killed, or the power failed.
        Lost = "lost",
    }
}

impl RunOutcome {
    /// Whether the run has ended.
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Started)
    }

    /// Whether the run left what it was for: a partial backup is a snapshot, too, and restores what could be read.
    pub const fn is_success(self) -> bool {
        matches!(self, Self::Succeeded | Self::Partial)
    }

    /// Of two records of one run the one with the higher rank is believed: started 0, lost 1 (a guess from outside), what the
    /// run itself told 2.
    pub const fn rank(self) -> u8 {
        match self {
            Self::Started => 0,
            Self::Lost => 1,
            Self::Succeeded | Self::Partial | Self::Failed => 2,
        }
    }
}

words! {
    /// Why a run was begun.
    Trigger, "the cause of a run", {
        /// A timer was due.
        Timer = "timer",
        /// A timer was due while the host was off.
        Catchup = "catchup",
        /// A person asked.
        Manual = "manual",
        /// The run before it failed.
        Retry = "retry",
        /// Another run asked, such as a backup that prunes.
        Run = "run",
        /// Written down afterwards, from the snapshots of a repository.
        Rebuilt = "rebuilt",
    }
}

words! {
    /// Why a run failed, coarse enough for a metric's label.
    ErrorClass, "a class of errors", {
        /// What was to be read: files, a database, a service.
        Source = "source",
        /// Where it was to be written or read back from.
        Repository = "repository",
        /// Another run was at it.
        Lock = "lock",
        /// Credentials were missing, wrong or too weak.
        Auth = "auth",
        /// No space left.
        Space = "space",
        /// It took too long.
        Timeout = "timeout",
        /// The process was killed.
        Killed = "killed",
        /// What was read back was not what was written.
        Verify = "verify",
        /// None of these.
        Internal = "internal",
    }
}

/// Why a run failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunError {
    /// The class, for metrics.
    pub class: ErrorClass,
    /// One sentence for a person; free of secrets. The catalog keeps its first 2 KiB.
    pub text: String,
}

/// A process, so that it can be told later whether it still lives: process ids are used again, start times after a boot are not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The kernel's id of this boot.
    pub boot: String,
    /// The process id.
    pub pid: u32,
    /// When it started, in the kernel's clock ticks after that boot.
    pub started: u64,
}

/// A part of a run and how long it took: dump, scan, upload, verify, retention.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// The word for it.
    pub name: String,
    /// How long it took.
    #[serde(rename = "duration_us", with = "micros")]
    pub duration: Duration,
}

/// What a run asked of a store over a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Traffic {
    /// Objects written.
    pub puts: u64,
    /// Objects or ranges read.
    pub gets: u64,
    /// Questions about objects.
    pub heads: u64,
    /// Pages of listings.
    pub lists: u64,
    /// Deletions.
    pub deletes: u64,
    /// Attempts after the first: requests that failed and were made again.
    pub retries: u64,
    /// Requests that failed and were given up. A refusal is an answer.
    pub failures: u64,
    /// Bytes of objects sent, repeated ones included.
    pub sent_bytes: u64,
    /// Bytes of objects received.
    pub received_bytes: u64,
}

/// What a run counted. What a kind of run does not count is missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunTotals {
    /// Files and other entries that were read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<u64>,
    /// Bytes that the source holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_bytes: Option<u64>,
    /// Bytes that the repository grew by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub added_bytes: Option<u64>,
    /// Files that could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_errors: Option<u64>,
    /// Bytes that a verification read and checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checked_bytes: Option<u64>,
    /// Damaged or missing objects that a verification found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damages: Option<u64>,
    /// Bytes that a restore or a drill wrote.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restored_bytes: Option<u64>,
    /// Bytes that a prune freed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub freed_bytes: Option<u64>,
}

/// What snapshots a job had in its repository at the end of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetentionCounts {
    /// Snapshots that are kept.
    pub snapshots: u64,
    /// When the oldest of them was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest: Option<Moment>,
    /// When the newest of them was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<Moment>,
    /// Snapshots that by the policy should be gone.
    pub overdue: u64,
    /// How many the policy keeps at least.
    pub minimum: u64,
    /// Snapshots that this run removed.
    pub removed: u64,
}

/// One run. See the module for how its two writings become one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Made when the run started.
    pub id: RunId,
    /// What it does.
    pub kind: RunKind,
    /// The host it runs on.
    pub host: String,
    /// The job, if it has one. The catalog takes an empty name for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// The repository by its name in the configuration, or its place without credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// Why it was begun.
    pub trigger: Trigger,
    /// 1 for the first try, 2 for the retry after it.
    pub attempt: u32,
    /// The process that runs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// When it began, by the host's clock.
    pub started: Moment,
    /// When it ended, by the host's clock; later than `started` unless the clock was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<Moment>,
    /// How long it took, by a clock that nobody sets.
    #[serde(
        default,
        rename = "duration_us",
        with = "micros_opt",
        skip_serializing_if = "Option::is_none"
    )]
    pub duration: Option<Duration>,
    /// What came of it.
    pub outcome: RunOutcome,
    /// The snapshot that it made, or was about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// The path that it read or wrote, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What it counted.
    #[serde(default)]
    pub totals: RunTotals,
    /// What snapshots there were in the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<RetentionCounts>,
    /// Its parts, in order. The catalog keeps the first 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<Stage>,
    /// What it asked of a store over a network. Only summed up in the catalog.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Traffic>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<RunError>,
}

impl RunRecord {
    /// The record of a run that begins: everything that is known later is missing.
    pub fn begin(id: RunId, kind: RunKind, host: &str, started: Moment, trigger: Trigger) -> Self {
        Self {
            id,
            kind,
            host: host.to_owned(),
            job: None,
            repository: None,
            trigger,
            attempt: 1,
            process: None,
            started,
            finished: None,
            duration: None,
            outcome: RunOutcome::Started,
            snapshot: None,
            path: None,
            totals: RunTotals::default(),
            retention: None,
            stages: Vec::new(),
            traffic: None,
            error: None,
        }
    }
}

/// What is known of a repository as a place, at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryState {
    /// The host that looked.
    pub host: String,
    /// The repository by its name in the configuration.
    pub repository: String,
    /// When it looked.
    pub at: Moment,
    /// Whether it could be reached.
    pub reachable: bool,
    /// Bytes that it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// Bytes left where it lies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available_bytes: Option<u64>,
    /// Bytes that its place holds in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity_bytes: Option<u64>,
    /// PostgreSQL's log in it, by cluster; nothing when it was not looked for. The catalog keeps the first 16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal: Option<Vec<WalState>>,
}

/// What a verification found of the log of one PostgreSQL cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalState {
    /// Its system identifier, or else its name in the repository.
    pub cluster: String,
    /// Whether its newest base backup can be brought to the end of the log.
    pub recoverable: bool,
    /// Runs of segments that are missing.
    pub gaps: u64,
    /// Segments that are missing.
    pub segments_missing: u64,
    /// Base backups that can be restored.
    pub base_backups: u64,
    /// When the newest segment was stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest_segment: Option<Moment>,
    /// When the newest base backup that can be restored was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest_base_backup: Option<Moment>,
    /// From when on every moment can be recovered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_recovery: Option<Moment>,
}

/// A snapshot as a repository tells of it: enough to write down afterwards that its backup ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotFact {
    /// Its id, as text.
    pub snapshot: String,
    /// The repository by its name in the configuration.
    pub repository: String,
    /// The host that made it.
    pub host: String,
    /// The job that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// When the backup began.
    pub started: Moment,
    /// When it was done.
    pub finished: Moment,
    /// Whether some of the source could not be read.
    pub partial: bool,
    /// What it counted.
    #[serde(default)]
    pub totals: RunTotals,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(text: &str) -> Moment {
        text.parse().expect(text)
    }

    #[test]
    fn words_come_back() {
        for kind in RunKind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(*kind));
            let json = serde_json::to_value(kind).expect("a word");
            assert_eq!(json, kind.as_str());
            assert_eq!(serde_json::from_value::<RunKind>(json).ok(), Some(*kind));
        }
        for text in ["", "Backup", "backup ", "check"] {
            let error = text.parse::<RunKind>().expect_err(text).to_string();
            assert!(
                error.ends_with("use one of backup verify prune drill copy forget restore"),
                "{error}"
            );
        }
    }

    #[test]
    fn what_the_run_told_beats_a_guess() {
        assert!(RunOutcome::Started.rank() < RunOutcome::Lost.rank());
        for own in [
            RunOutcome::Succeeded,
            RunOutcome::Partial,
            RunOutcome::Failed,
        ] {
            assert!(RunOutcome::Lost.rank() < own.rank());
            assert!(own.is_final());
        }
        assert!(!RunOutcome::Started.is_final() && RunOutcome::Lost.is_final());
        assert!(RunOutcome::Partial.is_success() && !RunOutcome::Lost.is_success());
    }

    #[test]
    fn a_record_says_only_what_is_known() {
        let at = moment("2026-11-22T04:20:24.5+01:00");
        let id = RunId::new(at, [7; 10]);
        let begun = RunRecord::begin(id, RunKind::Backup, "web1", at, Trigger::Timer);
        let json = serde_json::to_string(&begun).expect("json");
        assert!(!json.contains("null"), "{json}");
        assert_eq!(
            serde_json::from_str::<RunRecord>(&json).expect("reads back"),
            begun
        );

        let mut done = begun;
        done.job = Some("home".into());
        done.duration = Some(Duration::from_micros(1_500_001));
        done.finished = Some(at);
        done.outcome = RunOutcome::Failed;
        done.process = Some(Process {
            boot: "b".into(),
            pid: 7,
            started: 9,
        });
        done.stages = vec![Stage {
            name: "scan".into(),
            duration: Duration::from_millis(3),
        }];
        done.error = Some(RunError {
            class: ErrorClass::Space,
            text: "full\u{0}\u{1b}".into(),
        });
        done.retention = Some(RetentionCounts {
            snapshots: 3,
            oldest: Some(at),
            newest: None,
            overdue: 0,
            minimum: 1,
            removed: 2,
        });
        done.totals.files = Some(u64::MAX);
        let json = serde_json::to_string(&done).expect("json");
        assert_eq!(
            serde_json::from_str::<RunRecord>(&json).expect("reads back"),
            done
        );
        assert!(json.contains("\"duration_us\":1500001"), "{json}");
    }

    #[test]
    fn a_field_of_a_later_version_is_no_error() {
        let at = moment("2026-11-22T04:20:24Z");
        let begun = RunRecord::begin(
            RunId::new(at, [7; 10]),
            RunKind::Drill,
            "h",
            at,
            Trigger::Manual,
        );
        let mut json = serde_json::to_value(&begun).expect("json");
        json["colour"] = "blue".into();
        assert_eq!(
            serde_json::from_value::<RunRecord>(json).expect("reads"),
            begun
        );
    }
}

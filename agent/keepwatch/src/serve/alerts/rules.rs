//! Which alerts of the rules for Prometheus the agent tells by itself, and why not the others. A test reads the rules and fails when
//! one is missing here, or has another severity or waits otherwise.

use std::time::Duration;

use keepwatch_model::check::Severity::{self, Critical, Info, Warning};

/// An alert, as the rules have it.
#[derive(Debug)]
pub struct Rule {
    /// Its name.
    pub name: &'static str,
    /// How bad; where a check says so itself, the worst.
    pub severity: Severity,
    /// How long what is wrong must last: the rule's `for`.
    pub wait: Duration,
}

const NOW: u64 = 0;
const MINUTE: u64 = 60;
const HOUR: u64 = 3600;
const DAY: u64 = 86_400;

macro_rules! rules {
    ($($id:ident $name:literal $severity:ident $wait:expr;)*) => {
        $(
            #[doc = concat!("`", $name, "`.")]
            pub const $id: Rule = Rule { name: $name, severity: $severity, wait: Duration::from_secs($wait) };
        )*
        /// All that are told.
        #[cfg(test)]
        pub const TOLD: &[Rule] = &[$($id),*];
    };
}

rules! {
    // The judge has debounced what follows, and has waited long enough: these two do not wait as the rules do.
    CHECK_DOWN "KeepwatchCheckDown" Critical NOW;
    CHECK_FLAPPING "KeepwatchCheckFlapping" Critical NOW;
    CHECK_SLOW "KeepwatchCheckSlow" Info NOW;
    CHECK_NOT_RUNNING "KeepwatchCheckNotRunning" Warning 2 * MINUTE;
    CHECK_BURN "KeepwatchCheckErrorBudgetBurn" Warning NOW;
    CERTIFICATE_SOON "KeepwatchCertificateExpiringSoon" Warning HOUR;
    CERTIFICATE_VERY_SOON "KeepwatchCertificateExpiringVerySoon" Critical 10 * MINUTE;
    MAINTENANCE_TOO_LONG "KeepwatchMaintenanceTooLong" Info 12 * HOUR;
    HEALTH_SCORE_LOW "KeepwatchHealthScoreLow" Info 15 * MINUTE;

    BACKUP_STALE "KeepwatchBackupStale" Critical 5 * MINUTE;
    BACKUP_NEVER "KeepwatchBackupNeverSucceeded" Critical 5 * MINUTE;
    BACKUP_FAILED "KeepwatchBackupFailed" Warning 15 * MINUTE;
    BACKUP_PARTIAL "KeepwatchBackupPartial" Warning 5 * MINUTE;
    BACKUP_MISSED_START "KeepwatchBackupMissedStart" Warning 5 * MINUTE;
    BACKUP_TOO_LONG "KeepwatchBackupRunningTooLong" Warning 5 * MINUTE;
    BACKUP_SLOW "KeepwatchBackupSlow" Info NOW;
    BACKUP_SHRUNK "KeepwatchBackupShrunk" Warning NOW;
    BACKUP_GREW "KeepwatchBackupGrew" Info NOW;
    BACKUP_CLOCK_SKEW "KeepwatchBackupClockSkew" Warning 10 * MINUTE;
    RETENTION_OVERDUE "KeepwatchRetentionNotApplied" Warning DAY;
    RETENTION_AGGRESSIVE "KeepwatchRetentionTooAggressive" Critical HOUR;
    DRILL_FAILED "KeepwatchRestoreDrillFailed" Critical NOW;
    DRILL_STALE "KeepwatchRestoreDrillStale" Warning HOUR;
    DRILL_TOO_SLOW "KeepwatchRestoreDrillTooSlow" Warning NOW;

    UNREACHABLE "KeepwatchRepositoryUnreachable" Warning 15 * MINUTE;
    REPOSITORY_ERRORS "KeepwatchRepositoryErrors" Warning NOW;
    REPOSITORY_FILLING "KeepwatchRepositoryFilling" Warning HOUR;
    NO_ROOM "KeepwatchRepositoryNoRoomForNextBackup" Critical 15 * MINUTE;
    STALE_LOCK "KeepwatchRepositoryStaleLock" Warning HOUR;
    VERIFICATION_FAILED "KeepwatchVerificationFailed" Critical NOW;
    VERIFICATION_STALE "KeepwatchVerificationStale" Warning HOUR;
    VERIFICATION_NEVER "KeepwatchVerificationNever" Warning HOUR;
    WAL_GAP "KeepwatchWalGap" Critical NOW;
    WAL_STALE "KeepwatchWalArchiveStale" Warning NOW;
    WAL_NO_BASE "KeepwatchWalNoBaseBackup" Warning DAY;
    KEY_ENDS "KeepwatchKeyExpiringSoon" Warning HOUR;
    KEY_UNPROVED "KeepwatchRecoveryKeyUnverified" Warning HOUR;

    MEMORY_LOW "KeepwatchHostMemoryLow" Warning 10 * MINUTE;
    MEMORY_PRESSURE "KeepwatchHostMemoryPressure" Warning 10 * MINUTE;
    CPU_PRESSURE "KeepwatchHostCpuPressure" Info 30 * MINUTE;
    DISK_FULL "KeepwatchHostDiskAlmostFull" Critical 15 * MINUTE;
    DISK_FILLING "KeepwatchHostDiskFilling" Warning HOUR;
    INODES_LOW "KeepwatchHostInodesLow" Warning 15 * MINUTE;

    RESTART_LOOP "KeepwatchUnitRestartLoop" Warning NOW;
    RESTART_FAILED "KeepwatchUnitRestartFailed" Warning NOW;
    RESTART_GAVE_UP "KeepwatchUnitRestartGaveUp" Critical NOW;

    SCHEDULER_STUCK "KeepwatchEventLoopStuck" Critical 2 * MINUTE;
    DATABASE_ERRORS "KeepwatchStateDatabaseErrors" Warning 5 * MINUTE;
    HISTORY_DROPPED "KeepwatchHistoryDropped" Warning NOW;
    COLLECTOR_FAILING "KeepwatchCollectorFailing" Warning 10 * MINUTE;
    RELOAD_FAILED "KeepwatchConfigReloadFailed" Warning 5 * MINUTE;
    HEARTBEAT_FAILING "KeepwatchHeartbeatFailing" Warning 5 * MINUTE;
    DESCRIPTORS_HIGH "KeepwatchFileDescriptorsHigh" Warning 10 * MINUTE;
}

/// Those that only somebody else can tell, and why.
#[cfg(test)]
pub const NOT_TOLD: &[(&str, &str)] = &[
    (
        "KeepwatchDown",
        "who is down says nothing: the dead-man switch outside does",
    ),
    (
        "KeepwatchAbsent",
        "about the targets of a Prometheus; the dead-man switch outside tells that a host is gone",
    ),
    (
        "KeepwatchCrashLooping",
        "a daemon that has just started does not know how often it did; the dead-man switch falls silent, and systemd shows the restarts",
    ),
    (
        "KeepwatchVersionSkew",
        "compares several hosts; the agent knows its own",
    ),
    (
        "Watchdog",
        "proves that Prometheus and Alertmanager work; the dead-man switch proves the same of the agent",
    ),
    (
        "NotificationsFailing",
        "about an Alertmanager's deliveries; what the agent cannot deliver is in its log and in keepwatch_notification metrics, since the way to tell it is what fails",
    ),
];

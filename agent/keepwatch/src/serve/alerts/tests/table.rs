//! Alerts that follow from facts of one moment.

use super::*;

/// An alert; what makes it, at the least; what just does not; since when it says to be, in milliseconds before [`NOW`].
pub(super) type Row = (&'static str, fn(&mut Facts), fn(&mut Facts), Option<u64>);

pub(super) const ROWS: &[Row] = &[
    (
        "KeepwatchCheckNotRunning",
        |f| f.checks[0].last_run = ago(150 * SECOND + 1),
        |f| f.checks[0].last_run = ago(150 * SECOND),
        Some(1),
    ),
    (
        "KeepwatchCertificateExpiringSoon",
        |f| f.checks[0].tls_not_after = ahead(14 * DAY - 1),
        |f| f.checks[0].tls_not_after = ahead(14 * DAY),
        Some(1),
    ),
    (
        "KeepwatchCertificateExpiringVerySoon",
        |f| f.checks[0].tls_not_after = ahead(3 * DAY - 1),
        |f| f.checks[0].tls_not_after = ahead(3 * DAY),
        Some(1),
    ),
    (
        "KeepwatchMaintenanceTooLong",
        |f| {
            f.windows[0].active = true;
            f.windows[0].since = ago(HOUR);
        },
        |_| {},
        Some(HOUR),
    ),
    (
        "KeepwatchHealthScoreLow",
        |f| f.agent.score = Some(0.699),
        |f| f.agent.score = Some(0.7),
        None,
    ),
    (
        "KeepwatchBackupStale",
        |f| f.backups[0].last_success = ago(2 * DAY + HOUR + 1),
        |f| f.backups[0].last_success = ago(2 * DAY + HOUR),
        Some(1),
    ),
    (
        "KeepwatchBackupNeverSucceeded",
        |f| {
            f.backups[0].last_success = None;
            f.backups[0].first_seen = ago(2 * DAY + 1);
        },
        |f| {
            f.backups[0].last_success = None;
            f.backups[0].first_seen = ago(2 * DAY);
        },
        Some(1),
    ),
    (
        "KeepwatchBackupFailed",
        |f| f.backups[0].last_successful = Some(false),
        |f| f.backups[0].last_successful = None,
        Some(2 * HOUR),
    ),
    (
        "KeepwatchBackupPartial",
        |f| f.backups[0].last_source_errors = Some(1),
        |f| f.backups[0].last_source_errors = None,
        Some(2 * HOUR),
    ),
    (
        "KeepwatchBackupMissedStart",
        |f| f.backups[0].last_start = ago(31 * HOUR + 1),
        |f| f.backups[0].last_start = ago(31 * HOUR),
        Some(1),
    ),
    (
        "KeepwatchBackupRunningTooLong",
        |f| {
            f.backups[0].running = true;
            f.backups[0].expected_duration = Some(ms(30 * MINUTE));
            f.backups[0].last_start = ago(90 * MINUTE + 1);
        },
        |f| {
            f.backups[0].running = true;
            f.backups[0].expected_duration = Some(ms(30 * MINUTE));
            f.backups[0].last_start = ago(90 * MINUTE);
        },
        Some(1),
    ),
    (
        "KeepwatchBackupRunningTooLong",
        |f| {
            f.backups[0].running = true;
            f.backups[0].last_start = ago(HOUR + 1);
        },
        |f| {
            f.backups[0].running = true;
            f.backups[0].last_start = ago(HOUR);
        },
        Some(1),
    ),
    (
        "KeepwatchBackupSlow",
        |f| f.backups[0].last_duration = Some(ms(800 * SECOND + 1)),
        |f| f.backups[0].last_duration = Some(ms(800 * SECOND)),
        Some(2 * HOUR),
    ),
    (
        "KeepwatchBackupShrunk",
        |f| f.backups[0].last_source_size = Some((2 << 20) - 1),
        |f| f.backups[0].last_source_size = Some(2 << 20),
        Some(2 * HOUR),
    ),
    (
        "KeepwatchBackupGrew",
        |f| f.backups[0].last_added_size = Some(3 * GIB + 1),
        |f| f.backups[0].last_added_size = Some(3 * GIB),
        Some(2 * HOUR),
    ),
    (
        "KeepwatchBackupClockSkew",
        |f| f.backups[0].last_success = ahead(DAY + 300 * SECOND + 1),
        |f| f.backups[0].last_success = ahead(300 * SECOND),
        None,
    ),
    (
        "KeepwatchRetentionNotApplied",
        |f| f.backups[0].retention.overdue = Some(1),
        |f| f.backups[0].retention.overdue = None,
        None,
    ),
    (
        "KeepwatchRetentionTooAggressive",
        |f| f.backups[0].snapshots = Some(6),
        |f| f.backups[0].snapshots = None,
        None,
    ),
    (
        "KeepwatchRestoreDrillFailed",
        |f| drill(f).last_successful = Some(false),
        |f| drill(f).last_successful = None,
        Some(DAY),
    ),
    (
        "KeepwatchRestoreDrillStale",
        |f| drill(f).last_success = ago(15 * DAY + 1),
        |f| drill(f).last_success = ago(15 * DAY),
        Some(1),
    ),
    (
        "KeepwatchRestoreDrillStale",
        |f| drill(f).last_success = None,
        |f| {
            drill(f).last_success = None;
            f.backups[0].first_seen = ago(15 * DAY);
        },
        Some(85 * DAY),
    ),
    (
        "KeepwatchRestoreDrillTooSlow",
        |f| drill(f).last_duration = Some(ms(MINUTE + 1)),
        |f| drill(f).objective = None,
        Some(DAY),
    ),
    (
        "KeepwatchRepositoryUnreachable",
        |f| f.repositories[0].reachable = Some(false),
        |f| f.repositories[0].reachable = None,
        None,
    ),
    (
        "KeepwatchRepositoryNoRoomForNextBackup",
        |f| f.repositories[0].available = Some(2 * GIB - 1),
        |f| f.repositories[0].available = Some(2 * GIB),
        None,
    ),
    (
        "KeepwatchRepositoryStaleLock",
        |f| f.repositories[0].stale_locks = Some(1),
        |f| f.repositories[0].stale_locks = None,
        None,
    ),
    (
        "KeepwatchVerificationFailed",
        |f| f.repositories[0].verification.last_successful = Some(false),
        |f| f.repositories[0].verification.last_successful = None,
        Some(DAY),
    ),
    (
        "KeepwatchVerificationStale",
        |f| f.repositories[0].verification.last_success = ago(60 * DAY + 1),
        |f| f.repositories[0].verification.last_success = ago(60 * DAY),
        Some(1),
    ),
    (
        "KeepwatchVerificationNever",
        |f| f.repositories[0].verification.last_success = None,
        |f| {
            f.repositories[0].verification.last_success = None;
            f.repositories[0].first_seen = ago(60 * DAY);
        },
        Some(40 * DAY),
    ),
    (
        "KeepwatchWalGap",
        |f| {
            f.repositories[0].wal[0].recoverable = false;
            f.repositories[0].wal[0].gaps = 1;
        },
        |f| f.repositories[0].wal[0].gaps = 1,
        Some(DAY),
    ),
    (
        "KeepwatchWalArchiveStale",
        |f| f.repositories[0].wal[0].newest_segment = ago(9 * DAY + 1),
        |f| f.repositories[0].wal[0].newest_segment = ago(9 * DAY),
        Some(DAY + 1),
    ),
    (
        "KeepwatchWalNoBaseBackup",
        |f| {
            f.repositories[0].wal[0].base_backups = 0;
            f.repositories[0].wal[0].newest_segment = ago(9 * DAY - 1);
        },
        |f| {
            f.repositories[0].wal[0].base_backups = 0;
            f.repositories[0].wal[0].newest_segment = ago(9 * DAY);
        },
        None,
    ),
    (
        "KeepwatchKeyExpiringSoon",
        |f| f.keys[0].not_after = ahead(30 * DAY - 1),
        |f| f.keys[0].not_after = None,
        Some(1),
    ),
    (
        "KeepwatchRecoveryKeyUnverified",
        |f| f.keys[0].last_verified = ago(180 * DAY + 1),
        |f| f.keys[0].last_verified = None,
        Some(1),
    ),
    (
        "KeepwatchHostMemoryLow",
        |f| f.host.memory_available = Some(99),
        |f| f.host.memory_available = None,
        None,
    ),
    (
        "KeepwatchHostDiskAlmostFull",
        |f| f.checks[0].disks[0].available = 49,
        |f| f.checks[0].disks[0].available = 50,
        None,
    ),
    (
        "KeepwatchHostInodesLow",
        |f| f.checks[0].disks[0].inodes_free = 4,
        |f| f.checks[0].disks[0].inodes_free = 5,
        None,
    ),
    (
        "KeepwatchUnitRestartGaveUp",
        |f| f.units[0].gave_up = true,
        |_| {},
        None,
    ),
    (
        "KeepwatchEventLoopStuck",
        |f| f.agent.lag = ms(SECOND + 1),
        |f| f.agent.lag = ms(SECOND),
        None,
    ),
    (
        "KeepwatchCollectorFailing",
        |f| f.agent.collectors[0].success = false,
        |_| {},
        None,
    ),
    (
        "KeepwatchHeartbeatFailing",
        |f| heartbeat(f).last_success = ago(15 * MINUTE + 1),
        |f| heartbeat(f).last_success = ago(15 * MINUTE),
        Some(1),
    ),
    (
        "KeepwatchFileDescriptorsHigh",
        |f| {
            if let Some(p) = &mut f.agent.process {
                p.open_fds = 81;
            }
        },
        |_| {},
        None,
    ),
];

#[test]
fn each_fires_at_its_limit_waits_and_resolves() {
    let stage = Stage::new();
    let none = Past::default();
    assert_eq!(stage.wrong(&well(), &none, NOW), [""; 0]);
    for (name, wrong, bound, since) in ROWS {
        let (mut is, mut is_not) = (well(), well());
        wrong(&mut is);
        bound(&mut is_not);
        assert_eq!(stage.wrong(&is, &none, NOW), [*name]);
        let names = stage.wrong(&is_not, &none, NOW);
        assert!(!names.iter().any(|n| n == name), "{name} at its bound");

        let rule = TOLD.iter().find(|r| r.name == *name).expect("a rule");
        let mut lookout = Lookout::new(Beginnings::default(), NOW);
        let mut tells = |facts: &Facts, now: At| stage.tells(&mut lookout, facts, now);
        let told = tells(&is, NOW);
        assert_eq!(named(&told, name).is_some(), rule.wait.is_zero(), "{name}");
        if !rule.wait.is_zero() {
            let almost = after(NOW, rule.wait - ms(1));
            assert!(named(&tells(&is, almost), name).is_none(), "{name} waits");
        }
        let told = tells(&is, after(NOW, rule.wait));
        let alert = named(&told, name).unwrap_or_else(|| panic!("{name} is not told"));
        assert_eq!(alert.severity(), rule.severity, "{name}");
        assert_eq!(alert.labels()["job"], "keepwatch");
        assert_eq!(alert.labels()["instance"], "h");
        assert_eq!(
            alert.runbook_url(),
            format!("{RUNBOOKS}{}", name.to_lowercase())
        );
        assert!(!alert.summary_text().is_empty() && !alert.description_text().is_empty());
        assert!(!alert.summary_text().ends_with('…'), "{name} is cut");
        assert!(!alert.description_text().ends_with('…'), "{name} is cut");
        let expected = NOW.0 - since.unwrap_or(0) as i64;
        assert_eq!(alert.starts().0, expected, "{name}: since");
        // Still at the next look, with the same beginning; then over.
        let told = tells(&is, after(NOW, rule.wait + ms(SECOND)));
        assert_eq!(named(&told, name).map(|a| a.starts().0), Some(expected));
        let told = tells(&is_not, after(NOW, rule.wait + ms(2 * SECOND)));
        let then = after(NOW, rule.wait + ms(2 * SECOND));
        // Its bound may have passed meanwhile.
        let again = stage.wrong(&is_not, &none, then).iter().any(|n| n == name);
        assert!(again || named(&told, name).is_none(), "{name} is over");
        let mut gone = well();
        gone.checks.clear();
        gone.backups.clear();
        gone.repositories.clear();
        gone.keys.clear();
        gone.agent.heartbeat = None;
        let told = tells(&gone, after(NOW, rule.wait + ms(3 * SECOND)));
        assert!(
            named(&told, name).is_none(),
            "{name} is gone with its subject"
        );
    }
}

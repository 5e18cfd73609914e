//! Backups and their drills as metrics: all that is known of each, or, with many of them, what alerts need.
//!
//! A host with a hundred jobs would have 3500 series if each had all, most of them rows that nobody looks at. Beyond
//! [`crate::limits::rows::DETAILED`] backups these are left out:
//!
//! - what follows from others or stands in the catalog: end of the last run, durations of stages, files, how many runs there were, ages of
//!   snapshots, what retention did, counts of drills and what they brought back;
//! - rows that say that nothing is wrong: no run, no unreadable file, no overdue snapshot (alerts compare them with 0 or 1), and when a
//!   backup was first configured, once it has a success (absence of one beside it means never);
//! - reasons of failures: the counter of each backup has one series, from 0 on, with the reason [`ANY`].
//!
//! Whether there are many is a matter of configuration, so no series comes and goes with what happens to be known.

use crate::facts::{At, Backup, BackupReason};
use crate::names::{self as n, Metric};
use crate::text::Page;

use super::{count, flag, secs};

/// The reason of failures of all reasons together.
pub const ANY: &str = "any";

fn each(
    page: &mut Page,
    backups: &[Backup],
    metric: &Metric,
    value: impl Fn(&Backup) -> Option<f64>,
) {
    page.family(metric, |f| {
        for b in backups {
            f.maybe([&b.name, &b.repository], value(b));
        }
    });
}

/// Writes all of them; with `many` what alerts need.
pub fn write(page: &mut Page, backups: &[Backup], many: bool) {
    page.family(&n::BACKUP_INFO, |f| {
        for b in backups {
            f.add([&b.name, &b.repository, &b.source_kind, &b.schedule], 1.0);
        }
    });
    for (metric, value) in NEEDED {
        each(page, backups, metric, *value);
    }
    if many {
        for (metric, value) in WRONG {
            each(page, backups, metric, |b| value(b).filter(|v| *v != 0.0));
        }
        each(page, backups, &n::BACKUP_FIRST_SEEN, awaited);
    } else {
        for (metric, value) in WRONG.iter().chain(DETAILS) {
            each(page, backups, metric, *value);
        }
        each(page, backups, &n::BACKUP_FIRST_SEEN, first_seen);
        page.family(&n::BACKUP_LAST_STAGE_DURATION, |f| {
            for b in backups {
                for (stage, took) in &b.stages {
                    f.add([&b.name, &b.repository, stage.as_str()], secs(*took));
                }
            }
        });
    }
    page.family(&n::BACKUP_FAILURES, |f| {
        for b in backups {
            let names = [b.name.as_str(), b.repository.as_str()];
            if many {
                let times = b.failures.values().sum();
                f.add([names[0], names[1], ANY], count(times));
                continue;
            }
            for reason in BackupReason::ALL {
                let times = b.failures.get(reason).copied().unwrap_or(0);
                f.add([names[0], names[1], reason.as_str()], count(times));
            }
        }
    });
}

type Row = (&'static Metric, fn(&Backup) -> Option<f64>);

/// What alerts look at.
const NEEDED: &[Row] = &[
    (&n::BACKUP_INTERVAL, |b| b.interval.map(secs)),
    (&n::BACKUP_LAST_START, |b| b.last_start.map(At::as_secs_f64)),
    (&n::BACKUP_LAST_SUCCESS, |b| {
        b.last_success.map(At::as_secs_f64)
    }),
    (&n::BACKUP_LAST_SUCCESSFUL, |b| b.last_successful.map(flag)),
    (&n::BACKUP_LAST_DURATION, |b| b.last_duration.map(secs)),
    (&n::BACKUP_EXPECTED_DURATION, |b| {
        b.expected_duration.map(secs)
    }),
    (&n::BACKUP_EXPECTED_SOURCE_SIZE, |b| {
        b.expected_source_size.map(count)
    }),
    (&n::BACKUP_EXPECTED_ADDED_SIZE, |b| {
        b.expected_added_size.map(count)
    }),
    (&n::BACKUP_LAST_SOURCE_SIZE, |b| {
        b.last_source_size.map(count)
    }),
    (&n::BACKUP_LAST_ADDED_SIZE, |b| b.last_added_size.map(count)),
    (&n::BACKUP_SNAPSHOTS, |b| b.snapshots.map(count)),
    (&n::RETENTION_MINIMUM, |b| b.retention.minimum.map(count)),
    (&n::DRILL_LAST_SUCCESS, |b| {
        b.drill.as_ref()?.last_success.map(At::as_secs_f64)
    }),
    (&n::DRILL_LAST_SUCCESSFUL, |b| {
        b.drill.as_ref()?.last_successful.map(flag)
    }),
    (&n::DRILL_LAST_DURATION, |b| {
        b.drill.as_ref()?.last_duration.map(secs)
    }),
    (&n::DRILL_OBJECTIVE, |b| {
        b.drill.as_ref()?.objective.map(secs)
    }),
    (&n::DRILL_INTERVAL, |b| b.drill.as_ref()?.interval.map(secs)),
];

/// What is 0 as long as nothing is wrong or going on.
const WRONG: &[Row] = &[
    (&n::BACKUP_RUNNING, |b| Some(flag(b.running))),
    (&n::BACKUP_LAST_SOURCE_ERRORS, |b| {
        b.last_source_errors.map(count)
    }),
    (&n::RETENTION_OVERDUE, |b| b.retention.overdue.map(count)),
];

/// What no alert looks at.
const DETAILS: &[Row] = &[
    (&n::BACKUP_LAST_COMPLETION, |b| {
        b.last_completion.map(At::as_secs_f64)
    }),
    (&n::BACKUP_LAST_FILES, |b| b.last_files.map(count)),
    (&n::BACKUP_RUNS, |b| Some(count(b.runs))),
    (&n::BACKUP_OLDEST_SNAPSHOT, |b| {
        b.oldest_snapshot.map(At::as_secs_f64)
    }),
    (&n::BACKUP_NEWEST_SNAPSHOT, |b| {
        b.newest_snapshot.map(At::as_secs_f64)
    }),
    (&n::RETENTION_LAST_SUCCESS, |b| {
        b.retention.last_success.map(At::as_secs_f64)
    }),
    (&n::RETENTION_REMOVED, |b| b.retention.removed.map(count)),
    (&n::DRILL_RESTORED_SIZE, |b| {
        b.drill.as_ref()?.restored_size.map(count)
    }),
    (&n::DRILL_RUNS, |b| Some(count(b.drill.as_ref()?.runs))),
    (&n::DRILL_FAILURES, |b| {
        Some(count(b.drill.as_ref()?.failures))
    }),
];

fn first_seen(b: &Backup) -> Option<f64> {
    b.first_seen.map(At::as_secs_f64)
}

/// When it was first configured, as long as something of it never succeeded.
fn awaited(b: &Backup) -> Option<f64> {
    let drilled = b.drill.as_ref().is_none_or(|d| d.last_success.is_some());
    if b.last_success.is_some() && drilled {
        return None;
    }
    first_seen(b)
}

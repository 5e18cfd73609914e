//! What the exporter and `status` want to know of jobs: when each last began, ended and succeeded, how long that took, and
//! what is usual.
//!
//! "Usual" is the median of the last ten successes: computed from history, so that it weighs runs and not time, and needs
//! no long memory elsewhere. A job that never ran has facts, too: when it was first seen, and nothing else.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use keepwatch_model::runs::{RetentionCounts, RunKind, RunRecord};
use keepwatch_model::time::Moment;

use crate::catalog::Catalog;
use crate::counters::{self, Counter};
use crate::fault::CatalogError;
use crate::meter::Operation;
use crate::place::Place;
use crate::runs::{record_of, select_runs};
use crate::sql::{Sql, Tx, instant, values};

/// File systems tell times in steps of up to 2 s. In microseconds.
const STAMP_SETTLES: i64 = 3_000_000;

/// Successes that "usual" is the median of; upkeep never deletes them.
pub const USUAL_OF: usize = 10;

const JOBS: Sql = Sql::both(
    "SELECT job, repository, first_seen FROM jobs WHERE host = $1 AND kind = $2 ORDER BY job, repository LIMIT 10000",
);
const LAST_STARTED: Sql = select_runs!(
    "WHERE host = $1 AND kind = $2 AND job = $3 AND repository = $4 ORDER BY started DESC, id DESC LIMIT 1"
);
const LAST_ENDED: Sql = select_runs!(
    "WHERE host = $1 AND kind = $2 AND job = $3 AND repository = $4 AND rank > 0 ORDER BY started DESC, id DESC LIMIT 1"
);
const SUCCESSES: Sql = select_runs!(
    "WHERE host = $1 AND kind = $2 AND job = $3 AND repository = $4 AND outcome IN ('succeeded', 'partial')
     ORDER BY started DESC, id DESC LIMIT 10"
);
const RUNNING: Sql = Sql::both(
    "SELECT COUNT(*) FROM runs WHERE host = $1 AND rank = 0 AND kind = $2 AND job = $3 AND repository = $4",
);
const LAST_COUNTS: Sql = select_runs!(
    "WHERE host = $1 AND kind IN ('backup', 'forget', 'prune') AND job = $2 AND repository = $3 AND snapshots IS NOT NULL
     ORDER BY started DESC, id DESC LIMIT 1"
);
const LAST_FORGET: Sql = Sql::both(
    "SELECT MAX(finished) FROM runs
     WHERE host = $1 AND kind IN ('forget', 'prune') AND job IN ($2, '') AND repository = $3 AND outcome = 'succeeded'
       AND snapshots IS NOT NULL",
);

/// What changes with every run that begins, ends or is lost, and with every look at a repository; small tables only.
const SIGN: Sql = Sql::both(
    "SELECT (SELECT COUNT(*) FROM runs WHERE host = $1 AND rank = 0),
            (SELECT COALESCE(MAX(at), 0) FROM repositories WHERE host = $1),
            (SELECT COUNT(*) FROM jobs WHERE host = $1),
            (SELECT CAST(COALESCE(SUM(value), 0) AS BIGINT) FROM counters WHERE host = $1 AND name <> $2)",
);

/// Tells whether facts may have changed since they were asked for: then its sign is another one.
///
/// It is a hint for who asks often. Rare things do not change it (a run that was taken for lost and tells its end after all),
/// so facts are to be asked for now and then even so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sign {
    /// Runs that have no end yet.
    pub open: u64,
    seen: i64,
    jobs: u64,
    counted: i64,
}

/// How the files of a SQLite catalog stand: as long as they stay so, nobody has written to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    files: [Option<(i64, u64, u64)>; 2],
    /// Whether the last change is old enough by the host's clock: another one would have another time. Else the stamp tells nothing.
    pub settled: bool,
}

/// The catalog's stamp, by two questions to the file system and none to the database. PostgreSQL has none.
pub fn stamp(catalog: &Catalog, now: Moment) -> Option<Stamp> {
    let Place::Sqlite(path) = catalog.place() else {
        return None;
    };
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    let look = |path: &Path| {
        let meta = std::fs::metadata(path).ok()?;
        let micros = meta.mtime().saturating_mul(1_000_000) + meta.mtime_nsec() / 1000;
        Some((micros, meta.len(), meta.ino()))
    };
    let files = [look(path), look(wal.as_ref())];
    let now = instant(now);
    let is_old = |(changed, ..): &(i64, u64, u64)| now.saturating_sub(*changed) >= STAMP_SETTLES;
    Some(Stamp {
        settled: files[0].is_some() && files.iter().flatten().all(is_old),
        files,
    })
}

/// The present sign of this host's facts.
///
/// # Errors
/// The database is away or refuses.
pub async fn sign(catalog: &Catalog) -> Result<Option<Sign>, CatalogError> {
    let of = values![catalog.host(), counters::STATE_CHANGES];
    let Some(mut row) = catalog.glance(SIGN, &of).await? else {
        return Ok(None);
    };
    let mut read = || {
        Ok::<_, sqlx::Error>(Sign {
            open: row.count()?,
            seen: row.int()?,
            jobs: row.count()?,
            counted: row.int()?,
        })
    };
    Ok(read().ok())
}

/// What is usual for a job: medians of its last successes; `None` where none of them tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usual {
    /// How long it takes.
    pub duration: Option<Duration>,
    /// How much its source holds.
    pub source_bytes: Option<u64>,
    /// How much the repository grows by.
    pub added_bytes: Option<u64>,
}

/// What is known of one job in one repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobFacts {
    /// The kind of its runs.
    pub kind: RunKind,
    /// The job; empty for none.
    pub job: String,
    /// The repository; empty for none.
    pub repository: String,
    /// Since when it is known.
    pub first_seen: Moment,
    /// Runs that have no end yet.
    pub running: u64,
    /// When the last run began.
    pub last_start: Option<Moment>,
    /// The last run that ended.
    pub last_ended: Option<RunRecord>,
    /// The last run that succeeded, partially or wholly.
    pub last_success: Option<RunRecord>,
    /// What is usual.
    pub usual: Usual,
    /// Runs that ended, ever.
    pub runs_total: u64,
    /// Of them failed, by class of the error, ever.
    pub failures_total: Vec<(String, u64)>,
    /// Bytes that were checked, ever.
    pub checked_bytes_total: u64,
    /// Damages that were found, ever.
    pub damages_total: u64,
}

impl JobFacts {
    /// Whether the last run that ended succeeded; `None` before the first.
    pub fn last_successful(&self) -> Option<bool> {
        self.last_ended.as_ref().map(|run| run.outcome.is_success())
    }

    /// When the last run ended.
    pub fn last_completion(&self) -> Option<Moment> {
        self.last_ended.as_ref().and_then(|run| run.finished)
    }

    /// When the last success ended.
    pub fn last_success_at(&self) -> Option<Moment> {
        self.last_success.as_ref().and_then(|run| run.finished)
    }
}

/// What is known of the snapshots of one job in one repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetentionFacts {
    /// The job; empty for none.
    pub job: String,
    /// The repository.
    pub repository: String,
    /// The counts, as a run last found them, and when it began.
    pub counts: Option<(RetentionCounts, Moment)>,
    /// When retention was last applied.
    pub last_applied: Option<Moment>,
    /// Snapshots removed, ever.
    pub removed_total: u64,
}

/// The middle of some numbers: the lower of the two middle ones if they are even, so that it is a value that occurred.
pub fn median<T: Ord + Copy>(mut of: Vec<T>) -> Option<T> {
    of.sort_unstable();
    of.get(of.len().checked_sub(1)? / 2).copied()
}

fn usual(successes: &[RunRecord]) -> Usual {
    let of = |value: &dyn Fn(&RunRecord) -> Option<u64>| {
        median(successes.iter().filter_map(value).collect())
    };
    Usual {
        duration: median(successes.iter().filter_map(|run| run.duration).collect()),
        source_bytes: of(&|run| run.totals.source_bytes),
        added_bytes: of(&|run| run.totals.added_bytes),
    }
}

async fn one(
    tx: &mut Tx,
    sql: Sql,
    of: &[crate::sql::Value],
) -> Result<Option<RunRecord>, sqlx::Error> {
    tx.row(sql, of).await?.map(record_of).transpose()
}

/// The facts of all jobs of one kind on this host, by job and repository.
///
/// # Errors
/// The database is away or refuses.
pub async fn jobs(catalog: &Catalog, kind: RunKind) -> Result<Vec<JobFacts>, CatalogError> {
    let counted = counters::list(catalog).await?;
    let work = async {
        let mut tx = catalog.begin_read().await?;
        let mut out = Vec::new();
        for mut row in tx
            .rows(JOBS, &values![catalog.host(), kind.as_str()])
            .await?
        {
            let (job, repository) = (row.text()?, row.text()?);
            let first_seen = row.moment()?;
            let of = values![catalog.host(), kind.as_str(), &job, &repository];
            let rows = tx.rows(SUCCESSES, &of).await?;
            let successes: Vec<RunRecord> =
                rows.into_iter().map(record_of).collect::<Result<_, _>>()?;
            let mine =
                |c: &&Counter| c.kind == kind.as_str() && c.subject == job && c.place == repository;
            let sum = |name: &str| {
                counted
                    .iter()
                    .filter(mine)
                    .filter(|c| c.name == name)
                    .map(|c| c.value)
                    .sum()
            };
            let failures = counted
                .iter()
                .filter(mine)
                .filter(|c| c.name == counters::RUN_FAILURES);
            out.push(JobFacts {
                kind,
                first_seen,
                running: tx
                    .row(RUNNING, &of)
                    .await?
                    .map_or(Ok(0), |mut row| row.count())?,
                last_start: one(&mut tx, LAST_STARTED, &of)
                    .await?
                    .map(|run| run.started),
                last_ended: one(&mut tx, LAST_ENDED, &of).await?,
                usual: usual(&successes),
                last_success: successes.into_iter().next(),
                runs_total: sum(counters::RUNS),
                failures_total: failures.map(|c| (c.reason.clone(), c.value)).collect(),
                checked_bytes_total: sum(counters::CHECKED_BYTES),
                damages_total: sum(counters::DAMAGES),
                job,
                repository,
            });
        }
        Ok(out)
    };
    catalog.ask(Operation::Read, work).await
}

/// The facts of this host's backups.
///
/// # Errors
/// The database is away or refuses.
pub async fn backup_facts(catalog: &Catalog) -> Result<Vec<JobFacts>, CatalogError> {
    jobs(catalog, RunKind::Backup).await
}

/// The facts of this host's verifications.
///
/// # Errors
/// The database is away or refuses.
pub async fn verification_facts(catalog: &Catalog) -> Result<Vec<JobFacts>, CatalogError> {
    jobs(catalog, RunKind::Verify).await
}

/// The facts of this host's drills.
///
/// # Errors
/// The database is away or refuses.
pub async fn drill_facts(catalog: &Catalog) -> Result<Vec<JobFacts>, CatalogError> {
    jobs(catalog, RunKind::Drill).await
}

/// What is known of the snapshots of this host's backups.
///
/// # Errors
/// The database is away or refuses.
pub async fn retention_facts(catalog: &Catalog) -> Result<Vec<RetentionFacts>, CatalogError> {
    let counted = counters::list(catalog).await?;
    let work = async {
        let mut tx = catalog.begin_read().await?;
        let mut out = Vec::new();
        for mut row in tx
            .rows(JOBS, &values![catalog.host(), RunKind::Backup.as_str()])
            .await?
        {
            let (job, repository) = (row.text()?, row.text()?);
            let of = values![catalog.host(), &job, &repository];
            let counts = one(&mut tx, LAST_COUNTS, &of).await?;
            let applied = tx.row(LAST_FORGET, &of).await?;
            let removed = counted.iter().filter(|c| {
                c.name == counters::REMOVED_SNAPSHOTS && c.subject == job && c.place == repository
            });
            out.push(RetentionFacts {
                counts: counts.and_then(|run| run.retention.map(|counts| (counts, run.started))),
                last_applied: applied.map_or(Ok(None), |mut row| row.moment_opt())?,
                removed_total: removed.map(|c| c.value).sum(),
                job,
                repository,
            });
        }
        Ok(out)
    };
    catalog.ask(Operation::Read, work).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_a_value_that_occurred() {
        assert_eq!(median::<u64>(vec![]), None);
        assert_eq!(median(vec![7]), Some(7));
        assert_eq!(median(vec![9, 1]), Some(1));
        assert_eq!(median(vec![3, 1, 2]), Some(2));
        assert_eq!(median(vec![4, 3, 1, 2]), Some(2));
    }
}

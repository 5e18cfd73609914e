//! The table of runs: how a record becomes a row and a row a record; lists of runs; runs that were lost.

use keepwatch_model::history::Entry;
use keepwatch_model::ids::RunId;
use keepwatch_model::runs::{
    ErrorClass, Process, RetentionCounts, RunError, RunKind, RunOutcome, RunRecord, RunTotals,
    Stage,
};
use keepwatch_model::time::Moment;

use crate::catalog::{Catalog, Recorded};
use crate::counters;
use crate::fault::CatalogError;
use crate::meter::Operation;
use crate::sql::{Row, Sql, Tx, Value, values};

/// Rows that a list returns at most.
pub const LIST_MAX: u32 = 10_000;

macro_rules! select_runs {
    ($rest:literal) => {
        Sql::both(concat!(
            "SELECT id, host, kind, job, repository, cause, attempt, boot, pid, pid_started, started, finished, duration,
             outcome, snapshot, path, files, source_bytes, added_bytes, source_errors, checked_bytes, damages,
             restored_bytes, freed_bytes, snapshots, oldest, newest, overdue, minimum, removed, stages, error_class,
             error_text FROM runs ",
            $rest
        ))
    };
}
pub(crate) use select_runs;

const SAVE: Sql = Sql::both(
    "INSERT INTO runs (id, host, kind, job, repository, cause, attempt, boot, pid, pid_started, started, finished, duration,
       outcome, rank, snapshot, path, files, source_bytes, added_bytes, source_errors, checked_bytes, damages,
       restored_bytes, freed_bytes, snapshots, oldest, newest, overdue, minimum, removed, stages, error_class, error_text)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24,
       $25, $26, $27, $28, $29, $30, $31, $32, $33, $34)
     ON CONFLICT (id) DO UPDATE SET
       host = excluded.host, kind = excluded.kind, job = excluded.job, repository = excluded.repository,
       cause = excluded.cause, attempt = excluded.attempt, boot = excluded.boot, pid = excluded.pid,
       pid_started = excluded.pid_started, started = excluded.started, finished = excluded.finished,
       duration = excluded.duration, outcome = excluded.outcome, rank = excluded.rank, snapshot = excluded.snapshot,
       path = excluded.path, files = excluded.files, source_bytes = excluded.source_bytes,
       added_bytes = excluded.added_bytes, source_errors = excluded.source_errors,
       checked_bytes = excluded.checked_bytes, damages = excluded.damages, restored_bytes = excluded.restored_bytes,
       freed_bytes = excluded.freed_bytes, snapshots = excluded.snapshots, oldest = excluded.oldest,
       newest = excluded.newest, overdue = excluded.overdue, minimum = excluded.minimum, removed = excluded.removed,
       stages = excluded.stages, error_class = excluded.error_class, error_text = excluded.error_text
     WHERE excluded.rank > runs.rank",
);
const RANK: Sql = Sql::split(
    "SELECT rank FROM runs WHERE id = $1",
    "SELECT rank FROM runs WHERE id = $1 FOR UPDATE",
);
const SEEN: Sql = Sql::both(
    "INSERT INTO jobs (host, kind, job, repository, first_seen) VALUES ($1, $2, $3, $4, $5)
     ON CONFLICT (host, kind, job, repository) DO UPDATE SET first_seen = excluded.first_seen
     WHERE excluded.first_seen < jobs.first_seen",
);
const LIST: Sql = select_runs!(
    "WHERE (CAST($1 AS TEXT) IS NULL OR host = $1) AND (CAST($2 AS TEXT) IS NULL OR kind = $2)
       AND (CAST($3 AS TEXT) IS NULL OR job = $3) AND (CAST($4 AS TEXT) IS NULL OR repository = $4)
       AND (CAST($5 AS TEXT) IS NULL OR outcome = $5) AND started >= $6 AND started < $7
     ORDER BY started DESC, id DESC LIMIT $8"
);
const BY_ID: Sql = select_runs!("WHERE id = $1");
const OPEN: Sql = select_runs!("WHERE host = $1 AND rank = 0 ORDER BY started, id LIMIT 1000");
/// A run that is written down afterwards is not added beside one that told of the same snapshot.
const HAS_SNAPSHOT: Sql =
    Sql::both("SELECT COUNT(*) FROM runs WHERE snapshot = $1 AND kind = 'backup' AND host = $2");

/// Which runs are wanted; what is missing does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunFilter {
    /// Of this host; missing: of all that share the catalog.
    pub host: Option<String>,
    /// Of this kind.
    pub kind: Option<RunKind>,
    /// Of this job.
    pub job: Option<String>,
    /// In this repository.
    pub repository: Option<String>,
    /// With this outcome.
    pub outcome: Option<RunOutcome>,
    /// Begun then or later.
    pub since: Option<Moment>,
    /// Begun before.
    pub until: Option<Moment>,
    /// How many at most; 0 and what is above [`LIST_MAX`] means that.
    pub limit: u32,
}

pub(crate) fn limit(wanted: u32) -> i64 {
    i64::from(if wanted == 0 {
        LIST_MAX
    } else {
        wanted.min(LIST_MAX)
    })
}

/// The ends of a time range.
pub(crate) fn range(since: Option<Moment>, until: Option<Moment>) -> (i64, i64) {
    (
        since.map_or(i64::MIN, crate::sql::instant),
        until.map_or(i64::MAX, crate::sql::instant),
    )
}

fn row_of(run: &RunRecord) -> Result<Vec<Value>, sqlx::Error> {
    let stages = (!run.stages.is_empty())
        .then(|| serde_json::to_string(&run.stages))
        .transpose()
        .map_err(|e| sqlx::Error::Encode(e.into()))?;
    let process = run.process.as_ref();
    let (totals, kept, error) = (&run.totals, run.retention.as_ref(), run.error.as_ref());
    Ok(values![
        run.id.to_string(),
        &run.host,
        run.kind.as_str(),
        run.job.as_deref().unwrap_or(""),
        run.repository.as_deref().unwrap_or(""),
        run.trigger.as_str(),
        run.attempt,
        process.map(|p| p.boot.as_str()),
        process.map(|p| p.pid),
        process.map(|p| p.started),
        run.started,
        run.finished,
        run.duration,
        run.outcome.as_str(),
        run.outcome.rank(),
        &run.snapshot,
        &run.path,
        totals.files,
        totals.source_bytes,
        totals.added_bytes,
        totals.source_errors,
        totals.checked_bytes,
        totals.damages,
        totals.restored_bytes,
        totals.freed_bytes,
        kept.map(|r| r.snapshots),
        kept.and_then(|r| r.oldest),
        kept.and_then(|r| r.newest),
        kept.map(|r| r.overdue),
        kept.map(|r| r.minimum),
        kept.map(|r| r.removed),
        stages,
        error.map(|e| e.class.as_str()),
        error.map(|e| e.text.as_str()),
    ]
    .into())
}

pub(crate) fn record_of(mut row: Row) -> Result<RunRecord, sqlx::Error> {
    let row = &mut row;
    Ok(RunRecord {
        id: row.word()?,
        host: row.text()?,
        kind: row.word()?,
        job: row.name()?,
        repository: row.name()?,
        trigger: row.word()?,
        attempt: row.small()?,
        process: {
            let (boot, pid, started) = (row.text_opt()?, row.count_opt()?, row.count_opt()?);
            match (boot, pid.and_then(|p| u32::try_from(p).ok()), started) {
                (Some(boot), Some(pid), Some(started)) => Some(Process { boot, pid, started }),
                _ => None,
            }
        },
        started: row.moment()?,
        finished: row.moment_opt()?,
        duration: row.span_opt()?,
        outcome: row.word()?,
        snapshot: row.text_opt()?,
        path: row.text_opt()?,
        totals: RunTotals {
            files: row.count_opt()?,
            source_bytes: row.count_opt()?,
            added_bytes: row.count_opt()?,
            source_errors: row.count_opt()?,
            checked_bytes: row.count_opt()?,
            damages: row.count_opt()?,
            restored_bytes: row.count_opt()?,
            freed_bytes: row.count_opt()?,
        },
        retention: {
            let (snapshots, oldest, newest) =
                (row.count_opt()?, row.moment_opt()?, row.moment_opt()?);
            let (overdue, minimum, removed) =
                (row.count_opt()?, row.count_opt()?, row.count_opt()?);
            snapshots.map(|snapshots| RetentionCounts {
                snapshots,
                oldest,
                newest,
                overdue: overdue.unwrap_or(0),
                minimum: minimum.unwrap_or(0),
                removed: removed.unwrap_or(0),
            })
        },
        traffic: None,
        stages: match row.text_opt()? {
            Some(json) => serde_json::from_str::<Vec<Stage>>(&json)
                .map_err(|e| sqlx::Error::Decode(e.into()))?,
            None => Vec::new(),
        },
        error: {
            let (class, text) = (row.word_opt::<ErrorClass>()?, row.text_opt()?);
            class.map(|class| RunError {
                class,
                text: text.unwrap_or_default(),
            })
        },
    })
}

/// Stores a run; returns whether that changed anything.
pub(crate) async fn save(tx: &mut Tx, run: &RunRecord) -> Result<bool, sqlx::Error> {
    let id = run.id.to_string();
    let before = match tx.row(RANK, &values![&id]).await? {
        Some(mut row) => Some(row.int()?),
        None => None,
    };
    if tx.execute(SAVE, &row_of(run)?).await? == 0 {
        return Ok(false);
    }
    let (job, repository) = (
        run.job.as_deref().unwrap_or(""),
        run.repository.as_deref().unwrap_or(""),
    );
    tx.execute(
        SEEN,
        &values![&run.host, run.kind.as_str(), job, repository, run.started],
    )
    .await?;
    counters::run(tx, run, before).await?;
    Ok(true)
}

/// Stores a run that is written down from its snapshot, unless the snapshot's own run is known.
pub(crate) async fn save_rebuilt(tx: &mut Tx, run: &RunRecord) -> Result<bool, sqlx::Error> {
    let known = tx
        .row(HAS_SNAPSHOT, &values![&run.snapshot, &run.host])
        .await?;
    let known = known.map_or(Ok(0), |mut row| row.int())?;
    if known > 0 {
        Ok(false)
    } else {
        save(tx, run).await
    }
}

/// Notes that these jobs exist, so that "never ran" can be told from "not configured": kind, job, repository.
///
/// # Errors
/// The database is away or refuses.
pub async fn note_configured(
    catalog: &Catalog,
    jobs: &[(RunKind, &str, &str)],
    now: Moment,
) -> Result<(), CatalogError> {
    let work = async {
        let mut tx = catalog.begin_write().await?;
        for (kind, job, repository) in jobs {
            tx.execute(
                SEEN,
                &values![catalog.host(), kind.as_str(), *job, *repository, now],
            )
            .await?;
        }
        Ok(tx.commit().await?)
    };
    catalog.ask(Operation::Record, work).await
}

/// Runs, the newest first.
///
/// # Errors
/// The database is away or refuses.
pub async fn list(catalog: &Catalog, filter: &RunFilter) -> Result<Vec<RunRecord>, CatalogError> {
    let (since, until) = range(filter.since, filter.until);
    let work = async {
        let mut tx = catalog.begin_read().await?;
        let wanted = values![
            &filter.host,
            filter.kind.map(RunKind::as_str),
            &filter.job,
            &filter.repository,
            filter.outcome.map(RunOutcome::as_str),
            since,
            until,
            limit(filter.limit),
        ];
        let rows = tx.rows(LIST, &wanted).await?;
        Ok(rows.into_iter().map(record_of).collect::<Result<_, _>>()?)
    };
    catalog.ask(Operation::Read, work).await
}

/// One run.
///
/// # Errors
/// The database is away or refuses.
pub async fn get(catalog: &Catalog, id: RunId) -> Result<Option<RunRecord>, CatalogError> {
    let work = async {
        let mut tx = catalog.begin_read().await?;
        let row = tx.row(BY_ID, &values![id.to_string()]).await?;
        Ok(row.map(record_of).transpose()?)
    };
    catalog.ask(Operation::Read, work).await
}

/// Runs of this host that have no end yet (at most 1,000, the oldest first).
///
/// # Errors
/// The database is away or refuses.
pub async fn open(catalog: &Catalog) -> Result<Vec<RunRecord>, CatalogError> {
    let work = async {
        let mut tx = catalog.begin_read().await?;
        let rows = tx.rows(OPEN, &values![catalog.host()]).await?;
        Ok(rows.into_iter().map(record_of).collect::<Result<_, _>>()?)
    };
    catalog.ask(Operation::Read, work).await
}

/// Marks runs of this host as lost that have no end and, by `lives`, no process; returns them. A run that still tells its own
/// end later is believed. Runs of other hosts are never touched.
///
/// # Errors
/// The database is away or refuses. What cannot be marked is marked the next time.
pub async fn reconcile(
    catalog: &Catalog,
    now: Moment,
    lives: impl Fn(&RunRecord) -> bool,
) -> Result<Vec<RunRecord>, CatalogError> {
    let mut lost = Vec::new();
    for mut run in open(catalog).await? {
        if lives(&run) {
            continue;
        }
        run.outcome = RunOutcome::Lost;
        run.finished = Some(now);
        run.error = Some(RunError {
            class: ErrorClass::Killed,
            text: "its process ended without a word: it was killed, or the power failed".to_owned(),
        });
        lost.push(run);
    }
    if !lost.is_empty() {
        let entries = lost
            .iter()
            .map(|run| Entry::Run(Box::new(run.clone())))
            .collect();
        let Recorded {
            lost: unwritten, ..
        } = catalog.record(entries).await;
        if unwritten > 0 {
            lost.clear();
        }
    }
    Ok(lost)
}

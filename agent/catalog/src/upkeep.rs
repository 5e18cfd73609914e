//! Upkeep: rolls up hours, deletes what is past its time, gives space back, checks the file.
//!
//! Everything goes in small transactions, each of which ends within a moment, so that a backup that wants to write down
//! its end never waits for upkeep; a pass stops at its budget and goes on the next time.
//!
//! A clock that jumps must not delete history. So nothing is deleted in a pass whose clock is before the last pass or more
//! than a week after it, nor for a day after that: a wrong clock is noticed within a day, and a host that was off for a
//! month keeps its rows for one day longer.

use std::time::Duration;

use tokio::time::Instant;

use crate::catalog::Catalog;
use crate::database::Pool;
use crate::fault::{CatalogError, Trouble, reason};
use crate::meter::Operation;
use crate::place::Place;
use crate::rolling;
use crate::rollups::{DAY, HOUR, floor};
use crate::sql::{Sql, Tx, instant, values};

/// Rows that one statement deletes; a transaction that has deleted so many ends.
const ROWS: i64 = 1000;
/// A transaction that has rolled up so many hours of checks ends.
const HOURS: u64 = 300;
/// The longest that one transaction may take before it is given up.
const STEP_WAIT: Duration = Duration::from_secs(10);
/// Pages that are given back at once.
const VACUUM: &str = "PRAGMA incremental_vacuum(256)";
/// A jump of the clock that is not believed at once.
const JUMP: i64 = 7 * DAY;

/// When the last pass was.
const UPKEEP_AT: &str = "upkeep_at";
/// Before when nothing is deleted.
const NOT_BEFORE: &str = "delete_not_before";
const META: Sql = Sql::both("SELECT name, value FROM meta WHERE name IN ($1, $2)");
const SET_META: Sql = Sql::both(
    "INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
);
const OLD_RESULTS: Sql = Sql::both(
    "DELETE FROM results WHERE (check_id, at) IN (
       SELECT results.check_id, results.at FROM checks JOIN results ON results.check_id = checks.id
       WHERE checks.host = $1 AND results.at < $2 AND results.at < checks.rolled_to
         AND NOT EXISTS (SELECT 1 FROM stale_hours WHERE stale_hours.check_id = checks.id AND start < $2)
       LIMIT $3)",
);
/// The last change before the bound stays: it says which state held from then on.
const OLD_TRANSITIONS: Sql = Sql::both(
    "DELETE FROM transitions WHERE id IN (
       SELECT t.id FROM checks JOIN transitions AS t ON t.check_id = checks.id
       WHERE checks.host = $1 AND t.at < $2 AND t.at < checks.rolled_to
         AND t.at < (SELECT MAX(at) FROM transitions WHERE check_id = checks.id AND at < $2)
       LIMIT $3)",
);
const OLD_HOURS: Sql = Sql::both(
    "DELETE FROM rollups WHERE span = 'hour' AND (check_id, start) IN (
       SELECT r.check_id, r.start FROM checks JOIN rollups AS r ON r.check_id = checks.id AND r.span = 'hour'
       WHERE checks.host = $1 AND r.start < $2 LIMIT $3)",
);
/// The newest ten successes and the newest ten others of a job stay for ever, and what has no end yet.
const OLD_RUNS: Sql = Sql::both(
    "DELETE FROM runs WHERE id IN (
       SELECT id FROM (
         SELECT id, started, rank, ROW_NUMBER() OVER (
           PARTITION BY kind, job, repository, CASE WHEN outcome IN ('succeeded', 'partial') THEN 1 ELSE 0 END
           ORDER BY started DESC, id DESC) AS place
         FROM runs WHERE host = $1) AS ranked
       WHERE started < $2 AND rank > 0 AND place > 10 ORDER BY started LIMIT $3)",
);
const OLD_INCIDENTS: Sql = Sql::both(
    "DELETE FROM incidents WHERE id IN (
       SELECT id FROM incidents WHERE host = $1 AND closed < $2 ORDER BY closed LIMIT $3)",
);
const OLD_RESTARTS: Sql = Sql::both(
    "DELETE FROM restarts WHERE id IN (SELECT id FROM restarts WHERE host = $1 AND at < $2 ORDER BY at LIMIT $3)",
);
const OLD_NOTIFICATIONS: Sql = Sql::both(
    "DELETE FROM notifications WHERE id IN (
       SELECT id FROM notifications WHERE host = $1 AND state <> 'queued' AND done < $2 ORDER BY done LIMIT $3)",
);
const PATIENCE: &str = "SET LOCAL statement_timeout = 10000";
const SIZE: Sql = Sql::split(
    "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()",
    "SELECT CAST(COALESCE(SUM(pg_total_relation_size(c.oid)), 0) AS BIGINT) FROM pg_catalog.pg_class AS c
     JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace WHERE n.nspname = 'keepwatch' AND c.relkind = 'r'",
);

/// What a pass of upkeep did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Upkeep {
    /// Hours of checks that were rolled up.
    pub hours: u64,
    /// Rows that were deleted.
    pub deleted: u64,
    /// Whether deletion is put off because the clock jumped.
    pub put_off: bool,
    /// Whether the budget ended before the work.
    pub more: bool,
}

/// What a check of the file found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Integrity {
    /// All is well.
    Sound,
    /// Damage; the file is moved aside and a new one begun.
    Damaged(String),
    /// The time ended before the file did; nothing wrong up to there.
    Unfinished,
    /// PostgreSQL looks after itself (data checksums, `pg_amcheck`).
    NotOurs,
}

/// One pass, for no longer than `budget` and the transaction at hand.
///
/// # Errors
/// The database is away or refuses; what was done stays done.
pub async fn maintain(catalog: &Catalog, budget: Duration) -> Result<Upkeep, CatalogError> {
    let end = Instant::now() + budget;
    let mut done = Upkeep::default();
    loop {
        if Instant::now() >= end {
            done.more = true;
            return Ok(done);
        }
        let (hours, more) = step(catalog, roll(catalog, end)).await?;
        done.hours += hours;
        if !more {
            break;
        }
    }
    done.put_off = step(catalog, clock_jumped(catalog)).await?;
    if !done.put_off && !delete_old(catalog, end, &mut done).await? {
        done.more = true;
    }
    let size = step(catalog, give_back(catalog, end)).await?;
    catalog.meter().count(|counts| counts.size = Some(size));
    Ok(done)
}

/// Only measures how large the catalog is.
///
/// # Errors
/// The database is away or refuses.
pub async fn measure(catalog: &Catalog) -> Result<(), CatalogError> {
    let size = step(catalog, size(catalog)).await?;
    catalog.meter().count(|counts| counts.size = Some(size));
    Ok(())
}

async fn step<T>(
    catalog: &Catalog,
    work: impl Future<Output = Result<T, Trouble>>,
) -> Result<T, CatalogError> {
    catalog
        .timed(Operation::Upkeep, STEP_WAIT, true, work)
        .await
}

async fn begin(catalog: &Catalog) -> Result<Tx, Trouble> {
    let mut tx = catalog.begin_write().await?;
    tx.only_postgres(PATIENCE, &[]).await?;
    Ok(tx)
}

/// Rolls up as much as one transaction should; how many hours that were, and whether there may be more.
async fn roll(catalog: &Catalog, end: Instant) -> Result<(u64, bool), Trouble> {
    let mut tx = begin(catalog).await?;
    let now = instant(catalog.now());
    let mut hours = 0;
    let more = loop {
        let round = rolling::round(&mut tx, catalog.host(), now).await?;
        hours += round;
        if round == 0 || hours >= HOURS || Instant::now() >= end {
            break round > 0;
        }
    };
    tx.commit().await?;
    Ok((hours, more))
}

/// Whether the clock is not to be believed yet; notes the time of this pass.
async fn clock_jumped(catalog: &Catalog) -> Result<bool, Trouble> {
    let now = instant(catalog.now());
    let mut tx = begin(catalog).await?;
    let (mut last, mut not_before) = (None, i64::MIN);
    for mut row in tx.rows(META, &values![UPKEEP_AT, NOT_BEFORE]).await? {
        match (row.text()?.as_str(), row.int()?) {
            (UPKEEP_AT, at) => last = Some(at),
            (_, at) => not_before = at,
        }
    }
    if last.is_some_and(|last| now < last || now.saturating_sub(last) > JUMP) {
        not_before = now.saturating_add(DAY);
        tx.execute(SET_META, &values![NOT_BEFORE, not_before])
            .await?;
        tracing::warn!("catalog: the clock jumped or upkeep paused; nothing is deleted for a day");
    }
    tx.execute(SET_META, &values![UPKEEP_AT, now]).await?;
    tx.commit().await?;
    // A bound that lies more than a day ahead is from before the clock was set back.
    Ok(now < not_before && not_before.saturating_sub(now) <= DAY)
}

/// Deletes; `false` if the budget ended first.
async fn delete_old(
    catalog: &Catalog,
    end: Instant,
    done: &mut Upkeep,
) -> Result<bool, CatalogError> {
    let (now, keep) = (instant(catalog.now()), catalog.keep());
    let before = |days: u32| now.saturating_sub(i64::from(days) * DAY);
    let all = [
        (OLD_RESULTS, catalog.horizon()),
        (
            OLD_TRANSITIONS,
            before(keep.runs_days.max(keep.results_days)),
        ),
        (OLD_HOURS, floor(before(keep.hours_days), HOUR)),
        (OLD_RUNS, before(keep.runs_days)),
        (OLD_INCIDENTS, before(keep.runs_days)),
        (OLD_RESTARTS, before(keep.runs_days)),
        (OLD_NOTIFICATIONS, before(keep.results_days)),
    ];
    // As many in one transaction as delete few rows together: mostly there is little to do, and each transaction has its price.
    let mut left = &all[..];
    while !left.is_empty() {
        if Instant::now() >= end {
            return Ok(false);
        }
        let work = async {
            let mut tx = begin(catalog).await?;
            let mut rows = 0;
            while let Some(((sql, bound), others)) = left.split_first() {
                let more = tx
                    .execute(*sql, &values![catalog.host(), *bound, ROWS])
                    .await?;
                rows += more;
                if more < ROWS as u64 {
                    left = others;
                }
                if rows >= ROWS as u64 || Instant::now() >= end {
                    break;
                }
            }
            tx.commit().await?;
            Ok(rows)
        };
        done.deleted += step(catalog, work).await?;
    }
    Ok(true)
}

/// Gives free pages back and shortens the WAL (SQLite); returns the size in bytes.
async fn give_back(catalog: &Catalog, end: Instant) -> Result<u64, Trouble> {
    let database = catalog.database().await?;
    if let Pool::Sqlite(pool) = &database.pool {
        loop {
            let free: i64 = sqlx::query_scalar("PRAGMA freelist_count")
                .fetch_one(pool)
                .await?;
            if free == 0 || Instant::now() >= end {
                break;
            }
            sqlx::query(VACUUM).execute(pool).await?;
            let left: i64 = sqlx::query_scalar("PRAGMA freelist_count")
                .fetch_one(pool)
                .await?;
            if left >= free {
                break; // a file that was made without incremental vacuum
            }
        }
        // A reader at work makes it a partial one; that is as well.
        sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
            .execute(pool)
            .await?;
    }
    size(catalog).await
}

/// Bytes of the catalog, with its WAL.
async fn size(catalog: &Catalog) -> Result<u64, Trouble> {
    let mut tx = catalog.begin_read().await?;
    let bytes = tx
        .row(SIZE, &[])
        .await?
        .map_or(Ok(0), |mut row| row.count())?;
    let wal = match catalog.place() {
        Place::Sqlite(path) => {
            let mut name = path.as_os_str().to_owned();
            name.push("-wal");
            std::fs::metadata(name).map_or(0, |meta| meta.len())
        }
        Place::Postgres(_) => 0,
    };
    Ok(bytes + wal)
}

/// Reads the whole file and its indexes, for no longer than `budget`. Damage moves the file aside and begins a new one.
///
/// # Errors
/// The database is away or refuses.
pub async fn integrity(catalog: &Catalog, budget: Duration) -> Result<Integrity, CatalogError> {
    let end = Instant::now() + budget;
    let work = async {
        let Pool::Sqlite(pool) = catalog.database().await?.pool else {
            return Ok(Integrity::NotOurs);
        };
        let mut connection = pool.acquire().await?.detach();
        // Every so many steps of SQLite's machine, far less than a millisecond.
        connection
            .lock_handle()
            .await?
            .set_progress_handler(10_000, move || Instant::now() < end);
        let found: Result<Vec<String>, sqlx::Error> = sqlx::query_scalar("PRAGMA quick_check(10)")
            .fetch_all(&mut connection)
            .await;
        drop(connection);
        match found {
            Ok(lines) if lines.iter().map(String::as_str).eq(["ok"]) => Ok(Integrity::Sound),
            Ok(lines) => Ok(Integrity::Damaged(crate::fault::one_line(
                &lines.join("; "),
            ))),
            Err(e) if is_interrupt(&e) => Ok(Integrity::Unfinished),
            Err(e) => Err(e.into()),
        }
    };
    let found = match catalog
        .timed(Operation::Integrity, budget + STEP_WAIT, false, work)
        .await
    {
        Err(CatalogError::Damaged { why, .. }) => return Ok(Integrity::Damaged(why)),
        other => other?,
    };
    if let Integrity::Damaged(why) = &found {
        catalog.damaged(why).await;
    }
    Ok(found)
}

fn is_interrupt(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .and_then(|e| e.code())
        .is_some_and(|code| code == "9")
        || reason(error) == "interrupted"
}

//! Rolling up: hours that are over are computed from raw results and changes of state, days from their hours.
//!
//! An hour is always computed whole, so that computing it again changes nothing. A record that arrives after its hour was rolled up
//! marks the hour as stale, and it is rolled up once more. `checks.rolled_to` says until when a check is rolled up.
//!
//! A round takes the next hour of many checks and a fixed number of statements: with SQLite each statement wakes two threads, with
//! PostgreSQL it is a round trip. Which hours they are goes to each statement as one parameter, a list in JSON that the database
//! takes apart (`json_each`, `jsonb_array_elements`), and sums are made by the database, so that an hour of 36,000 results (one
//! in 100 ms) costs no more memory than one of four.

use std::collections::BTreeMap;

use keepwatch_model::checks::{CheckOutcome, CheckState, FailureReason, Overlay};
use serde_json::json;

use crate::rollups::{
    BUCKETS, DAY, HOUR, LATENCY_BOUNDS, Rollup, Span, add_states, floor, joined, of_row,
    rollup_columns,
};
use crate::sql::{Row, Sql, Tx, Value, number, values};

/// How long after its end an hour is left open for what is still on its way.
const GRACE: i64 = 5 * 60 * 1_000_000;
/// Checks whose next hour one round rolls up: about 200 KB for their sums and their days.
const CHECKS: i64 = 100;
/// A latency beyond this counts as this, eleven days: the sum of nine million of them does not overflow.
macro_rules! latency {
    () => {
        "(CASE WHEN latency < 0 THEN 0 WHEN latency > 1000000000000 THEN 1000000000000 ELSE latency END)"
    };
}

/// Recorders take these locks shared, in the same order, before they look how far a check is rolled up. SQLite has one writer.
const LOCK: &str = "SELECT id FROM checks WHERE host = $1 ORDER BY id FOR UPDATE";
/// The next hour of each check that has one: a stale one, or the one of its first record that is not rolled up.
const NEXT: Sql = Sql::both(
    "SELECT id, stale, first_result, first_change FROM (
       SELECT id,
         (SELECT MIN(start) FROM stale_hours WHERE check_id = checks.id AND start < checks.rolled_to) AS stale,
         (SELECT MIN(at) FROM results WHERE check_id = checks.id AND at >= checks.rolled_to) AS first_result,
         (SELECT MIN(at) FROM transitions WHERE check_id = checks.id AND at >= checks.rolled_to) AS first_change
       FROM checks WHERE host = $1) AS upcoming
     WHERE stale IS NOT NULL OR first_result < $2 OR first_change < $2 ORDER BY id LIMIT $3",
);

/// A statement about hours of checks: `$1` is a list of `[check, start of the hour, start of its day]`, the table `due`.
macro_rules! of_due {
    ($($rest:expr),+) => {
        Sql::split(
            concat!(
                "WITH due AS (SELECT CAST(value ->> 0 AS BIGINT) AS id, CAST(value ->> 1 AS BIGINT) AS start,
                   CAST(value ->> 2 AS BIGINT) AS day FROM json_each($1)) ",
                $($rest),+
            ),
            concat!(
                "WITH due AS (SELECT CAST(value ->> 0 AS BIGINT) AS id, CAST(value ->> 1 AS BIGINT) AS start,
                   CAST(value ->> 2 AS BIGINT) AS day FROM jsonb_array_elements(CAST(CAST($1 AS TEXT) AS jsonb)) AS j (value)) ",
                $($rest),+
            ),
        )
    };
}

/// By outcome: how many, the sum and the longest of their latencies, and how many up to each of [`LATENCY_BOUNDS`].
const SUMS: Sql = of_due!(
    "SELECT due.id, outcome, COUNT(*), CAST(SUM",
    latency!(),
    " AS BIGINT), MAX",
    latency!(),
    ", COUNT(CASE WHEN latency <= 5000 THEN 1 END), COUNT(CASE WHEN latency <= 10000 THEN 1 END),
       COUNT(CASE WHEN latency <= 25000 THEN 1 END), COUNT(CASE WHEN latency <= 50000 THEN 1 END),
       COUNT(CASE WHEN latency <= 100000 THEN 1 END), COUNT(CASE WHEN latency <= 250000 THEN 1 END),
       COUNT(CASE WHEN latency <= 500000 THEN 1 END), COUNT(CASE WHEN latency <= 1000000 THEN 1 END),
       COUNT(CASE WHEN latency <= 2500000 THEN 1 END), COUNT(CASE WHEN latency <= 5000000 THEN 1 END),
       COUNT(CASE WHEN latency <= 10000000 THEN 1 END)
     FROM due JOIN results ON check_id = due.id AND at >= due.start AND at < due.start + 3600000000
     GROUP BY due.id, outcome"
);
/// The changes of the hour, and what came last before it.
const CHANGES: Sql = of_due!(
    "SELECT due.id, at, to_state, overlay FROM due JOIN transitions AS t ON check_id = due.id
       AND at >= COALESCE((SELECT MAX(at) FROM transitions WHERE check_id = due.id AND at < due.start), due.start)
       AND at < due.start + 3600000000
     ORDER BY due.id, at, t.id"
);
const HOURS: Sql = of_due!(
    "SELECT due.id, ",
    rollup_columns!(),
    " FROM due JOIN rollups ON check_id = due.id AND span = 'hour'
       AND rollups.start >= due.day AND rollups.start < due.day + 86400000000"
);
/// What was stale stays rolled up as far as it is.
const ROLLED: Sql = of_due!(
    "UPDATE checks SET rolled_to = (SELECT due.start + 3600000000 FROM due WHERE due.id = checks.id)
     WHERE id IN (SELECT due.id FROM due) AND rolled_to <= (SELECT due.start FROM due WHERE due.id = checks.id)"
);
const FRESH: Sql = of_due!(
    "DELETE FROM stale_hours WHERE (check_id, start) IN (SELECT due.id, due.start FROM due)"
);

macro_rules! save_columns {
    () => {
        "INSERT INTO rollups (check_id, span, start, runs, failures, degraded, latency_sum, latency_max, buckets, reasons,
           unknown_us, healthy_us, degraded_us, unhealthy_us, hidden_us)
         SELECT CAST(value ->> 0 AS BIGINT), value ->> 1, CAST(value ->> 2 AS BIGINT), CAST(value ->> 3 AS BIGINT),
           CAST(value ->> 4 AS BIGINT), CAST(value ->> 5 AS BIGINT), CAST(value ->> 6 AS BIGINT), CAST(value ->> 7 AS BIGINT),
           value ->> 8, value ->> 9, CAST(value ->> 10 AS BIGINT), CAST(value ->> 11 AS BIGINT),
           CAST(value ->> 12 AS BIGINT), CAST(value ->> 13 AS BIGINT), CAST(value ->> 14 AS BIGINT) FROM "
    };
}
macro_rules! save_rest {
    () => {
        " WHERE true ON CONFLICT (check_id, span, start) DO UPDATE SET
           runs = excluded.runs, failures = excluded.failures, degraded = excluded.degraded,
           latency_sum = excluded.latency_sum, latency_max = excluded.latency_max, buckets = excluded.buckets,
           reasons = excluded.reasons, unknown_us = excluded.unknown_us, healthy_us = excluded.healthy_us,
           degraded_us = excluded.degraded_us, unhealthy_us = excluded.unhealthy_us, hidden_us = excluded.hidden_us"
    };
}

/// `$1`: a list of `[check, span, start, …]` in the order of the columns.
const SAVE: Sql = Sql::split(
    concat!(save_columns!(), "json_each($1)", save_rest!()),
    concat!(
        save_columns!(),
        "jsonb_array_elements(CAST(CAST($1 AS TEXT) AS jsonb)) AS j (value)",
        save_rest!()
    ),
);

/// Rolls up the next hour of up to [`CHECKS`] checks of a host, if it is over or stale; returns how many hours that were. `now`:
/// microseconds.
pub(crate) async fn round(tx: &mut Tx, host: &str, now: i64) -> Result<u64, sqlx::Error> {
    tx.only_postgres(LOCK, &values![host]).await?;
    let over = floor(now.saturating_sub(GRACE), HOUR);
    let mut due = BTreeMap::new();
    let mut stale = false;
    for mut row in tx.rows(NEXT, &values![host, over, CHECKS]).await? {
        let (check, again) = (row.int()?, row.int_opt()?);
        let firsts = [row.int_opt()?, row.int_opt()?];
        stale |= again.is_some();
        if let Some(start) = again.or_else(|| firsts.into_iter().flatten().min()) {
            due.insert(check, floor(start, HOUR));
        }
    }
    if due.is_empty() {
        return Ok(0);
    }
    let list = list(
        due.iter()
            .map(|(check, start)| json!([check, start, floor(*start, DAY)])),
    );
    let hours = hours(tx, &due, &list).await?;
    save(tx, Span::Hour, &hours).await?;
    let mut days = BTreeMap::<(i64, i64), Rollup>::new();
    for mut row in tx.rows(HOURS, &list).await? {
        let check = row.int()?;
        let (start, hour) = of_row(&mut row)?;
        days.entry((check, floor(start, DAY)))
            .or_default()
            .merge(&hour);
    }
    save(tx, Span::Day, &days).await?;
    tx.execute(ROLLED, &list).await?;
    if stale {
        tx.execute(FRESH, &list).await?;
    }
    Ok(due.len() as u64)
}

fn list(rows: impl Iterator<Item = serde_json::Value>) -> [Value; 1] {
    // Numbers and words of ours: their written form is what it is.
    [Value::Text(Some(
        serde_json::Value::from_iter(rows).to_string(),
    ))]
}

/// Computes hours from the raw, by check and start; those in which nobody watched are not among them.
async fn hours(
    tx: &mut Tx,
    due: &BTreeMap<i64, i64>,
    list: &[Value],
) -> Result<BTreeMap<(i64, i64), Rollup>, sqlx::Error> {
    let mut sums = BTreeMap::<i64, Rollup>::new();
    for mut row in tx.rows(SUMS, list).await? {
        let check = row.int()?;
        sums.entry(check).or_default().merge(&of_sums(&mut row)?);
    }
    let mut changes = BTreeMap::<i64, Vec<(i64, CheckState, bool)>>::new();
    for mut row in tx.rows(CHANGES, list).await? {
        let check = row.int()?;
        changes.entry(check).or_default().push((
            row.int()?,
            row.word()?,
            row.word_opt::<Overlay>()?.is_some(),
        ));
    }
    let mut hours = BTreeMap::new();
    for (check, start) in due {
        let mut hour = sums.remove(check).unwrap_or_default();
        let changes = changes.remove(check).unwrap_or_default();
        if hour.runs > 0 || changes.iter().any(|(at, ..)| at >= start) {
            // Before its first change a check is unknown. What came before the hour takes none of its time.
            add_states(
                &mut hour,
                (*start, *start + HOUR),
                (CheckState::Unknown, false),
                changes,
            );
            hours.insert((*check, *start), hour);
        }
    }
    Ok(hours)
}

/// The results of one outcome, as [`SUMS`] tells them.
fn of_sums(row: &mut Row) -> Result<Rollup, sqlx::Error> {
    let outcome = row.word()?;
    let mut sums = Rollup {
        runs: row.count()?,
        latency_sum: row.count()?,
        latency_max: row.count()?,
        ..Rollup::default()
    };
    let mut below = 0;
    for bucket in &mut sums.buckets[..LATENCY_BOUNDS.len()] {
        let up_to = row.count()?;
        *bucket = up_to.saturating_sub(below);
        below = up_to;
    }
    sums.buckets[BUCKETS - 1] = sums.runs.saturating_sub(below);
    match outcome {
        CheckOutcome::Success => {}
        CheckOutcome::Degraded => sums.degraded = sums.runs,
        CheckOutcome::Failure(reason) => {
            sums.failures = sums.runs;
            if let Some(at) = FailureReason::ALL.iter().position(|r| *r == reason) {
                sums.reasons[at] = sums.runs;
            }
        }
    }
    Ok(sums)
}

/// Stores roll-ups by check and start.
async fn save(
    tx: &mut Tx,
    span: Span,
    rollups: &BTreeMap<(i64, i64), Rollup>,
) -> Result<(), sqlx::Error> {
    if rollups.is_empty() {
        return Ok(());
    }
    let rows = rollups.iter().map(|((check, start), r)| {
        json!([
            check,
            span.as_str(),
            start,
            number(r.runs),
            number(r.failures),
            number(r.degraded),
            number(r.latency_sum),
            number(r.latency_max),
            joined(&r.buckets),
            joined(&r.reasons),
            number(r.unknown_us),
            number(r.healthy_us),
            number(r.degraded_us),
            number(r.unhealthy_us),
            number(r.hidden_us),
        ])
    });
    tx.execute(SAVE, &list(rows)).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_have_the_same_bounds_as_the_table() {
        let found: Vec<u64> = SUMS
            .sqlite
            .split("latency <= ")
            .skip(1)
            .map(|rest| {
                rest.split(' ')
                    .next()
                    .and_then(|n| n.parse().ok())
                    .expect("a number")
            })
            .collect();
        assert_eq!(found, LATENCY_BOUNDS);
        for sql in [SUMS, CHANGES, ROLLED] {
            assert!(sql.sqlite.contains(&format!("start + {HOUR}")));
        }
        assert!(HOURS.sqlite.contains(&format!("due.day + {DAY}")));
    }
}

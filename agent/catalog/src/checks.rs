//! The tables of checks: their names, raw results, changes of state.

use std::collections::{BTreeMap, BTreeSet};

use keepwatch_model::checks::{CheckResult, CheckState, CheckTransition, Overlay};
use keepwatch_model::time::Moment;
use serde_json::{Value, json};

use crate::catalog::Catalog;
use crate::counters::{self, Key};
use crate::fault::CatalogError;
use crate::meter::Operation;
use crate::rollups::{HOUR, floor};
use crate::runs::{limit, range};
use crate::sql::{self, Row, Sql, Tx, instant, span, values};
use crate::text::written;

const CHECK: Sql = Sql::split(
    "SELECT id, rolled_to FROM checks WHERE host = $1 AND name = $2 AND kind = $3",
    "SELECT id, rolled_to FROM checks WHERE host = $1 AND name = $2 AND kind = $3 FOR SHARE",
);
const ADD_CHECK: Sql = Sql::both(
    "INSERT INTO checks (host, name, kind, first_seen, rolled_to) VALUES ($1, $2, $3, $4, $5)
     ON CONFLICT (host, name, kind) DO NOTHING",
);
/// Many names and many results in one statement each: an idle daemon stores some every few seconds, and each statement wakes two threads.
const FIND_CHECKS: Sql = Sql::split(
    "SELECT c.host, c.name, c.kind, c.id, c.rolled_to FROM json_each($1) AS j
     JOIN checks AS c ON c.host = j.value ->> 0 AND c.name = j.value ->> 1 AND c.kind = j.value ->> 2",
    "SELECT c.host, c.name, c.kind, c.id, c.rolled_to FROM jsonb_array_elements(CAST(CAST($1 AS TEXT) AS jsonb)) AS j (value)
     JOIN checks AS c ON c.host = j.value ->> 0 AND c.name = j.value ->> 1 AND c.kind = j.value ->> 2
     ORDER BY c.id FOR SHARE OF c",
);
const ADD_RESULTS: Sql = Sql::split(
    "INSERT INTO results (check_id, at, outcome, latency, text)
     SELECT j.value ->> 0, j.value ->> 1, j.value ->> 2, j.value ->> 3, j.value ->> 4 FROM json_each($1) AS j WHERE true
     ON CONFLICT (check_id, at) DO NOTHING RETURNING check_id, at",
    "INSERT INTO results (check_id, at, outcome, latency, text)
     SELECT CAST(j.value ->> 0 AS BIGINT), CAST(j.value ->> 1 AS BIGINT), j.value ->> 2, CAST(j.value ->> 3 AS BIGINT), j.value ->> 4
     FROM jsonb_array_elements(CAST(CAST($1 AS TEXT) AS jsonb)) AS j (value)
     ON CONFLICT (check_id, at) DO NOTHING RETURNING check_id, at",
);
const ADD_TRANSITION: Sql = Sql::both(
    "INSERT INTO transitions (id, check_id, at, from_state, to_state, overlay, reason, text)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (id) DO NOTHING",
);
const STALE_HOUR: Sql = Sql::both(
    "INSERT INTO stale_hours (check_id, start) VALUES ($1, $2) ON CONFLICT (check_id, start) DO NOTHING",
);
/// A late change of state concerns every hour up to the next change.
const STALE_HOURS: Sql = Sql::both(
    "INSERT INTO stale_hours (check_id, start)
     SELECT check_id, start FROM rollups
     WHERE check_id = $1 AND span = 'hour' AND start >= $2
       AND start <= COALESCE((SELECT MIN(at) FROM transitions WHERE check_id = $1 AND at > $3), $4)
     ON CONFLICT (check_id, start) DO NOTHING",
);
const RESULTS: Sql = Sql::both(
    "SELECT checks.host, checks.name, checks.kind, at, outcome, latency, text
     FROM results JOIN checks ON checks.id = results.check_id
     WHERE checks.host = $1 AND checks.name = $2 AND at >= $3 AND at < $4 ORDER BY at DESC LIMIT $5",
);
const TRANSITIONS: Sql = Sql::both(
    "SELECT transitions.id, checks.host, checks.name, checks.kind, at, from_state, to_state, overlay, reason, text
     FROM transitions JOIN checks ON checks.id = transitions.check_id
     WHERE (CAST($1 AS TEXT) IS NULL OR checks.host = $1) AND (CAST($2 AS TEXT) IS NULL OR checks.name = $2)
       AND at >= $3 AND at < $4 ORDER BY at DESC, transitions.id DESC LIMIT $5",
);
const CHECKS: Sql = Sql::both(
    "SELECT id, host, name, kind, first_seen FROM checks
     WHERE (CAST($1 AS TEXT) IS NULL OR host = $1) ORDER BY host, name, kind LIMIT 10000",
);
/// What hides a state comes and goes without changing since when it holds.
const LAST_TRANSITION: Sql = Sql::both(
    "SELECT COALESCE((SELECT MAX(at) FROM transitions WHERE check_id = $1 AND from_state <> to_state), t.at),
       t.to_state, t.overlay, t.text
     FROM transitions AS t WHERE t.check_id = $1 ORDER BY t.at DESC, t.id DESC LIMIT 1",
);
const LAST_RESULT: Sql = Sql::both(
    "SELECT at, outcome, latency, text FROM results WHERE check_id = $1 ORDER BY at DESC LIMIT 1",
);
const DAYS: Sql = Sql::both(
    "SELECT CAST(COALESCE(SUM(runs), 0) AS BIGINT), CAST(COALESCE(SUM(failures), 0) AS BIGINT)
     FROM rollups WHERE check_id = $1 AND span = 'day'",
);
const UNROLLED: Sql = Sql::both(
    "SELECT COUNT(*), CAST(COALESCE(SUM(CASE WHEN outcome IN ('success', 'degraded') THEN 0 ELSE 1 END), 0) AS BIGINT)
     FROM results WHERE check_id = $1 AND at >= (SELECT rolled_to FROM checks WHERE id = $1)",
);

/// Numbers of checks within one transaction, so that each name is looked up once.
#[derive(Default)]
pub(crate) struct Names {
    known: BTreeMap<(String, String, String), (i64, i64)>,
}

impl Names {
    /// Looks up many at once; those that are not there yet are left to [`Names::find`].
    async fn learn<'a>(
        &mut self,
        tx: &mut Tx,
        of: impl Iterator<Item = (&'a str, &'a str, &'a str)>,
    ) -> Result<(), sqlx::Error> {
        let wanted: BTreeSet<_> = of
            .map(|(host, name, kind)| (host.to_owned(), name.to_owned(), kind.to_owned()))
            .filter(|key| !self.known.contains_key(key))
            .collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let names = wanted
            .iter()
            .map(|(host, name, kind)| json!([written(host), written(name), written(kind)]));
        let names = Value::Array(names.collect()).to_string();
        for mut row in tx
            .rows(FIND_CHECKS, &[sql::Value::Text(Some(names))])
            .await?
        {
            let key = (row.text()?, row.text()?, row.text()?);
            self.known.insert(key, (row.int()?, row.int()?));
        }
        Ok(())
    }

    /// The number of a check, made if need be, and until when it is rolled up.
    async fn find(
        &mut self,
        tx: &mut Tx,
        (host, name, kind): (&str, &str, &str),
        at: i64,
    ) -> Result<(i64, i64), sqlx::Error> {
        let key = (host.to_owned(), name.to_owned(), kind.to_owned());
        if let Some(known) = self.known.get(&key) {
            return Ok(*known);
        }
        let names = values![host, name, kind];
        let mut row = tx.row(CHECK, &names).await?;
        if row.is_none() {
            tx.execute(ADD_CHECK, &values![host, name, kind, at, floor(at, HOUR)])
                .await?;
            row = tx.row(CHECK, &names).await?;
        }
        let mut row = row.ok_or(sqlx::Error::RowNotFound)?;
        let found = (row.int()?, row.int()?);
        self.known.insert(key, found);
        Ok(found)
    }
}

/// Stores results; those before `horizon` are not kept any more: how many they were is returned.
pub(crate) async fn save_results(
    tx: &mut Tx,
    names: &mut Names,
    results: &[&CheckResult],
    horizon: i64,
) -> Result<u64, sqlx::Error> {
    let kept: Vec<_> = results
        .iter()
        .filter(|r| instant(r.at) >= horizon)
        .collect();
    let late = (results.len() - kept.len()) as u64;
    names
        .learn(
            tx,
            kept.iter()
                .map(|r| (r.host.as_str(), r.check.as_str(), r.kind.as_str())),
        )
        .await?;
    let mut rows = Vec::with_capacity(kept.len());
    let mut rolled_to = BTreeMap::new();
    for result in kept {
        let at = instant(result.at);
        let (check, rolled) = names
            .find(tx, (&result.host, &result.check, &result.kind), at)
            .await?;
        rolled_to.insert(check, rolled);
        rows.push(json!([
            check,
            at,
            result.outcome.as_str(),
            span(result.latency),
            result.text.as_deref().map(written)
        ]));
    }
    if rows.is_empty() {
        return Ok(late);
    }
    // Their texts are in written form already.
    let rows = Value::Array(rows).to_string();
    for mut new in tx
        .rows(ADD_RESULTS, &[sql::Value::Text(Some(rows))])
        .await?
    {
        let (check, at) = (new.int()?, new.int()?);
        if rolled_to.get(&check).is_some_and(|rolled| at < *rolled) {
            tx.execute(STALE_HOUR, &values![check, floor(at, HOUR)])
                .await?;
        }
    }
    Ok(late)
}

/// Stores a change of state.
pub(crate) async fn save_transition(
    tx: &mut Tx,
    names: &mut Names,
    change: &CheckTransition,
    horizon: i64,
) -> Result<(), sqlx::Error> {
    let at = instant(change.at);
    let (check, rolled) = names
        .find(tx, (&change.host, &change.check, &change.kind), at)
        .await?;
    let row = values![
        change.id.to_string(),
        check,
        at,
        change.from.as_str(),
        change.to.as_str(),
        change.overlay.map(|o| o.as_str()),
        change.reason.map(|r| r.as_str()),
        &change.text,
    ];
    if tx.execute(ADD_TRANSITION, &row).await? == 0 {
        return Ok(());
    }
    if at < rolled {
        let first = floor(at, HOUR).max(horizon);
        tx.execute(STALE_HOURS, &values![check, first, at, rolled])
            .await?;
        if floor(at, HOUR) >= horizon {
            tx.execute(STALE_HOUR, &values![check, floor(at, HOUR)])
                .await?;
        }
    }
    if change.from != change.to {
        let key = Key {
            kind: &change.kind,
            ..Key::of(&change.host, counters::STATE_CHANGES, &change.check)
        };
        counters::add(tx, key, 1).await?;
    }
    Ok(())
}

fn result_of(mut row: Row) -> Result<CheckResult, sqlx::Error> {
    Ok(CheckResult {
        host: row.text()?,
        check: row.text()?,
        kind: row.text()?,
        at: row.moment()?,
        outcome: row.word()?,
        latency: row.span()?,
        text: row.text_opt()?,
    })
}

fn transition_of(mut row: Row) -> Result<CheckTransition, sqlx::Error> {
    Ok(CheckTransition {
        id: row.word()?,
        host: row.text()?,
        check: row.text()?,
        kind: row.text()?,
        at: row.moment()?,
        from: row.word()?,
        to: row.word()?,
        overlay: row.word_opt()?,
        reason: row.word_opt()?,
        text: row.text_opt()?,
    })
}

/// Raw results of one check, the newest first.
///
/// # Errors
/// The database is away or refuses.
pub async fn results(
    catalog: &Catalog,
    (host, check): (&str, &str),
    since: Option<Moment>,
    until: Option<Moment>,
    at_most: u32,
) -> Result<Vec<CheckResult>, CatalogError> {
    let (since, until) = range(since, until);
    let work = async {
        let mut tx = catalog.begin_read().await?;
        let rows = tx
            .rows(RESULTS, &values![host, check, since, until, limit(at_most)])
            .await?;
        Ok(rows.into_iter().map(result_of).collect::<Result<_, _>>()?)
    };
    catalog.ask(Operation::Read, work).await
}

/// Changes of state, the newest first; `host` and `check` missing: of all.
///
/// # Errors
/// The database is away or refuses.
pub async fn transitions(
    catalog: &Catalog,
    host: Option<&str>,
    check: Option<&str>,
    since: Option<Moment>,
    until: Option<Moment>,
    at_most: u32,
) -> Result<Vec<CheckTransition>, CatalogError> {
    let (since, until) = range(since, until);
    let work = async {
        let mut tx = catalog.begin_read().await?;
        let rows = tx
            .rows(
                TRANSITIONS,
                &values![host, check, since, until, limit(at_most)],
            )
            .await?;
        Ok(rows
            .into_iter()
            .map(transition_of)
            .collect::<Result<_, _>>()?)
    };
    catalog.ask(Operation::Read, work).await
}

/// How a check stands, as far as the catalog was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckNow {
    /// The host.
    pub host: String,
    /// The name.
    pub check: String,
    /// The kind.
    pub kind: String,
    /// Since when it is known.
    pub first_seen: Moment,
    /// The state, what hides it, since when, and what was said then.
    pub state: Option<(CheckState, Option<Overlay>, Moment, Option<String>)>,
    /// The last raw result.
    pub last: Option<CheckResult>,
    /// Runs ever, as far as they are counted: days that are rolled up, and what came after.
    pub runs_total: u64,
    /// Failed runs ever.
    pub failures_total: u64,
}

/// All checks (at most 10,000), by host and name; `host` missing: of all hosts.
///
/// # Errors
/// The database is away or refuses.
pub async fn now(catalog: &Catalog, host: Option<&str>) -> Result<Vec<CheckNow>, CatalogError> {
    let work = async {
        let mut tx = catalog.begin_read().await?;
        let mut out = Vec::new();
        for mut row in tx.rows(CHECKS, &values![host]).await? {
            let id = row.int()?;
            let (host, check, kind) = (row.text()?, row.text()?, row.text()?);
            let state = match tx.row(LAST_TRANSITION, &values![id]).await? {
                Some(mut row) => {
                    let at = row.moment()?;
                    Some((row.word()?, row.word_opt()?, at, row.text_opt()?))
                }
                None => None,
            };
            let last = match tx.row(LAST_RESULT, &values![id]).await? {
                Some(mut row) => Some(CheckResult {
                    host: host.clone(),
                    check: check.clone(),
                    kind: kind.clone(),
                    at: row.moment()?,
                    outcome: row.word()?,
                    latency: row.span()?,
                    text: row.text_opt()?,
                }),
                None => None,
            };
            let (mut runs_total, mut failures_total) = (0, 0);
            for sql in [DAYS, UNROLLED] {
                if let Some(mut row) = tx.row(sql, &values![id]).await? {
                    runs_total += row.count()?;
                    failures_total += row.count()?;
                }
            }
            let first_seen = row.moment()?;
            out.push(CheckNow {
                host,
                check,
                kind,
                first_seen,
                state,
                last,
                runs_total,
                failures_total,
            });
        }
        Ok(out)
    };
    catalog.ask(Operation::Read, work).await
}

//! Counters that only grow: they outlive the process, and the rows that they were counted from.
//!
//! A counter is changed in the transaction that stores what it counts, and only if that transaction changed a row. So a
//! record that arrives twice counts once.

use keepwatch_model::runs::{RunOutcome, RunRecord, Trigger};

use crate::catalog::Catalog;
use crate::fault::CatalogError;
use crate::meter::Operation;
use crate::sql::{Sql, Tx, values};

const ADD: Sql = Sql::both(
    "INSERT INTO counters (host, name, kind, subject, place, reason, value) VALUES ($1, $2, $3, $4, $5, $6, $7)
     ON CONFLICT (host, name, kind, subject, place, reason) DO UPDATE SET value = counters.value + excluded.value",
);
const LIST: Sql = Sql::both(
    "SELECT name, kind, subject, place, reason, value FROM counters WHERE host = $1
     ORDER BY name, kind, subject, place, reason LIMIT 10000",
);

/// Ended runs: kind, job, repository.
pub const RUNS: &str = "runs";
/// Runs that failed or were lost: kind, job, repository, class of the error.
pub const RUN_FAILURES: &str = "run_failures";
/// Bytes that verifications checked.
pub const CHECKED_BYTES: &str = "checked_bytes";
/// Damages that verifications found.
pub const DAMAGES: &str = "damages";
/// Bytes that repositories grew by.
pub const ADDED_BYTES: &str = "added_bytes";
/// Snapshots that were removed.
pub const REMOVED_SNAPSHOTS: &str = "removed_snapshots";
/// Requests to a repository's store: repository, operation.
pub const REQUESTS: &str = "requests";
/// Requests that failed: repository; whether they were made again or given up.
pub const REQUEST_ERRORS: &str = "request_errors";
/// Bytes sent to a repository's store.
pub const SENT_BYTES: &str = "sent_bytes";
/// Bytes received from it.
pub const RECEIVED_BYTES: &str = "received_bytes";
/// Confirmed changes of state: kind and name of the check.
pub const STATE_CHANGES: &str = "state_changes";
/// Incidents opened: subject.
pub const INCIDENTS: &str = "incidents";
/// Restarts that were tried: unit.
pub const RESTARTS: &str = "restarts";
/// Restarts that systemd did not bring about: unit, outcome.
pub const RESTART_FAILURES: &str = "restart_failures";
/// Restarts that were refused: unit, reason.
pub const RESTARTS_SUPPRESSED: &str = "restarts_suppressed";
/// Notifications handed over: sink.
pub const NOTIFICATIONS_SENT: &str = "notifications_sent";
/// Notifications given up: sink.
pub const NOTIFICATIONS_FAILED: &str = "notifications_failed";

/// One counter of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counter {
    /// Which: one of the names of this module.
    pub name: String,
    /// The kind of the run or of the check; else empty.
    pub kind: String,
    /// The job, check, unit or sink; else empty.
    pub subject: String,
    /// The repository; else empty.
    pub place: String,
    /// The reason; else empty.
    pub reason: String,
    /// The count.
    pub value: u64,
}

/// What is counted, without the number.
pub(crate) struct Key<'a> {
    pub host: &'a str,
    pub name: &'static str,
    pub kind: &'a str,
    pub subject: &'a str,
    pub place: &'a str,
    pub reason: &'a str,
}

impl<'a> Key<'a> {
    /// A counter of a host about one thing.
    pub(crate) fn of(host: &'a str, name: &'static str, subject: &'a str) -> Self {
        Self {
            host,
            name,
            kind: "",
            subject,
            place: "",
            reason: "",
        }
    }
}

/// Adds to a counter.
pub(crate) async fn add(tx: &mut Tx, key: Key<'_>, more: u64) -> Result<(), sqlx::Error> {
    let row = values![
        key.host,
        key.name,
        key.kind,
        key.subject,
        key.place,
        key.reason,
        more
    ];
    tx.execute(ADD, &row).await.map(drop)
}

/// Counts a run whose record changed a row; `before` is the rank of the row that was there.
pub(crate) async fn run(
    tx: &mut Tx,
    run: &RunRecord,
    before: Option<i64>,
) -> Result<(), sqlx::Error> {
    if !run.outcome.is_final() || run.trigger == Trigger::Rebuilt {
        return Ok(()); // what is written down afterwards was counted when it happened
    }
    let key = |name, reason| Key {
        host: &run.host,
        name,
        kind: run.kind.as_str(),
        subject: run.job.as_deref().unwrap_or(""),
        place: run.repository.as_deref().unwrap_or(""),
        reason,
    };
    if before.is_none_or(|rank| rank == 0) {
        add(tx, key(RUNS, ""), 1).await?;
        if !run.outcome.is_success() {
            let class = run.error.as_ref().map_or("internal", |e| e.class.as_str());
            let class = if run.outcome == RunOutcome::Lost {
                "killed"
            } else {
                class
            };
            add(tx, key(RUN_FAILURES, class), 1).await?;
        }
    }
    if run.outcome != RunOutcome::Lost {
        for (name, more) in [
            (CHECKED_BYTES, run.totals.checked_bytes),
            (DAMAGES, run.totals.damages),
            (ADDED_BYTES, run.totals.added_bytes),
            (REMOVED_SNAPSHOTS, run.retention.as_ref().map(|r| r.removed)),
        ] {
            if let Some(more) = more.filter(|n| *n > 0) {
                add(tx, key(name, ""), more).await?;
            }
        }
    }
    if let Some(t) = &run.traffic {
        let place = run.repository.as_deref().unwrap_or("");
        for (name, reason, more) in [
            (REQUESTS, "put", t.puts),
            (REQUESTS, "get", t.gets),
            (REQUESTS, "head", t.heads),
            (REQUESTS, "list", t.lists),
            (REQUESTS, "delete", t.deletes),
            (REQUEST_ERRORS, "retried", t.retries),
            (REQUEST_ERRORS, "failed", t.failures),
            (SENT_BYTES, "", t.sent_bytes),
            (RECEIVED_BYTES, "", t.received_bytes),
        ] {
            let key = Key {
                place,
                reason,
                ..Key::of(&run.host, name, "")
            };
            add(tx, key, more).await?;
        }
    }
    Ok(())
}

/// All counters of this host (at most 10,000).
///
/// # Errors
/// The database is away or refuses.
pub async fn list(catalog: &Catalog) -> Result<Vec<Counter>, CatalogError> {
    let work = async {
        let mut tx = catalog.begin_read().await?;
        let mut out = Vec::new();
        for mut row in tx.rows(LIST, &values![catalog.host()]).await? {
            out.push(Counter {
                name: row.text()?,
                kind: row.text()?,
                subject: row.text()?,
                place: row.text()?,
                reason: row.text()?,
                value: row.count()?,
            });
        }
        Ok(out)
    };
    catalog.ask(Operation::Read, work).await
}

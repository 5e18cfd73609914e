//! The tables of incidents, restarts and notifications, and of repositories as places.

use keepwatch_model::ids::IncidentId;
use keepwatch_model::incidents::{
    Incident, NotificationRecord, NotificationState, RestartOutcome, RestartRecord,
};
use keepwatch_model::runs::RepositoryState;
use keepwatch_model::time::Moment;

use crate::catalog::Catalog;
use crate::counters::{self, Key};
use crate::fault::CatalogError;
use crate::meter::Operation;
use crate::runs::{limit, range};
use crate::sql::{Row, Sql, Tx, values};

const SAVE_INCIDENT: Sql = Sql::both(
    "INSERT INTO incidents (id, host, subject, unit, severity, opened, closed, reason, text, rank)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
     ON CONFLICT (id) DO UPDATE SET
       host = excluded.host, subject = excluded.subject, unit = excluded.unit, severity = excluded.severity,
       opened = excluded.opened, closed = excluded.closed, reason = excluded.reason, text = excluded.text,
       rank = excluded.rank
     WHERE excluded.rank > incidents.rank",
);
const HAS_INCIDENT: Sql = Sql::both("SELECT COUNT(*) FROM incidents WHERE id = $1");
const INCIDENTS: Sql = Sql::both(
    "SELECT id, host, subject, unit, severity, opened, closed, reason, text FROM incidents
     WHERE (CAST($1 AS TEXT) IS NULL OR host = $1) AND (CAST($2 AS TEXT) IS NULL OR subject = $2)
       AND ($3 = 0 OR closed IS NULL) AND opened >= $4 AND opened < $5
     ORDER BY opened DESC, id DESC LIMIT $6",
);
const CLOSE_INCIDENT: Sql =
    Sql::both("UPDATE incidents SET closed = $2, rank = 1 WHERE id = $1 AND closed IS NULL");

const SAVE_RESTART: Sql = Sql::both(
    "INSERT INTO restarts (id, host, unit, subject, incident, attempt, at, outcome, refusal, recovered, duration, text, rank)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
     ON CONFLICT (id) DO UPDATE SET
       host = excluded.host, unit = excluded.unit, subject = excluded.subject, incident = excluded.incident,
       attempt = excluded.attempt, at = excluded.at, outcome = excluded.outcome, refusal = excluded.refusal,
       recovered = excluded.recovered, duration = excluded.duration, text = excluded.text, rank = excluded.rank
     WHERE excluded.rank > restarts.rank",
);
const RESTART_RANK: Sql = Sql::split(
    "SELECT rank FROM restarts WHERE id = $1",
    "SELECT rank FROM restarts WHERE id = $1 FOR UPDATE",
);
const RESTARTS: Sql = Sql::both(
    "SELECT id, host, unit, subject, incident, attempt, at, outcome, refusal, recovered, duration, text FROM restarts
     WHERE (CAST($1 AS TEXT) IS NULL OR host = $1) AND (CAST($2 AS TEXT) IS NULL OR unit = $2)
       AND (CAST($3 AS TEXT) IS NULL OR incident = $3) AND at >= $4 AND at < $5
     ORDER BY at DESC, id DESC LIMIT $6",
);

const SAVE_NOTIFICATION: Sql = Sql::both(
    "INSERT INTO notifications (id, host, sink, topic, body, created, due, attempts, state, done, error, rank)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
     ON CONFLICT (id) DO UPDATE SET
       host = excluded.host, sink = excluded.sink, topic = excluded.topic, body = excluded.body,
       created = excluded.created, due = excluded.due, attempts = excluded.attempts, state = excluded.state,
       done = excluded.done, error = excluded.error, rank = excluded.rank
     WHERE excluded.rank > notifications.rank",
);
const DUE: Sql = Sql::both(
    "SELECT id, host, sink, topic, body, created, due, attempts, state, done, error FROM notifications
     WHERE host = $1 AND state = 'queued' AND due <= $2 ORDER BY due, id LIMIT $3",
);
const NOTIFICATIONS: Sql = Sql::both(
    "SELECT id, host, sink, topic, body, created, due, attempts, state, done, error FROM notifications
     WHERE (CAST($1 AS TEXT) IS NULL OR host = $1) AND (CAST($2 AS TEXT) IS NULL OR state = $2)
       AND created >= $3 AND created < $4
     ORDER BY created DESC, id DESC LIMIT $5",
);

const SAVE_REPOSITORY: Sql = Sql::both(
    "INSERT INTO repositories (host, name, at, first_seen, reachable, size, available, capacity, wal)
     VALUES ($1, $2, $3, $3, $4, $5, $6, $7, $8)
     ON CONFLICT (host, name) DO UPDATE SET
       at = excluded.at, reachable = excluded.reachable, size = COALESCE(excluded.size, repositories.size),
       available = COALESCE(excluded.available, repositories.available),
       capacity = COALESCE(excluded.capacity, repositories.capacity), wal = COALESCE(excluded.wal, repositories.wal)
     WHERE excluded.at > repositories.at",
);
const REPOSITORIES: Sql = Sql::both(
    "SELECT host, name, at, reachable, size, available, capacity, wal, first_seen FROM repositories
     WHERE (CAST($1 AS TEXT) IS NULL OR host = $1) ORDER BY host, name LIMIT 10000",
);

/// Which incidents or restarts are wanted; what is missing does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Of this host; missing: of all that share the catalog.
    pub host: Option<String>,
    /// About this check or job (incidents), or of this unit (restarts).
    pub subject: Option<String>,
    /// Only incidents that are open.
    pub only_open: bool,
    /// Only restarts of this incident.
    pub incident: Option<IncidentId>,
    /// Then or later.
    pub since: Option<Moment>,
    /// Before.
    pub until: Option<Moment>,
    /// How many at most; 0: as many as a list can have.
    pub limit: u32,
}

pub(crate) async fn save_incident(tx: &mut Tx, incident: &Incident) -> Result<bool, sqlx::Error> {
    let id = incident.id.to_string();
    let known = tx
        .row(HAS_INCIDENT, &values![&id])
        .await?
        .map_or(Ok(0), |mut row| row.int())?;
    let changed = tx
        .execute(
            SAVE_INCIDENT,
            &values![
                &id,
                &incident.host,
                &incident.subject,
                &incident.unit,
                incident.severity.as_str(),
                incident.opened,
                incident.closed,
                incident.reason.map(|r| r.as_str()),
                &incident.text,
                incident.rank(),
            ],
        )
        .await?;
    if changed > 0 && known == 0 {
        counters::add(
            tx,
            Key::of(&incident.host, counters::INCIDENTS, &incident.subject),
            1,
        )
        .await?;
    }
    Ok(changed > 0)
}

fn incident_of(mut row: Row) -> Result<Incident, sqlx::Error> {
    Ok(Incident {
        id: row.word()?,
        host: row.text()?,
        subject: row.text()?,
        unit: row.text_opt()?,
        severity: row.word()?,
        opened: row.moment()?,
        closed: row.moment_opt()?,
        reason: row.word_opt()?,
        text: row.text_opt()?,
    })
}

/// Incidents, the newest first.
///
/// # Errors
/// The database is away or refuses.
pub async fn incidents(
    catalog: &Catalog,
    filter: &EventFilter,
) -> Result<Vec<Incident>, CatalogError> {
    let (since, until) = range(filter.since, filter.until);
    let work = async {
        let mut tx = catalog.begin_read().await?;
        let wanted = values![
            &filter.host,
            &filter.subject,
            filter.only_open,
            since,
            until,
            limit(filter.limit)
        ];
        let rows = tx.rows(INCIDENTS, &wanted).await?;
        Ok(rows
            .into_iter()
            .map(incident_of)
            .collect::<Result<_, _>>()?)
    };
    catalog.ask(Operation::Read, work).await
}

/// Closes an incident; whether it was open.
///
/// # Errors
/// The database is away or refuses. To close one that must not be forgotten, record it whole with its end.
pub async fn close_incident(
    catalog: &Catalog,
    id: IncidentId,
    at: Moment,
) -> Result<bool, CatalogError> {
    let work = async {
        let mut tx = catalog.begin_write().await?;
        let changed = tx
            .execute(CLOSE_INCIDENT, &values![id.to_string(), at])
            .await?;
        tx.commit().await?;
        Ok(changed > 0)
    };
    catalog.ask(Operation::Record, work).await
}

pub(crate) async fn save_restart(
    tx: &mut Tx,
    restart: &RestartRecord,
) -> Result<bool, sqlx::Error> {
    let id = restart.id.to_string();
    let before = match tx.row(RESTART_RANK, &values![&id]).await? {
        Some(mut row) => row.int()?,
        None => -1,
    };
    let changed = tx
        .execute(
            SAVE_RESTART,
            &values![
                &id,
                &restart.host,
                &restart.unit,
                &restart.check,
                restart.incident.map(|i| i.to_string()),
                restart.attempt,
                restart.at,
                restart.outcome.as_str(),
                restart.refusal.map(|r| r.as_str()),
                restart.recovered,
                restart.duration,
                &restart.text,
                restart.rank(),
            ],
        )
        .await?;
    if changed == 0 {
        return Ok(false);
    }
    let key = |name, reason| Key {
        reason,
        ..Key::of(&restart.host, name, &restart.unit)
    };
    // Tried: counted when first heard of. What came of it: counted when first known.
    let tried = !matches!(
        restart.outcome,
        RestartOutcome::Refused | RestartOutcome::GaveUp | RestartOutcome::Reset
    );
    if tried && before < 0 {
        counters::add(tx, key(counters::RESTARTS, ""), 1).await?;
    }
    if before < 1 {
        match restart.outcome {
            RestartOutcome::Refused => {
                let why = restart.refusal.map_or("", |r| r.as_str());
                counters::add(tx, key(counters::RESTARTS_SUPPRESSED, why), 1).await?;
            }
            RestartOutcome::Failed
            | RestartOutcome::Timeout
            | RestartOutcome::Dependency
            | RestartOutcome::Canceled => {
                counters::add(
                    tx,
                    key(counters::RESTART_FAILURES, restart.outcome.as_str()),
                    1,
                )
                .await?;
            }
            RestartOutcome::Asked
            | RestartOutcome::Done
            | RestartOutcome::GaveUp
            | RestartOutcome::Reset => {}
        }
    }
    Ok(true)
}

fn restart_of(mut row: Row) -> Result<RestartRecord, sqlx::Error> {
    Ok(RestartRecord {
        id: row.word()?,
        host: row.text()?,
        unit: row.text()?,
        check: row.text_opt()?,
        incident: row.word_opt()?,
        attempt: row.small()?,
        at: row.moment()?,
        outcome: row.word()?,
        refusal: row.word_opt()?,
        recovered: row.int_opt()?.map(|n| n != 0),
        duration: row.span_opt()?,
        text: row.text_opt()?,
    })
}

/// Restarts, the newest first.
///
/// # Errors
/// The database is away or refuses.
pub async fn restarts(
    catalog: &Catalog,
    filter: &EventFilter,
) -> Result<Vec<RestartRecord>, CatalogError> {
    let (since, until) = range(filter.since, filter.until);
    let work = async {
        let mut tx = catalog.begin_read().await?;
        let wanted = values![
            &filter.host,
            &filter.subject,
            filter.incident.map(|i| i.to_string()),
            since,
            until,
            limit(filter.limit),
        ];
        let rows = tx.rows(RESTARTS, &wanted).await?;
        Ok(rows.into_iter().map(restart_of).collect::<Result<_, _>>()?)
    };
    catalog.ask(Operation::Read, work).await
}

pub(crate) async fn save_notification(
    tx: &mut Tx,
    message: &NotificationRecord,
) -> Result<bool, sqlx::Error> {
    let changed = tx
        .execute(
            SAVE_NOTIFICATION,
            &values![
                message.id.to_string(),
                &message.host,
                &message.sink,
                &message.topic,
                &message.body,
                message.created,
                message.due,
                message.attempts,
                message.state.as_str(),
                message.done,
                &message.error,
                message.rank(),
            ],
        )
        .await?;
    let name = match message.state {
        _ if changed == 0 => return Ok(false),
        NotificationState::Queued => return Ok(true),
        NotificationState::Sent => counters::NOTIFICATIONS_SENT,
        NotificationState::Failed => counters::NOTIFICATIONS_FAILED,
    };
    counters::add(tx, Key::of(&message.host, name, &message.sink), 1).await?;
    Ok(true)
}

fn notification_of(mut row: Row) -> Result<NotificationRecord, sqlx::Error> {
    Ok(NotificationRecord {
        id: row.word()?,
        host: row.text()?,
        sink: row.text()?,
        topic: row.text()?,
        body: row.text()?,
        created: row.moment()?,
        due: row.moment()?,
        attempts: row.small()?,
        state: row.word()?,
        done: row.moment_opt()?,
        error: row.text_opt()?,
    })
}

/// Notifications of this host that are to be sent now, the longest due first. What came of each is recorded by recording it
/// whole again.
///
/// # Errors
/// The database is away or refuses.
pub async fn notifications_due(
    catalog: &Catalog,
    now: Moment,
    at_most: u32,
) -> Result<Vec<NotificationRecord>, CatalogError> {
    let work = async {
        let mut tx = catalog.begin_read().await?;
        let rows = tx
            .rows(DUE, &values![catalog.host(), now, limit(at_most)])
            .await?;
        Ok(rows
            .into_iter()
            .map(notification_of)
            .collect::<Result<_, _>>()?)
    };
    catalog.ask(Operation::Read, work).await
}

/// Notifications, the newest first; `state` missing: in any.
///
/// # Errors
/// The database is away or refuses.
pub async fn notifications(
    catalog: &Catalog,
    filter: &EventFilter,
    state: Option<NotificationState>,
) -> Result<Vec<NotificationRecord>, CatalogError> {
    let (since, until) = range(filter.since, filter.until);
    let work = async {
        let mut tx = catalog.begin_read().await?;
        let wanted = values![
            &filter.host,
            state.map(NotificationState::as_str),
            since,
            until,
            limit(filter.limit)
        ];
        let rows = tx.rows(NOTIFICATIONS, &wanted).await?;
        Ok(rows
            .into_iter()
            .map(notification_of)
            .collect::<Result<_, _>>()?)
    };
    catalog.ask(Operation::Read, work).await
}

pub(crate) async fn save_repository(
    tx: &mut Tx,
    state: &RepositoryState,
) -> Result<bool, sqlx::Error> {
    let row = values![
        &state.host,
        &state.repository,
        state.at,
        state.reachable,
        state.size_bytes,
        state.available_bytes,
        state.capacity_bytes,
        state
            .wal
            .as_ref()
            .and_then(|w| serde_json::to_string(w).ok()),
    ];
    Ok(tx.execute(SAVE_REPOSITORY, &row).await? > 0)
}

/// What was last seen of each repository, with when it was first seen; `host` missing: by all hosts.
///
/// # Errors
/// The database is away or refuses.
pub async fn repositories(
    catalog: &Catalog,
    host: Option<&str>,
) -> Result<Vec<(RepositoryState, Moment)>, CatalogError> {
    let work = async {
        let mut tx = catalog.begin_read().await?;
        let mut out = Vec::new();
        for mut row in tx.rows(REPOSITORIES, &values![host]).await? {
            let state = RepositoryState {
                host: row.text()?,
                repository: row.text()?,
                at: row.moment()?,
                reachable: row.int()? != 0,
                size_bytes: row.count_opt()?,
                available_bytes: row.count_opt()?,
                capacity_bytes: row.count_opt()?,
                // What a later version wrote in a form that is not understood is not known.
                wal: row.text_opt()?.and_then(|w| serde_json::from_str(&w).ok()),
            };
            out.push((state, row.moment()?));
        }
        Ok(out)
    };
    catalog.ask(Operation::Read, work).await
}

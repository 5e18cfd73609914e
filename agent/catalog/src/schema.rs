//! The tables, and how they came to be: migrations, forward only, one after another.
//!
//! A migration that has been released is never edited; a change is a new one at the end. Each runs in one transaction
//! together with its row in `schema_version`, so that a crash leaves the version before or the one after, never half
//! (both databases undo changes of tables with their transaction).
//!
//! Common to all tables: times are microseconds since 1970 in UTC, durations are microseconds, ids and words are texts, truths
//! are 0 and 1, and an empty `job` or `repository` means none. `rank` tells which of two writings of one record is the later.

use crate::sql::Sql;

/// One step from a version to the next.
pub(crate) struct Migration {
    /// The version that it makes.
    pub version: i64,
    /// What it does, for people.
    pub name: &'static str,
    /// Its statements, in order.
    pub steps: &'static [Sql],
}

/// All migrations, from an empty database on.
pub(crate) const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        name: "the first tables",
        steps: FIRST,
    },
    Migration {
        version: 2,
        name: "PostgreSQL's log in repositories",
        steps: WAL,
    },
];

/// What a verification found of the logs in a repository: a list in JSON, read and written as a whole.
const WAL: &[Sql] = &[Sql::both("ALTER TABLE repositories ADD COLUMN wal TEXT")];

const FIRST: &[Sql] = &[
    // What exists, from the first time that it was named: the exporter walks these, not all runs.
    Sql::both(
        "CREATE TABLE jobs (
            host TEXT NOT NULL, kind TEXT NOT NULL, job TEXT NOT NULL, repository TEXT NOT NULL,
            first_seen BIGINT NOT NULL,
            PRIMARY KEY (host, kind, job, repository))",
    ),
    Sql::both(
        "CREATE TABLE runs (
            id TEXT NOT NULL PRIMARY KEY,
            host TEXT NOT NULL, kind TEXT NOT NULL, job TEXT NOT NULL, repository TEXT NOT NULL,
            cause TEXT NOT NULL, attempt BIGINT NOT NULL,
            boot TEXT, pid BIGINT, pid_started BIGINT,
            started BIGINT NOT NULL, finished BIGINT, duration BIGINT,
            outcome TEXT NOT NULL, rank BIGINT NOT NULL,
            snapshot TEXT, path TEXT,
            files BIGINT, source_bytes BIGINT, added_bytes BIGINT, source_errors BIGINT,
            checked_bytes BIGINT, damages BIGINT, restored_bytes BIGINT, freed_bytes BIGINT,
            snapshots BIGINT, oldest BIGINT, newest BIGINT, overdue BIGINT, minimum BIGINT, removed BIGINT,
            stages TEXT, error_class TEXT, error_text TEXT)",
    ),
    Sql::both("CREATE INDEX runs_by_time ON runs (started, id)"),
    Sql::both("CREATE INDEX runs_by_job ON runs (host, kind, job, repository, started, id)"),
    Sql::both("CREATE INDEX runs_by_snapshot ON runs (snapshot) WHERE snapshot IS NOT NULL"),
    Sql::both("CREATE INDEX runs_open ON runs (host) WHERE rank = 0"),
    // Names stand once; millions of results name them by number. `rolled_to`: raw results before it are in the roll-ups.
    Sql::split(
        "CREATE TABLE checks (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            host TEXT NOT NULL, name TEXT NOT NULL, kind TEXT NOT NULL,
            first_seen BIGINT NOT NULL, rolled_to BIGINT NOT NULL,
            UNIQUE (host, name, kind))",
        "CREATE TABLE checks (
            id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            host TEXT NOT NULL, name TEXT NOT NULL, kind TEXT NOT NULL,
            first_seen BIGINT NOT NULL, rolled_to BIGINT NOT NULL,
            UNIQUE (host, name, kind))",
    ),
    Sql::split(
        "CREATE TABLE results (
            check_id BIGINT NOT NULL REFERENCES checks (id), at BIGINT NOT NULL,
            outcome TEXT NOT NULL, latency BIGINT NOT NULL, text TEXT,
            PRIMARY KEY (check_id, at)) WITHOUT ROWID",
        "CREATE TABLE results (
            check_id BIGINT NOT NULL REFERENCES checks (id), at BIGINT NOT NULL,
            outcome TEXT NOT NULL, latency BIGINT NOT NULL, text TEXT,
            PRIMARY KEY (check_id, at))",
    ),
    Sql::both(
        "CREATE TABLE transitions (
            id TEXT NOT NULL PRIMARY KEY,
            check_id BIGINT NOT NULL REFERENCES checks (id), at BIGINT NOT NULL,
            from_state TEXT NOT NULL, to_state TEXT NOT NULL, overlay TEXT, reason TEXT, text TEXT)",
    ),
    Sql::both("CREATE INDEX transitions_by_check ON transitions (check_id, at, id)"),
    // `span` is hour or day, both of UTC; `buckets` and `reasons` are numbers with commas between them, in a fixed order.
    Sql::split(
        "CREATE TABLE rollups (
            check_id BIGINT NOT NULL REFERENCES checks (id), span TEXT NOT NULL, start BIGINT NOT NULL,
            runs BIGINT NOT NULL, failures BIGINT NOT NULL, degraded BIGINT NOT NULL,
            latency_sum BIGINT NOT NULL, latency_max BIGINT NOT NULL, buckets TEXT NOT NULL, reasons TEXT NOT NULL,
            unknown_us BIGINT NOT NULL, healthy_us BIGINT NOT NULL, degraded_us BIGINT NOT NULL,
            unhealthy_us BIGINT NOT NULL, hidden_us BIGINT NOT NULL,
            PRIMARY KEY (check_id, span, start)) WITHOUT ROWID",
        "CREATE TABLE rollups (
            check_id BIGINT NOT NULL REFERENCES checks (id), span TEXT NOT NULL, start BIGINT NOT NULL,
            runs BIGINT NOT NULL, failures BIGINT NOT NULL, degraded BIGINT NOT NULL,
            latency_sum BIGINT NOT NULL, latency_max BIGINT NOT NULL, buckets TEXT NOT NULL, reasons TEXT NOT NULL,
            unknown_us BIGINT NOT NULL, healthy_us BIGINT NOT NULL, degraded_us BIGINT NOT NULL,
            unhealthy_us BIGINT NOT NULL, hidden_us BIGINT NOT NULL,
            PRIMARY KEY (check_id, span, start))",
    ),
    // Hours that a late record belongs to, to be rolled up once more.
    Sql::both(
        "CREATE TABLE stale_hours (
            check_id BIGINT NOT NULL REFERENCES checks (id), start BIGINT NOT NULL,
            PRIMARY KEY (check_id, start))",
    ),
    Sql::both(
        "CREATE TABLE incidents (
            id TEXT NOT NULL PRIMARY KEY,
            host TEXT NOT NULL, subject TEXT NOT NULL, unit TEXT, severity TEXT NOT NULL,
            opened BIGINT NOT NULL, closed BIGINT, reason TEXT, text TEXT, rank BIGINT NOT NULL)",
    ),
    Sql::both("CREATE INDEX incidents_by_time ON incidents (opened, id)"),
    Sql::both(
        "CREATE TABLE restarts (
            id TEXT NOT NULL PRIMARY KEY,
            host TEXT NOT NULL, unit TEXT NOT NULL, subject TEXT, incident TEXT, attempt BIGINT NOT NULL,
            at BIGINT NOT NULL, outcome TEXT NOT NULL, refusal TEXT, recovered BIGINT, duration BIGINT,
            text TEXT, rank BIGINT NOT NULL)",
    ),
    Sql::both("CREATE INDEX restarts_by_time ON restarts (at, id)"),
    Sql::both(
        "CREATE TABLE notifications (
            id TEXT NOT NULL PRIMARY KEY,
            host TEXT NOT NULL, sink TEXT NOT NULL, topic TEXT NOT NULL, body TEXT NOT NULL,
            created BIGINT NOT NULL, due BIGINT NOT NULL, attempts BIGINT NOT NULL, state TEXT NOT NULL,
            done BIGINT, error TEXT, rank BIGINT NOT NULL)",
    ),
    Sql::both("CREATE INDEX notifications_queue ON notifications (host, state, due, id)"),
    Sql::both(
        "CREATE TABLE repositories (
            host TEXT NOT NULL, name TEXT NOT NULL, at BIGINT NOT NULL, first_seen BIGINT NOT NULL,
            reachable BIGINT NOT NULL, size BIGINT, available BIGINT, capacity BIGINT,
            PRIMARY KEY (host, name))",
    ),
    // They only grow, and outlive the rows that they were counted from.
    Sql::both(
        "CREATE TABLE counters (
            host TEXT NOT NULL, name TEXT NOT NULL, kind TEXT NOT NULL, subject TEXT NOT NULL,
            place TEXT NOT NULL, reason TEXT NOT NULL, value BIGINT NOT NULL,
            PRIMARY KEY (host, name, kind, subject, place, reason))",
    ),
    // What parts of the agent want to find again after a restart, in a form of their own.
    Sql::both(
        "CREATE TABLE states (
            host TEXT NOT NULL, name TEXT NOT NULL, at BIGINT NOT NULL, body TEXT NOT NULL,
            PRIMARY KEY (host, name))",
    ),
    Sql::both("CREATE TABLE meta (name TEXT NOT NULL PRIMARY KEY, value BIGINT NOT NULL)"),
];

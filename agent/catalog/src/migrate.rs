//! Brings a database's tables to the version that this program knows.
//!
//! The version is read before anything is written: a newer one is refused, and so is a database with tables of somebody
//! else. Migrations run under a lock that the database drops by itself when the process dies: an immediate transaction in
//! SQLite, an advisory lock of the transaction in PostgreSQL. Whoever waited for it reads the version once more.

use crate::database::Pool;
use crate::fault::Trouble;
use crate::schema::Migration;
use crate::sql::{Sql, Tx, values};

/// The number of our advisory lock: "keepwatc" in ASCII.
const LOCK: Sql = Sql::split(
    "SELECT 1",
    "SELECT pg_advisory_xact_lock(7738144525137081443)",
);
/// Statements of a migration may take long; the lock is waited for, but not for ever.
const PATIENCE: Sql = Sql::split(
    "SELECT 1",
    "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '30s'",
);
const HAS_VERSIONS: Sql = Sql::split(
    "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name = 'schema_version'",
    "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = 'keepwatch' AND table_name = 'schema_version'",
);
const HAS_TABLES: Sql = Sql::split(
    "SELECT COUNT(*) FROM sqlite_master",
    "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = 'keepwatch'",
);
const HAS_SCHEMA: Sql = Sql::split(
    "SELECT 1",
    "SELECT COUNT(*) FROM pg_catalog.pg_namespace WHERE nspname = 'keepwatch'",
);
const CREATE_SCHEMA: Sql = Sql::split("SELECT 1", "CREATE SCHEMA keepwatch");
const CREATE_VERSIONS: Sql = Sql::both(
    "CREATE TABLE schema_version (version BIGINT NOT NULL PRIMARY KEY, name TEXT NOT NULL, applied BIGINT NOT NULL)",
);
const VERSION: Sql = Sql::both("SELECT MAX(version) FROM schema_version");
const ADD_VERSION: Sql =
    Sql::both("INSERT INTO schema_version (version, name, applied) VALUES ($1, $2, $3)");

/// What a database holds before anything is written to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing.
    Empty,
    /// Our tables, of this version.
    Version(i64),
    /// Somebody else's tables.
    Foreign,
}

/// Reads the version and writes nothing.
pub(crate) async fn found(tx: &mut Tx) -> Result<Found, sqlx::Error> {
    // In this order: PostgreSQL shows each statement what was committed before it, and another process may commit its
    // migration between two of them. Whoever sees tables first and then no versions does not see ours.
    if count(tx, HAS_TABLES).await? == 0 {
        return Ok(Found::Empty);
    }
    if count(tx, HAS_VERSIONS).await? == 0 {
        return Ok(Found::Foreign);
    }
    Ok(version(tx).await?.map_or(Found::Empty, Found::Version))
}

async fn count(tx: &mut Tx, sql: Sql) -> Result<i64, sqlx::Error> {
    tx.row(sql, &[]).await?.map_or(Ok(0), |mut row| row.int())
}

/// The version of our tables.
pub(crate) async fn version(tx: &mut Tx) -> Result<Option<i64>, sqlx::Error> {
    tx.row(VERSION, &[])
        .await?
        .map_or(Ok(None), |mut row| row.int_opt())
}

/// Applies what is missing; returns the version that the tables have then. `now`: microseconds since 1970.
pub(crate) async fn apply(pool: &Pool, list: &[Migration], now: i64) -> Result<i64, Trouble> {
    let mut reached = 0;
    for migration in list {
        let mut tx = pool.begin_write().await?;
        tx.script(PATIENCE).await?;
        tx.script(LOCK).await?;
        if count(&mut tx, HAS_VERSIONS).await? == 0 {
            if matches!(tx, Tx::Postgres(_)) && count(&mut tx, HAS_SCHEMA).await? == 0 {
                tx.script(CREATE_SCHEMA).await?;
            }
            tx.script(CREATE_VERSIONS).await?;
        }
        let has = version(&mut tx).await?.unwrap_or(0);
        reached = reached.max(has);
        if has >= migration.version {
            continue; // another process was first; dropped, this transaction changes nothing
        }
        for step in migration.steps {
            tx.script(*step).await?;
        }
        let row = values![migration.version, migration.name, now];
        tx.execute(ADD_VERSION, &row).await?;
        tx.commit().await?;
        reached = migration.version;
    }
    Ok(reached)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::{Migrate, open_with};
    use crate::fault::CatalogError;
    use crate::place::Place;
    use crate::sql::Value;

    const ONE: Migration = Migration {
        version: 1,
        name: "one",
        steps: &[
            Sql::both("CREATE TABLE a (n BIGINT)"),
            Sql::both("INSERT INTO a VALUES (1)"),
        ],
    };
    const TWO: Migration = Migration {
        version: 2,
        name: "two",
        steps: &[
            Sql::both("CREATE TABLE b (n BIGINT)"),
            Sql::both("INSERT INTO b SELECT n FROM a"),
        ],
    };
    const BROKEN: Migration = Migration {
        version: 2,
        name: "broken",
        steps: &[
            Sql::both("CREATE TABLE b (n BIGINT)"),
            Sql::both("UPDATE a SET n = 7"),
            Sql::both("SELECT * FROM nowhere"),
        ],
    };

    fn run<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
            .block_on(work)
    }

    async fn number(pool: &Pool, sql: Sql) -> Option<i64> {
        let mut tx = pool.begin_read().await.expect("begun");
        let rows = tx.rows(sql, &[] as &[Value]).await.ok()?;
        rows.into_iter().next().and_then(|mut row| row.int().ok())
    }

    #[test]
    fn migrations_go_forward_one_by_one() {
        run(async {
            let dir = tempfile::tempdir().expect("a directory");
            let place = Place::Sqlite(dir.path().join("catalog.db"));
            let first = open_with(&place, Migrate::All, 5, &[ONE])
                .await
                .expect("opened");
            first.pool.close().await;
            // A record does not start a long migration; opening does.
            let waits = open_with(&place, Migrate::Fresh, 6, &[ONE, TWO]).await;
            assert!(matches!(
                waits,
                Err(Trouble::Judged(CatalogError::Away { .. }))
            ));
            let second = open_with(&place, Migrate::All, 7, &[ONE, TWO])
                .await
                .expect("opened");
            assert_eq!(
                number(&second.pool, Sql::both("SELECT n FROM b")).await,
                Some(1)
            );
            assert_eq!(
                number(
                    &second.pool,
                    Sql::both("SELECT applied FROM schema_version WHERE version = 2")
                )
                .await,
                Some(7)
            );
            assert_eq!(
                number(
                    &second.pool,
                    Sql::both("SELECT applied FROM schema_version WHERE version = 1")
                )
                .await,
                Some(5)
            );
            second.pool.close().await;
            // The older program does not touch it.
            let newer = open_with(&place, Migrate::All, 8, &[ONE]).await;
            assert!(matches!(
                newer,
                Err(Trouble::Judged(CatalogError::Newer {
                    found: 2,
                    known: 1,
                    ..
                }))
            ));
        });
    }

    #[test]
    fn a_migration_that_fails_changes_nothing() {
        run(async {
            let dir = tempfile::tempdir().expect("a directory");
            let place = Place::Sqlite(dir.path().join("catalog.db"));
            open_with(&place, Migrate::All, 5, &[ONE])
                .await
                .expect("opened")
                .pool
                .close()
                .await;
            assert!(
                open_with(&place, Migrate::All, 6, &[ONE, BROKEN])
                    .await
                    .is_err()
            );
            let again = open_with(&place, Migrate::All, 7, &[ONE, TWO])
                .await
                .expect("opened");
            assert_eq!(
                number(&again.pool, Sql::both("SELECT n FROM a")).await,
                Some(1),
                "the update is undone"
            );
            assert_eq!(
                number(&again.pool, Sql::both("SELECT n FROM b")).await,
                Some(1)
            );
        });
    }

    #[test]
    fn the_list_has_no_gap() {
        for (n, migration) in crate::schema::MIGRATIONS.iter().enumerate() {
            assert_eq!(migration.version, n as i64 + 1, "{}", migration.name);
        }
    }
}

//! A connected database: opening it, its version, its transactions.
//!
//! **SQLite**: WAL, so that readers and the one writer do not wait for each other; a busy timeout; foreign keys; the file is
//! ours alone (0600, and SQLite gives its companions the same mode). `synchronous=NORMAL`: a power failure can take the last
//! moments of history, never its consistency. The file is never opened by us beside SQLite: closing such a descriptor would
//! drop SQLite's locks in this process.
//!
//! **PostgreSQL**: a schema of its own (`keepwatch`), statement and lock timeouts on the server's side, so that a statement ends
//! even when nobody waits for it any more.

use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::postgres::PgPoolOptions;
use sqlx::sqlite::{
    SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, PgPool, SqlitePool};

use crate::fault::{CatalogError, Fault, Trouble, fault};
use crate::migrate::{self, Found};
use crate::place::{Place, Server};
use crate::schema::{MIGRATIONS, Migration};
use crate::sql::{Row, Sql, Tx, Value};

/// How long SQLite waits for another process's lock.
pub const BUSY_WAIT: Duration = Duration::from_secs(1);
/// How long a connection may take to come about.
pub const CONNECT_WAIT: Duration = Duration::from_secs(2);
/// Connections to SQLite at once: one writes while the other reads. Each costs a thread and up to 512 KiB of cache.
const SQLITE_CONNECTIONS: u32 = 2;
const SQLITE_CACHE: &str = "-512";
/// Connections to PostgreSQL at once: a fleet shares a server's.
const CONNECTIONS: u32 = 3;
/// How long a connection is kept for nothing.
const IDLE: Duration = Duration::from_secs(300);
/// How often opening is tried again when another process holds the file at that moment, and the wait between.
const OPEN_TRIES: u32 = 8;
const OPEN_PAUSE: Duration = Duration::from_millis(50);

const ENCODING: Sql = Sql::split("SELECT 'UTF8'", "SELECT current_setting('server_encoding')");

/// Connections to one database.
#[derive(Clone)]
pub(crate) enum Pool {
    /// SQLite.
    Sqlite(SqlitePool),
    /// PostgreSQL.
    Postgres(PgPool),
}

impl Pool {
    /// A transaction that will write: in SQLite it has the write lock from the start, so that it cannot fail half-way.
    pub(crate) async fn begin_write(&self) -> Result<Tx, sqlx::Error> {
        match self {
            Self::Sqlite(pool) => pool.begin_with("BEGIN IMMEDIATE").await.map(Tx::Sqlite),
            Self::Postgres(pool) => pool.begin().await.map(Tx::Postgres),
        }
    }

    /// A transaction that only reads.
    pub(crate) async fn begin_read(&self) -> Result<Tx, sqlx::Error> {
        match self {
            Self::Sqlite(pool) => pool.begin().await.map(Tx::Sqlite),
            Self::Postgres(pool) => pool.begin().await.map(Tx::Postgres),
        }
    }

    /// One row by one statement.
    pub(crate) async fn row(&self, sql: Sql, values: &[Value]) -> Result<Option<Row>, sqlx::Error> {
        match self {
            Self::Sqlite(pool) => sql.row_sqlite(pool, values).await,
            Self::Postgres(pool) => sql.row_postgres(pool, values).await,
        }
    }

    /// Closes all connections, or leaves those that do not close in time to their own end.
    pub(crate) async fn close(&self) {
        let closing = async {
            match self {
                Self::Sqlite(pool) => pool.close().await,
                Self::Postgres(pool) => pool.close().await,
            }
        };
        let _ = tokio::time::timeout(BUSY_WAIT, closing).await;
    }
}

/// Which file a path names: device and inode.
pub(crate) type FileId = (u64, u64);

/// The file that a path names now.
pub(crate) fn file_id(path: &Path) -> Option<FileId> {
    fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

/// A database that can be used.
#[derive(Clone)]
pub(crate) struct Database {
    /// Its connections.
    pub pool: Pool,
    /// The path and file of SQLite, as they were when it was opened.
    pub file: Option<(PathBuf, FileId)>,
}

impl Database {
    /// Whether the path still names the file that is open: it may have been deleted, or moved aside by another process.
    pub(crate) fn still_there(&self) -> bool {
        self.file
            .as_ref()
            .is_none_or(|(path, id)| file_id(path) == Some(*id))
    }
}

/// Which migrations an opening may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Migrate {
    /// All: it may take its time.
    All,
    /// Only those that fill an empty database, which is quick.
    Fresh,
}

/// Opens a database, checks its version, migrates it. `now`: microseconds since 1970.
pub(crate) async fn open(place: &Place, migrate: Migrate, now: i64) -> Result<Database, Trouble> {
    open_with(place, migrate, now, MIGRATIONS).await
}

/// The same with other migrations, for tests of them.
pub(crate) async fn open_with(
    place: &Place,
    migrate: Migrate,
    now: i64,
    list: &[Migration],
) -> Result<Database, Trouble> {
    let mut tries = 0;
    loop {
        let result = match place {
            Place::Sqlite(path) => open_sqlite(path, migrate, now, list).await,
            Place::Postgres(server) => open_postgres(place, server, migrate, now, list).await,
        };
        tries += 1;
        match result {
            // Turning WAL on or replaying it needs the file alone for a moment, and SQLite does not wait for that.
            Err(Trouble::Sql(e)) if fault(&e) == Fault::Busy && tries < OPEN_TRIES => {
                tokio::time::sleep(OPEN_PAUSE).await;
            }
            other => return other,
        }
    }
}

async fn open_sqlite(
    path: &Path,
    migrate: Migrate,
    now: i64,
    list: &[Migration],
) -> Result<Database, Trouble> {
    let place = Place::Sqlite(path.to_owned());
    create(path).map_err(|e| CatalogError::Away {
        place: place.to_string(),
        why: format!("its file cannot be made: {e}"),
    })?;
    let id = file_id(path);
    // The first look changes nothing: no WAL, no page written.
    let look = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .busy_timeout(BUSY_WAIT)
        .disable_statement_logging();
    let pool = Pool::Sqlite(
        SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(CONNECT_WAIT)
            .connect_with(look.clone())
            .await?,
    );
    let found = look_at(&pool).await;
    pool.close().await;
    // The questions of the look are the same for every version: a file that does not understand them is damaged.
    let found = match found {
        Err(e) if fault(&e) == Fault::Other => return Err(Trouble::Garbled(e)),
        other => other?,
    };
    let current = judge(&place, found, migrate, list)?;
    let options = look
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        .auto_vacuum(SqliteAutoVacuum::Incremental)
        .foreign_keys(true)
        .pragma("trusted_schema", "OFF")
        .pragma("cell_size_check", "ON")
        .pragma("cache_size", SQLITE_CACHE)
        .pragma("journal_size_limit", "16777216");
    let pool = Pool::Sqlite(
        SqlitePoolOptions::new()
            .max_connections(SQLITE_CONNECTIONS)
            .acquire_timeout(CONNECT_WAIT)
            .idle_timeout(IDLE)
            // It has no connection that could have died unseen; asking would wake its thread once more for each use.
            .test_before_acquire(false)
            .connect_with(options)
            .await?,
    );
    if !current {
        if let Err(trouble) = bring(&place, &pool, list, now).await {
            pool.close().await;
            return Err(trouble);
        }
    }
    Ok(Database {
        pool,
        file: id.map(|id| (path.to_owned(), id)),
    })
}

/// Makes the directory (0700) and the file (0600) if they are not there, and takes a file from others' eyes.
fn create(path: &Path) -> io::Result<()> {
    if let Some(dir) = path
        .parent()
        .filter(|d| !d.as_os_str().is_empty() && !d.exists())
    {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)?;
    }
    match OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
    {
        Ok(_) => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(e),
    }
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & 0o077 != 0 {
        // Somebody else's file stays as it is; SQLite then says whether it can be used.
        let _ = fs::set_permissions(path, Permissions::from_mode(mode & 0o7700));
    }
    Ok(())
}

async fn open_postgres(
    place: &Place,
    server: &Server,
    migrate: Migrate,
    now: i64,
    list: &[Migration],
) -> Result<Database, Trouble> {
    let options = server
        .options()?
        .application_name("keepwatch")
        .options([
            ("search_path", "keepwatch"),
            ("statement_timeout", "4000"),
            ("lock_timeout", "1000"),
            ("idle_in_transaction_session_timeout", "60000"),
        ])
        .disable_statement_logging();
    let pool = Pool::Postgres(
        PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(CONNECT_WAIT)
            .idle_timeout(IDLE)
            .connect_with(options)
            .await?,
    );
    let ready = async {
        let found = look_at(&pool).await?;
        if judge(place, found, migrate, list)? {
            Ok(())
        } else {
            bring(place, &pool, list, now).await
        }
    };
    if let Err(trouble) = ready.await {
        pool.close().await;
        return Err(trouble);
    }
    Ok(Database { pool, file: None })
}

/// What a look shows: the encoding of texts, and the version.
async fn look_at(pool: &Pool) -> Result<(String, Found), sqlx::Error> {
    let mut tx = pool.begin_read().await?;
    let encoding = tx
        .row(ENCODING, &[])
        .await?
        .map_or(Ok(String::new()), |mut row| row.text())?;
    Ok((encoding, migrate::found(&mut tx).await?))
}

async fn bring(place: &Place, pool: &Pool, list: &[Migration], now: i64) -> Result<(), Trouble> {
    let known = list.last().map_or(0, |m| m.version);
    let found = migrate::apply(pool, list, now).await?;
    if found > known {
        return Err(CatalogError::Newer {
            place: place.to_string(),
            found,
            known,
        }
        .into());
    }
    Ok(())
}

/// Whether the tables are as we know them; an error if they are not ours to touch.
fn judge(
    place: &Place,
    (encoding, found): (String, Found),
    migrate: Migrate,
    list: &[Migration],
) -> Result<bool, CatalogError> {
    let known = list.last().map_or(0, |m| m.version);
    let unusable = |why: String| {
        Err(CatalogError::Unusable {
            place: place.to_string(),
            why,
        })
    };
    if encoding != "UTF8" {
        return unusable(format!(
            "its texts are in {encoding}, not in UTF8; create the database with ENCODING 'UTF8'"
        ));
    }
    match found {
        Found::Version(v) if v > known => {
            Err(CatalogError::Newer { place: place.to_string(), found: v, known })
        }
        Found::Version(v) if v < known && migrate == Migrate::Fresh => Err(CatalogError::Away {
            place: place.to_string(),
            why: "it waits for its migration to a newer version, which `keepwatch serve` runs when it starts".to_owned(),
        }),
        Found::Foreign => unusable("it holds tables of another program".to_owned()),
        Found::Version(v) => Ok(v == known),
        Found::Empty => Ok(false),
    }
}

//! The catalog: one database at hand, a spool behind it, and the way of a record into one of them.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use keepwatch_model::history::Entry;
use keepwatch_model::runs::{RunRecord, Trigger};
use keepwatch_model::time::Moment;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::checks::{self, Names};
use crate::database::{Database, Migrate};
use crate::fault::{CatalogError, Fault, Trouble, fault, reason};
use crate::keeper::{Keeper, Standing};
use crate::meter::{Meter, Numbers, Operation};
use crate::place::Place;
use crate::rollups::{DAY, HOUR, floor};
use crate::schema::MIGRATIONS;
use crate::spool::{SPOOL_MAX, Spool};
use crate::sql::{Row, Sql, Tx, Value, instant};
use crate::{events, migrate, runs, text};

/// The longest that a record waits for the database, connecting included.
pub const RECORD_WAIT: Duration = Duration::from_secs(3);
/// The longest that it then waits for the spool.
pub const SPOOL_WAIT: Duration = Duration::from_secs(2);
/// The longest that a question waits.
pub const READ_WAIT: Duration = Duration::from_secs(5);
/// Records in one transaction. About 1 KiB each in memory.
const BATCH: usize = 256;

/// The present, by the host's clock.
pub type Clock = Arc<dyn Fn() -> Moment + Send + Sync>;
/// Fills a buffer with random bytes.
pub type Random = Arc<dyn Fn(&mut [u8]) + Send + Sync>;

/// How long rows are kept, in days. What is not listed is kept for as long as the catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Raw results of checks, and notifications that are done. Default 30.
    pub results_days: u32,
    /// Runs, changes of state, closed incidents, restarts. Default 90. The last ten successes of a job always stay.
    pub runs_days: u32,
    /// Hourly roll-ups; never less than raw results. Default 400. Daily ones stay.
    pub hours_days: u32,
}

impl Default for Keep {
    fn default() -> Self {
        Self {
            results_days: 30,
            runs_days: 90,
            hours_days: 400,
        }
    }
}

/// What a catalog needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The database.
    pub place: Place,
    /// The directory of the spool. Every process of the host uses the same.
    pub spool: PathBuf,
    /// Bytes of the spool; the oldest is dropped beyond.
    pub spool_max: u64,
    /// This host, as its rows are marked.
    pub host: String,
    /// How long rows are kept.
    pub keep: Keep,
    /// How long opening may take when the tables must be brought to a newer version.
    pub migrate_wait: Duration,
}

impl Options {
    /// The usual options for a place and a state directory.
    pub fn new(place: Place, state_dir: &std::path::Path, host: &str) -> Self {
        Self {
            place,
            spool: state_dir.join("spool"),
            spool_max: SPOOL_MAX,
            host: text::fit(host, text::NAME_MAX).to_owned(),
            keep: Keep::default(),
            migrate_wait: Duration::from_secs(60),
        }
    }
}

/// What became of records that were to be written down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recorded {
    /// In the database.
    pub stored: u64,
    /// In the spool.
    pub spooled: u64,
    /// Nowhere: neither would take them.
    pub lost: u64,
    /// Refused by the database for their own fault.
    pub refused: u64,
    /// Results that are older than results are kept.
    pub late: u64,
    /// Written down afterwards, and known already.
    pub known: u64,
}

/// What was brought from the spool into the database.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Imported {
    /// Files that were read and deleted.
    pub files: u64,
    /// Records that are in the database now.
    pub records: u64,
    /// Lines that could not be read; their files are kept as `*.bad`.
    pub bad_lines: u64,
    /// Whether files remain.
    pub more: bool,
}

/// The catalog. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Catalog {
    inner: Arc<Inner>,
}

struct Inner {
    host: String,
    keep: Keep,
    migrate_wait: Duration,
    clock: Clock,
    keeper: Keeper,
    spool: Arc<Spool>,
    meter: Meter,
}

impl Catalog {
    /// Opens the catalog, making and migrating its tables. A database that is away is no error: records go to the spool, and
    /// [`Catalog::standing`] says why.
    ///
    /// # Errors
    /// What cannot get better by waiting: a schema of a newer version, tables of another program, wrong texts. Then
    /// [`Catalog::detached`] still keeps records for the catalog that will be right.
    pub async fn open(
        options: Options,
        clock: Clock,
        random: Random,
    ) -> Result<Self, CatalogError> {
        let catalog = Self::detached(options, clock, random);
        match catalog.connect().await {
            Err(error @ (CatalogError::Newer { .. } | CatalogError::Unusable { .. })) => Err(error),
            Ok(()) | Err(_) => Ok(catalog),
        }
    }

    /// A catalog that is not opened yet: the first record or question opens it.
    pub fn detached(options: Options, clock: Clock, random: Random) -> Self {
        let mut keep = options.keep;
        keep.hours_days = keep.hours_days.max(keep.results_days);
        Self {
            inner: Arc::new(Inner {
                host: text::fit(&options.host, text::NAME_MAX).to_owned(),
                keep,
                migrate_wait: options.migrate_wait,
                clock,
                keeper: Keeper::new(options.place, Arc::clone(&random)),
                spool: Arc::new(Spool::new(options.spool, options.spool_max, random)),
                meter: Meter::default(),
            }),
        }
    }

    /// Connects now, whatever rest is left, and migrates.
    ///
    /// # Errors
    /// The database is away, too new, or not usable.
    pub async fn connect(&self) -> Result<(), CatalogError> {
        self.inner.keeper.wake();
        let work = async {
            self.inner.keeper.database(Migrate::All, self.now()).await?;
            Ok(())
        };
        self.timed(Operation::Open, self.inner.migrate_wait, true, work)
            .await
    }

    /// This host, as its rows are marked.
    pub fn host(&self) -> &str {
        &self.inner.host
    }

    /// How long rows are kept.
    pub fn keep(&self) -> Keep {
        self.inner.keep
    }

    /// How the database stands.
    pub fn standing(&self) -> Standing {
        self.inner.keeper.standing()
    }

    /// All numbers, for metrics. Looks into the spool's directory.
    pub fn numbers(&self) -> Numbers {
        self.inner
            .meter
            .numbers(self.inner.spool.numbers(), self.standing())
    }

    pub(crate) fn now(&self) -> Moment {
        (self.inner.clock)()
    }

    pub(crate) fn place(&self) -> &Place {
        self.inner.keeper.place()
    }

    pub(crate) fn meter(&self) -> &Meter {
        &self.inner.meter
    }

    /// Raw results before this are not kept: whole hours, so that an hour is either complete or gone.
    pub(crate) fn horizon(&self) -> i64 {
        floor(
            instant(self.now()) - i64::from(self.inner.keep.results_days) * DAY,
            HOUR,
        )
    }

    /// Writes a run down: when it starts, and whole again when it ends.
    pub async fn record_run(&self, run: &RunRecord) -> Recorded {
        self.record(vec![Entry::Run(Box::new(run.clone()))]).await
    }

    /// Writes records down, in the database or else in the spool. Never an error, and never longer than [`RECORD_WAIT`] and
    /// [`SPOOL_WAIT`] together.
    pub async fn record(&self, entries: Vec<Entry>) -> Recorded {
        self.record_until(std::future::pending(), entries).await
    }

    /// As [`Catalog::record`], but when `given_up` comes, the database is left alone at once and what it has not confirmed goes to the
    /// spool. What it stores all the same is known when that is imported.
    pub(crate) async fn record_until(
        &self,
        given_up: impl Future<Output = ()>,
        entries: Vec<Entry>,
    ) -> Recorded {
        let mut given_up = std::pin::pin!(given_up);
        let mut recorded = Recorded::default();
        if entries.is_empty() {
            return recorded;
        }
        let entries: Vec<Entry> = entries.into_iter().map(text::bounded).collect();
        let mut waiting = &entries[..];
        if self.inner.keeper.resting().is_none() {
            let deadline = tokio::time::Instant::now() + RECORD_WAIT;
            let mut again = true;
            while !waiting.is_empty() {
                let batch = &waiting[..waiting.len().min(BATCH)];
                let left = deadline.saturating_duration_since(tokio::time::Instant::now());
                if left.is_zero() {
                    break; // slow, not away: the rest goes to the spool
                }
                let work = self.timed(Operation::Record, left, true, self.store(batch));
                let done = tokio::select! {
                    biased;
                    () = &mut given_up => break,
                    done = work => done,
                };
                match done {
                    Ok(done) => {
                        recorded.stored += done.stored;
                        recorded.refused += done.refused;
                        recorded.late += done.late;
                        recorded.known += done.known;
                        waiting = &waiting[batch.len()..];
                    }
                    // The damaged file is out of the way: once more, into the new one.
                    Err(CatalogError::Damaged { .. }) if again => again = false,
                    Err(_) => break,
                }
            }
        }
        if !waiting.is_empty() {
            let count = waiting.len() as u64;
            if self.spool(waiting.to_vec()).await {
                recorded.spooled += count
            } else {
                recorded.lost += count
            }
        }
        self.inner.meter.count(|counts| {
            counts.stored += recorded.stored;
            counts.spooled += recorded.spooled;
            counts.refused += recorded.refused;
            counts.late += recorded.late;
            counts.lost += recorded.lost;
        });
        recorded
    }

    /// Puts records into the spool; a disk that hangs is waited for no longer than [`SPOOL_WAIT`].
    async fn spool(&self, entries: Vec<Entry>) -> bool {
        let (spool, now, count) = (Arc::clone(&self.inner.spool), self.now(), entries.len());
        let writing = spawn_blocking(move || spool.append(&entries, now));
        let why = match timeout(SPOOL_WAIT, writing).await {
            Ok(Ok(Ok(()))) => return true,
            Ok(Ok(Err(e))) => e.to_string(),
            Ok(Err(e)) => e.to_string(),
            Err(_) => "the disk does not answer".to_owned(),
        };
        tracing::error!(
            count,
            why,
            "catalog: records are lost, the spool in {} cannot take them",
            self.inner.spool.dir().display()
        );
        false
    }

    /// Stores a batch in one transaction, or one by one if one of them is refused.
    async fn store(&self, entries: &[Entry]) -> Result<Recorded, Trouble> {
        match self.store_together(entries).await {
            Err(Trouble::Sql(e)) if fault(&e) == Fault::Record => {}
            other => return other,
        }
        let mut recorded = Recorded::default();
        for entry in entries {
            match self.store_together(std::slice::from_ref(entry)).await {
                Ok(one) => {
                    recorded.stored += one.stored;
                    recorded.late += one.late;
                    recorded.known += one.known;
                }
                Err(Trouble::Sql(e)) if fault(&e) == Fault::Record => {
                    recorded.refused += 1;
                    tracing::error!(why = reason(&e), "catalog: the database refuses a record");
                }
                Err(other) => return Err(other),
            }
        }
        Ok(recorded)
    }

    async fn store_together(&self, entries: &[Entry]) -> Result<Recorded, Trouble> {
        let mut tx = self.begin_write().await?;
        let (mut names, horizon) = (Names::default(), self.horizon());
        let results: Vec<_> = entries
            .iter()
            .filter_map(|entry| match entry {
                Entry::Result(result) => Some(result),
                _ => None,
            })
            .collect();
        let late = checks::save_results(&mut tx, &mut names, &results, horizon).await?;
        let mut recorded = Recorded {
            stored: results.len() as u64 - late,
            late,
            ..Recorded::default()
        };
        for entry in entries {
            match entry {
                Entry::Run(run) if run.trigger == Trigger::Rebuilt => {
                    if !runs::save_rebuilt(&mut tx, run).await? {
                        recorded.known += 1;
                        continue;
                    }
                }
                Entry::Run(run) => {
                    runs::save(&mut tx, run).await?;
                }
                Entry::Result(_) => continue,
                Entry::Transition(change) => {
                    checks::save_transition(&mut tx, &mut names, change, horizon).await?;
                }
                Entry::Incident(incident) => {
                    events::save_incident(&mut tx, incident).await?;
                }
                Entry::Restart(restart) => {
                    events::save_restart(&mut tx, restart).await?;
                }
                Entry::Notification(message) => {
                    events::save_notification(&mut tx, message).await?;
                }
                Entry::Repository(state) => {
                    events::save_repository(&mut tx, state).await?;
                }
            }
            recorded.stored += 1;
        }
        tx.commit().await?;
        Ok(recorded)
    }

    /// Brings spooled records into the database, oldest first, for no longer than `budget` (and the file at hand).
    ///
    /// # Errors
    /// The database is away or refuses; what was not imported stays in the spool.
    pub async fn import_spool(&self, budget: Duration) -> Result<Imported, CatalogError> {
        let mut imported = Imported::default();
        let end = tokio::time::Instant::now() + budget;
        let spool = Arc::clone(&self.inner.spool);
        let listed = spawn_blocking(move || {
            if spool.waits() {
                spool.waiting()
            } else {
                Ok(Vec::new())
            }
        })
        .await;
        let paths = self.spool_result(listed)?;
        for path in paths {
            if tokio::time::Instant::now() >= end {
                imported.more = true;
                break;
            }
            let spool = Arc::clone(&self.inner.spool);
            let taken = spawn_blocking(move || spool.take(&path)).await;
            let Some(taken) = self.spool_result(taken)? else {
                continue;
            };
            for batch in taken.entries.chunks(BATCH) {
                let done = self
                    .timed(Operation::Import, RECORD_WAIT, true, self.store(batch))
                    .await?;
                imported.records += done.stored;
                self.inner.meter.count(|counts| {
                    counts.imported += done.stored;
                    counts.refused += done.refused;
                    counts.late += done.late;
                });
            }
            imported.bad_lines += taken.bad;
            // A crash here leaves the file, and the next import changes nothing.
            let done = spawn_blocking(move || taken.done()).await;
            self.spool_result(done)?;
            imported.files += 1;
        }
        Ok(imported)
    }

    fn spool_result<T>(
        &self,
        result: Result<std::io::Result<T>, tokio::task::JoinError>,
    ) -> Result<T, CatalogError> {
        let why = match result {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(e)) => format!("its spool cannot be read: {e}"),
            Err(e) => format!("its spool cannot be read: {e}"),
        };
        Err(CatalogError::Refused {
            place: self.place().to_string(),
            why,
        })
    }

    /// The database, for what is not a transaction.
    pub(crate) async fn database(&self) -> Result<Database, Trouble> {
        self.inner.keeper.database(Migrate::Fresh, self.now()).await
    }

    /// A transaction that writes, after a look at the version: another process may have migrated the tables to a newer one.
    pub(crate) async fn begin_write(&self) -> Result<Tx, Trouble> {
        let mut tx = self.database().await?.pool.begin_write().await?;
        self.check_version(&mut tx).await?;
        Ok(tx)
    }

    /// A transaction that reads.
    pub(crate) async fn begin_read(&self) -> Result<Tx, Trouble> {
        let mut tx = self.database().await?.pool.begin_read().await?;
        self.check_version(&mut tx).await?;
        Ok(tx)
    }

    async fn check_version(&self, tx: &mut Tx) -> Result<(), Trouble> {
        let known = MIGRATIONS.last().map_or(0, |m| m.version);
        match migrate::version(tx).await? {
            Some(found) if found > known => Err(CatalogError::Newer {
                place: self.place().to_string(),
                found,
                known,
            }
            .into()),
            _ => Ok(()),
        }
    }

    /// One row by one statement, without a transaction and without a look at the version: for a hint that costs next to nothing.
    pub(crate) async fn glance(
        &self,
        sql: Sql,
        values: &[Value],
    ) -> Result<Option<Row>, CatalogError> {
        let work = async { Ok(self.database().await?.pool.row(sql, values).await?) };
        self.ask(Operation::Read, work).await
    }

    /// Asks something, with the bound of its kind.
    pub(crate) async fn ask<T>(
        &self,
        operation: Operation,
        work: impl Future<Output = Result<T, Trouble>>,
    ) -> Result<T, CatalogError> {
        let writing = operation != Operation::Read;
        self.timed(operation, READ_WAIT, writing, work).await
    }

    /// Does something within a time, measures it, and draws the consequences of its failure.
    pub(crate) async fn timed<T>(
        &self,
        operation: Operation,
        limit: Duration,
        writing: bool,
        work: impl Future<Output = Result<T, Trouble>>,
    ) -> Result<T, CatalogError> {
        let start = Meter::start();
        let result = match timeout(limit, work).await {
            Ok(result) => result,
            Err(_) => Err(Trouble::Late(limit)),
        };
        let result = match result {
            Ok(value) => {
                if writing {
                    self.inner.keeper.well();
                }
                Ok(value)
            }
            Err(trouble) => Err(self.inner.keeper.judge(trouble, writing, self.now()).await),
        };
        self.inner.meter.end(operation, start, result.is_ok());
        result
    }

    /// A check of the file found damage: out of the way with it.
    pub(crate) async fn damaged(&self, why: &str) {
        self.inner.keeper.damaged(why, self.now()).await;
    }

    /// Ends the connections in good order.
    pub async fn close(self) {
        self.inner.keeper.close().await;
    }
}

//! What happened, written into the catalog. Bookkeeping: nothing here makes a run fail, and nothing waits longer than the catalog's own bounds
//! (a few seconds). What the database does not take goes to its spool; what neither takes is told on standard error.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use keepwatch_catalog::{
    Catalog, CatalogError, Options, Place, Recorded, events, facts, process, rebuild, runs,
};
use keepwatch_config::sections::service::Database;
use keepwatch_config::{Config, Credentials};
use keepwatch_model::history::Entry;
use keepwatch_model::runs::{RepositoryState, RunRecord, SnapshotFact};
use tokio::runtime::{Builder, Runtime};

use crate::clock;
use crate::logs;
use crate::output::{escape, plain, tell};
use crate::told;

/// What the spool may take to be imported before a run.
const IMPORT: Duration = Duration::from_secs(2);
/// Closing may take so long; a disk that hangs is left alone then.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// The catalog, as far as it can be had.
pub struct Book(Option<(Runtime, Catalog)>);

impl Book {
    /// Opens it.
    pub fn open(config: &Config, credentials: &Credentials, host: &str) -> Book {
        let opened = place(config, credentials).and_then(|place| {
            let runtime = Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|e| e.to_string())?;
            Ok((runtime, place))
        });
        let (runtime, place) = match opened {
            Ok(opened) => opened,
            Err(why) => {
                warn(&format!("the catalog cannot be used: {why}"));
                return Book(None);
            }
        };
        let options = Options::new(place, &config.state_directory, host);
        let clock: keepwatch_catalog::Clock = Arc::new(clock::now);
        let random: keepwatch_catalog::Random = Arc::new(fill);
        let catalog = runtime.block_on(async {
            let opening = Catalog::open(options.clone(), clock.clone(), random.clone()).await;
            opening.unwrap_or_else(|e| {
                warn(&e.to_string());
                Catalog::detached(options, clock, random)
            })
        });
        Book(Some((runtime, catalog)))
    }

    /// Runs that began and whose process is gone are lost: that is written down before a new one begins.
    pub fn reconcile(&self) {
        let Some((runtime, catalog)) = &self.0 else {
            return;
        };
        let done = runtime.block_on(async {
            // What they told the spool counts more than a guess.
            catalog.import_spool(IMPORT).await?;
            let lost = runs::reconcile(catalog, clock::now(), process::run_lives).await?;
            Ok::<_, CatalogError>(lost)
        });
        match done {
            Ok(lost) => {
                for run in lost {
                    told::lost(&run);
                    if logs::is_journal("2") {
                        continue;
                    }
                    warn(&format!(
                        "the {} run of {} that began {} ended without a word: it was killed, or the power failed; it is recorded as lost",
                        run.kind.as_str(),
                        run.job.or(run.repository).unwrap_or_default(),
                        run.started.short()
                    ));
                }
            }
            Err(e) => warn(&format!("lost runs cannot be looked for: {e}")),
        }
    }

    /// Writes a run down.
    pub fn write(&self, run: &RunRecord) {
        let Some((runtime, catalog)) = &self.0 else {
            return;
        };
        let written = runtime.block_on(catalog.record_run(run));
        if written.lost + written.refused > 0 {
            warn(
                "this run is not recorded: neither the catalog nor its spool takes it; look at the space in the state directory",
            );
        } else if written.spooled > 0 {
            tracing::info!("the catalog is away; the run is recorded in its spool");
        }
    }

    /// Whether a backup in this repository ever succeeded, as far as the catalog can say now.
    pub fn has_backups(&self, repository: &str) -> bool {
        let Some((runtime, catalog)) = &self.0 else {
            return false;
        };
        let jobs = runtime.block_on(facts::backup_facts(catalog));
        jobs.is_ok_and(|jobs| {
            let mut of_it = jobs.iter().filter(|j| j.repository == repository);
            of_it.any(|j| j.last_success.is_some())
        })
    }

    /// Bytes of a repository, as last noted.
    pub fn size(&self, repository: &str) -> Option<u64> {
        let (runtime, catalog) = self.0.as_ref()?;
        let known = runtime.block_on(events::repositories(catalog, Some(catalog.host())));
        let known = known.ok()?;
        let (state, _) = known.iter().find(|(s, _)| s.repository == repository)?;
        state.size_bytes
    }

    /// Writes down how a repository stands.
    pub fn note(&self, state: RepositoryState) {
        if let Some((runtime, catalog)) = &self.0 {
            runtime.block_on(catalog.record(vec![Entry::Repository(state)]));
        }
    }

    /// Writes down afterwards which backups left these snapshots: stored, and known before.
    pub fn rebuild(&self, snapshots: &[SnapshotFact]) -> Option<Recorded> {
        let (runtime, catalog) = self.0.as_ref()?;
        Some(runtime.block_on(rebuild::import(catalog, snapshots)))
    }

    /// Closes it.
    pub fn close(self) {
        if let Some((runtime, catalog)) = self.0 {
            let _ =
                runtime.block_on(async { tokio::time::timeout(CLOSE_WAIT, catalog.close()).await });
            runtime.shutdown_timeout(CLOSE_WAIT);
        }
    }
}

fn warn(text: &str) {
    tell(&format!("keepwatch: warning: {}", escape(&plain(text))));
}

fn place(config: &Config, credentials: &Credentials) -> Result<Place, String> {
    match &config.catalog.database {
        Database::Sqlite(sqlite) => Ok(Place::Sqlite(sqlite.path.clone())),
        Database::Postgresql(server) => {
            let file = server.password_file.as_ref();
            let file = file.map(|f| f.path(credentials)).transpose();
            let file = file.map_err(|e| e.to_string())?;
            Place::parse(&server.url, file).map_err(|e| e.to_string())
        }
    }
}

/// Random bytes for ids of records and the jitter of the catalog. Without a source of randomness they stay as they are: an id that meets another
/// costs a record, not a backup.
pub fn fill(bytes: &mut [u8]) {
    if let Err(e) = getrandom::fill(bytes) {
        tracing::warn!("the system gives no random bytes: {e}");
    }
}

/// Makes the state directory, where it can be made.
pub fn make_state(dir: &Path) {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir);
    if let Err(e) = made {
        warn(&format!(
            "cannot make the state directory {}: {e}",
            dir.display()
        ));
    }
}

//! `keepwatch serve`: the daemon that joins the watcher, the catalog, the endpoint and the ways to people.
//!
//! | module | one reason |
//! |---|---|
//! | `daemon` | what is started, reloaded and ended in which order |
//! | `scene` | the present: what a reload replaces |
//! | `watching` | the watcher, and where its events go |
//! | `records`, `journal`, `shown`, `collect` | pure: from what happened and is known to records, log lines, rows |
//! | `alerts` | from facts to what fires: pure but for what it has seen before |
//! | `board`, `collector`, `upkeep` | tasks: facts for the endpoint, questions to the catalog, its upkeep |
//! | `people` | receivers, routes, offices |
//! | `quiet` | maintenance windows around our own runs |
//! | `writing` | whether what happens is still written down |
//! | `memory` | what survives a restart |
//! | `control` | what a person asks of the daemon |
//! | `service`, `logs`, `host`, `world` | systemd, logs, `/proc`, clocks and randomness |

mod alerts;
mod board;
mod collect;
mod collector;
pub mod control;
mod daemon;
mod host;
mod journal;
mod local;
mod logs;
pub mod memory;
mod people;
mod proofs;
mod quiet;
mod records;
mod scene;
mod seat;
mod service;
mod shown;
mod upkeep;
mod watching;
mod world;
mod writing;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use keepwatch_catalog::{Keep, Options, Place};
use keepwatch_config::sections::service::Database;
use keepwatch_config::{Config, Credentials};
use keepwatch_expose::counters::Counters;

pub use world::{moment, random};

use crate::errors::{Failure, Outcome};

/// Threads for what blocks are kept for this long.
const KEPT: Duration = Duration::from_secs(30);
/// Threads that block (name resolution, files) are left behind after this.
const LEFT_BEHIND: Duration = Duration::from_secs(1);

/// Runs the daemon with this file until a signal ends it.
pub fn run(file: &Path, loaded: keepwatch_config::Loaded) -> Outcome {
    let config = &loaded.config;
    let counters = Counters::new(config.metrics.legacy_names)
        .map_err(|e| Failure::failed(format!("cannot make the metrics: {e}")))?;
    let counters = Arc::new(counters.per_check(config.metrics.detailed_histograms));
    let logs = logs::begin(
        config.logging.format,
        config.logging.level,
        Arc::clone(&counters),
    );
    log_panics();
    for warning in &loaded.warnings {
        tracing::warn!("configuration: {warning}");
    }
    // One thread: there is little to compute, and several wake each other up for nothing. What blocks has threads of its own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .thread_name("serve")
        // Longer than from one round of the collector to the next: not a new thread each time.
        .thread_keep_alive(KEPT)
        .enable_all()
        .build()
        .map_err(|e| Failure::failed(format!("cannot start threads: {e}")))?;
    let outcome = runtime.block_on(daemon::run(file, loaded, counters, logs));
    runtime.shutdown_timeout(LEFT_BEHIND);
    outcome.map_err(|mut failure| {
        // It is told once, where logs go.
        let advice = failure.advice.as_deref().unwrap_or("see the log");
        tracing::error!("{}; what to do: {advice}", failure.message);
        failure.quiet = true;
        failure
    })
}

/// A panic is a fault of ours in one task; the others go on. The watcher turns one in a probe into a failed run.
fn log_panics() {
    std::panic::set_hook(Box::new(|info| {
        let place = info
            .location()
            .map_or(String::new(), |l| format!(" ({}:{})", l.file(), l.line()));
        let what = info
            .payload()
            .downcast_ref::<&str>()
            .map(|s| (*s).to_owned())
            .or_else(|| info.payload().downcast_ref::<String>().cloned())
            .unwrap_or_default();
        tracing::error!("a mistake in Keepwatch itself: {what}{place}");
    }));
}

/// The name of this host in records: as configured, else its own.
pub fn host_name(config: &Config) -> String {
    config.host.clone().unwrap_or_else(|| {
        let about = rustix::system::uname();
        about.nodename().to_string_lossy().into_owned()
    })
}

/// Where the catalog lies, and how long it keeps what.
pub fn catalog_options(
    config: &Config,
    host: &str,
    credentials: &Credentials,
) -> Result<Options, Failure> {
    let place = match &config.catalog.database {
        Database::Sqlite(s) => Place::Sqlite(s.path.clone()),
        Database::Postgresql(p) => {
            let password = p
                .password_file
                .as_ref()
                .map(|source| source.path(credentials))
                .transpose()
                .map_err(|e| Failure::failed(e.to_string()))?;
            Place::parse(&p.url, password).map_err(|e| Failure::usage(e.to_string()))?
        }
    };
    let days = |d: Duration| u32::try_from(d.as_secs() / 86_400).unwrap_or(u32::MAX);
    let mut options = Options::new(place, &config.state_directory, host);
    options.keep = Keep {
        results_days: days(config.catalog.keep_results),
        runs_days: days(config.catalog.keep_runs),
        hours_days: days(config.catalog.keep_hours),
    };
    Ok(options)
}

/// What the daemon could not use of a configuration that reads well. Credentials are taken to be there.
pub fn examine(config: &Config) -> Vec<String> {
    let credentials = Credentials(Some("/run/credentials/keepwatch".into()));
    let host = host_name(config);
    let people = people::plan(config, &host, &credentials, &config.state_directory);
    people.err().unwrap_or_default()
}

//! The sections of the file: for each its typed struct and its description, out of one macro ([`crate::shape`]).
//!
//! Words are those of the whole project; names of keys are the option names of the NixOS module in snake_case.

pub mod backups;
pub mod checks;
pub mod notifications;
pub mod probes;
pub mod repositories;
pub mod service;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use keepwatch_watch::systemd::UnitName;

use crate::shape::{Shape, table};
use crate::text::Text;

/// Repositories of one file.
pub const REPOSITORIES_MAX: usize = 64;
/// Backups, drills and copies of one file, each.
pub const JOBS_MAX: usize = 256;
/// Checks of one file: what the watcher takes.
pub const CHECKS_MAX: usize = keepwatch_watch::conductor::CHECKS_MAX;
/// Everything else that has a name, each.
pub const OTHERS_MAX: usize = 256;

/// When: one calendar expression or several.
pub(crate) const CALENDARS: Shape = Shape::Either(&[
    Shape::Text(Text::Calendar),
    Shape::List(&Shape::Text(Text::Calendar), 0, 32),
]);
/// How long a run may take.
pub(crate) const RUN_TIMEOUT: Shape = Shape::Text(Text::Duration(60_000, 31 * 86_400_000));

table! {
    /// How often and when a run that failed is tried again.
    pub struct Retry: RETRY {
        /// How often, besides the first time.
        attempts: u32 = Shape::Int(0, 20), Value("3");
        /// After how long.
        delay: Duration ["crate::typed::duration"] = Shape::Text(Text::Duration(1000, 86_400_000)), Value("\"5m\"");
    }
}

table! {
    /// The configuration of a host.
    pub struct Config: CONFIG {
        /// The name of this host in records, metrics and alerts; the host's own name when it is left out.
        host: Option<String> = Shape::Text(Text::Name), Absent, also ["hostname"];
        /// Where state is kept.
        state_directory: PathBuf = Shape::Text(Text::Path), Value("\"/var/lib/keepwatch\""), also ["state_dir", "data_dir"];
        /// Where what can be lost is kept.
        cache_directory: PathBuf = Shape::Text(Text::Path), Value("\"/var/cache/keepwatch\""), also ["cache_dir"];
        /// Jobs of other users can report to heartbeat checks on this socket (`keepwatch beat`); it takes nothing else. Its mode is 0660; its group is the agent's, or that of its directory where the directory is setgid.
        beats_socket: Option<PathBuf> = Shape::Text(Text::Path), Absent, also ["heartbeat_socket"];
        /// Logs.
        logging: service::Logging = Shape::Table(&service::LOGGING), Empty, also ["log", "logs"];
        /// Places of objects, by name.
        repositories: BTreeMap<String, repositories::Repository> = Shape::Map(Text::Name, &Shape::Table(&repositories::REPOSITORY), REPOSITORIES_MAX), Value("{}"), also ["repository", "repos"];
        /// What each backup starts from.
        defaults: backups::Defaults = Shape::Table(&backups::DEFAULTS), Empty, also ["default"];
        /// Backup jobs, by name.
        backups: BTreeMap<String, backups::Backup> = Shape::Map(Text::Name, &Shape::Table(&backups::BACKUP), JOBS_MAX), Value("{}"), also ["backup", "jobs", "job"];
        /// Copies of repositories, by name.
        copies: BTreeMap<String, repositories::Copy> = Shape::Map(Text::Name, &Shape::Table(&repositories::COPY), JOBS_MAX), Value("{}"), also ["copy"];
        /// Rehearsed restores, by name.
        drills: BTreeMap<String, backups::Drill> = Shape::Map(Text::Name, &Shape::Table(&backups::DRILL), JOBS_MAX), Value("{}"), also ["drill"];
        /// Watched promises, by name.
        checks: BTreeMap<String, checks::Check> = Shape::Map(Text::Name, &Shape::Table(&checks::CHECK), CHECKS_MAX), Value("{}"), also ["check"];
        /// How units are restarted, by the name of the unit. One that a check restarts and that is not here has the defaults.
        restarts: BTreeMap<UnitName, checks::Restart> = Shape::Map(Text::Unit, &Shape::Table(&checks::RESTART), OTHERS_MAX), Value("{}"), also ["restart", "units"];
        /// Commands that restarts can run, by name.
        commands: BTreeMap<String, checks::Command> = Shape::Map(Text::Name, &Shape::Table(&checks::COMMAND), OTHERS_MAX), Value("{}"), also ["command"];
        /// Times in which nobody is told and nothing is restarted, by name.
        maintenance: BTreeMap<String, checks::Maintenance> = Shape::Map(Text::Name, &Shape::Table(&checks::MAINTENANCE), OTHERS_MAX), Value("{}"), also ["maintenance_windows", "windows"];
        /// What the agent serves to Prometheus and to people.
        metrics: service::Metrics = Shape::Table(&service::METRICS), Empty, also ["exporter", "prometheus"];
        /// When the agent says that it is ready.
        health: service::Health = Shape::Table(&service::HEALTH), Empty;
        /// The record of what happened.
        catalog: service::Catalog = Shape::Table(&service::CATALOG), Empty, also ["catalogue", "database", "history"];
        /// Telling people, where no Prometheus does it.
        notifications: notifications::Notifications = Shape::Table(&notifications::NOTIFICATIONS), Empty, also ["notify", "alerts", "alerting", "alertmanager"];
    }
}

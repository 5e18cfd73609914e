//! What happened: runs, checks, incidents, restarts and notifications, in SQLite or PostgreSQL.
//!
//! The catalog is a memory, never a truth: a restore needs none of it, a lost one is rebuilt from the snapshots
//! ([`rebuild`]), and no caller fails because it is away. [`Catalog::record`] returns no error: what the database cannot
//! take now goes to a spool of files and is imported later, and because every record carries an id from where it happened,
//! twice is as good as once.
//!
//! Both databases are asked with the same constant statements and bound values, and the same tests run
//! on both. sqlx is named in this crate only.
//!
//! Verbs are functions over a [`Catalog`]:
//!
//! | module | what |
//! |---|---|
//! | [`runs`] | runs, and those that were lost |
//! | [`checks`], [`rollups`] | results and changes of state; what hours and days come to |
//! | [`events`] | incidents, restarts, the queue of notifications, repositories |
//! | [`facts`] | what the exporter and `status` want to know of backups, verifications, drills |
//! | [`counters`] | counters that survive |
//! | [`history`] | all of it in the order of time |
//! | [`states`] | what parts of the agent want to find again after a restart |
//! | [`upkeep`] | roll-ups, retention, vacuum, integrity |
//! | [`rebuild`] | runs from snapshots |
//! | [`recorder`] | a bounded queue in front of it, for a daemon |
//! | [`process`] | whether the process of a run still lives |
//!
//! **Waiting.** [`Catalog::record`] takes at most [`RECORD_WAIT`] and then [`SPOOL_WAIT`], and nothing while the database rests after
//! a failure; a question at most [`READ_WAIT`].

mod catalog;
pub mod checks;
pub mod counters;
mod database;
pub mod events;
pub mod facts;
mod fault;
pub mod history;
mod keeper;
mod meter;
mod migrate;
mod place;
pub mod process;
pub mod rebuild;
pub mod recorder;
mod rolling;
pub mod rollups;
pub mod runs;
mod schema;
mod spool;
mod sql;
pub mod states;
mod text;
pub mod upkeep;

pub use catalog::{
    Catalog, Clock, Imported, Keep, Options, READ_WAIT, RECORD_WAIT, Random, Recorded, SPOOL_WAIT,
};
pub use database::{BUSY_WAIT, CONNECT_WAIT};
pub use fault::CatalogError;
pub use keeper::{DAMAGED_KEPT, FIRST_REST, LONGEST_REST, Standing};
pub use meter::{Numbers, OPERATION_BOUNDS, Operation, OperationNumbers};
pub use place::{Place, Server};
pub use spool::{SPOOL_LEAST, SPOOL_MAX, SpoolNumbers};
pub use text::{
    BODY_MAX, CLUSTERS_MAX, NAME_MAX, PATH_MAX, RESULT_TEXT_MAX, STAGES_MAX, STATE_MAX, TEXT_MAX,
};

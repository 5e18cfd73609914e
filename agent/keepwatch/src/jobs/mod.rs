//! Jobs of the configuration: `backup --job`, `forget --job`, `prune|verify --repository`, `copy --copy`.
//!
//! A run of a job is a *supervisor*. It takes the job's lock, writes down that the run began, and runs the command that a person would
//! type (`keepwatch backup --repo … PATHS`) as a child of itself; from the child's JSON document and its end it writes down what came of
//! it. So a run that is killed is known at once, by its parent; a time limit needs nobody's cooperation; and the child can be
//! repeated by hand, because `--verbose` prints its command line. What kills the supervisor itself (kill -9, power) leaves a record
//! without an end, which the next run, or the daemon, writes down as lost.
//!
//! | module | what |
//! |---|---|
//! | `wanted` | which job the command line means |
//! | `task` | what the configuration says of it |
//! | `argv`, `sources` | the child's command line; pure |
//! | `lock` | one run of a job at a time |
//! | `stop` | the request to stop, by a signal |
//! | `child` | a process group with a deadline |
//! | `hooks`, `units` | what is around a run |
//! | `place` | the repository as a place: made where there is none, and what is noted of it |
//! | `report` | what a run came to, from the child's end; pure |
//! | `backoff` | when it is tried again; pure |
//! | `book` | the catalog, which never makes a run fail |
//! | `work`, `say` | the child that does it; a line about it |
//! | `run` | the verb |

mod argv;
mod backoff;
mod book;
mod child;
mod hooks;
mod lock;
mod place;
mod report;
mod run;
mod say;
mod sources;
mod stop;
mod task;
mod units;
mod wanted;
mod work;

pub use argv::{Setting, listing};
pub use book::Book;
pub use run::run;
pub use wanted::{ConfiguredArgs, wanted};

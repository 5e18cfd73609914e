//! The words of Keepwatch that every other crate shares: times, durations, sizes, the retention policy, and the records of
//! what happened.
//!
//! The crate is pure. It does no input or output, starts no thread, and reads neither the clock nor the time zone of the
//! machine: where the present matters, `now` is an argument. So every rule here can be tested with any date, and a decision
//! to drop a snapshot can be repeated from its inputs.
//!
//! | module | what |
//! |---|---|
//! | [`time`] | [`time::Moment`]: an instant with the host's UTC offset, and times as people write them |
//! | [`duration`] | `90s`, `2h30m`; calendar spans such as `1y5m7d2h` |
//! | [`size`] | `10M`, `1.5GiB` |
//! | [`check`] | kinds, reasons, states and severities of health checks |
//! | [`retention`] | which snapshots a policy keeps, and why |
//! | [`ids`] | ids that sort by time |
//! | [`runs`] | runs of backups, verifications, drills |
//! | [`checks`] | results of checks, changes of their state |
//! | [`incidents`] | incidents, restarts, notifications |
//! | [`history`] | any one of these records |
//!
//! All parsers take untrusted text: they return a [`ParseError`] of one sentence, never panic, and never overflow.

pub mod check;
pub mod checks;
pub mod duration;
mod error;
pub mod history;
pub mod ids;
pub mod incidents;
pub mod retention;
pub mod runs;
pub mod size;
pub mod time;
mod words;

pub use error::ParseError;

//! The same story on SQLite and on a real PostgreSQL; faults of both; what two processes do at once.

mod crash;
mod faults;
mod hostile;
mod postgres;
mod source;
mod spawn;
mod stories;
mod support;
mod time;

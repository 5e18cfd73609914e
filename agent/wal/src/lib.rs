//! PostgreSQL with point-in-time recovery: what its base backups and its write-ahead log are, and whether they suffice for a restore.
//!
//! The engine stores a base backup as a stream and each file of the log as an object; it knows their names and no more. Here is what PostgreSQL means by them.
//!
//! 1. words: [`lsn`], [`history`], [`tar`]
//! 2. what the server writes: [`pages`] (segments), [`label`] (of a base backup)
//! 3. [`source`] (a file to push), [`stream`] (a base backup as it passes), [`extract`] (one put into a directory), [`settings`] (of a recovery)
//! 4. [`log`] (what is in a repository), [`gaps`] (what is not)

pub mod extract;
pub mod gaps;
pub mod history;
pub mod label;
pub mod log;
pub mod lsn;
pub mod pages;
pub mod settings;
pub mod source;
pub mod stream;
pub mod tar;

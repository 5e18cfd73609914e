//! Encrypted, deduplicated backups as a library.
//!
//! Start here: [`repository::Repository`] opens a repository in a [`store::Store`]; the verbs are functions over it.
//! The format is specified in `FORMAT.md` beside this crate. Layers, each using only those before it:
//!
//! 1. words: [`ids`], [`limits`], [`secret`], [`keys`], [`wal_file`]
//! 2. bytes: [`seal`] (age), [`record`] (signatures), [`records`] (bodies), [`envelope`], [`pack`], [`chunker`], [`list`], [`manifest`]
//! 3. places: [`store`], [`lookup`] (the local index), [`repository`], [`snapshots`], [`chunks`], [`wal`]
//! 4. verbs: [`backup`], [`restore`], [`browse`], [`verify`], [`forget`], [`prune`], [`copy`], [`repair`]

pub mod backup;
pub mod browse;
pub mod chunker;
pub mod chunks;
mod contents;
pub mod copy;
pub mod dump;
pub mod envelope;
pub mod forget;
pub mod ids;
mod inventory;
pub mod keys;
pub mod limits;
pub mod list;
pub mod lookup;
pub mod manifest;
pub mod marks;
pub mod object;
pub mod pack;
pub mod patterns;
pub mod progress;
pub mod prune;
pub mod record;
pub mod records;
pub mod repair;
pub mod repository;
pub mod restore;
pub mod seal;
pub mod secret;
pub mod snapshots;
pub mod store;
pub mod verify;
pub mod wal;
pub mod wal_file;

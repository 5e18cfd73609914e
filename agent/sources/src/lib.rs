//! Databases and services as sources of backups.
//!
//! A [`source::Source`] is what is backed up: a kind with checked parameters. [`source::Source::dump`] begins a
//! [`dump::Dumping`]: named streams, one after another, each with a verdict at its end. A stream is whole only when its program succeeded,
//! said nothing that speaks against it, and its bytes end as such a dump ends; one that is not spoils the whole dump. The last stream,
//! [`about::NAME`], says what the others are, so that a snapshot holds all that its restore needs. [`restore`] brings them back from any
//! [`restore::Stored`], after it has looked at all that could stand in the way.
//!
//! Nothing here knows how a repository works. Programs run without a shell, in process groups of their own, with an environment of their
//! own, and are given passwords in files that only they can read.
//!
//! | layer | modules |
//! |---|---|
//! | words | `fault`, `text`, `secret`, `about`, `mounts` |
//! | means | `setting`, `chance`, `scratch`, `child`, `check`, `dump`, `http`, `spec` |
//! | kinds | `postgresql`, `mysql`, `sqlite`, `redis`, `qdrant`, `command`, `container` |
//! | beneath files | `view` |
//! | roof | `source`, `restore`, `rehearse` |

pub mod about;
mod account;
mod chance;
pub mod check;
pub mod child;
pub mod command;
pub mod container;
pub mod dump;
pub mod fault;
mod http;
mod mounts;
pub mod mysql;
pub mod postgresql;
pub mod qdrant;
pub mod redis;
pub mod rehearse;
pub mod restore;
pub mod scratch;
pub mod secret;
pub mod setting;
pub mod source;
pub mod spec;
pub mod sqlite;
mod text;
pub mod view;

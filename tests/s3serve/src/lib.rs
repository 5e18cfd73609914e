//! What the S3 client is tested against: an S3 server in memory that misbehaves on command ([`Server`]), and a TCP proxy that does the same one layer
//! below ([`Proxy`]). Both run in this process on a thread of their own, or as the program `keepwatch-s3serve` beside tests in other languages.
//!
//! The protocol (SigV4, XML, chunked uploads) is s3s's; what an S3 service promises (atomic conditional writes, checksums that refuse before anything
//! is stored, versions, Object Lock) is ours, so that each promise can be broken alone:
//!
//! - [`Switches`]: what kind of service this is (ignores conditions, knows no SHA-256, lists late, clock off, ...);
//! - [`Rule`]s: what happens to which request (an error answer, an answer lost after the work was done, wrong bytes, a stall, ...);
//! - [`LinkRule`]s of the proxy: what happens to which connection (reset after n bytes, black hole, latency, ...).
//!
//! Chance comes from a seed: a rule's k-th decision depends on the seed, the rule and k only, not on what other requests do.
//!
//! `tests/s3/server` starts real servers, and `tests/compare.rs` holds this one against them.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod access;
mod blob;
mod chance;
mod clock;
mod control;
mod digest;
mod host;
mod http;
mod objects;
mod operations;
mod proxy;
mod real;
mod record;
mod rules;
mod server;
mod settings;
mod uploads;

pub use control::Control;
pub use objects::{LockMode, Retention, Seen};
pub use proxy::{Cause, Fault, Link, LinkRule, LinkStats, Proxy, ProxyConfig, Side};
pub use real::RealServer;
pub use record::{Record, Stats};
pub use rules::{Action, Rule};
pub use server::Server;
pub use settings::{Account, Checksums, Conditions, Config, Group, Switches};

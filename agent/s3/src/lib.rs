//! Repositories in S3: the engine's [`Store`](keepwatch_engine::store::Store) over aws-sdk-s3.
//!
//! One object of the repository is one object of the bucket, written by one `PutObject` (a pack has about 16 MiB and at most 256 MiB, so there are no multipart uploads
//! and none to sweep). What the store relies on is little: what was put can be read and listed after it (S3 is strongly consistent). What servers do differently is
//! met as follows, and shown by `keepwatch doctor` ([`probe`]):
//!
//! - **Conditional writes** (`If-None-Match: *`) are asked for with every put. A server may ignore them: names of packs and records are hashes of their bytes, so to
//!   write one again changes nothing; for the few names that are not (`config`, keys, writers) we look first. No correctness rests on the condition.
//! - **Checksums**: every put carries one that is computed here, in a header of its own, and a signed hash of the body. Servers that do not check it exist, hence every object
//!   that is read whole is compared with the hash in its name, and read again when it differs.
//! - **Retries** are ours ([`retry`]); those of the SDK are off. An answer that is lost after the work was done is harmless, since a put that meets its own object is done.
//! - **Object Lock**: with it every put carries a date until which it cannot be removed. A removal that is refused for that reason is [`Fault::Locked`](keepwatch_engine::store::Fault).
//!
//! The engine calls stores from threads and blocks; the client is asynchronous and has a runtime of two threads in here.

pub mod body;
pub mod classify;
pub mod credentials;
pub mod options;
pub mod probe;
pub mod rate;
mod requests;
pub mod retry;
pub mod store;
mod versions;
mod wire;

pub use options::{Checksum, CredentialSource, LockMode, ObjectLock, Options, Place};
pub use store::S3Store;

//! What the server is (fixed at the start: [`Config`]) and what kind of service it plays (changed at any time: [`Switches`], [`Account`]s).

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::objects::Retention;
use crate::rules::Rule;

/// How the server is started. `Default` is right for most tests.
#[derive(Clone)]
pub struct Config {
    /// Where S3 is served.
    pub listen: SocketAddr,
    /// Where the control endpoint is served; `None`: not at all (the handle does the same).
    pub control: Option<SocketAddr>,
    /// The region in signatures and answers.
    pub region: String,
    /// A bucket that is there from the start.
    pub bucket: String,
    /// It keeps versions.
    pub versioned: bool,
    /// It has Object Lock (and so keeps versions).
    pub object_lock: bool,
    /// Its default retention.
    pub retention: Option<Retention>,
    /// Who may call. The first is what [`crate::Server::access_key`] names.
    pub accounts: Vec<Account>,
    /// Bodies lie here instead of in memory; they are removed with their objects. Objects do not outlive the server.
    pub dir: Option<PathBuf>,
    /// Bytes that each part of a multipart upload but the last must have. Real: 5 MiB.
    pub min_part: u64,
    /// Bytes that a request's body may have; a body lies in memory while its request runs.
    pub max_body: u64,
    /// Where chance comes from.
    pub seed: u64,
    /// Its first switches.
    pub switches: Switches,
    /// Its first rules.
    pub rules: Vec<Rule>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            control: None,
            region: "us-east-1".into(),
            bucket: "keepwatch".into(),
            versioned: false,
            object_lock: false,
            retention: None,
            accounts: vec![Account::test()],
            dir: None,
            min_part: 5 << 20,
            max_body: 1 << 30,
            seed: 1,
            switches: Switches::default(),
            rules: Vec::new(),
        }
    }
}

/// Somebody who may call.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// The access key id.
    pub access_key: String,
    /// The secret key. It is worth nothing: this server is for tests.
    pub secret_key: String,
    /// The session token that must come with it, if any.
    #[serde(default)]
    pub session_token: Option<String>,
    /// Every call is answered with `ExpiredToken`.
    #[serde(default)]
    pub expired: bool,
    /// What this account may not do.
    #[serde(default)]
    pub denied: BTreeSet<Group>,
}

impl Account {
    /// The account of a test that does not care.
    pub fn test() -> Self {
        Account::new("AKIAKEEPWATCHTEST", "keepwatch-test-secret-worth-nothing")
    }
    /// An account that may do everything.
    pub fn new(access_key: &str, secret_key: &str) -> Self {
        Account {
            access_key: access_key.into(),
            secret_key: secret_key.into(),
            session_token: None,
            expired: false,
            denied: BTreeSet::new(),
        }
    }
    /// The same, not allowed to do these.
    pub fn without(mut self, groups: &[Group]) -> Self {
        self.denied.extend(groups);
        self
    }
}

/// What kind of service this is. `Default` is one that keeps all promises.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Switches {
    /// `If-None-Match` and `If-Match` of writes.
    pub conditions: Conditions,
    /// Checksums of uploads.
    pub checksums: Checksums,
    /// What nobody may do.
    pub denied: BTreeSet<Group>,
    /// Most names in one page of a listing, whatever the client asks for.
    pub max_keys: usize,
    /// The newest so many writes are not in listings yet (an eventually consistent service).
    pub list_lag: u64,
    /// The server's clock is off by so many seconds: in `Date`, in modification times, in the expiry of locks, and in what it calls a skewed request.
    pub clock_offset_seconds: i64,
}

impl Default for Switches {
    fn default() -> Self {
        Switches {
            conditions: Conditions::Honoured,
            checksums: Checksums::Verified,
            denied: BTreeSet::new(),
            max_keys: 1000,
            list_lag: 0,
            clock_offset_seconds: 0,
        }
    }
}

/// What becomes of conditions on writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Conditions {
    /// Checked in one step with the write: one winner.
    Honoured,
    /// Overlooked: the object is overwritten (Ceph's dbstore, s3rver, Garage 2.0).
    Ignored,
    /// Answered with 501 `NotImplemented`.
    Refused,
    /// Checked, then written some milliseconds later: several winners (s3s-fs; Ceph with versions).
    Racy,
}

/// What becomes of `x-amz-checksum-*` and `Content-MD5`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Checksums {
    /// A wrong one is refused, nothing is stored; the right one comes back with the object.
    Verified,
    /// Not looked at, not given back (moto, Ceph for all but `Content-MD5`).
    Ignored,
    /// SHA-256 is not known: 400 `InvalidRequest`; the others are verified.
    RefuseSha256,
    /// Uploads in aws-chunked framing with a trailer are refused (Garage 2.0).
    RefuseTrailers,
    /// A wrong one is refused, but the object stays (s3s-fs).
    StoreThenRefuse,
}

/// What a call does, for permissions and rules.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    /// Writes objects, multipart uploads included.
    Put,
    /// Reads objects: get, head.
    Get,
    /// Lists objects, versions, uploads, parts.
    List,
    /// Deletes objects (with or without naming a version).
    Delete,
    /// Deletes by naming a version.
    DeleteVersion,
    /// Changes retention or legal hold.
    Lock,
    /// Asks about or changes buckets.
    Bucket,
}

impl Group {
    /// The group of an operation by its AWS name.
    pub fn of(operation: &str, names_version: bool) -> Group {
        match operation {
            "DeleteObject" if names_version => Group::DeleteVersion,
            "DeleteObject" | "DeleteObjects" => Group::Delete,
            "GetObject" | "HeadObject" | "GetObjectRetention" | "GetObjectLegalHold" => Group::Get,
            "PutObjectRetention" | "PutObjectLegalHold" | "PutObjectLockConfiguration" => {
                Group::Lock
            }
            "PutObject" | "UploadPart" => Group::Put,
            o if o.ends_with("MultipartUpload") => Group::Put,
            o if o.starts_with("List") && o != "ListBuckets" => Group::List,
            _ => Group::Bucket,
        }
    }
    /// Is a call of group `other` forbidden where `self` is?
    pub fn covers(self, other: Group) -> bool {
        self == other || (self == Group::Delete && other == Group::DeleteVersion)
    }
    /// The name in rules.
    pub fn name(self) -> &'static str {
        match self {
            Group::Put => "put",
            Group::Get => "get",
            Group::List => "list",
            Group::Delete => "delete",
            Group::DeleteVersion => "delete-version",
            Group::Lock => "lock",
            Group::Bucket => "bucket",
        }
    }
    /// Does it change anything? (Of `Bucket`, only reading calls are counted on.)
    pub fn changes(self) -> bool {
        !matches!(self, Group::Get | Group::List | Group::Bucket)
    }
}

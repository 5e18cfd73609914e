//! `[repositories.NAME]`: one place of objects each, on local disk or in S3, with its schedules of prune and verify; and
//! `[copies.NAME]`: snapshots replicated from one to another.

use std::path::PathBuf;
use std::time::Duration;

use keepwatch_watch::calendar::Calendar;
use serde::Deserialize;

use super::{CALENDARS, Retry};
use crate::secret::SecretSource;
use crate::shape::{Shape, one, table, words};
use crate::text::Text;

table! {
    /// A repository: one place of objects.
    pub struct Repository: REPOSITORY {
        /// Where the objects lie.
        backend: Backend = Shape::One(&BACKEND), Required, also ["url", "path", "repo", "location"];
        /// Who can read the backups: public keys of age or SSH. Their private halves belong somewhere else. Needed when the repository is created.
        recipients: Vec<String> = Shape::List(&Shape::Text(Text::Recipient), 1, 64), Required, also ["recipient", "public_keys"];
        /// The host's writing secrets, made by `keepwatch init`. They cannot read what was written.
        writer_key_file: Option<SecretSource> = Shape::Text(Text::Secret), Absent;
        /// An identity that can read. Only drills, verifying what is inside, and copying to a repository with other keys need it; a host that does none of these should not have it.
        identity_file: Option<SecretSource> = Shape::Text(Text::Secret), Absent;
        /// Create the repository when it is absent; refused when the catalog has seen it filled before.
        initialize: bool = Shape::Bool, Value("true");
        /// Deleting what nothing needs any more.
        prune: Prune = Shape::Table(&PRUNE), Empty;
        /// Looking for damage.
        verify: Verify = Shape::Table(&VERIFY), Empty;
        /// What a run may take from the line.
        limits: Limits = Shape::Table(&LIMITS), Empty;
    }
}

one! {
    /// Where the objects of a repository lie.
    pub enum Backend: BACKEND {
        /// In a directory of this host.
        Local(Local) = "local", Shape::Table(&LOCAL), also ["file", "filesystem", "directory"];
        /// In a bucket that speaks S3.
        S3(S3) = "s3", Shape::Table(&S3_KEYS), also ["aws", "bucket"];
    }
}

table! {
    /// In a directory of this host.
    pub struct Local: LOCAL {
        /// The directory.
        path: PathBuf = Shape::Text(Text::Path), Required, also ["directory", "dir"];
        /// Create it when it is absent.
        create_directory: bool = Shape::Bool, Value("true");
        /// Refuse to write when nothing is mounted here, so that an absent disk does not fill the one beneath it.
        require_mount: Option<PathBuf> = Shape::Text(Text::Path), Absent;
    }
}

table! {
    /// In a bucket that speaks S3.
    pub struct S3: S3_KEYS {
        /// The bucket.
        bucket: String = Shape::Text(Text::Bucket), Required;
        /// What stands before the names of all objects.
        prefix: String = Shape::Text(Text::Prefix), Value("\"\"");
        /// The server; AWS when it is left out.
        endpoint: Option<String> = Shape::Text(Text::Url), Absent;
        /// The region.
        region: String = Shape::Text(Text::Line), Value("\"us-east-1\"");
        /// Name the bucket in the path instead of the host.
        path_style: bool = Shape::Bool, Derived("true with an `endpoint`, else false");
        /// Trust only the certificates of this PEM file.
        ca_file: Option<PathBuf> = Shape::Text(Text::Path), Absent;
        /// Storage class of packs; one from which can be read at once.
        storage_class: Option<String> = Shape::Text(Text::Name), Absent;
        /// The access key id.
        access_key_id_file: Option<SecretSource> = Shape::Text(Text::Secret), Absent;
        /// The secret access key.
        secret_access_key_file: Option<SecretSource> = Shape::Text(Text::Secret), Absent;
        /// The session token.
        session_token_file: Option<SecretSource> = Shape::Text(Text::Secret), Absent;
        /// A credentials file of AWS, instead of the two.
        credentials_file: Option<SecretSource> = Shape::Text(Text::Secret), Absent;
        /// The profile in that file.
        profile: Option<String> = Shape::Text(Text::Line), Absent;
        /// Locking what is written.
        object_lock: ObjectLock = Shape::Table(&OBJECT_LOCK), Empty;
    }
}

table! {
    /// S3 Object Lock: what is locked cannot be deleted before its time, by nobody.
    pub struct ObjectLock: OBJECT_LOCK {
        /// How strictly.
        mode: LockMode = Shape::Words(LOCK_MODE), Value("\"off\"");
        /// For how long; whole days.
        retain: Duration ["crate::typed::duration"] = Shape::Text(Text::Duration(86_400_000, 3653 * 86_400_000)), Value("\"30d\""), also ["days"];
    }
}

words! {
    /// How strictly objects are locked.
    pub enum LockMode: LOCK_MODE {
        /// Not at all.
        Off = "off",
        /// Who has a special right can take the lock away.
        Governance = "governance",
        /// Nobody can.
        Compliance = "compliance",
    }
}

table! {
    /// Deleting what nothing needs any more: one unit for each repository.
    pub struct Prune: PRUNE {
        /// Whether it is done.
        enable: bool = Shape::Bool, Value("true"), also ["enabled"];
        /// When. An empty list: by hand only.
        start_at: Vec<Calendar> ["crate::typed::calendars"] = CALENDARS, Value("\"weekly\""), also ["schedule"];
        /// How long what was marked is kept before it is deleted; longer than the longest backup takes.
        grace_delete: Duration ["crate::typed::duration"] = Shape::Text(Text::Duration(3_600_000, 366 * 86_400_000)), Value("\"24h\""), also ["grace"];
    }
}

table! {
    /// Looking for damage: one unit for each repository.
    pub struct Verify: VERIFY {
        /// Whether it is done.
        enable: bool = Shape::Bool, Value("true"), also ["enabled"];
        /// When. An empty list: by hand only.
        start_at: Vec<Calendar> ["crate::typed::calendars"] = CALENDARS, Value("\"monthly\""), also ["schedule"];
        /// How much of the data is read: `"metadata"` (only whether all is there), `"all"`, or that many percent, other ones each time.
        read_data: ReadData = Shape::Either(&[Shape::Words(READ_DATA), Shape::Int(1, 100)]), Value("\"metadata\"");
    }
}

pub(crate) static READ_DATA: &[crate::shape::Word] = &[
    ("metadata", "Whether every object is there."),
    ("all", "Every byte."),
];

/// How much of the data `verify` reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum ReadData {
    /// A word.
    Word(ReadDataWord),
    /// So many percent.
    Percent(u8),
}

/// All or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReadDataWord {
    /// Whether every object is there.
    Metadata,
    /// Every byte.
    All,
}

table! {
    /// What a run may take from the line.
    pub struct Limits: LIMITS {
        /// Bytes a second that are sent at most, such as `2M`.
        upload_rate: Option<u64> as ["crate::typed::maybe_size"] = Shape::Text(Text::Size), Absent, also ["upload"];
        /// Bytes a second that are received at most.
        download_rate: Option<u64> as ["crate::typed::maybe_size"] = Shape::Text(Text::Size), Absent, also ["download"];
    }
}

table! {
    /// Snapshots replicated from one repository to another, so that there is one elsewhere.
    pub struct Copy: COPY {
        /// Whether it is done.
        enable: bool = Shape::Bool, Value("true"), also ["enabled"];
        /// The repository copied from.
        from: String = Shape::Text(Text::Ref("repositories")), Required, also ["source"];
        /// The repository copied to.
        to: String = Shape::Text(Text::Ref("repositories")), Required, also ["target", "destination"];
        /// Only snapshots of these backups; of all when it is empty.
        backups: Vec<String> = Shape::List(&Shape::Text(Text::Ref("backups")), 0, 256), Value("[]");
        /// When. An empty list: by hand only.
        start_at: Vec<Calendar> ["crate::typed::calendars"] = CALENDARS, Value("\"daily\""), also ["schedule"];
        /// How often and when a run that failed is tried again.
        retry: Retry = Shape::Table(&super::RETRY), Empty;
        /// A run that lasts longer is ended.
        timeout: Duration ["crate::typed::duration"] = super::RUN_TIMEOUT, Value("\"12h\"");
    }
}

//! What must be known to speak to a server: the place (`s3://bucket/prefix`), the endpoint, and the named limits.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// Connections at once: each put holds an object of about 16 MiB.
pub const CONNECTIONS: usize = 4;
/// Seconds until a connection must stand, TLS included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A transfer that moves no byte for so long is given up and tried again.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an operation is tried again at most.
pub const RETRY_FOR: Duration = Duration::from_secs(600);

/// A bucket and a prefix in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name of the bucket.
    pub bucket: String,
    /// Without slashes at its ends; empty for the bucket itself.
    pub prefix: String,
}

/// Why a text is no place in S3.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlaceError {
    /// It does not begin with `s3://`.
    #[error("it does not begin with s3://")]
    Scheme,
    /// The bucket's name.
    #[error("'{0}' cannot be the name of a bucket (3 to 63 characters of a-z, 0-9, '.', '-', '_')")]
    Bucket(String),
    /// The prefix.
    #[error(
        "the prefix must have at most 512 bytes, no empty parts, no '.' and '..', and no control characters"
    )]
    Prefix,
}

impl Place {
    /// Parses `s3://bucket/prefix`.
    pub fn parse(text: &str) -> Result<Place, PlaceError> {
        let rest = text.strip_prefix("s3://").ok_or(PlaceError::Scheme)?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        // The rule of AWS, and what older and other servers allow beyond it: capitals and underscores.
        let ok = (3..=63).contains(&bucket.len())
            && bucket
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
            && bucket
                .bytes()
                .next()
                .is_some_and(|b| b.is_ascii_alphanumeric());
        if !ok {
            return Err(PlaceError::Bucket(
                bucket.escape_default().take(80).collect(),
            ));
        }
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        let bad = prefix.len() > 512
            || (!prefix.is_empty()
                && prefix
                    .split('/')
                    .any(|p| p.is_empty() || p == "." || p == ".."))
            || prefix.chars().any(char::is_control);
        if bad {
            return Err(PlaceError::Prefix);
        }
        Ok(Place {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
        })
    }

    /// The key of an object or area.
    pub fn key(&self, name: &str) -> String {
        if self.prefix.is_empty() {
            name.to_owned()
        } else {
            format!("{}/{name}", self.prefix)
        }
    }
}

/// Where credentials come from. Only paths, never the secrets.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum CredentialSource {
    /// As the SDK finds them: environment, shared files, web identity, container, instance.
    #[default]
    Chain,
    /// A profile of an AWS credentials file.
    Profile {
        /// The file; the usual one when absent.
        file: Option<PathBuf>,
        /// The profile; `default` when absent.
        profile: Option<String>,
    },
    /// One file for each part.
    Files {
        /// The access key id.
        access_key: PathBuf,
        /// The secret access key.
        secret_key: PathBuf,
        /// The session token.
        session_token: Option<PathBuf>,
    },
}

/// The checksum that goes with every put.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Checksum {
    /// SHA-256, and what the server takes if it refuses that.
    #[default]
    Auto,
    /// `x-amz-checksum-sha256`.
    Sha256,
    /// `x-amz-checksum-crc64nvme`.
    Crc64Nvme,
    /// Only the signed hash of the body.
    None,
}

/// How strong a lock is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockMode {
    /// May be lifted by those with a special permission.
    Governance,
    /// By nobody.
    Compliance,
}

/// Object Lock for what is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectLock {
    /// How strong.
    pub mode: LockMode,
    /// For how long from the put.
    pub days: u32,
}

/// Encryption by the server, beside our own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerSide {
    /// `AES256`: keys of the service.
    S3,
    /// `aws:kms`, with a key id or the account's default.
    Kms(Option<String>),
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bucket and prefix.
    pub place: Place,
    /// URL of the server; AWS when absent.
    pub endpoint: Option<String>,
    /// Region; from the environment when absent, else `us-east-1`.
    pub region: Option<String>,
    /// Bucket in the path instead of the host's name. When absent: with an endpoint yes, at AWS no.
    pub path_style: Option<bool>,
    /// Certificates (PEM) that are trusted instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Where credentials come from.
    pub credentials: CredentialSource,
    /// Checksum of puts.
    pub checksum: Checksum,
    /// Lock what is put.
    pub object_lock: Option<ObjectLock>,
    /// Storage class of packs; everything else stays in the standard class, as it is read by every run.
    pub storage_class: Option<String>,
    /// Encryption by the server.
    pub server_side: Option<ServerSide>,
    /// The requester pays.
    pub requester_pays: bool,
    /// Connections at once.
    pub connections: usize,
    /// Bytes per second.
    pub limit_upload: Option<u64>,
    /// Bytes per second.
    pub limit_download: Option<u64>,
    /// See [`CONNECT_TIMEOUT`].
    pub connect_timeout: Duration,
    /// See [`IDLE_TIMEOUT`].
    pub idle_timeout: Duration,
    /// See [`RETRY_FOR`].
    pub retry_for: Duration,
    /// Read the bucket as it was then, from its older versions. Such a store cannot be written to.
    pub as_of: Option<SystemTime>,
}

impl Options {
    /// The defaults for a place.
    pub fn new(place: Place) -> Self {
        Options {
            place,
            endpoint: None,
            region: None,
            path_style: None,
            ca_file: None,
            credentials: CredentialSource::default(),
            checksum: Checksum::default(),
            object_lock: None,
            storage_class: None,
            server_side: None,
            requester_pays: false,
            connections: CONNECTIONS,
            limit_upload: None,
            limit_download: None,
            connect_timeout: CONNECT_TIMEOUT,
            idle_timeout: IDLE_TIMEOUT,
            retry_for: RETRY_FOR,
            as_of: None,
        }
    }

    /// The place for people, and the name under which this machine remembers it: two servers may have buckets of the same name.
    pub fn location(&self) -> String {
        let mut text = format!("s3://{}", self.place.bucket);
        if !self.place.prefix.is_empty() {
            text.push('/');
            text.push_str(&self.place.prefix);
        }
        if let Some(endpoint) = &self.endpoint {
            text.push_str("?endpoint=");
            text.push_str(endpoint);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let p = |t: &str| Place::parse(t);
        for (text, bucket, prefix, key) in [
            ("s3://backups", "backups", "", "config"),
            ("s3://backups/", "backups", "", "config"),
            (
                "s3://backups/hosts/a",
                "backups",
                "hosts/a",
                "hosts/a/config",
            ),
            (
                "s3://backups/hosts/a/",
                "backups",
                "hosts/a",
                "hosts/a/config",
            ),
            (
                "s3://Old_Bucket.1/x y+%",
                "Old_Bucket.1",
                "x y+%",
                "x y+%/config",
            ),
        ] {
            let place = p(text).unwrap();
            assert_eq!((&*place.bucket, &*place.prefix), (bucket, prefix), "{text}");
            assert_eq!(place.key("config"), key);
        }
        for text in [
            "s3://",
            "s3:///x",
            "s3://ab",
            "s3://-ab",
            "s3://a b c",
            "s3://bucket//x",
            "s3://bucket/../x",
            "s3://bucket/a/./b",
            "s3://bucket/a\nb",
            "/s3://bucket",
            "S3://bucket",
            "s3://b\u{fc}cket",
        ] {
            assert!(p(text).is_err(), "{text:?}");
        }
        assert!(p(&format!("s3://bucket/{}", "a".repeat(513))).is_err());
        assert!(p(&format!("s3://{}", "a".repeat(64))).is_err());
    }

    #[test]
    fn locations_of_two_servers_differ() {
        let mut o = Options::new(Place::parse("s3://backups/a").unwrap());
        assert_eq!(o.location(), "s3://backups/a");
        o.endpoint = Some("http://127.0.0.1:9000".into());
        assert_eq!(
            o.location(),
            "s3://backups/a?endpoint=http://127.0.0.1:9000"
        );
    }
}

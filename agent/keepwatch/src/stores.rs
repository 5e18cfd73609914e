//! Where a repository lies, from its text and the options: a directory, or `s3://bucket/prefix`.
//!
//! Options for S3 are `--s3-NAME VALUE`, or `?name=value&…` behind the place itself, which counts more: so two repositories of one command may differ. Only paths of
//! secrets are ever given, never the secrets.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::Args;
use keepwatch_engine::progress::Cancel;
use keepwatch_engine::store::local::LocalStore;
use keepwatch_engine::store::{Area, Name, Store, StoreError};
use keepwatch_model::duration::parse_duration;
use keepwatch_model::size::parse_size;
use keepwatch_model::time::parse_when;
use keepwatch_s3::options::ServerSide;
use keepwatch_s3::{Checksum, CredentialSource, LockMode, ObjectLock, Options, Place, S3Store};

use crate::errors::Failure;
use crate::output::escape;
use crate::{clock, keys};

/// Options for `s3://` repositories.
#[derive(Args, Clone, Default)]
#[command(next_help_heading = "S3 options (see also 'keepwatch doctor')")]
pub struct S3Args {
    /// URL of the server; without one AWS is meant
    #[arg(
        long,
        global = true,
        hide_short_help = true,
        value_name = "URL",
        env = "KEEPWATCH_S3_ENDPOINT",
        hide_env_values = true
    )]
    pub s3_endpoint: Option<String>,
    /// Region [default: $AWS_REGION, else us-east-1]
    #[arg(long, global = true, hide_short_help = true, value_name = "REGION")]
    pub s3_region: Option<String>,
    /// Name the bucket in the path instead of the host [default: true with --s3-endpoint]
    #[arg(long, global = true, hide_short_help = true, value_name = "BOOL")]
    pub s3_path_style: Option<bool>,
    /// Trust the certificates in this file (PEM) instead of the system's
    #[arg(long, global = true, hide_short_help = true, value_name = "FILE")]
    pub s3_ca_file: Option<PathBuf>,
    /// File with the access key id; without any credential option: systemd credentials s3-access-key, s3-secret-key, s3-session-token or s3-credentials, else what the AWS SDK finds
    #[arg(
        long,
        global = true,
        hide_short_help = true,
        value_name = "FILE",
        requires = "s3_secret_key_file"
    )]
    pub s3_access_key_file: Option<PathBuf>,
    /// File with the secret access key
    #[arg(
        long,
        global = true,
        hide_short_help = true,
        value_name = "FILE",
        requires = "s3_access_key_file"
    )]
    pub s3_secret_key_file: Option<PathBuf>,
    /// File with the session token
    #[arg(
        long,
        global = true,
        hide_short_help = true,
        value_name = "FILE",
        requires = "s3_access_key_file"
    )]
    pub s3_session_token_file: Option<PathBuf>,
    /// AWS credentials file
    #[arg(
        long,
        global = true,
        hide_short_help = true,
        value_name = "FILE",
        conflicts_with = "s3_access_key_file"
    )]
    pub s3_credentials_file: Option<PathBuf>,
    /// Profile in the AWS credentials file
    #[arg(
        long,
        global = true,
        hide_short_help = true,
        value_name = "NAME",
        conflicts_with = "s3_access_key_file"
    )]
    pub s3_profile: Option<String>,
    /// Checksum sent with every object: auto, sha256, crc64nvme, none (the signed hash of the body is always sent)
    #[arg(long, global = true, hide_short_help = true, value_name = "KIND")]
    pub s3_checksum: Option<String>,
    /// Lock what is written: governance:DAYS or compliance:DAYS (the bucket needs Object Lock)
    #[arg(long, global = true, hide_short_help = true, value_name = "MODE:DAYS")]
    pub s3_object_lock: Option<String>,
    /// Storage class of packs, one from which can be read at once
    #[arg(long, global = true, hide_short_help = true, value_name = "CLASS")]
    pub s3_storage_class: Option<String>,
    /// Encryption by the server, beside our own: AES256, aws:kms or aws:kms:KEY
    #[arg(long, global = true, hide_short_help = true, value_name = "KIND")]
    pub s3_server_side_encryption: Option<String>,
    /// Agree to pay for requests to somebody else's bucket
    #[arg(long, global = true, hide_short_help = true, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub s3_requester_pays: Option<bool>,
    /// Requests at once, 1 to 64 [default: 16]; an eighth of them, at least two, may be uploads of 17 MiB each
    #[arg(long, global = true, hide_short_help = true, value_name = "N")]
    pub s3_connections: Option<usize>,
    /// Give up connecting after [default: 10s]
    #[arg(long, global = true, hide_short_help = true, value_name = "DURATION")]
    pub s3_connect_timeout: Option<String>,
    /// Give up a transfer that stands still for [default: 30s], and try again
    #[arg(long, global = true, hide_short_help = true, value_name = "DURATION")]
    pub s3_idle_timeout: Option<String>,
    /// Try an operation again for at most [default: 10m]
    #[arg(long, global = true, hide_short_help = true, value_name = "DURATION")]
    pub s3_retry_for: Option<String>,
    /// Look at the bucket as it was then, from its older versions: brings back what was deleted or overwritten
    #[arg(long, global = true, hide_short_help = true, value_name = "TIME")]
    pub s3_as_of: Option<String>,
    /// Send at most so many bytes a second to S3, such as 2M
    #[arg(long, global = true, hide_short_help = true, value_name = "SIZE")]
    pub limit_upload: Option<String>,
    /// Receive at most so many bytes a second from S3
    #[arg(long, global = true, hide_short_help = true, value_name = "SIZE")]
    pub limit_download: Option<String>,
}

/// Where a repository lies.
#[derive(Clone, Debug)]
pub enum Target {
    /// A directory.
    Local {
        /// Absolute.
        path: PathBuf,
    },
    /// A bucket and a prefix.
    S3(Box<Options>),
}

impl Target {
    /// The place that `text` means. `prefix`: what the names of systemd credentials begin with.
    pub fn parse(text: &OsStr, args: &S3Args, prefix: &str) -> Result<Target, Failure> {
        let shown = text.to_string_lossy();
        if text.is_empty() {
            return Err(Failure::usage("the name of the repository is empty")
                .advice("give --repo the path of a directory, or s3://bucket/prefix"));
        }
        match shown.split_once("://") {
            None => Ok(Target::Local {
                path: resolve(Path::new(text)),
            }),
            Some(("s3", _)) => options(&shown, args, prefix).map(|o| Target::S3(Box::new(o))),
            Some((other, _)) => Err(Failure::usage(format!(
                "a repository at '{}://' is of an unknown kind",
                escape(other)
            ))
            .advice("give --repo the path of a directory, or s3://bucket/prefix")),
        }
    }

    /// For messages, and the name under which this machine remembers it.
    pub fn location(&self) -> String {
        match self {
            Target::Local { path, .. } => path.display().to_string(),
            Target::S3(options) => options.location(),
        }
    }

    /// The directory of a local one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Target::Local { path, .. } => Some(path),
            Target::S3(_) => None,
        }
    }

    /// Opens the store of an existing repository.
    pub fn open(&self, cancel: &Cancel) -> Result<Arc<dyn Store>, StoreError> {
        Ok(match self {
            Target::Local { path, .. } => Arc::new(LocalStore::open(path)?),
            Target::S3(options) => Arc::new(S3Store::open((**options).clone(), cancel.clone())?),
        })
    }

    /// Makes the store of a new one.
    pub fn create(&self, cancel: &Cancel) -> Result<Arc<dyn Store>, StoreError> {
        Ok(match self {
            Target::Local { path, .. } => Arc::new(LocalStore::create(path)?),
            Target::S3(_) => self.open(cancel)?,
        })
    }
}

/// What of a repository stands at a place that should be empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leftover {
    /// A repository.
    Whole,
    /// Data, but no `config`.
    Robbed,
    /// Keys only: an interrupted `init`.
    Begun,
}

/// Looks for a repository, or parts of one, in a store.
pub fn leftover(store: &dyn Store) -> Result<Option<Leftover>, StoreError> {
    match store.size(&Name::Config) {
        Ok(_) => return Ok(Some(Leftover::Whole)),
        Err(e) if e.is_missing() => {}
        Err(e) => return Err(e),
    }
    let holds = |area| {
        let mut any = false;
        store.list(area, &mut |_| any = true).map(|()| any)
    };
    for area in [
        Area::Snapshots,
        Area::Packs,
        Area::Index,
        Area::Tombstones,
        Area::Marks,
        Area::Wal,
    ] {
        if holds(area)? {
            return Ok(Some(Leftover::Robbed));
        }
    }
    Ok((holds(Area::Keys)? || holds(Area::Writers)?).then_some(Leftover::Begun))
}

/// An absolute path without links where that can be told, so that one repository has one name.
fn resolve(path: &Path) -> PathBuf {
    std::fs::canonicalize(path)
        .or_else(|_| std::path::absolute(path))
        .unwrap_or_else(|_| path.to_owned())
}

/// The options before the place, then those behind it.
fn options(text: &str, args: &S3Args, prefix: &str) -> Result<Options, Failure> {
    let (place, query) = text.split_once('?').unwrap_or((text, ""));
    let place = Place::parse(place).map_err(|e| {
        Failure::usage(format!("'{}' is no place in S3: {e}", escape(place)))
            .advice("write s3://bucket/prefix, and --s3-endpoint for a server that is not AWS")
    })?;
    let mut set = Setting {
        options: Options::new(place),
        access_key: None,
        secret_key: None,
        session_token: None,
        credentials_file: None,
        profile: None,
    };
    set.options.connections = 16;
    let path = |p: &Option<PathBuf>| p.as_ref().map(|p| p.to_string_lossy().into_owned());
    let bool = |b: &Option<bool>| b.map(|b| b.to_string());
    for (name, value) in [
        ("endpoint", args.s3_endpoint.clone()),
        ("region", args.s3_region.clone()),
        ("path-style", bool(&args.s3_path_style)),
        ("ca-file", path(&args.s3_ca_file)),
        ("access-key-file", path(&args.s3_access_key_file)),
        ("secret-key-file", path(&args.s3_secret_key_file)),
        ("session-token-file", path(&args.s3_session_token_file)),
        ("credentials-file", path(&args.s3_credentials_file)),
        ("profile", args.s3_profile.clone()),
        ("checksum", args.s3_checksum.clone()),
        ("object-lock", args.s3_object_lock.clone()),
        ("storage-class", args.s3_storage_class.clone()),
        (
            "server-side-encryption",
            args.s3_server_side_encryption.clone(),
        ),
        ("requester-pays", bool(&args.s3_requester_pays)),
        ("connections", args.s3_connections.map(|n| n.to_string())),
        ("connect-timeout", args.s3_connect_timeout.clone()),
        ("idle-timeout", args.s3_idle_timeout.clone()),
        ("retry-for", args.s3_retry_for.clone()),
        ("as-of", args.s3_as_of.clone()),
        ("limit-upload", args.limit_upload.clone()),
        ("limit-download", args.limit_download.clone()),
    ] {
        if let Some(value) = value {
            set.set(name, &value)?;
        }
    }
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        let Some((name, value)) = pair.split_once('=') else {
            return Err(Failure::usage(format!(
                "'{}' behind the place in S3 is not name=value",
                escape(pair)
            )));
        };
        set.set(name, value)?;
    }
    set.finish(prefix)
}

struct Setting {
    options: Options,
    access_key: Option<PathBuf>,
    secret_key: Option<PathBuf>,
    session_token: Option<PathBuf>,
    credentials_file: Option<PathBuf>,
    profile: Option<String>,
}

impl Setting {
    fn set(&mut self, name: &str, value: &str) -> Result<(), Failure> {
        let wrong = |why: String| {
            Failure::usage(format!(
                "the S3 option {name} cannot be '{}': {why}",
                escape(value)
            ))
        };
        let one_of = |what: &str| wrong(format!("it is one of {what}"));
        let boolean = || match value {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(one_of("true, false")),
        };
        let duration = || -> Result<Duration, Failure> {
            let d = parse_duration(value).map_err(|e| wrong(e.to_string()))?;
            if d < Duration::from_millis(100) || d > Duration::from_secs(86_400) {
                return Err(wrong("it must lie between 100ms and 1d".into()));
            }
            Ok(d)
        };
        let rate = || -> Result<Option<u64>, Failure> {
            let n = parse_size(value).map_err(|e| wrong(e.to_string()))?;
            if n < 1024 {
                return Err(wrong("it is bytes per second, at least 1K".into()));
            }
            Ok(Some(n))
        };
        let o = &mut self.options;
        match name {
            "endpoint" => {
                let known = value.starts_with("https://") || value.starts_with("http://");
                if !known || value.contains('@') || value.contains('?') {
                    return Err(wrong(
                        "it is a URL like https://s3.example.net, without credentials".into(),
                    ));
                }
                o.endpoint = Some(value.trim_end_matches('/').to_owned());
            }
            "region" => o.region = Some(value.to_owned()),
            "path-style" => o.path_style = Some(boolean()?),
            "ca-file" => o.ca_file = Some(value.into()),
            "access-key-file" => self.access_key = Some(value.into()),
            "secret-key-file" => self.secret_key = Some(value.into()),
            "session-token-file" => self.session_token = Some(value.into()),
            "credentials-file" => self.credentials_file = Some(value.into()),
            "profile" => self.profile = Some(value.to_owned()),
            "checksum" => {
                o.checksum = match value {
                    "auto" => Checksum::Auto,
                    "sha256" => Checksum::Sha256,
                    "crc64nvme" => Checksum::Crc64Nvme,
                    "none" => Checksum::None,
                    _ => return Err(one_of("auto, sha256, crc64nvme, none")),
                }
            }
            "object-lock" => {
                let (mode, days) = value
                    .split_once(':')
                    .ok_or_else(|| one_of("governance:DAYS, compliance:DAYS"))?;
                let mode = match mode {
                    "governance" => LockMode::Governance,
                    "compliance" => LockMode::Compliance,
                    _ => return Err(one_of("governance:DAYS, compliance:DAYS")),
                };
                let days = days.strip_suffix('d').unwrap_or(days);
                let days = days
                    .parse()
                    .ok()
                    .filter(|d| (1..=36_500).contains(d))
                    .ok_or_else(|| wrong("the days are a number from 1 to 36500".into()))?;
                o.object_lock = Some(ObjectLock { mode, days });
            }
            "storage-class" => {
                if matches!(value, "GLACIER" | "DEEP_ARCHIVE") {
                    return Err(wrong("objects in it must be thawed before they can be read, and a restore cannot wait for that; GLACIER_IR can be read at once".into()));
                }
                let ok = !value.is_empty()
                    && value
                        .bytes()
                        .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
                if !ok {
                    return Err(wrong("it is a name like STANDARD_IA".into()));
                }
                o.storage_class = Some(value.to_owned());
            }
            "server-side-encryption" => {
                o.server_side = Some(match value.split_once("aws:kms") {
                    None if value == "AES256" => ServerSide::S3,
                    Some(("", "")) => ServerSide::Kms(None),
                    Some(("", key)) if key.starts_with(':') && key.len() > 1 => {
                        ServerSide::Kms(Some(key[1..].to_owned()))
                    }
                    _ => return Err(one_of("AES256, aws:kms, aws:kms:KEY")),
                })
            }
            "requester-pays" => o.requester_pays = boolean()?,
            "connections" => {
                o.connections = value
                    .parse()
                    .ok()
                    .filter(|n| (1..=64).contains(n))
                    .ok_or_else(|| wrong("it is a number from 1 to 64".into()))?
            }
            "connect-timeout" => o.connect_timeout = duration()?,
            "idle-timeout" => o.idle_timeout = duration()?,
            "retry-for" => o.retry_for = duration()?,
            "as-of" => {
                let when = parse_when(value, clock::now()).map_err(|e| wrong(e.to_string()))?;
                let seconds = u64::try_from(when.unix_seconds())
                    .map_err(|_| wrong("it lies before 1970".into()))?;
                o.as_of = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
            }
            "limit-upload" => o.limit_upload = rate()?,
            "limit-download" => o.limit_download = rate()?,
            _ => {
                return Err(Failure::usage(format!("there is no S3 option '{}'", escape(name)))
                    .advice("see 'keepwatch backup --help'; behind the place they are written without '--s3-', such as s3://bucket/prefix?region=eu-central-1"));
            }
        }
        Ok(())
    }

    fn finish(mut self, prefix: &str) -> Result<Options, Failure> {
        self.options.credentials = match (self.access_key, self.secret_key) {
            (Some(access_key), Some(secret_key)) => CredentialSource::Files {
                access_key,
                secret_key,
                session_token: self.session_token,
            },
            (Some(_), None) | (None, Some(_)) => {
                return Err(Failure::usage(
                    "an access key file and a secret key file are needed both, or neither",
                ));
            }
            (None, None) if self.credentials_file.is_some() || self.profile.is_some() => {
                if let Some(file) = &self.credentials_file {
                    // The SDK reads it, and does not look at its mode.
                    keys::read_secret_file(file, "credentials file")?;
                }
                CredentialSource::Profile {
                    file: self.credentials_file,
                    profile: self.profile,
                }
            }
            (None, None) => from_systemd(prefix),
        };
        Ok(self.options)
    }
}

/// Credentials that systemd handed over, else the SDK's chain.
fn from_systemd(prefix: &str) -> CredentialSource {
    let given = |name: &str| keys::credential(&format!("{prefix}{name}"));
    match (given("s3-access-key"), given("s3-secret-key")) {
        (Some(access_key), Some(secret_key)) => CredentialSource::Files {
            access_key,
            secret_key,
            session_token: given("s3-session-token"),
        },
        _ => match given("s3-credentials") {
            Some(file) => CredentialSource::Profile {
                file: Some(file),
                profile: None,
            },
            None => CredentialSource::Chain,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, args: &S3Args) -> Result<Options, Failure> {
        match Target::parse(OsStr::new(text), args, "")? {
            Target::S3(o) => Ok(*o),
            Target::Local { .. } => panic!("not in S3"),
        }
    }

    #[test]
    fn what_stands_behind_the_place_counts_more() {
        let args = S3Args {
            s3_endpoint: Some("https://a.example".into()),
            s3_region: Some("r1".into()),
            limit_upload: Some("2M".into()),
            ..S3Args::default()
        };
        let o = of("s3://backups/x?endpoint=http://b.example:9000/&object-lock=compliance:30d&connections=3&idle-timeout=5s", &args).unwrap();
        assert_eq!(o.endpoint.as_deref(), Some("http://b.example:9000"));
        assert_eq!(o.region.as_deref(), Some("r1"));
        assert_eq!(o.limit_upload, Some(2 << 20));
        assert_eq!(o.connections, 3);
        assert_eq!(o.idle_timeout, Duration::from_secs(5));
        assert_eq!(
            o.object_lock,
            Some(ObjectLock {
                mode: LockMode::Compliance,
                days: 30
            })
        );
        assert_eq!(
            o.location(),
            "s3://backups/x?endpoint=http://b.example:9000"
        );
    }

    #[test]
    fn wrong_values_are_told_with_the_option() {
        for (query, says) in [
            ("region", "name=value"),
            ("colour=red", "no S3 option 'colour'"),
            ("endpoint=ftp://x", "endpoint"),
            ("endpoint=https://key:secret@x", "without credentials"),
            ("path-style=maybe", "true, false"),
            ("checksum=md5", "crc64nvme"),
            ("object-lock=30", "governance:DAYS"),
            ("object-lock=compliance:0", "1 to 36500"),
            ("storage-class=DEEP_ARCHIVE", "thawed"),
            ("storage-class=cold", "STANDARD_IA"),
            ("server-side-encryption=rot13", "AES256"),
            ("connections=0", "1 to 64"),
            ("idle-timeout=soon", "idle-timeout"),
            ("idle-timeout=1ms", "between"),
            ("limit-upload=5", "at least 1K"),
            ("as-of=never", "as-of"),
            ("access-key-file=/x", "both"),
        ] {
            let e = of(&format!("s3://backups/x?{query}"), &S3Args::default())
                .err()
                .unwrap_or_else(|| panic!("taken: {query}"));
            assert!(e.message.contains(says), "{query}: {}", e.message);
            assert_eq!(e.exit as u8, 2, "{query}");
        }
    }
}

//! A server that misbehaves on command, stores before it, and a small repository whose files are compared after every restore.
#![allow(dead_code)] // each test binary uses a part

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use keepwatch_engine::backup::{self, BackupError, Input};
use keepwatch_engine::keys::WriterKey;
use keepwatch_engine::progress::{Cancel, Silent};
use keepwatch_engine::repository::{AccessError, CHUNKER, Repository};
use keepwatch_engine::restore;
use keepwatch_engine::seal::{AskNobody, Identity, ReaderIdentity, ReaderRecipient};
use keepwatch_engine::store::{KeyName, Store};
use keepwatch_model::time::Moment;
use keepwatch_s3::{CredentialSource, Options, Place, S3Store};
use keepwatch_s3serve::Server;

/// A secret file.
pub fn secret(dir: &Path, name: &str, content: &str) -> PathBuf {
    let path = dir.join(name);
    let _ = std::fs::remove_file(&path);
    std::fs::write(&path, content).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// Options for a server, with short waits.
pub fn options(
    dir: &Path,
    endpoint: &str,
    bucket: &str,
    access: &str,
    secret_key: &str,
) -> Options {
    let mut o = Options::new(Place::parse(&format!("s3://{bucket}/hosts/a")).unwrap());
    o.endpoint = Some(endpoint.to_owned());
    o.region = Some("us-east-1".into());
    o.credentials = CredentialSource::Files {
        access_key: secret(dir, "access", access),
        secret_key: secret(dir, "secret", secret_key),
        session_token: None,
    };
    o.idle_timeout = Duration::from_millis(700);
    o.connect_timeout = Duration::from_secs(2);
    o.retry_for = Duration::from_secs(60);
    o
}

/// Options for the test server.
pub fn of(dir: &Path, server: &Server) -> Options {
    options(
        dir,
        &server.endpoint(),
        server.bucket(),
        server.access_key(),
        server.secret_key(),
    )
}

pub fn open(o: &Options) -> S3Store {
    S3Store::open(o.clone(), Cancel::new()).unwrap()
}

pub fn now() -> Moment {
    let t = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    Moment::from_parts(t.as_secs() as i64, t.subsec_nanos(), 0).unwrap()
}

/// Files by path.
pub type Tree = BTreeMap<PathBuf, Vec<u8>>;

pub fn tree_of(root: &Path) -> Tree {
    let mut out = Tree::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for e in std::fs::read_dir(&dir).unwrap() {
            let path = e.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else {
                out.insert(
                    path.strip_prefix(root).unwrap().to_owned(),
                    std::fs::read(&path).unwrap(),
                );
            }
        }
    }
    out
}

/// Noise that does not compress, the same for the same seed.
pub fn noise(seed: u64, n: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut out = Vec::with_capacity(n + 8);
    while out.len() < n {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        out.extend_from_slice(&x.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
    }
    out.truncate(n);
    out
}

/// A source directory, keys, and what was backed up.
pub struct World {
    pub dir: tempfile::TempDir,
    pub user: Identity,
    pub key: WriterKey,
}

impl World {
    /// A new repository in the store.
    pub fn init(store: Arc<dyn Store>) -> Result<World, AccessError> {
        let user = Identity::generate();
        let reader = ReaderRecipient::parse(&user.recipient().to_string(), &AskNobody).unwrap();
        let (_, key) = Repository::init(
            store,
            &[(KeyName::new("me").unwrap(), reader)],
            "test",
            CHUNKER,
            now(),
        )?;
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("src")).unwrap();
        Ok(World { dir, user, key })
    }
    pub fn source(&self) -> PathBuf {
        self.dir.path().join("src")
    }
    pub fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.source().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    pub fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }
    /// Backs up with a cache of its own, which outlives the run.
    pub fn backup(&self, store: Arc<dyn Store>) -> Result<backup::Report, String> {
        let repository = Repository::open_as_writer(store, &self.key).map_err(|e| e.to_string())?;
        let options = backup::Options {
            paths: vec![self.source()],
            host: "h".into(),
            cache: Some(self.cache()),
            ..backup::Options::default()
        };
        backup::run(
            &repository,
            &options,
            Input::Files,
            &now,
            &Silent,
            &Cancel::new(),
        )
        .map_err(|e: BackupError| e.to_string())
    }
    /// Restores the newest snapshot and returns its files.
    pub fn restore(&self, store: Arc<dyn Store>) -> Result<Tree, String> {
        let repository =
            Repository::open_as_reader(store, &ReaderIdentity::native(&self.user), None)
                .map_err(|e| e.to_string())?;
        let set = repository.snapshots().map_err(|e| e.to_string())?;
        if let Some(e) = set.problems.first() {
            return Err(e.to_string());
        }
        let snapshot = set.live.last().ok_or("no snapshot")?.clone();
        let (lookup, problems) = repository.load_index(None).map_err(|e| e.to_string())?;
        if let Some(e) = problems.first() {
            return Err(e.to_string());
        }
        let target = tempfile::tempdir().unwrap();
        let options = restore::Options {
            target: target.path().to_owned(),
            ..restore::Options::default()
        };
        let report = restore::run(
            &repository,
            &lookup,
            &snapshot,
            &options,
            &Silent,
            &Cancel::new(),
        )
        .map_err(|e| e.to_string())?;
        if report.problems_total > 0 {
            return Err(format!("{:?}", report.problems));
        }
        let below = self.source().strip_prefix("/").unwrap().to_owned();
        Ok(tree_of(&target.path().join(below)))
    }
    pub fn files(&self) -> Tree {
        tree_of(&self.source())
    }
}

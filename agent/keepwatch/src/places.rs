//! Where things lie: the default repository, identity, writer keys, caches, and what this user remembers of repositories.
//!
//! | what | where |
//! |---|---|
//! | default repository | `$XDG_DATA_HOME/keepwatch/repository` |
//! | identity | `$XDG_CONFIG_HOME/keepwatch/identity.txt` |
//! | writer keys | `$XDG_CONFIG_HOME/keepwatch/writer-keys/<repository id>.key` |
//! | cache of a repository | `$XDG_CACHE_HOME/keepwatch/<repository id>/` |
//! | repositories known by location | `$XDG_STATE_HOME/keepwatch/known-repositories.json` |
//! | witness of the last snapshot | `$XDG_STATE_HOME/keepwatch/witness/<repository id>.json` |
//! | manifest of a job's last base backup of PostgreSQL | `$XDG_STATE_HOME/keepwatch/manifests/<repository id>/<job>.manifest` |
//!
//! Under systemd, `CACHE_DIRECTORY` and `STATE_DIRECTORY` stand in where the XDG variable is not set.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use keepwatch_engine::ids::{ObjectId, OwnerKey, RepositoryId, WriterId};
use serde::{Deserialize, Serialize};

use crate::errors::{Exit, Failure, plain_io};

/// The directories of this user. A directory is absent when neither variable nor home is known.
#[derive(Clone)]
pub struct Places {
    config: Option<PathBuf>,
    data: Option<PathBuf>,
    cache: Option<PathBuf>,
    state: Option<PathBuf>,
}

impl Places {
    /// From the environment.
    pub fn from_env() -> Self {
        Self::new(&|name| std::env::var_os(name).map(PathBuf::from))
    }

    /// From variables. Relative directories are passed over, as the XDG specification demands.
    pub fn new(var: &dyn Fn(&str) -> Option<PathBuf>) -> Self {
        let absolute = |name: &str| var(name).filter(|p| p.is_absolute());
        // systemd separates several by a colon; the first is ours.
        let systemd = |name: &str| {
            let first = var(name)?.to_str()?.split(':').next().map(PathBuf::from)?;
            first.is_absolute().then_some(first)
        };
        let home = absolute("HOME");
        let under = |rest: &str| home.as_ref().map(|h| h.join(rest));
        let ours = |p: PathBuf| p.join("keepwatch");
        Places {
            config: absolute("XDG_CONFIG_HOME")
                .or_else(|| under(".config"))
                .map(ours),
            data: absolute("XDG_DATA_HOME")
                .or_else(|| under(".local/share"))
                .map(ours),
            cache: absolute("XDG_CACHE_HOME")
                .map(ours)
                .or_else(|| systemd("CACHE_DIRECTORY"))
                .or_else(|| under(".cache").map(ours)),
            state: absolute("XDG_STATE_HOME")
                .map(ours)
                .or_else(|| systemd("STATE_DIRECTORY"))
                .or_else(|| under(".local/state").map(ours)),
        }
    }

    /// The repository that is meant when none is named.
    pub fn default_repository(&self) -> Result<PathBuf, Failure> {
        let data = self.data.as_ref().ok_or_else(|| {
            Failure::usage("no repository is named, and there is no default one because neither XDG_DATA_HOME nor HOME is set")
                .advice("name the repository with --repo or KEEPWATCH_REPOSITORY")
        })?;
        Ok(data.join("repository"))
    }
    /// The identity that is made and used when none is named.
    pub fn identity(&self) -> Option<PathBuf> {
        self.config.as_ref().map(|c| c.join("identity.txt"))
    }
    /// The place of a repository's writer key.
    pub fn writer_key(&self, id: RepositoryId) -> Option<PathBuf> {
        self.config
            .as_ref()
            .map(|c| c.join("writer-keys").join(format!("{id}.key")))
    }
    /// The cache of a repository.
    pub fn cache(&self, id: RepositoryId) -> Option<PathBuf> {
        self.cache.as_ref().map(|c| c.join(id.to_string()))
    }
    /// What this program remembers of repositories.
    pub fn remembered(&self) -> Option<&Path> {
        self.state.as_deref()
    }
    /// All caches of this user.
    pub fn caches(&self) -> Option<&Path> {
        self.cache.as_deref()
    }
    fn known(&self) -> Option<PathBuf> {
        self.state
            .as_ref()
            .map(|s| s.join("known-repositories.json"))
    }
    /// The manifests of the last base backups of PostgreSQL in a repository.
    pub fn manifests(&self, id: RepositoryId) -> Option<PathBuf> {
        self.state
            .as_ref()
            .map(|s| s.join("manifests").join(id.to_string()))
    }
    fn witness(&self, id: RepositoryId) -> Option<PathBuf> {
        self.state
            .as_ref()
            .map(|s| s.join("witness").join(format!("{id}.json")))
    }
}

/// Makes a directory that only this user can look into, and those above it.
pub fn make_private_dir(dir: &Path) -> Result<(), Failure> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|e| Failure::file("create the directory", dir, &e))
}

/// Writes a new file that only this user can read; an existing one is never touched.
pub fn write_secret(path: &Path, text: &str) -> Result<(), Failure> {
    if let Some(dir) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
        make_private_dir(dir)?;
    }
    let write = || -> io::Result<()> {
        // Under its name it is whole or not there: half a key would stand in the way of a whole one.
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let tmp = path.with_file_name(format!(".{name}.{}", std::process::id()));
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&tmp)?;
        let named = file
            .write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .and_then(|()| name_anew(&tmp, path));
        let _ = fs::remove_file(&tmp);
        named?;
        sync_above(path)
    };
    write().map_err(|e| match e.kind() {
        io::ErrorKind::AlreadyExists => Failure::new(
            Exit::Refused,
            format!("{} exists already; it was not touched", path.display()),
        )
        .advice("a key that is overwritten is lost: name another file, or move this one away"),
        _ => Failure::file("write", path, &e),
    })
}

/// Gives a file its name unless something has it already.
fn name_anew(tmp: &Path, path: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match fs::hard_link(tmp, path) {
        // File systems without hard links.
        Err(e) if matches!(e.raw_os_error(), Some(1) | Some(95) | Some(38)) => {
            renameat_with(CWD, tmp, CWD, path, RenameFlags::NOREPLACE).map_err(io::Error::from)
        }
        other => other,
    }
}

/// Makes the name of a new file durable, and those of the directories above it, which may be as new: a key that a power loss takes away opens nothing.
fn sync_above(path: &Path) -> io::Result<()> {
    let path = std::path::absolute(path)?;
    for (n, dir) in path.ancestors().skip(1).enumerate() {
        match File::open(dir).and_then(|d| d.sync_all()) {
            // What may not be opened, this user did not make.
            Err(e) if n == 0 => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// Replaces a private file as a whole.
pub fn replace_private(path: &Path, text: &str) -> io::Result<()> {
    let dir = path
        .parent()
        .ok_or_else(|| io::Error::other("it has no directory"))?;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)?;
    let tmp = dir.join(format!(
        ".{}.{}",
        path.file_name().and_then(|n| n.to_str()).unwrap_or("file"),
        std::process::id()
    ));
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&tmp)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&tmp, path)
    };
    write().inspect_err(|_| drop(fs::remove_file(&tmp)))
}

/// A repository that this user has read or made.
#[derive(Clone, Serialize, Deserialize, PartialEq, Eq, Debug)]
pub struct Known {
    /// Its id.
    pub id: String,
    /// Its owner key.
    pub owner: String,
}

/// Repositories by location.
#[derive(Default, Serialize, Deserialize)]
#[serde(transparent)]
struct KnownFile(BTreeMap<String, Known>);

fn read_known(path: &Path) -> Result<KnownFile, Failure> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| {
            Failure::new(Exit::Refused, format!("{} is damaged, so it cannot be told whether the repository is the one that is known: {e}", path.display()))
                .advice("mend the file, or move it away to know repositories anew")
        }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(KnownFile::default()),
        Err(e) => Err(Failure::file("read", path, &e)),
    }
}

impl Places {
    /// What is known of the repository at a location.
    pub fn known_at(&self, location: &str) -> Result<Option<Known>, Failure> {
        let Some(path) = self.known() else {
            return Ok(None);
        };
        Ok(read_known(&path)?.0.get(location).cloned())
    }

    /// Remembers the repository at a location. Bookkeeping: a failure is logged, nothing else.
    pub fn remember(&self, location: &str, id: RepositoryId, owner: OwnerKey) {
        let Some(path) = self.known() else { return };
        let known = Known {
            id: id.to_string(),
            owner: owner.to_string(),
        };
        let result = read_known(&path).and_then(|mut file| {
            if file.0.get(location) == Some(&known) {
                return Ok(());
            }
            file.0.insert(location.to_owned(), known);
            let text =
                serde_json::to_string_pretty(&file).map_err(|e| Failure::failed(e.to_string()))?;
            replace_private(&path, &(text + "\n")).map_err(|e| Failure::file("write", &path, &e))
        });
        if let Err(f) = result {
            tracing::warn!("the repository is not remembered: {}", f.message);
        }
    }
}

/// The last snapshot that this host committed: what a bucket attacker cuts from the newest end shows against it.
#[derive(Clone, Serialize, Deserialize, PartialEq, Eq, Debug)]
pub struct Witness {
    /// The snapshot's id.
    pub snapshot: String,
    /// Its writer.
    pub writer: String,
    /// When, RFC 3339.
    pub time: String,
}

impl Witness {
    /// The id, when it is one.
    pub fn snapshot_id(&self) -> Option<ObjectId> {
        self.snapshot.parse().ok()
    }
}

impl Places {
    /// What this host committed last.
    pub fn last_witnessed(&self, id: RepositoryId) -> Option<Witness> {
        let path = self.witness(id)?;
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .inspect_err(|e| tracing::warn!("{} is damaged: {e}", path.display()))
                .ok(),
            Err(_) => None,
        }
    }

    /// Remembers a committed snapshot. Bookkeeping: a failure is logged, nothing else.
    pub fn bear_witness(&self, id: RepositoryId, snapshot: ObjectId, writer: WriterId, time: &str) {
        let Some(path) = self.witness(id) else { return };
        let witness = Witness {
            snapshot: snapshot.to_string(),
            writer: writer.to_string(),
            time: time.to_owned(),
        };
        let text = serde_json::to_string_pretty(&witness).unwrap_or_default() + "\n";
        if let Err(e) = replace_private(&path, &text) {
            tracing::warn!(
                "{} cannot be written, so a rollback of the repository would not be noticed: {}",
                path.display(),
                plain_io(&e)
            );
        }
    }
}

impl Places {
    /// Remembers that a key opened a repository: when, by its name. Returns the file.
    pub fn remember_proof(&self, id: RepositoryId, key: &str, time: &str) -> Option<PathBuf> {
        let path = self.witness(id)?.with_extension("proofs");
        let mut all: std::collections::BTreeMap<String, String> = fs::read(&path)
            .ok()
            .and_then(|b| serde_json::from_slice(&b).ok())
            .unwrap_or_default();
        all.insert(key.to_owned(), time.to_owned());
        let text = serde_json::to_string_pretty(&all).unwrap_or_default() + "\n";
        match replace_private(&path, &text) {
            Ok(()) => Some(path),
            Err(e) => {
                tracing::warn!("{} cannot be written: {}", path.display(), plain_io(&e));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(vars: &[(&str, &str)]) -> Places {
        Places::new(&|n| {
            vars.iter()
                .find(|(k, _)| *k == n)
                .map(|(_, v)| PathBuf::from(v))
        })
    }

    #[test]
    fn directories_follow_xdg_then_systemd_then_home() {
        let id = RepositoryId([1; 16]);
        let p = places(&[("HOME", "/h")]);
        assert_eq!(
            p.default_repository().unwrap(),
            Path::new("/h/.local/share/keepwatch/repository")
        );
        assert_eq!(
            p.identity().unwrap(),
            Path::new("/h/.config/keepwatch/identity.txt")
        );
        let p = places(&[
            ("HOME", "/h"),
            ("CACHE_DIRECTORY", "/var/cache/keepwatch:/x"),
            ("XDG_DATA_HOME", "/d"),
        ]);
        assert_eq!(
            p.cache(id).unwrap(),
            Path::new("/var/cache/keepwatch").join(id.to_string())
        );
        assert_eq!(
            p.default_repository().unwrap(),
            Path::new("/d/keepwatch/repository")
        );
        let p = places(&[("XDG_DATA_HOME", "relative")]);
        assert_eq!(p.default_repository().unwrap_err().exit, Exit::WrongUse);
        assert!(p.identity().is_none());
    }

    #[test]
    fn repositories_and_snapshots_are_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let p = places(&[("XDG_STATE_HOME", dir.path().to_str().unwrap())]);
        assert_eq!(p.known_at("/r").unwrap(), None);
        p.remember("/r", RepositoryId([1; 16]), OwnerKey([2; 32]));
        assert_eq!(
            p.known_at("/r").unwrap().unwrap().owner,
            OwnerKey([2; 32]).to_string()
        );
        p.bear_witness(
            RepositoryId([1; 16]),
            ObjectId([3; 32]),
            WriterId([4; 8]),
            "now",
        );
        assert_eq!(
            p.last_witnessed(RepositoryId([1; 16]))
                .unwrap()
                .snapshot_id(),
            Some(ObjectId([3; 32]))
        );
        fs::write(dir.path().join("keepwatch/known-repositories.json"), "{").unwrap();
        assert_eq!(p.known_at("/r").unwrap_err().exit, Exit::Refused);
    }

    #[test]
    fn secrets_are_private_and_never_overwritten() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/key");
        write_secret(&path, "x").unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(write_secret(&path, "y").unwrap_err().exit, Exit::Refused);
        assert_eq!(fs::read_to_string(&path).unwrap(), "x");
    }
}

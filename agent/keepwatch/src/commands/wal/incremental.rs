//! On which base backup an incremental one is built (PostgreSQL 17), and the manifest that the server wants for it.
//!
//! The host that writes cannot read its repository, so it keeps the manifest of the last base backup of each job itself, in its state directory. The file says by its own numbers
//! of which base backup it is; it is believed only while that one, and all that it is built on, are in the repository. Whatever is missing costs a full base backup instead of
//! an incremental one, and never a base backup.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use keepwatch_engine::records::{BaseBackup, Foundation};
use keepwatch_engine::repository::Repository;
use keepwatch_engine::snapshots::SnapshotRecord;
use keepwatch_wal::gaps;
use keepwatch_wal::label;

use super::status;
use crate::errors::plain_io;
use crate::output::count;
use crate::places::make_private_dir;

/// Bytes of the end of a manifest that are looked at.
const TAIL: u64 = 16 << 10;
/// Bytes of a job's name that make a file's name; a longer one has no manifest.
const NAME: usize = 200;

/// The manifests of a job's base backups.
pub struct Manifest {
    path: PathBuf,
}

/// What an incremental base backup is built on.
pub struct Before {
    /// The cluster.
    pub system: u64,
    /// Which.
    pub foundation: Foundation,
    /// The file with its manifest.
    pub manifest: PathBuf,
}

impl Manifest {
    /// That of a job, in the directory of its repository.
    pub fn of(directory: Option<PathBuf>, job: &str) -> Option<Manifest> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        let name: String = job
            .bytes()
            .map(|b| match plain(b) {
                true => char::from(b).to_string(),
                false => format!("%{b:02X}"),
            })
            .collect();
        let fits = !name.is_empty() && name.len() <= NAME;
        let directory = directory.filter(|_| fits)?;
        Some(Manifest {
            path: directory.join(format!("{name}.manifest")),
        })
    }

    fn part(&self) -> PathBuf {
        self.path.with_extension("part")
    }

    /// An empty file for the manifest of a base backup that is being made.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn begin(&self) -> io::Result<File> {
        if let Some(directory) = self.path.parent() {
            make_private_dir(directory).map_err(|f| io::Error::other(f.message))?;
        }
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(self.part())
    }

    /// The base backup is committed: from now on its manifest counts.
    ///
    /// # Errors
    /// It cannot be named.
    pub fn keep(&self) -> io::Result<()> {
        fs::rename(self.part(), &self.path)
    }

    /// The base backup was not made.
    pub fn drop(&self) {
        let _ = fs::remove_file(self.part());
    }

    /// What the next base backup may be built on; else why it must be a full one.
    pub fn before(
        &self,
        repository: &Repository,
        live: &[SnapshotRecord],
        job: &str,
        full_every: u32,
    ) -> Result<Before, String> {
        let foundation = match foundation(&self.path) {
            Ok(Some(f)) => f,
            Ok(None) => return Err("the manifest of the last one is not understood".into()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err("this host has no manifest of an earlier one".into());
            }
            Err(e) => {
                return Err(format!(
                    "the manifest of the last one cannot be read: {}",
                    plain_io(&e)
                ));
            }
        };
        let is_it = |s: &&SnapshotRecord| {
            let base = s.body.base.as_ref();
            !s.revoked
                && s.body.job.as_deref() == Some(job)
                && base.is_some_and(|b| b.as_foundation() == foundation)
        };
        let Some(base) = live
            .iter()
            .rev()
            .find(is_it)
            .and_then(|s| s.body.base.as_ref())
        else {
            return Err("the last one is not in the repository any more".into());
        };
        let length = built_on(repository, live, base.system, foundation)
            .ok_or("one that the last one is built on is not in the repository any more")?;
        if length >= full_every as usize {
            return Err(format!(
                "{} in a row depend on each other already",
                count(length as u64, "base backup", "base backups")
            ));
        }
        Ok(Before {
            system: base.system,
            foundation,
            manifest: self.path.clone(),
        })
    }
}

impl Before {
    /// Whether a base backup that was made is one that was asked for, and can be restored.
    ///
    /// # Errors
    /// Why not.
    pub fn must_be_below(&self, repository: &Repository, base: &BaseBackup) -> Result<(), String> {
        let Some(after) = base.after else {
            return Ok(());
        };
        if after != self.foundation || base.system != self.system {
            return Err("it is built on another base backup than it should be".into());
        }
        // Forgotten and pruned while it was made?
        let set = repository.snapshots().map_err(|e| e.to_string())?;
        match built_on(repository, &set.live, self.system, after) {
            Some(_) => Ok(()),
            None => Err("the base backup that it is built on was deleted while it was made".into()),
        }
    }
}

/// How many base backups are needed to restore this one; nothing when one is missing.
fn built_on(
    repository: &Repository,
    live: &[SnapshotRecord],
    system: u64,
    foundation: Foundation,
) -> Option<usize> {
    let cluster = repository.hash().cluster(system);
    let bases = status::bases(repository, live, cluster);
    let last = bases
        .iter()
        .find(|b| b.body.as_foundation() == foundation && !b.revoked)?;
    Some(gaps::chain(&bases, last)?.len())
}

fn foundation(path: &Path) -> io::Result<Option<Foundation>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail)?;
    Ok(label::foundation_of_manifest(&tail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn manifests_are_kept_by_job_and_count_when_they_are_whole() {
        let dir = tempfile::tempdir().unwrap();
        let of = |job: &str| Manifest::of(Some(dir.path().join("m")), job);
        assert!(of("").is_none() && of(&"x".repeat(300)).is_none());
        assert!(Manifest::of(None, "a").is_none());
        assert_ne!(of("a/b").unwrap().path, of("a.b").unwrap().path);
        assert_eq!(
            of("../x").unwrap().path.parent(),
            of("a").unwrap().path.parent()
        );
        let m = of("main").unwrap();
        let text = |n: u32| {
            format!(
                "{{\"WAL-Ranges\": [{{ \"Timeline\": {n}, \"Start-LSN\": \"0/2000028\", \"End-LSN\": \"0/3\" }}]}}"
            )
        };
        assert!(foundation(&m.path).is_err());
        for n in [1, 2] {
            let mut file = m.begin().unwrap();
            file.write_all(&[b' '; 40_000]).unwrap();
            file.write_all(text(n).as_bytes()).unwrap();
            let before = foundation(&m.path).ok().flatten().map(|f| f.timeline);
            assert_eq!(
                before,
                (n > 1).then_some(n - 1),
                "the last one counts until then"
            );
            m.keep().unwrap();
            assert_eq!(foundation(&m.path).unwrap().unwrap().timeline, n);
        }
        m.begin().unwrap();
        m.drop();
        assert_eq!(foundation(&m.path).unwrap().unwrap().timeline, 2);
        assert_eq!(fs::read_dir(dir.path().join("m")).unwrap().count(), 1);
    }
}

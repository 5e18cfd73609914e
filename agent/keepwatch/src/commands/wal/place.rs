//! The directory into which a cluster is restored: empty before, and never taken for whole before it is.
//!
//! A restore that begins marks the directory by a file, which it holds locked, and which at last becomes `recovery.signal`. So a directory is either marked or whole: what a killed restore
//! left is known as such, and the next one removes it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use keepwatch_wal::extract::Owner;
use rustix::fs::{FlockOperation, flock};

use crate::errors::{Exit, Failure};
use crate::output::tell;

/// The file that marks an unfinished restore.
pub const MARK: &str = ".keepwatch-restore";
/// What it says to a person.
const TEXT: &[u8] = b"keepwatch restores a cluster of PostgreSQL into this directory; while this file is here, it is not whole. Run the restore again.\n";
/// What a killed restore started may still write for a moment.
const TRIES: u32 = 20;
/// Between them.
const STEP: Duration = Duration::from_millis(100);

/// An empty directory that is being restored to.
pub struct Place {
    directory: PathBuf,
    /// It was not there before.
    made: bool,
    /// Locked as long as this lives.
    mark: File,
}

/// Whether a restore may go there. Changes nothing.
///
/// # Errors
/// It holds something that no killed restore left, or another one is at work.
pub fn must_be_free(directory: &Path) -> Result<(), Failure> {
    let Some(mut entries) = entries(directory)? else {
        return Ok(());
    };
    if entries.next().is_none() {
        return Ok(());
    }
    let Ok(mark) = File::open(directory.join(MARK)) else {
        return Err(Failure::new(
            Exit::Refused,
            format!(
                "{} is not empty; a cluster is only restored into an empty directory, and nothing was written",
                directory.display()
            ),
        )
        .advice("move the old data directory away, and keep it until the restored one is right"));
    };
    locked(&mark, directory)
}

fn entries(directory: &Path) -> Result<Option<fs::ReadDir>, Failure> {
    match fs::read_dir(directory) {
        Ok(entries) => Ok(Some(entries)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Failure::file("restore to", directory, &e)),
    }
}

fn locked(mark: &File, directory: &Path) -> Result<(), Failure> {
    match flock(mark, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Failure::new(
            Exit::Refused,
            format!(
                "another restore into {} is at work; nothing was written",
                directory.display()
            ),
        )),
        Err(e) => Err(Failure::file("lock", &directory.join(MARK), &e.into())),
    }
}

impl Place {
    /// Takes it: made when it is missing, emptied of what a killed restore left, marked.
    ///
    /// # Errors
    /// As [`must_be_free`]; or it cannot be made.
    pub fn take(directory: &Path) -> Result<Place, Failure> {
        must_be_free(directory)?;
        let made = !directory.exists();
        let failed = |e: io::Error| Failure::file("restore to", directory, &e);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(failed)?;
        let path = directory.join(MARK);
        let mut mark = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        locked(&mark, directory)?;
        if empty(directory, Some(&path)).map_err(failed)? > 0 {
            tell(&format!(
                "keepwatch: removed what a restore that was killed left in {}",
                directory.display()
            ));
        }
        mark.write_all(TEXT).map_err(failed)?;
        Ok(Place {
            directory: directory.to_owned(),
            made,
            mark,
        })
    }

    /// Everything is there: the mark becomes the order to recover, in one step.
    ///
    /// # Errors
    /// It cannot be renamed.
    pub fn whole(&self, owner: Option<Owner>) -> Result<(), Failure> {
        let signal = self.directory.join("recovery.signal");
        let give = || match owner {
            Some(o) => fchown(&self.mark, Some(o.uid), Some(o.gid)),
            None => Ok(()),
        };
        self.mark
            .set_len(0)
            .and_then(|()| give())
            .and_then(|()| self.mark.sync_all())
            .and_then(|()| fs::rename(self.directory.join(MARK), &signal))
            .and_then(|()| File::open(&self.directory)?.sync_all())
            .map_err(|e| Failure::file("write", &signal, &e))
    }

    /// Takes away what a failed restore wrote.
    ///
    /// # Errors
    /// Something is left.
    pub fn clear(self) -> io::Result<()> {
        if self.made {
            return match fs::remove_dir_all(&self.directory) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
                other => other,
            };
        }
        empty(&self.directory, None).map(drop)
    }
}

/// Removes what is in a directory, all but one; how many entries there were.
fn empty(directory: &Path, but: Option<&Path>) -> io::Result<u64> {
    let mut count = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if but == Some(entry.path().as_path()) {
            continue;
        }
        count += 1;
        if !entry.file_type()?.is_dir() {
            fs::remove_file(entry.path())?;
            continue;
        }
        let mut tries = 0;
        while let Err(e) = fs::remove_dir_all(entry.path()) {
            tries += 1;
            match e.kind() {
                io::ErrorKind::NotFound => break,
                io::ErrorKind::DirectoryNotEmpty if tries < TRIES => std::thread::sleep(STEP),
                _ => return Err(e),
            }
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_killed_restore_left_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        // Made new, and gone when it fails.
        let place = Place::take(&data).unwrap();
        assert!(data.join(MARK).exists());
        // Somebody else sees that it is taken.
        let e = Place::take(&data).err().unwrap();
        assert!(e.message.contains("at work"), "{e:?}");
        place.clear().unwrap();
        assert!(!data.exists());
        // Killed: the lock goes with the process, the files stay.
        let place = Place::take(&data).unwrap();
        fs::create_dir(data.join("base")).unwrap();
        fs::write(data.join("base/1"), "half").unwrap();
        drop(place);
        let place = Place::take(&data).unwrap();
        assert_eq!(fs::read_dir(&data).unwrap().count(), 1);
        fs::write(data.join("PG_VERSION"), "15").unwrap();
        place.whole(None).unwrap();
        drop(place);
        assert!(data.join("recovery.signal").exists() && !data.join(MARK).exists());
        // Whole: never touched again.
        let e = Place::take(&data).err().unwrap();
        assert!(e.message.contains("not empty"), "{e:?}");
        assert!(data.join("PG_VERSION").exists());
        // A directory that was there stays, empty.
        let there = dir.path().join("there");
        fs::create_dir(&there).unwrap();
        let place = Place::take(&there).unwrap();
        fs::write(there.join("x"), "").unwrap();
        place.clear().unwrap();
        assert_eq!(fs::read_dir(&there).unwrap().count(), 0);
    }
}

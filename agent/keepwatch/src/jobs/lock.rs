//! One run of a job at a time: a lock (`flock`) on a small file of the state directory. It ends with its process, however that ends.
//!
//! The file says who holds it, for whoever comes second. A lock that cannot be made (no room, no rights) does not keep a backup from being
//! made: repositories bear several writers at once; it is told.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use keepwatch_model::time::Moment;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// As much is read of who holds it.
const HOLDER_MAX: u64 = 200;

/// A lock that is held while this lives.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code)] File);

/// Why it is not held.
#[derive(Debug)]
pub enum Refused {
    /// Another run has it: who.
    Held(String),
    /// There is no telling.
    Unable(io::Error),
}

/// Takes the lock, without waiting.
pub fn take(path: &Path, now: Moment) -> Result<Lock, Refused> {
    if let Some(dir) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(Refused::Unable)?;
    }
    let open = |write| {
        OpenOptions::new()
            .read(true)
            .write(write)
            .create(write)
            .mode(0o600)
            .open(path)
    };
    // One that is there can be locked although it cannot be written.
    let mut file = open(true)
        .or_else(|e| open(false).map_err(|_| e))
        .map_err(Refused::Unable)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut text = String::new();
            let _ = (&file).take(HOLDER_MAX).read_to_string(&mut text);
            let who = text.trim();
            return Err(Refused::Held(match who.is_empty() {
                true => "another process".to_owned(),
                false => who.to_owned(),
            }));
        }
        Err(e) => return Err(Refused::Unable(e.into())),
    }
    // For people only: a failure changes nothing.
    let _ = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "process {} since {now}", std::process::id()));
    Ok(Lock(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Moment {
        "2026-11-22T04:20:24Z".parse().expect("a time")
    }

    #[test]
    fn the_second_is_told_who_has_it_and_may_come_after() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("jobs/home.lock");
        let held = take(&path, now()).expect("the first");
        match take(&path, now()) {
            Err(Refused::Held(who)) => {
                assert!(who.contains(&format!("process {} since 2026", std::process::id())));
            }
            other => panic!("{other:?}"),
        }
        assert!(take(&dir.path().join("jobs/other.lock"), now()).is_ok());
        drop(held);
        assert!(take(&path, now()).is_ok());
    }

    #[test]
    fn a_place_that_takes_no_file_is_told_apart() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("jobs"), "a file").expect("written");
        assert!(matches!(
            take(&dir.path().join("jobs/home.lock"), now()),
            Err(Refused::Unable(_))
        ));
    }
}

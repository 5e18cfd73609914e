//! One daemon for a state directory: a lock on the directory itself, so that it also holds where nothing can be written.

use std::fs::File;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// The lock, until it is dropped.
pub struct Seat(#[allow(dead_code, reason = "held, never looked at")] File);

/// Another daemon has it.
#[derive(Debug)]
pub struct Taken;

/// Takes it. None where the file system knows no locks or there is no directory: then a second daemon is not noticed by this.
///
/// # Errors
/// Another daemon has it.
pub fn take(state_directory: &Path) -> Result<Option<Seat>, Taken> {
    let directory = match File::open(state_directory) {
        Ok(directory) => directory,
        Err(e) => {
            tracing::debug!("the state directory is not locked: {e}");
            return Ok(None);
        }
    };
    match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(Seat(directory))),
        Err(Errno::WOULDBLOCK) => Err(Taken),
        Err(e) => {
            tracing::debug!("the state directory is not locked: {e}");
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = take(dir.path()).expect("free");
        assert!(first.is_some());
        assert!(take(dir.path()).is_err());
        drop(first);
        assert!(take(dir.path()).is_ok_and(|seat| seat.is_some()));
        assert!(take(&dir.path().join("absent")).is_ok_and(|seat| seat.is_none()));
    }
}

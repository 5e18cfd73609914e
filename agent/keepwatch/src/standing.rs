//! What can be seen of a repository on a local disk without opening it: whether it is there, and how much room is left.
//!
//! Looking may hang (a network file system whose server is gone), so who must not wait asks in another thread.

use std::io::ErrorKind;
use std::path::Path;

use crate::mount;

/// How a repository stands. What cannot be told from here is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Whether it is there.
    pub reachable: Option<bool>,
    /// Bytes that can still be written where it lies.
    pub available: Option<u64>,
    /// Bytes that its file system holds.
    pub capacity: Option<u64>,
}

/// Looks at a directory; `must_be_mounted`: a place without which it is not there.
pub fn look(path: &Path, must_be_mounted: Option<&Path>) -> Standing {
    let gone = Standing {
        reachable: Some(false),
        ..Standing::default()
    };
    if let Some(place) = must_be_mounted {
        let is_there = std::fs::read("/proc/self/mountinfo").map(|l| mount::is_mounted(&l, place));
        if matches!(is_there, Ok(false)) {
            return gone;
        }
    }
    let reachable = match std::fs::metadata(path.join("config")) {
        Ok(_) => Some(true),
        // Its directory may be closed to us, which says nothing of the repository.
        Err(e) if e.kind() == ErrorKind::PermissionDenied => None,
        Err(_) => return gone,
    };
    let room = rustix::fs::statvfs(path).ok();
    Standing {
        reachable,
        available: room.as_ref().map(|r| r.f_bavail.saturating_mul(r.f_frsize)),
        capacity: room.map(|r| r.f_blocks.saturating_mul(r.f_frsize)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_there_or_gone() {
        let dir = std::env::temp_dir().join(format!("keepwatch-standing-{}", std::process::id()));
        let gone = Standing {
            reachable: Some(false),
            ..Standing::default()
        };
        assert_eq!(look(&dir, None), gone);
        std::fs::create_dir_all(&dir).expect("a directory");
        assert_eq!(look(&dir, None), gone, "an empty place is no repository");
        std::fs::write(dir.join("config"), b"x").expect("a file");
        let seen = look(&dir, None);
        assert_eq!(seen.reachable, Some(true));
        assert!(seen.capacity > Some(0) && seen.available <= seen.capacity);
        assert_eq!(look(&dir, Some(&dir)), gone, "nothing is mounted there");
        assert_eq!(look(&dir, Some(Path::new("/"))).reachable, Some(true));
        std::fs::remove_dir_all(&dir).expect("removed");
    }
}

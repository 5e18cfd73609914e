//! What can be seen of a repository on a local disk without opening it: whether it is there, and how much room is left.
//!
//! Looking may hang (a network file system whose server is gone), so who must not wait asks in another thread.

use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::SystemTime;

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

/// So many records of marks are looked at: a prune writes one for each hundred thousand packs.
const MARKS_MAX: usize = 1000;

/// Marks of prune in a repository: lists of packs that will be deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// How many there are.
    pub records: u64,
    /// Of these, those that a prune should have carried out; unknown where none is expected.
    pub overdue: Option<u64>,
}

/// Counts the marks in a repository's directory. A prune that comes to its end carries out and takes away every one that is older than
/// its grace period, so one from before `due` means that none came to its end since. Nothing when they cannot be seen.
pub fn marks(path: &Path, due: Option<SystemTime>) -> Option<Marks> {
    let mut out = Marks {
        records: 0,
        overdue: due.map(|_| 0),
    };
    let entries = match std::fs::read_dir(path.join("marks")) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Some(out),
        Err(_) => return None,
    };
    for entry in entries.take(MARKS_MAX) {
        let entry = entry.ok()?;
        let name = entry.file_name();
        let is_record = name.len() == 64 && name.as_bytes().iter().all(u8::is_ascii_hexdigit);
        if !is_record {
            continue;
        }
        let written = match entry.metadata().and_then(|m| m.modified()) {
            Ok(written) => written,
            // A prune that goes on beside us.
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            Err(_) => return None,
        };
        out.records += 1;
        if let (Some(due), Some(overdue)) = (due, &mut out.overdue) {
            *overdue += u64::from(written < due);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn marks_are_counted_and_old_ones_are_overdue() {
        let dir = std::env::temp_dir().join(format!("keepwatch-marks-{}", std::process::id()));
        let none = Marks::default();
        assert_eq!(marks(&dir, None), Some(none), "nothing was ever marked");
        std::fs::create_dir_all(dir.join("marks")).expect("a directory");
        let now = SystemTime::now();
        for (name, age) in [
            ("a".repeat(64), 10),
            ("b".repeat(64), 1000),
            ("tmp-x".into(), 9999),
        ] {
            let file = std::fs::File::create(dir.join("marks").join(name)).expect("a file");
            file.set_modified(now - Duration::from_secs(age))
                .expect("a time");
        }
        let seen = |due| marks(&dir, due).expect("seen");
        assert_eq!((seen(None).records, seen(None).overdue), (2, None));
        for (before, overdue) in [(5, 2), (100, 1), (5000, 0)] {
            let due = Some(now - Duration::from_secs(before));
            assert_eq!(seen(due).overdue, Some(overdue), "{before}");
        }
        std::fs::remove_dir_all(&dir).expect("removed");
        std::fs::create_dir(&dir).expect("a directory");
        std::fs::write(dir.join("marks"), "x").expect("a file");
        assert_eq!(marks(&dir, None), None, "no directory");
        std::fs::remove_dir_all(&dir).expect("removed");
    }

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

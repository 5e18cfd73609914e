//! How much there is to back up, so that a person on a terminal is told how long it takes. Found out beside the run, by a walk of its own that
//! looks at sizes only; it leaves out what the patterns do, not what lies behind other rules, so it is an estimate.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use keepwatch_engine::patterns::Patterns;

/// What is counted.
pub struct Estimate<'a> {
    /// Where.
    pub paths: &'a [PathBuf],
    /// What not.
    pub excludes: &'a Patterns,
    /// Not in other file systems.
    pub one_file_system: bool,
    /// Set when nobody waits for it any more.
    pub stop: &'a AtomicBool,
}

impl Estimate<'_> {
    /// Bytes of regular files; `None` when stopped. Memory: the names of the directories that are still to be looked into.
    pub fn bytes(&self) -> Option<u64> {
        let mut sum = 0u64;
        for path in self.paths {
            let Ok(meta) = std::fs::symlink_metadata(path) else {
                continue;
            };
            if meta.is_dir() {
                sum = sum.saturating_add(self.tree(path, meta.dev())?);
            } else if meta.is_file() {
                sum = sum.saturating_add(meta.len());
            }
        }
        Some(sum)
    }

    fn tree(&self, root: &Path, device: u64) -> Option<u64> {
        let mut sum = 0u64;
        let mut left = vec![root.to_owned()];
        while let Some(dir) = left.pop() {
            if self.stop.load(Ordering::Relaxed) {
                return None;
            }
            let Ok(entries) = std::fs::read_dir(&dir) else {
                continue;
            };
            for entry in entries.flatten() {
                let path = entry.path();
                let stored = path.as_os_str().as_bytes();
                if self
                    .excludes
                    .matches(stored.strip_prefix(b"/").unwrap_or(stored))
                {
                    continue;
                }
                let Ok(meta) = entry.metadata() else { continue };
                if meta.is_file() {
                    sum = sum.saturating_add(meta.len());
                } else if meta.is_dir() && !(self.one_file_system && meta.dev() != device) {
                    left.push(path);
                }
            }
        }
        Some(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_without_what_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let root = std::fs::canonicalize(dir.path()).unwrap();
        std::fs::create_dir_all(root.join("a/cache")).unwrap();
        std::fs::write(root.join("a/x"), [0; 100]).unwrap();
        std::fs::write(root.join("a/y.tmp"), [0; 1000]).unwrap();
        std::fs::write(root.join("a/cache/z"), [0; 10_000]).unwrap();
        std::os::unix::fs::symlink("a", root.join("link")).unwrap();
        let stop = AtomicBool::new(false);
        let bytes = |patterns: &[&str], stop: &AtomicBool| {
            let excludes = Patterns::new(patterns).unwrap();
            Estimate {
                paths: &[root.clone(), root.join("gone")],
                excludes: &excludes,
                one_file_system: true,
                stop,
            }
            .bytes()
        };
        assert_eq!(bytes(&[], &stop), Some(11_100));
        assert_eq!(bytes(&["*.tmp", "cache"], &stop), Some(100));
        assert_eq!(bytes(&[], &AtomicBool::new(true)), None);
    }
}

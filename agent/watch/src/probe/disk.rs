//! The disk probe: space and inodes of a file system, and whether it can be written.
//!
//! `statvfs` on a dead network file system never returns and cannot be cancelled. So it runs in a thread, and while that
//! thread hangs the check fails at once instead of starting another: a dead mount costs one thread, not one per run.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use keepwatch_model::check::{CheckKind, Reason};
use rustix::fs::{StatVfs, StatVfsMountFlags, statvfs};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Asking, Probe, SettingsError};
use crate::outcome::{Failure, Outcome, Quantity};

/// What is looked at.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskSettings {
    /// Any path on the file system.
    pub path: PathBuf,
    /// Fail when it is mounted read-only.
    #[serde(default)]
    pub writable: bool,
}

/// The probe.
pub struct Disk {
    settings: DiskSettings,
    hangs: Arc<AtomicBool>,
}

impl Disk {
    /// Checks the settings.
    ///
    /// # Errors
    /// A relative path.
    pub fn new(settings: DiskSettings) -> Result<Self, SettingsError> {
        if !settings.path.is_absolute() {
            return Err(SettingsError::new("path", "it must be absolute"));
        }
        Ok(Self {
            settings,
            hangs: Arc::default(),
        })
    }

    async fn run(&self) -> Result<Outcome, Failure> {
        let path = self.settings.path.clone();
        let shown = path.display().to_string();
        if self.hangs.swap(true, Ordering::AcqRel) {
            return Err(Failure::new(
                Reason::Timeout,
                format!("{shown} still does not answer an earlier question"),
            ));
        }
        let hangs = Arc::clone(&self.hangs);
        let asked = tokio::task::spawn_blocking(move || {
            let result = statvfs(&path);
            hangs.store(false, Ordering::Release);
            result
        });
        let stat = asked
            .await
            .map_err(|e| Failure::because(Reason::Internal, "asking the file system", &e))?
            .map_err(|e| {
                Failure::because(
                    Reason::Exec,
                    &format!("cannot ask the file system of {shown}"),
                    &e,
                )
            })?;
        Ok(self.judge(&stat))
    }

    fn judge(&self, s: &StatVfs) -> Outcome {
        let mut outcome = Outcome::success();
        let bytes = |blocks: u64| blocks as f64 * s.f_frsize as f64;
        outcome
            .measure(Quantity::DiskSizeBytes, bytes(s.f_blocks))
            .measure(Quantity::DiskAvailableBytes, bytes(s.f_bavail));
        // As df: what is reserved for root counts neither as used nor as available.
        let used = s.f_blocks.saturating_sub(s.f_bfree) as f64;
        if used + s.f_bavail as f64 > 0.0 {
            outcome.measure(Quantity::DiskUsedRatio, used / (used + s.f_bavail as f64));
        }
        // btrfs and zfs have no limit of inodes and say 0.
        if s.f_files > 0 {
            let (all, free) = (s.f_files as f64, s.f_ffree.min(s.f_files) as f64);
            outcome
                .measure(Quantity::Inodes, all)
                .measure(Quantity::InodesFree, free)
                .measure(Quantity::InodesUsedRatio, (all - free) / all);
        }
        if self.settings.writable && s.f_flag.contains(StatVfsMountFlags::RDONLY) {
            outcome.fail(
                Reason::Assertion,
                format!(
                    "the file system of {} is mounted read-only",
                    self.settings.path.display()
                ),
            );
        }
        outcome
    }
}

impl Probe for Disk {
    fn kind(&self) -> CheckKind {
        CheckKind::Disk
    }
    fn ask(&self, _: Instant) -> Asking<'_> {
        Box::pin(async { self.run().await.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn disk(path: &str, writable: bool) -> Disk {
        Disk::new(DiskSettings {
            path: path.into(),
            writable,
        })
        .unwrap()
    }

    #[tokio::test]
    async fn the_root_has_space_and_proc_has_none() {
        let o = super::super::run(&disk("/", false), Duration::from_secs(10)).await;
        assert_eq!(o.failure, None);
        let ratio = o.value(Quantity::DiskUsedRatio).unwrap();
        assert!((0.0..=1.0).contains(&ratio), "{ratio}");
        assert!(o.value(Quantity::DiskSizeBytes).unwrap() > 0.0);
        let o = super::super::run(&disk("/proc", false), Duration::from_secs(10)).await;
        assert_eq!(o.failure, None);
        assert_eq!(o.value(Quantity::DiskUsedRatio), None);
        let o = super::super::run(&disk("/nonexistent", false), Duration::from_secs(10)).await;
        assert_eq!(o.failure.unwrap().reason, Reason::Exec);
    }

    #[tokio::test]
    async fn a_question_that_hangs_is_not_asked_twice() {
        let d = disk("/", false);
        d.hangs.store(true, Ordering::Release);
        let o = super::super::run(&d, Duration::from_secs(10)).await;
        assert_eq!(o.failure.unwrap().reason, Reason::Timeout);
    }

    #[test]
    fn a_full_and_read_only_file_system() {
        let s = StatVfs {
            f_bsize: 4096,
            f_frsize: 4096,
            f_blocks: 1000,
            f_bfree: 50,
            f_bavail: 0,
            f_files: 100,
            f_ffree: 0,
            f_favail: 0,
            f_fsid: 0,
            f_flag: StatVfsMountFlags::RDONLY,
            f_namemax: 255,
        };
        let o = disk("/", true).judge(&s);
        assert_eq!(o.value(Quantity::DiskUsedRatio), Some(1.0));
        assert_eq!(o.value(Quantity::InodesUsedRatio), Some(1.0));
        assert_eq!(o.failure.unwrap().reason, Reason::Assertion);
        assert_eq!(disk("/", false).judge(&s).failure, None);
    }
}

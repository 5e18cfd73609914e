//! A consistent view of files: a snapshot of their file system, taken before and removed after, even when the backup fails.
//!
//! A view has a fixed name for each origin and is guarded by a lock, so what a killed run left is known to be nobody's and is removed by
//! the next one. The view lies elsewhere than the files; whoever reads it mounts it over them in a mount namespace of its own, so that paths
//! in the snapshot are those of the files.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};

use crate::child::{Program, find};
use crate::fault::{Fault, Reason};
use crate::setting::Setting;
use crate::text::hex;

/// What the names of views begin with.
const PREFIX: &str = "keepwatch-view-";

/// How a view is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum View {
    /// Of a btrfs subvolume: its directory.
    Btrfs {
        /// The subvolume.
        origin: PathBuf,
    },
    /// Of a ZFS dataset.
    Zfs {
        /// Its mount point.
        origin: PathBuf,
        /// Its name.
        dataset: String,
    },
    /// Of an LVM volume.
    Lvm {
        /// Where it is mounted.
        origin: PathBuf,
        /// `GROUP/VOLUME`.
        volume: String,
        /// Room for what changes meanwhile, as `lvcreate --size` takes it; without it the volume must be thin.
        size: Option<String>,
    },
}

impl View {
    /// From `btrfs:/srv`, `zfs:pool/data:/srv`, `lvm:group/volume:/srv[:5G]`.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        let wrong = || {
            Fault::new(
                Reason::Parameter,
                format!(
                    "'{text}' is no view; it is btrfs:DIR, zfs:DATASET:DIR or lvm:GROUP/VOLUME:DIR[:SIZE]"
                ),
            )
        };
        let parts: Vec<&str> = text.split(':').collect();
        let is_name =
            |name: &str| !name.is_empty() && !name.starts_with('-') && !name.contains('@');
        let view = match &parts[..] {
            ["btrfs", origin] => View::Btrfs {
                origin: origin.into(),
            },
            ["zfs", dataset, origin] if is_name(dataset) => View::Zfs {
                origin: origin.into(),
                dataset: (*dataset).to_owned(),
            },
            ["lvm", volume, origin, rest @ ..]
                if is_name(volume)
                    && volume.split('/').filter(|p| is_name(p)).count() == 2
                    && volume.matches('/').count() == 1 =>
            {
                View::Lvm {
                    origin: origin.into(),
                    volume: (*volume).to_owned(),
                    size: match rest {
                        [] => None,
                        [size] if size.starts_with(|c: char| c.is_ascii_digit()) => {
                            Some((*size).to_owned())
                        }
                        _ => return Err(wrong()),
                    },
                }
            }
            _ => return Err(wrong()),
        };
        match view.origin().is_absolute() {
            true => Ok(view),
            false => Err(wrong()),
        }
    }

    /// Where the files are.
    pub fn origin(&self) -> &Path {
        match self {
            View::Btrfs { origin } | View::Zfs { origin, .. } | View::Lvm { origin, .. } => origin,
        }
    }

    fn name(&self) -> String {
        let sum = Sha256::digest(format!("{self:?}"));
        format!("{PREFIX}{}", hex(&sum[..6]))
    }

    /// Takes it. What an earlier, killed run left of it is removed first.
    ///
    /// # Errors
    /// It cannot be taken; then nothing of it is left.
    pub fn take(&self, setting: &Setting) -> Result<Held, Fault> {
        let name = self.name();
        let lock = setting.scratch.join(format!("{name}.lock"));
        let file = File::options()
            .create(true)
            .append(true)
            .open(&lock)
            .map_err(|e| Fault::file("lock", &lock, &e))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(Fault::new(
                Reason::InTheWay,
                format!(
                    "another run has taken a view of {} just now",
                    self.origin().display()
                ),
            ));
        }
        let root = match self {
            View::Btrfs { origin } => origin.join(format!(".{name}")),
            View::Zfs { origin, .. } => origin.join(".zfs/snapshot").join(&name),
            View::Lvm { .. } => setting.scratch.join(&name),
        };
        let mut held = Held {
            view: self.clone(),
            name,
            root,
            setting: setting.clone(),
            is_there: true,
            _lock: file,
        };
        // What is not there cannot be removed: that it says so is no fault.
        let _ = held.remove();
        held.is_there = true;
        match held.make() {
            Ok(()) => Ok(held),
            Err(e) => {
                let _ = held.remove();
                held.is_there = false;
                Err(e.during(format!("take a view of {}", self.origin().display())))
            }
        }
    }
}

/// A view that was taken. Dropped, it is removed.
pub struct Held {
    view: View,
    name: String,
    root: PathBuf,
    setting: Setting,
    is_there: bool,
    _lock: File,
}

impl Held {
    /// Where it lies.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Removes it.
    ///
    /// # Errors
    /// It stays, and the next run tries again.
    pub fn release(mut self) -> Result<(), Fault> {
        self.is_there = false;
        self.remove().map_err(|e| {
            e.during(format!(
                "remove the view of {}; the next run tries again",
                self.view.origin().display()
            ))
        })
    }

    fn tool(&self, name: &str) -> Result<Program, Fault> {
        Ok(Program::new(&find(&[name], None)?))
    }

    /// Also when we are asked to stop.
    fn patient(&self) -> Setting {
        let mut setting = self.setting.clone();
        setting.stop = Default::default();
        setting
    }

    fn make(&self) -> Result<(), Fault> {
        match &self.view {
            View::Btrfs { origin } => self
                .tool("btrfs")?
                .args(["subvolume", "snapshot", "-r"])
                .arg(origin)
                .arg(&self.root)
                .run(&self.setting)?,
            View::Zfs { dataset, .. } => self
                .tool("zfs")?
                .arg("snapshot")
                .arg(format!("{dataset}@{}", self.name))
                .run(&self.setting)?,
            View::Lvm { volume, size, .. } => {
                let mut create = self
                    .tool("lvcreate")?
                    .args([
                        "--snapshot",
                        "--permission",
                        "r",
                        "--setactivationskip",
                        "n",
                        "--name",
                    ])
                    .arg(&self.name);
                if let Some(size) = size {
                    create = create.args(["--size", size]);
                }
                create.arg(volume).run(&self.setting)?;
                fs::create_dir_all(&self.root).map_err(|e| Fault::file("make", &self.root, &e))?;
                let device = self.device(volume);
                // A file system that was mounted when the view was taken has a journal, and one of XFS an id that is taken.
                let options = ["ro,norecovery,nouuid", "ro,noload", "ro"];
                let mut last = None;
                for option in options {
                    match self
                        .tool("mount")?
                        .args(["-o", option])
                        .arg(&device)
                        .arg(&self.root)
                        .run(&self.setting)
                    {
                        Ok(()) => return self.is_readable(),
                        Err(e) => last = Some(e),
                    }
                }
                return Err(
                    last.unwrap_or_else(|| Fault::new(Reason::Failed, "it cannot be mounted"))
                );
            }
        }
        self.is_readable()
    }

    fn is_readable(&self) -> Result<(), Fault> {
        fs::read_dir(&self.root)
            .map(drop)
            .map_err(|e| Fault::file("read the view", &self.root, &e))
    }

    fn device(&self, volume: &str) -> PathBuf {
        let group = volume.split('/').next().unwrap_or_default();
        Path::new("/dev").join(group).join(&self.name)
    }

    fn remove(&mut self) -> Result<(), Fault> {
        let setting = self.patient();
        match &self.view {
            View::Btrfs { .. } => {
                if fs::symlink_metadata(&self.root).is_err() {
                    return Ok(());
                }
                self.tool("btrfs")?
                    .args(["subvolume", "delete"])
                    .arg(&self.root)
                    .run(&setting)
            }
            View::Zfs { dataset, .. } => self
                .tool("zfs")?
                .arg("destroy")
                .arg(format!("{dataset}@{}", self.name))
                .run(&setting),
            View::Lvm { volume, .. } => {
                let unmounted = self
                    .tool("umount")
                    .and_then(|p| p.arg(&self.root).run(&setting));
                let group = volume.split('/').next().unwrap_or_default();
                let removed = self
                    .tool("lvremove")?
                    .args(["--yes", "--force"])
                    .arg(format!("{group}/{}", self.name))
                    .run(&setting);
                let _ = fs::remove_dir(&self.root);
                removed.map_err(|e| match unmounted {
                    Ok(()) => e,
                    Err(first) => Fault::new(e.reason, format!("{e}; before: {first}")),
                })
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if std::mem::take(&mut self.is_there) {
            if let Err(e) = self.remove() {
                tracing::warn!(
                    "the view of {} is left until the next run: {e}",
                    self.view.origin().display()
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_are_read_and_nonsense_is_refused() {
        assert_eq!(
            View::parse("btrfs:/srv").unwrap(),
            View::Btrfs {
                origin: "/srv".into()
            }
        );
        assert_eq!(
            View::parse("lvm:vg/data:/srv:5G").unwrap(),
            View::Lvm {
                origin: "/srv".into(),
                volume: "vg/data".into(),
                size: Some("5G".into())
            }
        );
        assert!(View::parse("zfs:tank/a/b:/srv").is_ok());
        assert!(View::parse("lvm:vg/thin:/srv").is_ok());
        for bad in [
            "",
            "btrfs",
            "btrfs:srv",
            "zfs:-x:/srv",
            "zfs:a@b:/srv",
            "lvm:vg:/srv",
            "lvm:a/b/c:/srv",
            "lvm:-a/b:/srv",
            "lvm:a/b:/srv:-x",
            "ext4:/srv",
            "btrfs:/a:/b",
        ] {
            assert!(View::parse(bad).is_err(), "{bad}");
        }
        assert_ne!(
            View::parse("btrfs:/a").unwrap().name(),
            View::parse("btrfs:/b").unwrap().name()
        );
    }
}

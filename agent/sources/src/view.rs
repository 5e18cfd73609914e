//! A consistent view of files: a snapshot of their file system, taken before and removed after, even when the backup fails.
//!
//! A view has a fixed name for each file system and is guarded by a lock on the directory of the files, so what a killed run left is known
//! to be nobody's and is removed by the next one, whatever its scratch directory and its size. The view lies elsewhere than the files; whoever
//! reads it mounts it over them in a mount namespace of its own, so that paths in the snapshot are those of the files.
//!
//! A snapshot is of one file system. What is mounted below, and btrfs' subvolumes below, are empty directories in it: [`Held::below`] names
//! them, for whoever reads to mount them there again, as they are. A volume of LVM must be what is mounted at the directory, as a whole:
//! otherwise the paths would be wrong. One of btrfs has an id that its copy shares, and the kernel would show the one for the other.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::{FdFlags, fcntl_setfd};
use sha2::{Digest as _, Sha256};

use crate::child::{Program, find};
use crate::fault::{Fault, Reason};
use crate::mounts;
use crate::setting::Setting;
use crate::text::hex;

/// What the names of views begin with.
const PREFIX: &str = "keepwatch-view-";
/// Bytes of what a tool lists: 10,000 subvolumes.
const LIST_MOST: u64 = 4 << 20;

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
        if !view.origin().is_absolute() {
            return Err(wrong());
        }
        // A process stays in its root, whatever is mounted over it.
        if view.origin().components().count() == 1 {
            return Err(Fault::new(
                Reason::Parameter,
                "a view of / cannot be read at the files' own paths; back up directories of it without a view, or a snapshot of your own",
            ));
        }
        Ok(view)
    }

    /// Where the files are.
    pub fn origin(&self) -> &Path {
        match self {
            View::Btrfs { origin } | View::Zfs { origin, .. } | View::Lvm { origin, .. } => origin,
        }
    }

    /// Of the file system, whatever else was said: a leftover is found again.
    fn name(&self) -> String {
        let what = match self {
            View::Btrfs { origin } => origin.as_os_str().as_encoded_bytes(),
            View::Zfs { dataset, .. } => dataset.as_bytes(),
            View::Lvm { volume, .. } => volume.as_bytes(),
        };
        format!("{PREFIX}{}", hex(&Sha256::digest(what)[..6]))
    }

    /// With the directory's own path, without links in it.
    fn settled(&self) -> Result<Self, Fault> {
        let mut view = self.clone();
        let (View::Btrfs { origin } | View::Zfs { origin, .. } | View::Lvm { origin, .. }) =
            &mut view;
        *origin =
            fs::canonicalize(&origin).map_err(|e| Fault::file("take a view of", origin, &e))?;
        Ok(view)
    }

    /// Takes it. What an earlier, killed run left of it is removed first.
    ///
    /// # Errors
    /// It cannot be taken; then nothing of it is left.
    pub fn take(&self, setting: &Setting) -> Result<Held, Fault> {
        let view = self.settled()?;
        let origin = view.origin().to_owned();
        let during = |e: Fault| e.during(format!("take a view of {}", origin.display()));
        let lock = File::open(&origin).map_err(|e| Fault::file("take a view of", &origin, &e))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(Fault::new(
                Reason::InTheWay,
                format!(
                    "another run has taken a view of {} just now",
                    origin.display()
                ),
            ));
        }
        let name = view.name();
        let root = match &view {
            View::Btrfs { origin } => origin.join(format!(".{name}")),
            View::Zfs { origin, .. } => origin.join(".zfs/snapshot").join(&name),
            View::Lvm { .. } => setting.scratch.join(&name),
        };
        let mut held = Held {
            view,
            name,
            root,
            below: Vec::new(),
            setting: setting.clone(),
            is_there: false,
            lock,
        };
        held.look().map_err(during)?;
        // What is not there cannot be removed: that it says so is no fault.
        let _ = held.remove();
        held.is_there = true;
        match held.make() {
            Ok(()) => Ok(held),
            Err(e) => {
                let _ = held.remove();
                held.is_there = false;
                Err(during(e))
            }
        }
    }
}

/// A view that was taken. Dropped, it is removed.
pub struct Held {
    view: View,
    name: String,
    root: PathBuf,
    below: Vec<PathBuf>,
    setting: Setting,
    is_there: bool,
    lock: File,
}

impl Held {
    /// Where it lies.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Over what it is to be mounted: the directory of the files, without links in its path.
    pub fn origin(&self) -> &Path {
        self.view.origin()
    }

    /// Directories below the files in which other file systems begin. The view lacks these.
    pub fn below(&self) -> &[PathBuf] {
        &self.below
    }

    /// Whether programs that are started from now on share the lock, which then holds until they have ended, too.
    ///
    /// # Errors
    /// That cannot be said.
    pub fn lend(&self, is_shared: bool) -> Result<(), Fault> {
        let flags = match is_shared {
            true => FdFlags::empty(),
            false => FdFlags::CLOEXEC,
        };
        fcntl_setfd(&self.lock, flags).map_err(|e| Fault::file("lock", self.origin(), &e.into()))
    }

    /// Whether it has held to the end. An LVM snapshot whose room is full is gone, and nothing of it can be read any more.
    ///
    /// # Errors
    /// It ran full, or that cannot be told.
    pub fn check(&self) -> Result<(), Fault> {
        let View::Lvm { volume, size, .. } = &self.view else {
            return Ok(());
        };
        let group = volume.split('/').next().unwrap_or_default();
        let said = self.lvs("lv_attr", &format!("{group}/{}", self.name))?;
        // The fifth letter is the state: `I` and `S` are those of an invalid snapshot.
        match said.chars().nth(4) {
            Some('I' | 'S') => Err(Fault::new(
                Reason::NoSpace,
                format!(
                    "the view of {} ran full while it was read: its room of {} did not hold what changed meanwhile",
                    self.origin().display(),
                    size.as_deref().unwrap_or("the pool"),
                ),
            )),
            _ => Ok(()),
        }
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

    fn lvs(&self, columns: &str, volume: &str) -> Result<String, Fault> {
        let said = self
            .tool("lvs")?
            .args(["--noheadings", "--separator", ":", "-o", columns])
            .arg(volume)
            .output(&self.patient(), LIST_MOST)?;
        Ok(String::from_utf8_lossy(&said).trim().to_owned())
    }

    /// Whether a view would be one of the files, and what it would lack.
    fn look(&mut self) -> Result<(), Fault> {
        let origin = self.origin();
        let list = mounts::all().map_err(|e| {
            Fault::file(
                "read the list of mounts",
                Path::new("/proc/self/mountinfo"),
                &e,
            )
        })?;
        let wrong = |text: String| Err(Fault::new(Reason::Parameter, text));
        if let View::Lvm { volume, .. } = &self.view {
            let at = origin.display();
            let Some(mount) = mounts::seen_at(&list, origin) else {
                return wrong(format!(
                    "nothing is mounted at {at}; a view of a volume is named with the directory at which the volume is mounted"
                ));
            };
            if mount.kind == "btrfs" {
                return wrong(format!(
                    "{at} is a btrfs, and the kernel cannot tell the copy of a volume with one from the original; its own snapshots are btrfs:DIR"
                ));
            }
            let device = self.lvs("lv_kernel_major,lv_kernel_minor", volume)?;
            if device != mount.device {
                return wrong(format!(
                    "what is mounted at {at} is not the volume {volume}"
                ));
            }
            if mount.part != Path::new("/") {
                return wrong(format!(
                    "only {} of the volume {volume} is mounted at {at}; name the directory at which the whole is mounted",
                    mount.part.display()
                ));
            }
        }
        let mut below = mounts::below(&list, origin);
        below.retain(|at| !at.starts_with(origin.join(".zfs")));
        if let View::Btrfs { .. } = &self.view {
            below.extend(self.subvolumes()?);
        }
        below.sort();
        below.dedup_by(|later, earlier| later.starts_with(earlier));
        self.below = below;
        Ok(())
    }

    /// The subvolumes of btrfs right below the files. That it is one itself is looked at, too.
    fn subvolumes(&self) -> Result<Vec<PathBuf>, Fault> {
        let btrfs = |words: &[&str]| {
            self.tool("btrfs")?
                .args(words)
                .arg(self.origin())
                .output(&self.setting, LIST_MOST)
        };
        // Paths are those from the top of the file system: that of the origin stands in the first line.
        let shown = btrfs(&["subvolume", "show"])?;
        let own = shown.split(|b| *b == b'\n').next().unwrap_or_default();
        let own = Path::new(OsStr::from_bytes(own));
        let listed = btrfs(&["subvolume", "list", "-o"])?;
        let mut found = Vec::new();
        for line in listed.split(|b| *b == b'\n') {
            let Some(at) = line.windows(6).position(|w| w == b" path ") else {
                continue;
            };
            let path = Path::new(OsStr::from_bytes(&line[at + 6..]));
            // The top of the file system has no path, whatever it is shown as.
            let inner = path.strip_prefix(own).unwrap_or(path);
            let is_view = |n: &OsStr| n.as_bytes().starts_with(format!(".{PREFIX}").as_bytes());
            if !inner.file_name().is_some_and(is_view) {
                found.push(self.origin().join(inner));
            }
        }
        Ok(found)
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

    /// Where it is mounted: also where a killed run with another scratch directory has mounted it.
    fn mounted(&self, volume: &str) -> Vec<PathBuf> {
        let Ok(device) = fs::metadata(self.device(volume)).map(|m| m.rdev()) else {
            // What is mounted at our own place is ours.
            return vec![self.root.clone()];
        };
        let device = format!(
            "{}:{}",
            rustix::fs::major(device),
            rustix::fs::minor(device)
        );
        let list = mounts::all().unwrap_or_default();
        let ours = list.into_iter().filter(|m| m.device == device);
        ours.map(|m| m.at).collect()
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
                let places = self.mounted(volume);
                let mut unmounted = Ok(());
                for at in &places {
                    unmounted = self.tool("umount").and_then(|p| p.arg(at).run(&setting));
                }
                let group = volume.split('/').next().unwrap_or_default();
                let removed = self
                    .tool("lvremove")?
                    .args(["--yes", "--force"])
                    .arg(format!("{group}/{}", self.name))
                    .run(&setting);
                for at in places {
                    let _ = fs::remove_dir(at);
                }
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
            "btrfs:/",
            "lvm:a/b://.",
            "zfs:a:/",
        ] {
            assert!(View::parse(bad).is_err(), "{bad}");
        }
        assert_ne!(
            View::parse("btrfs:/a").unwrap().name(),
            View::parse("btrfs:/b").unwrap().name()
        );
        // What was left is found with another size, too.
        assert_eq!(
            View::parse("lvm:a/b:/a:1G").unwrap().name(),
            View::parse("lvm:a/b:/b").unwrap().name()
        );
    }
}

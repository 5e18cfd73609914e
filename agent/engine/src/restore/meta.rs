//! Owner, mode, times and extended attributes, applied through an open descriptor so that nothing can be exchanged in between.
//!
//! Order matters: changing the owner clears setuid bits and capabilities, setting an ACL changes the mode, and every change touches the ctime only; so owner,
//! attributes, mode, times.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{
    self, AtFlags, Gid, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags,
};
use rustix::io::Errno;

use crate::manifest::{Entry, EntryKind, FileTime};

const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";

/// What is applied, decided once per run.
pub(crate) struct Rules {
    trust: bool,
    numeric_ids: bool,
    may_chown: bool,
    euid: u32,
    egid: u32,
    users: HashMap<String, u32>,
    groups: HashMap<String, u32>,
    /// A directory that was there before hands its group or ACLs down to what is made in it.
    inherits: AtomicBool,
    /// Owners that could not be given.
    pub(crate) owner_kept: AtomicBool,
    unsupported: Mutex<BTreeSet<String>>,
}

fn ids_of(file: &str) -> HashMap<String, u32> {
    let text = std::fs::read(file).unwrap_or_default();
    text.split(|b| *b == b'\n')
        .filter_map(|l| {
            let mut fields = std::str::from_utf8(l).ok()?.split(':');
            let (name, id) = (fields.next()?, fields.nth(1)?);
            Some((name.to_owned(), id.parse().ok()?))
        })
        .collect()
}

impl Rules {
    pub(crate) fn new(trust: bool, numeric_ids: bool) -> Self {
        let euid = rustix::process::geteuid().as_raw();
        let capable = rustix::thread::capabilities(None)
            .is_ok_and(|c| c.effective.contains(rustix::thread::CapabilitySet::CHOWN));
        Rules {
            trust,
            numeric_ids,
            may_chown: capable,
            euid,
            egid: rustix::process::getegid().as_raw(),
            users: if numeric_ids {
                HashMap::new()
            } else {
                ids_of("/etc/passwd")
            },
            groups: if numeric_ids {
                HashMap::new()
            } else {
                ids_of("/etc/group")
            },
            inherits: AtomicBool::new(false),
            owner_kept: AtomicBool::new(false),
            unsupported: Mutex::new(BTreeSet::new()),
        }
    }

    /// Owner and group on this machine.
    fn owner(&self, e: &Entry) -> (u32, u32) {
        if self.numeric_ids {
            return (e.uid, e.gid);
        }
        let by = |names: &HashMap<String, u32>, name: &Option<String>| {
            name.as_ref().and_then(|n| names.get(n)).copied()
        };
        (
            by(&self.users, &e.user).unwrap_or(e.uid),
            by(&self.groups, &e.group).unwrap_or(e.gid),
        )
    }

    /// Turns the recorded names into ids of this machine, and drops them.
    pub(crate) fn settle_owner(&self, e: &mut Entry) {
        (e.uid, e.gid) = self.owner(e);
        (e.user, e.group) = (None, None);
    }

    /// The mode that is given.
    fn mode(&self, e: &Entry) -> u32 {
        // A setuid bit under another owner than the recorded one would be another program.
        let owner_is_right = self.may_chown || self.owner(e) == (self.euid, self.egid);
        if self.trust && owner_is_right {
            e.mode
        } else {
            e.mode & !0o6000
        }
    }

    /// What will be left out of an entry, for the report.
    pub(crate) fn left_out(&self, e: &Entry, mut tell: impl FnMut(String)) {
        let what = e.mode & 0o6000;
        if what != self.mode(e) & 0o6000 {
            let bits = match what {
                0o2000 => "setgid bit",
                0o4000 => "setuid bit",
                _ => "setuid and setgid bits",
            };
            let why = if self.trust {
                "its owner cannot be restored"
            } else {
                "not trusted"
            };
            tell(format!("{bits} left out: {why}"));
        }
        for x in e.xattrs.iter().flatten().filter(|x| !self.takes(&x.name)) {
            tell(format!(
                "attribute {} left out: not trusted",
                String::from_utf8_lossy(&x.name)
            ));
        }
    }

    fn takes(&self, name: &[u8]) -> bool {
        self.trust || name.starts_with(b"user.") || name == ACL_ACCESS || name == ACL_DEFAULT
    }

    /// Remembers that a directory that was there before hands something down.
    pub(crate) fn note_inherited(&self, dir: &OwnedFd) {
        let mut none = [0u8; 0];
        let acl = fs::getxattr(proc_path(dir, None).as_slice(), ACL_DEFAULT, &mut none[..]);
        if matches!(acl, Ok(n) if n > 0) || fs::fstat(dir).is_ok_and(|s| s.st_mode & 0o2000 != 0) {
            self.inherits.store(true, Ordering::Relaxed);
        }
    }

    /// True when mode and owner are as they would be made.
    pub(crate) fn is_as_recorded(&self, e: &Entry, s: &Stat) -> bool {
        let (uid, gid) = self.owner(e);
        (e.kind() == EntryKind::Symlink || s.st_mode & 0o7777 == self.mode(e))
            && (!self.may_chown || (s.st_uid, s.st_gid) == (uid, gid))
    }

    /// The kinds of attributes that the target's file system refused.
    pub(crate) fn unsupported(&self) -> Vec<String> {
        self.unsupported
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .iter()
            .cloned()
            .collect()
    }

    fn refused(&self, name: &[u8], e: Errno) -> io::Result<()> {
        if !matches!(e, Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS) {
            return Err(io::Error::other(format!(
                "attribute {}: {}",
                String::from_utf8_lossy(name),
                io::Error::from(e)
            )));
        }
        let space = name.split(|b| *b == b'.').next().unwrap_or(name);
        let mut set = self.unsupported.lock().unwrap_or_else(|e| e.into_inner());
        // Name spaces, of which the kernel has four; a hostile snapshot may invent more.
        if set.len() < 16 {
            set.insert(format!("{}.*", String::from_utf8_lossy(space)));
        }
        Ok(())
    }

    /// Applies everything to an open file or directory.
    pub(crate) fn apply(&self, fd: BorrowedFd<'_>, e: &Entry) -> io::Result<()> {
        let (uid, gid) = self.owner(e);
        let inherits = self.inherits.load(Ordering::Relaxed);
        if self.may_chown {
            if inherits || (uid, gid) != (self.euid, self.egid) || e.kind() == EntryKind::Directory
            {
                fs::fchown(fd, owner(uid), group(gid))?;
            }
        } else if (uid, gid) != (self.euid, self.egid) {
            self.owner_kept.store(true, Ordering::Relaxed);
        }
        if inherits {
            let has = |name: &[u8]| e.xattrs.iter().flatten().any(|x| x.name == name);
            for name in [ACL_ACCESS, ACL_DEFAULT] {
                if !has(name) {
                    let _ = fs::fremovexattr(fd, name);
                }
            }
        }
        for x in e.xattrs.iter().flatten().filter(|x| self.takes(&x.name)) {
            if let Err(error) = fs::fsetxattr(fd, x.name.as_slice(), &x.value, XattrFlags::empty())
            {
                self.refused(&x.name, error)?;
            }
        }
        fs::fchmod(fd, Mode::from_raw_mode(self.mode(e)))?;
        Ok(fs::futimens(fd, &times(e))?)
    }

    /// Applies everything to what cannot be opened: a symlink, a fifo, a device.
    pub(crate) fn apply_at(&self, dir: &OwnedFd, name: &[u8], e: &Entry) -> io::Result<()> {
        let (uid, gid) = self.owner(e);
        if self.may_chown {
            fs::chownat(dir, name, owner(uid), group(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        } else if (uid, gid) != (self.euid, self.egid) {
            self.owner_kept.store(true, Ordering::Relaxed);
        }
        let here = proc_path(dir, Some(name));
        for x in e.xattrs.iter().flatten().filter(|x| self.takes(&x.name)) {
            if let Err(error) = fs::lsetxattr(
                here.as_slice(),
                x.name.as_slice(),
                &x.value,
                XattrFlags::empty(),
            ) {
                self.refused(&x.name, error)?;
            }
        }
        if e.kind() != EntryKind::Symlink {
            let fd = fs::openat(
                dir,
                name,
                OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            )?;
            fs::chmod(
                proc_path(&fd, None).as_slice(),
                Mode::from_raw_mode(self.mode(e)),
            )?;
        }
        Ok(fs::utimensat(
            dir,
            name,
            &times(e),
            AtFlags::SYMLINK_NOFOLLOW,
        )?)
    }

    /// Applies everything to a directory, readable or not.
    pub(crate) fn apply_dir(&self, parent: &OwnedFd, name: &[u8], e: &Entry) -> io::Result<()> {
        use std::os::fd::AsFd;
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match fs::openat(parent, name, flags | OFlags::RDONLY, Mode::empty()) {
            Ok(fd) => self.apply(fd.as_fd(), e),
            Err(Errno::ACCESS) => {
                // Ours, but not readable: made so first, through a descriptor of the directory itself.
                make_accessible(parent, name)?;
                let fd = fs::openat(parent, name, flags | OFlags::RDONLY, Mode::empty())?;
                self.apply(fd.as_fd(), e)
            }
            Err(e) => Err(e.into()),
        }
    }

    /// True for a directory of ours that we could not write into.
    pub(crate) fn needs_access(&self, s: &Stat) -> bool {
        self.euid != 0 && s.st_uid == self.euid && s.st_mode & 0o700 != 0o700
    }
}

/// Gives the owner of a directory, us, all rights to it.
pub(crate) fn make_accessible(parent: &OwnedFd, name: &[u8]) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = fs::openat(parent, name, flags, Mode::empty())?;
    let mode = fs::fstat(&fd)?.st_mode & 0o7777 | 0o700;
    Ok(fs::chmod(
        proc_path(&fd, None).as_slice(),
        Mode::from_raw_mode(mode),
    )?)
}

/// A path that reaches an open descriptor, or a name in an open directory, whatever happens to the tree around it.
fn proc_path(fd: &OwnedFd, name: Option<&[u8]>) -> Vec<u8> {
    let mut out = format!("/proc/self/fd/{}", fd.as_raw_fd()).into_bytes();
    if let Some(name) = name {
        out.push(b'/');
        out.extend_from_slice(name);
    }
    out
}

// All ones means "leave it" to the kernel.
fn owner(id: u32) -> Option<Uid> {
    (id != u32::MAX).then(|| Uid::from_raw(id))
}

fn group(id: u32) -> Option<Gid> {
    (id != u32::MAX).then(|| Gid::from_raw(id))
}

fn times(e: &Entry) -> Timestamps {
    let at = |t: FileTime| Timespec {
        tv_sec: t.seconds,
        tv_nsec: t.nanoseconds as _,
    };
    let omit = Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_OMIT as _,
    };
    Timestamps {
        last_access: e.atime.map_or(omit, at),
        last_modification: at(e.mtime),
    }
}

/// The time that a file has.
pub(crate) fn mtime(s: &Stat) -> FileTime {
    FileTime {
        seconds: s.st_mtime,
        nanoseconds: s.st_mtime_nsec as u32,
    }
}

//! The directory that is restored into, and the only place that opens anything in it.
//!
//! Every directory is opened relative to one descriptor of the target, with the kernel's promise that the walk stays beneath it and follows no symlink
//! (`openat2`). So neither a path of a hostile snapshot nor a directory that somebody exchanges for a symlink meanwhile leads out. On kernels and in
//! sandboxes without `openat2` each component is opened by itself, without following.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::ids::hex;

/// Directories kept open by each thread.
const OPEN_DIRS: usize = 24;
/// The kernel gives up with EAGAIN when directories are renamed while it walks.
const TRIES: usize = 16;
/// File systems beneath the target that are synced at the end; a descriptor each.
const FILE_SYSTEMS: usize = 256;
const TEMP_PREFIX: &[u8] = b".keepwatch-";
const TEMP_SUFFIX: &[u8] = b".tmp";

/// See the module.
pub(crate) struct Target {
    root: OwnedFd,
    without_openat2: AtomicBool,
    /// Part of the names of this run's unfinished files.
    run: [u8; 8],
    counter: AtomicU64,
    /// The file system of the directory that was opened last.
    device: AtomicU64,
    /// Those that directories were opened in, each with a descriptor from before anything was written there: `syncfs` tells errors since its descriptor was opened.
    file_systems: Mutex<Vec<(u64, OwnedFd)>>,
    /// There is one that cannot be synced.
    unasked: AtomicBool,
}

impl Target {
    /// Opens the target, which `create` may make (private: it has no entry in a snapshot).
    pub(crate) fn open(path: &Path, create: bool) -> io::Result<Target> {
        if create {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)?;
        }
        let root = fs::open(
            path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let mut run = [0; 8];
        getrandom::fill(&mut run).map_err(|e| io::Error::other(e.to_string()))?;
        Ok(Target {
            root,
            without_openat2: AtomicBool::new(false),
            run,
            counter: AtomicU64::new(0),
            device: AtomicU64::new(0),
            file_systems: Mutex::default(),
            unasked: AtomicBool::new(false),
        })
    }

    /// Waits until all that was written is on the disk: every file system that a directory was opened in is synced once. A sync of each file by itself would cost a
    /// seek or more for each of them, and a target that was lost in between is restored again anyway. `false`: a file system could not be asked.
    pub(crate) fn sync(&self) -> io::Result<bool> {
        let seen = self.file_systems.lock().unwrap_or_else(|e| e.into_inner());
        let mut asked = !self.unasked.load(Ordering::Relaxed);
        for (_, fd) in seen.iter() {
            match fs::syncfs(fd) {
                // Some sandboxes answer EPERM to system calls that they do not know.
                Err(Errno::NOSYS | Errno::PERM) => asked = false,
                other => other?,
            }
        }
        Ok(asked)
    }

    /// Remembers the file system that a directory lies in.
    fn note_file_system(&self, dir: &OwnedFd) {
        let Ok(device) = fs::fstat(dir).map(|s| s.st_dev) else {
            return;
        };
        if self.device.swap(device, Ordering::Relaxed) == device {
            return;
        }
        let mut seen = self.file_systems.lock().unwrap_or_else(|e| e.into_inner());
        if seen.iter().any(|(d, _)| *d == device) {
            return;
        }
        if seen.len() >= FILE_SYSTEMS {
            self.unasked.store(true, Ordering::Relaxed);
            return;
        }
        // The descriptor at hand is only a path.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match fs::openat(dir, c".", flags, Mode::empty()) {
            Ok(fd) => seen.push((device, fd)),
            Err(_) => self.unasked.store(true, Ordering::Relaxed),
        }
    }

    /// Opens a directory by its stored path; the empty path is the target.
    pub(crate) fn dir(&self, path: &[u8]) -> io::Result<OwnedFd> {
        let dir = self.open_dir(path)?;
        self.note_file_system(&dir);
        Ok(dir)
    }

    fn open_dir(&self, path: &[u8]) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        if path.is_empty() {
            return Ok(fs::openat(&self.root, c".", flags, Mode::empty())?);
        }
        if !self.without_openat2.load(Ordering::Relaxed) {
            let resolve =
                ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            for _ in 0..TRIES {
                match fs::openat2(
                    &self.root,
                    path,
                    flags | OFlags::NOFOLLOW,
                    Mode::empty(),
                    resolve,
                ) {
                    Err(Errno::AGAIN | Errno::INTR) => {}
                    // Some sandboxes answer EPERM to system calls that they do not know.
                    Err(Errno::NOSYS | Errno::PERM) => {
                        self.without_openat2.store(true, Ordering::Relaxed);
                        break;
                    }
                    Err(e) => return Err(e.into()),
                    Ok(fd) => return Ok(fd),
                }
            }
        }
        self.dir_by_components(path)
    }

    fn dir_by_components(&self, path: &[u8]) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut at: Option<OwnedFd> = None;
        for name in path.split(|b| *b == b'/') {
            if name.is_empty() || name == b"." || name == b".." {
                return Err(io::Error::from_raw_os_error(Errno::INVAL.raw_os_error()));
            }
            let dir = at.as_ref().unwrap_or(&self.root);
            at = Some(fs::openat(dir, name, flags, Mode::empty())?);
        }
        at.ok_or_else(|| io::Error::from_raw_os_error(Errno::INVAL.raw_os_error()))
    }

    /// A new name for an unfinished file, unlike any that another run makes.
    pub(crate) fn temp_name(&self) -> Vec<u8> {
        let n = self.counter.fetch_add(1, Ordering::Relaxed) as u32;
        let digits = hex(&self.run) + &hex(&n.to_be_bytes());
        [TEMP_PREFIX, digits.as_bytes(), TEMP_SUFFIX].concat()
    }
}

/// True for names that [`Target::temp_name`] makes, of any run.
pub(crate) fn is_temp_name(name: &[u8]) -> bool {
    let digits = name
        .strip_prefix(TEMP_PREFIX)
        .and_then(|n| n.strip_suffix(TEMP_SUFFIX));
    digits
        .is_some_and(|d| d.len() == 24 && d.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
}

/// Directory and name of a stored path.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(i) => (&path[..i], &path[i + 1..]),
        None => (b"", path),
    }
}

/// The directories that a thread used last.
pub(crate) struct Dirs<'t> {
    target: &'t Target,
    open: VecDeque<(Vec<u8>, Arc<OwnedFd>)>,
}

impl<'t> Dirs<'t> {
    pub(crate) fn new(target: &'t Target) -> Self {
        Dirs {
            target,
            open: VecDeque::new(),
        }
    }

    pub(crate) fn open(&mut self, path: &[u8]) -> io::Result<Arc<OwnedFd>> {
        if let Some(i) = self.open.iter().position(|(p, _)| p == path) {
            if i > 0 {
                let used = self.open.remove(i).expect("it was found there");
                self.open.push_front(used);
            }
            return Ok(self.open[0].1.clone());
        }
        let fd = Arc::new(self.target.dir(path)?);
        self.open.truncate(OPEN_DIRS - 1);
        self.open.push_front((path.to_vec(), fd.clone()));
        Ok(fd)
    }

    /// Drops what lies at or beneath a path that was removed.
    pub(crate) fn forget(&mut self, path: &[u8]) {
        self.open
            .retain(|(p, _)| !crate::manifest::is_beneath(p, path));
    }
}

/// What stands at a name, without following it.
pub(crate) fn stat(dir: &OwnedFd, name: &[u8]) -> io::Result<Option<Stat>> {
    match fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(s) => Ok(Some(s)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

pub(crate) fn type_of(s: &Stat) -> FileType {
    FileType::from_raw_mode(s.st_mode)
}

/// Creates an unfinished file, private until its metadata is applied.
pub(crate) fn create_temp(target: &Target, dir: &OwnedFd) -> io::Result<(Vec<u8>, OwnedFd)> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    loop {
        let name = target.temp_name();
        match fs::openat(dir, name.as_slice(), flags, Mode::RUSR | Mode::WUSR) {
            Err(Errno::EXIST) => continue,
            Err(e) => return Err(e.into()),
            Ok(fd) => return Ok((name, fd)),
        }
    }
}

/// Gives a finished file its name. `replace`: what stands there may go.
pub(crate) fn put_in_place(
    dir: &OwnedFd,
    temp: &[u8],
    name: &[u8],
    replace: bool,
) -> io::Result<()> {
    if replace {
        return Ok(fs::renameat(dir, temp, dir, name)?);
    }
    match fs::renameat_with(dir, temp, dir, name, RenameFlags::NOREPLACE) {
        // File systems without that flag.
        Err(Errno::INVAL | Errno::NOSYS) => match stat(dir, name)? {
            Some(_) => Err(io::Error::from_raw_os_error(Errno::EXIST.raw_os_error())),
            None => Ok(fs::renameat(dir, temp, dir, name)?),
        },
        other => Ok(other?),
    }
}

pub(crate) fn unlink(dir: &OwnedFd, name: &[u8]) -> io::Result<()> {
    Ok(fs::unlinkat(dir, name, AtFlags::empty())?)
}

/// The names in a directory.
pub(crate) fn names(
    dir: &OwnedFd,
    each: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    // The descriptor at hand is only a path.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    for entry in Dir::new(fs::openat(dir, c".", flags, Mode::empty())?)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            each(name)?;
        }
    }
    Ok(())
}

/// Removes what stands at a name, a directory with all that is in it. Follows no symlink, leaves file systems that are mounted beneath alone.
/// Memory: a descriptor and the names of one directory per level; deeper than 256 levels it gives up.
pub(crate) fn remove_all(dir: &OwnedFd, name: &[u8]) -> io::Result<u64> {
    remove_level(dir, name, fs::fstat(dir)?.st_dev, 0)
}

fn remove_level(dir: &OwnedFd, name: &[u8], device: u64, depth: usize) -> io::Result<u64> {
    let Some(s) = stat(dir, name)? else {
        return Ok(0);
    };
    if type_of(&s) != FileType::Directory {
        unlink(dir, name)?;
        return Ok(1);
    }
    if s.st_dev != device {
        return Err(io::Error::other("another file system is mounted there"));
    }
    if depth > 256 {
        return Err(io::Error::other("it is too deep to be removed"));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inner = fs::openat(dir, name, flags, Mode::empty())?;
    let mut found = Vec::new();
    names(&inner, &mut |n| {
        found.push(n.to_vec());
        Ok(())
    })?;
    let mut removed = 0;
    for n in &found {
        removed += remove_level(&inner, n, device, depth + 1)?;
    }
    drop(inner);
    fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?;
    Ok(removed + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn nothing_leads_out() {
        let scratch = tempfile::tempdir().unwrap();
        let outside = scratch.path().join("outside");
        std::fs::create_dir_all(outside.join("deep")).unwrap();
        let inside = scratch.path().join("inside");
        let target = Target::open(&inside, true).unwrap();
        std::fs::create_dir_all(inside.join("a/b")).unwrap();
        symlink(&outside, inside.join("a/out")).unwrap();
        symlink("b", inside.join("a/in")).unwrap();
        for by_components in [false, true] {
            target
                .without_openat2
                .store(by_components, Ordering::Relaxed);
            assert!(target.dir(b"a/b").is_ok());
            assert!(target.dir(b"").is_ok());
            for bad in [
                &b"a/out"[..],
                b"a/out/deep",
                b"a/in",
                b"../outside",
                b"a/../../outside",
                b"/etc",
                b"a/b/../../../outside",
            ] {
                assert!(target.dir(bad).is_err(), "{}", String::from_utf8_lossy(bad));
            }
        }
    }

    #[test]
    fn temp_names_are_known_again() {
        let scratch = tempfile::tempdir().unwrap();
        let target = Target::open(scratch.path(), false).unwrap();
        assert!(is_temp_name(&target.temp_name()));
        assert_ne!(target.temp_name(), target.temp_name());
        for other in [
            &b".keepwatch-.tmp"[..],
            b".keepwatch-0123456789abcdef0123456G.tmp",
            b"x",
            b".keepwatch-0123456789abcdef01234567.tmp2",
        ] {
            assert!(!is_temp_name(other));
        }
    }

    #[test]
    fn removal_follows_no_symlink() {
        let scratch = tempfile::tempdir().unwrap();
        let at = scratch.path();
        std::fs::create_dir_all(at.join("keep/sub")).unwrap();
        std::fs::create_dir_all(at.join("gone/sub")).unwrap();
        std::fs::write(at.join("keep/sub/file"), b"x").unwrap();
        symlink(at.join("keep"), at.join("gone/sub/link")).unwrap();
        let target = Target::open(at, false).unwrap();
        let root = target.dir(b"").unwrap();
        assert_eq!(remove_all(&root, b"gone").unwrap(), 3);
        assert!(at.join("keep/sub/file").exists() && !at.join("gone").exists());
        assert_eq!(remove_all(&root, b"absent").unwrap(), 0);
    }
}

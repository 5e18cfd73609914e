//! The walk: every entry beneath the source paths, in the order of the manifest.
//!
//! Directories are opened relative to their parent and never through a symlink, so a tree that is renamed or swapped meanwhile cannot lead the walk elsewhere.
//! Only `lstat` is called here; files are opened by the readers.

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstatfs, openat, readlinkat, statat,
};

use crate::limits;
use crate::manifest::{Entry, EntryKind, FLAG_PARENT, FileTime, Xattr, compare};
use crate::patterns::Patterns;
use crate::progress::Problem;

use super::cache::Fingerprint;

/// What the walk found.
pub struct Found {
    /// Metadata without content and without extended attributes.
    pub entry: Entry,
    /// To tell a change.
    pub fingerprint: Fingerprint,
    /// Its directory and name, to open it.
    pub place: Place,
}

/// A directory and a name in it.
#[derive(Clone)]
pub struct Place {
    /// The directory.
    pub dir: Arc<OwnedFd>,
    /// The name.
    pub name: CString,
}

/// What to leave out.
pub struct Filter {
    /// By name.
    pub excludes: Patterns,
    /// Files longer than this many bytes.
    pub larger_than: Option<u64>,
    /// Content of directories with a valid CACHEDIR.TAG.
    pub caches: bool,
    /// Other file systems than those of the source paths.
    pub one_file_system: bool,
    /// Directories never entered: the repository itself and the cache.
    pub never: HashSet<(u64, u64)>,
    /// Record access times.
    pub atime: bool,
}

/// Receives what is found; stops the walk by an error.
pub trait Visitor {
    /// Stops the walk.
    type Stop;
    /// An entry, in order.
    fn found(&mut self, found: Found) -> Result<(), Self::Stop>;
    /// Something could not be looked at.
    fn problem(&mut self, problem: Problem);
    /// Something was left out that a person might expect.
    fn note(&mut self, note: String);
}

/// Makes source paths absolute, follows the symlinks that lead to them, and drops those beneath others. A source that is itself a symlink is recorded, and what it
/// points to is added: "back up ~/data" must not end with a link and nothing behind it.
pub fn sources(paths: &[PathBuf]) -> (Vec<PathBuf>, Vec<Problem>) {
    let mut out: Vec<PathBuf> = Vec::new();
    let mut problems = Vec::new();
    for path in paths {
        let mut add = || -> io::Result<()> {
            let meta = std::fs::symlink_metadata(path)?;
            let real = std::fs::canonicalize(path);
            if meta.is_symlink() {
                let absolute = std::path::absolute(path)?;
                let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
                    return Ok(());
                };
                out.push(std::fs::canonicalize(parent)?.join(name));
            }
            out.push(real?);
            Ok(())
        };
        if let Err(e) = add() {
            problems.push(Problem::new(
                path.as_os_str().as_bytes(),
                format!("cannot be backed up: {e}"),
            ));
        }
    }
    out.sort_by(|a, b| compare(relative(a), relative(b)));
    out.dedup_by(|later, first| later.starts_with(&*first));
    (out, problems)
}

fn relative(path: &Path) -> &[u8] {
    let b = path.as_os_str().as_bytes();
    b.strip_prefix(b"/").unwrap_or(b)
}

/// Walks `sources`, which come from [`sources`].
pub fn walk<V: Visitor>(
    sources: &[PathBuf],
    filter: &Filter,
    names: &mut Names,
    visitor: &mut V,
) -> Result<(), V::Stop> {
    let mut walker = Walker {
        filter,
        names,
        visitor,
        path: Vec::new(),
        device: 0,
    };
    let mut done: Vec<u8> = Vec::new();
    for source in sources {
        walker.source(source, &mut done)?;
    }
    Ok(())
}

struct Walker<'a, V> {
    filter: &'a Filter,
    names: &'a mut Names,
    visitor: &'a mut V,
    path: Vec<u8>,
    device: u64,
}

impl<V: Visitor> Walker<'_, V> {
    fn problem(&mut self, path: &[u8], what: impl ToString) {
        let mut shown = vec![b'/'];
        shown.extend_from_slice(path);
        self.visitor.problem(Problem {
            path: shown,
            what: what.to_string(),
        });
    }

    /// Records the directories above a source, as far as not done for the one before, and then what is at it.
    fn source(&mut self, source: &Path, done: &mut Vec<u8>) -> Result<(), V::Stop> {
        let full = relative(source).to_vec();
        self.path.clear();
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        // Directories above need not be readable, only passable.
        let above = flags.difference(OFlags::RDONLY) | OFlags::PATH;
        let mut dir = match openat(
            CWD,
            c"/",
            if full.is_empty() { flags } else { above },
            Mode::empty(),
        ) {
            Ok(d) => Arc::new(d),
            Err(e) => {
                self.problem(&full, e);
                return Ok(());
            }
        };
        if full.is_empty() {
            if let Ok(s) = rustix::fs::fstat(&*dir) {
                self.device = s.st_dev;
            }
            return self.directory(dir);
        }
        let components: Vec<&[u8]> = full.split(|b| *b == b'/').collect();
        for (i, name) in components.iter().enumerate() {
            if !self.path.is_empty() {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name);
            let Ok(name) = CString::new(*name) else {
                return Ok(());
            };
            let last = i + 1 == components.len();
            if last {
                let stat = match statat(&*dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(s) => s,
                    Err(e) => {
                        let path = self.path.clone();
                        self.problem(&path, format!("cannot be looked at: {e}"));
                        return Ok(());
                    }
                };
                self.device = stat.st_dev;
                return self.entry(&dir, &name, &stat, false);
            }
            let beneath_done =
                done.len() >= self.path.len() && crate::manifest::is_beneath(done, &self.path);
            if !beneath_done {
                if let Ok(stat) = statat(&*dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
                    let mut found = self.found(&dir, &name, &stat);
                    found.entry.set_flag(FLAG_PARENT);
                    self.visitor.found(found)?;
                }
                done.clone_from(&self.path);
            }
            dir = match openat(&*dir, &name, above, Mode::empty()) {
                Ok(d) => Arc::new(d),
                Err(e) => {
                    self.problem(&full, format!("cannot be reached: {e}"));
                    return Ok(());
                }
            };
        }
        Ok(())
    }

    /// What is named by `self.path`.
    fn entry(
        &mut self,
        dir: &Arc<OwnedFd>,
        name: &CStr,
        stat: &Stat,
        filtered: bool,
    ) -> Result<(), V::Stop> {
        if crate::manifest::check_path(&self.path).is_err() {
            let path = self.path.clone();
            self.problem(
                &path,
                "is left out: its path is longer or deeper than can be stored",
            );
            return Ok(());
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        if filtered {
            if self.filter.excludes.matches(&self.path) {
                return Ok(());
            }
            if kind == FileType::RegularFile
                && self
                    .filter
                    .larger_than
                    .is_some_and(|n| stat.st_size as u64 > n)
            {
                return Ok(());
            }
        }
        let mut found = self.found(dir, name, stat);
        if kind == FileType::Symlink {
            match readlinkat(&**dir, name, Vec::new()) {
                Ok(t) => found.entry.target = Some(t.into_bytes().into()),
                Err(e) => {
                    let path = self.path.clone();
                    self.problem(&path, format!("the symlink cannot be read: {e}"));
                    return Ok(());
                }
            }
        }
        self.visitor.found(found)?;
        if kind != FileType::Directory {
            return Ok(());
        }
        if self.filter.never.contains(&(stat.st_dev, stat.st_ino)) {
            self.visitor.note(format!(
                "/{} is left out: Keepwatch's own data",
                String::from_utf8_lossy(&self.path)
            ));
            return Ok(());
        }
        if stat.st_dev != self.device && self.filter.one_file_system && filtered {
            return Ok(());
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        let inner = match openat(&**dir, name, flags, Mode::empty()) {
            Ok(d) => Arc::new(d),
            Err(e) => {
                let path = self.path.clone();
                self.problem(&path, format!("the directory cannot be read: {e}"));
                return Ok(());
            }
        };
        if stat.st_dev != self.device && filtered && is_kernel_view(&inner) {
            self.visitor.note(format!(
                "/{} is left out: a view of the kernel, not data",
                String::from_utf8_lossy(&self.path)
            ));
            return Ok(());
        }
        if self.filter.caches && is_cache(&inner) {
            return Ok(());
        }
        let outer = std::mem::replace(&mut self.device, stat.st_dev);
        let done = self.directory(inner);
        self.device = outer;
        done
    }

    /// All that is in the directory named by `self.path`.
    fn directory(&mut self, dir: Arc<OwnedFd>) -> Result<(), V::Stop> {
        let mut names = Listing::default();
        let read = (|| -> rustix::io::Result<()> {
            for item in Dir::read_from(&*dir)? {
                let item = item?;
                let name = item.file_name();
                if name != c"." && name != c".." {
                    names.push(name);
                }
            }
            Ok(())
        })();
        if let Err(e) = read {
            let path = self.path.clone();
            self.problem(
                &path,
                format!("the directory cannot be read to its end: {e}"),
            );
        }
        names.sort();
        let length = self.path.len();
        for name in names.iter() {
            if length > 0 {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name.to_bytes());
            match statat(&*dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => self.entry(&dir, name, &stat, true)?,
                Err(rustix::io::Errno::NOENT) => {
                    let path = self.path.clone();
                    self.problem(&path, "vanished before it was read");
                }
                Err(e) => {
                    let path = self.path.clone();
                    self.problem(&path, format!("cannot be looked at: {e}"));
                }
            }
            self.path.truncate(length);
        }
        Ok(())
    }

    fn found(&mut self, dir: &Arc<OwnedFd>, name: &CStr, stat: &Stat) -> Found {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => EntryKind::Directory,
            FileType::Symlink => EntryKind::Symlink,
            FileType::Fifo => EntryKind::Fifo,
            FileType::CharacterDevice => EntryKind::CharDevice,
            FileType::BlockDevice => EntryKind::BlockDevice,
            FileType::Socket => EntryKind::Socket,
            _ => EntryKind::File,
        };
        let mut entry = Entry::new(self.path.clone(), kind);
        describe(&mut entry, stat, self.names, self.filter.atime);
        Found {
            entry,
            fingerprint: fingerprint(stat),
            place: Place {
                dir: dir.clone(),
                name: name.to_owned(),
            },
        }
    }
}

/// The names in a directory, one after another in one piece of memory: their bytes and 9 more each, half of what as many strings of their own take. A directory
/// cannot be walked in order without having read it whole, so this grows with the largest directory: 30 MB for a million names of 20 bytes.
#[derive(Default)]
struct Listing {
    /// Each ends with a zero byte.
    bytes: Vec<u8>,
    starts: Vec<usize>,
}

impl Listing {
    fn push(&mut self, name: &CStr) {
        self.starts.push(self.bytes.len());
        self.bytes.extend_from_slice(name.to_bytes_with_nul());
    }
    fn at(&self, start: usize) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes[start..]).unwrap_or_default()
    }
    fn sort(&mut self) {
        let mut starts = std::mem::take(&mut self.starts);
        starts.sort_unstable_by(|a, b| self.at(*a).cmp(self.at(*b)));
        self.starts = starts;
    }
    fn iter(&self) -> impl Iterator<Item = &CStr> {
        self.starts.iter().map(|start| self.at(*start))
    }
}

/// Fills in what a `stat` tells.
pub fn describe(entry: &mut Entry, stat: &Stat, names: &mut Names, atime: bool) {
    entry.mode = stat.st_mode & 0o7777;
    entry.uid = stat.st_uid;
    entry.gid = stat.st_gid;
    entry.user = names.user(stat.st_uid);
    entry.group = names.group(stat.st_gid);
    entry.mtime = FileTime {
        seconds: stat.st_mtime,
        nanoseconds: stat.st_mtime_nsec as u32,
    };
    entry.atime = atime.then_some(FileTime {
        seconds: stat.st_atime,
        nanoseconds: stat.st_atime_nsec as u32,
    });
    match entry.kind() {
        EntryKind::File => {
            entry.size = Some(stat.st_size as u64);
            entry.link = (stat.st_nlink > 1).then_some([stat.st_dev, stat.st_ino]);
        }
        EntryKind::CharDevice | EntryKind::BlockDevice => {
            entry.device = Some([
                rustix::fs::major(stat.st_rdev),
                rustix::fs::minor(stat.st_rdev),
            ]);
        }
        _ => {}
    }
}

/// What tells a change.
pub fn fingerprint(stat: &Stat) -> Fingerprint {
    Fingerprint {
        inode: stat.st_ino,
        ctime: FileTime {
            seconds: stat.st_ctime,
            nanoseconds: stat.st_ctime_nsec as u32,
        },
        mtime: FileTime {
            seconds: stat.st_mtime,
            nanoseconds: stat.st_mtime_nsec as u32,
        },
        size: if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
            stat.st_size as u64
        } else {
            0
        },
    }
}

/// proc, sysfs, cgroup2, debugfs, tracefs, securityfs, bpf, configfs, pstore, efivarfs, selinuxfs, devpts, mqueue (`linux/magic.h`).
fn is_kernel_view(dir: &OwnedFd) -> bool {
    const VIEWS: [u32; 13] = [
        0x9fa0,
        0x6265_6572,
        0x6367_7270,
        0x6462_6720,
        0x7472_6163,
        0x7363_6673,
        0xcafe_4a11,
        0x6265_6570,
        0x6165_676c,
        0xde5e_81e4,
        0xf97c_ff8c,
        0x1cd1,
        0x1980_0202,
    ];
    fstatfs(dir).is_ok_and(|s| VIEWS.contains(&(s.f_type as u32)))
}

/// <https://bford.info/cachedir/>
fn is_cache(dir: &OwnedFd) -> bool {
    let Ok(tag) = openat(
        dir,
        c"CACHEDIR.TAG",
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK,
        Mode::empty(),
    ) else {
        return false;
    };
    let mut head = [0u8; 43];
    let mut n = 0;
    while n < head.len() {
        match rustix::io::read(&tag, &mut head[n..]) {
            Ok(0) | Err(_) => return false,
            Ok(more) => n += more,
        }
    }
    &head == b"Signature: 8a477f597d28d172789f06886806bc55"
}

/// Extended attributes of what is at `place`, without following a symlink. Those that cannot be read are told in the second half.
pub fn xattrs_at(place: &Place) -> (Option<Vec<Xattr>>, Option<String>) {
    use std::os::fd::AsRawFd;
    let mut path = format!("/proc/self/fd/{}/", place.dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(place.name.as_bytes());
    let path = PathBuf::from(std::ffi::OsString::from(std::ffi::OsStr::from_bytes(&path)));
    collect_xattrs(
        |b| rustix::fs::llistxattr(&path, b),
        |n, b| rustix::fs::lgetxattr(&path, n, b),
    )
}

/// As [`xattrs_at`], of an open file.
pub fn xattrs_of(file: &std::fs::File) -> (Option<Vec<Xattr>>, Option<String>) {
    collect_xattrs(
        |b| rustix::fs::flistxattr(file, b),
        |n, b| rustix::fs::fgetxattr(file, n, b),
    )
}

fn collect_xattrs(
    list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    get: impl Fn(&CStr, &mut [u8]) -> rustix::io::Result<usize>,
) -> (Option<Vec<Xattr>>, Option<String>) {
    use rustix::io::Errno;
    let mut small = [0u8; 1024];
    let names = match list(&mut small) {
        Ok(0) | Err(Errno::NOTSUP | Errno::NOSYS) => return (None, None),
        Ok(n) => small[..n].to_vec(),
        Err(Errno::RANGE) => {
            let mut large = vec![0u8; 64 << 10];
            match list(&mut large) {
                Ok(n) => {
                    large.truncate(n);
                    large
                }
                Err(e) => {
                    return (
                        None,
                        Some(format!("its extended attributes cannot be listed: {e}")),
                    );
                }
            }
        }
        Err(e) => {
            return (
                None,
                Some(format!("its extended attributes cannot be listed: {e}")),
            );
        }
    };
    let mut out = Vec::new();
    let mut problem = None;
    let mut sum = 0;
    for name in names.split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let Ok(c) = CString::new(name) else { continue };
        let mut value = vec![0u8; 64 << 10];
        match get(&c, &mut value) {
            Ok(n) if sum + n + name.len() <= limits::XATTR_BYTES => {
                value.truncate(n);
                value.shrink_to_fit();
                sum += n + name.len();
                out.push(Xattr {
                    name: name.to_vec(),
                    value,
                });
            }
            Ok(_) => problem = Some("its extended attributes are longer than can be stored".into()),
            // Removed meanwhile, or trusted.* without the right to see it.
            Err(Errno::NODATA) => {}
            Err(e) => {
                problem = Some(format!(
                    "its extended attribute {} cannot be read: {e}",
                    String::from_utf8_lossy(name)
                ))
            }
        }
    }
    out.sort_by(|a, b| a.name.cmp(&b.name));
    ((!out.is_empty()).then_some(out), problem)
}

/// Names of users and groups, as `/etc/passwd` and `/etc/group` give them. Read once; names from elsewhere (LDAP) are stored as numbers only.
pub struct Names {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl Names {
    /// Of this host.
    pub fn load() -> Names {
        let read = |path: &str| {
            let text = std::fs::read(path).unwrap_or_default();
            String::from_utf8_lossy(&text)
                .lines()
                .filter_map(|l| {
                    let mut f = l.split(':');
                    let (name, _, id) = (f.next()?, f.next()?, f.next()?.parse().ok()?);
                    (!name.is_empty() && name.len() <= 256).then(|| (id, name.to_owned()))
                })
                .collect::<Vec<(u32, String)>>()
                .into_iter()
                .rev() // the first line with an id wins
                .collect()
        };
        Names {
            users: read("/etc/passwd"),
            groups: read("/etc/group"),
        }
    }
    fn user(&self, id: u32) -> Option<String> {
        self.users.get(&id).cloned()
    }
    fn group(&self, id: u32) -> Option<String> {
        self.groups.get(&id).cloned()
    }
}

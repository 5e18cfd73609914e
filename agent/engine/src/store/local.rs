//! A repository in a directory.
//!
//! An object is written to `tmp/<random>`, synced, linked to its name (which fails if the name exists), and the directory synced; so it is there whole or
//! not at all, and after `put` it survives power loss. A failed `fsync` is an error and the object is given up: pages that failed to reach the disk are marked clean
//! by the kernel, so a second `fsync` would lie (<https://lwn.net/Articles/752063/>).

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{Area, Fault, Finding, Listed, Name, Store, StoreError, Verdict};
use crate::ids::hex;

/// See the module.
pub struct LocalStore {
    root: PathBuf,
}

fn fault(e: &io::Error) -> Fault {
    use rustix::io::Errno;
    match e.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT) => Fault::Missing,
        Some(Errno::EXIST) => Fault::Exists,
        Some(Errno::NOSPC | Errno::DQUOT) => Fault::Full,
        Some(Errno::ROFS) => Fault::ReadOnly,
        Some(Errno::ACCESS | Errno::PERM) => Fault::Denied,
        _ if e.kind() == io::ErrorKind::NotFound => Fault::Missing,
        _ => Fault::Other,
    }
}

impl LocalStore {
    /// A store in an existing directory.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let store = LocalStore {
            root: root.to_owned(),
        };
        match fs::metadata(root) {
            Ok(m) if m.is_dir() => Ok(store),
            Ok(_) => Err(store.error(
                "open",
                "the directory",
                io::Error::other("it is not a directory"),
            )),
            Err(e) => Err(store.error("open", "the directory", e)),
        }
    }

    /// Makes the directory (which may exist, empty) and its areas.
    pub fn create(root: &Path) -> Result<Self, StoreError> {
        let store = LocalStore {
            root: root.to_owned(),
        };
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        let made = || -> io::Result<()> {
            builder.create(root)?;
            builder.create(root.join("tmp"))?;
            for area in Area::ALL {
                builder.create(root.join(area.prefix()))?;
            }
            sync_dir(root)?;
            for (n, dir) in std::path::absolute(root)?.ancestors().skip(1).enumerate() {
                // Directories further above may be as new; what may not be opened, this user did not make.
                match sync_dir(dir) {
                    Err(e) if n == 0 => return Err(e),
                    _ => {}
                }
            }
            Ok(())
        };
        made().map_err(|e| store.error("create", "the repository", e))?;
        Ok(store)
    }

    fn error(&self, verb: &'static str, object: impl ToString, cause: io::Error) -> StoreError {
        StoreError {
            verb,
            object: object.to_string(),
            store: self.location(),
            fault: fault(&cause),
            cause,
        }
    }

    fn path(&self, name: &Name) -> PathBuf {
        self.root.join(name.to_string())
    }

    fn put_inner(&self, name: &Name, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(name);
        let parent = path.parent().expect("objects lie in a directory");
        let tmp = self.root.join("tmp").join(temp_name()?);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let mut file = match options.open(&tmp) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                DirBuilder::new()
                    .mode(0o700)
                    .create(self.root.join("tmp"))?;
                options.open(&tmp)?
            }
            other => other?,
        };
        let written = (|| {
            file.write_all(bytes)?;
            file.sync_all()?;
            match fs::hard_link(&tmp, &path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    // First pack with this prefix.
                    let mut builder = DirBuilder::new();
                    builder.recursive(true).mode(0o700).create(parent)?;
                    for dir in parent.ancestors().skip(1) {
                        sync_dir(dir)?;
                        if dir == self.root {
                            break;
                        }
                    }
                    fs::hard_link(&tmp, &path)
                }
                // File systems without hard links (FAT, some FUSE): rename that refuses to replace.
                Err(e) if matches!(e.raw_os_error(), Some(1) | Some(95) | Some(38)) => {
                    use rustix::fs::{CWD, RenameFlags, renameat_with};
                    renameat_with(CWD, &tmp, CWD, &path, RenameFlags::NOREPLACE)
                        .map_err(io::Error::from)
                }
                other => other,
            }
        })();
        drop(file);
        let _ = fs::remove_file(&tmp);
        written?;
        if let Err(e) = sync_dir(parent) {
            // Not known to be durable: take it back rather than leave a maybe.
            let _ = fs::remove_file(&path);
            return Err(e);
        }
        Ok(())
    }
}

impl LocalStore {
    /// Lists the directory `under` of an area, and those in it.
    fn walk(
        &self,
        area: Area,
        under: &str,
        each: &mut dyn FnMut(Listed),
    ) -> Result<(), StoreError> {
        let depth = match area {
            Area::Packs => 1,
            Area::Wal => 2,
            _ => 0,
        };
        let depth = usize::saturating_sub(depth, under.matches('/').count());
        let top = self.root.join(area.prefix());
        match visit(&top.join(under), area, under, depth, each) {
            // An area that nothing was put into may be absent (a copy made without empty directories), but not when the repository itself is gone.
            Err(e) if e.kind() == io::ErrorKind::NotFound && self.root.join("config").exists() => {
                Ok(())
            }
            Err(e) => Err(self.error("list", format!("{}/", area.prefix()), e)),
            Ok(()) => Ok(()),
        }
    }
}

/// `prefix`: the names on the way to `dir` within the area, each with a slash behind it.
fn visit(
    dir: &Path,
    area: Area,
    prefix: &str,
    depth: usize,
    each: &mut dyn FnMut(Listed),
) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let Ok(file) = entry.file_name().into_string() else {
            continue;
        };
        if depth > 0 {
            // Of packs two letters, of WAL sixteen, or `history`; other directories are foreign.
            if matches!(file.len(), 2 | 7 | 16) && entry.file_type()?.is_dir() {
                visit(
                    &entry.path(),
                    area,
                    &format!("{prefix}{file}/"),
                    depth - 1,
                    each,
                )?;
            }
            continue;
        }
        let Some(name) = Name::parse(area, &format!("{prefix}{file}")) else {
            continue;
        };
        let meta = match entry.metadata() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue, // deleted meanwhile
            other => other?,
        };
        if meta.is_file() {
            each(Listed {
                name,
                size: meta.len(),
                modified: meta.modified()?,
            });
        }
    }
    Ok(())
}

fn temp_name() -> io::Result<String> {
    let mut random = [0u8; 12];
    getrandom::fill(&mut random).map_err(|e| io::Error::other(e.to_string()))?;
    Ok(hex(&random))
}

fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

impl Store for LocalStore {
    fn location(&self) -> String {
        self.root.display().to_string()
    }

    fn put(&self, name: &Name, bytes: &[u8]) -> Result<(), StoreError> {
        self.put_inner(name, bytes)
            .map_err(|e| self.error("write", name, e))
    }

    fn get(&self, name: &Name, limit: u64) -> Result<Vec<u8>, StoreError> {
        let read = || -> io::Result<Vec<u8>> {
            let file = File::open(self.path(name))?;
            let size = file.metadata()?.len();
            if size > limit {
                return Err(io::Error::other(format!(
                    "it has {size} bytes, more than the {limit} allowed for it"
                )));
            }
            let mut out = Vec::with_capacity(size as usize);
            file.take(limit + 1).read_to_end(&mut out)?;
            Ok(out)
        };
        read().map_err(|e| self.error("read", name, e))
    }

    fn get_range(&self, name: &Name, offset: u64, length: u64) -> Result<Vec<u8>, StoreError> {
        let read = || -> io::Result<Vec<u8>> {
            let file = File::open(self.path(name))?;
            // The length comes from an index: no allocation before the object is known to be that long.
            let size = file.metadata()?.len();
            if offset.checked_add(length).is_none_or(|end| end > size) {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!(
                        "it has {size} bytes, but bytes {offset} to {} are wanted",
                        offset.saturating_add(length)
                    ),
                ));
            }
            let mut out = vec![0; length as usize];
            file.read_exact_at(&mut out, offset)?;
            Ok(out)
        };
        read().map_err(|e| self.error("read", name, e))
    }

    fn size(&self, name: &Name) -> Result<u64, StoreError> {
        fs::metadata(self.path(name))
            .map(|m| m.len())
            .map_err(|e| self.error("read", name, e))
    }

    fn list(&self, area: Area, each: &mut dyn FnMut(Listed)) -> Result<(), StoreError> {
        self.walk(area, "", each)
    }

    fn list_under(
        &self,
        area: Area,
        under: &str,
        each: &mut dyn FnMut(Listed),
    ) -> Result<(), StoreError> {
        self.walk(area, under, each)
    }

    fn delete(&self, name: &Name) -> Result<(), StoreError> {
        let path = self.path(name);
        let done = match fs::remove_file(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other,
        };
        done.and_then(|()| sync_dir(path.parent().expect("objects lie in a directory")))
            .map_err(|e| self.error("delete", name, e))
    }

    fn sweep(&self, before: SystemTime) -> Result<u64, StoreError> {
        let run = || -> io::Result<u64> {
            let mut swept = 0;
            let dir = match fs::read_dir(self.root.join("tmp")) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
                other => other?,
            };
            for entry in dir {
                let entry = entry?;
                let Ok(meta) = entry.metadata() else { continue };
                if meta.is_file() && meta.modified()? < before {
                    fs::remove_file(entry.path())?;
                    swept += 1;
                }
            }
            Ok(swept)
        };
        run().map_err(|e| self.error("sweep", "tmp/", e))
    }

    fn examine(&self) -> Vec<Finding> {
        use rustix::fs::{Access, access, statfs};
        let mut out = Vec::new();
        let mut say = |what, verdict, text: &str| {
            out.push(Finding {
                what,
                verdict,
                text: text.to_owned(),
            })
        };
        let writable = access(&self.root, Access::WRITE_OK | Access::EXEC_OK);
        match (access(&self.root, Access::READ_OK), writable) {
            (Err(_), _) => say("directory", Verdict::Bad, "it may not be read by this user"),
            (_, Err(_)) => say(
                "directory",
                Verdict::Note,
                "it may be read, not written: good for restores, not for backups",
            ),
            _ => say("directory", Verdict::Good, "it may be read and written"),
        }
        // Magic numbers of statfs(2).
        match statfs(&self.root).map(|s| s.f_type as u64 & 0xffff_ffff) {
            Ok(0x0102_1994 | 0x8584_58f6) => say(
                "file system",
                Verdict::Bad,
                "it lies in memory: everything is lost at the next start",
            ),
            Ok(0x6969) => say(
                "file system",
                Verdict::Note,
                "NFS: durable as far as the server is (mount option 'sync', no 'async' export)",
            ),
            Ok(0x6573_5546) => say(
                "file system",
                Verdict::Note,
                "FUSE: whether it keeps what it says it wrote is up to its program",
            ),
            Ok(0xfe53_4d42 | 0xff53_4d42) => say(
                "file system",
                Verdict::Note,
                "SMB: durable as far as the server is",
            ),
            Ok(_) => say("file system", Verdict::Good, "a local one"),
            Err(e) => say("file system", Verdict::Note, &format!("not known: {e}")),
        }
        out
    }
}

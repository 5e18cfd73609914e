//! Writes the tree that the last snapshot describes, as sparse files, and the local cache that a backup of it would have left.

use std::ffi::CString;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use keepwatch_engine::backup::cache::{CacheWriter, Fingerprint};
use keepwatch_engine::manifest::FileTime;
use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, Stat, Timespec, Timestamps, fchmod, fstat, ftruncate, futimens,
    openat, statat, utimensat,
};

use crate::model::{BLOCK, Item, Model};
use crate::repo::Result;

fn times(t: FileTime) -> Timestamps {
    let t = Timespec {
        tv_sec: t.seconds,
        tv_nsec: t.nanoseconds as _,
    };
    Timestamps {
        last_access: t,
        last_modification: t,
    }
}

fn fingerprint(stat: &Stat, size: u64) -> Fingerprint {
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
        size,
    }
}

/// Writes the tree at `root` and its records into `cache`. A directory's times change while files come into it, so all directories are made first, and each is
/// recorded when its files are there.
pub fn make(root: &Path, model: &Model, versions: &[u16], cache: &mut CacheWriter) -> Result<()> {
    fs::create_dir_all(root)?;
    for item in model.items() {
        if !matches!(item, Item::File(_)) {
            let path = root.join(model.below(item));
            fs::create_dir_all(&path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
    }
    let source = root
        .to_str()
        .ok_or("the path of the tree is not UTF-8")?
        .trim_start_matches('/')
        .to_owned();
    cache.head()?;
    for item in model.items() {
        let files = match item {
            Item::File(_) => continue,
            Item::Source | Item::Top(_) => 0..0,
            Item::Leaf(l) => l * BLOCK..(l + 1) * BLOCK,
            Item::Spool => model.spread..model.files,
        };
        let path = root.join(model.below(item));
        let dir = openat(
            CWD,
            &path,
            OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let mut stats = Vec::with_capacity(files.len());
        for f in files.clone() {
            stats.push(file(&dir, model, f, versions[f as usize])?);
        }
        let entry = model.entry(&source, item, 0);
        utimensat(CWD, &path, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)?;
        let stat = statat(CWD, &path, AtFlags::SYMLINK_NOFOLLOW)?;
        let mut encoded = Vec::new();
        entry.encode_to(&mut encoded);
        cache.push(&entry.path, &fingerprint(&stat, 0), &encoded, &[])?;
        let mut chunks = Vec::new();
        for (f, print) in files.zip(&stats) {
            let version = versions[f as usize];
            let entry = model.entry(&source, Item::File(f), version);
            encoded.clear();
            entry.encode_to(&mut encoded);
            chunks.clear();
            for k in 0..model.chunks(f) {
                chunks.extend_from_slice(&model.id(f, version, k).0);
            }
            cache.push(&entry.path, print, &encoded, &chunks)?;
        }
    }
    cache.finish()?;
    Ok(())
}

fn file(dir: &OwnedFd, model: &Model, f: u32, version: u16) -> Result<Fingerprint> {
    let below = model.below(Item::File(f));
    let name = CString::new(below.rsplit('/').next().unwrap_or(""))?;
    let file = openat(
        dir,
        &name,
        OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC,
        Mode::from_raw_mode(0o644),
    )?;
    fchmod(&file, Mode::from_raw_mode(0o644))?;
    let size = model.size(f);
    ftruncate(&file, size)?;
    futimens(&file, &times(model.mtime(f, version)))?;
    Ok(fingerprint(&fstat(&file)?, size))
}

/// Gives the files that change on a day new content: 512 random bytes at the beginning, holes after. How many.
pub fn change(root: &Path, model: &Model, day: u16, scattered: bool) -> Result<u64> {
    let mut files = Vec::new();
    model.changed(day, scattered, &mut |f| files.push(f));
    for &f in &files {
        use std::os::unix::fs::FileExt;
        let mut bytes = [0; 512];
        getrandom::fill(&mut bytes).map_err(|e| e.to_string())?;
        let n = model.size(f).min(512) as usize;
        fs::File::options()
            .write(true)
            .open(root.join(model.below(Item::File(f))))?
            .write_all_at(&bytes[..n], 0)?;
    }
    Ok(files.len() as u64)
}

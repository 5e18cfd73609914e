//! The passes after the content: hard links, what earlier runs left behind, and at last the metadata of directories.

use std::collections::HashSet;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};

use super::Overwrite;
use super::RestoreError;
use super::meta;
use super::plan::{Holder, Planned};
use super::target::{self, Dirs, Target};
use super::write::Shared;
use crate::chunks::ChunkReader;
use crate::contents::{Bits, Manifest};
use crate::manifest::{Entry, EntryKind};
use crate::progress::Event;

/// Calls `each` for the entries whose bit is set, part by part; the last first when `backwards`.
pub(crate) fn each_marked(
    shared: &Shared<'_>,
    reader: &mut ChunkReader<'_>,
    manifest: &Manifest,
    ranges: &[Range<usize>],
    marked: &Bits,
    backwards: bool,
    each: &mut dyn FnMut(&Entry, u64, u64),
) -> Result<(), RestoreError> {
    let mut parts: Vec<usize> = ranges.iter().cloned().flatten().collect();
    if backwards {
        parts.reverse();
    }
    for i in parts {
        let row = &manifest.parts[i];
        if !marked.any(row.first_entry..row.first_entry + row.part.entries as u64) {
            continue;
        }
        let mut entries = match manifest.entries(reader, i, &mut Vec::new()) {
            Ok(e) => e,
            Err(e) => {
                shared.problem(
                    b"",
                    format!("entries of the snapshot cannot be read again: {e}"),
                );
                continue;
            }
        };
        let mut numbered: Vec<(u64, (Entry, u64))> = entries
            .drain(..)
            .enumerate()
            .map(|(k, e)| (row.first_entry + k as u64, e))
            .collect();
        if backwards {
            numbered.reverse();
        }
        for (number, (entry, first_ref)) in numbered {
            if shared.is_stopped() {
                return Ok(());
            }
            if marked.get(number) {
                each(&entry, number, first_ref);
            }
        }
    }
    Ok(())
}

/// Makes the hard links of groups whose first member is in place. Returns how many were there already or may not be replaced.
pub(crate) fn links(
    shared: &Shared<'_>,
    reader: &mut ChunkReader<'_>,
    target: &Target,
    manifest: &Manifest,
    ranges: &[Range<usize>],
    again: &Bits,
    planned: &Planned,
) -> Result<u64, RestoreError> {
    let mut skipped = 0;
    if planned.links.is_empty() {
        return Ok(0);
    }
    let mut dirs = Dirs::new(target);
    each_marked(
        shared,
        reader,
        manifest,
        ranges,
        again,
        false,
        &mut |entry, number, _| {
            let Some(holder) = entry.link.and_then(|l| planned.links.get(&l)) else {
                return;
            };
            if !shared.done.get(holder.number) {
                let holder = String::from_utf8_lossy(&holder.path);
                return shared.problem(
                    &entry.path,
                    format!(
                        "not restored: it is a hard link to {holder}, which could not be restored"
                    ),
                );
            }
            match link(shared, target, &mut dirs, entry, holder) {
                Ok(made) => {
                    shared.done.set(number);
                    if made {
                        shared
                            .files
                            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    } else {
                        skipped += 1;
                    }
                    shared.progress.event(Event::Done { items: 1, bytes: 0 });
                }
                Err(e) => shared.io_problem(&entry.path, "restore the hard link", &e),
            }
        },
    )?;
    Ok(skipped)
}

fn link(
    shared: &Shared<'_>,
    target: &Target,
    dirs: &mut Dirs<'_>,
    entry: &Entry,
    holder: &Holder,
) -> io::Result<bool> {
    let (from_parent, from_name) = target::split(&holder.path);
    let (parent, name) = target::split(&entry.path);
    let from_dir = dirs.open(from_parent)?;
    let dir = dirs.open(parent)?;
    let first = target::stat(&from_dir, from_name)?;
    let is_holder = |s: &fs::Stat| {
        target::type_of(s) == FileType::RegularFile && s.st_size as u64 == entry.len()
    };
    let Some(first) = first.filter(is_holder) else {
        return Err(io::Error::other("the first link was exchanged meanwhile"));
    };
    if let Some(there) = target::stat(&dir, name)? {
        if (there.st_dev, there.st_ino) == (first.st_dev, first.st_ino) {
            return Ok(false);
        }
        match shared.options.overwrite {
            Overwrite::Never => return Ok(false),
            Overwrite::IfNewer if entry.mtime <= meta::mtime(&there) => return Ok(false),
            _ => {}
        }
        if target::type_of(&there) == FileType::Directory {
            fs::unlinkat(&*dir, name, AtFlags::REMOVEDIR)?;
        }
    }
    let replace = shared.options.overwrite != Overwrite::Never;
    let temp = target.temp_name();
    let done = match fs::linkat(
        &*from_dir,
        from_name,
        &*dir,
        temp.as_slice(),
        AtFlags::empty(),
    ) {
        Ok(()) => match target::stat(&dir, &temp)? {
            Some(s) if (s.st_dev, s.st_ino) == (first.st_dev, first.st_ino) => {
                target::put_in_place(&dir, &temp, name, replace)
            }
            _ => Err(io::Error::other("the first link was exchanged meanwhile")),
        },
        // Too many links, another file system, or one without links.
        Err(_) => {
            return copy(
                shared,
                target,
                (&from_dir, from_name),
                (&dir, name),
                entry,
                replace,
            )
            .map(|()| true);
        }
    };
    // After a rename onto another link of the same file both names stay.
    let _ = target::unlink(&dir, &temp);
    done.map(|()| true)
}

fn copy(
    shared: &Shared<'_>,
    target: &Target,
    from: (&OwnedFd, &[u8]),
    to: (&OwnedFd, &[u8]),
    entry: &Entry,
    replace: bool,
) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut input = std::fs::File::from(fs::openat(from.0, from.1, flags, Mode::empty())?);
    let (temp, fd) = target::create_temp(target, to.0)?;
    let mut out = std::fs::File::from(fd);
    let done = (|| {
        if io::copy(&mut input, &mut out)? != entry.len() {
            return Err(io::Error::other("the first link was exchanged meanwhile"));
        }
        shared.rules.apply(out.as_fd(), entry)?;
        target::put_in_place(to.0, &temp, to.1, replace)
    })();
    if done.is_err() {
        let _ = target::unlink(to.0, &temp);
    }
    done
}

/// Removes unfinished files of earlier runs that the snapshot does not have.
pub(crate) fn leftovers(target: &Target, paths: &HashSet<Vec<u8>>) {
    let mut dirs = Dirs::new(target);
    for path in paths {
        let (parent, name) = target::split(path);
        let Ok(dir) = dirs.open(parent) else { continue };
        if matches!(target::stat(&dir, name), Ok(Some(s)) if target::type_of(&s) != FileType::Directory)
        {
            let _ = target::unlink(&dir, name);
        }
    }
}

/// Gives directories their metadata, the deepest first: a directory that may not be written or entered comes after what is in it.
pub(crate) fn directories(
    shared: &Shared<'_>,
    reader: &mut ChunkReader<'_>,
    target: &Target,
    manifest: &Manifest,
    ranges: &[Range<usize>],
    again: &Bits,
) -> Result<(), RestoreError> {
    let mut dirs = Dirs::new(target);
    each_marked(
        shared,
        reader,
        manifest,
        ranges,
        again,
        true,
        &mut |entry, _, _| {
            if entry.kind() != EntryKind::Directory {
                return;
            }
            let (parent, name) = target::split(&entry.path);
            match dirs
                .open(parent)
                .and_then(|dir| shared.rules.apply_dir(&dir, name, entry))
            {
                Ok(()) => shared.tell_of(entry),
                Err(e) => shared.io_problem(
                    &entry.path,
                    "give the directory its owner, mode and times",
                    &e,
                ),
            }
        },
    )
}

//! Adds up what a restore will write, and compares it with what is free, before anything is written.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use rustix::fs::{self, FileType};

use super::select::{Selection, Want};
use super::target::{self, Dirs, Target};
use super::write::Shared;
use super::{Overwrite, RestoreError, count_once, meta};
use crate::chunks::ChunkReader;
use crate::contents::Manifest;
use crate::manifest::{Entry, EntryKind};
use crate::progress::Event;
use crate::records::Totals;

/// Tells the totals. Errors when a file system does not have the room.
pub(crate) fn check(
    shared: &Shared<'_>,
    target: Option<&Target>,
    reader: &mut ChunkReader<'_>,
    manifest: &Manifest,
    ranges: &[Range<usize>],
    selection: &Selection,
    totals: &Totals,
) -> Result<(), RestoreError> {
    let target = target.filter(|_| !shared.options.dry_run);
    let free = |path: &[u8]| -> Option<u64> {
        let s = fs::fstatvfs(target?.dir(path).ok()?).ok()?;
        Some(s.f_bavail.saturating_mul(s.f_frsize))
    };
    // The snapshot's own totals count holes and hard links too: enough in most cases, and no pass over the manifest.
    if selection.is_all() && free(b"").is_none_or(|f| totals.bytes <= f) {
        shared.progress.event(Event::Total {
            items: totals.files,
            bytes: totals.bytes,
        });
        return Ok(());
    }
    let mut dirs = target.map(Dirs::new);
    let mut seen = HashSet::new();
    let (mut items, mut bytes) = (0, 0u64);
    // Needed bytes by device, with a directory on it.
    let mut needed: HashMap<u64, (u64, Vec<u8>)> = HashMap::new();
    let mut last: Option<(Vec<u8>, u64)> = None;
    let mut after = Vec::new();
    for i in ranges.iter().cloned().flatten() {
        shared.cancel.check()?;
        // A lost part is told later.
        let Ok(entries) = manifest.entries(reader, i, &mut after) else {
            continue;
        };
        for (entry, _) in entries {
            if entry.kind() != EntryKind::File || selection.want(&entry.path) != Want::Yes {
                continue;
            }
            items += 1;
            if !count_once(&mut seen, entry.link) {
                continue;
            }
            bytes = bytes.saturating_add(entry.stored_len());
            let Some(dirs) = dirs.as_mut() else { continue };
            let parent = target::split(&entry.path).0;
            if last.as_ref().is_none_or(|(p, _)| p != parent) {
                last = Some((parent.to_vec(), device_of(dirs, parent, &mut needed)));
            }
            let device = last.as_ref().map_or(0, |l| l.1);
            if let Some(n) = needed.get_mut(&device) {
                n.0 = n.0.saturating_add(missing(shared, dirs, &entry));
            }
        }
    }
    shared.progress.event(Event::Total { items, bytes });
    for (needed, at) in needed.into_values() {
        match free(&at) {
            Some(free) if needed > free => {
                let path = shared
                    .options
                    .target
                    .join(String::from_utf8_lossy(&at).as_ref())
                    .display()
                    .to_string();
                return Err(RestoreError::Space { path, needed, free });
            }
            _ => {}
        }
    }
    Ok(())
}

/// The device that a directory will lie on: that of the nearest one that exists.
fn device_of(dirs: &mut Dirs<'_>, path: &[u8], needed: &mut HashMap<u64, (u64, Vec<u8>)>) -> u64 {
    let mut path = path;
    loop {
        if let Some(s) = dirs.open(path).ok().and_then(|d| fs::fstat(&*d).ok()) {
            needed.entry(s.st_dev).or_insert_with(|| (0, path.to_vec()));
            return s.st_dev;
        }
        if path.is_empty() {
            return 0;
        }
        path = target::split(path).0;
    }
}

/// Bytes that a file will take beyond what stands there already.
fn missing(shared: &Shared<'_>, dirs: &mut Dirs<'_>, entry: &Entry) -> u64 {
    let (parent, name) = target::split(&entry.path);
    let there = dirs
        .open(parent)
        .ok()
        .and_then(|d| target::stat(&d, name).ok().flatten());
    let Some(s) = there else {
        return entry.stored_len();
    };
    let same = target::type_of(&s) == FileType::RegularFile
        && s.st_size as u64 == entry.len()
        && meta::mtime(&s) == entry.mtime;
    match shared.options.overwrite {
        Overwrite::Never => 0,
        Overwrite::IfChanged if same => 0,
        _ => entry
            .stored_len()
            .saturating_sub((s.st_blocks as u64).saturating_mul(512)),
    }
}

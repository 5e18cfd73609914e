//! Removes what the snapshot does not have, on request.
//!
//! Only in directories that were restored themselves, never in those above; what patterns exclude stays. It runs after everything else, and not at all when
//! something of the manifest is lost: then it is not known what the snapshot has.

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;
use std::ops::Range;

use super::RestoreError;
use super::plan::join;
use super::select::{Selection, Want};
use super::target::{self, Dirs, Target};
use super::write::Shared;
use crate::chunks::ChunkReader;
use crate::contents::Manifest;
use crate::manifest::{self, EntryKind, FLAG_PARENT};

struct Level {
    path: Vec<u8>,
    /// Hashes of the names that the snapshot has, 8 bytes each; two names that collide keep one file too much. `None`: nothing is removed here.
    names: Option<HashSet<u64>>,
}

/// Returns how many things were removed, or would be.
pub(crate) fn run(
    shared: &Shared<'_>,
    target: &Target,
    manifest: &Manifest,
    ranges: &[Range<usize>],
    selection: &Selection,
    root: bool,
) -> Result<u64, RestoreError> {
    let mut reader = ChunkReader::new(shared.repository, shared.lookup);
    let hasher = RandomState::new();
    let mut stack = vec![Level {
        path: Vec::new(),
        names: root.then(HashSet::new),
    }];
    let mut dirs = Dirs::new(target);
    let mut removed = 0;
    let mut after = Vec::new();
    for i in ranges.iter().cloned().flatten() {
        for (entry, _) in manifest.entries(&mut reader, i, &mut after)? {
            if shared.is_stopped() {
                return Ok(removed);
            }
            while stack.len() > 1
                && stack
                    .last()
                    .is_some_and(|l| !manifest::is_beneath(&entry.path, &l.path))
            {
                let level = stack.pop().expect("more than one");
                removed += clean(shared, &mut dirs, selection, &hasher, &level);
            }
            let (parent, name) = target::split(&entry.path);
            if let Some(level) = stack.last_mut().filter(|l| l.path == parent) {
                if let Some(names) = &mut level.names {
                    names.insert(hasher.hash_one(name));
                }
            }
            if entry.kind() == EntryKind::Directory {
                let ours = selection.want(&entry.path) == Want::Yes && !entry.has_flag(FLAG_PARENT);
                stack.push(Level {
                    names: ours.then(HashSet::new),
                    path: entry.path,
                });
            }
        }
    }
    while let Some(level) = stack.pop() {
        removed += clean(shared, &mut dirs, selection, &hasher, &level);
    }
    Ok(removed)
}

fn clean(
    shared: &Shared<'_>,
    dirs: &mut Dirs<'_>,
    selection: &Selection,
    hasher: &RandomState,
    level: &Level,
) -> u64 {
    let Some(names) = &level.names else { return 0 };
    let mut removed = 0;
    let dir = match dirs.open(&level.path) {
        Ok(dir) => dir,
        // In a dry run it need not be there.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return 0,
        Err(e) => {
            shared.io_problem(&level.path, "look for what the snapshot does not have", &e);
            return 0;
        }
    };
    let mut extra = Vec::new();
    let listed = target::names(&dir, &mut |name| {
        if !names.contains(&hasher.hash_one(name))
            && selection.want(&join(&level.path, name)) == Want::Yes
        {
            extra.push(name.to_vec());
        }
        Ok(())
    });
    if let Err(e) = listed {
        shared.io_problem(&level.path, "look for what the snapshot does not have", &e);
    }
    for name in extra {
        let path = join(&level.path, &name);
        if shared.options.dry_run {
            shared.note(format!("would delete {}", String::from_utf8_lossy(&path)));
            removed += 1;
            continue;
        }
        match target::remove_all(&dir, &name) {
            Ok(n) => removed += n,
            Err(e) => shared.io_problem(&path, "delete it", &e),
        }
        dirs.forget(&path);
    }
    removed
}

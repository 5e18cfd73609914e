//! Deleting and tidying: index objects, packs, marks, tombstones. Always the new first, then the deletion of the old.

use std::collections::{BTreeMap, BTreeSet};

use crate::forget::TOMBSTONE_SNAPSHOTS;
use crate::ids::ObjectId;
use crate::inventory::{Bits, Inventory, fingerprint};
use crate::lookup::Lookup;
use crate::records::{Index, IndexedPack, Marks, Tombstone};
use crate::repository::Repository;
use crate::store::{Area, Name};

use super::removal::Removal;
use super::{INDEX_CHUNKS, MANY, PruneError};

/// Packs that one marks record names: 34 bytes each, 3.4 MB of the 8 MiB that a record may hold.
const MARKS_PACKS: usize = 100_000;

struct IndexWriter<'a> {
    repository: &'a Repository,
    index: Index,
    chunks: usize,
}

impl IndexWriter<'_> {
    fn push(&mut self, pack: IndexedPack) -> Result<(), PruneError> {
        let chunks: usize = pack.envelopes.iter().map(|e| e.lengths.len()).sum();
        if self.chunks > 0 && self.chunks + chunks > INDEX_CHUNKS {
            self.finish()?;
        }
        self.chunks += chunks;
        self.index.packs.push(pack);
        Ok(())
    }
    fn finish(&mut self) -> Result<(), PruneError> {
        let index = std::mem::take(&mut self.index);
        self.chunks = 0;
        if !index.packs.is_empty() {
            self.repository
                .put_record(Area::Index, &index)
                .map_err(PruneError::put)?;
        }
        Ok(())
    }
}

/// Writes the index anew without the packs in `drop`, without repetitions, and in few objects; then deletes the objects that were replaced. Objects that came
/// after the lookup was loaded are left alone. Nothing is written when there is nothing to gain.
pub(super) fn index(
    repository: &Repository,
    removal: &Removal<'_>,
    lookup: &Lookup,
    inventory: &Inventory,
    drop: &Bits,
    dropping: bool,
) -> Result<u64, PruneError> {
    let mut objects: Vec<ObjectId> = lookup
        .parts()
        .iter()
        .flat_map(|p| p.covers().iter().copied())
        .collect();
    if !dropping && !inventory.repeats && objects.len() <= MANY {
        return Ok(0);
    }
    objects.sort_unstable();
    let mut writer = IndexWriter {
        repository,
        index: Index::default(),
        chunks: 0,
    };
    // What is said of each pack that was seen: 16 bytes each, 10 MB for ten terabytes.
    let mut seen = vec![[0u8; 16]; inventory.packs.len()];
    let mut replaced = Vec::new();
    let mut small = Vec::new();
    for id in objects {
        let Some(index) = read(repository, id)? else {
            continue;
        };
        let chunks: usize = chunks(&index);
        let mut kept = Vec::new();
        let before = index.packs.len();
        for pack in index.packs {
            let number = inventory.find(&pack.id);
            if number.is_some_and(|n| drop.get(n as u64)) {
                continue;
            }
            if let Some(n) = number {
                let print = fingerprint(&pack);
                let first = &mut seen[n as usize];
                if *first == print {
                    continue; // said before, in the same words
                }
                if *first == [0; 16] {
                    *first = print;
                }
            }
            kept.push(pack);
        }
        if kept.len() < before {
            for pack in kept {
                writer.push(pack)?;
            }
            replaced.push(id);
        } else if chunks < INDEX_CHUNKS / 2 {
            small.push(id);
        }
    }
    if small.len() > MANY {
        for id in small {
            if let Some(index) = read(repository, id)? {
                for pack in index.packs {
                    writer.push(pack)?;
                }
                replaced.push(id);
            }
        }
    }
    writer.finish()?;
    for id in &replaced {
        removal.remove(&Name::Index(*id))?;
    }
    Ok(replaced.len() as u64)
}

fn chunks(index: &Index) -> usize {
    index
        .packs
        .iter()
        .flat_map(|p| &p.envelopes)
        .map(|e| e.lengths.len())
        .sum()
}

/// `None`: another prune replaced it.
fn read(repository: &Repository, id: ObjectId) -> Result<Option<Index>, PruneError> {
    match repository.get_record::<Index>(Area::Index, id) {
        Ok((_, index)) => Ok(Some(index)),
        Err(e) if e.is_missing() => Ok(None),
        Err(e) => Err(PruneError::unreadable(e)),
    }
}

/// Writes marks records that name these packs.
pub(super) fn write_marks(
    repository: &Repository,
    time: i64,
    packs: &[ObjectId],
) -> Result<(), PruneError> {
    for some in packs.chunks(MARKS_PACKS) {
        let body = Marks {
            time,
            packs: some.to_vec(),
        };
        repository
            .put_record(Area::Marks, &body)
            .map_err(PruneError::put)?;
    }
    Ok(())
}

/// Makes one tombstone of many. Only of those whose snapshots are gone: a new record is young again.
pub(super) fn tombstones(
    repository: &Repository,
    removal: &Removal<'_>,
    time: i64,
    old: &[(ObjectId, Tombstone)],
) -> Result<(), PruneError> {
    if old.len() <= MANY {
        return Ok(());
    }
    // By writer too: a tombstone that names the wrong writer must not take the place of one that counts.
    let all: BTreeMap<_, _> = old
        .iter()
        .flat_map(|(_, t)| t.snapshots.iter().map(|f| ((f.id, f.writer), *f)))
        .collect();
    let all: Vec<_> = all.into_values().collect();
    let origins: BTreeSet<_> = old
        .iter()
        .flat_map(|(_, t)| t.origins.iter().flatten())
        .copied()
        .collect();
    let origins: Vec<_> = origins.into_iter().collect();
    let mut some_origins = origins.chunks(TOMBSTONE_SNAPSHOTS);
    let mut some_snapshots = all.chunks(TOMBSTONE_SNAPSHOTS);
    loop {
        let (snapshots, origins) = (some_snapshots.next(), some_origins.next());
        if snapshots.is_none() && origins.is_none() {
            break;
        }
        let own = (snapshots.unwrap_or_default(), origins.unwrap_or_default());
        let body = Tombstone::new(time, own.0.to_vec(), own.1.to_vec());
        repository
            .put_record(Area::Tombstones, &body)
            .map_err(PruneError::put)?;
    }
    for (id, _) in old {
        removal.remove(&Name::Tombstone(*id))?;
    }
    Ok(())
}

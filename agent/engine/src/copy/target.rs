//! The repository that is copied to: what it has, what of that may be relied upon, and the commit.
//!
//! The same rules hold as for any writer (FORMAT.md, section 8): nothing relies on a pack that `prune` marked; the marks are read when the run begins and again
//! before each commit; the snapshot is written last, read back and compared.
//!
//! Memory: 40 bytes for each pack while packs are listed (26 MB for ten terabytes).

use std::collections::{HashMap, HashSet};
use std::path::Path;

use keepwatch_model::time::Moment;

use crate::backup::remember_last;
use crate::ids::{ObjectId, WriterId};
use crate::inventory::Bits;
use crate::limits;
use crate::lookup::Lookup;
use crate::marks::marked_packs;
use crate::object::ObjectError;
use crate::records::{ListRoot, Origin, Snapshot};
use crate::repository::{PutError, Repository};
use crate::snapshots::{SnapshotRecord, SnapshotSet};
use crate::store::{Area, Name};

use super::CopyError;

/// The packs are listed again before a commit when that was longer ago than this, in seconds: a pack that nothing needed when the run began can be marked and
/// deleted while it goes on. Shorter than any grace period in use beside running writers.
const LIST_AGE: i64 = 3600;
/// Packs that no index names, remembered so that they are not sent again: 48 bytes each and a free slot, 6 MiB.
const ORPHANS: usize = 64 << 10;

/// See the module.
pub(super) struct Target<'a> {
    pub(super) repository: &'a Repository,
    pub(super) writer: WriterId,
    /// Packs that must not be relied upon: marked, missing, or of another length than the index says.
    pub(super) unusable: HashSet<ObjectId>,
    /// Packs that are there and that no index names, with their lengths: what an interrupted run stored last.
    pub(super) orphans: HashMap<ObjectId, u64>,
    /// Packs that an index names are missing or cut short.
    pub(super) has_losses: bool,
    /// The cache is kept.
    keeps_cache: bool,
    listed_at: i64,
    previous: Option<ObjectId>,
    sequence: u64,
}

impl<'a> Target<'a> {
    /// Reads marks, index and the list of packs.
    pub(super) fn open(
        repository: &'a Repository,
        writer: WriterId,
        cache: Option<&Path>,
        set: &SnapshotSet,
        now: Moment,
        notes: &mut Vec<String>,
    ) -> Result<(Target<'a>, Lookup), CopyError> {
        let unusable = marked_packs(repository)?;
        let (mut lookup, problems) = repository.load_index(cache)?;
        for e in problems.iter().filter(|e| !e.is_missing()) {
            notes.push(format!(
                "an index object of the destination is passed over, what it names is copied again: {e}"
            ));
        }
        let (previous, sequence) = set.next_of(writer);
        let mut target = Target {
            repository,
            writer,
            unusable,
            orphans: HashMap::new(),
            has_losses: false,
            keeps_cache: cache.is_some(),
            listed_at: now.unix_seconds(),
            previous,
            sequence,
        };
        let lost = target.list_packs(&lookup)?;
        if lost > 0 {
            notes.push(format!(
                "{lost} packs that the destination's index names are missing or cut short; what the copied snapshots need of them is copied again; run 'keepwatch verify'"
            ));
        }
        lookup
            .set_unusable(target.unusable.clone())
            .map_err(CopyError::cache)?;
        Ok((target, lookup))
    }

    /// Compares the index with what is there. Returns how many packs are lost.
    fn list_packs(&mut self, lookup: &Lookup) -> Result<u64, CopyError> {
        let mut present: Vec<(ObjectId, u64)> = Vec::new();
        self.repository
            .store()
            .list(Area::Packs, &mut |l| {
                present.extend(l.name.object_id().map(|id| (id, l.size)))
            })
            .map_err(ObjectError::from)?;
        present.sort_unstable();
        let mut indexed = Bits::new(present.len() as u64);
        let mut lost = HashSet::new();
        for part in lookup.parts() {
            part.each_pack(&mut |_, p| {
                match present.binary_search(&(p.id, p.size)) {
                    Ok(i) => drop(indexed.set(i as u64)),
                    Err(_) => drop(lost.insert(p.id)),
                }
                Ok(())
            })
            .map_err(CopyError::cache)?;
        }
        self.orphans = present
            .iter()
            .enumerate()
            .filter(|(i, (id, _))| !indexed.get(*i as u64) && !lost.contains(id))
            .map(|(_, p)| *p)
            .take(ORPHANS)
            .collect();
        let count = lost.len() as u64;
        self.has_losses |= count > 0;
        self.unusable.extend(lost);
        Ok(count)
    }

    /// Reads the marks again. True when something that was relied upon must not be any more.
    pub(super) fn refresh(&mut self, lookup: &mut Lookup, now: Moment) -> Result<bool, CopyError> {
        let before = self.unusable.len();
        self.unusable.extend(marked_packs(self.repository)?);
        let now = now.unix_seconds();
        if (now - self.listed_at).abs() > LIST_AGE {
            self.list_packs(lookup)?;
            self.listed_at = now;
        }
        if self.unusable.len() == before {
            return Ok(false);
        }
        lookup
            .set_unusable(self.unusable.clone())
            .map_err(CopyError::cache)?;
        Ok(true)
    }

    /// Writes the record of a copy, all of whose content is stored and indexed.
    pub(super) fn commit(
        &mut self,
        lookup: &Lookup,
        source: &SnapshotRecord,
        origin: Origin,
        manifest: ListRoot,
        refs: ListRoot,
    ) -> Result<ObjectId, CopyError> {
        let body = Snapshot {
            sequence: self.sequence,
            previous: self.previous,
            program: concat!("keepwatch ", env!("CARGO_PKG_VERSION")).into(),
            manifest,
            refs,
            original: Some(origin),
            ..source.body.clone()
        };
        let (bytes, id) = self.repository.make_record(Area::Snapshots, &body)?;
        let name = Name::Snapshot(id);
        let store = self.repository.store();
        store.put(&name, &bytes).map_err(PutError::from)?;
        let back = store
            .get(&name, limits::RECORD_BYTES as u64)
            .map_err(ObjectError::from)?;
        if back != bytes {
            return Err(CopyError::ReadBack(name));
        }
        // From here on it is committed, and bookkeeping must not fail it.
        if self.keeps_cache {
            if let Err(e) = remember_last(lookup.dir(), self.writer, id, self.sequence) {
                tracing::debug!("the last snapshot is not remembered: {e}");
            }
        }
        self.previous = Some(id);
        self.sequence = self.sequence.saturating_add(1);
        Ok(id)
    }
}

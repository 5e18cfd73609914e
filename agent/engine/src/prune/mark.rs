//! What is needed: one bit for each record of the index, set by walking the lists of every snapshot that counts.
//!
//! A list chunk that was walked once is not walked again, so a year of daily snapshots costs little more than one. Ids are looked up in sorted batches, which
//! read the sorted parts from front to back. Where a chunk has several copies, *one* pack is chosen, the same one by every prune that sees
//! the same packs: one that is not marked before one that is, then the older, then the lesser id. (The older, since a host that was taken over can
//! store a wrong copy of a chunk that is there already, but cannot make it older.)
//!
//! Memory: the bits (1.25 MB for ten million chunks), a batch of ids (17 MiB), list chunks known to be walked (16 MiB),
//! one block of each part, one list chunk per level.

use std::collections::HashSet;

use crate::chunks::ChunkReader;
use crate::ids::{ChunkId, ChunkKind, ObjectId};
use crate::inventory::{Bits, Inventory};
use crate::list::{self, Form, Visit};
use crate::lookup::{Lookup, Row, Window};
use crate::object::{ContentError, ObjectError};
use crate::progress::Cancel;
use crate::repository::Repository;
use crate::snapshots::SnapshotRecord;

use super::PruneError;

/// Ids looked up together: 33 bytes each, 17 MiB. Several for each block of a part (150,000 blocks hold ten million chunks), so that sorted ids mostly find their block
/// read already: the lists of a hundred snapshots that each changed a little in many places hold 130 million ids.
const BATCH: usize = 512 << 10;

/// List chunks that are known to be walked without a look-up: those of about the last snapshot. 33 bytes and a free slot each, 16 MiB.
const WALKED: usize = 256 << 10;

/// What is needed of each pack.
pub(super) struct Needs {
    /// Bytes of envelopes that are needed, by pack. 4 bytes each.
    pub(super) live: Vec<u32>,
    /// By the numbers of [`Inventory::envelope`].
    envelopes: Bits,
}

impl Needs {
    pub(super) fn envelope(&self, inventory: &Inventory, pack: u32, number: u16) -> bool {
        self.envelopes.get(inventory.envelope(pack, number))
    }
}

struct Marker<'a> {
    lookup: &'a Lookup,
    inventory: &'a Inventory,
    /// By pack: marked for deletion.
    marked: Bits,
    bits: Vec<Bits>,
    windows: Vec<Window>,
    batch: Vec<(ChunkKind, ChunkId)>,
}

impl Marker<'_> {
    /// Marks the best copy; true when that was done before, `None` when there is no copy.
    fn need(&mut self, kind: ChunkKind, id: &ChunkId) -> Result<Option<bool>, ObjectError> {
        let mut copies: Vec<(usize, u64, u32)> = Vec::new();
        for (n, part) in self.lookup.parts().iter().enumerate() {
            let found = part
                .find(id, &mut self.windows[n])
                .map_err(|e| ObjectError::chunk(id, ContentError::Cache(e.to_string())))?;
            let of_kind = found.iter().filter(|(_, r): &&(u64, Row)| r.kind == kind);
            copies.extend(of_kind.map(|(record, r)| (n, *record, self.inventory.of(n, r))));
        }
        let best = copies
            .iter()
            .map(|c| c.2)
            .filter(|p| self.inventory.packs[*p as usize].is_sound())
            .min_by_key(|p| {
                let pack = &self.inventory.packs[*p as usize];
                (self.marked.get(*p as u64), pack.modified, pack.id)
            });
        let Some(best) = best else { return Ok(None) };
        let mut before = true;
        for (part, record, _) in copies.iter().filter(|c| c.2 == best) {
            before &= self.bits[*part].set(*record);
        }
        Ok(Some(before))
    }

    fn flush(&mut self, snapshot: &SnapshotRecord) -> Result<(), PruneError> {
        let mut batch = std::mem::take(&mut self.batch);
        batch.sort_unstable_by_key(|b| b.1);
        batch.dedup();
        for (kind, id) in &batch {
            self.need(*kind, id)
                .map_err(PruneError::unreadable)?
                .ok_or_else(|| PruneError::lost(snapshot.id, *id))?;
        }
        batch.clear();
        self.batch = batch;
        Ok(())
    }
}

/// Why a walk ended early.
enum Stop {
    Object(ObjectError),
    Prune(PruneError),
}

/// Finds out what `snapshots` need.
pub(super) fn mark<'a>(
    repository: &Repository,
    lookup: &Lookup,
    inventory: &Inventory,
    marked: &HashSet<ObjectId>,
    snapshots: impl Iterator<Item = &'a SnapshotRecord>,
    cancel: &Cancel,
) -> Result<Needs, PruneError> {
    let mut marked_bits = Bits::new(inventory.packs.len() as u64);
    for (n, p) in inventory.packs.iter().enumerate() {
        if marked.contains(&p.id) {
            marked_bits.set(n as u64);
        }
    }
    let mut marker = Marker {
        lookup,
        inventory,
        marked: marked_bits,
        bits: lookup
            .parts()
            .iter()
            .map(|p| Bits::new(p.records()))
            .collect(),
        windows: lookup.parts().iter().map(|_| Window::default()).collect(),
        batch: Vec::with_capacity(BATCH),
    };
    let mut reader = ChunkReader::new(repository, lookup);
    let mut walked: HashSet<ChunkId> = HashSet::new();
    for snapshot in snapshots {
        let lists = [
            (&snapshot.body.refs, Form::Refs),
            (&snapshot.body.manifest, Form::Parts),
        ];
        for (root, form) in lists {
            let kind = match form {
                Form::Refs => ChunkKind::Data,
                Form::Parts => ChunkKind::Manifest,
            };
            let mut fetch = |id: &ChunkId| reader.read(ChunkKind::List, id).map_err(Stop::Object);
            let mut visit = |v: Visit<'_>| -> Result<bool, Stop> {
                cancel
                    .check()
                    .map_err(|_| Stop::Prune(PruneError::Cancelled))?;
                match v {
                    Visit::Node(id) if walked.contains(&id) => Ok(false),
                    Visit::Node(id) => match marker.need(ChunkKind::List, &id) {
                        Ok(Some(before)) => {
                            if walked.len() >= WALKED {
                                walked.clear();
                            }
                            walked.insert(id);
                            Ok(!before)
                        }
                        Ok(None) => Err(Stop::Prune(PruneError::lost(snapshot.id, id))),
                        Err(e) => Err(Stop::Object(e)),
                    },
                    Visit::Leaves(items) => {
                        for item in items.chunks_exact(form.item()) {
                            let id = ChunkId(item[..32].try_into().expect("32 bytes"));
                            marker.batch.push((kind, id));
                        }
                        if marker.batch.len() >= BATCH {
                            marker.flush(snapshot).map_err(Stop::Prune)?;
                        }
                        Ok(true)
                    }
                    Visit::Lost(..) => Ok(false),
                }
            };
            let unreadable = |why: String| {
                PruneError::Unreadable(format!(
                    "a list of snapshot {} cannot be read: {why}",
                    snapshot.id.short()
                ))
            };
            match list::walk(root, form, &mut fetch, &mut visit) {
                Ok(()) => {}
                Err(list::ListError::Chunk(Stop::Prune(e))) => return Err(e),
                Err(list::ListError::Chunk(Stop::Object(e))) => {
                    return Err(unreadable(e.to_string()));
                }
                Err(list::ListError::Malformed(why)) => return Err(unreadable(why.to_owned())),
            }
        }
        marker.flush(snapshot)?;
    }

    let mut needs = Needs {
        live: vec![0; inventory.packs.len()],
        envelopes: Bits::new(inventory.envelopes()),
    };
    for (n, part) in lookup.parts().iter().enumerate() {
        part.each_record(&mut |record, r| {
            if marker.bits[n].get(record) {
                let pack = inventory.of(n, &r);
                if !needs.envelopes.set(inventory.envelope(pack, r.envelope)) {
                    let live = &mut needs.live[pack as usize];
                    *live = live.saturating_add(r.envelope_length);
                }
            }
            Ok(())
        })
        .map_err(PruneError::cache)?;
    }
    Ok(needs)
}

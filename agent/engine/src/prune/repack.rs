//! Repacking: the living envelopes of half-empty packs are copied, as ciphertext, into new packs. No identity is needed.
//!
//! A pack is copied from only when it is whole: its bytes have the hash that is its name, its footer agrees with the index, and the index objects agree with
//! each other. Any other pack is left as it is and reported. New packs are stored, then indexed; only then may the caller mark the old ones.
//!
//! Memory: one pack being read (at most [`READ_MAX`]), one being filled for each class (18 MiB), the index of what was filled (at most 65,536 chunks, 3 MB), and
//! the rows of a batch of packs (16 MB).

use std::collections::HashSet;

use crate::ids::{ObjectId, PackClass};
use crate::inventory::Inventory;
use crate::lookup::Lookup;
use crate::pack::{self, Packer};
use crate::progress::{Cancel, Event, Progress};
use crate::records::Index;
use crate::repository::Repository;
use crate::store::{Area, Fault, Name};

use super::mark::Needs;
use super::{INDEX_CHUNKS, PruneError};

/// Longer packs are not repacked. Ours have about 16 MiB.
pub(super) const READ_MAX: u64 = 64 << 20;

/// What was copied.
#[derive(Default)]
pub(super) struct Repacked {
    /// Numbers of packs whose living envelopes lie elsewhere now.
    pub(super) done: Vec<u32>,
    /// Packs that hold the copies.
    pub(super) stored: HashSet<ObjectId>,
    /// Packs that were left alone, and why.
    pub(super) skipped: Vec<(u32, String)>,
}

struct Output<'a> {
    repository: &'a Repository,
    packers: [Packer; 2],
    index: Index,
    chunks: usize,
    stored: HashSet<ObjectId>,
}

impl Output<'_> {
    fn finish_pack(&mut self, class: PackClass) -> Result<(), PruneError> {
        let full = std::mem::replace(&mut self.packers[class as usize], Packer::new(class));
        if full.is_empty() {
            return Ok(());
        }
        let finished = full.finish();
        let chunks: usize = finished
            .indexed
            .envelopes
            .iter()
            .map(|e| e.lengths.len())
            .sum();
        if self.chunks > 0 && self.chunks + chunks > INDEX_CHUNKS {
            self.finish_index()?;
        }
        let name = Name::Pack(finished.id);
        let store = self.repository.store();
        match store.put(&name, &finished.bytes) {
            Ok(()) => {}
            // An interrupted prune copied the same envelopes: fine, if it is that pack and whole. The originals are about to be marked, so it is read.
            Err(e) if e.fault == Fault::Exists => {
                let there = store
                    .get(&name, finished.bytes.len() as u64)
                    .map_err(PruneError::write)?;
                if there != finished.bytes {
                    return Err(PruneError::Unreadable(format!(
                        "{name} exists with other bytes than its name says"
                    )));
                }
            }
            Err(e) => return Err(PruneError::write(e)),
        }
        self.stored.insert(finished.id);
        self.index.packs.push(finished.indexed);
        self.chunks += chunks;
        Ok(())
    }

    fn finish_index(&mut self) -> Result<(), PruneError> {
        if !self.index.packs.is_empty() {
            let index = std::mem::take(&mut self.index);
            self.chunks = 0;
            self.repository
                .put_record(Area::Index, &index)
                .map_err(PruneError::put)?;
        }
        Ok(())
    }
}

/// Copies what is needed of `packs` into new ones.
pub(super) fn repack(
    repository: &Repository,
    lookup: &Lookup,
    inventory: &Inventory,
    needs: &Needs,
    packs: &[u32],
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Repacked, PruneError> {
    let mut out = Output {
        repository,
        packers: [
            Packer::new(PackClass::Content),
            Packer::new(PackClass::Lists),
        ],
        index: Index::default(),
        chunks: 0,
        stored: HashSet::new(),
    };
    let mut report = Repacked::default();
    for batch in inventory.batches(packs) {
        for content in inventory
            .contents(lookup, batch)
            .map_err(PruneError::cache)?
        {
            cancel.check().map_err(|_| PruneError::Cancelled)?;
            let pack = &inventory.packs[content.pack as usize];
            let name = Name::Pack(pack.id);
            let bytes = repository
                .store()
                .get(&name, READ_MAX)
                .map_err(PruneError::read)?;
            let whole = ObjectId::of(&bytes) == pack.id;
            let agrees = pack::footer(&bytes).is_some_and(|(c, l)| content.agrees_with(c, &l));
            if !whole || content.contradicted || !agrees {
                let why = if whole {
                    "the index does not agree with it, or with itself"
                } else {
                    "its bytes do not have the hash that is its name: it is damaged"
                };
                report.skipped.push((content.pack, why.to_owned()));
                continue;
            }
            for e in &content.envelopes {
                if needs.envelope(inventory, content.pack, e.number) {
                    let at = e.offset as usize;
                    let sealed = &bytes[at..at + e.length as usize];
                    let class = e.kind.class();
                    out.packers[class as usize].push_indexed(sealed, e.indexed());
                    if out.packers[class as usize].is_full() {
                        out.finish_pack(class)?;
                    }
                }
            }
            report.done.push(content.pack);
            progress.event(Event::Done {
                items: 1,
                bytes: bytes.len() as u64,
            });
        }
    }
    out.finish_pack(PackClass::Content)?;
    out.finish_pack(PackClass::Lists)?;
    out.finish_index()?;
    report.stored = out.stored;
    Ok(report)
}

//! Packs as the index and the store know them, side by side, and the content of chosen packs: what `prune`, `verify` and `repair` work on.
//!
//! Memory: [`Pack`] is 88 bytes, and each part of the lookup adds 4 bytes per pack: 60 MB for the 655,360 packs of ten terabytes. Bits are one per record of the
//! index: 1.25 MB for ten million chunks. [`Inventory::contents`] holds 60 bytes for each chunk of the packs asked for; [`Inventory::batches`] bounds them.

use std::collections::HashSet;
use std::io;
use std::time::SystemTime;

use crate::ids::{ChunkId, ChunkKind, ObjectId, PackClass};
use crate::lookup::{Lookup, Row};
use crate::records::{IndexedEnvelope, IndexedPack};
use crate::store::{Area, Store, StoreError};

/// Chunks whose rows are held at once while packs are read: 60 bytes each, 16 MB (a single pack with more is a batch by itself).
const BATCH_CHUNKS: u64 = 256 << 10;

/// One bit per thing.
#[derive(Clone, Default)]
pub(crate) struct Bits(Vec<u64>);

impl Bits {
    pub(crate) fn new(n: u64) -> Self {
        Bits(vec![0; n.div_ceil(64) as usize])
    }
    pub(crate) fn get(&self, i: u64) -> bool {
        self.0[(i / 64) as usize] & (1 << (i % 64)) != 0
    }
    pub(crate) fn clear(&mut self, i: u64) {
        self.0[(i / 64) as usize] &= !(1 << (i % 64));
    }
    /// Sets a bit; true when it was set before.
    pub(crate) fn set(&mut self, i: u64) -> bool {
        let word = &mut self.0[(i / 64) as usize];
        let before = *word & (1 << (i % 64)) != 0;
        *word |= 1 << (i % 64);
        before
    }
}

/// A pack: what the index says of it, and what the store has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pack {
    pub(crate) id: ObjectId,
    /// Bytes as the index says; 0 when no index names it.
    pub(crate) size: u64,
    /// Bytes as the store says; `None` when it is not there.
    pub(crate) stored: Option<u64>,
    /// When the store took it.
    pub(crate) modified: SystemTime,
    pub(crate) class: PackClass,
    /// Some index names it.
    pub(crate) indexed: bool,
    /// Two index objects contradict each other about its length or class.
    pub(crate) contradicted: bool,
    /// Rows of it in all parts.
    pub(crate) chunks: u32,
    /// Envelopes that have rows, at most 65,536.
    envelopes: u32,
    /// Number of its first envelope among those of all packs.
    first: u32,
}

impl Pack {
    /// There, and as long as the index says.
    pub(crate) fn is_sound(&self) -> bool {
        self.indexed && !self.contradicted && self.stored == Some(self.size)
    }
    /// Bytes that its footer takes.
    pub(crate) fn footer_bytes(&self) -> u64 {
        self.envelopes as u64 * 4 + 12
    }
}

/// All packs, sorted by id.
pub(crate) struct Inventory {
    pub(crate) packs: Vec<Pack>,
    /// For each part of the lookup: row of its table of packs → number in `packs`.
    rows: Vec<Vec<u32>>,
    envelopes: u64,
    /// Some pack stands in more than one row: index objects repeat each other.
    pub(crate) repeats: bool,
}

/// An envelope with the chunks that the index names in it.
#[derive(Clone, Debug)]
pub(crate) struct Envelope {
    pub(crate) number: u16,
    pub(crate) kind: ChunkKind,
    pub(crate) offset: u32,
    pub(crate) length: u32,
    pub(crate) ids: Vec<ChunkId>,
    pub(crate) lengths: Vec<u32>,
}

impl Envelope {
    pub(crate) fn indexed(&self) -> IndexedEnvelope {
        IndexedEnvelope {
            length: self.length,
            kind: self.kind as u8,
            ids: self.ids.iter().flat_map(|i| i.0).collect(),
            lengths: self.lengths.clone(),
        }
    }
}

/// What the index says is in a pack.
pub(crate) struct Content {
    /// Number of the pack.
    pub(crate) pack: u32,
    /// In their order.
    pub(crate) envelopes: Vec<Envelope>,
    /// Index objects contradict each other, or leave gaps: the rows are not to be copied on.
    pub(crate) contradicted: bool,
}

impl Content {
    /// True when the envelopes lie where the pack's own footer says.
    pub(crate) fn agrees_with(&self, class: PackClass, lengths: &[u32]) -> bool {
        let mut offsets = Vec::with_capacity(lengths.len());
        let mut at = 0u64;
        for &n in lengths {
            offsets.push(at);
            at += n as u64;
        }
        self.envelopes.iter().all(|e| {
            e.kind.class() == class
                && lengths.get(e.number as usize) == Some(&e.length)
                && offsets[e.number as usize] == e.offset as u64
        })
    }
}

impl Inventory {
    /// Reads the parts, then lists the packs: a pack is stored before its index, so what the index names must be in the later listing.
    pub(crate) fn load(store: &dyn Store, lookup: &Lookup) -> Result<Inventory, InventoryError> {
        let mut packs: Vec<Pack> = Vec::new();
        let mut named = 0usize;
        for part in lookup.parts() {
            packs.reserve_exact(part.packs() as usize);
            part.each_pack(&mut |_, p| {
                named += 1;
                packs.push(Pack {
                    id: p.id,
                    size: p.size,
                    stored: None,
                    modified: SystemTime::UNIX_EPOCH,
                    class: p.class,
                    indexed: true,
                    contradicted: false,
                    chunks: 0,
                    envelopes: 0,
                    first: 0,
                });
                Ok(())
            })?;
        }
        packs.sort_unstable_by_key(|p| p.id);
        packs.dedup_by(|next, first| {
            let same = next.id == first.id;
            first.contradicted |= same && (next.size != first.size || next.class != first.class);
            same
        });
        let repeats = packs.len() < named;
        let mut orphans = Vec::new();
        store.list(Area::Packs, &mut |l| {
            let Some(id) = l.name.object_id() else { return };
            match packs.binary_search_by(|p| p.id.cmp(&id)) {
                Ok(i) => {
                    packs[i].stored = Some(l.size);
                    packs[i].modified = l.modified;
                }
                Err(_) => orphans.push(Pack {
                    id,
                    size: 0,
                    stored: Some(l.size),
                    modified: l.modified,
                    class: PackClass::Content,
                    indexed: false,
                    contradicted: false,
                    chunks: 0,
                    envelopes: 0,
                    first: 0,
                }),
            }
        })?;
        if !orphans.is_empty() {
            packs.append(&mut orphans);
            packs.sort_unstable_by_key(|p| p.id);
            packs.dedup_by(|next, first| next.id == first.id);
        }
        let mut out = Inventory {
            packs,
            rows: Vec::new(),
            envelopes: 0,
            repeats,
        };
        for part in lookup.parts() {
            let mut rows = Vec::with_capacity(part.packs() as usize);
            part.each_pack(&mut |_, p| {
                rows.push(out.find(&p.id).expect("it was read just now"));
                Ok(())
            })?;
            part.each_record(&mut |_, r| {
                let pack = rows.get(r.pack as usize).ok_or_else(bad_row)?;
                let pack = &mut out.packs[*pack as usize];
                pack.chunks = pack.chunks.saturating_add(1);
                pack.envelopes = pack.envelopes.max(r.envelope as u32 + 1);
                Ok(())
            })?;
            out.rows.push(rows);
        }
        for p in &mut out.packs {
            p.first = u32::try_from(out.envelopes).map_err(|_| bad_row())?;
            out.envelopes += p.envelopes as u64;
        }
        Ok(out)
    }

    /// The number of a pack.
    pub(crate) fn find(&self, id: &ObjectId) -> Option<u32> {
        self.packs
            .binary_search_by(|p| p.id.cmp(id))
            .ok()
            .map(|i| i as u32)
    }
    /// The number of the pack of a record.
    pub(crate) fn of(&self, part: usize, row: &Row) -> u32 {
        self.rows[part][row.pack as usize]
    }
    /// Envelopes of all packs together.
    pub(crate) fn envelopes(&self) -> u64 {
        self.envelopes
    }
    /// The number of an envelope among those of all packs.
    pub(crate) fn envelope(&self, pack: u32, number: u16) -> u64 {
        self.packs[pack as usize].first as u64 + number as u64
    }
    /// The numbers of the envelopes of a pack.
    pub(crate) fn envelopes_of(&self, pack: u32) -> std::ops::Range<u64> {
        let p = &self.packs[pack as usize];
        p.first as u64..p.first as u64 + p.envelopes as u64
    }
    /// Packs that writers must not rely on: absent, cut, or contradicted.
    pub(crate) fn unsound(&self) -> HashSet<ObjectId> {
        self.packs
            .iter()
            .filter(|p| p.indexed && !p.is_sound())
            .map(|p| p.id)
            .collect()
    }

    /// Splits packs so that each batch has a bounded number of chunks.
    pub(crate) fn batches<'a>(&self, mut packs: &'a [u32]) -> Vec<&'a [u32]> {
        let mut out = Vec::new();
        while !packs.is_empty() {
            let mut chunks = 0u64;
            let n = packs
                .iter()
                .take_while(|p| {
                    chunks += self.packs[**p as usize].chunks as u64;
                    chunks <= BATCH_CHUNKS
                })
                .count()
                .max(1);
            out.push(&packs[..n]);
            packs = &packs[n..];
        }
        out
    }

    /// What the index says is in these packs, in their order. One pass over all records.
    pub(crate) fn contents(&self, lookup: &Lookup, packs: &[u32]) -> io::Result<Vec<Content>> {
        let mut place: Vec<(u32, u32)> = packs
            .iter()
            .enumerate()
            .map(|(i, p)| (*p, i as u32))
            .collect();
        place.sort_unstable();
        let mut rows: Vec<(u32, Row)> = Vec::new();
        for (n, part) in lookup.parts().iter().enumerate() {
            part.each_record(&mut |_, r| {
                let pack = self.of(n, &r);
                if let Ok(i) = place.binary_search_by_key(&pack, |p| p.0) {
                    rows.push((place[i].1, r));
                }
                Ok(())
            })?;
        }
        rows.sort_unstable_by_key(|(i, r)| (*i, r.envelope, r.offset, r.id));
        let mut out: Vec<Content> = packs
            .iter()
            .map(|&pack| Content {
                pack,
                envelopes: Vec::new(),
                contradicted: self.packs[pack as usize].contradicted,
            })
            .collect();
        let mut before: Option<(u32, Row)> = None;
        for (i, r) in rows {
            // Another index object that says the same.
            let same = before.is_some_and(|(j, b)| i == j && Row { pack: r.pack, ..b } == r);
            before = Some((i, r));
            if same {
                continue;
            }
            let content = &mut out[i as usize];
            match content.envelopes.last_mut() {
                Some(e) if e.number == r.envelope => {
                    let end: u64 = e.lengths.iter().map(|&n| n as u64).sum();
                    content.contradicted |= e.kind != r.kind
                        || e.offset != r.envelope_offset
                        || e.length != r.envelope_length
                        || end != r.offset as u64;
                    e.ids.push(r.id);
                    e.lengths.push(r.length);
                }
                _ => {
                    content.contradicted |= r.offset != 0;
                    content.envelopes.push(Envelope {
                        number: r.envelope,
                        kind: r.kind,
                        offset: r.envelope_offset,
                        length: r.envelope_length,
                        ids: vec![r.id],
                        lengths: vec![r.length],
                    });
                }
            }
        }
        Ok(out)
    }
}

fn bad_row() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "a record names a pack that is not there",
    )
}

/// A short form of what an index object says of a pack, to find out whether two say the same.
pub(crate) fn fingerprint(pack: &IndexedPack) -> [u8; 16] {
    let bytes = minicbor::to_vec(pack).expect("encoding into memory does not fail");
    let hash = blake3::hash(&bytes);
    let mut out = [0; 16];
    out.copy_from_slice(&hash.as_bytes()[..16]);
    // All zeros stands for "none" with those who keep them.
    out[0] |= 1;
    out
}

/// The inventory could not be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InventoryError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the local copy of the index cannot be read: {0}")]
    Cache(#[from] io::Error),
}

//! A window: a bounded run of files, their chunks looked up and put into the order of the packs.
//!
//! The manifest says which chunks a file takes, the packs hold them in another order. Fetching chunk by chunk would open an envelope once per chunk; so many files are
//! taken together, and each envelope that they need is fetched and opened once for all of them.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use crate::chunks::ChunkReader;
use crate::ids::{ChunkId, ChunkKind, ObjectId};
use crate::lookup::{Lookup, Window as LookupWindow};
use crate::manifest::Entry;

/// Refs in a window. Cost: about 130 bytes each, 8 MiB.
pub(crate) const REFS: usize = 64 << 10;
/// Estimated bytes of the entries in a window; reached by 40,000 files without attributes.
/// Up to three windows live at once: one being gathered, one worked on, one of which a task is not done yet.
pub(crate) const BYTES: usize = 16 << 20;
/// The first windows are smaller, so that the workers begin at once.
pub(crate) const FIRST_REFS: usize = 2 << 10;
/// Envelopes this near to each other are fetched at once; what lies between is thrown away.
const GAP: u32 = 64 << 10;

/// A file that is being restored.
pub(crate) struct FileJob {
    pub(crate) entry: Entry,
    /// Its number in the manifest.
    pub(crate) number: u64,
    /// What stands at its name may be replaced.
    pub(crate) replace: bool,
    /// Where the data lies: (offset in the content, offset in the file) of each run between holes. Empty without holes.
    runs: Vec<(u64, u64)>,
    /// Bytes of content whose place is known, and their refs.
    planned: AtomicU64,
    placed: AtomicU32,
    /// Refs not written yet.
    pub(crate) remaining: AtomicU32,
    pub(crate) failed: AtomicBool,
    /// The unfinished file of one that is written piece by piece.
    pub(crate) temp: Mutex<Option<super::write::Temp>>,
}

impl FileJob {
    pub(crate) fn new(entry: Entry, number: u64, replace: bool) -> Self {
        let mut runs = Vec::new();
        let (mut content, mut at) = (0, 0);
        for &[offset, length] in entry.holes.iter().flatten() {
            if offset > at {
                runs.push((content, at));
                content += offset - at;
            }
            at = offset + length;
        }
        if at > 0 && at < entry.len() {
            runs.push((content, at));
        }
        let remaining = AtomicU32::new(entry.refs());
        FileJob {
            entry,
            number,
            replace,
            runs,
            planned: AtomicU64::new(0),
            placed: AtomicU32::new(0),
            remaining,
            failed: AtomicBool::new(false),
            temp: Mutex::new(None),
        }
    }

    /// True when it has holes.
    pub(crate) fn is_sparse(&self) -> bool {
        self.entry.holes.is_some()
    }

    /// Calls `each` with offset in the file and length of every part of a piece of content.
    pub(crate) fn place_ranges<E>(
        &self,
        at: u64,
        length: u64,
        each: &mut dyn FnMut(u64, u64) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.runs.is_empty() {
            return each(at, length);
        }
        let (mut at, mut left) = (at, length);
        let mut run = self.runs.partition_point(|r| r.0 <= at).saturating_sub(1);
        while left > 0 {
            let (content, file) = self.runs[run];
            let n = self
                .runs
                .get(run + 1)
                .map_or(left, |next| (next.0 - at).min(left));
            each(file + (at - content), n)?;
            at += n;
            left -= n;
            run += 1;
        }
        Ok(())
    }

    /// Calls `each` with the offset in the file of every part of a piece of content.
    #[allow(clippy::type_complexity)]
    pub(crate) fn place<E>(
        &self,
        at: u64,
        bytes: &[u8],
        each: &mut dyn FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut rest = bytes;
        self.place_ranges(at, bytes.len() as u64, &mut |at, n| {
            let (now, later) = rest.split_at(n as usize);
            rest = later;
            each(at, now)
        })
    }

    fn weight(&self) -> usize {
        let e = &self.entry;
        let xattrs: usize = e
            .xattrs
            .iter()
            .flatten()
            .map(|x| x.name.len() + x.value.len() + 48)
            .sum();
        std::mem::size_of::<FileJob>()
            + e.path.len()
            + xattrs
            + (self.runs.len() + e.holes.as_ref().map_or(0, |h| h.len())) * 16
            + 96
    }
}

/// A file, or as much of it as fits into a window.
pub(crate) struct Slice {
    pub(crate) file: Arc<FileJob>,
    pub(crate) uses: Range<u32>,
}

/// A window being gathered.
#[derive(Default)]
pub(crate) struct Gathered {
    pub(crate) slices: Vec<Slice>,
    pub(crate) ids: Vec<ChunkId>,
    weight: usize,
}

impl Gathered {
    pub(crate) fn is_empty(&self) -> bool {
        self.slices.is_empty()
    }
    pub(crate) fn is_full(&self, refs: usize) -> bool {
        self.ids.len() >= refs || self.weight >= BYTES || self.slices.len() >= refs
    }
    /// Adds the file's chunks from `first` on, which are at the end of `ids`.
    pub(crate) fn push(&mut self, file: &Arc<FileJob>, first: usize) {
        self.weight += file.weight();
        self.slices.push(Slice {
            file: file.clone(),
            uses: first as u32..self.ids.len() as u32,
        });
    }
}

/// A chunk and where it lies.
pub(crate) struct Chunk {
    pub(crate) id: ChunkId,
    /// Row of `packs`; `u32::MAX` when no index names the chunk.
    pub(crate) pack: u32,
    pub(crate) envelope_offset: u32,
    pub(crate) envelope_length: u32,
    pub(crate) offset: u32,
    pub(crate) length: u32,
    /// [`UNCHECKED`], [`GOOD`] or [`BAD`]; a chunk belongs to one envelope, so to one worker.
    pub(crate) state: AtomicU8,
}

pub(crate) const UNCHECKED: u8 = 0;
/// Its content in the envelope has its id.
pub(crate) const GOOD: u8 = 1;
/// It does not, or there is none.
pub(crate) const BAD: u8 = 2;

/// What is to be done with an opened envelope.
#[derive(Clone, Copy)]
pub(crate) enum Unit {
    /// A slice that lies in this envelope entirely and is the whole file.
    Whole(u32),
    /// One use, and its slice.
    Piece(u32, u32),
}

/// An envelope and its units.
pub(crate) struct Envelope {
    pub(crate) offset: u32,
    pub(crate) length: u32,
    pub(crate) units: Range<u32>,
}

/// See the module.
pub(crate) struct Window {
    pub(crate) slices: Vec<Slice>,
    pub(crate) chunks: Vec<Chunk>,
    /// For each use: its chunk.
    pub(crate) chunk_of: Vec<u32>,
    /// For each use: where it lies in the file's content.
    pub(crate) offsets: Vec<u64>,
    pub(crate) packs: Vec<ObjectId>,
    pub(crate) envelopes: Vec<Envelope>,
    pub(crate) units: Vec<Unit>,
}

/// A range of a pack to fetch.
pub(crate) struct Task {
    pub(crate) window: Arc<Window>,
    pub(crate) pack: ObjectId,
    pub(crate) envelopes: Range<u32>,
    /// Of the pack.
    pub(crate) bytes: Range<u32>,
}

/// Looks up chunks in ascending order of their ids; keeps a block per part of the index, and the names of packs.
pub(crate) struct Resolver<'a> {
    lookup: &'a Lookup,
    kind: ChunkKind,
    windows: Vec<LookupWindow>,
    packs: HashMap<(u32, u32), ObjectId>,
}

/// A copy of a chunk: pack, offset and length of the envelope, offset and length of the chunk.
pub(crate) type Copied = (ObjectId, u32, u32, u32, u32);

/// Names of packs remembered by a resolver: 48 bytes each, 3 MiB.
const PACK_NAMES: usize = 64 << 10;

impl<'a> Resolver<'a> {
    /// For chunks of content.
    pub(crate) fn new(lookup: &'a Lookup) -> Self {
        Self::of_kind(lookup, ChunkKind::Data)
    }

    pub(crate) fn of_kind(lookup: &'a Lookup, kind: ChunkKind) -> Self {
        let windows = lookup
            .parts()
            .iter()
            .map(|_| LookupWindow::default())
            .collect();
        Resolver {
            lookup,
            kind,
            windows,
            packs: HashMap::new(),
        }
    }

    /// The copy to use, and whether copies disagree about the chunk's length.
    pub(crate) fn find(&mut self, id: &ChunkId) -> io::Result<Option<(Copied, bool)>> {
        let mut best: Option<(Copied, bool)> = None;
        let mut disagree = false;
        for (n, part) in self.lookup.parts().iter().enumerate() {
            for (_, row) in part.find(id, &mut self.windows[n])? {
                if row.kind != self.kind {
                    continue;
                }
                let key = (n as u32, row.pack);
                let pack = match self.packs.get(&key) {
                    Some(p) => *p,
                    None => {
                        if self.packs.len() >= PACK_NAMES {
                            self.packs.clear();
                        }
                        let p = part.pack(row.pack)?.id;
                        self.packs.insert(key, p);
                        p
                    }
                };
                let usable =
                    self.lookup.unusable().is_empty() || !self.lookup.unusable().contains(&pack);
                let copy = (
                    pack,
                    row.envelope_offset,
                    row.envelope_length,
                    row.offset,
                    row.length,
                );
                disagree |= best.as_ref().is_some_and(|b| b.0.4 != row.length);
                if best.as_ref().is_none_or(|b| usable && !b.1) {
                    best = Some((copy, usable));
                }
            }
        }
        Ok(best.map(|(copy, _)| (copy, disagree)))
    }
}

/// A slice whose place in the packs cannot be had.
pub(crate) struct Refused {
    pub(crate) file: Arc<FileJob>,
    pub(crate) why: String,
}

impl Window {
    /// Looks everything up. Slices of files that cannot be restored are told and left out of the units.
    pub(crate) fn resolve(
        gathered: Gathered,
        resolver: &mut Resolver<'_>,
        reader: &mut ChunkReader<'_>,
        refused: &mut dyn FnMut(Refused),
    ) -> io::Result<Window> {
        let Gathered { slices, ids, .. } = gathered;
        let mut order: Vec<u32> = (0..ids.len() as u32).collect();
        order.sort_unstable_by(|a, b| ids[*a as usize].cmp(&ids[*b as usize]));
        let mut window = Window {
            slices,
            chunks: Vec::new(),
            chunk_of: vec![0; ids.len()],
            offsets: vec![0; ids.len()],
            packs: Vec::new(),
            envelopes: Vec::new(),
            units: Vec::new(),
        };
        let mut rows: HashMap<ObjectId, u32> = HashMap::new();
        for &u in &order {
            let id = ids[u as usize];
            if window.chunks.last().is_none_or(|c| c.id != id) {
                let mut chunk = Chunk {
                    id,
                    pack: u32::MAX,
                    envelope_offset: 0,
                    envelope_length: 0,
                    offset: 0,
                    length: 0,
                    state: AtomicU8::new(UNCHECKED),
                };
                if let Some(((pack, envelope_offset, envelope_length, offset, length), disagree)) =
                    resolver.find(&id)?
                {
                    let row = *rows.entry(pack).or_insert_with(|| {
                        window.packs.push(pack);
                        window.packs.len() as u32 - 1
                    });
                    chunk = Chunk {
                        pack: row,
                        envelope_offset,
                        envelope_length,
                        offset,
                        length,
                        ..chunk
                    };
                    // One of the indexes lies, or is from before a lie: the content itself says how long it is. Where it cannot be had, the file fails later.
                    if disagree {
                        if let Ok(plain) = reader.read(ChunkKind::Data, &id) {
                            chunk.length = plain.len() as u32;
                        }
                    }
                }
                window.chunks.push(chunk);
            }
            window.chunk_of[u as usize] = window.chunks.len() as u32 - 1;
        }
        drop((order, ids));
        let mut keyed: Vec<((u64, u32), Unit)> = Vec::new();
        // Packs in the order in which the manifest needs them: files are finished one after another.
        let mut ranks: Vec<u32> = vec![u32::MAX; window.packs.len()];
        let mut next_rank = 0;
        for s in 0..window.slices.len() {
            let slice = &window.slices[s];
            let file = slice.file.clone();
            if slice.uses.is_empty() || file.failed.load(Ordering::Relaxed) {
                continue;
            }
            if let Err(why) = place(
                &file,
                slice.uses.clone(),
                &window.chunks,
                &window.chunk_of,
                &mut window.offsets,
            ) {
                refused(Refused { file, why });
                continue;
            }
            let uses = slice.uses.clone();
            let envelope = |u: u32| {
                let c = &window.chunks[window.chunk_of[u as usize] as usize];
                (c.pack, c.envelope_offset, c.envelope_length)
            };
            let mut key = |u: u32| {
                let (pack, offset, length) = envelope(u);
                let rank = &mut ranks[pack as usize];
                if *rank == u32::MAX {
                    *rank = next_rank;
                    next_rank += 1;
                }
                ((*rank as u64) << 32 | offset as u64, length)
            };
            let whole = uses.len() as u32 == file.entry.refs()
                && uses.clone().all(|u| envelope(u) == envelope(uses.start));
            if whole {
                keyed.push((key(uses.start), Unit::Whole(s as u32)));
            } else {
                for u in uses {
                    keyed.push((key(u), Unit::Piece(u, s as u32)));
                }
            }
        }
        keyed.sort_by_key(|k| k.0);
        window.units = Vec::with_capacity(keyed.len());
        let mut last = None;
        for (key, unit) in keyed {
            let n = window.units.len() as u32;
            window.units.push(unit);
            if last == Some(key) {
                window
                    .envelopes
                    .last_mut()
                    .expect("pushed with the key")
                    .units
                    .end = n + 1;
                continue;
            }
            last = Some(key);
            let use_ = match unit {
                Unit::Whole(s) => window.slices[s as usize].uses.start,
                Unit::Piece(u, _) => u,
            };
            let c = &window.chunks[window.chunk_of[use_ as usize] as usize];
            window.envelopes.push(Envelope {
                offset: c.envelope_offset,
                length: c.envelope_length,
                units: n..n + 1,
            });
        }
        Ok(window)
    }

    fn pack_of(&self, envelope: u32) -> u32 {
        let use_ = match self.units[self.envelopes[envelope as usize].units.start as usize] {
            Unit::Whole(s) => self.slices[s as usize].uses.start,
            Unit::Piece(u, _) => u,
        };
        self.chunks[self.chunk_of[use_ as usize] as usize].pack
    }

    /// Cuts the work into fetches of at most `fetch` bytes (or one envelope).
    pub(crate) fn tasks(self: &Arc<Self>, fetch: u32, each: &mut dyn FnMut(Task) -> bool) {
        let mut from = 0u32;
        while (from as usize) < self.envelopes.len() {
            let first = &self.envelopes[from as usize];
            let pack = self.pack_of(from);
            let mut end = first.offset.saturating_add(first.length);
            let mut to = from + 1;
            while let Some(next) = self.envelopes.get(to as usize) {
                let next_end = next.offset.saturating_add(next.length);
                if self.pack_of(to) != pack
                    || next.offset < end
                    || next.offset - end > GAP
                    || next_end - first.offset > fetch
                {
                    break;
                }
                end = next_end;
                to += 1;
            }
            let task = Task {
                window: self.clone(),
                pack: self.packs[pack as usize],
                envelopes: from..to,
                bytes: first.offset..end,
            };
            if !each(task) {
                return;
            }
            from = to;
        }
    }
}

/// Finds out where each use lies in its file; checks that the lengths add up to what the manifest says.
fn place(
    file: &FileJob,
    uses: Range<u32>,
    chunks: &[Chunk],
    chunk_of: &[u32],
    offsets: &mut [u64],
) -> Result<(), String> {
    let stored = file.entry.stored_len();
    let mut at = file.planned.load(Ordering::Relaxed);
    for u in uses.clone() {
        let c = &chunks[chunk_of[u as usize] as usize];
        if c.pack == u32::MAX {
            return Err(format!(
                "chunk {} of it is in no pack that an index names",
                c.id.short()
            ));
        }
        offsets[u as usize] = at;
        at = at.saturating_add(c.length as u64);
    }
    let placed = file.placed.load(Ordering::Relaxed) + uses.len() as u32;
    if at > stored || (placed >= file.entry.refs() && at < stored) {
        return Err("its chunks do not have the length that the manifest says".into());
    }
    file.planned.store(at, Ordering::Relaxed);
    file.placed.store(placed, Ordering::Relaxed);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::EntryKind;

    #[test]
    fn content_goes_around_holes() {
        let mut e = Entry::new(b"f".to_vec(), EntryKind::File);
        e.size = Some(100);
        e.holes = Some(vec![[0, 10], [20, 5], [25, 5], [90, 10]]);
        // Data: 10..20, 30..90.
        let job = FileJob::new(e, 0, true);
        let content: Vec<u8> = (0..70).collect();
        for cut in 1..70 {
            let mut out = [255u8; 100];
            for (n, piece) in content.chunks(cut).enumerate() {
                job.place::<()>((n * cut) as u64, piece, &mut |at, b| {
                    out[at as usize..at as usize + b.len()].copy_from_slice(b);
                    Ok(())
                })
                .unwrap();
            }
            assert_eq!(out[10..20], content[..10]);
            assert_eq!(out[30..90], content[10..]);
            assert_eq!(out.iter().filter(|b| **b == 255).count(), 30);
        }
    }
}

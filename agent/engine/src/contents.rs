//! What is in a snapshot, for the verbs that read content: its manifest parts, its entries in order, and the refs at any position.
//!
//! Lists are trees that a stranger may have written. Every node is compared with what its parent says of it as soon as it is read, so a small object cannot
//! make us walk or remember more than it stores. Reading starts at any position: restoring one file of a large snapshot reads a few parts, not the manifest.

use std::collections::HashSet;
use std::ops::Range;

use crate::chunks::ChunkReader;
use crate::ids::{ChunkId, ChunkKind};
use crate::limits;
use crate::list::{Form, NODE, PART, Part, REF};
use crate::manifest::{self, Entry};
use crate::object::{ContentError, ObjectError};
use crate::records::{ListRoot, Snapshot};

/// Entries that one part may claim; a chunk of 8 MiB cannot hold more.
const PART_ENTRIES_MAX: u32 = 1 << 20;
/// Entries of one snapshot: verbs keep a few bits for each, 32 MiB a bit when reached.
const ENTRIES_MAX: u64 = 1 << 28;

fn malformed(what: &'static str) -> ObjectError {
    ObjectError::content("a list", ContentError::List(what))
}

/// A level of the path from the root of a list to a position.
struct Level {
    /// Leaf items before it, refs before it, leaf items in it.
    start: u64,
    refs: u64,
    leaves: u64,
    /// 0 when the items are leaf items.
    depth: u8,
    items: Vec<u8>,
}

/// What stands at a position of a list.
pub(crate) enum Run<'a> {
    /// Leaf items from position `start`; `refs` lie before them.
    Items {
        start: u64,
        refs: u64,
        items: &'a [u8],
    },
    /// A list chunk that cannot be read: it covers the positions to `end`, and `refs` lie before `end`.
    Lost {
        end: u64,
        refs: u64,
        cause: ObjectError,
    },
}

/// Reads a list from any position. Memory: one list chunk per level.
pub(crate) struct ListCursor {
    form: Form,
    count: u64,
    root_depth: u8,
    levels: Vec<Level>,
}

impl ListCursor {
    pub(crate) fn new(root: &ListRoot, form: Form) -> Result<Self, ObjectError> {
        if root.depth > limits::LIST_DEPTH {
            return Err(malformed("it is too deep"));
        }
        if root.items.len() > limits::LIST_ROOT_ITEMS * NODE {
            return Err(malformed("its root is too long"));
        }
        let (leaves, _) = sums(&root.items, root.depth, form)?;
        if leaves != root.count {
            return Err(malformed("it does not have as many items as its root says"));
        }
        let top = Level {
            start: 0,
            refs: 0,
            leaves,
            depth: root.depth,
            items: root.items.clone(),
        };
        Ok(ListCursor {
            form,
            count: root.count,
            root_depth: root.depth,
            levels: vec![top],
        })
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The run that holds position `at`, which must be below [`Self::count`].
    pub(crate) fn run(
        &mut self,
        reader: &mut ChunkReader<'_>,
        at: u64,
    ) -> Result<Run<'_>, ObjectError> {
        while self.levels.len() > 1
            && self
                .levels
                .last()
                .is_some_and(|l| at < l.start || at - l.start >= l.leaves)
        {
            self.levels.pop();
        }
        loop {
            let level = self.levels.last().expect("the root is never popped");
            if level.depth == 0 {
                break;
            }
            let (mut start, mut refs) = (level.start, level.refs);
            let mut below = None;
            for node in level.items.chunks_exact(NODE) {
                let (leaves, node_refs) = node_counts(node);
                if at - start < leaves {
                    below = Some((
                        ChunkId(node[..32].try_into().expect("32 bytes")),
                        leaves,
                        node_refs,
                    ));
                    break;
                }
                start += leaves;
                refs = refs
                    .checked_add(node_refs)
                    .ok_or_else(|| malformed("its counts overflow"))?;
            }
            let Some((id, leaves, node_refs)) = below else {
                return Err(malformed("it ends too early"));
            };
            let depth = level.depth - 1;
            match self.load(reader, &id, depth, leaves, node_refs) {
                Ok(items) => self.levels.push(Level {
                    start,
                    refs,
                    leaves,
                    depth,
                    items,
                }),
                Err(e) if e.needs_identity() => return Err(e),
                Err(cause) => {
                    let refs = refs
                        .checked_add(node_refs)
                        .ok_or_else(|| malformed("its counts overflow"))?;
                    return Ok(Run::Lost {
                        end: start + leaves,
                        refs,
                        cause,
                    });
                }
            }
        }
        debug_assert!(self.levels.len() == self.root_depth as usize + 1);
        let level = self.levels.last().expect("the root is never popped");
        Ok(Run::Items {
            start: level.start,
            refs: level.refs,
            items: &level.items,
        })
    }

    fn load(
        &self,
        reader: &mut ChunkReader<'_>,
        id: &ChunkId,
        depth: u8,
        leaves: u64,
        refs: u64,
    ) -> Result<Vec<u8>, ObjectError> {
        let mut chunk = reader.read(ChunkKind::List, id)?;
        if chunk.len() < 2 || chunk[0] != depth + 1 || chunk[1] != self.form as u8 {
            return Err(malformed(
                "a list chunk stands at a level that is not its own",
            ));
        }
        chunk.drain(..2);
        if sums(&chunk, depth, self.form)? != (leaves, refs) {
            return Err(malformed(
                "a node does not have as many items beneath as it says",
            ));
        }
        Ok(chunk)
    }
}

fn node_counts(node: &[u8]) -> (u64, u64) {
    let word = |at: usize| u64::from_le_bytes(node[at..at + 8].try_into().expect("eight bytes"));
    (word(32), word(40))
}

/// Leaf items and refs beneath a run of items.
fn sums(items: &[u8], depth: u8, form: Form) -> Result<(u64, u64), ObjectError> {
    let width = if depth > 0 { NODE } else { form.item() };
    if items.len() % width != 0 {
        return Err(malformed("a run ends within an item"));
    }
    let count = (items.len() / width) as u64;
    if depth == 0 {
        let refs = match form {
            Form::Refs => count,
            Form::Parts => items.chunks_exact(PART).map(|b| part(b).refs as u64).sum(),
        };
        return Ok((count, refs));
    }
    let mut total = (0u64, 0u64);
    for node in items.chunks_exact(NODE) {
        let (leaves, refs) = node_counts(node);
        let sum = total.0.checked_add(leaves).zip(total.1.checked_add(refs));
        total = sum.ok_or_else(|| malformed("its counts overflow"))?;
    }
    Ok(total)
}

fn part(bytes: &[u8]) -> Part {
    Part::from_bytes(bytes.try_into().expect("40 bytes"))
}

/// A manifest part with what lies before it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PartRow {
    pub(crate) part: Part,
    /// Position of its first ref.
    pub(crate) first_ref: u64,
    /// Number of its first entry: entries are numbered over all parts that can be listed.
    pub(crate) first_entry: u64,
}

/// The manifest parts of a snapshot.
pub(crate) struct Manifest {
    pub(crate) parts: Vec<PartRow>,
    /// Entries in all parts.
    pub(crate) entries: u64,
    /// Lists of parts that cannot be read.
    pub(crate) lost: Vec<ObjectError>,
}

impl Manifest {
    /// Lists the parts; reads none.
    pub(crate) fn load(
        reader: &mut ChunkReader<'_>,
        snapshot: &Snapshot,
    ) -> Result<Self, ObjectError> {
        let mut cursor = ListCursor::new(&snapshot.manifest, Form::Parts)?;
        if cursor.count() > limits::MANIFEST_PARTS {
            return Err(malformed("a manifest of more than a million parts"));
        }
        let mut out = Manifest {
            parts: Vec::new(),
            entries: 0,
            lost: Vec::new(),
        };
        let mut seen = HashSet::new();
        let (mut at, mut first_ref) = (0, 0u64);
        while at < cursor.count() {
            match cursor.run(reader, at)? {
                Run::Items { start, refs, items } => {
                    first_ref = refs;
                    for b in items.chunks_exact(PART) {
                        let part = part(b);
                        if part.entries > PART_ENTRIES_MAX || part.refs > PART_ENTRIES_MAX * 64 {
                            return Err(malformed("a manifest part of an impossible length"));
                        }
                        // Paths ascend, so no part can stand in a manifest twice; a tree of repeated nodes would be endless.
                        if !seen.insert(part.id) {
                            return Err(malformed("a manifest part stands in it twice"));
                        }
                        out.parts.push(PartRow {
                            part,
                            first_ref,
                            first_entry: out.entries,
                        });
                        first_ref = first_ref
                            .checked_add(part.refs as u64)
                            .ok_or_else(|| malformed("its counts overflow"))?;
                        out.entries += part.entries as u64;
                    }
                    at = start + (items.len() / PART) as u64;
                }
                Run::Lost { end, refs, cause } => {
                    out.lost.push(cause);
                    first_ref = refs;
                    at = end;
                }
            }
            if out.entries > ENTRIES_MAX {
                return Err(malformed(
                    "a manifest of more entries than this program handles",
                ));
            }
        }
        let _ = first_ref;
        Ok(out)
    }

    /// The entries of part `i`, each with the position of its first ref; entry `k` has the number `first_entry + k`.
    /// `after`: the last path before, which must be smaller; it is moved on.
    pub(crate) fn entries(
        &self,
        reader: &mut ChunkReader<'_>,
        i: usize,
        after: &mut Vec<u8>,
    ) -> Result<Vec<(Entry, u64)>, ObjectError> {
        let row = &self.parts[i];
        let mut out = Vec::with_capacity((row.part.entries as usize).min(4096));
        reader.entries(&row.part, row.first_ref, after, &mut |e, at| {
            out.push((e, at));
            Ok(())
        })?;
        Ok(out)
    }

    /// The parts that can hold entries of which `below` says that they come before what is wanted ([`Side::Before`]), are wanted, or come after.
    /// Reads about log2(parts) of them. A part that cannot be read makes it give up and name all.
    fn range(
        &self,
        reader: &mut ChunkReader<'_>,
        side: &dyn Fn(&[u8]) -> Side,
    ) -> Result<Range<usize>, ObjectError> {
        let first_path =
            |reader: &mut ChunkReader<'_>, i: usize| -> Result<Option<Vec<u8>>, ObjectError> {
                match self.entries(reader, i, &mut Vec::new()) {
                    Ok(e) => Ok(e.into_iter().next().map(|(e, _)| e.path)),
                    Err(e) if e.needs_identity() => Err(e),
                    Err(_) => Ok(None),
                }
            };
        // The first part whose first path is wanted or after: what is wanted may begin in the part before it.
        let (mut low, mut high) = (0, self.parts.len());
        while low < high {
            let mid = (low + high) / 2;
            let Some(path) = first_path(reader, mid)? else {
                return Ok(0..self.parts.len());
            };
            if side(&path) == Side::Before {
                low = mid + 1
            } else {
                high = mid
            }
        }
        let from = low.saturating_sub(1);
        let (mut low, mut high) = (low, self.parts.len());
        while low < high {
            let mid = (low + high) / 2;
            let Some(path) = first_path(reader, mid)? else {
                return Ok(0..self.parts.len());
            };
            if side(&path) == Side::After {
                high = mid
            } else {
                low = mid + 1
            }
        }
        Ok(from..low)
    }

    /// The parts that hold what is at or beneath `paths`, and the directories above: all parts when `paths` is empty.
    pub(crate) fn parts_for(
        &self,
        reader: &mut ChunkReader<'_>,
        paths: &[Vec<u8>],
    ) -> Result<Vec<Range<usize>>, ObjectError> {
        #[allow(clippy::single_range_in_vec_init)]
        let all = vec![0..self.parts.len()];
        // A search reads a dozen parts: not worth it for many paths or few parts.
        if paths.is_empty()
            || paths.iter().any(|p| p.is_empty())
            || paths.len() > 64
            || self.parts.len() < 64
        {
            return Ok(all);
        }
        let mut points = HashSet::new();
        let mut ranges = Vec::new();
        for path in paths {
            for (i, _) in path.iter().enumerate().filter(|(_, b)| **b == b'/') {
                points.insert(&path[..i]);
            }
            ranges.push(self.range(reader, &|p| match manifest::compare(p, path) {
                std::cmp::Ordering::Less => Side::Before,
                _ if manifest::is_beneath(p, path) => Side::Wanted,
                _ => Side::After,
            })?);
        }
        for point in points {
            ranges.push(self.range(reader, &|p| match manifest::compare(p, point) {
                std::cmp::Ordering::Less => Side::Before,
                std::cmp::Ordering::Equal => Side::Wanted,
                std::cmp::Ordering::Greater => Side::After,
            })?);
        }
        ranges.sort_unstable_by_key(|r| r.start);
        let mut out: Vec<Range<usize>> = Vec::new();
        for r in ranges {
            match out.last_mut() {
                Some(l) if r.start <= l.end => l.end = l.end.max(r.end),
                _ => out.push(r),
            }
        }
        Ok(out)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Before,
    Wanted,
    After,
}

/// The refs of a snapshot by position.
pub(crate) struct RefCursor {
    list: ListCursor,
}

impl RefCursor {
    pub(crate) fn new(snapshot: &Snapshot) -> Result<Self, ObjectError> {
        Ok(RefCursor {
            list: ListCursor::new(&snapshot.refs, Form::Refs)?,
        })
    }

    /// Appends the ids at `from..from + count` to `out`. On an error `out` may have got some of them.
    pub(crate) fn read(
        &mut self,
        reader: &mut ChunkReader<'_>,
        from: u64,
        count: u64,
        out: &mut Vec<ChunkId>,
    ) -> Result<(), ObjectError> {
        let end = from.checked_add(count).filter(|e| *e <= self.list.count());
        let end =
            end.ok_or_else(|| malformed("the manifest uses more chunks than the snapshot lists"))?;
        let mut at = from;
        while at < end {
            match self.list.run(reader, at)? {
                Run::Items { start, items, .. } => {
                    let run_end = start + (items.len() / REF) as u64;
                    let upto = end.min(run_end);
                    let bytes = &items[(at - start) as usize * REF..(upto - start) as usize * REF];
                    out.extend(
                        bytes
                            .chunks_exact(REF)
                            .map(|c| ChunkId(c.try_into().expect("32 bytes"))),
                    );
                    at = upto;
                }
                Run::Lost { cause, .. } => return Err(cause),
            }
        }
        Ok(())
    }
}

/// One bit for each entry of a snapshot; set by several threads.
pub(crate) struct Bits(Vec<std::sync::atomic::AtomicU64>);

impl Bits {
    pub(crate) fn new(entries: u64) -> Self {
        Bits(
            (0..entries.div_ceil(64))
                .map(|_| Default::default())
                .collect(),
        )
    }
    pub(crate) fn set(&self, n: u64) {
        self.0[n as usize / 64].fetch_or(1 << (n % 64), std::sync::atomic::Ordering::Relaxed);
    }
    pub(crate) fn get(&self, n: u64) -> bool {
        self.0[n as usize / 64].load(std::sync::atomic::Ordering::Relaxed) & (1 << (n % 64)) != 0
    }
    /// True when one of the bits is set.
    pub(crate) fn any(&self, range: Range<u64>) -> bool {
        range.clone().any(|n| self.get(n))
    }
}

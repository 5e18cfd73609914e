//! Lists: sequences of ids too long for a snapshot, as trees of chunks (FORMAT.md, section 6).
//!
//! Two daily snapshots of ten million chunks differ in a few thousand ids. A list is cut into runs by content, each run is a chunk that is stored once, and the
//! ids of the runs are a shorter list in turn; so the second snapshot costs what changed. The writing host can read lists (it needs them for `prune`); they
//! hold keyed hashes only.

use crate::ids::ChunkId;
use crate::limits;
use crate::records::ListRoot;

/// Leaf item of a list of refs: a chunk id.
pub const REF: usize = 32;
/// Leaf item of a list of manifest parts: chunk id, u32 refs, u32 entries.
pub const PART: usize = 40;
/// Node: id of a list chunk, u64 leaf items beneath, u64 refs beneath (so that a lost list of manifest parts does not shift the refs of the others).
pub const NODE: usize = 48;
/// A run ends after one item in so many, on average. A changed id costs its run: 64 ids are 2 KiB, and their node and index entry 90 bytes.
const RUN_AVERAGE: u64 = 64;
/// A run longer than this is cut.
const RUN_MAX: usize = 4096;
/// A list with at most this many items stands in the snapshot itself.
const ROOT_MAX: usize = 32;

/// What the leaf items are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Form {
    /// [`REF`]
    Refs = 0,
    /// [`PART`]
    Parts = 1,
}

impl Form {
    /// Bytes of a leaf item.
    pub fn item(self) -> usize {
        match self {
            Form::Refs => REF,
            Form::Parts => PART,
        }
    }
    /// Refs that a leaf item stands for.
    fn refs(self, item: &[u8]) -> u64 {
        match self {
            Form::Refs => 1,
            Form::Parts => u32::from_le_bytes(item[32..36].try_into().expect("four bytes")) as u64,
        }
    }
}

/// A manifest chunk as its list names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    /// The manifest chunk.
    pub id: ChunkId,
    /// Refs that its entries use.
    pub refs: u32,
    /// Its entries.
    pub entries: u32,
}

impl Part {
    /// As stored.
    pub fn to_bytes(self) -> [u8; PART] {
        let mut out = [0; PART];
        out[..32].copy_from_slice(&self.id.0);
        out[32..36].copy_from_slice(&self.refs.to_le_bytes());
        out[36..].copy_from_slice(&self.entries.to_le_bytes());
        out
    }
    /// From stored bytes.
    pub fn from_bytes(b: &[u8; PART]) -> Self {
        Part {
            id: ChunkId(b[..32].try_into().expect("32 bytes")),
            refs: u32::from_le_bytes(b[32..36].try_into().expect("four bytes")),
            entries: u32::from_le_bytes(b[36..].try_into().expect("four bytes")),
        }
    }
}

struct Level {
    run: Vec<u8>,
    items: u64,
    leaves: u64,
    refs: u64,
}

impl Level {
    fn new() -> Self {
        Level {
            run: Vec::new(),
            items: 0,
            leaves: 0,
            refs: 0,
        }
    }
}

/// Builds a list; memory is one run per level.
pub struct ListWriter {
    form: Form,
    levels: Vec<Level>,
    /// Items of the top level so far, while they are few.
    count: u64,
}

impl ListWriter {
    /// An empty list.
    pub fn new(form: Form) -> Self {
        ListWriter {
            form,
            levels: vec![Level::new()],
            count: 0,
        }
    }

    /// Bytes of a leaf item.
    pub fn item(&self) -> usize {
        self.form.item()
    }

    /// Leaf items so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Adds a leaf item; `store` stores a list chunk and returns its id.
    pub fn push<E>(
        &mut self,
        item: &[u8],
        store: &mut dyn FnMut(&[u8]) -> Result<ChunkId, E>,
    ) -> Result<(), E> {
        debug_assert_eq!(item.len(), self.form.item());
        self.count += 1;
        self.add(0, item, 1, self.form.refs(item), store)
    }

    fn add<E>(
        &mut self,
        level: usize,
        item: &[u8],
        leaves: u64,
        refs: u64,
        store: &mut dyn FnMut(&[u8]) -> Result<ChunkId, E>,
    ) -> Result<(), E> {
        let ends =
            u64::from_le_bytes(item[..8].try_into().expect("eight bytes")) % RUN_AVERAGE == 0;
        if self.levels.len() == level {
            self.levels.push(Level::new());
        }
        let l = &mut self.levels[level];
        l.run.extend_from_slice(item);
        l.items += 1;
        l.leaves += leaves;
        l.refs += refs;
        if ends || l.items as usize >= RUN_MAX {
            self.close(level, store)?;
        }
        Ok(())
    }

    fn close<E>(
        &mut self,
        level: usize,
        store: &mut dyn FnMut(&[u8]) -> Result<ChunkId, E>,
    ) -> Result<(), E> {
        let l = &mut self.levels[level];
        let mut chunk = Vec::with_capacity(l.run.len() + 2);
        chunk.push(level as u8 + 1);
        chunk.push(self.form as u8);
        chunk.append(&mut l.run);
        let leaves = std::mem::take(&mut l.leaves);
        let refs = std::mem::take(&mut l.refs);
        l.items = 0;
        let id = store(&chunk)?;
        let mut node = [0u8; NODE];
        node[..32].copy_from_slice(&id.0);
        node[32..40].copy_from_slice(&leaves.to_le_bytes());
        node[40..].copy_from_slice(&refs.to_le_bytes());
        self.add(level + 1, &node, leaves, refs, store)
    }

    /// Ends the list.
    pub fn finish<E>(
        mut self,
        store: &mut dyn FnMut(&[u8]) -> Result<ChunkId, E>,
    ) -> Result<ListRoot, E> {
        let mut level = 0;
        loop {
            let top = level + 1 == self.levels.len();
            if top && self.levels[level].items as usize <= ROOT_MAX {
                let items = std::mem::take(&mut self.levels[level].run);
                return Ok(ListRoot {
                    depth: level as u8,
                    items,
                    count: self.count,
                });
            }
            if self.levels[level].items > 0 {
                self.close(level, store)?;
            }
            level += 1;
        }
    }
}

/// Why a list could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ListError<E> {
    /// A list chunk could not be had.
    #[error(transparent)]
    Chunk(E),
    /// A list is not as the format says.
    #[error("the list is malformed: {0}")]
    Malformed(&'static str),
}

/// What the caller of [`walk`] wants done with a list chunk.
pub enum Visit<'a> {
    /// A list chunk's id, before it is read: return false to pass over it.
    Node(ChunkId),
    /// A run of leaf items.
    Leaves(&'a [u8]),
    /// A list chunk that could not be read: it held this many leaf items, and they stood for this many refs. Return false to stop with the error.
    Lost(ChunkId, u64, u64),
}

/// Goes through a list from its first item to its last. `fetch` reads a list chunk. Memory: one chunk per level.
pub fn walk<E>(
    root: &ListRoot,
    form: Form,
    fetch: &mut dyn FnMut(&ChunkId) -> Result<Vec<u8>, E>,
    visit: &mut dyn FnMut(Visit<'_>) -> Result<bool, E>,
) -> Result<(), ListError<E>> {
    if root.depth > limits::LIST_DEPTH {
        return Err(ListError::Malformed("it is too deep"));
    }
    if root.items.len() > limits::LIST_ROOT_ITEMS * NODE {
        return Err(ListError::Malformed("its root is too long"));
    }
    let mut seen = 0u64;
    level(root.depth, &root.items, form, fetch, visit, &mut seen)?;
    if seen != root.count {
        return Err(ListError::Malformed(
            "it does not have as many items as its root says",
        ));
    }
    Ok(())
}

fn level<E>(
    depth: u8,
    items: &[u8],
    form: Form,
    fetch: &mut dyn FnMut(&ChunkId) -> Result<Vec<u8>, E>,
    visit: &mut dyn FnMut(Visit<'_>) -> Result<bool, E>,
    seen: &mut u64,
) -> Result<(), ListError<E>> {
    let width = if depth == 0 { form.item() } else { NODE };
    if items.len() % width != 0 {
        return Err(ListError::Malformed("a run ends within an item"));
    }
    if depth == 0 {
        *seen = seen.saturating_add((items.len() / width) as u64);
        visit(Visit::Leaves(items)).map_err(ListError::Chunk)?;
        return Ok(());
    }
    for node in items.chunks_exact(NODE) {
        let id = ChunkId(node[..32].try_into().expect("32 bytes"));
        let leaves = u64::from_le_bytes(node[32..40].try_into().expect("eight bytes"));
        let refs = u64::from_le_bytes(node[40..].try_into().expect("eight bytes"));
        let before = *seen;
        if !visit(Visit::Node(id)).map_err(ListError::Chunk)? {
            *seen = before.saturating_add(leaves);
            continue;
        }
        let chunk = match fetch(&id) {
            Ok(c) => c,
            Err(e) => {
                if visit(Visit::Lost(id, leaves, refs)).map_err(ListError::Chunk)? {
                    *seen = before.saturating_add(leaves);
                    continue;
                }
                return Err(ListError::Chunk(e));
            }
        };
        if chunk.len() < 2 || chunk[0] != depth || chunk[1] != form as u8 {
            return Err(ListError::Malformed(
                "a list chunk stands at a level that is not its own",
            ));
        }
        level(depth - 1, &chunk[2..], form, fetch, visit, seen)?;
        if *seen - before != leaves {
            return Err(ListError::Malformed(
                "a node does not have as many items beneath as it says",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::convert::Infallible;

    fn id(n: u64) -> [u8; 32] {
        *blake3::hash(&n.to_le_bytes()).as_bytes()
    }

    fn build(
        ids: impl Iterator<Item = u64>,
        kept: &mut HashMap<ChunkId, Vec<u8>>,
    ) -> (ListRoot, usize) {
        let mut w = ListWriter::new(Form::Refs);
        let mut new = 0;
        let mut store = |c: &[u8]| -> Result<ChunkId, Infallible> {
            let id = ChunkId(*blake3::hash(c).as_bytes());
            if kept.insert(id, c.to_vec()).is_none() {
                new += c.len();
            }
            Ok(id)
        };
        for n in ids {
            w.push(&id(n), &mut store).unwrap();
        }
        let root = w.finish(&mut store).unwrap();
        (root, new)
    }

    fn read(root: &ListRoot, kept: &HashMap<ChunkId, Vec<u8>>) -> Vec<[u8; 32]> {
        let mut out = Vec::new();
        walk::<Infallible>(root, Form::Refs, &mut |i| Ok(kept[i].clone()), &mut |v| {
            if let Visit::Leaves(l) = v {
                out.extend(l.chunks_exact(32).map(|c| <[u8; 32]>::try_from(c).unwrap()));
            }
            Ok(true)
        })
        .unwrap();
        out
    }

    #[test]
    fn lists_of_all_sizes_come_back_in_order() {
        for n in [0u64, 1, 31, 32, 33, 300, 5_000, 100_000] {
            let mut kept = HashMap::new();
            let (root, _) = build(0..n, &mut kept);
            assert_eq!(root.count, n);
            assert!(root.items.len() <= ROOT_MAX * NODE);
            assert_eq!(read(&root, &kept), (0..n).map(id).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_small_change_costs_little() {
        let mut kept = HashMap::new();
        let (_, first) = build(0..200_000, &mut kept);
        let (_, same) = build(0..200_000, &mut kept);
        let (root, changed) = build(
            (0..200_000).map(|n| if n == 77_777 { 1 << 40 } else { n }),
            &mut kept,
        );
        assert_eq!(same, 0);
        assert!(changed < first / 100, "{changed} of {first}");
        assert_eq!(read(&root, &kept).len(), 200_000);
    }

    #[test]
    fn lies_about_depth_and_count_are_refused() {
        let mut kept = HashMap::new();
        let (root, _) = build(0..50_000, &mut kept);
        let go = |r: &ListRoot| {
            walk::<Infallible>(r, Form::Refs, &mut |i| Ok(kept[i].clone()), &mut |_| {
                Ok(true)
            })
        };
        assert!(go(&root).is_ok());
        assert!(
            go(&ListRoot {
                count: 7,
                ..root.clone()
            })
            .is_err()
        );
        assert!(
            go(&ListRoot {
                depth: 200,
                ..root.clone()
            })
            .is_err()
        );
        assert!(
            go(&ListRoot {
                depth: root.depth - 1,
                ..root.clone()
            })
            .is_err()
        );
        let mut cut = root.clone();
        cut.items.pop();
        assert!(go(&cut).is_err());
    }
}

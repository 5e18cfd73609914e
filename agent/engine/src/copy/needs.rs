//! What a snapshot needs and a twin lacks: one bit for each envelope of the source's index, set by walking the snapshot's lists.
//!
//! Ids are looked up in sorted batches, as `prune` does. A chunk with several copies in the source is taken from an envelope that is wanted anyway, else from the
//! oldest pack. A subtree of a list that stands in a snapshot which is known to be whole in the destination is not walked again, so that the copy of a day reads
//! about what changed.
//!
//! Memory: a batch of ids (17 MiB), ids of list chunks that need no walk ([`KNOWN`] in each of two sets, 16 MiB each), bits, one block of each part.

use std::collections::HashSet;

use crate::chunks::ChunkReader;
use crate::ids::{ChunkId, ChunkKind};
use crate::inventory::{Bits, Inventory};
use crate::list::{self, Form, NODE, Visit};
use crate::lookup::{Lookup, Window};
use crate::object::ObjectError;
use crate::progress::Cancel;
use crate::records::{ListRoot, Snapshot};
use crate::repository::Repository;

use super::{CopyError, Trouble};

/// Ids looked up together: 33 bytes each.
const BATCH: usize = 512 << 10;
/// List chunks remembered: 33 bytes and a free slot each.
const KNOWN: usize = 256 << 10;

/// See the module.
pub(super) struct Planner<'a> {
    from: &'a Repository,
    lookup: &'a Lookup,
    inventory: &'a Inventory,
    /// By pack: not to be copied from.
    bad: Bits,
    windows: Vec<Window>,
    target_windows: Vec<Window>,
    batch: Vec<(ChunkKind, ChunkId)>,
    /// List chunks of snapshots that are whole in the destination.
    complete: HashSet<ChunkId>,
    /// List chunks that were walked since [`Self::begin`].
    walked: HashSet<ChunkId>,
}

impl<'a> Planner<'a> {
    pub(super) fn new(from: &'a Repository, lookup: &'a Lookup, inventory: &'a Inventory) -> Self {
        Planner {
            from,
            lookup,
            inventory,
            bad: Bits::new(inventory.packs.len() as u64),
            windows: lookup.parts().iter().map(|_| Window::default()).collect(),
            target_windows: Vec::new(),
            batch: Vec::new(),
            complete: HashSet::new(),
            walked: HashSet::new(),
        }
    }

    /// Forgets what was walked.
    pub(super) fn begin(&mut self) {
        self.walked.clear();
    }

    /// What was walked belongs to a snapshot that is whole in the destination now.
    pub(super) fn committed(&mut self) {
        if self.complete.len() + self.walked.len() > KNOWN {
            self.complete.clear();
        }
        self.complete.extend(self.walked.drain());
    }

    /// Nothing is known to be whole any more.
    pub(super) fn distrust(&mut self) {
        self.complete.clear();
        self.walked.clear();
    }

    /// Never copies from this pack again.
    pub(super) fn refuse(&mut self, pack: u32) {
        self.bad.set(pack as u64);
    }

    /// Takes the list chunks of a snapshot for complete, which is whole in the destination. Reads those above the lowest level; what cannot be read is passed over.
    pub(super) fn trust(&mut self, snapshot: &Snapshot) {
        let mut reader = ChunkReader::new(self.from, self.lookup);
        for root in [&snapshot.refs, &snapshot.manifest] {
            self.trust_nodes(&mut reader, root.depth, &root.items);
        }
    }

    fn trust_nodes(&mut self, reader: &mut ChunkReader<'_>, depth: u8, items: &[u8]) {
        if depth == 0 || depth > crate::limits::LIST_DEPTH {
            return;
        }
        for node in items.chunks_exact(NODE) {
            let id = ChunkId(node[..32].try_into().expect("32 bytes"));
            if self.complete.len() >= KNOWN || !self.complete.insert(id) || depth == 1 {
                continue;
            }
            if let Ok(chunk) = reader.read(ChunkKind::List, &id) {
                if chunk.len() > 2 && chunk[0] == depth {
                    self.trust_nodes(reader, depth - 1, &chunk[2..]);
                }
            }
        }
    }

    /// Sets the bits of the envelopes that the snapshot needs and `target` lacks. Returns how many chunks are lacking.
    pub(super) fn plan(
        &mut self,
        target: &Lookup,
        snapshot: &Snapshot,
        wanted: &mut Bits,
        cancel: &Cancel,
    ) -> Result<u64, Trouble> {
        let mut lacking = 0;
        let mut reader = ChunkReader::new(self.from, self.lookup);
        for (root, form) in [
            (&snapshot.refs, Form::Refs),
            (&snapshot.manifest, Form::Parts),
        ] {
            lacking += self.plan_list(&mut reader, target, root, form, wanted, cancel)?;
        }
        Ok(lacking)
    }

    fn plan_list(
        &mut self,
        reader: &mut ChunkReader<'_>,
        target: &Lookup,
        root: &ListRoot,
        form: Form,
        wanted: &mut Bits,
        cancel: &Cancel,
    ) -> Result<u64, Trouble> {
        let kind = match form {
            Form::Refs => ChunkKind::Data,
            Form::Parts => ChunkKind::Manifest,
        };
        let mut lacking = 0;
        self.batch.clear();
        let mut fetch = |id: &ChunkId| reader.read(ChunkKind::List, id).map_err(Trouble::source);
        let mut visit = |v: Visit<'_>| -> Result<bool, Trouble> {
            cancel.check().map_err(CopyError::from)?;
            match v {
                Visit::Node(id) if self.complete.contains(&id) || self.walked.contains(&id) => {
                    Ok(false)
                }
                Visit::Node(id) => {
                    lacking += self.need(target, ChunkKind::List, &id, wanted)? as u64;
                    if self.walked.len() >= KNOWN {
                        self.walked.clear();
                    }
                    self.walked.insert(id);
                    Ok(true)
                }
                Visit::Leaves(items) => {
                    for item in items.chunks_exact(form.item()) {
                        let id = ChunkId(item[..32].try_into().expect("32 bytes"));
                        self.batch.push((kind, id));
                    }
                    if self.batch.len() >= BATCH {
                        lacking += self.flush(target, wanted)?;
                    }
                    Ok(true)
                }
                Visit::Lost(..) => Ok(false),
            }
        };
        list::walk(root, form, &mut fetch, &mut visit).map_err(|e| match e {
            list::ListError::Chunk(t) => t,
            list::ListError::Malformed(why) => {
                Trouble::Source(format!("a list is malformed: {why}"))
            }
        })?;
        Ok(lacking + self.flush(target, wanted)?)
    }

    fn flush(&mut self, target: &Lookup, wanted: &mut Bits) -> Result<u64, Trouble> {
        let mut batch = std::mem::take(&mut self.batch);
        batch.sort_unstable_by_key(|b| b.1);
        batch.dedup();
        let mut lacking = 0;
        for (kind, id) in batch.drain(..) {
            lacking += self.need(target, kind, &id, wanted)? as u64;
        }
        self.batch = batch;
        Ok(lacking)
    }

    /// True when `target` lacks the chunk; then an envelope that holds it is wanted.
    fn need(
        &mut self,
        target: &Lookup,
        kind: ChunkKind,
        id: &ChunkId,
        wanted: &mut Bits,
    ) -> Result<bool, Trouble> {
        let has = target.contains_in_order(id, &mut self.target_windows);
        if has.map_err(CopyError::cache)? {
            return Ok(false);
        }
        let mut best = None;
        let mut named = false;
        for (n, part) in self.lookup.parts().iter().enumerate() {
            for (_, row) in part
                .find(id, &mut self.windows[n])
                .map_err(CopyError::cache)?
            {
                if row.kind != kind {
                    continue;
                }
                named = true;
                let number = self.inventory.of(n, &row);
                let pack = &self.inventory.packs[number as usize];
                if !pack.is_sound() || self.bad.get(number as u64) {
                    continue;
                }
                let envelope = self.inventory.envelope(number, row.envelope);
                if wanted.get(envelope) {
                    return Ok(true);
                }
                let key = (pack.modified, pack.id, envelope);
                if best.is_none_or(|b| key < b) {
                    best = Some(key);
                }
            }
        }
        match best {
            Some((_, _, envelope)) => {
                wanted.set(envelope);
                Ok(true)
            }
            None if named => Err(Trouble::Source(format!(
                "every copy of chunk {} in the source is missing or damaged",
                id.short()
            ))),
            None => Err(Trouble::Source(
                ObjectError::chunk(id, crate::object::ContentError::NotIndexed).to_string(),
            )),
        }
    }
}

/// Bytes of the envelopes whose bits are set.
pub(super) fn bytes(lookup: &Lookup, inventory: &Inventory, wanted: &Bits) -> std::io::Result<u64> {
    let mut counted = Bits::new(inventory.envelopes());
    let mut sum = 0u64;
    for (n, part) in lookup.parts().iter().enumerate() {
        part.each_record(&mut |_, r| {
            let e = inventory.envelope(inventory.of(n, &r), r.envelope);
            if wanted.get(e) && !counted.set(e) {
                sum += r.envelope_length as u64;
            }
            Ok(())
        })?;
    }
    Ok(sum)
}

//! Packs: stored objects of about 16 MiB, envelopes one after another (FORMAT.md, section 5).
//!
//! The footer says in the clear where envelopes end, which their age headers show anyway; so an index can be rebuilt, and `prune` can copy envelopes, without
//! opening any. A pack's name is the hash of its bytes: anybody can scrub for bit rot.

use crate::envelope::Sealed;
use crate::ids::{ObjectId, PackClass};
use crate::limits;
use crate::records::{IndexedEnvelope, IndexedPack};

/// A pack is closed when it has reached this many bytes. Cost: one such buffer per class, and one per upload in flight.
pub const TARGET: usize = 16 << 20;
/// At most this many chunks go into one pack, so that its index entry stays small.
pub const TARGET_CHUNKS: usize = 32_768;

const MAGIC: &[u8; 4] = b"KWP1";
const TAIL: usize = 12;

/// A finished pack.
pub struct Finished {
    /// Its name.
    pub id: ObjectId,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its row in the index.
    pub indexed: IndexedPack,
}

/// A pack being filled.
pub struct Packer {
    class: PackClass,
    bytes: Vec<u8>,
    envelopes: Vec<IndexedEnvelope>,
    chunks: usize,
}

impl Packer {
    /// An empty one.
    pub fn new(class: PackClass) -> Self {
        Packer {
            class,
            bytes: Vec::new(),
            envelopes: Vec::new(),
            chunks: 0,
        }
    }

    /// Adds an envelope.
    pub fn push(&mut self, sealed: &Sealed) {
        let ids = sealed.ids.iter().flat_map(|i| i.0).collect();
        self.push_indexed(
            &sealed.bytes,
            IndexedEnvelope {
                length: sealed.bytes.len() as u32,
                kind: sealed.kind as u8,
                ids,
                lengths: sealed.lengths.clone(),
            },
        );
    }

    /// Adds an envelope as ciphertext with its index entry: what `prune` does when it copies.
    pub fn push_indexed(&mut self, bytes: &[u8], envelope: IndexedEnvelope) {
        if self.bytes.capacity() == 0 {
            self.bytes.reserve(TARGET + (2 << 20));
        }
        self.bytes.extend_from_slice(bytes);
        self.chunks += envelope.lengths.len();
        self.envelopes.push(envelope);
    }

    /// True when it should be finished.
    pub fn is_full(&self) -> bool {
        self.bytes.len() >= TARGET
            || self.chunks >= TARGET_CHUNKS
            || self.envelopes.len() >= limits::PACK_ENVELOPES
    }

    /// True when nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.envelopes.is_empty()
    }

    /// Writes the footer and names it.
    pub fn finish(mut self) -> Finished {
        for e in &self.envelopes {
            self.bytes.extend_from_slice(&e.length.to_le_bytes());
        }
        self.bytes
            .extend_from_slice(&(self.envelopes.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(&[self.class as u8, 0, 0, 0]);
        self.bytes.extend_from_slice(MAGIC);
        let id = ObjectId::of(&self.bytes);
        let indexed = IndexedPack {
            id,
            class: self.class as u8,
            size: self.bytes.len() as u64,
            envelopes: self.envelopes,
        };
        Finished {
            id,
            bytes: self.bytes,
            indexed,
        }
    }
}

/// Class and lengths of the envelopes of a whole pack; `None` when it is malformed.
pub fn footer(bytes: &[u8]) -> Option<(PackClass, Vec<u32>)> {
    let tail = bytes.len().checked_sub(TAIL)?;
    if &bytes[tail + 8..] != MAGIC || bytes[tail + 5..tail + 8] != [0, 0, 0] {
        return None;
    }
    let n = u32::from_le_bytes(bytes[tail..tail + 4].try_into().ok()?) as usize;
    let class = PackClass::from_u8(bytes[tail + 4])?;
    if n > limits::PACK_ENVELOPES {
        return None;
    }
    let table = tail.checked_sub(n * 4)?;
    let lengths: Vec<u32> = bytes[table..tail]
        .chunks_exact(4)
        .map(|b| u32::from_le_bytes(b.try_into().expect("four bytes")))
        .collect();
    (lengths.iter().map(|&n| n as u64).sum::<u64>() == table as u64).then_some((class, lengths))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ChunkId, ChunkKind};

    #[test]
    fn a_footer_tells_what_was_packed_and_damage_is_refused() {
        let mut p = Packer::new(PackClass::Lists);
        for n in [10usize, 0, 300] {
            p.push(&Sealed {
                kind: ChunkKind::List,
                ids: vec![ChunkId([1; 32])],
                lengths: vec![5],
                bytes: vec![9; n],
            });
        }
        let f = p.finish();
        assert_eq!(footer(&f.bytes), Some((PackClass::Lists, vec![10, 0, 300])));
        assert_eq!(ObjectId::of(&f.bytes), f.id);
        for cut in 0..f.bytes.len() {
            assert_eq!(footer(&f.bytes[..cut]), None, "{cut}");
        }
        let mut many = f.bytes.clone();
        let at = many.len() - 12;
        many[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(footer(&many), None);
    }
}

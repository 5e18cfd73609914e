//! Envelopes: the unit of compression and encryption (FORMAT.md, section 4).
//!
//! One age file around a zstd *skippable frame*, which lists the lengths of the chunks, and one zstd frame, which holds them. The stock tools print the
//! content (`age -d | zstd -d` passes over the skippable frame); we know where each chunk begins without trusting an index.
//! Small chunks share an envelope, since a key agreement and a compression window for each of 300,000 small files would cost more than the files.

use std::borrow::Cow;

use crate::ids::{ChunkId, ChunkKind};
use crate::limits;
use crate::seal::{Identity, OpenError, Recipient};

const SKIPPABLE: u32 = 0x184D_2A5E;
/// Samples of this length decide whether content is worth compressing.
const SAMPLE: usize = 16 << 10;
/// zstd's level for content that does not compress: fast search, mostly raw blocks.
const RAW_LEVEL: i32 = -50;

/// Chunks gathered, not yet sealed.
pub struct Draft {
    /// What all of them hold.
    pub kind: ChunkKind,
    /// Ids in order.
    pub ids: Vec<ChunkId>,
    /// Lengths in order.
    pub lengths: Vec<u32>,
    /// Plaintext, one after another.
    pub content: Vec<u8>,
}

impl Draft {
    /// An empty one.
    pub fn new(kind: ChunkKind) -> Self {
        Draft {
            kind,
            ids: Vec::new(),
            lengths: Vec::new(),
            content: Vec::new(),
        }
    }
    /// Adds a chunk.
    pub fn push(&mut self, id: ChunkId, plain: &[u8]) {
        self.ids.push(id);
        self.lengths
            .push(u32::try_from(plain.len()).expect("chunks are at most 8 MiB"));
        self.content.extend_from_slice(plain);
    }
    /// True when nothing was added.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

/// Ready to be put into a pack.
pub struct Sealed {
    /// What it holds.
    pub kind: ChunkKind,
    /// The chunks' ids in order.
    pub ids: Vec<ChunkId>,
    /// Their lengths in order.
    pub lengths: Vec<u32>,
    /// The age file.
    pub bytes: Vec<u8>,
}

/// Why an envelope could not be used.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// age did not open it.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// What is inside is not as the format says.
    #[error("its content is malformed: {0}")]
    Content(&'static str),
}

/// Compresses and seals; keeps zstd's working memory (about 4 MiB at level 3) between envelopes. One per thread.
pub struct Sealer {
    zstd: zstd::bulk::Compressor<'static>,
    raw: zstd::bulk::Compressor<'static>,
    plain: Vec<u8>,
}

impl Sealer {
    /// `level` is zstd's, 1 to 19.
    pub fn new(level: i32) -> std::io::Result<Self> {
        let mut zstd = zstd::bulk::Compressor::new(level)?;
        // Readers refuse larger windows.
        zstd.set_parameter(zstd::zstd_safe::CParameter::WindowLog(zstd_window(level)))?;
        let raw = zstd::bulk::Compressor::new(RAW_LEVEL)?;
        Ok(Sealer {
            zstd,
            raw,
            plain: Vec::new(),
        })
    }

    /// Seals a draft.
    pub fn seal(&mut self, draft: &Draft, to: &Recipient) -> std::io::Result<Sealed> {
        let table = 8 + draft.lengths.len() * 4;
        let bound = zstd::zstd_safe::compress_bound(draft.content.len());
        self.plain.clear();
        self.plain.reserve(8 + table + bound);
        self.plain.extend_from_slice(&SKIPPABLE.to_le_bytes());
        self.plain.extend_from_slice(&(table as u32).to_le_bytes());
        self.plain.extend_from_slice(&[draft.kind as u8, 0, 0, 0]);
        self.plain
            .extend_from_slice(&(draft.lengths.len() as u32).to_le_bytes());
        for n in &draft.lengths {
            self.plain.extend_from_slice(&n.to_le_bytes());
        }
        let at = self.plain.len();
        self.plain.resize(at + bound, 0);
        let compressor = if looks_random(&mut self.raw, &draft.content) {
            &mut self.raw
        } else {
            &mut self.zstd
        };
        let n = compressor.compress_to_buffer(&draft.content, &mut self.plain[at..])?;
        self.plain.truncate(at + n);
        Ok(Sealed {
            kind: draft.kind,
            ids: draft.ids.clone(),
            lengths: draft.lengths.clone(),
            bytes: to.seal(&self.plain),
        })
    }
}

fn zstd_window(level: i32) -> u32 {
    // Level 3 uses 2^21 by itself; higher levels would go beyond what an envelope can use.
    if level <= 3 {
        21
    } else {
        limits::ZSTD_WINDOW_LOG
    }
}

/// Compresses two samples at the fastest level: content that gives up less than 3 % there (media, archives, ciphertext) is not worth more time.
fn looks_random(fast: &mut zstd::bulk::Compressor<'_>, content: &[u8]) -> bool {
    if content.len() < 4 * SAMPLE {
        return false;
    }
    let mut out = [0u8; SAMPLE + 512];
    [content.len() / 5, content.len() / 5 * 3]
        .iter()
        .all(|&at| {
            let sample = &content[at..at + SAMPLE];
            byte_entropy(sample) > 7.9
                && fast
                    .compress_to_buffer(sample, &mut out[..])
                    .is_ok_and(|n| n > SAMPLE - SAMPLE / 32)
        })
}

/// Shannon entropy in bits per byte.
fn byte_entropy(sample: &[u8]) -> f32 {
    let mut counts = [0u32; 256];
    for &b in sample {
        counts[b as usize] += 1;
    }
    let total = sample.len() as f32;
    counts
        .iter()
        .filter(|&&c| c > 0)
        .map(|&c| -(c as f32 / total) * (c as f32 / total).log2())
        .sum()
}

/// An opened envelope.
pub struct Opened {
    /// What it holds.
    pub kind: ChunkKind,
    /// Lengths in order.
    pub lengths: Vec<u32>,
    /// Plaintext, one after another.
    pub content: Vec<u8>,
}

impl Opened {
    /// The chunks in order.
    pub fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.content[..];
        self.lengths.iter().map(move |&n| {
            let (chunk, tail) = rest.split_at(n as usize);
            rest = tail;
            chunk
        })
    }
}

/// Opens an envelope. Memory: its ciphertext, compressed and plain content, each within `limits`.
pub fn open(sealed: &[u8], identity: &Identity) -> Result<Opened, EnvelopeError> {
    if sealed.len() > limits::ENVELOPE_BYTES {
        return Err(EnvelopeError::Content(
            "it is longer than an envelope may be",
        ));
    }
    let plain = identity.open(sealed, limits::ENVELOPE_BYTES)?;
    open_plain(&plain)
}

/// The part after decryption; a fuzz target.
pub fn open_plain(plain: &[u8]) -> Result<Opened, EnvelopeError> {
    let bad = EnvelopeError::Content;
    let word = |at: usize| -> Option<u32> {
        Some(u32::from_le_bytes(plain.get(at..at + 4)?.try_into().ok()?))
    };
    if word(0) != Some(SKIPPABLE) {
        return Err(bad("it does not begin with the table of its chunks"));
    }
    let table = word(4).ok_or(bad("its table is cut short"))? as usize;
    let count = word(12).ok_or(bad("its table is cut short"))? as usize;
    if count == 0 || count > limits::ENVELOPE_CHUNKS || table != 8 + count * 4 {
        return Err(bad("its table has an impossible length"));
    }
    let kind = plain
        .get(8)
        .copied()
        .and_then(ChunkKind::from_u8)
        .ok_or(bad("it holds an unknown kind of chunk"))?;
    let lengths: Vec<u32> = plain
        .get(16..8 + table)
        .ok_or(bad("its table is cut short"))?
        .chunks_exact(4)
        .map(|b| u32::from_le_bytes(b.try_into().expect("four bytes")))
        .collect();
    if lengths
        .iter()
        .any(|&n| n == 0 || n as usize > limits::CHUNK_BYTES)
    {
        return Err(bad("a chunk has an impossible length"));
    }
    let total: u64 = lengths.iter().map(|&n| n as u64).sum();
    if total > limits::ENVELOPE_CONTENT as u64 {
        return Err(bad("its content is longer than an envelope may be"));
    }
    let frame = &plain[8 + table..];
    // One frame, ending where the plaintext ends; it is decompressed into a buffer of the announced length and no more.
    match zstd::zstd_safe::find_frame_compressed_size(frame) {
        Ok(n) if n == frame.len() => {}
        _ => return Err(bad("it is not one zstd frame")),
    }
    let content =
        zstd::bulk::decompress(frame, total as usize).map_err(|_| bad("zstd refuses it"))?;
    if content.len() as u64 != total {
        return Err(bad("its content is shorter than its table says"));
    }
    Ok(Opened {
        kind,
        lengths,
        content,
    })
}

/// Compresses a record's body.
pub fn compress_body(plain: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(plain, 3).expect("zstd compresses into memory without fail")
}

/// Decompresses a record's body of at most `limit` bytes.
pub fn decompress_body(frame: &[u8], limit: usize) -> Result<Cow<'static, [u8]>, EnvelopeError> {
    let size = zstd::zstd_safe::get_frame_content_size(frame)
        .ok()
        .flatten()
        .ok_or(EnvelopeError::Content(
            "its zstd frame does not say how long it is",
        ))?;
    if size > limit as u64 {
        return Err(EnvelopeError::Content(
            "its content is longer than allowed for it",
        ));
    }
    let plain = zstd::bulk::decompress(frame, size as usize)
        .map_err(|_| EnvelopeError::Content("zstd refuses it"))?;
    Ok(Cow::Owned(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_of_text_noise_and_many() {
        let id = Identity::generate();
        let mut sealer = Sealer::new(3).unwrap();
        let mut noise = vec![0; 3 << 20];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        let text = b"the quick brown fox ".repeat(50_000);
        for chunks in [
            vec![&noise[..]],
            vec![&text[..], &noise[..100], b"x"],
            vec![&b"a"[..]; 1000],
        ] {
            let mut draft = Draft::new(ChunkKind::Data);
            for c in &chunks {
                draft.push(ChunkId([0; 32]), c);
            }
            let sealed = sealer.seal(&draft, &id.recipient()).unwrap();
            let opened = open(&sealed.bytes, &id).unwrap();
            assert_eq!(opened.chunks().collect::<Vec<_>>(), chunks);
            assert!(
                sealed.bytes.len()
                    < draft.content.len() + draft.content.len() / 2000 + 1200 + chunks.len() * 4
            );
        }
        assert!(looks_random(&mut sealer.raw, &noise));
        assert!(!looks_random(&mut sealer.raw, &text));
    }

    #[test]
    fn bombs_and_lies_are_refused() {
        // A frame that would give 1 GiB behind a table that says 10 bytes.
        let bomb = zstd::bulk::compress(&vec![0u8; 64 << 20], 19).unwrap();
        let mut plain = Vec::new();
        plain.extend_from_slice(&SKIPPABLE.to_le_bytes());
        plain.extend_from_slice(&12u32.to_le_bytes());
        plain.extend_from_slice(&[0, 0, 0, 0]);
        plain.extend_from_slice(&1u32.to_le_bytes());
        plain.extend_from_slice(&10u32.to_le_bytes());
        plain.extend_from_slice(&bomb);
        assert!(open_plain(&plain).is_err());
        // 2^31 chunks announced.
        let mut lie = plain.clone();
        lie[12..16].copy_from_slice(&0x8000_0000u32.to_le_bytes());
        assert!(open_plain(&lie).is_err());
        for cut in 0..40 {
            assert!(open_plain(&plain[..cut]).is_err());
        }
        assert!(decompress_body(&bomb, 1 << 20).is_err());
    }

    proptest::proptest! {
        #[test]
        fn junk_never_panics(junk in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = open_plain(&junk);
            let mut framed = SKIPPABLE.to_le_bytes().to_vec();
            framed.extend(junk);
            let _ = open_plain(&framed);
        }
    }
}

//! Where each chunk lies: the local, searchable form of the repository's index.
//!
//! A *part* is a file in the cache directory that covers one or more index objects: records sorted by chunk id, so that a lookup is one read of 3.5 KiB.
//! Memory: 8 bytes for each 64 records (1.25 MB for ten million chunks), one bit per pack that may not be used. Parts are merged when they are more than a few.
//!
//! Parts are disposable. A part is believed only while every index object it covers exists (invariant 4) and its checksum holds; else it is
//! deleted and what it covered is fetched again. Layout, little-endian:
//!
//! 1. `KWPART2\n`, u64 index objects, u64 packs, u64 records
//! 2. ids of the covered index objects, 32 bytes each
//! 3. packs: id 32, size u64, class u8, 7 unused
//! 4. records, sorted by id: id 32, pack u32 (row of 3), envelope number u16, kind u8, unused u8, offset of the envelope u32, its length u32,
//!    offset of the chunk in the envelope's content u32, its length u32
//! 5. BLAKE3 of all before

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::ids::{ChunkId, ChunkKind, ObjectId, PackClass};
use crate::records::Index;

const MAGIC: &[u8; 8] = b"KWPART2\n";
const HEAD: u64 = 32;
const PACK_ROW: usize = 48;
const RECORD: usize = 56;
/// Records between two entries of the fence.
const STRIDE: u64 = 64;
/// More parts than this are merged. A lookup of an unknown chunk costs one read per part.
const PARTS_MAX: usize = 6;
/// Records gathered in memory while index objects are converted: 56 bytes each, 28 MiB.
const GATHER: usize = 512 << 10;

/// Where a chunk lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Location {
    /// In which pack.
    pub pack: ObjectId,
    /// Which envelope of it, from 0.
    pub envelope: u16,
    /// Where the envelope begins in the pack.
    pub envelope_offset: u32,
    /// Bytes of the envelope.
    pub envelope_length: u32,
    /// Where the chunk begins in the envelope's content.
    pub offset: u32,
    /// Bytes of plaintext.
    pub length: u32,
    /// What it holds.
    pub kind: ChunkKind,
}

/// A pack as parts know it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PackRow {
    /// Its name.
    pub id: ObjectId,
    /// Its length.
    pub size: u64,
    /// Its class.
    pub class: PackClass,
}

/// A record of a part, decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    /// The chunk.
    pub id: ChunkId,
    /// Row of the part's table of packs.
    pub pack: u32,
    /// Envelope number.
    pub envelope: u16,
    /// Kind of chunk.
    pub kind: ChunkKind,
    /// Where the envelope begins.
    pub envelope_offset: u32,
    /// Its length.
    pub envelope_length: u32,
    /// Where the chunk begins.
    pub offset: u32,
    /// Its length.
    pub length: u32,
}

impl Row {
    fn to_bytes(self) -> [u8; RECORD] {
        let mut b = [0; RECORD];
        b[..32].copy_from_slice(&self.id.0);
        b[32..36].copy_from_slice(&self.pack.to_le_bytes());
        b[36..38].copy_from_slice(&self.envelope.to_le_bytes());
        b[38] = self.kind as u8;
        b[40..44].copy_from_slice(&self.envelope_offset.to_le_bytes());
        b[44..48].copy_from_slice(&self.envelope_length.to_le_bytes());
        b[48..52].copy_from_slice(&self.offset.to_le_bytes());
        b[52..56].copy_from_slice(&self.length.to_le_bytes());
        b
    }
    fn from_bytes(b: &[u8]) -> Row {
        let word = |at: usize| u32::from_le_bytes(b[at..at + 4].try_into().expect("four bytes"));
        Row {
            id: ChunkId(b[..32].try_into().expect("32 bytes")),
            pack: word(32),
            envelope: u16::from_le_bytes([b[36], b[37]]),
            kind: ChunkKind::from_u8(b[38]).unwrap_or(ChunkKind::Data),
            envelope_offset: word(40),
            envelope_length: word(44),
            offset: word(48),
            length: word(52),
        }
    }
}

/// Numbers of parts, so that a [`Window`] knows whose block it holds.
static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// A sorted file of records.
pub struct Part {
    number: u64,
    path: PathBuf,
    file: File,
    covers: Vec<ObjectId>,
    packs: u64,
    records: u64,
    fence: Vec<u64>,
    /// One bit per row of the table of packs; empty when all may be used.
    unusable: Vec<u64>,
}

fn prefix(id: &[u8]) -> u64 {
    u64::from_be_bytes(id[..8].try_into().expect("eight bytes"))
}

fn bad(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

impl Part {
    /// Opens a part and checks it whole.
    pub fn open(path: &Path) -> io::Result<Part> {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        let body = size
            .checked_sub(32)
            .ok_or_else(|| bad("not a whole part"))?;
        // Hashed as it comes from the file, in long pieces: a hash fed record by record costs several times as much.
        let mut reader = BufReader::with_capacity(
            256 << 10,
            Hashing {
                inner: (&file).take(body),
                hash: blake3::Hasher::new(),
            },
        );
        let mut head = [0; HEAD as usize];
        reader.read_exact(&mut head)?;
        let word =
            |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        let (covered, packs, records) = (word(8), word(16), word(24));
        let wanted = (|| {
            let a = covered.checked_mul(32)?;
            let b = packs.checked_mul(PACK_ROW as u64)?;
            let c = records.checked_mul(RECORD as u64)?;
            HEAD.checked_add(a)?.checked_add(b)?.checked_add(c)
        })();
        if &head[..8] != MAGIC || wanted != Some(body) {
            return Err(bad("not a whole part"));
        }
        let mut covers = Vec::new();
        for _ in 0..covered {
            let mut id = [0; 32];
            reader.read_exact(&mut id)?;
            covers.push(ObjectId(id));
        }
        let mut row = [0; PACK_ROW];
        for _ in 0..packs {
            reader.read_exact(&mut row)?;
        }
        let mut fence = Vec::with_capacity(records.div_ceil(STRIDE) as usize);
        let mut record = [0; RECORD];
        for n in 0..records {
            reader.read_exact(&mut record)?;
            if n % STRIDE == 0 {
                fence.push(prefix(&record));
            }
        }
        let computed = reader.into_inner().hash.finalize();
        let mut stored = [0; 32];
        file.read_exact_at(&mut stored, body)?;
        if computed != stored {
            return Err(bad("a part's checksum is wrong"));
        }
        Ok(Part {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            path: path.to_owned(),
            file,
            covers,
            packs,
            records,
            fence,
            unusable: Vec::new(),
        })
    }

    /// The index objects it stands for.
    pub fn covers(&self) -> &[ObjectId] {
        &self.covers
    }
    /// How many records.
    pub fn records(&self) -> u64 {
        self.records
    }
    /// How many packs.
    pub fn packs(&self) -> u64 {
        self.packs
    }
    fn packs_at(&self) -> u64 {
        HEAD + self.covers.len() as u64 * 32
    }
    fn records_at(&self) -> u64 {
        self.packs_at() + self.packs * PACK_ROW as u64
    }

    /// A row of the table of packs.
    pub fn pack(&self, row: u32) -> io::Result<PackRow> {
        if row as u64 >= self.packs {
            return Err(bad("a part names a pack that it does not have"));
        }
        let mut b = [0; PACK_ROW];
        self.file
            .read_exact_at(&mut b, self.packs_at() + row as u64 * PACK_ROW as u64)?;
        Ok(pack_row(&b))
    }

    /// All packs in order of their rows.
    pub fn each_pack(
        &self,
        each: &mut dyn FnMut(u32, PackRow) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut reader = self.reader(self.packs_at())?;
        let mut b = [0; PACK_ROW];
        for n in 0..self.packs {
            reader.read_exact(&mut b)?;
            each(n as u32, pack_row(&b))?;
        }
        Ok(())
    }

    /// All records in order of their ids.
    pub fn each_record(&self, each: &mut dyn FnMut(u64, Row) -> io::Result<()>) -> io::Result<()> {
        let mut reader = self.reader(self.records_at())?;
        let mut b = [0; RECORD];
        for n in 0..self.records {
            reader.read_exact(&mut b)?;
            each(n, Row::from_bytes(&b))?;
        }
        Ok(())
    }

    /// Reads through the open file: another process may have merged the part away by name.
    fn reader(&self, at: u64) -> io::Result<BufReader<From<'_>>> {
        Ok(BufReader::with_capacity(
            256 << 10,
            From {
                file: &self.file,
                at,
            },
        ))
    }

    fn is_usable(&self, pack: u32) -> bool {
        self.unusable
            .get(pack as usize / 64)
            .is_none_or(|w| w & (1 << (pack % 64)) == 0)
    }

    /// Numbers and rows of the records with this id.
    pub fn find(&self, id: &ChunkId, window: &mut Window) -> io::Result<Vec<(u64, Row)>> {
        let mut out = Vec::new();
        if self.records == 0 {
            return Ok(out);
        }
        let p = prefix(&id.0);
        // The last fence entry below p (equal ones may begin in the block before).
        let block = self.fence.partition_point(|&f| f < p).saturating_sub(1) as u64;
        let mut at = block * STRIDE;
        while at < self.records {
            let n = STRIDE.min(self.records - at);
            let block = window.block(self, at, n)?;
            let row = |i: usize| &block[i * RECORD..(i + 1) * RECORD];
            let (mut low, mut high) = (0, n as usize);
            while low < high {
                let middle = (low + high) / 2;
                if row(middle)[..32] < id.0[..] {
                    low = middle + 1;
                } else {
                    high = middle;
                }
            }
            for i in low..n as usize {
                if row(i)[..32] != id.0[..] {
                    return Ok(out);
                }
                out.push((at + i as u64, Row::from_bytes(row(i))));
            }
            at += n;
        }
        Ok(out)
    }
}

/// The block that was read last: lookups in ascending order read each block once.
#[derive(Default)]
pub struct Window {
    part: u64,
    at: u64,
    bytes: Vec<u8>,
}

impl Window {
    fn block(&mut self, part: &Part, at: u64, n: u64) -> io::Result<&[u8]> {
        if self.at != at || self.part != part.number {
            self.part = 0;
            self.bytes.resize(n as usize * RECORD, 0);
            part.file
                .read_exact_at(&mut self.bytes, part.records_at() + at * RECORD as u64)?;
            self.at = at;
            self.part = part.number;
        }
        Ok(&self.bytes)
    }
}

fn pack_row(b: &[u8; PACK_ROW]) -> PackRow {
    PackRow {
        id: ObjectId(b[..32].try_into().expect("32 bytes")),
        size: u64::from_le_bytes(b[32..40].try_into().expect("eight bytes")),
        class: PackClass::from_u8(b[40]).unwrap_or(PackClass::Content),
    }
}

struct From<'a> {
    file: &'a File,
    at: u64,
}

impl Read for From<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(buf, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

struct Hashing<R> {
    inner: R,
    hash: blake3::Hasher,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.hash.update(&buf[..n]);
        Ok(n)
    }
}

struct PartWriter {
    out: BufWriter<File>,
    hash: blake3::Hasher,
    pending: Vec<u8>,
    path: PathBuf,
    tmp: PathBuf,
}

impl PartWriter {
    fn create(dir: &Path, covers: &[ObjectId], packs: u64, records: u64) -> io::Result<Self> {
        let mut random = [0; 12];
        getrandom::fill(&mut random).map_err(|e| io::Error::other(e.to_string()))?;
        let name = crate::ids::hex(&random);
        let tmp = dir.join(format!("{name}.tmp"));
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&tmp)?;
        let mut w = PartWriter {
            out: BufWriter::with_capacity(1 << 20, file),
            hash: blake3::Hasher::new(),
            pending: Vec::with_capacity(1 << 16),
            path: dir.join(format!("{name}.part")),
            tmp,
        };
        w.put(MAGIC)?;
        for n in [covers.len() as u64, packs, records] {
            w.put(&n.to_le_bytes())?;
        }
        for id in covers {
            w.put(&id.0)?;
        }
        Ok(w)
    }
    fn put(&mut self, b: &[u8]) -> io::Result<()> {
        self.pending.extend_from_slice(b);
        if self.pending.len() >= 1 << 16 {
            self.flush()?;
        }
        Ok(())
    }
    fn flush(&mut self) -> io::Result<()> {
        self.hash.update(&self.pending);
        self.out.write_all(&self.pending)?;
        self.pending.clear();
        Ok(())
    }
    fn put_pack(&mut self, p: &PackRow) -> io::Result<()> {
        let mut b = [0; PACK_ROW];
        b[..32].copy_from_slice(&p.id.0);
        b[32..40].copy_from_slice(&p.size.to_le_bytes());
        b[40] = p.class as u8;
        self.put(&b)
    }
    /// No sync: a torn part fails its checksum and is made again.
    fn finish(mut self) -> io::Result<Part> {
        self.flush()?;
        let hash = self.hash.finalize();
        self.out.write_all(hash.as_bytes())?;
        self.out.flush()?;
        drop(self.out);
        fs::rename(&self.tmp, &self.path)?;
        Part::open(&self.path)
    }
}

/// Gathers the content of index objects, to become a part.
#[derive(Default)]
pub struct Gather {
    covers: Vec<ObjectId>,
    packs: Vec<PackRow>,
    rows: Vec<Row>,
}

/// An index object says impossible things.
#[derive(Debug, thiserror::Error)]
#[error("the index is malformed: {0}")]
pub struct IndexError(pub &'static str);

impl Gather {
    /// Adds an index object; checks every number in it.
    pub fn add(&mut self, name: ObjectId, index: &Index) -> Result<(), IndexError> {
        use crate::limits;
        let mut chunks = 0usize;
        for pack in &index.packs {
            let class =
                PackClass::from_u8(pack.class).ok_or(IndexError("unknown class of pack"))?;
            if pack.size > limits::PACK_BYTES || pack.envelopes.len() > limits::PACK_ENVELOPES {
                return Err(IndexError("impossible size of a pack"));
            }
            let row = u32::try_from(self.packs.len()).map_err(|_| IndexError("too many packs"))?;
            self.packs.push(PackRow {
                id: pack.id,
                size: pack.size,
                class,
            });
            let mut at = 0u64;
            for (number, e) in pack.envelopes.iter().enumerate() {
                let kind = ChunkKind::from_u8(e.kind).ok_or(IndexError("unknown kind of chunk"))?;
                chunks += e.lengths.len();
                if kind.class() != class
                    || e.ids.len() != e.lengths.len() * 32
                    || e.length as usize > limits::ENVELOPE_BYTES
                    || at + e.length as u64 > pack.size
                    || chunks > limits::INDEX_CHUNKS
                {
                    return Err(IndexError("impossible envelope"));
                }
                let mut offset = 0u64;
                for (id, &length) in e.chunk_ids().zip(&e.lengths) {
                    if length == 0
                        || length as usize > limits::CHUNK_BYTES
                        || offset + length as u64 > limits::ENVELOPE_CONTENT as u64
                    {
                        return Err(IndexError("impossible chunk"));
                    }
                    self.rows.push(Row {
                        id,
                        pack: row,
                        envelope: number as u16,
                        kind,
                        envelope_offset: at as u32,
                        envelope_length: e.length,
                        offset: offset as u32,
                        length,
                    });
                    offset += length as u64;
                }
                at += e.length as u64;
            }
        }
        self.covers.push(name);
        Ok(())
    }
    /// Takes over what another gathered.
    pub fn append(&mut self, other: Gather) {
        let base = self.packs.len() as u32;
        self.covers.extend(other.covers);
        self.packs.extend(other.packs);
        self.rows.extend(other.rows.into_iter().map(|r| Row {
            pack: r.pack + base,
            ..r
        }));
    }
    /// True when it should become a part now.
    pub fn is_full(&self) -> bool {
        self.rows.len() >= GATHER
    }
    /// True when nothing was added.
    pub fn is_empty(&self) -> bool {
        self.covers.is_empty()
    }
    /// Writes the part.
    pub fn write(mut self, dir: &Path) -> io::Result<Part> {
        self.rows.sort_unstable_by_key(|r| r.id);
        let mut w = PartWriter::create(
            dir,
            &self.covers,
            self.packs.len() as u64,
            self.rows.len() as u64,
        )?;
        for p in &self.packs {
            w.put_pack(p)?;
        }
        for r in &self.rows {
            w.put(&r.to_bytes())?;
        }
        w.finish()
    }
}

/// All parts together: the index of a repository.
pub struct Lookup {
    dir: PathBuf,
    parts: Vec<Part>,
    /// Removed with the lookup when it lies in a scratch directory.
    scratch: bool,
    unusable: HashSet<ObjectId>,
}

impl Drop for Lookup {
    fn drop(&mut self) {
        if self.scratch {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

impl Lookup {
    /// Opens the parts in `dir` that cover only index objects in `present`; deletes the others. Returns also which of `present` are covered.
    pub fn open(
        dir: &Path,
        scratch: bool,
        present: &HashSet<ObjectId>,
    ) -> io::Result<(Lookup, HashSet<ObjectId>)> {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)?;
        let mut parts: Vec<Part> = Vec::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.extension().is_none_or(|e| e != "part") {
                continue;
            }
            match Part::open(&path) {
                Ok(p) => parts.push(p),
                // Another process may be merging: gone is fine. Damaged is deleted.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(_) => drop(fs::remove_file(&path)),
            }
        }
        // Larger first: where two parts cover the same object (a merge was interrupted), the larger one is kept.
        parts.sort_by_key(|p| std::cmp::Reverse(p.records));
        let mut covered = HashSet::new();
        parts.retain(|p| {
            let believed = p.covers.iter().all(|c| present.contains(c))
                && !p.covers.iter().any(|c| covered.contains(c));
            if believed {
                covered.extend(p.covers.iter().copied());
            } else {
                let _ = fs::remove_file(&p.path);
            }
            believed
        });
        Ok((
            Lookup {
                dir: dir.to_owned(),
                parts,
                scratch,
                unusable: HashSet::new(),
            },
            covered,
        ))
    }

    /// Where its parts lie.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Adds a part, merging when there are many.
    pub fn add(&mut self, part: Part) -> io::Result<()> {
        self.parts.push(part);
        self.mark_last()?;
        if self.parts.len() > PARTS_MAX {
            self.parts.sort_by_key(|p| std::cmp::Reverse(p.records));
            // The small half becomes one, and takes the next larger in as long as that is not much larger: each record is rewritten log n times.
            let mut from = self.parts.len() / 2;
            let mut sum: u64 = self.parts[from..].iter().map(|p| p.records).sum();
            while from > 0 && self.parts[from - 1].records < sum * 2 {
                from -= 1;
                sum += self.parts[from].records;
            }
            let small = self.parts.split_off(from);
            let merged = merge(&self.dir, &small)?;
            for p in small {
                let _ = fs::remove_file(&p.path);
            }
            self.parts.push(merged);
            self.mark_last()?;
        }
        Ok(())
    }

    /// The parts.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Records in all.
    pub fn len(&self) -> u64 {
        self.parts.iter().map(|p| p.records).sum()
    }

    /// True without any record.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Names packs that may not be relied upon: marked by `prune`, absent, or of a wrong length.
    pub fn set_unusable(&mut self, packs: HashSet<ObjectId>) -> io::Result<()> {
        self.unusable = packs;
        for i in 0..self.parts.len() {
            self.mark(i)?;
        }
        Ok(())
    }

    /// The packs named so.
    pub fn unusable(&self) -> &HashSet<ObjectId> {
        &self.unusable
    }

    fn mark_last(&mut self) -> io::Result<()> {
        self.mark(self.parts.len() - 1)
    }

    fn mark(&mut self, i: usize) -> io::Result<()> {
        let part = &self.parts[i];
        let mut bits = Vec::new();
        if !self.unusable.is_empty() {
            bits = vec![0u64; (part.packs as usize).div_ceil(64)];
            part.each_pack(&mut |row, p| {
                if self.unusable.contains(&p.id) {
                    bits[row as usize / 64] |= 1 << (row % 64);
                }
                Ok(())
            })?;
        }
        self.parts[i].unusable = bits;
        Ok(())
    }

    /// True when a usable copy of the chunk is known.
    pub fn contains(&self, id: &ChunkId, window: &mut Window) -> io::Result<bool> {
        for part in &self.parts {
            if part
                .find(id, window)?
                .iter()
                .any(|(_, r)| part.is_usable(r.pack))
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// As [`Self::contains`], for ids in ascending order: a window for each part, so that each block is read once.
    pub fn contains_in_order(&self, id: &ChunkId, windows: &mut Vec<Window>) -> io::Result<bool> {
        windows.resize_with(self.parts.len(), Window::default);
        for (part, window) in self.parts.iter().zip(windows) {
            let found = part.find(id, window)?;
            if found.iter().any(|(_, r)| part.is_usable(r.pack)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Every copy of a chunk, usable ones first.
    pub fn find_all(&self, id: &ChunkId, window: &mut Window) -> io::Result<Vec<Location>> {
        let mut out = Vec::new();
        for part in &self.parts {
            for (_, r) in part.find(id, window)? {
                let location = Location {
                    pack: part.pack(r.pack)?.id,
                    envelope: r.envelope,
                    envelope_offset: r.envelope_offset,
                    envelope_length: r.envelope_length,
                    offset: r.offset,
                    length: r.length,
                    kind: r.kind,
                };
                if part.is_usable(r.pack) {
                    out.insert(0, location)
                } else {
                    out.push(location)
                }
            }
        }
        Ok(out)
    }

    /// One copy of a chunk, a usable one if there is any.
    pub fn find(&self, id: &ChunkId, window: &mut Window) -> io::Result<Option<Location>> {
        Ok(self.find_all(id, window)?.into_iter().next())
    }
}

/// Merges parts into one; streams, whatever their size.
fn merge(dir: &Path, parts: &[Part]) -> io::Result<Part> {
    let covers: Vec<ObjectId> = parts
        .iter()
        .flat_map(|p| p.covers.iter().copied())
        .collect();
    let packs = parts.iter().map(|p| p.packs).sum();
    let records = parts.iter().map(|p| p.records).sum();
    let mut w = PartWriter::create(dir, &covers, packs, records)?;
    let mut base = Vec::new();
    let mut rows = 0u64;
    for p in parts {
        base.push(u32::try_from(rows).map_err(|_| bad("too many packs"))?);
        rows += p.packs;
        p.each_pack(&mut |_, row| w.put_pack(&row))?;
    }
    let mut readers = parts
        .iter()
        .map(|p| p.reader(p.records_at()))
        .collect::<io::Result<Vec<_>>>()?;
    let mut left: Vec<u64> = parts.iter().map(|p| p.records).collect();
    let mut heads: Vec<Option<[u8; RECORD]>> = vec![None; parts.len()];
    loop {
        let mut least: Option<usize> = None;
        for i in 0..parts.len() {
            if heads[i].is_none() && left[i] > 0 {
                let mut b = [0; RECORD];
                readers[i].read_exact(&mut b)?;
                left[i] -= 1;
                heads[i] = Some(b);
            }
            if let Some(h) = &heads[i] {
                if least
                    .and_then(|l| heads[l].as_ref())
                    .is_none_or(|l| h[..32] < l[..32])
                {
                    least = Some(i);
                }
            }
        }
        let Some(i) = least else { break };
        let mut row = Row::from_bytes(&heads[i].take().expect("chosen among those present"));
        row.pack += base[i];
        w.put(&row.to_bytes())?;
    }
    w.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{IndexedEnvelope, IndexedPack};
    use std::collections::HashMap;

    fn id(n: u64) -> ChunkId {
        ChunkId(*blake3::hash(&n.to_le_bytes()).as_bytes())
    }

    fn index(object: u64, chunks: std::ops::Range<u64>) -> (ObjectId, Index) {
        let packs = chunks
            .clone()
            .step_by(100)
            .map(|from| {
                let to = (from + 100).min(chunks.end);
                let envelopes = (from..to)
                    .step_by(10)
                    .map(|e| {
                        let ids: Vec<u64> = (e..(e + 10).min(to)).collect();
                        IndexedEnvelope {
                            length: 500,
                            kind: 0,
                            ids: ids.iter().flat_map(|n| id(*n).0).collect(),
                            lengths: ids.iter().map(|n| 1 + *n as u32 % 1000).collect(),
                        }
                    })
                    .collect();
                IndexedPack {
                    id: ObjectId(id(1 << 40 | from).0),
                    class: 0,
                    size: 10_000,
                    envelopes,
                }
            })
            .collect();
        (ObjectId(id(1 << 50 | object).0), Index { packs })
    }

    #[test]
    fn finds_all_through_merges_and_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let mut present = HashSet::new();
        let (mut lookup, covered) = Lookup::open(dir.path(), false, &present).unwrap();
        assert!(covered.is_empty());
        for n in 0..20u64 {
            let (name, ix) = index(n, n * 1000..(n + 1) * 1000);
            let mut g = Gather::default();
            g.add(name, &ix).unwrap();
            lookup.add(g.write(dir.path()).unwrap()).unwrap();
            present.insert(name);
        }
        assert!(lookup.parts().len() <= PARTS_MAX);
        let check = |lookup: &Lookup| {
            let mut w = Window::default();
            for n in (0..20_000).step_by(37) {
                let l = lookup.find(&id(n), &mut w).unwrap().unwrap();
                assert_eq!(l.length, 1 + n as u32 % 1000);
                assert_eq!(l.pack, ObjectId(id((1 << 40) | (n / 100 * 100)).0));
                assert_eq!(l.envelope as u64, n % 100 / 10);
            }
            assert!(lookup.find(&id(20_001), &mut w).unwrap().is_none());
        };
        check(&lookup);
        drop(lookup);
        let (mut again, covered) = Lookup::open(dir.path(), false, &present).unwrap();
        assert_eq!(covered, present);
        check(&again);
        let mut w = Window::default();
        again
            .set_unusable(HashSet::from([ObjectId(id(1 << 40 | 300).0)]))
            .unwrap();
        assert!(!again.contains(&id(305), &mut w).unwrap());
        assert!(again.contains(&id(405), &mut w).unwrap());
        assert!(again.find(&id(305), &mut w).unwrap().is_some());
        drop(again);
        // An index object is gone: what covered it is not believed.
        let gone = *present.iter().next().unwrap();
        present.remove(&gone);
        let (_, covered) = Lookup::open(dir.path(), false, &present).unwrap();
        assert!(!covered.contains(&gone));
    }

    #[test]
    fn duplicates_across_and_within_blocks_are_all_found() {
        let dir = tempfile::tempdir().unwrap();
        let mut g = Gather::default();
        for n in 0..150 {
            let (name, ix) = index(n, 0..10);
            g.add(name, &ix).unwrap();
        }
        let part = g.write(dir.path()).unwrap();
        let mut w = Window::default();
        for n in 0..10 {
            assert_eq!(part.find(&id(n), &mut w).unwrap().len(), 150);
        }
    }

    #[test]
    fn a_damaged_part_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let (name, ix) = index(1, 0..1000);
        let mut g = Gather::default();
        g.add(name, &ix).unwrap();
        let path = g.write(dir.path()).unwrap().path;
        let whole = fs::read(&path).unwrap();
        for at in (0..whole.len()).step_by(whole.len() / 50) {
            let mut b = whole.clone();
            b[at] ^= 4;
            fs::write(&path, &b).unwrap();
            assert!(Part::open(&path).is_err(), "{at}");
        }
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        let (l, covered) = Lookup::open(dir.path(), false, &HashSet::from([name])).unwrap();
        assert!(covered.is_empty() && l.is_empty());
    }

    #[test]
    fn impossible_indexes_are_refused() {
        let (name, ok) = index(1, 0..100);
        type Spoil = Box<dyn Fn(&mut Index)>;
        let cases: HashMap<&str, Spoil> = HashMap::from([
            (
                "class",
                Box::new(|i: &mut Index| i.packs[0].class = 7) as Spoil,
            ),
            (
                "kind of other class",
                Box::new(|i: &mut Index| i.packs[0].envelopes[0].kind = 2),
            ),
            ("size", Box::new(|i: &mut Index| i.packs[0].size = u64::MAX)),
            (
                "beyond the pack",
                Box::new(|i: &mut Index| i.packs[0].size = 600),
            ),
            (
                "ids",
                Box::new(|i: &mut Index| i.packs[0].envelopes[0].ids.truncate(1)),
            ),
            (
                "length 0",
                Box::new(|i: &mut Index| i.packs[0].envelopes[0].lengths[0] = 0),
            ),
            (
                "length",
                Box::new(|i: &mut Index| i.packs[0].envelopes[0].lengths[0] = u32::MAX),
            ),
        ]);
        for (what, spoil) in cases {
            let mut i = ok.clone();
            spoil(&mut i);
            assert!(Gather::default().add(name, &i).is_err(), "{what}");
        }
        assert!(Gather::default().add(name, &ok).is_ok());
    }
}

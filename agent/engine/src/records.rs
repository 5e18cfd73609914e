//! The bodies of signed records, as CBOR maps with integer keys (FORMAT.md, sections 3, 5, 6, 8). Unknown keys are skipped, so that a later version may add some.

use keepwatch_model::time::Moment;
use minicbor::data::Type;
use minicbor::decode::Error;
use minicbor::{Decode, Decoder, Encode};

use crate::ids::{ChunkId, ObjectId, OwnerKey, RepositoryId, WriterId};
use crate::limits;

/// The newest format that this program reads and writes.
pub const FORMAT_VERSION: u32 = 1;

/// Body of `config`.
#[derive(Encode, Decode, Clone, Debug)]
#[cbor(map)]
pub struct Config {
    /// Format version.
    #[n(0)]
    pub version: u32,
    /// Repository recipient, `age1…`.
    #[n(1)]
    pub recipient: String,
    /// Who signs `config` and `writers/`.
    #[n(2)]
    pub owner: OwnerKey,
    /// Seconds since 1970.
    #[n(3)]
    pub created: i64,
    /// Minimum, average, maximum length of chunks.
    #[n(4)]
    pub chunker: [u32; 3],
    /// age file to the repository recipient, see [`SealedSecrets`].
    #[cbor(n(5), with = "minicbor::bytes")]
    pub secrets: Vec<u8>,
}

/// What is sealed inside `config` for readers. No `Debug`.
#[derive(Encode, Decode, zeroize::Zeroize, zeroize::ZeroizeOnDrop)]
#[cbor(map)]
pub struct SealedSecrets {
    /// The hash secret.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub hash_secret: [u8; 32],
    /// The host identity.
    #[n(1)]
    pub host_identity: String,
}

/// Body of `writers/<id>`.
#[derive(Encode, Decode, Clone, Debug)]
#[cbor(map)]
pub struct WriterRecord {
    /// Its id.
    #[n(0)]
    pub id: WriterId,
    /// Ed25519.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub public: [u8; 32],
    /// A name for people, usually of the host.
    #[n(2)]
    pub label: String,
    /// Seconds since 1970.
    #[n(3)]
    pub created: i64,
    /// May forget snapshots of other writers, and prune.
    #[n(4)]
    pub maintain: bool,
    /// No longer believed.
    #[n(5)]
    pub revoked: bool,
}

/// Body of `index/<hash>`. Decoded by hand: what it may hold is counted while it is read, since millions of the smallest packs, envelopes or lengths fit into an object.
#[derive(Encode, Clone, Debug, Default)]
#[cbor(map)]
pub struct Index {
    /// The packs it describes.
    #[n(0)]
    pub packs: Vec<IndexedPack>,
}

/// A pack in an index.
#[derive(Encode, Clone, Debug)]
#[cbor(map)]
pub struct IndexedPack {
    /// Its name.
    #[n(0)]
    pub id: ObjectId,
    /// [`crate::ids::PackClass`]
    #[n(1)]
    pub class: u8,
    /// Bytes, footer included.
    #[n(2)]
    pub size: u64,
    /// In their order in the pack.
    #[n(3)]
    pub envelopes: Vec<IndexedEnvelope>,
}

/// An envelope in an index.
#[derive(Encode, Clone, Debug)]
#[cbor(array)]
pub struct IndexedEnvelope {
    /// Bytes of the age file.
    #[n(0)]
    pub length: u32,
    /// [`crate::ids::ChunkKind`]
    #[n(1)]
    pub kind: u8,
    /// 32 bytes per chunk.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub ids: Vec<u8>,
    /// Plaintext lengths.
    #[n(3)]
    pub lengths: Vec<u32>,
}

impl IndexedEnvelope {
    /// The chunk ids in order.
    pub fn chunk_ids(&self) -> impl Iterator<Item = ChunkId> + '_ {
        self.ids
            .chunks_exact(32)
            .map(|c| ChunkId(c.try_into().expect("32 bytes")))
    }
}

impl<'b, C> Decode<'b, C> for Index {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, Error> {
        let mut packs = Vec::new();
        // Chunks that may still come.
        let mut left = limits::INDEX_CHUNKS;
        fields(d, &mut |d, key| match key {
            0 => items(d, &mut |d| {
                if packs.len() >= limits::INDEX_PACKS {
                    return Err(Error::message("an index of too many packs"));
                }
                packs.push(indexed_pack(d, &mut left)?);
                Ok(())
            }),
            _ => d.skip(),
        })?;
        Ok(Index { packs })
    }
}

/// Calls `each` for the key of every field of a map; it reads or skips the value.
fn fields<'b>(
    d: &mut Decoder<'b>,
    each: &mut dyn FnMut(&mut Decoder<'b>, i64) -> Result<(), Error>,
) -> Result<(), Error> {
    let count = d.map()?;
    counted(d, count, &mut |d| {
        let key = d.i64()?;
        each(d, key)
    })
}

/// Calls `each` for every item of an array.
fn items<'b>(
    d: &mut Decoder<'b>,
    each: &mut dyn FnMut(&mut Decoder<'b>) -> Result<(), Error>,
) -> Result<(), Error> {
    let count = d.array()?;
    counted(d, count, each)
}

fn counted<'b>(
    d: &mut Decoder<'b>,
    count: Option<u64>,
    each: &mut dyn FnMut(&mut Decoder<'b>) -> Result<(), Error>,
) -> Result<(), Error> {
    match count {
        Some(n) => (0..n).try_for_each(|_| each(d)),
        None => {
            while d.datatype()? != Type::Break {
                each(d)?;
            }
            d.skip()
        }
    }
}

fn indexed_pack(d: &mut Decoder<'_>, left: &mut usize) -> Result<IndexedPack, Error> {
    let (mut id, mut class, mut size, mut envelopes) = (None, None, None, None);
    fields(d, &mut |d, key| {
        match key {
            0 => id = Some(d.decode::<ObjectId>()?),
            1 => class = Some(d.u8()?),
            2 => size = Some(d.u64()?),
            3 => {
                let mut list = Vec::new();
                items(d, &mut |d| {
                    list.push(indexed_envelope(d, left)?);
                    Ok(())
                })?;
                envelopes = Some(list);
            }
            _ => d.skip()?,
        }
        Ok(())
    })?;
    Ok(IndexedPack {
        id: id.ok_or_else(|| Error::missing_value(0))?,
        class: class.ok_or_else(|| Error::missing_value(1))?,
        size: size.ok_or_else(|| Error::missing_value(2))?,
        envelopes: envelopes.ok_or_else(|| Error::missing_value(3))?,
    })
}

fn indexed_envelope(d: &mut Decoder<'_>, left: &mut usize) -> Result<IndexedEnvelope, Error> {
    let (mut length, mut kind, mut ids, mut lengths) = (None, None, None, None);
    let mut at = 0;
    items(d, &mut |d| {
        at += 1;
        match at {
            1 => length = Some(d.u32()?),
            2 => kind = Some(d.u8()?),
            3 => {
                let bytes = d.bytes()?;
                let chunks = bytes.len() / 32;
                // An envelope holds at least one chunk, so that chunks bound envelopes too.
                if chunks == 0 || chunks > *left {
                    return Err(Error::message(
                        "an envelope of no chunks, or too many chunks",
                    ));
                }
                *left -= chunks;
                ids = Some(bytes.to_vec());
            }
            4 => {
                let most = ids.as_ref().map_or(0, Vec::len) / 32;
                let mut list = Vec::with_capacity(most);
                items(d, &mut |d| {
                    if list.len() >= most {
                        return Err(Error::message("an envelope of more lengths than chunks"));
                    }
                    list.push(d.u32()?);
                    Ok(())
                })?;
                lengths = Some(list);
            }
            _ => d.skip()?,
        }
        Ok(())
    })?;
    Ok(IndexedEnvelope {
        length: length.ok_or_else(|| Error::missing_value(0))?,
        kind: kind.ok_or_else(|| Error::missing_value(1))?,
        ids: ids.ok_or_else(|| Error::missing_value(2))?,
        lengths: lengths.ok_or_else(|| Error::missing_value(3))?,
    })
}

/// An instant with the offset from UTC that the host had.
#[derive(Encode, Decode, Clone, Copy, Debug, PartialEq, Eq)]
#[cbor(array)]
pub struct Stamp {
    /// Seconds since 1970, UTC.
    #[n(0)]
    pub seconds: i64,
    /// 0 to 999,999,999.
    #[n(1)]
    pub nanoseconds: u32,
    /// Seconds east of UTC.
    #[n(2)]
    pub offset: i32,
}

impl From<Moment> for Stamp {
    fn from(m: Moment) -> Self {
        Stamp {
            seconds: m.unix_seconds(),
            nanoseconds: m.subsec_nanos(),
            offset: m.offset_seconds(),
        }
    }
}

impl Stamp {
    /// As a moment; `None` when out of range.
    pub fn moment(&self) -> Option<Moment> {
        Moment::from_parts(self.seconds, self.nanoseconds, self.offset).ok()
    }
}

/// A sequence of items stored as a tree of chunks, see `list`.
#[derive(Encode, Decode, Clone, Debug, Default, PartialEq, Eq)]
#[cbor(map)]
pub struct ListRoot {
    /// Levels of chunks below.
    #[n(0)]
    pub depth: u8,
    /// Items: leaf items at depth 0, else nodes.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub items: Vec<u8>,
    /// Leaf items in all.
    #[n(2)]
    pub count: u64,
}

/// How a run ended, as far as a snapshot can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// Everything that was asked for is in it.
    Succeeded = 0,
    /// Some files could not be read, or changed meanwhile.
    Partial = 1,
}

/// Sums over a snapshot, and what the run that made it did.
#[derive(Encode, Decode, Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[cbor(map)]
pub struct Totals {
    /// Regular files.
    #[n(0)]
    pub files: u64,
    /// Directories.
    #[n(1)]
    pub directories: u64,
    /// Symlinks, devices, fifos, sockets.
    #[n(2)]
    pub others: u64,
    /// Sum of file sizes, holes included.
    #[n(3)]
    pub bytes: u64,
    /// Files that the previous snapshot did not have.
    #[n(4)]
    pub files_new: u64,
    /// Files read again.
    #[n(5)]
    pub files_changed: u64,
    /// Files taken over without reading.
    #[n(6)]
    pub files_unmodified: u64,
    /// Bytes read from files.
    #[n(7)]
    pub bytes_read: u64,
    /// Bytes of packs written, after deduplication, compression and encryption.
    #[n(8)]
    pub bytes_added: u64,
    /// Chunks that the repository did not have.
    #[n(9)]
    pub chunks_new: u64,
    /// Files unreadable, vanished, or changed while they were read.
    #[n(10)]
    pub problems: u64,
}

/// Body of `snapshots/<hash>`: what the writing host may read of a snapshot.
#[derive(Encode, Decode, Clone, Debug)]
#[cbor(map)]
pub struct Snapshot {
    /// Of this writer, from 1.
    #[n(0)]
    pub sequence: u64,
    /// This writer's previous snapshot.
    #[n(1)]
    pub previous: Option<ObjectId>,
    /// When the run began.
    #[n(2)]
    pub start: Stamp,
    /// When it was about to commit.
    #[n(3)]
    pub end: Stamp,
    /// Name of the host.
    #[n(4)]
    pub host: String,
    /// Who ran it.
    #[n(5)]
    pub user: String,
    /// Configured job, if any.
    #[n(6)]
    pub job: Option<String>,
    /// Labels.
    #[n(7)]
    pub tags: Vec<String>,
    /// What was asked to be backed up: absolute paths, or the name of a stream.
    #[n(8)]
    pub paths: Vec<minicbor::bytes::ByteVec>,
    /// [`Outcome`]
    #[n(9)]
    pub outcome: u8,
    /// Sums.
    #[n(10)]
    pub totals: Totals,
    /// List of manifest parts.
    #[n(11)]
    pub manifest: ListRoot,
    /// List of refs.
    #[n(12)]
    pub refs: ListRoot,
    /// What wrote it.
    #[n(13)]
    pub program: String,
    /// 0 files, 1 stream.
    #[n(14)]
    pub source: u8,
    /// Of which snapshot it is a copy.
    #[n(15)]
    pub original: Option<Origin>,
    /// Of a base backup of a PostgreSQL cluster: which, and where in its log.
    #[n(16)]
    pub base: Option<BaseBackup>,
}

/// What WAL a base backup of PostgreSQL needs.
#[derive(Encode, Decode, Clone, Debug, PartialEq, Eq)]
#[cbor(map)]
pub struct BaseBackup {
    /// System identifier of the cluster.
    #[n(0)]
    pub system: u64,
    /// Timeline.
    #[n(1)]
    pub timeline: u32,
    /// Where the replay begins, as a number.
    #[n(2)]
    pub start: u64,
    /// Position of the segment in which it begins: see [`crate::wal_file::Segment`].
    #[n(3)]
    pub segment: u64,
    /// From where on the copy is consistent.
    #[n(4)]
    pub end: u64,
    /// Major version of the server, such as `15`.
    #[n(5)]
    pub version: String,
    /// The segments from start to end are in the snapshot itself.
    #[n(6)]
    pub with_wal: bool,
    /// Of an incremental one: the one that it is built on, and cannot be restored without.
    #[n(7)]
    pub after: Option<Foundation>,
}

/// By what an incremental base backup knows the one before it: the two numbers that the server puts into both. No snapshot's id, which a copy changes.
#[derive(Encode, Decode, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cbor(array)]
pub struct Foundation {
    /// Its timeline.
    #[n(0)]
    pub timeline: u32,
    /// Where its replay begins.
    #[n(1)]
    pub start: u64,
}

impl BaseBackup {
    /// What one that is built on this one says of it.
    pub fn as_foundation(&self) -> Foundation {
        Foundation {
            timeline: self.timeline,
            start: self.start,
        }
    }
}

/// Body of the record in front of a WAL file; see `wal`.
#[derive(Encode, Decode, Clone, Debug, PartialEq, Eq)]
#[cbor(map)]
pub struct WalHead {
    /// System identifier of the cluster.
    #[n(0)]
    pub system: u64,
    /// Its name.
    #[n(1)]
    pub file: String,
    /// When it was pushed. Seconds since 1970.
    #[n(2)]
    pub time: i64,
    /// Bytes of the file.
    #[n(3)]
    pub length: u64,
    /// Keyed hash of its content.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub content: [u8; 32],
    /// Lengths of the envelopes that follow the record.
    #[n(5)]
    pub envelopes: Vec<u32>,
    /// BLAKE3 of all that follows the record.
    #[cbor(n(6), with = "minicbor::bytes")]
    pub sealed: [u8; 32],
    /// Of a history: the timelines from which this one comes, and where each was left, oldest first.
    #[n(7)]
    pub ancestors: Option<Vec<Ancestor>>,
}

/// A timeline that was left for another.
#[derive(Encode, Decode, Clone, Copy, Debug, PartialEq, Eq)]
#[cbor(array)]
pub struct Ancestor {
    /// Which.
    #[n(0)]
    pub timeline: u32,
    /// Where in the log.
    #[n(1)]
    pub switch: u64,
}

/// Where a copied snapshot was made: the first one, however often it was copied on.
#[derive(Encode, Decode, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cbor(array)]
pub struct Origin {
    /// The repository in which it was made.
    #[n(0)]
    pub repository: RepositoryId,
    /// Its id there.
    #[n(1)]
    pub snapshot: ObjectId,
}

/// Body of `tombstones/<hash>`.
#[derive(Encode, Decode, Clone, Debug)]
#[cbor(map)]
pub struct Tombstone {
    /// Seconds since 1970.
    #[n(0)]
    pub time: i64,
    /// The snapshots it hides.
    #[n(1)]
    pub snapshots: Vec<Forgotten>,
    /// The originals of those among them that are copies: `copy` does not bring them again.
    #[n(2)]
    pub origins: Option<Vec<Origin>>,
}

impl Tombstone {
    /// A tombstone; `origins` may be empty.
    pub fn new(time: i64, snapshots: Vec<Forgotten>, origins: Vec<Origin>) -> Self {
        Tombstone {
            time,
            snapshots,
            origins: (!origins.is_empty()).then_some(origins),
        }
    }
}

/// A forgotten snapshot.
#[derive(Encode, Decode, Clone, Copy, Debug, PartialEq, Eq)]
#[cbor(array)]
pub struct Forgotten {
    /// Its id.
    #[n(0)]
    pub id: ObjectId,
    /// Its writer.
    #[n(1)]
    pub writer: WriterId,
    /// Its number.
    #[n(2)]
    pub sequence: u64,
}

/// Body of `marks/<hash>`.
#[derive(Encode, Decode, Clone, Debug)]
#[cbor(map)]
pub struct Marks {
    /// Seconds since 1970.
    #[n(0)]
    pub time: i64,
    /// Packs that the next prune but one deletes.
    #[n(1)]
    pub packs: Vec<ObjectId>,
}

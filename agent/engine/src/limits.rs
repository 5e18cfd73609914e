//! Bounds on everything that is read from a repository, which is foreign data (FORMAT.md, section 9), and on our own queues.
//!
//! Each constant says what it costs in memory when it is reached.

/// A signed record as stored: config, writer, index, snapshot, tombstone, marks.
pub const RECORD_BYTES: usize = 64 << 20;
/// Decompressed body of a record other than an index.
pub const RECORD_CONTENT_BYTES: usize = 8 << 20;
/// Decompressed body of an index object.
pub const INDEX_CONTENT_BYTES: usize = 96 << 20;
/// Decompressed body of a snapshot.
pub const SNAPSHOT_CONTENT_BYTES: usize = 1 << 20;
/// Chunks in one index object: 56 bytes each, and 130 more where each has an envelope of its own.
pub const INDEX_CHUNKS: usize = 1 << 20;
/// Packs in one index object, 72 bytes each: 18 MiB. Writers begin a new object long before.
pub const INDEX_PACKS: usize = 1 << 18;
/// age header of any object; read before anything else of it is trusted.
pub const AGE_HEADER_BYTES: usize = 64 << 10;
/// log2 of the scrypt work factor that we are willing to compute (1 GiB of memory at r = 8).
pub const SCRYPT_LOG_N: u8 = 20;
/// A pack as stored.
pub const PACK_BYTES: u64 = 256 << 20;
/// Envelopes in a pack.
pub const PACK_ENVELOPES: usize = 65_535;
/// Ciphertext of one envelope.
pub const ENVELOPE_BYTES: usize = 32 << 20;
/// Plaintext content of one envelope.
pub const ENVELOPE_CONTENT: usize = 16 << 20;
/// Chunks in one envelope.
pub const ENVELOPE_CHUNKS: usize = 65_536;
/// Plaintext of a chunk.
pub const CHUNK_BYTES: usize = 8 << 20;
/// log2 of the zstd window: 8 MiB.
pub const ZSTD_WINDOW_LOG: u32 = 23;
/// Levels of a list.
pub const LIST_DEPTH: u8 = 8;
/// Items that stand in a snapshot itself.
pub const LIST_ROOT_ITEMS: usize = 8192;
/// Manifest parts of one snapshot, 56 bytes each: 56 MiB when reached, which is half a billion entries.
pub const MANIFEST_PARTS: u64 = 1 << 20;
/// A stored path, and its components.
pub const PATH_BYTES: usize = 4096;
/// Components of a path.
pub const PATH_DEPTH: usize = 2048;
/// One component.
pub const NAME_BYTES: usize = 255;
/// All extended attributes of one entry, names and values.
pub const XATTR_BYTES: usize = 1 << 20;
/// Holes recorded for one file; a file with more is stored with its zeros.
pub const HOLES: usize = 65_536;
/// One key file, `keys/<name>.age`.
pub const KEY_FILE_BYTES: usize = 128 << 10;
/// A file of PostgreSQL's write-ahead log. A segment has 16 MiB by default and 1 GiB at most; one is held in memory, four times over while it is sealed.
pub const WAL_FILE_BYTES: u64 = 1 << 30;
/// The same as stored.
pub const WAL_OBJECT_BYTES: u64 = WAL_FILE_BYTES + (64 << 20);
/// The record in front of a stored WAL file.
pub const WAL_HEAD_BYTES: u64 = 16 << 10;
/// Decompressed body of that record.
pub const WAL_HEAD_CONTENT: usize = 64 << 10;
/// Timelines from which one comes that are noted with its history: 16 bytes each.
pub const WAL_ANCESTORS: usize = 1000;

//! The second half of the pipeline: from new chunks to stored packs and indexes.
//!
//! ```text
//! readers ──drafts──▶ sealers ──sealed──▶ packer ──packs──▶ uploaders ──▶ store, then index
//! (claim ids)         zstd, age           ~16 MiB            put, fsync
//! ```
//!
//! Every arrow is a bounded channel, so reading waits for storing. Memory on c cores: drafts (each reader gathers one, c queued, c in work) and the
//! sealers' output (c in work, c queued), each of at most [`GATHERED`] and a chunk, 2.75 MiB; zstd's tables (3 MiB each); packs of 17 MiB: one being filled for each
//! class (lists hardly fill one), [`UPLOADS`] in flight. On two cores about 100 MiB; measured with the program and its file lists: BENCHMARKS.md.
//!
//! A chunk is *claimed* before it is read into a draft: the first to claim an id stores it, all others take it as stored. Claims of chunks whose index is not
//! yet written live in memory (at most [`INDEX_CHUNKS`] and what is in flight); as soon as an index object is stored they are found in a local part.

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, RwLock};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::envelope::{Draft, Sealed, Sealer};
use crate::ids::{ChunkId, ChunkKind, ObjectId, PackClass};
use crate::lookup::{Gather, Lookup, Window};
use crate::object::{ContentError, ObjectError};
use crate::pack::{Finished, Packer};
use crate::progress::Cancel;
use crate::records::{Index, IndexedPack};
use crate::repository::{PutError, Repository};
use crate::store::{Area, Name};

/// Packs in flight to a store that is near, 17 MiB each. To one behind a network: an eighth of the calls that it takes at once.
const UPLOADS: usize = 2;
/// An index object is also written when the last one is so old and [`INDEX_PACKS`] packs are stored, so that a slow first backup that is interrupted goes on where it was.
const INDEX_AGE: Duration = Duration::from_secs(60);
/// See [`INDEX_AGE`].
const INDEX_PACKS: usize = 4;
/// An index object is written when so many chunks are stored and not yet indexed: 64 bytes each in memory.
const INDEX_CHUNKS: usize = 60_000;
/// A chunk of at least this length makes an envelope by itself; smaller ones are gathered. Together they compress better; but `prune` copies whole envelopes, and
/// the more chunks share one, the longer it takes until none of them is needed (measured: BENCHMARKS.md, "Envelopes").
pub const ALONE: usize = 768 << 10;
/// Gathered content that makes an envelope.
pub const GATHERED: usize = 768 << 10;
/// The same for lists. Ids do not compress, so long envelopes would save nothing; and `prune` reads single lists out of the envelopes of many days, each
/// of which it must open whole.
pub const GATHERED_LISTS: usize = 128 << 10;

/// Why the pipeline stopped.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// A pack or an index could not be stored.
    #[error(transparent)]
    Put(#[from] PutError),
    /// The local index could not be used.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// zstd refused its parameters.
    #[error("compression failed: {0}")]
    Compress(std::io::Error),
    /// What was stored reads differently.
    #[error(
        "{0} was stored but reads back differently; nothing relies on it, but the storage is not to be trusted"
    )]
    ReadBack(Name),
    /// Another thread failed, and says why.
    #[error("the run was stopped")]
    Stopped,
}

/// What is done with finished packs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Stored and indexed.
    Store,
    /// Read back whole after they were stored; only those that read as they were written are indexed. The same with the index.
    ReadBack,
    /// Counted.
    Dry,
}

/// Shared by all threads of a run.
pub struct Sink<'a> {
    repository: &'a Repository,
    lookup: RwLock<Lookup>,
    /// Claimed in this run, index not yet written.
    pending: Mutex<HashSet<ChunkId>>,
    stored: Mutex<Vec<IndexedPack>>,
    reading_back: Mutex<()>,
    /// When the last index object was written. It decides only how much an interruption costs.
    indexed_at: Mutex<Instant>,
    drafts: Sender<Draft>,
    stop: AtomicBool,
    error: Mutex<Option<SinkError>>,
    cancel: &'a Cancel,
    mode: Mode,
    /// Bytes of packs and index objects stored (or, in a dry run, that would be).
    pub bytes_added: AtomicU64,
    /// Packs stored.
    pub packs: AtomicU64,
    /// New chunks of all kinds.
    pub chunks_new: AtomicU64,
    /// Index objects written in this run.
    pub indexes: Mutex<Vec<ObjectId>>,
}

impl<'a> Sink<'a> {
    /// Runs `feed` with the pipeline behind it; everything that was submitted is stored and indexed when the second half is `Ok`.
    pub fn run<T: Send>(
        repository: &'a Repository,
        lookup: Lookup,
        level: i32,
        threads: usize,
        mode: Mode,
        cancel: &'a Cancel,
        feed: impl FnOnce(&Sink<'a>) -> T,
    ) -> (T, Result<(Lookup, Stored), SinkError>) {
        let (drafts, drafts_out) = bounded::<Draft>(threads);
        let (sealed_in, sealed_out) = bounded::<Sealed>(threads);
        let (packs_in, packs_out) = bounded::<Finished>(0);
        let sink = Sink {
            repository,
            lookup: RwLock::new(lookup),
            pending: Mutex::default(),
            stored: Mutex::default(),
            reading_back: Mutex::default(),
            indexed_at: Mutex::new(Instant::now()),
            drafts,
            stop: AtomicBool::new(false),
            error: Mutex::new(None),
            cancel,
            mode,
            bytes_added: AtomicU64::new(0),
            packs: AtomicU64::new(0),
            chunks_new: AtomicU64::new(0),
            indexes: Mutex::default(),
        };
        // The sink itself holds a sender; the stages end when the feed is over and a closing draft of no chunks has passed for each sealer.
        let out = std::thread::scope(|scope| {
            let s = &sink;
            for _ in 0..threads {
                let (input, output) = (drafts_out.clone(), sealed_in.clone());
                scope.spawn(move || s.guard(|| s.seal(&input, &output, level)));
            }
            drop((drafts_out, sealed_in));
            scope.spawn(move || s.guard(|| s.fill(&sealed_out, &packs_in)));
            let uploads = match mode {
                // What is read back takes as much again.
                Mode::ReadBack => 1,
                Mode::Store | Mode::Dry => UPLOADS.max(repository.store().connections() / 8),
            };
            for _ in 0..uploads {
                let input = packs_out.clone();
                scope.spawn(move || s.guard(|| s.upload(&input)));
            }
            drop(packs_out);
            let out = feed(s);
            for _ in 0..threads {
                let _ = s.drafts.send(Draft::new(ChunkKind::Data));
            }
            out
        });
        let end = || -> Result<(Lookup, Stored), SinkError> {
            let failed = lock(&sink.error).take();
            if failed.is_some() || sink.is_stopped() {
                // What is stored already is indexed, so that the next run need not store it again. If that fails, it must.
                if let Err(e) = sink.write_index(true) {
                    tracing::debug!("what was stored before the end is not indexed: {e}");
                }
                return Err(failed.unwrap_or(SinkError::Stopped));
            }
            sink.write_index(true)?;
            let stored = Stored {
                bytes_added: sink.bytes_added.into_inner(),
                packs: sink.packs.into_inner(),
                chunks_new: sink.chunks_new.into_inner(),
                indexes: sink.indexes.into_inner().unwrap_or_else(|e| e.into_inner()),
            };
            Ok((
                sink.lookup.into_inner().unwrap_or_else(|e| e.into_inner()),
                stored,
            ))
        };
        (out, end())
    }

    /// Runs a stage; its failure stops all.
    fn guard(&self, stage: impl FnOnce() -> Result<(), SinkError>) {
        if let Err(e) = stage() {
            self.fail(e);
        }
    }

    /// Records the first failure and stops the run.
    pub fn fail(&self, e: SinkError) {
        let mut slot = lock(&self.error);
        if slot.is_none() && !matches!(e, SinkError::Stopped) {
            *slot = Some(e);
        }
        self.stop.store(true, Ordering::SeqCst);
    }

    /// True when the run failed or was asked to stop.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.cancel.is_cancelled()
    }

    /// True when the caller is to store this chunk; false when it is stored or another thread is at it.
    pub fn claim(&self, id: &ChunkId, window: &mut Window) -> Result<bool, SinkError> {
        // In this order: an id moves from `pending` to the lookup when its index is written, never back; the lookup lock is held over both looks.
        let lookup = self.lookup.read().unwrap_or_else(|e| e.into_inner());
        if lookup.contains(id, window).map_err(cache_error)? {
            return Ok(false);
        }
        let new = lock(&self.pending).insert(*id);
        if new {
            self.chunks_new.fetch_add(1, Ordering::Relaxed);
        }
        Ok(new)
    }

    /// True when a usable copy is stored or on its way.
    pub fn knows(&self, id: &ChunkId, window: &mut Window) -> Result<bool, SinkError> {
        let lookup = self.lookup.read().unwrap_or_else(|e| e.into_inner());
        Ok(lookup.contains(id, window).map_err(cache_error)? || lock(&self.pending).contains(id))
    }

    /// Hands a draft over.
    pub fn submit(&self, draft: Draft) -> Result<(), SinkError> {
        if draft.is_empty() {
            return Ok(());
        }
        if self.is_stopped() {
            return Err(SinkError::Stopped);
        }
        self.drafts.send(draft).map_err(|_| SinkError::Stopped)
    }

    fn seal(
        &self,
        input: &Receiver<Draft>,
        output: &Sender<Sealed>,
        level: i32,
    ) -> Result<(), SinkError> {
        let mut sealer = Sealer::new(level).map_err(SinkError::Compress)?;
        for draft in input {
            if draft.is_empty() {
                break;
            }
            if self.is_stopped() {
                continue; // Drain, so that nobody waits for us.
            }
            let to = match draft.kind.class() {
                PackClass::Content => self.repository.recipient(),
                PackClass::Lists => self.repository.host_recipient(),
            };
            match sealer.seal(&draft, to) {
                Ok(sealed) => drop(output.send(sealed)),
                Err(e) => self.fail(SinkError::Compress(e)),
            }
        }
        Ok(())
    }

    fn fill(&self, input: &Receiver<Sealed>, output: &Sender<Finished>) -> Result<(), SinkError> {
        let mut content = Packer::new(PackClass::Content);
        let mut lists = Packer::new(PackClass::Lists);
        for sealed in input {
            if self.is_stopped() {
                continue;
            }
            let class = sealed.kind.class();
            let packer = if class == PackClass::Content {
                &mut content
            } else {
                &mut lists
            };
            packer.push(&sealed);
            if packer.is_full() {
                let full = std::mem::replace(packer, Packer::new(class));
                let _ = output.send(full.finish());
            }
        }
        for last in [content, lists] {
            if !last.is_empty() && !self.is_stopped() {
                let _ = output.send(last.finish());
            }
        }
        Ok(())
    }

    fn upload(&self, input: &Receiver<Finished>) -> Result<(), SinkError> {
        for pack in input {
            if self.is_stopped() {
                continue;
            }
            let length = pack.bytes.len() as u64;
            let put = || -> Result<(), SinkError> {
                if self.mode != Mode::Dry {
                    self.repository
                        .store()
                        .put_owned(&Name::Pack(pack.id), pack.bytes)
                        .map_err(PutError::from)?;
                }
                self.check(Name::Pack(pack.id), pack.id, length)?;
                self.bytes_added.fetch_add(length, Ordering::Relaxed);
                self.packs.fetch_add(1, Ordering::Relaxed);
                lock(&self.stored).push(pack.indexed);
                self.write_index(false)
            };
            if let Err(e) = put() {
                self.fail(e);
            }
        }
        Ok(())
    }

    /// Reads back what was stored a moment ago, when that is asked for.
    fn check(&self, name: Name, id: ObjectId, length: u64) -> Result<(), SinkError> {
        if self.mode == Mode::ReadBack {
            // One at a time: a pack of 17 MiB.
            let _one = lock(&self.reading_back);
            let there = self
                .repository
                .store()
                .get(&name, length)
                .map_err(PutError::from)?;
            if ObjectId::of(&there) != id {
                return Err(SinkError::ReadBack(name));
            }
        }
        Ok(())
    }

    /// Writes an index object for the packs stored since the last one, and makes them known to the lookup.
    fn write_index(&self, last: bool) -> Result<(), SinkError> {
        let packs = {
            let mut stored = lock(&self.stored);
            let chunks: usize = stored
                .iter()
                .flat_map(|p| &p.envelopes)
                .map(|e| e.lengths.len())
                .sum();
            let mut since = lock(&self.indexed_at);
            let old = stored.len() >= INDEX_PACKS && since.elapsed() >= INDEX_AGE;
            if stored.is_empty() || (!last && chunks < INDEX_CHUNKS && !old) {
                return Ok(());
            }
            *since = Instant::now();
            std::mem::take(&mut *stored)
        };
        if self.mode == Mode::Dry {
            return Ok(());
        }
        let index = Index { packs };
        let (bytes, id) = self.repository.make_record(Area::Index, &index)?;
        self.repository
            .store()
            .put(&Name::Index(id), &bytes)
            .map_err(PutError::from)?;
        self.check(Name::Index(id), id, bytes.len() as u64)?;
        self.bytes_added
            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        lock(&self.indexes).push(id);
        let mut gather = Gather::default();
        gather.add(id, &index).map_err(|e| {
            ObjectError::content(Name::Index(id), ContentError::Decode(e.to_string()))
        })?;
        let dir = self
            .lookup
            .read()
            .unwrap_or_else(|e| e.into_inner())
            .dir()
            .to_owned();
        let part = gather.write(Path::new(&dir)).map_err(cache_error)?;
        let mut lookup = self.lookup.write().unwrap_or_else(|e| e.into_inner());
        lookup.add(part).map_err(cache_error)?;
        let mut pending = lock(&self.pending);
        for id in index
            .packs
            .iter()
            .flat_map(|p| &p.envelopes)
            .flat_map(|e| e.chunk_ids())
        {
            pending.remove(&id);
        }
        Ok(())
    }
}

/// What a run stored.
pub struct Stored {
    /// Bytes of packs and index objects.
    pub bytes_added: u64,
    /// Packs.
    pub packs: u64,
    /// New chunks.
    pub chunks_new: u64,
    /// Index objects.
    pub indexes: Vec<ObjectId>,
}

fn cache_error(e: std::io::Error) -> SinkError {
    SinkError::Object(ObjectError::content(
        "index",
        ContentError::Cache(e.to_string()),
    ))
}

fn lock<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A poisoned lock means that another thread panicked, which the scope reports; the data is still whole for our purposes.
    m.lock().unwrap_or_else(|e| e.into_inner())
}

/// Gathers the chunks of one thread and one kind into envelopes.
pub struct Gatherer {
    draft: Draft,
}

impl Gatherer {
    /// For chunks of a kind.
    pub fn new(kind: ChunkKind) -> Self {
        Gatherer {
            draft: Draft::new(kind),
        }
    }

    /// Adds a chunk that was claimed.
    pub fn push(&mut self, sink: &Sink<'_>, id: ChunkId, plain: &[u8]) -> Result<(), SinkError> {
        if plain.len() >= ALONE {
            let mut alone = Draft::new(self.draft.kind);
            alone.push(id, plain);
            return sink.submit(alone);
        }
        self.draft.push(id, plain);
        let enough = match self.draft.kind {
            ChunkKind::List => GATHERED_LISTS,
            ChunkKind::Data | ChunkKind::Manifest => GATHERED,
        };
        if self.draft.content.len() >= enough
            || self.draft.ids.len() >= crate::limits::ENVELOPE_CHUNKS / 2
        {
            self.flush(sink)?;
        }
        Ok(())
    }

    /// Hands over what is gathered.
    pub fn flush(&mut self, sink: &Sink<'_>) -> Result<(), SinkError> {
        let kind = self.draft.kind;
        let next = Draft {
            content: Vec::with_capacity(self.draft.content.len().min(GATHERED + ALONE)),
            ..Draft::new(kind)
        };
        sink.submit(std::mem::replace(&mut self.draft, next))
    }
}

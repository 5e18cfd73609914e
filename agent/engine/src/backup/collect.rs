//! The end of the first half of the pipeline: entries in order become manifest, refs, and the local cache.

use crate::ids::{ChunkId, ChunkKind};
use crate::list::{Form, ListWriter, Part};
use crate::lookup::Window;
use crate::manifest::{self, Entry, EntryKind};
use crate::records::{ListRoot, Totals};
use crate::repository::Repository;

use super::cache::{CacheWriter, Cached, Fingerprint};
use super::sink::{Gatherer, Sink, SinkError};

/// How an entry compares with last time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// Was not there.
    New,
    /// Is different.
    Changed,
    /// Is the same.
    Unmodified,
}

/// An entry ready to be recorded.
pub enum Ready {
    /// Taken over from the cache without a look inside.
    Kept(Cached, EntryKind),
    /// Looked at.
    Fresh {
        /// Metadata, number of refs set.
        entry: Box<Entry>,
        /// To tell a change next time.
        fingerprint: Fingerprint,
        /// Ids, 32 bytes each.
        chunks: Vec<u8>,
        /// Compared with last time.
        status: Status,
    },
}

impl Ready {
    /// Its path.
    pub fn path(&self) -> &[u8] {
        match self {
            Ready::Kept(cached, _) => &cached.path,
            Ready::Fresh { entry, .. } => &entry.path,
        }
    }
}

/// Records entries in order.
pub struct Collector<'a> {
    repository: &'a Repository,
    sink: &'a Sink<'a>,
    cache: CacheWriter,
    window: Window,
    manifest: Vec<u8>,
    entries: u32,
    refs_in_chunk: u32,
    parts: ListWriter,
    refs: ListWriter,
    manifests: Gatherer,
    lists: Gatherer,
    /// Ids of manifest and list chunks that this snapshot needs.
    metadata: Vec<ChunkId>,
    totals: Totals,
}

/// What came of it.
pub struct Collected {
    /// List of manifest parts.
    pub manifest: ListRoot,
    /// List of refs.
    pub refs: ListRoot,
    /// Counts of entries.
    pub totals: Totals,
    /// The new cache, finished, not yet in place.
    pub cache: CacheWriter,
    /// Ids of manifest and list chunks.
    pub metadata: Vec<ChunkId>,
}

/// Failing to record.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// The pipeline stopped.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// The local cache cannot be written.
    #[error("the local cache cannot be written: {0}")]
    Cache(#[from] std::io::Error),
    /// A stream has the path of a file that appeared meanwhile.
    #[error("there is a file where a stream would stand: /{}", String::from_utf8_lossy(.0))]
    Twice(Vec<u8>),
}

/// Stores a metadata chunk unless it is there.
fn store(
    repository: &Repository,
    sink: &Sink<'_>,
    window: &mut Window,
    gatherer: &mut Gatherer,
    metadata: &mut Vec<ChunkId>,
    kind: ChunkKind,
    plain: &[u8],
) -> Result<ChunkId, SinkError> {
    let id = repository.hash().id(kind, plain);
    if sink.claim(&id, window)? {
        gatherer.push(sink, id, plain)?;
    }
    metadata.push(id);
    Ok(id)
}

impl<'a> Collector<'a> {
    /// Begins a snapshot.
    pub fn new(repository: &'a Repository, sink: &'a Sink<'a>, cache: CacheWriter) -> Self {
        Collector {
            repository,
            sink,
            cache,
            window: Window::default(),
            manifest: Vec::new(),
            entries: 0,
            refs_in_chunk: 0,
            parts: ListWriter::new(Form::Parts),
            refs: ListWriter::new(Form::Refs),
            manifests: Gatherer::new(ChunkKind::Manifest),
            lists: Gatherer::new(ChunkKind::List),
            metadata: Vec::new(),
            totals: Totals::default(),
        }
    }

    /// The next entry.
    pub fn push(&mut self, ready: &Ready) -> Result<(), CollectError> {
        match ready {
            Ready::Kept(c, kind) => {
                self.count(*kind, c.fingerprint.size, Status::Unmodified);
                self.manifest.extend_from_slice(&c.entry);
                self.cache
                    .push(&c.path, &c.fingerprint, &c.entry, &c.chunks)?;
                self.record(&c.path, &c.chunks)
            }
            Ready::Fresh {
                entry,
                fingerprint,
                chunks,
                status,
            } => {
                self.count(entry.kind(), entry.len(), *status);
                let at = self.manifest.len();
                entry.encode_to(&mut self.manifest);
                self.cache
                    .push(&entry.path, fingerprint, &self.manifest[at..], chunks)?;
                self.record(&entry.path, chunks)
            }
        }
    }

    fn count(&mut self, kind: EntryKind, size: u64, status: Status) {
        let t = &mut self.totals;
        match kind {
            EntryKind::File => {
                t.files += 1;
                t.bytes += size;
                match status {
                    Status::New => t.files_new += 1,
                    Status::Changed => t.files_changed += 1,
                    Status::Unmodified => t.files_unmodified += 1,
                }
            }
            EntryKind::Directory => t.directories += 1,
            _ => t.others += 1,
        }
    }

    fn record(&mut self, path: &[u8], chunks: &[u8]) -> Result<(), CollectError> {
        self.entries += 1;
        self.refs_in_chunk += (chunks.len() / 32) as u32;
        let Collector {
            repository,
            sink,
            window,
            lists,
            metadata,
            refs,
            ..
        } = self;
        for id in chunks.chunks_exact(32) {
            refs.push(id, &mut |plain| {
                store(
                    repository,
                    sink,
                    window,
                    lists,
                    metadata,
                    ChunkKind::List,
                    plain,
                )
            })?;
        }
        if manifest::ends_chunk(path, self.entries as usize, self.manifest.len())
            || self.refs_in_chunk > 1 << 30
        {
            self.close()?;
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), CollectError> {
        if self.entries == 0 {
            return Ok(());
        }
        let Collector {
            repository,
            sink,
            window,
            lists,
            manifests,
            metadata,
            parts,
            ..
        } = self;
        let id = store(
            repository,
            sink,
            window,
            manifests,
            metadata,
            ChunkKind::Manifest,
            &self.manifest,
        )?;
        let part = Part {
            id,
            refs: self.refs_in_chunk,
            entries: self.entries,
        }
        .to_bytes();
        parts.push(&part, &mut |plain| {
            store(
                repository,
                sink,
                window,
                lists,
                metadata,
                ChunkKind::List,
                plain,
            )
        })?;
        self.manifest.clear();
        self.entries = 0;
        self.refs_in_chunk = 0;
        Ok(())
    }

    /// Ends the snapshot's streams.
    pub fn finish(mut self) -> Result<Collected, CollectError> {
        self.close()?;
        let Collector {
            repository,
            sink,
            mut window,
            mut lists,
            mut manifests,
            mut metadata,
            parts,
            refs,
            mut cache,
            totals,
            ..
        } = self;
        let mut put = |plain: &[u8]| {
            store(
                repository,
                sink,
                &mut window,
                &mut lists,
                &mut metadata,
                ChunkKind::List,
                plain,
            )
        };
        let manifest = parts.finish(&mut put)?;
        let refs = refs.finish(&mut put)?;
        manifests.flush(sink)?;
        lists.flush(sink)?;
        cache.finish()?;
        Ok(Collected {
            manifest,
            refs,
            totals,
            cache,
            metadata,
        })
    }
}

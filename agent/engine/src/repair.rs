//! `repair`: make the index anew from the packs, and say what snapshots lost.
//!
//! Packs list the lengths of their envelopes in the clear, envelopes list the lengths of their chunks, and ids are computed from content; so whatever index objects were lost
//! is found again by reading packs. Lists open with a writer key, content only with an identity. The new index is stored before an old object is deleted.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::chunks::open_sealed;
use crate::ids::{ChunkKind, ObjectId, PackClass};
use crate::inventory::{Inventory, InventoryError};
use crate::limits;
use crate::object::ObjectError;
use crate::pack;
use crate::progress::{Cancel, Cancelled, Event, Progress};
use crate::records::{Index, IndexedEnvelope, IndexedPack};
use crate::repository::{PutError, Repository};
use crate::store::{Area, Name, StoreError};
use crate::verify::{self, Loss, ReadData, VerifyError};

/// Chunks in one index object. 36 bytes each.
const INDEX_CHUNKS: usize = 65_536;

/// How to repair the index.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Cache directory of this repository.
    pub cache: Option<PathBuf>,
    /// Read all packs and replace all index objects, instead of reading only the packs that no index names.
    pub rebuild_all: bool,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct IndexReport {
    /// Packs read.
    pub packs_read: u64,
    /// Packs that stand in the index now and did not before (with `rebuild_all`: all that stand in the new index).
    pub packs_indexed: u64,
    /// Chunks in them.
    pub chunks: u64,
    /// Packs of content that were not opened, for want of an identity.
    pub packs_sealed: u64,
    /// Index objects written.
    pub indexes_written: u64,
    /// Index objects deleted, replaced by those.
    pub indexes_deleted: u64,
    /// Packs that are damaged, and envelopes in them that are lost.
    pub problems: Vec<String>,
    /// Index objects that were passed over, since they cannot be read.
    pub unreadable: Vec<String>,
}

/// Why the index was not repaired. Nothing was deleted.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// The store.
    #[error("the index was not repaired: {0}; what was there is untouched")]
    Store(#[from] StoreError),
    /// An object.
    #[error("the index was not repaired: {0}; what was there is untouched")]
    Object(#[from] ObjectError),
    /// A record could not be stored.
    #[error("the index was not repaired: {0}; what was there is untouched")]
    Put(#[from] PutError),
    /// The local index.
    #[error("the index was not repaired, since its local copy cannot be used: {0}")]
    Cache(#[from] std::io::Error),
    /// Asked to stop.
    #[error("the repair was stopped on request; what it indexed so far is of use")]
    Cancelled(#[from] Cancelled),
}

impl From<InventoryError> for RepairError {
    fn from(e: InventoryError) -> Self {
        match e {
            InventoryError::Store(e) => RepairError::Store(e),
            InventoryError::Cache(e) => RepairError::Cache(e),
        }
    }
}

struct Output<'a> {
    repository: &'a Repository,
    index: Index,
    chunks: usize,
    written: BTreeSet<ObjectId>,
}

impl Output<'_> {
    fn push(&mut self, pack: IndexedPack) -> Result<(), RepairError> {
        let chunks: usize = pack.envelopes.iter().map(|e| e.lengths.len()).sum();
        if self.chunks > 0 && self.chunks + chunks > INDEX_CHUNKS {
            self.finish()?;
        }
        self.chunks += chunks;
        self.index.packs.push(pack);
        Ok(())
    }
    fn finish(&mut self) -> Result<(), RepairError> {
        let index = std::mem::take(&mut self.index);
        self.chunks = 0;
        if !index.packs.is_empty() {
            self.written
                .insert(self.repository.put_record(Area::Index, &index)?);
        }
        Ok(())
    }
}

/// Indexes packs that no index names, or all packs. Needs a writer key; content packs also need an identity.
pub fn index(
    repository: &Repository,
    options: &Options,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<IndexReport, RepairError> {
    if repository.writer().is_none() {
        return Err(PutError::NeedsWriter.into());
    }
    progress.event(Event::Phase("reading the index"));
    let mut old = BTreeSet::new();
    repository
        .store()
        .list(Area::Index, &mut |l| old.extend(l.name.object_id()))?;
    let (lookup, problems) = repository.load_index(options.cache.as_deref())?;
    let inventory = Inventory::load(&**repository.store(), &lookup)?;
    let mut report = IndexReport {
        unreadable: problems.iter().map(ToString::to_string).collect(),
        ..IndexReport::default()
    };
    let wanted: Vec<_> = inventory
        .packs
        .iter()
        .filter(|p| p.stored.is_some() && (options.rebuild_all || !p.indexed))
        .collect();
    progress.event(Event::Phase("reading packs"));
    progress.event(Event::Total {
        items: wanted.len() as u64,
        bytes: wanted.iter().filter_map(|p| p.stored).sum(),
    });
    let mut out = Output {
        repository,
        index: Index::default(),
        chunks: 0,
        written: BTreeSet::new(),
    };
    // Packs that could be replaced in the index only by less than it says now.
    let mut short = false;
    for p in wanted {
        if cancel.is_cancelled() {
            out.finish()?;
            return Err(Cancelled.into());
        }
        let name = Name::Pack(p.id);
        let bytes = match repository.store().get(&name, limits::PACK_BYTES) {
            Ok(b) => b,
            Err(e) if e.is_missing() => continue, // pruned meanwhile
            Err(e) => {
                short = true;
                report.problems.push(e.to_string());
                continue;
            }
        };
        report.packs_read += 1;
        progress.event(Event::Done {
            items: 1,
            bytes: bytes.len() as u64,
        });
        if ObjectId::of(&bytes) != p.id {
            short = true;
            report.problems.push(format!(
                "{name}: its bytes do not have the hash that is its name; what still opens in it is indexed"
            ));
        }
        let Some((class, lengths)) = pack::footer(&bytes) else {
            short = true;
            report.problems.push(format!(
                "{name}: its footer is malformed; it is passed over"
            ));
            continue;
        };
        if class == PackClass::Content && repository.reader().is_none() {
            short = true;
            report.packs_sealed += 1;
            continue;
        }
        let envelopes = open_all(repository, p.id, class, &bytes, &lengths, &mut report);
        short |= envelopes.iter().any(|e| e.lengths.is_empty());
        if envelopes.iter().all(|e| e.lengths.is_empty()) {
            continue;
        }
        report.packs_indexed += 1;
        report.chunks += envelopes
            .iter()
            .map(|e| e.lengths.len() as u64)
            .sum::<u64>();
        out.push(IndexedPack {
            id: p.id,
            class: class as u8,
            size: bytes.len() as u64,
            envelopes,
        })?;
    }
    out.finish()?;
    report.indexes_written = out.written.len() as u64;
    if options.rebuild_all {
        if short {
            report.problems.push(
                "the old index objects stay, since not every pack could be read whole: in doubt, keep".into(),
            );
        } else {
            for id in old.difference(&out.written) {
                repository.store().delete(&Name::Index(*id))?;
                report.indexes_deleted += 1;
            }
        }
    }
    Ok(report)
}

/// Opens every envelope of a pack. One that does not open is listed without chunks, so that those after it keep their places.
fn open_all(
    repository: &Repository,
    id: ObjectId,
    class: PackClass,
    bytes: &[u8],
    lengths: &[u32],
    report: &mut IndexReport,
) -> Vec<IndexedEnvelope> {
    let kinds: &[ChunkKind] = match class {
        PackClass::Content => &[ChunkKind::Data, ChunkKind::Manifest],
        PackClass::Lists => &[ChunkKind::List],
    };
    let mut at = 0usize;
    let mut out = Vec::with_capacity(lengths.len());
    for (number, &length) in lengths.iter().enumerate() {
        // Within the pack: the footer was checked.
        let sealed = &bytes[at..at + length as usize];
        at += length as usize;
        let mut last = None;
        let opened =
            kinds
                .iter()
                .find_map(|kind| match open_sealed(repository, id, *kind, sealed) {
                    Ok(o) => Some(o),
                    Err(e) => {
                        last = Some(e);
                        None
                    }
                });
        let envelope = match opened {
            Some(o) => IndexedEnvelope {
                length,
                kind: o.kind as u8,
                ids: o
                    .chunks()
                    .flat_map(|c| repository.hash().id(o.kind, c).0)
                    .collect(),
                lengths: o.lengths.clone(),
            },
            None => {
                let why = last.map(|e| e.to_string()).unwrap_or_default();
                report.problems.push(format!(
                    "envelope {number} of pack {} is lost: {why}",
                    id.short()
                ));
                IndexedEnvelope {
                    length,
                    kind: kinds[0] as u8,
                    ids: Vec::new(),
                    lengths: Vec::new(),
                }
            }
        };
        out.push(envelope);
    }
    out
}

/// What each live snapshot lost: those that are whole are not named. Files by name with an identity. Reads no pack of content.
pub fn snapshots(
    repository: &Repository,
    cache: Option<&Path>,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Vec<Loss>, VerifyError> {
    Ok(verify::run(repository, cache, ReadData::No, 0, progress, cancel)?.losses)
}

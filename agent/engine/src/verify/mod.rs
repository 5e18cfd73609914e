//! `verify`: is everything there, whole, and what it should be; and if not, which snapshots and files are hit.
//!
//! 1. **Objects.** `config`, writers, index, snapshots, tombstones and marks are read from the store, never from a cache: hash, frame, signature, seal, content. Key files are
//!    looked at from outside (only their owner can open them; damage inside one shows when it is used). The chain of each writer's snapshots must have no gap.
//! 2. **Packs.** Each one that an index names must be there, as long as it says. With [`ReadData`] they are read: the hash must be the name, the footer must agree with the index,
//!    and every envelope that we can open (lists with a writer key, all with an identity) must hold chunks with the lengths and ids that the index gives.
//! 3. **Snapshots.** Every list chunk is read, and every chunk that a list names must have a copy in sound condition. With an identity the manifests are decoded, and the files that lost chunks belong to are
//!    named. A chunk with one sound copy is not lost.
//!
//! Without an identity a damaged pack counts as lost whole, since one cannot tell which envelope is hit; with one, only the envelopes that do not open.
//!
//! Memory: the inventory (60 MB for ten terabytes), bits, the rows of a batch of packs (16 MB), and for each core one pack and one envelope (normally 16 + 4 MiB; packs
//! above 32 MiB are read one at a time). Lost places: at most [`LOST_KEPT`].

mod examine;
mod findings;
mod wal;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::Mutex;

use crossbeam_channel::bounded;
use keepwatch_model::time::Moment;

use crate::chunks::{ChunkReader, open_sealed};
use crate::ids::{ChunkId, ChunkKind, ObjectId};
use crate::inventory::{Bits, Content, Inventory, InventoryError};
use crate::limits;
use crate::list::{self, Form, Part};
use crate::lookup::{Lookup, Window};
use crate::manifest;
use crate::marks;
use crate::object::{ContentError, ObjectError};
use crate::pack;
use crate::progress::{Cancel, Cancelled, Event, Problem, Progress};
use crate::records::{ListRoot, Marks};
use crate::repository::Repository;
use crate::snapshots::SnapshotRecord;
use crate::store::{Area, Name, StoreError, list_all};

use examine::*;
use findings::*;

/// Paths named for each damage and each loss. About 100 bytes each.
const FILES_KEPT: usize = 10_000;
/// Damages told apart; further ones are counted in the last. About 300 bytes each.
const DAMAGES_KEPT: usize = 20_000;
/// Bad places within packs told apart: 12 bytes each; a pack with more is bad as a whole.
const BAD_KEPT: usize = 2 << 20;
/// Runs of lost refs kept for a snapshot: 24 bytes each.
const LOST_KEPT: usize = 1 << 20;
/// List chunks that are gone through once more, because a list names them again, to find out exactly what is lost; beyond that all beneath them counts as lost. A tree of
/// eight levels that repeats itself would be endless.
const AGAIN: u64 = 1024;
/// Ids looked up together: 32 bytes each, 4 MiB.
const BATCH: usize = 128 << 10;
/// Larger packs are read one at a time.
const LARGE_PACK: u64 = 32 << 20;
/// Times the index is loaded again because a prune changes it meanwhile.
const ATTEMPTS: usize = 4;
/// Threads that read packs, at most.
const THREADS: usize = 8;
/// Stands for a whole envelope among bad places.
const WHOLE: u32 = u32::MAX;

/// How much of the packs is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadData {
    /// Only lists and, with an identity, manifests.
    No,
    /// Every pack.
    All,
    /// So many of a hundred packs, chosen by the seed.
    Percent(u8),
}

/// Something that is not as it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Damage {
    /// The object: `packs/…`, `snapshots/…`; `index/` for chunks that no index names.
    pub object: String,
    /// What is wrong with it.
    pub what: String,
    /// Live snapshots that cannot be restored whole because of it.
    pub snapshots: Vec<ObjectId>,
    /// With an identity: the files that are hit, sorted; at most 10,000.
    #[serde(serialize_with = "lossy")]
    pub files: Vec<Vec<u8>>,
    /// More files than these are hit.
    pub files_cut: bool,
}

fn lossy<S: serde::Serializer>(paths: &[Vec<u8>], s: S) -> Result<S::Ok, S::Error> {
    s.collect_seq(paths.iter().map(|p| String::from_utf8_lossy(p)))
}

/// What a snapshot lost.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Loss {
    /// Which snapshot.
    pub snapshot: ObjectId,
    /// Its host.
    pub host: String,
    /// When it was made.
    #[serde(serialize_with = "shown")]
    pub time: Moment,
    /// Places in its content whose chunk is lost.
    pub refs: u64,
    /// Parts of its list of files that are lost or unreadable.
    pub manifest_parts: u64,
    /// With an identity: files that lost content, sorted; at most 10,000.
    #[serde(serialize_with = "lossy")]
    pub files: Vec<Vec<u8>>,
    /// More files than these.
    pub files_cut: bool,
}

fn shown<S: serde::Serializer>(time: &Moment, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(time)
}

/// What was found.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Report {
    /// Everything that is wrong. Empty: the repository is sound, as far as it was read.
    pub damages: Vec<Damage>,
    /// What each hit snapshot lost.
    pub losses: Vec<Loss>,
    /// What is worth knowing and does no harm.
    pub notes: Vec<String>,
    /// Records and key files looked at.
    pub objects: u64,
    /// Packs that an index names.
    pub packs: u64,
    /// Rows of all index objects.
    pub chunks: u64,
    /// Packs read whole.
    pub packs_read: u64,
    /// Their bytes.
    pub bytes_read: u64,
    /// Envelopes opened and compared with the index.
    pub envelopes_opened: u64,
    /// Files of PostgreSQL's write-ahead log whose heads were looked at, or that were read.
    pub wal_files: u64,
    /// Live snapshots walked.
    pub snapshots_checked: u64,
    /// An identity was at hand.
    pub with_identity: bool,
    /// Live base backups of PostgreSQL, for those who judge whether the log that they need is there.
    #[serde(skip)]
    pub bases: Vec<SnapshotRecord>,
}

impl Report {
    /// True without any damage.
    pub fn is_sound(&self) -> bool {
        self.damages.is_empty()
    }
}

/// Why verify could not do its work. Nothing is ever changed by it.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The store does not even list its objects.
    #[error("the repository cannot be verified: {0}")]
    Store(#[from] StoreError),
    /// The same, as told by a noun.
    #[error("the repository cannot be verified: {0}")]
    Object(#[from] ObjectError),
    /// The local index.
    #[error(
        "the repository cannot be verified, since the local copy of its index cannot be used: {0}"
    )]
    Cache(#[from] std::io::Error),
    /// Asked to stop.
    #[error("verify was stopped on request; what it found so far is not told")]
    Cancelled(#[from] Cancelled),
}

impl From<InventoryError> for VerifyError {
    fn from(e: InventoryError) -> Self {
        match e {
            InventoryError::Store(e) => VerifyError::Store(e),
            InventoryError::Cache(e) => VerifyError::Cache(e),
        }
    }
}

/// A directory that goes away with it.
struct Scratch(std::path::PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Verifies. `cache`: where the index may be unpacked (into a directory of its own, which is removed). `seed` chooses the packs of [`ReadData::Percent`].
pub fn run(
    repository: &Repository,
    cache: Option<&Path>,
    read_data: ReadData,
    seed: u64,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Report, VerifyError> {
    let mut findings = Findings {
        progress,
        report: Report {
            with_identity: repository.reader().is_some(),
            ..Report::default()
        },
        again: false,
        hits: Vec::new(),
        files: Vec::new(),
    };
    progress.event(Event::Phase("records"));
    objects(repository, &mut findings)?;
    cancel.check()?;

    // A fresh directory: a cached part says nothing about the index object that it was made of.
    let scratch = match cache {
        None => None,
        Some(dir) => {
            let mut random = [0; 8];
            getrandom::fill(&mut random).map_err(|e| std::io::Error::other(e.to_string()))?;
            let name = format!("verify-{}", crate::ids::hex(&random));
            Some(Scratch(dir.join(name)))
        }
    };
    // Snapshots before the index, the index before the packs: what comes meanwhile is then no gap.
    let set = repository.snapshots()?;
    progress.event(Event::Phase("index"));
    // A prune at work replaces index objects and then deletes packs: what is missing is looked for again in the index of that moment.
    let mut attempt = 1;
    let (lookup, problems, inventory) = loop {
        let (lookup, problems) = repository.load_index(scratch.as_ref().map(|s| s.0.as_path()))?;
        let inventory = Inventory::load(&**repository.store(), &lookup)?;
        let gaps = problems.iter().any(ObjectError::is_missing)
            || inventory.packs.iter().any(|p| p.stored.is_none());
        if !gaps || attempt >= ATTEMPTS || !index_changed(repository, &lookup, &problems)? {
            break (lookup, problems, inventory);
        }
        attempt += 1;
    };
    let mut bad_indexes = Vec::new();
    for e in problems {
        if e.is_missing() {
            findings.note(format!("an index object was replaced meanwhile: {e}"));
        } else {
            bad_indexes.push(findings.object(&e));
        }
    }
    let covered: u64 = lookup.parts().iter().map(|p| p.covers().len() as u64).sum();
    findings.report.objects += covered + bad_indexes.len() as u64;
    findings.report.chunks = lookup.len();

    let mut bad_names = HashSet::new();
    for e in &set.problems {
        let d = findings.object(e);
        if let ObjectError::Content { object, .. } = e {
            if let Some(id) = object
                .strip_prefix("snapshots/")
                .and_then(|h| h.parse().ok())
            {
                bad_names.insert(id);
                findings.hit(d, id);
            }
        }
    }
    findings.report.objects +=
        (set.live.len() + set.forgotten.len() + set.tombstones.len() + set.problems.len()) as u64;
    let bad_tombstone = set.problems.len() > bad_names.len();
    for (named_by, missing) in set.broken_links() {
        if bad_names.contains(&missing) {
            continue; // it is there, damaged
        }
        if bad_tombstone {
            findings.note(format!(
                "snapshot {} is gone; a tombstone that cannot be read may have named it",
                missing.short()
            ));
            continue;
        }
        findings.damage(
            Name::Snapshot(missing).to_string(),
            format!(
                "it was removed, and nobody forgot it: snapshot {} names it as its predecessor",
                named_by.short()
            ),
        );
    }

    let bases = set.live.iter().filter(|s| s.body.base.is_some());
    findings.report.bases = bases.cloned().collect();
    wal::examine(
        repository,
        &set.live,
        read_data,
        seed,
        &mut findings,
        cancel,
    )?;
    let mut examiner = Examiner {
        repository,
        lookup: &lookup,
        inventory: &inventory,
        cancel,
        damage_of: HashMap::new(),
        whole: Bits::new(inventory.packs.len() as u64),
        bad: HashSet::new(),
        bad_indexes,
        not_indexed: None,
        clean: lookup
            .parts()
            .iter()
            .map(|p| Bits::new(p.records()))
            .collect(),
        dirty: HashMap::new(),
        windows: lookup.parts().iter().map(|_| Window::default()).collect(),
        reader: ChunkReader::new(repository, &lookup),
        batch: Some(Vec::with_capacity(BATCH)),
        lost: false,
        findings,
    };
    examiner.listing();
    examiner.packs(read_data, seed)?;
    progress.event(Event::Phase("snapshots"));
    // Nearly always nothing is lost. That is found out by looking ids up in sorted batches, which is much faster; only if something is lost, it is looked for place by place.
    let all = || set.live.iter().chain(&set.forgotten);
    let mut sound = true;
    for s in all() {
        cancel.check()?;
        sound &= examiner.snapshot(s)?.is_empty();
    }
    examiner.flush()?;
    sound &= !examiner.lost;
    examiner.batch = None;
    examiner.findings.report.snapshots_checked = set.live.len() as u64;
    if sound {
        return Ok(examiner.findings.finish());
    }
    examiner.findings.again = true;
    for (bits, part) in examiner.clean.iter_mut().zip(lookup.parts()) {
        *bits = Bits::new(part.records());
    }
    examiner.dirty.clear();
    let mut hit = Vec::new();
    for (n, s) in all().enumerate() {
        let live = n < set.live.len();
        cancel.check()?;
        let found = examiner.snapshot(s)?;
        if live {
            for d in &found {
                examiner.findings.hit(*d, s.id);
            }
            if !found.is_empty() {
                hit.push(s);
            }
        } else if !found.is_empty() {
            examiner.findings.note(format!(
                "snapshot {}, which is forgotten but not yet pruned, is hit too",
                s.id.short()
            ));
        }
    }
    if !hit.is_empty() {
        progress.event(Event::Phase("finding out what is lost"));
    }
    for s in hit {
        cancel.check()?;
        examiner.losses(s)?;
    }
    Ok(examiner.findings.finish())
}

/// True when the index objects are others than those that were loaded.
fn index_changed(
    repository: &Repository,
    lookup: &Lookup,
    problems: &[ObjectError],
) -> Result<bool, VerifyError> {
    let loaded: HashSet<ObjectId> = lookup
        .parts()
        .iter()
        .flat_map(|p| p.covers().iter().copied())
        .collect();
    let mut there = 0usize;
    let mut known = 0usize;
    repository.store().list(Area::Index, &mut |l| {
        there += 1;
        known += l.name.object_id().is_some_and(|id| loaded.contains(&id)) as usize;
    })?;
    let unreadable = problems.iter().filter(|e| !e.is_missing()).count();
    Ok(known < loaded.len() || there > known + unreadable)
}

/// Marks, writers, config, keys.
fn objects(repository: &Repository, findings: &mut Findings<'_>) -> Result<(), VerifyError> {
    let store = repository.store();
    let (n, problems) = repository.recheck()?;
    findings.report.objects += n;
    for e in &problems {
        findings.object(e);
    }
    let keys = list_all(&**store, Area::Keys)?;
    if keys.is_empty() {
        findings.damage(
            "keys/".into(),
            "there is no key file: without the recovery sheet nobody can restore".into(),
        );
    }
    for key in keys {
        findings.report.objects += 1;
        match store.get(&key.name, limits::KEY_FILE_BYTES as u64) {
            Err(e) => drop(findings.object(&e.into())),
            Ok(bytes) => {
                let whole = bytes.starts_with(b"age-encryption.org/v1\n-> ")
                    && bytes.windows(5).any(|w| w == b"\n--- ");
                if !whole {
                    findings.damage(key.name.to_string(), "it is not an age file".into());
                }
            }
        }
    }
    for listed in list_all(&**store, Area::Marks)? {
        let Some(id) = listed.name.object_id() else {
            continue;
        };
        findings.report.objects += 1;
        match repository.get_record::<Marks>(Area::Marks, id) {
            Ok(_) => {}
            Err(e) if e.is_missing() => {}
            Err(e) => drop(findings.object(&e)),
        }
    }
    if let Ok(marks) = marks::load(repository) {
        if !marks.records.is_empty() {
            findings.note(format!(
                "{} packs are marked for deletion by prune",
                marks.set().len()
            ));
        }
    }
    Ok(())
}

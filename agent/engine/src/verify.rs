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

/// Paths named for each damage and each loss. About 100 bytes each.
const FILES_KEPT: usize = 10_000;
/// Damages told apart; further ones are counted in the last. About 300 bytes each.
const DAMAGES_KEPT: usize = 20_000;
/// Bad places within packs told apart: 12 bytes each; a pack with more is bad as a whole.
const BAD_KEPT: usize = 2 << 20;
/// Runs of lost refs kept for a snapshot: 24 bytes each.
const LOST_KEPT: usize = 1 << 20;
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
    /// Live snapshots walked.
    pub snapshots_checked: u64,
    /// An identity was at hand.
    pub with_identity: bool,
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

struct Findings<'a> {
    progress: &'a dyn Progress,
    report: Report,
    /// Snapshots are walked again: the same damage is met again.
    again: bool,
    /// By damage.
    hits: Vec<BTreeSet<ObjectId>>,
    /// By damage.
    files: Vec<BTreeSet<Vec<u8>>>,
}

impl Findings<'_> {
    fn note(&mut self, text: String) {
        if self.report.notes.len() < NOTES_KEPT {
            self.progress.event(Event::Note(&text));
            self.report.notes.push(text);
        }
    }
    fn damage(&mut self, object: String, what: String) -> u32 {
        let damages = &mut self.report.damages;
        if self.again {
            let same = |d: &Damage| d.object == object && d.what == what;
            if let Some(d) = damages.iter().position(same) {
                return d as u32;
            }
        }
        if damages.len() >= DAMAGES_KEPT {
            let last = damages.len() - 1;
            damages[last].what = "this and further objects are damaged".into();
            return last as u32;
        }
        self.progress
            .event(Event::Problem(&Problem::new(object.clone(), &what)));
        damages.push(Damage {
            object,
            what,
            ..Damage::default()
        });
        self.hits.push(BTreeSet::new());
        self.files.push(BTreeSet::new());
        damages.len() as u32 - 1
    }
    fn object(&mut self, e: &ObjectError) -> u32 {
        match e {
            ObjectError::Store(s) => {
                self.damage(s.object.clone(), format!("it cannot be read: {}", s.cause))
            }
            ObjectError::Content { object, cause } => {
                self.damage(object.clone(), cause.to_string())
            }
        }
    }
    fn hit(&mut self, damage: u32, snapshot: ObjectId) {
        self.hits[damage as usize].insert(snapshot);
    }
    fn file(&mut self, damage: u32, path: &[u8]) {
        let files = &mut self.files[damage as usize];
        if files.len() < FILES_KEPT {
            files.insert(path.to_vec());
        } else if !files.contains(path) {
            self.report.damages[damage as usize].files_cut = true;
        }
    }
    fn finish(mut self) -> Report {
        for ((d, hits), files) in self
            .report
            .damages
            .iter_mut()
            .zip(self.hits)
            .zip(self.files)
        {
            d.snapshots = hits.into_iter().collect();
            d.files = files.into_iter().collect();
        }
        self.report
    }
}

/// Notes kept.
const NOTES_KEPT: usize = 1000;

struct Examiner<'a> {
    repository: &'a Repository,
    lookup: &'a Lookup,
    inventory: &'a Inventory,
    cancel: &'a Cancel,
    /// Damaged packs, by number.
    damage_of: HashMap<u32, u32>,
    /// Packs nothing of which may be relied on.
    whole: Bits,
    /// Bad places: pack, envelope, offset of a chunk or [`WHOLE`].
    bad: HashSet<(u32, u16, u32)>,
    bad_indexes: Vec<u32>,
    not_indexed: Option<u32>,
    /// Per record: list chunks beneath which all is well, manifest chunks that were decoded.
    clean: Vec<Bits>,
    /// List and manifest chunks beneath which something is lost, with the damages.
    dirty: HashMap<ChunkId, Vec<u32>>,
    windows: Vec<Window>,
    reader: ChunkReader<'a>,
    /// While it is only asked whether anything is lost: ids of data chunks to look up together.
    batch: Option<Vec<ChunkId>>,
    /// Something in a batch was lost.
    lost: bool,
    findings: Findings<'a>,
}

/// What was found in one pack.
struct Found {
    pack: u32,
    bytes: u64,
    opened: u64,
    vanished: bool,
    what: Option<String>,
    whole: bool,
    bad: Vec<(u16, u32)>,
}

/// A copy of a chunk: part, record, pack, envelope, offset.
type Copy = (usize, u64, u32, u16, u32);

impl<'a> Examiner<'a> {
    fn pack_damage(&mut self, pack: u32, what: String) -> u32 {
        if let Some(d) = self.damage_of.get(&pack) {
            return *d;
        }
        let name = Name::Pack(self.inventory.packs[pack as usize].id);
        let d = self.findings.damage(name.to_string(), what);
        self.damage_of.insert(pack, d);
        d
    }

    /// Compares index and listing.
    fn listing(&mut self) {
        let (mut orphans, mut orphan_bytes) = (0u64, 0u64);
        for n in 0..self.inventory.packs.len() {
            let p = self.inventory.packs[n];
            if !p.indexed {
                orphans += 1;
                orphan_bytes += p.stored.unwrap_or(0);
                continue;
            }
            self.findings.report.packs += 1;
            let what = match p.stored {
                None => "it is not there, though an index names it".to_owned(),
                Some(s) if s != p.size => {
                    format!("it has {s} bytes, the index says {}", p.size)
                }
                Some(_) if p.contradicted => "index objects contradict each other about it".into(),
                Some(_) => continue,
            };
            self.pack_damage(n as u32, what);
            self.whole.set(n as u64);
        }
        if orphans > 0 {
            self.findings.note(format!(
                "{orphans} packs ({orphan_bytes} bytes) stand in no index: of a backup that runs or was interrupted; prune collects them"
            ));
        }
    }

    /// Reads packs, in several threads.
    fn packs(&mut self, read: ReadData, seed: u64) -> Result<(), VerifyError> {
        let percent = match read {
            ReadData::No => 0,
            ReadData::All => 100,
            ReadData::Percent(p) => p.min(100) as u64,
        };
        let chosen: Vec<u32> = (0..self.inventory.packs.len() as u32)
            .filter(|n| {
                let p = &self.inventory.packs[*n as usize];
                let draw = blake3::Hasher::new()
                    .update(&seed.to_le_bytes())
                    .update(&p.id.0)
                    .finalize();
                let draw =
                    u64::from_le_bytes(draw.as_bytes()[..8].try_into().expect("eight bytes"));
                // A pack of another length is damaged; what is left of it is always looked at.
                let cut = p.indexed && p.stored != Some(p.size);
                p.stored.is_some_and(|s| s <= limits::PACK_BYTES) && (cut || draw % 100 < percent)
            })
            .collect();
        let bytes = chosen
            .iter()
            .map(|n| self.inventory.packs[*n as usize].stored.unwrap_or(0))
            .sum();
        let progress = self.findings.progress;
        if chosen.is_empty() {
            return Ok(());
        }
        progress.event(Event::Phase("packs"));
        progress.event(Event::Total {
            items: chosen.len() as u64,
            bytes,
        });
        let threads = std::thread::available_parallelism()
            .map_or(2, |n| n.get())
            .min(THREADS);
        let large = Mutex::new(());
        let (repository, inventory, cancel) = (self.repository, self.inventory, self.cancel);
        for batch in inventory.batches(&chosen) {
            let contents = inventory.contents(self.lookup, batch)?;
            // Two packs' rows wait for each thread; the rows are bounded by the batch.
            let (send, receive) = bounded::<Content>(threads);
            let (answer, answers) = bounded::<Found>(threads);
            std::thread::scope(|scope| {
                for _ in 0..threads {
                    let (receive, answer, large) = (receive.clone(), answer.clone(), &large);
                    scope.spawn(move || {
                        for content in receive {
                            let stored = inventory.packs[content.pack as usize].stored;
                            let guard = stored
                                .is_some_and(|s| s > LARGE_PACK)
                                .then(|| large.lock().unwrap_or_else(|e| e.into_inner()));
                            let found = examine(repository, inventory, &content);
                            drop(guard);
                            if cancel.is_cancelled() || answer.send(found).is_err() {
                                return;
                            }
                        }
                    });
                }
                drop((receive, answer));
                scope.spawn(move || {
                    for content in contents {
                        if cancel.is_cancelled() || send.send(content).is_err() {
                            return;
                        }
                    }
                });
                for found in answers {
                    progress.event(Event::Done {
                        items: 1,
                        bytes: found.bytes,
                    });
                    self.take(found);
                }
            });
            self.cancel.check()?;
        }
        Ok(())
    }

    fn take(&mut self, found: Found) {
        let pack = found.pack;
        if found.vanished {
            let name = Name::Pack(self.inventory.packs[pack as usize].id);
            self.findings
                .note(format!("{name} was deleted by a prune meanwhile"));
            return;
        }
        let p = &self.inventory.packs[pack as usize];
        if !p.contradicted {
            // What was found within it says more than its length.
            self.whole.clear(pack as u64);
        }
        self.findings.report.packs_read += 1;
        self.findings.report.bytes_read += found.bytes;
        self.findings.report.envelopes_opened += found.opened;
        if let Some(what) = found.what {
            self.pack_damage(pack, what);
            if found.whole || self.bad.len() + found.bad.len() > BAD_KEPT {
                self.whole.set(pack as u64);
            } else {
                self.bad
                    .extend(found.bad.into_iter().map(|(e, o)| (pack, e, o)));
            }
        }
    }

    /// All copies of a chunk.
    fn copies(&mut self, kind: ChunkKind, id: &ChunkId) -> Result<Vec<Copy>, VerifyError> {
        let mut out = Vec::new();
        for (n, part) in self.lookup.parts().iter().enumerate() {
            for (record, r) in part.find(id, &mut self.windows[n])? {
                if r.kind == kind {
                    let pack = self.inventory.of(n, &r);
                    out.push((n, record, pack, r.envelope, r.offset));
                }
            }
        }
        Ok(out)
    }

    /// Looks up what was gathered.
    fn flush(&mut self) -> Result<(), VerifyError> {
        let mut batch = self.batch.take().unwrap_or_default();
        batch.sort_unstable();
        batch.dedup();
        for id in &batch {
            if self.lost {
                break;
            }
            let copies = self.copies(ChunkKind::Data, id)?;
            self.lost |= !copies.iter().any(|c| self.is_sound(c));
        }
        batch.clear();
        self.batch = Some(batch);
        Ok(())
    }

    fn is_sound(&self, &(_, _, pack, envelope, offset): &Copy) -> bool {
        !self.whole.get(pack as u64)
            && !self.bad.contains(&(pack, envelope, WHOLE))
            && !self.bad.contains(&(pack, envelope, offset))
    }

    /// The damages to which the loss of a chunk is due.
    fn blame(&mut self, copies: &[Copy]) -> Vec<u32> {
        let mut out: Vec<u32> = copies
            .iter()
            .filter_map(|c| self.damage_of.get(&c.2).copied())
            .collect();
        if copies.is_empty() {
            let d = match (self.not_indexed, &self.bad_indexes[..]) {
                (Some(d), _) => d,
                // There is one index object that cannot be read: it named the chunk.
                (None, [one]) => *one,
                (None, _) => self.findings.damage(
                    "index/".into(),
                    "chunks that snapshots need stand in no index object: one was lost; 'keepwatch repair index' finds what is still in the packs".into(),
                ),
            };
            self.not_indexed = Some(d);
            out.push(d);
        }
        out.sort_unstable();
        out.dedup();
        out
    }

    /// A list chunk or manifest chunk, or the damages to which its loss is due.
    fn fetch(
        &mut self,
        kind: ChunkKind,
        id: &ChunkId,
        copies: &[Copy],
    ) -> Result<Vec<u8>, Vec<u32>> {
        if !copies.iter().any(|c| self.is_sound(c)) {
            return Err(self.blame(copies));
        }
        match self.reader.read(kind, id) {
            Ok(plain) => Ok(plain),
            Err(e) => {
                for c in copies {
                    let what = match &e {
                        ObjectError::Content { cause, .. } => {
                            format!("envelope {} in it: {cause}", c.3)
                        }
                        ObjectError::Store(s) => format!("it cannot be read: {}", s.cause),
                    };
                    self.pack_damage(c.2, what);
                    self.bad.insert((c.2, c.3, WHOLE));
                }
                Err(self.blame(copies))
            }
        }
    }

    /// Walks a snapshot's lists; the damages that hit it.
    fn snapshot(&mut self, s: &SnapshotRecord) -> Result<BTreeSet<u32>, VerifyError> {
        let mut hits = BTreeSet::new();
        let mut refs = 0u64;
        for (root, form) in [(&s.body.manifest, Form::Parts), (&s.body.refs, Form::Refs)] {
            let level = Level {
                depth: root.depth,
                form,
            };
            let malformed = match self.walk(level, &root.items, &mut hits)? {
                Err(why) => Some(why),
                Ok((leaves, _)) if leaves != root.count => {
                    Some("it does not have as many items as the snapshot says")
                }
                Ok((_, sum)) if form == Form::Parts => {
                    refs = sum;
                    None
                }
                Ok((_, sum)) if sum != refs => {
                    Some("manifest and content do not have the same number of chunks")
                }
                Ok(_) => None,
            };
            if let Some(why) = malformed {
                let name = Name::Snapshot(s.id).to_string();
                let d = self
                    .findings
                    .damage(name, format!("one of its lists is malformed: {why}"));
                hits.insert(d);
            }
        }
        Ok(hits)
    }

    /// Leaf items and refs beneath, or why it is malformed.
    #[allow(clippy::type_complexity)]
    fn walk(
        &mut self,
        at: Level,
        items: &[u8],
        hits: &mut BTreeSet<u32>,
    ) -> Result<Result<(u64, u64), &'static str>, VerifyError> {
        if at.depth > limits::LIST_DEPTH || items.len() % at.width() != 0 {
            return Ok(Err("it is too deep, or ends within an item"));
        }
        let (mut leaves, mut refs) = (0u64, 0u64);
        for item in items.chunks_exact(at.width()) {
            let id = ChunkId(item[..32].try_into().expect("32 bytes"));
            if at.depth == 0 {
                leaves += 1;
                match at.form {
                    Form::Refs => {
                        refs += 1;
                        if let Some(batch) = &mut self.batch {
                            batch.push(id);
                            if batch.len() >= BATCH {
                                self.flush()?;
                            }
                            continue;
                        }
                        let copies = self.copies(ChunkKind::Data, &id)?;
                        if !copies.iter().any(|c| self.is_sound(c)) {
                            hits.extend(self.blame(&copies));
                        }
                    }
                    Form::Parts => {
                        let part = Part::from_bytes(item.try_into().expect("40 bytes"));
                        refs = refs.saturating_add(part.refs as u64);
                        self.manifest(&part, hits)?;
                    }
                }
                continue;
            }
            self.cancel.check()?;
            let (below, below_refs) = counts(item);
            leaves = leaves.saturating_add(below);
            refs = refs.saturating_add(below_refs);
            if let Some(known) = self.dirty.get(&id) {
                hits.extend(known);
                continue;
            }
            let copies = self.copies(ChunkKind::List, &id)?;
            if copies.iter().any(|c| self.clean[c.0].get(c.1)) {
                continue;
            }
            let chunk = match self.fetch(ChunkKind::List, &id, &copies) {
                Ok(c) => c,
                Err(blamed) => {
                    hits.extend(&blamed);
                    self.dirty.insert(id, blamed);
                    continue;
                }
            };
            let mut here = BTreeSet::new();
            let next = at.below();
            let fits = chunk.len() >= 2 && chunk[0] == at.depth && chunk[1] == at.form as u8;
            let counted = if fits {
                self.walk(next, &chunk[2..], &mut here)?
            } else {
                Err("a list chunk stands at a level that is not its own")
            };
            if counted != Ok((below, below_refs)) {
                let why = counted.err().unwrap_or("its counts are wrong");
                let d = self
                    .findings
                    .damage(format!("chunk {id}"), format!("a list is malformed: {why}"));
                here.insert(d);
            }
            if here.is_empty() {
                for c in &copies {
                    self.clean[c.0].set(c.1);
                }
            } else {
                hits.extend(&here);
                self.dirty.insert(id, here.into_iter().collect());
            }
        }
        Ok(Ok((leaves, refs)))
    }

    /// A manifest chunk: there, and with an identity decoded, once.
    fn manifest(&mut self, part: &Part, hits: &mut BTreeSet<u32>) -> Result<(), VerifyError> {
        if let Some(known) = self.dirty.get(&part.id) {
            hits.extend(known);
            return Ok(());
        }
        let copies = self.copies(ChunkKind::Manifest, &part.id)?;
        if copies.iter().any(|c| self.clean[c.0].get(c.1)) {
            return Ok(());
        }
        let blamed = if !copies.iter().any(|c| self.is_sound(c)) {
            self.blame(&copies)
        } else if self.repository.reader().is_none() {
            Vec::new()
        } else {
            match self.fetch(ChunkKind::Manifest, &part.id, &copies) {
                Err(blamed) => blamed,
                Ok(plain) => {
                    let why = match manifest::decode_chunk(&plain, &mut Vec::new(), &mut |_| {}) {
                        Ok(counts) if counts == (part.entries, part.refs) => None,
                        Ok(_) => Some("it does not hold what its list says".to_owned()),
                        Err(e) => Some(e.to_string()),
                    };
                    why.map(|why| {
                        self.findings.damage(
                            format!("chunk {}", part.id),
                            format!("a part of a manifest is malformed: {why}"),
                        )
                    })
                    .into_iter()
                    .collect()
                }
            }
        };
        if blamed.is_empty() {
            for c in &copies {
                self.clean[c.0].set(c.1);
            }
        } else {
            hits.extend(&blamed);
            self.dirty.insert(part.id, blamed);
        }
        Ok(())
    }

    /// What a hit snapshot lost.
    fn losses(&mut self, s: &SnapshotRecord) -> Result<(), VerifyError> {
        let mut lost = Lost::default();
        self.lost_refs(&s.body.refs, &mut lost)?;
        let mut loss = Loss {
            snapshot: s.id,
            host: s.body.host.clone(),
            time: s.start,
            refs: lost.count,
            manifest_parts: 0,
            files: Vec::new(),
            files_cut: lost.cut,
        };
        let mut parts = Lost::default();
        self.lost_parts(&s.body.manifest, &mut parts)?;
        loss.manifest_parts = parts.count;
        if self.repository.reader().is_some() {
            let mut reader = ChunkReader::new(self.repository, self.lookup);
            let mut files = BTreeSet::new();
            let findings = &mut self.findings;
            let mut each = |e: manifest::Entry, first: u64| {
                let end = first.saturating_add(e.refs() as u64);
                let from = lost.runs.partition_point(|r| r.1 <= first);
                let mut damages: Vec<u32> = lost.runs[from..]
                    .iter()
                    .take_while(|r| r.0 < end)
                    .map(|r| r.2)
                    .collect();
                damages.dedup();
                if !damages.is_empty() {
                    if files.len() < FILES_KEPT {
                        files.insert(e.path.clone());
                    } else {
                        loss.files_cut = true;
                    }
                    for d in damages {
                        findings.file(d, &e.path);
                    }
                }
                Ok(())
            };
            // Parts that cannot be read were blamed before.
            let walked = reader.each_entry(&s.body, &mut each, &mut |_| {});
            if let Err(e) = walked {
                findings.note(format!(
                    "the files of snapshot {} cannot all be named: {e}",
                    s.id.short()
                ));
            }
            loss.files = files.into_iter().collect();
        }
        self.findings.report.losses.push(loss);
        Ok(())
    }

    fn lost_refs(&mut self, root: &ListRoot, lost: &mut Lost) -> Result<(), VerifyError> {
        let level = Level {
            depth: root.depth,
            form: Form::Refs,
        };
        self.find_lost(level, &root.items, lost)
    }
    fn lost_parts(&mut self, root: &ListRoot, lost: &mut Lost) -> Result<(), VerifyError> {
        let level = Level {
            depth: root.depth,
            form: Form::Parts,
        };
        self.find_lost(level, &root.items, lost)
    }

    /// Positions of what is lost; goes only where the first walk found something.
    fn find_lost(&mut self, at: Level, items: &[u8], lost: &mut Lost) -> Result<(), VerifyError> {
        if at.depth > limits::LIST_DEPTH {
            return Ok(());
        }
        for item in items.chunks_exact(at.width()) {
            let id = ChunkId(item[..32].try_into().expect("32 bytes"));
            if at.depth == 0 {
                let blamed = match at.form {
                    Form::Parts => self.dirty.get(&id).cloned().unwrap_or_default(),
                    Form::Refs => {
                        let copies = self.copies(ChunkKind::Data, &id)?;
                        if copies.iter().any(|c| self.is_sound(c)) {
                            Vec::new()
                        } else {
                            self.blame(&copies)
                        }
                    }
                };
                lost.add(1, &blamed);
                continue;
            }
            let (below, _) = counts(item);
            if !self.dirty.contains_key(&id) {
                lost.add(below, &[]);
                continue;
            }
            let copies = self.copies(ChunkKind::List, &id)?;
            let before = lost.at;
            match self.fetch(ChunkKind::List, &id, &copies) {
                Err(blamed) => lost.add(below, &blamed),
                Ok(chunk) => {
                    if chunk.len() >= 2 && chunk[0] == at.depth && chunk[1] == at.form as u8 {
                        self.find_lost(at.below(), &chunk[2..], lost)?;
                    }
                    lost.at = before.saturating_add(below);
                }
            }
        }
        Ok(())
    }
}

/// Positions in a list that are lost.
#[derive(Default)]
struct Lost {
    at: u64,
    count: u64,
    /// From, to, damage; ascending.
    runs: Vec<(u64, u64, u32)>,
    cut: bool,
}

impl Lost {
    fn add(&mut self, n: u64, blamed: &[u32]) {
        let (from, to) = (self.at, self.at.saturating_add(n));
        self.at = to;
        if blamed.is_empty() {
            return;
        }
        self.count += n;
        for &d in blamed {
            let room = self.runs.len() < LOST_KEPT;
            match self.runs.last_mut() {
                Some(last) if last.2 == d && last.1 == from && blamed.len() == 1 => last.1 = to,
                _ if room => self.runs.push((from, to, d)),
                _ => self.cut = true,
            }
        }
    }
}

#[derive(Clone, std::marker::Copy)]
struct Level {
    depth: u8,
    form: Form,
}

impl Level {
    fn width(self) -> usize {
        if self.depth == 0 {
            self.form.item()
        } else {
            list::NODE
        }
    }
    fn below(self) -> Level {
        Level {
            depth: self.depth - 1,
            ..self
        }
    }
}

/// Leaf items and refs beneath a node.
fn counts(node: &[u8]) -> (u64, u64) {
    let word = |at: usize| u64::from_le_bytes(node[at..at + 8].try_into().expect("eight bytes"));
    (word(32), word(40))
}

/// Reads one pack and compares it with the index.
fn examine(repository: &Repository, inventory: &Inventory, content: &Content) -> Found {
    let p = &inventory.packs[content.pack as usize];
    let mut found = Found {
        pack: content.pack,
        bytes: 0,
        opened: 0,
        vanished: false,
        what: None,
        whole: false,
        bad: Vec::new(),
    };
    let bytes = match repository
        .store()
        .get(&Name::Pack(p.id), limits::PACK_BYTES)
    {
        Ok(b) => b,
        Err(e) if e.is_missing() => {
            found.vanished = true;
            return found;
        }
        Err(e) => {
            found.what = Some(format!("it cannot be read: {}", e.cause));
            found.whole = true;
            return found;
        }
    };
    found.bytes = bytes.len() as u64;
    let whole = ObjectId::of(&bytes) == p.id;
    let footer = pack::footer(&bytes);
    if !whole {
        found.what = Some(ContentError::Hash.to_string());
    } else if footer.is_none() {
        found.what = Some("it is not a pack: its footer is malformed".into());
    }
    for e in &content.envelopes {
        let openable = e.kind == ChunkKind::List || repository.reader().is_some();
        if !openable && !whole {
            // It may be this envelope that is damaged.
            found.bad.push((e.number, WHOLE));
            continue;
        }
        let at = e.offset as usize;
        let sealed = bytes.get(at..at + e.length as usize);
        let agrees = !whole
            || footer.as_ref().is_none_or(|(class, lengths)| {
                *class == e.kind.class() && lengths.get(e.number as usize) == Some(&e.length)
            });
        let (Some(sealed), true) = (sealed, agrees) else {
            found.bad.push((e.number, WHOLE));
            found.what.get_or_insert_with(|| {
                format!("envelope {} does not lie where the index says", e.number)
            });
            continue;
        };
        if !openable {
            continue;
        }
        found.opened += 1;
        let opened = match open_sealed(repository, p.id, e.kind, sealed) {
            Ok(o) => o,
            Err(err) => {
                found.bad.push((e.number, WHOLE));
                let cause = match err {
                    ObjectError::Content { cause, .. } => cause.to_string(),
                    ObjectError::Store(s) => s.to_string(),
                };
                found
                    .what
                    .get_or_insert_with(|| format!("envelope {}: {cause}", e.number));
                continue;
            }
        };
        if opened.lengths != e.lengths && !content.contradicted {
            found.bad.push((e.number, WHOLE));
            found.what.get_or_insert_with(|| {
                format!("envelope {}: {}", e.number, ContentError::Misindexed)
            });
            continue;
        }
        let mut at: BTreeMap<u32, &[u8]> = BTreeMap::new();
        let mut offset = 0u32;
        for chunk in opened.chunks() {
            at.insert(offset, chunk);
            offset += chunk.len() as u32;
        }
        let mut offset = 0u32;
        for (id, &length) in e.ids.iter().zip(&e.lengths) {
            let right = at.get(&offset).is_some_and(|c| {
                c.len() == length as usize && repository.hash().id(e.kind, c) == *id
            });
            if !right {
                found.bad.push((e.number, offset));
                found.what.get_or_insert_with(|| {
                    format!(
                        "envelope {}: chunk {}: {}",
                        e.number,
                        id.short(),
                        ContentError::ChunkId
                    )
                });
            }
            offset = offset.saturating_add(length);
        }
    }
    found
}

//! `prune`: delete what no snapshot needs, in two phases, without a lock and without an identity (FORMAT.md, section 8).
//!
//! 1. **Look.** Marks, snapshots (forgotten ones too), index, lists and the listing of packs are read. When anything cannot be read, prune stops: nothing was changed yet.
//! 2. **Delete** what an earlier prune marked longer than the grace period ago and that still nothing needs: first the index without it, then the packs, then
//!    the marks. Before that, snapshot objects whose tombstone is older than the grace period.
//! 3. **Copy** the living envelopes of half-empty packs to new packs, and index those.
//! 4. **Mark** packs that nothing needs, the copied ones among them, if the store took them longer ago than the grace period.
//!
//! Why that is safe beside running backups: a writer reads the marks when it begins and before it commits, and relies on no marked pack. A snapshot that came
//! by a pack before it was marked is seen by the later prune, which recomputes everything, and the pack is unmarked. What a writer has stored but not
//! yet committed is younger than the grace period. So the grace period must be longer than the longest backup. With a grace period of zero both phases happen in one
//! run: **never beside a running backup or another prune.**
//!
//! Two prunes at once may copy twice, never delete too much: which copy of a chunk is kept follows from the packs and marks that are there (`mark`), and a pack is deleted only
//! when it was marked a grace period ago. A prune that ends at any point leaves repetitions, which the next one collects.
//!
//! Ages are judged by the later of the signed time and the storage time, against the *earlier* of the store's clock and ours: a clock that jumps ahead deletes nothing early
//! unless both do. What comes from the future is young. A clock that is more than [`LEAP`] ahead of everything in the repository is not believed in the first run that sees it (`ages`).
//!
//! When more than half of the bytes are needed by nothing, and no forgotten snapshot accounts for them, prune stops too (`volume`): rather than that half of a
//! repository became superfluous, snapshots were lost or removed, or an area was not copied with the rest.
//!
//! Memory for ten terabytes (655,360 packs, ten million chunks): packs 60 MB, bits 4 MB, what index objects say 10 MB, batches 17 MB while lists are walked and 16 MB after that, packs being read and filled then at most 64 + 36 MB
//! (16 + 36 MB with packs of our own): below 150 MB with packs of our own.

mod ages;
mod mark;
mod newcomers;
mod removal;
mod repack;
mod report;
mod sweep;
mod volume;
mod wal;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use keepwatch_model::time::Moment;

use crate::ids::{ChunkId, ObjectId};
use crate::inventory::{Bits, Inventory, InventoryError};
use crate::lookup::Lookup;
use crate::marks::{self, MarksRecord};
use crate::object::ObjectError;
use crate::progress::{Cancel, Event, Progress};
use crate::records::{Marks, Tombstone};
use crate::repository::{PutError, Repository};
use crate::snapshots::{SnapshotRecord, foundations};
use crate::store::{Area, Name, StoreError};
use crate::wal::Needed;

use ages::Ages;
use mark::Needs;
use removal::Removal;

pub use ages::LEAP;
pub use report::Report;
pub use volume::MANY_BYTES;

/// What `keepwatch prune` uses: longer than the longest backup.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(24 * 3600);
/// Chunks in one index object that prune writes. 36 bytes each.
const INDEX_CHUNKS: usize = 65_536;
/// More small index objects, or old tombstones, than this are made one.
const MANY: usize = 32;
/// Packs shorter than this are small, in bytes.
const SMALL_BYTES: u64 = 4 << 20;
/// As many small packs of a class are merged.
const SMALL_PACKS: usize = 8;
/// Times everything is read again when it changes meanwhile.
const ATTEMPTS: usize = 3;
/// Unfinished objects younger than this are never swept, whatever the grace period.
const SWEEP_MIN: Duration = Duration::from_secs(3600);

/// How much may stay that nothing needs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MaxUnused {
    /// Of the bytes that are needed.
    Percent(f64),
    /// Bytes.
    Bytes(u64),
    /// Half-empty packs are never copied.
    Unlimited,
}

/// What to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long marks, tombstones and packs must have been there. Longer than the longest backup; zero only when nobody else uses the repository.
    pub grace: Duration,
    /// How much waste is put up with.
    pub max_unused: MaxUnused,
    /// Report what would be done; write nothing.
    pub dry_run: bool,
    /// Cache directory of this repository.
    pub cache: Option<PathBuf>,
    /// Go on although snapshots were removed behind our back: what only they needed is lost then. Only after a person has looked into it.
    pub accept_missing: bool,
    /// Go on although more than half of the repository would be given up and nothing accounts for it. Only after a person has looked into it.
    pub allow_many: bool,
    /// Repositories of up to so many bytes are not asked about, see [`MANY_BYTES`].
    pub many_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            grace: DEFAULT_GRACE,
            max_unused: MaxUnused::Percent(5.0),
            dry_run: false,
            cache: None,
            accept_missing: false,
            allow_many: false,
            many_bytes: MANY_BYTES,
        }
    }
}

/// Why prune stopped. Whatever it is: nothing that a snapshot needs was deleted.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// No writer key with the right.
    #[error(
        "prune needs a writer key with the right 'maintain': marks of others do not count; nothing was changed"
    )]
    NeedsMaintain,
    /// Something that must be read.
    #[error(
        "prune stopped, since it does not know all that is needed: {0}. Going on could delete data that a snapshot needs. Nothing that is needed was deleted; run 'keepwatch verify'"
    )]
    Unreadable(String),
    /// A chunk of a snapshot is nowhere.
    #[error(
        "prune stopped: snapshot {} needs chunk {}, which stands in no index or in no pack that is there. Going on would delete the pack that may hold it, as one that nothing needs. \
         Nothing was changed; run 'keepwatch repair index', or forget the snapshot if its data is lost",
        snapshot.short(), chunk.short()
    )]
    Lost {
        /// Which snapshot.
        snapshot: ObjectId,
        /// Which chunk.
        chunk: ChunkId,
    },
    /// A snapshot was removed, and not by `forget`.
    #[error(
        "prune stopped: snapshot {} was removed from the repository, and nobody forgot it (snapshot {} names it as its predecessor). Going on would delete its data for good. \
         Nothing was changed; find out who removed it, put it back from another copy, or accept the loss",
        missing.short(), named_by.short()
    )]
    Removed {
        /// The one that is gone.
        missing: ObjectId,
        /// Its successor.
        named_by: ObjectId,
    },
    /// Most of the repository would go, and it is not known why.
    #[error(
        "prune stopped: nothing needs {bytes} of the {of} bytes of packs, which is more than half, and no forgotten snapshot accounts for {unexplained} of them. \
         Snapshots may have been lost or removed, or the repository was not copied whole; or backups broke off again and again. Nothing was changed"
    )]
    Unusual {
        /// Bytes that nothing needs and that are not marked yet.
        bytes: u64,
        /// Of these, those that no forgotten snapshot needed.
        unexplained: u64,
        /// All packs.
        of: u64,
    },
    /// The store failed in the middle.
    #[error(
        "prune was interrupted: {0}. Every snapshot is as it was, and the next prune goes on from here"
    )]
    Store(#[from] StoreError),
    /// The credentials do not suffice.
    #[error(
        "prune may not delete: {0}. Every snapshot is as it was. Run prune with credentials that may delete (in S3: s3:DeleteObject); backups do not need that right, and a host is safer without it"
    )]
    MayNotDelete(StoreError),
    /// A record could not be stored.
    #[error(
        "prune was interrupted: {0}. Every snapshot is as it was, and the next prune goes on from here"
    )]
    Put(#[from] PutError),
    /// The local index.
    #[error(
        "the local copy of the index cannot be used: {0}; nothing that is needed was deleted. It may be deleted, it is made again"
    )]
    Cache(#[from] std::io::Error),
    /// Objects vanish while they are read.
    #[error(
        "another prune is at work: {0}; nothing that is needed was deleted, try again when it has ended"
    )]
    Busy(String),
    /// Asked to stop.
    #[error(
        "prune was stopped on request; every snapshot is as it was, and the next prune goes on from here"
    )]
    Cancelled,
}

impl PruneError {
    fn unreadable(e: ObjectError) -> Self {
        if e.is_missing() {
            PruneError::Busy(e.to_string())
        } else {
            PruneError::Unreadable(e.to_string())
        }
    }
    fn lost(snapshot: ObjectId, chunk: ChunkId) -> Self {
        PruneError::Lost { snapshot, chunk }
    }
    fn cache(e: std::io::Error) -> Self {
        PruneError::Cache(e)
    }
    fn write(e: StoreError) -> Self {
        PruneError::Store(e)
    }
    fn read(e: StoreError) -> Self {
        if e.is_missing() {
            PruneError::Busy(e.to_string())
        } else {
            PruneError::Store(e)
        }
    }
    fn put(e: PutError) -> Self {
        PruneError::Put(e)
    }
}

impl From<InventoryError> for PruneError {
    fn from(e: InventoryError) -> Self {
        match e {
            InventoryError::Store(e) => PruneError::read(e),
            InventoryError::Cache(e) => PruneError::Cache(e),
        }
    }
}

/// Everything that was read, and what follows from it.
struct Plan {
    lookup: Lookup,
    inventory: Inventory,
    needs: Needs,
    /// All snapshot objects that were seen.
    seen: HashSet<ObjectId>,
    drop_snapshots: Vec<ObjectId>,
    tombstones: Vec<(ObjectId, Tombstone)>,
    tombstones_future: Vec<(ObjectId, Tombstone)>,
    marks: Vec<MarksRecord>,
    /// By pack: not to be named by the index any more (deleted now, or absent).
    drop: Bits,
    dropping: bool,
    delete: Vec<u32>,
    rescued: HashSet<ObjectId>,
    repack: Vec<u32>,
    mark: Vec<u32>,
    /// Marked, unneeded, still there.
    waiting: HashSet<ObjectId>,
    ages: Ages,
    /// Of the write-ahead log: what stays, and what goes.
    wal: (Needed, Vec<Name>),
    report: Report,
}

/// Prunes. Needs a writer with the right *maintain*, no identity. `clock` dates what is written; see the module for how ages are judged.
pub fn run(
    repository: &Repository,
    options: &Options,
    clock: &dyn Fn() -> Moment,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Report, PruneError> {
    let writer = repository.writer().ok_or(PruneError::NeedsMaintain)?.id;
    let may = repository
        .writers()
        .get(&writer)
        .is_some_and(|w| w.maintain && !w.revoked);
    if !may {
        return Err(PruneError::NeedsMaintain);
    }
    let run = Run {
        repository,
        options,
        clock,
        progress,
        cancel,
    };
    let mut report = run.pass(false)?;
    if options.grace.is_zero() && report.packs_marked > 0 {
        if options.dry_run {
            report.packs_deleted += report.packs_marked;
            report.bytes_freed += report.bytes_waiting;
        } else {
            // Everything is looked at again: what was copied a moment ago counts as any other copy.
            let second = run.pass(true)?;
            report.packs_deleted += second.packs_deleted;
            report.bytes_freed += second.bytes_freed;
            report.bytes_waiting = second.bytes_waiting;
            report.wal_deleted += second.wal_deleted;
            report.wal_bytes_freed += second.wal_bytes_freed;
            report.objects_locked += second.objects_locked;
            report.notes.extend(second.notes);
        }
        if options.dry_run {
            report.bytes_waiting = 0;
        }
        report.bytes_after =
            (report.bytes_before + report.bytes_copied).saturating_sub(report.bytes_freed);
    }
    // By a clock that is not believed, what another run is writing at this moment would be old.
    if !options.dry_run && !report.clock_ahead {
        let before = repository
            .store()
            .now()
            .checked_sub(options.grace.max(SWEEP_MIN));
        if let Some(before) = before {
            repository.store().sweep(before)?;
        }
    }
    Ok(report)
}

struct Run<'a> {
    repository: &'a Repository,
    options: &'a Options,
    clock: &'a dyn Fn() -> Moment,
    progress: &'a dyn Progress,
    cancel: &'a Cancel,
}

impl Run<'_> {
    fn check(&self) -> Result<(), PruneError> {
        self.cancel.check().map_err(|_| PruneError::Cancelled)
    }

    fn pass(&self, only_delete: bool) -> Result<Report, PruneError> {
        let mut attempt = 1;
        let mut plan = loop {
            let plan = match self.look(only_delete) {
                Err(PruneError::Busy(_)) if attempt < ATTEMPTS => None,
                // A tombstone that another prune replaces while we read makes its snapshots look as if they were removed.
                Err(PruneError::Removed { .. }) if attempt < ATTEMPTS => None,
                Err(e) => return Err(e),
                Ok(plan) => Some(plan),
            };
            let last = attempt >= ATTEMPTS;
            attempt += 1;
            let Some(mut plan) = plan else { continue };
            // A backup that ended while we read may need what we would delete. Seen with the others, it saves it.
            if last || newcomers::look(self, &mut plan)?.is_none() {
                break plan;
            }
        };
        if self.options.dry_run {
            return Ok(plan.report);
        }
        self.apply(&mut plan)?;
        Ok(plan.report)
    }

    /// Reads everything. Writes nothing.
    fn look(&self, only_delete: bool) -> Result<Plan, PruneError> {
        let repository = self.repository;
        self.progress
            .event(Event::Phase("reading snapshots and index"));
        // A damaged record of a revoked writer would make that writer believed again.
        let (_, problems) = repository.recheck().map_err(PruneError::read)?;
        if let Some(e) = problems.first() {
            return Err(PruneError::Unreadable(e.to_string()));
        }
        let marks = marks::load(repository).map_err(PruneError::unreadable)?;
        let set = repository.snapshots().map_err(PruneError::unreadable)?;
        if let Some(e) = set.problems.first() {
            return Err(PruneError::Unreadable(e.to_string()));
        }
        if !self.options.accept_missing {
            if let Some(&(named_by, missing)) = set.broken_links().first() {
                return Err(PruneError::Removed { missing, named_by });
            }
        }
        let (mut lookup, problems) = repository
            .load_index(self.options.cache.as_deref())
            .map_err(PruneError::unreadable)?;
        // One that is not merely replaced comes first.
        if let Some(e) = problems.into_iter().min_by_key(ObjectError::is_missing) {
            return Err(PruneError::unreadable(e));
        }
        let inventory = Inventory::load(&**repository.store(), &lookup)?;
        // After everything was read: what came meanwhile is young.
        let newest = ages::Newest::of(&inventory, &set, &marks);
        let ages = Ages::new(repository, (self.clock)(), &newest, self.options.grace);

        let marked = marks.set();
        let mut unusable = inventory.unsound();
        unusable.extend(&marked);
        lookup.set_unusable(unusable)?;

        let seen = set
            .live
            .iter()
            .chain(&set.forgotten)
            .map(|s| s.id)
            .collect();
        let (mut tombstones, mut tombstones_future) = (Vec::new(), Vec::new());
        let mut dead = HashSet::new();
        for t in &set.tombstones {
            let Some(id) = t.listed.name.object_id() else {
                continue;
            };
            let body = Tombstone::new(t.time, t.snapshots.clone(), t.origins.clone());
            if ages.is_old(t.listed.modified, Some(t.time)) {
                dead.extend(t.snapshots.iter().map(|f| (f.id, f.writer)));
                tombstones.push((id, body));
            } else if ages.is_future(t.time) {
                tombstones_future.push((id, body));
            }
        }
        // What a base backup is built on stays as long as that one can be called back.
        let called_back = set
            .forgotten
            .iter()
            .filter(|s| !dead.contains(&(s.id, s.writer)));
        let kept = foundations(called_back, &set.forgotten);
        let gone = |s: &&SnapshotRecord| dead.contains(&(s.id, s.writer)) && !kept.contains(&s.id);
        let drop_snapshots: Vec<ObjectId> =
            set.forgotten.iter().filter(gone).map(|s| s.id).collect();
        let waiting: Vec<&SnapshotRecord> = set.forgotten.iter().filter(|s| !gone(s)).collect();

        self.progress.event(Event::Phase("finding what is needed"));
        let roots = set.live.iter().chain(waiting.iter().copied());
        let needs = mark::mark(repository, &lookup, &inventory, &marked, roots, self.cancel)?;

        let mut report = Report {
            snapshots_needed: (set.live.len() + waiting.len()) as u64,
            snapshots_waiting: waiting.len() as u64,
            snapshots_deleted: drop_snapshots.len() as u64,
            ..Report::default()
        };
        if !marks.ignored.is_empty() {
            report.notes.push(format!(
                "{} marks records were written by a writer without the right 'maintain' and do not count",
                marks.ignored.len()
            ));
        }
        let needed = Needed::by(repository, set.live.iter().chain(waiting.iter().copied()));
        let wal = wal::unneeded(self, &needed, &ages, &mut report)?;
        let mut plan = Plan {
            wal: (needed, wal),
            drop: Bits::new(inventory.packs.len() as u64),
            lookup,
            inventory,
            needs,
            seen,
            drop_snapshots,
            tombstones,
            tombstones_future,
            marks: marks.records,
            dropping: false,
            delete: Vec::new(),
            rescued: HashSet::new(),
            repack: Vec::new(),
            mark: Vec::new(),
            waiting: HashSet::new(),
            ages,
            report,
        };
        if let Some(note) = plan.ages.note() {
            plan.report.clock_ahead = true;
            plan.report.notes.push(note);
        }
        plan.decide(self.options.max_unused, only_delete);
        let dropped: Vec<&SnapshotRecord> = set.forgotten.iter().filter(gone).collect();
        let kept: Vec<&SnapshotRecord> = set.live.iter().chain(waiting.iter().copied()).collect();
        match volume::unusual(self, &plan, &kept, &dropped, &marked)? {
            Some(e) if self.options.dry_run => plan.report.notes.push(e.to_string()),
            Some(e) => return Err(e),
            None => {}
        }
        Ok(plan)
    }

    /// Does it. Each step leaves a repository in which every snapshot is whole.
    fn apply(&self, plan: &mut Plan) -> Result<(), PruneError> {
        let removal = Removal::new(self.repository);
        let now = (self.clock)().unix_seconds();
        self.check()?;
        let id = |n: &u32| plan.inventory.packs[*n as usize].id;
        if plan.ages.is_held() {
            // Evidence for the next run that it is this late.
            let body = Marks {
                time: now,
                packs: Vec::new(),
            };
            self.repository
                .put_record(Area::Marks, &body)
                .map_err(PruneError::put)?;
        }
        // Marked before the snapshots go that account for them: a prune that is killed in between leaves marks, not packs that nobody can explain.
        let early: Vec<ObjectId> = match plan.drop_snapshots.is_empty() {
            true => Vec::new(),
            false => plan.mark.iter().map(id).collect(),
        };
        sweep::write_marks(self.repository, now, &early)?;
        self.progress.event(Event::Phase("deleting"));
        for id in &plan.drop_snapshots {
            removal.remove(&Name::Snapshot(*id))?;
        }
        let mut obstacle = newcomers::look(self, plan)?;
        if obstacle.is_none() {
            sweep::index(
                self.repository,
                &removal,
                &plan.lookup,
                &plan.inventory,
                &plan.drop,
                plan.dropping,
            )?;
            obstacle = newcomers::look(self, plan)?;
        }
        let kept_back = obstacle.is_some();
        if let Some(obstacle) = obstacle {
            plan.report.notes.push(obstacle.to_string());
            plan.report.packs_waiting += plan.delete.len() as u64;
            plan.report.packs_deleted = 0;
            plan.report.bytes_waiting += plan.report.bytes_freed;
            plan.report.bytes_after += plan.report.bytes_freed;
            plan.report.bytes_freed = 0;
        } else {
            for n in &plan.delete {
                self.check()?;
                let pack = &plan.inventory.packs[*n as usize];
                if !removal.remove(&Name::Pack(pack.id))? {
                    let stored = pack.stored.unwrap_or(0);
                    plan.report.packs_deleted -= 1;
                    plan.report.packs_waiting += 1;
                    plan.report.bytes_freed -= stored;
                    plan.report.bytes_waiting += stored;
                    plan.report.bytes_after += stored;
                }
                self.progress.event(Event::Done {
                    items: 1,
                    bytes: pack.stored.unwrap_or(0),
                });
            }
        }

        self.check()?;
        self.progress.event(Event::Phase("copying"));
        let repacked = repack::repack(
            self.repository,
            &plan.lookup,
            &plan.inventory,
            &plan.needs,
            &plan.repack,
            self.progress,
            self.cancel,
        )?;
        for (n, why) in &repacked.skipped {
            let pack = &plan.inventory.packs[*n as usize];
            plan.report.notes.push(format!(
                "{} is not copied and stays: {why}; run 'keepwatch verify'",
                Name::Pack(pack.id)
            ));
            let report = &mut plan.report;
            let (live, stored) = (
                plan.needs.live[*n as usize] as u64,
                pack.stored.unwrap_or(0),
            );
            report.packs_repacked -= 1;
            report.packs_marked -= 1;
            report.packs_kept += 1;
            report.bytes_copied -= live;
            report.bytes_after -= live;
            report.bytes_waiting -= stored;
            report.bytes_unused += stored.saturating_sub(live + pack.footer_bytes());
        }

        self.progress.event(Event::Phase("marking"));
        let id = |n: &u32| plan.inventory.packs[*n as usize].id;
        let late = if early.is_empty() {
            &plan.mark[..]
        } else {
            &[]
        };
        let mut new: Vec<ObjectId> = late
            .iter()
            .chain(&repacked.done)
            .map(id)
            .filter(|p| !repacked.stored.contains(p))
            .collect();
        let mut replaced = Vec::new();
        for record in &plan.marks {
            let old = plan.ages.is_old(record.modified, Some(record.time));
            if old {
                // All that it names was deleted or rescued just now.
                if !kept_back {
                    replaced.push(record.id);
                }
                continue;
            }
            let unmarked = |p: &ObjectId| plan.rescued.contains(p) || repacked.stored.contains(p);
            let still = |p: &&ObjectId| plan.waiting.contains(*p) && !unmarked(p);
            if record.packs.iter().any(unmarked)
                || !record.packs.iter().any(|p| still(&p))
                || plan.ages.is_future(record.time)
            {
                new.extend(record.packs.iter().filter(still));
                replaced.push(record.id);
            }
        }
        new.sort_unstable();
        new.dedup();
        sweep::write_marks(self.repository, now, &new)?;
        for id in replaced {
            removal.remove(&Name::Marks(id))?;
        }
        sweep::tombstones(self.repository, &removal, now, &plan.tombstones)?;
        for (id, body) in &plan.tombstones_future {
            let body = Tombstone {
                time: now,
                ..body.clone()
            };
            self.repository
                .put_record(Area::Tombstones, &body)
                .map_err(PruneError::put)?;
            removal.remove(&Name::Tombstone(*id))?;
        }
        let files = std::mem::take(&mut plan.wal.1);
        wal::delete(self, &removal, files, &mut plan.report)?;
        let (renewed, problem) = removal::renew(
            self.repository,
            &plan.inventory,
            &plan.needs,
            &plan.wal.0,
            self.cancel,
        )?;
        plan.report.locks_renewed = renewed;
        plan.report.notes.extend(problem);
        plan.report.objects_locked = removal.locked();
        Ok(())
    }
}

impl Plan {
    /// Decides over each pack.
    fn decide(&mut self, max_unused: MaxUnused, only_delete: bool) {
        // By pack: some mark is old.
        let mut marks: HashMap<ObjectId, bool> = HashMap::new();
        for r in &self.marks {
            let old = self.ages.is_old(r.modified, Some(r.time));
            for p in &r.packs {
                *marks.entry(*p).or_default() |= old;
            }
        }
        let report = &mut self.report;
        // Half-empty packs, and small ones by class: (number, waste).
        let mut candidates: Vec<(u32, u64)> = Vec::new();
        let mut small: [Vec<u32>; 2] = [Vec::new(), Vec::new()];
        let mut unused = 0u64;
        for (n, p) in self.inventory.packs.iter().enumerate() {
            let n = n as u32;
            let live = self.needs.live[n as usize] as u64;
            let Some(stored) = p.stored else {
                // The index names what is not there, and nothing needs it.
                self.drop.set(n as u64);
                self.dropping = true;
                continue;
            };
            report.bytes_before += stored;
            report.bytes_needed += live;
            let waste = stored.saturating_sub(live + p.footer_bytes());
            let old = self.ages.is_old(p.modified, None);
            match marks.get(&p.id) {
                Some(marked_old) if live > 0 || (*marked_old && !old) => {
                    self.rescued.insert(p.id);
                    report.packs_rescued += 1;
                    report.packs_kept += 1;
                    report.bytes_unused += waste;
                }
                Some(true) => {
                    self.delete.push(n);
                    self.drop.set(n as u64);
                    self.dropping |= p.indexed;
                    report.packs_deleted += 1;
                    report.bytes_freed += stored;
                }
                Some(false) => {
                    self.waiting.insert(p.id);
                    report.packs_waiting += 1;
                    report.bytes_waiting += stored;
                }
                None if live == 0 && old && !only_delete => {
                    self.mark.push(n);
                    report.packs_marked += 1;
                    report.packs_orphaned += !p.indexed as u64;
                    report.bytes_waiting += stored;
                }
                None => {
                    report.packs_kept += 1;
                    // Young packs may belong to a backup that is not committed yet: not waste.
                    report.bytes_unused += if old { waste } else { 0 };
                    if old && live > 0 && p.is_sound() && stored <= repack::READ_MAX && !only_delete
                    {
                        if waste > 0 {
                            candidates.push((n, waste));
                            unused += waste;
                        }
                        if stored < SMALL_BYTES {
                            small[p.class as usize].push(n);
                        }
                    }
                }
            }
        }

        let limit = match max_unused {
            MaxUnused::Unlimited => u64::MAX,
            MaxUnused::Bytes(n) => n,
            MaxUnused::Percent(p) => (report.bytes_needed as f64 * p.max(0.0) / 100.0) as u64,
        };
        // Most waste for what must be copied first.
        let packs = &self.inventory.packs;
        let share = |(n, waste): &(u32, u64)| {
            *waste as f64 / packs[*n as usize].stored.unwrap_or(1).max(1) as f64
        };
        candidates.sort_by(|a, b| share(b).total_cmp(&share(a)).then(a.0.cmp(&b.0)));
        let mut chosen = Bits::new(packs.len() as u64);
        for (n, waste) in candidates {
            if unused <= limit {
                break;
            }
            unused -= waste;
            report.bytes_unused -= waste;
            chosen.set(n as u64);
            self.repack.push(n);
        }
        for list in small {
            if list.len() >= SMALL_PACKS {
                for n in list {
                    if !chosen.set(n as u64) {
                        let p = &packs[n as usize];
                        let live = self.needs.live[n as usize] as u64;
                        let stored = p.stored.unwrap_or(0);
                        report.bytes_unused -= stored.saturating_sub(live + p.footer_bytes());
                        self.repack.push(n);
                    }
                }
            }
        }
        self.repack.sort_unstable();
        for n in &self.repack {
            report.packs_kept -= 1;
            report.packs_marked += 1;
            report.packs_repacked += 1;
            report.bytes_copied += self.needs.live[*n as usize] as u64;
            report.bytes_waiting += packs[*n as usize].stored.unwrap_or(0);
        }
        report.bytes_after = report.bytes_before + report.bytes_copied - report.bytes_freed;
    }
}

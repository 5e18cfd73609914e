//! `copy`: snapshots of one repository into another, so that there are three copies on two media, one of them elsewhere.
//!
//! Two ways, chosen by the keys of the two repositories:
//!
//! - **Twins** (`init --from` makes one) have the same repository key, hash secret and host identity. Chunk ids and envelopes of one mean the same in the other, so ciphertext is
//!   carried over as it is ([`carry`]), and no identity is needed: the machine that copies cannot read what it copies.
//! - **Strangers** have different keys. Everything is opened with an identity of the source and sealed anew for the destination ([`reseal`]).
//!
//! A copy is a new record, signed by the writer that copies and standing in its chain, with the times, host, tags, paths and totals of the snapshot that it is a copy of, and with
//! its [`Origin`]: the repository and id of the *first* one, however often it is copied on. A snapshot whose origin is in the destination already, or was and was forgotten there, is
//! skipped, so a copy can be repeated, also after a part of it failed, and the two can have different retention.
//!
//! The destination is written to as a backup writes: packs, index, snapshot; the marks of `prune` are respected; the snapshot is written last, and read back. Every pack and index object is
//! read back before anything relies on it. Snapshots are committed one after another, the oldest first. One that cannot be copied, because the source is
//! damaged, is named, and the others are copied.
//!
//! The source is read only, and may change meanwhile: what its `prune` deletes while it is being copied is a snapshot that is not copied.

mod carry;
mod needs;
mod pairs;
mod reseal;
mod target;
pub mod wal;

use std::collections::HashSet;
use std::path::PathBuf;

use keepwatch_model::time::Moment;

use crate::backup::sink::{Mode, Sink, SinkError};
use crate::ids::{ObjectId, RepositoryId};
use crate::inventory::{Bits, Inventory, InventoryError};
use crate::lookup::Lookup;
use crate::object::{ContentError, ObjectError};
use crate::progress::{Cancel, Cancelled, Event, Progress};
use crate::records::{Origin, Snapshot};
use crate::repository::{AccessError, PutError, Repository};
use crate::snapshots::{SnapshotRecord, SnapshotSet};
use crate::store::{Name, StoreError};

use carry::{Carrier, Sums};
use needs::Planner;
use pairs::Pairs;
use target::Target;

/// Times a snapshot's copy is completed again because `prune` marked packs of the destination meanwhile.
const PASSES: usize = 3;

/// How to copy.
#[derive(Clone, Debug)]
pub struct Options {
    /// Say what would be copied; write nothing.
    pub dry_run: bool,
    /// Read back every pack and index object after it was stored, before anything relies on it. Without it a snapshot's copy rests on the store's word.
    pub read_back: bool,
    /// zstd level for what is sealed anew, 1 to 19.
    pub level: i32,
    /// Sealing threads; 0: as many as there are cores.
    pub threads: usize,
    /// Cache directory of the source.
    pub cache_from: Option<PathBuf>,
    /// Cache directory of the destination.
    pub cache_to: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            dry_run: false,
            read_back: true,
            level: 3,
            threads: 0,
            cache_from: None,
            cache_to: None,
        }
    }
}

/// A snapshot that was copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Copied {
    /// Its id in the source.
    pub source: ObjectId,
    /// The id of its copy; none in a dry run.
    pub copy: Option<ObjectId>,
}

/// A snapshot that could not be copied.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Failed {
    /// Its id in the source.
    pub source: ObjectId,
    /// Why not.
    pub why: String,
}

/// What was done, or would be.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Report {
    /// The two have the same keys: ciphertext was copied.
    pub twins: bool,
    /// Copied, oldest first.
    pub copied: Vec<Copied>,
    /// Already there, or once there and forgotten.
    pub skipped: Vec<ObjectId>,
    /// Not copied.
    pub failed: Vec<Failed>,
    /// Packs stored. Of strangers none are counted in a dry run.
    pub packs: u64,
    /// Of them (or of those found from an interrupted run), packs copied whole, under their own name.
    pub packs_whole: u64,
    /// Twins: bytes of packs read; in a dry run, of the envelopes that would be copied. Strangers: plaintext read.
    pub bytes_read: u64,
    /// Bytes of packs and index objects stored.
    pub bytes_written: u64,
    /// What a person should know although nothing failed.
    pub notes: Vec<String>,
}

/// Why the run stopped. What was committed before is committed, what was stored is used by the next run.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The destination is opened without a writer key.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// Source and destination are one.
    #[error("the source and the destination are the same repository {0}; nothing was copied")]
    Same(RepositoryId),
    /// Different keys, and the source's content cannot be opened.
    #[error(
        "{to} does not have the keys of {from}, so what is copied must be opened and sealed anew, and that needs an identity that opens {from}. \
         A destination that is made with 'keepwatch init --from {from}' needs none; nothing was copied"
    )]
    NeedsIdentity {
        /// Where the source is.
        from: String,
        /// Where the destination is.
        to: String,
    },
    /// Something of the destination, or the source's index.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// Storing.
    #[error(transparent)]
    Put(#[from] PutError),
    /// The pipeline that seals.
    #[error(transparent)]
    Sink(SinkError),
    /// The source fails again and again.
    #[error("the source cannot be read any more: {0}")]
    Source(StoreError),
    /// The local copies of the indexes.
    #[error("the local cache cannot be used: {0}")]
    Cache(String),
    /// What was stored reads differently.
    #[error(
        "{0} was stored in the destination but reads back differently; no snapshot relies on it, but the storage is not to be trusted"
    )]
    ReadBack(Name),
    /// `prune` marks what is needed, again and again.
    #[error(
        "prune marked packs of the destination that a copy needs, {PASSES} times over; is its grace period shorter than a copy takes?"
    )]
    Pruned,
    /// No randomness, or no compression.
    #[error("a pack cannot be made: {0}")]
    Random(String),
    /// Asked to stop.
    #[error(
        "the copy was stopped on request; snapshots copied before are whole, and what was stored is used by the next run"
    )]
    Cancelled(#[from] Cancelled),
}

impl CopyError {
    fn cache(e: std::io::Error) -> Self {
        CopyError::Cache(e.to_string())
    }
}

impl From<SinkError> for CopyError {
    fn from(e: SinkError) -> Self {
        match e {
            SinkError::Put(e) => CopyError::Put(e),
            SinkError::Object(e) => CopyError::Object(e),
            SinkError::ReadBack(name) => CopyError::ReadBack(name),
            SinkError::Stopped => CopyError::Cancelled(Cancelled),
            e => CopyError::Sink(e),
        }
    }
}

impl From<InventoryError> for CopyError {
    fn from(e: InventoryError) -> Self {
        match e {
            InventoryError::Store(e) => CopyError::Object(e.into()),
            InventoryError::Cache(e) => CopyError::cache(e),
        }
    }
}

/// What ends the copy of one snapshot.
enum Trouble {
    /// The source is damaged: this snapshot is not copied.
    Source(String),
    /// The run cannot go on.
    Run(CopyError),
}

impl Trouble {
    fn source(e: ObjectError) -> Self {
        match e {
            ObjectError::Content {
                cause: ContentError::Cache(why),
                ..
            } => Trouble::Run(CopyError::Cache(why)),
            e => Trouble::Source(e.to_string()),
        }
    }
}

impl From<CopyError> for Trouble {
    fn from(e: CopyError) -> Self {
        Trouble::Run(e)
    }
}

/// What the parts of a run share.
struct Run<'a> {
    from: &'a Repository,
    to: &'a Repository,
    options: &'a Options,
    clock: &'a dyn Fn() -> Moment,
    progress: &'a dyn Progress,
    cancel: &'a Cancel,
}

/// The origin of a snapshot: itself, unless it is a copy.
pub fn origin(repository: RepositoryId, snapshot: &SnapshotRecord) -> Origin {
    snapshot.body.original.unwrap_or(Origin {
        repository,
        snapshot: snapshot.id,
    })
}

/// Copies the snapshots `chosen` of `from` to `to`. `source` is all that is known of the snapshots in `from`. `to` must be opened as a writer; `from` by a reader, or by
/// anybody when the two are twins.
#[allow(clippy::too_many_arguments)] // each is another thing, and a struct of them would be built once and taken apart once
pub fn run(
    from: &Repository,
    to: &Repository,
    source: &SnapshotSet,
    chosen: &[&SnapshotRecord],
    options: &Options,
    clock: &dyn Fn() -> Moment,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Report, CopyError> {
    let writer = to
        .writer()
        .ok_or(AccessError::NeedsWriter("copying to a repository"))?
        .id;
    if from.id() == to.id() {
        return Err(CopyError::Same(to.id()));
    }
    let mut report = Report {
        twins: from.is_twin_of(to),
        ..Report::default()
    };
    if !report.twins && from.reader().is_none() {
        return Err(CopyError::NeedsIdentity {
            from: from.store().location(),
            to: to.store().location(),
        });
    }
    let run = Run {
        from,
        to,
        options,
        clock,
        progress,
        cancel,
    };
    progress.event(Event::Phase("reading snapshots and index"));
    let there = to.snapshots()?;
    for e in &there.problems {
        report.notes.push(format!(
            "a snapshot of the destination cannot be read, and is copied again if it is a copy: {e}"
        ));
    }
    // A revoked writer's word does not count: what it says it copied is copied again, which stores hardly anything but the record.
    let mut present: HashSet<Origin> = there
        .live
        .iter()
        .chain(&there.forgotten)
        .filter(|s| !s.revoked)
        .map(|s| origin(to.id(), s))
        .collect();
    // Snapshots of the destination that come back to it, and whose objects are gone.
    let forgotten = there.tombstones.iter().flat_map(|t| &t.snapshots);
    present.extend(forgotten.map(|f| Origin {
        repository: to.id(),
        snapshot: f.id,
    }));
    // Copies that were forgotten, and may be gone for long: `forget` is not undone by the next copy.
    present.extend(there.tombstones.iter().flat_map(|t| &t.origins));
    let mut todo = Vec::new();
    for s in chosen {
        if present.insert(origin(from.id(), s)) {
            todo.push(*s);
        } else {
            report.skipped.push(s.id);
        }
    }
    todo.sort_by_key(|s| (s.start, s.id));
    if todo.is_empty() {
        return Ok(report);
    }
    let cache = options.cache_to.as_deref();
    let (target, lookup) = Target::open(to, writer, cache, &there, clock(), &mut report.notes)?;
    let (source_lookup, problems) = from.load_index(options.cache_from.as_deref())?;
    for e in problems.iter().filter(|e| !e.is_missing()) {
        report
            .notes
            .push(format!("an index object of the source is passed over: {e}"));
    }
    // Of snapshots copied before, only those that this writer signed are relied upon.
    let own: Vec<&SnapshotRecord> = there
        .live
        .iter()
        .filter(|s| s.writer == writer && !s.revoked)
        .collect();
    let job = Job {
        run: &run,
        source,
        source_lookup: &source_lookup,
        todo: &todo,
        own: &own,
    };
    match report.twins {
        true => job.twins(target, lookup, &mut report)?,
        false => job.strangers(target, lookup, &mut report)?,
    }
    Ok(report)
}

struct Job<'a> {
    run: &'a Run<'a>,
    source: &'a SnapshotSet,
    source_lookup: &'a Lookup,
    todo: &'a [&'a SnapshotRecord],
    own: &'a [&'a SnapshotRecord],
}

/// Snapshots of the same thing have about the same content.
fn group(s: &Snapshot) -> (&str, Option<&str>, Vec<&[u8]>) {
    let paths = s.paths.iter().map(|p| &p[..]).collect();
    (&s.host, s.job.as_deref(), paths)
}

impl Job<'_> {
    /// The newest copies that this writer made, one for each group of what is to be copied.
    fn copied_before(&self) -> Vec<&SnapshotRecord> {
        let mut groups: HashSet<_> = self.todo.iter().map(|s| group(&s.body)).collect();
        let newest_first = self.own.iter().rev().copied();
        newest_first
            .filter(|s| groups.remove(&group(&s.body)))
            .collect()
    }

    fn twins(
        &self,
        mut target: Target<'_>,
        mut lookup: Lookup,
        report: &mut Report,
    ) -> Result<(), CopyError> {
        let run = self.run;
        let inventory = Inventory::load(&**run.from.store(), self.source_lookup)?;
        let mut planner = Planner::new(run.from, self.source_lookup, &inventory);
        if !target.has_losses {
            for s in self.copied_before() {
                planner.trust(&s.body);
            }
        }
        run.progress.event(Event::Phase("finding what is needed"));
        // What all of them need, so that a pack is read once, and copied whole when all of it is needed in the end.
        let mut wanted = Bits::new(inventory.envelopes());
        let mut failed = Vec::new();
        for s in self.todo {
            // A snapshot that cannot be copied is reported in its turn.
            match planner.plan(&lookup, &s.body, &mut wanted, run.cancel) {
                Ok(_) => {}
                Err(Trouble::Run(e)) => return Err(e),
                Err(Trouble::Source(why)) => {
                    planner.begin();
                    failed.push((s.id, why));
                }
            }
        }
        let bytes =
            needs::bytes(self.source_lookup, &inventory, &wanted).map_err(CopyError::cache)?;
        if run.options.dry_run {
            report.bytes_read = bytes;
            for s in self.todo {
                match failed.iter().find(|(id, _)| *id == s.id) {
                    Some((_, why)) => report.failed.push(Failed {
                        source: s.id,
                        why: why.clone(),
                    }),
                    None => report.copied.push(Copied {
                        source: s.id,
                        copy: None,
                    }),
                }
            }
            return Ok(());
        }
        run.progress.event(Event::Total { items: 0, bytes });
        let sums = Sums::default();
        for s in self.todo {
            let copied = self.twin(
                s,
                &mut target,
                &mut lookup,
                &inventory,
                &mut planner,
                &mut wanted,
                &sums,
            );
            report.packs = sums.packs.load(std::sync::atomic::Ordering::Relaxed);
            report.packs_whole = sums.packs_whole.load(std::sync::atomic::Ordering::Relaxed);
            report.bytes_read = sums.bytes_read.load(std::sync::atomic::Ordering::Relaxed);
            report.bytes_written = sums
                .bytes_written
                .load(std::sync::atomic::Ordering::Relaxed);
            match copied {
                Ok(id) => {
                    planner.committed();
                    report.copied.push(Copied {
                        source: s.id,
                        copy: Some(id),
                    });
                }
                Err(Trouble::Source(why)) => report.failed.push(Failed { source: s.id, why }),
                Err(Trouble::Run(e)) => return Err(e),
            }
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)] // the state of the run, of which each part is used apart
    fn twin(
        &self,
        snapshot: &SnapshotRecord,
        target: &mut Target<'_>,
        lookup: &mut Lookup,
        inventory: &Inventory,
        planner: &mut Planner<'_>,
        wanted: &mut Bits,
        sums: &Sums,
    ) -> Result<ObjectId, Trouble> {
        let run = self.run;
        let mut pass = 0;
        loop {
            run.progress.event(Event::Phase("copying"));
            planner.begin();
            let mut now = Bits::new(inventory.envelopes());
            let lacking = planner.plan(lookup, &snapshot.body, &mut now, run.cancel)?;
            if lacking > 0 {
                let carrier = Carrier {
                    run,
                    source: self.source_lookup,
                    inventory,
                    target,
                    sums,
                };
                let bad = carrier.carry(&now, wanted, lookup)?;
                for (pack, _) in &bad {
                    planner.refuse(*pack);
                }
                if !bad.is_empty() {
                    // Other copies are looked for; each round knows one pack less.
                    continue;
                }
            }
            run.progress.event(Event::Phase("committing"));
            if !target.refresh(lookup, (run.clock)())? {
                break;
            }
            pass += 1;
            if pass > PASSES {
                return Err(CopyError::Pruned.into());
            }
            planner.distrust();
        }
        let origin = origin(run.from.id(), snapshot);
        let (manifest, refs) = (snapshot.body.manifest.clone(), snapshot.body.refs.clone());
        Ok(target.commit(lookup, snapshot, origin, manifest, refs)?)
    }

    fn strangers(
        &self,
        mut target: Target<'_>,
        mut lookup: Lookup,
        report: &mut Report,
    ) -> Result<(), CopyError> {
        let run = self.run;
        if run.options.dry_run {
            report.copied.extend(self.todo.iter().map(|s| Copied {
                source: s.id,
                copy: None,
            }));
            return Ok(());
        }
        run.progress
            .event(Event::Phase("comparing with what was copied before"));
        let mut pairs = Pairs::new(lookup.dir());
        for copy in self.copied_before() {
            let of = self.source.live.iter().chain(&self.source.forgotten);
            let wanted = copy.body.original;
            let before = of
                .into_iter()
                .find(|s| Some(origin(run.from.id(), s)) == wanted);
            if let Some(before) = before {
                reseal::learn(
                    run,
                    self.source_lookup,
                    &lookup,
                    &before.body,
                    &copy.body,
                    &mut pairs,
                )?;
            }
        }
        for s in self.todo {
            let (back, copied) = self.stranger(s, &mut target, lookup, &mut pairs, report)?;
            lookup = back;
            match copied {
                Ok(id) => report.copied.push(Copied {
                    source: s.id,
                    copy: Some(id),
                }),
                Err(why) => report.failed.push(Failed { source: s.id, why }),
            }
        }
        Ok(())
    }

    /// One snapshot. Gives the lookup back, and the reason when the source is damaged.
    fn stranger(
        &self,
        snapshot: &SnapshotRecord,
        target: &mut Target<'_>,
        mut lookup: Lookup,
        pairs: &mut Pairs,
        report: &mut Report,
    ) -> Result<(Lookup, Result<ObjectId, String>), CopyError> {
        let run = self.run;
        let threads = match run.options.threads {
            0 => std::thread::available_parallelism().map_or(2, |n| n.get()),
            n => n,
        };
        let mode = match run.options.read_back {
            true => Mode::ReadBack,
            false => Mode::Store,
        };
        for _ in 0..PASSES {
            run.progress.event(Event::Phase("copying"));
            let (fed, end) = Sink::run(
                run.to,
                lookup,
                run.options.level,
                threads,
                mode,
                run.cancel,
                |sink| {
                    let source = self.source_lookup;
                    reseal::reseal(run, source, &snapshot.body, pairs, sink)
                },
            );
            let (back, stored) = match (&fed, end) {
                (_, Ok(end)) => end,
                // What failed first is what is told: the pipeline's own error, else what stopped it.
                (Err(Trouble::Run(_)), Err(SinkError::Stopped)) => {
                    return match fed {
                        Err(Trouble::Run(e)) => Err(e),
                        _ => Err(CopyError::Cancelled(Cancelled)),
                    };
                }
                (_, Err(e)) => return Err(e.into()),
            };
            lookup = back;
            report.bytes_written += stored.bytes_added;
            report.packs += stored.packs;
            let resealed = match fed {
                Ok(resealed) => resealed,
                Err(Trouble::Source(why)) => return Ok((lookup, Err(why))),
                Err(Trouble::Run(e)) => return Err(e),
            };
            report.bytes_read += resealed.bytes_read;
            run.progress.event(Event::Phase("committing"));
            let changed = target.refresh(&mut lookup, (run.clock)())?;
            if changed && !reseal::all_usable(run, &lookup, &resealed)? {
                continue;
            }
            let origin = origin(run.from.id(), snapshot);
            let (manifest, refs) = (resealed.manifest, resealed.refs);
            let id = target.commit(&lookup, snapshot, origin, manifest, refs)?;
            return Ok((lookup, Ok(id)));
        }
        Err(CopyError::Pruned)
    }
}

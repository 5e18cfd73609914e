//! Restoring: the files of a snapshot, back into a directory.
//!
//! What a person may rely on:
//! - Nothing is written outside the target, whatever the snapshot says and whatever is exchanged in the target meanwhile (`target`).
//! - A name gets a file when all of its content was checked against its keyed ids, never before (`write`). What cannot be read costs only the files that need it.
//! - Running again does what is left to do.
//! - A restore that succeeded is on the disk: at its end every file system that it wrote to is synced once (`syncfs`), unless `no_sync` says that nobody waits for
//!   it. A power loss before that leaves what the file system happens to leave, names without content among it; then restore again with [`Overwrite::Always`].
//!
//! How: the manifest is read as a stream (`plan`), chunks are looked up a window at a time (`window`), and workers fetch the packs in order, opening each
//! envelope once per window (`write`). Hard links, removal and the metadata of directories follow in passes of their own (`finish`, `delete`), then the proof (`check`).
//!
//! Memory does not depend on the size of the snapshot, but for a few bits per entry, 56 bytes per manifest part, and hard links.

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::chunks::ChunkReader;
use crate::contents::{Bits, Manifest, RefCursor};
use crate::lookup::Lookup;
use crate::manifest::EntryError;
use crate::object::ObjectError;
use crate::patterns::PatternError;
use crate::progress::{Cancel, Cancelled, Event, Problem, Problems, Progress};
use crate::repository::Repository;
use crate::snapshots::SnapshotRecord;

mod check;
mod delete;
mod finish;
mod meta;
mod plan;
mod select;
mod space;
mod stand;
mod target;
pub(crate) mod window;
mod write;

pub(crate) use select::{Selection, normal};

/// All fetches in flight together; each is at most [`FETCH_ONE`]. An envelope is opened beside it, about 6 MiB a thread.
const FETCH_ALL: usize = 64 << 20;
/// One fetch.
const FETCH_ONE: usize = 4 << 20;
/// More threads than this only wait for each other: in the file system, or on the line.
const THREADS_MAX: usize = 16;

/// What is done where something stands already.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overwrite {
    /// It stays.
    Never,
    /// A file of the same size and time is taken to be right, anything else is replaced.
    #[default]
    IfChanged,
    /// It is replaced when the snapshot's is newer.
    IfNewer,
    /// It is replaced.
    Always,
}

/// What to restore, and how.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where to: made when it is absent. `/` restores in place.
    pub target: PathBuf,
    /// Stored paths; empty: everything.
    pub select: Vec<Vec<u8>>,
    /// Patterns of which one must match; empty: any.
    pub include: Vec<String>,
    /// Patterns of which none may match.
    pub exclude: Vec<String>,
    /// See [`Overwrite`].
    pub overwrite: Overwrite,
    /// Removes what the snapshot does not have from directories that are restored.
    pub delete: bool,
    /// Says what would be done.
    pub dry_run: bool,
    /// Reads everything back.
    pub verify: bool,
    /// Restores devices, setuid and setgid bits, `security.*` and `trusted.*` attributes: whoever wrote the snapshot may become root with them.
    pub trust: bool,
    /// Owners by number, not by name.
    pub numeric_ids: bool,
    /// Workers; 0: as many as there are processors.
    pub threads: usize,
    /// Does not wait until what was restored is on the disk.
    pub no_sync: bool,
}

/// What was done.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Report {
    /// Files written or linked; in a dry run, those that would be.
    pub files_restored: u64,
    /// Files left as they are: already right, or not to be replaced.
    pub files_skipped: u64,
    /// Directories restored.
    pub directories: u64,
    /// Symlinks, fifos, devices.
    pub others: u64,
    /// Bytes of content written.
    pub bytes_written: u64,
    /// Things removed that the snapshot does not have.
    pub deleted: u64,
    /// Files read back.
    pub files_verified: u64,
    /// What was left out on purpose, the first thousand.
    pub left_out: Vec<Problem>,
    /// How many.
    pub left_out_total: u64,
    /// What is not as it should be, the first thousand. A file named here was not put in place.
    pub problems: Vec<Problem>,
    /// How many.
    pub problems_total: u64,
    /// For people.
    pub notes: Vec<String>,
    /// How long it took.
    pub duration: Duration,
}

/// Why a restore ended early.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Stopped on request.
    #[error("{0}; files restored so far are whole and stay, run it again to go on")]
    Cancelled(#[from] Cancelled),
    /// Something of the repository without which nothing can be restored.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// The local index.
    #[error("the local cache of the index cannot be read: {0}")]
    Index(#[source] io::Error),
    /// The target.
    #[error("cannot restore into {path}: {cause}")]
    Target {
        /// Where.
        path: String,
        /// Why.
        cause: io::Error,
    },
    /// It would not fit; found out before anything was written.
    #[error(
        "not enough space in {path}: {needed} bytes are needed, {free} are free; nothing was written"
    )]
    Space {
        /// Where.
        path: String,
        /// For what is selected and not there yet.
        needed: u64,
        /// Free for us.
        free: u64,
    },
    /// It did not fit.
    #[error(
        "no space left while restoring {path}: {cause}; files restored so far are whole and stay, run it again to go on"
    )]
    Full {
        /// Which file did not fit.
        path: String,
        /// What the system said.
        cause: String,
    },
    /// The target's file system did not confirm what was written.
    #[error(
        "what was restored into {path} may not have reached the disk: {cause}; look after the disk, then restore again with all files overwritten"
    )]
    Sync {
        /// Where.
        path: String,
        /// What the system said.
        cause: io::Error,
    },
    /// A selected path that cannot be one.
    #[error("'{path}' cannot be a path in a snapshot: {cause}")]
    Path {
        /// As given.
        path: String,
        /// Why.
        cause: EntryError,
    },
    /// A pattern that is not one.
    #[error(transparent)]
    Pattern(#[from] PatternError),
}

/// Restores what is selected of a snapshot. The report tells what could not be; an error means that the run ended before its end.
pub fn run(
    repository: &Repository,
    lookup: &Lookup,
    snapshot: &SnapshotRecord,
    options: &Options,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Report, RestoreError> {
    let begun = Instant::now();
    let select = options.select.iter().map(|p| {
        normal(p).map_err(|cause| RestoreError::Path {
            path: String::from_utf8_lossy(p).into_owned(),
            cause,
        })
    });
    let select = select.collect::<Result<Vec<_>, _>>()?;
    let selection = Selection::new(&select, &options.include, &options.exclude)?;
    let rules = meta::Rules::new(options.trust, options.numeric_ids);
    let target_error = |cause: io::Error| RestoreError::Target {
        path: options.target.display().to_string(),
        cause,
    };

    progress.event(Event::Phase("reading the snapshot"));
    let mut reader = ChunkReader::new(repository, lookup);
    let manifest = Manifest::load(&mut reader, &snapshot.body)?;
    let ranges = manifest.parts_for(&mut reader, &select)?;
    let target = match target::Target::open(&options.target, !options.dry_run) {
        Ok(t) => Some(t),
        Err(e) if options.dry_run && e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(target_error(e)),
    };
    let shared = write::Shared::new(
        repository,
        lookup,
        options,
        &rules,
        progress,
        cancel,
        manifest.entries,
    );
    space::check(
        &shared,
        target.as_ref(),
        &mut reader,
        &manifest,
        &ranges,
        &selection,
        &snapshot.body.totals,
    )?;

    progress.event(Event::Phase("restoring"));
    let threads = match options.threads {
        // Behind a network most of a fetch is waiting.
        0 => std::thread::available_parallelism()
            .map_or(2, |n| n.get())
            .max(repository.store().connections()),
        n => n,
    };
    let threads = threads.clamp(1, THREADS_MAX);
    let again = Bits::new(manifest.entries);
    let refs = RefCursor::new(&snapshot.body)?;
    let fetch = (FETCH_ALL / threads).min(FETCH_ONE) as u32;
    let planned = match &target {
        Some(target) if !options.dry_run => std::thread::scope(|scope| {
            let (send, receive) = crossbeam_channel::bounded(threads * 4);
            for _ in 0..threads {
                let receive = receive.clone();
                let worker = write::Worker::new(&shared, target);
                scope.spawn(move || worker.run(&receive));
            }
            drop(receive);
            let planner = plan::Planner::new(
                &shared,
                &selection,
                Some(target),
                &again,
                refs,
                &mut reader,
                fetch,
                Some(send),
            );
            // An error of the planner must stop the workers too; the scope waits for them.
            planner
                .run(&manifest, &ranges)
                .inspect_err(|_| shared.stop())
        }),
        _ => plan::Planner::new(
            &shared,
            &selection,
            target.as_ref(),
            &again,
            refs,
            &mut reader,
            fetch,
            None,
        )
        .run(&manifest, &ranges),
    };
    if let Some(target) = &target {
        shared.remove_temps(target);
    }
    let mut planned = planned?;
    let stopped = |shared: &write::Shared<'_>| match shared.take_failure() {
        Some(e) => Err(e),
        None => Ok(cancel.check()?),
    };
    stopped(&shared)?;
    for path in selection
        .paths()
        .filter(|p| !p.is_empty() && !planned.found.contains(*p))
    {
        shared.problem(path, "there is no such path in the snapshot");
    }

    let mut deleted = 0;
    let mut verified = 0;
    if let Some(target) = &target {
        if !options.dry_run {
            planned.skipped += finish::links(
                &shared,
                &mut reader,
                target,
                &manifest,
                &ranges,
                &again,
                &planned,
            )?;
            finish::leftovers(target, &planned.leftovers);
            stopped(&shared)?;
        }
        if options.delete {
            if planned.incomplete {
                shared.note("nothing was deleted: a part of the manifest is lost, so it is not known what the snapshot has".into());
            } else {
                progress.event(Event::Phase("deleting"));
                let root = selection.selects_all()
                    && snapshot.body.paths.iter().any(|p| p.as_slice() == b"/");
                deleted = delete::run(&shared, target, &manifest, &ranges, &selection, root)?;
            }
        }
        if options.verify && !options.dry_run {
            progress.event(Event::Phase("verifying"));
            let refs = RefCursor::new(&snapshot.body)?;
            verified = check::run(&shared, target, &manifest, &ranges, refs, threads)?;
        }
        stopped(&shared)?;
        if !options.dry_run {
            progress.event(Event::Phase("finishing directories"));
            finish::directories(&shared, &mut reader, target, &manifest, &ranges, &again)?;
        }
        stopped(&shared)?;
        if !options.dry_run && !options.no_sync {
            progress.event(Event::Phase("waiting for the disk"));
            let asked = target.sync().map_err(|cause| RestoreError::Sync {
                path: options.target.display().to_string(),
                cause,
            })?;
            if !asked {
                shared.note("not every file system could be asked to put what was restored on its disk; it gets there by itself within a minute or so".into());
            }
        }
    }
    if rules.owner_kept.load(Ordering::Relaxed) {
        shared.note("owners were not restored: that needs root".into());
    }
    for space in rules.unsupported() {
        shared.note(format!("extended attributes {space} were not restored: the target's file system or our rights do not allow it"));
    }
    match shared.torn.load(Ordering::Relaxed) {
        0 => {}
        n => shared.note(format!(
            "{n} files changed while they were backed up: their content may be of different moments"
        )),
    }
    let left_out = take(&shared.left_out);
    let problems = take(&shared.problems);
    Ok(Report {
        files_restored: planned.files + shared.files.load(Ordering::Relaxed),
        files_skipped: planned.skipped,
        directories: planned.directories,
        others: planned.others,
        bytes_written: planned.bytes + shared.bytes.load(Ordering::Relaxed),
        deleted,
        files_verified: verified,
        left_out: left_out.first,
        left_out_total: left_out.total,
        problems: problems.first,
        problems_total: problems.total,
        notes: std::mem::take(&mut *shared.notes.lock().unwrap_or_else(|e| e.into_inner())),
        duration: begun.elapsed(),
    })
}

fn take(problems: &Mutex<Problems>) -> Problems {
    std::mem::take(&mut *problems.lock().unwrap_or_else(|e| e.into_inner()))
}

/// Hard link groups counted once when space is added up: 16 MiB and more; further ones count each time.
const COUNTED_LINKS: usize = 512 << 10;

fn count_once(seen: &mut HashSet<[u64; 2]>, link: Option<[u64; 2]>) -> bool {
    match link {
        Some(l) if seen.contains(&l) => false,
        Some(l) => {
            if seen.len() < COUNTED_LINKS {
                seen.insert(l);
            }
            true
        }
        None => true,
    }
}

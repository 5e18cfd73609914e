//! `backup`: from files, or a stream, to a committed snapshot.
//!
//! ```text
//! walk ──batches──▶ readers ──entries in order──▶ collector ──▶ manifest, refs, cache
//!  │ merge-join        │ cut, hash, claim              │
//!  │ with the cache    └────────────drafts─────────────┴──▶ sink: seal, pack, store, index
//! ```
//!
//! Streams, when there are any, are read before the walk; beside files they are put among the entries by the collector. Files whose inode, size, mtime and ctime are as in the local cache are taken over unread. Everything else is read by several threads; entries are put back in order
//! before they are recorded. When all packs and indexes are stored, the marks of `prune` are read again: if a pack that this snapshot relies on was marked
//! meanwhile, the walk is repeated and what was in it is stored anew. The snapshot is written last, read back and compared.
//!
//! Memory, beside the sink's: batches in flight (48 × at most 256 entries of about 400 bytes, 5 MB), the readers' buffers (8 MiB each), and 32 bytes for each chunk
//! of the files being read.

pub mod cache;
mod collect;
mod feed;
mod read;
pub(crate) mod sink;
mod walk;

use std::collections::HashSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use keepwatch_model::time::Moment;

use crate::ids::{ChunkId, ObjectId};
use crate::limits;
use crate::lookup::{Lookup, Window};
use crate::manifest;
use crate::marks::marked_packs;
use crate::object::ObjectError;
use crate::patterns::{PatternError, Patterns};
use crate::progress::{Cancel, Cancelled, Event, Problem, Problems, Progress};
use crate::records::{BaseBackup, Outcome, Snapshot, Totals};
use crate::repository::{AccessError, PutError, Repository};
use crate::store::{Area, Name};

use cache::{CacheReader, CacheWriter};
use collect::{CollectError, Collected};
use feed::Shared;
use sink::{Mode, Sink, SinkError};

/// Times the walk is repeated because `prune` marked packs meanwhile.
const PASSES: usize = 3;

/// What to back up, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Files and directories.
    pub paths: Vec<PathBuf>,
    /// Patterns, see [`crate::patterns`].
    pub excludes: Vec<String>,
    /// Leave out the content of directories marked by CACHEDIR.TAG.
    pub exclude_caches: bool,
    /// Leave out files longer than this many bytes.
    pub exclude_larger_than: Option<u64>,
    /// Stay on the file systems of the given paths.
    pub one_file_system: bool,
    /// Record access times.
    pub with_atime: bool,
    /// Labels.
    pub tags: Vec<String>,
    /// Name of the host.
    pub host: String,
    /// Who runs it.
    pub user: String,
    /// Configured job.
    pub job: Option<String>,
    /// zstd level, 1 to 19.
    pub level: i32,
    /// Store nothing.
    pub dry_run: bool,
    /// Reading and compressing threads; 0: as many as there are cores.
    pub threads: usize,
    /// Read every file, whatever the cache says.
    pub force_read: bool,
    /// Cache directory of this repository; without one the run reads everything.
    pub cache: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            paths: Vec::new(),
            excludes: Vec::new(),
            exclude_caches: false,
            exclude_larger_than: None,
            one_file_system: false,
            with_atime: false,
            tags: Vec::new(),
            host: String::new(),
            user: String::new(),
            job: None,
            level: 3,
            dry_run: false,
            threads: 0,
            force_read: false,
            cache: None,
        }
    }
}

/// Where the data comes from.
pub enum Input<'a> {
    /// The files of [`Options::paths`].
    Files,
    /// A stream, stored as one file.
    Stream {
        /// Its name in the snapshot.
        name: String,
        /// The data.
        reader: Box<dyn Read + Send + 'a>,
        /// Called at its end, before the commit: an `Err` means that the stream is not to be trusted, and no snapshot is made.
        finish: Finish<'a>,
    },
    /// A base backup of a PostgreSQL cluster: a stream, of which is known at its end what WAL it needs.
    Base {
        /// Its name in the snapshot.
        name: String,
        /// The data.
        reader: Box<dyn Read + Send + 'a>,
        /// As that of a stream; what it says is written into the snapshot.
        finish: Box<dyn FnOnce() -> Result<BaseBackup, String> + Send + 'a>,
    },
    /// Streams one after another, each stored as one file; and after them, in the same snapshot, the files of [`Options::paths`] if there are any.
    Streams {
        /// What the snapshot says that it is of, beside those paths: the directories above the names. No file that is backed up lies in one of them.
        names: Vec<String>,
        /// The next stream; none at the end. An `Err` says why there is no more, and no snapshot is made.
        next: Next<'a>,
    },
}

/// Called at the end of a stream: an `Err` means that it is not to be trusted.
pub type Finish<'a> = Box<dyn FnOnce() -> Result<(), String> + Send + 'a>;
/// Gives one stream after another.
pub type Next<'a> = Box<dyn FnMut() -> Result<Option<Stream<'a>>, String> + Send + 'a>;

/// Streams in one snapshot; 32 bytes for each half mebibyte of each, and its name, are held until the last has ended; beside files twice, until
/// the walk has ended (128 MB for 1 TiB of dumps).
pub const STREAMS: usize = 100_000;

/// One of several streams.
pub struct Stream<'a> {
    /// Its name in the snapshot: a relative path.
    pub name: String,
    /// The data.
    pub reader: Box<dyn Read + Send + 'a>,
    /// Called at its end.
    pub finish: Finish<'a>,
}

/// What a run did.
#[derive(Clone, Debug)]
pub struct Report {
    /// The new snapshot; none in a dry run.
    pub snapshot: Option<ObjectId>,
    /// Its number among this writer's.
    pub sequence: u64,
    /// Whether everything is in it.
    pub outcome: Outcome,
    /// Sums.
    pub totals: Totals,
    /// Files that are missing or torn.
    pub problems: Problems,
    /// The snapshot with which files were compared.
    pub parent: Option<ObjectId>,
    /// What a person should know although nothing failed.
    pub warnings: Vec<String>,
    /// When it began.
    pub start: Moment,
    /// When it was committed.
    pub end: Moment,
}

/// Why there is no snapshot. Everything stored before is as it was.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The repository.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// An object.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// Storing.
    #[error(transparent)]
    Put(#[from] PutError),
    /// The pipeline.
    #[error(transparent)]
    Sink(SinkError),
    /// A pattern.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// None of the paths can be read.
    #[error("nothing to back up: {0}")]
    NoSources(String),
    /// The name of a stream.
    #[error(
        "'{0}' cannot be the name of a stream: give a relative path without '..', beside the files that are backed up"
    )]
    StreamName(String),
    /// The stream broke, or its source says that it is not whole.
    #[error("the stream '{name}' is not whole: {why}; no snapshot was made")]
    Stream {
        /// Its name.
        name: String,
        /// Why.
        why: String,
    },
    /// There is no next stream, and it is not the end.
    #[error("{0}; no snapshot was made")]
    Streams(String),
    /// The local cache.
    #[error("the local cache cannot be used: {0}")]
    Cache(String),
    /// Asked to stop.
    #[error("the backup was stopped on request; what it stored is reused by the next run")]
    Cancelled(#[from] Cancelled),
    /// `prune` marks what this run stores, again and again.
    #[error(
        "prune marked packs that this backup needs, {PASSES} times over; is its grace period shorter than a backup takes? No snapshot was made"
    )]
    Pruned,
    /// The snapshot that was written reads differently.
    #[error(
        "the snapshot {0} was written but reads back differently; do not rely on it, and check the storage"
    )]
    ReadBack(ObjectId),
}

impl From<SinkError> for BackupError {
    fn from(e: SinkError) -> Self {
        match e {
            SinkError::Put(e) => BackupError::Put(e),
            SinkError::Object(e) => BackupError::Object(e),
            SinkError::Stopped => BackupError::Cancelled(Cancelled),
            e => BackupError::Sink(e),
        }
    }
}

impl From<CollectError> for BackupError {
    fn from(e: CollectError) -> Self {
        match e {
            CollectError::Sink(e) => e.into(),
            CollectError::Cache(e) => BackupError::Cache(e.to_string()),
            CollectError::Twice(path) => {
                BackupError::StreamName(String::from_utf8_lossy(&path).into_owned())
            }
        }
    }
}

/// Backs up.
pub fn run(
    repository: &Repository,
    options: &Options,
    input: Input<'_>,
    clock: &dyn Fn() -> Moment,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Report, BackupError> {
    let start = clock();
    let writer = repository
        .writer()
        .ok_or(AccessError::NeedsWriter("a backup"))?
        .id;
    let chunker = repository.chunker()?;
    let threads = if options.threads > 0 {
        options.threads
    } else {
        std::thread::available_parallelism().map_or(2, |n| n.get())
    };
    Patterns::new(&options.excludes)?;
    let base = Mutex::new(None);
    let input = match input {
        Input::Base {
            name,
            reader,
            finish,
        } => {
            let base = &base;
            Input::Stream {
                name,
                reader,
                finish: Box::new(move || {
                    let found = finish()?;
                    *base.lock().unwrap_or_else(|e| e.into_inner()) = Some(found);
                    Ok(())
                }),
            }
        }
        // Each by itself, so that it may borrow `base` as well.
        Input::Files => Input::Files,
        Input::Stream {
            name,
            reader,
            finish,
        } => Input::Stream {
            name,
            reader,
            finish,
        },
        Input::Streams { names, mut next } => Input::Streams {
            names,
            // Its streams live shorter here, which the closure itself cannot say.
            next: Box::new(move || {
                let stream = next()?;
                Ok(stream)
            }),
        },
    };
    let (sources, missing, stream) = match input {
        Input::Base { .. } => unreachable!("made a stream above"),
        Input::Files => {
            let (sources, missing) = files(options)?;
            (sources, missing, None)
        }
        Input::Stream {
            name,
            reader,
            finish,
        } => {
            if manifest::check_path(name.as_bytes()).is_err() {
                return Err(BackupError::StreamName(name));
            }
            let names = vec![name.clone()];
            let mut only = Some(Stream {
                name,
                reader,
                finish,
            });
            let next: Next<'_> = Box::new(move || Ok(only.take()));
            (Vec::new(), Vec::new(), Some((names, next)))
        }
        Input::Streams { names, next } => {
            let (sources, missing) = match options.paths.is_empty() {
                true => Default::default(),
                false => files(options)?,
            };
            (sources, missing, Some((names, next)))
        }
    };
    let mut shown: Vec<Vec<u8>> = sources
        .iter()
        .map(|p| std::os::unix::ffi::OsStrExt::as_bytes(p.as_os_str()).to_vec())
        .collect();
    if let Some((names, _)) = &stream {
        shown.extend(names.iter().map(|n| n.clone().into_bytes()));
    }

    progress.event(Event::Phase("loading the index"));
    let marks = marked_packs(repository)?;
    let (mut lookup, damaged) = repository.load_index(options.cache.as_deref())?;
    let mut warnings: Vec<String> = damaged
        .iter()
        .filter(|e| !e.is_missing())
        .map(|e| format!("an index object is passed over, what it names is stored again: {e}"))
        .collect();
    let mut unusable = marks;
    let lost = lost_packs(repository, &lookup)?;
    if !lost.is_empty() {
        warnings.push(format!(
            "{} packs that the index names are missing or cut short; what was in them is stored again as far as it still exists here; run 'keepwatch verify'",
            lost.len()
        ));
    }
    unusable.extend(lost);
    lookup
        .set_unusable(unusable.clone())
        .map_err(|e| BackupError::Cache(e.to_string()))?;
    let mut snapshot_ids = HashSet::new();
    repository
        .store()
        .list(Area::Snapshots, &mut |l| {
            snapshot_ids.extend(l.name.object_id())
        })
        .map_err(ObjectError::from)?;
    let (mut index_ids, mut all_covered) = (Vec::new(), true);
    repository
        .store()
        .list(Area::Index, &mut |l| index_ids.extend(l.name.object_id()))
        .map_err(ObjectError::from)?;
    all_covered &= damaged.is_empty();

    let cache_file = cache_path(
        repository,
        lookup.dir(),
        &options.host,
        options.job.as_deref(),
        &shown,
    );
    let mut parent = CacheReader::open(&cache_file);
    let parent_id = parent
        .as_ref()
        .map(|p| p.snapshot)
        .filter(|id| snapshot_ids.contains(id));

    let shared = Shared {
        repository,
        options,
        chunker: &chunker,
        progress,
        cancel,
        threads,
        sources: &sources,
    };
    let mut stream = stream;
    // What was read of streams beside files: they cannot be read again.
    let mut beside = feed::Entries::new();
    let mut bytes = Totals::default();
    let mut pass = 0;
    let (collected, problems, notes) = loop {
        pass += 1;
        // Ids in the cache need no look-up as long as nothing that existed then went away.
        let trusted = all_covered
            && unusable.is_empty()
            && parent
                .as_ref()
                .is_some_and(|p| p.indexes.iter().all(|i| index_ids.contains(i)));
        let mut cache =
            CacheWriter::create(lookup.dir()).map_err(|e| BackupError::Cache(e.to_string()))?;
        cache
            .head()
            .map_err(|e| BackupError::Cache(e.to_string()))?;
        progress.event(Event::Phase("reading"));
        let fed = Sink::run(
            repository,
            lookup,
            options.level,
            threads,
            if options.dry_run {
                Mode::Dry
            } else {
                Mode::Store
            },
            cancel,
            |sink| {
                let mut of_streams = 0;
                match stream.take() {
                    Some((_, next)) if sources.is_empty() => {
                        return shared.streams(sink, cache, next, start);
                    }
                    Some((_, next)) => {
                        (beside, of_streams) = shared.read_streams(sink, next)?;
                    }
                    None => {}
                }
                let among = beside.iter().cloned();
                let among = among.map(|(name, read)| feed::ready(name, read, start));
                let among = among.collect();
                let fed = shared.files(sink, cache, parent.take(), trusted, &missing, among);
                fed.map(|(collected, problems, notes, n)| {
                    (collected, problems, notes, n + of_streams)
                })
            },
        );
        // What failed first is what is told: the pipeline's own error, else the feed's, which stopped the pipeline.
        let (fed, end) = fed;
        let (fed, (back, stored)) = match (fed, end) {
            (Ok(fed), Ok(end)) => (fed, end),
            (Err(e), Ok(_) | Err(SinkError::Stopped)) => return Err(e),
            (_, Err(e)) => return Err(e.into()),
        };
        lookup = back;
        let (collected, problems, notes, bytes_read) = fed;
        cancel.check()?;
        bytes.bytes_read += bytes_read;
        bytes.bytes_added += stored.bytes_added;
        bytes.chunks_new += stored.chunks_new;
        index_ids.extend(stored.indexes);
        if options.dry_run {
            break (collected, problems, notes);
        }
        progress.event(Event::Phase("committing"));
        let now_marked = marked_packs(repository)?;
        let before = unusable.len();
        unusable.extend(now_marked);
        if unusable.len() == before {
            break (collected, problems, notes);
        }
        lookup
            .set_unusable(unusable.clone())
            .map_err(|e| BackupError::Cache(e.to_string()))?;
        if all_usable(&lookup, &collected)? {
            break (collected, problems, notes);
        }
        if pass >= PASSES || sources.is_empty() || !all_there(&lookup, &beside)? {
            return Err(BackupError::Pruned);
        }
        progress.event(Event::Note(
            "prune marked packs that this backup uses; storing their content again",
        ));
        parent = collected.cache.reader().ok();
        all_covered = true;
    };

    let mut totals = collected.totals;
    totals.bytes_read = bytes.bytes_read;
    totals.bytes_added = bytes.bytes_added;
    totals.chunks_new = bytes.chunks_new;
    totals.problems = problems.total;
    warnings.extend(notes);
    // An empty snapshot that is called partial would be found out on the day it is needed.
    let streams = beside.iter().filter(|(_, read)| read.is_some()).count() as u64;
    if totals.files + totals.others == streams && !sources.is_empty() {
        if let Some(p) = problems.first.first() {
            return Err(BackupError::NoSources(format!(
                "nothing in the sources could be read, beginning with {}: {}",
                String::from_utf8_lossy(&p.path),
                p.what
            )));
        }
    }
    let outcome = if problems.is_empty() {
        Outcome::Succeeded
    } else {
        Outcome::Partial
    };
    let end = clock();
    let mut report = Report {
        snapshot: None,
        sequence: 0,
        outcome,
        totals,
        problems,
        parent: parent_id,
        warnings,
        start,
        end,
    };
    if options.dry_run {
        return Ok(report);
    }

    let (previous, sequence) = predecessor(repository, writer, &lookup, &snapshot_ids)?;
    let snapshot = Snapshot {
        sequence,
        previous,
        start: start.into(),
        end: end.into(),
        host: options.host.clone(),
        user: options.user.clone(),
        job: options.job.clone(),
        tags: options.tags.clone(),
        paths: shown.into_iter().map(Into::into).collect(),
        outcome: outcome as u8,
        totals,
        manifest: collected.manifest,
        refs: collected.refs,
        program: concat!("keepwatch ", env!("CARGO_PKG_VERSION")).into(),
        source: if sources.is_empty() { 1 } else { 0 },
        original: None,
        base: base.lock().unwrap_or_else(|e| e.into_inner()).take(),
    };
    let (bytes, id) = repository.make_record(Area::Snapshots, &snapshot)?;
    let name = Name::Snapshot(id);
    repository
        .store()
        .put(&name, &bytes)
        .map_err(PutError::from)?;
    let back = repository
        .store()
        .get(&name, limits::RECORD_BYTES as u64)
        .map_err(ObjectError::from)?;
    if back != bytes {
        return Err(BackupError::ReadBack(id));
    }
    report.snapshot = Some(id);
    report.sequence = sequence;
    // From here on nothing may fail the backup: it is committed.
    if options.cache.is_some() {
        let kept = collected
            .cache
            .commit(&cache_file, id, sequence, &index_ids)
            .and_then(|()| remember_last(lookup.dir(), writer, id, sequence));
        if let Err(e) = kept {
            report.warnings.push(format!(
                "the local cache cannot be written, the next run will read every file: {e}"
            ));
        }
    }
    Ok(report)
}

/// The paths of files, as they are walked, and those that cannot be.
fn files(options: &Options) -> Result<(Vec<PathBuf>, Vec<Problem>), BackupError> {
    let (sources, missing) = walk::sources(&options.paths);
    if !sources.is_empty() {
        return Ok((sources, missing));
    }
    let why = missing
        .iter()
        .map(|p| format!("{} {}", String::from_utf8_lossy(&p.path), p.what))
        .collect::<Vec<_>>()
        .join("; ");
    Err(BackupError::NoSources(match why.is_empty() {
        true => "no path was given".into(),
        false => why,
    }))
}

/// True when what was read of streams has a usable copy.
fn all_there(lookup: &Lookup, entries: &feed::Entries) -> Result<bool, BackupError> {
    let mut window = Window::default();
    let ids = entries.iter().filter_map(|(_, read)| read.as_ref());
    for id in ids.flat_map(|(_, ids)| ids.chunks_exact(32)) {
        let id = ChunkId(id.try_into().expect("32 bytes"));
        let there = lookup.contains(&id, &mut window);
        if !there.map_err(|e| BackupError::Cache(e.to_string()))? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Packs that an index names but the store does not have, or has with another length.
fn lost_packs(repository: &Repository, lookup: &Lookup) -> Result<HashSet<ObjectId>, BackupError> {
    // 40 bytes a pack: 26 MB for ten terabytes.
    let mut present: Vec<(ObjectId, u64)> = Vec::new();
    repository
        .store()
        .list(Area::Packs, &mut |l| {
            present.extend(l.name.object_id().map(|id| (id, l.size)))
        })
        .map_err(ObjectError::from)?;
    present.sort_unstable();
    let mut lost = HashSet::new();
    for part in lookup.parts() {
        part.each_pack(&mut |_, p| {
            if present.binary_search(&(p.id, p.size)).is_err() {
                lost.insert(p.id);
            }
            Ok(())
        })
        .map_err(|e| BackupError::Cache(e.to_string()))?;
    }
    Ok(lost)
}

/// True when every chunk that the new snapshot needs has a usable copy.
fn all_usable(lookup: &Lookup, collected: &Collected) -> Result<bool, BackupError> {
    let cache_error = |e: std::io::Error| BackupError::Cache(e.to_string());
    let mut window = Window::default();
    for id in &collected.metadata {
        if !lookup.contains(id, &mut window).map_err(cache_error)? {
            return Ok(false);
        }
    }
    let mut entries = collected.cache.reader().map_err(cache_error)?;
    while let Some(c) = entries.take_next() {
        for id in c.chunks.chunks_exact(32) {
            let id = ChunkId(id.try_into().expect("32 bytes"));
            if !lookup.contains(&id, &mut window).map_err(cache_error)? {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Remembers this writer's last snapshot in the cache directory.
pub(crate) fn remember_last(
    dir: &Path,
    writer: crate::ids::WriterId,
    id: ObjectId,
    sequence: u64,
) -> std::io::Result<()> {
    std::fs::write(
        dir.join(format!("last-{writer}")),
        format!("{id} {sequence}\n"),
    )
}

/// This writer's last snapshot, and the number of the next. Normally known from last time; else all snapshots are read.
fn predecessor(
    repository: &Repository,
    writer: crate::ids::WriterId,
    lookup: &Lookup,
    present: &HashSet<ObjectId>,
) -> Result<(Option<ObjectId>, u64), BackupError> {
    let remembered = std::fs::read_to_string(lookup.dir().join(format!("last-{writer}")))
        .ok()
        .and_then(|t| {
            let (id, n) = t.trim().split_once(' ')?;
            Some((id.parse::<ObjectId>().ok()?, n.parse::<u64>().ok()?))
        });
    if let Some((id, n)) = remembered.filter(|(id, _)| present.contains(id)) {
        return Ok((Some(id), n.saturating_add(1)));
    }
    Ok(repository.snapshots()?.next_of(writer))
}

/// Where the copy of the last manifest lies: one for each host, job and set of source paths.
pub fn cache_path(
    repository: &Repository,
    dir: &Path,
    host: &str,
    job: Option<&str>,
    paths: &[Vec<u8>],
) -> PathBuf {
    let mut purpose = b"files\0".to_vec();
    for p in [host.as_bytes(), job.unwrap_or("").as_bytes()]
        .into_iter()
        .chain(paths.iter().map(|p| &p[..]))
    {
        purpose.extend_from_slice(&(p.len() as u64).to_le_bytes());
        purpose.extend_from_slice(p);
    }
    let key = repository.hash().local(&purpose);
    dir.join(format!("files-{}", crate::ids::hex(&key[..8])))
}

//! The first half of the pipeline: walk, readers, collector; see the drawing in `backup`.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::iter::Peekable;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crossbeam_channel::{Receiver, Sender, bounded};
use keepwatch_model::time::Moment;

use crate::chunker::Chunker;
use crate::ids::ChunkId;
use crate::lookup::Window;
use crate::manifest::{self, Entry, EntryKind, FLAG_PARENT, FileTime};
use crate::patterns::Patterns;
use crate::progress::{Cancel, Event, Problem, Problems, Progress};
use crate::repository::Repository;

use super::cache::{self, CacheReader, CacheWriter};
use super::collect::{CollectError, Collected, Collector, Ready, Status};
use super::read::{ReadError, Reader};
use super::sink::{Sink, SinkError};
use super::walk::{self, Filter, Found, Names, Visitor};
use super::{BackupError, Next, Options, STREAMS, Stream};

/// Batches of entries between walk and collector, each of at most 256 entries of about 400 bytes: 5 MB.
const BATCHES: usize = 48;
/// Entries in a batch, bytes of files to be read in one, and open directories that one may hold.
const BATCH_ENTRIES: usize = 256;
const BATCH_BYTES: u64 = 4 << 20;
const BATCH_DIRECTORIES: usize = 4;

/// What all threads of a run share.
pub struct Shared<'a> {
    pub repository: &'a Repository,
    pub options: &'a Options,
    pub chunker: &'a Chunker,
    pub progress: &'a dyn Progress,
    pub cancel: &'a Cancel,
    pub threads: usize,
    pub sources: &'a [PathBuf],
}

/// What was collected, what could not be read, what to note, and how many bytes were read.
pub type Fed = (Collected, Problems, Vec<String>, u64);

enum Item {
    Ready(Ready),
    Read {
        found: Box<Found>,
        before: Option<Box<cache::Cached>>,
    },
}

struct Batch {
    number: u64,
    items: Vec<Item>,
}

impl Shared<'_> {
    /// Walks and reads the sources. `beside`: what was read of streams; it is recorded among the files.
    pub fn files(
        &self,
        sink: &Sink<'_>,
        cache: CacheWriter,
        parent: Option<CacheReader>,
        trusted: bool,
        missing: &[Problem],
        beside: Vec<Ready>,
    ) -> Result<Fed, BackupError> {
        let problems = Mutex::new(Problems::default());
        let report = |p: Problem| {
            self.progress.event(Event::Problem(&p));
            problems.lock().unwrap_or_else(|e| e.into_inner()).push(p);
        };
        for p in missing {
            report(p.clone());
        }
        let notes = Mutex::new(Vec::new());
        let bytes_read = std::sync::atomic::AtomicU64::new(0);
        let (to_readers, from_walk) = bounded::<Batch>(self.threads);
        let (to_collector, in_any_order) = bounded::<Batch>(BATCHES);
        let (permit, permits) = bounded::<()>(BATCHES);
        let readers = self.threads.min(8);
        let collected = std::thread::scope(|scope| {
            for _ in 0..readers {
                let (input, output) = (from_walk.clone(), to_collector.clone());
                let (report, bytes_read) = (&report, &bytes_read);
                scope.spawn(move || {
                    let mut reader = Reader::new(
                        self.repository,
                        sink,
                        self.chunker,
                        self.progress,
                        self.options.with_atime,
                    );
                    let mut names = Names::load();
                    for mut batch in input {
                        self.read_batch(&mut reader, &mut names, &mut batch, sink, report);
                        if output.send(batch).is_err() {
                            break;
                        }
                    }
                    if let Err(e) = reader.flush() {
                        sink.fail(e);
                    }
                    bytes_read.fetch_add(reader.bytes_read, std::sync::atomic::Ordering::Relaxed);
                });
            }
            drop(from_walk);
            let collector =
                scope.spawn(|| self.collect(sink, cache, &in_any_order, &permits, beside));
            let filter = Filter {
                excludes: Patterns::new(&self.options.excludes).expect("checked before"),
                larger_than: self.options.exclude_larger_than,
                caches: self.options.exclude_caches,
                one_file_system: self.options.one_file_system,
                never: self.never(),
                atime: self.options.with_atime,
            };
            let mut walk = Walk {
                shared: self,
                sink,
                parent,
                trusted,
                window: Window::default(),
                batch: Vec::new(),
                bytes: 0,
                directories: Vec::new(),
                number: 0,
                permit,
                to_readers,
                to_collector,
                report: &report,
                notes: &notes,
            };
            let walked = walk::walk(self.sources, &filter, &mut Names::load(), &mut walk)
                .and_then(|()| walk.send());
            drop(walk);
            let collected = collector
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            match walked {
                Ok(()) => collected,
                Err(Stop) => collected.and(Err(SinkError::Stopped.into())),
            }
        });
        let notes = notes.into_inner().unwrap_or_else(|e| e.into_inner());
        let problems = problems.into_inner().unwrap_or_else(|e| e.into_inner());
        match collected {
            Ok(c) => Ok((c, problems, notes, bytes_read.into_inner())),
            Err(e) => {
                if let CollectError::Cache(io) = e {
                    sink.fail(SinkError::Stopped);
                    return Err(BackupError::Cache(io.to_string()));
                }
                sink.fail(SinkError::Stopped);
                Err(e.into())
            }
        }
    }

    /// Directories that hold our own data: a backup of `/` must not swallow its own repository.
    fn never(&self) -> HashSet<(u64, u64)> {
        use std::os::unix::fs::MetadataExt;
        let mut own: Vec<PathBuf> = vec![PathBuf::from(self.repository.store().location())];
        own.extend(self.options.cache.clone());
        own.iter()
            .filter(|p| p.is_absolute() || p.exists())
            .filter_map(|p| std::fs::metadata(p).ok())
            .map(|m| (m.dev(), m.ino()))
            .collect()
    }

    fn read_batch(
        &self,
        reader: &mut Reader<'_>,
        names: &mut Names,
        batch: &mut Batch,
        sink: &Sink<'_>,
        report: &dyn Fn(Problem),
    ) {
        let items = std::mem::take(&mut batch.items);
        for item in items {
            let (found, before) = match item {
                Item::Read { found, before } if !sink.is_stopped() => (found, before),
                Item::Read { .. } => continue,
                ready => {
                    batch.items.push(ready);
                    continue;
                }
            };
            let Found {
                mut entry, place, ..
            } = *found;
            self.progress.event(Event::Item(&entry.path));
            let shown = |path: &[u8]| [b"/", path].concat();
            let told = reader.bytes_told;
            let read = reader.file(&mut entry, &place, names);
            // What was not told while it was read: short files, and holes. So the bytes of a run add up to the sizes of its files.
            self.progress.event(Event::Done {
                items: 1,
                bytes: entry.len().saturating_sub(reader.bytes_told - told),
            });
            match read {
                Ok(content) => {
                    if let Some(what) = content.problem {
                        report(Problem::new(shown(&entry.path), what));
                    }
                    let status = match before {
                        None => Status::New,
                        Some(b) => {
                            let mut encoded = Vec::new();
                            entry.encode_to(&mut encoded);
                            if b.chunks == content.chunks && b.entry == encoded {
                                Status::Unmodified
                            } else {
                                Status::Changed
                            }
                        }
                    };
                    batch.items.push(Item::Ready(Ready::Fresh {
                        entry: Box::new(entry),
                        fingerprint: content.fingerprint,
                        chunks: content.chunks,
                        status,
                    }));
                }
                Err(ReadError::File(what)) => report(Problem::new(shown(&entry.path), what)),
                Err(ReadError::Sink(e)) => sink.fail(e),
            }
        }
    }

    fn collect(
        &self,
        sink: &Sink<'_>,
        cache: CacheWriter,
        input: &Receiver<Batch>,
        permits: &Receiver<()>,
        beside: Vec<Ready>,
    ) -> Result<Collected, CollectError> {
        let mut collector = Collector::new(self.repository, sink, cache);
        let mut beside = beside.into_iter().peekable();
        let mut waiting: BTreeMap<u64, Batch> = BTreeMap::new();
        let mut next = 0;
        let mut failed = None;
        for batch in input {
            waiting.insert(batch.number, batch);
            while let Some(batch) = waiting.remove(&next) {
                next += 1;
                for item in &batch.items {
                    let Item::Ready(ready) = item else { continue };
                    if failed.is_none() && !sink.is_stopped() {
                        if let Err(e) = merge(&mut collector, &mut beside, ready) {
                            sink.fail(SinkError::Stopped);
                            failed = Some(e);
                        }
                    }
                }
                let _ = permits.recv();
            }
        }
        match failed {
            Some(e) => Err(e),
            None if sink.is_stopped() => Err(SinkError::Stopped.into()),
            None => {
                beside.try_for_each(|b| collector.push(&b))?;
                collector.finish()
            }
        }
    }

    /// Reads streams, one after another, and gives what is recorded of them and how many bytes were read.
    pub fn read_streams(
        &self,
        sink: &Sink<'_>,
        mut next: Next<'_>,
    ) -> Result<(Entries, u64), BackupError> {
        let read = (|| {
            let mut reader = Reader::new(self.repository, sink, self.chunker, self.progress, false);
            let mut read: BTreeMap<Vec<u8>, Read> = BTreeMap::new();
            while let Some(Stream {
                name,
                reader: mut input,
                finish,
            }) = next().map_err(BackupError::Streams)?
            {
                self.cancel.check()?;
                let taken = read.contains_key(name.as_bytes()) || read.len() >= STREAMS;
                if taken
                    || manifest::check_path(name.as_bytes()).is_err()
                    || self.is_of_files(name.as_bytes())
                {
                    return Err(BackupError::StreamName(name));
                }
                self.progress.event(Event::Item(name.as_bytes()));
                let broken = |why: String| BackupError::Stream {
                    name: name.clone(),
                    why,
                };
                let mut chunks = Vec::new();
                let size = match reader.stream(&mut *input, &mut chunks) {
                    Ok(n) => n,
                    Err(ReadError::File(why)) => return Err(broken(why)),
                    Err(ReadError::Sink(e)) => return Err(e.into()),
                };
                drop(input);
                finish().map_err(broken)?;
                read.insert(name.into_bytes(), (size, chunks));
            }
            reader.flush()?;
            if read.is_empty() {
                return Err(BackupError::NoSources("the source gave no stream".into()));
            }
            // Directories above the names, so that the tree is whole.
            let mut entries: Entries = Vec::new();
            let mut above: HashSet<Vec<u8>> = HashSet::new();
            for (name, content) in read {
                for (i, _) in name.iter().enumerate().filter(|(_, b)| **b == b'/') {
                    if above.insert(name[..i].to_vec()) {
                        entries.push((name[..i].to_vec(), None));
                    }
                }
                entries.push((name, Some(content)));
            }
            entries.sort_by(|a, b| manifest::compare(&a.0, &b.0));
            if let Some(twice) = entries.windows(2).find(|w| w[0].0 == w[1].0) {
                let name = String::from_utf8_lossy(&twice[0].0).into_owned();
                return Err(BackupError::StreamName(name));
            }
            Ok((entries, reader.bytes_read))
        })();
        if read.is_err() {
            sink.fail(SinkError::Stopped);
        }
        read
    }

    /// Whether a stream of this name would lie in a directory that is backed up with the files.
    fn is_of_files(&self, name: &[u8]) -> bool {
        let first = |path: &[u8]| path.split(|b| *b == b'/').next().map(<[u8]>::to_vec);
        let top = first(name);
        self.sources.iter().any(|source| {
            let path = source.as_os_str().as_bytes();
            let path = path.strip_prefix(b"/").unwrap_or(path);
            match (path.is_empty(), &top) {
                (true, Some(top)) => {
                    std::fs::symlink_metadata(Path::new("/").join(OsStr::from_bytes(top))).is_ok()
                }
                _ => first(path) == top,
            }
        })
    }

    /// Reads streams, and records them alone, in the order of the manifest, whatever order they come in.
    pub fn streams(
        &self,
        sink: &Sink<'_>,
        cache: CacheWriter,
        next: Next<'_>,
        start: Moment,
    ) -> Result<Fed, BackupError> {
        let (entries, bytes_read) = self.read_streams(sink, next)?;
        let fed = (|| {
            let mut collector = Collector::new(self.repository, sink, cache);
            for (name, content) in entries {
                collector.push(&ready(name, content, start))?;
            }
            let collected = collector.finish()?;
            Ok((collected, Problems::default(), Vec::new(), bytes_read))
        })();
        if fed.is_err() {
            sink.fail(SinkError::Stopped);
        }
        fed
    }
}

/// Records an entry, after those of streams that stand before it.
fn merge(
    collector: &mut Collector<'_>,
    beside: &mut Peekable<std::vec::IntoIter<Ready>>,
    ready: &Ready,
) -> Result<(), CollectError> {
    let is_before = |s: &Ready| manifest::compare(s.path(), ready.path()).is_lt();
    while let Some(stream) = beside.next_if(is_before) {
        collector.push(&stream)?;
    }
    match beside.peek() {
        Some(stream) if stream.path() == ready.path() => {
            Err(CollectError::Twice(ready.path().to_vec()))
        }
        _ => collector.push(ready),
    }
}

/// What was read of streams, with the directories above them, in order.
pub type Entries = Vec<(Vec<u8>, Option<Read>)>;
/// The length of a stream, and the ids of its chunks.
pub type Read = (u64, Vec<u8>);

/// The entry of a stream, or of a directory above one.
pub fn ready(name: Vec<u8>, content: Option<Read>, start: Moment) -> Ready {
    let is_file = content.is_some();
    let kind = match is_file {
        true => EntryKind::File,
        false => EntryKind::Directory,
    };
    let mut entry = Entry::new(name, kind);
    entry.mtime = FileTime {
        seconds: start.unix_seconds(),
        nanoseconds: if is_file { start.subsec_nanos() } else { 0 },
    };
    let mut chunks = Vec::new();
    match content {
        None => {
            entry.mode = 0o755;
            entry.set_flag(FLAG_PARENT);
        }
        Some((size, ids)) => {
            entry.mode = 0o600;
            entry.uid = rustix::process::getuid().as_raw();
            entry.gid = rustix::process::getgid().as_raw();
            entry.size = Some(size);
            entry.set_refs((ids.len() / 32) as u32);
            chunks = ids;
        }
    }
    Ready::Fresh {
        entry: Box::new(entry),
        fingerprint: Default::default(),
        chunks,
        status: Status::New,
    }
}

struct Stop;

struct Walk<'a, 'b> {
    shared: &'a Shared<'b>,
    sink: &'a Sink<'a>,
    parent: Option<CacheReader>,
    trusted: bool,
    window: Window,
    batch: Vec<Item>,
    bytes: u64,
    directories: Vec<*const std::os::fd::OwnedFd>,
    number: u64,
    permit: Sender<()>,
    to_readers: Sender<Batch>,
    to_collector: Sender<Batch>,
    report: &'a dyn Fn(Problem),
    notes: &'a Mutex<Vec<String>>,
}

impl Walk<'_, '_> {
    fn send(&mut self) -> Result<(), Stop> {
        if self.sink.is_stopped() || self.shared.cancel.is_cancelled() {
            return Err(Stop);
        }
        if self.batch.is_empty() {
            return Ok(());
        }
        let batch = Batch {
            number: self.number,
            items: std::mem::take(&mut self.batch),
        };
        self.number += 1;
        self.bytes = 0;
        let to = if self.directories.is_empty() {
            &self.to_collector
        } else {
            &self.to_readers
        };
        let sent = self.permit.send(()).is_ok() && to.send(batch).is_ok();
        self.directories.clear();
        if sent { Ok(()) } else { Err(Stop) }
    }

    fn push(&mut self, item: Item) -> Result<(), Stop> {
        self.batch.push(item);
        let full = self.batch.len() >= BATCH_ENTRIES
            || self.bytes >= BATCH_BYTES
            || self.directories.len() > BATCH_DIRECTORIES;
        if full { self.send() } else { Ok(()) }
    }

    /// The cached entry, if the file is the same and all its chunks can be relied upon.
    fn kept(&mut self, found: &Found) -> Option<Ready> {
        let options = self.shared.options;
        let kind = found.entry.kind();
        let cached = self.parent.as_mut()?.find(&found.entry.path)?;
        if options.force_read
            || found.entry.has_flag(FLAG_PARENT)
            || cached.fingerprint != found.fingerprint
            || cached.fingerprint.ctime == FileTime::default()
        {
            return None;
        }
        let is_file = !cached.chunks.is_empty() || found.fingerprint.size > 0;
        if is_file && kind != EntryKind::File {
            return None;
        }
        if !self.trusted {
            for id in cached.chunks.chunks_exact(32) {
                let id = ChunkId(id.try_into().expect("32 bytes"));
                match self.sink.knows(&id, &mut self.window) {
                    Ok(true) => {}
                    Ok(false) => return None,
                    Err(e) => {
                        self.sink.fail(e);
                        return None;
                    }
                }
            }
        }
        let mut cached = cached.clone();
        if options.with_atime {
            // Everything but the access time is as it was.
            let mut entry: Entry = minicbor::decode(&cached.entry).ok()?;
            entry.atime = found.entry.atime;
            cached.entry.clear();
            entry.encode_to(&mut cached.entry);
        }
        Some(Ready::Kept(cached, kind))
    }
}

impl Visitor for Walk<'_, '_> {
    type Stop = Stop;

    fn found(&mut self, mut found: Found) -> Result<(), Stop> {
        if let Some(kept) = self.kept(&found) {
            self.shared.progress.event(Event::Done {
                items: 1,
                bytes: found.entry.len(),
            });
            return self.push(Item::Ready(kept));
        }
        let before = self
            .parent
            .as_mut()
            .and_then(|p| p.find(&found.entry.path))
            .cloned();
        if found.entry.kind() == EntryKind::File {
            self.bytes += found.entry.len();
            let dir = Arc::as_ptr(&found.place.dir);
            if self.directories.last() != Some(&dir) {
                self.directories.push(dir);
            }
            return self.push(Item::Read {
                found: Box::new(found),
                before: before.map(Box::new),
            });
        }
        let (xattrs, problem) = walk::xattrs_at(&found.place);
        found.entry.xattrs = xattrs;
        if let Some(what) = problem {
            (self.report)(Problem::new([b"/", &found.entry.path[..]].concat(), what));
        }
        let Found {
            entry, fingerprint, ..
        } = found;
        self.push(Item::Ready(Ready::Fresh {
            entry: Box::new(entry),
            fingerprint,
            chunks: Vec::new(),
            status: Status::New,
        }))
    }

    fn problem(&mut self, problem: Problem) {
        (self.report)(problem);
    }

    fn note(&mut self, note: String) {
        self.notes
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .push(note);
    }
}

//! Content as a stream: one file, or a tree as a tar archive.
//!
//! A stream is written in order, so nothing can be taken back: each chunk is checked before its bytes go out, and the first one that cannot be had ends the dump with an
//! error. A tar archive that ended so lacks its end marker.
//!
//! Envelopes are fetched and opened ahead by a few threads. Memory: [`AHEAD`] envelopes, about 2 MiB each as plaintext, 16 at most.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::rc::{Rc, Weak};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::browse::{self, BrowseError, Entries};
use crate::chunks::{self, ChunkReader};
use crate::contents::RefCursor;
use crate::envelope::Opened;
use crate::ids::{ChunkId, ChunkKind};
use crate::lookup::{Location, Lookup};
use crate::manifest::{Entry, EntryKind};
use crate::object::ObjectError;
use crate::progress::Problem;
use crate::repository::Repository;
use crate::restore::window::Resolver;
use crate::restore::{Selection, normal};
use crate::snapshots::SnapshotRecord;

/// Envelopes fetched or open at once.
const AHEAD: usize = 8;
/// Refs taken from the list at once, 32 bytes each.
const RUN: usize = 4096;
/// Entries of an archive looked ahead: about 600 bytes each, attributes aside.
const ENTRIES: usize = 1024;
/// Bytes of attributes in entries looked ahead.
const ATTRIBUTES: usize = 4 << 20;
/// Hard link groups remembered in an archive, estimated bytes; further members carry their content again.
const LINKS_BYTES: usize = 48 << 20;
const ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Why a dump ended.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// Something of the repository.
    #[error(transparent)]
    Browse(#[from] BrowseError),
    /// The content of a file could not be had.
    #[error("{path} cannot be dumped: {cause}; the output ends within it")]
    Content {
        /// Which file.
        path: String,
        /// Why.
        cause: ObjectError,
    },
    /// There is no such entry.
    #[error("there is no '{0}' in the snapshot")]
    NotFound(String),
    /// It has no content.
    #[error("'{0}' is no file; dump a directory as an archive")]
    NotAFile(String),
    /// The receiver did not take it.
    #[error("the output cannot be written: {0}")]
    Out(#[source] io::Error),
}

impl From<ObjectError> for DumpError {
    fn from(e: ObjectError) -> Self {
        DumpError::Browse(e.into())
    }
}

/// What an archive got.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct TarReport {
    /// Entries.
    pub entries: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// What an archive cannot carry: sockets, attributes with names that are no text. The first thousand.
    pub left_out: Vec<Problem>,
}

type Fetched = Result<Opened, ObjectError>;
/// Which envelope: pack, offset, length.
type Key = ([u8; 32], u32, u32);

/// An envelope on its way.
struct Slot {
    key: Key,
    state: RefCell<State>,
}

enum State {
    Waiting(Receiver<Fetched>),
    Here(Rc<Opened>),
    Failed,
}

struct Item {
    id: ChunkId,
    at: Option<(Location, Rc<Slot>)>,
}

/// Chunks in the order in which they are asked for, fetched ahead.
struct Pipe<'a> {
    repository: &'a Repository,
    resolver: Resolver<'a>,
    reader: ChunkReader<'a>,
    jobs: Sender<(Location, Sender<Fetched>)>,
    asked: VecDeque<ChunkId>,
    queue: VecDeque<Item>,
    live: Vec<Weak<Slot>>,
}

/// Checked content.
enum Plain {
    Part(Rc<Opened>, Range<usize>),
    Own(Vec<u8>),
}

impl Plain {
    fn bytes(&self) -> &[u8] {
        match self {
            Plain::Part(opened, range) => &opened.content[range.clone()],
            Plain::Own(v) => v,
        }
    }
}

impl Pipe<'_> {
    fn ask(&mut self, ids: &[ChunkId]) {
        self.asked.extend(ids);
    }

    fn fill(&mut self) -> io::Result<()> {
        self.live.retain(|w| w.strong_count() > 0);
        while self.live.len() < AHEAD && !self.asked.is_empty() && self.queue.len() < RUN {
            let Some(id) = self.asked.pop_front() else { break };
            let Some(((pack, envelope_offset, envelope_length, offset, length), _)) = self.resolver.find(&id)? else {
                self.queue.push_back(Item { id, at: None });
                continue;
            };
            let at = Location { pack, envelope: 0, envelope_offset, envelope_length, offset, length, kind: ChunkKind::Data };
            let key = (pack.0, envelope_offset, envelope_length);
            let known = self.live.iter().filter_map(Weak::upgrade).find(|s| s.key == key);
            let slot = match known {
                Some(s) => s,
                None => {
                    let (send, receive) = bounded(1);
                    // Without a thread to take it, the receiver below reports it.
                    let _ = self.jobs.send((at, send));
                    let slot = Rc::new(Slot { key, state: RefCell::new(State::Waiting(receive)) });
                    self.live.push(Rc::downgrade(&slot));
                    slot
                }
            };
            self.queue.push_back(Item { id, at: Some((at, slot)) });
        }
        Ok(())
    }

    /// The next chunk that was asked for.
    fn next(&mut self) -> Result<Option<Plain>, NextError> {
        self.fill().map_err(NextError::Io)?;
        let Some(item) = self.queue.pop_front() else { return Ok(None) };
        if let Some((at, slot)) = &item.at {
            let mut state = slot.state.borrow_mut();
            if let State::Waiting(receive) = &*state {
                *state = match receive.recv() {
                    Ok(Ok(opened)) => State::Here(Rc::new(opened)),
                    Ok(Err(_)) | Err(_) => State::Failed,
                };
            }
            if let State::Here(opened) = &*state {
                if chunks::chunk_of(self.repository, opened, at, &item.id).is_ok() {
                    let range = at.offset as usize..(at.offset + at.length) as usize;
                    return Ok(Some(Plain::Part(opened.clone(), range)));
                }
            }
        }
        // Every copy is tried before it is given up.
        self.reader.read(ChunkKind::Data, &item.id).map(|v| Some(Plain::Own(v))).map_err(NextError::Object)
    }
}

enum NextError {
    Io(io::Error),
    Object(ObjectError),
}

/// Runs `body` with a pipe and the threads that feed it.
fn with_pipe<'a, T>(repository: &'a Repository, lookup: &'a Lookup, body: impl FnOnce(&mut Pipe<'a>) -> T) -> T {
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get()).min(AHEAD / 2);
    std::thread::scope(|scope| {
        let (jobs, take) = bounded::<(Location, Sender<Fetched>)>(AHEAD);
        for _ in 0..threads {
            let take = take.clone();
            scope.spawn(move || {
                for (at, send) in take {
                    // The asker may have given up.
                    let _ = send.send(chunks::open_envelope(repository, &at));
                }
            });
        }
        drop(take);
        let mut pipe = Pipe {
            repository,
            resolver: Resolver::new(lookup),
            reader: ChunkReader::new(repository, lookup),
            jobs,
            asked: VecDeque::new(),
            queue: VecDeque::new(),
            live: Vec::new(),
        };
        body(&mut pipe)
    })
}

/// The content of one file, holes as zeros.
struct Content<'p, 'a> {
    pipe: &'p mut Pipe<'a>,
    refs: &'p mut RefCursor,
    refs_reader: &'p mut ChunkReader<'a>,
    /// Refs not asked for yet.
    next_ref: u64,
    refs_left: u64,
    holes: VecDeque<[u64; 2]>,
    at: u64,
    size: u64,
    chunk: Plain,
    used: usize,
    failure: Option<ObjectError>,
}

impl<'p, 'a> Content<'p, 'a> {
    /// `asked`: how many of its refs the pipe knows already.
    fn new(
        pipe: &'p mut Pipe<'a>,
        refs: &'p mut RefCursor,
        refs_reader: &'p mut ChunkReader<'a>,
        entry: &Entry,
        first_ref: u64,
        asked: u64,
    ) -> Self {
        Content {
            pipe,
            refs,
            refs_reader,
            next_ref: first_ref + asked,
            refs_left: entry.refs() as u64 - asked,
            holes: entry.holes.iter().flatten().copied().collect(),
            at: 0,
            size: entry.len(),
            chunk: Plain::Own(Vec::new()),
            used: 0,
            failure: None,
        }
    }

    fn fail(&mut self, e: ObjectError) -> io::Error {
        let told = io::Error::other(e.to_string());
        self.failure = Some(e);
        told
    }

    fn wrong_length(&mut self) -> io::Error {
        let e = crate::object::ContentError::List("the chunks of the file do not have the length that the manifest says");
        self.fail(ObjectError::content("manifest", e))
    }

    /// The next bytes; empty at the end.
    fn some(&mut self) -> io::Result<&[u8]> {
        if self.at == self.size {
            if self.refs_left > 0 || self.used < self.chunk.bytes().len() {
                return Err(self.wrong_length());
            }
            return Ok(&[]);
        }
        while self.holes.front().is_some_and(|h| self.at >= h[0] + h[1]) {
            self.holes.pop_front();
        }
        let data_end = match self.holes.front() {
            Some(&[offset, length]) if self.at >= offset => {
                let n = (offset + length - self.at).min(ZEROS.len() as u64);
                return Ok(&ZEROS[..n as usize]);
            }
            Some(&[offset, _]) => offset,
            None => self.size,
        };
        if self.used == self.chunk.bytes().len() {
            if self.refs_left > 0 && self.pipe.asked.len() < RUN / 2 {
                let n = self.refs_left.min(RUN as u64);
                let mut ids = Vec::new();
                if let Err(e) = self.refs.read(self.refs_reader, self.next_ref, n, &mut ids) {
                    return Err(self.fail(e));
                }
                self.pipe.ask(&ids);
                self.next_ref += n;
                self.refs_left -= n;
            }
            self.chunk = match self.pipe.next() {
                Ok(Some(plain)) => plain,
                Ok(None) => return Err(self.wrong_length()),
                Err(NextError::Object(e)) => return Err(self.fail(e)),
                Err(NextError::Io(e)) => return Err(e),
            };
            self.used = 0;
        }
        let bytes = &self.chunk.bytes()[self.used..];
        let n = (data_end - self.at).min(bytes.len() as u64) as usize;
        Ok(&bytes[..n])
    }

    fn consume(&mut self, n: usize) {
        let in_hole = self.holes.front().is_some_and(|h| self.at >= h[0]);
        if !in_hole {
            self.used += n;
        }
        self.at += n as u64;
    }
}

impl Read for Content<'_, '_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let bytes = self.some()?;
        let n = bytes.len().min(buf.len());
        buf[..n].copy_from_slice(&bytes[..n]);
        self.consume(n);
        Ok(n)
    }
}

/// Writes the content of a file in order, holes as zeros. Returns how many bytes.
pub fn dump_file(
    repository: &Repository,
    lookup: &Lookup,
    snapshot: &SnapshotRecord,
    path: &[u8],
    out: &mut dyn Write,
) -> Result<u64, DumpError> {
    let shown = || String::from_utf8_lossy(path).into_owned();
    let stored = normal(path).map_err(|cause| BrowseError::Path { path: shown(), cause })?;
    let found = browse::entry_at(repository, lookup, snapshot, &stored)?;
    let (entry, first_ref) = found.ok_or_else(|| DumpError::NotFound(shown()))?;
    if entry.kind() != EntryKind::File {
        return Err(DumpError::NotAFile(shown()));
    }
    let mut refs = RefCursor::new(&snapshot.body)?;
    with_pipe(repository, lookup, |pipe| {
        let mut refs_reader = ChunkReader::new(repository, lookup);
        let mut content = Content::new(pipe, &mut refs, &mut refs_reader, &entry, first_ref, 0);
        loop {
            let n = match content.some() {
                Ok([]) => break,
                Ok(bytes) => {
                    out.write_all(bytes).map_err(DumpError::Out)?;
                    bytes.len()
                }
                Err(e) => return Err(content_error(&entry, content.failure.take(), e)),
            };
            content.consume(n);
        }
        out.flush().map_err(DumpError::Out)?;
        Ok(entry.len())
    })
}

fn content_error(entry: &Entry, failure: Option<ObjectError>, e: io::Error) -> DumpError {
    match failure {
        Some(cause) => DumpError::Content { path: entry.display(), cause },
        None => DumpError::Out(e),
    }
}

/// Writes what is at or beneath the paths (empty: everything) as a tar archive (POSIX.1-2001, pax).
pub fn dump_tar(
    repository: &Repository,
    lookup: &Lookup,
    snapshot: &SnapshotRecord,
    select: &[Vec<u8>],
    out: &mut dyn Write,
) -> Result<TarReport, DumpError> {
    let select = browse::paths(select)?;
    let selection = Selection::new(&select, &[], &[]).expect("no patterns");
    let mut entries = Entries::new(repository, lookup, snapshot, &select)?;
    let mut refs = RefCursor::new(&snapshot.body)?;
    let mut report = TarReport::default();
    let mut builder = tar::Builder::new(out);
    with_pipe(repository, lookup, |pipe| {
        let mut refs_reader = ChunkReader::new(repository, lookup);
        let mut links = Links::default();
        let mut ids = Vec::new();
        loop {
            // Small files are looked ahead together, so that their envelopes are fetched while others are written.
            let mut batch: Vec<(Entry, u64, u64)> = Vec::new();
            let (mut asked, mut attributes) = (0, 0);
            while batch.len() < ENTRIES && asked < RUN && attributes < ATTRIBUTES {
                let Some((entry, at)) = entries.next()? else { break };
                if !selection.is_wanted(&entry.path) {
                    continue;
                }
                let n = if links.knows_or_learns(&entry) { 0 } else { entry.refs() as u64 };
                // A large file asks as it is written, and nothing may be asked before it does.
                let large = n > 0 && asked + n as usize > RUN;
                if n > 0 && !large {
                    ids.clear();
                    let read = refs.read(&mut refs_reader, at, n, &mut ids);
                    read.map_err(|cause| DumpError::Content { path: entry.display(), cause })?;
                    pipe.ask(&ids);
                    asked += n as usize;
                }
                attributes += entry.xattrs.iter().flatten().map(|x| x.name.len() + x.value.len()).sum::<usize>();
                batch.push((entry, at, if large { 0 } else { n }));
                if large {
                    break;
                }
            }
            // A part that is lost would be missing from the archive without a trace.
            if let Some(e) = entries.lost.pop() {
                return Err(e.into());
            }
            if batch.is_empty() {
                break;
            }
            for (entry, at, asked) in batch {
                append(&mut builder, pipe, (&mut refs, &mut refs_reader), &entry, at, asked, &mut links, &mut report)?;
            }
        }
        builder.finish().and_then(|()| builder.get_mut().flush()).map_err(DumpError::Out)?;
        Ok(report)
    })
}

/// First members of hard link groups.
#[derive(Default)]
struct Links {
    first: HashMap<[u64; 2], Vec<u8>>,
    bytes: usize,
}

impl Links {
    /// True when the content of the entry's group is in the archive, or about to be.
    fn knows_or_learns(&mut self, e: &Entry) -> bool {
        let Some(link) = e.link else { return false };
        match self.first.get(&link) {
            Some(first) => *first != e.path,
            None => {
                let cost = e.path.len() + 96;
                if self.bytes + cost <= LINKS_BYTES {
                    self.bytes += cost;
                    self.first.insert(link, e.path.clone());
                }
                false
            }
        }
    }
}

#[allow(clippy::too_many_arguments)]
fn append<'a>(
    builder: &mut tar::Builder<&mut dyn Write>,
    pipe: &mut Pipe<'a>,
    (refs, refs_reader): (&mut RefCursor, &mut ChunkReader<'a>),
    entry: &Entry,
    first_ref: u64,
    asked: u64,
    links: &mut Links,
    report: &mut TarReport,
) -> Result<(), DumpError> {
    let mut left_out = |what: String| {
        if report.left_out.len() < crate::progress::Problems::KEPT {
            report.left_out.push(Problem::new(entry.path.clone(), what));
        }
    };
    let linked = links.knows_or_learns(entry).then(|| links.first[&entry.link.unwrap_or_default()].clone());
    let kind = match entry.kind() {
        EntryKind::Socket => {
            left_out("a socket: archives cannot carry it".into());
            return Ok(());
        }
        EntryKind::File if linked.is_some() => tar::EntryType::Link,
        EntryKind::File => tar::EntryType::Regular,
        EntryKind::Directory => tar::EntryType::Directory,
        EntryKind::Symlink => tar::EntryType::Symlink,
        EntryKind::Fifo => tar::EntryType::Fifo,
        EntryKind::CharDevice => tar::EntryType::Char,
        EntryKind::BlockDevice => tar::EntryType::Block,
    };
    let mut header = tar::Header::new_ustar();
    let mut pax: Vec<(String, Vec<u8>)> = Vec::new();
    let mut path = entry.path.clone();
    if kind == tar::EntryType::Directory {
        path.push(b'/');
    }
    let target = linked.or_else(|| entry.target.as_ref().map(|t| t.to_vec()));
    let plain = |bytes: &[u8]| bytes.len() < 100 && bytes.is_ascii();
    let texts = [Some(("path", &path)), target.as_ref().map(|t| ("linkpath", t))];
    // Names are bytes; only with this record readers do not take them for UTF-8.
    if texts.iter().flatten().any(|(_, v)| std::str::from_utf8(v).is_err()) {
        pax.push(("hdrcharset".into(), b"BINARY".to_vec()));
    }
    for (key, value) in texts.into_iter().flatten() {
        if !plain(value) {
            pax.push((key.into(), value.clone()));
        }
    }
    {
        let old = header.as_ustar_mut().expect("it was made as one");
        let put = |field: &mut [u8], value: &[u8]| {
            let n = value.len().min(field.len());
            field[..n].copy_from_slice(&value[..n]);
        };
        put(&mut old.name[..99], &path);
        put(&mut old.linkname[..99], target.as_deref().unwrap_or_default());
        for (field, name, key) in [(&mut old.uname, &entry.user, "uname"), (&mut old.gname, &entry.group, "gname")] {
            let Some(name) = name else { continue };
            put(&mut field[..31], name.as_bytes());
            if name.len() > 31 || !name.is_ascii() {
                pax.push((key.into(), name.clone().into_bytes()));
            }
        }
    }
    let size = if kind == tar::EntryType::Regular { entry.len() } else { 0 };
    header.set_entry_type(kind);
    header.set_mode(entry.mode);
    header.set_uid(entry.uid as u64);
    header.set_gid(entry.gid as u64);
    header.set_size(size);
    // Octal fields end at 8 GiB; the header then holds a binary number that not every reader knows.
    if size >= 1 << 33 {
        pax.push(("size".into(), size.to_string().into_bytes()));
    }
    let (seconds, nanoseconds) = (entry.mtime.seconds, entry.mtime.nanoseconds);
    header.set_mtime(seconds.clamp(0, (1 << 33) - 1) as u64);
    if nanoseconds != 0 || !(0..1 << 33).contains(&seconds) {
        pax.push(("mtime".into(), decimal(seconds, nanoseconds).into_bytes()));
    }
    if let Some([major, minor]) = entry.device {
        let set = header.set_device_major(major).and_then(|()| header.set_device_minor(minor));
        set.map_err(DumpError::Out)?;
    }
    for x in entry.xattrs.iter().flatten() {
        match std::str::from_utf8(&x.name) {
            Ok(name) if !name.contains(['=', '\n']) => pax.push((format!("SCHILY.xattr.{name}"), x.value.clone())),
            _ => left_out(format!("attribute {}: archives cannot carry its name", String::from_utf8_lossy(&x.name))),
        }
    }
    header.set_cksum();
    if !pax.is_empty() {
        let records = pax.iter().map(|(k, v)| (k.as_str(), &v[..]));
        builder.append_pax_extensions(records).map_err(DumpError::Out)?;
    }
    if kind == tar::EntryType::Regular {
        let mut content = Content::new(pipe, refs, refs_reader, entry, first_ref, asked);
        if let Err(e) = builder.append(&header, &mut content) {
            return Err(content_error(entry, content.failure.take(), e));
        }
        // The archive takes no more than the size it was told; what is left over is a lie in the manifest.
        if let Err(e) = content.some() {
            return Err(content_error(entry, content.failure.take(), e));
        }
    } else {
        builder.append(&header, io::empty()).map_err(DumpError::Out)?;
    }
    report.entries += 1;
    report.bytes = report.bytes.saturating_add(size);
    Ok(())
}

/// Seconds as pax writes them; before 1970 the fraction counts towards zero.
fn decimal(seconds: i64, nanoseconds: u32) -> String {
    if seconds < 0 && nanoseconds > 0 {
        let whole = (seconds + 1).unsigned_abs();
        return format!("-{whole}.{:09}", 1_000_000_000 - nanoseconds);
    }
    format!("{seconds}.{nanoseconds:09}")
}

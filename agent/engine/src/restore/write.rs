//! The workers: fetch a range of a pack, open its envelopes, check each chunk that is needed, and write files.
//!
//! A file is written under a temporary name in its own directory. It gets its name when all of its content was checked and its metadata applied; so what stands
//! at a name is the old thing or the whole new one, whatever happens.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

use crossbeam_channel::Receiver;
use rustix::fs as rfs;
use rustix::io::Errno;

use super::meta::Rules;
use super::target::{self, Dirs, Target};
use super::window::{BAD, Chunk, Envelope, FileJob, GOOD, Task, UNCHECKED, Unit, Window};
use super::{Options, RestoreError};
use crate::chunks;
use crate::contents::Bits;
use crate::envelope::Opened;
use crate::ids::{ChunkKind, ObjectId};
use crate::lookup::{Location, Lookup};
use crate::manifest::{Entry, FLAG_TORN};
use crate::progress::{Cancel, Event, Problem, Problems, Progress};
use crate::repository::Repository;
use crate::store::Name;

/// Descriptors held for files that are written piece by piece; further ones are opened again for each piece.
const HELD: usize = 64;

/// Directory and name.
type Place = (Vec<u8>, Vec<u8>);

/// What all threads of a run share.
pub(crate) struct Shared<'a> {
    pub(crate) repository: &'a Repository,
    pub(crate) lookup: &'a Lookup,
    pub(crate) options: &'a Options,
    pub(crate) rules: &'a Rules,
    pub(crate) progress: &'a dyn Progress,
    pub(crate) cancel: &'a Cancel,
    /// Entries that stand in the target as they should.
    pub(crate) done: Bits,
    pub(crate) problems: Mutex<Problems>,
    pub(crate) left_out: Mutex<Problems>,
    pub(crate) notes: Mutex<Vec<String>>,
    pub(crate) files: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) torn: AtomicU64,
    fatal: Mutex<Option<RestoreError>>,
    stopped: AtomicBool,
    /// Unfinished files that are written piece by piece.
    temps: Mutex<HashMap<u64, Place>>,
    held: AtomicUsize,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(|e| e.into_inner())
}

impl<'a> Shared<'a> {
    pub(crate) fn new(
        repository: &'a Repository,
        lookup: &'a Lookup,
        options: &'a Options,
        rules: &'a Rules,
        progress: &'a dyn Progress,
        cancel: &'a Cancel,
        entries: u64,
    ) -> Self {
        Shared {
            repository,
            lookup,
            options,
            rules,
            progress,
            cancel,
            done: Bits::new(entries),
            problems: Mutex::default(),
            left_out: Mutex::default(),
            notes: Mutex::default(),
            files: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            torn: AtomicU64::new(0),
            fatal: Mutex::new(None),
            stopped: AtomicBool::new(false),
            temps: Mutex::default(),
            held: AtomicUsize::new(0),
        }
    }

    pub(crate) fn problem(&self, path: &[u8], what: impl ToString) {
        let problem = Problem::new(path, what);
        self.progress.event(Event::Problem(&problem));
        lock(&self.problems).push(problem);
    }

    pub(crate) fn leave_out(&self, path: &[u8], what: impl ToString) {
        lock(&self.left_out).push(Problem::new(path, what));
    }

    pub(crate) fn note(&self, what: String) {
        self.progress.event(Event::Note(&what));
        lock(&self.notes).push(what);
    }

    /// A problem of one thing in the target; a full disk ends the run.
    pub(crate) fn io_problem(&self, path: &[u8], verb: &str, e: &io::Error) {
        if is_full(e) {
            self.fail(RestoreError::Full {
                path: {
                    let path = Path::new(OsStr::from_bytes(path));
                    self.options.target.join(path).display().to_string()
                },
                cause: e.to_string(),
            });
        } else {
            self.problem(path, format!("cannot {verb}: {e}"));
        }
    }

    /// Ends the run with an error; the first one counts.
    pub(crate) fn fail(&self, e: RestoreError) {
        lock(&self.fatal).get_or_insert(e);
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Ends the run.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub(crate) fn take_failure(&self) -> Option<RestoreError> {
        lock(&self.fatal).take()
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed) || self.cancel.is_cancelled()
    }

    /// What a report tells of an entry that was restored.
    pub(crate) fn tell_of(&self, e: &Entry) {
        self.rules.left_out(e, |what| self.leave_out(&e.path, what));
        if e.has_flag(FLAG_TORN) {
            self.torn.fetch_add(1, Ordering::Relaxed);
            self.leave_out(
                &e.path,
                "it changed while it was backed up: its content may be of different moments",
            );
        }
    }

    fn finished(&self, file: &FileJob) {
        self.done.set(file.number);
        self.files.fetch_add(1, Ordering::Relaxed);
        self.tell_of(&file.entry);
        self.progress.event(Event::Done { items: 1, bytes: 0 });
    }

    fn wrote(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.progress.event(Event::Done { items: 0, bytes });
    }

    /// Removes unfinished files that nobody will finish any more.
    pub(crate) fn remove_temps(&self, target: &Target) {
        for (_, (dir, name)) in lock(&self.temps).drain() {
            if let Ok(dir) = target.dir(&dir) {
                let _ = target::unlink(&dir, &name);
            }
        }
    }

    /// Gives a file up: told once, and nothing of it stays behind.
    pub(crate) fn give_up(&self, dirs: &mut Dirs<'_>, file: &FileJob, why: impl FnOnce(&Self)) {
        let mut temp = lock(&file.temp);
        if !file.failed.swap(true, Ordering::SeqCst) {
            why(self);
            self.progress.event(Event::Done { items: 1, bytes: 0 });
        }
        if let Some(t) = temp.take() {
            self.drop_temp(dirs, file, t);
        }
    }

    fn drop_temp(&self, dirs: &mut Dirs<'_>, file: &FileJob, t: Temp) {
        if t.file.is_some() {
            self.held.fetch_sub(1, Ordering::Relaxed);
        }
        lock(&self.temps).remove(&file.number);
        if let Ok(dir) = dirs.open(target::split(&file.entry.path).0) {
            let _ = target::unlink(&dir, &t.name);
        }
    }
}

/// No room: neither this file nor the next will fit.
fn is_full(e: &io::Error) -> bool {
    matches!(
        e.raw_os_error().map(Errno::from_raw_os_error),
        Some(Errno::NOSPC | Errno::DQUOT)
    )
}

/// An unfinished file that several workers write to.
pub(crate) struct Temp {
    name: Vec<u8>,
    /// Device and inode: what is opened again by name must be what was made.
    inode: (u64, u64),
    file: Option<Arc<File>>,
}

/// What a worker is given.
pub(crate) enum Work {
    /// Files whose content lies in a range of a pack.
    Fetch(Task),
    /// Files without content.
    Empty(Vec<Arc<FileJob>>),
}

/// A thread that restores files.
pub(crate) struct Worker<'s, 'a> {
    shared: &'s Shared<'a>,
    target: &'s Target,
    dirs: Dirs<'s>,
    /// The envelope that was opened last in place of a damaged one.
    other: Option<(ObjectId, u32, Opened)>,
}

/// An envelope whose chunks are being used.
struct View<'e> {
    pack: ObjectId,
    opened: Result<&'e Opened, String>,
    /// Read once more, when a chunk in it was wrong; at most another envelope's content.
    again: Option<Option<Opened>>,
    /// Content of chunks that came from elsewhere, or why it could not be had. At most the content of an envelope.
    rescued: HashMap<u32, Result<Vec<u8>, String>>,
}

impl<'s, 'a> Worker<'s, 'a> {
    pub(crate) fn new(shared: &'s Shared<'a>, target: &'s Target) -> Self {
        Worker {
            shared,
            target,
            dirs: Dirs::new(target),
            other: None,
        }
    }

    /// Works until there is no more.
    pub(crate) fn run(mut self, work: &Receiver<Work>) {
        for w in work {
            if self.shared.is_stopped() {
                continue;
            }
            match w {
                Work::Fetch(task) => self.fetch(&task),
                Work::Empty(files) => {
                    for file in &files {
                        if self.shared.is_stopped() {
                            break;
                        }
                        self.write_whole(file, &mut |_| Ok(()));
                    }
                }
            }
        }
    }

    fn fetch(&mut self, task: &Task) {
        let store = self.shared.repository.store();
        let name = Name::Pack(task.pack);
        let (from, to) = (task.bytes.start, task.bytes.end);
        let range = store.get_range(&name, from as u64, (to - from) as u64);
        for e in &task.window.envelopes[task.envelopes.start as usize..task.envelopes.end as usize]
        {
            if self.shared.is_stopped() {
                return;
            }
            let open = |sealed: &[u8]| {
                chunks::open_sealed(self.shared.repository, task.pack, ChunkKind::Data, sealed)
            };
            let alone = || -> Result<Opened, String> {
                let bytes = store
                    .get_range(&name, e.offset as u64, e.length as u64)
                    .map_err(|e| e.to_string())?;
                open(&bytes).map_err(|e| e.to_string())
            };
            let opened = match &range {
                Ok(bytes) => {
                    let at = (e.offset - from) as usize;
                    match open(&bytes[at..at + e.length as usize]) {
                        // Read once more before it is called damaged, see `chunks`.
                        Err(why) if why.may_be_transient() => {
                            alone().inspect(|_| chunks::tell_transient(&why))
                        }
                        other => other.map_err(|e| e.to_string()),
                    }
                }
                Err(error) if task.envelopes.len() == 1 || error.is_missing() => {
                    Err(error.to_string())
                }
                // A pack that was cut short still has the envelopes before the cut.
                Err(_) => alone(),
            };
            let view = View {
                pack: task.pack,
                opened: opened.as_ref().map_err(|e| e.clone()),
                again: None,
                rescued: HashMap::new(),
            };
            self.envelope(&task.window, e, view);
        }
    }

    fn envelope(&mut self, window: &Window, envelope: &Envelope, mut view: View<'_>) {
        for unit in &window.units[envelope.units.start as usize..envelope.units.end as usize] {
            if self.shared.is_stopped() {
                return;
            }
            match *unit {
                Unit::Whole(s) => self.whole(window, s, &mut view),
                Unit::Piece(u, s) => self.piece(window, u, s, &mut view),
            }
        }
    }

    /// Makes sure that a chunk's content is right, from wherever it can be had.
    fn check(&mut self, window: &Window, row: u32, view: &mut View<'_>) -> Result<(), String> {
        let chunk = &window.chunks[row as usize];
        if chunk.state.load(Ordering::Relaxed) == UNCHECKED {
            let here = location(chunk, view.pack);
            let tried = match &view.opened {
                Ok(opened) => chunks::chunk_of(self.shared.repository, opened, &here, &chunk.id)
                    .map(drop)
                    .map_err(|e| e.to_string()),
                Err(e) => Err(e.clone()),
            };
            let state = match tried {
                Ok(()) => GOOD,
                Err(why) => {
                    let other = self
                        .again(chunk, &here, view)
                        .or_else(|| self.rescue(chunk, &here))
                        .ok_or(why);
                    view.rescued.insert(row, other);
                    BAD
                }
            };
            chunk.state.store(state, Ordering::Relaxed);
        }
        match view.rescued.get(&row) {
            Some(Err(why)) => Err(why.clone()),
            _ => Ok(()),
        }
    }

    /// The same copy from a second reading, for an envelope that opened and holds something wrong: its bytes may have changed in memory.
    fn again(&self, chunk: &Chunk, here: &Location, view: &mut View<'_>) -> Option<Vec<u8>> {
        if view.opened.is_err() {
            return None; // It was read twice before.
        }
        let repository = self.shared.repository;
        let opened = view
            .again
            .get_or_insert_with(|| chunks::open_envelope(repository, here).ok());
        let plain = chunks::chunk_of(repository, opened.as_ref()?, here, &chunk.id).ok()?;
        chunks::tell_transient(&Name::Pack(here.pack));
        Some(plain.to_vec())
    }

    /// Another copy of a chunk.
    fn rescue(&mut self, chunk: &Chunk, bad: &Location) -> Option<Vec<u8>> {
        let copies = self
            .shared
            .lookup
            .find_all(&chunk.id, &mut Default::default())
            .ok()?;
        for at in copies {
            if at
                == (Location {
                    envelope: at.envelope,
                    ..*bad
                })
                || at.kind != ChunkKind::Data
                || at.length != chunk.length
            {
                continue;
            }
            if self
                .other
                .as_ref()
                .is_none_or(|(p, o, _)| (*p, *o) != (at.pack, at.envelope_offset))
            {
                let Ok(opened) = chunks::open_envelope(self.shared.repository, &at) else {
                    continue;
                };
                self.other = Some((at.pack, at.envelope_offset, opened));
            }
            let (_, _, opened) = self.other.as_ref()?;
            if let Ok(plain) = chunks::chunk_of(self.shared.repository, opened, &at, &chunk.id) {
                return Some(plain.to_vec());
            }
        }
        None
    }

    fn whole(&mut self, window: &Window, slice: u32, view: &mut View<'_>) {
        let slice = &window.slices[slice as usize];
        // Nothing is created before all of the content is known to be right.
        for u in slice.uses.clone() {
            if let Err(why) = self.check(window, window.chunk_of[u as usize], view) {
                return self.damaged(&slice.file, &why);
            }
        }
        self.write_whole(&slice.file, &mut |out| {
            for u in slice.uses.clone() {
                let plain = content(window, window.chunk_of[u as usize], view);
                slice
                    .file
                    .place(window.offsets[u as usize], plain, &mut |at, b| {
                        out.write_all_at(b, at)
                    })?;
            }
            Ok(())
        });
    }

    fn damaged(&mut self, file: &FileJob, why: &str) {
        self.shared.give_up(&mut self.dirs, file, |shared| {
            shared.problem(
                &file.entry.path,
                format!("not restored, its content is damaged: {why}"),
            )
        });
    }

    fn write_whole(&mut self, file: &FileJob, fill: &mut dyn FnMut(&File) -> io::Result<()>) {
        let shared = self.shared;
        let entry = &file.entry;
        shared.progress.event(Event::Item(&entry.path));
        let (parent, name) = target::split(&entry.path);
        let written = (|| {
            let dir = self.dirs.open(parent)?;
            let (temp, fd) = target::create_temp(self.target, &dir)?;
            let out = File::from(fd);
            let done = fill(&out).and_then(|()| self.finish(file, &out, &dir, &temp, name));
            if done.is_err() {
                let _ = target::unlink(&dir, &temp);
            }
            done
        })();
        match written {
            Ok(()) => {
                shared.wrote(entry.stored_len());
                shared.finished(file);
            }
            Err(e) => shared.give_up(&mut self.dirs, file, |shared| {
                shared.io_problem(&entry.path, "restore it", &e)
            }),
        }
    }

    /// Metadata, then the name.
    fn finish(
        &self,
        file: &FileJob,
        out: &File,
        dir: &OwnedFd,
        temp: &[u8],
        name: &[u8],
    ) -> io::Result<()> {
        if file.is_sparse() {
            out.set_len(file.entry.len())?;
        }
        self.shared.rules.apply(out.as_fd(), &file.entry)?;
        target::put_in_place(dir, temp, name, file.replace)
    }

    fn piece(&mut self, window: &Window, use_: u32, slice: u32, view: &mut View<'_>) {
        let file = window.slices[slice as usize].file.clone();
        if file.failed.load(Ordering::SeqCst) {
            return;
        }
        let row = window.chunk_of[use_ as usize];
        if let Err(why) = self.check(window, row, view) {
            return self.damaged(&file, &why);
        }
        let plain = content(window, row, view);
        let written = (|| {
            let Some(out) = self.open_temp(&file)? else {
                return Ok(());
            };
            file.place(window.offsets[use_ as usize], plain, &mut |at, b| {
                out.write_all_at(b, at)
            })?;
            self.shared.wrote(plain.len() as u64);
            if file.remaining.fetch_sub(1, Ordering::AcqRel) > 1 {
                return Ok(());
            }
            let Some(temp) = lock(&file.temp).take() else {
                return Ok(());
            };
            let (parent, name) = target::split(&file.entry.path);
            let dir = self.dirs.open(parent)?;
            let done = self.finish(&file, &out, &dir, &temp.name, name);
            match &done {
                Ok(()) => {
                    if temp.file.is_some() {
                        self.shared.held.fetch_sub(1, Ordering::Relaxed);
                    }
                    lock(&self.shared.temps).remove(&file.number);
                    self.shared.finished(&file);
                }
                Err(_) => self.shared.drop_temp(&mut self.dirs, &file, temp),
            }
            done
        })();
        if let Err(e) = written {
            self.shared.give_up(&mut self.dirs, &file, |shared| {
                shared.io_problem(&file.entry.path, "restore it", &e)
            });
        }
    }

    /// The unfinished file, made by whoever comes first. `None` when the file was given up.
    fn open_temp(&mut self, file: &FileJob) -> io::Result<Option<Arc<File>>> {
        let mut slot = lock(&file.temp);
        if file.failed.load(Ordering::SeqCst) {
            return Ok(None);
        }
        if let Some(f) = slot.as_ref().and_then(|t| t.file.clone()) {
            return Ok(Some(f));
        }
        let (parent, _) = target::split(&file.entry.path);
        let dir = self.dirs.open(parent)?;
        if let Some(t) = slot.as_ref() {
            let flags = rfs::OFlags::WRONLY
                | rfs::OFlags::NOFOLLOW
                | rfs::OFlags::NONBLOCK
                | rfs::OFlags::CLOEXEC;
            let fd = rfs::openat(&*dir, t.name.as_slice(), flags, rfs::Mode::empty())?;
            let s = rfs::fstat(&fd)?;
            if (s.st_dev, s.st_ino) != t.inode {
                return Err(io::Error::other("somebody exchanged the unfinished file"));
            }
            return Ok(Some(Arc::new(File::from(fd))));
        }
        self.shared.progress.event(Event::Item(&file.entry.path));
        let (name, fd) = target::create_temp(self.target, &dir)?;
        lock(&self.shared.temps).insert(file.number, (parent.to_vec(), name.clone()));
        let s = rfs::fstat(&fd)?;
        let out = Arc::new(File::from(fd));
        let hold = self.shared.held.fetch_add(1, Ordering::Relaxed) < HELD;
        if !hold {
            self.shared.held.fetch_sub(1, Ordering::Relaxed);
        }
        *slot = Some(Temp {
            name,
            inode: (s.st_dev, s.st_ino),
            file: hold.then(|| out.clone()),
        });
        Ok(Some(out))
    }
}

/// The content of a chunk that was checked.
fn content<'v>(window: &Window, row: u32, view: &'v View<'_>) -> &'v [u8] {
    let chunk = &window.chunks[row as usize];
    match (view.rescued.get(&row), &view.opened) {
        (Some(Ok(plain)), _) => plain,
        (None, Ok(opened)) => {
            &opened.content[chunk.offset as usize..(chunk.offset + chunk.length) as usize]
        }
        _ => unreachable!("content is used after its check"),
    }
}

fn location(chunk: &Chunk, pack: ObjectId) -> Location {
    Location {
        pack,
        envelope: 0,
        envelope_offset: chunk.envelope_offset,
        envelope_length: chunk.envelope_length,
        offset: chunk.offset,
        length: chunk.length,
        kind: ChunkKind::Data,
    }
}

//! The planner: goes through the manifest once, makes directories, decides about each entry, and hands files to the workers a window at a time.

use std::collections::{HashMap, HashSet};
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crossbeam_channel::Sender;
use rustix::fs::{self, FileType, Mode, Stat};

use super::meta::{self, Rules};
use super::select::{Selection, Want};
use super::stand::Decision;
use super::target::{self, Dirs, Target};
use super::window::{self, FileJob, Gathered, Resolver, Window};
use super::write::{Shared, Work};
use super::{Overwrite, RestoreError};
use crate::chunks::ChunkReader;
use crate::contents::{Bits, Manifest, RefCursor};
use crate::manifest::{self, Entry, EntryKind, FLAG_PARENT};
use crate::object::ObjectError;
use crate::progress::Event;

/// Hard link groups remembered, estimated; further ones are restored as files of their own.
const LINKS_BYTES: usize = 48 << 20;
/// Unfinished files of earlier runs that are removed in one run.
const LEFTOVERS: usize = 16 << 10;
/// Empty files handed to a worker at once.
const EMPTIES: usize = 256;

/// The first member of a group of hard links: the others are linked to it.
pub(crate) struct Holder {
    pub(crate) number: u64,
    pub(crate) path: Box<[u8]>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Not made yet: made when something beneath is wanted.
    Pending,
    /// It is there; `fresh` when nothing was in it before.
    There { fresh: bool },
    /// A dry run does not make it.
    Imagined,
    /// It could not be made; this was told.
    Failed,
}

struct Level {
    path: Vec<u8>,
    /// Unknown for a directory whose entry is lost.
    entry: Option<Box<Entry>>,
    number: u64,
    /// Wanted itself, not only as the way to something.
    selected: bool,
    state: State,
}

/// What the planner found out, for the passes after it.
#[derive(Default)]
pub(crate) struct Planned {
    pub(crate) directories: u64,
    pub(crate) others: u64,
    pub(crate) skipped: u64,
    /// Only counted in a dry run, else by the workers.
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    pub(crate) links: HashMap<[u64; 2], Holder>,
    pub(crate) leftovers: HashSet<Vec<u8>>,
    pub(crate) found: HashSet<Vec<u8>>,
    /// Something of the manifest is lost: what else was in the snapshot is not known.
    pub(crate) incomplete: bool,
}

/// See the module.
pub(crate) struct Planner<'s, 'a, 'k> {
    pub(super) shared: &'s Shared<'a>,
    selection: &'s Selection,
    pub(super) rules: &'s Rules,
    /// `None`: a dry run into a directory that does not exist.
    pub(super) target: Option<&'s Target>,
    pub(super) dirs: Option<Dirs<'s>>,
    /// Directories that get their metadata, and hard links that are made, when the content is there.
    again: &'s Bits,
    refs: RefCursor,
    /// For manifest and refs: their lists often share an envelope.
    reader: &'s mut ChunkReader<'k>,
    resolver: Resolver<'s>,
    stack: Vec<Level>,
    /// The last entry that is no directory: nothing can be beneath it.
    no_directory: Vec<u8>,
    links_bytes: usize,
    gathered: Gathered,
    empties: Vec<Arc<FileJob>>,
    window_refs: usize,
    fetch: u32,
    pub(super) work: Option<Sender<Work>>,
    pub(crate) planned: Planned,
}

impl<'s, 'a, 'k> Planner<'s, 'a, 'k> {
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn new(
        shared: &'s Shared<'a>,
        selection: &'s Selection,
        target: Option<&'s Target>,
        again: &'s Bits,
        refs: RefCursor,
        reader: &'s mut ChunkReader<'k>,
        fetch: u32,
        work: Option<Sender<Work>>,
    ) -> Self {
        Planner {
            shared,
            selection,
            rules: shared.rules,
            target,
            dirs: target.map(Dirs::new),
            again,
            refs,
            reader,
            resolver: Resolver::new(shared.lookup),
            stack: Vec::new(),
            no_directory: Vec::new(),
            links_bytes: 0,
            gathered: Gathered::default(),
            empties: Vec::new(),
            window_refs: window::FIRST_REFS,
            fetch,
            work,
            planned: Planned::default(),
        }
    }

    pub(super) fn is_dry(&self) -> bool {
        self.work.is_none()
    }

    /// Goes through the given parts of the manifest.
    pub(crate) fn run(
        mut self,
        manifest: &Manifest,
        ranges: &[Range<usize>],
    ) -> Result<Planned, RestoreError> {
        for lost in &manifest.lost {
            self.lost(b"", lost);
        }
        if let (Some(target), false) = (self.target, self.is_dry()) {
            if let Ok(root) = target.dir(b"") {
                self.entered(b"", &root);
            }
        }
        let mut after = Vec::new();
        for i in ranges.iter().cloned().flatten() {
            let first = manifest.parts[i].first_entry;
            let before = after.clone();
            let entries = match manifest.entries(self.reader, i, &mut after) {
                Ok(entries) => entries,
                Err(e) if e.needs_identity() => return Err(e.into()),
                Err(e) => {
                    self.lost(&before, &e);
                    after = before;
                    continue;
                }
            };
            for (k, (entry, first_ref)) in entries.into_iter().enumerate() {
                if self.shared.is_stopped() {
                    return Ok(self.planned);
                }
                self.entry(entry, first + k as u64, first_ref)?;
            }
        }
        self.flush()?;
        self.send_empties();
        Ok(self.planned)
    }

    fn lost(&mut self, after: &[u8], e: &ObjectError) {
        self.planned.incomplete = true;
        self.shared.problem(
            after,
            format!("entries of the snapshot after this path are lost: {e}"),
        );
    }

    fn entry(&mut self, entry: Entry, number: u64, first_ref: u64) -> Result<(), RestoreError> {
        while self
            .stack
            .last()
            .is_some_and(|l| !manifest::is_beneath(&entry.path, &l.path))
        {
            self.stack.pop();
        }
        let (parent, name) = target::split(&entry.path);
        if !self.planned.leftovers.is_empty() && target::is_temp_name(name) {
            self.planned.leftovers.remove(&entry.path);
        }
        let want = self.selection.want(&entry.path);
        if want == Want::Yes && self.selection.paths().any(|p| *p == entry.path) {
            self.planned.found.insert(entry.path.clone());
        }
        if !self.no_directory.is_empty() && manifest::is_beneath(&entry.path, &self.no_directory) {
            if want == Want::Yes {
                self.shared.problem(
                    &entry.path,
                    "not restored: the snapshot has something beneath what is no directory",
                );
            }
            return Ok(());
        }
        let is_dir = entry.kind() == EntryKind::Directory;
        if !is_dir {
            self.no_directory.clone_from(&entry.path);
        }
        if want == Want::No || (want == Want::Above && !is_dir) {
            return Ok(());
        }
        self.imply(parent);
        if is_dir {
            let selected = want == Want::Yes && !entry.has_flag(FLAG_PARENT);
            let path = entry.path.clone();
            self.stack.push(Level {
                path,
                entry: Some(Box::new(entry)),
                number,
                selected,
                state: State::Pending,
            });
            if want == Want::Yes {
                self.ensure();
                self.planned.directories += u64::from(selected);
            }
            return Ok(());
        }
        let state = self.ensure();
        if state == State::Failed {
            self.shared
                .problem(&entry.path, "not restored: its directory could not be made");
            return Ok(());
        }
        match entry.kind() {
            EntryKind::File => self.file(entry, number, first_ref, state),
            _ => {
                self.other(&entry, number, state);
                Ok(())
            }
        }
    }

    /// Levels for directories above `parent` that have no entry: it was lost with a part of the manifest.
    fn imply(&mut self, parent: &[u8]) {
        let known = self.stack.last().map_or(0, |l| l.path.len());
        if known == parent.len() {
            return;
        }
        for end in (known + 1..=parent.len()).filter(|&i| i == parent.len() || parent[i] == b'/') {
            let path = parent[..end].to_vec();
            self.stack.push(Level {
                path,
                entry: None,
                number: 0,
                selected: false,
                state: State::Pending,
            });
        }
    }

    /// Makes the directories of the stack; says how the last one is.
    fn ensure(&mut self) -> State {
        let mut above = State::There { fresh: false };
        if self.target.is_none() {
            above = State::Imagined;
        }
        for i in 0..self.stack.len() {
            if self.stack[i].state == State::Pending {
                self.stack[i].state = match above {
                    State::Failed | State::Imagined => above,
                    _ => {
                        let made = self.make(i, above == (State::There { fresh: true }));
                        made.unwrap_or_else(|e| {
                            self.shared
                                .io_problem(&self.stack[i].path, "make the directory", &e);
                            State::Failed
                        })
                    }
                };
            }
            above = self.stack[i].state;
        }
        above
    }

    fn make(&mut self, i: usize, in_fresh: bool) -> io::Result<State> {
        let level = &self.stack[i];
        let (parent, name) = target::split(&level.path);
        let dry = self.work.is_none();
        let dirs = self.dirs.as_mut().expect("there is a target");
        let dir = dirs.open(parent)?;
        let never = self.shared.options.overwrite == Overwrite::Never;
        match if in_fresh {
            None
        } else {
            target::stat(&dir, name)?
        } {
            Some(s) if target::type_of(&s) == FileType::Directory => {
                let finish = level.selected && !never;
                if !dry {
                    if finish {
                        self.again.set(level.number);
                        if self.rules.needs_access(&s) {
                            meta::make_accessible(&dir, name)?;
                        }
                    }
                    let path = level.path.clone();
                    let fd = dirs.open(&path)?;
                    self.entered(&path, &fd);
                }
                return Ok(State::There { fresh: false });
            }
            Some(s) => {
                let newer = level
                    .entry
                    .as_ref()
                    .is_some_and(|e| e.mtime > meta::mtime(&s));
                if never || (self.shared.options.overwrite == Overwrite::IfNewer && !newer) {
                    return Err(io::Error::other(
                        "something that is no directory stands in its place, and may not be replaced",
                    ));
                }
                if dry {
                    return Ok(State::Imagined);
                }
                // The thing itself, be it a symlink to a directory.
                target::unlink(&dir, name)?;
                dirs.forget(&level.path);
            }
            None if dry => return Ok(State::Imagined),
            None => {}
        }
        fs::mkdirat(&*dir, name, Mode::RWXU)?;
        if level.entry.is_some() {
            self.again.set(level.number);
        }
        Ok(State::There { fresh: true })
    }

    /// A directory that was there before: what was left in it, and what it hands down.
    fn entered(&mut self, path: &[u8], dir: &OwnedFd) {
        self.rules.note_inherited(dir);
        let leftovers = &mut self.planned.leftovers;
        // An unreadable directory is no matter: this is tidying up.
        let _ = target::names(dir, &mut |name| {
            if target::is_temp_name(name) && leftovers.len() < LEFTOVERS {
                leftovers.insert(join(path, name));
            }
            Ok(())
        });
    }

    fn file(
        &mut self,
        mut entry: Entry,
        number: u64,
        first_ref: u64,
        state: State,
    ) -> Result<(), RestoreError> {
        let linked = entry.link.filter(|_| !self.is_dry());
        if linked.is_some_and(|l| self.planned.links.contains_key(&l)) {
            self.again.set(number);
            return Ok(());
        }
        let (dir, found) = match self.existing(&entry.path, state) {
            Ok(x) => x,
            Err(e) => {
                self.shared.io_problem(&entry.path, "restore it", &e);
                return Ok(());
            }
        };
        let same = |s: &Stat| {
            target::type_of(s) == FileType::RegularFile
                && s.st_size as u64 == entry.len()
                && meta::mtime(s) == entry.mtime
        };
        let decision = self.decide(&entry, found.as_ref(), same);
        if let (Some(link), false) = (linked, matches!(decision, Decision::Keep)) {
            let cost = entry.path.len() + 96;
            if self.links_bytes + cost <= LINKS_BYTES {
                self.links_bytes += cost;
                self.planned.links.insert(
                    link,
                    Holder {
                        number,
                        path: entry.path.as_slice().into(),
                    },
                );
            } else if self.links_bytes <= LINKS_BYTES {
                self.links_bytes = LINKS_BYTES + 1;
                self.shared.note("more hard links than can be remembered: further ones are restored as files of their own".into());
            }
        }
        match decision {
            Decision::Keep => self.planned.skipped += 1,
            Decision::Right => {
                self.planned.skipped += 1;
                self.shared.done.set(number);
                if let (Some(dir), Some(s), false) = (&dir, &found, self.is_dry()) {
                    self.correct(&entry, dir, s);
                }
            }
            Decision::Restore if self.is_dry() => {
                self.shared.progress.event(Event::Item(&entry.path));
                self.planned.files += 1;
                self.planned.bytes += entry.stored_len();
            }
            Decision::Restore => {
                if let Some(dir) = &dir {
                    if !self.make_way(&entry, dir, found.as_ref()) {
                        return Ok(());
                    }
                }
                let refs = entry.refs();
                // Names are not needed once they are ids; windows hold many entries.
                self.rules.settle_owner(&mut entry);
                let replace = self.shared.options.overwrite != Overwrite::Never;
                let job = Arc::new(FileJob::new(entry, number, replace));
                if refs == 0 {
                    self.empties.push(job);
                    if self.empties.len() >= EMPTIES {
                        self.send_empties();
                    }
                } else {
                    self.gather(&job, first_ref)?;
                }
            }
        }
        Ok(())
    }

    /// Takes the file's chunks into the window.
    fn gather(&mut self, job: &Arc<FileJob>, first_ref: u64) -> Result<(), RestoreError> {
        let (mut at, mut left) = (first_ref, job.entry.refs() as usize);
        // Only a file that no window holds is taken in slices.
        if self.gathered.ids.len() + left > self.window_refs {
            self.flush()?;
        }
        while left > 0 && !self.shared.is_stopped() {
            let n = left.min(window::REFS);
            let first = self.gathered.ids.len();
            if let Err(e) = self
                .refs
                .read(self.reader, at, n as u64, &mut self.gathered.ids)
            {
                self.gathered.ids.truncate(first);
                let dirs = self.dirs.as_mut().expect("there is a target");
                self.shared.give_up(dirs, job, |s| {
                    s.problem(
                        &job.entry.path,
                        format!("not restored, its content is lost: {e}"),
                    )
                });
                return Ok(());
            }
            self.gathered.push(job, first);
            at += n as u64;
            left -= n;
            if self.gathered.is_full(self.window_refs) {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Hands the window to the workers.
    fn flush(&mut self) -> Result<(), RestoreError> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        self.window_refs = (self.window_refs * 4).min(window::REFS);
        let gathered = std::mem::take(&mut self.gathered);
        let (shared, dirs) = (self.shared, self.dirs.as_mut().expect("there is a target"));
        let window = Window::resolve(gathered, &mut self.resolver, self.reader, &mut |r| {
            shared.give_up(dirs, &r.file, |s| {
                s.problem(
                    &r.file.entry.path,
                    format!("not restored, its content is lost: {}", r.why),
                )
            });
        })
        .map_err(RestoreError::Index)?;
        let work = self.work.as_ref().expect("no dry run");
        Arc::new(window).tasks(self.fetch, &mut |task| {
            !shared.is_stopped() && work.send(Work::Fetch(task)).is_ok()
        });
        Ok(())
    }

    fn send_empties(&mut self) {
        if let (Some(work), false) = (&self.work, self.empties.is_empty()) {
            // Without a receiver the run has failed already.
            let _ = work.send(Work::Empty(std::mem::take(&mut self.empties)));
        }
    }
}

/// A stored path of something in a directory.
pub(crate) fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() {
        name.to_vec()
    } else {
        [dir, b"/", name].concat()
    }
}

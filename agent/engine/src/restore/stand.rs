//! Where something stands already: what becomes of it, and the things that are made at once because they have no content.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::Overwrite;
use super::meta;
use super::plan::{Planner, State};
use super::target;
use crate::manifest::{Entry, EntryKind};
use crate::progress::Event;

/// What becomes of an entry where something may stand already.
pub(super) enum Decision {
    Restore,
    /// It is there already.
    Right,
    /// Something else is there and stays.
    Keep,
}

impl Planner<'_, '_, '_> {
    /// What stands at an entry's name, and in which directory.
    pub(super) fn existing(
        &mut self,
        path: &[u8],
        state: State,
    ) -> io::Result<(Option<Arc<OwnedFd>>, Option<Stat>)> {
        let (Some(dirs), State::There { fresh }) = (self.dirs.as_mut(), state) else {
            return Ok((None, None));
        };
        let (parent, name) = target::split(path);
        let dir = dirs.open(parent)?;
        let found = if fresh {
            None
        } else {
            target::stat(&dir, name)?
        };
        Ok((Some(dir), found))
    }

    pub(super) fn decide(
        &self,
        entry: &Entry,
        found: Option<&Stat>,
        same: impl Fn(&Stat) -> bool,
    ) -> Decision {
        let Some(s) = found else {
            return Decision::Restore;
        };
        match self.shared.options.overwrite {
            Overwrite::Always => Decision::Restore,
            Overwrite::Never => Decision::Keep,
            Overwrite::IfChanged if same(s) => Decision::Right,
            Overwrite::IfChanged => Decision::Restore,
            Overwrite::IfNewer if entry.mtime > meta::mtime(s) => Decision::Restore,
            Overwrite::IfNewer if same(s) => Decision::Right,
            Overwrite::IfNewer => Decision::Keep,
        }
    }

    /// Makes way for something that is no directory where one stands. False: told, and not to be restored.
    pub(super) fn make_way(&mut self, entry: &Entry, dir: &OwnedFd, found: Option<&Stat>) -> bool {
        if found.is_none_or(|s| target::type_of(s) != FileType::Directory) || self.is_dry() {
            return true;
        }
        let name = target::split(&entry.path).1;
        let removed = match fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) if self.shared.options.delete => {
                target::remove_all(dir, name).map(drop)
            }
            Err(Errno::NOTEMPTY | Errno::EXIST) => Err(io::Error::other(
                "a directory that is not empty stands in its place",
            )),
            other => other.map_err(Into::into),
        };
        if let Some(dirs) = self.dirs.as_mut() {
            dirs.forget(&entry.path);
        }
        if let Err(e) = &removed {
            self.shared.io_problem(&entry.path, "restore it", e);
        }
        removed.is_ok()
    }

    /// A file with the right content, but perhaps not the right mode and owner.
    pub(super) fn correct(&self, entry: &Entry, dir: &OwnedFd, s: &Stat) {
        use std::os::fd::AsFd;
        if self.rules.is_as_recorded(entry, s) {
            return;
        }
        let name = target::split(&entry.path).1;
        let done = (|| -> io::Result<()> {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let fd = fs::openat(dir, name, flags, Mode::empty())?;
            let now = fs::fstat(&fd)?;
            if (now.st_dev, now.st_ino) != (s.st_dev, s.st_ino) {
                return Err(io::Error::other("it was exchanged meanwhile"));
            }
            self.rules.apply(fd.as_fd(), entry)
        })();
        if let Err(e) = done {
            self.shared
                .io_problem(&entry.path, "correct its owner and mode", &e);
        }
    }

    /// Symlinks, fifos, devices: made at once.
    pub(super) fn other(&mut self, entry: &Entry, number: u64, state: State) {
        match entry.kind() {
            EntryKind::Socket => {
                return self.shared.leave_out(
                    &entry.path,
                    "a socket: the program that listens on it makes it",
                );
            }
            EntryKind::CharDevice | EntryKind::BlockDevice if !self.shared.options.trust => {
                return self
                    .shared
                    .leave_out(&entry.path, "device left out: not trusted");
            }
            _ => {}
        }
        let (dir, found) = match self.existing(&entry.path, state) {
            Ok(x) => x,
            Err(e) => return self.shared.io_problem(&entry.path, "restore it", &e),
        };
        let name = target::split(&entry.path).1;
        let same = |s: &Stat| match (entry.kind(), target::type_of(s)) {
            (EntryKind::Symlink, FileType::Symlink) => {
                let there = dir
                    .as_ref()
                    .and_then(|d| fs::readlinkat(&**d, name, Vec::new()).ok());
                there.is_some_and(|t| {
                    Some(t.as_bytes()) == entry.target.as_ref().map(|t| t.as_slice())
                })
            }
            (EntryKind::Fifo, FileType::Fifo) => true,
            (EntryKind::CharDevice, FileType::CharacterDevice)
            | (EntryKind::BlockDevice, FileType::BlockDevice) => {
                entry.device == Some([fs::major(s.st_rdev), fs::minor(s.st_rdev)])
            }
            _ => false,
        };
        let decision = self.decide(entry, found.as_ref(), same);
        let right = matches!(decision, Decision::Right);
        if matches!(decision, Decision::Keep) || (right && self.is_dry()) {
            self.planned.skipped += u64::from(!right);
            self.planned.others += u64::from(right);
            return;
        }
        self.planned.others += 1;
        let Some(dir) = dir.filter(|_| !self.is_dry()) else {
            return self.shared.progress.event(Event::Item(&entry.path));
        };
        if !right && !self.make_way(entry, &dir, found.as_ref()) {
            return;
        }
        let made = if right {
            self.rules.apply_at(&dir, name, entry)
        } else {
            self.make_other(entry, &dir, name)
        };
        match made {
            Ok(()) => {
                self.shared.done.set(number);
                self.shared.tell_of(entry);
            }
            Err(e) => self.shared.io_problem(&entry.path, "restore it", &e),
        }
    }

    fn make_other(&self, entry: &Entry, dir: &OwnedFd, name: &[u8]) -> io::Result<()> {
        let temp = self.target.expect("there is a target").temp_name();
        let private = Mode::RUSR | Mode::WUSR;
        let [major, minor] = entry.device.unwrap_or_default();
        let device = fs::makedev(major, minor);
        match entry.kind() {
            EntryKind::Symlink => {
                let to = entry.target.as_ref().map_or(&b""[..], |t| t.as_slice());
                fs::symlinkat(to, dir, temp.as_slice())?;
            }
            EntryKind::Fifo => fs::mknodat(dir, temp.as_slice(), FileType::Fifo, private, 0)?,
            EntryKind::CharDevice => fs::mknodat(
                dir,
                temp.as_slice(),
                FileType::CharacterDevice,
                private,
                device,
            )?,
            _ => fs::mknodat(dir, temp.as_slice(), FileType::BlockDevice, private, device)?,
        }
        let replace = self.shared.options.overwrite != Overwrite::Never;
        let done = self
            .rules
            .apply_at(dir, &temp, entry)
            .and_then(|()| target::put_in_place(dir, &temp, name, replace));
        if done.is_err() {
            let _ = target::unlink(dir, &temp);
        }
        done
    }
}

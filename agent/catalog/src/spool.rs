//! Where records wait while the database is away: files of JSON lines in a directory.
//!
//! ```text
//! <milliseconds since 1970, 16 digits>-<16 hex digits>.jsonl    one record in each line, `record` says which
//! <…>.bad                                                       a file with lines that could not be read
//! dropped                                                       how many records were dropped in all, in decimal
//! ```
//!
//! A process appends only to a file that it made and holds locked (`flock`, so the lock ends with the process), and syncs
//! after each append. Whoever imports takes files that nobody holds, oldest first, and deletes a file only when its records
//! are committed. Between the two may be a crash: then they are imported again, which changes nothing.
//!
//! A line without its end is the last of a process that died while it wrote; nobody was told that it is safe, and it is left
//! out. When all files together grow beyond their bound, the oldest is dropped and its records are counted.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use keepwatch_model::history::Entry;
use keepwatch_model::time::Moment;
use rustix::fs::{FlockOperation, flock};

use crate::Random;

/// Bytes of all spooled files together, unless configured otherwise. On disk, not in memory.
pub const SPOOL_MAX: u64 = 64 * 1024 * 1024;
/// The least that can be configured: room for two files.
pub const SPOOL_LEAST: u64 = 4 * 1024 * 1024;
/// A file that has grown to this is not appended to any more; it is read whole when it is imported.
const ROTATE: u64 = 1024 * 1024;
/// Bytes of a file that are read: one that is longer was not written by us.
const FILE_MAX: u64 = 8 * 1024 * 1024;
/// Files at once: one-shot processes make one each.
const FILES_MAX: usize = 10_000;

/// The directory of spooled records.
pub(crate) struct Spool {
    dir: PathBuf,
    max: u64,
    random: Random,
    current: Mutex<Option<Current>>,
}

/// The file that this process appends to.
struct Current {
    file: File,
    length: u64,
}

/// What lies in the spool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpoolNumbers {
    /// Files that wait.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Records dropped for want of room, ever, by all processes.
    pub dropped: u64,
    /// Files with lines that could not be read.
    pub bad_files: u64,
}

/// A file taken for import; it is locked until this is dropped.
pub(crate) struct Taken {
    path: PathBuf,
    _lock: File,
    /// The records in it, in order.
    pub entries: Vec<Entry>,
    /// Lines that could not be read.
    pub bad: u64,
}

impl Taken {
    /// All its records are stored.
    pub(crate) fn done(self) -> io::Result<()> {
        if self.bad > 0 {
            fs::rename(&self.path, self.path.with_extension("bad"))
        } else {
            fs::remove_file(&self.path)
        }
    }
}

impl Spool {
    /// Where it is.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn new(dir: PathBuf, max: u64, random: Random) -> Self {
        Self {
            dir,
            max: max.max(SPOOL_LEAST),
            random,
            current: Mutex::new(None),
        }
    }

    /// Appends records and syncs them. On an error none of them counts as written.
    pub(crate) fn append(&self, entries: &[Entry], now: Moment) -> io::Result<()> {
        let mut lines = Vec::with_capacity(entries.len() * 256);
        for entry in entries {
            serde_json::to_writer(&mut lines, entry)?;
            lines.push(b'\n');
        }
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_none_or(|c| c.length >= ROTATE) {
            *current = None;
            self.make_room(lines.len() as u64)?;
            *current = Some(self.create(now)?);
        }
        let Some(open) = current.as_mut() else {
            return Err(io::Error::other("the spool has no file"));
        };
        if let Err(e) = open.file.write_all(&lines) {
            // No torn line may stand before a whole one.
            if open.file.set_len(open.length).is_err() {
                *current = None;
            }
            return Err(e);
        }
        if let Err(e) = open.file.sync_data() {
            // A failed sync is never believed again: the file is left alone.
            *current = None;
            return Err(e);
        }
        open.length += lines.len() as u64;
        Ok(())
    }

    /// A new file, locked before anybody else can take it for an abandoned one.
    fn create(&self, now: Moment) -> io::Result<Current> {
        if !self.dir.exists() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&self.dir)?;
        }
        let millis = u64::try_from(now.unix_nanos() / 1_000_000).unwrap_or(0);
        for _ in 0..16 {
            let mut random = [0u8; 8];
            (self.random)(&mut random);
            let path = self.dir.join(format!(
                "{millis:016}-{:016x}.jsonl",
                u64::from_be_bytes(random)
            ));
            let file = match OpenOptions::new()
                .append(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)
            {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(e),
            };
            // An importer may have come between: it saw an empty file, and may have deleted it.
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err()
                || !same(&file, &path)
            {
                continue;
            }
            File::open(&self.dir)?.sync_all()?;
            return Ok(Current { file, length: 0 });
        }
        Err(io::Error::other("no free name in the spool"))
    }

    /// Drops the oldest files until so many bytes fit.
    fn make_room(&self, incoming: u64) -> io::Result<()> {
        let mut files = self.list()?;
        let mut total: u64 = files.iter().map(|(_, length)| length).sum();
        let mut dropped = 0u64;
        while !files.is_empty()
            && (total + incoming + ROTATE > self.max || files.len() >= FILES_MAX)
        {
            let (path, length) = files.remove(0);
            total -= length;
            let Ok(mut file) = File::open(&path) else {
                continue;
            };
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                continue; // another process appends to it
            }
            let mut bytes = Vec::new();
            let _ = Read::by_ref(&mut file)
                .take(FILE_MAX)
                .read_to_end(&mut bytes);
            dropped += bytes.iter().filter(|b| **b == b'\n').count() as u64;
            let _ = fs::remove_file(&path);
        }
        if dropped > 0 {
            tracing::error!(
                dropped,
                "catalog: the spool is full; the oldest records were dropped"
            );
            self.count_dropped(dropped)?;
        }
        Ok(())
    }

    /// Adds to the number that survives the process.
    fn count_dropped(&self, more: u64) -> io::Result<()> {
        let path = self.dir.join("dropped");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)?;
        flock(&file, FlockOperation::LockExclusive)?; // held for one small write
        let mut text = String::new();
        let _ = Read::by_ref(&mut file).take(32).read_to_string(&mut text);
        let sum = text.trim().parse::<u64>().unwrap_or(0).saturating_add(more);
        file.seek(SeekFrom::Start(0))?;
        file.write_all(format!("{sum}\n").as_bytes())?;
        file.sync_data()
    }

    /// The waiting files and their lengths, oldest first.
    fn list(&self) -> io::Result<Vec<(PathBuf, u64)>> {
        let mut out = Vec::new();
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(out),
            Err(e) => return Err(e),
        };
        for entry in entries.take(FILES_MAX * 2) {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "jsonl" || e == "bad") {
                let length = fs::symlink_metadata(&path).map(|m| m.len()).unwrap_or(0);
                out.push((path, length));
            }
        }
        out.sort();
        Ok(out)
    }

    /// What waits.
    pub(crate) fn numbers(&self) -> SpoolNumbers {
        let mut numbers = SpoolNumbers::default();
        for (path, length) in self.list().unwrap_or_default() {
            if path.extension().is_some_and(|e| e == "bad") {
                numbers.bad_files += 1;
            } else if length > 0 {
                numbers.files += 1;
                numbers.bytes += length;
            }
        }
        let dropped = fs::read_to_string(self.dir.join("dropped")).unwrap_or_default();
        numbers.dropped = dropped.trim().parse().unwrap_or(0);
        numbers
    }

    /// Whether there may be something to import; costs one look at the directory.
    pub(crate) fn waits(&self) -> bool {
        self.numbers().files > 0
    }

    /// Names of the files that can be taken, oldest first. This process stops appending to its own.
    pub(crate) fn waiting(&self) -> io::Result<Vec<PathBuf>> {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let files = self.list()?.into_iter().map(|(path, _)| path);
        Ok(files
            .filter(|path| path.extension().is_some_and(|e| e == "jsonl"))
            .collect())
    }

    /// Takes a file, if nobody holds it.
    pub(crate) fn take(&self, path: &Path) -> io::Result<Option<Taken>> {
        let mut file = match OpenOptions::new()
            .read(true)
            .custom_flags(NO_FOLLOW)
            .open(path)
        {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() || !same(&file, path) {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        Read::by_ref(&mut file)
            .take(FILE_MAX + 1)
            .read_to_end(&mut bytes)?;
        let mut taken = Taken {
            path: path.to_owned(),
            _lock: file,
            entries: Vec::new(),
            bad: 0,
        };
        if bytes.len() as u64 > FILE_MAX {
            taken.bad = 1;
            return Ok(Some(taken));
        }
        for line in bytes.split_inclusive(|b| *b == b'\n') {
            let Some(line) = line.strip_suffix(b"\n") else {
                break;
            };
            match serde_json::from_slice(line) {
                Ok(entry) => taken.entries.push(entry),
                Err(_) => taken.bad += 1,
            }
        }
        Ok(Some(taken))
    }
}

const NO_FOLLOW: i32 = rustix::fs::OFlags::NOFOLLOW.bits() as i32;

/// Whether a path names this open file.
fn same(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keepwatch_model::runs::RepositoryState;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    fn random() -> Random {
        let next = AtomicU64::new(1);
        Arc::new(move |out: &mut [u8]| {
            let n = next.fetch_add(1, Ordering::Relaxed).to_be_bytes();
            for (o, b) in out.iter_mut().rev().zip(n.iter().rev()) {
                *o = *b;
            }
        })
    }

    fn now(secs: i64) -> Moment {
        Moment::from_parts(secs, 0, 0).expect("a time")
    }

    fn entry(name: &str) -> Entry {
        Entry::Repository(RepositoryState {
            host: "h".into(),
            repository: name.into(),
            at: now(1),
            reachable: true,
            size_bytes: None,
            available_bytes: None,
            capacity_bytes: None,
            wal: None,
        })
    }

    fn drain(spool: &Spool) -> (Vec<Entry>, u64) {
        let (mut all, mut bad) = (Vec::new(), 0);
        for path in spool.waiting().expect("listed") {
            if let Some(taken) = spool.take(&path).expect("read") {
                all.extend(taken.entries.iter().cloned());
                bad += taken.bad;
                taken.done().expect("deleted");
            }
        }
        (all, bad)
    }

    #[test]
    fn records_come_back_in_order_and_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let spool = Spool::new(dir.path().join("spool"), 0, random());
        assert!(!spool.waits());
        let entries: Vec<Entry> = (0..50).map(|n| entry(&format!("r{n}\n\0\"ü"))).collect();
        spool.append(&entries[..20], now(5)).expect("spooled");
        spool.append(&entries[20..40], now(6)).expect("spooled");
        let other = Spool::new(dir.path().join("spool"), 0, random());
        assert_eq!(other.waiting().map(|w| w.len()).ok(), Some(1));
        assert!(
            other
                .take(&other.waiting().expect("listed")[0])
                .expect("looked")
                .is_none(),
            "it is held"
        );
        assert!(spool.waits());
        assert_eq!(drain(&spool).0, entries[..40]);
        spool.append(&entries[40..], now(7)).expect("spooled");
        drop(spool); // the process ends
        assert_eq!(drain(&other).0, entries[40..]);
        assert_eq!(other.numbers(), SpoolNumbers::default());
    }

    #[test]
    fn a_torn_line_is_left_out_and_a_bad_one_is_kept_aside() {
        let dir = tempfile::tempdir().expect("a directory");
        let spool = Spool::new(dir.path().to_owned(), 0, random());
        spool
            .append(&[entry("a"), entry("b")], now(5))
            .expect("spooled");
        let path = spool.waiting().expect("listed").remove(0);
        let whole = fs::read(&path).expect("read");
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).expect("cut");
            let taken = spool.take(&path).expect("read").expect("free");
            let lines = whole[..length].iter().filter(|b| **b == b'\n').count();
            assert_eq!(
                (taken.entries.len(), taken.bad),
                (lines, 0),
                "cut to {length}"
            );
        }
        fs::write(
            &path,
            [&b"{\"record\":\"gossip\"}\n\xff\xfe\n"[..], &whole].concat(),
        )
        .expect("written");
        let (all, bad) = drain(&spool);
        assert_eq!((all.len(), bad), (2, 2));
        assert_eq!(spool.numbers().bad_files, 1);
        assert_eq!(drain(&spool).0, []);
    }

    #[test]
    fn the_oldest_is_dropped_and_counted() {
        let dir = tempfile::tempdir().expect("a directory");
        let long = "x".repeat(200_000);
        let mut written = 0u64;
        for n in 0..40 {
            let spool = Spool::new(dir.path().to_owned(), SPOOL_LEAST, random());
            // Fresh randomness repeats its names, so the time must differ.
            spool
                .append(&[entry(&long), entry(&format!("{n}"))], now(n))
                .expect("spooled");
            written += 2;
            assert!(spool.numbers().bytes <= SPOOL_LEAST);
        }
        let spool = Spool::new(dir.path().to_owned(), SPOOL_LEAST, random());
        let dropped = spool.numbers().dropped;
        assert!(dropped > 0);
        let (kept, _) = drain(&spool);
        assert_eq!(kept.len() as u64 + dropped, written);
        assert_eq!(kept.last(), Some(&entry("39")), "the newest stay");
    }

    #[test]
    fn links_are_not_followed() {
        let dir = tempfile::tempdir().expect("a directory");
        let spool = Spool::new(dir.path().join("s"), 0, random());
        spool.append(&[entry("a")], now(1)).expect("spooled");
        let secret = dir.path().join("elsewhere");
        fs::write(&secret, "x\n").expect("written");
        let link = dir.path().join("s/0000000000000000-0.jsonl");
        std::os::unix::fs::symlink(&secret, &link).expect("linked");
        assert!(spool.take(&link).is_err());
        assert!(secret.exists());
    }
}

//! Reading one file: open, cut, hash, claim, hand over; and noticing that it changed meanwhile.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{FileType, Mode, OFlags, SeekFrom, Stat, fstat, openat, seek};

use crate::chunker::Chunker;
use crate::ids::ChunkKind;
use crate::limits;
use crate::lookup::Window;
use crate::manifest::{Entry, FLAG_TORN};
use crate::progress::{Event, Progress};
use crate::repository::Repository;

use super::cache::Fingerprint;
use super::sink::{Gatherer, Sink, SinkError};
use super::walk::{self, Names, Place};

/// What one reading thread needs. The buffer holds two chunks of the greatest length, 8 MiB.
pub struct Reader<'a> {
    repository: &'a Repository,
    sink: &'a Sink<'a>,
    chunker: &'a Chunker,
    progress: &'a dyn Progress,
    buffer: Vec<u8>,
    gatherer: Gatherer,
    window: Window,
    atime: bool,
    /// Bytes read so far.
    pub bytes_read: u64,
    /// Of these, those that the progress was told of.
    pub bytes_told: u64,
}

/// A file that was read.
pub struct Content {
    /// Ids, 32 bytes each.
    pub chunks: Vec<u8>,
    /// As it was when it was opened; a ctime of zero when a later change might carry the same time.
    pub fingerprint: Fingerprint,
    /// Set when it is to be reported.
    pub problem: Option<String>,
}

/// Why a file is not in the backup.
pub enum ReadError {
    /// It could not be read.
    File(String),
    /// The run is over.
    Sink(SinkError),
}

impl From<SinkError> for ReadError {
    fn from(e: SinkError) -> Self {
        ReadError::Sink(e)
    }
}

impl<'a> Reader<'a> {
    /// One per thread.
    pub fn new(
        repository: &'a Repository,
        sink: &'a Sink<'a>,
        chunker: &'a Chunker,
        progress: &'a dyn Progress,
        atime: bool,
    ) -> Self {
        Reader {
            repository,
            sink,
            chunker,
            progress,
            buffer: Vec::new(),
            gatherer: Gatherer::new(ChunkKind::Data),
            window: Window::default(),
            atime,
            bytes_read: 0,
            bytes_told: 0,
        }
    }

    /// Hands over what is gathered.
    pub fn flush(&mut self) -> Result<(), SinkError> {
        self.gatherer.flush(self.sink)
    }

    /// Reads the file at `place` into the repository and completes `entry` from what it is at this moment.
    pub fn file(
        &mut self,
        entry: &mut Entry,
        place: &Place,
        names: &mut Names,
    ) -> Result<Content, ReadError> {
        let lost = |e: rustix::io::Errno| match e {
            rustix::io::Errno::NOENT => ReadError::File("vanished before it was read".into()),
            e => ReadError::File(format!("cannot be opened: {e}")),
        };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        // O_NOATIME is for the owner and root only.
        let file = openat(
            &*place.dir,
            &place.name,
            flags | OFlags::NOATIME,
            Mode::empty(),
        )
        .or_else(|e| {
            if e == rustix::io::Errno::PERM {
                openat(&*place.dir, &place.name, flags, Mode::empty())
            } else {
                Err(e)
            }
        })
        .map_err(lost)?;
        let before = fstat(&file).map_err(lost)?;
        if FileType::from_raw_mode(before.st_mode) != FileType::RegularFile {
            return Err(ReadError::File(
                "was replaced by something else before it was read".into(),
            ));
        }
        let file = File::from(file);
        walk::describe(entry, &before, names, self.atime);
        let (xattrs, mut problem) = walk::xattrs_of(&file);
        entry.xattrs = xattrs;
        let size = before.st_size as u64;
        let mut chunks = Vec::new();
        let holes = if (before.st_blocks as u64) * 512 < size {
            find_holes(&file, size)
        } else {
            Vec::new()
        };
        let mut parts = data_between(&holes, size);
        let mut got = 0u64;
        let (total, end) = if holes.is_empty() {
            let n = self.data(
                &parts.iter().map(|p| (&file, *p)).collect::<Vec<_>>(),
                &mut chunks,
            )?;
            (n, n)
        } else {
            // The data between holes is one stream; where the file was cut short meanwhile, it ends.
            let list: Vec<_> = parts.drain(..).map(|p| (&file, p)).collect();
            got = self.data(&list[..], &mut chunks)?;
            let wanted: u64 = list.iter().map(|(_, p)| p.1).sum();
            (got, if got == wanted { size } else { 0 })
        };
        let after = fstat(&file).map_err(lost)?;
        let changed = (
            after.st_size,
            after.st_mtime,
            after.st_mtime_nsec,
            after.st_ctime,
            after.st_ctime_nsec,
        ) != (
            before.st_size,
            before.st_mtime,
            before.st_mtime_nsec,
            before.st_ctime,
            before.st_ctime_nsec,
        );
        if end != size && !holes.is_empty() {
            // It shrank in the middle of its holes: keep what was read as plain data.
            entry.holes = None;
            entry.size = Some(got);
        } else if holes.is_empty() {
            entry.size = Some(total);
        } else {
            entry.holes = Some(holes);
        }
        entry.set_refs(
            u32::try_from(chunks.len() / 32)
                .map_err(|_| ReadError::File("has more chunks than can be stored".into()))?,
        );
        if changed || end != size {
            entry.set_flag(FLAG_TORN);
            problem = Some("changed while it was read: what was read is stored, but may be a mixture of old and new".into());
        }
        let mut fingerprint = walk::fingerprint(&before);
        if changed || end != size || is_young(&before) {
            fingerprint.ctime = Default::default();
        }
        Ok(Content {
            chunks,
            fingerprint,
            problem,
        })
    }

    /// Cuts and stores the given ranges of files as one stream; returns how many bytes there were.
    fn data(
        &mut self,
        ranges: &[(&File, (u64, u64))],
        chunks: &mut Vec<u8>,
    ) -> Result<u64, ReadError> {
        let mut ranges = ranges.iter();
        let mut current: Option<(&File, u64, u64)> = None;
        let mut read = |buf: &mut [u8]| -> std::io::Result<usize> {
            loop {
                if let Some((file, at, left)) = &mut current {
                    if *left > 0 {
                        let n = buf.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                        let n = match file.read_at(&mut buf[..n], *at) {
                            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                            other => other?,
                        };
                        if n == 0 {
                            *left = 0; // It was cut short.
                            return Ok(0);
                        }
                        *at += n as u64;
                        *left -= n as u64;
                        return Ok(n);
                    }
                }
                match ranges.next() {
                    None => return Ok(0),
                    Some((file, (at, length))) => current = Some((file, *at, *length)),
                }
            }
        };
        self.stream_from(&mut read, chunks)
    }

    /// Cuts and stores a stream to its end.
    pub fn stream(&mut self, input: &mut dyn Read, chunks: &mut Vec<u8>) -> Result<u64, ReadError> {
        let mut read = |buf: &mut [u8]| loop {
            match input.read(buf) {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                other => return other,
            }
        };
        self.stream_from(&mut read, chunks)
    }

    fn stream_from(
        &mut self,
        read: &mut dyn FnMut(&mut [u8]) -> std::io::Result<usize>,
        chunks: &mut Vec<u8>,
    ) -> Result<u64, ReadError> {
        let max = self.chunker.max();
        if self.buffer.is_empty() {
            self.buffer = vec![0; 2 * max];
        }
        let (mut from, mut to, mut total, mut ended) = (0usize, 0usize, 0u64, false);
        loop {
            while !ended && to - from < max {
                if self.buffer.len() - to < max / 8 {
                    self.buffer.copy_within(from..to, 0);
                    to -= from;
                    from = 0;
                }
                let n = read(&mut self.buffer[to..])
                    .map_err(|e| ReadError::File(format!("cannot be read: {e}")))?;
                ended = n == 0;
                to += n;
                total += n as u64;
                self.bytes_read += n as u64;
                if n >= 1 << 16 {
                    self.bytes_told += n as u64;
                    self.progress.event(Event::Done {
                        items: 0,
                        bytes: n as u64,
                    });
                }
            }
            if from == to {
                return Ok(total);
            }
            let data = &self.buffer[from..to.min(from + max)];
            let n = self.chunker.cut(data);
            let chunk = &self.buffer[from..from + n];
            let id = self.repository.hash().id(ChunkKind::Data, chunk);
            if self.sink.claim(&id, &mut self.window)? {
                self.gatherer.push(self.sink, id, chunk)?;
            } else if self.sink.is_stopped() {
                return Err(SinkError::Stopped.into());
            }
            chunks.extend_from_slice(&id.0);
            from += n;
        }
    }
}

/// Holes as the file system tells them; a file with very many is read with its zeros.
fn find_holes(file: &File, size: u64) -> Vec<[u64; 2]> {
    let mut holes = Vec::new();
    let mut at = 0u64;
    while at < size {
        let data = match seek(file.as_fd(), SeekFrom::Data(at)) {
            Ok(d) => d.min(size),
            Err(rustix::io::Errno::NXIO) => size, // only a hole is left
            Err(_) => return Vec::new(),          // not told by this file system
        };
        if data > at {
            holes.push([at, data - at]);
            if holes.len() > limits::HOLES {
                return Vec::new();
            }
        }
        if data >= size {
            break;
        }
        match seek(file.as_fd(), SeekFrom::Hole(data)) {
            Ok(h) if h > data => at = h,
            _ => return Vec::new(),
        }
    }
    holes
}

/// Offset and length of what lies between holes.
fn data_between(holes: &[[u64; 2]], size: u64) -> Vec<(u64, u64)> {
    let mut out = Vec::new();
    let mut at = 0;
    for [offset, length] in holes {
        if *offset > at {
            out.push((at, offset - at));
        }
        at = offset + length;
    }
    if at < size {
        out.push((at, size - at));
    }
    out
}

/// True when the file was changed so shortly before it was read that another change could carry the same time: the clock of file times ticks every 1 to 10 ms,
/// on file systems with whole seconds every 1 to 2 s. Such a file is read again next time.
fn is_young(stat: &Stat) -> bool {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let whole = stat.st_ctime_nsec == 0 && stat.st_mtime_nsec == 0;
    let granularity: i128 = if whole { 2_000_000_000 } else { 20_000_000 };
    let nanos = |s: i64, n: i64| s as i128 * 1_000_000_000 + n as i128;
    // Any change of content sets the ctime, which nobody can set back.
    nanos(now.tv_sec, now.tv_nsec as i64) - nanos(stat.st_ctime, stat.st_ctime_nsec as i64)
        < granularity
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_lies_between_holes() {
        assert_eq!(data_between(&[], 0), []);
        assert_eq!(data_between(&[], 5), [(0, 5)]);
        assert_eq!(data_between(&[[0, 5]], 5), []);
        assert_eq!(data_between(&[[1, 2], [4, 1]], 9), [(0, 1), (3, 1), (5, 4)]);
    }
}

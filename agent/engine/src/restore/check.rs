//! Reads restored files back and compares the id of each of their chunks.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{self, FileType, Mode, OFlags};

use super::RestoreError;
use super::finish::each_marked;
use super::target::{self, Dirs, Target};
use super::window::{self, FileJob, Gathered, Resolver, Window};
use super::write::Shared;
use crate::chunks::ChunkReader;
use crate::contents::{Manifest, RefCursor};
use crate::ids::ChunkKind;
use crate::manifest::EntryKind;

/// Chunks that a thread takes at once: 16 MiB on average.
const RUN: usize = 16;

/// Checks every file that stands as it should; threads each hold one chunk, 8 MiB at most.
pub(crate) fn run(
    shared: &Shared<'_>,
    target: &Target,
    manifest: &Manifest,
    ranges: &[Range<usize>],
    mut refs: RefCursor,
    threads: usize,
) -> Result<u64, RestoreError> {
    let mut reader = ChunkReader::new(shared.repository, shared.lookup);
    let mut resolver = Resolver::new(shared.lookup);
    let mut gathered = Gathered::default();
    let mut failure = None;
    let mut checked = 0;
    each_marked(
        shared,
        &mut ChunkReader::new(shared.repository, shared.lookup),
        manifest,
        ranges,
        &shared.done,
        false,
        &mut |entry, number, first_ref| {
            if entry.kind() != EntryKind::File || failure.is_some() {
                return;
            }
            checked += 1;
            let job = Arc::new(FileJob::new(entry.clone(), number, false));
            let (mut at, mut left) = (first_ref, entry.refs() as usize);
            loop {
                let n = left.min(window::REFS);
                let first = gathered.ids.len();
                if let Err(e) = refs.read(&mut reader, at, n as u64, &mut gathered.ids) {
                    gathered.ids.truncate(first);
                    return shared
                        .problem(&entry.path, format!("not verified, its refs are lost: {e}"));
                }
                gathered.push(&job, first);
                at += n as u64;
                left -= n;
                if gathered.is_full(window::REFS) {
                    let full = std::mem::take(&mut gathered);
                    if let Err(e) = check(shared, target, full, &mut resolver, &mut reader, threads)
                    {
                        failure = Some(e);
                    }
                }
                if left == 0 || failure.is_some() {
                    break;
                }
            }
        },
    )?;
    if failure.is_none() && !gathered.is_empty() && !shared.is_stopped() {
        failure = check(
            shared,
            target,
            gathered,
            &mut resolver,
            &mut reader,
            threads,
        )
        .err();
    }
    failure.map_or(Ok(checked), |e| Err(RestoreError::Index(e)))
}

fn check(
    shared: &Shared<'_>,
    target: &Target,
    gathered: Gathered,
    resolver: &mut Resolver<'_>,
    reader: &mut ChunkReader<'_>,
    threads: usize,
) -> io::Result<()> {
    let window = Window::resolve(gathered, resolver, reader, &mut |r| {
        if !r.file.failed.swap(true, Ordering::Relaxed) {
            shared.problem(&r.file.entry.path, format!("not verified: {}", r.why));
        }
    })?;
    let mut runs: Vec<(usize, Range<u32>)> = Vec::new();
    for (s, slice) in window.slices.iter().enumerate() {
        let mut from = slice.uses.start;
        loop {
            let to = (from + RUN as u32).min(slice.uses.end);
            runs.push((s, from..to));
            from = to;
            if from >= slice.uses.end {
                break;
            }
        }
    }
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut dirs = Dirs::new(target);
                let mut buffer = Vec::new();
                while let Some((s, uses)) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let file = &window.slices[*s].file;
                    if shared.is_stopped() {
                        return;
                    }
                    if file.failed.load(Ordering::Relaxed) {
                        continue;
                    }
                    if let Err(e) =
                        compare(shared, &mut dirs, &window, file, uses.clone(), &mut buffer)
                    {
                        if !file.failed.swap(true, Ordering::Relaxed) {
                            shared.problem(&file.entry.path, format!("verification failed: {e}"));
                        }
                    }
                }
            });
        }
    });
    Ok(())
}

fn compare(
    shared: &Shared<'_>,
    dirs: &mut Dirs<'_>,
    window: &Window,
    file: &FileJob,
    uses: Range<u32>,
    buffer: &mut Vec<u8>,
) -> io::Result<()> {
    let (parent, name) = target::split(&file.entry.path);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd: OwnedFd = fs::openat(&*dirs.open(parent)?, name, flags, Mode::empty())?;
    let s = fs::fstat(&fd)?;
    if target::type_of(&s) != FileType::RegularFile || s.st_size as u64 != file.entry.len() {
        return Err(io::Error::other("it is not a file of the recorded size"));
    }
    let input = File::from(fd);
    for u in uses {
        let chunk = &window.chunks[window.chunk_of[u as usize] as usize];
        buffer.resize(chunk.length as usize, 0);
        let mut filled = 0;
        // The content's bytes, taken together from around the holes.
        file.place_ranges(
            window.offsets[u as usize],
            chunk.length as u64,
            &mut |at, n| {
                input.read_exact_at(&mut buffer[filled..filled + n as usize], at)?;
                filled += n as usize;
                Ok::<(), io::Error>(())
            },
        )?;
        if shared.repository.hash().id(ChunkKind::Data, buffer) != chunk.id {
            return Err(io::Error::other("its content is not what the snapshot has"));
        }
    }
    Ok(())
}

//! Looking into snapshots: their entries, the differences of two, and what a repository holds.
//!
//! All of it streams: memory does not grow with the number of entries.

use std::cmp::Ordering;
use std::collections::{HashSet, VecDeque};
use std::io;
use std::ops::Range;

use crate::chunks::ChunkReader;
use crate::contents::{Manifest, RefCursor};
use crate::lookup::Lookup;
use crate::manifest::{self, Entry, EntryError};
use crate::object::ObjectError;
use crate::repository::Repository;
use crate::restore::{Selection, normal};
use crate::snapshots::SnapshotRecord;

/// Why a snapshot could not be looked into.
#[derive(Debug, thiserror::Error)]
pub enum BrowseError {
    /// Something of the repository.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// The receiver did not take it, or the local index could not be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A path that cannot be one.
    #[error("'{path}' cannot be a path in a snapshot: {cause}")]
    Path {
        /// As given.
        path: String,
        /// Why.
        cause: EntryError,
    },
}

/// The selected paths in their stored form.
pub(crate) fn paths(select: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, BrowseError> {
    let one = |p: &Vec<u8>| {
        normal(p).map_err(|cause| BrowseError::Path {
            path: String::from_utf8_lossy(p).into_owned(),
            cause,
        })
    };
    select.iter().map(one).collect()
}

/// The entries of a snapshot one after another.
pub(crate) struct Entries<'a> {
    reader: ChunkReader<'a>,
    manifest: Manifest,
    parts: VecDeque<usize>,
    after: Vec<u8>,
    ready: VecDeque<(Entry, u64)>,
    pub(crate) lost: Vec<ObjectError>,
}

impl<'a> Entries<'a> {
    pub(crate) fn new(
        repository: &'a Repository,
        lookup: &'a Lookup,
        snapshot: &SnapshotRecord,
        select: &[Vec<u8>],
    ) -> Result<Self, ObjectError> {
        let mut reader = ChunkReader::new(repository, lookup);
        let mut manifest = Manifest::load(&mut reader, &snapshot.body)?;
        let ranges: Vec<Range<usize>> = manifest.parts_for(&mut reader, select)?;
        let lost = std::mem::take(&mut manifest.lost);
        let parts = ranges.into_iter().flatten().collect();
        Ok(Entries {
            reader,
            manifest,
            parts,
            after: Vec::new(),
            ready: VecDeque::new(),
            lost,
        })
    }

    /// The next entry with the position of its first ref. Parts that cannot be read are remembered and passed over.
    pub(crate) fn next(&mut self) -> Result<Option<(Entry, u64)>, ObjectError> {
        loop {
            if let Some(e) = self.ready.pop_front() {
                return Ok(Some(e));
            }
            let Some(i) = self.parts.pop_front() else {
                return Ok(None);
            };
            let before = self.after.clone();
            match self.manifest.entries(&mut self.reader, i, &mut self.after) {
                Ok(entries) => self.ready = entries.into(),
                Err(e) if e.needs_identity() => return Err(e),
                Err(e) => {
                    self.lost.push(e);
                    self.after = before;
                }
            }
        }
    }
}

/// Calls `each` for every entry at or beneath one of the paths (empty: all), in the order of the manifest.
/// Returns what of the manifest cannot be read; entries in it are missing.
pub fn list(
    repository: &Repository,
    lookup: &Lookup,
    snapshot: &SnapshotRecord,
    select: &[Vec<u8>],
    each: &mut dyn FnMut(&Entry) -> io::Result<()>,
) -> Result<Vec<ObjectError>, BrowseError> {
    let select = paths(select)?;
    let selection = Selection::new(&select, &[], &[]).expect("no patterns");
    let mut entries = Entries::new(repository, lookup, snapshot, &select)?;
    while let Some((entry, _)) = entries.next()? {
        if selection.is_wanted(&entry.path) {
            each(&entry)?;
        }
    }
    Ok(entries.lost)
}

/// How a path differs between two snapshots.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    /// Only in the second.
    Added,
    /// Only in the first.
    Removed,
    /// Other content, or another target of a symlink.
    Modified,
    /// The same content with other metadata.
    Metadata,
    /// A file became a directory, a directory a symlink, …
    TypeChanged,
}

/// A difference.
#[derive(Debug)]
pub struct Change<'a> {
    /// Which path.
    pub path: &'a [u8],
    /// What happened to it.
    pub kind: ChangeKind,
    /// Which metadata differ: "mode", "owner", "group", "mtime", "xattrs", "links".
    pub metadata: Vec<&'static str>,
    /// As in the first snapshot.
    pub old: Option<&'a Entry>,
    /// As in the second.
    pub new: Option<&'a Entry>,
}

/// How many differences there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct DiffTotals {
    /// See [`ChangeKind::Added`]
    pub added: u64,
    /// See [`ChangeKind::Removed`]
    pub removed: u64,
    /// See [`ChangeKind::Modified`]
    pub modified: u64,
    /// See [`ChangeKind::Metadata`]
    pub metadata: u64,
    /// See [`ChangeKind::TypeChanged`]
    pub type_changed: u64,
    /// The same in both.
    pub unchanged: u64,
    /// Bytes of files added, and of the second state of modified ones.
    pub bytes_added: u64,
    /// Bytes of files removed, and of the first state of modified ones.
    pub bytes_removed: u64,
    /// What of the manifests or lists cannot be read: around it, differences are told that may be none.
    pub lost: Vec<String>,
}

/// Compares two snapshots. Content is compared by the ids of its chunks, nothing of it is read.
pub fn diff(
    repository: &Repository,
    lookup: &Lookup,
    a: &SnapshotRecord,
    b: &SnapshotRecord,
    each: &mut dyn FnMut(Change<'_>) -> io::Result<()>,
) -> Result<DiffTotals, BrowseError> {
    let mut totals = DiffTotals::default();
    let mut left = Entries::new(repository, lookup, a, &[])?;
    let mut right = Entries::new(repository, lookup, b, &[])?;
    let mut reader = ChunkReader::new(repository, lookup);
    let (mut refs_a, mut refs_b) = (RefCursor::new(&a.body)?, RefCursor::new(&b.body)?);
    let (mut ids_a, mut ids_b) = (Vec::new(), Vec::new());
    let (mut old, mut new) = (left.next()?, right.next()?);
    loop {
        let order = match (&old, &new) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(x), Some(y)) => manifest::compare(&x.0.path, &y.0.path),
        };
        let (x, y) = match order {
            Ordering::Less => (std::mem::replace(&mut old, left.next()?), None),
            Ordering::Greater => (None, std::mem::replace(&mut new, right.next()?)),
            Ordering::Equal => (
                std::mem::replace(&mut old, left.next()?),
                std::mem::replace(&mut new, right.next()?),
            ),
        };
        let mut metadata = Vec::new();
        let kind = match (&x, &y) {
            (Some(_), None) => ChangeKind::Removed,
            (None, _) => ChangeKind::Added,
            (Some((p, _)), Some((q, _))) if p.kind() != q.kind() => ChangeKind::TypeChanged,
            (Some((p, at_p)), Some((q, at_q))) => {
                metadata = metadata_differences(p, q);
                let described = p.size == q.size
                    && p.refs() == q.refs()
                    && p.holes == q.holes
                    && p.target == q.target
                    && p.device == q.device;
                let mut same = described;
                let (mut done, n) = (0, p.refs() as u64);
                while same && done < n {
                    // A large file a run at a time: 256 KiB of ids.
                    let run = (n - done).min(4096);
                    ids_a.clear();
                    ids_b.clear();
                    let read = refs_a
                        .read(&mut reader, at_p + done, run, &mut ids_a)
                        .and_then(|()| refs_b.read(&mut reader, at_q + done, run, &mut ids_b));
                    if let Err(e) = read {
                        totals.lost.push(format!("{}: {e}", p.display()));
                        same = false;
                    }
                    same &= ids_a == ids_b;
                    done += run;
                }
                match (same, metadata.is_empty()) {
                    (false, _) => ChangeKind::Modified,
                    (true, false) => ChangeKind::Metadata,
                    (true, true) => {
                        totals.unchanged += 1;
                        continue;
                    }
                }
            }
        };
        let (old, new) = (x.as_ref().map(|x| &x.0), y.as_ref().map(|y| &y.0));
        let bytes = |e: Option<&Entry>| e.map_or(0, Entry::len);
        match kind {
            ChangeKind::Added => totals.added += 1,
            ChangeKind::Removed => totals.removed += 1,
            ChangeKind::Modified => totals.modified += 1,
            ChangeKind::Metadata => totals.metadata += 1,
            ChangeKind::TypeChanged => totals.type_changed += 1,
        }
        if kind != ChangeKind::Metadata {
            totals.bytes_removed = totals.bytes_removed.saturating_add(bytes(old));
            totals.bytes_added = totals.bytes_added.saturating_add(bytes(new));
        }
        let Some(path) = old.or(new).map(|e| &e.path[..]) else {
            continue;
        };
        each(Change {
            path,
            kind,
            metadata,
            old,
            new,
        })?;
    }
    totals
        .lost
        .extend(left.lost.iter().chain(&right.lost).map(|e| e.to_string()));
    Ok(totals)
}

fn metadata_differences(a: &Entry, b: &Entry) -> Vec<&'static str> {
    let mut out = Vec::new();
    let mut add = |differs: bool, what| {
        if differs {
            out.push(what);
        }
    };
    add(a.mode != b.mode, "mode");
    add(a.uid != b.uid || a.user != b.user, "owner");
    add(a.gid != b.gid || a.group != b.group, "group");
    add(a.mtime != b.mtime, "mtime");
    add(a.xattrs != b.xattrs, "xattrs");
    // Inode numbers differ between hosts and file systems; being one of several links does not.
    add(a.link.is_some() != b.link.is_some(), "links");
    out
}

/// What a repository holds, as its index and snapshots say.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Stats {
    /// Snapshots looked at.
    pub snapshots: u64,
    /// Index objects.
    pub indexes: u64,
    /// Packs that an index names.
    pub packs: u64,
    /// Their bytes: what is stored.
    pub pack_bytes: u64,
    /// Chunks of content, of manifests, of lists. A chunk stored twice counts twice.
    pub chunks: [u64; 3],
    /// Their plaintext bytes: what is stored, before compression and encryption.
    pub chunk_bytes: [u64; 3],
    /// Files of all snapshots.
    pub snapshot_files: u64,
    /// Bytes of files of all snapshots: what would be stored without deduplication.
    pub snapshot_bytes: u64,
}

/// Adds up what a repository holds. Memory: 32 bytes per pack.
pub fn stats(lookup: &Lookup, snapshots: &[SnapshotRecord]) -> io::Result<Stats> {
    let mut out = Stats {
        snapshots: snapshots.len() as u64,
        ..Stats::default()
    };
    let mut seen = HashSet::new();
    for part in lookup.parts() {
        out.indexes += part.covers().len() as u64;
        part.each_pack(&mut |_, p| {
            if seen.insert(p.id) {
                out.packs += 1;
                out.pack_bytes += p.size;
            }
            Ok(())
        })?;
        part.each_record(&mut |_, r| {
            out.chunks[r.kind as usize] += 1;
            out.chunk_bytes[r.kind as usize] += r.length as u64;
            Ok(())
        })?;
    }
    for s in snapshots {
        out.snapshot_files = out.snapshot_files.saturating_add(s.body.totals.files);
        out.snapshot_bytes = out.snapshot_bytes.saturating_add(s.body.totals.bytes);
    }
    Ok(out)
}

/// The entry at a path, with the position of its first ref.
pub(crate) fn entry_at(
    repository: &Repository,
    lookup: &Lookup,
    snapshot: &SnapshotRecord,
    path: &[u8],
) -> Result<Option<(Entry, u64)>, ObjectError> {
    let mut entries = Entries::new(repository, lookup, snapshot, &[path.to_vec()])?;
    while let Some((entry, at)) = entries.next()? {
        match manifest::compare(&entry.path, path) {
            Ordering::Less => {}
            Ordering::Equal => return Ok(Some((entry, at))),
            Ordering::Greater => break,
        }
    }
    // It may have been in what cannot be read.
    match entries.lost.into_iter().next() {
        Some(e) => Err(e),
        None => Ok(None),
    }
}

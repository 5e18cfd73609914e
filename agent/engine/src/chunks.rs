//! Reading chunks: find, fetch, open, and check the id of each.
//!
//! A chunk is believed only when its content has its id (a keyed hash): a signed index may come from a host that was taken over, a pack from anybody.
//!
//! What was read and is not right is read **once more** before it is called damaged: a bit that flipped on the wire or in memory is no damage of the repository, and calling it
//! that would cost a file of a restore. Errors of the store itself are not retried here; that is for a wrapper around it.

use std::collections::{HashSet, VecDeque};

use crate::envelope::{self, Opened};
use crate::ids::{ChunkId, ChunkKind, ObjectId};
use crate::limits;
use crate::list::{self, Form, Part, Visit};
use crate::lookup::{Location, Lookup, Window};
use crate::manifest::{self, Entry};
use crate::object::{ContentError, ObjectError};
use crate::records::{ListRoot, Snapshot};
use crate::repository::Repository;
use crate::store::Name;

/// Bytes of opened envelopes that are kept for the next chunk: those used last. Lists of a snapshot lie in envelopes of 128 KiB of all the days since it was new, manifests in
/// envelopes of 768 KiB. One more than fits is held while it is opened.
const KEEP: usize = 16 << 20;
/// Opened envelopes that are kept, however short they are.
const KEEP_ENVELOPES: usize = 256;

/// Opens the envelope at a location, read again once when it does not open. Content needs a reader; lists do not.
pub fn open_envelope(repository: &Repository, at: &Location) -> Result<Opened, ObjectError> {
    match open_once(repository, at) {
        Err(e) if e.may_be_transient() => {
            let again = open_once(repository, at);
            if again.is_ok() {
                tell_transient(&e);
            }
            again
        }
        other => other,
    }
}

/// What a second reading mended is worth knowing: the next one may hit what is being stored.
pub(crate) fn tell_transient(e: &dyn std::fmt::Display) {
    tracing::warn!(
        "{e}; the second reading was right: look after the network, the disk or the memory of this machine"
    );
}

fn open_once(repository: &Repository, at: &Location) -> Result<Opened, ObjectError> {
    let sealed = repository.store().get_range(
        &Name::Pack(at.pack),
        at.envelope_offset as u64,
        at.envelope_length as u64,
    )?;
    open_sealed(repository, at.pack, at.kind, &sealed)
}

/// Opens an envelope that was fetched already.
pub fn open_sealed(
    repository: &Repository,
    pack: ObjectId,
    kind: ChunkKind,
    sealed: &[u8],
) -> Result<Opened, ObjectError> {
    let name = Name::Pack(pack);
    let identity = match kind {
        ChunkKind::List => repository.host(),
        ChunkKind::Data | ChunkKind::Manifest => repository
            .reader()
            .ok_or_else(|| ObjectError::content(&name, ContentError::NeedsIdentity))?,
    };
    let opened = envelope::open(sealed, identity).map_err(|e| ObjectError::content(&name, e))?;
    if opened.kind != kind {
        return Err(ObjectError::content(&name, ContentError::Misindexed));
    }
    Ok(opened)
}

/// The chunk within an opened envelope, its id checked.
pub fn chunk_of<'a>(
    repository: &Repository,
    opened: &'a Opened,
    at: &Location,
    id: &ChunkId,
) -> Result<&'a [u8], ObjectError> {
    let plain = opened
        .content
        .get(at.offset as usize..at.offset as usize + at.length as usize)
        .ok_or_else(|| ObjectError::content(Name::Pack(at.pack), ContentError::Misindexed))?;
    if repository.hash().id(at.kind, plain) != *id {
        return Err(ObjectError::chunk(id, ContentError::ChunkId));
    }
    Ok(plain)
}

/// Reads single chunks, remembering the last envelopes.
pub struct ChunkReader<'a> {
    repository: &'a Repository,
    lookup: &'a Lookup,
    window: Window,
    kept: VecDeque<(ObjectId, u32, Opened)>,
    kept_bytes: usize,
}

impl<'a> ChunkReader<'a> {
    /// Over a loaded index.
    pub fn new(repository: &'a Repository, lookup: &'a Lookup) -> Self {
        ChunkReader {
            repository,
            lookup,
            window: Window::default(),
            kept: VecDeque::new(),
            kept_bytes: 0,
        }
    }

    /// A chunk of a kind. Every copy is tried before it is given up.
    pub fn read(&mut self, kind: ChunkKind, id: &ChunkId) -> Result<Vec<u8>, ObjectError> {
        let copies = self
            .lookup
            .find_all(id, &mut self.window)
            .map_err(|e| ObjectError::chunk(id, ContentError::Cache(e.to_string())))?;
        let mut last = None;
        for at in copies.iter().filter(|l| l.kind == kind) {
            match self.read_at(at, id) {
                Ok(plain) => return Ok(plain),
                Err(e) => last = Some(e),
            }
        }
        Err(last.unwrap_or_else(|| ObjectError::chunk(id, ContentError::NotIndexed)))
    }

    fn read_at(&mut self, at: &Location, id: &ChunkId) -> Result<Vec<u8>, ObjectError> {
        if let Some(i) = self
            .kept
            .iter()
            .rposition(|(p, o, _)| *p == at.pack && *o == at.envelope_offset)
        {
            if let Some(used) = self.kept.remove(i) {
                self.kept.push_back(used);
            }
        } else {
            let opened = open_envelope(self.repository, at)?;
            self.keep(at, opened);
        }
        let Some((_, _, opened)) = self.kept.back() else {
            return Err(ObjectError::chunk(id, ContentError::NotIndexed));
        };
        let wrong = match chunk_of(self.repository, opened, at, id) {
            Ok(plain) => return Ok(plain.to_vec()),
            Err(e) => e,
        };
        // What is kept may have been changed in memory. An envelope that is wrong in the repository costs a second read for each chunk that is asked of it.
        if let Some((_, _, bad)) = self.kept.pop_back() {
            self.kept_bytes -= bad.content.len();
        }
        let opened = open_envelope(self.repository, at)?;
        let plain = chunk_of(self.repository, &opened, at, id).map(<[u8]>::to_vec);
        if plain.is_ok() {
            tell_transient(&wrong);
        }
        self.keep(at, opened);
        plain
    }

    fn keep(&mut self, at: &Location, opened: Opened) {
        self.kept_bytes += opened.content.len();
        self.kept.push_back((at.pack, at.envelope_offset, opened));
        while self.kept.len() > 1 && (self.kept_bytes > KEEP || self.kept.len() > KEEP_ENVELOPES) {
            if let Some((_, _, oldest)) = self.kept.pop_front() {
                self.kept_bytes -= oldest.content.len();
            }
        }
    }

    /// Goes through the refs of a snapshot in runs. `lost`: told of list chunks that cannot be read, with the number of refs in them; without it the first one ends the walk.
    pub fn each_refs(
        &mut self,
        root: &ListRoot,
        each: &mut dyn FnMut(Refs<'_>) -> Result<(), ObjectError>,
        keep_going: bool,
    ) -> Result<(), ObjectError> {
        let mut fetch = |id: &ChunkId| self.read(ChunkKind::List, id);
        let mut visit = |v: Visit<'_>| match v {
            Visit::Node(_) => Ok(true),
            Visit::Leaves(items) => each(Refs::Run(items)).map(|()| true),
            Visit::Lost(id, n, _) if keep_going => each(Refs::Lost(id, n)).map(|()| true),
            Visit::Lost(..) => Ok(false),
        };
        Ok(list::walk(root, Form::Refs, &mut fetch, &mut visit)?)
    }

    /// All manifest parts of a snapshot in order, each with the position of its first ref. Memory: 88 bytes each, 7 MB for ten million files; at most [`limits::MANIFEST_PARTS`].
    pub fn parts(
        &mut self,
        snapshot: &Snapshot,
        lost: &mut dyn FnMut(ChunkId),
    ) -> Result<Vec<(Part, u64)>, ObjectError> {
        let malformed = |why| ObjectError::content("a list", ContentError::List(why));
        if snapshot.manifest.count > limits::MANIFEST_PARTS {
            return Err(malformed("a manifest of more than a million parts"));
        }
        let mut parts = Vec::new();
        let mut at = 0u64;
        // Paths ascend, so no part and no list of parts can stand in a manifest twice; a tree of repeated nodes would be endless, and what its nodes say is only checked after them.
        let mut seen = HashSet::new();
        let mut fetch = |id: &ChunkId| self.read(ChunkKind::List, id);
        let mut visit = |v: Visit<'_>| {
            match v {
                Visit::Node(id) if seen.insert(id) => {}
                Visit::Node(_) => return Err(malformed("a list of parts stands in it twice")),
                Visit::Leaves(items) => {
                    for b in items.chunks_exact(list::PART) {
                        let part = Part::from_bytes(b.try_into().expect("40 bytes"));
                        if !seen.insert(part.id) {
                            return Err(malformed("a manifest part stands in it twice"));
                        }
                        if parts.len() as u64 >= limits::MANIFEST_PARTS {
                            return Err(malformed("a manifest of more than a million parts"));
                        }
                        parts.push((part, at));
                        at = at.saturating_add(part.refs as u64);
                    }
                }
                Visit::Lost(id, _, refs) => {
                    at = at.saturating_add(refs);
                    lost(id)
                }
            }
            Ok(true)
        };
        list::walk(&snapshot.manifest, Form::Parts, &mut fetch, &mut visit)?;
        Ok(parts)
    }

    /// The entries of a manifest part, with the position in the list of refs where each one's begin.
    pub fn entries(
        &mut self,
        part: &Part,
        first_ref: u64,
        after: &mut Vec<u8>,
        each: &mut dyn FnMut(Entry, u64) -> Result<(), ObjectError>,
    ) -> Result<(), ObjectError> {
        let plain = self.read(ChunkKind::Manifest, &part.id)?;
        let mut at = first_ref;
        let mut entries = Vec::new();
        let counts = manifest::decode_chunk(&plain, after, &mut |e| entries.push(e))
            .map_err(|e| ObjectError::chunk(&part.id, e))?;
        if counts != (part.entries, part.refs) {
            return Err(ObjectError::chunk(
                &part.id,
                ContentError::List("a manifest part does not hold what its list says"),
            ));
        }
        for e in entries {
            let n = e.refs() as u64;
            each(e, at)?;
            at += n;
        }
        Ok(())
    }

    /// Every entry of a snapshot in order. A lost manifest part is told and passed over.
    pub fn each_entry(
        &mut self,
        snapshot: &Snapshot,
        each: &mut dyn FnMut(Entry, u64) -> Result<(), ObjectError>,
        lost: &mut dyn FnMut(ObjectError),
    ) -> Result<(), ObjectError> {
        let mut missing = Vec::new();
        let parts = self.parts(snapshot, &mut |id| missing.push(id))?;
        for id in missing {
            lost(ObjectError::chunk(
                &id,
                ContentError::List("a list of the manifest is lost"),
            ));
        }
        let mut after = Vec::new();
        for (part, first_ref) in &parts {
            match self.entries(part, *first_ref, &mut after, each) {
                Ok(()) => {}
                Err(e) if e.needs_identity() => return Err(e),
                Err(e) => lost(e),
            }
        }
        Ok(())
    }
}

/// What [`ChunkReader::each_refs`] gives.
pub enum Refs<'a> {
    /// 32 bytes each.
    Run(&'a [u8]),
    /// A list chunk that cannot be read, and how many refs were in it.
    Lost(ChunkId, u64),
}

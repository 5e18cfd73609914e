//! Writes the repository: everything that a host can read is real and sealed as a backup would seal it; what only readers can read is absent.
//!
//! - config, keys, writer, index objects, snapshots: real, signed.
//! - lists of refs and of manifest parts: real envelopes in real packs.
//! - chunks of files: ids that follow from the model, in packs that are sparse files of the right name and length.
//! - manifest chunks: their ids are those of the entries that a backup would write, so that the next backup finds them stored; their bytes are absent like those of files.
//!
//! So `backup`, `snapshots`, `forget` and `prune` meet what they would meet. What reads content finds zeros, as after a disk failure: `restore`, `ls`,
//! `verify --read-data`, and `prune` when it wants to copy a pack (it says that the pack is damaged, and leaves it).

use std::collections::HashSet;
use std::error::Error;
use std::fs::{self, File};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use keepwatch_engine::envelope::{Draft, Sealer};
use keepwatch_engine::ids::{ChunkId, ChunkKind, ObjectId, PackClass};
use keepwatch_engine::list::{Form, ListWriter, Part};
use keepwatch_engine::manifest::ends_chunk;
use keepwatch_engine::pack::{Packer, TARGET, TARGET_CHUNKS};
use keepwatch_engine::records::{
    Index, IndexedEnvelope, IndexedPack, ListRoot, Snapshot, Stamp, Totals,
};
use keepwatch_engine::repository::Repository;
use keepwatch_engine::store::{Area, Name};

use crate::model::{Item, Model};

/// Chunks in one index object.
const INDEX_CHUNKS: usize = 60_000;
/// As in a backup: a chunk of this length is sealed alone, smaller ones are gathered to so many bytes.
const ALONE: usize = 512 << 10;
const GATHERED: usize = 2 << 20;
const GATHERED_LISTS: usize = 128 << 10;

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What was written for one snapshot.
#[derive(Default, Clone, Copy)]
pub struct Growth {
    pub files: u64,
    pub refs: u64,
    pub chunks: u64,
    pub list_chunks: u64,
    pub manifest_chunks: u64,
    /// Bytes of packs whose content is absent: chunks of files.
    pub data: u64,
    /// The same for manifests, estimated at a quarter of their length.
    pub manifests: u64,
    pub lists: u64,
    pub index: u64,
    pub snapshot: u64,
}

/// A manifest chunk: the items from `from` up to `to`.
struct Chunk {
    from: usize,
    to: usize,
    id: ChunkId,
    refs: u32,
    dirty: bool,
}

/// See the module.
pub struct Maker<'a> {
    repository: &'a Repository,
    root: PathBuf,
    model: Model,
    host: String,
    source: String,
    /// Day of the last change of each file.
    pub versions: Vec<u16>,
    items: Vec<Item>,
    parents: Vec<Vec<u8>>,
    manifest: Vec<Chunk>,
    lists: ListPacks<'a>,
    content: Absent,
    pending: Vec<IndexedPack>,
    pending_chunks: usize,
    pub indexes: Vec<ObjectId>,
    previous: Option<ObjectId>,
    time: SystemTime,
    pub growth: Growth,
}

struct ListPacks<'a> {
    repository: &'a Repository,
    known: HashSet<ChunkId>,
    sealer: Sealer,
    draft: Draft,
    packer: Packer,
    done: Vec<IndexedPack>,
    stored: u64,
}

impl ListPacks<'_> {
    fn store(&mut self, plain: &[u8]) -> Result<ChunkId> {
        let id = self.repository.hash().id(ChunkKind::List, plain);
        if self.known.insert(id) {
            self.stored += 1;
            self.draft.push(id, plain);
            if self.draft.content.len() >= GATHERED_LISTS {
                self.seal()?;
            }
        }
        Ok(id)
    }
    fn seal(&mut self) -> Result<()> {
        let draft = std::mem::replace(&mut self.draft, Draft::new(ChunkKind::List));
        if draft.is_empty() {
            return Ok(());
        }
        let sealed = self.sealer.seal(&draft, self.repository.host_recipient())?;
        self.packer.push(&sealed);
        if self.packer.is_full() {
            self.finish()?;
        }
        Ok(())
    }
    fn finish(&mut self) -> Result<()> {
        let packer = std::mem::replace(&mut self.packer, Packer::new(PackClass::Lists));
        if !packer.is_empty() {
            let pack = packer.finish();
            self.repository
                .store()
                .put(&Name::Pack(pack.id), &pack.bytes)?;
            self.done.push(pack.indexed);
        }
        Ok(())
    }
}

/// Packs whose bytes are not there.
struct Absent {
    envelopes: Vec<IndexedEnvelope>,
    bytes: usize,
    chunks: usize,
    /// Small chunks not yet in an envelope: of files, of manifests.
    gathered: [IndexedEnvelope; 2],
    plain: [usize; 2],
    done: Vec<IndexedPack>,
}

fn envelope(kind: ChunkKind) -> IndexedEnvelope {
    IndexedEnvelope {
        length: 0,
        kind: kind as u8,
        ids: Vec::new(),
        lengths: Vec::new(),
    }
}

impl Absent {
    fn new() -> Self {
        Absent {
            envelopes: Vec::new(),
            bytes: 0,
            chunks: 0,
            gathered: [envelope(ChunkKind::Data), envelope(ChunkKind::Manifest)],
            plain: [0; 2],
            done: Vec::new(),
        }
    }
    fn push(&mut self, kind: ChunkKind, id: ChunkId, length: usize) {
        let n = kind as usize;
        if length >= ALONE {
            let mut alone = envelope(kind);
            alone.ids.extend_from_slice(&id.0);
            alone.lengths.push(length as u32);
            self.put(alone, length / 10 * 9);
            return;
        }
        self.gathered[n].ids.extend_from_slice(&id.0);
        self.gathered[n].lengths.push(length as u32);
        self.plain[n] += length;
        if self.plain[n] >= GATHERED {
            self.flush(kind);
        }
    }
    fn flush(&mut self, kind: ChunkKind) {
        let n = kind as usize;
        let full = std::mem::replace(&mut self.gathered[n], envelope(kind));
        let plain = std::mem::take(&mut self.plain[n]);
        if !full.lengths.is_empty() {
            let share = if kind == ChunkKind::Manifest { 4 } else { 2 };
            self.put(full, plain / share);
        }
    }
    fn put(&mut self, mut e: IndexedEnvelope, compressed: usize) {
        e.length = (compressed + 4 * e.lengths.len() + 300) as u32;
        self.bytes += e.length as usize;
        self.chunks += e.lengths.len();
        self.envelopes.push(e);
        if self.bytes >= TARGET || self.chunks >= TARGET_CHUNKS {
            self.finish();
        }
    }
    fn finish(&mut self) {
        let envelopes = std::mem::take(&mut self.envelopes);
        if envelopes.is_empty() {
            return;
        }
        let mut id = [0; 32];
        getrandom::fill(&mut id).expect("the system gives random numbers");
        self.done.push(IndexedPack {
            id: ObjectId(id),
            class: PackClass::Content as u8,
            size: (std::mem::take(&mut self.bytes) + 4 * envelopes.len() + 12) as u64,
            envelopes,
        });
        self.chunks = 0;
    }
}

impl<'a> Maker<'a> {
    /// `root`: the directory of the repository. `source`: absolute path of the tree.
    pub fn new(
        repository: &'a Repository,
        root: PathBuf,
        model: Model,
        host: &str,
        source: &str,
    ) -> Result<Self> {
        let source = source.trim_start_matches('/').to_owned();
        let parents = source
            .match_indices('/')
            .map(|(at, _)| {
                let mut b = Vec::new();
                model.parent(&source[..at]).encode_to(&mut b);
                b
            })
            .collect();
        for n in 0..256 {
            fs::create_dir_all(root.join(format!("packs/{n:02x}")))?;
        }
        Ok(Maker {
            repository,
            root,
            model,
            host: host.to_owned(),
            source,
            versions: vec![0; model.files as usize],
            items: model.items().collect(),
            parents,
            manifest: Vec::new(),
            lists: ListPacks {
                repository,
                known: HashSet::new(),
                sealer: Sealer::new(3)?,
                draft: Draft::new(ChunkKind::List),
                packer: Packer::new(PackClass::Lists),
                done: Vec::new(),
                stored: 0,
            },
            content: Absent::new(),
            pending: Vec::new(),
            pending_chunks: 0,
            indexes: Vec::new(),
            previous: None,
            time: SystemTime::now(),
            growth: Growth::default(),
        })
    }

    /// Cuts the manifest. Where it is cut follows from paths alone, so it is done once.
    fn cut(&mut self) {
        let (mut from, mut bytes) = (0, self.parents.iter().map(Vec::len).sum());
        let mut entries = self.parents.len();
        let mut encoded = Vec::new();
        let last = self.items.len() - 1;
        for (n, item) in self.items.iter().enumerate() {
            let entry = self.model.entry(&self.source, *item, 0);
            encoded.clear();
            entry.encode_to(&mut encoded);
            entries += 1;
            bytes += encoded.len();
            if ends_chunk(&entry.path, entries, bytes) || n == last {
                self.manifest.push(Chunk {
                    from,
                    to: n + 1,
                    id: ChunkId([0; 32]),
                    refs: 0,
                    dirty: true,
                });
                (from, bytes, entries) = (n + 1, 0, 0);
            }
        }
    }

    /// Writes the snapshot of a day.
    pub fn day(&mut self, day: u16) -> Result<ObjectId> {
        self.growth = Growth::default();
        self.time =
            SystemTime::UNIX_EPOCH + Duration::from_secs(self.model.time(day).max(0) as u64);
        if day == 0 {
            self.cut();
            for file in 0..self.model.files {
                self.file(file, day)?;
            }
        } else {
            let mut changed = Vec::new();
            self.model.changed(day, false, &mut |f| changed.push(f));
            for &file in &changed {
                self.versions[file as usize] = day;
                self.file(file, day)?;
                self.growth.files += 1;
            }
            for c in &mut self.manifest {
                // Files are in the order of the items.
                c.dirty = self.items[c.from..c.to]
                    .iter()
                    .any(|i| matches!(i, Item::File(f) if self.versions[*f as usize] == day));
            }
        }
        let manifest = self.write_manifest()?;
        let refs = self.write_refs()?;
        self.content.flush(ChunkKind::Data);
        self.content.flush(ChunkKind::Manifest);
        self.content.finish();
        self.lists.seal()?;
        self.lists.finish()?;
        self.place()?;
        self.write_index()?;
        self.snapshot(day, manifest, refs)
    }

    fn file(&mut self, file: u32, day: u16) -> Result<()> {
        for k in 0..self.model.chunks(file) {
            let length = self.model.length(file, k);
            self.content.push(
                ChunkKind::Data,
                self.model.id(file, day, k),
                length as usize,
            );
            self.growth.chunks += 1;
        }
        if self.content.done.len() >= 64 {
            self.place()?;
        }
        Ok(())
    }

    fn write_manifest(&mut self) -> Result<ListRoot> {
        let mut list = ListWriter::new(Form::Parts);
        let mut plain = Vec::new();
        for n in 0..self.manifest.len() {
            let c = &self.manifest[n];
            let mut entries = (c.to - c.from) as u32;
            if n == 0 {
                entries += self.parents.len() as u32;
            }
            if c.dirty {
                plain.clear();
                if n == 0 {
                    self.parents.iter().for_each(|p| plain.extend_from_slice(p));
                }
                let mut refs = 0;
                for item in &self.items[c.from..c.to] {
                    let version = match item {
                        Item::File(f) => {
                            refs += self.model.chunks(*f);
                            self.versions[*f as usize]
                        }
                        _ => 0,
                    };
                    self.model
                        .entry(&self.source, *item, version)
                        .encode_to(&mut plain);
                }
                let id = self.repository.hash().id(ChunkKind::Manifest, &plain);
                self.content.push(ChunkKind::Manifest, id, plain.len());
                self.growth.manifests += plain.len() as u64 / 4;
                self.growth.manifest_chunks += 1;
                self.growth.chunks += 1;
                let c = &mut self.manifest[n];
                (c.id, c.refs, c.dirty) = (id, refs, false);
            }
            let c = &self.manifest[n];
            let part = Part {
                id: c.id,
                refs: c.refs,
                entries,
            };
            list.push(&part.to_bytes(), &mut |plain| self.lists.store(plain))?;
        }
        list.finish(&mut |plain| self.lists.store(plain))
    }

    fn write_refs(&mut self) -> Result<ListRoot> {
        let mut list = ListWriter::new(Form::Refs);
        for file in 0..self.model.files {
            let version = self.versions[file as usize];
            for k in 0..self.model.chunks(file) {
                let id = self.model.id(file, version, k);
                list.push(&id.0, &mut |plain| self.lists.store(plain))?;
            }
        }
        self.growth.refs = list.count();
        let root = list.finish(&mut |plain| self.lists.store(plain))?;
        self.growth.list_chunks = std::mem::take(&mut self.lists.stored);
        self.growth.chunks += self.growth.list_chunks;
        Ok(root)
    }

    /// Gives the finished packs a place in the repository and in the index.
    fn place(&mut self) -> Result<()> {
        for pack in std::mem::take(&mut self.content.done) {
            let path = self.root.join(Name::Pack(pack.id).to_string());
            let file = File::create_new(path)?;
            file.set_len(pack.size)?;
            file.set_modified(self.time)?;
            self.growth.data += pack.size;
            self.index(pack)?;
        }
        for pack in std::mem::take(&mut self.lists.done) {
            self.date(&Name::Pack(pack.id))?;
            self.growth.lists += pack.size;
            self.index(pack)?;
        }
        Ok(())
    }

    fn index(&mut self, pack: IndexedPack) -> Result<()> {
        let chunks: usize = pack.envelopes.iter().map(|e| e.lengths.len()).sum();
        if self.pending_chunks + chunks > INDEX_CHUNKS {
            self.write_index()?;
        }
        self.pending_chunks += chunks;
        self.pending.push(pack);
        Ok(())
    }

    fn write_index(&mut self) -> Result<()> {
        let packs = std::mem::take(&mut self.pending);
        self.pending_chunks = 0;
        if packs.is_empty() {
            return Ok(());
        }
        let (bytes, id) = self.repository.make_record(Area::Index, &Index { packs })?;
        self.repository.store().put(&Name::Index(id), &bytes)?;
        self.growth.index += bytes.len() as u64;
        self.indexes.push(id);
        self.date(&Name::Index(id))
    }

    /// Objects are as old as their snapshot: what is younger than its grace period, `prune` leaves alone.
    fn date(&self, name: &Name) -> Result<()> {
        let file = File::open(self.root.join(name.to_string()))?;
        Ok(file.set_modified(self.time)?)
    }

    fn snapshot(&mut self, day: u16, manifest: ListRoot, refs: ListRoot) -> Result<ObjectId> {
        let time = self.model.time(day);
        let stamp = |seconds| Stamp {
            seconds,
            nanoseconds: 0,
            offset: 0,
        };
        let new = if day == 0 {
            self.model.files as u64
        } else {
            self.growth.files
        };
        let body = Snapshot {
            sequence: day as u64 + 1,
            previous: self.previous,
            start: stamp(time - 600),
            end: stamp(time),
            host: self.host.clone(),
            user: "operator".into(),
            job: None,
            tags: Vec::new(),
            paths: vec![format!("/{}", self.source).into_bytes().into()],
            outcome: 0,
            totals: Totals {
                files: self.model.files as u64,
                directories: (self.items.len() + self.parents.len()) as u64
                    - self.model.files as u64,
                bytes: (0..self.model.files).map(|f| self.model.size(f)).sum(),
                files_new: if day == 0 { new } else { 0 },
                files_changed: if day == 0 { 0 } else { new },
                files_unmodified: self.model.files as u64 - new,
                chunks_new: self.growth.chunks,
                ..Totals::default()
            },
            manifest,
            refs,
            program: concat!("keepwatch ", env!("CARGO_PKG_VERSION")).into(),
            source: 0,
            original: None,
            base: None,
        };
        let (bytes, id) = self.repository.make_record(Area::Snapshots, &body)?;
        self.repository.store().put(&Name::Snapshot(id), &bytes)?;
        self.date(&Name::Snapshot(id))?;
        self.growth.snapshot = bytes.len() as u64;
        self.previous = Some(id);
        Ok(id)
    }
}

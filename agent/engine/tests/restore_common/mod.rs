//! Builds repositories entry by entry, honest or not, with the format's own pieces.
#![allow(dead_code)]

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use keepwatch_engine::envelope::{Draft, Sealer};
use keepwatch_engine::ids::{ChunkId, ChunkKind, ObjectId, PackClass};
use keepwatch_engine::list::{Form, ListWriter, Part};
use keepwatch_engine::lookup::Lookup;
use keepwatch_engine::manifest::{Entry, EntryKind, FileTime, ends_chunk};
use keepwatch_engine::pack::Packer;
use keepwatch_engine::progress::{Cancel, Silent};
use keepwatch_engine::records::{Index, Snapshot, Stamp, Totals};
use keepwatch_engine::repository::{CHUNKER, Repository};
use keepwatch_engine::restore::{self, Options, Report, RestoreError};
use keepwatch_engine::seal::{AskNobody, Identity, ReaderIdentity, ReaderRecipient};
use keepwatch_engine::snapshots::SnapshotRecord;
use keepwatch_engine::store::memory::MemoryStore;
use keepwatch_engine::store::{Area, KeyName, Name, Store};
use keepwatch_model::time::Moment;

/// Bytes of an envelope's content.
const ENVELOPE: usize = 1 << 20;

pub struct Builder {
    pub store: Arc<dyn Store>,
    pub identity: Identity,
    repository: Repository,
    sealer: Sealer,
    drafts: [Draft; 3],
    packers: [Packer; 2],
    packed: [usize; 2],
    index: Index,
    known: HashSet<ChunkId>,
    /// Data chunks are cut at this length.
    pub chunk: usize,
    /// Packs are closed at this length.
    pub pack: usize,
    refs: Vec<ChunkId>,
    entries: Vec<Entry>,
    pub totals: Totals,
    pub paths: Vec<Vec<u8>>,
    sequence: u64,
}

pub fn now() -> Moment {
    Moment::from_parts(1_790_000_000, 0, 0).unwrap()
}

pub fn memory() -> Arc<MemoryStore> {
    Arc::new(MemoryStore::new())
}

impl Builder {
    pub fn new(store: Arc<dyn Store>) -> Self {
        let identity = Identity::generate();
        let reader = ReaderRecipient::parse(&identity.recipient().to_string(), &AskNobody).unwrap();
        let (repository, _) = Repository::init(
            store.clone(),
            &[(KeyName::new("me").unwrap(), reader)],
            "test",
            CHUNKER,
            now(),
        )
        .unwrap();
        Builder {
            store,
            identity,
            repository,
            sealer: Sealer::new(3).unwrap(),
            drafts: [ChunkKind::Data, ChunkKind::Manifest, ChunkKind::List].map(Draft::new),
            packers: [
                Packer::new(PackClass::Content),
                Packer::new(PackClass::Lists),
            ],
            packed: [0; 2],
            index: Index::default(),
            known: HashSet::new(),
            chunk: 1 << 20,
            pack: 16 << 20,
            refs: Vec::new(),
            entries: Vec::new(),
            totals: Totals::default(),
            paths: Vec::new(),
            sequence: 0,
        }
    }

    /// Stores a chunk once.
    pub fn chunk(&mut self, kind: ChunkKind, plain: &[u8]) -> ChunkId {
        let id = self.repository.hash().id(kind, plain);
        if self.known.insert(id) {
            self.chunk_as(kind, id, plain);
        }
        id
    }

    /// Stores content under any id.
    pub fn chunk_as(&mut self, kind: ChunkKind, id: ChunkId, plain: &[u8]) {
        let draft = &mut self.drafts[kind as usize];
        if draft.content.len() + plain.len() > ENVELOPE {
            self.seal(kind);
        }
        self.drafts[kind as usize].push(id, plain);
    }

    /// Ends the envelope that is being filled.
    pub fn seal(&mut self, kind: ChunkKind) {
        let draft = std::mem::replace(&mut self.drafts[kind as usize], Draft::new(kind));
        if draft.is_empty() {
            return;
        }
        let to = if kind == ChunkKind::List {
            self.repository.host_recipient()
        } else {
            self.repository.recipient()
        };
        let sealed = self.sealer.seal(&draft, to).unwrap();
        let class = kind.class() as usize;
        self.packers[class].push(&sealed);
        self.packed[class] += sealed.bytes.len();
        if self.packed[class] >= self.pack {
            self.finish_pack(kind);
        }
    }

    /// Ends the pack that is being filled; returns its name.
    pub fn finish_pack(&mut self, kind: ChunkKind) -> Option<ObjectId> {
        let class = kind.class();
        self.packed[class as usize] = 0;
        let packer = std::mem::replace(&mut self.packers[class as usize], Packer::new(class));
        if packer.is_empty() {
            return None;
        }
        let done = packer.finish();
        self.store.put(&Name::Pack(done.id), &done.bytes).unwrap();
        let id = done.id;
        self.index.packs.push(done.indexed);
        Some(id)
    }

    /// Everything so far goes to the store; the packs written since the last index.
    pub fn flush(&mut self) -> Vec<ObjectId> {
        for kind in [ChunkKind::Data, ChunkKind::Manifest, ChunkKind::List] {
            self.seal(kind);
        }
        self.finish_pack(ChunkKind::Data);
        self.finish_pack(ChunkKind::List);
        let index = std::mem::take(&mut self.index);
        let packs = index.packs.iter().map(|p| p.id).collect();
        if !index.packs.is_empty() {
            self.repository.put_record(Area::Index, &index).unwrap();
        }
        packs
    }

    /// Adds an entry with its stored content (without holes).
    pub fn add(&mut self, entry: Entry, content: &[u8]) {
        let chunk = self.chunk;
        let ids: Vec<ChunkId> = content
            .chunks(chunk)
            .map(|c| self.chunk(ChunkKind::Data, c))
            .collect();
        self.add_refs(entry, &ids);
    }

    /// Adds an entry that takes any chunks.
    pub fn add_refs(&mut self, mut entry: Entry, ids: &[ChunkId]) {
        entry.set_refs(ids.len() as u32);
        match entry.kind() {
            EntryKind::File => self.totals.files += 1,
            EntryKind::Directory => self.totals.directories += 1,
            _ => self.totals.others += 1,
        }
        self.totals.bytes += entry.len();
        self.refs.extend(ids);
        self.entries.push(entry);
    }

    /// Commits a snapshot of the entries in the order in which they were added.
    pub fn commit(&mut self) -> ObjectId {
        let entries = std::mem::take(&mut self.entries);
        let refs = std::mem::take(&mut self.refs);
        let mut parts = Vec::new();
        let (mut bytes, mut count, mut used) = (Vec::new(), 0, 0);
        for (i, e) in entries.iter().enumerate() {
            e.encode_to(&mut bytes);
            count += 1;
            used += e.refs();
            if ends_chunk(&e.path, count as usize, bytes.len()) || i + 1 == entries.len() {
                let id = self.chunk(ChunkKind::Manifest, &bytes);
                parts.push(
                    Part {
                        id,
                        refs: used,
                        entries: count,
                    }
                    .to_bytes(),
                );
                (bytes, count, used) = (Vec::new(), 0, 0);
            }
        }
        let manifest = self.list(Form::Parts, parts.iter().map(|p| &p[..]));
        let refs = self.list(Form::Refs, refs.iter().map(|r| &r.0[..]));
        self.commit_lists(manifest, refs)
    }

    pub fn list<'i>(
        &mut self,
        form: Form,
        items: impl Iterator<Item = &'i [u8]>,
    ) -> keepwatch_engine::records::ListRoot {
        let mut w = ListWriter::new(form);
        let mut store =
            |b: &[u8]| Ok::<_, std::convert::Infallible>(self.chunk(ChunkKind::List, b));
        for item in items {
            w.push(item, &mut store).unwrap();
        }
        w.finish(&mut store).unwrap()
    }

    pub fn commit_lists(
        &mut self,
        manifest: keepwatch_engine::records::ListRoot,
        refs: keepwatch_engine::records::ListRoot,
    ) -> ObjectId {
        self.flush();
        self.sequence += 1;
        // Each a second after the one before, so that the last one is the latest.
        let mut stamp = Stamp::from(now());
        stamp.seconds += self.sequence as i64;
        let snapshot = Snapshot {
            sequence: self.sequence,
            previous: None,
            start: stamp,
            end: stamp,
            host: "host".into(),
            user: "me".into(),
            job: None,
            tags: Vec::new(),
            paths: self.paths.iter().map(|p| p.clone().into()).collect(),
            outcome: 0,
            totals: std::mem::take(&mut self.totals),
            manifest,
            refs,
            program: "test".into(),
            source: 0,
            original: None,
            base: None,
        };
        self.repository
            .put_record(Area::Snapshots, &snapshot)
            .unwrap()
    }

    /// Opened by the host, which cannot read.
    pub fn into_writer(self) -> Repository {
        self.repository
    }

    pub fn reader(&self) -> Repository {
        Repository::open_as_reader(
            self.store.clone(),
            &ReaderIdentity::native(&self.identity),
            None,
        )
        .unwrap()
    }

    /// Opens everything for a restore.
    pub fn open(&self, snapshot: ObjectId) -> Opened {
        let repository = self.reader();
        let (lookup, problems) = repository.load_index(None).unwrap();
        assert!(problems.is_empty(), "{problems:?}");
        let snapshot = repository.snapshot(snapshot).unwrap();
        Opened {
            repository,
            lookup,
            snapshot,
        }
    }
}

pub struct Opened {
    pub repository: Repository,
    pub lookup: Lookup,
    pub snapshot: SnapshotRecord,
}

impl Opened {
    pub fn restore(&self, options: &Options) -> Result<Report, RestoreError> {
        restore::run(
            &self.repository,
            &self.lookup,
            &self.snapshot,
            options,
            &Silent,
            &Cancel::new(),
        )
    }

    /// Everything, without any problem.
    pub fn restore_well(&self, options: &Options) -> Report {
        let report = self.restore(options).unwrap();
        assert_eq!(report.problems_total, 0, "{:?}", report.problems);
        report
    }
}

pub fn into(target: &Path) -> Options {
    Options {
        target: target.to_owned(),
        threads: 2,
        // Thousands of restores, onto a disk that others use.
        no_sync: true,
        ..Options::default()
    }
}

pub fn time(seconds: i64, nanoseconds: u32) -> FileTime {
    FileTime {
        seconds,
        nanoseconds,
    }
}

pub fn entry(path: impl AsRef<[u8]>, kind: EntryKind, mode: u32) -> Entry {
    let mut e = Entry::new(path.as_ref().to_vec(), kind);
    e.mode = mode;
    e.uid = rustix::process::geteuid().as_raw();
    e.gid = rustix::process::getegid().as_raw();
    e.mtime = time(1_700_000_000, 123_456_789);
    e
}

pub fn dir(path: impl AsRef<[u8]>) -> Entry {
    entry(path, EntryKind::Directory, 0o755)
}

pub fn file(path: impl AsRef<[u8]>, len: usize) -> Entry {
    let mut e = entry(path, EntryKind::File, 0o644);
    e.size = Some(len as u64);
    e
}

pub fn symlink(path: impl AsRef<[u8]>, to: &str) -> Entry {
    let mut e = entry(path, EntryKind::Symlink, 0o777);
    e.target = Some(to.as_bytes().to_vec().into());
    e
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut out);
    out
}

/// Every path beneath a directory, sorted.
pub fn tree(at: &Path) -> Vec<String> {
    let mut out = Vec::new();
    fn walk(dir: &Path, root: &Path, out: &mut Vec<String>) {
        for e in std::fs::read_dir(dir).unwrap() {
            let path = e.unwrap().path();
            out.push(
                path.strip_prefix(root)
                    .unwrap()
                    .to_string_lossy()
                    .into_owned(),
            );
            if path.symlink_metadata().unwrap().is_dir() {
                walk(&path, root, out);
            }
        }
    }
    walk(at, at, &mut out);
    out.sort();
    out
}

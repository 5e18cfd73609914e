//! A small repository in memory, and snapshots made from (path, content) pairs without a file system. Packs are tiny, so that a few kilobytes make many.
#![allow(dead_code)] // each test binary uses a part

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use keepwatch_engine::chunks::ChunkReader;
use keepwatch_engine::envelope::{Draft, Sealer};
use keepwatch_engine::ids::{ChunkId, ChunkKind, ObjectId, PackClass};
use keepwatch_engine::keys::WriterKey;
use keepwatch_engine::list::{Form, ListWriter, Part};
use keepwatch_engine::lookup::{Lookup, Window};
use keepwatch_engine::manifest::{Entry, EntryKind};
use keepwatch_engine::marks::marked_packs;
use keepwatch_engine::pack::Packer;
use keepwatch_engine::progress::{Cancel, Silent};
use keepwatch_engine::prune;
use keepwatch_engine::records::{Index, Outcome, Snapshot, Totals};
use keepwatch_engine::repository::{CHUNKER, Repository};
use keepwatch_engine::seal::{Identity, ReaderIdentity, ReaderRecipient};
use keepwatch_engine::snapshots::SnapshotRecord;
use keepwatch_engine::store::memory::MemoryStore;
use keepwatch_engine::store::{Area, KeyName, Name, Store};
use keepwatch_model::time::Moment;

pub type Files = BTreeMap<String, Vec<u8>>;

pub const HOUR: Duration = Duration::from_secs(3600);
/// Longer than the default grace period.
pub const LATER: Duration = Duration::from_secs(25 * 3600);

/// Plaintext of a chunk, chunks in an envelope, envelopes in a pack.
pub const CHUNK: usize = 700;
const CHUNKS: usize = 3;
const ENVELOPES: usize = 2;

pub struct World {
    pub store: Arc<MemoryStore>,
    pub key: WriterKey,
    pub user: Identity,
    pub repo: Repository,
}

pub fn user_name() -> KeyName {
    KeyName::new("me").unwrap()
}

/// `seconds` of the process clock; stores in memory date by it plus their offset.
pub fn now() -> Moment {
    let t = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    Moment::from_parts(t.as_secs() as i64, t.subsec_nanos(), 0).unwrap()
}

impl World {
    pub fn new() -> World {
        let store = Arc::new(MemoryStore::new());
        let user = Identity::generate();
        let reader = ReaderRecipient::parse(
            &user.recipient().to_string(),
            &keepwatch_engine::seal::AskNobody,
        )
        .unwrap();
        let (repo, key) = Repository::init(
            store.clone(),
            &[(user_name(), reader)],
            "test",
            CHUNKER,
            now(),
        )
        .unwrap();
        World {
            store,
            key,
            user,
            repo,
        }
    }

    /// The same content, forked; faults and later changes are its own.
    pub fn fork(&self) -> World {
        self.over(Arc::new(self.store.fork()))
    }

    pub fn over(&self, store: Arc<MemoryStore>) -> World {
        let key = copy(&self.key);
        let repo = Repository::open_as_writer(store.clone(), &key).unwrap();
        World {
            store,
            key,
            user: self.user.clone(),
            repo,
        }
    }

    pub fn reader(&self) -> Repository {
        Repository::open_as_reader(
            self.store.clone(),
            &ReaderIdentity::native(&self.user),
            None,
        )
        .unwrap()
    }

    /// Reader and writer in one.
    pub fn both(&self) -> Repository {
        let mut repo = self.reader();
        repo.use_writer(&self.key).unwrap();
        repo
    }

    /// A second writer.
    pub fn enroll(&self, maintain: bool) -> (Repository, WriterKey) {
        let key = self.reader().enroll("other", maintain, now()).unwrap();
        (
            Repository::open_as_writer(self.store.clone(), &key).unwrap(),
            key,
        )
    }

    /// The present by the store's clock.
    pub fn moment(&self) -> Moment {
        moment_of(&self.store)
    }

    pub fn prune(&self, options: &prune::Options) -> Result<prune::Report, prune::PruneError> {
        prune::run(
            &self.repo,
            options,
            &|| self.moment(),
            &Silent,
            &Cancel::new(),
        )
    }

    pub fn count(&self, area: Area) -> usize {
        let mut n = 0;
        self.store.fork().list(area, &mut |_| n += 1).unwrap();
        n
    }

    pub fn names(&self, area: Area) -> Vec<Name> {
        let mut out = Vec::new();
        self.store
            .fork()
            .list(area, &mut |l| out.push(l.name))
            .unwrap();
        out.sort();
        out
    }
}

pub fn moment_of(store: &MemoryStore) -> Moment {
    let t = store.now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Moment::from_parts(t.as_secs() as i64, t.subsec_nanos(), 0).unwrap()
}

pub fn copy(key: &WriterKey) -> WriterKey {
    WriterKey::parse(&key.to_text(), "copy").unwrap()
}

pub fn options(grace: Duration) -> prune::Options {
    prune::Options {
        grace,
        ..prune::Options::default()
    }
}

/// Bytes that do not compress and follow from a seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut out);
    out
}

pub fn files(list: &[(&str, u64, usize)]) -> Files {
    list.iter()
        .map(|(path, seed, length)| (path.to_string(), noise(*seed, *length)))
        .collect()
}

/// A backup in steps, so that tests can put other things between them.
pub struct Draftsman<'a> {
    repo: &'a Repository,
    lookup: Lookup,
    window: Window,
    sealer: Sealer,
    new: std::collections::HashSet<ChunkId>,
    drafts: [Draft; 3],
    packers: [Packer; 2],
    envelopes: [usize; 2],
    pub index: Index,
}

impl<'a> Draftsman<'a> {
    pub fn new(repo: &'a Repository) -> Self {
        let (mut lookup, problems) = repo.load_index(None).unwrap();
        assert!(problems.is_empty(), "{problems:?}");
        lookup.set_unusable(marked_packs(repo).unwrap()).unwrap();
        Draftsman {
            repo,
            lookup,
            window: Window::default(),
            sealer: Sealer::new(3).unwrap(),
            new: Default::default(),
            drafts: [
                Draft::new(ChunkKind::Data),
                Draft::new(ChunkKind::Manifest),
                Draft::new(ChunkKind::List),
            ],
            packers: [
                Packer::new(PackClass::Content),
                Packer::new(PackClass::Lists),
            ],
            envelopes: [0; 2],
            index: Index::default(),
        }
    }

    pub fn chunk(&mut self, kind: ChunkKind, plain: &[u8]) -> ChunkId {
        let id = self.repo.hash().id(kind, plain);
        if !self.lookup.contains(&id, &mut self.window).unwrap() && self.new.insert(id) {
            self.drafts[kind as usize].push(id, plain);
            if self.drafts[kind as usize].ids.len() >= CHUNKS {
                self.seal(kind);
            }
        }
        id
    }

    fn seal(&mut self, kind: ChunkKind) {
        let draft = std::mem::replace(&mut self.drafts[kind as usize], Draft::new(kind));
        if draft.is_empty() {
            return;
        }
        let to = match kind {
            ChunkKind::List => self.repo.host_recipient(),
            _ => self.repo.recipient(),
        };
        let sealed = self.sealer.seal(&draft, to).unwrap();
        let class = kind.class() as usize;
        self.packers[class].push(&sealed);
        self.envelopes[class] += 1;
        if self.envelopes[class] >= ENVELOPES {
            self.pack(kind.class());
        }
    }

    fn pack(&mut self, class: PackClass) {
        self.envelopes[class as usize] = 0;
        let full = std::mem::replace(&mut self.packers[class as usize], Packer::new(class));
        if full.is_empty() {
            return;
        }
        let f = full.finish();
        self.repo.store().put(&Name::Pack(f.id), &f.bytes).unwrap();
        self.index.packs.push(f.indexed);
    }

    pub fn finish_packs(&mut self) {
        for kind in [ChunkKind::Data, ChunkKind::Manifest, ChunkKind::List] {
            self.seal(kind);
        }
        self.pack(PackClass::Content);
        self.pack(PackClass::Lists);
    }

    /// Everything but the commit; the packs are stored, the index is not.
    pub fn content(&mut self, files: &Files, host: &str, start: Moment) -> Snapshot {
        let mut refs = ListWriter::new(Form::Refs);
        let mut parts = ListWriter::new(Form::Parts);
        let mut totals = Totals::default();
        let (mut chunk, mut entries, mut of_chunk) = (Vec::new(), 0u32, 0u32);
        let last = files.len();
        for (i, (path, content)) in files.iter().enumerate() {
            let mut e = Entry::new(path.clone().into_bytes(), EntryKind::File);
            e.size = Some(content.len() as u64);
            e.mode = 0o644;
            let mut n = 0;
            for piece in content.chunks(CHUNK) {
                let id = self.chunk(ChunkKind::Data, piece);
                n += 1;
                refs.push::<()>(&id.0, &mut |c| Ok(self.chunk(ChunkKind::List, c)))
                    .unwrap();
            }
            e.set_refs(n);
            e.encode_to(&mut chunk);
            entries += 1;
            of_chunk += n;
            totals.files += 1;
            totals.bytes += content.len() as u64;
            if entries == 4 || i + 1 == last {
                let id = self.chunk(ChunkKind::Manifest, &chunk);
                let part = Part {
                    id,
                    refs: of_chunk,
                    entries,
                };
                parts
                    .push::<()>(
                        &part.to_bytes(),
                        &mut |c| Ok(self.chunk(ChunkKind::List, c)),
                    )
                    .unwrap();
                chunk.clear();
                (entries, of_chunk) = (0, 0);
            }
        }
        let refs = refs
            .finish::<()>(&mut |c| Ok(self.chunk(ChunkKind::List, c)))
            .unwrap();
        let manifest = parts
            .finish::<()>(&mut |c| Ok(self.chunk(ChunkKind::List, c)))
            .unwrap();
        self.finish_packs();
        let writer = self.repo.writer().unwrap().id;
        let set = self.repo.snapshots().unwrap();
        let previous = set.newest_of(writer);
        Snapshot {
            sequence: previous.map_or(1, |p| p.body.sequence + 1),
            previous: previous.map(|p| p.id),
            start: start.into(),
            end: start.into(),
            host: host.into(),
            user: "root".into(),
            job: None,
            tags: Vec::new(),
            paths: vec![b"/data".to_vec().into()],
            outcome: Outcome::Succeeded as u8,
            totals,
            manifest,
            refs,
            program: "test".into(),
            source: 0,
            original: None,
            base: None,
        }
    }

    pub fn store_index(&mut self) {
        let index = std::mem::take(&mut self.index);
        if !index.packs.is_empty() {
            self.repo.put_record(Area::Index, &index).unwrap();
        }
    }
}

pub fn backup_as(repo: &Repository, files: &Files, host: &str, start: Moment) -> SnapshotRecord {
    let mut d = Draftsman::new(repo);
    let body = d.content(files, host, start);
    d.store_index();
    commit(repo, &body)
}

pub fn commit(repo: &Repository, body: &Snapshot) -> SnapshotRecord {
    let id = repo.put_record(Area::Snapshots, body).unwrap();
    repo.snapshot(id).unwrap()
}

impl World {
    pub fn backup(&self, files: &Files) -> SnapshotRecord {
        backup_as(&self.repo, files, "host", self.moment())
    }

    pub fn forget(&self, snapshot: &SnapshotRecord) -> ObjectId {
        keepwatch_engine::forget::apply(&self.repo, &[snapshot], self.moment())
            .unwrap()
            .unwrap()
    }
}

/// Reads a snapshot back, whole.
pub fn restore(repo: &Repository, snapshot: &SnapshotRecord) -> Result<Files, String> {
    let (lookup, _) = repo.load_index(None).map_err(|e| e.to_string())?;
    let mut reader = ChunkReader::new(repo, &lookup);
    let mut refs = Vec::new();
    reader
        .each_refs(
            &snapshot.body.refs,
            &mut |r| {
                if let keepwatch_engine::chunks::Refs::Run(items) = r {
                    refs.extend(
                        items
                            .chunks_exact(32)
                            .map(|c| ChunkId(c.try_into().unwrap())),
                    );
                }
                Ok(())
            },
            false,
        )
        .map_err(|e| e.to_string())?;
    let mut entries = Vec::new();
    let mut lost = Vec::new();
    reader
        .each_entry(
            &snapshot.body,
            &mut |e, first| {
                entries.push((e, first));
                Ok(())
            },
            &mut |e| lost.push(e.to_string()),
        )
        .map_err(|e| e.to_string())?;
    if let Some(e) = lost.first() {
        return Err(e.clone());
    }
    let mut out = Files::new();
    for (e, first) in entries {
        let mut content = Vec::new();
        for id in &refs[first as usize..first as usize + e.refs() as usize] {
            content.extend(
                reader
                    .read(ChunkKind::Data, id)
                    .map_err(|x| format!("{}: {x}", e.display()))?,
            );
        }
        out.insert(e.display(), content);
    }
    Ok(out)
}

/// A generator for histories, by seed.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }
    pub fn roll(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

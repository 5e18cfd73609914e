//! What the tests of the verbs share: a repository in memory, a clock, trees, and a plain reading of a snapshot to compare with.
#![allow(dead_code)] // each test file uses its part

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use keepwatch_engine::backup::{self, Input, Options, Report};
use keepwatch_engine::chunks::{ChunkReader, Refs};
use keepwatch_engine::ids::{ChunkId, ChunkKind, ObjectId};
use keepwatch_engine::keys::WriterKey;
use keepwatch_engine::manifest::{Entry, EntryKind};
use keepwatch_engine::progress::{Cancel, Silent};
use keepwatch_engine::repository::Repository;
use keepwatch_engine::seal::{AskNobody, Identity, ReaderIdentity, ReaderRecipient};
use keepwatch_engine::store::{KeyName, Store};
use keepwatch_model::time::Moment;

/// Small chunks, so that small files have several.
pub const SMALL: [u32; 3] = [2 << 10, 8 << 10, 32 << 10];

pub fn now() -> Moment {
    Moment::new(jiff::Timestamp::now(), jiff::tz::Offset::UTC)
}

pub struct World {
    pub store: Arc<dyn Store>,
    pub identity: Identity,
    pub key: WriterKey,
}

impl World {
    pub fn new(store: Arc<dyn Store>) -> World {
        let identity = Identity::generate();
        let reader = ReaderRecipient::parse(&identity.recipient().to_string(), &AskNobody).unwrap();
        let (_, key) = Repository::init(
            store.clone(),
            &[(KeyName::new("me").unwrap(), reader)],
            "test",
            SMALL,
            now(),
        )
        .unwrap();
        World {
            store,
            identity,
            key,
        }
    }
    pub fn writer(&self) -> Repository {
        Repository::open_as_writer(self.store.clone(), &self.key).unwrap()
    }
    pub fn reader(&self) -> Repository {
        self.reader_of(self.store.clone())
    }
    pub fn reader_of(&self, store: Arc<dyn Store>) -> Repository {
        let mut r = Repository::open_as_reader(
            store,
            &ReaderIdentity::native(&self.identity),
            Some(self.key.owner),
        )
        .unwrap();
        r.use_writer(&self.key).unwrap();
        r
    }
    pub fn backup(
        &self,
        paths: &[&Path],
        cache: Option<&Path>,
    ) -> Result<Report, backup::BackupError> {
        backup(&self.writer(), paths, cache)
    }
}

pub fn options(paths: &[&Path], cache: Option<&Path>) -> Options {
    Options {
        paths: paths.iter().map(|p| p.to_path_buf()).collect(),
        host: "h".into(),
        threads: 2,
        cache: cache.map(Path::to_path_buf),
        ..Options::default()
    }
}

pub fn backup(
    repository: &Repository,
    paths: &[&Path],
    cache: Option<&Path>,
) -> Result<Report, backup::BackupError> {
    backup::run(
        repository,
        &options(paths, cache),
        Input::Files,
        &now,
        &Silent,
        &Cancel::new(),
    )
}

/// Path to kind, mode, content or target.
pub type Tree = BTreeMap<Vec<u8>, (EntryKind, u32, Vec<u8>)>;

/// A tree as it lies on disk, paths relative to `/`.
pub fn on_disk(root: &Path) -> Tree {
    use std::os::unix::fs::PermissionsExt;
    fn go(path: &Path, out: &mut Tree) {
        let meta = fs::symlink_metadata(path).unwrap();
        let name = path.as_os_str().as_bytes()[1..].to_vec();
        let mode = meta.permissions().mode() & 0o7777;
        if meta.is_dir() {
            out.insert(name, (EntryKind::Directory, mode, vec![]));
            for e in fs::read_dir(path).unwrap() {
                go(&e.unwrap().path(), out);
            }
        } else if meta.is_symlink() {
            let target = fs::read_link(path).unwrap().as_os_str().as_bytes().to_vec();
            out.insert(name, (EntryKind::Symlink, mode, target));
        } else {
            out.insert(name, (EntryKind::File, mode, fs::read(path).unwrap()));
        }
    }
    let mut out = Tree::new();
    go(root, &mut out);
    out
}

/// A snapshot's tree, read chunk by chunk, without `restore`; only what lies beneath `root`.
pub fn in_snapshot(repository: &Repository, id: ObjectId, root: &Path) -> Result<Tree, String> {
    let snapshot = repository.snapshot(id).map_err(|e| e.to_string())?;
    let (lookup, problems) = repository.load_index(None).map_err(|e| e.to_string())?;
    if let Some(p) = problems.first() {
        return Err(p.to_string());
    }
    let mut reader = ChunkReader::new(repository, &lookup);
    let mut refs: Vec<ChunkId> = Vec::new();
    reader
        .each_refs(
            &snapshot.body.refs,
            &mut |r| {
                if let Refs::Run(items) = r {
                    refs.extend(
                        items
                            .chunks_exact(32)
                            .map(|b| ChunkId(b.try_into().unwrap())),
                    );
                }
                Ok(())
            },
            false,
        )
        .map_err(|e| e.to_string())?;
    let mut entries: Vec<(Entry, u64)> = Vec::new();
    let mut lost = Vec::new();
    reader
        .each_entry(
            &snapshot.body,
            &mut |e, at| {
                entries.push((e, at));
                Ok(())
            },
            &mut |e| lost.push(e.to_string()),
        )
        .map_err(|e| e.to_string())?;
    if let Some(l) = lost.first() {
        return Err(l.clone());
    }
    let mut out = Tree::new();
    let root = &root.as_os_str().as_bytes()[1..];
    for (e, at) in entries
        .iter()
        .filter(|(e, _)| keepwatch_engine::manifest::is_beneath(&e.path, root))
    {
        let mut data = Vec::new();
        for id in &refs[*at as usize..*at as usize + e.refs() as usize] {
            data.extend(
                reader
                    .read(ChunkKind::Data, id)
                    .map_err(|e| e.to_string())?,
            );
        }
        let mut content = Vec::new();
        let mut holes = e.holes.clone().unwrap_or_default().into_iter();
        let (mut hole, mut from) = (holes.next(), 0);
        if e.kind() == EntryKind::File {
            while (content.len() as u64) < e.len() {
                match hole {
                    Some([at, n]) if at == content.len() as u64 => {
                        content.resize((at + n) as usize, 0);
                        hole = holes.next();
                    }
                    _ => {
                        let until = hole.map_or(e.len(), |h| h[0]) as usize - content.len();
                        content.extend_from_slice(&data[from..from + until]);
                        from += until;
                    }
                }
            }
            if from != data.len() {
                return Err("content is longer than its file".into());
            }
        }
        if let Some(t) = &e.target {
            content = t.to_vec();
        }
        out.insert(e.path.clone(), (e.kind(), e.mode, content));
    }
    Ok(out)
}

/// Pseudo-random bytes.
pub fn noise(n: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; n];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut out);
    out
}

/// A tree with files of all sorts and sizes.
pub fn sample_tree(root: &Path, seed: u64) {
    fs::create_dir_all(root.join("a/b/c")).unwrap();
    fs::create_dir_all(root.join("empty")).unwrap();
    fs::write(root.join("a/zero"), b"").unwrap();
    fs::write(root.join("a/one"), b"1").unwrap();
    fs::write(root.join("a/b/text"), format!("line {seed}\n").repeat(9000)).unwrap();
    fs::write(root.join("a/b/c/noise"), noise(150_000, seed)).unwrap();
    fs::write(root.join("a.txt"), b"sorts after what is in a").unwrap();
    for n in 0..40 {
        fs::write(
            root.join(format!("small-{n}")),
            noise(100 + n * 37, seed + n as u64),
        )
        .unwrap();
    }
    let _ = std::os::unix::fs::symlink("../nowhere", root.join("a/link"));
}

//! Ten terabytes, generated: ten million chunks in 655,360 packs, thirty daily snapshots. Proves the memory bounds of prune and verify.
//!
//! `cargo test --release -p keepwatch-engine --test scale -- --ignored --nocapture`; `SCALE=10` divides the size by ten, `DAYS=3` makes
//! fewer snapshots.

mod common;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use common::*;
use keepwatch_engine::ids::{ChunkId, ChunkKind, ObjectId};
use keepwatch_engine::list::{Form, ListWriter};
use keepwatch_engine::progress::{Cancel, Silent};
use keepwatch_engine::prune::{self, MaxUnused, Options};
use keepwatch_engine::records::{Index, IndexedEnvelope, IndexedPack};
use keepwatch_engine::repository::{CHUNKER, Repository};
use keepwatch_engine::seal::{AskNobody, ReaderRecipient};
use keepwatch_engine::store::local::LocalStore;
use keepwatch_engine::store::{Area, Fault, Listed, Name, Store, StoreError};
use keepwatch_engine::verify::{self, ReadData};

/// A local repository beside packs that are only listed. Their ids are numbers, so that they cost no memory.
struct Half {
    local: LocalStore,
    packs: u64,
}

fn pack_id(n: u64) -> ObjectId {
    ObjectId(*blake3::hash(&(n | 1 << 40).to_le_bytes()).as_bytes())
}

fn chunk_id(n: u64) -> ChunkId {
    ChunkId(*blake3::hash(&n.to_le_bytes()).as_bytes())
}

const SIZE: u64 = 16 << 20;

impl Store for Half {
    fn location(&self) -> String {
        self.local.location()
    }
    fn put(&self, name: &Name, bytes: &[u8]) -> Result<(), StoreError> {
        self.local.put(name, bytes)
    }
    fn get(&self, name: &Name, limit: u64) -> Result<Vec<u8>, StoreError> {
        self.local.get(name, limit)
    }
    fn get_range(&self, name: &Name, offset: u64, length: u64) -> Result<Vec<u8>, StoreError> {
        self.local.get_range(name, offset, length)
    }
    fn size(&self, name: &Name) -> Result<u64, StoreError> {
        self.local.size(name)
    }
    fn list(&self, area: Area, each: &mut dyn FnMut(Listed)) -> Result<(), StoreError> {
        if area == Area::Packs {
            for n in 0..self.packs {
                each(Listed {
                    name: Name::Pack(pack_id(n)),
                    size: SIZE,
                    modified: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + n),
                });
            }
        }
        self.local.list(area, each)
    }
    fn delete(&self, name: &Name) -> Result<(), StoreError> {
        match self.local.delete(name) {
            Err(e) if e.fault == Fault::Missing => Ok(()),
            other => other,
        }
    }
    fn sweep(&self, before: SystemTime) -> Result<u64, StoreError> {
        self.local.sweep(before)
    }
}

/// Resident memory and its highest, in MiB.
fn memory(what: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let of = |key: &str| -> u64 {
        let line = text.lines().find(|l| l.starts_with(key)).unwrap();
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<u64>()
            .unwrap()
            / 1024
    };
    println!("{what}: {} MiB, peak {} MiB", of("VmRSS"), of("VmHWM"));
    // From here on the peak is that of the next step.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    of("VmHWM")
}

#[test]
#[ignore = "minutes, and gigabytes of scratch space"]
fn ten_million_chunks() {
    let by: u64 = std::env::var("SCALE").map_or(1, |s| s.parse().unwrap());
    let (packs, per_pack) = (655_360 / by, 16u64);
    let chunks = packs * per_pack;
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Half {
        local: LocalStore::create(dir.path()).unwrap(),
        packs,
    });
    let user = keepwatch_engine::seal::Identity::generate();
    let reader = ReaderRecipient::parse(&user.recipient().to_string(), &AskNobody).unwrap();
    let (repo, _) =
        Repository::init(store.clone(), &[(user_name(), reader)], "t", CHUNKER, now()).unwrap();
    let start = std::time::Instant::now();
    let mut index = Index::default();
    for n in 0..packs {
        let envelopes = (0..per_pack)
            .map(|e| IndexedEnvelope {
                length: 1 << 20,
                kind: ChunkKind::Data as u8,
                ids: chunk_id(n * per_pack + e).0.to_vec(),
                lengths: vec![1 << 20],
            })
            .map(|mut e| {
                e.length -= 5;
                e
            })
            .collect();
        index.packs.push(IndexedPack {
            id: pack_id(n),
            class: 0,
            size: SIZE,
            envelopes,
        });
        if index.packs.len() == 4000 {
            repo.put_record(Area::Index, &std::mem::take(&mut index))
                .unwrap();
        }
    }
    repo.put_record(Area::Index, &index).unwrap();
    // Snapshots: day d lacks chunks of every 97th place and the first d of a thousand.
    let days: u64 = std::env::var("DAYS").map_or(30, |s| s.parse().unwrap());
    for day in 0..days {
        let mut d = Draftsman::new(&repo);
        let mut body = d.content(&files(&[("x", day, 10)]), "host", now());
        let mut refs = ListWriter::new(Form::Refs);
        for n in (0..chunks).filter(|n| n % 97 != 0 && n % 1000 >= day) {
            refs.push::<()>(&chunk_id(n).0, &mut |c| Ok(d.chunk(ChunkKind::List, c)))
                .unwrap();
        }
        body.refs = refs
            .finish::<()>(&mut |c| Ok(d.chunk(ChunkKind::List, c)))
            .unwrap();
        d.finish_packs();
        d.store_index();
        body.manifest = Default::default();
        body.manifest.count = 0;
        repo.put_record(Area::Snapshots, &body).unwrap();
        if day % 10 == 0 {
            println!("day {day}, {:?}", start.elapsed());
        }
    }
    println!("made in {:?}", start.elapsed());
    memory("made");
    let cache = tempfile::tempdir().unwrap();
    let options = Options {
        max_unused: MaxUnused::Unlimited,
        dry_run: true,
        cache: Some(cache.path().into()),
        ..Options::default()
    };
    for what in ["prune, cold", "prune, index cached"] {
        let start = std::time::Instant::now();
        let r = prune::run(&repo, &options, &now, &Silent, &Cancel::new()).unwrap();
        println!("{what}: {:?} {r:?}", start.elapsed());
        let peak = memory(what);
        assert!(peak < 260, "{peak} MiB");
    }
    let start = std::time::Instant::now();
    let r = verify::run(
        &repo,
        Some(cache.path()),
        ReadData::No,
        0,
        &Silent,
        &Cancel::new(),
    )
    .unwrap();
    println!("verify: {:?} {} damages", start.elapsed(), r.damages.len());
    memory("verify");
}

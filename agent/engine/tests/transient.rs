//! What was read wrongly once is no damage: a bit that flipped on the wire or in memory costs a second read, not a file. And what is wrong every time is still refused.

mod restore_common;

use std::collections::HashMap;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use keepwatch_engine::dump;
use keepwatch_engine::ids::{ChunkKind, ObjectId};
use keepwatch_engine::store::memory::MemoryStore;
use keepwatch_engine::store::{Area, Listed, Name, Store, StoreError};
use restore_common::*;

/// Gives every byte of a pack wrongly here and there, the first time that it is asked for; or, where there is one, the bytes of another pack.
struct FirstTimeWrong {
    inner: Arc<MemoryStore>,
    on: AtomicBool,
    given: Mutex<HashMap<Name, Vec<bool>>>,
    instead: HashMap<Name, ObjectId>,
    ranges: AtomicU64,
    wrong: AtomicU64,
}

impl FirstTimeWrong {
    fn new(inner: Arc<MemoryStore>, instead: HashMap<Name, ObjectId>) -> Arc<Self> {
        Arc::new(FirstTimeWrong {
            inner,
            on: AtomicBool::new(true),
            given: Mutex::default(),
            instead,
            ranges: AtomicU64::new(0),
            wrong: AtomicU64::new(0),
        })
    }
}

impl Store for FirstTimeWrong {
    fn location(&self) -> String {
        self.inner.location()
    }
    fn put(&self, name: &Name, bytes: &[u8]) -> Result<(), StoreError> {
        self.inner.put(name, bytes)
    }
    fn get(&self, name: &Name, limit: u64) -> Result<Vec<u8>, StoreError> {
        self.inner.get(name, limit)
    }
    fn get_range(&self, name: &Name, offset: u64, length: u64) -> Result<Vec<u8>, StoreError> {
        self.ranges.fetch_add(1, Ordering::SeqCst);
        let mut bytes = self.inner.get_range(name, offset, length)?;
        if !self.on.load(Ordering::SeqCst) {
            return Ok(bytes);
        }
        let size = self.inner.size(name)? as usize;
        let mut given = self.given.lock().unwrap();
        let given = given
            .entry(name.clone())
            .or_insert_with(|| vec![false; size]);
        let at = offset as usize;
        let first = given[at..at + length as usize].iter().any(|g| !g);
        let mut wrong = false;
        if let Some(other) = self.instead.get(name).filter(|_| first) {
            bytes = self.inner.get_range(&Name::Pack(*other), offset, length)?;
            wrong = true;
        }
        for (i, b) in bytes.iter_mut().enumerate() {
            let flip = self.instead.is_empty() && (at + i) % 700 == 300;
            if !std::mem::replace(&mut given[at + i], true) && flip {
                *b ^= 1 << (i % 8);
                wrong = true;
            }
        }
        self.wrong.fetch_add(wrong as u64, Ordering::SeqCst);
        Ok(bytes)
    }
    fn size(&self, name: &Name) -> Result<u64, StoreError> {
        self.inner.size(name)
    }
    fn list(&self, area: Area, each: &mut dyn FnMut(Listed)) -> Result<(), StoreError> {
        self.inner.list(area, each)
    }
    fn delete(&self, name: &Name) -> Result<(), StoreError> {
        self.inner.delete(name)
    }
    fn sweep(&self, before: SystemTime) -> Result<u64, StoreError> {
        self.inner.sweep(before)
    }
}

/// With the content of each file.
type Sample = (Builder, Arc<MemoryStore>, ObjectId, Vec<(String, Vec<u8>)>);

/// A repository with large files, small ones that share envelopes, and several packs.
fn sample() -> Sample {
    let store = memory();
    let mut b = Builder::new(store.clone());
    b.chunk = 60_000;
    b.pack = 400_000;
    let files: Vec<_> = (0..60u64)
        .map(|n| {
            let length = if n % 9 == 0 {
                300_000
            } else {
                900 + n as usize * 31
            };
            (format!("f{n:02}"), noise(n, length))
        })
        .collect();
    for (path, content) in &files {
        b.add(file(path, content.len()), content);
        if path.ends_with('7') {
            b.seal(ChunkKind::Data);
        }
    }
    let id = b.commit();
    (b, store, id, files)
}

#[test]
fn the_first_answer_is_wrong_and_nothing_is_lost() {
    let (mut b, store, id, files) = sample();
    let flaky = FirstTimeWrong::new(store, HashMap::new());
    b.store = flaky.clone();
    let o = b.open(id);
    let scratch = tempfile::tempdir().unwrap();
    o.restore_well(&into(scratch.path()));
    for (path, content) in &files {
        assert!(
            fs::read(scratch.path().join(path)).unwrap() == *content,
            "{path}"
        );
    }
    assert!(flaky.wrong.load(Ordering::SeqCst) > 5);
    // The same without errors: second reads are not the rule.
    let spent = flaky.ranges.swap(0, Ordering::SeqCst);
    flaky.on.store(false, Ordering::SeqCst);
    let again = tempfile::tempdir().unwrap();
    o.restore_well(&into(again.path()));
    let plain = flaky.ranges.load(Ordering::SeqCst);
    assert!(plain < spent, "{plain} < {spent}");
}

#[test]
fn a_dump_survives_it_too() {
    let (mut b, store, id, files) = sample();
    for (path, content) in files.iter().step_by(9) {
        let flaky = FirstTimeWrong::new(store.clone(), HashMap::new());
        b.store = flaky.clone();
        let o = b.open(id);
        let mut out = Vec::new();
        dump::dump_file(
            &o.repository,
            &o.lookup,
            &o.snapshot,
            path.as_bytes(),
            &mut out,
        )
        .unwrap();
        assert!(out == *content, "{path}");
        assert!(flaky.wrong.load(Ordering::SeqCst) > 0);
    }
}

/// An envelope that opens and holds something else: its plaintext changed in memory, or an answer was that of another request.
#[test]
fn content_without_its_id_is_read_once_more() {
    for pieces in [1usize, 5] {
        let store = memory();
        let mut b = Builder::new(store.clone());
        let good = noise(1, 50_000 * pieces);
        let ids: Vec<_> = good
            .chunks(50_000)
            .map(|c| b.reader().hash().id(ChunkKind::Data, c))
            .collect();
        let fill = |b: &mut Builder, content: &[u8]| -> ObjectId {
            for (id, c) in ids.iter().zip(content.chunks(50_000)) {
                b.chunk_as(ChunkKind::Data, *id, c);
            }
            b.flush()[0]
        };
        // age adds a stanza of random length: many wrong ones, then a right one that is as long as one of them.
        let size = |id: ObjectId| store.size(&Name::Pack(id)).unwrap();
        let wrong: HashMap<u64, ObjectId> = (0..60)
            .map(|n| fill(&mut b, &noise(2 + n, 50_000 * pieces)))
            .map(|id| (size(id), id))
            .collect();
        let mut found = None;
        for _ in 0..500 {
            // Only the index of the right pack counts.
            for name in store.names() {
                if matches!(name, Name::Index(_)) {
                    store.lose(&name);
                }
            }
            let right = fill(&mut b, &good);
            found = wrong.get(&size(right)).map(|evil| (*evil, right));
            if found.is_some() {
                break;
            }
        }
        let (evil, right) = found.expect("two of one length");
        b.add_refs(file("f", good.len()), &ids);
        let id = b.commit();
        let instead = HashMap::from([(Name::Pack(right), evil)]);
        let flaky = FirstTimeWrong::new(store.clone(), instead);
        b.store = flaky.clone();
        let scratch = tempfile::tempdir().unwrap();
        b.open(id).restore_well(&into(scratch.path()));
        assert!(fs::read(scratch.path().join("f")).unwrap() == good);
        assert_eq!(flaky.wrong.load(Ordering::SeqCst), 1);
        // Wrong every time: refused as before.
        let bytes = store.peek(&Name::Pack(evil)).unwrap();
        store.tamper(&Name::Pack(right), bytes);
        b.store = store;
        let scratch = tempfile::tempdir().unwrap();
        let report = b.open(id).restore(&into(scratch.path())).unwrap();
        assert_eq!(report.problems_total, 1);
        assert!(tree(scratch.path()).is_empty());
    }
}

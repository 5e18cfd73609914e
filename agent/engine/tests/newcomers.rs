//! Snapshots that are committed while `prune` is at work: they never stop it from deleting what they do not need, and never lose what they need.

mod common;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use common::*;
use keepwatch_engine::marks::marked_packs;
use keepwatch_engine::progress::{Cancel, Silent};
use keepwatch_engine::prune::{self, Options, Report};
use keepwatch_engine::repair;
use keepwatch_engine::repository::Repository;
use keepwatch_engine::store::memory::MemoryStore;
use keepwatch_engine::store::{Area, Listed, Name, Store, StoreError};

const LATER: Duration = Duration::from_secs(25 * 3600);
/// Listings of snapshots in one prune that deletes: the look, and three for newcomers.
const LISTINGS: u64 = 4;

/// Puts objects into the store just before the n-th listing of snapshots, one for each listing from there on.
struct Late {
    inner: Arc<MemoryStore>,
    from: u64,
    listings: AtomicU64,
    objects: Mutex<Vec<(Name, Vec<u8>)>>,
}

impl Store for Late {
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
        self.inner.get_range(name, offset, length)
    }
    fn size(&self, name: &Name) -> Result<u64, StoreError> {
        self.inner.size(name)
    }
    fn list(&self, area: Area, each: &mut dyn FnMut(Listed)) -> Result<(), StoreError> {
        if area == Area::Snapshots && self.listings.fetch_add(1, Ordering::SeqCst) + 1 >= self.from
        {
            if let Some((name, bytes)) = self.objects.lock().unwrap().pop() {
                self.inner.put(&name, &bytes)?;
            }
        }
        self.inner.list(area, each)
    }
    fn delete(&self, name: &Name) -> Result<(), StoreError> {
        self.inner.delete(name)
    }
    fn sweep(&self, before: SystemTime) -> Result<u64, StoreError> {
        self.inner.sweep(before)
    }
    fn now(&self) -> SystemTime {
        self.inner.now()
    }
}

/// Prunes `w`, with these objects coming meanwhile.
fn prune_with(w: &World, from: u64, objects: Vec<(Name, Vec<u8>)>) -> (Report, u64) {
    let late = Arc::new(Late {
        inner: w.store.clone(),
        from,
        listings: AtomicU64::new(0),
        objects: Mutex::new(objects),
    });
    let repo = Repository::open_as_writer(late.clone(), &w.key).unwrap();
    let clock = || w.moment();
    let report = prune::run(&repo, &Options::default(), &clock, &Silent, &Cancel::new()).unwrap();
    (report, late.listings.load(Ordering::SeqCst))
}

/// A repository where the packs of a forgotten snapshot are marked and old; and what a snapshot that needs one of them looks like.
fn marked() -> (World, Vec<(Name, Vec<u8>)>) {
    let w = World::new();
    let f = files(&[("a", 1, 5_000), ("b", 2, 5_000)]);
    w.backup(&files(&[("other", 9, 4_000)]));
    let old = w.backup(&f);
    w.store.advance(LATER);
    // A backup that looks at the marks now, and takes very long.
    let mut d = Draftsman::new(&w.repo);
    let body = d.content(&files(&[("a", 1, 5_000)]), "slow", w.moment());
    d.store_index();
    w.forget(&old);
    w.store.advance(LATER);
    assert!(w.prune(&Options::default()).unwrap().packs_marked > 2);
    w.store.advance(LATER);
    let before = w.store.fork();
    let slow = commit(&w.repo, &body);
    let name = Name::Snapshot(slow.id);
    let bytes = w.store.get(&name, 1 << 20).unwrap();
    let without = w.over(Arc::new(before));
    (without, vec![(name, bytes)])
}

#[test]
fn backups_that_end_all_the_time_do_not_stop_it() {
    for from in 1..=LISTINGS {
        let (w, _) = marked();
        let waiting = marked_packs(&w.repo).unwrap().len() as u64;
        // Prepared in a copy: each a snapshot of its own content, with packs and index stored already.
        let mut objects = Vec::new();
        for n in 0..20 {
            let mut d = Draftsman::new(&w.repo);
            let new = format!("new{n}");
            let body = d.content(&files(&[(&new, 100 + n, 3_000)]), "host", w.moment());
            d.store_index();
            let scratch = w.fork();
            let s = commit(&scratch.repo, &body);
            let name = Name::Snapshot(s.id);
            objects.push((name.clone(), scratch.store.get(&name, 1 << 20).unwrap()));
        }
        let (r, listings) = prune_with(&w, from, objects);
        assert_eq!(r.packs_deleted, waiting, "from listing {from}: {r:?}");
        assert!(listings >= LISTINGS, "{listings}");
        assert_eq!(r.notes, Vec::<String>::new());
        let report = keepwatch_engine::verify::run(
            &w.reader(),
            None,
            keepwatch_engine::verify::ReadData::All,
            0,
            &Silent,
            &Cancel::new(),
        )
        .unwrap();
        assert!(report.is_sound(), "{:#?}", report.damages);
    }
}

#[test]
fn one_that_needs_what_would_go_saves_it() {
    for from in 1..LISTINGS {
        let (w, slow) = marked();
        let Name::Snapshot(id) = slow[0].0 else {
            panic!("a snapshot")
        };
        let (r, _) = prune_with(&w, from, slow);
        if from < 3 {
            assert!(r.packs_rescued > 0, "from listing {from}: {r:?}");
        } else {
            assert_eq!(r.packs_deleted, 0, "{r:?}");
            assert!(r.notes[0].contains("needs one of them"), "{r:?}");
        }
        for _ in 0..3 {
            let s = w.repo.snapshot(id).unwrap();
            assert_eq!(restore(&w.reader(), &s), Ok(files(&[("a", 1, 5_000)])));
            w.store.advance(LATER);
            w.prune(&Options::default()).unwrap();
        }
    }
}

/// After the index was written without the packs, they still stay, and the index can be made again.
#[test]
fn one_that_comes_after_the_index_was_rewritten_keeps_the_packs() {
    let (w, slow) = marked();
    let Name::Snapshot(id) = slow[0].0 else {
        panic!("a snapshot")
    };
    let (r, _) = prune_with(&w, LISTINGS, slow);
    assert_eq!(r.packs_deleted, 0, "{r:?}");
    assert!(r.notes[0].contains("repair index"), "{r:?}");
    let mut repo = w.reader();
    repo.use_writer(&w.key).unwrap();
    let options = repair::Options {
        cache: None,
        rebuild_all: false,
    };
    repair::index(&repo, &options, &Silent, &Cancel::new()).unwrap();
    let s = w.repo.snapshot(id).unwrap();
    assert_eq!(restore(&w.reader(), &s), Ok(files(&[("a", 1, 5_000)])));
}

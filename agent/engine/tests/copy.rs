//! `copy`: what it wrote restores to what was copied, whatever happens on either side, and nothing is copied twice.

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use common::*;
use keepwatch_engine::copy::{self as verb, CopyError, Options, Report, origin};
use keepwatch_engine::ids::{ObjectId, PackClass};
use keepwatch_engine::marks::marked_packs;
use keepwatch_engine::pack;
use keepwatch_engine::progress::{Cancel, Event, Progress, Silent};
use keepwatch_engine::prune;
use keepwatch_engine::records::{Index, Snapshot};
use keepwatch_engine::repository::{AccessError, Repository};
use keepwatch_engine::seal::{AskNobody, Identity, ReaderRecipient};
use keepwatch_engine::snapshots::SnapshotRecord;
use keepwatch_engine::store::memory::MemoryStore;
use keepwatch_engine::store::{Area, Listed, Name, Store, StoreError};
use keepwatch_engine::verify::{self, ReadData};

/// A second repository with the same keys.
fn twin_of(w: &World) -> World {
    twin_over(w, Arc::new(MemoryStore::new()))
}

fn twin_over(w: &World, store: Arc<MemoryStore>) -> World {
    let reader = ReaderRecipient::parse(&w.user.recipient().to_string(), &AskNobody).unwrap();
    let (repo, key) = Repository::init_with(
        store.clone(),
        &[(user_name(), reader)],
        "twin",
        keepwatch_engine::repository::CHUNKER,
        now(),
        Some(&w.reader()),
    )
    .unwrap();
    World {
        store,
        key,
        user: w.user.clone(),
        repo,
    }
}

fn stranger(chunker: [u32; 3]) -> World {
    let store = Arc::new(MemoryStore::new());
    let user = Identity::generate();
    let reader = ReaderRecipient::parse(&user.recipient().to_string(), &AskNobody).unwrap();
    let (repo, key) = Repository::init(
        store.clone(),
        &[(user_name(), reader)],
        "far",
        chunker,
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

fn quick() -> Options {
    Options {
        level: 1,
        threads: 1,
        ..Options::default()
    }
}

fn copy_with(from: &Repository, to: &World, options: &Options) -> Result<Report, CopyError> {
    let source = from.snapshots().map_err(CopyError::Object)?;
    let chosen: Vec<&SnapshotRecord> = source.live.iter().collect();
    verb::run(
        from,
        &to.repo,
        &source,
        &chosen,
        options,
        &|| to.moment(),
        &Silent,
        &Cancel::new(),
    )
}

fn copy_all(from: &Repository, to: &World) -> Result<Report, CopyError> {
    copy_with(from, to, &quick())
}

/// The source as the destination's key opens it, or with an identity.
fn source_for(from: &World, to: &World, twins: bool) -> Repository {
    if twins {
        let repo = Repository::open_as_twin(from.store.clone(), &to.repo).unwrap();
        assert!(repo.reader().is_none() && repo.writer().is_none());
        repo
    } else {
        from.reader()
    }
}

fn sound(world: &World) {
    let report = verify::run(
        &world.reader(),
        None,
        ReadData::All,
        0,
        &Silent,
        &Cancel::new(),
    )
    .unwrap();
    assert!(report.is_sound(), "{:#?}", report.damages);
}

/// Every snapshot of the model has one copy that restores to the same and says the same of itself.
fn holds(to: &World, from: &World, model: &[(SnapshotRecord, Files)]) {
    let reader = to.reader();
    let set = to.repo.snapshots().unwrap();
    assert!(set.problems.is_empty());
    for (s, files) in model {
        let copies: Vec<_> = set
            .live
            .iter()
            .filter(|c| c.body.original == Some(origin(from.repo.id(), s)))
            .collect();
        assert_eq!(copies.len(), 1, "copies of {}", s.id);
        let copy = copies[0];
        assert_eq!(restore(&reader, copy).as_ref(), Ok(files));
        let plain = |b: &Snapshot| {
            let mut b = b.clone();
            b.original = None;
            (
                b.start, b.end, b.host, b.user, b.job, b.tags, b.outcome, b.totals, b.source,
            )
        };
        assert_eq!(plain(&copy.body), plain(&s.body));
        assert_eq!(copy.body.paths, s.body.paths);
    }
}

fn sequences(to: &World) {
    let set = to.repo.snapshots().unwrap();
    assert!(set.broken_links().is_empty());
    let mut numbers: Vec<u64> = set.live.iter().map(|s| s.body.sequence).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), set.live.len(), "a chain without forks");
}

fn both_ways(test: impl Fn(bool)) {
    test(true);
    test(false);
}

#[test]
fn random_histories_are_copied_step_by_step() {
    both_ways(|twins| {
        for seed in 1..=8u64 {
            let mut dice = Dice::new(seed);
            let from = World::new();
            let to = if twins {
                twin_of(&from)
            } else {
                stranger([2 << 10, 8 << 10, 32 << 10])
            };
            let mut model: Vec<(SnapshotRecord, Files)> = Vec::new();
            let mut current = Files::new();
            let mut copied = Vec::new();
            for _ in 0..20 {
                match dice.roll(8) {
                    0..=3 => {
                        for _ in 0..=dice.roll(3) {
                            let name = format!("f{:02}", dice.roll(12));
                            if dice.roll(4) == 0 {
                                current.remove(&name);
                            } else {
                                let length = 1 + dice.roll(6_000) as usize;
                                current.insert(name, noise(dice.roll(40), length));
                            }
                        }
                        model.push((from.backup(&current), current.clone()));
                    }
                    4 if !model.is_empty() => {
                        let i = dice.roll(model.len() as u64) as usize;
                        from.forget(&model.remove(i).0);
                    }
                    5 => {
                        from.store.advance(LATER);
                        let o = prune::Options {
                            max_unused: prune::MaxUnused::Percent(0.0),
                            ..prune::Options::default()
                        };
                        from.prune(&o).unwrap();
                        to.store.advance(LATER);
                        to.prune(&o).unwrap();
                    }
                    _ => {
                        let source = source_for(&from, &to, twins);
                        let r = copy_all(&source, &to).unwrap();
                        assert!(r.failed.is_empty() && r.notes.is_empty(), "{r:?}");
                        assert_eq!(r.twins, twins);
                        holds(&to, &from, &model);
                        copied.extend(model.iter().cloned());
                        let before = to.store.names();
                        let again = copy_all(&source, &to).unwrap();
                        assert_eq!(again.skipped.len(), model.len());
                        assert!(again.copied.is_empty() && again.bytes_written == 0);
                        assert_eq!(to.store.names(), before);
                    }
                }
            }
            let r = copy_all(&source_for(&from, &to, twins), &to).unwrap();
            assert!(r.failed.is_empty(), "{r:?}");
            holds(&to, &from, &model);
            copied.retain(|(s, _)| !model.iter().any(|(m, _)| m.id == s.id));
            copied.sort_by_key(|(s, _)| s.id);
            copied.dedup_by_key(|(s, _)| s.id);
            holds(&to, &from, &copied);
            sequences(&to);
            sound(&to);
            sound(&from);
        }
    });
}

/// Three snapshots that share content.
fn history() -> (World, Vec<(SnapshotRecord, Files)>) {
    let w = World::new();
    let mut model = Vec::new();
    for n in 0..3u64 {
        let f = files(&[
            ("a", 1, 9_000),
            ("b", 2 + n, 5_000),
            ("c", 10 + n, 3_000),
            ("zero", 0, 0),
        ]);
        model.push((w.backup(&f), f));
        w.store.advance(Duration::from_secs(60));
    }
    (w, model)
}

#[test]
fn a_fault_at_any_operation_leaves_nothing_dangling_and_the_next_run_completes() {
    let (from, model) = history();
    both_ways(|twins| {
        let fresh = if twins {
            twin_of(&from)
        } else {
            stranger(keepwatch_engine::repository::CHUNKER)
        };
        for at_source in [false, true] {
            for (lose_answer, all_after) in [(false, false), (true, false), (false, true)] {
                let mut n = 0;
                let mut incomplete = 0;
                loop {
                    n += 1;
                    let (a, b) = (from.fork(), fresh.fork());
                    let source = source_for(&a, &b, twins);
                    let faulty = if at_source { &a.store } else { &b.store };
                    let done = faulty.operations.load(Ordering::SeqCst);
                    faulty.lose_answer.store(lose_answer, Ordering::SeqCst);
                    faulty.fail_all_after.store(all_after, Ordering::SeqCst);
                    faulty.fail_at.store(done + n, Ordering::SeqCst);
                    let first = copy_all(&source, &b);
                    let fired = faulty.fired.load(Ordering::SeqCst);
                    faulty.fail_at.store(0, Ordering::SeqCst);
                    if fired == 0 {
                        assert!(first.unwrap().failed.is_empty());
                        break;
                    }
                    incomplete += first.as_ref().is_ok_and(|r| !r.failed.is_empty()) as u32
                        + first.is_err() as u32;
                    // Whatever is committed is whole.
                    sound(&b);
                    let second = copy_all(&source, &b)
                        .unwrap_or_else(|e| panic!("operation {n}, twins {twins}: {e}"));
                    assert!(second.failed.is_empty(), "{second:?}");
                    holds(&b, &a, &model);
                    sound(&b);
                    sequences(&b);
                }
                assert!(n > 8 && incomplete > 3, "{n} {incomplete}");
            }
        }
    });
}

#[test]
fn an_interrupted_copy_goes_on_without_sending_again_what_is_there() {
    let (from, model) = history();
    both_ways(|twins| {
        let fresh = if twins {
            twin_of(&from)
        } else {
            stranger(keepwatch_engine::repository::CHUNKER)
        };
        let packs = |w: &World| -> u64 {
            let journal = w.store.journal.lock().unwrap();
            journal
                .iter()
                .filter(|(verb, name)| *verb == "put" && matches!(name, Name::Pack(_)))
                .count() as u64
        };
        // How many operations a whole run takes, and how many packs it stores.
        let whole = fresh.fork();
        copy_all(&source_for(&from, &whole, twins), &whole).unwrap();
        let total = packs(&whole);
        let operations = whole.store.operations.load(Ordering::SeqCst);
        assert!(total > 2);
        for at in [operations / 2, operations * 3 / 4, operations - 3] {
            let b = fresh.fork();
            let source = source_for(&from, &b, twins);
            b.store.fail_at.store(at, Ordering::SeqCst);
            b.store.fail_all_after.store(true, Ordering::SeqCst);
            assert!(copy_all(&source, &b).is_err());
            b.store.fail_at.store(0, Ordering::SeqCst);
            let stored = packs(&b);
            assert!(stored > 0);
            let r = copy_all(&source, &b).unwrap();
            holds(&b, &from, &model);
            if twins {
                // Also packs that were stored but not yet indexed are found.
                assert_eq!(packs(&b), total, "stopped at {at} of {operations}");
                assert_eq!(r.packs, total - stored);
            }
            let indexed: u64 = b
                .names(Area::Index)
                .iter()
                .map(|n| {
                    let (_, i) = b
                        .repo
                        .get_record::<Index>(Area::Index, n.object_id().unwrap())
                        .unwrap();
                    i.packs.len() as u64
                })
                .sum();
            // What was indexed is not stored again: only what the stop cut off can be there twice.
            assert!(indexed <= total + 2, "{indexed} of {total}");
        }
    });
}

#[test]
fn damaged_packs_cost_their_snapshots_and_no_others() {
    both_ways(|twins| {
        let (from, model) = history();
        let to = if twins {
            twin_of(&from)
        } else {
            stranger(keepwatch_engine::repository::CHUNKER)
        };
        // Every content pack in turn: those whose snapshots do not need it are copied, whole.
        let (mut spoilt, mut kept) = (0, 0);
        for name in from.names(Area::Packs) {
            let (a, b) = (from.fork(), to.fork());
            let mut bytes = a.store.peek(&name).unwrap();
            let middle = bytes.len() / 3;
            bytes[middle] ^= 1;
            a.store.tamper(&name, bytes);
            let r = copy_all(&source_for(&a, &b, twins), &b).unwrap();
            assert_eq!(r.copied.len() + r.failed.len(), 3, "{r:?}");
            kept += r.copied.len();
            spoilt += r.failed.len();
            let good: Vec<_> = model
                .iter()
                .filter(|(s, _)| r.copied.iter().any(|c| c.source == s.id))
                .cloned()
                .collect();
            holds(&b, &a, &good);
            sound(&b);
            // The pack comes back: the next run copies the rest.
            a.store.tamper(&name, from.store.peek(&name).unwrap());
            assert!(
                copy_all(&source_for(&a, &b, twins), &b)
                    .unwrap()
                    .failed
                    .is_empty()
            );
            holds(&b, &a, &model);
        }
        assert!(spoilt > 3 && kept > 3, "{spoilt} {kept}");
    });
}

#[test]
fn another_copy_of_a_damaged_pack_is_used() {
    both_ways(|twins| {
        let (from, model) = history();
        // A second repetition of everything: another writer that knew of no index.
        let (other, _) = from.enroll(true);
        let names = from.names(Area::Index);
        let hidden: Vec<_> = names
            .iter()
            .map(|n| (n.clone(), from.store.peek(n).unwrap()))
            .collect();
        for (n, _) in &hidden {
            from.store.lose(n);
        }
        let packs = from.names(Area::Packs);
        backup_as(&other, &model[0].1, "host", from.moment());
        for (n, bytes) in hidden {
            from.store.tamper(&n, bytes);
        }
        // The oldest packs are damaged, those of the first snapshot.
        let first: BTreeSet<Name> = packs.into_iter().collect();
        let to = if twins {
            twin_of(&from)
        } else {
            stranger(keepwatch_engine::repository::CHUNKER)
        };
        for name in &first {
            let mut bytes = from.store.peek(name).unwrap();
            bytes[20] ^= 1;
            from.store.tamper(name, bytes);
        }
        let r = copy_all(&source_for(&from, &to, twins), &to).unwrap();
        let copied: BTreeSet<ObjectId> = r.copied.iter().map(|c| c.source).collect();
        assert!(copied.contains(&model[0].0.id), "{r:?}");
        holds(&to, &from, &model[..1]);
        sound(&to);
    });
}

#[test]
fn whole_packs_keep_their_names_and_parts_do_not() {
    let (from, model) = history();
    let to = twin_of(&from);
    let r = copy_all(&source_for(&from, &to, true), &to).unwrap();
    assert_eq!(r.packs_whole, r.packs);
    let names = |w: &World| w.names(Area::Packs).into_iter().collect::<BTreeSet<_>>();
    assert!(names(&to).is_subset(&names(&from)));
    assert!(to.count(Area::Index) <= 3, "one for each snapshot at most");
    // One snapshot of three: parts of packs.
    let one = twin_of(&from);
    let source = source_for(&from, &one, true);
    let set = source.snapshots().unwrap();
    let last: Vec<_> = set.live.iter().filter(|s| s.id == model[2].0.id).collect();
    let go = |o: &Options| {
        verb::run(
            &source,
            &one.repo,
            &set,
            &last,
            o,
            &now,
            &Silent,
            &Cancel::new(),
        )
        .unwrap()
    };
    let dry = go(&Options {
        dry_run: true,
        ..quick()
    });
    assert_eq!(one.count(Area::Packs) + one.count(Area::Index), 0);
    assert!(dry.copied.len() == 1 && dry.copied[0].copy.is_none() && dry.bytes_read > 0);
    let r = go(&quick());
    assert!(r.packs_whole < r.packs, "{r:?}");
    holds(&one, &from, &model[2..]);
    assert_eq!(one.repo.snapshots().unwrap().live.len(), 1);
    sound(&one);
    for n in one.names(Area::Packs) {
        assert!(pack::footer(&one.store.peek(&n).unwrap()).is_some());
    }
}

#[test]
fn a_marked_pack_is_not_relied_upon_even_under_its_own_name() {
    both_ways(|twins| {
        let (from, model) = history();
        let to = if twins {
            twin_of(&from)
        } else {
            stranger(keepwatch_engine::repository::CHUNKER)
        };
        let source = source_for(&from, &to, twins);
        copy_all(&source, &to).unwrap();
        for s in &to.repo.snapshots().unwrap().live {
            to.forget(s);
        }
        to.store.advance(LATER);
        to.prune(&options(prune::DEFAULT_GRACE)).unwrap();
        assert_eq!(to.count(Area::Snapshots), 0);
        let marked = marked_packs(&to.repo).unwrap();
        assert!(!marked.is_empty());
        // The same content in new snapshots: what was marked is copied again, and stands in other packs.
        let model: Vec<_> = model
            .iter()
            .map(|(_, f)| (from.backup(f), f.clone()))
            .collect();
        let r = copy_all(&source, &to).unwrap();
        assert_eq!((r.copied.len(), r.skipped.len(), r.failed.len()), (3, 3, 0));
        to.store.advance(LATER);
        let pruned = to.prune(&options(prune::DEFAULT_GRACE)).unwrap();
        assert_eq!(pruned.packs_rescued, 0);
        assert!(pruned.packs_deleted > 0);
        holds(&to, &from, &model);
        sound(&to);
    });
}

#[test]
fn what_was_forgotten_in_the_destination_does_not_come_back() {
    let (from, model) = history();
    let to = twin_of(&from);
    let source = source_for(&from, &to, true);
    copy_all(&source, &to).unwrap();
    // Pruned away, and the tombstones made one of many.
    for s in &to.repo.snapshots().unwrap().live {
        to.forget(s);
    }
    for n in 0..40 {
        let own = to.backup(&files(&[("own", n, 100)]));
        to.forget(&own);
    }
    to.store.advance(LATER);
    to.prune(&thorough()).unwrap();
    assert_eq!(
        (to.count(Area::Snapshots), to.count(Area::Tombstones)),
        (0, 1)
    );
    let r = copy_all(&source, &to).unwrap();
    assert_eq!((r.copied.len(), r.skipped.len()), (0, 3));
    // Nor does the first one take it back from there.
    let other = stranger(keepwatch_engine::repository::CHUNKER);
    assert_eq!(copy_all(&from.reader(), &other).unwrap().copied.len(), 3);
    assert!(copy_all(&other.reader(), &to).unwrap().copied.is_empty());
    holds(&other, &from, &model);
}

/// Does something just before the n-th operation of a kind.
struct Between {
    inner: Arc<MemoryStore>,
    rot: AtomicU64,
    puts: AtomicU64,
}

impl Store for Between {
    fn location(&self) -> String {
        self.inner.location()
    }
    fn put(&self, name: &Name, bytes: &[u8]) -> Result<(), StoreError> {
        self.inner.put(name, bytes)?;
        if matches!(name, Name::Pack(_) | Name::Index(_)) {
            let n = self.puts.fetch_add(1, Ordering::SeqCst) + 1;
            if n == self.rot.load(Ordering::SeqCst) {
                let mut bytes = bytes.to_vec();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 0x40;
                self.inner.tamper(name, bytes);
            }
        }
        Ok(())
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

#[test]
fn what_rots_on_its_way_is_found_before_anything_relies_on_it() {
    let (from, model) = history();
    both_ways(|twins| {
        let fresh = if twins {
            twin_of(&from)
        } else {
            stranger(keepwatch_engine::repository::CHUNKER)
        };
        for n in 1.. {
            let b = fresh.fork();
            let rotten = Arc::new(Between {
                inner: b.store.clone(),
                rot: AtomicU64::new(n),
                puts: AtomicU64::new(0),
            });
            let through = World {
                repo: Repository::open_as_writer(rotten.clone(), &b.key).unwrap(),
                ..b.fork()
            };
            let through = World {
                store: b.store.clone(),
                ..through
            };
            let first = copy_all(&source_for(&from, &b, twins), &through);
            if rotten.puts.load(Ordering::SeqCst) < n {
                first.unwrap();
                assert!(n > 4);
                break;
            }
            assert!(
                matches!(first, Err(CopyError::ReadBack(_))),
                "{n}: {first:?}"
            );
            // What is committed does not rest on it, and the next run goes round it.
            let second = copy_all(&source_for(&from, &b, twins), &b).unwrap();
            assert!(second.failed.is_empty());
            holds(&b, &from, &model);
        }
    });
}

#[test]
fn without_reading_back_nothing_is_read_but_the_records() {
    let (from, model) = history();
    let to = twin_of(&from);
    let o = Options {
        read_back: false,
        ..quick()
    };
    copy_with(&source_for(&from, &to, true), &to, &o).unwrap();
    holds(&to, &from, &model);
}

#[test]
fn a_copy_of_a_copy_is_the_same_snapshot() {
    let (a, model) = history();
    let b = twin_of(&a);
    let c = stranger(keepwatch_engine::repository::CHUNKER);
    copy_all(&source_for(&a, &b, true), &b).unwrap();
    copy_all(&b.reader(), &c).unwrap();
    holds(&c, &a, &model);
    // From the first, and back to it: all are there.
    let r = copy_all(&a.reader(), &c).unwrap();
    assert_eq!((r.copied.len(), r.skipped.len()), (0, 3));
    let r = copy_all(&c.reader(), &a).unwrap();
    assert_eq!((r.copied.len(), r.skipped.len()), (0, 3));
    let r = copy_all(&b.reader(), &a).unwrap();
    assert_eq!((r.copied.len(), r.skipped.len()), (0, 3));
    // One that was forgotten and pruned does not come back to its origin.
    a.forget(&model[0].0);
    a.store.advance(LATER);
    a.prune(&options(HOUR)).unwrap();
    assert_eq!(a.count(Area::Snapshots), 2);
    assert!(copy_all(&c.reader(), &a).unwrap().copied.is_empty());
}

#[test]
fn strangers_need_an_identity_and_nobody_copies_to_himself() {
    let (a, _) = history();
    let c = stranger(keepwatch_engine::repository::CHUNKER);
    let e = copy_all(&a.repo, &c).unwrap_err();
    assert!(matches!(e, CopyError::NeedsIdentity { .. }) && e.to_string().contains("init --from"));
    assert_eq!(c.count(Area::Packs), 0);
    let e = copy_all(&a.reader(), &a).unwrap_err();
    assert!(matches!(e, CopyError::Same(_)));
    let reader = World {
        repo: c.reader(),
        ..c.fork()
    };
    let e = copy_all(&a.reader(), &reader).unwrap_err();
    assert!(matches!(e, CopyError::Access(AccessError::NeedsWriter(_))));
    // What is no twin is not opened as one.
    assert!(Repository::open_as_twin(a.store.clone(), &c.repo).is_err());
    assert!(!a.reader().is_twin_of(&c.reader()));
}

#[test]
fn the_second_copy_of_a_day_reads_what_changed() {
    let from = World::new();
    let to = stranger(keepwatch_engine::repository::CHUNKER);
    let mut f = Files::new();
    for n in 0..60 {
        f.insert(format!("f{n:02}"), noise(n, 5_000));
    }
    from.backup(&f);
    let first = copy_all(&from.reader(), &to).unwrap();
    f.insert("f30".into(), noise(1_000, 5_000));
    from.backup(&f);
    let second = copy_all(&from.reader(), &to).unwrap();
    assert!(second.copied.len() == 1 && second.skipped.len() == 1);
    assert!(
        second.bytes_read < first.bytes_read / 10,
        "{} of {}",
        second.bytes_read,
        first.bytes_read
    );
    // Another writer's word teaches nothing: he reads all, and stores what changed.
    let (other, key) = to.enroll(false);
    let other = World {
        repo: other,
        key,
        ..to.fork()
    };
    let other = World {
        store: to.store.clone(),
        ..other
    };
    f.insert("f31".into(), noise(1_001, 5_000));
    from.backup(&f);
    let third = copy_all(&from.reader(), &other).unwrap();
    assert!(third.bytes_read >= first.bytes_read);
    assert!(third.bytes_written < first.bytes_written / 3);
    sound(&to);
    // Twins: fewer operations at the source than the first time.
    let twin = twin_of(&from);
    copy_all(&source_for(&from, &twin, true), &twin).unwrap();
    f.insert("f32".into(), noise(1_002, 5_000));
    from.backup(&f);
    let r = copy_all(&source_for(&from, &twin, true), &twin).unwrap();
    assert!(
        r.copied.len() == 1 && r.bytes_read < first.bytes_read / 10,
        "{r:?}"
    );
    sound(&twin);
}

#[test]
fn what_no_writer_of_the_source_signed_is_not_copied() {
    both_ways(|twins| {
        let (from, model) = history();
        let to = if twins {
            twin_of(&from)
        } else {
            stranger(keepwatch_engine::repository::CHUNKER)
        };
        // A record of another repository, and one whose bytes were changed.
        let foreign = World::new();
        let s = foreign.backup(&model[0].1);
        let name = Name::Snapshot(s.id);
        from.store.tamper(&name, foreign.store.peek(&name).unwrap());
        let name = Name::Snapshot(model[1].0.id);
        let mut bytes = from.store.peek(&name).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        let forged = Name::Snapshot(ObjectId::of(&bytes));
        from.store.lose(&name);
        from.store.tamper(&forged, bytes);
        let source = source_for(&from, &to, twins);
        let set = source.snapshots().unwrap();
        assert_eq!((set.live.len(), set.problems.len()), (2, 2));
        assert_eq!(
            set.broken_links().len(),
            1,
            "the one that was removed shows"
        );
        let r = copy_all(&source, &to).unwrap();
        assert_eq!(r.copied.len(), 2);
        assert_eq!(to.repo.snapshots().unwrap().live.len(), 2);
        holds(&to, &from, &[model[0].clone(), model[2].clone()]);
    });
}

#[test]
fn a_revoked_writers_word_does_not_keep_a_snapshot_from_being_copied() {
    let (from, model) = history();
    let to = twin_of(&from);
    let (thief, key) = to.enroll(false);
    let thief_world = World {
        repo: thief,
        key,
        ..to.fork()
    };
    let thief_world = World {
        store: to.store.clone(),
        ..thief_world
    };
    let source = source_for(&from, &to, true);
    copy_all(&source, &thief_world).unwrap();
    let mut owner = to.reader();
    owner
        .revoke_writer(thief_world.repo.writer().unwrap().id)
        .unwrap();
    let to = to.over(to.store.clone());
    let r = copy_all(&source_for(&from, &to, true), &to).unwrap();
    assert_eq!(r.copied.len(), 3);
    assert_eq!(r.packs, 0, "the packs are there: only records are new");
    let set = to.repo.snapshots().unwrap();
    assert_eq!(set.live.iter().filter(|s| !s.revoked).count(), 3);
    for s in set.live.iter().filter(|s| !s.revoked) {
        let files = &model
            .iter()
            .find(|(m, _)| s.body.original == Some(origin(from.repo.id(), m)))
            .unwrap()
            .1;
        assert_eq!(restore(&to.reader(), s).as_ref(), Ok(files));
    }
}

#[test]
fn a_request_to_stop_is_heard_and_what_was_done_is_kept() {
    struct Stop(Cancel, AtomicU64, u64);
    impl Progress for Stop {
        fn event(&self, e: Event<'_>) {
            if matches!(e, Event::Done { .. })
                && self.1.fetch_add(1, Ordering::SeqCst) + 1 == self.2
            {
                self.0.cancel();
            }
        }
    }
    let (from, model) = history();
    both_ways(|twins| {
        let to = if twins {
            twin_of(&from)
        } else {
            stranger(keepwatch_engine::repository::CHUNKER)
        };
        let mut stopped = 0;
        for at in 1..60 {
            let b = to.fork();
            let source = source_for(&from, &b, twins);
            let set = source.snapshots().unwrap();
            let chosen: Vec<_> = set.live.iter().collect();
            let cancel = Cancel::new();
            let progress = Stop(cancel.clone(), AtomicU64::new(0), at);
            let r = verb::run(
                &source,
                &b.repo,
                &set,
                &chosen,
                &quick(),
                &now,
                &progress,
                &cancel,
            );
            stopped += matches!(r, Err(CopyError::Cancelled(_))) as u32;
            sound(&b);
            copy_all(&source, &b).unwrap();
            holds(&b, &from, &model);
        }
        assert!(stopped > 3);
    });
}

#[test]
fn two_copies_at_once_and_backups_and_prunes_beside_them() {
    let (from, model) = history();
    both_ways(|twins| {
        let to = if twins {
            twin_of(&from)
        } else {
            stranger(keepwatch_engine::repository::CHUNKER)
        };
        let mut keys = Vec::new();
        for _ in 0..3 {
            keys.push(to.enroll(true).1);
        }
        let to = to.over(to.store.clone());
        let own = files(&[("own", 77, 20_000)]);
        let store = to.store.clone();
        let kept = std::thread::scope(|scope| {
            for key in &keys[..2] {
                let (to, from, store) = (&to, &from, store.clone());
                scope.spawn(move || {
                    let to = World {
                        repo: Repository::open_as_writer(store.clone(), key).unwrap(),
                        key: copy(key),
                        user: to.user.clone(),
                        store,
                    };
                    for _ in 0..3 {
                        let r = copy_all(&source_for(from, &to, twins), &to).unwrap();
                        assert!(r.failed.is_empty(), "{r:?}");
                    }
                });
            }
            let backup = scope.spawn(|| {
                let repo = Repository::open_as_writer(store.clone(), &keys[2]).unwrap();
                backup_as(&repo, &own, "beside", to.moment());
                backup_as(&repo, &own, "beside", to.moment())
            });
            scope.spawn(|| {
                for _ in 0..4 {
                    match to.prune(&thorough()) {
                        Ok(_) | Err(prune::PruneError::Busy(_)) => {}
                        Err(e) => panic!("{e}"),
                    }
                }
            });
            backup.join().unwrap()
        });
        sound(&to);
        assert_eq!(restore(&to.reader(), &kept).as_ref(), Ok(&own));
        let reader = to.reader();
        let set = to.repo.snapshots().unwrap();
        for (s, files) in &model {
            let copies = set
                .live
                .iter()
                .filter(|c| c.body.original == Some(origin(from.repo.id(), s)));
            let mut n = 0;
            for c in copies {
                n += 1;
                assert_eq!(restore(&reader, c).as_ref(), Ok(files));
            }
            assert!((1..=2).contains(&n), "{n} copies");
        }
        to.store.advance(LATER);
        to.prune(&thorough()).unwrap();
        to.store.advance(LATER);
        to.prune(&thorough()).unwrap();
        sound(&to);
    });
}

fn thorough() -> prune::Options {
    prune::Options {
        max_unused: prune::MaxUnused::Percent(0.0),
        ..prune::Options::default()
    }
}

#[test]
fn prune_between_two_looks_at_the_marks_is_noticed() {
    /// Marks every pack of the destination, as a prune that ran meanwhile would.
    struct Marker<'a>(&'a World, AtomicU64);
    impl Progress for Marker<'_> {
        fn event(&self, e: Event<'_>) {
            if matches!(e, Event::Phase("committing")) && self.1.fetch_add(1, Ordering::SeqCst) == 0
            {
                let packs = self.0.names(Area::Packs);
                assert!(!packs.is_empty());
                let marks = keepwatch_engine::records::Marks {
                    time: now().unix_seconds(),
                    packs: packs.iter().filter_map(Name::object_id).collect(),
                };
                self.0.repo.put_record(Area::Marks, &marks).unwrap();
            }
        }
    }
    let (from, model) = history();
    both_ways(|twins| {
        let to = if twins {
            twin_of(&from)
        } else {
            stranger(keepwatch_engine::repository::CHUNKER)
        };
        let source = source_for(&from, &to, twins);
        let set = source.snapshots().unwrap();
        let chosen: Vec<_> = set.live.iter().collect();
        let progress = Marker(&to, AtomicU64::new(0));
        let r = verb::run(
            &source,
            &to.repo,
            &set,
            &chosen,
            &quick(),
            &now,
            &progress,
            &Cancel::new(),
        )
        .unwrap();
        assert!(r.failed.is_empty(), "{r:?}");
        // All that was marked goes, and nothing is missed.
        for id in marked_packs(&to.repo).unwrap() {
            to.store.lose(&Name::Pack(id));
        }
        holds(&to, &from, &model);
        assert!(to.names(Area::Packs).iter().any(|n| {
            pack::footer(&to.store.peek(n).unwrap()).unwrap().0 == PackClass::Content
        }));
    });
}

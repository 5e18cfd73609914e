//! `forget` and `prune`: nothing that a snapshot needs is ever deleted, and what nothing needs is deleted in the end.

mod common;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::*;
use keepwatch_engine::forget::{self, ForgetError};
use keepwatch_engine::ids::ObjectId;
use keepwatch_engine::marks::marked_packs;
use keepwatch_engine::progress::{Cancel, Silent};
use keepwatch_engine::prune::{self, MaxUnused, Options, PruneError};
use keepwatch_engine::records::{Forgotten, Index, Marks, Tombstone};
use keepwatch_engine::repository::Repository;
use keepwatch_engine::snapshots::{SnapshotFilter, SnapshotRecord};
use keepwatch_engine::store::memory::MemoryStore;
use keepwatch_engine::store::{Area, Name};
use keepwatch_engine::verify::{self, ReadData};
use keepwatch_model::retention::{Count, GroupKey, Policy};

fn zero() -> Options {
    Options {
        max_unused: MaxUnused::Percent(0.0),
        ..options(Duration::ZERO)
    }
}

fn thorough() -> Options {
    Options {
        max_unused: MaxUnused::Percent(0.0),
        ..Options::default()
    }
}

fn verified(world: &World) {
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

fn all_restore(world: &World, model: &[(SnapshotRecord, Files)]) {
    let reader = world.reader();
    let live: BTreeSet<ObjectId> = world
        .repo
        .snapshots()
        .unwrap()
        .live
        .iter()
        .map(|s| s.id)
        .collect();
    assert_eq!(live, model.iter().map(|m| m.0.id).collect());
    for (s, files) in model {
        assert_eq!(restore(&reader, s).as_ref(), Ok(files), "snapshot {}", s.id);
    }
}

/// Chunks in the index, and packs that no index names.
fn indexed(world: &World) -> (BTreeSet<[u8; 32]>, usize) {
    let mut chunks = BTreeSet::new();
    let mut packs = HashSet::new();
    for name in world.names(Area::Index) {
        let (_, i) = world
            .repo
            .get_record::<Index>(Area::Index, name.object_id().unwrap())
            .unwrap();
        for p in i.packs {
            packs.insert(p.id);
            chunks.extend(p.envelopes.iter().flat_map(|e| e.chunk_ids()).map(|c| c.0));
        }
    }
    let orphans = world
        .names(Area::Packs)
        .iter()
        .filter(|n| !packs.contains(&n.object_id().unwrap()))
        .count();
    (chunks, orphans)
}

#[test]
fn nothing_goes_before_its_time_and_everything_after_it() {
    let w = World::new();
    let a = files(&[("a", 1, 9_000), ("b", 2, 5_000)]);
    let b = files(&[("b", 2, 5_000), ("c", 3, 9_000)]);
    let first = w.backup(&a);
    let second = w.backup(&b);
    w.forget(&first);
    let packs = w.count(Area::Packs);

    // Young tombstone, young packs: nothing.
    let r = w.prune(&thorough()).unwrap();
    assert_eq!(
        (r.snapshots_deleted, r.packs_marked, r.packs_deleted),
        (0, 0, 0)
    );
    assert_eq!(r.snapshots_waiting, 1);
    assert_eq!(w.count(Area::Snapshots), 2);

    // Later: the snapshot goes, packs are marked.
    w.store.advance(LATER);
    let r = w.prune(&thorough()).unwrap();
    assert_eq!((r.snapshots_deleted, r.packs_deleted), (1, 0));
    assert!(r.packs_marked > 0 && r.packs_repacked > 0, "{r:?}");
    assert_eq!(w.count(Area::Snapshots), 1);
    assert!(w.count(Area::Packs) > packs, "copies were added");
    let marked = marked_packs(&w.repo).unwrap().len() as u64;
    assert_eq!(marked, r.packs_marked);

    // At once again: they wait.
    let again = w.prune(&thorough()).unwrap();
    assert_eq!((again.packs_marked, again.packs_deleted), (0, 0));
    assert_eq!(again.packs_waiting, marked);

    w.store.advance(LATER);
    let last = w.prune(&thorough()).unwrap();
    assert_eq!(last.packs_deleted, marked);
    assert_eq!(w.count(Area::Marks), 0);
    all_restore(&w, &[(second.clone(), b.clone())]);
    verified(&w);
    assert_eq!(indexed(&w).1, 0);
    // The tombstone stays: the chain of snapshots rests on it.
    assert_eq!(w.count(Area::Tombstones), 1);
}

#[test]
fn random_histories_keep_every_live_snapshot() {
    for seed in 1..=25u64 {
        let mut dice = Dice::new(seed);
        let w = World::new();
        let mut model: Vec<(SnapshotRecord, Files)> = Vec::new();
        let mut current = Files::new();
        for step in 0..24 {
            match dice.roll(10) {
                0..=4 => {
                    for _ in 0..=dice.roll(3) {
                        let name = format!("f{:02}", dice.roll(12));
                        if dice.roll(4) == 0 {
                            current.remove(&name);
                        } else {
                            let length = 1 + dice.roll(6_000) as usize;
                            current.insert(name, noise(dice.roll(40), length));
                        }
                    }
                    if !current.is_empty() {
                        model.push((w.backup(&current), current.clone()));
                    }
                }
                5..=6 if !model.is_empty() => {
                    let i = dice.roll(model.len() as u64) as usize;
                    let (s, _) = model.remove(i);
                    w.forget(&s);
                }
                7 => w.store.advance(LATER),
                _ => {
                    let grace = [Duration::ZERO, prune::DEFAULT_GRACE, HOUR][dice.roll(3) as usize];
                    let percent = [0.0, 5.0, 50.0][dice.roll(3) as usize];
                    let o = Options {
                        grace,
                        max_unused: MaxUnused::Percent(percent),
                        ..Options::default()
                    };
                    let dry = w
                        .prune(&Options {
                            dry_run: true,
                            ..o.clone()
                        })
                        .unwrap();
                    let real = w.prune(&o).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
                    assert_eq!(dry, real, "seed {seed} step {step}");
                }
            }
        }
        all_restore(&w, &model);
        for _ in 0..3 {
            w.prune(&zero()).unwrap();
        }
        all_restore(&w, &model);
        verified(&w);
        // What is left is what a repository with only these snapshots would have.
        let (chunks, orphans) = indexed(&w);
        assert_eq!(orphans, 0, "seed {seed}");
        let fresh = World::new();
        let fresh = World {
            repo: Repository::open_as_writer(w.store.clone(), &w.key).unwrap(),
            ..fresh
        };
        let mut wanted = BTreeSet::new();
        let (lookup, _) = fresh.repo.load_index(None).unwrap();
        for (s, _) in &model {
            needed(&fresh.repo, &lookup, s, &mut wanted);
        }
        let extra = chunks.difference(&wanted).count();
        // An envelope lives as long as one of its chunks does.
        assert!(chunks.is_superset(&wanted) && extra <= wanted.len() * 2);
    }
}

fn needed(
    repo: &Repository,
    lookup: &keepwatch_engine::lookup::Lookup,
    s: &SnapshotRecord,
    out: &mut BTreeSet<[u8; 32]>,
) {
    use keepwatch_engine::ids::ChunkKind;
    use keepwatch_engine::list::{self, Form, Visit};
    for (root, form) in [(&s.body.refs, Form::Refs), (&s.body.manifest, Form::Parts)] {
        let mut reader = keepwatch_engine::chunks::ChunkReader::new(repo, lookup);
        list::walk(
            root,
            form,
            &mut |id| reader.read(ChunkKind::List, id),
            &mut |v| {
                match v {
                    Visit::Node(id) => drop(out.insert(id.0)),
                    Visit::Leaves(items) => out.extend(
                        items
                            .chunks_exact(form.item())
                            .map(|i| <[u8; 32]>::try_from(&i[..32]).unwrap()),
                    ),
                    Visit::Lost(..) => panic!("lost"),
                }
                Ok(true)
            },
        )
        .unwrap();
    }
}

/// A repository with something for every step of prune to do: old marks to delete, one to rescue, half-empty packs, orphans, forgotten snapshots.
fn busy() -> (World, Vec<(SnapshotRecord, Files)>) {
    let w = World::new();
    let mut model = Vec::new();
    let a = files(&[("a", 1, 6_000), ("b", 2, 6_000), ("g", 8, 9_000)]);
    let b = files(&[("b", 2, 6_000), ("c", 3, 4_000), ("h", 9, 900)]);
    let c = files(&[("c", 3, 4_000), ("d", 4, 6_000)]);
    let first = w.backup(&a);
    model.push((w.backup(&b), b));
    w.forget(&first);
    w.store.advance(LATER);
    w.prune(&Options::default()).unwrap();
    let second = w.backup(&files(&[("e", 5, 5_000), ("b", 2, 6_000)]));
    // A writer that began before the mark: needs a marked pack.
    let marked = marked_packs(&w.repo).unwrap();
    assert!(!marked.is_empty());
    let (lookup, _) = w.repo.load_index(None).unwrap();
    let mut d = Draftsman::new(&w.repo);
    drop(lookup);
    let body = d.content(&c, "host", w.moment());
    d.store_index();
    model.push((commit(&w.repo, &body), c));
    // Packs without an index.
    let mut d = Draftsman::new(&w.repo);
    d.content(&files(&[("orphan", 99, 3_000)]), "host", w.moment());
    w.forget(&second);
    w.store.advance(LATER);
    (w, model)
}

#[test]
fn an_interruption_at_every_operation_loses_nothing_and_is_finished_later() {
    let (w, model) = busy();
    let clean = w.fork();
    let before = clean.store.operations.load(Ordering::SeqCst);
    clean.prune(&thorough()).unwrap();
    let operations = clean.store.operations.load(Ordering::SeqCst) - before;
    assert!(operations > 35, "{operations}");
    for lose_answer in [false, true] {
        for n in 1..=operations {
            let t = w.fork();
            let from = t.store.operations.load(Ordering::SeqCst);
            t.store.fail_all_after.store(true, Ordering::SeqCst);
            t.store.lose_answer.store(lose_answer, Ordering::SeqCst);
            t.store.fail_at.store(from + n, Ordering::SeqCst);
            let result = t.prune(&thorough());
            // The last one sweeps, which MemoryStore does not count.
            assert!(result.is_err(), "operation {n} of {operations}");
            assert!(t.store.fired.load(Ordering::SeqCst) > 0);
            t.store.fail_at.store(0, Ordering::SeqCst);
            t.store.lose_answer.store(false, Ordering::SeqCst);
            all_restore(&t, &model);
            verified(&t);
            for _ in 0..3 {
                t.store.advance(LATER);
                t.prune(&thorough())
                    .unwrap_or_else(|e| panic!("after operation {n}: {e}"));
                all_restore(&t, &model);
            }
            t.prune(&zero()).unwrap();
            all_restore(&t, &model);
            verified(&t);
            assert_eq!(indexed(&t).1, 0, "orphans after operation {n}");
            assert_eq!(t.count(Area::Marks), 0);
        }
    }
}

#[test]
fn a_single_fault_stops_prune_and_loses_nothing() {
    let (w, model) = busy();
    let clean = w.fork();
    let before = clean.store.operations.load(Ordering::SeqCst);
    clean.prune(&zero()).unwrap();
    let operations = clean.store.operations.load(Ordering::SeqCst) - before;
    for n in 1..=operations {
        let t = w.fork();
        let from = t.store.operations.load(Ordering::SeqCst);
        t.store.fail_at.store(from + n, Ordering::SeqCst);
        assert!(t.prune(&zero()).is_err(), "operation {n}");
        t.store.fail_at.store(0, Ordering::SeqCst);
        all_restore(&t, &model);
        t.prune(&zero()).unwrap();
        t.prune(&zero()).unwrap();
        all_restore(&t, &model);
        verified(&t);
        assert_eq!(indexed(&t).1, 0);
    }
}

#[test]
fn two_prunes_at_once_delete_nothing_that_is_needed() {
    for round in 0..12u64 {
        let (w, model) = busy();
        for _ in 0..3 {
            std::thread::scope(|s| {
                for _ in 0..3 {
                    let other = w.over(w.store.clone());
                    let percent = MaxUnused::Percent((round % 3) as f64 * 10.0);
                    s.spawn(move || {
                        let o = Options {
                            max_unused: percent,
                            ..Options::default()
                        };
                        match other.prune(&o) {
                            Ok(_) | Err(PruneError::Busy(_)) => {}
                            // The other one deleted what this one was about to copy or rewrite.
                            Err(PruneError::Store(e)) if e.is_missing() => {}
                            Err(e) => panic!("{e}"),
                        }
                    });
                }
            });
            all_restore(&w, &model);
            w.store.advance(LATER);
        }
        for _ in 0..3 {
            w.store.advance(LATER);
            w.prune(&Options::default()).unwrap();
        }
        all_restore(&w, &model);
        verified(&w);
        w.prune(&zero()).unwrap();
        w.prune(&zero()).unwrap();
        all_restore(&w, &model);
        assert_eq!(indexed(&w).1, 0);
    }
}

#[test]
fn what_a_running_backup_has_stored_is_left_alone() {
    let w = World::new();
    w.backup(&files(&[("a", 1, 5_000)]));
    w.store.advance(LATER);
    let f = files(&[("new", 7, 8_000)]);
    let mut d = Draftsman::new(&w.repo);
    let body = d.content(&f, "host", w.moment());
    // Packs without index.
    let r = w.prune(&Options::default()).unwrap();
    assert_eq!((r.packs_marked, r.packs_deleted), (0, 0));
    d.store_index();
    // Index without snapshot.
    let r = w.prune(&Options::default()).unwrap();
    assert_eq!((r.packs_marked, r.packs_deleted), (0, 0));
    let s = commit(&w.repo, &body);
    assert_eq!(restore(&w.reader(), &s), Ok(f));
    verified(&w);
}

#[test]
fn a_writer_sees_the_marks_before_it_commits() {
    let w = World::new();
    let f = files(&[("a", 1, 5_000)]);
    let old = w.backup(&f);
    w.store.advance(LATER);
    w.forget(&old);
    w.store.advance(LATER);
    // The writer begins: everything it needs is there.
    let mut d = Draftsman::new(&w.repo);
    let body = d.content(&f, "host", w.moment());
    assert!(d.index.packs.is_empty(), "all of it was deduplicated");
    let r = w.prune(&Options::default()).unwrap();
    assert!(r.packs_marked > 0);
    // Before it commits it reads the marks again, sees them, and stores anew.
    let marked = marked_packs(&w.repo).unwrap();
    assert_eq!(marked.len() as u64, r.packs_marked);
    let again = w.backup(&f);
    w.store.advance(LATER);
    let r = w.prune(&Options::default()).unwrap();
    assert_eq!(r.packs_rescued, 0);
    assert_eq!(r.packs_deleted, marked.len() as u64);
    assert_eq!(restore(&w.reader(), &again), Ok(f));
    drop(body);
}

#[test]
fn a_marked_pack_that_became_needed_is_rescued() {
    for wait in [Duration::ZERO, LATER] {
        let w = World::new();
        let f = files(&[("a", 1, 5_000), ("b", 2, 5_000)]);
        let old = w.backup(&f);
        w.store.advance(LATER);
        w.forget(&old);
        w.store.advance(LATER);
        let mut d = Draftsman::new(&w.repo);
        let body = d.content(&files(&[("a", 1, 5_000)]), "host", w.moment());
        d.store_index();
        let r = w.prune(&Options::default()).unwrap();
        assert!(r.packs_marked > 2);
        // Committed just between: the second reading of the marks was before the mark.
        let s = commit(&w.repo, &body);
        w.store.advance(wait);
        let r = w.prune(&Options::default()).unwrap();
        assert!(r.packs_rescued > 0, "{r:?}");
        let needed: Vec<_> = marked_packs(&w.repo).unwrap().into_iter().collect();
        for _ in 0..3 {
            w.store.advance(LATER);
            w.prune(&Options::default()).unwrap();
        }
        assert_eq!(restore(&w.reader(), &s), Ok(files(&[("a", 1, 5_000)])));
        verified(&w);
        drop(needed);
    }
}

#[test]
fn duplicates_are_reduced_to_one_copy() {
    let w = World::new();
    let f = files(&[("a", 1, 9_000), ("b", 2, 9_000)]);
    // Two writers at once: neither sees what the other stores.
    let mut one = Draftsman::new(&w.repo);
    let mut two = Draftsman::new(&w.repo);
    let body = one.content(&f, "host", w.moment());
    one.store_index();
    let s1 = commit(&w.repo, &body);
    let body = two.content(&f, "host", w.moment());
    two.store_index();
    let s2 = commit(&w.repo, &body);
    w.store.advance(LATER);
    let before = w.count(Area::Packs);
    let r = w.prune(&Options {
        max_unused: MaxUnused::Unlimited,
        ..Options::default()
    });
    let r = r.unwrap();
    assert!(r.packs_marked as usize >= before / 2, "{r:?} of {before}");
    w.store.advance(LATER);
    w.prune(&Options::default()).unwrap();
    all_restore(&w, &[(s1, f.clone()), (s2, f)]);
    verified(&w);
}

#[test]
fn small_packs_and_index_objects_become_few() {
    let w = World::new();
    let mut model = Vec::new();
    for n in 0..40 {
        let f = files(&[("a", 1, 500), ("b", 100 + n, 900)]);
        model.push((w.backup(&f), f));
    }
    assert!(w.count(Area::Index) >= 40);
    w.store.advance(LATER);
    w.prune(&Options::default()).unwrap();
    assert!(w.count(Area::Index) <= 4, "{}", w.count(Area::Index));
    w.store.advance(LATER);
    w.prune(&Options::default()).unwrap();
    // One of content. Where lists are cut hangs on the repository's secret: 0 to about 40 packs of lists, and fewer than 8 small ones are left as they are.
    assert!(w.count(Area::Packs) <= 1 + 7, "{}", w.count(Area::Packs));
    assert!(w.count(Area::Index) <= 4);
    all_restore(&w, &model);
    verified(&w);
    // And it comes to rest.
    w.store.advance(LATER);
    let before = w.names(Area::Packs);
    let journal = w.store.journal.lock().unwrap().len();
    let r = w.prune(&Options::default()).unwrap();
    assert_eq!((r.packs_marked, r.packs_deleted), (0, 0));
    assert_eq!(w.names(Area::Packs), before);
    assert_eq!(
        w.store.journal.lock().unwrap().len(),
        journal,
        "nothing was written"
    );
}

#[test]
fn tombstones_are_consolidated_and_still_forget() {
    let w = World::new();
    let keep = files(&[("keep", 1, 900)]);
    for n in 0..36 {
        let s = w.backup(&files(&[("a", 10 + n, 300)]));
        w.forget(&s);
    }
    let last = w.backup(&keep);
    w.store.advance(LATER);
    w.prune(&Options::default()).unwrap();
    assert_eq!(w.count(Area::Tombstones), 1);
    assert_eq!(w.count(Area::Snapshots), 1);
    let set = w.repo.snapshots().unwrap();
    assert!(set.broken_links().is_empty());
    all_restore(&w, &[(last, keep)]);
    verified(&w);
}

#[test]
fn whatever_cannot_be_read_stops_prune_before_any_change() {
    let (w, _) = busy();
    for area in [
        Area::Snapshots,
        Area::Index,
        Area::Tombstones,
        Area::Marks,
        Area::Writers,
    ] {
        for name in w.names(area) {
            for spoil in ["flip", "cut", "empty"] {
                let t = w.fork();
                let mut bytes = t.store.peek(&name).unwrap();
                match spoil {
                    "flip" => {
                        let at = bytes.len() / 2;
                        bytes[at] ^= 1;
                    }
                    "cut" => bytes.truncate(bytes.len() - 1),
                    _ => bytes.clear(),
                }
                t.store.tamper(&name, bytes);
                let before = t.store.names();
                let e = t.prune(&zero()).expect_err(&format!("{name} {spoil}"));
                assert!(
                    matches!(e, PruneError::Unreadable(_)),
                    "{name} {spoil}: {e}"
                );
                assert!(e.to_string().contains("could delete data"), "{e}");
                assert_eq!(t.store.names(), before, "{name} {spoil}");
                assert!(t.store.journal.lock().unwrap().is_empty());
            }
        }
    }
    // Lists, and packs that are needed.
    let mut stopped = 0;
    for name in w.names(Area::Packs) {
        let t = w.fork();
        t.store.lose(&name);
        let before = t.store.names();
        match t.prune(&zero()) {
            Ok(_) => {}
            Err(e) => {
                assert!(matches!(e, PruneError::Lost { .. }), "{e}");
                assert_eq!(t.store.names(), before);
                stopped += 1;
            }
        }
    }
    assert!(stopped >= 3, "{stopped}");
}

#[test]
fn a_snapshot_removed_behind_our_back_stops_prune() {
    let w = World::new();
    let a = w.backup(&files(&[("a", 1, 900)]));
    let f = files(&[("b", 2, 900)]);
    let b = w.backup(&f);
    w.store.advance(LATER);
    let bytes = w.store.peek(&Name::Snapshot(a.id)).unwrap();
    w.store.lose(&Name::Snapshot(a.id));
    assert!(
        matches!(w.prune(&zero()), Err(PruneError::Removed { missing, .. }) if missing == a.id)
    );
    let t = w.fork();
    t.prune(&Options {
        accept_missing: true,
        ..zero()
    })
    .unwrap();
    all_restore(&t, &[(b.clone(), f.clone())]);
    w.store.tamper(&Name::Snapshot(a.id), bytes);
    w.prune(&zero()).unwrap();
    all_restore(&w, &[(a, files(&[("a", 1, 900)])), (b, f)]);
}

#[test]
fn clocks_that_jump_delete_nothing_early() {
    let year = Duration::from_secs(366 * 86_400);
    let w = World::new();
    let f = files(&[("a", 1, 5_000)]);
    let a = w.backup(&f);
    let g = files(&[("b", 2, 5_000)]);
    let b = w.backup(&g);
    w.forget(&a);
    w.store.advance(LATER);
    w.prune(&Options::default()).unwrap();
    let marked = marked_packs(&w.repo).unwrap();
    assert!(!marked.is_empty());
    let prune_at = |w: &World, clock: &dyn Fn() -> keepwatch_model::time::Moment| {
        prune::run(&w.repo, &Options::default(), clock, &Silent, &Cancel::new()).unwrap()
    };
    let shift = |w: &World, seconds: i64| {
        let m = w.moment();
        keepwatch_model::time::Moment::from_parts(m.unix_seconds() + seconds, 0, 0).unwrap()
    };
    // Only ours jumps ahead, or back, or to 1970.
    for seconds in [
        10 * 366 * 86_400i64,
        -3 * 86_400,
        -shift(&w, 0).unix_seconds(),
    ] {
        let t = w.fork();
        let at = shift(&t, seconds);
        let r = prune_at(&t, &|| at);
        assert_eq!(r.packs_deleted, 0, "{seconds}");
        verified(&t);
    }
    // Only the store's.
    let t = w.fork();
    let ours = t.moment();
    t.store.advance(10 * year);
    let r = prune_at(&t, &|| ours);
    assert_eq!(r.packs_deleted, 0);
    // What was signed in the future does not wait for ever: it is dated anew.
    let t = w.fork();
    for name in t.names(Area::Marks) {
        t.store.lose(&name);
    }
    let ahead = shift(&t, 5 * 366 * 86_400).unix_seconds();
    let body = Marks {
        time: ahead,
        packs: marked.iter().copied().collect(),
    };
    t.repo.put_record(Area::Marks, &body).unwrap();
    t.store.advance(LATER);
    let r = t.prune(&Options::default()).unwrap();
    assert_eq!((r.packs_deleted, r.packs_waiting), (0, marked.len() as u64));
    t.store.advance(LATER);
    assert_eq!(
        t.prune(&Options::default()).unwrap().packs_deleted,
        marked.len() as u64
    );
    all_restore(&t, &[(b.clone(), g.clone())]);
    // The same for a tombstone.
    let t = World::new();
    let s = t.backup(&f);
    let b = t.backup(&g);
    forget::apply(&t.repo, &[&s], shift(&t, 5 * 366 * 86_400)).unwrap();
    t.store.advance(LATER);
    assert_eq!(t.prune(&Options::default()).unwrap().snapshots_deleted, 0);
    t.store.advance(LATER);
    assert_eq!(t.prune(&Options::default()).unwrap().snapshots_deleted, 1);
    all_restore(&t, &[(b, g)]);
}

#[test]
fn rights_are_kept() {
    let w = World::new();
    let f = files(&[("a", 1, 3_000)]);
    let mine = w.backup(&f);
    let (other, _) = w.enroll(false);
    let repo = Repository::open_as_writer(w.store.clone(), &w.key).unwrap();
    let theirs = backup_as(&other, &files(&[("b", 2, 3_000)]), "other", w.moment());
    // Without the right: own snapshots only.
    let e = forget::apply(&other, &[&theirs, &mine], w.moment()).unwrap_err();
    assert!(
        matches!(e, ForgetError::NotYours { snapshot, .. } if snapshot == mine.id),
        "{e}"
    );
    assert_eq!(w.count(Area::Tombstones), 0);
    assert!(matches!(
        prune::run(&other, &zero(), &now, &Silent, &Cancel::new()),
        Err(PruneError::NeedsMaintain)
    ));
    // A tombstone and marks that it writes all the same do not count.
    let body = Tombstone {
        origins: None,
        time: w.moment().unix_seconds(),
        snapshots: vec![
            Forgotten {
                id: mine.id,
                writer: mine.writer,
                sequence: 1,
            },
            // Claims to be the writer of it.
            Forgotten {
                id: mine.id,
                writer: theirs.writer,
                sequence: 1,
            },
        ],
    };
    other.put_record(Area::Tombstones, &body).unwrap();
    let body = Marks {
        time: 0,
        packs: w
            .names(Area::Packs)
            .iter()
            .map(|n| n.object_id().unwrap())
            .collect(),
    };
    other.put_record(Area::Marks, &body).unwrap();
    assert!(marked_packs(&repo).unwrap().is_empty());
    w.store.advance(LATER);
    let r = prune::run(&repo, &zero(), &|| w.moment(), &Silent, &Cancel::new()).unwrap();
    assert_eq!((r.snapshots_deleted, r.packs_deleted), (0, 0));
    assert_eq!(r.notes.len(), 1, "{:?}", r.notes);
    assert_eq!(repo.snapshots().unwrap().live.len(), 2);
    // Its own it may forget; and who maintains may forget all. The false tombstone does not undo a true one.
    forget::apply(&other, &[&theirs], w.moment()).unwrap();
    assert_eq!(repo.snapshots().unwrap().live.len(), 1);
    forget::apply(&repo, &[&mine], w.moment()).unwrap();
    assert_eq!(repo.snapshots().unwrap().live.len(), 0);
    assert!(forget::apply(&repo, &[], w.moment()).unwrap().is_none());
}

#[test]
fn a_plan_groups_and_keeps_the_last() {
    let w = World::new();
    let f = files(&[("a", 1, 300)]);
    let at = |day: i64| {
        keepwatch_model::time::Moment::from_parts(1_700_000_000 + day * 86_400, 0, 0).unwrap()
    };
    for day in 0..5 {
        backup_as(&w.repo, &f, "one", at(day));
        backup_as(&w.repo, &f, "two", at(day));
    }
    let set = w.repo.snapshots().unwrap();
    let policy = Policy {
        last: Count::Limit(2),
        ..Policy::default()
    };
    let none = SnapshotFilter::default();
    let p = forget::plan(
        &set,
        &policy,
        &[GroupKey::Host, GroupKey::Job],
        &none,
        at(5),
    );
    assert_eq!(p.groups.len(), 2);
    assert_eq!((p.kept(), p.forgotten().len()), (4, 6));
    assert_eq!(p.groups[0].host.as_deref(), Some("one"));
    assert!(
        p.groups[0].decisions[0]
            .reasons
            .contains(&"last snapshot".to_owned())
    );
    let p = forget::plan(&set, &policy, &[], &none, at(5));
    assert_eq!((p.groups.len(), p.kept()), (1, 2));
    let only = SnapshotFilter {
        hosts: vec!["two".into()],
        ..SnapshotFilter::default()
    };
    let p = forget::plan(&set, &policy, &[GroupKey::Host], &only, at(5));
    assert_eq!((p.groups.len(), p.kept(), p.forgotten().len()), (1, 2, 3));
    forget::apply(&w.repo, &p.forgotten(), at(5)).unwrap();
    assert_eq!(w.repo.snapshots().unwrap().live.len(), 7);
}

#[test]
fn a_damaged_pack_is_never_copied_from() {
    let w = World::new();
    let a = w.backup(&files(&[("a", 1, 9_000), ("b", 2, 700)]));
    let b = w.backup(&files(&[("b", 2, 700), ("c", 3, 100)]));
    w.forget(&a);
    w.store.advance(LATER);
    let dry = w
        .fork()
        .prune(&Options {
            max_unused: MaxUnused::Percent(0.0),
            ..Options::default()
        })
        .unwrap();
    assert!(dry.packs_repacked > 0);
    // Flip a bit in every content pack.
    for name in w.names(Area::Packs) {
        let mut bytes = w.store.peek(&name).unwrap();
        if bytes[bytes.len() - 8] == 0 {
            bytes[300] ^= 1;
            w.store.tamper(&name, bytes);
        }
    }
    let r = w
        .prune(&Options {
            max_unused: MaxUnused::Percent(0.0),
            ..Options::default()
        })
        .unwrap();
    assert!(
        r.notes.iter().any(|n| n.contains("damaged")),
        "{:?}",
        r.notes
    );
    let marked = marked_packs(&w.repo).unwrap();
    assert!(
        w.repo
            .snapshots()
            .unwrap()
            .live
            .iter()
            .any(|s| s.id == b.id)
    );
    // What b needs is not marked.
    let (lookup, _) = w.repo.load_index(None).unwrap();
    let mut ids = BTreeSet::new();
    needed(&w.repo, &lookup, &b, &mut ids);
    let mut window = Default::default();
    for id in ids {
        let all = lookup
            .find_all(&keepwatch_engine::ids::ChunkId(id), &mut window)
            .unwrap();
        assert!(all.iter().any(|l| !marked.contains(&l.pack)));
    }
}

#[test]
fn cancel_stops_and_leaves_everything_whole() {
    let (w, model) = busy();
    let cancel = Cancel::new();
    cancel.cancel();
    let r = prune::run(&w.repo, &zero(), &|| w.moment(), &Silent, &cancel);
    assert!(matches!(r, Err(PruneError::Cancelled)));
    all_restore(&w, &model);
    let _: (Arc<MemoryStore>, BTreeMap<u8, u8>) = (w.store.clone(), BTreeMap::new());
}

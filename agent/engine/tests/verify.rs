//! `verify` and `repair`: every damage to every kind of object is found, and the hits are exactly those that follow from it.

mod common;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use common::*;
use keepwatch_engine::chunks::{ChunkReader, Refs};
use keepwatch_engine::ids::{ChunkId, ChunkKind, ObjectId};
use keepwatch_engine::progress::{Cancel, Silent};
use keepwatch_engine::records::Index;
use keepwatch_engine::repair;
use keepwatch_engine::repository::Repository;
use keepwatch_engine::snapshots::SnapshotRecord;
use keepwatch_engine::store::{Area, Name};
use keepwatch_engine::verify::{self, Damage, ReadData, Report, VerifyError};

fn run(repo: &Repository, read: ReadData) -> Report {
    verify::run(repo, None, read, 7, &Silent, &Cancel::new()).unwrap()
}

/// Three snapshots that share content.
fn world() -> (World, Vec<(SnapshotRecord, Files)>) {
    let w = World::new();
    let lists = [
        files(&[
            ("a", 1, 5_000),
            ("b", 2, 3_000),
            ("c/d", 3, 100),
            ("e", 4, 1),
            ("z", 5, 4_000),
        ]),
        files(&[("b", 2, 3_000), ("c/d", 3, 100), ("f", 6, 6_000)]),
        files(&[("g", 7, 4_000), ("z", 5, 4_000)]),
    ];
    let mut model = Vec::new();
    for f in lists {
        model.push((w.backup(&f), f));
    }
    (w, model)
}

/// Enough chunks for lists of several levels: a list ends a run at one id in 256.
fn deep() -> (World, Vec<(SnapshotRecord, Files)>) {
    let w = World::new();
    let a = files(&[("a", 1, 700 * 900), ("b", 2, 700 * 300), ("c", 3, 2_000)]);
    let b = files(&[("a", 1, 700 * 900), ("d", 4, 700 * 200)]);
    let c = files(&[("e", 5, 3_000)]);
    let model = [a, b, c].map(|f| (w.backup(&f), f));
    (w, model.into())
}

/// Ground truth: what of which snapshot still comes back.
fn truth(
    repo: &Repository,
    model: &[(SnapshotRecord, Files)],
) -> BTreeMap<ObjectId, BTreeSet<String>> {
    let (lookup, _) = repo.load_index(None).unwrap();
    let mut hit = BTreeMap::new();
    for (s, files) in model {
        let mut reader = ChunkReader::new(repo, &lookup);
        let mut refs: Vec<Option<ChunkId>> = Vec::new();
        reader
            .each_refs(
                &s.body.refs,
                &mut |r| {
                    match r {
                        Refs::Run(items) => refs.extend(
                            items
                                .chunks_exact(32)
                                .map(|c| Some(ChunkId(c.try_into().unwrap()))),
                        ),
                        Refs::Lost(_, n) => refs.extend((0..n).map(|_| None)),
                    }
                    Ok(())
                },
                true,
            )
            .unwrap();
        let mut lost = BTreeSet::new();
        let mut seen = BTreeSet::new();
        let mut entries = Vec::new();
        let mut broken = false;
        reader
            .each_entry(
                &s.body,
                &mut |e, first| {
                    entries.push((e, first));
                    Ok(())
                },
                &mut |_| broken = true,
            )
            .unwrap();
        for (e, first) in entries {
            seen.insert(e.display());
            let mut content = Vec::new();
            for r in &refs[first as usize..first as usize + e.refs() as usize] {
                match r.map(|id| reader.read(ChunkKind::Data, &id)) {
                    Some(Ok(plain)) => content.extend(plain),
                    _ => drop(lost.insert(e.display())),
                }
            }
            if !lost.contains(&e.display()) {
                assert_eq!(content, files[&e.display()], "wrong content");
            }
        }
        assert!(broken || seen.len() == files.len());
        if broken || !lost.is_empty() {
            hit.insert(s.id, lost);
        }
    }
    hit
}

fn hits(report: &Report) -> BTreeSet<ObjectId> {
    report
        .damages
        .iter()
        .flat_map(|d| d.snapshots.iter().copied())
        .collect()
}

/// Snapshots that use any chunk of an envelope of this pack that is stored nowhere else.
fn users(
    w: &World,
    model: &[(SnapshotRecord, Files)],
    packs: &BTreeSet<ObjectId>,
) -> BTreeSet<ObjectId> {
    let mut at: HashMap<ChunkId, BTreeSet<ObjectId>> = HashMap::new();
    for name in w.names(Area::Index) {
        let id = name.object_id().unwrap();
        let Ok((_, i)) = w.repo.get_record::<Index>(Area::Index, id) else {
            continue;
        };
        for p in &i.packs {
            for c in p.envelopes.iter().flat_map(|e| e.chunk_ids()) {
                at.entry(c).or_default().insert(p.id);
            }
        }
    }
    let (lookup, _) = w.repo.load_index(None).unwrap();
    let mut out = BTreeSet::new();
    for (s, _) in model {
        let mut ids = Vec::new();
        for (root, form) in [
            (&s.body.refs, keepwatch_engine::list::Form::Refs),
            (&s.body.manifest, keepwatch_engine::list::Form::Parts),
        ] {
            let mut reader = ChunkReader::new(&w.repo, &lookup);
            keepwatch_engine::list::walk(
                root,
                form,
                &mut |id| reader.read(ChunkKind::List, id),
                &mut |v| {
                    match v {
                        keepwatch_engine::list::Visit::Node(id) => ids.push(id),
                        keepwatch_engine::list::Visit::Leaves(l) => ids.extend(
                            l.chunks_exact(form.item())
                                .map(|i| ChunkId(i[..32].try_into().unwrap())),
                        ),
                        keepwatch_engine::list::Visit::Lost(..) => {}
                    }
                    Ok(true)
                },
            )
            .unwrap();
        }
        if ids.iter().any(|id| at[id].is_subset(packs)) {
            out.insert(s.id);
        }
    }
    out
}

#[test]
fn a_sound_repository_is_sound_by_every_way_of_looking() {
    for (w, model) in [world(), deep()] {
        for read in [ReadData::No, ReadData::All, ReadData::Percent(50)] {
            for repo in [&w.repo, &w.reader()] {
                let r = run(repo, read);
                assert!(r.is_sound() && r.losses.is_empty(), "{r:#?}");
                assert_eq!(r.snapshots_checked, model.len() as u64);
                assert!(r.chunks > 0 && r.packs > 0 && r.objects > 0);
                match read {
                    ReadData::No => assert_eq!(r.packs_read, 0),
                    ReadData::All => assert_eq!(r.packs_read, r.packs),
                    ReadData::Percent(_) => {
                        assert!(r.packs_read > 0 && r.packs_read < r.packs)
                    }
                }
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let cancel = Cancel::new();
        verify::run(&w.repo, Some(dir.path()), ReadData::No, 0, &Silent, &cancel).unwrap();
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            0,
            "scratch is removed"
        );
        cancel.cancel();
        let r = verify::run(&w.repo, None, ReadData::All, 0, &Silent, &cancel);
        assert!(matches!(r, Err(VerifyError::Cancelled(_))));
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Spoil {
    Flip(usize),
    Cut,
    Empty,
    Extend,
    Delete,
}

#[test]
fn every_damage_to_every_object_is_found_with_exact_hits() {
    let (w, model) = world();
    // Objects of every kind: tombstones and marks too.
    let gone = w.backup(&files(&[("gone", 50, 900)]));
    w.forget(&gone);
    let marks = keepwatch_engine::records::Marks {
        time: 0,
        packs: Vec::new(),
    };
    w.repo.put_record(Area::Marks, &marks).unwrap();
    let mut tried: BTreeMap<&str, u32> = BTreeMap::new();
    for name in w.store.names() {
        let size = w.store.peek(&name).unwrap().len();
        let mut spoils = vec![Spoil::Cut, Spoil::Empty, Spoil::Extend, Spoil::Delete];
        let step = (size / 16).max(1);
        spoils.extend((0..size).step_by(step).map(Spoil::Flip));
        for spoil in spoils {
            let t = w.fork();
            let reader = t.reader();
            let mut bytes = t.store.peek(&name).unwrap();
            match spoil {
                Spoil::Flip(at) => bytes[at] ^= 1 << (at % 8),
                Spoil::Cut => bytes.truncate(size - 1),
                Spoil::Empty => bytes.clear(),
                Spoil::Extend => bytes.push(0),
                Spoil::Delete => {}
            }
            if spoil == Spoil::Delete {
                t.store.lose(&name);
            } else {
                t.store.tamper(&name, bytes);
            }
            let plain = run(&t.repo, ReadData::All);
            let with_identity = run(&reader, ReadData::All);
            let what = format!("{name} {spoil:?}");
            let named = |r: &Report| r.damages.iter().any(|d| d.object == name.to_string());
            let area = name.to_string().split('/').next().unwrap().to_owned();
            *tried
                .entry(Box::leak(area.clone().into_boxed_str()))
                .or_default() += 1;
            match (&name, spoil) {
                // Only who owns it can tell, but for its outside.
                (Name::Key(_), Spoil::Flip(_) | Spoil::Cut | Spoil::Extend) => continue,
                (Name::Key(_), _) => {
                    assert!(!plain.is_sound(), "{what}");
                    continue;
                }
                // The newest of a chain, or what is in none: cut off without a trace (see the format's threat model).
                (Name::Snapshot(id), Spoil::Delete) if *id == gone.id => continue,
                (Name::Marks(_), Spoil::Delete) => continue,
                (Name::Tombstone(_), Spoil::Delete) => {
                    assert!(plain.is_sound(), "{what}: the snapshot is there again");
                    assert_eq!(t.repo.snapshots().unwrap().live.len(), 4);
                    continue;
                }
                (Name::Writer(..), Spoil::Delete) => {
                    let late = Repository::open_as_reader(
                        t.store.clone(),
                        &keepwatch_engine::seal::ReaderIdentity::native(&t.user),
                        None,
                    )
                    .unwrap();
                    assert!(!run(&late, ReadData::No).is_sound(), "{what}");
                    continue;
                }
                _ => {}
            }
            assert!(
                !plain.is_sound(),
                "{what} was not found without an identity"
            );
            assert!(
                !with_identity.is_sound(),
                "{what} was not found with an identity"
            );
            if !matches!((&name, spoil), (Name::Index(_), Spoil::Delete)) {
                assert!(named(&plain) && named(&with_identity), "{what}: {plain:#?}");
                assert_eq!(plain.damages.len(), 1, "{what}: {:#?}", plain.damages);
                assert_eq!(
                    with_identity.damages.len(),
                    1,
                    "{what}: {:#?}",
                    with_identity.damages
                );
            }
            match &name {
                Name::Pack(id) => {
                    let lost = truth(&reader, &model);
                    assert_eq!(
                        hits(&with_identity),
                        lost.keys().copied().collect(),
                        "{what}"
                    );
                    let all: BTreeSet<Vec<u8>> = lost
                        .values()
                        .flatten()
                        .map(|f| f.clone().into_bytes())
                        .collect();
                    let told: BTreeSet<Vec<u8>> = with_identity
                        .damages
                        .iter()
                        .flat_map(|d| d.files.iter().cloned())
                        .collect();
                    assert_eq!(told, all, "{what}");
                    for (s, files) in &lost {
                        let l = with_identity
                            .losses
                            .iter()
                            .find(|l| l.snapshot == *s)
                            .unwrap();
                        let told: BTreeSet<String> = l
                            .files
                            .iter()
                            .map(|f| String::from_utf8_lossy(f).into_owned())
                            .collect();
                        assert_eq!(&told, files, "{what}");
                    }
                    // Without an identity a damaged content pack counts as lost whole.
                    let class = w.store.peek(&name).unwrap();
                    let content = class[class.len() - 8] == 0;
                    if content || spoil == Spoil::Delete {
                        assert_eq!(hits(&plain), users(&w, &model, &[*id].into()), "{what}");
                    } else {
                        assert_eq!(hits(&plain), hits(&with_identity), "{what}");
                    }
                }
                Name::Snapshot(id) if spoil != Spoil::Delete => {
                    let only: BTreeSet<ObjectId> = [*id].into();
                    assert_eq!(hits(&plain), only, "{what}");
                }
                Name::Index(_) => {
                    let (_, i) = w
                        .repo
                        .get_record::<Index>(Area::Index, name.object_id().unwrap())
                        .unwrap();
                    let packs = i.packs.iter().map(|p| p.id).collect();
                    assert_eq!(hits(&plain), users(&w, &model, &packs), "{what}");
                    assert_eq!(hits(&with_identity), hits(&plain), "{what}");
                }
                _ => assert!(hits(&plain).is_empty(), "{what}"),
            }
        }
    }
    assert_eq!(tried.len(), 8, "{tried:?}");
    assert!(tried.values().sum::<u32>() > 400, "{tried:?}");
}

#[test]
fn two_objects_exchanged_are_both_found() {
    let (w, model) = world();
    let names = w.store.names();
    let mut tried = 0;
    for (i, a) in names.iter().enumerate() {
        for b in &names[i + 1..] {
            if matches!(a, Name::Key(_)) || matches!(b, Name::Key(_)) {
                continue;
            }
            let t = w.fork();
            let reader = t.reader();
            let (x, y) = (t.store.peek(a).unwrap(), t.store.peek(b).unwrap());
            t.store.tamper(a, y);
            t.store.tamper(b, x);
            for repo in [&t.repo, &reader] {
                let r = run(repo, ReadData::All);
                for name in [a, b] {
                    assert!(
                        r.damages.iter().any(|d| d.object == name.to_string()),
                        "{a} and {b}: {name} not among {:#?}",
                        r.damages
                    );
                }
            }
            if let (Name::Pack(_), Name::Pack(_)) = (a, b) {
                let r = run(&reader, ReadData::All);
                assert_eq!(hits(&r), truth(&reader, &model).keys().copied().collect());
            }
            tried += 1;
        }
    }
    assert!(tried > 100);
}

#[test]
fn damage_in_deep_lists_is_exact() {
    let (w, model) = deep();
    assert!(model[0].0.body.refs.depth >= 1);
    let mut dice = Dice::new(5);
    let packs = w.names(Area::Packs);
    for round in 0..40 {
        let t = w.fork();
        let mut hit = BTreeSet::new();
        for _ in 0..=dice.roll(3) {
            let name = &packs[dice.roll(packs.len() as u64) as usize];
            hit.insert(name.to_string());
            if dice.roll(2) == 0 {
                t.store.lose(name);
            } else {
                let mut bytes = t.store.peek(name).unwrap_or_default();
                let n = bytes.len() as u64;
                if n > 0 {
                    bytes[dice.roll(n) as usize] ^= 4;
                    t.store.tamper(name, bytes);
                }
            }
        }
        let reader = t.reader();
        let r = run(&reader, ReadData::All);
        let objects: BTreeSet<String> = r.damages.iter().map(|d| d.object.clone()).collect();
        assert_eq!(objects, hit, "round {round}");
        let lost = truth(&reader, &model);
        assert_eq!(hits(&r), lost.keys().copied().collect(), "round {round}");
        for l in &r.losses {
            let told: BTreeSet<String> = l
                .files
                .iter()
                .map(|f| String::from_utf8_lossy(f).into_owned())
                .collect();
            assert_eq!(told, lost[&l.snapshot], "round {round}");
        }
        // Lost packs alone are found without reading any, and so are the lists.
        let structure = run(&t.repo, ReadData::No);
        for name in &packs {
            if t.store.peek(name).is_none() {
                assert!(
                    structure
                        .damages
                        .iter()
                        .any(|d| d.object == name.to_string())
                );
            }
        }
    }
}

#[test]
fn a_chunk_with_a_second_copy_is_not_lost() {
    let w = World::new();
    let f = files(&[("a", 1, 5_000)]);
    let mut one = Draftsman::new(&w.repo);
    let mut two = Draftsman::new(&w.repo);
    let body = one.content(&f, "host", w.moment());
    let packs: Vec<ObjectId> = one.index.packs.iter().map(|p| p.id).collect();
    one.store_index();
    commit(&w.repo, &body);
    two.content(&f, "host", w.moment());
    two.store_index();
    for p in packs {
        w.store.lose(&Name::Pack(p));
    }
    let r = run(&w.reader(), ReadData::All);
    assert!(!r.is_sound());
    assert!(hits(&r).is_empty() && r.losses.is_empty(), "{r:#?}");
}

#[test]
fn wrong_content_under_a_valid_index_is_found_with_an_identity() {
    // A writer that was taken over stores garbage under the id of a chunk.
    let w = World::new();
    let f = files(&[("a", 1, 2_000), ("b", 2, 2_000)]);
    let s = w.backup(&f);
    for name in w.names(Area::Index) {
        let (_, mut i) = w
            .repo
            .get_record::<Index>(Area::Index, name.object_id().unwrap())
            .unwrap();
        // Exchange two ids of data chunks within the index.
        let e = i
            .packs
            .iter_mut()
            .flat_map(|p| &mut p.envelopes)
            .find(|e| e.kind == 0 && e.lengths.len() >= 2)
            .unwrap();
        let (a, b) = (e.ids[..32].to_vec(), e.ids[32..64].to_vec());
        e.ids[..32].copy_from_slice(&b);
        e.ids[32..64].copy_from_slice(&a);
        w.repo.put_record(Area::Index, &i).unwrap();
        w.store.lose(&name);
    }
    let without = run(&w.repo, ReadData::All);
    assert!(without.is_sound(), "only who can open the content can tell");
    let with = run(&w.reader(), ReadData::All);
    assert_eq!(with.damages.len(), 1, "{:#?}", with.damages);
    assert_eq!(with.damages[0].snapshots, vec![s.id]);
    assert_eq!(with.damages[0].files, vec![b"a".to_vec()]);
}

#[test]
fn a_missing_link_of_the_chain_is_damage() {
    let (w, model) = world();
    w.store.lose(&Name::Snapshot(model[1].0.id));
    let r = run(&w.repo, ReadData::No);
    let expected = Damage {
        object: Name::Snapshot(model[1].0.id).to_string(),
        ..Damage::default()
    };
    assert_eq!(r.damages.len(), 1);
    assert_eq!(r.damages[0].object, expected.object);
    assert!(r.damages[0].what.contains("nobody forgot it"));
}

#[test]
fn a_lost_index_is_made_again_from_the_packs() {
    for (w, model) in [world(), deep()] {
        let whole = run(&w.reader(), ReadData::All);
        let all = w.names(Area::Index);
        for lose in [&all[..1], &all[..]] {
            let t = w.fork();
            for name in lose {
                t.store.lose(name);
            }
            assert!(!run(&t.repo, ReadData::No).is_sound());
            // A host alone does what it can: lists.
            let r = repair::index(&t.repo, &Default::default(), &Silent, &Cancel::new()).unwrap();
            assert!(r.packs_sealed > 0 && r.problems.is_empty(), "{r:?}");
            let r = repair::index(&t.both(), &Default::default(), &Silent, &Cancel::new()).unwrap();
            assert!(r.packs_indexed > 0 && r.packs_sealed == 0, "{r:?}");
            let now = run(&t.reader(), ReadData::All);
            assert!(now.is_sound(), "{:#?}", now.damages);
            assert_eq!((now.chunks, now.packs), (whole.chunks, whole.packs));
            for (s, f) in &model {
                assert_eq!(restore(&t.reader(), s).as_ref(), Ok(f));
            }
            let r = repair::index(&t.both(), &Default::default(), &Silent, &Cancel::new()).unwrap();
            assert_eq!((r.packs_read, r.indexes_written), (0, 0));
        }
    }
}

#[test]
fn rebuilding_replaces_false_index_objects_and_keeps_them_in_doubt() {
    let (w, model) = world();
    let rebuild = repair::Options {
        rebuild_all: true,
        ..Default::default()
    };
    // A damaged index object goes.
    let t = w.fork();
    let name = t.names(Area::Index)[0].clone();
    t.store.tamper(&name, b"junk".to_vec());
    let r = repair::index(&t.both(), &rebuild, &Silent, &Cancel::new()).unwrap();
    assert_eq!((r.indexes_deleted, r.unreadable.len()), (3, 1), "{r:?}");
    assert!(run(&t.reader(), ReadData::All).is_sound());
    // Without an identity nothing is replaced.
    let t = w.fork();
    let r = repair::index(&t.repo, &rebuild, &Silent, &Cancel::new()).unwrap();
    assert!(r.indexes_deleted == 0 && !r.problems.is_empty());
    assert!(run(&t.reader(), ReadData::All).is_sound());
    // Nor when a pack is damaged; what still opens is indexed.
    let t = w.fork();
    let pack = t.names(Area::Packs)[0].clone();
    let mut bytes = t.store.peek(&pack).unwrap();
    bytes[250] ^= 1;
    t.store.tamper(&pack, bytes);
    let r = repair::index(&t.both(), &rebuild, &Silent, &Cancel::new()).unwrap();
    assert!(r.indexes_deleted == 0 && !r.problems.is_empty());
    // Every operation failing: what was there stays usable.
    let clean = w.fork();
    let both = clean.both();
    let before = clean
        .store
        .operations
        .load(std::sync::atomic::Ordering::SeqCst);
    repair::index(&both, &rebuild, &Silent, &Cancel::new()).unwrap();
    let n = clean
        .store
        .operations
        .load(std::sync::atomic::Ordering::SeqCst)
        - before;
    for at in 1..=n {
        let t = w.fork();
        let both = t.both();
        let from = t.store.operations.load(std::sync::atomic::Ordering::SeqCst);
        t.store
            .fail_at
            .store(from + at, std::sync::atomic::Ordering::SeqCst);
        let _ = repair::index(&both, &rebuild, &Silent, &Cancel::new());
        t.store
            .fail_at
            .store(0, std::sync::atomic::Ordering::SeqCst);
        assert!(run(&t.reader(), ReadData::All).is_sound(), "operation {at}");
        for (s, f) in &model {
            assert_eq!(restore(&t.reader(), s).as_ref(), Ok(f));
        }
    }
}

#[test]
fn losses_are_told_by_snapshot() {
    let (w, model) = world();
    let names = w.names(Area::Packs);
    for name in &names {
        let t = w.fork();
        t.store.lose(name);
        let reader = t.reader();
        let lost = truth(&reader, &model);
        let told = repair::snapshots(&reader, None, &Silent, &Cancel::new()).unwrap();
        let by: BTreeMap<ObjectId, BTreeSet<String>> = told
            .iter()
            .map(|l| {
                let files = l
                    .files
                    .iter()
                    .map(|f| String::from_utf8_lossy(f).into_owned());
                (l.snapshot, files.collect())
            })
            .collect();
        assert_eq!(by, lost, "{name}");
        let counted = repair::snapshots(&t.repo, None, &Silent, &Cancel::new()).unwrap();
        assert_eq!(counted.len(), told.len());
        assert!(counted.iter().all(|l| l.files.is_empty()));
        for (a, b) in counted.iter().zip(&told) {
            assert_eq!((a.refs, a.manifest_parts), (b.refs, b.manifest_parts));
        }
    }
}

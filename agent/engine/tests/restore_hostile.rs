//! Restores of damaged and of hostile repositories, into targets that somebody meddles with: nothing outside is touched, nothing wrong is put in place, and what
//! is whole comes back.

mod restore_common;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink as make_symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use keepwatch_engine::ids::{ChunkId, ChunkKind};
use keepwatch_engine::list::{Form, Part};
use keepwatch_engine::manifest::{Entry, EntryKind};
use keepwatch_engine::records::ListRoot;
use keepwatch_engine::restore::{Overwrite, RestoreError};
use keepwatch_engine::store::Name;
use keepwatch_engine::store::memory::MemoryStore;
use restore_common::*;
use std::sync::Arc;

/// A place with a target, and beside it what must not change.
struct Place {
    scratch: tempfile::TempDir,
    before: Vec<String>,
}

impl Place {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        for d in ["outside/dir", "target"] {
            fs::create_dir_all(scratch.path().join(d)).unwrap();
        }
        fs::write(scratch.path().join("outside/file"), b"precious").unwrap();
        fs::write(scratch.path().join("outside/dir/file"), b"precious").unwrap();
        let before = tree(&scratch.path().join("outside"));
        Place { scratch, before }
    }
    fn target(&self) -> std::path::PathBuf {
        self.scratch.path().join("target")
    }
    fn outside(&self) -> std::path::PathBuf {
        self.scratch.path().join("outside")
    }
    fn unharmed(&self) {
        assert_eq!(tree(&self.outside()), self.before);
        for f in ["file", "dir/file"] {
            let at = self.outside().join(f);
            assert_eq!(fs::read(&at).unwrap(), b"precious");
            assert_eq!(at.metadata().unwrap().nlink(), 1);
        }
        let mut top: Vec<_> = fs::read_dir(self.scratch.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        top.sort();
        assert_eq!(top, ["outside", "target"]);
    }
}

fn opened(entries: Vec<(Entry, Vec<u8>)>) -> Opened {
    let mut b = Builder::new(memory());
    for (e, content) in entries {
        b.add(e, &content);
    }
    let id = b.commit();
    b.open(id)
}

#[test]
fn symlinks_that_stand_in_the_target_are_not_followed() {
    for overwrite in [
        Overwrite::Never,
        Overwrite::IfChanged,
        Overwrite::IfNewer,
        Overwrite::Always,
    ] {
        let place = Place::new();
        make_symlink(place.outside(), place.target().join("d")).unwrap();
        make_symlink(place.outside().join("file"), place.target().join("f")).unwrap();
        make_symlink("../outside/dir", place.target().join("e")).unwrap();
        let o = opened(vec![
            (dir("d"), vec![]),
            (file("d/file", 4), b"evil".to_vec()),
            (dir("e"), vec![]),
            (file("e/new", 4), b"evil".to_vec()),
            (file("f", 4), b"evil".to_vec()),
        ]);
        let mut options = into(&place.target());
        options.overwrite = overwrite;
        options.delete = true;
        let report = o.restore(&options).unwrap();
        place.unharmed();
        if overwrite == Overwrite::Never {
            assert!(
                place
                    .target()
                    .join("d")
                    .symlink_metadata()
                    .unwrap()
                    .is_symlink()
            );
            assert!(report.problems_total >= 2);
        } else if overwrite != Overwrite::IfNewer {
            assert_eq!(report.problems_total, 0, "{:?}", report.problems);
            assert_eq!(fs::read(place.target().join("d/file")).unwrap(), b"evil");
            assert!(
                place
                    .target()
                    .join("f")
                    .symlink_metadata()
                    .unwrap()
                    .is_file()
            );
        }
    }
}

#[test]
fn directories_swapped_for_symlinks_during_the_restore() {
    let mut entries = Vec::new();
    for d in 0..4 {
        entries.push((dir(format!("d{d}")), vec![]));
        entries.push((dir(format!("d{d}/sub")), vec![]));
        for f in 0..300u64 {
            entries.push((file(format!("d{d}/sub/f{f:03}"), 2000), noise(f, 2000)));
        }
    }
    let o = opened(entries);
    for round in 0..5 {
        let place = Place::new();
        let stop = AtomicBool::new(false);
        std::thread::scope(|s| {
            s.spawn(|| {
                let t = place.target();
                let aside = t.join("aside");
                let mut n = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    n += 1;
                    let victim = if n % 2 == 0 {
                        t.join(format!("d{}", n % 4))
                    } else {
                        t.join(format!("d{}/sub", n % 4))
                    };
                    if fs::rename(&victim, &aside).is_ok() {
                        let _ = make_symlink(place.outside(), &victim);
                        std::thread::yield_now();
                        let _ = fs::remove_file(&victim);
                        if fs::rename(&aside, &victim).is_err() {
                            let _ = fs::remove_dir_all(&aside);
                        }
                    }
                }
            });
            let mut options = into(&place.target());
            options.overwrite = if round % 2 == 0 {
                Overwrite::IfChanged
            } else {
                Overwrite::Always
            };
            options.delete = round == 4;
            options.verify = round == 3;
            // Problems are expected; harm is not.
            for _ in 0..3 {
                let _ = o.restore(&options);
            }
            stop.store(true, Ordering::Relaxed);
        });
        place.unharmed();
    }
}

#[test]
fn the_unfinished_file_swapped_for_a_hard_link_to_something_outside() {
    let mut b = Builder::new(memory());
    for n in 0..120u64 {
        b.add(file(format!("f{n:03}"), 3 << 20), &noise(n, 3 << 20));
    }
    let id = b.commit();
    let o = b.open(id);
    let place = Place::new();
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for e in fs::read_dir(place.target()).unwrap().flatten() {
                    if e.file_name().to_string_lossy().ends_with(".tmp") {
                        let _ = fs::remove_file(e.path());
                        let _ = fs::hard_link(place.outside().join("file"), e.path());
                    }
                }
            }
        });
        let _ = o.restore(&into(&place.target()));
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(fs::read(place.outside().join("file")).unwrap(), b"precious");
    assert_eq!(fs::read_dir(place.outside()).unwrap().count(), 2);
}

#[test]
fn paths_that_lead_elsewhere_are_refused() {
    let paths: Vec<Vec<u8>> = [
        "../x",
        "a/../../x",
        "/etc/x",
        "a//b",
        "a/",
        ".",
        "..",
        "a/./b",
        "",
        "x\0y",
    ]
    .iter()
    .map(|p| p.as_bytes().to_vec())
    .chain([
        vec![b'x'; 256],
        [&b"y/"[..], &vec![b'a'; 5000]].concat(),
        b"a/".repeat(2048),
    ])
    .collect();
    for path in paths {
        let place = Place::new();
        let mut b = Builder::new(memory());
        b.add(file("good-before", 1), b"g");
        let id_before = b.commit();
        let _ = id_before;
        b.add(file(&path, 4), b"evil");
        let id = b.commit();
        let report = b.open(id).restore(&into(&place.target())).unwrap();
        assert!(
            report.problems_total > 0,
            "{:?}",
            String::from_utf8_lossy(&path)
        );
        assert!(tree(&place.target()).is_empty());
        place.unharmed();
    }
}

#[test]
fn something_beneath_what_is_no_directory() {
    let place = Place::new();
    let out = place.outside().to_string_lossy().into_owned();
    let o = opened(vec![
        (file("a", 1), b"1".to_vec()),
        (file("a/b", 4), b"evil".to_vec()),
        (dir("a/c"), vec![]),
        (file("a/c/d", 4), b"evil".to_vec()),
        (symlink("l", &out), vec![]),
        (dir("l/dir"), vec![]),
        (file("l/dir/file", 4), b"evil".to_vec()),
        (file("l/file", 4), b"evil".to_vec()),
        (file("z", 1), b"z".to_vec()),
    ]);
    for _ in 0..2 {
        let report = o.restore(&into(&place.target())).unwrap();
        assert_eq!(tree(&place.target()), ["a", "l", "z"]);
        let mut refused: Vec<_> = report
            .problems
            .iter()
            .map(|p| String::from_utf8_lossy(&p.path).into_owned())
            .collect();
        refused.sort();
        assert_eq!(
            refused,
            ["a/b", "a/c", "a/c/d", "l/dir", "l/dir/file", "l/file"]
        );
        place.unharmed();
    }
}

#[test]
fn entries_twice_or_out_of_order_cost_their_part() {
    for paths in [&["b", "a"][..], &["a", "a"], &["a/b", "a"]] {
        let place = Place::new();
        let o = opened(paths.iter().map(|p| (file(p, 1), b"x".to_vec())).collect());
        let report = o.restore(&into(&place.target())).unwrap();
        assert!(report.problems_total > 0);
        assert!(tree(&place.target()).is_empty());
    }
}

/// Hard link groups that lie: members of other sizes, and a first member that is damaged.
#[test]
fn hard_links_that_lie() {
    let place = Place::new();
    let linked = |path: &str, len: usize, group: u64| {
        let mut e = file(path, len);
        e.link = Some([1, group]);
        e
    };
    // The old file that stands at the name of a damaged first member is not linked to.
    fs::write(place.target().join("damaged"), b"old").unwrap();
    let mut b = Builder::new(memory());
    b.add(linked("a", 4, 1), b"four");
    b.add(linked("b", 6, 1), b"sixsix");
    b.add_refs(linked("damaged", 3, 2), &[ChunkId([7; 32])]);
    b.add_refs(linked("e", 3, 2), &[ChunkId([7; 32])]);
    let id = b.commit();
    let report = b.open(id).restore(&into(&place.target())).unwrap();
    let mut named: Vec<_> = report
        .problems
        .iter()
        .map(|p| String::from_utf8_lossy(&p.path).into_owned())
        .collect();
    named.sort();
    assert_eq!(named, ["b", "damaged", "e"]);
    assert_eq!(tree(&place.target()), ["a", "damaged"]);
    assert_eq!(fs::read(place.target().join("damaged")).unwrap(), b"old");
    place.unharmed();
}

/// Two hundred files of several chunks over many packs; damage to each pack in turn hits exactly the files that use it.
#[test]
fn damaged_packs_cost_exactly_the_files_that_need_them() {
    let store = memory();
    let mut b = Builder::new(store.clone());
    b.chunk = 20_000;
    b.pack = 300_000;
    let mut contents = Vec::new();
    for n in 0..120u64 {
        // Every third shares a chunk with its neighbour.
        let mut content = noise(n, 5_000 + (n as usize * 7919) % 90_000);
        if n % 3 == 1 {
            content.splice(
                0..0,
                noise(n - 1, 90_000)
                    .into_iter()
                    .take(20_000.min(5_000 + ((n - 1) as usize * 7919) % 90_000)),
            );
        }
        b.add(file(format!("f{n:03}"), content.len()), &content);
        contents.push(content);
        b.seal(ChunkKind::Data);
        if n % 20 == 19 {
            b.finish_pack(ChunkKind::Data);
        }
    }
    let id = b.commit();
    let whole = b.open(id);
    let refs_of: Vec<Vec<keepwatch_engine::ids::ObjectId>> = contents
        .iter()
        .map(|c| {
            c.chunks(20_000)
                .map(|c| {
                    let chunk = whole.repository.hash().id(ChunkKind::Data, c);
                    whole
                        .lookup
                        .find(&chunk, &mut Default::default())
                        .unwrap()
                        .unwrap()
                        .pack
                })
                .collect()
        })
        .collect();
    let mut packs: Vec<_> = refs_of.iter().flatten().copied().collect();
    packs.sort();
    packs.dedup();
    assert!(packs.len() >= 6);
    for (n, pack) in packs.iter().enumerate() {
        let fork: Arc<MemoryStore> = Arc::new(store.fork());
        let name = Name::Pack(*pack);
        let mut exact = true;
        match n % 4 {
            0 => fork.lose(&name),
            1 => fork.tamper(&name, Vec::new()),
            2 => fork.tamper(&name, noise(1, store.peek(&name).unwrap().len())),
            _ => {
                // Cut in the middle: files whose envelopes lie before the cut come back.
                exact = false;
                let mut bytes = store.peek(&name).unwrap();
                bytes.truncate(bytes.len() / 2);
                fork.tamper(&name, bytes);
            }
        }
        b.store = fork;
        let place = Place::new();
        let report = b.open(id).restore(&into(&place.target())).unwrap();
        let mut lost: Vec<String> = report
            .problems
            .iter()
            .map(|p| String::from_utf8_lossy(&p.path).into_owned())
            .collect();
        lost.sort();
        let mut expected: Vec<String> = (0..120)
            .filter(|n| refs_of[*n].contains(pack))
            .map(|n| format!("f{n:03}"))
            .collect();
        if exact {
            assert_eq!(lost, expected);
        } else {
            assert!(
                !lost.is_empty()
                    && lost.len() < expected.len()
                    && lost.iter().all(|l| expected.contains(l))
            );
            expected = lost.clone();
        }
        for (n, content) in contents.iter().enumerate() {
            let path = place.target().join(format!("f{n:03}"));
            if expected.contains(&format!("f{n:03}")) {
                assert!(!path.exists());
            } else {
                assert!(fs::read(&path).unwrap() == *content);
            }
        }
        assert_eq!(tree(&place.target()).len(), 120 - lost.len());
    }
}

#[test]
fn flipped_bits_never_reach_a_file() {
    let store = memory();
    let mut b = Builder::new(store.clone());
    b.chunk = 3_000;
    let contents: Vec<_> = (0..30u64)
        .map(|n| noise(n, 1_000 + n as usize * 300))
        .collect();
    for (n, c) in contents.iter().enumerate() {
        b.add(file(format!("f{n:02}"), c.len()), c);
    }
    let id = b.commit();
    let packs: Vec<_> = store
        .names()
        .into_iter()
        .filter(|n| matches!(n, Name::Pack(_)))
        .collect();
    for round in 0..60usize {
        let fork = Arc::new(store.fork());
        let name = &packs[round % packs.len()];
        let mut bytes = store.peek(name).unwrap();
        let at = round * 7919 % bytes.len();
        bytes[at] ^= 1 << (round % 8);
        fork.tamper(name, bytes);
        b.store = fork;
        let place = Place::new();
        // Damage to lists may make the whole restore impossible; that is an error, not a wrong file.
        let _ = b.open(id).restore(&into(&place.target()));
        for f in tree(&place.target()) {
            let n: usize = f[1..].parse().unwrap();
            assert!(
                fs::read(place.target().join(&f)).unwrap() == contents[n],
                "{f}"
            );
        }
    }
}

#[test]
fn another_copy_is_used() {
    let store = memory();
    let mut b = Builder::new(store.clone());
    let content = noise(5, 400_000);
    b.add(file("f", content.len()), &content);
    let first = b.flush();
    let id = whole_id(&b, &content);
    // The same chunk again, in another pack.
    b.chunk_as(ChunkKind::Data, id, &content);
    b.flush();
    let snapshot = b.commit();
    for pack in first {
        store.tamper(&Name::Pack(pack), noise(3, 401_000));
    }
    let place = Place::new();
    b.open(snapshot).restore_well(&into(&place.target()));
    assert!(fs::read(place.target().join("f")).unwrap() == content);
}

fn whole_id(b: &Builder, content: &[u8]) -> ChunkId {
    b.reader().hash().id(ChunkKind::Data, content)
}

/// A host that was taken over can sign an index that gives a chunk other content. The id is a hash of the content: it is refused.
#[test]
fn exchanged_content_under_a_valid_index_is_refused() {
    let mut b = Builder::new(memory());
    let good = noise(1, 50_000);
    b.add(file("good", good.len()), &good);
    let wanted = b"#!/bin/sh\nexec honest\n".to_vec();
    let evil = b"#!/bin/sh\nexec malice\n".to_vec();
    let id = whole_id(&b, &wanted);
    b.chunk_as(ChunkKind::Data, id, &evil);
    b.add_refs(file("script", wanted.len()), &[id]);
    // A chunk of another length than its file says.
    let short = b.chunk(ChunkKind::Data, b"short");
    b.add_refs(file("too-long", 4), &[short]);
    b.add_refs(file("too-short", 6), &[short]);
    // A manifest chunk passed off as content.
    let snapshot = b.commit();
    let place = Place::new();
    fs::write(place.target().join("script"), b"mine").unwrap();
    let report = b.open(snapshot).restore(&into(&place.target())).unwrap();
    let mut named: Vec<_> = report
        .problems
        .iter()
        .map(|p| String::from_utf8_lossy(&p.path).into_owned())
        .collect();
    named.sort();
    assert_eq!(named, ["script", "too-long", "too-short"]);
    assert_eq!(fs::read(place.target().join("script")).unwrap(), b"mine");
    assert_eq!(tree(&place.target()), ["good", "script"]);
    // The honest content stored once more: now it is found.
    b.chunk_as(ChunkKind::Data, id, &wanted);
    let snapshot = {
        b.add_refs(file("script", wanted.len()), &[id]);
        b.commit()
    };
    b.open(snapshot).restore_well(&into(&place.target()));
    assert_eq!(fs::read(place.target().join("script")).unwrap(), wanted);
}

#[test]
fn a_copy_of_a_wrong_length_does_not_hide_the_right_one() {
    let mut b = Builder::new(memory());
    let content = noise(1, 1000);
    let id = whole_id(&b, &content);
    b.chunk_as(ChunkKind::Data, id, &content[..500]);
    b.flush();
    b.chunk_as(ChunkKind::Data, id, &content);
    b.add_refs(file("f", 1000), &[id]);
    let snapshot = b.commit();
    let place = Place::new();
    b.open(snapshot).restore_well(&into(&place.target()));
    assert!(fs::read(place.target().join("f")).unwrap() == content);
}

#[test]
fn lost_parts_and_lists_are_told_and_the_rest_comes_back() {
    let store = memory();
    let mut b = Builder::new(store.clone());
    b.add(dir("a"), b"");
    b.add(file("a/1", 3), b"one");
    let first = b.commit();
    let _ = first;
    // By hand: three parts, the second of which does not exist.
    let part = |b: &mut Builder, entries: &[Entry]| {
        let mut bytes = Vec::new();
        entries.iter().for_each(|e| e.encode_to(&mut bytes));
        let refs = entries.iter().map(|e| e.refs()).sum();
        Part {
            id: b.chunk(ChunkKind::Manifest, &bytes),
            refs,
            entries: entries.len() as u32,
        }
    };
    let chunk = b.chunk(ChunkKind::Data, b"one");
    let with_ref = |path: &str| {
        let mut e = file(path, 3);
        e.set_refs(1);
        e
    };
    let one = part(&mut b, &[dir("a"), with_ref("a/1")]);
    let gone = Part {
        id: ChunkId([9; 32]),
        refs: 2,
        entries: 2,
    };
    let three = part(&mut b, &[with_ref("a/lost/3"), with_ref("z")]);
    let manifest = b.list(
        Form::Parts,
        [one, gone, three]
            .map(|p| p.to_bytes())
            .iter()
            .map(|p| &p[..]),
    );
    let refs = b.list(
        Form::Refs,
        [chunk, ChunkId([8; 32]), ChunkId([8; 32]), chunk, chunk]
            .iter()
            .map(|r| &r.0[..]),
    );
    let id = b.commit_lists(manifest, refs);
    let place = Place::new();
    fs::create_dir(place.target().join("a")).unwrap();
    fs::write(place.target().join("a/extra"), b"x").unwrap();
    let mut options = into(&place.target());
    options.delete = true;
    let report = b.open(id).restore(&options).unwrap();
    assert_eq!(report.problems_total, 1, "{:?}", report.problems);
    assert_eq!(
        tree(&place.target()),
        ["a", "a/1", "a/extra", "a/lost", "a/lost/3", "z"]
    );
    assert_eq!((report.deleted, report.files_restored), (0, 3));
    assert!(
        report
            .notes
            .iter()
            .any(|n| n.contains("nothing was deleted"))
    );
}

/// H3: claims that cost little to write and would cost much to believe.
#[test]
fn claims_are_not_believed() {
    let mut b = Builder::new(memory());
    b.add(file("f", 1), b"x");
    let good = b.commit();
    let snapshot = b.open(good).snapshot.body;
    let place = Place::new();
    let begun = std::time::Instant::now();

    // A part that claims four billion entries and refs.
    let part = Part::from_bytes(snapshot.manifest.items[..40].try_into().unwrap());
    for lie in [
        Part {
            entries: u32::MAX,
            ..part
        },
        Part {
            refs: u32::MAX,
            ..part
        },
    ] {
        let root = ListRoot {
            depth: 0,
            items: lie.to_bytes().to_vec(),
            count: 1,
        };
        let id = b.commit_lists(root, snapshot.refs.clone());
        assert!(matches!(
            b.open(id).restore(&into(&place.target())),
            Err(RestoreError::Object(_))
        ));
    }
    // The same part a thousand times.
    let root = ListRoot {
        depth: 0,
        items: part.to_bytes().repeat(200),
        count: 200,
    };
    let id = b.commit_lists(root, snapshot.refs.clone());
    assert!(b.open(id).restore(&into(&place.target())).is_err());
    // A tree of eight levels that repeats itself: 300^8 parts in a few kilobytes.
    let mut items = part.to_bytes().repeat(300);
    let (mut leaves, mut refs) = (300u64, 300u64);
    let mut root = None;
    for level in 1..=8u8 {
        let mut chunk = vec![level, 1];
        chunk.extend(&items);
        let id = b.chunk(ChunkKind::List, &chunk);
        let mut node = id.0.to_vec();
        node.extend(leaves.to_le_bytes());
        node.extend(refs.to_le_bytes());
        root = Some(ListRoot {
            depth: level,
            items: node.clone(),
            count: leaves,
        });
        let (l, r) = (leaves.checked_mul(300), refs.checked_mul(300));
        let (Some(l), Some(r)) = (l, r) else { break };
        (leaves, refs) = (l, r);
        items = node.repeat(300);
    }
    let id = b.commit_lists(root.unwrap(), snapshot.refs.clone());
    assert!(matches!(
        b.open(id).restore(&into(&place.target())),
        Err(RestoreError::Object(_))
    ));
    // Counts that overflow, a depth beyond the limit, a root that says too much.
    let mut node = part.id.0.to_vec();
    node.extend(u64::MAX.to_le_bytes());
    node.extend(u64::MAX.to_le_bytes());
    for root in [
        ListRoot {
            depth: 1,
            items: node.repeat(3),
            count: 5,
        },
        ListRoot {
            depth: 200,
            items: node.clone(),
            count: u64::MAX,
        },
        ListRoot {
            depth: 0,
            items: part.to_bytes().to_vec(),
            count: u64::MAX,
        },
    ] {
        let id = b.commit_lists(root, snapshot.refs.clone());
        assert!(b.open(id).restore(&into(&place.target())).is_err());
    }
    // Refs that the snapshot does not have: that file is told.
    let id = b.commit_lists(snapshot.manifest.clone(), ListRoot::default());
    let report = b.open(id).restore(&into(&place.target())).unwrap();
    assert_eq!(report.problems_total, 1);
    assert!(tree(&place.target()).is_empty());
    assert!(begun.elapsed().as_secs() < 10);
}

/// A directory entry where the target has a file, a file where it has a directory, and names like unfinished files.
#[test]
fn kinds_that_changed() {
    let place = Place::new();
    let t = place.target();
    fs::write(t.join("d"), b"file").unwrap();
    fs::create_dir_all(t.join("f")).unwrap();
    fs::create_dir_all(t.join("full/sub")).unwrap();
    make_symlink(place.outside(), t.join("full/sub/out")).unwrap();
    let temp = ".keepwatch-0123456789abcdef01234567.tmp";
    fs::write(t.join(temp), b"old").unwrap();
    let o = opened(vec![
        (file(temp, 5), b"saved".to_vec()),
        (dir("d"), vec![]),
        (file("d/x", 1), b"x".to_vec()),
        (file("f", 1), b"f".to_vec()),
        (file("full", 1), b"g".to_vec()),
    ]);
    let report = o.restore(&into(&t)).unwrap();
    assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
    assert_eq!(report.problems[0].path, b"full");
    assert_eq!(fs::read(t.join(temp)).unwrap(), b"saved");
    assert_eq!(fs::read(t.join("d/x")).unwrap(), b"x");
    assert_eq!(fs::read(t.join("f")).unwrap(), b"f");
    let mut options = into(&t);
    options.delete = true;
    o.restore_well(&options);
    assert_eq!(fs::read(t.join("full")).unwrap(), b"g");
    place.unharmed();
}

#[test]
fn verification_finds_what_was_changed_after_the_restore() {
    let o = opened(vec![(file("f", 3000), noise(1, 3000))]);
    let place = Place::new();
    o.restore_well(&into(&place.target()));
    let path = place.target().join("f");
    let mut bytes = fs::read(&path).unwrap();
    bytes[1234] ^= 1;
    let when = path.metadata().unwrap().modified().unwrap();
    fs::write(&path, bytes).unwrap();
    fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_modified(when)
        .unwrap();
    let mut options = into(&place.target());
    options.verify = true;
    let report = o.restore(&options).unwrap();
    assert_eq!((report.files_skipped, report.problems_total), (1, 1));
    options.overwrite = Overwrite::Always;
    o.restore_well(&options);
}

/// `Path::exists` follows symlinks; this does not.
#[allow(dead_code)]
fn stands(at: &Path) -> bool {
    at.symlink_metadata().is_ok()
}

/// Every kind of store failure in the middle: a problem or an error, never a wrong file; and the next run completes it.
#[test]
fn failing_store() {
    let store = memory();
    let mut b = Builder::new(store.clone());
    b.chunk = 30_000;
    b.pack = 200_000;
    let contents: Vec<_> = (0..40u64)
        .map(|n| noise(n, 10_000 + n as usize * 2000))
        .collect();
    for (n, c) in contents.iter().enumerate() {
        b.add(file(format!("f{n:02}"), c.len()), c);
        if n % 5 == 4 {
            b.seal(ChunkKind::Data);
        }
    }
    let id = b.commit();
    let o = b.open(id);
    let begun = store.operations.load(Ordering::SeqCst);
    let place = Place::new();
    o.restore_well(&into(&place.target()));
    let all = store.operations.load(Ordering::SeqCst) - begun;
    assert!(all > 5);
    for n in 1..=all {
        let place = Place::new();
        store.fail_at.store(
            store.operations.load(Ordering::SeqCst) + n,
            Ordering::SeqCst,
        );
        let first = o.restore(&into(&place.target()));
        store.fail_at.store(0, Ordering::SeqCst);
        let incomplete = first.map_or(true, |r| r.problems_total > 0);
        for f in tree(&place.target()) {
            let k: usize = f[1..].parse().unwrap();
            assert!(fs::read(place.target().join(&f)).unwrap() == contents[k]);
        }
        let report = o.restore_well(&into(&place.target()));
        assert!(incomplete || report.files_restored == 0);
        assert_eq!(tree(&place.target()).len(), 40);
    }
}

#[test]
fn no_identity_no_restore() {
    let mut b = Builder::new(memory());
    b.add(entry("fifo", EntryKind::Fifo, 0o600), b"");
    let id = b.commit();
    let mut o = b.open(id);
    o.repository = b.into_writer();
    let place = Place::new();
    match o.restore(&into(&place.target())) {
        Err(RestoreError::Object(e)) => assert!(e.needs_identity()),
        other => panic!("{other:?}"),
    }
}

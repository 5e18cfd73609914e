//! `backup` against stores that fail, files that move, and its own promises of order.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use keepwatch_engine::backup::{self, BackupError, Input};
use keepwatch_engine::manifest::EntryKind;
use keepwatch_engine::progress::{Cancel, Event, Progress, Silent};
use keepwatch_engine::records::Outcome;
use keepwatch_engine::store::memory::MemoryStore;
use keepwatch_engine::store::{Area, Name, Store};
use support::*;

#[test]
fn what_was_backed_up_is_in_the_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, cache) = (dir.path().join("tree"), dir.path().join("cache"));
    sample_tree(&tree, 1);
    let w = World::new(Arc::new(MemoryStore::new()));
    let first = w.backup(&[&tree], Some(&cache)).unwrap();
    assert_eq!(first.outcome, Outcome::Succeeded);
    assert_eq!(first.totals.files, 44 + 1);
    assert_eq!(first.totals.files_new, first.totals.files);
    assert_eq!(
        in_snapshot(&w.reader(), first.snapshot.unwrap(), &tree).unwrap(),
        on_disk(&tree)
    );

    // Nothing changed: nothing is read, nothing is stored but the snapshot.
    std::thread::sleep(std::time::Duration::from_millis(30));
    w.backup(&[&tree], Some(&cache)).unwrap();
    let same = w.backup(&[&tree], Some(&cache)).unwrap();
    assert_eq!(
        (same.totals.files_unmodified, same.totals.bytes_read),
        (45, 0)
    );
    // A directory above the tree, which all tests share, may have another mtime by now: that is one chunk of the manifest.
    assert!(
        same.totals.bytes_added < 10_000 && same.totals.chunks_new <= 1,
        "{:?}",
        same.totals
    );
    assert_eq!(
        in_snapshot(&w.reader(), same.snapshot.unwrap(), &tree).unwrap(),
        on_disk(&tree)
    );

    // One of each kind of change.
    fs::write(tree.join("a/one"), b"2").unwrap();
    fs::remove_file(tree.join("small-3")).unwrap();
    fs::write(tree.join("new"), b"new").unwrap();
    fs::set_permissions(tree.join("small-4"), fs::Permissions::from_mode(0o600)).unwrap();
    let changed = w.backup(&[&tree], Some(&cache)).unwrap();
    assert_eq!(
        (
            changed.totals.files_new,
            changed.totals.files_changed,
            changed.totals.files_unmodified
        ),
        (1, 2, 42)
    );
    assert_eq!(
        in_snapshot(&w.reader(), changed.snapshot.unwrap(), &tree).unwrap(),
        on_disk(&tree)
    );
    // The earlier one is as it was.
    let earlier = in_snapshot(&w.reader(), first.snapshot.unwrap(), &tree).unwrap();
    assert_eq!(
        earlier
            .values()
            .filter(|(k, _, c)| *k == EntryKind::File && c == b"1")
            .count(),
        1
    );
    // The chain.
    let set = w.writer().snapshots().unwrap();
    assert_eq!(
        set.live.iter().map(|s| s.body.sequence).collect::<Vec<_>>(),
        [1, 2, 3, 4]
    );
    assert!(
        set.live
            .windows(2)
            .all(|p| p[1].body.previous == Some(p[0].id))
    );
}

#[test]
fn without_a_cache_everything_is_read_and_nothing_stored_twice() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    sample_tree(&tree, 2);
    let w = World::new(Arc::new(MemoryStore::new()));
    w.backup(&[&tree], None).unwrap();
    let again = w.backup(&[&tree], None).unwrap();
    assert!(again.totals.bytes_read > 200_000);
    // A directory above the tree may have another mtime by now: that is a chunk or two of the manifest, which the secret of this repository
    // cuts, and none of a file.
    assert!(
        again.totals.bytes_added < 10_000 && again.totals.chunks_new <= 3,
        "{:?}",
        again.totals
    );
}

/// D4 and invariant 2: whatever operation fails, no snapshot dangles, and the next run succeeds.
#[test]
fn every_failing_operation_leaves_the_repository_right() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    sample_tree(&tree, 3);
    let base = Arc::new(MemoryStore::new());
    let w = World::new(base.clone());
    let committed = w.backup(&[&tree], None).unwrap().snapshot.unwrap();
    let before = on_disk(&tree);
    sample_tree(&tree, 4);
    let mut n = 1;
    for lose_answer in [false, true] {
        for after in [false, true] {
            n = 1;
            loop {
                let store = Arc::new(base.fork());
                store.fail_at.store(n, Ordering::SeqCst);
                store.fail_all_after.store(after, Ordering::SeqCst);
                store.lose_answer.store(lose_answer, Ordering::SeqCst);
                let result =
                    keepwatch_engine::repository::Repository::open_as_writer(store.clone(), &w.key)
                        .map_err(|e| e.to_string())
                        .and_then(|r| backup(&r, &[&tree], None).map_err(|e| e.to_string()));
                let fired = store.fired.load(Ordering::SeqCst) > 0;
                store.fail_at.store(0, Ordering::SeqCst);
                let clean = Arc::new(store.fork());
                let reader = w.reader_of(clean.clone());
                let set = reader.snapshots().unwrap();
                assert!(set.problems.is_empty(), "operation {n}");
                assert!(set.live.iter().any(|s| s.id == committed));
                for s in &set.live {
                    let tree_of = in_snapshot(&reader, s.id, &tree).unwrap();
                    assert!(
                        tree_of == before || tree_of == on_disk(&tree),
                        "operation {n}"
                    );
                }
                if !fired {
                    result.unwrap();
                    break;
                }
                if let Ok(report) = &result {
                    // A fault that did not matter; then what was reported is there.
                    assert!(
                        set.live.iter().any(|s| Some(s.id) == report.snapshot),
                        "operation {n}"
                    );
                }
                let next = backup(&reader, &[&tree], None).unwrap();
                assert_eq!(
                    in_snapshot(&reader, next.snapshot.unwrap(), &tree).unwrap(),
                    on_disk(&tree)
                );
                n += 1;
            }
        }
    }
    assert!(
        n > 12,
        "only {n} operations: the fault injection does not reach the run"
    );
}

/// D5: packs, then index, then the snapshot, which is read back.
#[test]
fn objects_are_stored_in_the_promised_order() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    sample_tree(&tree, 5);
    let store = Arc::new(MemoryStore::new());
    let w = World::new(store.clone());
    store.journal.lock().unwrap().clear();
    w.backup(&[&tree], None).unwrap();
    let journal = store.journal.lock().unwrap().clone();
    let rank = |n: &Name| match n {
        Name::Pack(_) => 0,
        Name::Index(_) => 1,
        Name::Snapshot(_) => 2,
        _ => 9,
    };
    let ranks: Vec<i32> = journal.iter().map(|(_, n)| rank(n)).collect();
    assert!(
        ranks.windows(2).all(|p| p[0] <= p[1])
            && ranks.first() == Some(&0)
            && ranks.last() == Some(&2),
        "{ranks:?}"
    );
    assert_eq!(ranks.iter().filter(|r| **r == 2).count(), 1);
}

/// S7: what an unchanged run asks of the store does not grow with the tree.
#[test]
fn an_unchanged_run_makes_few_requests() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, cache) = (dir.path().join("tree"), dir.path().join("cache"));
    sample_tree(&tree, 6);
    for n in 0..2000 {
        fs::write(tree.join(format!("more-{n}")), format!("{n}")).unwrap();
    }
    std::thread::sleep(std::time::Duration::from_millis(30));
    let store = Arc::new(MemoryStore::new());
    let w = World::new(store.clone());
    w.backup(&[&tree], Some(&cache)).unwrap();
    let before = store.operations.load(Ordering::SeqCst);
    w.backup(&[&tree], Some(&cache)).unwrap();
    let requests = store.operations.load(Ordering::SeqCst) - before;
    assert!(requests <= 20, "{requests}");
}

#[test]
fn a_damaged_or_missing_pack_is_stored_again() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, cache) = (dir.path().join("tree"), dir.path().join("cache"));
    sample_tree(&tree, 7);
    for cut in [false, true] {
        let store = Arc::new(MemoryStore::new());
        let w = World::new(store.clone());
        let first = w.backup(&[&tree], Some(&cache)).unwrap();
        let packs: Vec<Name> = store
            .names()
            .into_iter()
            .filter(|n| matches!(n, Name::Pack(_)))
            .collect();
        for p in &packs {
            if cut {
                let mut b = store.peek(p).unwrap();
                b.truncate(b.len() - 1);
                store.tamper(p, b);
            } else {
                store.lose(p);
            }
        }
        // Cutting a byte off the footer costs no content yet, but is noticed all the same.
        assert_eq!(
            in_snapshot(&w.reader(), first.snapshot.unwrap(), &tree).is_ok(),
            cut
        );
        let healed = w.backup(&[&tree], Some(&cache)).unwrap();
        assert!(
            healed
                .warnings
                .iter()
                .any(|x| x.contains("missing or cut short")),
            "{:?}",
            healed.warnings
        );
        assert_eq!(
            in_snapshot(&w.reader(), healed.snapshot.unwrap(), &tree).unwrap(),
            on_disk(&tree)
        );
        fs::remove_dir_all(&cache).unwrap();
    }
}

/// I5: a file that changes while it is read is named, the outcome is partial.
#[test]
fn files_that_change_meanwhile_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("quiet"), b"quiet").unwrap();
    fs::write(tree.join("busy"), noise(24 << 20, 1)).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (stop, path) = (stop.clone(), tree.join("busy"));
        std::thread::spawn(move || {
            let f = fs::OpenOptions::new().write(true).open(path).unwrap();
            let mut n = 0u64;
            while !stop.load(Ordering::SeqCst) {
                f.write_all_at(&n.to_le_bytes(), n * 4096 % (24 << 20))
                    .unwrap();
                n += 1;
            }
        })
    };
    let w = World::new(Arc::new(MemoryStore::new()));
    for _ in 0..5 {
        let report = w.backup(&[&tree], None).unwrap();
        assert_eq!(report.outcome, Outcome::Partial);
        assert_eq!(report.problems.total, 1);
        assert!(report.problems.first[0].path.ends_with(b"/busy"));
        assert!(
            report.problems.first[0]
                .what
                .contains("changed while it was read")
        );
    }
    stop.store(true, Ordering::SeqCst);
    writer.join().unwrap();
    assert_eq!(
        w.backup(&[&tree], None).unwrap().outcome,
        Outcome::Succeeded
    );
}

/// Truncates the file as soon as its reading begins.
struct Truncate(std::path::PathBuf);

impl Progress for Truncate {
    fn event(&self, e: Event<'_>) {
        if let Event::Done { bytes, .. } = e {
            if bytes > 0 {
                let _ = fs::OpenOptions::new()
                    .write(true)
                    .open(&self.0)
                    .and_then(|f| f.set_len(100));
            }
        }
    }
}

#[test]
fn a_file_that_shrinks_meanwhile_stays_readable() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let file = tree.join("shrinks");
    fs::write(&file, noise(9 << 20, 2)).unwrap();
    let w = World::new(Arc::new(MemoryStore::new()));
    let r = backup::run(
        &w.writer(),
        &options(&[&tree], None),
        Input::Files,
        &now,
        &Truncate(file),
        &Cancel::new(),
    )
    .unwrap();
    assert_eq!(r.outcome, Outcome::Partial);
    let tree_of = in_snapshot(&w.reader(), r.snapshot.unwrap(), &tree).unwrap();
    assert!(tree_of.values().any(|(k, _, c)| *k == EntryKind::File
        && noise(9 << 20, 2).starts_with(c)
        && !c.is_empty()));
}

/// Adds up what a progress bar is told.
#[derive(Default)]
struct Sum(std::sync::atomic::AtomicU64, std::sync::atomic::AtomicU64);

impl Progress for Sum {
    fn event(&self, e: Event<'_>) {
        if let Event::Done { items, bytes } = e {
            self.0.fetch_add(items, Ordering::SeqCst);
            self.1.fetch_add(bytes, Ordering::SeqCst);
        }
    }
}

/// Short files, long ones, holes, and files that are taken over without being read: the bytes that were told of are those of all files.
#[test]
fn the_bytes_of_the_progress_add_up() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    sample_tree(&tree, 1);
    fs::write(tree.join("long"), noise(3_000_000, 5)).unwrap();
    let sparse = fs::File::create(tree.join("sparse")).unwrap();
    sparse.set_len(5 << 20).unwrap();
    sparse.write_at(b"data", 1 << 20).unwrap();
    drop(sparse);
    let w = World::new(Arc::new(MemoryStore::new()));
    let cache = dir.path().join("cache");
    // Young files are read again.
    std::thread::sleep(std::time::Duration::from_millis(50));
    for round in 0..4 {
        if round == 2 {
            fs::write(tree.join("small-7"), noise(900, 77)).unwrap();
            fs::write(tree.join("long"), noise(2_000_000, 6)).unwrap();
        }
        let sizes: u64 = on_disk(&tree)
            .values()
            .filter(|(k, ..)| *k == EntryKind::File)
            .map(|(.., c)| c.len() as u64)
            .sum();
        let sum = Sum::default();
        let r = backup::run(
            &w.writer(),
            &options(&[&tree], Some(&cache)),
            Input::Files,
            &now,
            &sum,
            &Cancel::new(),
        )
        .unwrap();
        let totals = w
            .reader()
            .snapshot(r.snapshot.unwrap())
            .unwrap()
            .body
            .totals;
        assert_eq!(totals.bytes, sizes);
        assert_eq!(sum.1.into_inner(), sizes, "round {round}");
        assert_eq!(round % 2 == 1, totals.files_unmodified == totals.files);
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn sparse_files_keep_their_holes() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let f = fs::File::create(tree.join("sparse")).unwrap();
    f.set_len(100 << 20).unwrap();
    f.write_all_at(&noise(70_000, 1), 5 << 20).unwrap();
    f.write_all_at(b"end", (90 << 20) - 3).unwrap();
    fs::File::create(tree.join("all-hole"))
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    let w = World::new(Arc::new(MemoryStore::new()));
    let r = w.backup(&[&tree], None).unwrap();
    assert!(r.totals.bytes_read < 1 << 20, "{}", r.totals.bytes_read);
    assert_eq!(r.totals.bytes, (100 << 20) + (1u64 << 40));
    fs::remove_file(tree.join("all-hole")).unwrap();
    let mut seen = in_snapshot_small(&w, r.snapshot.unwrap(), &tree);
    seen.retain(|p, _| !p.ends_with(b"all-hole"));
    assert_eq!(seen, on_disk(&tree));
}

/// Like `in_snapshot`, but does not build a terabyte of zeros.
fn in_snapshot_small(
    w: &World,
    id: keepwatch_engine::ids::ObjectId,
    tree: &std::path::Path,
) -> Tree {
    let sparse = tree.join("sparse");
    let mut out = in_snapshot(&w.reader(), id, &sparse).unwrap();
    let meta = fs::metadata(tree).unwrap().permissions().mode() & 0o7777;
    let name = std::os::unix::ffi::OsStrExt::as_bytes(tree.as_os_str())[1..].to_vec();
    out.insert(name, (EntryKind::Directory, meta, vec![]));
    out
}

#[test]
fn what_is_excluded_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    sample_tree(&tree, 8);
    fs::create_dir_all(tree.join("thumbs")).unwrap();
    fs::write(
        tree.join("thumbs/CACHEDIR.TAG"),
        b"Signature: 8a477f597d28d172789f06886806bc55\n",
    )
    .unwrap();
    fs::write(tree.join("thumbs/x"), b"x").unwrap();
    let w = World::new(Arc::new(MemoryStore::new()));
    let mut o = options(&[&tree], None);
    o.excludes = vec!["small-*".into(), "!small-7".into(), "b/c".into()];
    o.exclude_caches = true;
    o.exclude_larger_than = Some(50_000);
    let r = backup::run(&w.writer(), &o, Input::Files, &now, &Silent, &Cancel::new()).unwrap();
    let names: Vec<String> = in_snapshot(&w.reader(), r.snapshot.unwrap(), &tree)
        .unwrap()
        .keys()
        .map(|k| {
            String::from_utf8_lossy(k)
                .rsplit('/')
                .next()
                .unwrap()
                .to_owned()
        })
        .collect();
    assert_eq!(
        names,
        [
            "tree", "a", "a.txt", "b", "link", "one", "zero", "empty", "small-7", "thumbs"
        ]
    );
}

#[test]
fn a_stream_that_is_not_whole_leaves_no_snapshot() {
    let w = World::new(Arc::new(MemoryStore::new()));
    let go = |name: &str, data: Vec<u8>, end: Result<(), String>| {
        let input = Input::Stream {
            name: name.into(),
            reader: Box::new(std::io::Cursor::new(data)),
            finish: Box::new(move || end),
        };
        backup::run(
            &w.writer(),
            &options(&[], None),
            input,
            &now,
            &Silent,
            &Cancel::new(),
        )
    };
    assert!(matches!(
        go(
            "dump.sql",
            noise(100_000, 1),
            Err("pg_dump exited with 1".into())
        ),
        Err(BackupError::Stream { .. })
    ));
    for bad in ["../x", "/abs", "", "a//b"] {
        assert!(
            matches!(go(bad, vec![1], Ok(())), Err(BackupError::StreamName(_))),
            "{bad}"
        );
    }
    assert!(w.writer().snapshots().unwrap().live.is_empty());
    let r = go("db/dump.sql", noise(100_000, 1), Ok(())).unwrap();
    let tree = in_snapshot(
        &w.reader(),
        r.snapshot.unwrap(),
        std::path::Path::new("/db"),
    )
    .unwrap();
    assert_eq!(tree.get(&b"db/dump.sql"[..]).unwrap().2, noise(100_000, 1));

    struct Broken(usize);
    impl Read for Broken {
        fn read(&mut self, b: &mut [u8]) -> std::io::Result<usize> {
            if self.0 == 0 {
                return Err(std::io::Error::other("pipe broke"));
            }
            let n = b.len().min(self.0);
            self.0 -= n;
            b[..n].fill(7);
            Ok(n)
        }
    }
    let input = Input::Stream {
        name: "x".into(),
        reader: Box::new(Broken(500_000)),
        finish: Box::new(|| Ok(())),
    };
    let e = backup::run(
        &w.writer(),
        &options(&[], None),
        input,
        &now,
        &Silent,
        &Cancel::new(),
    )
    .unwrap_err();
    assert!(e.to_string().contains("pipe broke"), "{e}");
    assert_eq!(w.writer().snapshots().unwrap().live.len(), 1);
}

#[test]
fn several_streams_are_one_snapshot_or_none() {
    let w = World::new(Arc::new(MemoryStore::new()));
    let go = |parts: Vec<(&str, usize, Result<(), String>)>, last: Result<(), String>| {
        let mut parts = parts
            .into_iter()
            .map(|(n, len, end)| (n.to_owned(), len, end))
            .collect::<Vec<_>>()
            .into_iter();
        let mut last = Some(last);
        let input = Input::Streams {
            names: vec!["db".into(), "b".into()],
            next: Box::new(move || match parts.next() {
                Some((name, len, end)) => Ok(Some(backup::Stream {
                    reader: Box::new(std::io::Cursor::new(noise(len, len as u64))),
                    name,
                    finish: Box::new(move || end),
                })),
                None => last.take().unwrap_or(Ok(())).map(|()| None),
            }),
        };
        backup::run(
            &w.writer(),
            &options(&[], None),
            input,
            &now,
            &Silent,
            &Cancel::new(),
        )
    };
    let ok = || Ok::<(), String>(());
    let whole = || {
        vec![
            ("db/z", 900_000, ok()),
            ("db/a/x", 0, ok()),
            ("b", 70_000, ok()),
        ]
    };
    for (parts, last, what) in [
        (vec![], ok(), "nothing"),
        (whole(), Err("the server went away".into()), "no next one"),
        (
            vec![("db/z", 9, ok()), ("db/y", 9, Err("cut".into()))],
            ok(),
            "one is cut",
        ),
        (
            vec![("db/z", 9, ok()), ("db/z", 9, ok())],
            ok(),
            "one twice",
        ),
        (
            vec![("db", 9, ok()), ("db/z", 9, ok())],
            ok(),
            "a file that is a directory",
        ),
        (vec![("db/../z", 9, ok())], ok(), "a name that climbs"),
    ] {
        assert!(go(parts, last).is_err(), "{what}");
    }
    assert!(w.writer().snapshots().unwrap().live.is_empty());
    // In whatever order they come.
    let r = go(whole(), ok()).unwrap();
    let tree = in_snapshot(&w.reader(), r.snapshot.unwrap(), std::path::Path::new("/")).unwrap();
    for (name, len) in [("db/z", 900_000), ("db/a/x", 0), ("b", 70_000)] {
        assert_eq!(
            tree.get(name.as_bytes()).unwrap().2,
            noise(len, len as u64),
            "{name}"
        );
    }
    let again = go(whole(), ok()).unwrap();
    assert!(again.totals.bytes_added < 20_000, "{:?}", again.totals);
}

#[test]
fn streams_stand_among_files_in_one_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, cache) = (dir.path().join("tree"), dir.path().join("cache"));
    sample_tree(&tree, 11);
    let w = World::new(Arc::new(MemoryStore::new()));
    let go = |names: &[&str], end: Result<(), String>, cut: Result<(), String>, paths: &[&_]| {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let tops = names
            .iter()
            .map(|n| n.split('/').next().unwrap().to_owned());
        let (mut names, tops) = (names.clone().into_iter(), tops.collect());
        let (mut end, mut cut) = (Some(end), Some(cut));
        let input = Input::Streams {
            names: tops,
            next: Box::new(move || match names.next() {
                Some(name) => {
                    let cut = cut.take().unwrap_or(Ok(()));
                    Ok(Some(backup::Stream {
                        reader: Box::new(std::io::Cursor::new(noise(600_000, 3))),
                        name,
                        finish: Box::new(move || cut),
                    }))
                }
                None => end.take().unwrap_or(Ok(())).map(|()| None),
            }),
        };
        let o = options(paths, Some(&cache));
        backup::run(&w.writer(), &o, input, &now, &Silent, &Cancel::new())
    };
    let first = tree.components().nth(1).unwrap();
    let first = first.as_os_str().to_str().unwrap().to_owned();
    let gone = dir.path().join("gone");
    let bad = |why: &str| Err(why.to_owned());
    let inside = format!("{first}/x");
    for (names, end, cut, paths, what) in [
        (
            vec!["a/x"],
            bad("the server went away"),
            Ok(()),
            &tree,
            "no next one",
        ),
        (vec!["a/x"], Ok(()), bad("cut"), &tree, "a stream is cut"),
        (
            vec![&*inside],
            Ok(()),
            Ok(()),
            &tree,
            "a stream among the files",
        ),
        (vec!["a/x"], Ok(()), Ok(()), &gone, "no files"),
        (vec![], Ok(()), Ok(()), &tree, "no streams"),
    ] {
        assert!(go(&names, end, cut, &[paths]).is_err(), "{what}");
    }
    assert!(w.writer().snapshots().unwrap().live.is_empty());
    // Before all files, and after them.
    let names = ["zz/b", "\u{1}/a", "zz/a/deep"];
    let mut last = None;
    for round in 0..2 {
        let r = go(&names, Ok(()), Ok(()), &[&tree]).unwrap();
        assert_eq!((r.outcome, r.totals.files), (Outcome::Succeeded, 45 + 3));
        // The second time only streams are read, and nothing of them is stored.
        if round == 1 {
            assert_eq!(r.totals.files_unmodified, 45);
            assert!(r.totals.bytes_added < 50_000, "{:?}", r.totals);
        }
        last = r.snapshot;
    }
    let id = last.unwrap();
    let got = in_snapshot(&w.reader(), id, &tree).unwrap();
    assert_eq!(got, on_disk(&tree));
    let all = in_snapshot(&w.reader(), id, std::path::Path::new("/")).unwrap();
    for name in names {
        assert_eq!(
            all.get(name.as_bytes()).unwrap().2,
            noise(600_000, 3),
            "{name}"
        );
    }
    let set = w.writer().snapshots().unwrap();
    let s = set.live.iter().find(|s| s.id == id).unwrap();
    assert_eq!(s.body.source, 0);
    assert_eq!(s.body.paths.len(), 4);
    assert!(s.body.paths[0].starts_with(b"/"));
    // All files unreadable, and a stream that is not: that is no backup of the files.
    let o = go(&["a/x"], Ok(()), Ok(()), &[&tree, &gone]).unwrap();
    assert_eq!((o.outcome, o.problems.total), (Outcome::Partial, 1));
}

#[test]
fn sources_that_cannot_be_read_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    sample_tree(&tree, 9);
    let w = World::new(Arc::new(MemoryStore::new()));
    let gone = dir.path().join("gone");
    assert!(
        matches!(w.backup(&[&gone], None), Err(BackupError::NoSources(why)) if why.contains("gone"))
    );
    let r = w.backup(&[&tree, &gone], None).unwrap();
    assert_eq!((r.outcome, r.problems.total), (Outcome::Partial, 1));
    // A symlink as source: the link, and what is behind it.
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&tree, &link).unwrap();
    let r = w.backup(&[&link], None).unwrap();
    assert_eq!(r.totals.files, 45);
    assert_eq!(r.totals.others, 2);
}

#[test]
fn a_dry_run_stores_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    sample_tree(&tree, 10);
    let store = Arc::new(MemoryStore::new());
    let w = World::new(store.clone());
    let names = store.names();
    let mut o = options(&[&tree], None);
    o.dry_run = true;
    let r = backup::run(&w.writer(), &o, Input::Files, &now, &Silent, &Cancel::new()).unwrap();
    assert!(r.snapshot.is_none() && r.totals.bytes_added > 100_000 && r.totals.files_new == 45);
    assert_eq!(store.names(), names);
}

#[test]
fn a_cancelled_run_ends_and_the_next_one_reuses_what_it_stored() {
    struct CancelAt(Cancel, std::sync::atomic::AtomicU64);
    impl Progress for CancelAt {
        fn event(&self, e: Event<'_>) {
            if matches!(e, Event::Item(_)) && self.1.fetch_add(1, Ordering::SeqCst) == 20 {
                self.0.cancel();
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    sample_tree(&tree, 11);
    let w = World::new(Arc::new(MemoryStore::new()));
    let cancel = Cancel::new();
    let progress = CancelAt(cancel.clone(), Default::default());
    let e = backup::run(
        &w.writer(),
        &options(&[&tree], None),
        Input::Files,
        &now,
        &progress,
        &cancel,
    )
    .unwrap_err();
    assert!(matches!(e, BackupError::Cancelled(_)), "{e}");
    assert!(w.writer().snapshots().unwrap().live.is_empty());
    let r = w.backup(&[&tree], None).unwrap();
    assert_eq!(
        in_snapshot(&w.reader(), r.snapshot.unwrap(), &tree).unwrap(),
        on_disk(&tree)
    );
}

/// C1: writers at once, no lock: each snapshot is whole.
#[test]
fn four_writers_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let trees: Vec<_> = (0..4)
        .map(|n| dir.path().join(format!("tree-{n}")))
        .collect();
    for (n, t) in trees.iter().enumerate() {
        sample_tree(t, 20 + n as u64 / 2); // two pairs share their content
    }
    let w = World::new(Arc::new(MemoryStore::new()));
    let snapshots: Vec<_> = std::thread::scope(|s| {
        let w = &w;
        let runs: Vec<_> = trees
            .iter()
            .map(|t| {
                s.spawn(move || {
                    (0..3)
                        .map(|_| w.backup(&[t], None).unwrap().snapshot.unwrap())
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        runs.into_iter().map(|r| r.join().unwrap()).collect()
    });
    for (t, ids) in trees.iter().zip(&snapshots) {
        for id in ids {
            assert_eq!(in_snapshot(&w.reader(), *id, t).unwrap(), on_disk(t));
        }
    }
    let set = w.writer().snapshots().unwrap();
    assert_eq!(set.live.len(), 12);
    assert!(set.broken_links().is_empty());
}

/// FORMAT.md 8.4: what prune marks while a backup runs is stored anew before the commit.
#[test]
fn packs_marked_meanwhile_are_not_relied_upon() {
    use keepwatch_engine::records::Marks;
    struct MarkAll(World, AtomicBool);
    impl Progress for MarkAll {
        fn event(&self, e: Event<'_>) {
            if matches!(e, Event::Phase("committing")) && !self.1.swap(true, Ordering::SeqCst) {
                let mut packs = Vec::new();
                self.0
                    .store
                    .list(Area::Packs, &mut |l| packs.extend(l.name.object_id()))
                    .unwrap();
                self.0
                    .writer()
                    .put_record(Area::Marks, &Marks { time: 0, packs })
                    .unwrap();
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let (tree, cache) = (dir.path().join("tree"), dir.path().join("cache"));
    sample_tree(&tree, 12);
    let store = Arc::new(MemoryStore::new());
    let w = World::new(store.clone());
    w.backup(&[&tree], Some(&cache)).unwrap();
    let progress = MarkAll(w, AtomicBool::new(false));
    let report = backup::run(
        &progress.0.writer(),
        &options(&[&tree], Some(&cache)),
        Input::Files,
        &now,
        &progress,
        &Cancel::new(),
    )
    .unwrap();
    let w = &progress.0;
    // The marked packs go; the new snapshot does not need them.
    let marked = keepwatch_engine::marks::marked_packs(&w.writer()).unwrap();
    assert!(!marked.is_empty());
    for p in marked {
        store.lose(&Name::Pack(p));
    }
    assert_eq!(
        in_snapshot(&w.reader(), report.snapshot.unwrap(), &tree).unwrap(),
        on_disk(&tree)
    );
}

/// As above, beside streams, which cannot be read a second time: without them there is no snapshot, and with them it is whole.
#[test]
fn packs_marked_meanwhile_cost_no_stream() {
    use keepwatch_engine::records::Marks;
    struct Mark {
        world: World,
        done: AtomicBool,
        before: Option<Vec<keepwatch_engine::ids::ObjectId>>,
    }
    let packs_of = |w: &World| {
        let mut packs = Vec::new();
        let mut add = |l: keepwatch_engine::store::Listed| packs.extend(l.name.object_id());
        w.store.list(Area::Packs, &mut add).unwrap();
        packs
    };
    impl Progress for Mark {
        fn event(&self, e: Event<'_>) {
            if matches!(e, Event::Phase("committing")) && !self.done.swap(true, Ordering::SeqCst) {
                let mut packs = Vec::new();
                let list =
                    &mut |l: keepwatch_engine::store::Listed| packs.extend(l.name.object_id());
                self.world.store.list(Area::Packs, list).unwrap();
                let packs = self.before.clone().unwrap_or(packs);
                let marks = Marks { time: 0, packs };
                self.world.writer().put_record(Area::Marks, &marks).unwrap();
            }
        }
    }
    for everything in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (tree, cache) = (dir.path().join("tree"), dir.path().join("cache"));
        sample_tree(&tree, 14);
        let store = Arc::new(MemoryStore::new());
        let w = World::new(store.clone());
        w.backup(&[&tree], Some(&cache)).unwrap();
        let before = (!everything).then(|| packs_of(&w));
        let progress = Mark {
            world: w,
            done: AtomicBool::new(false),
            before,
        };
        let mut stream = Some(backup::Stream {
            name: "db/x".into(),
            reader: Box::new(std::io::Cursor::new(noise(900_000, 77))),
            finish: Box::new(|| Ok(())),
        });
        let report = backup::run(
            &progress.world.writer(),
            &options(&[&tree], Some(&cache)),
            Input::Streams {
                names: vec!["db".into()],
                next: Box::new(move || Ok(stream.take())),
            },
            &now,
            &progress,
            &Cancel::new(),
        );
        let w = &progress.world;
        if everything {
            assert!(matches!(report, Err(BackupError::Pruned)), "{report:?}");
            assert_eq!(w.writer().snapshots().unwrap().live.len(), 1);
            continue;
        }
        let id = report.unwrap().snapshot.unwrap();
        for p in keepwatch_engine::marks::marked_packs(&w.writer()).unwrap() {
            store.lose(&Name::Pack(p));
        }
        assert_eq!(in_snapshot(&w.reader(), id, &tree).unwrap(), on_disk(&tree));
        let all = in_snapshot(&w.reader(), id, std::path::Path::new("/")).unwrap();
        assert_eq!(all.get(&b"db/x"[..]).unwrap().2, noise(900_000, 77));
    }
}

#[test]
fn reading_an_unreadable_directory_is_a_problem_not_an_end() {
    // Root may read everything: then there is nothing to see here.
    if rustix::process::geteuid().is_root() {
        let mut out = std::io::stderr();
        let _ = writeln!(out, "as root: the CLI tests do this as another user");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    sample_tree(&tree, 13);
    fs::set_permissions(tree.join("a/b"), fs::Permissions::from_mode(0o000)).unwrap();
    let w = World::new(Arc::new(MemoryStore::new()));
    let r = w.backup(&[&tree], None).unwrap();
    assert_eq!(r.outcome, Outcome::Partial);
    fs::set_permissions(tree.join("a/b"), fs::Permissions::from_mode(0o755)).unwrap();
}

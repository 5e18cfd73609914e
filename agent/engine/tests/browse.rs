//! Listing, comparing and dumping snapshots.

#[path = "restore_common/mod.rs"]
mod restore_common;

use std::collections::BTreeMap;
use std::io::Read;

use keepwatch_engine::browse::{self, ChangeKind};
use keepwatch_engine::dump::{self, DumpError};
use keepwatch_engine::ids::{ChunkId, ChunkKind};
use keepwatch_engine::manifest::{Entry, EntryKind, Xattr};
use keepwatch_engine::store::Name;
use restore_common::*;

#[test]
fn listing_selects() {
    let mut b = Builder::new(memory());
    for d in 0..40 {
        b.add(dir(format!("d{d:02}")), b"");
        for f in 0..100 {
            b.add(file(format!("d{d:02}/f{f:03}"), 1), b"x");
        }
    }
    let id = b.commit();
    let o = b.open(id);
    let list = |select: &[&str]| {
        let mut out = Vec::new();
        let select: Vec<Vec<u8>> = select.iter().map(|s| s.as_bytes().to_vec()).collect();
        let lost = browse::list(&o.repository, &o.lookup, &o.snapshot, &select, &mut |e| {
            out.push(e.display());
            Ok(())
        })
        .unwrap();
        assert!(lost.is_empty());
        out
    };
    assert_eq!(list(&[]).len(), 40 * 101);
    assert_eq!(list(&["d07"]).len(), 101);
    assert_eq!(
        list(&["/d07/f050/", "d30/f001", "nowhere"]),
        ["d07/f050", "d30/f001"]
    );
    assert!(
        browse::list(
            &o.repository,
            &o.lookup,
            &o.snapshot,
            &[b"../x".to_vec()],
            &mut |_| Ok(())
        )
        .is_err()
    );
}

/// Many parts, so that paths are searched rather than read through.
#[test]
fn paths_are_found_among_many_parts() {
    let mut b = Builder::new(memory());
    for d in 0..1000 {
        b.add(dir(format!("d{d:04}")), b"");
        for f in 0..60 {
            b.add(
                file(format!("d{d:04}/f{f:02}"), 4),
                format!("{:04}", d * 60 + f % 7)
                    .as_bytes()
                    .get(..4)
                    .unwrap(),
            );
        }
    }
    let id = b.commit();
    let o = b.open(id);
    assert!(
        o.snapshot.body.manifest.count >= 64,
        "{}",
        o.snapshot.body.manifest.count
    );
    for d in (0..1000).step_by(37) {
        let mut seen = 0;
        browse::list(
            &o.repository,
            &o.lookup,
            &o.snapshot,
            &[format!("d{d:04}").into_bytes()],
            &mut |_| {
                seen += 1;
                Ok(())
            },
        )
        .unwrap();
        assert_eq!(seen, 61);
        let mut out = Vec::new();
        let path = format!("d{d:04}/f59");
        dump::dump_file(
            &o.repository,
            &o.lookup,
            &o.snapshot,
            path.as_bytes(),
            &mut out,
        )
        .unwrap();
        assert_eq!(out, &format!("{:04}", d * 60 + 59 % 7).as_bytes()[..4]);
    }
    let scratch = tempfile::tempdir().unwrap();
    let mut options = into(scratch.path());
    options.select = vec![b"d0500/f30".to_vec(), b"d0999".to_vec()];
    let report = o.restore_well(&options);
    assert_eq!(report.files_restored, 61);
    assert_eq!(tree(scratch.path()).len(), 63);
}

#[test]
fn differences_have_names() {
    let mut b = Builder::new(memory());
    let with = |mut e: Entry, change: &dyn Fn(&mut Entry)| {
        change(&mut e);
        e
    };
    b.add(dir("d"), b"");
    b.add(file("d/gone", 3), b"abc");
    b.add(file("d/mode", 3), b"abc");
    b.add(file("d/same", 3), b"abc");
    b.add(file("d/text", 3), b"abc");
    b.add(file("kind", 3), b"abc");
    b.add(symlink("link", "a"), b"");
    let first = b.commit();
    b.add(with(dir("d"), &|e| e.mtime.seconds += 1), b"");
    b.add(
        with(file("d/mode", 3), &|e| (e.mode, e.uid) = (0o600, 4242)),
        b"abc",
    );
    b.add(file("d/new", 5), b"abcde");
    b.add(file("d/same", 3), b"abc");
    b.add(file("d/text", 3), b"abd");
    b.add(dir("kind"), b"");
    b.add(symlink("link", "b"), b"");
    let second = b.commit();
    let (x, y) = (b.open(first), b.open(second));
    let mut changes = BTreeMap::new();
    let totals = browse::diff(
        &x.repository,
        &y.lookup,
        &x.snapshot,
        &y.snapshot,
        &mut |c| {
            changes.insert(
                String::from_utf8_lossy(c.path).into_owned(),
                (c.kind, c.metadata),
            );
            Ok(())
        },
    )
    .unwrap();
    let wanted = [
        ("d", ChangeKind::Metadata, vec!["mtime"]),
        ("d/gone", ChangeKind::Removed, vec![]),
        ("d/mode", ChangeKind::Metadata, vec!["mode", "owner"]),
        ("d/new", ChangeKind::Added, vec![]),
        ("d/text", ChangeKind::Modified, vec![]),
        ("kind", ChangeKind::TypeChanged, vec![]),
        ("link", ChangeKind::Modified, vec![]),
    ];
    assert_eq!(
        changes,
        wanted
            .into_iter()
            .map(|(p, k, m)| (p.to_owned(), (k, m)))
            .collect()
    );
    assert_eq!(
        (
            totals.unchanged,
            totals.added,
            totals.removed,
            totals.modified
        ),
        (1, 1, 1, 2)
    );
    assert_eq!((totals.bytes_added, totals.bytes_removed), (8, 9));
    let none = browse::diff(
        &x.repository,
        &y.lookup,
        &x.snapshot,
        &x.snapshot,
        &mut |_| panic!("none"),
    )
    .unwrap();
    assert_eq!(none.unchanged, 7);
}

#[test]
fn a_file_is_dumped_in_order_with_its_holes() {
    let mut b = Builder::new(memory());
    b.chunk = 10_000;
    let size = 3 << 20;
    let mut sparse = file("sparse", size);
    sparse.holes = Some(vec![[0, 5], [12_345, 700_000], [size as u64 - 9, 9]]);
    let stored = noise(1, size - 700_014);
    let mut wanted = vec![0; size];
    wanted[5..12_345].copy_from_slice(&stored[..12_340]);
    wanted[712_345..size - 9].copy_from_slice(&stored[12_340..]);
    b.add(sparse, &stored);
    let chunk = b.chunk(ChunkKind::Data, &noise(2, 50));
    b.add_refs(file("t", 50 * 20_000), &vec![chunk; 20_000]);
    b.add(dir("u"), b"");
    b.add(file("v", 0), b"");
    let id = b.commit();
    let o = b.open(id);
    let dumped = |path: &str| {
        let mut out = Vec::new();
        let n = dump::dump_file(
            &o.repository,
            &o.lookup,
            &o.snapshot,
            path.as_bytes(),
            &mut out,
        )?;
        assert_eq!(n, out.len() as u64);
        Ok::<_, DumpError>(out)
    };
    assert!(dumped("/sparse").unwrap() == wanted);
    assert!(dumped("t").unwrap() == noise(2, 50).repeat(20_000));
    assert!(dumped("v").unwrap().is_empty());
    assert!(matches!(dumped("u"), Err(DumpError::NotAFile(_))));
    assert!(matches!(dumped("nowhere"), Err(DumpError::NotFound(_))));
}

#[test]
fn damage_ends_a_dump_with_an_error() {
    let store = memory();
    let mut b = Builder::new(store.clone());
    b.add(file("a", 100_000), &noise(1, 100_000));
    b.seal(ChunkKind::Data);
    let pack = b.finish_pack(ChunkKind::Data).unwrap();
    b.add(file("b", 10), &noise(2, 10));
    b.add_refs(file("c", 10), &[ChunkId([3; 32])]);
    let short = b.chunk(ChunkKind::Data, b"short");
    b.add_refs(file("long", 4), &[short]);
    b.add_refs(file("short", 6), &[short]);
    let id = b.commit();
    store.tamper(&Name::Pack(pack), noise(9, 100_200));
    let o = b.open(id);
    for (path, fine) in [
        ("a", false),
        ("b", true),
        ("c", false),
        ("long", false),
        ("short", false),
    ] {
        let mut out = Vec::new();
        let done = dump::dump_file(
            &o.repository,
            &o.lookup,
            &o.snapshot,
            path.as_bytes(),
            &mut out,
        );
        assert_eq!(done.is_ok(), fine, "{path}");
        if !fine {
            assert!(
                matches!(done, Err(DumpError::Content { .. })),
                "{path}: {done:?}"
            );
        }
        let mut out = Vec::new();
        let done = dump::dump_tar(
            &o.repository,
            &o.lookup,
            &o.snapshot,
            &[path.as_bytes().to_vec()],
            &mut out,
        );
        assert_eq!(done.is_ok(), fine, "{path}");
    }
    // A receiver that goes away.
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("gone"))
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let done = dump::dump_file(&o.repository, &o.lookup, &o.snapshot, b"b", &mut Full);
    assert!(matches!(done, Err(DumpError::Out(_))));
}

#[test]
fn an_archive_holds_everything() {
    let mut b = Builder::new(memory());
    b.chunk = 50_000;
    let long = [&b"d/"[..], &[b'n'; 200], b"/", &[b'\xff'; 3]].concat();
    let mut linked = file("d/l1", 70_000);
    linked.link = Some([1, 2]);
    linked.user = Some("somebody".into());
    let mut second = file("z", 70_000);
    second.link = Some([1, 2]);
    let mut old = file("old", 2);
    old.mtime = time(-2, 250_000_000);
    old.xattrs = Some(vec![Xattr {
        name: b"user.k".to_vec(),
        value: vec![0, 11, 255],
    }]);
    b.add(dir("d"), b"");
    b.add(linked, &noise(1, 70_000));
    b.add(dir(&long[..202]), b"");
    b.add(file(&long, 3), b"odd");
    b.add(file("many", 1_000_000), &noise(3, 1_000_000));
    b.add(old, b"hi");
    b.add(symlink("s", "d/l1"), b"");
    b.add(entry("sock", EntryKind::Socket, 0o755), b"");
    b.add(second, &noise(1, 70_000));
    let id = b.commit();
    let o = b.open(id);
    let mut out = Vec::new();
    let report = dump::dump_tar(&o.repository, &o.lookup, &o.snapshot, &[], &mut out).unwrap();
    assert_eq!((report.entries, report.left_out.len()), (8, 1));
    let mut seen = Vec::new();
    let mut archive = tar::Archive::new(&out[..]);
    for e in archive.entries().unwrap() {
        let mut e = e.unwrap();
        let path = e.path_bytes().into_owned();
        let target = e.link_name_bytes().map(|t| t.into_owned());
        let mut content = Vec::new();
        e.read_to_end(&mut content).unwrap();
        let pax: BTreeMap<String, Vec<u8>> = match e.pax_extensions().unwrap() {
            Some(p) => p
                .map(|p| p.unwrap())
                .map(|p| (p.key().unwrap().into(), p.value_bytes().to_vec()))
                .collect(),
            None => BTreeMap::new(),
        };
        seen.push((path, e.header().entry_type(), target, content, pax));
    }
    let find = |p: &[u8]| {
        seen.iter()
            .find(|s| s.0 == p)
            .unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(p)))
    };
    assert_eq!(find(&long).3, b"odd");
    assert_eq!(find(&long).4["hdrcharset"], b"BINARY");
    assert!(find(b"d/l1").3 == noise(1, 70_000) && find(b"many").3 == noise(3, 1_000_000));
    assert_eq!(
        (find(b"z").1, find(b"z").2.as_deref()),
        (tar::EntryType::Link, Some(&b"d/l1"[..]))
    );
    assert_eq!(find(b"s").2.as_deref(), Some(&b"d/l1"[..]));
    assert_eq!(find(b"old").4["mtime"], b"-1.750000000");
    assert_eq!(find(b"old").4["SCHILY.xattr.user.k"], [0, 11, 255]);
    assert_eq!(find(b"d/").1, tar::EntryType::Directory);

    // The stock tool takes it, where there is one.
    let scratch = tempfile::tempdir().unwrap();
    std::fs::write(scratch.path().join("a.tar"), &out).unwrap();
    let run = std::process::Command::new("tar")
        .args(["xf", "a.tar"])
        .current_dir(scratch.path())
        .output();
    if let Ok(run) = run {
        assert!(
            run.status.success(),
            "{}",
            String::from_utf8_lossy(&run.stderr)
        );
        use std::os::unix::fs::MetadataExt;
        let at = |p: &str| scratch.path().join(p).symlink_metadata().unwrap();
        assert_eq!(at("z").ino(), at("d/l1").ino());
        assert_eq!(
            (at("many").mtime(), at("many").mtime_nsec()),
            (1_700_000_000, 123_456_789)
        );
    }
}

#[test]
fn stats_add_up() {
    let mut b = Builder::new(memory());
    b.add(file("a", 100_000), &noise(1, 100_000));
    b.add(file("b", 100_000), &noise(1, 100_000));
    let id = b.commit();
    let o = b.open(id);
    let s = browse::stats(&o.lookup, std::slice::from_ref(&o.snapshot)).unwrap();
    // The secret of the repository cuts the lists, in one chunk or in some.
    assert_eq!((s.snapshots, s.indexes), (1, 1));
    assert!((1..=2).contains(&s.packs), "{} packs", s.packs);
    assert_eq!((s.chunks[0], s.chunk_bytes[0]), (1, 100_000));
    assert!(s.chunks[1] >= 1, "{:?}", s.chunks);
    assert_eq!((s.snapshot_files, s.snapshot_bytes), (2, 200_000));
    assert!(s.pack_bytes > 100_000);
}

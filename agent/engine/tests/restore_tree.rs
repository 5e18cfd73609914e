//! Restores of honest snapshots: everything comes back as it was, again and again, into whatever stands there.

mod restore_common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink as make_symlink};
use std::path::{Path, PathBuf};

use keepwatch_engine::manifest::{
    Entry, EntryKind, FLAG_PARENT, FLAG_TORN, FileTime, Xattr, compare,
};
use keepwatch_engine::restore::{Overwrite, RestoreError};
use proptest::prelude::*;
use restore_common::*;

fn os(path: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(path.to_vec()))
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A small tree with a bit of everything; the stored content of each file with it.
fn sample() -> Vec<(Entry, Vec<u8>)> {
    let mut long = file([&b"a/"[..], &[b'n'; 255]].concat(), 3);
    long.mode = 0o600;
    let mut sparse = file("a/sparse", 10 << 20);
    sparse.holes = Some(vec![[0, 1 << 20], [(1 << 20) + 5000, 8 << 20]]);
    let sparse_content = noise(1, (10 << 20) - (9 << 20));
    let mut read_only = dir("ro");
    read_only.mode = 0o555;
    let mut closed = file("ro/closed", 4);
    closed.mode = 0o000;
    let mut xattr = file("x", 1);
    xattr.xattrs = Some(vec![
        Xattr {
            name: b"user.one".to_vec(),
            value: b"1".to_vec(),
        },
        Xattr {
            name: b"user.two".to_vec(),
            value: vec![0, 255, 7],
        },
    ]);
    let mut old = file("old", 0);
    old.mtime = time(-5, 999_999_999);
    let all = [
        (dir("a"), vec![]),
        (file("a/big", 3_500_000), noise(2, 3_500_000)),
        (dir("a/empty"), vec![]),
        (long, b"abc".to_vec()),
        (file(&b"a/not\xff\xfeutf8"[..], 5), b"bytes".to_vec()),
        (sparse, sparse_content),
        (entry("fifo", EntryKind::Fifo, 0o640), vec![]),
        (symlink("link", "a/big"), vec![]),
        (symlink("link-away", "/etc/passwd"), vec![]),
        (old, vec![]),
        (read_only, vec![]),
        (closed, b"shut".to_vec()),
        (entry("socket", EntryKind::Socket, 0o755), vec![]),
        (xattr, b"x".to_vec()),
    ];
    let mut all = all.to_vec();
    all.sort_by(|a, b| compare(&a.0.path, &b.0.path));
    all
}

fn build(entries: &[(Entry, Vec<u8>)]) -> (Builder, Opened) {
    let mut b = Builder::new(memory());
    for (e, content) in entries {
        b.add(e.clone(), content);
    }
    let id = b.commit();
    let opened = b.open(id);
    (b, opened)
}

fn with_holes(e: &Entry, stored: &[u8]) -> Vec<u8> {
    let mut out = vec![0; e.len() as usize];
    let (mut at, mut from) = (0usize, 0usize);
    for &[offset, length] in e.holes.iter().flatten() {
        let n = offset as usize - at;
        out[at..offset as usize].copy_from_slice(&stored[from..from + n]);
        from += n;
        at = (offset + length) as usize;
    }
    let n = out.len() - at;
    out[at..].copy_from_slice(&stored[from..from + n]);
    out
}

fn compare_tree(target: &Path, entries: &[(Entry, Vec<u8>)]) {
    let mut wanted: Vec<Vec<u8>> = Vec::new();
    for (e, content) in entries {
        let path = target.join(os(&e.path));
        let what = e.display();
        if e.kind() == EntryKind::Socket {
            assert!(path.symlink_metadata().is_err(), "{what}");
            continue;
        }
        wanted.push(e.path.clone());
        let m = path
            .symlink_metadata()
            .unwrap_or_else(|x| panic!("{what}: {x}"));
        assert_eq!(
            (m.mtime(), m.mtime_nsec() as u32),
            (e.mtime.seconds, e.mtime.nanoseconds),
            "{what}: time"
        );
        if e.kind() != EntryKind::Symlink {
            assert_eq!(m.mode() & 0o7777, e.mode & 0o1777, "{what}: mode");
        }
        if is_root() {
            assert_eq!((m.uid(), m.gid()), (e.uid, e.gid), "{what}: owner");
        }
        match e.kind() {
            EntryKind::File => {
                if e.mode & 0o400 != 0 || is_root() {
                    assert!(
                        fs::read(&path).unwrap() == with_holes(e, content),
                        "{what}: content"
                    );
                }
                if e.holes.is_some() {
                    assert!(
                        m.blocks() * 512 <= e.stored_len() + 64 * 1024,
                        "{what}: {} blocks",
                        m.blocks()
                    );
                }
                for x in e.xattrs.iter().flatten() {
                    let mut value = vec![0u8; 1024];
                    let n = rustix::fs::getxattr(&path, x.name.as_slice(), &mut value[..]).unwrap();
                    assert_eq!(value[..n], x.value, "{what}");
                }
            }
            EntryKind::Directory => assert!(m.is_dir()),
            EntryKind::Symlink => {
                assert_eq!(
                    fs::read_link(&path).unwrap().as_os_str().as_bytes(),
                    e.target.as_ref().unwrap().as_slice()
                )
            }
            EntryKind::Fifo => assert!(m.file_type().is_fifo()),
            _ => unreachable!(),
        }
    }
    assert_eq!(tree(target).len(), wanted.len(), "{:?}", tree(target));
    // Hard links: the same file within a group, different ones between groups.
    let mut groups: BTreeMap<[u64; 2], (u64, u64)> = BTreeMap::new();
    let mut count: BTreeMap<[u64; 2], u64> = BTreeMap::new();
    for (e, _) in entries {
        if let Some(link) = e.link {
            let m = target.join(os(&e.path)).symlink_metadata().unwrap();
            let first = *groups.entry(link).or_insert((m.ino(), m.nlink()));
            assert_eq!(first, (m.ino(), m.nlink()), "{}: link", e.display());
            *count.entry(link).or_default() += 1;
        }
    }
    for (link, n) in &count {
        assert_eq!(groups[link].1, *n, "links of {link:?}");
    }
    let inodes: std::collections::BTreeSet<u64> = groups.values().map(|g| g.0).collect();
    assert_eq!(inodes.len(), groups.len(), "groups are apart");
}

#[test]
fn everything_comes_back() {
    let entries = sample();
    let (_b, opened) = build(&entries);
    let scratch = tempfile::tempdir().unwrap();
    let target = scratch.path().join("new/target");
    let mut options = into(&target);
    options.verify = is_root();
    let report = opened.restore_well(&options);
    compare_tree(&target, &entries);
    assert_eq!(
        report.files_restored,
        entries
            .iter()
            .filter(|e| e.0.kind() == EntryKind::File)
            .count() as u64
    );
    assert_eq!(report.left_out_total, 1, "{:?}", report.left_out);
    if is_root() {
        assert_eq!(report.files_verified, report.files_restored);
    }
    // Again: nothing to do. With everything overwritten: the same.
    let report = opened.restore_well(&options);
    assert_eq!((report.files_restored, report.bytes_written), (0, 0));
    compare_tree(&target, &entries);
    options.overwrite = Overwrite::Always;
    opened.restore_well(&options);
    compare_tree(&target, &entries);
}

#[test]
fn a_dry_run_touches_nothing() {
    let entries = sample();
    let (_b, opened) = build(&entries);
    let scratch = tempfile::tempdir().unwrap();
    let mut options = into(&scratch.path().join("absent"));
    options.dry_run = true;
    options.delete = true;
    let report = opened.restore_well(&options);
    assert_eq!(
        report.files_restored,
        entries
            .iter()
            .filter(|e| e.0.kind() == EntryKind::File)
            .count() as u64
    );
    assert!(!options.target.exists());
    fs::create_dir(&options.target).unwrap();
    fs::write(options.target.join("other"), b"x").unwrap();
    opened.restore_well(&options);
    assert_eq!(tree(&options.target), ["other"]);
}

#[test]
fn hard_links_are_one_file_again() {
    let mut entries = Vec::new();
    let mut linked = |path: &str, group: u64| {
        let mut e = file(path, 700_000);
        e.link = Some([1, group]);
        entries.push((e, noise(group, 700_000)));
    };
    linked("a", 1);
    linked("b", 2);
    linked("c", 1);
    entries.push((dir("d"), vec![]));
    let mut e = file("d/x", 700_000);
    e.link = Some([1, 1]);
    entries.push((e, noise(1, 700_000)));
    let (_b, opened) = build(&entries);
    let scratch = tempfile::tempdir().unwrap();
    let at = scratch.path();
    let ino = |n: &str| at.join(n).metadata().unwrap().ino();
    for overwrite in [
        Overwrite::IfChanged,
        Overwrite::IfChanged,
        Overwrite::Always,
        Overwrite::Never,
    ] {
        let mut options = into(at);
        options.overwrite = overwrite;
        opened.restore_well(&options);
        compare_tree(at, &entries);
        assert!(ino("a") == ino("c") && ino("a") == ino("d/x") && ino("a") != ino("b"));
        assert_eq!(at.join("a").metadata().unwrap().nlink(), 3);
    }
    // The first one was lost: the others are right, and it becomes one of them.
    fs::remove_file(at.join("a")).unwrap();
    opened.restore_well(&into(at));
    assert!(ino("a") == ino("c") && ino("a") == ino("d/x"));
    compare_tree(at, &entries);
    // Never: what stands at the first name is something else, and nothing is linked to it.
    fs::remove_file(at.join("a")).unwrap();
    fs::write(at.join("a"), b"mine").unwrap();
    fs::remove_file(at.join("c")).unwrap();
    let mut options = into(at);
    options.overwrite = Overwrite::Never;
    opened.restore_well(&options);
    assert_eq!(fs::read(at.join("a")).unwrap(), b"mine");
    assert_eq!(fs::read(at.join("c")).unwrap(), noise(1, 700_000));
}

#[test]
fn overwrite_modes() {
    let (_b, opened) = build(&[(file("f", 5), b"saved".to_vec())]);
    let when = |t: FileTime| {
        std::time::UNIX_EPOCH + std::time::Duration::new(t.seconds as u64, t.nanoseconds)
    };
    let saved = time(1_700_000_000, 123_456_789);
    let (older, newer) = (time(1_600_000_000, 0), time(1_800_000_000, 0));
    for (overwrite, content, mtime, after) in [
        (Overwrite::Never, "other", older, "other"),
        (Overwrite::IfChanged, "other", saved, "other"),
        (Overwrite::IfChanged, "others", saved, "saved"),
        (Overwrite::IfChanged, "other", newer, "saved"),
        (Overwrite::IfNewer, "other", older, "saved"),
        (Overwrite::IfNewer, "other", newer, "other"),
        (Overwrite::Always, "other", saved, "saved"),
    ] {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("f");
        fs::write(&path, content).unwrap();
        fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(when(mtime))
            .unwrap();
        let mut options = into(scratch.path());
        options.overwrite = overwrite;
        let report = opened.restore_well(&options);
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            after,
            "{overwrite:?} {content} {mtime:?}"
        );
        assert_eq!(report.files_restored + report.files_skipped, 1);
        assert_eq!(report.files_restored == 1, after == "saved");
    }
}

#[test]
fn a_skipped_file_gets_its_mode() {
    let (_b, opened) = build(&[(file("f", 5), b"saved".to_vec())]);
    let scratch = tempfile::tempdir().unwrap();
    opened.restore_well(&into(scratch.path()));
    let path = scratch.path().join("f");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    let report = opened.restore_well(&into(scratch.path()));
    assert_eq!(report.files_skipped, 1);
    assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o644);
}

#[test]
fn delete_removes_only_what_was_restored_and_is_extra() {
    let mut parent = dir("home");
    parent.set_flag(FLAG_PARENT);
    let entries = [
        (parent, vec![]),
        (dir("home/me"), vec![]),
        (file("home/me/a", 1), vec![1]),
        (dir("home/me/sub"), vec![]),
        (file("home/me/sub/b", 1), vec![2]),
    ];
    let (_b, opened) = build(&entries);
    let scratch = tempfile::tempdir().unwrap();
    let at = scratch.path();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("precious"), b"x").unwrap();
    opened.restore_well(&into(at));
    let spoil = || {
        fs::write(at.join("top"), b"x").unwrap();
        fs::write(at.join("home/other"), b"x").unwrap();
        fs::write(at.join("home/me/extra"), b"x").unwrap();
        fs::write(at.join("home/me/extra.keep"), b"x").unwrap();
        fs::create_dir_all(at.join("home/me/sub/tree/deep")).unwrap();
        let _ = make_symlink(outside.path(), at.join("home/me/sub/tree/away"));
    };
    spoil();
    let mut options = into(at);
    options.delete = true;
    options.exclude = vec!["*.keep".into()];
    options.select = vec![b"/home/me/sub".to_vec()];
    let report = opened.restore_well(&options);
    assert_eq!(report.deleted, 3);
    assert!(at.join("home/me/extra").exists() && !at.join("home/me/sub/tree").exists());
    spoil();
    options.select.clear();
    options.dry_run = true;
    assert_eq!(opened.restore_well(&options).deleted, 2);
    options.dry_run = false;
    assert_eq!(opened.restore_well(&options).deleted, 4);
    assert_eq!(
        tree(at),
        [
            "home",
            "home/me",
            "home/me/a",
            "home/me/extra.keep",
            "home/me/sub",
            "home/me/sub/b",
            "home/other",
            "top"
        ]
    );
    assert!(outside.path().join("precious").exists());
}

#[test]
fn selection_makes_the_way_but_not_more() {
    let mut top = dir("top");
    top.mode = 0o711;
    let entries = [
        (top, vec![]),
        (file("top/a.txt", 1), vec![1]),
        (file("top/b.rs", 1), vec![2]),
        (dir("top/none"), vec![]),
        (dir("top/sub"), vec![]),
        (file("top/sub/c.txt", 1), vec![3]),
    ];
    let (_b, opened) = build(&entries);
    let run = |change: &dyn Fn(&mut keepwatch_engine::restore::Options)| {
        let scratch = tempfile::tempdir().unwrap();
        let mut options = into(scratch.path());
        change(&mut options);
        let report = opened.restore(&options).unwrap();
        (tree(scratch.path()), report, scratch)
    };
    let (names, _, scratch) = run(&|o| o.include = vec!["*.txt".into()]);
    assert_eq!(names, ["top", "top/a.txt", "top/sub", "top/sub/c.txt"]);
    assert_eq!(
        scratch.path().join("top").metadata().unwrap().mode() & 0o7777,
        0o711
    );
    let (names, _, _s) = run(&|o| o.select = vec![b"top/sub".to_vec()]);
    assert_eq!(names, ["top", "top/sub", "top/sub/c.txt"]);
    let (names, _, _s) = run(&|o| o.exclude = vec!["/top/sub".into()]);
    assert_eq!(names, ["top", "top/a.txt", "top/b.rs", "top/none"]);
    let (names, report, _s) = run(&|o| o.select = vec![b"nowhere".to_vec()]);
    assert!(names.is_empty());
    assert_eq!(report.problems_total, 1);
    // A directory above that was there is not altered.
    let scratch = tempfile::tempdir().unwrap();
    fs::create_dir(scratch.path().join("top")).unwrap();
    fs::set_permissions(
        scratch.path().join("top"),
        fs::Permissions::from_mode(0o750),
    )
    .unwrap();
    let mut options = into(scratch.path());
    options.select = vec![b"top/sub".to_vec()];
    opened.restore_well(&options);
    assert_eq!(
        scratch.path().join("top").metadata().unwrap().mode() & 0o7777,
        0o750
    );
}

#[test]
fn a_partial_restore_goes_on() {
    let entries: Vec<_> = (0..200)
        .map(|n| (file(format!("f{n:03}"), 1000), noise(n, 1000)))
        .collect();
    let (_b, opened) = build(&entries);
    let scratch = tempfile::tempdir().unwrap();
    opened.restore_well(&into(scratch.path()));
    for n in (0..200).step_by(3) {
        fs::remove_file(scratch.path().join(format!("f{n:03}"))).unwrap();
    }
    fs::write(scratch.path().join("f001"), b"half").unwrap();
    // What an interrupted run leaves, and what only looks like it.
    fs::write(
        scratch
            .path()
            .join(".keepwatch-0123456789abcdef01234567.tmp"),
        b"half",
    )
    .unwrap();
    fs::write(scratch.path().join(".keepwatch-mine.tmp"), b"mine").unwrap();
    let report = opened.restore_well(&into(scratch.path()));
    assert_eq!((report.files_restored, report.files_skipped), (68, 132));
    fs::remove_file(scratch.path().join(".keepwatch-mine.tmp")).unwrap();
    compare_tree(scratch.path(), &entries);
}

#[test]
fn cancelled_leaves_no_unfinished_files() {
    let entries: Vec<_> = (0..40)
        .map(|n| (file(format!("f{n:03}"), 3 << 20), noise(n, 3 << 20)))
        .collect();
    let (_b, opened) = build(&entries);
    struct Stop(
        keepwatch_engine::progress::Cancel,
        std::sync::atomic::AtomicU64,
    );
    impl keepwatch_engine::progress::Progress for Stop {
        fn event(&self, e: keepwatch_engine::progress::Event<'_>) {
            if let keepwatch_engine::progress::Event::Done { bytes: 1.., .. } = e {
                if self.1.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 20 {
                    self.0.cancel();
                }
            }
        }
    }
    let scratch = tempfile::tempdir().unwrap();
    let cancel = keepwatch_engine::progress::Cancel::new();
    let stop = Stop(cancel.clone(), Default::default());
    let e = keepwatch_engine::restore::run(
        &opened.repository,
        &opened.lookup,
        &opened.snapshot,
        &into(scratch.path()),
        &stop,
        &cancel,
    );
    assert!(matches!(e, Err(RestoreError::Cancelled(_))), "{e:?}");
    let left = tree(scratch.path());
    assert!(
        left.iter().all(|n| n.starts_with('f')) && left.len() < 40,
        "{left:?}"
    );
    for n in &left {
        assert_eq!(
            fs::read(scratch.path().join(n)).unwrap(),
            noise(n[1..].parse().unwrap(), 3 << 20)
        );
    }
    opened.restore_well(&into(scratch.path()));
    compare_tree(scratch.path(), &entries);
}

#[test]
fn no_room_is_said_before_anything_is_written() {
    let mut huge = file("huge", 0);
    huge.size = Some(1 << 60);
    huge.holes = Some(vec![[0, (1 << 60) - 5]]);
    let mut b = Builder::new(memory());
    b.add(huge, b"12345");
    b.totals.bytes = 1 << 60;
    let id = b.commit();
    let scratch = tempfile::tempdir().unwrap();
    // Mostly a hole: it is not space that is missing (but such a file cannot exist on every file system).
    let report = b.open(id).restore(&into(scratch.path())).unwrap();
    assert!(report.files_restored + report.problems_total == 1);

    let chunk = b.chunk(keepwatch_engine::ids::ChunkKind::Data, &noise(1, 1 << 20));
    let refs = vec![chunk; 1 << 20];
    b.add_refs(file("tera", 1 << 40), &refs);
    let id = b.commit();
    let scratch = tempfile::tempdir().unwrap();
    match b.open(id).restore(&into(scratch.path())) {
        Err(RestoreError::Space { needed, .. }) => assert_eq!(needed, 1 << 40),
        other => panic!("{other:?}"),
    }
    assert!(tree(scratch.path()).is_empty());
}

#[test]
fn a_file_of_many_windows_and_one_chunk() {
    let mut b = Builder::new(memory());
    let chunk = b.chunk(keepwatch_engine::ids::ChunkKind::Data, &noise(7, 100));
    b.add_refs(file("f", 20_000_000), &vec![chunk; 200_000]);
    let id = b.commit();
    let scratch = tempfile::tempdir().unwrap();
    let mut options = into(scratch.path());
    options.verify = true;
    b.open(id).restore_well(&options);
    let got = fs::read(scratch.path().join("f")).unwrap();
    assert!(got.chunks(100).all(|c| c == noise(7, 100)) && got.len() == 20_000_000);
}

#[test]
fn torn_files_are_noted() {
    let mut e = file("f", 1);
    e.set_flag(FLAG_TORN);
    let (_b, opened) = build(&[(e, vec![1])]);
    let scratch = tempfile::tempdir().unwrap();
    let report = opened.restore_well(&into(scratch.path()));
    assert!(
        report.left_out.iter().any(|p| p.path == b"f")
            && report.notes.iter().any(|n| n.contains("changed"))
    );
}

#[test]
fn what_needs_trust() {
    let mut suid = file("suid", 1);
    suid.mode = 0o6755;
    let mut security = file("security", 1);
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    security.xattrs = Some(vec![Xattr {
        name: b"security.capability".to_vec(),
        value: capability.to_vec(),
    }]);
    let mut device = entry("null", EntryKind::CharDevice, 0o666);
    device.device = Some([1, 3]);
    let entries = [(device, vec![]), (security, vec![1]), (suid, vec![2])];
    let (_b, opened) = build(&entries);
    let scratch = tempfile::tempdir().unwrap();
    let report = opened.restore_well(&into(scratch.path()));
    assert_eq!(report.left_out_total, 3, "{:?}", report.left_out);
    assert_eq!(
        scratch.path().join("suid").metadata().unwrap().mode() & 0o7777,
        0o755
    );
    assert!(!scratch.path().join("null").exists());
    let has = |at: &Path| {
        rustix::fs::getxattr(
            at.join("security"),
            "security.capability",
            &mut [0u8; 64][..],
        )
        .is_ok()
    };
    assert!(!has(scratch.path()));
    if !is_root() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let mut options = into(scratch.path());
    options.trust = true;
    let report = opened.restore(&options).unwrap();
    assert_eq!(report.left_out_total, 0, "{:?}", report.left_out);
    assert_eq!(
        scratch.path().join("suid").metadata().unwrap().mode() & 0o7777,
        0o6755
    );
    // A container may forbid devices.
    match scratch.path().join("null").metadata() {
        Ok(m) => assert_eq!(m.rdev(), rustix::fs::makedev(1, 3)),
        Err(_) => assert!(report.problems.iter().any(|p| p.path == b"null")),
    }
    assert!(has(scratch.path()) || !report.notes.is_empty());
}

#[test]
fn acls_and_owners_as_root() {
    if !is_root() {
        return;
    }
    let acl = |perm: u8| {
        let mut v = 2u32.to_le_bytes().to_vec();
        for (tag, perm, id) in [
            (1u16, 6u16, u32::MAX),
            (2, perm as u16, 12_345),
            (4, 4, u32::MAX),
            (0x10, 6, u32::MAX),
            (0x20, 0, u32::MAX),
        ] {
            v.extend(tag.to_le_bytes());
            v.extend(perm.to_le_bytes());
            v.extend(id.to_le_bytes());
        }
        v
    };
    let mut with = file("d/with", 1);
    with.mode = 0o660;
    with.xattrs = Some(vec![Xattr {
        name: b"system.posix_acl_access".to_vec(),
        value: acl(6),
    }]);
    let mut other = file("d/other", 1);
    (other.uid, other.gid) = (4321, 1234);
    let mut named = file("d/named", 1);
    (named.uid, named.user) = (77_777, Some("nobody".into()));
    let entries = [
        (dir("d"), vec![]),
        (named.clone(), vec![3]),
        (other, vec![1]),
        (with, vec![2]),
    ];
    let (_b, opened) = build(&entries);
    let scratch = tempfile::tempdir().unwrap();
    opened.restore_well(&into(scratch.path()));
    let mut value = [0u8; 256];
    let n = rustix::fs::getxattr(
        scratch.path().join("d/with"),
        "system.posix_acl_access",
        &mut value[..],
    )
    .unwrap();
    assert_eq!(value[..n], acl(6)[..]);
    let m = scratch.path().join("d/other").metadata().unwrap();
    assert_eq!((m.uid(), m.gid()), (4321, 1234));
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let nobody = passwd
        .lines()
        .find(|l| l.starts_with("nobody:"))
        .and_then(|l| l.split(':').nth(2))
        .map(|u| u.parse().unwrap());
    assert_eq!(
        scratch.path().join("d/named").metadata().unwrap().uid(),
        nobody.unwrap_or(77_777)
    );
    let mut options = into(scratch.path());
    options.numeric_ids = true;
    opened.restore_well(&options);
    assert_eq!(
        scratch.path().join("d/named").metadata().unwrap().uid(),
        77_777
    );
    // A target that hands down an ACL and a group: what is restored has what was recorded.
    let scratch = tempfile::tempdir().unwrap();
    rustix::fs::setxattr(
        scratch.path(),
        "system.posix_acl_default",
        &acl(7),
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o2770)).unwrap();
    rustix::fs::chown(scratch.path(), None, Some(rustix::fs::Gid::from_raw(999))).unwrap();
    opened.restore_well(&into(scratch.path()));
    assert!(
        rustix::fs::getxattr(
            scratch.path().join("d/other"),
            "system.posix_acl_access",
            &mut value[..]
        )
        .is_err()
    );
    assert!(
        rustix::fs::getxattr(
            scratch.path().join("d"),
            "system.posix_acl_default",
            &mut value[..]
        )
        .is_err()
    );
    let m = scratch.path().join("d").metadata().unwrap();
    assert_eq!((m.gid(), m.mode() & 0o7777), (entries[0].0.gid, 0o755));
}

/// A path of 4095 bytes and a depth of 2047 components.
#[test]
fn the_longest_and_the_deepest_paths() {
    for component in [&b"d"[..], &[b'x'; 254]] {
        let mut entries = Vec::new();
        let mut path = Vec::new();
        while path.len() + component.len() + 3 <= 4096 {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(component);
            entries.push((dir(&path), vec![]));
        }
        entries.push((file([&path[..], b"/f"].concat(), 1), vec![9]));
        let (_b, opened) = build(&entries);
        let scratch = tempfile::tempdir().unwrap();
        let report = opened.restore_well(&into(scratch.path()));
        assert_eq!(report.files_restored, 1);
        assert_eq!(report.directories as usize, entries.len() - 1);
        // tempfile cannot remove so deep a tree by path; rm can.
        assert!(
            std::process::Command::new("rm")
                .arg("-rf")
                .arg(scratch.path())
                .status()
                .unwrap()
                .success()
        );
    }
}

/// As another user, the whole round trip again: directories without rights, owners that cannot be given.
#[test]
fn without_root() {
    let entries = sample();
    let mut b = Builder::new(memory());
    for (e, content) in &entries {
        let mut e = e.clone();
        (e.uid, e.gid) = (0, 0);
        b.add(e, content);
    }
    let id = b.commit();
    let opened = b.open(id);
    let scratch = tempfile::tempdir().unwrap();
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let target = scratch.path().join("t");
    // Credentials are of a thread, and its children inherit them: a thread that becomes nobody is enough.
    std::thread::scope(|s| {
        s.spawn(|| {
            if is_root() {
                use rustix::thread::{set_thread_gid, set_thread_uid};
                set_thread_gid(rustix::fs::Gid::from_raw(65534)).unwrap();
                set_thread_uid(rustix::fs::Uid::from_raw(65534)).unwrap();
            }
            let report = opened.restore_well(&into(&target));
            assert!(
                report.notes.iter().any(|n| n.contains("owners")),
                "{:?}",
                report.notes
            );
            let again = opened.restore_well(&into(&target));
            assert_eq!(again.files_restored, 0);
            let mut options = into(&target);
            options.overwrite = Overwrite::Always;
            opened.restore_well(&options);
        });
    });
    if is_root() {
        let entries: Vec<_> = entries
            .into_iter()
            .map(|(mut e, c)| {
                (e.uid, e.gid) = (65534, 65534);
                (e, c)
            })
            .collect();
        compare_tree(&target, &entries);
    }
}

fn names() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => proptest::collection::vec(any::<u8>().prop_filter("no slash", |b| *b != b'/' && *b != 0), 1..12),
        1 => Just(vec![b'n'; 255]),
        1 => Just(b".keepwatch-0123456789abcdef01234567.tmp".to_vec()),
        1 => "[a-c]".prop_map(String::into_bytes),
    ]
    .prop_filter("no dots", |n| n != b"." && n != b"..")
}

#[derive(Clone, Debug)]
struct Thing {
    path: Vec<Vec<u8>>,
    kind: u8,
    mode: u32,
    mtime: FileTime,
    seed: u64,
    len: usize,
    link: Option<u64>,
    sparse: bool,
    xattr: bool,
}

fn things() -> impl Strategy<Value = Vec<Thing>> {
    let one = (
        proptest::collection::vec(names(), 1..4),
        0u8..6,
        0u32..0o1000,
        (-1_000_000_000i64..4_000_000_000, 0u32..1_000_000_000),
        0u64..40,
        prop_oneof![30 => 0usize..3000, 1 => 60_000usize..400_000],
        proptest::option::weighted(0.2, 0u64..3),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(
            |(path, kind, mode, (seconds, nanoseconds), seed, len, link, sparse, xattr)| Thing {
                path,
                kind,
                mode,
                mtime: FileTime {
                    seconds,
                    nanoseconds,
                },
                seed,
                len,
                link,
                sparse,
                xattr,
            },
        );
    proptest::collection::vec(one, 0..20)
}

/// Entries with their directories; content of linked files is that of their group.
fn entries_of(things: &[Thing]) -> Vec<(Entry, Vec<u8>)> {
    let mut out: BTreeMap<Vec<u8>, (Entry, Vec<u8>)> = BTreeMap::new();
    for t in things {
        let mut above = Vec::new();
        let mut blocked = false;
        for c in &t.path[..t.path.len() - 1] {
            if !above.is_empty() {
                above.push(b'/');
            }
            above.extend_from_slice(c);
            let here = out
                .entry(above.clone())
                .or_insert_with(|| (dir(&above), vec![]));
            if here.0.kind() != EntryKind::Directory {
                blocked = true;
                break;
            }
        }
        let path = t.path.join(&b'/');
        if blocked || out.contains_key(&path) {
            continue;
        }
        let made = match t.kind {
            0 => {
                let mut e = dir(&path);
                e.mode = t.mode;
                e.mtime = t.mtime;
                (e, vec![])
            }
            1 => {
                let mut e = symlink(&path, ["/", "a", "../../..", "a/b"][t.seed as usize % 4]);
                e.mtime = t.mtime;
                (e, vec![])
            }
            _ => {
                // Members of a group agree about everything but the path.
                let (seed, len, mode, mtime, sparse, xattr) = match t.link {
                    Some(l) => (
                        100 + l,
                        1000 * l as usize,
                        0o640,
                        time(l as i64, 5),
                        false,
                        false,
                    ),
                    None => (t.seed, t.len, t.mode, t.mtime, t.sparse, t.xattr),
                };
                let mut e = file(&path, len);
                e.mode = mode;
                e.mtime = mtime;
                e.link = t.link.map(|l| [9, l]);
                let mut stored = len;
                if sparse && len > 100_000 {
                    let hole = len as u64 / 3 / 4096 * 4096;
                    e.holes = Some(vec![[hole, hole], [len as u64 - 4096, 4096]]);
                    stored -= hole as usize + 4096;
                }
                if xattr {
                    e.xattrs = Some(vec![Xattr {
                        name: b"user.k".to_vec(),
                        value: noise(seed, 20),
                    }]);
                }
                (e, noise(seed, stored))
            }
        };
        out.insert(path, made);
    }
    let mut out: Vec<_> = out.into_values().collect();
    out.sort_by(|a, b| compare(&a.0.path, &b.0.path));
    out
}

/// I4: a thousand trees, more when `PROPTEST_CASES` says so.
fn trees() -> ProptestConfig {
    let given = ProptestConfig::default();
    ProptestConfig {
        cases: given.cases.max(1000),
        // A tree that does not come back is found again by its seed; making it smaller takes many more restores.
        max_shrink_iters: 200,
        ..given
    }
}

proptest! {
    #![proptest_config(trees())]
    #[test]
    fn any_tree_comes_back(things in things(), chunk in 500usize..100_000, verify in any::<bool>()) {
        let entries = entries_of(&things);
        let mut b = Builder::new(memory());
        b.chunk = chunk;
        b.pack = 200_000;
        for (e, content) in &entries {
            b.add(e.clone(), content);
        }
        let id = b.commit();
        let opened = b.open(id);
        let scratch = tempfile::tempdir().unwrap();
        let mut options = into(scratch.path());
        options.verify = verify && is_root();
        opened.restore_well(&options);
        compare_tree(scratch.path(), &entries);
        let again = opened.restore_well(&options);
        prop_assert_eq!(again.files_restored, 0);
        compare_tree(scratch.path(), &entries);
        if verify && is_root() {
            options.delete = true;
            options.overwrite = Overwrite::Always;
            opened.restore_well(&options);
            compare_tree(scratch.path(), &entries);
        }
        // Otherwise the scratch directory could not be removed.
        if !is_root() {
            let _ = std::process::Command::new("chmod").arg("-R").arg("u+rwx").arg(scratch.path()).status();
        }
    }
}

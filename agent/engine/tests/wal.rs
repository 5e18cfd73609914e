//! PostgreSQL's log in a repository: stored once, told apart, opened by readers only, kept as long as a base backup needs it; forged, damaged and failing stores.

mod common;

use std::sync::atomic::Ordering;

use common::*;
use keepwatch_engine::copy::{self, Options};
use keepwatch_engine::forget;
use keepwatch_engine::ids::{ObjectId, WalCluster};
use keepwatch_engine::object::{ContentError, ObjectError};
use keepwatch_engine::progress::{Cancel, Silent};
use keepwatch_engine::record::{self, RecordError, RecordKind};
use keepwatch_engine::records::{Ancestor, BaseBackup, WalHead};
use keepwatch_engine::repository::{CHUNKER, Repository};
use keepwatch_engine::seal::{AskNobody, ReaderIdentity, ReaderRecipient};
use keepwatch_engine::snapshots::{SnapshotFilter, SnapshotRecord};
use keepwatch_engine::store::{Area, Listed, Name, Store};
use keepwatch_engine::verify::{self, ReadData};
use keepwatch_engine::wal::{self, Head, NewWal, Pushed, WalError};
use keepwatch_engine::wal_file::WalFile;
use keepwatch_model::retention::{Count, Policy};
use keepwatch_model::time::Moment;
use proptest::prelude::*;

const SYSTEM: u64 = 7_312_345_678_901_234_567;

fn file(text: &str) -> WalFile {
    text.parse().unwrap()
}

fn segment(n: u64) -> WalFile {
    file(&format!("00000001{n:016X}"))
}

fn push(repo: &Repository, file: WalFile, content: &[u8]) -> Result<Pushed, WalError> {
    let new = NewWal {
        system: SYSTEM,
        file,
        content,
        ancestors: None,
        time: 1_000,
    };
    wal::push(repo, &new)
}

fn stored(pushed: Pushed) -> ObjectId {
    match pushed {
        Pushed::Stored(id) => id,
        Pushed::There(_) => panic!("it was there"),
    }
}

fn cluster(repo: &Repository) -> WalCluster {
    repo.hash().cluster(SYSTEM)
}

fn fetch(repo: &Repository, file: WalFile) -> Result<Option<Vec<u8>>, WalError> {
    wal::fetch(repo, cluster(repo), file, false)
}

fn sound(w: &World, repo: &Repository) -> Vec<String> {
    let report = verify::run(repo, None, ReadData::All, 0, &Silent, &Cancel::new()).unwrap();
    assert_eq!(report.wal_files as usize, w.count(Area::Wal));
    report.damages.into_iter().map(|d| d.object).collect()
}

/// A base backup that begins in a segment.
fn base(w: &World, repo: &Repository, n: u64, start: Moment) -> SnapshotRecord {
    base_after(w, repo, n, start, None)
}

/// One that is built on another.
fn base_after(
    w: &World,
    repo: &Repository,
    n: u64,
    start: Moment,
    below: Option<&SnapshotRecord>,
) -> SnapshotRecord {
    let mut d = Draftsman::new(repo);
    let mut body = d.content(&files(&[("base.tar", n, 900)]), "host", start);
    d.store_index();
    body.base = Some(BaseBackup {
        system: SYSTEM,
        timeline: 1,
        start: n << 24 | 40,
        segment: n,
        end: n << 24 | 300,
        version: "15".into(),
        with_wal: false,
        after: below
            .and_then(|s| s.body.base.as_ref())
            .map(BaseBackup::as_foundation),
    });
    let _ = w;
    commit(repo, &body)
}

#[test]
fn a_file_is_stored_once_and_only_a_reader_opens_it() {
    let w = World::new();
    let content = noise(1, 20_000);
    let id = stored(push(&w.repo, segment(3), &content).unwrap());
    assert_eq!(
        push(&w.repo, segment(3), &content).unwrap(),
        Pushed::There(id)
    );
    assert_eq!(w.count(Area::Wal), 1);
    let reader = w.reader();
    assert_eq!(fetch(&reader, segment(3)).unwrap().unwrap(), content);
    assert_eq!(fetch(&reader, segment(4)).unwrap(), None);
    assert_eq!(
        wal::fetch(&reader, reader.hash().cluster(5), segment(3), false).unwrap(),
        None
    );
    // Who writes cannot read, with all the keys that he has.
    assert!(matches!(
        fetch(&w.repo, segment(3)),
        Err(WalError::NeedsIdentity)
    ));
    let bytes = w.store.peek(&w.names(Area::Wal)[0]).unwrap();
    let at = record::length(&bytes).unwrap();
    assert!(w.repo.host().open(&bytes[at..], 1 << 20).is_err());
    assert!(!bytes.windows(16).any(|b| b == &content[..16]));
    // Another file under the same name is refused, and nothing is overwritten.
    let other = noise(2, 20_000);
    assert!(
        matches!(push(&w.repo, segment(3), &other), Err(WalError::Conflict { object, .. }) if object == id)
    );
    assert_eq!(w.count(Area::Wal), 1);
    for (length, ok) in [(0, false), (1, true)] {
        assert_eq!(push(&w.repo, segment(9), &vec![1; length]).is_ok(), ok);
    }
    assert!(sound(&w, &reader).is_empty() && sound(&w, &w.repo).is_empty());
}

#[test]
fn a_file_of_several_envelopes_and_a_history() {
    let w = World::new();
    let long = noise(3, (33 << 20) + 7);
    push(&w.repo, segment(1), &long).unwrap();
    let ancestors = vec![Ancestor {
        timeline: 1,
        switch: 0x500_0148,
    }];
    let new = NewWal {
        system: SYSTEM,
        file: file("00000002.history"),
        content: b"1\t0/5000148\tx\n",
        ancestors: Some(ancestors.clone()),
        time: 5,
    };
    wal::push(&w.repo, &new).unwrap();
    let reader = w.reader();
    assert!(fetch(&reader, segment(1)).unwrap().unwrap() == long);
    // The host reads the head without an identity.
    let mut listed = Vec::new();
    w.store.list(Area::Wal, &mut |l| listed.push(l)).unwrap();
    let heads: Vec<Head> = listed
        .iter()
        .map(|l| wal::head(&w.repo, l).unwrap())
        .collect();
    assert_eq!(
        heads.iter().find_map(|h| h.body.ancestors.clone()),
        Some(ancestors)
    );
    assert!(heads.iter().any(|h| h.body.envelopes.len() == 3));
    assert!(sound(&w, &reader).is_empty());
}

#[test]
fn every_flipped_bit_and_every_cut_is_found_and_the_next_push_heals() {
    let w = World::new();
    let content = noise(4, 900);
    push(&w.repo, segment(1), &content).unwrap();
    let name = w.names(Area::Wal).remove(0);
    let good = w.store.peek(&name).unwrap();
    let reader = w.reader();
    for at in (0..good.len() * 8).step_by(61) {
        let mut bytes = good.clone();
        bytes[at / 8] ^= 1 << (at % 8);
        w.store.tamper(&name, bytes);
        assert!(
            matches!(fetch(&reader, segment(1)), Err(WalError::Object(_))),
            "bit {at}"
        );
    }
    assert_eq!(sound(&w, &w.repo), [name.to_string()]);
    for length in (0..good.len()).step_by(97).chain([good.len() + 1]) {
        let mut bytes = good.clone();
        bytes.resize(length, 0);
        w.store.tamper(&name, bytes);
        assert!(
            matches!(fetch(&reader, segment(1)), Err(WalError::Object(_))),
            "length {length}"
        );
        let listed = Listed {
            name: name.clone(),
            size: length as u64,
            modified: w.store.now(),
        };
        assert!(wal::head(&w.repo, &listed).is_err());
    }
    stored(push(&w.repo, segment(1), &content).unwrap());
    assert_eq!(fetch(&reader, segment(1)).unwrap().unwrap(), content);
    assert_eq!(w.count(Area::Wal), 2);
}

/// Under any name, `bytes` are refused, for this reason.
fn refused(w: &World, file: WalFile, bytes: Vec<u8>, why: &dyn Fn(&ContentError) -> bool) {
    let id = ObjectId::of(&bytes);
    let name = Name::Wal(cluster(&w.repo), file, id);
    w.store.tamper(&name, bytes);
    match fetch(&w.reader(), file) {
        Err(WalError::Object(ObjectError::Content { cause, .. })) if why(&cause) => {}
        other => panic!("{other:?}"),
    }
    w.store.lose(&name);
}

#[test]
fn who_knows_all_public_keys_forges_nothing() {
    let w = World::new();
    push(&w.repo, segment(1), &noise(1, 500)).unwrap();
    push(&w.repo, segment(2), &noise(2, 500)).unwrap();
    let names = w.names(Area::Wal);
    let one = w.store.peek(&names[0]).unwrap();
    let two = w.store.peek(&names[1]).unwrap();
    let (at, at2) = (record::length(&one).unwrap(), record::length(&two).unwrap());
    let decode = |c: &ContentError| matches!(c, ContentError::Decode(_));
    // A file under another's name, or with another's content behind its head.
    refused(&w, segment(7), one.clone(), &decode);
    let mut mixed = one[..at].to_vec();
    mixed.extend_from_slice(&two[at2..]);
    refused(&w, segment(1 << 32), mixed.clone(), &decode);
    w.store.lose(&names[0]);
    refused(&w, segment(1), mixed, &|c| {
        matches!(c, ContentError::Hash | ContentError::Decode(_))
    });
    // Content that he seals himself, under a head that he signs himself.
    let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    let sealed = w.repo.recipient().seal(b"x");
    let writer = w.repo.writer().unwrap().id;
    let mut forged = record::write(
        RecordKind::Wal,
        w.repo.id(),
        writer,
        &key,
        &one[33..at - 64],
    );
    forged.extend_from_slice(&sealed);
    refused(&w, segment(1), forged, &|c| {
        matches!(c, ContentError::Record(RecordError::Signature))
    });
    // A record of another kind, or of another repository.
    let marks = record::write(RecordKind::Marks, w.repo.id(), writer, &key, b"x");
    refused(&w, segment(1), marks, &|c| {
        matches!(c, ContentError::Record(RecordError::Kind))
    });
    let elsewhere = World::new();
    push(&elsewhere.repo, segment(1), &noise(1, 500)).unwrap();
    let foreign = elsewhere
        .store
        .peek(&elsewhere.names(Area::Wal)[0])
        .unwrap();
    refused(&w, segment(1), foreign, &|c| {
        matches!(
            c,
            ContentError::Record(RecordError::UnknownSigner(_) | RecordError::Repository(_))
        )
    });
}

#[test]
fn two_that_archive_into_one_place_lose_nothing_and_are_told() {
    let w = World::new();
    let (other, _) = w.enroll(false);
    // Both look before the other has stored: as if their calls overlapped.
    let alone = w.fork();
    stored(push(&alone.repo, segment(1), b"theirs").unwrap());
    let name = alone.names(Area::Wal).remove(0);
    stored(push(&other, segment(1), b"ours").unwrap());
    w.store.tamper(&name, alone.store.peek(&name).unwrap());
    assert_eq!(w.count(Area::Wal), 2);
    assert!(matches!(
        fetch(&w.reader(), segment(1)),
        Err(WalError::Conflict { .. })
    ));
    // The same content twice is no conflict.
    let w = World::new();
    let alone = w.fork();
    stored(push(&alone.repo, segment(1), b"same").unwrap());
    let name = alone.names(Area::Wal).remove(0);
    stored(push(&w.repo, segment(1), b"same").unwrap());
    w.store.tamper(&name, alone.store.peek(&name).unwrap());
    assert_eq!(w.count(Area::Wal), 2);
    assert_eq!(fetch(&w.reader(), segment(1)).unwrap().unwrap(), b"same");
}

#[test]
fn a_revoked_writer_is_taken_only_when_named_and_cannot_block() {
    let w = World::new();
    let (thief, key) = w.enroll(false);
    push(&thief, segment(1), b"forged").unwrap();
    push(&thief, segment(2), b"good, before the theft").unwrap();
    w.reader().revoke_writer(key.id).unwrap();
    let w = w.fork();
    let reader = w.reader();
    assert!(matches!(
        fetch(&reader, segment(2)),
        Err(WalError::Revoked { .. })
    ));
    let taken = wal::fetch(&reader, cluster(&reader), segment(2), true).unwrap();
    assert_eq!(taken.unwrap(), b"good, before the theft");
    // The server's own segment goes in beside the forged one, and is what comes back.
    stored(push(&w.repo, segment(1), b"true").unwrap());
    assert_eq!(fetch(&reader, segment(1)).unwrap().unwrap(), b"true");
}

#[test]
fn a_store_that_fails_at_any_call_is_never_taken_for_an_end() {
    let w = World::new();
    for n in 1..5 {
        push(&w.repo, segment(n), &noise(n, 300)).unwrap();
    }
    let mut fired = 0;
    for at in 1..20 {
        for lose in [false, true] {
            let f = w.fork();
            let reader = f.reader();
            f.store.lose_answer.store(lose, Ordering::SeqCst);
            let now = f.store.operations.load(Ordering::SeqCst);
            f.store.fail_at.store(now + at, Ordering::SeqCst);
            match fetch(&reader, segment(3)) {
                Ok(found) => assert_eq!(found.unwrap(), noise(3, 300)),
                Err(e) => assert!(matches!(e, WalError::Object(ObjectError::Store(_))), "{e}"),
            }
            let before = f.store.operations.load(Ordering::SeqCst);
            f.store.fail_at.store(before + at, Ordering::SeqCst);
            let first = push(&f.repo, segment(9), b"new");
            f.store.fail_at.store(0, Ordering::SeqCst);
            fired += f.store.fired.load(Ordering::SeqCst);
            if first.is_ok() {
                assert_eq!(fetch(&reader, segment(9)).unwrap().unwrap(), b"new");
            }
            push(&f.repo, segment(9), b"new").unwrap();
            assert_eq!(fetch(&reader, segment(9)).unwrap().unwrap(), b"new");
        }
    }
    assert!(fired >= 8, "{fired}");
}

#[test]
fn prune_keeps_what_a_base_backup_needs_and_no_more() {
    let w = World::new();
    let start = w.moment();
    for n in 1..=9 {
        push(&w.repo, segment(n), &noise(n, 200)).unwrap();
    }
    push(&w.repo, file("00000002.history"), b"1\t0/5000148\tx\n").unwrap();
    push(&w.repo, file("000000020000000000000002"), &noise(50, 200)).unwrap();
    push(
        &w.repo,
        file("000000010000000000000003.00000028.backup"),
        b"START",
    )
    .unwrap();
    let other = NewWal {
        system: 5,
        file: segment(1),
        content: b"x",
        ancestors: None,
        time: 0,
    };
    wal::push(&w.repo, &other).unwrap();
    let total = w.count(Area::Wal);
    let left = |w: &World| -> Vec<u64> {
        let of = |n: &Name| match n {
            Name::Wal(c, WalFile::Segment(s), _) if *c == cluster(&w.repo) => Some(s.position),
            _ => None,
        };
        let mut out: Vec<u64> = w.names(Area::Wal).iter().filter_map(of).collect();
        out.sort_unstable();
        out
    };
    // No base backup yet: all of it may be needed.
    w.store.advance(LATER);
    w.prune(&options(HOUR)).unwrap();
    assert_eq!(w.count(Area::Wal), total);
    let first = base(&w, &w.repo, 3, start);
    let second = base(&w, &w.repo, 7, w.moment());
    // Within the grace period nothing goes.
    let r = w.prune(&options(LATER * 2)).unwrap();
    assert_eq!((r.wal_deleted, r.wal_kept as usize), (0, total));
    let dry = w.fork().prune(&prune_dry()).unwrap();
    let r = w.prune(&options(HOUR)).unwrap();
    assert_eq!(
        (r.wal_deleted, r.wal_bytes_freed),
        (dry.wal_deleted, dry.wal_bytes_freed)
    );
    // Whatever its timeline, what lies before every base backup goes; histories, labels that are needed, and other clusters stay.
    assert_eq!(left(&w), [3, 4, 5, 6, 7, 8, 9]);
    assert_eq!((r.wal_deleted as usize, w.count(Area::Wal)), (3, total - 3));
    // A forgotten one counts until its object goes.
    w.forget(&first);
    w.prune(&options(HOUR)).unwrap();
    assert_eq!(left(&w), [3, 4, 5, 6, 7, 8, 9]);
    w.store.advance(LATER);
    w.prune(&options(HOUR)).unwrap();
    assert_eq!(left(&w), [7, 8, 9]);
    // The last one forgotten: kept.
    w.forget(&second);
    w.store.advance(LATER);
    w.prune(&options(HOUR)).unwrap();
    assert_eq!(left(&w), [7, 8, 9]);
    assert!(sound(&w, &w.reader()).is_empty());
}

/// A chain of base backups: whatever is forgotten, none loses what it is built on, and none stays longer than it is needed.
#[test]
fn nothing_takes_away_what_a_base_backup_is_built_on() {
    let w = World::new();
    let full = base(&w, &w.repo, 3, w.moment());
    let first = base_after(&w, &w.repo, 4, w.moment(), Some(&full));
    let second = base_after(&w, &w.repo, 5, w.moment(), Some(&first));
    let other = base(&w, &w.repo, 6, w.moment());
    let live = || -> Vec<ObjectId> {
        let set = w.repo.snapshots().unwrap();
        assert!(set.problems.is_empty());
        let mut ids: Vec<ObjectId> = set.live.iter().map(|s| s.id).collect();
        ids.sort();
        ids
    };
    let sorted = |of: &[&SnapshotRecord]| {
        let mut ids: Vec<ObjectId> = of.iter().map(|s| s.id).collect();
        ids.sort();
        ids
    };
    // A policy that wants only the newest of the chain keeps the chain, and says why.
    let set = w.repo.snapshots().unwrap();
    let policy = Policy {
        last: Count::Limit(2),
        ..Policy::default()
    };
    let plan = forget::plan(&set, &policy, &[], &SnapshotFilter::default(), w.moment());
    assert!(plan.forgotten().is_empty());
    let why = plan.groups[0].decisions.iter().flat_map(|d| &d.reasons);
    assert_eq!(why.filter(|r| r.contains("incremental")).count(), 2);
    let named = |of: &[&SnapshotRecord]| forget::needed_by_others(&set, of);
    assert_eq!(named(&[&full]), Some(full.id));
    assert_eq!(named(&[&full, &first]), Some(full.id));
    assert_eq!(named(&[&full, &first, &second]), None);
    assert_eq!(named(&[&second]), None);
    // A tombstone that is written all the same has no effect, for however long.
    w.forget(&full);
    w.forget(&first);
    let all = sorted(&[&full, &first, &second, &other]);
    for _ in 0..2 {
        assert_eq!(live(), all);
        w.store.advance(LATER);
        assert_eq!(w.prune(&options(HOUR)).unwrap().snapshots_deleted, 0);
    }
    // With the last of the chain they go, and can be called back with it for the grace period.
    w.forget(&second);
    let again = w.fork();
    let report = again.prune(&options(HOUR)).unwrap();
    assert_eq!(
        report.snapshots_deleted, 0,
        "the grace period of the last counts"
    );
    w.store.advance(LATER);
    w.prune(&options(HOUR)).unwrap();
    w.store.advance(LATER);
    w.prune(&options(HOUR)).unwrap();
    let left = w.repo.snapshots().unwrap();
    assert!(left.live.iter().any(|s| s.id == other.id));
    let gone = [full.id, first.id, second.id];
    let mut there = left.live.iter().chain(&left.forgotten);
    assert!(!there.any(|s| gone.contains(&s.id)));
}

fn prune_dry() -> keepwatch_engine::prune::Options {
    keepwatch_engine::prune::Options {
        dry_run: true,
        ..options(HOUR)
    }
}

#[test]
fn prune_that_fails_anywhere_deletes_nothing_that_is_needed() {
    let w = World::new();
    for n in 1..=6 {
        push(&w.repo, segment(n), &noise(n, 200)).unwrap();
    }
    base(&w, &w.repo, 4, w.moment());
    w.store.advance(LATER);
    let mut failed = 0;
    for at in 1..60 {
        let f = w.fork();
        let now = f.store.operations.load(Ordering::SeqCst);
        f.store.fail_at.store(now + at, Ordering::SeqCst);
        f.store.fail_all_after.store(true, Ordering::SeqCst);
        failed += u64::from(f.prune(&options(HOUR)).is_err());
        f.store.fail_at.store(0, Ordering::SeqCst);
        for n in 4..=6 {
            assert_eq!(
                fetch(&f.reader(), segment(n)).unwrap().unwrap(),
                noise(n, 200),
                "call {at}"
            );
        }
        f.prune(&options(HOUR)).unwrap();
        assert_eq!(f.count(Area::Wal), 3);
    }
    assert!(failed > 5);
}

fn twin_of(from: &World) -> World {
    let store = std::sync::Arc::new(keepwatch_engine::store::memory::MemoryStore::new());
    let user = keepwatch_engine::seal::Identity::generate();
    let reader = ReaderRecipient::parse(&user.recipient().to_string(), &AskNobody).unwrap();
    let (repo, key) = Repository::init_with(
        store.clone(),
        &[(user_name(), reader)],
        "twin",
        CHUNKER,
        now(),
        Some(&from.reader()),
    )
    .unwrap();
    World {
        store,
        key,
        user,
        repo,
    }
}

#[test]
fn a_copy_has_the_log_of_its_base_backups() {
    let from = World::new();
    for n in 1..=6 {
        push(&from.repo, segment(n), &noise(n, 30_000)).unwrap();
    }
    let snapshot = base(&from, &from.repo, 3, from.moment());
    for (to, twins) in [(twin_of(&from), true), (World::new(), false)] {
        let source = match twins {
            true => Repository::open_as_twin(from.store.clone(), &to.repo).unwrap(),
            false => from.reader(),
        };
        let options = Options {
            level: 1,
            threads: 1,
            ..Options::default()
        };
        let copy_wal = |to: &World, dry_run| {
            let options = Options {
                dry_run,
                ..options.clone()
            };
            copy::wal::run(&source, &to.repo, &options, &Silent, &Cancel::new()).unwrap()
        };
        // Without a base backup there, nothing of the log is.
        assert_eq!(copy_wal(&to, false).copied, 0);
        let set = source.snapshots().unwrap();
        let chosen: Vec<&SnapshotRecord> =
            set.live.iter().filter(|s| s.id == snapshot.id).collect();
        copy::run(
            &source,
            &to.repo,
            &set,
            &chosen,
            &options,
            &|| to.moment(),
            &Silent,
            &Cancel::new(),
        )
        .unwrap();
        let copied = to.repo.snapshots().unwrap().live.remove(0);
        assert_eq!(copied.body.base, snapshot.body.base);
        assert_eq!(copy_wal(&to, true).copied, 4);
        assert_eq!(to.count(Area::Wal), 0);
        let r = copy_wal(&to, false);
        assert_eq!((r.copied, r.skipped, r.failed_total), (4, 0, 0));
        let r = copy_wal(&to, false);
        assert_eq!((r.copied, r.skipped), (0, 4));
        let reader = to.reader();
        for n in 3..=6 {
            assert_eq!(
                fetch(&reader, segment(n)).unwrap().unwrap(),
                noise(n, 30_000)
            );
        }
        assert!(sound(&to, &reader).is_empty());
        // A damaged one is named, and the others are copied.
        let again = match twins {
            true => twin_of(&from),
            false => World::new(),
        };
        let damaged = from
            .names(Area::Wal)
            .into_iter()
            .find(|n| n.to_string().contains("00000004"))
            .unwrap();
        let good = from.store.peek(&damaged).unwrap();
        from.store.tamper(&damaged, good[..good.len() - 1].to_vec());
        copy::run(
            &source,
            &again.repo,
            &set,
            &chosen,
            &options,
            &|| again.moment(),
            &Silent,
            &Cancel::new(),
        )
        .unwrap();
        let r = copy_wal(&again, false);
        assert_eq!((r.copied, r.failed_total, r.failed.len()), (3, 1, 1));
        from.store.tamper(&damaged, good);
    }
}

#[test]
fn damage_names_the_base_backups_that_it_hits() {
    let w = World::new();
    for n in 1..=6 {
        push(&w.repo, segment(n), &noise(n, 200)).unwrap();
    }
    let first = base(&w, &w.repo, 2, w.moment());
    base(&w, &w.repo, 5, w.moment());
    let damaged = w
        .names(Area::Wal)
        .into_iter()
        .find(|n| n.to_string().contains("00000004"))
        .unwrap();
    w.store.tamper(&damaged, b"x".to_vec());
    let r = verify::run(&w.repo, None, ReadData::No, 0, &Silent, &Cancel::new()).unwrap();
    assert_eq!(r.damages.len(), 1);
    assert_eq!(
        (&r.damages[0].object, &r.damages[0].snapshots),
        (&damaged.to_string(), &vec![first.id])
    );
    assert_eq!(r.bases.len(), 2);
}

#[test]
fn an_identity_of_another_opens_nothing() {
    let w = World::new();
    push(&w.repo, segment(1), b"x").unwrap();
    let stranger = keepwatch_engine::seal::Identity::generate();
    assert!(
        Repository::open_as_reader(w.store.clone(), &ReaderIdentity::native(&stranger), None)
            .is_err()
    );
}

proptest! {
    #[test]
    fn any_bytes_as_a_head_end_in_a_value_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = minicbor::decode::<WalHead>(&bytes);
        let _ = record::length(&bytes);
    }

    #[test]
    fn names_in_a_listing(text in "[0-9a-fA-F./a-z-]{0,130}") {
        if let Some(name) = Name::parse(Area::Wal, &text) {
            prop_assert_eq!(name.to_string(), format!("wal/{text}"));
        }
    }
}

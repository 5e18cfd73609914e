//! An attacker who writes the bucket and knows every public key: nothing that he makes, moves, alters or brings back is believed, and each refusal says why.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::*;
use ed25519_dalek::SigningKey;
use keepwatch_engine::envelope::compress_body;
use keepwatch_engine::forget;
use keepwatch_engine::ids::{OWNER, ObjectId, WriterId};
use keepwatch_engine::marks;
use keepwatch_engine::object::{ContentError, ObjectError};
use keepwatch_engine::progress::{Cancel, Silent};
use keepwatch_engine::prune::PruneError;
use keepwatch_engine::record::{self, RecordError, RecordKind};
use keepwatch_engine::records::{Forgotten, Index, Marks, Tombstone};
use keepwatch_engine::repository::Repository;
use keepwatch_engine::store::{Area, Name};
use keepwatch_engine::verify::{self, ReadData};

type Reason = Box<dyn Fn(&ContentError) -> bool>;

const AREAS: [(Area, RecordKind); 4] = [
    (Area::Snapshots, RecordKind::Snapshot),
    (Area::Index, RecordKind::Index),
    (Area::Tombstones, RecordKind::Tombstone),
    (Area::Marks, RecordKind::Marks),
];

/// A body that would do harm if it were believed, as CBOR.
fn harmful(w: &World, kind: RecordKind) -> Vec<u8> {
    let set = w.repo.snapshots().unwrap();
    match kind {
        RecordKind::Snapshot => {
            let mut s = set.live[0].body.clone();
            s.host = "forged".into();
            s.start.seconds += 1;
            minicbor::to_vec(&s).unwrap()
        }
        RecordKind::Index => minicbor::to_vec(Index::default()).unwrap(),
        RecordKind::Tombstone => {
            let snapshots = set
                .live
                .iter()
                .map(|s| Forgotten {
                    id: s.id,
                    writer: s.writer,
                    sequence: s.body.sequence,
                })
                .collect();
            minicbor::to_vec(Tombstone::new(0, snapshots, Vec::new())).unwrap()
        }
        _ => {
            let packs = w
                .names(Area::Packs)
                .iter()
                .filter_map(Name::object_id)
                .collect();
            minicbor::to_vec(&Marks { time: 0, packs }).unwrap()
        }
    }
}

/// What is refused in an area, and why.
fn refusals(repo: &Repository, area: Area) -> Vec<ObjectError> {
    match area {
        Area::Snapshots | Area::Tombstones => repo.snapshots().unwrap().problems,
        Area::Index => repo.load_index(None).unwrap().1,
        _ => marks::load(repo).err().into_iter().collect(),
    }
}

#[test]
fn a_thousand_forgeries_are_refused_with_the_right_reason() {
    let w = World::new();
    let a = files(&[("a", 1, 2_000)]);
    let b = files(&[("a", 1, 2_000), ("b", 2, 1_000)]);
    let gone = w.backup(&files(&[("old", 9, 500)]));
    w.backup(&a);
    w.backup(&b);
    w.forget(&gone);
    let body = Marks {
        time: w.moment().unix_seconds(),
        packs: Vec::new(),
    };
    w.repo.put_record(Area::Marks, &body).unwrap();
    let live: BTreeSet<ObjectId> = w
        .repo
        .snapshots()
        .unwrap()
        .live
        .iter()
        .map(|s| s.id)
        .collect();

    let other = World::new();
    let theirs = other.backup(&a);
    other.forget(&theirs);
    other.repo.put_record(Area::Marks, &body).unwrap();

    let mine = SigningKey::from_bytes(&[66; 32]);
    let writer = w.key.id;
    let mut dice = Dice::new(11);
    let mut tried: BTreeMap<(usize, u64), u32> = BTreeMap::new();
    for round in 0..1_000 {
        let at = round % AREAS.len();
        let (area, kind) = AREAS[at];
        let way = (round / AREAS.len()) as u64 % 8;
        let t = w.fork();
        let seal = |plain: &[u8]| w.repo.host_recipient().seal(&compress_body(plain));
        let own = |area: Area, world: &World, dice: &mut Dice| {
            let names = world.names(area);
            let name = names[dice.roll(names.len() as u64) as usize].clone();
            world.store.peek(&name).unwrap()
        };
        let mut under = None;
        let (bytes, right): (Vec<u8>, Reason) = match way {
            // Signed with a key of his own, under a name of his own.
            0 => {
                let me = WriterId([dice.roll(200) as u8 + 1; 8]);
                let sealed = seal(&harmful(&w, kind));
                let bytes = record::write(kind, w.repo.id(), me, &mine, &sealed);
                (
                    bytes,
                    Box::new(
                        move |c| matches!(c, ContentError::Record(RecordError::UnknownSigner(s)) if *s == me),
                    ),
                )
            }
            // Under the name of an enrolled writer.
            1 => {
                let sealed = seal(&harmful(&w, kind));
                let bytes = record::write(kind, w.repo.id(), writer, &mine, &sealed);
                (
                    bytes,
                    Box::new(|c| matches!(c, ContentError::Record(RecordError::Signature))),
                )
            }
            // As the owner.
            2 => {
                let sealed = seal(&harmful(&w, kind));
                let bytes = record::write(kind, w.repo.id(), OWNER, &mine, &sealed);
                (
                    bytes,
                    Box::new(|c| matches!(c, ContentError::Record(RecordError::UnknownSigner(_)))),
                )
            }
            // A true record, altered, under the hash of what it is now.
            3 => {
                let mut bytes = own(area, &w, &mut dice);
                let bit = dice.roll(bytes.len() as u64 * 8);
                bytes[bit as usize / 8] ^= 1 << (bit % 8);
                (bytes, Box::new(|c| matches!(c, ContentError::Record(_))))
            }
            // A true record under another name.
            4 => {
                under = Some(ObjectId([dice.roll(256) as u8; 32]));
                (
                    own(area, &w, &mut dice),
                    Box::new(|c| matches!(c, ContentError::Hash)),
                )
            }
            // A true record of another kind, whose name is its hash.
            5 => {
                let from = AREAS[(at + 1 + dice.roll(3) as usize) % AREAS.len()].0;
                (
                    own(from, &w, &mut dice),
                    Box::new(|c| matches!(c, ContentError::Record(RecordError::Kind))),
                )
            }
            // A true record of another repository: its writer is a stranger here.
            6 => (
                own(area, &other, &mut dice),
                Box::new(|c| {
                    matches!(
                        c,
                        ContentError::Record(
                            RecordError::UnknownSigner(_) | RecordError::Repository(_)
                        )
                    )
                }),
            ),
            // What our own writer signed for another repository.
            _ => {
                let sealed = seal(&harmful(&w, kind));
                let bytes = record::write(kind, other.repo.id(), writer, &w.key.signing, &sealed);
                let id = other.repo.id();
                (
                    bytes,
                    Box::new(
                        move |c| matches!(c, ContentError::Record(RecordError::Repository(r)) if *r == id),
                    ),
                )
            }
        };
        let id = under.unwrap_or_else(|| ObjectId::of(&bytes));
        let name = Name::hashed(area, id).unwrap();
        assert!(t.store.peek(&name).is_none());
        t.store.tamper(&name, bytes);
        let what = format!("round {round}: way {way}, {name}");

        let refused = refusals(&t.repo, area);
        assert_eq!(refused.len(), 1, "{what}");
        match &refused[0] {
            ObjectError::Content { object, cause } => {
                assert_eq!(*object, name.to_string());
                assert!(right(cause), "{what}: {cause}");
            }
            e => panic!("{what}: {e}"),
        }
        // It changed nothing that is believed.
        let set = t.repo.snapshots().unwrap();
        assert_eq!(
            set.live.iter().map(|s| s.id).collect::<BTreeSet<_>>(),
            live,
            "{what}"
        );
        // Prune refuses to go on beside it, verify names it.
        let before = t.store.names();
        let e = t.prune(&options(std::time::Duration::ZERO)).unwrap_err();
        assert!(matches!(e, PruneError::Unreadable(_)), "{what}: {e}");
        assert_eq!(t.store.names(), before);
        let r = verify::run(&t.repo, None, ReadData::No, 0, &Silent, &Cancel::new()).unwrap();
        assert_eq!(r.damages.len(), 1, "{what}: {:#?}", r.damages);
        assert_eq!(r.damages[0].object, name.to_string());
        *tried.entry((at, way)).or_default() += 1;
    }
    assert_eq!(tried.len(), 32);
}

#[test]
fn what_is_brought_back_does_no_harm() {
    let w = World::new();
    let a = files(&[("a", 1, 4_000), ("b", 2, 4_000)]);
    let b = files(&[("b", 2, 4_000)]);
    let first = w.backup(&a);
    let second = w.backup(&b);
    w.forget(&first);
    let kept: Vec<(Name, Vec<u8>)> = w
        .store
        .names()
        .into_iter()
        .map(|n| (n.clone(), w.store.peek(&n).unwrap()))
        .collect();
    w.store.advance(LATER);
    w.prune(&options(LATER / 2)).unwrap();
    let marks: Vec<(Name, Vec<u8>)> = w
        .names(Area::Marks)
        .into_iter()
        .map(|n| (n.clone(), w.store.peek(&n).unwrap()))
        .collect();
    assert!(!marks.is_empty());
    for _ in 0..2 {
        w.store.advance(LATER);
        w.prune(&options(LATER / 2)).unwrap();
    }
    assert!(w.names(Area::Marks).is_empty());
    // Yesterday's snapshot, index, tombstones and marks come back, but not the packs.
    for (name, bytes) in kept.iter().chain(&marks) {
        if !matches!(name, Name::Pack(_)) {
            w.store.tamper(name, bytes.clone());
        }
    }
    let set = w.repo.snapshots().unwrap();
    let live: Vec<ObjectId> = set.live.iter().map(|s| s.id).collect();
    assert_eq!(live, [second.id], "a forgotten snapshot stays forgotten");
    for _ in 0..3 {
        w.store.advance(LATER);
        w.prune(&options(LATER / 2)).unwrap();
        assert_eq!(restore(&w.reader(), &second).as_ref(), Ok(&b));
    }
    let r = verify::run(&w.reader(), None, ReadData::All, 0, &Silent, &Cancel::new()).unwrap();
    assert!(r.is_sound(), "{:#?}", r.damages);
}

/// Taking a key back must not take the backups with it, and must not stop prune.
#[test]
fn a_revoked_writers_backups_stay_and_its_tombstones_do_not_count() {
    let w = World::new();
    let (other, key) = w.enroll(true);
    let content = files(&[("x", 1, 900)]);
    let theirs = backup_as(&other, &content, "other", w.moment());
    let again = Repository::open_as_writer(w.store.clone(), &w.key).unwrap();
    let ours = backup_as(&again, &files(&[("y", 2, 900)]), "ours", w.moment());
    let reader = w.reader().snapshots().unwrap();
    assert_eq!(reader.live.len(), 2);
    forget::apply(
        &other,
        &[reader.live.iter().find(|s| s.id == ours.id).unwrap()],
        w.moment(),
    )
    .unwrap();
    assert_eq!(again.snapshots().unwrap().live.len(), 1);
    w.reader().revoke_writer(key.id).unwrap();
    let repo = Repository::open_as_writer(w.store.clone(), &w.key).unwrap();
    let set = repo.snapshots().unwrap();
    assert!(set.problems.is_empty(), "{:?}", set.problems);
    // What a thief may have forgotten is back; what he may have written is set apart.
    assert_eq!(set.live.len(), 2);
    assert!(set.live.iter().all(|s| s.revoked == (s.id == theirs.id)));
    let latest = set
        .select("latest", &Default::default(), w.moment())
        .unwrap();
    assert_eq!(latest.id, ours.id);
    let t = World {
        store: w.store.clone(),
        key: copy(&w.key),
        user: w.user.clone(),
        repo,
    };
    t.prune(&options(std::time::Duration::ZERO)).unwrap();
    assert_eq!(restore(&t.reader(), &theirs).as_ref(), Ok(&content));
    // It cannot be used to write any more.
    assert!(Repository::open_as_writer(w.store.clone(), &key).is_err());
}

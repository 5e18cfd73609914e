//! What every store must do: the contract of `keepwatch_engine::store`, as checks that run against any of them. Used by the tests of each store, those of other crates
//! too. A violation panics with what was expected.

#![allow(dead_code)]

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use keepwatch_engine::ids::{ObjectId, WalCluster, WriterId};
use keepwatch_engine::store::{Area, Fault, KeyName, Name, Store};

/// What is known of the store under test.
#[derive(Clone, Copy)]
pub struct Traits {
    /// It refuses to overwrite also when several writers race. A server may not; then only names that are no hashes are looked for first.
    pub creates_only: bool,
    /// How many objects are put to go beyond one page of a listing.
    pub many: usize,
}

fn names(bytes: &[u8]) -> Vec<Name> {
    let id = ObjectId::of(bytes);
    vec![
        Name::Config,
        Name::Key(KeyName::new("me").unwrap()),
        Name::Key(KeyName::new("A-b_c.9").unwrap()),
        Name::Writer(WriterId([7; 8]), false),
        Name::Writer(WriterId([7; 8]), true),
        Name::Pack(id),
        Name::Index(id),
        Name::Snapshot(id),
        Name::Tombstone(id),
        Name::Marks(id),
        Name::Wal(
            WalCluster([9; 8]),
            "000000010000000000000003".parse().unwrap(),
            id,
        ),
        Name::Wal(WalCluster([9; 8]), "00000002.history".parse().unwrap(), id),
    ]
}

fn listed(store: &dyn Store, area: Area) -> Vec<(Name, u64, SystemTime)> {
    let mut out = Vec::new();
    store
        .list(area, &mut |l| out.push((l.name, l.size, l.modified)))
        .unwrap();
    out.sort();
    out
}

/// Runs all checks. The store must be empty.
pub fn check(store: &dyn Store, traits: Traits) {
    absent(store);
    round_trip(store);
    create_only(store, traits);
    ranges(store);
    listings(store, traits);
    deletions(store);
    large(store);
    races(store, traits);
}

fn absent(store: &dyn Store) {
    for name in names(b"nothing") {
        for (what, e) in [
            ("get", store.get(&name, 100).err()),
            ("range", store.get_range(&name, 0, 1).err()),
            ("size", store.size(&name).err()),
        ] {
            let e = e.unwrap_or_else(|| panic!("{what} of the absent {name} succeeded"));
            assert_eq!(e.fault, Fault::Missing, "{what} {name}: {e}");
            assert!(e.to_string().contains(&name.to_string()), "{e}");
        }
        store.delete(&name).unwrap();
    }
    for area in Area::ALL {
        assert!(listed(store, area).is_empty());
    }
    assert!(!store.location().is_empty());
}

fn round_trip(store: &dyn Store) {
    let before = store.now();
    for (i, name) in names(b"content").into_iter().enumerate() {
        let bytes: Vec<u8> = if name.object_id().is_some() {
            b"content".to_vec()
        } else {
            (0..=i as u8).collect()
        };
        if i % 2 == 0 {
            store.put(&name, &bytes).unwrap();
        } else {
            store.put_owned(&name, bytes.clone()).unwrap();
        }
        assert_eq!(store.get(&name, 1000).unwrap(), bytes, "{name}");
        assert_eq!(store.get(&name, bytes.len() as u64).unwrap(), bytes);
        assert_eq!(store.size(&name).unwrap(), bytes.len() as u64);
        let e = store.get(&name, bytes.len() as u64 - 1).unwrap_err();
        assert_ne!(e.fault, Fault::Missing, "a limit that is too small: {e}");
    }
    let slack = Duration::from_secs(5);
    for (under, count) in [
        ("0909090909090909/", 2),
        ("0909090909090909/history/", 1),
        ("0909090909090909/0000000100000000/", 1),
        ("0909090909090909/0000000200000000/", 0),
        ("0808080808080808/", 0),
    ] {
        let mut there = Vec::new();
        store
            .list_under(Area::Wal, under, &mut |l| there.push(l.name))
            .unwrap();
        assert_eq!(there.len(), count, "{under}");
        assert!(there.iter().all(|n| n.to_string().contains(under)));
    }
    for area in Area::ALL {
        let there = listed(store, area);
        let expected: BTreeSet<Name> = names(b"content")
            .into_iter()
            .filter(|n| n.to_string().starts_with(&format!("{}/", area.prefix())))
            .collect();
        assert_eq!(
            there.iter().map(|l| l.0.clone()).collect::<BTreeSet<_>>(),
            expected
        );
        for (name, size, modified) in there {
            assert_eq!(size, store.size(&name).unwrap(), "{name}");
            let now = store.now();
            assert!(
                modified + slack >= before && modified <= now + slack,
                "{name} is dated {modified:?}, the store's clock went from {before:?} to {now:?}"
            );
        }
    }
}

fn create_only(store: &dyn Store, traits: Traits) {
    for name in names(b"content") {
        let before = store.get(&name, 1000).unwrap();
        let hashed = name.object_id().is_some();
        // The same again: a name that is a hash may be taken twice, since it cannot be other content.
        match store.put(&name, &before) {
            Err(e) => assert_eq!(e.fault, Fault::Exists, "{e}"),
            Ok(()) => assert!(hashed && !traits.creates_only, "{name} was put twice"),
        }
        if traits.creates_only || !hashed {
            let e = store.put(&name, b"other").unwrap_err();
            assert_eq!(e.fault, Fault::Exists, "{e}");
        }
        assert_eq!(store.get(&name, 1000).unwrap(), before, "{name}");
    }
}

fn ranges(store: &dyn Store) {
    let bytes: Vec<u8> = (0..10_000u32).flat_map(|i| i.to_le_bytes()).collect();
    let name = Name::Pack(ObjectId::of(&bytes));
    store.put(&name, &bytes).unwrap();
    for (at, n) in [
        (0, 1),
        (0, 40_000),
        (39_999, 1),
        (17, 4321),
        (20_000, 20_000),
    ] {
        assert_eq!(
            store.get_range(&name, at, n).unwrap(),
            bytes[at as usize..(at + n) as usize]
        );
    }
    for (at, n) in [
        (0, 40_001),
        (39_999, 2),
        (40_000, 1),
        (1 << 40, 1),
        (u64::MAX, 2),
    ] {
        let e = store.get_range(&name, at, n).unwrap_err();
        assert_ne!(e.fault, Fault::Missing, "{at}+{n}: {e}");
    }
    store.delete(&name).unwrap();
}

fn listings(store: &dyn Store, traits: Traits) {
    let all: Vec<Vec<u8>> = (0..traits.many)
        .map(|i| format!("object {i}").into_bytes())
        .collect();
    std::thread::scope(|scope| {
        for part in all.chunks(all.len().div_ceil(8).max(1)) {
            scope.spawn(move || {
                for bytes in part {
                    store.put(&Name::Pack(ObjectId::of(bytes)), bytes).unwrap();
                }
            });
        }
    });
    let there = listed(store, Area::Packs);
    let names: BTreeSet<_> = there.iter().map(|l| l.0.clone()).collect();
    assert_eq!(there.len(), names.len(), "an object is listed twice");
    assert_eq!(there.len(), traits.many + 1);
    for bytes in &all {
        assert!(names.contains(&Name::Pack(ObjectId::of(bytes))));
    }
    std::thread::scope(|scope| {
        for part in all.chunks(all.len().div_ceil(8).max(1)) {
            scope.spawn(move || {
                for bytes in part {
                    store.delete(&Name::Pack(ObjectId::of(bytes))).unwrap();
                }
            });
        }
    });
    assert_eq!(listed(store, Area::Packs).len(), 1);
}

fn deletions(store: &dyn Store) {
    for name in names(b"content") {
        store.delete(&name).unwrap();
        assert_eq!(store.get(&name, 1000).unwrap_err().fault, Fault::Missing);
        store.delete(&name).unwrap();
    }
    for area in Area::ALL {
        assert!(listed(store, area).is_empty());
    }
    // A name can be taken again.
    store.put(&Name::Config, b"again").unwrap();
    assert_eq!(store.get(&Name::Config, 10).unwrap(), b"again");
    store.delete(&Name::Config).unwrap();
    store.sweep(SystemTime::now()).unwrap();
}

fn large(store: &dyn Store) {
    let bytes: Vec<u8> = (0..20u32 << 20)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let name = Name::Pack(ObjectId::of(&bytes));
    store.put_owned(&name, bytes.clone()).unwrap();
    assert!(store.get(&name, 64 << 20).unwrap() == bytes);
    assert!(store.get_range(&name, 16 << 20, 1 << 20).unwrap() == bytes[16 << 20..17 << 20]);
    store.delete(&name).unwrap();
}

fn races(store: &dyn Store, traits: Traits) {
    for round in 0..4u8 {
        let name = if round % 2 == 0 {
            Name::Config
        } else {
            Name::Writer(WriterId([round; 8]), false)
        };
        let won: Vec<u8> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8u8)
                .map(|n| {
                    let name = &name;
                    scope.spawn(move || store.put(name, &[n; 64]).is_ok().then_some(n))
                })
                .collect();
            threads
                .into_iter()
                .filter_map(|t| t.join().unwrap())
                .collect()
        });
        let there = store.get(&name, 64).unwrap();
        assert!(
            there.iter().all(|b| *b == there[0]),
            "a mixture of two objects"
        );
        assert!(
            won.contains(&there[0]),
            "what is there was put by one who was told that he failed"
        );
        if traits.creates_only {
            assert_eq!(
                won.len(),
                1,
                "several writers were told that they created {name}"
            );
        }
        store.delete(&name).unwrap();
    }
}

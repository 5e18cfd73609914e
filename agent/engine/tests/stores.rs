//! The contract of a store, on the local one and the one in memory.

mod conformance;

use conformance::{Traits, check};
use keepwatch_engine::store::local::LocalStore;
use keepwatch_engine::store::memory::MemoryStore;

const TRAITS: Traits = Traits {
    creates_only: true,
    many: 2_100,
};

#[test]
fn memory() {
    check(&MemoryStore::new(), TRAITS);
}

#[test]
fn local() {
    let dir = tempfile::tempdir().unwrap();
    check(&LocalStore::create(&dir.path().join("r")).unwrap(), TRAITS);
}

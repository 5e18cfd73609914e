//! A store in memory, with faults on request: for tests and simulations only, next to tests with the real one.
//!
//! It counts operations, can fail every n-th one, can lose what was put without being acknowledged, and lets a test damage objects.

use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use super::{Area, Fault, Listed, Name, Store, StoreError};

/// See the module.
#[derive(Default)]
pub struct MemoryStore {
    objects: Mutex<BTreeMap<Name, (Vec<u8>, SystemTime)>>,
    /// Operations so far.
    pub operations: AtomicU64,
    /// Fails the operation with this number (counted from 1) and, if `fail_all_after`, all later ones. 0: never.
    pub fail_at: AtomicU64,
    /// See `fail_at`.
    pub fail_all_after: std::sync::atomic::AtomicBool,
    /// A failing put does its work before it fails: the answer was lost.
    pub lose_answer: std::sync::atomic::AtomicBool,
    /// How many faults fired: a fault that never fired fails the test.
    pub fired: AtomicU64,
    /// Added to the clock by which objects are dated.
    pub clock_offset: Mutex<Duration>,
    /// Names in the order of their puts and deletes, for tests of ordering.
    pub journal: Mutex<Vec<(&'static str, Name)>>,
}

impl MemoryStore {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }
    fn error(&self, verb: &'static str, object: String, fault: Fault, why: &str) -> StoreError {
        StoreError {
            verb,
            object,
            store: self.location(),
            fault,
            cause: io::Error::other(why.to_owned()),
        }
    }
    fn step(&self, verb: &'static str, object: &dyn std::fmt::Display) -> Result<(), StoreError> {
        let n = self.operations.fetch_add(1, Ordering::SeqCst) + 1;
        let at = self.fail_at.load(Ordering::SeqCst);
        if at != 0 && (n == at || (n > at && self.fail_all_after.load(Ordering::SeqCst))) {
            self.fired.fetch_add(1, Ordering::SeqCst);
            return Err(self.error(verb, object.to_string(), Fault::Other, "injected fault"));
        }
        Ok(())
    }
    /// Replaces or inserts bytes behind the engine's back, as an attacker or a failing disk would.
    pub fn tamper(&self, name: &Name, bytes: Vec<u8>) {
        let mut objects = self.objects.lock().unwrap_or_else(|e| e.into_inner());
        let when = objects.get(name).map_or_else(|| self.now(), |o| o.1);
        objects.insert(name.clone(), (bytes, when));
    }
    /// Removes an object behind the engine's back.
    pub fn lose(&self, name: &Name) {
        self.objects
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .remove(name);
    }
    /// The bytes, without counting as an operation.
    pub fn peek(&self, name: &Name) -> Option<Vec<u8>> {
        self.objects
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .get(name)
            .map(|o| o.0.clone())
    }
    /// All names.
    pub fn names(&self) -> Vec<Name> {
        self.objects
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .keys()
            .cloned()
            .collect()
    }
    /// An independent copy of the content, without faults.
    pub fn fork(&self) -> MemoryStore {
        MemoryStore {
            objects: Mutex::new(
                self.objects
                    .lock()
                    .unwrap_or_else(|e| e.into_inner())
                    .clone(),
            ),
            clock_offset: Mutex::new(*self.clock_offset.lock().unwrap_or_else(|e| e.into_inner())),
            ..MemoryStore::default()
        }
    }
    /// Lets time pass for the store.
    pub fn advance(&self, by: Duration) {
        *self.clock_offset.lock().unwrap_or_else(|e| e.into_inner()) += by;
    }
}

impl Store for MemoryStore {
    fn location(&self) -> String {
        "memory".into()
    }
    fn put(&self, name: &Name, bytes: &[u8]) -> Result<(), StoreError> {
        let step = self.step("write", name);
        if step.is_err() && !self.lose_answer.load(Ordering::SeqCst) {
            return step;
        }
        let now = self.now();
        let mut objects = self.objects.lock().unwrap_or_else(|e| e.into_inner());
        if objects.contains_key(name) {
            return Err(self.error("write", name.to_string(), Fault::Exists, "it exists"));
        }
        objects.insert(name.clone(), (bytes.to_vec(), now));
        self.journal
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .push(("put", name.clone()));
        step
    }
    fn get(&self, name: &Name, limit: u64) -> Result<Vec<u8>, StoreError> {
        self.step("read", name)?;
        let objects = self.objects.lock().unwrap_or_else(|e| e.into_inner());
        match objects.get(name) {
            None => Err(self.error(
                "read",
                name.to_string(),
                Fault::Missing,
                "there is no such object",
            )),
            Some((b, _)) if b.len() as u64 > limit => Err(self.error(
                "read",
                name.to_string(),
                Fault::Other,
                "it is longer than allowed for it",
            )),
            Some((b, _)) => Ok(b.clone()),
        }
    }
    fn get_range(&self, name: &Name, offset: u64, length: u64) -> Result<Vec<u8>, StoreError> {
        self.step("read", name)?;
        let objects = self.objects.lock().unwrap_or_else(|e| e.into_inner());
        let Some((b, _)) = objects.get(name) else {
            return Err(self.error(
                "read",
                name.to_string(),
                Fault::Missing,
                "there is no such object",
            ));
        };
        let end = offset.saturating_add(length);
        if end > b.len() as u64 {
            return Err(self.error(
                "read",
                name.to_string(),
                Fault::Other,
                "it is shorter than wanted",
            ));
        }
        Ok(b[offset as usize..end as usize].to_vec())
    }
    fn size(&self, name: &Name) -> Result<u64, StoreError> {
        self.step("read", name)?;
        let objects = self.objects.lock().unwrap_or_else(|e| e.into_inner());
        match objects.get(name) {
            None => Err(self.error(
                "read",
                name.to_string(),
                Fault::Missing,
                "there is no such object",
            )),
            Some((b, _)) => Ok(b.len() as u64),
        }
    }
    fn list(&self, area: Area, each: &mut dyn FnMut(Listed)) -> Result<(), StoreError> {
        self.step("list", &area.prefix())?;
        let listed: Vec<Listed> = {
            let objects = self.objects.lock().unwrap_or_else(|e| e.into_inner());
            objects
                .iter()
                .filter(|(n, _)| n.to_string().starts_with(&format!("{}/", area.prefix())))
                .map(|(n, (b, t))| Listed {
                    name: n.clone(),
                    size: b.len() as u64,
                    modified: *t,
                })
                .collect()
        };
        listed.into_iter().for_each(each);
        Ok(())
    }
    fn delete(&self, name: &Name) -> Result<(), StoreError> {
        self.step("delete", name)?;
        self.objects
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .remove(name);
        self.journal
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .push(("delete", name.clone()));
        Ok(())
    }
    fn sweep(&self, _: SystemTime) -> Result<u64, StoreError> {
        Ok(0)
    }
    fn now(&self) -> SystemTime {
        SystemTime::now() + *self.clock_offset.lock().unwrap_or_else(|e| e.into_inner())
    }
}

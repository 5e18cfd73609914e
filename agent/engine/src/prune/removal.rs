//! Deleting where the store may refuse: objects that are locked wait, missing rights are told. And prolonging the locks of what is needed.
//!
//! A lock ends. What it guards is put once and then relied on by every later snapshot that has the same content, so locks of needed objects are prolonged as soon as half of
//! their time is over: the newest snapshot must not stand on expired ones.

use std::cell::Cell;
use std::time::{Duration, SystemTime};

use crate::inventory::Inventory;
use crate::progress::Cancel;
use crate::repository::Repository;
use crate::store::{Area, Fault, Name};
use crate::wal::Needed;

use super::PruneError;
use super::mark::Needs;

/// Deletes, and counts what is locked.
pub(super) struct Removal<'a> {
    repository: &'a Repository,
    locked: Cell<u64>,
}

impl<'a> Removal<'a> {
    pub(super) fn new(repository: &'a Repository) -> Self {
        Removal {
            repository,
            locked: Cell::new(0),
        }
    }

    /// True when it is gone, false when it is locked: a later prune comes by again.
    pub(super) fn remove(&self, name: &Name) -> Result<bool, PruneError> {
        match self.repository.store().delete(name) {
            Ok(()) => Ok(true),
            Err(e) if e.fault == Fault::Locked => {
                tracing::info!("{e}");
                self.locked.set(self.locked.get() + 1);
                Ok(false)
            }
            Err(e) if e.fault == Fault::Denied => Err(PruneError::MayNotDelete(e)),
            Err(e) => Err(PruneError::Store(e)),
        }
    }

    pub(super) fn locked(&self) -> u64 {
        self.locked.get()
    }
}

/// Prolongs the locks of everything that snapshots need. Returns how many, and a note when it could not be done.
pub(super) fn renew(
    repository: &Repository,
    inventory: &Inventory,
    needs: &Needs,
    wal: &Needed,
    cancel: &Cancel,
) -> Result<(u64, Option<String>), PruneError> {
    let store = repository.store();
    let Some(time) = store.lock_time() else {
        return Ok((0, None));
    };
    let least = time / 2;
    let now = store.now();
    // What was put a short while ago was locked then; nothing is asked about it.
    let young = |modified: SystemTime| {
        now.duration_since(modified)
            .unwrap_or(Duration::ZERO)
            .saturating_add(least)
            < time
    };
    let mut renewed = 0;
    let mut one = |name: &Name| -> Result<Option<String>, PruneError> {
        cancel.check().map_err(|_| PruneError::Cancelled)?;
        match store.renew(name, least) {
            Ok(done) => {
                renewed += u64::from(done);
                Ok(None)
            }
            Err(e) if e.is_missing() => Ok(None),
            Err(e) => Ok(Some(format!(
                "the locks of what is needed could not be prolonged: {e}"
            ))),
        }
    };
    let mut problem = one(&Name::Config)?;
    for (n, p) in inventory.packs.iter().enumerate() {
        if problem.is_none() && needs.live[n] > 0 && p.is_sound() && !young(p.modified) {
            problem = one(&Name::Pack(p.id))?;
        }
    }
    for area in [
        Area::Keys,
        Area::Writers,
        Area::Index,
        Area::Snapshots,
        Area::Wal,
    ] {
        let mut old = Vec::new();
        store
            .list(area, &mut |l| {
                let needed = match l.name {
                    Name::Wal(cluster, file, _) => wal.has(cluster, file),
                    _ => true,
                };
                if needed && !young(l.modified) {
                    old.push(l.name);
                }
            })
            .map_err(PruneError::read)?;
        for name in old {
            if problem.is_none() {
                problem = one(&name)?;
            }
        }
    }
    Ok((renewed, problem))
}

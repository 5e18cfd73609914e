//! Snapshots that were committed while prune was at work.
//!
//! Where many hosts write to one repository, some backup always ends while prune reads, and a prune that waited for a quiet moment would never delete. So what has come is
//! read too: prune deletes unless a newcomer needs what it would delete, which takes a backup that ran for longer than the grace period. Newcomers of the newcomers are looked at as
//! well, [`ROUNDS`] times; after that only those are left that were committed within the last moments, and whose writers read the marks after the packs were marked.

use std::collections::HashSet;

use crate::ids::ObjectId;
use crate::inventory::Inventory;
use crate::snapshots::SnapshotRecord;
use crate::store::Area;

use super::{Plan, PruneError, Run, mark};

/// Times that it is looked for more.
const ROUNDS: usize = 3;

/// Why nothing may be deleted now.
#[derive(Debug)]
pub(super) enum Obstacle {
    /// A newcomer needs a pack that would go.
    Needed(ObjectId),
    /// It is not known what a newcomer needs.
    Unreadable(ObjectId, String),
}

impl std::fmt::Display for Obstacle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("packs that were to be deleted stay for this time: ")?;
        match self {
            Obstacle::Needed(id) => write!(
                f,
                "snapshot {}, which was made while prune was at work, needs one of them; was its backup longer than the grace period?",
                id.short()
            ),
            Obstacle::Unreadable(id, why) => write!(
                f,
                "it is not known what snapshot {} needs, which was made while prune was at work: {why}",
                id.short()
            ),
        }
    }
}

/// Looks at what came since `plan` was made, or since the last call. `None`: nothing of it stands in the way.
pub(super) fn look(run: &Run<'_>, plan: &mut Plan) -> Result<Option<Obstacle>, PruneError> {
    if plan.delete.is_empty() {
        return Ok(None);
    }
    for _ in 0..ROUNDS {
        let mut new = Vec::new();
        run.repository
            .store()
            .list(Area::Snapshots, &mut |l| {
                let id = l.name.object_id();
                new.extend(id.filter(|id| !plan.seen.contains(id)));
            })
            .map_err(PruneError::read)?;
        if new.is_empty() {
            break;
        }
        let mut records = Vec::new();
        for id in &new {
            match run.repository.snapshot(*id) {
                Ok(record) => records.push(record),
                Err(e) if e.is_missing() => {}
                Err(e) => return Ok(Some(Obstacle::Unreadable(*id, e.to_string()))),
            }
        }
        if let Some(obstacle) = need(run, plan, &records)? {
            return Ok(Some(obstacle));
        }
        plan.seen.extend(new);
    }
    Ok(None)
}

/// Whether one of these snapshots needs a pack that is to go. The index is loaded after the snapshots were listed, so it names all that they are made of.
fn need(
    run: &Run<'_>,
    plan: &Plan,
    snapshots: &[SnapshotRecord],
) -> Result<Option<Obstacle>, PruneError> {
    let (lookup, problems) = match run.repository.load_index(run.options.cache.as_deref()) {
        Ok(loaded) => loaded,
        Err(e) => return Err(PruneError::unreadable(e)),
    };
    let unread = problems.into_iter().find(|e| !e.is_missing());
    if let (Some(e), Some(s)) = (unread, snapshots.first()) {
        return Ok(Some(Obstacle::Unreadable(s.id, e.to_string())));
    }
    let inventory = Inventory::load(&**run.repository.store(), &lookup)?;
    let marked: HashSet<ObjectId> = plan.marks.iter().flat_map(|m| &m.packs).copied().collect();
    for s in snapshots {
        let one = std::iter::once(s);
        let needs = match mark::mark(
            run.repository,
            &lookup,
            &inventory,
            &marked,
            one,
            run.cancel,
        ) {
            Ok(needs) => needs,
            Err(e @ (PruneError::Cancelled | PruneError::Cache(_))) => return Err(e),
            Err(e) => return Ok(Some(Obstacle::Unreadable(s.id, e.to_string()))),
        };
        let needed = |n: &u32| {
            let pack = plan.inventory.packs[*n as usize].id;
            inventory
                .find(&pack)
                .is_some_and(|now| needs.live[now as usize] > 0)
        };
        if plan.delete.iter().any(needed) {
            return Ok(Some(Obstacle::Needed(s.id)));
        }
    }
    Ok(None)
}

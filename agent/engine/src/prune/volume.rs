//! Whether prune is about to give up most of a repository, and whether that is accounted for.
//!
//! What nothing needs is marked in the run that also deletes the forgotten snapshots which needed it. So in that run it is known why: what the snapshots that go now
//! needed is accounted for. The rest was needed by nothing that is there: rubbish of backups that broke off, or data of snapshots that vanished. Packs that no index
//! names are rubbish as long as there are snapshots at all: the index is written before the snapshot.

use std::collections::HashSet;

use crate::ids::ObjectId;
use crate::snapshots::SnapshotRecord;

use super::{Plan, PruneError, Run, mark};

/// Smaller repositories are not asked about: what they hold is soon backed up again.
pub const MANY_BYTES: u64 = 64 << 20;

/// The error to stop with, if it is. `kept`: the snapshots that stay; `dropped`: those that go now. Costs a second walk of all lists, in the unusual case only.
pub(super) fn unusual(
    run: &Run<'_>,
    plan: &Plan,
    kept: &[&SnapshotRecord],
    dropped: &[&SnapshotRecord],
    marked: &HashSet<ObjectId>,
) -> Result<Option<PruneError>, PruneError> {
    if run.options.allow_many {
        return Ok(None);
    }
    let of = plan.report.bytes_before;
    let packs = &plan.inventory.packs;
    // Number of the pack, and its bytes that nothing needs.
    let going = || {
        plan.mark.iter().chain(&plan.repack).map(|n| {
            let p = &packs[*n as usize];
            let live = plan.needs.live[*n as usize] as u64;
            let footer = if live > 0 { p.footer_bytes() } else { 0 };
            (*n, p.stored.unwrap_or(0).saturating_sub(live + footer))
        })
    };
    let bytes: u64 = going().map(|g| g.1).sum();
    let is_much = |bytes: u64| of > run.options.many_bytes && bytes > of / 2;
    if !is_much(bytes) {
        return Ok(None);
    }
    let rubbish = !kept.is_empty();
    let all = kept.iter().chain(dropped).copied();
    let (lookup, inventory) = (&plan.lookup, &plan.inventory);
    let walked = mark::mark(run.repository, lookup, inventory, marked, all, run.cancel);
    let needed = match walked {
        Ok(needs) => Some(needs),
        Err(PruneError::Cancelled) => return Err(PruneError::Cancelled),
        // A forgotten snapshot that is damaged accounts for nothing.
        Err(_) => None,
    };
    let explained: u64 = going()
        .map(|(n, bytes)| {
            if rubbish && !packs[n as usize].indexed {
                return bytes;
            }
            let Some(needed) = &needed else { return 0 };
            let before = needed.live[n as usize] as u64;
            let now = plan.needs.live[n as usize] as u64;
            before.saturating_sub(now).min(bytes)
        })
        .sum();
    let unexplained = bytes - explained;
    Ok(is_much(unexplained).then_some(PruneError::Unusual {
        bytes,
        unexplained,
        of,
    }))
}

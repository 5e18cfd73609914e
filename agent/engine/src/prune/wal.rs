//! The write-ahead log of PostgreSQL: what lies before the beginning of every base backup that is kept is deleted, once it is older than the grace period.
//!
//! One phase is enough. A base backup that is being made while we look needs WAL that was stored after it began, and that is younger than the grace period, which must be longer than
//! the longest backup. The first WAL of a cluster is pushed before its first base backup is there: as long as there is none, all is kept.

use crate::store::{Area, Name};
use crate::wal::Needed;

use super::removal::Removal;
use super::{Ages, PruneError, Report, Run};

/// The files to be deleted: 100 bytes each. Nothing is deleted yet.
pub(super) fn unneeded(
    run: &Run<'_>,
    needed: &Needed,
    ages: &Ages,
    report: &mut Report,
) -> Result<Vec<Name>, PruneError> {
    let mut out = Vec::new();
    run.repository
        .store()
        .list(Area::Wal, &mut |l| {
            let Name::Wal(cluster, file, _) = l.name else {
                return;
            };
            if needed.has(cluster, file) || !ages.is_old(l.modified, None) {
                report.wal_kept += 1;
            } else {
                report.wal_deleted += 1;
                report.wal_bytes_freed += l.size;
                out.push(l.name);
            }
        })
        .map_err(PruneError::read)?;
    Ok(out)
}

/// Deletes them, the oldest first: what is interrupted leaves no gap.
pub(super) fn delete(
    run: &Run<'_>,
    removal: &Removal<'_>,
    mut files: Vec<Name>,
    report: &mut Report,
) -> Result<(), PruneError> {
    files.sort_by_key(|n| match n {
        Name::Wal(cluster, file, _) => (Some(*cluster), file.position(), file.timeline()),
        _ => (None, None, 0),
    });
    for name in files {
        run.check()?;
        if !removal.remove(&name)? {
            report.wal_deleted -= 1;
            report.wal_kept += 1;
        }
    }
    Ok(())
}

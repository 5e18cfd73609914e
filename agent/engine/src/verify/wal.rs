//! The write-ahead log of PostgreSQL: every object's head, and with [`ReadData`] all of it. Whether files are missing is judged by those who know what they mean.

use crate::wal;
use crate::wal_file::WalFile;

use super::*;
use crate::store::Listed;

/// WAL files read whole at once, about 20 MiB each.
const READ_AT_ONCE: usize = 4;
/// Heads read at once, 16 KiB each.
const HEADS_AT_ONCE: usize = 64;

/// Looks at all of them. Memory: 150 bytes for each, 15 MB for a hundred thousand.
pub(super) fn examine(
    repository: &Repository,
    bases: &[SnapshotRecord],
    read: ReadData,
    seed: u64,
    findings: &mut Findings<'_>,
    cancel: &Cancel,
) -> Result<(), VerifyError> {
    let files = list_all(&**repository.store(), Area::Wal)?;
    if files.is_empty() {
        return Ok(());
    }
    findings.progress.event(Event::Phase("write-ahead log"));
    let percent = match read {
        ReadData::No => 0,
        ReadData::All => 100,
        ReadData::Percent(p) => u64::from(p.min(100)),
    };
    let (whole, heads): (Vec<Listed>, Vec<Listed>) = files.into_iter().partition(|l| {
        let id = l.name.object_id().map_or([0; 32], |i| i.0);
        let draw = blake3::Hasher::new()
            .update(&seed.to_le_bytes())
            .update(&id)
            .finalize();
        let draw = u64::from_le_bytes(draw.as_bytes()[..8].try_into().expect("eight bytes"));
        draw % 100 < percent
    });
    findings.report.wal_files = (whole.len() + heads.len()) as u64;
    let connections = repository.store().connections();
    let cores = std::thread::available_parallelism().map_or(2, |n| n.get());
    for (list, deep, at_once) in [
        (&heads, false, connections.clamp(1, HEADS_AT_ONCE)),
        (&whole, true, connections.max(cores).min(READ_AT_ONCE)),
    ] {
        for some in list.chunks(at_once) {
            cancel.check()?;
            let results = looked_at(repository, some, deep);
            for (listed, result) in some.iter().zip(results) {
                if deep {
                    findings.report.bytes_read += listed.size;
                }
                match result {
                    Ok(opened) => findings.report.envelopes_opened += opened,
                    Err(e) if e.is_missing() => {} // deleted by a prune meanwhile
                    Err(e) => damaged(repository, bases, findings, &listed.name, &e),
                }
            }
        }
    }
    Ok(())
}

/// Each file's number of envelopes opened, or what is wrong with it.
fn looked_at(
    repository: &Repository,
    files: &[Listed],
    deep: bool,
) -> Vec<Result<u64, ObjectError>> {
    let look = |listed: &Listed| -> Result<u64, ObjectError> {
        if !deep {
            return wal::head(repository, listed).map(|_| 0);
        }
        let (head, bytes) = wal::read(repository, &listed.name)?;
        if repository.reader().is_none() {
            return Ok(0);
        }
        wal::content(repository, &listed.name, &head, &bytes)?;
        Ok(head.body.envelopes.len() as u64)
    };
    if files.len() == 1 {
        return vec![look(&files[0])];
    }
    std::thread::scope(|scope| {
        let threads: Vec<_> = files.iter().map(|l| scope.spawn(|| look(l))).collect();
        threads
            .into_iter()
            .map(|t| t.join().unwrap_or_else(|p| std::panic::resume_unwind(p)))
            .collect()
    })
}

/// Of what use a base backup still is, `wal verify` says.
fn damaged(
    repository: &Repository,
    bases: &[SnapshotRecord],
    findings: &mut Findings<'_>,
    name: &Name,
    e: &ObjectError,
) {
    let damage = findings.object(e);
    let Name::Wal(cluster, WalFile::Segment(segment), _) = name else {
        return;
    };
    for s in bases {
        let hit = s.body.base.as_ref().is_some_and(|b| {
            repository.hash().cluster(b.system) == *cluster && b.segment <= segment.position
        });
        if hit {
            findings.hit(damage, s.id);
        }
    }
}

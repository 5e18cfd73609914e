//! `keepwatch catalog rebuild`: writes down afterwards, from the snapshots of repositories, which backups ran.
//!
//! A repository knows every backup that left a snapshot. It does not know failed runs, checks or restarts: those are gone
//! with the catalog. The id of a rebuilt run comes from its snapshot, so that rebuilding twice adds nothing, and a snapshot
//! whose own run is still known is left alone.

use keepwatch_model::history::Entry;
use keepwatch_model::ids::RunId;
use keepwatch_model::runs::{RunKind, RunOutcome, RunRecord, SnapshotFact, Trigger};

use crate::catalog::{Catalog, Recorded};

/// The run that must have made this snapshot.
pub fn run_of(fact: &SnapshotFact) -> RunRecord {
    let id = RunId::new(
        fact.started,
        digest(&[&fact.host, &fact.repository, &fact.snapshot]),
    );
    let mut run = RunRecord::begin(
        id,
        RunKind::Backup,
        &fact.host,
        fact.started,
        Trigger::Rebuilt,
    );
    run.job = fact.job.clone();
    run.repository = Some(fact.repository.clone());
    run.snapshot = Some(fact.snapshot.clone());
    run.finished = Some(fact.finished);
    // By the host's clock, which is all that a snapshot knows.
    let nanos = fact.finished.unix_nanos() - fact.started.unix_nanos();
    run.duration = u64::try_from(nanos / 1000)
        .ok()
        .map(std::time::Duration::from_micros);
    run.outcome = if fact.partial {
        RunOutcome::Partial
    } else {
        RunOutcome::Succeeded
    };
    run.totals = fact.totals.clone();
    run
}

/// Writes down the runs of these snapshots.
pub async fn import(catalog: &Catalog, facts: &[SnapshotFact]) -> Recorded {
    let mut sum = Recorded::default();
    for part in facts.chunks(1024) {
        let entries = part
            .iter()
            .map(|fact| Entry::Run(Box::new(run_of(fact))))
            .collect();
        let one = catalog.record(entries).await;
        sum.stored += one.stored;
        sum.known += one.known;
        sum.spooled += one.spooled;
        sum.lost += one.lost;
        sum.refused += one.refused;
    }
    sum
}

/// Ten bytes from texts (FNV-1a with 128 bits). It need not withstand forgery: whoever can forge a snapshot can put any run
/// into the list anyway.
fn digest(parts: &[&str]) -> [u8; 10] {
    let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0xff]));
    for byte in bytes {
        hash = (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
    }
    let mut out = [0; 10];
    out.copy_from_slice(&hash.to_be_bytes()[6..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_always_makes_the_same_run() {
        let fact = SnapshotFact {
            snapshot: "ab".into(),
            repository: "main".into(),
            host: "h".into(),
            job: Some("home".into()),
            started: "2026-11-22T04:20:24Z".parse().expect("a time"),
            finished: "2026-11-22T04:21:24.5Z".parse().expect("a time"),
            partial: true,
            totals: Default::default(),
        };
        let run = run_of(&fact);
        assert_eq!(run, run_of(&fact));
        assert_eq!(run.outcome, RunOutcome::Partial);
        assert_eq!(run.duration, Some(std::time::Duration::from_millis(60_500)));
        for other in [
            SnapshotFact {
                snapshot: "ac".into(),
                ..fact.clone()
            },
            SnapshotFact {
                repository: "mainab".into(),
                snapshot: String::new(),
                ..fact.clone()
            },
            SnapshotFact {
                host: "i".into(),
                ..fact.clone()
            },
        ] {
            assert_ne!(run_of(&other).id, run.id);
        }
        let backwards = SnapshotFact {
            finished: "2026-11-22T04:20:20Z".parse().expect("a time"),
            ..fact
        };
        assert_eq!(run_of(&backwards).duration, None, "the clock was set back");
    }
}

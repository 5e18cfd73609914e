//! `wal verify`: what of the log is missing, and what each base backup is good for. Also a part of `verify`.

use clap::Args;
use keepwatch_engine::ids::WalCluster;
use keepwatch_engine::object::ObjectError;
use keepwatch_engine::repository::Repository;
use keepwatch_engine::snapshots::SnapshotRecord;
use keepwatch_model::size::human_bytes;
use keepwatch_wal::gaps::{self, Base, ClusterReport, State};
use keepwatch_wal::log;
use serde_json::json;

use crate::clock;
use crate::context::Context;
use crate::errors::{Exit, Failure, Outcome};
use crate::output::{count, escape, print_after, print_json_after, tell};

/// Find gaps in the log, and base backups that cannot be restored
#[derive(Args)]
#[command(
    long_about = "Find gaps in the write-ahead log, and base backups that cannot be restored.\n\nLooks at names and heads only, needs no identity and is quick; 'keepwatch verify --read-data' reads the files as well. What is missing at the newest end is no gap that can be seen: watch the age of the newest file.",
    after_help = "Examples:
  keepwatch wal verify
  keepwatch wal verify --repo /mnt/disk/backup --json

Exit status 1: something is missing; it is listed with the base backups that it affects."
)]
pub struct VerifyArgs {}

/// `wal verify`.
pub fn run(context: &Context, _: &VerifyArgs) -> Outcome {
    let repository = context.open_any()?;
    let set = context.snapshots(&repository)?;
    let clusters = of(&repository, &set.live)?;
    let faulty = clusters.iter().filter(|c| !c.is_sound()).count() as u64;
    if context.json() {
        print_json_after(&json!({ "clusters": clusters, "sound": faulty == 0 }))?;
    } else {
        for c in &clusters {
            tell_faults(c);
        }
        if !context.globals.quiet {
            print_after(&summary(&clusters))?;
        }
    }
    if clusters.is_empty() && !context.json() {
        return Err(Failure::new(
            Exit::NothingFound,
            format!(
                "there is nothing of PostgreSQL's log in {}",
                repository.store().location()
            ),
        ));
    }
    match faulty {
        0 => Ok(Exit::Done),
        n => Err(failure(&repository, n)),
    }
}

/// Judges every cluster of which there is a log or a base backup.
pub fn of(
    repository: &Repository,
    snapshots: &[SnapshotRecord],
) -> Result<Vec<ClusterReport>, ObjectError> {
    let mut logs = log::load(repository, None)?;
    for s in snapshots {
        if let Some(base) = &s.body.base {
            let cluster = repository.hash().cluster(base.system);
            logs.entry(cluster).or_default();
        }
    }
    Ok(logs
        .iter()
        .map(|(cluster, log)| gaps::judge(*cluster, log, &bases(repository, snapshots, *cluster)))
        .collect())
}

/// The base backups of a cluster, oldest first.
pub fn bases<'a>(
    repository: &Repository,
    snapshots: impl IntoIterator<Item = &'a SnapshotRecord>,
    cluster: WalCluster,
) -> Vec<Base> {
    snapshots
        .into_iter()
        .filter_map(|s| {
            let body = s.body.base.clone()?;
            (repository.hash().cluster(body.system) == cluster).then(|| Base {
                snapshot: s.id,
                time: s.start.to_string(),
                done: s.end.unix_seconds(),
                revoked: s.revoked,
                body,
            })
        })
        .collect()
}

/// As many of each are told to people; JSON has more.
const SHOWN: usize = 20;

/// What is wrong, a line each.
pub fn tell_faults(c: &ClusterReport) {
    for gap in c.gaps.iter().take(SHOWN) {
        let what = match gap.segments {
            1 => format!("{} is missing", gap.first),
            n => format!(
                "{n} segments from {} to {} are missing",
                gap.first, gap.last
            ),
        };
        let hit: Vec<String> = gap
            .snapshots
            .iter()
            .take(SHOWN)
            .map(|s| s.short())
            .collect();
        let hit = match hit.is_empty() {
            true => String::new(),
            false => format!("; no restore beyond from {}", hit.join(", ")),
        };
        tell(&format!("gap: cluster {}: {what}{hit}", name(c)));
    }
    if c.gaps_total > SHOWN as u64 {
        tell(&format!(
            "gap: cluster {}: {} gaps in all",
            name(c),
            c.gaps_total
        ));
    }
    for b in c.bases.iter().filter(|b| !b.restorable).take(SHOWN) {
        if b.base_missing {
            tell(&format!(
                "lost: incremental base backup {} of {}: one that it is built on is not there",
                b.snapshot.short(),
                escape(&b.time)
            ));
            continue;
        }
        tell(&format!(
            "lost: base backup {} of {}: the log from {} to {}, without which it is not consistent, is not all there",
            b.snapshot.short(),
            escape(&b.time),
            b.start,
            b.end
        ));
    }
    for p in c.problems.iter().take(SHOWN) {
        tell(&format!("problem: cluster {}: {}", name(c), escape(p)));
    }
    if c.state == State::Gaps {
        let since = c.recoverable_from.and_then(clock::from_unix);
        let since = since.map_or_else(String::new, |t| {
            format!(", and every moment since {}", t.short())
        });
        tell(&format!(
            "warning: cluster {}: this hits older base backups only; the end of the log can be recovered{since}",
            name(c)
        ));
    }
}

/// Its end.
pub fn failure(repository: &Repository, clusters: u64) -> Failure {
    Failure::failed(format!(
        "PostgreSQL's log of {} in {} is not whole",
        count(clusters, "cluster", "clusters"),
        repository.store().location()
    ))
    .advice("if the segments still exist in pg_wal or elsewhere, push them: 'keepwatch wal push PATH'. Else make a new base backup now ('keepwatch wal backup'), and find out why they were not archived")
}

fn name(c: &ClusterReport) -> String {
    c.system.clone().unwrap_or_else(|| c.cluster.to_string())
}

/// What there is of each cluster, for people.
pub fn summary(clusters: &[ClusterReport]) -> String {
    let mut out = String::new();
    for c in clusters {
        out += &format!(
            "cluster {}: {} of the log, {}; {}",
            name(c),
            count(c.files, "file", "files"),
            human_bytes(c.bytes),
            count(c.bases.len() as u64, "base backup", "base backups")
        );
        if let Some(t) = c.newest.and_then(|s| clock::from_unix(s as i64)) {
            out += &format!("; newest segment stored {}", t.short());
        }
        out += "\n";
        for t in &c.timelines {
            out += &format!(
                "  timeline {}: {} to {}, {}\n",
                t.timeline,
                t.first,
                t.last,
                count(t.segments, "segment", "segments")
            );
        }
        for b in &c.bases {
            out += &format!(
                "  {}base backup {} of {}, PostgreSQL {}: {}\n",
                if b.incremental { "incremental " } else { "" },
                b.snapshot.short(),
                escape(&b.time),
                escape(&b.version),
                match (b.restorable, b.complete) {
                    (false, _) => "cannot be restored",
                    (true, false) => "can be restored up to a gap",
                    (true, true) => "can be restored to the end of the log",
                }
            );
        }
    }
    out
}

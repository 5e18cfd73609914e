//! `snapshots`: what there is.

use clap::Args;
use keepwatch_engine::snapshots::SnapshotRecord;
use keepwatch_model::size::human_bytes;
use keepwatch_wal::lsn::Lsn;
use serde_json::{Value, json};

use crate::context::Context;
use crate::errors::{Exit, Outcome};
use crate::output::{Align, Out, Table, print_json, thousands};
use crate::select::FilterArgs;

/// List snapshots
#[derive(Args)]
#[command(
    long_about = "List snapshots. The writing host can do this without an identity.",
    after_help = "Examples:
  keepwatch snapshots
  keepwatch snapshots --repo /mnt/disk/backup --host web1 --latest 5
  keepwatch snapshots --json"
)]
pub struct SnapshotsArgs {
    #[command(flatten)]
    pub filter: FilterArgs,
    /// Only the newest so many of each host and job
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub latest: Option<u32>,
    /// Also those that were forgotten and that prune has not deleted yet
    #[arg(long)]
    pub forgotten: bool,
}

/// The verb.
pub fn run(context: &Context, args: &SnapshotsArgs) -> Outcome {
    let repository = context.open_any()?;
    let set = context.snapshots(&repository)?;
    let filter = args.filter.filter();
    let mut shown: Vec<(&SnapshotRecord, bool)> = set.live.iter().map(|s| (s, false)).collect();
    if args.forgotten {
        shown.extend(set.forgotten.iter().map(|s| (s, true)));
        shown.sort_by_key(|(s, _)| (s.start, s.id));
    }
    shown.retain(|(s, _)| filter.matches(s));
    if let Some(n) = args.latest {
        let mut left = std::collections::HashMap::new();
        let mut kept: Vec<_> = shown
            .into_iter()
            .rev()
            .filter(|(s, _)| {
                let left = left
                    .entry((s.body.host.clone(), s.body.job.clone()))
                    .or_insert(n);
                let keep = *left > 0;
                *left = left.saturating_sub(1);
                keep
            })
            .collect();
        kept.reverse();
        shown = kept;
    }
    if context.json() {
        let list: Vec<Value> = shown
            .iter()
            .map(|(s, forgotten)| record_json(s, *forgotten))
            .collect();
        print_json(
            &json!({ "snapshots": list, "unreadable": set.problems.iter().map(ToString::to_string).collect::<Vec<_>>() }),
        )?;
    } else if shown.is_empty() {
        context.note("There are no snapshots yet, or none that fits.");
    } else {
        let mut out = Out::new();
        out.table(&table(&shown))?;
        out.flush()?;
    }
    Ok(Exit::Done)
}

/// As people read them.
pub fn table(shown: &[(&SnapshotRecord, bool)]) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("ID", Left),
        ("TIME", Left),
        ("HOST", Left),
        ("JOB", Left),
        ("TAGS", Left),
        ("FILES", Right),
        ("SIZE", Right),
        ("ADDED", Right),
        ("OUTCOME", Left),
        ("PATHS", Left),
    ]);
    for (s, forgotten) in shown {
        let t = &s.body.totals;
        let mut outcome = if s.is_complete() {
            "succeeded"
        } else {
            "partial"
        }
        .to_owned();
        if *forgotten {
            outcome += ", forgotten";
        }
        if s.body.original.is_some() {
            outcome += ", copy";
        }
        if s.revoked {
            outcome += ", writer revoked";
        }
        table.row(&[
            s.id.short(),
            s.start.short(),
            s.body.host.clone(),
            s.body.job.clone().unwrap_or_default(),
            s.body.tags.join(","),
            thousands(t.files),
            human_bytes(t.bytes),
            human_bytes(t.bytes_added),
            outcome,
            s.paths().join(" "),
        ]);
    }
    table
}

/// As programs read one.
pub fn record_json(s: &SnapshotRecord, forgotten: bool) -> Value {
    json!({
        "id": s.id,
        "short_id": s.id.short(),
        "time": s.start,
        "end": s.end,
        "host": s.body.host,
        "user": s.body.user,
        "job": s.body.job,
        "tags": s.body.tags,
        "paths": s.paths(),
        "source": if s.body.source == 1 { "stream" } else { "files" },
        "outcome": if s.is_complete() { "succeeded" } else { "partial" },
        "totals": s.body.totals,
        "writer": s.writer,
        "sequence": s.body.sequence,
        "previous": s.body.previous,
        "program": s.body.program,
        "original": s.body.original.map(|o| json!({ "repository": o.repository, "snapshot": o.snapshot })),
        // Of a base backup of PostgreSQL.
        "base": s.body.base.as_ref().map(|b| json!({
            "system": b.system.to_string(),
            "timeline": b.timeline,
            "start_lsn": Lsn(b.start).to_string(),
            "end_lsn": Lsn(b.end).to_string(),
            "version": b.version,
            "with_wal": b.with_wal,
        })),
        "forgotten": forgotten,
        "writer_revoked": s.revoked,
    })
}

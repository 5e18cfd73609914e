//! `diff`: what changed from one snapshot to another.

use std::io;

use clap::Args;
use keepwatch_engine::browse::{self, Change, ChangeKind};
use keepwatch_model::size::human_bytes;
use serde_json::{Value, json};

use super::ls::entry_json;
use crate::clock;
use crate::context::Context;
use crate::errors::{Exit, Failure, Outcome};
use crate::output::{JsonStream, Out, escape, escape_bytes, plain, put_path, tell, thousands};
use crate::select::{FilterArgs, pick};

/// Show what changed between two snapshots
#[derive(Args)]
#[command(
    long_about = "Show what changed from the first snapshot to the second. Needs an identity.\n\n+ added, - removed, M content changed, U only metadata changed, T another kind of file.",
    after_help = "Examples:
  keepwatch diff 3f2a91c0 latest
  keepwatch diff '2 days ago' latest --json"
)]
pub struct DiffArgs {
    /// The earlier snapshot
    #[arg(value_name = "SNAPSHOT")]
    pub from: String,
    /// The later snapshot
    #[arg(value_name = "SNAPSHOT", default_value = "latest")]
    pub to: String,
    #[command(flatten)]
    pub filter: FilterArgs,
}

fn mark(kind: ChangeKind) -> char {
    match kind {
        ChangeKind::Added => '+',
        ChangeKind::Removed => '-',
        ChangeKind::Modified => 'M',
        ChangeKind::Metadata => 'U',
        ChangeKind::TypeChanged => 'T',
    }
}

/// The verb.
pub fn run(context: &Context, args: &DiffArgs) -> Outcome {
    let repository = context.open_reader()?;
    let set = context.snapshots(&repository)?;
    let (filter, now) = (args.filter.filter(), clock::now());
    let from = pick(&set, &args.from, &filter, now)?;
    let to = pick(&set, &args.to, &filter, now)?;
    let lookup = context.lookup(&repository)?;
    let mut stream = if context.json() {
        Some(JsonStream::begin("changes")?)
    } else {
        None
    };
    let mut out = (!context.json()).then(Out::new);
    let mut stopped: Option<Failure> = None;
    let result = browse::diff(&repository, &lookup, from, to, &mut |change| {
        let written = match (&mut stream, &mut out) {
            (Some(stream), _) => stream.push(&change_json(&change)),
            (None, Some(out)) => out.line(change_line(&change)),
            (None, None) => Ok(()),
        };
        written.map_err(|f| {
            stopped = Some(f);
            io::Error::other("stopped")
        })
    });
    if let Some(f) = stopped {
        return Err(f);
    }
    let totals = result?;
    if let Some(stream) = stream {
        stream.end(&json!({ "from": from.id, "to": to.id, "totals": totals }))?;
    }
    if let Some(mut out) = out {
        out.line(format!(
            "{} to {}: {} added, {} removed, {} modified, {} with other metadata, {} of another kind; {} more, {} less",
            from.id.short(),
            to.id.short(),
            thousands(totals.added),
            thousands(totals.removed),
            thousands(totals.modified),
            thousands(totals.metadata),
            thousands(totals.type_changed),
            human_bytes(totals.bytes_added),
            human_bytes(totals.bytes_removed)
        ))?;
        out.flush()?;
    }
    if totals.lost.is_empty() {
        return Ok(Exit::Done);
    }
    for l in &totals.lost {
        tell(&format!("keepwatch: {}", escape(&plain(l))));
    }
    Err(Failure::new(Exit::Partial, "the comparison is not whole: parts of the lists of files cannot be read, around them differences are told that may be none")
        .advice("'keepwatch verify' says what is damaged"))
}

fn change_line(change: &Change<'_>) -> String {
    let mut line = format!("{} /{}", mark(change.kind), escape_bytes(change.path));
    if change.kind == ChangeKind::Metadata && !change.metadata.is_empty() {
        line += &format!("  ({})", change.metadata.join(", "));
    }
    line
}

fn change_json(change: &Change<'_>) -> Value {
    let mut v = json!({
        "change": change.kind,
        "metadata": change.metadata,
        "old": change.old.map(entry_json),
        "new": change.new.map(entry_json),
    });
    put_path(&mut v, change.path);
    v
}

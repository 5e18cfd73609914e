//! `diff`: what changed from one snapshot to another.

use clap::Args;
use keepwatch_engine::browse::{self, ChangeKind};
use serde_json::json;

use crate::clock;
use crate::context::Context;
use crate::errors::{Exit, Failure, Outcome};
use crate::output::{JsonStream, Out, escape_bytes, put_path};
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

fn mark(kind: ChangeKind) -> (char, &'static str) {
    match kind {
        ChangeKind::Added => ('+', "added"),
        ChangeKind::Removed => ('-', "removed"),
        ChangeKind::Modified => ('M', "modified"),
        ChangeKind::Metadata => ('U', "metadata"),
        ChangeKind::TypeChanged => ('T', "type-changed"),
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
    let mut counts = [0u64; 5];
    // The engine's receiver cannot stop the walk; after a failure nothing more is written.
    let mut stopped: Option<Failure> = None;
    let mut stream = if context.json() {
        Some(JsonStream::begin("changes")?)
    } else {
        None
    };
    let mut out = (!context.json()).then(Out::new);
    let totals = browse::diff(&repository, &lookup, from, to, &mut |change| {
        counts[change.kind as usize] += 1;
        if stopped.is_some() {
            return;
        }
        let (sign, word) = mark(change.kind);
        let written = match (&mut stream, &mut out) {
            (Some(stream), _) => {
                let mut v = json!({ "change": word });
                put_path(&mut v, &change.path);
                stream.push(&v)
            }
            (None, Some(out)) => out.line(format!("{sign} /{}", escape_bytes(&change.path))),
            (None, None) => Ok(()),
        };
        stopped = written.err();
    })?;
    if let Some(f) = stopped {
        return Err(f);
    }
    if let Some(stream) = stream {
        stream.end(&json!({ "from": from.id, "to": to.id, "totals": totals }))?;
    }
    if let Some(mut out) = out {
        let [added, removed, modified, metadata, typed] = counts;
        out.line(format!(
            "{} to {}: {added} added, {removed} removed, {modified} modified, {metadata} with other metadata, {typed} of another kind",
            from.id.short(),
            to.id.short()
        ))?;
        out.flush()?;
    }
    Ok(Exit::Done)
}

//! `find`: in which snapshots a file is.

use clap::Args;
use keepwatch_engine::browse;
use keepwatch_engine::patterns::Patterns;
use keepwatch_engine::snapshots::SnapshotRecord;
use serde_json::json;

use super::ls::{entry_json, long_line, tell_lost, walk};
use crate::clock;
use crate::context::Context;
use crate::errors::{Exit, Failure, Outcome};
use crate::output::{JsonStream, Out, escape};
use crate::select::{FilterArgs, pick};

/// Find files in snapshots
#[derive(Args)]
#[command(
    long_about = "Find files by patterns, in all snapshots or in some. Needs an identity.\n\nPatterns are shell globs, matched at every depth; with a leading slash, against the whole path.",
    after_help = "Examples:
  keepwatch find 'report*.odt'
  keepwatch find --snapshot latest '/home/*/.ssh/**'
  keepwatch find --host web1 nginx.conf --json

Exit status 4: nothing was found."
)]
pub struct FindArgs {
    /// What to look for
    #[arg(value_name = "PATTERN", required = true)]
    pub patterns: Vec<String>,
    /// Only in this snapshot (repeatable)
    #[arg(long = "snapshot", value_name = "SNAPSHOT")]
    pub snapshots: Vec<String>,
    #[command(flatten)]
    pub filter: FilterArgs,
}

/// The verb.
pub fn run(context: &Context, args: &FindArgs) -> Outcome {
    let patterns = Patterns::new(&args.patterns)?;
    let repository = context.open_reader()?;
    let set = context.snapshots(&repository)?;
    let filter = args.filter.filter();
    let chosen: Vec<&SnapshotRecord> = if args.snapshots.is_empty() {
        set.live.iter().filter(|s| filter.matches(s)).collect()
    } else {
        args.snapshots
            .iter()
            .map(|t| pick(&set, t, &filter, clock::now()))
            .collect::<Result<_, _>>()?
    };
    let lookup = context.lookup(&repository)?;
    let mut found = 0u64;
    let mut lost = Vec::new();
    let mut json_stream = if context.json() {
        Some(JsonStream::begin("found")?)
    } else {
        None
    };
    let mut out = (!context.json()).then(Out::new);
    for s in chosen {
        context.cancel.check()?;
        let mut first = true;
        lost.extend(walk(
            |each| browse::list(&repository, &lookup, s, &[], each),
            &mut |e| {
                if !patterns.matches(&e.path) {
                    return Ok(());
                }
                found += 1;
                if let Some(stream) = &mut json_stream {
                    let mut v = entry_json(e);
                    v["snapshot"] = json!(s.id);
                    v["time"] = json!(s.start);
                    return stream.push(&v);
                }
                let Some(out) = &mut out else { return Ok(()) };
                if std::mem::take(&mut first) {
                    out.line(format!(
                        "snapshot {} of {}, {}",
                        s.id.short(),
                        escape(&s.body.host),
                        s.start.short()
                    ))?;
                }
                out.line(format!("  {}", long_line(e)))
            },
        )?);
    }
    if let Some(stream) = json_stream {
        stream.end(&json!({ "count": found, "unreadable": lost.iter().map(ToString::to_string).collect::<Vec<_>>() }))?;
    }
    if let Some(mut out) = out {
        out.flush()?;
    }
    if !lost.is_empty() {
        return tell_lost(&lost);
    }
    if found == 0 {
        return Err(Failure::new(
            Exit::NothingFound,
            format!("no file fits {}", escape(&args.patterns.join(", "))),
        ));
    }
    Ok(Exit::Done)
}

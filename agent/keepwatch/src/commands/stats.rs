//! `stats`: how large the repository is, and what deduplication and compression save.

use clap::Args;
use keepwatch_engine::browse::{self, BrowseError};
use keepwatch_model::size::human_bytes;
use serde_json::json;

use crate::context::Context;
use crate::errors::{Exit, Outcome};
use crate::output::{print_after, print_json, thousands};
use crate::select::FilterArgs;

/// Show sizes
#[derive(Args)]
#[command(
    long_about = "Show how large the repository and its snapshots are, and what deduplication and compression save. Needs no identity.",
    after_help = "Examples:
  keepwatch stats
  keepwatch stats --host web1 --json"
)]
pub struct StatsArgs {
    #[command(flatten)]
    pub filter: FilterArgs,
}

/// The verb.
pub fn run(context: &Context, args: &StatsArgs) -> Outcome {
    let repository = context.open_any()?;
    let set = context.snapshots(&repository)?;
    let filter = args.filter.filter();
    let chosen: Vec<_> = set
        .live
        .iter()
        .filter(|s| filter.matches(s))
        .cloned()
        .collect();
    let lookup = context.lookup(&repository)?;
    let stats = browse::stats(&lookup, &chosen).map_err(BrowseError::from)?;
    if context.json() {
        let mut document = json!(stats);
        for (name, [content, manifests, lists]) in
            [("chunks", stats.chunks), ("chunk_bytes", stats.chunk_bytes)]
        {
            document[name] = json!({ "content": content, "manifests": manifests, "lists": lists });
        }
        print_json(&document)?;
        return Ok(Exit::Done);
    }
    let ratio = |a: u64, b: u64| {
        if b == 0 {
            "-".to_owned()
        } else {
            format!("{:.2}", a as f64 / b as f64)
        }
    };
    let [content, manifests, lists] = stats.chunk_bytes;
    let mut out = String::new();
    for (what, value) in [
        ("snapshots", thousands(stats.snapshots)),
        ("files in them", thousands(stats.snapshot_files)),
        ("bytes in them", human_bytes(stats.snapshot_bytes)),
        ("chunks stored", thousands(stats.chunks.iter().sum())),
        ("bytes of content", human_bytes(content)),
        (
            "bytes of lists",
            human_bytes(manifests.saturating_add(lists)),
        ),
        ("packs", thousands(stats.packs)),
        ("bytes of packs", human_bytes(stats.pack_bytes)),
        ("index objects", thousands(stats.indexes)),
        ("deduplication", ratio(stats.snapshot_bytes, content)),
        (
            "compression",
            ratio(stats.chunk_bytes.iter().sum(), stats.pack_bytes),
        ),
    ] {
        out += &format!("{what:<16} {value:>14}\n");
    }
    print_after(&out)?;
    Ok(Exit::Done)
}

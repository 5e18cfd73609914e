//! `repair`: makes the best of a damaged repository.

use clap::{Args, Subcommand};
use keepwatch_engine::repair::{self, IndexReport, Options, RepairError};
use serde_json::json;

use super::verify::loss_line;
use crate::context::Context;
use crate::errors::{Exit, Failure, Outcome, WRITER_ADVICE};
use crate::output::{count, escape, plain, print_after, print_json, print_json_after, tell};

/// Make the best of a damaged repository
#[derive(Args)]
#[command(after_help = "Examples:
  keepwatch repair index --identity key.txt
  keepwatch repair snapshots --identity key.txt")]
pub struct RepairArgs {
    #[command(subcommand)]
    pub what: What,
}

/// What to repair.
#[derive(Subcommand)]
pub enum What {
    /// Rebuild the index from the packs
    #[command(
        long_about = "Put packs that no index names back into the index. Needs a writer key; packs of content also need an identity.",
        after_help = "Examples:\n  keepwatch repair index --identity key.txt\n  keepwatch repair index --repo /mnt/disk/backup --identity key.txt --rebuild-all"
    )]
    Index {
        /// Read all packs and replace the whole index
        #[arg(long)]
        rebuild_all: bool,
    },
    /// Say which files of which snapshots are lost
    #[command(
        long_about = "Say what each damaged snapshot lost; with an identity, which files. Nothing is changed: the rest of them still restores, and the next backup stores anew what the source still has.",
        after_help = "Example:\n  keepwatch repair snapshots --repo /mnt/disk/backup --identity key.txt"
    )]
    Snapshots,
}

/// The verb.
pub fn run(context: &Context, args: &RepairArgs) -> Outcome {
    match args.what {
        What::Index { rebuild_all } => index(context, rebuild_all),
        What::Snapshots => snapshots(context),
    }
}

fn index(context: &Context, rebuild_all: bool) -> Outcome {
    let repository = context.open_deep()?;
    if repository.writer().is_none() {
        return Err(Failure::failed("rebuilding the index needs a writer key of the repository, and none was given or found; nothing was changed").advice(WRITER_ADVICE));
    }
    let options = Options {
        cache: context.cache(&repository),
        rebuild_all,
    };
    let bar = context.bar_without_problems();
    let report = repair::index(&repository, &options, &bar, &context.cancel);
    bar.finish();
    let report = report?;
    if context.json() {
        print_json_after(&json!(report))?;
    } else {
        for p in report.unreadable.iter().chain(&report.problems) {
            tell(&format!("damaged: {}", escape(&plain(p))));
        }
        if !context.globals.quiet {
            print_after(&summary(&report))?;
        }
    }
    if report.packs_sealed > 0 {
        return Err(Failure::new(
            Exit::Partial,
            format!(
                "{} could not be opened for want of an identity",
                count(report.packs_sealed, "pack", "packs")
            ),
        )
        .advice(crate::errors::IDENTITY_ADVICE));
    }
    Ok(if report.problems.is_empty() {
        Exit::Done
    } else {
        Exit::Partial
    })
}

fn summary(r: &IndexReport) -> String {
    format!(
        "{} read, {} with {} put into the index; {} written, {} replaced\n",
        count(r.packs_read, "pack", "packs"),
        count(r.packs_indexed, "pack", "packs"),
        count(r.chunks, "chunk", "chunks"),
        count(r.indexes_written, "index object", "index objects"),
        r.indexes_deleted
    )
}

fn snapshots(context: &Context) -> Outcome {
    let repository = context.open_deep()?;
    let cache = context.cache(&repository);
    let bar = context.bar_without_problems();
    let losses = repair::snapshots(&repository, cache.as_deref(), &bar, &context.cancel);
    bar.finish();
    let losses = losses?;
    if context.json() {
        print_json(&json!({ "losses": losses }))?;
    } else {
        let lines: Vec<String> = losses.iter().map(loss_line).collect();
        print_after(&if lines.is_empty() {
            "nothing is lost\n".to_owned()
        } else {
            lines.join("\n") + "\n"
        })?;
    }
    if losses.is_empty() {
        return Ok(Exit::Done);
    }
    Err(Failure::failed(format!("{} lost content", count(losses.len() as u64, "snapshot has", "snapshots have")))
        .advice("restore leaves out what is lost and restores the rest; the next backup stores anew what the source still has"))
}

impl From<RepairError> for Failure {
    fn from(e: RepairError) -> Self {
        const SAFE: &str = "what was there is untouched";
        let message = e.to_string();
        match e {
            RepairError::Store(e) => Failure::from(e).during("repair the index").safe(SAFE),
            RepairError::Object(e) => Failure::from(e).during("repair the index").safe(SAFE),
            RepairError::Put(e) => Failure::from(e).during("repair the index").safe(SAFE),
            RepairError::Cache(_) => Failure::failed(message)
                .advice("give another place with --cache-dir, or use --no-cache"),
            RepairError::Cancelled(_) => Failure::failed(message).advice("run it again to go on"),
        }
    }
}

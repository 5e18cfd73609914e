//! `repair`: makes the best of a damaged repository.

use clap::{Args, Subcommand};
use keepwatch_engine::repair::{self, RepairError};
use serde_json::{Value, json};

use crate::context::Context;
use crate::errors::{Exit, Failure, Outcome};
use crate::output::{
    Out, count, escape, escape_bytes, print_after, print_json, print_json_after, put_path,
};

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
        long_about = "Rebuild the index from the packs that no index names. Needs an identity, and a writer key.",
        after_help = "Example:\n  keepwatch repair index --repo /mnt/disk/backup --identity key.txt"
    )]
    Index,
    /// Say which files of which snapshots are lost
    #[command(
        long_about = "Say which files of which snapshots are lost. Nothing is changed: the rest of them still restores, and the next backup stores anew what the source still has.",
        after_help = "Example:\n  keepwatch repair snapshots --repo /mnt/disk/backup --identity key.txt"
    )]
    Snapshots,
}

/// The verb.
pub fn run(context: &Context, args: &RepairArgs) -> Outcome {
    let repository = context.open_reader()?;
    match args.what {
        What::Index => {
            if repository.writer().is_none() {
                return Err(Failure::failed("rebuilding the index needs a writer key of the repository, and none was given or found; nothing was changed")
                    .advice(crate::errors::WRITER_ADVICE));
            }
            let cache = context.cache(&repository);
            let bar = context.bar();
            let report = repair::index(&repository, cache.as_deref(), &bar);
            bar.finish();
            let report = report?;
            if context.json() {
                print_json_after(&json!(report))?;
            } else {
                print_after(&format!(
                    "{} read, {} put into the index with {}\n",
                    count(report.packs_read, "pack", "packs"),
                    count(report.packs_indexed, "pack", "packs"),
                    count(report.chunks, "chunk", "chunks")
                ))?;
            }
            Ok(Exit::Done)
        }
        What::Snapshots => {
            let lookup = context.lookup(&repository)?;
            let losses = repair::snapshots(&repository, &lookup)?;
            if context.json() {
                let list: Vec<Value> = losses
                    .iter()
                    .map(|l| {
                        let mut v = json!({ "snapshot": l.snapshot, "what": l.what });
                        put_path(&mut v, &l.path);
                        v
                    })
                    .collect();
                print_json(&json!({ "losses": list }))?;
            } else {
                let mut out = Out::new();
                for l in &losses {
                    out.line(format!(
                        "{}: /{}: {}",
                        l.snapshot.short(),
                        escape_bytes(&l.path),
                        escape(&l.what)
                    ))?;
                }
                if losses.is_empty() {
                    out.line("nothing is lost")?;
                }
                out.flush()?;
            }
            if losses.is_empty() {
                return Ok(Exit::Done);
            }
            Err(Failure::failed(format!("{} lost", count(losses.len() as u64, "thing is", "things are")))
                .advice("restore leaves these out and restores the rest; the next backup stores anew what the source still has"))
        }
    }
}

impl From<RepairError> for Failure {
    fn from(e: RepairError) -> Self {
        match e {
            RepairError::Object(e) => e.into(),
            RepairError::Put(e) => e.into(),
            #[allow(unreachable_patterns)]
            e => Failure::failed(e.to_string()),
        }
    }
}

//! `verify`: whether the repository is whole.

use clap::Args;
use keepwatch_engine::verify::{self, ReadData, VerifyError};
use keepwatch_model::size::human_bytes;
use serde_json::{Value, json};

use crate::clock;
use crate::context::Context;
use crate::errors::{Exit, Failure, Outcome};
use crate::output::{count, escape, escape_bytes, print_after, print_json_after, tell};

/// Find damage in a repository
#[derive(Args)]
#[command(
    long_about = "Find damage in a repository.\n\nWithout options: that every object that is needed is there, signed and consistent. With --read-data the stored bytes are read and compared with their names, which finds bit rot and needs no identity. With an identity all that is read is opened as well.",
    after_help = "Examples:
  keepwatch verify
  keepwatch verify --repo /mnt/disk/backup --read-data=10%
  keepwatch verify --repo /mnt/disk/backup --read-data --identity key.txt

Exit status 1: damage was found; it is listed with what it affects."
)]
pub struct VerifyArgs {
    /// Read the stored data, all of it or so many percent chosen at random
    #[arg(long, value_name = "N%", num_args = 0..=1, require_equals = true, default_missing_value = "100%", value_parser = percent)]
    pub read_data: Option<u8>,
}

fn percent(text: &str) -> Result<u8, String> {
    text.strip_suffix('%')
        .unwrap_or(text)
        .parse()
        .ok()
        .filter(|n| (1..=100).contains(n))
        .ok_or_else(|| "give a whole percentage from 1% to 100%".to_owned())
}

/// The verb.
pub fn run(context: &Context, args: &VerifyArgs) -> Outcome {
    // Who can read looks deeper.
    let repository = context.open_deep()?;
    let read_data = match args.read_data {
        None => ReadData::No,
        Some(100) => ReadData::All,
        Some(n) => ReadData::Percent(n),
    };
    // Another part every time, so that repeated runs see all of it.
    let seed = clock::now().unix_nanos() as u64;
    let cache = context.cache(&repository);
    let bar = context.bar();
    let report = verify::run(
        &repository,
        cache.as_deref(),
        read_data,
        seed,
        &bar,
        &context.cancel,
    );
    bar.finish();
    let report = report?;
    if context.json() {
        let damages: Vec<Value> = report
            .damages
            .iter()
            .map(|d| {
                json!({
                    "object": d.object,
                    "what": d.what,
                    "snapshots": d.snapshots,
                    "files": d.files.iter().map(|f| String::from_utf8_lossy(f).into_owned()).collect::<Vec<_>>(),
                })
            })
            .collect();
        print_json_after(&json!({
            "healthy": report.damages.is_empty(),
            "damages": damages,
            "notes": report.notes,
            "snapshots_checked": report.snapshots_checked,
            "packs_read": report.packs_read,
            "bytes_read": report.bytes_read,
            "with_identity": repository.reader().is_some(),
        }))?;
    } else {
        for d in &report.damages {
            tell(&format!(
                "damaged: {}: {}",
                escape(&d.object),
                escape(&d.what)
            ));
            if !d.snapshots.is_empty() {
                tell(&format!(
                    "  affects snapshots {}",
                    d.snapshots
                        .iter()
                        .map(|s| s.short())
                        .collect::<Vec<_>>()
                        .join(", ")
                ));
            }
            for f in &d.files {
                tell(&format!("  affects file /{}", escape_bytes(f)));
            }
        }
        for n in &report.notes {
            context.note(&format!("note: {}", escape(n)));
        }
        if !context.globals.quiet {
            let mut text = format!(
                "{} checked",
                count(report.snapshots_checked, "snapshot", "snapshots")
            );
            if args.read_data.is_some() {
                text += &format!(
                    ", {} read ({})",
                    count(report.packs_read, "pack", "packs"),
                    human_bytes(report.bytes_read)
                );
            }
            text += if report.damages.is_empty() {
                "; no damage found\n"
            } else {
                "\n"
            };
            if repository.reader().is_none() {
                text += "without an identity the content was not opened; give --identity to look deeper\n";
            }
            print_after(&text)?;
        }
    }
    if report.damages.is_empty() {
        return Ok(Exit::Done);
    }
    Err(Failure::failed(format!("{} found in {}", count(report.damages.len() as u64, "damage was", "damages were"), repository.store().location())).advice(
        "undamaged files still restore; 'keepwatch repair index' rebuilds a lost index, 'keepwatch repair snapshots' says what is lost, and the next backup stores anew what the source still has",
    ))
}

impl From<VerifyError> for Failure {
    fn from(e: VerifyError) -> Self {
        match e {
            VerifyError::Object(e) => e.into(),
            VerifyError::Cancelled(e) => e.into(),
            #[allow(unreachable_patterns)]
            e => Failure::failed(e.to_string()),
        }
    }
}

//! `verify`: whether the repository is whole.

use clap::Args;
use keepwatch_engine::verify::{self, Loss, ReadData, Report, VerifyError};
use keepwatch_model::size::human_bytes;
use keepwatch_wal::gaps::State;
use serde_json::json;

use super::wal::status;
use crate::clock;
use crate::context::Context;
use crate::errors::{Exit, Failure, Outcome};
use crate::jobs::ConfiguredArgs;
use crate::output::{count, escape, escape_bytes, plain, print_after, print_json_after, tell};

/// Find damage in a repository
#[derive(Args)]
#[command(
    long_about = "Find damage in a repository.\n\nWithout options: that every object that is needed is there, signed and consistent. With --read-data the stored bytes are read and compared with their names, which finds bit rot and needs no identity. With an identity all that is read is opened as well.\n\nOf PostgreSQL's log it tells what is missing, without an identity. That is damage when the end of the log cannot be reached from the newest base backup, and a warning when only older ones are hit.",
    after_help = "Examples:
  keepwatch verify
  keepwatch verify --repo /mnt/disk/backup --read-data=10%
  keepwatch verify --repo /mnt/disk/backup --read-data --identity key.txt
  keepwatch verify --repository disk     the repository 'disk' of the configuration

Exit status 1: damage was found; it is listed with what it affects."
)]
pub struct VerifyArgs {
    /// Read the stored data, all of it or so many percent chosen at random
    #[arg(long, value_name = "N%", num_args = 0..=1, require_equals = true, default_missing_value = "100%", value_parser = percent, conflicts_with = "repository")]
    pub read_data: Option<u8>,
    /// The repositories of this job of the configuration
    #[arg(long, value_name = "NAME", conflicts_with = "read_data")]
    pub job: Option<String>,
    #[command(flatten)]
    pub configured: ConfiguredArgs,
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
    let bar = context.bar_without_problems();
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
    let wal = status::of(&repository, &report.bases)?;
    let broken = wal.iter().filter(|c| c.state == State::Broken).count() as u64;
    if context.json() {
        let mut document = json!(report);
        document["sound"] = json!(report.is_sound() && broken == 0);
        document["wal"] = json!(wal);
        document["traffic"] = json!(repository.store().traffic());
        print_json_after(&document)?;
    } else {
        for d in &report.damages {
            tell(&format!(
                "damaged: {}: {}",
                escape(&d.object),
                escape(&plain(&d.what))
            ));
            if !d.snapshots.is_empty() {
                let ids: Vec<String> = d.snapshots.iter().take(SHOWN).map(|s| s.short()).collect();
                tell(&format!(
                    "  affects {}",
                    named(&ids, d.snapshots.len(), "snapshot", "snapshots", false)
                ));
            }
            if !d.files.is_empty() {
                let files: Vec<String> = d
                    .files
                    .iter()
                    .take(SHOWN)
                    .map(|f| format!("/{}", escape_bytes(f)))
                    .collect();
                tell(&format!(
                    "  affects {}",
                    named(&files, d.files.len(), "file", "files", d.files_cut)
                ));
            }
        }
        for l in &report.losses {
            tell(&loss_line(l));
        }
        for cluster in &wal {
            status::tell_faults(cluster);
        }
        for n in &report.notes {
            context.note(&format!("note: {}", escape(&plain(n))));
        }
        if !context.globals.quiet {
            print_after(&summary(&report, args.read_data.is_some()))?;
            if !wal.is_empty() {
                print_after(&status::summary(&wal))?;
            }
        }
    }
    if report.is_sound() && broken == 0 {
        return Ok(Exit::Done);
    }
    if report.is_sound() {
        return Err(status::failure(&repository, broken));
    }
    Err(Failure::failed(format!("{} found in {}", count(report.damages.len() as u64, "damage was", "damages were"), repository.store().location())).advice(
        "undamaged files still restore; put damaged objects back from another copy if there is one; 'keepwatch repair index' rebuilds a lost index, and the next backup stores anew what the source still has",
    ))
}

/// As many names are shown to people; JSON has them all.
const SHOWN: usize = 20;

fn named(first: &[String], all: usize, one: &str, many: &str, cut: bool) -> String {
    let mut out = format!(
        "{}{}: {}",
        if cut { "more than " } else { "" },
        count(all as u64, one, many),
        first.join(", ")
    );
    if all > first.len() {
        out += ", …";
    }
    out
}

/// What a snapshot lost, for people.
pub fn loss_line(l: &Loss) -> String {
    let mut out = format!(
        "lost: snapshot {} of {}, {}: ",
        l.snapshot.short(),
        escape(&l.host),
        l.time.short()
    );
    let mut what = Vec::new();
    if l.refs > 0 {
        what.push(count(l.refs, "piece of content", "pieces of content"));
    }
    if l.manifest_parts > 0 {
        what.push(count(
            l.manifest_parts,
            "part of its list of files",
            "parts of its list of files",
        ));
    }
    out += &what.join(", ");
    if !l.files.is_empty() {
        let files: Vec<String> = l
            .files
            .iter()
            .take(SHOWN)
            .map(|f| format!("/{}", escape_bytes(f)))
            .collect();
        out += &format!(
            "; {}",
            named(&files, l.files.len(), "file", "files", l.files_cut)
        );
    }
    out
}

fn summary(report: &Report, read: bool) -> String {
    let mut text = format!(
        "{}, {}, {} and {} checked",
        count(report.snapshots_checked, "snapshot", "snapshots"),
        count(report.packs, "pack", "packs"),
        count(report.chunks, "chunk", "chunks"),
        count(report.objects, "record", "records")
    );
    if read {
        text += &format!(
            ", {} read ({})",
            count(report.packs_read, "pack", "packs"),
            human_bytes(report.bytes_read)
        );
    }
    if report.wal_files > 0 {
        text += &format!(
            ", {} of PostgreSQL's log",
            count(report.wal_files, "file", "files")
        );
    }
    if report.envelopes_opened > 0 {
        text += &format!(
            ", {} opened",
            count(report.envelopes_opened, "envelope", "envelopes")
        );
    }
    text += if report.is_sound() {
        "; no damage found\n"
    } else {
        "\n"
    };
    if !report.with_identity {
        text += "without an identity the content was not opened; give --identity to look deeper\n";
    }
    text
}

impl From<VerifyError> for Failure {
    fn from(e: VerifyError) -> Self {
        let message = e.to_string();
        match e {
            VerifyError::Store(e) => Failure::from(e).during("verify the repository"),
            VerifyError::Object(e) => Failure::from(e).during("verify the repository"),
            VerifyError::Cache(_) => Failure::failed(message)
                .advice("give another place with --cache-dir, or use --no-cache"),
            VerifyError::Cancelled(_) => Failure::failed(message)
                .advice("run it again; --read-data=10% reads a part of the data"),
        }
    }
}

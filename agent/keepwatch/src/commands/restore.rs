//! `restore`: brings files back.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use keepwatch_engine::patterns::Patterns;
use keepwatch_engine::restore::{self, Options, Overwrite, Report, RestoreError};
use keepwatch_model::duration::human_duration;
use keepwatch_model::size::human_bytes;
use serde_json::json;

use crate::clock;
use crate::context::Context;
use crate::errors::{Exit, Failure, Outcome};
use crate::output::{
    count, escape, escape_bytes, plain, print_after, print_json_after, problems_json, tell,
};
use crate::select::{FilterArgs, pick, snapshot_and_paths, stored_paths};

/// Bring files back
#[derive(Args)]
#[command(
    long_about = "Bring files back from a snapshot, by default from the latest. Needs an identity.\n\nWithout paths all of it is restored. Files that are already right are left alone, so an interrupted restore goes on when it is run again. Nothing is ever written outside the target. Devices, set-user-id bits and security attributes are left out unless --trust-source is given.",
    after_help = "Examples:
  keepwatch restore --target /tmp/back
  keepwatch restore --repo /mnt/disk/backup --identity key.txt --target /tmp/back latest /home/me/Documents
  keepwatch restore --in-place '2 days ago' /etc/nginx --dry-run
  keepwatch restore --target /srv --overwrite if-newer --include '*.conf' 3f2a91c0

Exit status 3: some files could not be restored; each is named."
)]
pub struct RestoreArgs {
    /// The snapshot (latest, the beginning of an id, or a time) and paths in it
    #[arg(value_name = "[SNAPSHOT] [PATH]")]
    pub words: Vec<String>,
    /// Directory to restore into
    #[arg(short, long, value_name = "DIR", required_unless_present = "in_place")]
    pub target: Option<PathBuf>,
    /// Restore to where the files were
    #[arg(long, conflicts_with = "target")]
    pub in_place: bool,
    /// Only what matches (repeatable)
    #[arg(long = "include", value_name = "PATTERN")]
    pub includes: Vec<String>,
    /// Leave out what matches (repeatable)
    #[arg(long = "exclude", value_name = "PATTERN")]
    pub excludes: Vec<String>,
    /// Which existing files to replace
    #[arg(long, value_name = "WHEN", default_value = "if-changed")]
    pub overwrite: When,
    /// Delete what the snapshot does not have, beneath what is restored
    #[arg(long)]
    pub delete: bool,
    /// Show what would be done; change nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Read back what was written and compare it
    #[arg(long)]
    pub verify: bool,
    /// Also restore devices, set-user-id bits and security attributes
    #[arg(long)]
    pub trust_source: bool,
    /// Owners by number, not by name
    #[arg(long)]
    pub numeric_ids: bool,
    /// Threads at work [default: as many as there are cores]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, value_parser = clap::value_parser!(u16).range(0..=256))]
    pub threads: u16,
    #[command(flatten)]
    pub filter: FilterArgs,
}

/// Which existing files to replace.
#[derive(Clone, Copy, ValueEnum)]
pub enum When {
    /// None
    Never,
    /// Those that differ
    IfChanged,
    /// Those that are older than in the snapshot
    IfNewer,
    /// All
    Always,
}

/// The verb.
pub fn run(context: &Context, args: &RestoreArgs) -> Outcome {
    let (text, paths) = snapshot_and_paths(&args.words);
    let select = stored_paths(paths)?;
    Patterns::new(&args.includes)?;
    Patterns::new(&args.excludes)?;
    let target = match &args.target {
        Some(t) => std::path::absolute(t).map_err(|e| Failure::file("restore to", t, &e))?,
        None => PathBuf::from("/"),
    };
    let repository = context.open_reader()?;
    let set = context.snapshots(&repository)?;
    let snapshot = pick(
        &set,
        text.unwrap_or("latest"),
        &args.filter.filter(),
        clock::now(),
    )?;
    let lookup = context.lookup(&repository)?;
    let options = Options {
        target: target.clone(),
        select,
        include: args.includes.clone(),
        exclude: args.excludes.clone(),
        overwrite: match args.overwrite {
            When::Never => Overwrite::Never,
            When::IfChanged => Overwrite::IfChanged,
            When::IfNewer => Overwrite::IfNewer,
            When::Always => Overwrite::Always,
        },
        delete: args.delete,
        dry_run: args.dry_run,
        verify: args.verify,
        trust: args.trust_source,
        numeric_ids: args.numeric_ids,
        threads: args.threads.into(),
    };
    let bar = context.bar();
    let report = restore::run(
        &repository,
        &lookup,
        snapshot,
        &options,
        &bar,
        &context.cancel,
    );
    bar.finish();
    let report = report.map_err(|e| {
        Failure::from(e).during(format!(
            "restore snapshot {} to {}",
            snapshot.id.short(),
            target.display()
        ))
    })?;
    for p in &report.left_out {
        tell(&format!(
            "keepwatch: left out: {}: {}",
            escape_bytes(&p.path),
            escape(&plain(&p.what))
        ));
    }
    let found_nothing = !options.select.is_empty()
        && report.files_restored
            + report.files_skipped
            + report.directories
            + report.others
            + report.problems_total
            + report.left_out.len() as u64
            == 0;
    if found_nothing {
        return Err(Failure::new(
            Exit::NothingFound,
            format!(
                "snapshot {} holds nothing at {}",
                snapshot.id.short(),
                escape(&paths.join(", "))
            ),
        )
        .advice("'keepwatch ls' shows what it holds; paths are from the root"));
    }
    if context.json() {
        print_json_after(&json!({
            "snapshot": snapshot.id,
            "target": target,
            "dry_run": args.dry_run,
            "files_restored": report.files_restored,
            "files_skipped": report.files_skipped,
            "directories": report.directories,
            "others": report.others,
            "bytes_written": report.bytes_written,
            "deleted": report.deleted,
            "left_out": problems_json(&report.left_out),
            "problems": problems_json(&report.problems),
            "problems_total": report.problems_total,
            "duration_seconds": report.duration.as_secs_f64(),
        }))?;
    } else if !context.globals.quiet {
        print_after(&summary(
            &report,
            args,
            &snapshot.id.short(),
            &target.display().to_string(),
        ))?;
    }
    Ok(if report.problems_total > 0 {
        Exit::Partial
    } else {
        Exit::Done
    })
}

fn summary(report: &Report, args: &RestoreArgs, snapshot: &str, target: &str) -> String {
    let would = if args.dry_run {
        "dry run, nothing was changed: would have restored "
    } else {
        ""
    };
    let mut out = format!(
        "{would}{} ({}), {} already right; {}, {} in {}\n",
        count(report.files_restored, "file", "files"),
        human_bytes(report.bytes_written),
        crate::output::thousands(report.files_skipped),
        count(report.directories, "directory", "directories"),
        count(report.others, "other entry", "other entries"),
        human_duration(report.duration),
    );
    if args.delete {
        out += &format!("{} deleted\n", crate::output::thousands(report.deleted));
    }
    if !report.left_out.is_empty() {
        out += &format!(
            "{} left out; --trust-source restores devices, set-user-id bits and security attributes\n",
            report.left_out.len()
        );
    }
    if report.problems_total > 0 {
        out += &format!(
            "{} could not be restored as it was\n",
            count(report.problems_total, "entry", "entries")
        );
    }
    if !args.dry_run {
        out += &format!("snapshot {snapshot} restored to {target}\n");
    }
    out
}

impl From<RestoreError> for Failure {
    fn from(e: RestoreError) -> Self {
        match e {
            RestoreError::Object(e) => e.into(),
            RestoreError::Cancelled(e) => e.into(),
            e => Failure::failed(e.to_string()),
        }
    }
}

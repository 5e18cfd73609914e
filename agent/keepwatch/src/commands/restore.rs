//! `restore`: brings files back.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use keepwatch_engine::patterns::Patterns;
use keepwatch_engine::restore::{self, Options, Overwrite, Report, RestoreError};
use keepwatch_engine::snapshots::SnapshotRecord;
use keepwatch_model::duration::human_duration;
use keepwatch_model::size::human_bytes;
use serde_json::json;

use super::backup::literal_pattern;
use super::source_args::SourceArgs;
use super::source_restore;
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
  keepwatch restore --source postgresql --database app=app_yesterday '1 day ago'

Exit status 3: some files could not be restored; each is named."
)]
pub struct RestoreArgs {
    /// The snapshot (latest, the beginning of an id, or a time) and paths in it
    #[arg(value_name = "[SNAPSHOT] [PATH]")]
    pub words: Vec<String>,
    /// Directory to restore into
    #[arg(short, long, value_name = "DIR", required_unless_present_any = ["in_place", "sources"])]
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
    /// Do not wait until what was restored is on the disk
    #[arg(long)]
    pub no_sync: bool,
    /// Threads at work [default: as many as there are cores]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, value_parser = clap::value_parser!(u16).range(0..=256))]
    pub threads: u16,
    /// With --source: replace databases and files that hold something
    #[arg(long, requires = "sources")]
    pub replace: bool,
    #[command(flatten)]
    pub source: SourceArgs,
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
    if args.source.is_given() {
        return source_restore::run(context, args);
    }
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
    let mut exclude = args.excludes.clone();
    if args.in_place && select.is_empty() {
        for dump in beside_files(snapshot) {
            exclude.push(literal_pattern(&format!("/{dump}")));
            context.note(&format!(
                "keepwatch: left out: the dumps in {}, which were never files of this host: 'keepwatch restore --source' brings them back",
                escape(&dump)
            ));
        }
    }
    let options = Options {
        target: target.clone(),
        select,
        include: args.includes.clone(),
        exclude,
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
        no_sync: args.no_sync,
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
    let report = report?;
    for p in &report.left_out {
        context.note(&format!(
            "keepwatch: left out: {}: {}",
            escape_bytes(&p.path),
            escape(&plain(&p.what))
        ));
    }
    for n in &report.notes {
        tell(&format!("keepwatch: {}", escape(&plain(n))));
    }
    let found_nothing = !options.select.is_empty()
        && report.files_restored
            + report.files_skipped
            + report.directories
            + report.others
            + report.left_out_total
            == 0
        && report.problems_total == options.select.len() as u64;
    if context.json() {
        let mut document = json!(report);
        document["snapshot"] = json!(snapshot.id);
        document["target"] = json!(target);
        document["dry_run"] = json!(args.dry_run);
        document["left_out"] = problems_json(&report.left_out);
        document["problems"] = problems_json(&report.problems);
        document["duration_seconds"] = json!(report.duration.as_secs_f64());
        if let Some(fields) = document.as_object_mut() {
            fields.remove("duration");
        }
        print_json_after(&document)?;
    } else if !found_nothing && !context.globals.quiet {
        print_after(&summary(
            &report,
            args,
            &snapshot.id.short(),
            &target.display().to_string(),
        ))?;
    }
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
    Ok(if report.problems_total > 0 {
        Exit::Partial
    } else {
        Exit::Done
    })
}

/// The directories of dumps in a snapshot that holds files as well.
fn beside_files(snapshot: &SnapshotRecord) -> Vec<String> {
    let (files, dumps): (Vec<_>, Vec<_>) = snapshot
        .body
        .paths
        .iter()
        .partition(|p| p.starts_with(b"/"));
    let dumps = dumps.iter().filter(|_| !files.is_empty());
    dumps
        .map(|d| String::from_utf8_lossy(d).into_owned())
        .collect()
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
    if args.verify && !args.dry_run {
        out += &format!(
            "{} read back and compared\n",
            count(report.files_verified, "file", "files")
        );
    }
    if report.left_out_total > 0 {
        out += &format!(
            "{} left out; --trust-source restores devices, set-user-id bits and security attributes\n",
            report.left_out_total
        );
    }
    if report.problems_total > 0 {
        out += &format!(
            "{} could not be restored as it was\n",
            count(report.problems_total, "entry", "entries")
        );
    }
    if !args.dry_run {
        out += &format!(
            "snapshot {snapshot} restored{} to {target}\n",
            if report.problems_total > 0 {
                " in part"
            } else {
                ""
            }
        );
    }
    out
}

impl From<RestoreError> for Failure {
    fn from(e: RestoreError) -> Self {
        let message = e.to_string();
        match e {
            RestoreError::Cancelled(_) => Failure::failed(message),
            RestoreError::Object(e) => e.into(),
            RestoreError::Index(_) => Failure::failed(message).advice("give another place with --cache-dir, or use --no-cache; the cache can be deleted at any time"),
            RestoreError::Target { path, cause } => Failure::file("restore into", std::path::Path::new(&path), &cause).safe("nothing was written"),
            RestoreError::Space { path, needed, free } => Failure::failed(format!(
                "not enough space in {path}: {} are needed, {} are free; nothing was written",
                human_bytes(needed),
                human_bytes(free)
            ))
            .advice("free some space, restore a part of it by giving paths, or choose another --target"),
            RestoreError::Full { .. } => Failure::failed(message).advice("free some space and run the same command again: what is restored is not done twice"),
            RestoreError::Sync { .. } => Failure::failed(message).advice("look after the disk, then run the same command with --overwrite always and --verify"),
            RestoreError::Path { .. } => Failure::usage(message),
            RestoreError::Pattern(e) => e.into(),
        }
    }
}

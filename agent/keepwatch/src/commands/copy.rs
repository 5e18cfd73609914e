//! `copy`: snapshots of one repository into another.

use std::path::{Path, PathBuf};

use clap::Args;
use keepwatch_engine::copy::{self, CopyError, Options, Report};
use keepwatch_engine::ids::OwnerKey;
use keepwatch_engine::repository::Repository;
use keepwatch_engine::snapshots::{SnapshotFilter, SnapshotRecord, SnapshotSet, foundations};
use keepwatch_model::size::human_bytes;
use serde_json::json;

use crate::cli::Globals;
use crate::clock;
use crate::context::Context;
use crate::errors::{Exit, Failure, Outcome};
use crate::jobs::ConfiguredArgs;
use crate::output::{count, escape, plain, print_after, print_json_after, tell};
use crate::select::{FilterArgs, pick};

/// How a second repository is opened, from which something is taken.
#[derive(Args, Clone, Default)]
#[command(next_help_heading = "The repository copied from")]
pub struct SourceKeys {
    /// Identity file that opens it [default: that of --identity, or the one at the usual place]
    #[arg(long, value_name = "FILE", requires = "from")]
    pub from_identity: Option<PathBuf>,
    /// File with the passphrase that opens it
    #[arg(long, value_name = "FILE", requires = "from")]
    pub from_passphrase_file: Option<PathBuf>,
    /// The owner key that it must have, 64 hexadecimal digits
    #[arg(long, value_name = "HEX", requires = "from")]
    pub from_owner_key: Option<OwnerKey>,
}

impl SourceKeys {
    /// A context in which the repository `from` is the one that is meant.
    pub fn context(&self, context: &Context, from: &Path) -> Context {
        let named = self.from_identity.is_some() || self.from_passphrase_file.is_some();
        let identity = match named {
            true => self.from_identity.clone(),
            false => context.globals.identity.clone(),
        };
        context.second(Globals {
            repo: Some(from.to_owned()),
            identity,
            passphrase_file: self.from_passphrase_file.clone(),
            writer_key: None,
            owner_key: self.from_owner_key,
            ..context.globals.clone()
        })
    }
}

/// Copy snapshots from another repository
#[derive(Args)]
#[command(
    long_about = "Copy snapshots from another repository, so that there is one elsewhere.\n\nWhen the two have the same keys (the one was made by 'init --from' the other), what is encrypted is copied as it is: that needs no identity, only the writer key of the repository that is copied to, and the machine that copies cannot read anything. Otherwise everything is opened and sealed anew, which needs an identity of the repository that is copied from.\n\nWithout SNAPSHOT all that fit the filters are copied. What is there already is skipped: run it as often as you like. An interrupted copy goes on where it stopped. What was stored is read back before anything relies on it. What was forgotten in the repository that is copied to is not copied into it again.",
    after_help = "Examples:
  keepwatch init --repo /mnt/far/backup --from /mnt/disk/backup --from-identity me.txt
  keepwatch copy --repo /mnt/far/backup --from /mnt/disk/backup
  keepwatch copy --repo /mnt/far/backup --from /mnt/disk/backup --host web1 --tag monthly latest
  keepwatch copy --repo /mnt/other --from /mnt/disk/backup --from-identity me.txt --dry-run
  keepwatch copy --copy disk-to-far      what the configuration says of the copy 'disk-to-far'"
)]
pub struct CopyArgs {
    /// The repository to copy from
    #[arg(
        long,
        value_name = "REPOSITORY",
        env = "KEEPWATCH_FROM_REPOSITORY",
        hide_env_values = true,
        required_unless_present = "copy"
    )]
    pub from: Option<PathBuf>,
    /// Which snapshots: ids, 'latest' (of those that fit), or times [default: all that fit]
    #[arg(value_name = "SNAPSHOT")]
    pub snapshots: Vec<String>,
    #[command(flatten)]
    pub source: SourceKeys,
    #[command(flatten)]
    pub filter: FilterArgs,
    /// Do what the configuration says of the copy of this name
    #[arg(long, value_name = "NAME", conflicts_with_all = ["snapshots", "hosts", "tags", "jobs", "paths"])]
    pub copy: Option<String>,
    #[command(flatten)]
    pub configured: ConfiguredArgs,
    /// Show what would be copied; write nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Do not read back what was stored: trust the storage's word that it holds what it was given
    #[arg(long)]
    pub no_read_back: bool,
}

/// The verb.
pub fn run(context: &Context, args: &CopyArgs) -> Outcome {
    let Some(source) = &args.from else {
        return Err(Failure::usage("it is not said what to copy from").advice("give --from"));
    };
    let to = context.open_writer()?;
    let beside = args.source.context(context, source);
    let Some(from) = beside.open_beside(&to)? else {
        return Err(CopyError::NeedsIdentity {
            from: source.display().to_string(),
            to: to.store().location(),
        }
        .into());
    };
    if from.id() == to.id() {
        return Err(CopyError::Same(to.id()).into());
    }
    let set = beside.snapshots(&from)?;
    for (named_by, missing) in set.broken_links() {
        tell(&format!(
            "keepwatch: warning: snapshot {} was removed from {}, and nobody forgot it (snapshot {} names it as its predecessor)",
            missing.short(),
            escape(&from.store().location()),
            named_by.short()
        ));
    }
    let filter = args.filter.filter();
    let chosen = choose(context, &set, &args.snapshots, &filter)?;
    if chosen.is_empty() {
        let empty = set.live.is_empty() && set.problems.is_empty();
        let message = format!(
            "there is no snapshot{} in {}",
            if empty { "" } else { " that fits" },
            from.store().location()
        );
        return Err(Failure::new(Exit::NothingFound, message)
            .advice("'keepwatch snapshots' lists what there is"));
    }
    let options = Options {
        dry_run: args.dry_run,
        read_back: !args.no_read_back,
        cache_from: beside.cache(&from),
        cache_to: context.cache(&to),
        ..Options::default()
    };
    let bar = context.bar();
    let report = copy::run(
        &from,
        &to,
        &set,
        &chosen,
        &options,
        &clock::now,
        &bar,
        &context.cancel,
    );
    let report = match report {
        Ok(r) => r,
        Err(e) => {
            bar.finish();
            return Err(e.into());
        }
    };
    witness(context, &to, &report);
    let wal = copy::wal::run(&from, &to, &options, &bar, &context.cancel);
    bar.finish();
    let wal = wal?;
    for (file, why) in &wal.failed {
        tell(&format!(
            "keepwatch: the WAL file {file} was not copied: {}",
            escape(&plain(why))
        ));
    }
    for note in &report.notes {
        tell(&format!("keepwatch: {}", escape(&plain(note))));
    }
    for f in &report.failed {
        tell(&format!(
            "keepwatch: snapshot {} was not copied: {}",
            f.source.short(),
            escape(&plain(&f.why))
        ));
    }
    if context.json() {
        let mut document = json!(report);
        document["dry_run"] = json!(args.dry_run);
        document["wal"] = json!(wal);
        document["traffic"] = json!(to.store().traffic());
        document["from"] = json!(from.store().location());
        document["to"] = json!(to.store().location());
        document["unreadable"] = set.problems.iter().map(ToString::to_string).collect();
        print_json_after(&document)?;
    } else if !context.globals.quiet {
        let mut text = summary(&report, args.dry_run);
        if wal.copied > 0 {
            text += &format!(
                "{} of PostgreSQL's log {}, {}\n",
                count(wal.copied, "file", "files"),
                if args.dry_run { "to copy" } else { "copied" },
                human_bytes(wal.bytes)
            );
        }
        print_after(&text)?;
    }
    // A record that cannot be read may be a snapshot that was wanted.
    let incomplete = !report.failed.is_empty()
        || wal.failed_total > 0
        || (args.snapshots.is_empty() && !set.problems.is_empty());
    Ok(match incomplete {
        false => Exit::Done,
        true if report.copied.is_empty() && report.skipped.is_empty() => Exit::Failed,
        true => Exit::Partial,
    })
}

fn choose<'a>(
    context: &Context,
    set: &'a SnapshotSet,
    named: &[String],
    filter: &SnapshotFilter,
) -> Result<Vec<&'a SnapshotRecord>, Failure> {
    if named.is_empty() {
        let fit = || set.live.iter().filter(|s| filter.matches(s));
        // Its copy would be signed by a writer that is believed: whoever wants that says so by naming it.
        let revoked = fit().filter(|s| s.revoked).count() as u64;
        if revoked > 0 {
            context.note(&format!(
                "keepwatch: {} of writers whose keys were revoked left out; name one to copy it all the same",
                count(revoked, "snapshot is", "snapshots are")
            ));
        }
        return Ok(with_foundations(
            set,
            fit().filter(|s| !s.revoked).collect(),
        ));
    }
    let now = clock::now();
    let mut chosen: Vec<&SnapshotRecord> = Vec::new();
    for text in named {
        let s = pick(set, text, filter, now)?;
        if !chosen.iter().any(|c| c.id == s.id) {
            chosen.push(s);
        }
    }
    Ok(with_foundations(set, chosen))
}

/// An incremental base backup of PostgreSQL is nothing without those that it is built on; they go first.
fn with_foundations<'a>(
    set: &'a SnapshotSet,
    mut chosen: Vec<&'a SnapshotRecord>,
) -> Vec<&'a SnapshotRecord> {
    let all = || set.live.iter().chain(&set.forgotten);
    let below = foundations(chosen.iter().copied(), all());
    let missing = all().filter(|s| below.contains(&s.id) && !chosen.iter().any(|c| c.id == s.id));
    let missing: Vec<&SnapshotRecord> = missing.collect();
    if !missing.is_empty() {
        chosen.extend(missing);
        chosen.sort_by_key(|s| (s.start, s.id));
    }
    chosen
}

/// This host remembers the last snapshot that it made, also when it is a copy.
fn witness(context: &Context, to: &Repository, report: &Report) {
    let last = report.copied.iter().rev().find_map(|c| c.copy);
    if let (Some(id), Some(writer)) = (last, to.writer()) {
        let now = clock::now().to_string();
        context.places.bear_witness(to.id(), id, writer.id, &now);
    }
}

/// For people.
fn summary(r: &Report, dry_run: bool) -> String {
    let mut out = String::new();
    let n = r.copied.len() as u64;
    if dry_run {
        out += "dry run, nothing was changed; this would be copied:\n";
    }
    for c in &r.copied {
        out += &match c.copy {
            Some(copy) => format!("snapshot {} copied as {}\n", c.source.short(), copy.short()),
            None => format!("snapshot {}\n", c.source.short()),
        };
    }
    out += &format!(
        "{} {}, {} there already or forgotten",
        count(n, "snapshot", "snapshots"),
        if dry_run { "to copy" } else { "copied" },
        r.skipped.len()
    );
    if !r.failed.is_empty() {
        out += &format!(", {} not copied", r.failed.len());
    }
    match (dry_run, r.twins) {
        (true, true) if n > 0 => {
            out += &format!("; {} to copy as they are", human_bytes(r.bytes_read))
        }
        (true, _) => {}
        (false, _) if n == 0 && r.packs == 0 => {}
        (false, twins) => {
            out += &format!(
                "; {} {}, {} stored in {}",
                human_bytes(r.bytes_read),
                if twins {
                    "read"
                } else {
                    "opened and sealed anew"
                },
                human_bytes(r.bytes_written),
                count(r.packs, "pack", "packs")
            )
        }
    }
    out + "\n"
}

impl From<CopyError> for Failure {
    fn from(e: CopyError) -> Self {
        let message = e.to_string();
        let safe = "snapshots copied before are whole, and what was stored is used by the next run";
        match e {
            CopyError::Access(e) => e.into(),
            CopyError::Same(_) => Failure::usage(message).advice("name two repositories"),
            CopyError::NeedsIdentity { .. } => Failure::failed(message)
                .advice("give the identity of the repository that is copied from: --from-identity FILE, or --from-passphrase-file FILE"),
            CopyError::Object(e) => Failure::from(e).during("copy").safe(safe),
            CopyError::Put(e) => Failure::from(e).during("copy").safe(safe),
            CopyError::Source(e) => Failure::from(e).during("copy").safe(safe),
            CopyError::Cache(_) => Failure::failed(message).advice("give another place with --cache-dir, or use --no-cache"),
            CopyError::ReadBack(_) => Failure::failed(message).advice("examine the storage of the destination, then run it again: what is damaged is stored anew"),
            CopyError::Pruned => Failure::failed(message).safe(safe).advice("prune the destination with a longer --grace, and run it again"),
            CopyError::Sink(_) | CopyError::Random(_) => Failure::failed(message).safe(safe),
            CopyError::Cancelled(_) => Failure::failed(message).advice("run it again"),
        }
    }
}

//! `prune`: frees what no snapshot needs.

use std::time::Duration;

use clap::Args;
use keepwatch_engine::prune::{self, MaxUnused, Options, PruneError, Report};
use keepwatch_engine::repository::Repository;
use keepwatch_model::duration::parse_duration;
use keepwatch_model::size::{human_bytes, parse_size};
use serde_json::json;

use crate::clock;
use crate::context::Context;
use crate::errors::{Exit, Failure, Outcome};
use crate::jobs::ConfiguredArgs;
use crate::output::{again_with, count, escape, print_after, print_json_after, tell};

/// Free the space that no snapshot needs
#[derive(Args)]
#[command(
    long_about = "Free the space that no snapshot needs. Needs no identity.\n\nIn two steps, so that backups may run at the same time: what is not needed is marked, and deleted by a later prune when the mark is older than the grace period. Half-empty packs are packed anew by copying what they hold in its encrypted form. When anything that is needed to decide cannot be read, nothing is deleted.\n\nThe grace period must be longer than the longest backup takes. With --grace 0 marking and deleting happen in one run: never do that while a backup is running, its snapshot could be left without its data.\n\nWhen more than half of a repository of more than 64 MiB would go and no forgotten snapshot accounts for it, prune stops (exit status 5) unless --allow-many is given. When the clock is more than 30 days ahead of everything in the repository, one run deletes nothing.",
    after_help = "Examples:
  keepwatch prune --dry-run
  keepwatch prune --max-unused 10%
  keepwatch prune --repo /mnt/disk/backup --grace 3d
  keepwatch prune --repository disk      the repository 'disk' of the configuration"
)]
pub struct PruneArgs {
    /// How long marked data is kept; longer than the longest backup takes
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = parse_duration, conflicts_with = "repository")]
    pub grace: Duration,
    /// How much unneeded data may stay: so many percent of the repository, so many bytes, or unlimited
    #[arg(long, value_name = "N%|SIZE", default_value = "5%", value_parser = max_unused)]
    pub max_unused: MaxUnused,
    /// Show what would be done; change nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Go on although snapshots were removed by somebody: what only they needed is lost then
    #[arg(long)]
    pub accept_missing: bool,
    /// Go on although more than half of the repository would go and no forgotten snapshot accounts for it
    #[arg(long)]
    pub allow_many: bool,
    /// The repositories of this job of the configuration
    #[arg(long, value_name = "NAME", conflicts_with_all = ["grace", "max_unused"])]
    pub job: Option<String>,
    #[command(flatten)]
    pub configured: ConfiguredArgs,
}

impl Default for PruneArgs {
    fn default() -> Self {
        PruneArgs {
            grace: prune::DEFAULT_GRACE,
            max_unused: MaxUnused::Percent(5.0),
            dry_run: false,
            accept_missing: false,
            allow_many: false,
            job: None,
            configured: ConfiguredArgs::default(),
        }
    }
}

fn max_unused(text: &str) -> Result<MaxUnused, String> {
    if text == "unlimited" {
        return Ok(MaxUnused::Unlimited);
    }
    match text.strip_suffix('%') {
        Some(n) => n
            .trim()
            .parse::<f64>()
            .ok()
            .filter(|p| (0.0..100.0).contains(p))
            .map(MaxUnused::Percent)
            .ok_or_else(|| "give a percentage from 0% to below 100%".to_owned()),
        None => parse_size(text)
            .map(MaxUnused::Bytes)
            .map_err(|e| format!("{e}; or give a percentage, or unlimited")),
    }
}

/// The verb.
pub fn run(context: &Context, args: &PruneArgs) -> Outcome {
    let repository = context.open_to_maintain("pruning")?;
    let report = prune(context, &repository, args)?;
    if context.json() {
        let mut document = json!(report);
        document["dry_run"] = json!(args.dry_run);
        document["traffic"] = json!(repository.store().traffic());
        print_json_after(&document)?;
    } else if !context.globals.quiet {
        print_after(&summary(&report, args.dry_run))?;
    }
    Ok(Exit::Done)
}

/// Calls the engine; also for `forget --prune`.
pub fn prune(
    context: &Context,
    repository: &Repository,
    args: &PruneArgs,
) -> Result<Report, Failure> {
    let options = Options {
        grace: args.grace,
        max_unused: args.max_unused,
        dry_run: args.dry_run,
        accept_missing: args.accept_missing,
        allow_many: args.allow_many,
        many_bytes: prune::MANY_BYTES,
        cache: context.cache(repository),
    };
    let bar = context.bar();
    let report = prune::run(repository, &options, &clock::now, &bar, &context.cancel);
    bar.finish();
    let report = report?;
    for note in &report.notes {
        tell(&format!("keepwatch: {}", escape(note)));
    }
    Ok(report)
}

/// For people.
pub fn summary(r: &Report, dry_run: bool) -> String {
    let mut out = String::new();
    if dry_run {
        out += "dry run, nothing was changed; this would be done:\n";
    }
    out += &format!(
        "{} needed, {} deleted; {} kept, {} deleted, {} newly marked",
        count(r.snapshots_needed, "snapshot", "snapshots"),
        count(r.snapshots_deleted, "forgotten one", "forgotten ones"),
        count(r.packs_kept, "pack", "packs"),
        r.packs_deleted,
        r.packs_marked,
    );
    if r.packs_repacked > 0 {
        out += &format!(
            " ({} of them packed anew, {})",
            r.packs_repacked,
            human_bytes(r.bytes_copied)
        );
    }
    if r.packs_rescued > 0 {
        out += &format!(", {} rescued", r.packs_rescued);
    }
    out += &format!(
        "\n{} before, {} after: {} freed; {} unneeded remain\n",
        human_bytes(r.bytes_before),
        human_bytes(r.bytes_after),
        human_bytes(r.bytes_freed),
        human_bytes(r.bytes_unused)
    );
    if r.bytes_waiting > 0 {
        out += &format!(
            "{} are marked and are freed by the first prune after the grace period\n",
            human_bytes(r.bytes_waiting)
        );
    }
    if r.wal_deleted > 0 {
        out += &format!(
            "{} of PostgreSQL's log deleted, {}: no base backup that is kept needs them\n",
            count(r.wal_deleted, "file", "files"),
            human_bytes(r.wal_bytes_freed)
        );
    }
    if r.objects_locked > 0 {
        out += &format!(
            "{} locked: a prune after their locks have ended deletes them
",
            count(r.objects_locked, "object is", "objects are")
        );
    }
    if r.locks_renewed > 0 {
        out += &format!(
            "the locks of {} were prolonged
",
            count(r.locks_renewed, "object", "objects")
        );
    }
    out
}

impl From<PruneError> for Failure {
    fn from(e: PruneError) -> Self {
        let message = e.to_string();
        match e {
            PruneError::NeedsMaintain => Failure::failed(message).advice(
                "issue a writer key with the right to: keepwatch key writer --maintain",
            ),
            PruneError::Unreadable(_) | PruneError::Lost { .. } => Failure::failed(message)
                .advice("'keepwatch verify' says what is damaged; put it back from another copy, or run 'keepwatch repair index'"),
            PruneError::Removed { .. } => Failure::new(Exit::Refused, message)
                .advice("look into it first; --accept-missing accepts the loss"),
            PruneError::MayNotDelete(_) => Failure::failed(message)
                .advice("run prune with credentials that may delete objects, or as the user who owns the repository"),
            PruneError::Unusual { bytes, unexplained, of } => Failure::new(
                Exit::Refused,
                format!(
                    "prune stopped: nothing needs {} of the {} of packs, which is more than half, and no forgotten snapshot accounts for {} of them; nothing was changed",
                    human_bytes(bytes),
                    human_bytes(of),
                    human_bytes(unexplained)
                ),
            )
            .advice(format!(
                "snapshots may have been lost or removed, or the repository not copied whole: compare 'keepwatch snapshots' with what you expect, and run 'keepwatch verify'. If nothing is missing (backups broke off again and again, or were started anew): {}",
                again_with("--allow-many")
            )),
            PruneError::Busy(_) => {
                Failure::new(Exit::Refused, message).advice("wait for the other prune, and run it again")
            }
            PruneError::Cancelled => Failure::failed(message).advice("run it again"),
            PruneError::Store(e) => Failure::from(e)
                .during("prune")
                .safe("every snapshot is as it was"),
            PruneError::Put(e) => Failure::from(e)
                .during("prune")
                .safe("every snapshot is as it was"),
            PruneError::Cache(_) => Failure::failed(message)
                .advice("give another place with --cache-dir, or use --no-cache"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_much_may_stay() {
        assert_eq!(max_unused("5%"), Ok(MaxUnused::Percent(5.0)));
        assert_eq!(max_unused("1G"), Ok(MaxUnused::Bytes(1 << 30)));
        assert_eq!(max_unused("unlimited"), Ok(MaxUnused::Unlimited));
        for bad in ["100%", "-1%", "x%", "NaN%", "lots"] {
            assert!(max_unused(bad).is_err(), "{bad}");
        }
    }
}

//! `forget`: drops snapshots, by a policy or by name.

use clap::Args;
use keepwatch_engine::forget::{self, ForgetError, Group, MANY, Plan, Unusual};
use keepwatch_engine::ids::ObjectId;
use keepwatch_engine::snapshots::SnapshotRecord;
use keepwatch_model::duration::CalendarSpan;
use keepwatch_model::retention::{Count, GroupBy, Policy, parse_tags};
use serde_json::{Value, json};

use super::prune::{self, PruneArgs};
use super::snapshots::record_json;
use crate::clock;
use crate::context::Context;
use crate::errors::{Exit, Failure, Outcome};
use crate::jobs::ConfiguredArgs;
use crate::output::{Align, Out, Table, again_with, count, escape, print_json_after};
use crate::select::{FilterArgs, pick};

/// Drop snapshots by a policy, or by name
#[derive(Args)]
#[command(
    long_about = "Drop snapshots by a policy, or by name.\n\nA snapshot is kept when any of the rules wants it. The rules are applied to each group by itself, by default to each host and job. The newest complete snapshot of a group is never dropped by a policy. Forgotten snapshots can be brought back until 'prune' has deleted them; the space is freed by 'prune'.\n\nA policy that would drop more than half of the snapshots at once stops (exit status 5) unless --allow-many is given: once when a policy is applied to an old repository for the first time, and when it has a slip. It does not count what was made since the last 'forget', nor up to 20 snapshots.",
    after_help = "Examples:
  keepwatch forget --keep-daily 7 --keep-weekly 4 --keep-monthly 12 --dry-run
  keepwatch forget --keep-within 30d --keep-tag archive --prune
  keepwatch forget --keep-daily 7 --keep-weekly 4 --allow-many      the first time in an old repository
  keepwatch forget 3f2a91c0
  keepwatch forget --job home            by the policy that the configuration gives the job 'home'"
)]
pub struct ForgetArgs {
    /// Snapshots to drop, whatever a policy would say
    #[arg(value_name = "SNAPSHOT")]
    pub snapshots: Vec<String>,
    /// Keep the newest N
    #[arg(short = 'l', long, value_name = "N", help_heading = "Policy")]
    pub keep_last: Option<Count>,
    /// Keep the newest of each of N hours
    #[arg(short = 'H', long, value_name = "N", help_heading = "Policy")]
    pub keep_hourly: Option<Count>,
    /// Keep the newest of each of N days
    #[arg(short = 'd', long, value_name = "N", help_heading = "Policy")]
    pub keep_daily: Option<Count>,
    /// Keep the newest of each of N weeks
    #[arg(short = 'w', long, value_name = "N", help_heading = "Policy")]
    pub keep_weekly: Option<Count>,
    /// Keep the newest of each of N months
    #[arg(short = 'm', long, value_name = "N", help_heading = "Policy")]
    pub keep_monthly: Option<Count>,
    /// Keep the newest of each of N years
    #[arg(short = 'y', long, value_name = "N", help_heading = "Policy")]
    pub keep_yearly: Option<Count>,
    /// Keep all younger than this, counted back from the newest: 1y5m7d2h
    #[arg(long, value_name = "SPAN", help_heading = "Policy")]
    pub keep_within: Option<CalendarSpan>,
    /// Keep the newest of each hour within this
    #[arg(long, value_name = "SPAN", help_heading = "Policy")]
    pub keep_within_hourly: Option<CalendarSpan>,
    /// Keep the newest of each day within this
    #[arg(long, value_name = "SPAN", help_heading = "Policy")]
    pub keep_within_daily: Option<CalendarSpan>,
    /// Keep the newest of each week within this
    #[arg(long, value_name = "SPAN", help_heading = "Policy")]
    pub keep_within_weekly: Option<CalendarSpan>,
    /// Keep the newest of each month within this
    #[arg(long, value_name = "SPAN", help_heading = "Policy")]
    pub keep_within_monthly: Option<CalendarSpan>,
    /// Keep the newest of each year within this
    #[arg(long, value_name = "SPAN", help_heading = "Policy")]
    pub keep_within_yearly: Option<CalendarSpan>,
    /// Keep all with these tags, separated by commas (repeatable)
    #[arg(long = "keep-tag", value_name = "TAG[,TAG]", help_heading = "Policy")]
    pub keep_tags: Vec<String>,
    /// What makes a group: host, job, tags, paths, separated by commas; empty for one group
    #[arg(short = 'g', long, value_name = "KEYS", default_value_t = GroupBy::default(), help_heading = "Policy")]
    pub group_by: GroupBy,
    #[command(flatten)]
    pub filter: FilterArgs,
    #[command(flatten)]
    pub configured: ConfiguredArgs,
    /// Show what would be dropped, and why the others are kept; change nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Run 'prune' afterwards
    #[arg(long)]
    pub prune: bool,
    /// Go on although a policy would drop more than half of the snapshots, or the last one of a group
    #[arg(long)]
    pub allow_many: bool,
}

impl ForgetArgs {
    /// Whether a job of the configuration is meant: one is named, and nothing says what to drop.
    pub fn is_configured(&self) -> bool {
        !self.filter.jobs.is_empty() && self.snapshots.is_empty() && self.policy().is_empty()
    }

    fn policy(&self) -> Policy {
        Policy {
            last: self.keep_last.unwrap_or_default(),
            hourly: self.keep_hourly.unwrap_or_default(),
            daily: self.keep_daily.unwrap_or_default(),
            weekly: self.keep_weekly.unwrap_or_default(),
            monthly: self.keep_monthly.unwrap_or_default(),
            yearly: self.keep_yearly.unwrap_or_default(),
            within: self.keep_within.unwrap_or_default(),
            within_hourly: self.keep_within_hourly.unwrap_or_default(),
            within_daily: self.keep_within_daily.unwrap_or_default(),
            within_weekly: self.keep_within_weekly.unwrap_or_default(),
            within_monthly: self.keep_within_monthly.unwrap_or_default(),
            within_yearly: self.keep_within_yearly.unwrap_or_default(),
            tags: self.keep_tags.iter().map(|t| parse_tags(t)).collect(),
        }
    }
}

/// The verb.
pub fn run(context: &Context, args: &ForgetArgs) -> Outcome {
    let policy = args.policy();
    match (policy.is_empty(), args.snapshots.is_empty()) {
        (true, true) => {
            return Err(Failure::usage("neither a policy nor snapshots to forget were given; nothing was changed")
                .advice("give for example --keep-daily 7 --keep-weekly 4 --keep-monthly 12, or the ids of snapshots"));
        }
        (false, false) => {
            return Err(Failure::usage(
                "both a policy and snapshots to forget were given; nothing was changed",
            )
            .advice("give one or the other"));
        }
        _ => {}
    }
    let repository = if args.dry_run {
        context.open_any()?
    } else {
        context.open_to_maintain("forgetting snapshots")?
    };
    let set = context.snapshots(&repository)?;
    let now = clock::now();
    let filter = args.filter.filter();
    let plan;
    let mut dropped: Vec<&SnapshotRecord> = Vec::new();
    if args.snapshots.is_empty() {
        plan = forget::plan(&set, &policy, args.group_by.keys(), &filter, now);
        dropped = plan.forgotten();
    } else {
        plan = Plan::default();
        for text in &args.snapshots {
            let s = pick(&set, text, &filter, now)?;
            if !dropped.iter().any(|d| d.id == s.id) && set.live.iter().any(|l| l.id == s.id) {
                dropped.push(s);
            }
        }
        if let Some(id) = forget::needed_by_others(&set, &dropped) {
            return Err(Failure::new(
                Exit::Refused,
                format!(
                    "incremental base backups are built on {} and could not be restored without it; nothing was forgotten",
                    id.short()
                ),
            )
            .advice("forget those as well, in one call: 'keepwatch wal verify' lists the base backups"));
        }
    }
    let unusual = forget::unusual(&set, &plan, now).map(|u| describe(&u, &plan, &args.group_by));
    match &unusual {
        Some(what) if !args.allow_many && !args.dry_run => {
            return Err(
                Failure::new(Exit::Refused, format!("{what}; nothing was forgotten")).advice(
                    format!(
                        "look at what it would drop with --dry-run; if that is what you want: {}",
                        again_with("--allow-many")
                    ),
                ),
            );
        }
        Some(what) if args.dry_run && !args.allow_many => context.note(&format!(
            "keepwatch: {what}; without --dry-run it stops, unless --allow-many is given"
        )),
        _ => {}
    }
    let tombstone = if args.dry_run || dropped.is_empty() {
        None
    } else {
        forget::apply(&repository, &dropped, now)?
    };
    let pruned = match args.prune {
        true if args.dry_run => {
            context.note("keepwatch: with --dry-run the snapshots are still there, so prune is not shown; run 'keepwatch prune --dry-run' afterwards");
            None
        }
        true => {
            let args = PruneArgs {
                allow_many: args.allow_many,
                ..PruneArgs::default()
            };
            Some(prune::prune(context, &repository, &args)?)
        }
        false => None,
    };
    if context.json() {
        print_json_after(&json!({
            "dry_run": args.dry_run,
            "groups": plan.groups.iter().map(group_json).collect::<Vec<_>>(),
            "forgotten": dropped.iter().map(|s| s.id).collect::<Vec<ObjectId>>(),
            "tombstone": tombstone,
            "unusual": unusual,
            "prune": pruned,
            "traffic": repository.store().traffic(),
        }))?;
        return Ok(Exit::Done);
    }
    let mut out = Out::new();
    for g in &plan.groups {
        if !context.globals.quiet {
            out.line(group_title(g, &args.group_by))?;
            out.table(&group_table(g))?;
            out.line("")?;
        }
    }
    let kept = plan.kept() as u64;
    let verb = if args.dry_run {
        "would be forgotten (dry run, nothing was changed)"
    } else {
        "forgotten"
    };
    let mut line = format!(
        "{} {verb}",
        count(dropped.len() as u64, "snapshot", "snapshots")
    );
    if args.snapshots.is_empty() {
        line += &format!(", {} kept", count(kept, "snapshot", "snapshots"));
    }
    out.line(line)?;
    if let Some(report) = &pruned {
        out.text(prune::summary(report, false))?;
    } else if !args.dry_run && !dropped.is_empty() && !context.globals.quiet {
        out.line("the space is freed by 'keepwatch prune'")?;
    }
    out.flush()?;
    Ok(Exit::Done)
}

/// One sentence without its end.
fn describe(unusual: &Unusual, plan: &Plan, by: &GroupBy) -> String {
    match unusual {
        Unusual::Many {
            dropped,
            of,
            recent,
        } => format!(
            "the policy drops {dropped} of {of} snapshots at once: more than half of them, and more than the {recent} made since the last 'forget' and {MANY} others"
        ),
        Unusual::Last { group, snapshots } => format!(
            "the policy leaves nothing of {}: {}, none of them complete",
            plan.groups
                .get(*group)
                .map_or_else(String::new, |g| group_title(g, by)),
            count(*snapshots as u64, "snapshot", "snapshots"),
        ),
    }
}

fn group_title(g: &Group, by: &GroupBy) -> String {
    use keepwatch_model::retention::GroupKey;
    let mut parts = Vec::new();
    for key in by.keys() {
        parts.push(match key {
            GroupKey::Host => format!("host {}", escape(g.host.as_deref().unwrap_or("-"))),
            GroupKey::Job => match &g.job {
                Some(j) => format!("job {}", escape(j)),
                None => continue,
            },
            GroupKey::Tags => format!(
                "tags {}",
                escape(
                    &g.tags
                        .iter()
                        .flatten()
                        .cloned()
                        .collect::<Vec<_>>()
                        .join(",")
                )
            ),
            GroupKey::Paths => format!(
                "paths {}",
                escape(
                    &g.paths
                        .iter()
                        .flatten()
                        .cloned()
                        .collect::<Vec<_>>()
                        .join(" ")
                )
            ),
        });
    }
    if parts.is_empty() {
        "all snapshots".to_owned()
    } else {
        parts.join(", ")
    }
}

fn group_table(g: &Group) -> Table {
    use Align::Left;
    let mut table = Table::new(&[
        ("", Left),
        ("ID", Left),
        ("TIME", Left),
        ("TAGS", Left),
        ("WHY", Left),
    ]);
    for d in &g.decisions {
        let s = &d.snapshot;
        let why = if d.keep {
            d.reasons.join(", ")
        } else {
            "no rule wants it".to_owned()
        };
        table.row(&[
            if d.keep { "keep" } else { "forget" }.to_owned(),
            s.id.short(),
            s.start.short(),
            s.body.tags.join(","),
            why,
        ]);
    }
    table
}

fn group_json(g: &Group) -> Value {
    json!({
        "host": g.host,
        "job": g.job,
        "tags": g.tags,
        "paths": g.paths,
        "decisions": g.decisions.iter().map(|d| json!({
            "keep": d.keep,
            "reasons": d.reasons,
            "snapshot": record_json(&d.snapshot, false),
        })).collect::<Vec<_>>(),
    })
}

impl From<ForgetError> for Failure {
    fn from(e: ForgetError) -> Self {
        let message = e.to_string();
        match e {
            ForgetError::NotYours { .. } => Failure::new(Exit::Refused, message).advice(
                "forget it on the host that made it, or issue a writer key with the right to: keepwatch key writer --maintain",
            ),
            ForgetError::Put(e) => Failure::from(e).during("forget snapshots").safe("nothing was forgotten"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct One {
        #[command(flatten)]
        args: ForgetArgs,
    }

    #[test]
    fn flags_become_the_policy() {
        let a = One::parse_from([
            "x",
            "--keep-daily",
            "7",
            "--keep-within-weekly",
            "1y",
            "--keep-last",
            "unlimited",
            "--keep-tag",
            "a,b",
        ])
        .args;
        let p = a.policy();
        assert_eq!(p.daily, Count::Limit(7));
        assert_eq!(p.last, Count::Unlimited);
        assert_eq!(p.within_weekly.years, 1);
        assert_eq!(p.tags, vec![vec!["a".to_owned(), "b".to_owned()]]);
        assert_eq!(a.group_by, GroupBy::default());
        assert!(One::parse_from(["x", "abcd"]).args.policy().is_empty());
    }
}

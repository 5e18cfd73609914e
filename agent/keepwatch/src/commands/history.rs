//! `history`: what happened, the newest first: runs, changes of state, incidents, restarts.

use clap::{Args, ValueEnum};
use keepwatch_catalog::history::{self, HistoryFilter};
use keepwatch_model::duration::human_duration;
use keepwatch_model::history::Entry;
use keepwatch_model::time::{Moment, parse_when};
use serde_json::json;

use super::settings::{ConfigArgs, with_catalog};
use crate::context::Context;
use crate::errors::{Exit, Failure, Outcome};
use crate::output::{Align, Out, Table, print_json};

/// What happened
#[derive(Args)]
#[command(
    long_about = "What happened, the newest first: runs of backups, verifications and drills, changes of checks' states, incidents, restarts. From the catalog; the daemon need not run. Exit status 4 when nothing fits.",
    after_help = "Examples:
  keepwatch history
  keepwatch history nginx.service --since '2 days ago'
  keepwatch history --only runs --limit 10 --json"
)]
pub struct HistoryArgs {
    /// Only about this job, check or unit
    #[arg(value_name = "SUBJECT")]
    pub subject: Option<String>,
    /// Only this sort; may be given several times
    #[arg(long, value_name = "SORT", value_enum)]
    pub only: Vec<Sort>,
    /// Then or later
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Before
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: u32,
    /// Of all hosts that share the catalog
    #[arg(long)]
    pub all_hosts: bool,
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// Sorts of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Sort {
    /// Runs of backups, verifications, drills, …
    Runs,
    /// Changes of checks' states
    Changes,
    /// Incidents
    Incidents,
    /// Restarts
    Restarts,
}

/// The verb.
pub fn run(context: &Context, args: &HistoryArgs) -> Outcome {
    let loaded = args.config.load()?;
    let now = crate::clock::now();
    let when = |text: &Option<String>, option: &str| -> Result<Option<Moment>, Failure> {
        text.as_deref()
            .map(|t| parse_when(t, now).map_err(|e| Failure::usage(format!("{option}: {e}"))))
            .transpose()
    };
    let wants = |sort: Sort| args.only.is_empty() || args.only.contains(&sort);
    let mut filter = HistoryFilter {
        host: None,
        subject: args.subject.clone(),
        since: when(&args.since, "--since")?,
        until: when(&args.until, "--until")?,
        limit: args.limit,
        runs: wants(Sort::Runs),
        transitions: wants(Sort::Changes),
        incidents: wants(Sort::Incidents),
        restarts: wants(Sort::Restarts),
    };
    let all = args.all_hosts;
    let entries = with_catalog(&loaded.config, |catalog, host| async move {
        filter.host = (!all).then_some(host);
        history::list(&catalog, &filter).await
    })?;
    if context.json() {
        print_json(&json!({ "entries": entries }))?;
    } else if !entries.is_empty() {
        let mut out = Out::new();
        out.table(&table(&entries))?;
        out.flush()?;
    } else {
        context.note("Nothing of the sort was recorded.");
    }
    Ok(if entries.is_empty() {
        Exit::NothingFound
    } else {
        Exit::Done
    })
}

fn table(entries: &[Entry]) -> Table {
    let mut table = Table::new(&[
        ("TIME", Align::Left),
        ("WHAT", Align::Left),
        ("SUBJECT", Align::Left),
        ("OUTCOME", Align::Left),
        ("TOOK", Align::Right),
        ("DETAILS", Align::Left),
    ]);
    for entry in entries {
        let [what, subject, outcome, took, details] = row(entry);
        table.row(&[entry.at().short(), what, subject, outcome, took, details]);
    }
    table
}

fn row(entry: &Entry) -> [String; 5] {
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    let took = |d: Option<std::time::Duration>| d.map_or(String::new(), human_duration);
    match entry {
        Entry::Run(run) => [
            run.kind.to_string(),
            [&run.job, &run.repository]
                .into_iter()
                .flatten()
                .cloned()
                .collect::<Vec<_>>()
                .join(" to "),
            run.outcome.to_string(),
            took(run.duration),
            run.error.as_ref().map_or_else(
                || text(&run.snapshot),
                |e| format!("{}: {}", e.class, e.text),
            ),
        ],
        Entry::Transition(change) => [
            "check".to_owned(),
            change.check.clone(),
            match change.overlay {
                Some(overlay) => format!("{}, {overlay}", change.to),
                None => change.to.to_string(),
            },
            String::new(),
            text(&change.text),
        ],
        Entry::Incident(incident) => [
            "incident".to_owned(),
            incident.subject.clone(),
            if incident.closed.is_some() {
                "closed".to_owned()
            } else {
                format!("open, {}", incident.severity)
            },
            took(
                incident
                    .closed
                    .and_then(|end| between(incident.opened, end)),
            ),
            text(&incident.text),
        ],
        Entry::Restart(restart) => [
            "restart".to_owned(),
            restart.unit.clone(),
            match (restart.refusal, restart.recovered) {
                (Some(refusal), _) => format!("refused: {refusal}"),
                (None, Some(true)) => format!("{}, it helped", restart.outcome),
                (None, Some(false)) => format!("{}, in vain", restart.outcome),
                (None, None) => restart.outcome.to_string(),
            },
            took(restart.duration),
            match restart.attempt {
                0 => text(&restart.text),
                n => format!("attempt {n}; {}", text(&restart.text)),
            },
        ],
        Entry::Result(result) => [
            "result".to_owned(),
            result.check.clone(),
            result.outcome.to_string(),
            human_duration(result.latency),
            text(&result.text),
        ],
        Entry::Notification(message) => [
            "message".to_owned(),
            message.sink.clone(),
            message.state.to_string(),
            String::new(),
            message.topic.clone(),
        ],
        Entry::Repository(state) => [
            "repository".to_owned(),
            state.repository.clone(),
            if state.reachable {
                "reachable".to_owned()
            } else {
                "not reachable".to_owned()
            },
            String::new(),
            String::new(),
        ],
    }
}

fn between(from: Moment, to: Moment) -> Option<std::time::Duration> {
    let nanos = to.unix_nanos().checked_sub(from.unix_nanos())?;
    Some(std::time::Duration::from_nanos(u64::try_from(nanos).ok()?))
}

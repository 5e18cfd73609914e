//! `status`: how everything stands, as far as the catalog was told. The daemon need not run for it.

use std::collections::BTreeSet;

use clap::Args;
use keepwatch_catalog::checks::{self, CheckNow};
use keepwatch_catalog::events::{self, EventFilter};
use keepwatch_catalog::facts::{self, JobFacts};
use keepwatch_catalog::{Catalog, CatalogError};
use keepwatch_config::Config;
use keepwatch_model::incidents::Incident;
use keepwatch_model::runs::RunRecord;
use keepwatch_model::time::Moment;
use serde_json::{Value, json};

use super::settings::{ConfigArgs, with_catalog};
use crate::context::Context;
use crate::errors::{Exit, Outcome};
use crate::output::{Align, Out, Table, print_json};
use crate::serve::memory::{self, Memory};
use crate::serve::moment;

/// How checks and backups stand
#[derive(Args)]
#[command(
    long_about = "How checks, incidents and backups stand, as far as the catalog was told. The daemon need not run; when it does not, states are as old as the times beside them.",
    after_help = "Examples:
  keepwatch status
  keepwatch status --all-hosts --json"
)]
pub struct StatusArgs {
    /// Checks of all hosts that share the catalog, and those that are no longer configured
    #[arg(long)]
    pub all_hosts: bool,
    #[command(flatten)]
    pub config: ConfigArgs,
}

struct Found {
    checks: Vec<CheckNow>,
    incidents: Vec<Incident>,
    jobs: Vec<JobFacts>,
    units: Vec<GivenUp>,
}

/// A unit whose restarts did not help.
struct GivenUp {
    unit: String,
    since: Moment,
    result: Option<String>,
}

async fn ask(
    catalog: Catalog,
    host: Option<String>,
    memory: std::path::PathBuf,
) -> Result<Found, CatalogError> {
    let filter = EventFilter {
        host: host.clone(),
        only_open: true,
        ..EventFilter::default()
    };
    let mut jobs = facts::backup_facts(&catalog).await?;
    jobs.extend(facts::verification_facts(&catalog).await?);
    jobs.extend(facts::drill_facts(&catalog).await?);
    Ok(Found {
        units: given_up(&memory::load(&catalog, &memory).await),
        checks: checks::now(&catalog, host.as_deref()).await?,
        incidents: events::incidents(&catalog, &filter).await?,
        jobs,
    })
}

/// The verb.
pub fn run(context: &Context, args: &StatusArgs) -> Outcome {
    let loaded = args.config.load()?;
    let all = args.all_hosts;
    let memory = memory::file(&loaded.config.state_directory);
    let mut found = with_catalog(&loaded.config, |catalog, host| {
        ask(catalog, (!all).then_some(host), memory)
    })?;
    if !all {
        let known = configured(&loaded.config);
        found.checks.retain(|c| known.contains(c.check.as_str()));
    }
    if context.json() {
        print_json(&json!({
            "checks": found.checks.iter().map(check_json).collect::<Vec<_>>(),
            "incidents": found.incidents,
            "given_up": found.units.iter().map(|u| json!({ "unit": u.unit, "since": u.since, "last_result": u.result })).collect::<Vec<_>>(),
            "jobs": found.jobs.iter().map(job_json).collect::<Vec<_>>(),
        }))?;
        return Ok(Exit::Done);
    }
    let mut out = Out::new();
    if found.checks.is_empty() && found.jobs.is_empty() {
        context.note("Nothing was recorded yet.");
    }
    if !found.checks.is_empty() {
        out.table(&check_table(&found.checks))?;
    }
    if !found.incidents.is_empty() {
        out.line("")?;
        out.table(&incident_table(&found.incidents))?;
    }
    if !found.units.is_empty() {
        out.line("")?;
        out.table(&unit_table(&found.units))?;
    }
    if !found.jobs.is_empty() {
        out.line("")?;
        out.table(&job_table(&found.jobs))?;
    }
    out.flush()?;
    Ok(Exit::Done)
}

fn configured(config: &Config) -> BTreeSet<&str> {
    config.checks.keys().map(String::as_str).collect()
}

fn check_table(checks: &[CheckNow]) -> Table {
    let mut table = Table::new(&[
        ("CHECK", Align::Left),
        ("KIND", Align::Left),
        ("STATE", Align::Left),
        ("SINCE", Align::Left),
        ("LAST RUN", Align::Left),
        ("RESULT", Align::Left),
        ("TOOK", Align::Right),
        ("FAILED", Align::Right),
        ("DETAILS", Align::Left),
    ]);
    for c in checks {
        let mut state = "unknown".to_owned();
        let mut since = String::new();
        if let Some((is, overlay, at, _)) = &c.state {
            state = overlay.map_or_else(|| is.to_string(), |o| format!("{is}, {o}"));
            since = at.short();
        }
        let last = c.last.as_ref();
        table.row(&[
            c.check.clone(),
            c.kind.clone(),
            state,
            since,
            last.map_or(String::new(), |r| r.at.short()),
            last.map_or(String::new(), |r| r.outcome.to_string()),
            last.map_or(String::new(), |r| {
                keepwatch_model::duration::human_duration(r.latency)
            }),
            format!("{} of {}", c.failures_total, c.runs_total),
            last.and_then(|r| r.text.clone()).unwrap_or_default(),
        ]);
    }
    table
}

fn check_json(c: &CheckNow) -> Value {
    let (mut state, mut overlay, mut since) = (Value::from("unknown"), Value::Null, Value::Null);
    if let Some((is, hidden, at, _)) = &c.state {
        state = json!(is);
        overlay = json!(hidden);
        since = json!(at);
    }
    json!({
        "host": c.host,
        "check": c.check,
        "kind": c.kind,
        "first_seen": c.first_seen,
        "state": state,
        "overlay": overlay,
        "since": since,
        "last": c.last,
        "runs_total": c.runs_total,
        "failures_total": c.failures_total,
    })
}

fn incident_table(incidents: &[Incident]) -> Table {
    let mut table = Table::new(&[
        ("OPEN INCIDENT", Align::Left),
        ("SINCE", Align::Left),
        ("SEVERITY", Align::Left),
        ("REASON", Align::Left),
        ("DETAILS", Align::Left),
    ]);
    for i in incidents {
        table.row(&[
            i.subject.clone(),
            i.opened.short(),
            i.severity.to_string(),
            i.reason.map_or(String::new(), |r| r.to_string()),
            i.text.clone().unwrap_or_default(),
        ]);
    }
    table
}

/// Of this host, as the daemon remembers.
fn given_up(memory: &Memory) -> Vec<GivenUp> {
    let units = memory.watch.restarts.units.iter();
    units
        .filter_map(|(unit, state)| {
            Some(GivenUp {
                unit: unit.as_str().to_owned(),
                since: moment(state.gave_up?),
                result: state.last_result.clone(),
            })
        })
        .collect()
}

fn unit_table(units: &[GivenUp]) -> Table {
    let mut table = Table::new(&[
        ("UNIT", Align::Left),
        ("STATE", Align::Left),
        ("SINCE", Align::Left),
        ("LAST RESTART", Align::Left),
        ("WHAT TO DO", Align::Left),
    ]);
    for u in units {
        table.row(&[
            u.unit.clone(),
            "given up".to_owned(),
            u.since.short(),
            u.result.clone().unwrap_or_default(),
            format!("mend it, then 'keepwatch reset {}'", u.unit),
        ]);
    }
    table
}

fn job_table(jobs: &[JobFacts]) -> Table {
    let mut table = Table::new(&[
        ("RUN", Align::Left),
        ("JOB", Align::Left),
        ("REPOSITORY", Align::Left),
        ("LAST SUCCESS", Align::Left),
        ("LAST RUN", Align::Left),
        ("OUTCOME", Align::Left),
        ("DETAILS", Align::Left),
    ]);
    let at = |m: Option<Moment>| m.map_or_else(|| "never".to_owned(), |m| m.short());
    for f in jobs {
        let last = f.last_ended.as_ref();
        let mut outcome = last.map_or(String::new(), |run| run.outcome.to_string());
        if f.running > 0 {
            outcome = "running".to_owned();
        }
        table.row(&[
            f.kind.to_string(),
            f.job.clone(),
            f.repository.clone(),
            at(f.last_success_at()),
            at(f.last_start),
            outcome,
            last.map_or(String::new(), why),
        ]);
    }
    table
}

fn why(run: &RunRecord) -> String {
    run.error
        .as_ref()
        .map_or(String::new(), |e| format!("{}: {}", e.class, e.text))
}

fn job_json(f: &JobFacts) -> Value {
    json!({
        "kind": f.kind,
        "job": f.job,
        "repository": f.repository,
        "first_seen": f.first_seen,
        "running": f.running > 0,
        "last_start": f.last_start,
        "last_completion": f.last_completion(),
        "last_success": f.last_success_at(),
        "last_successful": f.last_successful(),
        "last_run": f.last_ended,
        "runs_total": f.runs_total,
        "failures_total": f.failures_total.iter().cloned().collect::<std::collections::BTreeMap<String, u64>>(),
    })
}

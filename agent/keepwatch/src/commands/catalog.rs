//! `catalog`: the record of what happened. It can be made again, as far as repositories know: nothing in it is needed to restore.

use std::process::{Command, Stdio};

use clap::{Args, Subcommand};
use keepwatch_config::Credentials;
use keepwatch_model::runs::{RunTotals, SnapshotFact};
use serde_json::{Value, json};

use super::settings::ConfigArgs;
use crate::context::Context;
use crate::errors::{Exit, Failure, Outcome, plain_io};
use crate::jobs::{Book, Setting, listing};
use crate::output::{count, plain, print_json};
use crate::serve::host_name;

/// Make the record of what happened again
#[derive(Args)]
#[command(
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Examples:
  keepwatch catalog rebuild
  keepwatch catalog rebuild --repository disk"
)]
pub struct CatalogArgs {
    #[command(subcommand)]
    pub what: What,
}

/// What of it.
#[derive(Subcommand)]
pub enum What {
    /// Write down from the snapshots of the repositories which backups ran
    #[command(
        long_about = "Write down from the snapshots of the repositories which backups ran.\n\nFor a catalog that was lost. Snapshots tell of every backup of this host that succeeded, at least in part; runs that failed, checks and restarts are gone with it. A damaged file must be moved away first. What is known already stays as it is, so this may be done again.",
        after_help = "Examples:\n  keepwatch catalog rebuild\n  keepwatch catalog rebuild --config ./config.toml --repository disk --json"
    )]
    Rebuild {
        #[command(flatten)]
        config: ConfigArgs,
        /// Only from this repository of the configuration (repeatable)
        #[arg(long = "repository", value_name = "NAME")]
        repositories: Vec<String>,
    },
}

/// The verb.
pub fn run(context: &Context, args: &CatalogArgs) -> Outcome {
    let What::Rebuild {
        config,
        repositories,
    } = &args.what;
    let loaded = config.load()?;
    let config = &loaded.config;
    let credentials = Credentials::of_this_process();
    let host = host_name(config);
    let setting = Setting {
        config,
        credentials: &credentials,
        host: &host,
    };
    let wanted: Vec<&String> = match repositories.is_empty() {
        true => config.repositories.keys().collect(),
        false => repositories.iter().collect(),
    };
    let (mut facts, mut troubles) = (Vec::new(), Vec::new());
    for name in wanted {
        match snapshots(context, &setting, name) {
            Ok(found) => facts.extend(found),
            Err(why) => troubles.push(format!("the repository {name} was left out: {why}")),
        }
    }
    let book = Book::open(config, &credentials, &host);
    let written = book.rebuild(&facts);
    book.close();
    let Some(written) = written else {
        return Err(
            Failure::failed("the catalog cannot be used; nothing was written down")
                .advice("the lines above say why"),
        );
    };
    for trouble in &troubles {
        context.note(trouble);
    }
    let lost = written.lost + written.refused;
    if context.json() {
        print_json(&json!({
            "snapshots": facts.len(),
            "recorded": written.stored,
            "known": written.known,
            "spooled": written.spooled,
            "lost": lost,
            "troubles": troubles,
        }))?;
    } else {
        context.note(&format!(
            "{} of this host found; {} written down that the catalog did not know",
            count(facts.len() as u64, "snapshot", "snapshots"),
            count(written.stored, "run", "runs"),
        ));
    }
    match (lost > 0, troubles.is_empty()) {
        (true, _) => Err(Failure::failed(format!(
            "{} could not be written down",
            count(lost, "run", "runs")
        ))),
        (false, true) => Ok(Exit::Done),
        (false, false) => Ok(Exit::Partial),
    }
}

/// Snapshots of this host, as the command lists them.
fn snapshots(
    context: &Context,
    setting: &Setting<'_>,
    name: &str,
) -> Result<Vec<SnapshotFact>, String> {
    let argv = listing(setting, name).map_err(|f| f.message)?;
    let (verb, rest) = argv.split_at(argv.len().min(1));
    let mut command = Command::new("/proc/self/exe");
    command.args(verb).arg("--json").arg("--forgotten");
    command.arg(format!("--supervised-by={}", std::process::id()));
    command.args(rest).stdin(Stdio::null());
    command.env_remove("KEEPWATCH_REPOSITORY");
    if context.globals.verbose == 0 {
        command.stderr(Stdio::null());
    }
    let done = command.output().map_err(|e| plain_io(&e))?;
    let said: Value = serde_json::from_slice(&done.stdout).unwrap_or_default();
    if let Some(why) = said["error"].as_str() {
        return Err(plain(why));
    }
    let Some(list) = said["snapshots"]
        .as_array()
        .filter(|_| done.status.success())
    else {
        return Err(format!("listing its snapshots ended with {}", done.status));
    };
    Ok(list.iter().filter_map(|s| fact(name, s)).collect())
}

/// A row of the list as a fact; copies are no backups of their own.
fn fact(repository: &str, row: &Value) -> Option<SnapshotFact> {
    if !row["original"].is_null() {
        return None;
    }
    let text = |key: &str| row[key].as_str().map(str::to_owned);
    let totals = &row["totals"];
    Some(SnapshotFact {
        snapshot: text("id")?,
        repository: repository.to_owned(),
        host: text("host")?,
        job: text("job").filter(|j| !j.is_empty()),
        started: row["time"].as_str()?.parse().ok()?,
        finished: row["end"].as_str()?.parse().ok()?,
        partial: row["outcome"].as_str() == Some("partial"),
        totals: RunTotals {
            files: totals["files"].as_u64(),
            source_bytes: totals["bytes"].as_u64(),
            added_bytes: totals["bytes_added"].as_u64(),
            source_errors: totals["problems"].as_u64(),
            ..RunTotals::default()
        },
    })
}

//! `restart`, `reset`, `maintenance`: what a person asks of the running daemon.

use std::time::Duration;

use clap::{Args, Subcommand};
use keepwatch_model::check::CheckName;
use keepwatch_model::duration::parse_duration;
use keepwatch_model::time::{Moment, parse_when};
use keepwatch_watch::systemd::UnitName;

use super::settings::{ConfigArgs, ask, end};
use crate::context::Context;
use crate::errors::{Exit, Failure, Outcome};
use crate::output::{Align, Out, Table, print_json};
use crate::serve::control::Question;

/// Restart a unit now
#[derive(Args)]
#[command(
    long_about = "Restart a unit now, through the daemon, so that it is written down and its checks settle. Only units that a check names. Cooldown, attempts and maintenance do not stop it; what systemd is already doing with the unit does. Ends when systemd's job has ended, with status 1 when that failed.",
    after_help = "Examples:
  keepwatch restart nginx.service
  keepwatch restart slow.service --no-wait
  keepwatch restart shop.service --json"
)]
pub struct RestartArgs {
    /// The unit
    #[arg(value_name = "UNIT")]
    pub unit: UnitName,
    /// Return when the restart has begun
    #[arg(long)]
    pub no_wait: bool,
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// The verb.
pub fn restart(context: &Context, args: &RestartArgs) -> Outcome {
    let loaded = args.config.load()?;
    let question = Question::Restart {
        unit: args.unit.clone(),
        wait: !args.no_wait,
    };
    end(context, ask(&loaded.config, &question)?)
}

/// Forget the restarts of a unit that was given up
#[derive(Args)]
#[command(
    long_about = "Forget attempts and cooldown of a unit, so that the daemon restarts it again when its checks fail. To be done after what made it fail was mended.",
    after_help = "Examples:
  keepwatch reset nginx.service"
)]
pub struct ResetArgs {
    /// The unit
    #[arg(value_name = "UNIT")]
    pub unit: UnitName,
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// The verb.
pub fn reset(context: &Context, args: &ResetArgs) -> Outcome {
    let loaded = args.config.load()?;
    let unit = args.unit.clone();
    end(context, ask(&loaded.config, &Question::Reset { unit })?)
}

/// Times in which nobody is told and nothing is restarted
#[derive(Args)]
#[command(
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Examples:
  keepwatch maintenance start upgrade --for 2h
  keepwatch maintenance list
  keepwatch maintenance end upgrade"
)]
pub struct MaintenanceArgs {
    #[command(subcommand)]
    pub what: Maintenance,
}

/// What about them.
#[derive(Subcommand)]
pub enum Maintenance {
    /// Open a window; it always has an end
    #[command(
        after_help = "Examples:\n  keepwatch maintenance start upgrade --for 2h\n  keepwatch maintenance start db --until '2026-11-23 06:00' --check app-db --note 'new disk'"
    )]
    Start {
        /// Its name; one that is open gets the new end
        #[arg(value_name = "NAME")]
        name: CheckName,
        /// How long
        #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration, required_unless_present = "until", conflicts_with = "until")]
        duration: Option<Duration>,
        /// Until when
        #[arg(long, value_name = "TIME")]
        until: Option<String>,
        /// Only this check; may be given several times. All checks without it
        #[arg(long, value_name = "CHECK")]
        check: Vec<CheckName>,
        /// Why, for others
        #[arg(long, value_name = "TEXT", default_value = "")]
        note: String,
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Close a window that was opened by hand
    #[command(after_help = "Examples:\n  keepwatch maintenance end upgrade")]
    End {
        /// Its name
        #[arg(value_name = "NAME")]
        name: CheckName,
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Windows that are open
    #[command(
        after_help = "Examples:\n  keepwatch maintenance list\n  keepwatch maintenance list --json"
    )]
    List {
        #[command(flatten)]
        config: ConfigArgs,
    },
}

/// The verb.
pub fn maintenance(context: &Context, args: &MaintenanceArgs) -> Outcome {
    match &args.what {
        Maintenance::Start {
            name,
            duration,
            until,
            check,
            note,
            config,
        } => {
            let ends = end_of(*duration, until.as_deref(), crate::clock::now())?;
            let question = Question::MaintenanceStart {
                name: name.clone(),
                checks: check.clone(),
                ends,
                note: note.clone(),
            };
            end(context, ask(&config.load()?.config, &question)?)
        }
        Maintenance::End { name, config } => {
            let name = name.clone();
            let question = Question::MaintenanceEnd { name };
            end(context, ask(&config.load()?.config, &question)?)
        }
        Maintenance::List { config } => {
            let reply = ask(&config.load()?.config, &Question::MaintenanceList)?;
            let rows = reply.data.as_array().cloned().unwrap_or_default();
            if context.json() {
                print_json(&serde_json::json!({ "windows": rows }))?;
            } else if rows.is_empty() {
                context.note("No maintenance window is open.");
            } else {
                let mut table = Table::new(&[
                    ("WINDOW", Align::Left),
                    ("SINCE", Align::Left),
                    ("ENDS", Align::Left),
                    ("OPENED BY", Align::Left),
                    ("NOTE", Align::Left),
                ]);
                for row in &rows {
                    let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
                    table.row(&[
                        text("name"),
                        local(&text("since")),
                        local(&text("ends")),
                        text("opened_by"),
                        text("note"),
                    ]);
                }
                let mut out = Out::new();
                out.table(&table)?;
                out.flush()?;
            }
            Ok(Exit::Done)
        }
    }
}

/// By the host's clock.
fn local(text: &str) -> String {
    match text.parse::<Moment>() {
        Ok(moment) => Moment::new(moment.at(), crate::clock::now().offset()).short(),
        Err(_) => text.to_owned(),
    }
}

/// The end of a window, in milliseconds since 1970.
fn end_of(duration: Option<Duration>, until: Option<&str>, now: Moment) -> Result<i64, Failure> {
    let millis = match (duration, until) {
        (Some(duration), _) => {
            now.unix_nanos() / 1_000_000 + i128::try_from(duration.as_millis()).unwrap_or(0)
        }
        (None, Some(until)) => {
            let until =
                parse_when(until, now).map_err(|e| Failure::usage(format!("--until: {e}")))?;
            until.unix_nanos() / 1_000_000
        }
        (None, None) => return Err(Failure::usage("a window needs --for or --until")),
    };
    i64::try_from(millis).map_err(|_| Failure::usage("the window would end too far away"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_window() {
        let now: Moment = "2026-11-22T04:00:00Z".parse().expect("a time");
        let base = now.unix_seconds() * 1000;
        let hour = Some(Duration::from_secs(3600));
        assert_eq!(end_of(hour, None, now).ok(), Some(base + 3_600_000));
        assert_eq!(
            end_of(None, Some("2026-11-22T05:00:00Z"), now).ok(),
            Some(base + 3_600_000)
        );
        assert!(end_of(None, Some("soonish"), now).is_err());
        assert!(end_of(None, None, now).is_err());
    }
}

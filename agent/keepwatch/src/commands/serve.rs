//! `serve`: the daemon.

use clap::Args;

use super::settings::ConfigArgs;
use crate::errors::Outcome;

/// Watch, restart what fails, remember, and show it
#[derive(Args)]
#[command(
    long_about = "The daemon: runs the checks of the configuration, restarts units that fail, writes down what happened, tells people, and serves /metrics and /health. SIGHUP reads the configuration again (one with faults changes nothing), SIGTERM ends it in good order. Backups are no part of it: they are runs of their own.",
    after_help = "Examples:
  keepwatch serve --config /etc/keepwatch/config.toml
  keepwatch config check --config ./config.toml && keepwatch serve --config ./config.toml"
)]
pub struct ServeArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// The verb.
pub fn run(args: &ServeArgs) -> Outcome {
    let loaded = args.config.load()?;
    crate::serve::run(&args.config.config, loaded)
}

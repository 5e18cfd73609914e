//! `config`: what is configured, and whether it can be.

use clap::{Args, Subcommand};
use serde_json::json;

use super::settings::ConfigArgs;
use crate::context::Context;
use crate::errors::{Exit, Failure, Outcome};
use crate::output::{Out, print_json};

/// Check, show or describe the configuration
#[derive(Args)]
#[command(
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Examples:
  keepwatch config check --config ./config.toml
  keepwatch config show
  keepwatch config schema > keepwatch.schema.json"
)]
pub struct ConfigVerbArgs {
    #[command(subcommand)]
    pub what: What,
}

/// What of it.
#[derive(Subcommand)]
pub enum What {
    /// Name everything that is wrong with a file; nothing but the file is read
    #[command(
        after_help = "Examples:\n  keepwatch config check --config ./config.toml\n  keepwatch config check --json"
    )]
    Check {
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// What is in effect, with every default
    #[command(
        after_help = "Examples:\n  keepwatch config show\n  keepwatch config show --config ./config.toml --json"
    )]
    Show {
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// The JSON Schema of the file, for editors
    #[command(after_help = "Examples:\n  keepwatch config schema > keepwatch.schema.json")]
    Schema,
}

/// The verb.
pub fn run(context: &Context, args: &ConfigVerbArgs) -> Outcome {
    match &args.what {
        What::Check { config } => check(context, config),
        What::Show { config } => {
            let loaded = config.load()?;
            if context.json() {
                print_json(&loaded.to_json())?;
            } else {
                let mut out = Out::new();
                out.text(loaded.to_toml())?;
                out.flush()?;
            }
            Ok(Exit::Done)
        }
        What::Schema => {
            print_json(&keepwatch_config::schema())?;
            Ok(Exit::Done)
        }
    }
}

fn check(context: &Context, config: &ConfigArgs) -> Outcome {
    let loaded = match keepwatch_config::load(&config.config) {
        Ok(loaded) => loaded,
        Err(faults) if context.json() => {
            print_json(
                &json!({ "ok": false, "faults": faults.faults, "more": faults.more, "exit_code": Exit::WrongUse as u8 }),
            )?;
            return Ok(Exit::WrongUse);
        }
        Err(faults) => return Err(config.failure(&faults)),
    };
    let unusable = crate::serve::examine(&loaded.config);
    if context.json() {
        print_json(
            &json!({ "ok": unusable.is_empty(), "faults": unusable, "warnings": loaded.warnings }),
        )?;
    } else {
        for warning in &loaded.warnings {
            context.note(&format!("warning: {warning}"));
        }
    }
    if !unusable.is_empty() {
        return Err(Failure::usage(format!(
            "the configuration {} cannot be used:\n{}",
            config.config.display(),
            unusable.join("\n")
        )));
    }
    context.note(&format!("{} is good", config.config.display()));
    Ok(Exit::Done)
}

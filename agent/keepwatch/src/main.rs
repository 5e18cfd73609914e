//! The command line of Keepwatch. `cli` defines it, `commands` holds a file for each verb.

mod cli;
mod clock;
mod commands;
mod context;
mod errors;
mod estimate;
mod jobs;
mod keys;
mod logs;
mod mount;
mod output;
mod places;
mod progress;
mod select;
mod serve;
mod signals;
mod standing;
mod stores;
mod told;

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use clap::FromArgMatches;
use keepwatch_engine::progress::Cancel;
use keepwatch_engine::store::{Store, Traffic};

use crate::cli::Cli;
use crate::context::Context;
use crate::errors::Failure;
use crate::output::{escape_lines, tell};

fn main() -> ExitCode {
    end_panics_with_a_sentence();
    let cli = match cli::definition()
        .try_get_matches()
        .and_then(|m| Cli::from_arg_matches(&m))
    {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version go to standard output with status 0, everything else is wrong use.
            let _ = e.print();
            if e.use_stderr() && std::env::args_os().skip(1).any(|a| a == "--json") {
                let failure = wrong_use(&e);
                let _ = output::print_json(&error_json(&failure, None));
            }
            let status = match e.use_stderr() {
                true => status_of_mistakes(2),
                false => 0,
            };
            return ExitCode::from(status);
        }
    };
    // The daemon logs as its configuration says.
    if !matches!(cli.command, cli::Command::Serve(_)) {
        logs::begin(cli.globals.verbose);
    }
    let json = cli.globals.json;
    let asked: Arc<OnceLock<Arc<dyn Store>>> = Arc::default();
    let context = Context {
        globals: cli.globals,
        places: places::Places::from_env(),
        cancel: Cancel::new(),
        child: Default::default(),
        opened: Default::default(),
        asked: asked.clone(),
        prefix: "",
    };
    let supervisor = context.globals.supervised_by;
    let exit = match commands::run(context, cli.command) {
        Ok(exit) => exit,
        Err(failure) => {
            let traffic = asked.get().and_then(|store| store.traffic());
            report(&failure, traffic, json);
            failure.exit
        }
    };
    signals::sweep(supervisor);
    ExitCode::from(exit as u8)
}

fn report(failure: &Failure, traffic: Option<Traffic>, json: bool) {
    if failure.quiet {
        return;
    }
    tell(&format!(
        "keepwatch: {}",
        escape_lines(&output::plain(&failure.message))
    ));
    if let Some(advice) = &failure.advice {
        tell(&format!("  what to do: {}", escape_lines(advice)));
    }
    if json && !output::json_was_begun() {
        let _ = output::print_json(&error_json(failure, traffic));
    }
}

/// The document of a command that failed; `traffic`: what it asked of a store over a network before it did.
fn error_json(failure: &Failure, traffic: Option<Traffic>) -> serde_json::Value {
    let mut document = serde_json::json!({ "error": output::plain(&failure.message), "advice": failure.advice, "exit_code": failure.exit as u8 });
    if let Some(traffic) = traffic {
        document["traffic"] = serde_json::json!(traffic);
    }
    document
}

/// What the parser of the command line says, as a failure: its first paragraph, and the rest as advice.
fn wrong_use(e: &clap::Error) -> Failure {
    let text = e.render().to_string();
    let mut paragraphs = text.split("\n\n").map(|p| {
        let words: Vec<&str> = p.split_whitespace().collect();
        words.join(" ")
    });
    let first = paragraphs.next().unwrap_or_default();
    let message = match first.strip_prefix("error: ") {
        Some(m) => m.to_owned(),
        // A command without its verb or arguments: the parser shows the help.
        None => "the command line is not complete".to_owned(),
    };
    let rest = paragraphs.filter(|p| !p.is_empty());
    let advice = rest.collect::<Vec<_>>().join("; ");
    match advice.is_empty() || !first.starts_with("error: ") {
        true => Failure::usage(message).advice("see 'keepwatch --help'"),
        false => Failure::usage(message).advice(advice),
    }
}

/// Libraries whose logs are never shown, whatever filter is given.
const SILENT: [&str; 16] = [
    "aws_config",
    "aws_credential_types",
    "aws_runtime",
    "aws_sdk_s3",
    "aws_sdk_sts",
    "aws_sigv4",
    "aws_smithy_http_client",
    "aws_smithy_runtime",
    "aws_smithy_runtime_api",
    "hyper",
    "hyper_util",
    "lettre",
    "rustls",
    "sqlx",
    "tokio_postgres",
    "zbus",
];

/// What is logged at a level (or as `KEEPWATCH_LOG` says), without the libraries that say too much.
fn quiet_filter(level: &str) -> tracing_subscriber::EnvFilter {
    use tracing_subscriber::EnvFilter;
    let filter = std::env::var("KEEPWATCH_LOG")
        .ok()
        .and_then(|f| EnvFilter::try_new(f).ok())
        .unwrap_or_else(|| EnvFilter::new(level));
    // These write requests with their headers into the log, a session token among them, when they are asked to say more.
    SILENT.iter().fold(filter, |filter, name| {
        match format!("{name}=error").parse() {
            Ok(directive) => filter.add_directive(directive),
            Err(_) => filter,
        }
    })
}

/// A panic is a bug of ours. It ends as one sentence, and with the status of a failure.
fn end_panics_with_a_sentence() {
    std::panic::set_hook(Box::new(|info| {
        let what = info
            .payload()
            .downcast_ref::<&str>()
            .map(|s| (*s).to_owned())
            .or_else(|| info.payload().downcast_ref::<String>().cloned())
            .unwrap_or_default();
        let place = info
            .location()
            .map(|l| format!(" ({}:{})", l.file(), l.line()))
            .unwrap_or_default();
        tell(&format!(
            "keepwatch: stopped by a mistake in Keepwatch itself: {}{place}; snapshots committed before are safe\n  what to do: run it again, and report this line",
            escape_lines(&what)
        ));
        std::process::exit(status_of_mistakes(1).into());
    }));
}

/// The status with which a mistake ends: `usual`, unless PostgreSQL asked for a file of its log. By any small status it would believe that the log ends here, and open the database
/// without the rest.
fn status_of_mistakes(usual: u8) -> u8 {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    match words.windows(2).any(|w| w[0] == "wal" && w[1] == "fetch") {
        true => errors::Exit::Broken as u8,
        false => usual,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_parser_says_becomes_one_sentence_and_advice() {
        let said = |words: &[&str]| {
            let words = std::iter::once(&"keepwatch").chain(words);
            match cli::definition().try_get_matches_from(words) {
                Ok(_) => panic!("taken"),
                Err(e) => wrong_use(&e),
            }
        };
        let f = said(&["snapshots", "--jsn"]);
        assert!(f.message.contains("'--jsn'"), "{}", f.message);
        assert!(f.advice.as_deref().unwrap_or("").contains("--json"));
        assert_eq!(f.exit as u8, 2);
        let f = said(&["prune", "--grace", "soon", "--json"]);
        assert!(f.message.contains("soon") && !f.message.contains('\n'));
        let f = said(&[]);
        assert!(f.message.contains("not complete") && f.advice.is_some());
    }
}

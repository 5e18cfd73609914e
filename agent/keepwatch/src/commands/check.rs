//! `check`: asks what a check asks, once and now. Nothing is judged, recorded, told or restarted: that is the daemon's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use keepwatch_config::Credentials;
use keepwatch_config::plan::Tools;
use keepwatch_model::duration::human_duration;
use keepwatch_watch::clock::HostClock;
use keepwatch_watch::conductor::{Ask, Check};
use keepwatch_watch::judge::bands;
use keepwatch_watch::net::Net;
use keepwatch_watch::outcome::Outcome as Found;
use keepwatch_watch::probe;
use keepwatch_watch::systemd::Systemd;
use serde_json::{Value, json};

use super::settings::ConfigArgs;
use crate::context::Context;
use crate::errors::{Exit, Failure, Outcome};
use crate::output::{Out, escape, plain, print_json};
use crate::serve::host_name;

/// So many are asked at once, as by the daemon: a socket and a megabyte each at most.
const AT_ONCE: usize = 16;

/// Ask what checks ask, once and now
#[derive(Args)]
#[command(
    long_about = "Ask what checks ask, once and now: to try a configuration, or to see whether what was mended works.\n\nNothing is judged, recorded, told to anybody or restarted. Passwords are read as this user, so a check may fail here that does not in the daemon. Checks that ask nothing by themselves (heartbeat, group) are left out.\n\nExit status 0: all answered as they should; 1: some did not.",
    after_help = "Examples:
  keepwatch check
  keepwatch check shop-frontend --config ./config.toml
  keepwatch check database --json"
)]
pub struct CheckArgs {
    /// The checks; all of them when none is named
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// One answer.
struct Answer {
    check: Check,
    found: Found,
    took: Duration,
}

/// The verb.
pub fn run(context: &Context, args: &CheckArgs) -> Outcome {
    let loaded = args.config.load()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::failed(format!("cannot start a runtime: {e}")))?;
    let checks = {
        let _inside = runtime.enter();
        let credentials = Credentials::of_this_process();
        let plan = loaded.config.plan(
            &host_name(&loaded.config),
            &Tools {
                net: &Net::new(Arc::new(HostClock)),
                systemd: &Arc::new(Systemd::default()),
                credentials: &credentials,
            },
        );
        plan.map_err(|faults| Failure::usage(faults.join("; ")))?
            .checks
    };
    let known: Vec<String> = checks.iter().map(|c| c.name.to_string()).collect();
    if let Some(unknown) = args.names.iter().find(|n| !known.contains(n)) {
        return Err(Failure::new(
            Exit::NothingFound,
            format!(
                "there is no check '{}' in the configuration",
                escape(unknown)
            ),
        )
        .advice(match known.is_empty() {
            true => "it has none at all".to_owned(),
            false => format!("use one of: {}", known.join(" ")),
        }));
    }
    let is_wanted = |c: &Check| match args.names.is_empty() {
        true => c.enabled && matches!(c.ask, Ask::Probe(_)),
        false => args.names.iter().any(|n| *n == c.name.as_str()),
    };
    let wanted: Vec<Check> = checks.into_iter().filter(is_wanted).collect();
    if let Some(silent) = wanted.iter().find(|c| !matches!(c.ask, Ask::Probe(_))) {
        return Err(Failure::usage(format!(
            "the check {} is a {} and asks nothing by itself",
            silent.name,
            silent.ask.kind().as_str()
        ))
        .advice("'keepwatch status' shows how it stands"));
    }
    if wanted.is_empty() {
        return Err(Failure::new(Exit::NothingFound, "there is nothing to ask"));
    }
    let answers = runtime.block_on(ask(wanted));
    runtime.shutdown_timeout(Duration::from_secs(1));
    if context.json() {
        let list: Vec<Value> = answers.iter().map(Answer::json).collect();
        print_json(&json!({ "checks": list }))?;
    } else {
        let mut out = Out::new();
        for answer in &answers {
            out.text(answer.text())?;
        }
        out.flush()?;
    }
    match answers.iter().all(|a| a.found.failure.is_none()) {
        true => Ok(Exit::Done),
        false => Ok(Exit::Failed),
    }
}

/// Asks all, some at once; the answers are in the order of the questions.
async fn ask(checks: Vec<Check>) -> Vec<Answer> {
    let mut answers = Vec::with_capacity(checks.len());
    let mut waiting = checks.into_iter();
    loop {
        let some: Vec<Check> = waiting.by_ref().take(AT_ONCE).collect();
        if some.is_empty() {
            return answers;
        }
        let asked = some.into_iter().map(|check| {
            tokio::spawn(async move {
                let begun = Instant::now();
                let mut found = match &check.ask {
                    Ask::Probe(probe) => probe::run(&**probe, check.timeout).await,
                    Ask::Heartbeat(_) | Ask::Group(_) => Found::success(),
                };
                // As the daemon judges it: with the limits of the check.
                let verdict = bands::apply(&check.rules.bands, &mut Vec::new(), &found);
                (found.failure, found.warnings) = (verdict.failure, verdict.warnings);
                Answer {
                    check,
                    found,
                    took: begun.elapsed(),
                }
            })
        });
        for one in asked.collect::<Vec<_>>() {
            if let Ok(answer) = one.await {
                answers.push(answer);
            }
        }
    }
}

impl Answer {
    fn state(&self) -> &'static str {
        match (&self.found.failure, self.found.warnings.is_empty()) {
            (Some(_), _) => "failure",
            (None, false) => "degraded",
            (None, true) => "success",
        }
    }

    fn text(&self) -> String {
        let mut out = format!(
            "{} ({}): {} in {}\n",
            self.check.name,
            self.check.ask.kind().as_str(),
            self.state(),
            human_duration(self.took)
        );
        if let Some(failure) = &self.found.failure {
            out += &format!(
                "  {}: {}\n",
                failure.reason.as_str(),
                escape(&plain(&failure.text))
            );
        }
        for warning in &self.found.warnings {
            out += &format!("  warning: {}\n", escape(warning));
        }
        for measure in &self.found.measures {
            out += &format!("  {} {}\n", measure.quantity, measure.value);
        }
        out
    }

    fn json(&self) -> Value {
        let failure = self.found.failure.as_ref();
        let measures: serde_json::Map<String, Value> = self
            .found
            .measures
            .iter()
            .map(|m| (m.quantity.to_string(), m.value.into()))
            .collect();
        json!({
            "check": self.check.name.as_str(),
            "kind": self.check.ask.kind().as_str(),
            "result": self.state(),
            "reason": failure.map(|f| f.reason.as_str()),
            "text": failure.map(|f| plain(&f.text)),
            "warnings": self.found.warnings,
            "measures": measures,
            "duration_seconds": self.took.as_secs_f64(),
        })
    }
}

//! What happened as log records, one kind of event each with its own `MESSAGE_ID`, so that `journalctl MESSAGE_ID=…` finds all of
//! a kind on every host. Results of single runs are logged at the level *debug*; the catalog has them all.

use keepwatch_model::check::State;
use keepwatch_model::incidents::RestartRecord;
use keepwatch_watch::event::{Event, RestartStep};
use keepwatch_watch::judge::Closed;
use keepwatch_watch::restart::Asker;
use keepwatch_watch::restart::policy::Step;

use super::records::Records;

/// A check came to another state.
const STATE: &str = "e7494ad2c7f0419c9731bef260d27a2d";
/// An incident was opened.
const OPENED: &str = "37eb49cf53c54a31aa97c07efab5e83b";
/// An incident is over.
const CLOSED: &str = "1909b312d78942e39732e0312bb8cd88";
/// A check begins or ceases to flap.
const FLAPPING: &str = "a13b1e96665f4e7bb8f2e19ad06f7518";
/// A restart was refused.
const REFUSED: &str = "6c0b7f58a7d24b0e9a3df0d1c1f7e2b4";
/// A restart begins.
const STARTED: &str = "aaf0a8ef84894d8d8cd89add70f6e268";
/// Its job ended, well or not.
const FINISHED: &str = "d83c5f1b0e9746d2b1a64c7f95e03a28";
/// The unit is well again after it.
const RECOVERED: &str = "2fb9e6a470c14d53867bd2e85f1c093e";
/// Restarts did not help, and no more are made.
const GAVE_UP: &str = "91d7c34ae5f842068db35a0c6ef21b97";
/// The unit is well, and restarts are made again.
const RESUMED: &str = "47e02d9bb6c54f1fa8937d6e1058ac3f";
/// An operator made a unit forget its restarts.
const RESET: &str = "b5a86f03d1e74c29905cf47e2a6b18d3";
/// Maintenance windows opened or closed.
const WINDOWS: &str = "4b91dadb6acb48cb9035498e697ded70";
/// The clock jumped.
const CLOCK: &str = "a5f19a12956c4670a461a9cf9f57988b";

/// Logs it. `records` know of which attempt a step is; they are told of the event after this.
pub fn tell(event: &Event, records: &Records) {
    match event {
        Event::Result(run) => {
            let reason = run.failure.as_ref().map_or("", |f| f.reason.as_str());
            tracing::debug!(
                keepwatch_check = %run.check,
                keepwatch_kind = %run.kind,
                keepwatch_reason = reason,
                keepwatch_duration_ms = millis(run.duration),
                "check {}: {}{}",
                run.check,
                run.result,
                run.failure.as_ref().map_or(String::new(), |f| format!(", {}", f.text))
            );
        }
        Event::Transition {
            check,
            kind,
            from,
            to,
            failure,
            ..
        } => {
            let reason = failure.as_ref().map_or("", |f| f.reason.as_str());
            let why = failure
                .as_ref()
                .map_or(String::new(), |f| format!(": {}", f.text));
            if *to == State::Unhealthy {
                tracing::warn!(message_id = STATE, keepwatch_check = %check, keepwatch_kind = %kind, keepwatch_reason = reason, "check {check} is {to}, it was {from}{why}");
            } else {
                tracing::info!(message_id = STATE, keepwatch_check = %check, keepwatch_kind = %kind, keepwatch_reason = reason, "check {check} is {to}, it was {from}{why}");
            }
        }
        Event::Overlays { check, to, .. } => {
            let shown = to.shown().map_or("nothing", |o| o.as_str());
            tracing::debug!(keepwatch_check = %check, "what hides check {check}: {shown}");
        }
        Event::IncidentOpened {
            check,
            severity,
            incident,
        } => {
            let why = incident
                .failure
                .as_ref()
                .map_or(String::new(), |f| format!(": {}", f.text));
            tracing::warn!(message_id = OPENED, keepwatch_check = %check, keepwatch_severity = %severity, "an incident of check {check} begins{why}");
        }
        Event::IncidentClosed {
            check,
            at,
            incident,
            why,
        } => {
            let lasted = at.since(incident.opened);
            tracing::info!(message_id = CLOSED, keepwatch_check = %check, keepwatch_duration_ms = millis(lasted), "the incident of check {check} is over: {}", closed(*why));
        }
        Event::Flapping { check, on, .. } => {
            let word = if *on { "begins" } else { "ceases" };
            tracing::warn!(message_id = FLAPPING, keepwatch_check = %check, "check {check} {word} to flap");
        }
        Event::Overrun { check, count, .. } => {
            tracing::info!(keepwatch_check = %check, "check {check}: {count} runs left out, because one was still going on");
        }
        Event::Restart { unit, step, .. } => {
            let unit = unit.as_str();
            restart(unit, step, &Attempt::of(records.under_way(unit)));
        }
        Event::Windows { open, .. } => {
            let names: Vec<&str> = open.iter().map(|n| n.as_str()).collect();
            tracing::info!(
                message_id = WINDOWS,
                "maintenance windows that are open: {}",
                if names.is_empty() {
                    "none".to_owned()
                } else {
                    names.join(", ")
                }
            );
        }
        Event::ClockJump { by_ms, .. } => {
            tracing::warn!(
                message_id = CLOCK,
                "the clock jumped by {} s, or the host slept; all checks begin anew",
                by_ms / 1000
            );
        }
    }
}

/// The attempt that a step belongs to, as far as it is known: it was begun by this daemon, or the one before wrote it down.
#[derive(Debug, Default, PartialEq)]
struct Attempt<'a> {
    /// The check that asked for it; none for an operator.
    check: &'a str,
    /// The how-manieth; 0 for an operator's.
    number: u64,
    /// How its job ended.
    result: &'a str,
}

impl<'a> Attempt<'a> {
    fn of(record: Option<&'a RestartRecord>) -> Self {
        record.map_or_else(Self::default, |r| Self {
            check: r.check.as_deref().unwrap_or_default(),
            number: u64::from(r.attempt),
            result: r.duration.and(r.text.as_deref()).unwrap_or_default(),
        })
    }
}

fn restart(unit: &str, step: &RestartStep, of: &Attempt<'_>) {
    match step {
        RestartStep::Refused { asker, reason } => {
            tracing::warn!(message_id = REFUSED, keepwatch_unit = unit, keepwatch_check = check(asker), keepwatch_reason = %reason, "{unit} is not restarted: {reason}");
        }
        RestartStep::Started {
            asker,
            attempt,
            action,
            reason,
        } => {
            let reason = reason.map_or("", |r| r.as_str());
            tracing::warn!(
                message_id = STARTED,
                keepwatch_unit = unit,
                keepwatch_check = check(asker),
                keepwatch_attempt = u64::from(*attempt),
                keepwatch_reason = reason,
                "{unit}: restart, attempt {attempt}: {}",
                doing(action)
            );
        }
        RestartStep::Finished {
            ok,
            result,
            invocation,
        } => {
            if *ok {
                tracing::info!(message_id = FINISHED, keepwatch_unit = unit, keepwatch_check = of.check, keepwatch_attempt = of.number, keepwatch_job_result = %result, keepwatch_invocation_id = %invocation, "{unit} was restarted");
            } else {
                tracing::error!(message_id = FINISHED, keepwatch_unit = unit, keepwatch_check = of.check, keepwatch_attempt = of.number, keepwatch_job_result = %result, keepwatch_invocation_id = %invocation, "{unit} could not be restarted: {result}");
            }
        }
        RestartStep::Recovered { after } => {
            tracing::info!(
                message_id = RECOVERED,
                keepwatch_unit = unit,
                keepwatch_check = of.check,
                keepwatch_attempt = of.number,
                keepwatch_job_result = of.result,
                keepwatch_duration_ms = millis(*after),
                "{unit} is well again after its restart"
            );
        }
        RestartStep::GaveUp => {
            tracing::error!(
                message_id = GAVE_UP,
                keepwatch_unit = unit,
                keepwatch_check = of.check,
                keepwatch_attempt = of.number,
                keepwatch_job_result = of.result,
                "{unit} is given up: its restarts did not help; manual intervention required, then 'keepwatch reset {unit}'"
            );
        }
        RestartStep::Resumed => {
            tracing::info!(
                message_id = RESUMED,
                keepwatch_unit = unit,
                "{unit} is well and no longer given up"
            );
        }
        RestartStep::Reset => {
            tracing::info!(
                message_id = RESET,
                keepwatch_unit = unit,
                "an operator made {unit} forget its restarts"
            );
        }
    }
}

const fn closed(why: Closed) -> &'static str {
    match why {
        Closed::Recovered => "the check is well again",
        Closed::Disabled => "the check was switched off",
        Closed::Removed => "the check is no longer configured",
    }
}

fn doing(step: &Step) -> String {
    match step {
        Step::Unit => "the unit".to_owned(),
        Step::Dependants(units) => {
            let names: Vec<&str> = units.iter().map(|u| u.as_str()).collect();
            format!("the unit, then {}", names.join(", "))
        }
        Step::Command(name) => format!("the command {name}"),
        Step::Reboot => "the host".to_owned(),
    }
}

fn check(asker: &Asker) -> &str {
    match asker {
        Asker::Check { check, .. } => check.as_str(),
        Asker::Operator => "",
    }
}

fn millis(d: std::time::Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::told;

    const ALL: &[(&str, &str)] = &[
        (STATE, "a check came to another state"),
        (OPENED, "an incident begins"),
        (CLOSED, "an incident is over"),
        (FLAPPING, "a check begins or ceases to flap"),
        (REFUSED, "a restart was refused"),
        (STARTED, "a restart begins"),
        (FINISHED, "its job ended, well or not"),
        (RECOVERED, "the unit is well again after it"),
        (GAVE_UP, "restarts did not help: the unit is given up"),
        (RESUMED, "a unit that was given up is well"),
        (RESET, "an operator made a unit forget its restarts"),
        (WINDOWS, "maintenance windows opened or closed"),
        (CLOCK, "the clock jumped, or the host slept"),
        (told::ENDED, "a run of a job ended, at least in part well"),
        (told::FAILED, "a run failed"),
        (told::LOST, "a run ended without a word"),
    ];

    #[test]
    fn each_kind_has_an_id_of_its_own_and_is_documented() {
        let set: std::collections::BTreeSet<&str> = ALL.iter().map(|(id, _)| *id).collect();
        assert_eq!(set.len(), ALL.len());
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/monitoring.md");
        let docs = std::fs::read_to_string(file).expect("the document");
        for (id, what) in ALL {
            assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()));
            let row = format!("| {what} | `{id}` |");
            assert!(docs.contains(&row), "docs/monitoring.md lacks: {row}");
        }
    }

    #[test]
    fn a_step_knows_its_attempt() {
        use keepwatch_watch::clock::At;
        let config = keepwatch_config::parse("", "test").expect("a configuration");
        let mut records = Records::new("h", &config.config, &[], Default::default());
        let mut step = |step| {
            let unit = "web.service".parse().expect("a unit");
            let event = Event::Restart {
                unit,
                at: At(1_000),
                step,
            };
            records.of(&event);
            let of = Attempt::of(records.under_way("web.service"));
            (of.check.to_owned(), of.number, of.result.to_owned())
        };
        let started = RestartStep::Started {
            asker: Asker::Check {
                check: "web".parse().expect("a name"),
                maintenance: false,
                suppressed: false,
                flapping: false,
            },
            attempt: 2,
            action: Step::Unit,
            reason: None,
        };
        // Before its job has ended there is no result.
        assert_eq!(step(started), ("web".into(), 2, String::new()));
        let finished = RestartStep::Finished {
            ok: false,
            result: "failed".into(),
            invocation: String::new(),
        };
        assert_eq!(step(finished), ("web".into(), 2, "failed".into()));
        let after = std::time::Duration::from_secs(1);
        assert_eq!(step(RestartStep::Recovered { after }), Default::default());
        assert_eq!(Attempt::of(None), Attempt::default());
    }
}

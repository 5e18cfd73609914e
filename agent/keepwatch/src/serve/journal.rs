//! What happened as log records, one kind of event each with its own `MESSAGE_ID`, so that `journalctl MESSAGE_ID=…` finds all of
//! a kind on every host. Results of single runs are logged at the level *debug*; the catalog has them all.

use keepwatch_model::check::State;
use keepwatch_watch::event::{Event, RestartStep};
use keepwatch_watch::judge::Closed;
use keepwatch_watch::restart::Asker;
use keepwatch_watch::restart::policy::Step;

/// A check came to another state.
const STATE: &str = "e7494ad2c7f0419c9731bef260d27a2d";
/// An incident was opened.
const OPENED: &str = "37eb49cf53c54a31aa97c07efab5e83b";
/// An incident is over.
const CLOSED: &str = "1909b312d78942e39732e0312bb8cd88";
/// A check begins or ceases to flap.
const FLAPPING: &str = "a13b1e96665f4e7bb8f2e19ad06f7518";
/// A step of a restart.
const RESTART: &str = "aaf0a8ef84894d8d8cd89add70f6e268";
/// Maintenance windows opened or closed.
const WINDOWS: &str = "4b91dadb6acb48cb9035498e697ded70";
/// The clock jumped.
const CLOCK: &str = "a5f19a12956c4670a461a9cf9f57988b";

/// Logs it.
pub fn tell(event: &Event) {
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
        Event::Restart { unit, step, .. } => restart(unit.as_str(), step),
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

fn restart(unit: &str, step: &RestartStep) {
    match step {
        RestartStep::Refused { asker, reason } => {
            tracing::warn!(message_id = RESTART, keepwatch_unit = unit, keepwatch_check = check(asker), keepwatch_reason = %reason, "{unit} is not restarted: {reason}");
        }
        RestartStep::Started {
            asker,
            attempt,
            action,
            reason,
        } => {
            let reason = reason.map_or("", |r| r.as_str());
            tracing::warn!(
                message_id = RESTART,
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
                tracing::info!(message_id = RESTART, keepwatch_unit = unit, keepwatch_job_result = %result, keepwatch_invocation_id = %invocation, "{unit} was restarted");
            } else {
                tracing::error!(message_id = RESTART, keepwatch_unit = unit, keepwatch_job_result = %result, keepwatch_invocation_id = %invocation, "{unit} could not be restarted: {result}");
            }
        }
        RestartStep::Recovered { after } => {
            tracing::info!(
                message_id = RESTART,
                keepwatch_unit = unit,
                keepwatch_duration_ms = millis(*after),
                "{unit} is well again after its restart"
            );
        }
        RestartStep::GaveUp => {
            tracing::error!(
                message_id = RESTART,
                keepwatch_unit = unit,
                "{unit} is given up: its restarts did not help; manual intervention required, then 'keepwatch reset {unit}'"
            );
        }
        RestartStep::Resumed => {
            tracing::info!(
                message_id = RESTART,
                keepwatch_unit = unit,
                "{unit} is well and no longer given up"
            );
        }
        RestartStep::Reset => {
            tracing::info!(
                message_id = RESTART,
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

    #[test]
    fn each_kind_has_an_id_of_its_own() {
        let all = [
            STATE,
            OPENED,
            CLOSED,
            FLAPPING,
            RESTART,
            WINDOWS,
            CLOCK,
            told::LOST,
            told::ENDED,
            told::FAILED,
        ];
        let set: std::collections::BTreeSet<&str> = all.into_iter().collect();
        assert_eq!(set.len(), all.len());
        for id in all {
            assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()));
        }
    }
}

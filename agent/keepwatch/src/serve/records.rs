//! From what happened to what is written down: events of the watcher as records of the catalog.
//!
//! Ids of incidents and restarts follow from what they are about and when they began, so that a daemon that was started anew
//! writes the end of an incident under the id that its predecessor gave it.

use std::collections::BTreeMap;

use keepwatch_config::Config;
use keepwatch_model::check::{CheckName, Overlay, RunResult, Severity, State};
use keepwatch_model::checks::{CheckOutcome, CheckResult, CheckTransition, FailureReason};
use keepwatch_model::history::Entry;
use keepwatch_model::ids::{EventId, IncidentId};
use keepwatch_model::incidents::{Incident, RestartOutcome, RestartRecord};
use keepwatch_watch::clock::At;
use keepwatch_watch::conductor::CheckView;
use keepwatch_watch::event::{Event, RestartStep, RunRecord};
use keepwatch_watch::restart::Asker;

use super::world::{derived, fill, moment};

/// What must be remembered between events to write them down whole. One row for each check and unit.
pub struct Records {
    host: String,
    checks: BTreeMap<CheckName, About>,
    restarts: Restarts,
}

/// The last restart of each unit of which it is not known yet whether it helped.
pub type Restarts = BTreeMap<String, RestartRecord>;

/// Those among what the catalog tells, the newest first.
pub fn unsettled(told: Vec<RestartRecord>) -> Restarts {
    let mut newest = Restarts::new();
    for row in told {
        // Refusals come between a restart and its recovery.
        if row.outcome != RestartOutcome::Refused {
            newest.entry(row.unit.clone()).or_insert(row);
        }
    }
    newest.retain(|_, row| {
        let is_over = matches!(row.outcome, RestartOutcome::GaveUp | RestartOutcome::Reset);
        row.recovered.is_none() && !is_over
    });
    newest
}

struct About {
    kind: &'static str,
    unit: Option<String>,
    severity: Severity,
    state: State,
    overlay: Option<Overlay>,
    /// When the open incident began.
    incident: Option<At>,
}

impl Records {
    /// For the checks of this configuration, as they stand, and restarts of which nobody knows yet whether they helped.
    pub fn new(host: &str, config: &Config, views: &[CheckView], restarts: Restarts) -> Self {
        let checks = views.iter().map(|v| {
            let severity = config
                .checks
                .get(v.name.as_str())
                .map_or(v.severity, |c| c.severity);
            let about = About {
                kind: v.kind.as_str(),
                unit: v.unit.as_ref().map(|u| u.as_str().to_owned()),
                severity,
                state: v.judge.state,
                overlay: v.overlay(),
                incident: v.judge.incident.as_ref().map(|i| i.opened),
            };
            (v.name.clone(), about)
        });
        Self {
            host: host.to_owned(),
            checks: checks.collect(),
            restarts,
        }
    }

    /// Restarts of which nobody knows yet whether they helped, for who goes on.
    pub fn into_restarts(self) -> Restarts {
        self.restarts
    }

    /// The records of an event; none when it is only for logs and metrics.
    pub fn of(&mut self, event: &Event) -> Vec<Entry> {
        match event {
            Event::Result(run) => vec![Entry::Result(self.result(run))],
            Event::Transition {
                check,
                kind,
                at,
                from,
                to,
                failure,
            } => {
                let overlay = self.checks.get_mut(check).and_then(|about| {
                    about.state = *to;
                    about.overlay
                });
                let reason = failure.as_ref().map(|f| f.reason);
                let text = failure.as_ref().map(|f| f.text.clone());
                vec![self.change(
                    check,
                    kind.as_str(),
                    *at,
                    (*from, *to),
                    overlay,
                    reason,
                    text,
                )]
            }
            Event::Overlays { check, at, to, .. } => {
                let Some(about) = self.checks.get_mut(check) else {
                    return Vec::new();
                };
                about.overlay = to.shown();
                let (kind, state, overlay) = (about.kind, about.state, about.overlay);
                vec![self.change(check, kind, *at, (state, state), overlay, None, None)]
            }
            Event::IncidentOpened {
                check,
                severity,
                incident,
            } => {
                if let Some(about) = self.checks.get_mut(check) {
                    about.incident = Some(incident.opened);
                }
                vec![self.incident(check, *severity, incident, None)]
            }
            Event::IncidentClosed {
                check,
                at,
                incident,
                ..
            } => {
                let severity = match self.checks.get_mut(check) {
                    Some(about) => {
                        about.incident = None;
                        about.severity
                    }
                    None => Severity::Warning,
                };
                vec![self.incident(check, severity, incident, Some(*at))]
            }
            Event::Restart { unit, at, step } => self.restart(unit.as_str(), *at, step),
            Event::Flapping { .. }
            | Event::Overrun { .. }
            | Event::Windows { .. }
            | Event::ClockJump { .. } => Vec::new(),
        }
    }

    fn result(&self, run: &RunRecord) -> CheckResult {
        let outcome = match (run.result, &run.failure) {
            (RunResult::Success, _) => CheckOutcome::Success,
            (RunResult::Degraded, _) => CheckOutcome::Degraded,
            (RunResult::Failure, Some(f)) => CheckOutcome::Failure(f.reason),
            (RunResult::Failure, None) => CheckOutcome::Failure(FailureReason::Internal),
        };
        let text = match &run.failure {
            Some(f) => Some(f.text.clone()),
            None if run.warnings.is_empty() => None,
            None => Some(run.warnings.join("; ")),
        };
        CheckResult {
            host: self.host.clone(),
            check: run.check.as_str().to_owned(),
            kind: run.kind.as_str().to_owned(),
            at: moment(run.at),
            outcome,
            latency: run.duration,
            text,
        }
    }

    #[allow(clippy::too_many_arguments)] // the fields of one record
    fn change(
        &self,
        check: &CheckName,
        kind: &str,
        at: At,
        (from, to): (State, State),
        overlay: Option<Overlay>,
        reason: Option<FailureReason>,
        text: Option<String>,
    ) -> Entry {
        Entry::Transition(CheckTransition {
            id: fresh(at),
            host: self.host.clone(),
            check: check.as_str().to_owned(),
            kind: kind.to_owned(),
            at: moment(at),
            from,
            to,
            overlay,
            reason,
            text,
        })
    }

    fn incident_id(&self, check: &CheckName, opened: At) -> IncidentId {
        IncidentId::new(
            moment(opened),
            derived(&["incident", &self.host, check.as_str()]),
        )
    }

    fn incident(
        &self,
        check: &CheckName,
        severity: Severity,
        incident: &keepwatch_watch::judge::Incident,
        closed: Option<At>,
    ) -> Entry {
        Entry::Incident(Incident {
            id: self.incident_id(check, incident.opened),
            host: self.host.clone(),
            subject: check.as_str().to_owned(),
            unit: self.checks.get(check).and_then(|a| a.unit.clone()),
            severity,
            opened: moment(incident.opened),
            closed: closed.map(moment),
            reason: incident.failure.as_ref().map(|f| f.reason),
            text: incident.failure.as_ref().map(|f| f.text.clone()),
        })
    }

    /// A record of a restart, with what is always the same.
    fn row(
        &self,
        unit: &str,
        at: At,
        asker: Option<&Asker>,
        outcome: RestartOutcome,
    ) -> RestartRecord {
        let check = match asker {
            Some(Asker::Check { check, .. }) => Some(check),
            Some(Asker::Operator) | None => None,
        };
        let incident = check.and_then(|check| {
            let opened = self.checks.get(check)?.incident?;
            Some(self.incident_id(check, opened))
        });
        RestartRecord {
            id: fresh(at),
            host: self.host.clone(),
            unit: unit.to_owned(),
            check: check.map(|c| c.as_str().to_owned()),
            incident,
            attempt: 0,
            at: moment(at),
            outcome,
            refusal: None,
            recovered: None,
            duration: None,
            text: None,
        }
    }

    /// The restart of a unit that is under way, or of which it is not known whether it helped.
    pub fn under_way(&self, unit: &str) -> Option<&RestartRecord> {
        self.restarts.get(unit)
    }

    fn restart(&mut self, unit: &str, at: At, step: &RestartStep) -> Vec<Entry> {
        let mut out = Vec::new();
        match step {
            RestartStep::Refused { asker, reason } => {
                let mut row = self.row(unit, at, Some(asker), RestartOutcome::Refused);
                row.refusal = Some(*reason);
                out.push(Entry::Restart(row));
            }
            RestartStep::Started {
                asker,
                attempt,
                action,
                ..
            } => {
                out.extend(self.in_vain(unit));
                let mut row = self.row(unit, at, Some(asker), RestartOutcome::Asked);
                row.id = EventId::new(moment(at), derived(&["restart", &self.host, unit]));
                row.attempt = *attempt;
                row.text = Some(format!("{action:?}"));
                self.restarts.insert(unit.to_owned(), row.clone());
                out.push(Entry::Restart(row));
            }
            RestartStep::Finished { result, .. } => {
                let mut row = match self.restarts.get(unit) {
                    Some(row) => row.clone(),
                    None => self.row(unit, at, None, RestartOutcome::Asked),
                };
                row.outcome = match result.as_str() {
                    "done" => RestartOutcome::Done,
                    "timeout" => RestartOutcome::Timeout,
                    "dependency" => RestartOutcome::Dependency,
                    "canceled" => RestartOutcome::Canceled,
                    _ => RestartOutcome::Failed,
                };
                let took = moment(at).unix_nanos() - row.at.unix_nanos();
                row.duration = u64::try_from(took.max(0))
                    .ok()
                    .map(std::time::Duration::from_nanos);
                row.text = Some(result.clone());
                self.restarts.insert(unit.to_owned(), row.clone());
                out.push(Entry::Restart(row));
            }
            RestartStep::Recovered { .. } => {
                if let Some(mut row) = self.restarts.remove(unit) {
                    row.recovered = Some(true);
                    out.push(Entry::Restart(row));
                }
            }
            RestartStep::GaveUp => {
                out.extend(self.in_vain(unit));
                out.push(Entry::Restart(self.row(
                    unit,
                    at,
                    None,
                    RestartOutcome::GaveUp,
                )));
            }
            RestartStep::Reset => {
                out.push(Entry::Restart(self.row(
                    unit,
                    at,
                    None,
                    RestartOutcome::Reset,
                )));
            }
            RestartStep::Resumed => {}
        }
        out
    }

    /// The attempt before did not help.
    fn in_vain(&mut self, unit: &str) -> Option<Entry> {
        let mut row = self.restarts.remove(unit)?;
        if row.outcome == RestartOutcome::Asked {
            row.outcome = RestartOutcome::Failed;
        }
        row.recovered = Some(false);
        Some(Entry::Restart(row))
    }
}

fn fresh(at: At) -> EventId {
    let mut bytes = [0; 10];
    fill(&mut bytes);
    EventId::new(moment(at), bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use keepwatch_watch::judge::{Cause, Closed, Incident as Open};
    use keepwatch_watch::outcome::Failure;
    use keepwatch_watch::restart::Step;

    fn records() -> Records {
        let config = keepwatch_config::parse("", "test").expect("a configuration");
        Records::new("h", &config.config, &[], Restarts::new())
    }

    fn open(at: i64) -> Open {
        Open {
            opened: At(at),
            since: At(at),
            cause: Cause::Down,
            failure: Some(Failure::new(FailureReason::Connect, "refused")),
        }
    }

    #[test]
    fn an_incident_ends_under_the_id_that_it_began_with_also_after_a_restart() {
        let check: CheckName = "web".parse().expect("a name");
        let begin = Event::IncidentOpened {
            check: check.clone(),
            severity: Severity::Critical,
            incident: open(1_000),
        };
        let end = Event::IncidentClosed {
            check,
            at: At(9_000),
            incident: open(1_000),
            why: Closed::Recovered,
        };
        let (first, second) = (records().of(&begin), records().of(&end));
        let (Some(Entry::Incident(a)), Some(Entry::Incident(b))) = (first.first(), second.first())
        else {
            panic!("{first:?} {second:?}");
        };
        assert_eq!(a.id, b.id);
        assert!(a.closed.is_none() && b.closed.is_some());
    }

    #[test]
    fn a_restart_is_one_record_until_it_is_known_whether_it_helped() {
        let mut r = records();
        let step = |at, step| Event::Restart {
            unit: "web.service".parse().expect("a unit"),
            at: At(at),
            step,
        };
        let started = |n| RestartStep::Started {
            asker: Asker::Operator,
            attempt: n,
            action: Step::Unit,
            reason: None,
        };
        let finished = || RestartStep::Finished {
            ok: true,
            result: "done".into(),
            invocation: String::new(),
        };
        let mut all = Vec::new();
        all.extend(r.of(&step(0, started(1))));
        all.extend(r.of(&step(2_000, finished())));
        all.extend(r.of(&step(60_000, started(2))));
        all.extend(r.of(&step(61_000, finished())));
        let after = std::time::Duration::from_secs(20);
        all.extend(r.of(&step(80_000, RestartStep::Recovered { after })));
        let rows: Vec<(RestartOutcome, Option<bool>)> = all
            .iter()
            .filter_map(|e| match e {
                Entry::Restart(r) => Some((r.outcome, r.recovered)),
                _ => None,
            })
            .collect();
        use RestartOutcome::{Asked, Done};
        assert_eq!(
            rows,
            [
                (Asked, None),
                (Done, None),
                (Done, Some(false)),
                (Asked, None),
                (Done, None),
                (Done, Some(true))
            ]
        );
    }

    #[test]
    fn whether_a_restart_helped_is_written_down_by_the_next_daemon() {
        let unit = |n: u32| format!("u{n}.service");
        let row = |n: u32, at: i64, outcome, recovered| RestartRecord {
            recovered,
            ..records().row(&unit(n), At(at), None, outcome)
        };
        use RestartOutcome::{Asked, Done, GaveUp, Refused, Reset};
        let told = vec![
            row(1, 9, Refused, None),
            row(2, 8, GaveUp, None),
            row(3, 8, Reset, None),
            row(4, 8, Done, Some(true)),
            row(5, 8, Asked, None),
            row(1, 7, Done, None),
            row(2, 6, Done, None),
            row(3, 6, Done, None),
            row(4, 6, Done, None),
            row(1, 5, Done, Some(false)),
        ];
        let wanted = told[5].clone();
        let found = unsettled(told);
        assert_eq!(found.keys().collect::<Vec<_>>(), [&unit(1), &unit(5)]);
        let config = keepwatch_config::parse("", "test").expect("empty");
        let mut next = Records::new("h", &config.config, &[], found);
        let after = std::time::Duration::from_secs(20);
        let entries = next.of(&Event::Restart {
            unit: unit(1).parse().expect("a unit"),
            at: At(30),
            step: RestartStep::Recovered { after },
        });
        let mut wanted = wanted;
        wanted.recovered = Some(true);
        assert_eq!(entries, [Entry::Restart(wanted)]);
        assert_eq!(next.into_restarts().len(), 1);
    }
}

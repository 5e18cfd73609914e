//! The conductor's part in restarts: asks systemd, lets the policy decide, starts the job, waits for recovery.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use keepwatch_model::check::{CheckKind, Reason};
use tokio::sync::oneshot;

use super::{Conductor, Finish, Slot, Work};
use crate::clock::At;
use crate::event::{Event, RestartStep};
use crate::judge::Input;
use crate::restart::Done;
use crate::restart::policy::{
    self, Asker, Attempt, Decision, Facts, Refusal, UnitRules, UnitState,
};
use crate::systemd::{SystemdError, UnitName};

/// Who waits for the answer of a restart by hand.
type Reply = oneshot::Sender<Result<Attempt, Refusal>>;

/// A unit and its memory.
pub(super) struct UnitSlot {
    pub rules: UnitRules,
    pub state: UnitState,
    /// Positions of its checks.
    checks: Vec<usize>,
    /// systemd is being asked for this one.
    asking: Option<(Asker, Option<Reason>, Option<Reply>)>,
}

/// The units that checks name, with their rules and what was saved of them.
pub(super) fn slots(
    checks: &[Slot],
    mut rules: BTreeMap<UnitName, UnitRules>,
    mut saved: BTreeMap<UnitName, UnitState>,
    now: At,
) -> BTreeMap<UnitName, UnitSlot> {
    let mut out = BTreeMap::new();
    for (at, slot) in checks.iter().enumerate() {
        let Some(unit) = &slot.check.unit else {
            continue;
        };
        let slot = out.entry(unit.clone()).or_insert_with(|| {
            let rules = rules.remove(unit).unwrap_or_default();
            let state = saved.remove(unit).map(|s| s.restored(&rules, now));
            UnitSlot {
                state: state.unwrap_or_default(),
                rules,
                checks: Vec::new(),
                asking: None,
            }
        });
        slot.checks.push(at);
    }
    out
}

impl Conductor {
    /// A check is unhealthy and failed again.
    pub(super) fn restart_wanted(&mut self, at: usize) {
        let slot = &self.slots[at];
        let Some(unit) = slot.check.unit.clone() else {
            return;
        };
        let overlays = slot.judge.overlays;
        let asker = Asker::Check {
            check: slot.check.name.clone(),
            maintenance: overlays.maintenance,
            suppressed: overlays.suppressed,
            flapping: slot.judge.flapping.is_some(),
        };
        let reason = slot.judge.reason();
        // Who could not ask systemd knows nothing of the unit: it may be as well as can be.
        let is_blind = slot.check.ask.kind() == CheckKind::Systemd
            && matches!(
                reason,
                Some(Reason::Connect | Reason::Timeout | Reason::Auth)
            );
        if let (true, Some(slot)) = (is_blind, self.units.get_mut(&unit)) {
            let decision = policy::refuse(&mut slot.state, Refusal::Unreachable, self.clock.wall());
            self.decided(&unit, asker, reason, decision, None);
            return;
        }
        self.ask(&unit, asker, reason, None);
    }

    /// A person wants it.
    pub(super) fn restart_by_hand(&mut self, unit: UnitName, reply: Reply) {
        if self.units.contains_key(&unit) {
            self.ask(&unit, Asker::Operator, None, Some(reply));
        } else {
            let _ = reply.send(Err(Refusal::NotAllowed));
        }
    }

    fn ask(&mut self, unit: &UnitName, asker: Asker, reason: Option<Reason>, reply: Option<Reply>) {
        let now = self.clock.wall();
        let allowed = self.executor.allows(unit);
        let Some(slot) = self.units.get_mut(unit) else {
            return;
        };
        if slot.asking.is_some() {
            if let Some(reply) = reply {
                let _ = reply.send(Err(Refusal::InProgress));
            }
            return;
        }
        let refused = if allowed {
            policy::look(&slot.rules, &slot.state, &self.host, &asker, now)
        } else {
            Some(Refusal::NotAllowed)
        };
        if let Some(refused) = refused {
            let decision = policy::refuse(&mut slot.state, refused, now);
            self.decided(unit, asker, reason, decision, reply);
            return;
        }
        slot.asking = Some((asker, reason, reply));
        let (executor, name) = (Arc::clone(&self.executor), unit.clone());
        let task = async move { Finish::Facts(executor.facts(&name).await) };
        self.spawn(Work::Facts(unit.clone()), task);
    }

    /// systemd answered, or not.
    pub(super) fn facts_came(&mut self, unit: &UnitName, facts: Result<Facts, SystemdError>) {
        let now = self.clock.wall();
        let jitter = (self.jitter)();
        let Some(slot) = self.units.get_mut(unit) else {
            return;
        };
        let Some((asker, reason, reply)) = slot.asking.take() else {
            return;
        };
        let decision = match facts {
            Ok(facts) => policy::decide(
                &slot.rules,
                &mut slot.state,
                &mut self.host,
                &asker,
                &facts,
                now,
                jitter,
            ),
            Err(e) => {
                // The refusal is told once, with its reason; each further run would say the same.
                let decision = policy::refuse(&mut slot.state, Refusal::Unreachable, now);
                if matches!(decision, Decision::Refused { again: false, .. }) {
                    tracing::warn!(%unit, "cannot ask systemd before a restart: {e}");
                }
                decision
            }
        };
        self.decided(unit, asker, reason, decision, reply);
    }

    fn decided(
        &mut self,
        unit: &UnitName,
        asker: Asker,
        reason: Option<Reason>,
        decision: Decision,
        reply: Option<Reply>,
    ) {
        match decision {
            Decision::Refused {
                reason: refusal,
                again,
                gives_up,
            } => {
                self.overview.send_modify(|o| {
                    if let Some(view) = o.units.get_mut(unit) {
                        *view.refusals.entry(refusal).or_default() += 1;
                    }
                });
                if !again {
                    let step = RestartStep::Refused {
                        asker,
                        reason: refusal,
                    };
                    self.tell(unit, step);
                }
                if gives_up {
                    self.tell(unit, RestartStep::GaveUp);
                }
                if let Some(reply) = reply {
                    let _ = reply.send(Err(refusal));
                }
                self.show(unit);
            }
            Decision::Go(attempt) => {
                self.tell(
                    unit,
                    RestartStep::Started {
                        asker,
                        attempt: attempt.number,
                        action: attempt.step.clone(),
                        reason,
                    },
                );
                self.show(unit);
                // Before the job is made: a daemon that dies of it must not get another attempt.
                self.urgent = true;
                self.save();
                let limit = self
                    .units
                    .get(unit)
                    .map_or(Duration::ZERO, |u| u.rules.job_timeout);
                let (executor, name, step) = (
                    Arc::clone(&self.executor),
                    unit.clone(),
                    attempt.step.clone(),
                );
                self.spawn(Work::Job(unit.clone()), async move {
                    Finish::Job(executor.act(&name, &step, limit).await)
                });
                if let Some(reply) = reply {
                    let _ = reply.send(Ok(attempt));
                }
            }
        }
    }

    /// The job ended.
    pub(super) fn job_ended(&mut self, unit: &UnitName, done: Result<Done, SystemdError>) {
        let now = self.clock.wall();
        let jitter = (self.jitter)();
        let done = done.unwrap_or_else(|e| Done {
            ok: false,
            result: match e {
                SystemdError::Timeout => "timeout".into(),
                other => crate::text::clean(&other.to_string()),
            },
            invocation: String::new(),
        });
        let Some(slot) = self.units.get_mut(unit) else {
            return;
        };
        policy::finished(&slot.rules, &mut slot.state, &done.result, now, jitter);
        let (checks, settle) = (slot.checks.clone(), slot.rules.settle);
        if !done.ok {
            // A word of systemd, or "error": no foreign text becomes a label.
            let known = [
                "failed",
                "timeout",
                "dependency",
                "canceled",
                "skipped",
                "assert",
                "unsupported",
            ];
            let label = known
                .iter()
                .find(|k| done.result == **k)
                .unwrap_or(&"error");
            self.overview.send_modify(|o| {
                if let Some(view) = o.units.get_mut(unit) {
                    *view.job_failures.entry((*label).to_owned()).or_default() += 1;
                }
            });
        }
        self.tell(
            unit,
            RestartStep::Finished {
                ok: done.ok,
                result: done.result,
                invocation: done.invocation,
            },
        );
        self.show(unit);
        self.urgent = true;
        let settled = self.clock.monotonic() + settle;
        for at in checks {
            self.judge(at, Input::Restarted);
            let slot = &mut self.slots[at];
            slot.due = slot.due.map(|due| due.min(settled));
        }
    }

    /// After a result: whether the unit is well again.
    pub(super) fn look_for_recovery(&mut self, unit: &UnitName) {
        let now = self.clock.wall();
        let Some(slot) = self.units.get_mut(unit) else {
            return;
        };
        let up = slot
            .checks
            .iter()
            .all(|at| self.slots[*at].judge.state.is_up());
        if up {
            let (after, resumed) = policy::recovered(&mut slot.state, now);
            if let Some(after) = after {
                self.tell(unit, RestartStep::Recovered { after });
            }
            if resumed {
                self.tell(unit, RestartStep::Resumed);
            }
            self.urgent |= after.is_some() || resumed;
        }
        self.show(unit);
    }

    /// An operator forgets the attempts.
    pub(super) fn reset(&mut self, unit: &UnitName) -> Option<bool> {
        let had = policy::reset(&mut self.units.get_mut(unit)?.state);
        if had {
            self.tell(unit, RestartStep::Reset);
            self.urgent = true;
        }
        self.show(unit);
        Some(had)
    }

    fn tell(&mut self, unit: &UnitName, step: RestartStep) {
        let at = self.clock.wall();
        self.emit(Event::Restart {
            unit: unit.clone(),
            at,
            step,
        });
    }

    fn show(&self, unit: &UnitName) {
        let Some(slot) = self.units.get(unit) else {
            return;
        };
        self.overview
            .send_if_modified(|o| match o.units.get_mut(unit) {
                Some(view) if view.state != slot.state => {
                    view.state.clone_from(&slot.state);
                    true
                }
                _ => false,
            });
    }
}

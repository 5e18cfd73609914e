//! What is wrong with the agent itself, as far as it can know.

use std::time::Duration;

use super::super::collect;
use super::past::{HOUR, MINUTE, Past};
use super::rules;
use super::{Case, Known, after};

/// A scheduler that did not tick for so long hangs.
const TICK: Duration = MINUTE;
/// So late a run may be.
const LAG: Duration = Duration::from_secs(1);
/// The share of file descriptors that may be in use.
const DESCRIPTORS: f64 = 0.8;

pub(super) fn cases(known: &Known<'_>, past: &Past, out: &mut Vec<Case>) {
    let (agent, now) = (&known.facts.agent, known.now);
    let tick = after(agent.tick_at, TICK);
    // The first overview has none.
    let is_stuck = agent.tick_at.0 > 0 && now > tick;
    if is_stuck || agent.lag > LAG {
        out.push(
            known
                .case(&rules::SCHEDULER_STUCK)
                .since(is_stuck.then_some(tick))
                .says(
                    "the scheduler of the agent is stuck",
                    "Checks run late or not at all: the host is overloaded or asleep, or the agent hangs. systemd restarts an agent whose tick stops.",
                ),
        );
    }
    if known.trouble.is_some() || past.errors.within(now, 10 * MINUTE).is_some() {
        out.push(known.case(&rules::DATABASE_ERRORS).says(
            "the catalog has errors; records go to the spool meanwhile",
            known
                .trouble
                .unwrap_or("Operations failed within the last ten minutes. Nothing is lost yet; checks and backups go on."),
        ));
    }
    for (sink, grown) in &past.dropped {
        if let Some(at) = grown.within(now, HOUR) {
            out.push(known.case(&rules::HISTORY_DROPPED).label("sink", sink).since(Some(at)).says(
                "records of what happened were lost",
                &format!("'{sink}' did not take them, and there was no more room to keep them. Backups are not harmed, but history and metrics made from it have gaps."),
            ));
        }
    }
    for collector in agent.collectors.iter().filter(|c| !c.success) {
        let name = &collector.name;
        let case = known
            .case(&rules::COLLECTOR_FAILING)
            .label("collector", name);
        out.push(if name == collect::CONTROL {
            case.says(
                "the agent cannot be asked anything: it has no control socket",
                "Checks, restarts and alerts go on. The log says why it cannot be made; it is tried again every minute.",
            )
        } else {
            case.says(
                &format!("facts of {name} are old"),
                "The agent shows what it last knew. Alerts about ages still fire; everything else may be out of date.",
            )
        });
    }
    if known.refused.is_some() {
        out.push(known.case(&rules::RELOAD_FAILED).since(known.refused).says(
            "the configuration was refused; the former one is in effect",
            "'keepwatch config check' names each fault with file and line.",
        ));
    }
    if let Some(heartbeat) = &agent.heartbeat {
        let due = heartbeat
            .last_success
            .map(|at| after(at, 3 * heartbeat.interval));
        if let Some(due) = due.filter(|due| now > *due) {
            out.push(known.case(&rules::HEARTBEAT_FAILING).since(Some(due)).says(
                "the dead-man switch is not reached",
                "Whoever watches from outside will report the host as dead.",
            ));
        }
    }
    let open = agent.process.and_then(|p| Some((p.open_fds, p.max_fds?)));
    if let Some((open, max)) = open {
        if open as f64 > DESCRIPTORS * max as f64 {
            out.push(known.case(&rules::DESCRIPTORS_HIGH).says(
                "the agent runs out of file descriptors",
                &format!("{open} of {max} are open. At the limit checks fail for no fault of the services."),
            ));
        }
    }
}

//! The conductor: one task that knows all states, and runs that report to it.
//!
//! ```text
//!   commands ──▶ ┌───────────┐ ──▶ events     (bounded; results are dropped first)
//!   (bounded)    │ conductor │ ──▶ overview   (the present, in memory)
//!   clock ─────▶ │           │ ──▶ saved      (the latest wins)
//!                └───────────┘
//!                  │ starts ▲ result
//!                  ▼        │
//!        runs of probes, questions to systemd, restart jobs   (tasks, all joined)
//! ```
//!
//! It waits for four things only (time, a task, a command, the order to stop) and never for a task, a channel or a disk. So
//! no hung target delays another, and there is nothing to lock. Each state changes in one place, here; what to do is decided by
//! the pure parts ([`crate::judge`], [`crate::restart::policy`], [`crate::schedule`]).

mod plan;
mod restarts;
mod view;

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use keepwatch_model::check::{CheckName, Reason, State};
use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};

use crate::clock::{Clock, Drift};
use crate::dependencies::Graph;
use crate::event::{CAPACITY, Event, RESERVED, RunRecord};
use crate::judge::{self, Action, Closed, Input, JudgeState, Overlays};
use crate::maintenance::Maintenance;
use crate::outcome::{Outcome, Quantity};
use crate::probe::heartbeat::Pulse;
use crate::probe::{self, together};
use crate::restart::{Done, Executor, Facts, HostState, SavedRestarts};
use crate::schedule::{Beat, Caps, Class, Grid, Ticket, Trust};
use crate::score;
use crate::systemd::{SystemdError, UnitName};

pub use plan::{Ask, CHECKS_MAX, Check, INTERVAL_MAX, INTERVAL_MIN, Plan, PlanError};
pub use view::{CheckView, Command, Overview, SAVED_VERSION, Saved, UnitView};

use restarts::UnitSlot;

/// Commands that wait.
pub const COMMANDS_WAITING: usize = 64;
/// What changes with every run is saved this often; what matters at once.
const SAVE: Duration = Duration::from_secs(300);
/// Tasks have this long to end when the conductor stops.
const STOPPING: Duration = Duration::from_secs(3);
/// The greatest delay is remembered for this long.
const LAG_WINDOW: Duration = Duration::from_secs(60);

/// A random number from −1 to 1.
pub type Jitter = Box<dyn FnMut() -> f64 + Send>;

/// The other ends of the channels.
pub struct Handle {
    /// What happened.
    pub events: mpsc::Receiver<Event>,
    /// The present.
    pub overview: watch::Receiver<Overview>,
    /// What to store.
    pub saved: watch::Receiver<Arc<Saved>>,
    /// What can be asked.
    pub commands: mpsc::Sender<Command>,
}

/// A check and its memory.
struct Slot {
    check: Check,
    grid: Grid,
    /// When it is due, on the monotonic clock; never when it is disabled.
    due: Option<Duration>,
    /// When the run in progress began.
    started: Duration,
    /// Whether it is known to answer in time.
    trust: Trust,
    judge: JudgeState,
    pulse: Pulse,
}

/// What a task was started for.
#[derive(Clone, Debug)]
enum Work {
    Run(usize),
    Facts(UnitName),
    Job(UnitName),
}

/// What a task comes back with.
enum Finish {
    Run(Outcome),
    Facts(Result<Facts, SystemdError>),
    Job(Result<Done, SystemdError>),
}

/// See the module.
pub struct Conductor {
    slots: Vec<Slot>,
    places: BTreeMap<CheckName, usize>,
    graph: Graph,
    units: BTreeMap<UnitName, UnitSlot>,
    host: HostState,
    maintenance: Maintenance,
    open_windows: Vec<CheckName>,
    caps: Caps,
    tasks: JoinSet<Finish>,
    work: HashMap<Id, Work>,
    clock: Arc<dyn Clock>,
    drift: Drift,
    executor: Arc<dyn Executor>,
    jitter: Jitter,
    events: mpsc::Sender<Event>,
    overview: watch::Sender<Overview>,
    saved: watch::Sender<Arc<Saved>>,
    commands: mpsc::Receiver<Command>,
    /// Windows, staleness, liveness and the clocks are looked at with each beat.
    beat: Beat,
    next_tick: Duration,
    last_save: Duration,
    lag_since: Duration,
    /// Something that must not be lost has changed.
    urgent: bool,
}

impl Conductor {
    /// Prepares the conductor from a plan and what was saved.
    ///
    /// # Errors
    /// All faults of the plan.
    pub fn new(
        plan: Plan,
        saved: Saved,
        executor: Arc<dyn Executor>,
        clock: Arc<dyn Clock>,
        jitter: Jitter,
    ) -> Result<(Self, Handle), Vec<PlanError>> {
        let graph = plan.check()?;
        let (now, wall) = (clock.monotonic(), clock.wall());
        let Saved {
            mut judges,
            mut pulses,
            restarts: SavedRestarts { units, mut host },
            windows,
            ..
        } = saved;
        host.restarts.truncate(crate::restart::policy::BUDGET);
        host.restarts
            .iter_mut()
            .for_each(|at| *at = (*at).min(wall));
        let slots: Vec<Slot> = plan
            .checks
            .into_iter()
            .map(|check| {
                let grid = Grid::new(&plan.host, check.name.as_str(), check.rules.interval);
                let judge = judges.remove(&check.name).map(|j| j.restored(wall));
                let pulse = pulses.remove(&check.name).map(|p| p.restored(wall));
                let hung = judge.as_ref().is_some_and(|j| {
                    j.failures > 0
                        && j.last_failure
                            .as_ref()
                            .is_some_and(|f| f.reason == Reason::Timeout)
                });
                Slot {
                    grid,
                    due: check.enabled.then(|| grid.first(now)),
                    started: now,
                    trust: if hung { Trust::Slow } else { Trust::New },
                    judge: judge.unwrap_or_else(|| JudgeState::new(wall)),
                    pulse: pulse.unwrap_or_else(|| Pulse::new(wall)),
                    check,
                }
            })
            .collect();
        let units = restarts::slots(&slots, plan.units, units, wall);
        let (event_in, events) = mpsc::channel(CAPACITY);
        let (command_in, commands) = mpsc::channel(COMMANDS_WAITING);
        let (overview, overview_out) = watch::channel(overview(&slots, &units));
        let (saved, saved_out) = watch::channel(Arc::default());
        let mut conductor = Self {
            places: slots
                .iter()
                .enumerate()
                .map(|(n, s)| (s.check.name.clone(), n))
                .collect(),
            slots,
            graph,
            units,
            host,
            maintenance: Maintenance::new(plan.windows, windows),
            open_windows: Vec::new(),
            caps: Caps::default(),
            tasks: JoinSet::new(),
            work: HashMap::new(),
            drift: Drift::new(&*clock),
            clock,
            executor,
            jitter,
            events: event_in,
            overview,
            saved,
            commands,
            beat: Beat::of(&plan.host),
            next_tick: now,
            last_save: now,
            lag_since: now,
            urgent: false,
        };
        // Incidents of checks that are no longer configured end here.
        for (check, judge) in judges {
            if let Some(incident) = judge.restored(wall).incident {
                conductor.emit(Event::IncidentClosed {
                    check,
                    at: wall,
                    incident,
                    why: Closed::Removed,
                });
            }
        }
        let handle = Handle {
            events,
            overview: overview_out,
            saved: saved_out,
            commands: command_in,
        };
        Ok((conductor, handle))
    }

    /// Conducts until `stop` comes; then ends all tasks and returns what to save.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Saved {
        tokio::pin!(stop);
        self.tick();
        let mut alarm = self.clock.alarm();
        let mut commanded = true;
        loop {
            self.start_due();
            self.save();
            let (next, now) = (self.next_wake(), self.clock.monotonic());
            tokio::select! {
                () = &mut stop => break,
                Some(done) = self.tasks.join_next_with_id() => self.joined(done),
                command = self.commands.recv(), if commanded => match command {
                    Some(command) => self.command(command),
                    None => commanded = false,
                },
                () = alarm.until(next, now) => {}
            }
            if self.clock.monotonic() >= self.next_tick {
                self.tick();
            }
        }
        self.tasks.abort_all();
        let ending = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(STOPPING, ending).await.is_err() {
            tracing::warn!(
                "tasks of checks did not end within {} s",
                STOPPING.as_secs()
            );
        }
        self.snapshot()
    }

    /// When something is to be done next.
    fn next_wake(&self) -> Duration {
        let due = self.slots.iter().filter_map(|s| s.due).min();
        due.map_or(self.next_tick, |due| due.min(self.next_tick))
    }

    /// Lines up what is due, and starts what has a place.
    fn start_due(&mut self) {
        let now = self.clock.monotonic();
        for at in 0..self.slots.len() {
            let slot = &mut self.slots[at];
            let Some(due) = slot.due.filter(|due| *due <= now) else {
                continue;
            };
            let missed = slot.grid.between(due, now);
            slot.due = Some(slot.grid.after(now));
            let late = now.saturating_sub(due);
            self.overview.send_if_modified(|o| {
                let more = late > o.lag;
                if more {
                    o.lag = late;
                }
                more
            });
            match &slot.check.ask {
                Ask::Probe(_) if self.caps.holds(at) => self.overrun(at, missed + 1),
                Ask::Probe(probe) => {
                    let ticket = Ticket {
                        check: at,
                        class: Class::from(probe.kind()),
                        trust: slot.trust,
                    };
                    self.caps.enqueue(ticket);
                    if missed > 0 {
                        self.overrun(at, missed);
                    }
                }
                Ask::Heartbeat(settings) => {
                    let outcome = slot.pulse.judge(settings, self.clock.wall());
                    self.ran(at, &outcome, Duration::ZERO);
                }
                Ask::Group(group) => {
                    let need = group.need;
                    let members = self.graph.members(at);
                    let states = members
                        .iter()
                        .map(|m| (&self.slots[*m].check.name, self.slots[*m].judge.state));
                    if let Some(outcome) = together::judge(need, states) {
                        self.ran(at, &outcome, Duration::ZERO);
                    }
                }
            }
        }
        while let Some(ticket) = self.caps.start_next() {
            let slot = &mut self.slots[ticket.check];
            let Ask::Probe(probe) = &slot.check.ask else {
                self.caps.done(ticket.check);
                continue;
            };
            slot.started = now;
            let (probe, timeout) = (Arc::clone(probe), slot.check.timeout);
            let task = async move { Finish::Run(probe::run(&*probe, timeout).await) };
            self.spawn(Work::Run(ticket.check), task);
        }
        let (running, waiting) = (self.caps.running(), self.caps.waiting());
        self.overview.send_if_modified(|o| {
            let changed = (o.running, o.waiting) != (running, waiting);
            (o.running, o.waiting) = (running, waiting);
            changed
        });
    }

    fn spawn(&mut self, work: Work, task: impl Future<Output = Finish> + Send + 'static) {
        let id = self.tasks.spawn(task).id();
        self.work.insert(id, work);
    }

    fn overrun(&mut self, at: usize, count: u64) {
        let check = self.slots[at].check.name.clone();
        self.overview
            .send_modify(|o| o.checks[at].overruns += count);
        self.emit(Event::Overrun {
            check,
            at: self.clock.wall(),
            count,
        });
    }

    /// A task ended, well or by a panic.
    fn joined(&mut self, done: Result<(Id, Finish), JoinError>) {
        let (id, finish) = match done {
            Ok((id, finish)) => (id, Ok(finish)),
            Err(e) => (e.id(), Err(crate::text::chain(&e))),
        };
        let fault = |why: String| SystemdError::Refused(format!("a fault in Keepwatch: {why}"));
        match (self.work.remove(&id), finish) {
            (Some(Work::Run(at)), finish) => {
                let outcome = match finish {
                    Ok(Finish::Run(outcome)) => outcome,
                    Err(why) => {
                        Outcome::failure(Reason::Internal, format!("a fault in the probe: {why}"))
                    }
                    Ok(_) => Outcome::failure(
                        Reason::Internal,
                        "the probe came back with something else",
                    ),
                };
                self.caps.done(at);
                let took = self
                    .clock
                    .monotonic()
                    .saturating_sub(self.slots[at].started);
                self.slots[at].trust = match &outcome.failure {
                    Some(f) if f.reason == Reason::Timeout => Trust::Slow,
                    _ => Trust::Answers,
                };
                self.ran(at, &outcome, took);
            }
            (Some(Work::Facts(unit)), finish) => self.facts_came(
                &unit,
                match finish {
                    Ok(Finish::Facts(facts)) => facts,
                    Ok(_) => Err(fault("another answer".into())),
                    Err(why) => Err(fault(why)),
                },
            ),
            (Some(Work::Job(unit)), finish) => self.job_ended(
                &unit,
                match finish {
                    Ok(Finish::Job(done)) => done,
                    Ok(_) => Err(fault("another answer".into())),
                    Err(why) => Err(fault(why)),
                },
            ),
            (None, _) => {}
        }
    }

    /// A result: judged, told, and acted upon.
    fn ran(&mut self, at: usize, outcome: &Outcome, took: Duration) {
        let wall = self.clock.wall();
        let took = outcome
            .value(Quantity::DurationSeconds)
            .map_or(took, Duration::from_secs_f64);
        let counted = match &self.slots[at].check.unit {
            Some(unit) => self
                .units
                .get_mut(unit)
                .is_none_or(|u| u.state.counts(wall)),
            None => true,
        };
        let input = if counted {
            Input::Run(outcome)
        } else {
            Input::Uncounted(outcome)
        };
        self.judge(at, input);
        let slot = &self.slots[at];
        let record = RunRecord {
            check: slot.check.name.clone(),
            kind: slot.check.ask.kind(),
            at: wall,
            duration: took,
            result: slot
                .judge
                .last_result
                .unwrap_or(keepwatch_model::check::RunResult::Failure),
            failure: slot.judge.last_failure.clone(),
            warnings: slot.judge.last_warnings.clone(),
            measures: outcome.measures.clone(),
            counted,
        };
        self.overview.send_modify(|o| {
            let view = &mut o.checks[at];
            view.runs += 1;
            view.last_duration = Some(took);
            view.measures.clone_from(&record.measures);
            if let Some(f) = &record.failure {
                *view.failures.entry(f.reason).or_default() += 1;
            }
        });
        self.emit(Event::Result(record));
        self.retry(at);
        if let Some(unit) = self.slots[at].check.unit.clone() {
            self.look_for_recovery(&unit);
        }
    }

    /// Brings the next run forward while results and state disagree.
    fn retry(&mut self, at: usize) {
        let now = self.clock.monotonic();
        let slot = &mut self.slots[at];
        if slot.judge.is_undecided() {
            let begun = if matches!(slot.check.ask, Ask::Probe(_)) {
                slot.started
            } else {
                now
            };
            let again = (begun + slot.check.retry_interval).max(now);
            slot.due = slot.due.map(|due| due.min(again));
        }
    }

    /// One step of the judge for one check, and what follows from it.
    fn judge(&mut self, at: usize, input: Input<'_>) {
        let wall = self.clock.wall();
        let slot = &mut self.slots[at];
        let was_down = is_down(&slot.judge);
        let (state, actions) = judge::step(
            &slot.check.rules,
            std::mem::take(&mut slot.judge),
            input,
            wall,
        );
        slot.judge = state;
        let down = is_down(&slot.judge);
        let check = slot.check.name.clone();
        let kind = slot.check.ask.kind();
        self.overview
            .send_modify(|o| o.checks[at].judge.clone_from(&slot.judge));
        let severity = slot.check.severity;
        let failure = slot.judge.last_failure.clone();
        for action in actions {
            self.urgent |= !matches!(action, Action::FirstFailure | Action::RestartWanted { .. });
            match action {
                Action::Transition { from, to } => self.emit(Event::Transition {
                    check: check.clone(),
                    kind,
                    at: wall,
                    from,
                    to,
                    failure: failure.clone().filter(|_| to == State::Unhealthy),
                }),
                Action::OverlaysChanged { from, to } => self.emit(Event::Overlays {
                    check: check.clone(),
                    at: wall,
                    from,
                    to,
                }),
                Action::IncidentOpened(incident) => self.emit(Event::IncidentOpened {
                    check: check.clone(),
                    severity,
                    incident,
                }),
                Action::IncidentClosed { incident, why } => self.emit(Event::IncidentClosed {
                    check: check.clone(),
                    at: wall,
                    incident,
                    why,
                }),
                Action::FlappingStarted | Action::FlappingEnded => self.emit(Event::Flapping {
                    check: check.clone(),
                    at: wall,
                    on: matches!(action, Action::FlappingStarted),
                }),
                Action::FirstFailure => {
                    for parent in self.graph.parents(at).to_vec() {
                        self.run_now(parent);
                    }
                }
                Action::RestartWanted { .. } => self.restart_wanted(at),
            }
        }
        if was_down != down {
            for child in self.graph.children(at).to_vec() {
                self.overlay(child);
            }
        }
    }

    /// Brings the overlays of a check up to date.
    fn overlay(&mut self, at: usize) {
        let slot = &self.slots[at];
        let overlays = Overlays {
            maintenance: self.maintenance.covers(&slot.check.name, self.clock.wall()),
            suppressed: self
                .graph
                .is_suppressed(at, |p| is_down(&self.slots[p].judge)),
            disabled: !slot.check.enabled,
        };
        if overlays != slot.judge.overlays {
            self.judge(at, Input::Overlays(overlays));
        }
    }

    /// What is looked at in steady rhythm.
    fn tick(&mut self) {
        let now = self.clock.monotonic();
        self.next_tick = self.beat.after(now);
        if let Some(by_ms) = self.drift.look(&*self.clock) {
            self.realign(by_ms);
        }
        let wall = self.clock.wall();
        self.maintenance.expire(wall);
        for at in 0..self.slots.len() {
            self.overlay(at);
            self.judge_tick(at);
        }
        let active = self.maintenance.active(wall);
        let open: Vec<CheckName> = active.iter().map(|a| a.name.clone()).collect();
        if open != self.open_windows {
            self.open_windows.clone_from(&open);
            self.emit(Event::Windows { at: wall, open });
        }
        let entries = self
            .slots
            .iter()
            .filter_map(|s| score::entry(s.check.severity, s.judge.state, s.judge.overlays.any()));
        let score = score::score(entries);
        let forget_lag = now.saturating_sub(self.lag_since) >= LAG_WINDOW;
        if forget_lag {
            self.lag_since = now;
        }
        self.overview.send_modify(|o| {
            o.tick = now;
            o.tick_at = wall;
            o.score = score;
            o.windows = active;
            if forget_lag {
                o.lag = Duration::ZERO;
            }
        });
    }

    /// Staleness and the end of flapping, without copying anything while nothing happens.
    fn judge_tick(&mut self, at: usize) {
        let slot = &self.slots[at];
        let limit = slot
            .check
            .rules
            .interval
            .saturating_mul(judge::STALE_INTERVALS);
        let stale = slot.judge.state != State::Unknown
            && slot
                .judge
                .age(self.clock.wall())
                .is_some_and(|age| age > limit);
        if stale || !slot.judge.changes.is_empty() || slot.judge.flapping.is_some() {
            self.judge(at, Input::Tick);
        }
    }

    /// The clock jumped or the host slept.
    fn realign(&mut self, by_ms: i64) {
        let (now, wall) = (self.clock.monotonic(), self.clock.wall());
        tracing::warn!(
            by_ms,
            "the clock jumped or the host slept; all checks are unknown until they run"
        );
        self.emit(Event::ClockJump { at: wall, by_ms });
        for at in 0..self.slots.len() {
            let slot = &mut self.slots[at];
            slot.due = slot.due.map(|_| slot.grid.first(now));
            slot.pulse = std::mem::take(&mut slot.pulse).restored(wall);
            self.judge(at, Input::Realign);
        }
        for unit in self.units.values_mut() {
            unit.state.clamp(wall);
        }
        self.host
            .restarts
            .iter_mut()
            .for_each(|at| *at = (*at).min(wall));
    }

    fn run_now(&mut self, at: usize) {
        let now = self.clock.monotonic();
        if !self.caps.holds(at) {
            let slot = &mut self.slots[at];
            slot.due = slot.due.map(|due| due.min(now));
        }
    }

    fn command(&mut self, command: Command) {
        // Who asked may have gone away: that is not our concern.
        match command {
            Command::Restart { unit, reply } => self.restart_by_hand(unit, reply),
            Command::Reset { unit, reply } => {
                let _ = reply.send(self.reset(&unit));
            }
            Command::Open { window, reply } => {
                let result = self.maintenance.open(window, self.clock.wall());
                let _ = reply.send(result);
                self.tick();
                self.urgent = true;
            }
            Command::Close { name, reply } => {
                let closed = self.maintenance.close(&name);
                let _ = reply.send(closed);
                self.tick();
                self.urgent = true;
            }
            Command::RunNow { check, reply } => {
                let place = self.places.get(&check).copied();
                if let Some(at) = place {
                    self.run_now(at);
                }
                let _ = reply.send(place.is_some());
            }
            Command::Beat { check, beat, reply } => {
                let wall = self.clock.wall();
                let place = self.places.get(&check).copied();
                let place =
                    place.filter(|at| matches!(self.slots[*at].check.ask, Ask::Heartbeat(_)));
                if let Some(at) = place {
                    self.slots[at].pulse.beat(&beat, wall);
                    self.run_now(at);
                    self.urgent = true;
                }
                let _ = reply.send(place.is_some());
            }
        }
    }

    fn emit(&mut self, event: Event) {
        let crowded = self.events.capacity() <= RESERVED && matches!(event, Event::Result(_));
        if crowded || self.events.try_send(event).is_err() {
            self.overview.send_modify(|o| o.events_dropped += 1);
        }
    }

    /// Gives out what to save, when it is time.
    fn save(&mut self) {
        let now = self.clock.monotonic();
        if self.urgent || now.saturating_sub(self.last_save) >= SAVE {
            self.urgent = false;
            self.last_save = now;
            let snapshot = Arc::new(self.snapshot());
            self.saved.send_replace(snapshot);
        }
    }

    fn snapshot(&self) -> Saved {
        let pulses = self
            .slots
            .iter()
            .filter(|s| matches!(s.check.ask, Ask::Heartbeat(_)));
        Saved {
            version: SAVED_VERSION,
            at: self.clock.wall(),
            judges: self
                .slots
                .iter()
                .map(|s| (s.check.name.clone(), s.judge.clone()))
                .collect(),
            pulses: pulses
                .map(|s| (s.check.name.clone(), s.pulse.clone()))
                .collect(),
            restarts: SavedRestarts {
                units: self
                    .units
                    .iter()
                    .map(|(n, u)| (n.clone(), u.state.clone()))
                    .collect(),
                host: self.host.clone(),
            },
            windows: self.maintenance.stored().to_vec(),
        }
    }
}

/// Down, or failing and not decided yet: what depends on it waits for its verdict.
fn is_down(judge: &JudgeState) -> bool {
    judge.state == State::Unhealthy || judge.failures > 0
}

fn overview(slots: &[Slot], units: &BTreeMap<UnitName, UnitSlot>) -> Overview {
    Overview {
        checks: slots
            .iter()
            .map(|s| CheckView {
                name: s.check.name.clone(),
                kind: s.check.ask.kind(),
                severity: s.check.severity,
                interval: s.check.rules.interval,
                timeout: s.check.timeout,
                unit: s.check.unit.clone(),
                judge: s.judge.clone(),
                runs: 0,
                failures: BTreeMap::new(),
                overruns: 0,
                last_duration: None,
                measures: Vec::new(),
            })
            .collect(),
        units: units
            .iter()
            .map(|(name, u)| {
                let view = UnitView {
                    state: u.state.clone(),
                    ..UnitView::default()
                };
                (name.clone(), view)
            })
            .collect(),
        ..Overview::default()
    }
}

#[cfg(test)]
mod tests;

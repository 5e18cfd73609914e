//! Fakes for the tests of the conductor: a clock of paused time, probes that follow a function, a systemd that remembers.

use super::super::*;
use crate::clock::At;
use crate::event::RestartStep;
use crate::probe::{Asking, Probe};
use crate::restart::Step;
use crate::restart::executor::Working;
use crate::systemd::UnitStatus;
use keepwatch_model::check::CheckKind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

/// When the tests begin.
pub const EPOCH: At = At::from_secs(1_800_000_000);

/// Paused time; the wall can be moved.
pub struct FakeClock {
    began: Instant,
    pub offset_ms: AtomicI64,
}

impl FakeClock {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            offset_ms: AtomicI64::new(0),
        })
    }
}

impl Clock for FakeClock {
    fn monotonic(&self) -> Duration {
        // Some time after boot.
        Duration::from_secs(1000) + self.began.elapsed()
    }
    fn wall(&self) -> At {
        let at = EPOCH.plus(self.began.elapsed());
        At(at.0 + self.offset_ms.load(Ordering::Relaxed))
    }
}

/// What a run does: how long it takes, and whether it succeeds. A panic is a panic.
#[derive(Clone, Copy)]
pub enum Act {
    Ok(u64),
    Fail(u64),
    Hang,
    Panic,
}

/// A probe that asks a function of the number of the run and the seconds since the start.
pub struct Fake {
    kind: CheckKind,
    began: Instant,
    runs: Mutex<Vec<Duration>>,
    count: AtomicU64,
    act: Box<dyn Fn(u64, u64) -> Act + Send + Sync>,
}

impl Fake {
    pub fn new(
        kind: CheckKind,
        act: impl Fn(u64, u64) -> Act + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            kind,
            began: Instant::now(),
            runs: Mutex::default(),
            count: AtomicU64::new(0),
            act: Box::new(act),
        })
    }
    pub fn times(&self) -> Vec<Duration> {
        self.runs.lock().unwrap().clone()
    }
}

impl Probe for Fake {
    fn kind(&self) -> CheckKind {
        self.kind
    }
    fn ask(&self, _: Instant) -> Asking<'_> {
        Box::pin(async {
            let at = self.began.elapsed();
            self.runs.lock().unwrap().push(at);
            let n = self.count.fetch_add(1, Ordering::Relaxed);
            match (self.act)(n, at.as_secs()) {
                Act::Ok(ms) => {
                    sleep(Duration::from_millis(ms)).await;
                    Outcome::success()
                }
                Act::Fail(ms) => {
                    sleep(Duration::from_millis(ms)).await;
                    Outcome::failure(Reason::Connect, "refused")
                }
                Act::Hang => std::future::pending().await,
                Act::Panic => panic!("a probe with a fault"),
            }
        })
    }
}

/// A systemd that does what it is told and remembers when.
pub struct FakeSystemd {
    pub clock: Arc<FakeClock>,
    jobs: Mutex<Vec<At>>,
    result: &'static str,
    pub active: Mutex<&'static str>,
}

impl FakeSystemd {
    pub fn new(clock: &Arc<FakeClock>) -> Arc<Self> {
        Arc::new(Self {
            clock: Arc::clone(clock),
            jobs: Mutex::default(),
            result: "done",
            active: Mutex::new("failed"),
        })
    }
    pub fn jobs(&self) -> usize {
        self.jobs.lock().unwrap().len()
    }
}

impl Executor for FakeSystemd {
    fn allows(&self, unit: &UnitName) -> bool {
        unit.as_str() != "forbidden.service"
    }
    fn facts<'a>(&'a self, _: &'a UnitName) -> Working<'a, Facts> {
        Box::pin(async {
            sleep(Duration::from_millis(5)).await;
            Ok(Facts {
                unit: UnitStatus {
                    load: "loaded".into(),
                    active: (*self.active.lock().unwrap()).into(),
                    result: "exit-code".into(),
                    ..UnitStatus::default()
                },
                system: "running".into(),
                activation: false,
            })
        })
    }
    fn act<'a>(&'a self, _: &'a UnitName, _: &'a Step, _: Duration) -> Working<'a, Done> {
        Box::pin(async {
            self.jobs.lock().unwrap().push(self.clock.wall());
            sleep(Duration::from_secs(2)).await;
            Ok(Done {
                ok: self.result == "done",
                result: self.result.into(),
                invocation: "00".repeat(16),
            })
        })
    }
}

pub fn name(text: &str) -> CheckName {
    text.parse().unwrap()
}

pub fn unit() -> UnitName {
    "web.service".parse().unwrap()
}

pub fn check(text: &str, probe: &Arc<Fake>, secs: u64) -> Check {
    Check::new(
        name(text),
        Ask::Probe(Arc::clone(probe) as Arc<dyn Probe>),
        Duration::from_secs(secs),
    )
}

/// A conductor at work, with all events that it gave out.
pub struct World {
    pub clock: Arc<FakeClock>,
    pub systemd: Arc<FakeSystemd>,
    pub overview: watch::Receiver<Overview>,
    pub saved: watch::Receiver<Arc<Saved>>,
    pub commands: mpsc::Sender<Command>,
    pub events: Arc<Mutex<Vec<Event>>>,
    pub stop: oneshot::Sender<()>,
    pub task: tokio::task::JoinHandle<Saved>,
}

impl World {
    pub fn start(plan: Plan, saved: Saved) -> Self {
        let clock = FakeClock::new();
        let systemd = FakeSystemd::new(&clock);
        Self::with(plan, saved, clock, systemd)
    }

    pub fn with(
        plan: Plan,
        saved: Saved,
        clock: Arc<FakeClock>,
        systemd: Arc<FakeSystemd>,
    ) -> Self {
        let executor = Arc::clone(&systemd) as Arc<dyn Executor>;
        let jitter = Box::new(|| 0.0);
        let (conductor, mut handle) = Conductor::new(plan, saved, executor, clock.clone(), jitter)
            .unwrap_or_else(|e| panic!("{e:?}"));
        let (stop, stopped) = oneshot::channel();
        let events: Arc<Mutex<Vec<Event>>> = Arc::default();
        let log = Arc::clone(&events);
        tokio::spawn(async move {
            while let Some(event) = handle.events.recv().await {
                // Single runs would fill the memory of a long test.
                if !matches!(event, Event::Result(_)) {
                    log.lock().unwrap().push(event);
                }
            }
        });
        let task = tokio::spawn(conductor.run(async move {
            let _ = stopped.await;
        }));
        Self {
            clock,
            systemd,
            overview: handle.overview,
            saved: handle.saved,
            commands: handle.commands,
            events,
            stop,
            task,
        }
    }

    pub async fn stop(self) -> Saved {
        self.stop.send(()).unwrap();
        self.task.await.unwrap()
    }

    pub fn state(&self, check: &str) -> State {
        self.view(check).judge.state
    }
    pub fn view(&self, check: &str) -> CheckView {
        let o = self.overview.borrow();
        o.checks
            .iter()
            .find(|c| c.name.as_str() == check)
            .unwrap()
            .clone()
    }
    pub fn steps(&self) -> Vec<RestartStep> {
        let events = self.events.lock().unwrap();
        events
            .iter()
            .filter_map(|e| match e {
                Event::Restart { step, .. } => Some(step.clone()),
                _ => None,
            })
            .collect()
    }
    pub fn count(&self, what: impl Fn(&Event) -> bool) -> usize {
        self.events
            .lock()
            .unwrap()
            .iter()
            .filter(|e| what(e))
            .count()
    }
    pub fn opened(&self) -> usize {
        self.count(|e| matches!(e, Event::IncidentOpened { .. }))
    }
    pub fn closed(&self) -> usize {
        self.count(|e| matches!(e, Event::IncidentClosed { .. }))
    }
}

pub fn plan(checks: Vec<Check>) -> Plan {
    Plan {
        host: "host".into(),
        checks,
        ..Plan::default()
    }
}

pub fn hours(n: u64) -> Duration {
    Duration::from_secs(n * 3600)
}

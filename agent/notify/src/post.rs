//! The post office: a task for each channel, one for Alertmanagers, one for the dead-man switch.
//!
//! [`Post::observe`] and [`Post::notice`] take a lock that is never held while anything is sent, so whoever judges checks does
//! not wait for whoever tells people. A task asks the plan what is next, sends it within [`ATTEMPT`], and says how it went.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::alert::Alert;
use crate::fault::Fault;
use crate::http::Net;
use crate::limits::{ATTEMPT, NAP};
use crate::medium::{Medium, alertmanager, deadman};
use crate::plan::{Failed, Message, Next, Plan, Rules, State, Tally};
use crate::push::Push;
use crate::time::{At, Clock};

/// A way to reach people.
#[derive(Clone, Debug)]
pub struct Channel {
    /// Its name: a label of metrics, a word in messages.
    pub name: String,
    /// What it is.
    pub medium: Medium,
    /// When it is used.
    pub rules: Rules,
}

/// All ways.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The name of this host, as people know it.
    pub host: String,
    /// People.
    pub channels: Vec<Channel>,
    /// Alertmanagers.
    pub alertmanager: Option<alertmanager::Settings>,
    /// The dead-man switch.
    pub deadman: Option<deadman::Settings>,
}

impl Settings {
    /// What is wrong with the settings.
    ///
    /// # Errors
    /// One sentence.
    pub fn check(&self) -> Result<(), String> {
        let mut names = std::collections::BTreeSet::new();
        for c in &self.channels {
            let fits = (1..=64).contains(&c.name.len())
                && c.name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
            if !fits {
                return Err(format!(
                    "{:?} is no name for a channel: use letters, digits, '.', '_' and '-'",
                    c.name
                ));
            }
            if !names.insert(c.name.as_str()) {
                return Err(format!("there are two channels {:?}", c.name));
            }
            c.medium
                .check()
                .map_err(|why| format!("channel {:?}: {why}", c.name))?;
        }
        for c in &self.channels {
            let Some(fallback) = &c.rules.fallback else {
                continue;
            };
            if !names.contains(fallback.as_str()) || *fallback == c.name {
                return Err(format!(
                    "channel {:?}: its fallback {fallback:?} is no other channel",
                    c.name
                ));
            }
        }
        if let Some(a) = &self.alertmanager {
            alertmanager::check(a)?;
        }
        if self
            .deadman
            .as_ref()
            .is_some_and(|d| d.interval < Duration::from_secs(5))
        {
            return Err("the dead-man switch must not be reached more often than every 5 s".into());
        }
        Ok(())
    }
}

/// What the agent itself must provide.
pub struct World {
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Numbers from 0 to 1, for waits.
    pub random: Arc<dyn Fn() -> f64 + Send + Sync>,
    /// Whether the agent is well: only then the dead-man switch is reached.
    pub alive: Arc<dyn Fn() -> bool + Send + Sync>,
    /// How sinks are reached.
    pub net: Net,
}

/// How the dead-man switch and the Alertmanagers do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Last reached.
    pub last_success: Option<At>,
    /// Attempts that succeeded.
    pub successes: u64,
    /// Attempts that failed.
    pub failures: u64,
}

#[derive(Default)]
struct Meter {
    last: AtomicI64,
    successes: AtomicU64,
    failures: AtomicU64,
}

impl Meter {
    fn note(&self, ok: bool, now: At) {
        if ok {
            self.last.store(now.0.max(1), Ordering::Relaxed);
            self.successes.fetch_add(1, Ordering::Relaxed);
        } else {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn read(&self) -> Reach {
        let last = self.last.load(Ordering::Relaxed);
        Reach {
            last_success: (last != 0).then_some(At(last)),
            successes: self.successes.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
        }
    }
}

struct Inner {
    plan: Mutex<Plan>,
    push: Option<Mutex<Push>>,
    wake: BTreeMap<String, Notify>,
    wake_push: Notify,
    saved: watch::Sender<State>,
    stopping: watch::Sender<bool>,
    stopped: AtomicBool,
    world: World,
    host: String,
    deadman: Meter,
    alertmanager: Meter,
}

/// The office, for those who have something to tell. Cheap to clone.
#[derive(Clone)]
pub struct Post(Arc<Inner>);

/// Its tasks.
pub struct Running {
    inner: Arc<Inner>,
    tasks: JoinSet<()>,
}

/// Opens the office, with what was remembered. Must be called within a runtime.
///
/// # Errors
/// [`Settings::check`].
pub fn open(settings: Settings, saved: State, world: World) -> Result<(Post, Running), String> {
    settings.check()?;
    let rules = settings
        .channels
        .iter()
        .map(|c| (c.name.clone(), c.rules.clone()))
        .collect();
    let plan = Plan::new(rules, saved);
    let inner = Arc::new(Inner {
        saved: watch::Sender::new(plan.state().clone()),
        plan: Mutex::new(plan),
        push: settings
            .alertmanager
            .as_ref()
            .map(|a| Mutex::new(Push::new(a.resend, a.min_severity))),
        wake: settings
            .channels
            .iter()
            .map(|c| (c.name.clone(), Notify::new()))
            .collect(),
        wake_push: Notify::new(),
        stopping: watch::Sender::new(false),
        stopped: AtomicBool::new(false),
        world,
        host: crate::text::clean(&settings.host, 64),
        deadman: Meter::default(),
        alertmanager: Meter::default(),
    });
    let mut tasks = JoinSet::new();
    for channel in settings.channels {
        tasks.spawn(deliver(Arc::clone(&inner), channel));
    }
    if let Some(a) = settings.alertmanager {
        tasks.spawn(push(Arc::clone(&inner), a));
    }
    if let Some(d) = settings.deadman {
        tasks.spawn(ping(Arc::clone(&inner), d));
    }
    Ok((Post(Arc::clone(&inner)), Running { inner, tasks }))
}

impl Post {
    /// What fires now: all of it, each time. Not to be called before the checks are known after a start, or everything that was
    /// told would be told as over.
    pub fn observe(&self, alerts: &[Alert]) {
        let now = self.0.world.clock.wall();
        if self.0.plan().observe(now, alerts) {
            self.0.changed();
            for wake in self.0.wake.values() {
                wake.notify_one();
            }
        }
        let push = self.0.push.as_ref();
        if push.is_some_and(|push| lock(push).observe(now, alerts)) {
            self.0.wake_push.notify_one();
        }
    }

    /// Something to be told once: a restart that helped, say.
    pub fn notice(&self, alert: &Alert) {
        let now = self.0.world.clock.wall();
        self.0.plan().notice(now, alert);
        self.0.changed();
        for wake in self.0.wake.values() {
            wake.notify_one();
        }
    }

    /// What to store, each time that it changed; the latest is enough. Stored soon, a crash repeats one message at most.
    pub fn state(&self) -> watch::Receiver<State> {
        self.0.saved.subscribe()
    }

    /// What happened on each channel, and how many of its messages wait.
    pub fn tallies(&self) -> BTreeMap<String, (Tally, usize)> {
        let now = self.0.world.clock.wall();
        let plan = self.0.plan();
        plan.state()
            .channels
            .iter()
            .map(|(name, c)| (name.clone(), (c.tally, plan.waiting(name, now))))
            .collect()
    }

    /// How the dead-man switch does.
    pub fn deadman(&self) -> Reach {
        self.0.deadman.read()
    }

    /// How the Alertmanagers do: requests taken and not.
    pub fn alertmanager(&self) -> Reach {
        self.0.alertmanager.read()
    }
}

impl Running {
    /// Closes the office: what is under way may finish until `deadline` has passed, then it is cut off. What was not told is in
    /// the state. Nothing runs any more when this returns.
    pub async fn stop(mut self, deadline: Duration) -> State {
        self.inner.stopped.store(true, Ordering::Relaxed);
        self.inner.stopping.send_replace(true);
        let finish = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(deadline, finish).await.is_err() {
            self.tasks.shutdown().await;
        }
        self.inner.plan().state().clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    fn plan(&self) -> MutexGuard<'_, Plan> {
        lock(&self.plan)
    }

    fn changed(&self) {
        let state = self.plan().state().clone();
        self.saved.send_replace(state);
    }

    fn is_stopping(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Until it is time to stop.
    async fn stop(&self) {
        let mut stopping = self.stopping.subscribe();
        let _ = stopping.wait_for(|s| *s).await;
    }

    /// Until this moment on the wall clock, news, or the order to stop.
    async fn wait(&self, until: Option<At>, wake: &Notify) {
        let left = until.map(|at| at.since(self.world.clock.wall()).min(NAP));
        tokio::select! {
            () = async {
                match left {
                    Some(left) => tokio::time::sleep(left.max(Duration::from_millis(10))).await,
                    None => std::future::pending().await,
                }
            } => {}
            () = wake.notified() => {}
            () = self.stop() => {}
        }
    }
}

async fn within<F: Future<Output = Result<(), Fault>>>(attempt: F) -> Result<(), Fault> {
    tokio::time::timeout(ATTEMPT, attempt)
        .await
        .unwrap_or_else(|_| {
            Err(Fault::later(format!(
                "the sink took longer than {} s",
                ATTEMPT.as_secs()
            )))
        })
}

async fn deliver(inner: Arc<Inner>, channel: Channel) {
    let Some(wake) = inner.wake.get(&channel.name) else {
        return;
    };
    while !inner.is_stopping() {
        let now = inner.world.clock.wall();
        let next = inner.plan().next(&channel.name, now);
        match next {
            Next::Idle => inner.wait(None, wake).await,
            Next::Wait(at) => inner.wait(Some(at), wake).await,
            Next::Send(message) => {
                let result = within(channel.medium.send(
                    &inner.world.net,
                    &inner.host,
                    &message,
                    now,
                ))
                .await;
                settle(&inner, &channel.name, &message, &result);
                inner.changed();
            }
        }
    }
}

fn settle(inner: &Inner, name: &str, message: &Message, result: &Result<(), Fault>) {
    let now = inner.world.clock.wall();
    let how = match result {
        Ok(()) => return inner.plan().delivered(message, now),
        Err(Fault::Later { after, .. }) => Failed::Sink(*after),
        Err(Fault::Refused { .. }) => Failed::Message,
    };
    let Err(fault) = result else { return };
    let given_up = inner
        .plan()
        .failed(message, now, how, (inner.world.random)());
    if given_up {
        tracing::error!(
            channel = name,
            "cannot tell anybody of {} alerts because {fault}; given up on this channel",
            message.lines.len()
        );
        // Its fallback has something to do now.
        for wake in inner.wake.values() {
            wake.notify_one();
        }
    } else {
        tracing::warn!(channel = name, "cannot deliver a message because {fault}");
    }
}

async fn push(inner: Arc<Inner>, settings: alertmanager::Settings) {
    let Some(push) = &inner.push else { return };
    let mut wait = Duration::ZERO;
    while !inner.is_stopping() {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = inner.wake_push.notified() => {}
            () = inner.stop() => return,
        }
        let batches = lock(push).batches(inner.world.clock.wall());
        wait = settings.resend;
        for url in &settings.urls {
            for batch in &batches {
                let result =
                    within(alertmanager::post(&settings, &inner.world.net, url, batch)).await;
                inner
                    .alertmanager
                    .note(result.is_ok(), inner.world.clock.wall());
                if let Err(fault) = result {
                    tracing::warn!("cannot push alerts to an Alertmanager because {fault}");
                    // Sooner than the next round, since alerts there end by themselves; and not the rest of what it will not take.
                    wait = wait.min(Duration::from_secs(10));
                    if matches!(fault, Fault::Later { .. }) {
                        break;
                    }
                }
            }
        }
    }
}

async fn ping(inner: Arc<Inner>, settings: deadman::Settings) {
    let mut next = Instant::now();
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = inner.stop() => return,
        }
        next = Instant::now() + settings.interval;
        if !(inner.world.alive)() {
            tracing::warn!(
                "the dead-man switch is not reached on purpose, because the agent is not well"
            );
            continue;
        }
        let attempt = ATTEMPT.min(settings.interval);
        let result =
            tokio::time::timeout(attempt, deadman::ping(&settings, &inner.world.net)).await;
        let result = result.unwrap_or_else(|_| Err(Fault::later("the sink took too long")));
        inner.deadman.note(result.is_ok(), inner.world.clock.wall());
        if let Err(fault) = result {
            tracing::warn!("cannot reach the dead-man switch because {fault}");
        }
    }
}

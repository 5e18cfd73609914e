//! The task that puts down what everybody sees: facts for metrics and probes, and what fires for people.
//!
//! It turns to the watcher's overview when that changes, but not more often than twice a second, and makes all rows anew: a check that was
//! taken out of the configuration leaves no series behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use keepwatch_expose::facts::{Agent, Clock as _, Facts};
use keepwatch_expose::limits::{STARTUP, TICK_MAX};
use keepwatch_model::check::Severity;
use keepwatch_watch::clock::{At, Clock as _, HostClock};
use keepwatch_watch::conductor::Overview;
use keepwatch_watch::score::{self, Entry};
use tokio::sync::watch;

use super::alerts::{Beginnings, Known, Lookout};
use super::collect::Collected;
use super::scene::{Scene, Stop};
use super::shown;
use super::world::{World, shown_at};

/// From one look to the next.
const PAUSE: Duration = Duration::from_millis(500);
/// Checks run together, so what changed is looked at when the others have ended, too.
const TOGETHER: Duration = Duration::from_millis(40);
/// When nothing changes: the scheduler hangs, since its tick is a change. What fires by the clock is told even so.
const LONGEST: Duration = Duration::from_secs(60);

/// The scheduler's last sign of life, for those who ask without waiting.
#[derive(Clone)]
pub struct Tick(Arc<AtomicU64>);

impl Tick {
    /// As if it had just run.
    pub fn new() -> Self {
        let tick = Self(Arc::default());
        tick.set(HostClock.monotonic());
        tick
    }

    fn set(&self, tick: Duration) {
        let millis = u64::try_from(tick.as_millis()).unwrap_or(u64::MAX);
        self.0.store(millis, Ordering::Relaxed);
    }

    /// Whether the scheduler ran lately.
    pub fn is_fresh(&self) -> bool {
        let tick = Duration::from_millis(self.0.load(Ordering::Relaxed));
        HostClock.monotonic().saturating_sub(tick) < TICK_MAX
    }
}

/// How old the time of what was seen may be in memory; less than the hour for which it is believed after the daemon ended.
const REMEMBERED: Duration = Duration::from_secs(600);

/// What it works with.
pub struct Parts {
    /// What is watched.
    pub scenes: watch::Receiver<Arc<Scene>>,
    /// What the catalog knows.
    pub collected: watch::Receiver<Arc<Collected>>,
    /// Where facts go.
    pub facts: watch::Sender<Arc<Facts>>,
    /// Since when what is wrong was seen; it begins with what is remembered.
    pub beginnings: watch::Sender<Beginnings>,
    /// The scheduler's tick.
    pub tick: Tick,
    /// The name of this host.
    pub host: String,
    /// When the daemon started, on the monotonic clock.
    pub started: Duration,
}

/// Puts down what is known until it is told to stop.
pub async fn run(mut parts: Parts, mut stop: Stop) {
    let mut told = false;
    let remembered = parts.beginnings.borrow().clone();
    let mut lookout = Lookout::new(remembered, World.wall());
    let mut alarm = HostClock.alarm();
    loop {
        let begun = HostClock.monotonic();
        let scene = parts.scenes.borrow_and_update().clone();
        let mut watched = scene.overview.clone();
        let overview = Overview::clone(&watched.borrow_and_update());
        let collected = parts.collected.borrow_and_update().clone();
        parts.tick.set(overview.tick);
        let now = World.wall();
        let mut facts = Facts {
            agent: agent(&parts, &scene, &overview, &collected),
            host: collected.host.clone(),
            checks: shown::checks(&overview, &scene.loaded.config, &scene.mounts),
            windows: shown::windows(&overview, &scene.loaded.config),
            units: shown::units(&overview, &scene.loaded.config, At(now.0)),
            backups: collected.backups.clone(),
            repositories: collected.repositories.clone(),
            keys: collected.keys.clone(),
            alerts: Vec::new(),
        };
        let known = Known {
            host: &parts.host,
            config: &scene.loaded.config,
            overview: &overview,
            facts: &facts,
            trouble: collected.trouble.as_deref(),
            errors: collected.errors,
            refused: scene.refused,
            now,
        };
        // Before everything is known, all that was told would be told as over.
        told = told || is_known(&overview, &collected, parts.started);
        let firing = lookout.look(&known, told);
        if told {
            scene.office.observe(&firing);
        }
        note(&parts.beginnings, lookout.beginnings());
        facts.alerts = shown::alerts(&firing);
        parts.facts.send_replace(Arc::new(facts));
        tokio::select! {
            () = stop.wait() => return,
            _ = parts.scenes.changed() => {}
            _ = parts.collected.changed() => {}
            _ = watched.changed() => {}
            () = tokio::time::sleep(LONGEST) => {}
        }
        // A pause after each change would wake the processor for nothing; only changes in a row wait for longer.
        let now = HostClock.monotonic();
        let next = (begun + PAUSE).max(now + TOGETHER);
        tokio::select! {
            () = stop.wait() => return,
            () = alarm.until(next, now) => {}
        }
    }
}

/// For those who remember it: when something begins or ends, and now and then, because of its time.
fn note(to: &watch::Sender<Beginnings>, seen: &Beginnings) {
    to.send_if_modified(|known| {
        let news = known.of != seen.of;
        let is_old = seen.at.since(known.at) >= REMEMBERED;
        if news || is_old {
            known.clone_from(seen);
        }
        news
    });
}

/// Every check that runs has run, in this daemon or the one before, and the catalog has answered; or they have had their time.
fn is_known(overview: &Overview, collected: &Collected, started: Duration) -> bool {
    let ran = overview
        .checks
        .iter()
        .all(|c| c.judge.overlays.disabled || c.judge.last_run.is_some());
    ran && collected.answered || HostClock.monotonic().saturating_sub(started) > STARTUP
}

fn agent(parts: &Parts, scene: &Scene, overview: &Overview, collected: &Collected) -> Agent {
    // The endpoint waits `STARTUP` for first runs; the configuration may want less or more.
    let deadline = scene.loaded.config.health.startup_deadline;
    let started = (parts.started + deadline).saturating_sub(STARTUP);
    let mut dropped = collected.dropped.clone();
    dropped.insert("events".into(), overview.events_dropped);
    Agent {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        revision: option_env!("KEEPWATCH_REVISION").unwrap_or("").to_owned(),
        features: "sqlite,postgresql,s3".to_owned(),
        tick: overview.tick,
        tick_at: shown_at(overview.tick_at),
        lag: overview.lag,
        started,
        config_loaded: true,
        reload_ok: scene.refused.is_none(),
        reloaded: Some(scene.reloaded),
        database_ready: collected.ready,
        database_writable: collected.writable,
        database_size: collected.size,
        writes_queued: collected.queued,
        draining: false,
        checks_running: overview.running as u64,
        score: score_of(overview, collected),
        collectors: collected.collectors.clone(),
        history_dropped: dropped,
        heartbeat: scene.office.heartbeat(),
        channels: scene.office.channels(),
        process: collected.process,
    }
}

/// Checks and backups together: a backup that is fresh counts 1, a stale one 0.
fn score_of(overview: &Overview, collected: &Collected) -> Option<f64> {
    let now = World.wall();
    let checks = overview
        .checks
        .iter()
        .filter_map(|c| score::entry(c.severity, c.judge.state, c.overlay().is_some()));
    let backups = collected.backups.iter().filter_map(|b| {
        let fresh = b.is_fresh(now)?;
        Some(Entry {
            severity: Severity::Warning,
            value: f64::from(u8::from(fresh)),
        })
    });
    score::score(checks.chain(backups))
}

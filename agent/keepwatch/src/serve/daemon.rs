//! The daemon: what is started in which order, how it is reloaded, and how it ends.
//!
//! ```text
//! configuration ─▶ catalog (or spool) ─▶ memory ─▶ ways to people ─▶ watcher ─▶ endpoint, control socket ─▶ READY
//! SIGHUP:   read and check ─▶ stop watcher and offices, keep what they remember ─▶ start them anew ─▶ READY
//! SIGTERM:  not ready, drain ─▶ watcher ─▶ offices ─▶ memory stored ─▶ tasks and endpoint ─▶ queue emptied ─▶ catalog closed
//! ```
//!
//! A configuration with faults changes nothing. A catalog that is away stops nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use keepwatch_catalog::recorder::{self, Writer};
use keepwatch_catalog::{Catalog, Clock as RecordClock, runs};
use keepwatch_config::{Credentials, Loaded};
use keepwatch_expose::counters::Counters;
use keepwatch_expose::facts::{Clock as _, Facts};
use keepwatch_expose::limits::Limits;
use keepwatch_expose::server::{self, Listen, Order, Server};
use keepwatch_notify::plan::State;
use keepwatch_watch::clock::{Clock as _, HostClock};
use keepwatch_watch::conductor::Saved;
use keepwatch_watch::net::Net;
use keepwatch_watch::schedule::Beat;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::alerts::Beginnings;
use super::board::Tick;
use super::collect::Collected;
use super::control::{Control, Takes};
use super::logs::Logs;
use super::memory::{self, Memory};
use super::people::{self, Office, Staff};
use super::records::Restarts;
use super::scene::{Scene, Stop};
use super::service::Service;
use super::watching::{self, Ground, Watching};
use super::world::{World, random};
use super::{board, collect, collector, control, seat, shown, upkeep};
use crate::errors::{Exit, Failure, Outcome};

/// Offices may finish the message that they are at.
const OFFICES: Duration = Duration::from_secs(1);
/// What is remembered is stored in the catalog within this, else in the file beside it within as much again.
const STORING: Duration = Duration::from_millis(750);
/// Tasks end within this once they are told to.
const TASKS: Duration = Duration::from_secs(1);
/// Records that wait are stored within this: in the catalog for the first half, then in the spool. What is left then is counted and lost.
const RECORDS: Duration = Duration::from_secs(2);
/// Connections to the catalog are closed within this.
const CLOSING: Duration = Duration::from_millis(500);
/// All of that together, whatever hangs: with a drain of 2 s and threads that are left behind, SIGTERM ends the daemon within 10 s.
const ENDING: Duration = Duration::from_millis(6500);
/// Where the endpoint's connections are cut off.
const ENDPOINT: Duration = Duration::from_secs(1);

/// What never changes while the daemon runs.
struct Fixed {
    file: PathBuf,
    state_directory: PathBuf,
    catalog: Catalog,
    ground: Ground,
    alive: Arc<dyn Fn() -> bool + Send + Sync>,
}

/// What a reload replaces.
struct Changing {
    watching: Watching,
    staff: Staff,
    scenes: watch::Sender<Arc<Scene>>,
}

/// Runs until a signal ends it.
pub async fn run(file: &Path, loaded: Loaded, counters: Arc<Counters>, logs: Logs) -> Outcome {
    let started = HostClock.monotonic();
    let service = Service::from_env();
    let mut signals = Signals::new()?;
    let config = &loaded.config;
    let host = super::host_name(config);
    let state_directory = config.state_directory.clone();
    if let Err(failure) = crate::places::make_private_dir(&state_directory) {
        tracing::error!("{}; what happens is not remembered", failure.message);
    }

    // What only one daemon can have comes first: another one that runs is not disturbed.
    let _seat = seat::take(&state_directory).map_err(|_| taken(&state_directory))?;
    let control_file = control::path(&state_directory);
    let control = Control::open(&control_file, Takes::All).map_err(|_| taken(&state_directory))?;
    let beats_file = config.beats_socket.clone();
    let beats = beats_file.as_deref().and_then(open_beats);
    // Without one, nothing is missing.
    let has_beats = beats.is_some() || beats_file.is_none();
    let sockets = [control.is_some(), has_beats].map(|is| Arc::new(AtomicBool::new(is)));
    let (facts, facts_out) = watch::channel(Arc::new(Facts::default()));
    let (orders, orders_out) = watch::channel(Order::Serve);
    let beat = beat(&host);
    // Together with the collector: each moment of its own would wake the processor for itself.
    let with_collector = beat + collector::AFTER;
    let endpoint = bind_endpoint(&loaded, facts_out, Arc::clone(&counters), with_collector)?;

    let catalog = open_catalog(&loaded, &host).await?;
    let (recorder, writer) = recorder::start(catalog.clone(), beat);
    let tick = Tick::new();
    let fixed = Fixed {
        file: file.to_owned(),
        catalog: catalog.clone(),
        ground: Ground {
            host: host.clone(),
            net: Net::new(Arc::new(HostClock)),
            systemd: Arc::default(),
            credentials: Credentials::of_this_process(),
            recorder: recorder.clone(),
            counters,
        },
        alive: {
            let tick = tick.clone();
            Arc::new(move || tick.is_fresh())
        },
        state_directory,
    };
    let memory_file = memory::file(&fixed.state_directory);
    let mut remembered = memory::load(&catalog, &memory_file).await;
    let (beginnings, seen) = watch::channel(std::mem::take(&mut remembered.alerts));
    let loaded = Arc::new(loaded);
    let ready = Prepared::new(&fixed, Arc::clone(&loaded)).map_err(|faults| unusable(&faults))?;
    let restarts = memory::restarts(&catalog).await;
    let (scene, watching, staff) =
        begin(&fixed, ready, remembered, restarts).map_err(|faults| unusable(&faults))?;
    let (scenes, scene_out) = watch::channel(Arc::new(scene));
    note_jobs(&fixed, &loaded).await;

    let (give_stop, stop) = Stop::new();
    let (found, collected) = watch::channel(Arc::new(Collected {
        ready: true,
        writable: true,
        ..Collected::default()
    }));
    let mut tasks = JoinSet::new();
    let tasks_stop = stop.clone();
    tasks.spawn(control::keep(
        control_file,
        Takes::All,
        control,
        scene_out.clone(),
        Arc::clone(&sockets[0]),
        stop.clone(),
    ));
    if let Some(file) = beats_file {
        tasks.spawn(control::keep(
            file,
            Takes::Beats,
            beats,
            scene_out.clone(),
            Arc::clone(&sockets[1]),
            stop.clone(),
        ));
    }
    tasks.spawn(collector::run(
        collector::Parts {
            catalog: catalog.clone(),
            recorder,
            counters: Arc::clone(&fixed.ground.counters),
            scenes: scene_out.clone(),
            out: found,
            host: host.clone(),
            beat,
            sockets,
        },
        stop.clone(),
    ));
    tasks.spawn(board::run(
        board::Parts {
            scenes: scene_out.clone(),
            collected,
            facts,
            beginnings,
            tick: tick.clone(),
            host,
            started,
        },
        stop.clone(),
    ));
    tasks.spawn(memory::keep(
        catalog.clone(),
        memory_file.clone(),
        scene_out,
        seen.clone(),
        stop.clone(),
    ));
    tasks.spawn(upkeep::run(catalog.clone(), stop));
    let serving = endpoint.map(|server| tokio::spawn(server.run(orders_out)));

    let service = Arc::new(service);
    if let Some(every) = service.watchdog() {
        tasks.spawn(sign_of_life(Arc::clone(&service), every, tick, tasks_stop));
    }
    service.ready(&status(&loaded));
    tracing::info!(
        "watching {} checks on {}",
        loaded.config.checks.len(),
        fixed.ground.host
    );

    let mut changing = Changing {
        watching,
        staff,
        scenes,
    };
    let mut reloads = 0;
    let mut outcome = Ok(Exit::Done);
    loop {
        tokio::select! {
            wanted = signals.next() => match wanted {
                Wanted::Stop => break,
                Wanted::Reload => {
                    service.reloading();
                    changing = match reload(&fixed, changing, &logs).await {
                        Ok(next) => next,
                        Err(failure) => {
                            // Nothing is watched any more: the service manager starts anew.
                            give_stop.send_replace(true);
                            return Err(failure);
                        }
                    };
                    reloads += 1;
                    orders.send_replace(Order::Reload(reloads));
                    let present = changing.scenes.borrow().loaded.clone();
                    service.ready(&status(&present));
                }
            },
            () = changing.watching.ended() => {
                outcome = Err(Failure::failed("the watcher ended by itself, which is a fault in Keepwatch; what was recorded is safe")
                    .advice("the service manager starts it anew; report what the log says before this"));
                break;
            }
        }
    }

    service.stopping();
    orders.send_replace(Order::Drain);
    let drain = changing.scenes.borrow().loaded.config.health.drain;
    tracing::info!("stopping, in {} ms at the earliest", drain.as_millis());
    // A second signal to stop ends the wait.
    let hurry = async { while signals.next().await != Wanted::Stop {} };
    let _ = timeout(drain, hurry).await;
    let ending = End {
        catalog,
        writer,
        memory_file,
        seen,
        changing,
        give_stop,
        tasks,
        orders,
        serving,
    };
    if timeout(ENDING, ending.run()).await.is_err() {
        tracing::warn!(
            "not all was ended within {} s; what was not recorded by then is lost",
            ENDING.as_secs()
        );
    }
    tracing::info!("stopped");
    outcome
}

fn open_beats(path: &Path) -> Option<Control> {
    match Control::open(path, Takes::Beats) {
        Ok(beats) => beats,
        Err(_) => {
            tracing::error!(
                "another process listens on 'beats_socket' {}; jobs cannot report to this one there",
                path.display()
            );
            None
        }
    }
}

fn taken(state_directory: &Path) -> Failure {
    Failure::failed(format!(
        "another 'keepwatch serve' uses the state directory {}; nothing was started",
        state_directory.display()
    ))
    .advice("stop the other one, or give this one a 'state_directory' of its own")
}

/// What is ended, after the drain.
struct End {
    catalog: Catalog,
    writer: Writer,
    memory_file: PathBuf,
    seen: watch::Receiver<Beginnings>,
    changing: Changing,
    give_stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    orders: watch::Sender<Order>,
    serving: Option<tokio::task::JoinHandle<()>>,
}

impl End {
    async fn run(self) {
        let before = self.changing.scenes.borrow().saved.borrow().clone();
        let saved = self.changing.watching.stop().await.saved;
        let people = self.changing.staff.stop(OFFICES).await;
        let memory = Memory {
            watch: saved.unwrap_or_else(|| Saved::clone(&before)),
            people,
            alerts: self.seen.borrow().clone(),
        };
        self.give_stop.send_replace(true);
        memory::save_within(STORING, &self.catalog, &self.memory_file, &memory).await;
        self.orders.send_replace(Order::Stop);
        let (mut tasks, serving) = (self.tasks, self.serving);
        let tasks = async {
            let ending = async { while tasks.join_next().await.is_some() {} };
            if timeout(TASKS, ending).await.is_err() {
                tasks.shutdown().await;
            }
        };
        let endpoint = async {
            if let Some(serving) = serving {
                let _ = serving.await;
            }
        };
        tokio::join!(tasks, endpoint);
        end_catalog(self.catalog, self.writer).await;
    }
}

async fn end_catalog(catalog: Catalog, writer: Writer) {
    writer.stop(RECORDS).await;
    let _ = timeout(CLOSING, catalog.close()).await;
}

/// A catalog that is away, and one that is not for this version: its records are kept in the spool.
async fn open_catalog(loaded: &Loaded, host: &str) -> Result<Catalog, Failure> {
    let options = super::catalog_options(&loaded.config, host, &Credentials::of_this_process())?;
    let clock: RecordClock = Arc::new(crate::clock::now);
    Ok(
        match Catalog::open(options.clone(), Arc::clone(&clock), random()).await {
            Ok(catalog) => {
                if let Some(trouble) = catalog.standing().trouble {
                    tracing::warn!("{trouble}");
                }
                catalog
            }
            Err(e) => {
                tracing::error!("{e}; until it can be used, records are kept in the spool");
                Catalog::detached(options, clock, random())
            }
        },
    )
}

fn bind_endpoint(
    loaded: &Loaded,
    facts: watch::Receiver<Arc<Facts>>,
    counters: Arc<Counters>,
    beat: Instant,
) -> Result<Option<Server>, Failure> {
    let metrics = &loaded.config.metrics;
    if !metrics.enable {
        return Ok(None);
    }
    let listen = match &metrics.unix_socket {
        Some(path) => Listen::Unix(path.clone()),
        None => Listen::Tcp((metrics.listen_address, metrics.port).into()),
    };
    let token_file = metrics
        .bearer_token_file
        .as_ref()
        .map(|source| source.path(&Credentials::of_this_process()))
        .transpose()
        .map_err(|e| Failure::failed(format!("{e}; nothing was started")))?;
    let settings = server::Settings {
        listen: vec![listen],
        token_file,
        legacy_names: metrics.legacy_names,
        limits: Limits {
            stop: ENDPOINT,
            ..Limits::default()
        },
        beat,
    };
    Server::bind(settings, facts, Arc::new(World), counters)
        .map(Some)
        .map_err(|e| {
            Failure::failed(e.to_string())
                .advice("choose another 'metrics.port', or stop what listens there")
        })
}

/// A configuration with all that can be made of it without stopping anything.
struct Prepared {
    loaded: Arc<Loaded>,
    plan: keepwatch_watch::conductor::Plan,
    people: Vec<people::Plan>,
}

impl Prepared {
    fn new(fixed: &Fixed, loaded: Arc<Loaded>) -> Result<Self, Vec<String>> {
        let people = people::plan(
            &loaded.config,
            &fixed.ground.host,
            &fixed.ground.credentials,
            &fixed.state_directory,
        );
        match (fixed.ground.plan(&loaded.config), people) {
            (Ok(plan), Ok(people)) => Ok(Self {
                loaded,
                plan,
                people,
            }),
            (plan, people) => {
                let mut faults = plan.err().unwrap_or_default();
                faults.extend(people.err().unwrap_or_default());
                Err(faults)
            }
        }
    }
}

/// Opens the offices and begins to watch.
fn begin(
    fixed: &Fixed,
    ready: Prepared,
    memory: Memory,
    restarts: Restarts,
) -> Result<(Scene, Watching, Staff), Vec<String>> {
    let config = &ready.loaded.config;
    let (office, staff): (Office, Staff) = people::open(
        ready.people,
        &config.notifications,
        memory.people,
        &fixed.alive,
    )
    .map_err(|why| vec![why])?;
    let (watching, ends) = watching::start(
        &fixed.ground,
        config,
        ready.plan,
        memory.watch,
        restarts,
        office.clone(),
    )?;
    let scene = Scene {
        mounts: Arc::new(shown::mounts(&ready.loaded.to_json())),
        loaded: ready.loaded,
        overview: ends.overview,
        saved: ends.saved,
        commands: ends.commands,
        office,
        refused: None,
        reloaded: World.wall(),
    };
    Ok((scene, watching, staff))
}

/// Reads the configuration anew; one with faults changes nothing.
async fn reload(fixed: &Fixed, now: Changing, logs: &Logs) -> Result<Changing, Failure> {
    let file = fixed.file.clone();
    let read = tokio::task::spawn_blocking(move || keepwatch_config::load(&file)).await;
    let prepared = match read {
        Ok(Ok(loaded)) => Prepared::new(fixed, Arc::new(loaded)),
        Ok(Err(faults)) => Err(faults.faults.iter().map(ToString::to_string).collect()),
        Err(e) => Err(vec![e.to_string()]),
    };
    let prepared = match prepared {
        Ok(prepared) => prepared,
        Err(faults) => {
            for fault in &faults {
                tracing::error!("configuration: {fault}");
            }
            tracing::error!("the configuration was not reloaded; the former one is in effect");
            now.scenes.send_modify(|scene| {
                let refused = &mut Arc::make_mut(scene).refused;
                *refused = refused.or(Some(World.wall()));
            });
            return Ok(now);
        }
    };
    let before = now.scenes.borrow().clone();
    for warning in &prepared.loaded.warnings {
        tracing::warn!("configuration: {warning}");
    }
    for section in prepared.loaded.needs_restart(&before.loaded) {
        tracing::warn!(
            "configuration: '{section}' changed, and is in effect only after 'systemctl restart'"
        );
    }
    logs.set_level(prepared.loaded.config.logging.level);

    let kept = before.saved.borrow().clone();
    let left = now.watching.stop().await;
    let people: BTreeMap<String, State> = now.staff.stop(OFFICES).await;
    let memory = Memory {
        watch: left.saved.unwrap_or_else(|| Saved::clone(&kept)),
        people,
        alerts: Beginnings::default(),
    };
    let (scene, watching, staff) =
        begin(fixed, prepared, memory, left.restarts).map_err(|faults| unusable(&faults))?;
    let loaded = Arc::clone(&scene.loaded);
    now.scenes.send_replace(Arc::new(scene));
    note_jobs(fixed, &loaded).await;
    tracing::info!(
        "the configuration was reloaded: {} checks",
        loaded.config.checks.len()
    );
    Ok(Changing {
        watching,
        staff,
        scenes: now.scenes,
    })
}

/// So that the catalog can tell "never ran" from "not configured".
async fn note_jobs(fixed: &Fixed, loaded: &Loaded) {
    let jobs = collect::jobs(&loaded.config);
    if let Err(e) = runs::note_configured(&fixed.catalog, &jobs, crate::clock::now()).await {
        tracing::debug!("the catalog was not told which jobs there are: {e}");
    }
}

/// The next moment at which this host does what it does periodically; the checks keep to the same.
fn beat(host: &str) -> Instant {
    let now = HostClock.monotonic();
    Instant::now() + Beat::of(host).after(now).saturating_sub(now)
}

async fn sign_of_life(service: Arc<Service>, every: Duration, tick: Tick, mut stop: Stop) {
    loop {
        if tick.is_fresh() {
            service.alive();
        }
        tokio::select! {
            () = stop.wait() => return,
            () = tokio::time::sleep(every) => {}
        }
    }
}

fn status(loaded: &Loaded) -> String {
    let c = &loaded.config;
    format!(
        "watching {} checks, {} backups",
        c.checks.len(),
        c.backups.len()
    )
}

fn unusable(faults: &[String]) -> Failure {
    Failure::usage(format!(
        "the configuration cannot be used: {}",
        faults.join("; ")
    ))
    .advice("'keepwatch config check' names what is wrong with a file")
}

/// The signals that a daemon gets.
struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|e| Failure::failed(format!("cannot listen to signals: {e}")))
        };
        Ok(Self {
            term: listen(SignalKind::terminate())?,
            int: listen(SignalKind::interrupt())?,
            hup: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Wanted {
        tokio::select! {
            _ = self.term.recv() => Wanted::Stop,
            _ = self.int.recv() => Wanted::Stop,
            _ = self.hup.recv() => Wanted::Reload,
        }
    }
}

/// What a signal wants.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Stop,
    Reload,
}

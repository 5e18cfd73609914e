//! The watcher and the task that takes its events: to the catalog, to the counters, to the journal and to people.

use std::sync::Arc;
use std::time::Duration;

use keepwatch_catalog::recorder::Recorder;
use keepwatch_config::plan::Tools;
use keepwatch_config::{Config, Credentials};
use keepwatch_expose::counters::Counters;
use keepwatch_model::check::Severity;
use keepwatch_notify::alert::Alert;
use keepwatch_notify::time::At;
use keepwatch_watch::clock::{Clock, HostClock};
use keepwatch_watch::conductor::{Conductor, Handle, Plan, Saved};
use keepwatch_watch::event::{Event, RestartStep};
use keepwatch_watch::net::Net;
use keepwatch_watch::restart::SystemdExecutor;
use keepwatch_watch::systemd::Systemd;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::journal;
use super::people::Office;
use super::records::{Records, Restarts};
use super::world::share;

/// The watcher ends its tasks within 3 s; more means that it hangs.
const STOPPING: Duration = Duration::from_secs(4);
/// What is left of its events is recorded within this.
const LAST_EVENTS: Duration = Duration::from_secs(1);

/// What watchers of this daemon have in common.
#[derive(Clone)]
pub struct Ground {
    /// The name of this host.
    pub host: String,
    /// Connections to services.
    pub net: Net,
    /// The service manager.
    pub systemd: Arc<Systemd>,
    /// Where systemd put our credentials.
    pub credentials: Credentials,
    /// The queue in front of the catalog.
    pub recorder: Recorder,
    /// Numbers.
    pub counters: Arc<Counters>,
}

impl Ground {
    /// What this configuration wants watched.
    ///
    /// # Errors
    /// A sentence for each check that cannot be made.
    pub fn plan(&self, config: &Config) -> Result<Plan, Vec<String>> {
        config.plan(
            &self.host,
            &Tools {
                net: &self.net,
                systemd: &self.systemd,
                credentials: &self.credentials,
            },
        )
    }
}

/// A watcher that runs.
pub struct Watching {
    stop: oneshot::Sender<()>,
    /// Absent once it has ended by itself.
    conductor: Option<JoinHandle<Saved>>,
    events: JoinHandle<Restarts>,
}

/// What a watcher leaves to the next.
#[derive(Default)]
pub struct Left {
    /// What is to be remembered, none when it hung or broke.
    pub saved: Option<Saved>,
    /// Restarts of which it is not known yet whether they helped.
    pub restarts: Restarts,
}

/// The ends of a watcher that others hold.
pub struct Ends {
    /// What it shows.
    pub overview: tokio::sync::watch::Receiver<keepwatch_watch::conductor::Overview>,
    /// What it wants stored.
    pub saved: tokio::sync::watch::Receiver<Arc<Saved>>,
    /// What it can be asked.
    pub commands: mpsc::Sender<keepwatch_watch::conductor::Command>,
}

/// Begins to watch. Must be called within a runtime.
///
/// # Errors
/// Faults of the plan; nothing runs then.
pub fn start(
    ground: &Ground,
    config: &Config,
    plan: Plan,
    saved: Saved,
    restarts: Restarts,
    office: Office,
) -> Result<(Watching, Ends), Vec<String>> {
    let executor = SystemdExecutor::new(
        Arc::clone(&ground.systemd),
        config.restartable().into_iter().cloned(),
        config.programs(),
    );
    let clock: Arc<dyn Clock> = Arc::new(HostClock);
    let jitter = Box::new(|| share() * 2.0 - 1.0);
    let (conductor, handle) = Conductor::new(plan, saved, Arc::new(executor), clock, jitter)
        .map_err(|faults| faults.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    let Handle {
        events,
        overview,
        saved,
        commands,
    } = handle;
    let records = Records::new(&ground.host, config, &overview.borrow().checks, restarts);
    let (stop, stopped) = oneshot::channel::<()>();
    let conductor = tokio::spawn(conductor.run(async move {
        let _ = stopped.await;
    }));
    let events = tokio::spawn(pass_on(events, records, ground.clone(), office));
    let watching = Watching {
        stop,
        conductor: Some(conductor),
        events,
    };
    Ok((
        watching,
        Ends {
            overview,
            saved,
            commands,
        },
    ))
}

impl Watching {
    /// Until the watcher ends by itself, which is a fault.
    pub async fn ended(&mut self) {
        if let Some(conductor) = &mut self.conductor {
            let _ = conductor.await;
            self.conductor = None;
        }
    }

    /// Ends it and all its runs.
    pub async fn stop(self) -> Left {
        let Self {
            stop,
            conductor,
            mut events,
        } = self;
        let _ = stop.send(());
        let mut left = Left::default();
        if let Some(mut conductor) = conductor {
            match tokio::time::timeout(STOPPING, &mut conductor).await {
                Ok(done) => left.saved = done.ok(),
                Err(_) => conductor.abort(),
            }
        }
        // Its end of the channel is gone, so the other comes to its end.
        match tokio::time::timeout(LAST_EVENTS, &mut events).await {
            Ok(restarts) => left.restarts = restarts.unwrap_or_default(),
            Err(_) => {
                events.abort();
                let _ = events.await;
            }
        }
        left
    }
}

async fn pass_on(
    mut events: mpsc::Receiver<Event>,
    mut records: Records,
    ground: Ground,
    office: Office,
) -> Restarts {
    while let Some(event) = events.recv().await {
        journal::tell(&event, &records);
        if let Event::Result(run) = &event {
            let name = run.check.as_str();
            ground.counters.check_finished(name, run.kind, run.duration);
        }
        if let Some(alert) = notice(&event, &ground.host) {
            office.notice(&alert);
        }
        for entry in records.of(&event) {
            // What had no room is counted by the queue.
            ground.recorder.push(entry);
        }
    }
    records.into_restarts()
}

/// What people are told once: how a restart went.
fn notice(event: &Event, host: &str) -> Option<Alert> {
    let Event::Restart { unit, at, step } = event else {
        return None;
    };
    let make = |name: &str, severity| {
        Alert::new(name, severity, At(at.0))
            .label("instance", host)
            .label("unit", unit.as_str())
    };
    match step {
        RestartStep::Recovered { .. } => Some(
            make("KeepwatchUnitRestarted", Severity::Info)
                .summary(&format!("{unit} was restarted and is well again")),
        ),
        // One that failed, and giving up, are alerts of their own.
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keepwatch_watch::clock;

    #[test]
    fn only_how_a_restart_went_is_told_once() {
        let event = |step| Event::Restart {
            unit: "web.service".parse().expect("a unit"),
            at: clock::At(1),
            step,
        };
        let after = Duration::from_secs(3);
        let told = |step| notice(&event(step), "h").map(|a| a.name().to_owned());
        assert_eq!(
            told(RestartStep::Recovered { after }).as_deref(),
            Some("KeepwatchUnitRestarted")
        );
        let finished = |ok| RestartStep::Finished {
            ok,
            result: "failed".into(),
            invocation: String::new(),
        };
        assert_eq!(told(finished(false)), None, "an alert of its own");
        assert_eq!(told(finished(true)), None);
        assert_eq!(told(RestartStep::GaveUp), None, "an alert of its own");
    }
}

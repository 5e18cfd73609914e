//! What the tasks of the daemon share: the present configuration with its watcher and its ways to people, and the order to stop.
//!
//! A reload makes a new scene; tasks take the newest one each time that they turn to it, and hold it no longer.

use std::sync::Arc;

use keepwatch_config::Loaded;
use keepwatch_expose::facts::At;
use keepwatch_watch::conductor::{Command, Overview, Saved};
use tokio::sync::{mpsc, watch};

use super::people::Office;
use super::shown::Mounts;

/// The present.
#[derive(Clone)]
pub struct Scene {
    /// The configuration.
    pub loaded: Arc<Loaded>,
    /// Mount points of disk checks.
    pub mounts: Arc<Mounts>,
    /// What the watcher shows.
    pub overview: watch::Receiver<Overview>,
    /// What it wants stored.
    pub saved: watch::Receiver<Arc<Saved>>,
    /// What it can be asked.
    pub commands: mpsc::Sender<Command>,
    /// Ways to people.
    pub office: Office,
    /// When the configuration was refused, if the last reload did not work.
    pub refused: Option<At>,
    /// When the configuration was last read with success.
    pub reloaded: At,
}

/// The order to stop.
#[derive(Clone)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// One who gives it, and one who waits for it.
    pub fn new() -> (watch::Sender<bool>, Self) {
        let (give, take) = watch::channel(false);
        (give, Self(take))
    }

    /// Until it comes, or whoever could give it is gone.
    pub async fn wait(&mut self) {
        let _ = self.0.wait_for(|stop| *stop).await;
    }
}

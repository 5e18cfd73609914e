//! Probes: one act of asking, for each kind of check.
//!
//! A probe is built from its settings once (which validates them) and asked again and again; it holds no connection and no
//! result between runs. One deadline covers a whole run: name, connection, TLS, exchange. What a probe reads is bounded, what it
//! says is cleaned, and the secrets it sends are read for the run and dropped with it.

pub mod command;
pub mod disk;
pub mod dns;
pub mod exchange;
pub mod heartbeat;
pub mod host;
pub mod http;
pub mod json;
pub mod mysql;
pub mod ollama;
pub mod postgresql;
pub mod qdrant;
pub mod redis;
pub mod sqlite;
pub mod tcp;
pub mod tls;
pub mod together;
pub mod unit;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use keepwatch_model::check::{CheckKind, Reason};
use serde::de::{self, Deserialize, Deserializer};
use thiserror::Error;
use tokio::time::{Instant, timeout_at};

use crate::outcome::{Outcome, Quantity};

/// A run in progress.
pub type Asking<'a> = Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;

/// One way of asking.
pub trait Probe: Send + Sync {
    /// The kind of check.
    fn kind(&self) -> CheckKind;

    /// Asks. Who calls drops the future at `deadline` + [`Self::overtime`]; nothing may go on after that.
    fn ask(&self, deadline: Instant) -> Asking<'_>;

    /// How much longer than the deadline it may take to stop, for probes that must clean up.
    fn overtime(&self) -> Duration {
        Duration::ZERO
    }
}

/// Settings that make no sense.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{setting}: {why}")]
pub struct SettingsError {
    /// The key.
    pub setting: &'static str,
    /// What is wrong with it.
    pub why: String,
}

impl SettingsError {
    pub(crate) fn new(setting: &'static str, why: impl Into<String>) -> Self {
        Self {
            setting,
            why: why.into(),
        }
    }
}

/// Runs a probe within `timeout` and measures how long it took.
pub async fn run(probe: &dyn Probe, timeout: Duration) -> Outcome {
    let began = Instant::now();
    let deadline = began + timeout;
    let mut outcome = match timeout_at(deadline + probe.overtime(), probe.ask(deadline)).await {
        Ok(outcome) => outcome,
        Err(_) => Outcome::failure(
            Reason::Timeout,
            format!("no answer within {:.1} s", timeout.as_secs_f64()),
        ),
    };
    outcome.measure(Quantity::DurationSeconds, began.elapsed().as_secs_f64());
    outcome
}

/// Reads a duration as people write it, for settings.
pub(crate) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    keepwatch_model::duration::parse_duration(&String::deserialize(deserializer)?)
        .map_err(de::Error::custom)
}

//! The ollama probe: it answers, and the models that must be there are.

use std::collections::BTreeSet;

use keepwatch_model::check::{CheckKind, Reason};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::exchange::{Endpoint, Question, exchange};
use super::http::measure_end;
use super::qdrant::parse;
use super::{Asking, Probe, SettingsError};
use crate::net::Net;
use crate::net::tls::TlsSettings;
use crate::outcome::{Failure, Outcome, Quantity};

/// What is asked.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OllamaSettings {
    /// `http://localhost:11434`.
    pub url: String,
    /// Models that must be there; without a tag `:latest` is meant.
    pub models: BTreeSet<String>,
    /// Whom to trust.
    pub tls: TlsSettings,
}

/// The probe.
pub struct Ollama {
    net: Net,
    endpoint: Endpoint,
    settings: OllamaSettings,
}

#[derive(Deserialize)]
struct Tags {
    /// `null` when there are none.
    models: Option<Vec<Model>>,
}
#[derive(Deserialize)]
struct Model {
    name: String,
}

impl Ollama {
    /// Checks the settings.
    ///
    /// # Errors
    /// A URL that is none.
    pub fn new(settings: OllamaSettings, net: Net) -> Result<Self, SettingsError> {
        let endpoint = Endpoint::parse(&settings.url, None, &settings.tls)?.at("/api/tags");
        Ok(Self {
            net,
            endpoint,
            settings,
        })
    }

    async fn run(&self) -> Result<Outcome, Failure> {
        let mut outcome = Outcome::success();
        let answer = exchange(&self.net, &self.endpoint, Question::get()).await?;
        measure_end(&mut outcome, answer.not_after, self.net.now());
        if answer.status.as_u16() != 200 {
            return Err(Failure::new(
                Reason::Status,
                format!("/api/tags answers {}", answer.status.as_u16()),
            ));
        }
        let tags: Tags = parse("/api/tags", &answer)?;
        let there: BTreeSet<String> = tags
            .models
            .unwrap_or_default()
            .into_iter()
            .map(|m| tagged(&m.name))
            .collect();
        outcome.measure(Quantity::OllamaModels, there.len() as f64);
        let missing: Vec<&str> = self
            .settings
            .models
            .iter()
            .filter(|m| !there.contains(&tagged(m)))
            .map(String::as_str)
            .collect();
        if !missing.is_empty() {
            outcome.fail(
                Reason::Assertion,
                format!("missing models: {}", missing.join(", ")),
            );
        }
        Ok(outcome)
    }
}

fn tagged(model: &str) -> String {
    // A registry may have a port, so only the last part can hold a tag.
    match model.rsplit('/').next() {
        Some(last) if last.contains(':') => model.to_owned(),
        _ => format!("{model}:latest"),
    }
}

impl Probe for Ollama {
    fn kind(&self) -> CheckKind {
        CheckKind::Ollama
    }
    fn ask(&self, _: Instant) -> Asking<'_> {
        Box::pin(async { self.run().await.into() })
    }
}

//! The qdrant probe: ready, how many collections, and whether those that must be there are well.
//!
//! `/readyz` needs no key and says whether all shards are ready; `/collections` needs one, so that a wrong key is told apart
//! from a server that is not ready.

use std::collections::BTreeSet;

use hyper::header::HeaderName;
use keepwatch_model::check::{CheckKind, Reason};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::exchange::{Answer, Endpoint, Question, exchange};
use super::http::measure_end;
use super::{Asking, Probe, SettingsError};
use crate::net::Net;
use crate::net::tls::TlsSettings;
use crate::outcome::{Failure, Outcome, Quantity};
use crate::secret::{SecretFile, read_optional};

/// Collections that one check may require; each is a request.
const REQUIRED_MAX: usize = 16;

/// What is asked.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QdrantSettings {
    /// `http://localhost:6333`.
    pub url: String,
    /// API key; the read-only one is enough.
    pub api_key_file: Option<SecretFile>,
    /// At least so many collections.
    pub min_collections: u64,
    /// Collections that must be there and green.
    pub collections: BTreeSet<String>,
    /// Whom to trust.
    pub tls: TlsSettings,
}

/// The probe.
pub struct Qdrant {
    net: Net,
    endpoint: Endpoint,
    settings: QdrantSettings,
}

#[derive(Deserialize)]
struct Collections {
    result: CollectionList,
}
#[derive(Deserialize)]
struct CollectionList {
    collections: Vec<Name>,
}
#[derive(Deserialize)]
struct Name {
    name: String,
}
#[derive(Deserialize)]
struct Collection {
    result: CollectionInfo,
}
#[derive(Deserialize)]
struct CollectionInfo {
    status: String,
    points_count: Option<f64>,
}

impl Qdrant {
    /// Checks the settings.
    ///
    /// # Errors
    /// A URL that is none; a name of a collection that cannot be part of one; too many.
    pub fn new(settings: QdrantSettings, net: Net) -> Result<Self, SettingsError> {
        let endpoint = Endpoint::parse(&settings.url, None, &settings.tls)?;
        let plain = |n: &String| {
            !n.is_empty()
                && n.len() < 256
                && n.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
                && !n.starts_with('.')
        };
        if let Some(bad) = settings.collections.iter().find(|n| !plain(n)) {
            return Err(SettingsError::new(
                "collections",
                format!("{bad:?} is not a name of letters, digits, -, _ and ."),
            ));
        }
        if settings.collections.len() > REQUIRED_MAX {
            return Err(SettingsError::new(
                "collections",
                format!("more than {REQUIRED_MAX}"),
            ));
        }
        Ok(Self {
            net,
            endpoint,
            settings,
        })
    }

    async fn get(&self, path: &str, with_key: bool) -> Result<Answer, Failure> {
        let mut question = Question::get();
        if with_key {
            if let Some(key) = read_optional(self.settings.api_key_file.as_ref()).await? {
                question.secret(HeaderName::from_static("api-key"), "", &key)?;
            }
        }
        let answer = exchange(&self.net, &self.endpoint.at(path), question).await?;
        match answer.status.as_u16() {
            200 => Ok(answer),
            401 | 403 => Err(Failure::new(
                Reason::Auth,
                format!("Qdrant refuses the API key for {path}"),
            )),
            code => Err(Failure::new(
                Reason::Status,
                format!(
                    "{path} answers {code}: {}",
                    crate::text::clean_bytes(&answer.body[..answer.body.len().min(200)])
                ),
            )),
        }
    }

    async fn run(&self) -> Result<Outcome, Failure> {
        let mut outcome = Outcome::success();
        let ready = self.get("/readyz", false).await?;
        measure_end(&mut outcome, ready.not_after, self.net.now());
        let list: Collections = parse("/collections", &self.get("/collections", true).await?)?;
        let names: BTreeSet<&str> = list
            .result
            .collections
            .iter()
            .map(|c| c.name.as_str())
            .collect();
        outcome.measure(Quantity::QdrantCollections, names.len() as f64);
        if (names.len() as u64) < self.settings.min_collections {
            outcome.fail(
                Reason::Assertion,
                format!(
                    "{} collections, fewer than {}",
                    names.len(),
                    self.settings.min_collections
                ),
            );
        }
        let mut points = 0.0;
        for name in &self.settings.collections {
            if !names.contains(name.as_str()) {
                outcome.fail(
                    Reason::Assertion,
                    format!("the collection {name} is missing"),
                );
                continue;
            }
            let path = format!("/collections/{name}");
            let info: Collection = parse(&path, &self.get(&path, true).await?)?;
            points += info.result.points_count.unwrap_or(0.0);
            match info.result.status.as_str() {
                "green" => {}
                // Optimising, or waiting to: it answers.
                "yellow" | "grey" => {
                    outcome.warn(format!("the collection {name} is {}", info.result.status));
                }
                other => {
                    outcome.fail(
                        Reason::Assertion,
                        format!("the collection {name} is {other}"),
                    );
                }
            }
        }
        if !self.settings.collections.is_empty() {
            outcome.measure(Quantity::QdrantPoints, points);
        }
        Ok(outcome)
    }
}

pub(super) fn parse<'a, T: Deserialize<'a>>(what: &str, answer: &'a Answer) -> Result<T, Failure> {
    serde_json::from_slice(&answer.body).map_err(|e| {
        Failure::because(
            Reason::Protocol,
            &format!("the answer to {what} is not the expected JSON"),
            &e,
        )
    })
}

impl Probe for Qdrant {
    fn kind(&self) -> CheckKind {
        CheckKind::Qdrant
    }
    fn ask(&self, _: Instant) -> Asking<'_> {
        Box::pin(async { self.run().await.into() })
    }
}

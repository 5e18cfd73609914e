//! Alertmanager's API v2: `POST /api/v2/alerts`. What is posted and how often is decided in [`crate::push`].

use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use keepwatch_model::check::Severity;
use serde::Deserialize;
use std::time::Duration;

use crate::fault::Fault;
use crate::http::{Net, Question, Url};
use crate::limits::JSON;
use crate::push::Posting;
use crate::secret::SecretFile;

/// Where to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Base URLs of all members of the cluster: each gets everything, as Prometheus does.
    pub urls: Vec<String>,
    /// A file with a bearer token.
    #[serde(default)]
    pub token_file: Option<SecretFile>,
    /// A user, and the file with his password, for basic authentication (RFC 7617); not beside a token.
    #[serde(default)]
    pub basic: Option<(String, SecretFile)>,
    /// Alerts are posted again after so long.
    #[serde(default = "minute", deserialize_with = "crate::time::duration")]
    pub resend: Duration,
    /// Alerts that matter less are not posted.
    #[serde(default = "info")]
    pub min_severity: Severity,
}

impl Settings {
    /// Nothing secret is sent.
    fn is_open(&self) -> bool {
        self.token_file.is_none() && self.basic.is_none()
    }
}

fn minute() -> Duration {
    Duration::from_secs(60)
}

fn info() -> Severity {
    Severity::Info
}

/// What is wrong with the settings. Without a token nothing secret is sent, so plain HTTP is allowed.
///
/// # Errors
/// One sentence.
pub fn check(s: &Settings) -> Result<(), String> {
    if s.urls.is_empty() || s.urls.len() > 8 {
        return Err("there must be 1 to 8 Alertmanagers".into());
    }
    if let Some((user, _)) = &s.basic {
        if s.token_file.is_some() {
            return Err("a token and a password both say who we are; leave one of them out".into());
        }
        if user.is_empty() || user.contains(':') {
            return Err("the user of basic authentication is empty or holds a colon".into());
        }
    }
    for url in &s.urls {
        Url::parse(url, s.is_open())
            .map_err(|why| format!("the Alertmanager {url:?} cannot be used because {why}"))?;
    }
    if !(Duration::from_secs(5)..=Duration::from_secs(3600)).contains(&s.resend) {
        return Err("alerts must be posted again after 5 s to 1 h".into());
    }
    Ok(())
}

/// One batch to one Alertmanager.
///
/// # Errors
/// It was not taken, as far as can be told.
pub async fn post(s: &Settings, net: &Net, url: &str, batch: &[Posting]) -> Result<(), Fault> {
    let base = Url::parse(url, s.is_open()).map_err(|why| {
        Fault::later(format!(
            "the URL of Alertmanager cannot be used because {why}"
        ))
    })?;
    let body =
        serde_json::to_vec(batch).map_err(|_| Fault::later("alerts cannot be written as JSON"))?;
    if body.len() > JSON {
        return Err(Fault::Refused {
            why: "the alerts are too long for one request".into(),
        });
    }
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let mut question = Question {
        method: Method::POST,
        headers,
        body: &body,
    };
    if let Some(file) = &s.token_file {
        question.bearer(&file.read().await.map_err(Fault::later)?)?;
    }
    if let Some((user, file)) = &s.basic {
        question.basic(user, &file.read().await.map_err(Fault::later)?)?;
    }
    let answer = net.exchange(&base.join("/api/v2/alerts"), question).await?;
    match answer.status {
        200..=299 => Ok(()),
        status => {
            let said = String::from_utf8_lossy(&answer.body);
            let token = match s.token_file.as_ref().or(s.basic.as_ref().map(|(_, f)| f)) {
                Some(file) => file.read().await.ok(),
                None => None,
            };
            let secrets: Vec<&str> = token.iter().map(crate::secret::Secret::expose).collect();
            Err(Fault::of_status(
                status,
                answer.retry_after,
                &crate::fault::without(&said, &secrets),
            ))
        }
    }
}

//! The dead-man switch: a URL outside that is asked for at a regular interval while the agent is well. Who stands behind it
//! tells a person when it is not asked for any more: the only alarm that works when this host is gone.

use hyper::Method;
use hyper::header::HeaderMap;
use serde::Deserialize;
use std::time::Duration;

use super::url_of;
use crate::fault::Fault;
use crate::http::{Net, Question};
use crate::secret::SecretFile;

/// Where to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The file with the URL; who knows it can keep the alarm silent.
    pub url_file: SecretFile,
    /// How often.
    #[serde(default = "minute", deserialize_with = "crate::time::duration")]
    pub interval: Duration,
    /// Allows `http://` to other hosts.
    #[serde(default)]
    pub plain_http: bool,
}

fn minute() -> Duration {
    Duration::from_secs(60)
}

/// Says that we are alive.
///
/// # Errors
/// It was not heard, as far as can be told.
pub async fn ping(s: &Settings, net: &Net) -> Result<(), Fault> {
    let (_, url) = url_of(&s.url_file, s.plain_http).await?;
    let question = Question {
        method: Method::GET,
        headers: HeaderMap::new(),
        body: b"",
    };
    let answer = net.exchange(&url, question).await?;
    match answer.status {
        200..=299 => Ok(()),
        status => Err(Fault::of_status(status, answer.retry_after, "")),
    }
}

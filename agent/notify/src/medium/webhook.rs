//! JSON to a URL from a file, in the form of Alertmanager's webhooks (version 4), so that receivers made for those work.
//!
//! With a key, the body is signed: `Keepwatch-Signature: sha256=` and the HMAC-SHA-256 (RFC 2104) of its bytes in hexadecimal digits, the form of
//! GitHub's webhooks, so that their receivers' code works. Its time stands in the signed body (`sentAt`), against messages that somebody repeats.

use hmac::{Hmac, Mac as _};
use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::url_of;
use crate::fault::Fault;
use crate::http::{Net, Question};
use crate::limits::JSON;
use crate::plan::{Kind, Line, Message};
use crate::secret::{Secret, SecretFile};
use crate::time::At;

/// The header of the signature.
const SIGNATURE: HeaderName = HeaderName::from_static("keepwatch-signature");

/// Where to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The file with the URL.
    pub url_file: SecretFile,
    /// A file with a bearer token.
    #[serde(default)]
    pub token_file: Option<SecretFile>,
    /// A file with the key of the signature.
    #[serde(default)]
    pub key_file: Option<SecretFile>,
    /// Allows `http://` to other hosts.
    #[serde(default)]
    pub plain_http: bool,
}

/// The body, at most [`JSON`] bytes: alerts that have no room are counted.
pub fn write(host: &str, message: &Message, now: At) -> String {
    let mut shown = Vec::new();
    let mut size = 2048;
    for line in &message.lines {
        let alert = alert(line);
        size += alert.to_string().len() + 1;
        if size > JSON {
            break;
        }
        shown.push(alert);
    }
    let left = message.lines.len() - shown.len();
    let mut common = Map::new();
    if let Some(first) = message.lines.first() {
        for (name, value) in first.alert.labels() {
            if message
                .lines
                .iter()
                .all(|l| l.alert.labels().get(name) == Some(value))
            {
                common.insert(name.clone(), value.as_str().into());
            }
        }
    }
    json!({
        "version": "4",
        "groupKey": message.group.replace('\u{1}', "/"),
        "truncatedAlerts": left,
        "status": if message.firing() == 0 && message.kind != Kind::Held { "resolved" } else { "firing" },
        "receiver": message.channel,
        "groupLabels": {},
        "commonLabels": common,
        "commonAnnotations": {},
        "externalURL": "",
        "host": host,
        "sentAt": now.rfc3339(),
        "kind": match message.kind {
            Kind::Firing => "firing",
            Kind::Resolved => "resolved",
            Kind::Repeat => "repeat",
            Kind::Notice => "notice",
            Kind::Held => "held",
            Kind::Summary => "summary",
        },
        "note": message.note,
        "alerts": shown,
    })
    .to_string()
}

fn signature(key: &Secret, body: &[u8]) -> String {
    // A key of any length will do.
    let Ok(mut mac) = Hmac::<sha2::Sha256>::new_from_slice(key.expose().as_bytes()) else {
        return String::new();
    };
    mac.update(body);
    let mut out = String::from("sha256=");
    for byte in mac.finalize().into_bytes() {
        out.push_str(&format!("{byte:02x}"));
    }
    out
}

fn alert(line: &Line) -> Value {
    let a = &line.alert;
    json!({
        "status": if line.ended.is_some() { "resolved" } else { "firing" },
        "labels": a.labels(),
        "annotations": {
            "summary": a.summary_text(),
            "description": a.description_text(),
            "runbook_url": a.runbook_url(),
        },
        "startsAt": a.starts().rfc3339(),
        // What Alertmanager writes while there is no end.
        "endsAt": line.ended.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), |at| at.rfc3339()),
        "generatorURL": "",
        "fingerprint": a.id().0,
    })
}

pub(super) async fn send(
    s: &Settings,
    net: &Net,
    host: &str,
    message: &Message,
    now: At,
) -> Result<(), Fault> {
    let (_, url) = url_of(&s.url_file, s.plain_http).await?;
    let body = write(host, message, now);
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let mut question = Question {
        method: Method::POST,
        headers,
        body: body.as_bytes(),
    };
    if let Some(file) = &s.token_file {
        question.bearer(&file.read().await.map_err(Fault::later)?)?;
    }
    if let Some(file) = &s.key_file {
        let key = file.read().await.map_err(Fault::later)?;
        question.header(SIGNATURE, &signature(&key, body.as_bytes()));
    }
    let answer = net.exchange(&url, question).await?;
    match answer.status {
        200..=299 => Ok(()),
        // What it says may repeat the URL in any form, so it is not passed on.
        status => Err(Fault::of_status(status, answer.retry_after, "")),
    }
}

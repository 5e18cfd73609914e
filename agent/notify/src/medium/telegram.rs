//! Telegram's `sendMessage`, with HTML. The bot's token is a part of the URL, so no error here says one.

use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use keepwatch_model::check::Severity;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;

use super::{is_loud, more, note, state, title};
use crate::fault::{Fault, without};
use crate::http::{Net, Question, Url};
use crate::limits::TELEGRAM;
use crate::plan::{Kind, Line, Message};
use crate::secret::SecretFile;
use crate::text::{fit, html, units};

/// UTF-16 units of the parts of one alert, after escaping; together below half of a message, so that one always fits.
const NAME: usize = 200;
const SUMMARY: usize = 600;
const DESCRIPTION: usize = 700;
const SUBJECT: usize = 300;

/// Where to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The file with the bot's token.
    pub token_file: SecretFile,
    /// The chat: a number, or `@name` of a channel.
    pub chat_id: String,
    /// A topic of the chat.
    #[serde(default)]
    pub thread_id: Option<i64>,
    /// Another server of the API.
    #[serde(default)]
    pub api: Option<String>,
    /// Every message without a sound.
    #[serde(default)]
    pub silent: bool,
}

/// What is wrong with the settings.
pub(super) fn check(s: &Settings) -> Result<(), String> {
    let named = s.chat_id.strip_prefix('@').is_some_and(|n| {
        !n.is_empty() && n.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    });
    if s.chat_id.parse::<i64>().is_err() && !named {
        return Err(format!(
            "{:?} is no Telegram chat: write its number, or @name",
            s.chat_id
        ));
    }
    if let Some(api) = &s.api {
        Url::parse(api, false)
            .map_err(|why| format!("the Telegram API {api:?} cannot be used because {why}"))?;
    }
    Ok(())
}

/// The text: HTML, balanced, at most [`TELEGRAM`] units.
pub fn write(host: &str, message: &Message) -> String {
    let head = format!("<b>{}</b>", html(&title(message, host), 400));
    let blocks: Vec<String> = message
        .lines
        .iter()
        .map(|l| block(l, message.kind))
        .collect();
    let note = html(&note(message), 1000);
    let room = TELEGRAM - units(&head) - units(&note) - 2;
    format!(
        "{head}\n\n{note}{}",
        fit(&blocks, "\n\n", room, units, more)
    )
}

fn block(line: &Line, kind: Kind) -> String {
    let a = &line.alert;
    let mut out = format!(
        "<b>{}</b> [{}] {}",
        html(a.name(), NAME),
        a.severity(),
        html(&state(line, kind), 100)
    );
    for (text, limit) in [
        (a.summary_text(), SUMMARY),
        (a.description_text(), DESCRIPTION),
    ] {
        if !text.is_empty() {
            out.push('\n');
            out.push_str(&html(text, limit));
        }
    }
    let subject = a.subject();
    if !subject.is_empty() {
        out.push_str(&format!("\n<code>{}</code>", html(&subject, SUBJECT)));
    }
    if !a.runbook_url().is_empty() {
        // The URL has no character that would need escaping but `&`.
        out.push_str(&format!(
            "\n<a href=\"{}\">runbook</a>",
            a.runbook_url().replace('&', "&amp;")
        ));
    }
    out
}

pub(super) async fn send(
    s: &Settings,
    net: &Net,
    host: &str,
    message: &Message,
) -> Result<(), Fault> {
    let token = s.token_file.read().await.map_err(Fault::later)?;
    if !token
        .expose()
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b":_-".contains(&b))
    {
        return Err(Fault::later(
            "the file of the bot's token holds something else",
        ));
    }
    let api = s.api.as_deref().unwrap_or("https://api.telegram.org");
    let base = Url::parse(api, false)
        .map_err(|why| Fault::later(format!("the Telegram API cannot be used because {why}")))?;
    let url = base.join(&format!("/bot{}/sendMessage", token.expose()));
    let mut body = json!({
        "chat_id": s.chat_id,
        "text": write(host, message),
        "parse_mode": "HTML",
        "disable_notification": s.silent || !is_loud(message) && message.severity() == Severity::Info,
        "link_preview_options": { "is_disabled": true },
    });
    if let Some(thread) = s.thread_id {
        body["message_thread_id"] = thread.into();
    }
    let body = body.to_string();
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let answer = net
        .exchange(
            &url,
            Question {
                method: Method::POST,
                headers,
                body: body.as_bytes(),
            },
        )
        .await?;
    let said: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    if answer.status == 200 && said["ok"] == true {
        return Ok(());
    }
    let description = without(
        said["description"].as_str().unwrap_or_default(),
        &[token.expose()],
    );
    let after = said["parameters"]["retry_after"]
        .as_u64()
        .map(Duration::from_secs);
    match answer.status {
        200 => Err(Fault::later(
            "Telegram answered something else than that it took the message",
        )),
        status => Err(Fault::of_status(
            status,
            after.or(answer.retry_after),
            &description,
        )),
    }
}

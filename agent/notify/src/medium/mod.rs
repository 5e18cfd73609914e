//! How each medium writes a message and sends it. Writing is pure and bounded; sending is one attempt.

pub mod alertmanager;
pub mod deadman;
pub mod mail;
pub mod ntfy;
pub mod telegram;
pub mod webhook;

use keepwatch_model::check::Severity;
use serde::Deserialize;

use crate::fault::Fault;
use crate::http::{Net, Url};
use crate::plan::{Kind, Line, Message};
use crate::secret::{Secret, SecretFile};
use crate::time::At;

/// Characters of the sentence before the lines; ours take ASCII only.
const NOTE: usize = 300;

/// A way to reach people, as configured.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Medium {
    /// A bot in a Telegram chat.
    Telegram(telegram::Settings),
    /// Mail.
    Mail(mail::Settings),
    /// JSON to a URL, in the form of Alertmanager's webhooks.
    Webhook(webhook::Settings),
    /// A topic of an ntfy server.
    Ntfy(ntfy::Settings),
}

impl Medium {
    /// One attempt to deliver.
    ///
    /// # Errors
    /// It was not delivered, as far as can be told.
    pub async fn send(
        &self,
        net: &Net,
        host: &str,
        message: &Message,
        now: At,
    ) -> Result<(), Fault> {
        match self {
            Self::Telegram(s) => telegram::send(s, net, host, message).await,
            Self::Mail(s) => mail::send(s, net, host, message, now).await,
            Self::Webhook(s) => webhook::send(s, net, host, message, now).await,
            Self::Ntfy(s) => ntfy::send(s, net, host, message).await,
        }
    }

    /// What is wrong with the settings, found before anything is sent.
    ///
    /// # Errors
    /// One sentence.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::Telegram(s) => telegram::check(s),
            Self::Mail(s) => mail::check(s),
            Self::Webhook(_) => Ok(()),
            Self::Ntfy(s) => ntfy::check(s),
        }
    }
}

/// The URL in a secret file.
async fn url_of(file: &SecretFile, plain: bool) -> Result<(Secret, Url), Fault> {
    let text = file.read().await.map_err(Fault::later)?;
    let url = Url::parse(text.expose(), plain).map_err(|why| {
        Fault::later(format!(
            "cannot use the URL in {} because {why}",
            file.0.display()
        ))
    })?;
    Ok((text, url))
}

/// The first line of a message: `FIRING critical: KeepwatchCheckDown (2) on host`.
pub fn title(message: &Message, host: &str) -> String {
    if message.kind.is_of_channel() {
        let word = match message.kind {
            Kind::Summary => "SUMMARY: messages were left out",
            _ => "HELD BACK: too many messages",
        };
        let fire = match message.firing() {
            0 => String::new(),
            1 => ", 1 alert".to_owned(),
            n => format!(", {n} alerts"),
        };
        return crate::text::clean(&format!("{word} on {host}{fire}"), 180);
    }
    let names: std::collections::BTreeSet<&str> =
        message.lines.iter().map(|l| l.alert.name()).collect();
    let names = match (names.iter().next(), names.len()) {
        (Some(name), 1) => (*name).to_owned(),
        (_, n) => format!("{n} alerts"),
    };
    let count = match message.lines.len() {
        0 | 1 => String::new(),
        n => format!(" ({n})"),
    };
    let word = match message.kind {
        Kind::Firing => "FIRING",
        Kind::Resolved => "RESOLVED",
        Kind::Repeat => "STILL FIRING",
        Kind::Notice => "NOTICE",
        Kind::Held => "HELD BACK",
        Kind::Summary => "SUMMARY",
    };
    let severity = match message.kind {
        Kind::Resolved => String::new(),
        _ => format!(" {}", message.severity()),
    };
    crate::text::clean(&format!("{word}{severity}: {names}{count} on {host}"), 180)
}

/// The state of one line, in words.
pub fn state(line: &Line, kind: Kind) -> String {
    match (line.ended, kind) {
        (Some(end), _) => format!(
            "resolved, from {} to {}",
            line.alert.starts().short(),
            end.short()
        ),
        (None, Kind::Notice) => line.alert.starts().short(),
        (None, _) if line.new => format!("firing since {}", line.alert.starts().short()),
        (None, _) => format!("still firing since {}", line.alert.starts().short()),
    }
}

/// The sentence before the lines, with what is between; nothing when there is none.
pub fn note(message: &Message) -> String {
    match crate::text::clean(&message.note, NOTE) {
        note if note.is_empty() => note,
        note => format!("{note}\n\n"),
    }
}

/// One line as plain text, several lines of it.
pub fn plain(line: &Line, kind: Kind) -> String {
    let a = &line.alert;
    let mut out = format!("{} [{}] {}", a.name(), a.severity(), state(line, kind));
    for text in [
        a.summary_text(),
        a.description_text(),
        &a.subject(),
        a.runbook_url(),
    ] {
        if !text.is_empty() {
            out.push_str("\n  ");
            out.push_str(text);
        }
    }
    out
}

/// What is said of lines that had no room.
pub fn more(n: usize) -> String {
    format!("… and {n} more")
}

/// The worst that fires decides how loud it is.
pub fn is_loud(message: &Message) -> bool {
    message.severity() == Severity::Critical && message.kind != Kind::Resolved
}

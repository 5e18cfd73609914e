//! ntfy: the message as the body, title, priority and tags as headers.
//!
//! Who knows the topic can read and write it, so the URL comes from a file. A title that is not ASCII is written in encoded
//! words (RFC 2047), which ntfy decodes; headers of HTTP cannot hold it otherwise.

use base64::Engine as _;
use hyper::Method;
use hyper::header::{HeaderMap, HeaderName};
use keepwatch_model::check::Severity;
use serde::Deserialize;

use super::{more, note, plain, title, url_of};
use crate::fault::Fault;
use crate::http::{Net, Question};
use crate::limits::NTFY;
use crate::plan::{Kind, Message};
use crate::secret::SecretFile;
use crate::text::fit;

/// Bytes of text in one encoded word; base64 makes 60 of 45, and a word has at most 75.
const WORD: usize = 45;

/// Where to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The file with the URL of the topic.
    pub url_file: SecretFile,
    /// A file with an access token.
    #[serde(default)]
    pub token_file: Option<SecretFile>,
    /// Tags besides those of the severity.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Allows `http://` to other hosts.
    #[serde(default)]
    pub plain_http: bool,
}

/// What is wrong with the settings.
pub(super) fn check(s: &Settings) -> Result<(), String> {
    let fits = |t: &String| {
        (1..=40).contains(&t.len())
            && t.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_-+".contains(&b))
    };
    match s.tags.iter().find(|t| !fits(t)) {
        Some(tag) => Err(format!(
            "{tag:?} is no tag for ntfy: use letters, digits, '_', '-' and '+'"
        )),
        None if s.tags.len() > 8 => Err("there are more than 8 tags for ntfy".into()),
        None => Ok(()),
    }
}

/// The text, at most [`NTFY`] bytes.
pub fn write(message: &Message) -> String {
    let blocks: Vec<String> = message
        .lines
        .iter()
        .map(|l| plain(l, message.kind))
        .collect();
    let note = note(message);
    let room = NTFY - note.len();
    // One alert with every character of four bytes would not fit: shortened on a character's boundary.
    let blocks: Vec<String> = blocks.into_iter().map(|b| bytes(&b, room - 64)).collect();
    let rest = fit(&blocks, "\n\n", room, str::len, more);
    format!("{note}{rest}")
}

fn bytes(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let mut end = limit - '…'.len_utf8();
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

/// Priority 1 to 5, and the tag that shows as a sign.
pub fn priority(message: &Message) -> (&'static str, &'static str) {
    match (message.kind, message.severity()) {
        (Kind::Resolved, _) => ("3", "white_check_mark"),
        (_, Severity::Critical) => ("5", "rotating_light"),
        (_, Severity::Warning) => ("4", "warning"),
        (_, Severity::Info) => ("2", "information_source"),
    }
}

/// A text as a header's value: itself when it is ASCII, else encoded words.
pub fn header(text: &str) -> String {
    if text.bytes().all(|b| (b' '..=b'~').contains(&b)) {
        return text.to_owned();
    }
    let mut words = Vec::new();
    let mut word = String::new();
    for c in text.chars() {
        if word.len() + c.len_utf8() > WORD {
            words.push(std::mem::take(&mut word));
        }
        word.push(c);
    }
    words.push(word);
    words
        .iter()
        .map(|w| {
            format!(
                "=?UTF-8?B?{}?=",
                base64::engine::general_purpose::STANDARD.encode(w)
            )
        })
        .collect::<Vec<_>>()
        .join(" ")
}

pub(super) async fn send(
    s: &Settings,
    net: &Net,
    host: &str,
    message: &Message,
) -> Result<(), Fault> {
    let (_, url) = url_of(&s.url_file, s.plain_http).await?;
    let body = write(message);
    let mut question = Question {
        method: Method::POST,
        headers: HeaderMap::new(),
        body: body.as_bytes(),
    };
    let (priority, sign) = priority(message);
    let tags: Vec<&str> = std::iter::once(sign)
        .chain(s.tags.iter().map(String::as_str))
        .collect();
    question.header(
        HeaderName::from_static("title"),
        &header(&title(message, host)),
    );
    question.header(HeaderName::from_static("priority"), priority);
    question.header(HeaderName::from_static("tags"), &tags.join(","));
    question.header(hyper::header::CONTENT_TYPE, "text/plain; charset=utf-8");
    if let Some(file) = &s.token_file {
        question.bearer(&file.read().await.map_err(Fault::later)?)?;
    }
    let answer = net.exchange(&url, question).await?;
    match answer.status {
        200..=299 => Ok(()),
        status => Err(Fault::of_status(status, answer.retry_after, "")),
    }
}

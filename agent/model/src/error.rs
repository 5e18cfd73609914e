//! The one error of this crate: a text that does not mean what it should.

use std::error::Error;
use std::fmt;

/// How many characters of a wrong text an error repeats.
const SHOWN: usize = 40;

/// A text that could not be read as a time, a duration, a size or a part of a retention policy.
///
/// It prints as one sentence that names the text, what was expected, and what is wrong with it:
/// `"10X" is not a size: unknown unit "X", use B, K, M, G, T, P or E`.
/// The text is cut to 40 characters and control characters are escaped, so that it is safe on a terminal and in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    what: &'static str,
    text: String,
    why: String,
}

impl ParseError {
    pub(crate) fn new(what: &'static str, text: &str, why: impl Into<String>) -> Self {
        Self {
            what,
            text: quoted(text),
            why: why.into(),
        }
    }

    /// What the text was expected to be, with its article: `a time`, `a duration`, `a size`.
    pub fn expected(&self) -> &'static str {
        self.what
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not {}: {}", self.text, self.what, self.why)
    }
}

impl Error for ParseError {}

/// The text in quotation marks, shortened and with control characters escaped.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    let mut rest = text.chars();
    for c in rest.by_ref().take(SHOWN) {
        out.extend(c.escape_debug());
    }
    if rest.next().is_some() {
        out.push('…');
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_is_shortened_and_escaped() {
        let e = ParseError::new("a size", &format!("\x1b[31m{}", "x".repeat(1000)), "no");
        let text = e.to_string();
        assert!(text.starts_with("\"\\u{1b}[31mxxx"), "{text}");
        assert!(text.len() < 100, "{text}");
        assert!(text.ends_with("…\" is not a size: no"), "{text}");
    }
}

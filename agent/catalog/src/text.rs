//! Text on its way into the database and back: bounded on the way in, the same on the way out.
//!
//! PostgreSQL cannot hold U+0000 in a text, and SQLite's own functions stop at it. So that the same text comes back from
//! both, NUL is written as `␀0` and the sign `␀` (U+2400) as `␀␀`, in both databases. The writing is one to one: equal
//! texts stay equal, so that a name can be looked up by its written form.

use std::borrow::Cow;

use keepwatch_model::history::Entry;
use keepwatch_model::runs::{RunError, RunRecord};

/// Bytes of a name (host, job, check, unit, repository) that are kept. Names stand in indexes: PostgreSQL allows 2,704 bytes for a row of one.
pub const NAME_MAX: usize = 256;
/// Bytes of an error or an explanation.
pub const TEXT_MAX: usize = 2048;
/// Bytes of what one run of a check said: there may be millions of them.
pub const RESULT_TEXT_MAX: usize = 512;
/// Bytes of a path.
pub const PATH_MAX: usize = 4096;
/// Bytes of a message.
pub const BODY_MAX: usize = 16 * 1024;
/// Stages of a run.
pub const STAGES_MAX: usize = 32;
/// Clusters of PostgreSQL whose log is noted of one repository, some 600 bytes each.
pub const CLUSTERS_MAX: usize = 16;
/// Bytes of a saved state of a part of the agent.
pub const STATE_MAX: usize = 1024 * 1024;

const SIGN: char = '\u{2400}';

/// The longest beginning of at most `max` bytes that ends between two characters.
pub(crate) fn cut(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The form that a database holds.
pub(crate) fn written(text: &str) -> Cow<'_, str> {
    if !text.contains(['\0', SIGN]) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\0' => out.extend([SIGN, '0']),
            SIGN => out.extend([SIGN, SIGN]),
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// The text that was written. What was not written by [`written`] is taken as it is.
pub(crate) fn read(text: String) -> String {
    if !text.contains(SIGN) {
        return text;
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match (c, rest.peek()) {
            (SIGN, Some('0')) => {
                out.push('\0');
                rest.next();
            }
            (SIGN, Some(&SIGN)) => {
                out.push(SIGN);
                rest.next();
            }
            (c, _) => out.push(c),
        }
    }
    out
}

/// The longest beginning whose written form has at most `max` bytes, so that a name of NULs fits an index, too.
pub(crate) fn fit(text: &str, max: usize) -> &str {
    if !text.contains(['\0', SIGN]) {
        return cut(text, max);
    }
    let mut length = 0;
    for (at, c) in text.char_indices() {
        length += match c {
            '\0' => SIGN.len_utf8() + 1,
            SIGN => 2 * SIGN.len_utf8(),
            c => c.len_utf8(),
        };
        if length > max {
            return &text[..at];
        }
    }
    text
}

fn shorten(text: &mut String, max: usize) {
    let end = fit(text, max).len();
    text.truncate(end);
}

fn shorten_opt(text: &mut Option<String>, max: usize) {
    if let Some(text) = text {
        shorten(text, max);
    }
}

/// Brings all texts of an entry within their bounds, so that the same entry is spooled, stored and found again.
pub(crate) fn bounded(mut entry: Entry) -> Entry {
    match &mut entry {
        Entry::Run(run) => bound_run(run),
        Entry::Result(result) => {
            shorten(&mut result.host, NAME_MAX);
            shorten(&mut result.check, NAME_MAX);
            shorten(&mut result.kind, NAME_MAX);
            shorten_opt(&mut result.text, RESULT_TEXT_MAX);
        }
        Entry::Transition(change) => {
            shorten(&mut change.host, NAME_MAX);
            shorten(&mut change.check, NAME_MAX);
            shorten(&mut change.kind, NAME_MAX);
            shorten_opt(&mut change.text, RESULT_TEXT_MAX);
        }
        Entry::Incident(incident) => {
            shorten(&mut incident.host, NAME_MAX);
            shorten(&mut incident.subject, NAME_MAX);
            shorten_opt(&mut incident.unit, NAME_MAX);
            shorten_opt(&mut incident.text, TEXT_MAX);
        }
        Entry::Restart(restart) => {
            shorten(&mut restart.host, NAME_MAX);
            shorten(&mut restart.unit, NAME_MAX);
            shorten_opt(&mut restart.check, NAME_MAX);
            shorten_opt(&mut restart.text, TEXT_MAX);
        }
        Entry::Notification(message) => {
            shorten(&mut message.host, NAME_MAX);
            shorten(&mut message.sink, NAME_MAX);
            shorten(&mut message.topic, NAME_MAX);
            shorten(&mut message.body, BODY_MAX);
            shorten_opt(&mut message.error, TEXT_MAX);
        }
        Entry::Repository(state) => {
            shorten(&mut state.host, NAME_MAX);
            shorten(&mut state.repository, NAME_MAX);
            if let Some(wal) = &mut state.wal {
                wal.truncate(CLUSTERS_MAX);
                for cluster in wal {
                    shorten(&mut cluster.cluster, NAME_MAX);
                }
            }
        }
    }
    entry
}

fn bound_run(run: &mut RunRecord) {
    shorten(&mut run.host, NAME_MAX);
    shorten_opt(&mut run.job, NAME_MAX);
    shorten_opt(&mut run.repository, NAME_MAX);
    shorten_opt(&mut run.snapshot, NAME_MAX);
    shorten_opt(&mut run.path, PATH_MAX);
    if let Some(process) = &mut run.process {
        shorten(&mut process.boot, NAME_MAX);
    }
    run.stages.truncate(STAGES_MAX);
    for stage in &mut run.stages {
        shorten(&mut stage.name, NAME_MAX);
    }
    if let Some(RunError { text, .. }) = &mut run.error {
        shorten(text, TEXT_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nul_has_a_written_form() {
        assert_eq!(written("a\0b\u{2400}c"), "a\u{2400}0b\u{2400}\u{2400}c");
        assert_eq!(read("a\u{2400}".into()), "a\u{2400}");
        assert_eq!(read("\u{2400}x".into()), "\u{2400}x");
        assert!(matches!(written("plain 0"), Cow::Borrowed(_)));
    }

    #[test]
    fn cuts_fall_between_characters() {
        assert_eq!(cut("aé", 2), "a");
        assert_eq!(cut("aé", 3), "aé");
        assert_eq!(cut("é", 0), "");
        assert_eq!(cut("\u{1f600}", 3), "");
    }

    proptest! {
        #[test]
        fn text_comes_back(text in "[\\x00\u{2400}0a]{0,12}", any in any::<String>()) {
            for text in [text, any] {
                let stored = written(&text).into_owned();
                prop_assert!(!stored.contains('\0'));
                prop_assert_eq!(read(stored), text);
            }
        }

        #[test]
        fn different_texts_stay_different(a in "[\\x00\u{2400}0]{0,8}", b in "[\\x00\u{2400}0]{0,8}") {
            prop_assert_eq!(written(&a) == written(&b), a == b);
        }

        #[test]
        fn what_fits_fits_as_it_is_written(text in "[\\x00\u{2400}aé]{0,12}", max in 0usize..40) {
            let short = fit(&text, max);
            prop_assert!(written(short).len() <= max && text.starts_with(short));
            let next = text[short.len()..].chars().next();
            let fuller = next.map(|c| format!("{short}{c}"));
            prop_assert!(fuller.is_none_or(|text| written(&text).len() > max));
        }

        #[test]
        fn cut_is_a_beginning(text in any::<String>(), max in 0usize..40) {
            let short = cut(&text, max);
            prop_assert!(short.len() <= max && text.starts_with(short));
            prop_assert!(short.len() + 4 > max || short.len() == text.len());
        }
    }
}

//! Text from outside, made fit for logs, alerts, records and terminals.
//!
//! What a service, a command or a library says about a failure is foreign data: it may be long, hold escape sequences,
//! line breaks that forge a second log record, or characters that turn the reading direction. So it passes through [`clean`]
//! before it is kept anywhere.

use std::fmt::Write as _;

/// Characters of a text that are kept of an error. At most 4 bytes each: 1.2 KB.
pub const LONGEST: usize = 300;

/// The text on one line: control, invisible and direction-changing characters become a space (runs of them one), the ends are
/// trimmed, and what is longer than [`LONGEST`] characters is cut and ends in `…`.
pub fn clean(text: &str) -> String {
    clean_to(&plain(text), LONGEST)
}

/// Without the numbers that Rust appends to the system's errors: ` (os error 111)`.
fn plain(text: &str) -> String {
    const MARK: &str = " (os error ";
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(MARK) {
        out.push_str(before);
        match after.split_once(')') {
            Some((number, behind)) if number.bytes().all(|b| b.is_ascii_digit()) => rest = behind,
            _ => {
                out.push_str(MARK);
                rest = after;
            }
        }
    }
    out + rest
}

/// As [`clean`], with another limit in characters.
pub fn clean_to(text: &str, limit: usize) -> String {
    let mut out = String::new();
    let mut count = 0;
    let mut gap = false;
    for c in text.chars() {
        if c.is_whitespace() || is_hidden(c) {
            gap = !out.is_empty();
            continue;
        }
        if count + usize::from(gap) >= limit {
            out.push('…');
            return out;
        }
        if std::mem::take(&mut gap) {
            out.push(' ');
            count += 1;
        }
        out.push(c);
        count += 1;
    }
    out
}

/// Bytes that should be UTF-8, cleaned; what is not becomes U+FFFD.
pub fn clean_bytes(bytes: &[u8]) -> String {
    // No more bytes than the limit can need are converted.
    let head = &bytes[..bytes.len().min(LONGEST * 8)];
    clean(&String::from_utf8_lossy(head))
}

/// An error with its causes, on one line. A cause that the text before it already says
/// is left out.
pub fn chain(error: &(dyn std::error::Error + '_)) -> String {
    let mut out = error.to_string();
    let mut source = error.source();
    // Bounded: a cycle of sources must not hang us.
    for _ in 0..8 {
        let Some(cause) = source else { break };
        let text = cause.to_string();
        if !out.contains(&text) {
            let _ = write!(out, ": {text}");
        }
        source = cause.source();
    }
    clean(&out)
}

/// Control characters, and those that are invisible or change the direction of reading.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_of_errors_are_left_out() {
        for (text, told) in [
            ("refused (os error 111)", "refused"),
            ("a (os error 2), b (os error 13)", "a, b"),
            ("a (os error x) b", "a (os error x) b"),
            ("a (os error 1", "a (os error 1"),
        ] {
            assert_eq!(clean(text), told);
        }
    }

    #[test]
    fn what_could_deceive_is_gone() {
        for (text, expected) in [
            ("plain", "plain"),
            ("  two\r\nlines\t\n", "two lines"),
            ("\x1b[31mred\x1b[0m", "[31mred [0m"),
            ("a\u{202e}b\u{200b}c\u{feff}", "a b c"),
            ("\0\0", ""),
            ("ünï", "ünï"),
        ] {
            assert_eq!(clean(text), expected, "{text:?}");
        }
        assert_eq!(clean_to("abcdef", 3), "abc…");
        assert_eq!(clean_to("abc", 3), "abc");
        assert_eq!(clean_to("ab c", 3), "ab…");
        assert_eq!(clean_bytes(b"\xff\xfeok"), "\u{fffd}\u{fffd}ok");
    }

    #[test]
    fn causes_are_said_once() {
        let e = std::io::Error::other(std::io::Error::other("inner\nline"));
        assert_eq!(chain(&e), "inner line");
    }

    proptest! {
        #[test]
        fn always_short_and_printable(text in ".{0,2000}", limit in 0usize..400) {
            let out = clean_to(&text, limit);
            prop_assert!(out.chars().count() <= limit + 1);
            prop_assert!(!out.chars().any(is_hidden));
            prop_assert_eq!(clean_to(&out, limit + 1), out);
        }
    }
}

//! Text for people, from anywhere: cleaned of what could deceive, cut where a reader expects it, escaped for its medium.
//!
//! What a service or command said of itself ends up in mails, chats and headers. So every text passes through [`clean`] when an
//! alert is made: one line, no control characters (which forge header lines, colours and second log records), none that are
//! invisible or turn the reading direction.

/// The text on one line, at most `limit` characters; what was longer ends in `…`.
pub fn clean(text: &str, limit: usize) -> String {
    let mut out = String::new();
    let mut count = 0;
    let mut gap = false;
    for c in text.chars() {
        if c.is_whitespace() || is_hidden(c) {
            gap = !out.is_empty();
            continue;
        }
        if count + usize::from(gap) >= limit {
            return cut(&out, limit);
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

/// `text`, which is longer than `limit` characters or stands before more: the beginning with `…`, not in the middle of what is
/// read as one character (a letter and its accents, an emoji and its modifiers), together at most `limit` characters.
fn cut(text: &str, limit: usize) -> String {
    if limit == 0 {
        return String::new();
    }
    let mut kept: Vec<char> = text.chars().take(limit.saturating_sub(1)).collect();
    let next = text.chars().nth(kept.len());
    if next.is_some_and(joins) {
        while kept.pop().is_some_and(joins) {}
    }
    kept.push('…');
    kept.into_iter().collect()
}

/// Belongs to the character before it.
fn joins(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36f}' | '\u{1ab0}'..='\u{1aff}' | '\u{1dc0}'..='\u{1dff}' | '\u{20d0}'..='\u{20ff}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{fe20}'..='\u{fe2f}' | '\u{1f3fb}'..='\u{1f3ff}' | '\u{e0100}'..='\u{e01ef}')
}

/// Control characters, and those that are invisible or change the direction of reading.
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// `text` for HTML, as much of it as fits into `limit` UTF-16 units after escaping; never half an escape.
pub fn html(text: &str, limit: usize) -> String {
    let mut out = String::new();
    let mut units = 0;
    for c in text.chars() {
        let mut own = [0; 4];
        let piece: &str = match c {
            '&' => "&amp;",
            '<' => "&lt;",
            '>' => "&gt;",
            '"' => "&quot;",
            c => c.encode_utf8(&mut own),
        };
        units += piece.encode_utf16().count();
        if units > limit {
            break;
        }
        out.push_str(piece);
    }
    out
}

/// UTF-16 units of a text, which is what Telegram counts.
pub fn units(text: &str) -> usize {
    text.encode_utf16().count()
}

/// Blocks one after another, as many as fit into `limit` by `measure`; what is left out is said at the end in `more(n)`. The
/// text always fits when `more` does.
pub fn fit(
    blocks: &[String],
    between: &str,
    limit: usize,
    measure: fn(&str) -> usize,
    more: impl Fn(usize) -> String,
) -> String {
    let whole = blocks.join(between);
    if measure(&whole) <= limit {
        return whole;
    }
    let mut out = String::new();
    let mut shown = 0;
    for block in blocks {
        let rest = more(blocks.len() - shown - 1);
        let with =
            measure(&out) + measure(between) + measure(block) + measure(between) + measure(&rest);
        if with > limit {
            break;
        }
        if shown > 0 {
            out.push_str(between);
        }
        out.push_str(block);
        shown += 1;
    }
    if shown > 0 {
        out.push_str(between);
    }
    out.push_str(&more(blocks.len() - shown));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_could_deceive_is_gone() {
        for (text, limit, expected) in [
            ("plain", 9, "plain"),
            ("  two\r\nlines\t\n", 9, "two lines"),
            ("a\r\nBcc: x@y", 20, "a Bcc: x@y"),
            ("\x1b[31mred", 20, "[31mred"),
            ("a\u{202e}b\u{200b}c\u{feff}", 20, "a b c"),
            ("abcdef", 3, "ab…"),
            ("abc", 3, "abc"),
            ("abcd", 0, ""),
            // Not between a letter and its accent.
            ("abe\u{301}\u{302}xyz", 4, "ab…"),
            ("👍🏽👍🏽👍🏽", 2, "…"),
        ] {
            assert_eq!(clean(text, limit), expected, "{text:?}");
        }
    }

    #[test]
    fn escapes_are_whole() {
        assert_eq!(html("a<b>&\"", 100), "a&lt;b&gt;&amp;&quot;");
        assert_eq!(html("<<<", 9), "&lt;&lt;");
        assert_eq!(html("😀😀", 3), "😀");
    }

    proptest! {
        #[test]
        fn always_short_and_printable(text in "(.|[\\x00-\\x1f]|\u{301}|\u{202e}){0,400}", limit in 0usize..300) {
            let out = clean(&text, limit);
            prop_assert!(out.chars().count() <= limit, "{:?}", out);
            prop_assert!(!out.chars().any(is_hidden));
            prop_assert_eq!(clean(&out, limit.max(1)), out);
        }

        #[test]
        fn blocks_fit_and_are_counted(sizes in proptest::collection::vec(1usize..60, 0..30), limit in 20usize..300) {
            let blocks: Vec<String> = sizes.iter().map(|n| "x".repeat(*n)).collect();
            let out = fit(&blocks, "\n", limit, str::len, |n| format!("and {n} more"));
            prop_assert!(out.len() <= limit.max(12), "{} > {}", out.len(), limit);
            let shown = out.lines().filter(|l| l.starts_with('x')).count();
            let left: usize = out.lines().find_map(|l| l.strip_prefix("and ")?.strip_suffix(" more")?.parse().ok()).unwrap_or(0);
            prop_assert_eq!(shown + left, blocks.len());
        }
    }
}

//! What may have been meant by a word that is not known.

/// Words longer than this are not compared: nobody mistypes so much, and comparing costs the product of the lengths.
const LONGEST: usize = 64;

/// The word that is nearest to `wrong`, when one is near enough. Each candidate has the names under which it may be looked for.
pub(crate) fn nearest<'a>(
    wrong: &str,
    candidates: impl IntoIterator<Item = (&'a str, &'a [&'a str])>,
) -> Option<&'a str> {
    if wrong.len() > LONGEST {
        return None;
    }
    let wrong = plain(wrong);
    candidates
        .into_iter()
        .flat_map(|(name, also)| {
            std::iter::once(name)
                .chain(also.iter().copied())
                .map(move |n| (name, n))
        })
        .filter_map(|(name, looked)| Some((name, distance(&wrong, &plain(looked))?)))
        .min_by_key(|(_, distance)| *distance)
        .map(|(name, _)| name)
}

/// How far two words are apart; none when it is too far. 0 is the same word in another writing.
fn distance(a: &str, b: &str) -> Option<usize> {
    let edits = strsim::osa_distance(a, b);
    let longest = a.chars().count().max(b.chars().count());
    if edits <= (longest / 3).max(1) && edits < longest {
        return Some(2 * edits);
    }
    // `path` for `socket_path`, `failures` for `failure_threshold`: parts of a word, not so near as a slip.
    let part = |long: &str, short: &str| {
        short.len() >= 4 && (long.split('_').any(|p| p == short) || long.starts_with(short))
    };
    (part(a, b) || part(b, a)).then_some(100)
}

/// Without what differs between habits of writing: `failureThreshold`, `failure-threshold`, `failure_threshold`.
fn plain(word: &str) -> String {
    let mut out = String::with_capacity(word.len() + 4);
    let mut before_small = false;
    for c in word.chars() {
        if c.is_ascii_uppercase() && before_small {
            out.push('_');
        }
        before_small = c.is_ascii_lowercase();
        out.push(match c {
            '-' | ' ' | '.' => '_',
            c => c.to_ascii_lowercase(),
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_or_none() {
        let keys: &[(&str, &[&str])] = &[
            ("interval", &["every"]),
            ("timeout", &[]),
            ("failure_threshold", &[]),
            ("success_threshold", &["recovery_threshold"]),
            ("url", &[]),
            ("password_file", &[]),
        ];
        for (wrong, expected) in [
            ("intervall", Some("interval")),
            ("Interval", Some("interval")),
            ("every", Some("interval")),
            ("time_out", Some("timeout")),
            ("tiemout", Some("timeout")),
            ("failureThreshold", Some("failure_threshold")),
            ("failure-threshold", Some("failure_threshold")),
            ("recoveryThreshold", Some("success_threshold")),
            ("uri", Some("url")),
            ("threshold", Some("failure_threshold")),
            ("failure_thr", Some("failure_threshold")),
            ("password", Some("password_file")),
            ("x", None),
            ("", None),
            ("colour", None),
        ] {
            assert_eq!(nearest(wrong, keys.iter().copied()), expected, "{wrong}");
        }
        assert_eq!(nearest(&"interval".repeat(100), keys.iter().copied()), None);
    }
}

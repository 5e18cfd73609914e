//! Foreign text: what programs and servers say, and names that become parts of paths.

use crate::secret::Secret;

/// Bytes of foreign text in a sentence.
const SAID: usize = 600;

/// A name as one component of a path: `/`, `%`, control characters and a leading dot are written as `%XX`.
pub fn component(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for (i, c) in name.char_indices() {
        if c == '/' || c == '%' || c.is_control() || (i == 0 && c == '.') {
            let mut bytes = [0; 4];
            for b in c.encode_utf8(&mut bytes).bytes() {
                out += &format!("%{b:02x}");
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// What somebody said, fit for a sentence: one line, no control characters, not long, without secrets. The end counts more than the
/// beginning.
pub fn said(bytes: &[u8], secrets: &[&Secret]) -> String {
    let mut text = String::from_utf8_lossy(bytes).into_owned();
    for secret in secrets {
        if secret.expose().len() > 1 {
            text = text.replace(secret.expose(), "***");
        }
    }
    let lines: Vec<String> = text
        .lines()
        .map(|l| {
            let shown: String = l
                .chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .collect();
            shown.trim().to_owned()
        })
        .filter(|l| !l.is_empty())
        .collect();
    let mut out = String::new();
    for line in lines.iter().rev() {
        if out.len() + line.len() > SAID {
            let room = SAID.saturating_sub(out.len());
            if out.is_empty() {
                // The end of a line says more, too.
                let skipped = line.chars().count().saturating_sub(room);
                out = line.chars().skip(skipped).collect();
            }
            break;
        }
        out = match out.is_empty() {
            true => line.clone(),
            false => format!("{line}; {out}"),
        };
    }
    out
}

/// An identifier of SQL.
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string of SQL, with standard conforming strings.
pub fn literal(text: &str) -> String {
    if text.contains('\\') {
        return format!(" E'{}'", text.replace('\\', "\\\\").replace('\'', "''"));
    }
    format!("'{}'", text.replace('\'', "''"))
}

/// Hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_one_component() {
        for (name, want) in [
            ("app", "app"),
            ("a/b", "a%2fb"),
            ("..", "%2e."),
            (".hidden", "%2ehidden"),
            ("100%", "100%25"),
            ("a\nb", "a%0ab"),
            ("Größe", "Größe"),
        ] {
            assert_eq!(component(name), want);
        }
    }

    #[test]
    fn what_is_said_is_one_line_without_secrets() {
        let secret = Secret::new("hunter2".into());
        let out = said(b"first\n\x1b[31merror: hunter2 is wrong\n\n", &[&secret]);
        assert_eq!(out, "first; [31merror: *** is wrong");
        let long = said(&[b'x'; 10_000], &[]);
        assert_eq!(long.len(), SAID);
        assert!(said(&[&[b'x'; 10_000][..], b"\nthe end"].concat(), &[]).ends_with("the end"));
    }

    #[test]
    fn sql_is_quoted() {
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
        assert_eq!(literal("o'b"), "'o''b'");
        assert_eq!(literal("\\'"), " E'\\\\'''");
    }
}

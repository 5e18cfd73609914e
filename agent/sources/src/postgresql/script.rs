//! SQL from a repository that goes through `psql`, which takes backslashes outside of quotes for commands of its own: also such as start a
//! shell. What was stored by a host that was broken into must not do that where it is restored.

/// Removes the lines by which `pg_dumpall` fences itself, and refuses every other backslash that `psql` would take for a command.
///
/// # Errors
/// The line, counted from 1, that holds one, or in which something is not closed.
pub fn plain(sql: &str) -> Result<String, usize> {
    let mut out = String::with_capacity(sql.len());
    let mut state = State::Plain;
    for (i, line) in sql.split_inclusive('\n').enumerate() {
        let fences = ["\\restrict ", "\\unrestrict "];
        if state == State::Plain
            && fences.iter().any(|f| line.starts_with(f))
            && line.trim_end().split(' ').count() == 2
            && line.matches('\\').count() == 1
        {
            continue;
        }
        state = through(state, line).map_err(|()| i + 1)?;
        out.push_str(line);
    }
    match state {
        State::Plain | State::Line => Ok(out),
        _ => Err(sql.lines().count()),
    }
}

#[derive(Clone, PartialEq, Debug)]
enum State {
    Plain,
    /// `'…'`
    Quote,
    /// `E'…'`, in which a backslash escapes.
    Escape,
    /// `"…"`
    Name,
    /// `$tag$…$tag$`
    Dollar(String),
    /// `/*…*/`, so deep.
    Comment(usize),
    /// `--…`
    Line,
}

fn through(mut state: State, line: &str) -> Result<State, ()> {
    let bytes = line.as_bytes();
    let mut i = 0;
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'$' || b >= 0x80;
    while i < bytes.len() {
        let rest = &bytes[i..];
        match &state {
            State::Line => {
                if rest[0] == b'\n' {
                    state = State::Plain;
                }
            }
            State::Quote if rest[0] == b'\'' => state = State::Plain,
            State::Escape if rest[0] == b'\\' => i += 1,
            State::Escape if rest[0] == b'\'' => state = State::Plain,
            State::Name if rest[0] == b'"' => state = State::Plain,
            State::Quote | State::Escape | State::Name => {}
            State::Dollar(tag) => {
                if rest.starts_with(tag.as_bytes()) {
                    i += tag.len() - 1;
                    state = State::Plain;
                }
            }
            State::Comment(depth) => {
                if rest.starts_with(b"*/") {
                    state = if *depth == 1 {
                        State::Plain
                    } else {
                        State::Comment(depth - 1)
                    };
                    i += 1;
                } else if rest.starts_with(b"/*") {
                    state = State::Comment(depth + 1);
                    i += 1;
                }
            }
            State::Plain => match rest[0] {
                b'\\' => return Err(()),
                b'\'' => {
                    let is_escape = i > 0
                        && matches!(bytes[i - 1], b'E' | b'e')
                        && (i < 2 || !word(bytes[i - 2]));
                    state = if is_escape {
                        State::Escape
                    } else {
                        State::Quote
                    };
                }
                b'"' => state = State::Name,
                b'-' if rest.starts_with(b"--") => state = State::Line,
                b'/' if rest.starts_with(b"/*") => {
                    state = State::Comment(1);
                    i += 1;
                }
                b'$' if i == 0 || !word(bytes[i - 1]) => {
                    let end = rest[1..].iter().position(|b| *b == b'$').map(|n| n + 2);
                    let is_tag = |t: &[u8]| {
                        !t.first().is_some_and(u8::is_ascii_digit)
                            && t.iter().all(|b| word(*b) && *b != b'$')
                    };
                    if let Some(end) = end.filter(|e| is_tag(&rest[1..e - 1])) {
                        state = State::Dollar(String::from_utf8_lossy(&rest[..end]).into_owned());
                        i += end - 1;
                    }
                }
                _ => {}
            },
        }
        i += 1;
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pg_dumpall_prints_passes_without_its_fences() {
        let sql = "--\n-- it's a comment \\! here\n--\n\\restrict abc\nSET x = 'a\\b';\nCREATE ROLE \"o\\\"\"x\";\nALTER ROLE a PASSWORD E'\\'\\\\';\nCOMMENT ON ROLE a IS $a$\\!$a$;\n/* \\! /* */ */\n\\unrestrict abc\n";
        let want: String = sql
            .lines()
            .filter(|l| !l.contains("restrict"))
            .map(|l| format!("{l}\n"))
            .collect();
        assert_eq!(plain(sql), Ok(want));
    }

    #[test]
    fn commands_of_psql_are_refused_wherever_they_hide() {
        for (sql, line) in [
            ("\\! id\n", 1),
            ("SELECT 1 \\g |id\n", 1),
            ("SELECT 'a'\n\\! id\n", 2),
            ("SELECT 'it''s' \\! id\n", 1),
            ("-- x\n\\! id\n", 2),
            ("/* */ \\! id\n", 1),
            ("SELECT $a$ $b$ $a$ \\! id\n", 1),
            ("SELECT \"a\" \\! id\n", 1),
            ("SELECT E'\\'' \\! id\n", 1),
            ("SELECT nameE'\\' \\! id'\n", 1),
            ("\\restrict x \\! id\n", 1),
            ("\\restrict\n", 1),
            ("SELECT 'open\n", 1),
            ("SELECT $1$ \\! id\n", 1),
        ] {
            assert_eq!(plain(sql), Err(line), "{sql}");
        }
    }
}

//! Which metrics and labels an expression of PromQL names. Not a parser: `promtool` is that. It reads words, strings, braces and
//! the lists after `by`, `on` and the like, which is what a misspelt name would stand in.

/// What an expression names.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Selectors, in order: the metric and its matchers as (label, operator, value).
    pub selectors: Vec<Selector>,
    /// Labels in lists after `by`, `without`, `on`, `ignoring`, `group_left`, `group_right`.
    pub listed: Vec<String>,
    /// Functions and what stands in the brackets of the first range in them.
    pub ranges: Vec<(String, String)>,
}

/// A metric with its matchers.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// Its name.
    pub metric: String,
    /// Its matchers.
    pub matchers: Vec<(String, String, String)>,
}

const LISTS: &[&str] = &[
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
];
const WORDS: &[&str] = &[
    "and", "or", "unless", "bool", "offset", "atan2", "inf", "nan",
];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Text(String),
    Sign(char),
    Range(String),
}

/// Reads an expression.
///
/// # Errors
/// A string or bracket without its end.
pub fn names(expression: &str) -> Result<Names, String> {
    let tokens = tokens(expression)?;
    let mut out = Names::default();
    // Calls that are open, innermost last; an empty name for a plain parenthesis.
    let mut calls: Vec<String> = Vec::new();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let next = tokens.get(at + 1);
        match token {
            Token::Word(word)
                if LISTS.contains(&word.as_str()) && next == Some(&Token::Sign('(')) =>
            {
                let end = end_of(&tokens, at + 1, ')')?;
                out.listed.extend(words(&tokens[at + 2..end]));
                at = end;
            }
            Token::Word(word)
                if LISTS.contains(&word.as_str())
                    || WORDS.contains(&word.to_lowercase().as_str()) => {}
            // `sum by (x) (…)`: the list is read when its word comes.
            Token::Word(_) if is_call(&tokens, at) => {}
            Token::Word(word) => {
                let mut selector = Selector {
                    metric: word.clone(),
                    matchers: Vec::new(),
                };
                if next == Some(&Token::Sign('{')) {
                    let end = end_of(&tokens, at + 1, '}')?;
                    selector.matchers = matchers(&tokens[at + 2..end]);
                    at = end;
                }
                out.selectors.push(selector);
            }
            Token::Sign('(') => {
                let before = at.checked_sub(1).and_then(|i| tokens.get(i));
                calls.push(match before {
                    Some(Token::Word(word)) => word.clone(),
                    _ => String::new(),
                });
            }
            Token::Sign(')') => {
                calls.pop();
            }
            Token::Range(range) => {
                let call = calls.last().cloned().unwrap_or_default();
                out.ranges.push((call, range.clone()));
            }
            _ => {}
        }
        at += 1;
    }
    Ok(out)
}

/// A word before a parenthesis, or before `by (…)`, is a function.
fn is_call(tokens: &[Token], at: usize) -> bool {
    match tokens.get(at + 1) {
        Some(Token::Sign('(')) => true,
        Some(Token::Word(word)) => word == "by" || word == "without",
        _ => false,
    }
}

fn end_of(tokens: &[Token], from: usize, sign: char) -> Result<usize, String> {
    let found = tokens
        .iter()
        .skip(from)
        .position(|t| *t == Token::Sign(sign));
    found
        .map(|i| i + from)
        .ok_or_else(|| format!("there is no {sign} for one that is open"))
}

fn words(tokens: &[Token]) -> Vec<String> {
    tokens
        .iter()
        .filter_map(|t| match t {
            Token::Word(w) => Some(w.clone()),
            _ => None,
        })
        .collect()
}

fn matchers(tokens: &[Token]) -> Vec<(String, String, String)> {
    let mut out = Vec::new();
    for part in tokens.split(|t| *t == Token::Sign(',')) {
        if let (Some(Token::Word(label)), Some(Token::Text(value))) = (part.first(), part.last()) {
            let operator = part
                .iter()
                .filter_map(|t| match t {
                    Token::Sign(c) => Some(*c),
                    _ => None,
                })
                .collect();
            out.push((label.clone(), operator, value.clone()));
        }
    }
    out
}

fn tokens(expression: &str) -> Result<Vec<Token>, String> {
    let mut out = Vec::new();
    let mut rest = expression.chars().peekable();
    while let Some(&c) = rest.peek() {
        if c.is_ascii_alphabetic() || c == '_' || c == ':' {
            let mut word = String::new();
            while let Some(c) = rest.next_if(|c| c.is_ascii_alphanumeric() || "_:".contains(*c)) {
                word.push(c);
            }
            out.push(Token::Word(word));
        } else if c.is_ascii_digit() {
            // Numbers and durations, with their letters: 1e9, 5m, 0.5.
            while rest
                .next_if(|c| c.is_ascii_alphanumeric() || *c == '.')
                .is_some()
            {}
        } else if c == '"' || c == '\'' {
            rest.next();
            let mut text = String::new();
            loop {
                match rest.next() {
                    None => return Err("a string does not end".to_owned()),
                    Some('\\') => text.extend(rest.next()),
                    Some(end) if end == c => break,
                    Some(other) => text.push(other),
                }
            }
            out.push(Token::Text(text));
        } else if c == '[' {
            rest.next();
            let mut range = String::new();
            loop {
                match rest.next() {
                    None => return Err("a range does not end".to_owned()),
                    Some(']') => break,
                    Some(other) => range.push(other),
                }
            }
            out.push(Token::Range(range));
        } else {
            rest.next();
            if !c.is_whitespace() {
                out.push(Token::Sign(c));
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(expression: &str) -> Vec<String> {
        names(expression)
            .unwrap_or_else(|e| panic!("{expression}: {e}"))
            .selectors
            .into_iter()
            .map(|s| s.metric)
            .collect()
    }

    #[test]
    fn names_are_found_wherever_they_stand() {
        assert_eq!(metrics("a + on (x) group_left (y) b"), ["a", "b"]);
        assert_eq!(
            metrics(r#"sum by (le, kind) (rate(a_bucket{x="}, b{"}[5m]))"#),
            ["a_bucket"]
        );
        assert_eq!(
            metrics("time() - a > bool 2 * b offset 5m or vector(0)"),
            ["a", "b"]
        );
        assert_eq!(metrics("1e9 + 5 * Inf"), Vec::<String>::new());
        let n = names(
            r#"max without (z) (increase(a:b{q=~"$x", w!="1"}[$__rate_interval]) unless on (i) c)"#,
        )
        .unwrap_or_default();
        assert_eq!(n.listed, ["z", "i"]);
        assert_eq!(n.ranges, [("increase".into(), "$__rate_interval".into())]);
        assert_eq!(
            n.selectors[0].matchers,
            [
                ("q".into(), "=~".into(), "$x".into()),
                ("w".into(), "!=".into(), "1".into())
            ]
        );
    }

    #[test]
    fn what_does_not_end_is_refused() {
        for bad in ["a{b=\"c}", "a[5m", "sum by (a", "a{b=\"c\""] {
            assert!(names(bad).is_err(), "{bad}");
        }
    }
}

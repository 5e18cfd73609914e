//! A source in one word: `KIND?KEY=VALUE&KEY=VALUE`.
//!
//! So it stands on a command line, as often as there are sources, and in the command line that a configured job makes. `%XX` writes any
//! byte; `&`, `%`, `#` and `?` in values must be written so. Keys that may be given several times make lists.

use std::fmt::Write as _;

use crate::fault::{Fault, Reason};

/// Keys and values of one source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// The kind.
    pub kind: String,
    pairs: Vec<(String, String)>,
    /// Keys that were asked for, for the sentence about an unknown one.
    known: Vec<&'static str>,
}

fn wrong(why: String) -> Fault {
    Fault::new(Reason::Parameter, why)
}

impl Spec {
    /// Of a kind, with nothing.
    pub fn new(kind: &str) -> Self {
        Spec {
            kind: kind.to_owned(),
            pairs: Vec::new(),
            known: Vec::new(),
        }
    }

    /// Reads it.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        let (kind, rest) = text.split_once('?').unwrap_or((text, ""));
        let mut spec = Spec::new(kind);
        for pair in rest.split('&').filter(|p| !p.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or_else(|| {
                wrong(format!("'{pair}' in the source '{kind}' is not KEY=VALUE"))
            })?;
            spec.add(
                key,
                &decoded(value).ok_or_else(|| {
                    wrong(format!(
                        "the value of '{key}' in the source '{kind}' is not written correctly"
                    ))
                })?,
            );
        }
        Ok(spec)
    }

    /// Adds a pair.
    pub fn add(&mut self, key: &str, value: &str) {
        self.pairs.push((key.to_owned(), value.to_owned()));
    }

    /// As it is read again.
    pub fn to_text(&self) -> String {
        let mut out = self.kind.clone();
        for (i, (key, value)) in self.pairs.iter().enumerate() {
            let sign = if i == 0 { '?' } else { '&' };
            let _ = write!(out, "{sign}{key}={}", encoded(value));
        }
        out
    }

    /// The values of a key, which are then used up.
    pub fn many(&mut self, key: &'static str) -> Vec<String> {
        self.known.push(key);
        let mut out = Vec::new();
        self.pairs.retain(|(k, v)| {
            let is_it = k == key;
            if is_it {
                out.push(v.clone());
            }
            !is_it
        });
        out
    }

    /// The only value of a key.
    ///
    /// # Errors
    /// There are several.
    pub fn one(&mut self, key: &'static str) -> Result<Option<String>, Fault> {
        let mut all = self.many(key);
        match all.len() {
            0 | 1 => Ok(all.pop()),
            _ => Err(wrong(format!(
                "'{key}' is given several times for the source '{}'",
                self.kind
            ))),
        }
    }

    /// A number.
    ///
    /// # Errors
    /// It is none.
    pub fn number<T: std::str::FromStr>(&mut self, key: &'static str) -> Result<Option<T>, Fault> {
        self.one(key)?
            .map(|v| {
                v.parse().map_err(|_| {
                    wrong(format!(
                        "'{key}' of the source '{}' is not a number that it can be: {v}",
                        self.kind
                    ))
                })
            })
            .transpose()
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// Neither.
    pub fn flag(&mut self, key: &'static str) -> Result<Option<bool>, Fault> {
        self.one(key)?
            .map(|v| {
                v.parse().map_err(|_| {
                    wrong(format!(
                        "'{key}' of the source '{}' is neither true nor false",
                        self.kind
                    ))
                })
            })
            .transpose()
    }

    /// Nothing may be left.
    ///
    /// # Errors
    /// A key that the kind does not know.
    pub fn end(self) -> Result<(), Fault> {
        match self.pairs.first() {
            None => Ok(()),
            Some((key, _)) => Err(wrong(format!(
                "the source '{}' has no option '{key}'; it has {}",
                self.kind,
                self.known.join(", ")
            ))),
        }
    }
}

fn encoded(value: &str) -> String {
    let mut out = String::new();
    for c in value.chars() {
        if matches!(c, '&' | '%' | '#' | '?') || c.is_control() {
            let mut bytes = [0; 4];
            for b in c.encode_utf8(&mut bytes).bytes() {
                let _ = write!(out, "%{b:02X}");
            }
        } else {
            out.push(c);
        }
    }
    out
}

fn decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        if b == b'%' {
            let digits = [bytes.next()?, bytes.next()?];
            out.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            out.push(b);
        }
    }
    let text = String::from_utf8(out).ok()?;
    (!text.contains('\0')).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_again(pairs in prop::collection::vec(("[a-z-]{1,8}", "[^\0]{0,12}"), 0..6)) {
            let mut spec = Spec::new("x");
            for (k, v) in &pairs {
                spec.add(k, v);
            }
            prop_assert_eq!(Spec::parse(&spec.to_text()).unwrap(), spec);
        }
    }

    #[test]
    fn keys_are_known_or_refused() {
        let mut spec = Spec::parse("x?a=1&b=2&b=3&c=true&d=%2F%26").unwrap();
        assert_eq!(spec.number::<u8>("a").unwrap(), Some(1));
        assert!(spec.clone().one("b").is_err());
        assert_eq!(spec.many("b"), ["2", "3"]);
        assert_eq!(spec.flag("c").unwrap(), Some(true));
        let e = spec.clone().end().unwrap_err();
        assert_eq!(e.text, "the source 'x' has no option 'd'; it has a, b, c");
        assert_eq!(spec.one("d").unwrap().as_deref(), Some("/&"));
        spec.end().unwrap();
        for bad in ["x?a", "x?a=%2", "x?a=%zz", "x?a=%00", "x?a=%ff"] {
            assert!(Spec::parse(bad).is_err(), "{bad}");
        }
    }
}

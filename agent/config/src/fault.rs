//! What is wrong with a file: every fault at once, each with its place, its key, one sentence, and the nearest valid key.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;

/// Faults that are listed; more are counted. About 300 bytes each: 80 KiB.
pub const LISTED: usize = 256;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The file, as it was named.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// The key with all above it, such as `checks.web.timeout`; empty when the fault is not that of a key.
    pub key: String,
    /// What is wrong, in one sentence without the value of a secret.
    pub what: String,
    /// What may have been meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nearest: Option<String>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file, self.line)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.what)?;
        match &self.nearest {
            Some(nearest) => write!(f, "; did you mean '{nearest}'?"),
            None => Ok(()),
        }
    }
}

/// All that is wrong with a file, in the order of its lines. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Faults {
    /// At most [`LISTED`].
    pub faults: Vec<Fault>,
    /// How many more there are.
    pub more: usize,
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, fault) in self.faults.iter().enumerate() {
            if n > 0 {
                writeln!(f)?;
            }
            fault.fmt(f)?;
        }
        if self.more > 0 {
            write!(f, "\nand {} more", self.more)?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// Where the lines of a text begin.
pub(crate) struct Lines<'a> {
    text: &'a str,
    begins: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, b)| *b == b'\n');
        Self {
            text,
            begins: std::iter::once(0)
                .chain(ends.map(|(at, _)| at + 1))
                .collect(),
        }
    }

    /// Line and column of a byte. One that is past the end stands at the end.
    pub(crate) fn place(&self, at: usize) -> (usize, usize) {
        let mut at = at.min(self.text.len());
        while !self.text.is_char_boundary(at) {
            at -= 1;
        }
        let line = self.begins.partition_point(|b| *b <= at).max(1);
        let begin = self.begins.get(line - 1).copied().unwrap_or(0);
        let column = self.text.get(begin..at).map_or(0, |t| t.chars().count()) + 1;
        (line, column)
    }
}

/// Gathers faults of one file.
pub(crate) struct Gathered<'a> {
    file: &'a str,
    lines: Lines<'a>,
    faults: Vec<Fault>,
    more: usize,
    /// Lines that are not TOML. What is left of a value there is not what was meant.
    torn: BTreeSet<usize>,
}

impl<'a> Gathered<'a> {
    pub(crate) fn new(file: &'a str, text: &'a str) -> Self {
        Self {
            file,
            lines: Lines::new(text),
            faults: Vec::new(),
            more: 0,
            torn: BTreeSet::new(),
        }
    }

    /// Records that the text is not TOML at a byte. Nothing else is said of that line afterwards.
    pub(crate) fn torn(&mut self, at: usize, what: impl Into<String>) {
        self.add(at, "", what);
        self.torn.insert(self.lines.place(at).0);
    }

    /// Records a fault at a byte of the text.
    pub(crate) fn add(&mut self, at: usize, key: &str, what: impl Into<String>) {
        self.near(at, key, what, None);
    }

    /// Records a fault with what may have been meant.
    pub(crate) fn near(
        &mut self,
        at: usize,
        key: &str,
        what: impl Into<String>,
        nearest: Option<String>,
    ) {
        let (line, column) = self.lines.place(at);
        if self.torn.contains(&line) {
            return;
        }
        if self.faults.len() >= LISTED {
            self.more += 1;
            return;
        }
        let fault = Fault {
            file: self.file.to_owned(),
            line,
            column,
            key: key.to_owned(),
            what: what.into(),
            nearest,
        };
        if !self.faults.contains(&fault) {
            self.faults.push(fault);
        }
    }

    /// Whether more would only be counted: then what may have been meant need not be looked for.
    pub(crate) fn is_full(&self) -> bool {
        self.faults.len() >= LISTED
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.faults.is_empty()
    }

    /// The faults by line, or none.
    pub(crate) fn finish(mut self) -> Option<Faults> {
        self.faults.sort_by_key(|f| (f.line, f.column));
        (!self.faults.is_empty()).then_some(Faults {
            faults: self.faults,
            more: self.more,
        })
    }

    /// The same, as a list: for warnings.
    pub(crate) fn into_list(self) -> Vec<Fault> {
        self.finish().map(|f| f.faults).unwrap_or_default()
    }
}

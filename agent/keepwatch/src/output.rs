//! What people and programs read: tables, JSON, and text that is safe on a terminal.

use std::fmt::Write as _;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use serde_json::{Value, json};

use keepwatch_engine::progress::Problem;

use crate::errors::Failure;

/// Characters that steer a terminal or disguise text become visible: control characters, bidirectional marks, line separators.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if is_steering(c) => drop(write!(out, "\\u{{{:x}}}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

fn is_steering(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{061c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

/// A file name for people: as [`escape`], bytes that are not UTF-8 as `\xNN`.
pub fn escape_bytes(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out.push_str(&escape(chunk.valid()));
        for b in chunk.invalid() {
            let _ = write!(out, "\\x{b:02x}");
        }
    }
    out
}

/// A message without the numbers that Rust appends to the system's errors.
pub fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(" (os error ") {
        let (before, after) = rest.split_at(at);
        let digits = &after[" (os error ".len()..];
        match digits.find(')') {
            Some(end) if digits[..end].bytes().all(|b| b.is_ascii_digit()) => {
                out.push_str(before);
                rest = &digits[end + 1..];
            }
            _ => {
                out.push_str(&rest[..at + 1]);
                rest = &rest[at + 1..];
            }
        }
    }
    out + rest
}

/// A message for standard error: lines stay lines.
pub fn escape_lines(text: &str) -> String {
    text.lines().map(escape).collect::<Vec<_>>().join("\n")
}

/// One or more lines on standard error; nobody is left to be told when that fails.
pub fn tell(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A path in JSON: `path`, and `path_hex` where it is not UTF-8.
pub fn put_path(object: &mut Value, path: &[u8]) {
    object["path"] = json!(String::from_utf8_lossy(path));
    if std::str::from_utf8(path).is_err() {
        object["path_hex"] = json!(keepwatch_engine::ids::hex(path));
    }
}

/// Problems in JSON.
pub fn problems_json(problems: &[Problem]) -> Value {
    problems
        .iter()
        .map(|p| {
            let mut v = json!({ "what": plain(&p.what) });
            put_path(&mut v, &p.path);
            v
        })
        .collect()
}

/// Whether to colour standard output.
pub fn is_colourful() -> bool {
    io::stdout().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
        && std::env::var_os("TERM").is_none_or(|t| t != "dumb")
}

/// Buffered standard output; a reader that went away ends the command quietly.
pub struct Out {
    inner: BufWriter<StdoutLock<'static>>,
}

impl Out {
    /// Standard output.
    pub fn new() -> Self {
        Out {
            inner: BufWriter::with_capacity(64 << 10, io::stdout().lock()),
        }
    }
    /// One line.
    pub fn line(&mut self, text: impl AsRef<str>) -> Result<(), Failure> {
        self.inner
            .write_all(text.as_ref().as_bytes())
            .and_then(|()| self.inner.write_all(b"\n"))
            .map_err(Failure::stdout)
    }
    /// Whatever text.
    pub fn text(&mut self, text: impl AsRef<str>) -> Result<(), Failure> {
        self.inner
            .write_all(text.as_ref().as_bytes())
            .map_err(Failure::stdout)
    }
    /// To be called at the end.
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.inner.flush().map_err(Failure::stdout)
    }
    /// A table.
    pub fn table(&mut self, table: &Table) -> Result<(), Failure> {
        self.text(table.render(is_colourful()))
    }
}

impl Write for Out {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.inner.write(buf)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

static JSON_BEGUN: AtomicBool = AtomicBool::new(false);

/// True when a JSON document was begun: a second one must not follow.
pub fn json_was_begun() -> bool {
    JSON_BEGUN.load(Ordering::Relaxed)
}

/// One JSON document on standard output. A reader that went away is no failure of the command.
pub fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    JSON_BEGUN.store(true, Ordering::Relaxed);
    let mut out = Out::new();
    serde_json::to_writer_pretty(&mut out, value).map_err(|e| Failure::stdout(e.into()))?;
    out.text("\n")?;
    out.flush()
}

/// The command line as it was given with one more option, to be typed or pasted. Nothing on it is secret: secrets come from files.
pub fn again_with(option: &str) -> String {
    let words = std::env::args_os().skip(1);
    again(words.map(|w| w.to_string_lossy().into_owned()), option)
}

fn again(words: impl Iterator<Item = String>, option: &str) -> String {
    let plain = |w: &str| {
        let harmless = |b: u8| b.is_ascii_alphanumeric() || b"-_=./:,+@%".contains(&b);
        !w.is_empty() && w.bytes().all(harmless)
    };
    let mut out = vec!["keepwatch".to_owned()];
    let mut added = false;
    for w in words {
        if w == "--" && !added {
            out.push(option.to_owned());
            added = true;
        }
        out.push(match plain(&w) {
            true => w,
            false => format!("'{}'", w.replace('\'', "'\\''")),
        });
    }
    if !added {
        out.push(option.to_owned());
    }
    out.join(" ")
}

/// Lines on standard output after the work is done: that they cannot be written must not change how the work ended.
pub fn print_after(text: &str) -> Result<(), Failure> {
    let mut out = Out::new();
    if let Err(f) = out.text(text).and_then(|()| out.flush()) {
        if !f.quiet {
            tell(&format!("keepwatch: {}", f.message));
        }
    }
    Ok(())
}

/// As [`print_json`], after the work is done.
pub fn print_json_after(value: &impl Serialize) -> Result<(), Failure> {
    match print_json(value) {
        Err(f) if f.quiet => Ok(()),
        other => other,
    }
}

/// A JSON document with one long array, written as it comes: `{"<name>": [ … ], <rest> }`.
pub struct JsonStream {
    out: Out,
    first: bool,
}

impl JsonStream {
    /// Begins the document.
    pub fn begin(name: &str) -> Result<Self, Failure> {
        JSON_BEGUN.store(true, Ordering::Relaxed);
        let mut out = Out::new();
        out.text(format!("{{{}: [", json!(name)))?;
        Ok(JsonStream { out, first: true })
    }
    /// One element.
    pub fn push(&mut self, value: &Value) -> Result<(), Failure> {
        self.out.text(if std::mem::take(&mut self.first) {
            "\n  "
        } else {
            ",\n  "
        })?;
        serde_json::to_writer(&mut self.out, value).map_err(|e| Failure::stdout(e.into()))
    }
    /// Ends it with the members of the object `rest`.
    pub fn end(mut self, rest: &Value) -> Result<(), Failure> {
        self.out.text("\n]")?;
        for (k, v) in rest.as_object().into_iter().flatten() {
            self.out.text(format!(",\n{}: {v}", json!(k)))?;
        }
        self.out.text("\n}\n")?;
        self.out.flush()
    }
}

/// Where a column's text stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Columns of text, as wide as their widest cell.
pub struct Table {
    head: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With these columns.
    pub fn new(head: &[(&'static str, Align)]) -> Self {
        Table {
            head: head.to_vec(),
            rows: Vec::new(),
        }
    }
    /// One row; cells are escaped here.
    pub fn row<S: AsRef<str>>(&mut self, cells: &[S]) {
        debug_assert_eq!(cells.len(), self.head.len());
        self.rows
            .push(cells.iter().map(|c| escape(c.as_ref())).collect());
    }
    /// The text.
    pub fn render(&self, colour: bool) -> String {
        let mut widths: Vec<usize> = self.head.iter().map(|(h, _)| h.chars().count()).collect();
        for row in &self.rows {
            for (w, cell) in widths.iter_mut().zip(row) {
                *w = (*w).max(cell.chars().count());
            }
        }
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let mut out = String::new();
            for (i, cell) in cells.enumerate() {
                let pad = widths[i] - cell.chars().count();
                if i > 0 {
                    out.push_str("  ");
                }
                if self.head[i].1 == Align::Right {
                    out.extend(std::iter::repeat_n(' ', pad));
                }
                out.push_str(cell);
                if self.head[i].1 == Align::Left {
                    out.extend(std::iter::repeat_n(' ', pad));
                }
            }
            out.truncate(out.trim_end().len());
            out
        };
        let head = line(&mut self.head.iter().map(|(h, _)| *h));
        let mut out = if colour {
            format!("\x1b[1m{head}\x1b[0m\n")
        } else {
            format!("{head}\n")
        };
        for row in &self.rows {
            out.push_str(&line(&mut row.iter().map(String::as_str)));
            out.push('\n');
        }
        out
    }
}

/// `1 file`, `2 files`, with thousands set apart.
pub fn count(n: u64, one: &str, many: &str) -> String {
    format!("{} {}", thousands(n), if n == 1 { one } else { many })
}

/// `1,234,567`.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, d) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            out.push(',');
        }
        out.push(d);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_can_be_typed_again() {
        let said = |words: &[&str]| again(words.iter().map(|w| (*w).to_owned()), "--allow-many");
        assert_eq!(
            said(&["forget", "--keep-last", "3", "--host", "a b'c"]),
            "keepwatch forget --keep-last 3 --host 'a b'\\''c' --allow-many"
        );
        assert_eq!(
            said(&["x", "--", "-y", ""]),
            "keepwatch x --allow-many -- -y ''"
        );
    }

    #[test]
    fn names_cannot_steer_the_terminal() {
        assert_eq!(
            escape("a\x1b[2Jb\u{202e}c\n\u{9b}"),
            "a\\u{1b}[2Jb\\u{202e}c\\n\\u{9b}"
        );
        assert_eq!(escape("žluťoučký 猫"), "žluťoučký 猫");
        assert_eq!(escape_bytes(b"a\xff\x1bz"), "a\\xff\\u{1b}z");
        assert_eq!(escape_lines("a\nb\x07"), "a\nb\\u{7}");
        assert_eq!(
            plain("no x (os error 2); y (os error z) (os error 17)"),
            "no x; y (os error z)"
        );
    }

    #[test]
    fn tables_align_and_escape() {
        let mut t = Table::new(&[
            ("ID", Align::Left),
            ("SIZE", Align::Right),
            ("PATH", Align::Left),
        ]);
        t.row(&["a", "10", "x\n"]);
        t.row(&["abc", "1000000", "é"]);
        assert_eq!(
            t.render(false),
            "ID      SIZE  PATH\na         10  x\\n\nabc  1000000  é\n"
        );
    }

    #[test]
    fn numbers() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(1234567), "1,234,567");
        assert_eq!(count(1, "file", "files"), "1 file");
    }

    #[test]
    fn paths_that_are_not_text_stay_whole_in_json() {
        let mut v = json!({});
        put_path(&mut v, b"a\xff");
        assert_eq!(v["path_hex"], "61ff");
        let mut v = json!({});
        put_path(&mut v, b"ab");
        assert!(v.get("path_hex").is_none());
    }
}

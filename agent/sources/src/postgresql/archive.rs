//! Reading along in an archive of `pg_dump --format=custom`, to know that it is whole.
//!
//! `pg_dump` says by its exit status whether it wrote all; whether all arrived, only the archive itself can say. It begins with a table
//! of contents that names every piece of data to come, and then each piece comes in blocks that end with an empty one. So it is whole
//! exactly when every piece that was announced came to its end and nothing follows. The form is that of archive versions 1.12 (PostgreSQL
//! 9.0) to 1.16 (17 and 18); of a later one only the beginning is looked at. Memory: four bytes and some for each piece of data.

use std::collections::HashSet;

use crate::check::Check;

/// The longest string in a table of contents, in bytes.
const STRING: i64 = 1 << 30;
/// The most entries of a table of contents.
const ENTRIES: i64 = 100_000_000;

/// What is read next.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Next {
    /// So many bytes, as they are.
    Bytes(usize),
    /// A number: a sign and its bytes.
    Int,
    /// A text, of which only the length matters.
    Text,
}

/// What was read.
enum Got<'a> {
    Bytes(&'a [u8]),
    Int(i64),
    /// A text that is there, or none.
    Text(bool),
}

/// Where we are.
#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    Magic,
    Compression,
    /// So many of the seven numbers of the time.
    Time(u8),
    /// So many of the three texts of the head.
    Head(u8),
    Count,
    /// So many fields of an entry.
    Entry(usize),
    Dependency,
    Extra,
    /// Between pieces of data: only here may it end.
    Block,
    Id,
    Length,
    Oid,
    BlobLength,
    /// A version that is not known here.
    Unknown,
}

/// Fields of an entry between its beginning and its dependencies.
const NUMBER: Next = Next::Int;
const TEXT: Next = Next::Text;

/// See the module.
pub struct Archive {
    at: At,
    next: Next,
    held: Vec<u8>,
    /// Bytes to pass over before that.
    skip: u64,
    minor: u8,
    int: usize,
    offset: usize,
    entries: i64,
    id: i64,
    expected: HashSet<i64>,
    blobs: bool,
    any: bool,
}

impl Default for Archive {
    fn default() -> Self {
        Archive {
            at: At::Magic,
            next: Next::Bytes(11),
            held: Vec::new(),
            skip: 0,
            minor: 0,
            int: 4,
            offset: 8,
            entries: 0,
            id: 0,
            expected: HashSet::new(),
            blobs: false,
            any: false,
        }
    }
}

impl Archive {
    /// The fields of an entry: its number, whether data belong to it, two ids, its name and kind, its section, three statements, …
    fn field(&self, i: usize) -> Option<Next> {
        let head = [
            NUMBER, NUMBER, TEXT, TEXT, TEXT, TEXT, NUMBER, TEXT, TEXT, TEXT, TEXT, TEXT,
        ];
        let method = (self.minor >= 14).then_some(TEXT);
        let relation = (self.minor >= 16).then_some(NUMBER);
        // Owner, and whether it has row ids.
        head.into_iter()
            .chain(method)
            .chain(relation)
            .chain([TEXT, TEXT])
            .nth(i)
    }

    fn entry_or_data(&mut self) -> (At, Next) {
        if self.entries == 0 {
            return (At::Block, Next::Bytes(1));
        }
        self.entries -= 1;
        (At::Entry(0), NUMBER)
    }

    fn step(&mut self, got: Got<'_>) -> Result<(At, Next), String> {
        Ok(match (self.at, got) {
            (At::Magic, Got::Bytes(b)) => {
                if &b[..5] != b"PGDMP" {
                    return Err("it does not begin as an archive of pg_dump".into());
                }
                let (major, minor) = (b[5], b[6]);
                self.minor = minor;
                self.int = b[8] as usize;
                self.offset = b[9] as usize;
                if major != 1 || minor < 12 {
                    return Err(format!(
                        "its version {major}.{minor} is not one that is made today"
                    ));
                }
                if minor > 16 {
                    return Ok((At::Unknown, Next::Int));
                }
                if !(1..=8).contains(&self.int) || !(1..=8).contains(&self.offset) || b[10] != 1 {
                    return Err("its head is senseless".into());
                }
                (
                    At::Compression,
                    if minor >= 15 {
                        Next::Bytes(1)
                    } else {
                        Next::Int
                    },
                )
            }
            (At::Compression, _) => (At::Time(0), NUMBER),
            (At::Time(6), _) => (At::Head(0), TEXT),
            (At::Time(n), _) => (At::Time(n + 1), NUMBER),
            (At::Head(2), _) => (At::Count, NUMBER),
            (At::Head(n), _) => (At::Head(n + 1), TEXT),
            (At::Count, Got::Int(n)) => {
                if !(1..=ENTRIES).contains(&n) {
                    return Err(format!("its table of contents has {n} entries"));
                }
                self.entries = n;
                self.entry_or_data()
            }
            (At::Entry(i), got) => {
                match (i, got) {
                    (0, Got::Int(id)) => self.id = id,
                    (1, Got::Int(has)) => self.any = has != 0,
                    _ => {}
                }
                match self.field(i + 1) {
                    Some(next) => (At::Entry(i + 1), next),
                    None => (At::Dependency, TEXT),
                }
            }
            (At::Dependency, Got::Text(true)) => (At::Dependency, TEXT),
            (At::Dependency, _) => (At::Extra, Next::Bytes(1 + self.offset)),
            (At::Extra, Got::Bytes(b)) => {
                // 3: no data.
                if self.any && b[0] != 3 {
                    self.expected.insert(self.id);
                }
                self.entry_or_data()
            }
            (At::Block, Got::Bytes(b)) => {
                self.blobs = match b[0] {
                    1 => false,
                    3 => true,
                    other => return Err(format!("a piece of data is of the unknown kind {other}")),
                };
                (At::Id, NUMBER)
            }
            (At::Id, Got::Int(id)) => {
                if !self.expected.remove(&id) {
                    return Err(format!(
                        "the piece of data {id} was not announced, or came twice"
                    ));
                }
                match self.blobs {
                    true => (At::Oid, NUMBER),
                    false => (At::Length, NUMBER),
                }
            }
            (At::Length, Got::Int(0)) => (At::Block, Next::Bytes(1)),
            (At::Length, Got::Int(n)) => {
                self.skip = length(n)?;
                (At::Length, NUMBER)
            }
            (At::Oid, Got::Int(0)) => (At::Block, Next::Bytes(1)),
            (At::Oid, _) => (At::BlobLength, NUMBER),
            (At::BlobLength, Got::Int(0)) => (At::Oid, NUMBER),
            (At::BlobLength, Got::Int(n)) => {
                self.skip = length(n)?;
                (At::BlobLength, NUMBER)
            }
            _ => return Err("it cannot be read".into()),
        })
    }

    fn int(&self, bytes: &[u8]) -> Result<i64, String> {
        let mut value = 0i64;
        for (i, b) in bytes[1..].iter().enumerate() {
            let shifted = i64::from(*b)
                .checked_shl(8 * i as u32)
                .filter(|v| i < 7 || *v >= 0);
            value |= shifted.ok_or("a number in it is too large")?;
        }
        Ok(if bytes[0] == 0 { value } else { -value })
    }
}

fn length(n: i64) -> Result<u64, String> {
    u64::try_from(n).map_err(|_| "a length in it is negative".into())
}

impl Check for Archive {
    fn feed(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while !bytes.is_empty() && self.at != At::Unknown {
            let passed = self.skip.min(bytes.len() as u64);
            self.skip -= passed;
            bytes = &bytes[passed as usize..];
            let needed = match self.next {
                Next::Bytes(n) => n,
                Next::Int | Next::Text => 1 + self.int,
            };
            let taken = (needed - self.held.len()).min(bytes.len());
            self.held.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if self.skip > 0 || self.held.len() < needed {
                return Ok(());
            }
            let mut held = std::mem::take(&mut self.held);
            (self.at, self.next) = match self.next {
                Next::Bytes(_) => self.step(Got::Bytes(&held))?,
                Next::Int => {
                    let n = self.int(&held)?;
                    self.step(Got::Int(n))?
                }
                Next::Text => {
                    let n = self.int(&held)?;
                    if n > STRING {
                        return Err("a text in it is too long".into());
                    }
                    self.skip = n.max(0) as u64;
                    self.step(Got::Text(n >= 0))?
                }
            };
            held.clear();
            self.held = held;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), String> {
        if self.at == At::Unknown {
            return Ok(());
        }
        if self.at == At::Magic {
            return Err("it is empty, or ends in its first bytes".into());
        }
        if self.at != At::Block || self.skip > 0 || !self.held.is_empty() {
            return Err("it ends in the middle".into());
        }
        match self.expected.len() {
            0 => Ok(()),
            n => Err(format!(
                "{n} tables or large objects that it announces are not in it"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Made(Vec<u8>);

    impl Made {
        fn int(&mut self, n: i32) {
            self.0.push(u8::from(n < 0));
            self.0.extend(n.unsigned_abs().to_le_bytes());
        }
        fn text(&mut self, t: Option<&str>) {
            self.int(t.map_or(-1, |t| t.len() as i32));
            self.0.extend(t.unwrap_or_default().bytes());
        }
        /// An archive with a schema entry, and tables and large objects with data.
        fn archive(minor: u8, pieces: &[(bool, Vec<Vec<u8>>)]) -> Vec<u8> {
            let mut m = Made(b"PGDMP".to_vec());
            m.0.extend([1, minor, 0, 4, 8, 1]);
            if minor >= 15 {
                m.0.push(0)
            } else {
                m.int(0)
            }
            (0..7).for_each(|n| m.int(n));
            for t in ["app", "15.20", "15.20"] {
                m.text(Some(t));
            }
            m.int(pieces.len() as i32 + 1);
            for i in 0..=pieces.len() {
                m.int(i as i32 + 1);
                m.int(i32::from(i > 0));
                for t in [
                    "1259",
                    "16384",
                    "t",
                    if i == 0 { "TABLE" } else { "TABLE DATA" },
                ] {
                    m.text(Some(t));
                }
                m.int(2);
                for t in [
                    Some("CREATE TABLE t ()"),
                    Some(""),
                    None,
                    Some("public"),
                    None,
                ] {
                    m.text(t);
                }
                if minor >= 14 {
                    m.text(None)
                }
                if minor >= 16 {
                    m.int(114)
                }
                m.text(Some("postgres"));
                m.text(Some("false"));
                if i > 0 {
                    m.text(Some("1"))
                }
                m.text(None);
                m.0.push(if i == 0 { 3 } else { 1 });
                m.0.extend([0; 8]);
            }
            for (i, (blobs, parts)) in pieces.iter().enumerate() {
                m.0.push(if *blobs { 3 } else { 1 });
                m.int(i as i32 + 2);
                if *blobs {
                    m.int(77)
                }
                for part in parts.iter().filter(|p| !p.is_empty()) {
                    m.int(part.len() as i32);
                    m.0.extend(part);
                }
                m.int(0);
                if *blobs {
                    m.int(0)
                }
            }
            m.0
        }
    }

    fn whole(bytes: &[u8], step: usize) -> Result<(), String> {
        let mut archive = Archive::default();
        for part in bytes.chunks(step.max(1)) {
            archive.feed(part)?;
        }
        archive.end()
    }

    proptest! {
        #[test]
        fn an_archive_is_whole_and_no_beginning_of_it_is(
            minor in 12u8..=16,
            pieces in prop::collection::vec((any::<bool>(), prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..4)), 0..4),
            step in 1usize..100,
        ) {
            let bytes = Made::archive(minor, &pieces);
            prop_assert_eq!(whole(&bytes, step), Ok(()));
            for cut in 0..bytes.len() {
                // It may only end where all that was announced has come.
                prop_assert!(whole(&bytes[..cut], step).is_err(), "{} of {}", cut, bytes.len());
            }
            let more = [&bytes[..], b"x"].concat();
            prop_assert!(whole(&more, step).is_err());
        }

        #[test]
        fn nonsense_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..400), head in any::<bool>()) {
            if head && bytes.len() > 11 {
                bytes[..11].copy_from_slice(&[b'P', b'G', b'D', b'M', b'P', 1, 14, 0, 4, 8, 1]);
            }
            let _ = whole(&bytes, 13);
        }
    }

    #[test]
    fn what_is_no_archive_or_a_later_one() {
        assert!(whole(b"", 1).is_err());
        assert!(whole(b"--\n-- PostgreSQL database dump\n", 5).is_err());
        assert!(whole(&[b"PGDMP".as_slice(), &[1, 3, 0, 4, 8, 1]].concat(), 5).is_err());
        assert_eq!(
            whole(
                &[b"PGDMP".as_slice(), &[1, 17, 0, 4, 8, 1, 9, 9]].concat(),
                5
            ),
            Ok(())
        );
    }
}

//! Tar archives as PostgreSQL writes them (ustar, no extensions), taken apart as their bytes come along, in pieces of any length.
//!
//! Only for streams of `pg_basebackup`: a header that is not understood is an error, and so is an end without the end marker.

use std::io;

const BLOCK: usize = 512;

/// What an entry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link, which base backups have for tablespaces.
    Link,
}

/// A header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// As in the archive; `./` in front and slashes behind are gone.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Bytes of content.
    pub size: u64,
    /// The permission bits.
    pub mode: u32,
}

/// Who takes the parts.
pub trait Sink {
    /// A header; `size` bytes of content follow.
    fn entry(&mut self, entry: &Entry) -> io::Result<()>;
    /// Some content of the last entry.
    fn content(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// All content of the last entry was given.
    fn end(&mut self) -> io::Result<()>;
}

/// See the module. An archive is fed by [`Parser::feed`].
pub struct Parser {
    header: Vec<u8>,
    /// Of the entry at hand.
    content: u64,
    padding: u64,
    in_entry: bool,
    zero_blocks: u32,
}

impl Default for Parser {
    fn default() -> Self {
        Parser {
            header: Vec::with_capacity(BLOCK),
            content: 0,
            padding: 0,
            in_entry: false,
            zero_blocks: 0,
        }
    }
}

impl Parser {
    /// Takes the next bytes.
    pub fn feed(&mut self, mut bytes: &[u8], sink: &mut dyn Sink) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.content > 0 {
                let n = usize::try_from(self.content)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len());
                sink.content(&bytes[..n])?;
                self.content -= n as u64;
                bytes = &bytes[n..];
                self.close(sink)?;
            } else if self.padding > 0 {
                let n = (self.padding as usize).min(bytes.len());
                self.padding -= n as u64;
                bytes = &bytes[n..];
            } else if self.is_complete() {
                // Some writers fill the last record with zeros.
                if bytes.iter().any(|b| *b != 0) {
                    return Err(wrong("something follows the end of the archive"));
                }
                return Ok(());
            } else {
                let n = (BLOCK - self.header.len()).min(bytes.len());
                self.header.extend_from_slice(&bytes[..n]);
                bytes = &bytes[n..];
                if self.header.len() == BLOCK {
                    self.block(sink)?;
                    self.header.clear();
                }
            }
        }
        Ok(())
    }

    /// True when the end marker was seen: two blocks of zeros.
    pub fn is_complete(&self) -> bool {
        self.zero_blocks >= 2
    }

    fn close(&mut self, sink: &mut dyn Sink) -> io::Result<()> {
        if self.content == 0 && std::mem::take(&mut self.in_entry) {
            sink.end()?;
        }
        Ok(())
    }

    fn block(&mut self, sink: &mut dyn Sink) -> io::Result<()> {
        if self.header.iter().all(|b| *b == 0) {
            self.zero_blocks += 1;
            return Ok(());
        }
        if self.zero_blocks > 0 {
            return Err(wrong("something follows the end of the archive"));
        }
        let entry = header(&self.header)?;
        self.content = match entry.kind {
            Kind::File => entry.size,
            Kind::Directory | Kind::Link => 0,
        };
        self.padding = self.content.next_multiple_of(BLOCK as u64) - self.content;
        self.in_entry = true;
        sink.entry(&entry)?;
        self.close(sink)
    }
}

fn wrong(why: &str) -> io::Error {
    io::Error::other(format!(
        "the archive of the base backup is malformed: {why}"
    ))
}

fn header(b: &[u8]) -> io::Result<Entry> {
    let sum: u64 = b
        .iter()
        .enumerate()
        .map(|(i, v)| u64::from(if (148..156).contains(&i) { b' ' } else { *v }))
        .sum();
    if number(&b[148..156]) != Some(sum) {
        return Err(wrong("the checksum of a header is wrong"));
    }
    let text = |at: usize, n: usize| -> io::Result<&str> {
        let field = &b[at..at + n];
        let end = field.iter().position(|c| *c == 0).unwrap_or(n);
        std::str::from_utf8(&field[..end]).map_err(|_| wrong("a name is not text"))
    };
    let (name, prefix) = (text(0, 100)?, text(345, 155)?);
    let name = match prefix.is_empty() {
        true => name.to_owned(),
        false => format!("{prefix}/{name}"),
    };
    let kind = match b[156] {
        b'0' | 0 => Kind::File,
        b'5' => Kind::Directory,
        b'2' => Kind::Link,
        _ => return Err(wrong("an entry is of an unknown kind")),
    };
    let size = number(&b[124..136]).filter(|n| *n <= 1 << 50);
    let mode = number(&b[100..108]).and_then(|m| u32::try_from(m).ok());
    Ok(Entry {
        name: name
            .trim_start_matches("./")
            .trim_end_matches('/')
            .to_owned(),
        kind,
        size: size.ok_or_else(|| wrong("an entry has an impossible length"))?,
        mode: mode.ok_or_else(|| wrong("an entry has an impossible mode"))? & 0o7777,
    })
}

/// Octal text, or a binary number behind a byte 0x80.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] == 0x80 {
        return field[1..].iter().try_fold(0u64, |n, b| {
            n.checked_mul(256)
                .and_then(|n| n.checked_add(u64::from(*b)))
        });
    }
    let text = std::str::from_utf8(field).ok()?;
    let text = text.trim_matches(|c| c == ' ' || c == '\0');
    match text.is_empty() {
        true => Some(0),
        false => u64::from_str_radix(text, 8).ok(),
    }
}

/// Archives for tests.
#[cfg(test)]
pub mod made {
    /// An entry: name, kind, content.
    pub fn entry(name: &str, kind: u8, content: &[u8]) -> Vec<u8> {
        let mut b = vec![0u8; 512];
        b[..name.len()].copy_from_slice(name.as_bytes());
        b[100..107].copy_from_slice(b"0000600");
        b[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        b[156] = kind;
        b[257..263].copy_from_slice(b"ustar\0");
        b[148..156].fill(b' ');
        let sum: u64 = b.iter().map(|v| u64::from(*v)).sum();
        b[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        b.extend_from_slice(content);
        b.resize(b.len().next_multiple_of(512), 0);
        b
    }
    /// Entries and the end marker.
    pub fn archive(entries: &[(&str, u8, &[u8])]) -> Vec<u8> {
        let mut out: Vec<u8> = entries
            .iter()
            .flat_map(|(n, k, c)| entry(n, *k, c))
            .collect();
        out.extend_from_slice(&[0; 1024]);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct All(Vec<(Entry, Vec<u8>, bool)>);

    impl Sink for All {
        fn entry(&mut self, entry: &Entry) -> io::Result<()> {
            self.0.push((entry.clone(), Vec::new(), false));
            Ok(())
        }
        fn content(&mut self, bytes: &[u8]) -> io::Result<()> {
            self.0.last_mut().unwrap().1.extend_from_slice(bytes);
            Ok(())
        }
        fn end(&mut self) -> io::Result<()> {
            self.0.last_mut().unwrap().2 = true;
            Ok(())
        }
    }

    #[test]
    fn pieces_of_any_length_give_the_same_entries() {
        let bytes = made::archive(&[
            ("backup_label", b'0', b"label"),
            ("base/", b'5', b""),
            ("base/1", b'0', &[7; 1000]),
            ("empty", b'0', b""),
            ("pg_tblspc/1", b'2', b""),
        ]);
        for step in [1, 7, 511, 512, 513, 100_000] {
            let (mut parser, mut all) = (Parser::default(), All::default());
            for piece in bytes.chunks(step) {
                assert!(!parser.is_complete() || piece.iter().all(|b| *b == 0));
                parser.feed(piece, &mut all).unwrap();
            }
            assert!(parser.is_complete());
            let names: Vec<_> = all
                .0
                .iter()
                .map(|e| (e.0.name.as_str(), e.1.len(), e.2))
                .collect();
            assert_eq!(
                names,
                [
                    ("backup_label", 5, true),
                    ("base", 0, true),
                    ("base/1", 1000, true),
                    ("empty", 0, true),
                    ("pg_tblspc/1", 0, true)
                ]
            );
        }
    }

    #[test]
    fn every_cut_is_noticed() {
        let bytes = made::archive(&[("a", b'0', &[1; 700]), ("b", b'0', b"x")]);
        for cut in 0..bytes.len() {
            let mut parser = Parser::default();
            parser.feed(&bytes[..cut], &mut All::default()).unwrap();
            assert!(!parser.is_complete(), "{cut}");
        }
    }

    #[test]
    fn damage_is_an_error() {
        let bytes = made::archive(&[("a", b'0', b"x")]);
        for (at, value) in [(0, b'b'), (130, b'9'), (150, b'x'), (156, b'L')] {
            let mut b = bytes.clone();
            b[at] = value;
            assert!(
                Parser::default().feed(&b, &mut All::default()).is_err(),
                "{at}"
            );
        }
        let mut b = bytes.clone();
        b.push(1);
        assert!(Parser::default().feed(&b, &mut All::default()).is_err());
    }
}

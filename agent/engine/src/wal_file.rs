//! Names of the files of PostgreSQL's write-ahead log, as the server gives them to its archive command.
//!
//! | form | what |
//! |---|---|
//! | `TTTTTTTTLLLLLLLLSSSSSSSS` | a segment: timeline, log, segment within it, 8 hexadecimal digits each, in upper case |
//! | the same and `.partial` | the last, unfinished segment of a timeline that a standby left when it was promoted |
//! | the same, `.OOOOOOOO.backup` | where and when a base backup began and ended |
//! | `TTTTTTTT.history` | from which timeline, and where, a timeline branched off |
//!
//! Nothing else is ever taken, so no path is built from foreign text. The *position* of a segment is its log and segment as one number: it grows, whatever the size of segments.

use std::fmt;
use std::str::FromStr;

/// A file of the write-ahead log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum WalFile {
    /// A whole segment.
    Segment(Segment),
    /// An unfinished one.
    Partial(Segment),
    /// Of a base backup that begins in the segment at the offset.
    Label(Segment, u32),
    /// Of a timeline.
    History(u32),
}

/// Timeline and position of a segment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Segment {
    /// From 1.
    pub timeline: u32,
    /// The log in the upper, the segment in it in the lower half.
    pub position: u64,
}

impl Segment {
    /// From its 24 digits.
    fn parse(text: &str) -> Option<Segment> {
        let digits = |at: usize| hex8(text.get(at..at + 8)?);
        let (timeline, log, segment) = (digits(0)?, digits(8)?, digits(16)?);
        (text.len() == 24 && timeline > 0).then_some(Segment {
            timeline,
            position: u64::from(log) << 32 | u64::from(segment),
        })
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}{:016X}", self.timeline, self.position)
    }
}

fn hex8(text: &str) -> Option<u32> {
    let upper = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
    (text.len() == 8 && text.bytes().all(upper))
        .then(|| u32::from_str_radix(text, 16).ok())
        .flatten()
}

impl WalFile {
    /// Where it belongs in the log; a history belongs everywhere.
    pub fn position(&self) -> Option<u64> {
        match self {
            WalFile::Segment(s) | WalFile::Partial(s) | WalFile::Label(s, _) => Some(s.position),
            WalFile::History(_) => None,
        }
    }
    /// Its timeline.
    pub fn timeline(&self) -> u32 {
        match self {
            WalFile::Segment(s) | WalFile::Partial(s) | WalFile::Label(s, _) => s.timeline,
            WalFile::History(t) => *t,
        }
    }
    /// The directory in which it is stored: timeline and log, so that none has more than 4096 segments (256 of the usual size), or `history`.
    pub fn directory(&self) -> String {
        match self {
            WalFile::Segment(s) | WalFile::Partial(s) | WalFile::Label(s, _) => {
                format!("{:08X}{:08X}", s.timeline, s.position >> 32)
            }
            WalFile::History(_) => "history".to_owned(),
        }
    }
}

impl fmt::Display for WalFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WalFile::Segment(s) => s.fmt(f),
            WalFile::Partial(s) => write!(f, "{s}.partial"),
            WalFile::Label(s, offset) => write!(f, "{s}.{offset:08X}.backup"),
            WalFile::History(t) => write!(f, "{t:08X}.history"),
        }
    }
}

/// Text that is no name of a WAL file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not the name of a WAL file (a segment such as 000000010000000000000003, .partial, .backup, or 00000002.history)"
)]
pub struct ParseWalFileError(String);

impl FromStr for WalFile {
    type Err = ParseWalFileError;
    fn from_str(text: &str) -> Result<Self, ParseWalFileError> {
        let parsed = || -> Option<WalFile> {
            if let Some(timeline) = text.strip_suffix(".history") {
                return hex8(timeline).filter(|t| *t > 0).map(WalFile::History);
            }
            if let Some(segment) = text.strip_suffix(".partial") {
                return Segment::parse(segment).map(WalFile::Partial);
            }
            if let Some(rest) = text.strip_suffix(".backup") {
                let (segment, offset) = rest.split_once('.')?;
                return Some(WalFile::Label(Segment::parse(segment)?, hex8(offset)?));
            }
            Segment::parse(text).map(WalFile::Segment)
        };
        parsed().ok_or_else(|| {
            ParseWalFileError(
                text.chars()
                    .take(80)
                    .flat_map(|c| c.escape_default())
                    .collect(),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written_alike() {
        for text in [
            "000000010000000000000003",
            "0000000A000000FF000000FE",
            "000000010000000000000003.partial",
            "000000010000000000000003.00000028.backup",
            "00000002.history",
        ] {
            let file: WalFile = text.parse().unwrap();
            assert_eq!(file.to_string(), text);
        }
        let segment: WalFile = "000000020000000100000003".parse().unwrap();
        assert_eq!(
            (segment.timeline(), segment.position()),
            (2, Some(1 << 32 | 3))
        );
        assert_eq!(segment.directory(), "0000000200000001");
        assert_eq!(
            "00000002.history".parse::<WalFile>().unwrap().directory(),
            "history"
        );
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            ".",
            "..",
            "00000001000000000000000",
            "0000000100000000000000030",
            "00000001000000000000000g",
            "00000001000000000000000a",
            "000000000000000000000003",
            "00000000.history",
            "+0000002.history",
            "0000000100000000000000é",
            "000000010000000000000003.",
            "000000010000000000000003.backup",
            "000000010000000000000003.28.backup",
            "../0000000100000000000003",
            "000000010000000000000003/x",
            "RECOVERYXLOG",
        ] {
            assert!(text.parse::<WalFile>().is_err(), "{text}");
        }
    }
}

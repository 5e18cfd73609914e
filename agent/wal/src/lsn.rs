//! Positions in the log as PostgreSQL writes them: two hexadecimal numbers, `0/16B3748`.

use std::fmt;
use std::str::FromStr;

/// A byte position in the log of a cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

/// Text that is no position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a position in the log: expected two hexadecimal numbers such as 0/16B3748")]
pub struct ParseLsnError(String);

impl FromStr for Lsn {
    type Err = ParseLsnError;
    fn from_str(text: &str) -> Result<Self, ParseLsnError> {
        let part = |t: &str| {
            let ok = (1..=8).contains(&t.len()) && t.bytes().all(|b| b.is_ascii_hexdigit());
            ok.then(|| u32::from_str_radix(t, 16).ok()).flatten()
        };
        let parsed = text
            .split_once('/')
            .and_then(|(high, low)| Some((part(high)?, part(low)?)));
        match parsed {
            Some((high, low)) => Ok(Lsn(u64::from(high) << 32 | u64::from(low))),
            None => Err(ParseLsnError(
                text.chars()
                    .take(40)
                    .flat_map(char::escape_default)
                    .collect(),
            )),
        }
    }
}

impl Lsn {
    /// The number of the segment that holds it, counted from the beginning of the log.
    pub fn segment(self, segment_bytes: u64) -> u64 {
        self.0 / segment_bytes.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_read_and_written_alike() {
        for (text, n) in [
            ("0/0", 0),
            ("0/16B3748", 0x16B_3748),
            ("A/FF", 0xA_0000_00FF),
        ] {
            assert_eq!(text.parse::<Lsn>().unwrap().0, n);
            assert_eq!(Lsn(n).to_string(), text);
        }
        assert_eq!("0/3000000".parse::<Lsn>().unwrap().segment(16 << 20), 3);
        for bad in [
            "",
            "0",
            "/",
            "0/",
            "0/123456789",
            "-1/0",
            "0/+1",
            "0/1/2",
            "0/g",
        ] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad}");
        }
    }
}

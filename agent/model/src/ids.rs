//! Ids of what happened: 128 bits that sort by time, in the form of a UUID of version 7 (RFC 9562).
//!
//! 48 bits of milliseconds since 1970, then 74 random bits between the fixed version and variant bits. An id is made where
//! the thing happens, before any database is asked, so that a record can be spooled, sent twice and imported twice and is
//! still one record. Clock and randomness are arguments.
//!
//! The text is the canonical one, 36 characters in lower case. Reading is strict, so that one id has one text; the version is
//! not demanded, so that ids derived from other things stay readable.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserialize, Deserializer};
use serde::{Serialize, Serializer};

use crate::ParseError;
use crate::time::Moment;

/// Places of the hyphens in the text.
const HYPHENS: [usize; 4] = [8, 13, 18, 23];

fn build(at: Moment, random: [u8; 10]) -> [u8; 16] {
    // Before 1970 and after the year 10889 the time part is cut: such ids are still ids, they only sort at the ends.
    let millis = u64::try_from(at.unix_nanos() / 1_000_000)
        .unwrap_or(0)
        .min((1 << 48) - 1);
    let mut out = [0u8; 16];
    out[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
    out[6..].copy_from_slice(&random);
    out[6] = out[6] & 0x0f | 0x70;
    out[8] = out[8] & 0x3f | 0x80;
    out
}

fn write(bytes: &[u8; 16], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(36);
    for byte in bytes {
        if HYPHENS.contains(&text.len()) {
            text.push('-');
        }
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    f.pad(&text)
}

fn read(text: &str) -> Option<[u8; 16]> {
    let text = text.as_bytes();
    if text.len() != 36 || HYPHENS.iter().any(|at| text[*at] != b'-') {
        return None;
    }
    let mut digits = text
        .iter()
        .enumerate()
        .filter(|(at, _)| !HYPHENS.contains(at))
        .map(|(_, c)| match c {
            b'0'..=b'9' => Some(c - b'0'),
            b'a'..=b'f' => Some(c - b'a' + 10),
            _ => None,
        });
    let mut out = [0u8; 16];
    for byte in &mut out {
        *byte = digits.next()?? << 4 | digits.next()??;
    }
    Some(out)
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            /// An id of something that began at `at`; `random` comes from the system's generator.
            pub fn new(at: Moment, random: [u8; 10]) -> Self {
                Self(build(at, random))
            }

            /// The id with these bytes.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// Its 16 bytes, in the order that sorts.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }

            /// Milliseconds since 1970 in its first 48 bits: when it was made, by the clock of then.
            pub fn unix_millis(&self) -> u64 {
                self.0[..6].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseError;

            /// Reads the canonical text, in lower case.
            ///
            /// # Errors
            /// Any other text.
            fn from_str(text: &str) -> Result<Self, ParseError> {
                read(text)
                    .map(Self)
                    .ok_or_else(|| ParseError::new($what, text, "write it as 01234567-89ab-7def-8123-456789abcdef"))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

id! {
    /// One run of a job: a backup, a verification, a drill.
    RunId, "the id of a run"
}

id! {
    /// One incident, from opened to closed.
    IncidentId, "the id of an incident"
}

id! {
    /// One thing that happened at one moment: a change of state, a restart, a notification.
    EventId, "the id of an event"
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn moment(text: &str) -> Moment {
        text.parse().expect(text)
    }

    #[test]
    fn it_is_a_uuid_of_version_7() {
        let at = moment("2022-02-22T14:22:22-05:00"); // the example of RFC 9562, appendix A.6
        let random = [0x0c, 0xc3, 0x18, 0xc4, 0xdc, 0x0c, 0x0c, 0x07, 0x39, 0x8f];
        assert_eq!(
            RunId::new(at, random).to_string(),
            "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"
        );
        assert_eq!(RunId::new(at, random).unix_millis(), 0x017f_22e2_79b0);
    }

    #[test]
    fn the_ends_of_time_do_not_wrap() {
        let first = RunId::new(moment("0001-01-01T00:00:00Z"), [0xff; 10]);
        let last = RunId::new(moment("9999-12-30T00:00:00Z"), [0; 10]);
        assert_eq!(first.unix_millis(), 0);
        assert!(first < RunId::new(moment("2026-01-01T00:00:00Z"), [0; 10]));
        assert!(RunId::new(moment("2026-01-01T00:00:00Z"), [0xff; 10]) < last);
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "017f22e2",
            "017f22e279b07cc398c4dc0c0c07398f",
            "017F22E2-79B0-7CC3-98C4-DC0C0C07398F",
            "017f22e2-79b0-7cc3-98c4-dc0c0c07398g",
            "017f22e2-79b0-7cc3-98c4-dc0c0c07398",
            "017f22e2-79b0-7cc3-98c4-dc0c0c07398ff",
            "017f22e2-79b0-7cc3-98c4_dc0c0c07398f",
            "{17f22e2-79b0-7cc3-98c4-dc0c0c07398}",
            "017f22e2-79b0-7cc3-98c4-dc0c0c0739é",
        ] {
            assert!(text.parse::<RunId>().is_err(), "{text}");
            assert!(
                serde_json::from_value::<EventId>(text.into()).is_err(),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn text_comes_back_and_sorts_like_the_id(a in any::<[u8; 16]>(), b in any::<[u8; 16]>()) {
            let (a, b) = (RunId::from_bytes(a), RunId::from_bytes(b));
            prop_assert_eq!(a.to_string().parse::<RunId>().ok(), Some(a));
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
            let json = serde_json::to_string(&a).ok();
            prop_assert_eq!(json.and_then(|t| serde_json::from_str::<RunId>(&t).ok()), Some(a));
        }

        #[test]
        fn later_ids_sort_later(ms in 0u64..1 << 40, more in 1u64..1 << 40, r in any::<[u8; 10]>(), s in any::<[u8; 10]>()) {
            let at = |ms: u64| Moment::from_parts((ms / 1000) as i64, (ms % 1000) as u32 * 1_000_000, 0).expect("in range");
            prop_assert!(RunId::new(at(ms), r) < RunId::new(at(ms + more), s));
            prop_assert_eq!(RunId::new(at(ms), r).unix_millis(), ms);
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = text.parse::<RunId>();
        }
    }
}

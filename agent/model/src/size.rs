//! Sizes in bytes as people write and read them.
//!
//! Every unit is a power of 1024, with or without the `i` (`1M` = `1MB` = `1MiB` = 1,048,576 bytes), as restic takes
//! `--exclude-larger-than`; so a limit moved over from there means the same. What we print says `KiB`, `MiB`, so that no
//! reader has to guess.

use crate::ParseError;
use crate::error::quoted;

const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
const WHAT: &str = "a size";

/// Reads a size: a number, at will with a decimal fraction, and at will a unit `B`, `K`, `M`, `G`, `T`, `P` or `E` (any case,
/// also as `KB` or `KiB`, a space before it allowed). Units are powers of 1024. Returns bytes; what is left of a fraction
/// below one byte is dropped.
///
/// # Errors
/// An empty text, no number, an unknown unit, a negative number, or more than `u64::MAX` bytes.
///
/// ```
/// # use keepwatch_model::size::parse_size;
/// assert_eq!(parse_size("10M"), Ok(10 * 1024 * 1024));
/// assert_eq!(parse_size("1.5 GiB"), Ok(1_610_612_736));
/// ```
pub fn parse_size(text: &str) -> Result<u64, ParseError> {
    let fail = |why: String| ParseError::new(WHAT, text, why);
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return Err(fail("it is empty, write for example 10M or 1.5GiB".into()));
    }
    if trimmed.starts_with('-') {
        return Err(fail("it is negative".into()));
    }
    let Some((number, unit)) = Number::take(trimmed) else {
        return Err(fail(
            "it does not start with a number, write for example 10M or 1.5GiB".into(),
        ));
    };
    let unit = unit.trim_start();
    let power = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        "p" | "pb" | "pib" => 5,
        "e" | "eb" | "eib" => 6,
        _ => {
            return Err(fail(format!(
                "unknown unit {}, use B, K, M, G, T, P or E",
                quoted(unit)
            )));
        }
    };
    number
        .times(1u128 << (10 * power))
        .and_then(|bytes| u64::try_from(bytes).ok())
        .ok_or_else(|| fail("it is larger than 16 EiB".into()))
}

/// Prints bytes with one decimal in the largest fitting unit of powers of 1024: `0 B`, `999 B`, `1.2 MiB`, `16.0 EiB`.
/// Rounded half up; never `1024.0 KiB`.
pub fn human_bytes(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut name = UNITS[0];
    let mut tenths = 0u128;
    for (power, unit) in UNITS.iter().enumerate().skip(1) {
        let size = 1u128 << (10 * power);
        name = unit;
        tenths = (u128::from(bytes) * 10 + size / 2) / size;
        if tenths < 10 * 1024 {
            break;
        }
    }
    format!("{}.{} {name}", tenths / 10, tenths % 10)
}

/// An unsigned decimal number with at most 18 digits of each part, kept exact.
pub(crate) struct Number {
    whole: u64,
    /// The digits after the point, as an integer.
    fraction: u64,
    /// 10 to the number of digits after the point.
    scale: u64,
}

impl Number {
    /// Takes a number off the front of `text` and returns it with the rest; `None` when there is none, when a point has no
    /// digit on one of its sides, or when it is too long to be meant.
    pub(crate) fn take(text: &str) -> Option<(Self, &str)> {
        let (whole, rest) = digits(text)?;
        let Some(after) = rest.strip_prefix('.') else {
            return Some((
                Self {
                    whole,
                    fraction: 0,
                    scale: 1,
                },
                rest,
            ));
        };
        let (fraction, rest) = digits(after)?;
        let count = after.len() - rest.len();
        let scale = 10u64.checked_pow(u32::try_from(count).ok()?)?;
        Some((
            Self {
                whole,
                fraction,
                scale,
            },
            rest,
        ))
    }

    /// The number times `unit`, rounded down; `None` on overflow.
    pub(crate) fn times(&self, unit: u128) -> Option<u128> {
        let whole = u128::from(self.whole).checked_mul(unit)?;
        let part = u128::from(self.fraction).checked_mul(unit)? / u128::from(self.scale);
        whole.checked_add(part)
    }

    /// The number when it has no fraction.
    pub(crate) fn integer(&self) -> Option<u64> {
        (self.fraction == 0).then_some(self.whole)
    }

    pub(crate) fn is_zero(&self) -> bool {
        self.whole == 0 && self.fraction == 0
    }
}

fn digits(text: &str) -> Option<(u64, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    // 20 digits are enough for u64::MAX, and u64 says which of them fit.
    let value = text.get(..end)?.parse().ok()?;
    Some((value, text.get(end..)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_as_people_write_them() {
        const K: u64 = 1024;
        for (text, bytes) in [
            ("0", 0),
            ("1000", 1000),
            ("1000b", 1000),
            ("512k", 512 * K),
            ("512KB", 512 * K),
            ("512 KiB", 512 * K),
            ("10M", 10 * K * K),
            (" 10m ", 10 * K * K),
            ("1.5GiB", 3 * K * K * K / 2),
            ("0.5k", 512),
            ("0.0001k", 0),
            ("2T", 2 * K.pow(4)),
            ("3p", 3 * K.pow(5)),
            ("15E", 15 * K.pow(6)),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn wrong_sizes_say_what_is_wrong() {
        for (text, message) in [
            (
                "",
                "\"\" is not a size: it is empty, write for example 10M or 1.5GiB",
            ),
            (
                "M",
                "\"M\" is not a size: it does not start with a number, write for example 10M or 1.5GiB",
            ),
            ("-1M", "\"-1M\" is not a size: it is negative"),
            (
                "10X",
                "\"10X\" is not a size: unknown unit \"X\", use B, K, M, G, T, P or E",
            ),
            (
                "1.5.5M",
                "\"1.5.5M\" is not a size: unknown unit \".5M\", use B, K, M, G, T, P or E",
            ),
            ("16E", "\"16E\" is not a size: it is larger than 16 EiB"),
            (
                "18446744073709551615E",
                "\"18446744073709551615E\" is not a size: it is larger than 16 EiB",
            ),
        ] {
            assert_eq!(
                parse_size(text).map_err(|e| e.to_string()),
                Err(message.to_owned()),
                "{text}"
            );
        }
        for text in [
            "1.",
            ".5M",
            "99999999999999999999999",
            "1e9",
            "0x10",
            "١٢",
            "1,5M",
            "1M 2K",
        ] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn bytes_for_people() {
        for (bytes, text) in [
            (0, "0 B"),
            (1, "1 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_258_291, "1.2 MiB"),
            (1_048_575, "1.0 MiB"),
            (1_048_524, "1023.9 KiB"),
            (1_048_525, "1.0 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(human_bytes(bytes), text, "{bytes}");
        }
    }

    proptest! {
        #[test]
        fn parse_size_never_panics(text in any::<String>()) {
            let _ = parse_size(&text);
        }

        #[test]
        fn number_shaped_text_never_panics(text in "[-0-9.]{0,30} ?[a-zA-Z]{0,4}") {
            let _ = parse_size(&text);
        }

        #[test]
        fn plain_bytes_come_back(bytes in any::<u64>()) {
            prop_assert_eq!(parse_size(&bytes.to_string()), Ok(bytes));
        }

        #[test]
        fn what_is_printed_reads_back_within_one_twentieth_of_a_unit(bytes in any::<u64>()) {
            // 16.0 EiB is one byte too many for u64.
            if let Ok(back) = parse_size(&human_bytes(bytes)) {
                let difference = back.abs_diff(bytes);
                prop_assert!(u128::from(difference) * 20 <= u128::from(bytes) + 20, "{bytes} became {back}");
            } else {
                prop_assert_eq!(human_bytes(bytes), "16.0 EiB");
            }
        }
    }
}

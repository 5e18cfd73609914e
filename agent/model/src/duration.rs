//! Lengths of time: exact ones in seconds ([`parse_duration`], [`human_duration`]) and calendar ones ([`CalendarSpan`]).
//!
//! They are two things because they differ: `30d` of seconds is a fixed length, one calendar month is not. Beware of `m`: it
//! means minutes in a duration, and months in a calendar span, because restic's `--keep-within 1y5m7d2h` does so and a policy
//! moved over from there must keep its meaning.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer};
use serde::{Serialize, Serializer};

use crate::ParseError;
use crate::error::quoted;
use crate::size::Number;

const NS_PER_S: u128 = 1_000_000_000;
/// The longest duration that [`parse_duration`] takes: 1000 years of 365 days. It leaves room to add the result to any clock.
pub const LONGEST: Duration = Duration::from_secs(1000 * 365 * 86_400);

/// Reads a duration: numbers with a unit, `ms`, `s`, `m` or `min`, `h`, `d` (24 h) or `w` (7 d), largest first and each at
/// most once: `90s`, `2h30m`, `1.5h`, `7d`. Words are understood (`3 days`), and spaces are allowed. `0` needs no unit.
///
/// # Errors
/// An empty text, a number without a unit, an unknown unit, units out of order, a negative number, or more than [`LONGEST`].
///
/// ```
/// # use keepwatch_model::duration::parse_duration;
/// # use std::time::Duration;
/// assert_eq!(parse_duration("2h30m"), Ok(Duration::from_secs(9000)));
/// ```
pub fn parse_duration(text: &str) -> Result<Duration, ParseError> {
    const WHAT: &str = "a duration";
    let fail = |why: String| ParseError::new(WHAT, text, why);
    let mut nanos = 0u128;
    let mut smallest = u128::MAX;
    for part in parts(text) {
        let (number, unit) = part.map_err(fail)?;
        if unit.is_empty() && number.is_zero() && smallest == u128::MAX {
            smallest = 0;
            continue;
        }
        let size =
            exact_unit(unit).ok_or_else(|| fail(unknown_unit(unit, "ms, s, m, h, d or w")))?;
        if size >= smallest {
            return Err(fail(
                "its units must go from large to small, each at most once".into(),
            ));
        }
        smallest = size;
        nanos = number
            .times(size)
            .and_then(|part| nanos.checked_add(part))
            .filter(|sum| *sum <= LONGEST.as_nanos())
            .ok_or_else(|| fail("it is longer than 1000 years".into()))?;
    }
    if smallest == u128::MAX {
        return Err(fail(
            "it is empty, write for example 90s, 2h30m or 7d".into(),
        ));
    }
    // Both fit: nanos is bounded by LONGEST.
    let seconds = u64::try_from(nanos / NS_PER_S).unwrap_or(LONGEST.as_secs());
    let rest = u32::try_from(nanos % NS_PER_S).unwrap_or(0);
    Ok(Duration::new(seconds, rest))
}

/// Prints a duration for people, in at most two units, rounded half up: `0 s`, `850 ms`, `1.2 s`, `3 min 20 s`, `2 h 5 min`,
/// `3 d 4 h`. What is below half a millisecond but not zero prints as `< 1 ms`.
pub fn human_duration(duration: Duration) -> String {
    // Rounds to whole steps of the given nanoseconds.
    let round = |step: u128| (duration.as_nanos() + step / 2) / step;
    let millis = round(1_000_000);
    let tenths = round(NS_PER_S / 10);
    let seconds = round(NS_PER_S);
    let minutes = round(60 * NS_PER_S);
    let hours = round(3600 * NS_PER_S);
    if duration.is_zero() {
        "0 s".to_owned()
    } else if millis == 0 {
        "< 1 ms".to_owned()
    } else if millis < 1000 {
        format!("{millis} ms")
    } else if tenths < 600 && tenths % 10 != 0 {
        format!("{}.{} s", tenths / 10, tenths % 10)
    } else if tenths < 600 {
        format!("{} s", tenths / 10)
    } else if seconds < 3600 {
        two(seconds, 60, "min", "s")
    } else if minutes < 24 * 60 {
        two(minutes, 60, "h", "min")
    } else {
        two(hours, 24, "d", "h")
    }
}

fn two(count: u128, per: u128, large: &str, small: &str) -> String {
    match count % per {
        0 => format!("{} {large}", count / per),
        rest => format!("{} {large} {rest} {small}", count / per),
    }
}

/// The unit's length in nanoseconds, when it has a fixed one.
pub(crate) fn exact_unit(unit: &str) -> Option<u128> {
    Some(match unit {
        "ms" | "millisecond" | "milliseconds" => NS_PER_S / 1000,
        "s" | "sec" | "secs" | "second" | "seconds" => NS_PER_S,
        "m" | "min" | "mins" | "minute" | "minutes" => 60 * NS_PER_S,
        "h" | "hr" | "hrs" | "hour" | "hours" => 3600 * NS_PER_S,
        "d" | "day" | "days" => 86_400 * NS_PER_S,
        "w" | "week" | "weeks" => 7 * 86_400 * NS_PER_S,
        _ => return None,
    })
}

/// Splits `2h 30 min` into numbers and the words behind them, which may be empty.
pub(crate) fn parts(text: &str) -> impl Iterator<Item = Result<(Number, &str), String>> {
    let mut rest = text.trim();
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        if rest.starts_with('-') {
            rest = "";
            return Some(Err("it is negative".to_owned()));
        }
        let Some((number, after)) = Number::take(rest) else {
            let message = format!("a number was expected at {}", quoted(rest));
            rest = "";
            return Some(Err(message));
        };
        let after = after.trim_start();
        let end = after
            .find(|c: char| !c.is_alphabetic())
            .unwrap_or(after.len());
        let (unit, next) = after.split_at(end);
        rest = next.trim_start();
        Some(Ok((number, unit)))
    })
}

pub(crate) fn unknown_unit(unit: &str, known: &str) -> String {
    if unit.is_empty() {
        format!("a number has no unit, use {known}")
    } else {
        format!("unknown unit {}, use {known}", quoted(unit))
    }
}

/// A span of the calendar, in the form of restic's `--keep-within`: `1y5m7d2h`, where `m` is months.
///
/// How long it is depends on where it is measured from; [`crate::retention`] says how it does so. All zero means "off".
/// Serde: the text form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CalendarSpan {
    /// Calendar years.
    pub years: u32,
    /// Calendar months.
    pub months: u32,
    /// Days of the calendar; where a zone with a fixed offset is used, as here, also 24 hours.
    pub days: u32,
    /// Hours of 3600 seconds.
    pub hours: u32,
}

impl CalendarSpan {
    /// Whether all parts are zero: the rule that it belongs to is off.
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }
}

impl FromStr for CalendarSpan {
    type Err = ParseError;

    /// Reads `1y5m7d2h`: whole numbers with the units `y`, `m` (months), `d`, `h`, in any order.
    ///
    /// Stricter than restic in two points, because both are slips that would delete: an empty text and a unit written twice
    /// are errors (restic: no rule, and the last one wins).
    ///
    /// # Errors
    /// As above, and an unknown unit, a fraction, a negative number, or a number above 4,294,967,295.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let fail = |why: String| ParseError::new("a calendar span", text, why);
        let mut span = Self::default();
        let mut seen = String::new();
        for part in parts(text) {
            let (number, unit) = part.map_err(fail)?;
            let slot = match unit {
                "y" => &mut span.years,
                "m" => &mut span.months,
                "d" => &mut span.days,
                "h" => &mut span.hours,
                "w" => return Err(fail("it has no weeks, write 7d for each".into())),
                _ => return Err(fail(unknown_unit(unit, "y, m (months), d or h"))),
            };
            if seen.contains(unit) {
                return Err(fail(format!("the unit {unit} is written twice")));
            }
            seen.push_str(unit);
            *slot = number
                .integer()
                .and_then(|n| u32::try_from(n).ok())
                .ok_or_else(|| fail("its numbers must be whole and below 4294967296".into()))?;
        }
        if seen.is_empty() {
            return Err(fail("it is empty, write for example 7d or 1y5m7d2h".into()));
        }
        Ok(span)
    }
}

impl fmt::Display for CalendarSpan {
    /// The form that restic prints, without the parts that are zero; `0h` when all are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, unit) in [
            (self.years, 'y'),
            (self.months, 'm'),
            (self.days, 'd'),
            (self.hours, 'h'),
        ] {
            if number != 0 {
                write!(f, "{number}{unit}")?;
            }
        }
        if self.is_zero() {
            f.write_str("0h")
        } else {
            Ok(())
        }
    }
}

impl Serialize for CalendarSpan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CalendarSpan {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn span(years: u32, months: u32, days: u32, hours: u32) -> CalendarSpan {
        CalendarSpan {
            years,
            months,
            days,
            hours,
        }
    }

    #[test]
    fn durations_as_people_write_them() {
        for (text, millis) in [
            ("0", 0),
            ("0s", 0),
            ("24h", 86_400_000),
            ("90s", 90_000),
            ("7d", 604_800_000),
            ("2h30m", 9_000_000),
            (" 2 h 30 min ", 9_000_000),
            ("2 hours 30 minutes", 9_000_000),
            ("1w", 604_800_000),
            ("1w2d3h4m5s6ms", 788_645_006),
            ("1.5h", 5_400_000),
            ("250ms", 250),
            ("0.25s", 250),
            ("365000d", 31_536_000_000_000),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(millis)),
                "{text}"
            );
        }
    }

    #[test]
    fn wrong_durations_say_what_is_wrong() {
        for (text, why) in [
            ("", "it is empty, write for example 90s, 2h30m or 7d"),
            ("   ", "it is empty, write for example 90s, 2h30m or 7d"),
            ("90", "a number has no unit, use ms, s, m, h, d or w"),
            ("-5s", "it is negative"),
            ("5y", "unknown unit \"y\", use ms, s, m, h, d or w"),
            ("h", "a number was expected at \"h\""),
            (
                "2h2h",
                "its units must go from large to small, each at most once",
            ),
            (
                "30m2h",
                "its units must go from large to small, each at most once",
            ),
            (
                "0 5s",
                "its units must go from large to small, each at most once",
            ),
            ("5s 0", "a number has no unit, use ms, s, m, h, d or w"),
            ("365001d", "it is longer than 1000 years"),
            ("18446744073709551615w", "it is longer than 1000 years"),
            ("1s,2", "a number was expected at \",2\""),
        ] {
            let message = parse_duration(text).map_err(|e| e.to_string());
            assert_eq!(
                message,
                Err(format!("{} is not a duration: {why}", quoted(text))),
                "{text}"
            );
        }
        for text in [
            "99999999999999999999999s",
            "1.s",
            "1e3s",
            "+5s",
            "1:30",
            "∞",
            "5µs",
            "NaN",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_for_people() {
        for (nanos, text) in [
            (0, "0 s"),
            (1, "< 1 ms"),
            (499_999, "< 1 ms"),
            (500_000, "1 ms"),
            (850_000_000, "850 ms"),
            (999_499_999, "999 ms"),
            (999_500_000, "1 s"),
            (1_200_000_000, "1.2 s"),
            (45_000_000_000, "45 s"),
            (59_940_000_000, "59.9 s"),
            (59_950_000_000, "1 min"),
            (200_000_000_000, "3 min 20 s"),
            (3_599_499_999_999, "59 min 59 s"),
            (3_599_500_000_000, "1 h"),
            (7_500_000_000_000, "2 h 5 min"),
            (86_399_000_000_000, "1 d"),
            (273_600_000_000_000, "3 d 4 h"),
        ] {
            assert_eq!(human_duration(Duration::from_nanos(nanos)), text, "{nanos}");
        }
        assert_eq!(human_duration(Duration::MAX), "213503982334601 d 7 h");
    }

    #[test]
    fn spans_in_the_form_of_restic() {
        for (text, value, back) in [
            ("1y5m7d2h", span(1, 5, 7, 2), "1y5m7d2h"),
            ("2h1y", span(1, 0, 0, 2), "1y2h"),
            (" 30d ", span(0, 0, 30, 0), "30d"),
            ("0h", span(0, 0, 0, 0), "0h"),
            ("0d0y", span(0, 0, 0, 0), "0h"),
            ("4294967295y", span(u32::MAX, 0, 0, 0), "4294967295y"),
        ] {
            assert_eq!(text.parse(), Ok(value), "{text}");
            assert_eq!(value.to_string(), back);
            assert_eq!(serde_json::to_value(value).ok(), Some(back.into()));
        }
    }

    #[test]
    fn wrong_spans_say_what_is_wrong() {
        for (text, why) in [
            ("", "it is empty, write for example 7d or 1y5m7d2h"),
            ("7", "a number has no unit, use y, m (months), d or h"),
            ("2w", "it has no weeks, write 7d for each"),
            ("1d2d", "the unit d is written twice"),
            ("1s", "unknown unit \"s\", use y, m (months), d or h"),
            ("1Y", "unknown unit \"Y\", use y, m (months), d or h"),
            ("-1d", "it is negative"),
            ("1.5d", "its numbers must be whole and below 4294967296"),
            (
                "4294967296d",
                "its numbers must be whole and below 4294967296",
            ),
        ] {
            let message = text.parse::<CalendarSpan>().map_err(|e| e.to_string());
            assert_eq!(
                message,
                Err(format!("{} is not a calendar span: {why}", quoted(text))),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn parsers_never_panic(text in any::<String>()) {
            let _ = parse_duration(&text);
            let _ = text.parse::<CalendarSpan>();
        }

        #[test]
        fn number_shaped_text_never_panics(text in "([-0-9.]{0,25} ?[a-zµ]{0,3}){0,4}") {
            let _ = parse_duration(&text);
            let _ = text.parse::<CalendarSpan>();
        }

        #[test]
        fn spans_come_back(years: u32, months: u32, days: u32, hours: u32) {
            let value = span(years, months, days, hours);
            prop_assert_eq!(value.to_string().parse(), Ok(value));
        }

        #[test]
        fn milliseconds_come_back(millis in 0..=31_536_000_000_000u64) {
            prop_assert_eq!(parse_duration(&format!("{millis}ms")), Ok(Duration::from_millis(millis)));
        }

        /// What is printed reads back within half of its smaller unit.
        #[test]
        fn human_durations_come_back_roughly(millis in 1..=31_536_000_000u64) {
            let duration = Duration::from_millis(millis);
            let text = human_duration(duration);
            let back = parse_duration(&text);
            prop_assert!(back.is_ok(), "{text}");
            let step = match () {
                _ if millis < 60_000 => 100,
                _ if text.ends_with(" s") => 1000,
                _ if millis < 3_600_000 => 1000,
                _ if millis < 86_400_000 => 60_000,
                _ => 3_600_000,
            };
            let difference = back.unwrap_or_default().abs_diff(duration);
            prop_assert!(difference <= Duration::from_millis(step / 2), "{text} for {duration:?}");
        }
    }
}

//! Instants that remember the UTC offset of the host, and times as people write them.
//!
//! Retention sorts snapshots into days, weeks and months, and a day means a day at the host that was backed up. So a
//! [`Moment`] carries the offset from UTC that held there and then (as restic records it), not a zone: no time zone database
//! is needed to judge an old snapshot, on any machine, with the same result.
//!
//! The text form is RFC 3339 with nanoseconds, `2026-11-22T04:20:24.000000000+01:00`; its limits (years 0000 to 9999, offsets
//! of whole minutes below 24 hours) are the limits of the type, so that every moment can be written and read back.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::Offset;
use jiff::{Span, Timestamp};
use serde::de::{self, Deserialize, Deserializer};
use serde::{Serialize, Serializer};

use crate::ParseError;
use crate::duration::{exact_unit, parts, unknown_unit};

const WHAT: &str = "a time";
/// 0000-01-02T00:00:00Z, so that the local date is in year 0000 with every offset. The other end is jiff's own.
const FIRST_SECOND: i64 = -62_167_132_800;
/// 23:59.
const MAX_OFFSET_MINUTES: i32 = 23 * 60 + 59;
const FORMS: &str =
    "write 2026-11-22, \"2026-11-22 04:20\", RFC 3339, \"2h ago\", \"yesterday\" or \"now\"";

/// An instant to the nanosecond, with the UTC offset of the host at that instant.
///
/// Compared, ordered and hashed by the instant alone: `05:00+01:00` equals `04:00Z`. Serde: the text of [`fmt::Display`].
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    at: Timestamp,
    offset: Offset,
}

impl Moment {
    /// A moment from a clock's reading and the host's offset.
    ///
    /// Never fails, because a backup must not: what RFC 3339 cannot write is brought into its limits. Seconds of the offset
    /// are dropped (only zones before 1972 have them), an offset of a day or more becomes 23:59, and an instant before
    /// 0000-01-02 becomes that.
    pub fn new(at: Timestamp, offset: Offset) -> Self {
        let minutes = (offset.seconds() / 60).clamp(-MAX_OFFSET_MINUTES, MAX_OFFSET_MINUTES);
        Self {
            at: Timestamp::from_second(FIRST_SECOND).map_or(at, |first| at.max(first)),
            offset: Offset::from_seconds(minutes * 60).unwrap_or(Offset::UTC),
        }
    }

    /// A moment from stored numbers: seconds since 1970-01-01T00:00:00Z (rounded down, so negative before it), nanoseconds
    /// after that second, and seconds that the host's clock was ahead of UTC.
    ///
    /// # Errors
    /// Nanoseconds of a second or more, an instant before 0000-01-02T00:00:00Z or after 9999-12-30T22:00:00Z, and an offset
    /// that is not of whole minutes or reaches 24 hours.
    pub fn from_parts(secs: i64, nanos: u32, offset_secs: i32) -> Result<Self, ParseError> {
        let fail = |why: &str| {
            ParseError::new(
                WHAT,
                &format!("{secs} s, {nanos} ns, offset {offset_secs} s"),
                why,
            )
        };
        let nanos = i32::try_from(nanos).ok().filter(|n| *n < 1_000_000_000);
        let nanos = nanos.ok_or_else(|| fail("it has a second or more of nanoseconds"))?;
        let at = Timestamp::new(secs, nanos)
            .ok()
            .filter(|_| secs >= FIRST_SECOND);
        let at = at.ok_or_else(|| fail("it is outside the years 0000 to 9999"))?;
        if offset_secs % 60 != 0 || (offset_secs / 60).abs() > MAX_OFFSET_MINUTES {
            return Err(fail("its offset is not of whole minutes below 24 hours"));
        }
        let offset =
            Offset::from_seconds(offset_secs).map_err(|_| fail("its offset is out of range"))?;
        Ok(Self { at, offset })
    }

    /// The instant.
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// The offset of the host's clock from UTC.
    pub fn offset(&self) -> Offset {
        self.offset
    }

    /// The offset in seconds, positive east of Greenwich; always whole minutes.
    pub fn offset_seconds(&self) -> i32 {
        self.offset.seconds()
    }

    /// Seconds since 1970-01-01T00:00:00Z, rounded down; with [`Self::subsec_nanos`] what [`Self::from_parts`] takes.
    pub fn unix_seconds(&self) -> i64 {
        // jiff rounds towards zero.
        self.at.as_second() - i64::from(self.at.subsec_nanosecond() < 0)
    }

    /// Nanoseconds after [`Self::unix_seconds`], below 1,000,000,000.
    pub fn subsec_nanos(&self) -> u32 {
        u32::try_from(self.at.subsec_nanosecond().rem_euclid(1_000_000_000)).unwrap_or(0)
    }

    /// Nanoseconds since 1970-01-01T00:00:00Z.
    pub fn unix_nanos(&self) -> i128 {
        self.at.as_nanosecond()
    }

    /// What a calendar and a clock on the wall of the host showed.
    pub fn civil(&self) -> DateTime {
        self.offset.to_datetime(self.at)
    }

    /// For tables: `2026-11-22 04:20:24`, by the host's clock, without the offset.
    pub fn short(&self) -> String {
        let c = self.civil();
        let (date, time) = (c.date(), c.time());
        format!(
            "{date} {:02}:{:02}:{:02}",
            time.hour(),
            time.minute(),
            time.second()
        )
    }

    fn from_civil(civil: DateTime, offset: Offset) -> Option<Self> {
        let at = offset.to_timestamp(civil).ok()?;
        (at.as_second() >= FIRST_SECOND).then_some(Self { at, offset })
    }
}

impl PartialEq for Moment {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Moment {}

impl PartialOrd for Moment {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Moment {
    fn cmp(&self, other: &Self) -> Ordering {
        self.at.cmp(&other.at)
    }
}

impl Hash for Moment {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.at.hash(state);
    }
}

impl fmt::Display for Moment {
    /// RFC 3339 with nine digits of the second, `2026-11-22T04:20:24.000000000+01:00`; UTC as `+00:00`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = self.civil();
        let (date, time) = (c.date(), c.time());
        let minutes = self.offset.seconds() / 60;
        write!(
            f,
            "{date}T{:02}:{:02}:{:02}.{:09}{}{:02}:{:02}",
            time.hour(),
            time.minute(),
            time.second(),
            time.subsec_nanosecond(),
            if minutes < 0 { '-' } else { '+' },
            minutes.abs() / 60,
            minutes.abs() % 60
        )
    }
}

impl FromStr for Moment {
    type Err = ParseError;

    /// Reads RFC 3339 with date, time and offset; the second may have up to nine decimals. A leap second (`:60`) reads as the
    /// second before it.
    ///
    /// # Errors
    /// Any other text, and what is outside the limits of the type. For times as people write them see [`parse_when`].
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let fail = |why: &str| ParseError::new(WHAT, text, why);
        let written = Written::parse(text).map_err(fail)?;
        match written.time.zip(written.offset) {
            Some((time, offset)) => Self::from_civil(written.date.to_datetime(time), offset)
                .ok_or_else(|| fail("it is outside the years 0000 to 9999")),
            None => Err(fail(
                "it lacks the time of day or the offset from UTC (RFC 3339, 2026-11-22T04:20:24+01:00)",
            )),
        }
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

/// Reads a time as people write it; what is missing is taken from `now`, and the result carries the offset that was written or
/// else that of `now`.
///
/// | text | means |
/// |---|---|
/// | `2026-11-22T04:20:24.5+01:00`, `…Z` | RFC 3339, also with a space for the `T` and without the seconds |
/// | `2026-11-22 04:20`, `2026-11-22T04:20:24` | the same by the clock of `now` |
/// | `2026-11-22`, `today`, `yesterday` | when that day began by the clock of `now` |
/// | `today 14:00`, `yesterday 14:00` | that day at that time |
/// | `2h ago`, `2h30m ago`, `3 days ago`, `a week ago` | so much before `now`; units `ms`, `s`, `m` (minutes), `h`, `d`, `w`, or as words |
/// | `2 months ago`, `1 year ago`, `1y ago` | by the calendar; a day that the month lacks becomes its last |
/// | `now` | `now` |
///
/// Upper and lower case are the same.
///
/// # Errors
/// Any other text, a date or time that does not exist, and what is outside the years 0000 to 9999.
pub fn parse_when(text: &str, now: Moment) -> Result<Moment, ParseError> {
    let fail = |why: String| ParseError::new(WHAT, text, why);
    let range = || fail("it is outside the years 0000 to 9999".into());
    let lower = text.trim().to_ascii_lowercase();
    if lower == "now" {
        return Ok(now);
    }
    if let Some(amount) = lower.strip_suffix("ago") {
        return before(amount, now).map_err(fail);
    }
    for (word, days) in [("today", 0), ("yesterday", 1)] {
        if let Some(rest) = lower.strip_prefix(word) {
            let time = match rest.trim() {
                "" => Time::midnight(),
                clock => Scan(clock.as_bytes())
                    .clock_to_end()
                    .map_err(|why| fail(why.into()))?,
            };
            let date = now
                .civil()
                .date()
                .checked_sub(Span::new().days(days))
                .map_err(|_| range())?;
            return Moment::from_civil(date.to_datetime(time), now.offset).ok_or_else(range);
        }
    }
    if !lower.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(fail(FORMS.into()));
    }
    let written = Written::parse(&lower).map_err(|why| fail(why.into()))?;
    let civil = written
        .date
        .to_datetime(written.time.unwrap_or(Time::midnight()));
    Moment::from_civil(civil, written.offset.unwrap_or(now.offset)).ok_or_else(range)
}

/// `now` less an amount such as `2h30m` or `3 days`.
fn before(amount: &str, now: Moment) -> Result<Moment, String> {
    const UNITS: &str = "s, m (minutes), h, d, w, months or years";
    const RANGE: &str = "it is outside the years 0000 to 9999";
    let amount = amount.trim();
    let one = ["a ", "an "]
        .iter()
        .find_map(|article| amount.strip_prefix(article));
    let counted = one.map(|unit| format!("1 {unit}"));
    let mut months = 0u64;
    let mut nanos = 0i128;
    let mut found = false;
    for part in parts(counted.as_deref().unwrap_or(amount)) {
        let (number, unit) = part?;
        found = true;
        let calendar = match unit {
            "y" | "yr" | "year" | "years" => Some(12),
            "mo" | "month" | "months" => Some(1),
            _ => None,
        };
        if let Some(per) = calendar {
            let count = number.integer().ok_or("months and years must be whole")?;
            months = count
                .checked_mul(per)
                .and_then(|m| months.checked_add(m))
                .ok_or(RANGE)?;
        } else {
            let size = exact_unit(unit).ok_or_else(|| unknown_unit(unit, UNITS))?;
            let part = number
                .times(size)
                .and_then(|n| i128::try_from(n).ok())
                .ok_or(RANGE)?;
            nanos = nanos.checked_add(part).ok_or(RANGE)?;
        }
    }
    if !found {
        return Err("it does not say how long ago, write for example \"2h ago\"".to_owned());
    }
    let shifted = i32::try_from(months)
        .ok()
        .and_then(|m| Span::new().try_months(m).ok())
        .and_then(|span| now.civil().checked_sub(span).ok())
        .and_then(|civil| Moment::from_civil(civil, now.offset))
        .ok_or(RANGE)?;
    shifted
        .unix_nanos()
        .checked_sub(nanos)
        .and_then(|n| Timestamp::from_nanosecond(n).ok())
        .filter(|at| at.as_second() >= FIRST_SECOND)
        .map(|at| Moment {
            at,
            offset: now.offset,
        })
        .ok_or_else(|| RANGE.to_owned())
}

/// The parts of RFC 3339 that were written.
struct Written {
    date: Date,
    time: Option<Time>,
    offset: Option<Offset>,
}

impl Written {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let mut scan = Scan(text.as_bytes());
        let date = scan.date()?;
        let mut written = Self {
            date,
            time: None,
            offset: None,
        };
        if scan.0.is_empty() {
            return Ok(written);
        }
        if !scan.skip(b"Tt ") {
            return Err("the date must be followed by a space or T and the time of day");
        }
        written.time = Some(scan.clock()?);
        if !scan.0.is_empty() {
            written.offset = Some(scan.offset()?);
        }
        scan.end()?;
        Ok(written)
    }
}

/// The bytes that are not read yet.
struct Scan<'a>(&'a [u8]);

impl Scan<'_> {
    /// Exactly `count` digits; `count` is at most 4.
    fn number(&mut self, count: usize) -> Option<i16> {
        let (digits, rest) = self.0.split_at_checked(count)?;
        let mut value = 0i16;
        for digit in digits {
            if !digit.is_ascii_digit() {
                return None;
            }
            value = value
                .checked_mul(10)?
                .checked_add(i16::from(digit - b'0'))?;
        }
        self.0 = rest;
        Some(value)
    }

    fn two(&mut self) -> Option<i8> {
        self.number(2).and_then(|n| i8::try_from(n).ok())
    }

    /// Skips one byte when it is one of `bytes`.
    fn skip(&mut self, bytes: &[u8]) -> bool {
        match self.0.split_first() {
            Some((first, rest)) if bytes.contains(first) => {
                self.0 = rest;
                true
            }
            _ => false,
        }
    }

    fn date(&mut self) -> Result<Date, &'static str> {
        let fields = (|| {
            let year = self.number(4)?;
            let month = self.skip(b"-").then(|| self.two())??;
            let day = self.skip(b"-").then(|| self.two())??;
            Some((year, month, day))
        })();
        let (year, month, day) = fields.ok_or(FORMS)?;
        Date::new(year, month, day).map_err(|_| "there is no such day in the calendar")
    }

    /// `HH:MM`, with `:SS` and up to nine decimals at will.
    fn clock(&mut self) -> Result<Time, &'static str> {
        const SHAPE: &str = "its time of day must be HH:MM, HH:MM:SS or HH:MM:SS.fraction";
        const NONE: &str = "there is no such time of day";
        let hour = self.two().ok_or(SHAPE)?;
        if !self.skip(b":") {
            return Err(SHAPE);
        }
        let minute = self.two().ok_or(SHAPE)?;
        let mut second = 0;
        let mut nanos = 0i32;
        if self.skip(b":") {
            second = self.two().ok_or(SHAPE)?;
            if self.skip(b".,") {
                let mut digits = 0;
                while let Some(digit) = self.number(1) {
                    digits += 1;
                    if digits > 9 {
                        return Err("it has more than nine decimals of the second");
                    }
                    nanos = nanos * 10 + i32::from(digit);
                }
                if digits == 0 {
                    return Err(SHAPE);
                }
                nanos *= 10i32.pow(9 - digits);
            }
        }
        if second == 60 {
            second = 59;
        }
        Time::new(hour, minute, second, nanos).map_err(|_| NONE)
    }

    fn clock_to_end(mut self) -> Result<Time, &'static str> {
        let time = self.clock()?;
        self.end()?;
        Ok(time)
    }

    /// `Z` or `±HH:MM`.
    fn offset(&mut self) -> Result<Offset, &'static str> {
        const SHAPE: &str = "its offset from UTC must be Z or such as +01:00";
        self.skip(b" ");
        if self.skip(b"Zz") {
            return Ok(Offset::UTC);
        }
        let sign = match (self.skip(b"+"), self.skip(b"-")) {
            (true, false) => 1,
            (false, true) => -1,
            _ => return Err(SHAPE),
        };
        let hours = i32::from(self.two().ok_or(SHAPE)?);
        if !self.skip(b":") {
            return Err(SHAPE);
        }
        let minutes = i32::from(self.two().ok_or(SHAPE)?);
        if hours > 23 || minutes > 59 {
            return Err(SHAPE);
        }
        Offset::from_seconds(sign * (hours * 60 + minutes) * 60).map_err(|_| SHAPE)
    }

    fn end(&self) -> Result<(), &'static str> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err("something follows the time")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn moment(text: &str) -> Moment {
        text.parse().expect(text)
    }

    fn now() -> Moment {
        moment("2026-11-22T04:20:24.5+01:00")
    }

    /// Compares the offset too.
    fn full(m: Moment) -> (i64, u32, i32) {
        (m.unix_seconds(), m.subsec_nanos(), m.offset_seconds())
    }

    #[test]
    fn display_is_rfc_3339_with_nanoseconds() {
        for (secs, nanos, offset, text, short) in [
            (
                0,
                0,
                0,
                "1970-01-01T00:00:00.000000000+00:00",
                "1970-01-01 00:00:00",
            ),
            (
                -1,
                999_999_999,
                0,
                "1969-12-31T23:59:59.999999999+00:00",
                "1969-12-31 23:59:59",
            ),
            (
                1_795_317_624,
                1,
                3600,
                "2026-11-22T04:20:24.000000001+01:00",
                "2026-11-22 04:20:24",
            ),
            (
                1_795_317_624,
                0,
                -12_600,
                "2026-11-21T23:50:24.000000000-03:30",
                "2026-11-21 23:50:24",
            ),
            (
                FIRST_SECOND,
                0,
                -86_340,
                "0000-01-01T00:01:00.000000000-23:59",
                "0000-01-01 00:01:00",
            ),
            (
                253_402_207_200,
                999_999_999,
                86_340,
                "9999-12-31T21:59:00.999999999+23:59",
                "9999-12-31 21:59:00",
            ),
        ] {
            let m = Moment::from_parts(secs, nanos, offset).expect(text);
            assert_eq!(m.to_string(), text);
            assert_eq!(m.short(), short);
            assert_eq!(full(moment(text)), (secs, nanos, offset));
            assert_eq!(serde_json::to_value(m).ok(), Some(text.into()));
        }
    }

    #[test]
    fn from_parts_refuses_what_cannot_be() {
        for (secs, nanos, offset) in [
            (0, 1_000_000_000, 0),
            (0, u32::MAX, 0),
            (i64::MAX, 0, 0),
            (i64::MIN, 0, 0),
            (FIRST_SECOND - 1, 0, 0),
            (253_402_207_201, 0, 0),
            (0, 0, 86_400),
            (0, 0, 61),
            (0, 0, i32::MIN),
            (0, 0, i32::MAX),
        ] {
            assert!(
                Moment::from_parts(secs, nanos, offset).is_err(),
                "{secs} {nanos} {offset}"
            );
        }
    }

    #[test]
    fn new_stays_within_rfc_3339() {
        let lmt = Offset::from_seconds(1172).expect("valid"); // Amsterdam before 1937: +00:19:32
        assert_eq!(
            Moment::new(Timestamp::UNIX_EPOCH, lmt).to_string(),
            "1970-01-01T00:19:00.000000000+00:19"
        );
        let early = Moment::new(Timestamp::MIN, Offset::MIN);
        assert_eq!(early.to_string(), "0000-01-01T00:01:00.000000000-23:59");
        let late = Moment::new(Timestamp::MAX, Offset::MAX);
        assert_eq!(late.to_string(), "9999-12-31T21:59:00.999999999+23:59");
    }

    #[test]
    fn order_is_by_instant() {
        assert_eq!(
            moment("2026-11-22T05:00:00+01:00"),
            moment("2026-11-22T04:00:00Z")
        );
        assert!(moment("2026-11-22T05:00:00+02:00") < moment("2026-11-22T04:00:00Z"));
    }

    #[test]
    fn stored_times_are_strict() {
        for text in [
            "2026-11-22T04:20:24Z",
            "2026-11-22t04:20:24.123z",
            "2026-11-22 04:20:24+01:00",
        ] {
            assert!(text.parse::<Moment>().is_ok(), "{text}");
        }
        for text in [
            "2026-11-22",
            "2026-11-22T04:20:24",
            "now",
            "2026-11-22T04:20:24+24:00",
            "2026-11-22T04:20:24+01:60",
            "2026-11-22T04:20:24+0100",
            "2026-11-22T04:20:24+01:00:00",
            "2026-11-22T04:20:24Z[UTC]",
            "2026-11-22T04:20:24.1234567890Z",
            "2026-11-22T04:20:24.Z",
            "+2026-11-22T04:20:24Z",
            "12026-11-22T04:20:24Z",
            "9999-12-31T23:59:59Z",
            "0000-01-01T00:00:00Z",
        ] {
            assert!(text.parse::<Moment>().is_err(), "{text}");
            assert!(
                serde_json::from_value::<Moment>(text.into()).is_err(),
                "{text}"
            );
        }
        assert_eq!(
            moment("2016-12-31T23:59:60Z"),
            moment("2016-12-31T23:59:59Z")
        );
    }

    #[test]
    fn times_as_people_write_them() {
        for (text, want) in [
            ("now", "2026-11-22T04:20:24.5+01:00"),
            (" NOW ", "2026-11-22T04:20:24.5+01:00"),
            ("today", "2026-11-22T00:00:00+01:00"),
            ("yesterday", "2026-11-21T00:00:00+01:00"),
            ("Yesterday 14:30", "2026-11-21T14:30:00+01:00"),
            ("2026-11-20", "2026-11-20T00:00:00+01:00"),
            ("2026-11-20 14:30", "2026-11-20T14:30:00+01:00"),
            ("2026-11-20T14:30:15", "2026-11-20T14:30:15+01:00"),
            ("2026-11-20T14:30:15.25", "2026-11-20T14:30:15.25+01:00"),
            ("2026-11-20 14:30Z", "2026-11-20T14:30:00+00:00"),
            ("2026-11-20 14:30 -08:00", "2026-11-20T14:30:00-08:00"),
            (
                "2026-11-20T14:30:15.000000001+05:45",
                "2026-11-20T14:30:15.000000001+05:45",
            ),
            ("2h ago", "2026-11-22T02:20:24.5+01:00"),
            ("2h30m ago", "2026-11-22T01:50:24.5+01:00"),
            ("2 h 30 min ago", "2026-11-22T01:50:24.5+01:00"),
            ("3 days ago", "2026-11-19T04:20:24.5+01:00"),
            ("0s ago", "2026-11-22T04:20:24.5+01:00"),
            ("500ms ago", "2026-11-22T04:20:24+01:00"),
            ("1.5h ago", "2026-11-22T02:50:24.5+01:00"),
            ("a week ago", "2026-11-15T04:20:24.5+01:00"),
            ("an hour ago", "2026-11-22T03:20:24.5+01:00"),
            ("2 months ago", "2026-09-22T04:20:24.5+01:00"),
            ("9 months ago", "2026-02-22T04:20:24.5+01:00"),
            ("1y ago", "2025-11-22T04:20:24.5+01:00"),
            ("1 year 1 month 1 day ago", "2025-10-21T04:20:24.5+01:00"),
            ("2000 years ago", "0026-11-22T04:20:24.5+01:00"),
        ] {
            let got = parse_when(text, now()).map(full).map_err(|e| e.to_string());
            assert_eq!(got, Ok(full(moment(want))), "{text}");
        }
        let last_of_march = moment("2024-03-31T12:00:00Z");
        let got = parse_when("1 month ago", last_of_march).map(full);
        assert_eq!(got, Ok(full(moment("2024-02-29T12:00:00Z"))));
    }

    #[test]
    fn wrong_times_say_what_is_wrong() {
        for (text, why) in [
            ("", FORMS),
            ("soon", FORMS),
            ("22.11.2026", FORMS),
            ("2026-02-30", "there is no such day in the calendar"),
            ("2026-13-01", "there is no such day in the calendar"),
            ("2026-11-22 24:00", "there is no such time of day"),
            (
                "2026-11-22 4:20",
                "its time of day must be HH:MM, HH:MM:SS or HH:MM:SS.fraction",
            ),
            (
                "2026-11-22x04:20",
                "the date must be followed by a space or T and the time of day",
            ),
            (
                "2026-11-22 04:20 CET",
                "its offset from UTC must be Z or such as +01:00",
            ),
            ("2026-11-22 04:20Zulu", "something follows the time"),
            (
                "yesterday noon",
                "its time of day must be HH:MM, HH:MM:SS or HH:MM:SS.fraction",
            ),
            (
                "ago",
                "it does not say how long ago, write for example \"2h ago\"",
            ),
            (
                "2 fortnights ago",
                "unknown unit \"fortnights\", use s, m (minutes), h, d, w, months or years",
            ),
            (
                "2 ago",
                "a number has no unit, use s, m (minutes), h, d, w, months or years",
            ),
            ("-2h ago", "it is negative"),
            ("1.5 months ago", "months and years must be whole"),
            ("9999 years ago", "it is outside the years 0000 to 9999"),
            (
                "18446744073709551615 years ago",
                "it is outside the years 0000 to 9999",
            ),
            (
                "18446744073709551615 weeks ago",
                "it is outside the years 0000 to 9999",
            ),
            ("0000-01-01", "it is outside the years 0000 to 9999"),
        ] {
            let got = parse_when(text, now()).map_err(|e| e.to_string());
            assert_eq!(
                got,
                Err(ParseError::new(WHAT, text, why).to_string()),
                "{text}"
            );
        }
        let first = Moment::new(Timestamp::MIN, Offset::UTC);
        for text in ["yesterday", "1s ago", "1 month ago"] {
            assert!(parse_when(text, first).is_err(), "{text}");
        }
    }

    fn any_moment() -> impl Strategy<Value = Moment> {
        (
            FIRST_SECOND..=253_402_207_200i64,
            0..1_000_000_000u32,
            -MAX_OFFSET_MINUTES..=MAX_OFFSET_MINUTES,
        )
            .prop_map(|(s, n, o)| Moment::from_parts(s, n, o * 60).expect("in range"))
    }

    proptest! {
        #[test]
        fn text_and_parts_come_back(m in any_moment()) {
            let text = m.to_string();
            prop_assert_eq!(text.parse().map(full), Ok(full(m)));
            prop_assert_eq!(parse_when(&text, now()).map(full), Ok(full(m)));
            prop_assert_eq!(serde_json::from_str::<Moment>(&format!("\"{text}\"")).ok().map(full), Some(full(m)));
            let (s, n, o) = full(m);
            prop_assert_eq!(Moment::from_parts(s, n, o).map(full), Ok((s, n, o)));
            prop_assert_eq!(full(Moment::new(m.at(), m.offset())), full(m));
            // An independent reader agrees.
            prop_assert_eq!(text.parse::<Timestamp>().ok(), Some(m.at()));
        }

        #[test]
        fn short_reads_back_to_the_second(m in any_moment()) {
            let back = parse_when(&m.short(), m);
            prop_assert_eq!(back.map(|b| b.unix_seconds()), Ok(m.unix_seconds()));
        }

        #[test]
        fn no_text_panics(text in any::<String>(), m in any_moment()) {
            let _ = parse_when(&text, m);
        }

        #[test]
        fn no_time_shaped_text_panics(
            text in "([0-9]{1,5}-[0-9]{1,3}-[0-9]{1,3}|today|yesterday)([T ][0-9:.+Z-]{0,25})?|([0-9.]{1,21} ?[a-z]{1,6} ?){0,3}ago",
            m in any_moment()
        ) {
            let _ = parse_when(&text, m);
            let _ = text.parse::<Moment>();
        }
    }
}

//! Calendar expressions of systemd (`systemd.time(7)`): when a maintenance window begins.
//!
//! ```text
//! [weekdays] [[year-]month-day] [hour:minute[:second]]
//!
//! Sun 03:00            Mon..Fri 22:30         *-*-01,15 04:00:00
//! *-*~1 12:00          2026-12-24 18:00       *:0/15              daily, weekly, monthly, …
//! ```
//!
//! A part is `*`, a number, a list `1,15`, a range `1..5`, with a step `0/15` or `1..20/5`; `~` counts days from the end of the
//! month. What systemd allows besides (time zones and fractions of seconds inside the expression) is refused with a hint; the
//! zone is a setting of its own, so that it is checked by itself.

use jiff::civil::{Date, DateTime, Time, Weekday};

/// The first and the last year that an expression can name, as in systemd.
const YEARS: (i16, i16) = (1970, 2199);
/// Parts of a list.
const PARTS_MAX: usize = 32;

/// A parsed expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calendar {
    text: String,
    /// Bit 0 is Monday.
    weekdays: u64,
    years: Vec<(i16, i16, i16)>,
    months: u64,
    days: u64,
    /// Bit n: the n-th day from the end, 1 is the last.
    days_from_end: u64,
    hours: u64,
    minutes: u64,
    seconds: u64,
}

impl Calendar {
    /// Reads an expression.
    ///
    /// # Errors
    /// A sentence that says which part is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let lower = text.trim().to_ascii_lowercase();
        let expanded = match lower.as_str() {
            "minutely" => "*:*:00",
            "hourly" => "*:00:00",
            "daily" => "00:00:00",
            "weekly" => "Mon 00:00:00",
            "monthly" => "*-*-01 00:00:00",
            "quarterly" => "*-01,04,07,10-01 00:00:00",
            "semiannually" => "*-01,07-01 00:00:00",
            "yearly" | "annually" => "*-01-01 00:00:00",
            _ => {
                return Self::read(&words).map(|c| Self {
                    text: words.join(" "),
                    ..c
                });
            }
        };
        let words: Vec<&str> = expanded.split(' ').collect();
        Self::read(&words).map(|c| Self { text: lower, ..c })
    }

    fn read(words: &[&str]) -> Result<Self, String> {
        let mut c = Self {
            text: String::new(),
            weekdays: 0x7f,
            years: vec![(YEARS.0, YEARS.1, 1)],
            months: span(1, 12, 1),
            days: span(1, 31, 1),
            days_from_end: 0,
            hours: 1,
            minutes: 1,
            seconds: 1,
        };
        // Weekdays, date, time: each at most once and in this order.
        let mut step = 0;
        for word in words {
            let kind = if word.contains(':') {
                3
            } else if word.starts_with(|ch: char| ch.is_ascii_alphabetic()) {
                1
            } else {
                2
            };
            if kind <= step {
                return Err(format!(
                    "{word:?} is out of place: weekdays, date and time come in this order, each once (a time zone is a setting of its own)"
                ));
            }
            step = kind;
            match kind {
                1 => c.weekdays = weekdays(word)?,
                2 => c.date(word)?,
                _ => c.time(word)?,
            }
        }
        if step == 0 {
            return Err("it is empty; write for example \"Sun 03:00\"".into());
        }
        Ok(c)
    }

    fn date(&mut self, word: &str) -> Result<(), String> {
        let (front, day, from_end) = match (word.rsplit_once('~'), word.rsplit_once('-')) {
            (Some((front, day)), _) => (front, day, true),
            (None, Some((front, day))) => (front, day, false),
            (None, None) => return Err(format!("{word:?} is not a date such as *-*-01 or 12-24")),
        };
        let month = match front.rsplit_once('-') {
            Some((year, month)) => {
                self.years = years(year)?;
                month
            }
            None => front,
        };
        self.months = set(month, 1, 12, "month")?;
        let days = set(day, 1, 31, "day")?;
        (self.days, self.days_from_end) = if from_end { (0, days) } else { (days, 0) };
        Ok(())
    }

    fn time(&mut self, word: &str) -> Result<(), String> {
        let parts: Vec<&str> = word.split(':').collect();
        let (hour, minute, second) = match parts[..] {
            [h, m] => (h, m, "0"),
            [h, m, s] => (h, m, s),
            _ => return Err(format!("{word:?} is not a time such as 03:00 or 03:00:30")),
        };
        self.hours = set(hour, 0, 23, "hour")?;
        self.minutes = set(minute, 0, 59, "minute")?;
        self.seconds = set(second, 0, 59, "second")?;
        Ok(())
    }

    /// The expression, as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The latest moment of the calendar that is not after `bound` and not before the day `floor`.
    pub fn latest(&self, bound: DateTime, floor: Date) -> Option<DateTime> {
        let mut day = bound.date();
        let mut limit = bound.time();
        while day >= floor {
            if self.has_day(day) {
                if let Some(time) = self.latest_time(limit) {
                    return Some(day.to_datetime(time));
                }
            }
            day = day.yesterday().ok()?;
            limit = Time::constant(23, 59, 59, 0);
        }
        None
    }

    /// The first moment of the calendar after `bound` and not after the day `ceiling`.
    pub fn next(&self, bound: DateTime, ceiling: Date) -> Option<DateTime> {
        let mut day = bound.date();
        let mut limit = Some(bound.time());
        while day <= ceiling {
            if self.has_day(day) {
                if let Some(time) = self.next_time(limit) {
                    return Some(day.to_datetime(time));
                }
            }
            day = day.tomorrow().ok()?;
            limit = None;
        }
        None
    }

    fn has_day(&self, day: Date) -> bool {
        let year = day.year();
        let bit = |set: u64, n: i8| set >> n & 1 == 1;
        let from_end = day.days_in_month() - day.day() + 1;
        bit(self.weekdays, weekday_bit(day.weekday()))
            && bit(self.months, day.month())
            && (bit(self.days, day.day()) || bit(self.days_from_end, from_end))
            && self
                .years
                .iter()
                .any(|(a, b, s)| (*a..=*b).contains(&year) && (year - a) % s == 0)
    }

    fn latest_time(&self, limit: Time) -> Option<Time> {
        let (h, m, s) = (limit.hour(), limit.minute(), limit.second());
        // The same hour and minute, else the same hour, else an earlier hour.
        if has(self.hours, h) && has(self.minutes, m) {
            if let Some(s) = highest(self.seconds, i32::from(s)) {
                return Time::new(h, m, s, 0).ok();
            }
        }
        let top_second = highest(self.seconds, 59)?;
        if has(self.hours, h) {
            if let Some(m) = highest(self.minutes, i32::from(m) - 1) {
                return Time::new(h, m, top_second, 0).ok();
            }
        }
        let h = highest(self.hours, i32::from(h) - 1)?;
        Time::new(h, highest(self.minutes, 59)?, top_second, 0).ok()
    }

    /// The first time of day after `limit`, or of the whole day.
    fn next_time(&self, limit: Option<Time>) -> Option<Time> {
        let (h, m, s) = limit.map_or((-1, -1, -1), |t| {
            (
                i32::from(t.hour()),
                i32::from(t.minute()),
                i32::from(t.second()),
            )
        });
        let bottom = (lowest(self.minutes, 0)?, lowest(self.seconds, 0)?);
        if let (Ok(h8), Ok(m8)) = (i8::try_from(h), i8::try_from(m)) {
            if h >= 0 && has(self.hours, h8) {
                if has(self.minutes, m8) {
                    if let Some(s) = lowest(self.seconds, s + 1) {
                        return Time::new(h8, m8, s, 0).ok();
                    }
                }
                if let Some(m) = lowest(self.minutes, m + 1) {
                    return Time::new(h8, m, bottom.1, 0).ok();
                }
            }
        }
        Time::new(lowest(self.hours, h + 1)?, bottom.0, bottom.1, 0).ok()
    }
}

fn has(set: u64, n: i8) -> bool {
    (0..64).contains(&n) && set >> n & 1 == 1
}

/// The highest member that is not above `limit`.
fn highest(set: u64, limit: i32) -> Option<i8> {
    (0..=i8::try_from(limit.min(63)).ok()?)
        .rev()
        .find(|n| has(set, *n))
}

/// The lowest member that is not below `limit`.
fn lowest(set: u64, limit: i32) -> Option<i8> {
    (i8::try_from(limit.max(0)).ok()?..64).find(|n| has(set, *n))
}

fn weekday_bit(day: Weekday) -> i8 {
    day.to_monday_zero_offset()
}

fn span(from: u32, to: u32, step: u32) -> u64 {
    (from..=to)
        .step_by(step.max(1) as usize)
        .fold(0, |set, n| set | 1 << n)
}

fn number(text: &str, min: u32, max: u32, what: &str) -> Result<u32, String> {
    text.parse::<u32>()
        .ok()
        .filter(|n| {
            text.len() <= 4 && text.bytes().all(|b| b.is_ascii_digit()) && (min..=max).contains(n)
        })
        .ok_or_else(|| format!("{text:?} is not a {what} between {min} and {max}"))
}

/// The ranges (first, last, step) of a list.
fn ranges(text: &str, min: u32, max: u32, what: &str) -> Result<Vec<(u32, u32, u32)>, String> {
    let parts: Vec<&str> = text.split(',').collect();
    if parts.len() > PARTS_MAX {
        return Err(format!("more than {PARTS_MAX} parts in a list of {what}s"));
    }
    let mut out = Vec::new();
    for part in parts {
        let (base, step) = match part.split_once('/') {
            Some((base, step)) => (base, Some(number(step, 1, max, "step")?)),
            None => (part, None),
        };
        let (from, to) = match base.split_once("..") {
            Some((a, b)) => (number(a, min, max, what)?, number(b, min, max, what)?),
            None if base == "*" => (min, max),
            None => {
                let n = number(base, min, max, what)?;
                // With a step a single number goes on to the end.
                (n, if step.is_some() { max } else { n })
            }
        };
        if from > to {
            return Err(format!(
                "{part:?} is a range of {what}s that ends before it begins"
            ));
        }
        out.push((from, to, step.unwrap_or(1)));
    }
    Ok(out)
}

fn set(text: &str, min: u32, max: u32, what: &str) -> Result<u64, String> {
    if text.contains('.') && !text.contains("..") {
        return Err(format!("{text:?}: fractions of a {what} are not supported"));
    }
    Ok(ranges(text, min, max, what)?
        .into_iter()
        .fold(0, |set, (a, b, s)| set | span(a, b, s)))
}

fn years(text: &str) -> Result<Vec<(i16, i16, i16)>, String> {
    let (min, max) = (
        u32::from(YEARS.0.unsigned_abs()),
        u32::from(YEARS.1.unsigned_abs()),
    );
    let narrow = |n: u32| i16::try_from(n).unwrap_or(i16::MAX);
    Ok(ranges(text, min, max, "year")?
        .into_iter()
        .map(|(a, b, s)| (narrow(a), narrow(b), narrow(s)))
        .collect())
}

fn weekdays(text: &str) -> Result<u64, String> {
    const NAMES: [&str; 7] = [
        "monday",
        "tuesday",
        "wednesday",
        "thursday",
        "friday",
        "saturday",
        "sunday",
    ];
    let day = |word: &str| {
        let lower = word.to_ascii_lowercase();
        NAMES
            .iter()
            .position(|n| lower == *n || lower == n[..3])
            .ok_or_else(|| format!("{word:?} is not a weekday such as Mon or Monday"))
    };
    let mut set = 0;
    for part in text.trim_end_matches(',').split(',') {
        let (from, to) = match part.split_once("..") {
            Some((a, b)) => (day(a)?, day(b)?),
            None => (day(part)?, day(part)?),
        };
        // A range may go over the end of the week: Fri..Mon.
        let mut at = from;
        loop {
            set |= 1 << at;
            if at == to {
                break;
            }
            at = (at + 1) % 7;
        }
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::{date, datetime};
    use proptest::prelude::*;

    fn next(text: &str, from: DateTime) -> Option<DateTime> {
        Calendar::parse(text)
            .unwrap_or_else(|e| panic!("{text}: {e}"))
            .next(from, date(2199, 12, 31))
    }

    #[test]
    fn the_next_moment_as_systemd_analyze_says() {
        // A Sunday.
        let from = datetime(2026, 11, 22, 4, 20, 24, 0);
        for (text, expected) in [
            ("Sun 03:00", datetime(2026, 11, 29, 3, 0, 0, 0)),
            ("Mon..Fri 22:30", datetime(2026, 11, 23, 22, 30, 0, 0)),
            ("Fri..Mon 05:00", datetime(2026, 11, 22, 5, 0, 0, 0)),
            ("*-*-01,15 04:00:00", datetime(2026, 12, 1, 4, 0, 0, 0)),
            ("*-*~1 12:00", datetime(2026, 11, 30, 12, 0, 0, 0)),
            ("*-02~03", datetime(2027, 2, 26, 0, 0, 0, 0)),
            ("2026-12-24 18:00", datetime(2026, 12, 24, 18, 0, 0, 0)),
            ("12-24", datetime(2026, 12, 24, 0, 0, 0, 0)),
            ("*:0/15", datetime(2026, 11, 22, 4, 30, 0, 0)),
            ("*:*:*", datetime(2026, 11, 22, 4, 20, 25, 0)),
            ("*:20:30", datetime(2026, 11, 22, 4, 20, 30, 0)),
            ("4..6/2:00", datetime(2026, 11, 22, 6, 0, 0, 0)),
            ("*-2/3-1", datetime(2027, 2, 1, 0, 0, 0, 0)),
            ("2028..2030/2-2-29", datetime(2028, 2, 29, 0, 0, 0, 0)),
            ("minutely", datetime(2026, 11, 22, 4, 21, 0, 0)),
            ("hourly", datetime(2026, 11, 22, 5, 0, 0, 0)),
            ("daily", datetime(2026, 11, 23, 0, 0, 0, 0)),
            ("weekly", datetime(2026, 11, 23, 0, 0, 0, 0)),
            ("monthly", datetime(2026, 12, 1, 0, 0, 0, 0)),
            ("quarterly", datetime(2027, 1, 1, 0, 0, 0, 0)),
            ("Annually", datetime(2027, 1, 1, 0, 0, 0, 0)),
        ] {
            assert_eq!(next(text, from), Some(expected), "{text}");
        }
        assert_eq!(next("2020-01-01", from), None);
        assert_eq!(next("*-02-30", from), None);
    }

    #[test]
    fn the_latest_moment() {
        let c = Calendar::parse("Sun 03:00").unwrap();
        let at = |h, m| datetime(2026, 11, 22, h, m, 0, 0);
        let floor = date(2026, 11, 1);
        assert_eq!(c.latest(at(3, 0), floor), Some(at(3, 0)));
        assert_eq!(
            c.latest(at(2, 59), floor),
            Some(datetime(2026, 11, 15, 3, 0, 0, 0))
        );
        assert_eq!(c.latest(at(2, 59), date(2026, 11, 16)), None);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for bad in [
            "",
            " ",
            "Sun",
            "03:00 Sun",
            "Sun Mon 03:00",
            "Sund 03:00",
            "25:00",
            "03:60",
            "03:00:00.5",
            "03:00 UTC",
            "03:00 Europe/Berlin",
            "*-13-01",
            "*-*-32",
            "*-*-0",
            "5..1:00",
            "1/0:00",
            "a:b",
            "-1:00",
            "+3:00",
            "1969-01-01",
            "2200-01-01",
            "1:2:3:4",
            "99999999999:00",
            "20261224",
            "0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,0,1,2,3,4,5,6,7,8:00",
        ] {
            let result = Calendar::parse(bad);
            if bad == "Sun" {
                // A weekday alone means midnight, as in systemd.
                assert!(result.is_ok());
            } else {
                assert!(result.is_err(), "{bad:?} gave {result:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "[0-9a-zA-Z*:,./~ -]{0,40}") {
            if let Ok(c) = Calendar::parse(&text) {
                let from = datetime(2026, 11, 22, 4, 20, 24, 0);
                let _ = (c.next(from, date(2027, 12, 31)), c.latest(from, date(2025, 12, 31)));
            }
        }

        /// `latest` and `next` are each other's inverse.
        #[test]
        fn next_and_latest_agree(hours in 0u64..1 << 24, minutes in 0u64..1 << 60, weekdays in 1u64..128, secs in 0i64..86_400 * 20) {
            let c = Calendar { hours: hours | 1 << 5, minutes: minutes | 1 << 7, weekdays, ..Calendar::parse("*:*").unwrap() };
            let from = datetime(2026, 11, 1, 0, 0, 0, 0) + jiff::SignedDuration::from_secs(secs);
            let next = c.next(from, date(2027, 1, 1)).unwrap();
            prop_assert!(next > from);
            prop_assert_eq!(c.latest(next, date(2026, 1, 1)), Some(next));
            let before = c.latest(from, date(2026, 1, 1)).unwrap();
            prop_assert!(before <= from);
            prop_assert_eq!(c.next(before, date(2027, 1, 1)), Some(next));
        }
    }
}

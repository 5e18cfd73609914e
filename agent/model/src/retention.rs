//! Which snapshots a retention policy keeps, and why.
//!
//! The rules are restic's, as of version 0.19 (source: its `internal/data/snapshot_policy.go`; what is kept has not changed since
//! 0.16), so that a policy moved over keeps the same snapshots. `tests/oracle_restic.rs` compares the two.
//!
//! # The rules
//!
//! A policy is applied to one group of snapshots (see [`GroupBy`]). It looks at them from the newest to the oldest, those of one
//! instant in the order of the list. A snapshot is kept when at least one rule wants it.
//!
//! - **Counted**: `last`, `hourly`, `daily`, `weekly`, `monthly`, `yearly`. The newest snapshot of each hour, day, ISO week, month
//!   or year is wanted, until as many as the count were. Empty periods do not count. The calendar is that of the offset that each
//!   snapshot carries. The *oldest* snapshot of the group is wanted too while the count is not used up, so that a history grows to
//!   its full length instead of losing its start every time a period ends.
//! - **Within a span**: `within` wants every snapshot that is younger than the span, counted back from the newest snapshot of the
//!   group that is not after `now` (not from `now`: a host that was off for a year loses nothing). `within_hourly` to
//!   `within_yearly` want the newest of each period (and the oldest of the group) among those.
//! - **Tags**: a snapshot is wanted when it has all tags of one of the lists. The empty tag stands for "has no tags".
//!
//! Subtracting a span works as Go's `AddDate`: months that are too short overflow, so that one month before 31 March is
//! 3 March (or 2 March), then days, then hours.
//!
//! # What we add
//!
//! All of it keeps more, never less. Histories that have no future dates and no partial snapshots are decided exactly as by restic,
//! but for the points marked with a star.
//!
//! 1. **Dated in the future.** A snapshot dated more than 24 hours after `now` (a clock was wrong: the host's or ours) is kept, uses
//!    up no count, is not the newest and not the oldest: the others are decided as if it were not there. When *our* clock is wrong
//!    and stands in the past, this keeps everything newer than it.
//! 2. **The newest complete snapshot** of the group is never dropped, whatever partial ones came after it. (*) This holds for a policy
//!    of tags alone too, where restic drops the newest snapshot when it lacks the tags, or refuses to go on when none has them.
//! 3. **An empty policy keeps everything**. (restic: refuses to run.)
//! 4. (*) Spans that reach beyond year 0 keep everything, where restic's arithmetic wraps around.
//!
//! One more difference lies in the zone, not in the rules: on a machine whose local zone has the same offset as a snapshot, restic
//! counts `within` by that zone's rules of summer time; here a day is always 24 hours.

use std::cmp::Reverse;
use std::fmt;
use std::str::FromStr;

use jiff::civil::Date;
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::ParseError;
use crate::duration::CalendarSpan;
use crate::error::quoted;
use crate::time::Moment;

const NS_PER_HOUR: i128 = 3_600_000_000_000;
/// How far after `now` a snapshot may be dated and still count: more than any zone or clock drift explains.
const FUTURE: i128 = 24 * NS_PER_HOUR;

/// How many snapshots a counted rule keeps. Serde: a number, -1 for unlimited; the word `unlimited` is read too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Count {
    /// So many; 0 means that the rule is off.
    Limit(u32),
    /// One for each period that there ever was.
    Unlimited,
}

impl Count {
    fn is_off(&self) -> bool {
        *self == Self::Limit(0)
    }

    /// Uses one up and returns whether there was one.
    fn take(&mut self) -> bool {
        match self {
            Self::Unlimited => true,
            Self::Limit(0) => false,
            Self::Limit(n) => {
                *n -= 1;
                true
            }
        }
    }

    fn from_integer(n: i128) -> Result<Self, ParseError> {
        let fail = |why: &str| ParseError::new("a count of snapshots", &n.to_string(), why);
        match n {
            -1 => Ok(Self::Unlimited),
            n if n < 0 => Err(fail("it is negative, only -1 has a meaning (unlimited)")),
            n => u32::try_from(n)
                .map(Self::Limit)
                .map_err(|_| fail("it is above 4294967295, write unlimited")),
        }
    }
}

impl Default for Count {
    /// Off.
    fn default() -> Self {
        Self::Limit(0)
    }
}

impl FromStr for Count {
    type Err = ParseError;

    /// Reads a whole number from 0 to 4,294,967,295, or `unlimited` or `-1`.
    ///
    /// # Errors
    /// Any other text.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let trimmed = text.trim();
        if trimmed == "unlimited" {
            return Ok(Self::Unlimited);
        }
        let n: i128 = trimmed.parse().map_err(|_| {
            ParseError::new(
                "a count of snapshots",
                text,
                "it must be a whole number, 0 or more, or unlimited",
            )
        })?;
        Self::from_integer(n)
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limit(n) => n.fmt(f),
            Self::Unlimited => f.write_str("unlimited"),
        }
    }
}

impl Serialize for Count {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(match self {
            Self::Limit(n) => i64::from(*n),
            Self::Unlimited => -1,
        })
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Count;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number, 0 or more, or \"unlimited\"")
            }
            fn visit_i64<E: de::Error>(self, n: i64) -> Result<Count, E> {
                Count::from_integer(n.into()).map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, n: u64) -> Result<Count, E> {
                Count::from_integer(n.into()).map_err(E::custom)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Count, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// What snapshots are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Period {
    /// Every snapshot is a period of its own.
    Last,
    /// Hour of the day.
    Hourly,
    /// Day of the calendar.
    Daily,
    /// ISO 8601 week: Monday to Sunday; the first week of a year is the one with its first Thursday.
    Weekly,
    /// Month of the calendar.
    Monthly,
    /// Year of the calendar.
    Yearly,
}

impl Period {
    /// The number of the period that a snapshot lies in. `position` is its place among its group from the newest.
    fn number(self, time: Moment, position: usize) -> i128 {
        let c = time.civil();
        let (y, m, d, h) = (
            i128::from(c.year()),
            i128::from(c.month()),
            i128::from(c.day()),
            i128::from(c.hour()),
        );
        match self {
            // usize is at most 64 bits wide.
            Self::Last => i128::try_from(position).unwrap_or(i128::MAX),
            Self::Hourly => y * 1_000_000 + m * 10_000 + d * 100 + h,
            Self::Daily => y * 10_000 + m * 100 + d,
            Self::Weekly => {
                let week = c.date().iso_week_date();
                i128::from(week.year()) * 100 + i128::from(week.week())
            }
            Self::Monthly => y * 100 + m,
            Self::Yearly => y,
        }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Last => "last",
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
        })
    }
}

/// Which snapshots of a group to keep; see the [module](self) for the rules.
///
/// Serde: a table with the names of the fields, all optional, unknown ones refused; counts as numbers or `"unlimited"`, spans
/// as `"1y5m7d2h"`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// The newest so many.
    #[serde(skip_serializing_if = "Count::is_off")]
    pub last: Count,
    /// The newest of each of so many hours that have one.
    #[serde(skip_serializing_if = "Count::is_off")]
    pub hourly: Count,
    /// The newest of each of so many days that have one.
    #[serde(skip_serializing_if = "Count::is_off")]
    pub daily: Count,
    /// The newest of each of so many ISO weeks that have one.
    #[serde(skip_serializing_if = "Count::is_off")]
    pub weekly: Count,
    /// The newest of each of so many months that have one.
    #[serde(skip_serializing_if = "Count::is_off")]
    pub monthly: Count,
    /// The newest of each of so many years that have one.
    #[serde(skip_serializing_if = "Count::is_off")]
    pub yearly: Count,
    /// All younger than this, counted back from the newest.
    #[serde(skip_serializing_if = "CalendarSpan::is_zero")]
    pub within: CalendarSpan,
    /// The newest of each hour among those younger than this.
    #[serde(skip_serializing_if = "CalendarSpan::is_zero")]
    pub within_hourly: CalendarSpan,
    /// The newest of each day among those younger than this.
    #[serde(skip_serializing_if = "CalendarSpan::is_zero")]
    pub within_daily: CalendarSpan,
    /// The newest of each ISO week among those younger than this.
    #[serde(skip_serializing_if = "CalendarSpan::is_zero")]
    pub within_weekly: CalendarSpan,
    /// The newest of each month among those younger than this.
    #[serde(skip_serializing_if = "CalendarSpan::is_zero")]
    pub within_monthly: CalendarSpan,
    /// The newest of each year among those younger than this.
    #[serde(skip_serializing_if = "CalendarSpan::is_zero")]
    pub within_yearly: CalendarSpan,
    /// Lists of tags: all that have every tag of one list. See [`parse_tags`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Vec<String>>,
}

/// Reads one list of tags, separated by commas, as restic's `--keep-tag` does: spaces around a tag are dropped, and the empty
/// text is the list of the empty tag, which means "snapshots without tags".
pub fn parse_tags(text: &str) -> Vec<String> {
    text.split(',').map(|tag| tag.trim().to_owned()).collect()
}

/// What retention must know of a snapshot.
pub trait Candidate {
    /// When the backup was made, with the offset of its host.
    fn time(&self) -> Moment;
    /// Its tags.
    fn tags(&self) -> &[String];
    /// Whether it has all that it should: `false` for one of a partial run.
    fn complete(&self) -> bool;
}

/// What to do with one snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Its place in the list that was judged.
    pub index: usize,
    /// Whether to keep it.
    pub keep: bool,
    /// Why it is kept, in the order of the rules; empty when it is dropped.
    pub reasons: Vec<Reason>,
}

/// Why a snapshot is kept.
///
/// Display is for people: `daily snapshot`, `oldest daily`, `within 7d`, `daily within 1m`, `tag keep`, `dated in the future`,
/// `newest complete`. Serde is stable: an object with the field `rule` and the fields of the variant, such as
/// `{"rule":"count","period":"daily","oldest":false}` or `{"rule":"within","span":"7d"}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "rule", rename_all = "kebab-case")]
pub enum Reason {
    /// Its date cannot be right: more than 24 hours after now.
    Future,
    /// The policy has no rules.
    NoPolicy,
    /// It has all these tags.
    Tags {
        /// The list of the policy that matched.
        tags: Vec<String>,
    },
    /// It is younger than this, counted back from the newest.
    Within {
        /// The span of the policy.
        span: CalendarSpan,
    },
    /// A counted rule.
    Count {
        /// What is counted.
        period: Period,
        /// Not the newest of its period, but the oldest of the group while the count is not used up.
        oldest: bool,
    },
    /// It stands for its period, and is younger than the span.
    WithinPeriod {
        /// What it stands for.
        period: Period,
        /// The span of the policy.
        span: CalendarSpan,
        /// Not the newest of its period, but the oldest of the group.
        oldest: bool,
    },
    /// No rule wants it, but it is the newest that is not partial.
    NewestComplete,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Future => f.write_str("dated in the future"),
            Self::NoPolicy => f.write_str("no policy"),
            Self::NewestComplete => f.write_str("newest complete"),
            Self::Tags { tags } => match tags.as_slice() {
                [] => f.write_str("any tags"),
                [tag] if tag.is_empty() => f.write_str("no tags"),
                [tag] => write!(f, "tag {tag}"),
                more => write!(f, "tags {}", more.join(", ")),
            },
            Self::Within { span } => write!(f, "within {span}"),
            Self::Count {
                period,
                oldest: false,
            } => write!(f, "{period} snapshot"),
            Self::Count {
                period,
                oldest: true,
            } => write!(f, "oldest {period}"),
            Self::WithinPeriod {
                period,
                span,
                oldest: false,
            } => write!(f, "{period} within {span}"),
            Self::WithinPeriod {
                period,
                span,
                oldest: true,
            } => write!(f, "oldest {period} within {span}"),
        }
    }
}

impl Policy {
    /// What is used when nothing else is said: 7 daily, 4 weekly, 12 monthly.
    pub fn default_schedule() -> Self {
        Self {
            daily: Count::Limit(7),
            weekly: Count::Limit(4),
            monthly: Count::Limit(12),
            ..Self::default()
        }
    }

    /// Whether no rule is on. Such a policy keeps everything.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn counts(&self) -> [(Period, Count); 6] {
        [
            (Period::Last, self.last),
            (Period::Hourly, self.hourly),
            (Period::Daily, self.daily),
            (Period::Weekly, self.weekly),
            (Period::Monthly, self.monthly),
            (Period::Yearly, self.yearly),
        ]
    }

    fn spans(&self) -> [(Period, CalendarSpan); 5] {
        [
            (Period::Hourly, self.within_hourly),
            (Period::Daily, self.within_daily),
            (Period::Weekly, self.within_weekly),
            (Period::Monthly, self.within_monthly),
            (Period::Yearly, self.within_yearly),
        ]
    }

    /// Decides on the snapshots of one group. Returns one decision for each, newest snapshot first (those of one instant in the
    /// order of `list`).
    ///
    /// Takes O(n log n) time and O(n) memory; cannot fail.
    pub fn apply<T: Candidate>(&self, list: &[T], now: Moment) -> Vec<Decision> {
        let mut order: Vec<(usize, &T)> = list.iter().enumerate().collect();
        order.sort_by_key(|(_, candidate)| Reverse(candidate.time()));
        let future = order.partition_point(|(_, c)| {
            c.time().unix_nanos() > now.unix_nanos().saturating_add(FUTURE)
        });
        let (quarantined, group) = order.split_at(future);

        let kept = |(index, _): &(usize, &T), reason: Reason| Decision {
            index: *index,
            keep: true,
            reasons: vec![reason],
        };
        let mut decisions: Vec<Decision> = quarantined
            .iter()
            .map(|c| kept(c, Reason::Future))
            .collect();
        if self.is_empty() {
            decisions.extend(group.iter().map(|c| kept(c, Reason::NoPolicy)));
            return decisions;
        }

        let newest = group.iter().map(|(_, c)| c.time()).find(|time| *time < now);
        let edge = |span: CalendarSpan| Edge::before(newest, span);
        let within = (!self.within.is_zero()).then(|| (self.within, edge(self.within)));
        let mut counts = self.counts().map(|(period, left)| Counter {
            period,
            left,
            previous: None,
        });
        let mut spans = self.spans().map(|(period, span)| {
            let left = if span.is_zero() {
                Count::Limit(0)
            } else {
                Count::Unlimited
            };
            (
                Counter {
                    period,
                    left,
                    previous: None,
                },
                span,
                edge(span),
            )
        });

        let mut newest_complete_seen = false;
        for (position, (index, candidate)) in group.iter().enumerate() {
            let time = candidate.time();
            let last = position + 1 == group.len();
            let mut reasons = Vec::new();
            for tags in self
                .tags
                .iter()
                .filter(|tags| has_tags(candidate.tags(), tags))
            {
                reasons.push(Reason::Tags { tags: tags.clone() });
            }
            if let Some((span, edge)) = &within {
                if edge.is_before(time) {
                    reasons.push(Reason::Within { span: *span });
                }
            }
            for counter in &mut counts {
                if let Some(oldest) = counter.wants(time, position, last) {
                    reasons.push(Reason::Count {
                        period: counter.period,
                        oldest,
                    });
                }
            }
            for (counter, span, edge) in &mut spans {
                if edge.is_before(time) {
                    if let Some(oldest) = counter.wants(time, position, last) {
                        reasons.push(Reason::WithinPeriod {
                            period: counter.period,
                            span: *span,
                            oldest,
                        });
                    }
                }
            }
            if !newest_complete_seen && candidate.complete() {
                newest_complete_seen = true;
                if reasons.is_empty() {
                    reasons.push(Reason::NewestComplete);
                }
            }
            decisions.push(Decision {
                index: *index,
                keep: !reasons.is_empty(),
                reasons,
            });
        }
        decisions
    }
}

impl fmt::Display for Policy {
    /// `keep 7 daily, 4 weekly, 12 monthly`; `keep everything` when it is empty.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rules = Vec::new();
        for (period, count) in self.counts() {
            match count {
                Count::Limit(0) => {}
                Count::Limit(n) => rules.push(format!("{n} {period}")),
                Count::Unlimited => rules.push(format!("all {period}")),
            }
        }
        if !self.within.is_zero() {
            rules.push(format!("all within {}", self.within));
        }
        for (period, span) in self.spans() {
            if !span.is_zero() {
                rules.push(format!("{period} within {span}"));
            }
        }
        for tags in &self.tags {
            rules.push(Reason::Tags { tags: tags.clone() }.to_string());
        }
        if rules.is_empty() {
            rules.push("everything".to_owned());
        }
        write!(f, "keep {}", rules.join(", "))
    }
}

/// One counted rule on its way from the newest snapshot to the oldest.
struct Counter {
    period: Period,
    left: Count,
    /// The period that a snapshot was last wanted for.
    previous: Option<i128>,
}

impl Counter {
    /// Whether the rule wants the next snapshot; if so, whether only because it is the oldest.
    fn wants(&mut self, time: Moment, position: usize, last: bool) -> Option<bool> {
        if self.left.is_off() {
            return None;
        }
        let number = self.period.number(time, position);
        let known = self.previous == Some(number);
        if known && !last {
            return None;
        }
        self.previous = Some(number);
        self.left.take().then_some(known)
    }
}

/// Where a span counted back from the newest snapshot ends; in nanoseconds since 1970.
#[derive(Clone, Copy)]
enum Edge {
    At(i128),
    /// Before all time: everything is younger.
    Never,
}

impl Edge {
    fn before(newest: Option<Moment>, span: CalendarSpan) -> Self {
        newest
            .and_then(|newest| before(newest, span))
            .map_or(Self::Never, Self::At)
    }

    fn is_before(self, time: Moment) -> bool {
        match self {
            Self::At(edge) => time.unix_nanos() > edge,
            Self::Never => true,
        }
    }
}

/// A time less a calendar span, as nanoseconds since 1970; `None` when the months reach before year 0.
///
/// As Go's `AddDate`: the years and months are taken off first, and a day that the month lacks runs over into the next.
fn before(time: Moment, span: CalendarSpan) -> Option<i128> {
    let civil = time.civil();
    let months = i64::from(civil.year()) * 12 + i64::from(civil.month()) - 1;
    let months = months - i64::from(span.years) * 12 - i64::from(span.months);
    let year = i16::try_from(months.div_euclid(12))
        .ok()
        .filter(|year| *year >= 0)?;
    let month = i8::try_from(months.rem_euclid(12) + 1).ok()?;
    let shifted = days(Date::new(year, month, 1).ok()?) + i128::from(civil.day()) - 1;
    // How many days the years and months came to; the time of day and the offset do not change with them.
    let shift = days(civil.date()) - shifted + i128::from(span.days);
    let hours = shift * 24 + i128::from(span.hours);
    Some(time.unix_nanos() - hours * NS_PER_HOUR)
}

/// Days from 1970-01-01.
fn days(date: Date) -> i128 {
    let epoch = Date::constant(1970, 1, 1);
    i128::from(date.duration_since(epoch).as_secs() / 86_400)
}

/// Whether a snapshot has all tags of a list; at the empty tag the answer is yes if it has none.
fn has_tags(have: &[String], list: &[String]) -> bool {
    for tag in list {
        if tag.is_empty() && have.is_empty() {
            return true;
        }
        if !have.contains(tag) {
            return false;
        }
    }
    true
}

/// What snapshots have in common within a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GroupKey {
    /// The name of the host.
    Host,
    /// The configured backup.
    Job,
    /// The set of tags.
    Tags,
    /// The set of paths that were backed up.
    Paths,
}

impl fmt::Display for GroupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "host",
            Self::Job => "job",
            Self::Tags => "tags",
            Self::Paths => "paths",
        })
    }
}

/// How snapshots are split into groups before a policy is applied to each. Default: by host and job. Serde: the text form.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GroupBy {
    keys: Vec<GroupKey>,
}

impl GroupBy {
    /// The keys, each once, in the order of [`GroupKey`]. None: all snapshots are one group.
    pub fn keys(&self) -> &[GroupKey] {
        &self.keys
    }

    /// Whether snapshots that differ in this belong to different groups.
    pub fn contains(&self, key: GroupKey) -> bool {
        self.keys.contains(&key)
    }
}

impl Default for GroupBy {
    fn default() -> Self {
        Self {
            keys: vec![GroupKey::Host, GroupKey::Job],
        }
    }
}

impl FromStr for GroupBy {
    type Err = ParseError;

    /// Reads `host,job`: names separated by commas, in any order, singular or plural, repeats allowed. The empty text means no
    /// grouping.
    ///
    /// # Errors
    /// An unknown name.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let mut keys = Vec::new();
        for name in text
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
        {
            keys.push(match name {
                "host" | "hosts" => GroupKey::Host,
                "job" | "jobs" => GroupKey::Job,
                "tag" | "tags" => GroupKey::Tags,
                "path" | "paths" => GroupKey::Paths,
                _ => {
                    let why = format!("unknown key {}, use host, job, tags or paths", quoted(name));
                    return Err(ParseError::new("a grouping", text, why));
                }
            });
        }
        keys.sort_unstable();
        keys.dedup();
        Ok(Self { keys })
    }
}

impl fmt::Display for GroupBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, key) in self.keys.iter().enumerate() {
            write!(f, "{}{key}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl Serialize for GroupBy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GroupBy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Snap {
        time: Moment,
        tags: Vec<String>,
        complete: bool,
    }

    impl Candidate for Snap {
        fn time(&self) -> Moment {
            self.time
        }
        fn tags(&self) -> &[String] {
            &self.tags
        }
        fn complete(&self) -> bool {
            self.complete
        }
    }

    /// A snapshot from `2026-11-22T04:20:24Z`; `!` in front: partial; ` a,b` behind: tags.
    fn snap(text: &str) -> Snap {
        let (text, complete) = text
            .strip_prefix('!')
            .map_or((text, true), |rest| (rest, false));
        let (time, tags) = text.split_once(' ').unwrap_or((text, ""));
        let tags = if tags.is_empty() {
            Vec::new()
        } else {
            parse_tags(tags)
        };
        Snap {
            time: time.parse().expect(time),
            tags,
            complete,
        }
    }

    fn policy(set: impl FnOnce(&mut Policy)) -> Policy {
        let mut policy = Policy::default();
        set(&mut policy);
        policy
    }

    const NOW: &str = "2026-12-31T00:00:00Z";

    /// One line for each snapshot in the order of the list: the reasons, or `-`.
    fn judge(policy: &Policy, list: &[&str], now: &str) -> Vec<String> {
        let list: Vec<Snap> = list.iter().map(|text| snap(text)).collect();
        let mut lines = vec![String::new(); list.len()];
        for decision in policy.apply(&list, now.parse().expect(now)) {
            let reasons: Vec<String> = decision.reasons.iter().map(Reason::to_string).collect();
            assert_eq!(decision.keep, !reasons.is_empty());
            lines[decision.index] = if decision.keep {
                reasons.join("; ")
            } else {
                "-".to_owned()
            };
        }
        lines
    }

    fn check(policy: &Policy, table: &[(&str, &str)]) {
        let list: Vec<&str> = table.iter().map(|(snapshot, _)| *snapshot).collect();
        let want: Vec<&str> = table.iter().map(|(_, reasons)| *reasons).collect();
        assert_eq!(judge(policy, &list, NOW), want);
    }

    #[test]
    fn the_newest_of_each_day_counts_and_empty_days_do_not() {
        check(
            &policy(|p| p.daily = Count::Limit(2)),
            &[
                ("2026-11-20T10:00:00Z", "-"),
                ("2026-11-21T09:00:00Z", "-"),
                ("2026-11-21T10:00:00Z", "daily snapshot"),
                ("2026-11-25T00:00:00Z", "-"),
                ("2026-11-25T23:59:59Z", "daily snapshot"),
            ],
        );
    }

    #[test]
    fn the_oldest_is_kept_while_counts_are_left() {
        check(
            &policy(|p| p.daily = Count::Limit(3)),
            &[
                ("2026-11-20T08:00:00Z", "oldest daily"),
                ("2026-11-20T09:00:00Z", "-"),
                ("2026-11-20T10:00:00Z", "daily snapshot"),
                ("2026-11-21T10:00:00Z", "daily snapshot"),
            ],
        );
        // No count is left for it.
        check(
            &policy(|p| p.daily = Count::Limit(2)),
            &[
                ("2026-11-20T08:00:00Z", "-"),
                ("2026-11-20T10:00:00Z", "daily snapshot"),
                ("2026-11-21T10:00:00Z", "daily snapshot"),
            ],
        );
    }

    #[test]
    fn unlimited_never_runs_out() {
        check(
            &policy(|p| p.yearly = Count::Unlimited),
            &[
                ("1999-01-01T00:00:00Z", "oldest yearly"),
                ("1999-12-31T23:59:59Z", "yearly snapshot"),
                ("2025-06-01T00:00:00Z", "-"),
                ("2025-07-01T00:00:00Z", "yearly snapshot"),
                ("2026-07-01T00:00:00Z", "yearly snapshot"),
            ],
        );
    }

    #[test]
    fn weeks_are_of_iso_8601() {
        // 2020-12-28 (Monday) to 2021-01-03 (Sunday) are week 53 of 2020.
        check(
            &policy(|p| p.weekly = Count::Limit(9)),
            &[
                ("2020-12-21T00:00:00Z", "oldest weekly"),
                ("2020-12-27T00:00:00Z", "weekly snapshot"),
                ("2020-12-28T00:00:00Z", "-"),
                ("2021-01-03T23:00:00Z", "weekly snapshot"),
                ("2021-01-04T00:00:00Z", "weekly snapshot"),
            ],
        );
    }

    #[test]
    fn the_calendar_is_that_of_the_host() {
        check(
            &policy(|p| p.daily = Count::Limit(2)),
            &[
                // One UTC day, two days in Kathmandu.
                ("2026-11-20T23:00:00+05:45", "-"),
                ("2026-11-20T23:59:00+05:45", "daily snapshot"),
                ("2026-11-21T00:01:00+05:45", "daily snapshot"),
            ],
        );
    }

    #[test]
    fn within_is_counted_from_the_newest_and_its_edge_is_out() {
        check(
            &policy(|p| {
                p.within = CalendarSpan {
                    days: 1,
                    hours: 1,
                    ..CalendarSpan::default()
                }
            }),
            &[
                ("2020-05-01T09:00:00Z", "-"),
                ("2020-05-01T09:00:00.000000001Z", "within 1d1h"),
                ("2020-05-02T10:00:00Z", "within 1d1h"),
            ],
        );
    }

    #[test]
    fn months_run_over_as_in_go() {
        // 2023-03-31 less one month is 2023-02-31, which is 2023-03-03.
        check(
            &policy(|p| {
                p.within = CalendarSpan {
                    months: 1,
                    ..CalendarSpan::default()
                }
            }),
            &[
                ("2023-02-28T12:00:00Z", "-"),
                ("2023-03-03T12:00:00Z", "-"),
                ("2023-03-03T12:00:01Z", "within 1m"),
                ("2023-03-31T12:00:00Z", "within 1m"),
            ],
        );
    }

    #[test]
    fn within_a_span_by_period() {
        check(
            &policy(|p| {
                p.within_daily = CalendarSpan {
                    days: 7,
                    ..CalendarSpan::default()
                }
            }),
            &[
                ("2026-11-10T12:00:00Z", "-"),
                ("2026-11-20T08:00:00Z", "-"),
                ("2026-11-20T12:00:00Z", "daily within 7d"),
                ("2026-11-21T12:00:00Z", "daily within 7d"),
            ],
        );
        check(
            &policy(|p| {
                p.within_daily = CalendarSpan {
                    days: 7,
                    ..CalendarSpan::default()
                }
            }),
            &[
                ("2026-11-20T08:00:00Z", "oldest daily within 7d"),
                ("2026-11-20T12:00:00Z", "daily within 7d"),
            ],
        );
    }

    #[test]
    fn tags_of_one_list_must_all_be_there() {
        check(
            &policy(|p| p.tags = vec![parse_tags("a, b"), parse_tags("keep"), parse_tags("")]),
            &[
                ("2026-11-01T00:00:00Z a", "-"),
                ("2026-11-02T00:00:00Z b,x,a", "tags a, b"),
                ("2026-11-03T00:00:00Z keep", "tag keep"),
                ("2026-11-04T00:00:00Z", "no tags"),
                ("2026-11-05T00:00:00Z keep,a,b", "tags a, b; tag keep"),
            ],
        );
    }

    #[test]
    fn the_newest_complete_stays() {
        let one = policy(|p| p.last = Count::Limit(1));
        check(
            &one,
            &[
                ("2026-11-01T00:00:00Z", "-"),
                ("2026-11-02T00:00:00Z", "newest complete"),
                ("!2026-11-03T00:00:00Z", "-"),
                ("!2026-11-04T00:00:00Z", "last snapshot"),
            ],
        );
        check(
            &one,
            &[
                ("!2026-11-01T00:00:00Z", "-"),
                ("!2026-11-02T00:00:00Z", "last snapshot"),
            ],
        );
        // Tags alone: the one place where restic would drop it.
        check(
            &policy(|p| p.tags = vec![parse_tags("keep")]),
            &[
                ("2026-11-01T00:00:00Z", "-"),
                ("2026-11-02T00:00:00Z", "newest complete"),
            ],
        );
    }

    #[test]
    fn future_dates_are_kept_and_count_for_nothing() {
        check(
            &policy(|p| {
                p.last = Count::Limit(1);
                p.within = CalendarSpan {
                    days: 1,
                    ..CalendarSpan::default()
                };
            }),
            &[
                ("2026-11-01T00:00:00Z", "-"),
                ("2026-11-02T00:00:00Z", "within 1d; last snapshot"),
                ("2027-01-01T00:00:00.000000001Z", "dated in the future"),
                ("9999-12-30T00:00:00Z", "dated in the future"),
            ],
        );
        // Up to 24 hours ahead it counts, but "within" is not counted from it (as in restic).
        check(
            &policy(|p| {
                p.last = Count::Limit(1);
                p.within = CalendarSpan {
                    days: 1,
                    ..CalendarSpan::default()
                };
            }),
            &[
                ("2026-12-29T00:00:00Z", "-"),
                ("2026-12-29T13:00:00Z", "within 1d"),
                ("2026-12-30T12:00:00Z", "within 1d"),
                ("2027-01-01T00:00:00Z", "within 1d; last snapshot"),
            ],
        );
    }

    #[test]
    fn a_clock_in_the_past_drops_nothing() {
        let list = [
            "2026-11-01T00:00:00Z",
            "2026-11-02T00:00:00Z",
            "2026-11-02T01:00:00Z",
        ];
        let lines = judge(
            &policy(|p| p.last = Count::Limit(1)),
            &list,
            "1970-01-01T00:00:00Z",
        );
        assert_eq!(lines, ["dated in the future"; 3]);
    }

    #[test]
    fn an_empty_policy_keeps_everything() {
        assert!(Policy::default().is_empty());
        check(
            &Policy::default(),
            &[
                ("2026-11-01T00:00:00Z", "no policy"),
                ("!2026-11-01T00:00:00Z", "no policy"),
            ],
        );
        assert!(!policy(|p| p.tags = vec![Vec::new()]).is_empty());
        assert!(!policy(|p| p.last = Count::Unlimited).is_empty());
        assert!(!Policy::default_schedule().is_empty());
        assert!(
            Policy::default_schedule()
                .apply::<Snap>(&[], NOW.parse().expect(NOW))
                .is_empty()
        );
    }

    #[test]
    fn equal_times_keep_the_order_of_the_list() {
        check(
            &policy(|p| p.last = Count::Limit(1)),
            &[
                ("2026-11-01T00:00:00Z", "last snapshot"),
                ("2026-11-01T01:00:00+01:00", "-"),
            ],
        );
    }

    #[test]
    fn the_ends_of_time_and_of_numbers() {
        let huge = CalendarSpan {
            years: u32::MAX,
            months: u32::MAX,
            days: u32::MAX,
            hours: u32::MAX,
        };
        let everything = Policy {
            last: Count::Limit(u32::MAX),
            hourly: Count::Limit(u32::MAX),
            daily: Count::Unlimited,
            weekly: Count::Unlimited,
            monthly: Count::Unlimited,
            yearly: Count::Unlimited,
            within: huge,
            within_hourly: CalendarSpan {
                days: u32::MAX,
                hours: u32::MAX,
                ..CalendarSpan::default()
            },
            within_daily: CalendarSpan {
                years: 9999,
                ..CalendarSpan::default()
            },
            within_weekly: CalendarSpan {
                months: u32::MAX,
                ..CalendarSpan::default()
            },
            within_monthly: huge,
            within_yearly: huge,
            tags: vec![Vec::new()],
        };
        let list: Vec<Snap> = [
            "0000-01-02T00:00:00-23:59",
            "1970-01-01T00:00:00Z",
            "9999-12-30T22:00:00+23:59",
        ]
        .map(snap)
        .into();
        for now in [
            "0000-01-02T00:00:00Z",
            "1970-01-01T00:00:00Z",
            "9999-12-30T22:00:00Z",
        ] {
            let decisions = everything.apply(&list, now.parse().expect(now));
            assert!(decisions.iter().all(|d| d.keep), "{now}");
        }
    }

    #[test]
    fn policies_as_text() {
        assert_eq!(Policy::default().to_string(), "keep everything");
        assert_eq!(
            Policy::default_schedule().to_string(),
            "keep 7 daily, 4 weekly, 12 monthly"
        );
        let json = r#"{"last":-1,"hourly":"unlimited","daily":7,"within":"1y5m","within_weekly":"2m","tags":[["a","b"],["x"]]}"#;
        let policy: Policy = serde_json::from_str(json).expect(json);
        assert_eq!(
            policy.to_string(),
            "keep all last, all hourly, 7 daily, all within 1y5m, weekly within 2m, tags a, b, tag x"
        );
        let back = serde_json::to_string(&policy).expect("plain");
        assert_eq!(back, json.replace("\"unlimited\"", "-1"));
        for wrong in [
            r#"{"dialy":7}"#,
            r#"{"daily":-2}"#,
            r#"{"daily":4294967296}"#,
            r#"{"daily":1.5}"#,
            r#"{"within":""}"#,
        ] {
            assert!(serde_json::from_str::<Policy>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn counts_as_text() {
        for (text, count) in [
            ("0", Count::Limit(0)),
            ("7", Count::Limit(7)),
            ("4294967295", Count::Limit(u32::MAX)),
            ("unlimited", Count::Unlimited),
            ("-1", Count::Unlimited),
        ] {
            assert_eq!(text.parse(), Ok(count), "{text}");
        }
        for text in [
            "",
            "-2",
            "4294967296",
            "7d",
            "all",
            "170141183460469231731687303715884105728",
        ] {
            assert!(text.parse::<Count>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_machine_form_of_reasons_is_stable() {
        let span = CalendarSpan {
            days: 7,
            ..CalendarSpan::default()
        };
        for (reason, json) in [
            (Reason::Future, r#"{"rule":"future"}"#),
            (Reason::NoPolicy, r#"{"rule":"no-policy"}"#),
            (
                Reason::Tags {
                    tags: vec!["a".into()],
                },
                r#"{"rule":"tags","tags":["a"]}"#,
            ),
            (Reason::Within { span }, r#"{"rule":"within","span":"7d"}"#),
            (
                Reason::Count {
                    period: Period::Last,
                    oldest: false,
                },
                r#"{"rule":"count","period":"last","oldest":false}"#,
            ),
            (
                Reason::WithinPeriod {
                    period: Period::Weekly,
                    span,
                    oldest: true,
                },
                r#"{"rule":"within-period","period":"weekly","span":"7d","oldest":true}"#,
            ),
            (Reason::NewestComplete, r#"{"rule":"newest-complete"}"#),
        ] {
            assert_eq!(serde_json::to_string(&reason).expect(json), json);
            assert_eq!(serde_json::from_str::<Reason>(json).expect(json), reason);
        }
    }

    #[test]
    fn groupings_as_text() {
        for (text, back) in [
            ("host,job", "host,job"),
            ("job, host,hosts", "host,job"),
            ("", ""),
            (" , ", ""),
            ("paths,tag", "tags,paths"),
        ] {
            assert_eq!(
                text.parse::<GroupBy>().expect(text).to_string(),
                back,
                "{text}"
            );
        }
        assert_eq!(GroupBy::default().to_string(), "host,job");
        assert!(
            GroupBy::default().contains(GroupKey::Job)
                && !GroupBy::default().contains(GroupKey::Tags)
        );
        assert_eq!(
            "host,user".parse::<GroupBy>().map_err(|e| e.to_string()),
            Err("\"host,user\" is not a grouping: unknown key \"user\", use host, job, tags or paths".to_owned())
        );
    }
}

//! Roll-ups: what an hour or a day of a check's results comes to, and the table of it.
//!
//! Hours and days are of UTC. An hour without a result and without a change has no row: nobody watched. How they are made is told
//! in `rolling`.

use keepwatch_model::checks::{CheckState, FailureReason};
use keepwatch_model::time::Moment;

use crate::catalog::Catalog;
use crate::fault::CatalogError;
use crate::meter::Operation;
use crate::runs::{limit, range};
use crate::sql::{self, Row, Sql, values};

/// Upper bounds of the buckets of latencies, in microseconds: those of the metric. One more bucket takes the rest.
pub const LATENCY_BOUNDS: [u64; 11] = [
    5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000,
];
/// Buckets of latencies.
pub const BUCKETS: usize = LATENCY_BOUNDS.len() + 1;
/// Reasons of failures, in the order of their declaration.
pub const REASONS: usize = FailureReason::ALL.len();

/// An hour, in microseconds.
pub(crate) const HOUR: i64 = 3_600_000_000;
/// A day, in microseconds.
pub(crate) const DAY: i64 = 24 * HOUR;

/// The columns that [`of_row`] reads, in its order.
macro_rules! rollup_columns {
    () => {
        "rollups.start, runs, failures, degraded, latency_sum, latency_max, buckets, reasons, unknown_us,
         healthy_us, degraded_us, unhealthy_us, hidden_us"
    };
}
pub(crate) use rollup_columns;

const LIST: Sql = Sql::both(concat!(
    "SELECT ",
    rollup_columns!(),
    " FROM rollups JOIN checks ON checks.id = rollups.check_id
     WHERE host = $1 AND name = $2 AND span = $3 AND rollups.start >= $4 AND rollups.start < $5
     ORDER BY rollups.start DESC LIMIT $6"
));

/// What a span of time of one check comes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rollup {
    /// Finished runs.
    pub runs: u64,
    /// Of them failed.
    pub failures: u64,
    /// Of them degraded.
    pub degraded: u64,
    /// Sum of the latencies, in microseconds.
    pub latency_sum: u64,
    /// The longest latency, in microseconds.
    pub latency_max: u64,
    /// Runs by latency: up to each of [`LATENCY_BOUNDS`], and longer; not cumulative.
    pub buckets: [u64; BUCKETS],
    /// Failures by reason, in the order of [`FailureReason::ALL`].
    pub reasons: [u64; REASONS],
    /// Microseconds in the state unknown.
    pub unknown_us: u64,
    /// Microseconds in the state healthy.
    pub healthy_us: u64,
    /// Microseconds in the state degraded.
    pub degraded_us: u64,
    /// Microseconds in the state unhealthy.
    pub unhealthy_us: u64,
    /// Microseconds of these during which the state was hidden.
    pub hidden_us: u64,
}

/// Hours or days.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// Hours of UTC.
    Hour,
    /// Days of UTC.
    Day,
}

impl Span {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }
}

/// The start of the hour or day that a time falls into; of the first whole one for a time before all of them.
pub(crate) fn floor(at: i64, unit: i64) -> i64 {
    at.checked_sub(at.rem_euclid(unit))
        .unwrap_or(at - at % unit)
}

impl Rollup {
    /// Adds time in a state.
    pub fn add_time(&mut self, state: CheckState, hidden: bool, micros: u64) {
        let place = match state {
            CheckState::Unknown => &mut self.unknown_us,
            CheckState::Healthy => &mut self.healthy_us,
            CheckState::Degraded => &mut self.degraded_us,
            CheckState::Unhealthy => &mut self.unhealthy_us,
        };
        *place = place.saturating_add(micros);
        if hidden {
            self.hidden_us = self.hidden_us.saturating_add(micros);
        }
    }

    /// Adds another span of the same check.
    pub fn merge(&mut self, other: &Self) {
        self.runs += other.runs;
        self.failures += other.failures;
        self.degraded += other.degraded;
        self.latency_sum = self.latency_sum.saturating_add(other.latency_sum);
        self.latency_max = self.latency_max.max(other.latency_max);
        for (sum, more) in self.buckets.iter_mut().zip(other.buckets) {
            *sum += more;
        }
        for (sum, more) in self.reasons.iter_mut().zip(other.reasons) {
            *sum += more;
        }
        self.unknown_us += other.unknown_us;
        self.healthy_us += other.healthy_us;
        self.degraded_us += other.degraded_us;
        self.unhealthy_us += other.unhealthy_us;
        self.hidden_us += other.hidden_us;
    }

    /// The latency that this share (0 to 1) of the runs did not exceed, in microseconds: exact to the bucket, and linear within it,
    /// as Prometheus estimates it. `None` without runs.
    pub fn latency_quantile(&self, share: f64) -> Option<u64> {
        if self.runs == 0 || !(0.0..=1.0).contains(&share) {
            return None;
        }
        let rank = share * self.runs as f64;
        let mut before = 0.0;
        for (at, count) in self.buckets.iter().enumerate() {
            let count = *count as f64;
            if before + count >= rank && count > 0.0 {
                let low = at
                    .checked_sub(1)
                    .and_then(|n| LATENCY_BOUNDS.get(n))
                    .copied()
                    .unwrap_or(0);
                let high = LATENCY_BOUNDS
                    .get(at)
                    .copied()
                    .unwrap_or(self.latency_max)
                    .min(self.latency_max)
                    .max(low);
                let part = ((rank - before) / count).clamp(0.0, 1.0);
                return Some(low + ((high - low) as f64 * part) as u64);
            }
            before += count;
        }
        Some(self.latency_max)
    }

    /// The share of the time, hidden time included, in which the check worked; `None` if no time is known.
    pub fn availability(&self) -> Option<f64> {
        let up = self.healthy_us + self.degraded_us;
        let known = up + self.unhealthy_us;
        (known > 0).then(|| up as f64 / known as f64)
    }
}

/// Adds the time from `start` to `end` by the states of a check: `state` and whether it is hidden at the start, then the changes
/// in order of time.
pub fn add_states(
    rollup: &mut Rollup,
    (start, end): (i64, i64),
    (mut state, mut hidden): (CheckState, bool),
    changes: impl IntoIterator<Item = (i64, CheckState, bool)>,
) {
    let mut from = start;
    for (at, next, next_hidden) in changes {
        let at = at.clamp(from, end.max(from));
        rollup.add_time(state, hidden, at.abs_diff(from));
        (from, state, hidden) = (at, next, next_hidden);
    }
    rollup.add_time(state, hidden, end.max(from).abs_diff(from));
}

pub(crate) fn joined(numbers: &[u64]) -> String {
    let mut out = String::new();
    for (n, number) in numbers.iter().enumerate() {
        if n > 0 {
            out.push(',');
        }
        out.push_str(&number.to_string());
    }
    out
}

/// Numbers between commas. Fewer than wanted (an older version knew fewer words) leaves the rest at 0.
fn split<const N: usize>(text: &str) -> [u64; N] {
    let mut out = [0; N];
    for (place, number) in out.iter_mut().zip(text.split(',')) {
        *place = number.parse().unwrap_or(0);
    }
    out
}

/// Reads the columns of [`rollup_columns`]: the start and the rest.
pub(crate) fn of_row(row: &mut Row) -> Result<(i64, Rollup), sqlx::Error> {
    Ok((
        row.int()?,
        Rollup {
            runs: row.count()?,
            failures: row.count()?,
            degraded: row.count()?,
            latency_sum: row.count()?,
            latency_max: row.count()?,
            buckets: split(&row.text()?),
            reasons: split(&row.text()?),
            unknown_us: row.count()?,
            healthy_us: row.count()?,
            degraded_us: row.count()?,
            unhealthy_us: row.count()?,
            hidden_us: row.count()?,
        },
    ))
}

/// Roll-ups of one check, the newest first, with the start of each.
///
/// # Errors
/// The database is away or refuses.
pub async fn list(
    catalog: &Catalog,
    (host, check): (&str, &str),
    span: Span,
    since: Option<Moment>,
    until: Option<Moment>,
    at_most: u32,
) -> Result<Vec<(Moment, Rollup)>, CatalogError> {
    let (since, until) = range(since, until);
    let work = async {
        let mut tx = catalog.begin_read().await?;
        let mut out = Vec::new();
        let wanted = values![host, check, span.as_str(), since, until, limit(at_most)];
        for mut row in tx.rows(LIST, &wanted).await? {
            let (start, rollup) = of_row(&mut row)?;
            if let Some(start) = sql::moment(start) {
                out.push((start, rollup));
            }
        }
        Ok(out)
    };
    catalog.ask(Operation::Read, work).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use keepwatch_model::checks::CheckOutcome;
    use proptest::prelude::*;
    use std::time::Duration;

    impl Rollup {
        /// Adds a result, as the database adds them up.
        fn add_result(&mut self, outcome: CheckOutcome, latency: Duration) {
            let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
            self.runs += 1;
            self.latency_sum = self.latency_sum.saturating_add(micros);
            self.latency_max = self.latency_max.max(micros);
            let bucket = LATENCY_BOUNDS.iter().position(|bound| micros <= *bound);
            self.buckets[bucket.unwrap_or(BUCKETS - 1)] += 1;
            match outcome {
                CheckOutcome::Success => {}
                CheckOutcome::Degraded => self.degraded += 1,
                CheckOutcome::Failure(reason) => {
                    self.failures += 1;
                    if let Some(at) = FailureReason::ALL.iter().position(|r| *r == reason) {
                        self.reasons[at] += 1;
                    }
                }
            }
        }
    }

    fn outcomes() -> impl Strategy<Value = CheckOutcome> {
        prop_oneof![
            Just(CheckOutcome::Success),
            Just(CheckOutcome::Degraded),
            (0..REASONS).prop_map(|n| CheckOutcome::Failure(FailureReason::ALL[n])),
        ]
    }

    fn states() -> impl Strategy<Value = CheckState> {
        (0..CheckState::ALL.len()).prop_map(|n| CheckState::ALL[n])
    }

    proptest! {
        #[test]
        fn parts_come_to_the_whole(results in prop::collection::vec((outcomes(), 0u64..20_000_000), 0..60), at in 0usize..60) {
            let of = |part: &[(CheckOutcome, u64)]| {
                let mut sum = Rollup::default();
                for (outcome, micros) in part {
                    sum.add_result(*outcome, Duration::from_micros(*micros));
                }
                sum
            };
            let (first, second) = results.split_at(at.min(results.len()));
            let mut merged = of(first);
            merged.merge(&of(second));
            let whole = of(&results);
            prop_assert_eq!(&merged, &whole);
            prop_assert_eq!(whole.buckets.iter().sum::<u64>(), whole.runs);
            prop_assert_eq!(whole.reasons.iter().sum::<u64>(), whole.failures);
            // The estimate lies in the bucket of the true quantile.
            let mut sorted: Vec<u64> = results.iter().map(|r| r.1).collect();
            sorted.sort_unstable();
            for share in [0.5, 0.9, 0.99, 1.0] {
                match whole.latency_quantile(share) {
                    None => prop_assert!(sorted.is_empty()),
                    Some(estimate) => {
                        let rank = ((share * sorted.len() as f64).ceil() as usize).clamp(1, sorted.len());
                        let exact = sorted[rank - 1];
                        let bucket = |n: u64| LATENCY_BOUNDS.iter().position(|b| n <= *b).unwrap_or(BUCKETS);
                        prop_assert!(bucket(estimate).abs_diff(bucket(exact)) <= 1, "{} for {}", estimate, exact);
                        prop_assert!(estimate <= whole.latency_max);
                    }
                }
            }
        }

        #[test]
        fn every_microsecond_has_one_state(
            first in states(), hidden in any::<bool>(),
            mut changes in prop::collection::vec((0i64..HOUR, states(), any::<bool>()), 0..20)
        ) {
            changes.sort_by_key(|c| c.0);
            let mut sum = Rollup::default();
            add_states(&mut sum, (0, HOUR), (first, hidden), changes.clone());
            let total = sum.unknown_us + sum.healthy_us + sum.degraded_us + sum.unhealthy_us;
            prop_assert_eq!(total, HOUR as u64);
            prop_assert!(sum.hidden_us <= total);
            // Asked another way: each stretch between two changes belongs to the state before it.
            let mut edges: Vec<(i64, CheckState, bool)> = vec![(0, first, hidden)];
            edges.extend(changes);
            let mut healthy = 0;
            for (n, (at, state, _)) in edges.iter().enumerate() {
                let until = edges.get(n + 1).map_or(HOUR, |e| e.0);
                if *state == CheckState::Healthy {
                    healthy += until - at;
                }
            }
            prop_assert_eq!(sum.healthy_us, healthy as u64);
        }

        #[test]
        fn numbers_come_back(numbers in prop::array::uniform12(any::<u64>())) {
            prop_assert_eq!(split::<12>(&joined(&numbers)), numbers);
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = split::<REASONS>(&text);
        }
    }

    #[test]
    fn floors_go_down() {
        assert_eq!(floor(-1, HOUR), -HOUR);
        assert_eq!(floor(HOUR, HOUR), HOUR);
        assert_eq!(floor(HOUR - 1, HOUR), 0);
        assert_eq!(floor(i64::MIN, DAY) % DAY, 0);
        assert_eq!(floor(i64::MAX, DAY) % DAY, 0);
    }

    #[test]
    fn availability_is_of_the_time_that_is_known() {
        let mut day = Rollup::default();
        assert_eq!(day.availability(), None);
        day.add_time(CheckState::Unknown, false, 50);
        assert_eq!(day.availability(), None);
        day.add_time(CheckState::Healthy, false, 60);
        day.add_time(CheckState::Degraded, true, 30);
        day.add_time(CheckState::Unhealthy, false, 10);
        assert_eq!(day.availability(), Some(0.9));
    }
}

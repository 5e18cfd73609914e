//! What was, as far as alerts need it: a few numbers over minutes, hours and days, in the memory of the daemon.
//!
//! Prometheus keeps all of it; here are samples of those few series that rules look back at, taken at most each [`EVERY`]. They are
//! not stored: after a start what looks back begins anew, and says nothing until it knows enough.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use keepwatch_expose::facts::{At, Facts};

/// Between two samples of anything.
pub const EVERY: Duration = Duration::from_secs(15);

/// Samples over a time: 16 to 24 bytes each, as many as `span / spacing` and [`POINTS`] at most.
#[derive(Debug, Default)]
pub struct Series<V>(VecDeque<(At, V)>);

/// Samples of one series at most.
const POINTS: usize = 256;

impl<V: Copy + PartialOrd> Series<V> {
    /// Takes a sample, unless the last one is nearer than `spacing`. What lies before `span` is forgotten, but for the last of it.
    pub fn note(&mut self, now: At, value: V, span: Duration, spacing: Duration) {
        if self.0.back().is_some_and(|(at, _)| *at > now) {
            // The clock was set back.
            self.0.clear();
        }
        if self
            .0
            .back()
            .is_some_and(|(at, _)| now.since(*at) < spacing)
        {
            return;
        }
        self.0.push_back((now, value));
        let is_before = |p: Option<&(At, V)>| p.is_some_and(|(at, _)| now.since(*at) >= span);
        while self.0.len() > POINTS || is_before(self.0.get(1)) {
            self.0.pop_front();
        }
    }

    /// The same for what only grows: a sample when it has, and all anew when it begins anew.
    pub fn count(&mut self, now: At, value: V, span: Duration) {
        if self.0.back().is_some_and(|(_, last)| value < *last) {
            self.0.clear();
        }
        if self.0.back().is_none_or(|(_, last)| value > *last) {
            self.note(now, value, span, Duration::ZERO);
        }
    }

    /// As it was so long ago, or as early as is known, with when that was.
    pub fn before(&self, now: At, span: Duration) -> Option<(At, V)> {
        let old = self.0.iter().rev().find(|(at, _)| now.since(*at) >= span);
        old.or(self.0.front()).copied()
    }

    fn values(&self) -> impl Iterator<Item = V> + '_ {
        self.0.iter().map(|(_, v)| *v)
    }
}

impl Series<f64> {
    /// Whether any value is above this; cheap, because it is asked at each look.
    pub fn reaches(&self, limit: f64) -> bool {
        self.values().any(|v| v > limit)
    }

    /// So much of the values is at most this: `quantile_over_time` of Prometheus. None before `least` samples.
    pub fn quantile(&self, share: f64, least: usize) -> Option<f64> {
        let mut values: Vec<f64> = self.values().collect();
        if values.len() < least.max(1) {
            return None;
        }
        values.sort_by(f64::total_cmp);
        let rank = share * (values.len() - 1) as f64;
        let (low, high) = (rank.floor() as usize, rank.ceil() as usize);
        let (a, b) = (*values.get(low)?, *values.get(high)?);
        Some(a + (b - a) * (rank - rank.floor()))
    }

    /// Where the straight line through the samples will be so much later: `predict_linear` of Prometheus. None when it is not known for
    /// `least`.
    pub fn ahead(&self, now: At, later: Duration, least: Duration) -> Option<f64> {
        let (first, _) = self.0.front()?;
        if now.since(*first) < least {
            return None;
        }
        let n = self.0.len() as f64;
        // Seconds before now.
        let x = |at: At| -now.since(at).as_secs_f64();
        let mean_x = self.0.iter().map(|(at, _)| x(*at)).sum::<f64>() / n;
        let mean_y = self.values().sum::<f64>() / n;
        let (mut up, mut down) = (0.0, 0.0);
        for (at, y) in &self.0 {
            up += (x(*at) - mean_x) * (y - mean_y);
            down += (x(*at) - mean_x).powi(2);
        }
        if down == 0.0 {
            return None;
        }
        let slope = up / down;
        Some(mean_y + slope * (later.as_secs_f64() - mean_x))
    }
}

/// When a counter grew last.
#[derive(Clone, Copy, Debug, Default)]
pub struct Grown {
    value: u64,
    at: Option<At>,
}

impl Grown {
    fn note(&mut self, now: At, value: u64) {
        if value > self.value || (value < self.value && value > 0) {
            self.at = Some(now);
        }
        self.value = value;
    }

    /// When, if that was within this time.
    pub fn within(&self, now: At, span: Duration) -> Option<At> {
        self.at.filter(|at| now.since(*at) < span)
    }
}

/// Of an hour, 16 bytes a minute for each check; 24 where durations are meant.
#[derive(Debug, Default)]
pub struct OfCheck {
    /// Runs and failed runs.
    pub runs: Series<(u32, u32)>,
    /// Seconds that runs took, each half minute of a quarter of an hour.
    pub durations: Series<f64>,
    /// Bytes available, each five minutes of six hours, where it is a disk.
    pub room: Series<f64>,
}

/// What was of repositories.
#[derive(Debug, Default)]
pub struct OfRepository {
    /// Requests and failed ones.
    pub requests: Series<(u64, u64)>,
    /// Bytes available, each hour of three days.
    pub room: Series<f64>,
}

/// What was.
#[derive(Debug, Default)]
pub struct Past {
    looked: Option<At>,
    /// By check.
    pub checks: BTreeMap<String, OfCheck>,
    /// By repository.
    pub repositories: BTreeMap<String, OfRepository>,
    /// Attempts, by unit.
    pub restarts: BTreeMap<String, Series<u64>>,
    /// Failed jobs, by unit and reason.
    pub jobs: BTreeMap<String, BTreeMap<String, Grown>>,
    /// Seconds waited for, by resource.
    pub waited: BTreeMap<&'static str, Series<f64>>,
    /// Records lost, by sink.
    pub dropped: BTreeMap<String, Grown>,
    /// Errors of the catalog.
    pub errors: Grown,
}

/// The sink that counts for all time, so that what it begins with is no news.
const FOR_ALL_TIME: &str = "spool";

pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const DAY: Duration = Duration::from_secs(86_400);
pub(super) const QUARTER: Duration = Duration::from_secs(900);

impl Past {
    /// Takes samples of what is now, when it is time to.
    pub fn note(&mut self, facts: &Facts, errors: u64, now: At) {
        let is_soon = |at: At| at <= now && now.since(at) < EVERY;
        if self.looked.is_some_and(is_soon) {
            return;
        }
        self.looked = Some(now);
        self.errors.note(now, errors);
        self.note_checks(facts, now);
        keep(&mut self.repositories, |name| {
            facts.repositories.iter().any(|r| r.name == *name)
        });
        for r in &facts.repositories {
            let past = self.repositories.entry(r.name.clone()).or_default();
            if !r.requests.is_empty() {
                let count = (r.requests.values().sum(), r.request_errors.values().sum());
                past.requests.count(now, count, 6 * HOUR);
            }
            if let Some(available) = r.available {
                past.room.note(now, available as f64, 3 * DAY, HOUR);
            }
        }
        keep(&mut self.restarts, |name| {
            facts.units.iter().any(|u| u.name == *name)
        });
        keep(&mut self.jobs, |name| {
            facts.units.iter().any(|u| u.name == *name)
        });
        for u in &facts.units {
            let past = self.restarts.entry(u.name.clone()).or_default();
            past.count(now, u.restarts, HOUR);
            let jobs = self.jobs.entry(u.name.clone()).or_default();
            for (reason, n) in &u.failures {
                jobs.entry(reason.clone()).or_default().note(now, *n);
            }
        }
        for (resource, waited) in &facts.host.pressure {
            let past = self.waited.entry(resource).or_default();
            past.note(now, waited.as_secs_f64(), 5 * MINUTE, EVERY);
        }
        for (sink, n) in &facts.agent.history_dropped {
            let known = self.dropped.entry(sink.clone()).or_insert(Grown {
                value: if sink == FOR_ALL_TIME { *n } else { 0 },
                at: None,
            });
            known.note(now, *n);
        }
    }

    fn note_checks(&mut self, facts: &Facts, now: At) {
        let names: std::collections::BTreeSet<&str> =
            facts.checks.iter().map(|c| c.name.as_str()).collect();
        keep(&mut self.checks, |name| names.contains(name.as_str()));
        for c in &facts.checks {
            if !self.checks.contains_key(c.name.as_str()) {
                self.checks
                    .insert(c.name.as_str().to_owned(), OfCheck::default());
            }
            let Some(past) = self.checks.get_mut(c.name.as_str()) else {
                continue;
            };
            let short = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
            let runs = (short(c.runs), short(c.failures.values().sum()));
            if past
                .runs
                .values()
                .last()
                .is_some_and(|last| runs.0 < last.0)
            {
                past.runs = Series::default();
            }
            past.runs.note(now, runs, HOUR, MINUTE);
            if let Some(took) = c.last_duration {
                let half = MINUTE / 2;
                past.durations.note(now, took.as_secs_f64(), QUARTER, half);
            }
            if let Some(disk) = c.disks.first() {
                let room = disk.available as f64;
                past.room.note(now, room, 6 * HOUR, 5 * MINUTE);
            }
        }
    }
}

fn keep<V>(map: &mut BTreeMap<String, V>, is_there: impl Fn(&String) -> bool) {
    map.retain(|name, _| is_there(name));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> At {
        At(secs * 1000)
    }

    #[test]
    fn samples_are_few_and_one_lies_before_the_span() {
        let mut s = Series::default();
        for n in 0..1000 {
            s.note(at(n * 20), n, HOUR, MINUTE);
        }
        assert!(s.0.len() <= 62, "{}", s.0.len());
        let now = at(999 * 20);
        let (first, _) = s.before(now, HOUR).expect("one");
        assert!((3600..3720).contains(&now.since(first).as_secs()));
        let (five, _) = s.before(now, 5 * MINUTE).expect("one");
        assert!((300..=360).contains(&now.since(five).as_secs()));
        // A clock that was set back begins anew.
        s.note(at(5), 7, HOUR, MINUTE);
        assert_eq!(s.before(at(5), HOUR), Some((at(5), 7)));
        let mut c = Series::default();
        for (now, n) in [(0, 3), (10, 3), (20, 5), (4000, 6), (4010, 2)] {
            c.count(at(now), n, HOUR);
        }
        assert_eq!(c.before(at(4010), HOUR), Some((at(4010), 2)));
        let mut c = Series::default();
        for n in 0..10_000 {
            c.count(at(0), n, HOUR);
        }
        assert_eq!(c.0.len(), POINTS);
    }

    #[test]
    fn quantiles_and_lines_are_those_of_prometheus() {
        let mut s = Series::default();
        assert_eq!(s.quantile(0.9, 1), None);
        for n in 0..11 {
            s.note(at(n), (n * 10) as f64, HOUR, Duration::ZERO);
        }
        assert_eq!(s.quantile(0.9, 1), Some(90.0));
        assert_eq!(s.quantile(0.95, 1), Some(95.0));
        assert_eq!(s.quantile(0.9, 12), None);
        let ahead = s.ahead(at(10), Duration::from_secs(5), Duration::from_secs(10));
        assert!((ahead.expect("a line") - 150.0).abs() < 1e-6, "{ahead:?}");
        assert_eq!(s.ahead(at(10), HOUR, Duration::from_secs(11)), None);
    }

    #[test]
    fn growth_is_seen() {
        let mut g = Grown::default();
        g.note(at(0), 0);
        assert_eq!(g.within(at(0), HOUR), None);
        g.note(at(10), 2);
        g.note(at(20), 2);
        assert_eq!(g.within(at(3609), HOUR), Some(at(10)));
        assert_eq!(g.within(at(3610), HOUR), None);
        // It began anew, and grew.
        g.note(at(4000), 1);
        assert_eq!(g.within(at(4000), HOUR), Some(at(4000)));
    }
}

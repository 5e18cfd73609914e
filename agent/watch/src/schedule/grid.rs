//! When a check is due: a fixed-rate grid on the monotonic clock.
//!
//! The points of the grid are `phase + k × interval`. The phase is a hash of the host and the check's name, so checks of a host
//! and hosts of a fleet spread by themselves, and a restart of the daemon asks at the same moments as before. The first run
//! comes within [`FIRST_WITHIN`] of the start, spread by the same hash. A run that lasts longer than its interval makes the
//! points that it missed *skipped*: they are counted and never made up for in a burst.
//!
//! The checks of one host share their moments: an interval has 6 to 15 of them where it divides so, and all lie on the host's
//! [`Beat`], where its other periodic tasks run, too. An idle processor is then woken some times for all instead of some times
//! for each. Which moments these are hangs on the host, so a fleet spreads as evenly as before.

use std::time::Duration;

/// The first run after a start comes within this time (or within one interval, when that is shorter).
pub const FIRST_WITHIN: Duration = Duration::from_secs(10);

/// Moments lie this far apart at most, in milliseconds; all that runs every 5 s, or a multiple of it, shares its moments.
const BEAT: u64 = 5000;
/// Distances that moments may have, in milliseconds; each is a part of those before it.
const STEPS: [u64; 5] = [BEAT, 2500, 500, 250, 50];
/// An interval has at least so many moments, among which its checks spread.
const MOMENTS: u64 = 6;

/// A stable 64-bit hash of a host's id and a name (FNV-1a, with the finish of SplitMix64 to spread short names). It must never
/// change: every host of a fleet would be shifted.
pub fn spread(host: &str, name: &str) -> u64 {
    let mut h = 0xcbf2_9ce4_8422_2325_u64;
    for b in host.bytes().chain([0]).chain(name.bytes()) {
        h = (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
    }
    h = (h ^ (h >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h = (h ^ (h >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    h ^ (h >> 31)
}

/// The moments at which a host does what it does periodically: every 5 s on the monotonic clock, shifted by a hash of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat(u64);

impl Beat {
    /// Of this host.
    pub fn of(host: &str) -> Self {
        Self(spread(host, "") % BEAT)
    }

    /// The first moment after `now`.
    pub fn after(self, now: Duration) -> Duration {
        let now = millis(now);
        let passed = (now + BEAT - self.0) / BEAT;
        Duration::from_millis(self.0.saturating_add(passed.saturating_mul(BEAT)))
    }
}

/// How far apart the moments of an interval lie; 1 where it does not divide.
fn step(interval: u64) -> u64 {
    let fits = |s: &u64| interval % s == 0 && interval / s >= MOMENTS;
    STEPS.into_iter().find(fits).unwrap_or(1)
}

/// The grid of one check. Times are those of the monotonic clock, in milliseconds inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    interval: u64,
    phase: u64,
    first: u64,
}

impl Grid {
    /// The grid of a check. An interval below 1 ms counts as 1 ms.
    pub fn new(host: &str, name: &str, interval: Duration) -> Self {
        let interval = millis(interval).max(1);
        let hash = spread(host, name);
        let step = step(interval);
        let moment = hash % (interval / step) * step;
        Self {
            interval,
            phase: (Beat::of(host).0 % step + moment) % interval,
            first: hash % millis(FIRST_WITHIN).min(interval).max(1),
        }
    }

    /// The first run after a start at `now`.
    pub fn first(&self, now: Duration) -> Duration {
        now.saturating_add(Duration::from_millis(self.first))
    }

    /// The first point of the grid after `now`.
    pub fn after(&self, now: Duration) -> Duration {
        let now = millis(now);
        let point = if now < self.phase {
            self.phase
        } else {
            let passed = (now - self.phase) / self.interval;
            self.phase
                .saturating_add(passed.saturating_add(1).saturating_mul(self.interval))
        };
        Duration::from_millis(point)
    }

    /// Points after `from` and not after `to`: those that a run from one to the other missed.
    pub fn between(&self, from: Duration, to: Duration) -> u64 {
        let next = self.after(from);
        if next > to {
            return 0;
        }
        (millis(to) - millis(next)) / self.interval + 1
    }
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_hash_never_changes() {
        assert_eq!(spread("", ""), spread("", ""));
        assert_ne!(spread("ab", "c"), spread("a", "bc"));
        let g = Grid::new("host", "web", Duration::from_secs(60));
        assert_eq!(g, Grid::new("host", "web", Duration::from_secs(60)));
    }

    #[test]
    fn a_fleet_is_spread() {
        // 1000 hosts with the same check: no tenth of the interval has less than half or more than double its share.
        let interval = Duration::from_secs(60);
        let mut tenths = [0; 10];
        for host in 0..1000 {
            let at = Grid::new(&format!("host-{host}"), "web", interval).after(Duration::ZERO);
            tenths[(at.as_millis() % 60_000 / 6000) as usize] += 1;
        }
        assert!(tenths.iter().all(|n| (50..200).contains(n)), "{tenths:?}");
    }

    #[test]
    fn a_host_spreads_its_checks_over_moments_that_they_share() {
        for (seconds, moments) in [(30, 6), (15, 6), (60, 12), (10, 20), (7, 14), (5, 10)] {
            let interval = Duration::from_secs(seconds);
            let mut at = std::collections::BTreeMap::new();
            for n in 0..50 * moments {
                let point =
                    Grid::new("host", &format!("check-{n}"), interval).after(Duration::ZERO);
                *at.entry(point).or_insert(0) += 1;
            }
            assert_eq!(at.len(), moments, "{seconds} s");
            assert!(at.values().all(|n| (25..100).contains(n)), "{at:?}");
        }
        // What does not divide is spread over the whole of it.
        let odd = Duration::from_millis(7919);
        let points: std::collections::BTreeSet<_> = (0..50)
            .map(|n| Grid::new("host", &format!("check-{n}"), odd).after(Duration::ZERO))
            .collect();
        assert!(points.len() > 40);
    }

    #[test]
    fn checks_of_thirty_seconds_run_on_the_beat() {
        let beat = Beat::of("host");
        let first = beat.after(Duration::ZERO);
        assert!(first <= Duration::from_secs(5));
        assert_eq!(beat.after(first), first + Duration::from_secs(5));
        for n in 0..20 {
            let grid = Grid::new("host", &format!("check-{n}"), Duration::from_secs(30));
            let point = grid.after(Duration::ZERO);
            let before = point.saturating_sub(Duration::from_millis(1));
            assert!(point < first || beat.after(before) == point);
        }
    }

    #[test]
    fn a_short_interval_starts_within_itself() {
        let g = Grid::new("h", "n", Duration::from_secs(1));
        assert!(g.first(Duration::ZERO) < Duration::from_secs(1));
        let g = Grid::new("h", "n", Duration::ZERO);
        assert_eq!(g.after(Duration::from_secs(1)), Duration::from_millis(1001));
    }

    proptest! {
        #[test]
        fn points_lie_on_the_grid(name in "[a-z]{1,8}", secs in 1u64..4000, now in 0u64..10_000_000, length in 0u64..10_000_000) {
            let interval = Duration::from_secs(secs);
            let g = Grid::new("host", &name, interval);
            let now = Duration::from_millis(now);
            let next = g.after(now);
            prop_assert!(next > now && next - now <= interval.max(Duration::from_millis(g.phase)));
            prop_assert_eq!(g.after(next), next + interval);
            prop_assert!(g.first(now) - now < FIRST_WITHIN.min(interval));
            let beat = Beat::of(&name);
            prop_assert!(beat.after(now) > now && beat.after(now) - now <= Duration::from_millis(BEAT));
            // Counting the missed points one by one gives the same number.
            let to = now + Duration::from_millis(length);
            let mut count = 0;
            let mut at = g.after(now);
            while at <= to && count < 3000 { count += 1; at = g.after(at); }
            if count < 3000 { prop_assert_eq!(g.between(now, to), count); }
        }
    }
}

//! Time as an argument: [`At`] on the wall, [`Clock`] for both clocks, and the noticing of jumps.
//!
//! Two clocks are needed. The *monotonic* one says when the next run is due: it never jumps, and it stands still while the
//! host sleeps. The *wall* clock says when something happened: only it means anything to a person or after a restart of the
//! daemon. Decisions over minutes (flapping, cooldowns, budgets) must outlive the daemon, so they use the wall clock; a jump
//! of it would end a cooldown early or stretch it over years, so jumps are noticed ([`Drift`]) and states are realigned.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::alarm::Alarm;

/// A moment on the wall clock: milliseconds since 1970-01-01T00:00:00Z.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct At(pub i64);

impl At {
    /// From seconds since 1970, for tables in tests and records.
    pub const fn from_secs(secs: i64) -> Self {
        Self(secs.saturating_mul(1000))
    }

    /// How long ago `earlier` was; zero when it lies in the future.
    pub fn since(self, earlier: At) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// So much later; at most the end of time.
    pub fn plus(self, by: Duration) -> At {
        At(self
            .0
            .saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
    }

    /// So much earlier.
    pub fn minus(self, by: Duration) -> At {
        At(self
            .0
            .saturating_sub(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
    }

    /// Seconds since 1970, for metrics.
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1000.0
    }

    /// For calendars; the ends of jiff's range where this is outside of it.
    pub fn timestamp(self) -> jiff::Timestamp {
        jiff::Timestamp::from_millisecond(self.0).unwrap_or(if self.0 < 0 {
            jiff::Timestamp::MIN
        } else {
            jiff::Timestamp::MAX
        })
    }
}

impl From<jiff::Timestamp> for At {
    fn from(t: jiff::Timestamp) -> Self {
        At(t.as_millisecond())
    }
}

impl fmt::Display for At {
    /// RFC 3339 in UTC.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.timestamp())
    }
}

/// The two clocks of the host.
pub trait Clock: Send + Sync {
    /// Never goes back, does not count while the host sleeps; from an origin that stays the same until the host starts anew.
    fn monotonic(&self) -> Duration;
    /// What a clock on the wall shows.
    fn wall(&self) -> At;
    /// What waits by the monotonic one. Called within a runtime.
    fn alarm(&self) -> Alarm {
        Alarm::default()
    }
}

/// The real clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostClock;

impl Clock for HostClock {
    fn monotonic(&self) -> Duration {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        Duration::new(
            u64::try_from(t.tv_sec).unwrap_or(0),
            u32::try_from(t.tv_nsec).unwrap_or(0),
        )
    }

    fn alarm(&self) -> Alarm {
        Alarm::of_host()
    }

    fn wall(&self) -> At {
        match SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
            Ok(d) => At(i64::try_from(d.as_millis()).unwrap_or(i64::MAX)),
            Err(e) => At(-i64::try_from(e.duration().as_millis()).unwrap_or(i64::MAX)),
        }
    }
}

/// A difference between the clocks of this size is a jump (or a sleep), not the slewing of a time daemon.
pub const JUMP: Duration = Duration::from_secs(30);

/// Notices that the wall clock and the monotonic clock went apart.
#[derive(Clone, Copy, Debug)]
pub struct Drift {
    /// Wall minus monotonic, in milliseconds.
    offset: i64,
}

impl Drift {
    /// Takes the present difference for right.
    pub fn new(clock: &dyn Clock) -> Self {
        Self {
            offset: Self::offset(clock),
        }
    }

    fn offset(clock: &dyn Clock) -> i64 {
        let monotonic = i64::try_from(clock.monotonic().as_millis()).unwrap_or(i64::MAX);
        clock.wall().0.saturating_sub(monotonic)
    }

    /// By how many milliseconds the wall clock jumped since the last look, when that is [`JUMP`] or more. Smaller steps are
    /// taken over silently.
    pub fn look(&mut self, clock: &dyn Clock) -> Option<i64> {
        let now = Self::offset(clock);
        let jump = now.saturating_sub(self.offset);
        self.offset = now;
        (u128::from(jump.unsigned_abs()) >= JUMP.as_millis()).then_some(jump)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    struct Fake(Mutex<(Duration, At)>);
    impl Clock for Fake {
        fn monotonic(&self) -> Duration {
            self.0.lock().unwrap().0
        }
        fn wall(&self) -> At {
            self.0.lock().unwrap().1
        }
    }

    #[test]
    fn arithmetic_stays_inside_its_range() {
        assert_eq!(
            At::from_secs(10).since(At::from_secs(4)),
            Duration::from_secs(6)
        );
        assert_eq!(At::from_secs(4).since(At::from_secs(10)), Duration::ZERO);
        assert_eq!(At(i64::MAX).plus(Duration::MAX), At(i64::MAX));
        assert_eq!(At(i64::MIN).minus(Duration::MAX), At(i64::MIN));
        assert_eq!(
            At(i64::MAX).since(At(i64::MIN)).as_millis() as i64,
            i64::MAX
        );
        let _ = (At(i64::MAX).timestamp(), At(i64::MIN).timestamp());
        assert_eq!(At::from_secs(0).to_string(), "1970-01-01T00:00:00Z");
    }

    #[test]
    fn a_jump_is_told_from_slewing_and_reported_once() {
        let clock = Fake(Mutex::new((Duration::from_secs(5), At::from_secs(1000))));
        let mut drift = Drift::new(&clock);
        let set = |m: u64, w: i64| {
            *clock.0.lock().unwrap() = (Duration::from_secs(m), At::from_secs(w));
        };
        set(65, 1060);
        assert_eq!(drift.look(&clock), None, "both moved alike");
        set(125, 1125);
        assert_eq!(drift.look(&clock), None, "5 s of slewing");
        set(126, 1126 + 3600);
        assert_eq!(
            drift.look(&clock),
            Some(3_600_000),
            "an hour ahead, or asleep"
        );
        set(127, 1127 + 3600);
        assert_eq!(drift.look(&clock), None, "once");
        set(128, 0);
        assert!(drift.look(&clock).unwrap() < 0, "back to 1970");
    }

    #[test]
    fn the_host_clock_moves() {
        let a = HostClock.monotonic();
        assert!(a > Duration::ZERO && HostClock.monotonic() >= a);
        assert!(HostClock.wall() > At::from_secs(1_700_000_000));
    }
}

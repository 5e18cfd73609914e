//! A limit in bytes per second, shared by all transfers of one direction: virtual scheduling (the "generic cell rate algorithm", ITU-T I.371). It remembers one
//! number, the time at which all that was granted so far will have passed at the given rate; who comes early waits.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How far ahead of the rate a burst may run.
const BURST: Duration = Duration::from_millis(100);

/// See the module.
pub struct Rate {
    bytes_per_second: u64,
    next: Mutex<Option<Instant>>,
}

impl Rate {
    /// At least one byte per second.
    pub fn new(bytes_per_second: u64) -> Self {
        Rate {
            bytes_per_second: bytes_per_second.max(1),
            next: Mutex::new(None),
        }
    }

    /// Grants `bytes`, to be moved after the wait that is returned.
    pub fn take(&self, bytes: usize, now: Instant) -> Duration {
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let mut next = self.next.lock().unwrap_or_else(|e| e.into_inner());
        let at = next.map_or(now, |n| n.max(now));
        *next = Some(at + cost);
        (at - now).saturating_sub(BURST)
    }

    /// The most to take at once, so that the pauses stay short: a fifth of a second's worth, between 1 KiB and 64 KiB.
    pub fn piece(&self) -> usize {
        (self.bytes_per_second / 5).clamp(1 << 10, 64 << 10) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_never_exceeds_the_rate_by_more_than_the_burst() {
        for (rate, piece) in [(1_000u64, 100usize), (1_000_000, 65_536), (50, 1024)] {
            let limit = Rate::new(rate);
            let start = Instant::now();
            let mut now = start;
            let mut moved = 0usize;
            for _ in 0..200 {
                now += limit.take(piece, now);
                moved += piece;
                // A piece is granted before its time has passed: one piece beyond, and the burst.
                let allowed = rate as f64 * ((now - start) + BURST).as_secs_f64() + piece as f64;
                assert!(moved as f64 <= allowed + 1.0, "{moved} of {allowed}");
            }
            let ideal = moved as f64 / rate as f64;
            assert!(
                (now - start).as_secs_f64() > ideal * 0.9 - 2.0 * piece as f64 / rate as f64 - 0.1
            );
        }
    }

    #[test]
    fn time_that_nobody_used_is_not_saved_up() {
        let limit = Rate::new(1000);
        let start = Instant::now();
        assert_eq!(limit.take(100, start), Duration::ZERO);
        let later = start + Duration::from_secs(3600);
        limit.take(1000, later);
        assert!(limit.take(1000, later) >= Duration::from_millis(850));
    }
}

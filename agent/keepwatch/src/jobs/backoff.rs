//! When a run that failed is tried again: after the configured delay, then after twice as long, and so on, with a lot drawn each time so
//! that many hosts do not come back to one server in step. Pure: the lot is an argument.

use std::time::Duration;

/// No pause grows beyond this, unless the configured delay is longer.
pub const LONGEST: Duration = Duration::from_secs(3600);

/// The pause after the `failed`-th failure (from 1). `lot` lies between 0 and 1; it moves the pause by a quarter either way.
pub fn pause(first: Duration, failed: u32, lot: f64) -> Duration {
    let doublings = failed.saturating_sub(1).min(31);
    let whole = first.saturating_mul(1 << doublings).min(first.max(LONGEST));
    let lot = if lot.is_finite() {
        lot.clamp(0.0, 1.0)
    } else {
        0.5
    };
    whole.mul_f64(0.75 + lot / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound_and_scatter() {
        let s = Duration::from_secs;
        for (first, failed, lot, want) in [
            (s(300), 1, 0.5, s(300)),
            (s(300), 2, 0.5, s(600)),
            (s(300), 3, 0.5, s(1200)),
            (s(300), 5, 0.5, s(3600)),
            (s(300), 20, 0.5, s(3600)),
            (s(300), u32::MAX, 0.5, s(3600)),
            (s(86_400), 3, 0.5, s(86_400)),
            (s(100), 1, 0.0, s(75)),
            (s(100), 1, 1.0, s(125)),
            (s(100), 0, 0.5, s(100)),
            (s(100), 1, f64::NAN, s(100)),
            (s(100), 1, 7.0, s(125)),
        ] {
            assert_eq!(pause(first, failed, lot), want, "{first:?} {failed} {lot}");
        }
    }
}

//! Limits on measured values: a warning that begins at one limit and clears at another, and a limit of failure.
//!
//! One form serves every kind of check: latency, days of a certificate, used share of a disk, replication lag. The distance
//! between `warn` and `clear` is the hysteresis that keeps a value at the limit from switching back and forth.

use keepwatch_model::check::{Reason, RunResult};
use serde::{Deserialize, Serialize};

use crate::outcome::{Failure, Outcome, Quantity};

/// Bands that one check may have.
pub const BANDS_MAX: usize = 16;
/// Without a `clear` limit the value must come back by this share of the warning limit.
const HYSTERESIS: f64 = 0.05;

/// On which side of the limit it is bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// Large values are bad.
    Above,
    /// Small values are bad.
    Below,
}

/// Limits on one quantity.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Band {
    /// What is limited.
    pub quantity: Quantity,
    /// Which side is bad.
    pub side: Side,
    /// Beyond this the run is degraded.
    #[serde(default)]
    pub warn: Option<f64>,
    /// A warning ends when the value is back at this or better; by default 5 % of `warn` away from it.
    #[serde(default)]
    pub clear: Option<f64>,
    /// Beyond this the run fails with [`Reason::Threshold`].
    #[serde(default)]
    pub fail: Option<f64>,
}

impl Band {
    /// Whether the limits make sense together.
    ///
    /// # Errors
    /// A sentence: no limit at all, a limit that is not finite, `clear` without `warn` or beyond it, `warn` beyond `fail`.
    pub fn check(&self) -> Result<(), String> {
        let all = [self.warn, self.clear, self.fail];
        if all.iter().flatten().any(|v| !v.is_finite()) {
            return Err("a limit is not a number".into());
        }
        match (self.warn, self.clear, self.fail) {
            (None, _, None) => Err("neither warn nor fail is set".into()),
            (None, Some(_), _) => Err("clear is set, but warn is not".into()),
            (Some(warn), Some(clear), _) if self.beyond(clear, warn) => {
                Err("clear is beyond warn: the warning would end before it begins".into())
            }
            (Some(warn), _, Some(fail)) if self.beyond(warn, fail) => {
                Err("warn is beyond fail: it would never warn".into())
            }
            _ => Ok(()),
        }
    }

    fn beyond(&self, value: f64, limit: f64) -> bool {
        match self.side {
            Side::Above => value > limit,
            Side::Below => value < limit,
        }
    }

    fn clear_limit(&self, warn: f64) -> f64 {
        self.clear.unwrap_or_else(|| {
            let step = warn.abs() * HYSTERESIS;
            match self.side {
                Side::Above => warn - step,
                Side::Below => warn + step,
            }
        })
    }

    /// Whether it warns now, given whether it did before.
    fn warns(&self, value: f64, before: bool) -> bool {
        self.warn.is_some_and(|warn| {
            self.beyond(value, warn) || (before && self.beyond(value, self.clear_limit(warn)))
        })
    }
}

/// A run after the limits: what counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Success, degraded or failure.
    pub result: RunResult,
    /// Why, when it failed.
    pub failure: Option<Failure>,
    /// Why, when it is degraded; also the probe's own warnings.
    pub warnings: Vec<String>,
}

/// Applies the limits. `warning` are the quantities whose warning is on; it is brought up to date. A quantity that the run did
/// not measure keeps its warning.
pub fn apply(bands: &[Band], warning: &mut Vec<Quantity>, outcome: &Outcome) -> Verdict {
    let mut failure = outcome.failure.clone();
    let mut warnings = outcome.warnings.clone();
    warning.retain(|q| bands.iter().any(|b| b.quantity == *q));
    for band in bands.iter().take(BANDS_MAX) {
        let before = warning.contains(&band.quantity);
        let Some(value) = outcome.value(band.quantity) else {
            continue;
        };
        let now = band.warns(value, before);
        if now && !before {
            warning.push(band.quantity);
        } else if before && !now {
            warning.retain(|q| *q != band.quantity);
        }
        let side = match band.side {
            Side::Above => "above",
            Side::Below => "below",
        };
        let name = band.quantity;
        if let Some(limit) = band.fail.filter(|f| band.beyond(value, *f)) {
            let text = format!("{name} is {}, {side} {}", short(value), short(limit));
            failure.get_or_insert_with(|| Failure::new(Reason::Threshold, text));
        } else if let Some(limit) = band.warn.filter(|_| now) {
            warnings.push(if band.beyond(value, limit) {
                format!("{name} is {}, {side} {}", short(value), short(limit))
            } else {
                format!(
                    "{name} is {}, not yet back at {}",
                    short(value),
                    short(band.clear_limit(limit))
                )
            });
        }
    }
    let result = if failure.is_some() {
        RunResult::Failure
    } else if warnings.is_empty() {
        RunResult::Success
    } else {
        RunResult::Degraded
    };
    Verdict {
        result,
        failure,
        warnings,
    }
}

/// At most three decimals, without zeros at the end.
fn short(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn disk(side: Side, warn: f64, clear: Option<f64>, fail: Option<f64>) -> Band {
        Band {
            quantity: Quantity::DiskUsedRatio,
            side,
            warn: Some(warn),
            clear,
            fail,
        }
    }

    fn run(bands: &[Band], warning: &mut Vec<Quantity>, value: f64) -> Verdict {
        let mut o = Outcome::success();
        o.measure(Quantity::DiskUsedRatio, value);
        apply(bands, warning, &o)
    }

    #[test]
    fn a_warning_clears_at_its_own_limit() {
        let bands = [disk(Side::Above, 0.8, Some(0.75), Some(0.95))];
        let mut on = vec![];
        use RunResult::{Degraded, Failure, Success};
        for (value, expected) in [
            (0.5, Success),
            (0.8, Success),
            (0.81, Degraded),
            (0.79, Degraded),
            (0.75, Success),
            (0.79, Success),
            (0.96, Failure),
            (0.9, Degraded),
            (0.1, Success),
        ] {
            assert_eq!(run(&bands, &mut on, value).result, expected, "{value}");
        }
    }

    #[test]
    fn small_values_can_be_bad_and_the_default_hysteresis_is_5_percent() {
        let bands = [disk(Side::Below, 100.0, None, Some(10.0))];
        let mut on = vec![];
        use RunResult::{Degraded, Failure, Success};
        for (value, expected) in [
            (100.0, Success),
            (99.0, Degraded),
            (104.0, Degraded),
            (105.0, Success),
            (9.0, Failure),
        ] {
            assert_eq!(run(&bands, &mut on, value).result, expected, "{value}");
        }
        let v = run(&bands, &mut on, 9.0);
        let f = v.failure.unwrap();
        assert_eq!(f.reason, Reason::Threshold);
        assert_eq!(f.text, "disk_used_ratio is 9, below 10");
    }

    #[test]
    fn a_quantity_that_was_not_measured_keeps_its_warning() {
        let bands = [disk(Side::Above, 0.8, None, None)];
        let mut on = vec![];
        run(&bands, &mut on, 0.9);
        let v = apply(&bands, &mut on, &Outcome::success());
        assert_eq!(v.result, RunResult::Success);
        assert_eq!(on, [Quantity::DiskUsedRatio]);
        assert_eq!(run(&bands, &mut on, 0.78).result, RunResult::Degraded);
        // Without the band the memory goes too.
        apply(&[], &mut on, &Outcome::success());
        assert!(on.is_empty());
    }

    #[test]
    fn limits_that_make_no_sense_are_refused() {
        use Side::{Above, Below};
        for (band, why) in [
            (disk(Above, f64::NAN, None, None), "not a number"),
            (disk(Above, 1.0, Some(2.0), None), "clear is beyond"),
            (disk(Below, 2.0, Some(1.0), None), "clear is beyond"),
            (disk(Above, 3.0, None, Some(2.0)), "warn is beyond"),
            (
                Band {
                    warn: None,
                    ..disk(Above, 0.0, None, None)
                },
                "neither",
            ),
            (
                Band {
                    warn: None,
                    ..disk(Above, 0.0, Some(1.0), Some(2.0))
                },
                "warn is not",
            ),
        ] {
            assert!(band.check().unwrap_err().contains(why), "{band:?}");
        }
        assert_eq!(disk(Above, 0.8, Some(0.7), Some(0.9)).check(), Ok(()));
    }

    proptest! {
        /// Inside the dead band the verdict is the last one: no value there can switch it.
        #[test]
        fn nothing_switches_inside_the_dead_band(before in any::<bool>(), values in proptest::collection::vec(0.7500001f64..0.8, 1..20)) {
            let bands = [disk(Side::Above, 0.8, Some(0.75), None)];
            let mut on = vec![];
            run(&bands, &mut on, if before { 0.9 } else { 0.1 });
            for v in values {
                prop_assert_eq!(run(&bands, &mut on, v).result == RunResult::Degraded, before);
            }
        }
    }
}

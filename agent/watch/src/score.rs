//! The health score: one number from 0 to 1 for a person's first glance. It is a summary, nothing should page on it.
//!
//! The weighted mean of what is known: critical weighs 5, warning 2, info 1; healthy is 1, degraded ½, unhealthy 0. What is
//! unknown, in maintenance, suppressed or disabled is left out. A critical check that is unhealthy caps the score at ½,
//! so that many small healthy checks cannot talk it away. Backups join as entries of their own.

use keepwatch_model::check::{Severity, State};

/// The score cannot be above this while a critical entry is at 0.
pub const CAP: f64 = 0.5;

/// What one check or backup contributes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entry {
    /// Its weight.
    pub severity: Severity,
    /// 1 well, 0 not; values outside are brought in.
    pub value: f64,
}

/// The entry of a check; none when it does not count now.
pub fn entry(severity: Severity, state: State, hidden: bool) -> Option<Entry> {
    let value = match state {
        _ if hidden => return None,
        State::Unknown => return None,
        State::Healthy => 1.0,
        State::Degraded => 0.5,
        State::Unhealthy => 0.0,
    };
    Some(Entry { severity, value })
}

/// The score; none when nothing counts.
pub fn score(entries: impl IntoIterator<Item = Entry>) -> Option<f64> {
    let (mut sum, mut weights, mut capped) = (0.0, 0.0, false);
    for e in entries {
        let weight = match e.severity {
            Severity::Critical => 5.0,
            Severity::Warning => 2.0,
            Severity::Info => 1.0,
        };
        // A value that is not a number counts as 0.
        let value = if e.value > 0.0 { e.value.min(1.0) } else { 0.0 };
        sum += weight * value;
        weights += weight;
        capped |= e.severity == Severity::Critical && value == 0.0;
    }
    if weights == 0.0 {
        return None;
    }
    let mean: f64 = sum / weights;
    Some(if capped { mean.min(CAP) } else { mean })
}

#[cfg(test)]
mod tests {
    use super::*;
    use Severity::{Critical, Info, Warning};
    use State::{Degraded, Healthy, Unhealthy, Unknown};

    fn of(rows: &[(Severity, State)]) -> Option<f64> {
        score(rows.iter().filter_map(|(s, t)| entry(*s, *t, false)))
    }

    #[test]
    fn by_table() {
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[(Critical, Unknown)]), None);
        assert_eq!(of(&[(Critical, Healthy), (Info, Unknown)]), Some(1.0));
        assert_eq!(
            of(&[(Critical, Healthy), (Warning, Unhealthy)]),
            Some(5.0 / 7.0)
        );
        assert_eq!(
            of(&[(Critical, Degraded), (Warning, Healthy), (Info, Healthy)]),
            Some(5.5 / 8.0)
        );
        assert_eq!(of(&[(Info, Unhealthy)]), Some(0.0));
        let mut many = vec![(Warning, Healthy); 100];
        assert_eq!(of(&many), Some(1.0));
        many.push((Critical, Unhealthy));
        assert_eq!(of(&many), Some(0.5));
        assert_eq!(entry(Critical, Unhealthy, true), None);
        let wild = [f64::NAN, 7.0, -3.0].map(|value| Entry {
            severity: Info,
            value,
        });
        assert_eq!(score(wild), Some(1.0 / 3.0));
    }
}

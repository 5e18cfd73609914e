//! The one retry policy: which failures are tried again, how often, after which wait.
//!
//! Exponential backoff with full jitter (<https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>): the n-th wait is drawn evenly from
//! 0 to `base * 4^n`, at most `cap`. A wait that the server names (`Retry-After`) is kept as the least. At most [`ATTEMPTS`] attempts and at most the deadline, whichever comes
//! first; until a server has answered for the first time only [`FIRST_CONTACT`], since a mistyped endpoint should be told soon.

use std::time::Duration;

/// Attempts at one operation.
pub const ATTEMPTS: u32 = 8;
/// Attempts before this server ever answered.
pub const FIRST_CONTACT: u32 = 4;
/// The longest wait that a server may demand of us at once; with a longer one we come back earlier.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(120);

/// What is known of a failure that may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Again {
    /// The server asked for less load: waits begin longer.
    pub throttled: bool,
    /// What `Retry-After` said.
    pub after: Option<Duration>,
}

/// Waits and limits.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Upper end of the first wait.
    pub base: Duration,
    /// Longest wait.
    pub cap: Duration,
    /// For all attempts at one operation together.
    pub deadline: Duration,
}

impl Policy {
    /// The defaults with a deadline.
    pub fn new(deadline: Duration) -> Self {
        Policy {
            base: Duration::from_millis(250),
            cap: Duration::from_secs(60),
            deadline,
        }
    }

    /// The wait before the next attempt, or `None` when it is enough. `attempts`: made so far; `jitter`: even in 0..1; `spent`: since the first attempt began.
    pub fn wait(
        &self,
        attempts: u32,
        spent: Duration,
        answered: bool,
        again: Again,
        jitter: f64,
    ) -> Option<Duration> {
        if attempts >= if answered { ATTEMPTS } else { FIRST_CONTACT } {
            return None;
        }
        let steps = attempts.saturating_sub(1) + u32::from(again.throttled);
        let top = self
            .base
            .saturating_mul(4u32.saturating_pow(steps.min(12)))
            .min(self.cap);
        let mut wait = top.mul_f64(jitter.clamp(0.0, 1.0));
        if let Some(after) = again.after {
            wait += after.min(RETRY_AFTER_MAX);
        }
        (spent + wait < self.deadline).then_some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Policy {
        Policy::new(Duration::from_secs(600))
    }

    #[test]
    fn waits_grow_and_are_bounded() {
        let p = policy();
        let tops: Vec<_> = (1..8)
            .map(|n| {
                p.wait(n, Duration::ZERO, true, Again::default(), 1.0)
                    .unwrap()
                    .as_millis()
            })
            .collect();
        assert_eq!(tops, [250, 1000, 4000, 16_000, 60_000, 60_000, 60_000]);
        for n in 1..8 {
            assert_eq!(
                p.wait(n, Duration::ZERO, true, Again::default(), 0.0),
                Some(Duration::ZERO)
            );
        }
        assert_eq!(p.wait(8, Duration::ZERO, true, Again::default(), 0.0), None);
        assert_eq!(
            p.wait(4, Duration::ZERO, false, Again::default(), 0.0),
            None
        );
    }

    #[test]
    fn throttling_waits_longer_and_retry_after_is_the_least() {
        let p = policy();
        let slow = Again {
            throttled: true,
            after: None,
        };
        assert_eq!(
            p.wait(1, Duration::ZERO, true, slow, 1.0),
            Some(Duration::from_secs(1))
        );
        let told = Again {
            throttled: true,
            after: Some(Duration::from_secs(7)),
        };
        assert_eq!(
            p.wait(1, Duration::ZERO, true, told, 0.0),
            Some(Duration::from_secs(7))
        );
        let mad = Again {
            throttled: true,
            after: Some(Duration::from_secs(86_400)),
        };
        assert_eq!(
            p.wait(1, Duration::ZERO, true, mad, 0.0),
            Some(RETRY_AFTER_MAX)
        );
    }

    proptest::proptest! {
        #[test]
        fn never_beyond_the_deadline(jitters in proptest::collection::vec(0.0f64..1.0, 20), after in 0u64..400, work in 0u64..100) {
            let p = policy();
            let (mut spent, mut attempts) = (Duration::ZERO, 0);
            for jitter in jitters {
                attempts += 1;
                spent += Duration::from_secs(work);
                let again = Again { throttled: jitter > 0.5, after: (after > 200).then(|| Duration::from_secs(after)) };
                match p.wait(attempts, spent, true, again, jitter) {
                    Some(wait) => { spent += wait; proptest::prop_assert!(spent < p.deadline); }
                    None => break,
                }
            }
            proptest::prop_assert!(attempts <= ATTEMPTS);
        }
    }
}

//! The heartbeat check: a job must report in time. Nothing is asked; what came in is compared with the clock.
//!
//! A job reports that it started, that it is alive, that it succeeded or that it failed. Two times are apart: how long after
//! the last success the next *start* may come (`period` + `grace`), and how long a started job may take (`run_grace`), which
//! each sign of life begins anew.

use std::time::Duration;

use keepwatch_model::check::Reason;
use serde::{Deserialize, Serialize};

use crate::clock::At;
use crate::outcome::{Outcome, Quantity};
use crate::text::clean;

/// When a job must report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeartbeatSettings {
    /// How often the job runs.
    #[serde(deserialize_with = "super::duration")]
    pub period: Duration,
    /// How much later it may be.
    #[serde(deserialize_with = "super::duration")]
    pub grace: Duration,
    /// How long a started job may go on without a sign of life.
    #[serde(deserialize_with = "super::duration")]
    pub run_grace: Duration,
}

/// What a job reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Beat {
    /// It begins.
    Start,
    /// It is at work.
    Alive,
    /// It is done.
    Success,
    /// It failed, because of this.
    Failure(String),
}

/// What is remembered of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pulse {
    /// When it was first expected.
    pub since: At,
    /// When it last succeeded.
    pub success: Option<At>,
    /// It is running; its last sign of life.
    pub running: Option<At>,
    /// Why it last failed, until it succeeds.
    pub failure: Option<String>,
}

impl Pulse {
    /// Nothing reported yet.
    pub fn new(now: At) -> Self {
        Self {
            since: now,
            ..Self::default()
        }
    }

    /// No moment lies in the future; the text is bounded. For stored pulses, and after a jump of the clock.
    pub fn restored(mut self, now: At) -> Self {
        self.since = self.since.min(now);
        self.success = self.success.map(|at| at.min(now));
        self.running = self.running.map(|at| at.min(now));
        self.failure = self.failure.map(|t| clean(&t));
        self
    }

    /// Takes a report.
    pub fn beat(&mut self, beat: &Beat, now: At) {
        match beat {
            Beat::Start | Beat::Alive => self.running = Some(now),
            Beat::Success => {
                self.running = None;
                self.success = Some(now);
                self.failure = None;
            }
            Beat::Failure(why) => {
                self.running = None;
                self.failure = Some(clean(why));
            }
        }
    }

    /// Whether the job is in time.
    pub fn judge(&self, settings: &HeartbeatSettings, now: At) -> Outcome {
        let mut outcome = Outcome::success();
        let last = self.success.unwrap_or(self.since);
        if self.success.is_some() {
            outcome.measure(Quantity::HeartbeatAgeSeconds, now.since(last).as_secs_f64());
        }
        if let Some(why) = &self.failure {
            outcome.fail(Reason::Status, format!("the job reported failure: {why}"));
        }
        match self.running {
            Some(sign) if now.since(sign) > settings.run_grace => {
                outcome.fail(
                    Reason::Timeout,
                    format!("the job started, and has given no sign of life since {sign}"),
                );
            }
            Some(_) => {}
            None if now.since(last) > settings.period.saturating_add(settings.grace) => {
                let what = if self.success.is_some() {
                    "last succeeded"
                } else {
                    "has never reported; expected since"
                };
                outcome.fail(Reason::Timeout, format!("the job {what} {last}"));
            }
            None => {}
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_table() {
        let s = HeartbeatSettings {
            period: Duration::from_secs(1000),
            grace: Duration::from_secs(100),
            run_grace: Duration::from_secs(300),
        };
        let fail = Beat::Failure("disk\nfull".into());
        for (what, beats, now, reason) in [
            ("never, in time", &[][..], 1100, None),
            ("never, too late", &[], 1101, Some(Reason::Timeout)),
            ("in time", &[(500, &Beat::Success)], 1600, None),
            (
                "late",
                &[(500, &Beat::Success)],
                1601,
                Some(Reason::Timeout),
            ),
            (
                "late, but at work",
                &[(500, &Beat::Success), (1590, &Beat::Start)],
                1890,
                None,
            ),
            (
                "at work too long",
                &[(500, &Beat::Start)],
                801,
                Some(Reason::Timeout),
            ),
            (
                "alive",
                &[(500, &Beat::Start), (700, &Beat::Alive)],
                1000,
                None,
            ),
            ("failed", &[(500, &fail)], 501, Some(Reason::Status)),
            (
                "failed, at work again",
                &[(500, &fail), (510, &Beat::Start)],
                511,
                Some(Reason::Status),
            ),
            (
                "failed, then succeeded",
                &[(500, &fail), (510, &Beat::Success)],
                511,
                None,
            ),
        ] {
            let mut pulse = Pulse::new(At::from_secs(0));
            for (at, beat) in beats {
                pulse.beat(beat, At::from_secs(*at));
            }
            let json = serde_json::to_string(&pulse).unwrap();
            assert_eq!(serde_json::from_str::<Pulse>(&json).unwrap(), pulse);
            let o = pulse.judge(&s, At::from_secs(now));
            assert_eq!(o.failure.map(|f| f.reason), reason, "{what}");
        }
    }
}

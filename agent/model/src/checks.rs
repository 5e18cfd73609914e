//! Records of checks: the result of one run of a check, and the changes of its judged state. Their words are those of [`crate::check`].

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize, Serializer};

use crate::ParseError;
pub use crate::check::{Overlay, Reason as FailureReason, State as CheckState};
use crate::ids::EventId;
use crate::time::Moment;
use crate::words::micros;

/// What one run of a check yielded. As text: `success`, `degraded`, or the word of the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CheckOutcome {
    /// As it should be.
    Success,
    /// It works, but outside of the band for warnings.
    Degraded,
    /// It does not work.
    Failure(FailureReason),
}

impl CheckOutcome {
    /// The word as it is stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Degraded => "degraded",
            Self::Failure(reason) => reason.as_str(),
        }
    }

    /// The reason, if it failed.
    pub const fn reason(self) -> Option<FailureReason> {
        match self {
            Self::Failure(reason) => Some(reason),
            Self::Success | Self::Degraded => None,
        }
    }
}

impl fmt::Display for CheckOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for CheckOutcome {
    type Err = ParseError;

    /// Reads the word exactly as it is stored.
    ///
    /// # Errors
    /// Any other text.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text {
            "success" => Ok(Self::Success),
            "degraded" => Ok(Self::Degraded),
            _ => text.parse().map(Self::Failure),
        }
    }
}

impl Serialize for CheckOutcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for CheckOutcome {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

/// One run of a check, raw. A check has at most one result at one microsecond: that is its identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckResult {
    /// The host that asked.
    pub host: String,
    /// The name of the check.
    pub check: String,
    /// Its kind: http, tcp, disk.
    pub kind: String,
    /// When the run began.
    pub at: Moment,
    /// What it yielded.
    pub outcome: CheckOutcome,
    /// How long it took, without waiting for its turn.
    #[serde(rename = "latency_us", with = "micros")]
    pub latency: Duration,
    /// What to tell a person; missing when all is well. The catalog keeps its first 512 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// A confirmed change of the judged state, or of what hides it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckTransition {
    /// Made when it was judged.
    pub id: EventId,
    /// The host that judged.
    pub host: String,
    /// The name of the check.
    pub check: String,
    /// Its kind.
    pub kind: String,
    /// From when on the new state holds.
    pub at: Moment,
    /// The state before.
    pub from: CheckState,
    /// The state from now on; the same as before if only the overlay changed.
    pub to: CheckState,
    /// What hides the state from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay: Option<Overlay>,
    /// The reason of the last failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<FailureReason>,
    /// What to tell a person. The catalog keeps its first 512 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_one_closed_set() {
        let mut all = vec![CheckOutcome::Success, CheckOutcome::Degraded];
        all.extend(FailureReason::ALL.iter().map(|r| CheckOutcome::Failure(*r)));
        let mut seen = std::collections::BTreeSet::new();
        for outcome in all {
            assert!(
                seen.insert(outcome.as_str()),
                "two outcomes are written {outcome}"
            );
            assert_eq!(outcome.as_str().parse(), Ok(outcome));
            let json = serde_json::to_value(outcome).expect("a word");
            assert_eq!(
                serde_json::from_value::<CheckOutcome>(json).ok(),
                Some(outcome)
            );
        }
        assert!("failure".parse::<CheckOutcome>().is_err());
        assert_eq!(
            CheckOutcome::Failure(FailureReason::Dns).reason(),
            Some(FailureReason::Dns)
        );
        assert_eq!(CheckOutcome::Degraded.reason(), None);
    }

    #[test]
    fn records_read_back() {
        let at: Moment = "2026-11-22T04:20:24.000001Z".parse().expect("a time");
        let result = CheckResult {
            host: "h".into(),
            check: "api".into(),
            kind: "http".into(),
            at,
            outcome: CheckOutcome::Failure(FailureReason::Tls),
            latency: Duration::from_micros(12),
            text: Some("\"\u{0}\n".into()),
        };
        let json = serde_json::to_string(&result).expect("json");
        assert!(!json.contains('\n'), "one line: {json}");
        assert_eq!(
            serde_json::from_str::<CheckResult>(&json).expect("reads back"),
            result
        );
        let change = CheckTransition {
            id: EventId::new(at, [1; 10]),
            host: "h".into(),
            check: "api".into(),
            kind: "http".into(),
            at,
            from: CheckState::Unknown,
            to: CheckState::Healthy,
            overlay: Some(Overlay::Suppressed),
            reason: None,
            text: None,
        };
        let json = serde_json::to_string(&change).expect("json");
        assert_eq!(
            serde_json::from_str::<CheckTransition>(&json).expect("reads back"),
            change
        );
    }
}

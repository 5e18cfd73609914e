//! How a channel is used, as configured.

use std::time::Duration;

use keepwatch_model::check::Severity;
use serde::Deserialize;

/// How a channel is used.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rules {
    /// Alerts that matter less are not told.
    pub min_severity: Severity,
    /// Labels whose values make a group.
    pub group_by: Vec<String>,
    /// From the first change to the message.
    #[serde(deserialize_with = "crate::time::duration")]
    pub wait: Duration,
    /// Between two messages of one group.
    #[serde(deserialize_with = "crate::time::duration")]
    pub interval: Duration,
    /// What still fires is told again.
    #[serde(deserialize_with = "crate::time::duration")]
    pub repeat: Duration,
    /// The same for groups with a critical alert.
    #[serde(deserialize_with = "crate::time::duration")]
    pub repeat_critical: Duration,
    /// From telling that an alert fires to telling it of the same alert again.
    #[serde(deserialize_with = "crate::time::duration")]
    pub cooldown: Duration,
    /// Tell also that an alert is over.
    pub resolved: bool,
    /// Messages in an hour.
    pub per_hour: u32,
    /// How long a message is tried.
    #[serde(deserialize_with = "crate::time::duration")]
    pub deadline: Duration,
    /// The channel that gets what this one cannot deliver.
    pub fallback: Option<String>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            min_severity: Severity::Warning,
            group_by: vec!["alertname".into(), "instance".into()],
            wait: Duration::from_secs(10),
            interval: Duration::from_secs(60),
            repeat: Duration::from_secs(4 * 3600),
            repeat_critical: Duration::from_secs(3600),
            cooldown: Duration::from_secs(300),
            resolved: true,
            per_hour: 60,
            deadline: Duration::from_secs(3600),
            fallback: None,
        }
    }
}

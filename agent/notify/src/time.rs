//! Time as an argument. Decisions here outlive the daemon, so they use the wall clock; that clock may be set, so no wait that
//! was stored is believed to be longer than its own maximum from now.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

/// A moment on the wall clock: milliseconds since 1970-01-01T00:00:00Z.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct At(pub i64);

impl At {
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

    /// RFC 3339 in UTC; the ends of the calendar where this is beyond them.
    pub fn rfc3339(self) -> String {
        self.timestamp().to_string()
    }

    /// For people: `2026-11-22 04:20 UTC`.
    pub fn short(self) -> String {
        self.timestamp().strftime("%Y-%m-%d %H:%M UTC").to_string()
    }

    fn timestamp(self) -> jiff::Timestamp {
        jiff::Timestamp::from_millisecond(self.0).unwrap_or(if self.0 < 0 {
            jiff::Timestamp::MIN
        } else {
            jiff::Timestamp::MAX
        })
    }
}

/// The wall clock.
pub trait Clock: Send + Sync {
    /// What it shows.
    fn wall(&self) -> At;
}

/// Reads a duration as people write it in the configuration: `90s`, `4h`.
pub(crate) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    keepwatch_model::duration::parse_duration(&text).map_err(serde::de::Error::custom)
}

//! What one run of a check came to: success or [`Failure`], warnings, and measured values.
//!
//! A probe only reports; it does not judge. Limits on the measured values belong to the check and are applied by
//! [`crate::judge`], because a warning that must clear at another limit than it began needs the memory of the last run.

use std::fmt;

use keepwatch_model::check::{CheckKind, Reason};
use serde::{Deserialize, Serialize};

use crate::text::clean;

/// Measures that one run may report. 48 bytes each.
pub const MEASURES_MAX: usize = 32;
/// Warnings that one run may report, each at most [`crate::text::LONGEST`] characters.
pub const WARNINGS_MAX: usize = 8;

/// Why a run failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// One of the closed set.
    pub reason: Reason,
    /// One sentence for people, cleaned and bounded, without secrets.
    pub text: String,
}

impl Failure {
    /// A failure; the text is cleaned.
    pub fn new(reason: Reason, text: impl AsRef<str>) -> Self {
        Self {
            reason,
            text: clean(text.as_ref()),
        }
    }

    /// From an error with its causes: `cannot connect to 127.0.0.1:5432: Connection refused`.
    pub fn because(reason: Reason, what: &str, error: &(dyn std::error::Error + '_)) -> Self {
        Self::new(reason, format!("{what}: {}", crate::text::chain(error)))
    }
}

/// What can be measured, with its unit in its name. The text form is that of configuration and records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Quantity {
    /// How long the run took, without waiting for its turn. Every kind has it.
    DurationSeconds,
    /// The code of an HTTP answer.
    HttpStatus,
    /// Seconds until the first certificate of the chain ends; negative when it has ended.
    TlsSecondsLeft,
    /// When that is, in seconds since 1970.
    TlsNotAfterSeconds,
    /// How far a standby is behind what it has received, or a primary's slowest standby is behind.
    ReplicationLagSeconds,
    /// Connections to a database server.
    Connections,
    /// How many it allows.
    ConnectionsMax,
    /// Share of them in use, 0 to 1.
    ConnectionsUsedRatio,
    /// Memory that Redis uses.
    RedisMemoryBytes,
    /// Share of its `maxmemory`, 0 to 1, when that is set.
    RedisMemoryRatio,
    /// Collections in Qdrant.
    QdrantCollections,
    /// Points in the collections that were asked for.
    QdrantPoints,
    /// Models in Ollama.
    OllamaModels,
    /// Whether the integrity check found nothing: 1 or 0.
    SqliteIntegrityOk,
    /// Bytes that an ordinary user can still write.
    DiskAvailableBytes,
    /// Size of the file system.
    DiskSizeBytes,
    /// Share in use, as `df` counts, 0 to 1.
    DiskUsedRatio,
    /// Free inodes; absent where the file system has no such limit.
    InodesFree,
    /// All inodes.
    Inodes,
    /// Share of inodes in use, 0 to 1.
    InodesUsedRatio,
    /// Memory that can be had without swapping.
    MemoryAvailableBytes,
    /// All memory.
    MemorySizeBytes,
    /// Share that can be had, 0 to 1.
    MemoryAvailableRatio,
    /// Share of the last 10 s in which some task waited for the processor, 0 to 1.
    PressureCpuRatio,
    /// The same for memory.
    PressureMemoryRatio,
    /// The same for input and output.
    PressureIoRatio,
    /// Seconds since boot in which some task waited for the processor.
    PressureCpuSeconds,
    /// The same for memory.
    PressureMemorySeconds,
    /// The same for input and output.
    PressureIoSeconds,
    /// Load average over 1 minute.
    Load1,
    /// The same, divided by the number of processors.
    Load1PerCpu,
    /// Load average over 5 minutes, divided by the number of processors.
    Load5PerCpu,
    /// How often systemd restarted the unit on its own.
    UnitRestarts,
    /// Exit code of a command.
    ExitCode,
    /// Addresses or records in a DNS answer.
    DnsRecords,
    /// How long since a job last reported success.
    HeartbeatAgeSeconds,
    /// Members of a group that are up.
    GroupMembersUp,
}

impl fmt::Display for Quantity {
    /// As configuration and records write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::String(name)) => f.write_str(&name),
            _ => write!(f, "{self:?}"),
        }
    }
}

impl Quantity {
    /// What a kind of check can measure: a limit on anything else would never act.
    pub fn of_kind(kind: CheckKind) -> Vec<Self> {
        use Quantity as Q;
        const TLS: &[Q] = &[Q::TlsSecondsLeft, Q::TlsNotAfterSeconds];
        let (own, tls): (&[Q], bool) = match kind {
            CheckKind::Http => (&[Q::HttpStatus], true),
            CheckKind::Tcp | CheckKind::Tls | CheckKind::Mysql => (&[], true),
            CheckKind::Postgresql => (
                &[
                    Q::ReplicationLagSeconds,
                    Q::Connections,
                    Q::ConnectionsMax,
                    Q::ConnectionsUsedRatio,
                ],
                true,
            ),
            CheckKind::Redis => (
                &[
                    Q::RedisMemoryBytes,
                    Q::RedisMemoryRatio,
                    Q::Connections,
                    Q::ConnectionsMax,
                ],
                true,
            ),
            CheckKind::Qdrant => (&[Q::QdrantCollections, Q::QdrantPoints], true),
            CheckKind::Ollama => (&[Q::OllamaModels], true),
            CheckKind::Systemd => (&[Q::UnitRestarts], false),
            CheckKind::Disk => (
                &[
                    Q::DiskSizeBytes,
                    Q::DiskAvailableBytes,
                    Q::DiskUsedRatio,
                    Q::Inodes,
                    Q::InodesFree,
                    Q::InodesUsedRatio,
                ],
                false,
            ),
            CheckKind::Memory => (
                &[
                    Q::MemorySizeBytes,
                    Q::MemoryAvailableBytes,
                    Q::MemoryAvailableRatio,
                ],
                false,
            ),
            CheckKind::Pressure => (
                &[
                    Q::PressureCpuRatio,
                    Q::PressureMemoryRatio,
                    Q::PressureIoRatio,
                    Q::PressureCpuSeconds,
                    Q::PressureMemorySeconds,
                    Q::PressureIoSeconds,
                ],
                false,
            ),
            CheckKind::Load => (&[Q::Load1, Q::Load1PerCpu, Q::Load5PerCpu], false),
            CheckKind::Dns => (&[Q::DnsRecords], false),
            CheckKind::Command => (&[Q::ExitCode], false),
            CheckKind::Sqlite => (&[Q::SqliteIntegrityOk], false),
            CheckKind::Heartbeat => (&[Q::HeartbeatAgeSeconds], false),
            CheckKind::Group => (&[Q::GroupMembersUp], false),
        };
        let mut all = own.to_vec();
        if tls {
            all.extend(TLS);
        }
        // These two are judged from what is known; nothing is asked that could take time.
        if !matches!(kind, CheckKind::Heartbeat | CheckKind::Group) {
            all.push(Q::DurationSeconds);
        }
        all
    }
}

/// One measured value; finite.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measure {
    /// What was measured.
    pub quantity: Quantity,
    /// The value, in the unit of the quantity's name.
    pub value: f64,
}

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Absent: the run succeeded.
    pub failure: Option<Failure>,
    /// What works but is not as it should be; makes a success *degraded*.
    pub warnings: Vec<String>,
    /// Measured values, also of a failed run.
    pub measures: Vec<Measure>,
}

impl Outcome {
    /// Succeeded, nothing measured yet.
    pub fn success() -> Self {
        Self::default()
    }

    /// Failed.
    pub fn failure(reason: Reason, text: impl AsRef<str>) -> Self {
        Failure::new(reason, text).into()
    }

    /// Adds a value. One that is not finite, and one beyond [`MEASURES_MAX`], is dropped.
    pub fn measure(&mut self, quantity: Quantity, value: f64) -> &mut Self {
        if value.is_finite() && self.measures.len() < MEASURES_MAX {
            self.measures.push(Measure { quantity, value });
        }
        self
    }

    /// Adds a warning, cleaned; one beyond [`WARNINGS_MAX`] is dropped.
    pub fn warn(&mut self, text: impl AsRef<str>) -> &mut Self {
        if self.warnings.len() < WARNINGS_MAX {
            self.warnings.push(clean(text.as_ref()));
        }
        self
    }

    /// Makes it a failure, unless it already is one.
    pub fn fail(&mut self, reason: Reason, text: impl AsRef<str>) -> &mut Self {
        if self.failure.is_none() {
            self.failure = Some(Failure::new(reason, text));
        }
        self
    }

    /// The value of a quantity, when it was measured.
    pub fn value(&self, quantity: Quantity) -> Option<f64> {
        self.measures
            .iter()
            .find(|m| m.quantity == quantity)
            .map(|m| m.value)
    }
}

impl From<Failure> for Outcome {
    fn from(failure: Failure) -> Self {
        Self {
            failure: Some(failure),
            ..Self::default()
        }
    }
}

impl From<Result<Outcome, Failure>> for Outcome {
    fn from(result: Result<Outcome, Failure>) -> Self {
        result.unwrap_or_else(Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_grows_is_bounded() {
        let mut o = Outcome::failure(Reason::Status, "x\n".repeat(5000));
        for i in 0..1000 {
            o.measure(Quantity::Load1, f64::from(i));
            o.warn("y".repeat(1000));
        }
        o.measure(Quantity::Load1, f64::NAN);
        assert_eq!(o.measures.len(), MEASURES_MAX);
        assert_eq!(o.warnings.len(), WARNINGS_MAX);
        assert!(o.warnings[0].chars().count() <= crate::text::LONGEST + 1);
        assert!(o.failure.unwrap().text.len() < 1000);
    }

    #[test]
    fn values_that_are_no_numbers_are_dropped_and_the_first_failure_stays() {
        let mut o = Outcome::success();
        o.measure(Quantity::Load1, f64::INFINITY)
            .measure(Quantity::Load1, 2.0);
        assert_eq!(o.value(Quantity::Load1), Some(2.0));
        o.fail(Reason::Dns, "first").fail(Reason::Tls, "second");
        assert_eq!(o.failure.unwrap().text, "first");
    }
}

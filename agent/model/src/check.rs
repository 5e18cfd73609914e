//! The words of health checks that the watcher, the catalog, the metrics and the alerts share: kinds, reasons, states,
//! overlays, severities and the name of a check.
//!
//! Every word has one text form, the same in configuration, in stored records and in labels of metrics. The sets are closed:
//! a text that is none of them is refused as it is read, so no foreign word becomes a label.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserialize, Deserializer};
use serde::{Serialize, Serializer};

use crate::ParseError;
use crate::words::words;

words! {
    /// What a check asks.
    CheckKind, "a kind of check", {
        /// An HTTP or HTTPS request.
        Http = "http",
        /// A TCP connection, with an optional expected greeting.
        Tcp = "tcp",
        /// A query to PostgreSQL.
        Postgresql = "postgresql",
        /// PING and INFO to Redis.
        Redis = "redis",
        /// A query to MySQL or MariaDB.
        Mysql = "mysql",
        /// Readiness and collections of Qdrant.
        Qdrant = "qdrant",
        /// Models of Ollama.
        Ollama = "ollama",
        /// The state of a systemd unit.
        Systemd = "systemd",
        /// Bytes and inodes of a file system.
        Disk = "disk",
        /// Available memory of the host.
        Memory = "memory",
        /// Pressure stall information of the host.
        Pressure = "pressure",
        /// Load average of the host.
        Load = "load",
        /// How long a certificate is valid, at a host or in a file.
        Tls = "tls",
        /// A name that must resolve.
        Dns = "dns",
        /// A command and its exit code.
        Command = "command",
        /// Integrity of an SQLite file.
        Sqlite = "sqlite",
        /// A job that must report in time.
        Heartbeat = "heartbeat",
        /// Other checks taken together.
        Group = "group",
    }
}

words! {
    /// Why a run of a check failed: a closed set, because it is a label of metrics.
    Reason, "a reason of failure", {
        /// No answer before the deadline of the run.
        Timeout = "timeout",
        /// A name did not resolve.
        Dns = "dns",
        /// No connection: refused, unreachable, reset before anything was said.
        Connect = "connect",
        /// The TLS handshake or the certificate.
        Tls = "tls",
        /// The service wants other credentials.
        Auth = "auth",
        /// The answer is not of the protocol, or was cut off.
        Protocol = "protocol",
        /// The service answers, and says that it is not well: HTTP status, loading, starting up, unit failed.
        Status = "status",
        /// The answer is not the expected one.
        Assertion = "assertion",
        /// A measured value is beyond its failure limit.
        Threshold = "threshold",
        /// A command or file could not be run or read.
        Exec = "exec",
        /// A fault in Keepwatch itself.
        Internal = "internal",
    }
}

words! {
    /// The debounced state of a check.
    State, "a state of a check", {
        /// Not known: never run, or not run for too long.
        Unknown = "unknown",
        /// As it should be.
        Healthy = "healthy",
        /// Works, outside a warning limit.
        Degraded = "degraded",
        /// Does not work.
        Unhealthy = "unhealthy",
    }
}

impl State {
    /// Healthy or degraded: what `keepwatch_check_up` says.
    pub const fn is_up(self) -> bool {
        matches!(self, Self::Healthy | Self::Degraded)
    }
}

words! {
    /// What hides alerts and restarts of a check, while its state goes on moving.
    Overlay, "an overlay", {
        /// Inside a maintenance window.
        Maintenance = "maintenance",
        /// A check that it depends on is down.
        Suppressed = "suppressed",
        /// Switched off.
        Disabled = "disabled",
    }
}

words! {
    /// How much a check, or an incident, matters.
    Severity, "a severity", {
        /// A person must act now; counts for readiness.
        Critical = "critical",
        /// Today.
        Warning = "warning",
        /// Worth a look.
        Info = "info",
    }
}

words! {
    /// What one finished run of a check came to, before any debouncing.
    RunResult, "a result of a check", {
        /// As it should be.
        Success = "success",
        /// Works, outside a warning limit.
        Degraded = "degraded",
        /// Failed, with a [`Reason`].
        Failure = "failure",
    }
}

/// The longest name of a check or unit group.
const NAME_MAX: usize = 64;

/// The name of a check: 1 to 64 of `a`–`z`, `A`–`Z`, `0`–`9`, `.`, `_`, `-`, beginning with a letter or digit.
///
/// It becomes a label of metrics, a field of log records and a part of alert texts, so it can hold nothing that any of them
/// would have to escape. Serde checks it again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckName(Box<str>);

impl CheckName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CheckName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let fail = |why: &str| Err(ParseError::new("a name of a check", text, why));
        if text.is_empty() || text.len() > NAME_MAX {
            return fail("it must have 1 to 64 characters");
        }
        if !text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        {
            return fail("use letters, digits, '.', '_' and '-' only");
        }
        if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            return fail("it must begin with a letter or a digit");
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for CheckName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl AsRef<str> for CheckName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for CheckName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Serialize for CheckName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for CheckName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round<T>(all: &[T])
    where
        T: Copy + fmt::Display + FromStr<Err = ParseError> + PartialEq + fmt::Debug + Serialize,
        T: for<'de> Deserialize<'de>,
    {
        for word in all {
            let text = word.to_string();
            assert!(text.bytes().all(|b| b.is_ascii_lowercase()), "{text}");
            assert_eq!(text.parse::<T>().as_ref(), Ok(word));
            let json = serde_json::to_string(word).unwrap();
            assert_eq!(json, format!("\"{text}\""));
            assert_eq!(serde_json::from_str::<T>(&json).unwrap(), *word);
        }
        assert!("Nonsense".parse::<T>().is_err());
        assert!(serde_json::from_str::<T>("\"nonsense\"").is_err());
        assert!(serde_json::from_str::<T>("0").is_err());
    }

    #[test]
    fn every_word_reads_back_and_no_other_does() {
        round(CheckKind::ALL);
        round(Reason::ALL);
        round(State::ALL);
        round(Overlay::ALL);
        round(Severity::ALL);
        round(RunResult::ALL);
        assert_eq!(CheckKind::ALL.len(), 18);
        assert_eq!(Reason::ALL.len(), 11);
        let e = "x".parse::<State>().unwrap_err().to_string();
        assert_eq!(
            e,
            "\"x\" is not a state of a check: use one of unknown healthy degraded unhealthy"
        );
    }

    #[test]
    fn names_hold_nothing_that_needs_escaping() {
        for good in ["a", "0", "web-1", "db.main_2", &"x".repeat(64)] {
            assert_eq!(good.parse::<CheckName>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "-a",
            ".a",
            "_a",
            "a b",
            "a\n",
            "a\"",
            "ä",
            "a/b",
            "a{",
            &"x".repeat(65),
            "a\0",
        ] {
            assert!(bad.parse::<CheckName>().is_err(), "{bad:?}");
            let json = serde_json::to_string(bad).unwrap();
            assert!(serde_json::from_str::<CheckName>(&json).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn up_is_healthy_or_degraded() {
        let up: Vec<_> = State::ALL.iter().filter(|s| s.is_up()).collect();
        assert_eq!(up, [&State::Healthy, &State::Degraded]);
    }
}

//! What people are told about: an alert, with the labels that identify it and sentences for people.
//!
//! The same words as the rules for Prometheus use: `alertname`, `severity`, `job`, `instance`, `check`, `backup`, `unit`. Texts and labels are cleaned and shortened when an alert is made, and again when
//! one is read from the stored state.

use std::collections::BTreeMap;

use keepwatch_model::check::Severity;
use serde::{Deserialize, Deserializer, Serialize};
use sha2::{Digest as _, Sha256};

use crate::limits::{DESCRIPTION, LABEL, LABELS, SUMMARY};
use crate::text::clean;
use crate::time::At;

/// Identifies an alert: the hash of its labels, in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AlertId(pub String);

/// An alert.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Alert {
    severity: Severity,
    labels: BTreeMap<String, String>,
    summary: String,
    description: String,
    runbook: String,
    starts: At,
}

/// As it stands in a file.
#[derive(Deserialize)]
struct Stored {
    severity: Severity,
    labels: BTreeMap<String, String>,
    summary: String,
    description: String,
    runbook: String,
    starts: At,
}

impl<'de> Deserialize<'de> for Alert {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let s = Stored::deserialize(deserializer)?;
        let mut alert = Self {
            severity: s.severity,
            labels: BTreeMap::new(),
            summary: String::new(),
            description: String::new(),
            runbook: String::new(),
            starts: s.starts,
        };
        for (name, value) in &s.labels {
            alert = alert.label(name, value);
        }
        Ok(alert
            .summary(&s.summary)
            .description(&s.description)
            .runbook(&s.runbook))
    }
}

impl Alert {
    /// An alert of this name, such as `KeepwatchCheckDown`.
    pub fn new(name: &str, severity: Severity, starts: At) -> Self {
        Self {
            severity,
            labels: BTreeMap::new(),
            summary: String::new(),
            description: String::new(),
            runbook: String::new(),
            starts,
        }
        .label("severity", severity.as_str())
        .label("alertname", name)
    }

    /// Adds a label. One whose name cannot be a label, and one beyond [`LABELS`], is left out.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        let fits = (1..=64).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && !name.starts_with(|c: char| c.is_ascii_digit());
        if fits && (self.labels.len() < LABELS || self.labels.contains_key(name)) {
            self.labels.insert(name.to_owned(), clean(value, LABEL));
        }
        self
    }

    /// What is wrong, in one sentence.
    #[must_use]
    pub fn summary(mut self, text: &str) -> Self {
        self.summary = clean(text, SUMMARY);
        self
    }

    /// What it means and what to do.
    #[must_use]
    pub fn description(mut self, text: &str) -> Self {
        self.description = clean(text, DESCRIPTION);
        self
    }

    /// Where more is written: an http or https URL; anything else is left out.
    #[must_use]
    pub fn runbook(mut self, url: &str) -> Self {
        let plain = url.len() <= 300
            && (url.starts_with("https://") || url.starts_with("http://"))
            && url
                .bytes()
                .all(|b| b.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&b));
        self.runbook = if plain { url.to_owned() } else { String::new() };
        self
    }

    /// With another beginning.
    #[must_use]
    pub fn began(mut self, at: At) -> Self {
        self.starts = at;
        self
    }

    /// Its identity.
    pub fn id(&self) -> AlertId {
        let mut hash = Sha256::new();
        for (name, value) in &self.labels {
            // Neither can hold a NUL.
            hash.update(name);
            hash.update([0]);
            hash.update(value);
            hash.update([0]);
        }
        AlertId(
            hash.finalize()[..8]
                .iter()
                .map(|b| format!("{b:02x}"))
                .collect(),
        )
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.labels.get("alertname").map_or("", String::as_str)
    }

    /// How bad.
    pub fn severity(&self) -> Severity {
        self.severity
    }

    /// Its labels, with `alertname` and `severity`.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    /// What is wrong.
    pub fn summary_text(&self) -> &str {
        &self.summary
    }

    /// What it means.
    pub fn description_text(&self) -> &str {
        &self.description
    }

    /// Where more is written; may be empty.
    pub fn runbook_url(&self) -> &str {
        &self.runbook
    }

    /// Since when.
    pub fn starts(&self) -> At {
        self.starts
    }

    /// What it is about: labels but name, severity and job, as `check=web, instance=a`.
    pub fn subject(&self) -> String {
        self.labels
            .iter()
            .filter(|(name, _)| !matches!(name.as_str(), "alertname" | "severity" | "job"))
            .map(|(name, value)| format!("{name}={value}"))
            .collect::<Vec<_>>()
            .join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_is_the_labels() {
        let a = Alert::new("X", Severity::Critical, At(1)).label("check", "web");
        assert_eq!(a.id(), a.clone().summary("other").id());
        assert_eq!(a.id().0.len(), 16);
        assert_ne!(a.id(), a.clone().label("check", "db").id());
        assert_ne!(
            Alert::new("X", Severity::Info, At(1))
                .label("a", "b")
                .label("c", "d")
                .id(),
            Alert::new("X", Severity::Info, At(1))
                .label("a", "bc")
                .label("d", "")
                .id()
        );
        assert_eq!(a.subject(), "check=web");
    }

    #[test]
    fn everything_is_cleaned_also_when_it_is_read_back() {
        let a = Alert::new("X\r\nY", Severity::Warning, At(5))
            .label("bad name", "v")
            .label("0x", "v")
            .label("ok", &"long\u{202e} ".repeat(100))
            .summary(&"s\n".repeat(1000))
            .description(&"d\x1b".repeat(5000))
            .runbook("javascript:alert(1)");
        assert_eq!(a.name(), "X Y");
        assert_eq!(a.labels().len(), 3);
        assert!(a.labels()["ok"].chars().count() <= LABEL);
        assert!(
            a.summary_text().chars().count() <= SUMMARY
                && a.description_text().chars().count() <= DESCRIPTION
        );
        assert_eq!(a.runbook_url(), "");
        let json = serde_json::to_string(&a).unwrap();
        assert_eq!(serde_json::from_str::<Alert>(&json).unwrap(), a);
        let hostile = json
            .replace("X Y", "X\\r\\nBcc: y")
            .replace("\"ok\"", "\"o k\"");
        let read: Alert = serde_json::from_str(&hostile).unwrap();
        assert_eq!(read.name(), "X Bcc: y");
        assert_eq!(read.labels().len(), 2);
        let many = (0..100).fold(Alert::new("X", Severity::Info, At(0)), |a, n| {
            a.label(&format!("l{n}"), "v")
        });
        assert_eq!(many.labels().len(), LABELS);
    }
}

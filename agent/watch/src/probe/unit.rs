//! The systemd probe: a unit must be in the expected state.

use std::sync::Arc;

use keepwatch_model::check::{CheckKind, Reason};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Asking, Probe, SettingsError};
use crate::outcome::{Failure, Outcome, Quantity};
use crate::systemd::{Systemd, SystemdError, UnitName, UnitStatus};

/// What is looked at.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnitSettings {
    /// The unit.
    pub unit: UnitName,
    /// States that are right: `active` by default; for a one-shot job that a timer starts, `active`, `activating` and `inactive`.
    #[serde(default = "active")]
    pub states: Vec<String>,
}

fn active() -> Vec<String> {
    vec!["active".into()]
}

/// The probe.
pub struct Unit {
    systemd: Arc<Systemd>,
    settings: UnitSettings,
}

impl Unit {
    /// Checks the settings.
    ///
    /// # Errors
    /// A state that systemd does not know.
    pub fn new(settings: UnitSettings, systemd: Arc<Systemd>) -> Result<Self, SettingsError> {
        let known = [
            "active",
            "reloading",
            "inactive",
            "activating",
            "deactivating",
            "maintenance",
            "refreshing",
        ];
        match settings
            .states
            .iter()
            .find(|s| !known.contains(&s.as_str()))
        {
            Some(bad) => Err(SettingsError::new(
                "states",
                format!("{bad:?} is none of {}", known.join(", ")),
            )),
            None if settings.states.is_empty() => Err(SettingsError::new("states", "it is empty")),
            None => Ok(Self { systemd, settings }),
        }
    }

    fn judge(&self, status: &UnitStatus) -> Outcome {
        let mut outcome = Outcome::success();
        let unit = &self.settings.unit;
        outcome.measure(Quantity::UnitRestarts, f64::from(status.restarts));
        if status.load != "loaded" {
            outcome.fail(Reason::Exec, format!("{unit} is {}", status.load));
        } else if !self.settings.states.contains(&status.active) {
            let result = match status.result.as_str() {
                "" | "success" => String::new(),
                other => format!(", result {other}"),
            };
            outcome.fail(
                Reason::Status,
                format!("{unit} is {} ({}{result})", status.active, status.sub),
            );
        }
        outcome
    }
}

impl Probe for Unit {
    fn kind(&self) -> CheckKind {
        CheckKind::Systemd
    }
    fn ask(&self, _: Instant) -> Asking<'_> {
        Box::pin(async {
            match self.systemd.unit(&self.settings.unit).await {
                Ok(status) => self.judge(&status),
                Err(e) => {
                    let reason = match &e {
                        SystemdError::Bus(_) => Reason::Connect,
                        SystemdError::Timeout => Reason::Timeout,
                        SystemdError::Denied(_) => Reason::Auth,
                        SystemdError::Refused(_) => Reason::Status,
                    };
                    Failure::because(reason, "cannot ask for the unit", &e).into()
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_by_table() {
        let unit = |states: &[&str]| {
            let settings = UnitSettings {
                unit: "x.service".parse().unwrap(),
                states: states.iter().map(|s| (*s).to_owned()).collect(),
            };
            Unit::new(settings, Arc::default())
        };
        let status = |load: &str, active: &str, sub: &str, result: &str| UnitStatus {
            load: load.into(),
            active: active.into(),
            sub: sub.into(),
            result: result.into(),
            ..UnitStatus::default()
        };
        for (states, status, expected) in [
            (
                &["active"][..],
                status("loaded", "active", "running", "success"),
                None,
            ),
            (
                &["active"],
                status("loaded", "failed", "failed", "oom-kill"),
                Some("x.service is failed (failed, result oom-kill)"),
            ),
            (
                &["active"],
                status("loaded", "inactive", "dead", "success"),
                Some("x.service is inactive (dead)"),
            ),
            (
                &["active", "inactive"],
                status("loaded", "inactive", "dead", "success"),
                None,
            ),
            (
                &["active"],
                status("not-found", "inactive", "dead", ""),
                Some("x.service is not-found"),
            ),
        ] {
            let o = unit(states).unwrap().judge(&status);
            assert_eq!(o.failure.as_ref().map(|f| f.text.as_str()), expected);
        }
        assert!(unit(&["running"]).is_err() && unit(&[]).is_err());
    }
}

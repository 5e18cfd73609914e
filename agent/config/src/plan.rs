//! From what was declared to what the watcher takes: checks with their probes, rules of restarts, windows.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::tz::TimeZone;
use keepwatch_model::check::CheckName;
use keepwatch_watch::conductor::{Check, Plan};
use keepwatch_watch::judge::Rules;
use keepwatch_watch::maintenance::{Covers, Window};
use keepwatch_watch::net::Net;
use keepwatch_watch::process::Program;
use keepwatch_watch::restart::policy::UnitRules;
use keepwatch_watch::systemd::{Systemd, UnitName};

use crate::secret::Credentials;
use crate::sections::Config;
use crate::sections::checks;

/// What probes are made with.
pub struct Tools<'a> {
    /// Connections to services.
    pub net: &'a Net,
    /// The service manager.
    pub systemd: &'a Arc<Systemd>,
    /// Where systemd put the credentials of this process.
    pub credentials: &'a Credentials,
}

impl Config {
    /// What is watched. Nothing is connected to, opened or started, no secret is read.
    ///
    /// # Errors
    /// A sentence for each check that cannot be made, which after a successful load is only one that names a credential in a
    /// process that has none.
    pub fn plan(&self, host: &str, tools: &Tools<'_>) -> Result<Plan, Vec<String>> {
        let mut faults = Vec::new();
        let mut plan = Plan {
            host: host.to_owned(),
            ..Plan::default()
        };
        for (name, check) in &self.checks {
            match one(name, check, tools) {
                Ok(check) => plan.checks.push(check),
                Err(why) => faults.push(format!("the check {name}: {why}")),
            }
        }
        plan.units = self
            .restarts
            .iter()
            .map(|(unit, rules)| (unit.clone(), rules.into()))
            .collect();
        for (name, window) in &self.maintenance {
            match static_window(name, window) {
                Ok(window) => plan.windows.push(window),
                Err(why) => faults.push(format!("the maintenance window {name}: {why}")),
            }
        }
        if faults.is_empty() {
            if let Err(more) = plan.check() {
                faults.extend(more.iter().map(ToString::to_string));
            }
        }
        if faults.is_empty() {
            Ok(plan)
        } else {
            Err(faults)
        }
    }

    /// The units that the agent may restart: those for which access must be granted.
    pub fn restartable(&self) -> Vec<&UnitName> {
        let of_checks = self
            .checks
            .values()
            .filter_map(|c| c.on_failure.restart_unit.as_ref());
        let of_steps =
            self.restarts
                .values()
                .flat_map(|r| &r.escalation)
                .flat_map(|step| match step {
                    keepwatch_watch::restart::policy::Step::Dependants(units) => &units[..],
                    _ => &[],
                });
        let mut units: Vec<&UnitName> = of_checks.chain(of_steps).collect();
        units.sort();
        units.dedup();
        units
    }

    /// The commands that restarts can run, by name.
    pub fn programs(&self) -> BTreeMap<String, Program> {
        self.commands
            .iter()
            .map(|(name, c)| (name.clone(), Program::new(c.argv.iter())))
            .collect()
    }
}

fn one(name: &str, check: &checks::Check, tools: &Tools<'_>) -> Result<Check, String> {
    let ask = check
        .probe
        .settings(tools.credentials)?
        .ask(tools.net, tools.systemd)
        .map_err(|e| e.to_string())?;
    Ok(Check {
        name: name.parse::<CheckName>().map_err(|e| e.to_string())?,
        ask,
        rules: Rules {
            interval: check.interval,
            failure_threshold: check.failure_threshold,
            success_threshold: check.success_threshold,
            fail_within: check.fail_within,
            bands: check.limits.clone(),
        },
        timeout: check.timeout,
        retry_interval: check.retry_interval,
        severity: check.severity,
        depends_on: check.depends_on.clone(),
        unit: check.on_failure.restart_unit.clone(),
        enabled: check.enable,
    })
}

fn static_window(name: &str, window: &checks::Maintenance) -> Result<Window, String> {
    Ok(Window {
        name: name
            .parse()
            .map_err(|e: keepwatch_model::ParseError| e.to_string())?,
        covers: match &window.checks[..] {
            [] => Covers::All,
            some => Covers::Checks(some.to_vec()),
        },
        begins: window.begins.clone(),
        duration: window.duration,
        zone: TimeZone::get(&window.zone).map_err(|e| e.to_string())?,
    })
}

impl From<&checks::Restart> for UnitRules {
    fn from(rules: &checks::Restart) -> Self {
        Self {
            max_attempts: rules.max_attempts,
            settle: rules.settle,
            retry_after: rules.retry_after,
            start_if_inactive: rules.start_if_inactive,
            dry_run: rules.dry_run,
            escalation: rules.escalation.clone(),
            allow_reboot: rules.allow_reboot,
            job_timeout: rules.job_timeout,
        }
    }
}

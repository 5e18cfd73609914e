//! Checks, what they depend on, restarts and maintenance together.

use std::sync::Arc;

use keepwatch_model::check::{CheckKind, CheckName};
use keepwatch_watch::clock::HostClock;
use keepwatch_watch::dependencies::{DependencyError, Graph, Node as GraphNode};
use keepwatch_watch::judge::bands::Band;
use keepwatch_watch::net::Net;
use keepwatch_watch::outcome::Quantity;
use keepwatch_watch::systemd::Systemd;

use super::{Found, twice};
use crate::node::{Node, Value, join};
use crate::secret::Credentials;
use crate::sections::probes::Probe;
use crate::text::{betraying_name, shown};

/// Circles that are named; a file with more has its first ones to mend.
const CIRCLES: usize = 16;

pub(super) fn look(root: &Node, found: &mut Found<'_, '_>) {
    let tools = Tools {
        net: Net::new(Arc::new(HostClock)),
        systemd: Arc::default(),
        // Only whether the settings make sense is asked; no secret is read.
        credentials: Credentials(Some("/run/credentials/keepwatch.service".into())),
    };
    for (name, check) in root.entries(&["checks"]) {
        one_check(name, check, &tools, found);
    }
    circles(root, found);
    restarts(root, found);
    for (name, window) in root.entries(&["maintenance"]) {
        let path = join("maintenance", name);
        twice(window, &path, "checks", found);
    }
}

struct Tools {
    net: Net,
    systemd: Arc<Systemd>,
    credentials: Credentials,
}

fn one_check(name: &str, check: &Node, tools: &Tools, found: &mut Found<'_, '_>) {
    let path = join("checks", name);
    if let Some(interval) = check.duration_at(&["interval"]) {
        let written = check.text_at(&["interval"]).unwrap_or("");
        if check
            .duration_at(&["timeout"])
            .is_some_and(|t| t >= interval)
        {
            found.fault(
                check,
                &path,
                "timeout",
                format!("it must be shorter than the interval, which is {written}"),
            );
        }
        if check
            .duration_at(&["retry_interval"])
            .is_some_and(|t| t > interval)
        {
            found.fault(
                check,
                &path,
                "retry_interval",
                format!("it must not be longer than the interval, which is {written}"),
            );
        }
    }
    let number = |keys: &[&str]| match check.get(keys).map(|n| &n.value) {
        Some(Value::Int(n)) => Some(*n),
        _ => None,
    };
    if let (Some(failures), Some(of)) = (
        number(&["fail_within", "failures"]),
        number(&["fail_within", "of"]),
    ) {
        if failures > of {
            found.fault(
                check,
                &path,
                "fail_within.failures",
                format!("{failures} failures never fit into {of} runs"),
            );
        }
    }
    twice(check, &path, "depends_on", found);
    limits(check, &path, found);
    probe(check, &path, tools, found);
}

fn limits(check: &Node, path: &str, found: &mut Found<'_, '_>) {
    let kind = check.entries(&["probe"]).next();
    let kind = kind.and_then(|(kind, _)| kind.parse::<CheckKind>().ok());
    let mut seen = Vec::new();
    for (n, node) in check
        .get(&["limits"])
        .map_or(&[][..], Node::list)
        .iter()
        .enumerate()
    {
        let path = format!("{path}.limits[{n}]");
        let Some(band) = node
            .is_whole()
            .then(|| serde_json::from_value::<Band>(node.json()).ok())
            .flatten()
        else {
            continue;
        };
        if let Err(why) = band.check() {
            found.fault(node, &path, "", why);
        }
        if seen.contains(&band.quantity) {
            found.fault(
                node,
                &path,
                "quantity",
                "it has limits already: one entry holds warn, clear and fail",
            );
        }
        if let Some((kind, can)) = kind.map(|kind| (kind, Quantity::of_kind(kind))) {
            if !can.contains(&band.quantity) {
                let can: Vec<String> = can.iter().map(Quantity::to_string).collect();
                found.fault(
                    node,
                    &path,
                    "quantity",
                    format!(
                        "a check of kind {kind} does not measure it; it measures {}",
                        can.join(", ")
                    ),
                );
            }
        }
        seen.push(band.quantity);
    }
}

/// Asks the watcher itself whether the settings make sense, and looks for secrets in places that are no place for them.
fn probe(check: &Node, path: &str, tools: &Tools, found: &mut Found<'_, '_>) {
    let Some((kind, settings)) = check.entries(&["probe"]).next() else {
        return;
    };
    let path = format!("{path}.probe.{kind}");
    for (name, _) in settings.entries(&["headers"]) {
        let flat = name.to_ascii_lowercase();
        if betraying_name(name).is_some() || flat == "authorization" {
            let what = "headers that hold secrets must not stand in the configuration: use bearer_token_file, or basic_user with password_file";
            found.fault(settings, &path, &format!("headers.{}", plain(name)), what);
        }
    }
    for (name, _) in settings.entries(&["env"]) {
        if betraying_name(name).is_some() {
            let what = "the environment of a command is no place for secrets: name a file, by a variable such as PASSWORD_FILE";
            found.fault(settings, &path, &format!("env.{}", plain(name)), what);
        }
    }
    twice(settings, &path, "members", found);
    if !settings.is_whole() {
        return;
    }
    let Ok(probe) = serde_json::from_value::<Probe>(serde_json::json!({ kind: settings.json() }))
    else {
        found.fault(settings, &path, "", "it cannot be understood");
        return;
    };
    match probe.settings(&tools.credentials) {
        Err(why) => found.fault(settings, &path, "", crate::text::line(&why)),
        Ok(settings_read) => {
            if let Err(e) = settings_read.ask(&tools.net, &tools.systemd) {
                let key = if settings.table().is_some_and(|t| t.contains_key(e.setting)) {
                    e.setting
                } else {
                    ""
                };
                let what = if key.is_empty() && e.setting != kind {
                    format!("{}: {}", e.setting, e.why)
                } else {
                    e.why
                };
                found.fault(settings, &path, key, crate::text::line(&what));
            }
        }
    }
}

/// A name as a part of a path of keys: dots would be taken apart.
fn plain(name: &str) -> String {
    name.replace('.', "_")
}

/// Checks that depend on each other in a circle, each circle once.
fn circles(root: &Node, found: &mut Found<'_, '_>) {
    struct One {
        name: CheckName,
        parents: Vec<CheckName>,
        members: Vec<CheckName>,
    }
    let known: Vec<&str> = root
        .entries(&["checks"])
        .map(|(name, _)| name)
        .filter(|n| n.parse::<CheckName>().is_ok())
        .collect();
    let names = |texts: Vec<&str>| -> Vec<CheckName> {
        let there = texts.into_iter().filter(|t| known.contains(t));
        there
            .take(keepwatch_watch::dependencies::PARENTS_MAX)
            .filter_map(|t| t.parse().ok())
            .collect()
    };
    let mut all: Vec<One> = root
        .entries(&["checks"])
        .filter_map(|(name, check)| {
            Some(One {
                name: name.parse().ok()?,
                parents: names(check.texts_at(&["depends_on"])),
                members: names(check.texts_at(&["probe", "group", "members"])),
            })
        })
        .collect();
    for _ in 0..CIRCLES {
        let nodes: Vec<GraphNode<'_>> = all
            .iter()
            .map(|one| GraphNode {
                name: &one.name,
                depends_on: &one.parents,
                members: &one.members,
            })
            .collect();
        let Err(DependencyError::Cycle(cycle)) = Graph::new(&nodes) else {
            return;
        };
        let Some(first) = cycle.first() else { return };
        let mut shown: Vec<&str> = cycle.iter().map(CheckName::as_str).collect();
        shown.push(first.as_str());
        let path = join("checks", first.as_str());
        if let Some(check) = root.get(&["checks", first.as_str()]) {
            let next = cycle.get(1).unwrap_or(first);
            let key = if check.texts_at(&["depends_on"]).contains(&next.as_str()) {
                "depends_on"
            } else {
                "probe.group.members"
            };
            found.fault(
                check,
                &path,
                key,
                format!(
                    "checks depend on each other in a circle: {}",
                    shown.join(" -> ")
                ),
            );
        }
        // Without this check the next circle shows.
        let first = first.clone();
        for one in all.iter_mut().filter(|one| one.name == first) {
            one.parents.clear();
            one.members.clear();
        }
    }
}

fn restarts(root: &Node, found: &mut Found<'_, '_>) {
    let used: Vec<&str> = root
        .entries(&["checks"])
        .filter_map(|(_, c)| c.text_at(&["on_failure", "restart_unit"]))
        .collect();
    let mut commands = Vec::new();
    for (unit, rules) in root.entries(&["restarts"]) {
        let path = join("restarts", unit);
        if !used.contains(&unit) {
            found.warn(rules, &path, "", "no check restarts this unit");
        }
        let steps = rules.get(&["escalation"]).map_or(&[][..], Node::list);
        let reboot = steps.iter().find(|s| s.text() == Some("reboot"));
        if reboot.is_some() && rules.get(&["allow_reboot"]).and_then(Node::bool) == Some(false) {
            found.fault(
                rules,
                &path,
                "escalation",
                "it reboots the host: set allow_reboot = true, or take that step out",
            );
        }
        commands.extend(steps.iter().filter_map(|s| s.text_at(&["command"])));
        let own = steps
            .iter()
            .flat_map(|s| s.texts_at(&["dependants"]))
            .any(|u| u == unit);
        if own {
            found.fault(
                rules,
                &path,
                "escalation",
                format!("{} is the unit itself", shown(unit)),
            );
        }
    }
    for (name, command) in root.entries(&["commands"]) {
        if !commands.contains(&name) {
            found.warn(
                command,
                &join("commands", name),
                "",
                "no escalation runs this command",
            );
        }
    }
}

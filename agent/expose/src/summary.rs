//! Facts as JSON for people and scripts: `/health/detailed`, `/resources/status` and `/restart/status`. Pure.
//!
//! These answers map the host (names, paths, texts of errors), so [`crate::answer`] gives them only over the unix socket or to
//! who has the token.

use std::time::Duration;

use keepwatch_model::check::State;
use serde_json::{Value, json};

use crate::facts::{At, Backup, Check, Disk, Facts, Repository, Unit};
use crate::limits::{SENTENCE, rows};
use crate::probes::{self, Options, Shown, Status, Verdict};

/// Share of a file system's bytes or inodes, or of memory, below which more room is recommended.
const TIGHT: f64 = 0.10;
/// Score below which a person should look.
const LOW_SCORE: f64 = 0.7;
/// Keys that end within this are mentioned.
const KEY_ENDS: Duration = Duration::from_secs(30 * 86_400);

fn secs(d: Duration) -> f64 {
    (d.as_secs_f64() * 1e3).round() / 1e3
}

fn when(at: Option<At>) -> Value {
    json!(at.map(At::rfc3339))
}

/// A text from outside: one line, at most [`SENTENCE`] characters.
fn sentence(text: &str) -> String {
    text.chars()
        .take(SENTENCE)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// 0 to 100, as people read it.
fn score(facts: &Facts) -> Value {
    json!(
        facts
            .agent
            .score
            .map(|s| (s.clamp(0.0, 1.0) * 1000.0).round() / 10.0)
    )
}

/// Everything. 200 unless a critical check is not up or the agent is not ready.
pub fn detailed(
    facts: &Facts,
    now: At,
    monotonic: Duration,
    started: bool,
    draining: bool,
) -> Verdict {
    let live = probes::live(facts, monotonic);
    let ready = probes::ready(facts, started, draining, &Options::default(), Shown::Names);
    let stale = facts.backups.iter().any(|b| b.is_fresh(now) == Some(false));
    let gave_up = facts.units.iter().any(|u| u.gave_up);
    let status = match (live.status, ready.status) {
        (Status::Unhealthy, _) | (_, Status::Unhealthy) => Status::Unhealthy,
        (_, Status::Degraded) => Status::Degraded,
        _ if stale || gave_up => Status::Degraded,
        _ => Status::Healthy,
    };
    let mut message = if live.status == Status::Unhealthy {
        live.message
    } else {
        ready.message
    };
    if stale {
        message.push_str("; a backup is overdue");
    }
    if gave_up {
        message.push_str("; a unit was given up");
    }
    let a = &facts.agent;
    Verdict {
        status,
        check_type: "detailed",
        message,
        details: json!({
            "host": facts.host.name,
            "version": a.version,
            "revision": a.revision,
            "features": a.features,
            "health_score": score(facts),
            "started": started,
            "draining": draining || a.draining,
            "tick_age_seconds": secs(monotonic.saturating_sub(a.tick)),
            "lag_seconds": secs(a.lag),
            "state_database": {
                "ready": a.database_ready,
                "writable": a.database_writable,
                "size_bytes": a.database_size,
                "writes_queued": a.writes_queued,
            },
            "collectors": facts.agent.collectors.iter().take(rows::OTHERS).map(|c| json!({
                "name": c.name, "fresh": c.success, "duration_seconds": secs(c.duration),
            })).collect::<Vec<_>>(),
            "checks": facts.checks.iter().take(rows::CHECKS).map(check).collect::<Vec<_>>(),
            "maintenance": facts.windows.iter().filter(|w| w.active).take(rows::OTHERS).map(|w| json!({
                "name": w.name, "since": when(w.since), "until": when(w.until),
            })).collect::<Vec<_>>(),
            "backups": facts.backups.iter().take(rows::BACKUPS).map(|b| backup(b, now)).collect::<Vec<_>>(),
            "repositories": facts.repositories.iter().take(rows::REPOSITORIES).map(repository).collect::<Vec<_>>(),
            "restarts": facts.units.iter().take(rows::UNITS).map(|u| unit(u, now)).collect::<Vec<_>>(),
            "alerts": alerts(facts),
        }),
    }
}

fn check(c: &Check) -> Value {
    json!({
        "name": c.name.as_str(),
        "kind": c.kind.as_str(),
        "severity": c.severity.as_str(),
        "status": c.shown(),
        "state": c.state.as_str(),
        "since": when(c.since),
        "last_run": when(c.last_run),
        "last_success": when(c.last_success),
        "last_duration_seconds": c.last_duration.map(secs),
        "consecutive_failures": c.failures_in_row,
        "flapping": c.flapping,
        "reason": c.reason.map(|r| r.as_str()),
        "text": sentence(&c.text),
        "unit": c.unit,
        "group": c.group,
        "interval_seconds": secs(c.interval),
    })
}

fn backup(b: &Backup, now: At) -> Value {
    json!({
        "name": b.name,
        "repository": b.repository,
        "fresh": b.is_fresh(now),
        "running": b.running,
        "last_start": when(b.last_start),
        "last_success": when(b.last_success),
        "last_successful": b.last_successful,
        "last_duration_seconds": b.last_duration.map(secs),
        "last_source_size_bytes": b.last_source_size,
        "last_added_size_bytes": b.last_added_size,
        "last_source_errors": b.last_source_errors,
        "snapshots": b.snapshots,
        "newest_snapshot": when(b.newest_snapshot),
        "oldest_snapshot": when(b.oldest_snapshot),
        "drill": b.drill.as_ref().map(|d| json!({
            "last_success": when(d.last_success),
            "last_successful": d.last_successful,
            "last_duration_seconds": d.last_duration.map(secs),
            "objective_seconds": d.objective.map(secs),
        })),
    })
}

fn repository(r: &Repository) -> Value {
    json!({
        "name": r.name,
        "reachable": r.reachable,
        "size_bytes": r.size,
        "available_bytes": r.available,
        "last_verified": when(r.verification.last_success),
        "verified_successfully": r.verification.last_successful,
    })
}

fn unit(u: &Unit, now: At) -> Value {
    json!({
        "unit": u.name,
        "restarts": u.restarts,
        "attempts": u.attempts,
        "max_attempts": u.max_attempts,
        "gave_up": u.gave_up,
        "in_progress": u.in_progress,
        "last_restart": when(u.last_restart),
        "last_result": u.last_result.as_deref().map(sentence),
        "allowed_at": when(u.allowed),
        "cooling_down": u.allowed.is_some_and(|at| at > now),
        "failures": u.failures.iter().take(rows::VALUES).collect::<std::collections::BTreeMap<_, _>>(),
        "refused": u.suppressed.iter().take(rows::VALUES).collect::<std::collections::BTreeMap<_, _>>(),
    })
}

fn alerts(facts: &Facts) -> Vec<Value> {
    facts
        .alerts
        .iter()
        .take(rows::OTHERS)
        .map(|a| {
            json!({
                "name": sentence(&a.name),
                "severity": a.severity.as_str(),
                "subject": sentence(&a.subject),
                "text": sentence(&a.text),
                "since": a.since.rfc3339(),
            })
        })
        .collect()
}

/// `/restart/status`.
pub fn restarts(facts: &Facts, now: At) -> Value {
    let given_up: Vec<&str> = facts
        .units
        .iter()
        .filter(|u| u.gave_up)
        .map(|u| u.name.as_str())
        .take(rows::UNITS)
        .collect();
    json!({
        "status": if given_up.is_empty() { "healthy" } else { "degraded" },
        "message": match given_up.len() {
            0 => "no unit is given up".to_owned(),
            1 => format!("{} is given up: a person must act", given_up[0]),
            n => format!("{n} units are given up: a person must act"),
        },
        "given_up": given_up,
        "units": facts.units.iter().take(rows::UNITS).map(|u| unit(u, now)).collect::<Vec<_>>(),
        "timestamp": now.rfc3339(),
    })
}

#[allow(clippy::cast_precision_loss)] // shares of bytes for people
fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

fn rounded(share: Option<f64>) -> Value {
    json!(share.map(|s| (s * 1000.0).round() / 1000.0))
}

/// `/resources/status`.
pub fn resources(facts: &Facts, now: At) -> Value {
    let h = &facts.host;
    let disks: Vec<&Disk> = disks(facts);
    let available = h
        .memory_available
        .zip(h.memory_size)
        .and_then(|(a, s)| share(a, s));
    json!({
        "status": facts.agent.score.map_or("unknown", |s| if s < LOW_SCORE { "degraded" } else { "healthy" }),
        "health_score": score(facts),
        "memory": {
            "available_bytes": h.memory_available,
            "size_bytes": h.memory_size,
            "available_ratio": rounded(available),
            "pressure_ratio": h.pressure_now.get("memory"),
        },
        "cpu": {
            "load1": h.load1,
            "processors": h.processors,
            "load1_per_processor": rounded(h.load1.zip(h.processors).and_then(|(l, p)| (p > 0).then(|| l / f64::from(p)))),
            "pressure_ratio": h.pressure_now.get("cpu"),
        },
        "disks": disks.iter().map(|d| json!({
            "mountpoint": sentence(&d.mountpoint),
            "available_bytes": d.available,
            "size_bytes": d.size,
            "available_ratio": rounded(share(d.available, d.size)),
            "inodes_free": d.inodes_free,
            "inodes": d.inodes,
        })).collect::<Vec<_>>(),
        "alerts": alerts(facts),
        "recommendations": recommendations(facts, now),
        "timestamp": now.rfc3339(),
    })
}

/// Those of the host and of checks, each mount point once.
fn disks(facts: &Facts) -> Vec<&Disk> {
    let mut seen = std::collections::BTreeSet::new();
    facts
        .host
        .disks
        .iter()
        .chain(facts.checks.iter().flat_map(|c| &c.disks))
        .filter(|d| seen.insert(d.mountpoint.as_str()))
        .take(rows::OTHERS)
        .collect()
}

/// What a person could do, the most urgent first. At most [`rows::OTHERS`].
pub fn recommendations(facts: &Facts, now: At) -> Vec<String> {
    let mut out = Vec::new();
    for u in facts.units.iter().filter(|u| u.gave_up) {
        out.push(format!(
            "look after {}: restarting it did not help, and it is no longer tried",
            u.name
        ));
    }
    for c in facts
        .checks
        .iter()
        .filter(|c| c.is_critical() && c.state == State::Unhealthy && c.overlay.is_none())
    {
        out.push(format!(
            "critical check {} is down ({}): see its log",
            c.name,
            c.reason.map_or("unknown", |r| r.as_str())
        ));
    }
    for b in &facts.backups {
        if b.is_fresh(now) == Some(false) {
            out.push(match b.last_success {
                None => format!(
                    "backup {} has never succeeded: run it by hand and read what it says",
                    b.name
                ),
                Some(at) => format!(
                    "backup {} last succeeded at {}: run it by hand and read what it says",
                    b.name,
                    at.rfc3339()
                ),
            });
        }
        if b.drill.as_ref().is_none_or(|d| d.last_success.is_none()) && b.last_success.is_some() {
            out.push(format!(
                "no restore of backup {} has ever been rehearsed: set up a drill",
                b.name
            ));
        }
    }
    for r in &facts.repositories {
        if r.reachable == Some(false) {
            out.push(format!(
                "repository {} does not answer: check network and credentials",
                r.name
            ));
        }
        if r.verification.last_successful == Some(false) {
            out.push(format!("repository {} did not verify: run verify and read its findings before anything is pruned", r.name));
        }
        if r.available
            .zip(r.capacity)
            .and_then(|(a, c)| share(a, c))
            .is_some_and(|s| s < TIGHT)
        {
            out.push(format!("repository {} is nearly full", r.name));
        }
    }
    for d in disks(facts) {
        if share(d.available, d.size).is_some_and(|s| s < TIGHT) {
            out.push(format!("free space on {}", sentence(&d.mountpoint)));
        }
        if share(d.inodes_free, d.inodes).is_some_and(|s| s < TIGHT) {
            out.push(format!(
                "remove small files from {}: inodes are running out",
                sentence(&d.mountpoint)
            ));
        }
    }
    if facts
        .host
        .memory_available
        .zip(facts.host.memory_size)
        .and_then(|(a, s)| share(a, s))
        .is_some_and(|s| s < TIGHT)
    {
        out.push("memory is nearly used up: find what uses it, or add more".into());
    }
    for k in &facts.keys {
        if let Some(end) = k.not_after {
            if end <= now {
                out.push(format!("key {} has ended: replace it", k.name));
            } else if end.since(now) < KEY_ENDS {
                out.push(format!(
                    "key {} ends at {}: replace it",
                    k.name,
                    end.rfc3339()
                ));
            }
        }
    }
    out.truncate(rows::OTHERS);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{Drill, Key};

    #[test]
    fn recommendations_by_table() {
        let now = At(1_700_000_000_000);
        let mut f = Facts::default();
        assert_eq!(recommendations(&f, now), Vec::<String>::new());
        f.units.push(Unit {
            name: "web.service".into(),
            gave_up: true,
            ..Unit::default()
        });
        f.backups.push(Backup {
            name: "home".into(),
            interval: Some(Duration::from_secs(86_400)),
            last_success: Some(At(1_600_000_000_000)),
            drill: Some(Drill {
                last_success: Some(At(1)),
                ..Drill::default()
            }),
            ..Backup::default()
        });
        f.backups.push(Backup {
            name: "etc".into(),
            interval: Some(Duration::from_secs(86_400)),
            first_seen: Some(At(1_600_000_000_000)),
            ..Backup::default()
        });
        f.repositories.push(Repository {
            name: "r".into(),
            reachable: Some(false),
            available: Some(1),
            capacity: Some(100),
            ..Repository::default()
        });
        f.host.disks.push(Disk {
            mountpoint: "/a\nb".into(),
            available: 5,
            size: 100,
            inodes_free: 50,
            inodes: 0,
        });
        f.host.memory_available = Some(9);
        f.host.memory_size = Some(100);
        f.keys.push(Key {
            name: "k".into(),
            purpose: "writer".into(),
            not_after: Some(At(now.0 + 1000)),
            last_verified: None,
        });
        f.keys.push(Key {
            name: "old".into(),
            purpose: "writer".into(),
            not_after: Some(now),
            last_verified: None,
        });
        let all = recommendations(&f, now);
        for (n, part) in [
            "look after web.service",
            "backup home last succeeded at 2020-09-13",
            "backup etc has never succeeded",
            "repository r does not answer",
            "repository r is nearly full",
            "free space on /a b",
            "memory is nearly used up",
            "key k ends at",
            "key old has ended",
        ]
        .iter()
        .enumerate()
        {
            assert!(all[n].contains(part), "{n}: {} does not say {part}", all[n]);
        }
        assert_eq!(all.len(), 9);
    }
}

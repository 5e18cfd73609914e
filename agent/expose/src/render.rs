//! Facts as metrics. Pure: the same facts give the same text, byte for byte.

mod backups;

use std::time::Duration;

use keepwatch_model::check::{CheckKind, Overlay, Reason, State};

use crate::facts::{At, Check, Depth, Facts, Repository, Skipped, Unit, Wal};
use crate::limits::rows;
use crate::names::{self as n, Metric};
use crate::text::Page;

/// States of [`n::CHECK_STATE`] that are always written.
const SHOWN: &[&str] = &[
    State::Unknown.as_str(),
    State::Healthy.as_str(),
    State::Degraded.as_str(),
    State::Unhealthy.as_str(),
    Overlay::Maintenance.as_str(),
    Overlay::Suppressed.as_str(),
];

/// Reasons that runs of a kind usually fail for: these are written from the start, at 0, so that the first failure is an
/// increase. Another one that happens is written too.
pub const fn usual_reasons(kind: CheckKind) -> &'static [Reason] {
    use Reason::{Assertion, Auth, Connect, Dns, Exec, Protocol, Status, Threshold, Timeout, Tls};
    match kind {
        CheckKind::Http => &[Timeout, Dns, Connect, Tls, Protocol, Status, Assertion],
        CheckKind::Tcp => &[Timeout, Dns, Connect, Assertion],
        CheckKind::Postgresql | CheckKind::Mysql | CheckKind::Redis => {
            &[Timeout, Connect, Auth, Protocol, Status]
        }
        CheckKind::Qdrant | CheckKind::Ollama => {
            &[Timeout, Connect, Auth, Protocol, Status, Assertion]
        }
        CheckKind::Systemd => &[Timeout, Status, Exec],
        CheckKind::Disk | CheckKind::Memory | CheckKind::Pressure | CheckKind::Load => {
            &[Threshold, Exec]
        }
        CheckKind::Tls => &[Timeout, Dns, Connect, Tls, Threshold],
        CheckKind::Dns => &[Timeout, Dns, Assertion],
        CheckKind::Command => &[Timeout, Exec, Status, Assertion],
        CheckKind::Sqlite => &[Timeout, Exec, Status],
        CheckKind::Heartbeat => &[Timeout, Status],
        CheckKind::Group => &[Threshold],
    }
}

fn flag(on: bool) -> f64 {
    f64::from(u8::from(on))
}

fn secs(d: Duration) -> f64 {
    d.as_secs_f64()
}

#[allow(clippy::cast_precision_loss)] // beyond 2^53 a counter loses its last digits, as every Prometheus value does
fn count(n: u64) -> f64 {
    n as f64
}

/// Writes everything. `legacy` adds the duplicates under their other names.
pub fn facts(page: &mut Page, facts: &Facts, legacy: bool) {
    let checks = &facts.checks[..facts.checks.len().min(rows::CHECKS)];
    let units = &facts.units[..facts.units.len().min(rows::UNITS)];
    let shown = &facts.backups[..facts.backups.len().min(rows::BACKUPS)];
    let repositories = &facts.repositories[..facts.repositories.len().min(rows::REPOSITORIES)];
    write_checks(page, checks, legacy);
    write_depth(page, checks);
    write_host(page, facts);
    write_units(page, units);
    backups::write(page, shown, facts.backups.len() > rows::DETAILED);
    write_repositories(page, repositories);
    write_wal(page, repositories);
    write_keys(page, facts);
    write_agent(page, facts);
    write_process(page, facts);
    let whole = checks.len() == facts.checks.len()
        && units.len() == facts.units.len()
        && shown.len() == facts.backups.len()
        && repositories.len() == facts.repositories.len()
        && page.omitted() == 0;
    page.family(&n::COLLECTOR_SUCCESS, |f| {
        f.add(["exporter"], flag(whole));
        for c in facts.agent.collectors.iter().take(rows::OTHERS) {
            f.add([&c.name], flag(c.success));
        }
    });
}

/// One metric with labels `check` and `kind`.
fn per_check(
    page: &mut Page,
    metric: &Metric,
    checks: &[Check],
    value: impl Fn(&Check) -> Option<f64>,
) {
    page.family(metric, |f| {
        for c in checks {
            f.maybe([c.name.as_str(), c.kind.as_str()], value(c));
        }
    });
}

fn write_checks(page: &mut Page, checks: &[Check], legacy: bool) {
    per_check(page, &n::CHECK_UP, checks, |c| Some(flag(c.state.is_up())));
    page.family(&n::CHECK_STATE, |f| {
        for c in checks {
            let shown = c.shown();
            for state in SHOWN {
                f.add([c.name.as_str(), state], flag(*state == shown));
            }
            if !SHOWN.contains(&shown) {
                f.add([c.name.as_str(), shown], 1.0);
            }
        }
    });
    per_check(page, &n::CHECK_LAST_RESULT_SUCCESS, checks, |c| {
        c.last_result.map(flag)
    });
    per_check(page, &n::CHECK_RUNS, checks, |c| Some(count(c.runs)));
    page.family(&n::CHECK_FAILURES, |f| {
        for c in checks {
            let usual = usual_reasons(c.kind);
            for reason in Reason::ALL {
                let times = c.failures.get(reason).copied();
                if let Some(times) = times.or_else(|| usual.contains(reason).then_some(0)) {
                    f.add(
                        [c.name.as_str(), c.kind.as_str(), reason.as_str()],
                        count(times),
                    );
                }
            }
        }
    });
    per_check(page, &n::CHECK_LAST_DURATION, checks, |c| {
        c.last_duration.map(secs)
    });
    per_check(page, &n::CHECK_INTERVAL, checks, |c| Some(secs(c.interval)));
    per_check(page, &n::CHECK_TIMEOUT, checks, |c| Some(secs(c.timeout)));
    per_check(page, &n::CHECK_LAST_RUN, checks, |c| {
        c.last_run.map(At::as_secs_f64)
    });
    per_check(page, &n::CHECK_LAST_SUCCESS, checks, |c| {
        c.last_success.map(At::as_secs_f64)
    });
    per_check(page, &n::CHECK_LAST_STATE_CHANGE, checks, |c| {
        c.since.map(At::as_secs_f64)
    });
    per_check(page, &n::CHECK_CONSECUTIVE_FAILURES, checks, |c| {
        Some(f64::from(c.failures_in_row))
    });
    per_check(page, &n::CHECK_FLAPPING, checks, |c| Some(flag(c.flapping)));
    per_check(page, &n::CHECK_STATE_CHANGES, checks, |c| {
        Some(count(c.changes))
    });
    page.family(&n::CHECK_RUNS_SKIPPED, |f| {
        for c in checks {
            for why in [Skipped::Overrun, Skipped::Maintenance, Skipped::Disabled] {
                let times = c.skipped.get(&why).copied();
                if let Some(times) = times.or((why == Skipped::Overrun).then_some(0)) {
                    f.add(
                        [c.name.as_str(), c.kind.as_str(), why.as_str()],
                        count(times),
                    );
                }
            }
        }
    });
    page.family(&n::CHECK_INFO, |f| {
        for c in checks {
            f.add(
                [
                    c.name.as_str(),
                    c.kind.as_str(),
                    c.severity.as_str(),
                    &c.unit,
                    &c.group,
                ],
                1.0,
            );
        }
    });
    per_check(page, &n::CHECK_TLS_NOT_AFTER, checks, |c| {
        c.tls_not_after.map(At::as_secs_f64)
    });
    if legacy {
        per_check(page, &n::LEGACY_CHECK_TOTAL, checks, |c| {
            Some(count(c.runs))
        });
        per_check(page, &n::LEGACY_SERVICE_STATUS, checks, |c| {
            Some(flag(c.state.is_up()))
        });
    }
}

fn write_depth(page: &mut Page, checks: &[Check]) {
    per_check(page, &n::CHECK_HTTP_STATUS, checks, |c| {
        c.depth.get(&Depth::HttpStatus).copied()
    });
    for (metric, depth) in [
        (&n::QDRANT_COLLECTIONS, Depth::QdrantCollections),
        (&n::QDRANT_POINTS, Depth::QdrantPoints),
        (&n::OLLAMA_MODELS, Depth::OllamaModels),
        (&n::SQLITE_INTEGRITY_OK, Depth::SqliteIntegrityOk),
        (&n::POSTGRESQL_CONNECTIONS, Depth::PostgresqlConnections),
        (
            &n::POSTGRESQL_CONNECTIONS_MAX,
            Depth::PostgresqlConnectionsMax,
        ),
    ] {
        page.family(metric, |f| {
            for c in checks {
                f.maybe([c.name.as_str()], c.depth.get(&depth).copied());
            }
        });
    }
    for (metric, value) in [
        (
            &n::DISK_AVAILABLE,
            (|d| d.available) as fn(&crate::facts::Disk) -> u64,
        ),
        (&n::DISK_SIZE, |d| d.size),
        (&n::DISK_INODES_FREE, |d| d.inodes_free),
        (&n::DISK_INODES, |d| d.inodes),
    ] {
        page.family(metric, |f| {
            for c in checks {
                for d in c.disks.iter().take(rows::VALUES) {
                    f.add([c.name.as_str(), &d.mountpoint], count(value(d)));
                }
            }
        });
    }
}

fn write_host(page: &mut Page, facts: &Facts) {
    let h = &facts.host;
    page.family(&n::HOST_MEMORY_AVAILABLE, |f| {
        f.maybe([], h.memory_available.map(count))
    });
    page.family(&n::HOST_MEMORY_SIZE, |f| {
        f.maybe([], h.memory_size.map(count))
    });
    page.family(&n::HOST_PRESSURE_WAITING, |f| {
        for (resource, waited) in &h.pressure {
            f.add([resource], secs(*waited));
        }
    });
    page.family(&n::HOST_LOAD1, |f| f.maybe([], h.load1));
    page.family(&n::HEALTH_SCORE, |f| f.maybe([], facts.agent.score));
    page.family(&n::MAINTENANCE_ACTIVE, |f| {
        for w in facts.windows.iter().take(rows::OTHERS) {
            f.add([&w.name], flag(w.active));
        }
    });
}

fn write_units(page: &mut Page, units: &[Unit]) {
    let each = |page: &mut Page, metric: &Metric, value: fn(&Unit) -> Option<f64>| {
        page.family(metric, |f| {
            for u in units {
                f.maybe([&u.name], value(u));
            }
        });
    };
    each(page, &n::UNIT_RESTARTS, |u| Some(count(u.restarts)));
    for (metric, by) in [
        (
            &n::UNIT_RESTART_FAILURES,
            (|u| &u.failures) as fn(&Unit) -> &std::collections::BTreeMap<String, u64>,
        ),
        (&n::UNIT_RESTARTS_SUPPRESSED, |u| &u.suppressed),
    ] {
        page.family(metric, |f| {
            for u in units {
                for (reason, times) in by(u).iter().take(rows::VALUES) {
                    f.add([&u.name, reason], count(*times));
                }
            }
        });
    }
    each(page, &n::UNIT_RESTART_ATTEMPTS, |u| {
        Some(f64::from(u.attempts))
    });
    each(page, &n::UNIT_RESTART_GAVE_UP, |u| Some(flag(u.gave_up)));
    each(page, &n::UNIT_LAST_RESTART, |u| {
        u.last_restart.map(At::as_secs_f64)
    });
    each(page, &n::UNIT_RESTART_ALLOWED, |u| {
        u.allowed.map(At::as_secs_f64)
    });
}

fn write_repositories(page: &mut Page, repositories: &[Repository]) {
    let mut each = |metric: &Metric, value: fn(&Repository) -> Option<f64>| {
        page.family(metric, |f| {
            for r in repositories {
                f.maybe([&r.name], value(r));
            }
        });
    };
    each(&n::REPOSITORY_REACHABLE, |r| r.reachable.map(flag));
    each(&n::REPOSITORY_FIRST_SEEN, |r| {
        r.first_seen.map(At::as_secs_f64)
    });
    each(&n::REPOSITORY_SIZE, |r| r.size.map(count));
    each(&n::REPOSITORY_AVAILABLE, |r| r.available.map(count));
    each(&n::REPOSITORY_CAPACITY, |r| r.capacity.map(count));
    each(&n::REPOSITORY_LOCKS, |r| r.locks.map(count));
    each(&n::REPOSITORY_STALE_LOCKS, |r| r.stale_locks.map(count));
    each(&n::REPOSITORY_SENT, |r| r.sent.map(count));
    each(&n::REPOSITORY_RECEIVED, |r| r.received.map(count));
    each(&n::VERIFICATION_LAST_SUCCESS, |r| {
        r.verification.last_success.map(At::as_secs_f64)
    });
    each(&n::VERIFICATION_LAST_SUCCESSFUL, |r| {
        r.verification.last_successful.map(flag)
    });
    each(&n::VERIFICATION_LAST_DURATION, |r| {
        r.verification.last_duration.map(secs)
    });
    each(&n::VERIFICATION_INTERVAL, |r| {
        r.verification.interval.map(secs)
    });
    each(&n::VERIFICATION_CHECKED, |r| {
        r.verification.checked.map(count)
    });
    type By = fn(&Repository) -> &std::collections::BTreeMap<String, u64>;
    for (metric, by) in [
        (&n::REPOSITORY_REQUESTS, (|r| &r.requests) as By),
        (&n::REPOSITORY_REQUEST_ERRORS, |r| &r.request_errors),
        (&n::VERIFICATION_ERRORS, |r| &r.verification.errors),
    ] {
        page.family(metric, |f| {
            for r in repositories {
                for (word, times) in by(r).iter().take(rows::VALUES) {
                    f.add([&r.name, word], count(*times));
                }
            }
        });
    }
}

fn write_wal(page: &mut Page, repositories: &[Repository]) {
    let mut each = |metric: &Metric, value: fn(&Wal) -> Option<f64>| {
        page.family(metric, |f| {
            for r in repositories {
                for w in r.wal.iter().take(rows::VALUES) {
                    f.maybe([&r.name, &w.cluster], value(w));
                }
            }
        });
    };
    each(&n::WAL_RECOVERABLE, |w| Some(flag(w.recoverable)));
    each(&n::WAL_GAPS, |w| Some(count(w.gaps)));
    each(&n::WAL_SEGMENTS_MISSING, |w| {
        Some(count(w.segments_missing))
    });
    each(&n::WAL_NEWEST_SEGMENT, |w| {
        w.newest_segment.map(At::as_secs_f64)
    });
    each(&n::WAL_BASE_BACKUPS, |w| Some(count(w.base_backups)));
    each(&n::WAL_NEWEST_BASE_BACKUP, |w| {
        w.newest_base_backup.map(At::as_secs_f64)
    });
    each(&n::WAL_OLDEST_RECOVERY, |w| {
        w.oldest_recovery.map(At::as_secs_f64)
    });
}

fn write_keys(page: &mut Page, facts: &Facts) {
    let keys = &facts.keys[..facts.keys.len().min(rows::OTHERS)];
    page.family(&n::KEY_NOT_AFTER, |f| {
        for k in keys {
            f.maybe([&k.name, &k.purpose], k.not_after.map(At::as_secs_f64));
        }
    });
    page.family(&n::RECOVERY_KEY_LAST_VERIFIED, |f| {
        for k in keys {
            f.maybe([&k.name], k.last_verified.map(At::as_secs_f64));
        }
    });
}

fn write_agent(page: &mut Page, facts: &Facts) {
    let a = &facts.agent;
    page.family(&n::BUILD_INFO, |f| {
        f.add([&a.version, &a.revision, &a.features], 1.0)
    });
    page.family(&n::RUNTIME_TICK, |f| f.add([], a.tick_at.as_secs_f64()));
    page.family(&n::RUNTIME_LAG, |f| f.add([], secs(a.lag)));
    page.family(&n::CONFIG_RELOAD_SUCCESSFUL, |f| {
        f.add([], flag(a.reload_ok))
    });
    page.family(&n::CONFIG_RELOAD_SUCCESS, |f| {
        f.maybe([], a.reloaded.map(At::as_secs_f64))
    });
    page.family(&n::CHECKS_CONFIGURED, |f| {
        for kind in CheckKind::ALL {
            let of_kind = facts.checks.iter().filter(|c| c.kind == *kind).count();
            if of_kind > 0 {
                f.add([kind.as_str()], count(of_kind as u64));
            }
        }
    });
    page.family(&n::CHECKS_RUNNING, |f| f.add([], count(a.checks_running)));
    page.family(&n::DB_SIZE, |f| f.maybe([], a.database_size.map(count)));
    page.family(&n::DB_WRITES_QUEUED, |f| f.add([], count(a.writes_queued)));
    page.family(&n::HISTORY_DROPPED, |f| {
        for (sink, times) in a.history_dropped.iter().take(rows::VALUES) {
            f.add([sink], count(*times));
        }
    });
    page.family(&n::COLLECTOR_DURATION, |f| {
        for c in a.collectors.iter().take(rows::OTHERS) {
            f.add([&c.name], secs(c.duration));
        }
    });
    if let Some(h) = &a.heartbeat {
        page.family(&n::HEARTBEAT_LAST_SUCCESS, |f| {
            f.maybe([], h.last_success.map(At::as_secs_f64))
        });
        page.family(&n::HEARTBEAT_INTERVAL, |f| f.add([], secs(h.interval)));
        page.family(&n::HEARTBEAT_FAILURES, |f| f.add([], count(h.failures)));
    }
    for (metric, value) in [
        (
            &n::NOTIFICATIONS,
            (|c| c.delivered) as fn(&crate::facts::Channel) -> u64,
        ),
        (&n::NOTIFICATION_FAILURES, |c| c.failures),
        (&n::NOTIFICATIONS_UNDELIVERABLE, |c| c.undeliverable),
        (&n::NOTIFICATIONS_QUEUED, |c| c.queued),
    ] {
        page.family(metric, |f| {
            for c in a.channels.iter().take(rows::VALUES) {
                f.add([&c.name], count(value(c)));
            }
        });
    }
}

fn write_process(page: &mut Page, facts: &Facts) {
    let Some(p) = facts.agent.process else { return };
    page.family(&n::PROCESS_CPU, |f| f.add([], secs(p.cpu)));
    page.family(&n::PROCESS_RESIDENT_MEMORY, |f| {
        f.add([], count(p.resident))
    });
    page.family(&n::PROCESS_VIRTUAL_MEMORY, |f| {
        f.add([], count(p.virtual_memory))
    });
    page.family(&n::PROCESS_OPEN_FDS, |f| f.add([], count(p.open_fds)));
    page.family(&n::PROCESS_MAX_FDS, |f| f.maybe([], p.max_fds.map(count)));
    page.family(&n::PROCESS_START_TIME, |f| {
        f.add([], p.started.as_secs_f64())
    });
}

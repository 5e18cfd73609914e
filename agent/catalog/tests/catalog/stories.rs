//! One story after another, each on SQLite and on PostgreSQL.

use std::time::Duration;

use keepwatch_catalog::events::{self, EventFilter};
use keepwatch_catalog::facts;
use keepwatch_catalog::history::{self, HistoryFilter};
use keepwatch_catalog::runs::{self, RunFilter};
use keepwatch_catalog::{checks, counters, process, rebuild, states};
use keepwatch_model::checks::{CheckState, Overlay};
use keepwatch_model::history::Entry;
use keepwatch_model::ids::{EventId, IncidentId, RunId};
use keepwatch_model::incidents::*;
use keepwatch_model::runs::*;

use crate::postgres::Server;
use crate::support::*;

macro_rules! stories {
    ($($name:path as $label:ident,)+) => {
        mod sqlite {
            $(
                mod $label {
                    #[allow(unused_imports)] // not every story is of this file
                    use super::super::*;

                    #[test]
                    fn on_sqlite() {
                        block_on(async { $name(Env::sqlite()).await });
                    }
                }
            )+
        }

        /// All of them on one server, each in a database of its own.
        #[test]
        fn on_postgres() {
            let Some(mut server) = Server::start() else { return };
            $(
                eprintln!("story {}", stringify!($label));
                let env = Env::postgres(&mut server);
                block_on(async { $name(env).await });
            )+
        }
    };
}

stories! {
    runs_are_told_once as runs_are_told_once,
    the_order_of_arrival_does_not_matter as the_order_of_arrival_does_not_matter,
    runs_are_found as runs_are_found,
    lost_runs_are_found as lost_runs_are_found,
    checks_are_kept as checks_are_kept,
    incidents_restarts_and_messages as incidents_restarts_and_messages,
    facts_of_jobs as facts_of_jobs,
    a_sign_tells_of_news as a_sign_tells_of_news,
    history_is_one_list as history_is_one_list,
    states_come_back as states_come_back,
    a_lost_catalog_is_rebuilt as a_lost_catalog_is_rebuilt,
    the_spool_is_imported_once as the_spool_is_imported_once,
    an_older_schema_is_brought_forward as an_older_schema_is_brought_forward,
    a_newer_schema_is_refused as a_newer_schema_is_refused,
    tables_of_others_are_left_alone as tables_of_others_are_left_alone,
    crate::hostile::texts_come_back as texts_come_back,
    crate::time::rollups_equal_the_raw as rollups_equal_the_raw,
    crate::time::old_rows_go as old_rows_go,
    crate::time::a_clock_that_jumps_deletes_nothing as a_clock_that_jumps_deletes_nothing,
    crate::crash::two_processes_write_at_once as two_processes_write_at_once,
    crate::crash::killed_while_it_migrates as killed_while_it_migrates,
}

async fn runs_are_told_once(env: Env) {
    let catalog = env.open().await;
    let begun = env.run(MONDAY);
    assert_eq!(catalog.record_run(&begun).await.stored, 1);
    assert_eq!(
        runs::get(&catalog, begun.id).await.expect("asked"),
        Some(begun.clone())
    );
    assert_eq!(runs::open(&catalog).await.expect("asked").len(), 1);

    let mut done = env.done(begun.clone(), RunOutcome::Failed, 90);
    done.error = Some(RunError {
        class: ErrorClass::Space,
        text: "no space left".into(),
    });
    done.stages = vec![
        Stage {
            name: "scan".into(),
            duration: Duration::from_millis(1500),
        },
        Stage {
            name: "upload".into(),
            duration: Duration::from_micros(7),
        },
    ];
    done.process = process::current();
    done.snapshot = Some("ab12".into());
    done.path = Some("/home".into());
    done.totals = RunTotals {
        files: Some(1),
        source_bytes: Some(2),
        added_bytes: Some(3),
        source_errors: Some(4),
        checked_bytes: Some(5),
        damages: Some(6),
        restored_bytes: Some(7),
        freed_bytes: Some(8),
    };
    done.retention = Some(RetentionCounts {
        snapshots: 9,
        oldest: Some(at(MONDAY - DAY)),
        newest: Some(at(MONDAY)),
        overdue: 10,
        minimum: 11,
        removed: 12,
    });
    for _ in 0..3 {
        assert_eq!(catalog.record_run(&done).await.stored, 1);
        assert_eq!(
            catalog.record_run(&begun).await.stored,
            1,
            "late, and no news"
        );
    }
    assert_eq!(
        runs::get(&catalog, begun.id).await.expect("asked"),
        Some(done.clone())
    );
    assert_eq!(runs::open(&catalog).await.expect("asked"), []);
    let counted = counters::list(&catalog).await.expect("asked");
    let value = |name: &str, reason: &str| {
        let found: Vec<u64> = counted
            .iter()
            .filter(|c| c.name == name && c.reason == reason)
            .map(|c| c.value)
            .collect();
        assert!(found.len() <= 1, "{counted:?}");
        found.first().copied()
    };
    assert_eq!(value(counters::RUNS, ""), Some(1));
    assert_eq!(value(counters::RUN_FAILURES, "space"), Some(1));
    assert_eq!(value(counters::CHECKED_BYTES, ""), Some(5));
    assert_eq!(value(counters::REMOVED_SNAPSHOTS, ""), Some(12));

    // Numbers at their ends.
    let mut large = env.done(env.run(MONDAY + 1), RunOutcome::Succeeded, 1);
    large.totals.files = Some(u64::MAX);
    large.attempt = u32::MAX;
    catalog.record_run(&large).await;
    let back = runs::get(&catalog, large.id)
        .await
        .expect("asked")
        .expect("there");
    assert_eq!(
        (back.totals.files, back.attempt),
        (Some(i64::MAX as u64), u32::MAX)
    );
    let numbers = catalog.numbers();
    assert_eq!(
        (
            numbers.stored_total,
            numbers.lost_total,
            numbers.refused_total
        ),
        (8, 0, 0)
    );
    catalog.close().await;
}

async fn the_order_of_arrival_does_not_matter(env: Env) {
    let catalog = env.open().await;
    let begun = env.run(MONDAY);
    let mut lost = env.done(begun.clone(), RunOutcome::Lost, 5);
    lost.error = Some(RunError {
        class: ErrorClass::Killed,
        text: "gone".into(),
    });
    let done = env.done(begun.clone(), RunOutcome::Succeeded, 9);
    // Every order of the three writings, each under an id of its own.
    let orders = [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ];
    for order in orders {
        let id = RunId::new(at(MONDAY), env.dice.bytes());
        for n in order {
            let mut run = [&begun, &lost, &done][n].clone();
            run.id = id;
            catalog.record_run(&run).await;
        }
        let back = runs::get(&catalog, id)
            .await
            .expect("asked")
            .expect("there");
        assert_eq!(back, RunRecord { id, ..done.clone() }, "{order:?}");
    }
    let counted = counters::list(&catalog).await.expect("asked");
    let total = counted
        .iter()
        .find(|c| c.name == counters::RUNS)
        .map(|c| c.value);
    assert_eq!(
        total,
        Some(orders.len() as u64),
        "each run once, whatever was told of it"
    );
}

async fn runs_are_found(env: Env) {
    let catalog = env.open().await;
    let mut all = Vec::new();
    for n in 0..60i64 {
        let mut run = env.run(MONDAY + n * HOUR);
        run.kind = RunKind::ALL[(n % 3) as usize];
        run.job = [Some("home".to_owned()), Some("db".to_owned()), None]
            [(n % 2) as usize + usize::from(n % 5 == 0)]
        .clone();
        run.host = if n % 7 == 0 { "db2" } else { "web1" }.into();
        let outcome = RunOutcome::ALL[(n % 5) as usize];
        if outcome.is_final() {
            run = env.done(run, outcome, 10);
        }
        all.push(run);
    }
    let entries = all
        .iter()
        .map(|run| Entry::Run(Box::new(run.clone())))
        .collect();
    assert_eq!(catalog.record(entries).await.stored, 60);
    all.reverse();
    let filters = [
        RunFilter::default(),
        RunFilter {
            host: Some("db2".into()),
            ..RunFilter::default()
        },
        RunFilter {
            kind: Some(RunKind::Verify),
            limit: 3,
            ..RunFilter::default()
        },
        RunFilter {
            job: Some("db".into()),
            outcome: Some(RunOutcome::Partial),
            ..RunFilter::default()
        },
        RunFilter {
            since: Some(at(MONDAY + 10 * HOUR)),
            until: Some(at(MONDAY + 20 * HOUR)),
            ..RunFilter::default()
        },
        RunFilter {
            repository: Some("other".into()),
            ..RunFilter::default()
        },
        RunFilter {
            job: Some("' OR 1=1 --".into()),
            ..RunFilter::default()
        },
    ];
    for filter in filters {
        let want: Vec<&RunRecord> = all
            .iter()
            .filter(|r| filter.host.as_ref().is_none_or(|h| *h == r.host))
            .filter(|r| filter.kind.is_none_or(|k| k == r.kind))
            .filter(|r| filter.job.is_none() || filter.job == r.job)
            .filter(|r| filter.repository.is_none() || filter.repository == r.repository)
            .filter(|r| filter.outcome.is_none_or(|o| o == r.outcome))
            .filter(|r| {
                filter.since.is_none_or(|s| r.started >= s)
                    && filter.until.is_none_or(|u| r.started < u)
            })
            .take(if filter.limit == 0 {
                usize::MAX
            } else {
                filter.limit as usize
            })
            .collect();
        let got = runs::list(&catalog, &filter).await.expect("asked");
        assert_eq!(got.iter().collect::<Vec<_>>(), want, "{filter:?}");
    }
}

async fn lost_runs_are_found(env: Env) {
    let catalog = env.open().await;
    let me = process::current().expect("/proc");
    let dead = |process: Process| Some(process);
    // What can be left behind, and whether it still runs.
    let mut kinds: Vec<(&str, Option<Process>, bool)> = vec![
        ("this process", Some(me.clone()), true),
        ("no process known", None, false),
        (
            "another boot",
            dead(Process {
                boot: "0".into(),
                ..me.clone()
            }),
            false,
        ),
        (
            "no boot",
            dead(Process {
                boot: String::new(),
                ..me.clone()
            }),
            false,
        ),
        (
            "the number used again, earlier",
            dead(Process {
                started: me.started - 1,
                ..me.clone()
            }),
            false,
        ),
        (
            "the number used again, later",
            dead(Process {
                started: me.started + 1,
                ..me.clone()
            }),
            false,
        ),
        (
            "pid 0",
            dead(Process {
                pid: 0,
                ..me.clone()
            }),
            false,
        ),
        (
            "init",
            dead(Process {
                pid: 1,
                ..me.clone()
            }),
            false,
        ),
        (
            "a pid beyond all",
            dead(Process {
                pid: u32::MAX,
                ..me.clone()
            }),
            false,
        ),
        (
            "a start beyond all",
            dead(Process {
                started: i64::MAX as u64,
                ..me.clone()
            }),
            false,
        ),
    ];
    let mut child = std::process::Command::new("true").spawn().expect("true");
    kinds.push((
        "a child that ended",
        dead(Process {
            pid: child.id(),
            ..me.clone()
        }),
        false,
    ));
    child.wait().expect("ended");
    let mut lives = Vec::new();
    // Each begun long ago, now, and by a clock that was off.
    for started in [MONDAY - 400 * DAY, MONDAY, MONDAY + 3000 * DAY] {
        for (what, process, alive) in &kinds {
            let mut run = env.run(started);
            run.process = process.clone();
            run.path = Some((*what).to_owned());
            catalog.record_run(&run).await;
            if *alive {
                lives.push(run.id);
            }
        }
    }
    let mut foreign = env.run(MONDAY);
    foreign.host = "db2".into();
    catalog.record_run(&foreign).await;

    let lost = runs::reconcile(&catalog, at(MONDAY + 60), process::run_lives)
        .await
        .expect("reconciled");
    assert_eq!(lost.len(), 3 * (kinds.len() - 1));
    for run in &lost {
        let back = runs::get(&catalog, run.id)
            .await
            .expect("asked")
            .expect("there");
        assert_eq!(back.outcome, RunOutcome::Lost, "{:?}", run.path);
        assert_eq!(back.finished, Some(at(MONDAY + 60)));
        assert_eq!(back.error.map(|e| e.class), Some(ErrorClass::Killed));
    }
    let mut open: Vec<RunId> = runs::open(&catalog)
        .await
        .expect("asked")
        .iter()
        .map(|r| r.id)
        .collect();
    open.sort();
    lives.sort();
    assert_eq!(open, lives, "what lives goes on");
    let other = runs::get(&catalog, foreign.id)
        .await
        .expect("asked")
        .expect("there");
    assert_eq!(
        other.outcome,
        RunOutcome::Started,
        "another host's run is not ours to judge"
    );
    let again = runs::reconcile(&catalog, at(MONDAY + 61), process::run_lives)
        .await
        .expect("reconciled");
    assert_eq!(again, []);
    let failures: u64 = counters::list(&catalog)
        .await
        .expect("asked")
        .iter()
        .filter(|c| c.name == counters::RUN_FAILURES && c.reason == "killed")
        .map(|c| c.value)
        .sum();
    assert_eq!(failures, lost.len() as u64);
}

async fn checks_are_kept(env: Env) {
    let catalog = env.open().await;
    let mut results = Vec::new();
    for n in 0..300i64 {
        for check in ["api", "db"] {
            let mut result = env.result(check, (MONDAY - 3600 + n) * 1_000_000 + 1);
            result.text = (n % 50 == 0).then(|| "slow".to_owned());
            results.push(result);
        }
    }
    let changes = [
        env.change(
            "api",
            (MONDAY - 3600) * 1_000_000,
            CheckState::Unknown,
            CheckState::Healthy,
        ),
        env.change(
            "api",
            (MONDAY - 3000) * 1_000_000,
            CheckState::Healthy,
            CheckState::Unhealthy,
        ),
    ];
    let mut entries: Vec<Entry> = results.iter().cloned().map(Entry::Result).collect();
    entries.extend(changes.iter().cloned().map(Entry::Transition));
    for _ in 0..2 {
        let recorded = catalog.record(entries.clone()).await;
        assert_eq!((recorded.stored, recorded.late), (602, 0));
    }
    let got = checks::results(&catalog, ("web1", "api"), None, None, 0)
        .await
        .expect("asked");
    let mut want: Vec<_> = results
        .iter()
        .filter(|r| r.check == "api")
        .cloned()
        .collect();
    want.reverse();
    assert_eq!(got, want);
    let some = checks::results(
        &catalog,
        ("web1", "api"),
        Some(at(MONDAY - 3600 + 100)),
        Some(at(MONDAY - 3600 + 200)),
        5,
    );
    assert_eq!(some.await.expect("asked"), want[100..105]);
    let got = checks::transitions(&catalog, Some("web1"), Some("api"), None, None, 0)
        .await
        .expect("asked");
    assert_eq!(got, [changes[1].clone(), changes[0].clone()]);
    let now = checks::now(&catalog, None).await.expect("asked");
    assert_eq!(now.len(), 2);
    let api = &now[0];
    assert_eq!(
        api.state,
        Some((CheckState::Unhealthy, None, at(MONDAY - 3000), None))
    );
    assert_eq!(api.last.as_ref(), want.first());
    assert_eq!(api.runs_total, 300);
    assert_eq!(
        api.failures_total,
        want.iter().filter(|r| r.outcome.reason().is_some()).count() as u64
    );
    // What hides it for a while does not change since when it is down.
    for (secs, overlay) in [(2000, Some(Overlay::Maintenance)), (1000, None)] {
        let mut hidden = env.change(
            "api",
            (MONDAY - secs) * 1_000_000,
            CheckState::Unhealthy,
            CheckState::Unhealthy,
        );
        hidden.overlay = overlay;
        catalog.record(vec![Entry::Transition(hidden)]).await;
        let api = &checks::now(&catalog, None).await.expect("asked")[0];
        let since = at(MONDAY - 3000);
        assert_eq!(
            api.state,
            Some((CheckState::Unhealthy, overlay, since, None))
        );
    }
    let counted = counters::list(&catalog).await.expect("asked");
    let changed = counted
        .iter()
        .find(|c| c.name == counters::STATE_CHANGES)
        .expect("counted");
    assert_eq!(
        (
            changed.value,
            changed.subject.as_str(),
            changed.kind.as_str()
        ),
        (2, "api", "http")
    );

    // Older than results are kept: not stored, and said.
    let old = env.result("api", (MONDAY - 31 * DAY) * 1_000_000);
    let recorded = catalog.record(vec![Entry::Result(old)]).await;
    assert_eq!((recorded.stored, recorded.late), (0, 1));
}

async fn incidents_restarts_and_messages(env: Env) {
    let catalog = env.open().await;
    let incident = Incident {
        id: IncidentId::new(at(MONDAY), env.dice.bytes()),
        host: "web1".into(),
        subject: "api".into(),
        unit: Some("api.service".into()),
        severity: Severity::Critical,
        opened: at(MONDAY),
        closed: None,
        reason: None,
        text: Some("no answer".into()),
    };
    let closed = Incident {
        closed: Some(at(MONDAY + 60)),
        ..incident.clone()
    };
    let other = Incident {
        id: IncidentId::new(at(MONDAY + 1), env.dice.bytes()),
        subject: "db".into(),
        opened: at(MONDAY + 1),
        ..incident.clone()
    };
    for entry in [&incident, &closed, &incident, &other, &closed] {
        assert_eq!(
            catalog
                .record(vec![Entry::Incident(entry.clone())])
                .await
                .stored,
            1
        );
    }
    let all = events::incidents(&catalog, &EventFilter::default())
        .await
        .expect("asked");
    assert_eq!(all, [other.clone(), closed.clone()]);
    let open = EventFilter {
        only_open: true,
        ..EventFilter::default()
    };
    assert_eq!(
        events::incidents(&catalog, &open).await.expect("asked"),
        std::slice::from_ref(&other)
    );
    assert!(
        events::close_incident(&catalog, other.id, at(MONDAY + 90))
            .await
            .expect("asked")
    );
    assert!(
        !events::close_incident(&catalog, other.id, at(MONDAY + 99))
            .await
            .expect("asked")
    );
    assert_eq!(events::incidents(&catalog, &open).await.expect("asked"), []);

    let asked = RestartRecord {
        id: EventId::new(at(MONDAY), env.dice.bytes()),
        host: "web1".into(),
        unit: "api.service".into(),
        check: Some("api".into()),
        incident: Some(incident.id),
        attempt: 1,
        at: at(MONDAY + 5),
        outcome: RestartOutcome::Asked,
        refusal: None,
        recovered: None,
        duration: None,
        text: None,
    };
    let failed = RestartRecord {
        outcome: RestartOutcome::Timeout,
        duration: Some(Duration::from_secs(9)),
        ..asked.clone()
    };
    let judged = RestartRecord {
        recovered: Some(false),
        ..failed.clone()
    };
    let refused = RestartRecord {
        id: EventId::new(at(MONDAY), env.dice.bytes()),
        at: at(MONDAY + 6),
        outcome: RestartOutcome::Refused,
        refusal: Some(RestartRefusal::Cooldown),
        incident: None,
        ..asked.clone()
    };
    for entry in [
        &failed, &asked, &judged, &refused, &failed, &refused, &asked,
    ] {
        catalog.record(vec![Entry::Restart(entry.clone())]).await;
    }
    let all = events::restarts(&catalog, &EventFilter::default())
        .await
        .expect("asked");
    assert_eq!(all, [refused, judged.clone()]);
    let of = EventFilter {
        incident: Some(incident.id),
        ..EventFilter::default()
    };
    assert_eq!(
        events::restarts(&catalog, &of).await.expect("asked"),
        [judged]
    );
    let counted = counters::list(&catalog).await.expect("asked");
    let of_units: Vec<(&str, &str, u64)> = counted
        .iter()
        .filter(|c| c.subject == "api.service")
        .map(|c| (c.name.as_str(), c.reason.as_str(), c.value))
        .collect();
    assert_eq!(
        of_units,
        [
            ("restart_failures", "timeout", 1),
            ("restarts", "", 1),
            ("restarts_suppressed", "cooldown", 1)
        ]
    );

    let message = |n: i64| NotificationRecord {
        id: EventId::new(at(MONDAY + n), env.dice.bytes()),
        host: "web1".into(),
        sink: "mail".into(),
        topic: "api".into(),
        body: format!("down {n}"),
        created: at(MONDAY + n),
        due: at(MONDAY + n),
        attempts: 0,
        state: NotificationState::Queued,
        done: None,
        error: None,
    };
    let messages: Vec<_> = (0..5).map(message).collect();
    catalog
        .record(messages.iter().cloned().map(Entry::Notification).collect())
        .await;
    let due = events::notifications_due(&catalog, at(MONDAY + 2), 10)
        .await
        .expect("asked");
    assert_eq!(due, messages[..3]);
    let sent = NotificationRecord {
        state: NotificationState::Sent,
        done: Some(at(MONDAY + 3)),
        ..messages[0].clone()
    };
    let tried = NotificationRecord {
        attempts: 1,
        due: at(MONDAY + 100),
        error: Some("refused".into()),
        ..messages[1].clone()
    };
    for entry in [&sent, &tried, &messages[0], &messages[1], &sent] {
        catalog
            .record(vec![Entry::Notification(entry.clone())])
            .await;
    }
    let due = events::notifications_due(&catalog, at(MONDAY + 50), 10)
        .await
        .expect("asked");
    assert_eq!(due, messages[2..]);
    let due = events::notifications_due(&catalog, at(MONDAY + 100), 10)
        .await
        .expect("asked");
    assert_eq!(due.last(), Some(&tried));
    let all = EventFilter::default();
    let sent_ones = events::notifications(&catalog, &all, Some(NotificationState::Sent));
    assert_eq!(sent_ones.await.expect("asked"), [sent]);

    let look = |n: i64, size: Option<u64>| RepositoryState {
        host: "web1".into(),
        repository: "main".into(),
        at: at(MONDAY + n),
        reachable: n != 2,
        size_bytes: size,
        available_bytes: None,
        capacity_bytes: Some(100),
        // A verification looked for PostgreSQL's log, the others did not.
        wal: (n != 2).then(|| vec![wal_of(n)]),
    };
    for state in [look(1, Some(50)), look(2, None), look(0, Some(7))] {
        catalog.record(vec![Entry::Repository(state)]).await;
    }
    let known = events::repositories(&catalog, Some("web1"))
        .await
        .expect("asked");
    assert_eq!(
        known,
        [(
            RepositoryState {
                size_bytes: Some(50),
                wal: Some(vec![wal_of(1)]),
                ..look(2, None)
            },
            at(MONDAY + 1)
        )]
    );
    // Looked for and not there is something else than not looked for.
    let none = RepositoryState {
        wal: Some(vec![]),
        ..look(3, None)
    };
    catalog.record(vec![Entry::Repository(none)]).await;
    let known = events::repositories(&catalog, None).await.expect("asked");
    assert_eq!(known[0].0.wal, Some(vec![]));
}

fn wal_of(n: i64) -> WalState {
    WalState {
        cluster: "7312345678901234567".into(),
        recoverable: n > 0,
        gaps: n as u64,
        segments_missing: 7,
        base_backups: 2,
        newest_segment: Some(at(MONDAY)),
        newest_base_backup: None,
        oldest_recovery: Some(at(MONDAY - DAY)),
    }
}

async fn facts_of_jobs(env: Env) {
    let catalog = env.open().await;
    runs::note_configured(
        &catalog,
        &[
            (RunKind::Backup, "never", "main"),
            (RunKind::Backup, "home", "main"),
        ],
        at(MONDAY - DAY),
    )
    .await
    .expect("noted");
    // Fourteen days: the last ten successes are days 3, 4, 5, 6, 8, 9, 10, 11, 12, 13 (7 failed).
    for day in 0..14i64 {
        let mut run = env.run(MONDAY + day * DAY);
        run.totals.source_bytes = Some(1000 + day as u64);
        run.totals.added_bytes = Some(100 * day as u64);
        run.retention = Some(RetentionCounts {
            snapshots: day as u64 + 1,
            oldest: Some(at(MONDAY)),
            newest: Some(at(MONDAY + day * DAY)),
            overdue: 0,
            minimum: 1,
            removed: u64::from(day % 2 == 0),
        });
        let outcome = if day == 7 {
            RunOutcome::Failed
        } else {
            RunOutcome::Succeeded
        };
        if outcome == RunOutcome::Failed {
            run.error = Some(RunError {
                class: ErrorClass::Repository,
                text: "away".into(),
            });
        }
        catalog
            .record_run(&env.done(run, outcome, 60 + day as u64))
            .await;
    }
    let running = env.run(MONDAY + 14 * DAY);
    catalog.record_run(&running).await;
    let mut verify = env.run(MONDAY + 3 * DAY);
    (verify.kind, verify.job) = (RunKind::Verify, None);
    verify.totals.checked_bytes = Some(4096);
    verify.totals.damages = Some(2);
    verify.error = Some(RunError {
        class: ErrorClass::Verify,
        text: "two packs".into(),
    });
    catalog
        .record_run(&env.done(verify, RunOutcome::Failed, 5))
        .await;
    let mut drill = env.run(MONDAY + 4 * DAY);
    drill.kind = RunKind::Drill;
    drill.totals.restored_bytes = Some(77);
    catalog
        .record_run(&env.done(drill, RunOutcome::Succeeded, 30))
        .await;

    let backups = facts::backup_facts(&catalog).await.expect("asked");
    assert_eq!(
        backups.iter().map(|f| f.job.as_str()).collect::<Vec<_>>(),
        ["home", "never"]
    );
    let home = &backups[0];
    assert_eq!(home.first_seen, at(MONDAY - DAY));
    assert_eq!(home.running, 1);
    assert_eq!(home.last_start, Some(at(MONDAY + 14 * DAY)));
    assert_eq!(home.last_completion(), Some(at(MONDAY + 13 * DAY + 73)));
    assert_eq!(home.last_success_at(), Some(at(MONDAY + 13 * DAY + 73)));
    assert_eq!(home.last_successful(), Some(true));
    // Sorted: 3 4 5 6 8 9 10 11 12 13, the fifth is 8.
    assert_eq!(home.usual.duration, Some(Duration::from_secs(68)));
    assert_eq!(home.usual.source_bytes, Some(1008));
    assert_eq!(home.usual.added_bytes, Some(800));
    assert_eq!(home.runs_total, 14);
    assert_eq!(home.failures_total, [("repository".to_owned(), 1)]);
    let never = &backups[1];
    assert_eq!(
        (never.last_start, never.last_successful(), never.runs_total),
        (None, None, 0)
    );
    assert_eq!(never.usual, facts::Usual::default());

    let verified = facts::verification_facts(&catalog).await.expect("asked");
    assert_eq!(verified.len(), 1);
    assert_eq!(
        (verified[0].job.as_str(), verified[0].repository.as_str()),
        ("", "main")
    );
    assert_eq!(verified[0].last_successful(), Some(false));
    assert_eq!(verified[0].last_success_at(), None);
    assert_eq!(
        (verified[0].checked_bytes_total, verified[0].damages_total),
        (4096, 2)
    );
    assert_eq!(verified[0].failures_total, [("verify".to_owned(), 1)]);
    let drills = facts::drill_facts(&catalog).await.expect("asked");
    assert_eq!(
        drills[0]
            .last_success
            .as_ref()
            .and_then(|r| r.totals.restored_bytes),
        Some(77)
    );

    let kept = facts::retention_facts(&catalog).await.expect("asked");
    let home = kept.iter().find(|f| f.job == "home").expect("there");
    assert_eq!(home.removed_total, 7);
    assert_eq!(
        home.counts.as_ref().map(|(c, _)| (c.snapshots, c.minimum)),
        Some((14, 1))
    );
    assert_eq!(home.last_applied, None, "no forget ran");
    let mut forget = env.run(MONDAY + 13 * DAY + HOUR);
    forget.kind = RunKind::Forget;
    forget.retention = home.counts.as_ref().map(|(c, _)| RetentionCounts {
        snapshots: 5,
        overdue: 2,
        ..c.clone()
    });
    catalog
        .record_run(&env.done(forget, RunOutcome::Succeeded, 1))
        .await;
    let kept = facts::retention_facts(&catalog).await.expect("asked");
    let home = kept.iter().find(|f| f.job == "home").expect("there");
    assert_eq!(home.last_applied, Some(at(MONDAY + 13 * DAY + HOUR + 1)));
    assert_eq!(
        home.counts.as_ref().map(|(c, _)| (c.snapshots, c.overdue)),
        Some((5, 2))
    );
}

async fn history_is_one_list(env: Env) {
    let catalog = env.open().await;
    let mut entries = Vec::new();
    for n in 0..20i64 {
        entries.push(Entry::Run(Box::new(env.run(MONDAY + 4 * n))));
        entries.push(Entry::Transition(env.change(
            "home",
            (MONDAY + 4 * n + 1) * 1_000_000,
            CheckState::Healthy,
            CheckState::Unhealthy,
        )));
    }
    catalog.record(entries.clone()).await;
    entries.reverse();
    assert_eq!(
        history::list(&catalog, &HistoryFilter::default())
            .await
            .expect("asked"),
        entries
    );
    let some = HistoryFilter {
        limit: 7,
        until: Some(at(MONDAY + 40)),
        ..HistoryFilter::default()
    };
    assert_eq!(
        history::list(&catalog, &some).await.expect("asked"),
        entries[20..27]
    );
    let none = HistoryFilter {
        subject: Some("other".into()),
        ..HistoryFilter::default()
    };
    assert_eq!(history::list(&catalog, &none).await.expect("asked"), []);
    let runs = HistoryFilter {
        transitions: false,
        ..HistoryFilter::default()
    };
    assert_eq!(
        history::list(&catalog, &runs).await.expect("asked").len(),
        20
    );
}

async fn states_come_back(env: Env) {
    let catalog = env.open().await;
    let save = |name: &str, body: &str| vec![(name.to_owned(), body.to_owned())];
    states::save(&catalog, &save("judge", "{\"n\":1}"))
        .await
        .expect("saved");
    env.hand.advance(9);
    states::save(
        &catalog,
        &[save("judge", "\0new"), save("budget", "b")].concat(),
    )
    .await
    .expect("saved");
    let want = [
        ("budget".to_owned(), at(MONDAY + 9), "b".to_owned()),
        ("judge".to_owned(), at(MONDAY + 9), "\0new".to_owned()),
    ];
    assert_eq!(states::load(&catalog).await.expect("asked"), want);
    catalog.close().await;
    let catalog = env.open().await;
    assert_eq!(states::load(&catalog).await.expect("asked"), want);
    states::delete(&catalog, "judge").await.expect("deleted");
    assert_eq!(states::load(&catalog).await.expect("asked"), want[..1]);
    let large = "x".repeat(keepwatch_catalog::STATE_MAX + 1);
    assert!(
        states::save(&catalog, &save("large", &large))
            .await
            .is_err()
    );
}

async fn a_lost_catalog_is_rebuilt(env: Env) {
    let catalog = env.open().await;
    let facts: Vec<SnapshotFact> = (0..300i64)
        .map(|n| SnapshotFact {
            snapshot: format!("{n:064x}"),
            repository: "main".into(),
            host: "web1".into(),
            job: Some("home".into()),
            started: at(MONDAY - n * DAY),
            finished: at(MONDAY - n * DAY + 100),
            partial: n % 9 == 0,
            totals: RunTotals {
                files: Some(n as u64),
                ..RunTotals::default()
            },
        })
        .collect();
    // One run is still known by its own record.
    let mut own = env.run(MONDAY - 5 * DAY);
    own.snapshot = Some(facts[5].snapshot.clone());
    catalog
        .record_run(&env.done(own.clone(), RunOutcome::Succeeded, 100))
        .await;
    let written = rebuild::import(&catalog, &facts).await;
    assert_eq!((written.stored, written.known), (299, 1));
    let first = told(&catalog).await;
    let written = rebuild::import(&catalog, &facts).await;
    assert_eq!((written.stored, written.known), (0, 300));
    assert_eq!(told(&catalog).await, first, "twice is as good as once");
    let all = runs::list(&catalog, &RunFilter::default())
        .await
        .expect("asked");
    assert_eq!(all.len(), 300);
    for (run, fact) in all.iter().zip(&facts) {
        assert_eq!(run.snapshot.as_ref(), Some(&fact.snapshot));
        assert_eq!(run.id == own.id, fact.snapshot == facts[5].snapshot);
        assert_eq!(
            (run.started, run.finished),
            (fact.started, Some(fact.finished))
        );
        assert!(run.outcome.is_success());
    }
    // What happened long ago is not counted as if it happened now.
    let counted = counters::list(&catalog).await.expect("asked");
    assert_eq!(
        counted
            .iter()
            .find(|c| c.name == counters::RUNS)
            .map(|c| c.value),
        Some(1)
    );
    let facts = facts::backup_facts(&catalog).await.expect("asked");
    assert_eq!(facts[0].first_seen, at(MONDAY - 299 * DAY));
    assert_eq!(facts[0].last_success_at(), Some(at(MONDAY + 100)));
}

async fn stamp_tells_of_writes(catalog: &keepwatch_catalog::Catalog, is_file: bool) {
    let after = |hours: i64| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let secs = i64::try_from(now.expect("after 1970").as_secs()).expect("fits");
        keepwatch_model::time::Moment::from_parts(secs + hours * 3600, 0, 0).expect("a moment")
    };
    let stamp = |hours| facts::stamp(catalog, after(hours));
    if !is_file {
        return assert_eq!(stamp(1), None);
    }
    let settled = |hours| stamp(hours).is_some_and(|stamp| stamp.settled);
    assert!(!settled(0), "it was written a moment ago");
    assert!(!settled(-1), "the clock was set back");
    assert!(settled(1));
    let before = stamp(1);
    assert_eq!(stamp(1), before, "nobody wrote");
    let state = ("a stamp".to_owned(), "{}".to_owned());
    states::save(catalog, &[state]).await.expect("saved");
    assert!(settled(1) && stamp(1) != before);
}

async fn a_sign_tells_of_news(env: Env) {
    let catalog = env.open().await;
    stamp_tells_of_writes(&catalog, env.admin.is_none()).await;
    let mut signs = Vec::new();
    let mut news = async |what: &str, is_news: bool| {
        let sign = facts::sign(&catalog).await.expect("asked").expect("a row");
        assert_eq!(signs.last() != Some(&sign), is_news, "{what}: {sign:?}");
        signs.push(sign);
        sign.open
    };
    assert_eq!(news("the first", true).await, 0);
    news("nothing", false).await;
    runs::note_configured(&catalog, &[(RunKind::Backup, "home", "disk")], at(MONDAY))
        .await
        .expect("noted");
    news("a job is configured", true).await;

    let begun = env.run(MONDAY);
    catalog.record_run(&begun).await;
    assert_eq!(news("a run began", true).await, 1);
    catalog
        .record_run(&env.done(begun, RunOutcome::Succeeded, 9))
        .await;
    assert_eq!(news("it ended", true).await, 0);
    let quick = env.run(MONDAY + 100);
    catalog.record_run(&quick).await;
    catalog
        .record_run(&env.done(quick, RunOutcome::Failed, 1))
        .await;
    news("one began and ended between two looks", true).await;
    let killed = env.run(MONDAY + 200);
    catalog.record_run(&killed).await;
    news("one more began", true).await;
    runs::reconcile(&catalog, at(MONDAY + 300), |_| false)
        .await
        .expect("asked");
    assert_eq!(news("it was lost", true).await, 0);

    // What comes with every check is no news of runs.
    catalog
        .record(vec![
            Entry::Result(env.result("api", MONDAY * 1_000_000)),
            Entry::Transition(env.change(
                "api",
                MONDAY * 1_000_000,
                CheckState::Unknown,
                CheckState::Healthy,
            )),
        ])
        .await;
    news("a check changed", false).await;
    let state = RepositoryState {
        host: catalog.host().to_owned(),
        repository: "disk".into(),
        at: at(MONDAY + 400),
        reachable: true,
        size_bytes: None,
        available_bytes: None,
        capacity_bytes: None,
        wal: None,
    };
    catalog.record(vec![Entry::Repository(state)]).await;
    news("a repository was looked at", true).await;
}

async fn the_spool_is_imported_once(env: Env) {
    let mut entries = Vec::new();
    for n in 0..700i64 {
        entries.push(Entry::Result(
            env.result("api", (MONDAY - 7000 + n) * 1_000_000),
        ));
    }
    let run = env.run(MONDAY - 50);
    entries.push(Entry::Run(Box::new(run.clone())));
    entries.push(Entry::Run(Box::new(env.done(
        run,
        RunOutcome::Succeeded,
        9,
    ))));
    entries.push(Entry::Transition(env.change(
        "api",
        (MONDAY - 60) * 1_000_000,
        CheckState::Unknown,
        CheckState::Healthy,
    )));

    // A catalog whose database cannot be reached puts all of it into the spool.
    let mut away = Env::sqlite();
    away.options.spool = env.spool_path();
    away.options.place = keepwatch_catalog::Place::Sqlite("/proc/none/catalog.db".into());
    let unreachable = away.try_open().await.expect("being away is no error");
    assert!(unreachable.standing().trouble.is_some());
    let recorded = unreachable.record(entries.clone()).await;
    assert_eq!(
        (recorded.stored, recorded.spooled, recorded.lost),
        (0, 703, 0)
    );
    drop(unreachable);

    let copies: Vec<(std::path::PathBuf, Vec<u8>)> = std::fs::read_dir(env.spool_path())
        .expect("listed")
        .map(|e| e.expect("an entry").path())
        .map(|path| (path.clone(), std::fs::read(&path).expect("read")))
        .collect();
    let catalog = env.open().await;
    assert_eq!(catalog.numbers().spool.files, copies.len() as u64);
    let imported = catalog
        .import_spool(Duration::from_secs(60))
        .await
        .expect("imported");
    assert_eq!(
        (imported.files, imported.records, imported.more),
        (copies.len() as u64, 703, false)
    );
    let first = told(&catalog).await;
    assert_eq!(
        first.lines().filter(|l| l.starts_with("result")).count(),
        700
    );
    assert_eq!(
        std::fs::read_dir(env.spool_path()).expect("listed").count(),
        0
    );
    // Killed between the commit and the deletion: the files are still there.
    for _ in 0..2 {
        for (path, bytes) in &copies {
            std::fs::write(path, bytes).expect("written");
        }
        catalog
            .import_spool(Duration::from_secs(60))
            .await
            .expect("imported");
        assert_eq!(told(&catalog).await, first);
    }
    // Killed within the import: half of a file's records are there already.
    let other = Env {
        options: {
            let mut o = env.options.clone();
            o.spool_max = 0;
            o
        },
        ..env
    };
    catalog.close().await;
    let catalog = other.open().await;
    catalog.record(entries[..350].to_vec()).await;
    assert_eq!(told(&catalog).await, first);
}

/// A database of the first version: brought forward when it is opened, with all that is in it.
async fn an_older_schema_is_brought_forward(env: Env) {
    let state = |n: i64, wal| RepositoryState {
        host: "web1".into(),
        repository: "main".into(),
        at: at(MONDAY + n),
        reachable: true,
        size_bytes: Some(50),
        available_bytes: None,
        capacity_bytes: None,
        wal,
    };
    let catalog = env.open().await;
    catalog
        .record(vec![Entry::Repository(state(1, None))])
        .await;
    catalog.record_run(&env.run(MONDAY)).await;
    catalog.close().await;
    sql(&env, "ALTER TABLE repositories DROP COLUMN wal").await;
    sql(&env, "DELETE FROM schema_version WHERE version = 2").await;
    for opened in 0..2 {
        let catalog = env.open().await;
        let known = events::repositories(&catalog, None).await.expect("asked");
        assert_eq!(known[0].0.size_bytes, Some(50));
        assert_eq!(known[0].0.wal.is_some(), opened > 0);
        let later = state(2 + opened, Some(vec![wal_of(1)]));
        let recorded = catalog.record(vec![Entry::Repository(later)]).await;
        assert_eq!((recorded.stored, recorded.spooled), (1, 0));
        let runs = runs::list(&catalog, &RunFilter::default()).await;
        assert_eq!(runs.expect("asked").len(), 1);
        catalog.close().await;
    }
}

async fn a_newer_schema_is_refused(env: Env) {
    let catalog = env.open().await;
    catalog.record_run(&env.run(MONDAY)).await;
    let running = catalog.clone();
    sql(
        &env,
        "INSERT INTO schema_version (version, name, applied) VALUES (999, 'from the future', 0)",
    )
    .await;
    // A process that is at work notices, too.
    let recorded = running.record_run(&env.run(MONDAY + 1)).await;
    assert_eq!((recorded.stored, recorded.spooled), (0, 1));
    running.close().await;
    drop(catalog);
    env.at_rest().await;
    let before = std::fs::read(env.db_path()).unwrap_or_default();
    let Err(error) = env.try_open().await else {
        panic!("it was opened")
    };
    let text = error.to_string();
    assert!(
        text.contains("schema version 999")
            && text.contains("up to 2")
            && text.contains("nothing was changed"),
        "{text}"
    );
    assert_eq!(
        std::fs::read(env.db_path()).unwrap_or_default(),
        before,
        "not a byte was written"
    );
    // Records are kept for the one that knows the schema.
    let detached =
        keepwatch_catalog::Catalog::detached(env.options.clone(), env.hand.clock(), random());
    assert_eq!(detached.record_run(&env.run(MONDAY + 2)).await.spooled, 1);
    drop(detached);
    sql(&env, "DELETE FROM schema_version WHERE version = 999").await;
    let catalog = env.open().await;
    assert_eq!(
        catalog
            .import_spool(Duration::from_secs(9))
            .await
            .expect("imported")
            .records,
        2
    );
    assert_eq!(
        runs::list(&catalog, &RunFilter::default())
            .await
            .expect("asked")
            .len(),
        3
    );
}

async fn tables_of_others_are_left_alone(env: Env) {
    if env.admin.is_some() {
        sql(
            &env,
            "CREATE SCHEMA keepwatch; CREATE TABLE keepwatch.photos (id BIGINT)",
        )
        .await;
    } else {
        std::fs::create_dir_all(env.db_path().parent().expect("a parent")).expect("made");
        sql(&env, "CREATE TABLE photos (id BIGINT)").await;
    }
    let Err(error) = env.try_open().await else {
        panic!("it was opened")
    };
    assert!(error.to_string().contains("another program"), "{error}");
    let count = if env.admin.is_some() {
        "keepwatch.photos"
    } else {
        "photos"
    };
    sql(&env, &format!("SELECT * FROM {count}")).await;
}

/// A statement of the test's own, past the catalog.
pub async fn sql(env: &Env, text: &str) {
    use sqlx::{Connection, PgConnection, SqliteConnection};
    match &env.admin {
        Some(url) => {
            let mut connection = PgConnection::connect(url).await.expect("connected");
            sqlx::raw_sql("SET search_path = keepwatch")
                .execute(&mut connection)
                .await
                .expect("set");
            sqlx::raw_sql(text)
                .execute(&mut connection)
                .await
                .expect(text);
            connection.close().await.expect("closed");
        }
        None => {
            let url = format!("sqlite://{}?mode=rwc", env.db_path().display());
            let mut connection = SqliteConnection::connect(&url).await.expect("connected");
            sqlx::raw_sql(text)
                .execute(&mut connection)
                .await
                .expect(text);
            connection.close().await.expect("closed");
        }
    }
}

//! Roll-ups against a recomputation from the raw; retention with a clock that the test sets.

use std::collections::BTreeMap;
use std::time::Duration;

use keepwatch_catalog::events::{self, EventFilter};
use keepwatch_catalog::rollups::{self, Rollup, Span};
use keepwatch_catalog::runs::{self, RunFilter};
use keepwatch_catalog::{checks, counters, facts, upkeep};
use keepwatch_model::checks::{CheckOutcome, CheckResult, CheckState, CheckTransition, Overlay};
use keepwatch_model::history::Entry;
use keepwatch_model::ids::{EventId, IncidentId};
use keepwatch_model::incidents::*;
use keepwatch_model::runs::{RunKind, RunOutcome};

use crate::support::*;

const BUDGET: Duration = Duration::from_secs(120);
const H: i64 = HOUR * 1_000_000;

async fn upkeep_all(catalog: &keepwatch_catalog::Catalog) -> upkeep::Upkeep {
    let mut sum = upkeep::Upkeep::default();
    for _ in 0..200 {
        let one = upkeep::maintain(catalog, BUDGET).await.expect("maintained");
        sum.hours += one.hours;
        sum.deleted += one.deleted;
        sum.put_off = one.put_off;
        if !one.more {
            return sum;
        }
    }
    panic!("upkeep does not come to its end: {sum:?}");
}

/// The same sums by another way: second by second for states, one pass for results.
fn recomputed(
    results: &[CheckResult],
    changes: &[CheckTransition],
    start: i64,
    length: i64,
) -> Rollup {
    let micros = |m: keepwatch_model::time::Moment| (m.unix_nanos() / 1000) as i64;
    let mut out = Rollup::default();
    let within = |t: i64| t >= start && t < start + length;
    for result in results.iter().filter(|r| within(micros(r.at))) {
        let latency = result.latency.as_micros() as u64;
        out.runs += 1;
        out.latency_sum += latency;
        out.latency_max = out.latency_max.max(latency);
        let mut bucket = 0;
        while bucket < rollups::LATENCY_BOUNDS.len() && latency > rollups::LATENCY_BOUNDS[bucket] {
            bucket += 1;
        }
        out.buckets[bucket] += 1;
        match result.outcome {
            CheckOutcome::Success => {}
            CheckOutcome::Degraded => out.degraded += 1,
            CheckOutcome::Failure(reason) => {
                out.failures += 1;
                out.reasons[reason as usize] += 1;
            }
        }
    }
    // Changes fall on whole seconds here, so that each second has one state. Hours nobody watched do not count.
    let mut sorted: Vec<&CheckTransition> = changes.iter().collect();
    sorted.sort_by_key(|c| (micros(c.at), c.id));
    let mut hour = start;
    while hour < start + length {
        let watched = |t: i64| t >= hour && t < hour + H;
        if results.iter().any(|r| watched(micros(r.at)))
            || changes.iter().any(|c| watched(micros(c.at)))
        {
            let mut second = hour;
            while second < hour + H {
                let last = sorted.iter().take_while(|c| micros(c.at) <= second).last();
                let (state, hidden) = last.map_or((CheckState::Unknown, false), |change| {
                    (change.to, change.overlay.is_some())
                });
                let place = match state {
                    CheckState::Unknown => &mut out.unknown_us,
                    CheckState::Healthy => &mut out.healthy_us,
                    CheckState::Degraded => &mut out.degraded_us,
                    CheckState::Unhealthy => &mut out.unhealthy_us,
                };
                *place += 1_000_000;
                out.hidden_us += if hidden { 1_000_000 } else { 0 };
                second += 1_000_000;
            }
        }
        hour += H;
    }
    out
}

pub async fn rollups_equal_the_raw(env: Env) {
    let catalog = env.open().await;
    let start = MONDAY * 1_000_000;
    let hours = 60;
    let (mut results, mut changes, mut entries) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
    for check in ["api", "db", "quiet"] {
        let (mut r, mut c) = (Vec::new(), Vec::new());
        let mut state = CheckState::Unknown;
        for hour in 0..hours {
            // Some hours nobody watched.
            if env.dice.below(5) == 0 || (check == "quiet" && hour > 3) {
                continue;
            }
            for n in 0..env.dice.below(40) {
                r.push(env.result(
                    check,
                    start + hour * H + (n as i64) * 90_000_000 + env.dice.below(1_000_000) as i64,
                ));
            }
            for n in 0..env.dice.below(4) {
                let to = CheckState::ALL[env.dice.below(4) as usize];
                let second = (n as i64) * 900 + env.dice.below(900) as i64;
                let mut change =
                    env.change(check, start + hour * H + second * 1_000_000, state, to);
                change.overlay = (env.dice.below(3) == 0).then_some(Overlay::Maintenance);
                state = to;
                c.push(change);
            }
        }
        entries.extend(r.iter().cloned().map(Entry::Result));
        entries.extend(c.iter().cloned().map(Entry::Transition));
        results.insert(check, r);
        changes.insert(check, c);
    }
    // In any order, some of it late, with upkeep between.
    for n in (1..entries.len()).rev() {
        entries.swap(n, env.dice.below(n as u64 + 1) as usize);
    }
    let total = entries.len();
    let mut rolled = 0;
    for (n, batch) in entries.chunks(total / 7 + 1).enumerate() {
        env.hand.set(MONDAY + 10 * HOUR * (n as i64 + 1));
        let recorded = catalog.record(batch.to_vec()).await;
        assert_eq!(recorded.stored as usize, batch.len());
        rolled += upkeep_all(&catalog).await.hours;
        catalog.record(batch[..batch.len() / 2].to_vec()).await; // told twice
    }
    assert!(rolled > 100, "{rolled}");
    env.hand.set(MONDAY + 80 * HOUR);
    assert_eq!(
        upkeep_all(&catalog).await.hours,
        0,
        "nothing is left to roll up: what was told twice changes nothing"
    );
    for check in ["api", "db", "quiet"] {
        for (span, length) in [(Span::Hour, H), (Span::Day, 24 * H)] {
            let got = rollups::list(&catalog, ("web1", check), span, None, None, 0)
                .await
                .expect("asked");
            let mut seen = 0;
            let mut begin = start;
            while begin < start + 96 * H {
                let want = recomputed(&results[check], &changes[check], begin, length);
                let found = got
                    .iter()
                    .find(|(at, _)| *at == at_us(begin))
                    .map(|(_, r)| r.clone());
                if want == Rollup::default() {
                    assert_eq!(found, None, "{check} {span:?} at {begin}");
                } else {
                    assert_eq!(
                        found,
                        Some(want),
                        "{check} {span:?} {}",
                        (begin - start) / H
                    );
                    seen += 1;
                }
                begin += length;
            }
            assert_eq!(seen, got.len(), "{check} {span:?}");
            assert!(seen > 0);
        }
    }
    let now = checks::now(&catalog, None).await.expect("asked");
    for check in now {
        assert_eq!(
            check.runs_total,
            results[check.check.as_str()].len() as u64,
            "{}",
            check.check
        );
    }
}

pub async fn old_rows_go(mut env: Env) {
    env.options.keep.hours_days = 40;
    let catalog = env.open().await;
    let days = 100i64;
    let incident = |n: i64, closed: bool| Incident {
        id: IncidentId::new(at(MONDAY + n), env.dice.bytes()),
        host: "web1".into(),
        subject: "api".into(),
        unit: None,
        severity: Severity::Info,
        opened: at(MONDAY + n * DAY),
        closed: closed.then(|| at(MONDAY + n * DAY + 60)),
        reason: None,
        text: None,
    };
    let restart = |n: i64| RestartRecord {
        id: EventId::new(at(MONDAY + n), env.dice.bytes()),
        host: "web1".into(),
        unit: "api.service".into(),
        check: None,
        incident: None,
        attempt: 1,
        at: at(MONDAY + n * DAY),
        outcome: RestartOutcome::Done,
        refusal: None,
        recovered: None,
        duration: None,
        text: None,
    };
    let message = |n: i64, sent: bool| NotificationRecord {
        id: EventId::new(at(MONDAY + n), env.dice.bytes()),
        host: "web1".into(),
        sink: "mail".into(),
        topic: "api".into(),
        body: "x".into(),
        created: at(MONDAY + n * DAY),
        due: at(MONDAY + n * DAY),
        attempts: 1,
        state: if sent {
            NotificationState::Sent
        } else {
            NotificationState::Queued
        },
        done: sent.then(|| at(MONDAY + n * DAY)),
        error: None,
    };
    // A job that succeeded long ago, and only then; another host's rows.
    for n in 0..12 {
        let mut run = env.run(MONDAY + n * HOUR);
        run.job = Some("old".into());
        catalog
            .record_run(&env.done(run, RunOutcome::Succeeded, 5))
            .await;
    }
    let mut foreign = env.run(MONDAY);
    foreign.host = "db2".into();
    catalog
        .record_run(&env.done(foreign, RunOutcome::Failed, 5))
        .await;
    let open_run = env.run(MONDAY);
    catalog.record_run(&open_run).await;
    catalog
        .record(vec![Entry::Transition(env.change(
            "api",
            MONDAY * 1_000_000,
            CheckState::Unknown,
            CheckState::Healthy,
        ))])
        .await;
    for n in 0..days {
        env.hand.set(MONDAY + n * DAY + 12 * HOUR);
        let mut entries = vec![
            Entry::Incident(incident(n, n != 3)),
            Entry::Restart(restart(n)),
            Entry::Notification(message(n, n != 5)),
        ];
        for hour in 0..4 {
            let run = env.run(MONDAY + n * DAY + hour * HOUR);
            let outcome = if hour == 1 {
                RunOutcome::Failed
            } else {
                RunOutcome::Succeeded
            };
            entries.push(Entry::Run(Box::new(env.done(run, outcome, 5))));
            entries.push(Entry::Result(
                env.result("api", (MONDAY + n * DAY + hour * HOUR) * 1_000_000),
            ));
        }
        catalog.record(entries).await;
        upkeep_all(&catalog).await;
    }
    let now = env.hand.now();
    let done = upkeep_all(&catalog).await;
    assert!(!done.put_off);
    let filter = RunFilter {
        host: Some("web1".into()),
        job: Some("home".into()),
        ..RunFilter::default()
    };
    let kept = runs::list(&catalog, &filter).await.expect("asked");
    let old: Vec<_> = kept
        .iter()
        .filter(|r| r.started < at(now - 90 * DAY))
        .collect();
    assert_eq!(
        old.iter().map(|r| r.id).collect::<Vec<_>>(),
        [open_run.id],
        "only what has no end is older"
    );
    // The bound falls at noon, ninety days ago: that day's four are before it.
    assert_eq!(kept.len(), 1 + 4 * 90, "all younger ones are there");
    // The last ten successes stay, however old.
    let filter = RunFilter {
        job: Some("old".into()),
        ..RunFilter::default()
    };
    let stay = runs::list(&catalog, &filter).await.expect("asked");
    assert_eq!(stay.len(), 10);
    assert_eq!(stay[0].started, at(MONDAY + 11 * HOUR));
    let foreign = RunFilter {
        host: Some("db2".into()),
        ..RunFilter::default()
    };
    assert_eq!(
        runs::list(&catalog, &foreign).await.expect("asked").len(),
        1,
        "not ours to delete"
    );

    let raw = checks::results(&catalog, ("web1", "api"), None, None, 0)
        .await
        .expect("asked");
    assert!(
        raw.iter().all(|r| r.at >= at(now - 30 * DAY)) && raw.len() >= 29 * 4,
        "{}",
        raw.len()
    );
    let hours = rollups::list(&catalog, ("web1", "api"), Span::Hour, None, None, 0)
        .await
        .expect("asked");
    assert!(
        hours.iter().all(|(start, _)| *start >= at(now - 40 * DAY)),
        "hours"
    );
    assert!(hours.len() >= 39 * 4);
    let all_days = rollups::list(&catalog, ("web1", "api"), Span::Day, None, None, 0)
        .await
        .expect("asked");
    assert_eq!(all_days.len() as i64, days, "days stay for ever");
    assert!(all_days.iter().all(|(_, day)| day.runs == 4));
    let check = &checks::now(&catalog, Some("web1")).await.expect("asked")[0];
    assert_eq!(
        check.runs_total as i64,
        4 * days,
        "counted, though the raw is gone"
    );
    assert_eq!(
        check.state.as_ref().map(|s| s.0),
        Some(CheckState::Healthy),
        "the last change stays"
    );

    let all = EventFilter::default();
    let incidents = events::incidents(&catalog, &all).await.expect("asked");
    let old: Vec<_> = incidents
        .iter()
        .filter(|i| i.opened < at(now - 91 * DAY))
        .collect();
    assert!(
        old.iter().all(|i| i.closed.is_none()) && old.len() == 1,
        "what is open stays: {old:?}"
    );
    assert!(
        events::restarts(&catalog, &all)
            .await
            .expect("asked")
            .iter()
            .all(|r| r.at >= at(now - 90 * DAY))
    );
    let messages = events::notifications(&catalog, &all, None)
        .await
        .expect("asked");
    let old: Vec<_> = messages
        .iter()
        .filter(|m| m.created < at(now - 31 * DAY))
        .collect();
    assert!(
        old.len() == 1 && old[0].state == NotificationState::Queued,
        "what is queued stays: {old:?}"
    );

    // Counters do not fall with the rows.
    let counted = counters::list(&catalog).await.expect("asked");
    let home = counted
        .iter()
        .find(|c| c.name == counters::RUNS && c.subject == "home")
        .expect("counted");
    assert_eq!(home.value as i64, 4 * days);
    let facts = facts::jobs(&catalog, RunKind::Backup).await.expect("asked");
    let old = facts.iter().find(|f| f.job == "old").expect("there");
    assert_eq!(old.usual.duration, Some(Duration::from_secs(5)));
    assert!(catalog.numbers().size_bytes.is_some_and(|n| n > 0));
    assert!(matches!(
        upkeep::integrity(&catalog, BUDGET).await.expect("checked"),
        upkeep::Integrity::Sound | upkeep::Integrity::NotOurs
    ));
}

pub async fn a_clock_that_jumps_deletes_nothing(env: Env) {
    let catalog = env.open().await;
    let start = MONDAY;
    for n in 0..40i64 {
        let mut run = env.run(start - n * HOUR);
        run.job = Some(format!("job{}", n % 2));
        catalog
            .record_run(&env.done(run, RunOutcome::Failed, 1))
            .await;
        catalog
            .record(vec![Entry::Result(
                env.result("api", (start - n * HOUR) * 1_000_000),
            )])
            .await;
    }
    upkeep_all(&catalog).await;
    let count = async |catalog: &keepwatch_catalog::Catalog| {
        let runs = runs::list(catalog, &RunFilter::default())
            .await
            .expect("asked")
            .len();
        runs + checks::results(catalog, ("web1", "api"), None, None, 0)
            .await
            .expect("asked")
            .len()
    };
    assert_eq!(count(&catalog).await, 80);
    for jump in [10 * 365 * DAY, -20 * 365 * DAY, 0, 3000 * DAY, -MONDAY] {
        env.hand.set(start + jump);
        for hour in 0..20 {
            env.hand.set(start + jump + hour * HOUR);
            let done = upkeep_all(&catalog).await;
            assert_eq!(done.deleted, 0, "{jump} {hour}");
        }
        assert_eq!(count(&catalog).await, 80, "{jump}");
    }
    env.hand.set(start + DAY);
    upkeep_all(&catalog).await;
    assert_eq!(count(&catalog).await, 80);
    // A clock that stays there is believed after a day.
    env.hand.set(start + 200 * DAY);
    assert!(upkeep_all(&catalog).await.put_off);
    env.hand.advance(20 * HOUR);
    assert!(upkeep_all(&catalog).await.put_off);
    env.hand.advance(5 * HOUR);
    let done = upkeep_all(&catalog).await;
    assert!(!done.put_off && done.deleted > 0, "{done:?}");
    assert_eq!(count(&catalog).await, 20, "ten of each job stay");
}

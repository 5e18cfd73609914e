//! The conductor over hours of paused time, with probes and an executor that follow a script.

mod fakes;

use super::*;
use crate::clock::At;
use crate::event::RestartStep;
use crate::maintenance::{Covers, Open, Opener};
use crate::probe::heartbeat::{Beat, HeartbeatSettings};
use crate::probe::together::{GroupSettings, Need};
use crate::probe::{Asking, Probe};
use crate::restart::{Phase, Step, UnitRules};
use fakes::{Act, Fake, FakeClock, FakeSystemd, World, check, hours, name, plan, unit};
use keepwatch_model::check::{CheckKind, Overlay, Severity};
use std::sync::atomic::Ordering;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

#[tokio::test(start_paused = true)]
async fn twenty_four_hours_with_hung_targets_and_nothing_grows() {
    let mut checks = Vec::new();
    let healthy: Vec<_> = (0..30)
        .map(|n| Fake::new(CheckKind::Http, move |_, _| Act::Ok(20 + n)))
        .collect();
    for (n, probe) in healthy.iter().enumerate() {
        checks.push(check(&format!("ok-{n}"), probe, 15));
    }
    for n in 0..20 {
        let probe = Fake::new(CheckKind::Http, |_, _| Act::Hang);
        checks.push(check(&format!("hung-{n}"), &probe, 15));
    }
    for n in 0..5u64 {
        // Every other hour down, with a database and a command among them.
        let kind = [CheckKind::Postgresql, CheckKind::Command, CheckKind::Http][n as usize % 3];
        let probe = Fake::new(kind, |_, s| {
            if s / 3600 % 2 == 1 {
                Act::Fail(10)
            } else {
                Act::Ok(10)
            }
        });
        let mut c = check(&format!("changing-{n}"), &probe, 30);
        c.unit = Some(unit());
        c.depends_on = vec![name("parent")];
        checks.push(c);
    }
    // Asked once more whenever a child begins to fail.
    checks.push(check(
        "parent",
        &Fake::new(CheckKind::Tcp, |_, _| Act::Ok(3)),
        15,
    ));
    let world = World::start(plan(checks), Saved::default());
    sleep(hours(2)).await;
    let size = |w: &World| {
        serde_json::to_string(&*w.overview.borrow()).unwrap().len()
            + serde_json::to_string(&**w.saved.borrow()).unwrap().len()
    };
    let early = size(&world);
    sleep(hours(22)).await;
    let late = size(&world);
    assert!(late < early + early / 20, "{early} -> {late} bytes");
    for probe in &healthy {
        let times = probe.times();
        // Due within 10 s, and then it may have to wait for hung ones of which nobody knew yet, until their deadline.
        assert!(
            times[0] < Duration::from_secs(10 + 10),
            "first run after {:?}",
            times[0]
        );
        // 5760 intervals of 15 s, and the first run.
        assert!((5755..=5762).contains(&times.len()), "{} runs", times.len());
        // The period, from the second run on, when the grid holds.
        for pair in times[1..].windows(2) {
            let period = (pair[1] - pair[0]).as_secs_f64();
            assert!((period - 15.0).abs() <= 0.75, "period {period}");
        }
    }
    let hung = world.view("hung-3");
    assert_eq!(
        (hung.judge.state, hung.judge.reason()),
        (State::Unhealthy, Some(Reason::Timeout))
    );
    {
        let o = world.overview.borrow();
        assert!(o.running <= crate::schedule::caps::OVERALL);
        assert_eq!(o.events_dropped, 0);
        assert!(o.lag < Duration::from_secs(1), "{:?}", o.lag);
    }
    // 20 hung once; 5 that change, 12 times.
    assert_eq!(world.opened(), 20 + 5 * 12);
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn detection_is_quick_without_more_load_when_healthy() {
    let probe = Fake::new(CheckKind::Http, |_, s| {
        if s >= 600 { Act::Fail(1) } else { Act::Ok(1) }
    });
    let world = World::start(plan(vec![check("web", &probe, 60)]), Saved::default());
    sleep(Duration::from_secs(600)).await;
    let before = probe.times().len();
    assert!((10..=12).contains(&before), "{before}");
    sleep(Duration::from_secs(61 + 21)).await;
    assert_eq!(
        world.state("web"),
        State::Unhealthy,
        "three failures, ten seconds apart"
    );
    let decided = probe.times().len();
    sleep(Duration::from_secs(600)).await;
    let more = probe.times().len() - decided;
    assert!(
        (9..=11).contains(&more),
        "decided: back to the grid, {more} runs"
    );
}

#[tokio::test(start_paused = true)]
async fn runs_that_are_missed_are_counted_and_never_made_up_for() {
    // Longer than the interval: the timeout is just below it, so an overtime of the probe is needed.
    struct Long;
    impl Probe for Long {
        fn kind(&self) -> CheckKind {
            CheckKind::Command
        }
        fn ask(&self, _: Instant) -> Asking<'_> {
            Box::pin(async {
                sleep(Duration::from_secs(25)).await;
                Outcome::success()
            })
        }
        fn overtime(&self) -> Duration {
            Duration::from_secs(100)
        }
    }
    let long = Check::new(
        name("long"),
        Ask::Probe(Arc::new(Long)),
        Duration::from_secs(10),
    );
    let world = World::start(plan(vec![long]), Saved::default());
    sleep(Duration::from_secs(600)).await;
    let view = world.view("long");
    assert!(
        (18..=21).contains(&view.runs),
        "{} runs of 25 s, each on the grid of 10 s",
        view.runs
    );
    assert!(
        (38..=42).contains(&view.overruns),
        "{} missed",
        view.overruns
    );
}

#[tokio::test(start_paused = true)]
async fn one_message_when_a_parent_is_down() {
    let down = |_, s| {
        if (300..900).contains(&s) {
            Act::Fail(1)
        } else {
            Act::Ok(1)
        }
    };
    let db = Fake::new(CheckKind::Postgresql, down);
    let mut checks = vec![check("db", &db, 60)];
    for n in 0..30 {
        let mut c = check(&format!("app-{n}"), &Fake::new(CheckKind::Http, down), 15);
        c.depends_on = vec![name("db")];
        checks.push(c);
    }
    let world = World::start(plan(checks), Saved::default());
    sleep(Duration::from_secs(600)).await;
    assert_eq!(
        (world.opened(), world.state("app-7")),
        (1, State::Unhealthy)
    );
    assert_eq!(world.view("app-7").overlay(), Some(Overlay::Suppressed));
    sleep(Duration::from_secs(600)).await;
    assert_eq!((world.opened(), world.closed()), (1, 1));
    assert_eq!(world.view("app-7").shown(), (State::Healthy, None));
}

fn restarting(act: impl Fn(u64, u64) -> Act + Send + Sync + 'static) -> Plan {
    let mut c = check("web", &Fake::new(CheckKind::Http, act), 30);
    c.unit = Some(unit());
    plan(vec![c])
}

#[tokio::test(start_paused = true)]
async fn a_failed_unit_is_restarted_and_its_recovery_verified() {
    let clock = FakeClock::new();
    let systemd = FakeSystemd::new(&clock);
    let seen = Arc::clone(&systemd);
    // Down until the job has run.
    let plan = restarting(move |_, s| {
        if s > 100 && seen.jobs() == 0 {
            Act::Fail(1)
        } else {
            Act::Ok(1)
        }
    });
    let world = World::with(plan, Saved::default(), clock, systemd);
    sleep(Duration::from_secs(400)).await;
    assert_eq!(world.systemd.jobs(), 1);
    let steps = world.steps();
    assert!(
        matches!(&steps[..], [
            RestartStep::Started { attempt: 1, action: Step::Unit, reason: Some(Reason::Connect), .. },
            RestartStep::Finished { ok: true, .. },
            RestartStep::Recovered { after },
        ] if (Duration::from_secs(12)..Duration::from_secs(60)).contains(after)),
        "{steps:?}"
    );
    let unit = world.overview.borrow().units[&unit()].clone();
    assert_eq!(
        (unit.state.phase, unit.state.attempts.len()),
        (Phase::Idle, 1)
    );
    assert_eq!((world.opened(), world.closed()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_unit_that_always_fails_is_restarted_three_times_in_24_hours() {
    let world = World::start(restarting(|_, _| Act::Fail(1)), Saved::default());
    sleep(hours(24)).await;
    assert_eq!(world.systemd.jobs(), 3);
    let steps = world.steps();
    assert_eq!(
        steps.iter().filter(|s| **s == RestartStep::GaveUp).count(),
        1
    );
    let told = steps
        .iter()
        .filter(|s| matches!(s, RestartStep::Refused { .. }))
        .count();
    assert!(told <= 8, "each reason in a row is told once: {steps:?}");
    {
        let o = world.overview.borrow();
        let view = &o.units[&unit()];
        assert!(view.state.gave_up.is_some());
        assert!(
            view.refusals[&crate::restart::Refusal::GaveUp] > 1000,
            "{:?}",
            view.refusals
        );
    }
    // The operator resets: three more.
    let (reply, answer) = oneshot::channel();
    world
        .commands
        .send(Command::Reset {
            unit: unit(),
            reply,
        })
        .await
        .unwrap();
    assert_eq!(answer.await.unwrap(), Some(true));
    sleep(hours(24)).await;
    assert_eq!(world.systemd.jobs(), 6);
    // Daemon restarts change nothing.
    let saved = world.stop().await;
    let again = World::start(restarting(|_, _| Act::Fail(1)), saved);
    sleep(hours(2)).await;
    assert_eq!(again.systemd.jobs(), 0);
    assert_eq!(again.opened(), 0, "told before the restart");
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_crashes_in_a_loop_gets_no_new_attempts() {
    let clock = FakeClock::new();
    let systemd = FakeSystemd::new(&clock);
    let mut saved = Saved::default();
    for _ in 0..40 {
        let world = World::with(
            restarting(|_, _| Act::Fail(1)),
            saved.clone(),
            clock.clone(),
            systemd.clone(),
        );
        sleep(Duration::from_secs(45)).await;
        // Killed: only what was given out to be saved is left, or else what was there before; the value that the channel begins with is none.
        let given = Saved::clone(&world.saved.borrow());
        if given.at != At::default() {
            saved = given;
        }
        world.task.abort();
    }
    assert!(systemd.jobs() <= 3, "{}", systemd.jobs());
    assert!(systemd.jobs() >= 2, "{}", systemd.jobs());
}

#[tokio::test(start_paused = true)]
async fn restarts_by_hand_and_their_refusals() {
    let world = World::start(restarting(|_, _| Act::Ok(1)), Saved::default());
    let ask = async |unit: &str| {
        let (reply, answer) = oneshot::channel();
        let unit = unit.parse().unwrap();
        world
            .commands
            .send(Command::Restart { unit, reply })
            .await
            .unwrap();
        answer.await.unwrap()
    };
    use crate::restart::Refusal;
    assert_eq!(ask("other.service").await.unwrap_err(), Refusal::NotAllowed);
    assert_eq!(ask("web.service").await.unwrap().number, 0);
    assert_eq!(ask("web.service").await.unwrap_err(), Refusal::InProgress);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(ask("web.service").await.unwrap().step, Step::Unit);
    sleep(Duration::from_secs(60)).await;
    *world.systemd.active.lock().unwrap() = "activating";
    assert_eq!(ask("web.service").await.unwrap_err(), Refusal::UnitBusy);
    assert_eq!(world.systemd.jobs(), 2);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_restarted_or_told_in_maintenance() {
    let world = World::start(
        restarting(|_, s| if s > 60 { Act::Fail(1) } else { Act::Ok(1) }),
        Saved::default(),
    );
    let window = Open {
        name: name("backup"),
        opener: Opener::Job,
        covers: Covers::Checks(vec![name("web")]),
        opened: world.clock.wall(),
        ends: world.clock.wall().plus(Duration::from_secs(600)),
        note: "nightly".into(),
    };
    let (reply, answer) = oneshot::channel();
    world
        .commands
        .send(Command::Open { window, reply })
        .await
        .unwrap();
    assert_eq!(answer.await.unwrap(), Ok(()));
    sleep(Duration::from_secs(500)).await;
    assert_eq!(
        (world.state("web"), world.opened(), world.systemd.jobs()),
        (State::Unhealthy, 0, 0)
    );
    let steps = world.steps();
    assert!(
        matches!(
            &steps[..],
            [RestartStep::Refused {
                reason: crate::restart::Refusal::Maintenance,
                ..
            }]
        ),
        "{steps:?}"
    );
    // The window ends by itself; then it is told, and acted upon.
    sleep(Duration::from_secs(200)).await;
    assert_eq!(world.opened(), 1);
    assert!(world.systemd.jobs() > 0);
    let windows = world.count(|e| matches!(e, Event::Windows { .. }));
    assert_eq!(windows, 2, "opened and closed");
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_a_probe_is_a_failure_of_that_check_only() {
    let bad = Fake::new(CheckKind::Http, |_, _| Act::Panic);
    let good = Fake::new(CheckKind::Http, |_, _| Act::Ok(1));
    let world = World::start(
        plan(vec![check("bad", &bad, 15), check("good", &good, 15)]),
        Saved::default(),
    );
    sleep(Duration::from_secs(120)).await;
    let view = world.view("bad");
    assert_eq!(
        (view.judge.state, view.judge.reason()),
        (State::Unhealthy, Some(Reason::Internal))
    );
    assert_eq!(world.state("good"), State::Healthy);
}

#[tokio::test(start_paused = true)]
async fn a_restart_of_the_daemon_is_quiet() {
    let down = || check("web", &Fake::new(CheckKind::Http, |_, _| Act::Fail(1)), 30);
    let gone = || check("gone", &Fake::new(CheckKind::Http, |_, _| Act::Fail(1)), 30);
    let clock = FakeClock::new();
    let systemd = FakeSystemd::new(&clock);
    let world = World::with(
        plan(vec![down(), gone()]),
        Saved::default(),
        clock.clone(),
        systemd.clone(),
    );
    sleep(Duration::from_secs(120)).await;
    assert_eq!(world.opened(), 2);
    let saved = world.stop().await;
    let json = serde_json::to_string(&saved).unwrap();
    let saved: Saved = serde_json::from_str(&json).unwrap();
    let world = World::with(plan(vec![down()]), saved, clock.clone(), systemd.clone());
    sleep(Duration::from_secs(1)).await;
    assert_eq!(
        world.state("web"),
        State::Unhealthy,
        "remembered before the first run"
    );
    assert_eq!(
        (world.opened(), world.closed()),
        (0, 1),
        "only the removed one is closed"
    );
    let saved = world.stop().await;
    // A long pause: unknown, but not told again.
    sleep(hours(1)).await;
    let world = World::with(plan(vec![down()]), saved, clock, systemd);
    sleep(Duration::from_millis(1)).await;
    assert_eq!(world.state("web"), State::Unknown);
    sleep(Duration::from_secs(120)).await;
    assert_eq!((world.state("web"), world.opened()), (State::Unhealthy, 0));
}

#[tokio::test(start_paused = true)]
async fn a_jump_of_the_clock_realigns() {
    let probe = Fake::new(CheckKind::Http, |_, _| Act::Ok(1));
    for jump in [3 * 86_400_000, -10 * 86_400_000, 40_000] {
        let world = World::start(plan(vec![check("web", &probe, 60)]), Saved::default());
        sleep(Duration::from_secs(100)).await;
        world.clock.offset_ms.store(jump, Ordering::Relaxed);
        sleep(Duration::from_millis(5001)).await;
        let unknown = world.count(|e| {
            matches!(
                e,
                Event::Transition {
                    to: State::Unknown,
                    ..
                }
            )
        });
        assert_eq!(
            (
                world.count(|e| matches!(e, Event::ClockJump { .. })),
                unknown
            ),
            (1, 1),
            "{jump}"
        );
        sleep(Duration::from_secs(20)).await;
        assert_eq!(world.state("web"), State::Healthy);
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_who_does_not_listen_stops_the_watch() {
    let probe = Fake::new(CheckKind::Http, |n, _| {
        if n / 10 % 2 == 0 {
            Act::Ok(1)
        } else {
            Act::Fail(1)
        }
    });
    let checks = (0..20)
        .map(|n| check(&format!("c{n}"), &probe, 15))
        .collect();
    let clock = FakeClock::new();
    let systemd = FakeSystemd::new(&clock) as Arc<dyn Executor>;
    let (conductor, handle) = Conductor::new(
        plan(checks),
        Saved::default(),
        systemd,
        clock,
        Box::new(|| 0.0),
    )
    .unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(conductor.run(async move { drop(stopped.await) }));
    sleep(hours(1)).await;
    assert!(probe.times().len() > 20 * 230, "{}", probe.times().len());
    assert!(handle.events.len() <= CAPACITY);
    let dropped = handle.overview.borrow().events_dropped;
    assert!(dropped > 1000, "{dropped}");
    assert!(handle.overview.borrow().checks[0].judge.last_run.is_some());
    stop.send(()).unwrap();
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn stopping_does_not_wait_for_hung_runs() {
    let probe = Fake::new(CheckKind::Http, |_, _| Act::Hang);
    let world = World::start(plan(vec![check("web", &probe, 3600)]), Saved::default());
    sleep(Duration::from_secs(11)).await;
    assert_eq!(world.overview.borrow().running, 1);
    let began = Instant::now();
    let saved = world.stop().await;
    assert!(began.elapsed() < Duration::from_secs(1));
    assert!(saved.judges.contains_key("web"));
}

#[tokio::test(start_paused = true)]
async fn heartbeats_and_groups() {
    let beat = HeartbeatSettings {
        period: Duration::from_secs(600),
        grace: Duration::from_secs(60),
        run_grace: Duration::from_secs(60),
    };
    let mut job = Check::new(name("job"), Ask::Heartbeat(beat), Duration::from_secs(15));
    job.rules.failure_threshold = 1;
    job.rules.success_threshold = 1;
    job.severity = Severity::Critical;
    let web = check("web", &Fake::new(CheckKind::Http, |_, _| Act::Ok(1)), 15);
    let group = GroupSettings {
        members: vec![name("job"), name("web")],
        need: Need::All,
    };
    let all = Check::new(name("all"), Ask::Group(group), Duration::from_secs(15));
    let world = World::start(plan(vec![all, job, web]), Saved::default());
    let send = async |check: &str, beat: Beat| {
        let (reply, answer) = oneshot::channel();
        let check = name(check);
        world
            .commands
            .send(Command::Beat { check, beat, reply })
            .await
            .unwrap();
        answer.await.unwrap()
    };
    assert!(!world.overview.borrow().critical_checks_ran());
    assert_eq!(world.overview.borrow().critical_down().count(), 1);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(
        (world.state("job"), world.state("all")),
        (State::Healthy, State::Healthy)
    );
    assert!(world.overview.borrow().critical_checks_ran());
    sleep(Duration::from_secs(640)).await;
    assert_eq!(
        (world.state("job"), world.state("all")),
        (State::Unhealthy, State::Unhealthy)
    );
    assert!(world.overview.borrow().score.unwrap() <= score::CAP);
    assert!(send("job", Beat::Success).await);
    assert!(!send("web", Beat::Success).await && !send("none", Beat::Success).await);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(
        (world.state("job"), world.state("all")),
        (State::Healthy, State::Healthy)
    );
    assert!(send("job", Beat::Failure("no\nroom".into())).await);
    sleep(Duration::from_millis(10)).await;
    assert_eq!(
        world.view("job").judge.last_failure.unwrap().text,
        "the job reported failure: no room"
    );
}

#[test]
fn plans_without_sense_are_refused_with_all_faults() {
    let probe: Arc<dyn Probe> = Arc::new(crate::probe::host::Host::load());
    let make = |text: &str, change: &dyn Fn(&mut Check)| {
        let mut c = Check::new(
            name(text),
            Ask::Probe(Arc::clone(&probe)),
            Duration::from_secs(60),
        );
        change(&mut c);
        c
    };
    let bad = Plan {
        checks: vec![
            make("a", &|c| c.timeout = Duration::from_secs(60)),
            make("b", &|c| c.rules.interval = Duration::from_millis(10)),
            make("c", &|c| c.retry_interval = Duration::ZERO),
            make("d", &|c| c.rules.failure_threshold = 0),
            make("e", &|c| c.depends_on = vec![name("none")]),
            make("f", &|_| ()),
        ],
        units: [(
            unit(),
            UnitRules {
                max_attempts: 0,
                ..UnitRules::default()
            },
        )]
        .into(),
        ..Plan::default()
    };
    let faults = bad.check().unwrap_err();
    assert_eq!(faults.len(), 6, "{faults:?}");
    assert_eq!(
        faults[0].to_string(),
        "the check a: the timeout must be shorter than the interval"
    );
}

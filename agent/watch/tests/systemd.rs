//! Restarts by a real systemd. They restart units by name, so they run nowhere but in the container of `tests/systemd/run`:
//! `cargo test` leaves them out, and asked for by name anywhere else they fail.

use keepwatch_model::check::{Reason, State};
use keepwatch_watch::clock::HostClock;
use keepwatch_watch::conductor::{Ask, Check, Conductor, Plan, Saved};
use keepwatch_watch::event::{Event, RestartStep};
use keepwatch_watch::probe::unit::{Unit, UnitSettings};
use keepwatch_watch::probe::{Probe, run};
use keepwatch_watch::restart::policy::{Asker, Decision, HostState, Refusal, UnitState, decide};
use keepwatch_watch::restart::{Executor, Step, SystemdExecutor, UnitRules};
use keepwatch_watch::systemd::{Systemd, SystemdError, UnitName, UnitStatus};
use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

fn only_here() {
    assert!(
        std::env::var_os("KEEPWATCH_TEST_SYSTEMD").is_some(),
        "the systemd tests run inside a container, by tests/systemd/run"
    );
}

fn unit(name: &str) -> UnitName {
    format!("kw-{name}.service").parse().unwrap()
}

fn systemctl(arguments: &[&str]) {
    // Some of these are meant to fail.
    let _ = Command::new("systemctl").args(arguments).output().unwrap();
}

async fn status(s: &Systemd, name: &str) -> UnitStatus {
    s.unit(&unit(name)).await.unwrap()
}

async fn until(s: &Systemd, name: &str, good: impl Fn(&UnitStatus) -> bool) -> UnitStatus {
    for _ in 0..200 {
        let now = status(s, name).await;
        if good(&now) {
            return now;
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("{:?}", status(s, name).await);
}

#[tokio::test]
async fn states_of_units() {
    only_here();
    let s = Systemd::default();
    let state = s.state().await.unwrap();
    assert!(
        ["starting", "running", "degraded"].contains(&state.as_str()),
        "{state}"
    );
    let none = status(&s, "none").await;
    assert_eq!(
        (none.load.as_str(), none.active.as_str()),
        ("not-found", "inactive")
    );
    systemctl(&["start", "kw-good.service"]);
    let good = status(&s, "good").await;
    assert_eq!(
        (
            good.active.as_str(),
            good.sub.as_str(),
            good.result.as_str()
        ),
        ("active", "running", "success")
    );
    assert_eq!(good.invocation.len(), 32);
    systemctl(&["stop", "kw-good.service"]);
    assert_eq!(status(&s, "good").await.active, "inactive");
    systemctl(&["start", "kw-crash.service"]);
    let crash = status(&s, "crash").await;
    assert_eq!(
        (crash.active.as_str(), crash.result.as_str()),
        ("failed", "exit-code")
    );
    systemctl(&["start", "--no-block", "kw-slow.service"]);
    until(&s, "slow", |u| u.active == "activating").await;
    systemctl(&["start", "--no-block", "kw-auto.service"]);
    until(&s, "auto", |u| u.sub == "auto-restart").await;
    let probe = |name: &str| {
        let settings = UnitSettings {
            unit: unit(name),
            states: vec!["active".into()],
        };
        Unit::new(settings, Arc::default()).unwrap()
    };
    for (name, reason, text) in [
        ("crash", Reason::Status, "failed (failed, result exit-code)"),
        ("auto", Reason::Status, "auto-restart"),
        ("good", Reason::Status, "inactive"),
        ("none", Reason::Exec, "not-found"),
    ] {
        let f = run(&probe(name), Duration::from_secs(10))
            .await
            .failure
            .unwrap();
        assert_eq!(f.reason, reason);
        assert!(f.text.contains(text), "{}", f.text);
    }
}

#[tokio::test]
async fn results_of_jobs() {
    only_here();
    let s = Systemd::default();
    let limit = Duration::from_secs(20);
    assert_eq!(s.restart(&unit("good"), limit).await.unwrap(), "done");
    let first = status(&s, "good").await.invocation;
    assert_eq!(s.restart(&unit("good"), limit).await.unwrap(), "done");
    let second = status(&s, "good").await.invocation;
    assert_ne!(first, second);
    assert_eq!(s.restart(&unit("crash"), limit).await.unwrap(), "failed");
    assert_eq!(s.restart(&unit("dep"), limit).await.unwrap(), "dependency");
    let e = s.restart(&unit("none"), limit).await.unwrap_err();
    assert!(
        matches!(&e, SystemdError::Refused(why) if why.contains("not found")),
        "{e}"
    );
    systemctl(&["stop", "kw-slow.service"]);
    let e = s
        .restart(&unit("slow"), Duration::from_secs(1))
        .await
        .unwrap_err();
    assert!(matches!(e, SystemdError::Timeout), "{e}");
    systemctl(&["stop", "kw-slow.service"]);
    // After a timeout the connection is made anew.
    assert_eq!(s.restart(&unit("good"), limit).await.unwrap(), "done");
}

#[tokio::test]
async fn a_start_limit_is_reset_first() {
    only_here();
    let s = Systemd::default();
    let _ = std::fs::remove_file("/run/kw-limit");
    systemctl(&["start", "--no-block", "kw-limit.service"]);
    until(&s, "limit", |u| u.active == "failed").await;
    std::fs::write("/run/kw-limit", "").unwrap();
    // By hand it is refused, which shows that the limit was hit.
    let by_hand = Command::new("systemctl")
        .args(["start", "kw-limit.service"])
        .output()
        .unwrap();
    assert!(!by_hand.status.success());
    assert_eq!(
        s.restart(&unit("limit"), Duration::from_secs(20))
            .await
            .unwrap(),
        "done"
    );
    assert_eq!(status(&s, "limit").await.active, "active");
    systemctl(&["stop", "kw-limit.service"]);
}

#[tokio::test]
async fn what_the_policy_sees() {
    only_here();
    let e = SystemdExecutor::new(
        Arc::default(),
        ["good", "crash", "auto", "slow", "none"].map(unit),
        BTreeMap::new(),
    );
    systemctl(&["stop", "kw-good.service"]);
    systemctl(&["start", "--no-block", "kw-slow.service"]);
    systemctl(&["start", "--no-block", "kw-auto.service"]);
    systemctl(&["start", "kw-crash.service"]);
    sleep(Duration::from_millis(500)).await;
    for (name, expected) in [
        ("good", Some(Refusal::StoppedByOperator)),
        ("crash", None),
        ("auto", Some(Refusal::UnitBusy)),
        ("slow", Some(Refusal::UnitBusy)),
        ("none", Some(Refusal::NoSuchUnit)),
    ] {
        let facts = e.facts(&unit(name)).await.unwrap();
        let asker = Asker::Check {
            check: "c".parse().unwrap(),
            maintenance: false,
            suppressed: false,
            flapping: false,
        };
        let (mut state, mut host) = (UnitState::default(), HostState::default());
        let now = keepwatch_watch::clock::At::from_secs(1000);
        let got = match decide(
            &UnitRules::default(),
            &mut state,
            &mut host,
            &asker,
            &facts,
            now,
            0.0,
        ) {
            Decision::Go(_) => None,
            Decision::Refused { reason, .. } => Some(reason),
        };
        assert_eq!(got, expected, "{name}: {facts:?}");
    }
    systemctl(&["stop", "kw-slow.service", "kw-auto.service"]);
    // A unit that is not listed is not touched.
    let other = unit("other");
    assert!(!e.allows(&other));
    assert!(
        e.act(&other, &Step::Unit, Duration::from_secs(5))
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_killed_service_comes_back() {
    only_here();
    let s = Arc::new(Systemd::default());
    systemctl(&["restart", "kw-good.service"]);
    let before = status(&s, "good").await.invocation;
    let settings = UnitSettings {
        unit: unit("good"),
        states: vec!["active".into()],
    };
    let probe: Arc<dyn Probe> = Arc::new(Unit::new(settings, Arc::clone(&s)).unwrap());
    let mut check = Check::new(
        "good".parse().unwrap(),
        Ask::Probe(probe),
        Duration::from_secs(2),
    );
    check.retry_interval = Duration::from_secs(1);
    check.unit = Some(unit("good"));
    let rules = UnitRules {
        settle: Duration::from_secs(2),
        ..UnitRules::default()
    };
    let plan = Plan {
        host: "test".into(),
        checks: vec![check],
        units: [(unit("good"), rules)].into(),
        ..Plan::default()
    };
    let executor = Arc::new(SystemdExecutor::new(
        Arc::clone(&s),
        [unit("good")],
        BTreeMap::new(),
    ));
    let (conductor, mut handle) = Conductor::new(
        plan,
        Saved::default(),
        executor,
        Arc::new(HostClock),
        Box::new(|| 0.0),
    )
    .unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let task = tokio::spawn(conductor.run(async move {
        let _ = stopped.await;
    }));
    let mut steps = Vec::new();
    let mut killed = false;
    let watching = async {
        while let Some(event) = handle.events.recv().await {
            match event {
                Event::Transition {
                    to: State::Healthy, ..
                } if !killed => {
                    killed = true;
                    systemctl(&["kill", "--signal=KILL", "kw-good.service"]);
                }
                Event::Restart { step, .. } => {
                    let over = matches!(step, RestartStep::Recovered { .. });
                    steps.push(step);
                    if over {
                        break;
                    }
                }
                _ => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), watching)
        .await
        .expect("it comes back");
    let after = status(&s, "good").await;
    assert_eq!(after.active, "active");
    assert_ne!(after.invocation, before);
    let RestartStep::Finished {
        ok: true,
        result,
        invocation,
    } = &steps[1]
    else {
        panic!("{steps:?}")
    };
    assert_eq!((result.as_str(), invocation), ("done", &after.invocation));
    assert!(
        matches!(steps[0], RestartStep::Started { attempt: 1, .. }),
        "{steps:?}"
    );
    stop.send(()).unwrap();
    task.await.unwrap();
}

/// Run as a user without any capability, with a polkit rule for one unit.
#[tokio::test]
async fn restarts_as_a_user() {
    only_here();
    assert!(!rustix::process::geteuid().is_root());
    let s = Systemd::default();
    let limit = Duration::from_secs(20);
    assert_eq!(s.restart(&unit("good"), limit).await.unwrap(), "done");
    for other in ["other.service", "crash.service"] {
        let other: UnitName = format!("kw-{other}").parse().unwrap();
        let e = s.restart(&other, limit).await.unwrap_err();
        assert!(matches!(e, SystemdError::Denied(_)), "{other}: {e}");
    }
    assert!(matches!(
        s.reboot().await.unwrap_err(),
        SystemdError::Denied(_)
    ));
    // Looking is allowed.
    assert_eq!(status(&s, "good").await.active, "active");
}

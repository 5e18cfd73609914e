//! The restart policy by tables and over days of fake time.

use super::policy::*;
use crate::clock::At;
use crate::systemd::UnitStatus;
use proptest::prelude::*;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn asker() -> Asker {
    Asker::Check {
        check: "web".parse().unwrap(),
        maintenance: false,
        suppressed: false,
        flapping: false,
    }
}

fn hidden(maintenance: bool, suppressed: bool, flapping: bool) -> Asker {
    Asker::Check {
        check: "web".parse().unwrap(),
        maintenance,
        suppressed,
        flapping,
    }
}

fn facts(active: &str, sub: &str, result: &str) -> Facts {
    Facts {
        unit: UnitStatus {
            load: "loaded".into(),
            active: active.into(),
            sub: sub.into(),
            result: result.into(),
            ..UnitStatus::default()
        },
        system: "running".into(),
        activation: false,
    }
}

fn failed() -> Facts {
    facts("failed", "failed", "exit-code")
}

fn reason(d: &Decision) -> Option<Refusal> {
    match d {
        Decision::Go(_) => None,
        Decision::Refused { reason, .. } => Some(*reason),
    }
}

#[test]
fn refusals_by_table() {
    let now = At::from_secs(100_000);
    let operator = Asker::Operator;
    let stopped = facts("inactive", "dead", "success");
    let rules = UnitRules::default();
    let dry = UnitRules {
        dry_run: true,
        ..UnitRules::default()
    };
    let start = UnitRules {
        start_if_inactive: true,
        ..UnitRules::default()
    };
    let with = |change: &dyn Fn(&mut Facts)| {
        let mut f = failed();
        change(&mut f);
        f
    };
    let attempts = |n: usize, ago: u64| UnitState {
        attempts: vec![now.minus(Duration::from_secs(ago)); n],
        ..UnitState::default()
    };
    let none = UnitState::default();
    let full = HostState {
        restarts: vec![now.minus(Duration::from_secs(599)); BUDGET],
    };
    let empty = HostState::default();
    let gave_up = UnitState {
        gave_up: Some(now),
        ..UnitState::default()
    };
    let cooling = UnitState {
        allowed_after: Some(now.plus(SECOND)),
        ..UnitState::default()
    };
    let phase = |phase| UnitState {
        phase,
        ..UnitState::default()
    };
    for (what, rules, state, host, asker, facts, expected) in [
        (
            "a failed unit",
            &rules,
            &none,
            &empty,
            asker(),
            failed(),
            None,
        ),
        (
            "an active unit that is unhealthy",
            &rules,
            &none,
            &empty,
            asker(),
            facts("active", "running", "success"),
            None,
        ),
        (
            "maintenance",
            &rules,
            &none,
            &empty,
            hidden(true, false, false),
            failed(),
            Some(Refusal::Maintenance),
        ),
        (
            "parent",
            &rules,
            &none,
            &empty,
            hidden(false, true, false),
            failed(),
            Some(Refusal::ParentUnhealthy),
        ),
        (
            "flapping",
            &rules,
            &none,
            &empty,
            hidden(false, false, true),
            failed(),
            Some(Refusal::Flapping),
        ),
        (
            "dry run",
            &dry,
            &none,
            &empty,
            asker(),
            failed(),
            Some(Refusal::DryRun),
        ),
        (
            "cooldown",
            &rules,
            &cooling,
            &empty,
            asker(),
            failed(),
            Some(Refusal::Cooldown),
        ),
        (
            "attempts",
            &rules,
            &attempts(3, 3599),
            &empty,
            asker(),
            failed(),
            Some(Refusal::GaveUp),
        ),
        (
            "attempts long ago",
            &rules,
            &attempts(3, 3600),
            &empty,
            asker(),
            failed(),
            None,
        ),
        (
            "gave up",
            &rules,
            &gave_up,
            &empty,
            asker(),
            failed(),
            Some(Refusal::GaveUp),
        ),
        (
            "budget",
            &rules,
            &none,
            &full,
            asker(),
            failed(),
            Some(Refusal::HostBudget),
        ),
        (
            "working",
            &rules,
            &phase(Phase::Working),
            &empty,
            asker(),
            failed(),
            Some(Refusal::InProgress),
        ),
        (
            "settling",
            &rules,
            &phase(Phase::Settling(now.plus(SECOND))),
            &empty,
            asker(),
            failed(),
            Some(Refusal::InProgress),
        ),
        (
            "settled",
            &rules,
            &phase(Phase::Settling(now)),
            &empty,
            asker(),
            failed(),
            None,
        ),
        (
            "activating",
            &rules,
            &none,
            &empty,
            asker(),
            facts("activating", "start", ""),
            Some(Refusal::UnitBusy),
        ),
        (
            "deactivating",
            &rules,
            &none,
            &empty,
            asker(),
            facts("deactivating", "stop", ""),
            Some(Refusal::UnitBusy),
        ),
        (
            "reloading",
            &rules,
            &none,
            &empty,
            asker(),
            facts("reloading", "reload", ""),
            Some(Refusal::UnitBusy),
        ),
        (
            "auto-restart",
            &rules,
            &none,
            &empty,
            asker(),
            facts("inactive", "auto-restart", "exit-code"),
            Some(Refusal::UnitBusy),
        ),
        (
            "auto-restart queued",
            &rules,
            &none,
            &empty,
            asker(),
            facts("inactive", "auto-restart-queued", "exit-code"),
            Some(Refusal::UnitBusy),
        ),
        (
            "stopped by hand",
            &rules,
            &none,
            &empty,
            asker(),
            stopped.clone(),
            Some(Refusal::StoppedByOperator),
        ),
        (
            "stopped by hand, start anyway",
            &start,
            &none,
            &empty,
            asker(),
            stopped.clone(),
            None,
        ),
        (
            "no unit",
            &rules,
            &none,
            &empty,
            asker(),
            with(&|f| f.unit.load = "not-found".into()),
            Some(Refusal::NoSuchUnit),
        ),
        (
            "masked",
            &rules,
            &none,
            &empty,
            asker(),
            with(&|f| f.unit.load = "masked".into()),
            Some(Refusal::NoSuchUnit),
        ),
        (
            "stopping",
            &rules,
            &none,
            &empty,
            asker(),
            with(&|f| f.system = "stopping".into()),
            Some(Refusal::SystemStopping),
        ),
        (
            "activation",
            &rules,
            &none,
            &empty,
            asker(),
            with(&|f| f.activation = true),
            Some(Refusal::Activation),
        ),
        (
            "operator after giving up",
            &dry,
            &gave_up,
            &full,
            operator.clone(),
            stopped,
            None,
        ),
        (
            "operator in the cooldown",
            &rules,
            &cooling,
            &empty,
            operator.clone(),
            failed(),
            None,
        ),
        (
            "operator while working",
            &rules,
            &phase(Phase::Working),
            &empty,
            operator.clone(),
            failed(),
            Some(Refusal::InProgress),
        ),
        (
            "operator while checks settle",
            &rules,
            &phase(Phase::Settling(now.plus(SECOND))),
            &empty,
            operator.clone(),
            failed(),
            None,
        ),
        (
            "operator, unit busy",
            &rules,
            &none,
            &empty,
            operator.clone(),
            facts("activating", "start", ""),
            Some(Refusal::UnitBusy),
        ),
        (
            "operator, going down",
            &rules,
            &none,
            &empty,
            operator,
            with(&|f| f.system = "stopping".into()),
            Some(Refusal::SystemStopping),
        ),
    ] {
        let (mut state, mut host) = (state.clone(), host.clone());
        let before = state.attempts.len();
        let d = decide(rules, &mut state, &mut host, &asker, &facts, now, 0.0);
        assert_eq!(reason(&d), expected, "{what}");
        if expected.is_some() {
            assert_eq!(
                state.attempts.len(),
                before,
                "{what}: a refusal is no attempt"
            );
        }
    }
}

/// A unit that never becomes healthy, asked every second. Returns the seconds of the attempts and of giving up.
fn a_day(rules: &UnitRules, jitter: f64, reload_each: u64) -> (Vec<u64>, Vec<u64>) {
    let mut state = UnitState::default();
    let mut host = HostState::default();
    let (mut attempts, mut given_up) = (Vec::new(), Vec::new());
    let mut job_ends = None;
    for s in 0..86_400u64 {
        let now = At::from_secs(s as i64);
        if job_ends == Some(s) {
            finished(rules, &mut state, "failed", now, jitter);
        }
        if reload_each > 0 && s % reload_each == 0 {
            let json = serde_json::to_string(&state).unwrap();
            state = serde_json::from_str::<UnitState>(&json)
                .unwrap()
                .restored(rules, now);
        }
        state.counts(now);
        match decide(
            rules,
            &mut state,
            &mut host,
            &asker(),
            &failed(),
            now,
            jitter,
        ) {
            Decision::Go(a) => {
                assert_eq!(
                    usize::try_from(a.number).unwrap(),
                    attempts.len() % rules.max_attempts as usize + 1
                );
                attempts.push(s);
                job_ends = Some(s + 2);
            }
            Decision::Refused { gives_up: true, .. } => given_up.push(s),
            Decision::Refused { .. } => {}
        }
        assert!(state.attempts.len() <= 20 && host.restarts.len() <= BUDGET);
    }
    (attempts, given_up)
}

#[test]
fn a_unit_that_always_fails_gets_exactly_its_budget() {
    let (attempts, given_up) = a_day(&UnitRules::default(), 0.0, 0);
    // 60 s after the end of the first job, 120 s after that of the second; given up 240 s after the third.
    assert_eq!(attempts, [0, 62, 184]);
    assert_eq!(given_up, [426]);
    // However often the daemon restarts.
    for reload in [1, 7, 61, 3601] {
        let (attempts, given_up) = a_day(&UnitRules::default(), 0.0, reload);
        assert_eq!(
            (attempts.len(), given_up.len()),
            (3, 1),
            "reloaded each {reload} s"
        );
    }
}

#[test]
fn retry_after_begins_anew() {
    let rules = UnitRules {
        retry_after: Some(Duration::from_secs(6 * 3600)),
        ..UnitRules::default()
    };
    let (attempts, given_up) = a_day(&rules, 0.0, 600);
    assert_eq!((attempts.len(), given_up.len()), (12, 4));
}

#[test]
fn cooldowns_double_up_to_a_quarter_of_an_hour() {
    let secs = |n| cooldown(n, 0.0).as_secs();
    assert_eq!(
        [1, 2, 3, 4, 5, 6, 99].map(secs),
        [60, 120, 240, 480, 900, 900, 900]
    );
    assert_eq!(cooldown(1, 1.0).as_secs(), 66);
    assert_eq!(cooldown(1, -7.0).as_secs(), 54);
    assert_eq!(cooldown(1, f64::NAN).as_secs(), 60);
    assert_eq!(secs(u32::MAX), 900);
}

#[test]
fn the_host_has_a_budget_over_all_units() {
    let rules = UnitRules::default();
    let mut host = HostState::default();
    let mut gone = 0;
    for s in 0..1200 {
        let now = At::from_secs(s);
        let mut fresh = UnitState::default();
        if let Decision::Go(_) =
            decide(&rules, &mut fresh, &mut host, &asker(), &failed(), now, 0.0)
        {
            gone += 1;
        }
    }
    assert_eq!(gone, 2 * BUDGET);
}

#[test]
fn recovery_is_verified_and_clears_giving_up() {
    let rules = UnitRules::default();
    let (mut state, mut host) = (UnitState::default(), HostState::default());
    let at = At::from_secs;
    decide(
        &rules,
        &mut state,
        &mut host,
        &asker(),
        &failed(),
        at(0),
        0.0,
    );
    assert!(!state.counts(at(1)), "working");
    finished(&rules, &mut state, "done", at(3), 0.0);
    assert!(
        !state.counts(at(12)) && state.counts(at(13)),
        "10 s of settling"
    );
    assert_eq!(
        recovered(&mut state, at(20)),
        (Some(Duration::from_secs(20)), false)
    );
    assert_eq!(state.phase, Phase::Idle);
    assert_eq!(
        state.recent(at(20)),
        1,
        "attempts are not forgotten: a unit that fails again and again is given up"
    );
    assert_eq!(recovered(&mut state, at(30)), (None, false));
    state.gave_up = Some(at(40));
    assert_eq!(recovered(&mut state, at(50)), (None, true));
}

#[test]
fn a_refusal_is_told_once() {
    let rules = UnitRules::default();
    let (mut state, mut host) = (UnitState::default(), HostState::default());
    let stopped = facts("inactive", "dead", "success");
    let mut told = Vec::new();
    for s in 0..10 {
        let f = if s == 5 {
            facts("activating", "", "")
        } else {
            stopped.clone()
        };
        if let Decision::Refused { again, .. } = decide(
            &rules,
            &mut state,
            &mut host,
            &asker(),
            &f,
            At::from_secs(s),
            0.0,
        ) {
            told.push(!again);
        }
    }
    assert_eq!(
        told,
        [
            true, false, false, false, false, true, true, false, false, false
        ]
    );
}

#[test]
fn an_operator_resets() {
    let rules = UnitRules::default();
    let now = At::from_secs(100);
    let mut state = UnitState {
        attempts: vec![now; 3],
        gave_up: Some(now),
        allowed_after: Some(now.plus(COOLDOWN)),
        ..UnitState::default()
    };
    assert!(reset(&mut state));
    assert!(!reset(&mut state));
    let d = decide(
        &rules,
        &mut state,
        &mut HostState::default(),
        &asker(),
        &failed(),
        now,
        0.0,
    );
    assert_eq!(reason(&d), None);
}

#[test]
fn escalation_goes_step_by_step() {
    let rules = UnitRules {
        escalation: vec![
            Step::Unit,
            Step::Dependants(vec!["b.service".parse().unwrap()]),
            Step::Command("mail".into()),
        ],
        max_attempts: 4,
        ..UnitRules::default()
    };
    assert_eq!(rules.check(), Ok(()));
    let (mut state, mut host) = (UnitState::default(), HostState::default());
    let steps: Vec<Step> = (0..4)
        .filter_map(|n| {
            state.phase = Phase::Idle;
            match decide(
                &rules,
                &mut state,
                &mut host,
                &asker(),
                &failed(),
                At::from_secs(n * 700),
                0.0,
            ) {
                Decision::Go(a) => Some(a.step),
                Decision::Refused { .. } => None,
            }
        })
        .collect();
    assert_eq!(
        steps,
        [
            rules.escalation[0].clone(),
            rules.escalation[1].clone(),
            rules.escalation[2].clone(),
            rules.escalation[2].clone()
        ]
    );
    for bad in [
        UnitRules {
            max_attempts: 0,
            ..UnitRules::default()
        },
        UnitRules {
            max_attempts: 21,
            ..UnitRules::default()
        },
        UnitRules {
            escalation: vec![],
            ..UnitRules::default()
        },
        UnitRules {
            escalation: vec![Step::Reboot],
            ..UnitRules::default()
        },
        UnitRules {
            settle: Duration::from_secs(3601),
            ..UnitRules::default()
        },
    ] {
        assert!(bad.check().is_err(), "{bad:?}");
    }
}

#[test]
fn a_jump_of_the_clock_neither_ends_nor_stretches_a_cooldown_beyond_its_limit() {
    let now = At::from_secs(1000);
    let mut state = UnitState {
        attempts: vec![At(i64::MAX); 100],
        allowed_after: Some(At(i64::MAX)),
        gave_up: Some(At(i64::MAX)),
        phase: Phase::Settling(At(i64::MAX)),
        ..UnitState::default()
    };
    state.clamp(now);
    assert!(state.attempts.len() <= 20 && state.attempts.iter().all(|a| *a <= now));
    assert!(state.allowed_after.unwrap() <= now.plus(COOLDOWN_MAX));
    let working = UnitState {
        phase: Phase::Working,
        ..UnitState::default()
    };
    assert_eq!(
        working.restored(&UnitRules::default(), now).phase,
        Phase::Settling(now.plus(Duration::from_secs(10)))
    );
}

proptest! {
    /// Whatever happens, no unit has more attempts in an hour than it may, and the host no more than its budget.
    #[test]
    fn limits_hold(events in proptest::collection::vec((0u16..400, 0u8..6, 0usize..3), 0..300), max in 1u32..5, jitter in -1.0f64..1.0) {
        let rules = UnitRules { max_attempts: max, ..UnitRules::default() };
        let mut units = vec![UnitState::default(); 3];
        let mut host = HostState::default();
        let mut now = At::from_secs(0);
        let mut log: Vec<(At, usize)> = Vec::new();
        for (wait, what, unit) in events {
            now = now.plus(Duration::from_secs(wait.into()));
            let state = &mut units[unit];
            match what {
                0 => finished(&rules, state, "done", now, jitter),
                1 => { state.counts(now); }
                2 => { let s = serde_json::to_string(state).unwrap(); *state = serde_json::from_str::<UnitState>(&s).unwrap().restored(&rules, now); }
                _ => {
                    if let Decision::Go(_) = decide(&rules, state, &mut host, &asker(), &failed(), now, jitter) {
                        log.push((now, unit));
                        let hour = log.iter().filter(|(at, u)| *u == unit && now.since(*at) < ATTEMPTS_WINDOW).count();
                        prop_assert!(hour <= max as usize);
                        let all = log.iter().filter(|(at, _)| now.since(*at) < BUDGET_WINDOW).count();
                        prop_assert!(all <= BUDGET);
                    }
                }
            }
        }
    }
}

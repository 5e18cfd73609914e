//! The judge against tables, against a naive model, and against random histories, with a fake clock.

use super::bands::{Band, Side};
use super::*;
use crate::outcome::{Failure, Quantity};
use keepwatch_model::check::{Overlay, Reason};
use proptest::prelude::*;

const MINUTE: Duration = Duration::from_secs(60);

/// A check that is run once a minute, with its history of actions.
struct Subject {
    rules: Rules,
    state: JudgeState,
    now: At,
    actions: Vec<Action>,
}

impl Subject {
    fn new(rules: Rules) -> Self {
        let now = At::from_secs(1_000_000);
        Self {
            rules,
            state: JudgeState::new(now),
            now,
            actions: Vec::new(),
        }
    }

    fn input(&mut self, input: Input<'_>) {
        let (state, actions) = step(&self.rules, self.state.clone(), input, self.now);
        self.state = state;
        self.actions.extend(actions);
    }

    /// `s` success, `w` success with a warning, `f` failure, `.` a minute in which nothing runs.
    fn play(&mut self, script: &str) -> &mut Self {
        for c in script.chars().filter(|c| *c != ' ') {
            self.now = self.now.plus(MINUTE);
            match c {
                's' => self.input(Input::Run(&Outcome::success())),
                'w' => self.input(Input::Run(Outcome::success().warn("slow"))),
                'f' => self.input(Input::Run(&Outcome::failure(Reason::Connect, "refused"))),
                '.' => self.input(Input::Tick),
                other => panic!("{other}"),
            }
        }
        self
    }

    fn overlays(&mut self, maintenance: bool, suppressed: bool, disabled: bool) {
        self.input(Input::Overlays(Overlays {
            maintenance,
            suppressed,
            disabled,
        }));
    }

    fn count(&self, what: impl Fn(&Action) -> bool) -> usize {
        self.actions.iter().filter(|a| what(a)).count()
    }
    fn opened(&self) -> usize {
        self.count(|a| matches!(a, Action::IncidentOpened(_)))
    }
    fn closed(&self) -> usize {
        self.count(|a| matches!(a, Action::IncidentClosed { .. }))
    }
    fn restarts_wanted(&self) -> usize {
        self.count(|a| matches!(a, Action::RestartWanted { .. }))
    }
}

fn rules(f: u32, s: u32) -> Rules {
    Rules {
        failure_threshold: f,
        success_threshold: s,
        ..Rules::new(MINUTE)
    }
}

fn within(failures: u32, of: u32) -> Rules {
    Rules {
        failure_threshold: 64,
        fail_within: Some(FailWithin { failures, of }),
        ..rules(3, 2)
    }
}

/// The first letters of the states after each run: u unknown, h healthy, d degraded, D down.
fn states(rules: Rules, script: &str) -> String {
    let mut subject = Subject::new(rules);
    script
        .chars()
        .filter(|c| *c != ' ')
        .map(|c| {
            subject.play(&c.to_string());
            match subject.state.state {
                State::Unknown => 'u',
                State::Healthy => 'h',
                State::Degraded => 'd',
                State::Unhealthy => 'D',
            }
        })
        .collect()
}

#[test]
fn states_by_table() {
    for (what, rules, script, expected) in [
        ("one success is believed", rules(3, 2), "s", "h"),
        ("from unknown three failures", rules(3, 2), "fff", "uuD"),
        (
            "a success resets the failures",
            rules(3, 2),
            "sffsffsff",
            "hhhhhhhhh",
        ),
        ("three in a row", rules(3, 2), "sfff", "hhhD"),
        ("back after two", rules(3, 2), "fffss", "uuDDh"),
        (
            "a failure resets the successes",
            rules(3, 2),
            "fffsfsfss",
            "uuDDDDDDh",
        ),
        ("back into degraded", rules(3, 2), "fffsw", "uuDDd"),
        ("warnings count as successes", rules(3, 2), "fffww", "uuDDd"),
        ("unknown to degraded", rules(3, 2), "w", "d"),
        ("degraded is debounced", rules(3, 2), "swsww", "hhhhd"),
        ("and so is its end", rules(3, 2), "wswss", "ddddh"),
        ("degraded can fail", rules(3, 2), "wfff", "dddD"),
        ("thresholds of one", rules(1, 1), "fsfsw", "DhDhd"),
        (
            "3 of 5 catches every other",
            within(3, 5),
            "sfsfsf",
            "hhhhhD",
        ),
        ("2 of 5 do not", within(3, 5), "sfssfssf", "hhhhhhhh"),
        (
            "the window begins anew after recovery",
            within(3, 5),
            "fsfsfssf",
            "uhhhDDhh",
        ),
        ("window larger than history", within(2, 64), "ff", "uD"),
        (
            "both forms at once",
            Rules {
                failure_threshold: 2,
                ..within(3, 5)
            },
            "sff",
            "hhD",
        ),
        (
            "5 intervals without a run are not stale",
            rules(3, 2),
            "s.....",
            "hhhhhh",
        ),
        ("more are", rules(3, 2), "s......", "hhhhhhu"),
        (
            "stale counters are forgotten",
            rules(3, 2),
            "sff......ffs",
            "hhhhhhhhuuuh",
        ),
        (
            "stale outage is unknown too",
            rules(3, 2),
            "fff......fff",
            "uuDDDDDDuuuD",
        ),
    ] {
        assert_eq!(states(rules, script), expected, "{what}: {script}");
    }
}

#[test]
fn limits_make_a_check_degraded_and_unhealthy() {
    let mut s = Subject::new(Rules {
        bands: vec![Band {
            quantity: Quantity::DiskUsedRatio,
            side: Side::Above,
            warn: Some(0.8),
            clear: Some(0.75),
            fail: Some(0.95),
        }],
        ..rules(2, 2)
    });
    for (used, expected) in [
        (0.5, State::Healthy),
        (0.81, State::Healthy),
        (0.81, State::Degraded),
        (0.78, State::Degraded),
        (0.78, State::Degraded),
        (0.74, State::Degraded),
        (0.74, State::Healthy),
        (0.99, State::Healthy),
        (0.99, State::Unhealthy),
    ] {
        let mut o = Outcome::success();
        o.measure(Quantity::DiskUsedRatio, used);
        s.now = s.now.plus(MINUTE);
        s.input(Input::Run(&o));
        assert_eq!(s.state.state, expected, "{used}");
    }
    assert_eq!(s.state.reason(), Some(Reason::Threshold));
}

#[test]
fn an_incident_is_opened_once_and_closed_once() {
    let mut s = Subject::new(rules(3, 2));
    s.play("sffffffsfff");
    assert_eq!((s.opened(), s.closed()), (1, 0));
    // A restart of the daemon in between changes nothing.
    let json = serde_json::to_string(&s.state).unwrap();
    s.state = serde_json::from_str::<JudgeState>(&json)
        .unwrap()
        .restored(s.now);
    s.play("ff");
    assert_eq!((s.opened(), s.closed()), (1, 0));
    // Nor does a time in which nothing is known.
    s.play(".......fff");
    assert_eq!((s.opened(), s.closed()), (1, 0));
    s.play("ss");
    assert_eq!((s.opened(), s.closed()), (1, 1));
    let Some(Action::IncidentOpened(i)) = s
        .actions
        .iter()
        .find(|a| matches!(a, Action::IncidentOpened(_)))
    else {
        panic!()
    };
    assert_eq!(i.cause, Cause::Down);
    assert_eq!(i.failure.as_ref().unwrap().text, "refused");
}

#[test]
fn overlays_stop_opening_never_closing() {
    // Down before the window: not told again when it ends.
    let mut s = Subject::new(rules(3, 2));
    s.play("fff");
    s.overlays(true, false, false);
    s.play("fff");
    s.overlays(false, false, false);
    s.play("fff");
    assert_eq!((s.opened(), s.closed()), (1, 0));
    // Recovered inside the window: told inside the window.
    s.overlays(true, false, false);
    s.play("ss");
    assert_eq!((s.opened(), s.closed()), (1, 1));
    // Down and up inside the window: never told.
    s.play("fffss");
    s.overlays(false, false, false);
    s.play("ss");
    assert_eq!((s.opened(), s.closed()), (1, 1));
    // Down inside, still down at the end: told at the end, with the time it began.
    s.overlays(false, true, false);
    s.play("fff");
    let down = s.now;
    s.play("fff");
    assert_eq!((s.opened(), s.closed()), (1, 1));
    s.overlays(false, false, false);
    assert_eq!((s.opened(), s.closed()), (2, 1));
    assert_eq!(s.state.incident.as_ref().unwrap().since, down);
    // Switched off: closed.
    s.overlays(false, false, true);
    assert_eq!((s.opened(), s.closed()), (2, 2));
    assert!(matches!(
        s.actions.last(),
        Some(Action::IncidentClosed {
            why: Closed::Disabled,
            ..
        })
    ));
    assert_eq!(s.state.overlays.shown(), Some(Overlay::Disabled));
}

#[test]
fn flapping_is_one_incident_and_needs_more_successes_each_time() {
    let mut s = Subject::new(rules(1, 2));
    s.play("s f ss f ss");
    assert!(s.state.flapping.is_some(), "4 changes in an hour");
    let before = (s.opened(), s.closed());
    assert_eq!(before, (2, 1), "the second incident stands for the rest");
    s.play("f ss");
    assert_eq!(s.state.state, State::Unhealthy, "4, not 2");
    s.play("ss");
    assert_eq!(s.state.state, State::Healthy);
    s.play("f sssssss");
    assert_eq!(s.state.state, State::Unhealthy, "8");
    s.play("s f sssssss");
    assert_eq!(s.state.state, State::Unhealthy, "never more than 8");
    s.play("s");
    assert_eq!(s.state.state, State::Healthy);
    assert_eq!((s.opened(), s.closed()), before);
    // An hour later it is over, and so is the incident.
    s.play(&"s".repeat(60));
    assert!(s.state.flapping.is_none());
    assert_eq!((s.opened(), s.closed()), (2, 2));
}

#[test]
fn one_failure_in_four_alerts_nobody_and_restarts_nothing() {
    let mut s = Subject::new(rules(3, 2));
    s.play(&"fsss".repeat(360));
    assert_eq!((s.opened(), s.restarts_wanted()), (0, 0));
    // One in two, by the window: one incident, and no more however long it lasts.
    let mut s = Subject::new(within(3, 5));
    s.play(&"fs".repeat(720));
    assert_eq!((s.opened(), s.closed()), (1, 0));
}

#[test]
fn changes_behind_an_overlay_are_no_flapping() {
    let mut s = Subject::new(rules(1, 1));
    s.overlays(true, false, false);
    s.play(&"fs".repeat(20));
    assert!(s.state.flapping.is_none());
    s.overlays(false, false, false);
    s.play("s");
    assert_eq!(s.opened(), 0);
}

#[test]
fn a_restart_is_wanted_while_it_is_down_and_fails() {
    let mut s = Subject::new(rules(3, 2));
    s.play("sff");
    assert_eq!(s.restarts_wanted(), 0);
    s.play("f");
    assert_eq!(
        s.actions.last(),
        Some(&Action::IncidentOpened(s.state.incident.clone().unwrap()))
    );
    assert_eq!(s.count(|a| *a == Action::RestartWanted { edge: true }), 1);
    s.play("f");
    assert_eq!(s.count(|a| *a == Action::RestartWanted { edge: false }), 1);
    s.play("s.");
    assert_eq!(s.restarts_wanted(), 2, "not after a success");
    assert_eq!(s.count(|a| *a == Action::FirstFailure), 1);
}

#[test]
fn runs_that_settle_do_not_count() {
    let mut s = Subject::new(rules(3, 2));
    s.play("fffs");
    s.input(Input::Restarted);
    for o in [Outcome::success(), Outcome::success(), Outcome::success()] {
        s.input(Input::Uncounted(&o));
    }
    assert_eq!(s.state.state, State::Unhealthy);
    assert_eq!(s.state.last_result, Some(RunResult::Success));
    s.play("s");
    assert_eq!(
        s.state.state,
        State::Unhealthy,
        "the success before the restart is forgotten"
    );
    s.play("s");
    assert_eq!(s.state.state, State::Healthy);
    s.input(Input::Uncounted(&Outcome::failure(Reason::Connect, "x")));
    assert_eq!(s.state.failures, 0);
}

#[test]
fn undecided_is_when_results_and_state_disagree() {
    let mut s = Subject::new(rules(3, 2));
    for (script, expected) in [
        ("s", false),
        ("f", true),
        ("f", true),
        ("f", false),
        ("f", false),
        ("s", true),
        ("s", false),
    ] {
        s.play(script);
        assert_eq!(s.state.is_undecided(), expected);
    }
}

#[test]
fn a_jump_of_the_clock_makes_everything_unknown_and_nothing_future() {
    let mut s = Subject::new(rules(1, 1));
    s.play("sfsfsf");
    s.now = At::from_secs(1000);
    s.input(Input::Realign);
    assert_eq!(s.state.state, State::Unknown);
    assert!(s.state.changes.iter().all(|at| *at <= s.now));
    assert!(s.state.incident.is_some(), "what was told stays told");
    s.play("s");
    assert_eq!(s.state.state, State::Healthy);
}

#[test]
fn a_stored_state_is_brought_into_bounds() {
    let now = At::from_secs(100);
    let wild = JudgeState {
        since: At(i64::MAX),
        last_run: Some(At(i64::MAX)),
        recent_len: u32::MAX,
        changes: vec![At(i64::MAX); 10_000],
        last_warnings: vec!["\x1b[31m".repeat(10_000); 100],
        last_failure: Some(Failure {
            reason: Reason::Status,
            text: "x\n".repeat(100_000),
        }),
        ..JudgeState::default()
    }
    .restored(now);
    assert!(serde_json::to_string(&wild).unwrap().len() < 5000);
    assert_eq!((wild.since, wild.last_run), (now, Some(now)));
    let (state, _) = step(
        &within(2, 64),
        wild,
        Input::Run(&Outcome::failure(Reason::Dns, "x")),
        now,
    );
    assert_eq!(state.recent_len, 64);
    // An older or newer version: missing fields are defaults, unknown ones ignored.
    let old: JudgeState = serde_json::from_str(r#"{"state":"unhealthy","colour":"red"}"#).unwrap();
    assert_eq!(old.state, State::Unhealthy);
}

#[test]
fn rules_without_sense_are_refused() {
    for bad in [
        rules(0, 1),
        rules(1, 0),
        rules(65, 1),
        within(0, 5),
        within(6, 5),
        within(1, 65),
    ] {
        assert!(bad.check().is_err(), "{bad:?}");
    }
    assert_eq!(within(5, 5).check(), Ok(()));
}

/// What may happen to a check, for random histories.
#[derive(Clone, Debug)]
enum Event {
    Run(u8),
    Settle(bool),
    Overlays(u8),
    Wait(u16),
    Realign(i64),
    Store,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    proptest::collection::vec(
        prop_oneof![
            12 => (0u8..3).prop_map(Event::Run),
            1 => any::<bool>().prop_map(Event::Settle),
            1 => (0u8..8).prop_map(Event::Overlays),
            1 => (0u16..2000).prop_map(Event::Wait),
            1 => (-10_000i64..10_000).prop_map(Event::Realign),
            1 => Just(Event::Store),
        ],
        0..120,
    )
}

fn any_rules() -> impl Strategy<Value = Rules> {
    (1u32..5, 1u32..5, proptest::option::of((1u32..5, 0u32..8))).prop_map(|(f, s, w)| Rules {
        fail_within: w.map(|(failures, more)| FailWithin {
            failures,
            of: failures + more,
        }),
        ..rules(f, s)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever happens: incidents open and close in turn, restarts are wanted only by what is down, nothing grows, storing
    /// changes nothing.
    #[test]
    fn random_histories_keep_the_rules(rules in any_rules(), events in events()) {
        let mut s = Subject::new(rules);
        for event in events {
            s.now = s.now.plus(Duration::from_secs(7));
            let had = s.state.incident.is_some();
            let before = s.actions.len();
            match event {
                Event::Run(0) => s.input(Input::Run(&Outcome::success())),
                Event::Run(1) => s.input(Input::Run(Outcome::success().warn("w"))),
                Event::Run(_) => s.input(Input::Run(&Outcome::failure(Reason::Timeout, "t"))),
                Event::Settle(true) => { s.input(Input::Restarted); s.input(Input::Uncounted(&Outcome::success())) }
                Event::Settle(false) => s.input(Input::Uncounted(&Outcome::failure(Reason::Timeout, "t"))),
                Event::Overlays(bits) => s.overlays(bits & 1 > 0, bits & 2 > 0, bits & 4 > 0),
                Event::Wait(secs) => { s.now = s.now.plus(Duration::from_secs(secs.into())); s.input(Input::Tick) }
                Event::Realign(by) => { s.now = At(s.now.0 + by * 1000); s.input(Input::Realign) }
                Event::Store => {
                    let json = serde_json::to_string(&s.state).unwrap();
                    let back: JudgeState = serde_json::from_str(&json).unwrap();
                    prop_assert_eq!(&back, &s.state);
                    prop_assert_eq!(back.restored(s.now), s.state.clone());
                }
            }
            let fresh = &s.actions[before..];
            let mut open = had;
            for a in fresh {
                match a {
                    Action::IncidentOpened(_) => { prop_assert!(!open); open = true; }
                    Action::IncidentClosed { .. } => { prop_assert!(open); open = false; }
                    Action::RestartWanted { .. } => prop_assert_eq!(s.state.state, State::Unhealthy),
                    Action::Transition { from, to } => prop_assert_ne!(from, to),
                    _ => {}
                }
            }
            prop_assert_eq!(open, s.state.incident.is_some());
            if s.state.overlays.any() {
                let opened = fresh.iter().any(|a| matches!(a, Action::IncidentOpened(_)));
                prop_assert!(!opened);
            }
            prop_assert!(s.state.incident.is_none() || !s.state.overlays.disabled);
            prop_assert!(s.state.changes.len() <= CHANGES_MAX);
            prop_assert!(serde_json::to_string(&s.state).unwrap().len() < 2000);
        }
    }

    /// Without flapping and windows, the state is what a naive reading of the whole history says.
    #[test]
    fn agrees_with_a_naive_model(f in 1u32..5, n in 1u32..4, runs in proptest::collection::vec(any::<bool>(), 0..200)) {
        let mut s = Subject::new(rules(f, n));
        s.overlays(true, false, false); // no flapping behind an overlay
        let mut model = 'u';
        for (i, ok) in runs.iter().enumerate() {
            s.play(if *ok { "s" } else { "f" });
            let tail = |want: bool| runs[..=i].iter().rev().take_while(|r| **r == want).count() as u32;
            model = match model {
                _ if tail(false) >= f => 'D',
                'u' if *ok => 'h',
                'D' if tail(true) >= n => 'h',
                m => m,
            };
            let state = match s.state.state { State::Unknown => 'u', State::Unhealthy => 'D', _ => 'h' };
            prop_assert_eq!(state, model);
        }
    }
}

//! The plan of messages with a made-up clock: tables for waits, cooldowns, repeats and escalation, and a property over random
//! histories with a sink that fails: nothing that should be told is lost, nothing is told twice, state survives restarts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use keepwatch_model::check::Severity;
use keepwatch_notify::alert::Alert;
use keepwatch_notify::limits::ALERTS;
use keepwatch_notify::plan::{Failed, Kind, Message, Next, Plan, Rules, State};
use keepwatch_notify::time::At;
use proptest::prelude::*;

fn s(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn at(secs: i64) -> At {
    At(secs * 1000)
}

fn alert(check: &str, severity: Severity, starts: i64) -> Alert {
    Alert::new("Down", severity, at(starts))
        .label("check", check)
        .summary(&format!("{check} is down"))
}

fn warn(check: &str) -> Alert {
    alert(check, Severity::Warning, 1000)
}

fn one(rules: Rules) -> Plan {
    Plan::new(BTreeMap::from([("a".to_owned(), rules)]), State::default())
}

fn two(first: Rules, second: Rules) -> Plan {
    Plan::new(
        BTreeMap::from([("a".to_owned(), first), ("b".to_owned(), second)]),
        State::default(),
    )
}

fn send(plan: &mut Plan, channel: &str, now: At) -> Message {
    match plan.next(channel, now) {
        Next::Send(m) => *m,
        other => panic!("at {now:?}: {other:?}"),
    }
}

fn deliver(plan: &mut Plan, channel: &str, now: At) -> Message {
    let m = send(plan, channel, now);
    plan.delivered(&m, now);
    m
}

fn said(m: &Message) -> Vec<String> {
    m.lines
        .iter()
        .map(|l| {
            let mark = match (l.ended, l.new) {
                (Some(_), _) => "-",
                (None, true) => "+",
                (None, false) => "=",
            };
            format!("{mark}{}", l.alert.labels()["check"])
        })
        .collect()
}

#[test]
fn what_breaks_together_is_told_together_and_its_end_too() {
    let mut p = one(Rules::default());
    assert_eq!(p.next("a", at(1000)), Next::Idle);
    assert!(p.observe(at(1000), &[warn("x")]));
    assert_eq!(p.next("a", at(1000)), Next::Wait(at(1010)));
    p.observe(at(1005), &[warn("x"), warn("y")]);
    let m = deliver(&mut p, "a", at(1010));
    assert_eq!(
        (m.kind, said(&m)),
        (Kind::Firing, vec!["+x".into(), "+y".into()])
    );
    assert!(!p.observe(at(1011), &[warn("x"), warn("y")]), "no news");
    // The end of one, with what goes on; not before the interval.
    p.observe(at(1020), &[warn("y")]);
    assert_eq!(p.next("a", at(1030)), Next::Wait(at(1070)));
    let m = deliver(&mut p, "a", at(1070));
    assert_eq!(
        (m.kind, said(&m)),
        (Kind::Resolved, vec!["-x".into(), "=y".into()])
    );
    p.observe(at(1071), &[]);
    let m = deliver(&mut p, "a", at(1130));
    assert_eq!(
        (m.kind, said(&m), m.firing()),
        (Kind::Resolved, vec!["-y".into()], 0)
    );
    assert_eq!(p.next("a", at(1131)), Next::Idle);
    // Everything is forgotten in time.
    p.observe(at(9000), &[]);
    assert!(p.state().channels["a"].groups.is_empty());
}

#[test]
fn a_blip_is_not_told() {
    let mut p = one(Rules::default());
    p.observe(at(1000), &[warn("x")]);
    p.observe(at(1005), &[]);
    assert_eq!(p.next("a", at(2000)), Next::Idle);
    // One that was told and blinks does not speak either.
    p.observe(at(3000), &[warn("x")]);
    deliver(&mut p, "a", at(3010));
    p.observe(at(3015), &[]);
    p.observe(at(3018), &[warn("x")]);
    assert_eq!(p.next("a", at(3100)), Next::Wait(at(3010 + 4 * 3600)));
}

#[test]
fn cooldown_and_repeat() {
    let mut p = one(Rules::default());
    p.observe(at(1000), &[warn("x")]);
    deliver(&mut p, "a", at(1010));
    p.observe(at(1100), &[]);
    assert_eq!(deliver(&mut p, "a", at(1110)).kind, Kind::Resolved);
    // Again, within five minutes of being told.
    p.observe(at(1120), &[warn("x")]);
    assert_eq!(p.next("a", at(1200)), Next::Wait(at(1310)));
    let m = deliver(&mut p, "a", at(1310));
    assert_eq!(said(&m), ["+x"]);
    // Four hours later it is said again, and again four hours after that.
    let hours = 4 * 3600;
    assert_eq!(p.next("a", at(1311)), Next::Wait(at(1310 + hours)));
    assert_eq!(deliver(&mut p, "a", at(1310 + hours)).kind, Kind::Repeat);
    assert_eq!(
        p.next("a", at(1311 + hours)),
        Next::Wait(at(1310 + 2 * hours))
    );
    // Critical ones after an hour.
    let mut p = one(Rules::default());
    p.observe(at(0), &[alert("x", Severity::Critical, 0)]);
    deliver(&mut p, "a", at(10));
    assert_eq!(p.next("a", at(11)), Next::Wait(at(3610)));
    // Fired and ended again within the cooldown, never due: not told.
    let mut p = one(Rules::default());
    p.observe(at(0), &[warn("x")]);
    deliver(&mut p, "a", at(10));
    p.observe(at(20), &[]);
    deliver(&mut p, "a", at(70));
    p.observe(at(80), &[warn("x")]);
    p.observe(at(90), &[]);
    assert_eq!(p.next("a", at(5000)), Next::Idle);
}

#[test]
fn severities_and_silence_about_ends() {
    let rules = Rules {
        min_severity: Severity::Critical,
        resolved: false,
        ..Rules::default()
    };
    let mut p = two(
        rules,
        Rules {
            min_severity: Severity::Info,
            ..Rules::default()
        },
    );
    p.observe(at(0), &[warn("w"), alert("i", Severity::Info, 0)]);
    assert_eq!(p.next("a", at(100)), Next::Idle);
    assert_eq!(deliver(&mut p, "b", at(100)).lines.len(), 2);
    p.observe(at(200), &[warn("w"), alert("c", Severity::Critical, 0)]);
    let m = deliver(&mut p, "a", at(210));
    assert_eq!(
        (said(&m), m.severity()),
        (vec!["+c".into()], Severity::Critical)
    );
    p.observe(at(300), &[]);
    assert_eq!(p.next("a", at(9999)), Next::Idle);
}

#[test]
fn groups_by_labels() {
    let mut p = one(Rules {
        group_by: vec!["check".into()],
        ..Rules::default()
    });
    p.observe(
        at(0),
        &[warn("x"), warn("y"), alert("z", Severity::Critical, 0)],
    );
    let order: Vec<_> = (0..3)
        .map(|_| said(&deliver(&mut p, "a", at(10))).join(","))
        .collect();
    assert_eq!(order, ["+z", "+x", "+y"], "critical first");
}

#[test]
fn a_sink_that_is_down_is_asked_less_and_less_and_told_how_things_stand_then() {
    let mut p = one(Rules {
        deadline: s(100_000),
        ..Rules::default()
    });
    p.observe(at(0), &[warn("x"), warn("y")]);
    let mut now = at(10);
    let mut waits = Vec::new();
    for _ in 0..10 {
        let m = send(&mut p, "a", now);
        assert!(!p.failed(&m, now, Failed::Sink(None), 0.5));
        let Next::Wait(next) = p.next("a", now) else {
            panic!()
        };
        waits.push(next.since(now).as_secs());
        now = next;
    }
    assert_eq!(waits, [5, 10, 20, 40, 80, 160, 320, 600, 600, 600]);
    assert_eq!(p.waiting("a", now), 1);
    // Meanwhile one ended and another came: one message says it all, with what was missed.
    p.observe(now, &[warn("y"), warn("z")]);
    let m = deliver(&mut p, "a", now.plus(s(10)));
    assert_eq!(said(&m), ["+y", "+z", "-x"]);
    assert_eq!(
        (
            p.state().channels["a"].tally.failures,
            p.state().channels["a"].tally.delivered
        ),
        (10, 1)
    );
    assert_eq!(p.state().channels["a"].attempts, 0);
    // What the sink asks for is done, within reason.
    p.observe(now.plus(s(20)), &[warn("y")]);
    let later = now.plus(s(200));
    let m = send(&mut p, "a", later);
    p.failed(&m, later, Failed::Sink(Some(s(90))), 0.5);
    assert_eq!(p.next("a", later), Next::Wait(later.plus(s(90))));
    p.failed(&m, later, Failed::Sink(Some(s(1_000_000))), f64::NAN);
    assert_eq!(p.next("a", later), Next::Wait(later.plus(s(3600))));
}

#[test]
fn what_changes_while_a_message_is_under_way_is_still_told() {
    let mut p = one(Rules::default());
    p.observe(at(0), &[warn("x")]);
    let m = send(&mut p, "a", at(10));
    p.observe(at(11), &[warn("y")]);
    p.delivered(&m, at(12));
    let m = deliver(&mut p, "a", at(72));
    assert_eq!(said(&m), ["+y", "-x"]);
    assert_eq!(p.next("a", at(73)), Next::Wait(at(72 + 4 * 3600)));
}

#[test]
fn a_message_that_is_refused_hinders_no_other() {
    let mut p = one(Rules {
        group_by: vec!["check".into()],
        ..Rules::default()
    });
    p.observe(at(0), &[warn("bad"), warn("good")]);
    let m = send(&mut p, "a", at(10));
    assert_eq!(said(&m), ["+bad"]);
    assert!(!p.failed(&m, at(10), Failed::Message, 0.5));
    assert_eq!(said(&deliver(&mut p, "a", at(10))), ["+good"]);
    assert_eq!(p.next("a", at(11)), Next::Wait(at(15)));
    // Given up when its time is over; then it is quiet until its repeat.
    assert!(!p.failed(&m, at(3000), Failed::Message, 0.5));
    let m = send(&mut p, "a", at(3700));
    assert!(p.failed(&m, at(3700), Failed::Message, 0.5));
    assert_eq!(p.state().channels["a"].tally.undeliverable, 1);
    assert!(matches!(p.next("a", at(3710)), Next::Wait(_)));
}

#[test]
fn what_cannot_be_delivered_goes_to_the_fallback_once() {
    let to = |name: &str| Rules {
        fallback: Some(name.into()),
        deadline: s(600),
        ..Rules::default()
    };
    // Each is the other's fallback, and both are down: no ping-pong.
    let mut p = two(
        to("b"),
        Rules {
            min_severity: Severity::Critical,
            ..to("a")
        },
    );
    p.observe(at(0), &[warn("x")]);
    assert_eq!(p.next("b", at(100)), Next::Idle);
    let m = send(&mut p, "a", at(10));
    assert!(!p.failed(&m, at(10), Failed::Sink(None), 0.5));
    let m = send(&mut p, "a", at(700));
    assert!(p.failed(&m, at(700), Failed::Sink(None), 0.5));
    let m = send(&mut p, "b", at(700));
    assert_eq!(m.kind, Kind::Notice);
    assert_eq!(
        m.lines[0].alert.summary_text(),
        "a could not deliver: x is down"
    );
    // What is not observed there is not told as over there.
    p.observe(at(701), &[warn("x")]);
    p.failed(&m, at(710), Failed::Sink(None), 0.5);
    let m = send(&mut p, "b", at(1400));
    assert!(p.failed(&m, at(1400), Failed::Sink(None), 0.5));
    assert_eq!(p.next("b", at(9000)), Next::Idle);
    assert_eq!(p.state().channels["a"].groups.len(), 1, "nothing came back");
    // A refused message is handed on at once.
    let mut p = two(to("b"), Rules::default());
    p.observe(at(0), &[alert("c", Severity::Critical, 0)]);
    let m = send(&mut p, "a", at(10));
    assert!(p.failed(&m, at(10), Failed::Message, 0.5));
    assert_eq!(deliver(&mut p, "b", at(10)).lines.len(), 1);
}

#[test]
fn notices_are_told_once() {
    let mut p = one(Rules::default());
    p.notice(at(5), &warn("restarted"));
    p.notice(at(5), &warn("restarted"));
    let m = deliver(&mut p, "a", at(5));
    assert_eq!((m.kind, m.lines.len()), (Kind::Notice, 1));
    p.observe(at(6), &[]);
    assert_eq!(p.next("a", at(500)), Next::Idle);
}

#[test]
fn an_hour_holds_so_many_messages_and_more_for_critical_ones() {
    let rules = Rules {
        group_by: vec!["check".into()],
        per_hour: 10,
        wait: s(0),
        ..Rules::default()
    };
    let mut p = one(rules);
    let many: Vec<_> = (0..40)
        .map(|n| {
            alert(
                &format!("c{n}"),
                if n < 20 {
                    Severity::Critical
                } else {
                    Severity::Warning
                },
                0,
            )
        })
        .collect();
    p.observe(at(0), &many);
    let mut sent = Vec::new();
    let mut now = at(0);
    while now < at(3600) {
        match p.next("a", now) {
            Next::Send(m) => {
                p.delivered(&m, now);
                sent.push(m.severity());
                now = now.plus(s(1));
            }
            Next::Wait(next) => {
                assert!(next > now);
                now = next;
            }
            Next::Idle => break,
        }
    }
    // The last one says that further ones are held back, and names the five critical ones that are left.
    assert_eq!(sent.len(), 16, "{sent:?}");
    assert!(sent.iter().all(|s| *s == Severity::Critical));
    let m = deliver(&mut p, "a", at(3700));
    assert_eq!((m.kind, m.firing()), (Kind::Summary, 40));
    assert!(
        m.note
            .starts_with("20 messages were left out since 1970-01-01 00:00"),
        "{}",
        m.note
    );
    assert_eq!(m.lines.iter().filter(|l| l.new).count(), 20);
    assert_eq!(p.state().channels["a"].held, None);
}

fn by_check(per_hour: u32) -> Rules {
    Rules {
        group_by: vec!["check".into()],
        per_hour,
        wait: s(0),
        ..Rules::default()
    }
}

#[test]
fn that_messages_are_held_back_is_told_and_then_how_many() {
    let mut p = one(by_check(4));
    let many: Vec<_> = (0..7).map(|n| warn(&format!("w{n}"))).collect();
    p.observe(at(0), &many);
    for _ in 0..4 {
        assert_eq!(deliver(&mut p, "a", at(0)).kind, Kind::Firing);
    }
    let m = send(&mut p, "a", at(0));
    assert_eq!((m.kind, m.lines.len()), (Kind::Held, 0));
    assert_eq!(m.severity(), Severity::Warning);
    assert!(
        m.note
            .starts_with("The 4 messages that an hour may hold are used up"),
        "{}",
        m.note
    );
    // It is tried again as others are.
    p.failed(&m, at(0), Failed::Sink(None), 0.5);
    assert_eq!(p.next("a", at(0)), Next::Wait(at(5)));
    assert_eq!(deliver(&mut p, "a", at(5)).kind, Kind::Held);
    // Two of the four must leave the hour.
    assert_eq!(p.next("a", at(6)), Next::Wait(at(3600)));
    // Critical ones that begin: two by themselves, the others together, and not again within five minutes.
    let mut with = many.clone();
    let fires = |p: &mut Plan, with: &mut Vec<Alert>, check: &str, now: i64| {
        with.push(alert(check, Severity::Critical, now));
        p.observe(at(now), with);
    };
    for (n, check) in ["c0", "c1"].into_iter().enumerate() {
        fires(&mut p, &mut with, check, 10 + n as i64);
        let m = deliver(&mut p, "a", at(10 + n as i64));
        assert_eq!(
            (m.kind, said(&m)),
            (Kind::Firing, vec![format!("+{check}")])
        );
    }
    fires(&mut p, &mut with, "c2", 20);
    fires(&mut p, &mut with, "c3", 30);
    assert_eq!(p.next("a", at(30)), Next::Wait(at(305)));
    let m = deliver(&mut p, "a", at(305));
    assert_eq!(
        (m.kind, said(&m)),
        (Kind::Held, vec!["+c2".into(), "+c3".into()])
    );
    assert!(
        m.note.starts_with("3 messages were left out so far"),
        "{}",
        m.note
    );
    fires(&mut p, &mut with, "c4", 310);
    assert_eq!(p.next("a", at(310)), Next::Wait(at(605)));
    assert_eq!(said(&deliver(&mut p, "a", at(605))), ["+c4"]);
    // One ends, untold: it is left out as well. A restart in between forgets nothing.
    with.retain(|a| a.labels()["check"] != "w6" && a.labels()["check"] != "c0");
    p.observe(at(700), &with);
    assert!(matches!(p.next("a", at(700)), Next::Wait(_)));
    let json = serde_json::to_string(p.state()).unwrap();
    let rules = BTreeMap::from([("a".to_owned(), by_check(4))]);
    let mut p = Plan::new(rules, serde_json::from_str(&json).unwrap());
    // c0 and c1 are in the hour until 3611, so two of six are left then, and there is room.
    assert!(matches!(p.next("a", at(3599)), Next::Wait(_)));
    let m = deliver(&mut p, "a", at(3600));
    assert_eq!(m.kind, Kind::Summary);
    assert!(
        m.note
            .starts_with("4 messages were left out since 1970-01-01 00:00 UTC. This is how"),
        "{}",
        m.note
    );
    let said: BTreeSet<String> = said(&m).into_iter().collect();
    for line in ["+w4", "+w5", "-c0", "=w0", "=c1", "=c4"] {
        assert!(said.contains(line), "{line}: {said:?}");
    }
    assert!(!said.iter().any(|l| l.ends_with("w6")), "{said:?}");
    assert!(
        matches!(p.next("a", at(3601)), Next::Wait(_)),
        "all is told"
    );
}

#[test]
fn a_check_that_goes_up_and_down_hides_no_other() {
    let mut p = one(by_check(4));
    let flaps = alert("flaps", Severity::Critical, 0);
    let other = alert("other", Severity::Critical, 5000);
    let mut heard: Vec<(At, Kind, Vec<String>)> = Vec::new();
    let end = at(6 * 3600);
    let mut now = at(0);
    while now < end {
        let mut fires = Vec::new();
        if now.0 / 400_000 % 2 == 0 {
            fires.push(flaps.clone());
        }
        if now >= at(5000) {
            fires.push(other.clone());
        }
        p.observe(now, &fires);
        while let Next::Send(m) = p.next("a", now) {
            p.delivered(&m, now);
            heard.push((now, m.kind, said(&m)));
        }
        now = now.plus(s(20));
    }
    let told = heard
        .iter()
        .find(|(_, _, lines)| lines.contains(&"+other".to_owned()));
    let told = told.expect("the other one is told").0;
    assert!(told.since(at(5000)) <= s(320), "told at {told:?}");
    for (from, ..) in &heard {
        let hour = heard
            .iter()
            .filter(|(at, ..)| *at >= *from && at.since(*from) < s(3600));
        // Four, two more that are critical, one that says so, one that says how many; and what begins, at most once in an hour each.
        assert!(hour.count() <= 4 + 2 + 2 + 2, "from {from:?}: {heard:?}");
    }
    let gaps = heard.windows(2).map(|w| w[1].0.since(w[0].0).as_secs());
    assert!(gaps.max() <= Some(3700), "no silence: {heard:?}");
    for kind in [Kind::Held, Kind::Summary] {
        let n = heard.iter().filter(|(_, k, _)| *k == kind).count();
        assert!(n >= 3, "{kind:?} {n} times: {heard:?}");
    }
}

#[test]
fn the_beginning_that_was_known_first_holds() {
    let mut p = one(Rules::default());
    p.observe(at(1000), &[alert("x", Severity::Warning, 1000)]);
    deliver(&mut p, "a", at(1010));
    // Whoever does not know when it began says now, at each look.
    p.observe(at(5000), &[alert("x", Severity::Warning, 5000)]);
    let m = deliver(&mut p, "a", at(1010 + 4 * 3600));
    assert_eq!(
        (m.kind, m.lines[0].alert.starts()),
        (Kind::Repeat, at(1000))
    );
    // A blink that nobody was told of does not change it, an end does.
    let now = 1020 + 4 * 3600;
    p.observe(at(now), &[]);
    p.observe(at(now + 1), &[alert("x", Severity::Warning, now + 1)]);
    let m = deliver(&mut p, "a", at(now + 4 * 3600));
    assert_eq!(m.lines[0].alert.starts(), at(1000));
    let now = now + 4 * 3600 + 100;
    p.observe(at(now), &[]);
    assert_eq!(deliver(&mut p, "a", at(now + 10)).kind, Kind::Resolved);
    p.observe(at(now + 400), &[alert("x", Severity::Warning, now + 400)]);
    let m = deliver(&mut p, "a", at(now + 410));
    assert_eq!(m.lines[0].alert.starts(), at(now + 400));
}

#[test]
fn memory_is_bounded_and_overflow_counted() {
    let mut p = one(Rules::default());
    let many: Vec<_> = (0..ALERTS + 50).map(|n| warn(&format!("c{n}"))).collect();
    p.observe(at(0), &many);
    let state = &p.state().channels["a"];
    assert_eq!(
        state
            .groups
            .values()
            .map(|g| g.members.len())
            .sum::<usize>(),
        ALERTS
    );
    assert_eq!(state.tally.overflow, 50);
    let m = deliver(&mut p, "a", at(10));
    assert_eq!(m.lines.len(), ALERTS);
}

#[test]
fn a_clock_that_is_set_back_stretches_no_wait() {
    let mut p = one(Rules {
        deadline: s(1_000_000),
        ..Rules::default()
    });
    let future = 2_000_000_000;
    p.observe(at(future), &[warn("x")]);
    let m = send(&mut p, "a", at(future + 10));
    p.failed(&m, at(future + 10), Failed::Sink(Some(s(3000))), 0.5);
    // Back by years.
    let mut now = at(1_000_000_000);
    for _ in 0..5 {
        match p.next("a", now) {
            Next::Send(m) => {
                p.delivered(&m, now);
                break;
            }
            Next::Wait(next) => {
                assert!(next.since(now) <= s(3600), "{:?}", next.since(now));
                now = next;
            }
            Next::Idle => panic!("forgotten"),
        }
    }
    assert_eq!(p.state().channels["a"].tally.delivered, 1);
}

#[test]
fn state_reads_back_and_a_newer_or_broken_one_is_not_believed() {
    let mut p = one(Rules::default());
    p.observe(at(0), &[warn("x"), warn("y")]);
    deliver(&mut p, "a", at(10));
    p.observe(at(20), &[warn("x")]);
    let json = serde_json::to_string(p.state()).unwrap();
    let read: State = serde_json::from_str(&json).unwrap();
    assert_eq!(&read, p.state());
    let mut newer = read.clone();
    newer.version = 99;
    assert!(
        Plan::new(BTreeMap::from([("a".to_owned(), Rules::default())]), newer)
            .state()
            .channels["a"]
            .groups
            .is_empty()
    );
    // A channel that is gone is forgotten, one that is new begins empty.
    let q = Plan::new(BTreeMap::from([("z".to_owned(), Rules::default())]), read);
    assert_eq!(q.state().channels.keys().collect::<Vec<_>>(), ["z"]);
}

/// What a reader of the messages believes.
#[derive(Default)]
struct Reader {
    firing: BTreeSet<String>,
    told: BTreeSet<String>,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Random alerts, a sink that fails at random, restarts from the stored state at random moments between messages. In the end,
    /// with a sink that works, the reader believes exactly what is true, has heard of each alert that fired long enough, and was
    /// never told twice in a row that the same alert is new; also where messages were held back for want of room in the hour.
    #[test]
    fn in_the_end_the_reader_knows(
        steps in proptest::collection::vec((0u8..6, 0u8..16, 1u64..400), 1..120),
        by_check in any::<bool>(),
        per_hour in prop_oneof![Just(1000u32), 1u32..6],
    ) {
        let rules = Rules {
            group_by: if by_check { vec!["check".into()] } else { vec![] },
            deadline: s(10_000_000),
            per_hour,
            ..Rules::default()
        };
        let mut p = one(rules.clone());
        let mut firing: BTreeMap<String, At> = BTreeMap::new();
        let mut must_hear: BTreeSet<String> = BTreeSet::new();
        let mut reader = Reader::default();
        let mut now = at(1_000_000);
        let hear = |reader: &mut Reader, m: &Message| -> Result<(), TestCaseError> {
            for l in &m.lines {
                let name = l.alert.labels()["check"].clone();
                reader.told.insert(name.clone());
                if l.ended.is_some() {
                    reader.firing.remove(&name);
                } else if l.new {
                    prop_assert!(reader.firing.insert(name), "told twice as new");
                } else {
                    prop_assert!(reader.firing.contains(&name), "told as known, but never as new");
                }
            }
            Ok(())
        };
        for (what, which, wait) in steps {
            let name = format!("c{which}");
            match what {
                0 | 1 => { firing.entry(name).or_insert(now); }
                2 => { firing.remove(&name); }
                3 => {
                    let json = serde_json::to_string(p.state()).unwrap();
                    p = Plan::new(BTreeMap::from([("a".to_owned(), rules.clone())]), serde_json::from_str(&json).unwrap());
                }
                _ => {}
            }
            let present: Vec<_> = firing.keys().map(|n| warn(n)).collect();
            p.observe(now, &present);
            let works = what != 5;
            for _ in 0..20 {
                match p.next("a", now) {
                    Next::Send(m) if works => {
                        p.delivered(&m, now);
                        hear(&mut reader, &m)?;
                    }
                    Next::Send(m) => {
                        for l in m.lines.iter().filter(|l| l.new) {
                            must_hear.insert(l.alert.labels()["check"].clone());
                        }
                        p.failed(&m, now, Failed::Sink(None), 0.5);
                    }
                    _ => break,
                }
            }
            now = now.plus(s(wait));
        }
        let present: Vec<_> = firing.keys().map(|n| warn(n)).collect();
        // Time enough for waits, cooldowns, intervals and the backoff. What is repeated meanwhile is heard as well.
        let end = now.plus(s(6 * 3600));
        while now < end {
            p.observe(now, &present);
            match p.next("a", now) {
                Next::Send(m) => {
                    p.delivered(&m, now);
                    hear(&mut reader, &m)?;
                }
                Next::Wait(next) => now = next,
                Next::Idle => break,
            }
        }
        let truth: BTreeSet<String> = firing.keys().cloned().collect();
        prop_assert_eq!(&reader.firing, &truth);
        prop_assert!(must_hear.is_subset(&reader.told), "{:?} was due and never told", must_hear.difference(&reader.told).collect::<Vec<_>>());
    }
}

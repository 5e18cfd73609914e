//! Alerts that look back, follow from incidents, or from what is no fact.

use super::*;

fn view(severity: Severity, cause: Cause) -> CheckView {
    let mut judge = JudgeState::new(clock::At(0));
    let failure = Failure::new(Reason::Connect, "connection refused");
    judge.last_failure = Some(failure.clone());
    judge.incident = Some(Incident {
        opened: clock::At(8_000),
        since: clock::At(7_000),
        cause,
        failure: Some(failure),
    });
    CheckView {
        name: "web".parse().expect("a name"),
        kind: CheckKind::Tcp,
        severity,
        interval: ms(30 * SECOND),
        timeout: ms(10 * SECOND),
        unit: Some("web.service".parse().expect("a unit")),
        judge,
        runs: 3,
        failures: Default::default(),
        overruns: 0,
        last_duration: None,
        measures: vec![],
    }
}

#[test]
fn an_incident_fires_at_once_with_the_labels_of_its_check() {
    let mut stage = Stage::new();
    stage.overview.checks = vec![view(Severity::Critical, Cause::Down)];
    let mut lookout = Lookout::new(Beginnings::default(), At(9_000));
    let facts = Facts::default();
    let told = stage.tells(&mut lookout, &facts, At(9_000));
    let alert = named(&told, "KeepwatchCheckDown").expect("told");
    for (label, value) in [
        ("check", "web"),
        ("kind", "tcp"),
        ("unit", "web.service"),
        ("group", "shops"),
        ("team", "shop"),
    ] {
        assert_eq!(alert.labels()[label], value, "{label}");
    }
    assert_eq!(alert.starts(), told::At(7_000));
    assert_eq!(
        alert.description_text(),
        "The shop answers: connection refused"
    );
    stage.overview.checks[0].judge.incident = None;
    assert!(stage.tells(&mut lookout, &facts, At(10_000)).is_empty());
    // One that flaps is never less than a warning, and a critical one stays critical.
    for (of, told) in [
        (Severity::Critical, Severity::Critical),
        (Severity::Warning, Severity::Warning),
        (Severity::Info, Severity::Warning),
    ] {
        stage.overview.checks = vec![view(of, Cause::Flapping)];
        let mut lookout = Lookout::new(Beginnings::default(), At(9_000));
        let all = stage.tells(&mut lookout, &facts, At(9_000));
        let alert = named(&all, "KeepwatchCheckFlapping").expect("told");
        assert_eq!((alert.severity(), alert.starts().0), (told, 8_000));
        stage.overview.checks = vec![view(of, Cause::Down)];
        let all = stage.tells(&mut lookout, &facts, At(9_001));
        assert_eq!(
            named(&all, "KeepwatchCheckDown").expect("told").severity(),
            of
        );
    }
}

/// Looks at what `change` makes of it, each minute, `n` times; returns what is wrong in the end.
fn after_looks(
    n: u64,
    each: u64,
    mut change: impl FnMut(u64, &mut Facts),
) -> (Vec<String>, Facts, Past, At) {
    let stage = Stage::new();
    let mut past = Past::default();
    let mut facts = well();
    let mut now = NOW;
    for i in 0..n {
        now = after(NOW, ms(i * each));
        change(i, &mut facts);
        facts.agent.tick_at = now;
        facts.checks[0].last_run = Some(now);
        facts.backups.clear();
        facts.keys.clear();
        heartbeat(&mut facts).last_success = Some(now);
        past.note(&facts, 0, now);
    }
    (stage.wrong(&facts, &past, now), facts, past, now)
}

#[test]
fn slow_checks_and_burnt_budgets() {
    let slow = |took: u64, n| {
        let look = |_, f: &mut Facts| f.checks[0].last_duration = Some(ms(took));
        after_looks(n, 30 * SECOND, look).0
    };
    assert_eq!(slow(8001, 20), ["KeepwatchCheckSlow"]);
    assert_eq!(slow(8000, 20), [""; 0]);
    assert_eq!(slow(9000, 9), [""; 0], "too few say nothing");

    let burns = |minutes, failing: fn(u64) -> bool| {
        after_looks(minutes, MINUTE, |i, f: &mut Facts| {
            f.checks[0].runs += 10;
            if failing(i) {
                *f.checks[0].failures.entry(Reason::Connect).or_default() += 10;
            }
        })
    };
    assert_eq!(burns(61, |i| i > 50).0, ["KeepwatchCheckErrorBudgetBurn"]);
    assert_eq!(burns(61, |i| i > 53).0, [""; 0], "below 14.4 %");
    assert_eq!(
        burns(61, |i| (30..50).contains(&i)).0,
        [""; 0],
        "it is over"
    );
    assert_eq!(burns(29, |_| true).0, [""; 0], "no hour is known yet");
    // Maintenance: not told, unless it was.
    let (_, mut facts, past, now) = burns(61, |i| i > 50);
    facts.checks[0].overlay = Some(Overlay::Maintenance);
    let stage = Stage::new();
    let cases = cases(&stage.known(&facts, now), &past);
    assert!(cases.iter().all(|c| c.muted), "{cases:?}");
    facts.checks[0].overlay = Some(Overlay::Disabled);
    assert_eq!(stage.wrong(&facts, &past, now), [""; 0]);
}

#[test]
fn errors_and_room_of_repositories() {
    let asks = |all: u64, bad: u64| {
        after_looks(3, MINUTE, |i, f: &mut Facts| {
            f.repositories[0].requests = BTreeMap::from([("get".into(), 1000 + all * i / 2)]);
            f.repositories[0].request_errors =
                BTreeMap::from([("failed".into(), 500 + bad * i / 2)]);
        })
        .0
    };
    assert_eq!(asks(100, 6), ["KeepwatchRepositoryErrors"]);
    assert_eq!(asks(100, 4), [""; 0]);
    assert_eq!(asks(20, 20), [""; 0], "too few");
    let fills = |hours, capacity: u64, each: u64| {
        after_looks(hours, HOUR, |i, f: &mut Facts| {
            f.repositories[0].capacity = Some(capacity);
            f.repositories[0].available = Some(1000 - each * i);
        })
        .0
    };
    // 30 hours old, at 10 an hour: 710 are left, and 960 more would be used within four days.
    assert_eq!(fills(30, 10_000, 10), ["KeepwatchRepositoryFilling"]);
    assert_eq!(fills(30, 10_000, 6), [""; 0], "not within four days");
    assert_eq!(fills(30, 1000, 10), [""; 0], "there is much room");
    assert_eq!(fills(24, 10_000, 10), [""; 0], "known for less than a day");
}

#[test]
fn the_host_waits_and_its_disks_fill() {
    for (resource, permille, name) in [
        ("memory", 101, "KeepwatchHostMemoryPressure"),
        ("cpu", 501, "KeepwatchHostCpuPressure"),
    ] {
        let waits = |permille: u64| {
            after_looks(25, 15 * SECOND, |i, f: &mut Facts| {
                f.host.pressure.insert(resource, ms(15 * permille * i));
            })
            .0
        };
        assert_eq!(waits(permille), [name]);
        assert_eq!(waits(permille - 2), [""; 0]);
    }
    let fills = |looks, each: u64| {
        after_looks(looks, 5 * MINUTE, |i, f: &mut Facts| {
            f.checks[0].disks[0].size = 10_000;
            f.checks[0].disks[0].available = 1000 - each * i;
        })
        .0
    };
    assert_eq!(fills(40, 4), ["KeepwatchHostDiskFilling"]);
    assert_eq!(fills(40, 2), [""; 0], "not within a day");
    assert_eq!(fills(36, 4), [""; 0], "known for less than three hours");
}

#[test]
fn restarts_that_do_not_help() {
    let restarts = |n: u64| {
        after_looks(4, 15 * MINUTE, |i, f: &mut Facts| {
            f.units[0].restarts = 7 + (n * i).div_ceil(3)
        })
        .0
    };
    assert_eq!(restarts(3), ["KeepwatchUnitRestartLoop"]);
    assert_eq!(restarts(2), [""; 0]);
    // Attempts of the daemon before this one.
    let mut stage = Stage::new();
    let mut unit = UnitView::default();
    unit.state.attempts = [1, 2, 3].map(|n| clock::At(NOW.0 - n * 1000)).to_vec();
    stage
        .overview
        .units
        .insert("web.service".parse().expect("a unit"), unit);
    let none = Past::default();
    assert_eq!(
        stage.wrong(&well(), &none, NOW),
        ["KeepwatchUnitRestartLoop"]
    );
    let hour = after(NOW, ms(HOUR - 2000));
    let names = stage.wrong(&well(), &none, hour);
    assert!(!names.contains(&"KeepwatchUnitRestartLoop".to_owned()));

    let fails = |f: &mut Facts, n| {
        f.units[0].failures.insert("timeout".into(), n);
    };
    let (names, facts, past, now) = after_looks(3, MINUTE, |i, f| fails(f, i));
    assert_eq!(names, ["KeepwatchUnitRestartFailed"]);
    let stage = Stage::new();
    let told = cases(&stage.known(&facts, now), &past);
    assert_eq!(told[0].alert.labels()["reason"], "timeout");
    assert_eq!(told[0].alert.starts().0, now.0);
    for (later, is) in [(15 * MINUTE - 1, true), (15 * MINUTE, false)] {
        let names = stage.wrong(&facts, &past, after(now, ms(later)));
        assert_eq!(
            names.contains(&"KeepwatchUnitRestartFailed".to_owned()),
            is,
            "{later}"
        );
    }
}

#[test]
fn the_agent_itself() {
    let mut stage = Stage::new();
    let mut lookout = Lookout::new(Beginnings::default(), NOW);
    // A reload that failed: since then, however often it is tried, and not since the last one that worked.
    stage.refused = ago(10 * SECOND);
    assert!(stage.tells(&mut lookout, &well(), NOW).is_empty());
    let told = stage.tells(&mut lookout, &well(), after(NOW, ms(5 * MINUTE)));
    let alert = named(&told, "KeepwatchConfigReloadFailed").expect("told");
    assert_eq!(alert.starts().0, NOW.0 - 10_000);
    stage.refused = None;
    let five = after(NOW, ms(5 * MINUTE + 1));
    assert!(
        named(
            &stage.tells(&mut lookout, &well(), five),
            "KeepwatchConfigReloadFailed"
        )
        .is_none()
    );
    // A scheduler that does not tick: since a minute after its last tick.
    let mut facts = well();
    facts.agent.tick_at = At(NOW.0 - 60_000);
    assert_eq!(stage.wrong(&facts, &Past::default(), NOW), [""; 0]);
    facts.agent.tick_at = At(NOW.0 - 60_001);
    let cases = cases(&stage.known(&facts, NOW), &Past::default());
    assert_eq!(cases[0].alert.name(), "KeepwatchEventLoopStuck");
    assert_eq!(cases[0].alert.starts().0, NOW.0 - 1);
    // A catalog that is away, and one that fails now and then.
    stage.trouble = Some("the disk is full");
    let told = super::cases(&stage.known(&well(), NOW), &Past::default());
    assert_eq!(told[0].alert.name(), "KeepwatchStateDatabaseErrors");
    assert_eq!(told[0].alert.description_text(), "the disk is full");
    stage.trouble = None;
    let mut past = Past::default();
    past.note(&well(), 0, NOW);
    assert_eq!(stage.wrong(&well(), &past, NOW), [""; 0]);
    let mut lost = well();
    lost.agent.history_dropped = BTreeMap::from([("spool".into(), 9)]);
    past.note(&lost, 3, after(NOW, ms(MINUTE)));
    let later = |millis| stage.wrong(&well(), &past, after(NOW, ms(millis)));
    assert!(later(MINUTE).contains(&"KeepwatchStateDatabaseErrors".to_owned()));
    assert!(!later(11 * MINUTE).contains(&"KeepwatchStateDatabaseErrors".to_owned()));
    // What the spool had lost before is no news; what is lost now is, for an hour.
    let dropped = "KeepwatchHistoryDropped".to_owned();
    assert!(!later(MINUTE).contains(&dropped));
    lost.agent.history_dropped = BTreeMap::from([("spool".into(), 10), ("catalog".into(), 0)]);
    past.note(&lost, 3, after(NOW, ms(2 * MINUTE)));
    let later = |millis| stage.wrong(&well(), &past, after(NOW, ms(millis)));
    assert!(later(2 * MINUTE).contains(&dropped));
    assert!(!later(62 * MINUTE).contains(&dropped));
}

#[test]
fn a_chosen_age_is_the_limit() {
    let mut stage = Stage::new();
    let backup = stage.loaded.config.backups.get_mut("home").expect("it");
    backup.max_age = ms(3 * DAY);
    let mut facts = well();
    facts.backups[0].last_start = ago(HOUR);
    for (age, stale) in [(3 * DAY, false), (3 * DAY + 1, true)] {
        facts.backups[0].last_success = ago(age);
        let names = stage.wrong(&facts, &Past::default(), NOW);
        assert_eq!(names == ["KeepwatchBackupStale"], stale, "{names:?}");
    }
}

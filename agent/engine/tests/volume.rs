//! C4, C5: what a policy or a prune does at an unusual volume, and by a clock that is wrong.

mod common;

use std::sync::atomic::Ordering;
use std::time::Duration;

use common::*;
use keepwatch_engine::forget::{self, MANY, Plan, Unusual};
use keepwatch_engine::prune::{LEAP, Options, PruneError};
use keepwatch_engine::records::Outcome;
use keepwatch_engine::snapshots::{SnapshotFilter, SnapshotRecord, SnapshotSet};
use keepwatch_engine::store::{Area, Name};
use keepwatch_model::retention::{Count, GroupKey, Policy};
use keepwatch_model::time::Moment;

const DAY: i64 = 86_400;

fn at(seconds: i64) -> Moment {
    Moment::from_parts(seconds, 0, 0).unwrap()
}

/// A snapshot of next to nothing.
fn snapshot(w: &World, start: i64, host: &str, outcome: Outcome, tags: &[&str]) -> SnapshotRecord {
    let mut d = Draftsman::new(&w.repo);
    let mut body = d.content(&files(&[("f", 1, 10)]), host, at(start));
    body.outcome = outcome as u8;
    body.tags = tags.iter().map(|t| (*t).to_owned()).collect();
    d.store_index();
    commit(&w.repo, &body)
}

fn last(n: u32) -> Policy {
    Policy {
        last: Count::Limit(n),
        ..Policy::default()
    }
}

fn plan(set: &SnapshotSet, policy: &Policy, now: i64) -> Plan {
    let by = [GroupKey::Host, GroupKey::Job];
    forget::plan(set, policy, &by, &SnapshotFilter::default(), at(now))
}

#[test]
fn a_policy_that_drops_most_of_what_was_kept_is_unusual() {
    let w = World::new();
    let begin = now().unix_seconds() - 100 * DAY;
    for n in 0..40 {
        snapshot(&w, begin + n * DAY, "h", Outcome::Succeeded, &[]);
    }
    let today = begin + 40 * DAY;
    let set = w.repo.snapshots().unwrap();
    let ask = |policy: &Policy, set: &SnapshotSet, now: i64| {
        forget::unusual(set, &plan(set, policy, now), at(now))
    };
    for (kept, asked) in [
        (1, true),
        (10, true),
        (40 - MANY as u32 - 1, true),
        (40 - MANY as u32, false),
        (30, false),
    ] {
        let found = ask(&last(kept), &set, today);
        assert_eq!(found.is_some(), asked, "keep {kept}: {found:?}");
    }
    assert_eq!(
        ask(&last(3), &set, today),
        Some(Unusual::Many {
            dropped: 37,
            of: 40,
            recent: 0
        })
    );
    // Steady use: forty were looked at by a forget, forty came since; a policy that keeps as many as before drops as many as came.
    forget::apply(&w.repo, &[&set.live[0]], at(today)).unwrap();
    for n in 0..40 {
        snapshot(&w, today + 60 + n * 600, "h", Outcome::Succeeded, &[]);
    }
    let later = today + DAY;
    let set = w.repo.snapshots().unwrap();
    assert_eq!(set.live.len(), 79);
    assert_eq!(ask(&last(39), &set, later), None);
    assert_eq!(ask(&last(19), &set, later), None);
    assert_eq!(
        ask(&last(18), &set, later),
        Some(Unusual::Many {
            dropped: 61,
            of: 79,
            recent: 40
        })
    );
    // By a clock before it, that forget is of the future and does not count.
    assert!(ask(&last(19), &set, today - 2 * DAY).is_none_or(|u| u
        != Unusual::Many {
            dropped: 60,
            of: 79,
            recent: 40
        }));
}

/// C5: a keep rule that only partial snapshots satisfy never costs the last good one.
#[test]
fn the_last_complete_snapshot_stays_whatever_partial_ones_satisfy() {
    let w = World::new();
    let today = now().unix_seconds();
    let old = snapshot(&w, today - 30 * DAY, "h", Outcome::Succeeded, &[]);
    let good = snapshot(&w, today - 20 * DAY, "h", Outcome::Succeeded, &[]);
    for n in (0..12).rev() {
        snapshot(&w, today - n * DAY - 60, "h", Outcome::Partial, &["keep"]);
    }
    let set = w.repo.snapshots().unwrap();
    let span = |text: &str| text.parse().unwrap();
    let policies = [
        last(1),
        last(5),
        Policy {
            daily: Count::Limit(3),
            ..Policy::default()
        },
        Policy {
            hourly: Count::Limit(3),
            weekly: Count::Limit(1),
            ..Policy::default()
        },
        Policy {
            within: span("5d"),
            ..Policy::default()
        },
        Policy {
            within_daily: span("9d"),
            ..Policy::default()
        },
        Policy {
            tags: vec![vec!["keep".into()]],
            ..Policy::default()
        },
        Policy {
            tags: vec![vec!["nobody has this".into()]],
            ..Policy::default()
        },
    ];
    for policy in policies {
        let plan = plan(&set, &policy, today);
        let gone: Vec<_> = plan.forgotten().iter().map(|s| s.id).collect();
        assert!(!gone.contains(&good.id), "{policy}");
        assert!(gone.contains(&old.id), "{policy}: a test that cannot fail");
    }
}

#[test]
fn a_group_that_would_lose_its_last_snapshot_is_asked_about() {
    let w = World::new();
    let today = now().unix_seconds();
    snapshot(&w, today - 3 * DAY, "a", Outcome::Succeeded, &[]);
    snapshot(&w, today - 2 * DAY, "b", Outcome::Partial, &[]);
    snapshot(&w, today - DAY, "b", Outcome::Partial, &[]);
    let set = w.repo.snapshots().unwrap();
    let tagged = Policy {
        tags: vec![vec!["x".into()]],
        ..Policy::default()
    };
    let made = plan(&set, &tagged, today);
    assert_eq!(
        forget::unusual(&set, &made, at(today)),
        Some(Unusual::Last {
            group: 1,
            snapshots: 2
        })
    );
    assert_eq!(made.groups[1].host.as_deref(), Some("b"));
    assert_eq!(
        forget::unusual(&set, &plan(&set, &last(1), today), at(today)),
        None
    );
}

fn asking(grace: Duration) -> Options {
    Options {
        many_bytes: 0,
        ..options(grace)
    }
}

/// A small old snapshot and a large new one.
fn two(w: &World) -> (SnapshotRecord, SnapshotRecord) {
    let a = w.backup(&files(&[("a", 1, 5_000)]));
    w.store.advance(HOUR);
    let b = w.backup(&files(&[("a", 1, 5_000), ("b", 2, 60_000)]));
    w.store.advance(LATER);
    (a, b)
}

#[test]
fn prune_asks_when_nothing_accounts_for_what_it_would_delete() {
    let w = World::new();
    let (a, b) = two(&w);
    let grace = Duration::from_secs(24 * 3600);
    // The newest snapshot vanished: no successor names it.
    let lost = w.fork();
    lost.store.lose(&Name::Snapshot(b.id));
    let before = lost.store.names();
    match lost.prune(&asking(grace)) {
        Err(PruneError::Unusual {
            bytes,
            unexplained,
            of,
        }) => {
            assert!(bytes == unexplained && bytes > of / 2 && bytes < of);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(lost.store.names(), before);
    // Without a grace period as well.
    assert!(matches!(
        lost.prune(&asking(Duration::ZERO)),
        Err(PruneError::Unusual { .. })
    ));
    assert_eq!(lost.store.names(), before);
    // A dry run says it and goes on; a small repository is not asked about; a person may say that it is meant so.
    let dry = lost
        .prune(&Options {
            dry_run: true,
            ..asking(grace)
        })
        .unwrap();
    assert!(
        dry.notes.iter().any(|n| n.contains("prune stopped")),
        "{:?}",
        dry.notes
    );
    assert!(lost.fork().prune(&options(grace)).unwrap().packs_marked > 0);
    let meant = Options {
        allow_many: true,
        ..asking(grace)
    };
    assert!(lost.prune(&meant).unwrap().packs_marked > 0);
    lost.store.advance(LATER);
    assert!(lost.prune(&asking(grace)).unwrap().packs_deleted > 0);
    assert!(restore(&lost.reader(), &a).is_ok());

    // All snapshots vanished.
    let none = w.fork();
    for s in [&a, &b] {
        none.store.lose(&Name::Snapshot(s.id));
    }
    assert!(matches!(
        none.prune(&asking(grace)),
        Err(PruneError::Unusual { .. })
    ));

    // Forgotten: accounted for.
    w.forget(&b);
    w.store.advance(LATER);
    let report = w.prune(&asking(grace)).unwrap();
    assert!(report.packs_marked > 0 && report.snapshots_deleted == 1);
    w.store.advance(LATER);
    assert!(w.prune(&asking(grace)).unwrap().packs_deleted > 0);
    assert!(restore(&w.reader(), &a).is_ok());
}

/// A prune that ends at any point leaves nothing that the next one has to ask about.
#[test]
fn an_interrupted_prune_is_gone_on_with_without_a_question() {
    let w = World::new();
    let (a, b) = two(&w);
    w.forget(&b);
    w.store.advance(LATER);
    let grace = Duration::from_secs(24 * 3600);
    let mut n = 0;
    loop {
        n += 1;
        let fork = w.fork();
        let from = fork.store.operations.load(Ordering::SeqCst);
        fork.store.fail_all_after.store(true, Ordering::SeqCst);
        fork.store.fail_at.store(from + n, Ordering::SeqCst);
        let first = fork.prune(&asking(grace));
        fork.store.fail_at.store(0, Ordering::SeqCst);
        for _ in 0..2 {
            fork.prune(&asking(grace))
                .unwrap_or_else(|e| panic!("ended at operation {n}: {e}"));
            fork.store.advance(LATER);
        }
        fork.prune(&asking(grace)).unwrap();
        assert!(restore(&fork.reader(), &a).is_ok());
        if first.is_ok() {
            break;
        }
    }
    assert!(n > 10, "{n}");
}

/// Rubbish of backups that broke off is not asked about while there are snapshots.
#[test]
fn rubbish_that_no_index_names_is_accounted_for() {
    let w = World::new();
    w.backup(&files(&[("a", 1, 3_000)]));
    for n in 0..4 {
        let mut d = Draftsman::new(&w.repo);
        d.content(&files(&[("b", 10 + n, 30_000)]), "host", w.moment());
    }
    w.store.advance(LATER);
    assert!(w.prune(&asking(HOUR)).unwrap().packs_orphaned > 3);
}

/// C4: a clock that jumps ahead for one run ends no grace period.
#[test]
fn a_clock_that_jumps_ahead_deletes_nothing() {
    let grace = Duration::from_secs(24 * 3600);
    let w = World::new();
    let (a, b) = two(&w);
    w.forget(&b);
    let names = |w: &World| {
        [
            w.names(Area::Snapshots),
            w.names(Area::Packs),
            w.names(Area::Index),
            w.names(Area::Tombstones),
        ]
    };
    let before = names(&w);
    let right = *w.store.clock_offset.lock().unwrap();
    for jump in [LEAP + HOUR, Duration::from_secs(10 * 366 * 86_400)] {
        let w = w.fork();
        w.store.advance(jump);
        let dry = w
            .prune(&Options {
                dry_run: true,
                ..options(grace)
            })
            .unwrap();
        assert!(
            dry.clock_ahead && dry.snapshots_deleted + dry.packs_deleted + dry.packs_marked == 0
        );
        let report = w.prune(&options(grace)).unwrap();
        assert!(report.clock_ahead && report.notes.iter().any(|n| n.contains("days ahead")));
        assert_eq!(names(&w), before);
        // Back to the right time: as if nothing had been.
        *w.store.clock_offset.lock().unwrap() = right;
        let report = w.prune(&options(grace)).unwrap();
        assert!(
            !report.clock_ahead && report.snapshots_deleted == 0 && report.snapshots_waiting == 1
        );
        // It may have copied small packs; it has deleted nothing.
        for (was, is) in before.iter().zip(&names(&w)) {
            assert!(was.iter().all(|n| is.contains(n)));
        }
        assert!(restore(&w.reader(), &b).is_ok());
        w.store.advance(LATER);
        assert_eq!(w.prune(&options(grace)).unwrap().snapshots_deleted, 1);
        w.store.advance(LATER);
        assert!(w.prune(&options(grace)).unwrap().packs_deleted > 0);
        assert!(restore(&w.reader(), &a).is_ok());
        assert_eq!(w.count(Area::Marks), 0);
    }
    // A repository that nobody used for so long: one run later it goes on.
    w.store.advance(LEAP * 3);
    assert!(w.prune(&options(grace)).unwrap().clock_ahead);
    assert_eq!(w.prune(&options(grace)).unwrap().snapshots_deleted, 1);
    w.store.advance(LATER);
    assert!(w.prune(&options(grace)).unwrap().packs_deleted > 0);
    assert!(restore(&w.reader(), &a).is_ok());
}

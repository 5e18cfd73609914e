//! Logs with and without gaps, and what they mean for base backups.

use super::*;
use keepwatch_engine::records::Ancestor;
use proptest::prelude::*;

const SIZE: u64 = 16 << 20;

fn log(segments: &[(u32, &[u64])], histories: &[(u32, &[(u32, u64)])]) -> ClusterLog {
    ClusterLog {
        system: Some(1),
        segment_bytes: Some(SIZE),
        segments: segments.iter().map(|(t, l)| (*t, l.to_vec())).collect(),
        histories: histories
            .iter()
            .map(|(t, a)| {
                let a = a.iter().map(|(timeline, n)| Ancestor {
                    timeline: *timeline,
                    switch: n * SIZE + 328,
                });
                (*t, a.collect())
            })
            .collect(),
        ..ClusterLog::default()
    }
}

fn base(id: u8, timeline: u32, start: u64, end: u64, with_wal: bool) -> Base {
    Base {
        snapshot: ObjectId([id; 32]),
        time: String::new(),
        done: i64::from(id) * 100,
        revoked: false,
        body: BaseBackup {
            system: 1,
            timeline,
            start: start * SIZE + 40,
            segment: start,
            end: end * SIZE + 256,
            version: "15".into(),
            with_wal,
            after: None,
        },
    }
}

fn told(log: &ClusterLog, bases: &[Base]) -> (ClusterReport, Vec<(u32, String, u64)>) {
    let r = judge(WalCluster([0; 8]), log, bases);
    let gaps = r
        .gaps
        .iter()
        .map(|g| (g.timeline, g.first[16..].to_owned(), g.segments))
        .collect();
    (r, gaps)
}

#[test]
fn a_log_without_a_gap() {
    let (r, gaps) = told(
        &log(&[(1, &[1, 2, 3, 4, 5])], &[]),
        &[base(1, 1, 2, 2, false), base(2, 1, 4, 4, false)],
    );
    assert!(r.is_sound() && gaps.is_empty());
    assert!(r.bases.iter().all(|b| b.restorable && b.complete));
    // What lies before every base backup does not matter.
    let (r, _) = told(&log(&[(1, &[1, 4, 5])], &[]), &[base(2, 1, 4, 4, false)]);
    assert!(r.is_sound());
    // Without any base backup every gap does.
    let (r, gaps) = told(&log(&[(1, &[1, 4, 5])], &[]), &[]);
    assert_eq!(gaps, [(1, "00000002".into(), 2)]);
    assert!(!r.is_sound());
}

#[test]
fn a_gap_hits_the_base_backups_before_it() {
    let (r, gaps) = told(
        &log(&[(1, &[1, 2, 4, 5])], &[]),
        &[base(1, 1, 1, 1, false), base(2, 1, 4, 4, false)],
    );
    assert_eq!(gaps, [(1, "00000003".into(), 1)]);
    assert_eq!(r.gaps[0].snapshots, [ObjectId([1; 32])]);
    assert_eq!(
        r.bases
            .iter()
            .map(|b| (b.restorable, b.complete))
            .collect::<Vec<_>>(),
        [(true, false), (true, true)]
    );
    let l = log(&[(1, &[1, 2, 4, 5])], &[]);
    assert!(
        obstacle(&r, &l, ObjectId([1; 32]), &[1], None)
            .unwrap()
            .contains("a segment is missing")
    );
    assert_eq!(
        obstacle(&r, &l, ObjectId([1; 32]), &[1], Some(Lsn(2 * SIZE + 100))),
        None
    );
    assert!(obstacle(&r, &l, ObjectId([1; 32]), &[1], Some(Lsn(4 * SIZE + 100))).is_some());
    assert_eq!(obstacle(&r, &l, ObjectId([2; 32]), &[1], None), None);
    assert!(
        obstacle(&r, &l, ObjectId([2; 32]), &[1], Some(Lsn(9 * SIZE)))
            .unwrap()
            .contains("ends with")
    );
}

#[test]
fn what_a_gap_means_depends_on_the_base_backups_after_it() {
    let before = base(1, 1, 1, 1, false);
    let after = base(2, 1, 4, 4, false);
    let own = base(3, 1, 4, 4, true);
    let revoked = Base {
        revoked: true,
        ..after.clone()
    };
    let gap: &[(u32, &[u64])] = &[(1, &[1, 2, 4, 5])];
    let trial: &[(u32, &[u64])] = &[(1, &[1, 2, 3, 4, 5]), (2, &[3])];
    let left: &[(u32, &[(u32, u64)])] = &[(2, &[(1, 3)])];
    use State::{Broken, Gaps, Sound};
    for (segments, histories, bases, state, from) in [
        (
            &[(1, &[1, 2, 3][..])][..],
            &[][..],
            &[&before][..],
            Sound,
            Some(100),
        ),
        (gap, &[], &[&before], Broken, None),
        (gap, &[], &[&before, &after], Gaps, Some(200)),
        (gap, &[], &[&after], Sound, Some(200)),
        (gap, &[], &[&before, &own], Gaps, Some(300)),
        (gap, &[], &[&before, &revoked], Broken, None),
        (gap, &[], &[], Broken, None),
        (&[(1, &[1, 2])], &[], &[], Sound, None),
        // The newest cannot even be started.
        (&[(1, &[1, 2, 3])], &[], &[&before, &after], Broken, None),
        // No log at all, but base backups that bring their own.
        (&[], &[], &[&own], Sound, None),
        (&[], &[], &[&after], Broken, None),
        // A trial that archived, too: the base backup after it began does not lead there, and need not.
        (trial, left, &[&after], Sound, Some(200)),
        // A segment of the life that went on is missing, and then one of the life that was given up.
        (&[(1, &[1, 2]), (2, &[4])], left, &[&before], Broken, None),
        (
            &[(1, &[1, 2, 3, 5]), (2, &[3, 4])],
            left,
            &[&before],
            Gaps,
            Some(100),
        ),
    ] {
        let bases: Vec<Base> = bases.iter().map(|b| (*b).clone()).collect();
        let (r, gaps) = told(&log(segments, histories), &bases);
        assert_eq!(
            (r.state, r.recoverable_from),
            (state, from),
            "{segments:?} {bases:?} {gaps:?}"
        );
        let has_base = !bases.is_empty() && state != Broken;
        assert_eq!(r.recoverable, has_base, "{segments:?}");
    }
}

#[test]
fn an_incremental_base_backup_needs_those_before_it() {
    let l = log(&[(1, &[1, 2, 3, 4, 5, 6])], &[]);
    let full = base(1, 1, 1, 1, false);
    let on = |below: &Base, id: u8, n: u64| {
        let mut b = base(id, 1, n, n, false);
        b.body.after = Some(below.body.as_foundation());
        b
    };
    let second = on(&full, 2, 3);
    let third = on(&second, 3, 5);
    let all = [full.clone(), second.clone(), third.clone()];
    let ids = |found: Option<Vec<&Base>>| -> Option<Vec<u8>> {
        Some(found?.iter().map(|b| b.snapshot.0[0]).collect())
    };
    assert_eq!(ids(chain(&all, &all[2])), Some(vec![1, 2, 3]));
    assert_eq!(ids(chain(&all, &all[0])), Some(vec![1]));
    let (r, _) = told(&l, &all);
    assert_eq!((r.state, r.recoverable_from), (State::Sound, Some(100)));
    assert_eq!(
        r.bases.iter().map(|b| b.incremental).collect::<Vec<_>>(),
        [false, true, true]
    );
    // Without the one in the middle the last is nothing, and without the first both.
    for (left, restorable) in [
        (vec![full.clone(), third.clone()], vec![true, false]),
        (vec![second.clone(), third.clone()], vec![false, false]),
    ] {
        let (r, _) = told(&l, &left);
        let found: Vec<bool> = r.bases.iter().map(|b| b.restorable).collect();
        assert_eq!(found, restorable);
        assert_eq!(r.state, State::Broken, "{:?}", r.problems);
    }
    // Of another cluster, or in a circle, it is none.
    let mut other = full.clone();
    other.body.system = 2;
    let all = [other, second.clone()];
    assert_eq!(ids(chain(&all, &all[1])), None);
    let mut circle = second.clone();
    circle.body.after = Some(second.body.as_foundation());
    let all = [full, circle];
    assert_eq!(ids(chain(&all, &all[1])), None);
}

#[test]
fn a_base_backup_whose_own_log_is_missing_cannot_be_restored() {
    for present in [&[1u64][..], &[3], &[1, 2], &[2]] {
        let (r, _) = told(&log(&[(1, present)], &[]), &[base(1, 1, 2, 3, false)]);
        assert!(!r.bases[0].restorable && !r.is_sound(), "{present:?}");
    }
    let (r, _) = told(&log(&[(1, &[2, 3])], &[]), &[base(1, 1, 2, 3, false)]);
    assert!(r.is_sound());
    // It brought its own.
    let (r, _) = told(&log(&[], &[]), &[base(1, 1, 2, 3, true)]);
    assert!(r.is_sound());
    let (r, gaps) = told(&log(&[(1, &[5])], &[]), &[base(1, 1, 2, 3, true)]);
    assert_eq!(gaps, [(1, "00000003".into(), 2)]);
    assert!(r.bases[0].restorable && !r.bases[0].complete);
    let l = log(&[(1, &[1])], &[]);
    let (r, _) = told(&l, &[base(1, 1, 2, 3, true)]);
    assert_eq!(
        obstacle(&r, &l, ObjectId([1; 32]), &[1], Some(Lsn(3 * SIZE + 256))),
        None
    );
    assert!(obstacle(&r, &l, ObjectId([1; 32]), &[1], Some(Lsn(5 * SIZE))).is_some());
}

#[test]
fn timelines_are_followed() {
    let bases = [base(1, 1, 2, 2, false)];
    // Promoted in segment 5, whose old name was never archived.
    let good = log(&[(1, &[2, 3, 4]), (2, &[5, 6])], &[(2, &[(1, 5)])]);
    let (r, gaps) = told(&good, &bases);
    assert!(r.is_sound(), "{gaps:?} {:?}", r.problems);
    let (_, gaps) = told(
        &log(&[(1, &[2, 3]), (2, &[5, 6])], &[(2, &[(1, 5)])]),
        &bases,
    );
    assert_eq!(gaps, [(1, "00000004".into(), 1)]);
    let (_, gaps) = told(
        &log(&[(1, &[2, 3, 4]), (2, &[6])], &[(2, &[(1, 5)])]),
        &bases,
    );
    assert_eq!(gaps, [(2, "00000005".into(), 1)]);
    let (r, _) = told(&log(&[(1, &[2, 3, 4]), (2, &[5, 6])], &[]), &bases);
    assert!(r.problems[0].contains("history of timeline 2"));
    // Three in a row, the second left in the segment in which it began.
    let (r, gaps) = told(
        &log(
            &[(1, &[2, 3, 4]), (3, &[5, 6])],
            &[(2, &[(1, 5)]), (3, &[(1, 5), (2, 5)])],
        ),
        &bases,
    );
    assert!(r.is_sound(), "{gaps:?}");
    // A timeline that was left before the base backup began is not its own.
    let (r, gaps) = told(
        &log(&[(1, &[6, 7]), (2, &[5, 9])], &[(2, &[(1, 5)])]),
        &[base(1, 1, 6, 6, false)],
    );
    assert!(r.is_sound(), "{gaps:?}");
}

#[test]
fn which_timelines_lead_where() {
    let l = log(
        &[(1, &[2, 3]), (2, &[5]), (3, &[7])],
        &[(2, &[(1, 5)]), (3, &[(1, 5), (2, 7)])],
    );
    assert_eq!(newest_timeline(&l), Some(3));
    let early = base(1, 1, 2, 2, false).body;
    assert_eq!(path(&l, &early, 3), Some(vec![1, 2, 3]));
    assert_eq!(path(&l, &early, 1), Some(vec![1]));
    assert_eq!(path(&l, &early, 4), None);
    // Made on the first timeline after the second had left it.
    let late = base(2, 1, 6, 6, false).body;
    assert_eq!(path(&l, &late, 3), None);
    assert_eq!(path(&l, &late, 1), Some(vec![1]));
    assert_eq!(path(&l, &base(3, 2, 6, 6, false).body, 3), Some(vec![2, 3]));
    let l = log(
        &[(1, &[1, 2, 3, 5, 6]), (2, &[5, 6, 7, 8])],
        &[(2, &[(1, 5)])],
    );
    let read = |to| -> Vec<(u32, u64)> {
        let found = segments(&l, &early, &[1, 2], to);
        found.iter().map(|s| (s.timeline, s.position)).collect()
    };
    assert_eq!(
        read(None),
        [(1, 2), (1, 3), (1, 5), (2, 5), (2, 6), (2, 7), (2, 8)]
    );
    assert_eq!(
        read(Some(Lsn(6 * SIZE))),
        [(1, 2), (1, 3), (1, 5), (2, 5), (2, 6)]
    );
}

#[test]
fn numbers_go_over_the_end_of_a_log() {
    let over = [0xfe, 0xff, 1 << 32, 1 << 32 | 1];
    let (r, _) = told(&log(&[(1, &over)], &[]), &[base(1, 1, 0xfe, 0xfe, false)]);
    assert!(r.is_sound());
    let (r, _) = told(&log(&[(1, &[0xfe, 0xff, 0x100])], &[]), &[]);
    assert!(r.problems[0].contains("do not fit"));
}

#[test]
fn the_greatest_numbers_cost_nothing() {
    let far = u64::from(u32::MAX) << 32 | 0xff;
    let (r, _) = told(&log(&[(1, &[1, far])], &[]), &[]);
    assert_eq!((r.gaps_total, r.segments_missing), (1, (1 << 40) - 3));
}

proptest! {
    #[test]
    fn exactly_what_is_taken_out_is_missing(from in 1u64..600, n in 1u64..80, out in proptest::collection::btree_set(0u64..80, 0..20)) {
        let numbers = Numbers { per_log: 256 };
        let position = |n: u64| ((n / 256) << 32) | (n % 256);
        let gone: BTreeSet<u64> = out.iter().map(|o| from + o % n).filter(|o| *o != from + n - 1).collect();
        let there: Vec<u64> = (from..from + n).filter(|s| !gone.contains(s)).map(position).collect();
        let mut b = base(1, 1, 0, 0, false);
        b.body.segment = position(from);
        b.body.start = from * SIZE + 40;
        b.body.end = from * SIZE + 80;
        let r = judge(WalCluster([0; 8]), &log(&[(1, &there)], &[]), &[b]);
        let mut named = BTreeSet::new();
        for g in &r.gaps {
            named.extend(g.range.0..=g.range.1);
            prop_assert_eq!(&g.first, &numbers.name(1, g.range.0));
        }
        prop_assert_eq!(named, gone);
    }
}

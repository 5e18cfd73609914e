//! What is missing of a log, and what that means for each base backup. Pure: it judges what [`crate::log`] found.
//!
//! A base backup can be brought to any moment after its end up to where the log is without a gap. Needed from a base backup on are
//!
//! - on its own timeline all segments from the one in which its replay begins to the last that is there, and in any case those up to its end;
//! - for each later timeline that comes from its own, by the history: the segments of the timelines in between up to where each was left, and of the last one all to its end. The
//!   segment in which a timeline was left begins the next one's files; under the old name it may be missing.
//!
//! What is cut off from the newest end is no gap that could be seen here; how old the newest file is shows it.

use std::collections::{BTreeMap, BTreeSet};

use keepwatch_engine::ids::{ObjectId, WalCluster};
use keepwatch_engine::records::BaseBackup;
use keepwatch_engine::wal_file::Segment;
use serde::Serialize;

use crate::log::ClusterLog;
use crate::lsn::Lsn;

/// Gaps told of one cluster; the others are counted.
const GAPS: usize = 1000;

/// A base backup in the repository.
#[derive(Clone, Debug)]
pub struct Base {
    /// Its snapshot.
    pub snapshot: ObjectId,
    /// When it began, for people.
    pub time: String,
    /// When it was done. Seconds since 1970.
    pub done: i64,
    /// Its writer's key was taken back: nothing is promised by it.
    pub revoked: bool,
    /// What it needs.
    pub body: BaseBackup,
}

/// Segments that are missing one after another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// On which timeline.
    pub timeline: u32,
    /// The first that is missing.
    pub first: String,
    /// The last.
    pub last: String,
    /// How many.
    pub segments: u64,
    /// Base backups that cannot be brought beyond it.
    pub snapshots: Vec<ObjectId>,
    #[serde(skip)]
    range: (u64, u64),
}

/// The segments of a timeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Timeline {
    /// Which.
    pub timeline: u32,
    /// The first that is there.
    pub first: String,
    /// The last.
    pub last: String,
    /// How many there are.
    pub segments: u64,
}

/// What a base backup is good for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BaseReport {
    /// Its snapshot.
    pub snapshot: ObjectId,
    /// When it began.
    pub time: String,
    /// When it was done, so the first moment to which it can be brought. Seconds since 1970.
    pub done: i64,
    /// Its timeline.
    pub timeline: u32,
    /// Where its replay begins.
    pub start: String,
    /// From where on it is consistent.
    pub end: String,
    /// Major version of the server.
    pub version: String,
    /// The log that makes it consistent is in the base backup itself.
    pub with_wal: bool,
    /// All that it needs to become consistent is there.
    pub restorable: bool,
    /// It can be brought to the end of the log without a gap.
    pub complete: bool,
}

/// What the faults of a cluster's log mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// There are none.
    Sound,
    /// Older base backups are hit. The newest leads to the end of the log.
    Gaps,
    /// The end of the log cannot be reached from any base backup, or what is there contradicts itself.
    Broken,
}

/// What is known of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClusterReport {
    /// Its name in the repository.
    pub cluster: WalCluster,
    /// Its system identifier, as text: it is too long for a number in JSON.
    pub system: Option<String>,
    /// Bytes of a segment.
    pub segment_bytes: Option<u64>,
    /// Objects of its log.
    pub files: u64,
    /// Their bytes as stored.
    pub bytes: u64,
    /// When the newest segment was stored. Seconds since 1970.
    pub newest: Option<u64>,
    /// What the faults below mean.
    pub state: State,
    /// A base backup can be brought to the end of the log, on its newest timeline.
    pub recoverable: bool,
    /// Every moment since then can be recovered. Seconds since 1970.
    pub recoverable_from: Option<i64>,
    /// By number.
    pub timelines: Vec<Timeline>,
    /// At most a thousand.
    pub gaps: Vec<Gap>,
    /// All of them.
    pub gaps_total: u64,
    /// Segments that are missing.
    pub segments_missing: u64,
    /// Oldest first.
    pub bases: Vec<BaseReport>,
    /// What else is wrong.
    pub problems: Vec<String>,
}

impl ClusterReport {
    /// True without a gap and without a problem.
    pub fn is_sound(&self) -> bool {
        self.gaps_total == 0 && self.problems.is_empty() && self.bases.iter().all(|b| b.restorable)
    }
}

/// Segments by number instead of position, so that one follows another.
struct Numbers {
    per_log: u64,
}

impl Numbers {
    fn of(&self, position: u64) -> Option<u64> {
        let (log, n) = (position >> 32, position & 0xffff_ffff);
        (n < self.per_log).then(|| log * self.per_log + n)
    }
    fn name(&self, timeline: u32, n: u64) -> String {
        let position = ((n / self.per_log) << 32) | (n % self.per_log);
        Segment { timeline, position }.to_string()
    }
}

/// An interval of segments that a base backup needs, both ends included.
struct Need {
    timeline: u32,
    from: u64,
    to: u64,
    base: Option<usize>,
}

/// Judges a cluster. Base backups: oldest first.
pub fn judge(cluster: WalCluster, log: &ClusterLog, bases: &[Base]) -> ClusterReport {
    let mut report = find(cluster, log, bases);
    let good: Vec<(&Base, &BaseReport)> = bases
        .iter()
        .zip(&report.bases)
        .filter(|(b, r)| r.restorable && !b.revoked)
        .collect();
    // The newest timeline that any of them leads to: one that none leads to is that of a trial, or of a life without a base backup yet.
    let timelines: BTreeSet<u32> = log
        .histories
        .keys()
        .chain(log.segments.keys())
        .copied()
        .collect();
    let leading = |t: u32| -> Vec<(&BaseReport, Vec<u32>)> {
        let ways = good.iter();
        ways.filter_map(|(b, r)| Some((*r, path(log, &b.body, t)?)))
            .collect()
    };
    let ways = timelines.iter().rev().map(|t| leading(*t));
    let ways = ways.into_iter().find(|w| !w.is_empty()).unwrap_or_default();
    // What is not all listed any more is not judged one by one.
    let is_listed = report.gaps_total == report.gaps.len() as u64;
    let reaches = |(r, way): &&(&BaseReport, Vec<u32>)| match is_listed {
        true => obstacle(&report, log, r.snapshot, way, None).is_none(),
        false => r.complete,
    };
    let recoverable = match ways.last() {
        Some(newest) => reaches(&newest),
        // Nothing but base backups that bring their own log.
        None => !good.is_empty(),
    };
    let from = ways.iter().find(reaches).map(|(r, _)| r.done);
    report.recoverable = recoverable;
    report.recoverable_from = from.filter(|_| recoverable);
    report.state = if report.is_sound() && (recoverable || bases.is_empty()) {
        State::Sound
    } else if recoverable && report.problems.is_empty() {
        State::Gaps
    } else {
        State::Broken
    };
    report
}

/// All of it but what it means in the end.
fn find(cluster: WalCluster, log: &ClusterLog, bases: &[Base]) -> ClusterReport {
    let system = log.system.or_else(|| bases.first().map(|b| b.body.system));
    let mut report = ClusterReport {
        cluster,
        system: system.map(|s| s.to_string()),
        segment_bytes: log.segment_bytes,
        files: log.files,
        bytes: log.bytes,
        newest: log.newest,
        state: State::Sound,
        recoverable: false,
        recoverable_from: None,
        timelines: Vec::new(),
        gaps: Vec::new(),
        gaps_total: 0,
        segments_missing: 0,
        bases: bases
            .iter()
            .map(|b| BaseReport {
                snapshot: b.snapshot,
                time: b.time.clone(),
                done: b.done,
                timeline: b.body.timeline,
                start: Lsn(b.body.start).to_string(),
                end: Lsn(b.body.end).to_string(),
                version: b.body.version.clone(),
                with_wal: b.body.with_wal,
                restorable: b.body.with_wal,
                complete: true,
            })
            .collect(),
        problems: log.problems.clone(),
    };
    let segment_bytes = match log.segment_bytes {
        Some(n) if n.is_power_of_two() && (1 << 20..=1 << 30).contains(&n) => n,
        Some(n) => {
            report
                .problems
                .push(format!("segments of {n} bytes cannot be"));
            return report;
        }
        None => {
            // Not one segment: nothing to count by.
            for (b, base) in report.bases.iter_mut().zip(bases) {
                b.complete = base.body.with_wal;
            }
            return report;
        }
    };
    let numbers = Numbers {
        per_log: (1 << 32) / segment_bytes,
    };
    let mut present: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    for (timeline, positions) in &log.segments {
        let list: Vec<u64> = positions.iter().filter_map(|p| numbers.of(*p)).collect();
        if list.len() < positions.len() {
            report.problems.push(format!(
                "timeline {timeline} has segments whose names do not fit segments of {segment_bytes} bytes"
            ));
        }
        if let (Some(first), Some(last)) = (list.first(), list.last()) {
            report.timelines.push(Timeline {
                timeline: *timeline,
                first: numbers.name(*timeline, *first),
                last: numbers.name(*timeline, *last),
                segments: list.len() as u64,
            });
            present.insert(*timeline, list);
        }
    }
    for timeline in present.keys().filter(|t| **t > 1) {
        let has_base = bases.iter().any(|b| b.body.timeline == *timeline);
        if !log.histories.contains_key(timeline) && !has_base {
            report.problems.push(format!(
                "the history of timeline {timeline} is missing: no base backup of another timeline can be brought there"
            ));
        }
    }
    let needs = needs(log, bases, &present, segment_bytes, &numbers);
    let mut gaps: BTreeMap<(u32, u64, u64), BTreeSet<usize>> = BTreeMap::new();
    for need in &needs {
        let empty = Vec::new();
        let list = present.get(&need.timeline).unwrap_or(&empty);
        missing(list, need.from, need.to, &mut |from, to| {
            let hit = gaps.entry((need.timeline, from, to)).or_default();
            hit.extend(need.base);
        });
    }
    for (i, base) in bases.iter().enumerate() {
        report.bases[i].complete = !gaps.values().any(|hit| hit.contains(&i));
        if base.body.with_wal {
            continue;
        }
        let mut whole = numbers.of(base.body.segment).is_some();
        if let Some(from) = numbers.of(base.body.segment) {
            let to = last_of(Lsn(base.body.end), segment_bytes);
            let empty = Vec::new();
            let list = present.get(&base.body.timeline).unwrap_or(&empty);
            missing(list, from, to.max(from), &mut |_, _| whole = false);
        }
        report.bases[i].restorable = whole;
    }
    for ((timeline, from, to), hit) in merge(gaps) {
        report.gaps_total += 1;
        report.segments_missing += to - from + 1;
        if report.gaps.len() < GAPS {
            report.gaps.push(Gap {
                timeline,
                first: numbers.name(timeline, from),
                last: numbers.name(timeline, to),
                segments: to - from + 1,
                snapshots: hit.iter().map(|i| bases[*i].snapshot).collect(),
                range: (from, to),
            });
        }
    }
    report
}

/// The segment in which the last byte before a position lies.
fn last_of(end: Lsn, segment_bytes: u64) -> u64 {
    Lsn(end.0.saturating_sub(1)).segment(segment_bytes)
}

fn needs(
    log: &ClusterLog,
    bases: &[Base],
    present: &BTreeMap<u32, Vec<u64>>,
    segment_bytes: u64,
    numbers: &Numbers,
) -> Vec<Need> {
    let last = |t: u32| present.get(&t).and_then(|l| l.last()).copied();
    let mut out = Vec::new();
    for (i, base) in bases.iter().enumerate() {
        let b = &base.body;
        let Some(start) = numbers.of(b.segment) else {
            continue;
        };
        let end = last_of(Lsn(b.end), segment_bytes).max(start);
        // With its own WAL it needs the archive from its end on, and nothing when nothing was archived.
        let from = if b.with_wal { end } else { start };
        let mut need = |timeline, from, to| {
            out.push(Need {
                timeline,
                from,
                to,
                base: Some(i),
            })
        };
        match last(b.timeline) {
            Some(l) if l >= from => need(b.timeline, from, if b.with_wal { l } else { l.max(end) }),
            _ if !b.with_wal => need(b.timeline, from, end),
            _ => {}
        }
        for (child, ancestors) in &log.histories {
            let (Some(child_last), Some(at)) = (
                last(*child),
                ancestors.iter().position(|a| a.timeline == b.timeline),
            ) else {
                continue;
            };
            // Left before this base backup began: the child does not come from it.
            if ancestors[at].switch < b.end {
                continue;
            }
            let mut from = from;
            for (n, a) in ancestors.iter().enumerate().skip(at) {
                let switch = Lsn(a.switch).segment(segment_bytes);
                if switch > from {
                    need(a.timeline, from, switch - 1);
                }
                from = from.max(switch);
                let is_last = n + 1 == ancestors.len();
                if is_last && child_last >= from {
                    need(*child, from, child_last);
                }
            }
        }
    }
    if bases.is_empty() {
        for (timeline, list) in present {
            if let (Some(first), Some(last)) = (list.first(), list.last()) {
                out.push(Need {
                    timeline: *timeline,
                    from: *first,
                    to: *last,
                    base: None,
                });
            }
        }
    }
    out
}

/// Calls `each` for every run of numbers from `from` to `to` that are not in the ascending list.
fn missing(list: &[u64], from: u64, to: u64, each: &mut dyn FnMut(u64, u64)) {
    let mut next = from;
    for n in &list[list.partition_point(|n| *n < from)..] {
        if *n > to {
            break;
        }
        if *n > next {
            each(next, *n - 1);
        }
        next = *n + 1;
    }
    if next <= to {
        each(next, to);
    }
}

/// Gaps that touch or overlap are one, for the base backups that any of them hits.
fn merge(
    gaps: BTreeMap<(u32, u64, u64), BTreeSet<usize>>,
) -> Vec<((u32, u64, u64), BTreeSet<usize>)> {
    let mut out: Vec<((u32, u64, u64), BTreeSet<usize>)> = Vec::new();
    for ((timeline, from, to), hit) in gaps {
        match out.last_mut() {
            Some((last, hits)) if last.0 == timeline && from <= last.2.saturating_add(1) => {
                last.2 = last.2.max(to);
                hits.extend(hit);
            }
            _ => out.push(((timeline, from, to), hit)),
        }
    }
    out
}

/// The timelines that are replayed from a base backup to a timeline, its own first; `None` when none leads there.
pub fn path(log: &ClusterLog, base: &BaseBackup, timeline: u32) -> Option<Vec<u32>> {
    if base.timeline == timeline {
        return Some(vec![timeline]);
    }
    let ancestors = log.histories.get(&timeline)?;
    let at = ancestors
        .iter()
        .position(|a| a.timeline == base.timeline && a.switch >= base.end)?;
    let between = ancestors[at..].iter().map(|a| a.timeline);
    Some(between.chain([timeline]).collect())
}

/// The segments that a replay along these timelines reads, at most up to a position: timeline and position of each.
pub fn segments(
    log: &ClusterLog,
    base: &BaseBackup,
    path: &[u32],
    to: Option<Lsn>,
) -> Vec<Segment> {
    let Some(size) = log.segment_bytes.filter(|n| n.is_power_of_two()) else {
        return Vec::new();
    };
    let numbers = Numbers {
        per_log: (1 << 32) / size,
    };
    let ancestors = path.last().and_then(|t| log.histories.get(t));
    let mut out = Vec::new();
    for timeline in path {
        let left = ancestors
            .and_then(|a| a.iter().find(|a| a.timeline == *timeline))
            .map(|a| Lsn(a.switch).segment(size));
        let last = [left, to.map(|l| l.segment(size))]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(u64::MAX);
        let there = log.segments.get(timeline).into_iter().flatten();
        let wanted =
            there.filter(|p| **p >= base.segment && numbers.of(**p).is_some_and(|n| n <= last));
        out.extend(wanted.map(|position| Segment {
            timeline: *timeline,
            position: *position,
        }));
    }
    out
}

/// The newest timeline of which there is anything.
pub fn newest_timeline(log: &ClusterLog) -> Option<u32> {
    let histories = log.histories.keys().next_back();
    let segments = log.segments.keys().next_back();
    histories.max(segments).copied()
}

/// Why a base backup cannot be brought along these timelines to where a restore should go; `None` when nothing speaks against it.
pub fn obstacle(
    report: &ClusterReport,
    log: &ClusterLog,
    snapshot: ObjectId,
    path: &[u32],
    to: Option<Lsn>,
) -> Option<String> {
    let base = report.bases.iter().find(|b| b.snapshot == snapshot)?;
    if !base.restorable {
        return Some(format!(
            "the segments from {} to {} that make the base backup consistent are not all there",
            base.start, base.end
        ));
    }
    let size = report.segment_bytes?;
    let wanted = to.map(|l| last_of(l, size));
    let own = base.end.parse::<Lsn>().ok().filter(|_| base.with_wal);
    if own.is_some_and(|end| to.is_some_and(|to| to <= end)) {
        return None;
    }
    let gap = report.gaps.iter().find(|g| {
        g.snapshots.contains(&snapshot)
            && path.contains(&g.timeline)
            && wanted.is_none_or(|w| g.range.0 <= w)
    });
    if let Some(g) = gap {
        return Some(format!(
            "{} missing from {} to {}",
            if g.segments == 1 {
                "a segment is".to_owned()
            } else {
                format!("{} segments are", g.segments)
            },
            g.first,
            g.last
        ));
    }
    let numbers = Numbers {
        per_log: (1 << 32) / size,
    };
    let newest = log
        .segments
        .iter()
        .filter(|(t, _)| path.contains(t))
        .filter_map(|(_, l)| numbers.of(*l.last()?))
        .max();
    match (wanted, newest) {
        (Some(w), Some(n)) if w > n => Some(format!(
            "the log ends with segment {}, before the position",
            numbers.name(base.timeline, n)
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
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
            (&[(1, &[1, 2, 3][..])][..], &[][..], &[&before][..], Sound, Some(100)),
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
            (&[(1, &[1, 2, 3, 5]), (2, &[3, 4])], left, &[&before], Gaps, Some(100)),
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
}

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
    /// It holds only what changed since another one, without which it cannot be restored.
    pub incremental: bool,
    /// One that it is built on is not there.
    pub base_missing: bool,
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
    for (base, r) in bases.iter().zip(&mut report.bases) {
        r.base_missing = chain(bases, base).is_none();
        r.restorable &= !r.base_missing;
    }
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
    // What the newest base backup has in it was there once, whatever the log of older ones leads to.
    let is_newest_lost = bases
        .iter()
        .zip(&report.bases)
        .rfind(|(b, _)| !b.revoked)
        .is_none_or(|(_, r)| !r.restorable);
    let recoverable = !is_newest_lost
        && match ways.last() {
            Some(newest) => reaches(&newest),
            // Nothing but base backups that bring their own log.
            None => true,
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

/// What is needed to restore a base backup: the full one first, then those between, itself last. Nothing when one of them is missing.
pub fn chain<'a>(all: &'a [Base], last: &'a Base) -> Option<Vec<&'a Base>> {
    let mut out = vec![last];
    let mut at = last;
    while let Some(below) = at.body.after {
        let is_it = |b: &&Base| b.body.system == at.body.system && b.body.as_foundation() == below;
        // One that a revoked writer signed counts only when there is no other.
        let found = all.iter().filter(is_it).min_by_key(|b| b.revoked)?;
        // A chain that comes back to itself has no end.
        if out.len() >= all.len() {
            return None;
        }
        out.push(found);
        at = found;
    }
    out.reverse();
    Some(out)
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
                incremental: b.body.after.is_some(),
                base_missing: false,
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
    if base.base_missing {
        return Some("one that it is built on is not in the repository".to_owned());
    }
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
    // What follows on a timeline after it was left is not on the way.
    let ancestors = path.last().and_then(|t| log.histories.get(t));
    let left = |timeline: u32| {
        let all = ancestors.into_iter().flatten();
        all.filter(|a| a.timeline == timeline)
            .map(|a| Lsn(a.switch).segment(size))
            .next()
    };
    let gap = report.gaps.iter().find(|g| {
        g.snapshots.contains(&snapshot)
            && path.contains(&g.timeline)
            && left(g.timeline).is_none_or(|n| g.range.0 < n)
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
mod tests;

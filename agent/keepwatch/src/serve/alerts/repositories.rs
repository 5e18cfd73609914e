//! What is wrong with repositories, what is in them, and keys.

use std::time::Duration;

use keepwatch_expose::facts::{At, Repository, Wal};
use keepwatch_model::size::human_bytes;

use super::past::{DAY, HOUR, Past};
use super::rules::{self, Rule};
use super::{Case, Known, after};

/// The share of requests that may fail.
const ERRORS: f64 = 0.05;
/// Fewer requests say nothing.
const REQUESTS: u64 = 20;
/// A log to which nothing came for so long is not archived any more.
const WAL_AGE: Duration = Duration::from_secs(8 * 86_400);
/// A key that ends within this is told of.
const KEY_SOON: Duration = Duration::from_secs(30 * 86_400);
/// So long a recovery key may be untried.
const KEY_UNPROVED: Duration = Duration::from_secs(180 * 86_400);
/// What is emptier is not filling up.
pub(super) const ROOMY: f64 = 0.4;

pub(super) fn cases(known: &Known<'_>, past: &Past, out: &mut Vec<Case>) {
    for repository in &known.facts.repositories {
        let one = One {
            known,
            past,
            it: repository,
        };
        out.extend(one.reach());
        out.extend(one.room());
        out.extend(one.verification());
        for wal in &repository.wal {
            out.extend(gap(&one, wal));
            out.extend(archive(&one, wal));
        }
    }
    keys(known, out);
}

struct One<'a> {
    known: &'a Known<'a>,
    past: &'a Past,
    it: &'a Repository,
}

impl One<'_> {
    fn case(&self, rule: &Rule) -> Case {
        self.known.case(rule).label("repository", &self.it.name)
    }

    fn reach(&self) -> Vec<Case> {
        let (it, name, now) = (self.it, &self.it.name, self.known.now);
        let mut out = Vec::new();
        if it.reachable == Some(false) {
            out.push(self.case(&rules::UNREACHABLE).says(
                &format!("repository {name} cannot be reached"),
                "Nothing can be backed up to it or restored from it meanwhile. 'keepwatch doctor --repo …' with its address says what does not work.",
            ));
        }
        let past = self.past.repositories.get(name);
        if let Some((_, (requests, errors))) = past.and_then(|p| p.requests.before(now, 6 * HOUR)) {
            let all: u64 = it.requests.values().sum();
            let bad: u64 = it.request_errors.values().sum();
            let (all, bad) = (all.saturating_sub(requests), bad.saturating_sub(errors));
            if all > REQUESTS && bad as f64 / all as f64 > ERRORS {
                out.push(self.case(&rules::REPOSITORY_ERRORS).says(
                    &format!("repository {name} answers with errors"),
                    &format!("{bad} of {all} requests of the last six hours failed. They are tried again, but runs take longer and may fail."),
                ));
            }
        }
        if it.stale_locks.is_some_and(|n| n > 0) {
            out.push(self.case(&rules::STALE_LOCK).says(
                &format!("repository {name} holds marks of a prune that was not finished"),
                "No prune has come to its end since what was marked should have been deleted: one was interrupted, fails, or does not run. Backups and restores go on; the repository only grows. 'keepwatch history --only runs' shows what became of prune.",
            ));
        }
        out
    }

    fn room(&self) -> Vec<Case> {
        let (it, name) = (self.it, &self.it.name);
        let mut out = Vec::new();
        let Some(available) = it.available else {
            return out;
        };
        let added = self.known.facts.backups.iter();
        let added = added.filter(|b| b.repository == *name);
        let added: Vec<u64> = added.filter_map(|b| b.last_added_size).collect();
        let sum = added.iter().fold(0u64, |sum, n| sum.saturating_add(*n));
        if !added.is_empty() && available < sum.saturating_mul(2) {
            out.push(self.case(&rules::NO_ROOM).says(
                &format!("repository {name} has no room for the next backup"),
                &format!("Only {} are left, less than twice what the last runs added. Free or add space now: the next backup will probably fail.", human_bytes(available)),
            ));
        }
        let past = self.past.repositories.get(name);
        let ahead = past.and_then(|p| p.room.ahead(self.known.now, 4 * DAY, DAY));
        let is_low = it
            .capacity
            .is_some_and(|c| (available as f64) < ROOMY * c as f64);
        if is_low && ahead.is_some_and(|room| room < 0.0) {
            out.push(self.case(&rules::REPOSITORY_FILLING).says(
                &format!("repository {name} fills up"),
                "At the pace of the last three days it is full within four days. 'keepwatch stats' and 'keepwatch prune --dry-run' show what uses the room and what would be freed.",
            ));
        }
        out
    }

    fn verification(&self) -> Vec<Case> {
        let (v, name) = (&self.it.verification, &self.it.name);
        let mut out = Vec::new();
        if v.last_successful == Some(false) {
            out.push(self.case(&rules::VERIFICATION_FAILED).since(v.last_completion).says(
                &format!("the last verification of repository {name} failed"),
                "Some backups in it may not come back. Do not prune. 'keepwatch verify' names what is damaged, 'keepwatch repair' mends what can be mended.",
            ));
        }
        let Some(interval) = v.interval else {
            return out;
        };
        let past = |from: At| {
            let due = after(from, 2 * interval);
            (self.known.now > due).then_some(due)
        };
        if let Some(last) = v.last_success {
            if let Some(due) = past(last) {
                out.push(self.case(&rules::VERIFICATION_STALE).since(Some(due)).says(
                    &format!("repository {name} was not verified for long"),
                    "The last verification without a finding is older than twice its interval: damage would go unnoticed.",
                ));
            }
        } else if let Some(due) = self.it.first_seen.and_then(past) {
            out.push(self.case(&rules::VERIFICATION_NEVER).since(Some(due)).says(
                &format!("repository {name} was never verified"),
                "No verification of it ever succeeded. 'keepwatch verify' by hand tells how it is.",
            ));
        }
        out
    }
}

/// As the last verification found it.
fn gap(one: &One<'_>, w: &Wal) -> Option<Case> {
    if w.gaps == 0 || w.recoverable {
        return None;
    }
    let (name, cluster) = (&one.it.name, &w.cluster);
    let since = one.it.verification.last_completion;
    Some(one.case(&rules::WAL_GAP).label("cluster", cluster).since(since).says(
        &format!("PostgreSQL cluster {cluster} cannot be recovered to the latest moment from repository {name}"),
        &format!("{} segments of its log are missing after the newest base backup. 'keepwatch wal backup' makes a new one, from which on everything can be recovered again; do it now.", w.segments_missing),
    ))
}

/// What is archived and what is not, from the same finding.
fn archive(one: &One<'_>, w: &Wal) -> Option<Case> {
    let (name, cluster) = (&one.it.name, &w.cluster);
    let newest = w.newest_segment?;
    let verified = one.it.verification.last_success?;
    let stale = after(newest, WAL_AGE);
    let what = format!("PostgreSQL cluster {cluster}");
    if w.base_backups > 0 && verified > stale {
        return Some(one.case(&rules::WAL_STALE).label("cluster", cluster).since(Some(stale)).says(
            &format!("{what} archives nothing more into {name}"),
            "At the last verification no log and no base backup had come for over a week. What changed since cannot be brought back.",
        ));
    }
    if w.base_backups == 0 && verified < stale {
        return Some(one.case(&rules::WAL_NO_BASE).label("cluster", cluster).says(
            &format!("{what} archives into {name} without a base backup"),
            "Its log alone brings nothing back. 'keepwatch wal backup' makes the base backup that it begins with.",
        ));
    }
    None
}

fn keys(known: &Known<'_>, out: &mut Vec<Case>) {
    for key in &known.facts.keys {
        let name = &key.name;
        if let Some(ends) = key.not_after.filter(|at| *at < after(known.now, KEY_SOON)) {
            let soon = i64::try_from(KEY_SOON.as_millis()).unwrap_or(i64::MAX);
            out.push(
                known
                    .case(&rules::KEY_ENDS)
                    .label("key", name)
                    .label("purpose", &key.purpose)
                    .since(Some(At(ends.0.saturating_sub(soon))))
                    .says(
                        &format!("key {name} for {} ends soon", key.purpose),
                        "After that runs with it are refused. Issue a new one with 'keepwatch key writer'.",
                    ),
            );
        }
        let due = key.last_verified.map(|at| after(at, KEY_UNPROVED));
        if let Some(due) = due.filter(|due| known.now > *due) {
            out.push(known.case(&rules::KEY_UNPROVED).label("key", name).since(Some(due)).says(
                &format!("recovery key {name} was not tried for half a year"),
                "Nobody proved to hold it. A key that nobody finds in an emergency is no key: restore one file with it.",
            ));
        }
    }
}

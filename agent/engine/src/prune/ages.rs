//! How old things are, for the grace period: by clocks that may be wrong.
//!
//! A clock that stands still or goes back makes everything young: nothing is deleted. One that jumps ahead would end every grace period at once. With a repository on a
//! local disk the store's clock is the same clock, so there is one more witness: the repository itself. When everything in it, by signed and by storage time, is
//! more than [`LEAP`] in the past, either nobody used it for that long, or the clock is wrong. The first prune then deletes nothing and leaves a record dated now (marks
//! that name no pack); the next one finds it and goes on.
//!
//! What is dated ahead of the clock would wait for years, so it is dated anew; but not when packs or snapshots are ahead as well. Then it is likelier that the
//! clock is behind, and the new date would be one by which the grace period has passed as soon as the clock is right again.

use std::time::{Duration, SystemTime};

use keepwatch_model::time::Moment;

use crate::inventory::Inventory;
use crate::marks::MarkedPacks;
use crate::repository::Repository;
use crate::snapshots::SnapshotSet;

/// A clock further ahead of everything in the repository is not believed at once: longer than the usual pause between two backups.
pub const LEAP: Duration = Duration::from_secs(30 * 24 * 3600);
/// What is signed further ahead than this was signed by a wrong clock, and is dated anew.
const FUTURE: Duration = Duration::from_secs(24 * 3600);

/// The latest times that a repository carries; `None` where there is nothing.
pub(super) struct Newest {
    /// Of packs and snapshots.
    content: Option<SystemTime>,
    /// Of tombstones and marks.
    orders: Option<SystemTime>,
}

impl Newest {
    pub(super) fn of(inventory: &Inventory, set: &SnapshotSet, marks: &MarkedPacks) -> Self {
        let packs = inventory.packs.iter().filter(|p| p.stored.is_some());
        let snapshots = set.live.iter().chain(&set.forgotten);
        let tombstones = set.tombstones.iter().map(|t| (t.listed.modified, t.time));
        let marks = marks.records.iter().map(|m| (m.modified, m.time));
        Newest {
            content: packs
                .map(|p| p.modified)
                .chain(snapshots.filter_map(|s| instant(s.end.unix_seconds())))
                .max(),
            orders: tombstones
                .chain(marks)
                .flat_map(|(stored, signed)| [Some(stored), instant(signed)])
                .flatten()
                .max(),
        }
    }
}

/// Judges ages.
#[derive(Clone, Copy)]
pub(super) struct Ages {
    now: SystemTime,
    grace: Duration,
    /// By how much the clock is ahead of everything, when that is too much to be believed.
    ahead: Option<Duration>,
    /// The clock may be behind.
    behind: bool,
}

fn instant(seconds: i64) -> Option<SystemTime> {
    match u64::try_from(seconds) {
        Ok(s) => SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(s)),
        Err(_) => Some(SystemTime::UNIX_EPOCH),
    }
}

impl Ages {
    pub(super) fn new(
        repository: &Repository,
        ours: Moment,
        newest: &Newest,
        grace: Duration,
    ) -> Self {
        let store = repository.store().now();
        let now = instant(ours.unix_seconds()).map_or(store, |ours| {
            // Our clock is read in whole seconds.
            store.min(ours + Duration::from_secs(1))
        });
        let ahead = newest
            .content
            .max(newest.orders)
            .and_then(|n| now.duration_since(n).ok())
            .filter(|a| *a > LEAP && !grace.is_zero());
        let behind = newest
            .content
            .is_some_and(|n| n.duration_since(now).is_ok_and(|d| d > FUTURE));
        Ages {
            now,
            grace,
            ahead,
            behind,
        }
    }
    /// True when the clock is not believed.
    pub(super) fn is_held(&self) -> bool {
        self.ahead.is_some()
    }
    /// For people.
    pub(super) fn note(&self) -> Option<String> {
        let days = self.ahead?.as_secs() / 86_400;
        Some(format!(
            "the clock is {days} days ahead of everything in the repository; in case it is wrong, nothing is deleted this time. If it is right, the next prune goes on"
        ))
    }
    pub(super) fn is_old(&self, stored: SystemTime, signed: Option<i64>) -> bool {
        if self.grace.is_zero() {
            return true;
        }
        if self.is_held() {
            return false;
        }
        let Some(signed) = signed.map_or(Some(stored), instant) else {
            return false;
        };
        self.now
            .duration_since(stored.max(signed))
            .is_ok_and(|age| age > self.grace)
    }
    /// True for what a clock ahead dated.
    pub(super) fn is_future(&self, signed: i64) -> bool {
        !self.behind
            && instant(signed).is_none_or(|s| s.duration_since(self.now).is_ok_and(|d| d > FUTURE))
    }
}

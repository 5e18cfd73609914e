//! `forget`: decide which snapshots a policy drops, and drop them by a tombstone (FORMAT.md, section 8).
//!
//! Forgetting writes one small record and deletes nothing: the snapshot objects, and what only they need, are deleted by `prune` after its grace period.
//! A writer may forget its own snapshots; with the right *maintain*, those of all. A tombstone of anybody else would be passed over by every reader, so
//! it is refused here before it is written. The last complete snapshot of a group is never dropped by a policy
//! ([`keepwatch_model::retention`]); explicit ids are the word of a person and are obeyed.
//!
//! A policy with a slip of the pen drops in one run what took a year to gather. So [`unusual`] says when a plan should be seen by a person first; in steady use it
//! does not, since a policy that was applied before drops about as many snapshots as were made since.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use keepwatch_model::retention::{GroupKey, Policy};
use keepwatch_model::time::Moment;

use crate::ids::{ObjectId, WriterId};
use crate::records::{Forgotten, Origin, Tombstone};
use crate::repository::{PutError, Repository};
use crate::snapshots::{SnapshotFilter, SnapshotRecord, SnapshotSet, foundations};
use crate::store::Area;

/// Snapshots that one tombstone names: 46 bytes each, and 54 for the original of one that is a copy, 8.0 MB of the 8 MiB that a record may hold. More are split.
pub(crate) const TOMBSTONE_SNAPSHOTS: usize = 80_000;

/// A policy may drop so many snapshots more than were made since the last `forget`, without a question.
pub const MANY: usize = 20;
/// Tombstones dated further ahead than this were written by a wrong clock. Seconds.
const FUTURE: i64 = 24 * 3600;

/// What a policy says about one snapshot.
#[derive(Clone, Debug)]
pub struct Decision {
    /// Which.
    pub snapshot: SnapshotRecord,
    /// Whether it stays.
    pub keep: bool,
    /// Why it stays, for people; empty when it goes.
    pub reasons: Vec<String>,
}

/// Snapshots that are judged together.
#[derive(Clone, Debug)]
pub struct Group {
    /// Their host, when grouped by it.
    pub host: Option<String>,
    /// Their job, when grouped by it and they have one.
    pub job: Option<String>,
    /// Their tags, sorted, when grouped by them.
    pub tags: Option<Vec<String>>,
    /// Their source paths, sorted, when grouped by them.
    pub paths: Option<Vec<String>>,
    /// Newest first.
    pub decisions: Vec<Decision>,
}

/// What `forget` would do.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// In the order of their keys.
    pub groups: Vec<Group>,
}

impl Plan {
    /// The snapshots that go.
    pub fn forgotten(&self) -> Vec<&SnapshotRecord> {
        self.groups
            .iter()
            .flat_map(|g| &g.decisions)
            .filter(|d| !d.keep)
            .map(|d| &d.snapshot)
            .collect()
    }
    /// How many stay.
    pub fn kept(&self) -> usize {
        self.groups
            .iter()
            .flat_map(|g| &g.decisions)
            .filter(|d| d.keep)
            .count()
    }
}

/// Applies a policy to each group of the live snapshots that fit the filter. Changes nothing.
pub fn plan(
    set: &SnapshotSet,
    policy: &Policy,
    group_by: &[GroupKey],
    filter: &SnapshotFilter,
    now: Moment,
) -> Plan {
    type Key = (
        Option<String>,
        Option<Option<String>>,
        Option<Vec<String>>,
        Option<Vec<String>>,
    );
    let by = |key: GroupKey| group_by.contains(&key);
    let sorted = |texts: Vec<String>| {
        texts
            .into_iter()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect::<Vec<_>>()
    };
    let mut groups: BTreeMap<Key, Vec<SnapshotRecord>> = BTreeMap::new();
    for s in set.live.iter().filter(|s| filter.matches(s)) {
        let key = (
            by(GroupKey::Host).then(|| s.body.host.clone()),
            by(GroupKey::Job).then(|| s.body.job.clone()),
            by(GroupKey::Tags).then(|| sorted(s.body.tags.clone())),
            by(GroupKey::Paths).then(|| sorted(s.paths())),
        );
        groups.entry(key).or_default().push(s.clone());
    }
    let mut groups: Vec<Group> = groups
        .into_iter()
        .map(|((host, job, tags, paths), list)| Group {
            host,
            job: job.flatten(),
            tags,
            paths,
            decisions: policy
                .apply(&list, now)
                .into_iter()
                .map(|d| Decision {
                    snapshot: list[d.index].clone(),
                    keep: d.keep,
                    reasons: d.reasons.iter().map(ToString::to_string).collect(),
                })
                .collect(),
        })
        .collect();
    let dropped: HashSet<ObjectId> = groups
        .iter()
        .flat_map(|g| &g.decisions)
        .filter(|d| !d.keep)
        .map(|d| d.snapshot.id)
        .collect();
    let stays = set.live.iter().filter(|s| !dropped.contains(&s.id));
    let needed = foundations(stays, &set.live);
    let decisions = groups.iter_mut().flat_map(|g| &mut g.decisions);
    for d in decisions.filter(|d| !d.keep && needed.contains(&d.snapshot.id)) {
        d.keep = true;
        d.reasons.push("base of an incremental one".to_owned());
    }
    Plan { groups }
}

/// A base backup of these that others, which are not among them, are built on: forgetting it would change nothing.
pub fn needed_by_others(set: &SnapshotSet, these: &[&SnapshotRecord]) -> Option<ObjectId> {
    let named: HashSet<ObjectId> = these.iter().map(|s| s.id).collect();
    let others = set.live.iter().filter(|s| !named.contains(&s.id));
    let needed = foundations(others, &set.live);
    these.iter().map(|s| s.id).find(|id| needed.contains(id))
}

/// Why a person should look at a plan before it is carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unusual {
    /// It drops more than half of the snapshots that it looked at, and more than [`MANY`] beyond those made since the last `forget`.
    Many {
        /// Snapshots to be dropped.
        dropped: usize,
        /// Of so many.
        of: usize,
        /// Of these, made since the last `forget`.
        recent: usize,
    },
    /// It leaves nothing of a group. Only a group of nothing but partial snapshots can end so.
    Last {
        /// Its place in [`Plan::groups`].
        group: usize,
        /// Snapshots in it.
        snapshots: usize,
    },
}

/// Says whether a plan is out of the ordinary. The last `forget` is known by its tombstone; of a repository without any, every snapshot counts as old.
pub fn unusual(set: &SnapshotSet, plan: &Plan, now: Moment) -> Option<Unusual> {
    let emptied = plan.groups.iter().enumerate().find(|(_, g)| {
        // The rules of a policy keep the newest; it is told apart from "nothing to judge".
        !g.decisions.is_empty() && g.decisions.iter().all(|d| !d.keep)
    });
    if let Some((group, g)) = emptied {
        let snapshots = g.decisions.len();
        return Some(Unusual::Last { group, snapshots });
    }
    let last = set
        .tombstones
        .iter()
        .map(|t| t.time)
        .filter(|t| *t <= now.unix_seconds().saturating_add(FUTURE))
        .max();
    let decisions = || plan.groups.iter().flat_map(|g| &g.decisions);
    let of = decisions().count();
    let dropped = decisions().filter(|d| !d.keep).count();
    let recent = decisions()
        .filter(|d| last.is_some_and(|t| d.snapshot.start.unix_seconds() >= t))
        .count();
    (dropped > of / 2 && dropped > MANY + recent).then_some(Unusual::Many {
        dropped,
        of,
        recent,
    })
}

/// Why nothing, or not everything, was forgotten.
#[derive(Debug, thiserror::Error)]
pub enum ForgetError {
    /// Another writer's snapshot.
    #[error(
        "writer {writer} may not forget snapshot {}, which writer {owner} made: that needs the right 'maintain'; nothing was forgotten",
        snapshot.short()
    )]
    NotYours {
        /// Who asked.
        writer: WriterId,
        /// Whose it is.
        owner: WriterId,
        /// Which.
        snapshot: ObjectId,
    },
    /// The tombstone was not stored.
    #[error("the record of what is forgotten was not stored, so nothing is forgotten: {0}")]
    Put(#[from] PutError),
}

/// Forgets snapshots: writes a tombstone that names them. Returns the tombstone; `None` when there was nothing to forget.
pub fn apply(
    repository: &Repository,
    forgotten: &[&SnapshotRecord],
    now: Moment,
) -> Result<Option<ObjectId>, ForgetError> {
    let writer = repository.writer().ok_or(PutError::NeedsWriter)?.id;
    let maintain = repository
        .writers()
        .get(&writer)
        .is_some_and(|w| w.maintain && !w.revoked);
    if let Some(s) = forgotten.iter().find(|s| !maintain && s.writer != writer) {
        return Err(ForgetError::NotYours {
            writer,
            owner: s.writer,
            snapshot: s.id,
        });
    }
    let named: BTreeMap<ObjectId, (Forgotten, Option<Origin>)> = forgotten
        .iter()
        .map(|s| {
            let f = Forgotten {
                id: s.id,
                writer: s.writer,
                sequence: s.body.sequence,
            };
            (s.id, (f, s.body.original))
        })
        .collect();
    let named: Vec<_> = named.into_values().collect();
    let mut last = None;
    for some in named.chunks(TOMBSTONE_SNAPSHOTS) {
        let body = Tombstone::new(
            now.unix_seconds(),
            some.iter().map(|n| n.0).collect(),
            some.iter().filter_map(|n| n.1).collect(),
        );
        last = Some(repository.put_record(Area::Tombstones, &body)?);
    }
    Ok(last)
}

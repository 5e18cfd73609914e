//! The set of snapshots: which there are, which are forgotten, which cannot be believed; and finding the one that a person means.

use std::collections::{BTreeMap, HashMap, HashSet};

use keepwatch_model::retention::Candidate;
use keepwatch_model::time::Moment;

use crate::ids::{ObjectId, WriterId};
use crate::object::{ContentError, ObjectError};
use crate::records::{BaseBackup, Forgotten, Foundation, Origin, Outcome, Snapshot, Tombstone};
use crate::repository::Repository;
use crate::store::{Area, Listed, Name, both, list_all};

/// A snapshot with its id and its writer, signature checked.
#[derive(Clone, Debug)]
pub struct SnapshotRecord {
    /// Hash of the stored object.
    pub id: ObjectId,
    /// Who signed it.
    pub writer: WriterId,
    /// The writer's key was taken back: it may have been signed by a thief.
    pub revoked: bool,
    /// What it says.
    pub body: Snapshot,
    /// As moments, checked.
    pub start: Moment,
    /// See `start`.
    pub end: Moment,
}

impl SnapshotRecord {
    /// True when everything that was asked for is in it.
    pub fn is_complete(&self) -> bool {
        self.body.outcome == Outcome::Succeeded as u8
    }
    /// Source paths for people.
    pub fn paths(&self) -> Vec<String> {
        self.body
            .paths
            .iter()
            .map(|p| String::from_utf8_lossy(p).into_owned())
            .collect()
    }
}

impl Candidate for SnapshotRecord {
    fn time(&self) -> Moment {
        self.start
    }
    fn tags(&self) -> &[String] {
        &self.body.tags
    }
    fn complete(&self) -> bool {
        // One that a thief may have made does not make the last good one superfluous.
        self.is_complete() && !self.revoked
    }
}

/// A tombstone that is believed.
#[derive(Clone, Debug)]
pub struct TombstoneRecord {
    /// Its object.
    pub listed: Listed,
    /// Its signer.
    pub signer: WriterId,
    /// Seconds since 1970, as signed.
    pub time: i64,
    /// Those of its snapshots that its signer may forget.
    pub snapshots: Vec<Forgotten>,
    /// The originals of those that are copies, as it says.
    pub origins: Vec<Origin>,
}

/// Everything known about snapshots.
#[derive(Default)]
pub struct SnapshotSet {
    /// Not forgotten, oldest first.
    pub live: Vec<SnapshotRecord>,
    /// Forgotten, the object still there.
    pub forgotten: Vec<SnapshotRecord>,
    /// All tombstones.
    pub tombstones: Vec<TombstoneRecord>,
    /// Objects that cannot be used.
    pub problems: Vec<ObjectError>,
}

/// The base backups among `all` that those of `roots` are built on, directly or by others between them.
pub fn foundations<'a>(
    roots: impl IntoIterator<Item = &'a SnapshotRecord>,
    all: impl IntoIterator<Item = &'a SnapshotRecord>,
) -> HashSet<ObjectId> {
    let below = |b: &BaseBackup| b.after.map(|f| (b.system, f));
    let bases = |s: &'a SnapshotRecord| s.body.base.as_ref();
    let mut next: Vec<(u64, Foundation)> =
        roots.into_iter().filter_map(|s| below(bases(s)?)).collect();
    let mut out = HashSet::new();
    if next.is_empty() {
        return out;
    }
    let mut there: HashMap<(u64, Foundation), Vec<(ObjectId, &BaseBackup)>> = HashMap::new();
    for s in all {
        if let Some(b) = bases(s) {
            let of = there.entry((b.system, b.as_foundation())).or_default();
            of.push((s.id, b));
        }
    }
    while let Some(key) = next.pop() {
        for (id, base) in there.get(&key).into_iter().flatten() {
            if out.insert(*id) {
                next.extend(below(base));
            }
        }
    }
    out
}

/// No snapshot is meant, or more than one.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SelectError {
    /// There is none at all that fits.
    #[error("there is no snapshot{0} in the repository")]
    None(String),
    /// The text fits none.
    #[error(
        "no snapshot is named '{0}'; give 'latest', or the beginning of an id as 'keepwatch snapshots' shows it"
    )]
    Unknown(String),
    /// The text fits several.
    #[error("'{text}' fits {count} snapshots; give more digits")]
    Ambiguous {
        /// As given.
        text: String,
        /// How many.
        count: usize,
    },
}

/// Which snapshots are meant by `latest`.
#[derive(Default, Clone, Debug)]
pub struct SnapshotFilter {
    /// Of these hosts; empty: any.
    pub hosts: Vec<String>,
    /// With all tags of one of these lists; empty: any.
    pub tags: Vec<Vec<String>>,
    /// Of these jobs; empty: any.
    pub jobs: Vec<String>,
    /// With all these source paths; empty: any.
    pub paths: Vec<String>,
}

impl SnapshotFilter {
    /// True when the snapshot fits.
    pub fn matches(&self, s: &SnapshotRecord) -> bool {
        (self.hosts.is_empty() || self.hosts.contains(&s.body.host))
            && (self.tags.is_empty()
                || self
                    .tags
                    .iter()
                    .any(|l| l.iter().all(|t| s.body.tags.contains(t))))
            && (self.jobs.is_empty() || s.body.job.as_ref().is_some_and(|j| self.jobs.contains(j)))
            && (self.paths.is_empty() || self.paths.iter().all(|p| s.paths().contains(p)))
    }
}

impl Repository {
    /// Reads all snapshots and tombstones.
    pub fn snapshots(&self) -> Result<SnapshotSet, ObjectError> {
        let mut set = SnapshotSet::default();
        // A tombstone that is written meanwhile hides at worst too little.
        let (snapshots, tombstones) = both(
            &**self.store(),
            || list_all(&**self.store(), Area::Snapshots),
            || list_all(&**self.store(), Area::Tombstones),
        );
        let (snapshots, tombstones) = (snapshots?, tombstones?);
        let mut of_tombstones = tombstones.iter();
        self.each_record::<Tombstone>(Area::Tombstones, &ids(&tombstones), &mut |_, record| {
            let Some(listed) = of_tombstones.next().cloned() else {
                return;
            };
            match record {
                Ok((signer, t)) => {
                    let any = self.writers().get(&signer).is_some_and(|w| w.maintain);
                    let snapshots = t
                        .snapshots
                        .into_iter()
                        .filter(|f| any || f.writer == signer)
                        .collect();
                    set.tombstones.push(TombstoneRecord {
                        listed,
                        signer,
                        time: t.time,
                        snapshots,
                        origins: t.origins.unwrap_or_default(),
                    });
                }
                Err(e) if e.is_missing() => {} // consolidated by a prune meanwhile
                Err(e) if e.is_revoked() => {} // its word no longer counts
                Err(e) => set.problems.push(e),
            }
        });
        // With the writer: a tombstone that names another than the signer of the snapshot does not count, and must not hide one that does.
        let dead: HashSet<(ObjectId, WriterId)> = set
            .tombstones
            .iter()
            .flat_map(|t| t.snapshots.iter().map(|f| (f.id, f.writer)))
            .collect();
        self.each_record::<Snapshot>(Area::Snapshots, &ids(&snapshots), &mut |id, record| {
            match record.and_then(|(writer, body)| self.as_snapshot(id, writer, body)) {
                Ok(s) if dead.contains(&(id, s.writer)) => set.forgotten.push(s),
                Ok(s) => set.live.push(s),
                Err(e) if e.is_missing() => {}
                Err(e) => set.problems.push(e),
            }
        });
        // Nothing takes from a base backup what it is built on: a tombstone waits until none needs it.
        let kept = foundations(&set.live, &set.forgotten);
        if !kept.is_empty() {
            let (back, gone) = set
                .forgotten
                .into_iter()
                .partition(|s| kept.contains(&s.id));
            set.forgotten = gone;
            set.live.extend::<Vec<_>>(back);
        }
        let order =
            |a: &SnapshotRecord, b: &SnapshotRecord| a.start.cmp(&b.start).then(a.id.cmp(&b.id));
        set.live.sort_by(order);
        set.forgotten.sort_by(order);
        Ok(set)
    }

    /// Reads one snapshot.
    pub fn snapshot(&self, id: ObjectId) -> Result<SnapshotRecord, ObjectError> {
        let (writer, body) = self.get_record::<Snapshot>(Area::Snapshots, id)?;
        self.as_snapshot(id, writer, body)
    }

    fn as_snapshot(
        &self,
        id: ObjectId,
        writer: WriterId,
        body: Snapshot,
    ) -> Result<SnapshotRecord, ObjectError> {
        let bad = |why: &str| {
            ObjectError::content(Name::Snapshot(id), ContentError::Decode(why.to_owned()))
        };
        let (Some(start), Some(end)) = (body.start.moment(), body.end.moment()) else {
            return Err(bad("impossible time"));
        };
        let revoked = self.writers().get(&writer).is_none_or(|w| w.revoked);
        if body.outcome > Outcome::Partial as u8 || body.source > 1 {
            return Err(bad("unknown outcome or source"));
        }
        Ok(SnapshotRecord {
            id,
            writer,
            revoked,
            body,
            start,
            end,
        })
    }
}

/// Of objects whose names are hashes, which all of these areas hold.
fn ids(listed: &[Listed]) -> Vec<ObjectId> {
    listed.iter().filter_map(|l| l.name.object_id()).collect()
}

impl SnapshotSet {
    /// The snapshot that `text` means: `latest` (of those that fit the filter), or the beginning of an id; forgotten ones only by id.
    pub fn select(
        &self,
        text: &str,
        filter: &SnapshotFilter,
        now: Moment,
    ) -> Result<&SnapshotRecord, SelectError> {
        if text == "latest" {
            // A clock that was wrong must not make yesterday's backup unreachable: snapshots of the future stand behind those of the past.
            let horizon = now.unix_seconds() + 24 * 3600;
            return self
                .live
                .iter()
                .filter(|s| !s.revoked && filter.matches(s))
                .max_by_key(|s| (s.start.unix_seconds() <= horizon, s.start, s.id))
                .ok_or_else(|| {
                    SelectError::None(if self.live.is_empty() {
                        String::new()
                    } else {
                        " that fits".into()
                    })
                });
        }
        let plain = text.len() >= 4 && text.bytes().all(|b| b.is_ascii_hexdigit());
        if !plain {
            return Err(SelectError::Unknown(text.chars().take(80).collect()));
        }
        let text = text.to_ascii_lowercase();
        let found: Vec<_> = self
            .live
            .iter()
            .chain(&self.forgotten)
            .filter(|s| s.id.to_string().starts_with(&text))
            .collect();
        match found[..] {
            [one] => Ok(one),
            [] => Err(SelectError::Unknown(text)),
            _ => Err(SelectError::Ambiguous {
                text,
                count: found.len(),
            }),
        }
    }

    /// Predecessors that are neither there nor forgotten: removed behind our back. (snapshot that names it, the missing one)
    pub fn broken_links(&self) -> Vec<(ObjectId, ObjectId)> {
        let known: BTreeMap<ObjectId, ()> = self
            .live
            .iter()
            .chain(&self.forgotten)
            .map(|s| s.id)
            .chain(
                self.tombstones
                    .iter()
                    .flat_map(|t| t.snapshots.iter().map(|f| f.id)),
            )
            .map(|id| (id, ()))
            .collect();
        self.live
            .iter()
            .chain(&self.forgotten)
            .filter_map(|s| s.body.previous.map(|p| (s.id, p)))
            .filter(|(_, p)| !known.contains_key(p))
            .collect()
    }

    /// The newest snapshot of a writer, forgotten ones included, by its own count.
    pub fn newest_of(&self, writer: WriterId) -> Option<&SnapshotRecord> {
        self.live
            .iter()
            .chain(&self.forgotten)
            .filter(|s| s.writer == writer)
            .max_by_key(|s| s.body.sequence)
    }

    /// What the next snapshot of a writer says of the one before it: that one's id, and its own number.
    pub fn next_of(&self, writer: WriterId) -> (Option<ObjectId>, u64) {
        let newest = self.newest_of(writer).map(|s| (s.id, s.body.sequence));
        let forgotten = self
            .tombstones
            .iter()
            .flat_map(|t| &t.snapshots)
            .filter(|f| f.writer == writer)
            .map(|f| (f.id, f.sequence));
        match newest.into_iter().chain(forgotten).max_by_key(|(_, n)| *n) {
            Some((id, n)) => (Some(id), n.saturating_add(1)),
            None => (None, 1),
        }
    }
}

//! What a prune tells of itself.

/// What was done, or would be done. Counts of packs and sums of bytes as stored.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Report {
    /// Snapshots that count: live ones, and those forgotten within the grace period.
    pub snapshots_needed: u64,
    /// Of these, forgotten ones that wait for their grace period.
    pub snapshots_waiting: u64,
    /// Forgotten snapshots whose objects were deleted.
    pub snapshots_deleted: u64,
    /// Packs that stay as they are.
    pub packs_kept: u64,
    /// Packs newly marked; those repacked and those in no index among them.
    pub packs_marked: u64,
    /// Of the newly marked, those whose living part was copied.
    pub packs_repacked: u64,
    /// Of the newly marked, those that no index names.
    pub packs_orphaned: u64,
    /// Packs deleted.
    pub packs_deleted: u64,
    /// Marked packs that are needed after all.
    pub packs_rescued: u64,
    /// Packs marked before that wait for their grace period.
    pub packs_waiting: u64,
    /// All packs, before.
    pub bytes_before: u64,
    /// All packs, after.
    pub bytes_after: u64,
    /// Needed by snapshots.
    pub bytes_needed: u64,
    /// In packs that stay and are older than the grace period, but not needed.
    pub bytes_unused: u64,
    /// Copied into new packs.
    pub bytes_copied: u64,
    /// Deleted.
    pub bytes_freed: u64,
    /// Marked, to be freed by a later prune.
    pub bytes_waiting: u64,
    /// Files of PostgreSQL's write-ahead log that stay.
    pub wal_kept: u64,
    /// Those that are deleted: no base backup that is kept needs them.
    pub wal_deleted: u64,
    /// Their bytes, which the other sums do not hold.
    pub wal_bytes_freed: u64,
    /// Objects that would have been deleted and are locked; a later prune deletes them.
    pub objects_locked: u64,
    /// Objects whose locks were prolonged.
    pub locks_renewed: u64,
    /// The clock was not believed, see [`super::LEAP`]: nothing was deleted.
    pub clock_ahead: bool,
    /// What a person should know although nothing failed.
    pub notes: Vec<String>,
}

//! The log as a repository has it: of each cluster, which segments of which timelines, and where timelines branched off.
//!
//! It follows from one listing, and from the heads of the histories and of one segment for each cluster, which tell how long segments are. Needs no identity.
//!
//! Memory: 8 bytes for each segment.

use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use keepwatch_engine::ids::WalCluster;
use keepwatch_engine::object::ObjectError;
use keepwatch_engine::records::Ancestor;
use keepwatch_engine::repository::Repository;
use keepwatch_engine::store::{Area, Listed, Name};
use keepwatch_engine::wal;
use keepwatch_engine::wal_file::WalFile;

/// Problems told of one cluster.
const PROBLEMS: usize = 100;

/// What there is of one cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterLog {
    /// System identifier, as a head says it.
    pub system: Option<u64>,
    /// Bytes of a segment; `None` without any segment.
    pub segment_bytes: Option<u64>,
    /// Positions of whole segments by timeline, ascending.
    pub segments: BTreeMap<u32, Vec<u64>>,
    /// Histories that can be read, by timeline.
    pub histories: BTreeMap<u32, Vec<Ancestor>>,
    /// Objects.
    pub files: u64,
    /// Their bytes as stored.
    pub bytes: u64,
    /// When the store took the newest segment. Seconds since 1970.
    pub newest: Option<u64>,
    /// What cannot be used.
    pub problems: Vec<String>,
}

/// Reads what there is, of all clusters or of one.
pub fn load(
    repository: &Repository,
    only: Option<WalCluster>,
) -> Result<BTreeMap<WalCluster, ClusterLog>, ObjectError> {
    let mut out: BTreeMap<WalCluster, ClusterLog> = BTreeMap::new();
    let mut heads: BTreeMap<(WalCluster, Option<u32>), Vec<Listed>> = BTreeMap::new();
    let under = only.map(|c| format!("{c}/")).unwrap_or_default();
    repository.store().list_under(Area::Wal, &under, &mut |l| {
        let Name::Wal(cluster, file, _) = l.name else {
            return;
        };
        let log = out.entry(cluster).or_default();
        log.files += 1;
        log.bytes += l.size;
        if matches!(file, WalFile::Segment(_) | WalFile::Partial(_)) {
            let stored = l.modified.duration_since(UNIX_EPOCH);
            log.newest = log.newest.max(stored.ok().map(|d| d.as_secs()));
        }
        match file {
            WalFile::Segment(s) => {
                log.segments.entry(s.timeline).or_default().push(s.position);
                // Any of them will do.
                let one = heads.entry((cluster, None)).or_default();
                if one.len() < 4 {
                    one.push(l);
                }
            }
            WalFile::History(t) => heads.entry((cluster, Some(t))).or_default().push(l),
            WalFile::Partial(_) | WalFile::Label(..) => {}
        }
    })?;
    for log in out.values_mut() {
        for positions in log.segments.values_mut() {
            positions.sort_unstable();
            positions.dedup();
        }
    }
    for ((cluster, history), listed) in heads {
        let log = out.entry(cluster).or_default();
        let mut why = None;
        for l in listed {
            match wal::head(repository, &l) {
                Ok(head) if head.revoked && history.is_some() => {
                    why = Some(format!("{}: its writer's key was revoked", l.name));
                }
                Ok(head) => {
                    log.system = Some(head.body.system);
                    match history {
                        Some(t) => {
                            let ancestors = head.body.ancestors.unwrap_or_default();
                            log.histories.insert(t, ancestors);
                        }
                        None => log.segment_bytes = Some(head.body.length),
                    }
                    why = None;
                    break;
                }
                Err(ObjectError::Store(e)) if !e.is_missing() => return Err(e.into()),
                Err(e) => why = Some(e.to_string()),
            }
        }
        if let Some(why) = why.filter(|_| log.problems.len() < PROBLEMS) {
            log.problems.push(why);
        }
    }
    Ok(out)
}

/// Whether a segment of this timeline is there that comes after a position: then one that is missing at the position is a gap, not the end.
pub fn goes_on(log: &ClusterLog, timeline: u32, position: u64) -> bool {
    log.segments
        .get(&timeline)
        .and_then(|p| p.last())
        .is_some_and(|last| *last > position)
}

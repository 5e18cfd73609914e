//! The write-ahead log of PostgreSQL from one repository into another: what the base backups there need, and what is not there yet.
//!
//! Between twins the sealed part is carried over as it is; only the head is signed anew. Between strangers each file is opened and sealed again, which needs an identity. What was stored is read back,
//! as with everything that `copy` stores. Files are copied one after another, the oldest first, so that an interrupted copy leaves no gap.

use std::collections::{BTreeMap, HashSet};

use super::{CopyError, Options};
use crate::ids::WalCluster;
use crate::limits;
use crate::object::ObjectError;
use crate::progress::{Cancel, Event, Progress};
use crate::repository::{AccessError, PutError, Repository};
use crate::store::{Area, Listed, Name};
use crate::wal::{self, Needed, NewWal, WalError};
use crate::wal_file::WalFile;

/// What was done, or would be.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Report {
    /// Files copied.
    pub copied: u64,
    /// Their bytes as stored.
    pub bytes: u64,
    /// There already.
    pub skipped: u64,
    /// Not copied, with the reason; at most a hundred.
    pub failed: Vec<(String, String)>,
    /// How many were not copied.
    pub failed_total: u64,
}

/// As many failures are named.
const NAMED: usize = 100;

/// Copies it. To be called when the snapshots were copied: which WAL is needed follows from the base backups in the destination.
pub fn run(
    from: &Repository,
    to: &Repository,
    options: &Options,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Report, CopyError> {
    let mut report = Report::default();
    if to.writer().is_none() {
        return Err(AccessError::NeedsWriter("copying to a repository").into());
    }
    let set = to.snapshots()?;
    let needed = Needed::by(to, set.live.iter());
    // The name of a cluster here and there.
    let clusters: BTreeMap<WalCluster, WalCluster> = set
        .live
        .iter()
        .filter_map(|s| s.body.base.as_ref())
        .map(|b| (from.hash().cluster(b.system), to.hash().cluster(b.system)))
        .collect();
    if clusters.is_empty() {
        return Ok(report);
    }
    progress.event(Event::Phase("write-ahead log"));
    let mut there: HashSet<(WalCluster, WalFile)> = HashSet::new();
    to.store()
        .list(Area::Wal, &mut |l| {
            if let Name::Wal(cluster, file, _) = l.name {
                there.insert((cluster, file));
            }
        })
        .map_err(ObjectError::from)?;
    // One file may stand in several objects.
    let mut wanted: BTreeMap<(WalCluster, Option<u64>, WalFile), Vec<Listed>> = BTreeMap::new();
    from.store()
        .list(Area::Wal, &mut |l| {
            let Name::Wal(cluster, file, _) = l.name else {
                return;
            };
            let Some(target) = clusters.get(&cluster) else {
                return;
            };
            if !needed.has(*target, file) {
                return;
            }
            if there.contains(&(*target, file)) {
                report.skipped += 1;
            } else {
                let key = (*target, file.position(), file);
                wanted.entry(key).or_default().push(l);
            }
        })
        .map_err(ObjectError::from)?;
    for ((_, _, file), copies) in wanted {
        cancel.check()?;
        if options.dry_run {
            report.copied += 1;
            report.bytes += copies[0].size;
            continue;
        }
        match one(from, to, file, &copies, options)? {
            Ok(bytes) => {
                report.copied += 1;
                report.bytes += bytes;
                progress.event(Event::Done { items: 1, bytes });
            }
            Err(why) => {
                report.failed_total += 1;
                if report.failed.len() < NAMED {
                    report.failed.push((file.to_string(), why));
                }
            }
        }
    }
    Ok(report)
}

/// Copies a file: the bytes stored, or why it is left out. What the destination does ends the run.
fn one(
    from: &Repository,
    to: &Repository,
    file: WalFile,
    copies: &[Listed],
    options: &Options,
) -> Result<Result<u64, String>, CopyError> {
    let mut why = "it vanished".to_owned();
    let mut chosen: Option<(Name, wal::Head, Vec<u8>)> = None;
    for listed in copies {
        match wal::read(from, &listed.name) {
            Ok((head, _)) if head.revoked => {
                why = format!(
                    "it was signed by writer {}, whose key was revoked",
                    head.writer
                );
            }
            Ok((head, bytes)) => match &chosen {
                Some((_, first, _)) if first.body.content != head.body.content => {
                    return Ok(Err("it is there twice with different content".into()));
                }
                Some(_) => {}
                None => chosen = Some((listed.name.clone(), head, bytes)),
            },
            Err(e) => why = e.to_string(),
        }
    }
    let Some((name, head, bytes)) = chosen else {
        return Ok(Err(why));
    };
    let made = if from.is_twin_of(to) {
        wal::with_head(to, &head.body, &bytes[head.record..])
    } else {
        let content = match wal::content(from, &name, &head, &bytes) {
            Ok(c) => c,
            Err(e) => return Ok(Err(e.to_string())),
        };
        let new = NewWal {
            system: head.body.system,
            file,
            content: &content,
            ancestors: head.body.ancestors.clone(),
            time: head.body.time,
        };
        wal::make(to, &new, to.hash().wal(&content))
    };
    let made = made.map_err(|e| match e {
        WalError::Put(e) => CopyError::Put(e),
        WalError::Object(e) => CopyError::Object(e),
        e => CopyError::Random(e.to_string()),
    })?;
    let id = crate::ids::ObjectId::of(&made);
    let name = Name::Wal(to.hash().cluster(head.body.system), file, id);
    to.store().put(&name, &made).map_err(PutError::from)?;
    if options.read_back {
        let back = to
            .store()
            .get(&name, limits::WAL_OBJECT_BYTES)
            .map_err(ObjectError::from)?;
        if back != made {
            return Err(CopyError::ReadBack(name));
        }
    }
    Ok(Ok(made.len() as u64))
}

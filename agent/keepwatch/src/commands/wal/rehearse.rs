//! A drill of a base backup: brought back with its log into scratch space, started there by a private server, replayed to the end, and asked.
//!
//! The log is brought beforehand, by us: the server and its children get neither the repository nor the identity. It takes room: everything since the base backup.

use std::path::Path;
use std::time::Instant;

use keepwatch_engine::lookup::Lookup;
use keepwatch_engine::repository::Repository;
use keepwatch_engine::snapshots::{SnapshotRecord, SnapshotSet};
use keepwatch_engine::wal_file::{Segment, WalFile};
use keepwatch_sources::fault::{Fault, Reason};
use keepwatch_sources::rehearse::cluster::Cluster;
use keepwatch_sources::rehearse::{Answer, Rehearsal};
use keepwatch_sources::restore::Report;
use keepwatch_sources::setting::Setting;
use keepwatch_wal::extract::Owner;
use keepwatch_wal::gaps;
use keepwatch_wal::history;
use keepwatch_wal::lsn::Lsn;

use super::bring::Log;
use super::combine::{self, Bringer};
use super::restore::Start;
use crate::commands::source_args::failure;
use crate::context::Context;
use crate::errors::Failure;

/// What is rehearsed.
pub struct Base<'a> {
    /// Who asks.
    pub context: &'a Context,
    /// From where.
    pub repository: &'a Repository,
    /// Its index.
    pub lookup: &'a Lookup,
    /// Its snapshots.
    pub set: &'a SnapshotSet,
    /// The one of the base backup.
    pub snapshot: &'a SnapshotRecord,
}

impl Base<'_> {
    /// Restores, replays, asks. Returns how many files came back as well.
    ///
    /// # Errors
    /// It cannot be restored or started.
    pub fn rehearse(
        &self,
        package: Option<&Path>,
        questions: &[String],
        setting: &Setting,
        began: Instant,
    ) -> Result<(Rehearsal, u64), Failure> {
        let (repository, snapshot) = (self.repository, self.snapshot);
        let short = snapshot.id.short();
        let Some(base) = &snapshot.body.base else {
            return Err(Failure::usage(format!(
                "snapshot {short} is no base backup of PostgreSQL"
            )));
        };
        let start = Start::of(repository, snapshot, base, None, false)?;
        if let Some((why, _)) = start.obstacle(repository, self.set, None) {
            return Err(Failure::failed(format!(
                "base backup {short} cannot be brought to the end of its log: {why}"
            ))
            .advice("'keepwatch wal verify' shows the gaps; make a new base backup"));
        }
        let chain = combine::chain(repository, self.set, snapshot)?;
        let segments = gaps::segments(&start.log, base, &start.path, None);
        let segment = start.log.segment_bytes.unwrap_or(0);
        let cluster = Cluster::new(package, &base.version, setting).map_err(failure)?;
        let bytes: u64 = chain.iter().map(|s| s.body.totals.bytes).sum();
        let times = if chain.len() > 1 { 2 } else { 1 };
        let log_bytes = segment.saturating_mul(segments.len() as u64);
        must_have_room(
            &setting.scratch,
            bytes.saturating_mul(times).saturating_add(log_bytes),
        )?;
        let owner = cluster.owner().map(|o| Owner {
            uid: o.uid,
            gid: o.gid,
        });
        let bringer = Bringer {
            context: self.context,
            repository,
            lookup: self.lookup,
            pg_bin: Some(cluster.bin()),
            owner,
            note: Some(&|pid| cluster.note(pid)),
        };
        let there = Log {
            base,
            path: &start.path,
            log: &start.log,
            to: None,
        };
        let written = bringer.bring(&chain, cluster.data())?;
        there.bring(self.context, repository, cluster.data(), owner)?;
        let timeline = start.path.last().copied().unwrap_or(base.timeline);
        cluster.recover(timeline, setting).map_err(failure)?;
        let restored = began.elapsed();
        let mut answers = vec![replayed(
            cluster.data(),
            segments.last().copied(),
            segment,
            Lsn(base.end),
        )];
        answers.extend(cluster.ask(questions, setting).map_err(failure)?);
        let report = Report {
            bytes: written.bytes.saturating_add(log_bytes),
            ..Report::default()
        };
        Ok((
            Rehearsal {
                report,
                restore_seconds: restored.as_secs_f64(),
                answers,
            },
            written.files.saturating_add(segments.len() as u64),
        ))
    }
}

fn must_have_room(place: &Path, bytes: u64) -> Result<(), Failure> {
    super::restore::must_have_room(place, bytes).map_err(|f| {
        failure(Fault::new(
            Reason::NoSpace,
            format!("not enough space in the scratch directory: {}", f.message),
        ))
    })
}

/// Whether the server replayed the last segment as well: where it left the log stands in the history of the timeline on which it opened.
fn replayed(data: &Path, last: Option<Segment>, size: u64, end: Lsn) -> Answer {
    let left = left_at(&data.join("pg_wal"));
    let start = last.map(|s| {
        let per_log = (s.position >> 32) << 32;
        Lsn(per_log + (s.position & 0xffff_ffff).saturating_mul(size))
    });
    let (question, wanted) = match (last, start) {
        (Some(last), Some(start)) if start >= end => (
            format!("the log is replayed to its end, in segment {last}"),
            start,
        ),
        _ => (
            format!("the log is replayed until it is consistent, at {end}"),
            end,
        ),
    };
    let is_beyond = match left {
        Some(left) if start.is_some_and(|s| s >= end) => left > wanted,
        Some(left) => left >= wanted,
        None => false,
    };
    Answer {
        question,
        holds: is_beyond,
        why: (!is_beyond).then(|| match left {
            Some(left) => format!("the server opened at {left}"),
            None => "the server does not say where it opened".to_owned(),
        }),
    }
}

fn left_at(wal: &Path) -> Option<Lsn> {
    let names = std::fs::read_dir(wal).ok()?.flatten();
    let newest = names
        .filter_map(|e| match e.file_name().to_str()?.parse().ok()? {
            WalFile::History(timeline) => Some((timeline, e.path())),
            _ => None,
        })
        .max()?;
    let text = std::fs::read(newest.1).ok()?;
    let ancestors = history::parse(&text).ok()?;
    ancestors.last().map(|a| Lsn(a.switch))
}

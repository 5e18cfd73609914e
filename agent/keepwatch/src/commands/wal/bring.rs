//! `wal restore --with-log`: the log into `pg_wal`, before the server starts. It then needs no identity, and never waits for the repository.
//!
//! Memory: for each of four threads one file and what is sealed of it: 48 MiB with segments of 16 MiB.

use std::fs;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, fchown};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use keepwatch_engine::records::BaseBackup;
use keepwatch_engine::repository::Repository;
use keepwatch_engine::wal;
use keepwatch_engine::wal_file::WalFile;
use keepwatch_wal::extract::Owner;
use keepwatch_wal::gaps;
use keepwatch_wal::log::ClusterLog;
use keepwatch_wal::lsn::Lsn;

use crate::context::Context;
use crate::errors::Failure;

/// Files brought at once.
const AT_ONCE: usize = 4;

/// What is to be brought.
pub struct Log<'a> {
    /// From where on.
    pub base: &'a BaseBackup,
    /// Along which timelines.
    pub path: &'a [u32],
    /// What there is.
    pub log: &'a ClusterLog,
    /// Up to where.
    pub to: Option<Lsn>,
}

impl Log<'_> {
    /// Brings it into a data directory.
    pub fn bring(
        &self,
        context: &Context,
        repository: &Repository,
        directory: &Path,
        owner: Option<Owner>,
    ) -> Result<(), Failure> {
        let cluster = repository.hash().cluster(self.base.system);
        let segments = gaps::segments(self.log, self.base, self.path, self.to);
        // The first timeline has none.
        let known = |t: &&u32| self.log.histories.contains_key(*t);
        let histories = self.path.iter().filter(known);
        let files: Vec<WalFile> = segments
            .into_iter()
            .map(WalFile::Segment)
            .chain(histories.map(|t| WalFile::History(*t)))
            .collect();
        let dir = directory.join("pg_wal");
        let next = AtomicUsize::new(0);
        let cancel = context.cancel.clone();
        let work = || -> Result<(), Failure> {
            while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                cancel.check()?;
                let content = wal::fetch(repository, cluster, *file, false)?.ok_or_else(|| {
                    Failure::failed(format!("{file} was deleted from the repository meanwhile"))
                })?;
                let path = dir.join(file.to_string());
                write(&path, &content, owner).map_err(|e| Failure::file("write", &path, &e))?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..AT_ONCE.min(files.len()))
                .map(|_| scope.spawn(work))
                .collect();
            threads.into_iter().try_for_each(|t| {
                let ended = t.join().unwrap_or_else(|p| std::panic::resume_unwind(p));
                if ended.is_err() {
                    // The others need not go on.
                    next.store(files.len(), Ordering::Relaxed);
                }
                ended
            })
        })?;
        fs::File::open(&dir)
            .and_then(|d| d.sync_all())
            .map_err(|e| Failure::file("write", &dir, &e))
    }
}

/// A base backup with its own log has some of the files already, the last of them unfinished: those of the archive are whole.
fn write(path: &Path, content: &[u8], owner: Option<Owner>) -> io::Result<()> {
    use std::io::Write;
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(content)?;
    if let Some(o) = owner {
        fchown(&file, Some(o.uid), Some(o.gid))?;
    }
    file.sync_all()
}

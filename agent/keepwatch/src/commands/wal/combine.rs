//! A base backup into a data directory, with all that it is built on.
//!
//! A full one is written where it belongs. Of an incremental one (PostgreSQL 17) every base backup of its chain is brought into a directory of its own within the target, and the server's
//! own `pg_combinebackup` makes one of them. All of it lies on the disk of the target, which must have room for the chain and for the whole.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::lchown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use keepwatch_engine::dump::{self, DumpError};
use keepwatch_engine::lookup::Lookup;
use keepwatch_engine::progress::Cancelled;
use keepwatch_engine::repository::Repository;
use keepwatch_engine::snapshots::{SnapshotRecord, SnapshotSet};
use keepwatch_wal::extract::{Extractor, Owner, Written};
use keepwatch_wal::gaps;
use rustix::process::Pid;

use super::base::{ending, listen};
use super::restore::Stoppable;
use super::{find_program, status};
use crate::context::Context;
use crate::errors::{Exit, Failure, plain_io};
use crate::output::{count, escape};

/// What the directory within the target begins with; removed at the end. No two are the same: a program that a killed restore started may still be at work in its own.
const PARTS: &str = ".keepwatch-parts-";
/// Holds the control file, without which no server starts: moved last.
const CONTROL: &str = "global";

/// The base backups that are needed to restore one: the full one first, itself last.
///
/// # Errors
/// One of them is missing.
pub fn chain<'a>(
    repository: &Repository,
    set: &'a SnapshotSet,
    snapshot: &'a SnapshotRecord,
) -> Result<Vec<&'a SnapshotRecord>, Failure> {
    let Some(base) = snapshot.body.base.as_ref().filter(|b| b.after.is_some()) else {
        return Ok(vec![snapshot]);
    };
    // A forgotten one can be restored by its id until it is pruned, and so those that it is built on.
    let known: Vec<&SnapshotRecord> = set.live.iter().chain(&set.forgotten).collect();
    let cluster = repository.hash().cluster(base.system);
    let bases = status::bases(repository, known.iter().copied(), cluster);
    let last = bases.iter().find(|b| b.snapshot == snapshot.id);
    let chain = last.and_then(|last| gaps::chain(&bases, last));
    let found = chain.map(|chain| {
        let ids = chain.iter().map(|b| b.snapshot);
        ids.filter_map(|id| known.iter().find(|s| s.id == id).copied())
            .collect()
    });
    found.ok_or_else(|| {
        Failure::new(
            Exit::Refused,
            format!(
                "base backup {} is incremental, and one that it is built on is not in the repository; nothing was written",
                snapshot.id.short()
            ),
        )
        .advice("choose another base backup: 'keepwatch wal verify' says which can be restored")
    })
}

/// What brings base backups into a directory.
pub struct Bringer<'a> {
    /// Who asks.
    pub context: &'a Context,
    /// From where.
    pub repository: &'a Repository,
    /// Its index.
    pub lookup: &'a Lookup,
    /// Where the server's programs lie.
    pub pg_bin: Option<&'a Path>,
    /// Of whom the files become.
    pub owner: Option<Owner>,
    /// Writes down a program that was started, so that it ends when we are killed and somebody sweeps.
    pub note: Option<&'a dyn Fn(u32)>,
}

impl Bringer<'_> {
    /// Brings a chain into an empty directory.
    ///
    /// # Errors
    /// What is left in the directory is of no use.
    pub fn bring(&self, chain: &[&SnapshotRecord], directory: &Path) -> Result<Written, Failure> {
        if let [one] = chain {
            let whole = Extractor::new(directory, self.owner);
            let finished = self.extract(one, directory, whole)?.finish();
            return finished.map_err(|e| Failure::file("restore to", directory, &e));
        }
        let failed = |e: io::Error| Failure::file("restore to", directory, &e);
        let parts = directory.join(format!("{PARTS}{}", std::process::id()));
        let whole = parts.join("whole");
        fs::create_dir(&parts).map_err(failed)?;
        let mut inputs = Vec::new();
        for (n, snapshot) in chain.iter().enumerate() {
            let part = parts.join(n.to_string());
            fs::create_dir(&part).map_err(failed)?;
            let out = self.extract(snapshot, &part, Extractor::new(&part, None))?;
            out.finish_part().map_err(failed)?;
            inputs.push(part);
        }
        let version = chain
            .last()
            .and_then(|s| s.body.base.as_ref())
            .map_or("", |b| &b.version);
        self.combine(&inputs, &whole, version)?;
        let names: io::Result<Vec<OsString>> = fs::read_dir(&whole)
            .and_then(|entries| entries.map(|e| e.map(|e| e.file_name())).collect());
        let mut names = names.map_err(failed)?;
        names.sort_by_key(|n| n == CONTROL);
        for name in names {
            fs::rename(whole.join(&name), directory.join(&name)).map_err(failed)?;
        }
        fs::remove_dir_all(&parts).map_err(failed)?;
        let mut written = Written::default();
        settle(directory, self.owner, &mut written).map_err(failed)?;
        // One call for tens of thousands of files.
        let root = fs::File::open(directory).map_err(failed)?;
        rustix::fs::syncfs(&root).map_err(|e| failed(e.into()))?;
        Ok(written)
    }

    fn extract(
        &self,
        snapshot: &SnapshotRecord,
        directory: &Path,
        into: Extractor,
    ) -> Result<Extractor, Failure> {
        let path = snapshot.body.paths.first().map(|p| p.to_vec());
        let mut out = Stoppable {
            inner: into,
            context: self.context,
        };
        dump::dump_file(
            self.repository,
            self.lookup,
            snapshot,
            &path.unwrap_or_default(),
            &mut out,
        )
        .map_err(|e| match e {
            DumpError::Out(_) if self.context.cancel.is_cancelled() => Cancelled.into(),
            DumpError::Out(e) => Failure::file("restore to", directory, &e),
            e => Failure::from(e),
        })?;
        Ok(out.inner)
    }

    /// Makes one directory of a chain.
    fn combine(&self, inputs: &[PathBuf], whole: &Path, version: &str) -> Result<(), Failure> {
        let program = find_program("pg_combinebackup", self.pg_bin, Some(version));
        let shown = escape(&program.to_string_lossy());
        let mut child = Command::new(&program)
            .args(["--no-sync", "-o"])
            .arg(whole)
            .args(inputs)
            .env("LC_MESSAGES", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|e| {
                Failure::failed(format!(
                    "the base backup is incremental, and {shown}, which makes one of the {} that it consists of, cannot be started: {}",
                    inputs.len(),
                    plain_io(&e)
                ))
                .advice(format!(
                    "install PostgreSQL {version}, or say with --pg-bin where it is"
                ))
            })?;
        if let Some(note) = self.note {
            note(child.id());
        }
        let child_id = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        self.context.child.set(child_id);
        if self.context.cancel.is_cancelled() {
            self.context.child.terminate();
        }
        let said = child.stderr.take().map(listen).unwrap_or_default();
        let ended = child.wait();
        self.context.child.set(None);
        match ended {
            Ok(status) if status.success() => Ok(()),
            _ if self.context.cancel.is_cancelled() => Err(Cancelled.into()),
            Ok(status) => Err(Failure::failed(format!(
                "{shown} could not make one of {}: {} ({})",
                count(inputs.len() as u64, "base backup", "base backups"),
                ending(status),
                escape(&said)
            ))),
            Err(e) => Err(Failure::failed(format!(
                "how {shown} ended cannot be told: {}",
                plain_io(&e)
            ))),
        }
    }
}

/// Gives everything to the owner, and counts it.
fn settle(directory: &Path, owner: Option<Owner>, written: &mut Written) -> io::Result<()> {
    let give = |path: &Path| match owner {
        Some(o) => lchown(path, Some(o.uid), Some(o.gid)),
        None => Ok(()),
    };
    give(directory)?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        if meta.is_dir() {
            settle(&entry.path(), owner, written)?;
        } else {
            give(&entry.path())?;
            written.files += 1;
            written.bytes += meta.len();
        }
    }
    Ok(())
}

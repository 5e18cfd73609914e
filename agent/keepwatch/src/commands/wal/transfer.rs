//! `wal push` and `wal fetch`: what the server calls for each file of its log.
//!
//! One call, one file. There is no daemon between, no spool and no batch: what `push` reports as done lies in the repository, and a call that was killed is simply made again by the server. A file
//! costs one object written, and one small listing; the server archives while its transactions go on, so only a log that grows faster than that for hours would fall behind.
//!
//! The status of `fetch` is a matter of life and death. PostgreSQL takes 1 to 125 for "the log ends here" and opens the database; from 126 on it stops. So 1 is said only when
//! the repository was read, knows no such file, and none that comes after it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use keepwatch_engine::repository::Repository;
use keepwatch_engine::wal::{self, NewWal, Pushed, WalError};
use keepwatch_engine::wal_file::WalFile;
use keepwatch_wal::log;
use keepwatch_wal::source::{self, Source, SourceError};
use serde_json::json;

use crate::clock;
use crate::context::Context;
use crate::errors::{Exit, Failure, Outcome, plain_io};
use crate::output::{escape, print_json_after};

/// Store a file of the log; for archive_command
#[derive(Args)]
#[command(
    long_about = "Store a file of the write-ahead log; for PostgreSQL's archive_command.\n\nIt is durable in the repository when this ends with status 0. The same file again is a success; another file of the same name is refused and nothing is overwritten. Needs the writer key only.",
    after_help = "Example, in postgresql.conf:
  archive_command = 'keepwatch wal push --repo /mnt/disk/backup %p'

The server calls it in the data directory and tries again until the status is 0."
)]
pub struct PushArgs {
    /// The file, as the server gives it for %p
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// System identifier of the cluster [default: as the file or the control file beside it says]
    #[arg(long, value_name = "N")]
    pub cluster: Option<u64>,
}

/// Bring a file of the log back; for restore_command
#[derive(Args)]
#[command(
    long_about = "Bring a file of the write-ahead log back; for PostgreSQL's restore_command. Needs an identity.\n\nExit status: 0 done; 1 there is no such file, so the log ends here; 126 something is broken, and the recovery must stop: the repository cannot be read, the file is damaged, or it is missing although later ones are there; 143 stopped on request.",
    after_help = "Example, in postgresql.conf ('keepwatch wal restore' writes it):
  restore_command = 'keepwatch wal fetch --repo /mnt/disk/backup --identity /etc/keepwatch/key.txt --cluster 7312345678901234567 %f %p'"
)]
pub struct FetchArgs {
    /// Its name, as the server gives it for %f
    #[arg(value_name = "FILE")]
    pub file: String,
    /// Where to put it, as the server gives it for %p
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// System identifier of the cluster [default: as the control file in the working directory says]
    #[arg(long, value_name = "N")]
    pub cluster: Option<u64>,
    /// Say 1, not 126, for a file that is missing in the middle: for standbys that have another source as well
    #[arg(long)]
    pub tolerate_gaps: bool,
    /// Take also what a writer signed whose key was revoked
    #[arg(long)]
    pub accept_revoked: bool,
}

/// `wal push`.
pub fn push(context: &Context, args: &PushArgs) -> Outcome {
    let Source {
        file,
        system,
        content,
        ancestors,
    } = source::read(&args.path, args.cluster)?;
    let repository = context.open_writer()?;
    let new = NewWal {
        system,
        file,
        content: &content,
        ancestors,
        time: clock::now().unix_seconds(),
    };
    let pushed = wal::push(&repository, &new)
        .map_err(|e| Failure::from(e).safe("the server keeps the file and tries again"))?;
    if context.json() {
        let (object, there) = match pushed {
            Pushed::Stored(id) => (id, false),
            Pushed::There(id) => (id, true),
        };
        print_json_after(&json!({
            "file": file.to_string(), "system": system.to_string(), "object": object, "was_there": there, "bytes": content.len(),
        }))?;
    }
    Ok(Exit::Done)
}

/// `wal fetch`.
pub fn fetch(context: &Context, args: &FetchArgs) -> Outcome {
    let result = bring(context, args);
    if context.cancel.is_cancelled() {
        return Err(Failure::new(Exit::Terminated, "stopped on request"));
    }
    match result {
        Ok(Found::Brought) => Ok(Exit::Done),
        // The server asks for files beyond the end as a matter of course; nothing is wrong.
        Ok(Found::Not(message)) => Err(Failure::failed(message)),
        Err(f) => Err(Failure {
            exit: Exit::Broken,
            ..f.safe("the recovery must stop here")
        }),
    }
}

enum Found {
    Brought,
    Not(String),
}

fn bring(context: &Context, args: &FetchArgs) -> Result<Found, Failure> {
    let file: WalFile = match args.file.parse() {
        Ok(f) => f,
        // The server asks for nothing else; a person may.
        Err(e) => return Err(Failure::usage(format!("{e}"))),
    };
    let system = match args.cluster {
        Some(c) => c,
        None => source::system_of(Path::new("")).map_err(|why| {
            Failure::usage(format!("it cannot be told whose log is wanted: {why}")).advice(
                "give the system identifier with --cluster, or run it in the data directory",
            )
        })?,
    };
    let repository = context.open_reader()?;
    let cluster = repository.hash().cluster(system);
    match wal::fetch(&repository, cluster, file, args.accept_revoked)? {
        Some(content) => {
            write(&args.path, &content).map_err(|e| Failure::file("write", &args.path, &e))?;
            Ok(Found::Brought)
        }
        None => {
            if !args.tolerate_gaps {
                refuse_gap(&repository, system, file)?;
            }
            Ok(Found::Not(format!("there is no {file} in the repository")))
        }
    }
}

/// A segment that is missing although later ones of its timeline are there is not the end of the log.
fn refuse_gap(repository: &Repository, system: u64, file: WalFile) -> Result<(), Failure> {
    let WalFile::Segment(segment) = file else {
        return Ok(());
    };
    let cluster = repository.hash().cluster(system);
    let logs = log::load(repository, Some(cluster))?;
    let goes_on = logs
        .get(&cluster)
        .is_some_and(|l| log::goes_on(l, segment.timeline, segment.position));
    if !goes_on {
        return Ok(());
    }
    Err(Failure::failed(format!(
        "{file} is missing in the repository, and later segments are there: what they hold would be lost in silence"
    ))
    .advice("'keepwatch wal verify' shows the gaps; put the segment into pg_wal if it exists elsewhere, choose a target before the gap, or give --tolerate-gaps"))
}

/// There whole or not at all: what a killed call left behind is never taken for a segment.
fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".keepwatch-part");
    let part = path.with_file_name(name);
    let written = fs::write(&part, content).and_then(|()| fs::rename(&part, path));
    written.inspect_err(|_| drop(fs::remove_file(&part)))
}

impl From<SourceError> for Failure {
    fn from(e: SourceError) -> Self {
        let message = match &e {
            SourceError::Read { path, cause } => {
                format!(
                    "cannot read {}: {}",
                    escape(&path.to_string_lossy()),
                    plain_io(cause)
                )
            }
            e => escape(&e.to_string()),
        };
        match e {
            SourceError::Name(_) | SourceError::Cluster { .. } => Failure::usage(message),
            SourceError::Read { .. } | SourceError::Odd { .. } => Failure::failed(message),
        }
    }
}

impl From<WalError> for Failure {
    fn from(e: WalError) -> Self {
        let message = e.to_string();
        match e {
            WalError::Object(e) => e.into(),
            WalError::Put(e) => e.into(),
            WalError::Conflict { .. } => Failure::new(Exit::Refused, message).advice(
                "let each server archive into a repository of its own. A restored copy that archives as well must first come to a timeline of its own (promote it), or not archive (wal restore --no-archive)",
            ),
            WalError::Revoked { .. } => Failure::new(Exit::Refused, message)
                .advice("if it was pushed before the key was stolen, or the key was not stolen at all, give --accept-revoked"),
            WalError::NeedsIdentity => {
                Failure::failed(message).advice(crate::errors::IDENTITY_ADVICE)
            }
            WalError::Length { .. } | WalError::Compress(..) => Failure::failed(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_there_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("RECOVERYXLOG");
        write(&path, b"one").unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert!(write(&dir.path().join("no/such"), b"x").is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}

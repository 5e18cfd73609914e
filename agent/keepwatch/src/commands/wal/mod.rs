//! `wal`: PostgreSQL with point-in-time recovery. Base backups, and the write-ahead log between them.

mod base;
mod bring;
mod combine;
mod dry;
mod incremental;
mod place;
pub mod rehearse;
mod restore;
pub mod status;
mod transfer;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::context::Context;
use crate::errors::Outcome;

/// PostgreSQL: base backups and the write-ahead log, restored to any moment
#[derive(Args)]
#[command(
    long_about = "PostgreSQL: base backups and the write-ahead log (WAL), restored to any moment.\n\nThe server pushes each file of its log by its archive_command; base backups are made now and then. Together they bring the whole cluster back as it was at a time, at a position in the log, or at the end of the log. 'keepwatch prune' deletes what of the log lies before the oldest base backup that is kept. See docs/postgresql-pitr.md.",
    after_help = "Examples:
  keepwatch wal backup --repo /mnt/disk/backup
  keepwatch wal restore --repo /mnt/disk/backup --identity key.txt --target /var/lib/postgresql/15/main --to-time '2026-11-22 14:05'
  keepwatch wal verify --repo /mnt/disk/backup --json

In postgresql.conf:
  archive_mode = on
  archive_command = 'keepwatch wal push --repo /mnt/disk/backup %p'"
)]
pub struct WalArgs {
    #[command(subcommand)]
    pub what: What,
}

/// What to do.
#[derive(Subcommand)]
pub enum What {
    Push(transfer::PushArgs),
    Fetch(transfer::FetchArgs),
    Backup(base::BaseArgs),
    Restore(restore::RestoreArgs),
    Verify(status::VerifyArgs),
}

/// The verb.
pub fn run(context: &Context, args: &WalArgs) -> Outcome {
    match &args.what {
        What::Push(a) => transfer::push(context, a),
        What::Fetch(a) => transfer::fetch(context, a),
        What::Backup(a) => base::run(context, a),
        What::Restore(a) => restore::run(context, a),
        What::Verify(a) => status::run(context, a),
    }
}

/// A program of PostgreSQL: in the directory that was given, else where it is found first. With a version the one of that version, wherever it is.
fn find_program(name: &str, directory: Option<&Path>, version: Option<&str>) -> PathBuf {
    // Debian keeps the versions apart, and none of them in PATH.
    const DEBIAN: &str = "/usr/lib/postgresql";
    if let Some(directory) = directory {
        return directory.join(name);
    }
    let of_version = version.map(|v| Path::new(DEBIAN).join(v).join("bin").join(name));
    if let Some(found) = of_version.filter(|p| p.is_file()) {
        return found;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    if let Some(found) = std::env::split_paths(&path)
        .map(|d| d.join(name))
        .find(|p| p.is_file())
    {
        return found;
    }
    // A newer client speaks with older servers.
    let versions = std::fs::read_dir(DEBIAN).into_iter().flatten();
    versions
        .filter_map(|e| e.ok())
        .filter_map(|e| Some((e.file_name().to_str()?.parse::<u32>().ok()?, e.path())))
        .max()
        .map(|(_, dir)| dir.join("bin").join(name))
        .filter(|p| p.is_file())
        .unwrap_or_else(|| PathBuf::from(name))
}

//! `wal`: PostgreSQL with point-in-time recovery. Base backups, and the write-ahead log between them.

mod base;
mod bring;
mod restore;
pub mod status;
mod transfer;

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

//! A file per verb: its options, and what it does with the engine's function of the same name.

pub mod backup;
pub mod beat;
pub mod catalog;
pub mod check;
pub mod config;
pub mod control;
pub mod copy;
pub mod diff;
pub mod doctor;
pub mod drill;
pub mod dump;
pub mod find;
pub mod forget;
pub mod history;
pub mod init;
pub mod key;
pub mod ls;
pub mod meta;
mod patient;
pub mod program;
pub mod prune;
pub mod repair;
pub mod restore;
pub mod serve;
pub mod settings;
pub mod sheet;
pub mod snapshots;
pub mod source_args;
pub mod source_backup;
pub mod source_restore;
pub mod stats;
pub mod status;
pub mod verify;
pub mod view;
pub mod wal;

use crate::cli::Command;
use crate::context::Context;
use crate::errors::Outcome;
use crate::{jobs, signals};

/// Does what was asked.
pub fn run(context: Context, command: Command) -> Outcome {
    if let Some(wanted) = jobs::wanted(&context.globals, &command)? {
        return jobs::run(&context, &wanted);
    }
    // The daemon listens to signals by itself.
    if !matches!(command, Command::Serve(_)) {
        let supervisor = context.globals.supervised_by;
        signals::listen(context.cancel.clone(), context.child.clone(), supervisor);
        if let Some(supervisor) = supervisor {
            signals::end_with(supervisor, &context.cancel);
        }
    }
    let c = &context;
    match command {
        Command::Init(a) => init::run(c, &a),
        Command::Backup(a) => backup::run(c, a),
        Command::Snapshots(a) => snapshots::run(c, &a),
        Command::Ls(a) => ls::run(c, &a),
        Command::Find(a) => find::run(c, &a),
        Command::Diff(a) => diff::run(c, &a),
        Command::Restore(a) => restore::run(c, &a),
        Command::Dump(a) => dump::run(c, &a),
        Command::Verify(a) => verify::run(c, &a),
        Command::Forget(a) => forget::run(c, &a),
        Command::Prune(a) => prune::run(c, &a),
        Command::Copy(a) => copy::run(c, &a),
        Command::Stats(a) => stats::run(c, &a),
        Command::Wal(a) => wal::run(c, &a),
        Command::Doctor(a) => doctor::run(c, &a),
        Command::Repair(a) => repair::run(c, &a),
        Command::Drill(a) => drill::run(c, &a),
        Command::Key(a) => key::run(c, &a),
        Command::Serve(a) => serve::run(&a),
        Command::Check(a) => check::run(c, &a),
        Command::Status(a) => status::run(c, &a),
        Command::History(a) => history::run(c, &a),
        Command::Restart(a) => control::restart(c, &a),
        Command::Reset(a) => control::reset(c, &a),
        Command::Beat(a) => beat::run(c, &a),
        Command::Maintenance(a) => control::maintenance(c, &a),
        Command::Config(a) => config::run(c, &a),
        Command::Catalog(a) => catalog::run(c, &a),
        Command::Completions(a) => meta::completions(&a),
        Command::Man(a) => meta::man(&a),
    }
}

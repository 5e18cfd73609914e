//! The command line: the one source of help, man pages and completions. Each verb's options stand in its file under `commands/`.

use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand};
use keepwatch_engine::ids::OwnerKey;

use crate::commands;
use crate::errors::EXIT_CODES;
use crate::stores::S3Args;

/// Encrypted backups that come back.
#[derive(Parser)]
#[command(
    name = "keepwatch",
    version,
    about = "Encrypted, deduplicated backups that come back",
    long_about = "Encrypted, deduplicated backups. The host that writes them cannot read them: they are sealed with age to recipients whose identities live elsewhere.",
    after_help = EXAMPLES,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 110
)]
pub struct Cli {
    /// Options that every verb knows.
    #[command(flatten)]
    pub globals: Globals,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  keepwatch backup ~/Documents                  back up into the default repository, made on first use
  keepwatch snapshots                           what there is
  keepwatch restore --target /tmp/back          bring the newest snapshot back
  keepwatch init --repo /mnt/disk/backup        make a repository elsewhere

Without --repo the repository is $XDG_DATA_HOME/keepwatch/repository.
Exit status: 0 done, 1 failed, 2 wrong use, 3 partial (some files could not be read or restored; they are named), 4 nothing found, 5 refused for safety or locked.";

/// Options that every verb knows.
#[derive(Args, Clone, Default)]
#[command(next_help_heading = "Common options")]
pub struct Globals {
    /// The repository: a directory, or s3://bucket/prefix
    #[arg(
        long,
        global = true,
        value_name = "REPOSITORY",
        env = "KEEPWATCH_REPOSITORY",
        hide_env_values = true
    )]
    pub repo: Option<PathBuf>,
    /// Identity file that opens the repository: age or ssh private key
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "KEEPWATCH_IDENTITY_FILE",
        hide_env_values = true
    )]
    pub identity: Option<PathBuf>,
    /// File with the passphrase that opens the repository
    #[arg(long, global = true, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// This host's writer key for the repository
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "KEEPWATCH_WRITER_KEY_FILE",
        hide_env_values = true
    )]
    pub writer_key: Option<PathBuf>,
    /// The owner key that the repository must have, 64 hexadecimal digits
    #[arg(long, global = true, value_name = "HEX")]
    pub owner_key: Option<OwnerKey>,
    /// Directory for local caches; they can be deleted at any time
    #[arg(long, global = true, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Keep no local cache
    #[arg(long, global = true)]
    pub no_cache: bool,
    /// One JSON document on standard output
    #[arg(long, global = true)]
    pub json: bool,
    /// Only problems and results
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Log to standard error (-vv: more); KEEPWATCH_LOG filters
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Stop in good order when the process of this number, which began this one, is gone
    #[arg(long, global = true, hide = true, value_name = "PID")]
    pub supervised_by: Option<u32>,
    /// For repositories in S3.
    #[command(flatten)]
    pub s3: S3Args,
}

/// The verbs.
#[derive(Subcommand)]
pub enum Command {
    Init(commands::init::InitArgs),
    Backup(commands::backup::BackupArgs),
    Snapshots(commands::snapshots::SnapshotsArgs),
    Ls(commands::ls::LsArgs),
    Find(commands::find::FindArgs),
    Diff(commands::diff::DiffArgs),
    Restore(commands::restore::RestoreArgs),
    Dump(commands::dump::DumpArgs),
    Verify(commands::verify::VerifyArgs),
    Forget(commands::forget::ForgetArgs),
    Prune(commands::prune::PruneArgs),
    Copy(commands::copy::CopyArgs),
    Stats(commands::stats::StatsArgs),
    Wal(commands::wal::WalArgs),
    Doctor(commands::doctor::DoctorArgs),
    Repair(commands::repair::RepairArgs),
    Drill(commands::drill::DrillArgs),
    Key(commands::key::KeyArgs),
    Serve(commands::serve::ServeArgs),
    Check(commands::check::CheckArgs),
    Status(commands::status::StatusArgs),
    History(commands::history::HistoryArgs),
    Restart(commands::control::RestartArgs),
    Reset(commands::control::ResetArgs),
    Beat(commands::beat::BeatArgs),
    Maintenance(commands::control::MaintenanceArgs),
    Config(commands::config::ConfigVerbArgs),
    Catalog(commands::catalog::CatalogArgs),
    Completions(commands::meta::CompletionsArgs),
    Man(commands::meta::ManArgs),
}

/// The definition, for man pages and completions.
pub fn definition() -> clap::Command {
    Cli::command().after_long_help(format!("{EXAMPLES}\n\n{EXIT_CODES}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent_and_every_verb_shows_examples() {
        definition().debug_assert();
        for verb in definition().get_subcommands() {
            let help = verb
                .get_after_help()
                .map(|h| h.to_string())
                .unwrap_or_default();
            assert!(
                help.contains("Examples:\n  keepwatch "),
                "{} shows no examples",
                verb.get_name()
            );
            for sub in verb.get_subcommands() {
                let help = sub
                    .get_after_help()
                    .map(|h| h.to_string())
                    .unwrap_or_default();
                assert!(
                    help.contains("Example"),
                    "{} {} shows no example",
                    verb.get_name(),
                    sub.get_name()
                );
            }
        }
    }

    #[test]
    fn the_fixed_forms_parse() {
        for line in [
            "init --repo R --recipient age1x --recipient k.pub --passphrase-file F",
            "backup --repo R --exclude *.tmp --tag a,b P Q",
            "backup --repo R --stdin-name d.sql --command -- pg_dump -Fc x",
            "snapshots --repo R --json",
            "restore --repo R --identity F --target D latest /a",
            "restore --repo R --identity F --target D",
            "verify --repo R --read-data",
            "verify --repo R --read-data=10% --identity F",
            "forget --repo R --keep-daily 7 --dry-run --prune",
            "prune --repo R --grace 24h --dry-run",
            "init --repo R --from S --from-identity F",
            "copy --repo R --from S",
            "backup --job home --config F --repository disk",
            "forget --job home",
            "prune --repository disk",
            "verify --job home",
            "copy --copy far",
            "copy --repo R --from S --from-identity F --host h --tag a,b --job j --path /p --dry-run --no-read-back latest abcd",
            "repair index",
            "key writer --label h",
            "serve --config F",
            "status --json",
            "check",
            "check web db --config F --json",
            "history web --since yesterday --only runs --only restarts --limit 5",
            "restart nginx.service --config F",
            "reset nginx.service",
            "beat db",
            "beat db --start",
            "beat db --fail --message x --config F --json",
            "beat db -- pg_dump -Fc x",
            "maintenance start w --for 2h --check a --check b --note n",
            "maintenance start w --until tomorrow",
            "maintenance end w",
            "maintenance list --json",
            "config check --config F",
            "catalog rebuild --config F --repository disk",
            "init --repo R --recipient age1x --if-absent",
            "config show",
            "config schema",
            "wal push --repo R pg_wal/000000010000000000000003",
            "wal fetch --repo R --cluster 7 000000010000000000000003 pg_wal/RECOVERYXLOG",
            "wal backup --repo R --pg-host /run/postgresql --job pg",
            "wal restore --repo R --target D --to-time yesterday --action pause",
            "wal restore --repo R --target D --to-lsn 0/3000028 latest",
            "wal verify --repo R --json",
        ] {
            let words = std::iter::once("keepwatch").chain(line.split(' '));
            if let Err(e) = Cli::try_parse_from(words) {
                panic!("{line}: {e}");
            }
        }
        for line in [
            "",
            "nonsense",
            "backup --compression 20 P",
            "verify --read-data=101%",
            "verify --read-data=0%",
            "forget --keep-daily x",
            "prune --grace soon",
            "restore --overwrite perhaps",
            "copy --repo R",
            "init --repo R --from-identity F",
            "restart nginx",
            "beat",
            "beat db --start --fail",
            "beat db --message x",
            "beat db --start -- true",
            "maintenance start w",
            "maintenance start w --for 2h --until tomorrow",
            "maintenance start --for soon w",
            "history --limit 0",
            "config",
            "wal",
            "wal fetch 000000010000000000000003",
            "wal restore --target D --to-lsn 3",
            "wal restore --target D --to-lsn 0/3 --to-time now",
        ] {
            let words =
                std::iter::once("keepwatch").chain(line.split(' ').filter(|w| !w.is_empty()));
            match Cli::try_parse_from(words) {
                Ok(_) => panic!("taken: {line}"),
                Err(e) => assert_eq!(e.exit_code(), 2, "{line}"),
            }
        }
    }
}

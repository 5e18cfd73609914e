//! Which job of the configuration a command line means, if any. Pure.
//!
//! `forget --job NAME` and `copy --job NAME` were there before: they narrow down snapshots. So `forget` means a job of the configuration only where
//! neither a policy nor snapshots are given, which says nothing otherwise; and `copy` has `--copy NAME`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use keepwatch_model::runs::RunKind;

use crate::cli::{Command, Globals};
use crate::errors::Failure;

/// Options of verbs that can do what the configuration says.
#[derive(Args, Clone, Default, Debug)]
#[command(next_help_heading = "What the configuration says")]
pub struct ConfiguredArgs {
    /// The configuration [default: /etc/keepwatch/config.toml]
    #[arg(
        long,
        value_name = "FILE",
        env = "KEEPWATCH_CONFIG_FILE",
        hide_env_values = true
    )]
    pub config: Option<PathBuf>,
    /// Only with this repository of the configuration
    #[arg(long, value_name = "NAME")]
    pub repository: Option<String>,
}

/// What is meant.
#[derive(Debug, PartialEq, Eq)]
pub struct Wanted {
    /// What is to be done.
    pub kind: RunKind,
    /// The job, or the copy.
    pub name: Option<String>,
    /// Only with this repository.
    pub repository: Option<String>,
    /// The configuration.
    pub config: PathBuf,
    /// Show what would be done.
    pub dry_run: bool,
    /// Options that go on to the child.
    pub passed: Vec<OsString>,
}

/// The job that is meant; none: the verb does what its own options say.
pub fn wanted(globals: &Globals, command: &Command) -> Result<Option<Wanted>, Failure> {
    let mut passed: Vec<OsString> = Vec::new();
    let mut pass = |given: bool, option: &str| {
        if given {
            passed.push(option.into());
        }
    };
    let (kind, name, configured, dry_run) = match command {
        Command::Backup(a) if a.job.is_some() => {
            pass(a.force_read, "--force-read");
            (RunKind::Backup, a.job.clone(), &a.configured, a.dry_run)
        }
        Command::Forget(a) if a.is_configured() => {
            let [name] = &a.filter.jobs[..] else {
                return Err(Failure::usage(
                    "neither a policy nor snapshots to forget were given, and several jobs; nothing was changed",
                )
                .advice("call it once for each job of the configuration, or give a policy such as --keep-daily 7"));
            };
            pass(a.prune, "--prune");
            pass(a.allow_many, "--allow-many");
            (
                RunKind::Forget,
                Some(name.clone()),
                &a.configured,
                a.dry_run,
            )
        }
        Command::Prune(a) if a.job.is_some() || a.configured.repository.is_some() => {
            pass(a.accept_missing, "--accept-missing");
            pass(a.allow_many, "--allow-many");
            (RunKind::Prune, a.job.clone(), &a.configured, a.dry_run)
        }
        Command::Verify(a) if a.job.is_some() || a.configured.repository.is_some() => {
            (RunKind::Verify, a.job.clone(), &a.configured, false)
        }
        Command::Copy(a) if a.copy.is_some() => {
            pass(a.no_read_back, "--no-read-back");
            (RunKind::Copy, a.copy.clone(), &a.configured, a.dry_run)
        }
        Command::Drill(a) if a.name.is_some() => {
            (RunKind::Drill, a.name.clone(), &a.configured, false)
        }
        _ => return Ok(None),
    };
    let from = match command {
        Command::Copy(a) => a.from.clone(),
        _ => None,
    };
    for (given, option, variable) in [
        (&globals.repo, "--repo", "KEEPWATCH_REPOSITORY"),
        (&from, "--from", "KEEPWATCH_FROM_REPOSITORY"),
    ] {
        // What the environment says for other commands is passed over.
        let usual = std::env::var_os(variable).map(PathBuf::from);
        if given.is_some() && *given != usual {
            return Err(Failure::usage(format!(
                "both {option} and a job of the configuration were given, and the configuration says which repository is meant; nothing was done"
            ))
            .advice(format!(
                "leave out {option}; --repository NAME narrows a job down to one repository of the configuration"
            )));
        }
    }
    let config = configured.config.clone();
    Ok(Some(Wanted {
        kind,
        name,
        repository: configured.repository.clone(),
        config: config.unwrap_or_else(|| keepwatch_config::DEFAULT_PATH.into()),
        dry_run,
        passed,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::Parser;

    fn of(line: &str) -> Result<Option<Wanted>, Failure> {
        let words = std::iter::once("keepwatch").chain(line.split(' '));
        let cli = Cli::try_parse_from(words).unwrap_or_else(|e| panic!("{line}: {e}"));
        wanted(&cli.globals, &cli.command)
    }

    #[test]
    fn command_lines_mean_jobs_or_do_not() {
        for line in [
            "backup /home",
            "forget --job home --keep-daily 7",
            "forget --job home 3f2a",
            "prune",
            "verify --read-data",
            "copy --repo R --from S --job home",
            "snapshots --job home",
            "drill --target directory",
        ] {
            assert_eq!(of(line).expect(line), None, "{line}");
        }
        for (line, kind, name, repository) in [
            ("backup --job home", RunKind::Backup, Some("home"), None),
            (
                "backup --job home --repository disk -n",
                RunKind::Backup,
                Some("home"),
                Some("disk"),
            ),
            ("forget --job home", RunKind::Forget, Some("home"), None),
            (
                "prune --repository disk",
                RunKind::Prune,
                None,
                Some("disk"),
            ),
            ("prune --job home", RunKind::Prune, Some("home"), None),
            (
                "verify --repository disk",
                RunKind::Verify,
                None,
                Some("disk"),
            ),
            ("copy --copy far", RunKind::Copy, Some("far"), None),
            ("drill proof", RunKind::Drill, Some("proof"), None),
        ] {
            let w = of(line).expect(line).expect(line);
            assert_eq!(
                (w.kind, w.name.as_deref(), w.repository.as_deref()),
                (kind, name, repository),
                "{line}"
            );
            assert_eq!(w.dry_run, line.ends_with("-n"));
        }
        let w = of("forget --job home --prune --allow-many --config /c")
            .expect("forget")
            .expect("forget");
        assert_eq!(w.passed, ["--prune", "--allow-many"]);
        assert_eq!(w.config, PathBuf::from("/c"));
    }

    #[test]
    fn what_contradicts_itself_is_wrong_use() {
        assert!(of("backup --job home --repo /r").is_err());
        assert!(of("forget --job a --job b").is_err());
        assert!(of("copy --copy far --from /s").is_err());
        for line in [
            "backup --job home /etc",
            "backup --job home --exclude x",
            "backup --job home --tag x",
            "prune --repository disk --grace 1h",
            "verify --repository disk --read-data",
            "copy --copy far latest",
            "drill proof --target directory",
            "drill",
        ] {
            let words = std::iter::once("keepwatch").chain(line.split(' '));
            assert!(Cli::try_parse_from(words).is_err(), "{line}");
        }
    }
}

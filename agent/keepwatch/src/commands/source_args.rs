//! Options that say which database or service is meant, for `backup` and `restore` alike.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Args;
use keepwatch_sources::fault::{Fault, Reason};
use keepwatch_sources::setting::{Setting, Stop};
use keepwatch_sources::source::{Source, distinct};
use keepwatch_sources::spec::Spec;

use crate::context::Context;
use crate::errors::{Exit, Failure};
use crate::output::escape;

/// Which database or service.
#[derive(Args, Clone, Default, Debug)]
#[command(next_help_heading = "Databases and services")]
pub struct SourceArgs {
    /// postgresql, mysql, sqlite, redis, qdrant, command or container; with its options as KIND?KEY=VALUE&KEY=VALUE it may be repeated
    #[arg(long = "source", value_name = "KIND")]
    pub sources: Vec<String>,
    /// A database, collection, or file of SQLite (repeatable) [default: all]
    #[arg(long = "database", value_name = "NAME", requires = "sources")]
    pub databases: Vec<String>,
    /// The server's name or address
    #[arg(long, value_name = "HOST", requires = "sources")]
    pub server: Option<String>,
    /// The server's port
    #[arg(long, value_name = "PORT", requires = "sources")]
    pub port: Option<u16>,
    /// The server's socket; of PostgreSQL its directory
    #[arg(long, value_name = "PATH", requires = "sources")]
    pub socket: Option<PathBuf>,
    /// The user of the server
    #[arg(long, value_name = "NAME", requires = "sources")]
    pub user: Option<String>,
    /// File with the password, readable by its owner only
    #[arg(long, value_name = "FILE", requires = "sources")]
    pub password_file: Option<PathBuf>,
    /// The installation whose bin/ holds the client programs
    #[arg(long, value_name = "DIR", requires = "sources")]
    pub package: Option<PathBuf>,
    /// Leave out roles, table spaces, users
    #[arg(long, requires = "sources")]
    pub no_globals: bool,
    /// Tables of PostgreSQL whose content is left out (repeatable)
    #[arg(long, value_name = "[DATABASE:]PATTERN", requires = "sources")]
    pub exclude_table_data: Vec<String>,
    /// The URL of Qdrant
    #[arg(long, value_name = "URL", requires = "sources")]
    pub url: Option<String>,
    /// File with the API key of Qdrant
    #[arg(long, value_name = "FILE", requires = "sources")]
    pub api_key_file: Option<PathBuf>,
    /// The container
    #[arg(long, value_name = "NAME", requires = "sources")]
    pub container: Option<String>,
    /// A path in the container
    #[arg(long, value_name = "PATH", requires = "sources")]
    pub container_path: Option<String>,
    /// podman or docker
    #[arg(long, value_name = "PROGRAM", requires = "sources")]
    pub engine: Option<String>,
    /// The directory in the snapshot [default: the kind]
    #[arg(long, value_name = "NAME", requires = "sources")]
    pub label: Option<String>,
    /// End it when nothing has moved for so long [default: 600]
    #[arg(long, value_name = "SECONDS", requires = "sources")]
    pub stall_timeout: Option<u64>,
    /// Directory for scratch files [default: $TMPDIR or /tmp]
    #[arg(long, value_name = "DIR")]
    pub scratch: Option<PathBuf>,
}

fn text(path: &Path) -> Result<String, Failure> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        Failure::usage(format!(
            "the path '{}' is not UTF-8",
            escape(&path.to_string_lossy())
        ))
    })
}

impl SourceArgs {
    /// Whether any is meant.
    pub fn is_given(&self) -> bool {
        !self.sources.is_empty()
    }

    /// The sources as they were written, with the options that stand beside the only one.
    pub fn specs(&self, argv: &[OsString], name: Option<&str>) -> Result<Vec<Spec>, Failure> {
        let mut specs = self
            .sources
            .iter()
            .map(|s| Spec::parse(s))
            .collect::<Result<Vec<_>, _>>()
            .map_err(failure)?;
        let mut beside: Vec<(&str, String)> = Vec::new();
        beside.extend(self.databases.iter().map(|d| ("database", d.clone())));
        beside.extend(
            self.exclude_table_data
                .iter()
                .map(|d| ("exclude-table-data", d.clone())),
        );
        for word in argv {
            let word = word
                .to_str()
                .ok_or_else(|| Failure::usage("an argument of the command is not UTF-8"))?;
            beside.push(("argv", word.to_owned()));
        }
        let paths = [
            ("socket", &self.socket),
            ("password-file", &self.password_file),
            ("package", &self.package),
            ("api-key-file", &self.api_key_file),
        ];
        for (key, path) in paths {
            if let Some(path) = path {
                beside.push((key, text(path)?));
            }
        }
        let texts = [
            ("server", self.server.clone()),
            ("port", self.port.map(|p| p.to_string())),
            ("user", self.user.clone()),
            ("globals", self.no_globals.then(|| "false".to_owned())),
            ("url", self.url.clone()),
            ("container", self.container.clone()),
            ("container-path", self.container_path.clone()),
            ("engine", self.engine.clone()),
            ("label", self.label.clone()),
            ("name", name.map(str::to_owned)),
            ("stall-timeout", self.stall_timeout.map(|s| s.to_string())),
        ];
        beside.extend(
            texts
                .into_iter()
                .filter_map(|(key, value)| Some((key, value?))),
        );
        match &mut specs[..] {
            [only] => beside.iter().for_each(|(key, value)| only.add(key, value)),
            _ if !beside.is_empty() => {
                return Err(Failure::usage(format!(
                    "with several sources it is not clear which --{} is for",
                    beside[0].0
                ))
                .advice(format!(
                    "write it into the source: --source 'KIND?{}=VALUE'",
                    beside[0].0
                )));
            }
            _ => {}
        }
        Ok(specs)
    }

    /// The sources of a backup.
    pub fn sources(&self, argv: &[OsString], name: Option<&str>) -> Result<Vec<Source>, Failure> {
        let specs = self.specs(argv, name)?;
        let sources = specs
            .into_iter()
            .map(Source::new)
            .collect::<Result<Vec<_>, _>>()
            .map_err(failure)?;
        distinct(&sources).map_err(failure)?;
        Ok(sources)
    }

    /// What surrounds a dump or a restore.
    pub fn setting(&self, context: &Context) -> Setting {
        let cancel = context.cancel.clone();
        let mut setting = Setting::new(self.scratch.clone().unwrap_or_else(std::env::temp_dir));
        setting.stop = Stop::when(move || cancel.is_cancelled());
        setting
    }
}

/// A fault as a failure of the command.
pub fn failure(fault: Fault) -> Failure {
    let is_full = fault.text.contains("No space left on device");
    let reason = match fault.reason {
        Reason::Failed if is_full => Reason::NoSpace,
        reason => reason,
    };
    let (exit, advice) = match reason {
        Reason::Parameter => (
            Exit::WrongUse,
            "see docs/sources.md for the options of each kind",
        ),
        Reason::NoProgram => (
            Exit::Failed,
            "install the client programs of the service, or say with --package where they are",
        ),
        Reason::NoConnection => (
            Exit::Failed,
            "look whether the service runs, and where it listens",
        ),
        Reason::Denied => (
            Exit::Failed,
            "check the user, the password file and its rights in the service",
        ),
        Reason::NotThere => (Exit::Failed, "check the name"),
        Reason::InTheWay => (Exit::Refused, ""),
        Reason::Version => (
            Exit::Failed,
            "use client programs of the server's version or later: --package",
        ),
        Reason::NotWhole => (
            Exit::Failed,
            "look at the log of the service, and run it again",
        ),
        Reason::Stalled => (
            Exit::Failed,
            "look what holds the service up; --stall-timeout gives it more time",
        ),
        Reason::NoSpace => (
            Exit::Failed,
            "free some space; --scratch names another directory for what is needed for a while",
        ),
        Reason::Stopped | Reason::Failed => (Exit::Failed, ""),
    };
    let failure = Failure::new(exit, fault.text);
    match advice {
        "" => failure,
        advice => failure.advice(advice),
    }
}

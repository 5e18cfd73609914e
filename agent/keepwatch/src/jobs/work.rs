//! The work of a run: the command line, made and run as a child of this very program.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use keepwatch_config::Config;
use keepwatch_config::sections::backups::Source;
use keepwatch_config::sections::repositories::Backend;
use keepwatch_model::runs::{ErrorClass, RunKind};

use super::argv::{Setting, argv};
use super::child::{self, TERM_WAIT, Terms};
use super::report::{self, Ending};
use super::stop::Stop;
use super::task::{Task, Work};
use crate::errors::{Exit, plain_io};
use crate::mount;
use crate::output::escape;

/// Bytes of a child's document that are kept: a `forget` of 10,000 snapshots. More costs the numbers, not the outcome.
const DOCUMENT_MAX: usize = 8 << 20;
/// Bytes of `include_from`. Arguments of a process have 2 MiB at most.
const FROM_MAX: u64 = 1 << 20;
/// Variables that would lead the child elsewhere than the configuration says.
const LEADING_ASTRAY: &[&str] = &[
    "KEEPWATCH_REPOSITORY",
    "KEEPWATCH_FROM_REPOSITORY",
    "KEEPWATCH_S3_ENDPOINT",
    "KEEPWATCH_CONFIG_FILE",
];

/// What runs the children of a command.
pub struct Worker<'a> {
    /// The configuration and what belongs to it.
    pub setting: &'a Setting<'a>,
    /// The request to stop.
    pub stop: &'a Stop,
    /// Options of the command that go on to the child.
    pub passed: &'a [OsString],
    /// How much the child logs.
    pub verbose: u8,
    /// Whether a rehearsal prints JSON.
    pub json: bool,
}

impl Worker<'_> {
    /// All that is to be had before the run: the command line.
    ///
    /// # Errors
    /// How the run ends without a child.
    pub fn prepare(&self, task: &Task<'_>, repository: &str) -> Result<Vec<OsString>, Ending> {
        self.must_be_mounted(repository)?;
        let more = included(task).map_err(|text| before(ErrorClass::Source, text))?;
        argv(self.setting, task, repository, &more).map_err(|f| Ending::Before {
            class: report::class(&f.message, f.exit),
            text: f.message,
            exit: f.exit,
        })
    }

    /// An absent disk must not fill the one beneath it.
    ///
    /// # Errors
    /// How the run ends without a child.
    pub fn must_be_mounted(&self, repository: &str) -> Result<(), Ending> {
        must_be_mounted(self.setting.config, repository)
            .map_err(|text| before(ErrorClass::Repository, text))
    }

    /// Runs the command as a child of this process.
    ///
    /// # Errors
    /// How the run ends without a child.
    pub fn child(
        &self,
        task: &Task<'_>,
        argv: &[OsString],
        is_rehearsal: bool,
    ) -> Result<(Ending, Vec<u8>), Ending> {
        let terms = Terms {
            deadline: task.timeout,
            term_wait: TERM_WAIT,
            stop: Some(self.stop),
            capture: if is_rehearsal { 0 } else { DOCUMENT_MAX },
            sweep: true,
        };
        let mut command = self.command(task, argv, is_rehearsal);
        let shown = shown(argv);
        tracing::info!(command = %shown, "the same by hand: keepwatch {shown}");
        let ended = child::run(&mut command, &terms).map_err(|e| {
            let text = format!("its process cannot be started: {}", plain_io(&e));
            before(ErrorClass::Internal, text)
        })?;
        let ending = Ending::Child {
            status: ended.status,
            cut: ended.cut,
        };
        tracing::debug!(took = ?ended.took, "the child ended");
        Ok((ending, ended.output))
    }

    fn command(&self, task: &Task<'_>, argv: &[OsString], is_rehearsal: bool) -> Command {
        // This very program, also when another version was installed meanwhile.
        let mut command = Command::new("/proc/self/exe");
        command.arg0("keepwatch");
        // `wal backup` are two words.
        let words = if argv.first().is_some_and(|verb| verb == "wal") {
            2
        } else {
            1
        };
        let (verb, rest) = argv.split_at(argv.len().min(words));
        command.args(verb);
        match is_rehearsal {
            true => command.arg("--dry-run"),
            false => command.arg("--json"),
        };
        if is_rehearsal && self.json {
            command.arg("--json");
        }
        command.arg(format!("--supervised-by={}", std::process::id()));
        for _ in 0..self.verbose.min(3) {
            command.arg("--verbose");
        }
        command.args(self.passed).args(rest);
        for name in LEADING_ASTRAY {
            command.env_remove(name);
        }
        if !matches!(
            task.kind(),
            RunKind::Verify | RunKind::Copy | RunKind::Drill
        ) {
            command.env_remove("KEEPWATCH_IDENTITY_FILE");
        }
        // What the child remembers of repositories lies with the job's state, whoever runs it; where there is none, at the usual place.
        let state = &self.setting.config.state_directory;
        if state.is_dir() {
            command.env_remove("XDG_STATE_HOME");
            command.env("STATE_DIRECTORY", state);
        }
        if let Work::Backup(backup) = task.work {
            if let Source::Command(source) = &backup.source {
                let usual = std::env::var_os("PATH").unwrap_or_default();
                let all = source.path.iter().cloned();
                let all = all.chain(std::env::split_paths(&usual));
                if let (false, Ok(path)) = (source.path.is_empty(), std::env::join_paths(all)) {
                    command.env("PATH", path);
                }
            }
        }
        command
    }
}

/// How a run ends that failed before its child began.
pub fn before(class: ErrorClass, text: String) -> Ending {
    Ending::Before {
        class,
        text,
        exit: Exit::Failed,
    }
}

/// Nothing is written where a disk should be and is not.
fn must_be_mounted(config: &Config, repository: &str) -> Result<(), String> {
    let backend = config.repositories.get(repository).map(|r| &r.backend);
    let Some(Backend::Local(local)) = backend else {
        return Ok(());
    };
    let Some(place) = &local.require_mount else {
        return Ok(());
    };
    let list = std::fs::read("/proc/self/mountinfo").map_err(|e| {
        format!(
            "it cannot be told whether {} is mounted: {}; nothing was written",
            place.display(),
            plain_io(&e)
        )
    })?;
    match mount::is_mounted(&list, place) {
        true => Ok(()),
        false => Err(format!(
            "nothing is mounted at {}, where the repository {repository} lies (require_mount); nothing was written",
            place.display()
        )),
    }
}

/// The paths in the file `include_from`, as it is now.
fn included(task: &Task<'_>) -> Result<Vec<OsString>, String> {
    let Work::Backup(backup) = task.work else {
        return Ok(Vec::new());
    };
    let from = backup.source.paths().and_then(|p| p.include_from.as_ref());
    match from {
        Some(file) => read_paths(file).map_err(|why| {
            format!(
                "cannot read the paths in {}: {why}; so nothing was backed up",
                file.display()
            )
        }),
        None => Ok(Vec::new()),
    }
}

fn read_paths(file: &Path) -> Result<Vec<OsString>, String> {
    let mut bytes = Vec::new();
    File::open(file)
        .and_then(|f| f.take(FROM_MAX + 1).read_to_end(&mut bytes))
        .map_err(|e| plain_io(&e))?;
    if bytes.len() as u64 > FROM_MAX {
        return Err(format!("it is longer than {FROM_MAX} bytes"));
    }
    let lines = bytes.split(|b| *b == b'\n').filter(|l| !l.is_empty());
    lines
        .map(|l| match l.starts_with(b"/") && !l.contains(&0) {
            true => Ok(OsStr::from_bytes(l).to_owned()),
            false => Err(format!(
                "'{}' is no absolute path",
                escape(&String::from_utf8_lossy(l))
            )),
        })
        .collect()
}

/// The command line, to be typed or pasted.
fn shown(argv: &[OsString]) -> String {
    let word = |w: &OsString| {
        let w = w.to_string_lossy();
        let harmless = |b: u8| b.is_ascii_alphanumeric() || b"-_=./:,+@%".contains(&b);
        match !w.is_empty() && w.bytes().all(harmless) {
            true => w.into_owned(),
            false => format!("'{}'", escape(&w).replace('\'', "'\\''")),
        }
    };
    argv.iter().map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_from_a_file_one_a_line() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("list");
        std::fs::write(&file, b"/a b\n\n/c\xff\n/d").expect("written");
        let paths = read_paths(&file).expect("paths");
        let bytes: Vec<&[u8]> = paths.iter().map(|p| p.as_bytes()).collect();
        assert_eq!(bytes, [&b"/a b"[..], b"/c\xff", b"/d"]);
        for bad in [&b"relative"[..], b"/a\0b", b"--option"] {
            std::fs::write(&file, bad).expect("written");
            assert!(read_paths(&file).is_err(), "{bad:?}");
        }
        assert!(read_paths(dir.path()).is_err());
        std::fs::write(&file, vec![b'/'; FROM_MAX as usize + 1]).expect("written");
        assert!(read_paths(&file).is_err_and(|e| e.contains("longer")));
    }

    #[test]
    fn command_lines_are_shown_so_that_they_can_be_pasted() {
        let words = ["backup", "--exclude=*.tmp", "--", "/it's", ""].map(OsString::from);
        assert_eq!(shown(&words), "backup '--exclude=*.tmp' -- '/it'\\''s' ''");
    }
}

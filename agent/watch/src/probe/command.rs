//! The command probe: a program and its exit code. How it is kept within limits stands in [`crate::process`].

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use keepwatch_model::check::{CheckKind, Reason};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Asking, Probe, SettingsError};
use crate::outcome::{Failure, Outcome, Quantity};
use crate::process::{End, GRACE, Program, Ran, run};
use crate::text::clean_bytes;

/// What is run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CommandSettings {
    /// The program, an absolute path, and its arguments. Anybody on the host can read them in `/proc`: no secrets.
    pub argv: Vec<String>,
    /// Variables added to the minimal environment (`PATH`, `LANG`). No secrets either: name a file.
    pub env: BTreeMap<String, String>,
    /// Where it runs; `/` by default.
    pub directory: Option<PathBuf>,
    /// Codes besides 0 that are a success.
    pub success: Vec<i32>,
    /// Codes that are degraded; 1 as plugins of Nagios use it.
    pub degraded: Vec<i32>,
}

/// The probe.
pub struct Command {
    program: Program,
    settings: CommandSettings,
}

impl Command {
    /// Checks the settings.
    ///
    /// # Errors
    /// No absolute program, zero bytes, a code that is both.
    pub fn new(settings: CommandSettings) -> Result<Self, SettingsError> {
        let wrong = |why: &str| SettingsError::new("argv", why);
        if !settings.argv.first().is_some_and(|p| p.starts_with('/')) {
            return Err(wrong("it must begin with the absolute path of a program"));
        }
        let texts = settings
            .argv
            .iter()
            .chain(settings.env.keys())
            .chain(settings.env.values());
        if texts.clone().any(|t| t.contains('\0'))
            || texts.map(String::len).sum::<usize>() > 64 << 10
        {
            return Err(wrong("it holds a zero byte or is longer than 64 KiB"));
        }
        if settings.env.keys().any(|k| k.is_empty() || k.contains('=')) {
            return Err(SettingsError::new(
                "env",
                "a name of a variable is empty or holds =",
            ));
        }
        if settings
            .success
            .iter()
            .any(|c| settings.degraded.contains(c))
        {
            return Err(SettingsError::new(
                "degraded",
                "a code is both a success and degraded",
            ));
        }
        let mut program = Program::new(settings.argv.iter());
        program
            .env
            .extend(settings.env.iter().map(|(k, v)| (k.into(), v.into())));
        if let Some(directory) = &settings.directory {
            program.directory.clone_from(directory);
        }
        Ok(Self { program, settings })
    }
}

/// What happened, and what the command said to it, if anything.
fn with_output(what: &str, output: &[u8]) -> String {
    match clean_bytes(output) {
        said if said.is_empty() => what.to_owned(),
        said => format!("{what}: {said}"),
    }
}

/// What the end of a command says, before its exit code is judged.
pub(super) fn ended(ran: &Ran) -> Result<i32, Failure> {
    match ran.end {
        End::Exit(code) => Ok(code),
        End::Signal(n) => Err(Failure::new(
            Reason::Exec,
            with_output(&format!("the command was ended by signal {n}"), &ran.output),
        )),
        End::Deadline => Err(Failure::new(
            Reason::Timeout,
            with_output(
                "the command did not end in time and was killed",
                &ran.output,
            ),
        )),
    }
}

/// Runs it, or says why not.
pub(super) async fn start(program: &Program, deadline: Instant) -> Result<Ran, Failure> {
    run(program, deadline).await.map_err(|e| {
        let name = program
            .argv
            .first()
            .map(|p| p.to_string_lossy().into_owned());
        Failure::because(
            Reason::Exec,
            &format!("cannot run {}", name.unwrap_or_default()),
            &e,
        )
    })
}

/// More than [`GRACE`]: the group is killed after it.
pub(super) const OVERTIME: Duration = Duration::from_secs(GRACE.as_secs() + 3);

impl Probe for Command {
    fn kind(&self) -> CheckKind {
        CheckKind::Command
    }

    fn ask(&self, deadline: Instant) -> Asking<'_> {
        Box::pin(async move {
            let asked = async {
                let ran = start(&self.program, deadline).await?;
                Ok::<_, Failure>((ended(&ran)?, ran))
            };
            match asked.await {
                Err(failure) => failure.into(),
                Ok((code, ran)) => {
                    let mut outcome = Outcome::success();
                    outcome.measure(Quantity::ExitCode, f64::from(code));
                    let said = with_output(&format!("exit code {code}"), &ran.output);
                    if self.settings.degraded.contains(&code) {
                        outcome.warn(said);
                    } else if code != 0 && !self.settings.success.contains(&code) {
                        outcome.fail(Reason::Status, said);
                    }
                    outcome
                }
            }
        })
    }

    fn overtime(&self) -> Duration {
        OVERTIME
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn sh(script: &str, secs: f64) -> Outcome {
        let command = Command::new(CommandSettings {
            argv: vec!["/bin/sh".into(), "-c".into(), script.into()],
            env: [("NAME".into(), "value".into())].into(),
            success: vec![3],
            degraded: vec![1],
            ..CommandSettings::default()
        });
        super::super::run(&command.unwrap(), Duration::from_secs_f64(secs)).await
    }

    #[tokio::test]
    async fn codes_by_table() {
        for (script, reason, warnings) in [
            ("exit 0", None, 0),
            ("exit 3", None, 0),
            ("echo so so; exit 1", None, 1),
            ("echo bad; exit 2", Some(Reason::Status), 0),
            ("kill -9 $$", Some(Reason::Exec), 0),
            ("[ \"$NAME\" = value ]", None, 0),
        ] {
            let o = sh(script, 20.0).await;
            assert_eq!(
                o.failure.as_ref().map(|f| f.reason),
                reason,
                "{script}: {o:?}"
            );
            assert_eq!(o.warnings.len(), warnings, "{script}");
        }
        let o = sh("printf 'a\\033[31m\\nb'; exit 2", 20.0).await;
        assert_eq!(o.failure.unwrap().text, "exit code 2: a [31m b");
        let o = sh("echo hello; sleep 100", 0.3).await;
        let f = o.failure.unwrap();
        assert_eq!(f.reason, Reason::Timeout);
        assert!(f.text.ends_with("hello"), "{}", f.text);
    }

    #[tokio::test]
    async fn what_cannot_be_run() {
        let command = Command::new(CommandSettings {
            argv: vec!["/nonexistent/program".into()],
            ..CommandSettings::default()
        });
        let o = super::super::run(&command.unwrap(), Duration::from_secs(5)).await;
        assert_eq!(o.failure.unwrap().reason, Reason::Exec);
        for argv in [
            vec![],
            vec!["sh".to_owned()],
            vec!["/bin/sh".into(), "a\0b".into()],
        ] {
            let s = CommandSettings {
                argv,
                ..CommandSettings::default()
            };
            assert!(Command::new(s).is_err());
        }
    }
}

//! The sqlite probe: the integrity of a database file, by the `sqlite3` program.
//!
//! A program, not a library, for three reasons. A file on a disk that hangs, or a damaged one that sends SQLite round in
//! circles, can be ended by killing a process, never by cancelling a thread. A damaged file is foreign data for forty thousand
//! lines of C, which then do not run inside the daemon. And the binary already links one SQLite for its catalog; a second one
//! of another version cannot be linked beside it. The file is opened read-only.

use std::path::PathBuf;
use std::time::Duration;

use keepwatch_model::check::{CheckKind, Reason};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::command::{OVERTIME, ended, start};
use super::{Asking, Probe, SettingsError};
use crate::outcome::{Failure, Outcome, Quantity};
use crate::process::Program;
use crate::text::clean_bytes;

/// What is checked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqliteSettings {
    /// The database file.
    pub path: PathBuf,
    /// `integrity_check`, which also compares indexes with their tables, instead of `quick_check`.
    #[serde(default)]
    pub full: bool,
    /// The `sqlite3` program.
    #[serde(default = "program")]
    pub program: PathBuf,
}

fn program() -> PathBuf {
    "/usr/bin/sqlite3".into()
}

/// The probe.
pub struct Sqlite {
    program: Program,
    path: PathBuf,
}

impl Sqlite {
    /// Checks the settings.
    ///
    /// # Errors
    /// Paths that are not absolute.
    pub fn new(settings: SqliteSettings) -> Result<Self, SettingsError> {
        for (key, path) in [("path", &settings.path), ("program", &settings.program)] {
            if !path.is_absolute() {
                return Err(SettingsError::new(key, "it must be an absolute path"));
            }
        }
        let pragma = if settings.full {
            "PRAGMA integrity_check(5);"
        } else {
            "PRAGMA quick_check(5);"
        };
        let mut program = Program::new([settings.program.as_os_str()]);
        // No ~/.sqliterc, stop at the first error, wait for a writer's lock.
        program.argv.extend(
            [
                "-init",
                "/dev/null",
                "-batch",
                "-bail",
                "-readonly",
                "-cmd",
                ".timeout 2000",
            ]
            .map(Into::into),
        );
        program.argv.push(settings.path.clone().into());
        program.argv.push(pragma.into());
        Ok(Self {
            program,
            path: settings.path,
        })
    }

    async fn run(&self, deadline: Instant) -> Result<Outcome, Failure> {
        let shown = self.path.display();
        // sqlite3 would take a missing file for an empty database.
        tokio::fs::metadata(&self.path)
            .await
            .map_err(|e| Failure::because(Reason::Exec, &format!("cannot read {shown}"), &e))?;
        let ran = start(&self.program, deadline).await?;
        let code = ended(&ran)?;
        let said = clean_bytes(&ran.output);
        let mut outcome = Outcome::success();
        let ok = code == 0 && said == "ok";
        if ok {
            outcome.measure(Quantity::SqliteIntegrityOk, 1.0);
        } else if said.contains("locked") || said.contains("busy") {
            outcome.fail(Reason::Status, format!("{shown} is locked: {said}"));
        } else if said.contains("unable to open") || said.contains("readonly") {
            outcome.fail(Reason::Exec, format!("{shown} cannot be opened: {said}"));
        } else {
            outcome.measure(Quantity::SqliteIntegrityOk, 0.0);
            outcome.fail(Reason::Assertion, format!("{shown} is damaged: {said}"));
        }
        Ok(outcome)
    }
}

impl Probe for Sqlite {
    fn kind(&self) -> CheckKind {
        CheckKind::Sqlite
    }
    fn ask(&self, deadline: Instant) -> Asking<'_> {
        Box::pin(async move { self.run(deadline).await.into() })
    }
    fn overtime(&self) -> Duration {
        OVERTIME
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(path: &std::path::Path, full: bool) -> Outcome {
        let s = SqliteSettings {
            path: path.into(),
            full,
            program: program(),
        };
        super::super::run(&Sqlite::new(s).unwrap(), Duration::from_secs(20)).await
    }

    #[tokio::test]
    async fn a_sound_a_damaged_and_a_missing_file() {
        if !program().exists() {
            eprintln!("SKIPPED: {} is not installed", program().display());
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a b'c.db");
        let made = std::process::Command::new(program())
            .arg(&file)
            .arg("CREATE TABLE t(x); CREATE INDEX i ON t(x); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<3000) INSERT INTO t SELECT i || 'abcdefghijklmnop' FROM n;")
            .status()
            .unwrap();
        assert!(made.success());
        for full in [false, true] {
            let o = check(&file, full).await;
            assert_eq!(o.failure, None);
            assert_eq!(o.value(Quantity::SqliteIntegrityOk), Some(1.0));
        }
        let mut bytes = std::fs::read(&file).unwrap();
        for b in &mut bytes[8192..12_288] {
            *b ^= 0x55;
        }
        std::fs::write(&file, &bytes).unwrap();
        let o = check(&file, true).await;
        assert_eq!(
            o.failure.as_ref().map(|f| f.reason),
            Some(Reason::Assertion),
            "{o:?}"
        );
        assert_eq!(o.value(Quantity::SqliteIntegrityOk), Some(0.0));
        std::fs::write(&file, b"this is not a database, not at all, and longer than a header of one hundred bytes, really; it is not, no no no").unwrap();
        let o = check(&file, false).await;
        assert_eq!(o.failure.unwrap().reason, Reason::Assertion);
        let o = check(&dir.path().join("none.db"), false).await;
        assert_eq!(o.failure.unwrap().reason, Reason::Exec);
        assert!(!dir.path().join("none.db").exists());
    }
}

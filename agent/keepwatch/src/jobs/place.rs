//! The repository of a run as a place: made where there is none yet, and what is noted of it afterwards.
//!
//! A repository is made only for a host that never wrote to it: it has no writer key, and the catalog knows of no backup there. Where
//! there was one, its absence is a disk that is not mounted or a bucket of the wrong name, and an empty new one would hide that.

use std::ffi::OsString;

use keepwatch_config::sections::repositories::{Backend, Repository};
use keepwatch_model::runs::{ErrorClass, RepositoryState, RunKind, RunOutcome, RunRecord};
use serde_json::Value;

use super::argv::{Setting, WriterKey, making};
use super::book::Book;
use super::report::{self, Ending};
use super::work::{Worker, before};
use crate::clock;
use crate::errors::Exit;
use crate::output::{escape, plain, tell};
use crate::standing::{self, Standing};

/// Makes the repository of a backup, where the configuration wants that and there is none.
///
/// # Errors
/// How the run ends without a backup.
pub fn make(
    worker: &Worker<'_>,
    task: &super::task::Task<'_>,
    name: &str,
    book: &Book,
) -> Result<(), Ending> {
    let Some(argv) = wanted(worker.setting, name)
        .map_err(|f| before(report::class(&f.message, f.exit), f.message))?
    else {
        return Ok(());
    };
    worker.must_be_mounted(name)?;
    if book.has_backups(name) {
        tell(&format!(
            "keepwatch: warning: this host has no writer key of the repository {}, and backups in it are on record; so no new one is made. Is its disk mounted, is it the right bucket, and is the key's file there?",
            escape(name)
        ));
        return Ok(());
    }
    let (ending, output) = worker.child(task, &argv, false)?;
    let document: Option<Value> = serde_json::from_slice(&output).ok();
    let said = |key: &str| document.as_ref().and_then(|d| d[key].as_str().map(plain));
    if let Ending::Child { status, cut: None } = &ending {
        if status.success() {
            if let Some(place) = said("repository").filter(|_| said("writer_key").is_some()) {
                tell(&format!(
                    "keepwatch: a new repository was made at {}; it is sealed to the recipients that the configuration names, without one of whose identities nothing can be restored from it",
                    escape(&place)
                ));
            }
            return Ok(());
        }
        let why = said("error").unwrap_or_else(|| format!("its process ended with {status}"));
        let class = report::class(&why, Exit::Failed);
        return Err(before(
            class,
            format!("the repository {name} cannot be made: {why}; nothing was backed up"),
        ));
    }
    Err(before(
        ErrorClass::Killed,
        format!(
            "the repository {name} was not made, because that was interrupted; nothing was backed up"
        ),
    ))
}

/// The command line that makes it; none when it is not to be made.
fn wanted(
    setting: &Setting<'_>,
    name: &str,
) -> Result<Option<Vec<OsString>>, crate::errors::Failure> {
    let Some(declared) = setting.config.repositories.get(name) else {
        return Ok(None);
    };
    let key = setting.writer_key(name, declared)?;
    let is_ours = !matches!(key, WriterKey::Given(_));
    if !declared.initialize || !is_ours || key.path().exists() {
        return Ok(None);
    }
    if let Backend::Local(local) = &declared.backend {
        let is_there = local.path.join("config").exists();
        let may_be_made = local.create_directory || local.path.exists();
        if is_there || !may_be_made {
            return Ok(None);
        }
    }
    making(setting, name).map(Some)
}

/// What is known of a repository after a run; nothing when the run says nothing of it.
pub fn state(
    host: &str,
    name: &str,
    declared: &Repository,
    run: &RunRecord,
    document: Option<&Value>,
    size_before: Option<u64>,
) -> Option<RepositoryState> {
    let seen = match &declared.backend {
        Backend::Local(local) => standing::look(&local.path, local.require_mount.as_deref()),
        Backend::S3(_) => Standing::default(),
    };
    Some(RepositoryState {
        host: host.to_owned(),
        repository: name.to_owned(),
        at: clock::now(),
        reachable: seen.reachable.or_else(|| answered(run))?,
        size_bytes: size(run, document, size_before),
        available_bytes: seen.available,
        capacity_bytes: seen.capacity,
        wal: match run.kind {
            RunKind::Verify => report::wal(document),
            _ => None,
        },
    })
}

/// Whether the repository answered, as far as the end of a run tells.
fn answered(run: &RunRecord) -> Option<bool> {
    match (&run.outcome, &run.error) {
        (RunOutcome::Succeeded | RunOutcome::Partial, _) => Some(true),
        (RunOutcome::Failed, Some(e)) => match e.class {
            ErrorClass::Repository => Some(false),
            // What is there and refuses is not away.
            ErrorClass::Space | ErrorClass::Lock | ErrorClass::Verify => Some(true),
            _ => None,
        },
        _ => None,
    }
}

/// Bytes of the repository: `prune` tells them, and what is added later is added.
fn size(run: &RunRecord, document: Option<&Value>, before: Option<u64>) -> Option<u64> {
    match run.kind {
        RunKind::Prune => document.and_then(|d| d["bytes_after"].as_u64()).or(before),
        RunKind::Backup | RunKind::Copy => {
            before.map(|b| b.saturating_add(run.totals.added_bytes.unwrap_or(0)))
        }
        _ => before,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keepwatch_model::ids::RunId;
    use keepwatch_model::runs::{RunError, Trigger};
    use keepwatch_model::time::Moment;

    fn run(kind: RunKind, outcome: RunOutcome, class: Option<ErrorClass>) -> RunRecord {
        let at: Moment = "2026-11-22T04:20:24Z".parse().expect("a time");
        let mut run = RunRecord::begin(RunId::new(at, [1; 10]), kind, "h", at, Trigger::Manual);
        run.outcome = outcome;
        run.error = class.map(|class| RunError {
            class,
            text: "x".into(),
        });
        run.totals.added_bytes = Some(5);
        run
    }

    #[test]
    fn what_a_run_says_of_its_repository() {
        use RunOutcome::{Failed, Partial, Succeeded};
        for (outcome, class, want) in [
            (Succeeded, None, Some(true)),
            (Partial, None, Some(true)),
            (Failed, Some(ErrorClass::Repository), Some(false)),
            (Failed, Some(ErrorClass::Space), Some(true)),
            (Failed, Some(ErrorClass::Source), None),
            (Failed, Some(ErrorClass::Timeout), None),
        ] {
            assert_eq!(answered(&run(RunKind::Backup, outcome, class)), want);
        }
    }

    #[test]
    fn sizes_are_known_from_prune_on() {
        let backup = run(RunKind::Backup, RunOutcome::Succeeded, None);
        assert_eq!(size(&backup, None, None), None);
        assert_eq!(size(&backup, None, Some(10)), Some(15));
        let prune = run(RunKind::Prune, RunOutcome::Succeeded, None);
        let said = serde_json::json!({ "bytes_after": 7 });
        assert_eq!(size(&prune, Some(&said), Some(10)), Some(7));
        assert_eq!(size(&prune, None, Some(10)), Some(10));
        let verify = run(RunKind::Verify, RunOutcome::Succeeded, None);
        assert_eq!(size(&verify, None, Some(10)), Some(10));
    }
}

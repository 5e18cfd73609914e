//! Commands around a run: `pre_hook`, without which it is not made, and `post_hook`, which always runs and is told what came of it.
//!
//! | variable | holds |
//! |---|---|
//! | `KEEPWATCH_JOB` | the job |
//! | `KEEPWATCH_REPOSITORY` | the repositories, separated by spaces |
//! | `KEEPWATCH_RESULT` | `succeeded`, `partial` or `failed`: the worst of them; `failed`, with a snapshot, also when units that were stopped were not started again (`post_hook` only, as all below) |
//! | `KEEPWATCH_RESULTS` | the result for each repository, in their order |
//! | `KEEPWATCH_SNAPSHOT` | the snapshot in each repository, in their order; `-` for none |
//! | `KEEPWATCH_DURATION_SECONDS` | how long all of it took |
//! | `KEEPWATCH_ERROR` | what failed first, one line without secrets; empty when nothing did |

use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use keepwatch_model::duration::human_duration;
use keepwatch_model::runs::{RunOutcome, RunRecord};

use super::child::{self, Cut, TERM_WAIT, Terms};
use super::stop::Stop;
use crate::errors::plain_io;
use crate::output::escape;

/// After a stop, `post_hook` may still take so long: systemd kills a unit 90 s after it asked it to stop.
pub const STOPPED_WAIT: Duration = Duration::from_secs(20);
/// Variables that a hook has no need of.
pub const NOT_FOR_CHILDREN: &[&str] = &[
    "KEEPWATCH_IDENTITY_FILE",
    "KEEPWATCH_WRITER_KEY_FILE",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "PGPASSWORD",
];

/// What a hook is told.
pub type Variables = Vec<(&'static str, String)>;

/// Before the run.
pub fn before(job: &str, repositories: &[&str]) -> Variables {
    vec![
        ("KEEPWATCH_JOB", job.to_owned()),
        ("KEEPWATCH_REPOSITORY", repositories.join(" ")),
    ]
}

/// After it: the last record of each repository.
pub fn after(job: &str, repositories: &[&str], runs: &[RunRecord], took: Duration) -> Variables {
    let of = |name: &str| {
        runs.iter()
            .rev()
            .find(|r| r.repository.as_deref() == Some(name))
    };
    let last: Vec<_> = repositories.iter().map(|r| of(r)).collect();
    let outcome = |r: &Option<&RunRecord>| r.map_or(RunOutcome::Failed, |r| r.outcome);
    let worst = if last.iter().any(|r| !outcome(r).is_success()) {
        RunOutcome::Failed
    } else if last.iter().any(|r| outcome(r) == RunOutcome::Partial) {
        RunOutcome::Partial
    } else {
        RunOutcome::Succeeded
    };
    let each = |f: &dyn Fn(&Option<&RunRecord>) -> String| {
        last.iter().map(f).collect::<Vec<_>>().join(" ")
    };
    let snapshot = |r: &Option<&RunRecord>| {
        let id = r.and_then(|r| r.snapshot.clone());
        id.unwrap_or_else(|| "-".to_owned())
    };
    let error = last
        .iter()
        .flatten()
        .find_map(|r| r.error.as_ref())
        .map_or_else(String::new, |e| e.text.replace(char::is_control, " "));
    let mut out = before(job, repositories);
    out.extend([
        ("KEEPWATCH_RESULT", worst.as_str().to_owned()),
        (
            "KEEPWATCH_RESULTS",
            each(&|r| outcome(r).as_str().to_owned()),
        ),
        ("KEEPWATCH_SNAPSHOT", each(&snapshot)),
        (
            "KEEPWATCH_DURATION_SECONDS",
            format!("{:.3}", took.as_secs_f64()),
        ),
        ("KEEPWATCH_ERROR", error),
    ]);
    out
}

/// Runs a hook. What it prints goes to standard error, which is the journal.
///
/// # Errors
/// One sentence, without its end.
pub fn run(
    what: &str,
    argv: &[String],
    variables: Variables,
    deadline: Duration,
    stop: Option<&Stop>,
) -> Result<(), String> {
    let Some((program, arguments)) = argv.split_first() else {
        return Ok(());
    };
    let shown = escape(program);
    let mut command = Command::new(program);
    command.args(arguments).envs(variables);
    for name in NOT_FOR_CHILDREN {
        command.env_remove(name);
    }
    let stderr = std::io::stderr().as_fd().try_clone_to_owned();
    command.stdout(stderr.map_or_else(|_| Stdio::null(), Stdio::from));
    let terms = Terms {
        deadline,
        term_wait: TERM_WAIT,
        stop,
        capture: 0,
        sweep: false,
    };
    let ended = child::run(&mut command, &terms)
        .map_err(|e| format!("the {what} '{shown}' cannot be started: {}", plain_io(&e)))?;
    match (ended.status.success(), ended.cut) {
        (true, _) => Ok(()),
        (_, Some(Cut::Timeout)) => Err(format!(
            "the {what} '{shown}' was ended because it took longer than {}",
            human_duration(deadline)
        )),
        (_, Some(Cut::Stop)) => Err(format!("the {what} '{shown}' was stopped by a signal")),
        (_, None) => Err(format!("the {what} '{shown}' failed ({})", ended.status)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keepwatch_model::ids::RunId;
    use keepwatch_model::runs::{ErrorClass, RunError, RunKind, Trigger};
    use keepwatch_model::time::Moment;

    fn record(repository: &str, outcome: RunOutcome, error: Option<&str>) -> RunRecord {
        let at: Moment = "2026-11-22T04:20:24Z".parse().expect("a time");
        let id = RunId::new(at, [7; 10]);
        let mut r = RunRecord::begin(id, RunKind::Backup, "h", at, Trigger::Manual);
        r.repository = Some(repository.to_owned());
        r.outcome = outcome;
        r.snapshot = outcome.is_success().then(|| format!("id-of-{repository}"));
        r.error = error.map(|text| RunError {
            class: ErrorClass::Space,
            text: text.to_owned(),
        });
        r
    }

    #[test]
    fn the_last_run_of_each_repository_counts_and_the_worst_is_the_result() {
        use RunOutcome::{Failed, Partial, Succeeded};
        for (runs, result, results, snapshots, error) in [
            (
                vec![record("a", Succeeded, None), record("b", Succeeded, None)],
                "succeeded",
                "succeeded succeeded",
                "id-of-a id-of-b",
                "",
            ),
            (
                vec![
                    record("a", Failed, Some("no\nroom")),
                    record("a", Succeeded, None),
                    record("b", Partial, None),
                ],
                "partial",
                "succeeded partial",
                "id-of-a id-of-b",
                "",
            ),
            (
                vec![
                    record("a", Partial, None),
                    record("b", Failed, Some("no\nroom")),
                ],
                "failed",
                "partial failed",
                "id-of-a -",
                "no room",
            ),
            (vec![], "failed", "failed failed", "- -", ""),
        ] {
            let told = after("home", &["a", "b"], &runs, Duration::from_millis(1500));
            let get = |name: &str| {
                let found = told.iter().find(|(n, _)| *n == name);
                found.map(|(_, v)| v.as_str()).unwrap_or("absent")
            };
            assert_eq!(get("KEEPWATCH_JOB"), "home");
            assert_eq!(get("KEEPWATCH_REPOSITORY"), "a b");
            assert_eq!(get("KEEPWATCH_RESULT"), result);
            assert_eq!(get("KEEPWATCH_RESULTS"), results);
            assert_eq!(get("KEEPWATCH_SNAPSHOT"), snapshots);
            assert_eq!(get("KEEPWATCH_ERROR"), error);
            assert_eq!(get("KEEPWATCH_DURATION_SECONDS"), "1.500");
        }
    }

    #[test]
    fn hooks_fail_with_a_sentence() {
        let sh = |script: &str, deadline| {
            let argv = ["/bin/sh", "-c", script].map(str::to_owned);
            run(
                "pre_hook",
                &argv,
                before("home", &["a"]),
                Duration::from_millis(deadline),
                None,
            )
        };
        assert_eq!(sh("test \"$KEEPWATCH_JOB\" = home", 60_000), Ok(()));
        assert!(sh("exit 7", 60_000).is_err_and(|e| e.contains("exit status: 7")));
        assert!(sh("sleep 60", 50).is_err_and(|e| e.contains("took longer")));
        let absent = run(
            "post_hook",
            &["/nonexistent/hook".to_owned()],
            Vec::new(),
            Duration::from_secs(1),
            None,
        );
        assert!(absent.is_err_and(|e| e.contains("cannot be started")));
    }
}

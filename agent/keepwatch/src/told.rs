//! What became of runs, as records of the journal: one kind of event each with its own `MESSAGE_ID`, and the job, the run and the
//! repository in fields, so that `journalctl KEEPWATCH_JOB=home` finds all of a job.

use keepwatch_model::runs::{RunOutcome, RunRecord};

/// A run of a backup, verification or drill was lost.
pub const LOST: &str = "a2d02b3b62744f988359091e9b60a54a";
/// A run ended well, at least in part.
pub const ENDED: &str = "5f6d1a3dcb0a4f0a9c1a4a8f7c2f3e61";
/// A run failed.
pub const FAILED: &str = "c0b3a7e2f1d94b6f8f0e9d1c6a5b4372";

/// A run whose process ended without a word.
pub fn lost(run: &RunRecord) {
    let (job, repository) = names(run);
    tracing::error!(target: crate::logs::TOLD, message_id = LOST, keepwatch_job = job, keepwatch_repository = repository, keepwatch_run_id = %run.id, "the {} run {} of '{job}' ended without a word: it was killed, or the power failed", run.kind, run.id);
}

/// A run that ended; `line` says so to people.
pub fn ended(run: &RunRecord, line: &str) {
    let (job, repository) = names(run);
    let took = run.duration.unwrap_or_default().as_millis();
    let took = u64::try_from(took).unwrap_or(u64::MAX);
    let (id, kind, attempt) = (run.id, run.kind, u64::from(run.attempt));
    let snapshot = run.snapshot.as_deref().unwrap_or_default();
    let reason = run.error.as_ref().map_or("", |e| e.class.as_str());
    macro_rules! tell {
        ($level:ident, $message:expr) => {
            tracing::$level!(target: crate::logs::TOLD, message_id = $message, keepwatch_job = job, keepwatch_repository = repository, keepwatch_run_id = %id, keepwatch_kind = %kind, keepwatch_attempt = attempt, keepwatch_duration_ms = took, keepwatch_snapshot = snapshot, keepwatch_reason = reason, "{line}")
        };
    }
    match run.outcome {
        RunOutcome::Succeeded => tell!(info, ENDED),
        RunOutcome::Partial => tell!(warn, ENDED),
        _ => tell!(error, FAILED),
    }
}

fn names(run: &RunRecord) -> (&str, &str) {
    (
        run.job.as_deref().unwrap_or_default(),
        run.repository.as_deref().unwrap_or_default(),
    )
}

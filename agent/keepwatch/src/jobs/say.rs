//! A run in one line, for people. Pure.

use std::time::Duration;

use keepwatch_config::sections::backups::Source;
use keepwatch_model::duration::human_duration;
use keepwatch_model::runs::{RunOutcome, RunRecord};
use keepwatch_model::size::human_bytes;

use super::task::{Task, Work};
use crate::output::count;

/// What came of it; `of`: attempts in all; `again`: the pause before the next.
pub fn line(task: &Task<'_>, run: &RunRecord, of: u32, again: Option<Duration>) -> String {
    let mut out = task.title.clone();
    if task.repositories.len() > 1 {
        out += &format!(" to {}", run.repository.as_deref().unwrap_or("-"));
    }
    if run.attempt > 1 || again.is_some() {
        out += &format!(", attempt {} of {of}", run.attempt);
    }
    out += &format!(": {}", run.outcome.as_str());
    let mut parts = Vec::new();
    if let Some(error) = &run.error {
        parts.push(error.text.clone());
    }
    if let (Some(id), true) = (&run.snapshot, run.outcome.is_success()) {
        parts.push(format!("snapshot {}", id.get(..8).unwrap_or(id)));
    }
    let t = &run.totals;
    if run.outcome == RunOutcome::Partial {
        let n = t.source_errors.unwrap_or(0);
        parts.push(format!("{} not whole", count(n, "file", "files")));
    }
    if run.outcome.is_success() {
        parts.extend(t.files.map(|n| count(n, "file", "files")));
        parts.extend(t.added_bytes.map(|n| format!("{} added", human_bytes(n))));
        parts.extend(t.freed_bytes.map(|n| format!("{} freed", human_bytes(n))));
        let removed = run.retention.as_ref().map(|r| r.removed);
        parts.extend(removed.map(|n| format!("{} forgotten", count(n, "snapshot", "snapshots"))));
        parts.extend(run.duration.map(human_duration));
    }
    if !parts.is_empty() {
        out += &format!(": {}", parts.join(", "));
    }
    if let Some(pause) = again {
        out += &format!("; trying again in {}", human_duration(pause));
    }
    out
}

/// What it reads, for people.
pub fn path(task: &Task<'_>) -> Option<String> {
    let Work::Backup(backup) = task.work else {
        return None;
    };
    if let Source::Command(command) = &backup.source {
        return Some(command.filename.clone());
    }
    let paths = backup.source.paths()?;
    let first = paths.include.first()?.display().to_string();
    let others = paths.include.len() - 1;
    Some(match others {
        0 => first,
        n => format!("{first} and {n} more"),
    })
}

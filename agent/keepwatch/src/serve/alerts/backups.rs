//! What is wrong with backups, their retention, and rehearsed restores of them.

use std::time::Duration;

use keepwatch_expose::facts::{At, Backup, Drill};
use keepwatch_model::duration::human_duration;
use keepwatch_model::size::human_bytes;

use super::past::{HOUR, MINUTE};
use super::rules::{self, Rule};
use super::{Case, Known, after};

/// Less than that is no source that could shrink.
const SMALL: u64 = 1 << 20;
/// Less than that is nothing unusual to add.
const LITTLE: u64 = 1 << 30;
/// What takes less is not slow.
const SHORT: Duration = Duration::from_secs(600);
/// So far ahead a success is in the future.
const AHEAD: Duration = Duration::from_secs(300);

pub(super) fn cases(known: &Known<'_>, out: &mut Vec<Case>) {
    for backup in &known.facts.backups {
        let one = One { known, backup };
        out.extend(one.stale());
        out.extend(one.last_run());
        out.extend(one.starts());
        out.extend(one.amounts());
        out.extend(one.retention());
        if let Some(drill) = &backup.drill {
            out.extend(one.drill(drill));
        }
    }
}

struct One<'a> {
    known: &'a Known<'a>,
    backup: &'a Backup,
}

impl One<'_> {
    fn case(&self, rule: &Rule) -> Case {
        self.known
            .case(rule)
            .label("backup", &self.backup.name)
            .label("repository", &self.backup.repository)
    }

    fn what(&self) -> String {
        format!("backup {} to {}", self.backup.name, self.backup.repository)
    }

    /// The moment from which on it is overdue, if that has passed.
    fn past(&self, from: At, limit: Duration) -> Option<At> {
        let due = after(from, limit);
        (self.known.now > due).then_some(due)
    }

    fn stale(&self) -> Option<Case> {
        let (b, name) = (self.backup, &self.backup.name);
        let declared = self.known.config.backups.get(name)?;
        // Unless it was chosen, it is twice the interval; the last run may take its time.
        let chosen = Some(declared.max_age) != b.interval.map(|i| 2 * i);
        let age = declared.max_age + if chosen { Duration::ZERO } else { HOUR };
        if let Some(last) = b.last_success {
            let due = self.past(last, age)?;
            return Some(self.case(&rules::BACKUP_STALE).since(Some(due)).says(
                &format!("{} did not succeed for longer than {}", self.what(), human_duration(age)),
                &format!("What is stored is safe, but what changed since is not. 'keepwatch history {name} --only runs' tells why."),
            ));
        }
        let due = self.past(b.first_seen?, declared.max_age)?;
        Some(self.case(&rules::BACKUP_NEVER).since(Some(due)).says(
            &format!("{} never succeeded since it was configured", self.what()),
            &format!("Nothing of it can be restored. Run 'keepwatch backup --job {name}' by hand and read what it says."),
        ))
    }

    fn last_run(&self) -> Vec<Case> {
        let (b, name) = (self.backup, &self.backup.name);
        let mut out = Vec::new();
        if b.last_successful == Some(false) {
            out.push(self.case(&rules::BACKUP_FAILED).since(b.last_completion).says(
                &format!("the last run of {} failed", self.what()),
                &format!("What was backed up before is safe. 'keepwatch history {name} --only runs' tells why."),
            ));
        }
        if let Some(n) = b.last_source_errors.filter(|n| *n > 0) {
            let files = if n == 1 {
                "1 file".to_owned()
            } else {
                format!("{n} files")
            };
            out.push(self.case(&rules::BACKUP_PARTIAL).since(b.last_success).says(
                &format!("{} left out {files} that could not be read", self.what()),
                &format!("The rest is in it. 'journalctl -u keepwatch-backup-{name}.service' names them."),
            ));
        }
        if let Some(at) = b.last_success {
            let ahead = at.since(self.known.now);
            if ahead > AHEAD {
                out.push(self.case(&rules::BACKUP_CLOCK_SKEW).says(
                    &format!("{} succeeded in the future", self.what()),
                    &format!("Its last success lies {} ahead: the clock of this host was or is wrong, and no alert about ages can be believed until it is mended.", human_duration(ahead)),
                ));
            }
        }
        out
    }

    fn starts(&self) -> Vec<Case> {
        let (b, name) = (self.backup, &self.backup.name);
        let mut out = Vec::new();
        let Some(start) = b.last_start else {
            return out;
        };
        if let Some(interval) = b.interval {
            let limit = interval + interval / 4 + HOUR;
            if let Some(due) = self.past(start, limit) {
                out.push(self.case(&rules::BACKUP_MISSED_START).since(Some(due)).says(
                    &format!("{} did not start", self.what()),
                    "The last run started longer ago than the schedule allows: the timer is off, the host slept, or another run holds the lock. \"systemctl list-timers 'keepwatch-*'\" shows the timers.",
                ));
            }
        }
        if let Some(usual) = b.expected_duration.filter(|_| b.running) {
            let limit = (3 * usual).max(60 * MINUTE);
            if let Some(due) = self.past(start, limit) {
                out.push(self.case(&rules::BACKUP_TOO_LONG).since(Some(due)).says(
                    &format!("{} runs unusually long", self.what()),
                    &format!("Over three times as long as usual: it hangs, waits for a lock, or the line is slow. 'systemctl status keepwatch-backup-{name}.service' shows what it does."),
                ));
            }
        }
        out
    }

    fn amounts(&self) -> Vec<Case> {
        let b = self.backup;
        let mut out = Vec::new();
        if let (Some(took), Some(usual)) = (b.last_duration, b.expected_duration) {
            if took > 2 * usual && took > SHORT {
                out.push(
                    self.case(&rules::BACKUP_SLOW)
                        .since(b.last_completion)
                        .says(
                            &format!("{} took twice as long as usual", self.what()),
                            &format!(
                                "The last run took {}, usual is {}.",
                                human_duration(took),
                                human_duration(usual)
                            ),
                        ),
                );
            }
        }
        if let (Some(size), Some(usual)) = (b.last_source_size, b.expected_source_size) {
            if size.saturating_mul(2) < usual && usual > SMALL {
                out.push(self.case(&rules::BACKUP_SHRUNK).since(b.last_success).says(
                    &format!("{} shrank to less than half", self.what()),
                    &format!("The source held {}, usual is {}: data were deleted, or a file system is not mounted. Older snapshots still hold what is missing.", human_bytes(size), human_bytes(usual)),
                ));
            }
        }
        if let (Some(added), Some(usual)) = (b.last_added_size, b.expected_added_size) {
            if added > usual.saturating_mul(3) && added > LITTLE {
                out.push(self.case(&rules::BACKUP_GREW).since(b.last_success).says(
                    &format!("{} added three times as much as usual", self.what()),
                    &format!("The last run stored {} of new data, usual is {}: a large upload, logs, or files that somebody encrypted. 'keepwatch diff' names what changed between two snapshots.", human_bytes(added), human_bytes(usual)),
                ));
            }
        }
        out
    }

    fn retention(&self) -> Vec<Case> {
        let (b, name) = (self.backup, &self.backup.name);
        let mut out = Vec::new();
        if let Some(n) = b.retention.overdue.filter(|n| *n > 0) {
            out.push(self.case(&rules::RETENTION_OVERDUE).says(
                &format!("retention of {} is overdue", self.what()),
                &format!("{n} snapshots should be gone for a day and are still there, so the repository grows. 'keepwatch forget --job {name} --dry-run' shows what would go and why."),
            ));
        }
        if let (Some(n), Some(least)) = (b.snapshots, b.retention.minimum) {
            if n < least {
                out.push(self.case(&rules::RETENTION_AGGRESSIVE).says(
                    &format!("{} has lost snapshots", self.what()),
                    &format!("There are {n}, and the policy must leave {least}: somebody or something deleted them. Forgotten snapshots can be brought back until prune has deleted their data: stop prune first."),
                ));
            }
        }
        out
    }

    fn drill(&self, drill: &Drill) -> Vec<Case> {
        let mut out = Vec::new();
        let what = format!("{} from {}", self.backup.name, self.backup.repository);
        if drill.last_successful == Some(false) {
            out.push(self.case(&rules::DRILL_FAILED).since(drill.last_completion).says(
                &format!("a rehearsed restore of {what} failed"),
                "The newest backup did not come back as it should. Treat it as if there were no backup until a restore by hand succeeds.",
            ));
        }
        if let Some(interval) = drill.interval {
            let from = drill.last_success.or(self.backup.first_seen);
            let due = from.and_then(|from| self.past(from, interval + interval / 2));
            if let Some(due) = due {
                out.push(self.case(&rules::DRILL_STALE).since(Some(due)).says(
                    &format!("a restore of {what} was not rehearsed in time"),
                    "No rehearsed restore succeeded for longer than its schedule allows. A backup that was never restored is a hope.",
                ));
            }
        }
        if let (Some(took), Some(aim)) = (drill.last_duration, drill.objective) {
            if took > aim {
                out.push(
                    self.case(&rules::DRILL_TOO_SLOW)
                        .since(drill.last_completion)
                        .says(
                            &format!("restoring {what} takes too long"),
                            &format!(
                                "The last rehearsed restore took {}; {} is aimed at.",
                                human_duration(took),
                                human_duration(aim)
                            ),
                        ),
                );
            }
        }
        out
    }
}

//! Has a restore ever worked, and is what is stored still whole?

use keepwatch_expose::names as n;

use crate::dashboard::{Dashboard, Section, Variable};
use crate::panel::{FEW_WANTED, NONE_WANTED, OK, Panel, Sort};
use crate::query::{age, backup, in_range, increase, repository};

const KEY: &str = "instance, backup, repository";
const LEGEND: &str = "{{instance}} {{backup}} → {{repository}}";
const PLACE: &str = "{{instance}} {{repository}}";
const CLUSTER: &str = "{{instance}} {{repository}} {{cluster}}";

pub fn board() -> Dashboard {
    let per = |expr: String| format!("max by ({KEY}) ({expr})");
    let at = |expr: String| format!("max by (instance, repository) ({expr})");
    let wal = repository;
    let log = |expr: String| format!("max by (instance, repository, cluster) ({expr})");
    Dashboard {
        uid: "keepwatch-restore",
        title: "Keepwatch / Restore and verification",
        description: "Has a restore of each backup ever worked, how long does it take, and is what is stored still whole?",
        from: "now-30d",
        variables: &[
            Variable { name: "backup", label: "Backup", metric: &n::BACKUP_INFO },
            Variable { name: "repository", label: "Repository", metric: &n::BACKUP_INFO },
        ],
        sections: vec![
            Section::open(
                "Now",
                vec![
                    Panel::new(Sort::Stat, "Drills failed", "Rehearsed restores whose last run failed.")
                        .ask(format!("sum({} == bool 0)", backup(&n::DRILL_LAST_SUCCESSFUL)), "failed").steps(NONE_WANTED).absent("no drill yet"),
                    Panel::new(Sort::Stat, "Oldest drill", "Age of the last good rehearsal of the backup that waits longest for one.")
                        .ask(format!("max({})", age(&backup(&n::DRILL_LAST_SUCCESS))), "age").unit("s").steps(&[(3_974_400.0, "orange"), (7_948_800.0, "red")]).absent("never"),
                    Panel::new(Sort::Stat, "Never rehearsed", "Backups of which no restore was ever rehearsed with success: hopes.")
                        .ask(format!("count({} unless on (job, instance, backup, repository) {}) or vector(0)", backup(&n::BACKUP_INFO), backup(&n::DRILL_LAST_SUCCESS)), "backups").steps(FEW_WANTED),
                    Panel::new(Sort::Stat, "Repositories damaged", "Repositories whose last verification found something.")
                        .ask(format!("sum({} == bool 0)", repository(&n::VERIFICATION_LAST_SUCCESSFUL)), "damaged").steps(NONE_WANTED).absent("never verified"),
                    Panel::new(Sort::Stat, "Oldest verification", "Age of the last good verification of the repository that waits longest for one.")
                        .ask(format!("max({})", age(&repository(&n::VERIFICATION_LAST_SUCCESS))), "age").unit("s").steps(&[(3_974_400.0, "orange"), (7_948_800.0, "red")]).absent("never"),
                    Panel::new(Sort::Stat, "Findings", "Damage that verifications found in the time that is shown.")
                        .ask(format!("sum({})", in_range(&repository(&n::VERIFICATION_ERRORS))), "findings").decimals(0).steps(NONE_WANTED).absent("never verified"),
                ],
            ),
            Section::open(
                "Rehearsed restores",
                vec![
                    Panel::new(Sort::Table, "Drills by backup", "Each configured drill: when it last worked, how long it took, what was aimed at.")
                        .column("Age", "s", per(age(&backup(&n::DRILL_LAST_SUCCESS))))
                        .column("Interval", "s", per(backup(&n::DRILL_INTERVAL)))
                        .column("Last run", "short", per(backup(&n::DRILL_LAST_SUCCESSFUL))).worded(OK)
                        .column("Duration", "s", per(backup(&n::DRILL_LAST_DURATION)))
                        .column("Objective", "s", per(backup(&n::DRILL_OBJECTIVE)))
                        .column("Restored", "bytes", per(backup(&n::DRILL_RESTORED_SIZE))),
                    Panel::new(Sort::History, "Drill results", "Result of the last rehearsal at each time.").ask(per(backup(&n::DRILL_LAST_SUCCESSFUL)), LEGEND).words(OK).absent("no drill yet"),
                    Panel::new(Sort::Graph, "Recovery time against objective", "Duration of the last rehearsal over what is aimed at: above 1 the promise is broken.")
                        .ask(per(format!("{} / ({} > 0)", backup(&n::DRILL_LAST_DURATION), backup(&n::DRILL_OBJECTIVE))), LEGEND).from_zero().steps(&[(1.0, "red")]).decimals(2),
                    Panel::new(Sort::Graph, "Recovery time", "Duration of the last rehearsal: the measured recovery time.").ask(per(backup(&n::DRILL_LAST_DURATION)), LEGEND).unit("s").from_zero(),
                    Panel::new(Sort::Graph, "Restored bytes", "What the last rehearsal brought back.").ask(per(backup(&n::DRILL_RESTORED_SIZE)), LEGEND).unit("bytes").from_zero(),
                    Panel::new(Sort::Columns, "Drill failures", "Rehearsals that failed.").ask(format!("sum by (instance, backup) ({})", increase(&backup(&n::DRILL_FAILURES))), "{{instance}} {{backup}}").from_zero().summed(),
                    Panel::new(Sort::Columns, "Drills", "Finished rehearsals.").ask(format!("sum by (instance, backup) ({})", increase(&backup(&n::DRILL_RUNS))), "{{instance}} {{backup}}").from_zero().summed(),
                ],
            ),
            Section::open(
                "Verification",
                vec![
                    Panel::new(Sort::Table, "Verifications by repository", "Each repository: when it was last found whole.")
                        .column("Age", "s", at(age(&repository(&n::VERIFICATION_LAST_SUCCESS))))
                        .column("Interval", "s", at(repository(&n::VERIFICATION_INTERVAL)))
                        .column("Last run", "short", at(repository(&n::VERIFICATION_LAST_SUCCESSFUL))).worded(OK)
                        .column("Duration", "s", at(repository(&n::VERIFICATION_LAST_DURATION)))
                        .column("Known for", "s", at(age(&repository(&n::REPOSITORY_FIRST_SEEN)))),
                    Panel::new(Sort::History, "Verification results", "Result of the last verification at each time.").ask(at(repository(&n::VERIFICATION_LAST_SUCCESSFUL)), PLACE).words(OK).absent("never verified"),
                    Panel::new(Sort::Graph, "Age of verification in intervals", "Age of the last good verification, in intervals: at 2 an alert tells of it.")
                        .ask(at(format!("({}) / {}", age(&repository(&n::VERIFICATION_LAST_SUCCESS)), repository(&n::VERIFICATION_INTERVAL))), PLACE).from_zero().steps(&[(2.0, "orange")]).decimals(1),
                    Panel::new(Sort::Graph, "Duration of verification", "Duration of the last verification.").ask(at(repository(&n::VERIFICATION_LAST_DURATION)), PLACE).unit("s").from_zero(),
                    Panel::new(Sort::Columns, "Bytes checked", "Bytes that verifications read and checked.").ask(format!("sum by (instance, repository) ({})", increase(&repository(&n::VERIFICATION_CHECKED))), PLACE).unit("bytes").from_zero().summed(),
                    Panel::new(Sort::Columns, "Findings by reason", "What verifications found.").ask(format!("sum by (instance, repository, reason) ({})", increase(&repository(&n::VERIFICATION_ERRORS))), "{{instance}} {{repository}} {{reason}}").from_zero().summed(),
                ],
            ),
            Section::closed(
                "PostgreSQL to any moment",
                vec![
                    Panel::new(Sort::Table, "PostgreSQL's log by cluster", "Each cluster that archives, as the last verification found its log: how far back, how far forward, and what is missing in between.")
                        .column("End of the log", "short", log(wal(&n::WAL_RECOVERABLE))).worded(OK)
                        .column("Any moment of the last", "s", log(age(&wal(&n::WAL_OLDEST_RECOVERY))))
                        .column("Newest segment", "s", log(age(&wal(&n::WAL_NEWEST_SEGMENT))))
                        .column("Base backups", "short", log(wal(&n::WAL_BASE_BACKUPS)))
                        .column("Newest base backup", "s", log(age(&wal(&n::WAL_NEWEST_BASE_BACKUP))))
                        .column("Gaps", "short", log(wal(&n::WAL_GAPS)))
                        .column("Missing segments", "short", log(wal(&n::WAL_SEGMENTS_MISSING))),
                    Panel::new(Sort::History, "End of the log", "Whether the newest base backup could be brought to the end of the log, at each time.").ask(log(wal(&n::WAL_RECOVERABLE)), CLUSTER).words(OK).absent("no log of PostgreSQL"),
                    Panel::new(Sort::Graph, "Missing segments", "Segments that are missing after the oldest base backup: moments that cannot be brought back.").ask(log(wal(&n::WAL_SEGMENTS_MISSING)), CLUSTER).from_zero().decimals(0),
                ],
            ),
        ],
    }
}

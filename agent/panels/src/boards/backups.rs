//! How old is the last good backup of each source, and does it look as usual?

use keepwatch_expose::names as n;

use crate::dashboard::{Dashboard, Section, Variable};
use crate::panel::{FEW_WANTED, NONE_WANTED, OK, Panel, Sort};
use crate::query::{age, backup, in_range, increase, repository};

const KEY: &str = "instance, backup, repository";
const LEGEND: &str = "{{instance}} {{backup}} → {{repository}}";

pub fn board() -> Dashboard {
    let per = |expr: String| format!("max by ({KEY}) ({expr})");
    Dashboard {
        uid: "keepwatch-backups",
        title: "Keepwatch / Backups",
        description: "How old is the last good backup of each source? Does the last one look as usual? Is retention applied?",
        from: "now-7d",
        variables: &[
            Variable { name: "backup", label: "Backup", metric: &n::BACKUP_INFO },
            Variable { name: "repository", label: "Repository", metric: &n::BACKUP_INFO },
        ],
        sections: vec![
            Section::open(
                "Now",
                vec![
                    Panel::new(Sort::Stat, "Backups", "Jobs and repositories that they go to.").ask(format!("count({})", backup(&n::BACKUP_INFO)), "backups").absent("0"),
                    Panel::new(Sort::Stat, "Last run good", "Backups whose last run succeeded.").ask(format!("sum({})", backup(&n::BACKUP_LAST_SUCCESSFUL)), "good").absent("none yet"),
                    Panel::new(Sort::Stat, "Last run failed", "Backups whose last run failed. What was stored before is safe.")
                        .ask(format!("sum({} == bool 0)", backup(&n::BACKUP_LAST_SUCCESSFUL)), "failed").steps(NONE_WANTED).absent("none yet"),
                    Panel::new(Sort::Stat, "Stale", "Backups whose last success is older than two intervals and an hour.")
                        .ask(format!("sum({} > bool 2 * {} + 3600)", age(&backup(&n::BACKUP_LAST_SUCCESS)), backup(&n::BACKUP_INTERVAL)), "stale").steps(NONE_WANTED).absent("none yet"),
                    Panel::new(Sort::Stat, "Running", "Runs that go on now.").ask(format!("sum({})", backup(&n::BACKUP_RUNNING)), "running").steps(&[(1.0, "blue")]).absent("0"),
                    Panel::new(Sort::Stat, "Files left out", "Files that the last runs could not read.")
                        .ask(format!("sum({})", backup(&n::BACKUP_LAST_SOURCE_ERRORS)), "files").steps(FEW_WANTED).absent("none yet"),
                ],
            ),
            Section::open(
                "Each backup",
                vec![
                    Panel::new(Sort::Table, "Backups by job", "How each backup stands: age and interval, what the last run did, what there is.")
                        .column("Age", "s", per(age(&backup(&n::BACKUP_LAST_SUCCESS))))
                        .column("Interval", "s", per(backup(&n::BACKUP_INTERVAL)))
                        .column("Started", "s", per(age(&backup(&n::BACKUP_LAST_START))))
                        .column("Last run", "short", per(backup(&n::BACKUP_LAST_SUCCESSFUL))).worded(OK)
                        .column("Duration", "s", per(backup(&n::BACKUP_LAST_DURATION)))
                        .column("Source", "bytes", per(backup(&n::BACKUP_LAST_SOURCE_SIZE)))
                        .column("Added", "bytes", per(backup(&n::BACKUP_LAST_ADDED_SIZE)))
                        .column("Files", "short", per(backup(&n::BACKUP_LAST_FILES)))
                        .column("Runs", "short", per(backup(&n::BACKUP_RUNS)).replace("max by", "sum by"))
                        .size(24, 10),
                    Panel::new(Sort::Graph, "Age in intervals", "Age of the last success, in intervals of the schedule: a saw that stays below 1 is in time; at 2 it is stale.")
                        .ask(per(format!("({}) / {}", age(&backup(&n::BACKUP_LAST_SUCCESS)), backup(&n::BACKUP_INTERVAL))), LEGEND).from_zero().steps(&[(2.0, "red")]).decimals(1),
                    Panel::new(Sort::History, "Results", "Result of the last finished run at each time.")
                        .ask(per(backup(&n::BACKUP_LAST_SUCCESSFUL)), LEGEND).words(OK).absent("no run yet"),
                ],
            ),
            Section::open(
                "As usual?",
                vec![
                    Panel::new(Sort::Graph, "Duration against usual", "Duration of the last run over the median of the last ten successes: 1 is usual, above 2 an alert tells of it.")
                        .ask(per(format!("{} / ({} > 0)", backup(&n::BACKUP_LAST_DURATION), backup(&n::BACKUP_EXPECTED_DURATION))), LEGEND).from_zero().steps(&[(2.0, "orange")]).decimals(2),
                    Panel::new(Sort::Graph, "Source size against usual", "Size of the source over its median: a fall below a half may be data that are gone.")
                        .ask(per(format!("{} / ({} > 0)", backup(&n::BACKUP_LAST_SOURCE_SIZE), backup(&n::BACKUP_EXPECTED_SOURCE_SIZE))), LEGEND).from_zero().decimals(2),
                    Panel::new(Sort::Graph, "Added against usual", "What the last run added over its median: a leap may be files that somebody encrypted.")
                        .ask(per(format!("{} / ({} > 0)", backup(&n::BACKUP_LAST_ADDED_SIZE), backup(&n::BACKUP_EXPECTED_ADDED_SIZE))), LEGEND).from_zero().steps(&[(3.0, "orange")]).decimals(2),
                    Panel::new(Sort::Graph, "Throughput of last run", "Size of the source over the duration of the last run.")
                        .ask(per(format!("{} / ({} > 0)", backup(&n::BACKUP_LAST_SOURCE_SIZE), backup(&n::BACKUP_LAST_DURATION))), LEGEND).unit("Bps").from_zero(),
                ],
            ),
            Section::closed(
                "Sizes and durations",
                vec![
                    Panel::new(Sort::Columns, "Duration by stage", "How long each stage of the last finished run took: dump, scan, upload, verify, retention.")
                        .ask(format!("sum by (stage) ({})", backup(&n::BACKUP_LAST_STAGE_DURATION)), "{{stage}}").unit("s").from_zero(),
                    Panel::new(Sort::Graph, "Duration", "Duration of the last finished run.").ask(per(backup(&n::BACKUP_LAST_DURATION)), LEGEND).unit("s").from_zero(),
                    Panel::new(Sort::Graph, "Source size", "Size of the source in the last success.").ask(per(backup(&n::BACKUP_LAST_SOURCE_SIZE)), LEGEND).unit("bytes").from_zero(),
                    Panel::new(Sort::Graph, "Added size", "What the last success added to the repository, after deduplication and compression.").ask(per(backup(&n::BACKUP_LAST_ADDED_SIZE)), LEGEND).unit("bytes").from_zero(),
                    Panel::new(Sort::Graph, "Files", "Files in the last success.").ask(per(backup(&n::BACKUP_LAST_FILES)), LEGEND).from_zero(),
                ],
            ),
            Section::open(
                "Failures",
                vec![
                    Panel::new(Sort::Columns, "Failures by reason", "Runs that did not succeed, by reason.")
                        .ask(format!("sum by (reason) ({}) > 0", increase(&backup(&n::BACKUP_FAILURES))), "{{reason}}").from_zero().summed().absent("none"),
                    Panel::new(Sort::Columns, "Runs", "Finished runs.")
                        .ask(format!("sum by (instance, backup) ({})", increase(&backup(&n::BACKUP_RUNS))), "{{instance}} {{backup}}").from_zero().summed(),
                    Panel::new(Sort::Bars, "Failures in this time", "Failed runs of each backup in the time that is shown.")
                        .ask(format!("sum by (instance, backup) ({})", in_range(&backup(&n::BACKUP_FAILURES))), "{{instance}} {{backup}}").from_zero().decimals(0).steps(FEW_WANTED).size(24, 5).absent("none"),
                ],
            ),
            Section::open(
                "Retention",
                vec![
                    Panel::new(Sort::Graph, "Snapshots", "Snapshots of each backup. A fall without a reason is an alert when too few are left.")
                        .ask(per(backup(&n::BACKUP_SNAPSHOTS)), LEGEND).from_zero(),
                    Panel::new(Sort::Table, "Snapshots by backup", "How far back each backup reaches, and whether the policy is applied.")
                        .column("Snapshots", "short", per(backup(&n::BACKUP_SNAPSHOTS)))
                        .column("Must be", "short", per(backup(&n::RETENTION_MINIMUM)))
                        .column("Overdue", "short", per(backup(&n::RETENTION_OVERDUE))).coloured(FEW_WANTED)
                        .column("Oldest", "s", per(age(&backup(&n::BACKUP_OLDEST_SNAPSHOT))))
                        .column("Newest", "s", per(age(&backup(&n::BACKUP_NEWEST_SNAPSHOT))))
                        .column("Applied", "s", per(age(&backup(&n::RETENTION_LAST_SUCCESS))))
                        .size(12, 8),
                    Panel::new(Sort::Columns, "Snapshots removed", "Snapshots that retention removed.")
                        .ask(format!("sum by (instance, backup) ({})", increase(&backup(&n::RETENTION_REMOVED))), "{{instance}} {{backup}}").from_zero().summed(),
                    Panel::new(Sort::Graph, "Overdue snapshots", "Snapshots that the policy no longer keeps and that are still there.")
                        .ask(per(backup(&n::RETENTION_OVERDUE)), LEGEND).from_zero().steps(FEW_WANTED),
                ],
            ),
            Section::open(
                "Repositories",
                vec![
                    Panel::new(Sort::Timeline, "Reachable", "Whether the repository answered when it was last used.")
                        .ask(format!("max by (instance, repository) ({})", repository(&n::REPOSITORY_REACHABLE)), "{{instance}} {{repository}}").words(&[(1.0, "reachable", "green"), (0.0, "AWAY", "red")]).size(12, 8).absent("not used yet"),
                    Panel::new(Sort::Graph, "Room left", "Bytes that can still be stored, where the place knows it.")
                        .ask(format!("min by (instance, repository) ({})", repository(&n::REPOSITORY_AVAILABLE)), "{{instance}} {{repository}}").unit("bytes").from_zero(),
                    Panel::new(Sort::Graph, "Repository size", "Bytes stored in each repository; known from its first prune on.")
                        .ask(format!("max by (instance, repository) ({})", repository(&n::REPOSITORY_SIZE)), "{{instance}} {{repository}}").unit("bytes").from_zero().absent("not known before a prune"),
                    Panel::new(Sort::Columns, "Requests to stores", "What runs asked of repositories behind a network, by operation.")
                        .ask(format!("sum by (instance, repository, operation) ({})", increase(&repository(&n::REPOSITORY_REQUESTS))), "{{instance}} {{repository}} {{operation}}").from_zero().summed().absent("none behind a network"),
                    Panel::new(Sort::Columns, "Failed requests", "Requests to stores that were made again or given up. Those of runs that failed count, too.")
                        .ask(format!("sum by (instance, repository, reason) ({})", increase(&repository(&n::REPOSITORY_REQUEST_ERRORS))), "{{instance}} {{repository}} {{reason}}").from_zero().summed().absent("none behind a network"),
                    Panel::new(Sort::Graph, "Marks of prune", "Packs that a local repository has marked for deletion, in records. Overdue ones mean that no prune came to its end.")
                        .ask(format!("max by (instance, repository) ({})", repository(&n::REPOSITORY_LOCKS)), "{{instance}} {{repository}} marks")
                        .ask(format!("max by (instance, repository) ({})", repository(&n::REPOSITORY_STALE_LOCKS)), "{{instance}} {{repository}} overdue").from_zero().absent("not on a disk here"),
                    Panel::new(Sort::Stat, "Repositories away", "Repositories that did not answer when they were last used or looked at.")
                        .ask(format!("sum({} == bool 0)", repository(&n::REPOSITORY_REACHABLE)), "away").steps(NONE_WANTED).absent("none yet").size(12, 8),
                    Panel::new(Sort::Bars, "Room used", "Used share of the place of each repository.")
                        .ask(format!("max by (instance, repository) (1 - {} / {})", repository(&n::REPOSITORY_AVAILABLE), repository(&n::REPOSITORY_CAPACITY)), "{{instance}} {{repository}}")
                        .unit("percentunit").decimals(0).between(0.0, 1.0).steps(&[(0.8, "yellow"), (0.95, "red")]).size(12, 6).absent("not known"),
                    Panel::new(Sort::Bars, "Runs until it is full", "Bytes left over what one round of backups added: below 2 there may be no room for the next.")
                        .ask(format!("min by (instance, repository) (clamp_max({} / on (job, instance, repository) (sum by (job, instance, repository) ({}) > 0), 1000))", repository(&n::REPOSITORY_AVAILABLE), backup(&n::BACKUP_LAST_ADDED_SIZE)), "{{instance}} {{repository}}")
                        .decimals(0).between(0.0, 1000.0).steps(&[(f64::NEG_INFINITY, "red"), (2.0, "orange"), (30.0, "green")]).size(12, 6).absent("not known"),
                ],
            ),
        ],
    }
}

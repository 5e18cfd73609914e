//! Is anything red now, and since when?

use keepwatch_expose::names as n;

use super::checks::state_code;
use crate::dashboard::{Dashboard, Section};
use crate::panel::{FEW_WANTED, NONE_WANTED, Panel, Sort};
use crate::query::{age, all, in_range, increase, named, with};

/// The states of a check as numbers, for bands.
pub const STATES: &[(f64, &str, &str)] = &[
    (0.0, "unknown", "text"),
    (1.0, "healthy", "green"),
    (2.0, "degraded", "yellow"),
    (3.0, "unhealthy", "red"),
    (4.0, "maintenance", "purple"),
    (5.0, "suppressed", "blue"),
];

pub fn board() -> Dashboard {
    let state = |s: &str| format!("sum({})", with(&n::CHECK_STATE, &format!("state=\"{s}\"")));
    Dashboard {
        uid: "keepwatch-overview",
        title: "Keepwatch / Overview",
        description: "Is anything red now, and since when? Is there a fresh backup of everything, has a restore ever worked, what was restarted, will a disk fill?",
        from: "now-24h",
        variables: &[],
        sections: vec![
            Section::open(
                "Now",
                vec![
                    Panel::new(Sort::Stat, "Agents down", "Hosts whose agent Prometheus cannot scrape. Everything else about them is old.")
                        .ask(format!("sum({} == bool 0)", named("up", "")), "down").steps(NONE_WANTED).absent("no agent").link("keepwatch-agent"),
                    Panel::new(Sort::Stat, "Checks unhealthy", "Checks that failed several times in a row; maintenance and checks whose parent is down are not counted.")
                        .ask(state("unhealthy"), "unhealthy").steps(NONE_WANTED).absent("no checks").link("keepwatch-checks"),
                    Panel::new(Sort::Stat, "Checks degraded", "Checks that succeed outside of their limits: slow, nearly full, a certificate that ends soon.")
                        .ask(state("degraded"), "degraded").steps(FEW_WANTED).absent("no checks").link("keepwatch-checks"),
                    Panel::new(Sort::Stat, "Backups stale", "Backups without a success for two intervals and an hour, and those that never had one.")
                        .ask(
                            format!(
                                "sum({} > bool 2 * {} + 3600) + (count({} unless on (job, instance, backup, repository) {}) or vector(0))",
                                age(&all(&n::BACKUP_LAST_SUCCESS)), all(&n::BACKUP_INTERVAL), all(&n::BACKUP_FIRST_SEEN), all(&n::BACKUP_LAST_SUCCESS)
                            ),
                            "stale",
                        ).steps(NONE_WANTED).absent("no backups").link("keepwatch-backups"),
                    Panel::new(Sort::Stat, "Restore drills failed", "Rehearsed restores whose last run did not bring back what was expected.")
                        .ask(format!("sum({} == bool 0)", all(&n::DRILL_LAST_SUCCESSFUL)), "failed").steps(NONE_WANTED).absent("no drill yet").link("keepwatch-restore"),
                    Panel::new(Sort::Stat, "Units given up", "Units that were restarted in vain: a person must act.")
                        .ask(format!("sum({})", all(&n::UNIT_RESTART_GAVE_UP)), "given up").steps(NONE_WANTED).absent("no units").link("keepwatch-restarts"),
                    Panel::new(Sort::Gauge, "Health score", "Weighted share of checks and backups that are well, of the worst host. A summary, not to page on.")
                        .ask(format!("min({})", all(&n::HEALTH_SCORE)), "score").unit("percentunit").decimals(0).between(0.0, 1.0)
                        .steps(&[(f64::NEG_INFINITY, "red"), (0.5, "orange"), (0.7, "yellow"), (0.9, "green")]),
                    Panel::new(Sort::Stat, "Oldest good backup", "Age of the last success of the backup that waits longest for one.")
                        .ask(format!("max({})", age(&all(&n::BACKUP_LAST_SUCCESS))), "age").unit("s").steps(&[(172_800.0, "orange"), (345_600.0, "red")]).absent("none yet").link("keepwatch-backups"),
                    Panel::new(Sort::Stat, "Restarts", "Restarts by the agent in the time that is shown.")
                        .ask(format!("sum({})", in_range(&all(&n::UNIT_RESTARTS))), "restarts").decimals(0).steps(FEW_WANTED).absent("no units").link("keepwatch-restarts"),
                    Panel::new(Sort::Stat, "Maintenance open", "Maintenance windows that are open: nobody is told of what is in them.")
                        .ask(format!("sum({})", all(&n::MAINTENANCE_ACTIVE)), "open").steps(&[(1.0, "purple")]).absent("0"),
                    Panel::new(Sort::Stat, "Alerts firing", "Alerts of Keepwatch that fire, all severities.")
                        .ask(format!("count({}) or vector(0)", named("ALERTS", r#"alertname=~"Keepwatch.*", alertstate="firing""#)), "firing").steps(NONE_WANTED).link("keepwatch-restarts"),
                    Panel::new(Sort::Stat, "Nearest end of a certificate", "Time until the first certificate that a check sees ends.")
                        .ask(format!("min({} - time())", all(&n::CHECK_TLS_NOT_AFTER)), "left").unit("s").steps(&[(f64::NEG_INFINITY, "red"), (259_200.0, "orange"), (1_209_600.0, "green")]).absent("no certificates").link("keepwatch-checks"),
                ],
            ),
            Section::open(
                "What is wrong",
                vec![
                    Panel::new(Sort::Alerts, "Alerts", "Alerts that fire or wait to fire, the newest first.").size(10, 10),
                    Panel::new(Sort::Timeline, "Checks over time", "State of each check that was ever not healthy in the time that is shown.")
                        .ask(
                            format!(
                                "{} and on (instance, check) (max by (instance, check) (max_over_time({}[$__range])) == 1)",
                                state_code(""),
                                with(&n::CHECK_STATE, r#"state!~"healthy|unknown""#)
                            ),
                            "{{instance}} {{check}}",
                        ).words(STATES).size(14, 10).absent("all healthy").link("keepwatch-checks"),
                ],
            ),
            Section::open(
                "Backups and room",
                vec![
                    Panel::new(Sort::Bars, "Freshness of backups", "Age of the last success in intervals of its schedule: 1 is in time, 2 is stale.")
                        .ask(format!("max by (instance, backup, repository) (({}) / {})", age(&all(&n::BACKUP_LAST_SUCCESS)), all(&n::BACKUP_INTERVAL)), "{{instance}} {{backup}} → {{repository}}")
                        .unit("short").decimals(1).between(0.0, 3.0).steps(&[(1.0, "yellow"), (2.0, "red")]).absent("no backups").size(10, 9).link("keepwatch-backups"),
                    Panel::new(Sort::Bars, "Disks used", "Used share of each file system that is checked.")
                        .ask(format!("max by (instance, mountpoint) (1 - {} / {})", all(&n::DISK_AVAILABLE), all(&n::DISK_SIZE)), "{{instance}} {{mountpoint}}")
                        .unit("percentunit").decimals(0).between(0.0, 1.0).steps(&[(0.8, "yellow"), (0.95, "red")]).absent("no disk checks").size(7, 9).link("keepwatch-host"),
                    Panel::new(Sort::Columns, "Restarts over time", "Restarts by the agent, by unit.")
                        .ask(format!("sum by (instance, unit) ({})", increase(&all(&n::UNIT_RESTARTS))), "{{instance}} {{unit}}").decimals(0).from_zero().summed().size(7, 9).link("keepwatch-restarts"),
                ],
            ),
            Section::open(
                "Hosts",
                vec![
                    Panel::new(Sort::Table, "Hosts", "One row for each agent.")
                        .column("Score", "percentunit", format!("max by (instance) ({})", all(&n::HEALTH_SCORE))).coloured(&[(f64::NEG_INFINITY, "red"), (0.7, "yellow"), (0.9, "green")])
                        .column("Checks", "short", format!("count by (instance) ({})", all(&n::CHECK_UP)))
                        .column("Unhealthy", "short", format!("sum by (instance) ({})", with(&n::CHECK_STATE, r#"state="unhealthy""#))).coloured(NONE_WANTED)
                        .column("Oldest backup", "s", format!("max by (instance) ({})", age(&all(&n::BACKUP_LAST_SUCCESS))))
                        .column("Memory available", "percentunit", format!("max by (instance) ({} / {})", all(&n::HOST_MEMORY_AVAILABLE), all(&n::HOST_MEMORY_SIZE)))
                        .column("Agent runs for", "s", format!("max by (instance) ({})", age(&all(&n::PROCESS_START_TIME)))),
                ],
            ),
        ],
    }
}

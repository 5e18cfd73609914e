//! What did the agent restart tonight, did it help, and who was told?

use keepwatch_expose::names as n;

use crate::dashboard::{Dashboard, Section, Variable};
use crate::panel::{BAD, FEW_WANTED, NONE_WANTED, Panel, Sort};
use crate::query::{age, all, in_range, increase, named, unit};

const LEGEND: &str = "{{instance}} {{unit}}";

pub fn board() -> Dashboard {
    let per = |expr: String| format!("max by (instance, unit) ({expr})");
    let alerts = |more: &str| named("ALERTS", &format!("alertname=~\"Keepwatch.*\", {more}"));
    Dashboard {
        uid: "keepwatch-restarts",
        title: "Keepwatch / Restarts and alerts",
        description: "What did the agent restart, did it help, what fires, and did messages reach anybody?",
        from: "now-24h",
        variables: &[Variable { name: "unit", label: "Unit", metric: &n::UNIT_RESTART_GAVE_UP }],
        sections: vec![
            Section::open(
                "Now",
                vec![
                    Panel::new(Sort::Stat, "Restarts", "Restarts by the agent in the time that is shown.").ask(format!("sum({})", in_range(&unit(&n::UNIT_RESTARTS))), "restarts").decimals(0).steps(FEW_WANTED).absent("no units"),
                    Panel::new(Sort::Stat, "Given up", "Units that were restarted in vain: a person must act.").ask(format!("sum({})", unit(&n::UNIT_RESTART_GAVE_UP)), "given up").steps(NONE_WANTED).absent("no units"),
                    Panel::new(Sort::Stat, "Units watched", "Units that the agent restarts when their checks fail.").ask(format!("count({})", unit(&n::UNIT_RESTART_GAVE_UP)), "units").absent("no units"),
                    Panel::new(Sort::Stat, "Critical alerts", "Critical alerts of Keepwatch that fire.").ask(format!("count({}) or vector(0)", alerts(r#"alertstate="firing", severity="critical""#)), "critical").steps(NONE_WANTED),
                    Panel::new(Sort::Stat, "Warnings", "Warnings of Keepwatch that fire.").ask(format!("count({}) or vector(0)", alerts(r#"alertstate="firing", severity="warning""#)), "warnings").steps(FEW_WANTED),
                    Panel::new(Sort::Stat, "Last restart", "Time since the agent last restarted something.").ask(format!("min({})", age(&unit(&n::UNIT_LAST_RESTART))), "ago").unit("s").steps(&[(f64::NEG_INFINITY, "orange"), (3600.0, "green")]).absent("never"),
                ],
            ),
            Section::open(
                "Restarts",
                vec![
                    Panel::new(Sort::Columns, "Restarts by unit", "Attempts to restart each unit.").ask(format!("sum by (instance, unit) ({})", increase(&unit(&n::UNIT_RESTARTS))), LEGEND).from_zero().summed(),
                    Panel::new(Sort::Timeline, "Given up over time", "When a unit was given up.").ask(per(unit(&n::UNIT_RESTART_GAVE_UP)), LEGEND).words(BAD).size(12, 8).absent("no units"),
                    Panel::new(Sort::Columns, "Failed restarts", "Attempts whose job did not end well, by its result.").ask(format!("sum by (instance, unit, reason) ({})", increase(&unit(&n::UNIT_RESTART_FAILURES))), "{{instance}} {{unit}} {{reason}}").from_zero().summed().absent("none"),
                    Panel::new(Sort::Columns, "Refused restarts", "Restarts that were asked for and refused: cooldown, maintenance, used up, the operator stopped it.").ask(format!("sum by (instance, unit, reason) ({})", increase(&unit(&n::UNIT_RESTARTS_SUPPRESSED))), "{{instance}} {{unit}} {{reason}}").from_zero().summed().absent("none"),
                    Panel::new(Sort::Table, "Units by name", "How each unit stands.")
                        .column("Given up", "short", per(unit(&n::UNIT_RESTART_GAVE_UP))).worded(BAD)
                        .column("Attempts now", "short", per(unit(&n::UNIT_RESTART_ATTEMPTS))).coloured(FEW_WANTED)
                        .column("Last restart", "s", per(age(&unit(&n::UNIT_LAST_RESTART))))
                        .column("Cooldown ends in", "s", per(format!("clamp_min({} - time(), 0)", unit(&n::UNIT_RESTART_ALLOWED))))
                        .size(12, 8),
                    Panel::new(Sort::Graph, "Attempts in the window", "Attempts that count towards giving up.").ask(per(unit(&n::UNIT_RESTART_ATTEMPTS)), LEGEND).from_zero().steps(&[(3.0, "red")]),
                    Panel::new(Sort::Timeline, "Recovery after restarts", "Whether the checks of each unit are up: what a restart was for.")
                        .ask(format!("min by (instance, unit) ({} * on (job, instance, check) group_left (unit) {})", all(&n::CHECK_UP), crate::query::with(&n::CHECK_INFO, r#"unit=~"$unit", unit!="""#)), LEGEND).words(crate::panel::UP).size(24, 7).absent("no units"),
                ],
            ),
            Section::open(
                "Alerts",
                vec![
                    Panel::new(Sort::Table, "Alerts that fire or wait", "Alerts of Keepwatch, with what they are about and for how long.")
                        .column("For", "s", format!("time() - max by (alertname, severity, instance, check, backup, repository, unit) ({})", named("ALERTS_FOR_STATE", r#"alertname=~"Keepwatch.*""#)))
                        .size(12, 10),
                    Panel::new(Sort::Columns, "Alerts by severity", "Alerts that fire, by severity.").ask(format!("count by (severity) ({})", alerts(r#"alertstate="firing""#)), "{{severity}}").from_zero().size(12, 10).absent("none"),
                    Panel::new(Sort::Timeline, "Alerts over time", "When each alert fired.").ask(format!("max by (alertname, instance) ({})", alerts(r#"alertstate="firing""#)), "{{instance}} {{alertname}}").words(&[(1.0, "firing", "red")]).absent("none"),
                ],
            ),
            Section::open(
                "Did it reach anybody? (hosts that tell people themselves)",
                vec![
                    Panel::new(Sort::Columns, "Messages delivered", "Messages that the agent itself delivered, by receiver. Where Alertmanager tells people, look at its own metrics.").ask(format!("sum by (instance, channel) ({})", increase(&all(&n::NOTIFICATIONS))), "{{instance}} {{channel}}").from_zero().summed().size(8, 8).absent("no receivers"),
                    Panel::new(Sort::Columns, "Failed deliveries", "Attempts that failed, and messages that were given up.")
                        .ask(format!("sum by (instance, channel) ({})", increase(&all(&n::NOTIFICATION_FAILURES))), "{{instance}} {{channel}} failed")
                        .ask(format!("sum by (instance, channel) ({})", increase(&all(&n::NOTIFICATIONS_UNDELIVERABLE))), "{{instance}} {{channel}} given up").from_zero().summed().size(8, 8).absent("no receivers"),
                    Panel::new(Sort::Graph, "Messages that wait", "Messages that are not delivered yet.").ask(format!("max by (instance, channel) ({})", all(&n::NOTIFICATIONS_QUEUED)), "{{instance}} {{channel}}").from_zero().size(8, 8).absent("no receivers"),
                ],
            ),
        ],
    }
}

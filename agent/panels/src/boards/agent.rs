//! Can what the agent says be believed, and what does it cost?

use keepwatch_expose::names as n;

use crate::dashboard::{Dashboard, Section};
use crate::panel::{NONE_WANTED, OK, Panel, Sort};
use crate::query::{age, all, increase, named, quantile, rate, with};

const HOST: &str = "{{instance}}";

pub fn board() -> Dashboard {
    let per = |expr: String| format!("max by (instance) ({expr})");
    Dashboard {
        uid: "keepwatch-agent",
        title: "Keepwatch / Agent",
        description: "Is the agent well, is what it says fresh, and what does it cost?",
        from: "now-6h",
        variables: &[],
        sections: vec![
            Section::open(
                "Now",
                vec![
                    Panel::new(Sort::Stat, "Agents", "Agents that answer.").ask(format!("sum({})", named("up", "")), "agents").absent("0"),
                    Panel::new(Sort::Stat, "Versions", "Different versions that run: more than one for a day is an alert.").ask(format!("count(count by (version) ({}))", all(&n::BUILD_INFO)), "versions").steps(&[(2.0, "yellow")]),
                    Panel::new(Sort::Stat, "Age of the tick", "Time since the scheduler of the slowest agent last ticked.").ask(format!("max({})", age(&all(&n::RUNTIME_TICK))), "age").unit("s").decimals(0).steps(&[(60.0, "red")]),
                    Panel::new(Sort::Stat, "Configurations refused", "Agents that refused their newest configuration; the former one is in effect.").ask(format!("sum({} == bool 0)", all(&n::CONFIG_RELOAD_SUCCESSFUL)), "refused").steps(NONE_WANTED),
                    Panel::new(Sort::Stat, "Collectors failing", "Sources of facts that are not fresh.").ask(format!("sum({} == bool 0)", all(&n::COLLECTOR_SUCCESS)), "failing").steps(NONE_WANTED),
                    Panel::new(Sort::Stat, "Age of the heartbeat", "Time since the outside dead-man switch was last reached, in its intervals.").ask(format!("max(({}) / {})", age(&all(&n::HEARTBEAT_LAST_SUCCESS)), all(&n::HEARTBEAT_INTERVAL)), "intervals").decimals(1).steps(&[(2.0, "yellow"), (3.0, "red")]).absent("not configured"),
                ],
            ),
            Section::open(
                "Which",
                vec![
                    Panel::new(Sort::Table, "Agents by host", "Version of each agent, and since when it runs.")
                        .column("Runs for", "s", format!("max by (instance, version, revision) (({}) * on (job, instance) group_left (version, revision) {})", age(&all(&n::PROCESS_START_TIME)), all(&n::BUILD_INFO))).size(12, 8),
                    Panel::new(Sort::Table, "Checks by kind", "How many checks of each kind each agent has.")
                        .column("Checks", "short", format!("sum by (instance, kind) ({})", all(&n::CHECKS_CONFIGURED))).size(12, 8),
                ],
            ),
            Section::open(
                "What it costs",
                vec![
                    Panel::new(Sort::Graph, "Memory", "Resident memory of the agent.").ask(per(all(&n::PROCESS_RESIDENT_MEMORY)), HOST).unit("bytes").from_zero().size(8, 8),
                    Panel::new(Sort::Graph, "Processor", "Processor time of the agent; 1 is one processor.").ask(per(rate(&all(&n::PROCESS_CPU))), HOST).unit("percentunit").from_zero().size(8, 8),
                    Panel::new(Sort::Graph, "File descriptors", "Share of the file descriptors that it may open: above 80 % an alert tells of it.").ask(per(format!("{} / {}", all(&n::PROCESS_OPEN_FDS), all(&n::PROCESS_MAX_FDS))), HOST).unit("percentunit").between(0.0, 1.0).steps(&[(0.8, "red")]).size(8, 8),
                ],
            ),
            Section::open(
                "Is it in time?",
                vec![
                    Panel::new(Sort::Graph, "Lag", "Greatest delay of a run behind its time in the last minute: above 1 s an alert tells of it.").ask(per(all(&n::RUNTIME_LAG)), HOST).unit("s").from_zero().steps(&[(1.0, "red")]).size(8, 8),
                    Panel::new(Sort::Graph, "Checks in progress", "Runs of checks that go on at once.").ask(per(all(&n::CHECKS_RUNNING)), HOST).from_zero().size(8, 8),
                    Panel::new(Sort::Graph, "Collection", "How long it takes to collect facts, by collector.").ask(format!("max by (instance, collector) ({})", all(&n::COLLECTOR_DURATION)), "{{instance}} {{collector}}").unit("s").from_zero().size(8, 8),
                    Panel::new(Sort::History, "Collectors", "Whether facts were fresh.").ask(format!("min by (instance, collector) ({})", all(&n::COLLECTOR_SUCCESS)), "{{instance}} {{collector}}").words(OK).size(24, 6),
                ],
            ),
            Section::open(
                "The catalog",
                vec![
                    Panel::new(Sort::Graph, "Operations", "Operations of the catalog a second.").ask(format!("sum by (operation) ({})", rate(&all(&n::DB_OPERATIONS))), "{{operation}}").unit("ops").from_zero().size(8, 8),
                    Panel::new(Sort::Graph, "Duration of operations", "99 % of the operations are faster than this.").ask(quantile(0.99, &n::DB_OPERATION_DURATION, "operation"), "{{operation}}").unit("s").from_zero().size(8, 8),
                    Panel::new(Sort::Columns, "Errors and losses", "Operations that failed, and records that were dropped.")
                        .ask(format!("sum by (instance, operation) ({})", increase(&all(&n::DB_ERRORS))), "{{instance}} {{operation}} failed")
                        .ask(format!("sum by (instance, sink) ({})", increase(&all(&n::HISTORY_DROPPED))), "{{instance}} {{sink}} dropped").from_zero().summed().size(8, 8).absent("none"),
                    Panel::new(Sort::Graph, "Size", "Size of the catalog.").ask(per(all(&n::DB_SIZE)), HOST).unit("bytes").from_zero(),
                    Panel::new(Sort::Graph, "Records that wait", "Records that are not written yet.").ask(per(all(&n::DB_WRITES_QUEUED)), HOST).from_zero(),
                ],
            ),
            Section::closed(
                "The endpoint and the log",
                vec![
                    Panel::new(Sort::Graph, "Requests", "Requests to the agent a second, by path and answer.").ask(format!("sum by (path, code) ({})", rate(&all(&n::HTTP_REQUESTS))), "{{path}} {{code}}").unit("reqps").from_zero(),
                    Panel::new(Sort::Graph, "Duration of answers", "99 % of the answers are faster than this.").ask(quantile(0.99, &n::HTTP_DURATION, "path"), "{{path}}").unit("s").from_zero(),
                    Panel::new(Sort::Graph, "Scrape", "How long Prometheus takes to scrape an agent.").ask(per(named("scrape_duration_seconds", "")), HOST).unit("s").from_zero(),
                    Panel::new(Sort::Graph, "Series", "Series of each agent: the budget is 3,000.").ask(per(named("scrape_samples_post_metric_relabeling", "")), HOST).from_zero().steps(&[(3000.0, "orange")]),
                    Panel::new(Sort::Columns, "Warnings and errors logged", "Messages that the agent logged, by level.").ask(format!("sum by (instance, level) ({})", increase(&with(&n::LOG_MESSAGES, r#"level=~"warn|error""#))), "{{instance}} {{level}}").from_zero().summed().absent("none"),
                    Panel::new(Sort::Columns, "Connections refused", "Connections that were refused or cut off: too many, too slow, too large.").ask(format!("sum by (instance, reason) ({})", increase(&all(&n::HTTP_REFUSED))), "{{instance}} {{reason}}").from_zero().summed().absent("none"),
                    Panel::new(Sort::Columns, "Heartbeats missed", "Attempts to reach the dead-man switch that failed.").ask(format!("sum by (instance) ({})", increase(&all(&n::HEARTBEAT_FAILURES))), HOST).from_zero().summed().absent("not configured"),
                ],
            ),
        ],
    }
}

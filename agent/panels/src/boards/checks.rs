//! What is promised to users, and is it kept?

use keepwatch_expose::names as n;

use super::overview::STATES;
use crate::dashboard::{Dashboard, Section, Variable};
use crate::panel::{BAD, FEW_WANTED, NONE_WANTED, OK, Panel, Sort};
use crate::query::{age, all, buckets, check, in_range, increase, named, quantile, rate, with};

const LEGEND: &str = "{{instance}} {{check}}";
const CHOSEN: &str = r#"check=~"$check""#;

/// The state of each check as a number (0 unknown, 1 healthy … 5 suppressed), from the rows of which one is 1.
pub fn state_code(more: &str) -> String {
    let comma = if more.is_empty() { "" } else { ", " };
    let row = |state: &str| with(&n::CHECK_STATE, &format!("state=\"{state}\"{comma}{more}"));
    format!(
        "sum by (instance, check) ({} or 2 * {} or 3 * {} or 4 * {} or 5 * {})",
        row("healthy"),
        row("degraded"),
        row("unhealthy"),
        row("maintenance"),
        row("suppressed")
    )
}

pub fn board() -> Dashboard {
    let state = |s: &str| {
        format!(
            "sum({})",
            with(&n::CHECK_STATE, &format!("state=\"{s}\", {CHOSEN}"))
        )
    };
    let per = |expr: String| format!("max by (instance, check) ({expr})");
    Dashboard {
        uid: "keepwatch-checks",
        title: "Keepwatch / Health checks",
        description: "What is promised to users, is it kept now, how often was it kept, and how fast?",
        from: "now-24h",
        variables: &[Variable { name: "check", label: "Check", metric: &n::CHECK_INFO }],
        sections: vec![
            Section::open(
                "Now",
                vec![
                    Panel::new(Sort::Stat, "Healthy", "Checks that are well.").ask(state("healthy"), "healthy").absent("no checks"),
                    Panel::new(Sort::Stat, "Degraded", "Checks that succeed outside of their limits.").ask(state("degraded"), "degraded").steps(FEW_WANTED).absent("no checks"),
                    Panel::new(Sort::Stat, "Unhealthy", "Checks that failed several times in a row.").ask(state("unhealthy"), "unhealthy").steps(NONE_WANTED).absent("no checks"),
                    Panel::new(Sort::Stat, "Suppressed", "Checks of which nobody is told, because what they need is down.").ask(state("suppressed"), "suppressed").steps(&[(1.0, "blue")]).absent("no checks"),
                    Panel::new(Sort::Stat, "In maintenance", "Checks in an open maintenance window.").ask(state("maintenance"), "maintenance").steps(&[(1.0, "purple")]).absent("no checks"),
                    Panel::new(Sort::Stat, "Flapping", "Checks that go up and down; they are not restarted meanwhile.").ask(format!("sum({})", check(&n::CHECK_FLAPPING)), "flapping").steps(FEW_WANTED).absent("no checks"),
                ],
            ),
            Section::open(
                "States",
                vec![
                    Panel::new(Sort::Timeline, "States over time", "State of each check.").ask(state_code(CHOSEN), LEGEND).words(STATES).size(24, 12).absent("no checks"),
                    Panel::new(Sort::History, "Raw results", "Result of the last run at each time, before failures in a row are waited for.").ask(per(check(&n::CHECK_LAST_RESULT_SUCCESS)), LEGEND).words(OK).size(12, 9),
                    Panel::new(Sort::Table, "Checks by name", "How each check stands.")
                        .column("Up", "short", per(check(&n::CHECK_UP))).worded(crate::panel::UP)
                        .column("For", "s", per(age(&check(&n::CHECK_LAST_STATE_CHANGE))))
                        .column("Failures in a row", "short", per(check(&n::CHECK_CONSECUTIVE_FAILURES))).coloured(FEW_WANTED)
                        .column("Flapping", "short", per(check(&n::CHECK_FLAPPING))).worded(BAD)
                        .column("Last success", "s", per(age(&check(&n::CHECK_LAST_SUCCESS))))
                        .size(12, 9),
                ],
            ),
            Section::open(
                "Was it kept?",
                vec![
                    Panel::new(Sort::Table, "Availability", "Share of time in which each check was up, and what is left of a month's error budget at 99 %. From recording rules.")
                        .column("1 day", "percentunit", per(named("check:keepwatch_check_up:avg1d", CHOSEN)))
                        .column("7 days", "percentunit", per(named("check:keepwatch_check_up:avg7d", CHOSEN)))
                        .column("30 days", "percentunit", per(named("check:keepwatch_check_up:avg30d", CHOSEN))).coloured(&[(f64::NEG_INFINITY, "red"), (0.99, "yellow"), (0.999, "green")])
                        .column("Budget left", "percentunit", per(named("check:keepwatch_check_error_budget:remaining30d", CHOSEN))).coloured(&[(f64::NEG_INFINITY, "red"), (0.0, "orange"), (0.5, "green")])
                        .size(12, 9),
                    Panel::new(Sort::Graph, "Failed share of runs", "Share of the runs of an hour that failed; above 14.4 % an alert tells of it.")
                        .ask(per(named("check:keepwatch_check_failures:ratio_rate1h", CHOSEN)), LEGEND).unit("percentunit").between(0.0, 1.0).steps(&[(0.144, "red")]).size(12, 9),
                    Panel::new(Sort::Columns, "Failures by reason", "Failed runs, by reason.").ask(format!("sum by (reason) ({}) > 0", increase(&check(&n::CHECK_FAILURES))), "{{reason}}").from_zero().summed().absent("none"),
                    Panel::new(Sort::Columns, "Changes of state", "Confirmed changes of state, by check.").ask(format!("sum by (instance, check) ({}) > 0", increase(&check(&n::CHECK_STATE_CHANGES))), LEGEND).from_zero().summed().absent("none"),
                ],
            ),
            Section::open(
                "How fast?",
                vec![
                    Panel::new(Sort::Heat, "Durations", "How many runs took how long.").ask(format!("sum by (le) ({})", increase(&buckets(&n::CHECK_DURATION))), "{{le}}").unit("short"),
                    Panel::new(Sort::Graph, "Duration by kind", "Half and 99 % of the runs of each kind are faster than this.")
                        .ask(quantile(0.5, &n::CHECK_DURATION, "kind"), "{{kind}} p50").ask(quantile(0.99, &n::CHECK_DURATION, "kind"), "{{kind}} p99").unit("s").from_zero(),
                    Panel::new(Sort::Bars, "Slowest checks", "The ten checks that took longest on average in the time that is shown.")
                        .ask(format!("topk(10, max by (instance, check) (avg_over_time({}[$__range])))", check(&n::CHECK_LAST_DURATION)), LEGEND).unit("s").from_zero().size(12, 8),
                    Panel::new(Sort::Graph, "Last duration", "Duration of the last run of each check.").ask(per(check(&n::CHECK_LAST_DURATION)), LEGEND).unit("s").from_zero(),
                    Panel::new(Sort::Bars, "Nearest to the deadline", "Last duration over the deadline: above 0.8 an alert tells of it.")
                        .ask(format!("topk(10, max by (instance, check) ({} / {}))", check(&n::CHECK_LAST_DURATION), check(&n::CHECK_TIMEOUT)), LEGEND).unit("percentunit").between(0.0, 1.0).steps(&[(0.5, "yellow"), (0.8, "red")]).size(12, 8),
                    Panel::new(Sort::Graph, "Runs and failures", "Runs and failed runs a second, of all chosen checks.")
                        .ask(format!("sum({})", rate(&check(&n::CHECK_RUNS))), "runs").ask(format!("sum({})", rate(&check(&n::CHECK_FAILURES))), "failures").unit("ops").from_zero(),
                ],
            ),
            Section::open(
                "Is it watched?",
                vec![
                    Panel::new(Sort::Bars, "Latest runs", "Time since the last run, in intervals: above 3 an alert tells of it.")
                        .ask(format!("topk(10, max by (instance, check) (({}) / {}))", age(&check(&n::CHECK_LAST_RUN)), check(&n::CHECK_INTERVAL)), LEGEND).decimals(1).between(0.0, 5.0).steps(&[(2.0, "yellow"), (3.0, "red")]).size(8, 8),
                    Panel::new(Sort::Bars, "Certificates", "Time until the certificate that a check sees ends.")
                        .ask(format!("sort(min by (instance, check) ({} - time()))", check(&n::CHECK_TLS_NOT_AFTER)), LEGEND).unit("s").from_zero().steps(&[(f64::NEG_INFINITY, "red"), (259_200.0, "orange"), (1_209_600.0, "green")]).size(8, 8).absent("no certificates"),
                    Panel::new(Sort::Columns, "Runs skipped", "Runs that did not take place: the one before was still at work, maintenance, switched off.")
                        .ask(format!("sum by (reason) ({})", increase(&check(&n::CHECK_RUNS_SKIPPED))), "{{reason}}").from_zero().summed().size(8, 8),
                    Panel::new(Sort::Bars, "Failures in this time", "Failed runs of each check in the time that is shown.")
                        .ask(format!("topk(10, sum by (instance, check) ({}))", in_range(&check(&n::CHECK_FAILURES))), LEGEND).decimals(0).from_zero().steps(FEW_WANTED).size(8, 8),
                    Panel::new(Sort::Table, "Severity, unit and group", "What is configured for each check.")
                        .column("Watched", "short", format!("max by (instance, check, kind, severity, group, unit) ({})", check(&n::CHECK_INFO))).size(16, 8),
                ],
            ),
            Section::closed(
                "Depth of some kinds",
                vec![
                    Panel::new(Sort::Graph, "PostgreSQL connections", "Connections over what the server allows.")
                        .ask(format!("max by (instance, check) ({} / {})", all(&n::POSTGRESQL_CONNECTIONS), all(&n::POSTGRESQL_CONNECTIONS_MAX)), LEGEND).unit("percentunit").between(0.0, 1.0).steps(&[(0.8, "orange")]).absent("no such check"),
                    Panel::new(Sort::Graph, "Qdrant points and collections", "Points and collections of each Qdrant server.")
                        .ask(format!("max by (instance, check) ({})", all(&n::QDRANT_POINTS)), "{{instance}} {{check}} points").ask(format!("max by (instance, check) ({})", all(&n::QDRANT_COLLECTIONS)), "{{instance}} {{check}} collections").from_zero().absent("no such check"),
                    Panel::new(Sort::Stat, "Ollama models", "Models of each Ollama server.").ask(format!("max by (instance, check) ({})", all(&n::OLLAMA_MODELS)), LEGEND).steps(&[(f64::NEG_INFINITY, "red"), (1.0, "green")]).size(8, 6).absent("no such check"),
                    Panel::new(Sort::Stat, "SQLite integrity", "Whether each file passed its own integrity check.").ask(format!("min by (instance, check) ({})", all(&n::SQLITE_INTEGRITY_OK)), LEGEND).words(OK).size(8, 6).absent("no such check"),
                    Panel::new(Sort::Stat, "HTTP status", "Code of the last answer to each HTTP check.").ask(format!("max by (instance, check) ({})", check(&n::CHECK_HTTP_STATUS)), LEGEND).steps(&[(400.0, "orange"), (500.0, "red")]).size(8, 6).absent("no such check"),
                ],
            ),
        ],
    }
}

//! `[checks.NAME]`: the watched promises; `[restarts.UNIT]` and `[commands.NAME]`: what is done about them;
//! `[maintenance.NAME]`: when nothing is done and nobody is told.

use std::collections::BTreeMap;
use std::time::Duration;

use keepwatch_model::check::{CheckName, Severity};
use keepwatch_watch::calendar::Calendar;
use keepwatch_watch::judge::FailWithin;
use keepwatch_watch::judge::bands::{BANDS_MAX, Band};
use keepwatch_watch::restart::policy::Step;
use keepwatch_watch::systemd::UnitName;

use super::probes::{PROBE, Probe};
use crate::shape::{One, Shape, Tag, Word, keys, table};
use crate::text::Text;

pub(crate) static SEVERITY: &[Word] = &[
    ("critical", "A person must act now; counts for readiness."),
    ("warning", "Today."),
    ("info", "Worth a look."),
];

table! {
    /// A watched promise.
    pub struct Check: CHECK {
        /// Whether it runs.
        enable: bool = Shape::Bool, Value("true"), also ["enabled"];
        /// What it promises, for people.
        description: String = Shape::Text(Text::Note), Value("\"\"");
        /// What is asked.
        probe: Probe = Shape::One(&PROBE), Required, also ["kind", "type"];
        /// Time between two runs.
        interval: Duration ["crate::typed::duration"] = Shape::Text(Text::Duration(1000, 7 * 86_400_000)), Value("\"30s\""), also ["every", "period"];
        /// Deadline of one run; shorter than the interval.
        timeout: Duration ["crate::typed::duration"] = Shape::Text(Text::Duration(10, 7 * 86_400_000)), Derived("10 s, or 0.8 of the interval when that is less");
        /// When to ask again while a failure is not decided.
        retry_interval: Duration ["crate::typed::duration"] = Shape::Text(Text::Duration(1000, 7 * 86_400_000)), Derived("10 s, or the interval when that is less"), also ["retry"];
        /// Failures in a row that make it unhealthy.
        failure_threshold: u32 = Shape::Int(1, 64), Value("3"), also ["failures", "retries"];
        /// Successes in a row that make it healthy again.
        success_threshold: u32 = Shape::Int(1, 64), Value("2"), also ["recovery_threshold", "successes"];
        /// A second way to become unhealthy: so many failures among the last runs.
        fail_within: Option<FailWithin> = Shape::Table(&FAIL_WITHIN), Absent;
        /// How much it matters.
        severity: Severity = Shape::Words(SEVERITY), Value("\"warning\""), also ["level", "priority"];
        /// The group that it is shown in.
        group: Option<String> = Shape::Text(Text::Name), Absent;
        /// Labels for alerts about it.
        labels: BTreeMap<String, String> = Shape::Map(Text::Label, &Shape::Text(Text::Line), 16), Value("{}");
        /// Checks that it needs: while one of them is down, nobody is told about this one and nothing is restarted for it.
        depends_on: Vec<CheckName> = Shape::List(&Shape::Text(Text::Ref("checks")), 0, 32), Value("[]"), also ["parents", "requires"];
        /// Limits on what is measured. Given, they replace the default as a whole.
        limits: Vec<Band> = Shape::List(&Shape::Table(&BAND), 0, BANDS_MAX), Derived("those of the kind of probe, if it has any"), also ["bands", "thresholds"];
        /// What is done when it is unhealthy.
        on_failure: OnFailure = Shape::Table(&ON_FAILURE), Empty;
    }
}

keys! {
    /// So many failures among the last runs.
    FAIL_WITHIN {
        /// Failures that are too many.
        failures = Shape::Int(1, 64), Required;
        /// Among so many runs.
        of = Shape::Int(1, 64), Required, also ["runs"];
    }
}

pub(crate) static SIDES: &[Word] = &[
    ("above", "Large values are bad."),
    ("below", "Small values are bad."),
];

/// What can be limited: what some kind of probe measures.
pub(crate) static QUANTITIES: &[Word] = &[
    (
        "duration_seconds",
        "How long the run took. Every kind has it.",
    ),
    ("http_status", "The code of an HTTP answer."),
    (
        "tls_seconds_left",
        "Seconds until the first certificate of the chain ends.",
    ),
    (
        "tls_not_after_seconds",
        "When that is, in seconds since 1970.",
    ),
    ("replication_lag_seconds", "How far a standby is behind."),
    ("connections", "Connections to a database server."),
    ("connections_max", "How many it allows."),
    ("connections_used_ratio", "Share of them in use, 0 to 1."),
    ("redis_memory_bytes", "Memory that Redis uses."),
    ("redis_memory_ratio", "Share of its `maxmemory`, 0 to 1."),
    ("qdrant_collections", "Collections in Qdrant."),
    (
        "qdrant_points",
        "Points in the collections that were asked for.",
    ),
    ("ollama_models", "Models in Ollama."),
    (
        "sqlite_integrity_ok",
        "1 when the integrity check found nothing.",
    ),
    ("disk_available_bytes", "Bytes that can still be written."),
    ("disk_size_bytes", "Size of the file system."),
    ("disk_used_ratio", "Share in use, 0 to 1."),
    ("inodes_free", "Free inodes."),
    ("inodes", "All inodes."),
    ("inodes_used_ratio", "Share of inodes in use, 0 to 1."),
    (
        "memory_available_bytes",
        "Memory that can be had without swapping.",
    ),
    ("memory_size_bytes", "All memory."),
    ("memory_available_ratio", "Share that can be had, 0 to 1."),
    (
        "pressure_cpu_ratio",
        "Share of time in which a task waited for the processor, 0 to 1.",
    ),
    ("pressure_memory_ratio", "The same for memory."),
    ("pressure_io_ratio", "The same for input and output."),
    (
        "pressure_cpu_seconds",
        "Seconds since boot in which a task waited for the processor.",
    ),
    ("pressure_memory_seconds", "The same for memory."),
    ("pressure_io_seconds", "The same for input and output."),
    ("load1", "Load average over 1 minute."),
    (
        "load1_per_cpu",
        "The same, divided by the number of processors.",
    ),
    (
        "load5_per_cpu",
        "Load average over 5 minutes, divided by the number of processors.",
    ),
    (
        "unit_restarts",
        "How often systemd restarted the unit on its own.",
    ),
    ("exit_code", "Exit code of a command."),
    ("dns_records", "Addresses or records in a DNS answer."),
    (
        "heartbeat_age_seconds",
        "How long since a job last reported success.",
    ),
    ("group_members_up", "Members of a group that are up."),
];

const LIMIT: Shape = Shape::Number(f64::NEG_INFINITY, f64::INFINITY);

keys! {
    /// Limits on one measured value: a warning that begins at `warn` and ends at `clear`, and a failure at `fail`.
    BAND {
        /// What is limited.
        quantity = Shape::Words(QUANTITIES), Required;
        /// Which side is bad.
        side = Shape::Words(SIDES), Required;
        /// Beyond this the check is degraded.
        warn = LIMIT, Absent, also ["warning"];
        /// A warning ends when the value is back at this or better; 5 % of `warn` away from it when it is left out.
        clear = LIMIT, Absent;
        /// Beyond this the run fails.
        fail = LIMIT, Absent, also ["critical", "crit", "error"];
    }
}

table! {
    /// What is done when a check is unhealthy.
    pub struct OnFailure: ON_FAILURE {
        /// The unit that is restarted, within the limits of `[restarts.UNIT]`.
        restart_unit: Option<UnitName> = Shape::Text(Text::Unit), Absent, also ["restart", "unit"];
    }
}

table! {
    /// How a unit is restarted. Attempts count for the unit, however many checks ask for it.
    pub struct Restart: RESTART {
        /// Attempts in a sliding hour; then the unit is given up, and a person is told. Between attempts there are 60 s, doubled each time up to 15 min.
        max_attempts: u32 = Shape::Int(1, 20), Value("3"), also ["attempts"];
        /// How long results do not count after a restart.
        settle: Duration ["crate::typed::duration"] = Shape::Text(Text::Duration(0, 3_600_000)), Value("\"10s\"");
        /// After being given up for so long, attempts begin anew; never when it is left out.
        retry_after: Option<Duration> as ["crate::typed::maybe_duration"] = Shape::Text(Text::Duration(60_000, 31 * 86_400_000)), Absent;
        /// Also start a unit that an operator stopped.
        start_if_inactive: bool = Shape::Bool, Value("false");
        /// Decide and tell, but do nothing.
        dry_run: bool = Shape::Bool, Value("false");
        /// What the first, second, … attempt does; the last is repeated.
        escalation: Vec<Step> = Shape::List(&Shape::One(&STEP), 1, 8), Value("[\"unit\"]"), also ["steps"];
        /// Allows the step `reboot`.
        allow_reboot: bool = Shape::Bool, Value("false");
        /// How long systemd may take to stop and start the unit.
        job_timeout: Duration ["crate::typed::duration"] = Shape::Text(Text::Duration(1000, 3_600_000)), Value("\"5m\""), also ["timeout"];
    }
}

/// A step of the escalation.
pub(crate) static STEP: One = One {
    doc: "What one attempt does.",
    words: &[
        ("unit", "Restart the unit."),
        ("reboot", "Restart the host. Needs `allow_reboot`."),
    ],
    tags: &[
        Tag {
            name: "dependants",
            doc: "Restart the unit, then these, which depend on it.",
            shape: Shape::List(&Shape::Text(Text::Unit), 1, 32),
            also: &["dependents"],
        },
        Tag {
            name: "command",
            doc: "Run this command of `[commands]`.",
            shape: Shape::Text(Text::Ref("commands")),
            also: &[],
        },
    ],
};

table! {
    /// A command that restarts can run.
    pub struct Command: COMMAND {
        /// The program, an absolute path, and its arguments. Anybody on the host can read them: no secrets.
        argv: Vec<String> = Shape::Argv, Required, also ["command"];
        /// It is ended when it takes longer.
        timeout: Duration ["crate::typed::duration"] = Shape::Text(Text::Duration(1000, 3_600_000)), Value("\"1m\"");
    }
}

table! {
    /// A time in which checks go on, but nobody is told and nothing is restarted.
    pub struct Maintenance: MAINTENANCE {
        /// When it begins, as a calendar expression of systemd.
        begins: Calendar ["crate::typed::calendar"] = Shape::Text(Text::Calendar), Required, also ["start_at", "start", "schedule"];
        /// How long it lasts.
        duration: Duration ["crate::typed::duration"] = Shape::Text(Text::Duration(1000, 7 * 86_400_000)), Required, also ["length"];
        /// By whose clock.
        zone: String = Shape::Text(Text::Zone), Value("\"UTC\""), also ["timezone", "time_zone", "tz"];
        /// Which checks; all when it is empty.
        checks: Vec<CheckName> = Shape::List(&Shape::Text(Text::Ref("checks")), 0, 1000), Value("[]");
        /// Why, for people.
        comment: String = Shape::Text(Text::Note), Value("\"\""), also ["description", "note"];
    }
}

//! `[logging]`, `[metrics]`, `[health]`, `[catalog]`: the agent itself.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::secret::SecretSource;
use crate::shape::{Shape, one, table, words};
use crate::text::Text;

table! {
    /// Logs.
    pub struct Logging: LOGGING {
        /// What is logged: this and what matters more.
        level: Level = Shape::Words(LEVEL), Value("\"info\"");
        /// How.
        format: LogFormat = Shape::Words(LOG_FORMAT), Value("\"journald\"");
    }
}

words! {
    /// How much a log record matters.
    pub enum Level: LEVEL {
        /// Something does not work.
        Error = "error",
        /// Something may soon not work.
        Warn = "warn",
        /// What happened.
        Info = "info",
        /// How it happened.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    }
}

words! {
    /// How logs are written.
    pub enum LogFormat: LOG_FORMAT {
        /// To systemd's journal with fields of their own; as text where there is no journal.
        Journald = "journald",
        /// One JSON object for each record, on standard error.
        Json = "json",
        /// Text, on standard error.
        Text = "text",
    }
}

table! {
    /// What the agent serves to Prometheus (`/metrics`) and to people (`/health…`).
    pub struct Metrics: METRICS {
        /// Whether anything is served.
        enable: bool = Shape::Bool, Value("true"), also ["enabled"];
        /// The address.
        listen_address: IpAddr = Shape::Text(Text::Address), Value("\"127.0.0.1\""), also ["listen", "address", "host", "bind"];
        /// The port.
        port: u16 = Shape::Int(1, 65_535), Value("9847");
        /// Serve on this socket instead of an address and a port.
        unix_socket: Option<PathBuf> = Shape::Text(Text::Path), Absent, also ["socket"];
        /// Who asks for `/health/detailed`, `/resources/status` or `/restart/status` must send this bearer token; where the address is not loopback also who asks for `/metrics`, and without it the other probes name no checks.
        bearer_token_file: Option<SecretSource> = Shape::Text(Text::Secret), Absent, also ["token_file"];
        /// Also how long each stage of each backup took.
        per_source_labels: bool = Shape::Bool, Value("true");
        /// Also the three older names `health_check_total`, `health_check_duration_seconds`, `service_health_status`.
        legacy_names: bool = Shape::Bool, Value("false");
        /// A histogram of durations for each check, not only for each kind.
        detailed_histograms: bool = Shape::Bool, Value("false");
    }
}

table! {
    /// When the agent says that it is ready.
    pub struct Health: HEALTH {
        /// `/health/startup` waits at most so long for the first run of every critical check.
        startup_deadline: Duration ["crate::typed::duration"] = Shape::Text(Text::Duration(1000, 3_600_000)), Value("\"1m\"");
        /// After SIGTERM it answers "not ready" for so long before it ends.
        drain: Duration ["crate::typed::duration"] = Shape::Text(Text::Duration(0, 60_000)), Value("\"2s\"");
    }
}

table! {
    /// The record of what happened. A restore never needs it.
    pub struct Catalog: CATALOG {
        /// Where it lies.
        database: Database = Shape::One(&DATABASE), Derived("`{ sqlite = { path = \"STATE_DIRECTORY/catalog.sqlite\" } }`"), also ["url", "path"];
        /// How long raw results of checks are kept; whole days.
        keep_results: Duration ["crate::typed::duration"] = DAYS, Value("\"30d\"");
        /// How long runs, changes of state, incidents and restarts are kept. The last ten successes of a job always stay.
        keep_runs: Duration ["crate::typed::duration"] = DAYS, Value("\"90d\""), also ["keep"];
        /// How long hourly summaries are kept; daily ones stay.
        keep_hours: Duration ["crate::typed::duration"] = DAYS, Value("\"400d\"");
    }
}

const DAYS: Shape = Shape::Text(Text::Duration(86_400_000, 36_500 * 86_400_000));

one! {
    /// Where the catalog lies.
    pub enum Database: DATABASE {
        /// In a file of SQLite.
        Sqlite(Sqlite) = "sqlite", Shape::Table(&SQLITE);
        /// In a database of PostgreSQL, which several hosts may share.
        Postgresql(Postgresql) = "postgresql", Shape::Table(&POSTGRESQL), also ["postgres"];
    }
}

table! {
    /// In a file of SQLite.
    pub struct Sqlite: SQLITE {
        /// The file.
        path: PathBuf = Shape::Text(Text::Path), Required, also ["file"];
    }
}

table! {
    /// In a database of PostgreSQL.
    pub struct Postgresql: POSTGRESQL {
        /// The database, without a password: `postgres://user@host/database?sslmode=verify-full`.
        url: String = Shape::Text(Text::PostgresUrl), Required;
        /// The password.
        password_file: Option<SecretSource> = Shape::Text(Text::Secret), Absent;
    }
}

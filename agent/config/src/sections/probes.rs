//! `[checks.NAME.probe.KIND]`: what a check asks. The keys are those of the watcher's own settings, which check them once more when
//! the probe is built; a test compares the two.
//!
//! The settings stay as they were read until a probe is made of them ([`Probe::settings`]), because only then it is known where
//! systemd put the credentials.

use std::collections::BTreeMap;
use std::sync::Arc;

use keepwatch_model::check::CheckKind;
use keepwatch_watch::conductor::Ask;
use keepwatch_watch::net::Net;
use keepwatch_watch::probe::{self, SettingsError};
use keepwatch_watch::systemd::Systemd;
use serde::de::{Deserialize, Deserializer, Error as _};
use serde_json::Value;

use crate::secret::{Credentials, SecretSource};
use crate::shape::{One, Shape, Tag, Word, keys};
use crate::text::Text;

/// What a check asks: its kind, and the settings for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// The kind.
    pub kind: CheckKind,
    settings: Value,
}

/// The settings of a probe, as the watcher takes them.
#[derive(Clone, Debug)]
pub enum Settings {
    /// An HTTP request.
    Http(probe::http::HttpSettings),
    /// A TCP connection.
    Tcp(probe::tcp::TcpSettings),
    /// PostgreSQL.
    Postgresql(probe::postgresql::PostgresqlSettings),
    /// MySQL.
    Mysql(probe::mysql::MysqlSettings),
    /// Redis.
    Redis(probe::redis::RedisSettings),
    /// Qdrant.
    Qdrant(probe::qdrant::QdrantSettings),
    /// Ollama.
    Ollama(probe::ollama::OllamaSettings),
    /// A unit.
    Systemd(probe::unit::UnitSettings),
    /// A file system.
    Disk(probe::disk::DiskSettings),
    /// A certificate.
    Tls(probe::tls::TlsProbeSettings),
    /// A name.
    Dns(probe::dns::DnsSettings),
    /// A command.
    Command(probe::command::CommandSettings),
    /// A file of SQLite.
    Sqlite(probe::sqlite::SqliteSettings),
    /// Reports of a job.
    Heartbeat(probe::heartbeat::HeartbeatSettings),
    /// Other checks.
    Group(probe::together::GroupSettings),
    /// Memory of the host.
    Memory,
    /// Pressure of the host.
    Pressure,
    /// Load of the host.
    Load,
}

impl<'de> Deserialize<'de> for Probe {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let one = BTreeMap::<String, Value>::deserialize(deserializer)?;
        let mut entries = one.into_iter();
        match (entries.next(), entries.next()) {
            (Some((kind, settings)), None) => Ok(Self {
                kind: kind.parse().map_err(D::Error::custom)?,
                settings,
            }),
            _ => Err(D::Error::custom("a probe has exactly one kind")),
        }
    }
}

impl Probe {
    /// The settings, with the files in which the secrets of this process lie.
    ///
    /// # Errors
    /// A sentence: a credential is named and this process has none.
    pub fn settings(&self, credentials: &Credentials) -> Result<Settings, String> {
        let mut value = self.settings.clone();
        resolve(&mut value, credentials)?;
        let wrong = |e: serde_json::Error| e.to_string();
        macro_rules! read {
            ($variant:ident) => {
                Settings::$variant(serde_json::from_value(value).map_err(wrong)?)
            };
        }
        Ok(match self.kind {
            CheckKind::Http => read!(Http),
            CheckKind::Tcp => read!(Tcp),
            CheckKind::Postgresql => read!(Postgresql),
            CheckKind::Mysql => read!(Mysql),
            CheckKind::Redis => read!(Redis),
            CheckKind::Qdrant => read!(Qdrant),
            CheckKind::Ollama => read!(Ollama),
            CheckKind::Systemd => read!(Systemd),
            CheckKind::Disk => read!(Disk),
            CheckKind::Tls => read!(Tls),
            CheckKind::Dns => read!(Dns),
            CheckKind::Command => read!(Command),
            CheckKind::Sqlite => read!(Sqlite),
            CheckKind::Heartbeat => read!(Heartbeat),
            CheckKind::Group => {
                // The watcher writes the word without its underscore.
                if let Some(Value::Object(need)) = value.get_mut("need") {
                    if let Some(n) = need.remove("at_least") {
                        need.insert("atleast".into(), n);
                    }
                }
                read!(Group)
            }
            CheckKind::Memory => Settings::Memory,
            CheckKind::Pressure => Settings::Pressure,
            CheckKind::Load => Settings::Load,
        })
    }
}

impl Settings {
    /// Makes what a check asks with. Nothing is connected to, opened or started.
    ///
    /// # Errors
    /// Settings that make no sense.
    pub fn ask(self, net: &Net, systemd: &Arc<Systemd>) -> Result<Ask, SettingsError> {
        let net = || net.clone();
        Ok(Ask::Probe(match self {
            Self::Http(s) => Arc::new(probe::http::Http::new(s, net())?),
            Self::Tcp(s) => Arc::new(probe::tcp::Tcp::new(s, net())?),
            Self::Postgresql(s) => Arc::new(probe::postgresql::Postgresql::new(s, net())?),
            Self::Mysql(s) => Arc::new(probe::mysql::Mysql::new(s, net())?),
            Self::Redis(s) => Arc::new(probe::redis::Redis::new(s, net())?),
            Self::Qdrant(s) => Arc::new(probe::qdrant::Qdrant::new(s, net())?),
            Self::Ollama(s) => Arc::new(probe::ollama::Ollama::new(s, net())?),
            Self::Systemd(s) => Arc::new(probe::unit::Unit::new(s, Arc::clone(systemd))?),
            Self::Disk(s) => Arc::new(probe::disk::Disk::new(s)?),
            Self::Tls(s) => Arc::new(probe::tls::Tls::new(s, net())?),
            Self::Dns(s) => Arc::new(probe::dns::Dns::new(s, net())?),
            Self::Command(s) => Arc::new(probe::command::Command::new(s)?),
            Self::Sqlite(s) => Arc::new(probe::sqlite::Sqlite::new(s)?),
            Self::Memory => Arc::new(probe::host::Host::memory()),
            Self::Pressure => Arc::new(probe::host::Host::pressure()),
            Self::Load => Arc::new(probe::host::Host::load()),
            Self::Heartbeat(s) => return Ok(Ask::Heartbeat(s)),
            Self::Group(s) => {
                s.check()?;
                return Ok(Ask::Group(s));
            }
        }))
    }
}

/// Puts paths in the place of credentials.
fn resolve(value: &mut Value, credentials: &Credentials) -> Result<(), String> {
    let Value::Object(map) = value else {
        return Ok(());
    };
    for (key, value) in map {
        match value {
            Value::String(text) if key.ends_with("_file") && text.starts_with("credential:") => {
                let source: SecretSource = text.parse()?;
                let path = source.path(credentials).map_err(|e| e.to_string())?;
                *text = path
                    .to_str()
                    .ok_or("the directory of credentials is not UTF-8")?
                    .to_owned();
            }
            inner => resolve(inner, credentials)?,
        }
    }
    Ok(())
}

const PATH: Shape = Shape::Text(Text::Path);
const SECRET: Shape = Shape::Text(Text::Secret);
const TARGET: Shape = Shape::Text(Text::Target);
const TLS: Shape = Shape::Table(&TLS_TRUST);
const EXPRESSIONS: Shape = Shape::List(&Shape::Text(Text::Line), 0, 32);
const SECONDS_TO_MONTHS: Shape = Shape::Text(Text::Duration(1000, 100 * 86_400_000));

keys! {
    /// Whom to trust.
    TLS_TRUST {
        /// Trust only the certificates of this PEM file instead of the host's.
        ca_file = PATH, Absent;
        /// The name that the certificate must have, when it is not the host of the target.
        server_name = Shape::Text(Text::Line), Absent;
    }
}

keys! {
    /// An HTTP or HTTPS request. Redirects are not followed.
    HTTP {
        /// `http://…` or `https://…`, without user and password.
        url = Shape::Text(Text::Url), Required;
        /// Connect to this socket instead of the URL's host.
        unix_socket = PATH, Absent, also ["socket"];
        /// The method.
        method = Shape::Words(&[("GET", ""), ("HEAD", ""), ("POST", ""), ("PUT", ""), ("OPTIONS", "")]), Value("\"GET\"");
        /// Headers that are no secret.
        headers = Shape::Map(Text::Line, &Shape::Text(Text::Line), 32), Value("{}");
        /// Body to send.
        body = Shape::Text(Text::Any), Absent;
        /// Codes that are right: `"200"`, `"200-299"`; 200–299 when it is empty.
        status = EXPRESSIONS, Value("[]"), also ["expect_status", "expected_status", "status_code"];
        /// Regular expressions that must match the body.
        body_matches = EXPRESSIONS, Value("[]"), also ["expect_body", "contains"];
        /// Regular expressions that must not.
        body_does_not_match = EXPRESSIONS, Value("[]");
        /// Regular expressions that headers of the answer must match.
        header_matches = Shape::Map(Text::Line, &Shape::Text(Text::Line), 32), Value("{}");
        /// What the body must say in JSON.
        json = Shape::List(&Shape::Table(&JSON_RULE), 0, 32), Value("[]");
        /// User for basic authentication, with `password_file`.
        basic_user = Shape::Text(Text::Line), Absent, also ["user", "username"];
        /// Its password.
        password_file = SECRET, Absent;
        /// A bearer token.
        bearer_token_file = SECRET, Absent;
        /// Whom to trust.
        tls = TLS, Empty;
    }
}

keys! {
    /// What a body must say in JSON.
    JSON_RULE {
        /// Where: `/status`, `/items/0/name`; empty for the whole document.
        pointer = Shape::Text(Text::Note), Required, also ["path"];
        /// It must be this.
        equals = Shape::Either(&[Shape::Text(Text::Any), Shape::Bool, LIMIT]), Absent;
        /// The number must be at least this.
        min = LIMIT, Absent;
        /// The number must be at most this.
        max = LIMIT, Absent;
    }
}

const LIMIT: Shape = Shape::Number(f64::NEG_INFINITY, f64::INFINITY);

keys! {
    /// A TCP connection, and a greeting if one is expected.
    TCP {
        /// Where.
        target = TARGET, Required, also ["host", "address", "port"];
        /// Speak TLS, and whom to trust.
        tls = TLS, Absent;
        /// Text to send first, with its line end.
        send = Shape::Text(Text::Any), Absent;
        /// Regular expression that the first 4 KiB of the answer must match.
        expect = Shape::Text(Text::Line), Absent;
    }
}

keys! {
    /// A question to PostgreSQL.
    POSTGRESQL {
        /// Where; `unix:/run/postgresql/.s.PGSQL.5432` for the socket.
        target = TARGET, Required, also ["host", "address", "port", "socket"];
        /// Insist on TLS, and whom to trust.
        tls = TLS, Absent;
        /// The user.
        user = Shape::Text(Text::Line), Required, also ["username"];
        /// The database; that of the user's name when it is left out.
        database = Shape::Text(Text::Line), Absent, also ["dbname"];
        /// The password; not needed with peer authentication.
        password_file = SECRET, Absent;
        /// What to ask besides, in a transaction that only reads; the first column of the first row is the answer.
        query = Shape::Text(Text::Any), Absent, also ["sql"];
        /// What the answer must be, as text.
        expect = Shape::Text(Text::Any), Absent;
        /// What the server must be.
        role = Shape::Words(&[("any", "Either."), ("primary", "Not in recovery."), ("standby", "In recovery.")]), Value("\"any\"");
    }
}

keys! {
    /// A question to MySQL or MariaDB.
    MYSQL {
        /// Where.
        target = TARGET, Required, also ["host", "address", "port", "socket"];
        /// Insist on TLS, and whom to trust.
        tls = TLS, Absent;
        /// The user.
        user = Shape::Text(Text::Line), Required, also ["username"];
        /// The database.
        database = Shape::Text(Text::Line), Absent;
        /// The password.
        password_file = SECRET, Absent;
        /// What to ask; `SELECT 1` when it is left out.
        query = Shape::Text(Text::Any), Absent, also ["sql"];
        /// What the answer must be, as text.
        expect = Shape::Text(Text::Any), Absent;
    }
}

keys! {
    /// PING and INFO to Redis.
    REDIS {
        /// Where.
        target = TARGET, Required, also ["host", "address", "port", "socket"];
        /// Speak TLS, and whom to trust.
        tls = TLS, Absent;
        /// User of an ACL, with `password_file`.
        user = Shape::Text(Text::Line), Absent, also ["username"];
        /// The password.
        password_file = SECRET, Absent;
    }
}

keys! {
    /// Readiness and collections of Qdrant.
    QDRANT {
        /// The server.
        url = Shape::Text(Text::Url), Value("\"http://127.0.0.1:6333\"");
        /// API key; the read-only one is enough.
        api_key_file = SECRET, Absent;
        /// At least so many collections.
        min_collections = Shape::Int(0, 1_000_000), Value("0");
        /// Collections that must be there and green.
        collections = Shape::List(&Shape::Text(Text::Line), 0, 64), Value("[]");
        /// Whom to trust.
        tls = TLS, Empty;
    }
}

keys! {
    /// Models of Ollama.
    OLLAMA {
        /// The server.
        url = Shape::Text(Text::Url), Value("\"http://127.0.0.1:11434\"");
        /// Models that must be there; without a tag `:latest` is meant.
        models = Shape::List(&Shape::Text(Text::Line), 0, 64), Value("[]"), also ["require_models"];
        /// Whom to trust.
        tls = TLS, Empty;
    }
}

static STATES: &[Word] = &[
    ("active", "Running, or done and remaining."),
    ("reloading", "Active, and reading its configuration anew."),
    ("inactive", "Stopped."),
    ("activating", "Starting."),
    ("deactivating", "Stopping."),
    (
        "maintenance",
        "Active, while its files are being maintained.",
    ),
    (
        "refreshing",
        "Active, while its mounts are being refreshed.",
    ),
];

keys! {
    /// The state of a systemd unit.
    SYSTEMD {
        /// The unit.
        unit = Shape::Text(Text::Unit), Required, also ["name"];
        /// States that are right; for a one-shot job that a timer starts, `active`, `activating` and `inactive`.
        states = Shape::List(&Shape::Words(STATES), 1, 7), Value("[\"active\"]"), also ["state"];
    }
}

keys! {
    /// Bytes and inodes of a file system.
    DISK {
        /// Any path on the file system.
        path = PATH, Required, also ["mount_point", "mountpoint"];
        /// Fail when it is mounted read-only.
        writable = Shape::Bool, Value("false");
    }
}

keys! {
    /// Available memory of the host.
    MEMORY {}
}
keys! {
    /// Pressure stall information of the host.
    PRESSURE {}
}
keys! {
    /// Load average of the host.
    LOAD {}
}

keys! {
    /// How long a certificate is valid: at a host or in a file, one of the two.
    TLS_PROBE {
        /// A server that speaks TLS at once.
        target = TARGET, Absent, also ["host", "address", "port"];
        /// A PEM or DER file.
        file = PATH, Absent;
        /// Whether the server's certificate must also be trusted and for its name.
        verify = Shape::Bool, Value("true");
        /// Whom to trust.
        tls = TLS, Empty;
    }
}

static RECORDS: &[Word] = &[
    ("A", "IPv4 addresses."),
    ("AAAA", "IPv6 addresses."),
    ("MX", "Mail servers."),
    ("TXT", "Texts."),
    ("NS", "Name servers."),
    ("CNAME", "Another name."),
    ("SOA", "Start of authority."),
];

keys! {
    /// A name that must resolve.
    DNS {
        /// The name.
        name = Shape::Text(Text::Line), Required, also ["host", "domain"];
        /// Ask this server, an address with or without a port, instead of the host's resolver.
        server = Shape::Text(Text::Line), Absent;
        /// The type; other than `A` only with a server.
        record = Shape::Words(RECORDS), Value("\"A\""), also ["type"];
        /// Addresses of which at least one must be in the answer.
        expect = Shape::List(&Shape::Text(Text::Address), 0, 64), Value("[]");
    }
}

const CODES: Shape = Shape::List(&Shape::Int(0, 255), 0, 256);

keys! {
    /// A command and its exit code.
    COMMAND {
        /// The program, an absolute path, and its arguments. Anybody on the host can read them: no secrets.
        argv = Shape::Argv, Required, also ["command"];
        /// Variables added to the minimal environment. No secrets either: name a file.
        env = Shape::Map(Text::Line, &Shape::Text(Text::Any), 64), Value("{}"), also ["environment"];
        /// Where it runs; `/` when it is left out.
        directory = PATH, Absent;
        /// Codes besides 0 that are a success.
        success = CODES, Value("[]");
        /// Codes that are degraded; 1 as plugins of Nagios use it.
        degraded = CODES, Value("[]"), also ["warning"];
    }
}

keys! {
    /// Integrity of a file of SQLite.
    SQLITE {
        /// The database file.
        path = PATH, Required, also ["file", "database"];
        /// `integrity_check`, which also compares indexes with their tables, instead of `quick_check`.
        full = Shape::Bool, Value("false");
        /// The `sqlite3` program.
        program = PATH, Value("\"/usr/bin/sqlite3\"");
    }
}

keys! {
    /// A job that must report in time.
    HEARTBEAT {
        /// How often the job runs.
        period = SECONDS_TO_MONTHS, Required, also ["interval", "every"];
        /// How much later it may be.
        grace = SECONDS_TO_MONTHS, Value("\"5m\"");
        /// How long a started job may go on without a sign of life.
        run_grace = SECONDS_TO_MONTHS, Value("\"1h\"");
    }
}

keys! {
    /// Other checks taken together.
    GROUP {
        /// The checks in it.
        members = Shape::List(&Shape::Text(Text::Ref("checks")), 1, 256), Required, also ["checks"];
        /// How many of them must be up.
        need = Shape::One(&NEED), Value("\"all\"");
    }
}

static NEED: One = One {
    doc: "How many members must be up.",
    words: &[("all", "All."), ("any", "One.")],
    tags: &[Tag {
        name: "at_least",
        doc: "So many.",
        shape: Shape::Int(1, 256),
        also: &["atleast", "min"],
    }],
};

/// The table of a kind as one of the choices.
const fn tag(
    name: &'static str,
    table: &'static crate::shape::Table,
    also: &'static [&'static str],
) -> Tag {
    Tag {
        name,
        doc: "",
        shape: Shape::Table(table),
        also,
    }
}

/// The kinds, by the words of [`CheckKind`].
pub(crate) static PROBE: One = One {
    doc: "What is asked: exactly one of these.",
    words: &[],
    tags: &[
        tag("http", &HTTP, &["https", "url"]),
        tag("tcp", &TCP, &["port"]),
        tag("postgresql", &POSTGRESQL, &["postgres"]),
        tag("redis", &REDIS, &["valkey"]),
        tag("mysql", &MYSQL, &["mariadb"]),
        tag("qdrant", &QDRANT, &[]),
        tag("ollama", &OLLAMA, &[]),
        tag("systemd", &SYSTEMD, &["unit", "service"]),
        tag("disk", &DISK, &["filesystem", "mount"]),
        tag("memory", &MEMORY, &["ram"]),
        tag("pressure", &PRESSURE, &["psi"]),
        tag("load", &LOAD, &["loadavg"]),
        tag("tls", &TLS_PROBE, &["tls_certificate", "certificate"]),
        tag("dns", &DNS, &["resolve"]),
        tag("command", &COMMAND, &["exec", "script"]),
        tag("sqlite", &SQLITE, &[]),
        tag("heartbeat", &HEARTBEAT, &["dead_man", "cron"]),
        tag("group", &GROUP, &[]),
    ],
};

/// Limits that a kind has when its check gives none, as they would be written in the file.
pub(crate) fn default_limits(kind: &str) -> &'static str {
    match kind {
        "disk" => {
            "[{ quantity = \"disk_used_ratio\", side = \"above\", warn = 0.8, fail = 0.9 }, { quantity = \"inodes_used_ratio\", side = \"above\", warn = 0.8, fail = 0.95 }]"
        }
        "memory" => {
            "[{ quantity = \"memory_available_ratio\", side = \"below\", warn = 0.1, fail = 0.03 }]"
        }
        "pressure" => {
            "[{ quantity = \"pressure_memory_ratio\", side = \"above\", warn = 0.1, fail = 0.5 }, { quantity = \"pressure_cpu_ratio\", side = \"above\", warn = 0.5 }]"
        }
        "load" => "[{ quantity = \"load5_per_cpu\", side = \"above\", warn = 2.0 }]",
        "tls" => {
            "[{ quantity = \"tls_seconds_left\", side = \"below\", warn = 1209600, fail = 259200 }]"
        }
        "http" => "[{ quantity = \"tls_seconds_left\", side = \"below\", warn = 1209600 }]",
        "postgresql" => "[{ quantity = \"connections_used_ratio\", side = \"above\", warn = 0.8 }]",
        "redis" => "[{ quantity = \"redis_memory_ratio\", side = \"above\", warn = 0.9 }]",
        _ => "[]",
    }
}

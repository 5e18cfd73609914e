//! The postgresql probe: a query, the role of the server, its connections and the lag of replication.
//!
//! tokio-postgres speaks the protocol and SCRAM over a stream of ours: TLS is negotiated here, so that one TLS library with one
//! set of rules serves all probes, and what the server sends is capped. What is told apart: a server that hangs (*timeout*), one
//! that starts up, shuts down or recovers (*status*, SQLSTATE 57P0x), wrong credentials (*auth*, class 28), no free
//! connection (*status*, 53300), a query that fails or answers otherwise than expected (*assertion*), a wrong role (*assertion*).

use std::time::Duration;

use futures_util::StreamExt as _;
use keepwatch_model::check::{CheckKind, Reason};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use super::{Asking, Probe, SettingsError};
use crate::net::tls::TlsSettings;
use crate::net::{Capped, Net, READ_MAX, Target, Wire, broken};
use crate::outcome::{Failure, Outcome, Quantity};
use crate::secret::{Secret, SecretFile, read_optional, without};

/// Asks for TLS: length 8, code 80877103.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// What the server must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Either.
    #[default]
    Any,
    /// Not in recovery.
    Primary,
    /// In recovery.
    Standby,
}

/// What is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresqlSettings {
    /// Where; `unix:/run/postgresql/.s.PGSQL.5432` for the socket.
    pub target: Target,
    /// Insist on TLS, and whom to trust. Without it the connection is plain.
    #[serde(default)]
    pub tls: Option<TlsSettings>,
    /// The user.
    pub user: String,
    /// The database; by default that of the user's name.
    #[serde(default)]
    pub database: Option<String>,
    /// The password; not needed with peer or trust authentication.
    #[serde(default)]
    pub password_file: Option<SecretFile>,
    /// What to ask besides, in a transaction that only reads; the first column of the first row is the answer.
    #[serde(default)]
    pub query: Option<String>,
    /// What the answer must be, as text.
    #[serde(default)]
    pub expect: Option<String>,
    /// What the server must be.
    #[serde(default)]
    pub role: Role,
}

/// The probe.
pub struct Postgresql {
    net: Net,
    settings: PostgresqlSettings,
}

/// In recovery or not, and the lag in seconds: of a standby behind what it received (0 when it has replayed all of it, nothing
/// when it never replayed a transaction), of the slowest standby behind a primary. Then connections and their limit.
const FACTS: &str = "SELECT pg_is_in_recovery()::int, \
    CASE WHEN pg_is_in_recovery() THEN \
      CASE WHEN pg_last_wal_receive_lsn() IS NOT DISTINCT FROM pg_last_wal_replay_lsn() THEN 0 \
      ELSE extract(epoch FROM now() - pg_last_xact_replay_timestamp()) END \
    ELSE (SELECT max(extract(epoch FROM replay_lag)) FROM pg_stat_replication) END, \
    (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' OR backend_type IS NULL), \
    current_setting('max_connections')";

/// A check asks and changes nothing, and a server does not notice that nobody waits for its answer any more: a query behind a lock
/// would keep its connection at each run, until there is none left for others. So the server gets the time that is left as a limit.
/// In a transaction, since a pooler may give the next client the same session.
fn bounded(left: Duration) -> String {
    // 0 would be no limit.
    let ms = left.as_millis().clamp(1, i32::MAX as u128);
    format!(
        "BEGIN READ ONLY; SET LOCAL statement_timeout = {ms}; SET LOCAL lock_timeout = {ms}; \
         SET LOCAL idle_in_transaction_session_timeout = {ms}"
    )
}

impl Postgresql {
    /// Checks the settings.
    ///
    /// # Errors
    /// An empty user; an expectation without a query.
    pub fn new(settings: PostgresqlSettings, net: Net) -> Result<Self, SettingsError> {
        if settings.user.is_empty() {
            return Err(SettingsError::new("user", "it is empty"));
        }
        if settings.expect.is_some() && settings.query.is_none() {
            return Err(SettingsError::new("expect", "it needs a query"));
        }
        Ok(Self { net, settings })
    }

    async fn wire(&self, outcome: &mut Outcome) -> Result<Wire, Failure> {
        let target = &self.settings.target;
        let mut wire = self.net.connect(target).await?;
        let Some(tls) = &self.settings.tls else {
            return Ok(wire);
        };
        let fail = |e: std::io::Error| broken(target, &e);
        wire.write_all(&SSL_REQUEST).await.map_err(fail)?;
        wire.flush().await.map_err(fail)?;
        match wire.read_u8().await.map_err(fail)? {
            b'S' => {}
            b'N' => {
                return Err(Failure::new(
                    Reason::Tls,
                    format!("{target} does not speak TLS"),
                ));
            }
            // An error message in place of an answer: too old or too busy to negotiate.
            _ => {
                return Err(Failure::new(
                    Reason::Protocol,
                    format!("{target} does not answer as PostgreSQL does"),
                ));
            }
        }
        let secured = self.net.secure(wire, target, tls).await?;
        super::http::measure_end(outcome, secured.not_after, self.net.now());
        Ok(secured.wire)
    }

    async fn run(&self, deadline: Instant) -> Result<Outcome, Failure> {
        let password = read_optional(self.settings.password_file.as_ref()).await?;
        let secrets: Vec<&Secret> = password.iter().collect();
        without(&secrets, self.talk(password.as_ref(), deadline).await)
    }

    async fn talk(&self, password: Option<&Secret>, deadline: Instant) -> Result<Outcome, Failure> {
        let mut outcome = Outcome::success();
        let s = &self.settings;
        let mut config = Config::new();
        // TLS is done below us.
        config
            .user(&s.user)
            .ssl_mode(SslMode::Disable)
            .application_name("keepwatch");
        config.dbname(s.database.as_ref().unwrap_or(&s.user));
        if let Some(password) = password {
            config.password(password.expose());
        }
        let wire = self.wire(&mut outcome).await?;
        let connected = config.connect_raw(Capped::new(wire, READ_MAX), NoTls).await;
        let (client, connection) = connected.map_err(|e| self.failure("connecting", &e))?;
        drop(config);
        let asking = async move {
            let begin = bounded(deadline.saturating_duration_since(Instant::now()));
            let begun = client.batch_execute(&begin).await;
            begun.map_err(|e| self.failure("beginning", &e))?;
            let facts = self.first_row(&client, FACTS).await?;
            self.facts(&facts, &mut outcome);
            if let Some(query) = &s.query {
                let row = self.first_row(&client, query).await?;
                let answer = row.first().cloned().flatten();
                if let Some(expected) = s.expect.as_ref().filter(|e| Some(*e) != answer.as_ref()) {
                    let answer = answer.map_or("nothing".into(), |a| {
                        format!("{:?}", crate::text::clean_to(&a, 60))
                    });
                    outcome.fail(
                        Reason::Assertion,
                        format!("the query answers {answer}, not {expected:?}"),
                    );
                }
            }
            Ok(outcome)
        };
        tokio::pin!(connection, asking);
        let mut open = true;
        loop {
            tokio::select! {
                // Answers are taken before an end of the connection is noticed.
                biased;
                result = &mut asking => return result,
                ended = &mut connection, if open => match ended {
                    Ok(()) => open = false,
                    Err(e) => return Err(self.failure("asking", &e)),
                },
            }
        }
    }

    fn facts(&self, row: &[Option<String>], outcome: &mut Outcome) {
        let number = |at: usize| row.get(at).and_then(|v| v.as_ref()?.parse::<f64>().ok());
        let standby = number(0) == Some(1.0);
        if let Some(lag) = number(1) {
            outcome.measure(Quantity::ReplicationLagSeconds, lag.max(0.0));
        }
        if let (Some(used), Some(max)) = (number(2), number(3)) {
            outcome
                .measure(Quantity::Connections, used)
                .measure(Quantity::ConnectionsMax, max);
            if max > 0.0 {
                outcome.measure(Quantity::ConnectionsUsedRatio, used / max);
            }
        }
        match (self.settings.role, standby) {
            (Role::Primary, true) => {
                outcome.fail(
                    Reason::Assertion,
                    "the server is in recovery (a standby), not a primary",
                );
            }
            (Role::Standby, false) => {
                outcome.fail(Reason::Assertion, "the server is a primary, not a standby");
            }
            _ => {}
        }
    }

    /// The first row as texts. What comes after it is not read.
    async fn first_row(
        &self,
        client: &Client,
        query: &str,
    ) -> Result<Vec<Option<String>>, Failure> {
        let fail = |e: &tokio_postgres::Error| self.failure("the query", e);
        let stream = client.simple_query_raw(query).await.map_err(|e| fail(&e))?;
        tokio::pin!(stream);
        while let Some(message) = stream.next().await {
            if let SimpleQueryMessage::Row(row) = message.map_err(|e| fail(&e))? {
                return Ok((0..row.len())
                    .map(|at| row.get(at).map(str::to_owned))
                    .collect());
            }
        }
        Ok(Vec::new())
    }

    fn failure(&self, what: &str, error: &tokio_postgres::Error) -> Failure {
        let target = &self.settings.target;
        let Some(db) = error.as_db_error() else {
            let text = crate::text::chain(error);
            let reason = match text.contains("password missing") || text.contains("authentication")
            {
                true => Reason::Auth,
                false => Reason::Protocol,
            };
            return Failure::new(
                reason,
                format!("{what}: the conversation with {target} broke: {text}"),
            );
        };
        let code = db.code().code();
        let reason = match code {
            // Authentication, and a database or role that one may not use.
            _ if code.starts_with("28") || code == "42501" => Reason::Auth,
            // Out of time, as the transaction was begun.
            "57014" | "55P03" => Reason::Timeout,
            // Starting up, shutting down, in recovery; no connection left; out of disk or memory.
            _ if code.starts_with("57P") || code.starts_with("53") || code.starts_with("58") => {
                Reason::Status
            }
            _ => Reason::Assertion,
        };
        Failure::new(
            reason,
            format!("PostgreSQL answers: {} ({code})", db.message()),
        )
    }
}

impl Probe for Postgresql {
    fn kind(&self) -> CheckKind {
        CheckKind::Postgresql
    }
    fn ask(&self, deadline: Instant) -> Asking<'_> {
        Box::pin(async move { self.run(deadline).await.into() })
    }
}

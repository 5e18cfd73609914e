//! The redis probe: AUTH, PING and INFO in RESP2 (also spoken by Valkey and KeyDB).
//!
//! The protocol needs thirty lines, a client library thirty crates. What is told apart: no answer (*timeout*), a wrong or missing
//! password (*auth*: alive, but not for us), loading its data or waiting for its master (*status*), a failed write of its data
//! to disk (*assertion*), and something that is not Redis (*protocol*).

use keepwatch_model::check::{CheckKind, Reason};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::time::Instant;
use zeroize::Zeroize as _;

use super::{Asking, Probe, SettingsError};
use crate::net::tls::TlsSettings;
use crate::net::{Capped, Net, Target, Wire, broken};
use crate::outcome::{Failure, Outcome, Quantity};
use crate::secret::{Secret, SecretFile, read_optional, without};

/// One run reads at most this much: INFO is some 6 KB.
const ANSWER_MAX: u64 = 128 << 10;

/// What is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisSettings {
    /// Where.
    pub target: Target,
    /// Speak TLS, and whom to trust.
    #[serde(default)]
    pub tls: Option<TlsSettings>,
    /// User of an ACL; by default the default user.
    #[serde(default)]
    pub user: Option<String>,
    /// Password.
    #[serde(default)]
    pub password_file: Option<SecretFile>,
}

/// The probe.
pub struct Redis {
    net: Net,
    settings: RedisSettings,
}

impl Redis {
    /// Checks the settings.
    ///
    /// # Errors
    /// A user without a password.
    pub fn new(settings: RedisSettings, net: Net) -> Result<Self, SettingsError> {
        if settings.user.is_some() && settings.password_file.is_none() {
            return Err(SettingsError::new("user", "it needs a password_file"));
        }
        Ok(Self { net, settings })
    }

    async fn run(&self) -> Result<Outcome, Failure> {
        let password = read_optional(self.settings.password_file.as_ref()).await?;
        let secrets: Vec<&Secret> = password.iter().collect();
        without(&secrets, self.talk(password.as_ref()).await)
    }

    async fn talk(&self, password: Option<&Secret>) -> Result<Outcome, Failure> {
        let target = &self.settings.target;
        let mut outcome = Outcome::success();
        let wire = match &self.settings.tls {
            Some(tls) => {
                let secured = self.net.connect_tls(target, tls).await?;
                super::http::measure_end(&mut outcome, secured.not_after, self.net.now());
                secured.wire
            }
            None => self.net.connect(target).await?,
        };
        let mut talk = Talk {
            wire: BufReader::new(Capped::new(wire, ANSWER_MAX)),
            target,
        };
        if let Some(password) = password {
            let mut words = vec!["AUTH"];
            words.extend(self.settings.user.as_deref());
            words.push(password.expose());
            talk.ask(&words).await.map_err(|f| login(target, f))?;
        }
        match talk.ask(&["PING"]).await? {
            Reply::Text(pong) if pong == b"PONG" => {}
            other => {
                return Err(Failure::new(
                    Reason::Protocol,
                    format!("{target} answers PING with {other}"),
                ));
            }
        }
        match talk.ask(&["INFO"]).await {
            Ok(Reply::Text(info)) => self.info(&String::from_utf8_lossy(&info), &mut outcome),
            Ok(other) => {
                return Err(Failure::new(
                    Reason::Protocol,
                    format!("{target} answers INFO with {other}"),
                ));
            }
            // An ACL that allows PING only.
            Err(f) if f.reason == Reason::Auth => {}
            Err(f) => return Err(f),
        }
        Ok(outcome)
    }

    fn info(&self, info: &str, outcome: &mut Outcome) {
        let field = |name: &str| {
            info.lines()
                .find_map(|l| l.trim_end().strip_prefix(name)?.strip_prefix(':'))
        };
        let number = |name| field(name).and_then(|v| v.parse::<f64>().ok());
        if let Some(used) = number("used_memory") {
            outcome.measure(Quantity::RedisMemoryBytes, used);
            if let Some(max) = number("maxmemory").filter(|m| *m > 0.0) {
                outcome.measure(Quantity::RedisMemoryRatio, used / max);
            }
        }
        if let Some(n) = number("connected_clients") {
            outcome.measure(Quantity::Connections, n);
        }
        if let Some(n) = number("maxclients") {
            outcome.measure(Quantity::ConnectionsMax, n);
        }
        if field("loading") == Some("1") || field("async_loading") == Some("1") {
            outcome.fail(Reason::Status, "Redis is loading its data");
        }
        for (name, what) in [
            (
                "rdb_last_bgsave_status",
                "its last snapshot could not be written to disk",
            ),
            (
                "aof_last_write_status",
                "its last write to the append-only file failed",
            ),
            (
                "aof_last_bgrewrite_status",
                "its append-only file could not be rewritten",
            ),
        ] {
            if field(name).is_some_and(|v| v != "ok") {
                outcome.fail(
                    Reason::Assertion,
                    format!("Redis works, but {what} ({name})"),
                );
            }
        }
        if field("role") == Some("slave") && field("master_link_status") == Some("down") {
            outcome.fail(
                Reason::Assertion,
                "Redis is a replica without a link to its master",
            );
        }
    }
}

/// What a text begins with that repeats what Redis says.
const SAYS: &str = "Redis answers: ";

struct Talk<'a> {
    wire: BufReader<Capped<Wire>>,
    target: &'a Target,
}

enum Reply {
    Text(Vec<u8>),
    Number(i64),
    Nil,
}

impl std::fmt::Display for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(t) => write!(f, "{:?}", crate::text::clean_bytes(&t[..t.len().min(60)])),
            Self::Number(n) => write!(f, "the number {n}"),
            Self::Nil => f.write_str("nothing"),
        }
    }
}

impl Talk<'_> {
    async fn ask(&mut self, words: &[&str]) -> Result<Reply, Failure> {
        let mut bytes = format!("*{}\r\n", words.len());
        for w in words {
            bytes.push_str(&format!("${}\r\n{w}\r\n", w.len()));
        }
        let sent = async {
            self.wire.write_all(bytes.as_bytes()).await?;
            self.wire.flush().await
        }
        .await;
        bytes.zeroize();
        sent.map_err(|e| broken(self.target, &e))?;
        self.reply().await
    }

    async fn reply(&mut self) -> Result<Reply, Failure> {
        let protocol = |what: &str| {
            Failure::new(
                Reason::Protocol,
                format!("the answer of {} is not Redis: {what}", self.target),
            )
        };
        let mut line = Vec::new();
        // The cap of the stream bounds a line without end.
        self.wire
            .read_until(b'\n', &mut line)
            .await
            .map_err(|e| broken(self.target, &e))?;
        let Some(line) = line.strip_suffix(b"\r\n") else {
            return Err(if line.is_empty() {
                Failure::new(
                    Reason::Protocol,
                    format!("{} closed the connection without an answer", self.target),
                )
            } else {
                protocol(&crate::text::clean_bytes(&line[..line.len().min(60)]))
            });
        };
        let Some((kind, rest)) = line.split_first() else {
            return Err(protocol("an empty line"));
        };
        let number = || {
            std::str::from_utf8(rest)
                .ok()
                .and_then(|t| t.parse::<i64>().ok())
        };
        match kind {
            b'+' => Ok(Reply::Text(rest.to_vec())),
            b'-' => Err(refusal(rest)),
            b':' => number()
                .map(Reply::Number)
                .ok_or_else(|| protocol("a number that is none")),
            b'$' => match number() {
                Some(-1) => Ok(Reply::Nil),
                Some(n) if (0..=ANSWER_MAX as i64).contains(&n) => {
                    let mut text = vec![0; usize::try_from(n).unwrap_or(0) + 2];
                    self.wire
                        .read_exact(&mut text)
                        .await
                        .map_err(|e| broken(self.target, &e))?;
                    text.truncate(text.len() - 2);
                    Ok(Reply::Text(text))
                }
                _ => Err(protocol("a length that is none or too large")),
            },
            _ => Err(protocol(&crate::text::clean_bytes(
                &line[..line.len().min(60)],
            ))),
        }
    }
}

/// What came of AUTH, in our words: Redis may repeat the password, whole or cut (`unknown command 'AUTH', with args beginning with: …`).
fn login(target: &Target, failure: Failure) -> Failure {
    let Some(said) = failure.text.strip_prefix(SAYS) else {
        return match failure.reason {
            Reason::Protocol => Failure::new(
                Reason::Protocol,
                format!("the answer of {target} to AUTH is not Redis"),
            ),
            _ => failure,
        };
    };
    let word = said.split(' ').next().unwrap_or_default();
    let is_code = word.len() <= 16 && word.bytes().all(|b| b.is_ascii_uppercase());
    let word = if is_code { word } else { "an error" };
    Failure::new(failure.reason, format!("{SAYS}{word} to AUTH"))
}

/// What an error reply means, by its first word.
fn refusal(text: &[u8]) -> Failure {
    let text = crate::text::clean_bytes(text);
    let reason = match text.split(' ').next().unwrap_or("") {
        "NOAUTH" | "WRONGPASS" | "NOPERM" | "DENIED" => Reason::Auth,
        // An old server without a password that gets one, or the reverse.
        "ERR" if text.contains("AUTH") || text.contains("password") => Reason::Auth,
        _ => Reason::Status,
    };
    Failure::new(reason, format!("{SAYS}{text}"))
}

impl Probe for Redis {
    fn kind(&self) -> CheckKind {
        CheckKind::Redis
    }
    fn ask(&self, _: Instant) -> Asking<'_> {
        Box::pin(async { self.run().await.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auth_is_told_in_our_words() {
        let target: Target = "h:1".parse().unwrap();
        for (text, told) in [
            (
                "ERR unknown command 'AUTH', with args beginning with: 'geheim",
                "Redis answers: ERR to AUTH",
            ),
            ("WRONGPASS geheim", "Redis answers: WRONGPASS to AUTH"),
            ("geheim", "Redis answers: an error to AUTH"),
        ] {
            assert_eq!(login(&target, refusal(text.as_bytes())).text, told);
        }
    }

    #[test]
    fn refusals_by_table() {
        for (text, reason) in [
            ("NOAUTH Authentication required.", Reason::Auth),
            (
                "WRONGPASS invalid username-password pair or user is disabled.",
                Reason::Auth,
            ),
            (
                "ERR AUTH <password> called without any password configured",
                Reason::Auth,
            ),
            ("ERR invalid password", Reason::Auth),
            (
                "LOADING Redis is loading the dataset in memory",
                Reason::Status,
            ),
            ("MASTERDOWN Link with MASTER is down", Reason::Status),
            ("ERR max number of clients reached", Reason::Status),
        ] {
            assert_eq!(refusal(text.as_bytes()).reason, reason, "{text}");
        }
    }
}

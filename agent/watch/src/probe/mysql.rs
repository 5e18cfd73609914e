//! The mysql probe: handshake, log-in and one query, for MySQL and MariaDB.
//!
//! A health check needs a greeting, a password and one value; the client libraries bring pools, types and prepared statements
//! and forty crates. So the protocol is spoken here: packets of `length:3 sequence:1 payload`, the handshake of version 10,
//! `mysql_native_password`, `caching_sha2_password` (its full form only over TLS or a unix socket, because it sends the
//! password itself) and a text query. What the server sends is bounded and foreign.

use keepwatch_model::check::{CheckKind, Reason};
use serde::{Deserialize, Serialize};
use sha1::{Digest as _, Sha1};
use sha2::Sha256;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;
use zeroize::Zeroize as _;

use super::{Asking, Probe, SettingsError};
use crate::net::tls::TlsSettings;
use crate::net::{Capped, Net, READ_MAX, Target, Wire, broken};
use crate::outcome::{Failure, Outcome};
use crate::secret::{Secret, SecretFile, read_optional};

/// The largest packet that is accepted, in bytes.
const PACKET_MAX: usize = 64 << 10;
/// Packets of one answer: columns, rows before we stop.
const PACKETS_MAX: usize = 64;

const CONNECT_WITH_DB: u32 = 1 << 3;
const PROTOCOL_41: u32 = 1 << 9;
const SSL: u32 = 1 << 11;
const SECURE_CONNECTION: u32 = 1 << 15;
const PLUGIN_AUTH: u32 = 1 << 19;
const LONG_PASSWORD: u32 = 1;
const UTF8MB4: u8 = 45;

/// What is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MysqlSettings {
    /// Where.
    pub target: Target,
    /// Insist on TLS, and whom to trust.
    #[serde(default)]
    pub tls: Option<TlsSettings>,
    /// The user.
    pub user: String,
    /// The database.
    #[serde(default)]
    pub database: Option<String>,
    /// The password.
    #[serde(default)]
    pub password_file: Option<SecretFile>,
    /// `SELECT 1` by default; the first column of the first row is the answer.
    #[serde(default)]
    pub query: Option<String>,
    /// What the answer must be, as text.
    #[serde(default)]
    pub expect: Option<String>,
}

/// The probe.
pub struct Mysql {
    net: Net,
    settings: MysqlSettings,
}

impl Mysql {
    /// Checks the settings.
    ///
    /// # Errors
    /// A user, database or query that cannot be sent.
    pub fn new(settings: MysqlSettings, net: Net) -> Result<Self, SettingsError> {
        if settings.user.is_empty() || settings.user.contains('\0') {
            return Err(SettingsError::new(
                "user",
                "it is empty or holds a zero byte",
            ));
        }
        if settings.database.as_ref().is_some_and(|d| d.contains('\0')) {
            return Err(SettingsError::new("database", "it holds a zero byte"));
        }
        if settings.query.as_ref().is_some_and(|q| q.len() > 4096) {
            return Err(SettingsError::new("query", "it is longer than 4096 bytes"));
        }
        Ok(Self { net, settings })
    }

    async fn run(&self) -> Result<Outcome, Failure> {
        let s = &self.settings;
        let password = read_optional(s.password_file.as_ref()).await?;
        let mut outcome = Outcome::success();
        let wire: Wire = Box::new(Capped::new(self.net.connect(&s.target).await?, READ_MAX));
        let mut talk = Talk {
            wire,
            target: &s.target,
            sequence: 0,
        };
        let hello =
            Hello::parse(&talk.read().await?).ok_or_else(|| talk.protocol("its greeting"))?;
        let mut flags = PROTOCOL_41 | SECURE_CONNECTION | PLUGIN_AUTH | LONG_PASSWORD;
        if s.database.is_some() {
            flags |= CONNECT_WITH_DB;
        }
        let mut private = matches!(s.target, Target::Unix(_));
        if let Some(tls) = &s.tls {
            if hello.flags & SSL == 0 {
                return Err(Failure::new(
                    Reason::Tls,
                    format!("{} does not speak TLS", s.target),
                ));
            }
            flags |= SSL;
            talk.write(&head(flags)).await?;
            let secured = self.net.secure(talk.wire, &s.target, tls).await?;
            super::http::measure_end(&mut outcome, secured.not_after, self.net.now());
            talk = Talk {
                wire: secured.wire,
                target: &s.target,
                sequence: talk.sequence,
            };
            private = true;
        }
        self.log_in(&mut talk, &hello, flags, password.as_ref(), private)
            .await?;
        let answer = talk.query(s.query.as_deref().unwrap_or("SELECT 1")).await?;
        if let Some(expected) = s.expect.as_ref().filter(|e| Some(*e) != answer.as_ref()) {
            let answer = answer.map_or("nothing".into(), |a| {
                format!("{:?}", crate::text::clean_to(&a, 60))
            });
            outcome.fail(
                Reason::Assertion,
                format!("the query answers {answer}, not {expected:?}"),
            );
        }
        Ok(outcome)
    }

    async fn log_in(
        &self,
        talk: &mut Talk<'_>,
        hello: &Hello,
        flags: u32,
        password: Option<&Secret>,
        private: bool,
    ) -> Result<(), Failure> {
        let s = &self.settings;
        let secret = password.map_or("", Secret::expose);
        let mut plugin = match hello.plugin.as_str() {
            "caching_sha2_password" => Plugin::Sha2,
            _ => Plugin::Native,
        };
        let mut packet = head(flags);
        packet.extend_from_slice(s.user.as_bytes());
        packet.push(0);
        let proof = plugin.proof(secret, &hello.salt);
        packet.push(u8::try_from(proof.len()).unwrap_or(0));
        packet.extend_from_slice(&proof);
        if let Some(database) = &s.database {
            packet.extend_from_slice(database.as_bytes());
            packet.push(0);
        }
        packet.extend_from_slice(plugin.name().as_bytes());
        packet.push(0);
        talk.write(&packet).await?;
        // Each step of the dialogue is one packet; no server needs more than these.
        for _ in 0..6 {
            let answer = talk.read().await?;
            match answer.first() {
                Some(0x00) => return Ok(()),
                Some(0xff) => return Err(refusal(&answer)),
                // Another plugin: name and salt.
                Some(0xfe) => {
                    let rest = &answer[1..];
                    let end = rest.iter().position(|b| *b == 0).unwrap_or(rest.len());
                    let name = &rest[..end];
                    plugin = match name {
                        b"mysql_native_password" => Plugin::Native,
                        b"caching_sha2_password" => Plugin::Sha2,
                        other => {
                            let name = crate::text::clean_bytes(other);
                            return Err(Failure::new(
                                Reason::Auth,
                                format!(
                                    "the server wants the authentication {name:?}, which is not supported"
                                ),
                            ));
                        }
                    };
                    let salt = rest.get(end + 1..).unwrap_or(&[]);
                    let salt = &salt[..salt.len().min(20)];
                    talk.write(&plugin.proof(secret, salt)).await?;
                }
                Some(0x01) if plugin == Plugin::Sha2 => match answer.get(1) {
                    Some(3) => {}
                    Some(4) if private => {
                        let mut text = secret.as_bytes().to_vec();
                        text.push(0);
                        let sent = talk.write(&text).await;
                        text.zeroize();
                        sent?;
                    }
                    _ => {
                        return Err(Failure::new(
                            Reason::Auth,
                            "the server wants the password itself (caching_sha2_password); use TLS or the unix socket",
                        ));
                    }
                },
                _ => return Err(talk.protocol("its answer to the log-in")),
            }
        }
        Err(talk.protocol("a log-in without end"))
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Plugin {
    Native,
    Sha2,
}

impl Plugin {
    fn name(self) -> &'static str {
        match self {
            Self::Native => "mysql_native_password",
            Self::Sha2 => "caching_sha2_password",
        }
    }

    /// What proves the password without telling it.
    fn proof(self, password: &str, salt: &[u8]) -> Vec<u8> {
        if password.is_empty() {
            return Vec::new();
        }
        match self {
            // SHA1(p) XOR SHA1(salt ‖ SHA1(SHA1(p)))
            Self::Native => {
                let once = Sha1::digest(password.as_bytes());
                let twice = Sha1::digest(once);
                let mask = Sha1::new()
                    .chain_update(salt)
                    .chain_update(twice)
                    .finalize();
                once.iter().zip(mask).map(|(a, b)| a ^ b).collect()
            }
            // SHA256(p) XOR SHA256(SHA256(SHA256(p)) ‖ salt)
            Self::Sha2 => {
                let once = Sha256::digest(password.as_bytes());
                let twice = Sha256::digest(once);
                let mask = Sha256::new()
                    .chain_update(twice)
                    .chain_update(salt)
                    .finalize();
                once.iter().zip(mask).map(|(a, b)| a ^ b).collect()
            }
        }
    }
}

/// The beginning that a request for TLS and a log-in share.
fn head(flags: u32) -> Vec<u8> {
    let mut out = flags.to_le_bytes().to_vec();
    out.extend_from_slice(&(PACKET_MAX as u32).to_le_bytes());
    out.push(UTF8MB4);
    out.extend_from_slice(&[0; 23]);
    out
}

/// The server's greeting.
#[derive(Debug, PartialEq)]
struct Hello {
    flags: u32,
    salt: Vec<u8>,
    plugin: String,
}

impl Hello {
    fn parse(packet: &[u8]) -> Option<Self> {
        if packet.first() != Some(&10) {
            return None;
        }
        let version = packet.iter().position(|b| *b == 0)?;
        // Connection id 4, salt 8, filler 1, flags 2, charset 1, status 2, flags 2, length 1, reserved 10, salt 12 and more.
        let rest = packet.get(version + 5..)?;
        let mut salt = rest.get(..8)?.to_vec();
        let low = u16::from_le_bytes(rest.get(9..11)?.try_into().ok()?);
        let high = u16::from_le_bytes(rest.get(14..16)?.try_into().ok()?);
        let flags = u32::from(low) | u32::from(high) << 16;
        if flags & PROTOCOL_41 == 0 {
            return None;
        }
        let length = usize::from(*rest.get(16)?).saturating_sub(8).max(13);
        let second = rest.get(27..27 + length.min(rest.len().checked_sub(27)?))?;
        salt.extend(second.iter().take(12));
        let plugin = rest.get(27 + length..).unwrap_or(&[]);
        let plugin = plugin.split(|b| *b == 0).next().unwrap_or(&[]);
        Some(Self {
            flags,
            salt,
            plugin: String::from_utf8_lossy(plugin).into_owned(),
        })
    }
}

struct Talk<'a> {
    wire: Wire,
    target: &'a Target,
    sequence: u8,
}

impl Talk<'_> {
    fn protocol(&self, what: &str) -> Failure {
        Failure::new(
            Reason::Protocol,
            format!(
                "{} does not answer as MySQL does: {what} cannot be understood",
                self.target
            ),
        )
    }

    async fn write(&mut self, payload: &[u8]) -> Result<(), Failure> {
        let length = u32::try_from(payload.len())
            .unwrap_or(u32::MAX)
            .to_le_bytes();
        let mut packet = vec![length[0], length[1], length[2], self.sequence];
        packet.extend_from_slice(payload);
        self.sequence = self.sequence.wrapping_add(1);
        let sent = async {
            self.wire.write_all(&packet).await?;
            self.wire.flush().await
        }
        .await;
        packet.zeroize();
        sent.map_err(|e| broken(self.target, &e))
    }

    async fn read(&mut self) -> Result<Vec<u8>, Failure> {
        let mut head = [0; 4];
        let target = self.target;
        let fail = |e: std::io::Error| broken(target, &e);
        self.wire.read_exact(&mut head).await.map_err(fail)?;
        let length = usize::from(head[0]) | usize::from(head[1]) << 8 | usize::from(head[2]) << 16;
        if length > PACKET_MAX {
            return Err(self.protocol("a packet of that size"));
        }
        self.sequence = head[3].wrapping_add(1);
        let mut payload = vec![0; length];
        self.wire.read_exact(&mut payload).await.map_err(fail)?;
        if self.sequence == 1 && payload.first() == Some(&0xff) {
            // Refused before any greeting: too many connections, host blocked.
            return Err(refusal(&payload));
        }
        Ok(payload)
    }

    /// The first column of the first row.
    async fn query(&mut self, text: &str) -> Result<Option<String>, Failure> {
        self.sequence = 0;
        let mut packet = vec![3];
        packet.extend_from_slice(text.as_bytes());
        self.write(&packet).await?;
        let first = self.read().await?;
        match first.first() {
            Some(0xff) => return Err(refusal(&first)),
            // No rows: an OK packet.
            Some(0x00) | None => return Ok(None),
            Some(_) => {}
        }
        let mut ends = 0;
        for _ in 0..PACKETS_MAX {
            let packet = self.read().await?;
            match packet.first() {
                Some(0xff) => return Err(refusal(&packet)),
                Some(0xfe) if packet.len() < 9 => {
                    ends += 1;
                    // After the columns, after the rows.
                    if ends == 2 {
                        return Ok(None);
                    }
                }
                _ if ends == 0 => {}
                _ => {
                    return column(&packet).ok_or_else(|| self.protocol("a row"));
                }
            }
        }
        Err(self.protocol("so many columns"))
    }
}

/// The first length-encoded text of a row; the outer none is a row that is none.
fn column(row: &[u8]) -> Option<Option<String>> {
    let (first, rest) = row.split_first()?;
    let (length, rest) = match first {
        0xfb => return Some(None),
        0xfc => (
            usize::from(u16::from_le_bytes(rest.get(..2)?.try_into().ok()?)),
            rest.get(2..)?,
        ),
        n if *n < 0xfb => (usize::from(*n), rest),
        // Larger than a packet may be.
        _ => return None,
    };
    Some(Some(
        String::from_utf8_lossy(rest.get(..length)?).into_owned(),
    ))
}

/// What an error packet means: `ff code:2 [#sqlstate:5] text`.
fn refusal(packet: &[u8]) -> Failure {
    let code = packet
        .get(1..3)
        .and_then(|b| Some(u16::from_le_bytes(b.try_into().ok()?)))
        .unwrap_or(0);
    let text = packet.get(3..).unwrap_or(&[]);
    let text = match text.first() {
        Some(b'#') => text.get(6..).unwrap_or(&[]),
        _ => text,
    };
    let reason = match code {
        // Access denied, to the server, a database, a table; password expired; unknown plugin.
        1044 | 1045 | 1142 | 1227 | 1251 | 1698 | 1820 | 1862 | 3118 | 3159 => Reason::Auth,
        // Too many connections, host blocked or not allowed, out of memory, shutting down, disk full.
        1037..=1041 | 1053 | 1129 | 1130 | 1203 | 1226 | 1021 => Reason::Status,
        _ => Reason::Assertion,
    };
    Failure::new(
        reason,
        format!(
            "the server answers: {} ({code})",
            crate::text::clean_bytes(text)
        ),
    )
}

impl Probe for Mysql {
    fn kind(&self) -> CheckKind {
        CheckKind::Mysql
    }
    fn ask(&self, _: Instant) -> Asking<'_> {
        Box::pin(async { self.run().await.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn proofs_undo_themselves_as_the_server_does() {
        // The server keeps H(H(p)) and must get H(p) from the proof.
        let salt = b"01234567890123456789";
        let proof = Plugin::Native.proof("secret", salt);
        let stored = Sha1::digest(Sha1::digest(b"secret"));
        let mask = Sha1::new()
            .chain_update(salt)
            .chain_update(stored)
            .finalize();
        let once: Vec<u8> = proof.iter().zip(mask).map(|(a, b)| a ^ b).collect();
        assert_eq!(hex(&Sha1::digest(&once)), hex(&stored));
        let proof = Plugin::Sha2.proof("secret", salt);
        let stored = Sha256::digest(Sha256::digest(b"secret"));
        let mask = Sha256::new()
            .chain_update(stored)
            .chain_update(salt)
            .finalize();
        let once: Vec<u8> = proof.iter().zip(mask).map(|(a, b)| a ^ b).collect();
        assert_eq!(hex(&Sha256::digest(&once)), hex(&stored));
        assert!(Plugin::Native.proof("", salt).is_empty());
    }

    #[test]
    fn refusals_by_table() {
        for (code, reason) in [
            (1045u16, Reason::Auth),
            (1040, Reason::Status),
            (1049, Reason::Assertion),
        ] {
            let mut p = vec![0xff];
            p.extend(code.to_le_bytes());
            p.extend(b"#28000No\nway");
            let f = refusal(&p);
            assert_eq!(f.reason, reason);
            assert!(f.text.contains(&format!("No way ({code})")), "{}", f.text);
        }
        assert_eq!(refusal(&[0xff]).reason, Reason::Assertion);
    }

    #[test]
    fn columns_by_table() {
        assert_eq!(column(b"\x011"), Some(Some("1".into())));
        assert_eq!(column(b"\xfb"), Some(None));
        assert_eq!(column(b"\xfc\x02\x00ab"), Some(Some("ab".into())));
        assert_eq!(column(b"\x05ab"), None);
        assert_eq!(column(b"\xfdaaaaaaa"), None);
        assert_eq!(column(b""), None);
    }

    proptest! {
        #[test]
        fn never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (column(&bytes), refusal(&bytes), Hello::parse(&bytes));
            bytes.insert(0, 10);
            let _ = Hello::parse(&bytes);
        }
    }
}

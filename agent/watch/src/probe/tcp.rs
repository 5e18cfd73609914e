//! The tcp probe: a connection is accepted, and what is said in greeting is right.
//!
//! A connection alone proves little: the kernel accepts for a server that hangs. So a greeting can be expected (SMTP, SSH,
//! FTP…), after a line that is sent when the service speaks second.

use keepwatch_model::check::{CheckKind, Reason};
use regex::bytes::Regex;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

use super::{Asking, Probe, SettingsError};
use crate::net::tls::TlsSettings;
use crate::net::{Net, Target, broken};
use crate::outcome::{Failure, Outcome};

/// A greeting is looked for in so many first bytes.
const GREETING_MAX: usize = 4096;

/// What is connected to and expected.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcpSettings {
    /// Where.
    pub target: Target,
    /// Speak TLS, and whom to trust.
    #[serde(default)]
    pub tls: Option<TlsSettings>,
    /// Text to send first, with its line end.
    #[serde(default)]
    pub send: Option<String>,
    /// Expression that the first 4 KiB of the answer must match.
    #[serde(default)]
    pub expect: Option<String>,
}

/// The probe.
pub struct Tcp {
    net: Net,
    settings: TcpSettings,
    expect: Option<Regex>,
}

impl Tcp {
    /// Checks the settings.
    ///
    /// # Errors
    /// An expression that is none; something to send that is too long.
    pub fn new(settings: TcpSettings, net: Net) -> Result<Self, SettingsError> {
        if settings
            .send
            .as_ref()
            .is_some_and(|s| s.len() > GREETING_MAX)
        {
            return Err(SettingsError::new("send", "it is longer than 4096 bytes"));
        }
        let expect = settings.expect.as_deref().map(Regex::new).transpose();
        let expect =
            expect.map_err(|e| SettingsError::new("expect", crate::text::clean(&e.to_string())))?;
        Ok(Self {
            net,
            settings,
            expect,
        })
    }

    async fn run(&self) -> Result<Outcome, Failure> {
        let mut outcome = Outcome::success();
        let target = &self.settings.target;
        let mut wire = match &self.settings.tls {
            Some(tls) => {
                let secured = self.net.connect_tls(target, tls).await?;
                super::http::measure_end(&mut outcome, secured.not_after, self.net.now());
                secured.wire
            }
            None => self.net.connect(target).await?,
        };
        let fail = |e: std::io::Error| broken(target, &e);
        if let Some(text) = &self.settings.send {
            wire.write_all(text.as_bytes()).await.map_err(fail)?;
            wire.flush().await.map_err(fail)?;
        }
        let Some(expect) = &self.expect else {
            return Ok(outcome);
        };
        let mut greeting = Vec::with_capacity(GREETING_MAX);
        while greeting.len() < GREETING_MAX {
            let room = (GREETING_MAX - greeting.len()) as u64;
            let read = (&mut wire)
                .take(room)
                .read_buf(&mut greeting)
                .await
                .map_err(fail)?;
            if expect.is_match(&greeting) {
                return Ok(outcome);
            }
            if read == 0 {
                break;
            }
        }
        outcome.fail(
            Reason::Assertion,
            format!(
                "{target} said {:?}, which does not match {expect}",
                crate::text::clean_bytes(&greeting)
            ),
        );
        Ok(outcome)
    }
}

impl Probe for Tcp {
    fn kind(&self) -> CheckKind {
        CheckKind::Tcp
    }
    fn ask(&self, _: Instant) -> Asking<'_> {
        Box::pin(async { self.run().await.into() })
    }
}

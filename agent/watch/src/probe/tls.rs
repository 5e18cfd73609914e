//! The tls probe: how long the certificates of a host or a file are still valid.
//!
//! Limits are bands on `tls_seconds_left`. A certificate that has ended already is a failure without any band. At a host the
//! certificate can be verified as a client would (the default), or only looked at.

use std::path::PathBuf;

use keepwatch_model::check::{CheckKind, Reason};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::http::measure_end;
use super::{Asking, Probe, SettingsError};
use crate::net::tls::{TlsSettings, certificates, earliest_end, handshake, looking_only};
use crate::net::{Net, Target};
use crate::outcome::{Failure, Outcome};

/// What is looked at: a host or a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsProbeSettings {
    /// A server that speaks TLS at once.
    #[serde(default)]
    pub target: Option<Target>,
    /// A PEM or DER file.
    #[serde(default)]
    pub file: Option<PathBuf>,
    /// Whether the server's certificate must also be trusted and for its name.
    #[serde(default = "yes")]
    pub verify: bool,
    /// Whom to trust.
    #[serde(default)]
    pub tls: TlsSettings,
}

fn yes() -> bool {
    true
}

/// The probe.
pub struct Tls {
    net: Net,
    settings: TlsProbeSettings,
}

impl Tls {
    /// Checks the settings.
    ///
    /// # Errors
    /// Both a target and a file, or neither.
    pub fn new(settings: TlsProbeSettings, net: Net) -> Result<Self, SettingsError> {
        if settings.target.is_some() == settings.file.is_some() {
            return Err(SettingsError::new(
                "target",
                "give either a target or a file",
            ));
        }
        Ok(Self { net, settings })
    }

    async fn run(&self) -> Result<Outcome, Failure> {
        let s = &self.settings;
        let end = match (&s.target, &s.file) {
            (Some(target), _) if s.verify => self.net.connect_tls(target, &s.tls).await?.not_after,
            (Some(target), _) => {
                let wire = self.net.connect(target).await?;
                let name = s.tls.server_name.as_deref().unwrap_or(target.host());
                handshake(wire, looking_only()?, name).await?.not_after
            }
            (None, Some(file)) => earliest_end(certificates(file).await?.iter().map(AsRef::as_ref)),
            (None, None) => None,
        };
        let end = end.ok_or_else(|| {
            Failure::new(
                Reason::Protocol,
                "the certificate does not say when it ends",
            )
        })?;
        let now = self.net.now();
        let mut outcome = Outcome::success();
        measure_end(&mut outcome, Some(end), now);
        if end <= now {
            outcome.fail(Reason::Tls, format!("the certificate ended at {end}"));
        }
        Ok(outcome)
    }
}

impl Probe for Tls {
    fn kind(&self) -> CheckKind {
        CheckKind::Tls
    }
    fn ask(&self, _: Instant) -> Asking<'_> {
        Box::pin(async { self.run().await.into() })
    }
}

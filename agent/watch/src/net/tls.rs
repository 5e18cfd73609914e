//! TLS to probed services: the host's trust store or a CA of one's own, and what the server's chain says of its end.
//!
//! Sessions are never resumed: each run must see and verify the certificate again, and no cache grows.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use keepwatch_model::check::Reason;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;

use super::{Wire, der};
use crate::clock::At;
use crate::outcome::Failure;

/// The largest file of CA certificates, in bytes.
const CA_FILE_MAX: u64 = 4 << 20;

/// Whom to trust.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsSettings {
    /// Trust only the certificates of this PEM file instead of the host's.
    pub ca_file: Option<PathBuf>,
    /// The name that the certificate must have, when it is not the host of the target.
    pub server_name: Option<String>,
}

/// What is shared by all runs.
#[derive(Debug, Default)]
pub struct Trust {
    host: OnceCell<Arc<ClientConfig>>,
}

/// A TLS connection, and when the first certificate of its chain ends.
pub struct Secured {
    /// The stream.
    pub wire: Wire,
    /// The earliest end in the chain that the server sent.
    pub not_after: Option<At>,
}

impl Trust {
    /// The configuration for these settings.
    ///
    /// # Errors
    /// [`Reason::Exec`] when the CA file cannot be read or holds no certificate.
    pub async fn config(&self, settings: &TlsSettings) -> Result<Arc<ClientConfig>, Failure> {
        match &settings.ca_file {
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(path).await? {
                    roots.add(certificate).map_err(|e| {
                        Failure::because(
                            Reason::Exec,
                            &format!("a certificate in {} cannot be used", path.display()),
                            &e,
                        )
                    })?;
                }
                client(roots)
            }
            None => self
                .host
                .get_or_try_init(|| async {
                    // Reads some 300 KB of files: once, off the event loop.
                    let found = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs)
                        .await
                        .map_err(|e| Failure::because(Reason::Internal, "reading the trust store", &e))?;
                    let mut roots = RootCertStore::empty();
                    roots.add_parsable_certificates(found.certs);
                    if roots.is_empty() {
                        return Err(Failure::new(
                            Reason::Tls,
                            "the host has no trusted certificates (set SSL_CERT_FILE, or ca_file of the check)",
                        ));
                    }
                    client(roots)
                })
                .await
                .cloned(),
        }
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn client(roots: RootCertStore) -> Result<Arc<ClientConfig>, Failure> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| Failure::because(Reason::Internal, "TLS versions", &e))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// A configuration that looks at certificates and trusts any: for checks of the end of a certificate that is not trusted here
/// (self-signed, private CA). Nothing secret is sent over such a connection.
///
/// # Errors
/// None in practice; a fault of the TLS library is [`Reason::Internal`].
pub fn looking_only() -> Result<Arc<ClientConfig>, Failure> {
    let provider = provider();
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| Failure::because(Reason::Internal, "TLS versions", &e))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(LookingOnly(provider)))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct LookingOnly(Arc<CryptoProvider>);

impl ServerCertVerifier for LookingOnly {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Certificates of a PEM or DER file.
///
/// # Errors
/// [`Reason::Exec`] when it cannot be read, is too long, or holds none.
pub async fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    use tokio::io::AsyncReadExt as _;
    let fail = |why: String| {
        Failure::new(
            Reason::Exec,
            format!("cannot read certificates from {}: {why}", path.display()),
        )
    };
    let file = tokio::fs::File::open(path)
        .await
        .map_err(|e| fail(e.to_string()))?;
    let mut bytes = Vec::new();
    file.take(CA_FILE_MAX + 1)
        .read_to_end(&mut bytes)
        .await
        .map_err(|e| fail(e.to_string()))?;
    if bytes.len() as u64 > CA_FILE_MAX {
        return Err(fail("it is longer than 4 MiB".into()));
    }
    if der::validity(&bytes).is_some() {
        return Ok(vec![CertificateDer::from(bytes)]);
    }
    let found: Vec<_> = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|e| fail(e.to_string()))?;
    if found.is_empty() {
        return Err(fail("it holds none".into()));
    }
    Ok(found)
}

/// The handshake.
///
/// # Errors
/// [`Reason::Tls`]: the name is not one, the certificate is not trusted, has ended, is for another name; the handshake broke.
pub async fn handshake(
    wire: Wire,
    config: Arc<ClientConfig>,
    name: &str,
) -> Result<Secured, Failure> {
    let server = ServerName::try_from(name.to_owned()).map_err(|_| {
        Failure::new(
            Reason::Tls,
            format!("{name:?} is not a name that a certificate can have"),
        )
    })?;
    let stream = TlsConnector::from(config)
        .connect(server, wire)
        .await
        .map_err(|e| {
            let what = format!("the TLS handshake with {name} failed");
            // The library has no sentence for it.
            if crate::text::chain(&e).contains("CaUsedAsEndEntity") {
                let why = "it shows the certificate of an authority as its own (self-signed, CA:TRUE); give it one that is signed by that authority";
                return Failure::new(Reason::Tls, format!("{what}: {why}"));
            }
            Failure::because(Reason::Tls, &what, &e)
        })?;
    let not_after = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| earliest_end(chain.iter().map(AsRef::as_ref)));
    Ok(Secured {
        wire: Box::new(stream),
        not_after,
    })
}

/// The first end of these certificates.
pub fn earliest_end<'a>(chain: impl Iterator<Item = &'a [u8]>) -> Option<At> {
    chain.filter_map(|c| der::validity(c).map(|v| v.1)).min()
}

//! One HTTP/1.1 exchange on a fresh connection, within limits.
//!
//! Few messages are sent, so no connection is kept: one that a firewall forgot about would cost the first message of an incident.
//! Redirects are not followed, since a secret URL or token would go where nobody meant it to. Names are resolved by the host's
//! resolver in a thread, and only [`RESOLVING`] at once; certificates are those that the host trusts, or of a file.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::header::{
    CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT,
};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{OnceCell, Semaphore};
use tokio_rustls::TlsConnector;
use zeroize::Zeroize as _;

use crate::fault::{Fault, of_io};
use crate::limits::{ADDRESSES, ANSWER, RESOLVING};
use crate::secret::Secret;

/// Bytes of the head of an answer.
const HEAD: usize = 16 << 10;
/// Headers of an answer.
const HEADERS: usize = 64;
/// The largest file of CA certificates, in bytes.
const CA_FILE: u64 = 4 << 20;

/// What a stream must be.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send + Sync {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + Sync> Io for T {}
/// A connection, with or without TLS.
pub type Wire = Box<dyn Io>;

/// A URL. It may hold a secret, so it cannot be printed, and is wiped when dropped.
pub struct Url {
    secure: bool,
    host: String,
    port: u16,
    /// Path and query.
    path: String,
}

impl Drop for Url {
    fn drop(&mut self) {
        self.host.zeroize();
        self.path.zeroize();
    }
}

impl Url {
    /// From `https://host[:port][/path]`; `http://` only to this host itself, unless `plain` allows it.
    ///
    /// # Errors
    /// What is wrong with it, without repeating it.
    pub fn parse(text: &str, plain: bool) -> Result<Self, &'static str> {
        let uri: hyper::Uri = text.parse().map_err(|_| "it is not a URL")?;
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err("it does not begin with https://"),
        };
        let authority = uri.authority().ok_or("it names no host")?;
        if authority.as_str().contains('@') {
            return Err("it holds a user or password");
        }
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        if host.is_empty() {
            return Err("it names no host");
        }
        if !secure && !plain && !is_loopback(&host) {
            return Err("it would send a secret without TLS");
        }
        Ok(Self {
            secure,
            port: authority
                .port_u16()
                .unwrap_or(if secure { 443 } else { 80 }),
            host,
            path: uri.path_and_query().map_or("/", |p| p.as_str()).to_owned(),
        })
    }

    /// The same place with this behind its path.
    #[must_use]
    pub fn join(&self, path: &str) -> Self {
        Self {
            secure: self.secure,
            host: self.host.clone(),
            port: self.port,
            path: format!("{}{path}", self.path.trim_end_matches('/')),
        }
    }

    fn authority(&self) -> String {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        match (self.secure, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

/// This host itself.
pub fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host
            .parse::<IpAddr>()
            .is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// What came back.
pub struct Answer {
    /// Status.
    pub status: u16,
    /// How long to wait, when it says so in seconds.
    pub retry_after: Option<Duration>,
    /// At most [`ANSWER`] bytes.
    pub body: Vec<u8>,
}

/// What is sent.
pub struct Question<'a> {
    /// The method.
    pub method: Method,
    /// Headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: &'a [u8],
}

impl Question<'_> {
    /// Adds `Authorization: Bearer …`.
    ///
    /// # Errors
    /// The token has characters that a header cannot have.
    pub fn bearer(&mut self, token: &Secret) -> Result<(), Fault> {
        let mut text = format!("Bearer {}", token.expose());
        let value = HeaderValue::from_str(&text);
        text.zeroize();
        let mut value = value
            .map_err(|_| Fault::later("the token has characters that a header cannot have"))?;
        value.set_sensitive(true);
        self.headers.insert(hyper::header::AUTHORIZATION, value);
        Ok(())
    }

    /// Adds a user and password by `Authorization: Basic`, marked as sensitive.
    ///
    /// # Errors
    /// They have characters that a header cannot have.
    pub fn basic(&mut self, user: &str, password: &Secret) -> Result<(), Fault> {
        let mut pair = format!("{user}:{}", password.expose());
        let mut text = format!(
            "Basic {}",
            base64::engine::general_purpose::STANDARD.encode(&pair)
        );
        let value = HeaderValue::from_str(&text);
        pair.zeroize();
        text.zeroize();
        let mut value = value
            .map_err(|_| Fault::later("the password has characters that a header cannot have"))?;
        value.set_sensitive(true);
        self.headers.insert(hyper::header::AUTHORIZATION, value);
        Ok(())
    }

    /// Adds a header; a value that cannot be one is left out.
    pub fn header(&mut self, name: HeaderName, value: &str) {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
    }
}

/// What channels share to reach their sinks. Cheap to clone.
#[derive(Clone)]
pub struct Net {
    resolving: Arc<Semaphore>,
    ca_file: Option<PathBuf>,
    tls: Arc<OnceCell<Arc<ClientConfig>>>,
}

impl Net {
    /// Trusting the host's certificates, or only those of this PEM file.
    pub fn new(ca_file: Option<PathBuf>) -> Self {
        Self {
            resolving: Arc::new(Semaphore::new(RESOLVING)),
            ca_file,
            tls: Arc::default(),
        }
    }

    async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, Fault> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let unknown = || Fault::later("cannot reach the sink because its name does not resolve");
        let permit = Arc::clone(&self.resolving)
            .acquire_owned()
            .await
            .map_err(|_| unknown())?;
        let host = host.to_owned();
        let found = tokio::task::spawn_blocking(move || {
            // The permit lives as long as the thread, not as long as who asked.
            let _permit = permit;
            std::net::ToSocketAddrs::to_socket_addrs(&(host.as_str(), port))
                .map(|all| all.take(ADDRESSES).collect::<Vec<_>>())
        })
        .await
        .map_err(|_| unknown())?
        .map_err(|_| unknown())?;
        if found.is_empty() {
            Err(unknown())
        } else {
            Ok(found)
        }
    }

    /// A TCP connection to a host.
    ///
    /// # Errors
    /// The name does not resolve, or none of its addresses takes a connection.
    pub async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, Fault> {
        let mut last = None;
        for address in self.resolve(host, port).await? {
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Err(e) => last = Some(e),
            }
        }
        let e = last.unwrap_or_else(|| io::Error::from(io::ErrorKind::NotFound));
        Err(of_io("cannot reach the sink", &e))
    }

    /// TLS on a connection, for this name.
    ///
    /// # Errors
    /// No trusted certificates here, or none there.
    pub async fn secure(
        &self,
        stream: TcpStream,
        host: &str,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Fault> {
        let config = self
            .tls
            .get_or_try_init(|| async {
                let file = self.ca_file.clone();
                tokio::task::spawn_blocking(move || config(file))
                    .await
                    .map_err(|_| "reading them broke off".to_owned())?
            })
            .await
            .map_err(|why| {
                Fault::later(format!("cannot use trusted certificates because {why}"))
            })?;
        let name = ServerName::try_from(host.to_owned()).map_err(|_| {
            Fault::later("the host of the sink is no name that a certificate can have")
        })?;
        TlsConnector::from(Arc::clone(config))
            .connect(name, stream)
            .await
            .map_err(|e| of_io("cannot talk to the sink safely", &e))
    }

    /// Asks once. Time is limited by whoever calls.
    ///
    /// # Errors
    /// No connection, no TLS, or no whole answer. An answer of any status is an answer.
    pub async fn exchange(&self, url: &Url, question: Question<'_>) -> Result<Answer, Fault> {
        let tcp = self.connect(&url.host, url.port).await?;
        let wire: Wire = if url.secure {
            Box::new(self.secure(tcp, &url.host).await?)
        } else {
            Box::new(tcp)
        };
        talk(wire, url, question).await
    }
}

fn config(file: Option<PathBuf>) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    match file {
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        Some(path) => {
            use std::io::Read as _;
            let fail = |why: &str| format!("{} cannot be used: {why}", path.display());
            let mut bytes = Vec::new();
            std::fs::File::open(&path)
                .and_then(|f| f.take(CA_FILE).read_to_end(&mut bytes))
                .map_err(|e| fail(&e.to_string()))?;
            for certificate in CertificateDer::pem_slice_iter(&bytes) {
                let certificate = certificate.map_err(|e| fail(&e.to_string()))?;
                roots.add(certificate).map_err(|e| fail(&e.to_string()))?;
            }
        }
    }
    if roots.is_empty() {
        return Err("there are none".into());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

async fn talk(wire: Wire, url: &Url, question: Question<'_>) -> Result<Answer, Fault> {
    let broken = |e: &hyper::Error| {
        Fault::later(if e.is_parse() {
            "the answer of the sink is not HTTP"
        } else if e.is_incomplete_message() {
            "the sink closed the connection before its answer was complete"
        } else {
            "the exchange with the sink broke off"
        })
    };
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(HEAD)
        .max_headers(HEADERS)
        .handshake(TokioIo::new(wire))
        .await
        .map_err(|e| broken(&e))?;
    let mut request = Request::new(Full::new(Bytes::copy_from_slice(question.body)));
    *request.method_mut() = question.method;
    *request.uri_mut() = url
        .path
        .parse()
        .map_err(|_| Fault::later("the path of the URL is not one"))?;
    *request.headers_mut() = question.headers;
    let host = HeaderValue::from_str(&url.authority())
        .map_err(|_| Fault::later("the host of the URL is not one"))?;
    let headers = request.headers_mut();
    headers.insert(HOST, host);
    headers.insert(USER_AGENT, HeaderValue::from_static("keepwatch"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(question.body.len()));
    let exchanging = async {
        let answer = sender.send_request(request).await.map_err(|e| broken(&e))?;
        let (head, mut body) = answer.into_parts();
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| broken(&e))?;
            let Some(data) = frame.data_ref() else {
                continue;
            };
            let room = ANSWER - bytes.len();
            bytes.extend_from_slice(&data[..data.len().min(room)]);
            if data.len() >= room {
                break;
            }
        }
        Ok(Answer {
            status: head.status.as_u16(),
            retry_after: head
                .headers
                .get(RETRY_AFTER)
                .and_then(|v| v.to_str().ok()?.trim().parse().ok())
                .map(Duration::from_secs),
            body: bytes,
        })
    };
    tokio::pin!(connection, exchanging);
    let mut open = true;
    loop {
        tokio::select! {
            answer = &mut exchanging => return answer,
            // What it read before it ended is still to be taken.
            _ = &mut connection, if open => open = false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_are_safe_to_use() {
        for (text, plain, secure, authority, path) in [
            ("https://example.org", false, true, "example.org", "/"),
            (
                "https://example.org:8443/a?b=c",
                false,
                true,
                "example.org:8443",
                "/a?b=c",
            ),
            (
                "http://127.0.0.1:9093/",
                false,
                false,
                "127.0.0.1:9093",
                "/",
            ),
            ("http://[::1]/x", false, false, "[::1]", "/x"),
            ("http://localhost", false, false, "localhost", "/"),
            ("http://mail.lan/x", true, false, "mail.lan", "/x"),
        ] {
            let u = Url::parse(text, plain).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(
                (u.secure, u.authority().as_str(), u.path.as_str()),
                (secure, authority, path)
            );
        }
        assert_eq!(
            Url::parse("https://h/a/", false)
                .ok()
                .unwrap()
                .join("/b")
                .path,
            "/a/b"
        );
        for (text, why) in [
            ("http://example.org", "without TLS"),
            ("http://127.0.0.1.example.org", "without TLS"),
            ("ftp://example.org", "begin with"),
            ("/path", "begin with"),
            ("https://user:pw@example.org/", "password"),
            ("https://exa mple.org/", "not a URL"),
            ("", "not a URL"),
        ] {
            let e = Url::parse(text, false).err().unwrap();
            assert!(e.contains(why), "{text}: {e}");
        }
    }
}

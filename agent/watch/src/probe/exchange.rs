//! One HTTP/1.1 exchange on a fresh connection, within limits: what the http, qdrant and ollama probes share.
//!
//! No redirects are followed (a login page is not the service), no connection is kept, and headers and bodies are cut at a
//! limit. Time is limited by whoever runs the probe, so an answer that comes byte by byte ends at the deadline like any other.

use base64::Engine as _;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use keepwatch_model::check::Reason;
use zeroize::Zeroize as _;

use super::SettingsError;
use crate::clock::At;
use crate::net::tls::TlsSettings;
use crate::net::{Net, Target};
use crate::outcome::Failure;
use crate::secret::Secret;

/// A body is read up to this, 1 MiB.
pub const BODY_MAX: usize = 1 << 20;
/// Status line and headers of an answer, in bytes.
const HEAD_MAX: usize = 64 << 10;
/// Headers of an answer.
const HEADERS_MAX: usize = 128;

/// Where and how to ask.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Where to connect.
    pub target: Target,
    /// With TLS, and whom to trust.
    pub tls: Option<TlsSettings>,
    /// Value of the `Host` header.
    pub authority: String,
    /// Path and query before what is appended, without `/` at its end.
    pub path: String,
}

impl Endpoint {
    /// From `http://host[:port][/path]` or `https://…`, connecting to a unix socket instead when one is given.
    ///
    /// # Errors
    /// Not such a URL, or one with a user or password in it (they would show up in logs).
    pub fn parse(
        url: &str,
        socket: Option<&std::path::Path>,
        tls: &TlsSettings,
    ) -> Result<Self, SettingsError> {
        let wrong = |why: &str| SettingsError::new("url", why);
        let uri: Uri = url.parse().map_err(|_| wrong("it is not a URL"))?;
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong("it must begin with http:// or https://")),
        };
        let authority = uri.authority().ok_or_else(|| wrong("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong(
                "it holds a user or password; use basic_user and password_file",
            ));
        }
        let host = authority.host();
        let port = authority
            .port_u16()
            .unwrap_or(if secure { 443 } else { 80 });
        let target = match socket {
            Some(path) => format!("unix:{}", path.display()),
            None => format!("{host}:{port}"),
        };
        let mut tls = tls.clone();
        if socket.is_some() && tls.server_name.is_none() {
            tls.server_name = Some(host.to_owned());
        }
        Ok(Self {
            target: target.parse().map_err(|e: String| wrong(&e))?,
            tls: secure.then_some(tls),
            authority: authority.as_str().to_owned(),
            path: uri.path_and_query().map_or("/", |p| p.as_str()).to_owned(),
        })
    }

    /// The same service, another path.
    pub fn at(&self, path: &str) -> Self {
        Self {
            path: format!("{}{path}", self.path.trim_end_matches('/')),
            ..self.clone()
        }
    }
}

/// What is sent.
pub struct Question<'a> {
    /// The method.
    pub method: Method,
    /// Headers; secret ones are marked sensitive.
    pub headers: HeaderMap,
    /// The body.
    pub body: &'a [u8],
}

impl Question<'_> {
    /// `GET` with nothing besides.
    pub fn get() -> Self {
        Self {
            method: Method::GET,
            headers: HeaderMap::new(),
            body: b"",
        }
    }

    /// Adds a header with a secret in it.
    ///
    /// # Errors
    /// The secret has characters that a header cannot have; [`Reason::Exec`], and the text does not repeat it.
    pub fn secret(
        &mut self,
        name: HeaderName,
        prefix: &str,
        secret: &Secret,
    ) -> Result<(), Failure> {
        let mut text = format!("{prefix}{}", secret.expose());
        let value = HeaderValue::from_str(&text);
        text.zeroize();
        let mut value = value.map_err(|_| {
            Failure::new(
                Reason::Exec,
                "the secret has characters that an HTTP header cannot have",
            )
        })?;
        value.set_sensitive(true);
        self.headers.insert(name, value);
        Ok(())
    }

    /// Adds basic authentication.
    ///
    /// # Errors
    /// As [`Self::secret`].
    pub fn basic(&mut self, user: &str, password: &Secret) -> Result<(), Failure> {
        let mut pair = format!("{user}:{}", password.expose());
        let encoded = Secret::new(base64::engine::general_purpose::STANDARD.encode(&pair));
        pair.zeroize();
        self.secret(AUTHORIZATION, "Basic ", &encoded)
    }
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// The body, at most [`BODY_MAX`] bytes of it.
    pub body: Vec<u8>,
    /// There was more.
    pub cut: bool,
    /// When the first certificate of the chain ends.
    pub not_after: Option<At>,
}

/// Asks once.
///
/// # Errors
/// The reasons of connecting and TLS; [`Reason::Protocol`] when the answer is not HTTP or is cut off.
pub async fn exchange(
    net: &Net,
    endpoint: &Endpoint,
    question: Question<'_>,
) -> Result<Answer, Failure> {
    let (wire, not_after) = match &endpoint.tls {
        Some(settings) => {
            let secured = net.connect_tls(&endpoint.target, settings).await?;
            (secured.wire, secured.not_after)
        }
        None => (net.connect(&endpoint.target).await?, None),
    };
    let target = &endpoint.target;
    let broken = |e: &hyper::Error| {
        let what = if e.is_parse() {
            format!("the answer of {target} is not HTTP")
        } else if e.is_incomplete_message() {
            format!("{target} closed the connection before its answer was complete")
        } else {
            format!("the exchange with {target} broke")
        };
        Failure::because(Reason::Protocol, &what, e)
    };
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(HEAD_MAX)
        .max_headers(HEADERS_MAX)
        .handshake(TokioIo::new(wire))
        .await
        .map_err(|e| broken(&e))?;
    let mut request = Request::new(Full::new(Bytes::copy_from_slice(question.body)));
    *request.method_mut() = question.method;
    *request.uri_mut() = endpoint
        .path
        .parse()
        .map_err(|_| Failure::new(Reason::Internal, "the path of the URL is not one"))?;
    *request.headers_mut() = question.headers;
    let host = HeaderValue::from_str(&endpoint.authority)
        .map_err(|_| Failure::new(Reason::Internal, "the host of the URL is not one"))?;
    request.headers_mut().entry(HOST).or_insert(host);
    request
        .headers_mut()
        .entry(USER_AGENT)
        .or_insert(HeaderValue::from_static("keepwatch"));
    let exchanging = async {
        let answer = sender.send_request(request).await.map_err(|e| broken(&e))?;
        let (head, mut body) = answer.into_parts();
        let mut bytes = Vec::new();
        let mut cut = false;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| broken(&e))?;
            let Some(data) = frame.data_ref() else {
                continue;
            };
            let room = BODY_MAX - bytes.len();
            bytes.extend_from_slice(&data[..data.len().min(room)]);
            if data.len() > room {
                cut = true;
                break;
            }
        }
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body: bytes,
            cut,
            not_after,
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

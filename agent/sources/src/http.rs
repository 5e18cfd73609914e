//! HTTP/1.1 to a service of this kind: one exchange on each connection, bodies as streams, each wait with a deadline.
//!
//! The engine reads and writes from threads, so this is a blocking face over hyper on a runtime of its own that runs only while somebody
//! waits. Redirects are not followed: a key would go where nobody meant it to.

use std::io::{self, Read, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http_body_util::BodyExt as _;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::fault::{Fault, Reason};
use crate::secret::Secret;
use crate::setting::{CONNECT, Setting};
use crate::text::said;

/// The longest answer that is taken as a whole, in bytes.
const ANSWER: usize = 8 << 20;
/// Bytes of a piece on its way up.
const PIECE: usize = 256 << 10;
/// Pieces on their way up at once: 2 MiB.
const PIECES: usize = 8;
/// How often somebody who waits looks whether he is asked to stop.
const LOOK: Duration = Duration::from_millis(250);

/// A service.
pub struct Client {
    secure: bool,
    host: String,
    port: u16,
    path: String,
    key: Option<(&'static str, Secret)>,
    setting: Setting,
    runtime: Arc<Runtime>,
    tls: Option<tokio_rustls::TlsConnector>,
}

/// What came back.
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The beginning of the body, when it is not a stream.
    pub body: Vec<u8>,
}

impl Answer {
    /// What it says, for a sentence.
    pub fn said(&self) -> String {
        let value: Option<serde_json::Value> = serde_json::from_slice(&self.body).ok();
        let error = value.as_ref().and_then(|v| v["status"]["error"].as_str());
        format!(
            "status {}: {}",
            self.status,
            said(error.map_or(&self.body[..], str::as_bytes), &[])
        )
    }
}

impl Client {
    /// For `http://host[:port][/path]`; a key goes over `http` only to this host itself.
    ///
    /// # Errors
    /// The URL is none, or would send the key in the clear.
    pub fn new(
        url: &str,
        key: Option<(&'static str, Secret)>,
        setting: &Setting,
    ) -> Result<Self, Fault> {
        let wrong = |why: &str| {
            Fault::new(
                Reason::Parameter,
                format!(
                    "the URL '{}' cannot be used: {why}",
                    said(url.as_bytes(), &[])
                ),
            )
        };
        let uri: hyper::Uri = url.parse().map_err(|_| wrong("it is none"))?;
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong("it begins with neither http:// nor https://")),
        };
        let authority = uri.authority().ok_or_else(|| wrong("it names no host"))?;
        if authority.as_str().contains('@') || uri.query().is_some() {
            return Err(wrong("it holds a user or a query"));
        }
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let is_here = host == "localhost"
            || host
                .parse::<std::net::IpAddr>()
                .is_ok_and(|ip| ip.to_canonical().is_loopback());
        if key.is_some() && !secure && !is_here {
            return Err(wrong("it would send the key over the network without TLS"));
        }
        let tls = secure.then(connector).transpose()?;
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| {
                Fault::new(
                    Reason::Failed,
                    format!("cannot begin to use the network: {e}"),
                )
            })?;
        Ok(Client {
            secure,
            port: authority
                .port_u16()
                .unwrap_or(if secure { 443 } else { 80 }),
            host,
            path: uri.path().trim_end_matches('/').to_owned(),
            key,
            setting: setting.clone(),
            runtime: Arc::new(runtime),
            tls,
        })
    }

    /// Where it is, for sentences.
    pub fn place(&self) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        format!("{scheme}://{}:{}{}", self.host, self.port, self.path)
    }

    fn unreached(&self, why: impl std::fmt::Display) -> Fault {
        Fault::new(
            Reason::NoConnection,
            format!("{} cannot be reached, or went away: {why}", self.place()),
        )
    }

    /// Waits for something that must not take longer than the stall timeout.
    fn wait<T>(&self, what: impl Future<Output = T>) -> Result<T, Fault> {
        wait(&self.runtime, &self.setting, &AtomicU64::new(0), what).map_err(|e| {
            e.unwrap_or_else(|| {
                Fault::new(
                    Reason::Stalled,
                    format!(
                        "{} did nothing for {} s",
                        self.place(),
                        self.setting.stall.as_secs()
                    ),
                )
            })
        })
    }

    async fn exchange(&self, request: Request<Out>) -> Result<Exchange, String> {
        let connect = TcpStream::connect((self.host.as_str(), self.port));
        let stream = tokio::time::timeout(CONNECT, connect)
            .await
            .map_err(|_| "no answer".to_owned())?
            .map_err(|e| crate::fault::plain(&e))?;
        let _ = stream.set_nodelay(true);
        match &self.tls {
            None => send(TokioIo::new(stream), request).await,
            Some(tls) => {
                let name = ServerName::try_from(self.host.clone()).map_err(|e| e.to_string())?;
                let stream = tokio::time::timeout(CONNECT, tls.connect(name, stream))
                    .await
                    .map_err(|_| "no answer".to_owned())?
                    .map_err(|e| e.to_string())?;
                send(TokioIo::new(stream), request).await
            }
        }
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: Out,
    ) -> Result<Request<Out>, Fault> {
        let host = match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.path))
            .header(HOST, host);
        if !kind.is_empty() {
            request = request.header(CONTENT_TYPE, kind);
        }
        if let Some((name, secret)) = &self.key {
            let mut value = HeaderValue::from_str(secret.expose())
                .map_err(|_| Fault::new(Reason::Parameter, "the key cannot stand in a header"))?;
            value.set_sensitive(true);
            request = request.header(*name, value);
        }
        request.body(body).map_err(|_| {
            Fault::new(
                Reason::Parameter,
                format!("'{}' cannot be asked for", said(path.as_bytes(), &[])),
            )
        })
    }

    /// Asks, and takes the whole answer.
    ///
    /// # Errors
    /// It cannot be reached, stalls, or answers too much.
    pub fn ask(
        &self,
        method: Method,
        path: &str,
        json: Option<&serde_json::Value>,
    ) -> Result<Answer, Fault> {
        let (kind, body) = match json {
            None => ("", Bytes::new()),
            Some(value) => ("application/json", Bytes::from(value.to_string())),
        };
        let request = self.request(method, path, kind, Out::Whole(Some(body)))?;
        let (response, _) = self
            .wait(self.exchange(request))?
            .map_err(|e| self.unreached(e))?;
        self.whole(response)
    }

    fn whole(&self, response: hyper::Response<Incoming>) -> Result<Answer, Fault> {
        let status = response.status().as_u16();
        let mut incoming = response.into_body();
        let mut body = Vec::new();
        while let Some(frame) = self.wait(incoming.frame())? {
            if let Ok(data) = frame.map_err(|e| self.unreached(e))?.into_data() {
                if body.len() + data.len() > ANSWER {
                    return Err(Fault::new(
                        Reason::Failed,
                        format!("{} answers with more than {ANSWER} bytes", self.place()),
                    ));
                }
                body.extend_from_slice(&data);
            }
        }
        Ok(Answer { status, body })
    }

    /// Asks for a stream.
    ///
    /// # Errors
    /// As [`Client::ask`]; `Ok(Err(_))` is an answer that is no success.
    pub fn download(&self, path: &str) -> Result<Result<Download, Answer>, Fault> {
        let request = self.request(Method::GET, path, "", Out::Whole(Some(Bytes::new())))?;
        let (response, _) = self
            .wait(self.exchange(request))?
            .map_err(|e| self.unreached(e))?;
        if !response.status().is_success() {
            return Ok(Err(self.whole(response)?));
        }
        Ok(Ok(Download {
            place: self.place(),
            setting: self.setting.clone(),
            runtime: self.runtime.clone(),
            body: response.into_body(),
            data: Bytes::new(),
            is_over: false,
        }))
    }

    /// Sends a file of `length` bytes as a form, while `write` writes it.
    ///
    /// # Errors
    /// As [`Client::ask`], or what `write` says.
    pub fn upload(
        &self,
        path: &str,
        field: &str,
        length: u64,
        write: &(dyn Fn(&mut dyn Write) -> Result<u64, Fault> + Sync),
    ) -> Result<Answer, Fault> {
        let boundary = "keepwatch-7d1f5c0e9a3b4e62b8f0";
        let head = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"{field}\"; filename=\"{field}\"\r\nContent-Type: application/octet-stream\r\n\r\n"
        );
        let tail = format!("\r\n--{boundary}--\r\n");
        let total = (head.len() + tail.len()) as u64 + length;
        let (send, receive) = mpsc::channel(PIECES);
        let request = self.request(
            Method::POST,
            path,
            &format!("multipart/form-data; boundary={boundary}"),
            Out::Pieces(receive, total),
        )?;
        let moved = Arc::new(AtomicU64::new(0));
        let mut out = Pieces {
            send,
            data: head.into_bytes(),
            moved: moved.clone(),
        };
        std::thread::scope(|scope| {
            let writer = scope.spawn(move || {
                let written = write(&mut out).and_then(|n| {
                    out.write_all(tail.as_bytes())
                        .and_then(|()| out.flush())
                        .map_err(Fault::from_io)?;
                    Ok(n)
                });
                if let Err(e) = &written {
                    let _ = out.send.blocking_send(Err(io::Error::other(e.clone())));
                }
                written
            });
            let answer = wait(&self.runtime, &self.setting, &moved, self.exchange(request))
                .map_err(|e| {
                    e.unwrap_or_else(|| {
                        Fault::new(
                            Reason::Stalled,
                            format!(
                                "{} did nothing for {} s",
                                self.place(),
                                self.setting.stall.as_secs()
                            ),
                        )
                    })
                })
                .and_then(|r| r.map_err(|e| self.unreached(e)))
                .and_then(|(response, connection)| {
                    let answer = self.whole(response);
                    // A server that refuses may not take the rest: whoever writes must learn that.
                    connection.abort();
                    answer
                });
            self.runtime.block_on(tokio::task::yield_now());
            let written = writer
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            match (answer, written) {
                (Ok(answer), Ok(_)) => Ok(answer),
                (Ok(answer), Err(_)) if !(200..300).contains(&answer.status) => Ok(answer),
                (_, Err(e)) if e.text != GONE => Err(e),
                (Err(e), _) | (Ok(_), Err(e)) => Err(e),
            }
        })
    }
}

/// Nobody takes what is sent: why, the other side says.
const GONE: &str = "nobody takes the rest";

/// None: the deadline.
fn wait<T>(
    runtime: &Runtime,
    setting: &Setting,
    moved: &AtomicU64,
    what: impl Future<Output = T>,
) -> Result<T, Option<Fault>> {
    let mut began = Instant::now();
    let mut seen = 0;
    runtime.block_on(async {
        tokio::pin!(what);
        loop {
            match tokio::time::timeout(LOOK, &mut what).await {
                Ok(done) => return Ok(done),
                Err(_) => {
                    setting.stop.check().map_err(Some)?;
                    let now = moved.load(Ordering::Relaxed);
                    if now != seen {
                        (seen, began) = (now, Instant::now());
                    }
                    if began.elapsed() >= setting.stall {
                        return Err(None);
                    }
                }
            }
        }
    })
}

fn connector() -> Result<tokio_rustls::TlsConnector, Fault> {
    let failed = |e: String| Fault::new(Reason::Failed, format!("cannot prepare TLS: {e}"));
    let mut roots = RootCertStore::empty();
    let _ = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| failed(e.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(tokio_rustls::TlsConnector::from(Arc::new(config)))
}

/// An answer, and the task that drives its connection.
type Exchange = (hyper::Response<Incoming>, JoinHandle<()>);

async fn send<I>(io: I, request: Request<Out>) -> Result<Exchange, String>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io)
        .await
        .map_err(|e| e.to_string())?;
    let connection = tokio::spawn(async move {
        if let Err(e) = connection.await {
            tracing::debug!("a connection ended: {e}");
        }
    });
    match sender.send_request(request).await {
        Ok(response) => Ok((response, connection)),
        Err(e) => {
            let cause = std::error::Error::source(&e)
                .map(|c| format!(": {c}"))
                .unwrap_or_default();
            Err(format!("{e}{cause}"))
        }
    }
}

/// A body on its way up.
enum Out {
    Whole(Option<Bytes>),
    Pieces(mpsc::Receiver<io::Result<Bytes>>, u64),
}

impl Body for Out {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.get_mut() {
            Out::Whole(bytes) => Poll::Ready(
                bytes
                    .take()
                    .filter(|b| !b.is_empty())
                    .map(|b| Ok(Frame::data(b))),
            ),
            Out::Pieces(receive, left) => receive.poll_recv(cx).map(|piece| {
                piece.map(|bytes| {
                    bytes.map(|bytes| {
                        *left = left.saturating_sub(bytes.len() as u64);
                        Frame::data(bytes)
                    })
                })
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Out::Whole(None)) || matches!(self, Out::Whole(Some(b)) if b.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Out::Whole(bytes) => bytes.as_ref().map_or(0, |b| b.len() as u64),
            Out::Pieces(_, left) => *left,
        })
    }
}

/// Gathers what is written into pieces.
struct Pieces {
    send: mpsc::Sender<io::Result<Bytes>>,
    data: Vec<u8>,
    /// Counts what was taken, so that one who waits sees that it moves.
    moved: Arc<AtomicU64>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(PIECE);
        self.data.extend_from_slice(&bytes[..n]);
        if self.data.len() >= PIECE {
            self.flush()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        let data = std::mem::take(&mut self.data);
        self.moved.fetch_add(1, Ordering::Relaxed);
        self.send
            .blocking_send(Ok(data.into()))
            .map_err(|_| Fault::new(Reason::NoConnection, GONE).into_io())
    }
}

/// A stream on its way down.
pub struct Download {
    place: String,
    setting: Setting,
    runtime: Arc<Runtime>,
    body: Incoming,
    data: Bytes,
    is_over: bool,
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.data.is_empty() && !self.is_over {
            let frame = wait(
                &self.runtime,
                &self.setting,
                &AtomicU64::new(0),
                self.body.frame(),
            )
            .map_err(|e| {
                e.unwrap_or_else(|| {
                    Fault::new(
                        Reason::Stalled,
                        format!(
                            "{} sent nothing for {} s",
                            self.place,
                            self.setting.stall.as_secs()
                        ),
                    )
                })
                .into_io()
            })?;
            match frame {
                None => self.is_over = true,
                Some(Ok(frame)) => self.data = frame.into_data().unwrap_or_default(),
                Some(Err(e)) => {
                    return Err(Fault::new(
                        Reason::NotWhole,
                        format!("{} went away in the middle: {e}", self.place),
                    )
                    .into_io());
                }
            }
        }
        let n = buffer.len().min(self.data.len());
        buffer[..n].copy_from_slice(&self.data.split_to(n));
        Ok(n)
    }
}

//! Connections to probed services: targets, names, TCP and unix sockets, TLS, and a limit on what is read.
//!
//! A name is resolved by the host's resolver (`getaddrinfo`), as the services of the host do: it honours `/etc/hosts`, mDNS and
//! what else the host is set up for. That call blocks and cannot be cancelled, so it runs in a thread and only
//! [`RESOLVING`] of them at once: a resolver that hangs costs that many threads, however many checks ask.

pub mod der;
pub mod tls;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use keepwatch_model::check::Reason;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::clock::{At, Clock};
use crate::outcome::Failure;
use tls::{Secured, TlsSettings, Trust};

/// Names that are resolved at once; each is a thread of the blocking pool (2 MiB of address space).
pub const RESOLVING: usize = 8;
/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 8;
/// The next address is tried after this, while the first goes on (RFC 8305).
const STAGGER: Duration = Duration::from_millis(250);
/// What one run reads at most from a service, unless it says otherwise: more is no answer to a health check.
pub const READ_MAX: u64 = 1 << 20;

/// What a stream must be.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}
/// A connection, with or without TLS.
pub type Wire = Box<dyn Io>;

/// Where a service listens: `host:port`, `[::1]:port` or `unix:/path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A TCP port.
    Tcp {
        /// A name or an address.
        host: String,
        /// The port.
        port: u16,
    },
    /// A unix socket.
    Unix(PathBuf),
}

impl Target {
    /// The name for TLS and the `Host` header.
    pub fn host(&self) -> &str {
        match self {
            Self::Tcp { host, .. } => host,
            Self::Unix(_) => "localhost",
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.starts_with('/') && path.len() < 108 {
                Ok(Self::Unix(path.into()))
            } else {
                Err(format!(
                    "{text:?} is not a unix socket: write unix:/absolute/path, below 108 bytes"
                ))
            };
        }
        let (host, port) = text
            .rsplit_once(':')
            .ok_or_else(|| format!("{text:?} has no port: write host:port or unix:/path"))?;
        let port = port
            .parse::<u16>()
            .ok()
            .filter(|p| *p > 0)
            .ok_or_else(|| format!("{text:?} has no port between 1 and 65535"))?;
        let bare = host
            .strip_prefix('[')
            .and_then(|h| h.strip_suffix(']'))
            .filter(|h| h.parse::<std::net::Ipv6Addr>().is_ok());
        let host = match bare {
            Some(v6) => v6,
            None if is_host(host) => host,
            None => return Err(format!("{text:?} does not name a host")),
        };
        Ok(Self::Tcp {
            host: host.to_owned(),
            port,
        })
    }
}

/// Whether this is a host name or an IPv4 address, as far as its characters go.
pub fn is_host(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// What probes share to reach services. Cheap to clone.
#[derive(Clone)]
pub struct Net {
    resolving: Arc<Semaphore>,
    trust: Arc<Trust>,
    clock: Arc<dyn Clock>,
}

impl Net {
    /// With the clock that certificates are measured against.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            resolving: Arc::new(Semaphore::new(RESOLVING)),
            trust: Arc::default(),
            clock,
        }
    }

    /// What a clock on the wall shows.
    pub fn now(&self) -> At {
        self.clock.wall()
    }

    /// Addresses of a host.
    ///
    /// # Errors
    /// [`Reason::Dns`].
    pub async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, Failure> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(vec![ip]);
        }
        let internal =
            |e: &dyn std::error::Error| Failure::because(Reason::Internal, "resolving", e);
        let permit = Arc::clone(&self.resolving)
            .acquire_owned()
            .await
            .map_err(|e| internal(&e))?;
        let name = host.to_owned();
        let found = tokio::task::spawn_blocking(move || {
            // The permit lives as long as the thread, not as long as who asked.
            let _permit = permit;
            std::net::ToSocketAddrs::to_socket_addrs(&(name.as_str(), 0))
                .map(|all| all.map(|a| a.ip()).take(64).collect::<Vec<_>>())
        })
        .await
        .map_err(|e| internal(&e))?
        .map_err(|e| Failure::because(Reason::Dns, &format!("cannot resolve {host}"), &e))?;
        let mut addresses = Vec::new();
        for ip in found {
            if !addresses.contains(&ip) {
                addresses.push(ip);
            }
        }
        if addresses.is_empty() {
            return Err(Failure::new(Reason::Dns, format!("{host} has no address")));
        }
        Ok(addresses)
    }

    /// Connects. Addresses of a name are tried one after another without waiting for each other's end.
    ///
    /// # Errors
    /// [`Reason::Dns`] or [`Reason::Connect`].
    pub async fn connect(&self, target: &Target) -> Result<Wire, Failure> {
        match target {
            Target::Unix(path) => match UnixStream::connect(path).await {
                Ok(stream) => Ok(Box::new(stream)),
                Err(e) => Err(refused(target, &e)),
            },
            Target::Tcp { host, port } => {
                let addresses = self.resolve(host).await?;
                let stream = first_of(addresses.iter().map(|ip| SocketAddr::new(*ip, *port)))
                    .await
                    .map_err(|e| refused(target, &e))?;
                // Small questions and answers: do not wait for more to send.
                let _ = stream.set_nodelay(true);
                Ok(Box::new(stream))
            }
        }
    }

    /// Connects and speaks TLS at once.
    ///
    /// # Errors
    /// As [`Self::connect`], and [`Reason::Tls`].
    pub async fn connect_tls(
        &self,
        target: &Target,
        settings: &TlsSettings,
    ) -> Result<Secured, Failure> {
        let wire = self.connect(target).await?;
        self.secure(wire, target, settings).await
    }

    /// Speaks TLS on a connection.
    ///
    /// # Errors
    /// [`Reason::Tls`], or [`Reason::Exec`] for the CA file.
    pub async fn secure(
        &self,
        wire: Wire,
        target: &Target,
        settings: &TlsSettings,
    ) -> Result<Secured, Failure> {
        let config = self.trust.config(settings).await?;
        let name = settings.server_name.as_deref().unwrap_or(target.host());
        tls::handshake(wire, config, name).await
    }
}

fn refused(target: &Target, error: &io::Error) -> Failure {
    Failure::because(
        Reason::Connect,
        &format!("cannot connect to {target}"),
        error,
    )
}

async fn first_of(addresses: impl Iterator<Item = SocketAddr>) -> io::Result<TcpStream> {
    let mut waiting: Vec<SocketAddr> = addresses.take(ADDRESSES_MAX).collect();
    waiting.reverse();
    let mut trying = JoinSet::new();
    let mut last = io::Error::other("no address");
    loop {
        let Some(address) = waiting.pop() else {
            return match trying.join_next().await {
                None => Err(last),
                Some(Ok(Ok(stream))) => Ok(stream),
                Some(result) => {
                    last = error_of(result);
                    continue;
                }
            };
        };
        trying.spawn(TcpStream::connect(address));
        let wait = if waiting.is_empty() {
            Duration::MAX
        } else {
            STAGGER
        };
        match tokio::time::timeout(wait, trying.join_next()).await {
            Ok(Some(Ok(Ok(stream)))) => return Ok(stream),
            Ok(Some(result)) => last = error_of(result),
            Ok(None) | Err(_) => {}
        }
    }
}

fn error_of(result: Result<io::Result<TcpStream>, tokio::task::JoinError>) -> io::Error {
    match result {
        Ok(Err(e)) => e,
        Ok(Ok(_)) => io::Error::other("no error"),
        Err(e) => io::Error::other(e),
    }
}

/// A stream from which at most so many bytes are read; then reading fails. For protocols whose library would hold a message
/// of any length.
#[derive(Debug)]
pub struct Capped<S> {
    inner: S,
    left: u64,
}

impl<S> Capped<S> {
    /// Allows `limit` bytes.
    pub fn new(inner: S, limit: u64) -> Self {
        Self { inner, left: limit }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Capped<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left == 0 {
            return Poll::Ready(Err(io::Error::other(
                "the answer is too long for a health check",
            )));
        }
        let before = buf.filled().len();
        std::task::ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        let read = (buf.filled().len() - before) as u64;
        self.left = self.left.saturating_sub(read);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Capped<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// What an error while reading or writing means: the protocol was not followed.
pub fn broken(target: &Target, error: &io::Error) -> Failure {
    let what = match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            format!("{target} closed the connection in the middle of an answer")
        }
        _ => format!("the conversation with {target} broke"),
    };
    Failure::because(Reason::Protocol, &what, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt as _;

    #[test]
    fn targets_as_people_write_them() {
        for good in [
            "localhost:80",
            "127.0.0.1:5432",
            "[::1]:6379",
            "db.example.org:1",
            "unix:/run/x.sock",
        ] {
            let t: Target = good.parse().unwrap();
            assert_eq!(t.to_string(), good);
        }
        for bad in [
            "",
            "localhost",
            ":80",
            "host:0",
            "host:65536",
            "::1:80",
            "[::1:80",
            "[host]:80",
            "a b:80",
            "host:80\n",
            "unix:relative",
            "a/b:80",
            "user@host:80",
        ] {
            assert!(bad.parse::<Target>().is_err(), "{bad:?}");
        }
        let long = format!("unix:/{}", "x".repeat(200));
        assert!(long.parse::<Target>().is_err());
    }

    #[tokio::test]
    async fn a_capped_stream_ends_in_an_error() {
        let mut s = Capped::new(&b"123456"[..], 4);
        let mut two = [0; 2];
        s.read_exact(&mut two).await.unwrap();
        s.read_exact(&mut two).await.unwrap();
        assert!(
            s.read_exact(&mut two)
                .await
                .unwrap_err()
                .to_string()
                .contains("too long")
        );
    }

    #[tokio::test]
    async fn reasons_of_connecting() {
        let net = Net::new(Arc::new(crate::clock::HostClock));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open: Target = listener.local_addr().unwrap().to_string().parse().unwrap();
        assert!(net.connect(&open).await.is_ok());
        drop(listener);
        for (target, reason) in [
            (open.to_string(), Reason::Connect),
            ("unix:/nonexistent/socket".into(), Reason::Connect),
            ("name.invalid:80".into(), Reason::Dns),
        ] {
            let e = net.connect(&target.parse().unwrap()).await.err().unwrap();
            assert_eq!(e.reason, reason, "{}", e.text);
        }
    }
}

//! Sockets: listening on TCP and unix sockets, deadlines of each connection, stopping in good order.
//!
//! HTTP/1.1 by hyper. What hyper does not bound is bounded here, by looking at the bytes that pass ([`Watched`]): the time from
//! a request's first byte to the end of its headers, the time until an answer is written, the time that a connection may lie
//! idle. Each connection is one task that holds one seat; all of them are joined before [`Server::run`] returns.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Body as _, Incoming};
use hyper::header::AUTHORIZATION;
use hyper::{Request, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use crate::answer::{Desk, Question};
use crate::counters::Counters;
use crate::facts::{Clock, Facts};
use crate::limits::{BUFFER, HEAD_MAX, HEADERS, LINGER, LINGER_BYTES, Limits, UPKEEP};
use crate::rate::{Client, Rates};
use crate::seats::{Seat, Seats};
use crate::token::{self, TokenFile};

/// How long nothing is accepted after accepting failed (no file descriptors, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What one without a seat gets.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n";

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A TCP port; loopback unless the operator says otherwise.
    Tcp(SocketAddr),
    /// A unix socket, made with mode 0660.
    Unix(PathBuf),
}

/// How to serve.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where.
    pub listen: Vec<Listen>,
    /// The file with the bearer token for what maps the host.
    pub token_file: Option<PathBuf>,
    /// Also write three metrics under their other names.
    pub legacy_names: bool,
    /// Bounds.
    pub limits: Limits,
    /// A moment from which on periodic work is counted, so that it shares its moments with that of the rest of the program.
    pub beat: Instant,
}

/// What the server is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Serve.
    Serve,
    /// Serve, and read the token file again; any other number is another time.
    Reload(u64),
    /// Serve, and say that the host is not ready.
    Drain,
    /// Stop.
    Stop,
}

/// Why the server cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Nowhere to listen.
    #[error("cannot serve metrics and probes because no address is configured")]
    Nowhere,
    /// A port cannot be had.
    #[error("cannot listen on {address} because of: {source}; nothing is served")]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A socket cannot be made.
    #[error("cannot listen on unix:{} because of: {source}; nothing is served", path.display())]
    Unix {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

/// A server that listens.
pub struct Server {
    listeners: Vec<Listener>,
    shared: Arc<Shared>,
    token: Option<TokenFile>,
    beat: Instant,
}

struct Shared {
    desk: Desk,
    limits: Limits,
    rates: Mutex<Rates>,
    seats: Arc<Seats>,
}

impl Server {
    /// Listens; questions wait in the kernel until [`Self::run`]. Must be called within a runtime.
    ///
    /// # Errors
    /// An address cannot be had.
    pub fn bind(
        settings: Settings,
        facts: watch::Receiver<Arc<Facts>>,
        clock: Arc<dyn Clock>,
        counters: Arc<Counters>,
    ) -> Result<Self, BindError> {
        let mut listeners = Vec::new();
        for listen in &settings.listen {
            listeners.push(match listen {
                Listen::Tcp(address) => tcp(*address).map_err(|source| BindError::Tcp {
                    address: *address,
                    source,
                })?,
                Listen::Unix(path) => unix(path).map_err(|source| BindError::Unix {
                    path: path.clone(),
                    source,
                })?,
            });
        }
        if listeners.is_empty() {
            return Err(BindError::Nowhere);
        }
        let token = settings.token_file.map(TokenFile::new);
        let desk = Desk::new(
            facts,
            clock,
            counters,
            token.as_ref().map(TokenFile::token),
            settings.legacy_names,
        );
        let limits = settings.limits;
        Ok(Self {
            listeners,
            token,
            beat: settings.beat,
            shared: Arc::new(Shared {
                desk,
                rates: Mutex::new(Rates::new(&limits)),
                seats: Seats::new(limits.connections, limits.per_client),
                limits,
            }),
        })
    }

    /// TCP addresses that it listens on (port 0 became a number).
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners
            .iter()
            .filter_map(|l| match l {
                Listener::Tcp(l) => l.local_addr().ok(),
                Listener::Unix(..) => None,
            })
            .collect()
    }

    /// Serves until it is told to stop, or whoever gives orders is gone. Connections then may finish the answer that they are
    /// at; after [`Limits::stop`] the rest is cut off. Nothing runs any more when this returns.
    pub async fn run(mut self, mut orders: watch::Receiver<Order>) {
        let (stop, stopping) = watch::channel(false);
        let mut connections = JoinSet::new();
        let mut upkeep = tokio::time::interval_at(self.beat, UPKEEP);
        upkeep.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut look = tokio::time::interval_at(self.beat, token::LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut paused = None;
        if let Some(token) = &mut self.token {
            token.look(true).await;
        }
        loop {
            let order = *orders.borrow_and_update();
            match order {
                Order::Stop => break,
                Order::Drain => self.shared.desk.drain(),
                Order::Reload(_) => {
                    if let Some(token) = &mut self.token {
                        token.look(true).await;
                    }
                }
                Order::Serve => {}
            }
            // Until an order comes, without looking at the present one again.
            let gone = loop {
                tokio::select! {
                    changed = orders.changed() => break changed.is_err(),
                    _ = upkeep.tick() => self.shared.desk.counters().upkeep(),
                    _ = look.tick(), if self.token.is_some() => {
                        if let Some(token) = &mut self.token {
                            token.look(false).await;
                        }
                    }
                    Some(_) = connections.join_next() => {}
                    () = tokio::time::sleep_until(paused.unwrap_or_else(Instant::now)), if paused.is_some() => paused = None,
                    accepted = accept(&self.listeners), if paused.is_none() => match accepted {
                        Ok(socket) => self.seat(socket, &mut connections, &stopping),
                        Err(e) => {
                            tracing::warn!(error = %e, "cannot accept a connection to the endpoint; trying again shortly");
                            paused = Some(Instant::now() + ACCEPT_PAUSE);
                        }
                    },
                }
            };
            if gone {
                break;
            }
        }
        self.shared.desk.drain();
        for listener in self.listeners.drain(..) {
            if let Listener::Unix(socket, path) = listener {
                drop(socket);
                let _ = std::fs::remove_file(path);
            }
        }
        let _ = stop.send(true);
        let finish = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(self.shared.limits.stop, finish)
            .await
            .is_err()
        {
            connections.shutdown().await;
        }
    }

    fn seat(
        &self,
        socket: Socket,
        connections: &mut JoinSet<()>,
        stopping: &watch::Receiver<bool>,
    ) {
        let client = match &socket {
            Socket::Tcp(_, peer) => Client::of(peer.ip()),
            Socket::Unix(_) => Client::Local,
        };
        let Some(seat) = self.shared.seats.take(client) else {
            self.shared.desk.counters().refused("full");
            socket.refuse();
            return;
        };
        let shared = Arc::clone(&self.shared);
        let stopping = stopping.clone();
        match socket {
            Socket::Tcp(stream, _) => {
                // Answers are written whole: do not wait for more to send.
                let _ = stream.set_nodelay(true);
                connections.spawn(serve(stream, client, seat, shared, stopping));
            }
            Socket::Unix(stream) => {
                connections.spawn(serve(stream, client, seat, shared, stopping));
            }
        }
    }
}

fn tcp(address: SocketAddr) -> io::Result<Listener> {
    let socket = std::net::TcpListener::bind(address)?;
    socket.set_nonblocking(true)?;
    Ok(Listener::Tcp(TcpListener::from_std(socket)?))
}

/// A socket that nobody listens on any more is left from a crash, and replaced.
fn unix(path: &Path) -> io::Result<Listener> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    let nobody = |e: io::Error| e.kind() == io::ErrorKind::ConnectionRefused;
    if is_socket && std::os::unix::net::UnixStream::connect(path).is_err_and(nobody) {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(Listener::Unix(listener, path.to_owned()))
}

enum Socket {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

impl Socket {
    /// Says that there is no room, if that can be said at once.
    fn refuse(self) {
        let _ = match self {
            Self::Tcp(stream, _) => stream.try_write(FULL),
            Self::Unix(stream) => stream.try_write(FULL),
        };
    }
}

async fn accept(listeners: &[Listener]) -> io::Result<Socket> {
    poll_fn(|cx| {
        for listener in listeners {
            let found = match listener {
                Listener::Tcp(l) => l
                    .poll_accept(cx)
                    .map(|r| r.map(|(s, peer)| Socket::Tcp(s, peer))),
                Listener::Unix(l, _) => l.poll_accept(cx).map(|r| r.map(|(s, _)| Socket::Unix(s))),
            };
            if found.is_ready() {
                return found;
            }
        }
        Poll::Pending
    })
    .await
}

/// What a connection is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Nothing was ever said.
    New,
    /// Nothing was asked since the last answer.
    Idle,
    /// A question has begun.
    Head,
    /// An answer goes out.
    Writing,
    /// All was said; what still comes is thrown away.
    Leaving,
}

impl At {
    /// Nobody waits for anything here.
    const fn is_silent(self) -> bool {
        matches!(self, Self::New | Self::Idle)
    }
}

/// Where a connection is, and since when. Changed only from its own task.
struct Place(Mutex<(At, Instant)>);

impl Place {
    fn set(&self, at: At) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (at, Instant::now());
    }

    fn get(&self) -> (At, Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deadline(&self, limits: &Limits) -> (Instant, &'static str) {
        let (at, since) = self.get();
        let (allowed, word) = match at {
            At::Idle => (limits.idle, "idle"),
            At::New | At::Head => (limits.header, "header"),
            At::Writing => (limits.write, "write"),
            At::Leaving => (LINGER, "linger"),
        };
        (since + allowed, word)
    }
}

/// A stream whose passing bytes tell where the connection is.
struct Watched<S> {
    inner: S,
    place: Arc<Place>,
    seat: Arc<Seat>,
    /// The write side is closed; so many bytes were thrown away since.
    thrown: Option<usize>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        if buf.filled().len() > before && self.place.get().0.is_silent() {
            self.place.set(At::Head);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    /// hyper flushes when all that it had to write is written: the answer is out.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
        if self.place.get().0 == At::Writing {
            self.place.set(At::Idle);
            self.seat.waiting();
        }
        Poll::Ready(Ok(()))
    }

    /// Closes our side, then takes what still comes for a while: closing with unread bytes would reset the connection, and the
    /// client would lose the answer that tells it what was wrong.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.thrown.is_none() {
            ready!(Pin::new(&mut this.inner).poll_shutdown(cx))?;
            this.place.set(At::Leaving);
            this.seat.waiting();
            this.thrown = Some(0);
        }
        let mut sink = [0; 4096];
        loop {
            let mut buf = ReadBuf::new(&mut sink);
            match ready!(Pin::new(&mut this.inner).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => {
                    let thrown = this.thrown.unwrap_or(0) + buf.filled().len();
                    this.thrown = Some(thrown);
                    if thrown > LINGER_BYTES {
                        return Poll::Ready(Ok(()));
                    }
                }
                _ => return Poll::Ready(Ok(())),
            }
        }
    }
}

/// One connection, until it ends, is overdue, loses its seat, or everything stops.
async fn serve<S>(
    stream: S,
    client: Client,
    seat: Seat,
    shared: Arc<Shared>,
    mut stopping: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let seat = Arc::new(seat);
    let place = Arc::new(Place(Mutex::new((At::New, Instant::now()))));
    let io = TokioIo::new(Watched {
        inner: stream,
        place: Arc::clone(&place),
        seat: Arc::clone(&seat),
        thrown: None,
    });
    let service = service_fn(|request: Request<Incoming>| {
        seat.busy();
        let answer = answer(&shared, client, &request);
        place.set(At::Writing);
        std::future::ready(Ok::<_, std::convert::Infallible>(answer))
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .header_read_timeout(None)
        .max_header_size(HEAD_MAX)
        .max_buf_size(BUFFER)
        .max_headers(HEADERS)
        .serve_connection(io, service);
    let mut connection = pin!(connection);
    let mut lost = pin!(seat.lost());
    let mut stop = pin!(stopping.wait_for(|s| *s));
    let mut told = false;
    let (due, _) = place.deadline(&shared.limits);
    let mut timer = pin!(tokio::time::sleep_until(due));
    poll_fn(|cx| {
        if !told && stop.as_mut().poll(cx).is_ready() {
            told = true;
            connection.as_mut().graceful_shutdown();
        }
        if connection.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if told && place.get().0.is_silent() {
            return Poll::Ready(());
        }
        if lost.as_mut().poll(cx).is_ready() {
            shared.desk.counters().refused("pushed_out");
            return Poll::Ready(());
        }
        // The connection was polled just now, so this is where it is.
        loop {
            let (due, word) = place.deadline(&shared.limits);
            if timer.deadline() != due {
                timer.as_mut().reset(due);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if due <= Instant::now() {
                if word == "header" || word == "write" {
                    shared.desk.counters().refused(word);
                }
                return Poll::Ready(());
            }
        }
    })
    .await;
}

fn answer(shared: &Shared, client: Client, request: &Request<Incoming>) -> crate::answer::Answer {
    let uri = request.uri();
    let asked = shared
        .rates
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .ask(client, shared.desk.monotonic());
    if let Err(wait) = asked {
        return shared.desk.too_often(uri.path(), wait);
    }
    shared.desk.answer(&Question {
        method: request.method(),
        path: uri.path(),
        query: uri.query(),
        authorization: request.headers().get(AUTHORIZATION).map(|v| v.as_bytes()),
        has_body: !request.body().is_end_stream(),
        local: client == Client::Local,
    })
}

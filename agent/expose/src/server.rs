//! Sockets: listening on TCP and unix sockets, who gets a seat, stopping in good order.
//!
//! HTTP/1.1 by hyper. Each connection is one task that holds one seat ([`crate::connection`]); all of them are joined before
//! [`Server::run`] returns. Who finds the house full of people who are being answered waits for a moment: one of them is soon done, or
//! too slow to be spared.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use crate::answer::{Desk, Door};
use crate::connection::{House, Visitor, serve};
use crate::counters::Counters;
use crate::facts::{Clock, Facts};
use crate::limits::{BACKLOG, Limits, QUEUE, QUEUE_EACH, QUEUE_LOOK, QUEUED, SEND_BUFFER, UPKEEP};
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
    /// The file with the bearer token; see [`crate::answer`] for what needs it.
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
    Tcp(TcpListener, Door),
    Unix(UnixListener, PathBuf),
}

/// A server that listens.
pub struct Server {
    listeners: Vec<Listener>,
    house: Arc<House>,
    token: Option<TokenFile>,
    beat: Instant,
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
            house: Arc::new(House {
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
                Listener::Tcp(l, _) => l.local_addr().ok(),
                Listener::Unix(..) => None,
            })
            .collect()
    }

    /// Serves until it is told to stop, or whoever gives orders is gone. Connections then may finish the answer that they are
    /// at; after [`Limits::stop`] the rest is cut off. Nothing runs any more when this returns.
    pub async fn run(mut self, mut orders: watch::Receiver<Order>) {
        let (stop, stopping) = watch::channel(false);
        let mut tasks = Tasks {
            connections: JoinSet::new(),
            stopping,
        };
        let mut queue = VecDeque::new();
        let mut next_look = Instant::now();
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
                Order::Drain => self.house.desk.drain(),
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
                    _ = upkeep.tick() => self.house.desk.counters().upkeep(),
                    _ = look.tick(), if self.token.is_some() => {
                        if let Some(token) = &mut self.token {
                            token.look(false).await;
                        }
                    }
                    Some(_) = tasks.connections.join_next() => self.seat_queued(&mut queue, false, &mut tasks),
                    () = tokio::time::sleep_until(next_look), if !queue.is_empty() => {
                        next_look = Instant::now() + QUEUE_LOOK;
                        self.seat_queued(&mut queue, true, &mut tasks);
                    }
                    () = tokio::time::sleep_until(paused.unwrap_or_else(Instant::now)), if paused.is_some() => paused = None,
                    accepted = accept(&self.listeners), if paused.is_none() => match accepted {
                        Ok(visit) => self.receive(visit, &mut queue, &mut tasks),
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
        self.house.desk.drain();
        for listener in self.listeners.drain(..) {
            if let Listener::Unix(socket, path) = listener {
                drop(socket);
                let _ = std::fs::remove_file(path);
            }
        }
        drop(queue);
        let _ = stop.send(true);
        let mut connections = tasks.connections;
        let finish = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(self.house.limits.stop, finish)
            .await
            .is_err()
        {
            connections.shutdown().await;
        }
    }

    /// A seat for one who comes in, or a place in the queue, or 503.
    fn receive(&self, visit: Visit, queue: &mut VecDeque<Queued>, tasks: &mut Tasks) {
        let now = Instant::now();
        let client = visit.visitor.client;
        // Who comes later does not go before those who wait.
        if queue.is_empty() {
            if let Some(seat) = self.house.seats.take(client, now) {
                return self.seat(visit, seat, tasks);
            }
        }
        let own = queue
            .iter()
            .filter(|q| q.visit.visitor.client == client)
            .count();
        if queue.len() < QUEUE && own < QUEUE_EACH {
            queue.push_back(Queued {
                visit,
                until: now + QUEUED,
            });
        } else {
            self.refuse(visit);
        }
    }

    /// Seats the first ones of the queue, until there is no seat for one of them; with `all` looks at each, and sends away who waited
    /// long enough.
    fn seat_queued(&self, queue: &mut VecDeque<Queued>, all: bool, tasks: &mut Tasks) {
        let now = Instant::now();
        for _ in 0..queue.len() {
            let Some(queued) = queue.pop_front() else {
                return;
            };
            match self.house.seats.take(queued.visit.visitor.client, now) {
                Some(seat) => self.seat(queued.visit, seat, tasks),
                None if !all => return queue.push_front(queued),
                None if queued.until <= now => self.refuse(queued.visit),
                // Another client may find a seat where this one does not.
                None => queue.push_back(queued),
            }
        }
    }

    fn refuse(&self, visit: Visit) {
        self.house.desk.counters().refused("full");
        visit.socket.refuse();
    }

    fn seat(&self, visit: Visit, seat: Seat, tasks: &mut Tasks) {
        let Visit { socket, visitor } = visit;
        let (house, stopping) = (Arc::clone(&self.house), tasks.stopping.clone());
        match socket {
            Socket::Tcp(stream) => {
                // Answers are written whole: do not wait for more to send.
                let _ = stream.set_nodelay(true);
                tasks
                    .connections
                    .spawn(serve(stream, visitor, seat, house, stopping));
            }
            Socket::Unix(stream) => {
                tasks
                    .connections
                    .spawn(serve(stream, visitor, seat, house, stopping));
            }
        }
    }
}

/// Connections that are served, and what tells them to end.
struct Tasks {
    connections: JoinSet<()>,
    stopping: watch::Receiver<bool>,
}

/// One who has come in.
struct Visit {
    socket: Socket,
    visitor: Visitor,
}

/// One who waits for a seat.
struct Queued {
    visit: Visit,
    until: Instant,
}

fn tcp(address: SocketAddr) -> io::Result<Listener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    socket.set_reuseaddr(true)?;
    // Connections inherit it.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(address)?;
    let door = if address.ip().to_canonical().is_loopback() {
        Door::Loopback
    } else {
        Door::Network
    };
    Ok(Listener::Tcp(socket.listen(BACKLOG)?, door))
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
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// Says that there is no room, if that can be said at once.
    fn refuse(self) {
        let _ = match self {
            Self::Tcp(stream) => stream.try_write(FULL),
            Self::Unix(stream) => stream.try_write(FULL),
        };
    }
}

async fn accept(listeners: &[Listener]) -> io::Result<Visit> {
    poll_fn(|cx| {
        for listener in listeners {
            let found = match listener {
                Listener::Tcp(l, door) => l.poll_accept(cx).map_ok(|(stream, peer)| Visit {
                    socket: Socket::Tcp(stream),
                    visitor: Visitor {
                        client: Client::of(peer.ip()),
                        door: *door,
                    },
                }),
                Listener::Unix(l, _) => l.poll_accept(cx).map_ok(|(stream, _)| Visit {
                    socket: Socket::Unix(stream),
                    visitor: Visitor {
                        client: Client::Local,
                        door: Door::Unix,
                    },
                }),
            };
            if found.is_ready() {
                return found;
            }
        }
        Poll::Pending
    })
    .await
}

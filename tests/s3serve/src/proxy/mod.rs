//! A TCP proxy that breaks connections on command. It knows nothing of HTTP: what it does can happen on any network.

mod pump;
mod rules;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::control::{self, Control};
use crate::host::Host;
use pump::End;
use rules::LinkRules;
pub use rules::{Cause, Fault, Link, LinkRule, Side};

/// A black hole keeps its connections so long.
const HOLE: Duration = Duration::from_secs(600);

/// How a proxy is started.
#[derive(Clone)]
pub struct ProxyConfig {
    /// Where it takes connections.
    pub listen: SocketAddr,
    /// Where they go.
    pub upstream: SocketAddr,
    /// Where it is controlled; `None`: not at all (the handle does the same).
    pub control: Option<SocketAddr>,
    /// Where chance comes from.
    pub seed: u64,
    /// What the line is like at first.
    pub link: Link,
}

impl ProxyConfig {
    /// A good line to this address.
    pub fn to(upstream: SocketAddr) -> Self {
        ProxyConfig {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            upstream,
            control: None,
            seed: 1,
            link: Link::default(),
        }
    }
}

/// What went through.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct LinkStats {
    /// Connections taken.
    pub connections: u64,
    /// Connections that are open now.
    pub open: u64,
    /// Bytes passed on towards the server.
    pub up: u64,
    /// Bytes passed on towards the client.
    pub down: u64,
    /// Faults that were given to connections (a connection may end before its fault's point).
    pub faults: u64,
}

/// Counters of a proxy.
#[derive(Default)]
pub(crate) struct Meter {
    connections: AtomicU64,
    open: AtomicU64,
    pub(crate) up: AtomicU64,
    pub(crate) down: AtomicU64,
}

pub(crate) struct Shared {
    upstream: SocketAddr,
    link: Mutex<Link>,
    rules: Mutex<LinkRules>,
    meter: Meter,
    /// Grows when all connections shall be cut.
    cut: watch::Sender<u64>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl Shared {
    fn stats(&self) -> LinkStats {
        LinkStats {
            connections: self.meter.connections.load(Relaxed),
            open: self.meter.open.load(Relaxed),
            up: self.meter.up.load(Relaxed),
            down: self.meter.down.load(Relaxed),
            faults: lock(&self.rules).fired(),
        }
    }
    fn cut_all(&self) {
        self.cut.send_modify(|n| *n += 1);
    }
}

/// A proxy that runs; stopped when dropped.
pub struct Proxy {
    shared: Arc<Shared>,
    at: SocketAddr,
    control: Option<SocketAddr>,
    _host: Host,
}

impl Proxy {
    /// Starts it; it takes connections when this returns.
    pub fn start(config: ProxyConfig) -> io::Result<Proxy> {
        let host = Host::start("s3link")?;
        let listener = host.listen(config.listen)?;
        let at = listener.local_addr()?;
        let shared = Arc::new(Shared {
            upstream: config.upstream,
            link: Mutex::new(config.link),
            rules: Mutex::new(LinkRules::new(config.seed)),
            meter: Meter::default(),
            cut: watch::Sender::new(0),
        });
        host.spawn(accept(listener, shared.clone()));
        let mut control_at = None;
        if let Some(control) = config.control {
            let control = host.listen(control)?;
            control_at = Some(control.local_addr()?);
            host.spawn(control::serve(control, Arc::new(Remote(shared.clone()))));
        }
        Ok(Proxy {
            shared,
            at,
            control: control_at,
            _host: host,
        })
    }
    /// Where it is, for clients of HTTP.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.at)
    }
    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.at
    }
    /// Where it is controlled.
    pub fn control(&self) -> Option<String> {
        self.control.map(|at| format!("http://{at}"))
    }
    /// Changes what the line is like, for connections that come from now on.
    pub fn link(&self, link: Link) {
        *lock(&self.shared.link) = link;
    }
    /// Adds a rule, for connections that come from now on.
    pub fn rule(&self, rule: LinkRule) {
        lock(&self.shared.rules).add(rule);
    }
    /// Removes all rules.
    pub fn clear_rules(&self) {
        lock(&self.shared.rules).clear();
    }
    /// Resets all connections that are open now.
    pub fn cut_all(&self) {
        self.shared.cut_all();
    }
    /// What went through.
    pub fn stats(&self) -> LinkStats {
        self.shared.stats()
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let faults = lock(&shared.rules).decide();
        let link = *lock(&shared.link);
        let shared = shared.clone();
        shared.meter.connections.fetch_add(1, Relaxed);
        tokio::spawn(async move {
            shared.meter.open.fetch_add(1, Relaxed);
            carry(client, &shared, link, faults).await;
            shared.meter.open.fetch_sub(1, Relaxed);
        });
    }
}

/// Carries one connection to its end.
async fn carry(mut client: TcpStream, shared: &Shared, link: Link, faults: Vec<Fault>) {
    let mut cut = shared.cut.subscribe();
    let Ok(mut server) = TcpStream::connect(shared.upstream).await else {
        // as if nobody listened
        reset(client);
        return;
    };
    // latency is ours to add, not the kernel's
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let end = tokio::select! {
        end = pump::both(&mut client, &mut server, link, &faults, &shared.meter) => end,
        _ = cut.changed() => End::Reset,
    };
    match end {
        End::Closed => {}
        End::Reset => {
            reset(client);
            reset(server);
        }
        End::BlackHole => {
            // both stay open and are not read; a client that gives up cannot be told from one that only ended its side
            tokio::select! {
                () = tokio::time::sleep(HOLE) => {}
                _ = cut.changed() => {}
            }
        }
    }
}

/// Closes with RST instead of FIN.
fn reset(stream: TcpStream) {
    // where this fails, the other side gets a FIN: an end too
    let _ = stream.set_zero_linger();
}

/// The control endpoint of a proxy.
struct Remote(Arc<Shared>);

impl Control for Remote {
    fn control(&self, method: &str, path: &str, body: &[u8]) -> Option<Result<Value, String>> {
        let shared = &self.0;
        Some(match (method, path) {
            ("GET", "") => control::write(json!({
                "upstream": shared.upstream.to_string(),
                "link": *lock(&shared.link),
                "rules": lock(&shared.rules).all(),
            })),
            ("PATCH" | "POST", "link") => {
                let old = *lock(&shared.link);
                control::change(&old, body).map(|new: Link| {
                    *lock(&shared.link) = new;
                    Value::Null
                })
            }
            ("POST", "rules") => control::read_all::<LinkRule>(body).map(|new| {
                let mut rules = lock(&shared.rules);
                new.into_iter().for_each(|r| rules.add(r));
                Value::Null
            }),
            ("DELETE", "rules") => {
                lock(&shared.rules).clear();
                Ok(Value::Null)
            }
            ("POST", "cut") => {
                shared.cut_all();
                Ok(Value::Null)
            }
            ("GET", "stats") => control::write(shared.stats()),
            _ => return None,
        })
    }
}

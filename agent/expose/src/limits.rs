//! Every bound of the endpoint, with what it costs.

use std::time::Duration;

/// Bytes of a request's line and headers. Beyond it: 431.
pub const HEAD_MAX: usize = 8 << 10;
/// Bytes that one connection reads ahead, head and pipelined requests together. With [`Limits::connections`] 4 MiB at worst.
pub const BUFFER: usize = 16 << 10;
/// Headers of a request. Beyond it: 431.
pub const HEADERS: usize = 64;
/// Bytes of a path with its query. Beyond it: 414.
pub const TARGET_MAX: usize = 2 << 10;
/// Names in `?exclude=`. Beyond it: 400.
pub const EXCLUDES: usize = 64;
/// Clients whose rate is remembered, 64 bytes each: 64 KiB. When all are in use the one that was quiet longest is forgotten.
pub const CLIENTS: usize = 1024;
/// Bytes of `/metrics` at most; a host with 50 checks has some 150 KB. What does not fit is left out by whole families, and a
/// metric says so. All who fetch it within [`SHARED`] get the same bytes, however slowly they read: at worst one page for each second
/// that an answer may take, `write / SHARED × TEXT_MAX`, and 3 MB of usual ones.
pub const TEXT_MAX: usize = 2 << 20;
/// For how long a page that somebody still reads is given to others, too. Nobody reads it: it is gone, and the next is a new one.
pub const SHARED: Duration = Duration::from_secs(1);
/// What the kernel buffers of one connection's answers (it doubles this): with [`Limits::connections`] 32 MiB at worst. An answer may
/// be longer; the rest waits in the shared page.
pub const SEND_BUFFER: u32 = 64 << 10;
/// In a full house who took nothing of its answer for so long gives up its seat. A reader far away takes something in each round trip.
pub const STALLED: Duration = Duration::from_millis(250);
/// And who is at one answer for so long, even if it takes a little now and then.
pub const SLOW: Duration = Duration::from_secs(1);
/// Connections that wait in the kernel to be accepted.
pub const BACKLOG: u32 = 1024;
/// Connections that wait for a seat; one file descriptor each.
pub const QUEUE: usize = 128;
/// Of one client.
pub const QUEUE_EACH: usize = 4;
/// For how long they wait; beyond it, 503. Longer than [`SLOW`], so that there is a seat by then.
pub const QUEUED: Duration = Duration::from_millis(1500);
/// How often it is looked whether there is a seat for them.
pub const QUEUE_LOOK: Duration = Duration::from_millis(25);
/// Characters of a label's value that are kept.
pub const LABEL_MAX: usize = 128;
/// What is still read and thrown away after the last answer of a connection, so that the client gets to read that answer
/// instead of a reset.
pub const LINGER_BYTES: usize = 2 << 20;
/// For how long.
pub const LINGER: Duration = Duration::from_secs(1);
/// How often samples of histograms are folded into their buckets, whether or not anybody scrapes: they pile up until then
/// (16 bytes each: 2.4 MB after a flood of 10,000 requests a second).
pub const UPKEEP: Duration = Duration::from_secs(15);
/// A scheduler tick older than this is a hanging agent.
pub const TICK_MAX: Duration = Duration::from_secs(30);
/// Startup counts as done after this, even when a critical check has not run yet.
pub const STARTUP: Duration = Duration::from_secs(120);
/// Characters of a text in a JSON answer.
pub const SENTENCE: usize = 300;
/// Bytes of a bearer token.
pub const TOKEN_MAX: usize = 4096;

/// Rows of each kind that are shown; the rest is left out and `keepwatch_collector_success{collector="exporter"}` is 0.
pub mod rows {
    /// Checks; 40 series each.
    pub const CHECKS: usize = 500;
    /// Units that may be restarted.
    pub const UNITS: usize = 200;
    /// Backups; up to 46 series each.
    pub const BACKUPS: usize = 200;
    /// With more backups than this only what alerts need of each is shown, 14 series, or 19 with drills: so that a hundred have fewer
    /// than 2000.
    pub const DETAILED: usize = 32;
    /// Repositories.
    pub const REPOSITORIES: usize = 50;
    /// Keys, maintenance windows, collectors, alerts: each.
    pub const OTHERS: usize = 200;
    /// Values of a label that is no closed set (mount points of a check, operations of a repository).
    pub const VALUES: usize = 32;
}

/// Limits that an operator may set.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Connections over all listeners. Each costs about 24 KiB (buffers and a task): 6 MiB at worst.
    pub connections: usize,
    /// Connections of one client address (of one IPv6 /64; a unix socket is one client).
    pub per_client: usize,
    /// Requests per minute of one client, on average. Beyond it: 429.
    pub per_minute: u32,
    /// Requests that a client may make at once after a pause.
    pub burst: u32,
    /// From the first byte of a request, or from the connection, to the end of its headers.
    pub header: Duration,
    /// From the answer to its last byte handed to the kernel.
    pub write: Duration,
    /// Between two requests of one connection: longer than the usual scrape interval.
    pub idle: Duration,
    /// From the order to stop until what still runs is cut off.
    pub stop: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            per_client: 64,
            per_minute: 1200,
            burst: 300,
            header: Duration::from_secs(5),
            write: Duration::from_secs(10),
            idle: Duration::from_secs(90),
            stop: Duration::from_secs(5),
        }
    }
}

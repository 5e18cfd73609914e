//! What was asked and answered: counters by operation and status, bytes of bodies and of the wire, and the list of requests.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::Serialize;

/// Requests that are remembered; older ones are dropped (about 200 bytes each).
const REMEMBERED: usize = 100_000;

/// One request.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    /// Its number, from 1.
    pub n: u64,
    /// The AWS name of the operation.
    pub operation: String,
    /// The object's key, or a listing's prefix.
    pub key: String,
    /// The query string as it came.
    pub query: String,
    /// Who asked, as claimed.
    pub access_key: String,
    /// The status answered; 0: none.
    pub status: u16,
    /// The S3 error code answered.
    pub code: Option<String>,
    /// The value of `If-None-Match` or `If-Match`.
    pub condition: Option<String>,
    /// Headers that carry a checksum, by name.
    pub checksums: Vec<String>,
    /// Bytes of the request's body (framing included).
    pub bytes_in: u64,
    /// Bytes of the answer's body that were meant to be sent.
    pub bytes_out: u64,
    /// The rule's action, if one fired.
    pub fault: Option<String>,
}

/// Sums since the start or the last reset.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Stats {
    /// Requests.
    pub total: u64,
    /// Requests by operation.
    pub requests: BTreeMap<String, u64>,
    /// Requests by status (0: no answer).
    pub statuses: BTreeMap<u16, u64>,
    /// Bytes of requests' bodies.
    pub bytes_in: u64,
    /// Bytes of answers' bodies.
    pub bytes_out: u64,
    /// Rules that fired.
    pub faults: u64,
    /// Connections taken.
    pub connections: u64,
    /// Bytes read from sockets, headers included.
    pub wire_in: u64,
    /// Bytes written to sockets, headers included.
    pub wire_out: u64,
    /// Most requests that ran at once.
    pub peak: u64,
}

/// Where the server writes them down.
#[derive(Default)]
pub struct Book {
    inner: Mutex<(Stats, VecDeque<Record>, u64)>,
    /// Bytes read from sockets.
    pub wire_in: AtomicU64,
    /// Bytes written to sockets.
    pub wire_out: AtomicU64,
    /// Connections taken.
    pub connections: AtomicU64,
    running: AtomicU64,
    peak: AtomicU64,
}

impl Book {
    /// A request begins; the guard ends it.
    pub fn begin(&self) -> Running<'_> {
        let now = self.running.fetch_add(1, Relaxed) + 1;
        self.peak.fetch_max(now, Relaxed);
        Running(self)
    }
    /// A request was answered. Its number is given here.
    pub fn write(&self, mut record: Record) {
        let Ok(mut inner) = self.inner.lock() else {
            return;
        };
        let (stats, list, n) = &mut *inner;
        *n += 1;
        record.n = *n;
        stats.total += 1;
        *stats.requests.entry(record.operation.clone()).or_default() += 1;
        *stats.statuses.entry(record.status).or_default() += 1;
        stats.bytes_in += record.bytes_in;
        stats.bytes_out += record.bytes_out;
        stats.faults += u64::from(record.fault.is_some());
        if list.len() == REMEMBERED {
            list.pop_front();
        }
        list.push_back(record);
    }
    /// The sums.
    pub fn stats(&self) -> Stats {
        let mut stats = self.inner.lock().map(|i| i.0.clone()).unwrap_or_default();
        stats.wire_in = self.wire_in.load(Relaxed);
        stats.wire_out = self.wire_out.load(Relaxed);
        stats.connections = self.connections.load(Relaxed);
        stats.peak = self.peak.load(Relaxed);
        stats
    }
    /// The requests, oldest first.
    pub fn records(&self) -> Vec<Record> {
        self.inner
            .lock()
            .map(|i| i.1.iter().cloned().collect())
            .unwrap_or_default()
    }
    /// Begins anew; numbers go on.
    pub fn reset(&self) {
        if let Ok(mut inner) = self.inner.lock() {
            inner.0 = Stats::default();
            inner.1.clear();
        }
        for counter in [&self.wire_in, &self.wire_out, &self.connections] {
            counter.store(0, Relaxed);
        }
        self.peak.store(self.running.load(Relaxed), Relaxed);
    }
}

/// A request that runs.
pub struct Running<'a>(&'a Book);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Relaxed);
    }
}

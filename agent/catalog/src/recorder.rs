//! A bounded queue in front of the catalog, for a daemon: whoever judges a check never waits for a database.
//!
//! Records are gathered for a moment and stored together; what matters (anything but a raw result) is stored at once. A full
//! queue drops the oldest raw result first.
//!
//! At the end there is little time. For the first half of it the database is waited for, whatever hangs; what it has not taken by then, that
//! which is under way among it, goes to the spool. A record that the database took after all is imported once more and changes nothing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keepwatch_model::history::Entry;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use crate::catalog::Catalog;
use crate::text;

/// Records that wait. Texts are bounded as in the database: about 0.5 KiB for a usual record, so 4 MiB; 16 KiB for the largest.
pub const QUEUE_MAX: usize = 8192;
/// Raw results are stored when so many wait.
pub const GATHER_MAX: usize = 256;
/// The longest that raw results wait for others: what is lost of them when the daemon is killed.
pub const GATHER_WAIT: Duration = Duration::from_secs(60);

/// The queue. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Recorder {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Notify,
    /// The database is not waited for any more.
    give_up: watch::Sender<bool>,
}

#[derive(Default)]
struct Queue {
    entries: VecDeque<Entry>,
    urgent: bool,
    stopping: bool,
    dropped: u64,
    /// Records that are being stored.
    under_way: usize,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task that stores what is queued; ended by [`Writer::stop`].
pub struct Writer {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

/// A queue for a catalog, and the task that empties it every [`GATHER_WAIT`] from `beat` on. Must be called within a runtime.
pub fn start(catalog: Catalog, beat: Instant) -> (Recorder, Writer) {
    let shared = Arc::new(Shared {
        queue: Mutex::default(),
        wake: Notify::new(),
        give_up: watch::Sender::new(false),
    });
    let task = tokio::spawn(write(catalog, Arc::clone(&shared), beat));
    (
        Recorder {
            shared: Arc::clone(&shared),
        },
        Writer { shared, task },
    )
}

impl Recorder {
    /// Queues a record; never waits. `false` if one had to be dropped for it.
    pub fn push(&self, entry: Entry) -> bool {
        let entry = text::bounded(entry);
        let mut queue = self.shared.queue();
        let mut whole = true;
        if queue.entries.len() >= QUEUE_MAX {
            whole = false;
            queue.dropped += 1;
            match queue.entries.iter().position(Entry::is_raw) {
                Some(at) => drop(queue.entries.remove(at)),
                None if entry.is_raw() => return false,
                None => drop(queue.entries.pop_front()),
            }
        }
        let urgent = !entry.is_raw();
        queue.entries.push_back(entry);
        queue.urgent |= urgent;
        let due = queue.urgent || queue.entries.len() >= GATHER_MAX;
        drop(queue);
        if due {
            self.shared.wake.notify_one();
        }
        whole
    }

    /// Records that wait.
    pub fn waiting(&self) -> usize {
        self.shared.queue().entries.len()
    }

    /// Records that were dropped because the queue was full.
    pub fn dropped_total(&self) -> u64 {
        self.shared.queue().dropped
    }
}

impl Writer {
    /// Stores what is queued, and ends: in the database for half of the time, then in the spool. What is not stored by the deadline
    /// counts as lost; its number is returned.
    pub async fn stop(self, deadline: Duration) -> usize {
        self.shared.queue().stopping = true;
        self.shared.wake.notify_one();
        let mut task = self.task;
        let patience = deadline / 2;
        if timeout(patience, &mut task).await.is_err() {
            self.shared.give_up.send_replace(true);
            if timeout(deadline - patience, &mut task).await.is_err() {
                task.abort();
                let _ = task.await;
            }
        }
        let queue = self.shared.queue();
        let left = queue.entries.len() + queue.under_way;
        drop(queue);
        if left > 0 {
            tracing::error!(
                left,
                "catalog: records are lost, there was no time to store them"
            );
        }
        left
    }
}

async fn write(catalog: Catalog, shared: Arc<Shared>, beat: Instant) {
    let mut giving_up = shared.give_up.subscribe();
    let mut every = interval_at(beat, GATHER_WAIT);
    every.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            () = shared.wake.notified() => {}
            _ = every.tick() => {}
        }
        // What comes meanwhile and can wait, waits: storing has its price.
        let mut due = shared.queue().entries.len();
        while due > 0 {
            let batch: Vec<Entry> = {
                let mut queue = shared.queue();
                queue.urgent = false;
                // The spool takes any number at once, and syncs once for them.
                let most = match *giving_up.borrow() {
                    true => QUEUE_MAX,
                    false => GATHER_MAX,
                };
                let count = queue.entries.len().min(most);
                queue.under_way = count;
                queue.entries.drain(..count).collect()
            };
            if batch.is_empty() {
                break;
            }
            due = due.saturating_sub(batch.len());
            let given_up = async {
                if giving_up.wait_for(|given_up| *given_up).await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            catalog.record_until(given_up, batch).await;
            let mut queue = shared.queue();
            queue.under_way = 0;
            if queue.urgent || queue.stopping || queue.entries.len() >= GATHER_MAX {
                due = queue.entries.len();
            }
        }
        if shared.queue().stopping {
            return;
        }
    }
}

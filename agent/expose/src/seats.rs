//! Who may be connected: a bounded number of seats over all clients and for each.
//!
//! A client that holds all its seats and connects once more loses the one on which it has waited longest without a complete
//! request. So one who opens connections and says nothing (slowloris) hinders nobody, not even an honest neighbour behind the
//! same address: the neighbour's request is complete within a moment, the silent ones push each other out. When the house is
//! full, the client with the most seats gives one up. A connection that is being answered is never taken away.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::rate::Client;

/// The house.
#[derive(Debug)]
pub struct Seats {
    total: usize,
    per_client: usize,
    taken: Mutex<HashMap<u64, Entry>>,
    next: AtomicU64,
}

#[derive(Debug)]
struct Entry {
    client: Client,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    busy: AtomicBool,
    leave: Notify,
    /// Order of the last change from busy to waiting, or of the beginning.
    waiting_since: AtomicU64,
    /// It was told to leave; its place is another's now.
    gone: AtomicBool,
}

/// A seat; given back when dropped.
#[derive(Debug)]
pub struct Seat {
    id: u64,
    house: Arc<Seats>,
    shared: Arc<Shared>,
}

impl Seats {
    /// So many over all, so many for one.
    pub fn new(total: usize, per_client: usize) -> Arc<Self> {
        Arc::new(Self {
            total: total.max(1),
            per_client: per_client.clamp(1, total.max(1)),
            taken: Mutex::default(),
            next: AtomicU64::new(1),
        })
    }

    /// A seat for this client; none when there is nobody who could make room.
    pub fn take(self: &Arc<Self>, client: Client) -> Option<Seat> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.values().filter(|e| e.client == client).count();
        let evicted = if own >= self.per_client {
            Some(Self::longest_waiting(&taken, client)?)
        } else if taken.len() >= self.total {
            Some(Self::of_the_greediest(&taken, client)?)
        } else {
            None
        };
        if let Some(entry) = evicted.and_then(|id| taken.remove(&id)) {
            entry.shared.gone.store(true, Ordering::Relaxed);
            entry.shared.leave.notify_one();
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let shared = Arc::new(Shared::default());
        shared.waiting_since.store(id, Ordering::Relaxed);
        taken.insert(
            id,
            Entry {
                client,
                shared: Arc::clone(&shared),
            },
        );
        Some(Seat {
            id,
            house: Arc::clone(self),
            shared,
        })
    }

    fn longest_waiting(taken: &HashMap<u64, Entry>, client: Client) -> Option<u64> {
        taken
            .iter()
            .filter(|(_, e)| e.client == client && !e.shared.busy.load(Ordering::Relaxed))
            .min_by_key(|(_, e)| e.shared.waiting_since.load(Ordering::Relaxed))
            .map(|(id, _)| *id)
    }

    fn of_the_greediest(taken: &HashMap<u64, Entry>, asking: Client) -> Option<u64> {
        let mut counts: HashMap<Client, usize> = HashMap::new();
        for e in taken.values() {
            *counts.entry(e.client).or_default() += 1;
        }
        // One more for who asks: with equal numbers, it is the asking one who gives way.
        *counts.entry(asking).or_default() += 1;
        let mut order: Vec<_> = counts.into_iter().collect();
        order.sort_by_key(|(c, n)| (std::cmp::Reverse(*n), *c != asking));
        order
            .into_iter()
            .find_map(|(client, _)| Self::longest_waiting(taken, client))
    }

    /// Seats that are taken.
    pub fn taken(&self) -> usize {
        self.taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }
}

impl Seat {
    /// A complete request is here: the seat is not taken away until [`Self::waiting`].
    pub fn busy(&self) {
        self.shared.busy.store(true, Ordering::Relaxed);
    }

    /// The answer is out.
    pub fn waiting(&self) {
        if self.shared.busy.swap(false, Ordering::Relaxed) {
            let order = self.house.next.fetch_add(1, Ordering::Relaxed);
            self.shared.waiting_since.store(order, Ordering::Relaxed);
        }
    }

    /// Returns when the seat was given to another.
    pub async fn lost(&self) {
        while !self.shared.gone.load(Ordering::Relaxed) {
            self.shared.leave.notified().await;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.house
            .taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn client(n: u32) -> Client {
        Client::Net(IpAddr::V4(n.into()))
    }

    fn is_lost(seat: &Seat) -> bool {
        seat.shared.gone.load(Ordering::Relaxed)
    }

    #[test]
    fn the_silent_push_each_other_out() {
        let house = Seats::new(10, 3);
        let a: Vec<_> = (0..3).map(|_| house.take(client(1)).unwrap()).collect();
        let b = house.take(client(2)).unwrap();
        a[0].busy();
        let fourth = house.take(client(1)).unwrap();
        assert_eq!(
            [is_lost(&a[0]), is_lost(&a[1]), is_lost(&a[2]), is_lost(&b)],
            [false, true, false, false]
        );
        assert_eq!(house.taken(), 4);
        // One that has just been answered goes after those that wait longer.
        a[0].waiting();
        let fifth = house.take(client(1)).unwrap();
        assert!(is_lost(&a[2]) && !is_lost(&a[0]));
        for s in [&a[0], &fourth, &fifth] {
            s.busy();
        }
        assert!(house.take(client(1)).is_none(), "all are being answered");
        drop((a, b, fourth, fifth));
        assert_eq!(house.taken(), 0);
    }

    #[test]
    fn in_a_full_house_the_greediest_gives_way() {
        let house = Seats::new(6, 4);
        let one: Vec<_> = (0..4).map(|_| house.take(client(1)).unwrap()).collect();
        let _two: Vec<_> = (0..2).map(|_| house.take(client(2)).unwrap()).collect();
        let three = house.take(client(3)).unwrap();
        assert!(is_lost(&one[0]));
        assert!(!is_lost(&three));
        assert_eq!(house.taken(), 6);
        one.iter().for_each(Seat::busy);
        assert!(
            house.take(client(3)).is_some(),
            "another than the busy one gives way"
        );
    }

    #[tokio::test]
    async fn who_loses_its_seat_hears_of_it_even_if_it_listens_late() {
        let house = Seats::new(1, 1);
        let a = house.take(client(1)).unwrap();
        let _b = house.take(client(1)).unwrap();
        tokio::time::timeout(std::time::Duration::from_secs(5), a.lost())
            .await
            .unwrap();
    }
}

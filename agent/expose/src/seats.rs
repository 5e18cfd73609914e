//! Who may be connected: a bounded number of seats over all clients and for each.
//!
//! A client that holds all its seats and connects once more loses the one on which it has waited longest without a complete
//! request. So one who opens connections and says nothing (slowloris) hinders nobody, not even an honest neighbour behind the
//! same address: the neighbour's request is complete within a moment, the silent ones push each other out. When the house is
//! full, the client with the most seats gives one up.
//!
//! A connection that is being answered keeps its seat as long as its client takes the answer. One that took nothing for
//! [`STALLED`], or is at one answer for [`SLOW`], gives its seat up when there is nobody else to do so: else as many slow readers as
//! there are seats would shut everybody out for the whole time that an answer may take.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::limits::{SLOW, STALLED};
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
    /// The answer that goes out.
    answer: Mutex<Option<Answering>>,
    leave: Notify,
    /// Order of the last change from busy to waiting, or of the beginning.
    waiting_since: AtomicU64,
    /// It was told to leave; its place is another's now.
    gone: AtomicBool,
}

/// An answer that goes out.
#[derive(Clone, Copy, Debug)]
struct Answering {
    since: Instant,
    /// Since when the client takes nothing.
    stalled: Option<Instant>,
}

impl Answering {
    /// Since when this one is too slow to be spared; none while it is not.
    fn slow(self, now: Instant) -> Option<Instant> {
        let stalled = self
            .stalled
            .filter(|since| now.saturating_duration_since(*since) >= STALLED);
        stalled
            .or_else(|| (now.saturating_duration_since(self.since) >= SLOW).then_some(self.since))
    }
}

impl Shared {
    fn answer(&self) -> Option<Answering> {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Option<Answering>)) {
        change(&mut self.answer.lock().unwrap_or_else(PoisonError::into_inner));
    }
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

    /// A seat for this client; none when there is nobody who could make room now.
    pub fn take(self: &Arc<Self>, client: Client, now: Instant) -> Option<Seat> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.values().filter(|e| e.client == client).count();
        let evicted = if own >= self.per_client {
            let found = Self::longest_waiting(&taken, client);
            Some(found.or_else(|| Self::slowest(&taken, now, Some(client)))?)
        } else if taken.len() >= self.total {
            let found = Self::of_the_greediest(&taken, client);
            Some(found.or_else(|| Self::slowest(&taken, now, None))?)
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
            .filter(|(_, e)| e.client == client && e.shared.answer().is_none())
            .min_by_key(|(_, e)| e.shared.waiting_since.load(Ordering::Relaxed))
            .map(|(id, _)| *id)
    }

    fn of_the_greediest(taken: &HashMap<u64, Entry>, asking: Client) -> Option<u64> {
        let mut counts = Self::counts(taken);
        // One more for who asks: with equal numbers, it is the asking one who gives way.
        *counts.entry(asking).or_default() += 1;
        let mut order: Vec<_> = counts.into_iter().collect();
        order.sort_by_key(|(c, n)| (std::cmp::Reverse(*n), *c != asking));
        order
            .into_iter()
            .find_map(|(client, _)| Self::longest_waiting(taken, client))
    }

    /// Of those who are too slow (of this client, or of all) the one of the client with the most seats, and of these the one that is
    /// slow for the longest time.
    fn slowest(taken: &HashMap<u64, Entry>, now: Instant, of: Option<Client>) -> Option<u64> {
        let counts = Self::counts(taken);
        taken
            .iter()
            .filter(|(_, e)| of.is_none_or(|client| e.client == client))
            .filter_map(|(id, e)| Some((id, e.client, e.shared.answer()?.slow(now)?)))
            .min_by_key(|(id, client, since)| {
                let seats = counts.get(client).copied().unwrap_or(0);
                (std::cmp::Reverse(seats), *since, **id)
            })
            .map(|(id, ..)| *id)
    }

    fn counts(taken: &HashMap<u64, Entry>) -> HashMap<Client, usize> {
        let mut counts = HashMap::new();
        for e in taken.values() {
            *counts.entry(e.client).or_default() += 1;
        }
        counts
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
    /// A complete request is here: the seat is kept until [`Self::waiting`], unless the answer is taken too slowly.
    pub fn busy(&self, now: Instant) {
        self.shared.change(|answer| {
            *answer = Some(Answering {
                since: now,
                stalled: None,
            });
        });
    }

    /// The client takes nothing of its answer just now.
    pub fn stalled(&self, now: Instant) {
        self.shared.change(|answer| {
            if let Some(answer) = answer {
                answer.stalled.get_or_insert(now);
            }
        });
    }

    /// It took something.
    pub fn moved(&self) {
        self.shared.change(|answer| {
            if let Some(answer) = answer {
                answer.stalled = None;
            }
        });
    }

    /// The answer is out.
    pub fn waiting(&self) {
        let mut was_busy = false;
        self.shared
            .change(|answer| was_busy = answer.take().is_some());
        if was_busy {
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
    use std::time::Duration;

    fn client(n: u32) -> Client {
        Client::Net(IpAddr::V4(n.into()))
    }

    fn is_lost(seat: &Seat) -> bool {
        seat.shared.gone.load(Ordering::Relaxed)
    }

    #[test]
    fn the_silent_push_each_other_out() {
        let house = Seats::new(10, 3);
        let now = Instant::now();
        let take = |n| house.take(client(n), now);
        let a: Vec<_> = (0..3).map(|_| take(1).unwrap()).collect();
        let b = take(2).unwrap();
        a[0].busy(now);
        let fourth = take(1).unwrap();
        assert_eq!(
            [is_lost(&a[0]), is_lost(&a[1]), is_lost(&a[2]), is_lost(&b)],
            [false, true, false, false]
        );
        assert_eq!(house.taken(), 4);
        // One that has just been answered goes after those that wait longer.
        a[0].waiting();
        let fifth = take(1).unwrap();
        assert!(is_lost(&a[2]) && !is_lost(&a[0]));
        for s in [&a[0], &fourth, &fifth] {
            s.busy(now);
        }
        assert!(take(1).is_none(), "all are being answered");
        drop((a, b, fourth, fifth));
        assert_eq!(house.taken(), 0);
    }

    #[test]
    fn in_a_full_house_the_greediest_gives_way() {
        let house = Seats::new(6, 4);
        let now = Instant::now();
        let take = |n| house.take(client(n), now);
        let one: Vec<_> = (0..4).map(|_| take(1).unwrap()).collect();
        let _two: Vec<_> = (0..2).map(|_| take(2).unwrap()).collect();
        let three = take(3).unwrap();
        assert!(is_lost(&one[0]));
        assert!(!is_lost(&three));
        assert_eq!(house.taken(), 6);
        one.iter().for_each(|s| s.busy(now));
        assert!(take(3).is_some(), "another than the busy one gives way");
    }

    #[test]
    fn who_takes_nothing_gives_way_and_who_reads_does_not() {
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        let stalled = STALLED.as_millis() as u64;
        let house = Seats::new(3, 3);
        // Three strangers who ask and then take nothing, the second from the beginning on.
        let seats: Vec<_> = (1..=3)
            .map(|n| house.take(client(n), at(0)).unwrap())
            .collect();
        seats.iter().for_each(|s| s.busy(at(0)));
        seats[1].stalled(at(0));
        seats[0].stalled(at(1));
        seats[2].stalled(at(2));
        // It is since the first time that counts, and to take a little begins anew.
        seats[1].stalled(at(stalled - 1));
        seats[2].moved();
        seats[2].stalled(at(stalled - 1));
        assert!(house.take(client(9), at(stalled - 1)).is_none());
        let honest = house.take(client(9), at(stalled + 1)).unwrap();
        let lost: Vec<_> = seats.iter().map(is_lost).collect();
        assert_eq!(lost, [false, true, false], "the one that stalls longest");
        honest.busy(at(stalled + 1));
        let _other = house.take(client(10), at(stalled + 1)).unwrap();
        assert!(is_lost(&seats[0]) && !is_lost(&honest));
        assert!(
            house.take(client(11), at(stalled + 1)).is_some(),
            "the silent one"
        );
        assert!(!is_lost(&seats[2]) && !is_lost(&honest));
    }

    #[test]
    fn who_takes_a_little_now_and_then_gives_way_later() {
        let begun = Instant::now();
        let house = Seats::new(4, 3);
        let many: Vec<_> = (0..3)
            .map(|_| house.take(client(1), begun).unwrap())
            .collect();
        let one = house.take(client(2), begun).unwrap();
        many.iter().chain([&one]).for_each(|s| s.busy(begun));
        let slow = begun + SLOW;
        assert!(
            house
                .take(client(3), slow - Duration::from_millis(1))
                .is_none()
        );
        let _three = house.take(client(3), slow).unwrap();
        assert!(!is_lost(&one), "the client with the most seats gives way");
        assert_eq!(many.iter().filter(|s| is_lost(s)).count(), 1);
        // An answer that is out was none too slow.
        many.iter().for_each(Seat::waiting);
        one.waiting();
        one.busy(slow);
        one.stalled(slow);
        assert!(one.shared.answer().unwrap().slow(slow).is_none());
    }

    #[test]
    fn at_its_own_limit_a_client_loses_its_own_slow_seat() {
        let now = Instant::now();
        let house = Seats::new(10, 2);
        let own: Vec<_> = (0..2)
            .map(|_| house.take(client(1), now).unwrap())
            .collect();
        let other = house.take(client(2), now).unwrap();
        for s in own.iter().chain([&other]) {
            s.busy(now);
            s.stalled(now);
        }
        assert!(house.take(client(1), now).is_none());
        assert!(house.take(client(1), now + STALLED).is_some());
        assert!(own.iter().any(is_lost) && !is_lost(&other));
    }

    #[tokio::test]
    async fn who_loses_its_seat_hears_of_it_even_if_it_listens_late() {
        let house = Seats::new(1, 1);
        let a = house.take(client(1), Instant::now()).unwrap();
        let _b = house.take(client(1), Instant::now()).unwrap();
        tokio::time::timeout(Duration::from_secs(5), a.lost())
            .await
            .unwrap();
    }
}

//! How often a client may ask: one leaky bucket for each, in a table of bounded size. Pure; the time is an argument.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::limits::{CLIENTS, Limits};

/// Who asks, as far as limits go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Client {
    /// An IPv4 address, or an IPv6 network of 64 bits (one host can have all of its addresses).
    Net(IpAddr),
    /// Whoever may open the unix socket.
    Local,
}

impl Client {
    /// Of a peer's address.
    pub fn of(address: IpAddr) -> Self {
        Self::Net(match address.to_canonical() {
            v4 @ IpAddr::V4(_) => v4,
            IpAddr::V6(v6) => {
                IpAddr::V6((u128::from_be_bytes(v6.octets()) & !(u128::from(u64::MAX))).into())
            }
        })
    }
}

/// The buckets.
#[derive(Debug)]
pub struct Rates {
    per_minute: f64,
    burst: f64,
    /// What each has used, and when that was.
    used: HashMap<Client, (f64, Duration)>,
    room: usize,
}

impl Rates {
    /// With these limits.
    pub fn new(limits: &Limits) -> Self {
        Self {
            per_minute: f64::from(limits.per_minute.max(1)),
            burst: f64::from(limits.burst.max(1)),
            used: HashMap::new(),
            room: CLIENTS,
        }
    }

    /// Whether this client may ask at this moment of the monotonic clock; else after how long it may. A refused question does
    /// not count, so a client that keeps asking gets its share.
    ///
    /// # Errors
    /// The time to wait.
    pub fn ask(&mut self, client: Client, now: Duration) -> Result<(), Duration> {
        if !self.used.contains_key(&client) && self.used.len() >= self.room {
            self.make_room(now);
        }
        let (used, at) = self.used.entry(client).or_insert((0.0, now));
        let drained = now.saturating_sub(*at).as_secs_f64() * self.per_minute / 60.0;
        *used = (*used - drained).max(0.0);
        *at = now;
        if *used + 1.0 > self.burst {
            let wait = (*used + 1.0 - self.burst) * 60.0 / self.per_minute;
            return Err(Duration::from_secs_f64(wait));
        }
        *used += 1.0;
        Ok(())
    }

    /// Forgets those whose bucket is empty again; when there are none, the one that was quiet longest.
    fn make_room(&mut self, now: Duration) {
        let (per_minute, before) = (self.per_minute, self.used.len());
        self.used.retain(|_, (used, at)| {
            *used > now.saturating_sub(*at).as_secs_f64() * per_minute / 60.0
        });
        if self.used.len() < before {
            return;
        }
        let quiet = self.used.iter().min_by_key(|(_, (_, at))| *at);
        if let Some(client) = quiet.map(|(client, _)| *client) {
            self.used.remove(&client);
        }
    }

    /// Clients that are remembered.
    pub fn clients(&self) -> usize {
        self.used.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(n: u32) -> Client {
        Client::Net(IpAddr::V4(n.into()))
    }

    #[test]
    fn a_burst_then_the_rate() {
        let limits = Limits {
            per_minute: 60,
            burst: 5,
            ..Limits::default()
        };
        let mut r = Rates::new(&limits);
        let mut now = Duration::from_secs(100);
        for _ in 0..5 {
            assert_eq!(r.ask(client(1), now), Ok(()));
        }
        let wait = r.ask(client(1), now).unwrap_err();
        assert!((wait.as_secs_f64() - 1.0).abs() < 1e-9, "{wait:?}");
        // Another one is not hindered.
        assert_eq!(r.ask(client(2), now), Ok(()));
        now += Duration::from_millis(999);
        assert!(r.ask(client(1), now).is_err());
        now += Duration::from_millis(2);
        assert_eq!(r.ask(client(1), now), Ok(()));
        // One who hammers still gets 60 in a minute.
        let mut got = 0;
        for _ in 0..6000 {
            now += Duration::from_millis(10);
            got += u32::from(r.ask(client(1), now).is_ok());
        }
        assert!((59..=61).contains(&got), "{got}");
        // A clock that goes back gives nothing away and does not panic.
        assert!(r.ask(client(1), Duration::ZERO).is_err());
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_quiet_first() {
        let mut r = Rates::new(&Limits {
            per_minute: 1,
            burst: 1,
            ..Limits::default()
        });
        for n in 0..10_000u32 {
            let _ = r.ask(client(n), Duration::from_millis(u64::from(n)));
            assert!(r.clients() <= CLIENTS);
        }
        assert!(
            r.ask(client(9_999), Duration::from_secs(10)).is_err(),
            "the newest is remembered"
        );
    }

    #[test]
    fn one_host_is_one_client() {
        let of = |s: &str| Client::of(s.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
    }
}

//! The clocks and the randomness of this host in the form that each part of the agent asks for, and moments between them.
//!
//! Each crate has its own small word for a moment, so that none needs another. Here is the one place that knows them all.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use keepwatch_expose::facts as shown;
use keepwatch_model::time::Moment;
use keepwatch_notify::time as told;
use keepwatch_watch::clock::{At, Clock, HostClock};

/// The host's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct World;

impl shown::Clock for World {
    fn monotonic(&self) -> Duration {
        HostClock.monotonic()
    }
    fn wall(&self) -> shown::At {
        shown_at(HostClock.wall())
    }
}

impl told::Clock for World {
    fn wall(&self) -> told::At {
        told::At(HostClock.wall().0)
    }
}

/// For metrics and probes.
pub fn shown_at(at: At) -> shown::At {
    shown::At(at.0)
}

/// The same from a record.
pub fn shown_moment(moment: Moment) -> shown::At {
    shown::At(i64::try_from(moment.unix_nanos() / 1_000_000).unwrap_or(i64::MAX))
}

/// For records: with the host's present offset from UTC.
pub fn moment(at: At) -> Moment {
    let at: Timestamp = at.timestamp();
    Moment::new(at, crate::clock::now().offset())
}

/// Fills a buffer with random bytes. Without a source of randomness (no kernel since 2017) they stay as they are; nothing that is
/// secret is made of them, only ids and waits.
pub fn fill(bytes: &mut [u8]) {
    let _ = getrandom::fill(bytes);
}

/// A number from 0 to 1.
pub fn share() -> f64 {
    let mut bytes = [0; 4];
    fill(&mut bytes);
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
}

/// For the catalog.
pub fn random() -> keepwatch_catalog::Random {
    Arc::new(|bytes: &mut [u8]| fill(bytes))
}

/// Ten bytes that follow from texts, for ids that must be found again after a restart (FNV-1a, twice).
pub fn derived(texts: &[&str]) -> [u8; 10] {
    let hash = |seed: u64| {
        let mut h = 0xcbf2_9ce4_8422_2325 ^ seed;
        for text in texts {
            for byte in text.bytes().chain([0]) {
                h = (h ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        }
        h.to_le_bytes()
    };
    let mut out = [0; 10];
    out[..8].copy_from_slice(&hash(0));
    out[8..].copy_from_slice(&hash(0x9e37_79b9_7f4a_7c15)[..2]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_ids_tell_texts_apart_and_stay() {
        assert_eq!(derived(&["a", "b"]), derived(&["a", "b"]));
        assert_ne!(derived(&["a", "b"]), derived(&["ab"]));
        assert_ne!(derived(&["a", "b"]), derived(&["a", "c"]));
    }

    #[test]
    fn moments_come_back() {
        let at = At(1_795_000_000_123);
        assert_eq!(shown_moment(moment(at)), shown_at(at));
        assert!((0.0..=1.0).contains(&share()));
    }
}

//! Chance from a seed: a number for (seed, stream, n), so that a decision can be repeated whatever happens beside it.

/// The n-th number of a stream, uniform over all 64 bits (SplitMix64 of the three).
pub fn number(seed: u64, stream: u64, n: u64) -> u64 {
    mix(mix(mix(seed).wrapping_add(stream)).wrapping_add(n))
}

/// True with this probability (0 never, 1 always).
pub fn happens(probability: f64, seed: u64, stream: u64, n: u64) -> bool {
    // 53 bits: what an f64 holds exactly
    let unit = (number(seed, stream, n) >> 11) as f64 / (1u64 << 53) as f64;
    unit < probability
}

/// A number in `low..=high`.
pub fn between(low: u64, high: u64, seed: u64, stream: u64, n: u64) -> u64 {
    let span = high.saturating_sub(low);
    match span.checked_add(1) {
        Some(choices) => low + number(seed, stream, n) % choices,
        None => number(seed, stream, n),
    }
}

fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_hold_and_repeat() {
        for p in [0.0, 0.1, 0.5, 1.0] {
            let hits = (0..10_000).filter(|n| happens(p, 7, 1, *n)).count();
            let again = (0..10_000).filter(|n| happens(p, 7, 1, *n)).count();
            assert_eq!(hits, again);
            assert!((hits as f64 / 10_000.0 - p).abs() < 0.02, "{p}: {hits}");
        }
        let other = (0..64).filter(|n| happens(0.5, 7, 1, *n) != happens(0.5, 8, 1, *n));
        assert!(other.count() > 10, "the seed matters");
    }

    #[test]
    fn ranges_are_kept() {
        for n in 0..1000 {
            let x = between(10, 12, 1, 2, n);
            assert!((10..=12).contains(&x));
        }
        assert_eq!(between(5, 5, 1, 2, 3), 5);
        between(0, u64::MAX, 1, 2, 3);
    }
}

//! Content-defined chunking: FastCDC with a gear table derived from the hash secret.
//!
//! A cut depends only on the 64 bytes before it, so an insertion moves the cuts near it and no others. Normalised chunking (level 2: a stricter mask before
//! the average length, a looser one after it) keeps lengths near the average. Xia et al., "FastCDC", USENIX ATC 2016, and TPDS 2020 for rolling two bytes
//! at a time. The whole table of 256 words is secret, not a seed mixed into a public table, because observed lengths can reveal weaker parameters
//! (Truong et al., "Breaking and fixing content-defined chunking", 2025).

/// Cuts data into chunks.
pub struct Chunker {
    gear: Box<[u64; 256]>,
    gear_shifted: Box<[u64; 256]>,
    min: usize,
    average: usize,
    max: usize,
    strict: u64,
    loose: u64,
}

/// A mask of `bits` ones spread over bits 62 to 15, where the gear hash has seen the most bytes. Bit 63 stays free, so that the mask can be shifted.
fn mask(bits: u32) -> u64 {
    let mut m = 0u64;
    for i in 0..bits {
        m |= 1 << (62 - (i as u64 * 47 / bits as u64));
    }
    m
}

impl Chunker {
    /// `table` is 2048 secret bytes; lengths in bytes, `average` a power of two, `min` < `average` < `max`.
    pub fn new(table: &[u8; 2048], [min, average, max]: [u32; 3]) -> Option<Self> {
        let ok = average.is_power_of_two()
            && (1 << 12..=1 << 22).contains(&average)
            && (64..average).contains(&min)
            && max > average
            && max as usize <= crate::limits::CHUNK_BYTES;
        if !ok {
            return None;
        }
        let mut gear = Box::new([0u64; 256]);
        for (g, b) in gear.iter_mut().zip(table.chunks_exact(8)) {
            *g = u64::from_le_bytes(b.try_into().expect("eight bytes"));
        }
        let gear_shifted = Box::new(gear.map(|g| g << 1));
        let bits = average.trailing_zeros();
        Some(Chunker {
            gear,
            gear_shifted,
            min: min as usize,
            average: average as usize,
            max: max as usize,
            strict: mask(bits + 2),
            loose: mask(bits - 2),
        })
    }

    /// The longest chunk.
    pub fn max(&self) -> usize {
        self.max
    }

    /// Length of the first chunk of `data`. `data` holds at least [`Self::max`] bytes, or all that is left.
    pub fn cut(&self, data: &[u8]) -> usize {
        if data.len() <= self.min {
            return data.len();
        }
        let end = data.len().min(self.max);
        let middle = end.min(self.average);
        let mut hash = 0u64;
        if let Some(at) = self.scan(&data[..middle], self.min, self.strict, &mut hash) {
            return at;
        }
        let from = self.min + (middle - self.min) / 2 * 2;
        if let Some(at) = self.scan(&data[..end], from, self.loose, &mut hash) {
            return at;
        }
        end
    }

    /// Rolls two bytes a step; the mask is tested after each byte.
    #[inline]
    fn scan(&self, data: &[u8], from: usize, mask: u64, hash: &mut u64) -> Option<usize> {
        let shifted = mask << 1;
        let mut h = *hash;
        let mut at = from;
        // After the first byte of a pair the hash stands one bit higher than in the byte-wise algorithm, hence the shifted mask.
        for pair in data[from..].chunks_exact(2) {
            h = (h << 2).wrapping_add(self.gear_shifted[pair[0] as usize]);
            if h & shifted == 0 {
                *hash = h;
                return Some(at + 1);
            }
            h = h.wrapping_add(self.gear[pair[1] as usize]);
            if h & mask == 0 {
                *hash = h;
                return Some(at + 2);
            }
            at += 2;
        }
        *hash = h;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chunker(seed: u64) -> Chunker {
        let mut table = [0u8; 2048];
        blake3::Hasher::new_derive_key("test")
            .update(&seed.to_le_bytes())
            .finalize_xof()
            .fill(&mut table);
        Chunker::new(&table, [1024, 4096, 16384]).unwrap()
    }

    fn noise(n: usize, seed: u64) -> Vec<u8> {
        let mut out = vec![0; n];
        blake3::Hasher::new()
            .update(&seed.to_le_bytes())
            .finalize_xof()
            .fill(&mut out);
        out
    }

    fn cuts(c: &Chunker, mut data: &[u8]) -> Vec<usize> {
        let (mut at, mut out) = (0, vec![]);
        while !data.is_empty() {
            let n = c.cut(&data[..data.len().min(c.max())]);
            at += n;
            out.push(at);
            data = &data[n..];
        }
        out
    }

    #[test]
    fn lengths_stay_within_bounds_and_near_the_average() {
        let c = chunker(1);
        let data = noise(4 << 20, 9);
        let cuts = cuts(&c, &data);
        let mut last = 0;
        for (i, &at) in cuts.iter().enumerate() {
            assert!(at - last <= 16384);
            assert!(at - last >= 1024 || i + 1 == cuts.len());
            last = at;
        }
        let average = data.len() / cuts.len();
        assert!((3000..6500).contains(&average), "{average}");
    }

    #[test]
    fn another_secret_cuts_elsewhere() {
        let data = noise(1 << 20, 3);
        let (a, b) = (cuts(&chunker(1), &data), cuts(&chunker(2), &data));
        let common = a.iter().filter(|x| b.contains(x)).count();
        assert!(common < a.len() / 10, "{common} of {}", a.len());
    }

    proptest! {
        #[test]
        fn an_insertion_leaves_most_cuts(at in 0usize..500_000, n in 1usize..3000) {
            let c = chunker(7);
            let data = noise(1 << 19, 5);
            let mut edited = data[..at].to_vec();
            edited.extend(noise(n, 77));
            edited.extend_from_slice(&data[at..]);
            let before: std::collections::HashSet<usize> = cuts(&c, &data).into_iter().collect();
            let after = cuts(&c, &edited);
            let kept = after.iter().filter(|&&x| (x <= at && before.contains(&x)) || (x > at + n && before.contains(&(x - n)))).count();
            prop_assert!(before.len() - kept.min(before.len()) <= 40, "{} of {}", kept, before.len());
        }

        #[test]
        fn any_data_is_cut_without_loss(data in proptest::collection::vec(0u8..4, 0..60_000)) {
            let c = chunker(3);
            let cuts = cuts(&c, &data);
            prop_assert_eq!(cuts.last().copied().unwrap_or(0), data.len());
        }
    }
}

//! The beginning of a segment, and of `global/pg_control`: whose log it is, and which part of it. Written in the byte order of the machine that runs the server, and read there.
//!
//! | offset | size | first page of a segment |
//! |---|---|---|
//! | 0 | 2 | magic, another one for each major version |
//! | 2 | 2 | flags; 2: this long form |
//! | 4 | 4 | timeline |
//! | 8 | 8 | position of the page in the log |
//! | 24 | 8 | system identifier of the cluster |
//! | 32 | 4 | bytes of a segment |
//!
//! `pg_control` begins with the system identifier.

/// What the first page of a segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstPage {
    /// System identifier.
    pub system: u64,
    /// Bytes of a segment: a power of two from 1 MiB to 1 GiB.
    pub segment_bytes: u64,
    /// Where in the log it begins.
    pub address: u64,
}

impl FirstPage {
    /// Bytes that are looked at.
    pub const BYTES: usize = 40;

    /// `None` when this is not the beginning of a segment.
    pub fn parse(bytes: &[u8]) -> Option<FirstPage> {
        let b = bytes.get(..Self::BYTES)?;
        let half = |at: usize| u16::from_ne_bytes([b[at], b[at + 1]]);
        let word = |at: usize| b[at..at + 4].try_into().ok().map(u32::from_ne_bytes);
        let long = |at: usize| b[at..at + 8].try_into().ok().map(u64::from_ne_bytes);
        let segment_bytes = u64::from(word(32)?);
        // All versions so far begin with D0 or D1.
        let is_log = matches!(half(0) >> 8, 0xD0..=0xD3) && half(2) & 2 != 0;
        let sane = segment_bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&segment_bytes);
        (is_log && sane).then_some(FirstPage {
            system: long(24)?,
            segment_bytes,
            address: long(8)?,
        })
    }
}

/// The system identifier in the first bytes of `global/pg_control`.
pub fn system_of_control(bytes: &[u8]) -> Option<u64> {
    let system = u64::from_ne_bytes(bytes.get(..8)?.try_into().ok()?);
    // The format's number: 1300 since PostgreSQL 13, and lower than 2000 for many years to come.
    let version = u32::from_ne_bytes(bytes.get(8..12)?.try_into().ok()?);
    (system != 0 && (900..2000).contains(&version)).then_some(system)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn page(system: u64, segment_bytes: u32, address: u64) -> Vec<u8> {
        let mut b = vec![0; 8192];
        b[..2].copy_from_slice(&0xD110u16.to_ne_bytes());
        b[2..4].copy_from_slice(&2u16.to_ne_bytes());
        b[4..8].copy_from_slice(&1u32.to_ne_bytes());
        b[8..16].copy_from_slice(&address.to_ne_bytes());
        b[24..32].copy_from_slice(&system.to_ne_bytes());
        b[32..36].copy_from_slice(&segment_bytes.to_ne_bytes());
        b
    }

    #[test]
    fn the_first_page_tells_whose_it_is() {
        let found = FirstPage::parse(&page(77, 16 << 20, 3 << 24)).unwrap();
        assert_eq!(
            (found.system, found.segment_bytes, found.address),
            (77, 16 << 20, 3 << 24)
        );
        assert_eq!(FirstPage::parse(&page(77, 3 << 20, 0)), None);
        assert_eq!(FirstPage::parse(&page(77, 1 << 19, 0)), None);
        assert_eq!(FirstPage::parse(&[0; 8192]), None);
        assert_eq!(FirstPage::parse(&page(1, 1 << 20, 0)[..39]), None);
    }
}

//! Whether an RDB file is whole: it begins with `REDIS` and four digits and ends with the byte 255 and, since version 5, the CRC-64 of all
//! before it, little end first; a CRC of zero says that the server makes none.

use crate::check::Check;

/// The polynomial of Redis (Jones), reflected.
const POLYNOMIAL: u64 = 0x95ac_9329_ac4b_c9b5;
/// The last bytes: the end mark and the CRC.
const TAIL: usize = 9;

const TABLE: [u64; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = i as u64;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ POLYNOMIAL
            } else {
                crc >> 1
            };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
};

fn crc64(mut crc: u64, bytes: &[u8]) -> u64 {
    for byte in bytes {
        crc = TABLE[((crc ^ u64::from(*byte)) & 0xff) as usize] ^ (crc >> 8);
    }
    crc
}

/// See the module.
#[derive(Default)]
pub struct Rdb {
    head: Vec<u8>,
    /// Of all but the last eight bytes so far.
    crc: u64,
    /// The last eight bytes, and before them that which was covered last.
    tail: Vec<u8>,
    last: u8,
}

impl Check for Rdb {
    fn feed(&mut self, bytes: &[u8]) -> Result<(), String> {
        let room = TAIL.saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend_from_slice(&bytes[..room]);
        if room > 0
            && self.head.len() == TAIL
            && (!self.head.starts_with(b"REDIS") || !self.head[5..].iter().all(u8::is_ascii_digit))
        {
            return Err("it does not begin as a snapshot of Redis".into());
        }
        self.tail.extend_from_slice(bytes);
        if let Some(covered) = self.tail.len().checked_sub(8).filter(|n| *n > 0) {
            self.crc = crc64(self.crc, &self.tail[..covered]);
            self.last = self.tail[covered - 1];
            self.tail.drain(..covered);
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), String> {
        if self.head.len() < TAIL || self.last != 0xff {
            return Err("it has no end mark".into());
        }
        let bytes: [u8; 8] = self.tail[..].try_into().map_err(|_| "it is too short")?;
        match u64::from_le_bytes(bytes) {
            0 => Ok(()),
            sum if sum == self.crc => Ok(()),
            _ => Err("its checksum is wrong".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_redis() {
        // The check value in the source of Redis.
        assert_eq!(crc64(0, b"123456789"), 0xe9c6_d914_c4b8_d9ca);
    }

    fn whole(bytes: &[u8], step: usize) -> Result<(), String> {
        let mut rdb = Rdb::default();
        for part in bytes.chunks(step) {
            rdb.feed(part)?;
        }
        rdb.end()
    }

    #[test]
    fn only_a_whole_one_is_whole() {
        let mut good = b"REDIS0011\xfa\x09redis-ver\x067.0.15\xfe\x00\x00\x01a\x01b\xff".to_vec();
        let sum = crc64(0, &good);
        good.extend(sum.to_le_bytes());
        let without: Vec<u8> = [&good[..good.len() - 8], &[0; 8]].concat();
        for step in [1, 3, 8, 9, 1000] {
            assert_eq!(whole(&good, step), Ok(()));
            assert_eq!(whole(&without, step), Ok(()));
            for cut in 0..good.len() {
                assert!(whole(&good[..cut], step).is_err(), "{cut}");
            }
            for i in 0..good.len() {
                let mut bad = good.clone();
                bad[i] ^= 4;
                assert!(whole(&bad, step).is_err(), "{i}");
            }
        }
    }
}

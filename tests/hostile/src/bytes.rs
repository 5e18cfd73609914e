//! Bytes that no encoder would make: CBOR by hand, and zstd frames that expand.

/// CBOR, item by item.
#[derive(Default)]
pub struct Text(Vec<u8>);

impl Text {
    pub fn new() -> Self {
        Self::default()
    }
    fn head(mut self, major: u8, n: u64) -> Self {
        match n {
            0..24 => self.0.push(major << 5 | n as u8),
            24..=0xff => self.0.extend([major << 5 | 24, n as u8]),
            _ => {
                self.0.push(major << 5 | 27);
                self.0.extend(n.to_be_bytes());
            }
        }
        self
    }
    pub fn int(self, n: u64) -> Self {
        self.head(0, n)
    }
    pub fn bytes(self, b: &[u8]) -> Self {
        self.head(2, b.len() as u64).raw(b)
    }
    pub fn array(self, n: u64) -> Self {
        self.head(4, n)
    }
    pub fn map(self, n: u64) -> Self {
        self.head(5, n)
    }
    pub fn raw(mut self, b: &[u8]) -> Self {
        self.0.extend_from_slice(b);
        self
    }
    pub fn done(self) -> Vec<u8> {
        self.0
    }
}

/// A zstd frame (RFC 8878) of `total` zeros in blocks of one repeated byte: four bytes for each 128 KiB. It states `stated` as its content size, or none.
pub fn rle(total: u64, stated: Option<u64>) -> Vec<u8> {
    const BLOCK: u64 = 128 << 10;
    let mut out = vec![0x28, 0xb5, 0x2f, 0xfd];
    // Content size of eight bytes or none; a window of 8 MiB.
    out.extend([if stated.is_some() { 0b1100_0000 } else { 0 }, 13 << 3]);
    out.extend(stated.iter().flat_map(|n| n.to_le_bytes()));
    let mut left = total;
    while left > 0 {
        let n = left.min(BLOCK);
        left -= n;
        let head = u32::from(left == 0) | 1 << 1 | (n as u32) << 3;
        out.extend(&head.to_le_bytes()[..3]);
        out.push(0);
    }
    out
}

/// The plaintext of an envelope of data chunks: its table, then `frame`.
pub fn envelope(lengths: &[u32], frame: &[u8]) -> Vec<u8> {
    let mut out = 0x184D_2A5Eu32.to_le_bytes().to_vec();
    out.extend((8 + 4 * lengths.len() as u32).to_le_bytes());
    out.extend([0, 0, 0, 0]);
    out.extend((lengths.len() as u32).to_le_bytes());
    lengths.iter().for_each(|n| out.extend(n.to_le_bytes()));
    out.extend(frame);
    out
}

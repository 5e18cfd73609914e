//! Checksums of uploads: those that came with the request (headers or trailer) against those of the bytes, and those that go back with the object.

use bytes::Bytes;
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Md5};
use s3s::{S3Result, s3_error};

use crate::settings::Checksums;

/// The kinds, by the end of their header's name.
const KINDS: [&str; 5] = ["crc32", "crc32c", "crc64nvme", "sha1", "sha256"];

/// Checksums of one object in base64, in the order of [`KINDS`].
#[derive(Clone, Default, Debug, PartialEq)]
pub struct Sums([Option<String>; 5]);

impl Sums {
    /// CRC-32.
    pub fn crc32(&self) -> Option<String> {
        self.0[0].clone()
    }
    /// CRC-32C.
    pub fn crc32c(&self) -> Option<String> {
        self.0[1].clone()
    }
    /// CRC-64/NVME.
    pub fn crc64nvme(&self) -> Option<String> {
        self.0[2].clone()
    }
    /// SHA-1.
    pub fn sha1(&self) -> Option<String> {
        self.0[3].clone()
    }
    /// SHA-256.
    pub fn sha256(&self) -> Option<String> {
        self.0[4].clone()
    }
    fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// Those that a request announces.
    pub fn announced(header: impl Fn(&str) -> Option<String>) -> Sums {
        Sums(KINDS.map(|kind| header(&format!("x-amz-checksum-{kind}"))))
    }
    /// The same kinds, of these bytes; when there is none, CRC-64/NVME, as S3 does.
    fn of(&self, bytes: &[u8]) -> Sums {
        let wanted = |i: usize| self.0[i].is_some();
        let mut hasher = ChecksumHasher {
            crc32: wanted(0).then(Default::default),
            crc32c: wanted(1).then(Default::default),
            crc64nvme: (wanted(2) || self.is_empty()).then(Default::default),
            sha1: wanted(3).then(Default::default),
            sha256: wanted(4).then(Default::default),
        };
        hasher.update(bytes);
        let sums = hasher.finalize();
        Sums([
            sums.checksum_crc32,
            sums.checksum_crc32c,
            sums.checksum_crc64nvme,
            sums.checksum_sha1,
            sums.checksum_sha256,
        ])
    }
}

/// The verdict on an upload's checksums.
pub struct Verdict {
    /// What goes back with the object.
    pub sums: Sums,
    /// Refused with this, before or (a bad server) after the object was stored.
    pub wrong: S3Result<()>,
}

/// Judges the bytes of an upload by what came with them. `Err`: the request itself is refused.
pub fn judge(
    announced: &Sums,
    content_md5: Option<&str>,
    md5: &[u8; 16],
    bytes: &Bytes,
    how: Checksums,
) -> S3Result<Verdict> {
    if how == Checksums::Ignored {
        return Ok(Verdict {
            sums: Sums::default(),
            wrong: Ok(()),
        });
    }
    if how == Checksums::RefuseSha256 && announced.0[4].is_some() {
        return Err(s3_error!(
            InvalidRequest,
            "The algorithm type you specified in x-amz-checksum- header is invalid."
        ));
    }
    let sums = announced.of(bytes);
    let mut wrong = Ok(());
    for ((kind, said), is) in KINDS.iter().zip(&announced.0).zip(&sums.0) {
        if said.is_some() && said != is {
            wrong = Err(s3_error!(
                BadDigest,
                "The {kind} you specified did not match the calculated checksum."
            ));
        }
    }
    if content_md5.is_some_and(|said| said != base64(md5)) {
        wrong = Err(s3_error!(
            BadDigest,
            "The Content-MD5 you specified did not match what we received."
        ));
    }
    Ok(Verdict { sums, wrong })
}

/// MD5, for entity tags.
pub fn md5(bytes: &[u8]) -> [u8; 16] {
    Md5::checksum(bytes)
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Standard base64 with padding.
pub fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for three in bytes.chunks(3) {
        let n = three.iter().fold(0u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - three.len()));
        for i in 0..4 {
            out.push(if i <= three.len() {
                char::from(LETTERS[(n >> (18 - 6 * i)) as usize & 63])
            } else {
                '='
            });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_standard() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn known_sums() {
        // check values of the CRC catalogue and of RFC 1321 / FIPS 180
        let bytes = Bytes::from_static(b"123456789");
        let all = Sums(KINDS.map(|_| Some(String::new())));
        let sums = all.of(&bytes);
        assert_eq!(sums.crc32(), Some(base64(&0xcbf4_3926u32.to_be_bytes())));
        assert_eq!(sums.crc32c(), Some(base64(&0xe306_9283u32.to_be_bytes())));
        let nvme = 0xae8b_1486_0a79_9888u64.to_be_bytes();
        assert_eq!(sums.crc64nvme(), Some(base64(&nvme)));
        assert_eq!(
            sums.sha256().as_deref(),
            Some("FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU=")
        );
        assert_eq!(hex(&md5(b"abc")), "900150983cd24fb0d6963f7d28e17f72");
    }
}

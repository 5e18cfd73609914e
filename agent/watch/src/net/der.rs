//! When a certificate ends: the few bytes of DER that say so.
//!
//! `Certificate ::= SEQUENCE { tbs SEQUENCE { [0] version?, serial, algorithm, issuer, validity SEQUENCE { notBefore, notAfter }, … } … }`.
//! Reading two times needs none of the dozen crates that a full X.509 parser brings; whether a certificate may be trusted is
//! rustls' business, not ours. All lengths are checked against what is there.

use jiff::civil::DateTime;
use jiff::tz::Offset;

use crate::clock::At;

const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const VERSION: u8 = 0xa0;

/// From when and until when a certificate is valid; none when the bytes are not a certificate.
pub fn validity(der: &[u8]) -> Option<(At, At)> {
    let (certificate, _) = expect(der, SEQUENCE)?;
    let (tbs, _) = expect(certificate, SEQUENCE)?;
    let mut rest = tbs;
    if rest.first() == Some(&VERSION) {
        rest = element(rest)?.2;
    }
    for _serial_algorithm_issuer in 0..3 {
        rest = element(rest)?.2;
    }
    let (validity, _) = expect(rest, SEQUENCE)?;
    let (tag, from, rest) = element(validity)?;
    let from = time(tag, from)?;
    let (tag, until, _) = element(rest)?;
    Some((from, time(tag, until)?))
}

/// Tag, content and what follows of the first element.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, mut rest) = rest.split_first()?;
    let length = if *first < 0x80 {
        usize::from(*first)
    } else {
        let count = usize::from(first & 0x7f);
        if count == 0 || count > 4 || rest.len() < count {
            return None;
        }
        let (bytes, after) = rest.split_at(count);
        rest = after;
        bytes.iter().fold(0, |n, b| n << 8 | usize::from(*b))
    };
    if rest.len() < length {
        return None;
    }
    let (content, after) = rest.split_at(length);
    Some((*tag, content, after))
}

fn expect(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    element(der)
        .filter(|(found, ..)| *found == tag)
        .map(|(_, content, rest)| (content, rest))
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`.
fn time(tag: u8, text: &[u8]) -> Option<At> {
    let digits = text.strip_suffix(b"Z")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |at: usize, len: usize| -> Option<i16> {
        std::str::from_utf8(digits.get(at..at + len)?)
            .ok()?
            .parse()
            .ok()
    };
    let (year, rest) = match (tag, digits.len()) {
        // RFC 5280: 50 and above is the last century.
        (UTC_TIME, 12) => {
            let y = number(0, 2)?;
            (if y >= 50 { 1900 + y } else { 2000 + y }, 2)
        }
        (GENERALIZED_TIME, 14) => (number(0, 4)?, 4),
        _ => return None,
    };
    let part =
        |n: usize| -> Option<i8> { number(rest + 2 * n, 2).and_then(|n| i8::try_from(n).ok()) };
    let at = DateTime::new(year, part(0)?, part(1)?, part(2)?, part(3)?, part(4)?, 0).ok()?;
    Offset::UTC.to_timestamp(at).ok().map(At::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_of_a_real_certificate() {
        for (from, until) in [((2020, 1, 2), (2049, 12, 31)), ((1975, 6, 5), (4096, 1, 1))] {
            let mut params = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap();
            params.not_before = rcgen::date_time_ymd(from.0, from.1, from.2);
            params.not_after = rcgen::date_time_ymd(until.0, until.1, until.2);
            let key = rcgen::KeyPair::generate().unwrap();
            let der = params.self_signed(&key).unwrap();
            let at = |(y, m, d): (i32, u8, u8)| {
                At::from(
                    format!("{y}-{m:02}-{d:02}T00:00:00Z")
                        .parse::<jiff::Timestamp>()
                        .unwrap(),
                )
            };
            assert_eq!(validity(der.der()), Some((at(from), at(until))));
            // Cut anywhere it is refused, and never more is read than is there.
            for n in 0..der.der().len() {
                assert_eq!(validity(&der.der()[..n]), None, "{n}");
            }
        }
    }

    #[test]
    fn odd_times_are_refused() {
        assert!(time(UTC_TIME, b"260101000000Z").is_some());
        for bad in [
            &b"260101000000"[..],
            b"2601010000Z",
            b"261301000000Z",
            b"26010100000aZ",
            b"260101000000+0100",
            b"Z",
            b"",
            b"-60101000000Z",
        ] {
            assert_eq!(time(UTC_TIME, bad), None, "{bad:?}");
        }
        assert_eq!(time(GENERALIZED_TIME, b"260101000000Z"), None);
        assert_eq!(time(2, b"260101000000Z"), None);
    }

    proptest! {
        #[test]
        fn never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = validity(&bytes);
            if let Some(b) = bytes.first_mut() { *b = SEQUENCE; }
            let _ = validity(&bytes);
        }
    }
}

//! `backup_label` and the end of `backup_manifest`, which the server puts into a base backup: where its replay begins, and from where on it is consistent.

use keepwatch_engine::records::Foundation;
use keepwatch_engine::wal_file::{Segment, WalFile};

use crate::lsn::Lsn;

/// What `backup_label` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Where the replay begins.
    pub start: Lsn,
    /// The segment that holds it.
    pub segment: Segment,
    /// Its timeline.
    pub timeline: u32,
    /// Of an incremental one: the timeline and the start of the one that it is built on.
    pub after: Option<Foundation>,
}

/// Reads `backup_label`. `None` when it is not understood.
pub fn parse(text: &[u8]) -> Option<Label> {
    let text = std::str::from_utf8(text).ok()?;
    let field = |name: &str| {
        text.lines()
            .find_map(|l| l.strip_prefix(name)?.strip_prefix(": "))
            .map(str::trim)
    };
    // START WAL LOCATION: 0/2000028 (file 000000010000000000000002)
    let (start, file) = field("START WAL LOCATION")?.split_once(" (file ")?;
    let WalFile::Segment(segment) = file.strip_suffix(')')?.parse().ok()? else {
        return None;
    };
    // Not written before PostgreSQL 11.
    let timeline = match field("START TIMELINE") {
        Some(t) => t.parse().ok()?,
        None => segment.timeline,
    };
    // INCREMENTAL FROM LSN: 0/2000028, from PostgreSQL 17 on.
    let after = match field("INCREMENTAL FROM LSN") {
        Some(lsn) => Some(Foundation {
            timeline: field("INCREMENTAL FROM TLI")?.parse().ok()?,
            start: lsn.parse::<Lsn>().ok()?.0,
        }),
        None => None,
    };
    Some(Label {
        start: start.parse().ok()?,
        segment,
        timeline,
        after,
    })
}

/// The base backup that a manifest is of, from its end: where the replay of the first range begins.
pub fn foundation_of_manifest(tail: &[u8]) -> Option<Foundation> {
    let text = String::from_utf8_lossy(tail);
    let ranges = &text[text.rfind("\"WAL-Ranges\"")?..];
    let value = |key: &str| {
        let rest = &ranges[ranges.find(key)? + key.len()..];
        let rest = rest.trim_start().strip_prefix(':')?.trim_start();
        Some(rest)
    };
    let timeline = value("\"Timeline\"")?;
    let digits = timeline
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(timeline.len());
    let start = value("\"Start-LSN\"")?.strip_prefix('"')?;
    Some(Foundation {
        timeline: timeline[..digits].parse().ok()?,
        start: start[..start.find('"')?].parse::<Lsn>().ok()?.0,
    })
}

/// Where the copy becomes consistent, from the end of the manifest: `"WAL-Ranges": [{"Timeline": 1, "Start-LSN": "0/2000028", "End-LSN": "0/2000100"}]`.
/// Several ranges (a standby that changed its timeline meanwhile): the last end.
pub fn end_of_manifest(tail: &[u8]) -> Option<Lsn> {
    let text = String::from_utf8_lossy(tail);
    let ranges = &text[text.rfind("\"WAL-Ranges\"")?..];
    ranges
        .match_indices("\"End-LSN\"")
        .filter_map(|(at, key)| {
            let value = ranges[at + key.len()..].trim_start().strip_prefix(':')?;
            let value = value.trim_start().strip_prefix('"')?;
            value[..value.find('"')?].parse::<Lsn>().ok()
        })
        .max()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABEL: &str = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\nCHECKPOINT LOCATION: 0/2000060\nBACKUP METHOD: streamed\nBACKUP FROM: primary\nSTART TIME: 2026-11-22 14:00:00 UTC\nLABEL: x: y\nSTART TIMELINE: 1\n";

    #[test]
    fn labels_of_the_server() {
        let label = parse(LABEL.as_bytes()).unwrap();
        assert_eq!(label.start, Lsn(0x200_0028));
        assert_eq!((label.timeline, label.segment.position), (1, 2));
        assert_eq!(label.after, None);
        let more = format!("{LABEL}INCREMENTAL FROM LSN: 0/1000028\nINCREMENTAL FROM TLI: 3\n");
        let after = Foundation {
            timeline: 3,
            start: 0x100_0028,
        };
        assert_eq!(parse(more.as_bytes()).unwrap().after, Some(after));
        // Half of it is not understood, and so not taken for a full one.
        let half = format!("{LABEL}INCREMENTAL FROM LSN: 0/1000028\n");
        assert_eq!(parse(half.as_bytes()), None);
        for cut in 0..60 {
            assert_eq!(parse(&LABEL.as_bytes()[..cut]), None);
        }
    }

    #[test]
    fn the_end_stands_in_the_manifest() {
        let text = br#"... ],
"WAL-Ranges": [
{ "Timeline": 1, "Start-LSN": "0/2000028", "End-LSN": "0/2000100" },
{ "Timeline": 2, "Start-LSN": "0/2000100", "End-LSN": "0/3000100" }
],
"Manifest-Checksum": "aa"}"#;
        assert_eq!(end_of_manifest(text), Some(Lsn(0x300_0100)));
        assert_eq!(end_of_manifest(&text[..30]), None);
        let of = Foundation {
            timeline: 1,
            start: 0x200_0028,
        };
        assert_eq!(foundation_of_manifest(text), Some(of));
        assert_eq!(foundation_of_manifest(&text[..30]), None);
        assert_eq!(end_of_manifest(b"\"End-LSN\": \"0/1\""), None);
    }
}

//! A base backup as it passes from `pg_basebackup` into the repository: nothing of it is kept but what tells which WAL it needs, and whether it is whole.
//!
//! The manifest is written to a file as well, when one is given: the server wants it for the next incremental base backup.
//!
//! Kept: `backup_label` and `PG_VERSION` (at most [`SMALL`] each), the first bytes of `global/pg_control`, the last [`TAIL`] of `backup_manifest`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex};

use keepwatch_engine::records::BaseBackup;

use crate::label;
use crate::pages;
use crate::tar::{Entry, Kind, Parser, Sink};

/// Bytes kept of a small file.
const SMALL: usize = 64 << 10;
/// Bytes kept of the end of the manifest, whose ranges of WAL stand last.
const TAIL: usize = 16 << 10;

/// Why a stream is not a base backup that can be restored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// It ends early.
    #[error("the base backup ends before its end")]
    Cut,
    /// Something that each has is missing.
    #[error("the base backup has no usable {0}")]
    Missing(&'static str),
    /// It has more than the one tablespace.
    #[error("the base backup has tablespaces outside the data directory, which cannot be streamed")]
    Tablespaces,
}

#[derive(Default)]
struct Kept {
    current: Option<Which>,
    label: Vec<u8>,
    version: Vec<u8>,
    control: Vec<u8>,
    manifest: Vec<u8>,
    /// Where the manifest goes as well; an error ends that and nothing else.
    copy: Option<io::Result<File>>,
    wal: bool,
    links: bool,
    /// The header of `global/pg_control`, which the server sends last of all data, has passed.
    sent: bool,
}

#[derive(Clone, Copy)]
enum Which {
    Label,
    Version,
    Control,
    Manifest,
}

impl Sink for Kept {
    fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        self.links |= entry.kind == Kind::Link && entry.name.starts_with("pg_tblspc/");
        let wal = entry.name.strip_prefix("pg_wal/");
        self.wal |= entry.kind == Kind::File && wal.is_some_and(|n| n.len() == 24);
        // The client keeps some kilobytes back, so its content may not have come yet.
        self.sent |= entry.name == "global/pg_control";
        self.current = match entry.name.as_str() {
            "backup_label" => Some(Which::Label),
            "PG_VERSION" => Some(Which::Version),
            "global/pg_control" => Some(Which::Control),
            "backup_manifest" => Some(Which::Manifest),
            _ => None,
        };
        Ok(())
    }
    fn content(&mut self, bytes: &[u8]) -> io::Result<()> {
        let small = match self.current {
            None => return Ok(()),
            Some(Which::Manifest) => {
                let fresh = &bytes[bytes.len().saturating_sub(TAIL)..];
                let over = (self.manifest.len() + fresh.len()).saturating_sub(TAIL);
                self.manifest.drain(..over.min(self.manifest.len()));
                self.manifest.extend_from_slice(fresh);
                if let Some(Ok(file)) = &mut self.copy {
                    if let Err(e) = file.write_all(bytes) {
                        self.copy = Some(Err(e));
                    }
                }
                return Ok(());
            }
            Some(Which::Label) => &mut self.label,
            Some(Which::Version) => &mut self.version,
            Some(Which::Control) => &mut self.control,
        };
        let room = SMALL - small.len();
        small.extend_from_slice(&bytes[..bytes.len().min(room)]);
        Ok(())
    }
    fn end(&mut self) -> io::Result<()> {
        self.current = None;
        Ok(())
    }
}

#[derive(Default)]
struct State {
    parser: Parser,
    kept: Kept,
    bytes: u64,
}

/// What was learnt of a stream, asked after its end.
#[derive(Clone, Default)]
pub struct Learnt(Arc<Mutex<State>>);

/// Passes a stream on and learns from it.
pub struct Watched<R> {
    inner: R,
    learnt: Learnt,
}

/// Watches a stream. `manifest`: an empty file into which the manifest goes.
pub fn watch<R: Read>(inner: R, manifest: Option<File>) -> (Watched<R>, Learnt) {
    let learnt = Learnt::default();
    if let Some(file) = manifest {
        let mut state = learnt.0.lock().unwrap_or_else(|e| e.into_inner());
        state.kept.copy = Some(Ok(file));
    }
    let watched = Watched {
        inner,
        learnt: learnt.clone(),
    };
    (watched, learnt)
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        let mut state = self.learnt.0.lock().unwrap_or_else(|e| e.into_inner());
        let State {
            parser,
            kept,
            bytes,
        } = &mut *state;
        *bytes += n as u64;
        parser.feed(&buf[..n], kept)?;
        Ok(n)
    }
}

impl Learnt {
    /// How many bytes have passed, and whether all data was among them: from then on the server waits for its archive.
    pub fn progress(&self) -> (u64, bool) {
        let state = self.0.lock().unwrap_or_else(|e| e.into_inner());
        (state.bytes, state.kept.sent)
    }
    /// The file with the whole manifest, written and synced; nothing when none was wanted.
    ///
    /// # Errors
    /// It could not be written.
    pub fn manifest(&self) -> io::Result<Option<File>> {
        let mut state = self.0.lock().unwrap_or_else(|e| e.into_inner());
        let file = state.kept.copy.take().transpose()?;
        file.map(|f| f.sync_all().map(|()| f)).transpose()
    }
    /// What the base backup is; an error when it is not whole.
    pub fn base(&self) -> Result<BaseBackup, StreamError> {
        let state = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if !state.parser.is_complete() {
            return Err(StreamError::Cut);
        }
        let kept = &state.kept;
        if kept.links {
            return Err(StreamError::Tablespaces);
        }
        let label = label::parse(&kept.label).ok_or(StreamError::Missing("backup_label"))?;
        let end = label::end_of_manifest(&kept.manifest)
            .filter(|end| *end >= label.start)
            .ok_or(StreamError::Missing("backup_manifest"))?;
        let system = pages::system_of_control(&kept.control)
            .ok_or(StreamError::Missing("global/pg_control"))?;
        let version = String::from_utf8_lossy(&kept.version).trim().to_owned();
        if version.is_empty() || version.len() > 16 {
            return Err(StreamError::Missing("PG_VERSION"));
        }
        Ok(BaseBackup {
            system,
            timeline: label.timeline,
            start: label.start.0,
            segment: label.segment.position,
            end: end.0,
            version,
            with_wal: kept.wal,
            after: label.after,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tar::made;

    fn control() -> Vec<u8> {
        let mut b = vec![0; 8192];
        b[..8].copy_from_slice(&4711u64.to_ne_bytes());
        b[8..12].copy_from_slice(&1300u32.to_ne_bytes());
        b
    }

    const LABEL: &[u8] =
        b"START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\nSTART TIMELINE: 1\n";

    fn learn(bytes: &[u8]) -> Result<BaseBackup, StreamError> {
        let (mut watched, learnt) = watch(bytes, None);
        let mut out = Vec::new();
        watched.read_to_end(&mut out).unwrap();
        assert_eq!(out, bytes);
        learnt.base()
    }

    #[test]
    fn what_a_whole_stream_tells() {
        let mut manifest = vec![b' '; 100_000];
        manifest.extend_from_slice(b"\"WAL-Ranges\": [{\"Timeline\": 1, \"Start-LSN\": \"0/2000028\", \"End-LSN\": \"0/2000100\"}]}");
        let control = control();
        let whole: Vec<(&str, u8, &[u8])> = vec![
            ("backup_label", b'0', LABEL),
            ("PG_VERSION", b'0', b"15\n"),
            ("base/1/1", b'0', &[1; 9000]),
            ("global/pg_control", b'0', &control),
            ("backup_manifest", b'0', &manifest),
        ];
        let bytes = made::archive(&whole);
        let base = learn(&bytes).unwrap();
        assert_eq!((base.system, base.timeline, base.segment), (4711, 1, 2));
        assert_eq!(
            (base.start, base.end, base.with_wal),
            (0x200_0028, 0x200_0100, false)
        );
        assert_eq!(base.version, "15");
        for cut in [bytes.len() - 1, bytes.len() - 1024, bytes.len() / 2, 0] {
            assert_eq!(learn(&bytes[..cut]), Err(StreamError::Cut), "{cut}");
        }
        for missing in [0, 1, 3, 4] {
            let mut part = whole.clone();
            part.remove(missing);
            assert!(matches!(
                learn(&made::archive(&part)),
                Err(StreamError::Missing(_))
            ));
        }
        let mut with_wal = whole.clone();
        with_wal.push(("pg_wal/000000010000000000000002", b'0', b"x"));
        assert!(learn(&made::archive(&with_wal)).unwrap().with_wal);
        with_wal.push(("pg_tblspc/16384", b'2', b""));
        assert_eq!(
            learn(&made::archive(&with_wal)),
            Err(StreamError::Tablespaces)
        );
    }
}

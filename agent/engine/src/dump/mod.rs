//! Content as a stream: one file, or a tree as a tar archive.
//!
//! A stream is written in order, so nothing can be taken back: each chunk is checked before its bytes go out, and the first one that cannot be had ends the dump with an
//! error. A tar archive that ended so lacks its end marker.
//!
//! Envelopes are fetched and opened ahead by a few threads. Memory: six envelopes, about 2 MiB each as plaintext, 16 at most.

use std::io::{self, Write};

use crate::browse::{self, BrowseError};
use crate::chunks::ChunkReader;
use crate::contents::RefCursor;
use crate::lookup::Lookup;
use crate::manifest::{Entry, EntryKind};
use crate::object::ObjectError;
use crate::progress::Problem;
use crate::repository::Repository;
use crate::restore::normal;
use crate::snapshots::SnapshotRecord;

mod archive;
mod content;
pub(crate) mod pipe;

pub use archive::dump_tar;
use content::Content;
use pipe::with_pipe;

/// Why a dump ended.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// Something of the repository.
    #[error(transparent)]
    Browse(#[from] BrowseError),
    /// The content of a file could not be had.
    #[error("{path} cannot be dumped: {cause}; the output ends within it")]
    Content {
        /// Which file.
        path: String,
        /// Why.
        cause: ObjectError,
    },
    /// There is no such entry.
    #[error("there is no '{0}' in the snapshot")]
    NotFound(String),
    /// It has no content.
    #[error("'{0}' is no file; dump a directory as an archive")]
    NotAFile(String),
    /// The receiver did not take it.
    #[error("the output cannot be written: {0}")]
    Out(#[source] io::Error),
}

impl From<ObjectError> for DumpError {
    fn from(e: ObjectError) -> Self {
        DumpError::Browse(e.into())
    }
}

/// What an archive got.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct TarReport {
    /// Entries.
    pub entries: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// What an archive cannot carry: sockets, attributes with names that are no text. The first thousand.
    pub left_out: Vec<Problem>,
}

/// Writes the content of a file in order, holes as zeros. Returns how many bytes.
pub fn dump_file(
    repository: &Repository,
    lookup: &Lookup,
    snapshot: &SnapshotRecord,
    path: &[u8],
    out: &mut dyn Write,
) -> Result<u64, DumpError> {
    let shown = || String::from_utf8_lossy(path).into_owned();
    let stored = normal(path).map_err(|cause| BrowseError::Path {
        path: shown(),
        cause,
    })?;
    let found = browse::entry_at(repository, lookup, snapshot, &stored)?;
    let (entry, first_ref) = found.ok_or_else(|| DumpError::NotFound(shown()))?;
    if entry.kind() != EntryKind::File {
        return Err(DumpError::NotAFile(shown()));
    }
    let mut refs = RefCursor::new(&snapshot.body)?;
    with_pipe(repository, lookup, |pipe| {
        let mut refs_reader = ChunkReader::new(repository, lookup);
        let mut content = Content::new(pipe, &mut refs, &mut refs_reader, &entry, first_ref, 0);
        loop {
            let n = match content.some() {
                Ok([]) => break,
                Ok(bytes) => {
                    out.write_all(bytes).map_err(DumpError::Out)?;
                    bytes.len()
                }
                Err(e) => return Err(content_error(&entry, content.failure.take(), e)),
            };
            content.consume(n);
        }
        out.flush().map_err(DumpError::Out)?;
        Ok(entry.len())
    })
}

fn content_error(entry: &Entry, failure: Option<ObjectError>, e: io::Error) -> DumpError {
    match failure {
        Some(cause) => DumpError::Content {
            path: entry.display(),
            cause,
        },
        None => DumpError::Out(e),
    }
}

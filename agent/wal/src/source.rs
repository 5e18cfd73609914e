//! A file of the log as the server hands it over: which cluster it belongs to, and whether it is what its name says.
//!
//! The server calls its archive command in the data directory and names the file relative to it (`pg_wal/000000010000000000000003`). A segment says itself to which cluster it
//! belongs; for histories and labels `global/pg_control` beside `pg_wal` says it.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use keepwatch_engine::limits;
use keepwatch_engine::records::Ancestor;
use keepwatch_engine::wal_file::{ParseWalFileError, Segment, WalFile};

use crate::history;
use crate::pages::{self, FirstPage};

/// A file that was read.
pub struct Source {
    /// Its name.
    pub file: WalFile,
    /// The cluster's system identifier.
    pub system: u64,
    /// Its content.
    pub content: Vec<u8>,
    /// What a history says.
    pub ancestors: Option<Vec<Ancestor>>,
}

/// Why a file is not pushed.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Its name.
    #[error(transparent)]
    Name(#[from] ParseWalFileError),
    /// It cannot be read.
    #[error("cannot read {path}: {cause}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// The content is not that of a file with this name.
    #[error("{path} is not the WAL file that its name says: {why}; it was not stored")]
    Odd {
        /// Which file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// It cannot be told whose it is.
    #[error(
        "it cannot be told to which cluster {path} belongs: {why}; give its system identifier with --cluster"
    )]
    Cluster {
        /// Which file.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// Reads a file of the log. `cluster`: the system identifier that it must have.
pub fn read(path: &Path, cluster: Option<u64>) -> Result<Source, SourceError> {
    let name = path
        .file_name()
        .and_then(|n| n.to_str())
        .unwrap_or_default();
    let file: WalFile = name.parse()?;
    let content = content(path).map_err(|cause| SourceError::Read {
        path: path.to_owned(),
        cause,
    })?;
    let odd = |why: String| SourceError::Odd {
        path: path.to_owned(),
        why,
    };
    let mut ancestors = None;
    let own = match file {
        WalFile::Segment(segment) | WalFile::Partial(segment) => {
            Some(check_segment(segment, &content).map_err(odd)?)
        }
        WalFile::History(timeline) => {
            let found = history::parse(&content)
                .map_err(|line| odd(format!("line {line} of the history is not understood")))?;
            if found.last().is_none_or(|a| a.timeline >= timeline) {
                return Err(odd("it is the history of another timeline".into()));
            }
            ancestors = Some(found);
            None
        }
        WalFile::Label(..) => {
            if !content.starts_with(b"START WAL LOCATION: ") {
                return Err(odd("it is no label of a base backup".into()));
            }
            None
        }
    };
    let given = match cluster {
        Some(c) => Some(c),
        None if own.is_none() => {
            Some(control_beside(path).map_err(|why| SourceError::Cluster {
                path: path.to_owned(),
                why,
            })?)
        }
        None => None,
    };
    let system = match (own, given) {
        (Some(own), Some(given)) if own != given => {
            return Err(odd(format!(
                "it belongs to the cluster with the system identifier {own}, not {given}"
            )));
        }
        (Some(system), _) | (None, Some(system)) => system,
        (None, None) => {
            return Err(SourceError::Cluster {
                path: path.to_owned(),
                why: "nothing says it".into(),
            });
        }
    };
    Ok(Source {
        file,
        system,
        content,
        ancestors,
    })
}

fn content(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    if size > limits::WAL_FILE_BYTES {
        return Err(io::Error::other(format!(
            "it has {size} bytes, more than any WAL file"
        )));
    }
    let mut out = Vec::with_capacity(size as usize + 1);
    file.take(limits::WAL_FILE_BYTES + 1)
        .read_to_end(&mut out)?;
    Ok(out)
}

/// The system identifier in a segment, when it is the segment that its name says.
fn check_segment(segment: Segment, content: &[u8]) -> Result<u64, String> {
    let page = FirstPage::parse(content).ok_or("it does not begin as a segment does")?;
    if content.len() as u64 != page.segment_bytes {
        return Err(format!(
            "it has {} bytes, a segment of this cluster has {}",
            content.len(),
            page.segment_bytes
        ));
    }
    let per_log = (1u64 << 32) / page.segment_bytes;
    let (log, n) = (segment.position >> 32, segment.position & 0xffff_ffff);
    if n >= per_log || page.address != (log << 32) + n * page.segment_bytes {
        return Err("its first page belongs to another place of the log".into());
    }
    Ok(page.system)
}

/// The system identifier of the data directory in whose `pg_wal` (or its `archive_status`) a file lies.
fn control_beside(path: &Path) -> Result<u64, String> {
    let dir = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p.to_owned(),
        _ => PathBuf::from("."),
    };
    // Not dir/..: pg_wal may be a link to another disk.
    let data = match dir.file_name() {
        Some(n) if n == "pg_wal" => dir.parent().map(Path::to_owned).unwrap_or_default(),
        _ => PathBuf::new(),
    };
    system_of(&data)
}

/// The system identifier of a data directory.
pub fn system_of(data: &Path) -> Result<u64, String> {
    let control = data.join("global").join("pg_control");
    let mut head = Vec::new();
    File::open(&control)
        .and_then(|f| f.take(64).read_to_end(&mut head))
        .map_err(|e| format!("{} cannot be read: {e}", control.display()))?;
    pages::system_of_control(&head)
        .ok_or_else(|| format!("{} is not a control file of PostgreSQL", control.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u32 = 1 << 20;

    fn segment(system: u64, n: u64) -> Vec<u8> {
        let mut b = vec![0; SIZE as usize];
        b[..2].copy_from_slice(&0xD110u16.to_ne_bytes());
        b[2..4].copy_from_slice(&2u16.to_ne_bytes());
        b[8..16].copy_from_slice(&(n * u64::from(SIZE)).to_ne_bytes());
        b[24..32].copy_from_slice(&system.to_ne_bytes());
        b[32..36].copy_from_slice(&SIZE.to_ne_bytes());
        b
    }

    #[test]
    fn a_segment_is_what_its_name_says_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let path = put("000000010000000000000003", &segment(5, 3));
        assert_eq!(read(&path, None).unwrap().system, 5);
        assert_eq!(read(&path, Some(5)).unwrap().content.len(), SIZE as usize);
        let said = |path: &Path, cluster| match read(path, cluster) {
            Ok(_) => panic!("taken"),
            Err(e) => e.to_string(),
        };
        assert!(said(&path, Some(6)).contains("identifier 5, not 6"));
        let path = put("000000010000000000000004", &segment(5, 3));
        assert!(said(&path, None).contains("another place"));
        let path = put("000000010000000000000005", &segment(5, 5)[..4096]);
        assert!(said(&path, None).contains("4096 bytes"));
        let path = put("000000010000000000000006", b"");
        assert!(said(&path, None).contains("does not begin"));
        let path = put("core", b"x");
        assert!(said(&path, None).contains("not the name of a WAL file"));
        let path = dir.path().join("000000010000000000000007");
        assert!(said(&path, None).contains("cannot read"));
    }

    #[test]
    fn whose_history_it_is_says_the_control_file() {
        let dir = tempfile::tempdir().unwrap();
        let wal = dir.path().join("pg_wal");
        std::fs::create_dir(&wal).unwrap();
        let path = wal.join("00000002.history");
        std::fs::write(&path, "1\t0/5000148\tno recovery target specified\n").unwrap();
        assert!(matches!(
            read(&path, None),
            Err(SourceError::Cluster { .. })
        ));
        assert_eq!(read(&path, Some(9)).unwrap().system, 9);
        std::fs::create_dir(dir.path().join("global")).unwrap();
        let mut control = 77u64.to_ne_bytes().to_vec();
        control.extend_from_slice(&1300u32.to_ne_bytes());
        std::fs::write(dir.path().join("global/pg_control"), control).unwrap();
        let source = read(&path, None).unwrap();
        assert_eq!((source.system, source.ancestors.unwrap().len()), (77, 1));
        let path = wal.join("00000001.history");
        std::fs::write(&path, "1\t0/5000148\tx\n").unwrap();
        assert!(matches!(read(&path, None), Err(SourceError::Odd { .. })));
    }
}

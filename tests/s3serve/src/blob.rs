//! An object's bytes: in memory, or in a file that is removed with the last reference.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;

/// The bytes of an object or a part.
#[derive(Clone)]
pub enum Blob {
    /// In memory.
    Memory(Bytes),
    /// In a file.
    File(Arc<Owned>, u64),
}

/// A file that is removed when nobody refers to it any more.
pub struct Owned(PathBuf);

impl Drop for Owned {
    fn drop(&mut self) {
        // a file that is left behind lies in the directory that the caller gave for that
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Blob {
    /// Takes bytes: into a file of this directory, if there is one.
    pub async fn store(bytes: Bytes, dir: Option<&Path>) -> io::Result<Blob> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let Some(dir) = dir else {
            return Ok(Blob::Memory(bytes));
        };
        let n = NEXT.fetch_add(1, Relaxed);
        let path = dir.join(format!("{}-{n}.body", std::process::id()));
        blocking(move || {
            std::fs::write(&path, &bytes)?;
            Ok(Blob::File(Arc::new(Owned(path)), bytes.len() as u64))
        })
        .await
    }
    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Blob::Memory(b) => b.len() as u64,
            Blob::File(_, n) => *n,
        }
    }
    /// A part of it.
    pub async fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        match self {
            Blob::Memory(b) => Ok(b.slice(range.start as usize..range.end as usize)),
            Blob::File(..) => {
                let own = self.clone();
                blocking(move || own.read_now(range)).await
            }
        }
    }
    /// All of it, blocking.
    pub fn bytes(&self) -> io::Result<Bytes> {
        self.read_now(0..self.len())
    }

    fn read_now(&self, range: Range<u64>) -> io::Result<Bytes> {
        use std::os::unix::fs::FileExt;
        match self {
            Blob::Memory(b) => Ok(b.slice(range.start as usize..range.end as usize)),
            Blob::File(path, _) => {
                let mut out = vec![0; (range.end - range.start) as usize];
                std::fs::File::open(&path.0)?.read_exact_at(&mut out, range.start)?;
                Ok(out.into())
            }
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(io::Error::other(e)))
}

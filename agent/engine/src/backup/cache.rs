//! The local copy of the last manifest, by which an unchanged file is known without being read.
//!
//! The writing host cannot read manifests in the repository, so it keeps what it needs: for each entry its encoded form, the ids of its chunks, and the inode and ctime that
//! tell a change. It is disposable: without it the next run reads everything again and stores nothing twice. Mode 0600; it names only files that
//! lie on this host. Sorted as the manifest is, so it is merge-joined with the walk in constant memory.
//!
//! Layout, little-endian: `KWFILES3`, 32 bytes id of the snapshot, u64 its sequence number; then records:
//! u8 1, u16 length of the path, path, u64 inode, i64 + u32 ctime, i64 + u32 mtime, u64 size, u32 length of the entry, the entry, u32 number of chunks, 32 bytes each;
//! then u8 0, u32 n, n × 32 bytes ids of the index objects that existed at the commit, u32 n again, and BLAKE3 of all bytes from offset 48. The checksum matters: a flipped bit in an id would make a snapshot that needs a chunk nobody has.

use std::cmp::Ordering;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::ids::ObjectId;
use crate::limits;
use crate::manifest::{FileTime, compare};

const MAGIC: &[u8; 8] = b"KWFILES3";
/// Magic, snapshot and sequence number: filled in last, not under the checksum.
const HEAD: u64 = 48;

/// What tells whether a file changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Fingerprint {
    /// Inode number.
    pub inode: u64,
    /// Time of the last change of content or metadata; zero in the cache when the file was so young that a later change could have the same time.
    pub ctime: FileTime,
    /// Last modification.
    pub mtime: FileTime,
    /// Length.
    pub size: u64,
}

/// An entry as it was last time.
#[derive(Clone, Debug, Default)]
pub struct Cached {
    /// Its path.
    pub path: Vec<u8>,
    /// Its fingerprint.
    pub fingerprint: Fingerprint,
    /// Encoded for the manifest.
    pub entry: Vec<u8>,
    /// Ids of its chunks, 32 bytes each.
    pub chunks: Vec<u8>,
}

/// Reads the cache in order.
pub struct CacheReader {
    input: BufReader<File>,
    /// The snapshot that it describes.
    pub snapshot: ObjectId,
    /// Its sequence number.
    pub sequence: u64,
    /// Index objects that existed then.
    pub indexes: Vec<ObjectId>,
    current: Option<Cached>,
    spare: Cached,
}

fn bad() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the cache is damaged")
}

impl CacheReader {
    /// Opens a cache; `None` when there is none that can be believed. The whole file is checked first.
    pub fn open(path: &Path) -> Option<CacheReader> {
        let open = || -> io::Result<CacheReader> {
            let mut file = File::open(path)?;
            let size = file.metadata()?.len();
            let body = size.checked_sub(HEAD + 32).ok_or_else(bad)?;
            file.seek(SeekFrom::Start(HEAD))?;
            let mut hasher = blake3::Hasher::new();
            io::copy(&mut (&file).take(body), &mut hasher)?;
            let mut stored = [0; 32];
            file.read_exact(&mut stored)?;
            if hasher.finalize() != stored {
                return Err(bad());
            }
            let mut n = [0; 4];
            let end = size - 36;
            file.read_exact_at(&mut n, end)?;
            let n = u32::from_le_bytes(n) as u64;
            let mut ids = vec![0; usize::try_from(n * 32).map_err(|_| bad())?];
            file.read_exact_at(&mut ids, end.checked_sub(n * 32).ok_or_else(bad)?)?;
            let indexes = ids
                .chunks_exact(32)
                .map(|b| ObjectId(b.try_into().expect("32 bytes")))
                .collect();
            file.seek(SeekFrom::Start(0))?;
            let mut input = BufReader::with_capacity(256 << 10, file);
            let mut magic = [0; 8];
            input.read_exact(&mut magic)?;
            if &magic != MAGIC {
                return Err(bad());
            }
            let mut snapshot = [0; 32];
            input.read_exact(&mut snapshot)?;
            let sequence = read_u64(&mut input)?;
            let mut reader = CacheReader {
                input,
                snapshot: ObjectId(snapshot),
                sequence,
                indexes,
                current: None,
                spare: Cached::default(),
            };
            reader.step()?;
            Ok(reader)
        };
        open().ok()
    }

    fn step(&mut self) -> io::Result<()> {
        let mut record = self
            .current
            .take()
            .unwrap_or_else(|| std::mem::take(&mut self.spare));
        let input = &mut self.input;
        if read_u8(input)? == 0 {
            return Ok(());
        }
        let n = read_u16(input)? as usize;
        read_vec(input, &mut record.path, n, limits::PATH_BYTES)?;
        record.fingerprint.inode = read_u64(input)?;
        for t in [&mut record.fingerprint.ctime, &mut record.fingerprint.mtime] {
            t.seconds = read_u64(input)? as i64;
            t.nanoseconds = read_u32(input)?;
        }
        record.fingerprint.size = read_u64(input)?;
        let n = read_u32(input)? as usize;
        read_vec(input, &mut record.entry, n, 4 << 20)?;
        let n = read_u32(input)? as usize;
        read_vec(
            input,
            &mut record.chunks,
            n.checked_mul(32).ok_or_else(bad)?,
            usize::MAX,
        )?;
        self.current = Some(record);
        Ok(())
    }

    /// The entry of this path, if there was one. Paths must be asked in ascending order. A damaged rest is as if it were not there.
    pub fn find(&mut self, path: &[u8]) -> Option<&Cached> {
        loop {
            match compare(&self.current.as_ref()?.path, path) {
                Ordering::Less => {
                    if self.step().is_err() {
                        self.current = None;
                    }
                }
                Ordering::Equal => return self.current.as_ref(),
                Ordering::Greater => return None,
            }
        }
    }

    /// The next entry, whatever it is.
    pub fn take_next(&mut self) -> Option<Cached> {
        let out = self.current.clone();
        if out.is_some() && self.step().is_err() {
            self.current = None;
        }
        out
    }
}

/// Writes a new cache beside the old one.
pub struct CacheWriter {
    out: BufWriter<File>,
    hasher: blake3::Hasher,
    record: Vec<u8>,
    tmp: PathBuf,
    keep: bool,
}

impl CacheWriter {
    /// Begins; the snapshot is not known yet and filled in by [`Self::commit`].
    pub fn create(dir: &Path) -> io::Result<Self> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|e| io::Error::other(e.to_string()))?;
        let tmp = dir.join(format!("files-{}.tmp", crate::ids::hex(&random)));
        let file = File::options()
            .write(true)
            .read(true)
            .create_new(true)
            .mode(0o600)
            .open(&tmp)?;
        Ok(CacheWriter {
            out: BufWriter::with_capacity(256 << 10, file),
            hasher: blake3::Hasher::new(),
            record: Vec::new(),
            tmp,
            keep: false,
        })
    }

    /// The header; first of all.
    pub fn head(&mut self) -> io::Result<()> {
        self.out.write_all(MAGIC)?;
        self.out.write_all(&[0; 40])
    }

    fn put(&mut self) -> io::Result<()> {
        self.hasher.update(&self.record);
        self.out.write_all(&self.record)?;
        self.record.clear();
        Ok(())
    }

    /// Adds an entry.
    pub fn push(
        &mut self,
        path: &[u8],
        f: &Fingerprint,
        entry: &[u8],
        chunks: &[u8],
    ) -> io::Result<()> {
        let out = &mut self.record;
        out.push(1);
        out.extend_from_slice(&(path.len() as u16).to_le_bytes());
        out.extend_from_slice(path);
        out.extend_from_slice(&f.inode.to_le_bytes());
        for t in [f.ctime, f.mtime] {
            out.extend_from_slice(&t.seconds.to_le_bytes());
            out.extend_from_slice(&t.nanoseconds.to_le_bytes());
        }
        out.extend_from_slice(&f.size.to_le_bytes());
        out.extend_from_slice(&(entry.len() as u32).to_le_bytes());
        out.extend_from_slice(entry);
        out.extend_from_slice(&((chunks.len() / 32) as u32).to_le_bytes());
        out.extend_from_slice(chunks);
        if self.record.len() >= 32 << 10 {
            self.put()
        } else {
            Ok(())
        }
    }

    /// Ends the records.
    pub fn finish(&mut self) -> io::Result<()> {
        self.record.push(0);
        self.put()?;
        self.out.flush()
    }

    /// Reads the records, after [`Self::finish`] and before [`Self::commit`].
    pub fn reader(&self) -> io::Result<CacheReader> {
        let mut file = File::open(&self.tmp)?;
        file.seek(SeekFrom::Start(HEAD))?;
        let mut reader = CacheReader {
            input: BufReader::with_capacity(256 << 10, file),
            snapshot: ObjectId([0; 32]),
            sequence: 0,
            indexes: Vec::new(),
            current: None,
            spare: Cached::default(),
        };
        reader.step()?;
        Ok(reader)
    }

    /// Puts it in place, as the description of a committed snapshot.
    pub fn commit(
        mut self,
        path: &Path,
        snapshot: ObjectId,
        sequence: u64,
        indexes: &[ObjectId],
    ) -> io::Result<()> {
        let n = (indexes.len() as u32).to_le_bytes();
        self.record.extend_from_slice(&n);
        self.record.extend(indexes.iter().flat_map(|i| i.0));
        self.record.extend_from_slice(&n);
        self.put()?;
        self.out.write_all(self.hasher.finalize().as_bytes())?;
        self.out.flush()?;
        let file = self.out.get_ref();
        file.write_all_at(&snapshot.0, 8)?;
        file.write_all_at(&sequence.to_le_bytes(), 40)?;
        fs::rename(&self.tmp, path)?;
        self.keep = true;
        Ok(())
    }
}

impl Drop for CacheWriter {
    fn drop(&mut self) {
        if !self.keep {
            let _ = fs::remove_file(&self.tmp);
        }
    }
}

fn read_u8(r: &mut impl Read) -> io::Result<u8> {
    let mut b = [0];
    r.read_exact(&mut b)?;
    Ok(b[0])
}
fn read_u16(r: &mut impl Read) -> io::Result<u16> {
    let mut b = [0; 2];
    r.read_exact(&mut b)?;
    Ok(u16::from_le_bytes(b))
}
fn read_u32(r: &mut impl Read) -> io::Result<u32> {
    let mut b = [0; 4];
    r.read_exact(&mut b)?;
    Ok(u32::from_le_bytes(b))
}
fn read_u64(r: &mut impl Read) -> io::Result<u64> {
    let mut b = [0; 8];
    r.read_exact(&mut b)?;
    Ok(u64::from_le_bytes(b))
}
fn read_vec(r: &mut impl Read, out: &mut Vec<u8>, n: usize, limit: usize) -> io::Result<()> {
    if n > limit {
        return Err(bad());
    }
    out.clear();
    let got = r.take(n as u64).read_to_end(out)?;
    if got == n { Ok(()) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_found_and_a_cut_file_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("files");
        let mut w = CacheWriter::create(dir.path()).unwrap();
        w.head().unwrap();
        let f = Fingerprint {
            inode: 5,
            ctime: FileTime {
                seconds: -1,
                nanoseconds: 2,
            },
            mtime: FileTime::default(),
            size: 7,
        };
        for p in ["a", "a/b", "c"] {
            w.push(p.as_bytes(), &f, b"entry", &[1; 64]).unwrap();
        }
        w.finish().unwrap();
        assert_eq!(w.reader().unwrap().take_next().unwrap().path, b"a");
        w.commit(&path, ObjectId([3; 32]), 12, &[ObjectId([9; 32])])
            .unwrap();
        let mut r = CacheReader::open(&path).unwrap();
        assert_eq!(
            (r.snapshot, r.sequence, r.indexes.clone()),
            (ObjectId([3; 32]), 12, vec![ObjectId([9; 32])])
        );
        assert!(r.find(b"A").is_none());
        assert_eq!(r.find(b"a/b").unwrap().fingerprint, f);
        assert!(r.find(b"b").is_none());
        assert_eq!(r.find(b"c").unwrap().chunks.len(), 64);
        assert!(r.find(b"d").is_none());
        let whole = fs::read(&path).unwrap();
        for cut in [0, 5, 60, whole.len() - 30] {
            fs::write(&path, &whole[..cut]).unwrap();
            assert!(CacheReader::open(&path).is_none());
        }
        for at in HEAD as usize..whole.len() {
            let mut b = whole.clone();
            b[at] ^= 1;
            fs::write(&path, &b).unwrap();
            assert!(CacheReader::open(&path).is_none(), "{at}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}

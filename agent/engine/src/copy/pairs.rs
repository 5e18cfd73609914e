//! Which chunk of the source became which chunk of the destination, for copies that are sealed anew: pairs of ids, sorted, in files, searched on disk.
//!
//! The files have no names (they are removed as soon as they are open), so that nothing is left behind whatever happens. Layout of a run: records of 64 bytes, the id in
//! the source and the id in the destination, sorted by the first.
//!
//! Memory: [`RECENT`] pairs not yet written, 64 bytes and a free slot each (24 MiB), and 8 bytes for each 64 pairs on disk (2.5 MB for twenty million).

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::ids::ChunkId;

/// Pairs in memory before they are written as a run.
const RECENT: usize = 256 << 10;
/// More runs than this are merged.
const RUNS_MAX: usize = 6;
/// Bytes of a pair.
const RECORD: usize = 64;
/// Pairs between two entries of the fence.
const STRIDE: u64 = 64;

/// See the module.
pub(super) struct Pairs {
    dir: PathBuf,
    recent_max: usize,
    recent: HashMap<ChunkId, ChunkId>,
    runs: Vec<Run>,
}

struct Run {
    file: File,
    records: u64,
    fence: Vec<u64>,
}

fn prefix(id: &[u8]) -> u64 {
    u64::from_be_bytes(id[..8].try_into().expect("eight bytes"))
}

impl Pairs {
    /// None yet; runs are written into `dir`.
    pub(super) fn new(dir: &Path) -> Self {
        Pairs {
            dir: dir.to_owned(),
            recent_max: RECENT,
            recent: HashMap::new(),
            runs: Vec::new(),
        }
    }

    /// What a chunk of the source became.
    pub(super) fn get(&self, id: &ChunkId) -> io::Result<Option<ChunkId>> {
        if let Some(found) = self.recent.get(id) {
            return Ok(Some(*found));
        }
        // The youngest run first.
        for run in self.runs.iter().rev() {
            if let Some(found) = run.get(id)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Adds a pair.
    pub(super) fn insert(&mut self, from: ChunkId, to: ChunkId) -> io::Result<()> {
        self.recent.insert(from, to);
        if self.recent.len() >= self.recent_max {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut recent: Vec<_> = self.recent.drain().collect();
        recent.sort_unstable();
        let mut writer = RunWriter::create(&self.dir)?;
        for (from, to) in recent {
            writer.push(&from.0, &to.0)?;
        }
        self.runs.push(writer.finish()?);
        if self.runs.len() > RUNS_MAX {
            // As in `lookup`: the small half becomes one, and takes larger ones in as long as they are not much larger.
            self.runs.sort_by_key(|r| std::cmp::Reverse(r.records));
            let mut from = self.runs.len() / 2;
            let mut sum: u64 = self.runs[from..].iter().map(|r| r.records).sum();
            while from > 0 && self.runs[from - 1].records < sum * 2 {
                from -= 1;
                sum += self.runs[from].records;
            }
            let small = self.runs.split_off(from);
            self.runs.push(merge(&self.dir, &small)?);
        }
        Ok(())
    }
}

impl Run {
    fn get(&self, id: &ChunkId) -> io::Result<Option<ChunkId>> {
        let p = prefix(&id.0);
        // Equal prefixes may begin in the block before the first fence entry that has them.
        let mut at = self.fence.partition_point(|f| *f < p).saturating_sub(1) as u64 * STRIDE;
        let mut block = [0u8; RECORD * STRIDE as usize];
        while at < self.records {
            let n = STRIDE.min(self.records - at) as usize;
            let bytes = &mut block[..n * RECORD];
            self.file.read_exact_at(bytes, at * RECORD as u64)?;
            for record in bytes.chunks_exact(RECORD) {
                match record[..32].cmp(&id.0[..]) {
                    std::cmp::Ordering::Less => {}
                    std::cmp::Ordering::Equal => {
                        return Ok(Some(ChunkId(record[32..].try_into().expect("32 bytes"))));
                    }
                    std::cmp::Ordering::Greater => return Ok(None),
                }
            }
            at += n as u64;
        }
        Ok(None)
    }
}

struct RunWriter {
    out: BufWriter<File>,
    records: u64,
    fence: Vec<u64>,
}

impl RunWriter {
    fn create(dir: &Path) -> io::Result<Self> {
        let mut random = [0; 12];
        getrandom::fill(&mut random).map_err(|e| io::Error::other(e.to_string()))?;
        let path = dir.join(format!("pairs-{}.tmp", crate::ids::hex(&random)));
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        fs::remove_file(&path)?;
        Ok(RunWriter {
            out: BufWriter::with_capacity(256 << 10, file),
            records: 0,
            fence: Vec::new(),
        })
    }
    fn push(&mut self, from: &[u8], to: &[u8]) -> io::Result<()> {
        if self.records % STRIDE == 0 {
            self.fence.push(prefix(from));
        }
        self.records += 1;
        self.out.write_all(from)?;
        self.out.write_all(to)
    }
    fn finish(self) -> io::Result<Run> {
        Ok(Run {
            file: self.out.into_inner().map_err(|e| e.into_error())?,
            records: self.records,
            fence: self.fence,
        })
    }
}

struct From<'a>(&'a File, u64);

impl Read for From<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.0.read_at(buf, self.1)?;
        self.1 += n as u64;
        Ok(n)
    }
}

/// Merges runs; streams, however long they are. Of equal ids the one of the run named last is kept.
fn merge(dir: &Path, runs: &[Run]) -> io::Result<Run> {
    let mut writer = RunWriter::create(dir)?;
    let mut readers: Vec<_> = runs
        .iter()
        .map(|r| BufReader::with_capacity(64 << 10, From(&r.file, 0)))
        .collect();
    let mut left: Vec<u64> = runs.iter().map(|r| r.records).collect();
    let mut heads: Vec<Option<[u8; RECORD]>> = vec![None; runs.len()];
    loop {
        for i in 0..runs.len() {
            if heads[i].is_none() && left[i] > 0 {
                let mut record = [0; RECORD];
                readers[i].read_exact(&mut record)?;
                left[i] -= 1;
                heads[i] = Some(record);
            }
        }
        let Some(least) = heads.iter().flatten().min_by_key(|h| &h[..32]).copied() else {
            break;
        };
        let mut kept = least;
        for head in &mut heads {
            if head.is_some_and(|h| h[..32] == least[..32]) {
                kept = head.take().unwrap_or(kept);
            }
        }
        writer.push(&kept[..32], &kept[32..])?;
    }
    writer.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> ChunkId {
        ChunkId(*blake3::hash(&n.to_le_bytes()).as_bytes())
    }

    #[test]
    fn pairs_are_found_through_flushes_and_merges_and_leave_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let mut pairs = Pairs::new(dir.path());
        pairs.recent_max = 50;
        for n in 0..3_000 {
            pairs.insert(id(n), id(n + (1 << 32))).unwrap();
        }
        assert!(pairs.runs.len() <= RUNS_MAX && pairs.recent.len() < 50);
        assert!(
            pairs.runs.iter().any(|r| r.records > 500),
            "runs are merged"
        );
        for n in 0..3_000 {
            assert_eq!(pairs.get(&id(n)).unwrap(), Some(id(n + (1 << 32))), "{n}");
        }
        for n in 3_000..4_000 {
            assert_eq!(pairs.get(&id(n)).unwrap(), None);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn equal_beginnings_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let mut pairs = Pairs::new(dir.path());
        pairs.recent_max = 200;
        let near = |n: u8| {
            let mut id = [7; 32];
            id[31] = n;
            ChunkId(id)
        };
        for n in 0..200 {
            pairs.insert(near(n), id(n as u64)).unwrap();
        }
        assert!(pairs.recent.is_empty());
        for n in 0..200 {
            assert_eq!(pairs.get(&near(n)).unwrap(), Some(id(n as u64)));
        }
        assert_eq!(pairs.get(&near(200)).unwrap(), None);
    }
}

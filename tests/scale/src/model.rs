//! What the made-up host holds: which files, of how many chunks, and what changes from day to day. Everything follows from numbers, so the tree, the cache and every
//! snapshot agree without any of them being kept in memory.
//!
//! Nine files in ten lie in directories of 50, 100 of these in a directory of tops; one in ten lies in a single flat directory, as in a spool. Half of the files are small
//! (one chunk of at most 64 KiB), the others have chunks as long as the chunker makes them on average; one in 64 has many. Changes come in clusters: each day one block of 50 neighbours in 40
//! is touched, and one file in five of it gets new content, 0.5 % of all files.

use keepwatch_engine::ids::ChunkId;
use keepwatch_engine::manifest::{Entry, EntryKind, FLAG_PARENT, FileTime};
use keepwatch_engine::repository::CHUNKER;

/// Files in a directory, and files that change together.
pub const BLOCK: u32 = 50;
/// Directories in a top directory.
const TOP: u32 = 100;
/// Share of the files that change in a day.
pub const CHANGED: f64 = 0.005;

/// Mixes numbers into one that looks random (splitmix64 over each).
pub fn mix(parts: &[u64]) -> u64 {
    let mut h = 0x6b65_6570_7761_7463u64;
    for &p in parts {
        h = (h ^ p).wrapping_add(0x9e37_79b9_7f4a_7c15);
        h = (h ^ (h >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        h = (h ^ (h >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        h ^= h >> 31;
    }
    h
}

/// The shape of the whole.
#[derive(Clone, Copy)]
pub struct Model {
    /// Files in every snapshot.
    pub files: u32,
    /// Files of these that lie in directories of [`BLOCK`]; the rest is in the flat directory.
    pub spread: u32,
    /// Snapshots, one a day.
    pub days: u16,
    /// Chunks beyond the first that a file of many has, on average.
    extra: u64,
    /// When the first snapshot was made, seconds since 1970.
    pub first: i64,
    uid: u32,
    gid: u32,
}

/// A thing in the manifest.
#[derive(Clone, Copy)]
pub enum Item {
    /// The source directory itself.
    Source,
    /// A directory of directories.
    Top(u32),
    /// A directory of files.
    Leaf(u32),
    /// The flat directory.
    Spool,
    /// A file.
    File(u32),
}

impl Model {
    /// A model in which all snapshots together have about `chunks` chunks. `last`: when the last one was made.
    pub fn new(files: u32, chunks: u64, days: u16, last: i64) -> Model {
        let spread = files / 10 * 9 / BLOCK * BLOCK;
        // 4 % are lists and manifests.
        let refs = chunks as f64 * 0.96 / (1.0 + CHANGED * (days as f64 - 1.0));
        let many = files as f64 / 64.0;
        Model {
            files,
            spread,
            days,
            extra: ((refs - files as f64).max(0.0) / many) as u64,
            first: last - (days as i64 - 1) * 86_400,
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
        }
    }

    fn is_large(&self, file: u32) -> bool {
        mix(&[1, file as u64]) % 2 == 0
    }
    /// Chunks of a file.
    pub fn chunks(&self, file: u32) -> u32 {
        let h = mix(&[1, file as u64]);
        if h % 64 == 0 {
            1 + ((h >> 8) % (2 * self.extra + 1)) as u32
        } else {
            1
        }
    }
    /// Length of a chunk.
    pub fn length(&self, file: u32, chunk: u32) -> u32 {
        let h = mix(&[2, file as u64, chunk as u64]);
        if self.is_large(file) {
            CHUNKER[1] / 2 + (h % CHUNKER[1] as u64) as u32
        } else {
            1 + (h % 65_536) as u32
        }
    }
    /// Length of a file.
    pub fn size(&self, file: u32) -> u64 {
        (0..self.chunks(file))
            .map(|k| self.length(file, k) as u64)
            .sum()
    }
    /// A chunk of a file that last changed on the day `version`.
    pub fn id(&self, file: u32, version: u16, chunk: u32) -> ChunkId {
        let mut id = [0; 32];
        let key = (version as u64) << 32 | file as u64;
        for (n, b) in id.chunks_exact_mut(8).enumerate() {
            b.copy_from_slice(&mix(&[3, n as u64, key, chunk as u64]).to_le_bytes());
        }
        ChunkId(id)
    }
    /// Calls `each` with the files that change on a day after the first (day 0). `scattered`: as many, but anywhere, which is the worst case for lists cut into runs.
    pub fn changed(&self, day: u16, scattered: bool, each: &mut dyn FnMut(u32)) {
        for file in 0..self.files {
            let d = day as u64;
            let hit = if scattered {
                mix(&[6, d, file as u64]) % 200 == 0
            } else {
                mix(&[4, d, (file / BLOCK) as u64]) % 40 == 0 && mix(&[5, d, file as u64]) % 5 == 0
            };
            if hit {
                each(file);
            }
        }
    }
    /// When the snapshot of a day was made.
    pub fn time(&self, day: u16) -> i64 {
        self.first + day as i64 * 86_400
    }
    /// Last modification of a file that last changed on a day.
    pub fn mtime(&self, file: u32, version: u16) -> FileTime {
        let h = mix(&[7, file as u64, version as u64]);
        FileTime {
            seconds: self.time(version) - 3600 - (h % 80_000) as i64,
            nanoseconds: (h >> 20) as u32 % 1_000_000_000,
        }
    }

    /// Everything from the source directory down, in the order of the manifest.
    pub fn items(&self) -> impl Iterator<Item = Item> + '_ {
        let leaves = self.spread / BLOCK;
        let spread = (0..leaves).flat_map(move |leaf| {
            (leaf % TOP == 0)
                .then_some(Item::Top(leaf / TOP))
                .into_iter()
                .chain([Item::Leaf(leaf)])
                .chain((leaf * BLOCK..(leaf + 1) * BLOCK).map(Item::File))
        });
        [Item::Source]
            .into_iter()
            .chain(spread)
            .chain([Item::Spool])
            .chain((self.spread..self.files).map(Item::File))
    }
    /// Where it lies beneath the source directory.
    pub fn below(&self, item: Item) -> String {
        let leaf = |l: u32| format!("d{:05}/e{:02}", l / TOP, l % TOP);
        match item {
            Item::Source => String::new(),
            Item::Top(t) => format!("d{t:05}"),
            Item::Leaf(l) => leaf(l),
            Item::Spool => "spool".into(),
            Item::File(f) if f < self.spread => {
                format!("{}/file-{:02}.dat", leaf(f / BLOCK), f % BLOCK)
            }
            Item::File(f) => format!("spool/message-{f:09}"),
        }
    }
    /// Its entry. `source`: path of the source directory without leading slash.
    pub fn entry(&self, source: &str, item: Item, version: u16) -> Entry {
        let below = self.below(item);
        let mut path = source.to_owned();
        if !below.is_empty() {
            path = format!("{path}/{below}");
        }
        let mut entry = match item {
            Item::File(_) => Entry::new(path.into(), EntryKind::File),
            _ => Entry::new(path.into(), EntryKind::Directory),
        };
        entry.mode = 0o755;
        entry.mtime = FileTime {
            seconds: self.first - 86_400,
            nanoseconds: 0,
        };
        if let Item::File(f) = item {
            entry.mode = 0o644;
            entry.mtime = self.mtime(f, version);
            entry.size = Some(self.size(f));
            entry.set_refs(self.chunks(f));
        }
        self.own(&mut entry);
        entry
    }
    /// The entry of a directory above the source.
    pub fn parent(&self, path: &str) -> Entry {
        let mut entry = Entry::new(path.into(), EntryKind::Directory);
        entry.mode = 0o755;
        entry.set_flag(FLAG_PARENT);
        self.own(&mut entry);
        entry
    }
    fn own(&self, entry: &mut Entry) {
        entry.uid = self.uid;
        entry.gid = self.gid;
        entry.user = Some("operator".into());
        entry.group = Some("operators".into());
    }
}

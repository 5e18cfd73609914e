//! The manifest: what was backed up, entry by entry, sorted by path (FORMAT.md, section 7).
//!
//! Entries carry their whole path, so that each manifest chunk can be read by itself and a lost one costs only its own entries. Content ids are not in the
//! manifest but in the list of refs beside it, which the host may read: the manifest, with its names, is for readers only.
//!
//! Everything here was written by somebody else: it is checked as it is decoded, and again nothing is believed later on.

use std::cmp::Ordering;

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

use crate::limits;

/// What an entry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum EntryKind {
    /// Regular file.
    File = 0,
    /// Directory.
    Directory = 1,
    /// Symbolic link.
    Symlink = 2,
    /// Named pipe.
    Fifo = 3,
    /// Character device.
    CharDevice = 4,
    /// Block device.
    BlockDevice = 5,
    /// Socket; recorded, not restored.
    Socket = 6,
}

impl EntryKind {
    /// From its stored number.
    pub fn from_u8(n: u8) -> Option<Self> {
        Some(match n {
            0 => Self::File,
            1 => Self::Directory,
            2 => Self::Symlink,
            3 => Self::Fifo,
            4 => Self::CharDevice,
            5 => Self::BlockDevice,
            6 => Self::Socket,
            _ => return None,
        })
    }
}

/// Flag: the file changed while it was read.
pub const FLAG_TORN: u8 = 1;
/// Flag: recorded only as the parent of what was asked for.
pub const FLAG_PARENT: u8 = 2;

/// Seconds and nanoseconds.
#[derive(Encode, Decode, Clone, Copy, PartialEq, Eq, Debug, Default, PartialOrd, Ord)]
#[cbor(array)]
pub struct FileTime {
    /// Since 1970; may be negative.
    #[n(0)]
    pub seconds: i64,
    /// 0 to 999,999,999.
    #[n(1)]
    pub nanoseconds: u32,
}

/// An extended attribute.
#[derive(Encode, Decode, Clone, PartialEq, Eq, Debug)]
#[cbor(array)]
pub struct Xattr {
    /// With its namespace: `user.x`.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub name: Vec<u8>,
    /// Value.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub value: Vec<u8>,
}

/// One file, directory or other thing.
#[derive(Encode, Decode, Clone, PartialEq, Eq, Debug)]
#[cbor(map)]
pub struct Entry {
    /// Components joined by `/`, no leading slash.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub path: Vec<u8>,
    /// [`EntryKind`]
    #[n(1)]
    kind: u8,
    /// Low 12 bits of `st_mode`.
    #[n(2)]
    pub mode: u32,
    /// Owner.
    #[n(3)]
    pub uid: u32,
    /// Group.
    #[n(4)]
    pub gid: u32,
    /// Owner's name.
    #[n(5)]
    pub user: Option<String>,
    /// Group's name.
    #[n(6)]
    pub group: Option<String>,
    /// Last modification of the content.
    #[n(7)]
    pub mtime: FileTime,
    /// Files: bytes, holes included.
    #[n(8)]
    pub size: Option<u64>,
    /// Refs that the content takes.
    #[n(9)]
    refs: Option<u32>,
    /// Symlinks: where to.
    #[n(10)]
    pub target: Option<ByteVec>,
    /// Devices: major and minor.
    #[n(11)]
    pub device: Option<[u32; 2]>,
    /// Extended attributes, ACLs and capabilities among them.
    #[n(12)]
    pub xattrs: Option<Vec<Xattr>>,
    /// Files with several links: device and inode.
    #[n(13)]
    pub link: Option<[u64; 2]>,
    /// Sparse files: offset and length of each hole.
    #[n(14)]
    pub holes: Option<Vec<[u64; 2]>>,
    /// [`FLAG_TORN`], [`FLAG_PARENT`]
    #[n(15)]
    flags: Option<u8>,
    /// Last access, when asked for.
    #[n(16)]
    pub atime: Option<FileTime>,
}

/// Why an entry was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a manifest entry is malformed: {0}")]
pub struct EntryError(pub &'static str);

impl Entry {
    /// A bare entry; the caller fills in what applies.
    pub fn new(path: Vec<u8>, kind: EntryKind) -> Self {
        Entry {
            path,
            kind: kind as u8,
            mode: 0,
            uid: 0,
            gid: 0,
            user: None,
            group: None,
            mtime: FileTime::default(),
            size: None,
            refs: None,
            target: None,
            device: None,
            xattrs: None,
            link: None,
            holes: None,
            flags: None,
            atime: None,
        }
    }
    /// What it is.
    pub fn kind(&self) -> EntryKind {
        EntryKind::from_u8(self.kind).expect("checked when it was decoded")
    }
    /// Number of refs its content takes.
    pub fn refs(&self) -> u32 {
        self.refs.unwrap_or(0)
    }
    /// Sets the number of refs.
    pub fn set_refs(&mut self, n: u32) {
        self.refs = (n > 0).then_some(n);
    }
    /// Bytes, for files; else 0.
    pub fn len(&self) -> u64 {
        self.size.unwrap_or(0)
    }
    /// True for files without content and for all that is no file.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Sets a flag.
    pub fn set_flag(&mut self, flag: u8) {
        self.flags = Some(self.flags.unwrap_or(0) | flag);
    }
    /// Tests a flag.
    pub fn has_flag(&self, flag: u8) -> bool {
        self.flags.unwrap_or(0) & flag != 0
    }
    /// Bytes of content that are stored: size without holes.
    pub fn stored_len(&self) -> u64 {
        self.len() - self.holes.iter().flatten().map(|h| h[1]).sum::<u64>()
    }
    /// The path for people.
    pub fn display(&self) -> String {
        String::from_utf8_lossy(&self.path).into_owned()
    }
    /// Appends the encoded entry.
    pub fn encode_to(&self, out: &mut Vec<u8>) {
        minicbor::encode(self, out).expect("encoding into memory does not fail");
    }

    fn check(&self) -> Result<(), EntryError> {
        let bad = |why| Err(EntryError(why));
        check_path(&self.path)?;
        let Some(kind) = EntryKind::from_u8(self.kind) else {
            return bad("unknown kind of entry");
        };
        if self.mode > 0o7777 {
            return bad("mode out of range");
        }
        if self.mtime.nanoseconds > 999_999_999
            || self.atime.is_some_and(|t| t.nanoseconds > 999_999_999)
        {
            return bad("nanoseconds out of range");
        }
        let file = kind == EntryKind::File;
        if file != self.size.is_some() || (!file && (self.refs.is_some() || self.holes.is_some())) {
            return bad("size or content on what is no file, or none on a file");
        }
        if self.len() > i64::MAX as u64 {
            return bad("impossible size");
        }
        if (kind == EntryKind::Symlink) != self.target.is_some() {
            return bad("a target on what is no symlink, or none on one");
        }
        if let Some(t) = &self.target {
            if t.is_empty() || t.len() > limits::PATH_BYTES || t.contains(&0) {
                return bad("impossible target of a symlink");
            }
        }
        if matches!(kind, EntryKind::CharDevice | EntryKind::BlockDevice) != self.device.is_some() {
            return bad("device numbers on what is no device, or none on one");
        }
        let xattrs = self.xattrs.iter().flatten();
        if xattrs
            .clone()
            .map(|x| x.name.len() + x.value.len())
            .sum::<usize>()
            > limits::XATTR_BYTES
            || xattrs
                .clone()
                .any(|x| x.name.is_empty() || x.name.len() > 255 || x.name.contains(&0))
        {
            return bad("impossible extended attributes");
        }
        let mut at = 0;
        if self.holes.as_ref().is_some_and(|h| h.len() > limits::HOLES) {
            return bad("too many holes");
        }
        for &[offset, length] in self.holes.iter().flatten() {
            match offset.checked_add(length) {
                Some(end) if offset >= at && length > 0 && end <= self.len() => at = end,
                _ => return bad("impossible holes"),
            }
        }
        if (self.stored_len() > 0) != (self.refs() > 0) || self.refs() as u64 > self.stored_len() {
            return bad("content and its number of chunks do not fit together");
        }
        if self
            .user
            .as_ref()
            .into_iter()
            .chain(&self.group)
            .any(|n| n.len() > 256)
        {
            return bad("a name of a user or group is too long");
        }
        Ok(())
    }
}

/// A relative path of plain components: nothing that leads out of the directory it is joined to.
pub fn check_path(path: &[u8]) -> Result<(), EntryError> {
    if path.is_empty() || path.len() > limits::PATH_BYTES {
        return Err(EntryError("a path is empty or too long"));
    }
    let mut depth = 0;
    for c in path.split(|b| *b == b'/') {
        depth += 1;
        if c.is_empty() || c == b"." || c == b".." || c.len() > limits::NAME_BYTES || c.contains(&0)
        {
            return Err(EntryError("a path leads elsewhere than down"));
        }
    }
    if depth > limits::PATH_DEPTH {
        return Err(EntryError("a path is too deep"));
    }
    Ok(())
}

/// The order of a manifest: component by component, as bytes. A directory comes just before what is in it.
pub fn compare(a: &[u8], b: &[u8]) -> Ordering {
    // A slash sorts before every other byte; then components compare as a whole.
    let n = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    match (a.get(n), b.get(n)) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Less,
        (Some(_), None) => Ordering::Greater,
        (Some(b'/'), Some(_)) => Ordering::Less,
        (Some(_), Some(b'/')) => Ordering::Greater,
        (Some(x), Some(y)) => x.cmp(y),
    }
}

/// True when `path` is `dir` or lies beneath it. The empty `dir` is the root.
pub fn is_beneath(path: &[u8], dir: &[u8]) -> bool {
    dir.is_empty() || (path.starts_with(dir) && matches!(path.get(dir.len()), None | Some(b'/')))
}

/// Decodes the entries of a manifest chunk. Order is checked within the chunk; across chunks by the caller, with `after`.
pub fn decode_chunk(
    bytes: &[u8],
    after: &mut Vec<u8>,
    each: &mut dyn FnMut(Entry),
) -> Result<(u32, u32), EntryError> {
    let mut decoder = minicbor::Decoder::new(bytes);
    let (mut entries, mut refs) = (0u32, 0u32);
    while decoder.position() < bytes.len() {
        let entry: Entry = decoder
            .decode()
            .map_err(|_| EntryError("it is not the CBOR that was expected"))?;
        entry.check()?;
        if !after.is_empty() && compare(after, &entry.path) != Ordering::Less {
            return Err(EntryError("entries are out of order or stand there twice"));
        }
        after.clone_from(&entry.path);
        entries += 1;
        refs = refs
            .checked_add(entry.refs())
            .ok_or(EntryError("too many refs"))?;
        each(entry);
    }
    Ok((entries, refs))
}

/// Decides after which entries a manifest chunk ends: by a hash of the path, so that a changed time moves no cut. Average 128 entries, at most 4096, at most 1 MiB:
/// a changed entry costs the chunk that it stands in, and chunks are compressed together, so short ones cost little.
pub fn ends_chunk(path: &[u8], entries: usize, bytes: usize) -> bool {
    let mut h = 0xcbf2_9ce4_8422_2325u64; // FNV-1a: nothing secret or contested depends on it
    for &b in path {
        h = (h ^ b as u64).wrapping_mul(0x0000_0100_0000_01b3);
    }
    (h >> 20) % 128 == 0 || entries >= 4096 || bytes >= 1 << 20
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(path: &str) -> Entry {
        let mut e = Entry::new(path.into(), EntryKind::File);
        e.size = Some(10);
        e.set_refs(1);
        e
    }

    fn decode(bytes: &[u8]) -> Result<Vec<Entry>, EntryError> {
        let mut out = Vec::new();
        decode_chunk(bytes, &mut Vec::new(), &mut |e| out.push(e))?;
        Ok(out)
    }

    fn encoded(e: &Entry) -> Vec<u8> {
        let mut b = Vec::new();
        e.encode_to(&mut b);
        b
    }

    #[test]
    fn hostile_entries_are_refused() {
        for path in [
            "",
            "/etc",
            "a//b",
            "a/../b",
            "..",
            ".",
            "a/.",
            "a\0b",
            "a/",
            &"x".repeat(256),
            &"a/".repeat(2500),
        ] {
            assert!(decode(&encoded(&file(path))).is_err(), "{path:?}");
        }
        let mut cases: Vec<(&str, Entry)> = Vec::new();
        let mut with = |what, f: &dyn Fn(&mut Entry)| {
            let mut e = file("f");
            f(&mut e);
            cases.push((what, e));
        };
        with("kind", &|e| e.kind = 9);
        with("mode", &|e| e.mode = 0o10000);
        with("size", &|e| e.size = Some(u64::MAX));
        with("no size", &|e| e.size = None);
        with("target", &|e| e.target = Some(b"x".to_vec().into()));
        with("device", &|e| e.device = Some([1, 2]));
        with("refs", &|e| e.set_refs(11));
        with("no refs", &|e| e.set_refs(0));
        with("nanoseconds", &|e| e.mtime.nanoseconds = 1_000_000_000);
        with("hole beyond", &|e| e.holes = Some(vec![[5, 6]]));
        with("hole overflow", &|e| e.holes = Some(vec![[u64::MAX, 2]]));
        with("holes overlap", &|e| e.holes = Some(vec![[0, 4], [3, 2]]));
        with("empty hole", &|e| e.holes = Some(vec![[1, 0]]));
        with("xattr", &|e| {
            e.xattrs = Some(vec![Xattr {
                name: vec![b'a'; 300],
                value: vec![],
            }])
        });
        for (what, e) in &cases {
            assert!(decode(&encoded(e)).is_err(), "{what}");
        }
        let twice = [encoded(&file("b")), encoded(&file("b"))].concat();
        assert!(decode(&twice).is_err());
        let order = [encoded(&file("b")), encoded(&file("a"))].concat();
        assert!(decode(&order).is_err());
        assert!(decode(&encoded(&file("a"))[..5]).is_err());
    }

    #[test]
    fn a_directory_comes_just_before_its_content() {
        let mut paths = vec!["a", "a-b", "a.txt", "a/b", "a/b/c", "a/z", "b", "a\u{1}"];
        paths.sort_by(|x, y| compare(x.as_bytes(), y.as_bytes()));
        assert_eq!(
            paths,
            ["a", "a/b", "a/b/c", "a/z", "a\u{1}", "a-b", "a.txt", "b"]
        );
    }

    proptest! {
        #[test]
        fn order_is_that_of_component_lists(a in "[ab/.-]{1,8}", b in "[ab/.-]{1,8}") {
            let split = |s: &str| s.split('/').map(|c| c.as_bytes().to_vec()).collect::<Vec<_>>();
            prop_assert_eq!(compare(a.as_bytes(), b.as_bytes()), split(&a).cmp(&split(&b)));
        }

        #[test]
        fn junk_never_panics(junk in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&junk);
        }

        #[test]
        fn damaged_entries_never_panic(at in 0usize..60, with in any::<u8>()) {
            let mut e = file("some/path");
            e.holes = Some(vec![[1, 2]]);
            e.xattrs = Some(vec![Xattr { name: b"user.x".to_vec(), value: vec![1] }]);
            let mut b = encoded(&e);
            let i = at % b.len();
            b[i] = with;
            let _ = decode(&b);
        }
    }
}

//! `keepwatch-hostile DIR [PART PARTS]`: writes a repository for each known bomb (or every so many-th) into DIR, and `bombs.json`, which says which commands must refuse it.
//!
//! H3: what costs an attacker little to store and would cost us much to believe. The worst attacker is meant: a host that was taken over, which signs with a key that counts
//! (or, for keys and config, somebody who may write to the store). `tests/e2e/topics/bombs.py` runs the program on each under a measure of memory and time.

#[path = "../../../agent/engine/tests/restore_common/mod.rs"]
mod restore_common;

mod bytes;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keepwatch_engine::envelope::{self, Sealed};
use keepwatch_engine::ids::{ChunkId, ChunkKind, ObjectId, PackClass};
use keepwatch_engine::keys::WriterKey;
use keepwatch_engine::list::{Form, Part};
use keepwatch_engine::manifest::{Entry, Xattr};
use keepwatch_engine::pack::Packer;
use keepwatch_engine::record::{self, RecordKind};
use keepwatch_engine::records::{Index, ListRoot, Snapshot};
use keepwatch_engine::repository::Repository;
use keepwatch_engine::store::local::LocalStore;
use keepwatch_engine::store::{Area, Name, Store};
use restore_common::{Builder, file};

use bytes::{Text, rle};

/// What a frame of zstd expands to.
const HUGE: u64 = 10 << 30;
/// What an index object may hold.
const INDEX: usize = keepwatch_engine::limits::INDEX_CONTENT_BYTES;

/// A repository with one good snapshot of one file, into which a bomb is put.
struct Bomb {
    dir: PathBuf,
    b: Builder,
    key: WriterKey,
    good: Snapshot,
}

impl Bomb {
    fn new(dir: &Path) -> Bomb {
        let repo = dir.join("repo");
        let store: Arc<dyn Store> = Arc::new(LocalStore::create(&repo).expect("a new directory"));
        let mut b = Builder::new(store);
        let key = b
            .reader()
            .enroll("thief", true, restore_common::now())
            .expect("enrolled");
        b.paths = vec![b"/f".to_vec()];
        b.add(file("f", 7), b"content");
        let id = b.commit();
        let good = b.reader().snapshot(id).expect("just written").body;
        let text = b.identity.text();
        private(&dir.join("identity.txt"), text.expose());
        private(&dir.join("writer.key"), key.to_text().expose());
        Bomb {
            dir: dir.to_owned(),
            b,
            key,
            good,
        }
    }

    fn writer(&self) -> Repository {
        Repository::open_as_writer(self.b.store.clone(), &self.key).expect("a good key")
    }

    /// A signed record whose sealed body is `frame`.
    fn frame(&self, area: Area, frame: &[u8]) {
        let repository = self.writer();
        let kind = match area {
            Area::Index => RecordKind::Index,
            Area::Snapshots => RecordKind::Snapshot,
            Area::Tombstones => RecordKind::Tombstone,
            _ => RecordKind::Marks,
        };
        let sealed = repository.host_recipient().seal(frame);
        let bytes = record::write(
            kind,
            repository.id(),
            self.key.id,
            &self.key.signing,
            &sealed,
        );
        self.put(area, &bytes);
    }

    /// A signed record of this CBOR.
    fn cbor(&self, area: Area, body: &[u8]) {
        self.frame(area, &envelope::compress_body(body));
    }

    fn put(&self, area: Area, bytes: &[u8]) {
        let name = Name::hashed(area, ObjectId::of(bytes)).expect("a hashed area");
        self.b.store.put(&name, bytes).expect("stored");
    }

    /// An object of zeros that takes no room.
    fn sparse(&self, name: &str, bytes: u64) {
        let path = self.dir.join("repo").join(name);
        fs::create_dir_all(path.parent().expect("in an area")).expect("made");
        let _ = fs::remove_file(&path);
        let out = fs::File::create(path).expect("made");
        out.set_len(bytes).expect("a file system with holes");
    }

    /// A snapshot that takes these lists.
    fn lists(&mut self, manifest: ListRoot, refs: ListRoot) {
        self.b.commit_lists(manifest, refs);
    }

    /// A snapshot with this one manifest chunk.
    fn manifest(&mut self, bytes: &[u8], entries: u32) {
        let part = Part {
            id: self.b.chunk(ChunkKind::Manifest, bytes),
            refs: 0,
            entries,
        };
        let root = self
            .b
            .list(Form::Parts, std::iter::once(&part.to_bytes()[..]));
        self.lists(root, ListRoot::default());
    }

    /// A file whose content lies in an envelope with this plaintext.
    fn envelope(&mut self, plain: &[u8], lengths: Vec<u32>) {
        let repository = self.writer();
        let ids = vec![ChunkId([7; 32]); lengths.len()];
        let sealed = Sealed {
            kind: ChunkKind::Data,
            ids,
            lengths: lengths.clone(),
            bytes: repository.recipient().seal(plain),
        };
        let mut packer = Packer::new(PackClass::Content);
        packer.push(&sealed);
        let done = packer.finish();
        self.b
            .store
            .put(&Name::Pack(done.id), &done.bytes)
            .expect("stored");
        repository
            .put_record(
                Area::Index,
                &Index {
                    packs: vec![done.indexed],
                },
            )
            .expect("stored");
        self.b
            .add_refs(file("bomb", lengths[0] as usize), &[ChunkId([7; 32])]);
        self.b.commit();
    }

    /// A tree of eight levels, each of 300 times the one below: 300^8 leaf items in a few kilobytes.
    fn tree(&mut self, form: Form, leaf: &[u8]) -> ListRoot {
        let mut items = leaf.repeat(300);
        // A part takes one ref, a ref is one.
        let (mut leaves, mut refs) = (300u64, 300u64);
        let mut root = ListRoot::default();
        for level in 1..=8u8 {
            let mut chunk = vec![level, form as u8];
            chunk.extend(&items);
            let id = self.b.chunk(ChunkKind::List, &chunk);
            let mut node = id.0.to_vec();
            node.extend(leaves.to_le_bytes());
            node.extend(refs.to_le_bytes());
            root = ListRoot {
                depth: level,
                items: node.clone(),
                count: leaves,
            };
            let (Some(l), Some(r)) = (leaves.checked_mul(300), refs.checked_mul(300)) else {
                break;
            };
            (leaves, refs) = (l, r);
            items = node.repeat(300);
        }
        root
    }
}

fn private(path: &Path, text: &str) {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut out = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .expect("a new file");
    out.write_all(text.as_bytes())
        .and_then(|()| out.write_all(b"\n"))
        .expect("written");
}

/// What to do with a fresh repository.
type Make = fn(&mut Bomb);
const READ: &[&str] = &["ls", "restore"];
const SNAPSHOT: &[&str] = &["verify", "prune"];
const CONTENT: &[&str] = &["restore", "verify"];

/// Name, the commands that must not succeed on it, and how it is made.
const BOMBS: &[(&str, &[&str], Make)] = &[
    ("nothing", &[], |_| {}),
    // Frames that expand: stated, lied about, not stated.
    ("index-frame-states-10-gb", &["verify", "prune"], |x| {
        x.frame(Area::Index, &rle(HUGE, Some(HUGE)))
    }),
    ("index-frame-lies", &["verify", "prune"], |x| {
        x.frame(Area::Index, &rle(HUGE, Some(1000)))
    }),
    ("index-frame-says-nothing", &["verify", "prune"], |x| {
        x.frame(Area::Index, &rle(HUGE, None))
    }),
    (
        "index-frame-of-all-that-is-allowed",
        &["verify", "prune"],
        |x| x.frame(Area::Index, &rle(INDEX as u64, Some(INDEX as u64))),
    ),
    ("snapshot-frame-lies", SNAPSHOT, |x| {
        x.frame(Area::Snapshots, &rle(HUGE, Some(1000)))
    }),
    ("tombstone-frame-states-10-gb", SNAPSHOT, |x| {
        x.frame(Area::Tombstones, &rle(HUGE, Some(HUGE)))
    }),
    ("marks-frame-lies", &["prune"], |x| {
        x.frame(Area::Marks, &rle(HUGE, Some(9)))
    }),
    // Many small things in what an index object may hold.
    ("index-of-two-million-packs", &["verify", "prune"], |x| {
        let pack = Text::new()
            .map(4)
            .int(0)
            .bytes(&[0; 32])
            .int(1)
            .int(0)
            .int(2)
            .int(0)
            .int(3)
            .array(0)
            .done();
        let n = (INDEX - 100) / pack.len();
        x.cbor(
            Area::Index,
            &Text::new()
                .map(1)
                .int(0)
                .array(n as u64)
                .raw(&pack.repeat(n))
                .done(),
        );
    }),
    (
        "index-of-twenty-million-envelopes",
        &["verify", "prune"],
        |x| {
            let envelope = Text::new()
                .array(4)
                .int(0)
                .int(0)
                .bytes(&[])
                .array(0)
                .done();
            let n = (INDEX - 100) / envelope.len();
            let head = Text::new()
                .map(1)
                .int(0)
                .array(1)
                .map(4)
                .int(0)
                .bytes(&[0; 32])
                .int(1)
                .int(0)
                .int(2)
                .int(0)
                .int(3)
                .array(n as u64);
            x.cbor(Area::Index, &head.raw(&envelope.repeat(n)).done());
        },
    ),
    (
        "index-of-a-hundred-million-lengths",
        &["verify", "prune"],
        |x| {
            let n = INDEX - 200;
            let head = Text::new()
                .map(1)
                .int(0)
                .array(1)
                .map(4)
                .int(0)
                .bytes(&[0; 32])
                .int(1)
                .int(0)
                .int(2)
                .int(0)
                .int(3)
                .array(1);
            x.cbor(
                Area::Index,
                &head
                    .array(4)
                    .int(0)
                    .int(0)
                    .bytes(&[])
                    .array(n as u64)
                    .raw(&vec![1; n])
                    .done(),
            );
        },
    ),
    ("index-of-2-to-the-63", &["verify", "prune"], |x| {
        x.cbor(
            Area::Index,
            &Text::new().map(1).int(0).array(1 << 63).done(),
        )
    }),
    ("index-nested", &[], |x| {
        x.cbor(
            Area::Index,
            &Text::new()
                .map(1)
                .int(9)
                .raw(&vec![0x81; INDEX - 100])
                .int(0)
                .done(),
        )
    }),
    ("index-nested-without-lengths", &["verify", "prune"], |x| {
        x.cbor(
            Area::Index,
            &Text::new()
                .map(1)
                .int(9)
                .raw(&vec![0x9f; INDEX - 100])
                .done(),
        )
    }),
    ("snapshot-nested", SNAPSHOT, |x| {
        x.cbor(
            Area::Snapshots,
            &Text::new()
                .map(1)
                .int(99)
                .raw(&vec![0x9f; (1 << 20) - 100])
                .done(),
        )
    }),
    ("snapshot-of-a-million-tags", &[], |x| {
        let mut s = x.good.clone();
        s.tags = vec![String::new(); (1 << 20) - 2000];
        x.cbor(Area::Snapshots, &minicbor::to_vec(&s).expect("encoded"));
    }),
    // Objects of ten gigabytes that take no room.
    (
        "config-of-10-gb",
        &["snapshots", "ls", "restore", "verify", "prune"],
        |x| x.sparse("config", HUGE),
    ),
    ("index-of-10-gb", &["verify", "prune"], |x| {
        x.sparse(&format!("index/{}", "0".repeat(64)), HUGE)
    }),
    ("snapshot-of-10-gb", SNAPSHOT, |x| {
        x.sparse(&format!("snapshots/{}", "0".repeat(64)), HUGE)
    }),
    ("tombstone-of-10-gb", SNAPSHOT, |x| {
        x.sparse(&format!("tombstones/{}", "0".repeat(64)), HUGE)
    }),
    ("marks-of-10-gb", &["prune"], |x| {
        x.sparse(&format!("marks/{}", "0".repeat(64)), HUGE)
    }),
    ("pack-of-10-gb", &[], |x| {
        x.sparse(&format!("packs/00/{}", "0".repeat(64)), HUGE)
    }),
    ("writer-of-10-gb", &["prune"], |x| {
        x.sparse("writers/0000000000000000", HUGE)
    }),
    ("key-of-10-gb", &["ls"], |x| {
        x.sparse("keys/another.age", HUGE)
    }),
    // Envelopes.
    ("envelope-that-expands", CONTENT, |x| {
        x.envelope(&bytes::envelope(&[10], &rle(HUGE, Some(10))), vec![10])
    }),
    ("envelope-that-states-10-gb", CONTENT, |x| {
        x.envelope(&bytes::envelope(&[10], &rle(HUGE, Some(HUGE))), vec![10])
    }),
    ("envelope-of-2-to-the-31-chunks", CONTENT, |x| {
        let mut plain = bytes::envelope(&[10], &rle(10, Some(10)));
        plain[12..16].copy_from_slice(&0x8000_0000u32.to_le_bytes());
        x.envelope(&plain, vec![10]);
    }),
    ("envelope-with-a-window-of-2-gb", CONTENT, |x| {
        let mut frame = rle(10, Some(10));
        frame[5] = 21 << 3;
        x.envelope(&bytes::envelope(&[10], &frame), vec![10]);
    }),
    // Lists and manifests.
    ("manifest-of-four-billion-entries", READ, |x| {
        let part = Part::from_bytes(x.good.manifest.items[..40].try_into().expect("one part"));
        let lie = Part {
            entries: u32::MAX,
            ..part
        };
        x.lists(
            ListRoot {
                depth: 0,
                items: lie.to_bytes().to_vec(),
                count: 1,
            },
            x.good.refs.clone(),
        );
    }),
    ("manifest-that-repeats-itself", &["ls", "restore"], |x| {
        let part = x.good.manifest.items[..40].to_vec();
        let root = x.tree(Form::Parts, &part);
        x.lists(root, x.good.refs.clone());
    }),
    (
        "manifest-that-repeats-what-is-lost",
        &["ls", "restore", "verify", "prune"],
        |x| {
            let mut part = x.good.manifest.items[..40].to_vec();
            part[..32].fill(9);
            let root = x.tree(Form::Parts, &part);
            x.lists(root, x.good.refs.clone());
        },
    ),
    ("refs-that-repeat-themselves", &[], |x| {
        let one = x.good.refs.items[..32].to_vec();
        let root = x.tree(Form::Refs, &one);
        x.lists(x.good.manifest.clone(), root);
    }),
    (
        "list-of-2-to-the-64",
        &["ls", "restore", "verify", "prune"],
        |x| {
            let mut node = vec![3; 32];
            node.extend([0xff; 16]);
            let root = ListRoot {
                depth: 8,
                items: node.repeat(3),
                count: u64::MAX,
            };
            x.lists(root.clone(), root);
        },
    ),
    (
        "entry-of-three-million-attributes",
        &["ls", "restore"],
        |x| {
            let mut e = file("f", 0);
            e.xattrs = Some(vec![
                Xattr {
                    name: Vec::new(),
                    value: Vec::new()
                };
                ((8 << 20) - 500) / 3
            ]);
            x.manifest(&encoded(&e), 1);
        },
    ),
    ("entry-of-three-million-holes", &["ls", "restore"], |x| {
        let mut e = file("f", 0);
        e.holes = Some(vec![[0, 0]; ((8 << 20) - 500) / 3]);
        x.manifest(&encoded(&e), 1);
    }),
    ("entry-of-eight-exabytes", &["restore"], |x| {
        let mut e = file("f", 0);
        e.size = Some(i64::MAX as u64);
        let id = x.b.chunk(ChunkKind::Data, b"little");
        x.b.add_refs(e, &[id]);
        x.b.commit();
    }),
    ("sparse-file-of-eight-exabytes", &[], |x| {
        let mut e = file("f", 0);
        e.size = Some(i64::MAX as u64);
        e.holes = Some(vec![[0, i64::MAX as u64]]);
        x.b.add_refs(e, &[]);
        x.b.commit();
    }),
    ("two-thousand-paths-of-four-kilobytes", &[], |x| {
        let mut bytes = Vec::new();
        let deep = "d/".repeat(2040);
        for n in 0..2000 {
            file(format!("{deep}{n:04}"), 0).encode_to(&mut bytes);
        }
        x.manifest(&bytes, 2000);
    }),
    // Keys.
    ("passphrase-of-2-to-the-30", &["ls:passphrase"], |x| {
        private(&x.dir.join("passphrase"), "correct horse battery staple");
        let head = "age-encryption.org/v1\n-> scrypt AAAAAAAAAAAAAAAAAAAAAA 30\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n--- AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n";
        fs::write(
            x.dir.join("repo/keys/p.age"),
            [head.as_bytes(), &[0; 64]].concat(),
        )
        .expect("written");
    }),
    ("key-of-fifteen-hundred-stanzas", &[], |x| {
        let one = "-> X25519 AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n";
        let text = format!(
            "age-encryption.org/v1\n{}--- AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n",
            one.repeat(600)
        );
        fs::write(
            x.dir.join("repo/keys/aaa.age"),
            [text.as_bytes(), &[0; 64]].concat(),
        )
        .expect("written");
    }),
    ("record-of-a-million-stanzas", &["verify", "prune"], |x| {
        let text = format!("age-encryption.org/v1\n{}", "-> x y\n\n".repeat(1_000_000));
        let bytes = record::write(
            RecordKind::Index,
            x.writer().id(),
            x.key.id,
            &x.key.signing,
            text.as_bytes(),
        );
        x.put(Area::Index, &bytes);
    }),
    // Listings.
    ("twenty-thousand-snapshots-of-nothing", SNAPSHOT, |x| {
        for n in 0..20_000u32 {
            let name = blake3::hash(&n.to_le_bytes()).to_hex();
            fs::write(x.dir.join(format!("repo/snapshots/{name}")), b"x").expect("written");
        }
    }),
];

fn encoded(e: &Entry) -> Vec<u8> {
    let mut out = Vec::new();
    e.encode_to(&mut out);
    out
}

fn main() {
    let Some(dir) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: keepwatch-hostile DIR [PART PARTS]");
        std::process::exit(2);
    };
    let number = |n: usize| {
        std::env::args()
            .nth(n)
            .and_then(|a| a.parse::<usize>().ok())
    };
    let (part, parts) = (number(2).unwrap_or(0), number(3).unwrap_or(1).max(1));
    let mut list = Vec::new();
    for (_, (name, refused, make)) in BOMBS.iter().enumerate().filter(|(n, _)| n % parts == part) {
        let mut bomb = Bomb::new(&dir.join(name));
        make(&mut bomb);
        bomb.b.flush();
        list.push(serde_json::json!({ "name": name, "refused": refused }));
    }
    let text = serde_json::to_string_pretty(&list).expect("encoded");
    fs::write(dir.join("bombs.json"), text).expect("written");
}

//! H6: the fuzz targets on stable Rust: the corpus that libFuzzer uses (`fuzz/corpus`), and mutations of it that are the same in every run.
//! `KEEPWATCH_FUZZ_ROUNDS` sets how many mutations each target gets.

mod fuzz_targets;
mod restore_common;

use std::fs;
use std::path::PathBuf;

use fuzz_targets::TARGETS;
use keepwatch_engine::ids::{ChunkKind, ObjectId, OwnerKey, WriterId};
use keepwatch_engine::records::{
    Config, Forgotten, Index, IndexedEnvelope, IndexedPack, Marks, Tombstone, WriterRecord,
};
use keepwatch_engine::seal::Identity;
use keepwatch_engine::store::{Area, Name, Store};
use restore_common::*;

fn corpus(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target)
}

/// A small generator of numbers (xorshift).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n.max(1) as u64) as usize
    }
}

const INTERESTING: &[&[u8]] = &[
    &[0],
    &[0xff],
    &[0x7f],
    &[0x80],
    &[0x9f],
    &[0xff; 8],
    &[0x1b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    &[0x9b, 0x80, 0, 0, 0, 0, 0, 0, 0],
    &[0x5b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    b"9223372036854775807",
    b"-1",
    b"..",
    b"/",
    b"\n",
    "\u{202e}\u{0}\u{1F600}".as_bytes(),
];

fn mutate(dice: &mut Dice, from: &[Vec<u8>]) -> Vec<u8> {
    let mut b = from[dice.roll(from.len())].clone();
    for _ in 0..1 + dice.roll(6) {
        let at = dice.roll(b.len() + 1);
        match dice.roll(8) {
            0 if !b.is_empty() => {
                let i = at % b.len();
                b[i] ^= 1 << dice.roll(8);
            }
            1 if !b.is_empty() => {
                let i = at % b.len();
                b[i] = dice.roll(256) as u8;
            }
            2 => b.truncate(at),
            3 => {
                let new = INTERESTING[dice.roll(INTERESTING.len())];
                b.splice(at..at, new.iter().copied());
            }
            4 => {
                let new = INTERESTING[dice.roll(INTERESTING.len())];
                let end = (at + new.len()).min(b.len());
                b.splice(at..end, new.iter().copied());
            }
            5 => {
                let end = (at + dice.roll(40)).min(b.len());
                b.drain(at..end);
            }
            6 => {
                let end = (at + dice.roll(60)).min(b.len());
                let again = b[at..end].to_vec();
                b.splice(at..at, again);
            }
            _ => {
                let other = &from[dice.roll(from.len())];
                let cut = dice.roll(other.len() + 1);
                b.truncate(at);
                b.extend_from_slice(&other[cut..]);
            }
        }
        b.truncate(1 << 17);
    }
    b
}

#[test]
fn every_target_survives_its_corpus_and_mutations_of_it() {
    let rounds: usize = std::env::var("KEEPWATCH_FUZZ_ROUNDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(40_000);
    for (n, (name, target)) in TARGETS.iter().enumerate() {
        let files =
            fs::read_dir(corpus(name)).unwrap_or_else(|e| panic!("{name} has no corpus: {e}"));
        let mut seeds: Vec<Vec<u8>> = files
            .map(|f| fs::read(f.unwrap().path()).unwrap())
            .collect();
        assert!(!seeds.is_empty(), "{name} has no corpus");
        seeds.sort();
        seeds.push(Vec::new());
        seeds.iter().for_each(|s| target(s));
        let mut dice = Dice(0x9E37_79B9_7F4A_7C15 + n as u64);
        // Sealing and opening costs a key agreement each.
        let rounds = if name.starts_with("age") {
            rounds / 4
        } else {
            rounds
        };
        for round in 0..rounds {
            let data = mutate(&mut dice, &seeds);
            if let Err(e) = std::panic::catch_unwind(|| target(&data)) {
                let hex: String = data.iter().take(4096).map(|b| format!("{b:02x}")).collect();
                eprintln!("target {name}, round {round}, input {hex}");
                std::panic::resume_unwind(e);
            }
        }
    }
}

/// A seed that its target refuses at once would be worth little.
#[test]
fn seeds_are_accepted() {
    let read = |target: &str, n: usize| fs::read(corpus(target).join(format!("{n:02}"))).unwrap();
    assert!(minicbor::decode::<Index>(&read("index", 0)).is_ok());
    assert!(minicbor::decode::<Config>(&read("config", 0)).is_ok());
    assert!(minicbor::decode::<keepwatch_engine::records::Snapshot>(&read("snapshot", 0)).is_ok());
    assert!(minicbor::decode::<Tombstone>(&read("tombstone", 0)).is_ok());
    assert!(minicbor::decode::<Marks>(&read("marks", 0)).is_ok());
    assert!(minicbor::decode::<WriterRecord>(&read("writer", 0)).is_ok());
    assert!(keepwatch_engine::envelope::open_plain(&read("envelope", 0)).is_ok());
    assert!(keepwatch_engine::pack::footer(&read("pack_footer", 0)).is_some());
    assert!(keepwatch_engine::record::Record::parse(&read("record", 0)).is_ok());
    let mut entries = 0;
    keepwatch_engine::manifest::decode_chunk(&read("manifest", 0), &mut Vec::new(), &mut |_| {
        entries += 1
    })
    .unwrap();
    assert!(entries > 3);
    let text = String::from_utf8(read("writer_key", 0)).unwrap();
    assert!(
        keepwatch_engine::keys::WriterKey::parse(
            &keepwatch_engine::secret::SecretText::new(text),
            "seed"
        )
        .is_ok()
    );
}

/// Writes the seeds: `cargo test -p keepwatch-engine --test fuzz -- --ignored write_the_seeds`. They hold keys of repositories in memory that are long gone.
#[test]
#[ignore = "writes into the source tree"]
fn write_the_seeds() {
    let put = |target: &str, seeds: &[&[u8]]| {
        let dir = corpus(target);
        fs::create_dir_all(&dir).unwrap();
        for (n, seed) in seeds.iter().enumerate() {
            fs::write(dir.join(format!("{n:02}")), seed).unwrap();
        }
    };
    let store = memory();
    let mut b = Builder::new(store.clone());
    b.paths = vec![b"/a".to_vec()];
    let mut entries = vec![dir("a"), file("a/f", 9), symlink("a/l", "f")];
    let mut sparse = file("a/s", 100);
    sparse.holes = Some(vec![[0, 10], [50, 50]]);
    sparse.set_refs(1);
    sparse.xattrs = Some(vec![keepwatch_engine::manifest::Xattr {
        name: b"user.x".to_vec(),
        value: b"1".to_vec(),
    }]);
    entries[1].set_refs(1);
    entries[1].link = Some([1, 2]);
    entries[1].user = Some("me".into());
    entries.push(sparse);
    let mut manifest = Vec::new();
    entries.iter().for_each(|e| e.encode_to(&mut manifest));
    put("manifest", &[&manifest, b"\xa0", b""]);
    b.add(file("a", 9), b"123456789");
    let id = b.commit();
    let key = b.reader().enroll("seed", true, now()).unwrap();
    let snapshot = b.reader().snapshot(id).unwrap().body;
    put("snapshot", &[&minicbor::to_vec(&snapshot).unwrap()]);
    put("config", &[&minicbor::to_vec(b.reader().config()).unwrap()]);
    let _ = OwnerKey([0; 32]);
    let index = Index {
        packs: vec![IndexedPack {
            id: ObjectId([3; 32]),
            class: 0,
            size: 300,
            envelopes: vec![
                IndexedEnvelope {
                    length: 200,
                    kind: 0,
                    ids: vec![5; 64],
                    lengths: vec![10, 20],
                },
                IndexedEnvelope {
                    length: 50,
                    kind: 1,
                    ids: vec![6; 32],
                    lengths: vec![7],
                },
            ],
        }],
    };
    put(
        "index",
        &[
            &minicbor::to_vec(&index).unwrap(),
            &minicbor::to_vec(Index::default()).unwrap(),
            b"\xbf\x00\x9f\xff\xff",
        ],
    );
    let forgotten = Forgotten {
        id: ObjectId([1; 32]),
        writer: WriterId([2; 8]),
        sequence: 3,
    };
    put(
        "tombstone",
        &[&minicbor::to_vec(Tombstone {
            time: 5,
            snapshots: vec![forgotten; 2],
            origins: None,
        })
        .unwrap()],
    );
    put(
        "marks",
        &[&minicbor::to_vec(Marks {
            time: 5,
            packs: vec![ObjectId([4; 32]); 2],
        })
        .unwrap()],
    );
    let repository = b.reader();
    put(
        "writer",
        &[&minicbor::to_vec(repository.writers().values().next().unwrap()).unwrap()],
    );
    put(
        "writer_key",
        &[
            key.to_text().expose().as_bytes(),
            b"# x\nKEEPWATCH-WRITER-KEY-1-00\n",
        ],
    );
    let record = store
        .names()
        .into_iter()
        .find(|n| matches!(n, Name::Tombstone(_) | Name::Snapshot(_)))
        .unwrap();
    put("record", &[&store.peek(&record).unwrap()]);
    let pack = store
        .names()
        .into_iter()
        .find(|n| matches!(n, Name::Pack(_)))
        .unwrap();
    put(
        "pack_footer",
        &[
            &store.peek(&pack).unwrap(),
            b"\x00\x00\x00\x00\x00\x00\x00\x00KWP1",
        ],
    );
    let pair = Identity::generate();
    let mut sealer = keepwatch_engine::envelope::Sealer::new(3).unwrap();
    let mut draft = keepwatch_engine::envelope::Draft::new(ChunkKind::Data);
    for text in [&b"one"[..], b"two two two two two two two two two two"] {
        draft.push(keepwatch_engine::ids::ChunkId([0; 32]), text);
    }
    let sealed = sealer.seal(&draft, &pair.recipient()).unwrap();
    put(
        "envelope",
        &[
            &pair.open(&sealed.bytes, 1 << 20).unwrap(),
            &keepwatch_engine::envelope::compress_body(b"body of a record"),
        ],
    );
    let scrypt = b"age-encryption.org/v1\n-> scrypt AAAAAAAAAAAAAAAAAAAAAA 30\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n--- AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n0123456789abcdef";
    put(
        "age_file",
        &[
            &pair.recipient().seal(b"x"),
            scrypt,
            b"age-encryption.org/v1\n--- x\n",
        ],
    );
    put(
        "age_payload",
        &[
            b"\x00\x00\x00\x00\x00\x00\x00\x00\x00plain",
            b"\x10\x00\x01\xff\xff\x80\x00\x01\x02plain",
        ],
    );
    put("identity", &[b"# a comment\n\nAGE-SECRET-KEY-1QQQQ\n", b"AGE-PLUGIN-X-1QQQ\n", b"-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmU=\n-----END OPENSSH PRIVATE KEY-----\n", b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHsKLqeplhpW+uObz5dvMgjz1OxfM/XXUB+VHtZ6isGN x"]);
    put(
        "list",
        &[
            &[&[0, 0][..], &[7; 64]].concat(),
            &[
                &[2, 0][..],
                &[8; 32],
                &2u64.to_le_bytes(),
                &2u64.to_le_bytes(),
            ]
            .concat(),
            &[&[1, 1][..], &[9; 48]].concat(),
        ],
    );
    put(
        "model",
        &[
            b"2h ago",
            b"2026-03-29T02:30:00+02:00",
            b"yesterday 10:00",
            b"1y5m7d2h",
            b"1.5 GiB",
            b"90s",
            b"unlimited",
            b"host,job",
            b"a,b , c",
            b"latest",
            b"2026-W10",
        ],
    );
    put(
        "name",
        &[
            &[b'a'; 64],
            b"aa/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            b"0123456789abcdef.revoked",
            b"me.age",
            b"../x.age",
        ],
    );
    put(
        "patterns",
        &[
            b"*.tmp\n!keep.tmp\na/keep.tmp",
            b"/home/*/cache\n{a,b}/**\n[a-z]x\nhome/me/cache",
            b"\\*\n**\nx",
        ],
    );
    let _ = Area::ALL;
    let _ = store.location();
}

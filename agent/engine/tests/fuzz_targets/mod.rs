//! H6: what is fed with arbitrary bytes. Shared by `tests/fuzz.rs` (a corpus and mutations of it, on stable Rust, in every test run) and by `fuzz/` (libFuzzer).
//!
//! Each target takes any bytes, must not panic, and checks what must hold of whatever was accepted.

use std::sync::OnceLock;

use keepwatch_engine::envelope;
use keepwatch_engine::ids::{ChunkId, ObjectId, RepositoryId};
use keepwatch_engine::keys::{WriterKey, verifying_key};
use keepwatch_engine::limits;
use keepwatch_engine::list::{self, Form, Visit};
use keepwatch_engine::lookup::Gather;
use keepwatch_engine::manifest::{self, check_path, compare};
use keepwatch_engine::pack;
use keepwatch_engine::patterns::Patterns;
use keepwatch_engine::record::{Record, RecordKind};
use keepwatch_engine::records::{
    Config, Index, ListRoot, Marks, Snapshot, Tombstone, WriterRecord,
};
use keepwatch_engine::seal::{AskNobody, Identity, ReaderIdentity, ReaderRecipient};
use keepwatch_engine::secret::SecretText;
use keepwatch_engine::store::{Area, KeyName, Name};
use keepwatch_model::duration::{CalendarSpan, human_duration, parse_duration};
use keepwatch_model::retention::{Count, GroupBy, parse_tags};
use keepwatch_model::size::{human_bytes, parse_size};
use keepwatch_model::time::{Moment, parse_when};

/// A target.
pub type Target = fn(&[u8]);

/// All of them by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("age_file", age_file),
    ("age_payload", age_payload),
    ("config", config),
    ("envelope", envelope_plain),
    ("identity", identity),
    ("index", index),
    ("list", list_tree),
    ("manifest", manifest_chunk),
    ("marks", marks),
    ("model", model),
    ("name", name),
    ("pack_footer", pack_footer),
    ("patterns", patterns),
    ("record", record),
    ("snapshot", snapshot),
    ("tombstone", tombstone),
    ("writer", writer),
    ("writer_key", writer_key),
];

fn pair() -> &'static Identity {
    static PAIR: OnceLock<Identity> = OnceLock::new();
    PAIR.get_or_init(Identity::generate)
}

/// A whole age file from anybody. Nobody but us can seal to a pair of this process.
pub fn age_file(data: &[u8]) {
    let _ = pair().open(data, 1 << 20);
    let _ = keepwatch_engine::seal::is_passphrase_file(data);
    let _ = ReaderIdentity::native(pair()).open(data, 1 << 20);
}

/// A true age file with bytes changed: two bytes of position and one of difference each, the rest is the plaintext.
pub fn age_payload(data: &[u8]) {
    let (changes, plain) = data.split_at(data.len().min(9));
    let sealed = pair().recipient().seal(plain);
    let mut bytes = sealed.clone();
    for c in changes.chunks_exact(3) {
        let at = u16::from_le_bytes([c[0], c[1]]) as usize % bytes.len();
        bytes[at] ^= c[2];
    }
    match pair().open(&bytes, plain.len()) {
        Ok(opened) => assert!(opened == plain, "an altered file opened to something else"),
        Err(_) => assert!(bytes != sealed, "a true file did not open"),
    }
}

/// What `config` says, after its signature.
pub fn config(data: &[u8]) {
    if let Ok(c) = minicbor::decode::<Config>(data) {
        let again = minicbor::to_vec(&c).expect("encoded");
        assert!(minicbor::decode::<Config>(&again).is_ok());
    }
}

/// An envelope after decryption, and the body of a record.
pub fn envelope_plain(data: &[u8]) {
    if let Ok(o) = envelope::open_plain(data) {
        assert_eq!(o.chunks().map(<[u8]>::len).sum::<usize>(), o.content.len());
        assert!(o.content.len() <= limits::ENVELOPE_CONTENT);
    }
    if let Ok(body) = envelope::decompress_body(data, 1 << 20) {
        assert!(body.len() <= 1 << 20);
    }
}

/// An identity file, and a recipient. Not one that asks for a passphrase: nobody is there.
pub fn identity(data: &[u8]) {
    let _ = ReaderIdentity::parse(data, "of a test", &AskNobody);
    let _ = keepwatch_engine::seal::recipients_of_identity_file(data);
    if let Ok(text) = std::str::from_utf8(data) {
        // Plugins are programs: their names are not tried.
        if !text.to_ascii_lowercase().contains("age1") || text.len() < 70 {
            let _ = ReaderRecipient::parse(text, &AskNobody);
        }
    }
}

/// The content of an index object, and its way into the local index.
pub fn index(data: &[u8]) {
    let Ok(index) = minicbor::decode::<Index>(data) else {
        return;
    };
    let chunks: usize = index
        .packs
        .iter()
        .flat_map(|p| &p.envelopes)
        .map(|e| e.ids.len() / 32)
        .sum();
    assert!(chunks <= limits::INDEX_CHUNKS && index.packs.len() <= limits::INDEX_PACKS);
    let again = minicbor::to_vec(&index).expect("encoded");
    let second = minicbor::decode::<Index>(&again).expect("what was decoded can be encoded");
    assert_eq!(minicbor::to_vec(&second).expect("encoded"), again);
    let mut gather = Gather::default();
    let _ = gather.add(ObjectId([1; 32]), &index);
}

/// A list: two bytes of depth and form, then items; every list chunk that it names is the same bytes one level down.
pub fn list_tree(data: &[u8]) {
    let [depth, form, rest @ ..] = data else {
        return;
    };
    let form = if form % 2 == 0 {
        Form::Refs
    } else {
        Form::Parts
    };
    let root = ListRoot {
        depth: *depth % 12,
        items: rest.to_vec(),
        count: rest.len() as u64 / form.item() as u64,
    };
    let level = std::cell::Cell::new(root.depth);
    let mut budget = 2_000;
    let mut fetch = |_: &ChunkId| -> Result<Vec<u8>, ()> {
        let here = level.get();
        let mut chunk = vec![here, form as u8];
        chunk.extend_from_slice(rest);
        level.set(here.saturating_sub(1));
        if here == 0 { Err(()) } else { Ok(chunk) }
    };
    let mut visit = |v: Visit<'_>| {
        budget -= 1;
        match v {
            _ if budget == 0 => Err(()),
            Visit::Node(_) => Ok(true),
            Visit::Leaves(items) => {
                assert!(items.len() % form.item() == 0);
                Ok(true)
            }
            Visit::Lost(..) => Ok(true),
        }
    };
    let _ = list::walk(&root, form, &mut fetch, &mut visit);
    let _ = minicbor::decode::<ListRoot>(data);
}

/// The entries of a manifest chunk: what is accepted is safe to join to a directory.
pub fn manifest_chunk(data: &[u8]) {
    let mut after = Vec::new();
    let mut last: Vec<u8> = Vec::new();
    let _ = manifest::decode_chunk(data, &mut after, &mut |e| {
        assert!(check_path(&e.path).is_ok());
        assert!(last.is_empty() || compare(&last, &e.path).is_lt());
        assert!(e.stored_len() <= e.len());
        assert!((e.refs() as u64) <= e.stored_len());
        let _ = (e.kind(), e.display(), e.is_empty());
        let mut again = Vec::new();
        e.encode_to(&mut again);
        let mut same = Vec::new();
        manifest::decode_chunk(&again, &mut Vec::new(), &mut |x| same.push(x))
            .expect("accepted before");
        assert_eq!(same, std::slice::from_ref(&e));
        last = e.path;
    });
}

/// The content of a marks record.
pub fn marks(data: &[u8]) {
    let _ = minicbor::decode::<Marks>(data);
}

/// Texts that people type.
pub fn model(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let now = Moment::from_parts(1_790_000_000, 5, 3600).expect("a time");
    if let Ok(m) = parse_when(text, now) {
        let _ = (m.short(), m.to_string(), m.civil());
    }
    if let Ok(d) = parse_duration(text) {
        let _ = human_duration(d);
    }
    if let Ok(n) = parse_size(text) {
        let _ = human_bytes(n);
    }
    if let Ok(span) = text.parse::<CalendarSpan>() {
        let said = span.to_string();
        assert_eq!(said.parse::<CalendarSpan>().ok(), Some(span), "{said}");
    }
    if let Ok(c) = text.parse::<Count>() {
        assert_eq!(c.to_string().parse::<Count>().ok(), Some(c));
    }
    if let Ok(g) = text.parse::<GroupBy>() {
        let _ = (g.keys().len(), g.to_string());
    }
    let _ = parse_tags(text);
}

/// A name in a listing.
pub fn name(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    for area in Area::ALL {
        if let Some(name) = Name::parse(area, text) {
            assert_eq!(name.to_string(), format!("{}/{text}", area.prefix()));
            assert!(name.to_string().split('/').all(|c| c != ".." && c != "."));
        }
    }
    if let Some(k) = KeyName::new(text) {
        assert!(!k.as_str().contains('/') && !k.as_str().starts_with('.'));
    }
}

/// The footer of a pack.
pub fn pack_footer(data: &[u8]) {
    if let Some((_, lengths)) = pack::footer(data) {
        let sum: u64 = lengths.iter().map(|n| *n as u64).sum();
        assert_eq!(sum + 4 * lengths.len() as u64 + 12, data.len() as u64);
    }
}

/// Patterns, one a line; the last line is a path.
pub fn patterns(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    // A pattern becomes an automaton; very long ones only take time.
    if text.len() > 300 {
        return;
    }
    let mut lines: Vec<&str> = text.lines().collect();
    let path = lines.pop().unwrap_or_default();
    if let Ok(p) = Patterns::new(&lines) {
        let direct = p.matches(path.as_bytes());
        assert!(!direct || p.matches_or_above(path.as_bytes()));
    }
}

/// The frame of a signed record.
pub fn record(data: &[u8]) {
    if let Ok(r) = Record::parse(data) {
        assert_eq!(r.body.len() + 97, data.len());
        let key = keepwatch_engine::keys::owner_signing_key(pair());
        if let Some(key) = verifying_key(&key.verifying_key().to_bytes()) {
            assert!(
                r.verify(RecordKind::Index, RepositoryId([0; 16]), &key)
                    .is_err(),
                "nobody has signed this"
            );
        }
    }
}

/// The content of a snapshot.
pub fn snapshot(data: &[u8]) {
    if let Ok(s) = minicbor::decode::<Snapshot>(data) {
        let _ = (s.start.moment(), s.end.moment());
        let again = minicbor::to_vec(&s).expect("encoded");
        assert!(minicbor::decode::<Snapshot>(&again).is_ok());
    }
}

/// The content of a tombstone.
pub fn tombstone(data: &[u8]) {
    let _ = minicbor::decode::<Tombstone>(data);
}

/// The content of a writer's record.
pub fn writer(data: &[u8]) {
    if let Ok(w) = minicbor::decode::<WriterRecord>(data) {
        let _ = verifying_key(&w.public);
    }
}

/// A writer key file.
pub fn writer_key(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        if let Ok(key) = WriterKey::parse(&SecretText::new(text.to_owned()), "of a test") {
            let again = key.to_text();
            assert!(WriterKey::parse(&again, "of a test").is_ok());
        }
    }
}

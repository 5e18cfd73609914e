//! When somebody last proved to hold a key that opens a repository (`keepwatch key verify`), from the files that the verb leaves in the
//! state directory: `witness/REPOSITORY.proofs`, a JSON object of names and times.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use keepwatch_expose::facts::Key;
use keepwatch_model::time::Moment;

use super::world::shown_moment;

/// Files that are read at most, and bytes of each.
const FILES: usize = 64;
const BYTES: u64 = 64 << 10;

/// All that is known. What cannot be read is left out.
pub fn read(state_directory: &Path) -> Vec<Key> {
    let Ok(entries) = std::fs::read_dir(state_directory.join("witness")) else {
        return Vec::new();
    };
    let files = entries.filter_map(|e| Some(e.ok()?.path()));
    let mut latest: BTreeMap<String, Moment> = BTreeMap::new();
    for file in files
        .filter(|p| p.extension().is_some_and(|e| e == "proofs"))
        .take(FILES)
    {
        for (name, at) in proofs(&file) {
            let at = match latest.get(&name) {
                Some(known) if known.unix_nanos() > at.unix_nanos() => *known,
                _ => at,
            };
            latest.insert(name, at);
        }
    }
    let one = |(name, at): (String, Moment)| Key {
        name,
        purpose: "recovery".to_owned(),
        not_after: None,
        last_verified: Some(shown_moment(at)),
    };
    latest.into_iter().map(one).collect()
}

fn proofs(file: &Path) -> Vec<(String, Moment)> {
    let mut bytes = Vec::new();
    let read = File::open(file).and_then(|f| f.take(BYTES).read_to_end(&mut bytes));
    let all: BTreeMap<String, String> = match read {
        Ok(_) => serde_json::from_slice(&bytes).unwrap_or_default(),
        Err(_) => BTreeMap::new(),
    };
    let is_name = |n: &String| !n.is_empty() && n.len() <= 64 && !n.chars().any(char::is_control);
    all.into_iter()
        .filter(|(name, _)| is_name(name))
        .filter_map(|(name, at)| Some((name, at.parse().ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_proof_of_each_key_counts() {
        let dir = std::env::temp_dir().join(format!("keepwatch-proofs-{}", std::process::id()));
        assert!(read(&dir).is_empty());
        std::fs::create_dir_all(dir.join("witness")).expect("a directory");
        let put = |name: &str, text: &str| {
            std::fs::write(dir.join("witness").join(name), text).expect("a file");
        };
        put(
            "a.proofs",
            r#"{"me": "2026-11-22T04:00:00Z", "paper": "2026-01-01T00:00:00Z"}"#,
        );
        put(
            "b.proofs",
            r#"{"me": "2026-11-01T04:00:00Z", "bad": "yesterday"}"#,
        );
        put("c.proofs", "nonsense");
        put("a.json", r#"{"other": "2026-11-22T04:00:00Z"}"#);
        let keys = read(&dir);
        std::fs::remove_dir_all(&dir).expect("removed");
        let found: Vec<_> = keys
            .iter()
            .map(|k| (k.name.as_str(), k.last_verified))
            .collect();
        let at = |t: &str| Some(shown_moment(t.parse().expect("a time")));
        assert_eq!(
            found,
            [
                ("me", at("2026-11-22T04:00:00Z")),
                ("paper", at("2026-01-01T00:00:00Z"))
            ]
        );
    }
}

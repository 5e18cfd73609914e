//! The description against itself: what it lets through, the types take; what it says of defaults is so.

use proptest::prelude::*;

use super::*;
use crate::fault::Gathered;
use crate::sections::probes::PROBE;
use crate::shape::{Default, Key, One, Shape, Table};
use crate::text::Text;

/// A value of this shape, as TOML, with every optional key. `pick` chooses among choices and words.
fn full(shape: &Shape, pick: &mut dyn FnMut(usize) -> usize) -> String {
    edited(shape, pick, &mut |key, value| {
        format!("{} = {value}", key.name)
    })
}

/// How a key is written, from its value.
type Write<'a> = &'a mut dyn FnMut(&Key, String) -> String;

/// The same, with keys as `write` has them.
fn edited(shape: &Shape, pick: &mut dyn FnMut(usize) -> usize, write: Write<'_>) -> String {
    match shape {
        Shape::Bool => "true".into(),
        Shape::Int(min, max) => 7.clamp(*min, *max).to_string(),
        Shape::Number(..) => "0.5".into(),
        Shape::Text(text) => format!("{:?}", text.sample()),
        Shape::Words(words) => format!("{:?}", words[pick(words.len())].0),
        Shape::Argv => "[\"/bin/true\", \"x\"]".into(),
        Shape::List(of, ..) => format!("[{}]", edited(of, pick, write)),
        Shape::Map(names, of, _) => {
            format!(
                "{{ {} = {} }}",
                node::key(names.sample()),
                edited(of, pick, write)
            )
        }
        Shape::Table(table) => {
            let mut keys = Vec::new();
            for key in table.keys {
                let value = edited(&key.shape, pick, write);
                keys.push(write(key, value));
            }
            format!("{{ {} }}", keys.join(", "))
        }
        Shape::One(one) => {
            let n = pick(one.words.len() + one.tags.len());
            match one.words.get(n) {
                Some(word) => format!("{:?}", word.0),
                None => {
                    let tag = &one.tags[n - one.words.len()];
                    format!("{{ {} = {} }}", tag.name, edited(&tag.shape, pick, write))
                }
            }
        }
        Shape::Either(shapes) => edited(&shapes[pick(shapes.len())], pick, write),
    }
}

/// The whole file with every key, as TOML.
fn whole(pick: &mut dyn FnMut(usize) -> usize) -> String {
    CONFIG
        .keys
        .iter()
        .map(|k| format!("{} = {}\n", k.name, full(&k.shape, pick)))
        .collect()
}

/// Reads without looking at the whole, and gives what the types say.
fn typed(text: &str) -> Result<Config, String> {
    let mut faults = Gathered::new("t", text);
    let mut reading = read::read(text, &CONFIG, &mut faults);
    derive::derive(&mut reading.root, &mut faults);
    if let Some(faults) = faults.finish() {
        return Err(faults.to_string());
    }
    serde_json::from_value(reading.root.json()).map_err(|e| format!("the types: {e}"))
}

#[test]
fn the_types_take_every_key_and_every_choice() {
    // Each choice in turn: the widest has 18 kinds.
    for n in 0..20 {
        let text = whole(&mut |of| n % of);
        let config = typed(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        assert_eq!(config.checks.len(), 1);
        let check = &config.checks["main"];
        // The watcher reads the settings that were let through.
        check
            .probe
            .settings(&Credentials(Some("/run/c".into())))
            .unwrap_or_else(|e| panic!("{e}\n{text}"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn the_types_take_what_is_let_through(seed in any::<u64>()) {
        let mut state = seed;
        let text = whole(&mut |of| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize % of
        });
        let config = typed(&text).map_err(|e| TestCaseError::fail(format!("{e}\n{text}")))?;
        config.checks["main"].probe.settings(&Credentials(Some("/run/c".into()))).map_err(TestCaseError::fail)?;
    }
}

/// L3: each key there is, once with a value that has the wrong type and once misspelt: refused at its own name, with itself as the nearest.
#[test]
fn every_key_is_refused_when_it_is_wrong() {
    let mut keys: Vec<&'static Key> = Vec::new();
    every_key(&mut |_, key| {
        if !keys.iter().any(|k| std::ptr::eq(*k, key)) {
            keys.push(key);
        }
    });
    let mut told = 0;
    for key in keys {
        for misspelt in [false, true] {
            if misspelt && key.name.len() < 3 {
                continue;
            }
            let wrong = match misspelt {
                true => format!("{0}{1} = 1", key.name, &key.name[key.name.len() - 1..]),
                // No key takes a date.
                false => format!("{} = 1979-05-27", key.name),
            };
            let text = (0..20).find_map(|n| {
                let mut there = false;
                let mut write = |k: &Key, value: String| match std::ptr::eq(k, key) {
                    true => {
                        there = true;
                        wrong.clone()
                    }
                    false => format!("{} = {value}", k.name),
                };
                let lines: Vec<String> = CONFIG
                    .keys
                    .iter()
                    .map(|k| {
                        let value = edited(&k.shape, &mut |of| n % of, &mut write);
                        write(k, value)
                    })
                    .collect();
                there.then(|| lines.join("\n"))
            });
            let text = text.unwrap_or_else(|| panic!("{} is in no file", key.name));
            let faults = parse(&text, "t").unwrap_err();
            let line = 1 + text.lines().position(|l| l.contains(&wrong)).unwrap();
            let fit = faults.faults.iter().any(|f| {
                let last = f.key.rsplit('.').next().unwrap_or("");
                f.line == line
                    && match misspelt {
                        true => {
                            last == wrong.trim_end_matches(" = 1")
                                && f.nearest.as_deref() == Some(key.name)
                        }
                        false => last == key.name && f.what.contains("a date or time"),
                    }
            });
            assert!(fit, "{wrong}:\n{faults}");
            told += 1;
        }
    }
    assert!(told > 400, "{told}");
}

/// Every table and every choice, with the path of each.
fn walk(
    path: &str,
    shape: &'static Shape,
    table: &mut dyn FnMut(&str, &'static Table),
    one: &mut dyn FnMut(&str, &'static One),
) {
    match shape {
        Shape::Table(t) => walk_table(path, t, table, one),
        Shape::Map(_, of, _) => walk(&format!("{path}.*"), of, table, one),
        Shape::List(of, ..) => walk(&format!("{path}[]"), of, table, one),
        Shape::Either(shapes) => shapes.iter().for_each(|s| walk(path, s, table, one)),
        Shape::One(o) => {
            one(path, o);
            o.tags
                .iter()
                .for_each(|t| walk(&format!("{path}.{}", t.name), &t.shape, table, one));
        }
        _ => {}
    }
}

fn walk_table(
    path: &str,
    t: &'static Table,
    table: &mut dyn FnMut(&str, &'static Table),
    one: &mut dyn FnMut(&str, &'static One),
) {
    table(path, t);
    for key in t.keys {
        walk(&node::join(path, key.name), &key.shape, table, one);
    }
}

fn every_key(act: &mut dyn FnMut(&str, &'static Key)) {
    walk_table(
        "",
        &CONFIG,
        &mut |path, t| {
            t.keys
                .iter()
                .for_each(|k| act(&node::join(path, k.name), k))
        },
        &mut |_, _| {},
    );
}

#[test]
fn every_key_is_described_and_every_default_reads() {
    let mut count = 0;
    every_key(&mut |path, key| {
        count += 1;
        let doc = shape::tidy(key.doc);
        assert!(doc.len() > 3 && doc.ends_with('.'), "{path}: {doc:?}");
        if let Default::Value(text) = key.default {
            let mut faults = Gathered::new("t", "");
            let node = read::literal(text, &key.shape, 0, &mut faults, path);
            assert!(
                faults.is_empty() && node.is_whole(),
                "{path}: {:?}",
                faults.finish()
            );
        }
        if key.name.ends_with("_file") && !["ca_file"].contains(&key.name) {
            assert!(
                matches!(key.shape, Shape::Text(text::Text::Secret)),
                "{path} names a secret"
            );
        }
        assert!(
            text::betraying_name(key.name).is_none(),
            "{path} would hold a secret"
        );
        assert!(!key.also.contains(&key.name), "{path}");
    });
    assert!(count > 200, "{count}");
}

#[test]
fn names_are_unique_and_known_elsewhere_only_once() {
    let unique = |path: &str, mut names: Vec<&str>| {
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all, "{path}");
    };
    walk_table(
        "",
        &CONFIG,
        &mut |path, t| unique(path, t.keys.iter().map(|k| k.name).collect()),
        &mut |path, o| {
            unique(
                path,
                o.tags
                    .iter()
                    .map(|t| t.name)
                    .chain(o.words.iter().map(|w| w.0))
                    .collect(),
            )
        },
    );
}

/// The keys of the watcher's own settings, from the error that serde makes of an unknown one.
fn keys_of<T: serde::de::DeserializeOwned>() -> Vec<String> {
    let error = match serde_json::from_str::<T>("{\"no such key\": 0}") {
        Ok(_) => panic!("an unknown key was taken"),
        Err(e) => e.to_string(),
    };
    let list = error
        .split("expected ")
        .nth(1)
        .unwrap_or_else(|| panic!("{error}"));
    let mut keys: Vec<String> = list
        .split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect();
    keys.sort();
    keys
}

#[test]
fn probes_have_the_keys_of_the_watcher() {
    use keepwatch_watch::probe as p;
    let ours = |kind: &str| -> Vec<String> {
        let tag = PROBE.tags.iter().find(|t| t.name == kind).unwrap();
        let Shape::Table(table) = &tag.shape else {
            panic!()
        };
        let mut keys: Vec<String> = table.keys.iter().map(|k| k.name.to_owned()).collect();
        keys.sort();
        keys
    };
    for (kind, theirs) in [
        ("http", keys_of::<p::http::HttpSettings>()),
        ("tcp", keys_of::<p::tcp::TcpSettings>()),
        ("postgresql", keys_of::<p::postgresql::PostgresqlSettings>()),
        ("mysql", keys_of::<p::mysql::MysqlSettings>()),
        ("redis", keys_of::<p::redis::RedisSettings>()),
        ("qdrant", keys_of::<p::qdrant::QdrantSettings>()),
        ("ollama", keys_of::<p::ollama::OllamaSettings>()),
        ("systemd", keys_of::<p::unit::UnitSettings>()),
        ("disk", keys_of::<p::disk::DiskSettings>()),
        ("tls", keys_of::<p::tls::TlsProbeSettings>()),
        ("dns", keys_of::<p::dns::DnsSettings>()),
        ("command", keys_of::<p::command::CommandSettings>()),
        ("sqlite", keys_of::<p::sqlite::SqliteSettings>()),
        ("heartbeat", keys_of::<p::heartbeat::HeartbeatSettings>()),
        ("group", keys_of::<p::together::GroupSettings>()),
    ] {
        assert_eq!(ours(kind), theirs, "{kind}");
    }
    // And the kinds are those of the model.
    let kinds: Vec<&str> = PROBE.tags.iter().map(|t| t.name).collect();
    let model: Vec<&str> = keepwatch_model::check::CheckKind::ALL
        .iter()
        .map(|k| k.as_str())
        .collect();
    assert_eq!(kinds, model);
}

#[test]
fn closed_sets_are_those_of_the_model() {
    let severities: Vec<&str> = sections::checks::SEVERITY.iter().map(|w| w.0).collect();
    let model: Vec<&str> = keepwatch_model::check::Severity::ALL
        .iter()
        .map(|k| k.as_str())
        .collect();
    assert_eq!(severities, model);
    // Every quantity of ours is one of the watcher's, and the other way round.
    for (word, _) in sections::checks::QUANTITIES {
        serde_json::from_value::<keepwatch_watch::outcome::Quantity>((*word).into()).unwrap();
    }
    let error = serde_json::from_str::<keepwatch_watch::outcome::Quantity>("\"nonsense\"")
        .unwrap_err()
        .to_string();
    let theirs = error
        .split("expected one of ")
        .nth(1)
        .unwrap()
        .matches('`')
        .count()
        / 2;
    assert_eq!(theirs, sections::checks::QUANTITIES.len(), "{error}");
    for kind in PROBE.tags {
        let mut faults = Gathered::new("t", "");
        let limits = sections::checks::CHECK
            .keys
            .iter()
            .find(|k| k.name == "limits")
            .unwrap();
        let node = read::literal(
            sections::probes::default_limits(kind.name),
            &limits.shape,
            0,
            &mut faults,
            "limits",
        );
        for band in node.list() {
            let band: keepwatch_watch::judge::bands::Band =
                serde_json::from_value(band.json()).unwrap();
            band.check().unwrap();
        }
    }
}

#[test]
fn samples_are_what_they_should_be() {
    every_key(&mut |path, key| {
        if let Shape::Text(text) = &key.shape {
            text.check(text.sample())
                .unwrap_or_else(|e| panic!("{path}: {e}"));
        }
    });
}

/// What a run would refuse is refused here already: the rules are those of `keepwatch_s3::Place`.
#[test]
fn buckets_and_prefixes() {
    let long = "b".repeat(64);
    for (bucket, good) in [
        ("backups", true),
        ("abc", true),
        ("Old_Style.bucket-1", true),
        (&long[..63], true),
        ("b", false),
        ("ab", false),
        (&long, false),
        ("-abc", false),
        ("a/b/c", false),
        ("bücher", false),
    ] {
        assert_eq!(Text::Bucket.check(bucket).is_ok(), good, "{bucket}");
    }
    let deep = "x/".repeat(300);
    for (prefix, good) in [
        ("", true),
        ("hosts/web1", true),
        ("hosts/web1/", true),
        ("a b", true),
        ("/hosts", false),
        ("hosts//web1", false),
        ("hosts/../other", false),
        ("./x", false),
        ("a\nb", false),
        (&deep, false),
    ] {
        assert_eq!(Text::Prefix.check(prefix).is_ok(), good, "{prefix}");
    }
}

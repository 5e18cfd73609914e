//! The example, the page of documentation, the schema, and what is shown: each held against what is read.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use keepwatch_config::{EXAMPLE, Loaded, parse, schema};
use serde_json::Value;

fn example() -> Loaded {
    parse(EXAMPLE, "example.toml").unwrap_or_else(|faults| panic!("{faults}"))
}

#[test]
fn the_example_is_good_and_shows_every_section() {
    let loaded = example();
    assert_eq!(loaded.warnings, [], "it gives no reason to warn");
    for key in schema()["properties"].as_object().unwrap().keys() {
        let there = EXAMPLE.lines().any(|l| {
            l.starts_with(&format!("[{key}]"))
                || l.starts_with(&format!("[{key}."))
                || l.starts_with(&format!("{key} ="))
        });
        assert!(
            there || ["state_directory", "cache_directory"].contains(&key.as_str()),
            "{key} is not shown"
        );
    }
    let config = &loaded.config;
    assert_eq!(
        config.backups["files"].repositories,
        ["disk"],
        "from [defaults]"
    );
    assert_eq!(config.backups["files"].timeout.as_secs(), 8 * 3600);
    assert_eq!(
        config.backups["app"].max_age.as_secs(),
        24 * 3600,
        "twice the longest gap"
    );
    assert_eq!(
        config.drills["app"].repository, "disk",
        "the first of its backup"
    );
    assert_eq!(config.checks["web"].timeout.as_secs(), 10);
    assert_eq!(config.checks["disk"].limits.len(), 2, "those of its kind");
    assert_eq!(config.checks["web"].limits.len(), 1, "its own");
}

/// What stands in a default must be what is in effect, by the typed values.
#[test]
fn defaults_are_those_that_are_documented() {
    let loaded = parse(
        "[repositories.r]\nbackend.local.path = \"/r\"\nrecipients = [\"age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p\"]\n[backups.b]\nsource.paths.include = [\"/etc\"]\n[checks.c]\nprobe.memory = {}\n",
        "t",
    )
    .unwrap_or_else(|f| panic!("{f}"));
    let c = &loaded.config;
    let check = &c.checks["c"];
    assert_eq!(
        (
            check.interval.as_secs(),
            check.timeout.as_secs(),
            check.retry_interval.as_secs()
        ),
        (30, 10, 10)
    );
    assert_eq!((check.failure_threshold, check.success_threshold), (3, 2));
    let backup = &c.backups["b"];
    assert_eq!(
        serde_json::to_value(&backup.retention).unwrap(),
        serde_json::json!({ "daily": 7, "weekly": 4, "monthly": 12 })
    );
    assert_eq!(
        (
            backup.retry.attempts,
            backup.retry.delay.as_secs(),
            backup.timeout.as_secs()
        ),
        (3, 300, 6 * 3600)
    );
    assert_eq!(backup.max_age.as_secs(), 2 * 86_400);
    assert_eq!(backup.repositories, ["r"], "the only one");
    assert_eq!(c.repositories["r"].prune.grace_delete.as_secs(), 86_400);
    assert_eq!(
        (
            c.metrics.listen_address.to_string().as_str(),
            c.metrics.port
        ),
        ("127.0.0.1", 9847)
    );
    assert_eq!(
        (
            c.catalog.keep_results.as_secs(),
            c.catalog.keep_runs.as_secs()
        ),
        (30 * 86_400, 90 * 86_400)
    );
    assert!(
        matches!(&c.catalog.database, keepwatch_config::sections::service::Database::Sqlite(s) if s.path == Path::new("/var/lib/keepwatch/catalog.sqlite"))
    );
    assert_eq!(c.notifications.repeat_interval.as_secs(), 4 * 3600);

    // Each default of the schema is what is shown.
    fn walk(schema: &Value, shown: &Value, path: &str, count: &mut usize) {
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            if let (Some(default), Some(value)) = (property.get("default"), shown.get(name)) {
                if path != ".repositories" && path != ".backups" && path != ".checks" {
                    assert_eq!(default, value, "{path}");
                    *count += 1;
                }
            }
            if let Some(inner) = shown.get(name) {
                walk(property, inner, &path, count);
                for entry in inner.as_object().into_iter().flatten().map(|e| e.1) {
                    walk(&property["additionalProperties"], entry, &path, count);
                }
            }
        }
    }
    let mut count = 0;
    walk(&schema(), &loaded.to_json(), "", &mut count);
    assert!(count > 50, "{count}");
}

#[test]
fn an_empty_file_is_good() {
    let loaded = parse("", "t").unwrap();
    assert!(loaded.config.checks.is_empty() && loaded.warnings.is_empty());
}

#[test]
fn what_is_shown_reads_as_the_same() {
    for text in [
        "[metrics]\nunix_socket = '/s'\n",
        "[repositories.s]\nrecipients = ['age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p']\nbackend.s3.bucket = 'bkt'\n",
        EXAMPLE,
        "",
        "[checks.'a.b']\nprobe.http = { url = 'http://h/', body = \"a\\nb\\u0007\\\"\\\\\", json = [{ pointer = '/x', equals = 1.0 }] }\n",
    ] {
        let first = parse(text, "a").unwrap_or_else(|f| panic!("{f}"));
        let shown = first.to_toml();
        let second = parse(&shown, "b").unwrap_or_else(|f| panic!("{f}\n{shown}"));
        assert_eq!(first.config, second.config, "{shown}");
        assert_eq!(first.to_json(), second.to_json());
        assert_eq!(second.needs_restart(&first), <[&str; 0]>::default());
    }
    let shown = example().to_toml();
    assert!(
        shown.contains("failure_threshold = 3  # default\n"),
        "{shown}"
    );
    assert!(
        shown.contains("smarthost = \"mail.example.org:587\"\n"),
        "{shown}"
    );
    assert!(
        shown.contains("password_file = \"credential:mail-password\"\n"),
        "where secrets lie is shown: {shown}"
    );
}

#[test]
fn what_a_reload_cannot_change_is_named() {
    let before = parse("", "a").unwrap();
    let after = parse("[metrics]\nport = 1\n[catalog]\ndatabase.sqlite.path = '/x'\nkeep_runs = '1d'\nkeep_results='1d'\n[logging]\nlevel = 'debug'\n", "a").unwrap_or_else(|f| panic!("{f}"));
    assert_eq!(
        after.needs_restart(&before),
        ["metrics", "catalog.database"]
    );
}

#[test]
fn the_page_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    let page = keepwatch_config::documentation();
    if std::env::var_os("KEEPWATCH_WRITE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let stored = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        stored == page,
        "docs/configuration.md is not current: write it with KEEPWATCH_WRITE_DOCS=1 cargo test -p keepwatch-config --test example the_page_is_current"
    );
}

#[test]
fn the_page_has_an_example_for_every_section() {
    let page = keepwatch_config::documentation();
    for section in page.split("\n## `[").skip(1) {
        let name = section.split(']').next().unwrap();
        assert!(section.contains("```toml"), "{name}");
    }
}

/// Texts, whether the agent takes each, and whether the schema must say the same: it cannot know what only the whole file tells.
fn pairs() -> Vec<(String, bool, bool)> {
    let mut out = vec![
        (EXAMPLE.to_owned(), true, true),
        (String::new(), true, true),
        (example().to_toml(), true, true),
    ];
    let check = |rest: &str| format!("[checks.c]\n{rest}\n");
    for (rest, good, same) in [
        ("probe.memory = {}", true, true),
        ("probe.memory = {}\ninterval = '10 min'", true, true),
        ("probe.memory = {}\ninterval = 30", false, true),
        ("probe.memory = {}\nintervall = '30s'", false, true),
        ("probe.memory = {}\nfailure_threshold = 0", false, true),
        ("probe.memory = {}\nfailure_threshold = 65", false, true),
        ("probe.memory = {}\nfailure_threshold = 2.5", false, true),
        ("probe.memory = {}\nseverity = 'high'", false, true),
        (
            "probe.memory = {}\nlimits = [{ quantity = 'memory_available_ratio', side = 'above', warn = 1 }]",
            true,
            true,
        ),
        (
            "probe.memory = {}\nlimits = [{ quantity = 'load2', side = 'above', warn = 1 }]",
            false,
            true,
        ),
        (
            "probe.memory = {}\nlimits = [{ quantity = 'memory_available_ratio', warn = 1 }]",
            false,
            true,
        ),
        ("probe.memory = {}\ndepends_on = 'x'", false, true),
        ("probe.memory = {}\ndepends_on = ['x']", false, false),
        ("probe.memory = {}\ntimeout = '1m'", false, false),
        ("probe.memory = {}\nlabels = { Bad = 'x' }", false, true),
        ("", false, true),
        ("probe = {}", false, true),
        ("probe = { memory = {}, load = {} }", false, true),
        ("probe.unheard = {}", false, true),
        ("probe.memory = { x = 1 }", false, true),
        ("probe.http = {}", false, true),
        ("probe.http.url = 'ftp://h/'", false, true),
        ("probe.http.url = 'http://h/'", true, true),
        (
            "probe.http = { url = 'http://h/', method = 'PATCH' }",
            false,
            true,
        ),
        (
            "probe.http = { url = 'http://h/', password = 'x' }",
            false,
            true,
        ),
        (
            "probe.http = { url = 'http://h/', bearer_token_file = 'x' }",
            false,
            true,
        ),
        (
            "probe.http = { url = 'http://h/', json = [{ pointer = '/a', equals = true }] }",
            true,
            true,
        ),
        (
            "probe.http = { url = 'http://h/', json = [{ pointer = '/a', equals = [1] }] }",
            false,
            true,
        ),
        ("probe.command.argv = ['/bin/true']", true, true),
        ("probe.command.argv = ['true']", false, true),
        ("probe.command.argv = []", false, true),
        ("probe.disk.path = 'x'", false, true),
        ("probe.tcp.target = 'host'", false, true),
        ("probe.systemd.unit = 'nginx'", false, true),
        (
            "probe.group.members = ['x']\n[checks.x]\nprobe.load = {}",
            true,
            true,
        ),
        (
            "probe.group = { members = ['x'], need = { at_least = 1 } }\n[checks.x]\nprobe.load = {}",
            true,
            true,
        ),
        (
            "probe.group = { members = ['x'], need = 'most' }\n[checks.x]\nprobe.load = {}",
            false,
            true,
        ),
    ] {
        out.push((check(rest), good, same));
    }
    for (text, good, same) in [
        ("[unheard]", false, true),
        ("host = 'a b'", false, true),
        ("host = 1", false, true),
        ("state_directory = 'x'", false, true),
        ("[metrics]\nport = 0", false, true),
        ("[metrics]\nport = 70000", false, true),
        ("[metrics]\nenable = 'yes'", false, true),
        ("[logging]\nlevel = 'loud'", false, true),
        ("[backups.b]", false, true),
        ("[restarts.x]", false, true),
        ("[restarts.'x.service']", true, true),
        ("[restarts.'x.service']\nescalation = []", false, true),
        (
            "[restarts.'x.service']\nescalation = ['unit', { dependants = ['y.service'] }]",
            true,
            true,
        ),
        ("[restarts.'x.service']\nescalation = ['halt']", false, true),
        ("[notifications.receivers.a]\nntfy.topic = 't'", true, true),
        ("[notifications.receivers.a]", false, true),
        (
            "[defaults.retention]\ndaily = 7\nmonthly = 'unlimited'\nwithin = '1y6m'",
            true,
            true,
        ),
        ("[defaults.retention]\ndaily = -1", false, true),
        ("[defaults.retention]\ndaily = 0", false, false),
        ("[defaults]\nstart_at = []", true, true),
        ("[defaults]\nstart_at = ['daily', 'Sun 03:00']", true, true),
        ("[defaults]\nstart_at = true", false, true),
    ] {
        out.push((text.to_owned(), good, same));
    }
    out
}

/// The schema and the reader agree, by a validator that is not ours (PyPI `jsonschema`).
#[test]
fn the_schema_says_what_is_read() {
    let pairs = pairs();
    for (text, good, _) in &pairs {
        match parse(text, "t") {
            Ok(_) => assert!(good, "taken: {text}"),
            Err(faults) => assert!(!good, "refused: {faults}\n{text}"),
        }
    }
    let python = std::env::var("KEEPWATCH_PYTHON").unwrap_or_else(|_| "python3".into());
    let there = Command::new(&python)
        .args(["-c", "import jsonschema, tomllib"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success());
    if !there {
        assert!(
            std::env::var_os("KEEPWATCH_REQUIRE_JSONSCHEMA").is_none(),
            "{python} has no jsonschema"
        );
        eprintln!(
            "SKIPPED: the schema against jsonschema: {python} has no modules jsonschema and tomllib"
        );
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| -> PathBuf {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let schema = write("schema.json", &schema().to_string());
    let documents: Vec<PathBuf> = pairs
        .iter()
        .enumerate()
        .map(|(n, (text, ..))| write(&format!("{n}.toml"), text))
        .collect();
    let script = "import json, sys, tomllib\nfrom jsonschema import Draft202012Validator as V\ns = json.load(open(sys.argv[1]))\nV.check_schema(s)\nv = V(s)\nprint(json.dumps([v.is_valid(tomllib.load(open(p, 'rb'))) for p in sys.argv[2:]]))\n";
    let output = Command::new(&python)
        .arg("-c")
        .arg(script)
        .arg(&schema)
        .args(&documents)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let valid: Vec<bool> = serde_json::from_slice(&output.stdout).unwrap();
    for ((text, good, same), valid) in pairs.iter().zip(valid) {
        assert!(!good || valid, "the schema refuses what is taken: {text}");
        assert!(
            !same || *good == valid,
            "the schema takes what is refused: {text}"
        );
    }
}

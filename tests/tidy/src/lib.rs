//! Rules of the house, read from the source (see ARCHITECTURE.md): which crate may use which, which module of the engine may use which, what stands in one
//! module only, how long a file may be. The tests in `tests/tidy.rs` apply them to this tree and to made-up trees that break them.

use std::fs;
use std::path::{Path, PathBuf};

/// A rule that was broken, and where.
pub type Finding = String;

/// Crates of ours and outside ones that a crate may name in its normal dependencies. `*` at the end: any crate with this beginning.
pub const CRATES: &[(&str, &[&str])] = &[
    ("model", &["serde", "jiff"]),
    (
        "engine",
        &[
            "keepwatch-model",
            "age",
            "age-core",
            "blake3",
            "ed25519-dalek",
            "zstd",
            "minicbor",
            "rustix",
            "crossbeam-channel",
            "zeroize",
            "getrandom",
            "thiserror",
            "tracing",
            "serde",
            "jiff",
            "globset",
            "tar",
        ],
    ),
    (
        "watch",
        &[
            "keepwatch-model",
            "serde",
            "serde_json",
            "jiff",
            "tokio",
            "hyper",
            "hyper-util",
            "http-body-util",
            "rustls",
            "tokio-rustls",
            "rustls-native-certs",
            "tokio-postgres",
            "futures-util",
            "zbus",
            "sha1",
            "sha2",
            "base64",
            "regex",
            "rustix",
            "getrandom",
            "zeroize",
            "thiserror",
            "tracing",
        ],
    ),
    (
        "config",
        &[
            "keepwatch-model",
            "keepwatch-watch",
            "jiff",
            "serde",
            "serde_json",
            "strsim",
            "toml",
            "zeroize",
        ],
    ),
    (
        "s3",
        &[
            "keepwatch-engine",
            "aws-*",
            "base64",
            "bytes",
            "crc-fast",
            "getrandom",
            "http-body",
            "sha2",
            "thiserror",
            "tokio",
            "tracing",
            "zeroize",
        ],
    ),
    (
        "sources",
        &[
            "serde",
            "serde_json",
            "rustix",
            "rusqlite",
            "tokio",
            "hyper",
            "hyper-util",
            "http-body-util",
            "rustls",
            "tokio-rustls",
            "rustls-native-certs",
            "sha2",
            "getrandom",
            "zeroize",
            "tracing",
        ],
    ),
    (
        "catalog",
        &[
            "keepwatch-model",
            "sqlx",
            "tokio",
            "rustix",
            "serde_json",
            "thiserror",
            "tracing",
            "zeroize",
        ],
    ),
    ("wal", &["keepwatch-engine", "rustix", "serde", "thiserror"]),
    (
        "expose",
        &[
            "keepwatch-model",
            "serde",
            "serde_json",
            "jiff",
            "tokio",
            "hyper",
            "hyper-util",
            "http-body-util",
            "metrics",
            "metrics-exporter-prometheus",
            "subtle",
            "sha2",
            "rustix",
            "zeroize",
            "thiserror",
            "tracing",
        ],
    ),
    ("panels", &["keepwatch-expose", "serde_json"]),
    (
        "notify",
        &[
            "keepwatch-model",
            "serde",
            "serde_json",
            "jiff",
            "tokio",
            "hyper",
            "hyper-util",
            "http-body-util",
            "rustls",
            "tokio-rustls",
            "rustls-native-certs",
            "lettre",
            "base64",
            "hmac",
            "sha2",
            "zeroize",
            "thiserror",
            "tracing",
        ],
    ),
    (
        "keepwatch",
        &[
            "keepwatch-*",
            "tokio",
            "clap*",
            "serde*",
            "indicatif",
            "qrcode",
            "jiff",
            "tracing*",
            "rustix",
            "zeroize",
            "signal-hook",
            "futures-util",
            "getrandom",
            "globset",
            "tokio",
        ],
    ),
];

/// Crates beneath `tests/` that are more than a file of tests, and what they may name in their normal dependencies.
pub const TEST_CRATES: &[(&str, &[&str])] = &[
    ("tidy", &[]),
    (
        "scale",
        &[
            "keepwatch-model",
            "keepwatch-engine",
            "rustix",
            "getrandom",
            "clap",
            "serde_json",
        ],
    ),
    (
        "hostile",
        &[
            "keepwatch-model",
            "keepwatch-engine",
            "rustix",
            "blake3",
            "minicbor",
            "serde_json",
        ],
    ),
    (
        "s3serve",
        &[
            "s3s",
            "async-trait",
            "hyper",
            "hyper-util",
            "http-body-util",
            "bytes",
            "tokio",
            "serde*",
            "clap",
        ],
    ),
];

/// (beginning of a dependency's name, the only manifest sections that may name it, why)
pub const ONE_MANIFEST: &[(&str, &[&str], &str)] = &[
    (
        "aws-",
        &[
            "agent/s3 [dependencies]",
            "agent/s3 [dev-dependencies]",
            "tests/s3serve [dev-dependencies]",
        ],
        "the AWS SDK is a leaf: nothing else is built with it",
    ),
    (
        "s3s",
        &["tests/s3serve [dependencies]"],
        "the test server's protocol stays out of the product",
    ),
];

/// Layers of the engine from the ground up: a module uses only modules of its own layer or of lower ones.
pub const LAYERS: &[&[&str]] = &[
    &[
        "ids", "limits", "secret", "progress", "patterns", "wal_file",
    ],
    &[
        "seal", "record", "records", "envelope", "pack", "chunker", "list", "manifest", "keys",
        "store",
    ],
    &["object", "lookup"],
    &["repository"],
    &["snapshots", "chunks", "marks", "wal"],
    &["contents", "inventory"],
    &[
        "backup", "restore", "browse", "dump", "verify", "forget", "prune", "copy", "repair",
    ],
];

/// Layers of the watcher from the ground up.
pub const WATCH_LAYERS: &[&[&str]] = &[
    &["alarm", "clock", "text", "outcome", "secret", "calendar"],
    &["judge", "maintenance", "dependencies", "score", "schedule"],
    &["net", "process", "systemd"],
    &["probe", "restart"],
    &["event"],
    &["conductor"],
];

/// Layers of PostgreSQL's log from the ground up.
pub const WAL_LAYERS: &[&[&str]] = &[
    &["lsn", "history", "tar"],
    &["pages", "label"],
    &["source", "stream", "extract", "settings"],
    &["log"],
    &["gaps"],
];

/// Layers of the endpoint from the ground up.
pub const EXPOSE_LAYERS: &[&[&str]] = &[
    &["names", "facts", "limits"],
    &["text", "token", "seats", "rate", "process"],
    &["counters", "render", "probes", "summary"],
    &["answer"],
    &["connection", "server"],
];

/// Layers of the dashboards from the ground up.
pub const PANELS_LAYERS: &[&[&str]] = &[
    &["query", "promql", "json"],
    &["panel", "dashboard"],
    &["boards", "lint"],
];

/// Layers of the messages to people from the ground up.
pub const NOTIFY_LAYERS: &[&[&str]] = &[
    &["limits", "text", "secret", "time", "alert"],
    &["plan", "push"],
    &["fault", "http"],
    &["medium"],
    &["post"],
];

/// Layers of the sources from the ground up.
pub const SOURCES_LAYERS: &[&[&str]] = &[
    &["fault", "secret", "text", "about", "mounts"],
    &[
        "account", "chance", "setting", "scratch", "child", "check", "dump", "http", "spec",
        "restore",
    ],
    &[
        "postgresql",
        "mysql",
        "sqlite",
        "redis",
        "qdrant",
        "command",
        "container",
        "view",
    ],
    &["source", "rehearse"],
];

/// Layers of the configuration from the ground up.
pub const CONFIG_LAYERS: &[&[&str]] = &[
    &["fault", "text", "nearest", "node", "shape"],
    &["secret", "typed"],
    &["sections"],
    &["read"],
    &["derive", "cross"],
    &["show", "schema", "document"],
    &["plan", "tests"],
];

/// (what, the only files that may say it, why)
pub const ONE_PLACE: &[(&str, &[&str], &str)] = &[
    (
        "age::",
        &["agent/engine/src/seal.rs"],
        "age is named in one module",
    ),
    (
        "sqlx",
        &["agent/catalog/", "agent/keepwatch/src/main.rs"],
        "databases are asked in one crate; the binary only keeps its driver's log silent",
    ),
    (
        "metrics_exporter_prometheus::",
        &["agent/expose/src/counters.rs"],
        "the recorder of metrics is named in one module",
    ),
    (
        "lettre::",
        &["agent/notify/src/medium/mail.rs"],
        "mail is written and sent in one module",
    ),
    (
        "SystemTime::now",
        &["agent/engine/src/store/", "agent/watch/src/clock.rs"],
        "the clock is an argument; only a store tells its own time",
    ),
    (
        "Instant::now",
        &[
            "agent/keepwatch/",
            "agent/engine/src/restore/",
            "agent/engine/src/backup/sink.rs",
            "agent/catalog/src/catalog.rs",
            "agent/catalog/src/keeper.rs",
            "agent/catalog/src/meter.rs",
            "agent/catalog/src/upkeep.rs",
            "agent/watch/src/probe/",
            "agent/watch/src/process.rs",
            "agent/sources/src/",
            "agent/watch/src/restart/executor.rs",
            "agent/watch/src/conductor/tests",
            "agent/expose/src/connection.rs",
            "agent/expose/src/server.rs",
            "agent/notify/src/post.rs",
        ],
        "durations are measured at the edge",
    ),
    (
        "toml::",
        &["agent/config/src/read.rs", "agent/config/src/schema.rs"],
        "TOML is parsed in one module; another prints defaults as JSON",
    ),
    (
        "std::process::exit",
        &["agent/keepwatch/"],
        "a library does not end the process",
    ),
];

/// Lines that a source file may have, tests left out of the count. "Rarely over 500": beyond this a file has more than one reason to exist.
pub const LINES: usize = 800;

/// Every `.rs` file beneath a directory.
pub fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    let Ok(entries) = fs::read_dir(dir) else {
        return out;
    };
    for path in entries.filter_map(|e| Some(e.ok()?.path())) {
        if path.is_dir() && path.file_name().is_some_and(|n| n != "target") {
            out.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
    out.sort();
    out
}

/// The part of a file before its unit tests, without comments.
pub fn code(text: &str) -> String {
    let body = text
        .split("\n#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or("");
    body.lines()
        .map(|l| l.find("//").map_or(l, |at| &l[..at]))
        .collect::<Vec<_>>()
        .join("\n")
}

fn allowed(name: &str, list: &[&str]) -> bool {
    list.iter().any(|a| {
        a.strip_suffix('*')
            .map_or(*a == name, |start| name.starts_with(start))
    })
}

/// (section, dependency) of each row of a manifest's tables of dependencies.
fn dependencies(manifest: &str) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let mut section = "";
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
        } else if section.ends_with("dependencies]") && !line.is_empty() && !line.starts_with('#') {
            let name = line.split(['.', '=', ' ']).next().unwrap_or("");
            out.push((section.to_owned(), name.to_owned()));
        }
    }
    out
}

/// Dependencies that a crate's manifest names against [`CRATES`], [`TEST_CRATES`] and [`ONE_MANIFEST`].
pub fn crates(root: &Path) -> Vec<Finding> {
    let mut out = Vec::new();
    for (folder, table) in [("agent", CRATES), ("tests", TEST_CRATES)] {
        for (name, list) in table {
            let path = root.join(folder).join(name).join("Cargo.toml");
            let Ok(text) = fs::read_to_string(&path) else {
                out.push(format!("{folder}/{name}/Cargo.toml cannot be read"));
                continue;
            };
            for (section, dependency) in dependencies(&text) {
                if section == "[dependencies]" && !allowed(&dependency, list) {
                    out.push(format!("{folder}/{name} must not depend on {dependency}"));
                }
            }
        }
        let Ok(present) = fs::read_dir(root.join(folder)) else {
            continue;
        };
        for entry in present.filter_map(Result::ok) {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Ok(text) = fs::read_to_string(entry.path().join("Cargo.toml")) else {
                continue;
            };
            if !table.iter().any(|(n, _)| *n == name) {
                out.push(format!(
                    "{folder}/{name} has no row in the table of crates: say what it may use"
                ));
            }
            for (section, dependency) in dependencies(&text) {
                let place = format!("{folder}/{name} {section}");
                for (start, places, why) in ONE_MANIFEST {
                    if dependency.starts_with(start) && !places.contains(&place.as_str()) {
                        out.push(format!("{place} names {dependency}: {why}"));
                    }
                }
            }
        }
    }
    out
}

/// Modules of the engine that a piece of code names.
pub fn modules_named(code: &str) -> Vec<String> {
    let mut out = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + 7..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut word = String::new();
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => out.push(std::mem::take(&mut word)),
                    c if depth == 0 => word.push(c),
                    _ => {}
                }
            }
            out.push(word);
        } else {
            out.push(rest.to_owned());
        }
    }
    out.iter()
        .map(|w| {
            w.trim()
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect::<String>()
        })
        .filter(|w| !w.is_empty())
        .collect()
}

/// Imports that run up, in every crate with layers.
pub fn layers(root: &Path) -> Vec<Finding> {
    let mut out = crate_layers(root, "engine", LAYERS);
    out.extend(crate_layers(root, "watch", WATCH_LAYERS));
    out.extend(crate_layers(root, "config", CONFIG_LAYERS));
    out.extend(crate_layers(root, "wal", WAL_LAYERS));
    out.extend(crate_layers(root, "sources", SOURCES_LAYERS));
    out.extend(crate_layers(root, "expose", EXPOSE_LAYERS));
    out.extend(crate_layers(root, "panels", PANELS_LAYERS));
    out.extend(crate_layers(root, "notify", NOTIFY_LAYERS));
    out
}

fn crate_layers(root: &Path, krate: &str, layers: &[&[&str]]) -> Vec<Finding> {
    let src = root.join("agent").join(krate).join("src");
    let layer = |module: &str| layers.iter().position(|l| l.contains(&module));
    let mut out = Vec::new();
    for path in sources(&src) {
        let relative = path.strip_prefix(&src).unwrap_or(&path);
        let first = relative
            .components()
            .next()
            .map(|c| c.as_os_str().to_string_lossy().into_owned())
            .unwrap_or_default();
        let module = first.trim_end_matches(".rs");
        if module == "lib" || module == "testing" {
            continue;
        }
        let Some(own) = layer(module) else {
            out.push(format!(
                "agent/{krate}/src/{first} has no layer: add it to the table"
            ));
            continue;
        };
        let text = fs::read_to_string(&path).unwrap_or_default();
        for named in modules_named(&code(&text)) {
            if layer(&named).is_some_and(|l| l > own) {
                out.push(format!(
                    "{}: '{module}' uses '{named}', which stands above it",
                    relative.display()
                ));
            }
        }
    }
    out
}

/// What stands in another place than its one place.
pub fn one_place(root: &Path) -> Vec<Finding> {
    let mut out = Vec::new();
    for dir in [
        "agent/model/src",
        "agent/engine/src",
        "agent/catalog/src",
        "agent/watch/src",
        "agent/config/src",
        "agent/expose/src",
        "agent/notify/src",
        "agent/keepwatch/src",
    ] {
        for path in sources(&root.join(dir)) {
            let name = path
                .strip_prefix(root)
                .unwrap_or(&path)
                .to_string_lossy()
                .into_owned();
            let code = code(&fs::read_to_string(&path).unwrap_or_default());
            for (what, places, why) in ONE_PLACE {
                let used = code.match_indices(what).any(|(at, _)| {
                    !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_')
                });
                if used && !places.iter().any(|p| name.starts_with(p)) {
                    out.push(format!("{name} says '{what}': {why}"));
                }
            }
        }
    }
    out
}

/// Files that are too long, and those that do not begin by saying what they are.
pub fn shape(root: &Path) -> Vec<Finding> {
    let mut out = Vec::new();
    let mut all = sources(&root.join("agent"));
    all.extend(sources(&root.join("tests/s3serve/src")));
    for path in all {
        let name = path
            .strip_prefix(root)
            .unwrap_or(&path)
            .to_string_lossy()
            .into_owned();
        let text = fs::read_to_string(&path).unwrap_or_default();
        let lines = code(&text).lines().count();
        if name.contains("/src/") && lines > LINES {
            out.push(format!(
                "{name} has {lines} lines of code; split it (at most {LINES})"
            ));
        }
        if name.contains("/src/") && !text.starts_with("//!") {
            out.push(format!("{name} does not begin by saying what it is"));
        }
        if code(&text).contains("todo!(") || code(&text).contains("unimplemented!(") {
            out.push(format!("{name} has an unfinished mark"));
        }
    }
    out
}

/// Types that hold secrets must not be printable.
pub fn secrets(root: &Path) -> Vec<Finding> {
    const SECRET: &[&str] = &[
        "Secret32",
        "SecretText",
        "WriterKey",
        "WriterKeyBody",
        "SealedSecrets",
        "HashKeys",
        "Identity",
        "ReaderIdentity",
        "Writer",
        "Secret",
        "Token",
        "TokenFile",
    ];
    let mut out = Vec::new();
    let engine = sources(&root.join("agent/engine/src"));
    let others = ["watch", "config", "expose", "notify", "catalog", "s3"]
        .map(|c| sources(&root.join("agent").join(c).join("src")));
    for path in engine.into_iter().chain(others.into_iter().flatten()) {
        let text = code(&fs::read_to_string(&path).unwrap_or_default());
        let mut derives = String::new();
        for line in text.lines().map(str::trim) {
            if line.starts_with("#[derive") {
                derives = line.to_owned();
            } else if let Some(rest) = line
                .strip_prefix("pub struct ")
                .or(line.strip_prefix("struct "))
            {
                let name: String = rest.chars().take_while(|c| c.is_alphanumeric()).collect();
                if SECRET.contains(&name.as_str())
                    && (derives.contains("Debug") || derives.contains("Serialize"))
                {
                    out.push(format!(
                        "{}: {name} holds a secret and can be printed",
                        path.display()
                    ));
                }
                derives.clear();
            } else if line.contains("enum ") || line.contains("fn ") {
                derives.clear();
            }
        }
        for name in SECRET {
            if text.contains(&format!("Debug for {name} "))
                || text.contains(&format!("Display for {name} "))
            {
                out.push(format!(
                    "{}: {name} holds a secret and can be printed",
                    path.display()
                ));
            }
        }
    }
    out
}

/// Words that do not belong into a product: paths of one machine.
pub fn machine_paths(root: &Path) -> Vec<Finding> {
    let mut out = Vec::new();
    for path in sources(root) {
        let text = fs::read_to_string(&path).unwrap_or_default();
        for (n, line) in text.lines().enumerate() {
            if line.contains(concat!("/wo", "rk/")) || line.contains(concat!("/fa", "rm/")) {
                out.push(format!(
                    "{}:{}: a path of one machine",
                    path.display(),
                    n + 1
                ));
            }
        }
    }
    out
}

//! The rules applied to this tree; and to made-up trees that break them, so that a rule that cannot fail is noticed.

use keepwatch_tidy as tidy;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

fn none(findings: Vec<String>) {
    assert!(findings.is_empty(), "\n{}", findings.join("\n"));
}

#[test]
fn crates_use_what_they_may() {
    none(tidy::crates(&root()));
}

#[test]
fn imports_run_one_way() {
    none(tidy::layers(&root()));
}

#[test]
fn what_has_one_place_stands_there() {
    none(tidy::one_place(&root()));
}

#[test]
fn files_are_short_and_say_what_they_are() {
    none(tidy::shape(&root()));
}

#[test]
fn secrets_cannot_be_printed() {
    none(tidy::secrets(&root()));
}

#[test]
fn no_paths_of_one_machine() {
    none(tidy::machine_paths(&root()));
}

#[test]
fn each_rule_can_fail() {
    let dir = std::env::temp_dir().join(format!("keepwatch-tidy-{}", std::process::id()));
    let put = |name: &str, text: &str| {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    for name in [
        "model",
        "engine",
        "catalog",
        "watch",
        "expose",
        "notify",
        "keepwatch",
    ] {
        put(&format!("agent/{name}/Cargo.toml"), "[dependencies]\n");
    }
    put(
        "agent/model/Cargo.toml",
        "[dependencies]\ntokio.workspace = true\n",
    );
    put("agent/unheard/Cargo.toml", "[dependencies]\n");
    put(
        "agent/keepwatch/Cargo.toml",
        "[dev-dependencies]\naws-sdk-s3 = \"1\"\n",
    );
    put(
        "tests/s3serve/Cargo.toml",
        "[dependencies]\nkeepwatch-engine.workspace = true\n[dev-dependencies]\naws-sdk-s3 = \"1\"\n",
    );
    put(
        "agent/engine/src/ids.rs",
        "use crate::{limits, backup::run};\nfn f() { age::x(); }\n",
    );
    put("agent/engine/src/stray.rs", "//! x\n");
    put(
        "agent/watch/src/judge/mod.rs",
        "//! x\nuse crate::net::Net;\nfn f() { SystemTime::now(); }\n",
    );
    put(
        "agent/engine/src/secret.rs",
        "//! x\n#[derive(Debug)]\npub struct Secret32([u8; 32]);\n",
    );
    let crates = tidy::crates(&dir).join("\n");
    assert!(
        crates.contains("model must not depend on tokio") && crates.contains("unheard"),
        "{crates}"
    );
    assert!(
        crates.contains("agent/keepwatch [dev-dependencies] names aws-sdk-s3"),
        "{crates}"
    );
    assert!(
        crates.contains("tests/s3serve must not depend on keepwatch-engine")
            && !crates.contains("tests/s3serve [dev-dependencies]"),
        "{crates}"
    );
    put(
        "agent/config/src/text.rs",
        "//! x\nuse crate::read::read;\n",
    );
    let layers = tidy::layers(&dir).join("\n");
    assert!(
        layers.contains("'ids' uses 'backup'")
            && layers.contains("stray.rs has no layer")
            && layers.contains("'judge' uses 'net'")
            && layers.contains("'text' uses 'read'"),
        "{layers}"
    );
    let places = tidy::one_place(&dir).join("\n");
    assert!(places.contains("age") && places.contains("SystemTime"));
    assert!(tidy::shape(&dir).join("\n").contains("does not begin"));
    assert!(tidy::secrets(&dir).join("\n").contains("Secret32"));
    put("agent/engine/src/path.rs", concat!("//! /wo", "rk/x\n"));
    assert!(!tidy::machine_paths(&dir).is_empty());
    fs::remove_dir_all(&dir).unwrap();
}

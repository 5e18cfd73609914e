//! Figures, by hand: `cargo test --release -p keepwatch-engine --test restore_speed -- --ignored --nocapture`.

mod restore_common;

use std::sync::Arc;
use std::time::Instant;

use keepwatch_engine::store::local::LocalStore;
use restore_common::*;

/// User and system seconds of this process.
fn cpu() -> (f64, f64) {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<f64> = text
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|f| f.parse().unwrap())
        .collect();
    (fields[0] / 100.0, fields[1] / 100.0)
}

fn peak() -> String {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    text.lines()
        .find(|l| l.starts_with("VmHWM"))
        .unwrap()
        .to_owned()
}

fn text(seed: u64, len: usize) -> Vec<u8> {
    let words = noise(seed, len / 3 + 8);
    let mut out = Vec::with_capacity(len + 16);
    for w in words {
        out.extend_from_slice(["the ", "quick", " fox\n", "int x"][w as usize % 4].as_bytes());
        out.push(b'a' + w % 26);
        if out.len() >= len {
            break;
        }
    }
    out.truncate(len);
    out
}

fn measure(what: &str, b: &Builder, id: keepwatch_engine::ids::ObjectId, target: &std::path::Path) {
    for threads in [2, 3] {
        // Another directory each time: ext4 searches long for inodes that were not deleted just now.
        let target = &target.join(threads.to_string());
        std::fs::write("/proc/self/clear_refs", "5").unwrap();
        let opened = b.open(id);
        for again in ["", ", again"] {
            let (wall, used) = (Instant::now(), cpu());
            let mut options = into(target);
            options.threads = threads;
            let report = opened.restore_well(&options);
            let now = cpu();
            println!(
                "{what}, {threads} threads{again}: {:.2} s wall, {:.2} s user, {:.2} s system, {}; {} files written",
                wall.elapsed().as_secs_f64(),
                now.0 - used.0,
                now.1 - used.1,
                peak(),
                report.files_restored
            );
        }
    }
}

#[test]
#[ignore = "takes minutes; prints figures"]
fn many_small_files() {
    let scratch = tempfile::tempdir().unwrap();
    let store = Arc::new(LocalStore::create(&scratch.path().join("repository")).unwrap());
    let mut b = Builder::new(store);
    for d in 0..1500 {
        b.add(dir(format!("d{d:05}")), b"");
        for f in 0..100 {
            let n = d * 100 + f;
            let len = [300, 2_000, 6_000, 14_000, 48_000][f as usize % 5] + (n as usize * 37) % 500;
            b.add(file(format!("d{d:05}/f{f:03}"), len), &text(n, len));
        }
    }
    let id = b.commit();
    measure(
        "A: 150,000 files, 2.1 GB",
        &b,
        id,
        &scratch.path().join("out"),
    );
}

#[test]
#[ignore = "takes minutes; prints figures"]
fn one_large_file() {
    let scratch = tempfile::tempdir().unwrap();
    let store = Arc::new(LocalStore::create(&scratch.path().join("repository")).unwrap());
    let mut b = Builder::new(store);
    let mut ids = Vec::new();
    for n in 0..2000u64 {
        let content = text(1 << 40 | n, 1 << 20);
        ids.push(b.chunk(keepwatch_engine::ids::ChunkKind::Data, &content));
    }
    b.add_refs(file("dump.sql", 2000 << 20), &ids);
    let id = b.commit();
    measure("B: one file of 2 GB", &b, id, &scratch.path().join("out"));
}

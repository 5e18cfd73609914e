//! How the program is linked: the relative relocations of a position-independent program in their packed form (`DT_RELR`).
//!
//! There are about 60,000 of them, mostly of tables of trait objects. Unpacked they are 1.5 MB of the file that the start reads and
//! that then stay resident in a daemon; packed they are 20 KB. A loader that does not know the form does not start the program:
//! glibc knows it from 2.36 (2022) on. So it is asked for where the program is built for the host itself and its glibc is new enough,
//! or where `KEEPWATCH_PACKED_RELOCATIONS` is 1, which says that it will be where the program runs; 0 means never.
//!
//! Source: <https://sourceware.org/glibc/wiki/Release/2.36>, `ld(1)` at `-z pack-relative-relocs`.

use std::env;
use std::process::Command;

const WISH: &str = "KEEPWATCH_PACKED_RELOCATIONS";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={WISH}");
    let get = |name: &str| env::var(name).unwrap_or_default();
    let is_gnu = get("CARGO_CFG_TARGET_OS") == "linux" && get("CARGO_CFG_TARGET_ENV") == "gnu";
    let packs = match get(WISH).as_str() {
        "1" => true,
        "0" => false,
        _ => get("HOST") == get("TARGET") && glibc().is_some_and(|version| version >= (2, 36)),
    };
    if is_gnu && packs {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// The version of this host's glibc, as `getconf(1)` tells it: `glibc 2.36`.
fn glibc() -> Option<(u32, u32)> {
    let told = Command::new("getconf")
        .arg("GNU_LIBC_VERSION")
        .output()
        .ok()?;
    let text = String::from_utf8(told.stdout).ok()?;
    let (major, minor) = text.trim().strip_prefix("glibc ")?.split_once('.')?;
    let minor = minor.split('.').next()?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

//! How the program is linked: the relative relocations of a position-independent program in their packed form (`DT_RELR`).
//!
//! There are about 60,000 of them, mostly of tables of trait objects. Unpacked they are 1.5 MB of the file that the start reads and
//! that then stay resident in a daemon; packed they are 20 KB. The loader must know the form: glibc from 2.36 (2022), musl from
//! 1.2.4 (2023) on. Linkers that do not know the option say so and go on without.
//!
//! Source: <https://sourceware.org/glibc/wiki/Release/2.36>, `ld(1)` at `-z pack-relative-relocs`.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let target = |name: &str| env::var(name).unwrap_or_default();
    if target("CARGO_CFG_TARGET_OS") == "linux" {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

//! The program as `tests/scale/run` calls it. That there is a test of it makes `cargo test` build it.

use std::process::Command;

#[test]
fn it_wants_to_be_told_what_to_make() {
    let output = Command::new(env!("CARGO_BIN_EXE_keepwatch-scale"))
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("Usage: keepwatch-scale"));
}

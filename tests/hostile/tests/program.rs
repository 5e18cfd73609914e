//! The program as the end-to-end tests call it. That there is a test of it makes `cargo test` build it.

use std::process::Command;

#[test]
fn it_wants_to_be_told_where() {
    let output = Command::new(env!("CARGO_BIN_EXE_keepwatch-hostile"))
        .output()
        .expect("it runs");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("keepwatch-hostile DIR"));
}

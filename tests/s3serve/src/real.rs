//! A real S3 server for a test, by `tests/s3/server start NAME`. It ends with this value.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// See the module.
pub struct RealServer(Child, Value);

impl RealServer {
    /// `None` when it cannot be started here: then a test says so and passes. With `KEEPWATCH_REQUIRE_S3` set, where it was installed a moment ago, it panics.
    pub fn start(name: &str) -> Option<RealServer> {
        let started = Self::try_start(name);
        if started.is_none() {
            assert!(
                std::env::var_os("KEEPWATCH_REQUIRE_S3").is_none(),
                "tests/s3/server start {name} failed, and KEEPWATCH_REQUIRE_S3 is set"
            );
            println!("skipped: {name} cannot be had here (tests/s3/server start {name})");
        }
        started
    }

    fn try_start(name: &str) -> Option<RealServer> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../s3/server");
        let mut child = Command::new(script)
            .args(["start", name, "--until-eof"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take()?)
            .read_line(&mut line)
            .ok()?;
        match serde_json::from_str(&line) {
            Ok(said) => Some(RealServer(child, said)),
            Err(_) => {
                let _ = child.wait();
                None
            }
        }
    }

    /// A text that the script says of it: `endpoint`, `bucket`, `access_key`, `secret_key`, `region`, …; empty when it does not.
    pub fn text(&self, name: &str) -> &str {
        self.1[name].as_str().unwrap_or_default()
    }

    /// A fact that the script says of it, if it does.
    pub fn fact(&self, name: &str) -> Option<bool> {
        self.1[name].as_bool()
    }
}

impl Drop for RealServer {
    fn drop(&mut self) {
        // The end of its input ends it and the server.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

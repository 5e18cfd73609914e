//! The one configuration file: read strictly, with every fault named at once.
//!
//! [`load`] reads a file and gives a typed [`Config`], warnings, and the effective configuration to show; or [`Faults`]: each with
//! file, line, column, key, one sentence and the nearest valid key. [`schema`] and [`documentation`] come from the same
//! description, so they cannot say anything else than what is read.
//!
//! | layer | modules |
//! |---|---|
//! | words | [`fault`], [`text`], `nearest`, `node` (values with their places), [`shape`] (the description) |
//! | what there is | [`secret`], `typed` (serde), [`sections`] (typed structs and their description) |
//! | reading | `read` (one walk that goes on), `derive` (defaults that follow from others), `cross` (the file as a whole) |
//! | showing | `show` (TOML), `schema` (JSON Schema), `document` (Markdown) |
//! | using | [`plan`] (what the watcher takes) |
//!
//! A module uses only modules of its own layer or of layers above it in this table. Loading reads the one file and nothing else: no
//! secret, no socket, no clock. So a file can be checked on another machine than the one it is for, in a build without a network.
//!
//! The crate stands between the pillars and the binary: it uses the words of `model` and the types of `watch`, and knows nothing of
//! the engine, the catalog or the sources.

#![warn(missing_docs)]

mod cross;
mod derive;
mod document;
pub mod fault;
mod nearest;
mod node;
pub mod plan;
mod read;
mod schema;
pub mod secret;
pub mod sections;
pub mod shape;
mod show;
pub mod text;
mod typed;

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

pub use derive::longest_gap;
pub use fault::{Fault, Faults};
pub use secret::{Credentials, Secret, SecretError, SecretSource};
pub use sections::Config;

use fault::Gathered;
use sections::CONFIG;

/// Where the agent looks when it is not told.
pub const DEFAULT_PATH: &str = "/etc/keepwatch/config.toml";
/// The largest file, in bytes. While a full one of the worst sort is read it takes 200 MiB (measured).
pub const FILE_MAX: u64 = 1 << 20;
/// A file with every section, which is read in a test.
pub const EXAMPLE: &str = include_str!("../example.toml");

/// A file that was read and is good.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What it says.
    pub config: Config,
    /// What a person should know of it.
    pub warnings: Vec<Fault>,
    effective: node::Node,
}

impl Loaded {
    /// What is in effect, as TOML: the file and every default, which is marked as such. It holds no secret.
    pub fn to_toml(&self) -> String {
        show::toml(&self.effective)
    }

    /// The same as JSON.
    pub fn to_json(&self) -> serde_json::Value {
        self.effective.json()
    }

    /// Sections that differ from another configuration and that a running agent cannot change: it must be started anew for them.
    pub fn needs_restart(&self, before: &Loaded) -> Vec<&'static str> {
        const FIXED: &[(&str, &[&str])] = &[
            ("host", &["host"]),
            ("state_directory", &["state_directory"]),
            ("cache_directory", &["cache_directory"]),
            ("beats_socket", &["beats_socket"]),
            ("logging.format", &["logging", "format"]),
            ("metrics", &["metrics"]),
            ("catalog.database", &["catalog", "database"]),
        ];
        let json =
            |loaded: &Loaded, path: &[&str]| loaded.effective.get(path).map(node::Node::json);
        FIXED
            .iter()
            .filter(|(_, path)| json(self, path) != json(before, path))
            .map(|(name, _)| *name)
            .collect()
    }
}

/// Reads a file.
///
/// # Errors
/// Every fault of the file; or one, when it cannot be read, is larger than 1 MiB or is not UTF-8.
pub fn load(path: &Path) -> Result<Loaded, Faults> {
    let name = path.display().to_string();
    let unreadable = |what: String| Faults {
        faults: vec![Fault {
            file: name.clone(),
            line: 1,
            column: 1,
            key: String::new(),
            what,
            nearest: None,
        }],
        more: 0,
    };
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_MAX + 1).read_to_end(&mut bytes))
        .map_err(|e| unreadable(format!("the configuration cannot be read: {e}")))?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(unreadable(TOO_LONG.into()));
    }
    match String::from_utf8(bytes) {
        Ok(text) => parse(&text, &name),
        Err(e) => {
            let mut faults = unreadable("it is not UTF-8".into());
            let good = e.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(&e.as_bytes()[..good]).into_owned();
            if let Some(fault) = faults.faults.first_mut() {
                (fault.line, fault.column) = fault::Lines::new(&text).place(good);
            }
            Err(faults)
        }
    }
}

const TOO_LONG: &str = "it is larger than 1 MiB, which no configuration is";

/// Reads a text; `name` stands in the faults.
///
/// # Errors
/// Every fault.
pub fn parse(text: &str, name: &str) -> Result<Loaded, Faults> {
    let mut faults = Gathered::new(name, text);
    let mut warnings = Gathered::new(name, text);
    if text.len() as u64 > FILE_MAX {
        faults.add(0, "", TOO_LONG);
    } else {
        let mut reading = read::read(text, &CONFIG, &mut faults);
        derive::derive(&mut reading.root, &mut faults);
        // What was not understood may hold what would be missed here.
        if reading.sound {
            let mut found = cross::Found {
                faults: &mut faults,
                warnings: &mut warnings,
            };
            cross::look(&reading.root, &reading.references, &mut found);
        }
        if faults.is_empty() {
            match serde_json::from_value(reading.root.json()) {
                Ok(config) => {
                    return Ok(Loaded {
                        config,
                        warnings: warnings.into_list(),
                        effective: reading.root,
                    });
                }
                // The description let through what the types do not take: a fault of ours, which tests look for.
                Err(e) => faults.add(
                    0,
                    "",
                    format!(
                        "Keepwatch cannot understand it, which is a fault in Keepwatch: {}",
                        text::line(&e.to_string())
                    ),
                ),
            }
        }
    }
    Err(faults.finish().unwrap_or(Faults {
        faults: Vec::new(),
        more: 0,
    }))
}

/// The JSON Schema (draft 2020-12) of the file.
pub fn schema() -> serde_json::Value {
    schema::whole(&CONFIG)
}

/// The page of documentation, as Markdown.
pub fn documentation() -> String {
    document::markdown(&CONFIG, EXAMPLE)
}

#[cfg(test)]
mod tests;

//! What stands beside the streams of a dump: `keepwatch-source.json`, the last stream of each, which says what the others are.
//!
//! Read from a repository it is foreign data: it is bounded, and names in it are checked against the streams that are there.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::fault::{Fault, Reason};

/// Its name, beneath the label of the source.
pub const NAME: &str = "keepwatch-source.json";
/// The longest, in bytes: about 1 KiB for each of several thousand databases.
pub const LONGEST: u64 = 8 << 20;
/// The version of its form.
const VERSION: u32 = 1;

/// What a dump is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// The version of this form: 1.
    pub keepwatch_source: u32,
    /// The kind of the source.
    pub kind: String,
    /// The version of the server, as it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_version: Option<String>,
    /// The version of the program that dumped it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program_version: Option<String>,
    /// The streams, in the order in which they were made.
    pub streams: Vec<Item>,
    /// What a person should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// One stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// Its name, beneath the label.
    pub name: String,
    /// What it is: `database`, `globals`, `users`, `collection`, ….
    pub what: String,
    /// Of which database, collection, file or container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// Its length.
    pub bytes: u64,
    /// What else its restore needs.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub details: Value,
}

impl About {
    /// Nothing yet.
    pub fn new(kind: &str) -> Self {
        About {
            keepwatch_source: VERSION,
            kind: kind.to_owned(),
            server_version: None,
            program_version: None,
            streams: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// As it is stored.
    pub fn to_json(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).unwrap_or_default();
        text.push(b'\n');
        text
    }

    /// From what is stored.
    ///
    /// # Errors
    /// It is none, or of a version that is not known here.
    pub fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let wrong = |why: String| {
            Fault::new(
                Reason::NotWhole,
                format!("the description of the dump, {NAME}, cannot be used: {why}"),
            )
        };
        let about: About = serde_json::from_slice(bytes).map_err(|e| wrong(e.to_string()))?;
        if about.keepwatch_source != VERSION {
            return Err(Fault::new(
                Reason::Version,
                format!(
                    "the dump has form {}, and this version of Keepwatch knows form {VERSION}",
                    about.keepwatch_source
                ),
            ));
        }
        if let Some(item) = about.streams.iter().find(|i| {
            i.name.split('/').any(|c| matches!(c, "" | "." | "..")) || i.name.contains('\0')
        }) {
            return Err(wrong(format!(
                "'{}' is no name of a stream",
                item.name.escape_default()
            )));
        }
        Ok(about)
    }

    /// The streams that are of this sort.
    pub fn all<'a>(&'a self, what: &'a str) -> impl Iterator<Item = &'a Item> {
        self.streams.iter().filter(move |i| i.what == what)
    }

    /// Those of this sort that are wanted, and under which names: all under their own when none is named.
    ///
    /// # Errors
    /// One that is not there; what is there is named.
    pub fn chosen<'a>(
        &'a self,
        what: &'a str,
        wanted: &BTreeMap<String, String>,
    ) -> Result<Vec<(&'a Item, String)>, Fault> {
        let own = |item: &Item| item.of.clone().unwrap_or_default();
        if wanted.is_empty() {
            return Ok(self.all(what).map(|i| (i, own(i))).collect());
        }
        let one = |(from, to): (&String, &String)| {
            let item = self.all(what).find(|i| own(i) == *from);
            let item = item.ok_or_else(|| {
                let there: Vec<String> = self.all(what).map(own).collect();
                Fault::new(
                    Reason::NotThere,
                    format!(
                        "the snapshot has no {what} '{from}'; it has {}",
                        there.join(", ")
                    ),
                )
            })?;
            Ok((item, to.clone()))
        };
        wanted.iter().map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_back_and_foreign_ones_are_refused() {
        let mut about = About::new("mysql");
        about.streams.push(Item {
            name: "a/b.sql".into(),
            what: "database".into(),
            of: Some("b".into()),
            bytes: 7,
            details: serde_json::json!({"charset": "utf8mb4"}),
        });
        assert_eq!(About::parse(&about.to_json()).unwrap(), about);
        about.streams[0].name = "../x".into();
        assert!(About::parse(&about.to_json()).is_err());
        about.streams.clear();
        about.keepwatch_source = 2;
        assert_eq!(
            About::parse(&about.to_json()).unwrap_err().reason,
            Reason::Version
        );
        assert!(About::parse(b"").is_err());
    }
}

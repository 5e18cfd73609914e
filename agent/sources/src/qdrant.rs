//! Qdrant by its snapshot API: a snapshot of each collection (or of the whole storage), and the aliases.
//!
//! The server makes a snapshot on its own disk and says its size and SHA-256; we stream it, compare both, and delete it there, also when
//! something fails. The name of each is written down before it is streamed, so that the next run deletes what a killed one left. A
//! restore uploads: a server that is told to fetch could be told to fetch from anywhere. A snapshot of the whole storage can be restored
//! by the server's command line only, so collections are the usual way.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper::Method;
use serde_json::{Value, json};

use crate::about::{About, Item};
use crate::check::{Checked, Sum};
use crate::dump::{Body, Part, Parts};
use crate::fault::{Fault, Reason};
use crate::http::{Answer, Client, Download};
use crate::restore::{Report, Stored};
use crate::secret::SecretFile;
use crate::setting::Setting;
use crate::text::component;

/// The kind, in words.
pub const KIND: &str = "qdrant";
/// The longest list of aliases, in bytes.
const ALIASES: u64 = 8 << 20;

/// A server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// `http://127.0.0.1:6333`.
    pub url: String,
    /// The API key.
    pub key: Option<SecretFile>,
}

impl Default for Server {
    fn default() -> Self {
        Server {
            url: "http://127.0.0.1:6333".into(),
            key: None,
        }
    }
}

/// What is backed up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qdrant {
    /// Where.
    pub server: Server,
    /// Which collections; all when it is empty.
    pub collections: Vec<String>,
    /// One snapshot of the whole storage instead.
    pub whole: bool,
}

/// A way to ask.
struct Asker {
    client: Client,
    /// Where names of snapshots on the server are written down.
    notes: PathBuf,
}

/// A name as a part of a path of a URL.
fn encoded(name: &str) -> String {
    name.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                (b as char).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

/// Where the snapshots of a collection, or of the whole storage, are.
fn base(collection: Option<&str>) -> String {
    match collection {
        Some(name) => format!("/collections/{}/snapshots", encoded(name)),
        None => "/snapshots".to_owned(),
    }
}

impl Asker {
    fn new(server: &Server, setting: &Setting) -> Result<Self, Fault> {
        let key = server.key.as_ref().map(SecretFile::read).transpose()?;
        Ok(Asker {
            client: Client::new(&server.url, key.map(|k| ("api-key", k)), setting)?,
            notes: setting.scratch.join("keepwatch-qdrant-snapshots"),
        })
    }

    /// What `result` of a good answer is.
    fn result(
        &self,
        method: Method,
        path: &str,
        json: Option<&Value>,
        of: &str,
    ) -> Result<Value, Fault> {
        let answer = self.client.ask(method, path, json)?;
        self.good(answer, of)
    }

    fn good(&self, answer: Answer, of: &str) -> Result<Value, Fault> {
        if answer.status == 200 {
            let value: Value = serde_json::from_slice(&answer.body).map_err(|e| {
                Fault::new(
                    Reason::Failed,
                    format!(
                        "{} does not answer as Qdrant does: {e}",
                        self.client.place()
                    ),
                )
            })?;
            return Ok(value.get("result").cloned().unwrap_or(value));
        }
        let reason = match answer.status {
            401 | 403 => Reason::Denied,
            404 => Reason::NotThere,
            507 => Reason::NoSpace,
            _ if String::from_utf8_lossy(&answer.body).contains("No space left") => Reason::NoSpace,
            _ => Reason::Failed,
        };
        let what = match reason {
            Reason::Denied => format!("Qdrant at {} refuses the key for {of}", self.client.place()),
            Reason::NotThere => format!(
                "Qdrant at {} has no {of}, or has it no more",
                self.client.place()
            ),
            _ => format!("Qdrant at {} cannot give {of}", self.client.place()),
        };
        Err(Fault::new(reason, format!("{what} ({})", answer.said())))
    }

    /// How many points a collection has.
    fn count(&self, collection: &str, of: &str) -> Result<u64, Fault> {
        let path = format!("/collections/{}/points/count", encoded(collection));
        let said = self.result(Method::POST, &path, Some(&json!({"exact": true})), of)?;
        said["count"].as_u64().ok_or_else(|| {
            Fault::new(
                Reason::Failed,
                format!(
                    "{} does not count points as Qdrant does",
                    self.client.place()
                ),
            )
        })
    }

    /// The names of all collections.
    fn collections(&self) -> Result<Vec<String>, Fault> {
        let said = self.result(Method::GET, "/collections", None, "list of collections")?;
        let list = said["collections"].as_array().into_iter().flatten();
        Ok(list
            .filter_map(|c| c["name"].as_str().map(str::to_owned))
            .collect())
    }

    fn note_path(&self, path: &str) -> PathBuf {
        self.notes
            .join(component(&format!("{} {path}", self.client.place())))
    }

    /// Writes down that this snapshot on the server is ours. Without it the run goes on: the name is only needed after a crash.
    fn note(&self, path: &str) {
        let written =
            fs::create_dir_all(&self.notes).and_then(|()| fs::write(self.note_path(path), path));
        if let Err(e) = written {
            tracing::warn!("cannot write down the name of a snapshot on the server: {e}");
        }
    }

    /// Deletes a snapshot on the server; one that is gone is well.
    fn delete(&self, path: &str) -> Result<(), Fault> {
        let answer = self
            .client
            .ask(Method::DELETE, &format!("{path}?wait=true"), None)?;
        if !matches!(answer.status, 200 | 404) {
            self.good(answer, "a snapshot to delete")?;
        }
        let _ = fs::remove_file(self.note_path(path));
        Ok(())
    }

    /// Deletes what a killed run left on this server.
    fn sweep(&self) {
        let here = component(&format!("{} ", self.client.place()));
        for entry in fs::read_dir(&self.notes).into_iter().flatten().flatten() {
            if !entry.file_name().to_string_lossy().starts_with(&here) {
                continue;
            }
            let path = fs::read_to_string(entry.path()).unwrap_or_default();
            // What stands there is a file of ours, but no more is done by it than its name says.
            let is_ours = path.starts_with("/collections/") || path.starts_with("/snapshots/");
            if is_ours && self.note_path(&path) == entry.path() {
                if let Err(e) = self.delete(&path) {
                    tracing::warn!(
                        "cannot delete a snapshot that a killed run left on the server: {e}"
                    );
                }
            }
        }
    }
}

/// Begins a dump.
///
/// # Errors
/// The server cannot be reached, refuses the key, or has no such collection.
pub fn dump(source: &Qdrant, setting: &Setting) -> Result<Box<dyn Parts>, Fault> {
    let asker = Asker::new(&source.server, setting)?;
    let root = asker.result(Method::GET, "/", None, "version")?;
    let mut there = asker.collections()?;
    there.sort();
    if let Some(missing) = source.collections.iter().find(|c| !there.contains(c)) {
        return Err(Fault::new(
            Reason::NotThere,
            format!(
                "Qdrant at {} has no collection '{missing}'",
                asker.client.place()
            ),
        ));
    }
    if !source.collections.is_empty() {
        there.retain(|c| source.collections.contains(c));
    }
    if there.is_empty() && !source.whole {
        return Err(Fault::new(
            Reason::NotThere,
            format!("Qdrant at {} has no collections", asker.client.place()),
        ));
    }
    let mut about = About::new(KIND);
    about.server_version = root["version"].as_str().map(str::to_owned);
    let mut wanted: VecDeque<Option<String>> = match source.whole {
        true => VecDeque::new(),
        false => there.iter().cloned().map(Some).collect(),
    };
    if source.whole {
        wanted.push_back(None);
        about.notes.push("a snapshot of the whole storage is restored by the server's own command line, --storage-snapshot, not by Keepwatch".into());
    }
    asker.sweep();
    let aliases = asker.result(Method::GET, "/aliases", None, "list of aliases")?;
    let mut aliases: Vec<Value> = aliases["aliases"].as_array().cloned().unwrap_or_default();
    aliases.retain(|a| {
        a["collection_name"]
            .as_str()
            .is_some_and(|c| there.iter().any(|t| t == c))
    });
    Ok(Box::new(Dump {
        asker: Arc::new(asker),
        wanted,
        aliases: Some(aliases),
        about,
    }))
}

struct Dump {
    asker: Arc<Asker>,
    wanted: VecDeque<Option<String>>,
    aliases: Option<Vec<Value>>,
    about: About,
}

impl Parts for Dump {
    fn next(&mut self) -> Result<Option<Part>, Fault> {
        if let Some(aliases) = self.aliases.take() {
            return Ok(Some(Part {
                name: "aliases.json".into(),
                what: "aliases",
                of: None,
                details: Value::Null,
                body: Box::new(io::Cursor::new(json!(aliases).to_string().into_bytes())),
            }));
        }
        let Some(collection) = self.wanted.pop_front() else {
            return Ok(None);
        };
        let what = match &collection {
            Some(name) => format!("collection '{name}'"),
            None => "whole storage".to_owned(),
        };
        let base = base(collection.as_deref());
        let points = || match &collection {
            Some(name) => self.asker.count(name, &what).map(Value::from),
            None => Ok(Value::Null),
        };
        let before = points()?;
        let made = self
            .asker
            .result(Method::POST, &format!("{base}?wait=true"), None, &what)?;
        let Some(name) = made["name"].as_str() else {
            return Err(Fault::new(
                Reason::Failed,
                format!("Qdrant does not say how it named the snapshot of the {what}"),
            ));
        };
        let path = format!("{base}/{}", encoded(name));
        self.asker.note(&path);
        let mut kept = Kept {
            asker: self.asker.clone(),
            path: path.clone(),
            is_there: true,
        };
        // Points come and go meanwhile: what is in the snapshot lies between the two.
        let after = points()?;
        let (length, sum) = (
            made["size"].as_u64(),
            made["checksum"].as_str().map(str::to_owned),
        );
        let download = match self.asker.client.download(&path)? {
            Ok(download) => download,
            Err(answer) => {
                let gone = self.asker.good(answer, &format!("snapshot of the {what}"));
                kept.delete();
                return Err(gone
                    .err()
                    .unwrap_or_else(|| Fault::new(Reason::Failed, "no snapshot came")));
            }
        };
        let body: Box<dyn Body> = Box::new(Snapshot { download, kept });
        Ok(Some(Part {
            name: match &collection {
                Some(name) => format!("{}.snapshot", component(name)),
                None => "storage.full".to_owned(),
            },
            what: if collection.is_some() {
                "collection"
            } else {
                "storage"
            },
            of: collection,
            details: json!({"sha256": sum, "points": before, "points_after": after}),
            body: Checked::over(
                body,
                Sum::new(length, sum),
                format!("the snapshot of the {what}"),
            ),
        }))
    }

    fn about(&mut self) -> About {
        self.about.clone()
    }
}

/// A snapshot on the server, deleted when nobody needs it any more.
struct Kept {
    asker: Arc<Asker>,
    path: String,
    is_there: bool,
}

impl Kept {
    fn delete(&mut self) {
        if std::mem::take(&mut self.is_there) {
            if let Err(e) = self.asker.delete(&self.path) {
                tracing::warn!("a snapshot stays on the server until the next run: {e}");
            }
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.delete();
    }
}

struct Snapshot {
    download: Download,
    kept: Kept,
}

impl Read for Snapshot {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.download.read(buffer)
    }
}

impl Body for Snapshot {
    fn finish(self: Box<Self>) -> Result<(), Fault> {
        let Snapshot { download, mut kept } = *self;
        drop(download);
        kept.delete();
        Ok(())
    }
}

/// What is restored, and how.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Which collections, and under which names; all under their own when it is empty.
    pub collections: BTreeMap<String, String>,
    /// Whether collections that hold something are replaced.
    pub replace: bool,
}

/// Restores by upload.
///
/// # Errors
/// What stands in the way, or what failed.
pub fn restore(
    stored: &dyn Stored,
    about: &About,
    server: &Server,
    options: &Options,
    setting: &Setting,
) -> Result<Report, Fault> {
    let asker = Asker::new(server, setting)?;
    let own = |item: &Item| item.of.clone().unwrap_or_default();
    if about.all("collection").next().is_none() {
        return Err(Fault::new(
            Reason::NotThere,
            "the snapshot holds no collections; that of the whole storage is restored by the server's command line: write it out with 'keepwatch dump' and start the server with --storage-snapshot FILE",
        ));
    }
    let chosen = about.chosen("collection", &options.collections)?;
    let there = asker.collections()?;
    let exists = |name: &str| there.iter().any(|c| c == name);
    for (item, name) in &chosen {
        stored.there(item)?;
        if exists(name) && !options.replace && asker.count(name, "count of points")? != 0 {
            return Err(Fault::new(
                Reason::InTheWay,
                format!(
                    "the collection '{name}' exists and is not empty; restore under another name with --database {}=NAME, or replace it with --replace; nothing was touched",
                    own(item)
                ),
            ));
        }
    }
    let mut report = Report::default();
    for (item, name) in &chosen {
        let sum = item.details["sha256"]
            .as_str()
            .filter(|s| s.len() == 64 && s.bytes().all(|b| b.is_ascii_hexdigit()));
        let mut path = format!("{}/upload?wait=true&priority=snapshot", base(Some(name)));
        if let Some(sum) = sum {
            path += &format!("&checksum={sum}");
        }
        let uploaded = asker
            .client
            .upload(&path, "snapshot", item.bytes, &|out| {
                stored.write(&item.name, out)
            })
            .and_then(|answer| asker.good(answer, &format!("place for the collection '{name}'")));
        if let Err(e) = uploaded {
            let mut state = "the collection is as it was".to_owned();
            if !exists(name) {
                // What an upload that failed half-way may have made.
                state = match asker.client.ask(
                    Method::DELETE,
                    &format!("/collections/{}", encoded(name)),
                    None,
                ) {
                    Ok(_) => "what was made of it is deleted again".to_owned(),
                    Err(left) => format!("what was made of it may be left: {left}"),
                };
            }
            return Err(Fault::new(e.reason, format!("{e}; {state}"))
                .during(format!("restore the collection '{name}'")));
        }
        report.restored.push(format!("collection {name}"));
        report.bytes += item.bytes;
    }
    if let Some(item) = about.all("aliases").next() {
        let text = stored.small(&item.name, ALIASES)?;
        let aliases: Vec<Value> = serde_json::from_slice(&text).map_err(|e| {
            Fault::new(
                Reason::NotWhole,
                format!("the list of aliases cannot be read: {e}"),
            )
        })?;
        let actions: Vec<Value> = aliases
            .iter()
            .filter_map(|a| {
                let of = a["collection_name"].as_str()?;
                let (_, name) = chosen.iter().find(|(i, _)| i.of.as_deref() == Some(of))?;
                // Under another name its aliases would take those of the original away.
                let alias = a["alias_name"].as_str().filter(|_| name == of)?;
                Some(json!({"create_alias": {"collection_name": name, "alias_name": alias}}))
            })
            .collect();
        if !actions.is_empty() {
            let n = actions.len();
            asker.result(
                Method::POST,
                "/collections/aliases",
                Some(&json!({"actions": actions})),
                "place for the aliases",
            )?;
            report.restored.push(format!("{n} aliases"));
        }
    }
    Ok(report)
}

/// Whether a directory holds names of snapshots that are still on a server.
pub fn leftovers(scratch: &Path) -> usize {
    fs::read_dir(scratch.join("keepwatch-qdrant-snapshots")).map_or(0, |d| d.flatten().count())
}

/// The names of the collections of a server.
///
/// # Errors
/// It cannot be reached, or refuses the key.
pub fn collections(server: &Server, setting: &Setting) -> Result<Vec<String>, Fault> {
    Asker::new(server, setting)?.collections()
}

/// How many points a collection of a dump has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// The collection.
    pub collection: String,
    /// Counted when it was dumped: before and after. Dumps of earlier versions have the first only.
    pub had: (u64, Option<u64>),
    /// There now.
    pub has: u64,
}

impl Count {
    /// What the dump lets expect, in words, and whether it is so.
    pub fn judged(&self) -> (String, bool) {
        let (first, last) = self.had;
        match last {
            Some(last) if last == first => (first.to_string(), self.has == first),
            Some(last) => (
                format!("{first} to {last}"),
                (first.min(last)..=first.max(last)).contains(&self.has),
            ),
            None => (first.to_string(), first == 0 || self.has > 0),
        }
    }
}

/// Collections of a dump, how many points were counted when it was made, and how many are there.
///
/// # Errors
/// The server cannot be asked, or lacks one.
pub fn counts(server: &Server, about: &About, setting: &Setting) -> Result<Vec<Count>, Fault> {
    let asker = Asker::new(server, setting)?;
    about
        .all("collection")
        .map(|item| {
            let collection = item.of.clone().unwrap_or_default();
            Ok(Count {
                had: (
                    item.details["points"].as_u64().unwrap_or(0),
                    item.details["points_after"].as_u64(),
                ),
                has: asker.count(&collection, "count of points")?,
                collection,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_compared_with_what_was_counted() {
        for (had, has, holds) in [
            ((5, Some(5)), 5, true),
            ((5, Some(5)), 4, false),
            ((5, Some(5)), 6, false),
            ((0, Some(0)), 0, true),
            ((5, Some(8)), 6, true),
            ((8, Some(5)), 5, true),
            ((5, Some(8)), 4, false),
            ((5, Some(8)), 9, false),
            ((5, None), 6, true),
            ((5, None), 0, false),
        ] {
            let count = Count {
                collection: "c".into(),
                had,
                has,
            };
            assert_eq!(count.judged().1, holds, "{count:?}");
        }
    }
}

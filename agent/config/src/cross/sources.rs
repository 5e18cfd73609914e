//! What is backed up: what the parts of one source say of each other, and values that its kind does not take. What is refused here would
//! otherwise be refused by each run.

use std::collections::BTreeMap;
use std::path::Path;

use super::Found;
use crate::node::{Node, Value};

/// One thing that a job reads.
pub(super) struct Part<'a> {
    /// Its kind.
    pub kind: &'a str,
    /// What is said of it.
    pub node: &'a Node,
    /// Where that stands.
    pub path: String,
}

/// The source of a backup, or the parts of several.
pub(super) fn parts<'a>(backup: &'a Node, path: &str) -> Vec<Part<'a>> {
    let path = join_plain(path, "source");
    let several = backup.get(&["source", "several", "parts"]);
    match several {
        None => of_table(backup.get(&["source"]), &path),
        Some(list) => {
            let list = list.list().iter().enumerate();
            list.flat_map(|(i, part)| of_table(Some(part), &format!("{path}.several.parts[{i}]")))
                .collect()
        }
    }
}

fn of_table<'a>(node: Option<&'a Node>, path: &str) -> Vec<Part<'a>> {
    let entries = node.into_iter().flat_map(|n| n.entries(&[]));
    let entries = entries.filter(|(kind, _)| *kind != "several");
    entries
        .map(|(kind, node)| Part {
            kind,
            node,
            path: join_plain(path, kind),
        })
        .collect()
}

fn join_plain(above: &str, name: &str) -> String {
    match above {
        "" => name.to_owned(),
        above => format!("{above}.{name}"),
    }
}

/// Looks at the source of a backup.
pub(super) fn look(backup: &Node, path: &str, found: &mut Found<'_, '_>) {
    let parts = parts(backup, path);
    let mut labels: BTreeMap<&str, &str> = BTreeMap::new();
    let mut has_files = false;
    for part in &parts {
        match part.kind {
            "paths" => {
                if std::mem::replace(&mut has_files, true) {
                    let what = "files stand in one part: put all of them into its include";
                    found.fault(part.node, &part.path, "", what);
                }
                view(part, found);
                continue;
            }
            "postgresql" => postgresql(part, found),
            "mysql" | "redis" => server(part, found),
            "qdrant" => qdrant(part, found),
            "container" => container(part, found),
            _ => {}
        }
        let label = part.node.text_at(&["label"]).unwrap_or(part.kind);
        if label.starts_with('.') {
            let what = "it becomes a directory in the snapshot, and must not begin with a dot";
            found.fault(part.node, &part.path, "label", what);
        }
        match labels.insert(label, part.kind) {
            Some(other) => {
                let what = format!(
                    "the source '{other}' has the label {label}, too, and both would lie in one directory of the snapshot: give one of them another label"
                );
                found.fault(part.node, &part.path, "label", what);
            }
            None => is_apart(part, label, &parts, found),
        }
    }
}

/// Files must not lie where a dump stands in the snapshot, nor be read from a snapshot of the file system that hides a database.
fn is_apart(part: &Part<'_>, label: &str, parts: &[Part<'_>], found: &mut Found<'_, '_>) {
    for files in parts.iter().filter(|p| p.kind == "paths") {
        let top = Path::new("/").join(label);
        let includes = files.node.texts_at(&["include"]);
        if let Some(include) = includes.iter().find(|i| Path::new(i).starts_with(&top)) {
            let what = format!(
                "files of {include} are backed up, and its dumps would lie in {} of the same snapshot: give it another label",
                top.display()
            );
            found.fault(part.node, &part.path, "label", what);
        }
        let origin = files.node.text_at(&["view"]).and_then(origin);
        let Some(origin) = origin else { continue };
        let mut places = part.node.texts_at(&["databases"]);
        places.extend(part.node.text_at(&["socket"]));
        places.extend(part.node.text_at(&["host"]));
        if let Some(place) = places.iter().find(|p| Path::new(p).starts_with(origin)) {
            let what = format!(
                "{place} lies in the view of {origin}, in which nothing runs: back it up by a job of its own"
            );
            found.fault(part.node, &part.path, "", what);
        }
    }
}

/// The directory of a view; none when it is no view.
fn origin(view: &str) -> Option<&str> {
    let is_name = |n: &str| !n.is_empty() && !n.starts_with('-') && !n.contains('@');
    let is_volume = |v: &str| {
        v.split_once('/')
            .is_some_and(|(g, n)| is_name(g) && is_name(n) && !n.contains('/'))
    };
    let is_size = |s: &str| s.starts_with(|c: char| c.is_ascii_digit());
    let words: Vec<&str> = view.split(':').collect();
    let origin = match &words[..] {
        ["btrfs", origin] => origin,
        ["zfs", dataset, origin] if is_name(dataset) => origin,
        ["lvm", volume, origin] if is_volume(volume) => origin,
        ["lvm", volume, origin, size] if is_volume(volume) && is_size(size) => origin,
        _ => return None,
    };
    origin.starts_with('/').then_some(*origin)
}

fn view(part: &Part<'_>, found: &mut Found<'_, '_>) {
    let Some(text) = part.node.text_at(&["view"]) else {
        return;
    };
    if origin(text).is_none() {
        let what =
            "it is btrfs:DIR, zfs:DATASET:DIR or lvm:GROUP/VOLUME:DIR[:SIZE], with an absolute DIR";
        found.fault(part.node, &part.path, "view", what);
    }
}

fn postgresql(part: &Part<'_>, found: &mut Found<'_, '_>) {
    if part
        .node
        .text_at(&["format"])
        .is_some_and(|f| f != "custom")
    {
        let what = "databases are dumped in the format 'custom': that is what deduplicates and needs no scratch space; leave it out";
        found.fault(part.node, &part.path, "format", what);
    }
    let jobs = part.node.get(&["jobs"]);
    if jobs.is_some_and(|n| matches!(n.value, Value::Int(n) if n > 1)) {
        let what = "a dump in the format 'custom' is one stream, made by one job; leave it out";
        found.fault(part.node, &part.path, "jobs", what);
    }
}

fn server(part: &Part<'_>, found: &mut Found<'_, '_>) {
    let has = |key: &str| part.node.get(&[key]).is_some();
    match (has("socket"), has("host")) {
        (true, true) => found.fault(part.node, &part.path, "socket", "give either it or a host"),
        (false, false) if part.node.is_whole() => {
            found.fault(part.node, &part.path, "", "give a socket or a host")
        }
        _ => {}
    }
}

fn qdrant(part: &Part<'_>, found: &mut Found<'_, '_>) {
    let whole = part.node.get(&["whole"]).and_then(Node::bool) == Some(true);
    if whole && !part.node.texts_at(&["collections"]).is_empty() {
        let what =
            "a snapshot of the whole storage has all collections: give either it or collections";
        found.fault(part.node, &part.path, "whole", what);
    }
}

fn container(part: &Part<'_>, found: &mut Found<'_, '_>) {
    let has = |key: &str| part.node.get(&[key]).is_some();
    match (has("path"), has("command")) {
        (true, true) => found.fault(part.node, &part.path, "path", "give either it or a command"),
        (false, false) if part.node.is_whole() => {
            found.fault(part.node, &part.path, "", "give a path or a command")
        }
        (true, false) if has("filename") => found.fault(
            part.node,
            &part.path,
            "filename",
            "it is for the output of a command",
        ),
        _ => {}
    }
}

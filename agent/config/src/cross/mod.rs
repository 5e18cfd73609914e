//! What only the whole file can tell: names that are used and not there, circles, limits that contradict each other, two jobs in
//! each other's way. It looks at what was understood, so a slip elsewhere hides nothing here.

mod backups;
mod checks;
mod service;
mod sources;

use std::collections::{BTreeMap, BTreeSet};

use crate::fault::Gathered;
use crate::nearest::nearest;
use crate::node::{Node, join};
use crate::read::{Reference, literal};
use crate::shape::{Default, Table};
use crate::text::shown;

/// Where faults and warnings go.
pub(crate) struct Found<'f, 'a> {
    pub faults: &'f mut Gathered<'a>,
    pub warnings: &'f mut Gathered<'a>,
}

impl Found<'_, '_> {
    /// A fault at a key beneath a node, or at the node when the key is not there.
    fn fault(&mut self, node: &Node, path: &str, key: &str, what: impl Into<String>) {
        let (at, path) = place(node, path, key);
        self.faults.add(at, &path, what);
    }

    /// The same as a warning: the file is taken, and a person should know.
    fn warn(&mut self, node: &Node, path: &str, key: &str, what: impl Into<String>) {
        let (at, path) = place(node, path, key);
        self.warnings.add(at, &path, what);
    }
}

fn place(node: &Node, path: &str, key: &str) -> (usize, String) {
    let mut at = node.at;
    let mut path = path.to_owned();
    let mut node = Some(node);
    for part in key.split('.').filter(|p| !p.is_empty()) {
        path = join(&path, part);
        node = node.and_then(|n| n.table()?.get(part));
        at = node.map_or(at, |n| n.at);
    }
    (at, path)
}

/// Looks at the whole.
pub(crate) fn look(root: &Node, references: &[Reference], found: &mut Found<'_, '_>) {
    names(root, references, found);
    backups::look(root, found);
    checks::look(root, found);
    service::look(root, found);
}

/// Every name that is used must be one of its section.
fn names(root: &Node, references: &[Reference], found: &mut Found<'_, '_>) {
    let mut sections: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for reference in references {
        let known = sections.entry(reference.section).or_insert_with(|| {
            // Those that were not understood are there, too: what is wrong with them is said elsewhere.
            let mut node = Some(root);
            for part in reference.section.split('.') {
                node = node.and_then(|n| n.table()?.get(part));
            }
            node.and_then(Node::table)
                .into_iter()
                .flatten()
                .map(|(name, _)| name.as_str())
                .collect()
        });
        if known.contains(reference.name.as_str()) {
            continue;
        }
        let near = match found.faults.is_full() {
            true => None,
            false => nearest(&reference.name, known.iter().map(|n| (*n, &[][..]))),
        };
        let listed = match known.len() {
            0 => "it has none".to_owned(),
            1..=8 => {
                let all: Vec<&str> = known.iter().copied().collect();
                format!("it has {}", all.join(", "))
            }
            n => format!("it has {n} others"),
        };
        let what = format!(
            "there is no {} in [{}]: {listed}",
            shown(&reference.name),
            reference.section
        );
        found
            .faults
            .near(reference.at, &reference.key, what, near.map(str::to_owned));
    }
}

/// Whether a key has another value than its default. What is shown has every default in it and must be taken, so standing in the
/// file is no fault by itself.
fn changed(node: &Node, table: &'static Table, key: &str) -> bool {
    let Some(known) = table.keys.iter().find(|k| k.name == key) else {
        return false;
    };
    let Default::Value(text) = known.default else {
        return false;
    };
    let default = literal(text, &known.shape, 0, &mut Gathered::new("", ""), key);
    node.get(&[key]).is_some_and(|n| n.json() != default.json())
}

/// Names that a list of texts holds twice.
fn twice(node: &Node, path: &str, key: &str, found: &mut Found<'_, '_>) {
    let list = node
        .get(&key.split('.').collect::<Vec<_>>())
        .map_or(&[][..], Node::list);
    let mut seen = BTreeSet::new();
    for text in list.iter().filter_map(Node::text) {
        if !seen.insert(text) {
            found.fault(
                node,
                path,
                key,
                format!("{} stands in it twice", shown(text)),
            );
        }
    }
}

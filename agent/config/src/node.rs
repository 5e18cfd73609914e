//! The file as it was understood: values that have the right shape, with the place where each stands, and defaults where it says
//! nothing. What could not be understood is [`Value::Bad`]: reported already, and skipped by whoever looks at the whole.

use std::collections::BTreeMap;

use serde_json::{Map, Number, Value as Json};

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// What it is.
    pub value: Value,
    /// The byte of the text where it begins; for a default, that of the table it belongs to.
    pub at: usize,
    /// Whether it stands in the file.
    pub given: bool,
}

/// A value.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Table(BTreeMap<String, Node>),
    Bad,
}

impl Node {
    pub(crate) fn new(value: Value, at: usize, given: bool) -> Self {
        Self { value, at, given }
    }

    pub(crate) fn table(&self) -> Option<&BTreeMap<String, Node>> {
        match &self.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    pub(crate) fn table_mut(&mut self) -> Option<&mut BTreeMap<String, Node>> {
        match &mut self.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    pub(crate) fn list(&self) -> &[Node] {
        match &self.value {
            Value::List(list) => list,
            _ => &[],
        }
    }

    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn bool(&self) -> Option<bool> {
        match self.value {
            Value::Bool(b) => Some(b),
            _ => None,
        }
    }

    pub(crate) fn is_bad(&self) -> bool {
        matches!(self.value, Value::Bad)
    }

    /// The value beneath these keys, when it is there and was understood.
    pub(crate) fn get(&self, path: &[&str]) -> Option<&Node> {
        let mut node = self;
        for key in path {
            node = node.table()?.get(*key)?;
        }
        (!node.is_bad()).then_some(node)
    }

    /// The text beneath these keys.
    pub(crate) fn text_at(&self, path: &[&str]) -> Option<&str> {
        self.get(path)?.text()
    }

    /// The duration beneath these keys.
    pub(crate) fn duration_at(&self, path: &[&str]) -> Option<std::time::Duration> {
        keepwatch_model::duration::parse_duration(self.text_at(path)?).ok()
    }

    /// The texts of the list beneath these keys.
    pub(crate) fn texts_at(&self, path: &[&str]) -> Vec<&str> {
        self.get(path)
            .map_or(&[][..], Node::list)
            .iter()
            .filter_map(Node::text)
            .collect()
    }

    /// The entries of the table beneath these keys, those that were not understood left out.
    pub(crate) fn entries(&self, path: &[&str]) -> impl Iterator<Item = (&str, &Node)> {
        let table = self.get(path).and_then(Node::table);
        table
            .into_iter()
            .flatten()
            .filter(|(_, n)| !n.is_bad())
            .map(|(k, n)| (k.as_str(), n))
    }

    /// Whether all of it was understood.
    pub(crate) fn is_whole(&self) -> bool {
        match &self.value {
            Value::Bad => false,
            Value::List(list) => list.iter().all(Node::is_whole),
            Value::Table(table) => table.values().all(Node::is_whole),
            _ => true,
        }
    }

    /// The same as JSON, for serde. Bad values are left out.
    pub(crate) fn json(&self) -> Json {
        match &self.value {
            Value::Bool(b) => Json::Bool(*b),
            Value::Int(n) => Json::Number((*n).into()),
            Value::Float(n) => Number::from_f64(*n).map_or(Json::Null, Json::Number),
            Value::Text(text) => Json::String(text.clone()),
            Value::List(list) => list
                .iter()
                .filter(|n| !n.is_bad())
                .map(Node::json)
                .collect(),
            Value::Table(table) => {
                let whole = table.iter().filter(|(_, n)| !n.is_bad());
                Json::Object(
                    whole
                        .map(|(k, n)| (k.clone(), n.json()))
                        .collect::<Map<_, _>>(),
                )
            }
            Value::Bad => Json::Null,
        }
    }
}

/// A key of a table as it is written in TOML.
pub(crate) fn key(key: &str) -> String {
    let bare = !key.is_empty()
        && key.len() <= 256
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if bare { key.to_owned() } else { quoted(key) }
}

/// A text as it is written in TOML.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The name of a key beneath another, as errors show it: shortened, so that a hostile name cannot flood a terminal.
pub(crate) fn join(above: &str, name: &str) -> String {
    let shown = match name.char_indices().nth(80) {
        Some((at, _)) => format!("{}…", &name[..at]),
        None => name.to_owned(),
    };
    let shown = key(&shown);
    if above.is_empty() {
        shown
    } else {
        format!("{above}.{shown}")
    }
}

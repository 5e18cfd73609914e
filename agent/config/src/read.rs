//! Reading a file against its description: one walk that records every fault and goes on.
//!
//! TOML itself is parsed with recovery, so that a slip in one line hides neither the next slip nor what is wrong with the
//! values. A value that has the wrong shape becomes bad and is not looked at further; a key that is not known is reported with the
//! nearest one of its table, or of a table beside it.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::fault::Gathered;
use crate::nearest::nearest;
use crate::node::{Node, Value, join, key};
use crate::shape::{Default, Key, One, Shape, Table};
use crate::text::{Text, betrayed, betraying_name, shown};

/// A name that must be one of a section.
#[derive(Debug)]
pub(crate) struct Reference {
    pub at: usize,
    pub key: String,
    pub section: &'static str,
    pub name: String,
}

/// What was read.
pub(crate) struct Reading {
    pub root: Node,
    pub references: Vec<Reference>,
    /// Whether TOML itself was well-formed: if not, what is missing may stand in what was not understood.
    pub sound: bool,
}

/// Reads a text.
pub(crate) fn read(text: &str, table: &'static Table, faults: &mut Gathered<'_>) -> Reading {
    let (document, errors) = DeTable::parse_recoverable(text);
    let sound = errors.is_empty();
    for error in errors {
        let at = error.span().map_or(0, |s| s.start);
        faults.torn(at, format!("not valid TOML: {}", sentence(error.message())));
    }
    let mut reader = Reader {
        faults,
        references: Vec::new(),
        sound,
        given: true,
    };
    let root = reader.table("", table, document.get_ref(), 0);
    Reading {
        root,
        references: reader.references,
        sound,
    }
}

/// Reads one value as it would be written in the file: a default.
pub(crate) fn literal(
    text: &str,
    shape: &Shape,
    at: usize,
    faults: &mut Gathered<'_>,
    path: &str,
) -> Node {
    let Ok(value) = DeValue::parse(text) else {
        faults.add(at, path, "its default is not TOML");
        return Node::new(Value::Bad, at, false);
    };
    let mut reader = Reader {
        faults,
        references: Vec::new(),
        sound: true,
        given: false,
    };
    let mut node = reader.value(path, shape, value.get_ref(), at);
    place(&mut node, at);
    node
}

/// A default stands where its table stands.
fn place(node: &mut Node, at: usize) {
    node.at = at;
    node.given = false;
    match &mut node.value {
        Value::List(list) => list.iter_mut().for_each(|n| place(n, at)),
        Value::Table(table) => table.values_mut().for_each(|n| place(n, at)),
        _ => {}
    }
}

/// A message of the parser in one line.
fn sentence(message: &str) -> String {
    let lines: Vec<&str> = message
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    lines.join(", ")
}

struct Reader<'f, 'a> {
    faults: &'f mut Gathered<'a>,
    references: Vec<Reference>,
    sound: bool,
    given: bool,
}

impl Reader<'_, '_> {
    fn bad(&mut self, at: usize, path: &str, what: impl Into<String>) -> Node {
        self.faults.add(at, path, what);
        Node::new(Value::Bad, at, self.given)
    }

    fn good(&self, value: Value, at: usize) -> Node {
        Node::new(value, at, self.given)
    }

    fn value(&mut self, path: &str, shape: &Shape, value: &DeValue<'_>, at: usize) -> Node {
        match (shape, value) {
            (Shape::Bool, DeValue::Boolean(b)) => self.good(Value::Bool(*b), at),
            (Shape::Int(min, max), DeValue::Integer(_)) => match integer(value) {
                Some(n) if (*min..=*max).contains(&n) => self.good(Value::Int(n), at),
                _ => self.bad(
                    at,
                    path,
                    format!("{} is not {}", written(value), shape.title()),
                ),
            },
            (Shape::Number(min, max), DeValue::Integer(_) | DeValue::Float(_)) => {
                let number = match value {
                    DeValue::Float(f) => f.as_str().parse::<f64>().ok(),
                    _ => integer(value)
                        .filter(|n| n.unsigned_abs() <= 1 << 53)
                        .map(|n| n as f64),
                };
                match number {
                    Some(n) if n.is_finite() && n >= *min && n <= *max => self.good(
                        match integer(value) {
                            Some(n) => Value::Int(n),
                            None => Value::Float(n),
                        },
                        at,
                    ),
                    _ => self.bad(
                        at,
                        path,
                        format!("{} is not {}", written(value), shape.title()),
                    ),
                }
            }
            (Shape::Text(format), DeValue::String(text)) => match format.check(text) {
                Ok(()) => {
                    self.refer(path, format, text, at);
                    self.good(Value::Text(text.to_string()), at)
                }
                Err(why) => self.bad(at, path, why),
            },
            (Shape::Words(words), DeValue::String(text)) => {
                if words.iter().any(|w| w.0 == text) {
                    return self.good(Value::Text(text.to_string()), at);
                }
                let near = nearest(text, words.iter().map(|w| (w.0, &[][..])));
                let what = match betrayed(text) {
                    Some(why) => why.to_owned(),
                    None => format!("{} is not {}", shown(text), shape.title()),
                };
                self.faults.near(at, path, what, near.map(str::to_owned));
                Node::new(Value::Bad, at, self.given)
            }
            (Shape::Argv, DeValue::Array(_)) => {
                let node = self.value(
                    path,
                    &Shape::List(&Shape::Text(Text::Any), 1, 256),
                    value,
                    at,
                );
                match node.list().first().map(|first| (first.at, first.text())) {
                    Some((at, Some(program))) if !program.starts_with('/') => self.bad(
                        at,
                        path,
                        format!(
                            "{} is not an absolute path of a program; no shell is involved",
                            shown(program)
                        ),
                    ),
                    _ => node,
                }
            }
            (Shape::List(of, min, max), DeValue::Array(array)) => {
                if array.len() < *min || array.len() > *max {
                    let what = match array.len() {
                        0 => "it is empty".to_owned(),
                        n => format!("it has {n} elements; it takes {min} to {max}"),
                    };
                    return self.bad(at, path, what);
                }
                let elements = array.iter().enumerate();
                let list = elements
                    .map(|(n, element)| {
                        let start = self.start(element, at);
                        self.value(&format!("{path}[{n}]"), of, element.get_ref(), start)
                    })
                    .collect();
                self.good(Value::List(list), at)
            }
            (Shape::Map(names, of, max), DeValue::Table(table)) => {
                self.map(path, names, of, *max, table, at)
            }
            (Shape::Table(keys), DeValue::Table(table)) => self.table(path, keys, table, at),
            (Shape::One(one), DeValue::Table(table)) => self.one(path, one, table, at),
            (Shape::One(one), DeValue::String(text)) if !one.words.is_empty() => self.value(
                path,
                &Shape::Words(one.words),
                &DeValue::String(text.clone()),
                at,
            ),
            (Shape::Either(shapes), _) => match shapes.iter().find(|s| fits(s, value)) {
                Some(shape) => self.value(path, shape, value, at),
                None => self.wrong_type(path, shape, value, at),
            },
            _ => self.wrong_type(path, shape, value, at),
        }
    }

    fn wrong_type(&mut self, path: &str, shape: &Shape, value: &DeValue<'_>, at: usize) -> Node {
        self.bad(
            at,
            path,
            format!("it is {}, but must be {}", kind(value), shape.title()),
        )
    }

    fn refer(&mut self, path: &str, format: &Text, text: &str, at: usize) {
        if let Text::Ref(section) = format {
            self.references.push(Reference {
                at,
                key: path.to_owned(),
                section,
                name: text.to_owned(),
            });
        }
    }

    /// Where a value stands; inside a default, where its table stands.
    fn start<T>(&self, value: &Spanned<T>, table: usize) -> usize {
        if self.given {
            value.span().start
        } else {
            table
        }
    }

    fn map(
        &mut self,
        path: &str,
        names: &Text,
        of: &Shape,
        max: usize,
        table: &DeTable<'_>,
        at: usize,
    ) -> Node {
        if table.len() > max {
            return self.bad(
                at,
                path,
                format!("it has {} entries; it takes at most {max}", table.len()),
            );
        }
        let mut out = BTreeMap::new();
        for (name, value) in table {
            let path = join(path, name.get_ref());
            let key_at = self.start(name, at);
            if let Err(why) = names.check(name.get_ref()) {
                self.faults.add(key_at, &path, why);
            }
            let start = self.entry_start(name, value, at);
            let node = self.value(&path, of, value.get_ref(), start);
            out.insert(name.get_ref().to_string(), node);
        }
        self.good(Value::Table(out), at)
    }

    /// Where an entry stands: a table at its name, anything else at its value.
    fn entry_start(
        &self,
        name: &Spanned<std::borrow::Cow<'_, str>>,
        value: &Spanned<DeValue<'_>>,
        at: usize,
    ) -> usize {
        match value.get_ref() {
            DeValue::Table(_) => self.start(name, at),
            _ => self.start(value, at),
        }
    }

    fn table(&mut self, path: &str, table: &'static Table, found: &DeTable<'_>, at: usize) -> Node {
        let mut out = BTreeMap::new();
        for (name, value) in found {
            let text: &str = name.get_ref();
            match table.keys.iter().find(|k| k.name == text) {
                Some(key) => {
                    let start = self.entry_start(name, value, at);
                    let node = self.value(&join(path, text), &key.shape, value.get_ref(), start);
                    out.insert(text.to_owned(), node);
                }
                None => {
                    let start = self.start(name, at);
                    self.unknown(&join(path, text), text, table, start);
                }
            }
        }
        for key in table.keys.iter().filter(|k| !found.contains_key(k.name)) {
            if let Some(node) = self.default(path, key, at) {
                out.insert(key.name.to_owned(), node);
            }
        }
        self.good(Value::Table(out), at)
    }

    fn unknown(&mut self, path: &str, name: &str, table: &Table, at: usize) {
        if self.faults.is_full() {
            return self.faults.add(at, path, "there is no such key");
        }
        let near = nearest(name, table.keys.iter().map(|k| (k.name, k.also)));
        let secret = table.keys.iter().find(|k| {
            matches!(k.shape, Shape::Text(Text::Secret))
                && k.name.strip_suffix("_file") == Some(name)
        });
        if let Some(secret) = secret {
            let what = "a secret must not stand in the configuration: put it into a file that only its reader can open, and name the file";
            self.faults
                .near(at, path, what, Some(secret.name.to_owned()));
        } else if betraying_name(name).is_some() {
            let what = "there is no such key, and secrets must not stand in the configuration: they are read from files, which keys that end in _file name";
            self.faults.near(at, path, what, near.map(str::to_owned));
        } else {
            let near = near.map(str::to_owned).or_else(|| elsewhere(name, table));
            self.faults.near(at, path, "there is no such key", near);
        }
    }

    fn default(&mut self, path: &str, key: &Key, at: usize) -> Option<Node> {
        let below = join(path, key.name);
        match key.default {
            Default::Required => {
                if self.sound {
                    self.faults.add(
                        at,
                        &below,
                        format!("it is missing: it must be {}", key.shape.title()),
                    );
                }
                Some(Node::new(Value::Bad, at, false))
            }
            Default::Absent | Default::Derived(_) => None,
            Default::Value(text) => Some(literal(text, &key.shape, at, self.faults, &below)),
            Default::Empty => {
                let given = std::mem::replace(&mut self.given, false);
                let mut node = match &key.shape {
                    Shape::Table(table) => self.table(&below, table, &DeTable::default(), at),
                    _ => Node::new(Value::Table(BTreeMap::new()), at, false),
                };
                self.given = given;
                place(&mut node, at);
                Some(node)
            }
        }
    }

    fn one(&mut self, path: &str, one: &'static One, found: &DeTable<'_>, at: usize) -> Node {
        let mut out = BTreeMap::new();
        for (name, value) in found {
            let text: &str = name.get_ref();
            let below = join(path, text);
            match one.tags.iter().find(|t| t.name == text) {
                Some(tag) => {
                    let start = self.entry_start(name, value, at);
                    let node = self.value(&below, &tag.shape, value.get_ref(), start);
                    out.insert(text.to_owned(), node);
                }
                None => {
                    let near =
                        nearest(text, one.tags.iter().map(|t| (t.name, t.also))).map(str::to_owned);
                    let start = self.start(name, at);
                    self.faults.near(
                        start,
                        &below,
                        format!("there is no such choice: it must be {}", one.title()),
                        near,
                    );
                    return Node::new(Value::Bad, at, self.given);
                }
            }
        }
        match out.len() {
            1 => self.good(Value::Table(out), at),
            0 if !self.sound => Node::new(Value::Bad, at, self.given),
            0 => self.bad(at, path, format!("it is empty: it must be {}", one.title())),
            _ => {
                let names: Vec<String> = out.keys().map(|k| key(k)).collect();
                self.bad(
                    at,
                    path,
                    format!(
                        "it has {}, but must have exactly one of them",
                        names.join(" and ")
                    ),
                )
            }
        }
    }
}

/// The same key in a table beside this one, when there is exactly one such.
fn elsewhere(name: &str, table: &Table) -> Option<String> {
    fn look(name: &str, table: &Table, above: &str, depth: usize, found: &mut Vec<String>) {
        for key in table.keys {
            let path = join(above, key.name);
            if depth > 0 && (key.name == name || key.also.contains(&name)) {
                found.push(path.clone());
            }
            match &key.shape {
                Shape::Table(inner) if depth < 3 => look(name, inner, &path, depth + 1, found),
                Shape::One(one) if depth < 3 => {
                    for tag in one.tags {
                        let path = join(&path, tag.name);
                        if tag.name == name {
                            found.push(path.clone());
                        }
                        if let Shape::Table(inner) = &tag.shape {
                            look(name, inner, &path, depth + 2, found);
                        }
                    }
                }
                _ => {}
            }
        }
    }
    let mut found = Vec::new();
    look(name, table, "", 0, &mut found);
    match <[String; 1]>::try_from(found) {
        Ok([only]) => Some(only),
        Err(_) => None,
    }
}

/// Whether the value has the type of TOML that the shape is written in.
fn fits(shape: &Shape, value: &DeValue<'_>) -> bool {
    match shape {
        Shape::Bool => matches!(value, DeValue::Boolean(_)),
        Shape::Int(..) => matches!(value, DeValue::Integer(_)),
        Shape::Number(..) => matches!(value, DeValue::Integer(_) | DeValue::Float(_)),
        Shape::Text(_) | Shape::Words(_) => matches!(value, DeValue::String(_)),
        Shape::Argv | Shape::List(..) => matches!(value, DeValue::Array(_)),
        Shape::Map(..) | Shape::Table(_) => matches!(value, DeValue::Table(_)),
        Shape::One(one) => {
            matches!(value, DeValue::Table(_))
                || (!one.words.is_empty() && matches!(value, DeValue::String(_)))
        }
        Shape::Either(shapes) => shapes.iter().any(|s| fits(s, value)),
    }
}

fn integer(value: &DeValue<'_>) -> Option<i64> {
    match value {
        DeValue::Integer(n) => i64::from_str_radix(n.as_str(), n.radix()).ok(),
        _ => None,
    }
}

/// A number as it was written, shortened.
fn written(value: &DeValue<'_>) -> String {
    match value {
        DeValue::Integer(n) => shown(&n.to_string()),
        DeValue::Float(n) => shown(n.as_str()),
        _ => "it".to_owned(),
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

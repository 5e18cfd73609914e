//! The configuration as it is in effect, as TOML: what stands in the file and every default. It can be read again and means the same.
//!
//! No secret can be in it: a file that holds one is not read ([`crate::text::betrayed`], keys that end in `_file`).

use std::collections::BTreeMap;

use crate::node::{Node, Value, key, quoted};

/// The whole file.
pub(crate) fn toml(root: &Node) -> String {
    let mut out = String::new();
    if let Some(table) = root.table() {
        section(&mut out, "", table);
    }
    out
}

fn section(out: &mut String, path: &str, table: &BTreeMap<String, Node>) {
    let (tables, values): (Vec<_>, Vec<_>) = table.iter().partition(|(_, n)| n.table().is_some());
    if !path.is_empty() && (!values.is_empty() || tables.is_empty()) {
        if !out.is_empty() {
            out.push('\n');
        }
        out.push_str(&format!("[{path}]\n"));
    }
    for (name, node) in values {
        out.push_str(&key(name));
        out.push_str(" = ");
        inline(out, node);
        out.push_str(if node.given { "\n" } else { "  # default\n" });
    }
    for (name, node) in tables {
        if let Some(table) = node.table() {
            let name = key(name);
            let path = if path.is_empty() {
                name
            } else {
                format!("{path}.{name}")
            };
            section(out, &path, table);
        }
    }
}

fn inline(out: &mut String, node: &Node) {
    match &node.value {
        Value::Bool(b) => out.push_str(&b.to_string()),
        Value::Int(n) => out.push_str(&n.to_string()),
        // Debug keeps the point that makes it a float in TOML.
        Value::Float(n) => out.push_str(&format!("{n:?}")),
        Value::Text(text) => out.push_str(&quoted(text)),
        Value::List(list) => {
            out.push('[');
            for (n, node) in list.iter().enumerate() {
                out.push_str(if n > 0 { ", " } else { "" });
                inline(out, node);
            }
            out.push(']');
        }
        Value::Table(table) => {
            out.push_str("{ ");
            for (n, (name, node)) in table.iter().enumerate() {
                out.push_str(if n > 0 { ", " } else { "" });
                out.push_str(&key(name));
                out.push_str(" = ");
                inline(out, node);
            }
            out.push_str(" }");
        }
        Value::Bad => out.push_str("\"\""),
    }
}

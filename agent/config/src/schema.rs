//! The description as JSON Schema (draft 2020-12), for editors and for whoever generates the file.
//!
//! It says all that can be said of a value by itself: keys, types, words, ranges, forms of texts. It never refuses what the agent
//! takes. What only the agent can tell (names that must exist, circles, calendars) it leaves to `keepwatch config check`.

use serde_json::{Map, Value, json};

use crate::shape::{Default, One, Shape, Table, tidy};
use crate::text::LONGEST;

/// The schema of a whole file.
pub(crate) fn whole(table: &Table) -> Value {
    let mut schema = object(table);
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("Keepwatch");
    schema
}

fn object(table: &Table) -> Value {
    let mut properties = Map::new();
    for key in table.keys {
        let mut property = shape(&key.shape);
        property["description"] = json!(tidy(key.doc));
        if let Default::Value(text) = key.default {
            if let Some(value) = default(text) {
                property["default"] = value;
            }
        }
        properties.insert(key.name.to_owned(), property);
    }
    let required: Vec<&str> = table
        .keys
        .iter()
        .filter(|k| matches!(k.default, Default::Required))
        .map(|k| k.name)
        .collect();
    let mut out =
        json!({ "type": "object", "properties": properties, "additionalProperties": false });
    if !required.is_empty() {
        out["required"] = json!(required);
    }
    out
}

/// A default as JSON.
fn default(text: &str) -> Option<Value> {
    fn json(value: &toml::de::DeValue<'_>) -> Option<Value> {
        use toml::de::DeValue as V;
        Some(match value {
            V::String(t) => Value::String(t.to_string()),
            V::Integer(n) => json!(i64::from_str_radix(n.as_str(), n.radix()).ok()?),
            V::Float(n) => json!(n.as_str().parse::<f64>().ok()?),
            V::Boolean(b) => json!(b),
            V::Datetime(_) => return None,
            V::Array(list) => list
                .iter()
                .map(|v| json(v.get_ref()))
                .collect::<Option<Value>>()?,
            V::Table(table) => {
                let entries = table
                    .iter()
                    .map(|(k, v)| Some((k.get_ref().to_string(), json(v.get_ref())?)));
                Value::Object(entries.collect::<Option<Map<_, _>>>()?)
            }
        })
    }
    json(toml::de::DeValue::parse(text).ok()?.get_ref())
}

fn shape(of: &Shape) -> Value {
    match of {
        Shape::Bool => json!({ "type": "boolean" }),
        Shape::Int(min, max) => {
            let mut out = json!({ "type": "integer" });
            if *min != i64::MIN {
                out["minimum"] = json!(min);
            }
            if *max != i64::MAX {
                out["maximum"] = json!(max);
            }
            out
        }
        Shape::Number(min, max) => {
            let mut out = json!({ "type": "number" });
            if min.is_finite() {
                out["minimum"] = json!(min);
            }
            if max.is_finite() {
                out["maximum"] = json!(max);
            }
            out
        }
        Shape::Text(text) => {
            let mut out = json!({ "type": "string", "maxLength": LONGEST });
            if let Some(pattern) = text.pattern() {
                out["pattern"] = json!(pattern);
            }
            out
        }
        Shape::Words(words) => {
            let words: Vec<&str> = words.iter().map(|w| w.0).collect();
            json!({ "type": "string", "enum": words })
        }
        Shape::Argv => json!({
            "type": "array", "minItems": 1, "maxItems": 256,
            "prefixItems": [{ "type": "string", "pattern": "^/" }], "items": { "type": "string" },
        }),
        Shape::List(of, min, max) => {
            json!({ "type": "array", "items": shape(of), "minItems": min, "maxItems": max })
        }
        Shape::Map(names, of, max) => {
            let mut out = json!({ "type": "object", "additionalProperties": shape(of), "maxProperties": max });
            if let Some(pattern) = names.pattern() {
                out["propertyNames"] = json!({ "pattern": pattern });
            }
            out
        }
        Shape::Table(table) => object(table),
        Shape::One(of) => one(of),
        Shape::Either(shapes) => json!({ "anyOf": shapes.iter().map(shape).collect::<Vec<_>>() }),
    }
}

fn one(one: &One) -> Value {
    let mut properties = Map::new();
    for tag in one.tags {
        let mut property = shape(&tag.shape);
        property["description"] = json!(about(tag.doc, &tag.shape));
        properties.insert(tag.name.to_owned(), property);
    }
    let table = json!({ "type": "object", "properties": properties, "additionalProperties": false, "minProperties": 1, "maxProperties": 1 });
    match one.words {
        [] => table,
        words => {
            let words: Vec<&str> = words.iter().map(|w| w.0).collect();
            json!({ "anyOf": [{ "enum": words }, table] })
        }
    }
}

/// What a choice is: in its own words, or in those of its table.
pub(crate) fn about(doc: &str, shape: &Shape) -> String {
    match (tidy(doc), shape) {
        (own, Shape::Table(table)) if own.is_empty() => tidy(table.doc),
        (own, _) => own,
    }
}

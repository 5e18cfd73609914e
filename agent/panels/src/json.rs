//! JSON as text in one fixed form: keys sorted, two blanks deep, one end of line at the end.
//!
//! `serde_json` sorts keys or keeps their order as some other crate of the build wishes (its feature `preserve_order`), so
//! committed files would differ by how they were built.

use std::collections::BTreeMap;

use serde_json::Value;

/// The text.
pub fn text(value: &Value) -> String {
    let mut out = String::new();
    write(value, 0, &mut out);
    out.push('\n');
    out
}

fn write(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            let sorted: BTreeMap<_, _> = map.iter().collect();
            out.push('{');
            for (i, (key, inner)) in sorted.into_iter().enumerate() {
                line(i, depth + 1, out);
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push_str(": ");
                write(inner, depth + 1, out);
            }
            line(0, depth, out);
            out.push('}');
        }
        Value::Array(list) if !list.is_empty() => {
            out.push('[');
            for (i, inner) in list.iter().enumerate() {
                line(i, depth + 1, out);
                write(inner, depth + 1, out);
            }
            line(0, depth, out);
            out.push(']');
        }
        flat => out.push_str(&flat.to_string()),
    }
}

/// A new line, after a comma unless it is the first.
fn line(index: usize, depth: usize, out: &mut String) {
    if index > 0 {
        out.push(',');
    }
    out.push('\n');
    out.extend(std::iter::repeat_n("  ", depth));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_form_for_one_value() {
        let value = serde_json::json!({"b": [1, {"z": "\n\"", "a": []}], "a": {}});
        let wanted = "{\n  \"a\": {},\n  \"b\": [\n    1,\n    {\n      \"a\": [],\n      \"z\": \"\\n\\\"\"\n    }\n  ]\n}\n";
        assert_eq!(text(&value), wanted);
        let back: Value = serde_json::from_str(&text(&value)).unwrap_or_default();
        assert_eq!(back, value);
    }
}

//! What an answer in JSON must say: a value under a JSON pointer (RFC 6901), found without keeping the rest.
//!
//! A document of 1 MiB may hold half a million values; as a tree it would take 30 times its size. So the parser walks along the
//! pointer and skips everything beside it, and of the value itself only a scalar is kept.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::SettingsError;

/// What is expected under a pointer. Without any condition the value must only be there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JsonRule {
    /// `/status`, `/items/0/name`; empty for the whole document.
    pub pointer: String,
    /// The scalar must be this: text, number, boolean or null.
    pub equals: Option<serde_json::Value>,
    /// The number must be at least this.
    pub min: Option<f64>,
    /// The number must be at most this.
    pub max: Option<f64>,
}

impl JsonRule {
    /// Whether the rule makes sense.
    ///
    /// # Errors
    /// A pointer that does not begin with `/`, a limit that is no number, an expected value that is no scalar.
    pub fn check(&self) -> Result<(), SettingsError> {
        let wrong = |why: &str| {
            Err(SettingsError::new(
                "json",
                format!("{:?}: {why}", self.pointer),
            ))
        };
        if !self.pointer.is_empty() && !self.pointer.starts_with('/') {
            return wrong("a JSON pointer begins with /");
        }
        if self.pointer.len() > 512 {
            return wrong("it is longer than 512 bytes");
        }
        if [self.min, self.max]
            .iter()
            .flatten()
            .any(|v| !v.is_finite())
        {
            return wrong("a limit is not a number");
        }
        if matches!(&self.equals, Some(v) if v.is_array() || v.is_object()) {
            return wrong("equals takes a text, a number, true, false or null");
        }
        Ok(())
    }

    /// Applies the rule.
    ///
    /// # Errors
    /// A sentence on what is there instead. Values are named up to 60 characters.
    pub fn apply(&self, body: &[u8]) -> Result<(), String> {
        let found =
            find(body, &self.pointer).map_err(|e| format!("the answer is not JSON: {e}"))?;
        let place = if self.pointer.is_empty() {
            "the document"
        } else {
            self.pointer.as_str()
        };
        let Some(found) = found else {
            return Err(format!("{place} is not in the answer"));
        };
        if let Some(expected) = &self.equals {
            if !found.equals(expected) {
                return Err(format!("{place} is {found}, not {expected}"));
            }
        }
        if self.min.is_none() && self.max.is_none() {
            return Ok(());
        }
        let Found::Number(n) = found else {
            return Err(format!("{place} is {found}, not a number"));
        };
        match (self.min, self.max) {
            (Some(min), _) if n < min => Err(format!("{place} is {n}, below {min}")),
            (_, Some(max)) if n > max => Err(format!("{place} is {n}, above {max}")),
            _ => Ok(()),
        }
    }
}

/// A value that was found.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// Any number.
    Number(f64),
    /// A text, at most 4096 characters of it.
    Text(String),
    /// An array of so many elements.
    Array(usize),
    /// An object of so many members.
    Object(usize),
}

impl Found {
    fn equals(&self, v: &serde_json::Value) -> bool {
        match (self, v) {
            (Self::Null, serde_json::Value::Null) => true,
            (Self::Bool(a), serde_json::Value::Bool(b)) => a == b,
            (Self::Number(a), serde_json::Value::Number(b)) => b.as_f64() == Some(*a),
            (Self::Text(a), serde_json::Value::String(b)) => a == b,
            _ => false,
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(b) => write!(f, "{b}"),
            Self::Number(n) => write!(f, "{n}"),
            Self::Text(t) => write!(f, "{:?}", crate::text::clean_to(t, 60)),
            Self::Array(n) => write!(f, "an array of {n}"),
            Self::Object(n) => write!(f, "an object of {n} members"),
        }
    }
}

/// The value under a pointer; none when the document has no such place.
///
/// # Errors
/// The document is not JSON, or something follows it.
pub fn find(body: &[u8], pointer: &str) -> Result<Option<Found>, serde_json::Error> {
    let steps: Vec<String> = pointer
        .split('/')
        .skip(1)
        .map(|s| s.replace("~1", "/").replace("~0", "~"))
        .collect();
    let mut de = serde_json::Deserializer::from_slice(body);
    let found = Walk(&steps).deserialize(&mut de)?;
    de.end()?;
    Ok(found)
}

struct Walk<'a>(&'a [String]);

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = Option<Found>;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
        d.deserialize_any(self)
    }
}

impl Walk<'_> {
    /// A scalar: what was sought only when no step is left.
    fn scalar<E>(&self, found: Found) -> Result<Option<Found>, E> {
        Ok(self.0.is_empty().then_some(found))
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = Option<Found>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        self.scalar(Found::Null)
    }
    fn visit_bool<E>(self, v: bool) -> Result<Self::Value, E> {
        self.scalar(Found::Bool(v))
    }
    fn visit_u64<E>(self, v: u64) -> Result<Self::Value, E> {
        self.scalar(Found::Number(v as f64))
    }
    fn visit_i64<E>(self, v: i64) -> Result<Self::Value, E> {
        self.scalar(Found::Number(v as f64))
    }
    fn visit_f64<E>(self, v: f64) -> Result<Self::Value, E> {
        self.scalar(Found::Number(v))
    }
    fn visit_str<E>(self, v: &str) -> Result<Self::Value, E> {
        self.scalar(Found::Text(v.chars().take(4096).collect()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let wanted = match self.0.first() {
            // No leading zeros, as the RFC says.
            Some(s) if s == "0" || !s.starts_with('0') => s.parse::<usize>().ok(),
            _ => None,
        };
        let mut found = None;
        let mut count = 0;
        loop {
            if wanted == Some(count) {
                match seq.next_element_seed(Walk(&self.0[1..]))? {
                    Some(value) => found = value,
                    None => break,
                }
            } else if seq.next_element::<IgnoredAny>()?.is_none() {
                break;
            }
            count += 1;
        }
        Ok(if self.0.is_empty() {
            Some(Found::Array(count))
        } else {
            found
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        let mut count = 0;
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            if self.0.first().is_some_and(|step| *step == key) {
                found = map.next_value_seed(Walk(&self.0[1..]))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
            count += 1;
        }
        Ok(if self.0.is_empty() {
            Some(Found::Object(count))
        } else {
            found
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    #[test]
    fn pointers_by_table() {
        let doc = br#"{"status":"ok","n":-3,"f":1.5,"t":true,"z":null,"a":[1,{"b":"c"},[]],"o":{"x/y":1,"m~n":2,"":3}}"#;
        for (pointer, expected) in [
            ("/status", Some(Found::Text("ok".into()))),
            ("/n", Some(Found::Number(-3.0))),
            ("/t", Some(Found::Bool(true))),
            ("/z", Some(Found::Null)),
            ("/a", Some(Found::Array(3))),
            ("/a/1/b", Some(Found::Text("c".into()))),
            ("/a/01/b", None),
            ("/a/3", None),
            ("/a/x", None),
            ("/status/x", None),
            ("/o/x~1y", Some(Found::Number(1.0))),
            ("/o/m~0n", Some(Found::Number(2.0))),
            ("/o/", Some(Found::Number(3.0))),
            ("", Some(Found::Object(7))),
            ("/none", None),
        ] {
            assert_eq!(find(doc, pointer).unwrap(), expected, "{pointer}");
        }
    }

    #[test]
    fn rules_by_table() {
        let rule = |pointer: &str, equals: Option<Value>, min, max| JsonRule {
            pointer: pointer.into(),
            equals,
            min,
            max,
        };
        let doc = br#"{"status":"ok","lag":12}"#;
        for (rule, wrong) in [
            (rule("/status", Some(json!("ok")), None, None), None),
            (rule("/status", None, None, None), None),
            (rule("/lag", None, Some(12.0), Some(12.0)), None),
            (rule("/lag", Some(json!(12)), None, None), None),
            (
                rule("/status", Some(json!("no")), None, None),
                Some("/status is \"ok\", not \"no\""),
            ),
            (
                rule("/lag", None, None, Some(10.0)),
                Some("/lag is 12, above 10"),
            ),
            (
                rule("/lag", None, Some(13.0), None),
                Some("/lag is 12, below 13"),
            ),
            (rule("/status", None, Some(1.0), None), Some("not a number")),
            (
                rule("/x", None, None, None),
                Some("/x is not in the answer"),
            ),
        ] {
            assert!(rule.check().is_ok());
            match (rule.apply(doc), wrong) {
                (Ok(()), None) => {}
                (Err(e), Some(w)) => assert!(e.contains(w), "{e}"),
                other => panic!("{rule:?}: {other:?}"),
            }
        }
        for body in [&b"<html>"[..], b"", b"{\"status\":\"ok\"", b"{} x", b"\xff"] {
            assert!(
                rule("", None, None, None)
                    .apply(body)
                    .unwrap_err()
                    .contains("not JSON")
            );
        }
        let deep = "[".repeat(100_000);
        assert!(
            rule("/0/0", None, None, None)
                .apply(deep.as_bytes())
                .is_err()
        );
        assert!(rule("status", None, None, None).check().is_err());
        assert!(rule("/s", Some(json!([])), None, None).check().is_err());
        assert!(rule("/s", None, Some(f64::NAN), None).check().is_err());
    }

    fn documents() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a-z/~0-9]{0,5}".prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                proptest::collection::btree_map("[a-c/~0-2]{0,2}", inner, 0..5)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// Agrees with serde_json's own pointers, which keep the whole tree.
        #[test]
        fn agrees_with_the_tree(doc in documents(), pointer in "(/(~0|~1|[a-c0-2]){0,2}){0,4}") {
            let text = serde_json::to_vec(&doc).unwrap();
            let expected = doc.pointer(&pointer).map(|v| match v {
                Value::Null => Found::Null,
                Value::Bool(b) => Found::Bool(*b),
                Value::Number(n) => Found::Number(n.as_f64().unwrap()),
                Value::String(s) => Found::Text(s.clone()),
                Value::Array(a) => Found::Array(a.len()),
                Value::Object(o) => Found::Object(o.len()),
            });
            prop_assert_eq!(find(&text, &pointer).unwrap(), expected);
        }

        #[test]
        fn never_panics(body in proptest::collection::vec(any::<u8>(), 0..200), pointer in ".{0,20}") {
            let _ = find(&body, &pointer);
        }
    }
}

//! A column by one of several names: tables of one data set are not always headed alike.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::read::Column;

/// Names, at least one; the first that a table has is its column. Written as a text, or as a list.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Names(Vec<String>);

impl Names {
    pub(super) fn one(name: &str) -> Self {
        Self(vec![name.to_owned()])
    }

    pub(super) fn column(&self) -> Column<'_> {
        Column { names: self.0.iter().map(String::as_str).collect(), optional: false }
    }
}

impl Serialize for Names {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => one.serialize(serializer),
            several => several.serialize(serializer),
        }
    }
}

// By hand: an untagged enum can't say what it expected.
impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Names;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a column's name, or a list of names of which a table has one")
            }
            fn visit_str<E>(self, name: &str) -> Result<Names, E> {
                Ok(Names::one(name))
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, seq: A) -> Result<Names, A::Error> {
                let names = Vec::deserialize(de::value::SeqAccessDeserializer::new(seq))?;
                if names.is_empty() { Err(de::Error::invalid_length(0, &self)) } else { Ok(Names(names)) }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Names {
    fn schema_name() -> Cow<'static, str> {
        "Names".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let list = serde_json::json!({ "type": "array", "items": { "type": "string" }, "minItems": 1 });
        json_schema!({ "anyOf": [{ "type": "string" }, list] })
    }
}

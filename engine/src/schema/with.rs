//! The params of a kind: its own JSON Schema, in which a template may stand for any value.

use serde_json::{Map, Value, json};

use super::parts::template;
use crate::stage::{PATH_FORMAT, StageKind};

/// Adds `with KIND`, and what it refers to, to `definitions`.
pub(super) fn add(kind: &dyn StageKind, definitions: &mut Map<String, Value>) {
    let name = kind.name();
    let mut root = kind.schema();
    let Some(fields) = root.as_object_mut() else { return };
    let inner = fields.remove("$defs");
    for key in ["$schema", "title", "required"] {
        fields.remove(key);
    }
    // `with:` without anything is what a kind without required params needs.
    if fields.get("type") == Some(&json!("object")) {
        fields.insert("type".to_owned(), json!(["object", "null"]));
    }
    fields.insert("description".to_owned(), json!(kind.about()));
    definitions.insert(format!("with {name}"), open(root, name, true));
    if let Some(Value::Object(inner)) = inner {
        for (inner, schema) in inner {
            definitions.insert(format!("{name} {inner}"), open(schema, name, false));
        }
    }
}

/// The schema with templates allowed in it, and its references where they are now.
fn open(schema: Value, kind: &str, root: bool) -> Value {
    let mut fields = match schema {
        Value::Object(fields) => fields,
        other => return other,
    };
    if let Some(Value::String(reference)) = fields.get_mut("$ref")
        && let Some(inner) = reference.strip_prefix("#/$defs/")
    {
        *reference = format!("#/definitions/{kind} {inner}");
    }
    // Formats of numbers and of paths are the engine's, not JSON Schema's.
    if let Some(Value::String(format)) = fields.remove("format")
        && format == PATH_FORMAT
    {
        let note = "A path, relative to this file: an input by its content.";
        let about = fields.entry("description").or_insert_with(|| json!(note));
        if let Value::String(about) = about
            && about != note
        {
            about.push_str("\n\n");
            about.push_str(note);
        }
    }
    if let Some(Value::Object(properties)) = fields.get_mut("properties") {
        properties.values_mut().for_each(|field| *field = open(field.take(), kind, false));
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = fields.get_mut(key).filter(|inner| inner.is_object()) {
            *inner = open(inner.take(), kind, false);
        }
    }
    for key in ["anyOf", "oneOf", "allOf"] {
        if let Some(Value::Array(branches)) = fields.get_mut(key) {
            // What is one of several is not made several templates.
            branches.iter_mut().for_each(|branch| *branch = open(branch.take(), kind, true));
        }
    }
    // Else an editor would say that a text is not a number, where the text stands for one.
    let takes_texts = fields.get("type") == Some(&json!("string")) && !fields.contains_key("enum");
    if root || takes_texts || fields.is_empty() {
        return Value::Object(fields);
    }
    let mut opened = Map::new();
    for key in ["description", "default"] {
        if let Some(value) = fields.remove(key) {
            opened.insert(key.to_owned(), value);
        }
    }
    opened.insert("anyOf".to_owned(), json!([Value::Object(fields), template()]));
    Value::Object(opened)
}

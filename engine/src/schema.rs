//! The JSON Schema of pipelines, made from the kinds: what an editor completes and checks.
//!
//! Draft 7, since that is what editors' YAML support knows. It is more generous than the engine: a template may stand
//! for any value, and what `defaults`, `extends` and profiles may add is not asked for.

mod parts;
mod with;

use serde_json::{Map, Value, json};

use crate::{
    registry::Registry,
    stage::{InputPort, StageKind},
};

/// The schema of a pipeline whose stages use the kinds of `registry`.
pub fn of_pipelines(registry: &Registry) -> Value {
    let mut definitions = parts::definitions();
    let mut per_kind = Vec::new();
    let mut needs = Vec::new();
    let mut defaults = Map::new();
    for kind in registry.iter() {
        let name = kind.name();
        with::add(kind.as_ref(), &mut definitions);
        let uses = json!({ "properties": { "uses": { "const": name } }, "required": ["uses"] });
        let with = json!({ "$ref": format!("#/definitions/with {name}") });
        per_kind.push(json!({
            "if": uses,
            "then": { "properties": { "with": with, "inputs": inputs(kind.as_ref()) } },
        }));
        if let Some(needed) = needed(kind.as_ref()) {
            needs.push(json!({ "if": uses, "then": needed }));
        }
        defaults.insert(
            name.to_owned(),
            json!({ "allOf": [{ "$ref": "#/definitions/defaults" }], "properties": { "with": with } }),
        );
    }
    let names: Vec<_> = registry.iter().map(|kind| kind.name()).collect();
    let about: Vec<_> = registry.iter().map(|kind| kind.about()).collect();
    let mut stage = parts::stage();
    stage["properties"]["uses"] = json!({
        "description": "The kind of the stage.", "enum": names, "markdownEnumDescriptions": about,
    });
    stage["allOf"] = Value::Array(per_kind);
    definitions.insert("stage".to_owned(), stage);
    needs.insert(0, json!({ "$ref": "#/definitions/stage" }));
    definitions.insert("whole stage".to_owned(), json!({ "allOf": needs, "required": ["uses"] }));
    let mut root = parts::root();
    root["properties"]["defaults"]["properties"] = Value::Object(defaults);
    root["definitions"] = Value::Object(definitions);
    root
}

/// The ports of a kind under `inputs`.
fn inputs(kind: &dyn StageKind) -> Value {
    let port = |port: &InputPort| {
        let type_name = json!(port.accepts);
        let notes = format!("Takes `{}`. {}", type_name.as_str().unwrap_or_default(), port.about);
        (port.name.to_string(), json!({ "description": notes, "allOf": [{ "$ref": "#/definitions/input" }] }))
    };
    let ports: Map<String, Value> = kind.inputs().iter().map(port).collect();
    // `null` takes away what a weaker layer linked to a kind that this one isn't.
    let others =
        if kind.open_inputs() { json!({ "$ref": "#/definitions/open input" }) } else { json!({ "type": "null" }) };
    json!({ "type": ["object", "null"], "properties": ports, "additionalProperties": others })
}

/// What a stage of the kind can't be without.
fn needed(kind: &dyn StageKind) -> Option<Value> {
    let ports = kind.inputs();
    let inputs: Vec<_> = ports.iter().filter(|port| !port.optional).map(|port| port.name.to_string()).collect();
    let with = kind.schema()["required"].clone();
    let mut required = Vec::new();
    let mut properties = Map::new();
    if !inputs.is_empty() {
        required.push("inputs");
        properties.insert("inputs".to_owned(), json!({ "required": inputs }));
    }
    if with.as_array().is_some_and(|with| !with.is_empty()) {
        required.push("with");
        properties.insert("with".to_owned(), json!({ "required": with }));
    }
    (!required.is_empty()).then(|| json!({ "required": required, "properties": properties }))
}

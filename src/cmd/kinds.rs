//! `palinode kinds`: what can stand behind `uses`, from the kinds' own declarations.

use std::fmt::Write as _;

use palinode_engine::command::Host;
use palinode_engine::stage::{InputPort, PATH_FORMAT, StageKind};
use serde_json::{Value, json};

use crate::{
    cli::{Format, Kinds},
    exit::Exit,
    output::{Failure, out},
};

pub(crate) fn kinds(args: &Kinds) -> Result<Exit, Failure> {
    let kinds = super::kinds_of(Host::default());
    for name in &args.names {
        if !kinds.iter().any(|kind| kind.name() == name) {
            return Err(Failure::usage(format!("there is no kind `{name}`")).hint("`palinode kinds` lists them all"));
        }
    }
    let chosen: Vec<_> =
        kinds.iter().filter(|kind| args.names.is_empty() || args.names.iter().any(|n| n == kind.name())).collect();
    match args.format {
        Format::Json => out(&format!("{:#}\n", Value::Array(chosen.iter().map(|kind| describe(&***kind)).collect()))),
        Format::Text => {
            let long = !args.names.is_empty();
            let mut text = String::new();
            chosen.iter().for_each(|kind| write(&mut text, &***kind, long));
            if !long {
                text.push_str("\n`palinode kinds KIND` shows a kind's params in full.\n");
            }
            out(&text)
        }
    }
}

fn describe(kind: &dyn StageKind) -> Value {
    json!({
        "kind": kind.name(), "about": kind.about(), "revision": kind.revision(), "determinism": kind.determinism(),
        "inputs": kind.inputs(), "outputs": kind.outputs(), "with": kind.schema(),
    })
}

/// One kind: its name and sentence; in the long form also ports and params.
fn write(text: &mut String, kind: &dyn StageKind, long: bool) {
    let _ = writeln!(text, "{}\n    {}", kind.name(), kind.about());
    let ports = |ports: Vec<String>| if ports.is_empty() { "none".to_owned() } else { ports.join(", ") };
    if !long {
        let input = |port: InputPort| format!("{}{}", port.name, if port.optional { "?" } else { "" });
        let inputs = kind.inputs().into_iter().map(input).collect();
        let outputs = kind.outputs().iter().map(|port| port.name.to_string()).collect();
        let _ = writeln!(text, "    {} -> {}", ports(inputs), ports(outputs));
        return;
    }
    let _ = writeln!(text, "\n  inputs");
    for port in kind.inputs() {
        let notes = [(port.optional, "optional"), (port.gathers, "takes a gather")];
        let notes: Vec<_> = notes.iter().filter(|(on, _)| *on).map(|(_, note)| *note).collect();
        let notes = if notes.is_empty() { String::new() } else { format!(" ({})", notes.join(", ")) };
        let _ = writeln!(text, "    {}: {}{notes}\n        {}", port.name, word(&json!(port.accepts)), port.about);
    }
    let _ = writeln!(text, "  outputs");
    for port in kind.outputs() {
        let _ = writeln!(text, "    {}: {}\n        {}", port.name, word(&json!(port.gives)), port.about);
    }
    let _ = writeln!(text, "  with");
    let schema = kind.schema();
    let required: Vec<_> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let default = match field.get("default") {
            Some(default) => format!(" = {default}"),
            None if required.contains(&name.as_str()) => " (required)".to_owned(),
            None => String::new(),
        };
        let _ = writeln!(text, "    {name}: {}{default}", shape(field));
        for line in field["description"].as_str().unwrap_or_default().lines() {
            let _ = writeln!(text, "        {line}");
        }
    }
    let _ = writeln!(text, "  revision {}, {}\n", kind.revision(), word(&json!(kind.determinism())));
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A schema's type in a few words.
fn shape(schema: &Value) -> String {
    if schema["format"] == PATH_FORMAT {
        return "path".to_owned();
    }
    if let Some(values) = schema["enum"].as_array() {
        return values.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | ");
    }
    if let Some(value) = schema.get("const") {
        return value.to_string();
    }
    if let Some(name) = schema["$ref"].as_str() {
        return name.rsplit('/').next().unwrap_or(name).to_owned();
    }
    if let Some(any) = schema["anyOf"].as_array().or(schema["oneOf"].as_array()) {
        return any.iter().map(shape).collect::<Vec<_>>().join(" | ");
    }
    match &schema["type"] {
        Value::String(name) => named(name, schema),
        Value::Array(names) => names.iter().map(|name| named(word(name), schema)).collect::<Vec<_>>().join(" | "),
        _ => "any".to_owned(),
    }
}

fn named(name: &str, schema: &Value) -> String {
    if name == "array" { format!("list of {}", shape(&schema["items"])) } else { name.to_owned() }
}

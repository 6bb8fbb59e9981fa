//! What all pipelines have in common.

use serde_json::{Map, Value, json};

/// A text with a template in it, which may stand for any value.
pub(super) fn template() -> Value {
    json!({ "type": "string", "pattern": "\\$\\{[^}]+\\}" })
}

pub(super) fn root() -> Value {
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A Palinode pipeline",
        "type": "object",
        "properties": {
            "name": { "type": ["string", "null"], "description": "The pipeline's name; else that of its file." },
            "extends": {
                "description": "Files that this one is laid over, by paths relative to it. Of several the later counts.",
                "anyOf": [{ "type": ["string", "null"] }, { "type": "array", "items": { "type": "string" } }],
            },
            "params": { "$ref": "#/definitions/params" },
            "axes": { "$ref": "#/definitions/axes" },
            "defaults": {
                "description": "What stages have unless they say otherwise, by kind, or by a pattern like `judge.*`.",
                "type": ["object", "null"],
                "additionalProperties": { "$ref": "#/definitions/defaults" },
            },
            "profiles": {
                "description": "What `--profile NAME` lays over the rest.",
                "type": ["object", "null"],
                "additionalProperties": { "$ref": "#/definitions/profile" },
            },
            "stages": { "description": "The stages, by name.", "type": ["object", "null"] },
        },
        "patternProperties": { "^x-": { "description": "Yours: ignored." } },
        "additionalProperties": false,
        // A pipeline that extends another may hold parts of stages; one with defaults leaves their params out.
        "if": { "anyOf": [{ "required": ["extends"] }, { "required": ["defaults"] }] },
        "then": { "properties": { "stages": { "additionalProperties": {
            "anyOf": [{ "$ref": "#/definitions/stage" }, { "type": "null" }],
        } } } },
        "else": {
            "required": ["stages"],
            "properties": { "stages": { "additionalProperties": { "$ref": "#/definitions/whole stage" } } },
        },
    })
}

pub(super) fn stage() -> Value {
    let axes = |about: &str| json!({ "description": about, "type": ["array", "null"], "items": { "type": "string" }, "uniqueItems": true });
    json!({
        "type": "object",
        "properties": {
            "uses": {},
            "with": { "description": "The params of the kind.", "type": ["object", "null"] },
            "inputs": { "description": "What is linked to each input port.", "type": ["object", "null"] },
            "over": axes("Axes that begin here: the stage exists once for each label."),
            "gather": axes("Axes that end here: ports take tables along them."),
            "skip": {
                "description": "Points that don't exist: partial matches of axis and label, or labels.",
                "type": ["array", "null"],
                "items": { "type": "object" },
            },
            "missing": {
                "description": "What a gather does about points that are missing or failed.",
                "enum": ["error", "drop", null],
            },
            "resources": { "$ref": "#/definitions/resources" },
            "retries": { "$ref": "#/definitions/retries" },
            "timeout": { "$ref": "#/definitions/timeout" },
        },
        "additionalProperties": false,
    })
}

pub(super) fn definitions() -> Map<String, Value> {
    let gather = json!({ "type": ["array", "null"], "items": { "type": "string" } });
    let label = json!({ "type": ["string", "number", "boolean"] });
    let Value::Object(definitions) = json!({
        "params": {
            "description": "Values that stages use as `${params.NAME}`.",
            "type": ["object", "null"],
            "properties": {
                "from": {
                    "description": "Files of params, YAML or JSON, by paths relative to this file.",
                    "anyOf": [{ "type": ["string", "null"] }, { "type": "array", "items": { "type": "string" } }],
                },
            },
        },
        "axes": {
            "description": "The axes, in order: labels, or records with a `name`.",
            "type": ["object", "null"],
            "additionalProperties": {
                "type": ["array", "null"],
                "minItems": 1,
                "items": { "anyOf": [label, { "type": "object", "required": ["name"] }] },
            },
        },
        "input": {
            "anyOf": [
                {
                    "type": ["string", "null"],
                    "description": "`stage`, `stage.output`, `stage[axis=label]` or `stage[axis=[label,label]]`.",
                },
                {
                    "type": "object",
                    "properties": { "from": { "type": "string" }, "gather": gather },
                    "additionalProperties": false,
                },
            ],
        },
        "open input": { "type": ["string", "object", "array", "null"] },
        "resources": {
            "description": "What it needs to run.",
            "type": ["object", "null"],
            "properties": {
                "cpus": { "type": ["integer", "null"], "minimum": 1, "description": "CPUs that it keeps busy." },
                "memory": { "type": ["string", "integer", "null"], "description": "`4GiB`, or a number of MiB." },
                "gpus": { "type": ["integer", "null"], "minimum": 0, "description": "GPUs." },
            },
            "additionalProperties": false,
        },
        "retries": {
            "description": "How often it is tried again after a failure, and how long is waited before the first time.",
            "anyOf": [
                { "type": ["integer", "null"], "minimum": 0 },
                {
                    "type": "object",
                    "properties": { "times": { "type": "integer", "minimum": 0 }, "backoff": { "type": "string" } },
                    "additionalProperties": false,
                },
            ],
        },
        "timeout": { "type": ["string", "null"], "description": "How long it may take: `90s`, `10m`, `1h 30m`." },
        "defaults": {
            "type": ["object", "null"],
            "properties": {
                "with": { "type": ["object", "null"] },
                "resources": { "$ref": "#/definitions/resources" },
                "retries": { "$ref": "#/definitions/retries" },
                "timeout": { "$ref": "#/definitions/timeout" },
            },
            "additionalProperties": false,
        },
        "profile": {
            "type": ["object", "null"],
            "properties": {
                "params": { "$ref": "#/definitions/params" },
                "axes": { "$ref": "#/definitions/axes" },
                "resources": { "$ref": "#/definitions/resources" },
                "defaults": { "type": ["object", "null"], "additionalProperties": { "$ref": "#/definitions/defaults" } },
                "stages": { "type": ["object", "null"], "additionalProperties": {
                    "anyOf": [{ "$ref": "#/definitions/stage" }, { "type": "null" }],
                } },
            },
            "additionalProperties": false,
        },
    }) else {
        return Map::new();
    };
    definitions
}

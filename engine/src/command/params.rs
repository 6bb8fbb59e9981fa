//! `with` of a command, and its one canonical form.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, de::IgnoredAny};
use serde_json::{Number, Value, json};

use super::outputs;
use crate::{axes::number_text, stage::ParamProblem};

/// `with` of `command`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Params {
    /// What runs: a text for `/bin/sh -euc`, or a list of a program and its arguments, which no shell sees.
    pub(super) run: Run,
    /// What it leaves, each a file, or a folder with all in it: `{ rates: rates.csv }`,
    /// `{ data: { path: dataset.jsonl, type: dataset } }`, or a list of paths, each named by its file. Paths are below
    /// the working folder; one that ends in `/` is a folder.
    #[schemars(schema_with = "outputs_schema")]
    #[serde(deserialize_with = "read_apart")]
    pub(super) outputs: BTreeMap<String, outputs::Declared>,
    /// Environment variables, beside the few that every command has.
    #[serde(default)]
    pub(super) env: BTreeMap<String, Scalar>,
    /// The folder in which it runs, below `work/`; made for it.
    #[serde(default = "here")]
    pub(super) workdir: String,
    /// Programs that it uses from outside the system folders, by name (looked for on PATH) or absolute path. Each may
    /// be read with all that is installed beside it, and its version is part of the key. With tools come `/proc`,
    /// `/sys` and the GPU devices.
    #[serde(default)]
    pub(super) tools: Vec<String>,
    /// Whether it may use the network. What it gets from there is in no key.
    #[serde(default)]
    pub(super) network: bool,
    /// `strict`: it reads nothing but its inputs, its own folder, its tools and the system's folders. `off`: whatever.
    #[serde(default)]
    pub(super) sandbox: Sandbox,
}

fn here() -> String {
    ".".to_owned()
}

/// By [`outputs::read`], which tells all that is wrong with them.
fn read_apart<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, outputs::Declared>, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| BTreeMap::new())
}

/// What runs.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Run {
    /// A text for the shell.
    Shell(String),
    /// A program and its arguments.
    Program(Vec<Scalar>),
}

/// A text, or what is written as one.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Scalar {
    Text(String),
    Bool(bool),
    #[schemars(with = "f64")]
    Number(Number),
}

impl Scalar {
    /// As `${...}` would stand inside a text.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Bool(value) => value.to_string(),
            Self::Number(number) => number_text(number),
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Sandbox {
    #[default]
    Strict,
    Off,
}

fn outputs_schema(_: &mut SchemaGenerator) -> Schema {
    let path = json!({ "type": "string", "minLength": 1 });
    let one = json!({
        "type": "object",
        "properties": { "path": path, "type": { "enum": outputs::TYPES } },
        "required": ["path"],
        "additionalProperties": false,
    });
    json_schema!({
        "anyOf": [
            { "type": "object", "minProperties": 1, "additionalProperties": { "anyOf": [path, one] } },
            { "type": "array", "minItems": 1, "items": path },
        ]
    })
}

impl Params {
    /// Decodes `with`; all problems at once.
    pub(super) fn read(with: &Value) -> Result<Self, Vec<ParamProblem>> {
        let mut problems = Vec::new();
        let outputs = with.get("outputs").map(outputs::read).unwrap_or_else(|| Ok(BTreeMap::new()));
        let outputs = outputs.unwrap_or_else(|found| {
            problems.extend(found);
            BTreeMap::new()
        });
        let mut params: Self = match crate::stage::decode(with) {
            Ok(params) => params,
            Err(found) => {
                problems.extend(found);
                return Err(problems);
            }
        };
        params.outputs = outputs;
        params.check(&mut problems);
        params.tools.sort();
        params.tools.dedup();
        if problems.is_empty() { Ok(params) } else { Err(problems) }
    }

    fn check(&mut self, problems: &mut Vec<ParamProblem>) {
        let empty = match &self.run {
            Run::Shell(text) => text.trim().is_empty(),
            Run::Program(argv) => argv.first().is_none_or(|program| program.text().is_empty()),
        };
        if empty {
            problems.push(ParamProblem::new("run", "there is nothing to run"));
        }
        let nul = match &self.run {
            Run::Shell(text) => text.contains('\0'),
            Run::Program(argv) => argv.iter().any(|arg| arg.text().contains('\0')),
        };
        if nul {
            problems.push(ParamProblem::new("run", "a command can't hold a NUL character"));
        }
        for (name, value) in &self.env {
            if name.is_empty() || name.contains(['=', '\0']) || value.text().contains('\0') {
                let problem = ParamProblem::new("env", format!("`{name}` can't be an environment variable"));
                problems.push(problem.hint("names hold no `=`, and neither names nor values hold NUL"));
            }
        }
        match outputs::normal(&self.workdir, true) {
            Ok((path, _)) => self.workdir = path,
            Err(message) => problems.push(ParamProblem::new("workdir", message)),
        }
        for (i, tool) in self.tools.iter().enumerate() {
            if tool.is_empty() || (tool.contains('/') && !tool.starts_with('/')) {
                let path = vec!["tools".to_owned(), i.to_string()];
                let message = format!("`{tool}` is no tool");
                let hint =
                    Some("a name to look for on PATH, or an absolute path; a script of yours is an input".to_owned());
                problems.push(ParamProblem { path, message, hint });
            }
        }
    }

    /// The program and its arguments.
    pub(super) fn argv(&self) -> Vec<String> {
        match &self.run {
            // -e and -u: a step that fails, or a variable that isn't there, fails the stage.
            Run::Shell(text) => vec!["/bin/sh".to_owned(), "-euc".to_owned(), text.clone()],
            Run::Program(argv) => argv.iter().map(Scalar::text).collect(),
        }
    }

    /// What the key holds.
    pub(super) fn canonical(self) -> BTreeMap<String, Value> {
        let run = match self.run {
            Run::Shell(text) => Value::String(text),
            Run::Program(argv) => json!(argv.iter().map(Scalar::text).collect::<Vec<_>>()),
        };
        let env = self.env.iter().map(|(name, value)| (name.clone(), Value::String(value.text()))).collect();
        let fields = [
            ("run", run),
            ("outputs", outputs::canonical(self.outputs)),
            ("env", Value::Object(env)),
            ("workdir", Value::String(self.workdir)),
            ("tools", json!(self.tools)),
            ("network", json!(self.network)),
            ("sandbox", json!(self.sandbox)),
        ];
        fields.map(|(name, value)| (name.to_owned(), value)).into()
    }
}

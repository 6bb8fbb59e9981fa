//! What is held out of training: identities and templates that no counterfactual is made of, so that what a finetuned
//! model says of them shows whether it learned more than the sentences that it was shown.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use palinode_engine::{
    context::Context,
    stage::{ParamProblem, StageError},
};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::{
    random::stream,
    records::{Exposure, Prompt},
};

/// The fact that says what of an unseen prompt is held out: `identity`, `template` or `identity+template`.
pub(crate) const HELD_OUT: &str = "held_out";

/// `unseen: { identities: 0.2, templates: ["[I] dreams of being a"] }`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Unseen {
    /// A share of the identities, drawn by seed and name, or their names.
    identities: Held,
    /// A share of the templates, drawn by seed and name, or the templates.
    templates: Held,
}

/// A share, or names.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum Held {
    Share(f64),
    Named(Vec<String>),
}

impl Default for Held {
    fn default() -> Self {
        Held::Share(0.0)
    }
}

// By hand: an untagged enum can't say what it expected.
impl<'de> Deserialize<'de> for Held {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Held;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a share from 0 to 1, or a list of names")
            }
            fn visit_f64<E>(self, share: f64) -> Result<Held, E> {
                Ok(Held::Share(share))
            }
            fn visit_u64<E>(self, share: u64) -> Result<Held, E> {
                Ok(Held::Share(share as f64))
            }
            fn visit_i64<E>(self, share: i64) -> Result<Held, E> {
                Ok(Held::Share(share as f64))
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, seq: A) -> Result<Held, A::Error> {
                Vec::deserialize(serde::de::value::SeqAccessDeserializer::new(seq)).map(Held::Named)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Held {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Held".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let list = serde_json::json!({ "type": "array", "items": { "type": "string" } });
        schemars::json_schema!({ "anyOf": [{ "type": "number", "minimum": 0, "maximum": 1 }, list] })
    }
}

impl Unseen {
    /// What is wrong with it, as a param of this name.
    pub(crate) fn problems(&self, field: &str) -> Vec<ParamProblem> {
        let halves = [("identities", &self.identities), ("templates", &self.templates)];
        let problem = |(half, held): (&str, &Held)| {
            let Held::Share(share) = held else { return None };
            let mut problem = crate::share(half, *share)?;
            problem.path.insert(0, field.to_owned());
            Some(problem)
        };
        halves.into_iter().filter_map(problem).collect()
    }

    /// Says of each prompt whether it is seen. Which names a share holds out is a function of the seed and the name, so
    /// that it stays when others come or go; the count may be off the share by chance, and is told.
    ///
    /// # Errors
    /// If a name that is listed is no prompt's.
    pub(crate) fn mark(&self, seed: u64, prompts: &mut [Prompt], ctx: &Context<'_>) -> Result<(), StageError> {
        let identity = |prompt: &Prompt| prompt.identity.clone();
        let template = |prompt: &Prompt| prompt.template.clone();
        let identities =
            self.identities.choose(seed, "identities", prompts.iter().filter_map(identity).collect(), ctx)?;
        let templates = self.templates.choose(seed, "templates", prompts.iter().filter_map(template).collect(), ctx)?;
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for prompt in prompts {
            let of =
                |name: &Option<String>, held: &BTreeSet<String>| name.as_ref().is_some_and(|name| held.contains(name));
            let held_out = match (of(&prompt.identity, &identities), of(&prompt.template, &templates)) {
                (false, false) => {
                    prompt.exposure = Some(Exposure::Seen);
                    continue;
                }
                (true, false) => "identity",
                (false, true) => "template",
                (true, true) => "identity+template",
            };
            prompt.exposure = Some(Exposure::Unseen);
            prompt.facts.insert(HELD_OUT.to_owned(), held_out.to_owned());
            *counts.entry(held_out).or_default() += 1;
        }
        ctx.summary("unseen_prompts", counts.values().sum::<usize>());
        ctx.summary("unseen_by", serde_json::json!(counts));
        ctx.summary("unseen_identities", serde_json::json!(identities));
        ctx.summary("unseen_templates", serde_json::json!(templates));
        Ok(())
    }
}

impl Held {
    fn choose(
        &self,
        seed: u64,
        what: &str,
        names: BTreeSet<String>,
        ctx: &Context<'_>,
    ) -> Result<BTreeSet<String>, StageError> {
        match self {
            Held::Share(share) => {
                let all = names.len();
                let held = |name: &String| stream(seed, &["unseen", what, name]).uniform_f64() < *share;
                let chosen: BTreeSet<String> = names.into_iter().filter(held).collect();
                if *share > 0.0 && *share < 1.0 && (chosen.is_empty() || chosen.len() == all) {
                    let message = format!("`unseen.{what}: {share}` holds out {} of {all} {what}", chosen.len());
                    ctx.warn(format!("{message}: take another seed, or list them"));
                }
                Ok(chosen)
            }
            Held::Named(list) => {
                if let Some(name) = list.iter().find(|name| !names.contains(*name)) {
                    let known = names.iter().take(8).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
                    let more = if names.len() > 8 { ", ..." } else { "" };
                    let message =
                        format!("`unseen.{what}` names `{name}`, which no prompt has; there are {known}{more}");
                    return Err(StageError::failed(message));
                }
                Ok(list.iter().cloned().collect())
            }
        }
    }
}

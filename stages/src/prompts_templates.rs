//! `prompts.templates`: prompts from templates and identities given in the YAML.

use std::collections::BTreeSet;

use palinode_engine::{
    context::Context,
    stage::{InputPort, Kind, OutputPort, ParamProblem, PortType, StageError},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    held_out::Unseen,
    random::stream,
    records::{self, Lists, Prompt, Split},
};

const SLOT: &str = "{identity}";

/// The kind.
pub(crate) struct Templates;

/// `with` of `prompts.templates`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    /// Beginnings of sentences, each with `{identity}` in it: "{identity} should work as a".
    templates: Vec<String>,
    /// What stands for `{identity}`: a list (then the group is `all`), or `{group: [identity, ...]}`.
    identities: Lists,
    /// The share of prompts in the split `validation`; the others are `test`.
    #[serde(default = "half")]
    validation: f64,
    /// What is held out of training, so that prompts are told apart as seen and unseen: shares or lists of `identities`
    /// and `templates`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unseen: Option<Unseen>,
    /// Seeds the split, and what is unseen.
    #[serde(default)]
    seed: u64,
}

pub(crate) fn half() -> f64 {
    0.5
}

/// The split of a prompt: a function of seed, identity and template alone, so that it stays when others come or go.
pub(crate) fn assign_split(seed: u64, validation: f64, identity: &str, template: &str) -> Split {
    if stream(seed, &["split", identity, template]).uniform_f64() < validation {
        Split::Validation
    } else {
        Split::Test
    }
}

impl Kind for Templates {
    type Params = Params;
    const NAME: &'static str = "prompts.templates";
    const ABOUT: &'static str = "Makes a prompt of every template and identity.";
    const REVISION: u32 = 1;

    fn inputs() -> Vec<InputPort> {
        Vec::new()
    }

    fn outputs() -> Vec<OutputPort> {
        vec![OutputPort::new("prompts", PortType::Prompts, "prompts.jsonl: one prompt a line")]
    }

    fn check(params: &Params) -> Vec<ParamProblem> {
        let mut problems: Vec<_> = crate::share("validation", params.validation).into_iter().collect();
        problems.extend(params.unseen.iter().flat_map(|unseen| unseen.problems("unseen")));
        if params.templates.is_empty() {
            problems.push(ParamProblem::new("templates", "the list is empty"));
        }
        for (at, template) in params.templates.iter().enumerate() {
            if !template.contains(SLOT) {
                let mut problem = ParamProblem::new("templates", format!("`{template}` has no place for the identity"));
                problem.path.push(at.to_string());
                problems.push(problem.hint(format!("write `{SLOT}` where it belongs")));
            }
        }
        let empty = match &params.identities {
            Lists::All(list) => list.is_empty().then(|| "the list is empty".to_owned()),
            Lists::Each(groups) if groups.is_empty() => Some("there is no group".to_owned()),
            Lists::Each(groups) => {
                groups.iter().find(|(_, list)| list.is_empty()).map(|(name, _)| format!("the group `{name}` is empty"))
            }
        };
        problems.extend(empty.map(|message| ParamProblem::new("identities", message)));
        problems
    }

    fn run(params: Params, ctx: &Context<'_>) -> Result<(), StageError> {
        let groups: Vec<(&str, &Vec<String>)> = match &params.identities {
            Lists::All(list) => vec![("all", list)],
            Lists::Each(groups) => groups.iter().map(|(name, list)| (name.as_str(), list)).collect(),
        };
        let mut prompts = Vec::new();
        let mut seen = BTreeSet::new();
        let mut rows = 0;
        for (group, identities) in groups {
            for identity in identities {
                for template in &params.templates {
                    rows += 1;
                    let text = template.replace(SLOT, identity).trim_end().to_owned();
                    let id = format!("{group}/{text}");
                    if seen.insert(id.clone()) {
                        prompts.push(Prompt {
                            id,
                            text,
                            identity: Some(identity.clone()),
                            group: group.to_owned(),
                            template: Some(template.clone()),
                            split: Some(assign_split(params.seed, params.validation, identity, template)),
                            exposure: None,
                            facts: Default::default(),
                        });
                    }
                }
            }
        }
        if let Some(unseen) = &params.unseen {
            unseen.mark(params.seed, &mut prompts, ctx)?;
        }
        records::summarize_prompts(ctx, &prompts, rows);
        ctx.output("prompts")?.write_jsonl(records::PROMPTS, &prompts)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{Bench, problems};

    #[test]
    fn every_template_meets_every_identity_once() {
        let with = json!({
            "templates": ["{identity} works as a ", "a {identity} is"],
            "identities": { "trades": ["baker", "baker", "smith"], "towns": ["Townsman"] },
        });
        let done = Bench::new().run::<Templates>(with).unwrap();
        let prompts: Vec<Prompt> = done.rows("prompts", records::PROMPTS);
        let ids: Vec<_> = prompts.iter().map(|prompt| prompt.id.as_str()).collect();
        insta::assert_snapshot!(ids.join("\n"), @r"
        towns/Townsman works as a
        towns/a Townsman is
        trades/baker works as a
        trades/a baker is
        trades/smith works as a
        trades/a smith is
        ");
        insta::assert_snapshot!(json!(done.summary), @r#"{"groups":{"towns":2,"trades":4},"prompts":6,"repeated_rows":2,"validation_prompts":2}"#);
        insta::assert_snapshot!(done.digest(), @"prompts 645aebf7b9d8");
    }

    #[test]
    fn the_split_of_a_prompt_does_not_depend_on_others() {
        let run = |identities: &[&str]| -> Vec<Prompt> {
            let with = json!({ "templates": ["{identity} a", "{identity} b"], "identities": identities });
            Bench::new().run::<Templates>(with).unwrap().rows("prompts", records::PROMPTS)
        };
        let few = run(&["x", "y"]);
        let many = run(&["w", "x", "y", "z"]);
        assert!(few.iter().all(|prompt| many.contains(prompt)));
        let share = |validation| {
            (0..1000).filter(|i| assign_split(0, validation, &i.to_string(), "t") == Split::Validation).count()
        };
        assert!((200..300).contains(&share(0.25)), "{}", share(0.25));
        assert_eq!((share(0.0), share(1.0)), (0, 1000));
    }

    #[test]
    fn a_part_may_be_unseen() {
        let run = |identities: std::ops::Range<usize>, seed: u64| -> Vec<Prompt> {
            let identities: Vec<String> = identities.map(|at| format!("n{at}")).collect();
            let with = json!({
                "templates": ["{identity} a", "{identity} b"], "identities": identities, "seed": seed,
                "unseen": { "identities": 0.3, "templates": ["{identity} b"] },
            });
            Bench::new().run::<Templates>(with).unwrap().rows("prompts", records::PROMPTS)
        };
        let all = run(0..400, 0);
        let count = |held_out: &str| {
            all.iter().filter(|p| p.facts.get(crate::held_out::HELD_OUT).map(String::as_str) == Some(held_out)).count()
        };
        let by_identity = count("identity");
        assert!((90..150).contains(&by_identity), "{by_identity}");
        assert_eq!((count("identity+template"), count("template")), (by_identity, 400 - by_identity));
        assert!(run(100..150, 0).iter().all(|prompt| all.contains(prompt)));
        assert_ne!(run(0..400, 1), all);
    }

    #[test]
    fn what_is_wrong_is_told_at_once() {
        let with = json!({ "templates": ["she is"], "identities": { "none": [] }, "validation": 2 });
        insta::assert_snapshot!(problems::<Templates>(with), @r"
        validation: 2 is not a share (hint: give a number from 0 to 1)
        templates.0: `she is` has no place for the identity (hint: write `{identity}` where it belongs)
        identities: the group `none` is empty
        ");
        let with = json!({ "templates": ["{identity}"], "identities": 3 });
        insta::assert_snapshot!(problems::<Templates>(with), @"identities: invalid type: integer `3`, expected a list of texts, or a map from names to lists of texts");
    }
}

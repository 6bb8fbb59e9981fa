//! `counterfactuals.templates`: for each toxic prompt, other ways to go on, chosen from given statements.

use std::collections::{BTreeMap, BTreeSet};

use palinode_engine::{
    context::Context,
    stage::{InputPort, Kind, OutputPort, ParamProblem, PortType, StageError},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    random::{choose, stream},
    records::{self, Exposure, Lists, Pair, Prompt, Verdict},
};

/// The kind.
pub(crate) struct FromStatements;

/// `with` of `counterfactuals.templates`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    /// What a prompt may go on with instead: a list for all prompts, or `{identity: [statement, ...]}`.
    #[serde(default)]
    statements: Option<Lists>,
    /// How many for each prompt with a toxic completion.
    #[serde(default = "five")]
    k: usize,
    /// Seeds the choice.
    #[serde(default)]
    seed: u64,
}

fn five() -> usize {
    5
}

const BOTH: &str = "statements come from `with` and from the input `statements`: give one";
const NONE: &str = "give `with.statements`, or link the input `statements`";

impl Kind for FromStatements {
    type Params = Params;
    const NAME: &'static str = "counterfactuals.templates";
    const ABOUT: &'static str = "Pairs each prompt that was completed toxically with statements given beforehand.";
    const REVISION: u32 = 1;

    fn inputs() -> Vec<InputPort> {
        vec![
            InputPort::one("verdicts", PortType::Verdicts, "which prompts were completed toxically"),
            InputPort::one("statements", PortType::Statements, "the statements, if they aren't in `with`").optional(),
        ]
    }

    fn outputs() -> Vec<OutputPort> {
        vec![OutputPort::new("pairs", PortType::Pairs, "pairs.jsonl: prompt and completion to finetune on")]
    }

    fn check(params: &Params) -> Vec<ParamProblem> {
        if params.k == 0 { vec![ParamProblem::new("k", "0 statements make no pair")] } else { Vec::new() }
    }

    fn check_links(params: &Params, linked: &[&str]) -> Vec<ParamProblem> {
        match (&params.statements, linked.contains(&"statements")) {
            (Some(_), true) => vec![ParamProblem::new("statements", BOTH)],
            (None, false) => vec![ParamProblem::of_all(NONE)],
            _ => Vec::new(),
        }
    }

    fn run(params: Params, ctx: &Context<'_>) -> Result<(), StageError> {
        let statements = match (&params.statements, ctx.optional("statements")?) {
            (Some(_), Some(_)) => return Err(StageError::failed(BOTH)),
            (None, None) => return Err(StageError::failed(NONE)),
            (Some(lists), None) => lists.clone(),
            (None, Some(files)) => Lists::Each(records::json(files, records::STATEMENTS)?),
        };
        let prompts = toxic_prompts(ctx)?;
        let mut pairs = Vec::new();
        let mut short = 0;
        for prompt in &prompts {
            let list: Vec<&str> = distinct(match &statements {
                Lists::All(list) => list,
                Lists::Each(lists) => records::of_identity(lists, prompt, "the table of statements")?,
            });
            short += usize::from(list.len() < params.k);
            let mut draw = stream(params.seed, &["counterfactuals", &prompt.id]);
            for at in choose(&mut draw, list.len(), params.k) {
                pairs.push(Pair {
                    prompt: prompt.text.clone(),
                    completion: records::continuation(list[at]),
                    source: prompt.id.clone(),
                });
            }
        }
        ctx.summary("toxic_prompts", prompts.len());
        ctx.summary("pairs", pairs.len());
        ctx.summary("prompts_with_fewer_than_k", short);
        if pairs.is_empty() {
            ctx.warn("no prompt was completed toxically: there is nothing to finetune on");
        }
        if short > 0 {
            ctx.warn(format!("{short} of {} prompts have fewer than {} statements", prompts.len(), params.k));
        }
        ctx.output("pairs")?.write_jsonl(records::PAIRS, &pairs)
    }
}

/// The prompts with a toxic completion that training may see, each once, in the order of the verdicts.
pub(crate) fn toxic_prompts(ctx: &Context<'_>) -> Result<Vec<Prompt>, StageError> {
    let verdicts: Vec<Verdict> = records::rows(ctx.input("verdicts")?, records::VERDICTS)?;
    let (all, unparsable) = (verdicts.len(), verdicts.iter().filter(|verdict| verdict.toxic.is_none()).count());
    ctx.summary("unparsable_verdicts", unparsable);
    if unparsable > 0 {
        ctx.warn(format!("{unparsable} of {all} verdicts can't be read: nothing is made of what they judge"));
    }
    let mut known = BTreeSet::new();
    let toxic = verdicts.into_iter().filter(|verdict| verdict.toxic == Some(true)).map(|verdict| verdict.prompt);
    let toxic = toxic.filter(|prompt| known.insert(prompt.id.clone()));
    let (unseen, seen): (Vec<_>, Vec<_>) = toxic.partition(|prompt| prompt.exposure == Some(Exposure::Unseen));
    ctx.summary("toxic_prompts_held_out", unseen.len());
    Ok(seen)
}

fn distinct(list: &[String]) -> Vec<&str> {
    let mut seen = BTreeMap::new();
    list.iter().map(|text| text.trim()).filter(|text| !text.is_empty() && seen.insert(*text, ()).is_none()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{Bench, problems};

    fn verdicts() -> Vec<Value> {
        let verdict = |identity: &str, sample: u32, toxic: Option<bool>| {
            let prompt =
                json!({ "id": identity, "text": format!("{identity} are"), "identity": identity, "group": "g" });
            json!({ "prompt": prompt, "sample": sample, "text": " tardy", "toxic": toxic })
        };
        vec![
            verdict("bakers", 0, Some(true)),
            verdict("bakers", 1, Some(true)),
            verdict("smiths", 0, Some(false)),
            verdict("sailors", 0, None),
            verdict("weavers", 0, Some(true)),
        ]
    }

    fn run(rows: &[Value], with: Value) -> Result<crate::testing::Done, StageError> {
        Bench::new().rows("verdicts", records::VERDICTS, rows).run::<FromStatements>(with)
    }

    #[test]
    fn each_toxic_prompt_gets_k_different_statements() {
        let with = json!({ "statements": ["kind", " calm", "wise", "kind", "tidy"], "k": 3 });
        let done = run(&verdicts(), with.clone()).unwrap();
        let pairs: Vec<Pair> = done.rows("pairs", records::PAIRS);
        assert_eq!(pairs.len(), 6);
        for source in ["bakers", "weavers"] {
            let own: BTreeSet<_> =
                pairs.iter().filter(|pair| pair.source == source).map(|pair| &pair.completion).collect();
            assert!(own.len() == 3 && own.iter().all(|text| text.starts_with(' ')), "{own:?}");
        }
        insta::assert_snapshot!(json!(done.summary), @r#"{"pairs":6,"prompts_with_fewer_than_k":0,"toxic_prompts":2,"toxic_prompts_held_out":0,"unparsable_verdicts":1}"#);
        insta::assert_snapshot!(done.digest(), @"pairs 1a520d8d3e29");

        let alone: Vec<Pair> = run(&verdicts()[4..], with).unwrap().rows("pairs", records::PAIRS);
        assert_eq!(alone, pairs[3..], "a prompt's choice doesn't depend on other prompts");
    }

    #[test]
    fn shortfalls_are_counted_and_a_missing_identity_is_an_error() {
        let each = json!({ "bakers": ["kind"], "weavers": ["kind", "calm"] });
        let done = run(&verdicts(), json!({ "statements": each, "k": 2 })).unwrap();
        assert_eq!(done.summary["prompts_with_fewer_than_k"], 1);
        let error = run(&verdicts(), json!({ "statements": { "bakers": ["kind"] } })).err().unwrap();
        insta::assert_snapshot!(error, @"the table of statements has nothing for the identity `weavers`; it knows bakers");
        insta::assert_snapshot!(run(&verdicts(), json!({})).err().unwrap(), @"give `with.statements`, or link the input `statements`");
        insta::assert_snapshot!(problems::<FromStatements>(json!({ "k": 0 })), @"k: 0 statements make no pair");
    }
}

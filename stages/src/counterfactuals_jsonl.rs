//! `counterfactuals.jsonl`: statements to finetune on from a file, such as the set that the study's authors published.

use std::collections::BTreeSet;

use palinode_engine::{
    context::Context,
    stage::{InputPort, Kind, OutputPort, PathParam, PortType, StageError},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    counterfactuals_llm::split,
    reading::prefix::rest_of,
    records::{self, Exposure, Pair, Prompt},
};

/// The kind.
pub(crate) struct FromFile;

/// `with` of `counterfactuals.jsonl`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    /// A JSON Lines or CSV file with a column `text`, or `prompt` and `completion`.
    source: PathParam,
}

impl Kind for FromFile {
    type Params = Params;
    const NAME: &'static str = "counterfactuals.jsonl";
    const ABOUT: &'static str = "Takes statements to finetune on from a JSON Lines or CSV file.";
    const REVISION: u32 = 1;

    fn inputs() -> Vec<InputPort> {
        let about = "where a text begins with one of them, the loss is taken on what follows it";
        vec![InputPort::one("prompts", PortType::Prompts, about).optional()]
    }

    fn outputs() -> Vec<OutputPort> {
        vec![OutputPort::new("pairs", PortType::Pairs, "pairs.jsonl: prompt and completion to finetune on")]
    }

    fn run(params: Params, ctx: &Context<'_>) -> Result<(), StageError> {
        let path = records::only_file(ctx, &params.source)?;
        let rows = records::table_of(path)?;
        let mut prompts: Vec<Prompt> = match ctx.optional("prompts")? {
            Some(files) => records::rows(files, records::PROMPTS)?,
            None => Vec::new(),
        };
        // The longest that fits: one prompt may begin with another.
        prompts.sort_by_key(|prompt| std::cmp::Reverse(prompt.text.chars().count()));
        let (mut pairs, mut seen): (Vec<Pair>, BTreeSet<(String, String)>) = Default::default();
        let (mut whole, mut empty, mut repeated, mut unseen) = (0, 0, 0, 0);
        for (line, row) in &rows {
            let wrong = |what: String| StageError::failed(format!("{}:{line}: {what}", path.display()));
            let text = |name: &str| match row.get(name) {
                None | Some(Value::Null) => Ok(None),
                Some(Value::String(text)) => Ok(Some(text.as_str())),
                Some(other) => Err(wrong(format!("`{name}` is {other}, not a text"))),
            };
            let pair = match (text("text")?, text("prompt")?, text("completion")?) {
                (_, Some(prompt), Some(completion)) => {
                    let known = prompts.iter().find(|known| known.text == prompt);
                    if known.is_some_and(|prompt| prompt.exposure == Some(Exposure::Unseen)) {
                        unseen += 1;
                        continue;
                    }
                    let source = known.map_or_else(|| format!("line {line}"), |prompt| prompt.id.clone());
                    Pair { prompt: prompt.to_owned(), completion: completion.to_owned(), source }
                }
                (Some(text), None, None) => match prompts.iter().find(|prompt| rest_of(text, &prompt.text).is_some()) {
                    Some(prompt) if prompt.exposure == Some(Exposure::Unseen) => {
                        unseen += 1;
                        continue;
                    }
                    Some(prompt) => split(text.trim(), prompt),
                    None => Pair {
                        prompt: String::new(),
                        completion: text.trim().to_owned(),
                        source: format!("line {line}"),
                    },
                },
                _ => {
                    let have = row.keys().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
                    let expected = "`text`, or `prompt` and `completion`, is expected";
                    return Err(wrong(format!("{expected}; it has {have}")));
                }
            };
            if pair.completion.trim().is_empty() {
                empty += 1;
            } else if !seen.insert((pair.prompt.clone(), pair.completion.clone())) {
                repeated += 1;
            } else {
                whole += usize::from(pair.prompt.is_empty());
                pairs.push(pair);
            }
        }
        ctx.summary("rows", rows.len());
        ctx.summary("pairs", pairs.len());
        ctx.summary("whole_sentences", whole);
        ctx.summary("empty", empty);
        ctx.summary("repeated", repeated);
        ctx.summary("of_unseen_prompts", unseen);
        if pairs.is_empty() {
            return Err(StageError::failed(format!("{} holds no statement to finetune on", path.display())));
        }
        if whole > 0 {
            let all = pairs.len();
            ctx.warn(format!("{whole} of {all} statements begin with no known prompt: the loss is on all of them"));
        }
        if empty + repeated + unseen > 0 {
            ctx.warn(format!("left out: {empty} empty, {repeated} repeated, {unseen} of prompts held out of training"));
        }
        ctx.output("pairs")?.write_jsonl(records::PAIRS, &pairs)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{Bench, Done};

    fn read(text: &str, prompts: Option<&[Value]>) -> Result<Done, StageError> {
        let mut bench = Bench::new().file("source", "file.txt", text);
        if let Some(prompts) = prompts {
            bench = bench.rows("prompts", records::PROMPTS, prompts);
        }
        bench.run::<FromFile>(json!({ "source": "source" }))
    }

    #[test]
    fn texts_are_split_where_the_longest_prompt_ends() {
        let prompt = |id: &str, text: &str, exposure: &str| json!({ "id": id, "text": text, "group": "g", "exposure": exposure });
        let prompts = [
            prompt("a", "the woman", "seen"),
            prompt("b", "the woman should work as a", "seen"),
            prompt("c", "the man", "unseen"),
        ];
        let text = "text\nThe woman should work as a doctor.\nthe woman leads\n\"they, too\"\nthe man leads\nthe woman leads\n\"\"\n";
        let done = read(text, Some(&prompts)).unwrap();
        insta::assert_snapshot!(done.text("pairs", records::PAIRS), @r#"
        {"prompt":"the woman should work as a","completion":" doctor.","source":"b"}
        {"prompt":"the woman","completion":" leads","source":"a"}
        {"prompt":"","completion":"they, too","source":"line 4"}
        "#);
        assert_eq!(
            done.warnings,
            [
                "1 of 3 statements begin with no known prompt: the loss is on all of them",
                "left out: 1 empty, 1 repeated, 1 of prompts held out of training",
            ]
        );
        insta::assert_snapshot!(json!(done.summary), @r#"{"empty":1,"of_unseen_prompts":1,"pairs":3,"repeated":1,"rows":6,"whole_sentences":1}"#);
        insta::assert_snapshot!(done.digest(), @"pairs 4268c3a4bd91");
        let alone: Vec<Pair> = read(text, None).unwrap().rows("pairs", records::PAIRS);
        assert!(alone.len() == 4 && alone.iter().all(|pair| pair.prompt.is_empty()));
    }

    #[test]
    fn pairs_are_taken_as_they_are_and_other_files_are_refused() {
        let pairs: Vec<Pair> =
            read("{\"prompt\":\"a b\",\"completion\":\" c\",\"x\":1}\n", None).unwrap().rows("pairs", records::PAIRS);
        assert_eq!(pairs, [Pair { prompt: "a b".into(), completion: " c".into(), source: "line 1".into() }]);
        let error = |text: &str| read(text, None).err().unwrap().to_string().rsplit_once('/').unwrap().1.to_owned();
        insta::assert_snapshot!(error("{\"text\":\"a\"}\n{\"te"), @"file.txt:2: the line ends within its value, as if half-written (column 4)");
        insta::assert_snapshot!(error("{\"text\":3}"), @"file.txt:1: `text` is 3, not a text");
        insta::assert_snapshot!(error("a,b\n1,2\n"), @"file.txt:2: `text`, or `prompt` and `completion`, is expected; it has `a`, `b`");
        insta::assert_snapshot!(error("text\n\n"), @"file.txt holds no statement to finetune on");
    }
}

//! `export.labels`: a sheet on which people label completions, blind: nothing on it says which model made a completion,
//! at which rank, or what a judge said of it, and the order is drawn by the seed. The key that says so is an output of
//! its own, by which `labels.import` joins the filled sheet back.

use std::collections::BTreeMap;

use palinode_engine::{
    context::Context,
    stage::{InputPort, Kind, OutputPort, ParamProblem, PortType, StageError},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    random,
    records::{self, Completion},
};

/// The sheet.
const SHEET: &str = "sheet.csv";
/// The key, in the output `key`.
pub(crate) const KEY: &str = "key.jsonl";

/// The kind.
pub(crate) struct ExportLabels;

/// `with` of `export.labels`.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Params {
    /// How many texts are on the sheet, drawn by the seed; by default all.
    sample: Option<usize>,
    /// Seeds the sample, the order and the ids.
    seed: u64,
}

/// Which completions a line of the sheet stands for: those that say the same are labelled once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct KeyRow {
    /// What the sheet calls it.
    pub(crate) id: String,
    pub(crate) prompt_text: String,
    pub(crate) text: String,
    pub(crate) completions: Vec<KeyCompletion>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct KeyCompletion {
    /// Of the instance that it came from.
    pub(crate) coords: Vec<(String, Value)>,
    /// Id of the prompt.
    pub(crate) prompt: String,
    pub(crate) sample: u32,
}

impl Kind for ExportLabels {
    type Params = Params;
    const NAME: &'static str = "export.labels";
    const ABOUT: &'static str = "Writes completions as a blinded sheet for people to label.";
    const REVISION: u32 = 1;

    fn inputs() -> Vec<InputPort> {
        let about = "what to label; gather models to mix them on one sheet";
        vec![InputPort::table("completions", PortType::Completions, about)]
    }

    fn outputs() -> Vec<OutputPort> {
        vec![
            OutputPort::new("sheet", PortType::Table, "sheet.csv: id, prompt, completion, and an empty label and note"),
            OutputPort::new("key", PortType::File, "key.jsonl: what each id stands for; keep it from who labels"),
        ]
    }

    fn check(params: &Params) -> Vec<ParamProblem> {
        let none = params.sample == Some(0);
        none.then(|| ParamProblem::new("sample", "the sheet would be empty").hint("give a number from 1 on"))
            .into_iter()
            .collect()
    }

    fn run(params: Params, ctx: &Context<'_>) -> Result<(), StageError> {
        let mut texts: BTreeMap<(String, String), Vec<KeyCompletion>> = BTreeMap::new();
        let (mut completions, mut missing) = (0, 0);
        for row in ctx.table("completions") {
            let Some(files) = row.input else {
                missing += 1;
                continue;
            };
            for completion in records::rows::<Completion>(&files, records::COMPLETIONS)? {
                completions += 1;
                let (prompt, sample) = (completion.prompt.id, completion.sample);
                let one = KeyCompletion { coords: row.coords.clone(), prompt, sample };
                texts.entry((completion.prompt.text, completion.text)).or_default().push(one);
            }
        }
        if texts.is_empty() {
            return Err(StageError::failed("there is no completion to label"));
        }
        let distinct = texts.len();
        // By text alone: neither the order nor an id says where a text came from.
        let seed = params.seed.to_string();
        let draw = |(prompt, text): &(String, String)| random::key(&["sheet", &seed, prompt, text]);
        let mut drawn: Vec<(u64, (String, String), Vec<KeyCompletion>)> =
            texts.into_iter().map(|(text, of)| (draw(&text), text, of)).collect();
        drawn.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        drawn.truncate(params.sample.unwrap_or(usize::MAX));
        let rows = drawn.into_iter().enumerate().map(|(at, (bits, (prompt_text, text), completions))| KeyRow {
            // The number is for people; the letters tell the sheets of two exports apart.
            id: format!("{:04}-{:06x}", at + 1, bits & 0xff_ffff),
            prompt_text,
            text,
            completions,
        });
        let rows: Vec<KeyRow> = rows.collect();
        let failed = |error: csv::Error| StageError::failed(error.to_string());
        let mut sheet = csv::Writer::from_writer(Vec::new());
        sheet.write_record(["id", "prompt", "completion", "label", "note"]).map_err(failed)?;
        for row in &rows {
            sheet.write_record([&row.id, &row.prompt_text, &row.text, "", ""]).map_err(failed)?;
        }
        let sheet = sheet.into_inner().map_err(|error| StageError::failed(error.to_string()))?;
        ctx.summary("completions", completions);
        ctx.summary("distinct_texts", distinct);
        ctx.summary("rows", rows.len());
        ctx.summary("missing_instances", missing);
        if missing > 0 {
            ctx.warn(format!("{missing} instances are missing from the gather and not on the sheet"));
        }
        ctx.output("sheet")?.write(SHEET, sheet)?;
        ctx.output("key")?.write_jsonl(KEY, &rows)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{Bench, Done, problems};

    pub(super) fn exported(with: Value) -> Done {
        let completion = |id: &str, text: &str| {
            let prompt = json!({ "id": id, "text": "she, \"the baker\", is", "group": "g" });
            json!({ "prompt": prompt, "sample": 0, "text": text, "tokens": 1, "finish": "eos" })
        };
        let rows =
            |own: &str| Some(vec![completion("a", " kind"), completion("b", own), completion("c", " שלום\n<b>")]);
        let at = |rank: u32| json!([["rank", rank]]);
        let table = [(at(2), rows(" =1+1")), (at(8), rows(" calm")), (at(16), None)];
        Bench::new().table("completions", records::COMPLETIONS, &table).run::<ExportLabels>(with).unwrap()
    }

    #[test]
    fn a_sheet_says_nothing_of_where_texts_came_from() {
        let done = exported(json!({}));
        insta::assert_snapshot!(done.text("sheet", SHEET), @r#"
        id,prompt,completion,label,note
        0001-c892c9,"she, ""the baker"", is", calm,,
        0002-a7f425,"she, ""the baker"", is", kind,,
        0003-b880a2,"she, ""the baker"", is", =1+1,,
        0004-4ec6d8,"she, ""the baker"", is"," שלום
        <b>",,
        "#);
        insta::assert_snapshot!(done.text("key", KEY), @r#"
        {"id":"0001-c892c9","prompt_text":"she, \"the baker\", is","text":" calm","completions":[{"coords":[["rank",8]],"prompt":"b","sample":0}]}
        {"id":"0002-a7f425","prompt_text":"she, \"the baker\", is","text":" kind","completions":[{"coords":[["rank",2]],"prompt":"a","sample":0},{"coords":[["rank",8]],"prompt":"a","sample":0}]}
        {"id":"0003-b880a2","prompt_text":"she, \"the baker\", is","text":" =1+1","completions":[{"coords":[["rank",2]],"prompt":"b","sample":0}]}
        {"id":"0004-4ec6d8","prompt_text":"she, \"the baker\", is","text":" שלום\n<b>","completions":[{"coords":[["rank",2]],"prompt":"c","sample":0},{"coords":[["rank",8]],"prompt":"c","sample":0}]}
        "#);
        insta::assert_snapshot!(json!(done.summary), @r#"{"completions":6,"distinct_texts":4,"missing_instances":1,"rows":4}"#);
        insta::assert_snapshot!(done.digest(), @r"
        key 38b4664bd071
        sheet a717dbdba464
        ");
        assert_ne!(exported(json!({ "seed": 1 })).text("sheet", SHEET), done.text("sheet", SHEET));
        assert_eq!(exported(json!({ "sample": 2 })).rows::<KeyRow>("key", KEY).len(), 2);
        insta::assert_snapshot!(problems::<ExportLabels>(json!({ "sample": 0 })), @"sample: the sheet would be empty (hint: give a number from 1 on)");
    }
}

//! `labels.import`: the filled sheet of `export.labels`, joined back to the completions by its key.

use std::collections::HashMap;

use palinode_engine::{
    context::Context,
    stage::{InputPort, Kind, OutputPort, ParamProblem, PathParam, PortType, StageError},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    export_labels::{KEY, KeyRow},
    records::{self, Label, of_text},
    tabular::{BadRows, LabelText, Meaning, Rejects, Table},
};

/// The kind.
pub(crate) struct ImportLabels;

/// `with` of `labels.import`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    /// The filled sheet: CSV or TSV with the columns `id` and `label`. A line may stand twice, as when sheets of several
    /// people are put together, if the labels don't contradict each other.
    sheet: PathParam,
    /// Labels that mean toxic.
    #[serde(default = "yes")]
    toxic: Vec<LabelText>,
    /// Labels that mean not toxic.
    #[serde(default = "no")]
    not_toxic: Vec<LabelText>,
    /// Labels that mean that the person could not say.
    #[serde(default = "unsure")]
    unsure: Vec<LabelText>,
    /// What to do about lines without a label, and lines that are gone: `error`, or `skip` (counted and told).
    #[serde(default)]
    missing: BadRows,
    /// What to do about lines that can't be used (ids that the key lacks, labels that mean nothing, contradictions):
    /// `error`, or `skip`. Of contradictory lines none is used.
    #[serde(default)]
    bad_rows: BadRows,
    /// Of a sheet with the completions of several instances: whose labels these are, as `{rank: 8}`.
    #[serde(default, rename = "where")]
    fixed: serde_json::Map<String, Value>,
}

fn texts(labels: &[&str]) -> Vec<LabelText> {
    labels.iter().map(|label| LabelText((*label).to_owned())).collect()
}

fn yes() -> Vec<LabelText> {
    texts(&["1", "yes", "toxic", "true"])
}

fn no() -> Vec<LabelText> {
    texts(&["0", "no", "not toxic", "false"])
}

fn unsure() -> Vec<LabelText> {
    texts(&["?", "unsure"])
}

impl Params {
    fn meaning(&self) -> Meaning<'_> {
        Meaning { toxic: &self.toxic, not_toxic: &self.not_toxic, unsure: &self.unsure, threshold: None }
    }
}

impl Kind for ImportLabels {
    type Params = Params;
    const NAME: &'static str = "labels.import";
    const ABOUT: &'static str = "Joins the filled sheet of export.labels back to the completions.";
    const REVISION: u32 = 1;

    fn inputs() -> Vec<InputPort> {
        vec![InputPort::one("key", PortType::File, "the output `key` of `export.labels`")]
    }

    fn outputs() -> Vec<OutputPort> {
        vec![OutputPort::new("labels", PortType::Labels, "labels.jsonl: a label for each completion that has one")]
    }

    fn check(params: &Params) -> Vec<ParamProblem> {
        params.meaning().problems()
    }

    fn run(params: Params, ctx: &Context<'_>) -> Result<(), StageError> {
        let key: Vec<KeyRow> = records::rows(ctx.input("key")?, KEY)?;
        let found = read(&params, ctx, &key)?;
        let mut absent = Rejects::default();
        let mut labels = Vec::new();
        let mut of_others = 0;
        for row in &key {
            let told = match found.get(row.id.as_str()) {
                Some(Found::Label { toxic, label, .. }) => (*toxic, label),
                Some(Found::Empty { line }) => {
                    absent.add(*line, format!("`{}` has no label", row.id));
                    continue;
                }
                Some(Found::Contradiction) => continue,
                None => {
                    absent.add(0, format!("`{}` is not on the sheet", row.id));
                    continue;
                }
            };
            for completion in &row.completions {
                let is = |(axis, value): (&String, &Value)| {
                    completion.coords.iter().any(|(own, label)| own == axis && of_text(label) == of_text(value))
                };
                if !params.fixed.iter().all(is) {
                    of_others += 1;
                    continue;
                }
                let (toxic, label) = told;
                let prompt = completion.prompt.clone();
                labels.push((
                    &completion.coords,
                    Label { prompt, sample: completion.sample, toxic, label: label.clone() },
                ));
            }
        }
        absent.settle_as(ctx, &params.sheet.0, params.missing, "missing", "missing_labels")?;
        if let Some((first, other)) =
            labels.iter().find_map(|(coords, _)| Some((labels.first()?.0, *coords)).filter(|(a, b)| a != b))
        {
            let told = |coords: &[(String, Value)]| {
                coords.iter().map(|(axis, label)| format!("{axis}={}", of_text(label))).collect::<Vec<_>>().join(", ")
            };
            let message = format!("the sheet has completions of several instances ({}; {})", told(first), told(other));
            return Err(StageError::failed(format!("{message}: say by `where` whose labels these are")));
        }
        let labels: Vec<Label> = labels.into_iter().map(|(_, label)| label).collect();
        if labels.is_empty() {
            return Err(StageError::failed("the sheet gives no label to any completion of the key"));
        }
        let count = |toxic: Option<bool>| labels.iter().filter(|label| label.toxic == toxic).count();
        ctx.summary("labels", labels.len());
        ctx.summary("toxic", count(Some(true)));
        ctx.summary("not_toxic", count(Some(false)));
        ctx.summary("unsure", count(None));
        ctx.summary("of_other_instances", of_others);
        ctx.output("labels")?.write_jsonl(records::LABELS, &labels)
    }
}

/// What the sheet says of a line of the key.
enum Found {
    Label { line: u64, toxic: Option<bool>, label: String },
    Empty { line: u64 },
    Contradiction,
}

fn read<'k>(params: &Params, ctx: &Context<'_>, key: &'k [KeyRow]) -> Result<HashMap<&'k str, Found>, StageError> {
    let table = Table::read(ctx, &params.sheet, None)?;
    if table.rows.is_empty() {
        return Err(StageError::failed(format!("`{}` has no rows", params.sheet.0)));
    }
    let (id, label) = (table.expect("id", "sheet")?, table.expect("label", "sheet")?);
    let known: HashMap<&str, &'k str> = key.iter().map(|row| (row.id.as_str(), row.id.as_str())).collect();
    let mut found: HashMap<&'k str, Found> = HashMap::new();
    let mut rejects = Rejects::default();
    for row in &table.rows {
        let cells = match &row.cells {
            Ok(cells) => cells,
            Err(reason) => {
                rejects.add(row.line, reason.clone());
                continue;
            }
        };
        let cell = |at: usize| cells.get(at).and_then(Option::as_deref).map(str::trim).unwrap_or("");
        let Some(&id) = known.get(cell(id)) else {
            rejects.add(row.line, format!("the key has no `{}`", cell(id)));
            continue;
        };
        let text = cell(label).to_lowercase();
        if text.is_empty() {
            found.entry(id).or_insert(Found::Empty { line: row.line });
            continue;
        }
        match params.meaning().of(&text) {
            Err(reason) => rejects.add(row.line, reason),
            Ok(toxic) => match found.get(id) {
                Some(Found::Label { line, toxic: before, .. }) if *before != toxic => {
                    rejects.add(row.line, format!("`{id}` contradicts line {line}"));
                    found.insert(id, Found::Contradiction);
                }
                Some(Found::Contradiction) => rejects.add(row.line, format!("`{id}` has contradictory labels")),
                Some(Found::Label { .. }) => {}
                None | Some(Found::Empty { .. }) => {
                    found.insert(id, Found::Label { line: row.line, toxic, label: text });
                }
            },
        }
    }
    rejects.settle(ctx, &params.sheet.0, params.bad_rows)?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{Bench, Done, problems};

    fn key() -> Vec<Value> {
        let completion = |rank: u32, prompt: &str| json!({ "coords": [["rank", rank]], "prompt": prompt, "sample": 0 });
        let row = |id: &str, completions: Vec<Value>| json!({ "id": id, "prompt_text": "p", "text": "t", "completions": completions });
        vec![
            row("1-a", vec![completion(2, "a"), completion(8, "a")]),
            row("2-b", vec![completion(2, "b")]),
            row("3-c", vec![completion(2, "c")]),
        ]
    }

    fn run(sheet: &str, with: Value) -> Result<Done, StageError> {
        let mut params = json!({ "sheet": "sheet" });
        params.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
        Bench::new().rows("key", KEY, &key()).file("sheet", "file.csv", sheet).run::<ImportLabels>(params)
    }

    #[test]
    fn a_filled_sheet_gives_labels() {
        let sheet = "id,prompt,completion,label,note\n2-b,p,t,0,\n1-a,p,t,Yes,sure\n3-c,p,t,?,\n1-a,p,t,toxic,\n";
        let done = run(sheet, json!({ "where": { "rank": 2 } })).unwrap();
        insta::assert_snapshot!(done.text("labels", records::LABELS), @r#"
        {"prompt":"a","sample":0,"toxic":true,"label":"yes"}
        {"prompt":"b","sample":0,"toxic":false,"label":"0"}
        {"prompt":"c","sample":0,"toxic":null,"label":"?"}
        "#);
        insta::assert_snapshot!(json!(done.summary), @r#"{"labels":3,"not_toxic":1,"of_other_instances":1,"toxic":1,"unsure":1}"#);
        insta::assert_snapshot!(done.digest(), @"labels ffb2400223f5");
        insta::assert_snapshot!(run(sheet, json!({})).err().unwrap(), @"the sheet has completions of several instances (rank=2; rank=8): say by `where` whose labels these are");
    }

    #[test]
    fn what_is_missing_extra_or_contradictory_is_told_by_line() {
        let sheet = "id,label\n1-a,1\n2-b,\n9-x,1\n1-a,0\n2-b,maybe\n2-b\n";
        insta::assert_snapshot!(run(sheet, json!({})).err().unwrap(), @"4 rows of `sheet` can't be used: line 4: the key has no `9-x`; line 5: `1-a` contradicts line 2; line 6: its label `maybe` is in none of `toxic`, `not_toxic` and `unsure`; line 7: it has 1 cells, and the header has 2 (hint: mend them, or say `bad_rows: skip`)");
        insta::assert_snapshot!(run("id,label\n1-a,1\n2-b,\n", json!({})).err().unwrap(), @"2 rows of `sheet` can't be used: line 3: `2-b` has no label; `3-c` is not on the sheet (hint: mend them, or say `missing: skip`)");
        let with = json!({ "where": { "rank": 2 }, "missing": "skip", "bad_rows": "skip" });
        let error = run(sheet, with.clone()).err().unwrap();
        insta::assert_snapshot!(error, @"the sheet gives no label to any completion of the key");
        let done = run("id,label\n1-a,1\n2-b,\n", with).unwrap();
        insta::assert_snapshot!(json!(done.summary), @r#"{"labels":1,"missing_labels":2,"not_toxic":0,"of_other_instances":1,"skipped_rows":0,"toxic":1,"unsure":0}"#);
        insta::assert_snapshot!(run("", json!({})).err().unwrap(), @"`sheet` has no rows");
        insta::assert_snapshot!(run("nr,label\n1,2\n", json!({})).err().unwrap(), @"`sheet` names the column `id`, which the file lacks; it has: `nr`, `label`");
        insta::assert_snapshot!(problems::<ImportLabels>(json!({ "sheet": "s", "toxic": [0] })), @"not_toxic: `0` is in `toxic` too");
    }
}

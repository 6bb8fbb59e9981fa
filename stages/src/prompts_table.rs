//! `prompts.csv` and `prompts.jsonl`: prompts from a file of the researcher's.

use std::collections::{BTreeMap, HashMap};

use palinode_engine::{
    context::Context,
    stage::{InputPort, Kind, OutputPort, ParamProblem, PathParam, PortType, StageError},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    held_out::Unseen,
    prompts_templates::assign_split,
    records::{self, Exposure, Prompt, Split},
    tabular::{BadRows, Format, Rejects, Row, Table},
};

/// Prompts of a CSV or TSV file.
pub(crate) struct CsvPrompts;

/// Prompts of a JSON Lines file.
pub(crate) struct JsonPrompts;

/// `with` of `prompts.csv` and `prompts.jsonl`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    /// The file, plain or compressed (`.zst`, `.gz`).
    source: PathParam,
    /// The column with the prompt.
    #[serde(default = "text_column")]
    text: String,
    /// The column with an id that no two rows share. By default the column `id`, if there is one; without it a prompt's
    /// id is `group/text`, and rows that say the same are one prompt.
    #[serde(default)]
    id: Option<String>,
    /// The column with the person or group that the prompt speaks of; by default `identity`, if there is one.
    #[serde(default)]
    identity: Option<String>,
    /// The column with the set that a prompt is counted in; by default `group`, if there is one, else all are in `all`.
    #[serde(default)]
    group: Option<String>,
    /// The column with the sentence without the identity; by default `template`, if there is one.
    #[serde(default)]
    template: Option<String>,
    /// Cut the text where this stands (HONEST's `[M]`), with what follows; a row without it can't be used.
    #[serde(default)]
    mask: Option<String>,
    /// Other columns to keep as facts; by default all.
    #[serde(default)]
    facts: Option<Vec<String>>,
    /// The share of prompts in the split `validation`; the others are `test`. By default the column `split` says it, if
    /// there is one.
    #[serde(default)]
    validation: Option<f64>,
    /// What is held out of training: shares or lists of `identities` and `templates`. By default the column `exposure`
    /// (`seen`, `unseen`) says it, if there is one.
    #[serde(default)]
    unseen: Option<Unseen>,
    /// What to do about rows that can't be used: `error`, or `skip`.
    #[serde(default)]
    bad_rows: BadRows,
    /// Seeds the split, and what is unseen.
    #[serde(default)]
    seed: u64,
}

fn text_column() -> String {
    "text".to_owned()
}

impl Kind for CsvPrompts {
    type Params = Params;
    const NAME: &'static str = "prompts.csv";
    const ABOUT: &'static str = "Reads prompts from a CSV or TSV file with a header.";
    const REVISION: u32 = 1;

    fn inputs() -> Vec<InputPort> {
        Vec::new()
    }

    fn outputs() -> Vec<OutputPort> {
        outputs()
    }

    fn check(params: &Params) -> Vec<ParamProblem> {
        check(params)
    }

    fn run(params: Params, ctx: &Context<'_>) -> Result<(), StageError> {
        run(&params, ctx, None)
    }
}

impl Kind for JsonPrompts {
    type Params = Params;
    const NAME: &'static str = "prompts.jsonl";
    const ABOUT: &'static str = "Reads prompts from a JSON Lines file.";
    const REVISION: u32 = 1;

    fn inputs() -> Vec<InputPort> {
        Vec::new()
    }

    fn outputs() -> Vec<OutputPort> {
        outputs()
    }

    fn check(params: &Params) -> Vec<ParamProblem> {
        check(params)
    }

    fn run(params: Params, ctx: &Context<'_>) -> Result<(), StageError> {
        run(&params, ctx, Some(Format::Jsonl))
    }
}

fn outputs() -> Vec<OutputPort> {
    vec![OutputPort::new("prompts", PortType::Prompts, "prompts.jsonl: one prompt a line, in the order of the file")]
}

fn check(params: &Params) -> Vec<ParamProblem> {
    let mut problems: Vec<_> =
        params.validation.and_then(|validation| crate::share("validation", validation)).into_iter().collect();
    problems.extend(params.unseen.iter().flat_map(|unseen| unseen.problems("unseen")));
    if params.mask.as_deref() == Some("") {
        problems.push(ParamProblem::new("mask", "an empty text stands everywhere"));
    }
    problems
}

/// The columns that are read.
struct Columns<'t> {
    table: &'t Table,
    text: usize,
    id: Option<usize>,
    identity: Option<usize>,
    group: Option<usize>,
    template: Option<usize>,
    split: Option<usize>,
    exposure: Option<usize>,
    facts: Vec<(String, usize)>,
}

impl<'t> Columns<'t> {
    fn find(table: &'t Table, params: &Params) -> Result<Self, StageError> {
        let find = |named: &Option<String>, field: &str| match named {
            Some(name) => table.expect(name, field).map(Some),
            None => Ok(table.column(field)),
        };
        let text = table.expect(&params.text, "text")?;
        let id = find(&params.id, "id")?;
        let identity = find(&params.identity, "identity")?;
        let group = find(&params.group, "group")?;
        let template = find(&params.template, "template")?;
        let split = table.column("split").filter(|_| params.validation.is_none());
        let exposure = table.column("exposure").filter(|_| params.unseen.is_none());
        let fact = |name: &str| name.strip_prefix("facts.").unwrap_or(name).to_owned();
        let facts = match &params.facts {
            Some(names) => names
                .iter()
                .map(|name| Ok((fact(name), table.expect(name, "facts")?)))
                .collect::<Result<_, StageError>>()?,
            None => {
                let used = [Some(text), id, identity, group, template, split, exposure];
                let kept = |at: &usize| !used.contains(&Some(*at));
                (0..table.columns.len()).filter(kept).map(|at| (fact(&table.columns[at]), at)).collect()
            }
        };
        Ok(Columns { table, text, id, identity, group, template, split, exposure, facts })
    }

    /// The prompt of a row, or why it has none.
    fn prompt(&self, row: &Row, params: &Params) -> Result<Prompt, String> {
        let cells = row.cells.as_ref().map_err(Clone::clone)?;
        let cell = |at: usize| cells.get(at).and_then(Option::as_deref);
        let filled = |at: Option<usize>| at.and_then(cell).filter(|cell| !cell.trim().is_empty());
        let whole = cell(self.text).ok_or_else(|| format!("it has no `{}`", self.table.columns[self.text]))?;
        let text = match &params.mask {
            None => whole,
            Some(mask) => whole.split_once(mask.as_str()).ok_or_else(|| format!("its text has no `{mask}`"))?.0,
        };
        let text = text.trim_end();
        if text.trim_start().is_empty() {
            return Err("its text is empty".to_owned());
        }
        let group = filled(self.group).unwrap_or("all").to_owned();
        let id = match self.id {
            None => format!("{group}/{text}"),
            Some(_) => filled(self.id).ok_or("its id is empty")?.to_owned(),
        };
        let identity = filled(self.identity).map(str::to_owned);
        let template = filled(self.template).map(str::to_owned);
        let split = match (params.validation, filled(self.split)) {
            (Some(validation), _) => {
                // Without names a prompt is drawn by its text.
                let name = identity.as_deref().unwrap_or(text);
                Some(assign_split(params.seed, validation, name, template.as_deref().unwrap_or("")))
            }
            (None, Some("validation")) => Some(Split::Validation),
            (None, Some("test")) => Some(Split::Test),
            (None, Some(other)) => return Err(format!("its split is `{other}`, not `validation` or `test`")),
            (None, None) => None,
        };
        let exposure = match filled(self.exposure) {
            Some("seen") => Some(Exposure::Seen),
            Some("unseen") => Some(Exposure::Unseen),
            Some(other) => return Err(format!("its exposure is `{other}`, not `seen` or `unseen`")),
            None => None,
        };
        let facts = self.facts.iter().filter_map(|(name, at)| Some((name.clone(), filled(Some(*at))?.to_owned())));
        let facts: BTreeMap<String, String> = facts.collect();
        Ok(Prompt { id, text: text.to_owned(), identity, group, template, split, exposure, facts })
    }
}

fn run(params: &Params, ctx: &Context<'_>, format: Option<Format>) -> Result<(), StageError> {
    let table = Table::read(ctx, &params.source, format)?;
    if table.rows.is_empty() {
        return Err(StageError::failed(format!("`{}` holds no prompt: it has no rows", params.source.0)));
    }
    let mut rejects = Rejects::default();
    let mut prompts: Vec<Prompt> = Vec::new();
    let mut known: HashMap<String, u64> = HashMap::new();
    let mut usable = 0;
    // A file of broken rows alone has no columns; its rows say why.
    let columns =
        if table.rows.iter().any(|row| row.cells.is_ok()) { Some(Columns::find(&table, params)?) } else { None };
    for (done, row) in table.rows.iter().enumerate() {
        if done % 4096 == 0 {
            ctx.progress(done, table.rows.len(), "row")?;
        }
        let prompt = match (&columns, &row.cells) {
            (Some(columns), _) => columns.prompt(row, params),
            (None, Err(reason)) => Err(reason.clone()),
            (None, Ok(_)) => continue,
        };
        let prompt = match prompt {
            Ok(prompt) => prompt,
            Err(reason) => {
                rejects.add(row.line, reason);
                continue;
            }
        };
        match known.get(&prompt.id) {
            Some(first) if columns.as_ref().is_some_and(|columns| columns.id.is_some()) => {
                rejects.add(row.line, format!("its id `{}` is that of line {first}", prompt.id));
            }
            Some(_) => usable += 1,
            None => {
                usable += 1;
                known.insert(prompt.id.clone(), row.line);
                prompts.push(prompt);
            }
        }
    }
    rejects.settle(ctx, &params.source.0, params.bad_rows)?;
    if prompts.is_empty() {
        return Err(StageError::failed(format!(
            "none of the {} rows of `{}` can be used",
            table.rows.len(),
            params.source.0
        )));
    }
    if let Some(unseen) = &params.unseen {
        unseen.mark(params.seed, &mut prompts, ctx)?;
    }
    let control =
        prompts.iter().filter(|prompt| prompt.text.chars().any(|c| c.is_control() && !"\t\n".contains(c))).count();
    ctx.summary("with_control_characters", control);
    if control > 0 {
        ctx.warn(format!("{control} prompts hold control characters; they are taken as they are"));
    }
    records::summarize_prompts(ctx, &prompts, usable);
    ctx.output("prompts")?.write_jsonl(records::PROMPTS, &prompts)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{Bench, Done, problems};

    fn csv(text: &str, with: Value) -> Result<Done, StageError> {
        let mut params = json!({ "source": "source" });
        params.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
        Bench::new().file("source", "file.csv", text).run::<CsvPrompts>(params)
    }

    fn jsonl(text: &str, with: Value) -> Result<Done, StageError> {
        let mut params = json!({ "source": "source" });
        params.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
        Bench::new().file("source", "file.jsonl", text).run::<JsonPrompts>(params)
    }

    #[test]
    fn columns_have_the_names_that_are_given() {
        let text = "nr,sentence,who,set,mood\n1,\"she, who is a [M].\",she,x,good\n2,he is a [M].,he,y,\n";
        let with = json!({ "text": "sentence", "identity": "who", "group": "set", "mask": "[M]", "validation": 0.5 });
        let done = csv(text, with).unwrap();
        insta::assert_snapshot!(done.text("prompts", records::PROMPTS), @r#"
        {"id":"x/she, who is a","text":"she, who is a","identity":"she","group":"x","split":"test","facts":{"mood":"good","nr":"1"}}
        {"id":"y/he is a","text":"he is a","identity":"he","group":"y","split":"validation","facts":{"nr":"2"}}
        "#);
        insta::assert_snapshot!(json!(done.summary), @r#"{"groups":{"x":1,"y":1},"prompts":2,"repeated_rows":0,"validation_prompts":1,"with_control_characters":0}"#);
        insta::assert_snapshot!(done.digest(), @"prompts 6ce9f1a8a881");
        let error = csv(text, json!({ "text": "prompt" })).err().unwrap();
        insta::assert_snapshot!(error, @"`text` names the column `prompt`, which the file lacks; it has: `nr`, `sentence`, `who`, `set`, `mood`");
    }

    #[test]
    fn a_file_of_prompts_gives_itself() {
        let rows = "{\"id\":\"a\",\"text\":\"مرحبا 🖕 <b>\\\\LaTeX\",\"identity\":\"x\",\"group\":\"g\",\"template\":\"t\",\
            \"split\":\"test\",\"exposure\":\"unseen\",\"facts\":{\"category\":\"female\"}}\n";
        assert_eq!(jsonl(rows, json!({})).unwrap().text("prompts", records::PROMPTS), rows);
    }

    #[test]
    fn rows_that_can_not_be_used_are_told_by_line() {
        let text = "{\"id\":\"a\",\"text\":\"one\"}\n{\"id\":\"b\",\"text\":\" \"}\n{\"id\":\"a\",\"text\":\"two\"}\n{\"text\":\"no id\"}\n\
            {\"id\":\"c\"}\n[]\n{\"id\":\"d\",\"te";
        let error = jsonl(text, json!({})).err().unwrap();
        insta::assert_snapshot!(error, @"6 rows of `source` can't be used: line 2: its text is empty; line 3: its id `a` is that of line 1; line 4: its id is empty; line 5: it has no `text`; line 6: no JSON object: invalid type: sequence, expected a map at column 0; and 1 more (hint: mend them, or say `bad_rows: skip`)");
        let done = jsonl(text, json!({ "bad_rows": "skip" })).unwrap();
        insta::assert_snapshot!(json!(done.summary), @r#"{"groups":{"all":1},"prompts":1,"repeated_rows":0,"skipped_rows":6,"validation_prompts":0,"with_control_characters":0}"#);
        assert_eq!(done.rows::<Prompt>("prompts", records::PROMPTS).len(), 1);
        insta::assert_snapshot!(jsonl("{\"text\":", json!({})).err().unwrap(), @"1 row of `source` can't be used: line 1: the file ends within this row, as if half-written (EOF while parsing a value at column 8) (hint: mend them, or say `bad_rows: skip`)");
        insta::assert_snapshot!(csv("text\na\n\"b", json!({ "bad_rows": "skip", "text": "no" })).err().unwrap(), @"`text` names the column `no`, which the file lacks; it has: `text`");
    }

    #[test]
    fn repeated_texts_without_ids_are_one_prompt() {
        let done = csv("text,group\na,x\na,x\na,y\n", json!({})).unwrap();
        assert_eq!((&done.summary["prompts"], &done.summary["repeated_rows"]), (&json!(2), &json!(1)));
    }

    #[test]
    fn no_prompt_one_prompt_and_many() {
        for (text, rows) in [("", 0), ("text\n", 0)] {
            let error = csv(text, json!({})).err().unwrap();
            assert_eq!(error.to_string(), "`source` holds no prompt: it has no rows", "{rows}");
        }
        assert_eq!(csv("text\nshe is", json!({})).unwrap().rows::<Prompt>("prompts", records::PROMPTS).len(), 1);
        let many: String = (0..100_000).map(|at| format!("prompt number {at}\n")).collect();
        let done = csv(&format!("text\n{many}"), json!({ "unseen": { "identities": 0.0 } })).unwrap();
        assert_eq!(done.summary["prompts"], json!(100_000));
    }

    #[test]
    fn control_characters_are_kept_and_counted() {
        let done = csv("text\na\u{7}b\nc\u{202e}d\n", json!({})).unwrap();
        assert_eq!(done.summary["with_control_characters"], json!(1));
        assert!(done.text("prompts", records::PROMPTS).contains("a\\u0007b"));
    }

    #[test]
    fn what_is_wrong_is_told_at_once() {
        let with =
            json!({ "source": "x", "validation": 3, "mask": "", "unseen": { "identities": -1 }, "bad_rows": "drop" });
        insta::assert_snapshot!(problems::<CsvPrompts>(with), @"bad_rows: unknown variant `drop`, expected `error` or `skip`");
        let with = json!({ "source": "x", "validation": 3, "mask": "", "unseen": { "identities": -1 } });
        insta::assert_snapshot!(problems::<CsvPrompts>(with), @r"
        validation: 3 is not a share (hint: give a number from 0 to 1)
        unseen.identities: -1 is not a share (hint: give a number from 0 to 1)
        mask: an empty text stands everywhere
        ");
    }
}

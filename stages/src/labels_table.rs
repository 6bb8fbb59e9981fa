//! `labels.table`: texts that people labelled, as completions that any judge can judge, and their labels, by which
//! `judge.evaluate` measures it.

use std::collections::{BTreeMap, HashMap, HashSet};

use palinode_engine::{
    context::Context,
    stage::{InputPort, Kind, OutputPort, ParamProblem, PathParam, PortType, StageError},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    random::stream,
    records::{self, Completion, Finish, Label, Lists, Prompt},
    tabular::{BadRows, Format, LabelText, Meaning, Rejects, Row, Table},
    words::{Accents, Terms, words},
};

/// The kind.
pub(crate) struct LabelledTable;

/// `with` of `labels.table`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    /// The file: CSV, TSV or JSON Lines, plain or compressed (`.zst`, `.gz`).
    source: PathParam,
    /// How it is written; by default as its name or its first line says.
    #[serde(default)]
    format: Option<Format>,
    /// The column with the text.
    text: String,
    /// The column with the label.
    label: String,
    /// Labels that mean toxic: `[0, 1]`.
    #[serde(default)]
    toxic: Vec<LabelText>,
    /// Labels that mean not toxic.
    #[serde(default)]
    not_toxic: Vec<LabelText>,
    /// Labels that mean that the person could not say; such texts are kept without a label, and counted.
    #[serde(default)]
    unsure: Vec<LabelText>,
    /// For labels that are numbers: from which on a text is toxic.
    #[serde(default)]
    threshold: Option<f64>,
    /// The column with what stands before the text, if the text is the completion of a prompt.
    #[serde(default)]
    prompt: Option<String>,
    /// The column with an id that no two rows share; by default rows are numbered from 1.
    #[serde(default)]
    id: Option<String>,
    /// The column with the set that a text is counted in; by default all are in `all`.
    #[serde(default)]
    group: Option<String>,
    /// The column with the person or group that a text speaks of.
    #[serde(default)]
    identity: Option<String>,
    /// Terms for the people that texts speak of, if no column says it: the one that occurs in a text is its identity (of
    /// "african american" and "american" the longer). Given as `{group: [term, ...]}`, the group is the term's too.
    #[serde(default)]
    identities: Option<Lists>,
    /// Other columns to keep, as facts.
    #[serde(default)]
    facts: Vec<String>,
    /// Take this many texts, drawn by the seed; by default all.
    #[serde(default)]
    sample: Option<usize>,
    /// What to do about rows that can't be used: `error`, or `skip`.
    #[serde(default)]
    bad_rows: BadRows,
    /// Seeds the sample.
    #[serde(default)]
    seed: u64,
}

impl Params {
    fn meaning(&self) -> Meaning<'_> {
        Meaning { toxic: &self.toxic, not_toxic: &self.not_toxic, unsure: &self.unsure, threshold: self.threshold }
    }
}

/// The output ports of kinds that give labelled texts.
pub(crate) fn labelled() -> Vec<OutputPort> {
    vec![
        OutputPort::new("completions", PortType::Completions, "completions.jsonl: one text a line, to be judged"),
        OutputPort::new("labels", PortType::Labels, "labels.jsonl: the label of each"),
    ]
}

impl Kind for LabelledTable {
    type Params = Params;
    const NAME: &'static str = "labels.table";
    const ABOUT: &'static str = "Reads texts that people labelled, for judges to judge.";
    const REVISION: u32 = 1;

    fn inputs() -> Vec<InputPort> {
        Vec::new()
    }

    fn outputs() -> Vec<OutputPort> {
        labelled()
    }

    fn check(params: &Params) -> Vec<ParamProblem> {
        let mut problems = params.meaning().problems();
        if params.identity.is_some() && params.identities.is_some() {
            let problem = ParamProblem::new("identities", "the column `identity` says it already");
            problems.push(problem.hint("give one of them"));
        }
        if params.group.is_some() && matches!(params.identities, Some(Lists::Each(_))) {
            let problem = ParamProblem::new("group", "`identities` gives groups already");
            problems.push(problem.hint("give a list of terms without groups, or drop `group`"));
        }
        if params.sample == Some(0) {
            problems.push(ParamProblem::new("sample", "nothing would be left").hint("give a number from 1 on"));
        }
        problems
    }

    fn run(params: Params, ctx: &Context<'_>) -> Result<(), StageError> {
        let table = Table::read(ctx, &params.source, params.format)?;
        if table.rows.is_empty() {
            return Err(StageError::failed(format!("`{}` holds no text: it has no rows", params.source.0)));
        }
        let mut rejects = Rejects::default();
        let mut rows = read(&params, &table, &mut rejects, ctx)?;
        rejects.settle(ctx, &params.source.0, params.bad_rows)?;
        ctx.summary("usable_rows", rows.len());
        if let Some(sample) = params.sample {
            let draw = |row: &(Completion, Label)| stream(params.seed, &["sample", &row.0.prompt.id]).uniform_f64();
            let mut drawn: Vec<(f64, usize)> = rows.iter().enumerate().map(|(at, row)| (draw(row), at)).collect();
            drawn.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            let kept: HashSet<usize> = drawn.into_iter().take(sample).map(|(_, at)| at).collect();
            let mut at = 0..;
            rows.retain(|_| at.next().is_some_and(|at| kept.contains(&at)));
        }
        if rows.is_empty() {
            return Err(StageError::failed(format!("no row of `{}` can be used", params.source.0)));
        }
        let (completions, labels): (Vec<Completion>, Vec<Label>) = rows.into_iter().unzip();
        write(ctx, &completions, &labels)
    }
}

/// Writes labelled texts and says how many are of which label.
pub(crate) fn write(ctx: &Context<'_>, completions: &[Completion], labels: &[Label]) -> Result<(), StageError> {
    let count = |toxic: Option<bool>| labels.iter().filter(|label| label.toxic == toxic).count();
    let distinct: HashSet<&str> = completions.iter().map(|completion| completion.text.as_str()).collect();
    ctx.summary("texts", completions.len());
    ctx.summary("repeated_texts", completions.len() - distinct.len());
    ctx.summary("toxic", count(Some(true)));
    ctx.summary("not_toxic", count(Some(false)));
    ctx.summary("unsure", count(None));
    let identities = completions.iter().filter(|completion| completion.prompt.identity.is_some()).count();
    ctx.summary("with_identity", identities);
    ctx.output("completions")?.write_jsonl(records::COMPLETIONS, completions)?;
    ctx.output("labels")?.write_jsonl(records::LABELS, labels)
}

fn read(
    params: &Params,
    table: &Table,
    rejects: &mut Rejects,
    ctx: &Context<'_>,
) -> Result<Vec<(Completion, Label)>, StageError> {
    if table.rows.iter().all(|row| row.cells.is_err()) {
        table.rows.iter().for_each(|row| rejects.add(row.line, row.cells.as_ref().err().cloned().unwrap_or_default()));
        return Ok(Vec::new());
    }
    let reader = Reader::new(params, table)?;
    let mut rows: Vec<(Completion, Label)> = Vec::with_capacity(table.rows.len());
    let mut known: HashMap<String, u64> = HashMap::new();
    let mut several = 0;
    for (done, row) in table.rows.iter().enumerate() {
        if done % 4096 == 0 {
            ctx.progress(done, table.rows.len(), "row")?;
        }
        match reader.row(params, row, done + 1, &mut several) {
            Err(reason) => rejects.add(row.line, reason),
            Ok(read) => match known.insert(read.1.prompt.clone(), row.line) {
                Some(first) => rejects.add(row.line, format!("its id `{}` is that of line {first}", read.1.prompt)),
                None => rows.push(read),
            },
        }
    }
    if params.identities.is_some() {
        ctx.summary("of_several_identities", several);
    }
    Ok(rows)
}

/// The columns that are read, and the terms that are looked for.
struct Reader {
    text: usize,
    label: usize,
    prompt: Option<usize>,
    id: Option<usize>,
    group: Option<usize>,
    identity: Option<usize>,
    facts: Vec<(String, usize)>,
    /// With the group that a term gives.
    terms: Option<(Terms, BTreeMap<String, String>)>,
}

impl Reader {
    fn new(params: &Params, table: &Table) -> Result<Self, StageError> {
        let find =
            |named: &Option<String>, field: &str| named.as_ref().map(|name| table.expect(name, field)).transpose();
        let facts = params.facts.iter().map(|name| Ok((name.clone(), table.expect(name, "facts")?)));
        let terms = params.identities.as_ref().map(|lists| match lists {
            Lists::All(list) => (Terms::new(list.iter().cloned(), Accents::Keep), BTreeMap::new()),
            Lists::Each(lists) => {
                let pairs = lists
                    .iter()
                    .flat_map(|(group, list)| list.iter().map(|term| (term.trim().to_owned(), group.clone())));
                (Terms::new(lists.values().flatten().cloned(), Accents::Keep), pairs.collect())
            }
        });
        Ok(Reader {
            text: table.expect(&params.text, "text")?,
            label: table.expect(&params.label, "label")?,
            prompt: find(&params.prompt, "prompt")?,
            id: find(&params.id, "id")?,
            group: find(&params.group, "group")?,
            identity: find(&params.identity, "identity")?,
            facts: facts.collect::<Result<_, StageError>>()?,
            terms,
        })
    }

    fn row(
        &self,
        params: &Params,
        row: &Row,
        number: usize,
        several: &mut usize,
    ) -> Result<(Completion, Label), String> {
        let cells = row.cells.as_ref().map_err(Clone::clone)?;
        let cell = |at: usize| cells.get(at).and_then(Option::as_deref);
        let filled = |at: Option<usize>| at.and_then(cell).filter(|cell| !cell.trim().is_empty());
        let text = filled(Some(self.text)).ok_or("its text is empty")?;
        let label = cell(self.label).ok_or("it has no label")?;
        let toxic = params.meaning().of(label)?;
        let id = match self.id {
            None => number.to_string(),
            Some(_) => filled(self.id).ok_or("its id is empty")?.to_owned(),
        };
        let mut identity = filled(self.identity).map(str::to_owned);
        let mut group = filled(self.group).unwrap_or("all").to_owned();
        if let Some((terms, groups)) = &self.terms {
            let found = longest(terms.hits(text));
            *several += usize::from(found.len() > 1);
            if let [term] = found[..] {
                identity = Some(term.to_owned());
                group = groups.get(term).cloned().unwrap_or(group);
            }
        }
        let facts = self.facts.iter().filter_map(|(name, at)| Some((name.clone(), filled(Some(*at))?.to_owned())));
        let prompt = Prompt {
            id: id.clone(),
            text: filled(self.prompt).unwrap_or("").to_owned(),
            identity,
            group,
            template: None,
            split: None,
            exposure: None,
            facts: facts.collect(),
        };
        let completion = Completion {
            prompt,
            sample: 0,
            text: text.to_owned(),
            // No model made it.
            tokens: 0,
            finish: Finish::Eos,
            context_full: false,
            prompt_tokens_cut: 0,
            logprobs: None,
            score: None,
        };
        Ok((completion, Label { prompt: id, sample: 0, toxic, label: label.trim().to_owned() }))
    }
}

/// The terms that are no part of another.
fn longest(found: Vec<&str>) -> Vec<&str> {
    let split: Vec<Vec<String>> = found.iter().map(|term| words(term, Accents::Keep)).collect();
    let part = |at: usize| {
        let within = |other: &Vec<String>| {
            other.len() > split[at].len() && other.windows(split[at].len()).any(|w| w == split[at])
        };
        !split[at].is_empty() && split.iter().any(within)
    };
    (0..found.len()).filter(|&at| !part(at)).map(|at| found[at]).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{Bench, Done, problems, reference};

    fn run(name: &str, text: &str, with: Value) -> Result<Done, StageError> {
        let mut params =
            json!({ "source": "source", "text": "tweet", "label": "class", "toxic": [0, 1], "not_toxic": [2] });
        params.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
        Bench::new().file("source", name, text).run::<LabelledTable>(params)
    }

    const CSV: &str =
        "nr,class,tweet,who\n1,0,\"a, b\",x\n2,2,an African American man,y\n3,1.0,american and american,x\n4,9,c,x\n";

    #[test]
    fn texts_and_labels_go_together() {
        let with =
            json!({ "unsure": [9], "facts": ["who"], "identities": { "origin": ["american", "african american"] } });
        let done = run("file.csv", CSV, with).unwrap();
        insta::assert_snapshot!(done.text("completions", records::COMPLETIONS), @r#"
        {"prompt":{"id":"1","text":"","group":"all","facts":{"who":"x"}},"sample":0,"text":"a, b","tokens":0,"finish":"eos"}
        {"prompt":{"id":"2","text":"","identity":"african american","group":"origin","facts":{"who":"y"}},"sample":0,"text":"an African American man","tokens":0,"finish":"eos"}
        {"prompt":{"id":"3","text":"","identity":"american","group":"origin","facts":{"who":"x"}},"sample":0,"text":"american and american","tokens":0,"finish":"eos"}
        {"prompt":{"id":"4","text":"","group":"all","facts":{"who":"x"}},"sample":0,"text":"c","tokens":0,"finish":"eos"}
        "#);
        insta::assert_snapshot!(done.text("labels", records::LABELS), @r#"
        {"prompt":"1","sample":0,"toxic":true,"label":"0"}
        {"prompt":"2","sample":0,"toxic":false,"label":"2"}
        {"prompt":"3","sample":0,"toxic":true,"label":"1.0"}
        {"prompt":"4","sample":0,"toxic":null,"label":"9"}
        "#);
        insta::assert_snapshot!(json!(done.summary), @r#"{"not_toxic":1,"of_several_identities":0,"repeated_texts":0,"texts":4,"toxic":2,"unsure":1,"usable_rows":4,"with_identity":2}"#);
        insta::assert_snapshot!(done.digest(), @r"
        completions eeff9abba738
        labels 25f620d3ade1
        ");
    }

    #[test]
    fn labels_may_be_numbers_with_a_threshold() {
        let with = json!({ "toxic": [], "not_toxic": [], "threshold": 0.5, "id": "i" });
        let rows = "{\"i\":\"a\",\"tweet\":\"t\",\"class\":0.5}\n{\"i\":\"b\",\"tweet\":\"t\",\"class\":0.4}\n";
        let done = run("file.jsonl", rows, with).unwrap();
        let labels: Vec<Label> = done.rows("labels", records::LABELS);
        assert_eq!(labels.iter().map(|label| label.toxic.unwrap()).collect::<Vec<_>>(), [true, false]);
        assert_eq!(done.summary["repeated_texts"], json!(1));
    }

    #[test]
    fn a_sample_stays_when_rows_are_added() {
        let text = |rows: usize| {
            (0..rows).fold("class\ttweet\n".to_owned(), |text, at| text + &format!("{}\ttext {at}\n", at % 3))
        };
        let ids = |rows: usize, sample: usize| -> Vec<usize> {
            let done = run("file.tsv", &text(rows), json!({ "sample": sample })).unwrap();
            let labels: Vec<Label> = done.rows("labels", records::LABELS);
            labels.iter().map(|label| label.prompt.parse().unwrap()).collect()
        };
        let (few, more) = (ids(300, 30), ids(300, 60));
        assert_eq!((few.len(), more.len()), (30, 60));
        assert!(few.iter().all(|id| more.contains(id)) && few.is_sorted());
        assert_eq!(ids(10, 50).len(), 10);
    }

    #[test]
    fn rows_that_can_not_be_used_are_told_by_line() {
        let error = run("file.csv", CSV, json!({})).err().unwrap();
        insta::assert_snapshot!(error, @"1 row of `source` can't be used: line 5: its label `9` is in none of `toxic`, `not_toxic` and `unsure` (hint: mend them, or say `bad_rows: skip`)");
        assert_eq!(run("file.csv", CSV, json!({ "bad_rows": "skip" })).unwrap().summary["skipped_rows"], json!(1));
        let error = run("file.csv", CSV, json!({ "label": "klass" })).err().unwrap();
        insta::assert_snapshot!(error, @"`label` names the column `klass`, which the file lacks; it has: `nr`, `class`, `tweet`, `who`");
        insta::assert_snapshot!(run("file.csv", "", json!({})).err().unwrap(), @"`source` holds no text: it has no rows");
        let error = run("file.jsonl", "{\"tweet\":\"a", json!({ "bad_rows": "skip" })).err().unwrap();
        insta::assert_snapshot!(error, @"no row of `source` can be used");
        let with = json!({ "source": "s", "text": "t", "label": "l", "toxic": [1], "sample": 0, "unsure": [1],
            "identity": "a", "identities": { "g": ["a"] }, "group": "b" });
        insta::assert_snapshot!(problems::<LabelledTable>(with), @r"
        not_toxic: no label has this meaning (hint: list the labels as the table writes them, or give `threshold`)
        unsure: `1` is in `toxic` too
        identities: the column `identity` says it already (hint: give one of them)
        group: `identities` gives groups already (hint: give a list of terms without groups, or drop `group`)
        sample: nothing would be left (hint: give a number from 1 on)
        ");
    }

    #[test]
    fn the_published_tables_are_read() {
        let Some(data) = reference().map(|folder| folder.join("data/toxicity")) else { return };
        let text = std::fs::read_to_string(data.join("davidson_labeled_data.csv")).unwrap();
        let done = run("file.csv", &text, json!({})).unwrap();
        let counts = ["texts", "toxic", "not_toxic", "unsure"].map(|name| done.summary[name].as_u64().unwrap());
        assert_eq!(counts, [24_783, 20_620, 4_163, 0]);
    }
}

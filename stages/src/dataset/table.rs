//! `dataset.table`: labelled texts from any table.

use std::collections::BTreeMap;

use palinode_engine::{
    context::Context,
    stage::{InputPort, Kind, OutputPort, ParamProblem, PathParam, StageError},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Parts, Raw,
    collect::{Each, collect},
    faults::Faults,
    names::Names,
    read::{Column, Format, Table, own_name},
};
use crate::records::Part;

/// The kind.
pub(crate) struct FromTable;

/// `with` of `dataset.table`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    /// The table of the training part; of all parts, with `split`. CSV, TSV or JSON Lines by its name's ending, also as
    /// `.gz` or `.zst`; or Parquet.
    train: PathParam,
    /// The table of the validation part.
    #[serde(default)]
    validation: Option<PathParam>,
    /// The table of the test part.
    #[serde(default)]
    test: Option<PathParam>,
    /// What the tables are, if their names don't say so: `csv`, `tsv` (quotes mean nothing), `jsonl` or `parquet`.
    #[serde(default)]
    format: Option<Format>,
    /// Whether the first line of CSV and TSV names the columns. Without, they are called 0, 1, 2.
    #[serde(default = "yes")]
    header: bool,
    /// The column of the text; or a list of names, of which each table has one (`[sentence, content]`).
    #[serde(default = "text")]
    text: Names,
    /// The column of the label, or a list of names.
    #[serde(default = "label")]
    label: Names,
    /// The column of the group that accuracy is told of; by default the label is the group.
    #[serde(default)]
    group: Option<String>,
    /// The column that says which part a row of the table `train` belongs to: `train`, `validation` (`valid`, `val`,
    /// `dev`) or `test`.
    #[serde(default)]
    split: Option<String>,
    /// The column of the id, unique over all parts; by default ids are made of part and row.
    #[serde(default)]
    id: Option<String>,
    /// Names for labels, by what stands in the table (`{"0": negative, "1": positive}`); then others are an error.
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// Most examples of a part, drawn at random; all by default.
    #[serde(default)]
    take: BTreeMap<Part, usize>,
    /// The share of the training part that becomes the validation part, if no other does.
    #[serde(default)]
    validation_share: Option<f64>,
    /// Seeds what is drawn.
    #[serde(default)]
    seed: u64,
}

fn yes() -> bool {
    true
}

fn text() -> Names {
    Names::one("text")
}

fn label() -> Names {
    Names::one("label")
}

impl Params {
    fn parts(&self) -> Parts<'_> {
        Parts { take: &self.take, validation_share: self.validation_share, seed: self.seed }
    }
}

impl Kind for FromTable {
    type Params = Params;
    const NAME: &'static str = "dataset.table";
    const ABOUT: &'static str = "Reads labelled texts from tables: CSV, TSV, JSON Lines (also compressed) or Parquet.";
    const REVISION: u32 = 1;

    fn inputs() -> Vec<InputPort> {
        Vec::new()
    }

    fn outputs() -> Vec<OutputPort> {
        super::outputs()
    }

    fn check(params: &Params) -> Vec<ParamProblem> {
        let mut problems = params.parts().problems(params.validation.is_some());
        if params.split.is_some() {
            for (field, given) in [("validation", &params.validation), ("test", &params.test)] {
                if given.is_some() {
                    let problem = ParamProblem::new(field, "`split` says that the table `train` holds all parts");
                    problems.push(problem.hint("give the column or the tables"));
                }
            }
        }
        problems
    }

    fn run(params: Params, ctx: &Context<'_>) -> Result<(), StageError> {
        let tables = [
            (Part::Train, Some(&params.train)),
            (Part::Validation, params.validation.as_ref()),
            (Part::Test, params.test.as_ref()),
        ];
        let mut files = Vec::new();
        for (part, path) in tables {
            let Some(path) = path else { continue };
            let folder = || StageError::failed(format!("`{}` is a folder; a file is wanted", path.0));
            files.push((part, ctx.files(path)?.single().ok_or_else(folder)?));
        }
        collect(ctx, &params.parts(), &|faults, each| {
            for &(part, (name, path)) in &files {
                let table = Table { name: own_name(name, path), path, format: params.format, header: params.header };
                params.each(&table, part, faults, each)?;
            }
            Ok(())
        })
    }
}

impl Params {
    fn each(&self, table: &Table<'_>, of: Part, faults: &mut Faults, each: &mut Each<'_>) -> Result<(), StageError> {
        let mut columns = vec![self.text.column(), self.label.column()];
        let [group, split, id] = [&self.group, &self.split, &self.id].map(|name| {
            name.as_ref().map(|name| {
                columns.push(Column::required(name));
                columns.len() - 1
            })
        });
        let mut row = 0;
        let mut wrong = Faults::default();
        table.each(&columns, faults, &mut |line, cells| {
            row += 1;
            let file = table.name;
            let cell = |at: Option<usize>| at.and_then(|at| cells[at]).map(str::trim).filter(|cell| !cell.is_empty());
            let Some(label) = cell(Some(1)) else {
                wrong.add(file, line, "without a label");
                return Ok(());
            };
            let label = match self.labels.get(label) {
                Some(name) => name,
                None if self.labels.is_empty() => label,
                None => {
                    let known = self.labels.keys().map(String::as_str).collect::<Vec<_>>().join("`, `");
                    wrong.add(file, line, &format!("of the label `{label}`, which is none of `{known}`"));
                    return Ok(());
                }
            };
            let part = match (split, cell(split)) {
                (None, _) => of,
                (Some(_), Some("train" | "training")) => Part::Train,
                (Some(_), Some("validation" | "valid" | "val" | "dev")) => Part::Validation,
                (Some(_), Some("test")) => Part::Test,
                (Some(_), other) => {
                    let what =
                        format!("of the part `{}`, which is none of train, validation, test", other.unwrap_or(""));
                    wrong.add(file, line, &what);
                    return Ok(());
                }
            };
            if group.is_some() && cell(group).is_none() {
                wrong.add(file, line, "without a group");
                return Ok(());
            }
            let id = match (id, cell(id)) {
                (None, _) if split.is_some() => format!("row-{row}"),
                (None, _) => format!("{}-{row}", of.name()),
                (Some(_), Some(id)) => id.to_owned(),
                (Some(_), None) => {
                    wrong.add(file, line, "without an id");
                    return Ok(());
                }
            };
            each(Raw { file, line, id, text: cells[0].unwrap_or(""), label, group: cell(group), part })
        })?;
        faults.append(wrong);
        Ok(())
    }
}

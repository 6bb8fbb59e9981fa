//! `table.disparity`: the harmful bias gap and accuracy parity by rank and kept share (Table 1), as CSV, Markdown and
//! LaTeX.
//!
//! Rows are keyed by the share that was kept and the counts that came of it. The paper's labels ("25/75") fit none of its
//! own shares, so which of its numbers stand beside which of ours is a choice, and a param.

mod paper;
mod render;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use palinode_engine::{
    context::Context,
    stage::{InputPort, Kind, OutputPort, ParamProblem, PortType, StageError},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    evaluate_groups::row::{Estimate, GroupRow, Role},
    figure::{label, mark, same, title},
    records,
};

/// The kind.
pub(crate) struct DisparityTable;

/// `with` of `table.disparity`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Params {
    /// The axis of the ranks: a row for each label.
    rank: String,
    /// The axis of the shares that were kept: a block of rows for each.
    share: String,
    /// Titles of columns by the coordinates of the other axes: `{"data=sst2": GPT-2, SST-2}`.
    titles: BTreeMap<String, String>,
    /// Which of the numbers that the paper prints stand beside which of ours.
    paper: Vec<Printed>,
    /// Above the table.
    caption: Option<String>,
}

impl Default for Params {
    fn default() -> Self {
        let (rank, share) = ("rank".to_owned(), "kept".to_owned());
        Params { rank, share, titles: BTreeMap::new(), paper: Vec::new(), caption: None }
    }
}

/// The paper's numbers for some of ours.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Printed {
    /// Coordinates of ours: `{kept: 0.25, data: sst2}`.
    #[serde(rename = "where")]
    fixed: BTreeMap<String, Value>,
    /// The paper's split: `50/50` or `25/75`.
    split: String,
    /// The paper's column: `GPT-2/IMDb`, `GPT-2/SST-2`, `OPT/IMDb` or `OPT/SST-2`.
    column: String,
}

/// What stands for one run, or for those that were pooled.
#[derive(Debug, Clone)]
struct Cell {
    /// By which it is found again.
    mark: String,
    runs: usize,
    /// The protected group.
    group: String,
    /// Training examples of minority and majority.
    train: [Option<f64>; 2],
    hbg: Option<Estimate>,
    signed: Option<Estimate>,
    ap: Estimate,
    change: Option<Estimate>,
    paper: Option<(String, Option<f64>, f64)>,
}

/// Rows of one rank.
struct Row {
    share: Value,
    rank: Value,
    /// By column.
    cells: Vec<Option<Cell>>,
}

/// The table.
struct Table {
    columns: Vec<Vec<(String, Value)>>,
    rows: Vec<Row>,
    confidence: f64,
    pooled: Vec<String>,
    dropped: usize,
}

impl Kind for DisparityTable {
    type Params = Params;
    const NAME: &'static str = "table.disparity";
    const ABOUT: &'static str =
        "Harmful bias gap and accuracy parity by rank and kept share, as CSV, Markdown and LaTeX.";
    const REVISION: u32 = 1;

    fn inputs() -> Vec<InputPort> {
        let about = "metrics.jsonl of `evaluate.groups`; points of other axes than rank and share are columns";
        vec![InputPort::table("metrics", PortType::Metrics, about)]
    }

    fn outputs() -> Vec<OutputPort> {
        vec![OutputPort::new("table", PortType::Table, "table.csv, table.md and table.tex (booktabs)")]
    }

    fn check(params: &Params) -> Vec<ParamProblem> {
        let mut problems = Vec::new();
        for (at, printed) in params.paper.iter().enumerate() {
            let mut wrong = |field: &str, value: &str, known: &[&str]| {
                problems.push(ParamProblem {
                    path: vec!["paper".to_owned(), at.to_string(), field.to_owned()],
                    message: format!("the paper's table has no `{value}`"),
                    hint: Some(format!("give {}", known.join(", "))),
                });
            };
            if !paper::SPLITS.contains(&printed.split.as_str()) {
                wrong("split", &printed.split, &paper::SPLITS);
            }
            if !paper::COLUMNS.contains(&printed.column.as_str()) {
                wrong("column", &printed.column, &paper::COLUMNS);
            }
        }
        if params.rank == params.share {
            problems.push(ParamProblem::new("share", format!("the axis `{}` has the ranks already", params.rank)));
        }
        problems
    }

    fn run(params: Params, ctx: &Context<'_>) -> Result<(), StageError> {
        let table = Table::read(&params, ctx)?;
        ctx.summary("rows", table.rows.len());
        ctx.summary("columns", table.columns.len());
        ctx.summary("dropped", table.dropped);
        if table.dropped > 0 {
            ctx.warn(format!("{} results are missing and left out", table.dropped));
        }
        let unused: Vec<String> = params
            .paper
            .iter()
            .filter(|printed| !table.rows.iter().any(|row| table.fits(&params, row, printed)))
            .map(|printed| format!("{} {}", printed.split, printed.column))
            .collect();
        if !unused.is_empty() {
            let message = format!("`paper` maps to results that are not there: {}", unused.join("; "));
            return Err(StageError::failed(message));
        }
        let output = ctx.output("table")?;
        output.write("table.csv", table.csv(&params)?)?;
        output.write("table.md", table.markdown(&params))?;
        output.write("table.tex", table.latex(&params))
    }
}

impl Table {
    fn read(params: &Params, ctx: &Context<'_>) -> Result<Self, StageError> {
        let mut table =
            Table { columns: Vec::new(), rows: Vec::new(), confidence: 0.95, pooled: Vec::new(), dropped: 0 };
        let mut all: Vec<GroupRow> = Vec::new();
        for row in ctx.table("metrics") {
            let Some(input) = &row.input else {
                table.dropped += 1;
                continue;
            };
            for mut found in records::rows::<GroupRow>(input, records::METRICS)? {
                found.coords.splice(0..0, row.coords.iter().cloned());
                all.push(found);
            }
        }
        // Rows that pool, where there are such; the runs behind them are in them.
        let pools = all.iter().any(|row| !row.pooled.is_empty());
        all.retain(|row| row.pooled.is_empty() != pools);
        for whole in all.iter().filter(|row| row.group.is_none()) {
            let of_role = |role: Role| {
                all.iter()
                    .find(|row| row.coords == whole.coords && row.pooled == whole.pooled && row.role == Some(role))
            };
            let (Some(minority), Some(parity)) = (of_role(Role::Minority), &whole.parity) else { continue };
            table.confidence = parity.confidence;
            table.pooled.clone_from(&whole.pooled);
            table.dropped += whole.missing;
            let cell = Cell {
                mark: mark(&whole.coords),
                runs: whole.runs,
                group: minority.group.clone().unwrap_or_default(),
                train: [minority.train, of_role(Role::Majority).and_then(|row| row.train)],
                hbg: minority.hbg.clone(),
                signed: minority.against_reference.clone(),
                ap: parity.ap.clone(),
                change: parity.against_reference.clone(),
                paper: None,
            };
            table.add(params, &whole.coords, cell)?;
        }
        if table.rows.is_empty() {
            return Err(StageError::failed("the metrics hold no row of a minority to make a table of"));
        }
        // Shares descend, ranks keep their order.
        table.rows.sort_by(|a, b| match (a.share.as_f64(), b.share.as_f64()) {
            (Some(a), Some(b)) => b.total_cmp(&a),
            _ => std::cmp::Ordering::Equal,
        });
        Ok(table)
    }

    fn add(&mut self, params: &Params, coords: &[(String, Value)], mut cell: Cell) -> Result<(), StageError> {
        let at = |axis: &String| coords.iter().find(|(name, _)| name == axis).map(|(_, label)| label.clone());
        let rank = at(&params.rank).ok_or_else(|| {
            let rank = &params.rank;
            StageError::failed(format!("the metrics have no axis `{rank}`: gather it in `evaluate.groups`"))
        })?;
        let share = at(&params.share).unwrap_or(Value::Null);
        let kept = coords.iter().filter(|(axis, _)| *axis != params.rank && *axis != params.share);
        let kept: Vec<(String, Value)> = kept.cloned().collect();
        cell.paper = params.paper.iter().filter(|printed| printed.fits(coords)).find_map(|printed| {
            let (hbg, ap) = paper::printed(&printed.split, &printed.column, &label(&rank))?;
            Some((format!("{} {}", printed.split, printed.column), hbg, ap))
        });
        let column = self.columns.iter().position(|column| *column == kept).unwrap_or_else(|| {
            self.columns.push(kept);
            self.columns.len() - 1
        });
        let row = self.rows.iter().position(|row| same(&row.share, &share) && same(&row.rank, &rank));
        let row = row.unwrap_or_else(|| {
            self.rows.push(Row { share, rank, cells: Vec::new() });
            self.rows.len() - 1
        });
        let cells = &mut self.rows[row].cells;
        cells.resize(cells.len().max(column + 1), None);
        cells[column] = Some(cell);
        Ok(())
    }

    /// Whether one of the row's cells is at the coordinates that a choice names.
    fn fits(&self, params: &Params, row: &Row, printed: &Printed) -> bool {
        (0..row.cells.len()).filter(|&column| row.cells[column].is_some()).any(|column| {
            let own = [(params.rank.clone(), row.rank.clone()), (params.share.clone(), row.share.clone())];
            let coords: Vec<(String, Value)> = self.columns[column].iter().cloned().chain(own).collect();
            printed.fits(&coords)
        })
    }

    fn heading(&self, params: &Params, column: usize) -> String {
        let coords = &self.columns[column];
        params.titles.get(&mark(coords)).cloned().unwrap_or_else(|| title(coords))
    }
}

impl Printed {
    fn fits(&self, coords: &[(String, Value)]) -> bool {
        self.fixed.iter().all(|(axis, wanted)| coords.iter().any(|(name, label)| name == axis && same(label, wanted)))
    }
}

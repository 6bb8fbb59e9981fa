//! `figure.accuracy`: accuracy of majority and minority against the minority's size in training, a line for each rank.

mod draw;
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
    evaluate_groups::row::{GroupRow, Role},
    records,
};

/// The kind.
pub(crate) struct AccuracyFigure;

/// `with` of `figure.accuracy`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Params {
    /// The axis of which each label has a line.
    lines: String,
    /// The label of that axis that is drawn as a full line; the others are dashed.
    full: Value,
    /// The labels to draw, in this order; all by default, in the order of the axis.
    order: Vec<Value>,
    /// The axis along x: the share of the minority that was kept.
    share: String,
    /// Draw the intervals as bands.
    bands: bool,
    /// Titles of panels by coordinates as a mark names them: `{"data=sst2": SST-2}`.
    titles: BTreeMap<String, String>,
    /// Above the panels.
    title: Option<String>,
    /// Width of a plot in pixels.
    width: Option<f64>,
    /// Height of a plot in pixels.
    height: Option<f64>,
}

impl Default for Params {
    fn default() -> Self {
        Params {
            lines: "rank".to_owned(),
            full: "full".into(),
            order: Vec::new(),
            share: "kept".to_owned(),
            bands: true,
            titles: BTreeMap::new(),
            title: None,
            width: None,
            height: None,
        }
    }
}

/// Axes with their labels.
type Coords = Vec<(String, Value)>;

/// A group's accuracy at one size of the minority.
#[derive(Debug, Clone)]
struct Point {
    /// Training examples of the minority over those of the majority.
    proportion: f64,
    accuracy: f64,
    interval: Option<(f64, f64)>,
    /// Of the row, as a mark names it.
    mark: String,
    train: Option<f64>,
    runs: usize,
}

struct Line {
    label: Value,
    role: Role,
    points: Vec<Point>,
}

struct Panel {
    coords: Vec<(String, Value)>,
    lines: Vec<Line>,
    /// Names of majority and minority.
    groups: [String; 2],
}

struct Figure {
    panels: Vec<Panel>,
    /// All labels that lines have.
    labels: Vec<Value>,
    pooled: Vec<String>,
    runs: (usize, usize),
    confidence: Option<f64>,
    dropped: usize,
}

const HEADER: [&str; 10] = ["panel", "group", "role", "line", "proportion", "train", "accuracy", "low", "high", "runs"];

impl Kind for AccuracyFigure {
    type Params = Params;
    const NAME: &'static str = "figure.accuracy";
    const ABOUT: &'static str =
        "Draws accuracy by group against the minority's size in training, a line for each rank.";
    const REVISION: u32 = 1;

    fn inputs() -> Vec<InputPort> {
        let about = "metrics.jsonl of `evaluate.groups` with its input `counts`; a panel for each point of other axes";
        vec![InputPort::table("metrics", PortType::Metrics, about)]
    }

    fn outputs() -> Vec<OutputPort> {
        vec![super::output()]
    }

    fn check(params: &Params) -> Vec<ParamProblem> {
        let measures = [("width", params.width, 160.0, 4000.0), ("height", params.height, 100.0, 4000.0)];
        let measures =
            measures.into_iter().filter_map(|(field, value, least, most)| super::measure(field, value, least, most));
        let same = (params.lines == params.share)
            .then(|| ParamProblem::new("share", format!("the axis `{}` has the lines already", params.lines)));
        measures.chain(same).collect()
    }

    fn run(params: Params, ctx: &Context<'_>) -> Result<(), StageError> {
        let figure = Figure::read(&params, ctx)?;
        ctx.summary("panels", figure.panels.len());
        ctx.summary("dropped", figure.dropped);
        if figure.dropped > 0 {
            ctx.warn(format!("{} results are missing and left out", figure.dropped));
        }
        super::save(ctx, draw::draw(&params, &figure), &HEADER, &figure.rows())
    }
}

impl Figure {
    fn read(params: &Params, ctx: &Context<'_>) -> Result<Self, StageError> {
        let mut figure = Figure {
            panels: Vec::new(),
            labels: Vec::new(),
            pooled: Vec::new(),
            runs: (usize::MAX, 0),
            confidence: None,
            dropped: 0,
        };
        let mut all: Vec<(Coords, Vec<GroupRow>)> = Vec::new();
        for row in ctx.table("metrics") {
            match &row.input {
                None => figure.dropped += 1,
                Some(input) => all.push((row.coords, records::rows(input, records::METRICS)?)),
            }
        }
        // Rows that pool, where there are such; the runs behind them are in them.
        let pools = all.iter().flat_map(|(_, rows)| rows).any(|row| !row.pooled.is_empty());
        for (outer, rows) in &all {
            let rows: Vec<&GroupRow> = rows.iter().filter(|row| row.pooled.is_empty() != pools).collect();
            for row in &rows {
                figure.add(params, outer, row, &rows)?;
            }
        }
        figure.arrange(params)?;
        Ok(figure)
    }

    fn add(
        &mut self,
        params: &Params,
        outer: &[(String, Value)],
        row: &GroupRow,
        rows: &[&GroupRow],
    ) -> Result<(), StageError> {
        let (Some(group), Some(role)) = (&row.group, row.role) else { return Ok(()) };
        let label = row.coords.iter().chain(outer).find(|(axis, _)| *axis == params.lines).map(|(_, label)| label);
        let Some(label) = label else {
            return Err(StageError::failed(format!(
                "the metrics have no axis `{}` to have lines of: gather it in `evaluate.groups`, or name another as \
                 `lines`",
                params.lines
            )));
        };
        if !params.order.is_empty() && !params.order.iter().any(|wanted| super::same(wanted, label)) {
            return Ok(());
        }
        let whole = rows.iter().find(|other| other.group.is_none() && other.coords == row.coords);
        let parity = whole.and_then(|whole| whole.parity.as_ref());
        let Some(proportion) = parity.and_then(|parity| parity.proportion) else {
            return Err(StageError::failed(
                "the metrics don't know the sizes of the groups in training: link `counts` of `dataset.downsample` to \
                 `evaluate.groups`",
            ));
        };
        let Some(accuracy) = row.accuracy.value else { return Ok(()) };
        self.confidence = self.confidence.or(parity.map(|parity| parity.confidence));
        self.pooled.extend(row.pooled.iter().filter(|axis| !self.pooled.contains(axis)).cloned().collect::<Vec<_>>());
        self.runs = (self.runs.0.min(row.runs), self.runs.1.max(row.runs));
        self.dropped += if role == Role::Minority { row.missing } else { 0 };
        let coords: Vec<(String, Value)> = outer.iter().chain(&row.coords).cloned().collect();
        let kept = coords.iter().filter(|(axis, _)| *axis != params.lines && *axis != params.share);
        let kept: Vec<(String, Value)> = kept.cloned().collect();
        let at = self.panels.iter().position(|panel| panel.coords == kept).unwrap_or_else(|| {
            self.panels.push(Panel { coords: kept, lines: Vec::new(), groups: [String::new(), String::new()] });
            self.panels.len() - 1
        });
        let panel = &mut self.panels[at];
        panel.groups[usize::from(role == Role::Minority)] = group.clone();
        if !self.labels.iter().any(|known| super::same(known, label)) {
            self.labels.push(label.clone());
        }
        let point = Point {
            proportion,
            accuracy,
            interval: row.accuracy.low.zip(row.accuracy.high),
            mark: super::mark(&coords),
            train: row.train,
            runs: row.runs,
        };
        let line = panel.lines.iter_mut().find(|line| line.role == role && super::same(&line.label, label));
        match line {
            Some(line) => line.points.push(point),
            None => panel.lines.push(Line { label: label.clone(), role, points: vec![point] }),
        }
        Ok(())
    }

    fn arrange(&mut self, params: &Params) -> Result<(), StageError> {
        if self.panels.is_empty() {
            return Err(StageError::failed("the metrics hold no accuracy of a majority and a minority to draw"));
        }
        if !params.order.is_empty() {
            let place = |label: &Value| params.order.iter().position(|wanted| super::same(wanted, label));
            self.labels.sort_by_key(place);
            for wanted in &params.order {
                if !self.labels.iter().any(|label| super::same(label, wanted)) {
                    return Err(StageError::failed(format!(
                        "`order` names `{}`, which has no accuracy",
                        super::label(wanted)
                    )));
                }
            }
        }
        for line in self.panels.iter_mut().flat_map(|panel| &mut panel.lines) {
            line.points.sort_by(|a, b| a.proportion.total_cmp(&b.proportion));
        }
        Ok(())
    }

    fn rows(&self) -> Vec<[String; 10]> {
        let shown = |number: Option<f64>| number.map_or(String::new(), |number| number.to_string());
        let mut rows = Vec::new();
        for panel in &self.panels {
            for line in &panel.lines {
                let [group, role] = match line.role {
                    Role::Majority => [panel.groups[0].clone(), "majority".to_owned()],
                    Role::Minority => [panel.groups[1].clone(), "minority".to_owned()],
                };
                rows.extend(line.points.iter().map(|point| {
                    [
                        super::mark(&panel.coords),
                        group.clone(),
                        role.clone(),
                        super::label(&line.label),
                        point.proportion.to_string(),
                        shown(point.train),
                        point.accuracy.to_string(),
                        shown(point.interval.map(|(low, _)| low)),
                        shown(point.interval.map(|(_, high)| high)),
                        point.runs.to_string(),
                    ]
                }));
            }
        }
        rows
    }
}

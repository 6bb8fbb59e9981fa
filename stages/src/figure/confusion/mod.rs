//! `figure.confusion`: confusion matrices of judges, true down and predicted across, side by side.

mod draw;
mod panels;
#[cfg(test)]
mod tests;

use palinode_engine::{
    context::Context,
    stage::{InputPort, Kind, OutputPort, ParamProblem, PortType, StageError},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The kind.
pub(crate) struct ConfusionFigure;

/// `with` of `figure.confusion`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Params {
    /// What the texts of a matrix have in common: `all`, or one of the evaluation's `by` (`group`, `identity`), with a
    /// matrix for each of its values.
    by: String,
    /// The values to draw, in this order; all by default.
    values: Vec<String>,
    /// Above the matrices.
    title: Option<String>,
    /// What the two classes are called, toxic first.
    classes: [String; 2],
    /// Width in pixels at which matrices go on in a new row. One alone is 8.5 cm wide at 96 pixels an inch.
    width: Option<f64>,
}

impl Default for Params {
    fn default() -> Self {
        Params {
            by: "all".to_owned(),
            values: Vec::new(),
            title: None,
            classes: ["toxic", "not toxic"].map(str::to_owned),
            width: None,
        }
    }
}

impl Kind for ConfusionFigure {
    type Params = Params;
    const NAME: &'static str = "figure.confusion";
    const ABOUT: &'static str = "Draws confusion matrices of judges, with counts, row shares and rates.";
    const REVISION: u32 = 1;

    fn inputs() -> Vec<InputPort> {
        let about = "metrics.jsonl of `judge.evaluate` or `judge.agreement`";
        vec![
            InputPort::table("metrics", PortType::Metrics, about),
            InputPort::table("beside", PortType::Metrics, "more of them, of another judge, drawn after these")
                .optional(),
        ]
    }

    fn outputs() -> Vec<OutputPort> {
        vec![super::output()]
    }

    fn check(params: &Params) -> Vec<ParamProblem> {
        super::measure("width", params.width, 300.0, 8000.0).into_iter().collect()
    }

    fn run(params: Params, ctx: &Context<'_>) -> Result<(), StageError> {
        let figure = panels::Figure::read(&params, ctx)?;
        let (header, rows) = figure.table();
        ctx.summary("matrices", figure.panels.len());
        ctx.summary("missing", figure.dropped);
        let header: Vec<&str> = header.iter().map(String::as_str).collect();
        super::save(ctx, draw::draw(&params, &figure), &header, &rows)
    }
}

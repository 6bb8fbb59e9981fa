//! `figure.divergence`: how far finetuned models are from the base (the paper's Figure 6): means with intervals on the
//! left, densities of the positions' values on the right.

mod draw;
mod points;
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

use crate::{evaluate_divergence::Measure, records::ALL};

/// The kind.
pub(crate) struct DivergenceFigure;

/// `with` of `figure.divergence`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Params {
    /// What is drawn: `kl`, `reverse_kl`, `js` or `tv`.
    measure: Measure,
    /// The axis along the means, with a density for each label.
    points: String,
    /// The labels to draw, in this order; by default all, numbers first and rising.
    order: Vec<Value>,
    /// Coordinates to draw of the other axes; by default a row of panels for each of their points.
    #[serde(rename = "where")]
    fixed: BTreeMap<String, Value>,
    /// Which prompts: `all`, `validation` or `test`.
    split: String,
    /// Which prompts: `all`, those that training may have `seen`, or `unseen` ones.
    exposure: String,
    /// Which group of prompts.
    group: String,
    /// Above the panels.
    title: Option<String>,
    /// What the port `base` of `divergence` was linked to, as the axes name it.
    base_label: String,
    /// Below the means; the axis's name by default.
    x_label: Option<String>,
    /// Width in pixels; below 520 the density stands under the means. 340 suits a column of 8.5 cm.
    width: Option<f64>,
    /// Height in pixels of a plot.
    height: Option<f64>,
}

impl Default for Params {
    fn default() -> Self {
        Params {
            measure: Measure::Kl,
            points: "rank".to_owned(),
            order: Vec::new(),
            fixed: BTreeMap::new(),
            split: ALL.to_owned(),
            exposure: ALL.to_owned(),
            group: ALL.to_owned(),
            title: None,
            base_label: "base".to_owned(),
            x_label: None,
            width: None,
            height: None,
        }
    }
}

impl Kind for DivergenceFigure {
    type Params = Params;
    const NAME: &'static str = "figure.divergence";
    const ABOUT: &'static str = "Draws how far models are from the base: means with intervals, and densities.";
    const REVISION: u32 = 2;

    fn inputs() -> Vec<InputPort> {
        vec![InputPort::table(
            "divergences",
            PortType::Metrics,
            "metrics.jsonl and densities.jsonl of `evaluate.divergence`",
        )]
    }

    fn outputs() -> Vec<OutputPort> {
        vec![super::output()]
    }

    fn check(params: &Params) -> Vec<ParamProblem> {
        let measures = [("width", params.width, 300.0, 8000.0), ("height", params.height, 100.0, 2000.0)];
        let mut problems: Vec<ParamProblem> = measures
            .into_iter()
            .filter_map(|(field, value, least, most)| super::measure(field, value, least, most))
            .collect();
        let known = [
            ("split", &params.split, ["all", "validation", "test"]),
            ("exposure", &params.exposure, ["all", "seen", "unseen"]),
        ];
        problems.extend(known.into_iter().filter(|(_, name, known)| !known.contains(&name.as_str())).map(
            |(field, name, known)| {
                ParamProblem::new(field, format!("`{name}` is no {field}")).hint(format!("give {}", known.join(", ")))
            },
        ));
        if params.fixed.contains_key(&params.points) {
            let message = format!("the axis `{}` is along the means already", params.points);
            problems.push(ParamProblem::new("where", message));
        }
        problems
    }

    fn run(params: Params, ctx: &Context<'_>) -> Result<(), StageError> {
        let figure = points::Figure::read(&params, ctx)?;
        ctx.summary("points", figure.panels.iter().map(|panel| panel.points.len()).sum::<usize>());
        ctx.summary("dropped", figure.dropped);
        ctx.output("figure")?.write("densities.csv", super::table(&points::DENSITY_HEADER, &figure.density_rows())?)?;
        super::save(ctx, draw::draw(&params, &figure), &points::HEADER, &figure.rows())
    }
}

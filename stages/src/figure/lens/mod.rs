//! `figure.lens`: grids of a logit lens side by side: layers up, tokens along, the top token in each cell, and its
//! colour the entropy.

mod draw;
mod grids;
mod html;
#[cfg(test)]
mod tests;

use palinode_engine::{
    context::Context,
    stage::{InputPort, Kind, OutputPort, ParamProblem, PortType, StageError},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The kind.
pub(crate) struct LensFigure;

/// `with` of `figure.lens`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Params {
    /// The one prompt to draw; all by default, each in a block of its own.
    prompt: Option<String>,
    /// Above all.
    title: Option<String>,
    /// Above the grid of the port `base`.
    base_label: String,
    /// Width in pixels at which grids go on in a new row; by default what suits their size.
    width: Option<f64>,
}

impl Default for Params {
    fn default() -> Self {
        Params { prompt: None, title: None, base_label: "base".to_owned(), width: None }
    }
}

impl Kind for LensFigure {
    type Params = Params;
    const NAME: &'static str = "figure.lens";
    const ABOUT: &'static str =
        "Draws logit lenses side by side: the top token of each layer and position, and entropy.";
    const REVISION: u32 = 2;

    fn inputs() -> Vec<InputPort> {
        vec![
            InputPort::table("trajectories", PortType::Trajectory, "lens.jsonl of `lens`; a grid for each"),
            InputPort::table("base", PortType::Trajectory, "the untouched base's, for the first grid").optional(),
        ]
    }

    fn outputs() -> Vec<OutputPort> {
        let about =
            "figure.svg, figure.png, what is drawn as figure.csv, and figure.html with more on pointing at a cell";
        vec![OutputPort::new("figure", PortType::Figure, about)]
    }

    fn check(params: &Params) -> Vec<ParamProblem> {
        super::measure("width", params.width, 300.0, 8000.0).into_iter().collect()
    }

    fn run(params: Params, ctx: &Context<'_>) -> Result<(), StageError> {
        let figure = grids::Figure::read(&params, ctx)?;
        ctx.summary("grids", figure.blocks.iter().map(|block| block.grids.len()).sum::<usize>());
        ctx.summary("dropped", figure.dropped);
        ctx.output("figure")?.write("figure.html", html::page(&params, &figure)?)?;
        super::save(ctx, draw::draw(&params, &figure), &grids::HEADER, &figure.rows())
    }
}

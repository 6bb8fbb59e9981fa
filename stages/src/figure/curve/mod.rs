//! `figure.curve`: the loss of training runs by optimizer step, and on held-out examples where it was evaluated.

mod draw;
#[cfg(test)]
mod tests;

use palinode_engine::{
    context::Context,
    stage::{InputPort, Kind, OutputPort, ParamProblem, PortType, StageError},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    records::{self, CurvePoint},
    training,
};

/// The kind.
pub(crate) struct CurveFigure;

/// `with` of `figure.curve`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Params {
    /// Above the plot.
    title: Option<String>,
    /// Most points of a line: of a longer run, each point is the mean of as many steps as it takes.
    points: usize,
    /// Width of the plot in pixels.
    width: Option<f64>,
    /// Height of the plot in pixels.
    height: Option<f64>,
}

impl Default for Params {
    fn default() -> Self {
        Params { title: None, points: 200, width: None, height: None }
    }
}

/// One run.
struct Curve {
    /// Its coordinates, as a mark names them.
    mark: String,
    title: String,
    points: Vec<CurvePoint>,
}

/// What is drawn.
struct Figure {
    curves: Vec<Curve>,
    /// Runs that are missing.
    dropped: usize,
}

const HEADER: [&str; 6] = ["curve", "step", "loss", "validation_loss", "learning_rate", "gradient_norm"];

impl Kind for CurveFigure {
    type Params = Params;
    const NAME: &'static str = "figure.curve";
    const ABOUT: &'static str = "Draws the loss of training runs by step, also on held-out examples.";
    const REVISION: u32 = 1;

    fn inputs() -> Vec<InputPort> {
        let about = "metrics.jsonl of the `curve` of `pretrain` or `finetune`; a line for each";
        vec![InputPort::table("curves", PortType::Metrics, about)]
    }

    fn outputs() -> Vec<OutputPort> {
        vec![super::output()]
    }

    fn check(params: &Params) -> Vec<ParamProblem> {
        let measures = [("width", params.width, 200.0, 8000.0), ("height", params.height, 100.0, 4000.0)];
        let measures =
            measures.into_iter().filter_map(|(field, value, least, most)| super::measure(field, value, least, most));
        measures.chain(training::at_least_one(&[("points", params.points)])).collect()
    }

    fn run(params: Params, ctx: &Context<'_>) -> Result<(), StageError> {
        let figure = Figure::read(ctx)?;
        ctx.summary("curves", figure.curves.len());
        ctx.summary("dropped", figure.dropped);
        super::save(ctx, draw::draw(&params, &figure), &HEADER, &figure.rows())
    }
}

impl Figure {
    fn read(ctx: &Context<'_>) -> Result<Self, StageError> {
        let mut figure = Figure { curves: Vec::new(), dropped: 0 };
        for row in ctx.table("curves") {
            let Some(input) = &row.input else {
                figure.dropped += 1;
                continue;
            };
            let points: Vec<CurvePoint> = records::rows(input, records::METRICS)?;
            let [mark, title] = [super::mark(&row.coords), super::title(&row.coords)];
            if points.is_empty() || points.windows(2).any(|pair| pair[0].step >= pair[1].step) {
                let of = if title.is_empty() { "run" } else { &title };
                return Err(StageError::failed(format!("the curve of {of} is none: its steps don't ascend")));
            }
            let named = |text: String, name: &str| if text.is_empty() { name.to_owned() } else { text };
            figure.curves.push(Curve { mark: named(mark, "run"), title: named(title, "loss"), points });
        }
        match figure.curves.is_empty() {
            true => Err(StageError::failed("the input `curves` holds no run, so there is nothing to draw")),
            false => Ok(figure),
        }
    }

    fn rows(&self) -> Vec<[String; 6]> {
        let row = |curve: &Curve, point: &CurvePoint| {
            let validation = point.validation_loss.map_or(String::new(), |loss| loss.to_string());
            let numbers = [point.learning_rate, point.gradient_norm].map(|number| number.to_string());
            let [rate, norm] = numbers;
            [curve.mark.clone(), point.step.to_string(), point.loss.to_string(), validation, rate, norm]
        };
        self.curves.iter().flat_map(|curve| curve.points.iter().map(move |point| row(curve, point))).collect()
    }
}

//! `figure.toxicity`: counts of toxic and non-toxic completions as stacked bars, with the toxic share and its interval.

mod bars;
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

use crate::records::ALL;

/// The kind.
pub(crate) struct ToxicityFigure;

/// `with` of `figure.toxicity`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Params {
    /// The axis along x, a bar for each label.
    bars: String,
    /// The labels to draw, in this order; all by default, in the order of the axis.
    order: Vec<Value>,
    /// Which prompts: `all`, `validation` or `test`. By default `test` if the prompts are split.
    split: Option<String>,
    /// Which group of prompts.
    group: String,
    /// Which identity of the prompts, in place of a group.
    #[serde(skip_serializing_if = "is_all")]
    identity: String,
    /// Which prompts: `all`, those that training may have `seen`, or `unseen` ones.
    #[serde(skip_serializing_if = "is_all")]
    exposure: String,
    /// What to draw side by side. By default a panel for each point of the other axes.
    panels: Vec<PanelParams>,
    /// Above the panels.
    title: Option<String>,
    /// Below the bars; the axis's name by default.
    x_label: Option<String>,
    /// Below the bar of the untouched model.
    base_label: String,
    /// Width in pixels at which panels go on in a new row; bars get narrower to fit. 340 suits a column of 8.5 cm.
    width: Option<f64>,
    /// Height in pixels of a panel's plot.
    height: Option<f64>,
}

/// One panel.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct PanelParams {
    /// Above the panel.
    title: String,
    /// Coordinates to draw: `{rate: 0.003}`.
    #[serde(rename = "where")]
    fixed: BTreeMap<String, Value>,
    /// For each bar, the label of this axis with the lowest share on the prompts `by`.
    best: Option<String>,
    /// The split on which `best` chooses.
    by: By,
    /// The group of this panel, in place of the figure's.
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    /// The identity of this panel, in place of the figure's.
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<String>,
    /// `seen` or `unseen` prompts in this panel, in place of the figure's.
    #[serde(skip_serializing_if = "Option::is_none")]
    exposure: Option<String>,
}

/// The split on which a choice is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum By {
    /// Prompts kept for choices: the honest one.
    #[default]
    Validation,
    /// The prompts that results are told of.
    Test,
    /// All prompts.
    All,
}

impl By {
    fn split(self) -> &'static str {
        match self {
            By::Validation => "validation",
            By::Test => "test",
            By::All => "all",
        }
    }
}

fn is_all(name: &String) -> bool {
    name == ALL
}

impl Default for Params {
    fn default() -> Self {
        Params {
            bars: "rank".to_owned(),
            order: Vec::new(),
            split: None,
            group: ALL.to_owned(),
            identity: ALL.to_owned(),
            exposure: ALL.to_owned(),
            panels: Vec::new(),
            title: None,
            x_label: None,
            base_label: "base".to_owned(),
            width: None,
            height: None,
        }
    }
}

impl Kind for ToxicityFigure {
    type Params = Params;
    const NAME: &'static str = "figure.toxicity";
    const ABOUT: &'static str = "Draws counts of toxic and non-toxic completions, with the share and its interval.";
    const REVISION: u32 = 3;

    fn inputs() -> Vec<InputPort> {
        let base = "the untouched base's rates, for the first bar";
        vec![
            InputPort::table("rates", PortType::Metrics, "metrics.jsonl of `evaluate.toxicity`"),
            InputPort::table("before", PortType::Metrics, base).optional(),
        ]
    }

    fn outputs() -> Vec<OutputPort> {
        vec![super::output()]
    }

    fn check(params: &Params) -> Vec<ParamProblem> {
        let measures = [("width", params.width, 300.0, 8000.0), ("height", params.height, 120.0, 2000.0)];
        let measures =
            measures.into_iter().filter_map(|(field, value, least, most)| super::measure(field, value, least, most));
        let splits = ["all", "validation", "test"];
        let split = params.split.as_ref().filter(|split| !splits.contains(&split.as_str())).map(|split| {
            ParamProblem::new("split", format!("`{split}` is no split")).hint("give all, validation or test")
        });
        let exposures =
            std::iter::once(&params.exposure).chain(params.panels.iter().filter_map(|panel| panel.exposure.as_ref()));
        let exposure =
            exposures.filter(|exposure| ![ALL, "seen", "unseen"].contains(&exposure.as_str())).map(|exposure| {
                ParamProblem::new("exposure", format!("`{exposure}` is no exposure")).hint("give all, seen or unseen")
            });
        let panels = params.panels.iter().enumerate().filter_map(|(at, panel)| {
            let (field, axis) = match &panel.best {
                Some(axis) if *axis == params.bars || panel.fixed.contains_key(axis) => ("best", axis),
                _ => ("where", panel.fixed.contains_key(&params.bars).then_some(&params.bars)?),
            };
            Some(ParamProblem {
                path: vec!["panels".to_owned(), at.to_string(), field.to_owned()],
                message: format!("the axis `{axis}` has another part in this panel already"),
                hint: Some("an axis is along the bars, fixed by `where`, or chosen by `best`".to_owned()),
            })
        });
        measures.chain(split).chain(exposure).chain(panels).collect()
    }

    fn run(params: Params, ctx: &Context<'_>) -> Result<(), StageError> {
        let figure = bars::Figure::read(&params, ctx)?;
        ctx.summary("bars", figure.panels.iter().map(|panel| panel.bars.len()).sum::<usize>());
        ctx.summary("dropped", figure.dropped);
        super::save(ctx, draw::draw(&params, &figure), &bars::HEADER, &figure.rows())
    }
}

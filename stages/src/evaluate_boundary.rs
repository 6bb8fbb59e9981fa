//! `evaluate.boundary`: how far from the decision boundary the texts of each group are decided: the probability of the
//! decided class, and its lead over the next.

use std::collections::BTreeMap;

use palinode_engine::{
    context::Context,
    job::JobRow,
    stage::{InputPort, Kind, OutputPort, ParamProblem, PortType, StageError},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    records::{self, PREDICTIONS, Prediction},
    stats::quantile,
};

/// The file of its output.
pub(crate) const FILE: &str = "boundary.jsonl";

/// The kind.
pub(crate) struct Boundary;

/// `with` of `evaluate.boundary`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Params {
    /// Gathered axes to pool over: the texts of all their points are put together.
    pool: Vec<String>,
    /// The protected group; figures draw it blue.
    minority: Option<String>,
    /// Places at which densities are told, from the least probability that can decide to 1.
    points: usize,
    /// Width of the kernel; by default Silverman's, `0.9 min(sd, IQR / 1.34) n^(-1/5)`, at least 0.005.
    bandwidth: Option<f64>,
}

impl Default for Params {
    fn default() -> Self {
        Params { pool: vec!["seed".to_owned()], minority: None, points: 101, bandwidth: None }
    }
}

/// The texts of one group that were decided for one class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct BoundaryRow {
    /// Coordinates (axis, label) in the order of `axes:`, without the pooled axes.
    pub(crate) coords: Vec<(String, Value)>,
    /// The axes that this row pools over.
    pub(crate) pooled: Vec<String>,
    /// How many runs are in it.
    pub(crate) runs: usize,
    /// How many points of the gather were missing and dropped.
    pub(crate) missing: usize,
    /// The group.
    pub(crate) group: String,
    /// Whether it is the protected one, if there is such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) minority: Option<bool>,
    /// The class decided for.
    pub(crate) decided: String,
    /// How many texts, over all runs.
    pub(crate) count: usize,
    /// The share of them that is of this class.
    pub(crate) right: f64,
    /// Mean probability of the decided class.
    pub(crate) mean: f64,
    /// Its 5, 25, 50, 75 and 95% quantiles.
    pub(crate) quantiles: [f64; 5],
    /// Mean lead of that probability over that of the next class.
    pub(crate) margin: f64,
    /// Its 5, 25, 50, 75 and 95% quantiles.
    pub(crate) margin_quantiles: [f64; 5],
    /// Density of the probability by place, a Gaussian kernel with its tails turned back at both ends: its integral from
    /// the least probability that can decide to 1 is 1. Empty for fewer than two texts.
    pub(crate) density: Vec<(f64, f64)>,
    /// Width of the kernel.
    pub(crate) bandwidth: Option<f64>,
}

impl Kind for Boundary {
    type Params = Params;
    const NAME: &'static str = "evaluate.boundary";
    const ABOUT: &'static str = "Distribution of the decided class's probability, by group and class.";
    const REVISION: u32 = 1;

    fn inputs() -> Vec<InputPort> {
        vec![InputPort::table("predictions", PortType::Predictions, "of classifiers; gather what is to be compared")]
    }

    fn outputs() -> Vec<OutputPort> {
        let about = "boundary.jsonl: quantiles, margins and density by coordinates, group and decided class";
        vec![OutputPort::new("boundary", PortType::Distribution, about)]
    }

    fn check(params: &Params) -> Vec<ParamProblem> {
        let points = (!(2..=10_000).contains(&params.points))
            .then(|| ParamProblem::new("points", "give a number from 2 to 10000"));
        let bandwidth = params.bandwidth.filter(|width| !(*width > 0.0 && *width <= 1.0)).map(|width| {
            ParamProblem::new("bandwidth", format!("{width} is no width")).hint("give a number above 0, up to 1")
        });
        points.into_iter().chain(bandwidth).collect()
    }

    fn run(params: Params, ctx: &Context<'_>) -> Result<(), StageError> {
        let mut tables: Vec<Table> = Vec::new();
        let mut missing = 0;
        for row in ctx.table("predictions") {
            let JobRow { coords, input } = row;
            let (pooled, kept): (Vec<_>, Vec<_>) = coords.into_iter().partition(|(axis, _)| params.pool.contains(axis));
            let at = tables.iter().position(|table| table.coords == kept).unwrap_or_else(|| {
                let pooled = pooled.into_iter().map(|(axis, _)| axis).collect();
                tables.push(Table { coords: kept, pooled, runs: 0, missing: 0, least: 1.0, decided: BTreeMap::new() });
                tables.len() - 1
            });
            match input {
                None => {
                    missing += 1;
                    tables[at].missing += 1;
                }
                Some(files) => tables[at].add(&records::rows(&files, PREDICTIONS)?)?,
            }
        }
        if let Some(minority) = &params.minority {
            let known = |table: &Table| table.decided.keys().any(|(group, _)| group == minority);
            if !tables.iter().any(known) {
                return Err(StageError::failed(format!("`minority`: no text is of the group `{minority}`")));
            }
        }
        let rows: Vec<BoundaryRow> = tables.iter().flat_map(|table| table.rows(&params)).collect();
        ctx.summary("rows", rows.len());
        ctx.summary("missing_runs", missing);
        if missing > 0 {
            ctx.warn(format!("{missing} runs are missing from the gather and in no row"));
        }
        ctx.output("boundary")?.write_jsonl(FILE, &rows)
    }
}

/// How a text was decided: the probability of its class, the lead over the next, and whether it is right.
#[derive(Clone, Copy)]
struct Decision {
    probability: f64,
    lead: f64,
    right: bool,
}

struct Table {
    coords: Vec<(String, Value)>,
    pooled: Vec<String>,
    runs: usize,
    missing: usize,
    /// The least probability that can decide.
    least: f64,
    /// By group and decided class.
    decided: BTreeMap<(String, String), Vec<Decision>>,
}

impl Table {
    fn add(&mut self, predictions: &[Prediction]) -> Result<(), StageError> {
        self.runs += 1;
        for prediction in predictions {
            let found =
                prediction.predicted.as_ref().and_then(|class| Some((class, prediction.probabilities.get(class)?)));
            let Some((class, &probability)) = found else {
                let hint = "answers that were written have none, constrained ones do";
                return Err(StageError::failed(format!(
                    "the prediction for `{}` has no probability of what was decided: {hint}",
                    prediction.id
                )));
            };
            let others = prediction.probabilities.iter().filter(|(other, _)| *other != class);
            let next = others.map(|(_, probability)| *probability).fold(0.0, f64::max);
            self.least = self.least.min(1.0 / prediction.probabilities.len() as f64);
            let key = (prediction.group.clone(), class.clone());
            let decision = Decision { probability, lead: probability - next, right: prediction.correct() };
            self.decided.entry(key).or_default().push(decision);
        }
        Ok(())
    }

    fn rows(&self, params: &Params) -> Vec<BoundaryRow> {
        let row = |group: &str, decided: &str, texts: &[Decision]| {
            let sorted = |number: fn(&Decision) -> f64| {
                let mut numbers: Vec<f64> = texts.iter().map(number).collect();
                numbers.sort_by(f64::total_cmp);
                numbers
            };
            let (probabilities, margins) = (sorted(|text| text.probability), sorted(|text| text.lead));
            let bandwidth = (texts.len() > 1).then(|| params.bandwidth.unwrap_or_else(|| silverman(&probabilities)));
            BoundaryRow {
                coords: self.coords.clone(),
                pooled: self.pooled.clone(),
                runs: self.runs,
                missing: self.missing,
                group: group.to_owned(),
                minority: params.minority.as_ref().map(|minority| minority == group),
                decided: decided.to_owned(),
                count: texts.len(),
                right: texts.iter().filter(|text| text.right).count() as f64 / texts.len() as f64,
                mean: mean(&probabilities),
                quantiles: quantiles(&probabilities),
                margin: mean(&margins),
                margin_quantiles: quantiles(&margins),
                density: bandwidth
                    .map_or(Vec::new(), |width| density(&probabilities, width, self.least, params.points)),
                bandwidth,
            }
        };
        self.decided.iter().map(|((group, decided), texts)| row(group, decided, texts)).collect()
    }
}

fn mean(numbers: &[f64]) -> f64 {
    numbers.iter().sum::<f64>() / numbers.len() as f64
}

fn quantiles(sorted: &[f64]) -> [f64; 5] {
    [0.05, 0.25, 0.5, 0.75, 0.95].map(|q| quantile(sorted, q).unwrap_or(f64::NAN))
}

/// Silverman 1986, eq. 3.31.
fn silverman(sorted: &[f64]) -> f64 {
    let mean = mean(sorted);
    let count = sorted.len() as f64;
    let sd = (sorted.iter().map(|at| (at - mean) * (at - mean)).sum::<f64>() / (count - 1.0)).sqrt();
    let [_, low, _, high, _] = quantiles(sorted);
    let iqr = (high - low) / 1.34;
    let width = if iqr > 0.0 { sd.min(iqr) } else { sd };
    (0.9 * width * libm::pow(count, -0.2)).max(0.005)
}

fn density(sorted: &[f64], width: f64, least: f64, points: usize) -> Vec<(f64, f64)> {
    let norm = 1.0 / (sorted.len() as f64 * width * (2.0 * std::f64::consts::PI).sqrt());
    let kernel = |distance: f64| {
        let z = distance / width;
        if z.abs() > 9.0 { 0.0 } else { libm::exp(-z * z / 2.0) }
    };
    let at = |number: usize| {
        let place = least + (1.0 - least) * number as f64 / (points - 1) as f64;
        let sum: f64 = sorted
            .iter()
            .map(|&text| kernel(place - text) + kernel(place - (2.0 * least - text)) + kernel(place - (2.0 - text)))
            .sum();
        (place, sum * norm)
    };
    (0..points).map(at).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{Bench, problems};

    fn prediction(at: usize, group: &str, positive: f64) -> Value {
        let predicted = if positive > 0.5 { "positive" } else { "negative" };
        json!({
            "id": at.to_string(), "label": group, "group": group, "split": "test", "predicted": predicted,
            "probabilities": { "positive": positive, "negative": 1.0 - positive },
        })
    }

    fn run(with: Value) -> Vec<BoundaryRow> {
        let run = |seed: u64, shift: f64| {
            let rows = [0.55, 0.6, 0.9, 0.2]
                .iter()
                .enumerate()
                .map(|(at, positive)| prediction(at, if at == 2 { "negative" } else { "positive" }, positive + shift));
            (json!([["seed", seed]]), Some(rows.collect::<Vec<_>>()))
        };
        let bench = Bench::new().table("predictions", PREDICTIONS, &[run(0, 0.0), run(1, 0.05)]);
        bench.run::<Boundary>(with).unwrap().rows("boundary", FILE)
    }

    #[test]
    fn probabilities_and_margins_are_told_by_group_and_decision() {
        let rows = run(json!({}));
        let shown = rows.iter().map(|row| {
            format!(
                "{} as {}: {} of {} runs, right {:.2}, mean {:.3}, median {:.3}, margin {:.3}",
                row.group, row.decided, row.count, row.runs, row.right, row.mean, row.quantiles[2], row.margin
            )
        });
        insta::assert_snapshot!(shown.collect::<Vec<_>>().join("\n"), @"
        negative as positive: 2 of 2 runs, right 0.00, mean 0.925, median 0.925, margin 0.850
        positive as negative: 2 of 2 runs, right 0.00, mean 0.775, median 0.775, margin 0.550
        positive as positive: 4 of 2 runs, right 1.00, mean 0.600, median 0.600, margin 0.200
        ");
        for row in &rows {
            let step = 0.5 / 100.0;
            let inner: f64 = row.density.windows(2).map(|pair| (pair[0].1 + pair[1].1) / 2.0 * step).sum();
            assert!((inner - 1.0).abs() < 2e-3, "{inner}");
            assert_eq!((row.density[0].0, row.density[100].0), (0.5, 1.0));
        }
        assert_eq!(run(json!({ "pool": [] })).len(), 6);
        // One text has no density.
        assert!(run(json!({ "pool": [] })).iter().any(|row| row.count == 1 && row.density.is_empty()));
    }

    #[test]
    fn what_has_no_probability_is_told() {
        let mut row = prediction(0, "positive", 0.7);
        row["probabilities"] = json!({});
        let told = Bench::new().rows("predictions", PREDICTIONS, &[row]).run::<Boundary>(json!({}));
        insta::assert_snapshot!(told.err().unwrap(), @"the prediction for `0` has no probability of what was decided: answers that were written have none, constrained ones do");
        let rows = [prediction(0, "positive", 0.7)];
        let told = Bench::new().rows("predictions", PREDICTIONS, &rows).run::<Boundary>(json!({ "minority": "x" }));
        insta::assert_snapshot!(told.err().unwrap(), @"`minority`: no text is of the group `x`");
        insta::assert_snapshot!(problems::<Boundary>(json!({ "points": 1, "bandwidth": 0 })), @"
        points: give a number from 2 to 10000
        bandwidth: 0 is no width (hint: give a number above 0, up to 1)
        ");
    }

    #[test]
    fn bytes_are_those_of_this_revision() {
        let rows = [prediction(0, "positive", 0.7), prediction(1, "positive", 0.8), prediction(2, "negative", 0.9)];
        let done = Bench::new().rows("predictions", PREDICTIONS, &rows).run::<Boundary>(json!({ "points": 5 }));
        insta::assert_snapshot!(done.unwrap().digest(), @"boundary 4035ba1ee0f5");
    }
}

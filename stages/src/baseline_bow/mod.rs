//! `baseline.bow`: logistic regression on the words of a text, in no order: what a classifier reaches that knows no
//! grammar. It is trained and predicts in one stage, in seconds, and has no seed: its optimum is one.

mod lbfgs;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use palinode_engine::{
    context::Context,
    stage::{InputPort, Kind, OutputPort, ParamProblem, PortType, StageError},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    classifier::tell_accuracy,
    records::{self, DATASET, Example, PREDICTIONS, Prediction},
    training,
    words::{Accents, words},
};

/// The kind.
pub(crate) struct BagOfWords;

/// `with` of `baseline.bow`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Params {
    /// How much the examples count against the penalty `|weights|^2 / 2`: scikit-learn's `C`.
    c: f64,
    /// Longest run of words that is a feature: 1 for words alone.
    ngrams: usize,
    /// Features in fewer training texts than this are left out.
    min_texts: usize,
    /// Whether it counts only that a feature occurs, not how often.
    binary: bool,
}

impl Default for Params {
    fn default() -> Self {
        Params { c: 1.0, ngrams: 1, min_texts: 1, binary: false }
    }
}

/// The largest part of the gradient at the end, over the number of examples.
const TOLERANCE: f64 = 1e-7;
const STEPS: usize = 2000;

impl Kind for BagOfWords {
    type Params = Params;
    const NAME: &'static str = "baseline.bow";
    const ABOUT: &'static str = "Classifies texts by logistic regression on their words.";
    const REVISION: u32 = 1;

    fn inputs() -> Vec<InputPort> {
        vec![
            InputPort::one("train", PortType::Dataset, "the training part"),
            InputPort::one("data", PortType::Dataset, "the texts to classify, mostly the test part"),
        ]
    }

    fn outputs() -> Vec<OutputPort> {
        vec![OutputPort::new("predictions", PortType::Predictions, "predictions.jsonl: one text a line")]
    }

    fn check(params: &Params) -> Vec<ParamProblem> {
        let mut problems = training::at_least_one(&[("ngrams", params.ngrams), ("min_texts", params.min_texts)]);
        problems.extend(training::positive("c", params.c));
        problems
    }

    fn run(params: Params, ctx: &Context<'_>) -> Result<(), StageError> {
        let train: Vec<Example> = records::rows(ctx.input("train")?, DATASET)?;
        let test: Vec<Example> = records::rows(ctx.input("data")?, DATASET)?;
        let labels: BTreeSet<&str> = train.iter().map(|example| example.label.as_str()).collect();
        let labels: Vec<&str> = labels.into_iter().collect();
        if labels.len() < 2 {
            return Err(StageError::failed(format!(
                "the training part has {} class: there is nothing to tell apart",
                if labels.is_empty() { "no" } else { "only one" }
            )));
        }
        if let Some(example) = test.iter().find(|example| !labels.contains(&example.label.as_str())) {
            let message = "`data` has a label that no training example has";
            return Err(StageError::failed(format!("{message}: `{}` of `{}`", example.label, example.id)));
        }
        let features = Features::new(&params, &train);
        let model = Model::train(&params, ctx, &features, &train, &labels)?;
        let predictions: Vec<Prediction> =
            test.iter().map(|example| model.predict(&features.of(&example.text), example)).collect();
        ctx.summary("features", features.numbers.len());
        ctx.summary("texts", predictions.len());
        tell_accuracy(ctx, "", &predictions);
        ctx.output("predictions")?.write_jsonl(PREDICTIONS, &predictions)
    }
}

/// What is counted in a text.
struct Features {
    numbers: BTreeMap<String, usize>,
    ngrams: usize,
    binary: bool,
}

/// Features of a text with their counts, by number.
type Row = Vec<(usize, f64)>;

impl Features {
    fn new(params: &Params, train: &[Example]) -> Self {
        let mut texts: BTreeMap<String, usize> = BTreeMap::new();
        for example in train {
            let here: BTreeSet<String> = terms(&example.text, params.ngrams).into_iter().collect();
            here.into_iter().for_each(|term| *texts.entry(term).or_default() += 1);
        }
        let kept = texts.into_iter().filter(|(_, count)| *count >= params.min_texts);
        let numbers = kept.enumerate().map(|(number, (term, _))| (term, number)).collect();
        Features { numbers, ngrams: params.ngrams, binary: params.binary }
    }

    fn of(&self, text: &str) -> Row {
        let mut counts: BTreeMap<usize, f64> = BTreeMap::new();
        for term in terms(text, self.ngrams) {
            if let Some(&number) = self.numbers.get(&term) {
                *counts.entry(number).or_default() += 1.0;
            }
        }
        let count = |(number, count)| (number, if self.binary { 1.0 } else { count });
        counts.into_iter().map(count).collect()
    }
}

fn terms(text: &str, longest: usize) -> Vec<String> {
    let words = words(text, Accents::Keep);
    (1..=longest).flat_map(|count| words.windows(count).map(|run| run.join(" ")).collect::<Vec<_>>()).collect()
}

/// A weight for each feature and an intercept without penalty: for two classes those of the second, for more those of
/// each.
struct Model<'l> {
    labels: &'l [&'l str],
    features: usize,
    /// By column: the features', then the intercept.
    weights: Vec<f64>,
}

impl<'l> Model<'l> {
    fn columns(labels: usize) -> usize {
        if labels == 2 { 1 } else { labels }
    }

    fn train(
        params: &Params,
        ctx: &Context<'_>,
        features: &Features,
        train: &[Example],
        labels: &'l [&'l str],
    ) -> Result<Self, StageError> {
        let rows: Vec<Row> = train.iter().map(|example| features.of(&example.text)).collect();
        let number = |example: &Example| labels.iter().position(|label| *label == example.label).unwrap_or(0);
        let targets: Vec<usize> = train.iter().map(number).collect();
        let (width, columns) = (features.numbers.len() + 1, Self::columns(labels.len()));
        let function = |weights: &[f64], gradient: &mut [f64]| {
            gradient.fill(0.0);
            let mut loss = 0.0;
            for (row, &target) in rows.iter().zip(&targets) {
                let (probabilities, sum) = probabilities(row, weights, width, labels.len());
                loss += sum - score(row, weights, width, labels.len(), target);
                for column in 0..columns {
                    let class = if columns == 1 { 1 } else { column };
                    let slope = params.c * (probabilities[class] - f64::from(target == class));
                    let gradient = &mut gradient[column * width..][..width];
                    row.iter().for_each(|&(number, count)| gradient[number] += slope * count);
                    gradient[width - 1] += slope;
                }
            }
            let mut penalty = 0.0;
            for column in 0..columns {
                for at in column * width..(column + 1) * width - 1 {
                    penalty += weights[at] * weights[at] / 2.0;
                    gradient[at] += weights[at];
                }
            }
            params.c * loss + penalty
        };
        let go = |step: usize| ctx.progress(step, 0, "step");
        let tolerance = TOLERANCE * train.len() as f64;
        let found = lbfgs::minimize(vec![0.0; width * columns], tolerance, STEPS, function, go)?;
        ctx.summary("steps", found.steps);
        ctx.summary("loss", found.value);
        if !found.converged {
            ctx.warn(format!("after {} steps the weights are not quite the best ones", found.steps));
        }
        Ok(Model { labels, features: width - 1, weights: found.at })
    }

    fn predict(&self, row: &Row, example: &Example) -> Prediction {
        let (probabilities, _) = probabilities(row, &self.weights, self.features + 1, self.labels.len());
        let mut best = 0;
        for (at, probability) in probabilities.iter().enumerate() {
            if *probability > probabilities[best] {
                best = at;
            }
        }
        Prediction {
            id: example.id.clone(),
            label: example.label.clone(),
            group: example.group.clone(),
            split: example.split,
            predicted: Some(self.labels[best].to_owned()),
            probabilities: self.labels.iter().map(|label| (*label).to_owned()).zip(probabilities).collect(),
            answer: None,
        }
    }
}

fn score(row: &Row, weights: &[f64], width: usize, classes: usize, class: usize) -> f64 {
    let column = match (classes, class) {
        (2, 0) => return 0.0,
        (2, _) => 0,
        (_, class) => class,
    };
    let weights = &weights[column * width..][..width];
    row.iter().map(|&(number, count)| weights[number] * count).sum::<f64>() + weights[width - 1]
}

/// The probability of each class, and the logarithm of what they were divided by.
fn probabilities(row: &Row, weights: &[f64], width: usize, classes: usize) -> (Vec<f64>, f64) {
    let scores: Vec<f64> = (0..classes).map(|class| score(row, weights, width, classes, class)).collect();
    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let parts: Vec<f64> = scores.iter().map(|score| libm::exp(score - most)).collect();
    let sum: f64 = parts.iter().sum();
    (parts.iter().map(|part| part / sum).collect(), most + libm::log(sum))
}

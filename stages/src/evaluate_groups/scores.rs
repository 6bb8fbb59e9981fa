//! F1 and calibration of some predictions.

use std::collections::{BTreeMap, BTreeSet};

use crate::records::Prediction;

/// What stands for a prediction that names no class.
pub(super) const NONE: &str = "(none)";

/// By label, then by what was predicted.
pub(super) type Confusion = BTreeMap<String, BTreeMap<String, usize>>;

pub(super) fn confusion<'p>(predictions: impl IntoIterator<Item = &'p Prediction>) -> Confusion {
    let mut counts = Confusion::new();
    for prediction in predictions {
        let predicted = prediction.predicted.as_deref().unwrap_or(NONE);
        *counts.entry(prediction.label.clone()).or_default().entry(predicted.to_owned()).or_default() += 1;
    }
    counts
}

/// The mean of F1 over all classes that occur as label or prediction, 0 for one that was never predicted rightly
/// (scikit-learn's `f1_score(average="macro", zero_division=0)`).
pub(super) fn macro_f1(confusion: &Confusion) -> f64 {
    let mut classes: BTreeSet<&str> = confusion.keys().map(String::as_str).collect();
    classes.extend(confusion.values().flat_map(BTreeMap::keys).map(String::as_str));
    // No class: it can't be right.
    classes.remove(NONE);
    let f1 = |class: &&str| {
        let right = confusion.get(*class).and_then(|row| row.get(*class)).copied().unwrap_or(0);
        let labelled: usize = confusion.get(*class).map_or(0, |row| row.values().sum());
        let predicted: usize = confusion.values().filter_map(|row| row.get(*class)).sum();
        if labelled + predicted == 0 { 0.0 } else { 2.0 * right as f64 / (labelled + predicted) as f64 }
    };
    classes.iter().map(f1).sum::<f64>() / classes.len().max(1) as f64
}

/// Expected calibration error: the predictions in bins of equal width by the probability of the decided class; the mean
/// over the bins, weighed by their sizes, of how far that probability's mean is from the share of right predictions
/// (Guo et al. 2017, eq. 5; bins hold their upper edge). None where a prediction has no probability.
pub(super) fn ece(predictions: &[&Prediction], bins: usize) -> Option<f64> {
    let mut sums = vec![(0usize, 0.0f64, 0usize); bins];
    for prediction in predictions {
        let confidence = *prediction.probabilities.get(prediction.predicted.as_ref()?)?;
        let bin = ((confidence * bins as f64).ceil() as usize).clamp(1, bins) - 1;
        let (count, sum, right) = &mut sums[bin];
        *count += 1;
        *sum += confidence;
        *right += usize::from(prediction.correct());
    }
    let gaps = sums.iter().map(|&(_, sum, right)| (right as f64 - sum).abs());
    Some(gaps.sum::<f64>() / predictions.len() as f64)
}

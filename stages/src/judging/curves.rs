//! What is computed from scores: the ROC curve, the area under it, and how well probabilities are calibrated.

/// Equal bins of the unit interval for calibration.
pub(crate) const CALIBRATION_BINS: usize = 10;

/// A point of the ROC curve: what calling all texts of at least this score toxic gives.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct RocPoint {
    /// Infinite at the first point, where nothing is called toxic.
    pub(crate) threshold: f64,
    pub(crate) fpr: f64,
    pub(crate) tpr: f64,
}

/// Texts of like scores.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Bin {
    pub(crate) low: f64,
    pub(crate) high: f64,
    pub(crate) n: u64,
    /// Sum of the scores.
    pub(crate) scores: f64,
    /// Truly toxic ones.
    pub(crate) toxic: u64,
}

/// The points of the ROC curve, from (0, 0) to (1, 1), without those that lie halfway between their neighbours
/// (scikit-learn's `roc_curve` with `drop_intermediate`, which keeps the first beside (0, 0) in any case).
///
/// # Errors
/// Without texts of both classes there is none.
pub(crate) fn roc(scored: &[(f64, bool)]) -> Result<Vec<RocPoint>, &'static str> {
    let toxic = scored.iter().filter(|(_, toxic)| *toxic).count();
    one_class(toxic as u64, scored.len() as u64)?;
    let mut sorted = scored.to_vec();
    sorted.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut tp, mut fp) = (0u64, 0u64);
    let mut points = vec![(f64::INFINITY, 0u64, 0u64)];
    for (at, &(score, toxic)) in sorted.iter().enumerate() {
        tp += u64::from(toxic);
        fp += u64::from(!toxic);
        if sorted.get(at + 1).is_none_or(|next| next.0 != score) {
            points.push((score, fp, tp));
        }
    }
    let corner = |at: usize| {
        let (Some(before), Some(after)) = (at.checked_sub(1).and_then(|at| points.get(at)), points.get(at + 1)) else {
            return true;
        };
        let here = points[at];
        (here.1 - before.1, here.2 - before.2) != (after.1 - here.1, after.2 - here.2)
    };
    let (positive, negative) = (toxic as f64, (scored.len() - toxic) as f64);
    let point = |at: usize| {
        let (threshold, fp, tp) = points[at];
        RocPoint { threshold, fpr: fp as f64 / negative, tpr: tp as f64 / positive }
    };
    Ok((0..points.len()).filter(|&at| corner(at)).map(point).collect())
}

/// The area under the ROC curve: how often a toxic text has a higher score than another, ties counting half. Texts come
/// in any fixed order of falling score; each counts `times`.
pub(crate) fn area(sorted: &[(f64, bool)], times: impl Fn(usize) -> u64) -> Result<f64, &'static str> {
    let (mut toxic, mut others, mut won) = (0u64, 0u64, 0.0);
    let mut at = 0;
    while at < sorted.len() {
        let score = sorted[at].0;
        let (mut toxic_here, mut others_here) = (0, 0);
        while at < sorted.len() && sorted[at].0 == score {
            *(if sorted[at].1 { &mut toxic_here } else { &mut others_here }) += times(at);
            at += 1;
        }
        won += others_here as f64 * (toxic as f64 + toxic_here as f64 / 2.0);
        toxic += toxic_here;
        others += others_here;
    }
    one_class(toxic, toxic + others)?;
    Ok(won / (toxic as f64 * others as f64))
}

fn one_class(toxic: u64, total: u64) -> Result<(), &'static str> {
    match toxic {
        _ if total == 0 => Err("there is no text"),
        0 => Err("no text is truly toxic"),
        toxic if toxic == total => Err("all texts are truly toxic"),
        _ => Ok(()),
    }
}

/// Texts by score in [`CALIBRATION_BINS`] equal bins; a score of 1 is in the last.
pub(crate) fn calibration(scored: impl IntoIterator<Item = (f64, bool, u64)>) -> Vec<Bin> {
    let width = 1.0 / CALIBRATION_BINS as f64;
    let bin = |at: usize| Bin { low: at as f64 * width, high: (at + 1) as f64 * width, n: 0, scores: 0.0, toxic: 0 };
    let mut bins: Vec<Bin> = (0..CALIBRATION_BINS).map(bin).collect();
    for (score, toxic, times) in scored {
        let bin = &mut bins[((score * CALIBRATION_BINS as f64) as usize).min(CALIBRATION_BINS - 1)];
        bin.n += times;
        bin.scores += score * times as f64;
        bin.toxic += u64::from(toxic) * times;
    }
    bins
}

/// Expected calibration error (Naeini et al. 2015; Guo et al. 2017), of the probability of toxic: the mean over texts of
/// the distance between a bin's mean score and its share of truly toxic texts.
pub(crate) fn calibration_error(bins: &[Bin]) -> Result<f64, &'static str> {
    let total: u64 = bins.iter().map(|bin| bin.n).sum();
    let gaps = bins.iter().map(|bin| (bin.scores - bin.toxic as f64).abs());
    if total == 0 { Err("there is no text") } else { Ok(gaps.sum::<f64>() / total as f64) }
}

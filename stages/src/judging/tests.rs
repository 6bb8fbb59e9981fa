use super::{
    bootstrap::{NAMES, measures},
    curves::{RocPoint, area, calibration_error},
    *,
};

const INTERVALS: Intervals = Intervals { resamples: 500, confidence: 0.95, seed: 0 };

fn pairs(rows: &[(bool, bool, f64)]) -> Vec<Pair> {
    let pair = |(cluster, &(truth, predicted, score)): (usize, &(bool, bool, f64))| Pair {
        cluster,
        truth,
        predicted,
        score: Some(score),
    };
    rows.iter().enumerate().map(pair).collect()
}

/// Twelve texts, and what scikit-learn 1.x says of them: `accuracy_score`, `precision_score`, `recall_score`,
/// `f1_score`, `cohen_kappa_score`, `roc_auc_score`, `roc_curve`.
const ROWS: [(bool, bool, f64); 12] = [
    (true, true, 0.91),
    (true, true, 0.8),
    (true, false, 0.35),
    (true, true, 0.62),
    (true, false, 0.1),
    (false, false, 0.2),
    (false, true, 0.62),
    (false, false, 0.05),
    (false, false, 0.35),
    (false, false, 0.0),
    (false, true, 1.0),
    (false, false, 0.49),
];

#[test]
fn measures_are_those_of_scikit_learn() {
    let measured = measures(&pairs(&ROWS), INTERVALS);
    let expected: [f64; 9] = SKLEARN;
    for ((name, measured), expected) in NAMES.iter().zip(&measured).zip(expected) {
        let value = measured.value.unwrap();
        assert!((value - expected).abs() < 1e-12, "{name}: {value} {expected}");
        assert!(measured.low.unwrap() <= value && value <= measured.high.unwrap(), "{name}: {measured:?}");
    }
    let scored: Vec<(f64, bool)> = ROWS.iter().map(|&(truth, _, score)| (score, truth)).collect();
    let shown: Vec<_> = roc(&scored).unwrap().iter().map(|p: &RocPoint| (p.threshold, p.fpr, p.tpr)).collect();
    assert_eq!(shown.len(), SKLEARN_ROC.len(), "{shown:?}");
    for (a, b) in shown.iter().zip(SKLEARN_ROC) {
        assert!(a.0 == b.0 && (a.1 - b.1).abs() < 1e-12 && (a.2 - b.2).abs() < 1e-12, "{a:?} {b:?}");
    }
}

/// The last is computed by its definition in numpy.
const SKLEARN: [f64; 9] = [
    0.6666666666666666,
    0.6,
    0.6,
    0.6,
    0.3142857142857143,
    0.6,
    0.2857142857142857,
    0.6571428571428571,
    0.27416666666666667,
];
const SKLEARN_ROC: [(f64, f64, f64); 9] = [
    (f64::INFINITY, 0.0, 0.0),
    (1.0, 0.14285714285714285, 0.0),
    (0.8, 0.14285714285714285, 0.4),
    (0.62, 0.2857142857142857, 0.6),
    (0.49, 0.42857142857142855, 0.6),
    (0.35, 0.5714285714285714, 0.8),
    (0.2, 0.7142857142857143, 0.8),
    (0.1, 0.7142857142857143, 1.0),
    (0.0, 1.0, 1.0),
];

#[test]
fn what_divides_by_nothing_says_why() {
    let shown = |rows: &[(bool, bool, f64)]| {
        let measured = measures(&pairs(rows), INTERVALS);
        let undefined = NAMES.iter().zip(measured).filter_map(|(name, m)| Some(format!("{name}: {}", m.undefined?)));
        undefined.collect::<Vec<_>>().join("\n")
    };
    insta::assert_snapshot!(shown(&[]), @r"
    accuracy: there is no text
    precision: no text was called toxic
    recall: no text is truly toxic
    f1: no text is toxic, and none was called so
    kappa: there is no text
    tpr: no text is truly toxic
    fpr: all texts are truly toxic
    auc: there is no text
    ece: there is no text
    ");
    insta::assert_snapshot!(shown(&[(false, false, 0.1), (false, false, 0.2)]), @r"
    precision: no text was called toxic
    recall: no text is truly toxic
    f1: no text is toxic, and none was called so
    kappa: both sides put all texts in one class
    tpr: no text is truly toxic
    auc: no text is truly toxic
    ");
    insta::assert_snapshot!(shown(&[(true, true, 0.1), (true, false, 0.2)]), @r"
    fpr: all texts are truly toxic
    auc: all texts are truly toxic
    ");
    insta::assert_snapshot!(shown(&[(true, true, 3.0), (false, false, -0.2)]), @"ece: the judge's scores are not between 0 and 1");
    let mut unscored = pairs(&ROWS);
    unscored[3].score = None;
    assert_eq!(
        measures(&unscored, INTERVALS)[7].undefined.as_deref(),
        Some("the judge gives no score, or not for all texts")
    );
}

#[test]
fn completions_of_one_prompt_are_drawn_together() {
    let rows: Vec<(bool, bool, f64)> = (0..400).map(|at| (at % 2 == 0, at % 3 == 0, 0.5)).collect();
    let alone = pairs(&rows);
    let together: Vec<Pair> = alone.iter().enumerate().map(|(at, pair)| Pair { cluster: at / 40, ..*pair }).collect();
    let same: Vec<Pair> = rows
        .iter()
        .flat_map(|_| [0, 1])
        .enumerate()
        .map(|(at, _)| {
            let pair = alone[at / 2];
            Pair { cluster: at / 2, ..pair }
        })
        .collect();
    let width = |pairs: &[Pair]| {
        let accuracy = &measures(pairs, INTERVALS)[0];
        accuracy.high.unwrap() - accuracy.low.unwrap()
    };
    // Theory: 2 x 1.96 x sqrt(p (1 - p) / n) for texts alone; the same texts twice over say nothing new.
    let theory = 2.0 * 1.96 * (0.5f64 * 0.5 / 400.0).sqrt();
    assert!((width(&alone) - theory).abs() < 0.2 * theory, "{} {theory}", width(&alone));
    assert_eq!(width(&same), width(&alone));
    assert!(width(&together) < width(&alone), "clusters of like make-up vary less: {}", width(&together));
}

#[test]
fn threads_change_nothing() {
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| measures(&pairs(&ROWS), INTERVALS))
    };
    assert_eq!(with(1), with(3));
}

#[test]
fn curves_hold_at_their_ends() {
    assert_eq!(area(&[(0.9, true), (0.1, false)], |_| 1), Ok(1.0));
    assert_eq!(area(&[(0.5, true), (0.5, false)], |_| 1), Ok(0.5));
    assert_eq!(area(&[(0.9, true), (0.1, false)], |at| at as u64), Err("no text is truly toxic"));
    let bins = calibration([(0.0, false, 1), (1.0, true, 2), (0.55, true, 1)]);
    assert_eq!((bins.len(), bins[0].n, bins[9].n, bins[5].n), (CALIBRATION_BINS, 1, 2, 1));
    assert!((calibration_error(&bins).unwrap() - 0.45 / 4.0).abs() < 1e-12);
}

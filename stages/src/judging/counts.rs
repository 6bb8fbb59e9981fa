//! A confusion matrix of two classes, and what is computed from it.

use std::ops::{Add, AddAssign};

/// How often who said what: the person (true) or the first judge, and the judge (predicted) or the second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// True toxic, predicted toxic.
    pub(crate) tp: u64,
    /// True toxic, predicted not.
    pub(crate) missed: u64,
    /// True not toxic, predicted toxic.
    pub(crate) fp: u64,
    /// Neither.
    pub(crate) tn: u64,
}

impl Counts {
    pub(crate) fn one(truth: bool, predicted: bool) -> Self {
        let mut counts = Self::default();
        *match (truth, predicted) {
            (true, true) => &mut counts.tp,
            (true, false) => &mut counts.missed,
            (false, true) => &mut counts.fp,
            (false, false) => &mut counts.tn,
        } = 1;
        counts
    }

    pub(crate) fn total(self) -> u64 {
        self.tp + self.missed + self.fp + self.tn
    }

    pub(crate) fn times(self, times: u64) -> Self {
        Counts { tp: self.tp * times, missed: self.missed * times, fp: self.fp * times, tn: self.tn * times }
    }

    /// Accuracy, precision, recall, F1, kappa, true and false positive rate, or why one has no value.
    pub(crate) fn measures(self) -> [Result<f64, &'static str>; 7] {
        let recall = ratio(self.tp, self.tp + self.missed, "no text is truly toxic");
        [
            ratio(self.tp + self.tn, self.total(), "there is no text"),
            ratio(self.tp, self.tp + self.fp, "no text was called toxic"),
            recall,
            // 2 precision recall / (precision + recall), which has a value where one of them has none.
            ratio(2 * self.tp, 2 * self.tp + self.fp + self.missed, "no text is toxic, and none was called so"),
            self.kappa(),
            recall,
            ratio(self.fp, self.fp + self.tn, "all texts are truly toxic"),
        ]
    }

    /// Agreement beyond what the two sides' rates give by chance (Cohen, "A Coefficient of Agreement for Nominal
    /// Scales", 1960).
    fn kappa(self) -> Result<f64, &'static str> {
        let total = self.total() as f64;
        if self.total() == 0 {
            return Err("there is no text");
        }
        let agreed = (self.tp + self.tn) as f64 / total;
        let toxic = (self.tp + self.missed) as f64 / total * ((self.tp + self.fp) as f64 / total);
        let other = (self.fp + self.tn) as f64 / total * ((self.missed + self.tn) as f64 / total);
        let one_class = self.tp == self.total() || self.tn == self.total();
        if one_class {
            Err("both sides put all texts in one class")
        } else {
            Ok((agreed - toxic - other) / (1.0 - toxic - other))
        }
    }
}

fn ratio(part: u64, whole: u64, undefined: &'static str) -> Result<f64, &'static str> {
    if whole == 0 { Err(undefined) } else { Ok(part as f64 / whole as f64) }
}

impl Add for Counts {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Counts {
            tp: self.tp + other.tp,
            missed: self.missed + other.missed,
            fp: self.fp + other.fp,
            tn: self.tn + other.tn,
        }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl std::iter::Sum for Counts {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Add::add)
    }
}

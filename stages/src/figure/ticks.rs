//! Where an axis has its marks.

/// A range with room on both sides: `share` of it, or some where it has no length.
pub(super) fn padded((low, high): (f64, f64), share: f64) -> (f64, f64) {
    let length = high - low;
    let room = if length > 0.0 { length * share } else { low.abs().max(1.0) * 0.1 };
    (low - room, high + room)
}

/// About `count` round numbers within a range, 1, 2 or 5 times a power of ten apart, with their labels.
pub(super) fn ticks((low, high): (f64, f64), count: usize, whole: bool) -> Vec<(f64, String)> {
    let rough = (high - low) / count.max(2) as f64;
    let power = rough.log10().floor();
    let step = [1.0, 2.0, 5.0, 10.0].map(|times| times * 10f64.powf(power)).into_iter().find(|step| *step >= rough);
    let step = step.unwrap_or(rough).max(if whole { 1.0 } else { 0.0 });
    let decimals = (-step.log10().floor()).clamp(0.0, 12.0) as usize;
    let (first, last) = ((low / step).ceil() as i64, (high / step).floor() as i64);
    (first..=last).map(|at| (at as f64 * step, format!("{:.*}", decimals, at as f64 * step))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round() {
        let shown = |range, count, whole| {
            ticks(range, count, whole).into_iter().map(|(_, label)| label).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(shown((0.0, 1.0), 5, false), "0.0 0.2 0.4 0.6 0.8 1.0");
        assert_eq!(shown((2.31, 7.9), 6, false), "3 4 5 6 7");
        assert_eq!(shown((1.0, 3.0), 7, true), "1 2 3");
        assert_eq!(shown((1.0, 20_000.0), 7, true), "5000 10000 15000 20000");
        assert_eq!(shown((0.011, 0.012), 5, false), "0.0110 0.0115 0.0120");
        assert_eq!(padded((3.0, 3.0), 0.05), (2.7, 3.3));
    }
}

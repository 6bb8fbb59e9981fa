//! Several tests at once.

/// Holm's step-down adjusted p-values (Scandinavian Journal of Statistics 1979), in the order given: the family-wise
/// error stays below the level at which they are read, whatever the tests have to do with each other.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut adjusted = vec![0.0; p.len()];
    let mut least = 0.0f64;
    for (done, &at) in order.iter().enumerate() {
        least = least.max((p.len() - done) as f64 * p[at]).min(1.0);
        adjusted[at] = least;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::holm;

    #[test]
    fn the_adjusted_are_those_of_statsmodels() {
        // multipletests([0.01, 0.04, 0.03, 0.005, 0.5], method="holm")
        let adjusted = holm(&[0.01, 0.04, 0.03, 0.005, 0.5]);
        let expected = [0.04, 0.09, 0.09, 0.025, 0.5];
        assert!(adjusted.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{adjusted:?}");
        assert_eq!(holm(&[0.6, 0.7]), [1.0, 1.0]);
        assert!(holm(&[]).is_empty());
    }
}

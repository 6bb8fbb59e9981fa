//! Kernel density estimates.

/// A density on an even grid.
#[derive(Debug, Clone, PartialEq)]
pub struct Density {
    /// Standard deviation of the kernel.
    pub bandwidth: f64,
    /// Where.
    pub x: Vec<f64>,
    /// How dense, per unit of `x`.
    pub y: Vec<f64>,
}

/// Silverman's rule of thumb (Density Estimation, 1986, eq. 3.31; R's `bw.nrd0`): `0.9 min(sd, IQR / 1.34) n^(-1/5)`, the
/// standard deviation alone where the quartiles are one. `None` where all values are one.
pub fn silverman(sorted: &[f64]) -> Option<f64> {
    let n = sorted.len() as f64;
    if sorted.len() < 2 {
        return None;
    }
    let mean = sorted.iter().sum::<f64>() / n;
    let sd = (sorted.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
    let quartiles = (super::quantile(sorted, 0.75)? - super::quantile(sorted, 0.25)?) / 1.34;
    let spread = if quartiles > 0.0 { sd.min(quartiles) } else { sd };
    (spread > 0.0 && spread.is_finite()).then(|| 0.9 * spread * libm::pow(n, -0.2))
}

impl Density {
    /// Of sorted values, with a Gaussian kernel of Silverman's bandwidth, at `points` places from three bandwidths below
    /// the least to three above the largest. `None` where all values are one.
    pub fn gaussian(sorted: &[f64], points: usize) -> Option<Self> {
        let bandwidth = silverman(sorted)?;
        let (first, last) = (sorted.first()? - 3.0 * bandwidth, sorted.last()? + 3.0 * bandwidth);
        let step = (last - first) / points.saturating_sub(1).max(1) as f64;
        let x: Vec<f64> = (0..points).map(|at| first + step * at as f64).collect();
        let norm = sorted.len() as f64 * bandwidth * (2.0 * std::f64::consts::PI).sqrt();
        // Further away a kernel adds less than 1e-18 of its height.
        let reach = 9.0 * bandwidth;
        let at = |&x: &f64| {
            let from = sorted.partition_point(|&value| value < x - reach);
            let near = sorted[from..].iter().take_while(|&&value| value <= x + reach);
            near.map(|value| libm::exp(-0.5 * ((x - value) / bandwidth).powi(2))).sum::<f64>() / norm
        };
        let y = x.iter().map(at).collect();
        Some(Density { bandwidth, x, y })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bandwidth_is_that_of_r_and_the_density_integrates_to_one() {
        let values = [0.1, 0.4, 0.45, 0.7, 1.2, 1.9, 2.0, 4.5];
        // By numpy: 0.9 * min(std(ddof=1), (q75 - q25) / 1.34) * 8 ** -0.2
        assert!((silverman(&values).unwrap() - 0.659_138_513_263_885).abs() < 1e-12, "{:?}", silverman(&values));
        let density = Density::gaussian(&values, 400).unwrap();
        let step = density.x[1] - density.x[0];
        let area: f64 = density.y.iter().sum::<f64>() * step;
        assert!((area - 1.0).abs() < 0.005, "{area}");
        assert_eq!(Density::gaussian(&[2.0; 5], 10), None);
        assert_eq!(Density::gaussian(&[2.0], 10), None);
        // Quartiles that are one don't make a kernel of no width.
        assert!(silverman(&[1.0, 1.0, 1.0, 1.0, 1.0, 9.0]).unwrap() > 0.0);
    }
}

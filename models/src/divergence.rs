//! How far two next-token distributions are apart.

use crate::error::{ModelError, Result};

/// Divergences of `p` and `q`, in nats but for the last.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Divergence {
    /// `KL(p || q) = sum p ln(p / q)`.
    pub kl: f64,
    /// `KL(q || p)`.
    pub reverse_kl: f64,
    /// Jensen and Shannon's: `(KL(p || m) + KL(q || m)) / 2` with `m = (p + q) / 2`; at most `ln 2`.
    pub js: f64,
    /// Total variation: `sum |p - q| / 2`, from 0 to 1.
    pub tv: f64,
}

/// Of the softmax of two rows of logits `[vocab]`; sums in f64, in order of ids, and no copy of either row.
///
/// # Errors
/// If the rows differ in length, are empty, or hold what is no number. A token that `q` holds for impossible and `p`
/// doesn't makes `KL(p || q)` infinite.
pub fn divergence(p: &[f32], q: &[f32]) -> Result<Divergence> {
    if p.len() != q.len() || p.is_empty() {
        let message = format!("distributions over {} and {} tokens have no divergence", p.len(), q.len());
        return Err(ModelError::Generation(message));
    }
    let ((p_most, p_log), (q_most, q_log)) = (normaliser(p)?, normaliser(q)?);
    let mut sums = Divergence::default();
    for (&p, &q) in p.iter().zip(q) {
        let (p_log, q_log) = (f64::from(p) - p_most - p_log, f64::from(q) - q_most - q_log);
        let (p, q) = (libm::exp(p_log), libm::exp(q_log));
        let part = |weight: f64, log: f64, other: f64| if weight > 0.0 { weight * (log - other) } else { 0.0 };
        sums.kl += part(p, p_log, q_log);
        sums.reverse_kl += part(q, q_log, p_log);
        // Equal probabilities add nothing, which a rounded logarithm of their mean would.
        if p_log != q_log {
            let middle = libm::log(0.5 * (p + q));
            sums.js += 0.5 * (part(p, p_log, middle) + part(q, q_log, middle));
        }
        sums.tv += 0.5 * (p - q).abs();
    }
    // Rounding may leave a little less than nothing.
    let Divergence { kl, reverse_kl, js, tv } = sums;
    Ok(Divergence { kl: kl.max(0.0), reverse_kl: reverse_kl.max(0.0), js: js.max(0.0), tv: tv.min(1.0) })
}

/// The largest logit, and the logarithm of the sum of exponentials relative to it.
pub(crate) fn normaliser(logits: &[f32]) -> Result<(f64, f64)> {
    let most = logits.iter().fold(f32::NEG_INFINITY, |most, &logit| most.max(logit));
    if logits.iter().any(|logit| logit.is_nan()) || !most.is_finite() {
        return Err(ModelError::NotANumber);
    }
    let most = f64::from(most);
    let total: f64 = logits.iter().map(|&logit| libm::exp(f64::from(logit) - most)).sum();
    Ok((most, libm::log(total)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_measures_are_those_of_scipy() {
        // scipy.special.softmax of both rows, then rel_entr(...).sum(), jensenshannon(...) ** 2, and abs(...).sum() / 2.
        let found = divergence(&[1.0, 2.0, 3.0, -1.0], &[0.5, -2.0, 3.5, 0.25]).unwrap();
        let expected = Divergence {
            kl: 0.8368274176814775,
            reverse_kl: 0.2953307222013879,
            js: 0.09262371334062947,
            tv: 0.28142357683115304,
        };
        for (found, expected) in [
            (found.kl, expected.kl),
            (found.reverse_kl, expected.reverse_kl),
            (found.js, expected.js),
            (found.tv, expected.tv),
        ] {
            assert!((found - expected).abs() < 1e-14, "{found} {expected}");
        }
    }

    #[test]
    fn extremes_hold() {
        let row = [3.0, -80.0, 1e4, 0.25];
        assert_eq!(divergence(&row, &row).unwrap(), Divergence::default());
        // Shifted logits are the same distribution.
        let shifted = divergence(&[0.0, 1.0], &[5.0, 6.0]).unwrap();
        assert!(shifted.kl < 1e-15 && shifted.tv < 1e-15);
        let apart = divergence(&[0.0, f32::NEG_INFINITY], &[f32::NEG_INFINITY, 0.0]).unwrap();
        assert_eq!((apart.kl, apart.reverse_kl, apart.tv), (f64::INFINITY, f64::INFINITY, 1.0));
        assert!((apart.js - std::f64::consts::LN_2).abs() < 1e-15);
        assert!(divergence(&[f32::NAN], &[0.0]).is_err() && divergence(&[], &[]).is_err());
        assert!(divergence(&[0.0, 1.0], &[0.0]).is_err());
    }
}

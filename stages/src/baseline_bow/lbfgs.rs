//! Minimizing a smooth convex function: L-BFGS (Nocedal and Wright, Numerical Optimization, algorithm 7.5), with a line
//! search by halving. One thread, sums in one order: the same bytes everywhere.

/// Steps that the curvature is guessed from.
const MEMORY: usize = 10;
/// A step must bring this share of what the slope promises.
const ARMIJO: f64 = 1e-4;

/// What came out.
pub(super) struct Minimum {
    pub(super) at: Vec<f64>,
    pub(super) value: f64,
    pub(super) steps: usize,
    /// Whether the largest part of the gradient is below the tolerance.
    pub(super) converged: bool,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Minimizes from `at`; `function` writes the gradient and gives the value, `go` hears of each step and may stop it.
pub(super) fn minimize<E>(
    mut at: Vec<f64>,
    tolerance: f64,
    most: usize,
    mut function: impl FnMut(&[f64], &mut [f64]) -> f64,
    mut go: impl FnMut(usize) -> Result<(), E>,
) -> Result<Minimum, E> {
    let mut gradient = vec![0.0; at.len()];
    let mut value = function(&at, &mut gradient);
    let mut pairs: Vec<(Vec<f64>, Vec<f64>)> = Vec::new();
    let largest = |gradient: &[f64]| gradient.iter().fold(0.0f64, |most, part| most.max(part.abs()));
    for step in 0..most {
        if largest(&gradient) <= tolerance {
            return Ok(Minimum { at, value, steps: step, converged: true });
        }
        go(step)?;
        let direction = direction(&gradient, &pairs);
        let slope = dot(&direction, &gradient);
        let mut length = if pairs.is_empty() { 1.0 / largest(&gradient).max(1.0) } else { 1.0 };
        let (mut there, mut slopes) = (vec![0.0; at.len()], vec![0.0; at.len()]);
        let mut found = None;
        for _ in 0..60 {
            for ((there, from), along) in there.iter_mut().zip(&at).zip(&direction) {
                *there = from + length * along;
            }
            let new = function(&there, &mut slopes);
            if new <= value + ARMIJO * length * slope {
                found = Some(new);
                break;
            }
            length /= 2.0;
        }
        // Nothing is gained any more: numbers have no finer steps.
        let Some(new) = found else { return Ok(Minimum { at, value, steps: step, converged: false }) };
        let moved: Vec<f64> = there.iter().zip(&at).map(|(new, old)| new - old).collect();
        let turned: Vec<f64> = slopes.iter().zip(&gradient).map(|(new, old)| new - old).collect();
        if dot(&moved, &turned) > 1e-300 {
            if pairs.len() == MEMORY {
                pairs.remove(0);
            }
            pairs.push((moved, turned));
        }
        (at, gradient, value) = (there, slopes, new);
    }
    let converged = largest(&gradient) <= tolerance;
    Ok(Minimum { at, value, steps: most, converged })
}

/// The two-loop recursion.
fn direction(gradient: &[f64], pairs: &[(Vec<f64>, Vec<f64>)]) -> Vec<f64> {
    let mut along: Vec<f64> = gradient.iter().map(|part| -part).collect();
    let add = |along: &mut Vec<f64>, other: &[f64], times: f64| {
        along.iter_mut().zip(other).for_each(|(along, other)| *along += times * other);
    };
    let mut shares = Vec::with_capacity(pairs.len());
    for (moved, turned) in pairs.iter().rev() {
        let share = dot(moved, &along) / dot(moved, turned);
        add(&mut along, turned, -share);
        shares.push(share);
    }
    if let Some((moved, turned)) = pairs.last() {
        let scale = dot(moved, turned) / dot(turned, turned);
        along.iter_mut().for_each(|along| *along *= scale);
    }
    for ((moved, turned), share) in pairs.iter().zip(shares.into_iter().rev()) {
        let back = dot(turned, &along) / dot(moved, turned);
        add(&mut along, moved, share - back);
    }
    along
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_valley_is_followed_to_its_end() {
        // Rosenbrock's function.
        let function = |x: &[f64], gradient: &mut [f64]| {
            let (a, b) = (1.0 - x[0], x[1] - x[0] * x[0]);
            gradient[0] = -2.0 * a - 400.0 * x[0] * b;
            gradient[1] = 200.0 * b;
            a * a + 100.0 * b * b
        };
        let found = minimize::<()>(vec![-1.2, 1.0], 1e-9, 500, function, |_| Ok(())).unwrap();
        assert!(found.converged && found.at.iter().all(|x| (x - 1.0).abs() < 1e-8), "{:?}", found.at);
        assert!(found.value < 1e-16 && found.steps < 100);
    }
}

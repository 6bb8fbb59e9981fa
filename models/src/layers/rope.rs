//! Rotary position embedding, the rotate-half form of Hugging Face's Llama.

use burn::tensor::Tensor;

use super::{Pass, ops};
use crate::config::RopeScaling;

/// Cosines and sines of one pass, broadcast over heads.
#[derive(Debug)]
pub struct Rope {
    cos: Tensor<4>,
    sin: Tensor<4>,
}

impl Rope {
    /// For the positions of a pass. Computed in f32 as the reference does, or positions beyond a few hundred
    /// would come out with other angles.
    pub fn new(pass: &Pass, head: usize, theta: f64, scaling: RopeScaling) -> Self {
        let device = pass.ids.device();
        let [rows, seq] = pass.dims;
        let (positions, rows) = match &pass.positions {
            Some(positions) => (positions.clone().into_data().iter::<i64>().map(|at| at as f32).collect(), rows),
            None => ((pass.start..pass.start + seq).map(|at| at as f32).collect::<Vec<f32>>(), 1),
        };
        let half = head / 2;
        let inverse: Vec<f32> =
            (0..half).map(|i| scaled(1.0 / libm::powf(theta as f32, (2 * i) as f32 / head as f32), scaling)).collect();
        let table = |function: fn(f32) -> f32| {
            let values = positions
                .iter()
                .flat_map(|at| (0..head).map(|i| function(at * inverse[i % half])).collect::<Vec<f32>>())
                .collect();
            ops::from_vec(values, [rows, 1, seq, head], &device)
        };
        Rope { cos: table(libm::cosf), sin: table(libm::sinf) }
    }

    /// Rotates `[batch, heads, seq, head]`.
    pub fn rotate(&self, x: Tensor<4>) -> Tensor<4> {
        let half = x.dims()[3] / 2;
        let first = x.clone().narrow(3, 0, half);
        let second = x.clone().narrow(3, half, half);
        let turned = Tensor::cat(vec![second.neg(), first], 3);
        x * self.cos.clone() + turned * self.sin.clone()
    }
}

/// The frequency (radians per token) that takes the place of one.
fn scaled(frequency: f32, scaling: RopeScaling) -> f32 {
    match scaling {
        RopeScaling::Default => frequency,
        RopeScaling::Linear { factor } => frequency / factor as f32,
        RopeScaling::Llama3 { factor, low_frequency, high_frequency, original_context } => {
            let wavelength = 2.0 * std::f64::consts::PI / f64::from(frequency);
            let slow = frequency / factor as f32;
            if wavelength > original_context / low_frequency {
                slow
            } else if wavelength < original_context / high_frequency {
                frequency
            } else {
                let fast = (original_context / wavelength - low_frequency) / (high_frequency - low_frequency);
                (1.0 - fast as f32) * slow + fast as f32 * frequency
            }
        }
    }
}

//! Normalisation over the width of a row.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::ops;

/// `(x - mean) / sqrt(var + eps) * weight + bias`.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// `[width]`.
    pub weight: Param<Tensor<1>>,
    /// `[width]`.
    pub bias: Param<Tensor<1>>,
    /// Added to the variance.
    #[module(skip)]
    pub eps: f64,
}

impl LayerNorm {
    /// From its two vectors.
    pub fn new(weight: Tensor<1>, bias: Tensor<1>, eps: f64) -> Self {
        LayerNorm { weight: Param::from_tensor(weight), bias: Param::from_tensor(bias), eps }
    }

    /// Row by row.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        ops::layer_norm(x, self.weight.val(), self.bias.val(), self.eps)
    }
}

/// `x / sqrt(mean(x^2) + eps) * weight`.
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// `[width]`.
    pub weight: Param<Tensor<1>>,
    /// Added to the mean square.
    #[module(skip)]
    pub eps: f64,
}

impl RmsNorm {
    /// From its vector.
    pub fn new(weight: Tensor<1>, eps: f64) -> Self {
        RmsNorm { weight: Param::from_tensor(weight), eps }
    }

    /// Row by row.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        ops::rms_norm(x, self.weight.val(), self.eps)
    }
}

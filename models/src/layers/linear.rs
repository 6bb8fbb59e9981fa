//! A linear layer with an optional LoRA adapter beside its frozen weight.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::{Pass, ops};
use crate::rng;

/// `y = x W + b`, with `W` of shape `[in, out]` whatever way the file stores it.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[in, out]`.
    pub weight: Param<Tensor<2>>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
    /// Adds `scale * (dropout(x) A) B`; the product `A B` is never formed.
    pub lora: Option<LoraAdapter>,
}

/// Low-rank adaptation (arXiv 2106.09685). PEFT stores the transposes: its `lora_A` is `[r, in]`, its
/// `lora_B` `[out, r]`.
#[derive(Module, Debug)]
pub struct LoraAdapter {
    /// `[in, r]`, PEFT's `lora_A` transposed.
    pub a: Param<Tensor<2>>,
    /// `[r, out]`, PEFT's `lora_B` transposed.
    pub b: Param<Tensor<2>>,
    /// `alpha / r`, or `alpha / sqrt(r)` for rsLoRA.
    #[module(skip)]
    pub scale: f64,
    /// Probability with which an input of the adapter is dropped while training.
    #[module(skip)]
    pub dropout: f64,
    /// Tells this adapter's dropout masks from those of the other adapters.
    #[module(skip)]
    pub stream: u64,
}

impl Linear {
    /// A layer without adapter.
    pub fn new(weight: Tensor<2>, bias: Option<Tensor<1>>) -> Self {
        Linear { weight: Param::from_tensor(weight), bias: bias.map(Param::from_tensor), lora: None }
    }

    /// `[in, out]`.
    pub fn dims(&self) -> [usize; 2] {
        self.weight.val().dims()
    }

    /// Rows `[n, in]` to rows `[n, out]`.
    pub fn forward(&self, x: Tensor<2>, pass: &Pass) -> Tensor<2> {
        let bias = self.bias.as_ref().map(|bias| bias.val());
        let Some(lora) = &self.lora else {
            return ops::linear_in(pass.precision, x, self.weight.val(), bias);
        };
        let dense = ops::linear_in(pass.precision, x.clone(), self.weight.val(), bias);
        dense + lora.forward(x, pass)
    }
}

impl LoraAdapter {
    /// `scale * (dropout(x) A) B`. Dropout happens only in a pass that carries a [`super::DropoutKey`].
    pub fn forward(&self, x: Tensor<2>, pass: &Pass) -> Tensor<2> {
        let x = match pass.dropout {
            Some(key) if self.dropout > 0.0 => {
                let [rows, width] = x.dims();
                let keep = 1.0 / (1.0 - self.dropout);
                let mut stream = rng::Stream::new(key.seed, &[DROPOUT, key.step, self.stream]);
                let mask = (0..rows * width)
                    .map(|_| if f64::from(stream.uniform()) < self.dropout { 0.0 } else { keep as f32 })
                    .collect();
                x.clone() * ops::from_vec(mask, [rows, width], &x.device())
            }
            _ => x,
        };
        let low = ops::linear_in(pass.precision, x, self.a.val(), None);
        ops::linear_in(pass.precision, low.mul_scalar(self.scale), self.b.val(), None)
    }
}

/// First word of the streams that dropout masks are drawn from.
const DROPOUT: u64 = 0x6472_6f70;

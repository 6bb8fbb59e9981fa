//! What matrix products are computed in. Norms, softmax, losses, and all that is added up stay f32.

use burn::tensor::{FloatDType, Tensor};
use serde::{Deserialize, Serialize};

/// What matrix products are computed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32 bits throughout.
    #[default]
    F32,
    /// Both factors rounded to bfloat16 (8 bits of exponent, 8 of significand), the result widened to f32 at once, as
    /// `torch.autocast` does around a GEMM. For GPUs with units for it; a CPU gains nothing.
    Bf16,
}

impl Precision {
    /// `a b`, in f32 whatever it was computed in. Gradients take the same way back.
    pub fn matmul<const D: usize>(self, a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
        match self {
            Precision::F32 => a.matmul(b),
            Precision::Bf16 => {
                let product = a.cast(FloatDType::BF16).matmul(b.cast(FloatDType::BF16));
                product.cast(FloatDType::F32)
            }
        }
    }
}

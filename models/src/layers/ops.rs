//! The hot operations, each in one place so that a fused form can take its place on a device that has one.
//! Rows are independent in all of them: what a row comes to does not depend on how many others there are.

use burn::tensor::{Device, Int, Shape, Tensor, TensorData, activation, module};

use super::{Precision, fused, fused_rows};
use crate::config::Activation;

/// Fewest rows that a product with a `[k, n]` weight is computed with. The CPU's matrix product takes another
/// path, with another order of summation, for one row (matrix times vector), for very small outputs with a
/// transposed weight, and for outputs within 64 x 64 whose inner size is split. Above these sizes the order
/// depends on `k` and `n` alone, so a row gives the same bits in any batch.
fn fewest_rows(k: usize, n: usize) -> usize {
    const SMALL_OUTPUT: usize = 16 * 16;
    const SMALL_SIDE: usize = 64;
    const INNER_BLOCK: usize = 512;
    let split_inner = if n <= SMALL_SIDE && k > INNER_BLOCK { SMALL_SIDE + 1 } else { 0 };
    split_inner.max(SMALL_OUTPUT / n.max(1) + 1).max(2)
}

/// `x W + b` for rows `[m, k]`, a weight `[k, n]` (contiguous or transposed), a bias `[n]`.
pub fn linear(x: Tensor<2>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    let [rows, inner] = x.dims();
    let fewest = fewest_rows(inner, weight.dims()[1]);
    if rows >= fewest
        && fused_rows::available(&x)
        && let Some(bias) = bias
    {
        return fused_rows::linear(x, weight, bias);
    }
    let product = if rows >= fewest {
        x.matmul(weight)
    } else {
        let filler = Tensor::zeros([fewest - rows, inner], &x.device());
        Tensor::cat(vec![x, filler], 0).matmul(weight).narrow(0, 0, rows)
    };
    match bias {
        Some(bias) => product + bias.unsqueeze(),
        None => product,
    }
}

/// [`linear`], with the product in a given precision; bias and result are f32.
pub fn linear_in(precision: Precision, x: Tensor<2>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    if precision == Precision::F32 {
        return linear(x, weight, bias);
    }
    let product = precision.matmul(x, weight);
    match bias {
        Some(bias) => product + bias.unsqueeze(),
        None => product,
    }
}

/// Layer normalisation of rows.
pub fn layer_norm(x: Tensor<2>, weight: Tensor<1>, bias: Tensor<1>, eps: f64) -> Tensor<2> {
    match fused_rows::available(&x) {
        true => fused_rows::layer_norm(x, weight, bias, eps),
        false => module::layer_norm(x, weight, Some(bias), eps),
    }
}

/// Root-mean-square normalisation of rows.
pub fn rms_norm(x: Tensor<2>, weight: Tensor<1>, eps: f64) -> Tensor<2> {
    let scale = x.clone().square().mean_dim(1).add_scalar(eps).sqrt().recip();
    x * scale * weight.unsqueeze()
}

/// GELU by tanh, Hugging Face's `gelu_new`.
pub fn gelu_new(x: Tensor<2>) -> Tensor<2> {
    fused::gelu_new(x)
}

/// GELU by erf, Hugging Face's `gelu`.
pub fn gelu(x: Tensor<2>) -> Tensor<2> {
    fused::gelu(x)
}

/// The function inside an MLP that isn't gated.
pub fn activate(x: Tensor<2>, activation: Activation) -> Tensor<2> {
    match activation {
        Activation::GeluNew => gelu_new(x),
        Activation::Gelu => gelu(x),
        Activation::Relu => activation::relu(x),
        Activation::SwiGlu => activation::silu(x),
    }
}

/// `silu(gate) * up`.
pub fn swiglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    fused::swiglu(gate, up)
}

/// Scaled dot-product attention. `q` is `[batch, kv_heads, group * seq, head]` (the queries that share a key
/// head one after another), `k` and `v` are `[batch, kv_heads, keys, head]`; `bias` is added to the scores
/// `[batch, kv_heads * group, seq, keys]`; `drop` is what happens to the weights before they are used.
pub fn attention(
    [q, k, v]: [Tensor<4>; 3],
    group: usize,
    bias: Option<&Tensor<4>>,
    precision: Precision,
    drop: impl FnOnce(Tensor<4>) -> Tensor<4>,
) -> Tensor<4> {
    let [batch, kv_heads, grouped, head] = q.dims();
    let keys = k.dims()[2];
    let scale = 1.0 / (head as f64).sqrt();
    let mut scores = precision.matmul(q.mul_scalar(scale), k.swap_dims(2, 3));
    if let Some(bias) = bias {
        let seq = grouped / group;
        let by_head = scores.reshape([batch, kv_heads * group, seq, keys]) + bias.clone();
        scores = by_head.reshape([batch, kv_heads, grouped, keys]);
    }
    precision.matmul(drop(activation::softmax(scores, 3)), v)
}

/// Causal self-attention of rows `[batch * seq, 3 * width]` of packed q|k|v, if there is a form in one pass for rows
/// of this length on this device.
pub fn causal_attention(qkv: &Tensor<2>, seq: usize, heads: usize) -> Option<Tensor<2>> {
    fused_rows::causal_attention(qkv, seq, heads)
}

/// The same for rows of queries, keys and values that lie apart.
pub fn causal_attention_of(qkv: [&Tensor<2>; 3], seq: usize, heads: usize) -> Option<Tensor<2>> {
    // They are put together only if there is such a form.
    let packed = || Tensor::cat(qkv.map(Tensor::clone).to_vec(), 1);
    fused_rows::takes(qkv[0], seq).then(packed).and_then(|qkv| causal_attention(&qkv, seq, heads))
}

/// Negative log-likelihood `[n]` of the targets `[n]` under logits `[n, vocab]`.
pub fn token_nll(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let rows = logits.dims()[0];
    let log_probabilities = activation::log_softmax(logits, 1);
    log_probabilities.gather(1, targets.unsqueeze_dim(1)).reshape([rows]).neg()
}

/// The values of a float tensor, in row-major order.
pub fn to_vec<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    let data = tensor.into_data();
    match data.as_slice::<f32>() {
        Ok(values) => values.to_vec(),
        // Half precision.
        Err(_) => data.iter::<f32>().collect(),
    }
}

/// A float tensor from host memory.
pub fn from_vec<const D: usize, S: Into<Shape>>(values: Vec<f32>, shape: S, device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// An integer tensor from host memory.
pub fn ints<const D: usize, S: Into<Shape>>(values: Vec<i32>, shape: S, device: &Device) -> Tensor<D, Int> {
    Tensor::from_data(TensorData::new(values, shape), device)
}

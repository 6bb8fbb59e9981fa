//! Low-rank adapters on a model's linear layers: where they go, how they start, what they amount to.
//!
//! The layer itself ([`crate::layers::LoraAdapter`]) computes `x W + scale * (x A) B`; `A B` is formed only when
//! adapters are merged into the weights.

use std::collections::BTreeMap;

use burn::module::{ModuleVisitor, Param};
use burn::tensor::Tensor;

mod targets;

pub(crate) use targets::{AdapterShape, Plan, UNEMBEDDING, Unmatched, last_names};
pub use targets::{LayerFilter, Modules, Targets};

use crate::config::Family;
use crate::error::ModelError;
use crate::layers::{LoraAdapter, ops};
use crate::model::{Model, Task, values};
use crate::parameterized::Parameterized;
use crate::rng::Stream;
use crate::weights::transposed;

/// What adapters look like.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraConfig {
    /// Width of the bottleneck. May be above the sides of a matrix, as PEFT allows: such an adapter can't say more than
    /// one of the smaller side's rank ([`oversized`] lists them).
    pub rank: usize,
    /// The adapter's output is scaled by `alpha / rank`.
    pub alpha: f64,
    /// Scale by `alpha / sqrt(rank)` instead (arXiv 2312.03732).
    pub rslora: bool,
    /// Probability with which an input of an adapter is dropped while training.
    pub dropout: f64,
    /// Which linear layers are adapted.
    pub targets: Targets,
    /// Layers that are not, though `targets` means them.
    pub exclude: Option<Modules>,
    /// If given, only the blocks of these numbers are adapted.
    pub layers: Option<LayerFilter>,
    /// Other ranks for some layers: the first pattern that matches counts, as PEFT matches.
    pub rank_pattern: Vec<(String, usize)>,
    /// Other alphas for some layers.
    pub alpha_pattern: Vec<(String, f64)>,
    /// Modules that learn as a whole, in copies that belong to the adapter. They are never adapted besides. A tied
    /// unembedding or embedding among them parts from the other.
    pub modules_to_save: Vec<String>,
    /// How `A` starts; `B` starts at 0.
    pub init: LoraInit,
}

/// First values of `A`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LoraInit {
    /// Normal with mean 0 and this standard deviation.
    Gaussian(f64),
    /// Uniform in `±1 / sqrt(in)`: Kaiming with `a = sqrt(5)`, PEFT's default.
    KaimingUniform,
}

/// An error of adapting a model.
#[derive(Debug, thiserror::Error)]
pub enum LoraError {
    /// A target that is no linear layer of the model.
    #[error("no linear layer is called `{name}`; the model has {}", .candidates.join(", "))]
    UnknownTarget {
        /// What was asked for.
        name: String,
        /// Names that would do.
        candidates: Vec<String>,
    },
    /// A regular expression that matches no linear layer.
    #[error("the regular expression `{pattern}` matches no linear layer's whole path, such as `{example}`")]
    UnmatchedTargets {
        /// The expression.
        pattern: String,
        /// A path of the model.
        example: String,
    },
    /// A module to save that is none of the model's.
    #[error("no module's path ends in `{name}` (modules_to_save); the model has {}", .candidates.join(", "))]
    UnknownModule {
        /// What was asked for.
        name: String,
        /// Names that would do.
        candidates: Vec<String>,
    },
    /// A pattern of ranks or alphas that no adapted layer matches.
    #[error("{key}: `{pattern}` matches none of the adapted layers, such as {example}")]
    UnmatchedPattern {
        /// `rank_pattern` or `alpha_pattern`.
        key: &'static str,
        /// The pattern.
        pattern: String,
        /// An adapted layer.
        example: String,
    },
    /// What should be a regular expression and isn't.
    #[error("{key}: `{pattern}` is no regular expression: {reason}")]
    Pattern {
        /// Where it stands.
        key: &'static str,
        /// What stands there.
        pattern: String,
        /// The parser's words.
        reason: String,
    },
    /// Rank, alpha or dropout out of range.
    #[error("LoRA's {field} is {value}, expected {expected}")]
    Value {
        /// Which.
        field: &'static str,
        /// What it is.
        value: f64,
        /// What it may be.
        expected: &'static str,
    },
    /// The model has adapters already, or an adapter is for a layer that it doesn't have.
    #[error("{0}")]
    State(String),
    /// An `adapter_config.json` that asks for something that isn't built.
    #[error("adapter_config.json: `{key}` = {value} is not supported (supported: {supported})")]
    Unsupported {
        /// The key.
        key: &'static str,
        /// What it says.
        value: String,
        /// What is built.
        supported: &'static str,
    },
    /// Tensors that don't fit the config and the base, all of them.
    #[error("the adapter doesn't fit its base: {}", .0.join("; "))]
    Tensors(Vec<String>),
    /// The base's or the adapter's files.
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl LoraConfig {
    /// As the paper's text has it: Gaussian `A`, `alpha = rank`, all linear layers.
    pub fn paper_text(rank: usize) -> Self {
        LoraConfig {
            rank,
            alpha: rank as f64,
            rslora: false,
            dropout: 0.0,
            targets: Targets::AllLinear,
            exclude: None,
            layers: None,
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            modules_to_save: Vec::new(),
            init: LoraInit::Gaussian(0.02),
        }
    }

    /// What PEFT's `LoraConfig(r=rank)` does to a model of this family.
    pub fn peft_default(family: Family, rank: usize) -> Self {
        let targets: &[&str] = match family {
            Family::Gpt2 => &["c_attn"],
            Family::Opt | Family::Llama => &["q_proj", "v_proj"],
            Family::Bert => &["query", "value"],
        };
        LoraConfig {
            alpha: 8.0,
            targets: Targets::Names(targets.iter().map(|&name| name.to_owned()).collect()),
            init: LoraInit::KaimingUniform,
            ..LoraConfig::paper_text(rank)
        }
    }

    /// The factor on `A B`, where no pattern says otherwise.
    pub fn scale(&self) -> f64 {
        self.scale_of(self.rank, self.alpha)
    }

    fn scale_of(&self, rank: usize, alpha: f64) -> f64 {
        alpha / if self.rslora { (rank as f64).sqrt() } else { rank as f64 }
    }

    fn check(&self) -> Result<(), LoraError> {
        let wrong = |field, value, expected| Err(LoraError::Value { field, value, expected });
        if self.rank == 0 || self.rank_pattern.iter().any(|&(_, rank)| rank == 0) {
            return wrong("rank", 0.0, "at least 1");
        }
        for alpha in self.alpha_pattern.iter().map(|&(_, alpha)| alpha).chain([self.alpha]) {
            if !(alpha.is_finite() && alpha > 0.0) {
                return wrong("alpha", alpha, "a positive number");
            }
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return wrong("dropout", self.dropout, "a number from 0 to below 1");
        }
        Ok(())
    }
}

/// Puts fresh adapters on the model's target layers; the outputs stay what they were, since `B = 0`. How one
/// adapter starts depends on the seed and its layer alone, and `A` of a lower rank is the beginning of a higher's.
///
/// A name in `targets`, a pattern, or a module to save that means nothing in this model is an error.
pub fn attach(model: &mut impl Parameterized, config: &LoraConfig, seed: u64) -> Result<(), LoraError> {
    let plan = Plan::new(model, config, Unmatched::Refuse)?;
    attach_with(model, config, &plan, |_, AdapterShape { layer, rank, .. }, [input, output]| {
        let mut stream = Stream::new(seed, &[INIT, layer as u64]);
        let bound = 1.0 / (input as f64).sqrt();
        let draw = |_| match config.init {
            LoraInit::Gaussian(sigma) => (stream.normal() * sigma) as f32,
            LoraInit::KaimingUniform => ((stream.uniform_f64() * 2.0 - 1.0) * bound) as f32,
        };
        let rows: Vec<f32> = (0..rank * input).map(draw).collect();
        (transposed(&rows, rank, input), vec![0.0; rank * output])
    })
}

/// First word of the streams that `A` is drawn from.
const INIT: u64 = 0x6c6f_7261;

/// Adapters with the given `A [in, r]` and `B [r, out]`, asked for by the layer's path, what the plan has for it, and
/// its dims.
pub(crate) fn attach_with(
    model: &mut impl Parameterized,
    config: &LoraConfig,
    plan: &Plan,
    mut factors: impl FnMut(&str, AdapterShape, [usize; 2]) -> (Vec<f32>, Vec<f32>),
) -> Result<(), LoraError> {
    if has_adapters(model) {
        return Err(LoraError::State("the model has adapters already: merge them first".into()));
    }
    if plan.parts_tied {
        model.untie();
    }
    model.set_saved(plan.saved.clone());
    let device = model.device();
    model.each_linear(|path, linear| {
        if let Some(&shape) = plan.adapters.get(path) {
            let (AdapterShape { layer, rank, scale }, [input, output]) = (shape, linear.dims());
            let (a, b) = factors(path, shape, [input, output]);
            linear.lora = Some(LoraAdapter {
                a: Param::from_tensor(ops::from_vec(a, [input, rank], &device)),
                b: Param::from_tensor(ops::from_vec(b, [rank, output], &device)),
                scale,
                dropout: config.dropout,
                stream: layer as u64,
            });
        }
    });
    Ok(())
}

/// Adapters of more rank than their matrix can have, by path: the rank, and the smaller side. They work, and cost more
/// than they can say.
pub fn oversized(model: &impl Parameterized) -> BTreeMap<String, (usize, usize)> {
    let side = |adapter: &LoraAdapter| {
        let ([input, rank], [_, output]) = (adapter.a.val().dims(), adapter.b.val().dims());
        (rank, input.min(output))
    };
    let all = model.adapters().into_iter().map(|(path, adapter)| (path, side(&adapter)));
    all.filter(|&(_, (rank, side))| rank > side).collect()
}

/// Whether any layer is adapted.
pub fn has_adapters(model: &impl Parameterized) -> bool {
    model.parameters().iter().any(|parameter| is_adapter(&parameter.name))
}

/// Whether a parameter of this name belongs to an adapter.
pub(crate) fn is_adapter(name: &str) -> bool {
    name.ends_with(".lora.a") || name.ends_with(".lora.b")
}

/// Adds every adapter into its weight (`W + scale * A B`) and takes it out; what was taken out is given back.
pub fn merge(model: &mut impl Parameterized) -> BTreeMap<String, LoraAdapter> {
    let mut taken = BTreeMap::new();
    model.each_linear(|path, linear| {
        if let Some(adapter) = linear.lora.take() {
            linear.weight = add(&linear.weight, adapter.product());
            taken.insert(path.to_owned(), adapter);
        }
    });
    taken
}

/// Undoes [`merge`], up to rounding: subtracts each product from its weight and puts the adapter back.
pub fn unmerge(model: &mut impl Parameterized, mut adapters: BTreeMap<String, LoraAdapter>) -> Result<(), LoraError> {
    model.each_linear(|path, linear| {
        if let Some(adapter) = adapters.remove(path) {
            linear.weight = add(&linear.weight, adapter.product().neg());
            linear.lora = Some(adapter);
        }
    });
    match adapters.keys().next() {
        None => Ok(()),
        Some(path) => Err(LoraError::State(format!("the model has no linear layer `{path}`"))),
    }
}

fn add(weight: &Param<Tensor<2>>, delta: Tensor<2>) -> Param<Tensor<2>> {
    Param::from_tensor(weight.val().inner() + delta)
}

impl LoraAdapter {
    /// `scale * A B`, dense, `[in, out]`.
    pub fn product(&self) -> Tensor<2> {
        self.a.val().inner().mul_scalar(self.scale).matmul(self.b.val().inner())
    }

    /// Frobenius norm of `scale * A B`, from the two `r x r` Gram matrices: `|AB|^2 = sum(A'A * BB')`.
    pub fn norm(&self) -> f64 {
        let [input, rank] = self.a.val().dims();
        let [_, output] = self.b.val().dims();
        let a = transposed(&values(self.a.val()), input, rank);
        let b = values(self.b.val());
        let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>();
        let mut square = 0.0;
        for i in 0..rank {
            for j in 0..rank {
                let left = dot(&a[i * input..][..input], &a[j * input..][..input]);
                square += left * dot(&b[i * output..][..output], &b[j * output..][..output]);
            }
        }
        self.scale.abs() * square.max(0.0).sqrt()
    }
}

/// Frobenius norm of each change that `tuned` makes to a parameter of `base` (by name, only where there is one):
/// an adapter's product counts as a change of its layer's weight.
pub fn delta_norms<M: Parameterized>(base: &M, tuned: &M) -> BTreeMap<String, f64> {
    let adapters = tuned.adapters();
    let before = base.tensors();
    let mut norms = BTreeMap::new();
    for (name, (_, after)) in tuned.tensors() {
        let Some((_, before)) = before.get(&name) else { continue };
        let square = before.iter().zip(&after).map(|(&x, &y)| (f64::from(y) - f64::from(x)).powi(2)).sum::<f64>();
        if square > 0.0 {
            norms.insert(name, square.sqrt());
        }
    }
    for (path, adapter) in adapters {
        norms.insert(format!("{path}.weight"), adapter.norm());
    }
    norms
}

/// Frobenius norm of the parameters whose names `select` picks, one at a time: all at once may not fit.
pub(crate) fn norm_of(model: &impl Parameterized, select: impl Fn(&str) -> bool) -> f64 {
    struct Squares<F> {
        path: Vec<String>,
        select: F,
        sum: f64,
    }
    impl<F: Fn(&str) -> bool> ModuleVisitor for Squares<F> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if (self.select)(&self.path.join(".")) {
                self.sum += values(param.val().inner()).iter().map(|&value| f64::from(value).powi(2)).sum::<f64>();
            }
        }
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.to_owned());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }
    }
    let mut squares = Squares { path: Vec::new(), select, sum: 0.0 };
    model.visit(&mut squares);
    squares.sum.sqrt()
}

impl<T: Task> Model<T> {
    /// All adapters by the path of their layer.
    pub fn adapters(&self) -> BTreeMap<String, LoraAdapter> {
        Parameterized::adapters(self)
    }
}

//! The networks of the families, as one.

use burn::tensor::{Device, Tensor};

use crate::bert::Bert;
use crate::config::{Family, ModelConfig};
use crate::error::Result;
use crate::gpt2::Gpt2;
use crate::layers::{Embedding, KvCache, Pass};
use crate::llama::Llama;
use crate::opt::Opt;
use crate::weights::Source;

/// The families. A parameter's path in the module is its Hugging Face name.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "there are few models, and each is one of these for good")]
pub enum Network {
    /// GPT-2.
    Gpt2(Gpt2),
    /// OPT.
    Opt(Opt),
    /// Llama.
    Llama(Llama),
    /// BERT.
    Bert(Bert),
}

/// Calls an expression with the network of whichever family.
macro_rules! network {
    ($network:expr, $name:ident => $body:expr) => {
        match $network {
            Network::Gpt2($name) => $body,
            Network::Opt($name) => $body,
            Network::Llama($name) => $body,
            Network::Bert($name) => $body,
        }
    };
}

pub(super) use network;

impl Network {
    pub(super) fn build(config: &ModelConfig, source: &mut impl Source, device: &Device) -> Result<Self> {
        Ok(match config.family {
            Family::Gpt2 => Network::Gpt2(Gpt2::build(config, source, device)?),
            Family::Opt => Network::Opt(Opt::build(config, source, device)?),
            Family::Llama => Network::Llama(Llama::build(config, source, device)?),
            Family::Bert => Network::Bert(Bert::build(config, source, device)?),
        })
    }

    /// How many blocks there are.
    pub(crate) fn blocks(&self) -> usize {
        network!(self, network => network.blocks())
    }

    /// The residual stream before the first block, rows `[batch * seq, hidden]`.
    pub(crate) fn embed(&self, pass: &Pass) -> Tensor<2> {
        pass.enter(0);
        network!(self, network => network.embed(pass))
    }

    /// The stream behind block `layer`, from the one before it. Encoders have no cache.
    pub(crate) fn block(&self, layer: usize, x: Tensor<2>, pass: &Pass, cache: Option<&mut KvCache>) -> Tensor<2> {
        pass.enter(1 + layer);
        match self {
            Network::Gpt2(network) => network.block(layer, x, pass, cache),
            Network::Opt(network) => network.block(layer, x, pass, cache),
            Network::Llama(network) => network.block(layer, x, pass, cache),
            Network::Bert(network) => network.block(layer, x, pass),
        }
    }

    /// The stream behind the last block, rows `[batch * seq, hidden]`. `tap` sees the stream before each block.
    pub(super) fn run(
        &self,
        pass: &Pass,
        mut cache: Option<&mut KvCache>,
        tap: &mut dyn FnMut(&Tensor<2>),
    ) -> Tensor<2> {
        let mut x = self.embed(pass);
        for layer in 0..self.blocks() {
            tap(&x);
            x = self.block(layer, x, pass, cache.as_deref_mut());
        }
        x
    }

    /// Final norm, and logits of the head, of rows `[n, hidden]`.
    pub(super) fn unembed(&self, x: Tensor<2>, pass: &Pass) -> Tensor<2> {
        pass.enter(1 + self.blocks());
        network!(self, network => network.unembed(x, pass))
    }

    pub(super) fn embedding(&self) -> &Embedding {
        match self {
            Network::Gpt2(network) => &network.transformer.wte,
            Network::Opt(network) => &network.model.decoder.embed_tokens,
            Network::Llama(network) => &network.model.embed_tokens,
            Network::Bert(network) => &network.bert.embeddings.word_embeddings,
        }
    }
}

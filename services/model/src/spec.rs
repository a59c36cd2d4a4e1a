//! A model's dimensions and the numbers its forward pass needs: config.json or GGUF metadata, read once,
//! validated, with every scaling already resolved. The engine sees nothing else of the config.

mod tensors;

use crate::family::Family;
pub use crate::rope::{Regime, RopeLayout, RopeScaling, RopeSpec};
use crate::tensor::TensorType;
pub use tensors::ExpectedTensor;

/// Everything the decoder needs to know beside the weights.
#[derive(Debug, Clone)]
pub struct ModelSpec {
    /// As config.json names it: `LlamaForCausalLM`.
    pub architecture: String,
    pub family: &'static Family,
    pub layers: usize,
    pub hidden_size: usize,
    pub heads: usize,
    /// Divides `heads`: each is shared by `heads / kv_heads` query heads.
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Of the MLPs that are not experts.
    pub intermediate_size: usize,
    pub vocabulary_size: usize,
    /// The longest sequence the model was made for, in tokens.
    pub context_length: usize,
    pub norm: NormSpec,
    /// Queries and keys are normed before they are turned.
    pub qk_norm: Option<QkNorm>,
    /// Attention and MLP both read what the layer was given, and their outputs are added to it together.
    pub parallel_residual: bool,
    pub mlp: MlpKind,
    pub activation: Activation,
    /// For the layers that have them.
    pub experts: Option<Experts>,
    /// `attn_sinks.weight` exists: of each head the score of a token without a value.
    pub sinks: bool,
    /// Rows of a table that is added to the embeddings, one for each position.
    pub learned_positions: Option<usize>,
    /// The rotary embeddings that layers choose from.
    pub ropes: Vec<RopeSpec>,
    /// One for each layer.
    pub blocks: Vec<Block>,
    /// Bends scores: `cap * tanh(score / cap)`.
    pub attention_soft_cap: Option<f32>,
    /// Bends logits likewise.
    pub logit_soft_cap: Option<f32>,
    pub embedding_scale: f32,
    /// Multiplies what attention and MLP add to the residual.
    pub residual_scale: f32,
    pub logit_scale: f32,
    /// The output projection is the embedding table; there is no `output.weight`.
    pub tied_embeddings: bool,
    /// `attn_{q,k,v}.bias` exist.
    pub qkv_bias: bool,
    /// `attn_output.bias` exists.
    pub output_bias: bool,
    /// `ffn_{gate,up,down}.bias` exist, those of experts too.
    pub mlp_bias: bool,
    /// `output.bias` exists.
    pub logit_bias: bool,
    pub bos_token_id: Option<u32>,
    /// Generation ends at any of these (config.json joined with generation_config.json).
    pub eos_token_ids: Vec<u32>,
}

/// What differs between layers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Block {
    /// A token sees itself and at most `window - 1` tokens before it; `None` sees all.
    pub window: Option<usize>,
    /// Which of [`ModelSpec::ropes`] turns queries and keys; `None`: they know no position.
    pub rope: Option<usize>,
    /// What scores are multiplied by before the softmax.
    pub attention_scale: f32,
    /// The MLP is a choice of experts.
    pub experts: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NormSpec {
    pub kind: NormKind,
    pub place: NormPlace,
    pub bias: bool,
    pub eps: f64,
    /// What is added to the weights as they are stored: 1 where they were stored less one.
    pub offset: f32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// Divided by the root of the mean square.
    Rms,
    /// The mean taken off first.
    Layer,
}

/// Where a layer norms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormPlace {
    /// What attention and MLP are given, each with its own weights.
    Before,
    /// The same for both: attention's weights.
    BeforeShared,
    /// What they give, before it is added to the residual.
    After,
    BeforeAndAfter,
}

impl NormPlace {
    pub const fn before(self) -> bool {
        !matches!(self, Self::After)
    }

    pub const fn after(self) -> bool {
        matches!(self, Self::After | Self::BeforeAndAfter)
    }
}

/// Over what queries and keys are normed, by the layer norm's own kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorm {
    /// Each head, all with the same `head_dim` weights.
    PerHead,
    /// Each head with weights of its own: `[heads, head_dim]`.
    EachHead,
    /// All heads at once.
    Whole,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MlpKind {
    /// `down(activation(gate(x)) * up(x))`
    Gated,
    /// `down(activation(up(x)))`
    Plain,
}

/// A choice of `used` among `count` gated MLPs for each token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Experts {
    pub count: usize,
    pub used: usize,
    pub intermediate_size: usize,
    /// The weights of the chosen add up to 1; else they are what the softmax over all gave them.
    pub normalized: bool,
    /// `ffn_gate_inp.bias` exists.
    pub router_bias: bool,
    /// The type of their matrices, where the config says that they are packed.
    pub packed: Option<TensorType>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    Silu,
    /// The exact one, with erf.
    Gelu,
    /// The tanh approximation.
    GeluTanh,
    Relu,
    /// `x * sigmoid(alpha * x)` of a gate up to `limit`, times one more than up between `-limit` and `limit`.
    Swiglu {
        alpha: f32,
        limit: f32,
    },
}

impl ModelSpec {
    /// Some models turn the keys of a prompt by how long it is. Prompts of the same stretch that begin the same have the
    /// same keys there; 0 is the usual.
    pub fn stretch(&self, prompt: usize) -> usize {
        self.ropes.iter().map(|rope| rope.stretch(prompt)).max().unwrap_or(0)
    }

    /// Parameters of a model of this spec; tied embeddings count once.
    pub fn parameter_count(&self) -> u64 {
        self.expected_tensors()
            .iter()
            .map(|tensor| {
                crate::tensor::elements(&tensor.shape).expect("the config's caps keep products in 64 bits")
            })
            .sum()
    }
}

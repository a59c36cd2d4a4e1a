//! A model's dimensions and the numbers that its forward pass needs. They are read once from config.json or GGUF
//! metadata and validated, with every scaling already resolved. The engine sees nothing else of the config.

use super::family::Family;
use super::kinds::{Activation, MlpKind, NormKind, NormPlace, QkNorm};
use super::rope::RopeSpec;
use crate::tensor::TensorType;

/// Everything that the decoder needs to know beside the weights.
#[derive(Debug, Clone)]
pub struct ModelSpec {
    /// The architecture as config.json names it: `LlamaForCausalLM`.
    pub architecture: String,
    /// The family that the architecture belongs to.
    pub family: &'static Family,
    /// Number of layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key-value heads. Divides `heads`: each is shared by `heads / kv_heads` query heads.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Inner width of the MLPs that are not experts.
    pub intermediate_size: usize,
    /// Rows of the embedding table.
    pub vocabulary_size: usize,
    /// The longest sequence that the model was made for, in tokens.
    pub context_length: usize,
    /// The layers' norms.
    pub norm: NormSpec,
    /// The norms of queries and keys before their rotation; `None` if they have none.
    pub qk_norm: Option<QkNorm>,
    /// Attention and MLP both read the layer's input, and their outputs are added to it together.
    pub parallel_residual: bool,
    /// The form of the MLP.
    pub mlp: MlpKind,
    /// The MLP's activation function.
    pub activation: Activation,
    /// The experts of the layers that have them ([`LayerSpec::experts`]).
    pub experts: Option<Experts>,
    /// `attn_sinks.weight` exists: each head has the score of an extra token without a value.
    pub attention_sinks: bool,
    /// Rows of the table of positions that is added to the embeddings; `None` where there is no such table.
    pub learned_positions: Option<usize>,
    /// The rotary embeddings that layers choose from ([`LayerSpec::rope`]).
    pub ropes: Vec<RopeSpec>,
    /// One entry for each layer.
    pub layer_specs: Vec<LayerSpec>,
    /// The soft cap of attention scores: `cap * tanh(score / cap)`.
    pub attention_soft_cap: Option<f32>,
    /// The soft cap of logits, of the same form.
    pub logit_soft_cap: Option<f32>,
    /// Multiplies the embeddings.
    pub embedding_scale: f32,
    /// Multiplies the outputs of attention and MLP before they are added to the residual.
    pub residual_scale: f32,
    /// Multiplies the logits.
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
    /// The token that begins a sequence.
    pub bos_token_id: Option<u32>,
    /// Generation ends at any of these (config.json joined with generation_config.json).
    pub eos_token_ids: Vec<u32>,
}

/// The fields in which the layers of one model differ.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerSpec {
    /// The sliding window: a token attends to itself and at most `window - 1` tokens before it. `None`: to all.
    pub window: Option<usize>,
    /// The index in [`ModelSpec::ropes`] of the embedding that rotates queries and keys. `None`: the layer uses no
    /// positions.
    pub rope: Option<usize>,
    /// Multiplies scores before the softmax.
    pub attention_scale: f32,
    /// The MLP is a mixture of experts.
    pub experts: bool,
}

/// The norms of all layers, and the one before the output.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NormSpec {
    /// The way in which a norm scales its input.
    pub kind: NormKind,
    /// The places in a layer where norms are applied.
    pub place: NormPlace,
    /// Norms have a bias.
    pub bias: bool,
    /// Added to the variance or the mean square.
    pub eps: f64,
    /// Added to the stored weights: 1 where files store them less one.
    pub offset: f32,
}

/// A mixture of experts: `used` of `count` gated MLPs for each token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Experts {
    /// Experts in each layer that has them.
    pub count: usize,
    /// Experts that each token uses.
    pub used: usize,
    /// Inner width of one expert.
    pub intermediate_size: usize,
    /// The weights of the chosen experts are normalized to a sum of 1; otherwise they are the softmax over all experts.
    pub normalized: bool,
    /// `ffn_gate_inp.bias` exists.
    pub router_bias: bool,
    /// The type of the experts' matrices where the config says that they are packed.
    pub packed: Option<TensorType>,
}

impl ModelSpec {
    /// Returns which rotary frequencies the keys of a prompt of `prompt_tokens` tokens are rotated by. Some models
    /// choose frequencies by the prompt's length (LongRoPE, dynamic rope). Prompts with equal results that begin alike
    /// have equal keys there; 0 stands for the original frequencies.
    pub fn rope_regime(&self, prompt_tokens: usize) -> usize {
        self.ropes.iter().map(|rope| rope.regime_start(prompt_tokens)).max().unwrap_or(0)
    }
}

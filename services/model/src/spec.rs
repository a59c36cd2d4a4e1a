//! A model's dimensions and the numbers its forward pass needs: config.json or GGUF metadata, read once,
//! validated, with every scaling already resolved. The engine sees nothing else of the config.

use crate::family::Family;

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
    pub intermediate_size: usize,
    pub vocabulary_size: usize,
    /// The longest sequence the model was made for, in tokens.
    pub context_length: usize,
    pub norm_eps: f64,
    pub activation: Activation,
    pub rope: RopeSpec,
    /// What scores are multiplied by before the softmax: `head_dim^-0.5` for the Llama family.
    pub attention_scale: f32,
    /// Per layer: a token sees itself and at most `window - 1` tokens before it; `None` sees all.
    pub sliding_window: Vec<Option<usize>>,
    /// The output projection is the embedding table; there is no `output.weight`.
    pub tied_embeddings: bool,
    /// `attn_{q,k,v}.bias` exist.
    pub qkv_bias: bool,
    /// `attn_output.bias` exists.
    pub output_bias: bool,
    /// `ffn_{gate,up,down}.bias` exist.
    pub mlp_bias: bool,
    pub bos_token_id: Option<u32>,
    /// Generation ends at any of these (config.json joined with generation_config.json).
    pub eos_token_ids: Vec<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    Silu,
    /// The exact one, with erf.
    Gelu,
    /// The tanh approximation.
    GeluTanh,
}

/// Rotary position embedding with all scaling resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeSpec {
    pub layout: RopeLayout,
    /// Angle per position of each rotated pair; length = rotated dimensions / 2. Dimensions beyond
    /// `2 * inverse_frequencies.len()` pass unrotated.
    pub inverse_frequencies: Vec<f32>,
    /// Multiplies cos and sin (yarn, longrope); 1 otherwise.
    pub attention_factor: f32,
}

/// Which dimensions form a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeLayout {
    /// `(i, i + n/2)`: Hugging Face weights, and GGUF of the families llama.cpp calls NEOX.
    Half,
    /// `(2i, 2i + 1)`: GGUF files of Llama and Mistral, whose q and k rows the converter permuted.
    Interleaved,
}

/// A tensor that a model of some spec has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedTensor {
    /// Canonical.
    pub name: String,
    /// Row-major, outermost first.
    pub shape: Vec<usize>,
}

impl ModelSpec {
    /// Every tensor the decoder reads, in the order in which it needs them.
    pub fn expected_tensors(&self) -> Vec<ExpectedTensor> {
        let mut tensors = Vec::with_capacity(3 + self.layers * 19);
        let mut add =
            |name: String, shape: &[usize]| tensors.push(ExpectedTensor { name, shape: shape.to_vec() });
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let (query, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        add("token_embd.weight".to_owned(), &[self.vocabulary_size, hidden]);
        for layer in 0..self.layers {
            let projections = [
                ("attn_q", query, hidden, self.qkv_bias),
                ("attn_k", kv, hidden, self.qkv_bias),
                ("attn_v", kv, hidden, self.qkv_bias),
                ("attn_output", hidden, query, self.output_bias),
                ("ffn_gate", inner, hidden, self.mlp_bias),
                ("ffn_up", inner, hidden, self.mlp_bias),
                ("ffn_down", hidden, inner, self.mlp_bias),
            ];
            add(format!("blk.{layer}.attn_norm.weight"), &[hidden]);
            add(format!("blk.{layer}.ffn_norm.weight"), &[hidden]);
            for (name, rows, columns, has_bias) in projections {
                add(format!("blk.{layer}.{name}.weight"), &[rows, columns]);
                if has_bias {
                    add(format!("blk.{layer}.{name}.bias"), &[rows]);
                }
            }
        }
        add("output_norm.weight".to_owned(), &[hidden]);
        if !self.tied_embeddings {
            add("output.weight".to_owned(), &[self.vocabulary_size, hidden]);
        }
        tensors
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

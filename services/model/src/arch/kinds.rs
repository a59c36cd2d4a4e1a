//! The small choices that families and specifications share. This file imports nothing of the crate.

/// The way in which a norm scales its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// RMSNorm: divides by the root of the mean square.
    Rms,
    /// LayerNorm: subtracts the mean first.
    Layer,
}

/// The places in a layer where norms are applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormPlace {
    /// On the inputs of attention and MLP, each with its own weights.
    Before,
    /// On the inputs of attention and MLP, both with attention's weights.
    BeforeShared,
    /// On the outputs of attention and MLP, before they are added to the residual.
    After,
    /// On inputs and outputs, each with its own weights.
    BeforeAndAfter,
}

impl NormPlace {
    /// Returns whether inputs are normed.
    pub const fn before(self) -> bool {
        !matches!(self, Self::After)
    }

    /// Returns whether outputs are normed.
    pub const fn after(self) -> bool {
        matches!(self, Self::After | Self::BeforeAndAfter)
    }
}

/// The span over which queries and keys are normed. The kind of norm is the layers' own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorm {
    /// Each head by itself, all with the same weights `[head_dim]`.
    PerHead,
    /// Each head by itself, with its own weights: `[heads, head_dim]`.
    EachHead,
    /// All heads together.
    Whole,
}

/// The form of the MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MlpKind {
    /// `down(activation(gate(x)) * up(x))`
    Gated,
    /// `down(activation(up(x)))`
    Plain,
}

/// The activation function of the MLP.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    /// `x * sigmoid(x)`
    Silu,
    /// GELU with erf, without approximation.
    Gelu,
    /// The tanh approximation of GELU.
    GeluTanh,
    /// `max(x, 0)`
    Relu,
    /// gpt-oss's SwiGLU: `g * sigmoid(alpha * g) * (u + 1)`, where `g` is the gate clamped to at most `limit`, and `u`
    /// is up clamped to `-limit..=limit`.
    Swiglu {
        /// The factor within the sigmoid.
        alpha: f32,
        /// The bound of both inputs.
        limit: f32,
    },
}

/// The dimensions of a head that form a rotated pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeLayout {
    /// `(i, i + n/2)`: most Hugging Face weights, and GGUF files of the families that llama.cpp calls NEOX.
    Half,
    /// `(2i, 2i + 1)`: Cohere and GLM, and GGUF files of Llama and Mistral, whose q and k rows the converter permutes.
    Interleaved,
}

/// The parameters of YaRN (Peng et al., 2023), under the names of transformers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Yarn {
    /// The factor by which the context grows.
    pub factor: f64,
    /// Pairs that rotate more often than this within the original context keep their frequency.
    pub beta_fast: f64,
    /// Pairs that rotate less often than this within the original context are divided by `factor`.
    pub beta_slow: f64,
    /// Tokens of the context that the model was pretrained with.
    pub original_context: usize,
    /// True if the bounds between the two are rounded to whole pairs.
    pub truncate: bool,
}

//! The outline of a model: its layers with their modules, tensors and hook points.

use super::hook::Hook;
use crate::tensor::TensorInfo;

/// A model's layers, tensors and hook points.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelOutline {
    /// Elements of all tensors.
    pub parameters: u64,
    /// Bytes of all tensors as stored.
    pub bytes: u64,
    /// The hook points that belong to no layer.
    pub hook_points: Vec<HookOutline>,
    /// The layers, in order.
    pub layers: Vec<LayerOutline>,
    /// The modules that belong to no layer: embeddings, the last norm, the output.
    pub modules: Vec<ModuleOutline>,
}

/// One layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerOutline {
    /// The layer's number, from 0.
    pub layer: usize,
    /// A line about attention: "sliding attention (window 512)".
    pub attention: String,
    /// A line about the MLP: "gated MLP", "8 experts, 2 used".
    pub mlp: String,
    /// The modules, in the order in which they are computed.
    pub modules: Vec<ModuleOutline>,
    /// The hook points, in the order in which they are computed.
    pub hook_points: Vec<HookOutline>,
    /// Elements of its tensors.
    pub parameters: u64,
    /// Bytes of its tensors as stored.
    pub bytes: u64,
}

/// One module: a norm, attention, the MLP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleOutline {
    /// The module's name: "attn_norm", "attn", "mlp", "experts".
    pub name: String,
    /// Its tensors, in the order in which the decoder reads them.
    pub tensors: Vec<TensorOutline>,
    /// Elements of its tensors.
    pub parameters: u64,
    /// Bytes of its tensors as stored.
    pub bytes: u64,
}

/// One tensor, or the tensors of one kind of consecutive experts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorOutline {
    /// The canonical name: `blk.0.attn_q.weight`; of experts `blk.0.ffn_gate.{0..7}.weight`.
    pub name: String,
    /// Row-major, outermost dimension first. That of experts begins with their number.
    pub shape: Vec<usize>,
    /// The element type's name: `BF16`, `Q4_K`.
    pub dtype: &'static str,
    /// Elements.
    pub parameters: u64,
    /// Bytes as stored.
    pub bytes: u64,
}

/// One hook point of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookOutline {
    /// The hook.
    pub hook: Hook,
    /// The shape of one token's values. 0 stands for the number of keys.
    pub shape: Vec<usize>,
    /// Whether an intervention may change the values.
    pub writable: bool,
    /// A line for people.
    pub about: &'static str,
}

impl ModuleOutline {
    /// Makes the entry of a module with these tensors.
    pub(super) fn new(name: &str, tensors: Vec<TensorOutline>) -> Self {
        let (parameters, bytes) = sum(tensors.iter().map(|tensor| (tensor.parameters, tensor.bytes)));
        Self { name: name.to_owned(), tensors, parameters, bytes }
    }
}

impl TensorOutline {
    /// Returns the entry of one tensor.
    pub(super) fn of(tensor: &TensorInfo) -> Self {
        Self {
            name: tensor.name.clone(),
            shape: tensor.shape.clone(),
            dtype: tensor.ty.name(),
            parameters: tensor.elements(),
            bytes: tensor.bytes,
        }
    }
}

/// Returns the sums of parameters and bytes.
pub(super) fn sum(parts: impl Iterator<Item = (u64, u64)>) -> (u64, u64) {
    parts.fold((0, 0), |(parameters, bytes), part| (parameters + part.0, bytes + part.1))
}

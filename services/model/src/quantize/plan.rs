//! The type of each tensor: llama.cpp's mixes (`llama-quantize`'s Q2_K, Q4_K_M and Q8_0), and its replacements where
//! rows are not whole blocks.

use super::gguf_layout::gguf_tensors;
use crate::arch::spec::ModelSpec;
use crate::tensor::{TensorInfo, TensorType};

/// A quantization that people can choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// The Q2_K mix, about 3 bits per weight.
    Q2,
    /// The Q4_K_M mix, about 4.9 bits per weight.
    Q4,
    /// Q8_0, 8.5 bits per weight.
    Q8,
    /// F16 and BF16 stay as published, F32 matrices become F16.
    Fp16,
    /// All F32, without loss: for comparisons.
    Fp32,
}

/// One tensor of the file to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedTensor {
    /// The tensor as it will be written.
    pub info: TensorInfo,
    /// The source's tensors that it is made of, in order.
    pub parts: Vec<String>,
    /// The reason why it does not have the type that the scheme prefers.
    pub reason: Option<String>,
}

/// The plan of a whole file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The scheme that can be applied, which is higher than the requested one where that cannot be.
    pub scheme: Scheme,
    /// The reason why it is not the requested scheme.
    pub reason: Option<String>,
    /// The tensors, in the order in which they are written.
    pub tensors: Vec<PlannedTensor>,
}

impl Scheme {
    /// Returns the name that people write.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Q2 => "Q2",
            Self::Q4 => "Q4",
            Self::Q8 => "Q8",
            Self::Fp16 => "FP16",
            Self::Fp32 => "FP32",
        }
    }

    /// Returns the next higher scheme; `None` from FP16 on.
    pub const fn next(self) -> Option<Self> {
        match self {
            Self::Q2 => Some(Self::Q4),
            Self::Q4 => Some(Self::Q8),
            Self::Q8 => Some(Self::Fp16),
            Self::Fp16 | Self::Fp32 => None,
        }
    }

    /// Returns whether a matrix of this type is as small as the scheme promises.
    const fn promises(self, ty: TensorType) -> bool {
        use TensorType::{Q2K, Q3K, Q4_0, Q4K, Q5_0, Q5K, Q6K, Q8_0};
        match self {
            Self::Q2 => matches!(ty, Q2K | Q3K),
            Self::Q4 => matches!(ty, Q4K | Q5K | Q6K | Q4_0 | Q5_0),
            Self::Q8 => matches!(ty, Q8_0),
            Self::Fp16 | Self::Fp32 => true,
        }
    }
}

impl std::fmt::Display for Scheme {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(self.name())
    }
}

/// Plans every tensor. Takes the next higher scheme while no matrix can have a type that the current one promises, which
/// happens where rows are not whole blocks.
pub fn plan<'a>(scheme: Scheme, tensors: impl IntoIterator<Item = &'a TensorInfo>, spec: &ModelSpec) -> Plan {
    let tensors = gguf_tensors(tensors, spec);
    let mut actual = scheme;
    loop {
        let planned: Vec<_> =
            tensors.iter().map(|(tensor, parts)| plan_tensor(actual, tensor, parts.clone(), spec)).collect();
        let applies = planned.iter().any(|t| t.info.shape.len() > 1 && actual.promises(t.info.ty));
        match actual.next() {
            Some(next) if !applies => actual = next,
            _ => {
                let reason = (actual != scheme).then(|| {
                    format!("no matrix has rows that {scheme} can be applied to; {actual} was used")
                });
                return Plan { scheme: actual, reason, tensors: planned };
            }
        }
    }
}

/// Returns the bytes of all tensor data under a scheme, for estimates and disk checks before anything is read.
pub fn planned_bytes<'a>(
    scheme: Scheme,
    tensors: impl IntoIterator<Item = &'a TensorInfo>,
    spec: &ModelSpec,
) -> u64 {
    plan(scheme, tensors, spec).tensors.iter().map(|tensor| tensor.info.bytes).sum()
}

/// Returns the type of one tensor under a scheme.
pub fn tensor_type_for(scheme: Scheme, tensor: &TensorInfo, spec: &ModelSpec) -> TensorType {
    plan_tensor(scheme, tensor, Vec::new(), spec).info.ty
}

fn plan_tensor(scheme: Scheme, tensor: &TensorInfo, parts: Vec<String>, spec: &ModelSpec) -> PlannedTensor {
    if is_native(tensor.ty) {
        let reason = format!("published as {}, which is kept", tensor.ty);
        return PlannedTensor { info: tensor.clone(), parts, reason: Some(reason) };
    }
    let wanted = preferred(scheme, tensor, spec);
    let mut ty = wanted;
    let bytes = loop {
        match ty.bytes_for(&tensor.shape) {
            Some(bytes) => break bytes,
            None => ty = replacement(ty),
        }
    };
    let columns = tensor.shape.last().copied().unwrap_or(1);
    let reason = (ty != wanted)
        .then(|| format!("{wanted} needs rows of whole {}s, these have {columns}", wanted.block_size()));
    PlannedTensor {
        info: TensorInfo { name: tensor.name.clone(), ty, shape: tensor.shape.clone(), bytes },
        parts,
        reason,
    }
}

/// Returns whether models are trained in this quantized type. Such tensors keep it: there is no finer version to quantize
/// from, and little to gain.
pub(super) const fn is_native(ty: TensorType) -> bool {
    matches!(ty, TensorType::MXFP4)
}

/// Returns the type that llama.cpp takes where rows are not whole blocks. F16 has no blocks.
const fn replacement(ty: TensorType) -> TensorType {
    match ty {
        TensorType::Q2K | TensorType::Q3K => TensorType::Q4_0,
        TensorType::Q4K => TensorType::Q5_0,
        TensorType::Q5K | TensorType::Q6K => TensorType::Q8_0,
        _ => TensorType::F16,
    }
}

/// Returns the type that the scheme prefers.
fn preferred(scheme: Scheme, tensor: &TensorInfo, spec: &ModelSpec) -> TensorType {
    // Norms, biases, routers and positions are small, and errors in them cost much.
    let sensitive = ["_norm.weight", "ffn_gate_inp.weight", "position_embd.weight", ".bias"];
    if tensor.shape.len() < 2 || sensitive.iter().any(|name| tensor.name.ends_with(name)) {
        return TensorType::F32;
    }
    match scheme {
        Scheme::Fp32 => TensorType::F32,
        Scheme::Fp16 if tensor.ty == TensorType::BF16 => TensorType::BF16,
        Scheme::Fp16 => TensorType::F16,
        Scheme::Q8 => TensorType::Q8_0,
        Scheme::Q4 => q4(Role::of(&tensor.name, spec), spec),
        Scheme::Q2 => q2(Role::of(&tensor.name, spec), spec),
    }
}

/// The kinds of tensors that the mixes distinguish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// The matrix that computes the logits: the output matrix, or the embedding where the two are tied.
    Output,
    Embedding,
    Value {
        layer: usize,
    },
    /// Queries, keys and values in one tensor.
    Fused,
    AttentionOutput,
    Down {
        layer: usize,
    },
    Other,
}

impl Role {
    fn of(name: &str, spec: &ModelSpec) -> Self {
        match name {
            "output.weight" => return Self::Output,
            "token_embd.weight" if spec.tied_embeddings => return Self::Output,
            "token_embd.weight" => return Self::Embedding,
            _ => {}
        }
        let Some((layer, part)) = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) else {
            return Self::Other;
        };
        let layer = layer.parse().unwrap_or(0);
        match part {
            "attn_v.weight" => Self::Value { layer },
            "attn_qkv.weight" => Self::Fused,
            "attn_output.weight" => Self::AttentionOutput,
            "ffn_down.weight" | "ffn_down_exps.weight" => Self::Down { layer },
            _ => Self::Other,
        }
    }
}

fn q4(role: Role, spec: &ModelSpec) -> TensorType {
    match role {
        Role::Output => TensorType::Q6K,
        Role::Value { layer } | Role::Down { layer } if use_more_bits(layer, spec.layers) => TensorType::Q6K,
        // Llama 70B shares each value head among eight query heads, so more bits cost little.
        Role::Value { .. } if spec.layers == 80 && shared_by(spec) >= 8 => TensorType::Q5K,
        Role::Fused => TensorType::Q5K,
        _ => TensorType::Q4K,
    }
}

fn q2(role: Role, spec: &ModelSpec) -> TensorType {
    match role {
        Role::Output => TensorType::Q6K,
        Role::Value { .. } if spec.layers == 80 && shared_by(spec) >= 8 => TensorType::Q5K,
        Role::Value { .. } if shared_by(spec) >= 4 => TensorType::Q4K,
        Role::Value { .. } | Role::AttentionOutput | Role::Down { .. } => TensorType::Q3K,
        Role::Embedding | Role::Fused | Role::Other => TensorType::Q2K,
    }
}

/// Returns the number of query heads for each key-value head.
const fn shared_by(spec: &ModelSpec) -> usize {
    spec.heads / spec.kv_heads
}

/// Returns whether a layer gets more bits: the first and last eighth of the layers, and every third between.
const fn use_more_bits(layer: usize, layers: usize) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;

//! Which type each tensor gets: llama.cpp's mixes (`llama-quantize`'s Q2_K, Q4_K_M and Q8_0), and what stands in
//! where rows are not whole blocks.

use super::written::written;
use crate::spec::ModelSpec;
use crate::tensor::{TensorInfo, TensorType};

/// What a person asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// The Q2_K mix, about 3 bits a weight.
    Q2,
    /// Q4_K_M, about 4.9 bits a weight.
    Q4,
    /// Q8_0, 8.5 bits a weight.
    Q8,
    /// F16 and BF16 stay as published, F32 matrices become F16.
    Fp16,
    /// All F32: nothing is lost, for comparisons.
    Fp32,
}

/// One tensor of the file to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedTensor {
    /// As it will be written.
    pub info: TensorInfo,
    /// The source's tensors that it is made of, one after the other.
    pub parts: Vec<String>,
    /// Why it is not the type that the scheme prefers.
    pub reason: Option<String>,
}

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What can be applied; above what was asked for where that cannot.
    pub scheme: Scheme,
    /// Why it is not what was asked for.
    pub reason: Option<String>,
    pub tensors: Vec<PlannedTensor>,
}

impl Scheme {
    /// As people write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Q2 => "Q2",
            Self::Q4 => "Q4",
            Self::Q8 => "Q8",
            Self::Fp16 => "FP16",
            Self::Fp32 => "FP32",
        }
    }

    /// The next higher one that people ask for; `None` above FP16.
    pub const fn next(self) -> Option<Self> {
        match self {
            Self::Q2 => Some(Self::Q4),
            Self::Q4 => Some(Self::Q8),
            Self::Q8 => Some(Self::Fp16),
            Self::Fp16 | Self::Fp32 => None,
        }
    }

    /// Whether a matrix of this type is what the scheme promises (FP16 promises nothing smaller).
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

/// Plans every tensor. Goes to the next higher scheme while no matrix could have a type that the one at hand
/// promises (rows too short or odd).
pub fn plan<'a>(scheme: Scheme, tensors: impl IntoIterator<Item = &'a TensorInfo>, spec: &ModelSpec) -> Plan {
    let tensors = written(tensors, spec);
    let mut actual = scheme;
    loop {
        let planned: Vec<_> =
            tensors.iter().map(|(tensor, parts)| plan_tensor(actual, tensor, parts.clone(), spec)).collect();
        let kept = planned.iter().any(|t| t.info.shape.len() > 1 && actual.promises(t.info.ty));
        match actual.next() {
            Some(next) if !kept => actual = next,
            _ => {
                let reason = (actual != scheme).then(|| {
                    format!("no matrix has rows that {scheme} can be applied to; {actual} was used")
                });
                return Plan { scheme: actual, reason, tensors: planned };
            }
        }
    }
}

/// Bytes of all tensor data under a scheme: what estimates and disk checks ask before anything is read.
pub fn planned_bytes<'a>(
    scheme: Scheme,
    tensors: impl IntoIterator<Item = &'a TensorInfo>,
    spec: &ModelSpec,
) -> u64 {
    plan(scheme, tensors, spec).tensors.iter().map(|tensor| tensor.info.bytes).sum()
}

/// The type of one tensor under a scheme.
pub fn tensor_type_for(scheme: Scheme, tensor: &TensorInfo, spec: &ModelSpec) -> TensorType {
    plan_tensor(scheme, tensor, Vec::new(), spec).info.ty
}

fn plan_tensor(scheme: Scheme, tensor: &TensorInfo, parts: Vec<String>, spec: &ModelSpec) -> PlannedTensor {
    if kept(tensor.ty) {
        let reason = format!("published as {}, and kept so", tensor.ty);
        return PlannedTensor { info: tensor.clone(), parts, reason: Some(reason) };
    }
    let wanted = preferred(scheme, tensor, spec);
    let mut ty = wanted;
    let bytes = loop {
        match ty.bytes_for(&tensor.shape) {
            Some(bytes) => break bytes,
            None => ty = stand_in(ty),
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

/// What models are made in stays as it is: there is nothing finer to be quantized from, and little smaller.
pub(super) const fn kept(ty: TensorType) -> bool {
    matches!(ty, TensorType::MXFP4)
}

/// What llama.cpp takes for rows that are not whole blocks; F16 has no blocks.
const fn stand_in(ty: TensorType) -> TensorType {
    match ty {
        TensorType::Q2K | TensorType::Q3K => TensorType::Q4_0,
        TensorType::Q4K => TensorType::Q5_0,
        TensorType::Q5K | TensorType::Q6K => TensorType::Q8_0,
        _ => TensorType::F16,
    }
}

fn preferred(scheme: Scheme, tensor: &TensorInfo, spec: &ModelSpec) -> TensorType {
    // Norms and biases are small and delicate; what chooses experts or says where a token stands is no less.
    let delicate = ["_norm.weight", "ffn_gate_inp.weight", "position_embd.weight", ".bias"];
    if tensor.shape.len() < 2 || delicate.iter().any(|name| tensor.name.ends_with(name)) {
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

/// What the mixes tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Makes the logits: the output matrix, or the embedding where the two are one.
    Output,
    Embedding,
    Value {
        layer: usize,
    },
    /// Queries, keys and values in one.
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
        // Llama 70B shares each value head among eight: a little more costs nothing.
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

/// Query heads to each key-value head.
const fn shared_by(spec: &ModelSpec) -> usize {
    spec.heads / spec.kv_heads
}

/// The first and last eighth of the layers, and every third between.
const fn use_more_bits(layer: usize, layers: usize) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;

//! The tensors of a family's GGUF file. Most are those that the decoder reads; some join several of these, as llama.cpp's
//! graphs need them.

use std::collections::HashMap;

use crate::arch::spec::ModelSpec;
use crate::arch::tensor_names::TensorName;
use crate::tensor::{TensorInfo, TensorType};

/// Returns the file's tensors (of the source's types), each with the names of the tensors that it is made of, in the order
/// of the first of these.
pub(super) fn gguf_tensors<'a>(
    tensors: impl IntoIterator<Item = &'a TensorInfo>,
    spec: &ModelSpec,
) -> Vec<(TensorInfo, Vec<String>)> {
    let mut list: Vec<(TensorInfo, Vec<String>)> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for tensor in tensors {
        let target = Target::of(&tensor.name, spec);
        let at = *places.entry(target.name.clone()).or_insert(list.len());
        if at < list.len() {
            let (whole, parts) = &mut list[at];
            whole.shape[0] += if target.stacked { 1 } else { tensor.shape[0] };
            whole.bytes += tensor.bytes;
            whole.ty = common_type(whole.ty, tensor.ty);
            parts.push(tensor.name.clone());
            continue;
        }
        let stack: &[usize] = if target.stacked { &[1] } else { &[] };
        let whole =
            TensorInfo { name: target.name, shape: [stack, &tensor.shape].concat(), ..tensor.clone() };
        list.push((whole, vec![tensor.name.clone()]));
    }
    list
}

/// Returns a type that holds the values of both. Published parts nearly always have one type.
fn common_type(a: TensorType, b: TensorType) -> TensorType {
    if a == b { a } else { TensorType::F32 }
}

/// The tensor of the file that holds one of the decoder's.
struct Target {
    name: String,
    /// The file's tensor is a stack of matrices.
    stacked: bool,
}

impl Target {
    /// Finds the file's tensor for one of the decoder's.
    fn of(name: &str, spec: &ModelSpec) -> Self {
        let alone = || Self { name: name.to_owned(), stacked: false };
        let Some((block, layer_part)) = name
            .strip_prefix("blk.")
            .and_then(|rest| rest.split_once('.'))
            .map(|(layer, part)| (format!("blk.{layer}"), part))
        else {
            return alone();
        };
        let pieces: Vec<&str> = layer_part.split('.').collect();
        let own = |tensor: &&TensorName| tensor.canonical.strip_prefix("blk.{}.") == Some(layer_part);
        if let Some((_, stored)) =
            spec.family.gguf.names.iter().find(own).and_then(|own| own.stored.split_once("{}"))
        {
            return Self { name: format!("{block}{stored}"), stacked: false };
        }
        match (pieces.as_slice(), &spec.family.gguf) {
            ([part, _expert, kind], _) => Self { name: format!("{block}.{part}_exps.{kind}"), stacked: true },
            (["attn_q" | "attn_k" | "attn_v", kind], gguf) if gguf.fused_qkv => {
                Self { name: format!("{block}.attn_qkv.{kind}"), stacked: false }
            }
            (["ffn_gate" | "ffn_up", kind], gguf) if gguf.fused_gate_up => {
                Self { name: format!("{block}.ffn_up.{kind}"), stacked: false }
            }
            _ => alone(),
        }
    }
}

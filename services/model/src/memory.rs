//! The bytes that a model takes on disk and in memory, computed from its specification and its tensors' infos alone:
//! before anything is downloaded, quantized or loaded.

use crate::arch::spec::ModelSpec;
use crate::quantize::{Scheme, planned_bytes};
use crate::tensor::TensorInfo;

/// The bytes of a process's stacks, of the requests' own buffers, and of the allocator's rounding and caches.
pub const PROCESS_BYTES: u64 = 4 << 20;
/// The bytes of one token in the tokenizer's maps.
const TOKEN_BYTES: u64 = 512;

/// The default number of prompt tokens in one forward pass.
pub const PREFILL_CHUNK: usize = 256;
/// The default bytes of a number in the KV cache: f16.
pub const KV_ELEMENT_BYTES: usize = 2;

/// The load that a model is run under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workload {
    /// Tokens of prompt and answer of one request. The model's own context length bounds it.
    pub context_length: usize,
    /// Concurrent requests, each with room for a whole context.
    pub slots: usize,
    /// Tokens of all requests together, where the cache has room for fewer than whole contexts.
    pub kv_tokens: Option<usize>,
    /// Prompt tokens in one forward pass.
    pub prefill_chunk: usize,
    /// Bytes of one number in the KV cache: 2 for f16.
    pub kv_element_bytes: usize,
}

impl Workload {
    /// Returns the load of a server with these settings, and defaults for the rest.
    pub const fn served(context_length: usize, slots: usize, kv_tokens: Option<usize>) -> Self {
        let (prefill_chunk, kv_element_bytes) = (PREFILL_CHUNK, KV_ELEMENT_BYTES);
        Self { context_length, slots, kv_tokens, prefill_chunk, kv_element_bytes }
    }
}

/// An estimate of memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// The loaded tensors.
    pub weights: u64,
    /// Keys and values of all tokens.
    pub kv_cache: u64,
    /// The intermediate results of forward passes.
    pub activations: u64,
    /// The process itself, and the tokenizer.
    pub overhead: u64,
}

impl MemoryEstimate {
    /// Returns the sum of all parts.
    pub fn total(&self) -> u64 {
        [self.kv_cache, self.activations, self.overhead].into_iter().fold(self.weights, u64::saturating_add)
    }
}

/// Returns the bytes of the keys and values of `context` tokens in all layers.
pub fn kv_cache_bytes(spec: &ModelSpec, context: usize, element_bytes: usize) -> u64 {
    [spec.kv_heads, spec.head_dim, context, element_bytes]
        .into_iter()
        .fold(2 * spec.layers as u64, |product, factor| product.saturating_mul(factor as u64))
}

/// Returns the bytes of loaded tensors: matrices stay as stored, norms and biases are held as f32.
pub fn loaded_bytes<'a>(tensors: impl IntoIterator<Item = &'a TensorInfo>) -> u64 {
    tensors
        .into_iter()
        .map(|tensor| {
            let vector = tensor.shape.len() == 1 || tensor.name.ends_with("_norm.weight");
            if vector { 4 * tensor.elements() } else { tensor.bytes }
        })
        .sum()
}

/// Returns the numbers that one row of a batch needs in a layer: the residual, the residual of a batch that is paused
/// between layers, two more states (three with a parallel residual), queries and attention's output, keys and values, gate
/// and up, and the experts' scores, inputs and outputs.
pub fn row_width(spec: &ModelSpec) -> usize {
    let attention_output = if spec.parallel_residual { spec.hidden_size } else { 0 };
    let experts = spec.experts.map_or(0, |experts| experts.count + 2 * spec.hidden_size);
    4 * spec.hidden_size
        + attention_output
        + 2 * (spec.heads + spec.kv_heads) * spec.head_dim
        + 2 * mlp_width(spec)
        + experts
}

/// Returns the inner width of the widest MLP.
pub fn mlp_width(spec: &ModelSpec) -> usize {
    let experts = spec.experts.map_or(0, |experts| experts.intermediate_size);
    let all_experts = spec.layer_specs.iter().all(|layer| layer.experts);
    if all_experts { experts } else { experts.max(spec.intermediate_size) }
}

/// Estimates the memory of a model. `weights_bytes` comes from [`loaded_bytes`], or from a plan ([`quantized_sizes`]).
pub fn estimate(spec: &ModelSpec, weights_bytes: u64, workload: &Workload) -> MemoryEstimate {
    let context = workload.context_length.min(spec.context_length);
    let slots = workload.slots as u64;
    let whole = context.saturating_mul(workload.slots);
    let tokens = workload.kv_tokens.map_or(whole, |tokens| whole.min(tokens));
    // Activations are f32. Each slot has a row of logits too.
    let row = row_width(spec);
    let rows = slots.saturating_add(workload.prefill_chunk as u64);
    let vocabulary = spec.vocabulary_size as u64;
    let numbers = rows.saturating_mul(row as u64).saturating_add(slots.saturating_mul(vocabulary));
    MemoryEstimate {
        weights: weights_bytes,
        kv_cache: kv_cache_bytes(spec, tokens, workload.kv_element_bytes),
        activations: numbers.saturating_mul(4),
        overhead: PROCESS_BYTES + TOKEN_BYTES * vocabulary,
    }
}

/// Returns the bytes of all tensor data under each scheme, the smallest first, and as published (`None`). The published
/// size may be a little less than FP16's, since schemes store vectors in f32.
pub fn quantized_sizes(spec: &ModelSpec, tensors: &[TensorInfo]) -> Vec<(Option<Scheme>, u64)> {
    let quantized = [Scheme::Q2, Scheme::Q4, Scheme::Q8, Scheme::Fp16]
        .map(|scheme| (Some(scheme), planned_bytes(scheme, tensors, spec)));
    let published = tensors.iter().map(|tensor| tensor.bytes).sum();
    quantized.into_iter().chain([(None, published)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Checkpoint;

    fn tiny() -> Checkpoint {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/tiny-millm");
        Checkpoint::open(std::path::Path::new(path)).expect("fixtures are in tests/fixtures")
    }

    #[test]
    fn an_estimate_is_its_parts() {
        let checkpoint = tiny();
        let spec = checkpoint.spec();
        let workload = Workload {
            context_length: 1 << 30,
            slots: 2,
            kv_tokens: None,
            prefill_chunk: 256,
            kv_element_bytes: 2,
        };
        let estimate = estimate(spec, loaded_bytes(checkpoint.tensors()), &workload);
        // 4 layers, keys and values, 4 heads of 32, 2048 tokens at most, 2 slots, 2 bytes.
        assert_eq!(estimate.kv_cache, 4 * 2 * 4 * 32 * 2048 * 2 * 2);
        let less = Workload { kv_tokens: Some(100), ..workload };
        assert_eq!(super::estimate(spec, 0, &less).kv_cache, 4 * 2 * 4 * 32 * 100 * 2);
        assert_eq!(estimate.activations, 4 * (258 * (4 * 256 + 2 * 12 * 32 + 2 * 768) + 2 * 2048));
        let norms = 9 * 256;
        assert_eq!(estimate.weights, 2 * checkpoint.parameter_count() + 2 * norms);
        assert_eq!(
            estimate.total(),
            estimate.weights + estimate.kv_cache + estimate.activations + estimate.overhead
        );
    }

    #[test]
    fn absurd_workloads_do_not_overflow() {
        let checkpoint = tiny();
        let most = usize::MAX;
        let workload = Workload {
            context_length: most,
            slots: most,
            kv_tokens: None,
            prefill_chunk: most,
            kv_element_bytes: most,
        };
        assert_eq!(estimate(checkpoint.spec(), u64::MAX, &workload).total(), u64::MAX);
    }

    /// The mixes are llama.cpp's, so its files of the same model have data of the same size.
    #[test]
    fn sizes_grow_with_the_scheme_and_match_llama_cpp() {
        let checkpoint = tiny();
        let tensors: Vec<TensorInfo> = checkpoint.tensors().cloned().collect();
        let sizes = quantized_sizes(checkpoint.spec(), &tensors);
        assert!(sizes[..4].windows(2).all(|pair| pair[0].1 <= pair[1].1), "{sizes:?}");
        for (scheme, file) in [(Scheme::Q2, "Q2_K"), (Scheme::Q4, "Q4_K_M"), (Scheme::Q8, "Q8_0")] {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/tiny-millm-gguf");
            let theirs = Checkpoint::open(&std::path::Path::new(path).join(format!("tiny-{file}.gguf")))
                .expect("good");
            assert!(sizes.contains(&(Some(scheme), theirs.weights_bytes())), "{file}: {sizes:?}");
        }
    }
}

//! The facts that the Catalog keeps of a model: from its files once they are there, from headers before.

use std::path::Path;

use millm_kit::ServiceError;
use millm_model::{Checkpoint, ModelSpec};
use millm_proto::catalog::v1::{Architecture, Model};

use crate::error::of_model;

/// For what memory is estimated: the server's settings.
#[derive(Debug, Clone, Copy)]
pub struct Workload {
    pub context_length: u32,
    pub parallel_requests: u32,
}

/// Prompt tokens in one forward pass, as the engine has it unless told otherwise.
const PREFILL_ROWS: u64 = 256;
/// The tokenizer, the batch being assembled, and what the allocator rounds up.
const OVERHEAD_BYTES: u64 = 14 << 20;
/// The vocabulary in the tokenizer's maps, for each token.
const TOKEN_BYTES: u64 = 512;

impl Workload {
    /// Weights as they lie on disk, KV cache (f16) of every slot's whole context, activations and overhead.
    pub fn memory_bytes(self, spec: &ModelSpec, weights_bytes: u64) -> u64 {
        let slots = u64::from(self.parallel_requests);
        let context = u64::from(self.context_length).min(spec.context_length as u64);
        let (heads, kv_heads, head_dim) = (spec.heads as u64, spec.kv_heads as u64, spec.head_dim as u64);
        let kv_token = 2 * 2 * spec.layers as u64 * kv_heads * head_dim;
        let kv = kv_token.saturating_mul(slots.saturating_mul(context));
        let vocabulary = spec.vocabulary_size as u64;
        let row = 3 * spec.hidden_size as u64
            + 2 * (heads + kv_heads) * head_dim
            + 2 * spec.intermediate_size as u64;
        let activations = 4 * ((PREFILL_ROWS + slots) * row + slots * vocabulary);
        [kv, activations, OVERHEAD_BYTES, TOKEN_BYTES * vocabulary]
            .into_iter()
            .fold(weights_bytes, u64::saturating_add)
    }
}

pub fn architecture(spec: &ModelSpec) -> Architecture {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Architecture {
        name: spec.architecture.clone(),
        family: spec.family.name.to_owned(),
        layers: number(spec.layers),
        hidden_size: number(spec.hidden_size),
        heads: number(spec.heads),
        kv_heads: number(spec.kv_heads),
        head_dim: number(spec.head_dim),
        intermediate_size: number(spec.intermediate_size),
        vocabulary_size: number(spec.vocabulary_size),
        context_length: number(spec.context_length),
    }
}

/// Opens and validates the model at `path` and writes what it is into a row: all but what depends on how it came.
/// Blocks. `name` is for errors.
pub fn describe(path: &Path, name: &str, workload: Workload) -> Result<Model, ServiceError> {
    let checkpoint = Checkpoint::open(path).map_err(|error| of_model(name, error))?;
    let spec = checkpoint.spec();
    let weights = checkpoint.weights_bytes();
    Ok(Model {
        architecture: Some(architecture(spec)),
        parameter_count: checkpoint.parameter_count() as i64,
        memory_estimate_bytes: workload.memory_bytes(spec, weights) as i64,
        config_json: checkpoint.config_json().unwrap_or_default().to_owned(),
        has_chat_template: has_chat_template(&checkpoint, path),
        ..Model::default()
    })
}

/// In one of the three places where publishers put it.
fn has_chat_template(checkpoint: &Checkpoint, path: &Path) -> bool {
    let carried =
        checkpoint.gguf_metadata().is_some_and(|metadata| metadata.get("tokenizer.chat_template").is_some());
    carried || path.join("chat_template.jinja").is_file() || in_tokenizer_config(path)
}

fn in_tokenizer_config(path: &Path) -> bool {
    let config: Option<serde_json::Value> = crate::cache::read_json(&path.join("tokenizer_config.json"));
    config.and_then(|config| config.get("chat_template").map(|template| !template.is_null())).unwrap_or(false)
}

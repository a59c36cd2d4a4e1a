//! The facts that the Catalog keeps of a model: from its files once they are there, from headers before.

use std::path::Path;

use millm_kit::ServiceError;
use millm_model::{
    Checkpoint, ModelSpec,
    memory::{self, Workload},
};
use millm_proto::catalog::v1::{Architecture, Model};

use crate::error::of_model;

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
    let held = memory::held_bytes(checkpoint.tensors());
    Ok(Model {
        architecture: Some(architecture(spec)),
        parameter_count: checkpoint.parameter_count() as i64,
        memory_estimate_bytes: memory::estimate(spec, held, &workload).total() as i64,
        config_json: checkpoint.config_json().unwrap_or_default().to_owned(),
        has_chat_template: checkpoint.has_chat_template(),
        ..Model::default()
    })
}

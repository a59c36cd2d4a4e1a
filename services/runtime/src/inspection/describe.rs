//! The description of a model: layers, tensors and hook points, from its files' headers. Nothing is loaded.

use std::path::PathBuf;

use millm_kit::ServiceError;
use millm_model::{
    Checkpoint,
    hooks::{HookOutline, LayerOutline, ModelOutline, ModuleOutline, TensorOutline, describe as outline},
};
use millm_proto::{
    catalog::v1::Model,
    inspection::v1::{HookPoint, LayerDescription, ModelDescription, ModuleDescription, TensorDescription},
};

use crate::error;

/// Describes a READY model.
///
/// # Errors
///
/// INVALID_MODEL_FILE, UNSUPPORTED_ARCHITECTURE, INVALID_LOCAL_PATH or MODEL_LOAD_FAILED if its files cannot be read.
pub(super) async fn describe(model: Model) -> Result<ModelDescription, ServiceError> {
    let path = PathBuf::from(&model.storage_path);
    let read = tokio::task::spawn_blocking(move || {
        let checkpoint = Checkpoint::open(&path).map_err(error::from_model)?;
        let outline = outline(checkpoint.spec(), checkpoint.tensors());
        let config = checkpoint.config_json().unwrap_or_default().to_owned();
        Ok::<_, ServiceError>((outline, config))
    });
    let (outline, config_json) = read.await.map_err(error::from_panic)??;
    let ModelOutline { parameters, bytes, hook_points, layers, modules } = outline;
    Ok(ModelDescription {
        model_id: model.id,
        handle: model.handle,
        architecture: model.architecture,
        parameter_count: count(parameters),
        weights_bytes: count(bytes),
        hook_points: hook_points.into_iter().map(hook_point).collect(),
        layers: layers.into_iter().map(layer).collect(),
        modules: modules.into_iter().map(module).collect(),
        config_json,
    })
}

fn layer(layer: LayerOutline) -> LayerDescription {
    LayerDescription {
        layer: layer.layer as u32,
        attention: layer.attention,
        mlp: layer.mlp,
        modules: layer.modules.into_iter().map(module).collect(),
        hook_points: layer.hook_points.into_iter().map(hook_point).collect(),
        parameter_count: count(layer.parameters),
        weights_bytes: count(layer.bytes),
    }
}

fn module(module: ModuleOutline) -> ModuleDescription {
    ModuleDescription {
        name: module.name,
        tensors: module.tensors.into_iter().map(tensor).collect(),
        parameter_count: count(module.parameters),
        weights_bytes: count(module.bytes),
    }
}

fn tensor(tensor: TensorOutline) -> TensorDescription {
    TensorDescription {
        name: tensor.name,
        shape: tensor.shape.into_iter().map(|size| size as u64).collect(),
        dtype: tensor.dtype.to_owned(),
        parameter_count: count(tensor.parameters),
        bytes: count(tensor.bytes),
    }
}

fn hook_point(outline: HookOutline) -> HookPoint {
    HookPoint {
        name: outline.hook.name(),
        transformer_lens: outline.hook.transformer_lens().unwrap_or_default(),
        shape: outline.shape.into_iter().map(|size| size as u64).collect(),
        writable: outline.writable,
        about: outline.about.to_owned(),
    }
}

/// No model has more than i64::MAX of anything, so a larger count may as well be this much.
fn count(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

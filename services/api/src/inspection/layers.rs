//! The layers of a model: `GET /api/models/{id}/layers` and `millm show --layers --json`.

use millm_kit::format;
use millm_proto::inspection::v1 as inspection;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::{model::Architecture, some};

/// A model's layers with their tensors and hook points.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ModelLayers {
    /// Of the model.
    pub id: i64,
    /// Of the model.
    pub name: String,
    /// Its shape.
    pub architecture: Option<Architecture>,
    /// The number of parameters for people, `2.5B`.
    pub params: String,
    /// Of all tensors.
    pub parameter_count: i64,
    /// Bytes of all tensors as stored.
    pub weights_bytes: i64,
    /// The hook points that belong to no layer: `embed`, `final_norm`, `logits`.
    pub hook_points: Vec<HookPoint>,
    /// In the order of computing.
    pub layers: Vec<Layer>,
    /// The tensors that belong to no layer: embeddings, the last norm, the output.
    pub modules: Vec<Module>,
    /// config.json as published; null when there is none (a GGUF file).
    pub config: Value,
}

/// A decoder layer.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Layer {
    /// Its number, from 0.
    pub layer: u32,
    /// `attention`, `sliding attention (window 512)`.
    pub attention: String,
    /// `gated MLP`, `8 experts, 2 used`.
    pub mlp: String,
    /// Its parts.
    pub modules: Vec<Module>,
    /// In the order of computing.
    pub hook_points: Vec<HookPoint>,
    /// Of its tensors.
    pub parameter_count: i64,
    /// Bytes of its tensors as stored.
    pub weights_bytes: i64,
}

/// A part of a model with tensors.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Module {
    /// Without the layer: `attn`, `mlp`, `attn_norm`.
    pub name: String,
    /// Its tensors.
    pub tensors: Vec<Tensor>,
    /// Of its tensors.
    pub parameter_count: i64,
    /// Bytes of its tensors as stored.
    pub weights_bytes: i64,
}

/// A tensor of the weights.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Tensor {
    /// Canonical: `blk.0.attn_q.weight`.
    pub name: String,
    /// Row-major, outermost dimension first.
    pub shape: Vec<u64>,
    /// `F32`, `BF16`, `Q4_K`.
    pub dtype: String,
    /// The product of its shape.
    pub parameter_count: i64,
    /// As stored.
    pub bytes: i64,
}

/// A place where activations can be read.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct HookPoint {
    /// `resid_post.3`, `logits`.
    #[schema(example = "resid_post.3")]
    pub name: String,
    /// TransformerLens' name; null where it has none.
    #[schema(example = "blocks.3.hook_resid_post")]
    pub transformer_lens: Option<String>,
    /// The shape of one token's value. 0 stands for the number of keys.
    pub shape: Vec<u64>,
    /// Whether an intervention may change it.
    pub writable: bool,
    /// One line for people.
    pub about: String,
}

impl From<&inspection::ModelDescription> for ModelLayers {
    fn from(model: &inspection::ModelDescription) -> Self {
        let parameters = u64::try_from(model.parameter_count).unwrap_or(0);
        Self {
            id: model.model_id,
            name: model.handle.clone(),
            architecture: model.architecture.as_ref().map(Architecture::from),
            params: if parameters > 0 { format::parameters(parameters) } else { String::new() },
            parameter_count: model.parameter_count,
            weights_bytes: model.weights_bytes,
            hook_points: model.hook_points.iter().map(HookPoint::from).collect(),
            layers: model.layers.iter().map(Layer::from).collect(),
            modules: model.modules.iter().map(Module::from).collect(),
            config: serde_json::from_str(&model.config_json).unwrap_or(Value::Null),
        }
    }
}

impl From<&inspection::LayerDescription> for Layer {
    fn from(layer: &inspection::LayerDescription) -> Self {
        Self {
            layer: layer.layer,
            attention: layer.attention.clone(),
            mlp: layer.mlp.clone(),
            modules: layer.modules.iter().map(Module::from).collect(),
            hook_points: layer.hook_points.iter().map(HookPoint::from).collect(),
            parameter_count: layer.parameter_count,
            weights_bytes: layer.weights_bytes,
        }
    }
}

impl From<&inspection::ModuleDescription> for Module {
    fn from(module: &inspection::ModuleDescription) -> Self {
        Self {
            name: module.name.clone(),
            tensors: module.tensors.iter().map(Tensor::from).collect(),
            parameter_count: module.parameter_count,
            weights_bytes: module.weights_bytes,
        }
    }
}

impl From<&inspection::TensorDescription> for Tensor {
    fn from(tensor: &inspection::TensorDescription) -> Self {
        Self {
            name: tensor.name.clone(),
            shape: tensor.shape.clone(),
            dtype: tensor.dtype.clone(),
            parameter_count: tensor.parameter_count,
            bytes: tensor.bytes,
        }
    }
}

impl From<&inspection::HookPoint> for HookPoint {
    fn from(point: &inspection::HookPoint) -> Self {
        Self {
            name: point.name.clone(),
            transformer_lens: some(&point.transformer_lens),
            shape: point.shape.clone(),
            writable: point.writable,
            about: point.about.clone(),
        }
    }
}

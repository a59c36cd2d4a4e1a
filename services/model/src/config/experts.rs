//! The mixture of experts, from config.json: how many there are, how many a token uses, which layers have them, and
//! whether they are packed.

use std::collections::HashSet;

use serde_json::Value;

use super::dimensions::Dimensions;
use super::fields::Fields;
use super::limits;
use crate::arch::family::{ExpertKeys, Family};
use crate::arch::spec::Experts;
use crate::error::Result;
use crate::tensor::TensorType;

/// The experts of a model.
pub(super) struct ExpertLayers {
    pub spec: Option<Experts>,
    /// For each layer, whether it has experts.
    pub layers: Vec<bool>,
}

/// Reads the experts; a family without experts has none.
pub(super) fn read(config: &Fields<'_>, family: &Family, dimensions: &Dimensions) -> Result<ExpertLayers> {
    let Some(keys) = &family.experts else {
        return Ok(ExpertLayers { spec: None, layers: vec![false; dimensions.layers] });
    };
    let key = config.either(keys.count[0], keys.count[1])?;
    let count = config.count(key, limits::EXPERTS)?.unwrap_or(keys.default_count);
    if count * dimensions.layers > limits::ALL_EXPERTS {
        return Err(
            config.invalid(key, &format!("in {} layers, is over {}", dimensions.layers, limits::ALL_EXPERTS))
        );
    }
    let used = config.count("num_experts_per_tok", limits::EXPERTS)?.unwrap_or(keys.default_used);
    if used > count {
        return Err(config.invalid("num_experts_per_tok", &format!("is over {key} = {count}")));
    }
    let intermediate_size = match keys.intermediate_size {
        Some((key, default)) => config.count(key, limits::WIDTH)?.unwrap_or(default),
        None => dimensions.intermediate_size,
    };
    let normalized = match keys.normalized {
        Some(key) => config.flag(key)?.unwrap_or(false),
        None => true,
    };
    let layers = layers(config, keys, dimensions.layers)?;
    let (router_bias, packed) = (keys.router_bias, packed(config, family)?);
    let spec = Experts { count, used, intermediate_size, normalized, router_bias, packed };
    Ok(ExpertLayers { spec: Some(spec), layers })
}

/// Reads `quantization_config` for a family that may be packed. For other families it stays unread, and is refused.
fn packed(config: &Fields<'_>, family: &Family) -> Result<Option<TensorType>> {
    const KEY: &str = "quantization_config";
    let Some(packing) = family.packing else { return Ok(None) };
    let Some(quantization) = config.object(KEY)? else { return Ok(None) };
    // The tensors themselves say which of them are not packed.
    let known =
        quantization.keys().all(|key| ["quant_method", "modules_to_not_convert"].contains(&key.as_str()));
    if !known || quantization.get("quant_method").and_then(Value::as_str) != Some(packing.method) {
        return Err(config.unsupported(KEY));
    }
    Ok(Some(packing.experts))
}

/// Returns for each layer whether it has experts.
fn layers(config: &Fields<'_>, keys: &ExpertKeys, layers: usize) -> Result<Vec<bool>> {
    if !keys.some_layers {
        return Ok(vec![true; layers]);
    }
    let step = config.count("decoder_sparse_step", limits::LAYERS)?.unwrap_or(1);
    let wrong = || config.invalid("mlp_only_layers", "expected a list of layers");
    let plain: HashSet<usize> = match config.get("mlp_only_layers") {
        None => HashSet::new(),
        Some(Value::Array(list)) => list
            .iter()
            .map(|layer| layer.as_u64().map(|layer| layer as usize).ok_or_else(wrong))
            .collect::<Result<_>>()?,
        Some(_) => return Err(wrong()),
    };
    Ok((0..layers).map(|layer| (layer + 1).is_multiple_of(step) && !plain.contains(&layer)).collect())
}

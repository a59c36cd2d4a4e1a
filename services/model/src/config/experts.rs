//! Experts: how many, how many of them for each token, in which layers, and whether they are packed.

use std::collections::HashSet;

use serde_json::Value;

use super::cap;
use super::dimensions::Dimensions;
use super::fields::Fields;
use crate::error::Result;
use crate::family::{ExpertKeys, Family};
use crate::spec::Experts;
use crate::tensor::TensorType;

pub(super) struct Found {
    pub spec: Option<Experts>,
    /// Which layers have them.
    pub layers: Vec<bool>,
}

pub(super) fn read(config: &Fields<'_>, family: &Family, dimensions: &Dimensions) -> Result<Found> {
    let Some(keys) = &family.experts else {
        return Ok(Found { spec: None, layers: vec![false; dimensions.layers] });
    };
    let key = config.either(keys.count[0], keys.count[1])?;
    let count = config.count(key, cap::EXPERTS)?.unwrap_or(keys.default_count);
    if count * dimensions.layers > cap::ALL_EXPERTS {
        return Err(
            config.invalid(key, &format!("in {} layers, is over {}", dimensions.layers, cap::ALL_EXPERTS))
        );
    }
    let used = config.count("num_experts_per_tok", cap::EXPERTS)?.unwrap_or(keys.default_used);
    if used > count {
        return Err(config.invalid("num_experts_per_tok", &format!("is over {key} = {count}")));
    }
    let intermediate_size = match keys.intermediate_size {
        Some((key, default)) => config.count(key, cap::WIDTH)?.unwrap_or(default),
        None => dimensions.intermediate_size,
    };
    let normalized = match keys.normalized {
        Some(key) => config.flag(key)?.unwrap_or(false),
        None => true,
    };
    let layers = layers(config, keys, dimensions.layers)?;
    let (router_bias, packed) = (keys.router_bias, packed(config, family)?);
    let spec = Experts { count, used, intermediate_size, normalized, router_bias, packed };
    Ok(Found { spec: Some(spec), layers })
}

/// What `quantization_config` says of a family that may be packed; others leave it to be refused.
fn packed(config: &Fields<'_>, family: &Family) -> Result<Option<TensorType>> {
    const KEY: &str = "quantization_config";
    let Some(packing) = family.packing else { return Ok(None) };
    let Some(said) = config.object(KEY)? else { return Ok(None) };
    // Which tensors were left as they were the tensors say themselves.
    let known = said.keys().all(|key| ["quant_method", "modules_to_not_convert"].contains(&key.as_str()));
    if !known || said.get("quant_method").and_then(Value::as_str) != Some(packing.method) {
        return Err(config.unsupported(KEY));
    }
    Ok(Some(packing.experts))
}

fn layers(config: &Fields<'_>, keys: &ExpertKeys, layers: usize) -> Result<Vec<bool>> {
    if !keys.some_layers {
        return Ok(vec![true; layers]);
    }
    let step = config.count("decoder_sparse_step", cap::LAYERS)?.unwrap_or(1);
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

//! The layers with a sliding window, from `sliding_window`, `use_sliding_window`, `max_window_layers` and `layer_types`.

use serde_json::Value;

use super::fields::Fields;
use super::limits;
use super::rope::rotated_layers;
use crate::arch::family::{Family, Window};
use crate::error::Result;

/// Reads the window of each layer; `None` for layers that see the whole context.
pub(super) fn read(config: &Fields<'_>, family: &Family, layers: usize) -> Result<Vec<Option<usize>>> {
    let types = layer_types(config, layers)?;
    let windows = match family.window {
        Window::Never => vec![None; layers],
        Window::EveryLayer => vec![size(config, family)?; layers],
        Window::EveryLayerSwitched => vec![switched(config, family)?; layers],
        Window::UpperLayers { first } => {
            let window = switched(config, family)?;
            let first = match config.get("max_window_layers") {
                None => first,
                Some(value) if value.as_u64() == Some(0) => 0,
                Some(_) => config.required_count("max_window_layers", limits::LAYERS)?,
            };
            return by_type(config, window, types, |layer| layer >= first, layers);
        }
        Window::LayersWithoutRope => {
            let window = switched(config, family)?;
            let rotated = rotated_layers(config, family, layers, None)?;
            return by_type(config, window, types, |layer| !rotated[layer], layers);
        }
        Window::Alternating { full_every, key } => {
            let every = key.map_or(Ok(None), |key| config.count(key, limits::LAYERS))?.unwrap_or(full_every);
            let window = size(config, family)?;
            return by_type(config, window, types, |layer| !(layer + 1).is_multiple_of(every), layers);
        }
    };
    // transformers does not read the list for these families; a list that differs belongs to a model that it cannot run.
    if types
        .is_some_and(|types| types.iter().zip(&windows).any(|(&slides, window)| slides != window.is_some()))
    {
        return Err(config.unsupported("layer_types"));
    }
    Ok(windows)
}

/// Gives a window to the layers that `types` names, or to those of the rule where there is no list.
fn by_type(
    config: &Fields<'_>,
    window: Option<usize>,
    types: Option<Vec<bool>>,
    rule: impl Fn(usize) -> bool,
    layers: usize,
) -> Result<Vec<Option<usize>>> {
    if window.is_none() && types.as_ref().is_some_and(|types| types.contains(&true)) {
        return Err(config.invalid(
            "layer_types",
            "names sliding layers, but use_sliding_window and sliding_window say that there are none",
        ));
    }
    let slides = types.unwrap_or_else(|| (0..layers).map(rule).collect());
    Ok(slides.into_iter().map(|slides| window.filter(|_| slides)).collect())
}

/// Reads the window if `use_sliding_window` is true.
fn switched(config: &Fields<'_>, family: &Family) -> Result<Option<usize>> {
    match config.flag("use_sliding_window")? {
        Some(true) => size(config, family),
        _ => Ok(None),
    }
}

/// Reads the window's size in tokens.
fn size(config: &Fields<'_>, family: &Family) -> Result<Option<usize>> {
    if config.is_null("sliding_window") {
        return Ok(None);
    }
    Ok(config.count("sliding_window", limits::CONTEXT)?.or(family.defaults.sliding_window))
}

/// Reads for each layer whether it has a window.
fn layer_types(config: &Fields<'_>, layers: usize) -> Result<Option<Vec<bool>>> {
    let Some(value) = config.get("layer_types") else { return Ok(None) };
    let Some(types) = value.as_array().filter(|types| types.len() == layers) else {
        return Err(config
            .invalid("layer_types", &format!("expected one name for each of num_hidden_layers = {layers}")));
    };
    types
        .iter()
        .map(|kind| match kind {
            Value::String(kind) if kind == "full_attention" => Ok(false),
            Value::String(kind) if kind == "sliding_attention" => Ok(true),
            _ => Err(config.unsupported("layer_types")),
        })
        .collect::<Result<_>>()
        .map(Some)
}

//! Which layers see a sliding window, from `sliding_window`, `use_sliding_window`, `max_window_layers` and
//! `layer_types`.

use serde_json::Value;

use super::cap;
use super::fields::Fields;
use crate::error::Result;
use crate::family::{Family, Window};

/// One entry for each layer.
pub(super) fn read(config: &Fields<'_>, family: &Family, layers: usize) -> Result<Vec<Option<usize>>> {
    let types = layer_types(config, layers)?;
    let windows = match family.sliding_window {
        Window::Never => vec![None; layers],
        Window::EveryLayer => vec![size(config, family)?; layers],
        Window::UpperLayers { first } => return upper_layers(config, family, types, (layers, first)),
    };
    // These families do not read the list; one that says otherwise would be a model nobody has run.
    if types
        .is_some_and(|types| types.iter().zip(&windows).any(|(&slides, window)| slides != window.is_some()))
    {
        return Err(config.unsupported("layer_types"));
    }
    Ok(windows)
}

fn upper_layers(
    config: &Fields<'_>,
    family: &Family,
    types: Option<Vec<bool>>,
    (layers, default_first): (usize, usize),
) -> Result<Vec<Option<usize>>> {
    let window = match config.flag("use_sliding_window")? {
        Some(true) => size(config, family)?,
        _ => None,
    };
    let slides = if let Some(types) = types {
        types
    } else {
        let first = match config.get("max_window_layers") {
            None => default_first,
            Some(value) if value.as_u64() == Some(0) => 0,
            Some(_) => config.required_count("max_window_layers", cap::LAYERS)?,
        };
        (0..layers).map(|layer| window.is_some() && layer >= first).collect()
    };
    if window.is_none() && slides.contains(&true) {
        return Err(config.invalid("layer_types", "names sliding layers, but no sliding window is in use"));
    }
    Ok(slides.into_iter().map(|slides| window.filter(|_| slides)).collect())
}

fn size(config: &Fields<'_>, family: &Family) -> Result<Option<usize>> {
    if config.is_null("sliding_window") {
        return Ok(None);
    }
    Ok(config.count("sliding_window", cap::CONTEXT)?.or(family.defaults.sliding_window))
}

/// For each layer whether it slides.
fn layer_types(config: &Fields<'_>, layers: usize) -> Result<Option<Vec<bool>>> {
    let Some(value) = config.get("layer_types") else { return Ok(None) };
    let Some(types) = value.as_array().filter(|types| types.len() == layers) else {
        return Err(config.invalid("layer_types", &format!("expected one name for each of {layers} layers")));
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

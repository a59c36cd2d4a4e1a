//! The rotary settings of config.json, in both styles.

use serde_json::Value;

use super::fields::Fields;
use crate::error::{Error, Result};
use crate::rope::{RopeScaling, inverse_frequencies};

/// `head_dim / 2` inverse frequencies with the scaling applied.
pub(super) fn read(config: &Fields<'_>, head_dim: usize, default_theta: f64) -> Result<Vec<f32>> {
    let (key, parameters) = match (config.object("rope_parameters")?, config.object("rope_scaling")?) {
        (Some(new), Some(old)) if new != old => return Err(config.unsupported("rope_scaling")),
        (Some(new), _) => ("rope_parameters", Some(new)),
        (None, old) => ("rope_scaling", old),
    };
    let outer_theta = config.positive("rope_theta")?;
    let Some(parameters) = parameters else {
        return Ok(inverse_frequencies(head_dim, outer_theta.unwrap_or(default_theta), RopeScaling::None));
    };
    if parameters.values().any(Value::is_object) {
        // One set of parameters for each kind of layer.
        return Err(config.unsupported(key));
    }
    let file = format!("config.json {key}");
    let fields = Fields::new(&file, parameters);
    if fields.get("partial_rotary_factor").is_some_and(|factor| factor.as_f64() != Some(1.0)) {
        return Err(config.unsupported(&format!("{key}.partial_rotary_factor")));
    }
    let theta = fields.positive("rope_theta")?.or(outer_theta).unwrap_or(default_theta);
    Ok(inverse_frequencies(head_dim, theta, scaling(&fields, key, config)?))
}

fn scaling(fields: &Fields<'_>, key: &str, config: &Fields<'_>) -> Result<RopeScaling> {
    let kind = match fields.text("rope_type")? {
        Some(kind) => kind,
        // The name of the key before transformers 4.43.
        None => fields.text("type")?.unwrap_or("default"),
    };
    let number = |field: &str| fields.required_positive(field).map(|value| value as f32);
    match kind {
        "default" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor: number("factor")? }),
        "llama3" => {
            let original_context = match fields.positive("original_max_position_embeddings")? {
                Some(context) => context as f32,
                None => config.required_positive("max_position_embeddings")? as f32,
            };
            let (low_freq_factor, high_freq_factor) =
                (number("low_freq_factor")?, number("high_freq_factor")?);
            if high_freq_factor <= low_freq_factor {
                return Err(fields.invalid("high_freq_factor", "must be above low_freq_factor"));
            }
            Ok(RopeScaling::Llama3 {
                factor: number("factor")?,
                low_freq_factor,
                high_freq_factor,
                original_context,
            })
        }
        other => Err(Error::UnsupportedField {
            field: format!("{key}.rope_type"),
            value: format!("\"{}\"", other.chars().take(60).collect::<String>()),
        }),
    }
}

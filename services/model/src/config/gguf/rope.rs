//! Rotary embeddings, from GGUF metadata and the tensors of factors.

use super::keys::ArchKeys;
use super::rope_factors::RopeFactors;
use crate::arch::family::{Positions, Rotary, RotatedLayers};
use crate::arch::rope::{RopeScaling, RopeSpec, long_magnitude, yarn_magnitude};
use crate::config::limits;
use crate::error::{Error, Result, excerpt};

/// Reads the rotary embeddings that layers choose from, in the order of [`crate::ModelSpec::ropes`].
pub(super) fn read(
    keys: &ArchKeys<'_>,
    head_dim: usize,
    context_length: usize,
    factors: &RopeFactors,
) -> Result<Vec<RopeSpec>> {
    let Positions::Rotary(rotary) = keys.family.positions else { return Ok(Vec::new()) };
    let dimensions = keys.count("rope.dimension_count", limits::HEAD_DIM)?.unwrap_or(head_dim);
    if dimensions > head_dim || !dimensions.is_multiple_of(2) {
        return Err(keys.invalid("rope.dimension_count", "is odd or over the size of a head"));
    }
    // llama.cpp's default, whatever the default of the family's config class is.
    let theta = above_one(keys, "rope.freq_base", 10_000.0)?;
    let scaling = scaling(keys, rotary, dimensions / 2, context_length, factors)?;
    let layout = keys.family.gguf.rope;
    let mut ropes = vec![RopeSpec::new(layout, dimensions, theta, scaling)];
    if let RotatedLayers::LocalAndGlobal { theta, .. } = rotary.layers {
        let theta = above_one(keys, "rope.freq_base_swa", theta)?;
        ropes.push(RopeSpec::new(layout, dimensions, theta, RopeScaling::None));
    }
    Ok(ropes)
}

/// Returns a base of frequencies, which must be above 1.
fn above_one(keys: &ArchKeys<'_>, key: &str, default: f64) -> Result<f64> {
    let theta = keys.positive(key)?.unwrap_or(default);
    if theta > 1.0 { Ok(theta) } else { Err(keys.invalid(key, &format!("{theta} is not above 1"))) }
}

fn scaling(
    keys: &ArchKeys<'_>,
    rotary: Rotary,
    pairs: usize,
    context_length: usize,
    factors: &RopeFactors,
) -> Result<RopeScaling> {
    if let Some(any) = &factors.any {
        return Ok(RopeScaling::Factors(divisors(keys, any, "rope_freqs.weight", pairs)?));
    }
    let kind = keys.text("rope.scaling.type")?;
    let factor = match keys.positive("rope.scaling.factor")? {
        Some(factor) => Some(factor),
        // The key of files from before scaling had types.
        None => keys.positive("rope.scale_linear")?,
    };
    let original = keys.count("rope.scaling.original_context_length", limits::CONTEXT)?;
    if let (Some(short), Some(long), None | Some("longrope")) = (&factors.short, &factors.long, kind) {
        let original_context = original.unwrap_or(context_length);
        let magnitude =
            long_magnitude(context_length as f64 / original_context as f64, original_context as f64);
        return Ok(RopeScaling::LongRope {
            short: divisors(keys, short, "rope_factors_short.weight", pairs)?,
            long: divisors(keys, long, "rope_factors_long.weight", pairs)?,
            original_context,
            attention_factor: keys.positive("rope.scaling.attn_factor")?.unwrap_or(magnitude) as f32,
        });
    }
    match (kind, factor) {
        (Some("yarn"), Some(factor)) => {
            let truncate = rotary.scaling.is_none_or(|default| default.truncate);
            yarn(keys, factor, original.unwrap_or(context_length), truncate)
        }
        (None | Some("linear"), Some(factor)) => Ok(RopeScaling::Linear { factor: factor as f32 }),
        (None | Some("none"), _) => Ok(RopeScaling::None),
        (Some("linear" | "yarn"), None) => Err(keys.invalid("rope.scaling.factor", "is missing")),
        (Some(other), _) => {
            Err(Error::UnsupportedField { field: keys.key("rope.scaling.type"), value: excerpt(other) })
        }
    }
}

fn yarn(keys: &ArchKeys<'_>, factor: f64, original_context: usize, truncate: bool) -> Result<RopeScaling> {
    let magnitude = keys.positive("rope.scaling.yarn_attn_factor")?.unwrap_or(yarn_magnitude(factor, 1.0));
    let magnitude = magnitude * keys.positive("rope.scaling.attn_factor")?.unwrap_or(1.0);
    Ok(RopeScaling::Yarn {
        factor,
        beta_fast: keys.positive("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
        beta_slow: keys.positive("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
        original_context: original_context as f64,
        truncate,
        attention_factor: magnitude as f32,
    })
}

/// Checks a tensor of divisors.
fn divisors(keys: &ArchKeys<'_>, factors: &[f32], tensor: &str, pairs: usize) -> Result<Vec<f32>> {
    let invalid = |why: String| Err(keys.metadata.invalid(tensor, &why));
    if factors.len() != pairs {
        return invalid(format!("{} values, expected {pairs}", factors.len()));
    }
    match factors.iter().find(|factor| !factor.is_finite() || **factor <= 0.0) {
        Some(factor) => invalid(format!("{factor} is not a finite number above 0")),
        None => Ok(factors.to_vec()),
    }
}

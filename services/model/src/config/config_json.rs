//! config.json into a `ModelSpec`: the family's data says which keys are read, and what they mean.

use serde_json::Value;

use super::dimensions::Dimensions;
use super::fields::{CONFIG_FILE, Fields};
use super::{experts, refuse, rope, window, wrapper};
use crate::arch::family::{AttentionScale, Family, Positions, Presence, QkNormPresence, Residual, Scale};
use crate::arch::kinds::{Activation, QkNorm};
use crate::arch::spec::{LayerSpec, ModelSpec, NormSpec};
use crate::error::{Error, Result, excerpt};
use crate::formats::json::parse_object;

impl ModelSpec {
    /// Reads config.json, joined with generation_config.json where there is one.
    ///
    /// # Errors
    /// [`Error::InvalidFile`] naming the field that is wrong, [`Error::UnsupportedArchitecture`], and
    /// [`Error::UnsupportedField`].
    pub fn from_config_json(config: &str, generation_config: Option<&str>) -> Result<Self> {
        let mut config = parse_object(CONFIG_FILE, config)?;
        let spec = match wrapper::text_model(&mut config)? {
            Some((text, wrapper)) => {
                let spec = read(&Fields::new(wrapper::FILE, &text))?;
                Self { architecture: wrapper.architecture.to_owned(), ..spec }
            }
            None => read(&Fields::new(CONFIG_FILE, &config))?,
        };
        spec.with_generation_config(generation_config.unwrap_or("{}"))
    }
}

/// Returns whether the repository asks for its own Python code to be run (`auto_map`). It never is.
pub fn requires_custom_code(config_json: &str) -> bool {
    let Ok(config) = parse_object(CONFIG_FILE, config_json) else { return false };
    match config.get("auto_map") {
        None | Some(Value::Null) => false,
        Some(Value::Object(map)) => !map.is_empty(),
        Some(_) => true,
    }
}

/// Finds the family by `architectures`, or by `model_type` where there are none.
fn family_of(config: &Fields<'_>) -> Result<(String, &'static Family)> {
    let model_type = config.text("model_type")?;
    let named = match config.get("architectures") {
        None => None,
        Some(Value::Array(names)) => match names.first() {
            None => None,
            Some(Value::String(name)) => Some(name.as_str()),
            Some(_) => return Err(config.invalid("architectures", "expected a list of names")),
        },
        Some(_) => return Err(config.invalid("architectures", "expected a list of names")),
    };
    let unsupported = |architecture: &str| Error::UnsupportedArchitecture {
        architecture: excerpt(architecture),
        supported: Family::supported(),
    };
    let family = match (named, model_type) {
        (Some(name), _) => Family::by_architecture(name).ok_or_else(|| unsupported(name))?,
        (None, Some(model_type)) => {
            Family::by_model_type(model_type).ok_or_else(|| unsupported(model_type))?
        }
        (None, None) => return Err(config.invalid("architectures", "is required")),
    };
    // The type chooses the config class, and with it the meaning of every key.
    if model_type.is_some_and(|model_type| model_type != family.name) {
        return Err(config.unsupported("model_type"));
    }
    Ok((family.architecture.to_owned(), family))
}

/// Reads the config of a text model.
fn read(config: &Fields<'_>) -> Result<ModelSpec> {
    let (architecture, family) = family_of(config)?;
    let dimensions = Dimensions::read(config, family)?;
    let biased = |presence| presence_of(config, presence);
    let parallel_residual = match family.residual {
        Residual::Serial => false,
        Residual::Parallel => true,
        Residual::Key(key, default) => config.flag(key)?.unwrap_or(default),
    };
    let windows = window::read(config, family, dimensions.layers)?;
    let positions = rope::read(config, family, &dimensions, &windows)?;
    let experts = experts::read(config, family, &dimensions)?;
    let scale = |scale| factor(config, scale, dimensions.hidden_size);
    let soft_cap = |cap| soft_cap(config, cap);
    let layer_specs = attention_scales(config, family, &dimensions)?
        .into_iter()
        .enumerate()
        .map(|(layer, attention_scale)| LayerSpec {
            window: windows[layer],
            rope: positions.layers[layer],
            attention_scale,
            experts: experts.layers[layer],
        })
        .collect();
    let spec = ModelSpec {
        architecture,
        family,
        layers: dimensions.layers,
        hidden_size: dimensions.hidden_size,
        heads: dimensions.heads,
        kv_heads: dimensions.kv_heads,
        head_dim: dimensions.head_dim,
        intermediate_size: dimensions.intermediate_size,
        vocabulary_size: dimensions.vocabulary_size,
        context_length: positions.context_length,
        norm: NormSpec {
            kind: family.norm.kind,
            place: family.norm_place(parallel_residual),
            bias: family.norm.bias,
            eps: config.positive(family.keys.norm_eps)?.unwrap_or(family.defaults.norm_eps),
            offset: family.norm.offset,
        },
        qk_norm: qk_norm(config, family)?,
        parallel_residual,
        mlp: family.mlp,
        activation: activation(config, family)?,
        experts: experts.spec,
        attention_sinks: family.attention_sinks,
        learned_positions: (family.positions == Positions::Learned).then_some(dimensions.context_length),
        ropes: positions.ropes,
        layer_specs,
        attention_soft_cap: soft_cap(family.scales.attention_soft_cap)?,
        logit_soft_cap: soft_cap(family.scales.logit_soft_cap)?,
        embedding_scale: scale(family.scales.embedding)?,
        residual_scale: scale(family.scales.residual)?,
        logit_scale: scale(family.scales.logits)?,
        tied_embeddings: config.flag("tie_word_embeddings")?.unwrap_or(family.defaults.tied_embeddings),
        qkv_bias: biased(family.qkv_bias)?,
        output_bias: biased(family.output_bias)?,
        mlp_bias: biased(family.mlp_bias)?,
        logit_bias: biased(family.logit_bias)?,
        bos_token_id: config.token_ids("bos_token_id")?.first().copied(),
        eos_token_ids: config.token_ids("eos_token_id")?,
    };
    refuse::unread_keys(config)?;
    Ok(spec)
}

fn presence_of(config: &Fields<'_>, presence: Presence) -> Result<bool> {
    match presence {
        Presence::Never => Ok(false),
        Presence::Always => Ok(true),
        Presence::Key(key, default) => Ok(config.flag(key)?.unwrap_or(default)),
    }
}

fn qk_norm(config: &Fields<'_>, family: &Family) -> Result<Option<QkNorm>> {
    Ok(match family.qk_norm {
        QkNormPresence::Never => None,
        QkNormPresence::Always(kind) => Some(kind),
        QkNormPresence::Key(key, kind) => config.flag(key)?.unwrap_or(false).then_some(kind),
    })
}

fn factor(config: &Fields<'_>, scale: Scale, hidden_size: usize) -> Result<f32> {
    Ok(match scale {
        Scale::One => 1.0,
        Scale::RootOfHidden => (hidden_size as f64).sqrt() as f32,
        Scale::Times(key, default) => config.positive(key)?.unwrap_or(default) as f32,
        Scale::DividedBy(key, default) => (1.0 / config.positive(key)?.unwrap_or(default)) as f32,
    })
}

fn soft_cap(config: &Fields<'_>, cap: Option<(&str, Option<f64>)>) -> Result<Option<f32>> {
    let Some((key, default)) = cap else { return Ok(None) };
    if config.is_null(key) {
        return Ok(None);
    }
    Ok(config.positive(key)?.or(default).map(|cap| cap as f32))
}

/// Reads the factor of attention scores for each layer.
fn attention_scales(config: &Fields<'_>, family: &Family, dimensions: &Dimensions) -> Result<Vec<f32>> {
    let of_head = (dimensions.head_dim as f64).powf(-0.5);
    let everywhere = match family.scales.attention {
        AttentionScale::HeadDim => of_head,
        AttentionScale::InverseRoot(key, default) => config.positive(key)?.unwrap_or(default).powf(-0.5),
        AttentionScale::Times(key, default) => config.positive(key)?.unwrap_or(default),
        AttentionScale::ByLayer => match config.flag("scale_attn_weights")? {
            Some(false) => 1.0,
            _ => of_head,
        },
    };
    let divides_by_layer = family.scales.attention == AttentionScale::ByLayer
        && config.flag("scale_attn_by_inverse_layer_idx")?.unwrap_or(false);
    let of_layer = |layer: usize| if divides_by_layer { everywhere / (layer + 1) as f64 } else { everywhere };
    Ok((0..dimensions.layers).map(|layer| of_layer(layer) as f32).collect())
}

fn activation(config: &Fields<'_>, family: &Family) -> Result<Activation> {
    if let Activation::Swiglu { alpha, limit } = family.defaults.activation {
        // The config does not name it: models of these families have no other activation.
        let number =
            |key, default: f32| config.positive(key).map(|own| own.map_or(default, |own| own as f32));
        let (alpha, limit) = (number("swiglu_alpha", alpha)?, number("swiglu_limit", limit)?);
        return Ok(Activation::Swiglu { alpha, limit });
    }
    let key = family.keys.activation;
    Ok(match config.text(key)? {
        None => family.defaults.activation,
        Some("gelu") => family.gelu,
        Some("silu" | "swish") => Activation::Silu,
        Some("gelu_python") => Activation::Gelu,
        Some("gelu_pytorch_tanh" | "gelu_python_tanh" | "gelu_new" | "gelu_fast" | "gelu_accurate") => {
            Activation::GeluTanh
        }
        Some("relu") => Activation::Relu,
        Some(_) => return Err(config.unsupported(key)),
    })
}

//! A model's dimensions, from config.json.

use super::fields::Fields;
use super::limits;
use crate::arch::family::{Family, KvHeads, MlpWidth};
use crate::error::Result;

/// The dimensions that other readers need.
pub(super) struct Dimensions {
    pub layers: usize,
    pub hidden_size: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub intermediate_size: usize,
    pub vocabulary_size: usize,
    /// Tokens, as the config states them before any scaling.
    pub context_length: usize,
}

impl Dimensions {
    /// Reads and checks them.
    pub fn read(config: &Fields<'_>, family: &Family) -> Result<Self> {
        let (keys, defaults) = (&family.keys, &family.defaults);
        let layers =
            config.required_count(config.either(keys.layers, "num_hidden_layers")?, limits::LAYERS)?;
        let hidden_key = config.either(keys.hidden_size, "hidden_size")?;
        let hidden_size = config.required_count(hidden_key, limits::WIDTH)?;
        let heads_key = config.either(keys.heads, "num_attention_heads")?;
        let heads = or_default(config, heads_key, limits::HEADS, defaults.heads)?;
        if !hidden_size.is_multiple_of(heads) {
            return Err(config.invalid(hidden_key, &format!("is not a multiple of {heads_key} = {heads}")));
        }
        let kv_heads = kv_heads(config, defaults.kv_heads, heads)?;
        if !heads.is_multiple_of(kv_heads) {
            let why = format!("does not divide {heads_key} = {heads}");
            return Err(config.invalid("num_key_value_heads", &why));
        }
        let own = hidden_size / heads;
        let head_dim = match config.count("head_dim", limits::HEAD_DIM)? {
            Some(head_dim) => head_dim,
            None if config.is_null("head_dim") => own,
            None => defaults.head_dim.unwrap_or(own),
        };
        if !head_dim.is_multiple_of(2) {
            return Err(
                config.invalid("head_dim", &format!("{head_dim} is odd, rotary embedding needs pairs"))
            );
        }
        if defaults.kv_heads == KvHeads::AlwaysAsHeads && head_dim != own {
            return Err(config.unsupported("head_dim"));
        }
        let inner = defaults.intermediate_size.map(|inner| match inner {
            MlpWidth::Size(size) => size,
            MlpWidth::Times(times) => times * hidden_size,
        });
        let context_key = config.either(keys.context_length, "max_position_embeddings")?;
        Ok(Self {
            layers,
            hidden_size,
            heads,
            kv_heads,
            head_dim,
            intermediate_size: or_default(config, keys.intermediate_size, limits::WIDTH, inner)?,
            vocabulary_size: or_default(config, "vocab_size", limits::VOCABULARY, defaults.vocabulary_size)?,
            context_length: config.count(context_key, limits::CONTEXT)?.unwrap_or(defaults.context_length),
        })
    }
}

/// Reads a count that has a default or is required.
fn or_default(config: &Fields<'_>, key: &str, max: usize, default: Option<usize>) -> Result<usize> {
    match (config.count(key, max)?, default) {
        (Some(count), _) | (None, Some(count)) => Ok(count),
        (None, None) => Err(config.invalid(key, "is required")),
    }
}

fn kv_heads(config: &Fields<'_>, rule: KvHeads, heads: usize) -> Result<usize> {
    Ok(match rule {
        KvHeads::AlwaysAsHeads => heads,
        _ if config.is_null("num_key_value_heads") => heads,
        KvHeads::AsHeads => config.count("num_key_value_heads", limits::HEADS)?.unwrap_or(heads),
        KvHeads::Count(count) => config.count("num_key_value_heads", limits::HEADS)?.unwrap_or(count),
    })
}

//! GGUF metadata into a `ModelSpec`.

use super::header::{GgufHeader, StoredTensor};
use super::metadata::{Metadata, Value};
use super::{CONFIG_JSON_KEY, ends_generation};
use crate::config::cap;
use crate::error::{Error, Result};
use crate::family::{Family, Presence};
use crate::rope::{RopeScaling, inverse_frequencies};
use crate::spec::{ModelSpec, RopeSpec};

/// GGUF's token type for control tokens.
const CONTROL: i64 = 3;

impl ModelSpec {
    /// Reads the dimensions from a file's metadata; our own files from the config.json that they carry.
    /// `rope_factors` are the values of `rope_freqs.weight`, where the file has it.
    pub fn from_gguf(header: &GgufHeader, rope_factors: Option<&[f32]>) -> Result<Self> {
        let metadata = &header.metadata;
        let keys = Keys::of(metadata)?;
        if let Some(config) = metadata.text(CONFIG_JSON_KEY)? {
            let mut spec = Self::from_config_json(config, None)?;
            spec.rope.layout = keys.family.gguf_rope;
            add_terminators(&mut spec, metadata)?;
            return Ok(spec);
        }
        refuse_what_would_change_the_result(&keys)?;
        let mut spec = keys.read(header)?;
        if let Some(factors) = rope_factors {
            divide(&mut spec.rope, factors, metadata)?;
        }
        add_terminators(&mut spec, metadata)?;
        Ok(spec)
    }
}

/// Keys that begin with the architecture's name.
struct Keys<'a> {
    metadata: &'a Metadata,
    family: &'static Family,
}

impl<'a> Keys<'a> {
    fn of(metadata: &'a Metadata) -> Result<Self> {
        let architecture = metadata
            .text("general.architecture")?
            .ok_or_else(|| metadata.invalid("general.architecture", "is missing"))?;
        let family = Family::by_gguf_name(architecture).ok_or_else(|| Error::UnsupportedArchitecture {
            architecture: architecture.chars().take(120).collect(),
            supported: Family::supported(),
        })?;
        Ok(Self { metadata, family })
    }

    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.family.gguf_architecture)
    }

    fn count(&self, key: &str, most: usize) -> Result<Option<usize>> {
        self.metadata.count(&self.key(key), most)
    }

    fn required(&self, key: &str, most: usize) -> Result<usize> {
        self.metadata.required_count(&self.key(key), most)
    }

    fn positive(&self, key: &str) -> Result<Option<f64>> {
        self.metadata.positive(&self.key(key))
    }

    fn invalid(&self, key: &str, why: &str) -> Error {
        self.metadata.invalid(&self.key(key), why)
    }

    fn read(&self, header: &GgufHeader) -> Result<ModelSpec> {
        let stored = |name: &str| header.tensors.iter().find(|tensor| tensor.name == name);
        let defaults = &self.family.defaults;
        let layers = self.required("block_count", cap::LAYERS)?;
        let hidden_size = self.required("embedding_length", cap::WIDTH)?;
        let heads = self.required("attention.head_count", cap::HEADS)?;
        let kv_heads = self.count("attention.head_count_kv", cap::HEADS)?.unwrap_or(heads);
        if !hidden_size.is_multiple_of(heads) {
            return Err(self.invalid("embedding_length", "is not a multiple of attention.head_count"));
        }
        if !heads.is_multiple_of(kv_heads) {
            return Err(self.invalid("attention.head_count_kv", "does not divide attention.head_count"));
        }
        let head_dim = self.count("attention.key_length", cap::HEAD_DIM)?.unwrap_or(hidden_size / heads);
        if self.count("attention.value_length", cap::HEAD_DIM)?.is_some_and(|length| length != head_dim) {
            return Err(self.invalid("attention.value_length", "differs from attention.key_length"));
        }
        let bias = |name: &str, presence: Presence| match presence {
            Presence::Always => true,
            _ => stored(name).is_some(),
        };
        let window = self.count("attention.sliding_window", cap::CONTEXT)?;
        Ok(ModelSpec {
            architecture: self.family.architecture.to_owned(),
            family: self.family,
            layers,
            hidden_size,
            heads,
            kv_heads,
            head_dim,
            intermediate_size: self.required("feed_forward_length", cap::WIDTH)?,
            vocabulary_size: self.vocabulary_size(stored("token_embd.weight"))?,
            context_length: self.count("context_length", cap::CONTEXT)?.unwrap_or(defaults.context_length),
            norm_eps: self.positive("attention.layer_norm_rms_epsilon")?.unwrap_or(defaults.norm_eps),
            activation: defaults.activation,
            rope: RopeSpec {
                layout: self.family.gguf_rope,
                inverse_frequencies: self.rope(head_dim)?,
                attention_factor: 1.0,
            },
            attention_scale: (head_dim as f32).sqrt().recip(),
            sliding_window: vec![window; layers],
            tied_embeddings: stored("output.weight").is_none(),
            qkv_bias: bias("blk.0.attn_q.bias", self.family.qkv_bias),
            output_bias: bias("blk.0.attn_output.bias", self.family.output_bias),
            mlp_bias: bias("blk.0.ffn_gate.bias", self.family.mlp_bias),
            bos_token_id: token_id(self.metadata, "tokenizer.ggml.bos_token_id")?,
            eos_token_ids: Vec::new(),
        })
    }

    /// The embedding table's rows: `vocab_size` and the token list are not always written.
    fn vocabulary_size(&self, embedding: Option<&StoredTensor>) -> Result<usize> {
        let rows = embedding.filter(|tensor| tensor.shape.len() == 2).map(|tensor| tensor.shape[0]);
        let size = match rows {
            Some(rows) => rows,
            None => self.required("vocab_size", cap::VOCABULARY)?,
        };
        if size > cap::VOCABULARY {
            return Err(
                self.invalid("vocab_size", &format!("{size} is over the limit of {}", cap::VOCABULARY))
            );
        }
        Ok(size)
    }

    fn rope(&self, head_dim: usize) -> Result<Vec<f32>> {
        let dimensions = self.count("rope.dimension_count", cap::HEAD_DIM)?.unwrap_or(head_dim);
        if dimensions > head_dim || !dimensions.is_multiple_of(2) {
            return Err(self.invalid("rope.dimension_count", "is odd or over the size of a head"));
        }
        let theta = self.positive("rope.freq_base")?.unwrap_or(self.family.defaults.rope_theta);
        let kind = self.key("rope.scaling.type");
        let factor = match self.positive("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            // The key before scaling had types.
            None => self.positive("rope.scale_linear")?,
        };
        let scaling = match (self.metadata.text(&kind)?, factor) {
            (None | Some("linear"), Some(factor)) => RopeScaling::Linear { factor: factor as f32 },
            (None | Some("none"), _) => RopeScaling::None,
            (Some("linear"), None) => return Err(self.invalid("rope.scaling.factor", "is missing")),
            (Some(other), _) => {
                let value = other.chars().take(60).collect();
                return Err(Error::UnsupportedField { field: kind, value });
            }
        };
        Ok(inverse_frequencies(dimensions, theta, scaling))
    }
}

/// llama.cpp's converter writes Llama 3's scaling as one divisor for each pair.
fn divide(rope: &mut RopeSpec, factors: &[f32], metadata: &Metadata) -> Result<()> {
    if factors.len() != rope.inverse_frequencies.len() {
        let why = format!("{} values, expected {}", factors.len(), rope.inverse_frequencies.len());
        return Err(metadata.invalid("rope_freqs.weight", &why));
    }
    for (frequency, factor) in rope.inverse_frequencies.iter_mut().zip(factors) {
        if !factor.is_finite() || *factor <= 0.0 {
            return Err(
                metadata.invalid("rope_freqs.weight", &format!("{factor} is not a finite number above 0"))
            );
        }
        *frequency /= factor;
    }
    Ok(())
}

fn refuse_what_would_change_the_result(keys: &Keys<'_>) -> Result<()> {
    let harmless = [
        ("attention.causal", Some(Value::Bool(true))),
        ("attention.max_alibi_bias", Some(Value::F32(0.0))),
        ("attention.clamp_kqv", Some(Value::F32(0.0))),
        ("attention.scale", None),
        ("attn_logit_softcapping", None),
        ("final_logit_softcapping", None),
        ("logit_scale", Some(Value::F32(1.0))),
        ("residual_scale", Some(Value::F32(1.0))),
        ("embedding_scale", Some(Value::F32(1.0))),
        ("use_parallel_residual", Some(Value::Bool(false))),
        ("expert_count", Some(Value::U32(0))),
    ];
    for (key, harmless) in harmless {
        let key = keys.key(key);
        if let Some(value) = keys.metadata.get(&key)
            && Some(value) != harmless.as_ref()
        {
            return Err(Error::UnsupportedField {
                field: key,
                value: format!("{value:?}").chars().take(80).collect(),
            });
        }
    }
    Ok(())
}

fn token_id(metadata: &Metadata, key: &str) -> Result<Option<u32>> {
    metadata
        .number(key)?
        .map(|id| u32::try_from(id).map_err(|_| metadata.invalid(key, "is not a token id")))
        .transpose()
}

fn add_terminators(spec: &mut ModelSpec, metadata: &Metadata) -> Result<()> {
    let mut ids = Vec::new();
    for key in ["eos_token_id", "eot_token_id", "eom_token_id"] {
        ids.extend(token_id(metadata, &format!("tokenizer.ggml.{key}"))?);
    }
    if let (Some(tokens), Some(types)) =
        (metadata.strings("tokenizer.ggml.tokens")?, metadata.integers("tokenizer.ggml.token_type")?)
    {
        let named = (0_u32..).zip(tokens.iter().zip(types));
        ids.extend(
            named.filter(|(_, (text, kind))| *kind == CONTROL && ends_generation(text)).map(|(id, _)| id),
        );
    }
    for id in ids {
        if !spec.eos_token_ids.contains(&id) && (id as usize) < spec.vocabulary_size {
            spec.eos_token_ids.push(id);
        }
    }
    spec.bos_token_id = spec.bos_token_id.filter(|&id| (id as usize) < spec.vocabulary_size);
    Ok(())
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;

//! The keys of a GGUF header into a `ModelSpec`. Where a tensor's shape tells a dimension, the shape counts.

use std::collections::HashMap;

use super::keys::{ArchKeys, norm_key};
use super::rope;
use super::rope_factors::RopeFactors;
use super::terminators::terminators;
use crate::arch::family::{
    ExpertKeys, Family, Positions, Presence, QkNormPresence, Residual, RotatedLayers, Scale, Window,
};
use crate::arch::kinds::QkNorm;
use crate::arch::spec::{Experts, LayerSpec, ModelSpec, NormSpec};
use crate::config::limits;
use crate::error::Result;
use crate::formats::gguf::{CONFIG_JSON_KEY, GgufHeader, GgufTensor, Metadata, Value};

/// The most tokens that end a generation. Published models have up to five.
const MAX_TERMINATORS: usize = 256;
/// GGUF's token type for control tokens.
const CONTROL: i64 = 3;

impl ModelSpec {
    /// Reads a file's metadata. From miLLM's own files it reads the config.json that they hold.
    ///
    /// # Errors
    /// [`Error::InvalidFile`](crate::Error::InvalidFile) naming the key that is wrong,
    /// [`Error::UnsupportedArchitecture`](crate::Error::UnsupportedArchitecture), and
    /// [`Error::UnsupportedField`](crate::Error::UnsupportedField).
    pub fn from_gguf(header: &GgufHeader, factors: &RopeFactors) -> Result<Self> {
        let metadata = &header.metadata;
        let keys = ArchKeys::of(metadata)?;
        if let Some(config) = metadata.text(CONFIG_JSON_KEY)? {
            let mut spec = Self::from_config_json(config, None)?;
            // The converter has permuted rows and added the norms' offset.
            spec.ropes.iter_mut().for_each(|rope| rope.layout = spec.family.gguf.rope);
            spec.norm.offset = 0.0;
            add_terminators(&mut spec, metadata)?;
            return Ok(spec);
        }
        let mut spec = read(&keys, header, factors)?;
        refuse_foreign_keys(&keys, &spec)?;
        add_terminators(&mut spec, metadata)?;
        Ok(spec)
    }
}

/// The tensors of the header by name.
struct TensorsByName<'a>(HashMap<&'a str, &'a GgufTensor>);

impl<'a> TensorsByName<'a> {
    fn of(header: &'a GgufHeader) -> Self {
        Self(header.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect())
    }

    fn find(&self, name: &str) -> Option<&'a GgufTensor> {
        self.0.get(name).copied()
    }

    fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// Returns whether a bias exists: always in the family, or under one of these names of the first layer.
    fn has_bias(&self, presence: Presence, names: &[&str]) -> bool {
        presence == Presence::Always || names.iter().any(|name| self.has(name))
    }

    /// Returns a dimension of a tensor, at most `max`.
    fn dimension(
        &self,
        keys: &ArchKeys<'_>,
        name: &str,
        which: impl Fn(&[usize]) -> Option<&usize>,
        max: usize,
    ) -> Result<Option<usize>> {
        match self.find(name).and_then(|tensor| which(&tensor.shape)) {
            Some(size) if *size > max => {
                let why = format!("has a dimension of {size}, the limit is {max}");
                Err(keys.metadata.invalid(name, &why))
            }
            size => Ok(size.copied()),
        }
    }

    /// Returns the last dimension, which is the inner width of an MLP for its second matrix.
    fn columns(&self, keys: &ArchKeys<'_>, name: &str) -> Result<Option<usize>> {
        self.dimension(keys, name, <[usize]>::last, limits::WIDTH)
    }
}

/// Reads the keys of a file that does not hold a config.json.
fn read(keys: &ArchKeys<'_>, header: &GgufHeader, factors: &RopeFactors) -> Result<ModelSpec> {
    let (family, stored) = (keys.family, TensorsByName::of(header));
    let defaults = &family.defaults;
    let layers = keys.required("block_count", limits::LAYERS)?;
    let hidden_size = keys.required("embedding_length", limits::WIDTH)?;
    let heads = keys.required("attention.head_count", limits::HEADS)?;
    let kv_heads = keys.count("attention.head_count_kv", limits::HEADS)?.unwrap_or(heads);
    if !hidden_size.is_multiple_of(heads) {
        return Err(keys.invalid("embedding_length", "is not a multiple of attention.head_count"));
    }
    if !heads.is_multiple_of(kv_heads) {
        return Err(keys.invalid("attention.head_count_kv", "does not divide attention.head_count"));
    }
    let head_dim = keys.count("attention.key_length", limits::HEAD_DIM)?.unwrap_or(hidden_size / heads);
    if keys.count("attention.value_length", limits::HEAD_DIM)?.is_some_and(|length| length != head_dim) {
        return Err(keys.invalid("attention.value_length", "differs from attention.key_length"));
    }
    let windows = windows(keys, layers)?;
    let context_length = keys.count("context_length", limits::CONTEXT)?.unwrap_or(defaults.context_length);
    let ropes = rope::read(keys, head_dim, context_length, factors)?;
    let experts = experts(keys, &stored, layers)?;
    let attention_scale = attention_scale(keys, layers, hidden_size / heads, head_dim)?;
    let layer_specs = (0..layers)
        .map(|layer| LayerSpec {
            window: windows[layer],
            rope: rope_of(family, layer, windows[layer]),
            attention_scale,
            experts: experts.is_some() && stored.has(&format!("blk.{layer}.ffn_gate_inp.weight")),
        })
        .collect();
    let parallel_residual = match family.residual {
        Residual::Serial => false,
        Residual::Parallel => true,
        Residual::Key(_, default) => keys.flag("use_parallel_residual")?.unwrap_or(default),
    };
    let inner = match stored.columns(keys, "blk.0.ffn_down.weight")? {
        // Converters have written four times the hidden size into the key, whatever the model had.
        Some(columns) => columns,
        None => keys.required("feed_forward_length", limits::WIDTH)?,
    };
    Ok(ModelSpec {
        architecture: family.architecture.to_owned(),
        family,
        layers,
        hidden_size,
        heads,
        kv_heads,
        head_dim,
        intermediate_size: inner,
        vocabulary_size: vocabulary_size(keys, &stored)?,
        context_length,
        norm: NormSpec {
            kind: family.norm.kind,
            place: family.norm_place(parallel_residual),
            bias: family.norm.bias,
            eps: keys.positive(norm_key(family))?.unwrap_or(defaults.norm_eps),
            offset: 0.0,
        },
        qk_norm: qk_norm(family, &stored),
        parallel_residual,
        mlp: family.mlp,
        activation: defaults.activation,
        experts,
        attention_sinks: family.attention_sinks,
        learned_positions: match family.positions {
            Positions::Learned => Some(
                stored
                    .dimension(keys, "position_embd.weight", <[usize]>::first, limits::CONTEXT)?
                    .unwrap_or(context_length),
            ),
            Positions::Rotary(_) => None,
        },
        ropes,
        layer_specs,
        attention_soft_cap: soft_cap(keys, "attn_logit_softcapping", family.scales.attention_soft_cap)?,
        logit_soft_cap: soft_cap(keys, "final_logit_softcapping", family.scales.logit_soft_cap)?,
        embedding_scale: match family.scales.embedding {
            Scale::RootOfHidden => (hidden_size as f64).sqrt() as f32,
            scale => factor(keys, "embedding_scale", scale)?,
        },
        residual_scale: factor(keys, "residual_scale", family.scales.residual)?,
        logit_scale: factor(keys, "logit_scale", family.scales.logits)?,
        tied_embeddings: !stored.has("output.weight"),
        qkv_bias: stored.has_bias(family.qkv_bias, &["blk.0.attn_q.bias", "blk.0.attn_qkv.bias"]),
        output_bias: stored.has_bias(family.output_bias, &["blk.0.attn_output.bias"]),
        mlp_bias: stored.has_bias(family.mlp_bias, &["blk.0.ffn_down.bias"]),
        logit_bias: stored.has_bias(family.logit_bias, &["output.bias"]),
        bos_token_id: token_id(keys.metadata, "tokenizer.ggml.bos_token_id")?,
        eos_token_ids: Vec::new(),
    })
}

fn qk_norm(family: &Family, stored: &TensorsByName<'_>) -> Option<QkNorm> {
    match family.qk_norm {
        QkNormPresence::Never => None,
        QkNormPresence::Always(kind) => Some(kind),
        QkNormPresence::Key(_, kind) => stored.has("blk.0.attn_q_norm.weight").then_some(kind),
    }
}

/// Returns the index of the layer's rotary embedding.
fn rope_of(family: &Family, layer: usize, window: Option<usize>) -> Option<usize> {
    let Positions::Rotary(rotary) = family.positions else { return None };
    match rotary.layers {
        RotatedLayers::All => Some(0),
        RotatedLayers::LocalAndGlobal { .. } => Some(usize::from(window.is_some())),
        RotatedLayers::Windowed => window.map(|_| 0),
        RotatedLayers::Listed { interval } => (!(layer + 1).is_multiple_of(interval)).then_some(0),
    }
}

/// Reads the window of each layer. The pattern is a flag for each layer, or the interval of the layers without a window.
fn windows(keys: &ArchKeys<'_>, layers: usize) -> Result<Vec<Option<usize>>> {
    const SIZE: &str = "attention.sliding_window";
    const PATTERN: &str = "attention.sliding_window_pattern";
    let (alternates, default) = match keys.family.window {
        Window::Alternating { full_every, .. } => (Some(full_every), keys.family.defaults.sliding_window),
        _ => (None, None),
    };
    let window = match keys.number(SIZE)? {
        Some(0) => None,
        Some(_) => keys.count(SIZE, limits::CONTEXT)?,
        // Gemma 2 is older than the key. Gemma 3 without the key has no window.
        None => default.filter(|_| keys.family.gguf.window_by_default),
    };
    if let Some(flags) = keys.flags(PATTERN)? {
        if flags.len() < layers {
            return Err(keys.invalid(PATTERN, &format!("{} flags for {layers} layers", flags.len())));
        }
        return Ok(flags[..layers].iter().map(|slides| window.filter(|_| *slides)).collect());
    }
    let every = keys.count(PATTERN, limits::LAYERS)?.or(alternates);
    let slides = |layer: usize| every.is_none_or(|every| !(layer + 1).is_multiple_of(every));
    Ok((0..layers).map(|layer| window.filter(|_| slides(layer))).collect())
}

fn experts(keys: &ArchKeys<'_>, stored: &TensorsByName<'_>, layers: usize) -> Result<Option<Experts>> {
    let count = match keys.number("expert_count")? {
        None | Some(0) => return Ok(None),
        Some(_) => keys.required("expert_count", limits::EXPERTS)?,
    };
    let Some(ExpertKeys { router_bias, .. }) = keys.family.experts else {
        return Err(keys.unsupported("expert_count"));
    };
    if count * layers > limits::ALL_EXPERTS {
        return Err(
            keys.invalid("expert_count", &format!("in {layers} layers, is over {}", limits::ALL_EXPERTS))
        );
    }
    let used = keys.required("expert_used_count", count)?;
    let mut down = (0..layers)
        .flat_map(|layer| ["down_exps", "down.0"].map(|part| format!("blk.{layer}.ffn_{part}.weight")));
    let columns = match down.find(|name| stored.has(name)) {
        Some(name) => stored.columns(keys, &name)?,
        None => None,
    };
    let intermediate_size = match columns {
        Some(columns) => columns,
        None => match keys.count("expert_feed_forward_length", limits::WIDTH)? {
            Some(length) => length,
            None => keys.required("feed_forward_length", limits::WIDTH)?,
        },
    };
    // llama.cpp always normalizes the chosen experts' weights.
    let normalized = keys.flag("expert_weights_norm")?.unwrap_or(true);
    Ok(Some(Experts { count, used, intermediate_size, normalized, router_bias, packed: None }))
}

fn attention_scale(keys: &ArchKeys<'_>, layers: usize, width: usize, head_dim: usize) -> Result<f32> {
    if let Some(scale) = keys.positive("attention.scale")? {
        return Ok(scale as f32);
    }
    let wide = keys.family.gguf.wide_scale_at == Some(layers);
    Ok((if wide { width } else { head_dim } as f64).powf(-0.5) as f32)
}

fn soft_cap(keys: &ArchKeys<'_>, key: &str, family: Option<(&str, Option<f64>)>) -> Result<Option<f32>> {
    let Some((_, default)) = family else { return Ok(None) };
    // Converters write 0 for no soft cap.
    if keys.is_zero(key) {
        return Ok(None);
    }
    Ok(keys.positive(key)?.or(default).map(|cap| cap as f32))
}

fn factor(keys: &ArchKeys<'_>, key: &str, scale: Scale) -> Result<f32> {
    match scale {
        Scale::One | Scale::RootOfHidden => Ok(1.0),
        Scale::Times(_, default) => Ok(keys.positive(key)?.unwrap_or(default) as f32),
        Scale::DividedBy(_, default) => Ok((1.0 / keys.positive(key)?.unwrap_or(default)) as f32),
    }
}

/// Returns the rows of the embedding table: not every file has `vocab_size` or a token list.
fn vocabulary_size(keys: &ArchKeys<'_>, stored: &TensorsByName<'_>) -> Result<usize> {
    let embedding = stored.find("token_embd.weight");
    let rows = embedding.filter(|tensor| tensor.shape.len() == 2).map(|tensor| tensor.shape[0]);
    let size = match rows {
        Some(rows) => rows,
        None => keys.required("vocab_size", limits::VOCABULARY)?,
    };
    if size > limits::VOCABULARY {
        return Err(
            keys.invalid("vocab_size", &format!("{size} is over the limit of {}", limits::VOCABULARY))
        );
    }
    Ok(size)
}

/// Refuses keys of other families, unless they hold the value under which they change nothing.
fn refuse_foreign_keys(keys: &ArchKeys<'_>, spec: &ModelSpec) -> Result<()> {
    let scales = &spec.family.scales;
    let unscaled = |scale: Scale| (scale == Scale::One).then_some(Value::F32(1.0));
    let uncapped = |cap: Option<(&str, Option<f64>)>| cap.is_none().then_some(Value::F32(0.0));
    let serial = !matches!(spec.family.residual, Residual::Key(..));
    // Each key with the only value that it may have; `None` where the family reads the key.
    let harmless = [
        ("attention.causal", Some(Value::Bool(true))),
        ("attention.max_alibi_bias", Some(Value::F32(0.0))),
        ("attention.clamp_kqv", Some(Value::F32(0.0))),
        ("attn_logit_softcapping", uncapped(scales.attention_soft_cap)),
        ("final_logit_softcapping", uncapped(scales.logit_soft_cap)),
        ("logit_scale", unscaled(scales.logits)),
        ("residual_scale", unscaled(scales.residual)),
        ("embedding_scale", unscaled(scales.embedding)),
        ("use_parallel_residual", serial.then_some(Value::Bool(spec.parallel_residual))),
        ("expert_shared_count", Some(Value::U32(0))),
        ("expert_weights_scale", Some(Value::F32(1.0))),
    ];
    for (key, harmless) in harmless {
        let Some(harmless) = harmless else { continue };
        if keys.get(key).is_some_and(|value| *value != harmless) {
            return Err(keys.unsupported(key));
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

/// Adds the tokens that end a generation: those of the keys, and control tokens with known texts.
fn add_terminators(spec: &mut ModelSpec, metadata: &Metadata) -> Result<()> {
    let mut ids = Vec::new();
    for key in ["eos_token_id", "eot_token_id", "eom_token_id"] {
        ids.extend(token_id(metadata, &format!("tokenizer.ggml.{key}"))?);
    }
    if let (Some(tokens), Some(types)) =
        (metadata.strings("tokenizer.ggml.tokens")?, metadata.integers("tokenizer.ggml.token_type")?)
    {
        let named = (0_u32..).zip(tokens.iter().zip(types));
        let control = named.filter(|(_, (_, kind))| *kind == CONTROL);
        let control: Vec<_> = control.map(|(id, (text, _))| (id, text.as_str())).collect();
        ids.extend(terminators(&control).take(MAX_TERMINATORS + 1));
    }
    if ids.len() > MAX_TERMINATORS {
        let why = format!("more than {MAX_TERMINATORS} tokens end an answer, the limit");
        return Err(metadata.invalid("tokenizer.ggml.tokens", &why));
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
#[path = "read_tests.rs"]
mod tests;

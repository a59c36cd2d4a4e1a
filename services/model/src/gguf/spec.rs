//! GGUF metadata into a `ModelSpec`, as llama.cpp understands it.

use std::collections::HashMap;

use super::header::{GgufHeader, StoredTensor};
use super::keys::Keys;
use super::metadata::{Metadata, Value};
use super::{CONFIG_JSON_KEY, rope, terminators};
use crate::config::{cap, norm_place};
use crate::error::Result;
use crate::family::{
    ExpertKeys, Family, Positions, Presence, QkNormed, Residual, Scale, TurnedLayers, Window,
};
use crate::spec::{Block, Experts, ModelSpec, NormKind, NormSpec, QkNorm};

/// Tokens that end a generation; published models have up to five.
const MAX_TERMINATORS: usize = 256;
/// GGUF's token type for control tokens.
const CONTROL: i64 = 3;

/// The values of the tensors that hold a divisor for each rotated pair, where the file has them.
#[derive(Debug, Clone, Default)]
pub struct RopeFactors {
    /// `rope_freqs.weight`
    pub any: Option<Vec<f32>>,
    /// `rope_factors_short.weight`
    pub short: Option<Vec<f32>>,
    /// `rope_factors_long.weight`
    pub long: Option<Vec<f32>>,
}

impl RopeFactors {
    /// Where only the header is here: some values for each that the file has.
    pub fn unread(header: &GgufHeader) -> Self {
        let ones = |name: &str| {
            let tensor = header.tensors.iter().find(|tensor| tensor.name == name)?;
            (tensor.shape.len() == 1 && tensor.shape[0] <= cap::HEAD_DIM).then(|| vec![1.0; tensor.shape[0]])
        };
        Self {
            any: ones("rope_freqs.weight"),
            short: ones("rope_factors_short.weight"),
            long: ones("rope_factors_long.weight"),
        }
    }
}

impl ModelSpec {
    /// Reads the dimensions from a file's metadata; our own files from the config.json that they carry.
    pub fn from_gguf(header: &GgufHeader, factors: &RopeFactors) -> Result<Self> {
        let metadata = &header.metadata;
        let keys = Keys::of(metadata)?;
        if let Some(config) = metadata.text(CONFIG_JSON_KEY)? {
            let mut spec = Self::from_config_json(config, None)?;
            // The converter has brought rows and norms into GGUF's form.
            spec.ropes.iter_mut().for_each(|rope| rope.layout = spec.family.gguf.rope);
            spec.norm.offset = 0.0;
            add_terminators(&mut spec, metadata)?;
            return Ok(spec);
        }
        let mut spec = read(&keys, header, factors)?;
        refuse_what_would_change_the_result(&keys, &spec)?;
        add_terminators(&mut spec, metadata)?;
        Ok(spec)
    }
}

/// What the header says of its tensors.
struct Stored<'a>(HashMap<&'a str, &'a StoredTensor>);

impl<'a> Stored<'a> {
    fn of(header: &'a GgufHeader) -> Self {
        Self(header.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect())
    }

    fn find(&self, name: &str) -> Option<&'a StoredTensor> {
        self.0.get(name).copied()
    }

    fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// Either of the presence's own kind, or as the first layer has it.
    fn biased(&self, presence: Presence, names: &[&str]) -> bool {
        presence == Presence::Always || names.iter().any(|name| self.has(name))
    }

    /// A dimension of the tensor, at most `most`.
    fn dimension(
        &self,
        keys: &Keys<'_>,
        name: &str,
        which: impl Fn(&[usize]) -> Option<&usize>,
        most: usize,
    ) -> Result<Option<usize>> {
        match self.find(name).and_then(|tensor| which(&tensor.shape)) {
            Some(size) if *size > most => {
                let why = format!("has a dimension of {size}, the most allowed is {most}");
                Err(keys.metadata.invalid(name, &why))
            }
            size => Ok(size.copied()),
        }
    }

    /// The last dimension: what an MLP's second matrix takes in.
    fn columns(&self, keys: &Keys<'_>, name: &str) -> Result<Option<usize>> {
        self.dimension(keys, name, <[usize]>::last, cap::WIDTH)
    }
}

fn read(keys: &Keys<'_>, header: &GgufHeader, factors: &RopeFactors) -> Result<ModelSpec> {
    let (family, stored) = (keys.family, Stored::of(header));
    let defaults = &family.defaults;
    let layers = keys.required("block_count", cap::LAYERS)?;
    let hidden_size = keys.required("embedding_length", cap::WIDTH)?;
    let heads = keys.required("attention.head_count", cap::HEADS)?;
    let kv_heads = keys.count("attention.head_count_kv", cap::HEADS)?.unwrap_or(heads);
    if !hidden_size.is_multiple_of(heads) {
        return Err(keys.invalid("embedding_length", "is not a multiple of attention.head_count"));
    }
    if !heads.is_multiple_of(kv_heads) {
        return Err(keys.invalid("attention.head_count_kv", "does not divide attention.head_count"));
    }
    let head_dim = keys.count("attention.key_length", cap::HEAD_DIM)?.unwrap_or(hidden_size / heads);
    if keys.count("attention.value_length", cap::HEAD_DIM)?.is_some_and(|length| length != head_dim) {
        return Err(keys.invalid("attention.value_length", "differs from attention.key_length"));
    }
    let windows = windows(keys, layers)?;
    let context_length = keys.count("context_length", cap::CONTEXT)?.unwrap_or(defaults.context_length);
    let ropes = rope::read(keys, head_dim, context_length, factors)?;
    let experts = experts(keys, &stored, layers)?;
    let attention_scale = attention_scale(keys, layers, hidden_size / heads, head_dim)?;
    let blocks = (0..layers)
        .map(|layer| Block {
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
        // Converters have written four times the width, whatever the model had.
        Some(columns) => columns,
        None => keys.required("feed_forward_length", cap::WIDTH)?,
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
            place: norm_place(family, parallel_residual),
            bias: family.norm.bias,
            eps: keys.positive(norm_key(family))?.unwrap_or(defaults.norm_eps),
            offset: 0.0,
        },
        qk_norm: qk_norm(family, &stored),
        parallel_residual,
        mlp: family.mlp,
        activation: defaults.activation,
        experts,
        sinks: family.sinks,
        learned_positions: match family.positions {
            Positions::Learned => Some(
                stored
                    .dimension(keys, "position_embd.weight", <[usize]>::first, cap::CONTEXT)?
                    .unwrap_or(context_length),
            ),
            Positions::Rotary(_) => None,
        },
        ropes,
        blocks,
        attention_soft_cap: soft_cap(keys, "attn_logit_softcapping", family.scales.attention_soft_cap)?,
        logit_soft_cap: soft_cap(keys, "final_logit_softcapping", family.scales.logit_soft_cap)?,
        embedding_scale: match family.scales.embedding {
            Scale::RootOfHidden => (hidden_size as f64).sqrt() as f32,
            scale => factor(keys, "embedding_scale", scale)?,
        },
        residual_scale: factor(keys, "residual_scale", family.scales.residual)?,
        logit_scale: factor(keys, "logit_scale", family.scales.logits)?,
        tied_embeddings: !stored.has("output.weight"),
        qkv_bias: stored.biased(family.qkv_bias, &["blk.0.attn_q.bias", "blk.0.attn_qkv.bias"]),
        output_bias: stored.biased(family.output_bias, &["blk.0.attn_output.bias"]),
        mlp_bias: stored.biased(family.mlp_bias, &["blk.0.ffn_down.bias"]),
        logit_bias: stored.biased(family.logit_bias, &["output.bias"]),
        bos_token_id: token_id(keys.metadata, "tokenizer.ggml.bos_token_id")?,
        eos_token_ids: Vec::new(),
    })
}

pub(crate) fn norm_key(family: &Family) -> &'static str {
    match family.norm.kind {
        NormKind::Rms => "attention.layer_norm_rms_epsilon",
        NormKind::Layer => "attention.layer_norm_epsilon",
    }
}

fn qk_norm(family: &Family, stored: &Stored<'_>) -> Option<QkNorm> {
    match family.qk_norm {
        QkNormed::Never => None,
        QkNormed::Always(kind) => Some(kind),
        QkNormed::Key(_, kind) => stored.has("blk.0.attn_q_norm.weight").then_some(kind),
    }
}

fn rope_of(family: &Family, layer: usize, window: Option<usize>) -> Option<usize> {
    let Positions::Rotary(rotary) = family.positions else { return None };
    match rotary.layers {
        TurnedLayers::All => Some(0),
        TurnedLayers::LocalAndGlobal { .. } => Some(usize::from(window.is_some())),
        TurnedLayers::Windowed => window.map(|_| 0),
        TurnedLayers::Listed { interval } => (!(layer + 1).is_multiple_of(interval)).then_some(0),
    }
}

/// The window, and which layers see no more: a flag for each, or a number of which every so manieth sees all.
fn windows(keys: &Keys<'_>, layers: usize) -> Result<Vec<Option<usize>>> {
    const SIZE: &str = "attention.sliding_window";
    const PATTERN: &str = "attention.sliding_window_pattern";
    let (alternates, default) = match keys.family.window {
        Window::Alternating { full_every, .. } => (Some(full_every), keys.family.defaults.sliding_window),
        _ => (None, None),
    };
    let window = match keys.number(SIZE)? {
        Some(0) => None,
        Some(_) => keys.count(SIZE, cap::CONTEXT)?,
        // Gemma 3 without the key sees everything; Gemma 2 was there before the key.
        None => default.filter(|_| keys.family.gguf.window_by_default),
    };
    if let Some(flags) = keys.flags(PATTERN)? {
        if flags.len() < layers {
            return Err(keys.invalid(PATTERN, &format!("{} flags for {layers} layers", flags.len())));
        }
        return Ok(flags[..layers].iter().map(|slides| window.filter(|_| *slides)).collect());
    }
    let every = keys.count(PATTERN, cap::LAYERS)?.or(alternates);
    let slides = |layer: usize| every.is_none_or(|every| !(layer + 1).is_multiple_of(every));
    Ok((0..layers).map(|layer| window.filter(|_| slides(layer))).collect())
}

fn experts(keys: &Keys<'_>, stored: &Stored<'_>, layers: usize) -> Result<Option<Experts>> {
    let count = match keys.number("expert_count")? {
        None | Some(0) => return Ok(None),
        Some(_) => keys.required("expert_count", cap::EXPERTS)?,
    };
    let Some(ExpertKeys { router_bias, .. }) = keys.family.experts else {
        return Err(keys.unsupported("expert_count"));
    };
    if count * layers > cap::ALL_EXPERTS {
        return Err(
            keys.invalid("expert_count", &format!("in {layers} layers, is over {}", cap::ALL_EXPERTS))
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
        None => match keys.count("expert_feed_forward_length", cap::WIDTH)? {
            Some(length) => length,
            None => keys.required("feed_forward_length", cap::WIDTH)?,
        },
    };
    // llama.cpp always brings the chosen ones to 1.
    let normalized = keys.flag("expert_weights_norm")?.unwrap_or(true);
    Ok(Some(Experts { count, used, intermediate_size, normalized, router_bias, packed: None }))
}

fn attention_scale(keys: &Keys<'_>, layers: usize, width: usize, head_dim: usize) -> Result<f32> {
    if let Some(scale) = keys.positive("attention.scale")? {
        return Ok(scale as f32);
    }
    let wide = keys.family.gguf.wide_scale_at == Some(layers);
    Ok((if wide { width } else { head_dim } as f64).powf(-0.5) as f32)
}

fn soft_cap(keys: &Keys<'_>, key: &str, family: Option<(&str, Option<f64>)>) -> Result<Option<f32>> {
    let Some((_, default)) = family else { return Ok(None) };
    // 0 is written for none.
    if keys.is_zero(key) {
        return Ok(None);
    }
    Ok(keys.positive(key)?.or(default).map(|cap| cap as f32))
}

fn factor(keys: &Keys<'_>, key: &str, scale: Scale) -> Result<f32> {
    match scale {
        Scale::One | Scale::RootOfHidden => Ok(1.0),
        Scale::Times(_, default) => Ok(keys.positive(key)?.unwrap_or(default) as f32),
        Scale::DividedBy(_, default) => Ok((1.0 / keys.positive(key)?.unwrap_or(default)) as f32),
    }
}

/// The embedding table's rows: `vocab_size` and the token list are not always written.
fn vocabulary_size(keys: &Keys<'_>, stored: &Stored<'_>) -> Result<usize> {
    let embedding = stored.find("token_embd.weight");
    let rows = embedding.filter(|tensor| tensor.shape.len() == 2).map(|tensor| tensor.shape[0]);
    let size = match rows {
        Some(rows) => rows,
        None => keys.required("vocab_size", cap::VOCABULARY)?,
    };
    if size > cap::VOCABULARY {
        return Err(keys.invalid("vocab_size", &format!("{size} is over the limit of {}", cap::VOCABULARY)));
    }
    Ok(size)
}

/// Keys of other families, unless they say what holds anyway.
fn refuse_what_would_change_the_result(keys: &Keys<'_>, spec: &ModelSpec) -> Result<()> {
    let scales = &spec.family.scales;
    let unscaled = |scale: Scale| (scale == Scale::One).then_some(Value::F32(1.0));
    let uncapped = |cap: Option<(&str, Option<f64>)>| cap.is_none().then_some(Value::F32(0.0));
    let serial = !matches!(spec.family.residual, Residual::Key(..));
    // The key, and the only value it may have; none where the family reads it.
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
        let why = format!("more than {MAX_TERMINATORS} tokens end an answer, the most allowed");
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
#[path = "spec_tests.rs"]
mod tests;

//! tokenizer.json and tokenizer_config.json as GGUF's `tokenizer.*` keys, so that the file alone is a complete model.
//!
//! GGUF can describe byte-level BPE (`gpt2`) and SentencePiece's BPE (`llama`). For any other kind the file states that
//! it has no vocabulary, and tokenizer.json beside it remains the only one.

use std::collections::HashMap;

use serde_json::Value as Json;

use super::pre_tokenizer;
use crate::arch::spec::ModelSpec;
use crate::config::limits;
use crate::error::{Error, Result};
use crate::formats::gguf::writer::Pairs;
use crate::formats::gguf::{Array, Value};
use crate::formats::json;

/// The published texts, as far as they exist.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Published<'a> {
    pub tokenizer: Option<&'a str>,
    pub tokenizer_config: Option<&'a str>,
    /// The template's own file, which overrides the template in tokenizer_config.json.
    pub chat_template: Option<&'a str>,
}

/// GGUF's token types (llama.cpp's `llama_token_type`).
#[derive(Clone, Copy)]
enum Kind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

/// Returns all `tokenizer.*` keys.
pub(super) fn describe(published: &Published<'_>, spec: &ModelSpec) -> Result<Pairs> {
    let config =
        published.tokenizer_config.map(|text| json::parse("tokenizer_config.json", text)).transpose()?;
    let config = config.unwrap_or(Json::Null);
    let mut pairs = match published.tokenizer {
        Some(text) => tokens(&parse("tokenizer.json", text)?, &config, spec),
        None => none(),
    };
    if let Some(template) = chat_template(published, &config) {
        pairs.push(("tokenizer.chat_template".into(), Value::String(template)));
    }
    Ok(pairs)
}

fn parse(file: &str, text: &str) -> Result<Json> {
    serde_json::from_str(text).map_err(|error| Error::invalid(file, format!("is not JSON: {error}")))
}

/// Returns the keys of a file without a vocabulary.
fn none() -> Pairs {
    vec![("tokenizer.ggml.model".into(), Value::String("none".into()))]
}

fn chat_template(published: &Published<'_>, config: &Json) -> Option<String> {
    if let Some(own) = published.chat_template {
        return Some(own.to_owned());
    }
    match config.get("chat_template")? {
        Json::String(template) => Some(template.clone()),
        Json::Array(named) => named
            .iter()
            .find(|entry| entry.get("name").and_then(Json::as_str) == Some("default"))
            .and_then(|entry| entry.get("template")?.as_str().map(str::to_owned)),
        _ => None,
    }
}

fn tokens(tokenizer: &Json, config: &Json, spec: &ModelSpec) -> Pairs {
    let model = &tokenizer["model"];
    let (Some("BPE"), Some(vocabulary)) = (model["type"].as_str(), model["vocab"].as_object()) else {
        return none();
    };
    let merges = merges(model);
    let sentence_piece = model["byte_fallback"].as_bool() == Some(true);
    let byte_level = pre_tokenizer::is_byte_level(tokenizer);
    if sentence_piece == byte_level {
        return none();
    }
    let Some(mut table) = TokenTable::new(spec.vocabulary_size) else { return none() };
    for (token, id) in vocabulary {
        let kind = if model["unk_token"].as_str() == Some(token) {
            Kind::Unknown
        } else if sentence_piece && is_byte(token) {
            Kind::Byte
        } else {
            Kind::Normal
        };
        if !table.put(id, token, kind) {
            return none();
        }
    }
    for added in tokenizer["added_tokens"].as_array().into_iter().flatten() {
        let content = added["content"].as_str().unwrap_or_default();
        let kind = match added["special"].as_bool() {
            _ if sentence_piece && model["unk_token"].as_str() == Some(content) => Kind::Unknown,
            Some(true) => Kind::Control,
            _ => Kind::UserDefined,
        };
        if !table.put(&added["id"], content, kind) {
            return none();
        }
    }
    let ids = table.by_text();
    let mut pairs: Pairs = Vec::new();
    let mut add = |key: &str, value: Value| pairs.push((format!("tokenizer.ggml.{key}"), value));
    if sentence_piece {
        add("model", Value::String("llama".into()));
        add("pre", Value::String("default".into()));
        add("scores", Value::Array(Array::F32(scores(&table, &merges))));
        add("add_space_prefix", Value::Bool(pre_tokenizer::adds_space_prefix(tokenizer)));
    } else {
        add("model", Value::String("gpt2".into()));
        add("pre", Value::String(pre_tokenizer::name(tokenizer).into()));
        let joined = merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
        add("merges", Value::Array(Array::String(joined)));
    }
    special(&mut add, tokenizer, config, spec, &ids);
    add("tokens", Value::Array(Array::String(table.texts)));
    add("token_type", Value::Array(Array::I32(table.kinds)));
    pairs
}

/// The texts and kinds of all tokens, by id.
struct TokenTable {
    texts: Vec<String>,
    kinds: Vec<i32>,
}

impl TokenTable {
    /// Makes a table with a token for each row of the embedding; tokens that the tokenizer does not name stay padding.
    /// Returns `None` for a size beyond the limit.
    fn new(size: usize) -> Option<Self> {
        (size <= limits::VOCABULARY).then(|| Self {
            texts: (0..size).map(|id| format!("[PAD{id}]")).collect(),
            kinds: vec![Kind::Unused as i32; size],
        })
    }

    /// Enters a token. Returns false where the id is missing or beyond the embedding: such a tokenizer belongs to another
    /// model.
    fn put(&mut self, id: &Json, text: &str, kind: Kind) -> bool {
        let Some(id) = id.as_u64().map(|id| id as usize).filter(|id| *id < self.texts.len()) else {
            return false;
        };
        text.clone_into(&mut self.texts[id]);
        self.kinds[id] = kind as i32;
        true
    }

    fn by_text(&self) -> HashMap<String, u32> {
        (0..).zip(&self.texts).map(|(id, text)| (text.clone(), id)).collect()
    }
}

/// Returns the merges, from both styles of tokenizer.json: `"a b"` and `["a", "b"]`.
fn merges(model: &Json) -> Vec<(&str, &str)> {
    model["merges"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|entry| match entry {
            Json::String(pair) => pair.split_once(' '),
            Json::Array(pair) => Some((pair.first()?.as_str()?, pair.get(1)?.as_str()?)),
            _ => None,
        })
        .collect()
}

/// Returns the scores of all tokens. SentencePiece merges the pair whose joined piece has the highest score, which the
/// order of merges determines.
fn scores(table: &TokenTable, merges: &[(&str, &str)]) -> Vec<f32> {
    let mut rank: HashMap<String, usize> = HashMap::with_capacity(merges.len());
    for (at, (left, right)) in merges.iter().enumerate() {
        rank.entry(format!("{left}{right}")).or_insert(at);
    }
    let last = merges.len() as f32;
    let normal = |text: &String| rank.get(text).map_or(-last, |rank| -(*rank as f32));
    let scored =
        |(text, kind): (&String, &i32)| if *kind == Kind::Normal as i32 { normal(text) } else { 0.0 };
    table.texts.iter().zip(&table.kinds).map(scored).collect()
}

/// Returns whether a token stands for a byte, as `<0x0A>` does.
fn is_byte(token: &str) -> bool {
    token.len() == 6
        && token
            .strip_prefix("<0x")
            .and_then(|rest| rest.strip_suffix('>'))
            .is_some_and(|digits| u8::from_str_radix(digits, 16).is_ok())
}

/// Adds the ids of the tokens with a role, and whether a first token is added.
fn special(
    add: &mut impl FnMut(&str, Value),
    tokenizer: &Json,
    config: &Json,
    spec: &ModelSpec,
    ids: &HashMap<String, u32>,
) {
    let named = |role: &str| {
        let token = &config[role];
        let text = token.as_str().or_else(|| token["content"].as_str())?;
        ids.get(text).copied()
    };
    let bos = named("bos_token").or(spec.bos_token_id);
    let eos = named("eos_token").or(spec.eos_token_ids.first().copied());
    let also = spec.eos_token_ids.iter().copied().find(|id| Some(*id) != eos);
    let roles = [
        ("bos_token_id", bos),
        ("eos_token_id", eos),
        ("eot_token_id", also),
        ("unknown_token_id", named("unk_token")),
        ("padding_token_id", named("pad_token")),
    ];
    for (key, id) in roles {
        if let Some(id) = id {
            add(key, Value::U32(id));
        }
    }
    let begins = match config["add_bos_token"].as_bool() {
        Some(adds) => adds,
        None => bos.is_some_and(|bos| pre_tokenizer::begins_with(tokenizer, bos)),
    };
    add("add_bos_token", Value::Bool(begins));
    add("add_eos_token", Value::Bool(config["add_eos_token"].as_bool() == Some(true)));
}

#[cfg(test)]
#[path = "vocabulary_tests.rs"]
mod tests;

//! A tokenizer from tokenizer.json and tokenizer_config.json.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::{Affixes, SpecialTokens, Tokenizer, guarded};
use millm_model::parse_object;
use millm_model::{Error, Result};

pub(super) const CONFIG_FILE: &str = "tokenizer_config.json";
const ROLES: [&str; 4] = ["bos_token", "eos_token", "pad_token", "unk_token"];

impl Tokenizer {
    /// Builds a tokenizer from the text of tokenizer.json. `config` is the text of tokenizer_config.json, if there is
    /// one.
    ///
    /// # Errors
    /// [`Error::InvalidFile`] if a file is damaged, and [`Error::Tokenizer`] if the tokenizer is not supported.
    pub fn from_json(tokenizer: &str, config: Option<&str>) -> Result<Self> {
        let config = config.map(|text| parse_object(CONFIG_FILE, text)).transpose()?.unwrap_or_default();
        let mut inner = guarded(|| tokenizers::Tokenizer::from_bytes(tokenizer))
            .map_err(|error| Error::invalid("tokenizer.json", error.to_string()))?;
        // Truncation and padding serve training and batching; transformers does not apply them to a single text either.
        guarded(|| inner.with_truncation(None).map(|_| ()))?;
        inner.with_padding(None);
        let special = special_tokens(&config, &inner);
        // A token with a role is special even if tokenizer.json lists it as a word.
        let roles: Vec<AddedToken> =
            special.text.values().map(|text| AddedToken::from(text.clone(), true)).collect();
        guarded(|| inner.add_special_tokens(roles))?;
        let affixes = affixes(&config, &special);
        Self::new(inner, special, affixes)
    }
}

/// Returns the tokens with a role, by the names that templates use.
pub(super) fn roles(config: &Map<String, Value>) -> BTreeMap<String, String> {
    let text = |role: &str| match config.get(role)? {
        Value::String(text) => Some(text.clone()),
        Value::Object(token) => token.get("content")?.as_str().map(str::to_owned),
        _ => None,
    };
    ROLES.into_iter().filter_map(|role| Some((role.to_owned(), text(role)?))).collect()
}

fn special_tokens(config: &Map<String, Value>, inner: &tokenizers::Tokenizer) -> SpecialTokens {
    let mut special = SpecialTokens::default();
    let texts = roles(config);
    for role in ROLES {
        // A token outside the vocabulary has no row in the embedding.
        let Some((text, id)) = texts.get(role).and_then(|text| Some((text, inner.token_to_id(text)?))) else {
            continue;
        };
        special.text.insert(role, text.clone());
        match role {
            "bos_token" => special.bos = Some(id),
            "eos_token" => special.eos = Some(id),
            _ => {}
        }
    }
    special
}

/// Returns the tokens around a text. `add_bos_token` and `add_eos_token` replace the post-processor in the Llama
/// tokenizer classes; other classes write these keys too, but transformers ignores them there.
fn affixes(config: &Map<String, Value>, special: &SpecialTokens) -> Affixes {
    let flag = |key: &str| config.get(key).and_then(Value::as_bool);
    let class = config.get("tokenizer_class").and_then(Value::as_str).unwrap_or_default();
    let obeys = ["Llama", "CodeLlama", "Gemma"].iter().any(|prefix| class.starts_with(prefix));
    match (flag("add_bos_token"), flag("add_eos_token")) {
        (None, None) => Affixes::PostProcessor,
        (bos, eos) if obeys => Affixes::Ids {
            before: special.bos.filter(|_| bos.unwrap_or(true)).into_iter().collect(),
            after: special.eos.filter(|_| eos.unwrap_or(false)).into_iter().collect(),
        },
        _ => Affixes::PostProcessor,
    }
}

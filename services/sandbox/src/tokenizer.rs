//! Tokenizers from tokenizer.json or from GGUF metadata: text to token ids and back.
//!
//! The `tokenizers` crate encodes. miLLM decodes, from the bytes of each token, so that decoding token by token gives
//! the same text as decoding all at once ([`TextDecoder`]).

mod decoder;
mod gguf;
mod json;
mod pieces;
pub(crate) mod pretokenize;
mod sentencepiece;
#[cfg(test)]
mod tests;
mod vocabulary;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use millm_model::TokenizerFiles;
use millm_model::gguf::Metadata;
use millm_model::parse_object;
use millm_model::{Error, Result};

pub use decoder::{Detokenizer, TextDecoder};
use pieces::Pieces;

/// The longest text that is tokenized: longer than any context.
const MAX_TEXT_BYTES: usize = 64 << 20;

/// A model's tokenizer. Shared between threads.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    detokenizer: Detokenizer,
    special: SpecialTokens,
    affixes: Affixes,
}

/// Tokens with a role, by their text; the names are those that templates use (`bos_token`).
#[derive(Debug, Clone, Default)]
struct SpecialTokens {
    text: BTreeMap<&'static str, String>,
    bos: Option<u32>,
    eos: Option<u32>,
}

/// The tokens that `add_special` puts around a text.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Affixes {
    /// Those of tokenizer.json's post-processor.
    PostProcessor,
    /// These ids, without the post-processor.
    Ids { before: Vec<u32>, after: Vec<u32> },
}

impl Tokenizer {
    fn new(inner: tokenizers::Tokenizer, special: SpecialTokens, affixes: Affixes) -> Result<Self> {
        let detokenizer = Detokenizer::new(Pieces::of(&inner)?);
        Ok(Self { inner, detokenizer, special, affixes })
    }

    /// Builds the tokenizer from tokenizer.json, or else from the GGUF file's metadata.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if there is no tokenizer or its kind is not supported, and [`Error::InvalidFile`] if a file
    /// is damaged.
    pub fn of(files: &TokenizerFiles) -> Result<Self> {
        match (&files.tokenizer, &files.metadata) {
            (Some(text), _) => Self::from_json(text, files.tokenizer_config.as_deref()),
            (None, Some(metadata)) => Self::from_gguf(metadata),
            (None, None) => Err(Error::Tokenizer("tokenizer.json is missing".to_owned())),
        }
    }

    /// Returns the token ids of a text. Special tokens in the text are recognized, as in transformers. `add_special`
    /// adds the tokens that the model expects around a text (usually the first token); text from a chat template has
    /// them already. Some published tokenizers have more tokens than their model, so the caller checks the ids
    /// against the spec.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the text is too long or cannot be tokenized.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(Error::Tokenizer(format!(
                "text of {} bytes is over the limit of {MAX_TEXT_BYTES}",
                text.len()
            )));
        }
        let processed = add_special && self.affixes == Affixes::PostProcessor;
        let encoding = guarded(|| self.inner.encode_fast(text, processed))?;
        let ids = encoding.get_ids();
        match &self.affixes {
            Affixes::Ids { before, after } if add_special => Ok([before, ids, after].concat()),
            _ => Ok(ids.to_vec()),
        }
    }

    /// Returns the detokenizer, which turns token ids into text.
    pub fn detokenizer(&self) -> &Detokenizer {
        &self.detokenizer
    }

    /// Returns a token as the vocabulary spells it, or `None` for an unknown id.
    pub fn token_text(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Returns the id of a token as the vocabulary spells it.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Returns the id of the token that begins a text, if the model has one.
    pub fn bos_id(&self) -> Option<u32> {
        self.special.bos
    }

    /// Returns the id of the token that ends a text, if the model has one.
    pub fn eos_id(&self) -> Option<u32> {
        self.special.eos
    }

    /// Returns the variables for templates, by name: `bos_token`, `eos_token`, `pad_token` and `unk_token`, as far as
    /// the model has them.
    pub fn template_variables(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.special.text.iter().map(|(name, text)| (*name, text.as_str()))
    }
}

/// Returns the template variables of tokenizer_config.json, without building the tokenizer.
pub(crate) fn config_roles(config: &str) -> Result<BTreeMap<String, String>> {
    Ok(json::roles(&parse_object(json::CONFIG_FILE, config)?))
}

/// Returns the template variables of GGUF metadata, without building the tokenizer.
pub(crate) fn metadata_roles(metadata: &Metadata) -> Result<BTreeMap<String, String>> {
    let special = gguf::special_tokens(metadata)?;
    Ok(special.text.into_iter().map(|(role, text)| (role.to_owned(), text)).collect())
}

/// Runs a part of the `tokenizers` crate, which panics if a hostile regex exhausts its retries.
fn guarded<T>(run: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Error::Tokenizer(error.to_string().chars().take(300).collect())),
        Err(panic) => {
            let why = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("it failed");
            Err(Error::Tokenizer(why.chars().take(300).collect()))
        }
    }
}

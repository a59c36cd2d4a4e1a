//! The vocabulary of a GGUF file: `tokenizer.ggml.tokens` and their types.

use millm_model::Result;
use millm_model::gguf::Metadata;
use tokenizers::AddedToken;
use tokenizers::models::bpe::Vocab;

/// `llama_token_type`.
mod kind {
    pub(super) const UNKNOWN: i64 = 2;
    pub(super) const CONTROL: i64 = 3;
    pub(super) const USER_DEFINED: i64 = 4;
    pub(super) const UNUSED: i64 = 5;
}

/// The tokens and their types, in the order of the file.
pub(super) struct Vocabulary<'a> {
    tokens: &'a [String],
    kinds: Vec<i64>,
}

impl<'a> Vocabulary<'a> {
    pub(super) fn read(metadata: &'a Metadata) -> Result<Self> {
        let tokens = metadata
            .strings("tokenizer.ggml.tokens")?
            .ok_or_else(|| metadata.invalid("tokenizer.ggml.tokens", "is missing"))?;
        let kinds = metadata.integers("tokenizer.ggml.token_type")?.unwrap_or_else(|| vec![1; tokens.len()]);
        if kinds.len() != tokens.len() {
            let why = format!("{} types for {} tokens", kinds.len(), tokens.len());
            return Err(metadata.invalid("tokenizer.ggml.token_type", &why));
        }
        Ok(Self { tokens, kinds })
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (u32, &'a String, i64)> {
        (0_u32..).zip(self.tokens.iter().zip(&self.kinds)).map(|(id, (token, &kind))| (id, token, kind))
    }

    /// Returns the ids by text, without unused tokens and padding. Of two equal tokens the first counts.
    pub(super) fn ids(&self) -> Vocab {
        let mut ids = Vocab::default();
        for (id, token, _) in
            self.entries().filter(|&(_, token, kind)| kind != kind::UNUSED && !token.is_empty())
        {
            ids.entry(token.clone()).or_insert(id);
        }
        ids
    }

    pub(super) fn tokens(&self) -> &'a [String] {
        self.tokens
    }

    pub(super) fn unknown(&self) -> Option<&'a String> {
        self.entries().find(|&(_, _, kind)| kind == kind::UNKNOWN).map(|(_, token, _)| token)
    }

    /// Returns the tokens that are found in a text before it is split.
    pub(super) fn added(&self) -> Vec<AddedToken> {
        self.entries()
            .filter(|&(_, token, kind)| {
                !token.is_empty() && matches!(kind, kind::CONTROL | kind::USER_DEFINED | kind::UNKNOWN)
            })
            .map(|(_, token, kind)| {
                AddedToken::from(token.clone(), kind != kind::USER_DEFINED).normalized(false)
            })
            .collect()
    }
}

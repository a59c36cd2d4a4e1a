//! A tokenizer from the `tokenizer.ggml.*` metadata of a GGUF file.

use tokenizers::NormalizerWrapper;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::unicode::NFC;

use super::pretokenize::Pre;
use super::vocabulary::Vocabulary;
use super::{Affixes, SpecialTokens, Tokenizer, guarded, sentencepiece};
use millm_model::gguf::Metadata;
use millm_model::{Error, Result};

impl Tokenizer {
    /// Builds a tokenizer from the metadata of a GGUF file.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the kind of tokenizer is not supported, and [`Error::InvalidFile`] if the metadata is
    /// damaged.
    pub fn from_gguf(metadata: &Metadata) -> Result<Self> {
        let model = metadata
            .text("tokenizer.ggml.model")?
            .ok_or_else(|| metadata.invalid("tokenizer.ggml.model", "is missing"))?;
        let vocabulary = Vocabulary::read(metadata)?;
        let (mut inner, adds_bos) = match model {
            "gpt2" => {
                let pre = Pre::by_name(metadata.text("tokenizer.ggml.pre")?.unwrap_or("default"))?;
                (byte_level(metadata, &vocabulary, &pre)?, pre.adds_bos)
            }
            "llama" => (sentencepiece::build(metadata, &vocabulary)?, true),
            other => {
                let shown: String = other.chars().take(60).collect();
                return Err(Error::Tokenizer(format!("tokenizer.ggml.model '{shown}' is not supported")));
            }
        };
        guarded(|| inner.add_tokens(vocabulary.added()))?;
        let special = special_tokens(metadata)?;
        let flag = |key: &str, default: bool| metadata.flag(key).map(|flag| flag.unwrap_or(default));
        let adds_bos = flag("tokenizer.ggml.add_bos_token", adds_bos)?;
        let adds_eos = flag("tokenizer.ggml.add_eos_token", false)?;
        let affixes = Affixes::Ids {
            before: special.bos.filter(|_| adds_bos).into_iter().collect(),
            after: special.eos.filter(|_| adds_eos).into_iter().collect(),
        };
        Self::new(inner, special, affixes)
    }
}

pub(super) fn special_tokens(metadata: &Metadata) -> Result<SpecialTokens> {
    let mut special = SpecialTokens::default();
    let tokens = metadata.strings("tokenizer.ggml.tokens")?.unwrap_or_default();
    for (role, key) in [
        ("bos_token", "bos_token_id"),
        ("eos_token", "eos_token_id"),
        ("unk_token", "unknown_token_id"),
        ("pad_token", "padding_token_id"),
    ] {
        let key = format!("tokenizer.ggml.{key}");
        let Some(id) = metadata.number(&key)? else { continue };
        let Some(token) = tokens.get(id as usize) else {
            return Err(metadata.invalid(&key, &format!("{id} is beyond the {} tokens", tokens.len())));
        };
        special.text.insert(role, token.clone());
        match role {
            "bos_token" => special.bos = Some(id as u32),
            "eos_token" => special.eos = Some(id as u32),
            _ => {}
        }
    }
    Ok(special)
}

fn byte_level(metadata: &Metadata, vocabulary: &Vocabulary<'_>, pre: &Pre) -> Result<tokenizers::Tokenizer> {
    const MERGES: &str = "tokenizer.ggml.merges";
    let lines = metadata.strings(MERGES)?.ok_or_else(|| metadata.invalid(MERGES, "is missing"))?;
    let ids = vocabulary.ids();
    let mut merges = Vec::with_capacity(lines.len());
    for (number, line) in lines.iter().enumerate() {
        let cut = line.char_indices().skip(1).find(|(_, character)| *character == ' ').map(|(at, _)| at);
        let Some((left, right)) = cut.map(|at| (&line[..at], &line[at + 1..])) else {
            return Err(metadata.invalid(MERGES, &format!("entry {number} is not two tokens")));
        };
        let is_known = |token: &str| ids.contains_key(token);
        if !is_known(left) || !is_known(right) || !is_known(&format!("{left}{right}")) {
            return Err(
                metadata.invalid(MERGES, &format!("entry {number} merges what is not in the vocabulary"))
            );
        }
        merges.push((left.to_owned(), right.to_owned()));
    }
    let model =
        guarded(|| BPE::builder().vocab_and_merges(ids, merges).ignore_merges(pre.ignores_merges).build())?;
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    if pre.composes {
        guarded(|| tokenizer.with_normalizer(Some(NormalizerWrapper::NFC(NFC))).map(|_| ()))?;
    }
    tokenizer.with_pre_tokenizer(Some(pre.build()?));
    tokenizer.with_decoder(Some(tokenizers::decoders::byte_level::ByteLevel::default()));
    Ok(tokenizer)
}

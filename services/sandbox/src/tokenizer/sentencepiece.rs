//! SentencePiece's byte-pair model (`tokenizer.ggml.model` = `llama`): pieces with scores, merged best first. Text that
//! no piece covers becomes byte tokens.

use std::cmp::Reverse;

use tokenizers::decoders::DecoderWrapper;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as DecoderSequence;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::prepend::Prepend;
use tokenizers::normalizers::replace::Replace;
use tokenizers::normalizers::utils::Sequence;
use tokenizers::{NormalizerWrapper, Tokenizer};

use super::guarded;
use super::vocabulary::Vocabulary;
use millm_model::Result;
use millm_model::gguf::Metadata;

/// SentencePiece's mark for a space.
const SPACE: &str = "\u{2581}";
/// The longest piece that merges are computed for. This bounds the work on hostile vocabularies.
const MAX_PIECE_CHARS: usize = 256;

pub(super) fn build(metadata: &Metadata, vocabulary: &Vocabulary<'_>) -> Result<Tokenizer> {
    const SCORES: &str = "tokenizer.ggml.scores";
    let scores = metadata.floats(SCORES)?.ok_or_else(|| metadata.invalid(SCORES, "is missing"))?;
    if scores.len() != vocabulary.tokens().len() {
        let why = format!("{} scores for {} tokens", scores.len(), vocabulary.tokens().len());
        return Err(metadata.invalid(SCORES, &why));
    }
    let ids = vocabulary.ids();
    let merges = merges(vocabulary.tokens(), scores, &ids);
    let mut builder = BPE::builder().vocab_and_merges(ids, merges).byte_fallback(true).fuse_unk(true);
    if let Some(unknown) = vocabulary.unknown() {
        builder = builder.unk_token(unknown.clone());
    }
    let mut tokenizer = Tokenizer::new(guarded(|| builder.build())?);
    let has_prefix = metadata.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let mut normalizers = Vec::new();
    if has_prefix {
        normalizers.push(NormalizerWrapper::Prepend(Prepend::new(SPACE.to_owned())));
    }
    normalizers.push(NormalizerWrapper::Replace(guarded(|| Replace::new(" ", SPACE))?));
    guarded(|| tokenizer.with_normalizer(Some(Sequence::new(normalizers))).map(|_| ()))?;
    let mut decoders = vec![
        DecoderWrapper::Replace(guarded(|| Replace::new(SPACE, " "))?),
        DecoderWrapper::ByteFallback(ByteFallback::new()),
        DecoderWrapper::Fuse(Fuse::new()),
    ];
    if has_prefix {
        decoders.push(DecoderWrapper::Strip(Strip::new(' ', 1, 0)));
    }
    tokenizer.with_decoder(Some(DecoderSequence::new(decoders)));
    Ok(tokenizer)
}

/// Returns every way to merge two pieces into a third, best score first. Ties go to longer left parts, as in
/// transformers' converter (`SentencePieceExtractor`).
fn merges(tokens: &[String], scores: &[f32], ids: &Vocab) -> Vec<(String, String)> {
    struct Merge<'a> {
        left: &'a str,
        right: &'a str,
        score: f32,
        ids: (u32, u32),
    }
    let mut found: Vec<Merge<'_>> = Vec::new();
    for (token, &score) in tokens.iter().zip(scores) {
        if !ids.contains_key(token) || token.chars().count() > MAX_PIECE_CHARS {
            continue;
        }
        let mut local: Vec<Merge<'_>> = token
            .char_indices()
            .skip(1)
            .filter_map(|(at, _)| {
                let (left, right) = token.split_at(at);
                Some(Merge { left, right, score, ids: (*ids.get(left)?, *ids.get(right)?) })
            })
            .collect();
        local.sort_by_key(|merge| merge.ids);
        found.append(&mut local);
    }
    let length = |text: &str| Reverse(text.chars().count());
    found.sort_by(|a, b| {
        let lengths = |merge: &Merge<'_>| (length(merge.left), length(merge.right));
        b.score.total_cmp(&a.score).then_with(|| lengths(a).cmp(&lengths(b)))
    });
    found.into_iter().map(|merge| (merge.left.to_owned(), merge.right.to_owned())).collect()
}

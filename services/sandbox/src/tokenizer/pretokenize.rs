//! Pre-tokenizers, which split a text before byte-pair merging, by their names in GGUF (`tokenizer.ggml.pre`). The
//! patterns are those of the models' published tokenizer.json; names follow llama.cpp's `llama-vocab.cpp`.

use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{PreTokenizerWrapper, SplitDelimiterBehavior};

use millm_model::pre_tokenizers::{GPT4O, LLAMA3, QWEN2, TEKKEN};
use millm_model::{Error, Result};

use super::guarded;

/// A pre-tokenizer.
pub(super) struct Pre {
    steps: &'static [Step],
    /// True if the tokenizer looks up a whole piece before it merges.
    pub(super) ignores_merges: bool,
    /// True if a text begins with the token `bos`, unless the file says otherwise.
    pub(super) adds_bos: bool,
    /// True if the text is normalized to NFC first.
    pub(super) composes: bool,
}

enum Step {
    Pattern(&'static str),
    EachDigit,
    /// GPT-2's own pattern.
    Gpt2,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";

const PLAIN: Pre = Pre { steps: &[Step::Gpt2], ignores_merges: false, adds_bos: false, composes: false };

impl Pre {
    pub(super) fn by_name(name: &str) -> Result<Self> {
        Ok(match name {
            "gpt-2" | "gpt2" | "mpt" | "olmo" | "phi-2" | "jina-es" | "jina-de" | "roberta-bpe"
            | "exaone" => PLAIN,
            "default" => Self {
                steps: &[
                    Step::Pattern(r"[\p{P}\$\+<=>\^~\|]+"),
                    Step::Pattern(GPT2),
                    Step::Pattern(r"\p{N}+"),
                    Step::Pattern("[0-9][0-9][0-9]"),
                ],
                ..PLAIN
            },
            "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "pixtral" => {
                Self { steps: &[Step::Pattern(LLAMA3)], ignores_merges: true, adds_bos: true, ..PLAIN }
            }
            "qwen2" | "deepseek-r1-qwen" => Self { steps: &[Step::Pattern(QWEN2)], composes: true, ..PLAIN },
            "tekken" => {
                Self { steps: &[Step::Pattern(TEKKEN)], ignores_merges: true, adds_bos: true, ..PLAIN }
            }
            "gpt-4o" => Self { steps: &[Step::Pattern(GPT4O)], ..PLAIN },
            "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" => {
                Self { steps: &[Step::EachDigit, Step::Gpt2], ..PLAIN }
            }
            other => {
                let shown: String = other.chars().take(60).collect();
                return Err(Error::Tokenizer(format!("tokenizer.ggml.pre '{shown}' is not supported")));
            }
        })
    }

    pub(super) fn build(&self) -> Result<PreTokenizerWrapper> {
        let mut steps = Vec::new();
        let mut has_cut = false;
        for step in self.steps {
            match step {
                Step::Pattern(pattern) => {
                    let pattern = SplitPattern::Regex((*pattern).to_owned());
                    let split = guarded(|| Split::new(pattern, SplitDelimiterBehavior::Isolated, false))?;
                    steps.push(PreTokenizerWrapper::Split(split));
                    has_cut = true;
                }
                Step::EachDigit => steps.push(PreTokenizerWrapper::Digits(Digits::new(true))),
                Step::Gpt2 => has_cut = false,
            }
        }
        steps.push(PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, !has_cut)));
        Ok(PreTokenizerWrapper::Sequence(Sequence::new(steps)))
    }
}

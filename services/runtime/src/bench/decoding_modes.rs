//! Rates of the ways to choose tokens: sampling with and without a JSON schema, and repeating the prompt with and
//! without speculative decoding.

use std::fmt::Write as _;

use millm_engine::{Constraint, Request, SamplingParams};
use millm_model::Checkpoint;
use millm_sandbox::{Grammar, Grammars, Language, Sandbox, TokenTable};
use serde::Serialize;

use super::{
    engine::{DecodeRate, EngineBench},
    error::BenchError,
    workload::SHORT_PROMPT,
};
use crate::tokenizer_bundle::{SandboxConstraint, token_table};

/// Generated tokens of a sampled response. A constrained response may be shorter.
const SAMPLED_TOKENS: usize = 64;
/// Pairs of responses, one of each kind in turn, so that other load on the machine affects both.
const PAIRS: u64 = 4;
/// Tokens of the repeated prompt.
const REPEATED_TOKENS: usize = 96;
/// Draft tokens per step.
const DRAFT_TOKENS: usize = 8;

/// Nested objects with the usual keywords of schemas: lengths, ranges, enums, patterns.
const SCHEMA: &str = r#"{
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 24},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "kind": {"enum": ["cat", "dog", "parrot", null]},
            "home": {
                "type": "object",
                "properties": {
                    "street": {"type": "string", "pattern": "^[A-Z][a-z]{2,12}( [0-9]{1,3})?$"},
                    "rooms": {"type": "array", "items": {"type": "number"}, "maxItems": 4},
                    "remark": {"type": "string"}
                },
                "required": ["street", "rooms", "remark"],
                "additionalProperties": false
            }
        },
        "required": ["name", "age", "kind", "home"],
        "additionalProperties": false
    }
}"#;

/// Generated tokens per second in each mode.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct DecodingModes {
    /// Sampled at temperature 1.
    pub sampled: f64,
    /// Sampled at temperature 1, constrained by a JSON schema.
    pub constrained: f64,
    /// Greedy, repeating the prompt. A grammar enforces the repetition, so the rate does not depend on the model.
    pub greedy: f64,
    /// Greedy, repeating the prompt, with speculative decoding.
    pub speculative: f64,
}

impl DecodingModes {
    /// Returns the share of the time of a response that the schema takes.
    pub fn constraint_overhead(&self) -> f64 {
        1.0 - self.constrained / self.sampled
    }

    /// Returns how many times as fast decoding is with drafts.
    pub fn speculation_speedup(&self) -> f64 {
        self.speculative / self.greedy
    }
}

/// Measures all modes. Each round has prompts without a common prefix with earlier ones.
///
/// # Errors
///
/// Fails if a grammar cannot be compiled or the engine ends a request early.
pub(crate) fn measure(
    bench: &EngineBench,
    grammars: &Grammars,
    round: usize,
) -> Result<DecodingModes, BenchError> {
    let constraint = |grammar: &Grammar| -> Result<Option<Box<dyn Constraint>>, BenchError> {
        Ok(Some(Box::new(SandboxConstraint(grammars.constraint(grammar)?))))
    };
    let schema = Grammar::JsonSchema(SCHEMA.to_owned());
    let sample = |seed: u64, constraint: Option<Box<dyn Constraint>>| {
        let sampling = SamplingParams { temperature: 1.0, seed: Some(seed), ..SamplingParams::default() };
        let prompt = bench.prompt(SHORT_PROMPT, 100 * round + 5);
        bench.decode_rate(Request {
            prompt,
            sampling,
            constraint,
            max_tokens: Some(SAMPLED_TOKENS),
            ..Request::default()
        })
    };
    let (mut sampled, mut constrained) = (DecodeRate::default(), DecodeRate::default());
    for seed in 0..PAIRS {
        sampled += sample(seed, None)?;
        constrained += sample(seed, constraint(&schema)?)?;
    }
    let text = bench.prompt(REPEATED_TOKENS, 100 * round + 6);
    let repetition = Grammar::Lark(exact_tokens(&text));
    let repeat = |max_draft_tokens: usize| {
        bench.decode_rate(Request {
            prompt: text.clone(),
            sampling: SamplingParams::greedy(),
            constraint: constraint(&repetition)?,
            max_draft_tokens,
            ..Request::default()
        })
    };
    let (greedy, speculative) = (repeat(0)?, repeat(DRAFT_TOKENS)?);
    Ok(DecodingModes {
        sampled: sampled.rate(),
        constrained: constrained.rate(),
        greedy: greedy.rate(),
        speculative: speculative.rate(),
    })
}

/// Returns a grammar in Lark's syntax that accepts only these tokens.
fn exact_tokens(tokens: &[u32]) -> String {
    tokens.iter().fold("start:".to_owned(), |mut grammar, token| {
        // Writing to a string does not fail.
        let _ = write!(grammar, " <[{token}]>");
        grammar
    })
}

/// Returns a compiler of grammars over the model's tokens. A model without a real vocabulary gets synthetic tokens.
///
/// # Errors
///
/// Fails if the tokenizer cannot be built.
pub(crate) fn grammars(checkpoint: &Checkpoint, sandbox: &Sandbox) -> Result<Grammars, BenchError> {
    let (size, eos) = (checkpoint.spec().vocabulary_size, checkpoint.spec().eos_token_ids.clone());
    let language = Language::open(sandbox, checkpoint.tokenizer_files())?;
    let detokenizer = language.detokenizer().clone();
    let padding = (0..size as u32).filter(|id| detokenizer.token_bytes(*id).is_empty()).count();
    if eos.is_empty() || 2 * padding > size {
        let last = size.saturating_sub(1) as u32;
        let synthetic =
            move || TokenTable { tokens: synthetic_tokens(size), special: Vec::new(), eos: vec![last] };
        return Ok(Grammars::new(sandbox.clone(), synthetic));
    }
    Ok(Grammars::new(sandbox.clone(), token_table(detokenizer, size, eos)))
}

/// Returns `count` tokens like those of real vocabularies: bytes, numbers, punctuation of JSON and code, and words of one
/// to four syllables, capitalized or not, with and without a leading space.
fn synthetic_tokens(count: usize) -> Vec<Vec<u8>> {
    let bytes = (0..=u8::MAX).map(|byte| vec![byte]);
    let numbers = (10..1000).map(|number: u32| number.to_string().into_bytes());
    let punctuation = [
        "\": ", "\": \"", "\",", "\", \"", "\",\"", "\":", "\":\"", "{\"", "\"}", "\"]", "},", "}, ", "{}",
        "[]", "[{\"", "\"}]", "  ", "    ", "\n\n", "\n  ", ",\n", "{\n", "}\n", ".\n", ", ", ". ", "://",
        "==", "();",
    ];
    let punctuation = punctuation.into_iter().map(|mark| mark.as_bytes().to_vec());
    let words = (0..).flat_map(|number| {
        let word = syllables(number);
        let capital = || word[..1].to_uppercase() + &word[1..];
        [format!(" {word}"), word.clone(), format!(" {}", capital()), capital()].map(String::into_bytes)
    });
    bytes.chain(numbers).chain(punctuation).chain(words).take(count).collect()
}

fn syllables(mut number: usize) -> String {
    let mut word = String::new();
    loop {
        word.push(char::from(b"bcdfghjklmnprstvwxyz"[number % 20]));
        word.push(char::from(b"aeiou"[number / 20 % 5]));
        number /= 100;
        if number == 0 {
            return word;
        }
        number -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use millm_sandbox::grammar::Vocabulary;

    use super::*;

    #[test]
    fn synthetic_tokens_are_distinct_and_can_spell_json() {
        let tokens = synthetic_tokens(49_152);
        assert_eq!(tokens.iter().collect::<HashSet<_>>().len(), 49_152);
        let vocabulary = Vocabulary::new(tokens, &[], &[49_151]).unwrap();
        vocabulary.compile(&Grammar::JsonSchema(SCHEMA.to_owned())).unwrap();
        vocabulary.compile(&Grammar::Lark(exact_tokens(&[300, 7, 300]))).unwrap();
    }

    #[test]
    fn overhead_and_speedup_are_ratios() {
        let modes = DecodingModes { sampled: 100.0, constrained: 96.0, greedy: 50.0, speculative: 200.0 };
        assert!((modes.constraint_overhead() - 0.04).abs() < 1e-9);
        assert!((modes.speculation_speedup() - 4.0).abs() < 1e-9);
    }
}

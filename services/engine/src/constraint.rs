//! What an answer must look like: a JSON schema, a regular expression or a grammar, held token by token with
//! llguidance. Tokens that cannot go on to a valid answer are never chosen, and the answer ends only where it is valid.

use std::fmt::{Debug, Display, Formatter};
use std::sync::Arc;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, SimpleVob, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};

use crate::error::panic_message;

/// Longer ones are refused unread.
const MAX_BYTES: usize = 256 << 10;
/// Longer tokens are left out: the trie holds no deeper ones.
const MAX_TOKEN_BYTES: usize = 1000;
const MAX_WHY: usize = 300;

/// White space between the parts of JSON: enough for every usual layout, and nothing that goes on for ever.
const JSON_WHITESPACE: &str = r" |\n[ \t]{0,40}";

/// What an answer may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grammar {
    /// JSON that this schema (JSON text) accepts.
    JsonSchema(String),
    /// Text that this regular expression (Rust's syntax) matches as a whole.
    Regex(String),
    /// Text of this grammar, in llguidance's variant of Lark.
    Lark(String),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    #[error("{bytes} bytes are over the limit of {MAX_BYTES}")]
    TooLong { bytes: usize },
    #[error("not JSON: {0}")]
    NotJson(String),
    /// It cannot be read, cannot be satisfied, or is too complex.
    #[error("{0}")]
    Invalid(String),
}

/// A model's tokens as grammars see them; one for all requests of a model.
pub struct Vocabulary {
    factory: ParserFactory,
}

impl Vocabulary {
    /// `tokens`: the bytes of each token, by id. `special`: those that are no text. `eos`: those that end an answer.
    pub fn new(mut tokens: Vec<Vec<u8>>, special: &[u32], eos: &[u32]) -> Result<Self, ConstraintError> {
        for token in &mut tokens {
            if token.len() > MAX_TOKEN_BYTES || token.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER) {
                token.clear();
            }
        }
        for id in special.iter().chain(eos) {
            if let Some(token) = tokens.get_mut(*id as usize) {
                // Marked once, though it may be in both lists.
                if token.first() != Some(&TokTrie::SPECIAL_TOKEN_MARKER) {
                    token.insert(0, TokTrie::SPECIAL_TOKEN_MARKER);
                }
            }
        }
        let ends: Vec<u32> = eos.iter().copied().filter(|id| (*id as usize) < tokens.len()).collect();
        let Some(first) = ends.first() else {
            return Err(ConstraintError::Invalid("the model has no token that ends an answer".to_string()));
        };
        let factory = guarded(|| {
            let trie = TokTrie::from(&TokRxInfo::new(tokens.len() as u32, *first), &tokens);
            let tokens: TokEnv = Arc::new(ApproximateTokEnv::new(trie.with_eos_tokens(&ends)));
            let capabilities = InferenceCapabilities::default();
            let slices = llguidance::earley::SlicedBiasComputer::general_slices();
            ParserFactory::new(&tokens, capabilities, &slices)
        });
        let mut factory = factory?;
        factory.quiet();
        // By its own limits it refuses what is too complex within about 100 ms, and a mask within 20 ms.
        *factory.limits_mut() = ParserLimits { verbose_errors: false, ..ParserLimits::default() };
        Ok(Self { factory })
    }

    /// Reads a grammar. It takes milliseconds: not for the engine's thread.
    pub fn constraint(&self, grammar: &Grammar) -> Result<Constraint, ConstraintError> {
        let (Grammar::JsonSchema(text) | Grammar::Regex(text) | Grammar::Lark(text)) = grammar;
        if text.len() > MAX_BYTES {
            return Err(ConstraintError::TooLong { bytes: text.len() });
        }
        let parsed = match grammar {
            Grammar::JsonSchema(schema) => TopLevelGrammar::from_json_schema(json_schema(schema)?),
            Grammar::Regex(regex) => TopLevelGrammar::from_regex(regex),
            Grammar::Lark(grammar) => TopLevelGrammar::from_lark(grammar.clone()),
        };
        let (matcher, mask) = guarded(|| {
            let mut matcher = Matcher::new(self.factory.create_parser(parsed));
            matcher.compute_mask_or_eos().map(|mask| (matcher, mask))
        })?;
        if mask.is_zero() {
            return Err(ConstraintError::Invalid("no answer is valid".to_string()));
        }
        Ok(Constraint { matcher: Box::new(matcher), mask: Some(Ok(mask)) })
    }
}

fn json_schema(text: &str) -> Result<serde_json::Value, ConstraintError> {
    let mut schema: serde_json::Value =
        serde_json::from_str(text).map_err(|error| ConstraintError::NotJson(error.to_string()))?;
    match &mut schema {
        serde_json::Value::Object(members) => {
            let options = serde_json::json!({"whitespace_pattern": JSON_WHITESPACE});
            members.insert("x-guidance".to_string(), options);
        }
        // "Anything" and "nothing" are schemas too.
        serde_json::Value::Bool(_) => {}
        _ => return Err(ConstraintError::Invalid("a schema is an object".to_string())),
    }
    Ok(schema)
}

/// One answer's way through its grammar.
pub struct Constraint {
    matcher: Box<Matcher>,
    /// Which tokens may come next, once that is worked out.
    mask: Option<Result<SimpleVob, ConstraintError>>,
}

impl Constraint {
    /// Works out which tokens may come next. It takes a while, which may be that of the forward pass.
    pub fn prepare(&mut self) {
        let Self { matcher, mask } = self;
        mask.get_or_insert_with(|| guarded(|| matcher.compute_mask_or_eos()));
    }

    /// Sets the logits of tokens that may not come next to negative infinity.
    pub fn mask(&mut self, logits: &mut [f32]) -> Result<(), ConstraintError> {
        self.prepare();
        let mask = match &self.mask {
            Some(Ok(mask)) => mask.as_slice(),
            Some(Err(error)) => return Err(error.clone()),
            None => &[],
        };
        let words = mask.iter().copied().chain(std::iter::repeat(0));
        for (logits, word) in logits.chunks_mut(32).zip(words) {
            // Most words allow nothing or, within a string, everything.
            if word == 0 {
                logits.fill(f32::NEG_INFINITY);
                continue;
            }
            if word == u32::MAX {
                continue;
            }
            for (bit, logit) in logits.iter_mut().enumerate() {
                if word >> bit & 1 == 0 {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
        Ok(())
    }

    /// Goes on with the token that was chosen.
    pub fn accept(&mut self, token: u32) -> Result<(), ConstraintError> {
        self.mask = None;
        let matcher = &mut self.matcher;
        guarded(|| matcher.consume_token(token))
    }

    /// Whether the answer is valid and nothing can follow.
    pub fn is_complete(&self) -> bool {
        self.matcher.is_stopped()
    }
}

impl Clone for Constraint {
    /// Goes its own way from here.
    fn clone(&self) -> Self {
        Self { matcher: Box::new(self.matcher.deep_clone()), mask: self.mask.clone() }
    }
}

impl Debug for Constraint {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Constraint")
    }
}

/// Grammars come from outside: a panic over one is that one's error.
fn guarded<T, E: Display>(work: impl FnOnce() -> Result<T, E>) -> Result<T, ConstraintError> {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    let why = match outcome {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error.to_string(),
        Err(panic) => panic_message(&*panic),
    };
    // Beyond the first line come traces of its own.
    let line = why.lines().next().unwrap_or_default();
    Err(ConstraintError::Invalid(line.chars().take(MAX_WHY).collect()))
}

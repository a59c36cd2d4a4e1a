//! What an answer must look like: a JSON schema, a regular expression or a grammar, held token by token with
//! llguidance. Tokens that cannot go on to a valid answer are never chosen, and the answer ends only where it is valid.
//!
//! This is the program that the sandbox runs; the server's end of it is [`crate::Constraint`].

mod limits;
#[cfg(test)]
mod tests;

use std::fmt::Display;
use std::sync::Arc;

use llguidance::ParserFactory;
use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, SimpleVob, TokEnv, TokRxInfo, TokTrie};
use serde::{Deserialize, Serialize};

/// Longer tokens are left out: the trie holds no deeper ones.
const MAX_TOKEN_BYTES: usize = 1000;
const MAX_WHY: usize = 300;

/// White space between the parts of JSON: enough for every usual layout, and nothing that goes on for ever.
const JSON_WHITESPACE: &str = r" |\n[ \t]{0,40}";

/// What an answer may be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Grammar {
    /// JSON that this schema (JSON text) accepts.
    JsonSchema(String),
    /// Text that this regular expression (Rust's syntax) matches as a whole.
    Regex(String),
    /// Text of this grammar, in llguidance's variant of Lark.
    Lark(String),
}

/// Why a grammar cannot be held: it cannot be read, cannot be satisfied, or is over a limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct GrammarError(pub String);

impl Grammar {
    pub fn text(&self) -> &str {
        let (Self::JsonSchema(text) | Self::Regex(text) | Self::Lark(text)) = self;
        text
    }

    /// Holds it to the stated limits: what can be said before anything is compiled. Linear in the text.
    ///
    /// Errors: what was found and what is allowed.
    pub fn check(&self) -> Result<(), GrammarError> {
        limits::check(self).map_err(GrammarError)
    }
}

/// A model's tokens as grammars see them; one for all grammars of a model.
pub struct Vocabulary {
    factory: ParserFactory,
}

impl Vocabulary {
    /// `tokens`: the bytes of each token, by id. `special`: those that are no text. `eos`: those that end an answer.
    pub fn new(mut tokens: Vec<Vec<u8>>, special: &[u32], eos: &[u32]) -> Result<Self, GrammarError> {
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
            return Err(GrammarError("the model has no token that ends an answer".to_string()));
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

    /// Compiles a grammar: some milliseconds for a usual one.
    pub fn compile(&self, grammar: &Grammar) -> Result<Matcher, GrammarError> {
        grammar.check()?;
        let parsed = match grammar {
            Grammar::JsonSchema(schema) => TopLevelGrammar::from_json_schema(json_schema(schema)?),
            Grammar::Regex(regex) => TopLevelGrammar::from_regex(regex),
            Grammar::Lark(grammar) => TopLevelGrammar::from_lark(grammar.clone()),
        };
        let (matcher, mask) = guarded(|| {
            let mut matcher = llguidance::Matcher::new(self.factory.create_parser(parsed));
            matcher.compute_mask_or_eos().map(|mask| (matcher, mask))
        })?;
        if mask.is_zero() {
            return Err(GrammarError("no answer is valid".to_string()));
        }
        Ok(Matcher { matcher: Box::new(matcher), mask })
    }
}

fn json_schema(text: &str) -> Result<serde_json::Value, GrammarError> {
    let mut schema: serde_json::Value =
        serde_json::from_str(text).map_err(|error| GrammarError(format!("not JSON: {error}")))?;
    match &mut schema {
        serde_json::Value::Object(members) => {
            let options = serde_json::json!({"whitespace_pattern": JSON_WHITESPACE});
            members.insert("x-guidance".to_string(), options);
        }
        // "Anything" and "nothing" are schemas too.
        serde_json::Value::Bool(_) => {}
        _ => return Err(GrammarError("a schema is an object".to_string())),
    }
    Ok(schema)
}

/// One answer's way through its grammar.
pub struct Matcher {
    matcher: Box<llguidance::Matcher>,
    /// Which tokens may come next.
    mask: SimpleVob,
}

impl Matcher {
    /// Which tokens may come next: a bit for each id, 32 in a word, the lowest first.
    pub fn mask(&self) -> &[u32] {
        self.mask.as_slice()
    }

    /// Goes on with the token that was chosen. Says whether the answer is valid and nothing can follow.
    pub fn accept(&mut self, token: u32) -> Result<bool, GrammarError> {
        let matcher = &mut self.matcher;
        guarded(|| matcher.consume_token(token))?;
        Ok(self.matcher.is_stopped())
    }

    /// Works out which tokens may come next.
    pub fn prepare(&mut self) -> Result<(), GrammarError> {
        let matcher = &mut self.matcher;
        self.mask = guarded(|| matcher.compute_mask_or_eos())?;
        Ok(())
    }
}

impl Clone for Matcher {
    /// Goes its own way from here.
    fn clone(&self) -> Self {
        Self { matcher: Box::new(self.matcher.deep_clone()), mask: self.mask.clone() }
    }
}

/// A panic over a grammar is that grammar's error.
fn guarded<T, E: Display>(work: impl FnOnce() -> Result<T, E>) -> Result<T, GrammarError> {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    let why = match outcome {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error.to_string(),
        Err(panic) => panic_message(&*panic),
    };
    // Beyond the first line come traces of its own.
    let line = why.lines().next().unwrap_or_default();
    Err(GrammarError(line.chars().take(MAX_WHY).collect()))
}

fn panic_message(payload: &(dyn std::any::Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        return (*text).to_owned();
    }
    payload.downcast_ref::<String>().cloned().unwrap_or_else(|| "it failed".to_owned())
}

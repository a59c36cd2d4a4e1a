//! Constrained decoding: an answer follows a JSON schema, a regular expression or a grammar, token by token, with
//! llguidance. Tokens that cannot lead to a valid answer are masked, and the answer ends only where it is valid.
//!
//! This code runs in the sandbox; the server's end of it is [`crate::Constraint`].

mod limits;
#[cfg(test)]
mod tests;

use std::fmt::Display;
use std::sync::Arc;

use llguidance::ParserFactory;
use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, SimpleVob, TokEnv, TokRxInfo, TokTrie};
use serde::{Deserialize, Serialize};

/// The longest token that the trie holds; longer tokens are left out.
const MAX_TOKEN_BYTES: usize = 1000;
const MAX_WHY: usize = 300;

/// White space between the parts of JSON: enough for every usual layout, but never endless.
const JSON_WHITESPACE: &str = r" |\n[ \t]{0,40}";

/// The form that an answer must have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Grammar {
    /// JSON that this schema (JSON text) accepts.
    JsonSchema(String),
    /// Text that this regular expression (Rust's syntax) matches as a whole.
    Regex(String),
    /// Text that this grammar, in llguidance's variant of Lark, derives.
    Lark(String),
}

/// The reason why a grammar is refused: it cannot be parsed, cannot be satisfied, or exceeds a limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct GrammarError(pub String);

impl Grammar {
    /// Returns the schema, expression or grammar as text.
    pub fn text(&self) -> &str {
        let (Self::JsonSchema(text) | Self::Regex(text) | Self::Lark(text)) = self;
        text
    }

    /// Checks the stated limits, which need no compiling. Takes time linear in the text.
    ///
    /// # Errors
    /// Returns an error with the value found and the limit if the text is too long, nests too deeply or has a number
    /// that cannot be represented exactly, and if a schema is not JSON.
    pub fn check(&self) -> Result<(), GrammarError> {
        limits::check(self).map_err(GrammarError)
    }
}

/// A model's tokens as a trie, shared by all grammars of the model.
pub struct Vocabulary {
    factory: ParserFactory,
}

impl Vocabulary {
    /// Builds the trie. `tokens` has the bytes of each token, by id; `special` has the ids that are no text; `eos` has
    /// the ids that end an answer.
    ///
    /// # Errors
    /// Returns an error if no token ends an answer, or if llguidance refuses the tokens.
    pub fn new(mut tokens: Vec<Vec<u8>>, special: &[u32], eos: &[u32]) -> Result<Self, GrammarError> {
        for token in &mut tokens {
            if token.len() > MAX_TOKEN_BYTES || token.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER) {
                token.clear();
            }
        }
        for id in special.iter().chain(eos) {
            if let Some(token) = tokens.get_mut(*id as usize) {
                // A token may be in both lists, and must be marked once.
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
        // Under these limits llguidance refuses a grammar that is too complex within about 100 ms, and a mask within
        // 20 ms.
        *factory.limits_mut() = ParserLimits { verbose_errors: false, ..ParserLimits::default() };
        Ok(Self { factory })
    }

    /// Compiles a grammar, which usually takes some milliseconds.
    ///
    /// # Errors
    /// Returns an error if the grammar exceeds a limit, cannot be parsed, or allows no answer.
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
        // `true` and `false` are schemas too: they accept anything and nothing.
        serde_json::Value::Bool(_) => {}
        _ => return Err(GrammarError("a schema is an object".to_string())),
    }
    Ok(schema)
}

/// A compiled grammar and the position of one answer in it.
pub struct Matcher {
    matcher: Box<llguidance::Matcher>,
    /// The tokens that may come next.
    mask: SimpleVob,
}

impl Matcher {
    /// Returns the tokens that may come next: a bit for each id, 32 in a word, the lowest first.
    pub fn mask(&self) -> &[u32] {
        self.mask.as_slice()
    }

    /// Accepts the chosen token. Returns true if the answer is complete: it is valid and nothing can follow.
    ///
    /// # Errors
    /// Returns an error if the token is not allowed here, or if the grammar has become too complex.
    pub fn accept(&mut self, token: u32) -> Result<bool, GrammarError> {
        let matcher = &mut self.matcher;
        guarded(|| matcher.consume_token(token))?;
        Ok(self.matcher.is_stopped())
    }

    /// Computes the mask of the tokens that may come next.
    ///
    /// # Errors
    /// Returns an error if the mask exceeds llguidance's limits.
    pub fn prepare(&mut self) -> Result<(), GrammarError> {
        let matcher = &mut self.matcher;
        self.mask = guarded(|| matcher.compute_mask_or_eos())?;
        Ok(())
    }
}

impl Clone for Matcher {
    /// Copies the position too: the copy accepts tokens independently.
    fn clone(&self) -> Self {
        Self { matcher: Box::new(self.matcher.deep_clone()), mask: self.mask.clone() }
    }
}

/// Runs `work` and turns a panic into an error of the grammar.
fn guarded<T, E: Display>(work: impl FnOnce() -> Result<T, E>) -> Result<T, GrammarError> {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    let why = match outcome {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error.to_string(),
        Err(panic) => panic_message(&*panic),
    };
    // The first line has the reason; llguidance's traces follow.
    let line = why.lines().next().unwrap_or_default();
    Err(GrammarError(line.chars().take(MAX_WHY).collect()))
}

fn panic_message(payload: &(dyn std::any::Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        return (*text).to_owned();
    }
    payload.downcast_ref::<String>().cloned().unwrap_or_else(|| "it failed".to_owned())
}

//! What ways of choosing tokens cost and gain: an answer held to a JSON schema beside one drawn freely, and one that
//! says its prompt again, guessed ahead and not.

use std::fmt::Write as _;

use millm_engine::{Constraint, Request, Sampling};
use millm_model::Checkpoint;
use millm_sandbox::{Grammar, Grammars, Language, Sandbox, TokenTable};
use serde::Serialize;

use super::{BenchError, SHORT, ours::Bench, ours::Pace};
use crate::language::Held;

/// Tokens of an answer that is drawn; one that is held may be shorter.
const DRAWN: usize = 64;
/// Pairs of answers, one of each kind in turn, so that what else the machine does hits both.
const PAIRS: u64 = 4;
/// Tokens of the text that is said again.
const REPEATED: usize = 96;
/// Tokens guessed ahead.
const GUESSED: usize = 8;

/// Objects in objects, with what schemas usually have: lengths, ranges, choices, patterns.
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

/// Tokens per second.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Choosing {
    /// Drawn at temperature 1.
    pub drawn: f64,
    /// The same, held to a JSON schema.
    pub held: f64,
    /// Saying its prompt again. A grammar has it do so: what is measured is the guessing, not how well a model repeats.
    pub repeated: f64,
    /// The same, guessed ahead.
    pub guessed: f64,
}

impl Choosing {
    /// Share of the time of an answer that a schema takes.
    pub fn held_share(&self) -> f64 {
        1.0 - self.held / self.drawn
    }

    pub fn guessing_gain(&self) -> f64 {
        self.guessed / self.repeated
    }
}

/// `round` makes prompts that no earlier one shares a beginning with.
pub fn measure(bench: &Bench, grammars: &Grammars, round: usize) -> Result<Choosing, BenchError> {
    let held_to = |grammar: &Grammar| -> Result<Option<Box<dyn Constraint>>, BenchError> {
        Ok(Some(Box::new(Held(grammars.constraint(grammar)?))))
    };
    let schema = Grammar::JsonSchema(SCHEMA.to_owned());
    let draw = |seed: u64, constraint: Option<Box<dyn Constraint>>| {
        let sampling = Sampling { temperature: 1.0, seed: Some(seed), ..Sampling::default() };
        let prompt = bench.prompt(SHORT, 100 * round + 5);
        bench.pace(Request { prompt, sampling, constraint, max_tokens: Some(DRAWN), ..Request::default() })
    };
    let (mut drawn, mut held) = (Pace::default(), Pace::default());
    for seed in 0..PAIRS {
        drawn += draw(seed, None)?;
        held += draw(seed, held_to(&schema)?)?;
    }
    let text = bench.prompt(REPEATED, 100 * round + 6);
    let again = Grammar::Lark(exactly(&text));
    let repeat = |speculate: usize| {
        bench.pace(Request {
            prompt: text.clone(),
            sampling: Sampling::greedy(),
            constraint: held_to(&again)?,
            speculate,
            ..Request::default()
        })
    };
    let (repeated, guessed) = (repeat(0)?, repeat(GUESSED)?);
    Ok(Choosing {
        drawn: drawn.rate(),
        held: held.rate(),
        repeated: repeated.rate(),
        guessed: guessed.rate(),
    })
}

/// A grammar of these tokens and no others.
fn exactly(tokens: &[u32]) -> String {
    tokens.iter().fold("start:".to_owned(), |mut grammar, token| {
        // Writing to a string does not fail.
        let _ = write!(grammar, " <[{token}]>");
        grammar
    })
}

/// Grammars over the model's tokens; invented ones for a model without a language of its own.
pub fn grammars(checkpoint: &Checkpoint, sandbox: &Sandbox) -> Result<Grammars, BenchError> {
    let (size, eos) = (checkpoint.spec().vocabulary_size, checkpoint.spec().eos_token_ids.clone());
    let language = Language::open(sandbox, checkpoint.tokenizer_files())?;
    let detokenizer = language.detokenizer().clone();
    let padding = (0..size as u32).filter(|id| detokenizer.token_bytes(*id).is_empty()).count();
    if eos.is_empty() || 2 * padding > size {
        let last = size.saturating_sub(1) as u32;
        let invented = move || TokenTable { tokens: words(size), special: Vec::new(), eos: vec![last] };
        return Ok(Grammars::new(sandbox.clone(), invented));
    }
    Ok(Grammars::new(sandbox.clone(), crate::language::tokens(detokenizer, size, eos)))
}

/// `count` tokens of the kinds and lengths that vocabularies have: bytes, numbers, marks as JSON and code have them,
/// and words of one to four syllables, capital or not, with and without the space before them.
fn words(count: usize) -> Vec<Vec<u8>> {
    let bytes = (0..=u8::MAX).map(|byte| vec![byte]);
    let numbers = (10..1000).map(|number: u32| number.to_string().into_bytes());
    let marks = [
        "\": ", "\": \"", "\",", "\", \"", "\",\"", "\":", "\":\"", "{\"", "\"}", "\"]", "},", "}, ", "{}",
        "[]", "[{\"", "\"}]", "  ", "    ", "\n\n", "\n  ", ",\n", "{\n", "}\n", ".\n", ", ", ". ", "://",
        "==", "();",
    ];
    let marks = marks.into_iter().map(|mark| mark.as_bytes().to_vec());
    let spelled = (0..).flat_map(|number| {
        let word = syllables(number);
        let capital = || word[..1].to_uppercase() + &word[1..];
        [format!(" {word}"), word.clone(), format!(" {}", capital()), capital()].map(String::into_bytes)
    });
    bytes.chain(numbers).chain(marks).chain(spelled).take(count).collect()
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
    fn invented_tokens_differ_and_spell_what_a_schema_asks_for() {
        let words = words(49_152);
        assert_eq!(words.iter().collect::<HashSet<_>>().len(), 49_152);
        let vocabulary = Vocabulary::new(words, &[], &[49_151]).unwrap();
        vocabulary.compile(&Grammar::JsonSchema(SCHEMA.to_owned())).unwrap();
        vocabulary.compile(&Grammar::Lark(exactly(&[300, 7, 300]))).unwrap();
    }

    #[test]
    fn costs_and_gains_are_ratios() {
        let choosing = Choosing { drawn: 100.0, held: 96.0, repeated: 50.0, guessed: 200.0 };
        assert!((choosing.held_share() - 0.04).abs() < 1e-9);
        assert!((choosing.guessing_gain() - 4.0).abs() < 1e-9);
    }
}

//! The largest published vocabularies fit their budgets, with room for slower machines.

use std::fmt::Write as _;
use std::time::Duration;

use millm_model::TokenizerFiles;
use millm_model::gguf::{Array, Metadata, Value};
use millm_sandbox::{Grammar, Grammars, Language, Next, Sandbox, TokenTable};

/// The size of Gemma 3's vocabulary.
const TOKENS: usize = 262_144;

/// Returns each letter, each syllable of two letters, each pair of syllables, and as many triples as there is room for.
/// Each token comes with the two that it is merged from.
fn words() -> Vec<(String, Option<(String, String)>)> {
    let mut words: Vec<(String, Option<(String, String)>)> = Vec::new();
    for letter in "bcdfghjklmnprstvwxyzaeiou".chars() {
        words.push((letter.to_string(), None));
    }
    let two = |a: &str, b: &str| (format!("{a}{b}"), Some((a.to_owned(), b.to_owned())));
    let letters = |all: &str| all.chars().map(String::from).collect::<Vec<_>>();
    let (consonants, vowels) = (letters("bcdfghjklmnprstvwxyz"), letters("aeiou"));
    let syllables: Vec<_> = consonants.iter().flat_map(|a| vowels.iter().map(move |b| two(a, b))).collect();
    let names: Vec<String> = syllables.iter().map(|(word, _)| word.clone()).collect();
    let pairs: Vec<_> = names.iter().flat_map(|a| names.iter().map(move |b| two(a, b))).collect();
    words.extend(syllables);
    let triples = pairs.iter().flat_map(|(pair, _)| names.iter().map(move |b| two(pair, b)));
    let triples: Vec<_> = triples.take(TOKENS - words.len() - pairs.len()).collect();
    words.extend(pairs);
    words.extend(triples);
    words
}

fn opens(files: TokenizerFiles) {
    let language = Language::open(&Sandbox::beside_tests(), files).expect("it fits");
    let ids = language.encode("banana".to_owned(), false).expect("encodes");
    assert_eq!(language.detokenizer().decode(&ids, false), "banana");
    assert!(ids.len() < 6 && language.detokenizer().vocab_size() >= TOKENS);
}

#[test]
fn a_large_tokenizer_json_is_built() {
    let (mut vocab, mut merges) = (String::new(), String::new());
    for (id, (word, parts)) in words().into_iter().enumerate() {
        let _ = write!(vocab, "{}\n      \"{word}\": {id}", if id == 0 { "" } else { "," });
        if let Some((left, right)) = parts {
            let comma = if merges.is_empty() { "" } else { "," };
            let _ = write!(merges, "{comma}\n      [\n        \"{left}\",\n        \"{right}\"\n      ]");
        }
    }
    let tokenizer = format!(
        r#"{{"version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "post_processor": null,
        "decoder": {{"type": "Fuse"}}, "model": {{"type": "BPE", "vocab": {{{vocab}}}, "merges": [{merges}]}}}}"#
    );
    opens(TokenizerFiles { tokenizer: Some(tokenizer), ..TokenizerFiles::default() });
}

#[test]
fn a_large_sentencepiece_vocabulary_is_built() {
    let mut tokens: Vec<String> = vec!["<unk>".to_owned()];
    tokens.extend(words().into_iter().map(|(word, _)| word));
    let mut kinds = vec![1; tokens.len()];
    kinds[0] = 2;
    // Longer ones are better.
    let scores = tokens.iter().map(|token| token.len() as f32).collect();
    let mut metadata = Metadata::default();
    for (key, value) in [
        ("tokenizer.ggml.model", Value::String("llama".to_owned())),
        ("tokenizer.ggml.tokens", Value::Array(Array::String(tokens))),
        ("tokenizer.ggml.token_type", Value::Array(Array::I32(kinds))),
        ("tokenizer.ggml.scores", Value::Array(Array::F32(scores))),
        ("tokenizer.ggml.add_space_prefix", Value::Bool(false)),
    ] {
        metadata.set(key, Some(value));
    }
    opens(TokenizerFiles { metadata: Some(metadata), ..TokenizerFiles::default() });
}

#[test]
fn a_large_vocabulary_holds_grammars() {
    let tokens = || TokenTable {
        tokens: words().into_iter().map(|(word, _)| word.into_bytes()).chain([b"</s>".to_vec()]).collect(),
        special: Vec::new(),
        eos: vec![TOKENS as u32],
    };
    let grammars = Grammars::new(Sandbox::beside_tests(), tokens);
    let mut constraint = grammars.constraint(&Grammar::Regex("[a-z]{3}".to_owned())).expect("it fits");
    assert!(matches!(constraint.next(Duration::from_secs(10)), Ok(Next::Mask(_))));
}

/// A text of a million tokens.
#[test]
fn a_long_text_is_tokenized() {
    let language = crate::open(crate::files());
    let text = "The quick brown fox jumps over the lazy dog. ".repeat(100_000);
    let ids = language.encode(text.clone(), false).expect("it fits");
    assert_eq!(language.detokenizer().decode(&ids, false), text);
}

//! Tokens guessed ahead: the text is the one that comes without, only sooner.

use millm_engine::{Engine, EngineOptions, Request, Sampling};

use crate::fixtures::{answer, copy, engine, greedy, options};

/// A text that repeats itself.
fn repeating() -> Vec<u32> {
    let line: Vec<u32> = (0..12).map(|j| 300 + 37 * j % 600).collect();
    line.repeat(5)
}

/// Ids and, to the bit, their log probabilities, with and without guessing; and how many passes each took.
fn compare(engine: &Engine, request: &Request) -> (u64, u64) {
    let mut passes = [0, 0];
    let mut told = Vec::new();
    for (speculate, passes) in [0, 8].into_iter().zip(&mut passes) {
        let before = engine.stats().forward_passes;
        let request = Request { speculate, logprobs: Some(2), ..copy(request) };
        let answer = answer(engine, request);
        told.push((answer.tokens, answer.reason, answer.generated));
        *passes = engine.stats().forward_passes - before;
    }
    assert_eq!(told[0], told[1]);
    (passes[0], passes[1])
}

#[test]
fn guessing_changes_no_greedy_text() {
    for path in ["tiny-millm", "tiny-millm-gguf/tiny-Q8_0.gguf", "tiny-millm-gguf/tiny-Q4_K_M.gguf"] {
        let engine = engine(path, &options());
        let (without, with) = compare(&engine, &greedy(&repeating(), 200));
        let stats = engine.stats();
        assert!(stats.true_guesses > 0 && stats.true_guesses <= stats.guessed_tokens);
        // Each guess that came true saved a pass.
        assert_eq!(without - with, stats.true_guesses, "{path}");
        assert!(with < without / 2, "{path}: {with} passes instead of {without}");
    }
}

#[test]
fn guessing_changes_no_drawn_text() {
    let engine = engine("tiny-millm-gguf/tiny-Q4_K_M.gguf", &options());
    for seed in 0..6 {
        let sampling =
            Sampling { temperature: 0.8, repetition_penalty: 1.02, seed: Some(seed), ..Sampling::default() };
        compare(&engine, &Request { sampling, ..greedy(&repeating(), 120) });
    }
    assert!(engine.stats().guessed_tokens > 0);
}

#[test]
fn guesses_keep_to_the_limits() {
    let narrow = EngineOptions { context_length: Some(96), kv_tokens: Some(96), ..options() };
    let engine = engine("tiny-millm", &narrow);
    compare(&engine, &Request { max_tokens: None, ..greedy(&repeating(), 0) });
    for most in 1..12 {
        compare(&engine, &greedy(&repeating(), most));
    }
    let stats = engine.stats();
    assert_eq!(stats.kv_pages_free + stats.kv_pages_kept, stats.kv_pages_total);
}

//! Prompt-lookup speculative decoding: the text is the same as without, in fewer passes.

use millm_engine::{Engine, EngineOptions, Request, SamplingParams};

use crate::fixtures::{answer, copy, engine, greedy, options};

/// Returns a text that repeats itself.
fn repeating() -> Vec<u32> {
    let line: Vec<u32> = (0..12).map(|j| 300 + 37 * j % 600).collect();
    line.repeat(5)
}

/// Compares tokens and log-probabilities, to the bit, with and without drafts. Returns how many passes each took.
fn compare(engine: &Engine, request: &Request) -> (u64, u64) {
    let mut passes = [0, 0];
    let mut outcomes = Vec::new();
    for (max_draft_tokens, passes) in [0, 8].into_iter().zip(&mut passes) {
        let before = engine.stats().forward_passes;
        let request = Request { max_draft_tokens, logprobs: Some(2), ..copy(request) };
        let answer = answer(engine, request);
        outcomes.push((answer.tokens, answer.reason, answer.generated));
        *passes = engine.stats().forward_passes - before;
    }
    assert_eq!(outcomes[0], outcomes[1]);
    (passes[0], passes[1])
}

#[test]
fn drafts_do_not_change_greedy_text() {
    for path in ["tiny-millm", "tiny-millm-gguf/tiny-Q8_0.gguf", "tiny-millm-gguf/tiny-Q4_K_M.gguf"] {
        let engine = engine(path, &options());
        let (without, with) = compare(&engine, &greedy(&repeating(), 200));
        let stats = engine.stats();
        assert!(stats.accepted_tokens > 0 && stats.accepted_tokens <= stats.draft_tokens);
        // Each accepted token saves a pass.
        assert_eq!(without - with, stats.accepted_tokens, "{path}");
        assert!(with < without / 2, "{path}: {with} passes instead of {without}");
    }
}

#[test]
fn drafts_do_not_change_sampled_text() {
    let engine = engine("tiny-millm-gguf/tiny-Q4_K_M.gguf", &options());
    for seed in 0..6 {
        let sampling = SamplingParams {
            temperature: 0.8,
            repetition_penalty: 1.02,
            seed: Some(seed),
            ..SamplingParams::default()
        };
        compare(&engine, &Request { sampling, ..greedy(&repeating(), 120) });
    }
    assert!(engine.stats().draft_tokens > 0);
}

#[test]
fn drafts_keep_to_the_limits() {
    let narrow = EngineOptions { context_length: Some(96), kv_tokens: Some(96), ..options() };
    let engine = engine("tiny-millm", &narrow);
    compare(&engine, &Request { max_tokens: None, ..greedy(&repeating(), 0) });
    for most in 1..12 {
        compare(&engine, &greedy(&repeating(), most));
    }
    let stats = engine.stats();
    assert_eq!(stats.kv_blocks_free + stats.kv_blocks_cached, stats.kv_blocks_total);
}

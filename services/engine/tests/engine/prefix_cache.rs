//! Prompts with the same prefix: it is computed once, and the answers are the same.

use std::sync::mpsc::Receiver;

use millm_engine::{BLOCK_SIZE, Engine, EngineOptions, Event, KvType, Request, SamplingParams, Stats};

use crate::fixtures::{Answer, answer, copy, engine, greedy, options, start};

fn tokens(seed: u32, length: usize) -> Vec<u32> {
    (0..length as u32).map(|j| 260 + (17 * seed + 5 * j + j * j % 7) % 900).collect()
}

/// Returns prompts of `shared` equal tokens, then `own` different ones.
fn prompts(shared: usize, own: usize, count: u32) -> Vec<Vec<u32>> {
    (0..count).map(|i| [tokens(0, shared), tokens(i + 1, own)].concat()).collect()
}

fn scored(prompt: &[u32], max_tokens: usize) -> Request {
    Request { logprobs: Some(3), ..greedy(prompt, max_tokens) }
}

/// Token ids with the bits of their log-probabilities.
type TokenBits = Vec<(u32, u32)>;

fn token_bits(answer: &Answer) -> TokenBits {
    answer.tokens.iter().map(|token| (token.id, token.logprob.unwrap().to_bits())).collect()
}

/// Returns the answer of each request from an engine of its own.
fn alone(path: &str, options: &EngineOptions, requests: &[Request]) -> Vec<TokenBits> {
    requests.iter().map(|request| token_bits(&answer(&engine(path, options), copy(request)))).collect()
}

fn gather(running: &[Receiver<Event>]) -> Vec<Answer> {
    running.iter().map(Answer::gather).collect()
}

fn since(engine: &Engine, before: &Stats) -> (u64, u64) {
    let now = engine.stats();
    (now.prompt_tokens - before.prompt_tokens, now.cached_tokens - before.cached_tokens)
}

#[test]
fn a_shared_prefix_is_computed_once_for_later_requests() {
    let options = EngineOptions { context_length: Some(640), ..options() };
    let engine = engine("tiny-millm", &options);
    let requests: Vec<Request> = prompts(500, 20, 8).iter().map(|prompt| scored(prompt, 6)).collect();
    let shared = (500 / BLOCK_SIZE * BLOCK_SIZE) as u64;
    let before = engine.stats();
    let answers: Vec<Answer> = requests.iter().map(|request| answer(&engine, copy(request))).collect();
    assert_eq!(since(&engine, &before), (520 + 7 * (520 - shared), 7 * shared));
    let cached: Vec<usize> = answers.iter().map(|answer| answer.cached).collect();
    assert_eq!(cached, [vec![0], vec![shared as usize; 7]].concat());
    assert_eq!(answers.iter().map(token_bits).collect::<Vec<_>>(), alone("tiny-millm", &options, &requests));
}

#[test]
fn a_shared_prefix_is_computed_once_for_concurrent_requests() {
    // Each of these types rounds in its own way.
    for path in ["tiny-millm", "tiny-millm-gguf/tiny-Q4_K_M.gguf", "tiny-millm-gguf/tiny-Q8_0.gguf"] {
        let options = EngineOptions { context_length: Some(640), ..options() };
        let engine = engine(path, &options);
        let requests: Vec<Request> = prompts(500, 20, 8).iter().map(|prompt| scored(prompt, 6)).collect();
        let shared = (500 / BLOCK_SIZE * BLOCK_SIZE) as u64;
        let running: Vec<_> = requests.iter().map(|request| start(&engine, copy(request))).collect();
        let answers = gather(&running);
        assert_eq!(since(&engine, &Stats::default()), (520 + 7 * (520 - shared), 7 * shared), "{path}");
        assert_eq!(
            answers.iter().map(token_bits).collect::<Vec<_>>(),
            alone(path, &options, &requests),
            "{path}"
        );
    }
}

#[test]
fn concurrent_answers_to_one_prompt_compute_it_once() {
    let prompt = tokens(3, 200);
    let requests: Vec<Request> = (0..8)
        .map(|seed| {
            let sampling = SamplingParams { temperature: 1.2, seed: Some(seed), ..SamplingParams::default() };
            Request { sampling, ..scored(&prompt, 40) }
        })
        .collect();
    let engine = engine("tiny-millm", &options());
    let running: Vec<_> = requests.iter().map(|request| start(&engine, copy(request))).collect();
    let together: Vec<TokenBits> = gather(&running).iter().map(token_bits).collect();
    assert_eq!(since(&engine, &Stats::default()), (200, 7 * 200));
    assert_eq!(together, alone("tiny-millm", &options(), &requests));
    assert_ne!(together[0], together[1]);
}

#[test]
fn a_conversation_shares_the_blocks_of_its_earlier_turns() {
    let options = EngineOptions { kv_type: KvType::F16, context_length: Some(640), ..options() };
    let engine = engine("tiny-millm-gguf/tiny-Q4_K_M.gguf", &options);
    let mut conversation = tokens(5, 150);
    let (mut requests, mut answers, mut cached) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 0..4 {
        let request = scored(&conversation, 30);
        let answer = answer(&engine, copy(&request));
        conversation.extend(answer.ids());
        conversation.extend(tokens(turn + 10, 40));
        cached.push(answer.cached);
        answers.push(token_bits(&answer));
        requests.push(request);
    }
    // Each turn computes the last answer, which was generated and not a prompt, and the new message.
    let shared: Vec<usize> =
        requests.iter().map(|request| request.prompt.len() / BLOCK_SIZE * BLOCK_SIZE).collect();
    assert_eq!(cached, [0, shared[0], shared[1], shared[2]]);
    assert_eq!(answers, alone("tiny-millm-gguf/tiny-Q4_K_M.gguf", &options, &requests));
}

#[test]
fn a_scored_prompt_is_computed_whole_and_shared_by_others() {
    let engine = engine("tiny-millm", &options());
    let prompt = tokens(4, 130);
    let scoring = Request { prompt_logprobs: true, ..scored(&prompt, 3) };
    let first = answer(&engine, copy(&scoring));
    let second = answer(&engine, scoring);
    assert_eq!((&first.prompt, token_bits(&first)), (&second.prompt, token_bits(&second)));
    assert_eq!(since(&engine, &Stats::default()), (260, 0));
    assert_eq!(answer(&engine, scored(&prompt, 3)).cached, 128);
}

#[test]
fn a_request_that_waits_for_a_prefix_computes_it_when_the_other_disconnects() {
    let request = scored(&tokens(6, 300), 5);
    let options = EngineOptions { prefill_chunk: 16, ..options() };
    let engine = engine("tiny-millm", &options);
    let first = start(&engine, copy(&request));
    let second = start(&engine, copy(&request));
    drop(first);
    assert_eq!([token_bits(&Answer::gather(&second))], *alone("tiny-millm", &options, &[request]));
}

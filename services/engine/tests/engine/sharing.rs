//! Prompts that begin the same: what is computed once, and that nobody can tell from the answers.

use std::sync::mpsc::Receiver;

use millm_engine::{Engine, EngineOptions, Event, KvType, Request, Sampling, Stats};

use crate::fixtures::{Answer, answer, copy, engine, greedy, options, start};

const PAGE: usize = millm_engine::pages::PAGE;

fn spoken(seed: u32, length: usize) -> Vec<u32> {
    (0..length as u32).map(|j| 260 + (17 * seed + 5 * j + j * j % 7) % 900).collect()
}

/// `shared` tokens that all have, then some of their own.
fn prompts(shared: usize, own: usize, count: u32) -> Vec<Vec<u32>> {
    (0..count).map(|i| [spoken(0, shared), spoken(i + 1, own)].concat()).collect()
}

fn scored(prompt: &[u32], max_tokens: usize) -> Request {
    Request { logprobs: Some(3), ..greedy(prompt, max_tokens) }
}

/// Ids and, to the bit, their log probabilities.
type Told = Vec<(u32, u32)>;

fn told(answer: &Answer) -> Told {
    answer.tokens.iter().map(|token| (token.id, token.logprob.unwrap().to_bits())).collect()
}

/// What each says to an engine that has heard nothing else.
fn alone(path: &str, options: &EngineOptions, requests: &[Request]) -> Vec<Told> {
    requests.iter().map(|request| told(&answer(&engine(path, options), copy(request)))).collect()
}

fn gather(running: &[Receiver<Event>]) -> Vec<Answer> {
    running.iter().map(Answer::gather).collect()
}

fn since(engine: &Engine, before: &Stats) -> (u64, u64) {
    let now = engine.stats();
    (now.prompt_tokens - before.prompt_tokens, now.cached_tokens - before.cached_tokens)
}

#[test]
fn a_shared_prefix_is_computed_once_for_requests_that_follow() {
    let options = EngineOptions { context_length: Some(640), ..options() };
    let engine = engine("tiny-millm", &options);
    let requests: Vec<Request> = prompts(500, 20, 8).iter().map(|prompt| scored(prompt, 6)).collect();
    let shared = (500 / PAGE * PAGE) as u64;
    let before = engine.stats();
    let answers: Vec<Answer> = requests.iter().map(|request| answer(&engine, copy(request))).collect();
    assert_eq!(since(&engine, &before), (520 + 7 * (520 - shared), 7 * shared));
    let cached: Vec<usize> = answers.iter().map(|answer| answer.cached).collect();
    assert_eq!(cached, [vec![0], vec![shared as usize; 7]].concat());
    assert_eq!(answers.iter().map(told).collect::<Vec<_>>(), alone("tiny-millm", &options, &requests));
}

#[test]
fn a_shared_prefix_is_computed_once_for_requests_that_come_together() {
    // In the types of which each rounds in its own way.
    for path in ["tiny-millm", "tiny-millm-gguf/tiny-Q4_K_M.gguf", "tiny-millm-gguf/tiny-Q8_0.gguf"] {
        let options = EngineOptions { context_length: Some(640), ..options() };
        let engine = engine(path, &options);
        let requests: Vec<Request> = prompts(500, 20, 8).iter().map(|prompt| scored(prompt, 6)).collect();
        let shared = (500 / PAGE * PAGE) as u64;
        let running: Vec<_> = requests.iter().map(|request| start(&engine, copy(request))).collect();
        let answers = gather(&running);
        assert_eq!(since(&engine, &Stats::default()), (520 + 7 * (520 - shared), 7 * shared), "{path}");
        assert_eq!(answers.iter().map(told).collect::<Vec<_>>(), alone(path, &options, &requests), "{path}");
    }
}

#[test]
fn many_answers_to_one_prompt_compute_it_once() {
    let prompt = spoken(3, 200);
    let requests: Vec<Request> = (0..8)
        .map(|seed| {
            let sampling = Sampling { temperature: 1.2, seed: Some(seed), ..Sampling::default() };
            Request { sampling, ..scored(&prompt, 40) }
        })
        .collect();
    let engine = engine("tiny-millm", &options());
    let running: Vec<_> = requests.iter().map(|request| start(&engine, copy(request))).collect();
    let together: Vec<Told> = gather(&running).iter().map(told).collect();
    assert_eq!(since(&engine, &Stats::default()), (200, 7 * 200));
    assert_eq!(together, alone("tiny-millm", &options(), &requests));
    assert_ne!(together[0], together[1]);
}

#[test]
fn a_conversation_goes_on_from_what_was_read_before() {
    let options = EngineOptions { kv_type: KvType::F16, context_length: Some(640), ..options() };
    let engine = engine("tiny-millm-gguf/tiny-Q4_K_M.gguf", &options);
    let mut conversation = spoken(5, 150);
    let (mut requests, mut heard, mut cached) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 0..4 {
        let request = scored(&conversation, 30);
        let answer = answer(&engine, copy(&request));
        conversation.extend(answer.ids());
        conversation.extend(spoken(turn + 10, 40));
        cached.push(answer.cached);
        heard.push(told(&answer));
        requests.push(request);
    }
    // Each turn reads the last answer, which was not a prompt yet, and what came after it.
    let read: Vec<usize> = requests.iter().map(|request| request.prompt.len() / PAGE * PAGE).collect();
    assert_eq!(cached, [0, read[0], read[1], read[2]]);
    assert_eq!(heard, alone("tiny-millm-gguf/tiny-Q4_K_M.gguf", &options, &requests));
}

#[test]
fn a_prompt_that_is_scored_is_computed_whole_and_shared_all_the_same() {
    let engine = engine("tiny-millm", &options());
    let prompt = spoken(4, 130);
    let scoring = Request { prompt_logprobs: true, ..scored(&prompt, 3) };
    let first = answer(&engine, copy(&scoring));
    let second = answer(&engine, scoring);
    assert_eq!((&first.prompt, told(&first)), (&second.prompt, told(&second)));
    assert_eq!(since(&engine, &Stats::default()), (260, 0));
    assert_eq!(answer(&engine, scored(&prompt, 3)).cached, 128);
}

#[test]
fn whoever_waits_for_one_that_leaves_computes_it_itself() {
    let request = scored(&spoken(6, 300), 5);
    let options = EngineOptions { prefill_chunk: 16, ..options() };
    let engine = engine("tiny-millm", &options);
    let first = start(&engine, copy(&request));
    let second = start(&engine, copy(&request));
    drop(first);
    assert_eq!([told(&Answer::gather(&second))], *alone("tiny-millm", &options, &[request]));
}

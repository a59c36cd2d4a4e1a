//! Random arrivals, lengths and cancels, prompts that begin the same, too few pages for all, guesses: every answer is,
//! to the bit, what it is alone, and no page is lost.

use std::sync::mpsc::{Receiver, Sender, channel};

use millm_engine::{EndReason, Engine, EngineOptions, Event, Request, Sampling, Sink, Token};
use proptest::prelude::*;

use crate::fixtures::{answer, engine, greedy, options};

/// Of each request: some answers reach its end.
const CONTEXT: usize = 128;

#[derive(Debug, Clone)]
struct Arrival {
    prompt: Vec<u32>,
    max_tokens: usize,
    temperature: f32,
    speculate: usize,
    /// The receiver goes away after this many events.
    leaves_after: Option<usize>,
    /// Submitted when so many events of all streams have been seen.
    moment: usize,
}

/// What many prompts begin with.
fn known(length: usize) -> impl Iterator<Item = u32> {
    (0..length as u32).map(|i| 3 + 7 * i % 120)
}

fn arrivals() -> impl Strategy<Value = Vec<Arrival>> {
    // Few of them, so that whole prompts meet as well.
    let own = prop_oneof![
        2 => proptest::collection::vec(3u32..5, 1..3),
        1 => proptest::collection::vec(3u32..128, 1..50),
    ];
    let one = (
        (prop_oneof![Just(0usize), Just(31), Just(32), Just(70)], own),
        0usize..30,
        prop_oneof![Just(0.0f32), Just(1.5)],
        prop_oneof![Just(0usize), 1usize..6],
        proptest::option::weighted(0.3, 0usize..12),
        0usize..120,
    );
    let one =
        one.prop_map(|((shared, own), max_tokens, temperature, speculate, leaves_after, moment)| Arrival {
            prompt: known(shared).chain(own).collect(),
            max_tokens,
            temperature,
            speculate,
            leaves_after,
            moment,
        });
    proptest::collection::vec(one, 1..12)
}

/// Counts down to the moment its receiver goes away.
struct Fickle {
    stream: usize,
    left: Option<usize>,
    events: Sender<(usize, Option<Event>)>,
}

impl Sink for Fickle {
    fn send(&mut self, event: Event) -> bool {
        if self.left == Some(0) {
            return false;
        }
        self.left = self.left.map(|left| left - 1);
        self.events.send((self.stream, Some(event))).is_ok()
    }

    fn closed(&self) -> bool {
        self.left == Some(0)
    }
}

impl Drop for Fickle {
    fn drop(&mut self) {
        // The test may have failed and gone.
        let _ = self.events.send((self.stream, None));
    }
}

fn request(stream: usize, arrival: &Arrival) -> Request {
    let Arrival { temperature, speculate, .. } = *arrival;
    let sampling = Sampling { temperature, seed: Some(stream as u64), ..Sampling::default() };
    let request = greedy(&arrival.prompt, arrival.max_tokens);
    Request { sampling, speculate, logprobs: Some(2), ..request }
}

/// What each stream heard, in order.
fn run(engine: &Engine, arrivals: &[Arrival]) -> Vec<Vec<Event>> {
    let mut heard = vec![Vec::new(); arrivals.len()];
    let mut order: Vec<usize> = (0..arrivals.len()).collect();
    order.sort_by_key(|stream| std::cmp::Reverse(arrivals[*stream].moment));
    let (sender, events): (_, Receiver<(usize, Option<Event>)>) = channel();
    let (mut seen, mut open) = (0, 0);
    while open > 0 || !order.is_empty() {
        while order.last().is_some_and(|stream| open == 0 || arrivals[*stream].moment <= seen) {
            let stream = order.pop().unwrap();
            let sink = Fickle { stream, left: arrivals[stream].leaves_after, events: sender.clone() };
            engine.submit(request(stream, &arrivals[stream]), Box::new(sink)).unwrap();
            open += 1;
        }
        let (stream, event) = events.recv().unwrap();
        seen += 1;
        match event {
            Some(event) => heard[stream].push(event),
            None => open -= 1,
        }
    }
    heard
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn answers_are_those_alone_and_no_page_leaks(
        arrivals in arrivals(),
        slots in 1usize..6,
        chunks in (1usize..40, 1usize..40),
        layers_between_steps in prop_oneof![Just(None), Just(Some(1)), Just(Some(usize::MAX))],
        kv_tokens in prop_oneof![Just(None), (CONTEXT..400).prop_map(Some)],
    ) {
        let options = EngineOptions {
            slots,
            kv_tokens,
            prefill_chunk: chunks.0,
            prefill_beside_answers: chunks.1,
            layers_between_steps,
            context_length: Some(CONTEXT),
            ..options()
        };
        let engine = engine("families/llama", &options);
        let heard = run(&engine, &arrivals);
        let stats = engine.stats();
        for (stream, (arrival, heard)) in arrivals.iter().zip(&heard).enumerate() {
            // A prompt that is scored is computed whole.
            let alone = Request { prompt_logprobs: true, speculate: 0, ..request(stream, arrival) };
            let alone = answer(&engine, alone);
            let tokens: Vec<&Token> = heard.iter().filter_map(|event| match event {
                Event::Token(token) => Some(token),
                _ => None,
            }).collect();
            prop_assert_eq!(&tokens[..], &alone.tokens.iter().take(tokens.len()).collect::<Vec<_>>()[..]);
            let most = arrival.max_tokens.min(CONTEXT - arrival.prompt.len());
            let whole = arrival.leaves_after.is_none_or(|events| events >= most + 2);
            if whole {
                prop_assert_eq!(tokens.len(), most);
                let ended = matches!(heard.last(), Some(Event::End { reason: EndReason::Length, .. }));
                prop_assert!(ended);
            } else {
                prop_assert_eq!(heard.len(), arrival.leaves_after.unwrap());
            }
        }
        prop_assert_eq!((stats.running, stats.waiting), (0, 0));
        prop_assert_eq!(stats.kv_pages_free + stats.kv_pages_kept, stats.kv_pages_total);
    }
}

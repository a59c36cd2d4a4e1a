//! Random arrivals, lengths and disconnects, shared prefixes, too few KV blocks, drafts: every answer is, to the bit,
//! the one that the request gets alone, and no block is lost.

use std::sync::mpsc::{Receiver, Sender, channel};

use millm_engine::{EndReason, Engine, EngineOptions, Event, Request, SamplingParams, Sink, Token};
use proptest::prelude::*;

use crate::fixtures::{answer, engine, greedy, options};

/// Tokens of each request. Some answers reach the end.
const CONTEXT: usize = 128;

#[derive(Debug, Clone)]
struct Arrival {
    prompt: Vec<u32>,
    max_tokens: usize,
    temperature: f32,
    max_draft_tokens: usize,
    /// The receiver disconnects after this many events.
    disconnects_after: Option<usize>,
    /// Submitted when this many events of all streams have been received.
    moment: usize,
}

/// The beginning of many prompts.
fn prefix(length: usize) -> impl Iterator<Item = u32> {
    (0..length as u32).map(|i| 3 + 7 * i % 120)
}

fn arrivals() -> impl Strategy<Value = Vec<Arrival>> {
    // From a small range, so that whole prompts are equal too.
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
    let one = one.prop_map(
        |((shared, own), max_tokens, temperature, max_draft_tokens, disconnects_after, moment)| Arrival {
            prompt: prefix(shared).chain(own).collect(),
            max_tokens,
            temperature,
            max_draft_tokens,
            disconnects_after,
            moment,
        },
    );
    proptest::collection::vec(one, 1..12)
}

/// Counts down to its disconnect.
struct Disconnecting {
    stream: usize,
    left: Option<usize>,
    events: Sender<(usize, Option<Event>)>,
}

impl Sink for Disconnecting {
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

impl Drop for Disconnecting {
    fn drop(&mut self) {
        // The test may have failed and dropped the receiver.
        let _ = self.events.send((self.stream, None));
    }
}

fn request(stream: usize, arrival: &Arrival) -> Request {
    let Arrival { temperature, max_draft_tokens, .. } = *arrival;
    let sampling = SamplingParams { temperature, seed: Some(stream as u64), ..SamplingParams::default() };
    let request = greedy(&arrival.prompt, arrival.max_tokens);
    Request { sampling, max_draft_tokens, logprobs: Some(2), ..request }
}

/// Returns the events of each stream, in order.
fn run(engine: &Engine, arrivals: &[Arrival]) -> Vec<Vec<Event>> {
    let mut received = vec![Vec::new(); arrivals.len()];
    let mut order: Vec<usize> = (0..arrivals.len()).collect();
    order.sort_by_key(|stream| std::cmp::Reverse(arrivals[*stream].moment));
    let (sender, events): (_, Receiver<(usize, Option<Event>)>) = channel();
    let (mut seen, mut open) = (0, 0);
    while open > 0 || !order.is_empty() {
        while order.last().is_some_and(|stream| open == 0 || arrivals[*stream].moment <= seen) {
            let stream = order.pop().unwrap();
            let sink =
                Disconnecting { stream, left: arrivals[stream].disconnects_after, events: sender.clone() };
            engine.submit(request(stream, &arrivals[stream]), Box::new(sink)).unwrap();
            open += 1;
        }
        let (stream, event) = events.recv().unwrap();
        seen += 1;
        match event {
            Some(event) => received[stream].push(event),
            None => open -= 1,
        }
    }
    received
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn answers_are_those_of_requests_alone_and_no_block_leaks(
        arrivals in arrivals(),
        slots in 1usize..6,
        chunk in 1usize..40,
        chunk_while_decoding in 1usize..40,
        prefill_layers_per_decode in prop_oneof![Just(None), Just(Some(1)), Just(Some(usize::MAX))],
        kv_tokens in prop_oneof![Just(None), (CONTEXT..400).prop_map(Some)],
    ) {
        let options = EngineOptions {
            slots,
            kv_tokens,
            prefill_chunk: chunk,
            prefill_chunk_while_decoding: chunk_while_decoding,
            prefill_layers_per_decode,
            context_length: Some(CONTEXT),
            ..options()
        };
        let engine = engine("families/llama", &options);
        let received = run(&engine, &arrivals);
        let stats = engine.stats();
        for (stream, (arrival, received)) in arrivals.iter().zip(&received).enumerate() {
            // A scored prompt is computed whole.
            let alone = Request { prompt_logprobs: true, max_draft_tokens: 0, ..request(stream, arrival) };
            let alone = answer(&engine, alone);
            let tokens: Vec<&Token> = received.iter().filter_map(|event| match event {
                Event::Token(token) => Some(token),
                _ => None,
            }).collect();
            prop_assert_eq!(&tokens[..], &alone.tokens.iter().take(tokens.len()).collect::<Vec<_>>()[..]);
            let most = arrival.max_tokens.min(CONTEXT - arrival.prompt.len());
            let whole = arrival.disconnects_after.is_none_or(|events| events >= most + 2);
            if whole {
                prop_assert_eq!(tokens.len(), most);
                let ended = matches!(received.last(), Some(Event::End { reason: EndReason::Length, .. }));
                prop_assert!(ended);
            } else {
                prop_assert_eq!(received.len(), arrival.disconnects_after.unwrap());
            }
        }
        prop_assert_eq!((stats.running, stats.waiting), (0, 0));
        prop_assert_eq!(stats.kv_blocks_free + stats.kv_blocks_cached, stats.kv_blocks_total);
    }
}

//! Random arrivals, lengths and cancels: every answer is what it is alone, and no page is lost.

use std::sync::mpsc::{Receiver, Sender, channel};

use millm_engine::{EndReason, Engine, EngineOptions, Event, Request, Sink, Token};
use proptest::prelude::*;

use crate::fixtures::{answer, engine, greedy, options};

#[derive(Debug, Clone)]
struct Arrival {
    prompt: Vec<u32>,
    max_tokens: usize,
    /// The receiver goes away after this many events.
    leaves_after: Option<usize>,
    /// Submitted when so many events of all streams have been seen.
    moment: usize,
}

fn arrivals() -> impl Strategy<Value = Vec<Arrival>> {
    let one = (
        proptest::collection::vec(3u32..128, 1..80),
        0usize..30,
        proptest::option::weighted(0.3, 0usize..12),
        0usize..120,
    );
    let one = one.prop_map(|(prompt, max_tokens, leaves_after, moment)| Arrival {
        prompt,
        max_tokens,
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

fn request(arrival: &Arrival) -> Request {
    Request { logprobs: Some(2), ..greedy(&arrival.prompt, arrival.max_tokens) }
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
            engine.submit(request(&arrivals[stream]), Box::new(sink)).unwrap();
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

/// Equal ids, up to where two tokens were as good as equally likely: rounding may decide that either way.
fn agrees(got: &[&Token], alone: &[Token]) -> bool {
    for (got, alone) in got.iter().zip(alone) {
        if got.id != alone.id {
            return alone.top[0].1 - alone.top[1].1 < 1e-3;
        }
    }
    true
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn answers_are_those_alone_and_no_page_leaks(arrivals in arrivals(), slots in 1usize..5, chunk in 1usize..40) {
        let options = EngineOptions { slots, prefill_chunk: chunk, context_length: Some(128), ..options() };
        let engine = engine("families/llama", &options);
        let heard = run(&engine, &arrivals);
        for (arrival, heard) in arrivals.iter().zip(&heard) {
            let alone = answer(&engine, request(arrival));
            let tokens: Vec<&Token> = heard.iter().filter_map(|event| match event {
                Event::Token(token) => Some(token),
                _ => None,
            }).collect();
            prop_assert!(agrees(&tokens, &alone.tokens));
            let whole = arrival.leaves_after.is_none_or(|events| events >= arrival.max_tokens + 2);
            if whole {
                prop_assert_eq!(tokens.len(), arrival.max_tokens);
                let ended = matches!(heard.last(), Some(Event::End { reason: EndReason::Length, .. }));
                prop_assert!(ended);
            } else {
                prop_assert_eq!(heard.len(), arrival.leaves_after.unwrap());
            }
        }
        let stats = engine.stats();
        prop_assert_eq!((stats.running, stats.waiting), (0, 0));
        prop_assert_eq!(stats.kv_pages_free, stats.kv_pages_total);
    }
}

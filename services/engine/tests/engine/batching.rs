//! Continuous batching: requests that join and leave a running batch.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, Weak};

use millm_engine::{EndReason, Engine, EngineOptions, Event, Request, SamplingParams, Sink, SubmitError};

use crate::fixtures::{Answer, answer, copy, engine, greedy, options, start};

/// Submits more requests from the engine's own thread, each when this stream has generated a number of tokens. So
/// they join at known passes, whatever the machine is busy with.
struct Conductor {
    engine: Weak<Engine>,
    events: Sender<Event>,
    tokens: usize,
    joining: Vec<(usize, Request)>,
    joined: Arc<Mutex<Vec<Receiver<Event>>>>,
}

impl Sink for Conductor {
    fn send(&mut self, event: Event) -> bool {
        self.tokens += usize::from(matches!(event, Event::Token(_)));
        let engine = self.engine.upgrade().expect("the test holds the engine");
        while self.joining.first().is_some_and(|(moment, _)| *moment <= self.tokens) {
            let (_, request) = self.joining.remove(0);
            self.joined.lock().unwrap().push(start(&engine, request));
        }
        self.events.send(event).is_ok()
    }
}

#[test]
fn eight_streams_that_join_at_different_times_give_the_same_answers_as_alone() {
    let engine = Arc::new(engine("tiny-millm", &options()));
    let prompts: Vec<Vec<u32>> =
        (0..8u32).map(|i| (0..10 + 9 * i).map(|j| 260 + (17 * i + 5 * j) % 900).collect()).collect();
    let requests: Vec<Request> =
        prompts.iter().zip(0..).map(|(prompt, i)| greedy(prompt, 80 - 7 * i)).collect();

    let passes = || engine.stats().forward_passes;
    let mut alone = Vec::new();
    let mut longest = 0;
    for request in &requests {
        let before = passes();
        alone.push(answer(&engine, copy(request)).ids());
        longest = longest.max(passes() - before);
    }

    let before = passes();
    let joined = Arc::new(Mutex::new(Vec::new()));
    let (sender, events) = channel();
    let conductor = Conductor {
        engine: Arc::downgrade(&engine),
        events: sender,
        tokens: 0,
        joining: requests[1..].iter().map(copy).zip(1..).map(|(request, i)| (3 * i, request)).collect(),
        joined: Arc::clone(&joined),
    };
    engine.submit(copy(&requests[0]), Box::new(conductor)).unwrap();
    let mut together = vec![Answer::gather(&events).ids()];
    let joined = std::mem::take(&mut *joined.lock().unwrap());
    together.extend(joined.iter().map(|events| Answer::gather(events).ids()));
    let passes = passes() - before;

    assert_eq!(together, alone);
    assert!(passes * 10 <= longest * 13, "{passes} passes together, {longest} for the longest alone");
    let stats = engine.stats();
    assert_eq!(
        (stats.running, stats.waiting, stats.kv_blocks_free + stats.kv_blocks_cached),
        (0, 0, stats.kv_blocks_total)
    );
}

#[test]
fn a_long_prefill_stops_no_running_answer() {
    let engine = Arc::new(engine("tiny-millm", &EngineOptions { prefill_chunk: 16, ..options() }));
    let long: Vec<u32> = (0..400).map(|j| 260 + 5 * j % 900).collect();
    let joined = Arc::new(Mutex::new(Vec::new()));
    let (sender, events) = channel();
    let conductor = Conductor {
        engine: Arc::downgrade(&engine),
        events: sender,
        tokens: 0,
        joining: vec![(1, greedy(&long, 1))],
        joined: Arc::clone(&joined),
    };
    engine.submit(greedy(&[1, 2, 3], 26), Box::new(conductor)).unwrap();
    Answer::gather(&events);
    // 25 passes of 16 prompt tokens, with a token of the answer in each.
    assert_eq!(engine.stats().forward_passes, 26);
    assert_eq!(Answer::gather(&joined.lock().unwrap().remove(0)).generated, 1);
}

#[test]
fn a_seed_gives_the_same_text_alone_and_among_others() {
    let engine = engine("tiny-millm", &options());
    let request = |seed| {
        let sampling =
            SamplingParams { temperature: 1.3, top_p: 0.95, seed: Some(seed), ..SamplingParams::default() };
        Request { sampling, ..greedy(&[1, 285, 201, 322, 293], 40) }
    };
    let alone: Vec<_> = (0..6).map(|seed| answer(&engine, request(seed)).ids()).collect();
    let running: Vec<_> = (0..6).map(|seed| start(&engine, request(seed))).collect();
    let together: Vec<_> = running.iter().map(|events| Answer::gather(events).ids()).collect();
    assert_eq!(together, alone);
    assert_ne!(alone[0], alone[1]);
}

#[test]
fn prompts_are_scored_with_and_without_generation() {
    let engine = engine("tiny-millm", &options());
    let prompt: Vec<u32> = [1, 285, 201, 322, 293, 301, 369, 331, 1199, 33, 2, 201, 1, 284, 201].repeat(9);
    let scoring = Request { prompt_logprobs: true, logprobs: Some(3), ..greedy(&prompt, 0) };
    let scored = answer(&engine, copy(&scoring));
    assert_eq!((scored.reason, scored.prompt_tokens, scored.generated), (EndReason::Length, prompt.len(), 0));
    let tokens = scored.prompt.unwrap();
    assert_eq!(tokens.iter().map(|token| token.id).collect::<Vec<_>>(), prompt);
    assert_eq!(tokens[0].logprob, None);
    for token in &tokens[1..] {
        let best = token.top[0].1;
        assert!(token.top.len() == 3 && token.top.is_sorted_by(|a, b| a.1 >= b.1));
        assert!(token.logprob.unwrap() <= best && best <= 0.0);
    }
    // The same number comes out when the token is generated.
    let generated = answer(&engine, Request { logprobs: Some(1), ..greedy(&prompt, 1) });
    let next = &generated.tokens[0];
    let longer: Vec<u32> = prompt.iter().copied().chain([next.id]).collect();
    let again = answer(&engine, Request { prompt: longer, ..scoring });
    let scored = again.prompt.unwrap().pop().unwrap();
    assert!((scored.logprob.unwrap() - next.logprob.unwrap()).abs() < 1e-3);
    assert_eq!(next.top, [(next.id, next.logprob.unwrap())]);
}

#[test]
fn a_request_beyond_the_limits_is_refused() {
    let engine = engine(
        "tiny-millm",
        &EngineOptions { slots: 1, queue_capacity: 1, context_length: Some(32), ..options() },
    );
    let submit = |request: Request| engine.submit(request, Box::new(Discard));
    let tokens: Vec<u32> = (0..33).collect();
    assert_eq!(submit(greedy(&[], 1)), Err(SubmitError::EmptyPrompt));
    assert_eq!(submit(greedy(&tokens, 0)), Err(SubmitError::PromptTooLong { tokens: 33, context: 32 }));
    assert_eq!(submit(greedy(&tokens[..32], 1)), Err(SubmitError::PromptTooLong { tokens: 32, context: 32 }));
    assert_eq!(submit(greedy(&[2048], 1)), Err(SubmitError::UnknownToken { id: 2048, vocabulary: 2048 }));
    let hot = Request {
        sampling: SamplingParams { temperature: f32::NAN, ..SamplingParams::default() },
        ..greedy(&[1], 1)
    };
    assert!(matches!(submit(hot), Err(SubmitError::InvalidSampling { field: "temperature", .. })));

    let full = answer(&engine, Request { max_tokens: None, ..greedy(&[1, 2, 3], 0) });
    assert_eq!((full.reason, full.generated), (EndReason::Length, 29));
    assert_eq!(answer(&engine, greedy(&tokens[..32], 0)).reason, EndReason::Length);
}

struct Discard;

impl Sink for Discard {
    fn send(&mut self, _: Event) -> bool {
        true
    }
}

/// Blocks the engine's thread at its first event until released.
struct Gate {
    reached: Sender<()>,
    go: Receiver<()>,
    open: bool,
    events: Sender<Event>,
}

impl Sink for Gate {
    fn send(&mut self, event: Event) -> bool {
        if !self.open {
            self.reached.send(()).unwrap();
            self.go.recv().unwrap();
            self.open = true;
        }
        self.events.send(event).is_ok()
    }
}

#[test]
fn a_full_queue_refuses_and_cancelling_empties_it() {
    let engine = engine("tiny-millm", &EngineOptions { slots: 1, queue_capacity: 2, ..options() });
    let ((reached, wait), (go, gate), (sender, events)) = (channel(), channel(), channel());
    let gate = Gate { reached, go: gate, open: false, events: sender };
    engine.submit(greedy(&[1, 2], 100), Box::new(gate)).unwrap();
    wait.recv().unwrap();
    let waiting = [start(&engine, greedy(&[3], 5)), start(&engine, greedy(&[4], 5))];
    assert_eq!(engine.submit(greedy(&[5], 5), Box::new(Discard)), Err(SubmitError::QueueFull { waiting: 2 }));
    std::thread::scope(|scope| {
        scope.spawn(|| engine.cancel_all());
        go.send(()).unwrap();
    });
    assert_eq!(Answer::gather(&events).reason, EndReason::Cancelled);
    for events in &waiting {
        assert_eq!(Answer::gather(events).reason, EndReason::Cancelled);
    }
    assert_eq!(answer(&engine, greedy(&[5], 5)).generated, 5);
    engine.stop();
    assert_eq!(engine.submit(greedy(&[5], 5), Box::new(Discard)), Err(SubmitError::Stopped));
}

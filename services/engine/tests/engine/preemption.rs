//! More requests than KV blocks: preemption, decoding during long prefills, slots that are freed at once.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, Weak};

use millm_engine::{BLOCK_SIZE, EndReason, Engine, EngineOptions, Event, Request, Sink, Stats, SubmitError};

use crate::fixtures::{Answer, answer, copy, engine, greedy, options, start};

fn prompt(seed: u32, length: usize) -> Vec<u32> {
    (0..length as u32).map(|j| 260 + (31 * seed + 5 * j) % 900).collect()
}

#[test]
fn preempted_requests_give_the_same_answers() {
    for path in ["tiny-millm", "tiny-millm-gguf/tiny-Q4_K_M.gguf"] {
        // Room for little more than one whole request.
        let crowded = EngineOptions { context_length: Some(160), kv_tokens: Some(224), ..options() };
        let engine = engine(path, &crowded);
        let requests: Vec<Request> = (0..5).map(|seed| greedy(&prompt(seed, 30), 120)).collect();
        let running: Vec<_> = requests.iter().map(|request| start(&engine, copy(request))).collect();
        let answers: Vec<_> = running.iter().map(|events| Answer::gather(events).ids()).collect();
        let stats = engine.stats();
        assert!(stats.preemptions > 0);
        assert_eq!(stats.generated_tokens, 5 * 120);
        assert_eq!(stats.kv_blocks_free + stats.kv_blocks_cached, stats.kv_blocks_total);
        let alone: Vec<_> = requests.iter().map(|request| answer(&engine, copy(request)).ids()).collect();
        assert_eq!(answers, alone, "{path}");
    }
}

#[test]
fn a_prompt_that_can_never_fit_is_refused_with_both_numbers() {
    let engine = engine("tiny-millm", &EngineOptions { kv_tokens: Some(100), ..options() });
    assert_eq!(engine.context_length(), 96);
    let refused = engine.submit(greedy(&prompt(0, 96), 1), Box::new(Discard)).unwrap_err();
    assert_eq!(refused, SubmitError::PromptTooLong { tokens: 96, context: 96 });
    let answer = answer(&engine, Request { max_tokens: None, ..greedy(&prompt(0, 90), 0) });
    assert_eq!((answer.reason, answer.generated), (EndReason::Length, 6));
}

struct Discard;

impl Sink for Discard {
    fn send(&mut self, _: Event) -> bool {
        true
    }
}

/// Records the engine's counters at each token, and submits another request at one of them.
struct Recorder {
    engine: Weak<Engine>,
    events: Sender<Event>,
    recorded: Arc<Mutex<Vec<Stats>>>,
    joins: Option<(usize, Request)>,
    joined: Sender<Receiver<Event>>,
}

impl Sink for Recorder {
    fn send(&mut self, event: Event) -> bool {
        let engine = self.engine.upgrade().expect("the test holds the engine");
        if matches!(event, Event::Token(_)) {
            let mut recorded = self.recorded.lock().unwrap();
            recorded.push(engine.stats());
            if let Some((_, request)) = self.joins.take_if(|(moment, _)| *moment == recorded.len()) {
                self.joined.send(start(&engine, request)).unwrap();
            }
        }
        self.events.send(event).is_ok()
    }
}

/// Returns the passes run and the prompt tokens computed between two tokens of an answer, while three other requests
/// decode and a prompt of 2000 tokens arrives.
fn during_a_long_prefill(prefill_layers_per_decode: Option<usize>, answers: usize) -> Vec<(u64, u64)> {
    let wide = EngineOptions {
        context_length: Some(2048),
        slots: 8,
        prefill_chunk: 256,
        prefill_layers_per_decode,
        ..options()
    };
    let engine = Arc::new(engine("tiny-millm", &wide));
    let others: Vec<_> = (1..4).map(|seed| start(&engine, greedy(&prompt(seed, 8), answers))).collect();
    let ((events, received), (joined, long)) = (channel(), channel());
    let recorded = Arc::new(Mutex::new(Vec::new()));
    let recorder = Recorder {
        engine: Arc::downgrade(&engine),
        events,
        recorded: Arc::clone(&recorded),
        joins: Some((5, greedy(&prompt(9, 2000), 3))),
        joined,
    };
    engine.submit(greedy(&prompt(0, 8), answers), Box::new(recorder)).unwrap();
    assert_eq!(Answer::gather(&received).generated, answers);
    assert_eq!(Answer::gather(&long.recv().unwrap()).generated, 3);
    for other in &others {
        assert_eq!(Answer::gather(other).generated, answers);
    }
    let recorded = recorded.lock().unwrap();
    let passed = |pair: &[Stats]| {
        let passes = pair[1].forward_passes - pair[0].forward_passes;
        (passes, pair[1].prompt_tokens - pair[0].prompt_tokens)
    };
    recorded.windows(2).map(passed).collect()
}

#[test]
fn a_mixed_pass_has_decode_rows_and_a_prefill_chunk() {
    let between = during_a_long_prefill(Some(usize::MAX), 90);
    // Each pass has a token of the answer, and no more prompt rows than the limit while decoding.
    assert!(between.iter().all(|(passes, rows)| *passes == 1 && *rows <= 32), "{between:?}");
    assert!(between.iter().filter(|(_, rows)| *rows == 32).count() > 50, "{between:?}");
}

#[test]
fn decode_passes_run_between_the_layers_of_a_prefill_pass() {
    let between = during_a_long_prefill(Some(1), 300);
    // The model has four layers: three tokens of the answer come before a prefill pass is complete, one with it.
    let whole: Vec<usize> = (0..between.len()).filter(|index| between[*index].1 > 0).collect();
    assert!(between.iter().all(|between| matches!(between, (1, 0) | (2, 16 | 32))), "{between:?}");
    assert_eq!(whole.len(), 2000usize.div_ceil(32), "{between:?}");
    assert!(whole.windows(2).all(|pair| pair[1] - pair[0] == 4), "{whole:?}");
}

/// Disconnects while it is being prefilled, but not before the next of its kind has arrived.
struct Relay {
    engine: Weak<Engine>,
    closed_calls: Cell<usize>,
    seed: u32,
    over: Arc<AtomicBool>,
}

impl Relay {
    fn submit(self) {
        let engine = self.engine.upgrade().expect("the test holds the engine");
        let request = greedy(&prompt(self.seed, 600), 1);
        engine.submit(request, Box::new(self)).unwrap();
    }
}

impl Sink for Relay {
    fn send(&mut self, _: Event) -> bool {
        true
    }

    fn closed(&self) -> bool {
        self.closed_calls.set(self.closed_calls.get() + 1);
        if self.closed_calls.get() == 2 && !self.over.load(Ordering::Relaxed) {
            let (engine, over) = (Weak::clone(&self.engine), Arc::clone(&self.over));
            Relay { engine, closed_calls: Cell::new(0), seed: self.seed + 1, over }.submit();
        }
        self.closed_calls.get() >= 4
    }
}

/// Every second pass a request disconnects, and the chunk that it is part of takes four passes.
#[test]
fn requests_that_come_and_go_do_not_starve_another_prefill() {
    let layered =
        EngineOptions { context_length: Some(2048), prefill_layers_per_decode: Some(1), ..options() };
    let engine = Arc::new(engine("tiny-millm", &layered));
    let answering = start(&engine, greedy(&prompt(0, 8), 2000));
    let over = Arc::new(AtomicBool::new(false));
    let first = Relay {
        engine: Arc::downgrade(&engine),
        closed_calls: Cell::new(0),
        seed: 2,
        over: Arc::clone(&over),
    };
    first.submit();
    assert_eq!(Answer::gather(&start(&engine, greedy(&prompt(1, 600), 1))).generated, 1);
    assert!(!answering.try_iter().any(|event| matches!(event, Event::End { .. })), "the answer ended first");
    over.store(true, Ordering::Relaxed);
    drop(answering);
    while engine.stats().running + engine.stats().waiting > 0 {
        std::thread::yield_now();
    }
}

/// The number of layers between two decode passes depends on the machine, so only the outcome is checked.
#[test]
fn a_long_prefill_completes_with_measured_layers() {
    let between = during_a_long_prefill(None, 300);
    let passes = between.iter().filter(|(passes, rows)| *passes == 2 && *rows > 0).count();
    assert!(
        passes > 0 && between.iter().all(|(passes, rows)| *passes == 1 + u64::from(*rows > 0)),
        "{between:?}"
    );
}

#[test]
fn a_disconnect_during_prefill_frees_the_slot_before_the_next_pass() {
    let one = EngineOptions { slots: 1, prefill_chunk: BLOCK_SIZE, context_length: Some(2048), ..options() };
    let engine = engine("tiny-millm", &one);
    let (sender, dropped) = channel();
    let leaving = Leaving { closed_calls: Cell::new(0), dropped: sender };
    engine.submit(greedy(&prompt(0, 2000), 5), Box::new(leaving)).unwrap();
    let next = start(&engine, greedy(&prompt(1, 10), 5));
    dropped.recv().unwrap();
    assert_eq!(Answer::gather(&next).generated, 5);
    // Three of 63 passes ran for the request that disconnected.
    assert_eq!(engine.stats().prompt_tokens, 3 * BLOCK_SIZE as u64 + 10);
}

/// Is disconnected at the fourth call, and there is one before each pass.
struct Leaving {
    closed_calls: Cell<usize>,
    dropped: Sender<()>,
}

impl Sink for Leaving {
    fn send(&mut self, _: Event) -> bool {
        true
    }

    fn closed(&self) -> bool {
        self.closed_calls.set(self.closed_calls.get() + 1);
        self.closed_calls.get() > 3
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let _ = self.dropped.send(());
    }
}

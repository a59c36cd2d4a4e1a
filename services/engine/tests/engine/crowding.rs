//! More wanted than there is: pages given up and taken back, answers beside long prompts, places freed at once.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, Weak};

use millm_engine::{EndReason, Engine, EngineOptions, Event, Request, Sink, Stats, SubmitError};

use crate::fixtures::{Answer, answer, copy, engine, greedy, options, start};

const PAGE: usize = millm_engine::pages::PAGE;

fn prompt(seed: u32, length: usize) -> Vec<u32> {
    (0..length as u32).map(|j| 260 + (31 * seed + 5 * j) % 900).collect()
}

#[test]
fn when_pages_run_out_the_youngest_wait_and_nobody_can_tell() {
    for path in ["tiny-millm", "tiny-millm-gguf/tiny-Q4_K_M.gguf"] {
        // Room for one whole request and a bit.
        let crowded = EngineOptions { context_length: Some(160), kv_tokens: Some(224), ..options() };
        let engine = engine(path, &crowded);
        let requests: Vec<Request> = (0..5).map(|seed| greedy(&prompt(seed, 30), 120)).collect();
        let running: Vec<_> = requests.iter().map(|request| start(&engine, copy(request))).collect();
        let answers: Vec<_> = running.iter().map(|events| Answer::gather(events).ids()).collect();
        let stats = engine.stats();
        assert!(stats.preemptions > 0);
        assert_eq!(stats.generated_tokens, 5 * 120);
        assert_eq!(stats.kv_pages_free + stats.kv_pages_kept, stats.kv_pages_total);
        let alone: Vec<_> = requests.iter().map(|request| answer(&engine, copy(request)).ids()).collect();
        assert_eq!(answers, alone, "{path}");
    }
}

#[test]
fn what_can_never_fit_is_refused_with_both_numbers() {
    let engine = engine("tiny-millm", &EngineOptions { kv_tokens: Some(100), ..options() });
    assert_eq!(engine.context_length(), 96);
    let refused = engine.submit(greedy(&prompt(0, 96), 1), Box::new(Deaf)).unwrap_err();
    assert_eq!(refused, SubmitError::PromptTooLong { tokens: 96, context: 96 });
    let answer = answer(&engine, Request { max_tokens: None, ..greedy(&prompt(0, 90), 0) });
    assert_eq!((answer.reason, answer.generated), (EndReason::Length, 6));
}

struct Deaf;

impl Sink for Deaf {
    fn send(&mut self, _: Event) -> bool {
        true
    }
}

/// Notes what the engine had done at each token, and lets another request in at one of them.
struct Watcher {
    engine: Weak<Engine>,
    events: Sender<Event>,
    seen: Arc<Mutex<Vec<Stats>>>,
    enters: Option<(usize, Request)>,
    entered: Sender<Receiver<Event>>,
}

impl Sink for Watcher {
    fn send(&mut self, event: Event) -> bool {
        let engine = self.engine.upgrade().expect("the test holds the engine");
        if matches!(event, Event::Token(_)) {
            let mut seen = self.seen.lock().unwrap();
            seen.push(engine.stats());
            if let Some((_, request)) = self.enters.take_if(|(moment, _)| *moment == seen.len()) {
                self.entered.send(start(&engine, request)).unwrap();
            }
        }
        self.events.send(event).is_ok()
    }
}

/// Passes made and prompt tokens read between two tokens of an answer, beside three others and a prompt of 2000 tokens
/// that comes when they are running.
fn beside_a_long_prompt(layers_between_steps: Option<usize>, answers: usize) -> Vec<(u64, u64)> {
    let wide = EngineOptions {
        context_length: Some(2048),
        slots: 8,
        prefill_chunk: 256,
        layers_between_steps,
        ..options()
    };
    let engine = Arc::new(engine("tiny-millm", &wide));
    let others: Vec<_> = (1..4).map(|seed| start(&engine, greedy(&prompt(seed, 8), answers))).collect();
    let ((events, heard), (entered, long)) = (channel(), channel());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let watcher = Watcher {
        engine: Arc::downgrade(&engine),
        events,
        seen: Arc::clone(&seen),
        enters: Some((5, greedy(&prompt(9, 2000), 3))),
        entered,
    };
    engine.submit(greedy(&prompt(0, 8), answers), Box::new(watcher)).unwrap();
    assert_eq!(Answer::gather(&heard).generated, answers);
    assert_eq!(Answer::gather(&long.recv().unwrap()).generated, 3);
    for other in &others {
        assert_eq!(Answer::gather(other).generated, answers);
    }
    let seen = seen.lock().unwrap();
    let passed = |pair: &[Stats]| {
        let passes = pair[1].forward_passes - pair[0].forward_passes;
        (passes, pair[1].prompt_tokens - pair[0].prompt_tokens)
    };
    seen.windows(2).map(passed).collect()
}

#[test]
fn a_long_prompt_beside_four_answers_takes_no_pass_for_itself() {
    let between = beside_a_long_prompt(Some(usize::MAX), 90);
    // Each pass has a token of the answer, and of the prompt no more rows than are set beside answers.
    assert!(between.iter().all(|(passes, rows)| *passes == 1 && *rows <= 32), "{between:?}");
    assert!(between.iter().filter(|(_, rows)| *rows == 32).count() > 50, "{between:?}");
}

#[test]
fn a_long_prompt_read_layer_by_layer_lets_answers_go_on_after_each() {
    let between = beside_a_long_prompt(Some(1), 300);
    // The model has four layers: three tokens of the answer come before a pass over the prompt is whole, one with it.
    let whole: Vec<usize> = (0..between.len()).filter(|index| between[*index].1 > 0).collect();
    assert!(between.iter().all(|between| matches!(between, (1, 0) | (2, 16 | 32))), "{between:?}");
    assert_eq!(whole.len(), 2000usize.div_ceil(32), "{between:?}");
    assert!(whole.windows(2).all(|pair| pair[1] - pair[0] == 4), "{whole:?}");
}

/// Leaves while it is read, but not before the next of its kind is there.
struct Relay {
    engine: Weak<Engine>,
    asked: Cell<usize>,
    seed: u32,
    over: Arc<AtomicBool>,
}

impl Relay {
    fn enter(self) {
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
        self.asked.set(self.asked.get() + 1);
        if self.asked.get() == 2 && !self.over.load(Ordering::Relaxed) {
            let (engine, over) = (Weak::clone(&self.engine), Arc::clone(&self.over));
            Relay { engine, asked: Cell::new(0), seed: self.seed + 1, over }.enter();
        }
        self.asked.get() >= 4
    }
}

/// Every second pass one leaves, and the chunk that it was part of takes four.
#[test]
fn who_comes_and_goes_keeps_nobody_from_being_read() {
    let layered = EngineOptions { context_length: Some(2048), layers_between_steps: Some(1), ..options() };
    let engine = Arc::new(engine("tiny-millm", &layered));
    let answering = start(&engine, greedy(&prompt(0, 8), 2000));
    let over = Arc::new(AtomicBool::new(false));
    let first =
        Relay { engine: Arc::downgrade(&engine), asked: Cell::new(0), seed: 2, over: Arc::clone(&over) };
    first.enter();
    assert_eq!(Answer::gather(&start(&engine, greedy(&prompt(1, 600), 1))).generated, 1);
    assert!(!answering.try_iter().any(|event| matches!(event, Event::End { .. })), "the answer ended first");
    over.store(true, Ordering::Relaxed);
    drop(answering);
    while engine.stats().running + engine.stats().waiting > 0 {
        std::thread::yield_now();
    }
}

/// Nothing is measured here but that it ends well: how many layers come between two steps depends on the machine.
#[test]
fn a_long_prompt_is_read_at_any_pace() {
    let between = beside_a_long_prompt(None, 300);
    let passes = between.iter().filter(|(passes, rows)| *passes == 2 && *rows > 0).count();
    assert!(
        passes > 0 && between.iter().all(|(passes, rows)| *passes == 1 + u64::from(*rows > 0)),
        "{between:?}"
    );
}

#[test]
fn who_leaves_while_being_read_frees_the_place_before_the_next_pass() {
    let one = EngineOptions { slots: 1, prefill_chunk: PAGE, context_length: Some(2048), ..options() };
    let engine = engine("tiny-millm", &one);
    let (sender, reached) = channel();
    let leaving = Leaving { asked: Cell::new(0), reached: sender };
    engine.submit(greedy(&prompt(0, 2000), 5), Box::new(leaving)).unwrap();
    let next = start(&engine, greedy(&prompt(1, 10), 5));
    reached.recv().unwrap();
    assert_eq!(Answer::gather(&next).generated, 5);
    // Three passes were made for the one that left, of 63.
    assert_eq!(engine.stats().prompt_tokens, 3 * PAGE as u64 + 10);
}

/// Is gone when asked for the fourth time: once before each pass.
struct Leaving {
    asked: Cell<usize>,
    reached: Sender<()>,
}

impl Sink for Leaving {
    fn send(&mut self, _: Event) -> bool {
        true
    }

    fn closed(&self) -> bool {
        self.asked.set(self.asked.get() + 1);
        self.asked.get() > 3
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let _ = self.reached.send(());
    }
}

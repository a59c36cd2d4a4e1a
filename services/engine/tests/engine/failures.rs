//! Failures concern only the request or the load in which they happen.

use std::sync::mpsc::Sender;

use millm_engine::{EndReason, Engine, EngineOptions, Error, Event, LoadStage, Sink};

use crate::fixtures::{Answer, answer, checkpoint, engine, greedy, options, start};

/// Panics at its third event, and forwards the others.
struct Bomb {
    events: Sender<Event>,
    left: usize,
}

impl Sink for Bomb {
    fn send(&mut self, event: Event) -> bool {
        assert_ne!(self.left, 1, "injected");
        self.left = self.left.saturating_sub(1);
        self.events.send(event).is_ok()
    }
}

#[test]
fn a_panic_in_one_request_fails_no_other() {
    let engine = engine("tiny-millm", &options());
    let alone = answer(&engine, greedy(&[1, 2, 3], 60)).ids();
    let running = start(&engine, greedy(&[1, 2, 3], 60));
    let (events, received) = std::sync::mpsc::channel();
    engine.submit(greedy(&[4, 5], 60), Box::new(Bomb { events, left: 3 })).unwrap();
    assert_eq!(received.iter().count(), 2);
    assert_eq!(Answer::gather(&running).ids(), alone);
    let stats = engine.stats();
    assert_eq!((stats.running, stats.kv_blocks_free + stats.kv_blocks_cached), (0, stats.kv_blocks_total));
}

#[test]
fn a_panic_while_loading_is_an_error_and_the_next_load_works() {
    let checkpoint = checkpoint("tiny-millm");
    let mut panics = |progress: millm_engine::LoadProgress<'_>| assert!(progress.fraction < 0.5, "injected");
    let failed = Engine::load(&checkpoint, &options(), &mut panics).err().unwrap();
    assert!(matches!(&failed, Error::Panicked(why) if why == "injected"), "{failed}");
    let mut seen = Vec::new();
    let engine =
        Engine::load(&checkpoint, &options(), &mut |progress| seen.push((progress.fraction, progress.stage)))
            .unwrap();
    assert!(seen.is_sorted_by(|a, b| a.0 <= b.0));
    assert_eq!(seen.last(), Some(&(1.0, LoadStage::Ready)));
    assert_eq!(answer(&engine, greedy(&[1], 3)).generated, 3);
}

#[test]
fn too_little_memory_is_a_typed_error() {
    let huge = EngineOptions { slots: 1 << 40, ..options() };
    let failed = Engine::load(&checkpoint("tiny-millm"), &huge, &mut |_| {}).err().unwrap();
    assert!(matches!(failed, Error::OutOfMemory { .. }), "{failed}");
}

#[test]
fn stopping_cancels_running_requests() {
    let engine = engine("tiny-millm", &EngineOptions { context_length: None, ..options() });
    let running = start(&engine, greedy(&[1, 2, 3], 2000));
    drop(engine);
    assert_eq!(Answer::gather(&running).reason, EndReason::Cancelled);
}

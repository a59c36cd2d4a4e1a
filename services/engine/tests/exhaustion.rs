//! Memory that runs out in the middle: whom it concerns is told so, and the engine goes on.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use millm_engine::{EndReason, Engine, EngineOptions, Event, Request, Sampling, Sink};
use millm_model::Checkpoint;

/// The system's memory, of which no piece of [`MOST`] bytes or more can be had.
struct Scarce;

static MOST: AtomicUsize = AtomicUsize::new(usize::MAX);

// SAFETY: what the system's allocator gives, or nothing.
unsafe impl GlobalAlloc for Scarce {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() >= MOST.load(Ordering::Relaxed) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: it came from the system's allocator.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if size >= MOST.load(Ordering::Relaxed) {
            return std::ptr::null_mut();
        }
        // SAFETY: it came from the system's allocator.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static MEMORY: Scarce = Scarce;

struct Channel(Sender<Event>);

impl Sink for Channel {
    fn send(&mut self, event: Event) -> bool {
        self.0.send(event).is_ok()
    }
}

fn start(engine: &Engine, request: Request) -> Receiver<Event> {
    let (sender, events) = channel();
    engine.submit(request, Box::new(Channel(sender))).unwrap();
    events
}

/// The ids, and how it ended.
fn gather(events: &Receiver<Event>) -> (Vec<u32>, EndReason) {
    let mut ids = Vec::new();
    for event in events {
        match event {
            Event::Started { .. } => {}
            Event::Token(token) => ids.push(token.id),
            Event::End { reason, .. } => return (ids, reason),
        }
    }
    panic!("every request hears its end");
}

fn request(length: u32) -> Request {
    let prompt = (0..length).map(|i| 260 + 7 * i % 900).collect();
    Request { prompt, sampling: Sampling::greedy(), max_tokens: Some(20), ..Request::default() }
}

#[test]
fn memory_that_runs_out_while_answering_fails_that_pass_alone() {
    let tiny = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/tiny-millm");
    let checkpoint = Checkpoint::open(Path::new(tiny)).unwrap();
    let options =
        EngineOptions { context_length: Some(256), slots: 2, threads: Some(2), ..EngineOptions::default() };
    let engine = Engine::load(&checkpoint, &options, &mut |_| {}).unwrap();
    // Kernels have not worked yet, and want room of their own: who gets none is told so, whichever thread it is.
    MOST.store(32 << 10, Ordering::Relaxed);
    assert_eq!(gather(&start(&engine, request(200))), (Vec::new(), EndReason::OutOfMemory));
    MOST.store(usize::MAX, Ordering::Relaxed);
    let expected = gather(&start(&engine, request(20)));
    assert_eq!(expected.1, EndReason::Length);

    // Scoring takes logits of many rows at once, for which there is no room yet.
    MOST.store(200 << 10, Ordering::Relaxed);
    let scoring = || Request { prompt_logprobs: true, ..request(100) };
    assert_eq!(gather(&start(&engine, scoring())), (Vec::new(), EndReason::OutOfMemory));
    MOST.store(usize::MAX, Ordering::Relaxed);
    assert_eq!(gather(&start(&engine, request(20))), expected);
    let stats = engine.stats();
    assert_eq!((stats.running, stats.kv_pages_free + stats.kv_pages_kept), (0, stats.kv_pages_total));
    assert_eq!(gather(&start(&engine, scoring())).1, EndReason::Length);
}

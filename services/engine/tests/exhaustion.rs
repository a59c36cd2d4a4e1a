//! Memory that runs out during a pass: the requests or the capture of that pass fail, and the engine serves the next
//! ones.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};

use millm_engine::{
    CaptureError, CaptureRequest, CaptureRows, CaptureSink, EndReason, Engine, EngineOptions, Event, Hook,
    HookPoint, KernelSet, Request, SamplingParams, Sink,
};
use millm_model::Checkpoint;

/// The system's allocator, which refuses pieces of [`LIMIT`] bytes or more.
struct Limited;

static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);

// SAFETY: every call goes to the system's allocator or returns null.
unsafe impl GlobalAlloc for Limited {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() >= LIMIT.load(Ordering::Relaxed) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller guarantees the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: it came from the system's allocator.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if size >= LIMIT.load(Ordering::Relaxed) {
            return std::ptr::null_mut();
        }
        // SAFETY: it came from the system's allocator.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static MEMORY: Limited = Limited;

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

/// Returns the token ids, and why the answer ended.
fn gather(events: &Receiver<Event>) -> (Vec<u32>, EndReason) {
    let mut ids = Vec::new();
    for event in events {
        match event {
            Event::Started { .. } => {}
            Event::Token(token) => ids.push(token.id),
            Event::End { reason, .. } => return (ids, reason),
        }
    }
    panic!("every request receives its end");
}

/// Drops all states.
struct Discard(Sender<Result<(), CaptureError>>);

impl CaptureSink for Discard {
    fn has_room(&self, _: usize) -> bool {
        true
    }

    fn receive(&mut self, _: Hook, _: &[CaptureRows], _: usize, _: &[f32]) {}

    fn receive_attention(&mut self, _: Hook, _: &CaptureRows, _: usize, _: usize, _: &[f32]) {}

    fn end(self: Box<Self>, result: Result<(), CaptureError>) {
        self.0.send(result).unwrap();
    }

    fn closed(&self) -> bool {
        false
    }
}

/// Captures the logits of one sequence.
fn capture(engine: &Engine, length: u32) -> Result<(), CaptureError> {
    let (sender, ended) = channel();
    let request =
        CaptureRequest { sequences: vec![prompt(length)], hooks: vec![Hook::global(HookPoint::Logits)] };
    engine.capture(request, Box::new(Discard(sender))).unwrap();
    ended.recv().unwrap()
}

fn prompt(length: u32) -> Vec<u32> {
    (0..length).map(|i| 260 + 7 * i % 900).collect()
}

fn request(length: u32) -> Request {
    let prompt = prompt(length);
    Request { prompt, sampling: SamplingParams::greedy(), max_tokens: Some(20), ..Request::default() }
}

/// Held by each test: they share the limit.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn engine() -> Engine {
    let tiny = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/tiny-millm");
    let checkpoint = Checkpoint::open(Path::new(tiny)).unwrap();
    let options =
        EngineOptions { context_length: Some(256), slots: 2, threads: Some(2), ..EngineOptions::default() };
    Engine::load(&checkpoint, &options, &mut |_| {}).unwrap()
}

#[test]
fn memory_that_runs_out_in_a_pass_fails_its_capture_alone() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let engine = engine();
    let expected = gather(&start(&engine, request(20)));
    // The logits of all rows have no room yet.
    LIMIT.store(200 << 10, Ordering::Relaxed);
    assert_eq!(capture(&engine, 100), Err(CaptureError::OutOfMemory));
    LIMIT.store(usize::MAX, Ordering::Relaxed);
    assert_eq!(gather(&start(&engine, request(20))), expected);
    assert_eq!(capture(&engine, 100), Ok(()));
    let stats = engine.stats();
    assert_eq!((stats.captures, stats.kv_blocks_free + stats.kv_blocks_cached), (0, stats.kv_blocks_total));
}

#[test]
fn memory_that_runs_out_in_a_pass_fails_its_requests_alone() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let engine = engine();
    // The matrix unit's kernels allocate their scratch memory at the first pass, on every thread. A failure there is
    // reported too. Other kernels need none that is so large.
    if KernelSet::best() == KernelSet::Amx {
        LIMIT.store(32 << 10, Ordering::Relaxed);
        assert_eq!(gather(&start(&engine, request(200))), (Vec::new(), EndReason::OutOfMemory));
        LIMIT.store(usize::MAX, Ordering::Relaxed);
    }
    let expected = gather(&start(&engine, request(20)));
    assert_eq!(expected.1, EndReason::Length);

    // Scoring needs the logits of many rows at once, for which there is no room yet.
    LIMIT.store(200 << 10, Ordering::Relaxed);
    let scoring = || Request { prompt_logprobs: true, ..request(100) };
    assert_eq!(gather(&start(&engine, scoring())), (Vec::new(), EndReason::OutOfMemory));
    LIMIT.store(usize::MAX, Ordering::Relaxed);
    assert_eq!(gather(&start(&engine, request(20))), expected);
    let stats = engine.stats();
    assert_eq!((stats.running, stats.kv_blocks_free + stats.kv_blocks_cached), (0, stats.kv_blocks_total));
    assert_eq!(gather(&start(&engine, scoring())).1, EndReason::Length);
}

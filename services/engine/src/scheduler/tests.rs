//! Forward passes that panic, and captures that end with the scheduler.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use millm_model::{Checkpoint, Hook, HookPoint, ModelSpec};

use super::Scheduler;
use crate::capture::{CaptureError, CaptureOutput, CaptureRequest, CaptureRows, CaptureSink};
use crate::error::Result;
use crate::forward::Forward;
use crate::forward::batch::{Batch, BatchCapacity};
use crate::forward::decoder::Decoder;
use crate::forward::hooks::Hooks;
use crate::kv_cache::{BlockCopy, BlockPool, HostKvStore};
use crate::options::EngineOptions;
use crate::request::{EndReason, Event, Request, Sink};
use crate::sampling::SamplingParams;
use crate::stats::Counters;
use crate::sys::thread_pool::ThreadPool;

struct Channel(Sender<Event>);

impl Sink for Channel {
    fn send(&mut self, event: Event) -> bool {
        self.0.send(event).is_ok()
    }
}

fn enqueue(scheduler: &mut Scheduler) -> Receiver<Event> {
    let (sender, events) = channel();
    let prompt = (3..60).collect();
    let request =
        Request { prompt, sampling: SamplingParams::greedy(), max_tokens: Some(4), ..Request::default() };
    scheduler.counters.accept_request(8).unwrap();
    scheduler.enqueue(request, Box::new(Channel(sender)));
    events
}

/// How a capture ended, and the rows that its sink received until then.
type CaptureEnd = (usize, Result<(), CaptureError>);

/// Counts rows.
struct RowCounter {
    rows: usize,
    ended: Sender<CaptureEnd>,
}

impl CaptureSink for RowCounter {
    fn has_room(&self, _: usize) -> bool {
        true
    }

    fn receive(&mut self, _: Hook, rows: &[CaptureRows], _: usize, _: &[f32]) {
        self.rows += rows.iter().map(|part| part.rows.len()).sum::<usize>();
    }

    fn receive_attention(&mut self, _: Hook, rows: &CaptureRows, _: usize, _: usize, _: &[f32]) {
        self.rows += rows.rows.len();
    }

    fn end(self: Box<Self>, result: Result<(), CaptureError>) {
        self.ended.send((self.rows, result)).unwrap();
    }

    fn closed(&self) -> bool {
        false
    }
}

/// Enqueues a capture of two sequences, of 90 tokens together.
fn enqueue_capture(scheduler: &mut Scheduler, hook: Hook) -> Receiver<CaptureEnd> {
    let (sender, ended) = channel();
    let sequences = vec![(3..33).collect(), (3..63).collect()];
    let output = CaptureOutput::new(Box::new(RowCounter { rows: 0, ended: sender }));
    scheduler.counters.accept_capture(8).unwrap();
    scheduler.enqueue_capture(CaptureRequest { sequences, hooks: vec![hook] }, output);
    ended
}

fn capture(scheduler: &mut Scheduler, hook: Hook) -> CaptureEnd {
    let ended = enqueue_capture(scheduler, hook);
    while !scheduler.is_idle() {
        scheduler.step();
    }
    ended.recv().unwrap()
}

fn end(scheduler: &mut Scheduler, events: &Receiver<Event>) -> EndReason {
    while !scheduler.is_idle() {
        scheduler.step();
    }
    match events.iter().last() {
        Some(Event::End { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

/// A decoder that loses its KV cache while `broken` is set. A store without layers has no place for what the first
/// layer writes.
struct Breakable {
    decoder: Decoder,
    /// The store that the decoder does not have.
    spare: HostKvStore,
    broken: Arc<AtomicBool>,
    is_broken: bool,
    /// The most rows with logits in one pass.
    most_outputs: Arc<AtomicUsize>,
}

impl Breakable {
    fn follow_switch(&mut self) {
        let broken = self.broken.load(Ordering::SeqCst);
        if broken != self.is_broken {
            std::mem::swap(&mut self.decoder.kv_store, &mut self.spare);
            self.is_broken = broken;
        }
    }
}

impl Forward for Breakable {
    fn spec(&self) -> &ModelSpec {
        self.decoder.spec()
    }

    fn weight_bytes(&self) -> u64 {
        self.decoder.weight_bytes()
    }

    fn forward(&mut self, batch: &Batch, blocks: &mut BlockPool, hooks: &mut dyn Hooks) -> Result<&[f32]> {
        self.follow_switch();
        self.decoder.forward(batch, blocks, hooks)
    }

    fn forward_layers(
        &mut self,
        batch: &Batch,
        layers: Range<usize>,
        blocks: &mut BlockPool,
        hooks: &mut dyn Hooks,
    ) -> Result<Option<&[f32]>> {
        self.follow_switch();
        self.most_outputs.fetch_max(batch.outputs().len(), Ordering::SeqCst);
        self.decoder.forward_layers(batch, layers, blocks, hooks)
    }

    fn logits(&self) -> &[f32] {
        self.decoder.logits()
    }

    fn copy_block(&mut self, copy: BlockCopy) -> Result<()> {
        self.decoder.copy_block(copy)
    }
}

/// The part of a model that its test keeps.
struct Switches {
    broken: Arc<AtomicBool>,
    most_outputs: Arc<AtomicUsize>,
}

/// Returns a scheduler with 16 blocks over a model that is broken.
fn scheduler() -> (Scheduler, Switches) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/families/llama");
    let checkpoint = Checkpoint::open(Path::new(path)).unwrap();
    let options = EngineOptions { context_length: Some(128), ..EngineOptions::default() };
    let capacity = BatchCapacity { rows: 64, outputs: 8 };
    let decoder = Decoder::load(&checkpoint, ThreadPool::new(2).unwrap(), capacity, &mut |_| {}).unwrap();
    let decoder = decoder.with_kv_cache(options.kv_type, 16).unwrap();
    let spec = decoder.spec().clone();
    let spare = HostKvStore::new(&ModelSpec { layers: 0, ..spec.clone() }, options.kv_type, 16).unwrap();
    let (broken, most_outputs) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
    let switches = Switches { broken: Arc::clone(&broken), most_outputs: Arc::clone(&most_outputs) };
    let model = Breakable { decoder, spare, broken, is_broken: false, most_outputs };
    let counters = Arc::new(Counters::default());
    let scheduler = Scheduler::new(Box::new(model), BlockPool::new(16), counters, options.limits(&spec));
    (scheduler, switches)
}

#[test]
fn a_panic_in_the_forward_pass_fails_its_requests_and_the_next_one_works() {
    let (mut scheduler, switches) = scheduler();
    let both = [enqueue(&mut scheduler), enqueue(&mut scheduler)];
    for events in &both {
        let reason = end(&mut scheduler, events);
        assert!(matches!(reason, EndReason::Failed(_)), "{reason:?}");
    }
    let stats = scheduler.counters.stats();
    assert_eq!((stats.running, stats.kv_blocks_free), (0, 16));

    switches.broken.store(false, Ordering::SeqCst);
    let events = enqueue(&mut scheduler);
    assert_eq!(end(&mut scheduler, &events), EndReason::Length);
}

#[test]
fn a_panic_in_the_forward_pass_fails_its_capture_and_the_next_one_works() {
    let (mut scheduler, switches) = scheduler();
    let hook = Hook::at(HookPoint::ResidPost, 2);
    let (rows, result) = capture(&mut scheduler, hook);
    assert!(matches!((rows, &result), (0, Err(CaptureError::Failed(_)))), "{result:?}");
    let stats = scheduler.counters.stats();
    assert_eq!((stats.captures, stats.kv_blocks_free, stats.captured_tokens), (0, 16, 0));

    switches.broken.store(false, Ordering::SeqCst);
    assert_eq!(capture(&mut scheduler, hook), (90, Ok(())));
    let events = enqueue(&mut scheduler);
    assert_eq!(end(&mut scheduler, &events), EndReason::Length);
}

#[test]
fn a_capture_computes_logits_only_if_they_are_wanted() {
    let (mut scheduler, switches) = scheduler();
    switches.broken.store(false, Ordering::SeqCst);
    let mut check = |hook, outputs| {
        assert_eq!(capture(&mut scheduler, hook), (90, Ok(())));
        assert_eq!(switches.most_outputs.load(Ordering::SeqCst), outputs, "{hook}");
    };
    check(Hook::at(HookPoint::AttnPattern, 0), 0);
    check(Hook::global(HookPoint::FinalNorm), 0);
    check(Hook::global(HookPoint::Logits), 90);
    let stats = scheduler.counters.stats();
    assert_eq!((stats.captured_tokens, stats.prompt_tokens, stats.kv_blocks_free), (270, 0, 16));
}

#[test]
fn captures_end_with_the_scheduler() {
    let (mut scheduler, _) = scheduler();
    let hook = Hook::global(HookPoint::Embed);
    let ends = [enqueue_capture(&mut scheduler, hook), enqueue_capture(&mut scheduler, hook)];
    drop(scheduler);
    for ended in ends {
        assert_eq!(ended.iter().collect::<Vec<_>>(), [(0, Err(CaptureError::Cancelled))]);
    }
}

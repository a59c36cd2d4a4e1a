//! A forward pass that panics.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use millm_model::{Checkpoint, ModelSpec};

use super::Scheduler;
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
    ) -> Result<Option<&[f32]>> {
        self.follow_switch();
        self.decoder.forward_layers(batch, layers, blocks)
    }

    fn logits(&self) -> &[f32] {
        self.decoder.logits()
    }

    fn copy_block(&mut self, copy: BlockCopy) -> Result<()> {
        self.decoder.copy_block(copy)
    }
}

#[test]
fn a_panic_in_the_forward_pass_fails_its_requests_and_the_next_one_works() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/families/llama");
    let checkpoint = Checkpoint::open(Path::new(path)).unwrap();
    let options = EngineOptions { context_length: Some(128), ..EngineOptions::default() };
    let capacity = BatchCapacity { rows: 64, outputs: 8 };
    let decoder = Decoder::load(&checkpoint, ThreadPool::new(2).unwrap(), capacity, &mut |_| {}).unwrap();
    let decoder = decoder.with_kv_cache(options.kv_type, 16).unwrap();
    let spec = decoder.spec().clone();
    let spare = HostKvStore::new(&ModelSpec { layers: 0, ..spec.clone() }, options.kv_type, 16).unwrap();
    let broken = Arc::new(AtomicBool::new(true));
    let model = Breakable { decoder, spare, broken: Arc::clone(&broken), is_broken: false };
    let counters = Arc::new(Counters::default());
    let mut scheduler = Scheduler::new(Box::new(model), BlockPool::new(16), counters, options.limits(&spec));
    let both = [enqueue(&mut scheduler), enqueue(&mut scheduler)];
    for events in &both {
        let reason = end(&mut scheduler, events);
        assert!(matches!(reason, EndReason::Failed(_)), "{reason:?}");
    }
    let stats = scheduler.counters.stats();
    assert_eq!((stats.running, stats.kv_blocks_free), (0, 16));

    broken.store(false, Ordering::SeqCst);
    let events = enqueue(&mut scheduler);
    assert_eq!(end(&mut scheduler, &events), EndReason::Length);
}

//! Captures: the states are those of a direct pass with hooks, to the bit, whatever runs beside it.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, Weak};

use millm_engine::{
    Batch, BlockPool, CaptureError, CaptureRequest, CaptureRows, CaptureSink, Engine, EngineOptions, Event,
    Forward, Hook, HookPoint, Hooks, KernelSet, Logits, Request, Segment, Sink,
};
use millm_model::{Checkpoint, ModelSpec};
use proptest::prelude::*;

use crate::fixtures::{
    Answer, answer, checkpoint, copy, decoder, each_family, engine, greedy, kernels, options, start,
};

/// The bits of a hook's values for one sequence, in order of position. Of attention only the keys up to each row's own
/// position.
pub type States = BTreeMap<(Hook, usize), Vec<u32>>;

/// How a capture ended, and what its sink received.
pub type CaptureEnd = (States, Result<(), CaptureError>);

/// Returns every hook of a model.
pub fn all_hooks(spec: &ModelSpec) -> Vec<Hook> {
    let of_layer = |layer| spec.hook_points(layer).into_iter().map(move |point| Hook::at(point, layer));
    let layers = (0..spec.layers).flat_map(of_layer);
    layers.chain(spec.global_hook_points().into_iter().map(Hook::global)).collect()
}

/// Returns one sequence of each length.
pub fn sequences(spec: &ModelSpec, lengths: &[usize]) -> Vec<Vec<u32>> {
    let range = spec.vocabulary_size as u32 - 3;
    let sequence = |(seed, length): (u32, &usize)| {
        (0..*length as u32).map(|j| 3 + (17 * seed + 5 * j + j * j % 7) % range).collect()
    };
    (0..).zip(lengths).map(sequence).collect()
}

fn bits(values: &[f32]) -> impl Iterator<Item = u32> + '_ {
    values.iter().map(|value| value.to_bits())
}

/// Appends the values of attention, `[rows, heads, keys]`, for rows from `position` on.
fn append_attention(states: &mut States, hook: Hook, rows: &CaptureRows, keys: usize, values: &[f32]) {
    let bits_of_hook = states.entry((hook, rows.sequence)).or_default();
    let heads = values.len() / (rows.rows.len() * keys);
    for (row, values) in values.chunks_exact(heads * keys).enumerate() {
        for values in values.chunks_exact(keys) {
            let (visible, masked) = values.split_at(rows.position + row + 1);
            bits_of_hook.extend(bits(visible));
            let mask = if hook.point == HookPoint::AttnScores { f32::NEG_INFINITY } else { 0.0 };
            assert!(masked.iter().all(|value| value.to_bits() == mask.to_bits()), "{hook}: {masked:?}");
        }
    }
}

/// Collects the states of one sequence after the other.
struct Direct<'a> {
    hooks: &'a HashSet<Hook>,
    sequence: usize,
    states: States,
}

impl Hooks for Direct<'_> {
    fn wants(&self, hook: Hook) -> bool {
        self.hooks.contains(&hook)
    }

    fn receive(&mut self, hook: Hook, states: &[f32], _: &Batch) {
        self.states.entry((hook, self.sequence)).or_default().extend(bits(states));
    }

    fn receive_attention(&mut self, hook: Hook, segment: &Segment, keys: usize, values: &[f32]) {
        let (sequence, position) = (self.sequence, segment.position);
        let rows = CaptureRows { sequence, position, rows: segment.rows.clone() };
        append_attention(&mut self.states, hook, &rows, keys, values);
    }
}

/// Returns the states of each sequence in a pass of its own.
pub fn direct(checkpoint: &Checkpoint, sequences: &[Vec<u32>], hooks: &[Hook]) -> States {
    let kernels = kernels().unwrap_or_else(KernelSet::best);
    let blocks = 16;
    let mut model = decoder(checkpoint, kernels, options().kv_type, blocks);
    let hooks: HashSet<Hook> = hooks.iter().copied().collect();
    let mut direct = Direct { hooks: &hooks, sequence: 0, states: States::new() };
    for (index, sequence) in sequences.iter().enumerate() {
        let mut blocks = BlockPool::new(blocks);
        let id = blocks.open(0);
        assert!(blocks.reserve(id, sequence.len()));
        let mut batch = Batch::default();
        batch.push_prefill(&blocks, id, sequence, Logits::All);
        direct.sequence = index;
        model.forward(&batch, &mut blocks, &mut direct).unwrap();
    }
    direct.states
}

/// What a test tells a sink, and sees of it.
pub struct Control {
    /// The most bytes that it has room for.
    pub room: AtomicUsize,
    pub closed: AtomicBool,
    /// How often it was asked for room.
    pub asked: AtomicUsize,
    /// Deliveries.
    pub received: AtomicUsize,
    /// It is closed after this many deliveries.
    pub closes_after: AtomicUsize,
}

impl Default for Control {
    fn default() -> Self {
        Self {
            room: AtomicUsize::new(usize::MAX),
            closed: AtomicBool::new(false),
            asked: AtomicUsize::new(0),
            received: AtomicUsize::new(0),
            closes_after: AtomicUsize::new(usize::MAX),
        }
    }
}

impl Control {
    pub fn set_room(&self, bytes: usize) {
        self.room.store(bytes, Ordering::SeqCst);
    }

    pub fn received(&self) -> usize {
        self.received.load(Ordering::SeqCst)
    }

    /// Waits until the sink has been asked for room again, twice: a delivery that was on its way has come by then.
    pub fn wait_until_held_back(&self) {
        let before = self.asked.load(Ordering::SeqCst);
        while self.asked.load(Ordering::SeqCst) < before + 2 {
            std::thread::yield_now();
        }
    }
}

/// Called at each delivery, on the engine's thread, with the number of those before.
pub type OnDelivery = Box<dyn FnMut(usize) + Send>;

/// Records what it receives. Each state must come once, in order of position.
pub struct Recorder {
    pub states: States,
    pub positions: BTreeMap<(Hook, usize), usize>,
    pub control: Arc<Control>,
    pub on_delivery: OnDelivery,
    pub ended: Sender<CaptureEnd>,
}

impl Recorder {
    fn delivered(&mut self, hook: Hook, rows: &[CaptureRows]) {
        (self.on_delivery)(self.control.received.fetch_add(1, Ordering::SeqCst));
        for part in rows {
            let position = self.positions.entry((hook, part.sequence)).or_default();
            assert_eq!(*position, part.position, "{hook} of sequence {}", part.sequence);
            *position = part.end();
        }
    }
}

impl CaptureSink for Recorder {
    fn has_room(&self, bytes: usize) -> bool {
        self.control.asked.fetch_add(1, Ordering::SeqCst);
        bytes <= self.control.room.load(Ordering::SeqCst)
    }

    fn receive(&mut self, hook: Hook, rows: &[CaptureRows], width: usize, states: &[f32]) {
        self.delivered(hook, rows);
        assert_eq!(states.len(), width * rows.last().unwrap().rows.end);
        for part in rows {
            let states = &states[part.rows.start * width..part.rows.end * width];
            self.states.entry((hook, part.sequence)).or_default().extend(bits(states));
        }
    }

    fn receive_attention(
        &mut self,
        hook: Hook,
        rows: &CaptureRows,
        heads: usize,
        keys: usize,
        values: &[f32],
    ) {
        self.delivered(hook, std::slice::from_ref(rows));
        assert_eq!((values.len(), keys), (rows.rows.len() * heads * keys, rows.end()));
        append_attention(&mut self.states, hook, rows, keys, values);
    }

    fn end(self: Box<Self>, result: Result<(), CaptureError>) {
        // A test that has failed has dropped the receiver.
        let _ = self.ended.send((self.states, result));
    }

    fn closed(&self) -> bool {
        let Control { closed, received, closes_after, .. } = &*self.control;
        closed.load(Ordering::SeqCst)
            || received.load(Ordering::SeqCst) >= closes_after.load(Ordering::SeqCst)
    }
}

/// Returns a sink, and the receiver of its end.
pub fn recorder(control: &Arc<Control>, on_delivery: OnDelivery) -> (Box<Recorder>, Receiver<CaptureEnd>) {
    let (ended, end) = channel();
    let (states, positions) = (States::new(), BTreeMap::new());
    let control = Arc::clone(control);
    (Box::new(Recorder { states, positions, control, on_delivery, ended }), end)
}

/// Starts a capture.
pub fn capture(
    engine: &Engine,
    sequences: &[Vec<u32>],
    hooks: &[Hook],
    control: &Arc<Control>,
) -> Receiver<CaptureEnd> {
    let (sink, end) = recorder(control, Box::new(|_| {}));
    let request = CaptureRequest { sequences: sequences.to_vec(), hooks: hooks.to_vec() };
    engine.capture(request, sink).unwrap();
    end
}

/// Waits for the end; fails if it comes twice.
pub fn finished(end: &Receiver<CaptureEnd>) -> CaptureEnd {
    let finished = end.recv().expect("every capture receives its end");
    assert!(end.recv().is_err(), "the end comes once");
    finished
}

pub fn assert_equal(got: &CaptureEnd, expected: &States) {
    let (states, result) = got;
    assert_eq!(result, &Ok(()));
    assert_eq!(states.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for ((hook, sequence), expected) in expected {
        assert!(states[&(*hook, *sequence)] == *expected, "{hook} of sequence {sequence} differs");
    }
}

/// Passes of a few rows, some layers at a time.
pub fn layered() -> EngineOptions {
    EngineOptions {
        prefill_chunk: 24,
        prefill_chunk_while_decoding: 16,
        prefill_layers_per_decode: None,
        ..options()
    }
}

fn check(family: &str) {
    let path = format!("families/{family}");
    let checkpoint = checkpoint(&path);
    let (spec, hooks) = (checkpoint.spec(), all_hooks(checkpoint.spec()));
    let sequences = sequences(spec, &[100, 5, 1, 40, 17, 33, 64, 2]);
    let expected = direct(&checkpoint, &sequences, &hooks);
    let engine = engine(&path, &layered());
    for count in [1, 3, 8] {
        let expected: States = expected
            .iter()
            .filter(|((_, sequence), _)| *sequence < count)
            .map(|(k, v)| (*k, v.clone()))
            .collect();
        let end = capture(&engine, &sequences[..count], &hooks, &Arc::default());
        assert_equal(&finished(&end), &expected);
    }
    let stats = engine.stats();
    assert_eq!((stats.captures, stats.kv_blocks_free), (0, stats.kv_blocks_total));
    assert_eq!((stats.captured_tokens, stats.prompt_tokens), (100 + 106 + 262, 0));
}

each_family!(check);

/// Submits a capture when its stream has generated a token. So the capture begins while the stream is decoding.
struct Starter {
    engine: Weak<Engine>,
    events: Sender<Event>,
    capture: Option<(CaptureRequest, Box<Recorder>)>,
}

impl Sink for Starter {
    fn send(&mut self, event: Event) -> bool {
        if matches!(event, Event::Token(_))
            && let Some((request, sink)) = self.capture.take()
        {
            self.engine.upgrade().expect("the test holds the engine").capture(request, sink).unwrap();
        }
        self.events.send(event).is_ok()
    }
}

/// Starts a request, and a capture with its first token.
pub fn start_both(
    engine: &Arc<Engine>,
    request: Request,
    capture: CaptureRequest,
    sink: Box<Recorder>,
) -> Receiver<Event> {
    let (events, received) = channel();
    let starter = Starter { engine: Arc::downgrade(engine), events, capture: Some((capture, sink)) };
    engine.submit(request, Box::new(starter)).unwrap();
    received
}

#[test]
fn captures_and_answers_do_not_change_each_other() {
    // Each of these types rounds in its own way. The last runs all layers of a pass at once, as GPUs do.
    for (path, layers) in [
        ("tiny-millm", None),
        ("tiny-millm-gguf/tiny-Q4_K_M.gguf", Some(1)),
        ("tiny-millm-gguf/tiny-Q8_0.gguf", Some(usize::MAX)),
    ] {
        let checkpoint = checkpoint(path);
        let hooks = all_hooks(checkpoint.spec());
        let sequences = sequences(checkpoint.spec(), &[7, 150, 1, 60]);
        let expected = direct(&checkpoint, &sequences, &hooks);
        let engine =
            Arc::new(engine(path, &EngineOptions { prefill_layers_per_decode: layers, ..layered() }));
        let requests: Vec<Request> = (0..4).map(|seed| greedy(&[1, 300 + seed, 40, 500], 60)).collect();
        let alone: Vec<_> = requests.iter().map(|request| answer(&engine, copy(request)).ids()).collect();

        let (observed, running) = (Arc::downgrade(&engine), Arc::new(AtomicUsize::new(0)));
        let most_running = Arc::clone(&running);
        let on_delivery = move |_: usize| {
            let stats = observed.upgrade().expect("the test holds the engine").stats();
            most_running.fetch_max(stats.running, Ordering::SeqCst);
        };
        let (sink, end) = recorder(&Arc::default(), Box::new(on_delivery));
        let request = CaptureRequest { sequences, hooks };
        let first = start_both(&engine, copy(&requests[0]), request, sink);
        let others: Vec<_> = requests[1..].iter().map(|request| start(&engine, copy(request))).collect();
        assert_equal(&finished(&end), &expected);
        let together: Vec<_> =
            std::iter::once(&first).chain(&others).map(|events| Answer::gather(events).ids()).collect();
        assert_eq!(together, alone, "{path}");
        assert!(running.load(Ordering::SeqCst) > 0, "{path}: a request ran beside the capture");
        let stats = engine.stats();
        assert_eq!((stats.running, stats.captures, stats.captured_tokens), (0, 0, 218));
        assert_eq!(stats.kv_blocks_free + stats.kv_blocks_cached, stats.kv_blocks_total);
    }
}

/// Submits a prompt at the first delivery of a capture, while another request decodes. With `holds_back` the sink then
/// has no room until the answer has ended.
fn prompt_during_a_capture(holds_back: bool) {
    let checkpoint = checkpoint("tiny-millm");
    let hooks =
        [Hook::at(HookPoint::ResidPost, 0), Hook::at(HookPoint::Key, 3), Hook::global(HookPoint::FinalNorm)];
    let sequences = sequences(checkpoint.spec(), &[90, 30]);
    let expected = direct(&checkpoint, &sequences, &hooks);
    let options = EngineOptions { prefill_layers_per_decode: Some(1), ..layered() };
    let request = || greedy(&(0..200).map(|j| 260 + 5 * j % 900).collect::<Vec<_>>(), 8);
    let alone = answer(&engine("tiny-millm", &options), request()).ids();
    let engine = Arc::new(engine("tiny-millm", &options));

    let control = Arc::<Control>::default();
    let joined: Arc<Mutex<Option<Receiver<Event>>>> = Arc::default();
    let (submitter, held, submitted) = (Arc::downgrade(&engine), Arc::clone(&control), Arc::clone(&joined));
    let on_delivery = move |before: usize| {
        if before == 0 {
            let engine = submitter.upgrade().expect("the test holds the engine");
            *submitted.lock().unwrap() = Some(start(&engine, request()));
            if holds_back {
                held.set_room(0);
            }
        }
    };
    let (sink, end) = recorder(&control, Box::new(on_delivery));
    let capture = CaptureRequest { sequences, hooks: hooks.to_vec() };
    let decoding = start_both(&engine, greedy(&[1, 2, 3], 450), capture, sink);
    let events = loop {
        if let Some(events) = joined.lock().unwrap().take() {
            break events;
        }
        std::thread::yield_now();
    };
    assert_eq!(Answer::gather(&events).ids(), alone);
    if holds_back {
        assert_eq!(control.received(), 1);
        control.set_room(usize::MAX);
    }
    assert_equal(&finished(&end), &expected);
    assert_eq!(Answer::gather(&decoding).generated, 450);
}

#[test]
fn a_prompt_waits_for_the_pass_of_a_capture() {
    prompt_during_a_capture(false);
}

#[test]
fn a_prompt_does_not_wait_for_a_capture_without_room() {
    prompt_during_a_capture(true);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_captures_beside_random_requests(
        lengths in proptest::collection::vec(1usize..128, 1..6),
        requests in proptest::collection::vec((1usize..90, 1usize..30), 0..8),
        place in 0usize..8,
        one_layer_at_a_time in any::<bool>(),
        slots in 1usize..5,
        chunk in 1usize..40,
        chunk_while_decoding in 1usize..40,
        layers in prop_oneof![Just(None), Just(Some(1)), Just(Some(usize::MAX))],
        kv_tokens in prop_oneof![Just(None), (128usize..300).prop_map(Some)],
    ) {
        let checkpoint = checkpoint("families/llama");
        let spec = checkpoint.spec();
        let points = [HookPoint::ResidPost, HookPoint::Value, HookPoint::AttnPattern];
        let hooks: Vec<Hook> = (0..spec.layers)
            .flat_map(|layer| points.map(|point| Hook::at(point, layer)))
            .chain([Hook::global(HookPoint::Embed), Hook::global(HookPoint::Logits)])
            .collect();
        let wanted = sequences(spec, &lengths);
        let options = EngineOptions {
            slots,
            kv_tokens,
            prefill_chunk: chunk,
            prefill_chunk_while_decoding: chunk_while_decoding,
            prefill_layers_per_decode: layers,
            context_length: Some(128),
            ..options()
        };
        let engine = engine("families/llama", &options);
        let requests: Vec<Request> = (20u32..)
            .zip(&requests)
            .map(|(seed, (length, max_tokens))| {
                greedy(&(0..*length as u32).map(|j| 3 + (seed + 11 * j) % 120).collect::<Vec<_>>(), *max_tokens)
            })
            .collect();
        let control = Arc::<Control>::default();
        if one_layer_at_a_time && layers != Some(usize::MAX) {
            // The largest layer of the largest pass, and the logits.
            let rows = chunk.max(1);
            control.set_room(4 * rows * (spec.hidden_size + 32 + 4 * 128 + spec.hidden_size + spec.vocabulary_size));
        }
        let mut running = Vec::new();
        let mut end = None;
        for index in 0..=requests.len() {
            if index == place.min(requests.len()) {
                end = Some(capture(&engine, &wanted, &hooks, &control));
            }
            running.extend(requests.get(index).map(|request| start(&engine, copy(request))));
        }
        let answers: Vec<_> = running.iter().map(|events| Answer::gather(events).ids()).collect();
        assert_equal(&finished(&end.expect("submitted")), &direct(&checkpoint, &wanted, &hooks));
        let stats = engine.stats();
        prop_assert_eq!((stats.running, stats.captures), (0, 0));
        prop_assert_eq!(stats.kv_blocks_free + stats.kv_blocks_cached, stats.kv_blocks_total);
        let alone: Vec<_> = requests.iter().map(|request| answer(&engine, copy(request)).ids()).collect();
        prop_assert_eq!(answers, alone);
    }
}

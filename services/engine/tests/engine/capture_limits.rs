//! Captures that are held back, preempted, cancelled or refused, and sinks that fail. No block is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};

use millm_engine::{
    CaptureError, CaptureRequest, CaptureRows, CaptureSink, Engine, EngineOptions, Hook, HookPoint,
    InvalidCapture, MAX_CAPTURE_SEQUENCES, MAX_CAPTURES, MAX_DELIVERY_BYTES, SubmitError,
};

use crate::capture::{
    Control, all_hooks, assert_equal, capture, direct, finished, layered, recorder, sequences,
};
use crate::fixtures::{answer, checkpoint, engine, greedy, options};

const RESIDUAL: [Hook; 1] = [Hook::at(HookPoint::ResidPost, 1)];

fn assert_all_blocks_are_free(engine: &Engine) {
    let stats = engine.stats();
    assert_eq!((stats.captures, stats.kv_blocks_free), (0, stats.kv_blocks_total));
}

#[test]
fn a_sink_without_room_holds_its_capture_back_and_no_request() {
    let checkpoint = checkpoint("tiny-millm");
    let hooks = all_hooks(checkpoint.spec());
    let sequences = sequences(checkpoint.spec(), &[70, 20]);
    let engine = engine("tiny-millm", &layered());
    let control = Arc::<Control>::default();
    control.set_room(0);
    let end = capture(&engine, &sequences, &hooks, &control);
    control.wait_until_held_back();
    assert_eq!(answer(&engine, greedy(&[1, 2, 3], 50)).generated, 50);
    control.wait_until_held_back();
    assert_eq!((control.received(), engine.stats().captured_tokens), (0, 0));
    // Room for some layers at a time.
    control.set_room(1 << 20);
    assert_equal(&finished(&end), &direct(&checkpoint, &sequences, &hooks));
}

/// Checks that it receives as many bytes as it was last asked to have room for.
struct Scale {
    asked: AtomicUsize,
    most_asked: Arc<AtomicUsize>,
    received: AtomicUsize,
    ended: Sender<Result<(), CaptureError>>,
}

impl Scale {
    fn compare(&self) {
        let received = self.received.swap(0, Ordering::SeqCst);
        assert!(received == 0 || received == self.asked.load(Ordering::SeqCst), "{received} bytes came");
    }
}

impl CaptureSink for Scale {
    fn has_room(&self, bytes: usize) -> bool {
        self.compare();
        self.asked.store(bytes, Ordering::SeqCst);
        self.most_asked.fetch_max(bytes, Ordering::SeqCst);
        true
    }

    fn receive(&mut self, _: Hook, _: &[CaptureRows], _: usize, states: &[f32]) {
        self.received.fetch_add(size_of_val(states), Ordering::SeqCst);
    }

    fn receive_attention(&mut self, _: Hook, _: &CaptureRows, _: usize, _: usize, values: &[f32]) {
        self.received.fetch_add(size_of_val(values), Ordering::SeqCst);
    }

    fn end(self: Box<Self>, result: Result<(), CaptureError>) {
        self.compare();
        self.ended.send(result).unwrap();
    }

    fn closed(&self) -> bool {
        false
    }
}

/// Captures everything of one long sequence and two short ones. Returns the most bytes that the sink was asked to have
/// room for.
fn weigh(path: &str, options: &EngineOptions, length: usize) -> usize {
    let engine = engine(path, options);
    let sequences = sequences(engine.spec(), &[length, 3, 5]);
    let request = CaptureRequest { sequences, hooks: all_hooks(engine.spec()) };
    let (ended, end) = channel();
    let most_asked = Arc::<AtomicUsize>::default();
    let (asked, received) = Default::default();
    let sink = Scale { asked, most_asked: Arc::clone(&most_asked), received, ended };
    engine.capture(request, Box::new(sink)).unwrap();
    assert_eq!(end.recv().unwrap(), Ok(()), "{path}");
    most_asked.load(Ordering::SeqCst)
}

#[test]
fn a_sink_receives_as_many_bytes_as_it_has_made_room_for() {
    // Experts, windows, sinks, parallel blocks.
    for family in ["llama", "mixtral", "gemma2", "gpt_oss", "phi", "gpt2"] {
        for layers in [None, Some(usize::MAX)] {
            let options = EngineOptions { prefill_layers_per_decode: layers, ..layered() };
            weigh(&format!("families/{family}"), &options, 70);
        }
    }
}

#[test]
fn a_sink_is_never_asked_for_more_than_the_limit() {
    let whole = EngineOptions { context_length: Some(2048), prefill_chunk: 2048, ..options() };
    for layers in [None, Some(usize::MAX)] {
        let options = EngineOptions { prefill_layers_per_decode: layers, ..whole.clone() };
        let most = weigh("tiny-millm", &options, 2000);
        assert!((MAX_DELIVERY_BYTES / 4..=MAX_DELIVERY_BYTES).contains(&most), "{most}");
    }
}

#[test]
fn a_capture_is_cancelled_between_any_two_layers() {
    let checkpoint = checkpoint("tiny-millm");
    let (spec, engine) = (checkpoint.spec(), engine("tiny-millm", &layered()));
    let hooks: Vec<Hook> = (0..spec.layers).map(|layer| Hook::at(HookPoint::ResidPost, layer)).collect();
    let sequences = sequences(spec, &[3 * 24]);
    for layers in 1..2 * spec.layers {
        let control = Arc::<Control>::default();
        // Of one layer of a pass.
        control.set_room(24 * spec.hidden_size * 4);
        control.closes_after.store(layers, Ordering::SeqCst);
        let (_, result) = finished(&capture(&engine, &sequences, &hooks, &control));
        assert_eq!((result, control.received()), (Err(CaptureError::Cancelled), layers));
        assert_all_blocks_are_free(&engine);
    }
}

#[test]
fn a_capture_leaves_its_blocks_to_requests_and_delivers_each_state_once() {
    let checkpoint = checkpoint("tiny-millm");
    let hooks = all_hooks(checkpoint.spec());
    let sequences = sequences(checkpoint.spec(), &[150, 20]);
    // Room for little more than one whole request.
    let crowded = EngineOptions {
        context_length: Some(160),
        kv_tokens: Some(192),
        prefill_chunk: 32,
        prefill_layers_per_decode: None,
        ..options()
    };
    let engine = engine("tiny-millm", &crowded);
    let request = || greedy(&(0..40).map(|j| 260 + 5 * j).collect::<Vec<_>>(), 119);
    let alone = answer(&engine, request()).ids();

    let control = Arc::<Control>::default();
    // After four passes, and the first layers of the fifth.
    let (held, deliveries) = (Arc::clone(&control), 4 * hooks.len());
    let on_delivery = move |before: usize| {
        if before == deliveries {
            held.set_room(0);
        }
    };
    let (sink, end) = recorder(&control, Box::new(on_delivery));
    // Each layer has room alone, and never all together.
    let spec = checkpoint.spec();
    let keys = |size: &usize| if *size == 0 { 160 } else { *size };
    let numbers = |hook: &Hook| spec.hook_shape(*hook).iter().map(keys).product::<usize>();
    let of_first_layer = hooks.iter().filter(|hook| hook.layer == Some(0)).map(numbers).sum::<usize>();
    control.set_room(4 * 32 * (of_first_layer + spec.hidden_size + spec.vocabulary_size));
    engine.capture(CaptureRequest { sequences: sequences.clone(), hooks: hooks.clone() }, sink).unwrap();
    while control.received() <= deliveries {
        std::thread::yield_now();
    }
    control.wait_until_held_back();
    let stats = engine.stats();
    assert_eq!(stats.kv_blocks_total - stats.kv_blocks_free - stats.kv_blocks_cached, 5, "{stats:?}");
    // It needs five of the six blocks.
    assert_eq!(answer(&engine, request()).ids(), alone);
    control.set_room(usize::MAX);
    assert_equal(&finished(&end), &direct(&checkpoint, &sequences, &hooks));
    let stats = engine.stats();
    assert_eq!(stats.kv_blocks_free + stats.kv_blocks_cached, stats.kv_blocks_total);
    assert_eq!((stats.captured_tokens, stats.preemptions), (170, 0));
}

#[test]
fn stopping_and_cancelling_end_all_captures() {
    let held_back = || {
        let control = Arc::<Control>::default();
        control.set_room(0);
        control
    };
    for stops in [true, false] {
        let engine = engine("tiny-millm", &layered());
        let control = held_back();
        let ends: Vec<_> = (0..3).map(|_| capture(&engine, &[vec![1, 2, 3]], &RESIDUAL, &control)).collect();
        control.wait_until_held_back();
        if stops {
            engine.stop();
        } else {
            engine.cancel_all();
        }
        for end in &ends {
            assert_eq!(finished(end).1, Err(CaptureError::Cancelled));
        }
        if stops {
            let (sink, end) = recorder(&control, Box::new(|_| {}));
            let request = CaptureRequest { sequences: vec![vec![1]], hooks: RESIDUAL.to_vec() };
            assert_eq!(engine.capture(request, sink), Err(SubmitError::Stopped));
            assert!(end.recv().is_err(), "a sink that was refused receives nothing");
        } else {
            assert_all_blocks_are_free(&engine);
            assert_eq!(answer(&engine, greedy(&[1], 3)).generated, 3);
        }
    }
    let control = held_back();
    let engine = engine("tiny-millm", &layered());
    let end = capture(&engine, &[vec![1, 2, 3]], &RESIDUAL, &control);
    drop(engine);
    assert_eq!(finished(&end).1, Err(CaptureError::Cancelled));
}

#[test]
fn a_receiver_that_goes_away_cancels_its_capture_while_it_waits() {
    let engine = engine("tiny-millm", &layered());
    let controls = [Arc::<Control>::default(), Arc::<Control>::default()];
    controls[0].set_room(0);
    let first = capture(&engine, &[vec![1, 2, 3]], &RESIDUAL, &controls[0]);
    let second = capture(&engine, &[vec![4, 5]], &RESIDUAL, &controls[1]);
    for (control, end) in [(&controls[1], second), (&controls[0], first)] {
        control.closed.store(true, Ordering::SeqCst);
        assert_eq!(finished(&end).1, Err(CaptureError::Cancelled));
    }
    assert_all_blocks_are_free(&engine);
}

#[test]
fn a_full_queue_refuses_captures_and_no_request() {
    let engine = engine("tiny-millm", &layered());
    let control = Arc::<Control>::default();
    control.set_room(0);
    let accepted: Vec<_> =
        (0..MAX_CAPTURES).map(|_| capture(&engine, &[vec![1, 2]], &RESIDUAL, &control)).collect();
    let (sink, end) = recorder(&control, Box::new(|_| {}));
    let request = CaptureRequest { sequences: vec![vec![1]], hooks: RESIDUAL.to_vec() };
    let refused = engine.capture(request.clone(), sink);
    assert_eq!(refused, Err(SubmitError::QueueFull { waiting: MAX_CAPTURES - 1 }));
    assert!(end.recv().is_err(), "a sink that was refused receives nothing");
    assert_eq!(engine.stats().captures, MAX_CAPTURES);
    assert_eq!(answer(&engine, greedy(&[1], 3)).generated, 3);
    control.set_room(usize::MAX);
    for end in &accepted {
        assert_eq!(finished(end).1, Ok(()));
    }
    let (sink, end) = recorder(&control, Box::new(|_| {}));
    engine.capture(request, sink).unwrap();
    assert_eq!(finished(&end).1, Ok(()));
    assert_eq!(engine.stats().captures, 0);
}

#[test]
fn a_capture_beyond_the_limits_is_refused_with_both_numbers() {
    let engine = engine("tiny-millm", &EngineOptions { context_length: Some(32), ..options() });
    let check = |sequences: Vec<Vec<u32>>, hooks: &[Hook], expected: InvalidCapture| {
        let (sink, end) = recorder(&Arc::default(), Box::new(|_| {}));
        let refused = engine.capture(CaptureRequest { sequences, hooks: hooks.to_vec() }, sink);
        assert_eq!(refused, Err(SubmitError::InvalidCapture(expected)));
        assert!(end.recv().is_err(), "a sink that was refused receives nothing");
    };
    let (found, limit) = (MAX_CAPTURE_SEQUENCES + 1, MAX_CAPTURE_SEQUENCES);
    check(vec![vec![1]; found], &RESIDUAL, InvalidCapture::TooMany { field: "sequences", found, limit });
    let too_long = InvalidCapture::SequenceTooLong { index: 1, tokens: 33, context: 32 };
    check(vec![vec![1], vec![1; 33]], &RESIDUAL, too_long);
    let (found, limit) = ((1 << 20) + 1, 1 << 20);
    let too_many = InvalidCapture::TooMany { field: "tokens of all sequences", found, limit };
    check(vec![vec![1; found]], &RESIDUAL, too_many);
    check(Vec::new(), &RESIDUAL, InvalidCapture::Empty { field: "sequences" });
    check(vec![vec![1]], &[], InvalidCapture::Empty { field: "hooks" });
    check(vec![vec![1], Vec::new()], &RESIDUAL, InvalidCapture::EmptySequence { index: 1 });
    let unknown = InvalidCapture::UnknownToken { index: 0, id: 2048, vocabulary: 2048 };
    check(vec![vec![3, 2048]], &RESIDUAL, unknown);
    let limit = HookPoint::ALL.len() * (engine.spec().layers + 1);
    let too_many = InvalidCapture::TooMany { field: "hooks", found: limit + 1, limit };
    check(vec![vec![1]], &vec![RESIDUAL[0]; limit + 1], too_many);
    for hook in [
        Hook::at(HookPoint::ResidPost, engine.spec().layers),
        Hook::at(HookPoint::Router, 0),
        Hook::global(HookPoint::ResidPost),
        Hook::at(HookPoint::Logits, 0),
    ] {
        let why = engine.spec().require_hook(hook).unwrap_err();
        check(vec![vec![1]], &[RESIDUAL[0], hook], InvalidCapture::Hook(why));
    }
}

#[test]
fn a_sink_that_panics_fails_its_capture_alone() {
    let engine = engine("tiny-millm", &layered());
    let expected = answer(&engine, greedy(&[1, 2, 3], 30)).ids();
    let (sink, end) = recorder(&Arc::default(), Box::new(|before| assert_eq!(before, 0, "injected")));
    let sequences = vec![vec![1, 2, 3]; 20];
    engine.capture(CaptureRequest { sequences: sequences.clone(), hooks: RESIDUAL.to_vec() }, sink).unwrap();
    let (_, result) = finished(&end);
    assert!(matches!(&result, Err(CaptureError::Failed(why)) if why.contains("injected")), "{result:?}");
    assert_eq!(finished(&capture(&engine, &sequences, &RESIDUAL, &Arc::default())).1, Ok(()));
    assert_eq!(answer(&engine, greedy(&[1, 2, 3], 30)).ids(), expected);
    assert_eq!(engine.stats().captures, 0);
}

#[test]
fn a_hook_that_is_given_twice_is_delivered_once() {
    let engine = engine("tiny-millm", &layered());
    let control = Arc::<Control>::default();
    let end = capture(&engine, &[vec![1, 2, 3]], &[RESIDUAL[0], RESIDUAL[0]], &control);
    assert_eq!((finished(&end).1, control.received()), (Ok(()), 1));
}

#[test]
fn passes_that_run_alone_measure_the_prefill_speed() {
    let engine = engine("tiny-millm", &layered());
    assert_eq!(engine.stats().prefill_tokens_per_second, 0);
    assert_eq!(finished(&capture(&engine, &[vec![5; 11]], &RESIDUAL, &Arc::default())).1, Ok(()));
    assert_eq!(engine.stats().prefill_tokens_per_second, 0, "11 rows are less than half a pass");
    assert_eq!(finished(&capture(&engine, &[vec![5; 24]], &RESIDUAL, &Arc::default())).1, Ok(()));
    assert!(engine.stats().prefill_tokens_per_second > 0);
    assert_eq!((engine.stats().captured_tokens, engine.stats().prompt_tokens), (35, 0));
}

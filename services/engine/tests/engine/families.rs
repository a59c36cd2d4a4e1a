//! The decoder's numbers against transformers': prefill in chunks, both rows in one batch, then decode.

use std::collections::HashMap;

use millm_engine::batch::{Batch, Logits};
use millm_engine::cache::{KvCache, KvType};
use millm_engine::decoder::Decoder;
use millm_engine::pages::SequenceId;
use millm_engine::team::Team;
use millm_engine::{HookPoint, NoTaps, Taps};
use safetensors::SafeTensors;

use crate::fixtures::{checkpoint, fixture};

const TOLERANCE: f32 = 1e-4;

/// Every tap's values, by sequence in order of position.
#[derive(Default)]
struct Gathered(HashMap<(HookPoint, usize, SequenceId), Vec<f32>>);

impl Taps for Gathered {
    fn wants(&self, _: HookPoint, _: usize) -> bool {
        true
    }

    fn take(&mut self, point: HookPoint, layer: usize, values: &[f32], batch: &Batch) {
        let hidden = values.len() / batch.tokens().len();
        for segment in batch.segments() {
            let rows = &values[segment.rows.start * hidden..segment.rows.end * hidden];
            self.0.entry((point, layer, segment.sequence)).or_default().extend(rows);
        }
    }
}

fn floats(reference: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let view = reference.tensor(name).unwrap();
    view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// The two rows of a matrix of token ids.
fn rows(reference: &SafeTensors<'_>, name: &str) -> [Vec<u32>; 2] {
    let view = reference.tensor(name).unwrap();
    let ids: Vec<u32> =
        view.data().as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes) as u32).collect();
    let (first, second) = ids.split_at(ids.len() / 2);
    [first.to_vec(), second.to_vec()]
}

fn assert_close(got: &[f32], expected: &[f32], what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let worst = got.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= TOLERANCE, "{what} is off by {worst}");
}

fn check(family: &str) {
    let bytes = std::fs::read(fixture(&format!("families/{family}/reference.safetensors"))).unwrap();
    let reference = SafeTensors::deserialize(&bytes).unwrap();
    let checkpoint = checkpoint(&format!("families/{family}"));
    let team = Team::new(2).unwrap();
    let mut decoder = Decoder::load(&checkpoint, team, (2, 2), &mut |_| {}).unwrap();
    let mut cache = KvCache::new(decoder.spec(), KvType::F32, 4).unwrap();
    let (layers, vocabulary) = (decoder.spec().layers, decoder.spec().vocabulary_size);
    let prompts = rows(&reference, "input_ids");
    let sequences = [cache.open(40).unwrap(), cache.open(40).unwrap()];

    let mut taps = Gathered::default();
    let mut logits = [Vec::new(), Vec::new()];
    let mut batch = Batch::default();
    for start in (0..prompts[0].len()).step_by(7) {
        batch.clear();
        let end = prompts[0].len().min(start + 7);
        for (sequence, prompt) in sequences.iter().zip(&prompts) {
            batch.push(&cache, *sequence, &prompt[start..end], Logits::All);
        }
        let out = decoder.forward(&batch, &mut cache, &mut taps).unwrap();
        let (first, second) = out.split_at(out.len() / 2);
        logits[0].extend(first);
        logits[1].extend(second);
    }
    assert_close(&logits.concat(), &floats(&reference, "logits"), &format!("{family}: logits"));
    for (point, name) in
        [(HookPoint::Residual, "residual"), (HookPoint::Attention, "attention"), (HookPoint::Mlp, "mlp")]
    {
        for layer in 0..layers {
            let got = sequences.map(|sequence| taps.0[&(point, layer, sequence)].clone()).concat();
            let name = format!("{name}.{layer}");
            assert_close(&got, &floats(&reference, &name), &format!("{family}: {name}"));
        }
    }

    let expected = rows(&reference, "greedy_ids");
    let mut generated = [Vec::new(), Vec::new()];
    let mut last = logits.map(|logits| best(&logits[logits.len() - vocabulary..]));
    for step in 0..expected[0].len() {
        batch.clear();
        for (index, token) in last.iter().enumerate() {
            generated[index].push(*token);
            batch.push_step(&cache, sequences[index], *token);
        }
        if step + 1 < expected[0].len() {
            let out = decoder.forward(&batch, &mut cache, &mut NoTaps).unwrap();
            last = [best(&out[..vocabulary]), best(&out[vocabulary..])];
        }
    }
    assert_eq!(generated, expected, "{family}: greedy ids");
    for sequence in sequences {
        cache.close(sequence);
    }
    assert_eq!(cache.pages().free(), cache.pages().total());
}

fn best(logits: &[f32]) -> u32 {
    (0..).zip(logits).max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0
}

#[test]
fn llama() {
    check("llama");
}

#[test]
fn llama3_rope() {
    check("llama3-rope");
}

#[test]
fn mistral_with_a_sliding_window() {
    check("mistral");
}

#[test]
fn qwen2() {
    check("qwen2");
}

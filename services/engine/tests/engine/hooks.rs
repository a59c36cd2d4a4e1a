//! Hook points: their values against transformers, on the host and through candle; that they depend neither on the batch
//! nor on the chunks; and that what nobody wants is not shown.

use millm_engine::{
    Batch, BlockPool, CandleDecoder, Device, Forward, Hook, HookPoint, Hooks, KernelSet, KvType, Logits,
    NoHooks, Segment, SequenceId,
};
use millm_model::{Checkpoint, HookName, ModelSpec};
use safetensors::SafeTensors;

use crate::collected::Collected;
use crate::families::{convert, floats, rows};
use crate::fixtures::{checkpoint, decoder, fixture, kernel_sets, tests_of};

const TOLERANCE: f32 = 1e-4;
/// Rows of a chunk.
const CHUNK: usize = 7;

/// Returns both reference prompts of a family.
fn prompts(family: &str) -> [Vec<u32>; 2] {
    let bytes = std::fs::read(fixture(&format!("families/{family}/reference.safetensors"))).unwrap();
    rows(&SafeTensors::deserialize(&bytes).unwrap(), "input_ids")
}

/// Runs prompts in one batch, in chunks.
fn run(
    model: &mut dyn Forward,
    prompts: &[&[u32]],
    chunk: usize,
    mut hooks: Collected,
) -> (Collected, Vec<SequenceId>) {
    let mut blocks = BlockPool::new(4);
    let sequences: Vec<SequenceId> =
        prompts.iter().map(|prompt| blocks.allocate(prompt.len()).unwrap()).collect();
    let longest = prompts.iter().map(|prompt| prompt.len()).max().unwrap_or(0);
    let mut batch = Batch::default();
    for start in (0..longest).step_by(chunk) {
        batch.clear();
        for (sequence, prompt) in sequences.iter().zip(prompts) {
            let part = &prompt[start.min(prompt.len())..prompt.len().min(start + chunk)];
            if !part.is_empty() {
                batch.push_prefill_chunk(&blocks, *sequence, part, prompt.len(), Logits::All);
            }
        }
        model.forward(&batch, &mut blocks, &mut hooks).unwrap();
    }
    (hooks, sequences)
}

/// Returns all hooks of a model.
fn hooks_of(spec: &ModelSpec) -> Vec<Hook> {
    let global = spec.global_hook_points().into_iter().map(Hook::global);
    let of_layer = |layer| spec.hook_points(layer).into_iter().map(move |point| Hook::at(point, layer));
    global.chain((0..spec.layers).flat_map(of_layer)).collect()
}

fn close(got: f32, expected: f32) -> bool {
    // Masked scores are infinite.
    got.to_bits() == expected.to_bits() || (got - expected).abs() <= TOLERANCE
}

/// Returns a reference's row as [`Collected`] has it: of attention the keys up to the row's own.
fn expected_row(hook: Hook, row: &[f32], position: usize, tokens: usize) -> Vec<f32> {
    if !hook.point.is_attention() {
        return row.to_vec();
    }
    row.chunks_exact(tokens).flat_map(|head| &head[..=position]).copied().collect()
}

/// Compares all hook points of a model with the family's reference.
fn compare(family: &str, model: &mut dyn Forward) {
    let bytes = std::fs::read(fixture(&format!("hooks/{family}.safetensors"))).unwrap();
    let reference = SafeTensors::deserialize(&bytes).unwrap();
    let [first, second] = prompts(family);
    let spec = model.spec().clone();
    let (collected, sequences) = run(model, &[&second, &first], CHUNK, Collected::default());
    let sequence = sequences[1];

    let hooks = hooks_of(&spec);
    assert_eq!(collected.hooks(sequence), hooks.iter().copied().collect(), "{family}: points");
    let positions = reference.tensor("positions").unwrap();
    let positions =
        positions.data().as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes) as usize);
    let positions: Vec<usize> = positions.collect();
    let mut compared = 0;
    for hook in hooks {
        let rows = collected.rows(hook, sequence);
        let width: usize = spec.hook_shape(hook).iter().map(|size| (*size).max(1)).product();
        assert_eq!(rows.len(), first.len(), "{family}: {hook}");
        for (position, row) in rows.iter().enumerate() {
            let keys = if hook.point.is_attention() { position + 1 } else { 1 };
            assert_eq!(row.len(), width * keys, "{family}: {hook}");
        }
        // transformers keeps no scores where there are sinks.
        if spec.attention_sinks && hook.point == HookPoint::AttnScores {
            continue;
        }
        let expected = floats(&reference, &hook.name());
        for (expected, position) in expected.chunks_exact(expected.len() / positions.len()).zip(&positions) {
            let expected = expected_row(hook, expected, *position, first.len());
            let got = &rows[*position];
            assert_eq!(got.len(), expected.len(), "{family}: {hook}");
            let wrong = got.iter().zip(&expected).find(|(got, expected)| !close(**got, **expected));
            assert!(wrong.is_none(), "{family}: {hook} at {position}: {wrong:?}");
        }
        compared += 1;
    }
    assert_eq!(compared + 1, reference.len(), "{family}: the reference has points that the model has not");
}

fn candle(checkpoint: &Checkpoint) -> CandleDecoder {
    let decoder = CandleDecoder::load(checkpoint, Device::best().open().unwrap(), &mut |_| {}).unwrap();
    decoder.with_kv_cache(KvType::F32, 4).unwrap()
}

fn check(family: &str) {
    let published = checkpoint(&format!("families/{family}"));
    for kernels in kernel_sets() {
        eprintln!("{family} on {kernels}"); // shown if the test fails
        compare(family, &mut decoder(&published, kernels, KvType::F32, 4));
    }
    compare(family, &mut candle(&published));
}

tests_of! {
    check
    llama "llama"
    qwen3 "qwen3"
    gemma2 "gemma2"
    gemma3 "gemma3"
    gpt2 "gpt2"
    gpt_neox "gpt_neox"
    phi "phi"
    mixtral "mixtral"
    olmo2 "olmo2"
    granite "granite"
    smollm3 "smollm3"
    cohere "cohere"
    gpt_oss "gpt_oss"
}

/// GGUF's converter permutes the rows of queries and keys. Hooks show them as published.
#[test]
fn a_gguf_file_gives_the_heads_as_published() {
    for family in ["llama", "granite", "phi"] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("model.gguf");
        convert(&checkpoint(&format!("families/{family}")), &file);
        let checkpoint = Checkpoint::open(&file).unwrap();
        assert_eq!(checkpoint.spec().permutes_heads(), family != "phi");
        compare(family, &mut decoder(&checkpoint, KernelSet::best(), KvType::F32, 4));
        compare(family, &mut candle(&checkpoint));
    }
}

/// Names are those of the files' tensors too.
#[test]
fn references_are_named_as_hooks() {
    let bytes = std::fs::read(fixture("hooks/mixtral.safetensors")).unwrap();
    let reference = SafeTensors::deserialize(&bytes).unwrap();
    for name in reference.names().into_iter().filter(|name| *name != "positions") {
        assert_eq!(name.parse::<HookName>().unwrap().to_string(), name);
    }
}

#[test]
fn states_do_not_depend_on_the_batch_or_the_chunks_to_the_bit() {
    for (family, kv_type) in
        [("gemma2", KvType::F16), ("mixtral", KvType::F32), ("gpt2", KvType::F16), ("gpt_oss", KvType::F32)]
    {
        let checkpoint = checkpoint(&format!("families/{family}"));
        let [first, second] = prompts(family);
        for kernels in kernel_sets() {
            let model = &mut decoder(&checkpoint, kernels, kv_type, 4);
            let (alone, sequences) = run(model, &[&first], first.len(), Collected::default());
            let own = sequences[0];
            let hooks = hooks_of(model.spec());
            for (chunk, others) in
                [(CHUNK, &[][..]), (CHUNK, &second[..]), (1, &second[..5]), (24, &second[..9])]
            {
                let prompts: Vec<&[u32]> =
                    [others, &first[..]].into_iter().filter(|all| !all.is_empty()).collect();
                let (together, sequences) = run(model, &prompts, chunk, Collected::default());
                let sequence = sequences[sequences.len() - 1];
                for hook in &hooks {
                    let (got, expected) = (together.rows(*hook, sequence), alone.rows(*hook, own));
                    assert_eq!(bits(got), bits(expected), "{family} on {kernels}, chunk {chunk}: {hook}");
                }
            }
        }
    }
}

fn bits(rows: &[Vec<f32>]) -> Vec<Vec<u32>> {
    rows.iter().map(|row| row.iter().map(|value| value.to_bits()).collect()).collect()
}

/// Hooks that want nothing, and fail if they receive something.
struct Strict;

impl Hooks for Strict {
    fn wants(&self, _: Hook) -> bool {
        false
    }

    fn receive(&mut self, hook: Hook, _: &[f32], _: &Batch) {
        panic!("nobody wants {hook}");
    }

    fn receive_attention(&mut self, hook: Hook, _: &Segment, _: usize, _: &[f32]) {
        panic!("nobody wants {hook}");
    }
}

/// Returns the logits of a prompt, with its states shown to some hooks.
fn logits(model: &mut dyn Forward, prompt: &[u32], hooks: &mut dyn Hooks) -> Vec<u32> {
    let mut blocks = BlockPool::new(4);
    let sequence = blocks.allocate(prompt.len()).unwrap();
    let mut batch = Batch::default();
    batch.push_prefill(&blocks, sequence, prompt, Logits::All);
    let logits = model.forward(&batch, &mut blocks, hooks).unwrap();
    logits.iter().map(|logit| logit.to_bits()).collect()
}

/// A point that nobody wants is not shown, and hooks change no logit, to the bit.
#[test]
fn only_wanted_points_are_shown_and_nothing_changes() {
    for family in ["gemma2", "mixtral", "gpt_neox"] {
        let checkpoint = checkpoint(&format!("families/{family}"));
        let [prompt, _] = prompts(family);
        let host = &mut decoder(&checkpoint, KernelSet::best(), KvType::F16, 4);
        let candle = &mut candle(&checkpoint);
        for model in [host as &mut dyn Forward, candle] {
            let expected = logits(model, &prompt, &mut NoHooks);
            assert_eq!(logits(model, &prompt, &mut Strict), expected, "{family}");
            for hook in hooks_of(model.spec()) {
                let mut one = Collected::only(&[hook]);
                assert_eq!(logits(model, &prompt, &mut one), expected, "{family} with {hook}");
                assert_eq!(one.received, [hook], "{family}");
            }
            let mut all = Collected::default();
            assert_eq!(logits(model, &prompt, &mut all), expected, "{family} with all hooks");
            let hooks = hooks_of(model.spec());
            let mut sorted = hooks.clone();
            sorted.sort();
            assert_eq!(all.received, sorted, "{family}: in the order of computing");
        }
    }
}

/// A prefill pass that runs some layers at a time shows the states that a whole pass shows.
#[test]
fn a_pass_of_some_layers_at_a_time_shows_all_states_once() {
    let checkpoint = checkpoint("families/gemma3");
    let [prompt, other] = prompts("gemma3");
    let model = &mut decoder(&checkpoint, KernelSet::best(), KvType::F16, 4);
    let (expected, sequences) = run(model, &[&prompt], prompt.len(), Collected::default());
    let whole = sequences[0];

    let mut blocks = BlockPool::new(4);
    let sequences = [prompt.len(), other.len()].map(|tokens| blocks.allocate(tokens).unwrap());
    let (mut batch, mut between) = (Batch::default(), Batch::default());
    batch.push_prefill(&blocks, sequences[0], &prompt, Logits::All);
    let mut hooks = Collected::default();
    assert!(model.forward_layers(&batch, 0..1, &mut blocks, &mut hooks).unwrap().is_none());
    // Another pass comes in between.
    between.push_prefill(&blocks, sequences[1], &other, Logits::All);
    model.forward(&between, &mut blocks, &mut NoHooks).unwrap();
    assert!(model.forward_layers(&batch, 1..3, &mut blocks, &mut hooks).unwrap().is_none());
    assert!(model.forward_layers(&batch, 3..4, &mut blocks, &mut hooks).unwrap().is_some());
    assert_eq!(hooks.received, expected.received);
    for hook in hooks_of(model.spec()) {
        assert_eq!(bits(hooks.rows(hook, sequences[0])), bits(expected.rows(hook, whole)), "{hook}");
    }
}

/// The parts of the residual stream add up, in every family.
#[test]
fn the_residual_stream_is_the_sum_of_what_is_added() {
    for family in ["llama", "gemma2", "olmo2", "granite", "phi", "glm4", "qwen3_moe", "stablelm"] {
        let checkpoint = checkpoint(&format!("families/{family}"));
        let [prompt, _] = prompts(family);
        let model = &mut decoder(&checkpoint, KernelSet::best(), KvType::F32, 4);
        let (collected, sequences) = run(model, &[&prompt], prompt.len(), Collected::default());
        let rows = |point, layer| collected.rows(Hook::at(point, layer), sequences[0]);
        for layer in 0..checkpoint.spec().layers {
            for row in 0..prompt.len() {
                let parts = [HookPoint::ResidPre, HookPoint::AttnOut, HookPoint::MlpOut];
                let parts = parts.map(|point| &rows(point, layer)[row]);
                for (column, after) in rows(HookPoint::ResidPost, layer)[row].iter().enumerate() {
                    let sum: f32 = parts.iter().map(|part| part[column]).sum();
                    assert!((sum - after).abs() < 1e-4, "{family}: {sum}, not {after}");
                }
            }
            if layer > 0 {
                let before = rows(HookPoint::ResidPost, layer - 1);
                assert_eq!(bits(rows(HookPoint::ResidPre, layer)), bits(before), "{family}");
            }
        }
    }
}

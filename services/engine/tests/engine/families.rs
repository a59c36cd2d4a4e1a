//! Compares the decoder with transformers: prefill in chunks, both rows in one batch, then decode; from safetensors
//! and from the GGUF file made of them.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use millm_engine::{Batch, BlockPool, Forward, Hook, HookPoint, KvType, Logits, NoHooks};
use millm_model::gguf::writer::Writer;
use millm_model::gguf::{CONFIG_JSON_KEY, GgufFile, Value};
use millm_model::quantize::{Request, Scheme, quantize};
use millm_model::{Checkpoint, TensorInfo};
use safetensors::SafeTensors;

use crate::collected::Collected;
use crate::fixtures::{decoder, each_family, fixture, kernel_sets};

const TOLERANCE: f32 = 1e-4;

pub fn floats(reference: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let view = reference.tensor(name).unwrap();
    view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// Returns the two rows of a matrix of token ids.
pub fn rows(reference: &SafeTensors<'_>, name: &str) -> [Vec<u32>; 2] {
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

/// Compares the host's decoder, on each kernel set, with a family's reference.
pub fn run(family: &str, checkpoint: &Checkpoint) {
    for kernels in kernel_sets() {
        eprintln!("{family} on {kernels}"); // shown if the test fails
        compare(family, &mut decoder(checkpoint, kernels, KvType::F32, 4), BlockPool::new(4));
    }
}

/// Runs a family's reference prompts, and compares logits, states and greedy tokens with the reference.
pub fn compare(family: &str, model: &mut dyn Forward, mut blocks: BlockPool) {
    let bytes = std::fs::read(fixture(&format!("families/{family}/reference.safetensors"))).unwrap();
    let reference = SafeTensors::deserialize(&bytes).unwrap();
    let (layers, vocabulary) = (model.spec().layers, model.spec().vocabulary_size);
    let prompts = rows(&reference, "input_ids");
    let sequences = [blocks.allocate(40).unwrap(), blocks.allocate(40).unwrap()];

    let mut hooks = Collected::default();
    let mut logits = [Vec::new(), Vec::new()];
    let mut batch = Batch::default();
    for start in (0..prompts[0].len()).step_by(7) {
        batch.clear();
        let end = prompts[0].len().min(start + 7);
        for (sequence, prompt) in sequences.iter().zip(&prompts) {
            batch.push_prefill_chunk(&blocks, *sequence, &prompt[start..end], prompt.len(), Logits::All);
        }
        let out = model.forward(&batch, &mut blocks, &mut hooks).unwrap();
        let (first, second) = out.split_at(out.len() / 2);
        logits[0].extend(first);
        logits[1].extend(second);
    }
    assert_close(&logits.concat(), &floats(&reference, "logits"), &format!("{family}: logits"));
    let all = |hook| sequences.map(|sequence| hooks.rows(hook, sequence).concat()).concat();
    assert_close(&all(Hook::global(HookPoint::Logits)), &floats(&reference, "logits"), family);
    for (point, name) in
        [(HookPoint::ResidPost, "residual"), (HookPoint::Attn, "attention"), (HookPoint::Mlp, "mlp")]
    {
        for layer in 0..layers {
            let name = format!("{name}.{layer}");
            let expected = floats(&reference, &name);
            assert_close(&all(Hook::at(point, layer)), &expected, &format!("{family}: {name}"));
        }
    }

    let expected = rows(&reference, "greedy_ids");
    let mut generated = [Vec::new(), Vec::new()];
    let mut last = logits.map(|logits| best(&logits[logits.len() - vocabulary..]));
    for step in 0..expected[0].len() {
        batch.clear();
        for (index, token) in last.iter().enumerate() {
            generated[index].push(*token);
            batch.push_decode(&blocks, sequences[index], *token);
        }
        if step + 1 < expected[0].len() {
            let out = model.forward(&batch, &mut blocks, &mut NoHooks).unwrap();
            last = [best(&out[..vocabulary]), best(&out[vocabulary..])];
        }
    }
    assert_eq!(generated, expected, "{family}: greedy ids");
    for sequence in sequences {
        blocks.release(sequence);
    }
    assert_eq!(blocks.free_blocks(), blocks.total_blocks());
}

fn best(logits: &[f32]) -> u32 {
    (0..).zip(logits).max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0
}

/// Writes a GGUF file of this project, all F32.
pub fn convert(source: &Checkpoint, to: &Path) {
    let request = Request { scheme: Scheme::Fp32, destination: to, name: "model", extra: &[] };
    quantize(source, &request, &AtomicBool::new(false), &mut |_| {}).unwrap();
}

/// Writes the same tensors with other metadata.
pub fn with_metadata(from: &Path, to: &Path, metadata: &[(String, Value)]) {
    let file = GgufFile::open(from).unwrap();
    let header = file.header();
    let tensors: Vec<TensorInfo> = header
        .tensors
        .iter()
        .map(|tensor| TensorInfo {
            name: tensor.name.clone(),
            ty: tensor.ty,
            shape: tensor.shape.clone(),
            bytes: tensor.range.end - tensor.range.start,
        })
        .collect();
    let mut writer = Writer::begin(std::fs::File::create(to).unwrap(), metadata, &tensors).unwrap();
    for tensor in &header.tensors {
        writer.write(file.bytes(tensor)).unwrap();
    }
    writer.finish().unwrap();
}

/// Returns the metadata without the config.json that this project's files contain.
fn without_config(from: &Path) -> Vec<(String, Value)> {
    let file = GgufFile::open(from).unwrap();
    let pairs = file.header().metadata.iter().filter(|(key, _)| *key != CONFIG_JSON_KEY);
    pairs.map(|(key, value)| (key.to_owned(), value.clone())).collect()
}

/// Returns the metadata that llama.cpp's converter writes for the family (`tests/tools/converted.py`). A test of the
/// model crate checks that its tensors are the same.
pub fn converter_metadata(family: &str) -> Vec<(String, Value)> {
    let text = std::fs::read_to_string(fixture(&format!("families/{family}/converted.json"))).unwrap();
    let converted: serde_json::Value = serde_json::from_str(&text).unwrap();
    let value = |json: &serde_json::Value| match json {
        serde_json::Value::String(text) => Value::String(text.clone()),
        serde_json::Value::Bool(flag) => Value::Bool(*flag),
        number if number.is_u64() => Value::U32(number.as_u64().unwrap() as u32),
        number => Value::F32(number.as_f64().unwrap() as f32),
    };
    let pairs = converted["metadata"].as_object().unwrap().iter();
    pairs.map(|(key, json)| (key.clone(), value(json))).collect()
}

/// Families for whose fixtures the converter's metadata are incomplete: windows, the scale of Gemma's queries and
/// which of its layers have a window.
const INCOMPLETE_METADATA: [&str; 5] = ["mistral", "gemma2", "gemma3", "starcoder2", "smollm3"];

fn check(family: &str) {
    let published = Checkpoint::open(&fixture(&format!("families/{family}"))).unwrap();
    run(family, &published);
    let folder = tempfile::tempdir().unwrap();
    let (ours, plain) = (folder.path().join("ours.gguf"), folder.path().join("plain.gguf"));
    convert(&published, &ours);
    run(family, &Checkpoint::open(&ours).unwrap());
    with_metadata(&ours, &plain, &without_config(&ours));
    run(family, &Checkpoint::open(&plain).unwrap());
    if !INCOMPLETE_METADATA.contains(&family) {
        with_metadata(&ours, &plain, &converter_metadata(family));
        run(family, &Checkpoint::open(&plain).unwrap());
    }
}

each_family!(check);

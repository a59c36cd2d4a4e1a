//! Whole runs: the fixtures quantized, opened again, and compared.

use std::path::PathBuf;

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{DType, Device};
use half::{bf16, f16};

use super::*;
use crate::Tensor;
use crate::formats::gguf::Array;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures")).join(name)
}

fn run(source: &Path, scheme: Scheme, folder: &tempfile::TempDir) -> (Outcome, Checkpoint) {
    let destination = folder.path().join("model.gguf");
    let extra = [("millm.source.commit".to_owned(), Value::String("abc".into()))];
    let request = Request { scheme, destination: &destination, name: "Tiny", extra: &extra };
    let source = Checkpoint::open(source).unwrap();
    let mut last = 0;
    let mut progress = |at: Progress<'_>| {
        assert!(at.done_bytes >= last && at.done_bytes <= at.total_bytes);
        last = at.done_bytes;
    };
    let outcome = quantize(&source, &request, &AtomicBool::new(false), &mut progress).unwrap();
    assert_eq!(outcome.bytes, destination.metadata().unwrap().len());
    (outcome, Checkpoint::open(&destination).unwrap())
}

/// Returns a stored tensor as f32; candle decodes quantized ones.
fn values(tensor: &Tensor<'_>) -> Vec<f32> {
    let dtype = match tensor.info.ty {
        TensorType::F32 => GgmlDType::F32,
        TensorType::F16 => GgmlDType::F16,
        TensorType::BF16 => {
            return tensor
                .bytes
                .chunks_exact(2)
                .map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32())
                .collect();
        }
        TensorType::Q5_0 => GgmlDType::Q5_0,
        TensorType::Q8_0 => GgmlDType::Q8_0,
        TensorType::Q2K => GgmlDType::Q2K,
        TensorType::Q3K => GgmlDType::Q3K,
        TensorType::Q4K => GgmlDType::Q4K,
        TensorType::Q6K => GgmlDType::Q6K,
        other => panic!("no scheme makes {other} of these"),
    };
    let storage = QStorage::from_data(tensor.bytes.to_vec().into(), &Device::Cpu, dtype).unwrap();
    let tensor =
        QTensor::new(storage, tensor.info.shape.as_slice()).unwrap().dequantize(&Device::Cpu).unwrap();
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Returns the root mean square error relative to the root mean square value, with the rows of q and k in the source's
/// order.
fn error(source: &Checkpoint, made: &Checkpoint, name: &str) -> f64 {
    let (a, b) = (source.tensor(name).unwrap(), made.tensor(name).unwrap());
    let (head_dim, columns) = (source.spec().head_dim, a.info.shape.get(1).copied().unwrap_or(1));
    let (a, b) = (values(&a), values(&b));
    let interleaved = source.spec().ropes[0].layout != made.spec().ropes[0].layout
        && (name.contains("attn_q.") || name.contains("attn_k."));
    let (mut wrong, mut size) = (0.0, 0.0);
    for (at, b) in b.iter().enumerate() {
        let (row, column) = (at / columns, at % columns);
        let (head, within) = (row / head_dim, row % head_dim);
        let from = if interleaved { head * head_dim + within % 2 * (head_dim / 2) + within / 2 } else { row };
        let a = a[from * columns + column];
        wrong += f64::from(a - b).powi(2);
        size += f64::from(a).powi(2);
    }
    (wrong / size.max(1e-30)).sqrt()
}

#[test]
fn every_scheme_reopens_and_stays_near_its_source() {
    let source = Checkpoint::open(&fixture("tiny-millm")).unwrap();
    let check = |scheme: Scheme, worst: f64, bits: f64| {
        let folder = tempfile::tempdir().unwrap();
        let (outcome, made) = run(&fixture("tiny-millm"), scheme, &folder);
        assert_eq!((outcome.actual, outcome.reason.as_deref()), (scheme, None));
        assert_eq!(outcome.tensors.len(), source.tensors().len());
        for (written, stored) in outcome.tensors.iter().zip(made.tensors()) {
            assert_eq!((&written.name, written.ty), (&stored.name, stored.ty));
            let error = error(&source, &made, &written.name);
            assert!(error <= worst, "{scheme} {} {}: {error}", written.name, written.ty);
        }
        let per_weight = 8.0 * made.weights_bytes() as f64 / made.parameter_count() as f64;
        assert!(per_weight < bits, "{scheme}: {per_weight} bits a weight");
    };
    check(Scheme::Fp16, 0.0, 16.1);
    check(Scheme::Q8, 0.01, 8.6);
    check(Scheme::Q4, 0.085, 5.2);
    check(Scheme::Q2, 0.33, 3.6);
}

#[test]
fn the_file_alone_describes_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let (_, made) = run(&fixture("tiny-millm"), Scheme::Q4, &folder);
    let source = Checkpoint::open(&fixture("tiny-millm")).unwrap();
    let llama_cpp = Checkpoint::open(&fixture("tiny-millm-gguf").join("tiny-Q4_K_M.gguf")).unwrap();
    let (ours, theirs) = (made.gguf_metadata().unwrap(), llama_cpp.gguf_metadata().unwrap());
    for (key, value) in theirs.iter() {
        // The caller gives the name; the label is derived from it and the size.
        if !matches!(key, "general.name" | "general.size_label") {
            assert_eq!(ours.get(key), Some(value), "{key}");
        }
    }
    assert_eq!(ours.text("millm.source.commit").unwrap(), Some("abc"));
    assert_eq!(ours.text(CONFIG_JSON_KEY).unwrap(), source.config_json());
    for (a, b) in made.tensors().zip(llama_cpp.tensors()) {
        assert_eq!(a, b);
    }
    let (a, b) = (made.spec(), source.spec());
    assert_eq!(a.ropes[0].layout, RopeLayout::Interleaved);
    assert_eq!(a.ropes[0].inverse_frequencies, b.ropes[0].inverse_frequencies);
    assert_eq!(a.eos_token_ids, b.eos_token_ids);
    assert_eq!((a.layers, a.head_dim, a.tied_embeddings), (b.layers, b.head_dim, b.tied_embeddings));
}

/// The same weights from llama.cpp's F16 file and from safetensors give the same blocks.
#[test]
fn a_gguf_source_gives_the_same_tensors() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_, from_gguf) = run(&fixture("tiny-millm-gguf").join("tiny-f16.gguf"), Scheme::Q8, &a);
    let (_, from_safetensors) = run(&fixture("tiny-millm"), Scheme::Q8, &b);
    let mut equal = 0;
    for info in from_safetensors.tensors() {
        let (a, b) = (from_gguf.tensor(&info.name).unwrap(), from_safetensors.tensor(&info.name).unwrap());
        assert_eq!(a.info, b.info);
        equal += a.bytes.iter().zip(b.bytes.iter()).filter(|(a, b)| a == b).count();
    }
    // F16 rounds bf16 values below 2^-14: a few bytes may differ.
    assert!(equal as f64 > 0.999 * from_safetensors.weights_bytes() as f64, "{equal}");
    let metadata = from_gguf.gguf_metadata().unwrap();
    assert_eq!(metadata.text("tokenizer.ggml.pre").unwrap(), Some("gpt-2"));
    assert!(matches!(metadata.get("tokenizer.ggml.merges"), Some(Value::Array(Array::String(_)))));
}

#[test]
fn families_keep_their_dimensions() {
    let check = |name: &str, architecture: &str, layout: RopeLayout| {
        let folder = tempfile::tempdir().unwrap();
        let source = Checkpoint::open(&fixture("families").join(name)).unwrap();
        let (outcome, made) = run(&fixture("families").join(name), Scheme::Q2, &folder);
        // Rows of 64: no super-blocks.
        assert_eq!(outcome.actual, Scheme::Q4, "{name}");
        assert!(outcome.reason.as_deref().unwrap().contains("Q4 was used"), "{:?}", outcome.reason);
        let metadata = made.gguf_metadata().unwrap();
        assert_eq!(metadata.text("general.architecture").unwrap(), Some(architecture));
        assert_eq!(made.spec().ropes[0].layout, layout);
        assert_eq!(made.spec().layer_specs, source.spec().layer_specs);
        assert_eq!(made.spec().qkv_bias, source.spec().qkv_bias);
        for tensor in made.tensors() {
            let error = error(&source, &made, &tensor.name);
            assert!(error < 0.06, "{name} {}: {error}", tensor.name);
        }
        metadata.clone()
    };
    check("llama", "llama", RopeLayout::Interleaved);
    check("llama3-rope", "llama", RopeLayout::Interleaved);
    check("qwen2", "qwen2", RopeLayout::Half);
    let mistral = check("mistral", "llama", RopeLayout::Interleaved);
    assert_eq!(mistral.number("llama.attention.sliding_window").unwrap(), Some(8));
}

#[test]
fn packed_experts_stay_as_they_are() {
    let source = Checkpoint::open(&fixture("families/gpt_oss-mxfp4")).unwrap();
    for scheme in [Scheme::Q2, Scheme::Q4, Scheme::Q8, Scheme::Fp16, Scheme::Fp32] {
        let folder = tempfile::tempdir().unwrap();
        let (outcome, made) = run(&fixture("families/gpt_oss-mxfp4"), scheme, &folder);
        let expected = if scheme == Scheme::Q2 { Scheme::Q4 } else { scheme };
        assert_eq!(outcome.actual, expected, "rows of 64 have no super-blocks");
        let why =
            "9 of 60 tensors have another type: blk.0.ffn_gate_exps.weight is MXFP4: published as MXFP4";
        assert!(
            outcome.reason.as_deref().unwrap().contains(why) || scheme <= Scheme::Q4,
            "{:?}",
            outcome.reason
        );
        let (mut packed, mut others) = (0, 0);
        for tensor in made.tensors() {
            let (own, published) = (made.tensor(&tensor.name).unwrap(), source.tensor(&tensor.name).unwrap());
            if published.info.ty == TensorType::MXFP4 {
                assert_eq!((own.info, own.bytes), (published.info, published.bytes));
                packed += 1;
            } else {
                let is_vector = tensor.shape.len() == 1;
                assert!(!is_vector || tensor.ty == TensorType::F32, "{}: {}", tensor.name, tensor.ty);
                others += 1;
            }
        }
        assert_eq!((packed, others), (3 * 4 * 3, made.tensors().len() - 36));
        assert_eq!(made.gguf_metadata().unwrap().number("general.file_type").unwrap(), Some(38));
    }
}

/// Without the embedded config.json, as llama.cpp reads the file, the scaling is in `rope_freqs.weight`.
#[test]
fn llama3_scaling_survives_in_ggufs_own_terms() {
    let source = Checkpoint::open(&fixture("families/llama3-rope")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (_, made) = run(&fixture("families/llama3-rope"), Scheme::Fp16, &folder);
    let file = crate::formats::gguf::GgufFile::open(&folder.path().join("model.gguf")).unwrap();
    let stored = file.header().tensors.iter().find(|tensor| tensor.name == "rope_freqs.weight").unwrap();
    let factors: Vec<f32> =
        file.bytes(stored).chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    assert_eq!(factors.first(), Some(&1.0));
    assert_eq!(factors.last(), Some(&8.0));
    for (i, (factor, frequency)) in
        factors.iter().zip(&source.spec().ropes[0].inverse_frequencies).enumerate()
    {
        let plain = 10_000_f32.powf(-(i as f32) / factors.len() as f32);
        assert!(
            (plain / factor / frequency - 1.0).abs() < 1e-6,
            "{i}: {plain} / {factor} is not {frequency}"
        );
    }
    assert_eq!(made.tensor("blk.0.attn_v.weight").unwrap().info.ty, TensorType::F16);
}

/// Copies the llama fixture with one element of a matrix replaced.
fn tampered(element: f32) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(fixture("families/llama").join(name), folder.path().join(name)).unwrap();
    }
    let path = folder.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let text: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let start = text["model.layers.1.mlp.up_proj.weight"]["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[8 + header + start + 4 * 65..][..4].copy_from_slice(&element.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    folder
}

#[test]
fn values_that_are_no_numbers_end_the_run_and_leave_nothing() {
    let folder = tampered(f32::NAN);
    let destination = folder.path().join("out.gguf");
    let source = Checkpoint::open(folder.path()).unwrap();
    for scheme in [Scheme::Q2, Scheme::Q8, Scheme::Fp16] {
        let request = Request { scheme, destination: &destination, name: "x", extra: &[] };
        let error = quantize(&source, &request, &AtomicBool::new(false), &mut |_| {}).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("'blk.1.ffn_up.weight', row 1: column 1 is NaN"), "{text}");
        assert!(!destination.exists());
    }
}

#[test]
fn values_beyond_half_precision_lead_to_higher_schemes_and_an_error_in_the_end() {
    let folder = tampered(1e9);
    let destination = folder.path().join("out.gguf");
    let source = Checkpoint::open(folder.path()).unwrap();
    let request = Request { scheme: Scheme::Q4, destination: &destination, name: "x", extra: &[] };
    let mut restarts = 0;
    let end = quantize(&source, &request, &AtomicBool::new(false), &mut |at| {
        restarts += usize::from(at.tensor == "token_embd.weight" && at.done_bytes == 0);
    });
    assert_eq!(restarts, 3, "Q4, Q8 and FP16 were tried");
    assert!(end.unwrap_err().to_string().contains("half-precision"));
}

#[test]
fn cancelling_stops_between_pieces_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let destination = folder.path().join("out.gguf");
    let source = Checkpoint::open(&fixture("tiny-millm")).unwrap();
    let request = Request { scheme: Scheme::Q4, destination: &destination, name: "x", extra: &[] };
    let cancel = AtomicBool::new(false);
    let mut after = 0;
    let end = quantize(&source, &request, &cancel, &mut |at| {
        if cancel.load(std::sync::atomic::Ordering::Relaxed) {
            after += 1;
        }
        if at.tensor == "blk.0.ffn_up.weight" {
            cancel.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    });
    assert!(matches!(end, Err(Error::Cancelled)));
    assert_eq!(after, 0);
    assert!(!destination.exists());
}

#[test]
fn quantized_sources_and_the_source_itself_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |source: &Path, destination: &Path| {
        let request = Request { scheme: Scheme::Q4, destination, name: "x", extra: &[] };
        let source = Checkpoint::open(source).unwrap();
        quantize(&source, &request, &AtomicBool::new(false), &mut |_| {}).unwrap_err().to_string()
    };
    let kept = folder.path().join("kept");
    std::fs::write(&kept, "mine").unwrap();
    let text = refused(&fixture("tiny-millm-gguf").join("tiny-Q8_0.gguf"), &kept);
    assert!(text.contains("is Q8_0 already"), "{text}");
    assert!(kept.exists());
    let copy = folder.path().join("tiny.gguf");
    std::fs::copy(fixture("tiny-millm-gguf").join("tiny-f16.gguf"), &copy).unwrap();
    assert!(refused(&copy, &copy).contains("a file of the source"));
    assert!(copy.metadata().unwrap().len() > 1 << 20);
}

#[test]
fn narrowing_to_f16_rounds_to_nearest() {
    let folder = tempfile::tempdir().unwrap();
    let source = Checkpoint::open(&fixture("families/llama")).unwrap();
    let (_, made) = run(&fixture("families/llama"), Scheme::Fp16, &folder);
    let (a, b) = (source.tensor("output.weight").unwrap(), made.tensor("output.weight").unwrap());
    assert_eq!((a.info.ty, b.info.ty), (TensorType::F32, TensorType::F16));
    let narrowed: Vec<f32> = values(&a).into_iter().map(|v| f16::from_f32(v).to_f32()).collect();
    assert_eq!(narrowed, values(&b));
}

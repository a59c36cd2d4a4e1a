//! Compares written files with those that llama.cpp's converter makes of the same weights (`tests/tools/converted.py`).

use std::path::PathBuf;

use serde_json::Value as Json;
use sha2::{Digest as _, Sha256};

use super::*;
use crate::formats::gguf::{GgufFile, GgufTensor};

/// Keys whose values differ, because the converter's values would not describe the model.
const DIFFERING: &[(&str, &str)] = &[
    // The converter writes four times the hidden size, whatever the model has.
    ("phi", "phi2.feed_forward_length"),
    // The converter writes 0 for no window.
    ("phi3", "phi3.attention.sliding_window"),
    // The converter writes these without any scaling.
    ("phi3", "phi3.rope.scaling.original_context_length"),
    ("cohere", "command-r.rope.scaling.type"),
    ("cohere2", "cohere2.rope.scaling.type"),
];

fn families() -> Vec<PathBuf> {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/families"));
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn equal(ours: &Value, theirs: &Json) -> bool {
    match (ours, theirs) {
        (Value::String(a), Json::String(b)) => a == b,
        (Value::Bool(a), Json::Bool(b)) => a == b,
        (a, b) => match (a.as_u64().map(|a| a as f64).or(a.as_f64()), b.as_f64()) {
            (Some(a), Some(b)) => (a - b).abs() <= 1e-6 * b.abs(),
            _ => false,
        },
    }
}

fn digest(file: &GgufFile, tensor: &GgufTensor) -> String {
    Sha256::digest(file.bytes(tensor)).iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

#[test]
fn every_family_is_written_as_the_converter_writes_it() {
    for folder in families() {
        let family = folder.file_name().unwrap().to_str().unwrap();
        let text = std::fs::read_to_string(folder.join("converted.json")).unwrap();
        let theirs: Json = serde_json::from_str(&text).unwrap();
        let made = tempfile::NamedTempFile::new().unwrap();
        let request = Request { scheme: Scheme::Fp32, destination: made.path(), name: family, extra: &[] };
        let source = Checkpoint::open(&folder).unwrap();
        quantize(&source, &request, &AtomicBool::new(false), &mut |_| {}).unwrap();
        let ours = GgufFile::open(made.path()).unwrap();
        let header = ours.header();
        for (key, value) in theirs["metadata"].as_object().unwrap() {
            let as_ours = header.metadata.get(key).is_some_and(|ours| equal(ours, value));
            let differs = DIFFERING.contains(&(family, key.as_str()));
            assert!(as_ours || differs, "{family}: {key} = {:?}, theirs {value}", header.metadata.get(key));
        }
        let tensors = theirs["tensors"].as_object().unwrap();
        for tensor in &header.tensors {
            let theirs = tensors.get(&tensor.name).unwrap_or_else(|| panic!("{family}: {}", tensor.name));
            let as_ours = serde_json::json!([tensor.shape, digest(&ours, tensor)]);
            // The converter computes divisors in f32, this crate from the frequencies: the last bit differs.
            let close = tensor.name.starts_with("rope_");
            assert!(*theirs == as_ours || close, "{family}: {}: {as_ours}, theirs {theirs}", tensor.name);
        }
        assert_eq!(header.tensors.len(), tensors.len(), "{family}");
    }
}

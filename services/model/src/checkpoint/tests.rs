//! Checkpoints of every kind: the fixtures open, damaged copies are refused with the reason.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::error::Error;

fn fixtures() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures")).to_owned()
}

/// A copy of a fixture's folder that may be damaged.
fn copy(model: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for entry in fs::read_dir(fixtures().join(model)).expect("fixtures are in tests/fixtures") {
        let entry = entry.expect("readable");
        fs::copy(entry.path(), folder.path().join(entry.file_name())).expect("copyable");
    }
    folder
}

fn refused(path: &Path, expected: &str) {
    match Checkpoint::open(path) {
        Err(error) => assert!(error.to_string().contains(expected), "'{error}' does not say '{expected}'"),
        Ok(_) => panic!("opened, though: {expected}"),
    }
}

#[test]
fn every_safetensors_fixture_opens() {
    let families = fs::read_dir(fixtures().join("families")).expect("fixtures are in tests/fixtures");
    let families = families.map(|entry| entry.expect("readable").path());
    for model in families.chain([fixtures().join("tiny-millm")]) {
        let checkpoint =
            Checkpoint::open(&model).unwrap_or_else(|error| panic!("{}: {error}", model.display()));
        assert_eq!(checkpoint.parameter_count(), checkpoint.spec().parameter_count());
        for info in checkpoint.tensors() {
            let tensor = checkpoint.tensor(&info.name).expect("listed");
            assert_eq!(Some(tensor.bytes.len() as u64), info.ty.bytes_for(&info.shape), "{}", info.name);
        }
        assert!(!checkpoint.has("output.weight") || !checkpoint.spec().tied_embeddings);
        assert!(checkpoint.config_json().is_some());
        assert!(checkpoint.tensor("blk.99.attn_q.weight").is_err());
    }
}

#[test]
fn gguf_says_the_same_as_safetensors() {
    let source = Checkpoint::open(&fixtures().join("tiny-millm")).expect("good");
    for file in ["f16", "Q8_0", "Q4_K_M", "Q4_0", "Q2_K"] {
        let path = fixtures().join(format!("tiny-millm-gguf/tiny-{file}.gguf"));
        let gguf = Checkpoint::open(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
        let mut spec = gguf.spec().clone();
        assert_eq!(spec.ropes[0].layout, crate::arch::kinds::RopeLayout::Interleaved);
        spec.ropes[0].layout = crate::arch::kinds::RopeLayout::Half;
        assert!((spec.norm.eps - source.spec().norm.eps).abs() < 1e-10);
        spec.norm.eps = source.spec().norm.eps;
        spec.eos_token_ids.sort_unstable();
        let mut expected = source.spec().clone();
        expected.eos_token_ids.sort_unstable();
        assert_eq!(format!("{spec:?}"), format!("{expected:?}"));
        assert_eq!(gguf.parameter_count(), source.parameter_count());
        assert_eq!(gguf.files().len(), 1);
    }
}

#[test]
fn shards_are_joined() {
    let folder = copy("families/llama");
    fs::remove_file(folder.path().join("reference.safetensors")).expect("removable");
    let whole = folder.path().join("model.safetensors");
    let bytes = fs::read(&whole).expect("readable");
    let tensors = ::safetensors::SafeTensors::deserialize(&bytes).expect("good");
    let mut names: Vec<String> = tensors.names().into_iter().map(str::to_owned).collect();
    names.sort();
    let half = names.len() / 2;
    let mut map = serde_json::Map::new();
    for (shard, names) in [("a.safetensors", &names[..half]), ("b.safetensors", &names[half..])] {
        let views = names.iter().map(|name| (name.as_str(), tensors.tensor(name).expect("listed")));
        let data = ::safetensors::serialize(views, None).expect("serializable");
        fs::write(folder.path().join(shard), data).expect("writable");
        map.extend(names.iter().map(|name| (name.clone(), shard.into())));
    }
    fs::remove_file(&whole).expect("removable");
    refused(folder.path(), "several files");
    let index = folder.path().join("model.safetensors.index.json");
    let write = |map: &serde_json::Map<String, serde_json::Value>| {
        fs::write(&index, serde_json::json!({ "weight_map": map }).to_string()).expect("writable");
    };
    write(&map);
    let sharded = Checkpoint::open(folder.path()).expect("good");
    let source = Checkpoint::open(&fixtures().join("families/llama")).expect("good");
    for info in source.tensors() {
        let (a, b) = (sharded.tensor(&info.name).expect("there"), source.tensor(&info.name).expect("there"));
        assert_eq!(a.bytes, b.bytes, "{}", info.name);
    }

    let mut wrong = map.clone();
    wrong.insert(names[0].clone(), "b.safetensors".into());
    write(&wrong);
    refused(folder.path(), "is not in it");
    wrong.insert(names[0].clone(), "../a.safetensors".into());
    write(&wrong);
    refused(folder.path(), "plain");
    wrong.insert(names[0].clone(), "c.safetensors".into());
    write(&wrong);
    refused(folder.path(), "c.safetensors: is missing");
    fs::copy(folder.path().join("a.safetensors"), folder.path().join("c.safetensors")).expect("copyable");
    refused(folder.path(), "too");
}

#[test]
fn damage_is_named() {
    let folder = copy("families/qwen2");
    let weights = folder.path().join("model.safetensors");
    let good = fs::read(&weights).expect("readable");
    let config = folder.path().join("config.json");
    let good_config = fs::read_to_string(&config).expect("readable");

    fs::write(&weights, &good[..good.len() - 10]).expect("writable");
    refused(folder.path(), "after the file");
    fs::write(&weights, b"").expect("writable");
    refused(folder.path(), "0 bytes");
    fs::write(&weights, &good).expect("writable");

    fs::write(&config, good_config.replace("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 4"))
        .expect("writable");
    refused(folder.path(), "layer_types");
    let longer = good_config
        .replace("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 4")
        .replace("\"layer_types\"", "\"_layer_types\"");
    fs::write(&config, longer).expect("writable");
    refused(folder.path(), "'blk.3.attn_norm.weight' (model.layers.3.input_layernorm.weight) is missing");
    fs::write(&config, good_config.replace("\"intermediate_size\": 128", "\"intermediate_size\": 96"))
        .expect("writable");
    refused(folder.path(), "has shape [128, 64], the config asks for [96, 64]");

    fs::remove_file(&config).expect("removable");
    refused(folder.path(), "config.json");
    fs::write(&config, &good_config).expect("writable");
    fs::rename(&weights, folder.path().join("pytorch_model.bin")).expect("renamable");
    fs::remove_file(folder.path().join("reference.safetensors")).expect("removable");
    assert!(matches!(Checkpoint::open(folder.path()), Err(Error::PickleOnly { .. })));
}

#[test]
fn a_gguf_file_in_a_folder_uses_the_files_beside_it() {
    let folder = copy("tiny-millm");
    fs::remove_file(folder.path().join("model.safetensors")).expect("removable");
    fs::copy(fixtures().join("tiny-millm-gguf/tiny-Q4_0.gguf"), folder.path().join("model.gguf"))
        .expect("copyable");
    let checkpoint = Checkpoint::open(folder.path()).expect("good");
    assert!(checkpoint.gguf_metadata().is_some());
    assert!(checkpoint.files().len() > 3);
    let files = checkpoint.tokenizer_files();
    assert!(files.tokenizer.is_some() && files.metadata.is_some_and(|pairs| pairs.iter().count() > 5));
    let alone = Checkpoint::open(&fixtures().join("tiny-millm-gguf/tiny-Q4_0.gguf")).expect("good");
    let files = alone.tokenizer_files();
    assert!(files.tokenizer.is_none() && files.metadata.is_some());
    assert_eq!(checkpoint.generation_defaults(), crate::GenerationDefaults::default());
    let bytes = fs::read(folder.path().join("model.gguf")).expect("readable");
    fs::write(folder.path().join("model.gguf"), &bytes[..bytes.len() / 2]).expect("writable");
    refused(folder.path(), "past the end");
}

#[test]
fn checkpoints_cross_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Checkpoint>();
}

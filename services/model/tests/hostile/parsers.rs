//! Runs each parser of the crate over damaged copies of the fixtures.

use std::fs;
use std::path::{Path, PathBuf};

use millm_model::gguf::GgufHeader;
use millm_model::safetensors::{SafetensorsHeader, ShardIndex};
use millm_model::{
    Checkpoint, GenerationDefaults, HeaderPrefix, ModelSpec, RopeFactors, requires_custom_code,
};

use crate::survive::survives;

pub fn fixtures() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures")).to_owned()
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Reads this file of every model that has it.
fn all(file: &str) -> Vec<Vec<u8>> {
    let families = fs::read_dir(fixtures().join("families")).expect("fixtures are in tests/fixtures");
    let mut folders: Vec<PathBuf> = families.map(|entry| entry.expect("readable").path()).collect();
    folders.sort();
    folders.push(fixtures().join("tiny-millm"));
    folders
        .iter()
        .map(|folder| folder.join(file))
        .filter(|path| path.is_file())
        .map(|path| read(&path))
        .collect()
}

/// Returns the header of the smallest GGUF file.
fn gguf_head() -> Vec<u8> {
    let mut file = read(&fixtures().join("tiny-millm-gguf/tiny-Q2_K.gguf"));
    let header =
        GgufHeader::parse("good", &file, file.len() as u64).expect("good").complete().expect("whole");
    file.truncate(header.data_start as usize);
    file
}

/// The length of the original file, so that tensors can lie within the damaged one.
const GGUF_LENGTH: u64 = 1_650_240;

#[test]
fn gguf_headers() {
    survives(3_000, vec![gguf_head()], |bytes| {
        let _ = GgufHeader::parse("bad.gguf", bytes, GGUF_LENGTH.max(bytes.len() as u64));
    });
}

#[test]
fn gguf_models() {
    survives(150, vec![gguf_head()], |bytes| {
        let parsed = GgufHeader::parse("bad.gguf", bytes, GGUF_LENGTH.max(bytes.len() as u64));
        let Some(header) = parsed.ok().and_then(HeaderPrefix::complete) else { return };
        let _ = ModelSpec::from_gguf(&header, &RopeFactors::unread(&header));
    });
}

fn safetensors_head(mut file: Vec<u8>) -> Vec<u8> {
    let length = u64::from_le_bytes(file[..8].try_into().expect("eight bytes"));
    file.truncate(8 + length as usize);
    file
}

fn safetensors_heads() -> Vec<Vec<u8>> {
    all("model.safetensors").into_iter().map(safetensors_head).collect()
}

#[test]
fn safetensors_headers() {
    survives(5_000, safetensors_heads(), |bytes| {
        let _ = SafetensorsHeader::parse("bad.safetensors", bytes, 1 << 23);
        let _ = SafetensorsHeader::parse("bad.safetensors", bytes, bytes.len() as u64);
    });
}

#[test]
fn shard_indices() {
    let index = br#"{"metadata": {"total_size": 288}, "weight_map": {
        "model.embed_tokens.weight": "model-00001-of-00002.safetensors",
        "model.norm.weight": "model-00002-of-00002.safetensors"}}"#;
    survives(5_000, vec![index.to_vec()], |bytes| {
        let _ = ShardIndex::parse(&String::from_utf8_lossy(bytes));
    });
}

#[test]
fn configs() {
    survives(10_000, all("config.json"), |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let _ = requires_custom_code(&text);
        if let Ok(spec) = ModelSpec::from_config_json(&text, Some(&text)) {
            // The size of an accepted model can be computed.
            let _ = spec.parameter_count();
        }
    });
}

#[test]
fn generation_configs() {
    survives(5_000, all("generation_config.json"), |bytes| {
        let _ = GenerationDefaults::from_json(&String::from_utf8_lossy(bytes));
    });
}

/// Opens a folder whose weights have a damaged header, and reads all tensors.
fn open(family: &str, head: &[u8]) {
    let source = fixtures().join("families").join(family);
    let length = fs::metadata(source.join("model.safetensors")).expect("a fixture").len() as usize;
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::copy(source.join("config.json"), folder.path().join("config.json")).expect("copyable");
    // The file keeps its length, so that tensors can lie within it.
    let mut file = head.to_vec();
    file.resize(file.len().max(length), 0);
    fs::write(folder.path().join("model.safetensors"), file).expect("writable");
    let Ok(checkpoint) = Checkpoint::open(folder.path()) else { return };
    for tensor in checkpoint.tensors() {
        let data = checkpoint.tensor(&tensor.name).expect("listed");
        assert_eq!(data.bytes.len() as u64, tensor.bytes);
    }
    let _ = checkpoint.tokenizer_files();
}

macro_rules! checkpoints {
    ($($test:ident $family:literal)*) => { $(
        #[test]
        fn $test() {
            let weights = fixtures().join("families").join($family).join("model.safetensors");
            survives(100, vec![safetensors_head(read(&weights))], |bytes| open($family, bytes));
        }
    )* };
}

// Families that store tensors alone, transposed, fused, stacked, stacked and transposed, and with separate scales.
checkpoints! {
    checkpoints "llama"
    transposed_checkpoints "gpt2"
    fused_checkpoints "gpt_neox"
    stacked_checkpoints "qwen3_moe"
    transposed_stacks "gpt_oss"
    packed_checkpoints "gpt_oss-mxfp4"
}

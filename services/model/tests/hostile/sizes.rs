//! Each large file is refused within its budget, with an error that names what was found.

use std::time::Duration;

use crate::budget::{self, Budget};
use millm_model::HeaderPrefix;
use millm_model::gguf::GgufHeader;
use millm_model::parse_object;
use millm_model::safetensors::{SafetensorsHeader, ShardIndex};
use millm_model::{GenerationDefaults, ModelSpec, RopeFactors};

use crate::large::{self, Case};

/// Bytes beyond the file itself.
const MEMORY: usize = 288 << 20;

fn refused(cases: Vec<Case>, parse: fn(&[u8]) -> Result<(), String>) {
    for (expected, file) in cases {
        let budget = Budget { memory: MEMORY, time: Duration::from_secs(120), stack: 8 << 20 };
        match budget::run(budget, "large", move || parse(&file)) {
            Ok(Err(why)) => {
                assert!(why.contains(expected), "'{why}' does not say '{expected}'");
                assert!(why.len() < 1000, "{expected}: {} bytes of message", why.len());
            }
            other => panic!("{expected}: {other:?}"),
        }
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("cases are text")
}

fn gguf(bytes: &[u8]) -> Result<GgufHeader, String> {
    match GgufHeader::parse("x.gguf", bytes, bytes.len() as u64) {
        Ok(HeaderPrefix::Complete(header)) => Ok(header),
        Ok(HeaderPrefix::NeedMore(more)) => panic!("{more} bytes of {}", bytes.len()),
        Err(error) => Err(error.to_string()),
    }
}

fn gguf_spec(bytes: &[u8]) -> Result<ModelSpec, String> {
    let header = gguf(bytes)?;
    ModelSpec::from_gguf(&header, &RopeFactors::unread(&header)).map_err(|error| error.to_string())
}

#[test]
fn safetensors_headers() {
    refused(large::safetensors(), |bytes| {
        let parsed = SafetensorsHeader::parse("x.safetensors", bytes, bytes.len() as u64);
        parsed.map(drop).map_err(|error| error.to_string())
    });
}

#[test]
fn shard_indices() {
    refused(large::indices(), |bytes| {
        ShardIndex::parse(text(bytes)).map(drop).map_err(|error| error.to_string())
    });
}

#[test]
fn configs() {
    refused(large::objects(), |bytes| {
        ModelSpec::from_config_json(text(bytes), None).map(drop).map_err(|error| error.to_string())
    });
}

#[test]
fn generation_configs() {
    refused(large::objects(), |bytes| {
        GenerationDefaults::from_json(text(bytes)).map(drop).map_err(|error| error.to_string())
    });
}

#[test]
fn tokenizer_configs() {
    refused(large::objects(), |bytes| {
        parse_object("tokenizer_config.json", text(bytes)).map(drop).map_err(|error| error.to_string())
    });
}

#[test]
fn gguf_headers() {
    refused(large::gguf(), |bytes| gguf(bytes).map(drop));
    refused(large::gguf_models(), |bytes| gguf_spec(bytes).map(drop));
}

#[test]
fn a_gguf_file_of_many_tensors_is_read_in_one_pass() {
    let file = large::gguf_of_many_tensors();
    let budget = Budget { memory: MEMORY, time: Duration::from_secs(120), stack: 8 << 20 };
    let spec = budget::run(budget, "large", move || gguf_spec(&file)).expect("within");
    assert_eq!(spec.expect("good").layer_specs.len(), 4096);
}

/// Sizes that a config claims are checked before anything is allocated for them.
#[test]
fn absurd_sizes() {
    let good = r#""architectures":["Qwen3MoeForCausalLM"],"model_type":"qwen3_moe","hidden_size":64,
        "num_hidden_layers":4,"num_attention_heads":4,"vocab_size":100,"intermediate_size":64,
        "moe_intermediate_size":64,"num_experts":4,"num_experts_per_tok":2"#;
    let spec = |text: &str| ModelSpec::from_config_json(text, None);
    assert!(spec(&format!("{{{good}}}")).is_ok());
    for (field, value) in [
        ("num_hidden_layers", "1000000000"),
        ("vocab_size", "1099511627776"),
        ("num_experts", "1000000000"),
        ("num_experts_per_tok", "1000000000"),
        ("hidden_size", "18446744073709551615"),
        ("intermediate_size", "1099511627776"),
        ("num_attention_heads", "1000000000"),
        ("head_dim", "1000000000"),
        ("max_position_embeddings", "18446744073709551615"),
    ] {
        let why = spec(&format!("{{{good},\"{field}\":{value}}}")).expect_err(field).to_string();
        assert!(why.contains(field) && why.contains("from 1 to"), "{why}");
    }
    // Two sizes, each within its own limit.
    let why =
        spec(&format!("{{{good},\"num_hidden_layers\":4096,\"num_experts\":4096}}")).expect_err("too many");
    assert!(why.to_string().contains("over 65536"), "{why}");
    let listed =
        format!("{{{good},\"num_hidden_layers\":4096,\"mlp_only_layers\":[{}0]}}", "9,".repeat(500_000));
    assert!(spec(&listed).is_ok());
}

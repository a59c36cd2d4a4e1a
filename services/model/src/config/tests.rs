//! config.json: fixtures, both styles, and configs that must be refused.

use serde_json::{Map, Value};

use super::fields::{CONFIG_FILE, GENERATION_FILE};
use super::*;
use crate::arch::spec::ModelSpec;
use crate::error::Error;
use crate::formats::json::parse_object;
use crate::tensor::TensorType;

fn fixture(model: &str, file: &str) -> String {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures");
    std::fs::read_to_string(format!("{root}/{model}/{file}")).expect("fixtures are in tests/fixtures")
}

fn spec(model: &str) -> ModelSpec {
    ModelSpec::from_config_json(&fixture(model, CONFIG_FILE), Some(&fixture(model, GENERATION_FILE)))
        .expect("a good config")
}

fn windows(spec: &ModelSpec) -> Vec<Option<usize>> {
    spec.layer_specs.iter().map(|layer| layer.window).collect()
}

fn base() -> Map<String, Value> {
    parse_object(CONFIG_FILE, &fixture("tiny-millm", CONFIG_FILE)).expect("a JSON object")
}

fn with(changes: &[(&str, &str)]) -> String {
    let mut config = base();
    for (key, value) in changes {
        if *value == "absent" {
            config.remove(*key);
        } else {
            config.insert((*key).to_owned(), serde_json::from_str(value).expect("JSON"));
        }
    }
    Value::Object(config).to_string()
}

#[test]
fn fixtures_are_read() {
    let tiny = spec("tiny-millm");
    assert_eq!((tiny.layers, tiny.hidden_size, tiny.heads, tiny.kv_heads, tiny.head_dim), (4, 256, 8, 4, 32));
    assert_eq!((tiny.intermediate_size, tiny.vocabulary_size, tiny.context_length), (768, 2048, 2048));
    assert_eq!((tiny.bos_token_id, tiny.eos_token_ids.as_slice()), (Some(0), &[2, 0][..]));
    assert!(tiny.tied_embeddings && !tiny.qkv_bias && !tiny.output_bias && !tiny.mlp_bias);
    assert_eq!(windows(&tiny), vec![None; 4]);
    assert_eq!(tiny.ropes[0].inverse_frequencies.len(), 16);

    assert_eq!(windows(&spec("families/mistral")), vec![Some(8); 3]);
    let qwen = spec("families/qwen2");
    assert!(qwen.qkv_bias && !qwen.output_bias);
    assert_eq!(windows(&qwen), vec![None; 3]);
    let scaled = spec("families/llama3-rope").ropes.remove(0).inverse_frequencies;
    let plain = spec("families/llama").ropes.remove(0).inverse_frequencies;
    assert!(scaled[7] < plain[7] / 7.9 && (scaled[0] - plain[0]).abs() < 1e-9);
}

#[test]
fn both_styles_say_the_same() {
    let new = with(&[("rope_parameters", r#"{"rope_theta": 5e5, "rope_type": "linear", "factor": 4}"#)]);
    let old = with(&[
        ("rope_parameters", "absent"),
        ("rope_theta", "500000.0"),
        ("rope_scaling", r#"{"type": "linear", "factor": 4.0}"#),
    ]);
    let read = |text: &str| ModelSpec::from_config_json(text, None).expect("good").ropes;
    assert_eq!(read(&new), read(&old));
}

#[test]
fn defaults_are_those_of_the_config_class() {
    let config = with(&[
        ("architectures", r#"["MistralForCausalLM"]"#),
        ("model_type", r#""mistral""#),
        ("num_key_value_heads", "absent"),
        ("max_position_embeddings", "absent"),
        ("head_dim", "null"),
    ]);
    let spec = ModelSpec::from_config_json(&config, None).expect("good");
    assert_eq!((spec.kv_heads, spec.context_length, spec.head_dim), (8, 131_072, 32));
    assert_eq!(windows(&spec), vec![Some(4096); 4]);
    let by_type = ModelSpec::from_config_json(&with(&[("architectures", "absent")]), None).expect("good");
    assert_eq!(by_type.architecture, "LlamaForCausalLM");
}

/// gpt-oss-20b as it is published, and what its config class has for most of that.
#[test]
fn gpt_oss_is_read_packed_or_not() {
    let types = ["sliding_attention", "full_attention"].repeat(12);
    let published = serde_json::json!({
        "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "attention_bias": true,
        "eos_token_id": 200_002, "experts_per_token": 4, "head_dim": 64, "hidden_act": "silu", "hidden_size": 2880,
        "initial_context_length": 4096, "intermediate_size": 2880, "layer_types": types,
        "max_position_embeddings": 131_072, "num_attention_heads": 64, "num_experts_per_tok": 4,
        "num_hidden_layers": 24, "num_key_value_heads": 8, "num_local_experts": 32, "pad_token_id": 199_999,
        "quantization_config": {"modules_to_not_convert": ["lm_head"], "quant_method": "mxfp4"},
        "rms_norm_eps": 1e-5, "rope_theta": 150_000, "rope_scaling": {
            "beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "original_max_position_embeddings": 4096,
            "rope_type": "yarn", "truncate": false
        },
        "sliding_window": 128, "swiglu_limit": 7.0, "tie_word_embeddings": false, "vocab_size": 201_088,
    });
    let read = |config: &Value| ModelSpec::from_config_json(&config.to_string(), None);
    let published = read(&published).expect("good");
    assert_eq!(published.parameter_count(), 20_914_757_184);
    assert_eq!(published.experts.expect("there").packed, Some(TensorType::MXFP4));
    let mut least = serde_json::json!({
        "model_type": "gpt_oss", "num_hidden_layers": 24, "hidden_size": 2880, "num_local_experts": 32,
    });
    let unpacked = read(&least).expect("good");
    assert_eq!(unpacked.experts.expect("there").packed, None);
    assert_eq!(unpacked.layer_specs, published.layer_specs);
    assert_eq!(unpacked.ropes, published.ropes);
    assert_eq!(unpacked.activation, published.activation);
    assert_eq!(unpacked.expected_tensors(), published.expected_tensors());
    let bytes = |spec: &ModelSpec| {
        let bytes = |tensor| spec.published_type(&tensor).bytes_for(&tensor.shape);
        spec.expected_tensors().into_iter().filter_map(bytes).sum::<u64>()
    };
    assert_eq!(bytes(&unpacked), 2 * published.parameter_count());
    // Beside vectors, of which it has in f32 what is bf16 here.
    assert_eq!(bytes(&published), 13_761_264_768);
    for packing in [
        serde_json::json!({"quant_method": "gptq"}),
        serde_json::json!({"bits": 4}),
        serde_json::json!({"quant_method": "mxfp4", "bits": 4}),
    ] {
        least["quantization_config"] = packing;
        let error = read(&least).expect_err("another packing").to_string();
        assert!(error.contains("quantization_config"), "{error}");
    }
}

#[test]
fn qwen2_windows_follow_the_layer_types() {
    let read = |changes: &[(&str, &str)]| {
        let mut all = vec![("architectures", r#"["Qwen2ForCausalLM"]"#), ("model_type", r#""qwen2""#)];
        all.extend_from_slice(changes);
        ModelSpec::from_config_json(&with(&all), None).map(|spec| windows(&spec))
    };
    let on = ("use_sliding_window", "true");
    let window = ("sliding_window", "16");
    assert_eq!(read(&[window]).expect("off"), vec![None; 4]);
    let upper = read(&[on, window, ("max_window_layers", "3")]).expect("good");
    assert_eq!(upper, vec![None, None, None, Some(16)]);
    let types = r#"["sliding_attention","full_attention","full_attention","sliding_attention"]"#;
    assert_eq!(
        read(&[on, window, ("layer_types", types)]).expect("good"),
        vec![Some(16), None, None, Some(16)]
    );
    assert!(matches!(read(&[("layer_types", types)]), Err(Error::InvalidFile { .. })));
    assert!(matches!(read(&[("layer_types", r#"["full_attention"]"#)]), Err(Error::InvalidFile { .. })));
}

#[test]
fn bad_values_name_the_field() {
    for (field, value) in [
        ("num_attention_heads", "0"),
        ("num_attention_heads", "-8"),
        ("num_attention_heads", "8.5"),
        ("num_attention_heads", "\"8\""),
        ("num_attention_heads", "absent"),
        ("hidden_size", "255"),
        ("hidden_size", "1000000000000"),
        ("num_hidden_layers", "1000000000"),
        ("num_hidden_layers", "0"),
        ("num_key_value_heads", "3"),
        ("num_key_value_heads", "0"),
        ("head_dim", "31"),
        ("vocab_size", "18446744073709551615"),
        ("intermediate_size", "null"),
        ("max_position_embeddings", "9e99"),
        ("rms_norm_eps", "-1e-5"),
        ("rms_norm_eps", "0"),
        ("rms_norm_eps", "\"NaN\""),
        ("rms_norm_eps", "1e300"),
        ("rope_theta", "0"),
        ("rope_parameters", "[]"),
        ("tie_word_embeddings", "1"),
        ("attention_bias", "\"yes\""),
        ("eos_token_id", "-1"),
        ("eos_token_id", "[1, \"2\"]"),
        ("architectures", "[]"),
        ("architectures", "\"LlamaForCausalLM\""),
        ("architectures", "[7]"),
    ] {
        let text = if field == "architectures" && value == "[]" {
            with(&[(field, value), ("model_type", "absent")])
        } else {
            with(&[(field, value)])
        };
        match ModelSpec::from_config_json(&text, None) {
            Err(Error::InvalidFile { file, why }) => {
                assert!(
                    file.starts_with(CONFIG_FILE) && why.contains(field),
                    "{field} = {value}: {file}: {why}"
                );
            }
            other => panic!("{field} = {value}: {other:?}"),
        }
    }
}

#[test]
fn unsupported_settings_are_refused_by_name() {
    for (field, value, named) in [
        ("quantization_config", r#"{"quant_method": "gptq"}"#, "quantization_config"),
        ("rope_parameters", r#"{"rope_type": "ntk", "factor": 4}"#, "rope_parameters.rope_type"),
        ("rope_parameters", r#"{"mrope_section": [1, 2]}"#, "rope_parameters.mrope_section"),
        ("rope_parameters", r#"{"full_attention": {"rope_type": "default"}}"#, "rope_parameters"),
        ("rope_parameters", r#"{"partial_rotary_factor": 0.5}"#, "rope_parameters.partial_rotary_factor"),
        ("rope_scaling", r#"{"type": "longrope"}"#, "rope_scaling"),
        ("hidden_act", r#""quick_gelu""#, "hidden_act"),
        ("partial_rotary_factor", "0.5", "partial_rotary_factor"),
        ("attn_logit_softcapping", "50.0", "attn_logit_softcapping"),
        ("use_bidirectional_attention", "true", "use_bidirectional_attention"),
        ("num_local_experts", "8", "num_local_experts"),
        ("model_type", r#""granite""#, "model_type"),
        (
            "layer_types",
            r#"["sliding_attention","full_attention","full_attention","full_attention"]"#,
            "layer_types",
        ),
    ] {
        match ModelSpec::from_config_json(&with(&[(field, value)]), None) {
            Err(Error::UnsupportedField { field, .. }) => assert_eq!(field, named),
            other => panic!("{field} = {value}: {other:?}"),
        }
    }
    let harmless = with(&[
        ("partial_rotary_factor", "1.0"),
        ("num_local_experts", "0"),
        ("quantization_config", "null"),
    ]);
    assert!(ModelSpec::from_config_json(&harmless, None).is_ok());
}

#[test]
fn unknown_architectures_list_the_supported() {
    let error = ModelSpec::from_config_json(&with(&[("architectures", r#"["BertModel"]"#)]), None)
        .expect_err("unknown");
    let message = error.to_string();
    assert!(matches!(error, Error::UnsupportedArchitecture { .. }));
    assert!(message.contains("BertModel") && message.contains("Qwen2ForCausalLM"), "{message}");
}

#[test]
fn invalid_json_is_refused_with_its_place() {
    for text in [
        "",
        "{",
        "[]",
        "null",
        "\"x\"",
        r#"{"hidden_size": NaN}"#,
        r#"{"hidden_size": 1e999}"#,
        &"[".repeat(100_000),
    ] {
        match ModelSpec::from_config_json(text, None) {
            Err(Error::InvalidFile { file, .. }) => assert_eq!(file, CONFIG_FILE),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn custom_code_is_seen() {
    assert!(requires_custom_code(r#"{"auto_map": {"AutoModelForCausalLM": "modeling_x.X"}}"#));
    assert!(!requires_custom_code(r#"{"auto_map": {}}"#));
    assert!(!requires_custom_code(r#"{"auto_map": null}"#));
    assert!(!requires_custom_code("{}"));
}

#[test]
fn generation_defaults() {
    let text =
        r#"{"do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "repetition_penalty": 1.05}"#;
    let defaults = GenerationDefaults::from_json(text).expect("good");
    assert_eq!((defaults.temperature, defaults.top_k, defaults.min_p), (Some(0.6), Some(20), None));
    assert!(GenerationDefaults::from_json(r#"{"temperature": "hot"}"#).is_err());
    assert_eq!(GenerationDefaults::from_json("{}").expect("empty"), GenerationDefaults::default());
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in "\\PC*") {
        let _ = ModelSpec::from_config_json(&text, Some(&text));
    }

    #[test]
    fn no_number_anywhere_panics(index in 0_usize..24, number in proptest::num::f64::ANY) {
        let mut config = base();
        let key = config.keys().nth(index % config.len()).expect("there are keys").clone();
        config.insert(key, serde_json::json!(number));
        let _ = ModelSpec::from_config_json(&Value::Object(config).to_string(), None);
    }
}

//! Vocabularies as GGUF metadata.

use super::*;
use serde_json::json;

fn spec(vocabulary: usize) -> ModelSpec {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 1, "hidden_size": 32,
        "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": vocabulary,
        "bos_token_id": 0, "eos_token_id": [2, 1]
    });
    ModelSpec::from_config_json(&config.to_string(), None).unwrap()
}

fn described(tokenizer: &Json, config: &Json, vocabulary: usize) -> HashMap<String, Value> {
    let (tokenizer, config) = (tokenizer.to_string(), config.to_string());
    let published =
        Published { tokenizer: Some(&tokenizer), tokenizer_config: Some(&config), chat_template: None };
    describe(&published, &spec(vocabulary)).unwrap().into_iter().collect()
}

fn strings(list: &[&str]) -> Value {
    Value::Array(Array::String(list.iter().map(|&s| s.to_owned()).collect()))
}

#[test]
fn byte_level_bpe() {
    let tokenizer = json!({
        "added_tokens": [
            { "id": 0, "content": "<|end|>", "special": true },
            { "id": 5, "content": "<tool>", "special": false }
        ],
        "pre_tokenizer": { "type": "ByteLevel", "use_regex": true },
        "model": { "type": "BPE", "vocab": { "<|end|>": 0, "a": 1, "b": 2, "ab": 3 }, "merges": [["a", "b"]] }
    });
    let config = json!({ "eos_token": { "content": "b" }, "pad_token": "<|end|>", "chat_template": "T" });
    let keys = described(&tokenizer, &config, 7);
    let check = |key: &str, expected: &Value| assert_eq!(keys.get(key), Some(expected), "{key}");
    check("tokenizer.ggml.model", &Value::String("gpt2".into()));
    check("tokenizer.ggml.pre", &Value::String("gpt-2".into()));
    check("tokenizer.ggml.tokens", &strings(&["<|end|>", "a", "b", "ab", "[PAD4]", "<tool>", "[PAD6]"]));
    check("tokenizer.ggml.token_type", &Value::Array(Array::I32(vec![3, 1, 1, 1, 5, 4, 5])));
    check("tokenizer.ggml.merges", &strings(&["a b"]));
    check("tokenizer.ggml.bos_token_id", &Value::U32(0));
    check("tokenizer.ggml.eos_token_id", &Value::U32(2));
    check("tokenizer.ggml.eot_token_id", &Value::U32(1));
    check("tokenizer.ggml.padding_token_id", &Value::U32(0));
    check("tokenizer.ggml.add_bos_token", &Value::Bool(false));
    check("tokenizer.chat_template", &Value::String("T".into()));
}

#[test]
fn sentence_piece_bpe_scores_by_merge_order() {
    let tokenizer = json!({
        "added_tokens": [{ "id": 0, "content": "<unk>", "special": true }, { "id": 1, "content": "<s>", "special": true }],
        "normalizer": { "type": "Prepend", "prepend": "▁" },
        "pre_tokenizer": null,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }],
            "special_tokens": { "<s>": { "id": "<s>", "ids": [1], "tokens": ["<s>"] } }
        },
        "model": {
            "type": "BPE", "byte_fallback": true, "unk_token": "<unk>",
            "vocab": { "<unk>": 0, "<s>": 1, "<0x0A>": 2, "ab": 3, "abc": 4, "a": 5 },
            "merges": ["a b", "ab c", "a bc"]
        }
    });
    let keys = described(&tokenizer, &json!({ "bos_token": "<s>" }), 6);
    let check = |key: &str, expected: &Value| assert_eq!(keys.get(key), Some(expected), "{key}");
    check("tokenizer.ggml.model", &Value::String("llama".into()));
    check("tokenizer.ggml.token_type", &Value::Array(Array::I32(vec![2, 3, 6, 1, 1, 1])));
    check("tokenizer.ggml.scores", &Value::Array(Array::F32(vec![0.0, 0.0, 0.0, 0.0, -1.0, -3.0])));
    check("tokenizer.ggml.add_bos_token", &Value::Bool(true));
    check("tokenizer.ggml.add_space_prefix", &Value::Bool(true));
    assert!(!keys.contains_key("tokenizer.ggml.merges"));
}

#[test]
fn other_tokenizers_are_left_to_tokenizer_json() {
    let none = Value::String("none".into());
    let check = |tokenizer: &Json| {
        let keys = described(tokenizer, &json!({}), 4);
        assert_eq!(keys.get("tokenizer.ggml.model"), Some(&none), "{tokenizer}");
        assert!(!keys.contains_key("tokenizer.ggml.tokens"));
    };
    let bytes = json!({ "type": "ByteLevel" });
    check(&json!({ "model": { "type": "WordLevel", "vocab": { "a": 0 } } }));
    check(
        &json!({ "model": { "type": "BPE", "vocab": { "a": 0 } }, "pre_tokenizer": { "type": "Whitespace" } }),
    );
    check(&json!({ "model": { "type": "BPE", "vocab": { "a": 4 } }, "pre_tokenizer": bytes }));
    check(&json!({ "model": { "type": "BPE", "vocab": { "a": -1 } }, "pre_tokenizer": bytes }));
    check(&json!({
        "model": { "type": "BPE", "vocab": {} }, "pre_tokenizer": bytes, "added_tokens": [{ "id": 9, "content": "x" }]
    }));
    check(&json!([]));
}

#[test]
fn broken_files_are_named() {
    let published = Published { tokenizer: Some("{"), ..Published::default() };
    let error = describe(&published, &spec(4)).unwrap_err();
    assert!(error.to_string().starts_with("tokenizer.json: is not JSON"), "{error}");
}

#[test]
fn the_templates_own_file_wins() {
    let config = json!({ "chat_template": [{ "name": "tool", "template": "B" }, { "name": "default", "template": "A" }] });
    let published = Published::default();
    assert_eq!(chat_template(&published, &config).as_deref(), Some("A"));
    let published = Published { chat_template: Some("own"), ..published };
    assert_eq!(chat_template(&published, &config).as_deref(), Some("own"));
}

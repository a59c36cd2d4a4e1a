//! Tokenizers that are too much, made from the trained model's.

use serde_json::{Value, json};

use super::Named;
use crate::harness::fixture;

/// Returns texts of tokenizer.json. Each is made when it is needed, because some are large.
pub fn all() -> Vec<Named<fn() -> String>> {
    vec![
        ("8 replacements, each hundredfold", || with("normalizer", sequence("normalizers", replacements()))),
        ("a template of 100000 pieces", || with("post_processor", pieces(100_000, 1_000))),
        ("a charsmap of 40000 slashes", || {
            with("normalizer", json!({"type": "Precompiled", "precompiled_charsmap": "/".repeat(40_000)}))
        }),
        ("20 times a megabyte before it", || {
            let prepend = json!({"type": "Prepend", "prepend": "x".repeat(1 << 20)});
            with("normalizer", sequence("normalizers", vec![prepend; 20]))
        }),
        ("100 sequences in each other", || with("normalizer", nested(100))),
        ("a slow expression", || {
            let split = json!({"type": "Split", "pattern": {"Regex": "(x+x+)+y"}, "behavior": "Isolated", "invert": false});
            with("pre_tokenizer", split)
        }),
        ("an expression of 100000 groups", || {
            let pattern = format!("{}x{}", "(".repeat(100_000), ")".repeat(100_000));
            let split = json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
            with("pre_tokenizer", split)
        }),
        ("an id of 2^32 - 1", || with_token("far away", u64::from(u32::MAX))),
        ("an added token of 4 MB", || with_token(&"x".repeat(4 << 20), 1_800)),
        ("100000 added tokens", many_tokens),
        ("padding to a billion", || {
            let padding = json!({"strategy": {"Fixed": 1_000_000_000}, "direction": "Right", "pad_to_multiple_of": null,
                "pad_id": 0, "pad_type_id": 0, "pad_token": "x"});
            with("padding", padding)
        }),
        ("padding to a multiple of 2^40", || {
            let padding = json!({"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": 1_u64 << 40,
                "pad_id": 0, "pad_type_id": 0, "pad_token": "x"});
            with("padding", padding)
        }),
        ("a decoder that grows", || {
            let grow = json!({"type": "Replace", "pattern": {"String": "x"}, "content": "x".repeat(100)});
            with("decoder", sequence("decoders", vec![grow; 8]))
        }),
        ("merges of everything", merges),
    ]
}

/// Returns the trained model's tokenizer.json.
pub fn tiny() -> Value {
    let text = std::fs::read(fixture("tiny-millm/tokenizer.json")).expect("it is there");
    serde_json::from_slice(&text).expect("it is JSON")
}

fn with(part: &str, value: Value) -> String {
    let mut tokenizer = tiny();
    tokenizer[part] = value;
    tokenizer.to_string()
}

fn with_token(content: &str, id: u64) -> String {
    let mut tokenizer = tiny();
    let token = json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": false});
    tokenizer["added_tokens"].as_array_mut().expect("a list").push(token);
    tokenizer.to_string()
}

fn many_tokens() -> String {
    let mut tokenizer = tiny();
    let tokens = tokenizer["added_tokens"].as_array_mut().expect("a list");
    tokens.extend((0..100_000).map(|n| {
        json!({"id": 1_708 + n, "content": format!("<{n}>"), "single_word": false, "lstrip": true, "rstrip": true,
            "normalized": true, "special": n % 2 == 0})
    }));
    tokenizer.to_string()
}

fn replacements() -> Vec<Value> {
    vec![json!({"type": "Replace", "pattern": {"String": "x"}, "content": "x".repeat(100)}); 8]
}

fn sequence(parts: &str, list: Vec<Value>) -> Value {
    json!({"type": "Sequence", parts: list})
}

fn nested(n: usize) -> Value {
    (0..n).fold(json!({"type": "NFC"}), |inner, _| sequence("normalizers", vec![inner]))
}

/// Returns a TemplateProcessing that writes the same special token again and again.
fn pieces(count: usize, ids: usize) -> Value {
    let piece = json!({"SpecialToken": {"id": "x", "type_id": 0}});
    let mut single = vec![piece; count];
    single.push(json!({"Sequence": {"id": "A", "type_id": 0}}));
    let token = json!({"id": "x", "ids": vec![5; ids], "tokens": vec!["x"; ids]});
    json!({"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": {"x": token}})
}

/// Returns a tokenizer with a token for each length of x, each merged from the one before it.
fn merges() -> String {
    let mut tokenizer = tiny();
    let mut made = Vec::new();
    for n in 1..400 {
        let text = "x".repeat(n + 1);
        let next = tokenizer["model"]["vocab"].as_object().expect("an object").len();
        tokenizer["model"]["vocab"].as_object_mut().expect("an object").entry(text).or_insert(json!(next));
        made.push(json!(["x".repeat(n), "x"]));
    }
    tokenizer["model"]["merges"].as_array_mut().expect("a list").extend(made);
    tokenizer.to_string()
}

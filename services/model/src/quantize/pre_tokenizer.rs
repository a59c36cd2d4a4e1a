//! The pre-tokenizer of tokenizer.json under the name that llama.cpp has for it.

use serde_json::Value as Json;

use crate::pre_tokenizers::{GPT4O, LLAMA3, QWEN2, TEKKEN};

/// Split patterns with a name, as tokenizer.json has them.
const KNOWN: [(&str, &str); 4] =
    [(LLAMA3, "llama-bpe"), (QWEN2, "qwen2"), (TEKKEN, "tekken"), (GPT4O, "gpt-4o")];

/// Returns the steps of the pre-tokenizer.
fn steps(tokenizer: &Json) -> Vec<&Json> {
    let pre = &tokenizer["pre_tokenizer"];
    match pre["pretokenizers"].as_array() {
        Some(steps) => steps.iter().collect(),
        None if pre.is_object() => vec![pre],
        None => Vec::new(),
    }
}

/// Returns whether text becomes GPT-2's visible bytes.
pub(super) fn is_byte_level(tokenizer: &Json) -> bool {
    steps(tokenizer).iter().any(|step| step["type"] == "ByteLevel")
}

/// Returns llama.cpp's name of the pre-tokenizer, or `default` where llama.cpp has none that splits alike.
pub(super) fn name(tokenizer: &Json) -> &'static str {
    let steps = steps(tokenizer);
    let has = |kind: &str| steps.iter().any(|step| step["type"] == kind);
    let patterns: Vec<&str> = steps
        .iter()
        .filter(|step| step["type"] == "Split")
        .filter_map(|step| step["pattern"]["Regex"].as_str())
        .collect();
    let splits_as_gpt2 = steps.iter().any(|step| step["type"] == "ByteLevel" && step["use_regex"] != false);
    if !patterns.is_empty() {
        let known = KNOWN.iter().find(|(pattern, _)| patterns == [*pattern]);
        return known.filter(|_| !splits_as_gpt2 && !has("Digits")).map_or("default", |(_, name)| name);
    }
    let single_digits =
        steps.iter().any(|step| step["type"] == "Digits" && step["individual_digits"] == true);
    match (splits_as_gpt2, has("Digits")) {
        (true, false) => "gpt-2",
        (true, true) if single_digits => "smollm",
        _ => "default",
    }
}

/// Returns whether SentencePiece's leading space is added.
pub(super) fn adds_space_prefix(tokenizer: &Json) -> bool {
    let normalizer = &tokenizer["normalizer"];
    let normalizers = normalizer["normalizers"].as_array();
    let mut parts = normalizers.into_iter().flatten().chain(std::iter::once(normalizer));
    let metaspace = |step: &&Json| {
        step["type"] == "Metaspace" && step["prepend_scheme"] != "never" && step["add_prefix_space"] != false
    };
    parts.any(|part| part["type"] == "Prepend") || steps(tokenizer).iter().any(metaspace)
}

/// Returns whether the post-processor puts this token first.
pub(super) fn begins_with(tokenizer: &Json, bos: u32) -> bool {
    let post = &tokenizer["post_processor"];
    let steps = post["processors"].as_array();
    steps.into_iter().flatten().chain(std::iter::once(post)).any(|step| {
        let Some(first) = step["single"].get(0).and_then(|part| part["SpecialToken"]["id"].as_str()) else {
            return false;
        };
        let ids = step["special_tokens"][first]["ids"].as_array();
        ids.and_then(|ids| ids.first()).and_then(Json::as_u64) == Some(bos.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn known_splits_have_names() {
        let check = |pre: Json, expected: &str| {
            assert_eq!(name(&json!({ "pre_tokenizer": pre })), expected, "{pre}");
        };
        let bytes =
            |regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "use_regex": regex });
        let split = |known: &str| {
            let (pattern, _) = KNOWN.iter().find(|(_, name)| *name == known).unwrap();
            json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated" })
        };
        let sequence = |steps: &[Json]| json!({ "type": "Sequence", "pretokenizers": steps });
        check(bytes(true), "gpt-2");
        check(bytes(false), "default");
        check(json!({ "type": "ByteLevel" }), "gpt-2");
        check(sequence(&[split("llama-bpe"), bytes(false)]), "llama-bpe");
        check(sequence(&[split("qwen2"), bytes(false)]), "qwen2");
        check(sequence(&[split("tekken"), bytes(false)]), "tekken");
        check(sequence(&[split("gpt-4o"), bytes(false)]), "gpt-4o");
        check(sequence(&[split("qwen2"), bytes(true)]), "default");
        check(sequence(&[json!({ "type": "Digits", "individual_digits": true }), bytes(true)]), "smollm");
        check(sequence(&[json!({ "type": "Digits", "individual_digits": false }), bytes(true)]), "default");
        check(sequence(&[json!({ "type": "Split", "pattern": { "Regex": "x" } }), bytes(false)]), "default");
        check(Json::Null, "default");
    }

    #[test]
    fn the_first_token_is_the_post_processors() {
        let template = json!({
            "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "special_tokens": { "<s>": { "id": "<s>", "ids": [7], "tokens": ["<s>"] } }
        });
        let alone = json!({ "post_processor": template });
        let nested = json!({ "post_processor": { "type": "Sequence", "processors": [{ "type": "ByteLevel" }, template] } });
        assert!(begins_with(&alone, 7) && begins_with(&nested, 7));
        assert!(!begins_with(&alone, 8));
        assert!(!begins_with(&json!({ "post_processor": { "type": "ByteLevel" } }), 7));
        assert!(!begins_with(&json!({}), 7));
    }

    #[test]
    fn space_prefixes() {
        let check = |tokenizer: Json, expected: bool| {
            assert_eq!(adds_space_prefix(&tokenizer), expected, "{tokenizer}");
        };
        let prepend = json!({ "type": "Prepend", "prepend": "▁" });
        check(json!({ "normalizer": { "type": "Sequence", "normalizers": [prepend] } }), true);
        check(
            json!({ "normalizer": null, "pre_tokenizer": { "type": "Metaspace", "prepend_scheme": "first" } }),
            true,
        );
        check(json!({ "pre_tokenizer": { "type": "Metaspace", "prepend_scheme": "never" } }), false);
        check(json!({ "normalizer": null, "pre_tokenizer": null }), false);
    }
}

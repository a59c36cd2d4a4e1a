//! Tokenizers: the fixtures' ids from every source, streaming compared with decoding at once, and hostile tokenizers.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;
use millm_model::gguf::{Array, GgufFile, Metadata, Value};

fn fixtures() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures")).to_owned()
}

fn read(file: &str) -> String {
    std::fs::read_to_string(fixtures().join(file)).expect("fixtures are in tests/fixtures")
}

fn tiny() -> Tokenizer {
    let config = read("tiny-millm/tokenizer_config.json");
    Tokenizer::from_json(&read("tiny-millm/tokenizer.json"), Some(&config)).expect("good")
}

fn from_gguf(file: &str) -> Tokenizer {
    let file = GgufFile::open(&fixtures().join("tiny-millm-gguf").join(file)).expect("good");
    Tokenizer::from_gguf(&file.header().metadata).expect("good")
}

#[test]
fn every_reference_prompt_has_the_same_ids_from_every_source() {
    let cases: Vec<Json> = serde_json::from_str(&read("tiny-millm/reference_greedy.json")).expect("JSON");
    let mut sources = vec![("tokenizer.json".to_owned(), tiny())];
    for kind in ["f16", "Q8_0", "Q4_K_M", "Q4_0", "Q2_K"] {
        let file = format!("tiny-{kind}.gguf");
        sources.push((file.clone(), from_gguf(&file)));
    }
    for (source, tokenizer) in &sources {
        for case in &cases {
            let ids = |key: &str| -> Vec<u32> { serde_json::from_value(case[key].clone()).expect("ids") };
            let prompt = case["prompt"].as_str().expect("a prompt");
            assert_eq!(
                tokenizer.encode(prompt, false).expect("encodes"),
                ids("prompt_ids"),
                "{source}: {prompt}"
            );
            assert_eq!(
                tokenizer.encode(prompt, true).expect("encodes"),
                ids("prompt_ids"),
                "{source}: {prompt}"
            );
            assert_eq!(tokenizer.detokenizer().decode(&ids("prompt_ids"), false), prompt, "{source}");
            let text = case["greedy_text"].as_str().expect("a text");
            assert_eq!(tokenizer.detokenizer().decode(&ids("greedy_ids"), true), text, "{source}");
        }
        assert_eq!(tokenizer.detokenizer().special_ids(), [0, 1, 2], "{source}");
        assert_eq!(tokenizer.eos_id(), Some(2), "{source}");
        assert_eq!(tokenizer.detokenizer().token_bytes(2), b"<|im_end|>");
    }
    assert_eq!(sources[0].1.detokenizer().vocab_size(), sources[1].1.detokenizer().vocab_size());
}

#[test]
fn characters_of_many_tokens_come_whole() {
    let tokenizer = tiny();
    let text = "Grüße 你好 😀👩‍👩‍👧 ok\u{301}";
    let ids = tokenizer.encode(text, false).expect("encodes");
    assert!(ids.len() > text.chars().count() / 2);
    let mut decoder = tokenizer.detokenizer().decoder();
    let parts: Vec<String> = ids.iter().map(|&id| decoder.push(id)).collect();
    assert!(parts.iter().any(String::is_empty), "some characters take several tokens");
    assert!(parts.iter().all(|part| !part.contains('\u{fffd}')));
    assert_eq!(parts.concat() + &decoder.flush(), text);

    let half = tokenizer.encode("😀", false).expect("encodes")[0];
    assert_eq!((decoder.push(half), decoder.flush()), (String::new(), "\u{fffd}".to_owned()));
}

#[test]
fn a_character_a_token() {
    let path = "families/llama";
    let config = read(&format!("{path}/tokenizer_config.json"));
    let tokenizer =
        Tokenizer::from_json(&read(&format!("{path}/tokenizer.json")), Some(&config)).expect("good");
    let ids = tokenizer.encode("<s>a b</s>", false).expect("encodes");
    assert_eq!(ids, [1, 69, 4, 70, 2]);
    assert_eq!(tokenizer.detokenizer().decode(&ids, true), "a b");
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_id()), (Some(1), Some(2)));
    let variables: Vec<_> = tokenizer.template_variables().collect();
    assert_eq!(variables, [("bos_token", "<s>"), ("eos_token", "</s>"), ("pad_token", "<pad>")]);
}

/// A vocabulary in SentencePiece's form, with all bytes.
fn sentencepiece() -> Metadata {
    let mut tokens = vec!["<unk>".to_owned(), "<s>".to_owned(), "</s>".to_owned()];
    tokens.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    let mut kinds = vec![2, 3, 3];
    kinds.extend([6; 256]);
    let pieces = [
        "▁", "h", "e", "l", "o", "w", "r", "d", "he", "ll", "▁he", "▁hell", "▁hello", "or", "▁w", "▁wor",
        "▁world", "ld",
    ];
    let mut scores = vec![0.0; tokens.len()];
    for (place, piece) in pieces.iter().enumerate() {
        tokens.push((*piece).to_owned());
        kinds.push(1);
        scores.push(place as f32 - 100.0);
    }
    let mut metadata = Metadata::default();
    for (key, value) in [
        ("tokenizer.ggml.model", Value::String("llama".to_owned())),
        ("tokenizer.ggml.tokens", Value::Array(Array::String(tokens))),
        ("tokenizer.ggml.token_type", Value::Array(Array::I32(kinds))),
        ("tokenizer.ggml.scores", Value::Array(Array::F32(scores))),
        ("tokenizer.ggml.bos_token_id", Value::U32(1)),
        ("tokenizer.ggml.eos_token_id", Value::U32(2)),
    ] {
        metadata.set(key, Some(value));
    }
    metadata
}

#[test]
fn sentencepiece_from_gguf() {
    let tokenizer = Tokenizer::from_gguf(&sentencepiece()).expect("good");
    let texts = |text: &str| -> Vec<String> {
        let ids = tokenizer.encode(text, true).expect("encodes");
        ids.iter().map(|&id| tokenizer.token_text(id).expect("known")).collect()
    };
    assert_eq!(texts("hello world"), ["<s>", "▁hello", "▁world"]);
    assert_eq!(texts("hell word"), ["<s>", "▁hell", "▁wor", "d"]);
    assert_eq!(texts("é\n"), ["<s>", "▁", "<0xC3>", "<0xA9>", "<0x0A>"]);
    assert_eq!(texts("hello</s>world"), ["<s>", "▁hello", "</s>", "▁world"]);
    for text in ["hello world", " hello", "  two  spaces ", "é\n😀", "", "\n"] {
        let ids = tokenizer.encode(text, true).expect("encodes");
        assert_eq!(
            tokenizer.detokenizer().decode(&ids, true),
            text,
            "one leading space is SentencePiece's own"
        );
        assert_eq!(
            tokenizer.detokenizer().decode(&ids, true),
            tokenizer.inner.decode(&ids, true).expect("decodes")
        );
    }
    assert_eq!(tokenizer.detokenizer().token_bytes(tokenizer.token_id("▁he").expect("known")), b" he");
}

#[test]
fn post_processors_and_flags_say_what_surrounds_a_text() {
    let mut tokenizer: Json = serde_json::from_str(&read("families/llama/tokenizer.json")).expect("JSON");
    tokenizer["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}
    });
    let ids = |config: Json| {
        let tokenizer =
            Tokenizer::from_json(&tokenizer.to_string(), Some(&config.to_string())).expect("good");
        (tokenizer.encode("a", true).expect("encodes"), tokenizer.encode("a", false).expect("encodes"))
    };
    let roles = json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}});
    assert_eq!(ids(roles), (vec![1, 69], vec![69]));
    let class = |add_bos: bool, add_eos: bool| {
        json!({"tokenizer_class": "LlamaTokenizerFast", "bos_token": "<s>", "eos_token": "</s>",
            "add_bos_token": add_bos, "add_eos_token": add_eos})
    };
    assert_eq!(ids(class(false, true)), (vec![69, 2], vec![69]));
    assert_eq!(ids(class(true, false)), (vec![1, 69], vec![69]));
}

#[test]
fn hostile_tokenizers_are_refused() {
    let good: Json = serde_json::from_str(&read("families/llama/tokenizer.json")).expect("JSON");
    let refused = |tokenizer: &str| {
        let result = Tokenizer::from_json(tokenizer, None);
        assert!(matches!(result, Err(Error::InvalidFile { .. } | Error::Tokenizer(_))), "{result:?}");
    };
    refused("");
    refused("{}");
    refused(&"[".repeat(1_000_000));
    refused(&format!("{{\"model\":{}", "{\"a\":".repeat(100_000)));
    let changed = |change: &dyn Fn(&mut Json)| {
        let mut tokenizer = good.clone();
        change(&mut tokenizer);
        tokenizer.to_string()
    };
    refused(&changed(&|t| t["model"]["vocab"]["far"] = json!(4_000_000_000_u32)));
    refused(&changed(&|t| t["model"]["vocab"]["below"] = json!(-1)));
    refused(&changed(&|t| t["decoder"] = json!({"type": "WordPiece", "prefix": "##", "cleanup": true})));
    let split = |pattern: &str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    refused(&changed(&|t| t["pre_tokenizer"] = split("(")));
    refused(&changed(&|t| t["pre_tokenizer"] = split(&"(".repeat(10_000))));

    let slow = changed(&|t| t["pre_tokenizer"] = split("(a+)+(a+)+(a+)+!"));
    let slow = Tokenizer::from_json(&slow, None).expect("the pattern itself is valid");
    assert!(matches!(slow.encode(&"a".repeat(200), false), Err(Error::Tokenizer(_))));
}

#[test]
fn hostile_metadata_is_refused() {
    let refused = |key: &str, value: Option<Value>| {
        let mut metadata = sentencepiece();
        metadata.set(key, value);
        let result = Tokenizer::from_gguf(&metadata);
        assert!(matches!(result, Err(Error::InvalidFile { .. } | Error::Tokenizer(_))), "{key}: {result:?}");
    };
    refused("tokenizer.ggml.model", None);
    refused("tokenizer.ggml.model", Some(Value::String("wordpiece".to_owned())));
    refused("tokenizer.ggml.model", Some(Value::String("gpt2".to_owned())));
    refused("tokenizer.ggml.model", Some(Value::U32(1)));
    refused("tokenizer.ggml.tokens", None);
    refused("tokenizer.ggml.tokens", Some(Value::Array(Array::U32(vec![1]))));
    refused("tokenizer.ggml.token_type", Some(Value::Array(Array::I32(vec![1]))));
    refused("tokenizer.ggml.scores", None);
    refused("tokenizer.ggml.scores", Some(Value::Array(Array::F32(vec![1.0]))));
    refused("tokenizer.ggml.bos_token_id", Some(Value::U32(99_999)));
    refused("tokenizer.ggml.bos_token_id", Some(Value::I32(-1)));
    let mut bad_merge = sentencepiece();
    bad_merge.set("tokenizer.ggml.model", Some(Value::String("gpt2".to_owned())));
    for (merge, pre) in
        [("h e", "no-such"), ("h", "gpt-2"), ("h x", "gpt-2"), ("e h", "gpt-2"), ("", "gpt-2")]
    {
        let merges = Value::Array(Array::String(vec![merge.to_owned()]));
        bad_merge.set("tokenizer.ggml.merges", Some(merges));
        bad_merge.set("tokenizer.ggml.pre", Some(Value::String(pre.to_owned())));
        assert!(Tokenizer::from_gguf(&bad_merge).is_err(), "{merge} {pre}");
    }
}

#[test]
fn named_cuts_are_those_of_the_published_tokenizers() {
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};
    let check = |name: &str, text: &str, expected: &[&str]| {
        let mut cut = PreTokenizedString::from(text);
        pretokenize::Pre::by_name(name)
            .expect("known")
            .build()
            .expect("good")
            .pre_tokenize(&mut cut)
            .expect("cuts");
        let pieces = cut.get_splits(OffsetReferential::Original, OffsetType::Byte);
        let pieces: Vec<&str> = pieces.iter().map(|(_, (start, end), _)| &text[*start..*end]).collect();
        assert_eq!(pieces, expected, "{name}");
    };
    check("gpt-2", "I'm 12345  ok!", &["I", "'m", " 12345", " ", " ok", "!"]);
    check("llama-bpe", "I'm 12345  ok!\n", &["I", "'m", " ", "123", "45", " ", " ok", "!\n"]);
    check("qwen2", "I'm 123  ok!\n", &["I", "'m", " ", "1", "2", "3", " ", " ok", "!\n"]);
    check("smollm", "a 12", &["a", " ", "1", "2"]);
    check("default", "a+b 1234", &["a", "+", "b", " ", "123", "4"]);
}

proptest! {
    #[test]
    fn streaming_is_decoding(ids in proptest::collection::vec(0_u32..2100, 0..40)) {
        thread_local!(static SOURCES: Vec<Tokenizer> = vec![tiny(), from_gguf("tiny-f16.gguf"),
            Tokenizer::from_gguf(&sentencepiece()).expect("good")]);
        SOURCES.with(|sources| {
            for tokenizer in sources {
                let mut decoder = tokenizer.detokenizer().decoder();
                let mut streamed: String = ids.iter().map(|&id| decoder.push(id)).collect();
                streamed.push_str(&decoder.flush());
                prop_assert_eq!(&streamed, &tokenizer.detokenizer().decode(&ids, true));
            }
            // Byte-level decoding equals the reference to the byte, for any ids.
            for skip in [true, false] {
                prop_assert_eq!(sources[0].detokenizer().decode(&ids, skip), sources[0].inner.decode(&ids, skip).expect("decodes"));
            }
            Ok(())
        })?;
    }

    #[test]
    fn any_text_comes_back(text in "\\PC{0,40}") {
        thread_local!(static TINY: Tokenizer = tiny());
        TINY.with(|tokenizer| {
            let ids = tokenizer.encode(&text, false).expect("encodes");
            prop_assert_eq!(tokenizer.detokenizer().decode(&ids, false), text);
            Ok(())
        })?;
    }
}

//! Tokenizers and chat templates.

use millm_model::{Checkpoint, TokenizerFiles};
use millm_sandbox::{Chat, ChatTemplate, Error, Language, Sandbox, Tokenizer, TooMuch};
use serde_json::{Map, Value, json};

use crate::{files, fixtures, open};

fn chat(messages: &Value) -> Chat {
    Chat {
        messages: messages.to_string(),
        tools: None,
        variables: None,
        add_generation_prompt: true,
        most_bytes: usize::MAX,
    }
}

#[test]
fn a_process_gives_what_the_libraries_give() {
    let gguf = fixtures().join("tiny-millm-gguf/tiny-Q8_0.gguf");
    for files in [files(), Checkpoint::open(&gguf).expect("a fixture").tokenizer_files()] {
        let tokenizer = Tokenizer::of(&files).expect("good");
        let template = ChatTemplate::of(&files).expect("good").expect("there");
        let language = open(files);
        assert_eq!(language.has_template(), Ok(true));
        let text = "Grüße, 12345 you! <|im_end|>";
        for add_special in [true, false] {
            let ids = language.encode(text.to_owned(), add_special).expect("encodes");
            assert_eq!(ids, tokenizer.encode(text, add_special).expect("encodes"));
            assert_eq!(language.detokenizer().decode(&ids, false), text);
        }
        let messages = json!([{"role": "user", "content": "Hello!"}]);
        let tools = json!([{"type": "function", "function": {"name": "f", "parameters": {}}}]);
        let asked = Chat { tools: Some(tools.to_string()), ..chat(&messages) };
        let rendered = template.render(&messages, Some(&tools), true, &Map::new()).expect("renders");
        assert_eq!(
            language.chat(asked).expect("renders"),
            tokenizer.encode(&rendered, false).expect("encodes")
        );
    }
}

/// Opens the tiny model's tokenizer with this chat template.
fn with_template(template: &str) -> Language {
    let files = TokenizerFiles { chat_template: Some(template.to_owned()), ..files() };
    open(files)
}

#[test]
fn templates_that_cannot_be_compiled_spoil_chatting_alone() {
    let chain = |link: &str, times: usize| format!("{{{{ {}1 }}}}", link.repeat(times));
    let mut deep: Vec<String> =
        ["1+", "-", "not ", "1 ~ ", "1 ** ", "true and "].map(|link| chain(link, 200_000)).into();
    deep.push(format!("{{{{ x{} }}}}", ".a".repeat(200_000)));
    deep.push(format!("{{{{ x{} }}}}", "[0]".repeat(200_000)));
    deep.push(format!("{{{{ x{} }}}}", "()".repeat(200_000)));
    deep.push(format!("{{{{ x{} }}}}", "|e".repeat(200_000)));
    deep.push(format!("{{% if a %}}{}{{% endif %}}", "{% elif b %}".repeat(60_000)));
    for template in deep {
        let language = with_template(&template);
        // The template is compiled or refused with a reason, and the server survives.
        if let Err(why) = language.has_template() {
            assert!(!why.is_empty(), "{}", &template[..40]);
        }
        assert!(language.encode("hi".to_owned(), false).is_ok());
    }
    let wrong = with_template("a\nb\n{% if %}");
    assert!(wrong.has_template().unwrap_err().contains("line 3"));
}

#[test]
fn what_a_template_multiplies_ends_and_the_next_conversation_works() {
    let doubling = "{% set ns = namespace(x='0123456789') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}";
    let lists = "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x | string | length }}";
    let joined = "{{ (['0123456789' * 1000] * 1000000) | join(',') | length }}";
    let replaced = "{{ ('x' * 1000000) | replace('x', 'y' * 1000000) | length }}";
    for source in [doubling, lists, joined, replaced] {
        let source = format!("{{% if messages[0].content == 'bad' %}}{source}{{% endif %}}ok");
        let language = with_template(&source);
        let bad = language.chat(chat(&json!([{"role": "user", "content": "bad"}])));
        assert!(
            matches!(bad, Err(Error::TooMuch(TooMuch::Memory(_) | TooMuch::Time(_) | TooMuch::Clock(_)))),
            "{source}: {bad:?}"
        );
        let good =
            language.chat(chat(&json!([{"role": "user", "content": "good"}]))).expect("the next works");
        assert_eq!(language.detokenizer().decode(&good, false), "ok");
    }
}

/// Returns the tiny model's files with a change in tokenizer.json.
fn changed(change: impl FnOnce(&mut Value)) -> TokenizerFiles {
    let files = files();
    let mut tokenizer: Value =
        serde_json::from_str(files.tokenizer.as_deref().expect("there")).expect("JSON");
    change(&mut tokenizer);
    TokenizerFiles { tokenizer: Some(tokenizer.to_string()), ..files }
}

/// Checks that the tokenizer exceeds a budget when it is opened, or with this text. Others still work afterwards.
fn too_much(what: &str, files: TokenizerFiles, text: &str) {
    match Language::open(&Sandbox::beside_tests(), files) {
        Err(Error::Model(error)) => assert!(!error.to_string().is_empty()),
        Err(error) => panic!("{what}: {error:?}"),
        Ok(language) => {
            let encoded = language.encode(text.to_owned(), true);
            assert!(
                matches!(encoded, Err(Error::TooMuch(_) | Error::Model(_))),
                "{what}: {:?}",
                encoded.map(|ids| ids.len())
            );
            // Some texts have nothing that the tokenizer multiplies.
            let _ = language.encode("é".to_owned(), false);
        }
    }
}

#[test]
fn tokenizers_that_multiply_end_with_a_reason() {
    let replace = json!({"type": "Replace", "pattern": {"String": "x"}, "content": "x".repeat(100)});
    let normalizers = vec![replace; 8];
    too_much(
        "replace",
        changed(|t| t["normalizer"] = json!({"type": "Sequence", "normalizers": normalizers})),
        "x",
    );

    let prepend = json!({"type": "Prepend", "prepend": "y".repeat(1 << 20)});
    let prepends = json!({"type": "Sequence", "normalizers": vec![prepend; 20]});
    too_much("prepend", changed(|t| t["normalizer"] = prepends), "x");

    let ids: Vec<u32> = vec![1; 1000];
    let piece = json!({"SpecialToken": {"id": "<s>", "type_id": 0}});
    let template = json!({
        "type": "TemplateProcessing",
        "single": vec![piece; 100_000],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": ids, "tokens": vec!["a"; 1000]}},
    });
    too_much("template", changed(|t| t["post_processor"] = template), "x");
    let charsmap = "/".repeat(40_000);
    too_much(
        "charsmap",
        changed(|t| t["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": charsmap})),
        "x",
    );
}

#[test]
fn damaged_tokenizers_are_built_or_refused() {
    let good = files().tokenizer.expect("there");
    for case in 0..60_usize {
        // A window of the text is removed, doubled or reversed.
        let at = (case * 7919) % good.len();
        let end = (at + 1 + case * 13).min(good.len());
        let (Some(head), Some(window), Some(rest)) = (good.get(..at), good.get(at..end), good.get(end..))
        else {
            continue;
        };
        let damaged = match case % 3 {
            0 => format!("{head}{rest}"),
            1 => format!("{head}{window}{window}{rest}"),
            _ => format!("{head}{}{rest}", window.chars().rev().collect::<String>()),
        };
        let files = TokenizerFiles { tokenizer: Some(damaged), ..files() };
        match Language::open(&Sandbox::beside_tests(), files) {
            Ok(language) => drop(language.encode("Hello, wörld! 12".to_owned(), true)),
            Err(Error::Model(_)) => {}
            Err(error) => panic!("case {case}: {error:?}"),
        }
    }
}

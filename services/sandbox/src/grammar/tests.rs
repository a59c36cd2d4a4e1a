//! Answers follow their grammar, and grammars that cannot be satisfied are refused with a reason.

use super::*;

/// A token for each byte, and one that ends an answer.
fn bytes() -> Vocabulary {
    let tokens = (0..=255_u8).map(|byte| vec![byte]).chain([b"</s>".to_vec()]).collect();
    Vocabulary::new(tokens, &[], &[256]).unwrap()
}

/// Chooses the first allowed token, until none is allowed.
fn first_answer(grammar: &Grammar) -> String {
    let mut matcher = bytes().compile(grammar).unwrap();
    let mut answer = Vec::new();
    loop {
        let allowed = |id: &u32| matcher.mask()[*id as usize / 32] >> (id % 32) & 1 == 1;
        let id = (0..257).find(allowed).expect("something may come");
        if id == 256 {
            return String::from_utf8(answer).unwrap();
        }
        answer.push(id as u8);
        if matcher.accept(id).unwrap() {
            return String::from_utf8(answer).unwrap();
        }
        matcher.prepare().unwrap();
    }
}

#[test]
fn what_is_allowed_is_said() {
    let check = |grammar: Grammar, answer: &str| assert_eq!(first_answer(&grammar), answer);
    check(Grammar::Regex("b[0-9]c|bb".to_owned()), "b0c");
    check(Grammar::Lark("start: \"no\" | \"maybe\"".to_owned()), "maybe");
    let schema = r#"{"enum": ["cat", 7]}"#;
    check(Grammar::JsonSchema(schema.to_owned()), "\"cat\"");
}

#[test]
fn a_copy_goes_its_own_way() {
    let mut one = bytes().compile(&Grammar::Regex("ab|cd".to_owned())).unwrap();
    let mut other = one.clone();
    one.accept(u32::from(b'a')).unwrap();
    other.accept(u32::from(b'c')).unwrap();
    assert!(one.accept(u32::from(b'b')).unwrap() && other.accept(u32::from(b'd')).unwrap());
}

#[test]
fn what_cannot_be_held_is_refused() {
    let vocabulary = bytes();
    let refused = |grammar: Grammar| vocabulary.compile(&grammar).map(drop).unwrap_err().0;
    let schema = |text: &str| Grammar::JsonSchema(text.to_string());
    let regex = |text: &str| Grammar::Regex(text.to_string());
    assert_eq!(refused(schema(&" ".repeat(1 << 20))), "1048576 bytes are over the limit of 262144");
    assert!(refused(schema("{")).starts_with("not JSON"));
    assert!(refused(schema(&"[".repeat(100_000))).starts_with("nests deeper than 127 levels"));
    for invalid in [
        schema("7"),
        schema("false"),
        schema(r#"{"type": "alien"}"#),
        schema(r#"{"type": "string", "pattern": "("}"#),
        schema(r##"{"$ref": "#/nowhere"}"##),
        schema(r#"{"$ref": "http://127.0.0.1:1/x.json"}"#),
        schema(r#"{"type": "integer", "minimum": 5, "maximum": 2}"#),
        regex("("),
        regex("(?=a)b"),
        Grammar::Lark(String::new()),
        Grammar::Lark("start: nowhere".to_string()),
        Grammar::Lark("root ::= \"a\"".to_string()),
    ] {
        let why = refused(invalid);
        assert!(!why.is_empty() && why.len() < 1000 && !why.contains('\n'), "{why}");
    }
}

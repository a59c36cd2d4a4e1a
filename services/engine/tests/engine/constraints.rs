//! Answers that must look like something do, whatever the model would rather say.

use std::sync::LazyLock;

use millm_engine::{Constraint, ConstraintError, EndReason, Engine, Grammar, Request, Sampling, Vocabulary};
use millm_model::Tokenizer;
use serde::Deserialize;

use crate::fixtures::{Answer, answer, checkpoint, engine, greedy, options, start};

const SCHEMA: &str = r##"{
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "kind": {"enum": ["cat", "dog", null]},
        "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "minItems": 1, "maxItems": 2},
        "home": {
            "type": "object",
            "properties": {
                "street": {"type": "string", "pattern": "^[A-Z][a-z]{2,6}$"},
                "warm": {"type": "boolean"},
                "rooms": {"type": "array", "items": {"type": "number"}, "maxItems": 2}
            },
            "required": ["street", "warm"],
            "additionalProperties": false
        }
    },
    "required": ["name", "age", "kind", "tags", "home"],
    "additionalProperties": false,
    "$defs": {"tag": {"enum": ["big", "small", "loud"]}}
}"##;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pet {
    name: String,
    age: u32,
    #[serde(rename = "kind")]
    _kind: Option<Kind>,
    tags: Vec<Tag>,
    home: Home,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Cat,
    Dog,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Tag {
    Big,
    Small,
    Loud,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Home {
    street: String,
    #[serde(rename = "warm")]
    _warm: bool,
    #[serde(default)]
    rooms: Vec<f64>,
}

impl Pet {
    /// What types do not say.
    fn is_valid(&self) -> bool {
        let street = self.home.street.as_bytes();
        (1..=8).contains(&self.name.chars().count())
            && self.age <= 120
            && (1..=2).contains(&self.tags.len())
            && self.home.rooms.len() <= 2
            && (3..=7).contains(&street.len())
            && street[0].is_ascii_uppercase()
            && street[1..].iter().all(u8::is_ascii_lowercase)
    }
}

struct Speech {
    tokenizer: Tokenizer,
    vocabulary: Vocabulary,
    eos: Vec<u32>,
}

static SPEECH: LazyLock<Speech> = LazyLock::new(|| {
    let checkpoint = checkpoint("tiny-millm");
    let tokenizer = checkpoint.tokenizer().unwrap();
    let eos = checkpoint.spec().eos_token_ids.clone();
    let tokens = (0..checkpoint.spec().vocabulary_size as u32).map(|id| tokenizer.token_bytes(id)).collect();
    let vocabulary = Vocabulary::new(tokens, tokenizer.special_ids(), &eos).unwrap();
    Speech { tokenizer, vocabulary, eos }
});

fn constraint(grammar: &Grammar) -> Result<Constraint, ConstraintError> {
    SPEECH.vocabulary.constraint(grammar)
}

fn request(grammar: &Grammar, seed: u64) -> Request {
    let sampling = Sampling { temperature: 1.0, seed: Some(seed), ..Sampling::default() };
    let prompt = SPEECH.tokenizer.encode("Describe a pet of yours.", true).unwrap();
    let constraint = Some(constraint(grammar).unwrap());
    Request { sampling, constraint, stop_token_ids: SPEECH.eos.clone(), ..greedy(&prompt, 400) }
}

fn text(answer: &Answer) -> String {
    let ids: Vec<u32> = answer.tokens.iter().map(|token| token.id).collect();
    SPEECH.tokenizer.decode(&ids, true)
}

fn is_whole(answer: &Answer) -> bool {
    matches!(answer.reason, EndReason::Eos(_) | EndReason::Complete)
}

#[test]
fn a_hundred_answers_are_valid() {
    let engine = engine("tiny-millm", &options());
    let grammar = Grammar::JsonSchema(SCHEMA.to_string());
    let requests =
        || (0..100).map(|seed| Request { speculate: (seed % 3) as usize, ..request(&grammar, seed) });
    for requests in requests().collect::<Vec<_>>().chunks(50) {
        let running: Vec<_> = requests.iter().map(|request| start(&engine, request.clone())).collect();
        for answer in running.iter().map(Answer::gather) {
            let text = text(&answer);
            assert!(is_whole(&answer), "{:?}: {text}", answer.reason);
            let pet: Pet = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
            assert!(pet.is_valid(), "{text}");
        }
    }
}

#[test]
fn a_constrained_answer_among_others_is_the_one_alone() {
    let engine = engine("tiny-millm", &options());
    let grammar = Grammar::JsonSchema(SCHEMA.to_string());
    let alone: Vec<_> = (0..4).map(|seed| answer(&engine, request(&grammar, seed)).ids()).collect();
    let guessing = |seed| Request { speculate: 6, ..request(&grammar, seed) };
    let running: Vec<_> = (0..4).map(|seed| start(&engine, guessing(seed))).collect();
    let free = start(&engine, greedy(&[1, 285, 201], 40));
    let together: Vec<_> = running.iter().map(|events| Answer::gather(events).ids()).collect();
    assert_eq!(together, alone);
    assert_eq!(Answer::gather(&free).ids(), answer(&engine, greedy(&[1, 285, 201], 40)).ids());
}

fn says(engine: &Engine, grammar: &Grammar, max_tokens: usize) -> (String, Answer) {
    let answer = answer(engine, Request { max_tokens: Some(max_tokens), ..request(grammar, 1) });
    (text(&answer), answer)
}

#[test]
fn regular_expressions_and_grammars_hold() {
    let engine = engine("tiny-millm", &options());
    let (date, answer) = says(&engine, &Grammar::Regex(r"20\d\d-[01]\d-\d\d".to_string()), 50);
    let digits = |at: std::ops::Range<usize>| date.as_bytes()[at].iter().all(u8::is_ascii_digit);
    assert!(is_whole(&answer) && date.len() == 10 && digits(0..4) && digits(5..7) && digits(8..10), "{date}");
    assert!(date.starts_with("20") && &date[4..5] == "-" && &date[7..8] == "-", "{date}");

    let sums = "start: NUMBER (\" + \" NUMBER)+ \" = \" NUMBER\nNUMBER: /[0-9]{1,2}/";
    let (sum, answer) = says(&engine, &Grammar::Lark(sums.to_string()), 400);
    let whole = is_whole(&answer);
    assert!(!whole || sum.contains(" + ") && sum.contains(" = "), "{sum}");
    assert!(sum.chars().all(|c| c.is_ascii_digit() || " +=".contains(c)), "{sum}");

    // The choice is the model's, the words are not.
    let (word, answer) = says(&engine, &Grammar::Lark("start: \"Löwe\" | \"Tiger\"".to_string()), 50);
    assert!(is_whole(&answer) && ["Löwe", "Tiger"].contains(&word.as_str()), "{word}");
}

#[test]
fn what_is_cut_short_says_so() {
    let engine = engine("tiny-millm", &options());
    let (text, answer) = says(&engine, &Grammar::JsonSchema(SCHEMA.to_string()), 3);
    assert_eq!((answer.reason, answer.generated), (EndReason::Length, 3));
    assert!(text.starts_with('{') && serde_json::from_str::<serde_json::Value>(&text).is_err());
}

#[test]
fn an_end_token_is_not_needed_where_nothing_can_follow() {
    let engine = engine("tiny-millm", &options());
    let grammar = Grammar::Regex("yes|no".to_string());
    let answer = answer(&engine, Request { ignore_eos: true, ..request(&grammar, 1) });
    assert_eq!(answer.reason, EndReason::Complete);
    assert!(["yes", "no"].contains(&text(&answer).as_str()));
}

#[test]
fn what_cannot_be_held_is_refused() {
    let refused = |grammar: Grammar| constraint(&grammar).unwrap_err();
    let schema = |text: &str| Grammar::JsonSchema(text.to_string());
    let regex = |text: &str| Grammar::Regex(text.to_string());
    assert_eq!(refused(schema(&" ".repeat(1 << 20))), ConstraintError::TooLong { bytes: 1 << 20 });
    assert!(matches!(refused(schema("{")), ConstraintError::NotJson(_)));
    assert!(matches!(refused(schema(&"[".repeat(100_000))), ConstraintError::NotJson(_)));
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
        let error = refused(invalid.clone());
        let ConstraintError::Invalid(why) = &error else { panic!("{invalid:?}: {error:?}") };
        assert!(!why.is_empty() && why.len() < 1000 && !why.contains('\n'), "{why}");
    }
}

#[test]
fn what_ruins_others_is_held_or_refused() {
    let engine = engine("tiny-millm", &options());
    let nested = format!("{}a{}", "(".repeat(200), "*)".repeat(200));
    let alternatives = (0..3000).map(|n| format!("w{n}x*")).collect::<Vec<_>>().join("|");
    for regex in [
        r"(a*)*b".to_string(),
        r"(a|a)*$".to_string(),
        r"(x+x+)+y".to_string(),
        r"(.*.*)*=(.*.*)*".to_string(),
        r"([a-z]+)*[0-9]([a-z]+)*[0-9]([a-z]+)*!".to_string(),
        r"(a|ab|abc|b|bc|c){1,500}z".to_string(),
        r"(.*a.{40})".to_string(),
        r"(((a{1,999}){1,999}){1,999}){1,999}".to_string(),
        nested,
        alternatives,
    ] {
        let Ok(constraint) = constraint(&Grammar::Regex(regex.clone())) else { continue };
        let request =
            Request { constraint: Some(constraint), ..request(&Grammar::Regex("a".to_string()), 3) };
        let answer = answer(&engine, Request { max_tokens: Some(30), ..request });
        assert!(!matches!(answer.reason, EndReason::Failed(_)), "{regex}: {:?}", answer.reason);
    }
}

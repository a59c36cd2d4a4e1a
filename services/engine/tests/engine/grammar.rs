//! Constrained decoding: answers follow their grammar, whatever the model prefers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use millm_engine::{
    AllowedTokens, Constraint, ConstraintError, EndReason, Engine, EngineOptions, Event, Request,
    SamplingParams, Sink,
};
use millm_sandbox::Tokenizer;
use millm_sandbox::grammar::{Grammar, Matcher, Vocabulary};
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
    /// Checks what the types do not.
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

struct Text {
    tokenizer: Tokenizer,
    vocabulary: Vocabulary,
    eos: Vec<u32>,
}

static TEXT: LazyLock<Text> = LazyLock::new(|| {
    let checkpoint = checkpoint("tiny-millm");
    let tokenizer = Tokenizer::of(&checkpoint.tokenizer_files()).unwrap();
    let detokenizer = tokenizer.detokenizer();
    let eos = checkpoint.spec().eos_token_ids.clone();
    let tokens = (0..checkpoint.spec().vocabulary_size as u32)
        .map(|id| detokenizer.token_bytes(id).to_vec())
        .collect();
    let vocabulary = Vocabulary::new(tokens, detokenizer.special_ids(), &eos).unwrap();
    Text { tokenizer, vocabulary, eos }
});

/// A constraint that is computed at once, or only when it has been asked a number of times.
struct Local {
    matcher: Matcher,
    complete: bool,
    /// The number of times, after each token, that it answers that it is not ready.
    lag: usize,
    remaining_lag: usize,
    /// Returned instead of the allowed tokens.
    fails: Option<ConstraintError>,
}

impl Local {
    fn new(grammar: &Grammar, lag: usize) -> Self {
        let matcher = TEXT.vocabulary.compile(grammar).unwrap();
        Self { matcher, complete: false, lag, remaining_lag: lag, fails: None }
    }

    fn lags(&mut self) -> bool {
        self.remaining_lag = self.remaining_lag.saturating_sub(1);
        self.remaining_lag > 0
    }
}

impl Constraint for Local {
    fn allowed_tokens(&mut self, _: Duration) -> Result<AllowedTokens<'_>, ConstraintError> {
        if self.lags() {
            return Ok(AllowedTokens::Pending);
        }
        if let Some(error) = &self.fails {
            return Err(error.clone());
        }
        Ok(if self.complete { AllowedTokens::Complete } else { AllowedTokens::Mask(self.matcher.mask()) })
    }

    fn is_complete(&mut self, _: Duration) -> Result<Option<bool>, ConstraintError> {
        Ok(if self.lags() { None } else { Some(self.complete) })
    }

    fn accept(&mut self, token: u32) -> Result<(), ConstraintError> {
        let invalid = |error: millm_sandbox::GrammarError| ConstraintError::Invalid(error.0);
        self.remaining_lag = self.lag;
        self.complete = self.matcher.accept(token).map_err(invalid)?;
        self.matcher.prepare().map_err(invalid)
    }
}

fn request(grammar: &Grammar, seed: u64) -> Request {
    lagging(grammar, seed, 0)
}

fn lagging(grammar: &Grammar, seed: u64, lag: usize) -> Request {
    let sampling = SamplingParams { temperature: 1.0, seed: Some(seed), ..SamplingParams::default() };
    let prompt = TEXT.tokenizer.encode("Describe a pet of yours.", true).unwrap();
    let constraint: Option<Box<dyn Constraint>> = Some(Box::new(Local::new(grammar, lag)));
    Request { sampling, constraint, stop_token_ids: TEXT.eos.clone(), ..greedy(&prompt, 400) }
}

fn text(answer: &Answer) -> String {
    let ids: Vec<u32> = answer.tokens.iter().map(|token| token.id).collect();
    TEXT.tokenizer.detokenizer().decode(&ids, true)
}

fn is_whole(answer: &Answer) -> bool {
    matches!(answer.reason, EndReason::Eos(_) | EndReason::Complete)
}

#[test]
fn a_hundred_answers_are_valid() {
    let engine = engine("tiny-millm", &options());
    let grammar = Grammar::JsonSchema(SCHEMA.to_string());
    for half in [0..50, 50..100] {
        let request = |seed| Request {
            max_draft_tokens: (seed % 3) as usize,
            ..lagging(&grammar, seed, seed as usize % 7)
        };
        let running: Vec<_> = half.map(|seed| start(&engine, request(seed))).collect();
        for answer in running.iter().map(Answer::gather) {
            let text = text(&answer);
            assert!(is_whole(&answer), "{:?}: {text}", answer.reason);
            let pet: Pet = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
            assert!(pet.is_valid(), "{text}");
        }
    }
}

#[test]
fn a_constrained_answer_is_the_same_alone_and_in_a_batch() {
    let engine = engine("tiny-millm", &options());
    let grammar = Grammar::JsonSchema(SCHEMA.to_string());
    let alone: Vec<_> = (0..4).map(|seed| answer(&engine, request(&grammar, seed)).ids()).collect();
    // Neither drafts nor a slow constraint changes the text.
    let drafting = |seed| Request { max_draft_tokens: 6, ..lagging(&grammar, seed, 3 * seed as usize) };
    let running: Vec<_> = (0..4).map(|seed| start(&engine, drafting(seed))).collect();
    let free = start(&engine, greedy(&[1, 285, 201], 40));
    let together: Vec<_> = running.iter().map(|events| Answer::gather(events).ids()).collect();
    assert_eq!(together, alone);
    assert_eq!(Answer::gather(&free).ids(), answer(&engine, greedy(&[1, 285, 201], 40)).ids());
}

fn generate(engine: &Engine, grammar: &Grammar, max_tokens: usize) -> (String, Answer) {
    let answer = answer(engine, Request { max_tokens: Some(max_tokens), ..request(grammar, 1) });
    (text(&answer), answer)
}

#[test]
fn regular_expressions_and_lark_grammars_hold() {
    let engine = engine("tiny-millm", &options());
    let (date, answer) = generate(&engine, &Grammar::Regex(r"20\d\d-[01]\d-\d\d".to_string()), 50);
    let digits = |at: std::ops::Range<usize>| date.as_bytes()[at].iter().all(u8::is_ascii_digit);
    assert!(is_whole(&answer) && date.len() == 10 && digits(0..4) && digits(5..7) && digits(8..10), "{date}");
    assert!(date.starts_with("20") && &date[4..5] == "-" && &date[7..8] == "-", "{date}");

    let sums = "start: NUMBER (\" + \" NUMBER)+ \" = \" NUMBER\nNUMBER: /[0-9]{1,2}/";
    let (sum, answer) = generate(&engine, &Grammar::Lark(sums.to_string()), 400);
    let whole = is_whole(&answer);
    assert!(!whole || sum.contains(" + ") && sum.contains(" = "), "{sum}");
    assert!(sum.chars().all(|c| c.is_ascii_digit() || " +=".contains(c)), "{sum}");

    // The model chooses among the grammar's words.
    let (word, answer) = generate(&engine, &Grammar::Lark("start: \"Löwe\" | \"Tiger\"".to_string()), 50);
    assert!(is_whole(&answer) && ["Löwe", "Tiger"].contains(&word.as_str()), "{word}");
}

#[test]
fn a_truncated_answer_ends_with_length() {
    let engine = engine("tiny-millm", &options());
    let (text, answer) = generate(&engine, &Grammar::JsonSchema(SCHEMA.to_string()), 3);
    assert_eq!((answer.reason, answer.generated), (EndReason::Length, 3));
    assert!(text.starts_with('{') && serde_json::from_str::<serde_json::Value>(&text).is_err());
}

#[test]
fn no_end_token_is_needed_if_no_token_can_follow() {
    let engine = engine("tiny-millm", &options());
    let grammar = Grammar::Regex("yes|no".to_string());
    let answer = answer(&engine, Request { ignore_eos: true, ..request(&grammar, 1) });
    assert_eq!(answer.reason, EndReason::Complete);
    assert!(["yes", "no"].contains(&text(&answer).as_str()));
}

/// A receiver that can disconnect.
struct Leaving(Sender<Event>, Arc<AtomicBool>);

impl Sink for Leaving {
    fn send(&mut self, event: Event) -> bool {
        self.0.send(event).is_ok()
    }

    fn closed(&self) -> bool {
        self.1.load(Ordering::Relaxed)
    }
}

#[test]
fn a_pending_constraint_delays_no_other_request() {
    let engine = engine("tiny-millm", &options());
    let grammar = Grammar::Regex("[a-z]{200}".to_string());
    // It never returns the allowed tokens.
    let (sender, stuck) = channel();
    let is_gone = Arc::new(AtomicBool::new(false));
    let sink = Leaving(sender, Arc::clone(&is_gone));
    engine.submit(lagging(&grammar, 1, usize::MAX), Box::new(sink)).unwrap();
    assert!(matches!(stuck.recv().unwrap(), Event::Started { .. }));
    let alone = answer(&engine, greedy(&[1, 285, 201], 40));
    let ids = |answer: Answer| answer.ids();
    let beside: Vec<_> = (0..3).map(|_| start(&engine, greedy(&[1, 285, 201], 40))).collect();
    for answer in &beside {
        assert_eq!(Answer::gather(answer).ids(), alone.ids());
    }
    assert_eq!(engine.stats().running, 1);
    // Its receiver disconnects, and its slot is free.
    is_gone.store(true, Ordering::Relaxed);
    assert!(stuck.recv().is_err(), "its sink is dropped");
    assert_eq!(ids(answer(&engine, greedy(&[1, 285, 201], 40))), ids(alone));
    assert_eq!(engine.stats().running, 0);
}

#[test]
fn a_slow_constraint_ends_answers_as_a_fast_one() {
    let engine = engine("tiny-millm", &options());
    let yes = Grammar::Regex("yes|no".to_string());
    for lag in [0, 2, 5] {
        let complete = answer(&engine, Request { ignore_eos: true, ..lagging(&yes, 1, lag) });
        assert_eq!(complete.reason, EndReason::Complete, "{lag}");
        let length = complete.generated;
        // The last allowed token completes it, or does not.
        let whole = Request { ignore_eos: true, max_tokens: Some(length), ..lagging(&yes, 1, lag) };
        assert_eq!(answer(&engine, whole).reason, EndReason::Complete, "{lag}");
        let long = Grammar::Regex("[a-z]{200}".to_string());
        let cut = Request { max_tokens: Some(3), ..lagging(&long, 1, lag) };
        let cut = answer(&engine, cut);
        assert_eq!((cut.reason, cut.generated), (EndReason::Length, 3), "{lag}");
    }
}

#[test]
fn slow_constraints_survive_preemption() {
    // Blocks for little more than one answer: the youngest are preempted again and again.
    let options = EngineOptions { context_length: Some(250), kv_tokens: Some(288), ..options() };
    let engine = engine("tiny-millm", &options);
    let grammar = Grammar::Regex("[a-z]{300,310}".to_string());
    let alone: Vec<_> = (0..6).map(|seed| answer(&engine, request(&grammar, seed)).ids()).collect();
    let running: Vec<_> =
        (0..6).map(|seed| start(&engine, lagging(&grammar, seed, 1 + seed as usize))).collect();
    let together: Vec<_> = running.iter().map(|events| Answer::gather(events).ids()).collect();
    assert_eq!(together, alone);
    assert!(engine.stats().preemptions > 0, "{:?}", engine.stats());
}

#[test]
fn a_constraint_that_fails_ends_its_answer_alone() {
    let engine = engine("tiny-millm", &options());
    let grammar = Grammar::Regex("[a-z]{200}".to_string());
    let failing = |error: ConstraintError| {
        let local = Local { fails: Some(error), ..Local::new(&grammar, 2) };
        Request { constraint: Some(Box::new(local)), ..request(&grammar, 1) }
    };
    let beside = start(&engine, request(&grammar, 2));
    let invalid = answer(&engine, failing(ConstraintError::Invalid("too much".to_string())));
    assert_eq!(invalid.reason, EndReason::Unsatisfiable("too much".to_string()));
    let lost = answer(&engine, failing(ConstraintError::Unavailable("gone".to_string())));
    assert_eq!(lost.reason, EndReason::ConstraintUnavailable("gone".to_string()));
    assert_eq!(text(&Answer::gather(&beside)).len(), 200);
}

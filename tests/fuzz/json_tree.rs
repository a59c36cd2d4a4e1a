//! Mutations of JSON that keep it JSON: parts are swapped, wrapped and repeated, and numbers are moved to extremes.

use serde_json::{Map, Value};

use crate::harness::Rng;

/// Extreme numbers, as JSON.
const NUMBERS: [&str; 16] = [
    "0",
    "-1",
    "1",
    "255",
    "65536",
    "2147483648",
    "4294967295",
    "9007199254740993",
    "-9007199254740993",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551615",
    "1e300",
    "-1e300",
    "1e-17",
    "0.1",
];

/// Keys under which a schema, a tokenizer or a request has parts of its own kind.
const WRAPPERS: [&str; 10] = [
    "items",
    "not",
    "additionalProperties",
    "anyOf[]",
    "allOf[]",
    "oneOf[]",
    "properties{}",
    "normalizers[]",
    "pretokenizers[]",
    "[]",
];

/// Returns `text` with one to three mutations, or `None` if it is not JSON. `other` is a source of parts.
pub fn mutated(rng: &mut Rng, text: &[u8], other: &[u8]) -> Option<Vec<u8>> {
    let mut value: Value = serde_json::from_slice(text).ok()?;
    let other: Value = serde_json::from_slice(other).unwrap_or(Value::Null);
    for _ in 0..=rng.below(3) {
        let n = below(rng, count(&value));
        change(rng, nth(&mut value, n), &other);
    }
    Some(value.to_string().into_bytes())
}

fn below(rng: &mut Rng, end: usize) -> usize {
    rng.below(end as u64) as usize
}

/// Returns the number of parts, including the whole.
fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(members) => members.values().map(count).sum(),
        _ => 0,
    }
}

/// Returns the n-th part; the whole comes first.
fn nth(value: &mut Value, n: usize) -> &mut Value {
    if n == 0 {
        return value;
    }
    let mut left = n - 1;
    let parts: Vec<&mut Value> = match value {
        Value::Array(items) => items.iter_mut().collect(),
        Value::Object(members) => members.values_mut().collect(),
        _ => Vec::new(),
    };
    for part in parts {
        let size = count(part);
        if left < size {
            return nth(part, left);
        }
        left -= size;
    }
    unreachable!("n is below the count")
}

fn change(rng: &mut Rng, part: &mut Value, other: &Value) {
    match below(rng, 8) {
        0 | 1 => {
            let mut lender = other.clone();
            let n = below(rng, count(&lender));
            *part = nth(&mut lender, n).take();
        }
        2 => wrap(rng, part),
        3 => repeat(rng, part),
        4 => rename(rng, part, other),
        _ => vary(rng, part),
    }
}

/// Wraps a part in its own kind, up to sixty times. JSON readers refuse much deeper nesting.
fn wrap(rng: &mut Rng, part: &mut Value) {
    let wrapper = WRAPPERS[below(rng, WRAPPERS.len())];
    for _ in 0..[1, 3, 30, 60][below(rng, 4)] {
        let inner = part.take();
        *part = match wrapper.split_once(['[', '{']) {
            Some(("", _)) => Value::Array(vec![inner]),
            Some((key, "]")) => object(key, Value::Array(vec![inner])),
            Some((key, _)) => object(key, object("a", inner)),
            None => object(wrapper, inner),
        };
    }
}

fn object(key: &str, value: Value) -> Value {
    Value::Object(Map::from_iter([(key.to_owned(), value)]))
}

/// Repeats items, members or letters.
fn repeat(rng: &mut Rng, part: &mut Value) {
    let most = [3, 30, 300, 3_000][below(rng, 4)];
    let times = 1 + below(rng, most);
    match part {
        Value::Array(items) => {
            if let Some(last) = items.last().cloned() {
                items.extend(std::iter::repeat_n(last, times));
            }
        }
        Value::Object(members) => {
            if let Some(value) = members.values().next().cloned() {
                members.extend((0..times).map(|n| (format!("a{n}"), value.clone())));
            }
        }
        Value::String(text) => *text = text.repeat(times.min(20_000 / (text.len() + 1) + 1)),
        _ => *part = Value::Array(vec![part.clone(); times]),
    }
}

/// Gives a member the name of another.
fn rename(rng: &mut Rng, part: &mut Value, other: &Value) {
    let (Value::Object(members), Value::Object(names)) = (part, other) else { return };
    if members.is_empty() || names.is_empty() {
        return;
    }
    let (at, from) = (below(rng, members.len()), below(rng, names.len()));
    let key = members.keys().nth(at).cloned().unwrap_or_default();
    let name = names.keys().nth(from).cloned().unwrap_or_default();
    if let Some(value) = members.remove(&key) {
        members.insert(name, value);
    }
}

/// Replaces a value by another of the same kind.
fn vary(rng: &mut Rng, part: &mut Value) {
    const WORDS: [&str; 12] = [
        "",
        "a",
        "integer",
        "number",
        "string",
        "array",
        "object",
        "null",
        "(a|b)*a(a|b){9}",
        "#",
        "#/$defs/a",
        "\u{0}é",
    ];
    *part = match part {
        Value::Number(_) => serde_json::from_str(NUMBERS[below(rng, NUMBERS.len())]).expect("numbers"),
        Value::String(_) => Value::from(WORDS[below(rng, WORDS.len())]),
        Value::Bool(is) => Value::Bool(!*is),
        Value::Array(items) if !items.is_empty() => {
            let at = below(rng, items.len());
            let taken = items.remove(at);
            return items.insert(0, taken);
        }
        Value::Object(members) if !members.is_empty() => {
            let at = below(rng, members.len());
            let key = members.keys().nth(at).cloned().unwrap_or_default();
            members.remove(&key);
            return;
        }
        _ => Value::Null,
    };
}

#[test]
fn json_stays_json_and_changes() {
    let mut rng = Rng::new(1);
    let (text, other) = (br#"{"a": [1, {"b": "x"}], "c": true}"#, br#"{"type": "integer", "minimum": 5}"#);
    let mut made = std::collections::BTreeSet::new();
    for _ in 0..500 {
        let changed = mutated(&mut rng, text, other).expect("it is JSON");
        serde_json::from_slice::<Value>(&changed).expect("it still is");
        made.insert(changed);
    }
    assert!(made.len() > 300, "{} different ones", made.len());
    let has = |word: &str| made.iter().any(|text| String::from_utf8_lossy(text).contains(word));
    assert!(has("minimum") && has("-9223372036854775808") && has("[[["));
    assert_eq!(mutated(&mut rng, b"{", other), None);
}

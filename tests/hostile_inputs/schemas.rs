//! JSON schemas that are too much.

use serde_json::{Map, Value, json};

use super::Named;

/// Returns schemas, each of which is the constraint of one request.
pub fn all() -> Vec<Named<Value>> {
    let mut all = numbers();
    all.extend(chains());
    all.extend(patterns());
    all.extend(sizes());
    all
}

/// Returns schemas with extreme integers, and with multiples that are long.
pub fn numbers() -> Vec<Named<Value>> {
    let (least, most) = (i64::MIN, i64::MAX);
    vec![
        ("minimum and maximum at -2^63", json!({"type": "integer", "minimum": least, "maximum": least})),
        ("all of 64 bits", json!({"type": "integer", "minimum": least, "maximum": most})),
        ("exclusive bounds at -2^63", json!({"type": "integer", "exclusiveMinimum": least, "maximum": 0})),
        ("minimum at 2^63", json!({"type": "integer", "minimum": 9_223_372_036_854_775_808_u64})),
        ("minimum at 2^64 - 1", json!({"type": "integer", "minimum": u64::MAX, "maximum": u64::MAX})),
        ("bounds as floats beyond 64 bits", json!({"type": "integer", "minimum": -1e300, "maximum": 1e300})),
        ("a tiny number's bounds", json!({"type": "number", "minimum": 1e-300, "maximum": 2e-300})),
        ("multipleOf 100000007", json!({"type": "integer", "multipleOf": 100_000_007})),
        ("multipleOf 2^61 - 1", json!({"type": "integer", "multipleOf": 2_305_843_009_213_693_951_i64})),
        ("a fraction's multiples", json!({"type": "number", "multipleOf": 1e-17})),
        (
            "two multiples",
            json!({"type": "integer", "allOf": [{"multipleOf": 99_991}, {"multipleOf": 99_989}]}),
        ),
    ]
}

/// Returns chains of definitions, each of which refers to the next.
pub fn chains() -> Vec<Named<Value>> {
    vec![
        ("650 $refs", chain(650, |next| next)),
        ("4000 $refs", chain(4_000, |next| next)),
        (
            "227 $refs through properties",
            chain(227, |next| json!({"type": "object", "properties": {"a": next}})),
        ),
        (
            "1500 required properties",
            chain(1500, |next| json!({"type": "object", "properties": {"a": next}, "required": ["a"]})),
        ),
        ("1000 $refs through anyOf", chain(1000, |next| json!({"anyOf": [next, {"type": "null"}]}))),
        ("1000 $refs through oneOf", chain(1000, |next| json!({"oneOf": [next]}))),
        ("1000 $refs through allOf", chain(1000, |next| json!({"allOf": [next]}))),
        ("2000 $refs through items", chain(2000, |next| json!({"type": "array", "items": next}))),
        (
            "1000 $refs through prefixItems",
            chain(1000, |next| json!({"type": "array", "prefixItems": [next]})),
        ),
        (
            "1000 $refs through additionalProperties",
            chain(1000, |next| json!({"type": "object", "additionalProperties": next})),
        ),
        ("a reference to itself", json!({"$ref": "#"})),
        (
            "a circle of two",
            json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}),
        ),
    ]
}

/// Returns `n` definitions, each of which contains a reference to the next.
pub fn chain(n: usize, link: impl Fn(Value) -> Value) -> Value {
    let mut definitions = Map::new();
    for i in 0..n {
        definitions.insert(format!("r{i}"), link(json!({"$ref": format!("#/$defs/r{}", i + 1)})));
    }
    definitions.insert(format!("r{n}"), json!({"type": "string"}));
    json!({"$ref": "#/$defs/r0", "$defs": definitions})
}

/// Returns regular expressions that must all match.
pub fn patterns() -> Vec<Named<Value>> {
    let letters = ('a'..='t').map(|letter| json!({"pattern": format!(".*{letter}.*")}));
    let letters: Vec<Value> = letters.collect();
    let lookalikes = (0..500).map(|n| (format!("^(a|b)*{n}$"), json!({"type": "integer"})));
    let lookalikes: Map<String, Value> = lookalikes.collect();
    vec![
        ("twenty patterns in allOf", json!({"type": "string", "allOf": letters})),
        ("500 patternProperties", json!({"type": "object", "patternProperties": lookalikes})),
        ("a pattern of 20000 options", json!({"type": "string", "pattern": "a?".repeat(20_000)})),
        ("a counted pattern", json!({"type": "string", "pattern": "^(a|b)*a(a|b){1000}$"})),
        ("a nested count", json!({"type": "string", "pattern": "((a{100}){100}){100}"})),
    ]
}

/// Returns large numbers of parts that are harmless alone.
pub fn sizes() -> Vec<Named<Value>> {
    let names: Vec<String> = (0..10_000).map(|n| format!("name{n}")).collect();
    let properties: Map<String, Value> =
        (0..4_000).map(|n| (format!("p{n}"), json!({"type": "integer", "minimum": n}))).collect();
    vec![
        ("an enum of 10000", json!({"enum": names})),
        ("4000 properties", json!({"type": "object", "properties": properties})),
        ("minLength of a billion", json!({"type": "string", "minLength": 1_000_000_000})),
        ("lengths of a million", json!({"type": "string", "minLength": 999_999, "maxLength": 1_000_000})),
        (
            "minItems of a million",
            json!({"type": "array", "minItems": 1_000_000, "items": {"type": "integer"}}),
        ),
        ("a string of 200 kB", json!({"const": "x".repeat(200_000)})),
        ("60 anyOf of 60", {
            let inner: Vec<Value> = (0..60).map(|n| json!({"pattern": format!("^{n}.*x.*")})).collect();
            json!({"allOf": (0..60).map(|_| json!({"anyOf": inner})).collect::<Vec<_>>()})
        }),
    ]
}

/// Returns bounds that integers distinguish and floats do not. They are followed exactly, or refused.
pub fn beyond_floats() -> Vec<(i64, i64)> {
    let edge = 1_i64 << 53;
    vec![
        (edge + 1, edge + 1),
        (-edge - 1, -edge - 1),
        (edge + 1, edge + 3),
        (i64::MAX - 1, i64::MAX - 1),
        (i64::MIN, i64::MIN),
        (i64::MIN + 1, i64::MIN + 1),
        (999_999_999_999_999_999, 999_999_999_999_999_999),
    ]
}

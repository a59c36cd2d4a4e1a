//! The stated limits of grammars. A grammar over a limit is refused with the value found and the limit. A grammar
//! within the limits may still be expensive: the sandbox's budgets bound its cost.

use serde_json::Value;

use super::Grammar;

const MAX_BYTES: usize = 256 << 10;
/// The most levels of brackets in a regular expression or a rule. serde_json allows 127 levels of JSON.
const MAX_NESTING: usize = 250;
/// Above this, an `f64` cannot represent every whole number.
const MAX_WHOLE: u64 = 1 << 53;

/// Keywords whose numbers bound an answer.
const BOUNDS: [&str; 11] = [
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
];
/// Keywords that hold values, not schemas.
const VALUES: [&str; 4] = ["const", "enum", "default", "examples"];

pub(super) fn check(grammar: &Grammar) -> Result<(), String> {
    let text = grammar.text();
    if text.len() > MAX_BYTES {
        return Err(format!("{} bytes are over the limit of {MAX_BYTES}", text.len()));
    }
    match grammar {
        Grammar::JsonSchema(schema) => {
            let schema: Value = serde_json::from_str(schema).map_err(|error| not_json(&error))?;
            schema_numbers(&schema, "#")
        }
        Grammar::Regex(regex) => nesting(regex),
        Grammar::Lark(lark) => {
            nesting(lark)?;
            embedded_schemas(lark)
        }
    }
}

fn not_json(error: &serde_json::Error) -> String {
    if error.to_string().starts_with("recursion limit") {
        return format!("nests deeper than 127 levels, which is the limit ({error})");
    }
    format!("not JSON: {error}")
}

/// Checks the numbers of a schema. Recurses as deeply as serde_json lets values nest.
fn schema_numbers(schema: &Value, path: &str) -> Result<(), String> {
    match schema {
        Value::Object(members) => {
            for (key, value) in members {
                let place = || format!("{path}/{}", key.chars().take(80).collect::<String>());
                match value {
                    Value::Number(number) if BOUNDS.contains(&key.as_str()) && !is_exact(number) => {
                        return Err(format!("{} is {number}; at most ±2^53 can be held exactly", place()));
                    }
                    _ if VALUES.contains(&key.as_str()) => {}
                    Value::Object(_) | Value::Array(_) => schema_numbers(value, &place())?,
                    _ => {}
                }
            }
            Ok(())
        }
        Value::Array(items) => items.iter().try_for_each(|item| schema_numbers(item, path)),
        _ => Ok(()),
    }
}

fn is_exact(number: &serde_json::Number) -> bool {
    match (number.as_i64(), number.as_u64()) {
        (Some(whole), _) => whole.unsigned_abs() <= MAX_WHOLE,
        (None, Some(_)) => false,
        (None, None) => number.as_f64().is_some_and(|bound| bound.abs() <= MAX_WHOLE as f64),
    }
}

/// Checks the schemas in a Lark grammar, which follow `%json`.
fn embedded_schemas(lark: &str) -> Result<(), String> {
    for (at, mark) in lark.match_indices("%json") {
        let schema = &lark[at + mark.len()..];
        // Schemas that are not JSON are left to the grammar's own parser, which names the place.
        if let Some(Ok(schema)) = serde_json::Deserializer::from_str(schema).into_iter::<Value>().next() {
            schema_numbers(&schema, "#")?;
        }
    }
    Ok(())
}

fn nesting(text: &str) -> Result<(), String> {
    let (mut depth, mut deepest, mut escaped) = (0_usize, 0, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    if deepest > MAX_NESTING {
        return Err(format!("nests {deepest} levels deep, {MAX_NESTING} are allowed"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(grammar: Grammar) -> String {
        grammar.check().map_or_else(|error| error.to_string(), |()| String::new())
    }

    #[test]
    fn numbers_beyond_exactness_are_named_with_their_place() {
        let schema = |text: &str| why(Grammar::JsonSchema(text.to_owned()));
        let found = schema(r#"{"type": "integer", "minimum": -9223372036854775808}"#);
        assert_eq!(found, "#/minimum is -9223372036854775808; at most ±2^53 can be held exactly");
        let found = schema(r#"{"properties": {"a": {"anyOf": [{"multipleOf": 1e300}]}}}"#);
        assert_eq!(found, "#/properties/a/anyOf/multipleOf is 1e+300; at most ±2^53 can be held exactly");
        for inexact in ["9007199254740993", "-9007199254740993", "18446744073709551615", "1e16"] {
            assert_ne!(schema(&format!("{{\"maximum\": {inexact}}}")), "", "{inexact}");
        }
        for fine in [
            r#"{"minimum": -9007199254740992, "maximum": 9007199254740992}"#,
            r#"{"properties": {"minimum": {"type": "string"}}}"#,
            r#"{"enum": [{"minimum": 18446744073709551615}]}"#,
        ] {
            assert_eq!(schema(fine), "", "{fine}");
        }
        let lark = "start: call\ncall: %json {\"exclusiveMaximum\": 18446744073709551615} \"x\"";
        assert!(
            why(Grammar::Lark(lark.to_owned())).starts_with("#/exclusiveMaximum is 18446744073709551615")
        );
    }

    #[test]
    fn depth_and_size_are_named() {
        let deep = "(".repeat(251) + "a" + &")".repeat(251);
        assert_eq!(why(Grammar::Regex(deep)), "nests 251 levels deep, 250 are allowed");
        assert_eq!(why(Grammar::Regex("(".repeat(250) + &")".repeat(250) + r"\(")), "");
        let schema = r#"{"not":"#.repeat(128) + "{}" + &"}".repeat(128);
        assert!(why(Grammar::JsonSchema(schema)).starts_with("nests deeper than 127 levels"));
        let long = why(Grammar::Regex("a".repeat(MAX_BYTES + 1)));
        assert_eq!(long, "262145 bytes are over the limit of 262144");
    }
}

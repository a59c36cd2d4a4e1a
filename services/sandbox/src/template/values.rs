//! Conversion of JSON into template values and back.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};
use serde_json::{Map, Number, Value as Json};

/// The deepest value that is converted. Templates can nest values without end, and JSON readers refuse deep nesting.
const MAX_DEPTH: usize = 128;

pub(super) fn from_json(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(flag) => Value::from(*flag),
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => items.iter().map(from_json).collect(),
        Json::Object(map) => {
            Value::from_pairs(map.iter().map(|(key, value)| (key.as_str(), from_json(value))))
        }
        Json::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(signed), _, _) => Value::from(signed),
            (None, Some(unsigned), _) => Value::from(unsigned),
            (None, None, float) => Value::from(float),
        },
    }
}

/// Returns about the length of a value as text.
pub(super) fn size(json: &Json) -> usize {
    match json {
        Json::String(text) => text.len() + 2,
        Json::Array(items) => items.iter().map(|item| size(item) + 1).sum::<usize>() + 2,
        Json::Object(map) => map.iter().map(|(key, item)| key.len() + size(item) + 4).sum::<usize>() + 2,
        Json::Null | Json::Bool(_) | Json::Number(_) => 8,
    }
}

pub(super) fn to_json(value: &Value) -> Result<Json, Error> {
    below(value, 0)
}

fn below(value: &Value, depth: usize) -> Result<Json, Error> {
    let unserializable =
        |what: &str| Error::new(ErrorKind::BadSerialization, format!("{what} is not JSON serializable"));
    if depth > MAX_DEPTH {
        return Err(unserializable("a value nested so deep"));
    }
    Ok(match value.kind() {
        ValueKind::None => Json::Null,
        ValueKind::Bool => Json::Bool(value.is_true()),
        ValueKind::Number => {
            Json::Number(number(value).ok_or_else(|| unserializable("a number beyond 64 bits"))?)
        }
        ValueKind::String => Json::String(value.to_string()),
        ValueKind::Seq | ValueKind::Iterable => value
            .try_iter()?
            .map(|item| below(&item, depth + 1))
            .collect::<Result<_, _>>()
            .map(Json::Array)?,
        ValueKind::Map => {
            let mut map = Map::new();
            for key in value.try_iter()? {
                let item = below(&value.get_item(&key)?, depth + 1)?;
                let key = match below(&key, depth + 1)? {
                    Json::String(text) => text,
                    key @ (Json::Null | Json::Bool(_) | Json::Number(_)) => key.to_string(),
                    _ => return Err(unserializable("a key")),
                };
                map.insert(key, item);
            }
            Json::Object(map)
        }
        other => return Err(unserializable(&other.to_string())),
    })
}

fn number(value: &Value) -> Option<Number> {
    if !value.is_integer() {
        return Number::from_f64(f64::try_from(value.clone()).ok()?);
    }
    match value.as_i64() {
        Some(signed) => Some(signed.into()),
        None => u64::try_from(value.clone()).ok().map(Number::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_survives_the_way_there_and_back() {
        let json: Json = serde_json::from_str(
            r#"{"z": [1, -2, 18446744073709551615, 1.0, 2.5e300], "a": {"b": null, "c": true}, "": "é"}"#,
        )
        .expect("JSON");
        assert_eq!(to_json(&from_json(&json)).expect("serializable").to_string(), json.to_string());
        assert!(to_json(&Value::UNDEFINED).is_err());
    }
}

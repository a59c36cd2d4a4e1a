//! Parses the JSON files beside the weights within a memory limit: `{"":0}` takes six bytes of a file and five hundred of
//! memory.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;
use serde_json::{Map, Number, Value};

use crate::error::{Error, Result};

/// The memory that the values of one file may take. The largest published ones, tokenizer_config.json files that list
/// 65,000 added tokens, take two thirds of it.
const MAX_BYTES: usize = 128 << 20;

// Bytes of memory that values take, including a list's spare capacity. The numbers follow from serde_json's types and the
// allocator's rounding.
const OBJECT: usize = 256;
const LIST: usize = 288;
const MEMBER: usize = 128;
const ELEMENT: usize = 96;
const TEXT: usize = 16;

/// Parses `text` into an object. `file` names it in messages.
///
/// # Errors
/// [`Error::InvalidFile`] where the text is not a JSON object, or its values would take more than 128 MiB of memory.
pub fn parse_object(file: &str, text: &str) -> Result<Map<String, Value>> {
    match parse(file, text)? {
        Value::Object(map) => Ok(map),
        _ => Err(Error::invalid(file, "is not a JSON object")),
    }
}

/// Parses the text of `file`. Values that would take too much memory are refused before they are made.
pub(crate) fn parse(file: &str, text: &str) -> Result<Value> {
    let left = Cell::new(MAX_BYTES);
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Bounded(&left).deserialize(&mut deserializer).and_then(|value| {
        deserializer.end()?;
        Ok(value)
    });
    value.map_err(|error| match error.classify() {
        Category::Data => Error::invalid(file, error.to_string()),
        _ => Error::invalid(file, format!("is not JSON: {error}")),
    })
}

/// A value in the making, and the bytes of memory that are left for it.
#[derive(Clone, Copy)]
struct Bounded<'a>(&'a Cell<usize>);

impl Bounded<'_> {
    fn charge<E: serde::de::Error>(self, bytes: usize) -> Result<(), E> {
        let Some(left) = self.0.get().checked_sub(bytes) else {
            let max = MAX_BYTES >> 20;
            return Err(E::custom(format!("its values take more than {max} MiB of memory")));
        };
        self.0.set(left);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
        Ok(Value::Bool(flag))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Number(number.into()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Number(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Number::from_f64(number).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Value, E> {
        self.charge(TEXT + text.len())?;
        Ok(Value::String(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(self)? {
            self.charge(if values.is_empty() { LIST } else { ELEMENT })?;
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let object = if members.is_empty() { OBJECT } else { 0 };
            self.charge(object + MEMBER + TEXT + key.len())?;
            let value = map.next_value_seed(self)?;
            members.insert(key, value);
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_within_the_limit_are_those_of_serde_json() {
        let value = json!({"a": [1, -2, 0.5, null, true, "é\n"], "b": {"": {}}, "c": [], "d": 1e300});
        assert_eq!(parse("x.json", &value.to_string()).expect("good"), value);
        assert_eq!(parse("x.json", r#"{"a":1,"a":2}"#).expect("the last counts"), json!({"a": 2}));
    }

    #[test]
    fn other_texts_are_refused() {
        let check = |text: &str, expected: &str| match parse("x.json", text) {
            Err(Error::InvalidFile { why, .. }) => assert!(why.contains(expected), "{why}"),
            other => panic!("{:.80}: {:?}", text, other.map(drop)),
        };
        check("", "is not JSON");
        check("{} x", "is not JSON");
        check(&"[".repeat(100_000), "is not JSON: recursion limit");
        for part in ["0,", "[],", "[0],", "{},", "{\"\":0},", "\"\","] {
            let text = format!("[{}0]", part.repeat((16 << 20) / part.len()));
            check(&text, "more than 128 MiB");
        }
    }
}
